//! The checker finds each invariant that is broken by hand, and nothing in a database that works broke nothing in.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::str::FromStr as _;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeDelta};
use matome_model::canonical::{Canonicaliser, QuarantineReason};
use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use matome_model::schedule::Plan;
use matome_model::source::{Dedupe, SourceStatus, SourceType};
use matome_model::task::{LaneKind, Queue};
use matome_store::acquired_data::{self, Occurrences, Page, Records};
use matome_store::aggregated_data::Keys;
use matome_store::aggregation_runs::{Effect, NewRun, Publication, Retention};
use matome_store::aggregation_sources::AggregationFields;
use matome_store::check::{Verdict, check};
use matome_store::checkpoints::{self, Advance, CheckpointKey, LIVE};
use matome_store::data_sources::SourceFields;
use matome_store::db::{Conn, DataDir, Db, Snapshot};
use matome_store::error::{Result, StoreError};
use matome_store::quarantine::BadRecord;
use matome_store::secrets::{self, Vault};
use matome_store::source_schemas;
use matome_store::tasks::{self, ClaimedTask, End, Finish, NewTask, RetryPolicy};
use matome_store::{aggregated_data, aggregation_runs, aggregation_sources, data_sources, migrate, schedules};
use secrecy::SecretString;
use serde_json::value::RawValue;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

