//! What each transition of a task promises, on both databases.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use chrono::TimeDelta;
use matome_model::clock::Timestamp;
use matome_model::task::{Fence, LaneKind, Priority, Queue, TaskStatus, Trigger};
use matome_store::db::{Arg, Conn, Db};
use matome_store::error::{Result, StoreError};
use matome_store::migrate::Schema;
use matome_store::tasks::{
    self, ClaimedTask, End, Ended, Enqueued, Finish, NewTask, Repaired, Retried, RetryPolicy, Stolen, TaskRow,
};
use matome_store::workers::{self, Beat, NewWorker};
use matome_store::{lanes, lease};
use matome_testbed::databases;
use serde_json::value::RawValue;
use uuid::Uuid;

const KIND: LaneKind = LaneKind::Source;
const QUEUE: Queue = Queue::Acquisition;

/// `write!(db, conn => expression)`: the expression in one transaction.
macro_rules! write {
    ($db:expr, $conn:ident => $work:expr) => {
        $db.write(move |$conn| Box::pin(async move { $work.await })).await
    };
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_timestamp_secs(1_763_900_000 + secs).unwrap()
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

async fn enqueue(db: &Db, new: NewTask, now: Timestamp) -> Enqueued {
    write!(db, conn => tasks::enqueue(conn, &new, now)).unwrap()
}

async fn enqueue_manual(db: &Db, object_id: i64, now: Timestamp) -> Enqueued {
    enqueue(db, NewTask::manual(KIND, object_id, now), now).await
}

async fn claim(db: &Db, worker: Uuid, slots: usize, now: Timestamp) -> Vec<ClaimedTask> {
    write!(db, conn => tasks::claim(conn, QUEUE, worker, slots, now)).unwrap()
}

async fn claim_one(db: &Db, worker: Uuid, now: Timestamp) -> ClaimedTask {
    let mut claimed = claim(db, worker, 1, now).await;
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

async fn finish(db: &Db, task: &ClaimedTask, end: End, now: Timestamp) -> Ended {
    let finishes = vec![Finish { task_id: task.task.id, fence: task.fence, end }];
    write!(db, conn => tasks::finish(conn, &finishes, &RetryPolicy::default(), now)).unwrap()[0]
}

async fn find(db: &Db, id: i64) -> TaskRow {
    tasks::find(&mut db.read().await.unwrap().conn(), id).await.unwrap().unwrap()
}

async fn repair(db: &Db, now: Timestamp) -> Repaired {
    write!(db, conn => tasks::repair(conn, now)).unwrap()
}

fn succeeded() -> End {
    End::Succeeded { result: json(r#"{"stored":3}"#) }
}

fn retry(jitter: f64) -> End {
    End::Retry { error: json(r#"{"reason":"http_status"}"#), result: None, after: None, jitter }
}

fn failed() -> End {
    End::Failed { error: json(r#"{"reason":"config"}"#), result: None }
}

async fn set(conn: &mut Conn<'_>, sql: &'static str, args: &[Arg<'_>]) -> Result<u64> {
    conn.execute(sql, args).await
}

#[tokio::test]
async fn a_task_goes_from_accepted_to_succeeded() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        let task = enqueue_manual(db, 7, at(0)).await.task;
        assert_eq!((task.status, task.cause, task.priority), (TaskStatus::Pending, Trigger::Manual, Priority::High));
        assert_eq!((task.object_id, task.run_at, task.sort_key), (7, at(0), at(-60)));
        let claimed = claim_one(db, worker, at(1)).await;
        assert_eq!(claimed.task.id, task.id);
        assert_eq!(claimed.fence, Fence { lane_id: task.lane_id, lease_epoch: 1, worker });
        assert_eq!((claimed.task.status, claimed.task.started_at), (TaskStatus::Running, Some(at(1))));
        assert!(claim(db, worker, 5, at(1)).await.is_empty());
        assert_eq!(finish(db, &claimed, succeeded(), at(2)).await, Ended::Terminal(TaskStatus::Succeeded));
        let ended = find(db, task.id).await;
        assert_eq!((ended.status, ended.finished_at), (TaskStatus::Succeeded, Some(at(2))));
        assert_eq!(ended.result.unwrap().get().replace(' ', ""), r#"{"stored":3}"#);
        assert_eq!(repair(db, at(2)).await, Repaired::default(), "{}", bed.name);
    }
}

#[tokio::test]
async fn a_lane_has_one_waiting_task_of_each_cause() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        let first = enqueue_manual(db, 1, at(0)).await;
        let again = enqueue_manual(db, 1, at(1)).await;
        assert!(!first.existing && again.existing);
        assert_eq!(first.task.id, again.task.id);
        let scheduled = enqueue(db, NewTask::scheduled(KIND, 1, 9, at(0)), at(1)).await;
        assert!(!scheduled.existing);
        assert!(enqueue(db, NewTask::scheduled(KIND, 1, 9, at(60)), at(60)).await.existing);
        // The task of a schedule's fire is made once, even when it has run since.
        let claimed = claim(db, worker, 9, at(60)).await;
        assert_eq!(claimed.len(), 1, "{}: one lane, one running task", bed.name);
        finish(db, &claimed[0], succeeded(), at(61)).await;
        let claimed = claim_one(db, worker, at(61)).await;
        finish(db, &claimed, succeeded(), at(62)).await;
        let repeated = enqueue(db, NewTask::scheduled(KIND, 1, 9, at(0)), at(63)).await;
        assert!(repeated.existing && repeated.task.id == scheduled.task.id);
        // A running task does not keep a next one from waiting.
        enqueue_manual(db, 1, at(64)).await;
        claim_one(db, worker, at(64)).await;
        assert!(!enqueue_manual(db, 1, at(65)).await.existing);
    }
}

#[tokio::test]
async fn a_fenced_finish_changes_nothing() {
    for bed in databases().await {
        let (db, dead, alive) = (&bed.db, Uuid::new_v4(), Uuid::new_v4());
        let task = enqueue_manual(db, 1, at(0)).await.task;
        let old = claim_one(db, dead, at(0)).await;
        let stolen = write!(db, conn => tasks::steal(conn, dead, at(9))).unwrap();
        assert_eq!(stolen, Stolen { waiting: 1, ..Stolen::default() });
        assert_eq!(finish(db, &old, succeeded(), at(10)).await, Ended::Fenced);
        assert_eq!(find(db, task.id).await.status, TaskStatus::Pending);
        let new = claim_one(db, alive, at(10)).await;
        assert!(new.fence.lease_epoch > old.fence.lease_epoch);
        for end in [succeeded(), failed(), retry(0.0), End::Released { result: None }, End::Cancelled { result: None }]
        {
            assert_eq!(finish(db, &old, end, at(11)).await, Ended::Fenced);
        }
        let fence = old.fence;
        let locked = write!(db, conn => lease::lock(conn, &fence));
        assert!(matches!(locked, Err(StoreError::Fenced { .. })));
        let running = find(db, task.id).await;
        assert_eq!((running.status, running.worker, running.crash_count), (TaskStatus::Running, Some(alive), 1));
        assert_eq!(finish(db, &new, succeeded(), at(12)).await, Ended::Terminal(TaskStatus::Succeeded));
    }
}

#[tokio::test]
async fn one_fenced_finish_in_a_batch_leaves_the_others_alone() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        for object_id in 1..=3 {
            enqueue_manual(db, object_id, at(0)).await;
        }
        let claimed = claim(db, worker, 3, at(0)).await;
        let mut finishes: Vec<Finish> =
            claimed.iter().map(|task| Finish { task_id: task.task.id, fence: task.fence, end: succeeded() }).collect();
        finishes[1].fence.lease_epoch -= 1;
        let ended = write!(db, conn => tasks::finish(conn, &finishes, &RetryPolicy::default(), at(1))).unwrap();
        let done = Ended::Terminal(TaskStatus::Succeeded);
        assert_eq!(ended, [done, Ended::Fenced, done], "{}", bed.name);
        assert_eq!(find(db, claimed[1].task.id).await.status, TaskStatus::Running);
    }
}

#[tokio::test]
async fn a_retry_waits_durably_with_jitter_and_the_last_one_fails() {
    for bed in databases().await {
        let (db, worker, policy) = (&bed.db, Uuid::new_v4(), RetryPolicy { max_attempts: 3, ..RetryPolicy::default() });
        let id = enqueue_manual(db, 1, at(0)).await.task.id;
        let mut now = at(0);
        for (attempt, jitter, wait_ms) in [(1, 0.0, 2_500), (2, 0.5, 7_500)] {
            let claimed = claim_one(db, worker, now).await;
            let finishes = vec![Finish { task_id: id, fence: claimed.fence, end: retry(jitter) }];
            let ended = write!(db, conn => tasks::finish(conn, &finishes, &policy, now)).unwrap();
            let due = now + TimeDelta::milliseconds(wait_ms);
            assert_eq!(ended, [Ended::Waiting { run_at: due }], "{}", bed.name);
            let waiting = find(db, id).await;
            assert_eq!((waiting.status, waiting.attempt, waiting.run_at), (TaskStatus::Pending, attempt, due));
            assert_eq!(waiting.sort_key, due - TimeDelta::seconds(60));
            assert!(waiting.error.is_some());
            assert!(claim(db, worker, 1, due - TimeDelta::microseconds(1)).await.is_empty());
            now = due;
        }
        let claimed = claim_one(db, worker, now).await;
        let finishes = vec![Finish { task_id: id, fence: claimed.fence, end: retry(0.0) }];
        let ended = write!(db, conn => tasks::finish(conn, &finishes, &policy, now)).unwrap();
        assert_eq!(ended, [Ended::Terminal(TaskStatus::Failed)]);
        assert_eq!(find(db, id).await.attempt, 3);
    }
}

#[tokio::test]
async fn retry_after_costs_no_attempt_and_holds_the_lane_until_a_run_by_hand() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        enqueue(db, NewTask::scheduled(KIND, 1, 1, at(0)), at(0)).await;
        let claimed = claim_one(db, worker, at(0)).await;
        let end = End::Retry { error: json("{}"), result: None, after: Some(Duration::from_secs(90)), jitter: 0.0 };
        assert_eq!(finish(db, &claimed, end, at(0)).await, Ended::Waiting { run_at: at(90) });
        assert_eq!(find(db, claimed.task.id).await.attempt, 0);
        // Another task of the lane waits as well.
        enqueue(db, NewTask { stream: String::new(), ..NewTask::scheduled(KIND, 2, 2, at(1)) }, at(1)).await;
        assert_eq!(claim(db, worker, 9, at(2)).await.len(), 1, "the other lane only");
        let by_hand = enqueue_manual(db, 1, at(3)).await;
        assert!(!by_hand.existing);
        assert_eq!(claim_one(db, worker, at(3)).await.task.id, by_hand.task.id, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_run_by_hand_starts_the_task_that_waits_for_its_retry() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        enqueue(db, NewTask::scheduled(KIND, 1, 1, at(0)), at(0)).await;
        let claimed = claim_one(db, worker, at(0)).await;
        finish(db, &claimed, retry(1.0), at(0)).await;
        let pulled = enqueue_manual(db, 1, at(1)).await;
        assert!(pulled.existing);
        assert_eq!((pulled.task.id, pulled.task.run_at, pulled.task.attempt), (claimed.task.id, at(1), 1));
        assert_eq!(claim_one(db, worker, at(1)).await.task.id, claimed.task.id, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_released_task_waits_again_without_an_attempt() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        enqueue_manual(db, 1, at(0)).await;
        let claimed = claim_one(db, worker, at(0)).await;
        let end = End::Released { result: Some(json(r#"{"pages":1}"#)) };
        assert_eq!(finish(db, &claimed, end, at(1)).await, Ended::Waiting { run_at: at(1) });
        let again = claim_one(db, worker, at(1)).await;
        assert_eq!((again.task.id, again.task.attempt, again.task.crash_count), (claimed.task.id, 0, 0));
    }
}

#[tokio::test]
async fn cancel_beats_retry_and_release_but_not_success() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        let cases = [
            (retry(0.0), TaskStatus::Cancelled),
            (End::Released { result: None }, TaskStatus::Cancelled),
            (End::Cancelled { result: None }, TaskStatus::Cancelled),
            (failed(), TaskStatus::Failed),
            (succeeded(), TaskStatus::Succeeded),
        ];
        for (object_id, (end, status)) in (1..).zip(cases) {
            let id = enqueue_manual(db, object_id, at(0)).await.task.id;
            let claimed = claim_one(db, worker, at(0)).await;
            let asked = write!(db, conn => tasks::cancel(conn, id, at(1))).unwrap().unwrap();
            assert_eq!((asked.status, asked.cancel_requested_at), (TaskStatus::Running, Some(at(1))));
            assert_eq!(finish(db, &claimed, end, at(2)).await, Ended::Terminal(status), "{}", bed.name);
            let unchanged = write!(db, conn => tasks::cancel(conn, id, at(3))).unwrap().unwrap();
            assert_eq!((unchanged.status, unchanged.cancel_requested_at), (status, Some(at(1))));
        }
    }
}

#[tokio::test]
async fn a_waiting_task_is_cancelled_at_once() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        let id = enqueue_manual(db, 1, at(0)).await.task.id;
        let cancelled = write!(db, conn => tasks::cancel(conn, id, at(1))).unwrap().unwrap();
        assert_eq!((cancelled.status, cancelled.finished_at), (TaskStatus::Cancelled, Some(at(1))));
        assert!(claim(db, worker, 1, at(2)).await.is_empty());
        assert!(write!(db, conn => tasks::cancel(conn, 4711, at(1))).unwrap().is_none());
        assert!(!enqueue_manual(db, 1, at(3)).await.existing, "{}", bed.name);
    }
}

#[tokio::test]
async fn deleting_an_object_cancels_all_its_tasks() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        enqueue_manual(db, 1, at(0)).await;
        let claimed = claim_one(db, worker, at(0)).await;
        let waiting = enqueue_manual(db, 1, at(0)).await.task;
        let other = enqueue_manual(db, 2, at(0)).await.task;
        let all = write!(db, conn => tasks::cancel_all(conn, KIND, 1, at(1))).unwrap();
        assert_eq!((all.cancelled, all.requested, all.is_idle()), (1, 1, false));
        assert_eq!(find(db, waiting.id).await.status, TaskStatus::Cancelled);
        assert!(find(db, claimed.task.id).await.cancel_requested_at.is_some());
        assert_eq!(find(db, other.id).await.status, TaskStatus::Pending, "{}", bed.name);
    }
}

#[tokio::test]
async fn only_failed_and_cancelled_tasks_are_run_again() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        let run_again = |id| {
            let db = db.clone();
            async move { write!(db, conn => tasks::retry_ended(conn, id, KIND, at(5))).unwrap() }
        };
        assert!(matches!(run_again(99).await, Retried::Missing));
        let id = enqueue_manual(db, 1, at(0)).await.task.id;
        assert!(matches!(run_again(id).await, Retried::Refused(task) if task.status == TaskStatus::Pending));
        let claimed = claim_one(db, worker, at(0)).await;
        finish(db, &claimed, failed(), at(1)).await;
        let Retried::Accepted(new) = run_again(id).await else { panic!("a failed task can run again") };
        assert_eq!((new.task.retry_of, new.task.cause, new.existing), (Some(id), Trigger::Retry, false));
        let Retried::Accepted(same) = run_again(id).await else { panic!("asking twice is fine") };
        assert_eq!((same.task.id, same.existing), (new.task.id, true));
        assert_eq!(find(db, id).await.status, TaskStatus::Failed, "{}", bed.name);
    }
}

