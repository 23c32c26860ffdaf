//! Records, rows and quarantine: their shapes, their counts, their order.

use axum::body::Body;
use matome_model::clock::Clock;
use matome_store::counters;
use matome_store::db::Arg;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::{AGGREGATIONS, SOURCES, TestApi, apis};

const DATA: &str = "/api/acquisition/data/";

async fn add_record(api: &TestApi, source: i64, raw_data: &str) {
    let raw_data = RawValue::from_string(raw_data.to_owned()).unwrap();
    let added = api.db.write(move |conn| {
        Box::pin(async move {
            let sql = "insert into acquired_data (source_id, raw_data, data_hash, acquired_at) values ($1, $2, $3, $4)";
            let now = Clock::system().now();
            conn.execute(sql, &[source.into(), Arg::from(&*raw_data), "00".into(), now.into()]).await?;
            counters::add(conn, counters::ACQUIRED_DATA, source, "", 1).await
        })
    });
    added.await.unwrap();
}

#[tokio::test]
async fn records_keep_their_numbers_digit_by_digit_and_come_newest_first() {
    for api in apis().await {
        let source = api.make(SOURCES, json!({"name": "s", "source_type": "file"})).await["id"].as_i64().unwrap();
        let other = api.make(SOURCES, json!({"name": "o", "source_type": "file"})).await["id"].as_i64().unwrap();
        let precise = "{\"n\":12345678901234567890.12345678901234567890}";
        for (source, raw_data) in [(source, "{\"a\":\"東京\"}"), (other, "{}"), (source, precise)] {
            add_record(&api, source, raw_data).await;
        }
        let reply = api.call("GET", DATA, None).await;
        assert!(reply.text.contains("12345678901234567890.12345678901234567890"), "{}: {}", api.name, reply.text);
        assert!(reply.text.contains("東京"), "{}", api.name);
        let all = reply.expect(api.name, 200);
        assert_eq!(all["count"], 3, "{}", api.name);
        let rows = all["results"].as_array().unwrap();
        assert!(rows.is_sorted_by(|a, b| a["acquired_at"].as_str() >= b["acquired_at"].as_str()), "{}", api.name);
        for row in rows {
            for field in
                ["id", "source", "raw_data", "metadata", "data_hash", "acquired_at", "created_at", "stream", "version"]
            {
                assert!(row.get(field).is_some(), "{}: {field}", api.name);
            }
        }
        let one = api.call("GET", &format!("{DATA}{}/", rows[0]["id"]), None).await;
        assert_eq!(&one.expect(api.name, 200), &rows[0], "{}", api.name);

        for (query, count) in [
            (format!("?source={source}"), 2),
            (format!("?source__in={source},{other},{source}"), 3),
            (format!("?source={source}&acquired_at__gte=2000-01-01"), 2),
            ("?data_hash=00".to_owned(), 3),
            ("?acquired_at__gte=2999-01-01T00:00:00Z".to_owned(), 0),
        ] {
            assert_eq!(api.get(&format!("{DATA}{query}")).await["count"], count, "{}: {query}", api.name);
        }
        api.call("DELETE", &format!("{SOURCES}{source}/"), None).await.expect(api.name, 204);
        assert_eq!(api.get(DATA).await["count"], 1, "{}: a deleted source's records are hidden", api.name);
        api.call("GET", &format!("{DATA}{}/", rows[0]["id"]), None).await.expect(api.name, 404);
    }
}

#[tokio::test]
async fn the_count_of_records_comes_from_their_counters() {
    for api in apis().await {
        let source = api.make(SOURCES, json!({"name": "s", "source_type": "file"})).await["id"].as_i64().unwrap();
        let counted = api.db.write(move |conn| {
            Box::pin(async move { counters::add(conn, counters::ACQUIRED_DATA, source, "stream", 1_000_000).await })
        });
        counted.await.unwrap();
        for query in [String::new(), format!("?source={source}")] {
            assert_eq!(api.get(&format!("{DATA}{query}")).await["count"], 1_000_000, "{}", api.name);
        }
    }
}

