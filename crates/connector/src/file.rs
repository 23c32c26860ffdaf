//! Records out of files: a location has their bytes, which may be compressed or packed in an archive, in some encoding and in
//! some format. Each of these is a module that knows nothing of the others; [`pump`] puts them together, and
//! [`checkpoint`] says how far a read has come.
//!
//! - [`location`]: where bytes come from. [`roots`] are directories of this machine.
//! - [`compression`], [`archive`]: what they were before.
//! - [`text`]: from an encoding to UTF-8.
//! - [`document`]: by its format, from bytes to records ([`lines`], [`csv`], and JSON beside this folder).

mod archive;
mod checkpoint;
mod compression;
mod config;
mod csv;
mod document;
mod lines;
mod location;
mod pump;
mod reader;
mod roots;
mod text;

use std::sync::Arc;

use futures::future::BoxFuture;

pub use compression::{Codec, Compression};
pub(crate) use config::parse as parse_config;
pub use config::{ColumnType, ColumnTypes, CsvConfig, DocumentConfig, FileConfig, Format, Header};
pub(crate) use document::Document;
pub use roots::FileRoots;

use crate::error::ConnectorError;
use crate::read::{Connector, ReadRequest, Reader};
use crate::record::{Found, Item};

/// Reads the files that a config names.
pub struct FileConnector {
    config: Arc<FileConfig>,
    roots: Arc<FileRoots>,
}

impl FileConnector {
    /// Files beneath `roots`.
    pub fn new(config: FileConfig, roots: Arc<FileRoots>) -> Self {
        Self { config: Arc::new(config), roots }
    }
}

impl Connector for FileConnector {
    fn read(&self, request: ReadRequest) -> BoxFuture<'_, Result<Box<dyn Reader>, ConnectorError>> {
        Box::pin(async move {
            let reader = reader::start(self.config.clone(), self.roots.clone(), request).await?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }
}

/// Takes the text of a file apart that comes in pieces, as a read does once it is decompressed and, where its encoding is
/// no ASCII at all, decoded: what was found, and what made the rest unreadable. For fuzzing; a byte order mark is text here.
pub fn take_apart<'p>(config: &FileConfig, pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<Item>, Option<String>) {
    let mut found = Found::new("".into(), None, 0);
    let mut parser = document::parser_of(&config.document, None);
    let mut fed = pieces.into_iter().try_for_each(|piece| parser.feed(piece, &mut found));
    if fed.is_ok() {
        fed = parser.finish(&mut found);
    }
    (found.take(usize::MAX, usize::MAX), fed.err().map(|error| error.problem.english))
}
