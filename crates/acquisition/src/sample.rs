//! Reading the first records of a source through the same code, storing nothing: what `test` shows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use matome_connector::{ConnectorError, Position, ReadRequest, ReadStats, Registry, SecretKeeper, validate_config};
use matome_model::canonical::Limits;
use matome_model::drift::Difference;
use matome_model::field_error::Words;
use matome_model::language::Language;
use matome_model::source::{Dedupe, SourceType};
use matome_store::source_schemas::SourceSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::handler::{judge, stored_schema};
use crate::patience;
use crate::prepare::{Preparer, Refused};

/// How long a sample listens to a stream.
const STREAM_TIME: Duration = Duration::from_secs(10);
/// Bytes of a bad record that are shown.
const SHOWN_BYTES: usize = 1024;

/// The first records of a source.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Records in canonical form, in the order of the source.
    pub records: Vec<Box<RawValue>>,
    /// Records among them that would go to quarantine.
    pub quarantined: Vec<SampleRejected>,
    /// Records whose content, and key where there is one, an earlier one of the sample has.
    pub duplicates: Vec<SampleDuplicate>,
    /// Records that break the schema or a rule and would be stored all the same.
    pub warnings: Vec<SampleWarning>,
    /// What the records have that the stored schema has not; empty while there is no stored schema.
    pub drift: Vec<Difference>,
    /// Whether the source has no more than these.
    pub complete: bool,
    /// What was done.
    pub stats: SampleStats,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// A record that was in the sample before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SampleDuplicate {
    /// Its place in [`Sample::records`], from 1.
    pub record: usize,
    /// The place of the first one.
    pub of: usize,
    /// Whether it would be stored all the same, as the source's `dedupe` has it.
    pub stored: bool,
}

/// What is wrong with a record that would be stored.
#[derive(Clone, Debug, Serialize)]
pub struct SampleWarning {
    /// Its place in [`Sample::records`], from 1.
    pub record: usize,
    /// What is wrong, for people.
    pub warnings: Vec<String>,
}

/// A record that would go to quarantine.
#[derive(Clone, Debug, Serialize)]
pub struct SampleRejected {
    /// Code of the reason.
    pub reason: &'static str,
    /// What was found and where, in English until [`Sample::spoken`].
    pub detail: String,
    #[serde(skip)]
    words: Words,
    /// Where it stood, a JSON object.
    pub position: Box<RawValue>,
    /// The beginning of it; bytes that are not UTF-8 are shown as U+FFFD.
    pub raw: String,
}

/// What was done for a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SampleStats {
    /// HTTP requests that were answered.
    pub requests: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The source did not deliver in time.
    #[error("the source did not deliver its first records within {} s", limit.as_secs())]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The read failed.
    #[error(transparent)]
    Read(#[from] ConnectorError),
    /// A page would be refused whole.
    #[error("{message}")]
    Refused {
        /// Where the record is over which it would be.
        position: Position,
        /// Why.
        message: Words,
    },
}

impl From<Box<Refused>> for SampleError {
    fn from(refused: Box<Refused>) -> Self {
        Self::Refused { position: refused.position, message: refused.message }
    }
}

impl Sample {
    /// One of nothing, for what was not read.
    pub(crate) fn none() -> Self {
        Self {
            records: Vec::new(),
            quarantined: Vec::new(),
            duplicates: Vec::new(),
            warnings: Vec::new(),
            drift: Vec::new(),
            complete: false,
            stats: SampleStats::default(),
            duration_ms: 0,
        }
    }

    /// The same with what is for people in `language`.
    #[must_use]
    pub fn spoken(mut self, language: Language) -> Self {
        for rejected in &mut self.quarantined {
            rejected.words.text(language).clone_into(&mut rejected.detail);
        }
        self
    }
}

impl SampleError {
    /// What happened, in both languages, and why, outermost first.
    pub fn told(&self) -> (Words, Vec<Words>) {
        match self {
            Self::TimedOut { limit } => {
                let secs = limit.as_secs();
                let words = Words::new(
                    self.to_string(),
                    format!("データソースが {secs} 秒以内に最初のレコードを返しませんでした"),
                );
                (words, Vec::new())
            }
            Self::Read(err) => (err.words(), err.causes()),
            Self::Refused { message, .. } => (message.clone(), Vec::new()),
        }
    }

    /// What to do about it, where what happened does not say that.
    pub fn remedy(&self) -> Option<Words> {
        match self {
            Self::TimedOut { .. } => Some(Words::new(
                "the source is slow, or nothing answers there: check host, port and address, and try again",
                "データソースが遅いか、そこで何も応答していません。ホスト、ポート、アドレスを確かめて、もう一度試してください",
            )),
            Self::Read(err) => err.remedy(),
            Self::Refused { .. } => None,
        }
    }

