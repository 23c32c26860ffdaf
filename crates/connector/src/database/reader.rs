//! Reads rows on a task of its own and hands batches over a small channel, each with the place behind it.

use std::sync::Arc;

use futures::future::BoxFuture;
use matome_egress::Dialer;
use matome_model::canonical::QuarantineReason;
use matome_model::field_error::Words;
use matome_model::say;
use matome_model::source::Dedupe;
use serde_json::value::to_raw_value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::config::{DatabaseConfig, Relation};
use super::fault::Faults;
use super::incremental::{Incremental, Nulls};
use super::order::{Cursor, From, Order, Part, Row};
use super::session::Session;
use super::state::State;
use super::tables::with_tables;
use crate::error::{ConnectorError, DatabaseFault};
use crate::file::FileRoots;
use crate::read::{ReadRequest, Reader};
use crate::record::{Batch, Item, ReadStats};

/// Batches that wait to be asked for.
const WAITING_BATCHES: usize = 2;
/// Of a row that is too long, so much is kept.
const KEPT_BYTES: usize = 64 << 10;

pub(super) struct DatabaseReader {
    batches: mpsc::Receiver<Result<Option<Batch>, ConnectorError>>,
    cancel: tokio_util::sync::CancellationToken,
    /// Dropped with this, and the connection with it.
    _reading: JoinSet<()>,
}

/// Connects, finds out what there is, and starts to read.
pub(super) async fn start(
    config: Arc<DatabaseConfig>,
    roots: Arc<FileRoots>,
    dialer: Dialer,
    request: ReadRequest,
) -> Result<DatabaseReader, ConnectorError> {
    let cancel = request.cancel.clone();
    let begin = async {
        let faults = Faults::new(&config);
        let before: State = match &request.checkpoint {
            Some(checkpoint) => serde_json::from_str(checkpoint.get()).map_err(ConnectorError::Checkpoint)?,
            None => State::default(),
        };
        let mut session = Session::open(&config, &roots, &dialer, &faults).await?;
        let columns = match session.columns(&faults).await {
            Ok(columns) => columns,
            Err(error) => return Err(with_tables(error, &config, &roots, &dialer, &faults).await),
        };
        let order = order(&config, columns, &mut session, &faults).await?;
        let now = session.now(&faults).await?;
        let (sender, batches) = mpsc::channel(WAITING_BATCHES);
        let plan = Plan::new(&config, &order, before, now);
        let sink = Sink {
            faults,
            request,
            sender,
            is_exact: order.is_unique,
            has_cursor: order.cursor.is_some(),
            fails_at_nulls: order.cursor.is_some_and(|cursor| cursor.nulls == Nulls::Fail),
            has_order: !order.columns.is_empty(),
            mark_before: plan.state.high.clone(),
            state: plan.state.clone(),
            items: Vec::new(),
            bytes: 0,
            count: 0,
            without_cursor: 0,
            stats: ReadStats::default(),
        };
        Ok((session, order, plan.parts, sink, batches))
    };
    let (session, order, parts, sink, batches) = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(ConnectorError::Cancelled),
        begun = begin => begun?,
    };
    let mut reading = JoinSet::new();
    reading.spawn(read(session, order, parts, sink));
    Ok(DatabaseReader { batches, cancel, _reading: reading })
}

impl Reader for DatabaseReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, ConnectorError>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(ConnectorError::Cancelled),
                next = self.batches.recv() => next.unwrap_or(Err(ConnectorError::Broken)),
            }
        })
    }
}

