//! Runs of aggregations: what they show, what of them stays, on both databases.

#![allow(clippy::unwrap_used, reason = "a failing unwrap in a test names its line")]

use chrono::{DateTime, TimeDelta};
use futures::TryStreamExt as _;
use matome_model::clock::Timestamp;
use matome_model::source::SourceStatus;
use matome_model::task::Fence;
use matome_store::aggregated_data::{self, Keys, Page};
use matome_store::aggregation_runs::{self, Effect, NewRun, Publication, Retention};
use matome_store::aggregation_sources::{self, AggregationFields};
use matome_store::db::Db;
use matome_store::error::{Result, StoreError};
use matome_store::listing::{Condition, Lookup, Query, Value, aggregated, runs};
use matome_testbed::databases;
use serde_json::value::RawValue;
use uuid::Uuid;

fn at(secs: i64) -> Timestamp {
    DateTime::from_timestamp_micros(1_763_900_000_000_000).unwrap() + TimeDelta::seconds(secs)
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

/// An aggregation whose lane is held.
#[derive(Clone)]
struct Work {
    db: Db,
    source_id: i64,
    fence: Fence,
    retention: Retention,
}

impl Work {
    async fn start(db: &Db, name: &str) -> Self {
        let worker = Uuid::new_v4();
        let fields = AggregationFields {
            name: name.to_owned(),
            description: None,
            status: SourceStatus::Active,
            config: raw("{}"),
        };
        let (source_id, lane_id) = db
            .write(move |conn| {
                Box::pin(async move {
                    let id = aggregation_sources::create(conn, &fields, at(0)).await?;
                    let sql = "insert into lanes (queue, kind, object_id, lease_epoch, lease_worker, lease_task)
                        values ('aggregation', 'aggregation', $1, 1, $2, 7) returning id";
                    let lane = conn.fetch_one(sql, &[id.into(), worker.into()]).await?.int("id")?;
                    let sql =
                        "insert into tasks (id, task_uuid, queue, lane_id, object_id, cause, status, run_at, sort_key,
                        lease_epoch, worker, started_at)
                        values (7, $1, 'aggregation', $2, $3, 'manual', 'running', $4, $4, 1, $1, $4)";
                    conn.execute(sql, &[worker.into(), lane.into(), id.into(), at(0).into()]).await?;
                    Ok((id, lane))
                })
            })
            .await
            .unwrap();
        let fence = Fence { lane_id, lease_epoch: 1, worker };
        Self { db: db.clone(), source_id, fence, retention: Retention::default() }
    }

    fn keep(mut self, runs: i64) -> Self {
        self.retention.runs = Some(runs);
        self
    }

    async fn begin(&self, effect: Effect) -> i64 {
        let (fence, source_id) = (self.fence, self.source_id);
        let new = NewRun { source_id, task_id: 7, effect, inputs: raw("[]"), params: raw("{}") };
        self.db
            .write(move |conn| Box::pin(async move { aggregation_runs::begin(conn, &fence, &new, at(1)).await }))
            .await
            .unwrap()
    }

    /// Writes rows `{"k": key, "v": version}`; returns how many shown rows they will supersede.
    async fn write(&self, run_id: i64, effect: Effect, keys: &[i64], version: &str) -> Result<u64> {
        let rows = keys.iter().map(|key| format!("{{\"k\":{key},\"v\":\"{version}\"}}")).collect();
        let hashes = keys.iter().map(|key| format!("{key:032}")).collect();
        let page = Page {
            source_id: self.source_id,
            run_id,
            rows,
            keys: (effect != Effect::Append).then_some(Keys { hashes, supersede: effect == Effect::Upsert }),
            metadata: raw("{}"),
            aggregated_at: at(run_id),
        };
        let fence = self.fence;
        self.db
            .write_page(move |conn| Box::pin(async move { aggregated_data::insert_page(conn, &fence, &page).await }))
            .await
    }

    async fn publish(&self, run_id: i64, effect: Effect, rows: usize, superseded: u64) -> Result<()> {
        let publication = Publication {
            source_id: self.source_id,
            run_id,
            effect,
            rows: i64::try_from(rows).unwrap(),
            superseded: i64::try_from(superseded).unwrap(),
            key: (effect != Effect::Append).then(|| "[\"k\"]".to_owned()),
            plan: "plan".to_owned(),
            inputs: raw("[]"),
            retention: self.retention,
            now: at(run_id),
        };
        let fence = self.fence;
        self.db
            .write(move |conn| Box::pin(async move { aggregation_runs::publish(conn, &fence, &publication).await }))
            .await
    }

    async fn run(&self, effect: Effect, keys: &[i64], version: &str) -> i64 {
        let run = self.begin(effect).await;
        let superseded = self.write(run, effect, keys, version).await.unwrap();
        self.publish(run, effect, keys.len(), superseded).await.unwrap();
        run
    }

    /// Keys and versions of what is shown, sorted; the counter agrees.
    async fn shown(&self) -> Vec<String> {
        let of_source = aggregated::LISTING.column("source").unwrap();
        let rows = self.listed(&aggregated::LISTING, of_source, self.source_id).await;
        let mut reader = self.db.read().await.unwrap();
        let counted = aggregated::count(&mut reader.conn(), Some(self.source_id)).await.unwrap();
        assert_eq!(counted, i64::try_from(rows.len()).unwrap());
        rows
    }

    async fn of_run(&self, run: i64) -> Vec<String> {
        let column = aggregated::LISTING_OF_RUNS.column("run").unwrap();
        self.listed(&aggregated::LISTING_OF_RUNS, column, run).await
    }

    async fn listed(
        &self,
        listing: &'static matome_store::listing::Listing,
        column: &'static matome_store::listing::Column,
        value: i64,
    ) -> Vec<String> {
        let condition = Condition { column, lookup: Lookup::Exact, value: Value::Int(value) };
        let query = Query { conditions: vec![condition], ..Query::default() };
        let mut reader = self.db.read().await.unwrap();
        let rows = listing.rows(&mut reader.conn(), &query, 1_000, 0).await.unwrap();
        sorted(rows.iter().map(|row| row.json("data").unwrap()))
    }

    async fn version(&self, run: i64) -> Vec<String> {
        let mut reader = self.db.read().await.unwrap();
        let mut conn = reader.conn();
        let rows = aggregated_data::stream_version(&mut conn, self.source_id, run).unwrap();
        sorted(rows.map_ok(|row| row.data).try_collect::<Vec<_>>().await.unwrap().into_iter())
    }

    async fn collect_all(&self) -> usize {
        let mut batches = 0;
        loop {
            let found = aggregation_runs::leftover(&mut self.db.read().await.unwrap().conn()).await.unwrap();
            let Some(leftover) = found else { return batches };
            self.db
                .write(move |conn| Box::pin(async move { aggregation_runs::remove(conn, leftover, 2, at(99)).await }))
                .await
                .unwrap();
            batches += 1;
            assert!(batches < 100, "collecting does not end");
        }
    }

    async fn stored(&self) -> i64 {
        let mut reader = self.db.read().await.unwrap();
        let sql = "select count(*) as n from aggregated_data where source_id = $1";
        reader.conn().fetch_one(sql, &[self.source_id.into()]).await.unwrap().int("n").unwrap()
    }
}