/// What breaks which invariants. Constraints are out of force; the first word is the one that is meant.
const BROKEN: &[(&[&str], &str)] = &[
    (&["lease"], "update lanes set lease_worker = null, lease_task = null where lease_task is not null"),
    (&["lease"], "update lanes set lease_epoch = lease_epoch + 1 where lease_task is not null"),
    (&["lease"], "update tasks set worker = task_uuid where status = 'running'"),
    (&["lease"], "update tasks set status = 'pending', lease_epoch = null where status = 'running'"),
    (&["lease"], "update lanes set lease_task = lease_task + 1000 where lease_task is not null"),
    (&["lease"], "update lanes set lease_task = null where lease_task is not null"),
    (
        &["one_running", "lease"],
        "drop index tasks_one_running; update tasks set status = 'running', finished_at = null, lease_epoch = 1, error = null
        where id in (select min(id) from tasks union select max(id) from tasks where lane_id = 1)",
    ),
    (&["host_limit"], "insert into hosts (host, concurrent) values ('a.example.com', 1)"),
    (&["host_limit"], "update lanes set host = 'a.example.com', host_limit = 1 where id = 1"),
    (&["host_limit"], "update lanes set host = 'a.example.com', host_limit = 2 where id = 1;
        insert into hosts (host, concurrent) values ('a.example.com', 1)"),
    (&["waiting"], "update lanes set next_run_at = null, ready = {false} where next_run_at is not null and lease_task is null"),
    (&["waiting"], "update lanes set next_run_at = (select min(created_at) from tasks) where next_run_at is not null and lease_task is null"),
    (&["waiting"], "update lanes set ready = {true}, next_run_at = null where id = 1"),
    (&["waiting"], "delete from tasks where status = 'pending'"),
    (&["task_state"], "update tasks set finished_at = null where status = 'succeeded'"),
    (&["task_state", "waiting"], "update tasks set status = 'lost' where status = 'pending'"),
    (&["task_state"], "update tasks set finished_at = created_at where status = 'pending'"),
    (&["task_state"], "update tasks set lease_epoch = 1 where status = 'failed'"),
    (&["task_state"], "update tasks set error = null where status = 'failed'"),
    (&["task_lane"], "update tasks set queue = 'aggregation' where id = 1"),
    (&["task_lane"], "update tasks set stream = 'other' where id = 1"),
    (&["retry"], "update tasks set retry_of = 1 where retry_of is not null"),
    (
        &["one_task_per_fire"],
        "drop index tasks_fire; update tasks set schedule_id = 1, fire_time = created_at where lane_id = 1",
    ),
    (&["schedule"], "update schedules set last_at = next_at"),
    (&["owner"], "insert into lanes (queue, kind, object_id) values ('acquisition', 'source', 1000)"),
    (&["owner"], "insert into schedules (kind, object_id, interval_secs, next_at)
        select 'aggregation', 1000, 60, created_at from tasks where id = 1"),
    (&["owner", "record_count"], "update acquired_data set source_id = 1000, stream = 'x', key_hash = null where id = 1"),
    (&["owner", "rows_of_run", "visible_rows"], "update aggregated_data set source_id = 1000 where id = (select max(id) from aggregated_data)"),
    (&["secret"], "update secrets set object_id = 1000"),
    (&["record_count"], "update counters set row_count = row_count + 1 where table_name = 'acquired_data'"),
    (&["record_count"], "delete from counters where table_name = 'acquired_data'"),
    (&["record_count"], "delete from acquired_data where id = 1"),
    (&["record_count", "watermark"], "delete from acquired_data where id = (select max(id) from acquired_data)"),
    (&["record_bytes"], "insert into source_bytes (source_id, counted_up_to, row_count, bytes)
        select source_id, 1, 1, 1 from acquired_data where id = 1"),
    (&["quarantine_count"], "update counters set row_count = 0 where table_name = 'quarantine'"),
    (&["quarantine_count"], "delete from quarantine"),
    (&["watermark"], "update checkpoints set last_record_id = last_record_id - 1"),
    (&["watermark"], "update checkpoints set last_record_id = last_record_id + 1"),
    (&["watermark"], "delete from checkpoints"),
    (&["watermark"], "update checkpoints set removed_up_to = last_record_id + 1"),
    (&["record_versions"], "update acquired_data set version = 2 where id = 2"),
    (&["record_versions"], "update acquired_data set version = 0 where id = 2"),
    (
        &["record_versions", "record_hash"],
        "update acquired_data set version = 2, key_hash = (select key_hash from acquired_data where id = 1),
            data_hash = (select data_hash from acquired_data where id = 1) where id = 2",
    ),
    (&["tombstone"], "update acquired_data set is_deleted = {true} where id = 1"),
    (&["tombstone"], "update acquired_data set is_deleted = {true}, data_hash = null, version = id,
            key_hash = (select key_hash from acquired_data where id = 1) where id in (2, 3)"),
    (&["owner"], "insert into sweeps (source_id, task_id, up_to_id) values (1000, 1, 1)"),
    (&["checkpoint"], "update checkpoints set lease_epoch = 1000"),
    (&["checkpoint"], "update checkpoints set config_rev = 1000"),
    (
        &["record_identity"],
        "drop index acquired_data_key; update acquired_data set key_hash = (select key_hash from acquired_data where id = 1)
        where id = 2",
    ),
    (&["quarantine_once", "quarantine_count"], "drop index quarantine_once; insert into quarantine
        (source_id, task_id, reason, detail, raw, raw_length, raw_hash)
        select source_id, task_id, reason, detail, raw, raw_length, raw_hash from quarantine"),
    (&["source_schema"], "delete from source_schemas where version = 1; update source_schemas set version = 0"),
    (&["source_schema"], "update source_schemas set version = 4 where version = 2"),
    (&["owner"], "update source_schemas set source_id = 1000"),
    (&["inbox"], "update quarantine set status = 'replaying', replay_task = 1, outcome = null"),
    (&["inbox"], "insert into inbox (source_id, quarantine_id, raw) select source_id, id, raw from quarantine"),
    (&["inbox"], "insert into inbox (source_id, quarantine_id, raw) select source_id, 1000, raw from quarantine"),
    (&["inbox", "replay"], "insert into inbox (source_id, quarantine_id, raw) select source_id, id, raw from quarantine;
        update quarantine set status = 'replaying'; update inbox set stream = 'x'"),
    (&["owner", "inbox"], "insert into inbox (source_id, quarantine_id, raw) select 1000, id, raw from quarantine"),
    // Read, and kept although nobody can ask for it.
    (&["push"], "insert into pushes (source_id, identity_hash, format, body_bytes, record_count, task_id, received_at, read_at)
        select source_id, '', 'json', 2, 1, 1, created_at, created_at from quarantine limit 1"),
    (&["push", "push_count"], "insert into pushes (source_id, identity_hash, format, body_bytes, record_count, task_id, received_at)
        select source_id, '', 'json', 2, 1, 1, created_at from quarantine limit 1"),
    (&["push_count"], "insert into counters (table_name, source_id, stream, row_count)
        select 'push_bytes', source_id, '', 7 from quarantine limit 1"),
    (&["owner"], "insert into pushes
        (source_id, idempotency_key, identity_hash, format, body_bytes, record_count, task_id, received_at, read_at)
        select 1000, 'a', '', 'json', 2, 1, 1, created_at, created_at from quarantine limit 1"),
    (&["replay"], "update quarantine set status = 'replayed'"),
    (&["replay"], "update quarantine set outcome = 'quarantined'"),
    (&["current_run", "visible_rows"], "update aggregation_runs set status = 'current' where status = 'superseded'"),
    (&["current_run"], "update aggregation_runs set replaced_by = null where status = 'superseded'"),
    (&["current_run"], "update aggregation_sources set current_run_id = null"),
    (&["current_run"], "update aggregation_sources set current_run_id = 1000"),
    (&["current_run", "visible_rows"], "update aggregation_runs set status = 'building'"),
    (&["run_rows", "visible_rows"], "delete from aggregated_data where run_id = 2 and id = (select max(id) from aggregated_data where run_id = 2)"),
    (&["run_rows"], "update aggregation_runs set row_count = row_count + 1 where mode = 'replace'"),
    (&["run_rows"], "update aggregation_runs set row_count = row_count - 1 where mode = 'upsert'"),
    (&["run_rows"], "update aggregation_runs set rows_removed_at = started_at"),
    (&["rows_of_run", "run_rows", "visible_rows"], "update aggregated_data set run_id = 1000, superseded_by = null where id = (select max(id) from aggregated_data)"),
    (&["visible_rows"], "update aggregation_sources set visible_rows = visible_rows + 1"),
    (&["shown_key"], "drop index aggregated_data_key; update aggregated_data set key_hash = 'same' where key_hash is not null"),
    (&["shown_key"], "update aggregated_data set key_hash = null where key_hash is not null"),
    (&["superseded_rows", "shown_key", "visible_rows"], "update aggregated_data set superseded_by = null"),
    (&["superseded_rows"], "update aggregation_runs set superseded_stored = superseded_stored + 1 where mode = 'upsert'"),
    (&["superseded_rows"], "update aggregated_data set superseded_by = 1000 where id = 1"),
    (&["trigger"], "insert into aggregation_triggers (aggregation_id, cause_kind, cause_name, debounce_secs) values (1000, 'source', 'read', 5)"),
    (&["trigger"], "insert into changes (kind, object_id, since) select 'source', 1000, created_at from tasks where id = 1"),
    (&["trigger"], "insert into aggregation_triggers (aggregation_id, cause_kind, cause_name, debounce_secs)
        select id, 'aggregation', case when name = 'sums' then 'keyed' else 'sums' end, 5 from aggregation_sources"),
    (&["record_hash"], "update acquired_data set raw_data = '{\"n\":1000}' where id = 2"),
    (&["record_hash"], "update acquired_data set data_hash = 'abc' where id = 3"),
    (&["quarantine_bytes"], "update quarantine set raw_hash = 'abc'"),
    (&["quarantine_bytes"], "update quarantine set raw_length = 1"),
    (&["adoption"], "insert into adoptions (kind, object_id, up_to_id) values ('source', 4711, 1)"),
    (&["instance"], "delete from instance"),
];

const DROP_CONSTRAINTS: &str = "do $$ declare c record; begin
    for c in select conrelid::regclass as of, conname from pg_constraint
        where contype in ('c', 'f') and connamespace = current_schema()::regnamespace
    loop execute format('alter table %s drop constraint %I', c.of, c.conname); end loop;
end $$";

#[tokio::test]
async fn each_broken_invariant_is_found() {
    for bed in beds().await {
        let mut conn = bed.connect().await;
        for (expected, script) in BROKEN {
            conn.begin().await;
            conn.script(script).await;
            for full in [false, true] {
                let verdicts = check(&mut conn.0, full).await.unwrap();
                // SQLite's own check sees broken CHECK constraints too.
                let mut found: Vec<&str> = violated(&verdicts).filter(|name| *name != "storage").collect();
                let mut expected = expected.to_vec();
                assert!(found.contains(&expected[0]), "{} {script}: {found:?}", bed.name);
                found.sort_unstable();
                expected.sort_unstable();
                assert_eq!(found, expected, "{} {script}: {verdicts:#?}", bed.name);
            }
            conn.script("rollback").await;
        }
        let named: Vec<&str> = BROKEN.iter().map(|(names, _)| names[0]).collect();
        for verdict in check(&mut bed.snapshot().await, true).await.unwrap() {
            assert!(verdict.holds(), "{}: {verdict:?}", bed.name);
            assert!(verdict.invariant == "storage" || named.contains(&verdict.invariant), "no test breaks {verdict:?}");
        }
    }
}

#[tokio::test]
async fn a_snapshot_sees_nothing_that_comes_later() {
    for bed in beds().await {
        let mut snapshot = bed.snapshot().await;
        assert_eq!(violated(&check(&mut snapshot, false).await.unwrap()).count(), 0, "{}", bed.name);
        bed.db
            .write(|conn| {
                Box::pin(async move { conn.execute("update counters set row_count = row_count + 1", &[]).await })
            })
            .await
            .unwrap();
        assert_eq!(violated(&check(&mut snapshot, false).await.unwrap()).count(), 0, "{}", bed.name);
        let later = check(&mut bed.snapshot().await, false).await.unwrap();
        assert_eq!(violated(&later).collect::<Vec<_>>(), ["record_count", "quarantine_count"], "{}", bed.name);
    }
}

#[tokio::test]
async fn places_are_named_and_the_rest_is_counted() {
    for bed in beds().await {
        let mut conn = bed.connect().await;
        conn.begin().await;
        conn.script("update acquired_data set data_hash = ''").await;
        let verdicts = check(&mut conn.0, true).await.unwrap();
        let verdict = verdicts.iter().find(|verdict| verdict.invariant == "record_hash").unwrap();
        assert_eq!((verdict.violations, verdict.places.len()), (8, 5), "{}", bed.name);
        // Which five is the database's choice.
        assert!(verdict.places.iter().all(|place| place.starts_with("record ")), "{:?}", verdict.places);
    }
}

#[tokio::test]
async fn what_is_no_database_of_ours_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("matome.db");
    assert!(matches!(Snapshot::of_file(&file).await, Err(StoreError::DataDir { .. })));
    std::fs::write(&file, "no database at all, but long enough to be taken for one").unwrap();
    assert!(Snapshot::of_file(&file).await.is_err());
    SqliteConnectOptions::new().filename(dir.path().join("empty.db")).create_if_missing(true).connect().await.unwrap();
    let mut empty = Snapshot::of_file(&dir.path().join("empty.db")).await.unwrap();
    assert!(matches!(check(&mut empty, false).await, Err(StoreError::SchemaVersion { found: 0, .. })));
}

fn violated(verdicts: &[Verdict]) -> impl Iterator<Item = &'static str> {
    verdicts.iter().filter(|verdict| !verdict.holds()).map(|verdict| verdict.invariant)
}

struct Bed {
    name: &'static str,
    db: Db,
    url: Option<String>,
    dir: TempDir,
}

/// A database of each kind after some work.
async fn beds() -> Vec<Bed> {
    let dir = TempDir::new().unwrap();
    let db = Db::open_embedded(DataDir::acquire(dir.path()).unwrap()).await.unwrap();
    let sqlite = Bed { name: "sqlite", db, url: None, dir };
    let url = matome_testbed::postgres_schema().await;
    let db = Db::connect_postgres(&url, Uuid::new_v4(), 4).await.unwrap();
    let postgres = Bed { name: "postgres", db, url: Some(url), dir: TempDir::new().unwrap() };
    for bed in [&sqlite, &postgres] {
        migrate::migrate(&bed.db).await.unwrap();
        bed.db.write(|conn| Box::pin(work(conn))).await.unwrap();
    }
    vec![sqlite, postgres]
}

impl Bed {
    async fn snapshot(&self) -> Snapshot {
        match &self.url {
            Some(url) => Snapshot::of_postgres(url).await.unwrap(),
            None => Snapshot::of_file(&self.dir.path().join("matome.db")).await.unwrap(),
        }
    }

    /// A connection that may write, without foreign keys and checks.
    async fn connect(&self) -> Breaking {
        Breaking(match &self.url {
            Some(url) => Snapshot::Postgres(PgConnection::connect(url).await.unwrap()),
            None => {
                let url = format!("sqlite://{}", self.dir.path().join("matome.db").display());
                let options = SqliteConnectOptions::from_str(&url).unwrap().foreign_keys(false);
                Snapshot::Sqlite(options.pragma("ignore_check_constraints", "on").connect().await.unwrap())
            }
        })
    }
}

struct Breaking(Snapshot);

impl Breaking {
    async fn begin(&mut self) {
        self.script("begin").await;
        if matches!(self.0, Snapshot::Postgres(_)) {
            self.script(DROP_CONSTRAINTS).await;
        }
    }

    async fn script(&mut self, sql: &str) {
        let mut conn = self.0.conn();
        let sql = sql.replace("{true}", conn.pick("true", "1")).replace("{false}", conn.pick("false", "0"));
        conn.execute_script(sql.clone()).await.unwrap_or_else(|err| panic!("{sql}: {err:?}"));
    }
}

fn at(secs: i64) -> Timestamp {
    DateTime::from_timestamp_micros(1_763_900_000_123_456).unwrap() + TimeDelta::seconds(secs)
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

/// Lane 1: a read with records in quarantine, a failed task and its repetition. Lane 2: a running task and one
/// that waits. Lane 3: made by its schedule, waits for a retry. Two aggregations: see there.
async fn work(conn: &mut Conn<'_>) -> Result<()> {
    let (worker, policy) = (Uuid::new_v4(), RetryPolicy::default());
    let read = source(conn, "read").await?;
    let task = start(conn, LaneKind::Source, read, worker).await?;
    read_pages(conn, &task, read).await?;
    end(conn, &task, End::Succeeded { result: json("{}") }, &policy).await?;
    let failing = start(conn, LaneKind::Source, read, worker).await?;
    end(conn, &failing, End::Failed { error: json("{}"), result: None }, &policy).await?;
    tasks::retry_ended(conn, failing.task.id, LaneKind::Source, at(2)).await?;
    let again = claim(conn, Queue::Acquisition, worker).await?;
    end(conn, &again, End::Succeeded { result: json("{}") }, &policy).await?;
    let secret = SecretString::from("hidden");
    secrets::save(conn, &Vault::from_key([7; 32]), LaneKind::Source, read, "/auth/token", &secret).await?;

    let scheduled = source(conn, "scheduled").await?;
    schedules::upsert(conn, LaneKind::Source, scheduled, &Plan::every(60), true, at(-60)).await?;
    schedules::fire_due(conn, at(1), 10).await?;
    let task = claim(conn, Queue::Acquisition, worker).await?;
    let retry = End::Retry { error: json("{}"), result: None, after: None, jitter: 0.5 };
    end(conn, &task, retry, &policy).await?;

    let busy = source(conn, "busy").await?;
    start(conn, LaneKind::Source, busy, worker).await?;
    tasks::enqueue(conn, &NewTask::manual(LaneKind::Source, busy, at(3)), at(3)).await?;

    let fields = AggregationFields {
        name: "sums".to_owned(),
        description: None,
        status: SourceStatus::Active,
        config: json("{}"),
    };
    let sums = aggregation_sources::create(conn, &fields, at(0)).await?;
    // Run 1 is replaced by run 2; run 3 is given up with a mark; run 4 supersedes a row of run 2.
    let fields = AggregationFields { name: "keyed".to_owned(), ..fields };
    let keyed = aggregation_sources::create(conn, &fields, at(0)).await?;
    for (source, effect, keys) in [
        (sums, Effect::Replace, None),
        (sums, Effect::Replace, None),
        (keyed, Effect::Replace, Some(["a", "b", "c"].as_slice())),
        (keyed, Effect::Upsert, Some(["b", "x"].as_slice())),
        (keyed, Effect::Upsert, Some(["b", "d"].as_slice())),
    ] {
        let task = start(conn, LaneKind::Aggregation, source, worker).await?;
        let new = NewRun { source_id: source, task_id: task.task.id, effect, inputs: json("[]"), params: json("{}") };
        let run_id = aggregation_runs::begin(conn, &task.fence, &new, at(4)).await?;
        let rows: Vec<String> = (0..keys.map_or(3, <[_]>::len)).map(|n| format!("{{\"n\":{n}}}")).collect();
        let published = i64::try_from(rows.len()).unwrap();
        let hashes = |keys: &[&str]| keys.iter().map(|key| format!("{key:0>32}")).collect();
        let page = aggregated_data::Page {
            source_id: source,
            run_id,
            rows,
            keys: keys.map(|keys| Keys { hashes: hashes(keys), supersede: effect == Effect::Upsert }),
            metadata: json("{}"),
            aggregated_at: at(4),
        };
        let superseded = aggregated_data::insert_page(conn, &task.fence, &page).await?;
        if keys.is_some_and(|keys| keys.contains(&"x")) {
            end(conn, &task, End::Failed { error: json("{}"), result: None }, &policy).await?;
            continue;
        }
        let publication = Publication {
            source_id: source,
            run_id,
            effect,
            rows: published,
            superseded: i64::try_from(superseded).unwrap(),
            key: keys.map(|_| "[\"k\"]".to_owned()),
            plan: String::new(),
            inputs: json("[]"),
            retention: Retention { runs: Some(2), since: None },
            now: at(4),
        };
        aggregation_runs::publish(conn, &task.fence, &publication).await?;
        end(conn, &task, End::Succeeded { result: json("{}") }, &policy).await?;
    }
    Ok(())
}

async fn source(conn: &mut Conn<'_>, name: &str) -> Result<i64> {
    let fields = SourceFields {
        name: name.to_owned(),
        source_type: SourceType::File,
        description: None,
        status: SourceStatus::Active,
        config: json("{}"),
        fetch_interval: 0,
    };
    data_sources::create(conn, &fields, at(0)).await
}

async fn start(conn: &mut Conn<'_>, kind: LaneKind, object_id: i64, worker: Uuid) -> Result<ClaimedTask> {
    tasks::enqueue(conn, &NewTask::manual(kind, object_id, at(1)), at(1)).await?;
    claim(conn, kind.queue(), worker).await
}

async fn claim(conn: &mut Conn<'_>, queue: Queue, worker: Uuid) -> Result<ClaimedTask> {
    Ok(tasks::claim(conn, queue, worker, 1, at(2)).await?.pop().unwrap())
}

async fn end(conn: &mut Conn<'_>, task: &ClaimedTask, end: End, policy: &RetryPolicy) -> Result<()> {
    let finish = Finish { task_id: task.task.id, fence: task.fence, end };
    tasks::finish(conn, &[finish], policy, at(3)).await.map(drop)
}

/// Eight records, two of them equal, with numbers that the databases write in their own way; one bad record.
async fn read_pages(conn: &mut Conn<'_>, task: &ClaimedTask, source_id: i64) -> Result<()> {
    let key = CheckpointKey { source_id, stream: String::new(), purpose: LIVE.to_owned() };
    let begun = checkpoints::begin(conn, &task.fence, &key, task.task.id, 1, false, at(2)).await?;
    let occurrences = Occurrences::begin(conn, &key, &begun).await?.expect("there is nothing to forget");
    let occurrences = Arc::new(Mutex::new(occurrences));
    let mut canonicaliser = Canonicaliser::default();
    let pages = [
        vec![r#"{"n":1.50,"b":"é\u0001"}"#, r#"{"n":1e30}"#, r#"{"n":-0}"#, r#"{"z":1,"a":{"c":[1.0,null],"b":"\/"}}"#],
        vec![r#"{"n":12345678901234567890.0123}"#, r#"{"n":7}"#, r#"{"n":7}"#, r#"{"名前":"値","":true}"#],
    ];
    for (page_seq, texts) in (0..).zip(pages) {
        let mut records = Records::default();
        for text in texts {
            let canonical = canonicaliser.canonicalise(text.as_bytes()).unwrap();
            records.push(canonical.text, canonical.hash, None, |out| out.push_str("{}"));
        }
        let bad = BadRecord {
            reason: QuarantineReason::InvalidJson,
            detail: Words::quoted("bad"),
            position: "{}".to_owned(),
            raw: b"not json".to_vec(),
            raw_length: 8,
            key: None,
        };
        let page = Page {
            fence: task.fence,
            task_id: task.task.id,
            acquired_at: at(2),
            dedupe: Dedupe::Rows,
            occurrences: Some(Arc::clone(&occurrences)),
            keyed: None,
            records,
            quarantined: vec![bad],
            checkpoint: Advance {
                key: key.clone(),
                page_seq,
                config_rev: 1,
                state: "{}".to_owned(),
                is_exact: false,
                begins_anew: false,
            },
            ends_read: page_seq == 1,
            is_fetch: false,
            settles: None,
            progress: None,
            inbox: None,
            pushes: None,
            deletes: Default::default(),
            schema: acquired_data::SchemaStep {
                new: Some(source_schemas::NewVersion {
                    version: page_seq + 1,
                    fields: "{}".to_owned(),
                    changes: "[]".to_owned(),
                    settled: false,
                    accepts: 0,
                }),
                settles: true,
                accepts: 0,
            },
        };
        let committed = acquired_data::commit_page(conn, &page).await?;
        occurrences.lock().unwrap().advance(committed.seen);
    }
    Ok(())
}
