//! The same operations in the same order on SQLite and on PostgreSQL: each gives the same answer and they leave the same
//! rows. Ids are compared by their order, since a sequence leaves out numbers that a rollback or a conflict took.
//!
//! The seed is printed; `MATOME_SEED=n` repeats a run.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use futures::FutureExt as _;
use matome_model::canonical::{Canonicaliser, QuarantineReason};
use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use matome_model::record_key::RecordKey;
use matome_model::schedule::{Plan, ScheduleOptions};
use matome_model::source::Dedupe;
use matome_model::task::{Fence, LaneKind, Priority, Queue, Trigger};
use matome_store::acquired_data::{self, KeyedRead, Occurrences, Page, Records, Room};
use matome_store::checkpoints::{self, Advance, CheckpointKey, LIVE};
use matome_store::db::{Db, Row};
use matome_store::error::{Result, StoreError};
use matome_store::listing::{Condition, Listing, Lookup, Order, Query, Value, acquired, quarantined};
use matome_store::migrate::Schema;
use matome_store::quarantine::BadRecord;
use matome_store::tasks::{self, End, Finish, NewTask, Retried, RetryPolicy};
use matome_store::workers::{self, NewWorker};
use matome_store::{lanes, schedules, task_history};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::value::RawValue;
use uuid::Uuid;

const CASES: u32 = 40;
const SOURCES: i64 = 3;
const WORKERS: u128 = 2;

#[derive(Clone, Debug)]
enum Op {
    Enqueue { object: i64, cause: Trigger, priority: Priority },
    RetryEnded { task: usize },
    Claim { worker: u128, slots: usize },
    Finish { held: usize, end: EndKind },
    Cancel { task: usize },
    CancelAll { object: i64 },
    Steal { worker: u128 },
    StealLease { held: usize },
    Pause { object: i64, paused: bool },
    Beat { worker: u128 },
    DeclareDead { worker: u128 },
    Schedule { object: i64, interval: i64, enabled: bool },
    Fire { limit: i64 },
    Promote,
    Repair,
    VoidLeases,
    Begin { held: usize, dedupe: Dedupe, reset: bool },
    Page { held: usize, records: Vec<u8>, bad: Vec<u8>, last: bool },
    Wait { secs: i64 },
    List { of: usize, column: usize, lookup: usize, value: i64, descending: bool, limit: i64, offset: i64 },
}

#[derive(Clone, Copy, Debug)]
enum EndKind {
    Succeeded,
    Failed,
    Retry,
    RetryAfter,
    Released,
    Yielded,
    Cancelled,
}

