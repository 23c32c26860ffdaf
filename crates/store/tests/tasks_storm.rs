//! Many claimers, enqueuers and cancellers at once: the lock order keeps lanes and tasks in agreement.
//!
//! A claim in one statement, a finish or a cancel that reads tasks before it holds the lane, each fail here.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use matome_model::clock::Clock;
use matome_model::task::{LaneKind, Priority, Queue, Trigger};
use matome_store::db::Db;
use matome_store::error::StoreError;
use matome_store::tasks::{self, End, Ended, Finish, NewTask, Repaired, RetryPolicy};
use matome_testbed::databases;
use serde_json::value::RawValue;
use uuid::Uuid;

const LANES: i64 = 12;
const CLAIMERS: usize = 6;
const ENQUEUERS: usize = 2;
const TASKS: usize = 300;
const DEADLINE: Duration = Duration::from_secs(120);

/// Which tasks run right now, by lane.
#[derive(Default)]
struct Watch {
    running: Mutex<HashMap<i64, i64>>,
    overlaps: AtomicUsize,
    ended: AtomicUsize,
    enqueued: AtomicBool,
}

async fn enqueuer(db: Db, clock: Clock, seed: usize) {
    for n in 0..TASKS {
        let object_id = i64::try_from((n * 7 + seed * 5) % usize::try_from(LANES).unwrap()).unwrap();
        let now = clock.now();
        // Each cause has its own place in a lane, so all of them keep it busy.
        let new = match (n + seed) % 3 {
            0 => NewTask::manual(LaneKind::Source, object_id, now),
            1 => NewTask { fire: None, cause: Trigger::Schedule, ..NewTask::manual(LaneKind::Source, object_id, now) },
            _ => NewTask {
                cause: Trigger::Retry,
                retry_of: Some(i64::try_from(n).unwrap()),
                priority: Some(Priority::Normal),
                ..NewTask::manual(LaneKind::Source, object_id, now)
            },
        };
        let id =
            db.write(move |conn| Box::pin(async move { tasks::enqueue(conn, &new, now).await })).await.unwrap().task.id;
        if n % 4 == 0 {
            db.write(move |conn| Box::pin(async move { tasks::cancel(conn, id, now).await })).await.unwrap();
        }
    }
}

async fn claimer(db: Db, clock: Clock, watch: Arc<Watch>) {
    let worker = Uuid::new_v4();
    let policy = RetryPolicy { base: Duration::ZERO, ..RetryPolicy::default() };
    loop {
        let now = clock.now();
        let claimed = db
            .write(move |conn| Box::pin(async move { tasks::claim(conn, Queue::Acquisition, worker, 4, now).await }))
            .await
            .unwrap();
        if claimed.is_empty() && watch.enqueued.load(Ordering::SeqCst) && open_tasks(&db).await == 0 {
            return;
        }
        for task in &claimed {
            let before = watch.running.lock().unwrap().insert(task.task.lane_id, task.task.id);
            watch.overlaps.fetch_add(usize::from(before.is_some()), Ordering::SeqCst);
        }
        tokio::task::yield_now().await;
        let mut finishes = Vec::new();
        for task in &claimed {
            watch.running.lock().unwrap().remove(&task.task.lane_id);
            let object = || RawValue::from_string("{}".to_owned()).unwrap();
            let end = match task.task.id % 5 {
                0 if task.task.attempt == 0 => End::Retry { error: object(), result: None, after: None, jitter: 0.5 },
                _ => End::Succeeded { result: object() },
            };
            finishes.push(Finish { task_id: task.task.id, fence: task.fence, end });
        }
        let now = clock.now();
        let ended = db
            .write(move |conn| Box::pin(async move { tasks::finish(conn, &finishes, &policy, now).await }))
            .await
            .unwrap();
        assert!(!ended.contains(&Ended::Fenced), "nobody steals here");
        let terminal = ended.iter().filter(|ended| matches!(ended, Ended::Terminal(_))).count();
        watch.ended.fetch_add(terminal, Ordering::SeqCst);
    }
}

async fn count(db: &Db, sql: &'static str) -> i64 {
    db.read().await.unwrap().conn().fetch_one(sql, &[]).await.unwrap().int("n").unwrap()
}

