//! Decompresses a body piece by piece, within limits, so that a small answer can not fill the memory.

use std::io::{self, Write};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

/// Output beyond this share of the input is a bomb, not data.
pub(crate) const RATIO_LIMIT: u64 = 200;
/// Small answers may compress better than the ratio says.
const RATIO_GRACE_BYTES: u64 = 1024 * 1024;
/// Deflate makes at most 1,032 bytes of one, so a step holds some 4 MiB at most before it is looked at.
const STEP_BYTES: usize = 4 * 1024;
/// The others make any number of bytes of one, so what they make is looked at in pieces of this size.
const MADE_BYTES: usize = 64 * 1024;
/// A window of 8 MiB, as RFC 9659 has it for `zstd` over HTTP.
const ZSTD_WINDOW_LOG: u32 = 23;

/// What a client says it can decompress.
pub(crate) const ACCEPTED: &str = "gzip, br, zstd, deflate";

/// Why a piece was refused.
#[derive(Debug)]
pub(crate) enum InflateError {
    Ratio,
    Corrupt(io::Error),
}

/// A compressed body under way.
pub(crate) struct Inflate {
    codec: Codec,
    budget: Budget,
}

enum Codec {
    /// One or more members.
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Brotli {
        state: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
        ended: bool,
    },
    /// With the header and the checksum of zlib, as RFC 9110 has it, or bare, as some send it; its first two bytes tell.
    Deflate {
        head: Vec<u8>,
        decoder: Option<Decompress>,
        ended: bool,
    },
    /// One or more frames; `ended`: the last one is whole.
    Zstd {
        decoder: Decoder<'static>,
        ended: bool,
    },
}

/// What went in and what came out.
#[derive(Default)]
struct Budget {
    taken: u64,
    made: u64,
}

impl Budget {
    fn make(&mut self, bytes: usize) -> Result<(), InflateError> {
        self.made += bytes as u64;
        match self.made > RATIO_GRACE_BYTES && self.made > self.taken.saturating_mul(RATIO_LIMIT) {
            true => Err(InflateError::Ratio),
            false => Ok(()),
        }
    }
}

fn corrupt(what: &'static str) -> InflateError {
    InflateError::Corrupt(io::Error::new(io::ErrorKind::InvalidData, what))
}

fn cut() -> InflateError {
    InflateError::Corrupt(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early"))
}

impl Inflate {
    /// For a `Content-Encoding`; nothing for one that is not known.
    pub(crate) fn of(encoding: &str) -> Option<Self> {
        let codec = match encoding {
            "gzip" | "x-gzip" => Codec::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            "br" => {
                let alloc = StandardAlloc::default;
                // Windows as RFC 7932 has them: up to 16 MiB, not up to 1 GiB.
                let state = Box::new(BrotliState::new_strict(alloc(), alloc(), alloc()));
                Codec::Brotli { state, ended: false }
            }
            "deflate" => Codec::Deflate { head: Vec::new(), decoder: None, ended: false },
            "zstd" => {
                let mut decoder = Decoder::new().ok()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).ok()?;
                Codec::Zstd { decoder, ended: false }
            }
            _ => return None,
        };
        Some(Self { codec, budget: Budget::default() })
    }

    /// The name of its encoding.
    pub(crate) fn name(&self) -> &'static str {
        match self.codec {
            Codec::Gzip(_) => "gzip",
            Codec::Brotli { .. } => "br",
            Codec::Deflate { .. } => "deflate",
            Codec::Zstd { .. } => "zstd",
        }
    }

    /// What `input` inflates to; may be empty.
    pub(crate) fn push(&mut self, input: &[u8]) -> Result<Vec<u8>, InflateError> {
        let mut output = Vec::new();
        for step in input.chunks(STEP_BYTES) {
            self.budget.taken += step.len() as u64;
            match &mut self.codec {
                Codec::Gzip(decoder) => {
                    decoder.write_all(step).map_err(InflateError::Corrupt)?;
                    decoder.flush().map_err(InflateError::Corrupt)?;
                    let made = std::mem::take(decoder.get_mut());
                    self.budget.make(made.len())?;
                    output.extend_from_slice(&made);
                }
                Codec::Brotli { state, ended } => brotli(state, ended, step, &mut self.budget, &mut output)?,
                Codec::Deflate { head, decoder: None, ended } => {
                    head.extend_from_slice(step);
                    if let [first, second, ..] = head[..] {
                        let has_header = first & 0x0f == 8 && u16::from_be_bytes([first, second]) % 31 == 0;
                        let mut decoder = Decompress::new(has_header);
                        deflate(&mut decoder, ended, head, &mut self.budget, &mut output)?;
                        self.codec = Codec::Deflate { head: Vec::new(), decoder: Some(decoder), ended: *ended };
                    }
                }
                Codec::Deflate { decoder: Some(decoder), ended, .. } => {
                    deflate(decoder, ended, step, &mut self.budget, &mut output)?;
                }
                Codec::Zstd { decoder, ended } => zstd(decoder, ended, step, &mut self.budget, &mut output)?,
            }
        }
        Ok(output)
    }

    /// The last bytes, once the input has ended; fails when the stream is cut off or its checksum is wrong.
    pub(crate) fn finish(&mut self) -> Result<Vec<u8>, InflateError> {
        if self.budget.taken == 0 {
            return Ok(Vec::new());
        }
        match &mut self.codec {
            Codec::Gzip(decoder) => {
                decoder.try_finish().map_err(InflateError::Corrupt)?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Codec::Brotli { ended, .. } | Codec::Deflate { ended, .. } | Codec::Zstd { ended, .. } => {
                if *ended {
                    Ok(Vec::new())
                } else {
                    Err(cut())
                }
            }
        }
    }
}