#[tokio::test]
async fn priority_ages_so_that_nothing_starves() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        let low = NewTask { priority: Some(Priority::Low), ..NewTask::scheduled(KIND, 1, 1, at(0)) };
        let low = enqueue(db, low, at(0)).await.task.id;
        let mut order = Vec::new();
        // Ahead of the low one while it is young: a fresh critical task each four minutes.
        for minute in (0..=28).step_by(4) {
            let now = at(minute * 60);
            let critical = NewTask { priority: Some(Priority::Critical), ..NewTask::manual(KIND, 1, now) };
            enqueue(db, critical, now).await;
            let claimed = claim_one(db, worker, now).await;
            finish(db, &claimed, succeeded(), now).await;
            order.push(claimed.task.id == low);
        }
        let waited = order.iter().position(|is_low| *is_low);
        assert!(waited.is_some_and(|n| n >= 3), "{}: {order:?}", bed.name);
    }
}

#[tokio::test]
async fn lanes_take_turns_and_a_waking_lane_has_no_credit() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        let mut served = [0; 3];
        for round in 0..9 {
            for object_id in 1..=3 {
                // Lane 3 sleeps at first.
                if object_id < 3 || round >= 6 {
                    enqueue_manual(db, object_id, at(round)).await;
                }
            }
            let claimed = claim_one(db, worker, at(round)).await;
            served[usize::try_from(claimed.task.object_id).unwrap() - 1] += 1;
            finish(db, &claimed, succeeded(), at(round)).await;
        }
        assert_eq!(served.iter().sum::<i32>(), 9);
        assert!(served[0] >= 3 && served[1] >= 3 && served[2] <= 2, "{}: {served:?}", bed.name);
    }
}

