//! A document that is elsewhere, as something that is read in order: asked for anew where its connection broke, and fetched into a
//! file without a name where it has to be read here and there.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use matome_egress::header::HeaderMap;
use matome_model::say;

use super::place::Reach;
use super::{Content, SPOOL_LIMIT_BYTES, Stamp, Validators};
use crate::error::{Advice, ConnectorError, PlaceFault};
use crate::record::Position;

/// So much of the beginning and of the end is held: what a manifest looks at when the rest has gone by.
const HELD_BYTES: usize = 4096;
/// How often a transfer that broke is taken up again, and once more for so many bytes that came.
const RESUMPTIONS: u64 = 5;
const BYTES_PER_RESUMPTION: u64 = 16 << 20;
/// The wait before the first of them; each further one in a row waits twice as long.
const RESUMPTION_WAIT: Duration = Duration::from_millis(250);

/// A state of a document, and how no other one is got.
#[derive(Clone, Debug, Default)]
pub(super) struct Version {
    /// What tells it from others; of the size 0 where nobody says how long it is.
    pub(super) stamp: Stamp,
    /// How long it is.
    pub(super) size: Option<u64>,
    /// What is sent to be answered with this version or with none. `None`: nothing tells it from others, so a transfer of it that
    /// broke can not be taken up again.
    pub(super) conditions: Option<HeaderMap>,
    /// What to ask by whether it still is the one.
    pub(super) validators: Option<Validators>,
}

/// Brings the bytes of one document.
pub(super) trait Bring: Send {
    /// Asks for its bytes from `from` on, once it has begun for those of the version `of` only.
    ///
    /// # Errors
    /// [`ConnectorError::Changed`] when it is another one by now.
    fn open<'a>(&'a mut self, from: u64, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened, ConnectorError>>;

    /// The stamp that it has now, after `read` of it was read to its end.
    fn look<'a>(&'a mut self, read: &'a Version) -> BoxFuture<'a, Result<Stamp, ConnectorError>>;
}

/// A document whose bytes come.
pub(super) struct Opened {
    pub(super) version: Version,
    pub(super) pieces: Box<dyn Pieces>,
}

/// Bytes that come piece by piece.
pub(super) trait Pieces: Send {
    /// The next piece, never empty; `None` at the end.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<u8>>, ConnectorError>>;
}

/// A document that is on its way.
pub(super) struct Transfer {
    name: Arc<str>,
    reach: Arc<Reach>,
    bring: Box<dyn Bring>,
    version: Version,
    pieces: Option<Box<dyn Pieces>>,
    /// The piece that came last, and where in the document it begins. What comes next begins behind it.
    piece: Vec<u8>,
    piece_at: u64,
    /// Where the next byte is read.
    at: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
    tail_end: u64,
    /// Where it ended.
    end: Option<u64>,
    /// All of it.
    spool: Option<File>,
    came: u64,
    resumptions: u64,
}

impl Transfer {
    /// Asks for a document from its beginning on. Blocks.
    pub(super) fn open(
        name: Arc<str>,
        reach: Arc<Reach>,
        mut bring: impl Bring + 'static,
    ) -> Result<Self, ConnectorError> {
        let opened = reach.wait(bring.open(0, None))?;
        Ok(Self::begun(name, reach, bring, opened))
    }

    /// A document whose bytes `bring` brings, of which `opened` are the first.
    pub(super) fn begun(name: Arc<str>, reach: Arc<Reach>, bring: impl Bring + 'static, opened: Opened) -> Self {
        let Opened { version, pieces } = opened;
        Self {
            name,
            reach,
            bring: Box::new(bring),
            version,
            pieces: Some(pieces),
            piece: Vec::new(),
            piece_at: 0,
            at: 0,
            head: Vec::new(),
            tail: Vec::new(),
            tail_end: 0,
            end: None,
            spool: None,
            came: 0,
            resumptions: 0,
        }
    }

    /// Has the piece that begins where the next byte is read; `false` when there is none.
    fn advance(&mut self) -> Result<bool, ConnectorError> {
        let mut wait = RESUMPTION_WAIT;
        loop {
            let error = match self.try_to_advance() {
                Ok(more) => return Ok(more),
                Err(error) => error,
            };
            self.pieces = None;
            let may_be_resumed = self.version.conditions.is_some() && matches!(error.advice(), Advice::Retry { .. });
            let limit = RESUMPTIONS + self.came / BYTES_PER_RESUMPTION;
            if !may_be_resumed || matches!(error, ConnectorError::Cancelled) || self.resumptions >= limit {
                return Err(error);
            }
            self.resumptions += 1;
            tracing::info!(file = %self.name, at_bytes = self.at, "`{}` broke off; it is taken up again", self.name);
            let pause = async {
                tokio::time::sleep(wait).await;
                Ok(())
            };
            self.reach.wait(pause)?;
            wait *= 2;
        }
    }

