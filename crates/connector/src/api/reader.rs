//! Reads a list page by page, or one list for each parent record, and says in each checkpoint where to go on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use matome_model::canonical::QuarantineReason;
use matome_model::clock::iso8601;
use matome_model::field_error::Words;
use matome_model::say;
use matome_model::source::Dedupe;
use serde_json::value::to_raw_value;
use tokio::time::Instant;

use super::config::ApiConfig;
use super::exchange::Exchange;
use super::marks::{self, PageMarks};
use super::pages::{OpenPage, Opened, Walk, Wanted};
use super::parents::{Parent, ParentValues};
use super::state::{ParentPlace, State};
use super::template::{Placeholder, Unfit, Values};
use crate::error::{Advice, ConnectorError};
use crate::read::{ReadRequest, Reader};
use crate::record::{Batch, DocumentError, Item, Position};

/// Records of short lists wait for each other so long; then they are handed on however few they are.
const GATHER_TIME: Duration = Duration::from_secs(1);
/// What the parents of one page may hold in values.
const PARENTS_LIMIT_BYTES: usize = 32 << 20;

pub(super) struct ApiReader {
    config: Arc<ApiConfig>,
    exchange: Exchange,
    request: ReadRequest,
    state: State,
    /// What was seen of the list that is being read.
    walk: Walk,
    page: Option<(Box<OpenPage>, PageMarks)>,
    /// The page that the read was resumed at, while nothing else was read.
    is_resumed: bool,
    parents: Option<Parents>,
    /// Records of lists that have ended, and since when they wait.
    gathered: Vec<Item>,
    gathered_bytes: usize,
    gathered_since: Option<Instant>,
    /// Why the read can not go on; what came before is handed on first.
    failure: Option<ConnectorError>,
    has_ended: bool,
}

/// The parents whose children are still to be read.
#[derive(Default)]
struct Parents {
    walk: Walk,
    /// The page that `waiting` is from.
    at: Option<String>,
    waiting: VecDeque<ParentValues>,
    /// The page behind it.
    next: Option<String>,
    /// Where an earlier attempt stopped.
    resume: Option<ParentPlace>,
}

impl Reader for ApiReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, ConnectorError>> {
        let cancel = self.request.cancel.clone();
        Box::pin(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ConnectorError::Cancelled),
                batch = self.next_batch() => batch,
            }
        })
    }
}

impl ApiReader {
    pub(super) fn new(
        config: Arc<ApiConfig>,
        exchange: Exchange,
        request: ReadRequest,
    ) -> Result<Self, ConnectorError> {
        let scope = config.scope();
        let before = match &request.checkpoint {
            Some(checkpoint) => serde_json::from_str(checkpoint.get()).map_err(ConnectorError::Checkpoint)?,
            None => State::default(),
        };
        let mut state = if before.scope == scope { before } else { State { scope, ..State::default() } };
        state.version = 2;
        // `rows` counts equal rows within one read, so it has to see all of them.
        // A list that has ended is a place too: nothing but the end of the read is left.
        let has_place = match config.parent {
            Some(_) => state.parent.is_some(),
            None => state.at.is_some() || !state.began.is_empty(),
        };
        let is_resumed = !state.complete && has_place && config.common.dedupe != Dedupe::Rows;
        let parents = config.parent.is_some().then(Parents::default);
        let mut reader = Self {
            config,
            exchange,
            request,
            state,
            walk: Walk::default(),
            page: None,
            is_resumed,
            parents,
            gathered: Vec::new(),
            gathered_bytes: 0,
            gathered_since: None,
            failure: None,
            has_ended: false,
        };
        if !is_resumed {
            reader.begin()?;
        } else if let Some(parents) = &mut reader.parents {
            parents.resume = reader.state.parent.clone();
            parents.next = parents.resume.as_ref().map(|place| place.at.clone());
        }
        if reader.state.began.is_empty() {
            // Resumed from a checkpoint of version 1.
            reader.state.began = iso8601(reader.exchange.now());
        }
        Ok(reader)
    }

