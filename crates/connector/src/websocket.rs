//! Records out of a stream that does not end: the messages of a WebSocket (RFC 6455), or server-sent events (HTML
//! Living Standard, section 9.2).
//!
//! A read goes on until it is cancelled, or for `duration_secs`. It connects again by itself when a connection is lost:
//! where the source can send again what was missed (`resume`, or the ids of events) behind the last message, else at
//! what comes now, and the time between is kept in the checkpoint as a gap.

mod config;
mod dial;
mod events;
mod message;
mod reader;
mod socket;
mod state;

use std::sync::Arc;

use futures::future::BoxFuture;
use matome_egress::HttpClient;
use matome_model::clock::Clock;
use serde_json::value::RawValue;

pub(crate) use config::parse as parse_config;
pub use config::{Heartbeat, MessageFormat, Reconnect, Resume, WebsocketConfig};
pub use state::{Gap, gaps_of};

use crate::api::Tokens;
use crate::error::ConnectorError;
use crate::read::{Connector, ReadRequest, Reader};
use crate::record::Item;

/// A server-sent event as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its data; the beginning when `size` is more.
    pub body: Vec<u8>,
    /// How long the data is.
    pub size: usize,
    /// Its type, if it says one.
    pub event: Option<String>,
    /// The id that stands since then.
    pub id: Option<String>,
}

/// Takes the text of events apart that comes in pieces, as a read does; data longer than `limit` is cut. For fuzzing.
pub fn take_apart<'p>(limit: usize, pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<Event> {
    let mut parser = events::EventParser::new(limit);
    pieces.into_iter().for_each(|piece| parser.feed(piece));
    let event = |message::Message { body, size, event, id }| Event { body, size, event, id };
    std::iter::from_fn(|| parser.take()).map(event).collect()
}

/// Takes a message apart: its records and what is rejected of it, its cursor, and whether it is passed over. For fuzzing.
pub fn records_of(config: &WebsocketConfig, body: Vec<u8>) -> (Vec<Item>, Option<Box<RawValue>>, bool) {
    let place = message::Place { document: "".into(), connection: 1, message: 1 };
    let message::Decoded { items, token, is_passed_over } =
        message::decode(config, message::Message::new(body), &place);
    (items, token, is_passed_over)
}

/// Listens where a config says.
pub struct WebsocketConnector {
    config: Arc<WebsocketConfig>,
    client: HttpClient,
    clock: Clock,
    tokens: Tokens,
}

impl WebsocketConnector {
    /// Connections go out through `client`; `tokens` are shared by all sources of a process.
    pub fn new(config: WebsocketConfig, client: HttpClient, clock: Clock, tokens: Tokens) -> Self {
        Self { config: Arc::new(config), client, clock, tokens }
    }
}

impl Connector for WebsocketConnector {
    fn read(&self, request: ReadRequest) -> BoxFuture<'_, Result<Box<dyn Reader>, ConnectorError>> {
        Box::pin(async move {
            let dialer = dial::Dialer::new(
                self.config.clone(),
                self.client.clone(),
                self.tokens.clone(),
                request.keeper.clone(),
            );
            let reader = reader::StreamReader::new(self.config.clone(), dialer, self.clock.clone(), request)?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }

    fn is_stream(&self) -> bool {
        true
    }
}
