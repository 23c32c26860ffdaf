//! Listens, gathers pages, connects again, and says in each checkpoint where to go on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use matome_model::canonical::QuarantineReason;
use matome_model::clock::{Clock, iso8601};
use matome_model::say;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::Instant;

use super::config::WebsocketConfig;
use super::dial::{Connection, Dialer, Lost, Wanted};
use super::message::{Message, Place, decode, raw, rejected};
use super::socket::HELD_BYTES;
use super::state::{Gap, State};
use crate::error::{Advice, ConnectorError};
use crate::read::{ReadRequest, Reader};
use crate::record::{Batch, DocumentError, Item, ReadStats};

/// A stream without messages says so often in its checkpoint that it listened.
const HEARD_EVERY: Duration = Duration::from_secs(30);
/// A wait that a source asks for is waited for up to this; a longer one ends the attempt, and the task goes on after it.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// So many connections in a row that the source ends by a code which says that it does not want them are the last ones.
const REFUSALS: u32 = 3;

pub(super) struct StreamReader {
    config: Arc<WebsocketConfig>,
    dialer: Dialer,
    clock: Clock,
    request: ReadRequest,
    state: State,
    /// As the source is named in positions.
    document: Arc<str>,
    connection: Option<Connection>,
    /// Connections of this read.
    connections: u64,
    /// Messages of this connection.
    messages: u64,
    /// When this connection stood, and whether a record came on it.
    stood: Option<Instant>,
    has_given: bool,
    /// Tries since the last connection that was of use.
    failures: u32,
    /// Those of them, the latest, that the source has refused.
    refusals: u32,
    /// Why there is no connection, and what the source said about it.
    lost: &'static str,
    closed: (Option<u16>, Option<String>),
    last_error: Option<ConnectorError>,
    /// Until when nothing is tried, if the source said so.
    not_before: Option<Instant>,
    /// Records of a message that have no page yet, and its token.
    waiting: VecDeque<Item>,
    waiting_token: Option<Box<RawValue>>,
    /// The message with this token is one that was read before.
    repeated: Option<Box<RawValue>>,
    /// So many records come again that are in pages already.
    skip: u64,
    ends_at: Option<Instant>,
    /// When the last page was handed on.
    handed_on: Option<Instant>,
    stats: ReadStats,
    has_ended: bool,
    /// The checkpoint says something that is not handed on yet.
    is_dirty: bool,
}

/// A page that is being gathered.
struct Page {
    items: Vec<Item>,
    bytes: usize,
    /// When it is handed on however little it has.
    due: Option<Instant>,
}

/// What was waited for.
enum Came {
    Stop,
    Due,
    Message(Message),
    Lost(Lost),
}

impl Reader for StreamReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, ConnectorError>> {
        Box::pin(async move {
            if let (Some(at), Some(connection)) = (self.handed_on.take(), &mut self.connection) {
                connection.was_left_alone(at.elapsed());
            }
            let batch = self.next_batch().await;
            self.handed_on = Some(Instant::now());
            batch
        })
    }
}

impl StreamReader {
    pub(super) fn new(
        config: Arc<WebsocketConfig>,
        dialer: Dialer,
        clock: Clock,
        request: ReadRequest,
    ) -> Result<Self, ConnectorError> {
        let scope = config.scope();
        let before: State = match &request.checkpoint {
            Some(checkpoint) => serde_json::from_str(checkpoint.get()).map_err(ConnectorError::Checkpoint)?,
            None => State::default(),
        };
        let mut state = if before.scope == scope { before } else { State { scope, ..State::default() } };
        state.version = 1;
        let mut document = config.url.clone();
        document.set_query(None);
        if !config.is_events {
            let scheme = if document.scheme() == "https" { "wss" } else { "ws" };
            // One special scheme for another always works.
            let _ = document.set_scheme(scheme);
        }
        let ends_at = config.duration.map(|duration| Instant::now() + duration);
        Ok(Self {
            config,
            dialer,
            clock,
            request,
            state,
            document: document.as_str().into(),
            connection: None,
            connections: 0,
            messages: 0,
            stood: None,
            has_given: false,
            failures: 0,
            refusals: 0,
            lost: "stopped",
            closed: (None, None),
            last_error: None,
            not_before: None,
            waiting: VecDeque::new(),
            waiting_token: None,
            repeated: None,
            skip: 0,
            ends_at,
            handed_on: None,
            stats: ReadStats::default(),
            has_ended: false,
            is_dirty: false,
        })
    }