    /// Where it happened, as far as known.
    pub fn position(&self) -> Option<&Position> {
        match self {
            Self::TimedOut { .. } => None,
            Self::Read(err) => err.position(),
            Self::Refused { position, .. } => Some(position),
        }
    }
}

/// Reads at most `count` records (at least one is asked for) of the source that `config`, with its secrets in
/// place, describes. `stored`: the schema of its records as it stands, by which drift is measured. `keeper` keeps what takes
/// the place of its secrets.
///
/// # Errors
/// [`SampleError::TimedOut`] after `limit`, else what the read says.
pub async fn sample(
    registry: &Registry,
    source_type: SourceType,
    config: &str,
    stored: Option<SourceSchema>,
    keeper: Option<Arc<dyn SecretKeeper>>,
    count: usize,
    limit: Duration,
) -> Result<Sample, SampleError> {
    // A stream shows what comes in some seconds, were it nothing.
    let stream_time = STREAM_TIME.min(limit / 2);
    let patience = if source_type == SourceType::Websocket { stream_time } else { limit };
    let config = patience::within(config, patience);
    let config = validate_config(source_type, &config).map_err(ConnectorError::Config)?;
    let key = config.common().and_then(|common| common.key.clone());
    let quality = config.common().map(|common| common.quality.clone()).unwrap_or_default();
    let dedupe = config.common().map_or(Dedupe::None, |common| common.dedupe);
    let connector = registry.connector(config)?;
    let is_stream = connector.is_stream();
    let has_schema = stored.is_some();
    let cancel = CancellationToken::new();
    let _cancel_on_drop: DropGuard = cancel.clone().drop_guard();
    let count = count.max(1);
    let read = async {
        let started = Instant::now();
        let _timer = is_stream.then(|| Timer::start(stream_time, cancel.clone()));
        let request = ReadRequest { max_items: count, cancel, keeper, ..ReadRequest::default() };
        let mut reader = connector.read(request).await?;
        let mut preparer = Preparer::new(0, Limits::default(), key, judge(&quality, dedupe))
            .measured_by(stored_schema(stored, quality.drift));
        let (mut records, mut quarantined) = (Vec::new(), Vec::new());
        let (mut duplicates, mut warnings, mut drift) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = HashMap::new();
        let mut stats = SampleStats::default();
        let mut left = count;
        let mut complete = false;
        while left > 0 {
            let next = match reader.next().await {
                Err(ConnectorError::Cancelled) if is_stream => {
                    return Err(SampleError::TimedOut { limit: stream_time });
                }
                next => next?,
            };
            let Some(mut batch) = next else {
                complete = !is_stream;
                break;
            };
            batch.items.truncate(left);
            left -= batch.items.len();
            let ReadStats { requests, bytes, .. } = batch.stats;
            stats = SampleStats { requests: stats.requests + requests, bytes: stats.bytes + bytes };
            let prepared = preparer.prepare(batch)?;
            for record in prepared.records.iter() {
                records.push(json(record.text.to_owned()));
                let place = records.len();
                let of = *first.entry((record.key, *record.hash)).or_insert(place);
                if of != place {
                    let stored = matches!(dedupe, Dedupe::Rows | Dedupe::None);
                    duplicates.push(SampleDuplicate { record: place, of, stored });
                }
                let told = told(record.metadata);
                if !told.is_empty() {
                    warnings.push(SampleWarning { record: place, warnings: told });
                }
            }
            if let Some(new) = prepared.schema.new.filter(|_| has_schema) {
                drift.extend(serde_json::from_str::<Vec<Difference>>(&new.changes).unwrap_or_default());
            }
            quarantined.extend(prepared.quarantined.into_iter().map(|bad| SampleRejected {
                reason: bad.reason.as_str(),
                detail: bad.detail.english.clone(),
                words: bad.detail,
                position: json(bad.position),
                raw: String::from_utf8_lossy(&bad.raw[..bad.raw.len().min(SHOWN_BYTES)]).into_owned(),
            }));
        }
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Sample { records, quarantined, duplicates, warnings, drift, complete, stats, duration_ms })
    };
    tokio::time::timeout(limit, read).await.unwrap_or(Err(SampleError::TimedOut { limit }))
}

/// Cancels a read after a time, unless it is dropped before.
struct Timer(tokio::task::JoinHandle<()>);

impl Timer {
    fn start(after: Duration, cancel: CancellationToken) -> Self {
        Self(tokio::spawn(async move {
            tokio::time::sleep(after).await;
            cancel.cancel();
        }))
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The warnings in the metadata of a record.
fn told(metadata: &str) -> Vec<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Metadata {
        warnings: Vec<String>,
    }
    serde_json::from_str::<Metadata>(metadata).unwrap_or_default().warnings
}

fn json(text: String) -> Box<RawValue> {
    RawValue::from_string(text).expect("canonical text is JSON")
}
