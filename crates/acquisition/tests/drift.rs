//! What happens when the records of a source change their fields or types, on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use matome_acquisition::sample;
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use matome_store::quarantine;
use matome_store::source_schemas;
use matome_tasks::{Advice, Handler as _, TaskContext};
use matome_testbed::databases;
use support::{Bench, canonical, count};

/// Version, whether it has settled, its fields, and the changes of each version, newest first.
async fn schema(bench: &Bench) -> (i64, bool, serde_json::Value, Vec<String>) {
    let mut reader = bench.db.read().await.unwrap();
    let mut conn = reader.conn();
    let current = source_schemas::current(&mut conn, bench.source_id, "").await.unwrap();
    let history = source_schemas::history(&mut conn, bench.source_id, "").await.unwrap();
    let Some(current) = current else { return (0, false, serde_json::Value::Null, Vec::new()) };
    let changes = history.iter().map(|version| {
        let changes: Vec<serde_json::Value> = serde_json::from_str(version.changes.get()).unwrap();
        let told = changes
            .iter()
            .map(|change| format!("{} {}", change["field"].as_str().unwrap(), change["new"].as_str().unwrap()));
        told.collect::<Vec<_>>().join(", ")
    });
    (current.version, current.settled, serde_json::from_str(current.fields.get()).unwrap(), changes.collect())
}

fn lines(records: &[&str]) -> Vec<String> {
    records.iter().map(|record| (*record).to_owned()).collect()
}

