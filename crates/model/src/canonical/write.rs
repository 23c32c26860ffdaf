//! Writing JSON in the escapes of the canonical form, for readers that build records from rows.

use super::string::{next_special, push_escaped};

/// Appends `text` as a JSON string, quotes included, with the escapes of the canonical form.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut from = 0;
    loop {
        let at = next_special(bytes, from);
        out.extend_from_slice(&bytes[from..at]);
        let Some(&byte) = bytes.get(at) else { break };
        push_escaped(out, byte);
        from = at + 1;
    }
    out.push(b'"');
}

/// Writes one JSON object member by member; the [`Canonicaliser`](super::Canonicaliser) sorts and checks it afterwards.
///
/// ```
/// use matome_model::canonical::ObjectWriter;
///
/// let mut out = Vec::new();
/// let mut row = ObjectWriter::begin(&mut out);
/// row.string("name", "say \"hi\"");
/// row.raw("total", "12.5");
/// row.end();
/// assert_eq!(out, br#"{"name":"say \"hi\"","total":12.5}"#);
/// ```
#[derive(Debug)]
pub struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> ObjectWriter<'a> {
    /// Opens an object at the end of `out`.
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Adds a string.
    pub fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        write_string(self.out, value);
    }

    /// Adds a value that is JSON text already: a number, `true`, `null`, a whole array or object.
    pub fn raw(&mut self, key: &str, json: &str) {
        self.key(key);
        self.out.extend_from_slice(json.as_bytes());
    }

    /// Closes the object.
    pub fn end(self) {
        self.out.push(b'}');
    }

    fn key(&mut self, key: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        write_string(self.out, key);
        self.out.push(b':');
    }
}
