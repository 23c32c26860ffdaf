//! `matome source push`: a file in as many pieces as it takes, each kept whole by the server or not at all.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use axum::body::Bytes;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::find;
use super::source::SOURCES;
use crate::cli::Target;
use crate::client::{Client, Payload};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::{Column, print_rows};

/// NDJSON is sent in pieces of about so many bytes, whole lines each.
const PIECE_BYTES: usize = 4 << 20;

const COLUMNS: &[Column] = &[("id", &["id"]), ("status", &["status"]), ("records", &["records"]), ("task", &["task"])];

/// Sends what is in `file` (`-`: stdin) to a source.
pub async fn run(
    target: &Target,
    file: &Path,
    format: Option<&str>,
    key: Option<String>,
    console: &Console,
) -> Result<(), Failure> {
    let media_type = media_type(file, format)?;
    let unreadable = |err: &io::Error| {
        let what = Message::CannotRead { file: file.display().to_string() };
        Failure::new(Exit::Usage, what).because(err).help(Message::CheckFile)
    };
    let (mut input, total): (Box<dyn BufRead + Send>, Option<u64>) = if file.as_os_str() == "-" {
        (Box::new(BufReader::new(io::stdin())), None)
    } else {
        let opened = File::open(file).map_err(|err| unreadable(&err))?;
        let length = opened.metadata().map(|about| about.len()).ok();
        (Box::new(BufReader::new(opened)), length)
    };
    let client = Client::connect(&target.client, console, false).await?;
    let path = format!("{SOURCES}{}/records/", find(&client, SOURCES, &target.name).await?);
    let most = if media_type == NDJSON { PIECE_BYTES } else { usize::MAX };
    let mut progress = console.progress(&target.name, "bytes", total);
    let (mut rows, mut keys, mut sent) = (Vec::<Box<RawValue>>::new(), Keys::new(key), 0);
    let mut piece = next_piece(&mut input, most).map_err(|err| unreadable(&err))?;
    loop {
        let next = next_piece(&mut input, most).map_err(|err| unreadable(&err))?;
        let key = keys.next(&piece, next.is_empty());
        progress.at(sent, "sending");
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        let payload = Payload { media_type, idempotency_key: Some(key), bytes: Bytes::from(piece) };
        let answer = client.request("POST", &path, Some(payload)).await.and_then(|answer| answer.into_json());
        rows.push(answer.map_err(|failure| if sent == 0 { failure } else { failure.help(Message::PushAgain) })?);
        sent += length;
        if next.is_empty() {
            break;
        }
        piece = next;
    }
    progress.end(sent, "sent");
    print_rows(console, &target.client.output, &rows, COLUMNS)?;
    client.close().await;
    Ok(())
}

const NDJSON: &str = "application/x-ndjson";

fn media_type(file: &Path, format: Option<&str>) -> Result<&'static str, Failure> {
    let extension = file.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    match format.or(extension.as_deref()) {
        Some("json") => Ok("application/json"),
        Some("ndjson" | "jsonl" | "ldjson") => Ok(NDJSON),
        Some("csv") => Ok("text/csv"),
        _ => {
            Err(Failure::new(Exit::Usage, Message::NoFormat { file: file.display().to_string() })
                .help(Message::GiveFormat))
        }
    }
}

/// Whole lines, at most about `most` bytes of them; empty at the end.
fn next_piece(input: &mut dyn BufRead, most: usize) -> io::Result<Vec<u8>> {
    let mut piece = Vec::new();
    let room = u64::try_from(most).unwrap_or(u64::MAX);
    (&mut *input).take(room).read_to_end(&mut piece)?;
    if piece.len() == most && !piece.ends_with(b"\n") {
        input.read_until(b'\n', &mut piece)?;
    }
    Ok(piece)
}

/// What the pieces of one run are called: the same in each run over the same content.
enum Keys {
    /// By the content up to the end of the piece, so that equal pieces of one file are two.
    Content(Sha256),
    Given {
        key: String,
        pieces: usize,
    },
}

impl Keys {
    fn new(key: Option<String>) -> Self {
        key.map_or_else(|| Self::Content(Sha256::new()), |key| Self::Given { key, pieces: 0 })
    }

    fn next(&mut self, piece: &[u8], is_last: bool) -> String {
        match self {
            Self::Content(hash) => {
                hash.update(piece);
                let digits: String = hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                format!("content:{digits}")
            }
            Self::Given { key, pieces } => {
                *pieces += 1;
                if is_last && *pieces == 1 { key.clone() } else { format!("{key}.{pieces}") }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str, most: usize) -> Vec<String> {
        let mut input = text.as_bytes();
        let pieces = std::iter::from_fn(|| {
            let piece = next_piece(&mut input, most).unwrap();
            (!piece.is_empty()).then(|| String::from_utf8(piece).unwrap())
        });
        pieces.collect()
    }

    #[test]
    fn pieces_are_whole_lines_and_together_the_whole() {
        assert_eq!(pieces("aa\nbb\ncc", 4), ["aa\nbb\n", "cc"]);
        assert_eq!(pieces("aa\nbb\n", 3), ["aa\n", "bb\n"]);
        assert_eq!(pieces("aaaaaaaa\nb", 2), ["aaaaaaaa\n", "b"]);
        assert_eq!(pieces("", 4), [""; 0]);
        assert_eq!(pieces("aa\nbb\n", usize::MAX), ["aa\nbb\n"]);
    }

    #[test]
    fn keys_are_the_same_in_each_run_and_differ_in_one() {
        let run = |key: Option<&str>| {
            let mut keys = Keys::new(key.map(str::to_owned));
            [keys.next(b"a\n", false), keys.next(b"a\n", true)]
        };
        assert_eq!(run(Some("k")), ["k.1", "k.2"]);
        assert_eq!(Keys::new(Some("k".to_owned())).next(b"a\n", true), "k");
        assert_eq!(run(None), run(None));
        assert_ne!(run(None)[0], run(None)[1]);
    }
}