/// `1a` for key 1 in version `a`.
fn sorted(rows: impl Iterator<Item = Box<RawValue>>) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Shown {
        k: i64,
        v: String,
    }
    let mut rows: Vec<String> = rows
        .map(|row| serde_json::from_str::<Shown>(row.get()).unwrap())
        .map(|row| format!("{}{}", row.k, row.v))
        .collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn appended_rows_join_those_that_are_shown() {
    for bed in databases().await {
        let work = Work::start(&bed.db, "log").await;
        work.run(Effect::Append, &[1, 2], "a").await;
        let run = work.begin(Effect::Append).await;
        work.write(run, Effect::Append, &[2, 3], "b").await.unwrap();
        assert_eq!(work.shown().await, ["1a", "2a"], "{}: nothing of a run is seen before its end", bed.name);
        work.publish(run, Effect::Append, 2, 0).await.unwrap();
        assert_eq!(work.shown().await, ["1a", "2a", "2b", "3b"], "{}", bed.name);
        assert_eq!(work.of_run(run).await, ["2b", "3b"], "{}", bed.name);
        assert_eq!(work.collect_all().await, 0, "{}: nothing of it leaves", bed.name);
        assert_eq!(work.version(run - 1).await, [""; 0], "{}: only the newest version is kept", bed.name);
        assert_eq!(work.version(run).await.len(), 4, "{}", bed.name);
    }
}

