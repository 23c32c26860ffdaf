//! The first bytes of a file, or of a member of an archive, decompressed.

use std::io::{self, Read};

use encoding_rs::Encoding;
use globset::GlobMatcher;
use serde_json::{Map, Value};

use super::super::archive::{Archive, Member};
use super::super::compression::{Codec, Compression, Counted, Input, Meter, fill, start_of};
use super::super::config::{DocumentConfig, Format};
use super::super::directory;
use super::super::location::{Entry, Location, Shared};
use super::super::plan::beginning;
use super::super::text::{Guess, LOOK_BYTES, guess, of_xml};
use crate::error::ConnectorError;
use crate::record::Position;

/// The beginning of what is read.
pub(super) struct Head {
    /// Where it is.
    pub(super) position: Position,
    /// The name of the file, or of the member.
    pub(super) name: String,
    /// At most [`LOOK_BYTES`].
    pub(super) bytes: Vec<u8>,
    /// Whether these are all.
    pub(super) is_whole: bool,
    pub(super) codec: Option<Codec>,
    /// Members of the archive that could be read.
    pub(super) members: usize,
    /// The pattern of those of one format, where there are others.
    pub(super) member_pattern: Option<String>,
    /// Whether it is a zip archive that is a workbook.
    pub(super) is_workbook: bool,
    /// Bytes read of the file.
    pub(super) taken: u64,
}

impl Head {
    /// Reads it as a config with the options of `given` says.
    pub(super) fn read(
        location: &dyn Location,
        entry: &Entry,
        given: &Map<String, Value>,
    ) -> Result<Self, ConnectorError> {
        let failed = |action: &'static str| {
            let position = Box::new(beginning(&entry.name));
            move |source: io::Error| ConnectorError::io(*position, action, source)
        };
        let word = given.get("compression").and_then(Value::as_str).unwrap_or("auto");
        let compression = Compression::WORDS.iter().find(|(known, _)| *known == word);
        let mut compression = compression.map_or(Compression::Auto, |(_, compression)| *compression);
        let pattern = given.get("member").and_then(Value::as_str);
        let pattern = pattern.and_then(|pattern| super::super::roots::matcher(pattern).ok());
        let mut content = Shared::new(location.open(entry)?);
        let start = start_of(&mut content).map_err(failed("reading it"))?;
        io::Seek::rewind(&mut content).map_err(failed("reading it"))?;
        let meter = Meter::default();
        let mut head = Self {
            position: beginning(&entry.name),
            name: entry.name.to_string(),
            bytes: Vec::new(),
            is_whole: false,
            codec: compression.of(&start),
            members: 0,
            member_pattern: None,
            is_workbook: false,
            taken: 0,
        };
        if head.codec == Some(Codec::Zip) {
            content.fetch().map_err(failed("reading it"))?;
            let refuse = failed("decompressing it");
            let read = head.archive(content.clone(), &meter, compression, pattern.as_ref());
            if read.map_err(refuse)? {
                head.taken = meter.taken();
                return Ok(head);
            }
            // A workbook is an archive whose members are not read.
            (head.codec, compression) = (None, Compression::None);
        }
        let counted = Counted { inner: content, meter: meter.clone() };
        head.fill(counted, &meter, compression).map_err(failed("reading it"))?;
        head.taken = meter.taken();
        Ok(head)
    }

    /// Reads the beginning of a member; false: it is a workbook.
    fn archive(
        &mut self,
        content: Shared,
        meter: &Meter,
        compression: Compression,
        pattern: Option<&GlobMatcher>,
    ) -> io::Result<bool> {
        let mut archive = Archive::open(content, meter.clone())?;
        let members = archive.members(pattern)?;
        let has = |start: &str| members.iter().any(|member| member.name.starts_with(start));
        if pattern.is_none() && (has("xl/workbook.") || has("mimetype") && has("content.xml")) {
            self.is_workbook = true;
            return Ok(false);
        }
        self.members = members.len();
        let Some((member, pattern)) = most(&members) else {
            self.is_whole = true;
            return Ok(true);
        };
        self.member_pattern = pattern;
        self.name.clone_from(&member.name);
        self.position.document = format!("{}!/{}", self.position.document, member.name).into();
        let reader = archive.read(member)?;
        self.fill(reader, meter, compression.inside(false))?;
        Ok(true)
    }

    fn fill(&mut self, bytes: impl Read, meter: &Meter, compression: Compression) -> io::Result<()> {
        let mut input = Input::new(bytes, meter, compression)?;
        self.codec = self.codec.or(input.codec());
        self.bytes = vec![0; LOOK_BYTES];
        let read = fill(&mut input, &mut self.bytes)?;
        self.is_whole = read < LOOK_BYTES;
        self.bytes.truncate(read);
        Ok(())
    }

    /// Its text, and the encoding that it is in: the one that is `declared`, else what it says or looks like.
    pub(super) fn text(&self, declared: Option<&str>, document: &DocumentConfig) -> (Guess, String) {
        let declared = declared.and_then(|label| Encoding::for_label(label.as_bytes()));
        let known = match declared {
            None if document.format == Format::Xml => Some(of_xml(document, &self.bytes).0),
            declared => declared,
        };
        let guess = match known {
            Some(encoding) => Guess { encoding, rival: None },
            None => guess(&self.bytes, self.is_whole),
        };
        let (text, encoding, _) = guess.encoding.decode(&self.bytes);
        (Guess { encoding, ..guess }, text.into_owned())
    }
}

/// The first member of the format that most have, and the pattern of these if there are others.
fn most(members: &[Member]) -> Option<(&Member, Option<String>)> {
    let ending = |member: &Member| super::super::config::extension(&member.name);
    let known = |member: &&Member| directory::format_of(&member.name).is_some();
    let times = |member: &Member| members.iter().filter(|other| ending(other) == ending(member)).count();
    let best = members.iter().rev().filter(known).max_by_key(|member| times(member));
    let Some(best) = best else { return members.first().map(|first| (first, None)) };
    let pattern = (times(best) < members.len()).then(|| format!("**/*.{}", ending(best)));
    members.iter().find(|member| ending(member) == ending(best)).map(|first| (first, pattern))
}