    fn try_to_advance(&mut self) -> Result<bool, ConnectorError> {
        let next = self.piece_at + self.piece.len() as u64;
        if self.pieces.is_none() || next != self.at {
            if self.version.size.is_some_and(|size| self.at >= size) {
                return Ok(false);
            }
            self.pieces = None;
            if self.at > 0 && self.version.conditions.is_none() {
                return Err(self.untold());
            }
            let opened = self.reach.wait(self.bring.open(self.at, Some(&self.version)))?;
            self.pieces = Some(opened.pieces);
            (self.piece_at, self.piece) = (self.at, Vec::new());
        }
        let Some(pieces) = &mut self.pieces else { return Ok(false) };
        let Some(piece) = self.reach.wait(pieces.next())? else {
            if self.version.size.is_some_and(|size| self.at < size) {
                return Err(self.cut_off());
            }
            self.end = Some(self.at);
            return Ok(false);
        };
        self.came += piece.len() as u64;
        self.piece_at = self.at;
        self.hold(&piece);
        self.piece = piece;
        Ok(true)
    }

    /// Keeps of a piece at `at` what belongs to the beginning and the end.
    fn hold(&mut self, piece: &[u8]) {
        if self.at == self.head.len() as u64 {
            let room = HELD_BYTES - self.head.len();
            self.head.extend_from_slice(&piece[..room.min(piece.len())]);
        }
        if self.tail_end != self.at {
            self.tail.clear();
        }
        self.tail.extend_from_slice(&piece[piece.len().saturating_sub(HELD_BYTES)..]);
        self.tail.drain(..self.tail.len().saturating_sub(HELD_BYTES));
        self.tail_end = self.at + piece.len() as u64;
    }

    /// What is held of the bytes from `at` on; may be empty.
    fn held(&self) -> &[u8] {
        let tail_at = self.tail_end - self.tail.len() as u64;
        let parts = [(self.piece_at, &self.piece), (0, &self.head), (tail_at, &self.tail)];
        let found = parts.into_iter().find_map(|(start, bytes)| {
            let inside = usize::try_from(self.at.checked_sub(start)?).ok()?;
            bytes.get(inside..).filter(|rest| !rest.is_empty())
        });
        found.unwrap_or_default()
    }

    fn position(&self) -> Box<Position> {
        Box::new(Position { document: self.name.clone(), request: None, line: None, record: 0, headers: None })
    }

    fn cut_off(&self) -> ConnectorError {
        let at = self.at;
        let problem = say!("it ended behind {at} bytes, before its end", "終わりに届く前に {at} バイトで途切れました");
        ConnectorError::Place { position: self.position(), fault: PlaceFault::Lost, problem }
    }

    fn untold(&self) -> ConnectorError {
        let problem = say!(
            "nothing tells which version of it this is (no `ETag`, no `Last-Modified`), so it can not be read from its middle on",
            "版を見分けるもの (`ETag`、`Last-Modified`) がないため、途中から読めません"
        );
        ConnectorError::Place { position: self.position(), fault: PlaceFault::Answer, problem }
    }

    fn too_long(&self) -> ConnectorError {
        let problem = say!(
            "it has to be fetched before it can be read, and has more than {SPOOL_LIMIT_BYTES} bytes; split it, or use a format that is read in order",
            "読む前に取り寄せる必要がありますが、{SPOOL_LIMIT_BYTES} バイトを超えています。分割するか、順に読める形式にしてください"
        );
        ConnectorError::Place { position: self.position(), fault: PlaceFault::TooLong, problem }
    }
}

impl Content for Transfer {
    fn stamp(&mut self) -> io::Result<Stamp> {
        let Some(end) = self.end else { return Ok(self.version.stamp.clone()) };
        let now = self.reach.wait(self.bring.look(&self.version)).map_err(io::Error::other)?;
        // The end says what nobody had said.
        Ok(if self.version.size.is_none() { Stamp { size: end, ..now } } else { now })
    }

    fn fetch(&mut self) -> io::Result<()> {
        if self.spool.is_some() {
            return Ok(());
        }
        if self.version.size.is_some_and(|size| size > SPOOL_LIMIT_BYTES) {
            return Err(io::Error::other(self.too_long()));
        }
        self.at = 0;
        let mut file = tempfile::tempfile()?;
        if io::copy(&mut self.by_ref().take(SPOOL_LIMIT_BYTES + 1), &mut file)? > SPOOL_LIMIT_BYTES {
            return Err(io::Error::other(self.too_long()));
        }
        file.rewind()?;
        self.spool = Some(file);
        (self.pieces, self.piece) = (None, Vec::new());
        Ok(())
    }

    fn validators(&self) -> Option<Validators> {
        self.version.validators.clone()
    }
}

impl Read for Transfer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(spool) = &mut self.spool {
            return spool.read(buffer);
        }
        if self.held().is_empty() {
            let is_over = self.end.is_some_and(|end| self.at >= end);
            if is_over || !self.advance().map_err(io::Error::other)? {
                return Ok(0);
            }
        }
        let read = self.held().read(buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Transfer {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        if let Some(spool) = &mut self.spool {
            return spool.seek(to);
        }
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.end.or(self.version.size).and_then(|end| end.checked_add_signed(by)),
        };
        self.at = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
