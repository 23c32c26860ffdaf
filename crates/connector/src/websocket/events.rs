//! Server-sent events: the text format, and a connection that delivers it.

use std::time::Duration;

use matome_egress::Response;
use tokio::time::Instant;

use super::dial::Lost;
use super::message::{KEPT_BYTES, Message};
use super::socket::HELD_BYTES;

/// So much of a line is held whatever the limit of data is.
const LINE_BYTES: usize = 8 * 1024;

/// A connection on which events come.
pub(super) struct Events {
    response: Response,
    parser: EventParser,
    silence: Duration,
    heard: Instant,
}

impl Events {
    pub(super) fn new(response: Response, limit: usize, silence: Duration) -> Self {
        Self { response, parser: EventParser::new(limit), silence, heard: Instant::now() }
    }

    /// The next event. Safe to drop and ask again.
    pub(super) async fn next(&mut self) -> Result<Message, Lost> {
        loop {
            if let Some(event) = self.parser.take() {
                return Ok(event);
            }
            let piece = tokio::select! {
                biased;
                piece = self.response.chunk() => piece.map_err(Lost::Egress)?,
                () = tokio::time::sleep_until(self.heard + self.silence) => return Err(Lost::Silence(self.silence)),
            };
            self.heard = Instant::now();
            match piece {
                Some(bytes) => {
                    self.parser.feed(&bytes);
                    // Its beginning is held, but its end may never come.
                    let size = self.parser.unfinished();
                    if size > HELD_BYTES {
                        return Err(Lost::TooLong(size));
                    }
                }
                None => return Err(Lost::Closed { code: None, reason: String::new() }),
            }
        }
    }

    /// Time in which nobody listened is no silence.
    pub(super) fn was_left_alone(&mut self, time: Duration) {
        self.heard += time;
    }
}

/// Takes the text of events apart, piece by piece as it comes. Holds a line and the data of one event, both up to the limit.
pub(super) struct EventParser {
    limit: usize,
    line: Vec<u8>,
    line_size: usize,
    /// The byte before was a CR, so an LF belongs to it.
    after_cr: bool,
    is_first_line: bool,
    data: Vec<u8>,
    data_size: usize,
    has_data: bool,
    event: Option<String>,
    /// The id that stands; an event keeps that of the one before.
    id: Option<String>,
    has_new_id: bool,
    ready: std::collections::VecDeque<Message>,
}

impl EventParser {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            line_size: 0,
            after_cr: false,
            is_first_line: true,
            data: Vec::new(),
            data_size: 0,
            has_data: false,
            event: None,
            id: None,
            has_new_id: false,
            ready: std::collections::VecDeque::new(),
        }
    }

    /// How much of a line and of an event came that have not ended yet.
    fn unfinished(&self) -> usize {
        self.line_size + self.data_size
    }

    pub(super) fn take(&mut self) -> Option<Message> {
        self.ready.pop_front()
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.hold(bytes);
                return;
            };
            self.hold(&bytes[..end]);
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line();
        }
    }

    fn hold(&mut self, piece: &[u8]) {
        self.line_size += piece.len();
        // Ids and types are short, but not bound to the limit of data; the name of the field comes on top.
        let room = (self.limit.max(LINE_BYTES) + 16).saturating_sub(self.line.len());
        self.line.extend_from_slice(&piece[..room.min(piece.len())]);
    }

    fn end_line(&mut self) {
        let held = std::mem::take(&mut self.line);
        let cut = std::mem::take(&mut self.line_size) - held.len();
        let mut line = &held[..];
        if std::mem::take(&mut self.is_first_line) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch();
        } else {
            let (name, value) = match line.iter().position(|&byte| byte == b':') {
                Some(colon) => (&line[..colon], &line[colon + 1..]),
                None => (line, &line[line.len()..]),
            };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match name {
                b"data" => self.add_data(value, cut),
                b"event" => {
                    self.event = Some(String::from_utf8_lossy(value).into_owned()).filter(|name| !name.is_empty())
                }
                b"id" if !value.contains(&0) && value.len() <= 1024 => {
                    self.id = Some(String::from_utf8_lossy(value).into_owned());
                    self.has_new_id = true;
                }
                // Comments, `retry`, and what the standard does not know.
                _ => {}
            }
        }
        self.line = held;
        self.line.clear();
        if self.line.capacity() > 2 * KEPT_BYTES {
            self.line = Vec::new();
        }
    }

    fn add_data(&mut self, value: &[u8], cut: usize) {
        if self.has_data {
            self.hold_data(b"\n", 0);
        }
        self.has_data = true;
        self.hold_data(value, cut);
    }

    fn hold_data(&mut self, value: &[u8], cut: usize) {
        self.data_size += value.len() + cut;
        if self.data_size <= self.limit {
            self.data.extend_from_slice(value);
        } else {
            let room = KEPT_BYTES.saturating_sub(self.data.len());
            self.data.extend_from_slice(&value[..room.min(value.len())]);
            self.data.truncate(KEPT_BYTES);
        }
    }

    fn dispatch(&mut self) {
        let (event, size) = (self.event.take(), std::mem::take(&mut self.data_size));
        let body = std::mem::take(&mut self.data);
        let has_data = std::mem::take(&mut self.has_data);
        let has_new_id = std::mem::take(&mut self.has_new_id);
        // An id without data moves the place all the same.
        if has_data || has_new_id {
            self.ready.push_back(Message { body, size, event, id: self.id.clone().filter(|id| !id.is_empty()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8], step: usize, limit: usize) -> Vec<(String, Option<String>, Option<String>, usize)> {
        let mut parser = EventParser::new(limit);
        text.chunks(step).for_each(|piece| parser.feed(piece));
        std::iter::from_fn(|| parser.take())
            .map(|event| (String::from_utf8(event.body).unwrap(), event.event, event.id, event.size))
            .collect()
    }

    #[test]
    fn events_are_the_same_however_their_bytes_come() {
        let text = b"\xef\xbb\xbf: hello\r\nid: 1\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nevent: tick\rdata:x\r\r\
            retry: 10\n\nid\ndata\ndata\n\ndata: never ended";
        let expected = vec![
            ("{\"a\":\n1}".to_owned(), None, Some("1".to_owned()), 8),
            ("x".to_owned(), Some("tick".to_owned()), Some("1".to_owned()), 1),
            ("\n".to_owned(), None, None, 1),
        ];
        for step in 1..text.len() {
            assert_eq!(parse(text, step, 1000), expected, "{step}");
        }
    }

    #[test]
    fn an_event_over_the_limit_is_told_with_its_size_and_the_next_one_is_whole() {
        let long = "x".repeat(200_000);
        let text = format!("id: 7\ndata: {long}\n\ndata: short\n\n");
        for step in [1, 1000, text.len()] {
            let events = parse(text.as_bytes(), step, 100);
            assert_eq!((events[0].3, events[0].2.as_deref()), (200_000, Some("7")));
            assert!(events[0].0.len() <= KEPT_BYTES);
            assert_eq!(events[1].0, "short");
        }
    }
}
