//! One queue's link to its Redis database: who sends, who takes tokens, who listens.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use matome_model::complaint::Complaint;
use matome_model::task::Queue;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, cmd};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::kept::Kept;
use super::shared::Changes;
use super::{BusError, PAUSE, RedisTls, TOKENS};
use crate::event::{Message, TaskEvent};
use crate::{Heard, Here};

/// Redis answers within this time, or counts as away.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// `BLPOP` waits so long for a token; then the connection is known to live.
const TAKE_FOR: Duration = Duration::from_secs(2);
/// Between two tries to reach it: so long at first, ever longer up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// A connection that has nothing to say is asked so often whether it lives.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Events that wait to be sent; older ones are dropped.
const EVENTS_WAITING: usize = 2048;
/// Events of one message.
const EVENTS_AT_ONCE: usize = 500;
/// At the end, so long for what is still to be sent.
const LAST_WORDS: Duration = Duration::from_millis(300);

pub(crate) struct Link {
    client: Client,
    /// The same on database 0, for servers that have no other.
    fallback: Option<Client>,
    has_only_zero: AtomicBool,
    queue: Queue,
    /// `host:port/number`, for people.
    place: String,
    names: Names,
    from: u64,
    here: Arc<Here>,
    outbox: Outbox,
    trouble: Mutex<Trouble>,
    tasks: TaskTracker,
    closed: CancellationToken,
    hears_stops: AtomicBool,
    hears_events: AtomicBool,
    met: [AtomicBool; 5],
    /// Nothing is logged about trouble.
    is_hushed: bool,
    pub(super) prefix: String,
    pub(super) changes: Changes,
    pub(super) kept: Kept,
}

/// What a connection listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Stop,
    Events,
}

struct Names {
    work: String,
    stop: String,
    events: String,
    celery: String,
}

/// What is to be sent.
#[derive(Default)]
struct Outbox {
    token: AtomicBool,
    stop: AtomicBool,
    events: Mutex<VecDeque<TaskEvent>>,
    ready: Notify,
}

/// What a link does over a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Send,
    Take,
    HearStops,
    HearEvents,
    Change,
}