#[tokio::test]
async fn appended_runs_leave_view_when_only_some_are_kept() {
    for bed in databases().await {
        let work = Work::start(&bed.db, "window").await.keep(2);
        for version in ["a", "b", "c"] {
            work.run(Effect::Append, &[1, 2], version).await;
        }
        assert_eq!(work.shown().await, ["1b", "1c", "2b", "2c"], "{}", bed.name);
        work.collect_all().await;
        assert_eq!(work.shown().await, ["1b", "1c", "2b", "2c"], "{}", bed.name);
        assert_eq!(work.stored().await, 4, "{}", bed.name);
    }
}

#[tokio::test]
async fn upserted_rows_take_the_place_of_those_with_their_key() {
    for bed in databases().await {
        let work = Work::start(&bed.db, "state").await.keep(2);
        let first = work.run(Effect::Upsert, &[1, 2, 3], "a").await;
        let second = work.begin(Effect::Upsert).await;
        assert_eq!(work.write(second, Effect::Upsert, &[2], "b").await.unwrap(), 1, "{}", bed.name);
        assert_eq!(work.write(second, Effect::Upsert, &[4], "b").await.unwrap(), 0, "{}", bed.name);
        assert_eq!(work.shown().await, ["1a", "2a", "3a"], "{}: before", bed.name);
        work.publish(second, Effect::Upsert, 2, 1).await.unwrap();
        assert_eq!(work.shown().await, ["1a", "2b", "3a", "4b"], "{}: after", bed.name);
        assert_eq!(work.version(first).await, ["1a", "2a", "3a"], "{}: the older version", bed.name);
        work.collect_all().await;
        assert_eq!(work.version(first).await, ["1a", "2a", "3a"], "{}: is kept", bed.name);

        let third = work.run(Effect::Upsert, &[2, 3], "c").await;
        assert_eq!(work.shown().await, ["1a", "2c", "3c", "4b"], "{}", bed.name);
        work.collect_all().await;
        assert_eq!(work.version(second).await, ["1a", "2b", "3a", "4b"], "{}", bed.name);
        assert_eq!(work.version(first).await, [""; 0], "{}: two are kept", bed.name);
        assert_eq!(work.shown().await, ["1a", "2c", "3c", "4b"], "{}", bed.name);
        assert_eq!(work.stored().await, 6, "{}: 2a is gone; 2b and 3a belong to the version before", bed.name);
        assert_eq!(work.version(third).await, ["1a", "2c", "3c", "4b"], "{}", bed.name);
    }
}

