//! What happens to records that are not what their source promises, on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use matome_acquisition::sample;
use matome_connector::validate_config;
use matome_model::source::SourceType;
use matome_store::checkpoints::{self, CheckpointKey, LIVE};
use matome_store::db::Db;
use matome_tasks::Advice;
use matome_testbed::databases;
use support::{Bench, canonical, count};

const VALIDATION: &str = r#"{"schema":{"properties":{"n":{"maximum":12345678901234567890}}},
    "rules":[{"field":"id","required":true,"unique":true}],"policy":"POLICY"}"#;

async fn bench(db: &Db, policy: &str, more: &str) -> Bench {
    let validation = VALIDATION.replace("POLICY", policy);
    Bench::new(db, &format!(r#","validation":{validation}{more}"#)).await
}

fn lines() -> Vec<String> {
    [
        r#"{"id":1,"n":12345678901234567890}"#,
        r#"{"id":2,"n":12345678901234567891}"#,
        r#"{"id":1,"n":1}"#,
        r#"{"n":1}"#,
        r#"{"id":3}"#,
    ]
    .map(str::to_owned)
    .to_vec()
}

#[tokio::test]
async fn records_that_break_schema_or_rules_go_to_quarantine() {
    for bed in databases().await {
        let bench = bench(&bed.db, "quarantine", "").await;
        bench.write_file(&lines());
        for seen in [1, 2] {
            let result = bench.run().await.unwrap().result;
            assert_eq!((count(&result, "read"), count(&result, "quarantined")), (5, 3), "{}", bed.name);
            let mut reader = bed.db.read().await.unwrap();
            let sql = "select reason, detail, raw, seen from quarantine where source_id = $1 order by id";
            let rows = reader.conn().fetch_all(sql, &[bench.source_id.into()]).await.unwrap();
            let found: Vec<_> =
                rows.iter().map(|row| (row.text("reason").unwrap(), row.int("seen").unwrap())).collect();
            assert_eq!(found, [("schema".to_owned(), seen), ("rule".to_owned(), seen), ("rule".to_owned(), seen)]);
            assert_eq!(rows[0].bytes("raw").unwrap(), lines()[1].as_bytes());
            let detail = rows[0].text("detail").unwrap();
            assert!(detail.starts_with("/n: 12345678901234567891 is greater than 12345678901234567890"), "{detail}");
        }
        assert_eq!(bench.stored().await, canonical(&[lines()[0].clone(), lines()[4].clone()]));
    }
}

#[tokio::test]
async fn records_that_are_only_warned_of_are_stored_with_warnings() {
    for bed in databases().await {
        let bench = bench(&bed.db, "warn", "").await;
        bench.write_file(&lines());
        let result = bench.run().await.unwrap().result;
        assert_eq!(
            (count(&result, "stored"), count(&result, "warned"), count(&result, "quarantined")),
            (5, 3, 0),
            "{}",
            bed.name
        );
        assert_eq!(bench.stored().await, canonical(&lines()));
        let mut reader = bed.db.read().await.unwrap();
        let sql = "select metadata from acquired_data where source_id = $1 order by id";
        let rows = reader.conn().fetch_all(sql, &[bench.source_id.into()]).await.unwrap();
        let warned: Vec<bool> =
            rows.iter().map(|row| row.json("metadata").unwrap().get().contains("\"warnings\"")).collect();
        assert_eq!(warned, [false, true, true, true, false], "{}", bed.name);
    }
}

#[tokio::test]
async fn a_refused_page_stores_nothing_and_leaves_the_checkpoint() {
    for bed in databases().await {
        let bench = bench(&bed.db, "reject_batch", "").await;
        let rows = bed.db.page_rows();
        let mut lines: Vec<String> = (0..rows * 2).map(|n| format!("{{\"id\":{n}}}")).collect();
        lines[rows + 3] = "{\"id\":null}".to_owned();
        bench.write_file(&lines);
        let key = CheckpointKey { source_id: bench.source_id, stream: String::new(), purpose: LIVE.to_owned() };
        for _ in 0..2 {
            let err = bench.run().await.unwrap_err();
            assert_eq!((err.advice, err.reason.as_str()), (Advice::Fail, "rejected"), "{}", bed.name);
            assert!(err.message.english.contains("/id: is null"), "{}", err.message);
            assert!(err.position.unwrap().get().contains(&format!("\"line\":{}", rows + 4)));
            assert_eq!(bench.stored().await, canonical(&lines[..rows]), "{}", bed.name);
            let mut reader = bed.db.read().await.unwrap();
            let checkpoint = checkpoints::find(&mut reader.conn(), &key).await.unwrap().unwrap();
            assert!(!checkpoint.read_ended);
        }
        lines[rows + 3] = "{\"id\":-1}".to_owned();
        bench.write_file(&lines);
        // The read would have gone on inside of a file that is not there any more: that is told once, and the retry begins anew.
        let err = bench.run().await.unwrap_err();
        let told = (err.advice, err.reason.as_str());
        assert_eq!(told, (Advice::Retry { after: None }, "file_changed"), "{}", bed.name);
        bench.run().await.unwrap();
        assert_eq!(bench.stored().await, canonical(&lines), "{}", bed.name);
    }
}

#[tokio::test]
async fn a_read_of_which_too_much_is_bad_fails_and_keeps_what_it_found() {
    for bed in databases().await {
        for (limit, bad, fails) in [
            (r#"{"max_records":3}"#, 3, false),
            (r#"{"max_records":3}"#, 4, true),
            (r#"{"max_ratio":0.5}"#, 50, false),
            (r#"{"max_ratio":0.5}"#, 51, true),
        ] {
            let bench = Bench::new(&bed.db, &format!(r#","quarantine":{limit}"#)).await;
            let lines: Vec<String> =
                (0..100).map(|n| if n < bad { format!("{{{n}") } else { format!("{{\"n\":{n}}}") }).collect();
            bench.write_file(&lines);
            let result = bench.run().await;
            assert_eq!(result.is_err(), fails, "{} {limit} {bad}", bed.name);
            assert_eq!(bench.stored().await.len(), 100 - bad);
            if let Err(err) = result {
                assert_eq!((err.advice, err.reason.as_str()), (Advice::Fail, "quarantine_limit"));
                assert!(err.message.english.contains(&format!("{bad} of 100 records")), "{}", err.message);
            }
        }
    }
}

#[tokio::test]
async fn a_sample_is_judged_too() {
    let dir = tempfile::TempDir::new().unwrap();
    let root = dir.path().canonicalize().unwrap();
    std::fs::write(root.join("data.ndjson"), lines().join("\n")).unwrap();
    let registry = support::registry(&root);
    for (policy, records, quarantined) in [("quarantine", 2, 3), ("warn", 5, 0)] {
        let validation = VALIDATION.replace("POLICY", policy);
        let config = format!(r#"{{"path":"data.ndjson","validation":{validation}}}"#);
        assert!(validate_config(SourceType::File, &config).is_ok());
        let sampled = sample(&registry, SourceType::File, &config, None, None, 10, std::time::Duration::from_secs(30))
            .await
            .unwrap();
        assert_eq!((sampled.records.len(), sampled.quarantined.len()), (records, quarantined), "{policy}");
    }
    let config = format!(r#"{{"path":"data.ndjson","validation":{}}}"#, VALIDATION.replace("POLICY", "reject_batch"));
    let err = sample(&registry, SourceType::File, &config, None, None, 10, std::time::Duration::from_secs(30))
        .await
        .unwrap_err();
    assert!(err.position().is_some_and(|position| position.line == Some(2)), "{err}");
}