fn op() -> impl Strategy<Value = Op> {
    let (object, worker, index) = (1..=SOURCES, 0..WORKERS, 0..64_usize);
    let cause = prop_oneof![Just(Trigger::Manual), Just(Trigger::Schedule)];
    let priority =
        prop_oneof![Just(Priority::Critical), Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
    let end = prop_oneof![
        4 => Just(EndKind::Succeeded), 2 => Just(EndKind::Failed), 2 => Just(EndKind::Retry), 1 => Just(EndKind::RetryAfter),
        1 => Just(EndKind::Released), 1 => Just(EndKind::Yielded), 1 => Just(EndKind::Cancelled)
    ];
    let dedupe = prop_oneof![Just(Dedupe::Rows), Just(Dedupe::Hash), Just(Dedupe::Key), Just(Dedupe::None)];
    let few = |most| proptest::collection::vec(0..12_u8, 0..most);
    prop_oneof![
        8 => (object.clone(), cause, priority).prop_map(|(object, cause, priority)| Op::Enqueue { object, cause, priority }),
        2 => index.clone().prop_map(|task| Op::RetryEnded { task }),
        // As many as there are lanes: among lanes of one virtual time the order is left open.
        8 => worker.clone().prop_map(|worker| Op::Claim { worker, slots: 3 }),
        7 => (index.clone(), end).prop_map(|(held, end)| Op::Finish { held, end }),
        3 => index.clone().prop_map(|task| Op::Cancel { task }),
        1 => object.clone().prop_map(|object| Op::CancelAll { object }),
        2 => worker.clone().prop_map(|worker| Op::Steal { worker }),
        1 => index.clone().prop_map(|held| Op::StealLease { held }),
        2 => (object.clone(), any::<bool>()).prop_map(|(object, paused)| Op::Pause { object, paused }),
        2 => worker.clone().prop_map(|worker| Op::Beat { worker }),
        1 => worker.prop_map(|worker| Op::DeclareDead { worker }),
        2 => (object, 1..400_i64, any::<bool>())
            .prop_map(|(object, interval, enabled)| Op::Schedule { object, interval, enabled }),
        2 => (1..4_i64).prop_map(|limit| Op::Fire { limit }),
        1 => Just(Op::Promote),
        1 => Just(Op::Repair),
        1 => Just(Op::VoidLeases),
        3 => (index.clone(), dedupe, any::<bool>()).prop_map(|(held, dedupe, reset)| Op::Begin { held, dedupe, reset }),
        8 => (index, few(8), few(3), any::<bool>())
            .prop_map(|(held, records, bad, last)| Op::Page { held, records, bad, last }),
        4 => (0..300_i64).prop_map(|secs| Op::Wait { secs }),
        4 => (0..4_usize, 0..16_usize, 0..8_usize, 0..6_i64, any::<bool>(), 1..6_i64, 0..4_i64).prop_map(
            |(of, column, lookup, value, descending, limit, offset)| {
                Op::List { of, column, lookup, value, descending, limit, offset }
            }
        ),
    ]
}

/// A schedule of some kind: by interval or cron, with each policy.
fn plan(interval: i64) -> Plan {
    let options = match interval % 4 {
        0 => serde_json::json!({}),
        1 => serde_json::json!({"misfire": "catch_up", "jitter_secs": 30}),
        2 => serde_json::json!({"misfire": "skip", "overlap": "skip"}),
        _ => serde_json::json!({"cron": "*/2 * * * *", "timezone": "Asia/Tokyo", "jitter_secs": 10}),
    };
    ScheduleOptions::parse(&options).unwrap().plan(Some(interval)).unwrap()
}

/// A read of a source under one lease.
#[derive(Clone)]
struct Reading {
    fence: Fence,
    task_id: i64,
    page_seq: i64,
    dedupe: Dedupe,
    occurrences: Option<Arc<Mutex<Occurrences>>>,
    keyed: Option<Arc<Mutex<KeyedRead>>>,
}

/// One database and what a client remembers of it. Tasks and leases are named by the order in which they came.
struct Side {
    db: Db,
    now: Timestamp,
    tasks: Vec<i64>,
    held: Vec<Finish>,
    readings: BTreeMap<i64, Reading>,
}

const EMPTY: &[&str] = &[
    "acquired_data",
    "quarantine",
    "checkpoints",
    "counters",
    "tasks",
    "schedules",
    "workers",
    "lanes",
    "data_sources",
];

impl Side {
    /// A client of an empty database with a few sources.
    async fn new(db: &Db) -> Self {
        db.write(|conn| {
            async move {
                for table in EMPTY {
                    conn.execute_script(format!("delete from {table}")).await?;
                }
                for id in 1..=SOURCES {
                    let sql = "insert into data_sources (id, name, source_type) values ($1, $2, 'file')";
                    conn.execute(sql, &[id.into(), (&format!("source {id}")).into()]).await?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
        .unwrap();
        let now = DateTime::from_timestamp_micros(1_763_900_000_123_456).unwrap();
        Self { db: db.clone(), now, tasks: Vec::new(), held: Vec::new(), readings: BTreeMap::new() }
    }

    fn rank(&mut self, id: i64) -> usize {
        let known = self.tasks.iter().position(|known| *known == id);
        known.unwrap_or_else(|| {
            self.tasks.push(id);
            self.tasks.len() - 1
        })
    }

    fn task(&self, index: usize) -> i64 {
        // One that never was, when there is none.
        if self.tasks.is_empty() { 1_000_000_000 } else { self.tasks[index % self.tasks.len()] }
    }

    /// Some lease, current or not.
    fn lease(&self, index: usize) -> Option<Finish> {
        (!self.held.is_empty()).then(|| self.held[index % self.held.len()].clone())
    }

    async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'a, 'c> FnOnce(&'a mut matome_store::db::Conn<'c>) -> futures::future::BoxFuture<'a, Result<T>>
            + Send
            + 'static,
    {
        self.db.write(work).await
    }

    /// Does it; what it says, as both databases must say it.
    async fn apply(&mut self, op: &Op) -> String {
        match self.try_apply(op).await {
            Ok(said) => said,
            Err(err) => match err {
                StoreError::Fenced { .. } => "fenced".to_owned(),
                StoreError::CheckpointMoved { page_seq, .. } => format!("checkpoint moved from {page_seq}"),
                StoreError::Unique { .. } => "unique".to_owned(),
                other => format!("{other:?}"),
            },
        }
    }

    async fn try_apply(&mut self, op: &Op) -> Result<String> {
        let now = self.now;
        let boot = |worker: u128| Uuid::from_u128(worker + 1);
        Ok(match op.clone() {
            Op::Enqueue { object, cause, priority } => {
                let manual = NewTask::manual(LaneKind::Source, object, now);
                let new = NewTask { cause, priority: Some(priority), ..manual };
                let made = self.write(move |conn| async move { tasks::enqueue(conn, &new, now).await }.boxed()).await?;
                format!("{} existing: {}", self.rank(made.task.id), made.existing)
            }
            Op::RetryEnded { task } => {
                let id = self.task(task);
                let made = self
                    .write(move |conn| async move { tasks::retry_ended(conn, id, LaneKind::Source, now).await }.boxed())
                    .await?;
                match made {
                    Retried::Missing => "missing".to_owned(),
                    Retried::Refused(task) => format!("refused {}", task.status),
                    Retried::Accepted(made) => format!("{} existing: {}", self.rank(made.task.id), made.existing),
                }
            }
            Op::Claim { worker, slots } => {
                let boot = boot(worker);
                let claim = self.write(move |conn| {
                    async move { tasks::claim(conn, Queue::Acquisition, boot, slots, now).await }.boxed()
                });
                let mut claimed = claim.await?;
                // `returning` has no order.
                claimed.sort_by_key(|task| task.task.object_id);
                let mut said = Vec::new();
                for task in claimed {
                    let end = End::Released { result: None };
                    self.held.push(Finish { task_id: task.task.id, fence: task.fence, end });
                    said.push((
                        task.task.object_id,
                        self.rank(task.task.id),
                        task.fence.lease_epoch,
                        task.task.attempt,
                    ));
                }
                format!("{said:?}")
            }
            Op::Finish { held, end } => {
                let Some(finish) = self.lease(held) else { return Ok("nothing held".to_owned()) };
                let object = || RawValue::from_string(r#"{"n":1}"#.to_owned()).unwrap();
                let end = match end {
                    EndKind::Succeeded => End::Succeeded { result: object() },
                    EndKind::Failed => End::Failed { error: object(), result: Some(object()) },
                    EndKind::Retry => End::Retry { error: object(), result: None, after: None, jitter: 0.25 },
                    EndKind::RetryAfter => {
                        let after = Some(Duration::from_secs(90));
                        End::Retry { error: object(), result: None, after, jitter: 0.0 }
                    }
                    EndKind::Released => End::Released { result: None },
                    EndKind::Yielded => End::Yielded { result: Some(object()) },
                    EndKind::Cancelled => End::Cancelled { result: None },
                };
                let policy = RetryPolicy { max_attempts: 3, breaker_after: 2, ..RetryPolicy::default() };
                let finishes = [Finish { end, ..finish }];
                let ended = self
                    .write(move |conn| async move { tasks::finish(conn, &finishes, &policy, now).await }.boxed())
                    .await?;
                format!("{ended:?}")
            }
            Op::Cancel { task } => {
                let id = self.task(task);
                let row = self.write(move |conn| async move { tasks::cancel(conn, id, now).await }.boxed()).await?;
                format!("{:?}", row.map(|row| (row.status, row.cancel_requested_at, row.finished_at)))
            }
            Op::CancelAll { object } => {
                let all = self.write(move |conn| {
                    async move { tasks::cancel_all(conn, LaneKind::Source, object, now).await }.boxed()
                });
                format!("{:?}", all.await?)
            }
            Op::Steal { worker } => {
                let boot = boot(worker);
                let stolen = self.write(move |conn| async move { tasks::steal(conn, boot, now).await }.boxed()).await?;
                format!("{stolen:?}")
            }
            Op::StealLease { held } => {
                let Some(Finish { fence, .. }) = self.lease(held) else { return Ok("nothing held".to_owned()) };
                let steal = self.write(move |conn| async move { tasks::steal_lease(conn, &fence, now).await }.boxed());
                format!("{:?}", steal.await?)
            }
            Op::Pause { object, paused } => {
                let paused = self.write(move |conn| {
                    async move { lanes::set_paused(conn, LaneKind::Source, object, paused, now).await }.boxed()
                });
                format!("{} lanes", paused.await?)
            }
            Op::Beat { worker } => {
                let boot = boot(worker);
                let beat = self.write(move |conn| {
                    async move {
                        let beat = workers::beat(conn, boot, false, now).await?;
                        if beat == workers::Beat::DeclaredDead {
                            let (role, host, version) = ("test".to_owned(), "here".to_owned(), "0".to_owned());
                            workers::register(
                                conn,
                                &NewWorker { boot, role, host, pid: 1, version },
                                Schema::BUILT,
                                now,
                            )
                            .await?;
                        }
                        Ok(beat)
                    }
                    .boxed()
                });
                match beat.await? {
                    workers::Beat::DeclaredDead => "dead".to_owned(),
                    workers::Beat::Alive(held) => {
                        let mut said: Vec<_> = held
                            .iter()
                            .map(|lease| {
                                (self.rank(lease.task_id), lease.lease_epoch, lease.cancel_requested, lease.others_wait)
                            })
                            .collect();
                        said.sort_unstable();
                        format!("{said:?}")
                    }
                }
            }
            Op::DeclareDead { worker } => {
                let boot = boot(worker);
                let dead = self.write(move |conn| {
                    async move {
                        let beats = workers::beats(conn).await?;
                        let seq = beats.iter().find(|(known, _)| *known == boot).map_or(-1, |(_, seq)| *seq);
                        let gone = workers::declare_dead(conn, boot, seq, now).await?;
                        Ok((gone, workers::holders_gone(conn).await?.len(), workers::leased(conn).await?.len()))
                    }
                    .boxed()
                });
                format!("{:?}", dead.await?)
            }
            Op::Schedule { object, interval, enabled } => {
                let plan = plan(interval);
                self.write(move |conn| {
                    async move { schedules::upsert(conn, LaneKind::Source, object, &plan, enabled, now).await }.boxed()
                })
                .await?;
                String::new()
            }
            Op::Fire { limit } => {
                let fired =
                    self.write(move |conn| async move { schedules::fire_due(conn, now, limit).await }.boxed()).await?;
                let said: Vec<_> =
                    fired.iter().map(|fired| (fired.made.len(), fired.coalesced, fired.missed)).collect();
                let mut reader = self.db.read().await?;
                for row in reader.conn().fetch_all("select id from tasks order by id", &[]).await? {
                    self.rank(row.int("id")?);
                }
                format!("{said:?}")
            }
            Op::Promote => {
                let promote =
                    self.write(move |conn| async move { tasks::promote(conn, Queue::Acquisition, now).await }.boxed());
                format!("{}", promote.await?)
            }
            Op::Repair => {
                let repaired = self.write(move |conn| async move { tasks::repair(conn, now).await }.boxed()).await?;
                assert_eq!(repaired.total(), 0, "nothing here is ever broken");
                String::new()
            }
            Op::VoidLeases => {
                let voided = self.write(move |conn| async move { tasks::void_leases(conn, now).await }.boxed()).await?;
                format!("{voided:?}")
            }
            Op::Begin { held, dedupe, reset } => self.begin(held, dedupe, reset).await?,
            Op::Page { held, records, bad, last } => self.page(held, &records, &bad, last).await?,
            Op::Wait { secs } => {
                self.now += TimeDelta::seconds(secs);
                String::new()
            }
            Op::List { of, column, lookup, value, descending, limit, offset } => {
                self.list(of, column, lookup, value, descending, limit, offset).await?
            }
        })
    }

    async fn source_of(&self, fence: &Fence) -> i64 {
        let mut reader = self.db.read().await.unwrap();
        let sql = "select object_id from lanes where id = $1";
        reader.conn().fetch_one(sql, &[fence.lane_id.into()]).await.unwrap().int("object_id").unwrap()
    }

    async fn begin(&mut self, held: usize, dedupe: Dedupe, reset: bool) -> Result<String> {
        let Some(Finish { fence, task_id, .. }) = self.lease(held) else { return Ok("nothing held".to_owned()) };
        let (source_id, now) = (self.source_of(&fence).await, self.now);
        let key = CheckpointKey { source_id, stream: String::new(), purpose: LIVE.to_owned() };
        let begin = self.write(move |conn| {
            async move {
                let begun = checkpoints::begin(conn, &fence, &key, task_id, 1, reset, now).await?;
                let keyed = KeyedRead::begin(conn, &key, &begun).await?;
                let occurrences = Occurrences::begin(conn, &key, &begun).await?;
                Ok((begun, occurrences, keyed))
            }
            .boxed()
        });
        let (begun, occurrences, keyed) = begin.await?;
        let keyed = keyed.filter(|_| dedupe == Dedupe::Key).map(|keyed| Arc::new(Mutex::new(keyed)));
        let occurrences = occurrences.filter(|_| dedupe == Dedupe::Rows).map(|seen| Arc::new(Mutex::new(seen)));
        let said = format!("{} {} ended: {}", begun.page_seq, begun.state.get().replace(' ', ""), begun.read_ended);
        let reading = Reading { fence, task_id, page_seq: begun.page_seq, dedupe, occurrences, keyed };
        self.readings.insert(source_id, reading);
        Ok(said)
    }

    async fn page(&mut self, held: usize, records: &[u8], bad: &[u8], last: bool) -> Result<String> {
        if self.readings.is_empty() {
            return Ok("nothing is read".to_owned());
        }
        let (source_id, reading) = self.readings.iter().nth(held % self.readings.len()).unwrap();
        let (source_id, reading) = (*source_id, reading.clone());
        let mut canonicaliser = Canonicaliser::default();
        let record_key = RecordKey::new(vec!["key".parse().unwrap()]);
        let mut all = Records::with_capacity(records.len(), 0);
        for n in records {
            // Few values, so that pages repeat each other and themselves.
            let text = format!(r#"{{"key": {}, "名": "行\n{n}", "f": {n}.50}}"#, n % 4);
            let canonical = canonicaliser.canonicalise(text.as_bytes()).unwrap();
            let key = (reading.dedupe == Dedupe::Key).then(|| record_key.identity(canonical.text).unwrap());
            all.push(canonical.text, canonical.hash, key, |out| out.push_str(&format!(r#"{{"line":{n}}}"#)));
        }
        let bad = bad.iter().map(|n| BadRecord {
            reason: QuarantineReason::InvalidJson,
            detail: Words::new(format!("bad {n}"), format!("不正 {n}")),
            position: format!(r#"{{"line":{n}}}"#),
            raw: vec![*n, 0, 255],
            raw_length: 3,
            key: None,
        });
        let page = Page {
            fence: reading.fence,
            task_id: reading.task_id,
            acquired_at: self.now,
            dedupe: reading.dedupe,
            occurrences: reading.occurrences.clone(),
            keyed: reading.keyed.clone(),
            records: all,
            quarantined: bad.collect(),
            checkpoint: Advance {
                key: CheckpointKey { source_id, stream: String::new(), purpose: LIVE.to_owned() },
                page_seq: reading.page_seq,
                config_rev: 1,
                state: format!(r#"{{"at":{}}}"#, reading.page_seq + 1),
                // Some reads go on in the middle of what they gave.
                is_exact: !records.len().is_multiple_of(3),
                begins_anew: records.len().is_multiple_of(7),
            },
            ends_read: last,
            is_fetch: false,
            settles: None,
            inbox: None,
            pushes: None,
            schema: Default::default(),
            deletes: Default::default(),
            progress: None,
        };
        let unit = page.clone();
        let commit =
            self.db.write_page(move |conn| async move { acquired_data::commit_page(conn, &unit).await }.boxed());
        let committed = commit.await?;
        if let Some(occurrences) = &reading.occurrences {
            occurrences.lock().unwrap().advance(committed.seen);
        } else if let Some(keyed) = &reading.keyed {
            keyed.lock().unwrap().advance(committed.seen);
        }
        self.readings.get_mut(&source_id).unwrap().page_seq += 1;
        let settled = if last { self.settle(source_id, page).await? } else { String::new() };
        Ok(format!("{:?}{settled}", committed.counts))
    }

    /// What the read that this page ended left waiting, a few records at a time.
    async fn settle(&mut self, source_id: i64, mut page: Page) -> Result<String> {
        (page.records, page.quarantined, page.keyed, page.ends_read) = (Records::default(), Vec::new(), None, false);
        page.settles = Some(Room { rows: 4, bytes: 100 });
        let mut told = String::new();
        loop {
            let is_any = {
                let mut reader = self.db.read().await.unwrap();
                acquired_data::any_repeats(&mut reader.conn(), &page.checkpoint.key).await.unwrap()
            };
            if !is_any {
                return Ok(told);
            }
            page.checkpoint.page_seq += 1;
            let unit = page.clone();
            let commit =
                self.db.write_page(move |conn| async move { acquired_data::commit_page(conn, &unit).await }.boxed());
            told += &format!(" {:?}", commit.await?.counts);
            self.readings.get_mut(&source_id).unwrap().page_seq += 1;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the members of one operation")]
    async fn list(
        &self,
        of: usize,
        column: usize,
        lookup: usize,
        value: i64,
        descending: bool,
        limit: i64,
        offset: i64,
    ) -> Result<String> {
        use matome_store::listing::ColumnKind;
        let listings: [&'static Listing; 4] = [
            task_history::listing(Queue::Acquisition),
            &acquired::LISTING,
            &quarantined::LISTING,
            &matome_store::data_sources::LISTING,
        ];
        let listing = listings[of];
        let column = &listing.columns[column % listing.columns.len()];
        let lookup = Lookup::ALL[lookup];
        let time = DateTime::from_timestamp_micros(1_763_900_000_123_456).unwrap() + TimeDelta::seconds(value * 100);
        let one = match column.kind {
            ColumnKind::Int | ColumnKind::Reference => Some(Value::Int(value)),
            ColumnKind::Time => Some(Value::Time(time)),
            ColumnKind::Choice(words) => {
                Some(Value::Text(words[usize::try_from(value).unwrap() % words.len()].to_owned()))
            }
            ColumnKind::Text | ColumnKind::Folded(_) => Some(Value::Text(format!("source {value}"))),
            ColumnKind::Uuid => None,
            ColumnKind::Key => Some(Value::Bytes(vec![u8::try_from(value.rem_euclid(256)).unwrap(); 16])),
            ColumnKind::Bool => Some(Value::Bool(value % 2 == 0)),
        };
        // Ids of rows that are numbered by a sequence differ; those of sources do not.
        let is_sequence = column.name == "id" && of != 3 || column.name == "retry_of";
        let mut query = Query::default();
        if let Some(one) = one.filter(|_| lookup.fits(column) && !is_sequence) {
            let value = match lookup {
                Lookup::In => Value::Many(vec![one]),
                Lookup::IsNull => Value::Bool(value % 2 == 0),
                _ => one,
            };
            query.conditions.push(Condition { column, lookup, value });
        }
        if column.sortable {
            query.order.push(Order { column, descending });
        }
        let mut reader = self.db.read().await?;
        let mut conn = reader.conn();
        let total = listing.count(&mut conn, &query).await?;
        let rows = listing.rows(&mut conn, &query, limit, offset).await?;
        let ids = rows.iter().map(|row| row.int("id")).collect::<Result<Vec<i64>>>()?;
        let all = listing.rows(&mut conn, &Query::default(), 10_000, 0).await?;
        let mut known = all.iter().map(|row| row.int("id")).collect::<Result<Vec<i64>>>()?;
        known.sort_unstable();
        let ranks: Vec<_> = ids.iter().map(|id| known.binary_search(id).ok()).collect();
        Ok(format!("{total} {ranks:?}"))
    }

    /// Every row of every table that the operations touch.
    async fn rows(&self) -> BTreeMap<&'static str, Vec<String>> {
        let mut reader = self.db.read().await.unwrap();
        let mut conn = reader.conn();
        let mut ids: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for table in ["tasks", "lanes", "acquired_data", "schedules"] {
            let sql = format!("select id from {table} order by id");
            let rows = conn.fetch_all(sqlx::AssertSqlSafe(sql), &[]).await.unwrap();
            ids.insert(table, rows.iter().map(|row| row.int("id").unwrap()).collect());
        }
        let mut all = BTreeMap::new();
        for Table { name, order, columns } in TABLES {
            let sql = format!("select * from {name} order by {order}");
            let rows = conn.fetch_all(sqlx::AssertSqlSafe(sql), &[]).await.unwrap();
            let told = rows.iter().map(|row| {
                let cells = columns.iter().map(|(column, kind)| format!("{column}={}", cell(row, column, *kind, &ids)));
                cells.collect::<Vec<_>>().join(" ")
            });
            all.insert(*name, told.collect());
        }
        all
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Id(&'static str),
    Int,
    Text,
    Time,
    Json,
    Bytes,
    Bool,
    Float,
    Uuid,
}

struct Table {
    name: &'static str,
    order: &'static str,
    columns: &'static [(&'static str, Kind)],
}

const TABLES: &[Table] = &[
    Table {
        name: "tasks",
        order: "id",
        columns: &[
            ("id", Kind::Id("tasks")),
            ("queue", Kind::Text),
            ("lane_id", Kind::Id("lanes")),
            ("object_id", Kind::Int),
            ("stream", Kind::Text),
            ("cause", Kind::Text),
            ("status", Kind::Text),
            ("priority", Kind::Text),
            ("run_at", Kind::Time),
            ("sort_key", Kind::Time),
            ("attempt", Kind::Int),
            ("crash_count", Kind::Int),
            ("lease_epoch", Kind::Int),
            ("worker", Kind::Uuid),
            ("cancel_requested_at", Kind::Time),
            ("retry_of", Kind::Id("tasks")),
            ("schedule_id", Kind::Id("schedules")),
            ("fire_time", Kind::Time),
            ("payload", Kind::Json),
            ("progress", Kind::Json),
            ("result", Kind::Json),
            ("error", Kind::Json),
            ("started_at", Kind::Time),
            ("finished_at", Kind::Time),
            ("created_at", Kind::Time),
        ],
    },
    Table {
        name: "lanes",
        order: "id",
        columns: &[
            ("id", Kind::Id("lanes")),
            ("kind", Kind::Text),
            ("object_id", Kind::Int),
            ("vtime", Kind::Float),
            ("ready", Kind::Bool),
            ("next_run_at", Kind::Time),
            ("paused", Kind::Bool),
            ("not_before", Kind::Time),
            ("fail_streak", Kind::Int),
            ("lease_epoch", Kind::Int),
            ("lease_worker", Kind::Uuid),
            ("lease_task", Kind::Id("tasks")),
            ("leased_at", Kind::Time),
        ],
    },
    Table {
        name: "checkpoints",
        order: "source_id, stream, purpose",
        columns: &[
            ("source_id", Kind::Int),
            ("page_seq", Kind::Int),
            ("state", Kind::Json),
            ("config_rev", Kind::Int),
            ("last_record_id", Kind::Id("acquired_data")),
            ("lease_epoch", Kind::Int),
            ("task_id", Kind::Id("tasks")),
            ("read_ended", Kind::Bool),
            ("updated_at", Kind::Time),
        ],
    },
    Table {
        name: "acquired_data",
        order: "id",
        columns: &[
            ("id", Kind::Id("acquired_data")),
            ("source_id", Kind::Int),
            ("raw_data", Kind::Json),
            ("metadata", Kind::Json),
            ("data_hash", Kind::Text),
            ("acquired_at", Kind::Time),
            ("stream", Kind::Text),
            ("key_hash", Kind::Bytes),
            ("version", Kind::Int),
        ],
    },
    Table {
        name: "quarantine",
        order: "source_id, raw_hash, reason",
        columns: &[
            ("source_id", Kind::Int),
            ("task_id", Kind::Id("tasks")),
            ("reason", Kind::Text),
            ("detail", Kind::Text),
            ("detail_japanese", Kind::Text),
            ("position", Kind::Json),
            ("raw", Kind::Bytes),
            ("raw_length", Kind::Int),
            ("raw_hash", Kind::Text),
            ("seen", Kind::Int),
            ("created_at", Kind::Time),
            ("last_seen_at", Kind::Time),
        ],
    },
    Table {
        name: "counters",
        order: "table_name, source_id, stream",
        columns: &[
            ("table_name", Kind::Text),
            ("source_id", Kind::Int),
            ("stream", Kind::Text),
            ("row_count", Kind::Int),
        ],
    },
    Table {
        name: "schedules",
        order: "id",
        columns: &[
            ("id", Kind::Id("schedules")),
            ("object_id", Kind::Int),
            ("interval_secs", Kind::Int),
            ("enabled", Kind::Bool),
            ("next_at", Kind::Time),
            ("last_at", Kind::Time),
            ("due_at", Kind::Time),
            ("cron", Kind::Text),
            ("misfire", Kind::Text),
            ("overlap", Kind::Text),
            ("jitter_secs", Kind::Int),
        ],
    },
    Table {
        name: "workers",
        order: "boot",
        columns: &[
            ("boot", Kind::Uuid),
            ("beat_seq", Kind::Int),
            ("last_beat_at", Kind::Time),
            ("gone_at", Kind::Time),
        ],
    },
    Table {
        name: "data_sources",
        order: "id",
        columns: &[("id", Kind::Int), ("name", Kind::Text), ("last_fetched_at", Kind::Time)],
    },
];

fn cell(row: &Row, column: &str, kind: Kind, ids: &BTreeMap<&str, Vec<i64>>) -> String {
    match kind {
        Kind::Id(table) => format!("{:?}", row.opt_int(column).unwrap().map(|id| ids[table].binary_search(&id).ok())),
        Kind::Int => format!("{:?}", row.opt_int(column).unwrap()),
        Kind::Text => format!("{:?}", row.opt_text(column).unwrap()),
        Kind::Time => format!("{:?}", row.opt_time(column).unwrap().map(|at| at.timestamp_micros())),
        Kind::Bytes => format!("{:?}", row.opt_bytes(column).unwrap()),
        Kind::Bool => format!("{:?}", row.opt_bool(column).unwrap()),
        Kind::Float => format!("{:?}", row.opt_float(column).unwrap()),
        Kind::Uuid => format!("{:?}", row.opt_uuid(column).unwrap()),
        Kind::Json => {
            let text = row.opt_json(column).unwrap();
            let canonical = |json: Box<RawValue>| {
                Canonicaliser::default().canonicalise(json.get().as_bytes()).unwrap().text.to_owned()
            };
            format!("{:?}", text.map(canonical))
        }
    }
}

async fn differ(dbs: &[Db; 2], ops: &[Op]) -> std::result::Result<(), String> {
    let (mut one, mut other) = (Side::new(&dbs[0]).await, Side::new(&dbs[1]).await);
    for (n, op) in ops.iter().enumerate() {
        let (said, also) = (one.apply(op).await, other.apply(op).await);
        if said != also {
            return Err(format!("operation {n}, {op:?}\n  sqlite:   {said}\n  postgres: {also}"));
        }
    }
    let (rows, others) = (one.rows().await, other.rows().await);
    for (table, rows) in rows {
        if rows != others[table] {
            return Err(format!("{table}\n  sqlite:   {rows:#?}\n  postgres: {:#?}", others[table]));
        }
    }
    Ok(())
}

#[test]
fn sqlite_and_postgres_answer_and_keep_the_same() {
    let seed: u64 = std::env::var("MATOME_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}: repeat with MATOME_SEED={seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (sqlite, postgres) =
        runtime.block_on(async { (matome_testbed::sqlite().await, matome_testbed::postgres().await) });
    let dbs = [sqlite.db.clone(), postgres.db.clone()];
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let ops = proptest::collection::vec(op(), 20..80);
    let outcome = runner.run(&ops, |ops| runtime.block_on(differ(&dbs, &ops)).map_err(TestCaseError::fail));
    if let Err(err) = outcome {
        panic!("seed {seed}: {err}");
    }
}