/// The columns that a read goes by.
async fn order(
    config: &DatabaseConfig,
    columns: Vec<String>,
    session: &mut Session,
    faults: &Faults,
) -> Result<Order, ConnectorError> {
    if let Some((_, name)) = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name)) {
        let problem = say!(
            "the query has two columns `{name}`; give one another name with `as`",
            "クエリーに列 `{name}` が2つあります。`as` で別の名前を付けてください"
        );
        return Err(faults.problem(DatabaseFault::Query, problem));
    }
    let primary_key = match &config.relation {
        Relation::Table { .. } => session.primary_key(faults).await?,
        Relation::Query(_) => Vec::new(),
    };
    let dedupe = config.common.dedupe;
    let wanted: Vec<String> = match &config.incremental {
        Some(Incremental { cursor, tie_break, .. }) => {
            let others = tie_break.clone().unwrap_or_else(|| primary_key.clone());
            std::iter::once(cursor.clone()).chain(others.into_iter().filter(|name| name != cursor)).collect()
        }
        // It has to see all rows each time, so that there is nothing to go on behind.
        None if dedupe == Dedupe::Rows => Vec::new(),
        None => primary_key.clone(),
    };
    // What the user says tells rows apart is believed where nothing else could be done.
    let is_said = dedupe == Dedupe::None && config.incremental.as_ref().is_some_and(|new| new.tie_break.is_some());
    let is_key = !primary_key.is_empty() && primary_key.iter().all(|name| wanted.contains(name));
    let is_unique = !wanted.is_empty() && (is_key || is_said);
    if dedupe == Dedupe::None && !is_unique {
        let problem = Words::new(
            "with `dedupe` \"none\" a read has to go on exactly behind the last row, and nothing says which one that is: \
             use a table with a primary key, give columns that tell rows apart as `incremental.tie_break`, or another `dedupe`",
            "`dedupe` が \"none\" のときは最後の行の直後から続ける必要がありますが、行を見分けるものがありません。主キーのある\
             テーブルを使う、行を見分ける列を `incremental.tie_break` に指定する、または別の `dedupe` を使ってください",
        );
        return Err(faults.problem(DatabaseFault::Query, problem));
    }
    if let Some(missing) = wanted.iter().find(|name| !columns.contains(name)) {
        return Err(faults.problem(DatabaseFault::Missing, no_column(missing, &columns)));
    }
    let columns = if wanted.is_empty() { Vec::new() } else { session.typed(&wanted, faults).await? };
    let cursor = match (&config.incremental, columns.first()) {
        (Some(incremental), Some(first)) => {
            let overlap = incremental.overlap.unwrap_or_else(|| first.kind.overlap());
            if overlap > first.kind.overlap() && first.kind.overlap() == 0 {
                let (name, of_type) = (&first.name, &first.of_type);
                let problem = say!(
                    "`{name}` is of the type `{of_type}`, which has no distance: leave `incremental.overlap` out",
                    "`{name}` の型 `{of_type}` には間隔がありません。`incremental.overlap` を外してください"
                );
                return Err(faults.problem(DatabaseFault::Query, problem));
            }
            Some(Cursor { overlap, nulls: incremental.nulls })
        }
        _ => None,
    };
    Ok(Order { columns, cursor, is_unique })
}

fn no_column(name: &str, names: &[String]) -> Words {
    let nearest = names.iter().map(|known| (strsim::damerau_levenshtein(known, name), known)).min();
    let (hint, hint_in_japanese) = match nearest {
        Some((distance, near)) if distance <= 2 => {
            (format!(" Did you mean `{near}`?"), format!("`{near}` のことですか。"))
        }
        _ => Default::default(),
    };
    let known = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    Words::new(
        format!("there is no column `{name}`.{hint} There are: {known}"),
        format!("列 `{name}` がありません。{hint_in_japanese}あるもの: {known}"),
    )
}

/// What one read asks for, and the state that it begins with.
struct Plan {
    state: State,
    parts: Vec<Part>,
}

impl Plan {
    fn new(config: &DatabaseConfig, order: &Order, before: State, now: String) -> Self {
        let goes_on = !before.complete && before.at.is_some() && !order.columns.is_empty();
        let mut state = State { version: 1, complete: false, ..before };
        if !goes_on {
            state.began = now;
        }
        let place = state.at.take().filter(|place| place.len() == order.columns.len());
        let Some(cursor) = order.cursor else {
            let from = match place.filter(|_| goes_on).and_then(|place| place.into_iter().collect()) {
                Some(values) => From::Place(values),
                None => From::First,
            };
            return Self { state, parts: vec![Part::Valued(from)] };
        };
        let mut parts = Vec::new();
        let mut nulls = None;
        let is_behind = goes_on || config.common.dedupe == Dedupe::None;
        match place.filter(|_| is_behind) {
            Some(values) if values[0].is_none() => nulls = Some(values.into_iter().skip(1).flatten().collect()),
            Some(values) => {
                state.at = Some(values.clone());
                parts.push(Part::Valued(From::Place(values.into_iter().flatten().collect())));
            }
            None => {
                let start = config.incremental.as_ref().and_then(|incremental| incremental.start.clone());
                let from = match (&state.high, start) {
                    (Some(high), _) => From::Cursor(high.clone(), cursor.overlap),
                    (None, Some(start)) => From::Cursor(start, 0),
                    (None, None) => From::First,
                };
                parts.push(Part::Valued(from));
            }
        }
        if cursor.nulls != Nulls::Skip {
            parts.push(Part::Nulls(nulls));
        }
        Self { state, parts }
    }
}

/// Why reading stopped before its end.
pub(super) enum Stop {
    Failed(Box<ConnectorError>),
    /// The reader was dropped.
    Abandoned,
}

impl std::convert::From<ConnectorError> for Stop {
    fn from(error: ConnectorError) -> Self {
        Self::Failed(Box::new(error))
    }
}

async fn read(mut session: Session, order: Order, parts: Vec<Part>, mut sink: Sink) {
    let began = sink.state.began.clone();
    let ended = async {
        for part in &parts {
            session.rows(&order, part, &began, &mut sink).await?;
            if matches!(part, Part::Nulls(_)) {
                sink.judge_nulls(&order)?;
            }
        }
        Ok(())
    };
    match ended.await {
        Ok(()) => {
            if sink.finish().await.is_ok() {
                session.close().await;
            }
        }
        Err(Stop::Abandoned) => {}
        Err(Stop::Failed(mut error)) => {
            if let ConnectorError::Database { position, .. } = &mut *error {
                position.record = position.record.max(sink.count);
            }
            // What came before is handed on first; nobody listens any more if this fails.
            let sent = match *error {
                ConnectorError::Changed { .. } => sink.turn_back().await,
                _ => sink.send().await,
            };
            if sent.is_ok() {
                let _ = sink.sender.send(Err(*error)).await;
            }
        }
    }
}