#[tokio::test]
async fn a_run_that_is_given_up_leaves_no_trace() {
    for bed in databases().await {
        let work = Work::start(&bed.db, "broken").await;
        work.run(Effect::Upsert, &[1, 2], "a").await;
        let lost = work.begin(Effect::Upsert).await;
        work.write(lost, Effect::Upsert, &[1, 3], "lost").await.unwrap();
        // The next run marks the same row before anything was collected.
        let next = work.begin(Effect::Upsert).await;
        assert_eq!(work.write(next, Effect::Upsert, &[1], "b").await.unwrap(), 1, "{}", bed.name);
        work.collect_all().await;
        assert_eq!(work.shown().await, ["1a", "2a"], "{}", bed.name);
        work.publish(next, Effect::Upsert, 1, 1).await.unwrap();
        assert_eq!(work.shown().await, ["1b", "2a"], "{}", bed.name);
        work.collect_all().await;
        assert_eq!(
            (work.shown().await, work.stored().await),
            (vec!["1b".to_owned(), "2a".to_owned()], 2),
            "{}",
            bed.name
        );

        // A run whose task has ended is given up without waiting for the next.
        let failed = work.begin(Effect::Upsert).await;
        work.write(failed, Effect::Upsert, &[2], "lost").await.unwrap();
        let end = "update tasks set status = 'failed', lease_epoch = null, finished_at = created_at where id = 7";
        bed.db.write(move |conn| Box::pin(async move { conn.execute(end, &[]).await })).await.unwrap();
        work.collect_all().await;
        assert!(work.publish(failed, Effect::Upsert, 1, 1).await.is_err(), "{}: it was given up", bed.name);
        assert_eq!(work.shown().await, ["1b", "2a"], "{}", bed.name);
        assert_eq!(work.run(Effect::Upsert, &[2], "c").await, failed + 1);
        assert_eq!(work.shown().await, ["1b", "2c"], "{}", bed.name);
    }
}

#[tokio::test]
async fn a_key_stands_once_in_a_run() {
    for bed in databases().await {
        let work = Work::start(&bed.db, "twice").await;
        let run = work.begin(Effect::Upsert).await;
        work.write(run, Effect::Upsert, &[1, 2], "a").await.unwrap();
        let refused = work.write(run, Effect::Upsert, &[3, 2], "b").await.unwrap_err();
        assert!(matches!(refused, StoreError::Unique { .. }), "{}: {refused}", bed.name);
        let mut reader = bed.db.read().await.unwrap();
        let hashes = ["3", "2"].map(|key| format!("{key:0>32}"));
        let met = aggregated_data::key_in_run(&mut reader.conn(), work.source_id, run, &hashes).await.unwrap();
        assert_eq!(met.as_ref(), Some(&hashes[1]), "{}", bed.name);
    }
}

