//! How the blocks of a container are compressed.

use std::io::{self, Read};

use matome_model::field_error::Words;

use crate::FileError;

/// What a zstd frame may look back: as much as `zstd -d` takes by itself.
const ZSTD_WINDOW_LOG: u32 = 27;
/// What an xz stream may ask for; `xz -9` needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 96 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
    Bzip2,
    Xz,
}

impl Codec {
    /// The codecs of the specification.
    const ALL: [(&'static str, Self); 6] = [
        ("null", Self::Null),
        ("deflate", Self::Deflate),
        ("snappy", Self::Snappy),
        ("zstandard", Self::Zstandard),
        ("bzip2", Self::Bzip2),
        ("xz", Self::Xz),
    ];

    /// The one that `avro.codec` names.
    pub(super) fn named(name: &str) -> Result<Self, FileError> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, codec)| *codec).ok_or_else(|| {
            let known: Vec<String> = Self::ALL.iter().map(|(name, _)| format!("`{name}`")).collect();
            let (name, known) = (name.chars().take(100).collect::<String>(), known.join(", "));
            FileError::Broken(Words::new(
                format!("its codec `{name}` is not known; write it with one of {known}"),
                format!("圧縮方式 `{name}` は読めません。{known} のどれかで書き出してください"),
            ))
        })
    }

    /// What is inside, at most `limit` bytes.
    pub(super) fn inflate(self, stored: Vec<u8>, limit: usize) -> Result<Vec<u8>, (String, String)> {
        let inflated = match self {
            Self::Null => return Ok(stored),
            Self::Snappy => return snappy(&stored, limit),
            Self::Deflate => all(flate2::read::DeflateDecoder::new(stored.as_slice()), limit),
            Self::Bzip2 => all(bzip2::read::BzDecoder::new(stored.as_slice()), limit),
            Self::Xz => all(lzma_rust2::XzReader::new_mem_limit(stored.as_slice(), true, XZ_MEMORY_KIB), limit),
            Self::Zstandard => zstd::stream::read::Decoder::with_buffer(stored.as_slice()).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                all(decoder, limit)
            }),
        };
        let inflated = inflated
            .map_err(|error| (format!("it can not be decompressed: {error}"), format!("展開できません: {error}")))?;
        if inflated.len() > limit { Err(too_large(limit)) } else { Ok(inflated) }
    }
}

/// One byte more than the limit tells that there are more.
fn all(reader: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut inflated = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut inflated)?;
    Ok(inflated)
}

fn too_large(limit: usize) -> (String, String) {
    (
        format!("it inflates to more than the limit of {limit} bytes"),
        format!("展開すると上限の {limit} バイトを超えます"),
    )
}

/// A raw block of Snappy, and the checksum of what is inside.
fn snappy(stored: &[u8], limit: usize) -> Result<Vec<u8>, (String, String)> {
    let broken = |error: &dyn std::fmt::Display| {
        (format!("it can not be decompressed: {error}"), format!("展開できません: {error}"))
    };
    let Some((inside, checksum)) = stored.split_last_chunk::<4>() else { return Err(broken(&"it has no checksum")) };
    let length = snap::raw::decompress_len(inside).map_err(|error| broken(&error))?;
    if length > limit {
        return Err(too_large(limit));
    }
    let inflated = snap::raw::Decoder::new().decompress_vec(inside).map_err(|error| broken(&error))?;
    let mut crc = flate2::Crc::new();
    crc.update(&inflated);
    match crc.sum() == u32::from_be_bytes(*checksum) {
        true => Ok(inflated),
        false => Err(("its checksum is wrong".to_owned(), "チェックサムが合いません".to_owned())),
    }
}
