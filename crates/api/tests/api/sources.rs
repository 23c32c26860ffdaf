//! Making, changing and deleting sources of both groups.

use axum::body::Body;
use http::header;
use serde_json::{Value, json};

use crate::support::{AGGREGATIONS, SOURCES, apis};

const NOUNS: [(&str, &str); 2] = [(SOURCES, "data source"), (AGGREGATIONS, "aggregation source")];

fn at(path: &str, row: &Value) -> String {
    format!("{path}{}/", row["id"])
}

#[tokio::test]
async fn create_answers_with_the_row_its_defaults_and_its_place() {
    for api in apis().await {
        let body = json!({"name": "a", "source_type": "api"});
        let reply = api.call("POST", SOURCES, Some(body)).await;
        let location = reply.header("location").to_owned();
        let row = reply.expect(api.name, 201);
        assert_eq!(location, at(SOURCES, &row), "{}", api.name);
        for (field, value) in [
            ("status", json!("active")),
            ("config", json!({})),
            ("fetch_interval", json!(3600)),
            ("last_fetched_at", Value::Null),
            ("description", Value::Null),
        ] {
            assert_eq!(row[field], value, "{}: {field}", api.name);
        }
        let created = row["created_at"].as_str().unwrap();
        assert!(created.ends_with('Z') && created.contains('T') && row["updated_at"] == row["created_at"]);
        assert_eq!(api.get(&location).await, row, "{}", api.name);
        assert_eq!(api.get(location.trim_end_matches('/')).await, row, "{}", api.name);

        let row = api.make(AGGREGATIONS, json!({"name": "a"})).await;
        assert_eq!((&row["status"], &row["config"]), (&json!("active"), &json!({})), "{}", api.name);
        assert_eq!(api.get(&at(AGGREGATIONS, &row)).await, row, "{}", api.name);
    }
}

#[tokio::test]
async fn missing_fields_and_taken_names_are_said_in_both_languages() {
    for api in apis().await {
        let required = json!(["This field is required."]);
        assert_eq!(api.refused(SOURCES, json!({})).await, json!({"name": required, "source_type": required}));
        assert_eq!(api.refused(AGGREGATIONS, json!({})).await, json!({"name": required}));
        for (path, noun) in NOUNS {
            api.make(path, json!({"name": "taken", "source_type": "api"})).await;
            let errors = api.refused(path, json!({"name": " taken ", "source_type": "api"})).await;
            assert_eq!(errors, json!({"name": [format!("{noun} with this name already exists.")]}), "{}", api.name);
        }
        let request = api
            .request("POST", SOURCES, &api.admin)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT_LANGUAGE, "ja")
            .body(Body::from("{\"source_type\": \"api\"}"));
        let reply = api.send(request.unwrap()).await;
        assert_eq!(reply.header("content-language"), "ja");
        assert_eq!(reply.expect(api.name, 400), json!({"name": ["この項目は必須です。"]}));
    }
}

#[tokio::test]
async fn wrong_values_name_their_field_and_what_would_be_right() {
    for api in apis().await {
        let long = "x".repeat(256);
        for (field, value, says) in [
            ("name", json!(""), "This field may not be blank."),
            ("name", json!("   "), "This field may not be blank."),
            ("name", json!(null), "This field may not be null."),
            ("name", json!(long), "Ensure this field has no more than 255 characters."),
            ("name", json!({"a": 1}), "Not a valid string."),
            ("name", json!(true), "Not a valid string."),
            ("name", json!("nul\u{0}"), "Null characters are not allowed. Remove U+0000."),
            ("description", json!("nul\u{0}"), "Null characters are not allowed. Remove U+0000."),
            ("description", json!([1]), "Not a valid string."),
            ("source_type", json!("nope"), "\"nope\" is not a valid choice."),
            ("source_type", json!(null), "This field may not be null."),
            ("status", json!("nope"), "\"nope\" is not a valid choice."),
            ("status", json!(null), "This field may not be null."),
            ("fetch_interval", json!("abc"), "A valid integer is required."),
            ("fetch_interval", json!(1.5), "A valid integer is required."),
            ("fetch_interval", json!(true), "A valid integer is required."),
            ("fetch_interval", json!(null), "This field may not be null."),
            ("fetch_interval", json!(-1), "Ensure this value is greater than or equal to 0."),
            ("fetch_interval", json!(2_147_483_648_i64), "Ensure this value is less than or equal to 2147483647."),
            ("config", json!(null), "This field may not be null."),
            ("config", json!([]), "Expected a dictionary of items but got type \"list\"."),
            ("config", json!("text"), "Expected a dictionary of items but got type \"str\"."),
        ] {
            let mut body = json!({"name": "x", "source_type": "api"});
            body[field] = value.clone();
            assert_eq!(api.refused(SOURCES, body).await, json!({field: [says]}), "{}: {field} {value}", api.name);
        }
        assert_eq!(api.get(SOURCES).await["count"], 0, "{}: nothing was stored", api.name);
    }
}

