//! One reader of one source, as the tests of the page transaction need it.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Mutex};

use chrono::DateTime;
use futures::StreamExt as _;
use matome_model::canonical::{Canonicaliser, QuarantineReason};
use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use matome_model::record_key::RecordKey;
use matome_model::source::Dedupe;
use matome_model::task::Fence;
use matome_store::acquired_data::{
    self, Committed, KeyedRead, Occurrences, Page, PageCounts, Records, Room, StoredRecord,
};
use matome_store::checkpoints::{self, Advance, Checkpoint, CheckpointKey, LIVE};
use matome_store::db::Db;
use matome_store::error::Result;
use matome_store::quarantine::BadRecord;
use matome_testbed::TestDb;
use uuid::Uuid;

pub fn at() -> Timestamp {
    DateTime::from_timestamp_micros(1_763_900_000_123_456).unwrap()
}

pub fn bad(raw: &[u8], reason: QuarantineReason) -> BadRecord {
    BadRecord {
        reason,
        detail: Words::new("it is bad\0", "不正です\0"),
        position: r#"{"line":3}"#.to_owned(),
        raw: raw.to_vec(),
        raw_length: u64::try_from(raw.len()).unwrap(),
        key: None,
    }
}

pub struct Reading {
    pub db: Db,
    pub source_id: i64,
    pub fence: Fence,
    pub dedupe: Dedupe,
    page_seq: i64,
    occurrences: Option<Arc<Mutex<Occurrences>>>,
    keyed: Option<Arc<Mutex<KeyedRead>>>,
    canonicaliser: Canonicaliser,
    pub record_key: Option<RecordKey>,
    counted: Option<usize>,
}

impl Reading {
    /// The same as one that gives only what was never read before.
    pub fn adding(self) -> Self {
        if let Some(occurrences) = &self.occurrences {
            occurrences.lock().unwrap().see_all();
        }
        self
    }

    /// A new source whose lane is held, at the start of its first read.
    pub async fn start(bed: &TestDb, dedupe: Dedupe) -> Self {
        let worker = Uuid::new_v4();
        let (source_id, lane_id) = bed
            .db
            .write(move |conn| {
                Box::pin(async move {
                    let name = Uuid::new_v4().to_string();
                    let sql = "insert into data_sources (name, source_type) values ($1, 'file') returning id";
                    let source_id = conn.fetch_one(sql, &[(&name).into()]).await?.int("id")?;
                    let sql = "insert into lanes (queue, kind, object_id, lease_epoch, lease_worker, lease_task)
                        values ('acquisition', 'source', $1, 1, $2, 7) returning id";
                    let lane_id = conn.fetch_one(sql, &[source_id.into(), worker.into()]).await?.int("id")?;
                    Ok((source_id, lane_id))
                })
            })
            .await
            .unwrap();
        Self::begin(bed.db.clone(), source_id, Fence { lane_id, lease_epoch: 1, worker }, dedupe).await
    }

    async fn begin(db: Db, source_id: i64, fence: Fence, dedupe: Dedupe) -> Self {
        let key = CheckpointKey { source_id, stream: String::new(), purpose: LIVE.to_owned() };
        let (checkpoint, occurrences, keyed) = db
            .write(move |conn| {
                Box::pin(async move {
                    let checkpoint = checkpoints::begin(conn, &fence, &key, 7, 1, false, at()).await?;
                    let keyed = KeyedRead::begin(conn, &key, &checkpoint).await?;
                    let occurrences = Occurrences::begin(conn, &key, &checkpoint).await?;
                    Ok((checkpoint, occurrences, keyed))
                })
            })
            .await
            .unwrap();
        let keyed = (dedupe == Dedupe::Key).then(|| Arc::new(Mutex::new(keyed.expect("little to forget"))));
        let occurrences =
            (dedupe == Dedupe::Rows).then(|| Arc::new(Mutex::new(occurrences.expect("little to forget"))));
        let canonicaliser = Canonicaliser::default();
        let record_key = (dedupe == Dedupe::Key).then(|| RecordKey::new(vec!["id".parse().unwrap()]));
        let (page_seq, counted) = (checkpoint.page_seq, None);
        Self { db, source_id, fence, dedupe, page_seq, occurrences, keyed, canonicaliser, record_key, counted }
    }

    /// The same with room for the counts of so many contents.
    #[must_use]
    pub fn counting(mut self, counted: Option<usize>) -> Self {
        self.counted = counted;
        if let Some(most) = counted
            && let Some(occurrences) = self.occurrences.take()
        {
            let occurrences = Arc::into_inner(occurrences).unwrap().into_inner().unwrap();
            self.occurrences = Some(Arc::new(Mutex::new(occurrences.counting(most))));
        }
        self
    }

    /// The next read of the same source, with a new lease: after the end of this one, or its crash.
    pub async fn restarted(&self) -> Self {
        self.steal_lane().await;
        let fence = Fence { lease_epoch: self.fence.lease_epoch + 1, ..self.fence };
        Self::begin(self.db.clone(), self.source_id, fence, self.dedupe).await.counting(self.counted)
    }

