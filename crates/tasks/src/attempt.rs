//! One attempt at a task: the handler's run, and what its end means for the queue.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use matome_model::field_error::Words;
use matome_model::kept_error::KeptError;
use matome_model::say;
use matome_store::tasks::{End, Finish};
use serde_json::value::RawValue;

use crate::handler::{Advice, ClaimedTask, Handler, StopReason, TaskContext, TaskError, TaskOutcome};
use crate::trace::Origin;

/// How long a handler may take to return when it is asked to stop; then it is dropped, which rolls its open
/// transaction back.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// The same when its lease is lost: it can commit nothing any more.
const LOST_GRACE: Duration = Duration::from_secs(5);
/// The same when a person cancelled it and waits: with [`crate::process`]'s look for cancels two seconds in all. A page
/// that is being committed meanwhile is whole in the database or not at all.
const CANCEL_GRACE: Duration = Duration::from_millis(750);

/// An attempt that is over.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) finish: Finish,
    pub(crate) took: Duration,
    pub(crate) origin: Origin,
    /// When it was over.
    pub(crate) at: Instant,
}

/// Runs the handler for at most `deadline`; whatever it does, panics included, there is an end to write.
pub(crate) async fn run(handler: &dyn Handler, task: ClaimedTask, ctx: TaskContext, deadline: Duration) -> Done {
    let (task_id, fence) = (task.task.id, task.fence);
    let origin = Origin::of(&task.task);
    let started = Instant::now();
    let result = tokio::select! {
        result = run_to_its_deadline(handler, task, &ctx) => result,
        () = stop_at(&ctx, deadline) => unreachable!("waits for the task"),
    };
    if let Err(err) = &result {
        tracing::Span::current().record("error", &*err.reason);
    }
    let finish = Finish { task_id, fence, end: end(task_id, result, &ctx, deadline) };
    tracing::Span::current().record("outcome", word(&finish.end));
    Done { finish, took: started.elapsed(), origin, at: Instant::now() }
}

/// Runs the handler until it returns, panics, or does not stop although it was asked to; for longer than it says that it
/// may take ([`TaskContext::set_deadline`]) is a failure.
///
/// # Errors
/// Those of the handler, and `panic`, `deadline` and [`Advice::Interrupted`].
pub async fn run_to_its_deadline(
    handler: &dyn Handler,
    task: ClaimedTask,
    ctx: &TaskContext,
) -> Result<TaskOutcome, TaskError> {
    let work = AssertUnwindSafe(async { handler.run(task, ctx.clone()).await }).catch_unwind();
    let result = tokio::select! {
        result = work => result.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))),
        () = stopped_too_long(ctx) => Err(TaskError::interrupted()),
        () = stop_at_its_deadline(ctx) => unreachable!("waits for the task"),
    };
    match result {
        Err(err) if err.advice == Advice::Interrupted && ctx.stop_reason() == Some(StopReason::Overdue) => {
            let secs = ctx.deadline().await.as_secs();
            let late = say!(
                "the task did not end within {secs} seconds: find out what takes so long, or raise its `deadline_secs`",
                "タスクが {secs} 秒以内に終わりませんでした。時間のかかる原因を調べるか、`deadline_secs` を増やしてください"
            );
            Err(TaskError { result: err.result, ..TaskError::fail("deadline", late) })
        }
        result => result,
    }
}

/// Asks the task to stop when its time is over, and never returns.
async fn stop_at(ctx: &TaskContext, deadline: Duration) {
    tokio::time::sleep(deadline).await;
    ctx.stop_with(StopReason::Deadline);
    std::future::pending().await
}

/// The same for the time that it set itself.
async fn stop_at_its_deadline(ctx: &TaskContext) {
    let deadline = ctx.deadline().await;
    tokio::time::sleep(deadline.saturating_sub(ctx.age())).await;
    ctx.stop_with(StopReason::Overdue);
    std::future::pending().await
}