async fn open_tasks(db: &Db) -> i64 {
    count(db, "select count(*) as n from tasks where status in ('pending', 'running')").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_leaves_no_leased_lane_no_idle_lane_and_no_overlap() {
    for bed in databases().await {
        let (db, clock, watch) = (bed.db.clone(), Clock::system(), Arc::new(Watch::default()));
        let claimers: Vec<_> =
            (0..CLAIMERS).map(|_| tokio::spawn(claimer(db.clone(), clock.clone(), Arc::clone(&watch)))).collect();
        let enqueuers: Vec<_> =
            (0..ENQUEUERS).map(|seed| tokio::spawn(enqueuer(db.clone(), clock.clone(), seed))).collect();
        for enqueuer in enqueuers {
            tokio::time::timeout(DEADLINE, enqueuer).await.expect("enqueuing ends").unwrap();
        }
        watch.enqueued.store(true, Ordering::SeqCst);
        let until = Instant::now() + DEADLINE;
        for claimer in claimers {
            // A lane that is idle for ever with a pending task shows as a claimer that never comes to its end.
            tokio::time::timeout(until - Instant::now(), claimer)
                .await
                .unwrap_or_else(|_| panic!("{}: a pending task is never claimed", bed.name))
                .unwrap();
        }
        assert_eq!(watch.overlaps.load(Ordering::SeqCst), 0, "{}", bed.name);
        assert_eq!(
            count(&db, "select count(*) as n from lanes where lease_worker is not null").await,
            0,
            "{}",
            bed.name
        );
        let now = clock.now();
        let repaired = db.write(move |conn| Box::pin(async move { tasks::repair(conn, now).await })).await.unwrap();
        assert_eq!(repaired, Repaired::default(), "{}", bed.name);
        let ended = i64::try_from(watch.ended.load(Ordering::SeqCst)).unwrap();
        let cancelled = "select count(*) as n from tasks where status = 'cancelled' and started_at is null";
        let waiting_cancelled = count(&db, cancelled).await;
        let all = count(&db, "select count(*) as n from tasks").await;
        // A task cancelled while it waited for its retry was started once and ended without a worker.
        let between = "select count(*) as n from tasks
where status = 'cancelled' and started_at is not null and attempt > 0 and finished_at = cancel_requested_at";
        assert_eq!(all, ended + waiting_cancelled + count(&db, between).await, "{}: each ends once", bed.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_sweepers_take_a_dead_workers_lanes_back_once() {
    for bed in databases().await {
        let (db, now, dead) = (bed.db.clone(), Clock::system().now(), Uuid::new_v4());
        db.write(move |conn| {
            Box::pin(async move {
                for object_id in 1..=8 {
                    tasks::enqueue(conn, &NewTask::manual(LaneKind::Source, object_id, now), now).await?;
                }
                tasks::claim(conn, Queue::Acquisition, dead, 8, now).await
            })
        })
        .await
        .unwrap();
        let sweeps =
            (0..4).map(|_| {
                let db = db.clone();
                async move {
                    db.write(move |conn| Box::pin(async move { tasks::steal(conn, dead, now).await })).await.unwrap()
                }
            });
        let stolen: usize = futures::future::join_all(sweeps).await.iter().map(|stolen| stolen.total()).sum();
        assert_eq!(stolen, 8, "{}", bed.name);
        let crashes = "select count(*) as n from tasks where status = 'pending' and crash_count = 1";
        assert_eq!(count(&db, crashes).await, 8);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_zombie_cannot_finish_what_was_stolen_at_the_same_moment() {
    for bed in databases().await {
        let db = bed.db.clone();
        for round in 0..20 {
            let (now, zombie) = (Clock::system().now(), Uuid::new_v4());
            let claimed = db
                .write(move |conn| {
                    Box::pin(async move {
                        tasks::enqueue(conn, &NewTask::manual(LaneKind::Source, round, now), now).await?;
                        tasks::claim(conn, Queue::Acquisition, zombie, 1, now).await
                    })
                })
                .await
                .unwrap();
            let (id, fence) = (claimed[0].task.id, claimed[0].fence);
            let finish = db.write(move |conn| {
                Box::pin(async move {
                    let end = End::Succeeded { result: RawValue::from_string("{}".to_owned()).expect("JSON") };
                    tasks::finish(conn, &[Finish { task_id: id, fence, end }], &RetryPolicy::default(), now).await
                })
            });
            let steal = db.write(move |conn| Box::pin(async move { tasks::steal(conn, zombie, now).await }));
            let (ended, stolen) = futures::future::join(finish, steal).await;
            let (ended, stolen): (Result<_, StoreError>, Result<_, StoreError>) = (ended, stolen);
            let is_fenced = ended.unwrap() == [Ended::Fenced];
            assert_eq!(stolen.unwrap().total(), usize::from(is_fenced), "{}: exactly one of them wins", bed.name);
            let status = tasks::find(&mut db.read().await.unwrap().conn(), id).await.unwrap().unwrap().status;
            assert_eq!(status.is_terminal(), !is_fenced);
            db.write(move |conn| Box::pin(async move { tasks::cancel(conn, id, now).await })).await.unwrap();
        }
    }
}

/// `lanes` becomes a view whose rows one session sees only once the test opens a gate: so its statement can be
/// held between the snapshot it began with and the lanes it locks.
const GATE: &str = "
create function gate() returns boolean language plpgsql volatile cost 100000 as $$
begin
    if current_setting('application_name') = '{slow}' then
        perform pg_advisory_xact_lock_shared({key});
    end if;
    return true;
end $$;
alter table lanes rename to lanes_table;
create view lanes as select * from lanes_table where gate();";

/// The one-statement claim fails here: it picks its task by the snapshot it found the lane with, and so leases
/// the lane to a task that has ended since. On SQLite no claim can begin before another transaction has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_began_before_a_finish_starts_what_is_left() {
    let url = matome_testbed::postgres_schema().await;
    let (slow_boot, worker, now) = (Uuid::new_v4(), Uuid::new_v4(), Clock::system().now());
    let fast = Db::connect_postgres(&url, worker, 3).await.unwrap();
    let slow = Db::connect_postgres(&url, slow_boot, 1).await.unwrap();
    matome_store::migrate::migrate(&fast).await.unwrap();
    let key = i64::from_be_bytes(worker.as_bytes()[..8].try_into().unwrap());
    let script = GATE.replace("{slow}", slow.application_name()).replace("{key}", &key.to_string());
    let (first, second) = fast
        .write(move |conn| {
            Box::pin(async move {
                let first = tasks::enqueue(conn, &NewTask::manual(LaneKind::Source, 1, now), now).await?;
                let second = NewTask { cause: Trigger::Schedule, ..NewTask::manual(LaneKind::Source, 1, now) };
                let second = tasks::enqueue(conn, &second, now).await?;
                conn.execute_script(script).await?;
                Ok((first.task.id, second.task.id))
            })
        })
        .await
        .unwrap();
    let claim = |db: &Db, worker| {
        let db = db.clone();
        async move {
            db.write(move |conn| Box::pin(async move { tasks::claim(conn, Queue::Acquisition, worker, 1, now).await }))
                .await
        }
    };

    let mut gate = fast.read().await.unwrap();
    gate.conn().fetch_all("select pg_advisory_lock($1)", &[key.into()]).await.unwrap();
    let slow_claim = tokio::spawn(claim(&slow, slow_boot));
    let waiting = "select pid from pg_stat_activity where application_name = $1 and wait_event = 'advisory'";
    let until = Instant::now() + DEADLINE;
    while gate.conn().fetch_all(waiting, &[slow.application_name().into()]).await.unwrap().is_empty() {
        assert!(Instant::now() < until && !slow_claim.is_finished(), "the slow claim reaches the gate");
        tokio::task::yield_now().await;
    }
    let claimed = claim(&fast, worker).await.unwrap().remove(0);
    assert_eq!(claimed.task.id, first);
    let end = End::Succeeded { result: RawValue::from_string("{}".to_owned()).unwrap() };
    let finishes = [Finish { task_id: first, fence: claimed.fence, end }];
    fast.write(move |conn| Box::pin(async move { tasks::finish(conn, &finishes, &RetryPolicy::default(), now).await }))
        .await
        .unwrap();
    gate.conn().fetch_all("select pg_advisory_unlock($1)", &[key.into()]).await.unwrap();

    let claimed = slow_claim.await.unwrap().unwrap();
    assert_eq!(claimed.iter().map(|task| task.task.id).collect::<Vec<_>>(), [second]);
    let repaired = fast.write(move |conn| Box::pin(async move { tasks::repair(conn, now).await })).await.unwrap();
    assert_eq!(repaired, Repaired::default());
}
