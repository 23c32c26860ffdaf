//! The text of a document for the parser, handed to it up to its last whole token, and the record that it is at as it was.

use std::io::{self, BufRead, Read};

use super::super::lines::KEPT_BYTES;
use super::super::text::{MARK, is_marked};
use super::tokens::Tokens;

/// A text that comes in pieces, decoded, with marks for what means nothing.
#[derive(Default)]
pub(super) struct Source {
    piece: Vec<u8>,
    /// The same with a character in the place of each mark, since the parser takes nothing but UTF-8.
    clean: Vec<u8>,
    /// How far the parser has read.
    at: usize,
    /// How far it may.
    ready: usize,
    tokens: Tokens,
    /// Line breaks before `at`.
    breaks: u64,
    pub(super) held: Vec<u8>,
    pub(super) held_size: usize,
    /// Whether bytes in it mean nothing.
    pub(super) is_marked: bool,
}

impl Source {
    /// Adds a piece.
    pub(super) fn add(&mut self, text: &[u8]) {
        // What the parser has read stands before the token that is not whole.
        self.piece.drain(..self.at);
        self.clean.drain(..self.at);
        self.tokens.forget(self.at);
        self.at = 0;
        self.piece.extend_from_slice(text);
        let start = self.clean.len();
        self.clean.extend_from_slice(text);
        let mut rest = &mut self.clean[start..];
        while let Some(at) = rest.iter().position(|byte| *byte == MARK) {
            let end = (at + 3).min(rest.len());
            rest[at..end].copy_from_slice(&"\u{fffd}".as_bytes()[..end - at]);
            rest = &mut rest[end..];
        }
        self.ready = self.tokens.whole(&self.clean);
    }

    /// There are no more pieces: what is left is all that there is.
    pub(super) fn end(&mut self) {
        self.ready = self.clean.len();
    }

    /// Whether the parser finds a whole token.
    pub(super) fn has_token(&self) -> bool {
        self.at < self.ready
    }

    /// Bytes of the token that is not whole.
    pub(super) fn waiting(&self) -> usize {
        self.clean.len() - self.ready
    }

    /// The line that is read next.
    pub(super) fn line(&self) -> u64 {
        self.breaks + 1
    }

    pub(super) fn hold_anew(&mut self) {
        self.held.clear();
        self.held_size = 0;
        self.is_marked = false;
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.clean[self.at..self.ready])
    }

    fn consume(&mut self, amount: usize) {
        let taken = &self.piece[self.at..self.at + amount];
        self.breaks += taken.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.held_size += amount;
        self.is_marked |= is_marked(taken);
        let room = KEPT_BYTES.saturating_sub(self.held.len());
        self.held.extend_from_slice(&taken[..amount.min(room)]);
        self.at += amount;
    }
}