    /// Starts at the first page.
    fn begin(&mut self) -> Result<(), ConnectorError> {
        let config = self.config.clone();
        let state = &mut self.state;
        let since = config.incremental.as_ref().and_then(|incremental| {
            let mark = incremental.higher(state.high.clone(), state.passed.clone());
            incremental.bound(mark.as_deref())
        });
        if since != state.since || config.list.placeholders().any(|placeholder| *placeholder == Placeholder::Now) {
            // Other pages: what is known about those of the read before says nothing.
            state.pages.clear();
        }
        state.since = since;
        state.began = iso8601(self.exchange.now());
        let ends = config.incremental.as_ref().filter(|_| config.asks_for_end());
        state.until = ends.map(|incremental| incremental.end(state.since.as_deref(), &state.began));
        (state.top, state.last, state.parent) = (None, None, None);
        (state.has_records, state.has_cursor, state.skipped, state.complete) = (false, false, false, false);
        self.walk = Walk::default();
        let first = match (&config.parent, &mut self.parents) {
            (Some(parent), Some(parents)) => {
                let first = parent.list.first(&values(&config, &self.state, false));
                *parents =
                    Parents { next: Some(first.map_err(|unfit| unfit_at(&config, unfit))?), ..Parents::default() };
                None
            }
            _ => {
                let first = config.list.first(&values(&config, &self.state, false));
                Some(first.map_err(|unfit| unfit_at(&config, unfit))?)
            }
        };
        self.state.go_on(first);
        Ok(())
    }

    async fn next_batch(&mut self) -> Result<Option<Batch>, ConnectorError> {
        let (max_items, max_bytes) = (self.request.max_items, self.request.max_bytes);
        loop {
            if self.has_ended {
                return Ok(None);
            }
            if self.failure.is_some() {
                let left = self.page.as_mut().map(|(page, _)| page.found.take(max_items, max_bytes));
                let items = left.unwrap_or_default();
                if items.is_empty() && self.gathered.is_empty() {
                    self.page = None;
                    return self.failure.take().map_or(Ok(None), Err);
                }
                return self.part(items).map(Some);
            }
            let step = match &mut self.page {
                None => self.advance().await,
                Some((page, _)) => {
                    if let Some(items) = page.take_full(max_items, max_bytes) {
                        return self.part(items).map(Some);
                    }
                    if page.complete {
                        let items = page.found.take(max_items, max_bytes);
                        if !page.found.is_empty() {
                            return self.part(items).map(Some);
                        }
                        self.close(items)
                    } else {
                        page.pull(&self.config.list, &self.config.errors, &mut self.exchange).await.map(|()| None)
                    }
                }
            };
            match step {
                Ok(Some(batch)) => return Ok(Some(batch)),
                Ok(None) => {}
                Err(error) => {
                    let is_of_way = matches!(error, ConnectorError::Egress { .. });
                    if is_of_way && matches!(error.advice(), Advice::Retry { .. }) {
                        // What came of a page whose connection broke comes again with the whole of it.
                        self.page = None;
                    }
                    self.failure = Some(error);
                }
            }
        }
    }

    /// Without an open page: opens the next one, or goes to the next parent, or ends.
    async fn advance(&mut self) -> Result<Option<Batch>, ConnectorError> {
        if self.is_gathered() {
            return self.batch(Vec::new()).map(Some);
        }
        if let Some(name) = self.state.at.clone()
            && self.parents.as_ref().is_none_or(|parents| parents.resume.is_none())
        {
            self.open(&name).await?;
            return Ok(None);
        }
        if self.parents.is_some() && self.next_parent().await? {
            return Ok(None);
        }
        if self.next_step()? {
            return Ok(None);
        }
        if let Some(incremental) = &self.config.clone().incremental {
            marks::finish(&mut self.state, incremental)?;
        }
        self.state.parent = None;
        self.state.complete = true;
        self.exchange.stats.is_partial = self.state.skipped;
        self.has_ended = true;
        self.batch(Vec::new()).map(Some)
    }