#[tokio::test]
async fn values_at_the_limits_are_taken() {
    for api in apis().await {
        let name = "あ".repeat(255);
        let row = api.make(SOURCES, json!({"name": name, "source_type": "api", "fetch_interval": 2_147_483_647})).await;
        assert_eq!((&row["name"], &row["fetch_interval"]), (&json!(name), &json!(2_147_483_647)), "{}", api.name);
        for (name, interval, stored) in [("a", json!(0), 0), ("b", json!("60"), 60), ("c", json!(7.0), 7)] {
            let row = api.make(SOURCES, json!({"name": name, "source_type": "api", "fetch_interval": interval})).await;
            assert_eq!(row["fetch_interval"], stored, "{}", api.name);
        }
        for kind in ["api", "database", "file", "websocket", "push"] {
            api.make(SOURCES, json!({"name": kind, "source_type": kind})).await;
        }
    }
}

#[tokio::test]
async fn configs_are_validated_by_type_and_errors_name_their_path() {
    for api in apis().await {
        let config = json!({"url": "http://127.0.0.1:1/", "pagination": {"type": "next_link", "next": 5}, "zz": 1});
        let errors = api.refused(SOURCES, json!({"name": "x", "source_type": "api", "config": config})).await;
        assert!(errors["config"]["pagination"]["next"][0].is_string(), "{}: {errors}", api.name);
        assert!(errors["config"]["zz"][0].is_string(), "{}: {errors}", api.name);
        let errors = api.refused(AGGREGATIONS, json!({"name": "x", "config": {"sql": 1, "zz": 1}})).await;
        assert!(errors["config"]["sql"][0].is_string() && errors["config"]["zz"][0].is_string(), "{errors}");
        let errors = api.refused(AGGREGATIONS, json!({"name": "x", "config": {"sql": "create table t"}})).await;
        assert_eq!(errors, json!({"config": {"sql": ["only queries can run"]}}), "{}", api.name);
        for text in [r#"{"labels":{"a":1,"a":2}}"#, r#"{"labels":"\u0000"}"#, r#"{"labels":"\ud800"}"#] {
            let body = format!("{{\"name\":\"x\",\"source_type\":\"file\",\"config\":{text}}}");
            let request = api.request("POST", SOURCES, &api.admin).header(header::CONTENT_TYPE, "application/json");
            let reply = api.send(request.body(Body::from(body)).unwrap()).await;
            assert!(reply.expect(api.name, 400)["config"][0].is_string(), "{}: {text}", api.name);
        }
    }
}

