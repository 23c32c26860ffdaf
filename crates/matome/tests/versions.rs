//! Sources with a key on the real binary: versions in SQL and over the API.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{homes, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_a_key_is_a_table_of_newest_versions_and_one_of_all() {
    for home in homes().await {
        let server = home.serve().await;
        let file = home.files().join("stock.ndjson");
        write(&file, "{\"id\":1,\"n\":10}\n{\"id\":2,\"n\":20}\n");
        let stock = server.source("stock", "file", json!({ "path": "stock.ndjson", "key": "id" })).await;
        server.run("acquisition", stock).await;
        write(&file, "{\"id\":1,\"n\":11}\n{\"id\":2,\"n\":20}\n{\"id\":3,\"n\":30}\n");
        let task = server.run("acquisition", stock).await;
        assert_eq!((&task["result"]["stored"], &task["result"]["updated"]), (&json!(2), &json!(1)), "{task}");

        let rows = async |name: &str, sql: &str| -> Vec<Value> {
            let id = server.aggregation(name, sql).await;
            server.run("aggregation", id).await;
            let rows = server.all(&format!("/api/aggregation/data/?source={id}")).await;
            rows.into_iter().map(|row| row["data"].clone()).collect()
        };
        let newest = rows("newest", "select id, n, _version as v, length(_key) as k from stock order by id").await;
        assert_eq!(
            newest,
            [
                json!({"id": 1, "n": 11, "v": 2, "k": 32}),
                json!({"id": 2, "n": 20, "v": 1, "k": 32}),
                json!({"id": 3, "n": 30, "v": 1, "k": 32})
            ],
            "{}",
            home.name
        );
        let sql =
            "select id, count(*) as versions, count(distinct _key) as keys from stock__history group by id order by id";
        let all = rows("all", sql).await;
        assert_eq!(
            all,
            [
                json!({"id": 1, "versions": 2, "keys": 1}),
                json!({"id": 2, "versions": 1, "keys": 1}),
                json!({"id": 3, "versions": 1, "keys": 1})
            ],
            "{}",
            home.name
        );

        // Without a key there is no history, and records are what they are.
        let plain = server.source("plain", "file", json!({ "path": "stock.ndjson" })).await;
        server.run("acquisition", plain).await;
        let rows = rows("plain rows", "select count(*) as n, count(_key) as keys, max(_version) as v from plain").await;
        assert_eq!(rows, [json!({"n": 3, "keys": 0, "v": 1})], "{}", home.name);
        let id = server.aggregation("none", "select * from plain__history").await;
        let task = server.start("aggregation", id).await;
        let task = server.ended(&task).await;
        assert_eq!((&task["status"], &task["error"]["reason"]), (&json!("failed"), &json!("unknown_table")), "{task}");
    }
}