/// Makes batches of rows.
pub(super) struct Sink {
    pub(super) faults: Faults,
    request: ReadRequest,
    sender: mpsc::Sender<Result<Option<Batch>, ConnectorError>>,
    is_exact: bool,
    has_cursor: bool,
    fails_at_nulls: bool,
    has_order: bool,
    /// The mark of the read before.
    mark_before: Option<String>,
    state: State,
    items: Vec<Item>,
    bytes: usize,
    count: u64,
    /// Rows that have no cursor.
    without_cursor: u64,
    stats: ReadStats,
}

impl Sink {
    /// Takes a row, and waits while enough batches wait.
    pub(super) async fn row(&mut self, row: Row<'_>) -> Result<(), Stop> {
        self.count += 1;
        let position = self.faults.at(self.count);
        let mut values = row.place.iter();
        if self.has_cursor {
            match values.next() {
                Some(Some(cursor)) if row.may_mark => self.state.high = Some(cursor.clone()),
                Some(None) => {
                    self.without_cursor += 1;
                    if self.fails_at_nulls {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        if values.any(Option::is_none) {
            let problem = Words::new(
                "a row has NULL in a column of `incremental.tie_break`, so it has no place in the order; name columns that are never NULL",
                "`incremental.tie_break` の列が NULL の行があり、順序が決まりません。NULL にならない列を指定してください",
            );
            return Err(self.faults.problem(DatabaseFault::Query, problem).into());
        }
        if self.has_order {
            self.state.at = Some(row.place);
        }
        let raw = row.json.to_vec();
        self.bytes += raw.len();
        self.stats.bytes += raw.len() as u64;
        self.items.push(match row.size > raw.len() as u64 {
            false => Item::Record { raw, position },
            true => {
                let size = row.size;
                let mut raw = raw;
                raw.truncate(KEPT_BYTES);
                let detail = say!(
                    "record of {size} bytes is longer than the limit",
                    "{size} バイトのレコードは上限を超えています"
                );
                Item::Rejected { raw, reason: QuarantineReason::RecordLimit, detail, position, fields: None }
            }
        });
        if self.items.len() >= self.request.max_items || self.bytes >= self.request.max_bytes {
            self.send().await?;
        }
        Ok(())
    }

    /// The rows that came may not belong together.
    pub(super) fn changed(&self, change: (&'static str, &'static str)) -> Stop {
        self.faults.changed(self.count, change).into()
    }

    /// Whether rows without a cursor are what the source may have.
    fn judge_nulls(&self, order: &Order) -> Result<(), Stop> {
        if !self.fails_at_nulls || self.without_cursor == 0 {
            return Ok(());
        }
        let (count, name) = (self.without_cursor, order.columns.first().map_or("", |column| column.name.as_str()));
        let problem = say!(
            "{count} rows have NULL in `{name}` (`incremental.cursor`), so no read would come by them; all others are \
             stored. Choose another cursor, or say by `incremental.nulls` what becomes of them",
            "`{name}` (`incremental.cursor`) が NULL の行が {count} 件あり、差分では読めません。ほかの行は保存されています。\
             別のカーソルを選ぶか、`incremental.nulls` で扱いを指定してください"
        );
        Err(self.faults.problem(DatabaseFault::Query, problem).into())
    }

    /// Hands on what there is.
    async fn send(&mut self) -> Result<(), Stop> {
        if self.items.is_empty() {
            return Ok(());
        }
        self.hand_on().await
    }

    /// Hands on what there is, with a checkpoint behind which the next read begins as this one did.
    async fn turn_back(&mut self) -> Result<(), Stop> {
        (self.state.at, self.state.high) = (None, self.mark_before.take());
        self.hand_on().await
    }

    async fn finish(&mut self) -> Result<(), Stop> {
        self.state.complete = true;
        // The next read begins anew, or behind the mark; only where nothing may come twice it begins behind this row.
        if !(self.has_cursor && self.is_exact) {
            self.state.at = None;
        }
        self.hand_on().await?;
        self.sender.send(Ok(None)).await.map_err(|_| Stop::Abandoned)
    }

    async fn hand_on(&mut self) -> Result<(), Stop> {
        let checkpoint = to_raw_value(&self.state).map_err(ConnectorError::Checkpoint)?;
        let items = std::mem::take(&mut self.items);
        self.bytes = 0;
        let (is_exact, stats) = (self.is_exact, std::mem::take(&mut self.stats));
        let batch = Batch { items, checkpoint, is_exact, begins_anew: false, is_addition: false, stats };
        self.sender.send(Ok(Some(batch))).await.map_err(|_| Stop::Abandoned)
    }
}