    /// Goes to the records behind those of the step that was read, if there are any.
    fn next_step(&mut self) -> Result<bool, ConnectorError> {
        let config = self.config.clone();
        let (Some(incremental), Some(until)) = (&config.incremental, &self.state.until) else { return Ok(false) };
        let Some((since, end)) = incremental.behind(until, &self.state.began) else { return Ok(false) };
        let until = until.clone();
        marks::pass(&mut self.state, incremental, &until);
        (self.state.since, self.state.until) = (Some(since), Some(end));
        // No read asks for the pages of this step again.
        self.state.pages.clear();
        self.begin_list()?;
        Ok(true)
    }

    /// Whether records of lists that have ended should wait no longer.
    fn is_gathered(&self) -> bool {
        self.gathered.len() >= self.request.max_items.div_ceil(2)
            || self.gathered_bytes >= self.request.max_bytes
            || self.gathered_since.is_some_and(|since| since.elapsed() >= GATHER_TIME)
    }

    /// Part of a page: a later read has to begin at this page again.
    fn part(&mut self, items: Vec<Item>) -> Result<Batch, ConnectorError> {
        let last = items.last().map(|item| item.position().record);
        let items = self.look_at(items);
        if let Some(last) = last {
            self.state.records = last;
        }
        self.batch(items)
    }

    /// Notes the cursors of records and gives them what is included from their parent.
    fn look_at(&mut self, items: Vec<Item>) -> Vec<Item> {
        let config = self.config.clone();
        if let (Some(incremental), Some((_, marks))) = (&config.incremental, &mut self.page)
            && let Err(error) = marks.look_at(&items, incremental, &self.state.began)
        {
            // The records are good, only their order is not; they are handed on, and the read ends behind them.
            self.failure.get_or_insert(error);
        }
        let (Some(parent), Some(place)) = (&config.parent, &self.state.parent) else { return items };
        let include = |item: Item| match item {
            Item::Record { raw, position } => Item::Record { raw: parent.include_in(raw, &place.values), position },
            rejected => rejected,
        };
        items.into_iter().map(include).collect()
    }

    /// What was gathered, these items behind it, and the state as it is.
    fn batch(&mut self, items: Vec<Item>) -> Result<Batch, ConnectorError> {
        let mut all = std::mem::take(&mut self.gathered);
        (self.gathered_bytes, self.gathered_since) = (0, None);
        all.extend(items);
        let checkpoint = to_raw_value(&self.state).map_err(ConnectorError::Checkpoint)?;
        // Otherwise it goes on at the beginning of the page.
        let is_exact = self.request.resume_inside || self.page.is_none() && self.failure.is_none();
        let stats = std::mem::take(&mut self.exchange.stats);
        Ok(Batch { items: all, checkpoint, is_exact, begins_anew: false, is_addition: false, stats })
    }

    fn gather(&mut self, items: Vec<Item>) {
        if !items.is_empty() {
            self.gathered_since.get_or_insert_with(Instant::now);
            self.gathered_bytes += items.iter().map(|item| item.raw().len()).sum::<usize>();
            self.gathered.extend(items);
        }
    }

