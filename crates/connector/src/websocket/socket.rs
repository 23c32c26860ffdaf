//! The messages of one WebSocket, with pings of ours.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use matome_egress::Upgraded;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError};
use tokio_tungstenite::tungstenite::protocol::{Message as Frame, Role, WebSocketConfig};

use super::dial::Lost;
use super::message::Message;

/// A message longer than this can not be read at all: the connection is lost over it.
pub(super) const HELD_BYTES: usize = 32 << 20;
/// How long the peer may take to accept what is sent to it.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// A WebSocket that is open.
pub(super) struct Socket {
    stream: WebSocketStream<Upgraded>,
    ping: Option<(Duration, Option<String>)>,
    next_ping: Instant,
    silence: Duration,
    heard: Instant,
}

impl Socket {
    /// `ping`: how often something is sent, and what if not a ping.
    pub(super) async fn open(
        connection: Upgraded,
        ping: Option<(Duration, Option<String>)>,
        silence: Duration,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(64 << 10)
            .write_buffer_size(0)
            .max_write_buffer_size(1 << 20)
            .max_message_size(Some(HELD_BYTES))
            .max_frame_size(Some(HELD_BYTES));
        let stream = WebSocketStream::from_raw_socket(connection, Role::Client, Some(config)).await;
        let now = Instant::now();
        let next_ping = now + ping.as_ref().map_or(Duration::ZERO, |(every, _)| *every);
        Self { stream, ping, next_ping, silence, heard: now }
    }

    pub(super) async fn send(&mut self, text: String) -> Result<(), Lost> {
        self.send_frame(Frame::text(text)).await
    }

    async fn send_frame(&mut self, frame: Frame) -> Result<(), Lost> {
        match tokio::time::timeout(SEND_TIMEOUT, self.stream.send(frame)).await {
            Ok(sent) => sent.map_err(lost),
            Err(_) => Err(Lost::Silence(SEND_TIMEOUT)),
        }
    }

    /// The next message. Safe to drop and ask again.
    pub(super) async fn next(&mut self) -> Result<Message, Lost> {
        loop {
            let frame = tokio::select! {
                biased;
                frame = self.stream.next() => frame,
                () = tokio::time::sleep_until(self.heard + self.silence) => return Err(Lost::Silence(self.silence)),
                () = tokio::time::sleep_until(self.next_ping), if self.ping.is_some() => {
                    self.send_ping().await?;
                    continue;
                }
            };
            self.heard = Instant::now();
            match frame {
                Some(Ok(Frame::Text(text))) => return Ok(Message::new(text.as_bytes().to_vec())),
                Some(Ok(Frame::Binary(bytes))) => return Ok(Message::new(bytes.to_vec())),
                Some(Ok(Frame::Close(close))) => {
                    let code = close.as_ref().map(|close| close.code.into());
                    let reason = close.map(|close| close.reason.to_string()).unwrap_or_default();
                    return Err(Lost::Closed { code, reason });
                }
                // Pings are answered by the library.
                Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => {}
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(Lost::Closed { code: None, reason: String::new() }),
            }
        }
    }

    async fn send_ping(&mut self) -> Result<(), Lost> {
        let Some((every, message)) = &self.ping else { return Ok(()) };
        let (every, frame) = match message {
            Some(text) => (*every, Frame::text(text.clone())),
            None => (*every, Frame::Ping(Vec::new().into())),
        };
        self.send_frame(frame).await?;
        self.next_ping = Instant::now() + every;
        Ok(())
    }

    /// Time in which nobody listened is no silence.
    pub(super) fn was_left_alone(&mut self, time: Duration) {
        self.heard += time;
    }

    /// Says goodbye, briefly.
    pub(super) async fn close(mut self) {
        let _ = tokio::time::timeout(Duration::from_millis(200), self.stream.close(None)).await;
    }
}

fn lost(error: WsError) -> Lost {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { size, .. }) => Lost::TooLong(size),
        WsError::Utf8(_) => Lost::NotUtf8,
        WsError::ConnectionClosed | WsError::AlreadyClosed => Lost::Closed { code: None, reason: String::new() },
        other => Lost::Broken(Box::new(other)),
    }
}