#[tokio::test]
async fn a_paused_lane_keeps_its_tasks_until_it_is_resumed() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        enqueue_manual(db, 1, at(0)).await;
        assert_eq!(write!(db, conn => lanes::set_paused(conn, KIND, 1, true, at(0))).unwrap(), 1);
        assert!(claim(db, worker, 1, at(1)).await.is_empty());
        write!(db, conn => lanes::set_paused(conn, KIND, 1, false, at(2))).unwrap();
        claim_one(db, worker, at(2)).await;
    }
}

#[tokio::test]
async fn a_lane_that_keeps_failing_is_held_back_and_probed() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        for n in 0..5 {
            let now = at(n * 100);
            enqueue(db, NewTask::scheduled(KIND, 1, 1, now), now).await;
            let claimed = claim_one(db, worker, now).await;
            finish(db, &claimed, failed(), now).await;
        }
        enqueue(db, NewTask::scheduled(KIND, 1, 1, at(410)), at(410)).await;
        assert!(claim(db, worker, 1, at(459)).await.is_empty(), "{}", bed.name);
        let probe = claim_one(db, worker, at(460)).await;
        finish(db, &probe, failed(), at(460)).await;
        enqueue(db, NewTask::scheduled(KIND, 1, 1, at(461)), at(461)).await;
        assert!(claim(db, worker, 1, at(579)).await.is_empty(), "held back twice as long");
        let by_hand = enqueue_manual(db, 1, at(500)).await.task.id;
        let claimed = claim_one(db, worker, at(500)).await;
        assert_eq!(claimed.task.id, by_hand);
        finish(db, &claimed, succeeded(), at(501)).await;
        claim_one(db, worker, at(501)).await;
    }
}