    pub async fn steal_lane(&self) {
        let lane_id = self.fence.lane_id;
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    conn.execute("update lanes set lease_epoch = lease_epoch + 1 where id = $1", &[lane_id.into()])
                        .await
                })
            })
            .await
            .unwrap();
    }

    pub fn key(&self) -> CheckpointKey {
        CheckpointKey { source_id: self.source_id, stream: String::new(), purpose: LIVE.to_owned() }
    }

    pub fn page(&mut self, records: &[&str]) -> Page {
        let mut all = Records::with_capacity(records.len(), 0);
        for (line, record) in records.iter().enumerate() {
            let canonical = self.canonicaliser.canonicalise(record.as_bytes()).unwrap();
            let key = self.record_key.as_ref().map(|key| key.identity(canonical.text).unwrap());
            all.push(canonical.text, canonical.hash, key, |out| {
                out.push_str(&format!(r#"{{"line":{line},"task":7}}"#))
            });
        }
        Page {
            fence: self.fence,
            task_id: 7,
            acquired_at: at(),
            dedupe: self.dedupe,
            occurrences: self.occurrences.clone(),
            keyed: self.keyed.clone(),
            records: all,
            quarantined: Vec::new(),
            checkpoint: Advance {
                key: self.key(),
                page_seq: self.page_seq,
                config_rev: 1,
                state: "{}".to_owned(),
                is_exact: false,
                begins_anew: false,
            },
            ends_read: false,
            is_fetch: false,
            settles: None,
            progress: None,
            inbox: None,
            pushes: None,
            schema: acquired_data::SchemaStep::default(),
            deletes: Default::default(),
        }
    }

    pub async fn commit(&mut self, page: Page) -> Result<Committed> {
        let committed = self
            .db
            .write_page(move |conn| Box::pin(async move { acquired_data::commit_page(conn, &page).await }))
            .await?;
        self.page_seq += 1;
        if let Some(occurrences) = &self.occurrences {
            occurrences.lock().unwrap().advance(committed.seen.clone());
        }
        if let Some(keyed) = &self.keyed {
            keyed.lock().unwrap().advance(committed.seen.clone());
        }
        Ok(committed)
    }

    /// The last page of the read, and what waits for it: how many were stored, and how many were known.
    pub async fn end(&mut self, records: &[&str]) -> PageCounts {
        let mut page = self.page(records);
        page.ends_read = true;
        let mut counts = self.commit(page).await.unwrap().counts;
        loop {
            let is_any = {
                let mut reader = self.db.read().await.unwrap();
                acquired_data::any_repeats(&mut reader.conn(), &self.key()).await.unwrap()
            };
            if !is_any {
                return counts;
            }
            let mut page = self.page(&[]);
            (page.settles, page.keyed) = (Some(Room { rows: 3, bytes: 1 << 20 }), None);
            let more = self.commit(page).await.unwrap().counts;
            counts.stored += more.stored;
            counts.updated += more.updated;
            counts.duplicate += more.duplicate;
        }
    }

    pub async fn commit_records(&mut self, records: &[&str]) -> Result<Committed> {
        let page = self.page(records);
        self.commit(page).await
    }

    pub async fn checkpoint(&self) -> Checkpoint {
        let mut reader = self.db.read().await.unwrap();
        checkpoints::find(&mut reader.conn(), &self.key()).await.unwrap().unwrap()
    }

    pub async fn rows(&self) -> Vec<StoredRecord> {
        let mut reader = self.db.read().await.unwrap();
        let mut conn = reader.conn();
        let rows: Vec<_> = acquired_data::stream(&mut conn, self.source_id, i64::MAX).collect().await;
        rows.into_iter().map(Result::unwrap).collect()
    }

    pub async fn count(&self, table: &'static str) -> i64 {
        let mut reader = self.db.read().await.unwrap();
        let sql = format!("select count(*) as n from {table} where source_id = $1");
        let row = reader.conn().fetch_one(sqlx::AssertSqlSafe(sql), &[self.source_id.into()]).await.unwrap();
        row.int("n").unwrap()
    }

    /// Exactly these records are stored, each as often as it is named; the counter says so too.
    pub async fn assert_stored(&mut self, records: &[&str]) {
        let mut stored: Vec<String> = self
            .rows()
            .await
            .into_iter()
            .map(|row| self.canonicaliser.canonicalise(row.raw_data.as_bytes()).unwrap().text.to_owned())
            .collect();
        stored.sort();
        let mut expected: Vec<String> = records
            .iter()
            .map(|record| self.canonicaliser.canonicalise(record.as_bytes()).unwrap().text.to_owned())
            .collect();
        expected.sort();
        assert_eq!(stored, expected, "{:?}", self.db.dialect());
        let mut reader = self.db.read().await.unwrap();
        let counted =
            matome_store::counters::of_source(&mut reader.conn(), "acquired_data", self.source_id).await.unwrap();
        assert_eq!(counted, i64::try_from(expected.len()).unwrap());
    }
}

/// A generator of numbers that are the same for the same seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}
