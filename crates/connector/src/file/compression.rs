//! From the bytes of a document to what they were before they were compressed, within limits.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

/// How much is read at once.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
/// Output beyond this share of the input is a bomb, not data.
const RATIO_LIMIT: u64 = 200;
/// Small files may compress better than the ratio says.
const RATIO_GRACE_BYTES: u64 = 1024 * 1024;
/// What a zstd stream may look back: 128 MiB, which is what `zstd -d` takes by itself.
const ZSTD_WINDOW_LOG: u32 = 27;
/// What an xz stream may ask for; `xz -9` needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 96 * 1024;
/// The longest of the first bytes that tell a compression.
const MAGIC_BYTES: usize = 10;

/// How documents are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As the first bytes of each say.
    Auto,
    /// The same, of documents that are archives themselves.
    AutoBesideArchives,
    /// Not at all.
    None,
    /// Always so.
    Always(Codec),
}

/// A way to compress, or to pack several documents into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// gzip, of one member or several.
    Gzip,
    /// Zstandard, of one frame or several.
    Zstd,
    /// bzip2, of one stream or several.
    Bzip2,
    /// xz, of one stream or several.
    Xz,
    /// A zip archive; each of its members is a document.
    Zip,
}

impl Compression {
    /// The words of a config.
    pub(crate) const WORDS: [(&'static str, Self); 7] = [
        ("auto", Self::Auto),
        ("none", Self::None),
        ("gzip", Self::Always(Codec::Gzip)),
        ("zstd", Self::Always(Codec::Zstd)),
        ("bzip2", Self::Always(Codec::Bzip2)),
        ("xz", Self::Always(Codec::Xz)),
        ("zip", Self::Always(Codec::Zip)),
    ];

    /// The codec of a document that begins so.
    pub(super) fn of(self, start: &[u8]) -> Option<Codec> {
        match self {
            Self::Auto => Codec::ALL.into_iter().find(|codec| codec.begins(start)),
            Self::AutoBesideArchives => Self::Auto.of(start).filter(|codec| *codec != Codec::Zip),
            Self::None => None,
            Self::Always(codec) => Some(codec),
        }
    }

    /// How what is no archive, or is inside of one, is compressed; `is_archive`: whether such a document is one itself.
    pub(super) fn inside(self, is_archive: bool) -> Self {
        match self {
            Self::Auto | Self::Always(Codec::Zip) if is_archive => Self::AutoBesideArchives,
            Self::Always(Codec::Zip) => Self::Auto,
            other => other,
        }
    }
}

impl Codec {
    const ALL: [Self; 5] = [Self::Gzip, Self::Zstd, Self::Bzip2, Self::Xz, Self::Zip];

    /// Its word in a config.
    pub(super) fn as_str(self) -> &'static str {
        let word = Compression::WORDS.iter().find(|(_, compression)| *compression == Compression::Always(self));
        word.map_or("none", |(word, _)| word)
    }

    /// The extensions that say it.
    pub(super) const EXTENSIONS: [&'static str; 5] = [".gz", ".zst", ".bz2", ".xz", ".zip"];

    fn begins(self, start: &[u8]) -> bool {
        match self {
            Self::Gzip => start.starts_with(&[0x1f, 0x8b]),
            Self::Zstd => start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
            // A text may begin with `BZh`; what follows is the number pi.
            Self::Bzip2 => {
                start.starts_with(b"BZh") && start.get(4..10) == Some(&[0x31, 0x41, 0x59, 0x26, 0x53, 0x59][..])
            }
            Self::Xz => start.starts_with(b"\xfd7zXZ\0"),
            Self::Zip => start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06"),
        }
    }
}

/// What was taken from a document, and what was made of it.
#[derive(Clone, Default)]
pub(super) struct Meter {
    taken: Arc<AtomicU64>,
    made: Arc<AtomicU64>,
    /// Whether the document itself could not be read, which is nothing that a codec says.
    failed: Arc<AtomicBool>,
}

impl Meter {
    /// Bytes taken from the document so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// One for a layer inside: of the same input, with its own output.
    fn inside(&self) -> Self {
        Self { made: Arc::default(), ..self.clone() }
    }
}

/// A document whose bytes are counted as they are taken.
pub(super) struct Counted<R> {
    pub(super) inner: R,
    pub(super) meter: Meter,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer).inspect_err(|_| self.meter.failed.store(true, Ordering::Relaxed))?;
        self.meter.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl<R: Seek> Seek for Counted<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to).inspect_err(|_| self.meter.failed.store(true, Ordering::Relaxed))
    }
}

/// What a codec makes, up to its limit; its errors say how far it came.
pub(super) struct Bounded<R> {
    pub(super) inner: R,
    pub(super) meter: Meter,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (taken, made) = (self.meter.taken(), self.meter.made.load(Ordering::Relaxed));
        let read = match self.inner.read(buffer) {
            Ok(read) => read as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted || self.meter.failed.load(Ordering::Relaxed) => {
                return Err(error);
            }
            Err(error) => {
                let taken = self.meter.taken();
                let message =
                    format!("{error} (within the first {taken} bytes, behind {made} bytes of what is inside)");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        };
        let made = made + read;
        self.meter.made.store(made, Ordering::Relaxed);
        if made > RATIO_GRACE_BYTES && made > taken.max(self.meter.taken()).saturating_mul(RATIO_LIMIT) {
            let message = format!("it inflates to more than {RATIO_LIMIT} times its size");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(usize::try_from(read).unwrap_or(buffer.len()))
    }
}

/// A document as it is read in order: decompressed if it is compressed.
pub(super) struct Input<'d> {
    inner: Box<dyn Read + 'd>,
    codec: Option<Codec>,
}

impl<'d> Input<'d> {
    /// Reads `document`, whose bytes `meter` counts. A zip archive is none that can be read so: it is an error.
    pub(super) fn new(mut document: impl Read + 'd, meter: &Meter, compression: Compression) -> io::Result<Self> {
        let start = start_of(&mut document)?;
        let codec = compression.of(&start);
        let whole = io::Cursor::new(start).chain(document);
        let meter = meter.inside();
        let buffered = |whole| BufReader::with_capacity(CHUNK_BYTES, whole);
        let inner: Box<dyn Read + 'd> = match codec {
            None => Box::new(whole),
            Some(Codec::Gzip) => Box::new(Bounded { inner: MultiGzDecoder::new(buffered(whole)), meter }),
            Some(Codec::Bzip2) => Box::new(Bounded { inner: MultiBzDecoder::new(buffered(whole)), meter }),
            Some(Codec::Xz) => {
                let inner = XzReader::new_mem_limit(buffered(whole), true, XZ_MEMORY_KIB);
                Box::new(Bounded { inner, meter })
            }
            Some(Codec::Zstd) => {
                let mut inner = zstd::stream::read::Decoder::with_buffer(buffered(whole))?;
                inner.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(Bounded { inner, meter })
            }
            Some(Codec::Zip) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "an archive inside of an archive is not read; take it out, or name the members to read with `member`",
                ));
            }
        };
        Ok(Self { inner, codec })
    }

    /// How it is compressed.
    pub(super) fn codec(&self) -> Option<Codec> {
        self.codec
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

/// The first bytes, which may say how the rest is compressed.
pub(super) fn start_of(document: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    document.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// Reads until `buffer` is full or the input ends.
pub(super) fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