#[tokio::test]
async fn the_tenth_death_of_its_worker_fails_a_task_unless_a_page_commits() {
    for bed in databases().await {
        let db = &bed.db;
        for (object_id, with_progress, last) in [(1, false, TaskStatus::Failed), (2, true, TaskStatus::Pending)] {
            let id = enqueue_manual(db, object_id, at(0)).await.task.id;
            for death in 1..=10 {
                let worker = Uuid::new_v4();
                let fence = claim_one(db, worker, at(death)).await.fence;
                if with_progress && death == 2 {
                    write!(db, conn => async {
                        lease::lock(conn, &fence).await?;
                        tasks::made_progress(conn, &fence, None).await
                    })
                    .unwrap();
                }
                let stolen = write!(db, conn => tasks::steal(conn, worker, at(death))).unwrap();
                assert_eq!(stolen.total(), 1);
            }
            let task = find(db, id).await;
            assert_eq!(task.status, last, "{}", bed.name);
            assert_eq!(task.error.is_some_and(|error| error.get().contains("poison")), !with_progress);
            write!(db, conn => tasks::cancel(conn, id, at(19))).unwrap();
        }
    }
}

#[tokio::test]
async fn a_restart_voids_every_lease() {
    for bed in databases().await {
        let (db, before) = (&bed.db, Uuid::new_v4());
        let now = at(0);
        let worker = NewWorker { boot: before, role: "serve".into(), host: "h".into(), pid: 1, version: "0".into() };
        write!(db, conn => async { workers::register(conn, &worker, Schema::BUILT, now).await }).unwrap();
        for object_id in 1..=3 {
            enqueue_manual(db, object_id, at(0)).await;
        }
        let old = claim(db, before, 2, at(0)).await;
        let asked = old[1].task.id;
        write!(db, conn => tasks::cancel(conn, asked, at(1))).unwrap();
        let voided = write!(db, conn => tasks::void_leases(conn, at(2))).unwrap();
        assert_eq!(voided, Stolen { waiting: 1, cancelled: 1, poisoned: 0 });
        assert_eq!(finish(db, &old[0], succeeded(), at(3)).await, Ended::Fenced);
        assert_eq!(claim(db, Uuid::new_v4(), 9, at(3)).await.len(), 2);
        assert_eq!(write!(db, conn => workers::beat(conn, before, false, at(3))).unwrap(), Beat::DeclaredDead);
        assert_eq!(repair(db, at(3)).await, Repaired::default(), "{}", bed.name);
    }
}

