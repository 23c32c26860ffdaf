//! Records out of files beneath the file roots: NDJSON, JSON documents and CSV, gzip or not.

mod config;
mod csv;
mod lines;
mod reader;
mod roots;
mod text;

use std::sync::Arc;

use futures::future::BoxFuture;

pub(crate) use config::parse as parse_config;
pub use config::{ColumnType, ColumnTypes, Compression, CsvConfig, FileConfig, Format, Header};
pub use roots::FileRoots;

use crate::error::ConnectorError;
use crate::read::{Connector, ReadRequest, Reader};

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