#[tokio::test]
async fn replaced_runs_stay_as_long_as_they_are_kept() {
    for bed in databases().await {
        let work = Work::start(&bed.db, "versions").await.keep(2);
        let mut made = Vec::new();
        for version in ["a", "b", "c"] {
            made.push(work.run(Effect::Replace, &[1, 2, 3], version).await);
        }
        work.collect_all().await;
        assert_eq!(work.shown().await, ["1c", "2c", "3c"], "{}", bed.name);
        assert_eq!(work.of_run(made[1]).await, ["1b", "2b", "3b"], "{}", bed.name);
        assert_eq!(work.version(made[1]).await, ["1b", "2b", "3b"], "{}", bed.name);
        assert_eq!((work.of_run(made[0]).await.len(), work.stored().await), (0, 6), "{}", bed.name);
        let mut reader = bed.db.read().await.unwrap();
        let rows = runs::LISTING.rows(&mut reader.conn(), &Query::default(), 10, 0).await.unwrap();
        let listed: Vec<(i64, bool, String)> = rows
            .iter()
            .map(|row| runs::AggregationRun::try_from(row).unwrap())
            .map(|run| (run.id, run.kept, run.status))
            .collect();
        let superseded = "superseded".to_owned();
        assert_eq!(
            listed,
            [(made[2], true, "current".to_owned()), (made[1], true, superseded.clone()), (made[0], false, superseded)],
            "{}",
            bed.name
        );
        drop(reader);
        // One time more, and days count besides.
        let mut days = work.clone();
        days.retention = Retention { runs: Some(1), since: Some(at(made[2])) };
        days.run(Effect::Replace, &[9], "d").await;
        work.collect_all().await;
        assert_eq!(work.of_run(made[2]).await.len(), 3, "{}: published within the days that are kept", bed.name);
        assert_eq!(work.of_run(made[1]).await.len(), 0, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_replacing_run_ends_what_was_added_up() {
    for bed in databases().await {
        let work = Work::start(&bed.db, "anew").await;
        work.run(Effect::Upsert, &[1, 2], "a").await;
        work.run(Effect::Upsert, &[2, 3], "b").await;
        work.run(Effect::Replace, &[7], "c").await;
        assert_eq!(work.shown().await, ["7c"], "{}", bed.name);
        work.collect_all().await;
        assert_eq!((work.shown().await.len(), work.stored().await), (1, 1), "{}", bed.name);
        let left = "select cast(coalesce(sum(superseded_stored), 0) as bigint) as n from aggregation_runs";
        let mut reader = bed.db.read().await.unwrap();
        assert_eq!(reader.conn().fetch_one(left, &[]).await.unwrap().int("n").unwrap(), 0, "{}", bed.name);
        drop(reader);
        work.run(Effect::Upsert, &[7, 8], "d").await;
        assert_eq!(work.shown().await, ["7d", "8d"], "{}", bed.name);
        work.collect_all().await;
        assert_eq!((work.shown().await.len(), work.stored().await), (2, 2), "{}", bed.name);
    }
}

#[tokio::test]
async fn a_lost_lease_publishes_nothing() {
    for bed in databases().await {
        let mut work = Work::start(&bed.db, "fenced").await;
        work.run(Effect::Append, &[1], "a").await;
        let run = work.begin(Effect::Append).await;
        work.write(run, Effect::Append, &[2], "b").await.unwrap();
        work.fence.lease_epoch = 0;
        assert!(
            matches!(work.publish(run, Effect::Append, 1, 0).await, Err(StoreError::Fenced { .. })),
            "{}",
            bed.name
        );
        assert_eq!(work.shown().await, ["1a"], "{}", bed.name);
    }
}

#[tokio::test]
async fn old_runs_are_forgotten_when_their_rows_are_gone() {
    for bed in databases().await {
        let work = Work::start(&bed.db, "many").await;
        work.run(Effect::Replace, &[1], "a").await;
        let source = work.source_id;
        bed.db
            .write(move |conn| {
                Box::pin(async move {
                    let sql = "with recursive n (i) as (select 1 union all select i + 1 from n where i < 1009)
                        insert into aggregation_runs (source_id, task_id, status, started_at, rows_removed_at)
                        select $1, 1, 'abandoned', $2, $2 from n";
                    conn.execute(sql, &[source.into(), at(1).into()]).await
                })
            })
            .await
            .unwrap();
        let newest = work.run(Effect::Replace, &[1], "b").await;
        let mut reader = bed.db.read().await.unwrap();
        let sql = "select count(*) as n, min(id) as low from aggregation_runs where source_id = $1";
        let row = reader.conn().fetch_one(sql, &[source.into()]).await.unwrap();
        // The first run still has its row; of 1,009 without rows those beyond the newest thousand go, ten at a time.
        assert_eq!((row.int("n").unwrap(), row.int("low").unwrap()), (1001, newest - 1010), "{}", bed.name);
        assert_eq!(work.shown().await, ["1b"], "{}", bed.name);
    }
}

#[tokio::test]
async fn the_run_that_a_task_published_is_found_again() {
    for bed in databases().await {
        let work = Work::start(&bed.db, "once").await;
        let lost = work.begin(Effect::Append).await;
        let of_task = async |task| {
            let mut reader = bed.db.read().await.unwrap();
            aggregation_runs::published_by(&mut reader.conn(), work.source_id, task).await.unwrap()
        };
        assert_eq!(of_task(7).await, None, "{}: run {lost} is not published", bed.name);
        let run = work.run(Effect::Append, &[1, 2], "a").await;
        assert_eq!((of_task(7).await, of_task(8).await), (Some((run, 2)), None), "{}", bed.name);
    }
}
