//! Files as programs write them, read by the real binary. `fixtures/files` has what Python's `zipfile`, `lzma`,
//! openpyxl, odfpy, xlwt and fastavro, and programs of banks, make of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Home, Server, homes};

fn put(home: &Home, name: &str) {
    let fixture = Path::new("tests/fixtures/files").join(name);
    std::fs::copy(fixture, home.files().join(name)).unwrap();
}

/// Reads a source twice: what it stored, and the counts of the second time.
async fn stored(server: &Server, name: &str, config: Value) -> (Vec<Value>, Value) {
    let source = server.source(name, "file", config).await;
    server.run("acquisition", source).await;
    let rows = server.all(&format!("/api/acquisition/data/?source={source}")).await;
    let again = server.run("acquisition", source).await;
    (rows.into_iter().map(|row| row["raw_data"].clone()).collect(), again["result"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_encodings_and_formats_are_stored_once() {
    for home in homes().await {
        for name in ["sales.zip", "books.xml.xz", "zengin.txt"] {
            put(&home, name);
        }
        let server = home.serve().await;
        let zip = json!({ "path": "*.zip", "format": "csv", "encoding": "shift_jis", "member": "*/*.csv" });
        let (rows, again) = stored(&server, "sales", zip).await;
        assert_eq!(
            rows,
            [
                json!({ "店": "東京", "売上": "1,200" }),
                json!({ "店": "ソース表", "売上": "300" }),
                json!({ "店": "大阪", "売上": "450" })
            ],
            "{}",
            home.name
        );
        assert_eq!(again["stored"], 0, "{again}");

        let (rows, again) =
            stored(&server, "books", json!({ "path": "books.xml.xz", "records": "catalog/book", "files": "all" }))
                .await;
        assert_eq!(rows, [json!({ "@id": "1", "title": "源氏物語" })]);
        assert_eq!(again["quarantined"], 1, "an entity is not expanded: {again}");
        let held = server.get("/api/acquisition/quarantine/?reason=invalid_xml").await;
        assert_eq!(held["results"][0]["position"]["line"], 2, "{held}");

        let fixed = json!({
            "path": "zengin.txt", "format": "fixed", "encoding": "shift_jis", "line_breaks": false,
            "columns": [
                { "width": 1 },
                { "name": "bank", "width": 4 },
                { "name": "name", "width": 15 },
                { "name": "amount", "width": 10, "type": "integer" },
            ],
        });
        let (rows, _) = stored(&server, "zengin", fixed).await;
        assert_eq!(
            rows,
            [
                json!({ "bank": "0001", "name": "ﾐｽﾞﾎ", "amount": 1200 }),
                json!({ "bank": "0005", "name": "三菱ＵＦＪ", "amount": 45000 })
            ]
        );

        put(&home, "book.xlsx");
        let (rows, again) = stored(&server, "book", json!({ "path": "*.xlsx", "dedupe": "none" })).await;
        let first = json!({
            "店": "東京", "金額": 1200.5, "日付": "2026-01-31", "時刻": "2026-01-31T09:30:15", "済": true, "備考": null
        });
        assert_eq!((rows.len(), &rows[0]), (3, &first), "{}", home.name);
        assert_eq!((&again["read"], &again["not_modified"]), (&json!(0), &json!(1)), "it did not change: {again}");
        let held = server.get("/api/acquisition/quarantine/?reason=schema").await;
        assert!(held["results"][0]["detail"].as_str().unwrap().contains("#DIV/0!"), "{held}");

        put(&home, "int96.parquet");
        let (rows, _) = stored(&server, "lake", json!({ "path": "*.parquet" })).await;
        let times = ["2026-01-31T09:30:00.123456", "1969-12-31T23:59:59", "9999-12-31T23:59:59.999999"];
        assert_eq!(rows, times.map(|at| json!({ "at": at })), "{}", home.name);

        put(&home, "types-snappy.avro");
        let (rows, again) = stored(&server, "events", json!({ "path": "*.avro" })).await;
        assert_eq!((rows.len(), &rows[1]["price"].to_string()), (2, &"-1e-12".to_owned()), "{}", home.name);
        assert_eq!(again["not_modified"], 1, "{again}");
    }
}
