//! What may be lost: wake-ups of workers, requests to stop, live events of tasks, answers that are kept for others. SQL is the
//! truth; what goes through here only makes somebody look sooner.
//!
//! [`Bus`] works within a process, or over Redis between all processes of an installation. Redis may be emptied, restarted,
//! slow, full or absent at any moment: then workers find work by polling, and nothing else changes.
//!
//! ```ignore
//! let bus = Bus::redis(instance_id, &RedisUrls { .. })?;
//! bus.wake(Queue::Acquisition);              // after the commit that made work
//! bus.woken(Queue::Acquisition).await;       // in a worker with a free slot: look now
//! ```

pub mod celery;
mod event;
mod redis;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use matome_model::task::Queue;
use tokio::sync::{Notify, broadcast, watch};
use uuid::Uuid;

pub use event::{Events, Heard, TaskEvent};
pub use redis::{BusError, RedisState, RedisTls, RedisUrls};

use redis::Redis;

/// Events that a slow listener may be behind before it misses some.
const EVENTS_KEPT: usize = 1024;

/// Carries wake-ups and events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bus(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    here: Arc<Here>,
    redis: Option<Redis>,
}

/// What the parts of this process tell each other.
#[derive(Debug)]
struct Here {
    queues: HashMap<Queue, Corner>,
    events: broadcast::Sender<Heard>,
}

#[derive(Debug)]
struct Corner {
    work: Notify,
    stop: Notify,
    /// Workers of this process that have a free slot and wait.
    waiting: watch::Sender<usize>,
}

impl Here {
    fn new() -> Self {
        let corner = || Corner { work: Notify::new(), stop: Notify::new(), waiting: watch::Sender::new(0) };
        let queues = Queue::ALL.iter().map(|queue| (*queue, corner())).collect();
        Self { queues, events: broadcast::Sender::new(EVENTS_KEPT) }
    }

    fn corner(&self, queue: Queue) -> &Corner {
        &self.queues[&queue]
    }
}

impl Bus {
    /// A bus within this process.
    pub fn in_process() -> Self {
        Self(Arc::new(Inner { here: Arc::new(Here::new()), redis: None }))
    }

    /// A bus over Redis for the processes of the installation `instance_id`. Connects in the background, now and whenever
    /// it has to; needs a Tokio runtime.
    ///
    /// # Errors
    /// When an address is none of a Redis server.
    pub fn redis(instance_id: Uuid, urls: &RedisUrls) -> Result<Self, BusError> {
        Self::over_redis(instance_id, urls, false)
    }

    /// The same, logging nothing about trouble with Redis: for a process that is gone before it could matter to it.
    ///
    /// # Errors
    /// As [`Bus::redis`].
    pub fn redis_hushed(instance_id: Uuid, urls: &RedisUrls) -> Result<Self, BusError> {
        Self::over_redis(instance_id, urls, true)
    }

    fn over_redis(instance_id: Uuid, urls: &RedisUrls, is_hushed: bool) -> Result<Self, BusError> {
        let here = Arc::new(Here::new());
        let redis = Redis::start(instance_id, urls, &here, is_hushed)?;
        Ok(Self(Arc::new(Inner { here, redis: Some(redis) })))
    }

    /// Says that `queue` has work, after the transaction that made it has committed. Many calls before a worker looks are
    /// one. Never waits.
    pub fn wake(&self, queue: Queue) {
        let corner = self.0.here.corner(queue);
        match &self.0.redis {
            // A worker here that waits is as good as any; when it fills up, it wakes the next.
            Some(redis) if *corner.waiting.borrow() == 0 => redis.wake(queue),
            _ => corner.work.notify_one(),
        }
    }

    /// Says that a worker has just filled all its slots, so that there may be work for another one.
    pub fn pass_on(&self, queue: Queue) {
        if let Some(redis) = &self.0.redis {
            redis.wake(queue);
        }
    }

    /// Waits for the next wake-up of `queue`, as a worker that has a free slot; one that came while nobody waited counts.
    pub async fn woken(&self, queue: Queue) {
        let corner = self.0.here.corner(queue);
        let _waits = Waits::new(&corner.waiting);
        corner.work.notified().await;
    }

    /// Says that running tasks of `queue` are to stop: their workers look at once. Never waits.
    pub fn stop(&self, queue: Queue) {
        self.0.here.corner(queue).stop.notify_one();
        if let Some(redis) = &self.0.redis {
            redis.stop(queue);
        }
    }

    /// Waits until somebody says that running tasks of `queue` are to stop.
    pub async fn stopped(&self, queue: Queue) {
        if let Some(redis) = &self.0.redis {
            redis.listen_for_stops(queue);
        }
        self.0.here.corner(queue).stop.notified().await;
    }

    /// Tells what became of a task, after the commit. Never waits.
    pub fn tell(&self, event: TaskEvent) {
        if let Some(redis) = &self.0.redis {
            redis.tell(event);
        }
        // Nobody here may listen.
        let _ = self.0.here.events.send(Heard::Task(event));
    }

