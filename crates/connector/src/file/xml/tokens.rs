//! Where tokens of XML end, so that the parser is never given half of one. It need not know what is well-formed: what it takes for
//! the end of a token is never before the one that the parser finds.

/// What stands at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Text,
    /// Behind a `<` there.
    Opened(usize),
    Tag,
    Until(&'static [u8]),
    DocType,
    /// A comment or an instruction in a document type.
    InDocType(&'static [u8]),
}

/// Looks for the ends of tokens in a text that grows.
#[derive(Default)]
pub(super) struct Tokens {
    at: At,
    /// How far the text is looked through.
    seen: usize,
    /// Up to where its tokens are whole.
    whole: usize,
    /// The quote that a value stands in.
    quote: Option<u8>,
    /// `<` that are open in a document type.
    depth: usize,
}

impl Tokens {
    /// The text has lost its first bytes.
    pub(super) fn forget(&mut self, bytes: usize) {
        self.seen -= bytes;
        self.whole -= bytes;
        if let At::Opened(start) = &mut self.at {
            *start -= bytes;
        }
    }

    /// Up to where the tokens of `text`, of which more may come, are whole.
    pub(super) fn whole(&mut self, text: &[u8]) -> usize {
        while self.step(text).is_some() {}
        self.whole
    }

    /// Goes on to the next part of a token; nothing when more has to come.
    fn step(&mut self, text: &[u8]) -> Option<()> {
        match self.at {
            At::Text => {
                let start = self.find(text, b"<")? - 1;
                self.at = At::Opened(start);
            }
            At::Opened(start) => {
                let rest = &text[start..];
                // As many bytes as tell a section of text from a document type.
                if rest.len() < 2 || rest.starts_with(b"<!") && rest.len() < 9 {
                    return None;
                }
                let (at, length) = match rest {
                    _ if rest.starts_with(b"<!--") => (At::Until(b"-->"), 4),
                    _ if rest.starts_with(b"<![CDATA[") => (At::Until(b"]]>"), 9),
                    _ if rest.starts_with(b"<?") => (At::Until(b"?>"), 2),
                    _ if rest.starts_with(b"<!") => (At::DocType, 2),
                    _ => (At::Tag, 1),
                };
                (self.at, self.seen, self.depth, self.quote) = (at, start + length, 1, None);
            }
            At::Tag => {
                while let Some(byte) = text.get(self.seen) {
                    self.seen += 1;
                    if *byte == b'>' && self.quote.is_none() {
                        return self.ended();
                    }
                    self.unquote(*byte);
                }
                return None;
            }
            At::Until(end) => {
                self.find(text, end)?;
                return self.ended();
            }
            At::InDocType(end) => {
                self.find(text, end)?;
                self.at = At::DocType;
            }
            At::DocType => return self.doc_type(text),
        }
        Some(())
    }

    fn doc_type(&mut self, text: &[u8]) -> Option<()> {
        while let Some(byte) = text.get(self.seen) {
            let rest = &text[self.seen..];
            match byte {
                b'<' if self.quote.is_none() => {
                    if rest.len() < 4 {
                        return None;
                    }
                    let inner = if rest.starts_with(b"<!--") {
                        Some((&b"-->"[..], 4))
                    } else if rest.starts_with(b"<?") {
                        Some((&b"?>"[..], 2))
                    } else {
                        None
                    };
                    if let Some((end, length)) = inner {
                        (self.at, self.seen) = (At::InDocType(end), self.seen + length);
                        return Some(());
                    }
                    self.depth += 1;
                }
                b'>' if self.quote.is_none() => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.seen += 1;
                        return self.ended();
                    }
                }
                byte => self.unquote(*byte),
            }
            self.seen += 1;
        }
        None
    }

    fn unquote(&mut self, byte: u8) {
        match self.quote {
            None if matches!(byte, b'"' | b'\'') => self.quote = Some(byte),
            Some(quote) if quote == byte => self.quote = None,
            _ => {}
        }
    }

    /// Behind the next `needle`; without one, behind what can not be a part of it.
    fn find(&mut self, text: &[u8], needle: &[u8]) -> Option<usize> {
        let found = text[self.seen..].windows(needle.len()).position(|part| part == needle);
        match found {
            Some(at) => {
                self.seen += at + needle.len();
                Some(self.seen)
            }
            None => {
                self.seen = self.seen.max((text.len() + 1).saturating_sub(needle.len()));
                None
            }
        }
    }

    fn ended(&mut self) -> Option<()> {
        (self.at, self.whole) = (At::Text, self.seen);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_whole_behind_their_ends_wherever_the_pieces_end() {
        for (text, whole) in [
            ("<a>x</a", "<a>"),
            ("<a b='>'>x", "<a b='>'>"),
            ("<a b=\"'>\"", ""),
            ("<!-- a > b --", ""),
            ("<!-- a > b -->x<", "<!-- a > b -->"),
            ("<![CDATA[>]]]]>x", "<![CDATA[>]]]]>"),
            ("<?x > ?>", "<?x > ?>"),
            (
                "<!DOCTYPE r [<!ENTITY a \">\"><!-- don't > --><?p '>?>]>x",
                "<!DOCTYPE r [<!ENTITY a \">\"><!-- don't > --><?p '>?>]>",
            ),
            ("<!DOCTYPE r [<!ENTITY a \">\">", ""),
            ("text", ""),
            ("<a/>\n<b/>\n", "<a/>\n<b/>"),
        ] {
            for step in [1, 2, 3, text.len()] {
                let (mut tokens, mut held, mut taken) = (Tokens::default(), Vec::new(), String::new());
                for piece in text.as_bytes().chunks(step) {
                    held.extend_from_slice(piece);
                    let end = tokens.whole(&held);
                    taken.push_str(std::str::from_utf8(&held[..end]).unwrap());
                    held.drain(..end);
                    tokens.forget(end);
                }
                assert_eq!(taken, whole, "{text} by {step}");
            }
        }
    }
}