    /// Requests a page. Afterwards it is open, or passed over.
    async fn open(&mut self, name: &str) -> Result<(), ConnectorError> {
        let config = self.config.clone();
        let is_resumed = std::mem::take(&mut self.is_resumed) && !self.request.resume_inside;
        let is_first = config.list.first(&values(&config, &self.state, true)).is_ok_and(|first| first == name);
        let wanted = Wanted {
            name,
            values: values(&config, &self.state, true),
            known: self.state.page(name).filter(|_| self.may_skip(name)),
            is_resumed: is_resumed && !is_first,
            skip: if self.request.resume_inside { self.state.records } else { 0 },
        };
        match self.walk.open(&config.list, &config.errors, &mut self.exchange, wanted).await? {
            Opened::Page(page) => {
                let marks = PageMarks::behind(&self.state);
                self.page = Some((page, marks));
            }
            Opened::NotModified(next) => self.state.go_on(next),
            Opened::End => self.state.go_on(None),
            Opened::Skipped(next) => {
                self.state.skipped = true;
                self.state.go_on(next);
            }
            // The link is older than the server remembers: begin anew, what comes again is known already.
            Opened::Gone if self.parents.is_none() => self.begin()?,
            Opened::Gone => self.begin_list()?,
        }
        Ok(())
    }

    /// Whether a page may answer "not modified". With `rows` only a page that is all there is: equal rows on other
    /// pages are counted together. Lists of parents are too many to remember.
    fn may_skip(&self, name: &str) -> bool {
        let alone = || {
            self.state.page(name).is_some_and(|page| page.next.is_none())
                && self.config.list.first(&values(&self.config, &self.state, true)).is_ok_and(|first| first == name)
        };
        (self.config.common.dedupe != Dedupe::Rows || alone())
            && self.state.records == 0
            && self.config.parent.is_none()
            && self.config.list.is_conditional()
    }

    /// The last part of a page, with which the page itself and the way to the next are committed.
    fn close(&mut self, items: Vec<Item>) -> Result<Option<Batch>, ConnectorError> {
        let config = self.config.clone();
        let items = self.look_at(items);
        let Some((page, marks)) = self.page.take() else { return self.batch(items).map(Some) };
        let next = match self.failure.is_some() {
            true => None,
            false => Some(self.walk.next(&config.list, &self.exchange, &page, &values(&config, &self.state, true))),
        };
        let next = match next {
            Some(Ok(next)) => next,
            failed => {
                // The page stays where the read goes on; what it had is not lost.
                if let Some(Err(error)) = failed {
                    self.failure = Some(error);
                }
                return self.batch(items).map(Some);
            }
        };
        if let Some(incremental) = &config.incremental {
            marks.commit(&mut self.state, incremental);
        }
        self.state.skipped |= page.is_skipped;
        if config.parent.is_none() && config.list.is_conditional() {
            self.state.remember(page.known(next.as_deref()));
        }
        self.state.go_on(next);
        if config.parent.is_none() {
            return self.batch(items).map(Some);
        }
        self.gather(items);
        Ok(None)
    }

    /// Goes to the first page of the next parent's children; false when there is none.
    async fn next_parent(&mut self) -> Result<bool, ConnectorError> {
        let config = self.config.clone();
        let Some(parent) = &config.parent else { return Ok(false) };
        loop {
            if self.is_gathered() {
                return Ok(true);
            }
            let Some(parents) = &mut self.parents else { return Ok(false) };
            if let Some(values) = parents.waiting.pop_front() {
                let at = parents.at.clone().unwrap_or_default();
                self.state.parent = Some(ParentPlace { at, values });
                self.begin_list()?;
                return Ok(true);
            }
            let Some(name) = parents.next.take() else { return Ok(false) };
            self.open_parents(parent, &name).await?;
            if self.state.at.is_some() {
                // Resumed inside of a list.
                return Ok(true);
            }
        }
    }

    /// The children of the current parent from their first page on.
    fn begin_list(&mut self) -> Result<(), ConnectorError> {
        self.walk = Walk::default();
        let first = self.config.list.first(&values(&self.config, &self.state, true));
        let first = first.map_err(|unfit| unfit_at(&self.config, unfit))?;
        self.state.go_on(Some(first));
        Ok(())
    }

