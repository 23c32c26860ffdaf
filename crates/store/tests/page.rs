//! The page transaction: commits whole or not at all, stores by value, counts.

mod page_support;

use futures::TryStreamExt as _;
use matome_model::canonical::{Canonicaliser, QuarantineReason};
use matome_model::source::Dedupe;
use matome_store::error::StoreError;
use matome_store::source_schemas::{self, NewVersion};
use matome_store::{acquired_data, checkpoints, counters, quarantine};
use matome_testbed::databases;
use page_support::{Reading, at, bad};

#[tokio::test]
async fn a_page_moves_records_checkpoint_and_counters_together() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        let mut page = reading.page(&[r#"{"a":1}"#, r#"{"a":2}"#]);
        page.quarantined.push(bad(b"{", QuarantineReason::InvalidJson));
        page.checkpoint.state = r#"{"next":"2"}"#.to_owned();
        page.ends_read = true;
        let committed = reading.commit(page).await.unwrap();
        assert_eq!(
            (committed.counts.read, committed.counts.stored, committed.counts.duplicate, committed.counts.quarantined),
            (3, 2, 0, 1)
        );

        let mut reader = bed.db.read().await.unwrap();
        let mut conn = reader.conn();
        let checkpoint = checkpoints::find(&mut conn, &reading.key()).await.unwrap().unwrap();
        assert_eq!(checkpoint.page_seq, 1, "{}", bed.name);
        assert_eq!(checkpoint.state.get().replace(' ', ""), r#"{"next":"2"}"#);
        assert_eq!(checkpoint.lease_epoch, reading.fence.lease_epoch);
        let watermark = acquired_data::watermark(&mut conn, reading.source_id).await.unwrap();
        assert_eq!(checkpoint.last_record_id, watermark);
        let ids: Vec<i64> = reading.rows().await.into_iter().map(|row| row.id).collect();
        assert_eq!(ids.iter().max(), Some(&watermark), "{}", bed.name);
        for (table, rows) in [(counters::ACQUIRED_DATA, 2), (counters::QUARANTINE, 1)] {
            assert_eq!(counters::of_source(&mut conn, table, reading.source_id).await.unwrap(), rows);
        }
        let fetched = conn.fetch_one("select last_fetched_at from data_sources", &[]).await.unwrap();
        assert_eq!(fetched.opt_time("last_fetched_at").unwrap(), Some(at()));
        let row = conn
            .fetch_one("select metadata, acquired_at, version, stream from acquired_data order by id limit 1", &[])
            .await
            .unwrap();
        assert_eq!(row.json("metadata").unwrap().get().replace(' ', ""), r#"{"line":0,"task":7}"#);
        assert_eq!(row.time("acquired_at").unwrap(), at());
        assert_eq!((row.int("version").unwrap(), row.text("stream").unwrap().as_str()), (1, ""));
    }
}

#[tokio::test]
async fn a_source_is_streamed_whole_however_long_its_records_are_and_whatever_goes_meanwhile() {
    // On both sides of what shares a text with others on SQLite, and more than fits into two of them.
    let lengths = (0..700).map(|n| [1, 65_500, 65_519, 65_520, 70_000, 3][usize::from(n % 100 == 0) * (n / 100 % 6)]);
    let records = lengths.enumerate().map(|(n, length)| format!(r#"{{"é":"{}","n":{n}}}"#, "x".repeat(length)));
    let records: Vec<String> = records.collect();
    let texts: Vec<&str> = records.iter().map(String::as_str).collect();
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        reading.commit_records(&texts[..300]).await.unwrap();
        reading.commit_records(&texts[300..]).await.unwrap();
        let mut reader = bed.db.read().await.unwrap();
        let mut conn = reader.conn();
        let mut stored = acquired_data::stream(&mut conn, reading.source_id, i64::MAX);
        let mut streamed = vec![stored.try_next().await.unwrap().unwrap()];
        let delete = bed.db.write(|conn| Box::pin(async { conn.execute("delete from acquired_data", &[]).await }));
        assert_eq!(delete.await.unwrap(), 700);
        while let Some(record) = stored.try_next().await.unwrap() {
            streamed.push(record);
        }
        drop(stored);
        streamed.sort_by_key(|record| record.id);
        assert!(streamed.windows(2).all(|two| two[0].id < two[1].id), "{}", bed.name);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let found: Vec<_> = streamed.iter().map(|record| value(&record.raw_data)).collect();
        assert!(found == texts.iter().map(|text| value(text)).collect::<Vec<_>>(), "{}", bed.name);
        assert!(streamed.iter().all(|record| record.key.as_ref().is_some_and(|key| key.len() == 16)));
        assert!(
            streamed.iter().all(|record| record.data_hash.len() == 64 && record.version == 1 && !record.is_deleted)
        );
        // The transaction ended with the stream: what is read now is of now.
        let left = acquired_data::stream(&mut conn, reading.source_id, i64::MAX).try_next().await.unwrap();
        assert!(left.is_none(), "{}", bed.name);
    }
}

#[tokio::test]
async fn a_fenced_page_leaves_nothing() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Rows).await;
        reading.commit_records(&[r#"{"a":1}"#]).await.unwrap();
        reading.steal_lane().await;
        let mut page = reading.page(&[r#"{"a":2}"#]);
        page.quarantined.push(bad(b"{", QuarantineReason::InvalidJson));
        page.ends_read = true;
        let err = reading.commit(page).await.unwrap_err();
        assert!(matches!(err, StoreError::Fenced { .. }), "{}: {err:?}", bed.name);
        reading.assert_stored(&[r#"{"a":1}"#]).await;
        assert_eq!(reading.count("quarantine").await, 0);
        assert_eq!(reading.checkpoint().await.page_seq, 1);
    }
}

#[tokio::test]
async fn a_lease_lost_while_the_page_is_inserted_takes_all_of_it_back() {
    // The late check alone must be enough: the early one is made to pass.
    let bed = matome_testbed::postgres().await;
    let mut reading = Reading::start(&bed, Dedupe::Hash).await;
    let page = reading.page(&[r#"{"a":1}"#]);
    let blocker = bed.db.clone();
    let (fence, source_id) = (reading.fence, reading.source_id);
    // A trigger on the rows themselves moves the lease on, as a sweep would from another session.
    blocker
        .write(move |conn| {
            Box::pin(async move {
                conn.execute_script(format!(
                    "create function steal() returns trigger language plpgsql as $$ begin
                       update lanes set lease_epoch = lease_epoch + 1 where id = {}; return null; end $$;
                     create trigger steal after insert on acquired_data for each statement execute function steal();",
                    fence.lane_id
                ))
                .await
            })
        })
        .await
        .unwrap();
    let err = reading.commit(page).await.unwrap_err();
    assert!(matches!(err, StoreError::Fenced { .. }), "{err:?}");
    assert_eq!(reading.count("acquired_data").await, 0);
    let mut reader = bed.db.read().await.unwrap();
    assert_eq!(counters::of_source(&mut reader.conn(), counters::ACQUIRED_DATA, source_id).await.unwrap(), 0);
}

#[tokio::test]
async fn a_page_behind_a_checkpoint_that_moved_leaves_nothing() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::None).await;
        reading.commit_records(&[r#"{"a":1}"#]).await.unwrap();
        for (page_seq, config_rev) in [(0, 1), (2, 1), (1, 2)] {
            let mut page = reading.page(&[r#"{"a":2}"#]);
            (page.checkpoint.page_seq, page.checkpoint.config_rev) = (page_seq, config_rev);
            let err = reading.commit(page).await.unwrap_err();
            assert!(matches!(err, StoreError::CheckpointMoved { .. }), "{}: {err:?}", bed.name);
        }
        reading.assert_stored(&[r#"{"a":1}"#]).await;
    }
}

#[tokio::test]
async fn values_are_stored_exactly_and_with_one_hash_on_both_databases() {
    let records = [
        r#"{"n":12345678901234567890123}"#,
        r#"{"n":9007199254740993}"#,
        r#"{"n":0.1000000000000000055511151231257827}"#,
        r#"{"n":1e400,"m":-1E-400,"z":-0,"o":1.10}"#,
        r#"{"日本語":"全角　と😀","é":"e\u0301","":"\\u0000 is text"}"#,
        r#"{"b":[null,true,false,[],{}],"a":"\t\n\"\/"}"#,
        r#"{"__proto__":{"$serde_json::private::Number":"1"}}"#,
    ];
    let mut hashes = Vec::new();
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        reading.commit_records(&records).await.unwrap();
        let mut rows = reading.rows().await;
        rows.sort_by_key(|row| row.id);
        let mut canonicaliser = Canonicaliser::default();
        for (record, row) in records.iter().zip(&rows) {
            let expected = canonicaliser.canonicalise(record.as_bytes()).unwrap();
            let (text, hash) = (expected.text.to_owned(), expected.hash_hex());
            assert_eq!(row.data_hash, hash);
            // What comes back has the same canonical form: equal by value.
            assert_eq!(canonicaliser.canonicalise(row.raw_data.as_bytes()).unwrap().text, text, "{}", bed.name);
        }
        hashes.push(rows.into_iter().map(|row| row.data_hash).collect::<Vec<_>>());
    }
    assert_eq!(hashes[0], hashes[1]);
}

#[tokio::test]
async fn quarantine_keeps_one_row_with_its_bytes_and_counts() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        let nul = b"{\"a\":\"\\u0000\",\"b\":\"\x00\xff\"}";
        for _ in 0..2 {
            let mut page = reading.page(&[]);
            page.quarantined.push(bad(nul, QuarantineReason::NulCharacter));
            page.quarantined.push(bad(nul, QuarantineReason::NulCharacter));
            page.quarantined.push(bad(br#"{"a":"\ud800"}"#, QuarantineReason::LoneSurrogate));
            let committed = reading.commit(page).await.unwrap();
            assert_eq!((committed.counts.read, committed.counts.quarantined), (3, 3));
        }
        let mut reader = bed.db.read().await.unwrap();
        let mut conn = reader.conn();
        let sql = "select reason, raw, raw_length, seen, position, detail, task_id from quarantine order by id";
        let rows = conn.fetch_all(sql, &[]).await.unwrap();
        assert_eq!(rows.len(), 2, "{}", bed.name);
        assert_eq!(rows[0].text("reason").unwrap(), "nul_character");
        assert_eq!(rows[0].bytes("raw").unwrap(), nul);
        assert_eq!(rows[0].int("raw_length").unwrap(), i64::try_from(nul.len()).unwrap());
        assert_eq!(rows[0].int("seen").unwrap(), 4);
        assert_eq!(rows[1].int("seen").unwrap(), 2);
        assert_eq!(counters::of_source(&mut conn, counters::QUARANTINE, reading.source_id).await.unwrap(), 2);
        assert_eq!(acquired_data::watermark(&mut conn, reading.source_id).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn more_bad_records_than_one_statement_takes_are_all_kept() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        let mut page = reading.page(&[]);
        page.quarantined = (0..250).map(|n| bad(format!("{{{n}").as_bytes(), QuarantineReason::InvalidJson)).collect();
        reading.commit(page).await.unwrap();
        assert_eq!(reading.count("quarantine").await, 250, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_full_page_of_large_records_is_stored_whole() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Rows).await;
        let records: Vec<String> =
            (0..bed.db.page_rows()).map(|n| format!(r#"{{"n":{n},"text":"{}"}}"#, "あ".repeat(300))).collect();
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        let committed = reading.commit_records(&records).await.unwrap();
        assert_eq!(committed.counts.stored, u64::try_from(records.len()).unwrap());
        assert_eq!(reading.count("acquired_data").await, i64::try_from(records.len()).unwrap(), "{}", bed.name);
        let again = reading.restarted().await.commit_records(&records).await.unwrap();
        assert_eq!((again.counts.stored, again.counts.duplicate), (0, u64::try_from(records.len()).unwrap()));
    }
}

#[tokio::test]
async fn a_page_resets_attempts_and_crashes_of_its_task() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::None).await;
        let fence = reading.fence;
        bed.db
            .write(move |conn| {
                Box::pin(async move {
                    let sql =
                        "insert into tasks (task_uuid, queue, lane_id, object_id, cause, status, run_at, sort_key,
                        attempt, crash_count, lease_epoch, worker)
                    values ($1, 'acquisition', $2, 1, 'manual', 'running', $3, $3, 4, 1, $4, $5)";
                    let args = [
                        uuid::Uuid::new_v4().into(),
                        fence.lane_id.into(),
                        at().into(),
                        fence.lease_epoch.into(),
                        fence.worker.into(),
                    ];
                    conn.execute(sql, &args).await
                })
            })
            .await
            .unwrap();
        reading.commit_records(&[]).await.unwrap();
        let mut reader = bed.db.read().await.unwrap();
        let row = reader.conn().fetch_one("select attempt, crash_count from tasks", &[]).await.unwrap();
        assert_eq!((row.int("attempt").unwrap(), row.int("crash_count").unwrap()), (0, 0), "{}", bed.name);
    }
}

#[tokio::test]
async fn a_checkpoint_of_another_config_revision_is_not_used() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::None).await;
        let mut page = reading.page(&[r#"{"a":1}"#]);
        page.checkpoint.state = r#"{"next":"2"}"#.to_owned();
        reading.commit(page).await.unwrap();
        let last_record_id = reading.checkpoint().await.last_record_id;
        let kept = r#"{"next":"2"}"#;
        // A second attempt of the task that was to begin anew goes on where the first one stood.
        let begins = [(8, 1, false, kept), (8, 1, true, kept), (9, 1, true, "{}"), (9, 2, false, "{}")];
        for (task_id, config_rev, reset, state) in begins {
            let (fence, key) = (reading.fence, reading.key());
            let begun = bed
                .db
                .write(move |conn| {
                    Box::pin(
                        async move { checkpoints::begin(conn, &fence, &key, task_id, config_rev, reset, at()).await },
                    )
                })
                .await
                .unwrap();
            assert_eq!(begun.state.get().replace(' ', ""), state, "{}", bed.name);
            assert_eq!((begun.page_seq, begun.last_record_id), (1, last_record_id));
        }
    }
}

#[tokio::test]
async fn a_schema_accepted_during_a_read_is_learned_by_the_next() {
    for bed in databases().await {
        for (is_learning, is_accepted) in [(true, false), (true, true), (false, false), (false, true)] {
            let mut reading = Reading::start(&bed, Dedupe::Hash).await;
            let source_id = reading.source_id;
            let version = |version: i64, settled: bool| NewVersion {
                version,
                fields: "{}".to_owned(),
                changes: "[]".to_owned(),
                settled,
                accepts: 0,
            };
            let mut first = reading.page(&[r#"{"a":1}"#]);
            first.schema.new = Some(version(1, !is_learning));
            reading.commit(first).await.unwrap();
            if is_accepted {
                let accept = bed
                    .db
                    .write(move |conn| Box::pin(async move { source_schemas::accept_next(conn, source_id, "").await }));
                accept.await.unwrap();
            }
            // The read that began before finds something new, and ends.
            let mut last = reading.page(&[r#"{"b":1}"#]);
            (last.ends_read, last.schema.settles) = (true, is_learning);
            last.schema.new = Some(version(2, !is_learning));
            reading.commit(last).await.unwrap();
            let mut reader = bed.db.read().await.unwrap();
            let schema = source_schemas::current(&mut reader.conn(), source_id, "").await.unwrap().unwrap();
            let told = format!("{}, learning: {is_learning}, accepted: {is_accepted}", bed.name);
            assert_eq!((schema.version, schema.settled), (2, !is_accepted), "{told}");
            assert_eq!(schema.accepts, i64::from(is_accepted), "{told}");
        }
    }
}

#[tokio::test]
async fn a_parent_in_quarantine_is_never_replayed_as_a_record() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        let mut page = reading.page(&[]);
        page.quarantined.push(bad(br#"{"id":1}"#, QuarantineReason::Parent));
        reading.commit(page).await.unwrap();
        let source_id = reading.source_id;
        let replays = bed.db.write(move |conn| {
            Box::pin(async move {
                let sql = "select id from quarantine where source_id = $1";
                let id = conn.fetch_one(sql, &[source_id.into()]).await?.int("id")?;
                let one = quarantine::replay(conn, id, None, &[], at()).await?;
                let corrected = quarantine::replay(conn, id, Some(br#"{"id":2}"#), &[], at()).await?;
                let many = quarantine::replay_many(conn, &quarantine::Which::Ids(vec![id]), &[], at()).await?;
                Ok((one, corrected, many))
            })
        });
        let (one, corrected, many) = replays.await.unwrap();
        let unfit = quarantine::Replay::Unfit(quarantine::Unfit::Parent);
        assert_eq!((one, corrected), (unfit.clone(), unfit), "{}", bed.name);
        assert_eq!((many.done, many.skipped), (0, 1), "{}", bed.name);
        assert_eq!(reading.count("inbox").await, 0, "{}", bed.name);
    }
}
