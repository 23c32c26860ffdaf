//! One record of a document by itself, its bytes as they were in the source: taken apart by what the config says today.

use std::sync::Arc;

use encoding_rs::UTF_8;
use matome_model::canonical::QuarantineReason;
use matome_model::field_error::Words;
use matome_model::say;

use super::config::{DocumentConfig, Format, Header};
use super::document::Document;
use super::text::{Charset, Decoding};
use super::xml::XmlPath;
use crate::json::JsonPath;
use crate::record::{DocumentError, Found, Item};

/// Reads single records of documents of one kind.
#[derive(Clone, Debug)]
pub struct RowReader {
    config: DocumentConfig,
}

impl RowReader {
    /// `None` where records are JSON in UTF-8 in the document already, or no text at all.
    pub(crate) fn new(config: &DocumentConfig) -> Option<Self> {
        let is_of_config = match config.format {
            Format::Csv | Format::Fixed | Format::Xml => true,
            Format::Ndjson | Format::Json => config.encoding != Charset::Declared(UTF_8),
            Format::Parquet | Format::Avro | Format::Excel => false,
        };
        is_of_config.then(|| Self { config: config.clone() })
    }

    pub(super) fn config(&self) -> &DocumentConfig {
        &self.config
    }

    /// Makes JSON of the bytes of one record, which were rejected for `reason`. `fields`: the names of the columns, where the first row
    /// of the document had them.
    ///
    /// # Errors
    /// Why it is still none.
    pub fn read(
        &self,
        raw: &[u8],
        fields: Option<Vec<String>>,
        reason: QuarantineReason,
    ) -> Result<Vec<u8>, (QuarantineReason, Words)> {
        let mut config = self.config.clone();
        config.records = JsonPath::root();
        config.xml = XmlPath::root();
        if config.format == Format::Csv && !matches!(config.csv.header, Header::Named(_)) {
            let Some(fields) = fields else {
                let words = Words::new(
                    "the names of its columns were not kept with it: give the record as a JSON object, or read the source anew \
                     (`matome source run NAME --full`)",
                    "列の名前が一緒に残っていません。レコードを JSON オブジェクトで指定するか、データソースを読み直してください \
                     (`matome source run NAME --full`)",
                );
                return Err((reason, words));
            };
            config.csv.header = Header::Named(fields);
        }
        if config.format != Format::Xml {
            // One record is too little to detect an encoding by. And what was decoded as a stream is kept decoded, unless its bytes
            // were the trouble.
            let is_decoded = |encoding| matches!(Decoding::of(&config, encoding), Decoding::Stream(_));
            let is_text = match config.encoding {
                Charset::Detected => true,
                Charset::Declared(encoding) => reason != QuarantineReason::Encoding && is_decoded(encoding),
            };
            if is_text {
                config.encoding = Charset::Declared(UTF_8);
            }
        }
        let format = config.format;
        let mut found = Found::new("".into(), None, 0);
        let fed = Document::new(Arc::new(config)).feed(raw, true, &mut found);
        let mut items = found.take(usize::MAX, usize::MAX);
        let broken = |problem: Words| {
            let reason = match format {
                Format::Csv | Format::Fixed => QuarantineReason::CsvWidth,
                Format::Xml => QuarantineReason::InvalidXml,
                _ => QuarantineReason::InvalidJson,
            };
            Err((reason, reason.told(&problem)))
        };
        match (fed, items.pop(), items.len()) {
            (Ok(()), Some(Item::Record { raw, .. }), 0) => Ok(raw),
            (Ok(()), Some(Item::Rejected { reason, detail, .. }), 0) => Err((reason, detail)),
            (Err(DocumentError { problem, .. }), ..) => broken(problem),
            (Ok(()), None, _) => broken(Words::new("there is no record in it", "レコードがありません")),
            (Ok(()), Some(_), others) => {
                let count = others + 1;
                broken(say!(
                    "by the config of today it is {count} records and not one",
                    "今の config では1件ではなく {count} 件のレコードになります"
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use matome_model::source::SourceType;

    use super::*;
    use crate::{ParsedConfig, validate_config};

    fn reader(options: &str) -> Option<RowReader> {
        match validate_config(SourceType::File, &format!(r#"{{"path":"a",{options}}}"#)).unwrap() {
            ParsedConfig::File(config) => RowReader::new(&config.document),
            other => panic!("{other:?}"),
        }
    }

    fn read(options: &str, raw: &[u8], fields: &[&str], reason: QuarantineReason) -> Result<String, QuarantineReason> {
        let fields = (!fields.is_empty()).then(|| fields.iter().map(|&name| name.to_owned()).collect());
        let read = reader(options).unwrap().read(raw, fields, reason);
        read.map(|json| String::from_utf8(json).unwrap()).map_err(|(reason, _)| reason)
    }

    #[test]
    fn a_row_is_read_by_the_config_of_today() {
        use QuarantineReason::{CsvQuote, CsvWidth, Encoding, InvalidUtf8, InvalidXml, Schema};
        let tokyo = [0x93, 0x8c, 0x8b, 0x9e, b',', b'1'];
        let csv = r#""format":"csv","encoding":"shift_jis""#;
        assert_eq!(read(csv, &tokyo, &["店", "額"], InvalidUtf8).unwrap(), r#"{"店":"東京","額":"1"}"#);
        assert_eq!(read(r#""format":"csv""#, &tokyo, &["店", "額"], InvalidUtf8), Err(InvalidUtf8));
        assert_eq!(read(r#""format":"csv","encoding":"auto""#, &tokyo, &["店", "額"], Encoding), Err(InvalidUtf8));
        assert_eq!(read(csv, &tokyo, &[], InvalidUtf8), Err(InvalidUtf8), "its header is not known");
        let named = r#""format":"csv","encoding":"shift_jis","header":["a","b"]"#;
        assert_eq!(read(named, &tokyo, &[], InvalidUtf8).unwrap(), r#"{"a":"東京","b":"1"}"#);
        let typed = r#""format":"csv","types":{"n":"integer"}"#;
        assert_eq!(read(typed, b"x,7", &["s", "n"], Schema).unwrap(), r#"{"s":"x","n":7}"#);
        assert_eq!(read(typed, b"x,y", &["s", "n"], Schema), Err(Schema));
        assert_eq!(read(r#""format":"csv""#, b"1,2,3", &["a", "b"], CsvWidth), Err(CsvWidth));
        assert_eq!(
            read(r#""format":"csv""#, b"1,2\n3,4", &["a", "b"], CsvWidth),
            Err(CsvWidth),
            "two rows are not one"
        );
        let bare = r#""format":"csv","quote":false"#;
        assert_eq!(read(bare, br#"1,5" pipe"#, &["n", "s"], CsvQuote).unwrap(), r#"{"n":"1","s":"5\" pipe"}"#);

        let fixed = r#""format":"fixed","encoding":"shift_jis","unit":"bytes","columns":[{"name":"s","width":4},{"name":"n","width":1}]"#;
        let row = [0x93, 0x8c, 0x8b, 0x9e, b'1'];
        assert_eq!(read(fixed, &row, &[], InvalidUtf8).unwrap(), r#"{"s":"東京","n":"1"}"#);
        let xml = r#""format":"xml","records":"catalog/book""#;
        assert!(read(xml, b"<book><t>a</t></book>", &[], InvalidXml).unwrap().contains(r#""t":"a""#));
        assert_eq!(read(xml, b"<book><t>&nope;</t></book>", &[], InvalidXml), Err(InvalidXml));
        let lines = r#""format":"ndjson","encoding":"shift_jis""#;
        let line = [b"{\"s\":\"".as_slice(), &tokyo[..4], b"\"}"].concat();
        assert_eq!(read(lines, &line, &[], InvalidUtf8).unwrap(), r#"{"s":"東京"}"#);
    }

    #[test]
    fn what_was_decoded_as_a_stream_is_not_decoded_again() {
        let utf16 = r#""format":"csv","encoding":"utf-16le","header":["a"]"#;
        assert_eq!(read(utf16, b"ab,cd", &[], QuarantineReason::CsvWidth), Err(QuarantineReason::CsvWidth));
        let wide: Vec<u8> = "東京".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(utf16, &wide, &[], QuarantineReason::Encoding).unwrap(), r#"{"a":"東京"}"#);
        assert_eq!(read(utf16, "東京".as_bytes(), &[], QuarantineReason::Schema).unwrap(), r#"{"a":"東京"}"#);
    }

    #[test]
    fn json_in_utf_8_and_what_is_no_text_need_none() {
        for options in [r#""format":"ndjson""#, r#""format":"json""#, r#""format":"parquet""#, r#""format":"excel""#] {
            assert!(reader(options).is_none(), "{options}");
        }
    }
}