#[tokio::test]
async fn a_heartbeat_learns_of_cancels_and_lost_leases() {
    for bed in databases().await {
        let (db, boot) = (&bed.db, Uuid::new_v4());
        let worker = NewWorker { boot, role: "serve".into(), host: "h".into(), pid: 1, version: "0".into() };
        write!(db, conn => async { workers::register(conn, &worker, Schema::BUILT, at(0)).await }).unwrap();
        for object_id in 1..=2 {
            enqueue_manual(db, object_id, at(0)).await;
        }
        let claimed = claim(db, boot, 2, at(0)).await;
        let cancelled = claimed[0].task.id;
        write!(db, conn => tasks::cancel(conn, cancelled, at(1))).unwrap();
        let Beat::Alive(held) = write!(db, conn => workers::beat(conn, boot, false, at(2))).unwrap() else {
            panic!("{}: it lives", bed.name)
        };
        assert_eq!(held.len(), 2);
        assert!(held.iter().all(|lease| lease.cancel_requested == (lease.task_id == cancelled)));
        // An observer that saw an older counter must not declare it dead.
        assert!(!write!(db, conn => workers::declare_dead(conn, boot, 0, at(3))).unwrap());
        assert!(write!(db, conn => workers::declare_dead(conn, boot, 1, at(3))).unwrap());
        assert_eq!(write!(db, conn => workers::beat(conn, boot, false, at(4))).unwrap(), Beat::DeclaredDead);
        let orphans = workers::holders_gone(&mut db.read().await.unwrap().conn()).await.unwrap();
        assert_eq!(orphans, [boot]);
    }
}

