//! The scanner: walks a document once and writes its canonical text as it goes.
//!
//! Members are written where they are met. Only when the keys of an object turn out to be unsorted are its members put in
//! order, at its closing brace, as whole spans of text.

use std::cmp::Ordering;

use super::Limits;
use super::number::{NumberError, write_number};
use super::reason::{QuarantineReason, Rejected};
use super::string::{Decoded, copy_string};
use crate::say;

/// Memory that is kept between records.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The canonical text so far.
    pub(super) out: Vec<u8>,
    /// Objects and arrays that are open.
    open: Vec<Open>,
    /// Members of all open objects, the innermost object's last.
    members: Vec<Member>,
    /// One object while it is put in order.
    sorted: Vec<u8>,
}

impl Buffers {
    pub(super) fn clear(&mut self) {
        self.out.clear();
        self.open.clear();
        self.members.clear();
    }
}

#[derive(Clone, Copy, Debug)]
enum Open {
    Array,
    Object {
        /// Where its first member starts in `out`.
        start: usize,
        /// Its first entry in `members`.
        members: usize,
        /// Whether its keys came in ascending order so far.
        ascending: bool,
    },
}

/// One `"key":value` in `out`.
#[derive(Clone, Copy, Debug)]
struct Member {
    /// The first eight bytes of the unescaped key, zero-filled: most comparisons end here. No key holds a zero byte.
    prefix: u64,
    /// The opening quote of the key.
    start: usize,
    /// The closing quote of the key.
    key_end: usize,
    /// Behind the value; set when the value is complete.
    end: usize,
    /// Whether the key holds escapes, so that its text does not sort as its value.
    escaped: bool,
    /// Where the key stands in the record.
    offset: usize,
}

impl Member {
    fn key<'a>(&self, out: &'a [u8]) -> &'a [u8] {
        &out[self.start + 1..self.key_end]
    }

    fn compare(&self, other: &Self, out: &[u8]) -> Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| {
            let (a, b) = (self.key(out), other.key(out));
            if self.escaped || other.escaped { Decoded(a.iter()).cmp(Decoded(b.iter())) } else { a.cmp(b) }
        })
    }
}

pub(super) struct Scan<'a> {
    raw: &'a [u8],
    at: usize,
    limits: &'a Limits,
    buffers: &'a mut Buffers,
}

impl<'a> Scan<'a> {
    /// A scan of `raw`, which is known to be UTF-8, into empty buffers.
    pub(super) fn new(raw: &'a [u8], limits: &'a Limits, buffers: &'a mut Buffers) -> Self {
        Self { raw, at: 0, limits, buffers }
    }

    /// Reads one value and nothing else; it must be an object.
    pub(super) fn document(mut self) -> Result<(), Rejected> {
        if self.raw.starts_with(b"\xef\xbb\xbf") {
            let detail = ("record starts with a byte order mark", "レコードがバイト順マークで始まっています");
            return Err(Rejected::invalid_json(0, detail));
        }
        self.skip_whitespace();
        let start = self.at;
        self.value()?;
        self.skip_whitespace();
        if self.at < self.raw.len() {
            let detail = match self.raw[self.at] {
                b'{' | b'[' => ("a second document follows the first", "一つ目の文書のあとに二つ目が続いています"),
                _ => ("something follows the end of the document", "文書の終わりのあとに何かが続いています"),
            };
            return Err(Rejected::invalid_json(self.at, detail));
        }
        // Judged last, so that what is no JSON at all is called so.
        let kind = match self.raw[start] {
            b'{' => return Ok(()),
            b'[' => ("an array", "配列"),
            b'"' => ("a string", "文字列"),
            b't' | b'f' => ("a boolean", "真偽値"),
            b'n' => ("null", "null"),
            _ => ("a number", "数値"),
        };
        let (kind, kind_in_japanese) = kind;
        let detail = say!("record is {kind}, not an object", "レコードがオブジェクトではなく{kind_in_japanese}です");
        Err(Rejected::new(QuarantineReason::NotObject, start, detail))
    }

    /// Reads one value with all that is in it; stands on its first byte before and behind it after.
    fn value(&mut self) -> Result<(), Rejected> {
        loop {
            match self.raw.get(self.at) {
                Some(b'"') => self.string()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b'{') => {
                    self.open_object()?;
                    if self.peek_after_whitespace() != Some(b'}') {
                        self.key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.open(Open::Array, b'[')?;
                    if self.peek_after_whitespace() != Some(b']') {
                        continue;
                    }
                }
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                _ => return Err(self.expected(("a value", "値"))),
            }
            if !self.next_in_container()? {
                return Ok(());
            }
        }
    }

