//! Bodies of pushes on their way in: of a bounded size, within a bounded time, in a bounded share of the memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body as HttpBody;
use futures::StreamExt as _;
use http::{HeaderMap, header};
use matome_connector::file::DocumentConfig;
use matome_connector::push::{BadBody, InflateError, examine, inflate};
use matome_model::complaint::Complaint;
use matome_model::field_error::Words;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ApiError, Result};
use crate::message::Message;

/// What the bodies of all requests with a token may take of the memory at once, in KiB; of requests without one, less,
/// so that nobody without a token keeps out those who have one.
const RECORDS_KIB: usize = 128 << 10;
const WEBHOOKS_KIB: usize = 64 << 10;
/// A body must be there within this time.
const BODY_TIME: Duration = Duration::from_secs(60);

/// What is being taken in by this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Intake {
    records: Arc<Semaphore>,
    webhooks: Arc<Semaphore>,
    refused: Arc<Mutex<Complaint>>,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            records: Arc::new(Semaphore::new(RECORDS_KIB)),
            webhooks: Arc::new(Semaphore::new(WEBHOOKS_KIB)),
            refused: Arc::default(),
        }
    }
}

/// By which way something comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// With a token.
    Records,
    /// Without one, signed.
    Webhook,
}

impl Way {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Webhook => "webhook",
        }
    }
}

/// A body as it came. While it lives, its bytes count as taken.
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    _share: Option<OwnedSemaphorePermit>,
}

impl Intake {
    /// Reads a body of at most `limit` bytes.
    ///
    /// # Errors
    /// 413 when there are more, 503 when other bodies take what there is, 400 when it breaks off or does not come.
    pub(crate) async fn read(&self, body: HttpBody, way: Way, limit: usize) -> Result<Received> {
        let share = match way {
            Way::Records => &self.records,
            Way::Webhook => &self.webhooks,
        };
        let read = async {
            let (mut bytes, mut held) = (Vec::new(), None::<OwnedSemaphorePermit>);
            let mut stream = body.into_data_stream();
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|_| broken_off())?;
                let length = bytes.len() + chunk.len();
                if length > limit {
                    return Err(ApiError::TooLarge { limit });
                }
                let missing = length.div_ceil(1024) - held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
                let missing = u32::try_from(missing).unwrap_or(u32::MAX);
                let more = share.clone().try_acquire_many_owned(missing).map_err(|_| ApiError::Busy)?;
                match &mut held {
                    Some(held) => held.merge(more),
                    None => held = Some(more),
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(Received { bytes, _share: held })
        };
        tokio::time::timeout(BODY_TIME, read).await.unwrap_or_else(|_| Err(broken_off()))
    }

    /// Notes a delivery whose sender is not known. Returns whether to say it in the log, with how often it was not said.
    pub(crate) fn refused(&self) -> Option<u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).due(Instant::now())
    }
}

fn broken_off() -> ApiError {
    bad_body(Words::new(
        "The body did not come to its end. Send it again.",
        "本文が最後まで届きませんでした。送り直してください。",
    ))
}

pub(crate) fn bad_body(words: Words) -> ApiError {
    ApiError::field("body", Message::Said(words))
}

/// Whether the body is gzip.
///
/// # Errors
/// 415 for another encoding.
pub(crate) fn is_gzip(headers: &HeaderMap) -> Result<bool> {
    let given: Vec<&str> =
        headers.get_all(header::CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("?")).collect();
    match given.join(",").to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        other => Err(ApiError::MediaType(Words::new(
            format!("The Content-Encoding \"{other}\" is not taken. Send the body as it is, or as gzip."),
            format!("Content-Encoding \"{other}\" は受け付けません。そのまま送るか、gzip で送ってください。"),
        ))),
    }
}

/// Inflates a body if need be, of at most `limit` bytes then, and looks through it. Returns it with its number of records.
///
/// # Errors
/// 400 when it is broken, 413 when it is too large.
pub(crate) async fn look_through(
    received: Received,
    is_gzip: bool,
    document: Arc<DocumentConfig>,
    limit: usize,
) -> Result<(Received, u64)> {
    let looked = tokio::task::spawn_blocking(move || {
        let mut received = received;
        if is_gzip {
            received.bytes = inflate(&received.bytes, limit).map_err(|err| match err {
                InflateError::TooLarge(limit) => ApiError::TooLarge { limit },
                InflateError::Broken(err) => bad_body(Words::new(
                    format!("The body is not valid gzip, as its Content-Encoding says: {err}. Compress it again."),
                    format!(
                        "本文が Content-Encoding の示す gzip として正しくありません: {err}。圧縮し直してください。"
                    ),
                )),
            })?;
        }
        let records = examine(&document, &received.bytes).map_err(|BadBody(words)| bad_body(words))?;
        Ok((received, records))
    });
    looked.await.unwrap_or(Err(ApiError::Busy))
}
