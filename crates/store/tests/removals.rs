//! Removing records: by time, by a reset, one by one; what was asked for outlives whoever does it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod page_support;

use chrono::TimeDelta;
use matome_model::source::Dedupe;
use matome_model::task::LaneKind;
use matome_store::checkpoints::{self, CheckpointKey, LIVE};
use matome_store::db::Db;
use matome_store::error::StoreError;
use matome_store::removals::{self, Removal, Reset};
use matome_store::retention::{self, Place};
use matome_store::{counters, data_sources};
use matome_testbed::databases;
use page_support::{Reading, at};

async fn reset(reading: &Reading, data: bool) -> Reset {
    let id = reading.source_id;
    reading.db.write(move |conn| Box::pin(async move { removals::reset(conn, id, data, at()).await })).await.unwrap()
}

/// Ends the lease of a reading's lane, as the end of its task does.
async fn release(reading: &Reading) {
    let lane_id = reading.fence.lane_id;
    let sql = "update lanes set lease_worker = null, lease_task = null where id = $1";
    reading.db.write(move |conn| Box::pin(async move { conn.execute(sql, &[lane_id.into()]).await })).await.unwrap();
}

async fn remove_all(db: &Db, limit: i64) -> u32 {
    let mut batches = 0;
    while db.write_page(move |conn| Box::pin(removals::remove_batch(conn, limit, at()))).await.unwrap() {
        batches += 1;
    }
    batches
}