/// What is wrong, for each part: one may fail while the others work, on a server that may only be read, say.
#[derive(Default)]
struct Trouble {
    complaint: Complaint,
    what: [Option<String>; 5],
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the client: its address may hold a password.
        f.debug_struct("Link").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn start(
        prefix: &str,
        info: ConnectionInfo,
        tls: &RedisTls,
        queue: Queue,
        from: u64,
        here: Arc<Here>,
        is_hushed: bool,
    ) -> Result<Arc<Self>, BusError> {
        let fallback = match info.redis_settings().db() {
            0 => None,
            _ => Some(tls.client(info.clone().set_redis_settings(info.redis_settings().clone().set_db(0)))?),
        };
        let place = format!("{}/{}", info.addr(), info.redis_settings().db());
        let [work, stop, events, celery] = ["work", "stop", "events", "celery"].map(|name| format!("{prefix}:{name}"));
        let link = Arc::new(Self {
            client: tls.client(info)?,
            fallback,
            has_only_zero: AtomicBool::new(false),
            queue,
            place,
            names: Names { work, stop, events, celery },
            from,
            here,
            outbox: Outbox::default(),
            trouble: Mutex::default(),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
            hears_stops: AtomicBool::new(false),
            hears_events: AtomicBool::new(false),
            met: Default::default(),
            is_hushed,
            prefix: prefix.to_owned(),
            changes: Changes::default(),
            kept: Kept::default(),
        });
        link.up().set(0.0);
        link.reconnects().increment(0);
        link.spawn(Arc::clone(&link).send_for_ever());
        link.spawn(Arc::clone(&link).take_for_ever());
        Ok(link)
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let closed = self.closed.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// The list of messages of Celery producers that were taken and are not accepted yet.
    pub(crate) fn celery(&self) -> &str {
        &self.names.celery
    }

    pub(crate) fn wake(&self) {
        self.outbox.token.store(true, Ordering::SeqCst);
        self.outbox.ready.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.outbox.stop.store(true, Ordering::SeqCst);
        self.outbox.ready.notify_one();
    }

    pub(crate) fn tell(&self, event: TaskEvent) {
        let mut events = self.events();
        if events.len() >= EVENTS_WAITING {
            events.pop_front();
        }
        events.push_back(event);
        drop(events);
        self.outbox.ready.notify_one();
    }

    pub(crate) fn listen_for_stops(self: &Arc<Self>) {
        if !self.hears_stops.swap(true, Ordering::SeqCst) {
            self.spawn(Arc::clone(self).listen_for_ever(Channel::Stop));
        }
    }

    pub(crate) fn listen_for_events(self: &Arc<Self>) {
        if !self.hears_events.swap(true, Ordering::SeqCst) {
            self.spawn(Arc::clone(self).listen_for_ever(Channel::Events));
        }
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.lock_trouble().what.iter().flatten().next().cloned()
    }

    pub(crate) async fn close(&self) {
        let sent = async {
            while self.has_to_send() && self.trouble().is_none() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, sent).await;
        self.closed.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn events(&self) -> MutexGuard<'_, VecDeque<TaskEvent>> {
        self.outbox.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_to_send(&self) -> bool {
        let outbox = &self.outbox;
        outbox.token.load(Ordering::SeqCst) || outbox.stop.load(Ordering::SeqCst) || !self.events().is_empty()
    }

    /// Sends what is in the outbox; what could not be sent stays there, events apart: they would be old.
    async fn send_for_ever(self: Arc<Self>) {
        let mut connection: Option<MultiplexedConnection> = None;
        let mut pinged: Option<Instant> = None;
        let mut pause = RETRY.0;
        loop {
            match self.send(&mut connection, &mut pinged).await {
                Ok(()) => {
                    self.works(Part::Send);
                    pause = RETRY.0;
                    tokio::time::sleep(PAUSE).await;
                    if !self.has_to_send() {
                        // With nothing to send it is asked now and then, for those who watch.
                        let _ = tokio::time::timeout(PING_EVERY, self.outbox.ready.notified()).await;
                    }
                }
                Err(err) => {
                    if err.code() != Some("OOM") && err.code() != Some("READONLY") {
                        connection = None;
                    }
                    self.events().clear();
                    self.complain(Part::Send, &err);
                    wait_about(&mut pause).await;
                }
            }
        }
    }

    /// `pinged` is when the server was last asked whether it lives: also one that has much to do is asked now and then.
    async fn send(
        &self,
        connection: &mut Option<MultiplexedConnection>,
        pinged: &mut Option<Instant>,
    ) -> RedisResult<()> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.connect_for(Part::Send).await?),
        };
        if !self.has_to_send() || pinged.is_none_or(|at| at.elapsed() >= PING_EVERY) {
            let asked = Instant::now();
            let _: () = cmd("PING").query_async(connection).await?;
            metrics::histogram!("matome_redis_ping_seconds", "queue" => self.queue.as_str())
                .record(asked.elapsed().as_secs_f64());
            *pinged = Some(asked);
        }
        let outbox = &self.outbox;
        // What need not be stored goes first: a full server still passes it on.
        if outbox.stop.load(Ordering::SeqCst) {
            outbox.stop.store(false, Ordering::SeqCst);
            let sent: RedisResult<()> = cmd("PUBLISH").arg(&self.names.stop).arg("1").query_async(connection).await;
            sent.inspect_err(|_| outbox.stop.store(true, Ordering::SeqCst))?;
        }
        let events: Vec<TaskEvent> = {
            let mut waiting = self.events();
            let count = waiting.len().min(EVENTS_AT_ONCE);
            waiting.drain(..count).collect()
        };
        if !events.is_empty() {
            let message = Message { v: 1, from: self.from, events };
            let text = serde_json::to_string(&message).expect("numbers and words are JSON");
            let _: () = cmd("PUBLISH").arg(&self.names.events).arg(text).query_async(connection).await?;
        }
        if outbox.token.load(Ordering::SeqCst) {
            outbox.token.store(false, Ordering::SeqCst);
            let sent = self.push(connection).await;
            sent.inspect_err(|_| outbox.token.store(true, Ordering::SeqCst))?;
        }
        Ok(())
    }

    /// Adds a token. What else may be found under our name is not ours, and in the way.
    async fn push(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let name = &self.names.work;
        let push = cmd("RPUSH").arg(name).arg("1").to_owned();
        let length: usize = match push.query_async(connection).await {
            Err(err) if is_foreign(&err) => {
                self.remove_foreign(connection).await?;
                push.query_async(connection).await?
            }
            length => length?,
        };
        if length > TOKENS {
            let first = -i64::try_from(TOKENS).unwrap_or(i64::MAX);
            let _: () = cmd("LTRIM").arg(name).arg(first).arg(-1).query_async(connection).await?;
        }
        Ok(())
    }

    async fn remove_foreign(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        tracing::warn!(key = self.names.work, "Redis holds something else under a name of ours; it is removed");
        cmd("DEL").arg(&self.names.work).query_async(connection).await
    }

    /// Takes tokens as long as a worker of this process has a free slot.
    async fn take_for_ever(self: Arc<Self>) {
        let corner = self.here.corner(self.queue);
        let mut waiting = corner.waiting.subscribe();
        let mut connection: Option<MultiplexedConnection> = None;
        let mut pause = RETRY.0;
        loop {
            if waiting.wait_for(|count| *count > 0).await.is_err() {
                return;
            }
            match self.take(&mut connection).await {
                Ok(false) => {
                    self.works(Part::Take);
                    pause = RETRY.0;
                }
                Ok(true) => {
                    self.works(Part::Take);
                    pause = RETRY.0;
                    match *corner.waiting.borrow() {
                        // Nobody here can use it any more.
                        0 => self.wake(),
                        _ => corner.work.notify_one(),
                    }
                }
                Err(err) => {
                    connection = None;
                    self.complain(Part::Take, &err);
                    wait_about(&mut pause).await;
                }
            }
        }
    }

    async fn take(&self, connection: &mut Option<MultiplexedConnection>) -> RedisResult<bool> {
        let connection = match connection {
            Some(connection) => connection,
            None => {
                let connection = connection.insert(self.connect(TAKE_FOR + ANSWER_WITHIN).await?);
                // What came while there was no connection.
                self.here.corner(self.queue).work.notify_one();
                connection
            }
        };
        let take = cmd("BLPOP").arg(&self.names.work).arg(TAKE_FOR.as_secs()).to_owned();
        let taken: RedisResult<Option<(String, Vec<u8>)>> = take.query_async(connection).await;
        match taken {
            Err(err) if is_foreign(&err) => {
                self.remove_foreign(connection).await?;
                Ok(true)
            }
            taken => Ok(taken?.is_some()),
        }
    }

    async fn listen_for_ever(self: Arc<Self>, channel: Channel) {
        let part = match channel {
            Channel::Stop => Part::HearStops,
            Channel::Events => Part::HearEvents,
        };
        let mut pause = RETRY.0;
        loop {
            match self.subscribe(channel).await {
                Ok(connection) => {
                    self.has_connected(part);
                    self.works(part);
                    pause = RETRY.0;
                    self.hear_nothing(channel);
                    self.listen(channel, connection).await;
                }
                Err(err) => self.complain(part, &err),
            }
            wait_about(&mut pause).await;
        }
    }

    /// Until the connection ends or does not answer.
    async fn listen(&self, channel: Channel, connection: PubSub) {
        let (mut sink, mut messages) = connection.split();
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.hear(channel, message.get_payload_bytes()),
                    None => return,
                },
                () = tokio::time::sleep(PING_EVERY) => {
                    let answer = tokio::time::timeout(ANSWER_WITHIN, sink.ping::<redis::Value>()).await;
                    if !matches!(answer, Ok(Ok(_))) {
                        return;
                    }
                }
            }
        }
    }

    /// There was a gap: something may have been said in it.
    fn hear_nothing(&self, channel: Channel) {
        match channel {
            Channel::Stop => self.here.corner(self.queue).stop.notify_one(),
            Channel::Events => drop(self.here.events.send(Heard::Missed)),
        }
    }

    fn hear(&self, channel: Channel, bytes: &[u8]) {
        if channel == Channel::Stop {
            self.here.corner(self.queue).stop.notify_one();
            return;
        }
        let Ok(message) = serde_json::from_slice::<Message>(bytes) else { return };
        if message.v == 1 && message.from != self.from {
            for event in message.events {
                // Nobody here may listen any more.
                let _ = self.here.events.send(Heard::Task(event));
            }
        }
    }

    pub(crate) async fn connect(&self, answer_within: Duration) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_WITHIN))
            .set_response_timeout(Some(answer_within));
        match self.client().get_multiplexed_async_connection_with_config(&config).await {
            Err(err) if self.turns_to_zero(&err) => {
                self.client().get_multiplexed_async_connection_with_config(&config).await
            }
            connected => connected,
        }
    }

    /// A connection for one part, which is counted when the part had one before.
    pub(super) async fn connect_for(&self, part: Part) -> RedisResult<MultiplexedConnection> {
        let connection = self.connect(ANSWER_WITHIN).await?;
        self.has_connected(part);
        Ok(connection)
    }

    fn has_connected(&self, part: Part) {
        if self.met[part as usize].swap(true, Ordering::SeqCst) {
            self.reconnects().increment(1);
        }
    }

    fn up(&self) -> metrics::Gauge {
        metrics::gauge!("matome_redis_up", "queue" => self.queue.as_str())
    }

    fn reconnects(&self) -> metrics::Counter {
        metrics::counter!("matome_redis_reconnects_total", "queue" => self.queue.as_str())
    }

    async fn subscribe(&self, channel: Channel) -> RedisResult<PubSub> {
        let name = match channel {
            Channel::Stop => &self.names.stop,
            Channel::Events => &self.names.events,
        };
        let subscribed = async {
            let mut connection = match self.client().get_async_pubsub().await {
                Err(err) if self.turns_to_zero(&err) => self.client().get_async_pubsub().await?,
                connected => connected?,
            };
            connection.subscribe(name).await?;
            Ok(connection)
        };
        tokio::time::timeout(ANSWER_WITHIN, subscribed)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "it does not answer").into()))
    }

    /// The queue's own database, or number 0 where the server has no other.
    fn client(&self) -> &Client {
        match &self.fallback {
            Some(zero) if self.has_only_zero.load(Ordering::SeqCst) => zero,
            _ => &self.client,
        }
    }

    /// Whether `err` says that there is no such database, so that number 0 is worth a try.
    fn turns_to_zero(&self, err: &RedisError) -> bool {
        let turns = self.fallback.is_some() && has_no_such_database(err);
        if turns && !self.has_only_zero.swap(true, Ordering::SeqCst) {
            tracing::info!(queue = self.queue.as_str(), "this Redis has only database 0; it is used instead");
        }
        turns
    }

    pub(super) fn complain(&self, part: Part, err: &RedisError) {
        let mut trouble = self.lock_trouble();
        trouble.what[part as usize] = Some(told(err));
        self.up().set(0.0);
        if self.is_hushed {
            return;
        }
        if let Some(kept_back) = trouble.complaint.due(Instant::now()) {
            let (queue, place, help) = (self.queue.as_str(), &self.place, remedy(err));
            tracing::warn!(queue, error = %told(err), kept_back, help,
                "Redis at `{place}` cannot be used: workers look for tasks by themselves");
        }
    }

    pub(super) fn works(&self, part: Part) {
        let mut trouble = self.lock_trouble();
        trouble.what[part as usize] = None;
        if trouble.what.iter().any(Option::is_some) {
            return;
        }
        self.up().set(1.0);
        if trouble.complaint.over() {
            tracing::info!(queue = self.queue.as_str(), "Redis at `{}` is used again", self.place);
        }
    }
}