#[tokio::test]
async fn any_json_may_be_a_label_and_comes_back_by_value() {
    for api in apis().await {
        for (n, value) in [
            json!({}),
            json!([1, "a", null]),
            json!("text"),
            json!(0),
            json!(false),
            json!(1.5),
            json!({"deep": [[[{"x": []}]]], "🗾": "東京"}),
        ]
        .into_iter()
        .enumerate()
        {
            let config = json!({"labels": {"value": value}});
            for (path, _) in NOUNS {
                let body = json!({"name": format!("l{n}"), "source_type": "api", "config": config});
                let row = api.make(path, body).await;
                assert_eq!(api.get(&at(path, &row)).await["config"], config, "{}", api.name);
            }
        }
        let rows: Vec<Value> = (0..5000).map(|i| json!({"i": i, "text": "データ".repeat(20)})).collect();
        let config = json!({"labels": {"rows": rows}});
        let row = api.make(SOURCES, json!({"name": "big", "source_type": "file", "config": config})).await;
        assert_eq!(api.get(&at(SOURCES, &row)).await["config"], config, "{}", api.name);
    }
}

#[tokio::test]
async fn text_is_sent_as_utf_8_and_not_escaped() {
    for api in apis().await {
        let text = "データ統合基盤 🗾 ﾊﾝｶｸ é 𠮷\n二行目";
        let row = api.make(SOURCES, json!({"name": "t", "source_type": "api", "description": text})).await;
        let reply = api.call("GET", &at(SOURCES, &row), None).await;
        assert!(reply.text.contains("データ統合基盤 🗾"), "{}", api.name);
        assert_eq!(reply.json["description"], text, "{}", api.name);
    }
}

#[tokio::test]
async fn read_only_and_unknown_fields_are_ignored() {
    for api in apis().await {
        let body = json!({
            "name": "x", "source_type": "api", "id": 2_000_000_000, "created_at": "2000-01-01T00:00:00Z",
            "updated_at": "2000-01-01T00:00:00Z", "last_fetched_at": "2000-01-01T00:00:00Z", "no_such_field": 1,
        });
        let row = api.make(SOURCES, body).await;
        assert!(row["id"] != 2_000_000_000 && row.get("no_such_field").is_none(), "{}: {row}", api.name);
        assert!(!row["created_at"].as_str().unwrap().starts_with("2000") && row["last_fetched_at"].is_null());
    }
}

#[tokio::test]
async fn put_needs_the_required_fields_and_leaves_what_it_does_not_name() {
    for api in apis().await {
        for (path, _) in NOUNS {
            let old = json!({"name": "old", "source_type": "api", "description": "kept"});
            let row = api.make(path, old).await;
            let body = json!({"name": "new", "source_type": "file", "status": "inactive", "config": {"labels": {}}});
            let got = api.call("PUT", &at(path, &row), Some(body)).await.expect(api.name, 200);
            assert_eq!((&got["name"], &got["status"]), (&json!("new"), &json!("inactive")), "{}", api.name);
            assert_eq!((&got["description"], &got["created_at"]), (&json!("kept"), &row["created_at"]), "{}", api.name);
            assert!(got["updated_at"].as_str() > row["updated_at"].as_str(), "{}: {got} {row}", api.name);
            assert_eq!(api.get(&at(path, &row)).await, got, "{}", api.name);
            let errors = api.call("PUT", &at(path, &row), Some(json!({"description": "x"}))).await;
            assert_eq!(errors.expect(api.name, 400)["name"], json!(["This field is required."]), "{}", api.name);
        }
    }
}

#[tokio::test]
async fn patch_changes_only_what_it_names_and_replaces_json_whole() {
    for api in apis().await {
        for (path, _) in NOUNS {
            let config = json!({"labels": {"a": 1, "b": 2}});
            let mut row = api.make(path, json!({"name": "p", "source_type": "api", "config": config})).await;
            let mut got =
                api.call("PATCH", &at(path, &row), Some(json!({"status": "inactive"}))).await.expect(api.name, 200);
            row["status"] = json!("inactive");
            row["updated_at"] = got["updated_at"].take();
            got["updated_at"] = row["updated_at"].clone();
            assert_eq!(got, row, "{}", api.name);
            let config = json!({"labels": {"a": 3}});
            let got = api.call("PATCH", &at(path, &row), Some(json!({"config": config}))).await.expect(api.name, 200);
            assert_eq!(got["config"], config, "{}", api.name);
            let got = api.call("PATCH", &at(path, &row), Some(json!({"description": "d"}))).await.expect(api.name, 200);
            let got =
                api.call("PATCH", &at(path, &got), Some(json!({"description": null}))).await.expect(api.name, 200);
            assert!(got["description"].is_null(), "{}", api.name);
            api.call("PATCH", &at(path, &row), Some(json!({}))).await.expect(api.name, 200);
        }
    }
}

