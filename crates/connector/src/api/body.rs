//! What takes a page apart: a JSON document around its records, or lines or rows that are nothing else.

use std::sync::Arc;

use crate::file::{Document, DocumentConfig};
use crate::json::{JsonPath, RecordForm, Splitter};
use crate::record::{DocumentError, Found, Parse as _};

/// The body of one page under way.
pub(super) enum Body {
    /// Records, and values beside them.
    Json(Box<Splitter>),
    /// Records alone; nothing stands beside them.
    Records(Box<Document>),
}

impl Body {
    pub(super) fn json(records: JsonPath, form: &RecordForm, captures: &[&JsonPath]) -> Self {
        Self::Json(Box::new(Splitter::new(records, captures).forming(form)))
    }

    pub(super) fn records(config: Arc<DocumentConfig>) -> Self {
        Self::Records(Box::new(Document::new(config)))
    }

    /// Takes the next piece; none at the end.
    pub(super) fn feed(&mut self, piece: Option<&[u8]>, found: &mut Found) -> Result<(), DocumentError> {
        match (self, piece) {
            (Self::Json(splitter), Some(bytes)) => splitter.feed(bytes, found),
            (Self::Json(splitter), None) => splitter.finish(found),
            (Self::Records(document), piece) => document.feed(piece.unwrap_or_default(), piece.is_none(), found),
        }
    }

    /// The value at the path of this number, of those that were to be captured.
    pub(super) fn captured(&self, at: usize) -> Option<&[u8]> {
        match self {
            Self::Json(splitter) => splitter.captured(at),
            Self::Records(_) => None,
        }
    }

    /// Whether all of it came and could be taken apart, so that it can say an error.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Json(splitter) => splitter.is_whole(),
            Self::Records(_) => true,
        }
    }
}