    /// After a value or an opening bracket: closes what ends here; false when nothing is open any more, else stands on the next value.
    fn next_in_container(&mut self) -> Result<bool, Rejected> {
        loop {
            let Some(open) = self.buffers.open.last().copied() else {
                return Ok(false);
            };
            let next = self.peek_after_whitespace();
            match (open, next) {
                (Open::Array, Some(b',')) => {
                    self.buffers.out.push(b',');
                    self.at += 1;
                    self.skip_whitespace();
                    return Ok(true);
                }
                (Open::Array, Some(b']')) => {
                    self.buffers.out.push(b']');
                    self.buffers.open.pop();
                    self.at += 1;
                }
                (Open::Object { .. }, Some(b',')) => {
                    self.end_member();
                    self.buffers.out.push(b',');
                    self.at += 1;
                    self.skip_whitespace();
                    self.key()?;
                    return Ok(true);
                }
                (Open::Object { start, members, ascending }, Some(b'}')) => {
                    if self.buffers.members.len() > members {
                        self.end_member();
                    }
                    if !ascending {
                        self.sort_members(start, members)?;
                    }
                    self.buffers.members.truncate(members);
                    self.buffers.out.push(b'}');
                    self.buffers.open.pop();
                    self.at += 1;
                }
                (Open::Array, _) => return Err(self.expected(("`,` or `]`", "`,` か `]` "))),
                (Open::Object { .. }, _) => return Err(self.expected(("`,` or `}`", "`,` か `}` "))),
            }
        }
    }

    fn open_object(&mut self) -> Result<(), Rejected> {
        let object =
            Open::Object { start: self.buffers.out.len() + 1, members: self.buffers.members.len(), ascending: true };
        self.open(object, b'{')
    }

    fn open(&mut self, open: Open, bracket: u8) -> Result<(), Rejected> {
        if self.buffers.open.len() >= self.limits.depth {
            let depth = self.limits.depth;
            let detail =
                say!("record is nested deeper than {depth} levels", "レコードの入れ子が {depth} 段を超えています");
            return Err(Rejected::new(QuarantineReason::Depth, self.at, detail));
        }
        self.buffers.open.push(open);
        self.buffers.out.push(bracket);
        self.at += 1;
        Ok(())
    }

    /// Reads a key with its colon and stands on the value.
    fn key(&mut self) -> Result<(), Rejected> {
        let offset = self.at;
        if self.raw.get(offset) != Some(&b'"') {
            return Err(self.expected(("a key in double quotes", "二重引用符で囲んだキー")));
        }
        let start = self.buffers.out.len();
        let copied = copy_string(self.raw, offset, &mut self.buffers.out)?;
        if copied.decoded_bytes > self.limits.key_bytes {
            let (size, limit) = (copied.decoded_bytes, self.limits.key_bytes);
            let detail = say!(
                "key of {size} bytes is longer than the limit of {limit}",
                "{size} バイトのキーは上限の {limit} バイトを超えています"
            );
            return Err(Rejected::new(QuarantineReason::KeyLimit, offset, detail));
        }
        let key_end = self.buffers.out.len() - 1;
        let text = &self.buffers.out[start + 1..key_end];
        let member =
            Member { prefix: prefix(text, copied.escaped), start, key_end, end: 0, escaped: copied.escaped, offset };
        self.add_member(member)?;

        self.at = copied.end;
        if self.peek_after_whitespace() != Some(b':') {
            return Err(self.expected(("`:` after a key", "キーのあとの `:`")));
        }
        self.buffers.out.push(b':');
        self.at += 1;
        self.skip_whitespace();
        Ok(())
    }

    fn add_member(&mut self, member: Member) -> Result<(), Rejected> {
        let Buffers { out, open, members, .. } = &mut *self.buffers;
        let Some(Open::Object { members: first, ascending, .. }) = open.last_mut() else {
            unreachable!("keys are read in objects only")
        };
        let before = &members[*first..];
        if before.len() >= self.limits.keys {
            let limit = self.limits.keys;
            let detail = say!("object has more than {limit} keys", "オブジェクトのキーが {limit} 個を超えています");
            return Err(Rejected::new(QuarantineReason::KeysLimit, member.offset, detail));
        }
        if *ascending && let Some(last) = before.last() {
            match last.compare(&member, out) {
                Ordering::Less => {}
                Ordering::Equal => return Err(duplicate_key(&member, out)),
                Ordering::Greater => *ascending = false,
            }
        }
        members.push(member);
        Ok(())
    }

    fn end_member(&mut self) {
        let end = self.buffers.out.len();
        let member = self.buffers.members.last_mut();
        member.expect("a value in an object follows its key").end = end;
    }