    async fn next_batch(&mut self) -> Result<Option<Batch>, ConnectorError> {
        if self.has_ended {
            return Ok(None);
        }
        let mut page = Page { items: Vec::new(), bytes: 0, due: None };
        let listening = Instant::now();
        loop {
            if self.fill(&mut page) {
                return self.hand_on(page).map(Some);
            }
            if self.is_dirty && page.due.is_none() {
                page.due = Some(Instant::now() + self.config.batch.wait);
            }
            let came = if self.connection.is_none() {
                // What is there does not wait for a connection that may take long to come.
                if !page.items.is_empty() || self.is_dirty {
                    return self.hand_on(page).map(Some);
                }
                match self.connect().await? {
                    true => continue,
                    false => Came::Stop,
                }
            } else {
                let due = page.due.unwrap_or(listening + HEARD_EVERY);
                self.wait(due).await
            };
            match came {
                Came::Message(message) => {
                    self.take(message);
                    page.due = page.due.or_else(|| Some(Instant::now() + self.config.batch.wait));
                }
                Came::Due => return self.hand_on(page).map(Some),
                Came::Lost(lost) => self.lose(lost, &mut page)?,
                Came::Stop => {
                    self.has_ended = true;
                    if let Some(connection) = self.connection.take() {
                        self.heard();
                        connection.close().await;
                        self.is_dirty = true;
                    }
                    return match page.items.is_empty() && !self.is_dirty {
                        true => Ok(None),
                        false => self.hand_on(page).map(Some),
                    };
                }
            }
        }
    }

    /// Moves what waits into the page; whether that is full.
    fn fill(&mut self, page: &mut Page) -> bool {
        let records = self.config.batch.records.min(self.request.max_items).max(1);
        let bytes = self.config.batch.bytes.min(self.request.max_bytes);
        loop {
            if page.items.len() >= records || page.bytes >= bytes {
                return true;
            }
            let Some(item) = self.waiting.pop_front() else { break };
            page.bytes += item.raw().len();
            page.items.push(item);
            self.state.taken += 1;
        }
        self.pass();
        false
    }

    /// Moves the place in the stream behind a message all of whose records are in pages.
    fn pass(&mut self) {
        if self.waiting.is_empty()
            && let Some(token) = self.waiting_token.take()
        {
            self.state.token = Some(token);
            (self.state.taken, self.skip, self.state.unreadable) = (0, 0, None);
        }
    }

    fn hand_on(&mut self, page: Page) -> Result<Batch, ConnectorError> {
        // Also when the page is full with its last record.
        self.pass();
        if self.connection.is_some() {
            self.heard();
        }
        self.is_dirty = false;
        Ok(Batch {
            items: page.items,
            checkpoint: to_raw_value(&self.state).map_err(ConnectorError::Checkpoint)?,
            is_exact: true,
            begins_anew: false,
            is_addition: false,
            stats: std::mem::take(&mut self.stats),
        })
    }

    fn heard(&mut self) {
        self.state.heard = Some(iso8601(self.clock.now()));
    }

    async fn wait(&mut self, due: Instant) -> Came {
        let Some(connection) = &mut self.connection else { return Came::Stop };
        let ends_at = self.ends_at;
        tokio::select! {
            biased;
            () = self.request.cancel.cancelled() => Came::Stop,
            () = until(ends_at) => Came::Stop,
            // Before what comes: a source that sends without a pause, were it pings alone, keeps no page back.
            () = tokio::time::sleep_until(due) => Came::Due,
            came = connection.next() => match came {
                Ok(message) => Came::Message(message),
                Err(lost) => Came::Lost(lost),
            },
        }
    }

    fn place(&self) -> Place {
        Place { document: self.document.clone(), connection: self.connections, message: self.messages }
    }

