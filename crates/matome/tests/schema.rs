//! `matome source test` and `matome source schema` on the real binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{homes, write};

const ROWS: &str = "{\"id\":1,\"a\":\"x\"}\n{\"id\":1,\"a\":\"x\"}\n{\"id\":2,\"a\":\"y\"}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_test_shows_as_many_records_as_asked_for_and_what_comes_twice() {
    for home in homes().await {
        write(&home.files().join("rows.ndjson"), ROWS);
        let server = home.serve().await;
        server.source("rows", "file", json!({ "path": "rows.ndjson" })).await;
        let ask = |args: &[&str]| -> Value {
            let client = ["--server", &server.base, "--token", &server.token, "-o", "json"];
            serde_json::from_str(&home.ok(&[&["source", "test", "rows"], args, &client].concat())).unwrap()
        };
        let two = ask(&["--records", "2"]);
        assert_eq!(two["records"].as_array().unwrap().len(), 2, "{two}");
        assert_eq!((&two["complete"], two["duplicates"].as_array().unwrap().len()), (&json!(false), 1), "{two}");
        let all = ask(&[]);
        assert_eq!((&all["complete"], all["records"].as_array().unwrap().len()), (&json!(true), 3), "{all}");
        assert_eq!(server.get("/api/acquisition/data/").await["count"], 0, "a test stores nothing");
        for wrong in ["0", "1001", "many"] {
            let refused = home.run(&["source", "test", "rows", "--records", wrong]);
            assert_eq!(refused.status.code(), Some(2), "{wrong}: {refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_schema_is_shown_fails_what_is_new_and_takes_it_when_told_to() {
    for home in homes().await {
        let file = home.files().join("rows.ndjson");
        write(&file, ROWS);
        let server = home.serve().await;
        let source = server.source("rows", "file", json!({ "path": "rows.ndjson", "drift": "freeze" })).await;
        let schema = |args: &[&str]| -> Value {
            let client = ["--server", &server.base, "--token", &server.token, "-o", "json"];
            serde_json::from_str(&home.ok(&[&["source", "schema", "rows"], args, &client].concat())).unwrap()
        };
        server.run("acquisition", source).await;
        let first = schema(&[]);
        assert_eq!((&first["version"], &first["learning"]), (&json!(1), &json!(false)), "{first}");
        assert_eq!(first["fields"]["id"]["types"], json!(["integer"]));

        write(&file, format!("{ROWS}{{\"id\":3,\"a\":\"z\",\"b\":1}}\n"));
        let failed = server.ended(&server.start("acquisition", source).await).await;
        assert_eq!((&failed["status"], &failed["error"]["reason"]), (&json!("failed"), &json!("drift")), "{failed}");
        assert!(failed["error"]["message"].as_str().unwrap().contains("/b: new field"), "{failed}");
        assert_eq!(schema(&["--accept"])["learning"], true);
        server.run("acquisition", source).await;
        let second = schema(&[]);
        assert_eq!((&second["version"], &second["learning"]), (&json!(2), &json!(false)), "{second}");
        assert_eq!(second["history"][0]["changes"], json!([{ "field": "/b", "old": null, "new": "integer" }]));
    }
}