fn deflate(
    decoder: &mut Decompress,
    ended: &mut bool,
    mut input: &[u8],
    budget: &mut Budget,
    output: &mut Vec<u8>,
) -> Result<(), InflateError> {
    let mut piece = [0; MADE_BYTES];
    while !*ended {
        let before = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(input, &mut piece, FlushDecompress::None);
        let status = status.map_err(|_| corrupt("it is no deflate"))?;
        // Both are no longer than these.
        let count = |more: u64| usize::try_from(more).unwrap_or(usize::MAX);
        let (taken, made) = (count(decoder.total_in() - before.0), count(decoder.total_out() - before.1));
        budget.make(made)?;
        output.extend_from_slice(piece.get(..made).unwrap_or_default());
        input = input.get(taken..).unwrap_or_default();
        *ended = status == Status::StreamEnd;
        // A full piece may have left something behind in the decoder.
        if taken == 0 && made == 0 || input.is_empty() && made < MADE_BYTES {
            break;
        }
    }
    match *ended && !input.is_empty() {
        true => Err(corrupt("something stands behind its end")),
        false => Ok(()),
    }
}

fn brotli(
    state: &mut BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    ended: &mut bool,
    input: &[u8],
    budget: &mut Budget,
    output: &mut Vec<u8>,
) -> Result<(), InflateError> {
    if *ended {
        return Err(corrupt("something stands behind its end"));
    }
    let (mut left, mut at, mut total) = (input.len(), 0, 0);
    let mut piece = [0; MADE_BYTES];
    loop {
        let (mut room, mut made) = (piece.len(), 0);
        let result =
            BrotliDecompressStream(&mut left, &mut at, input, &mut room, &mut made, &mut piece, &mut total, state);
        budget.make(made)?;
        output.extend_from_slice(piece.get(..made).unwrap_or_default());
        match result {
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::NeedsMoreInput => return Ok(()),
            BrotliResult::ResultSuccess if left > 0 => return Err(corrupt("something stands behind its end")),
            BrotliResult::ResultSuccess => {
                *ended = true;
                return Ok(());
            }
            BrotliResult::ResultFailure => return Err(corrupt("it is no Brotli")),
        }
    }
}