    /// Puts the members of the object that ends here in order, in place.
    fn sort_members(&mut self, start: usize, first: usize) -> Result<(), Rejected> {
        let Buffers { out, members, sorted, .. } = &mut *self.buffers;
        let members = &mut members[first..];
        members.sort_unstable_by(|a, b| a.compare(b, out));
        for pair in members.windows(2) {
            if pair[0].compare(&pair[1], out) == Ordering::Equal {
                let later = if pair[0].offset > pair[1].offset { &pair[0] } else { &pair[1] };
                return Err(duplicate_key(later, out));
            }
        }
        sorted.clear();
        for member in members.iter() {
            if !sorted.is_empty() {
                sorted.push(b',');
            }
            sorted.extend_from_slice(&out[member.start..member.end]);
        }
        out[start..].copy_from_slice(sorted);
        Ok(())
    }

    fn string(&mut self) -> Result<(), Rejected> {
        let copied = copy_string(self.raw, self.at, &mut self.buffers.out)?;
        if copied.decoded_bytes > self.limits.string_bytes {
            let (size, limit) = (copied.decoded_bytes, self.limits.string_bytes);
            let detail = say!(
                "string of {size} bytes is longer than the limit of {limit}",
                "{size} バイトの文字列は上限の {limit} バイトを超えています"
            );
            return Err(Rejected::new(QuarantineReason::StringLimit, self.at, detail));
        }
        self.at = copied.end;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Rejected> {
        let limits = self.limits;
        let written = write_number(self.raw, self.at, limits.number_digits, &mut self.buffers.out);
        let end = written.map_err(|err| match err {
            NumberError::Malformed { offset, what } => Rejected::invalid_json(offset, what),
            NumberError::TooLong { digits, limit } => {
                let detail = say!(
                    "number has {digits} digits written out, more than the limit of {limit}",
                    "数値を書き下すと {digits} 桁になり、上限の {limit} 桁を超えます"
                );
                Rejected::new(QuarantineReason::NumberLimit, self.at, detail)
            }
        })?;
        // Only numbers can be longer in canonical form than they came, so here the text is kept from growing past its limit.
        if self.buffers.out.len() > limits.record_bytes {
            return Err(expanded_past_limit(self.at, limits.record_bytes));
        }
        self.at = end;
        Ok(())
    }

    fn literal(&mut self, literal: &'static str) -> Result<(), Rejected> {
        if !self.raw[self.at..].starts_with(literal.as_bytes()) {
            return Err(self.expected(("a value", "値")));
        }
        self.buffers.out.extend_from_slice(literal.as_bytes());
        self.at += literal.len();
        Ok(())
    }

    #[inline]
    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.raw.get(self.at) {
            self.at += 1;
        }
    }

    #[inline]
    fn peek_after_whitespace(&mut self) -> Option<u8> {
        self.skip_whitespace();
        self.raw.get(self.at).copied()
    }

    fn expected(&self, (what, what_in_japanese): (&str, &str)) -> Rejected {
        let rest = std::str::from_utf8(&self.raw[self.at..]).unwrap_or_default();
        let detail = match rest.chars().next() {
            None => say!(
                "record ends where {what} was expected",
                "{what_in_japanese}があるはずの場所でレコードが終わっています"
            ),
            Some(found) => {
                let found = found.escape_debug();
                say!(
                    "found `{found}` where {what} was expected",
                    "{what_in_japanese}があるはずの場所に `{found}` があります"
                )
            }
        };
        Rejected::invalid_json(self.at, detail)
    }
}

pub(super) fn expanded_past_limit(offset: usize, limit: usize) -> Rejected {
    let detail = say!(
        "record with its numbers written out is longer than the limit of {limit} bytes",
        "数値を書き下したレコードが上限の {limit} バイトを超えます"
    );
    Rejected::new(QuarantineReason::RecordLimit, offset, detail)
}

fn duplicate_key(member: &Member, out: &[u8]) -> Rejected {
    const SHOWN_CHARS: usize = 60;
    let key = String::from_utf8_lossy(member.key(out));
    let mut shown: String = key.chars().take(SHOWN_CHARS).collect();
    if shown.len() < key.len() {
        shown.push('…');
    }
    let detail = say!("key `{shown}` appears twice in one object", "一つのオブジェクトにキー `{shown}` が二度あります");
    Rejected::new(QuarantineReason::DuplicateKey, member.offset, detail)
}

/// The first eight bytes of the key's value, such that a smaller prefix means a smaller key.
fn prefix(text: &[u8], escaped: bool) -> u64 {
    if !escaped && let Some(first) = text.first_chunk::<8>() {
        return u64::from_be_bytes(*first);
    }
    let mut bytes = [0; 8];
    if escaped {
        for (slot, byte) in bytes.iter_mut().zip(Decoded(text.iter())) {
            *slot = byte;
        }
    } else {
        bytes[..text.len()].copy_from_slice(text);
    }
    u64::from_be_bytes(bytes)
}