#[tokio::test]
async fn accepted_changes_make_a_version_each_and_nothing_else_does() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, "").await;
        bench.write_file(&lines(&[r#"{"id":1,"at":{"lat":1.5}}"#, r#"{"id":2,"name":"x"}"#]));
        bench.run().await.unwrap();
        let expected = serde_json::json!({
            "at": {"types": ["object"], "fields": {"lat": {"types": ["number"]}}},
            "id": {"types": ["integer"]},
            "name": {"types": ["string"]},
        });
        let changes = "/at object, /id integer, /name string";
        assert_eq!(schema(&bench).await, (1, true, expected, vec![changes.to_owned()]), "{}", bed.name);
        bench.run().await.unwrap();
        assert_eq!(schema(&bench).await.0, 1, "{}", bed.name);

        bench.write_file(&lines(&[r#"{"id":"a","at":{"lat":7,"lon":null}}"#]));
        let result = bench.run().await.unwrap().result;
        assert_eq!(count(&result, "stored"), 1);
        let (version, settled, _, changes) = schema(&bench).await;
        assert_eq!((version, settled, changes[0].as_str()), (2, true, "/at/lon null, /id string"), "{}", bed.name);
    }
}

#[tokio::test]
async fn a_frozen_source_fails_before_the_page_and_goes_on_when_the_change_is_accepted() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, r#","drift":"freeze""#).await;
        // The first read teaches the schema, also over several pages.
        let rows = bed.db.page_rows();
        let mut records: Vec<String> = (0..rows).map(|n| format!("{{\"id\":{n}}}")).collect();
        records.push(r#"{"id":-1,"late":true}"#.to_owned());
        bench.write_file(&records);
        bench.run().await.unwrap();
        assert_eq!(schema(&bench).await.3, ["/late boolean", "/id integer"], "{}", bed.name);

        records.push(r#"{"id":"x","other":1}"#.to_owned());
        bench.write_file(&records);
        let err = bench.run().await.unwrap_err();
        assert_eq!((err.advice, err.reason.as_str()), (Advice::Fail, "drift"), "{}", bed.name);
        for part in ["/id: string instead of integer", "/other: new field of type integer", "--accept"] {
            assert!(err.message.english.contains(part), "{}", err.message);
        }
        assert!(err.position.unwrap().get().contains(&format!("\"line\":{}", records.len())), "{}", bed.name);
        assert_eq!(bench.stored().await.len(), records.len() - 1, "{}: nothing of the last page is new", bed.name);
        assert_eq!(schema(&bench).await.0, 2);

        let source_id = bench.source_id;
        let accept =
            bed.db.write(move |conn| Box::pin(async move { source_schemas::accept_next(conn, source_id, "").await }));
        accept.await.unwrap();
        bench.run().await.unwrap();
        assert_eq!(bench.stored().await, canonical(&records), "{}", bed.name);
        let (version, settled, _, changes) = schema(&bench).await;
        assert_eq!((version, settled, changes[0].as_str()), (3, true, "/id string, /other integer"), "{}", bed.name);
        records.push(r#"{"id":1.5}"#.to_owned());
        bench.write_file(&records);
        assert_eq!(bench.run().await.unwrap_err().reason, "drift", "{}: it is frozen again", bed.name);
    }
}

#[tokio::test]
async fn drifting_records_go_to_quarantine_and_back_once_the_schema_is_accepted() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, r#","drift":"quarantine""#).await;
        bench.write_file(&lines(&[r#"{"id":1}"#]));
        bench.run().await.unwrap();
        let records = lines(&[r#"{"id":1}"#, r#"{"id":"x"}"#, r#"{"id":2,"new":[1]}"#, r#"{"id":3}"#]);
        bench.write_file(&records);
        let result = bench.run().await.unwrap().result;
        assert_eq!((count(&result, "stored"), count(&result, "quarantined")), (1, 2), "{}", bed.name);
        let mut reader = bed.db.read().await.unwrap();
        let sql = "select id, reason, detail from quarantine where source_id = $1 order by id";
        let rows = reader.conn().fetch_all(sql, &[bench.source_id.into()]).await.unwrap();
        assert!(rows.iter().all(|row| row.text("reason").unwrap() == "drift"));
        let detail = rows[1].text("detail").unwrap();
        assert!(detail.starts_with("/new: new field of type array; accept the new schema"), "{detail}");
        drop(reader);

        let (source_id, id) = (bench.source_id, rows[1].int("id").unwrap());
        let replay = bed.db.write(move |conn| {
            Box::pin(async move {
                source_schemas::accept_next(conn, source_id, "").await?;
                quarantine::replay(conn, id, None, &[], Clock::system().now()).await
            })
        });
        replay.await.unwrap();
        let task = bed.db.write(|conn| {
            Box::pin(async move {
                let now = Clock::system().now();
                matome_store::tasks::claim(conn, matome_model::task::Queue::Acquisition, uuid::Uuid::new_v4(), 1, now)
                    .await
            })
        });
        let task = task.await.unwrap().pop().unwrap();
        let ctx = TaskContext::new(bed.db.clone(), task.task.id, task.fence);
        let result = bench.handler().run(task.clone(), ctx).await.unwrap().result;
        bench.abandon(&task).await;
        assert_eq!(count(&result, "stored"), 1, "{}", bed.name);
        let (version, settled, _, changes) = schema(&bench).await;
        assert_eq!(
            (version, settled, changes[0].as_str()),
            (2, false, "/new array"),
            "{}: a replay ends no read",
            bed.name
        );
        // The next read learns the rest, and ends the learning.
        bench.run().await.unwrap();
        assert_eq!(bench.stored().await, canonical(&records), "{}", bed.name);
        assert!(schema(&bench).await.1, "{}", bed.name);
    }
}

#[tokio::test]
async fn what_is_not_stored_teaches_nothing() {
    for bed in databases().await {
        let options = r#","validation":{"rules":[{"field":"id","required":true}]}"#;
        let bench = Bench::new(&bed.db, options).await;
        bench.write_file(&lines(&[r#"{"id":1}"#, r#"{"wrong":1}"#, "{"]));
        bench.run().await.unwrap();
        assert_eq!(schema(&bench).await.3, ["/id integer"], "{}", bed.name);
    }
}

#[tokio::test]
async fn a_sample_tells_of_duplicates_warnings_and_drift() {
    for bed in databases().await {
        let options = r#","validation":{"rules":[{"field":"id","min":0}],"policy":"warn"}"#;
        let bench = Bench::new(&bed.db, options).await;
        bench.write_file(&lines(&[r#"{"id":1}"#]));
        bench.run().await.unwrap();
        let before = schema(&bench).await;
        bench.write_file(&lines(&[r#"{"id":1}"#, r#"{"id":-1,"new":"x"}"#, "{", r#"{"id":1.0}"#]));
        let mut reader = bed.db.read().await.unwrap();
        let sql = "select config from data_sources where id = $1";
        let config = reader.conn().fetch_one(sql, &[bench.source_id.into()]).await.unwrap().json("config").unwrap();
        for (dedupe, stored) in [("rows", true), ("hash", false)] {
            let config = config.get().replacen('{', &format!("{{\"dedupe\":\"{dedupe}\","), 1);
            let stored_schema = source_schemas::current(&mut reader.conn(), bench.source_id, "").await.unwrap();
            let limit = std::time::Duration::from_secs(30);
            let sampled =
                sample(&bench.registry, SourceType::File, &config, stored_schema, None, 100, limit).await.unwrap();
            assert_eq!((sampled.records.len(), sampled.quarantined.len()), (3, 1), "{}", bed.name);
            let [duplicate] = sampled.duplicates[..] else { panic!("{:?}", sampled.duplicates) };
            assert_eq!((duplicate.record, duplicate.of, duplicate.stored), (3, 1, stored), "{}", bed.name);
            let [warning] = &sampled.warnings[..] else { panic!("{:?}", sampled.warnings) };
            assert_eq!((warning.record, warning.warnings.len()), (2, 1));
            let drift: Vec<String> = sampled.drift.iter().map(ToString::to_string).collect();
            assert_eq!(drift, ["/new: new field of type string"], "{}", bed.name);
        }
        assert_eq!(schema(&bench).await, before, "{}: nothing is stored", bed.name);
        assert_eq!(bench.stored().await.len(), 1);
    }
}
