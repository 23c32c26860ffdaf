//! Records out of files: a location has their bytes, which may be compressed or packed in an archive, in some encoding and in
//! some format. Each of these is a module that knows nothing of the others; [`pump`] puts them together, [`plan`] says which
//! documents are read, by what [`manifest`] knows of them and [`rotation`] finds of it under other names, and [`checkpoint`] how far a read has come; [`fingerprint`] tells whether
//! what was read of a document is still its beginning.
//!
//! - [`location`]: where bytes come from: [`roots`] are directories of this machine, the others are elsewhere.
//! - [`compression`], [`archive`]: what they were before.
//! - [`text`]: from an encoding to UTF-8.
//! - [`document`]: by its format, from text to records ([`lines`], [`csv`], [`fixed`], [`xml`], and JSON beside this folder).
//!   [`excel`] and [`table`] (Parquet) are no text.

mod address;
mod archive;
mod checkpoint;
mod compression;
mod config;
mod csv;
mod directory;
mod document;
mod excel;
mod fingerprint;
mod fixed;
mod lines;
mod location;
mod manifest;
mod plan;
mod probe;
mod pump;
mod reader;
mod roots;
mod rotation;
mod row;
mod stored;
mod table;
mod text;
mod xls;
mod xml;

use std::sync::Arc;

use futures::future::BoxFuture;
use matome_model::field_error::Words;
use matome_model::source::SourceType;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use compression::{Codec, Compression};
pub(crate) use config::parse as parse_config;
pub use config::{ColumnType, ColumnTypes, CsvConfig, DocumentConfig, FileConfig, Format, Header};
pub(crate) use csv::COLUMN_LIMIT;
pub(crate) use document::Document;
pub use excel::{ExcelConfig, Sheet};
pub use fixed::{FixedColumn, FixedConfig, Unit};
pub use location::{
    AzureKey, AzurePlace, GcsPlace, HttpPlace, Means, Object, Page, Place, S3Place, ServiceAccount, SftpPlace,
    SshServer,
};
pub use roots::FileRoots;
pub use row::RowReader;
pub use text::Charset;
pub use xml::XmlPath;

use crate::error::ConnectorError;
use crate::probe::{Finding, Proposal, validate_for_probe};
use crate::read::{Connector, ReadRequest, Reader};
use crate::record::{Found, Item};
use location::{Location as _, Reach};
use plan::Plan;
use pump::Pump;

/// Reads the files that a config names.
pub struct FileConnector {
    config: Arc<FileConfig>,
    roots: Arc<FileRoots>,
    means: Means,
}

impl FileConnector {
    /// Files beneath `roots`, or elsewhere by `means`.
    pub fn new(config: FileConfig, roots: Arc<FileRoots>, means: Means) -> Self {
        Self { config: Arc::new(config), roots, means }
    }
}

