//! Records out of a REST API: JSON over HTTP, page by page.

mod auth;
mod config;
mod reader;
mod state;

use std::sync::Arc;

use futures::future::BoxFuture;
use matome_egress::HttpClient;
use matome_model::clock::Clock;

pub use auth::Auth;
pub(crate) use config::parse as parse_config;
pub use config::{ApiConfig, Pagination};

use crate::error::ConnectorError;
use crate::read::{Connector, ReadRequest, Reader};

/// Reads the pages that a config names.
pub struct ApiConnector {
    config: Arc<ApiConfig>,
    client: HttpClient,
    clock: Clock,
}

impl ApiConnector {
    /// Requests go out through `client`; `clock` is what dates in `Retry-After` are compared with.
    pub fn new(config: ApiConfig, client: HttpClient, clock: Clock) -> Self {
        Self { config: Arc::new(config), client, clock }
    }
}

impl Connector for ApiConnector {
    fn read(&self, request: ReadRequest) -> BoxFuture<'_, Result<Box<dyn Reader>, ConnectorError>> {
        Box::pin(async move {
            let reader = reader::ApiReader::new(self.config.clone(), self.client.clone(), self.clock.clone(), request)?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }
}