#[tokio::test]
async fn what_should_never_be_is_repaired_and_counted() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        for object_id in 1..=3 {
            enqueue_manual(db, object_id, at(0)).await;
        }
        let claimed = claim(db, worker, 2, at(0)).await;
        let (leaked, orphan) = (claimed[0].task.id, claimed[1].fence.lane_id);
        db.write(move |conn| {
            Box::pin(async move {
                let leak =
                    "update tasks set status = 'cancelled', lease_epoch = null, finished_at = run_at where id = $1";
                set(conn, leak, &[leaked.into()]).await?;
                set(conn, "update lanes set lease_worker = null, lease_task = null where id = $1", &[orphan.into()])
                    .await?;
                set(conn, "update lanes set ready = false, next_run_at = null where object_id = 3", &[]).await?;
                set(conn, "update lanes set ready = false, next_run_at = null where object_id = 3", &[]).await
            })
        })
        .await
        .unwrap();
        let expected = Repaired { leaked_leases: 1, orphaned_tasks: 1, idle_lanes: 1 };
        assert_eq!(repair(db, at(1)).await, expected, "{}", bed.name);
        assert_eq!(repair(db, at(1)).await, Repaired::default());
        assert_eq!(claim(db, worker, 9, at(2)).await.len(), 2);
    }
}