#[tokio::test]
async fn an_older_run_is_shown_when_asked_for() {
    for api in apis().await {
        let id = api.make(AGGREGATIONS, json!({"name": "a"})).await["id"].as_i64().unwrap();
        let made = api.db.write(move |conn| {
            Box::pin(async move {
                let mut runs = Vec::new();
                for (status, data) in [("superseded", "{\"n\":1}"), ("current", "{\"n\":2}"), ("building", "{\"n\":3}")]
                {
                    let sql = "insert into aggregation_runs (source_id, task_id, status, row_count, published_at)
                        values ($1, 1, $2, 1, $3) returning id";
                    let published = (status != "building").then(|| Clock::system().now());
                    let run = conn.fetch_one(sql, &[id.into(), status.into(), published.into()]).await?.int("id")?;
                    let sql = "insert into aggregated_data (source_id, data, run_id) values ($1, $2, $3)";
                    conn.execute(sql, &[id.into(), Arg::Json(Some(data)), run.into()]).await?;
                    runs.push(run);
                }
                let sql = "update aggregation_sources set current_run_id = $2, visible_rows = 1 where id = $1";
                conn.execute(sql, &[id.into(), runs[1].into()]).await?;
                Ok(runs)
            })
        });
        let runs = made.await.unwrap();
        let shown = async |query: String| {
            let body = api.get(&format!("/api/aggregation/data/{query}")).await;
            let rows = body["results"].as_array().unwrap().iter().map(|row| row["data"]["n"].as_i64().unwrap());
            (body["count"].as_i64().unwrap(), rows.collect::<Vec<_>>())
        };
        assert_eq!(shown(String::new()).await, (1, vec![2]), "{}", api.name);
        assert_eq!(shown(format!("?source={id}")).await, (1, vec![2]), "{}", api.name);
        assert_eq!(shown(format!("?run={}", runs[0])).await, (1, vec![1]), "{}", api.name);
        assert_eq!(shown(format!("?run={}", runs[2])).await, (0, vec![]), "{}: unpublished", api.name);
    }
}

#[tokio::test]
async fn who_has_the_rows_of_a_version_is_told_so_until_the_next_is_published() {
    for api in apis().await {
        let id = api.make(AGGREGATIONS, json!({"name": "a"})).await["id"].as_i64().unwrap();
        let publish = async |data: &'static str| {
            let published = api.db.write(move |conn| {
                Box::pin(async move {
                    let sql = "insert into aggregation_runs (source_id, task_id, status, row_count, published_at)
                        values ($1, 1, 'current', 1, $2) returning id";
                    let run = conn.fetch_one(sql, &[id.into(), Some(Clock::system().now()).into()]).await?.int("id")?;
                    let sql = "insert into aggregated_data (source_id, data, run_id) values ($1, $2, $3)";
                    conn.execute(sql, &[id.into(), Arg::Json(Some(data)), run.into()]).await?;
                    let sql = "update aggregation_sources set current_run_id = $2, visible_rows = visible_rows + 1
                        where id = $1";
                    conn.execute(sql, &[id.into(), run.into()]).await
                })
            });
            published.await.unwrap();
        };
        let path = format!("/api/aggregation/data/?source={id}");
        let ask = async |path: &str, tag: &str, token: &str| {
            let request = api.request("GET", path, token).header("if-none-match", tag);
            api.send(request.body(Body::empty()).unwrap()).await
        };
        publish("{\"n\":1}").await;
        let first = api.call("GET", &path, None).await;
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with("W/\""), "{}: {tag:?}", api.name);
        assert_eq!(first.header("cache-control"), "private, no-cache", "{}", api.name);
        let known = ask(&path, &tag, &api.viewer).await;
        assert_eq!((known.status.as_u16(), known.text.as_str()), (304, ""), "{}", api.name);
        assert_eq!(known.header("etag"), tag, "{}", api.name);
        assert_eq!(ask(&path, &tag, "no token").await.status, 401, "{}: who asks is checked first", api.name);
        for other in [format!("{path}&page_size=1"), format!("{path}&id__gt=0")] {
            let reply = ask(&other, &tag, &api.viewer).await;
            assert_eq!(reply.status, 200, "{}: {other} is another answer", api.name);
        }
        publish("{\"n\":2}").await;
        let next = ask(&path, &tag, &api.viewer).await;
        assert_ne!(next.header("etag"), tag, "{}", api.name);
        assert_eq!(next.expect(api.name, 200)["count"], 2, "{}", api.name);

        // Rows that the original application wrote have no run: nothing tells when they change.
        let adopted = api.db.write(move |conn| {
            Box::pin(async move {
                let sql = "insert into aggregated_data (source_id, data) values ($1, $2)";
                conn.execute(sql, &[id.into(), Arg::Json(Some("{\"n\":3}"))]).await
            })
        });
        adopted.await.unwrap();
        let reply = ask(&path, &tag, &api.viewer).await;
        assert_eq!(reply.header("etag"), "", "{}", api.name);
        assert_eq!(reply.expect(api.name, 200)["count"], 3, "{}", api.name);
        api.call("DELETE", &format!("{AGGREGATIONS}{id}/"), None).await.expect(api.name, 204);
        assert_eq!(ask(&path, &tag, &api.viewer).await.status, 400, "{}: there is no such aggregation", api.name);
    }
}