async fn stopped_too_long(ctx: &TaskContext) {
    ctx.stop.cancelled().await;
    let asked = Instant::now();
    let grace = || match ctx.stop_reason() {
        Some(StopReason::LeaseLost) => LOST_GRACE,
        Some(StopReason::Cancelled) => CANCEL_GRACE,
        _ => STOP_GRACE,
    };
    while asked.elapsed() < grace() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn end(task_id: i64, result: Result<TaskOutcome, TaskError>, ctx: &TaskContext, deadline: Duration) -> End {
    let reason = ctx.stop_reason();
    if reason == Some(StopReason::LeaseLost) {
        // When the lease is ours after all (only the heartbeat was late), this gives it back; else it is fenced.
        return End::Released { result: None };
    }
    let err = match result {
        Ok(outcome) => return End::Succeeded { result: outcome.result },
        Err(err) => err,
    };
    let error = error_json(&err);
    match err.advice {
        Advice::Fenced => End::Released { result: None },
        Advice::Interrupted if reason == Some(StopReason::Cancelled) => End::Cancelled { result: err.result },
        Advice::Interrupted if reason == Some(StopReason::Yield) => End::Yielded { result: err.result },
        // A stream has no time in which it has to end: it goes on at once.
        Advice::Interrupted if reason == Some(StopReason::Deadline) && ctx.is_stream() => {
            End::Yielded { result: err.result }
        }
        Advice::Interrupted if reason == Some(StopReason::Deadline) => {
            let secs = deadline.as_secs();
            let late =
                say!("the attempt did not end within {secs} seconds", "試行が {secs} 秒以内に終わりませんでした");
            let late = TaskError { result: err.result, ..TaskError::retry("deadline", late) };
            log(task_id, &late, "attempt stopped");
            End::Retry { error: error_json(&late), result: late.result, after: None, jitter: rand::random() }
        }
        Advice::Interrupted => End::Released { result: err.result },
        Advice::Fail => {
            log(task_id, &err, "task failed");
            End::Failed { error, result: err.result }
        }
        Advice::Retry { after } => {
            log(task_id, &err, "attempt failed");
            End::Retry { error, result: err.result, after, jitter: rand::random() }
        }
    }
}

/// How the attempt ended, if its worker still has the lease.
fn word(end: &End) -> &'static str {
    match end {
        End::Succeeded { .. } => "succeeded",
        End::Failed { .. } => "failed",
        End::Cancelled { .. } => "cancelled",
        End::Retry { .. } => "retry",
        End::Released { .. } => "released",
        End::Yielded { .. } => "yielded",
    }
}

fn log(task_id: i64, err: &TaskError, what: &str) {
    let causes: Vec<&str> = err.causes.iter().map(|cause| cause.english.as_str()).collect();
    let causes = causes.join(": ");
    tracing::warn!(task.id = task_id, reason = %err.reason, causes, "{what}: {}", err.message);
}

fn panicked(panic: &(dyn Any + Send)) -> TaskError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    let mut err = TaskError::panicked();
    err.causes.push(Words::quoted(message));
    err
}

/// The form in which `tasks.error` is kept ([`KeptError`]).
fn error_json(err: &TaskError) -> Box<RawValue> {
    let kept = KeptError::new(&err.reason, &err.message, &err.causes, err.position.as_deref());
    serde_json::value::to_raw_value(&kept).expect("text is JSON")
}

/// The error of a task whose real end the database would not take.
pub(crate) fn unstorable(task_id: i64, why: &(dyn std::error::Error + 'static)) -> End {
    let what = ("the end of the task could not be stored", "タスクの終わりを保存できませんでした");
    let err = TaskError::because(Advice::Fail, "unstorable", what, Some(why));
    log(task_id, &err, "the end of the task could not be stored");
    End::Failed { error: error_json(&err), result: None }
}