    /// Reads a page of parents, of which it keeps what is needed only.
    async fn open_parents(&mut self, parent: &Parent, name: &str) -> Result<(), ConnectorError> {
        let config = self.config.clone();
        let Some(parents) = &mut self.parents else { return Ok(()) };
        let resume = parents.resume.take();
        let own = values(&config, &self.state, false);
        let wanted = Wanted {
            name,
            values: own,
            known: None,
            is_resumed: resume.is_some() && !self.request.resume_inside,
            skip: 0,
        };
        let mut page = match parents.walk.open(&parent.list, &config.errors, &mut self.exchange, wanted).await? {
            Opened::Page(page) => page,
            Opened::Gone => return self.begin(),
            Opened::Skipped(next) => {
                parents.next = next;
                self.state.skipped = true;
                return Ok(());
            }
            Opened::NotModified(_) | Opened::End => return Ok(()),
        };
        let mut bytes = 0;
        let mut rejected = Vec::new();
        while !page.complete {
            page.pull(&parent.list, &config.errors, &mut self.exchange).await?;
            for item in page.found.take(usize::MAX, usize::MAX) {
                let values = parent.values(item.raw());
                let fits =
                    config.list.first(&Values { parent: Some(&values), ..self::values(&config, &self.state, false) });
                match (item, fits) {
                    (Item::Record { .. }, Ok(_)) => {
                        bytes += values.iter().map(|(path, value)| path.len() + value.len()).sum::<usize>();
                        parents.waiting.push_back(values);
                    }
                    (Item::Record { raw, position }, Err(Unfit(detail))) => {
                        let reason = QuarantineReason::Parent;
                        rejected.push(Item::Rejected { raw, reason, detail, position, fields: None });
                    }
                    // No record of this source either, so that nobody replays it as one.
                    (Item::Rejected { raw, reason, detail, position, fields }, _) => {
                        let Words { english, japanese } = detail;
                        let detail = say!("{reason}: {english}", "{reason}: {japanese}");
                        let reason = QuarantineReason::Parent;
                        rejected.push(Item::Rejected { raw, reason, detail, position, fields });
                    }
                }
            }
            if bytes > PARENTS_LIMIT_BYTES {
                let problem = say!(
                    "what is needed of its parents has more than {PARENTS_LIMIT_BYTES} bytes",
                    "親のレコードから必要な値が {PARENTS_LIMIT_BYTES} バイトを超えています"
                );
                let position = self.exchange.position(name);
                return Err(ConnectorError::document(position, DocumentError::anywhere(problem)));
            }
        }
        parents.next = parents.walk.next(&parent.list, &self.exchange, &page, &own)?;
        parents.at = Some(name.to_owned());
        // Children that are not read: no mark may pass them.
        self.state.skipped |= page.is_skipped || !rejected.is_empty();
        if let Some(place) = resume {
            // By its values, since others may have come or gone before it.
            match parents.waiting.iter().position(|values| *values == place.values) {
                Some(at) => {
                    parents.waiting.drain(..=at);
                }
                // It is gone: its page begins anew, and the place in its list says nothing any more.
                None => self.state.go_on(None),
            }
        }
        self.gather(rejected);
        Ok(())
    }
}

/// What placeholders stand for.
fn values<'a>(config: &'a ApiConfig, state: &'a State, of_children: bool) -> Values<'a> {
    let incremental = config.incremental.as_ref();
    Values {
        cursor: state.since.as_deref(),
        cursor_is_number: incremental.is_some_and(|incremental| incremental.kind == super::CursorKind::Integer),
        start: incremental.and_then(|incremental| incremental.start.as_deref()),
        end: state.until.as_deref(),
        now: &state.began,
        parent: state.parent.as_ref().filter(|_| of_children).map(|place| &place.values),
        ..Values::default()
    }
}

fn unfit_at(config: &ApiConfig, Unfit(problem): Unfit) -> ConnectorError {
    let document = config.list.origin().ascii_serialization().into();
    let position = Position { document, request: None, line: None, record: 0, headers: None };
    ConnectorError::document(position, DocumentError::anywhere(problem))
}