#[tokio::test]
async fn progress_is_shown_while_the_lease_holds() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        enqueue_manual(db, 1, at(0)).await;
        let claimed = claim_one(db, worker, at(0)).await;
        let (id, fence) = (claimed.task.id, claimed.fence);
        write!(db, conn => async { tasks::set_progress(conn, id, &fence, &json(r#"{"read":5}"#)).await }).unwrap();
        let stale = Fence { lease_epoch: 0, ..fence };
        write!(db, conn => async { tasks::set_progress(conn, id, &stale, &json(r#"{"read":9}"#)).await }).unwrap();
        assert_eq!(find(db, id).await.progress.unwrap().get().replace(' ', ""), r#"{"read":5}"#, "{}", bed.name);
    }
}

#[tokio::test]
async fn an_error_that_quotes_a_nul_character_can_be_stored() {
    for bed in databases().await {
        let (db, worker) = (&bed.db, Uuid::new_v4());
        enqueue_manual(db, 1, at(0)).await;
        let claimed = claim_one(db, worker, at(0)).await;
        let error = serde_json::value::to_raw_value(&serde_json::json!({ "message": "bad \0 and \\u0000" })).unwrap();
        finish(db, &claimed, End::Failed { error, result: None }, at(1)).await;
        let stored = find(db, claimed.task.id).await.error.unwrap();
        assert!(stored.get().contains("bad"), "{}: {}", bed.name, stored.get());
    }
}

#[tokio::test]
async fn a_worker_that_says_goodbye_is_no_death_of_its_tasks() {
    for bed in databases().await {
        let db = &bed.db;
        let (gone, killed) = (Uuid::new_v4(), Uuid::new_v4());
        for (object_id, boot) in [(1, gone), (2, killed)] {
            let worker = NewWorker { boot, role: String::new(), host: String::new(), pid: 1, version: String::new() };
            write!(db, conn => workers::register(conn, &worker, Schema::BUILT, at(0))).unwrap();
            enqueue_manual(db, object_id, at(0)).await;
            let claimed = claim_one(db, boot, at(0)).await;
            assert_eq!(claimed.task.object_id, object_id);
        }
        // It could not give back what it held, for instance because the database was away until the end.
        write!(db, conn => workers::gone(conn, gone, at(1))).unwrap();
        assert!(write!(db, conn => workers::declare_dead(conn, killed, 0, at(1))).unwrap());
        for boot in [gone, killed] {
            write!(db, conn => tasks::steal(conn, boot, at(2))).unwrap();
        }
        let crashes = async |object_id: i64| {
            let sql = "select crash_count from tasks where status = 'pending' and object_id = $1";
            let mut reader = db.read().await.unwrap();
            reader.conn().fetch_one(sql, &[object_id.into()]).await.unwrap().int("crash_count").unwrap()
        };
        assert_eq!((crashes(1).await, crashes(2).await), (0, 1), "{}", bed.name);
        // One that comes back and then dies is dead.
        let worker = NewWorker { boot: gone, role: String::new(), host: String::new(), pid: 1, version: String::new() };
        write!(db, conn => workers::register(conn, &worker, Schema::BUILT, at(3))).unwrap();
        let claimed = claim_one(db, gone, at(3)).await;
        let seq = "select beat_seq from workers where boot = $1";
        let seq =
            db.read().await.unwrap().conn().fetch_one(seq, &[gone.into()]).await.unwrap().int("beat_seq").unwrap();
        assert!(write!(db, conn => workers::declare_dead(conn, gone, seq, at(4))).unwrap());
        write!(db, conn => tasks::steal(conn, gone, at(4))).unwrap();
        let before = claimed.task.crash_count;
        assert_eq!(find(db, claimed.task.id).await.crash_count, before + 1, "{}", bed.name);
    }
}