#[tokio::test]
async fn what_was_shown_after_a_run_can_be_listed_and_exported_while_it_is_kept() {
    for api in apis().await {
        let id = api.make(AGGREGATIONS, json!({"name": "a"})).await["id"].as_i64().unwrap();
        let other = api.make(AGGREGATIONS, json!({"name": "b"})).await["id"].as_i64().unwrap();
        let made = api.db.write(move |conn| {
            Box::pin(async move {
                // Run 2 was joined by run 3, which took the place of one of its rows; run 1 is older than what is kept.
                let mut runs = Vec::new();
                for (status, rows) in [("superseded", 1), ("current", 2), ("current", 1)] {
                    let sql = "insert into aggregation_runs (source_id, task_id, status, row_count, published_at, mode)
                        values ($1, 1, $2, $3, $4, 'upsert') returning id";
                    let args = [id.into(), status.into(), rows.into(), Some(Clock::system().now()).into()];
                    runs.push(conn.fetch_one(sql, &args).await?.int("id")?);
                }
                let sql = "update aggregation_runs set replaced_by = $2 where id = $1";
                conn.execute(sql, &[runs[0].into(), runs[1].into()]).await?;
                for (data, run, superseded_by) in
                    [("{\"n\":1}", 1, None), ("{\"n\":2}", 1, Some(runs[2])), ("{\"n\":3}", 2, None)]
                {
                    let sql = "insert into aggregated_data (source_id, data, run_id, superseded_by)
                        values ($1, $2, $3, $4)";
                    let args = [id.into(), Arg::Json(Some(data)), runs[run].into(), superseded_by.into()];
                    conn.execute(sql, &args).await?;
                }
                let sql = "update aggregation_sources set current_run_id = $3, kept_from_run = $2, visible_rows = 2
                    where id = $1";
                conn.execute(sql, &[id.into(), runs[1].into(), runs[2].into()]).await?;
                Ok(runs)
            })
        });
        let runs = made.await.unwrap();
        let listed = async |query: String| {
            let body = api.get(&format!("/api/aggregation/data/{query}")).await;
            let rows = body["results"].as_array().unwrap().iter().map(|row| row["data"]["n"].as_i64().unwrap());
            let mut rows: Vec<_> = rows.collect();
            rows.sort_unstable();
            assert_eq!(body["count"].as_u64(), Some(rows.len() as u64), "{}: {query}", api.name);
            rows
        };
        let exported = async |query: String| {
            let reply = api.call("GET", &format!("{AGGREGATIONS}{id}/export/{query}"), None).await;
            assert_eq!(reply.status, 200, "{}: {query}: {}", api.name, reply.text);
            let row = |line| serde_json::from_str::<Value>(line).unwrap()["n"].as_i64().unwrap();
            let mut rows: Vec<_> = reply.text.lines().map(row).collect();
            rows.sort_unstable();
            rows
        };
        assert_eq!(listed(String::new()).await, [1, 3], "{}", api.name);
        assert_eq!(listed(format!("?as_of_run={}", runs[1])).await, [1, 2], "{}", api.name);
        assert_eq!(listed(format!("?as_of_run={}", runs[2])).await, [1, 3], "{}", api.name);
        assert_eq!(exported(String::new()).await, [1, 3], "{}", api.name);
        assert_eq!(exported(format!("?as_of_run={}", runs[1])).await, [1, 2], "{}", api.name);
        assert_eq!(exported(format!("?run={}", runs[2])).await, [3], "{}", api.name);
        for (path, query, field) in [
            ("/api/aggregation/data/".to_owned(), format!("?as_of_run={}", runs[0]), "as_of_run"),
            ("/api/aggregation/data/".to_owned(), "?as_of_run=x".to_owned(), "as_of_run"),
            ("/api/aggregation/data/".to_owned(), "?as_of_run=999".to_owned(), "as_of_run"),
            ("/api/aggregation/data/".to_owned(), format!("?run={0}&as_of_run={0}", runs[2]), "as_of_run"),
            (format!("{AGGREGATIONS}{id}/export/"), format!("?run={}", runs[0]), "run"),
            (format!("{AGGREGATIONS}{id}/export/"), format!("?as_of_run={}", runs[0]), "as_of_run"),
            (format!("{AGGREGATIONS}{other}/export/"), format!("?run={}", runs[2]), "run"),
            (format!("{AGGREGATIONS}{other}/export/"), format!("?as_of_run={}", runs[2]), "as_of_run"),
        ] {
            let refused = api.call("GET", &format!("{path}{query}"), None).await.expect(api.name, 400);
            assert!(refused[field].is_array(), "{}: {path}{query}: {refused}", api.name);
        }
    }
}