    /// The events of all processes from now on.
    pub fn events(&self) -> Events {
        let events = Events::new(self.0.here.events.subscribe());
        if let Some(redis) = &self.0.redis {
            redis.listen_for_events();
        }
        events
    }

    /// A connection of its own to the Redis database of `queue`, on which an answer may take so long; none where Redis is
    /// not used.
    ///
    /// # Errors
    /// When Redis cannot be reached or refuses.
    pub async fn connect(
        &self,
        queue: Queue,
        answer_within: Duration,
    ) -> Option<::redis::RedisResult<::redis::aio::MultiplexedConnection>> {
        match self.0.redis.as_ref().and_then(|redis| redis.link(queue)) {
            Some(link) => Some(link.connect(answer_within).await),
            None => None,
        }
    }

    /// Changes a small value that the processes of the installation share, under a name that `queue` has for it. `change` gets
    /// the value, if there is one, and the time of the server since 1970; it returns the new value with how long it is kept, or
    /// nothing to leave it as it is, and an outcome. When somebody else was faster it is asked again.
    ///
    /// Returns nothing when there is no Redis, it fails, or too many change the value at once. The value may vanish at any moment.
    pub async fn update<T>(
        &self,
        queue: Queue,
        name: &str,
        change: impl Fn(Option<&[u8]>, Duration) -> (Option<(Vec<u8>, Duration)>, T),
    ) -> Option<T> {
        let link = self.0.redis.as_ref()?.link(queue)?;
        link.update(name, change).await
    }

    /// Keeps a value for some minutes under a name that `queue` has for it, where all processes find it. It may vanish at any
    /// moment, and is not kept (nor made, without Redis) while Redis is slow or this process has kept much. Never waits.
    pub fn keep(&self, queue: Queue, name: &str, value: impl FnOnce() -> Vec<u8>) {
        if let Some(link) = self.0.redis.as_ref().and_then(|redis| redis.link(queue)) {
            link.keep(name, value);
        }
    }

    /// What [`Bus::keep`] kept, or whatever else stands under that name now: whoever asks must tell. None without Redis, and
    /// when it does not answer at once.
    pub async fn kept(&self, queue: Queue, name: &str) -> Option<Vec<u8>> {
        self.0.redis.as_ref()?.link(queue)?.kept(name).await
    }

    /// Where the messages of Celery producers of `queue` are kept while they are taken over; none where Redis is not used.
    pub(crate) fn celery_list(&self, queue: Queue) -> Option<String> {
        Some(self.0.redis.as_ref()?.link(queue)?.celery().to_owned())
    }

    /// What is wrong with Redis, for those who watch; none when nothing is, or when it is not used.
    pub fn trouble(&self) -> Option<String> {
        self.0.redis.as_ref().and_then(Redis::trouble)
    }

    /// Whether Redis is used at all.
    pub fn is_shared(&self) -> bool {
        self.0.redis.is_some()
    }

    /// Sends what is still to be sent, for a moment, and ends the connections.
    pub async fn close(&self) {
        if let Some(redis) = &self.0.redis {
            redis.close().await;
        }
    }
}

/// Counts a worker among those that wait, as long as it lives.
struct Waits<'a>(&'a watch::Sender<usize>);

impl<'a> Waits<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|count| *count += 1);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use matome_model::task::TaskStatus;

    use super::*;

    #[tokio::test]
    async fn a_wake_up_before_the_wait_is_not_lost_and_stays_in_its_queue() {
        let bus = Bus::in_process();
        bus.wake(Queue::Acquisition);
        bus.wake(Queue::Acquisition);
        bus.clone().woken(Queue::Acquisition).await;
        let second = tokio::select! {
            biased;
            () = bus.woken(Queue::Acquisition) => "acquisition",
            () = bus.woken(Queue::Aggregation) => "aggregation",
            () = std::future::ready(()) => "none",
        };
        assert_eq!(second, "none");
    }

    #[tokio::test]
    async fn a_request_to_stop_is_no_wake_up() {
        let bus = Bus::in_process();
        bus.stop(Queue::Acquisition);
        let heard = tokio::select! {
            biased;
            () = bus.woken(Queue::Acquisition) => "work",
            () = bus.stopped(Queue::Acquisition) => "stop",
        };
        assert_eq!(heard, "stop");
    }

    #[tokio::test]
    async fn a_listener_that_is_too_slow_hears_that_it_missed_something() {
        let bus = Bus::in_process();
        let mut events = bus.events();
        let event = |task_id| TaskEvent { queue: Queue::Acquisition, task_id, status: TaskStatus::Running };
        bus.tell(event(1));
        assert_eq!(events.next().await, Heard::Task(event(1)));
        (0..2000).for_each(|task_id| bus.tell(event(task_id)));
        assert_eq!(events.next().await, Heard::Missed);
        assert!(matches!(events.next().await, Heard::Task(_)));
    }
}