/// What an error says; never an address or a password.
pub(super) fn told(err: &RedisError) -> String {
    if err.is_timeout() {
        return "it does not answer".to_owned();
    }
    if err.is_connection_refusal() {
        return "nothing listens there".to_owned();
    }
    if err.is_io_error() {
        return err.to_string();
    }
    match (err.code(), err.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, Some(detail)) => detail.to_owned(),
        (None, None) => err.category().to_owned(),
    }
}

/// What to do about an error, as far as it tells.
fn remedy(err: &RedisError) -> &'static str {
    const USER: &str =
        "write user and password into the address, redis://user:password@host:6379, and let that user run all commands";
    match err.code() {
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => USER,
        _ if err.kind() == ErrorKind::AuthenticationFailed => USER,
        Some("READONLY") => "this server follows another one: name that one in the address",
        Some("OOM") => "the server is full: give it more memory (maxmemory)",
        Some("MISCONF") => "the server cannot save to its disk: free some space there, or turn its persistence off",
        _ if err.is_connection_refusal() => "check that the server runs there and that the address is right",
        // A server waits for more when it is greeted in the other way.
        _ if err.is_io_error() => {
            "check server, host, port and scheme of the address: rediss:// is with TLS, redis:// without"
        }
        _ => "check the server and its address",
    }
}

fn is_foreign(err: &RedisError) -> bool {
    err.code() == Some("WRONGTYPE")
}

fn has_no_such_database(err: &RedisError) -> bool {
    err.to_string().contains("DB index") || err.to_string().contains("invalid DB")
}

/// Waits about so long, so that processes do not all come back at once.
async fn wait_about(pause: &mut Duration) {
    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
    *pause = (*pause * 2).min(RETRY.1);
}
