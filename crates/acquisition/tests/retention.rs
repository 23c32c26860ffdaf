//! Retention by age and by number, on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use chrono::TimeDelta;
use matome_acquisition::apply_retention;
use matome_model::clock::Clock;
use matome_store::db::Db;
use matome_testbed::databases;
use support::{Bench, count};

/// Makes everything that is stored of a source older.
async fn age(db: &Db, source_id: i64, days: i64) {
    let then = Clock::system().now() - TimeDelta::days(days);
    let sql = "update acquired_data set acquired_at = $2 where source_id = $1";
    db.write(move |conn| Box::pin(async move { conn.execute(sql, &[source_id.into(), then.into()]).await }))
        .await
        .unwrap();
}

fn lines(range: std::ops::Range<usize>, version: usize) -> Vec<String> {
    range.map(|n| format!(r#"{{"id":{n},"v":{version}}}"#)).collect()
}

#[tokio::test]
async fn old_records_go_and_young_ones_stay() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, r#","dedupe":"hash","retention":{"max_age_days":30}"#).await;
        bench.write_file(&lines(0..1_200, 1));
        bench.run().await.unwrap();
        let now = Clock::system().now();
        assert_eq!(apply_retention(&bed.db, now).await.unwrap(), 0, "{}", bed.name);
        age(&bed.db, bench.source_id, 31).await;
        bench.write_file(&lines(1_200..1_300, 1));
        bench.run().await.unwrap();
        assert_eq!(apply_retention(&bed.db, now).await.unwrap(), 1_200, "{}", bed.name);
        assert_eq!(bench.stored().await.len(), 100, "{}", bed.name);
        assert_eq!(apply_retention(&bed.db, now).await.unwrap(), 0, "{}", bed.name);
        // As documented: what the source still sends is new again.
        bench.write_file(&lines(1_190..1_300, 1));
        assert_eq!(count(&bench.run().await.unwrap().result, "stored"), 10, "{}", bed.name);
    }
}

#[tokio::test]
async fn of_too_many_records_the_oldest_go() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, r#","retention":{"max_records":700}"#).await;
        bench.write_file(&lines(0..1_500, 1));
        bench.run().await.unwrap();
        assert_eq!(apply_retention(&bed.db, Clock::system().now()).await.unwrap(), 800, "{}", bed.name);
        let stored = bench.stored().await;
        assert_eq!(stored.len(), 700, "{}", bed.name);
        assert!(
            stored.contains(&r#"{"id":1499,"v":1}"#.to_owned()) && stored.contains(&r#"{"id":800,"v":1}"#.to_owned())
        );
    }
}

#[tokio::test]
async fn the_newest_version_of_a_key_stays_unless_asked_otherwise() {
    for bed in databases().await {
        for (keep, left, removed) in [("", 600, 1_200), (r#","keep_newest":false"#, 0, 1_800)] {
            let options = format!(r#","key":"id","retention":{{"max_age_days":1,"max_records":10{keep}}}"#);
            let bench = Bench::new(&bed.db, &options).await;
            for version in 1..=3 {
                bench.write_file(&lines(0..600, version));
                bench.run().await.unwrap();
            }
            age(&bed.db, bench.source_id, 5).await;
            assert_eq!(apply_retention(&bed.db, Clock::system().now()).await.unwrap(), removed, "{}", bed.name);
            let stored = bench.stored().await;
            assert!(stored.len() == left && stored.iter().all(|text| text.contains(r#""v":3"#)), "{}", bed.name);
            if left > 0 {
                let result = bench.run().await.unwrap().result;
                assert_eq!((count(&result, "stored"), count(&result, "duplicate")), (0, 600), "{}", bed.name);
            }
        }
    }
}
