//! Records out of a REST API: JSON over HTTP, page by page.

mod answers;
mod auth;
mod body;
mod config;
mod exchange;
mod incremental;
mod list;
mod marks;
pub mod offline;
mod pages;
mod pagination;
mod parents;
mod probe;
mod rate;
mod reader;
mod same_as;
mod signing;
mod state;
mod template;
mod tokens;

use std::sync::Arc;

use futures::future::BoxFuture;
use matome_egress::HttpClient;
use matome_model::clock::Clock;
use matome_model::field_error::Words;

// What streams and files have in common with it.
pub(crate) use config::{
    belongs_into_auth, is_set_by_matome, not_a_header_name, not_for_a_header, set_by_matome, url_of,
};
pub(crate) use exchange::{is_refused, retry_after, small_body};
pub(crate) use list::{headers as header_templates, set_param};
pub(crate) use template::{JsonTemplate, Known, Placeholder, Template, Unfit, Values};

pub use answers::{Action, Rule, Statuses};
pub use auth::Auth;
pub use config::ApiConfig;
pub(crate) use config::parse as parse_config;
pub(crate) use incremental::STEP_LIMIT_SECS;
pub use incremental::{CursorKind, Incremental};
pub use list::List;
pub use pagination::{Pagination, TokenPlace};
pub use parents::Parent;
pub(crate) use probe::Probe;
pub use rate::{RateConfig, RateHeaders};
pub use same_as::{auth_is_of, with_auth_of};
pub use signing::{Algorithm, Encoding, Signing, Stamp};
pub use tokens::{Brings, ClientCredentials, JwtBearer, RefreshToken, Session, Tokens};

use crate::config::Fields;
use crate::error::ConnectorError;
use crate::json::JsonPath;
use crate::read::{Connector, ReadRequest, Reader};

/// Reads the pages that a config names.
pub struct ApiConnector {
    config: Arc<ApiConfig>,
    client: HttpClient,
    clock: Clock,
    tokens: Tokens,
}

impl ApiConnector {
    /// Requests go out through `client`; `clock` is what dates in answers are compared with; `tokens` are shared by
    /// all sources of a process.
    pub fn new(config: ApiConfig, client: HttpClient, clock: Clock, tokens: Tokens) -> Self {
        Self { config: Arc::new(config), client, clock, tokens }
    }
}

impl Connector for ApiConnector {
    fn read(&self, request: ReadRequest) -> BoxFuture<'_, Result<Box<dyn Reader>, ConnectorError>> {
        Box::pin(async move {
            let exchange = exchange::Exchange::new(self.config.clone(), self.client.clone(), self.clock.clone());
            let exchange = exchange.with_tokens(self.tokens.clone(), request.keeper.clone());
            let reader = reader::ApiReader::new(self.config.clone(), exchange, request)?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }
}

/// Reads the path of one value.
pub(crate) fn value_path(fields: &mut Fields, name: &str, is_required: bool, example: &str) -> Option<JsonPath> {
    if !fields.has(name) {
        if is_required {
            fields.required_string(name);
        } else {
            fields.string(name);
        }
        return None;
    }
    let path = fields.parsed::<JsonPath>(name)?;
    if path.is_members_only() && path != JsonPath::root() {
        return Some(path);
    }
    fields.fail(
        name,
        Words::new(
            format!("Give the path of one value, for example `{example}`."),
            format!("値1つのパスを指定してください。例: `{example}`。"),
        ),
    );
    None
}