async fn is_paused(reading: &Reading) -> bool {
    let mut reader = reading.db.read().await.unwrap();
    let row = reader.conn().fetch_one("select paused from lanes where id = $1", &[reading.fence.lane_id.into()]).await;
    row.unwrap().bool("paused").unwrap()
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!(r#"{{"id":{n}}}"#)).collect()
}

#[tokio::test]
async fn a_reset_forgets_the_place_and_fences_the_read_that_is_under_way() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        let mut page = reading.page(&[r#"{"id":1}"#]);
        page.checkpoint.state = r#"{"next":"2"}"#.to_owned();
        reading.commit(page).await.unwrap();
        assert_eq!(reset(&reading, false).await, Reset::Done, "{}", bed.name);
        let err = reading.commit_records(&[r#"{"id":2}"#]).await.unwrap_err();
        assert!(matches!(err, StoreError::CheckpointMoved { .. }), "{err:?}");
        let checkpoint = reading.checkpoint().await;
        assert_eq!((checkpoint.state.get(), checkpoint.read_ended), ("{}", false), "{}", bed.name);
        let mut again = reading.restarted().await;
        assert_eq!(again.commit_records(&[r#"{"id":1}"#]).await.unwrap().counts.duplicate, 1, "{}", bed.name);
        again.assert_stored(&[r#"{"id":1}"#]).await;
        let missing = bed.db.write(|conn| Box::pin(removals::reset(conn, 999, true, at()))).await.unwrap();
        assert_eq!(missing, Reset::Missing);
    }
}

#[tokio::test]
async fn a_reset_of_data_reads_nothing_until_all_is_removed_and_then_stores_it_anew() {
    for bed in databases().await {
        for dedupe in [Dedupe::Hash, Dedupe::Rows, Dedupe::Key] {
            let records = numbered(25);
            let records: Vec<&str> = records.iter().map(String::as_str).collect();
            let mut reading = Reading::start(&bed, dedupe).await;
            let mut other = Reading::start(&bed, dedupe).await;
            reading.commit_records(&records).await.unwrap();
            other.commit_records(&records).await.unwrap();
            assert_eq!(reset(&reading, true).await, Reset::Removing, "{}", bed.name);
            assert!(is_paused(&reading).await);
            // Its worker holds the lane still: nothing is removed under it, and it can neither go on nor begin anew.
            assert_eq!(remove_all(&bed.db, 10).await, 0, "{}", bed.name);
            reading.commit_records(&records).await.unwrap_err();
            let (fence, key) = (
                reading.fence,
                CheckpointKey { source_id: reading.source_id, stream: String::new(), purpose: LIVE.to_owned() },
            );
            let begun = bed.db.write(move |conn| {
                Box::pin(async move { checkpoints::begin(conn, &fence, &key, 8, 1, true, at()).await })
            });
            assert!(matches!(begun.await, Err(StoreError::CheckpointMoved { .. })), "{}", bed.name);

            release(&reading).await;
            assert_eq!(remove_all(&bed.db, 10).await, 4, "{}: three batches and an end", bed.name);
            assert!(!is_paused(&reading).await);
            reading.assert_stored(&[]).await;
            let mut reader = bed.db.read().await.unwrap();
            let sql = "select removed_up_to, last_record_id from checkpoints where source_id = $1";
            let row = reader.conn().fetch_one(sql, &[reading.source_id.into()]).await.unwrap();
            assert_eq!(row.int("removed_up_to").unwrap(), row.int("last_record_id").unwrap(), "{}", bed.name);
            drop(reader);

            let (lane_id, worker) = (reading.fence.lane_id, reading.fence.worker);
            let sql = "update lanes set lease_worker = $2, lease_task = 7 where id = $1";
            let lease = bed
                .db
                .write(move |conn| Box::pin(async move { conn.execute(sql, &[lane_id.into(), worker.into()]).await }));
            lease.await.unwrap();
            let mut again = reading.restarted().await;
            assert_eq!(again.commit_records(&records).await.unwrap().counts.stored, 25, "{}", bed.name);
            again.assert_stored(&records).await;
            other.assert_stored(&records).await;
        }
    }
}

#[tokio::test]
async fn a_paused_source_stays_paused_behind_its_reset() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        reading.commit_records(&[r#"{"id":1}"#]).await.unwrap();
        let id = reading.source_id;
        let pause = bed.db.write(move |conn| {
            Box::pin(async move {
                let status = matome_model::source::SourceStatus::Inactive;
                data_sources::set_status(conn, id, status, at()).await?;
                matome_store::lanes::set_paused(conn, LaneKind::Source, id, true, at()).await
            })
        });
        pause.await.unwrap();
        release(&reading).await;
        reset(&reading, true).await;
        remove_all(&bed.db, 10).await;
        assert!(is_paused(&reading).await, "{}", bed.name);
        reading.assert_stored(&[]).await;
        assert_eq!(reset(&reading, true).await, Reset::Done, "{}: there is nothing to remove", bed.name);
    }
}

#[tokio::test]
async fn a_removal_by_time_takes_what_was_there_and_nothing_that_comes_later() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::None).await;
        for hour in 0..10 {
            let mut page = reading.page(&[r#"{"id":1}"#, r#"{"id":2}"#]);
            page.acquired_at = at() + TimeDelta::hours(hour);
            reading.commit(page).await.unwrap();
        }
        let id = reading.source_id;
        let request = |from: Option<i64>, before: Option<i64>| {
            let time = |hour: Option<i64>| hour.map(|hour| at() + TimeDelta::hours(hour));
            let removal = Removal { from: time(from), before: time(before) };
            bed.db.write(move |conn| Box::pin(async move { removals::request(conn, id, &removal, at()).await }))
        };
        request(Some(2), Some(5)).await.unwrap();
        request(None, Some(1)).await.unwrap();
        // Read after it was asked for, with a time from before.
        let mut page = reading.page(&[r#"{"id":3}"#]);
        page.acquired_at = at() + TimeDelta::hours(3);
        reading.commit(page).await.unwrap();
        remove_all(&bed.db, 4).await;
        let mut hours: Vec<i64> = reading.rows().await.iter().map(|row| (row.acquired_at - at()).num_hours()).collect();
        hours.sort_unstable();
        assert_eq!(hours, [1, 1, 3, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9], "{}", bed.name);
        let mut reader = bed.db.read().await.unwrap();
        let counted = counters::of_source(&mut reader.conn(), counters::ACQUIRED_DATA, id).await.unwrap();
        assert_eq!(counted, 13, "{}", bed.name);
        assert!(!removals::pending(&mut reader.conn(), id).await.unwrap());
    }
}

#[tokio::test]
async fn a_removed_version_leaves_a_hole_and_the_next_one_follows_the_newest() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Key).await;
        let versions: Vec<String> = (0..4).map(|n| format!(r#"{{"id":1,"n":{n}}}"#)).collect();
        let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
        reading.commit_records(&versions).await.unwrap();
        let ids: Vec<i64> = {
            let mut rows = reading.rows().await;
            rows.sort_by_key(|row| row.version);
            rows.iter().map(|row| row.id).collect()
        };
        let (source_id, gone) = (reading.source_id, [ids[0], ids[2], 999_999]);
        let removed = bed.db.write(move |conn| Box::pin(async move { removals::remove(conn, source_id, &gone).await }));
        assert_eq!(removed.await.unwrap(), 2, "{}", bed.name);
        reading.commit_records(&[versions[3], versions[0]]).await.unwrap();
        let mut left: Vec<i64> = reading.rows().await.iter().map(|row| row.version).collect();
        left.sort_unstable();
        assert_eq!(left, [2, 4, 5], "{}", bed.name);

        let mut reader = bed.db.read().await.unwrap();
        let old = retention::oldest(&mut reader.conn(), source_id, Place::start(), 10, false).await.unwrap();
        let superseded: Vec<bool> = old.iter().map(|old| old.is_superseded).collect();
        assert_eq!(superseded, [true, true, false], "{}", bed.name);
        let rest = retention::oldest(&mut reader.conn(), source_id, old[1].place, 10, false).await.unwrap();
        assert_eq!(rest, old[2..], "{}", bed.name);
    }
}