    fn take(&mut self, message: Message) {
        self.messages += 1;
        self.stats.bytes += message.size as u64;
        let place = self.place();
        let mut decoded = decode(&self.config, message, &place);
        if self.repeated.is_some() {
            // The source begins with the message that was read last.
            if decoded.token.as_deref().map(RawValue::get) == self.repeated.as_deref().map(RawValue::get) {
                return;
            }
            if decoded.token.is_some() || !decoded.items.is_empty() {
                self.repeated = None;
            }
        }
        if decoded.is_passed_over {
            self.state.passed_over += 1;
        }
        self.has_given |= !decoded.items.is_empty();
        // A greeting that says why there will be nothing may be taken for a record; what moves on is none.
        if decoded
            .token
            .as_deref()
            .is_some_and(|token| self.state.token.as_deref().is_none_or(|of| of.get() != token.get()))
        {
            (self.failures, self.refusals) = (0, 0);
        }
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(decoded.items.len());
        decoded.items.drain(..skipped);
        self.skip -= skipped as u64;
        self.waiting = decoded.items.into();
        self.waiting_token = decoded.token;
    }

    /// Notes that the connection is gone.
    fn lose(&mut self, lost: Lost, page: &mut Page) -> Result<(), ConnectorError> {
        let silence = if let Lost::Silence(silence) = &lost { *silence } else { Duration::ZERO };
        self.state.heard = Some(iso8601(self.clock.now() - silence));
        self.is_dirty = true;
        self.connection = None;
        let lost = self.dialer.discreet(lost);
        self.lost = lost.code();
        self.messages += 1;
        let place = self.place();
        let detail = match &lost {
            Lost::TooLong(size) => Some((
                QuarantineReason::RecordLimit,
                say!(
                    "message of {size} bytes is longer than the {HELD_BYTES} that can be held; the connection was lost over it and nothing of it is kept",
                    "{size} バイトのメッセージは保持できる {HELD_BYTES} バイトを超えています。そのため接続が切れ、中身は残っていません"
                ),
            )),
            Lost::NotUtf8 => Some((
                QuarantineReason::InvalidUtf8,
                say!(
                    "a text message is no UTF-8; the connection was lost over it and nothing of it is kept",
                    "テキストのメッセージが UTF-8 ではありません。そのため接続が切れ、中身は残っていません"
                ),
            )),
            _ => None,
        };
        if let Some((reason, detail)) = detail {
            if self.can_resume() {
                let token = self.state.token.clone().unwrap_or_else(|| raw("null".to_owned()));
                if self.state.unreadable.as_deref().map(RawValue::get) == Some(token.get()) {
                    // It would come again and again.
                    let problem = say!(
                        "the source sends a message that can not be read again and again: {detail}; have it leave the message out, or set `resume.start` behind it and read anew",
                        "読めないメッセージが繰り返し送られてきます: {detail}。データソース側で取り除くか、`resume.start` をその後ろにして読み直してください"
                    );
                    return Err(ConnectorError::document(place.position(), DocumentError::anywhere(problem)));
                }
                self.state.unreadable = Some(token);
            }
            page.items.push(rejected(Vec::new(), reason, detail, &place));
        }
        let has_lasted = self.stood.take().is_some_and(|stood| stood.elapsed() > self.config.reconnect.longest);
        if has_lasted && self.has_given {
            (self.failures, self.refusals) = (0, 0);
        }
        self.failures += 1;
        self.refusals = if lost.is_refusal() { self.refusals + 1 } else { 0 };
        self.closed = match &lost {
            Lost::Closed { code, reason } => (*code, Some(reason.clone()).filter(|reason| !reason.is_empty())),
            _ => (None, None),
        };
        let error = lost.into_error(place.position());
        tracing::info!(document = %self.document, reason = self.lost, "the connection of a stream was lost: {error}");
        self.last_error = Some(error);
        Ok(())
    }

    /// Whether a new connection goes on where the last one was lost.
    fn can_resume(&self) -> bool {
        self.state.token.is_some() || self.start().is_some()
    }

