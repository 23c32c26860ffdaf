//! Frames on stdout.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use matome_model::engine::{Failure, Frame};
use serde::Serialize;

/// Arrow bytes are collected up to this size before they go as one frame.
const ARROW_FRAME_BYTES: usize = 256 << 10;

/// Stdout, one whole frame at a time. Clones write to the same stream.
#[derive(Clone)]
pub(crate) struct Output {
    stdout: Arc<Mutex<io::Stdout>>,
}

impl Output {
    pub(crate) fn stdout() -> Self {
        Self { stdout: Arc::new(Mutex::new(io::stdout())) }
    }

    /// Sends `message` as JSON.
    pub(crate) fn json(&self, frame: Frame, message: &impl Serialize) -> io::Result<()> {
        let payload = serde_json::to_vec(message)?;
        self.frame(frame, &payload)
    }

    /// Sends `failure` unless a frame is just being written: then the parent does not read, and knows its own clock.
    pub(crate) fn last_word(&self, failure: &Failure) {
        if let (Ok(mut stdout), Ok(payload)) = (self.stdout.try_lock(), serde_json::to_vec(failure)) {
            // There is nobody left to tell when this fails.
            let _ = write(&mut stdout, Frame::Failure, &payload);
        }
    }

    /// A writer for the bytes of the Arrow stream. Flush it at the end.
    pub(crate) fn arrow(&self) -> ArrowWriter<'_> {
        ArrowWriter { output: self, pending: Vec::with_capacity(ARROW_FRAME_BYTES) }
    }

    fn frame(&self, frame: Frame, payload: &[u8]) -> io::Result<()> {
        write(&mut self.stdout.lock().unwrap_or_else(PoisonError::into_inner), frame, payload)
    }
}

fn write(stdout: &mut io::Stdout, frame: Frame, payload: &[u8]) -> io::Result<()> {
    let len = u32::try_from(payload.len()).map_err(|_| io::Error::other("frame too long"))?;
    let mut stdout = stdout.lock();
    stdout.write_all(&frame.head(len))?;
    stdout.write_all(payload)?;
    stdout.flush()
}

/// Cuts a byte stream into Arrow frames.
pub(crate) struct ArrowWriter<'a> {
    output: &'a Output,
    pending: Vec<u8>,
}

impl Write for ArrowWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(ARROW_FRAME_BYTES - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == ARROW_FRAME_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.output.frame(Frame::Arrow, &self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }
}
