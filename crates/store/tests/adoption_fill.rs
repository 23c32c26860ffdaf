//! Records that the original application stored get hash and identity page by page, as reading them again would give.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod page_support;

use matome_model::canonical::Canonicaliser;
use matome_model::record_key::RecordKey;
use matome_model::source::Dedupe;
use matome_store::adoption::fill::{self, FillPage, Hashed, Pending};
use matome_store::check::check;
use matome_store::error::StoreError;
use matome_testbed::{TestDb, databases};
use page_support::{Reading, at};

const RECORDS: &[&str] = &[
    r#"{"id":1,"n":1.0}"#,
    r#"{"id":1,"n":1}"#,
    r#"{"id":2,"n":1}"#,
    r#"{"id":1,"n":2}"#,
    r#"["no object"]"#,
    r#"{"id":1,"n":1}"#,
    r#"{"id":1,"n":1e0}"#,
];

/// A source with rows as the application left them: no identity, and a hash of its own.
async fn adopted(bed: &TestDb, dedupe: Dedupe) -> Reading {
    let reading = Reading::start(bed, dedupe).await;
    let source_id = reading.source_id;
    let write = bed.db.write(move |conn| {
        Box::pin(async move {
            let mut last = 0;
            for record in RECORDS {
                let sql = conn.pick(
                    "insert into acquired_data (source_id, raw_data, data_hash) values ($1, $2::jsonb, 'of python') returning id",
                    "insert into acquired_data (source_id, raw_data, data_hash) values ($1, $2, 'of python') returning id",
                );
                let record = matome_store::db::Arg::Json(Some(record));
                last = conn.fetch_one(sql, &[source_id.into(), record]).await?.int("id")?;
            }
            let sql = "insert into adoptions (kind, object_id, up_to_id) values ('source', $1, $2)";
            conn.execute(sql, &[source_id.into(), last.into()]).await?;
            let sql = "insert into counters (table_name, source_id, stream, row_count) values ('acquired_data', $1, '', 7)";
            conn.execute(sql, &[source_id.into()]).await?;
            // As after an adoption: no read has begun yet.
            conn.execute("delete from checkpoints where source_id = $1", &[source_id.into()]).await
        })
    });
    write.await.unwrap();
    reading
}

/// Fills one page of at most `limit` records; returns what is left.
async fn fill_page(reading: &Reading, limit: i64) -> Result<Option<Pending>, StoreError> {
    let (db, source_id) = (&reading.db, reading.source_id);
    let pending = fill::pending(&mut db.read().await?.conn(), source_id).await?;
    let Some(pending) = pending else { return Ok(None) };
    let found = fill::next(&mut db.read().await?.conn(), source_id, pending, limit, 1 << 20).await?;
    let (mut canonicaliser, key) = (Canonicaliser::default(), RecordKey::new(vec!["id".parse().unwrap()]));
    let done_id = found.last().map_or(pending.up_to_id, |last| last.id);
    let each = found.into_iter().map(|record| {
        let canonical = canonicaliser.canonicalise(record.raw_data.get().as_bytes()).ok();
        let key = canonical.as_ref().and_then(|canonical| key.identity(canonical.text).ok());
        let hash = canonical.map(|canonical| canonical.hash);
        Hashed { id: record.id, hash, key: key.filter(|_| reading.dedupe == Dedupe::Key), found_hash: record.data_hash }
    });
    let records = each.collect();
    let (fence, dedupe) = (reading.fence, reading.dedupe);
    let page = FillPage { fence, source_id, config_rev: 1, dedupe, records, done_id, now: at() };
    db.write_page(move |conn| Box::pin(async move { fill::commit(conn, &page).await })).await?;
    fill::pending(&mut db.read().await?.conn(), source_id).await
}

/// Of each row its version when it has an identity, its hash kept aside or not.
async fn identities(reading: &Reading) -> Vec<(Option<i64>, bool, Option<String>)> {
    let sql = "select version, key_hash, data_hash, adopted_hash from acquired_data where source_id = $1 order by id";
    let rows = reading.db.read().await.unwrap().conn().fetch_all(sql, &[reading.source_id.into()]).await.unwrap();
    let each = rows.iter().map(|row| {
        let version = row.opt_bytes("key_hash").unwrap().map(|_| row.int("version").unwrap());
        (version, row.opt_text("data_hash").unwrap().is_some(), row.opt_text("adopted_hash").unwrap())
    });
    each.collect()
}

#[tokio::test]
async fn filled_records_have_the_identity_that_a_read_would_give_them() {
    for bed in databases().await {
        // Copies of a content are told apart, kept once, or not at all; of a key each change is a version.
        let wanted = [
            (Dedupe::Rows, [Some(1), Some(1), Some(1), Some(1), None, Some(1), Some(1)]),
            (Dedupe::Hash, [Some(1), None, Some(1), Some(1), None, None, None]),
            (Dedupe::Key, [Some(1), None, Some(1), Some(2), None, Some(3), None]),
            (Dedupe::None, [None; 7]),
        ];
        for (dedupe, versions) in wanted {
            let mut reading = adopted(&bed, dedupe).await;
            let mut pages = 0;
            while fill_page(&reading, 2).await.unwrap().is_some() {
                pages += 1;
                // Killed here, what is there is whole.
                for verdict in check(&mut bed.snapshot().await, true).await.unwrap() {
                    let is_made_up = ["lease", "owner", "waiting", "task_state", "checkpoint"];
                    assert!(verdict.holds() || is_made_up.contains(&verdict.invariant), "{}: {verdict:?}", bed.name);
                }
            }
            assert_eq!(pages, 3, "{}", bed.name);
            let found = identities(&reading).await;
            assert_eq!(found.iter().map(|row| row.0).collect::<Vec<_>>(), versions, "{} {dedupe}", bed.name);
            assert!(found.iter().enumerate().all(|(n, row)| row.1 == (n != 4)), "what is no record has no hash");
            assert!(found.iter().all(|row| row.2.as_deref() == Some("of python")));

            // Reading the same again adds nothing, but for the mode that stores all.
            let records: Vec<&str> = RECORDS.iter().copied().filter(|record| record.starts_with('{')).collect();
            let mut again = reading.restarted().await;
            let stored = match dedupe {
                Dedupe::Key => 0,
                Dedupe::None => 6,
                Dedupe::Rows | Dedupe::Hash => 0,
            };
            let committed = again.commit_records(&records).await.unwrap();
            assert_eq!(committed.counts.stored, stored, "{} {dedupe}: {:?}", bed.name, committed.counts);
            reading = again;
            drop(reading);
        }
    }
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_fills_nothing() {
    for bed in databases().await {
        let reading = adopted(&bed, Dedupe::Rows).await;
        reading.steal_lane().await;
        let err = fill_page(&reading, 2).await.unwrap_err();
        assert!(matches!(err, StoreError::Fenced { .. }), "{}: {err:?}", bed.name);
        assert!(identities(&reading).await.iter().all(|row| row.0.is_none()));
    }
}