    /// The cursor of the first connection.
    fn start(&self) -> Option<Box<RawValue>> {
        let start = self.config.resume.as_ref()?.start.as_ref()?;
        // A number stays one.
        let is_number = start.parse::<i128>().is_ok();
        Some(raw(if is_number { start.clone() } else { serde_json::Value::from(start.as_str()).to_string() }))
    }

    /// Opens a connection, after the wait that is due; `false` when the read is over.
    async fn connect(&mut self) -> Result<bool, ConnectorError> {
        loop {
            if let Some(ConnectorError::Closed { position, code, reason }) =
                self.last_error.take_if(|_| self.refusals >= REFUSALS)
            {
                return Err(ConnectorError::TurnedAway { position, code, reason, times: self.refusals });
            }
            if self.failures > self.config.reconnect.attempts {
                return Err(self.last_error.take().unwrap_or(ConnectorError::Broken));
            }
            if self.failures > 0 {
                let wait = self.backoff();
                let (cancel, ends_at) = (self.request.cancel.clone(), self.ends_at);
                let not_before = self.not_before.take().unwrap_or_else(Instant::now);
                tokio::select! {
                    () = cancel.cancelled() => return Ok(false),
                    () = until(ends_at) => return Ok(false),
                    () = tokio::time::sleep_until(not_before.max(Instant::now() + wait)) => {}
                }
            }
            self.connections += 1;
            self.messages = 0;
            let position = self.place().position();
            let start = self.start();
            let token = self.state.token.as_deref().or(start.as_deref());
            let wanted = Wanted { token, now: self.clock.now(), position };
            let cancel = self.request.cancel.clone();
            let opened = tokio::select! {
                biased;
                () = cancel.cancelled() => return match self.connections {
                    // Nobody knows yet whether there is anything to listen to.
                    1 => Err(ConnectorError::Cancelled),
                    _ => Ok(false),
                },
                opened = self.dialer.open(wanted) => opened,
            };
            match opened {
                Ok(Some(connection)) => {
                    self.stats.requests += 1;
                    self.connection = Some(connection);
                    self.stands();
                    return Ok(true);
                }
                Ok(None) => {
                    tracing::info!(document = %self.document, "the source says that it has no more events");
                    return Ok(false);
                }
                Err(error) => self.refused(error)?,
            }
        }
    }

    /// Decides whether to try again after a connection that did not come.
    fn refused(&mut self, error: ConnectorError) -> Result<(), ConnectorError> {
        let is_first = self.connections == 1;
        match error.advice() {
            // The queue keeps its own account of tries, which people see.
            _ if is_first => return Err(error),
            Advice::Fail => return Err(error),
            Advice::Retry { after: Some(after) } if after > WAIT_LIMIT => return Err(error),
            Advice::Retry { after } => self.not_before = after.map(|after| Instant::now() + after),
        }
        tracing::info!(document = %self.document, "a stream could not be connected to again: {error}");
        self.failures += 1;
        self.last_error = Some(error);
        Ok(())
    }

    /// A connection stands: what lies before it that nobody can send again is a gap.
    fn stands(&mut self) {
        let resumes = self.can_resume();
        if resumes && self.config.resume.as_ref().is_some_and(|resume| resume.is_inclusive) {
            self.repeated.clone_from(&self.state.token);
        }
        self.skip = if resumes { self.state.taken } else { 0 };
        if !resumes {
            self.state.taken = 0;
            if let Some(from) = self.state.heard.take() {
                let (code, message) = std::mem::take(&mut self.closed);
                let gap = Gap { from, until: iso8601(self.clock.now()), reason: self.lost.to_owned(), code, message };
                tracing::warn!(
                    document = %self.document, from = gap.from, until = gap.until, reason = gap.reason,
                    code = gap.code, said = gap.message.as_deref(), "a stream that cannot be resumed has a gap"
                );
                self.state.add_gap(gap);
                self.stats.gaps += 1;
            }
        }
        (self.stood, self.has_given) = (Some(Instant::now()), false);
        self.heard();
        self.is_dirty = true;
    }

    /// The wait before the next try.
    fn backoff(&self) -> Duration {
        let reconnect = self.config.reconnect;
        let doubled =
            reconnect.first.saturating_mul(1_u32.checked_shl(self.failures.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(reconnect.longest).mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