fn zstd(
    decoder: &mut Decoder<'static>,
    ended: &mut bool,
    input: &[u8],
    budget: &mut Budget,
    output: &mut Vec<u8>,
) -> Result<(), InflateError> {
    let mut input = InBuffer::around(input);
    let mut piece = [0; MADE_BYTES];
    loop {
        let mut into = OutBuffer::around(&mut piece[..]);
        let hint = decoder.run(&mut input, &mut into).map_err(InflateError::Corrupt)?;
        let made = into.as_slice();
        budget.make(made.len())?;
        output.extend_from_slice(made);
        let is_full = made.len() == MADE_BYTES;
        *ended = hint == 0;
        // A full piece may have left something behind in the decoder, but not at the end of a frame.
        if input.pos() == input.src.len() && (*ended || !is_full) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(pieces: &[&[u8]]) -> Result<Vec<u8>, InflateError> {
        inflate_as("gzip", pieces)
    }

    fn inflate_as(encoding: &str, pieces: &[&[u8]]) -> Result<Vec<u8>, InflateError> {
        let mut inflate = Inflate::of(encoding).unwrap();
        let mut output = Vec::new();
        for piece in pieces {
            output.extend(inflate.push(piece)?);
        }
        output.extend(inflate.finish()?);
        Ok(output)
    }

    #[test]
    fn members_and_single_bytes_inflate_to_the_whole() {
        let mut bytes = gzip(b"first ");
        bytes.extend(gzip(b"second"));
        assert_eq!(inflate(&[&bytes]).unwrap(), b"first second");
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(inflate(&single).unwrap(), b"first second");
    }

    #[test]
    fn a_cut_stream_and_a_wrong_checksum_are_errors() {
        let bytes = gzip(&[7; 1000]);
        assert!(matches!(inflate(&[&bytes[..bytes.len() - 3]]), Err(InflateError::Corrupt(_))));
        assert!(matches!(inflate(&[&bytes[..bytes.len() / 2]]), Err(InflateError::Corrupt(_))));
        let mut wrong = bytes.clone();
        let crc = wrong.len() - 6;
        wrong[crc] ^= 1;
        assert!(matches!(inflate(&[&wrong]), Err(InflateError::Corrupt(_))));
    }

    #[test]
    fn a_bomb_is_stopped_soon_after_the_grace() {
        let bytes = gzip(&vec![0; 64 * 1024 * 1024]);
        let mut inflate = Inflate::of("gzip").unwrap();
        assert!(matches!(inflate.push(&bytes), Err(InflateError::Ratio)));
        assert!(inflate.budget.made < 8 * 1024 * 1024, "{}", inflate.budget.made);
    }

    /// Made by Node's zlib: a line of JSON forty times, and 64 MiB of zeros.
    const BROTLI: &str = "G18E+C0K7AZ5sZbpwsI7HS2hHN9LS5GYvg4URPUdOqnAQla6NFgrWOFaOf9wJgY=";
    const BROTLI_BOMB: &str = "y///P/gnAOKxQCD3/o///3/wTwDEYRGA7v0f////4J8AiMMCAN37P/7//8E/ARCHBQC693/8//+DfwIgDgsAdO//+P//B/8EQBwWAOje//H//w/+CYA4LADQvf/L//8//BMAcVgAoHv/Bw==";

    fn text() -> Vec<u8> {
        "{\"id\":1,\"name\":\"まとめ\"}\n".repeat(40).into_bytes()
    }

    #[test]
    fn brotli_and_zstd_inflate_in_pieces_of_any_size() {
        let brotli = STANDARD.decode(BROTLI).unwrap();
        let mut frames = zstd::encode_all(&text()[..100], 3).unwrap();
        frames.extend(zstd::encode_all(&text()[100..], 3).unwrap());
        for (encoding, bytes) in [("br", brotli), ("zstd", frames)] {
            assert_eq!(inflate_as(encoding, &[&bytes]).unwrap(), text(), "{encoding}");
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(inflate_as(encoding, &single).unwrap(), text(), "{encoding}");
            // Between two frames a text may end.
            for end in [1, 20, bytes.len() - 1] {
                let cut = inflate_as(encoding, &[&bytes[..end]]);
                assert!(matches!(cut, Err(InflateError::Corrupt(_))), "{encoding} up to {end}");
            }
            let broken = inflate_as(encoding, &[b"this is not compressed at all"]);
            assert!(matches!(broken, Err(InflateError::Corrupt(_))), "{encoding}");
            assert_eq!(inflate_as(encoding, &[]).unwrap(), b"", "{encoding}");
        }
        assert!(Inflate::of("compress").is_none());
        let behind = [STANDARD.decode(BROTLI).unwrap(), b"more".to_vec()].concat();
        assert!(matches!(inflate_as("br", &[&behind]), Err(InflateError::Corrupt(_))));
    }

    #[test]
    fn deflate_inflates_with_the_header_of_zlib_and_without() {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&text()).unwrap();
        let mut bare = flate2::write::DeflateEncoder::new(Vec::new(), Compression::default());
        bare.write_all(&text()).unwrap();
        for bytes in [zlib.finish().unwrap(), bare.finish().unwrap()] {
            assert_eq!(inflate_as("deflate", &[&bytes]).unwrap(), text());
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(inflate_as("deflate", &single).unwrap(), text());
            for end in [1, 20, bytes.len() - 1] {
                let cut = inflate_as("deflate", &[&bytes[..end]]);
                assert!(matches!(cut, Err(InflateError::Corrupt(_))), "up to {end}");
            }
            let behind = [&bytes[..], b"more"].concat();
            assert!(matches!(inflate_as("deflate", &[&behind]), Err(InflateError::Corrupt(_))));
        }
        let broken = inflate_as("deflate", &[b"this is not compressed at all"]);
        assert!(matches!(broken, Err(InflateError::Corrupt(_))));
        assert_eq!(inflate_as("deflate", &[]).unwrap(), b"");
    }

    #[test]
    fn a_long_text_of_zstd_comes_whole_though_a_step_makes_more_than_a_piece() {
        let text: Vec<u8> = (0..400_000_u32).flat_map(|n| format!("{n} ").into_bytes()).collect();
        let bytes = zstd::encode_all(&text[..], 3).unwrap();
        assert_eq!(inflate_as("zstd", &[&bytes]).unwrap(), text);
    }

    #[test]
    fn bombs_of_the_others_are_stopped_soon_after_the_grace() {
        let zeros = zstd::encode_all(&vec![0; 64 * 1024 * 1024][..], 3).unwrap();
        let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
        deflated.write_all(&vec![0; 64 * 1024 * 1024]).unwrap();
        let deflated = deflated.finish().unwrap();
        for (encoding, bytes) in [("br", STANDARD.decode(BROTLI_BOMB).unwrap()), ("zstd", zeros), ("deflate", deflated)]
        {
            let mut inflate = Inflate::of(encoding).unwrap();
            assert!(matches!(inflate.push(&bytes), Err(InflateError::Ratio)), "{encoding}");
            assert!(inflate.budget.made < 2 * 1024 * 1024, "{encoding}: {}", inflate.budget.made);
        }
    }
}