#[tokio::test]
async fn a_deleted_row_is_gone_for_every_method_and_its_name_is_free() {
    for api in apis().await {
        for (path, _) in NOUNS {
            let body = json!({"name": "d", "source_type": "api"});
            let row = api.make(path, body.clone()).await;
            let reply = api.call("DELETE", &at(path, &row), None).await;
            assert_eq!((reply.status.as_u16(), reply.text.as_str()), (204, ""), "{}", api.name);
            for method in ["GET", "PUT", "PATCH", "DELETE"] {
                let body = (method != "GET").then(|| json!({}));
                let gone = api.call(method, &at(path, &row), body).await.expect(api.name, 404);
                assert!(gone["detail"].is_string(), "{}", api.name);
            }
            assert_eq!(api.get(path).await["count"], 0, "{}", api.name);
            let again = api.make(path, body).await;
            assert!(again["id"].as_i64() > row["id"].as_i64(), "{}", api.name);
        }
    }
}

#[tokio::test]
async fn secrets_never_come_back_and_are_kept_by_their_placeholder() {
    for api in apis().await {
        let auth = json!({"type": "bearer", "token": "TOPSECRET"});
        let config = json!({"url": "http://127.0.0.1:1/", "auth": auth});
        let reply = api.call("POST", SOURCES, Some(json!({"name": "s", "source_type": "api", "config": config}))).await;
        assert!(!reply.text.contains("TOPSECRET"), "{}", api.name);
        let row = reply.expect(api.name, 201);
        assert_eq!(row["config"]["auth"], json!({"type": "bearer", "token": {"$secret": true}}), "{}", api.name);

        let mut changed = row["config"].clone();
        changed["url"] = json!("http://127.0.0.1:2/");
        let got = api.call("PATCH", &at(SOURCES, &row), Some(json!({"config": changed}))).await.expect(api.name, 200);
        assert_eq!(got["config"], changed, "{}", api.name);
        changed["auth"] = json!({"type": "header", "name": "k", "value": {"$secret": true}});
        let reply = api.call("PATCH", &at(SOURCES, &row), Some(json!({"config": changed}))).await;
        let errors = reply.expect(api.name, 400);
        let says = "No secret is stored here. Send the value itself.";
        assert_eq!(errors, json!({"config": {"auth": {"value": [says]}}}), "{}", api.name);
        for path in [SOURCES.to_owned(), at(SOURCES, &row), format!("{}test/", at(SOURCES, &row))] {
            let method = if path.ends_with("test/") { "POST" } else { "GET" };
            assert!(!api.call(method, &path, None).await.text.contains("TOPSECRET"), "{}: {path}", api.name);
        }
        let stored = api.db.read().await.unwrap().conn().fetch_one("select sealed from secrets", &[]).await.unwrap();
        let sealed = stored.bytes("sealed").unwrap();
        assert!(!sealed.windows(9).any(|window| window == b"TOPSECRET"), "{}", api.name);
    }
}

