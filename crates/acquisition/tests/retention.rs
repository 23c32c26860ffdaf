//! Retention by age, by number and by bytes, on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use chrono::TimeDelta;
use matome_acquisition::apply_retention;
use matome_model::clock::Clock;
use matome_store::check::check;
use matome_store::db::Db;
use matome_store::removals::{self, Removal};
use matome_store::{counters, source_bytes};
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

/// Bytes that are counted of a source, and bytes that are stored of it.
async fn bytes(db: &Db, source_id: i64) -> (i64, i64) {
    let mut reader = db.read().await.unwrap();
    let sql = "select cast(coalesce(sum(octet_length(cast(raw_data as text))), 0) as bigint) as n from acquired_data
where source_id = $1";
    let stored = reader.conn().fetch_one(sql, &[source_id.into()]).await.unwrap().int("n").unwrap();
    (source_bytes::total(&mut reader.conn(), source_id).await.unwrap(), stored)
}

#[tokio::test]
async fn of_too_many_bytes_the_oldest_records_go_until_the_rest_fits() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, r#","dedupe":"hash","retention":{"max_bytes":30000}"#).await;
        bench.write_file(&lines(1_000..3_500, 1));
        bench.run().await.unwrap();
        let removed = apply_retention(&bed.db, Clock::system().now()).await.unwrap();
        let (counted, stored) = bytes(&bed.db, bench.source_id).await;
        let longest = stored / i64::try_from(bench.stored().await.len()).unwrap() + 1;
        assert!(removed > 500 && counted == stored && stored <= 30_000, "{}: {removed}, {counted}, {stored}", bed.name);
        assert!(stored > 30_000 - longest, "{}: no more than had to: {stored}", bed.name);
        assert!(bench.stored().await.contains(&r#"{"id":3499,"v":1}"#.to_owned()), "{}", bed.name);
        assert_eq!(apply_retention(&bed.db, Clock::system().now()).await.unwrap(), 0, "{}", bed.name);

        // What comes is counted, and what is removed in another way is taken off.
        bench.write_file(&lines(4_000..4_010, 1));
        bench.run().await.unwrap();
        assert_eq!(apply_retention(&bed.db, Clock::system().now()).await.unwrap(), 10, "{}", bed.name);
        let (id, before) = (bench.source_id, Clock::system().now() + TimeDelta::days(1));
        let which = Removal { from: None, before: Some(before) };
        bed.db
            .write(move |conn| Box::pin(async move { removals::request(conn, id, &which, before).await }))
            .await
            .unwrap();
        let remove =
            async || bed.db.write_page(move |conn| Box::pin(removals::remove_batch(conn, 100, before))).await.unwrap();
        while remove().await {}
        assert_eq!(bytes(&bed.db, bench.source_id).await, (0, 0), "{}", bed.name);
        for verdict in check(&mut bed.snapshot().await, true).await.unwrap() {
            assert!(verdict.holds(), "{}: {verdict:?}", bed.name);
        }
    }
}

#[tokio::test]
async fn records_that_went_without_being_taken_off_are_noticed_before_anything_is_removed_for_them() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, r#","dedupe":"hash","retention":{"max_bytes":20000}"#).await;
        bench.write_file(&lines(1_000..2_000, 1));
        bench.run().await.unwrap();
        let now = Clock::system().now();
        apply_retention(&bed.db, now).await.unwrap();
        // As an older version does it, or a person: half of the bytes, which nobody takes off.
        let id = bench.source_id;
        let remove = bed.db.write(move |conn| {
            Box::pin(async move {
                let sql = "delete from acquired_data where source_id = $1 and id % 2 = 0";
                let gone = i64::try_from(conn.execute(sql, &[id.into()]).await?).unwrap();
                counters::add(conn, counters::ACQUIRED_DATA, id, "", -gone).await
            })
        });
        remove.await.unwrap();
        let left = bench.stored().await.len();
        bench.write_file(&lines(5_000..5_100, 1));
        bench.run().await.unwrap();
        assert_eq!(apply_retention(&bed.db, now).await.unwrap(), 0, "{}", bed.name);
        assert_eq!(bench.stored().await.len(), left + 100, "{}", bed.name);
        let (counted, stored) = bytes(&bed.db, id).await;
        assert_eq!(counted, stored, "{}", bed.name);
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