impl Connector for FileConnector {
    fn read(&self, request: ReadRequest) -> BoxFuture<'_, Result<Box<dyn Reader>, ConnectorError>> {
        Box::pin(async move {
            let cancel = request.cancel.child_token();
            let request = ReadRequest { cancel: cancel.clone(), ..request };
            let reach =
                Reach::new(self.means.clone(), self.config.common.timeout, request.keeper.clone(), cancel.clone());
            let location = self.config.place.open(self.roots.clone(), reach);
            let reader = reader::start(self.config.clone(), location, request, cancel.drop_guard()).await?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }

    fn tells_additions(&self) -> bool {
        self.config.only_changed
    }
}

/// Proposes what `config` leaves open, by the files that it names beneath `roots`, or elsewhere by `means`.
pub(crate) async fn propose(roots: Arc<FileRoots>, means: Means, config: String) -> Result<Proposal, ConnectorError> {
    validate_for_probe(SourceType::File, &config).map_err(ConnectorError::Config)?;
    let Some((place, tls, timeout)) = config::place_of(&config) else { return Err(ConnectorError::Draft) };
    let means = means.with(&tls, &roots, place.origins())?;
    let cancel = CancellationToken::new();
    // What is waited for ends with whoever waits for the look.
    let _waits = cancel.clone().drop_guard();
    let location = place.open(roots, Reach::new(means, timeout, None, cancel));
    let looked = tokio::task::spawn_blocking(move || probe::propose(&*location, &place, &config));
    looked.await.map_err(|_| ConnectorError::Broken)?
}

/// Whether a config is that of files, by what it names.
pub(crate) fn has_path(config: &str) -> bool {
    let given: Map<String, Value> = serde_json::from_str(config).unwrap_or_default();
    given.contains_key("path") && !given.contains_key("url")
}

/// The config of a source of files with the document at the `url` of `config`; nothing where that can be none.
pub(crate) fn of_address(config: &str) -> Option<String> {
    let mut given: Map<String, Value> = serde_json::from_str(config).ok()?;
    let url = given.remove("url")?;
    let is_open = !given.contains_key("path") && url.as_str().is_some_and(|url| url.starts_with("http"));
    given.insert("path".to_owned(), url);
    let config = Value::Object(given).to_string();
    (is_open && validate_for_probe(SourceType::File, &config).is_ok()).then_some(config)
}

/// Whether the document that `config` names by its address is a file, by what its server says, and how that is told.
pub(crate) async fn is_file(
    roots: &FileRoots,
    means: Means,
    config: &str,
) -> Result<(bool, Option<Words>), ConnectorError> {
    let Some((place, tls, timeout)) = config::place_of(config) else { return Ok((false, None)) };
    let means = means.with(&tls, roots, place.origins())?;
    let Place::Http(place) = place else { return Ok((false, None)) };
    let told = place.look(Reach::new(means, timeout, None, CancellationToken::new())).await?;
    Ok(address::judge(place.url.path(), &told))
}

/// How the rows of a text in UTF-8 are written, as far as `given` leaves it open; `config` is what it means so far.
pub(crate) fn dialect(text: &[u8], config: &CsvConfig, given: &Map<String, Value>) -> Vec<Finding> {
    probe::dialect(text, config, given)
}

/// The word of a config for the format that the extension of a name says, as far as it is a text.
pub(crate) fn text_format_of(name: &str) -> Option<&'static str> {
    probe::text_format_of(name)
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

/// Reads bytes as a page of the list of each kind of store: which objects there are, or why it is none. For fuzzing.
pub fn listed(page: &[u8]) -> Vec<Result<Page, String>> {
    let read = [location::page_of_s3(page), location::page_of_azure(page), location::page_of_gcs(page)];
    read.into_iter().map(|page| page.map_err(|words| words.english)).collect()
}

/// Looks at bytes as at the only document that `config` names. For fuzzing.
///
/// # Errors
/// As a look at a file.
pub fn look_at_bytes(config: &str, bytes: Vec<u8>) -> Result<Proposal, ConnectorError> {
    validate_for_probe(SourceType::File, config).map_err(ConnectorError::Config)?;
    probe::propose(&location::Memory(bytes), &Place::Roots, config)
}

/// Reads bytes as the only document of a location, with everything that a read does between a location and its records: what
/// was found, and why the rest was not. For fuzzing.
pub fn read_bytes(config: FileConfig, bytes: Vec<u8>) -> (Vec<Item>, Option<ConnectorError>) {
    // More than any such input has.
    let (sender, mut batches) = mpsc::channel(10_000);
    let location = Arc::new(location::Memory(bytes));
    let found = location.find("");
    match found {
        Ok(found) => {
            let request = ReadRequest::default();
            let plan = Plan::of_all(found, None, &request);
            Pump::new(Arc::new(config), location, request, sender).run(plan, &[]);
        }
        Err(error) => return (Vec::new(), Some(error)),
    }
    let mut items = Vec::new();
    while let Ok(batch) = batches.try_recv() {
        match batch {
            Ok(batch) => items.extend(batch.items),
            Err(error) => return (items, Some(error)),
        }
    }
    (items, None)
}