#[tokio::test]
async fn faults_of_configs_are_told_in_japanese_too() {
    for api in apis().await {
        let configs = [
            json!({"source_type": "file", "config": {"path": 5, "delimeter": ";", "dedupe": "key", "timeout_secs": 0}}),
            json!({"source_type": "file", "config": {"path": "../a.csv", "header": "yes", "types": 1, "encoding": "x"}}),
            json!({"source_type": "api", "config": {"url": "x", "auth": {"type": "bearer"}, "records": "a"}}),
            json!({"source_type": "api", "config": {"url": "ftp://h", "headers": {"Host": "x"}, "params": [1],
                "pagination": {"type": "next_link", "next": "$.a[*]"}}}),
            json!({"source_type": "database", "config": {"x": 1}}),
        ];
        let wrong = configs.into_iter().map(|body| (SOURCES, body));
        let aggregation = json!({"config": {"sql": null, "timeout_secs": 0, "mode": "append", "labels": 1, "x": 1}});
        for (path, mut body) in wrong.chain([(AGGREGATIONS, aggregation)]) {
            body["name"] = json!("wrong");
            for (language, is_japanese) in [("ja", true), ("en", false)] {
                let request = api
                    .request("POST", path, &api.admin)
                    .header(header::CONTENT_TYPE, "application/json")
                    .header(header::ACCEPT_LANGUAGE, language);
                let reply = api.send(request.body(Body::from(body.to_string())).unwrap()).await;
                let mut told = Vec::new();
                collect_texts(&reply.expect(api.name, 400)["config"], &mut told);
                for text in told {
                    let kana = text.chars().any(|c| ('\u{3040}'..='\u{30ff}').contains(&c));
                    assert_eq!(kana, is_japanese, "{}: {text}", api.name);
                }
            }
        }
    }
}

fn collect_texts(errors: &Value, texts: &mut Vec<String>) {
    match errors {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect_texts(item, texts)),
        Value::Object(fields) => fields.values().for_each(|field| collect_texts(field, texts)),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_schema_of_a_source_is_shown_and_a_new_one_accepted() {
    for api in apis().await {
        let source = api.make(SOURCES, json!({"name": "s", "source_type": "file"})).await["id"].as_i64().unwrap();
        let path = format!("{SOURCES}{source}/schema/");
        let none = api.get(&path).await;
        assert_eq!((&none["version"], &none["learning"], &none["fields"]), (&json!(0), &json!(true), &json!({})));
        let added = api.db.write(move |conn| {
            Box::pin(async move {
                let sql = "insert into source_schemas (source_id, version, fields, changes, settled, task_id)
                    values ($1, $2, $3, $4, $5, 7)";
                for (version, settled) in [(1_i64, false), (2, true)] {
                    let fields = matome_store::db::Arg::Json(Some(r#"{"id":{"types":["integer"]}}"#));
                    let changes = matome_store::db::Arg::Json(Some(r#"[{"field":"/id","old":null,"new":"integer"}]"#));
                    conn.execute(sql, &[source.into(), version.into(), fields, changes, settled.into()]).await?;
                }
                Ok(())
            })
        });
        added.await.unwrap();
        let shown = api.get(&path).await;
        assert_eq!((&shown["version"], &shown["learning"]), (&json!(2), &json!(false)), "{}", api.name);
        assert_eq!(shown["fields"], json!({"id": {"types": ["integer"]}}));
        let history = shown["history"].as_array().unwrap();
        assert_eq!((history.len(), &history[0]["version"], &history[0]["task"]), (2, &json!(2), &json!(7)));
        assert_eq!(history[0]["changes"], json!([{"field": "/id", "old": null, "new": "integer"}]), "{}", api.name);
        let accepted = api.call("POST", &format!("{path}accept/"), None).await.expect(api.name, 200);
        assert_eq!((&accepted["version"], &accepted["learning"]), (&json!(2), &json!(true)), "{}", api.name);
        for (method, path) in [("GET", "999/schema/"), ("POST", "999/schema/accept/")] {
            api.call(method, &format!("{SOURCES}{path}"), None).await.expect(api.name, 404);
        }
        let errors = api.refused(
            SOURCES,
            json!({"name": "t", "source_type": "file", "config": {"path": "a.csv", "drift": "thaw",
                "validation": {"schema": {"properties": {"a": {"minimum": "1"}}}, "rules": [{"field": "a", "pattern": "("}]}}}),
        );
        let errors = errors.await;
        assert!(errors["config"]["drift"][0].as_str().unwrap().contains("accept_new"), "{errors}");
        assert!(errors["config"]["validation"]["rules"]["0"]["pattern"][0].is_string(), "{errors}");
        assert!(errors["config"]["validation"]["schema"]["properties"]["a"]["minimum"][0].is_string(), "{errors}");
    }
}