#[tokio::test]
async fn quarantined_bytes_are_text_when_they_are_utf_8_and_base64_otherwise() {
    for api in apis().await {
        let source = api.make(SOURCES, json!({"name": "s", "source_type": "file"})).await["id"].as_i64().unwrap();
        let added = api.db.write(move |conn| {
            Box::pin(async move {
                for (n, raw) in [b"{\"bad\":".as_slice(), b"\xff\x00"].into_iter().enumerate() {
                    let sql = "insert into quarantine (source_id, task_id, reason, detail, raw, raw_length, raw_hash)
                        values ($1, 1, 'invalid_json', 'why', $2, 7, $3)";
                    conn.execute(sql, &[source.into(), raw.into(), n.to_string().as_str().into()]).await?;
                }
                counters::add(conn, counters::QUARANTINE, source, "", 2).await
            })
        });
        added.await.unwrap();
        let body = api.get(&format!("/api/acquisition/quarantine/?source={source}")).await;
        assert_eq!(body["count"], 2, "{}", api.name);
        let rows = body["results"].as_array().unwrap();
        assert_eq!((&rows[0]["raw"], &rows[0]["raw_encoding"]), (&json!("/wA="), &json!("base64")), "{}", api.name);
        assert_eq!((&rows[1]["raw"], &rows[1]["raw_encoding"]), (&json!("{\"bad\":"), &json!("utf-8")), "{}", api.name);
        let one = api.get(&format!("/api/acquisition/quarantine/{}/", rows[1]["id"])).await;
        assert_eq!(&one, &rows[1], "{}", api.name);
    }
}
