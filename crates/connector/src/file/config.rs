//! The options of a `file` source.

use std::collections::HashMap;
use std::sync::Arc;

use encoding_rs::Encoding;
use globset::GlobMatcher;
use matome_model::field_error::Words;
use matome_model::source::Dedupe;
use serde_json::Value;

use super::compression::{Codec, Compression};
use crate::config::{CommonConfig, FieldError, Fields, parse_common};
use crate::json::JsonPath;

/// How the bytes of a file, or of what is sent, are records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Ndjson,
    /// One JSON document; `records` says where the records are.
    Json,
    /// Rows of fields.
    Csv,
}

/// Where the names of CSV columns come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// The first row.
    FirstRow,
    /// There are none: `column_1`, `column_2`, ...
    Numbered,
    /// The config.
    Named(Vec<String>),
}

/// What the text of a CSV field becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// A string, as it is.
    String,
    /// A JSON number without fraction; empty is null.
    Integer,
    /// A JSON number; empty is null.
    Number,
    /// `true` or `false` (any case) as a JSON boolean; empty is null.
    Boolean,
    /// JSON text of any kind; empty is null.
    Json,
}

/// The types of all columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnTypes {
    /// These, and strings for the others.
    Declared(HashMap<String, ColumnType>),
    /// Each field on its own: numbers and booleans that would be written back exactly so; everything else a string.
    Infer,
}

/// The options of CSV.
#[derive(Clone, Debug)]
pub struct CsvConfig {
    /// `delimiter`: one ASCII character; default `,` (a tab for `.tsv`).
    pub delimiter: u8,
    /// `header`: true (default), false, or a list of names.
    pub header: Header,
    /// `types`: an object of column names and types, or `"infer"`; default: all strings.
    pub types: ColumnTypes,
}

/// How a document is taken apart.
#[derive(Clone, Debug)]
pub struct DocumentConfig {
    /// `format`: `ndjson`, `json` or `csv`.
    pub format: Format,
    /// `records`: where the records of a JSON document are; default `$`.
    pub records: JsonPath,
    /// The options of CSV.
    pub csv: CsvConfig,
    /// `encoding`: a label of the WHATWG Encoding Standard (`utf-8`, `shift_jis`, `euc-jp`, `utf-16le`, ...).
    pub encoding: &'static Encoding,
}

impl DocumentConfig {
    /// Takes the options besides the format. `delimiter`: of CSV when it is not given.
    pub(crate) fn parse(fields: &mut Fields, format: Format, delimiter: u8) -> Self {
        let records = fields.parsed("records").unwrap_or_else(JsonPath::root);
        let delimiter = self::delimiter(fields).unwrap_or(delimiter);
        let header = header(fields).unwrap_or(Header::FirstRow);
        let types = types(fields).unwrap_or_else(|| ColumnTypes::Declared(HashMap::new()));
        let csv = CsvConfig { delimiter, header, types };
        Self { format, records, csv, encoding: encoding(fields) }
    }
}

impl Format {
    /// The words in a config.
    pub const WORDS: [(&'static str, Self); 3] = [("ndjson", Self::Ndjson), ("json", Self::Json), ("csv", Self::Csv)];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Json => "json",
            Self::Csv => "csv",
        }
    }
}

/// A `file` source.
#[derive(Clone, Debug)]
pub struct FileConfig {
    /// `path`: beneath a file root, relative to it or absolute; `*`, `?`, `[...]`, `{a,b}` and `**` match several.
    pub path: String,
    /// How its files are taken apart; `format` by the extension of `path` if absent.
    pub document: Arc<DocumentConfig>,
    /// `compression`: `auto` (default), `gzip`, `zstd`, `bzip2`, `xz`, `zip` or `none`.
    pub compression: Compression,
    /// `member`: which members of an archive are read; default: all but hidden ones.
    pub member: Option<GlobMatcher>,
    /// Options of every source.
    pub common: CommonConfig,
}

/// Checks the options of a `file` source.
pub(crate) fn parse(mut fields: Fields) -> Result<FileConfig, Vec<FieldError>> {
    let common = parse_common(&mut fields, Dedupe::Rows);
    let path = fields.required_string("path");
    if let Some(path) = &path {
        if path.split('/').any(|part| part == "..") {
            fields.fail("path", Words::new("The path may not contain `..`.", "パスに `..` は使えません。"));
        } else if path.contains('\0') {
            fields.fail(
                "path",
                Words::new("The path may not contain the NUL character.", "パスに NUL 文字は使えません。"),
            );
        } else if let Err(error) = super::roots::pattern(path) {
            fields.fail("path", no_pattern(&error));
        }
    }
    let extension = path.as_deref().map(extension).unwrap_or_default();
    let has_format = fields.has("format");
    let declared = fields.choice("format", &Format::WORDS);
    let inferred = match extension.as_str() {
        "ndjson" | "jsonl" | "ldjson" => Some(Format::Ndjson),
        "json" => Some(Format::Json),
        "csv" | "tsv" => Some(Format::Csv),
        _ => None,
    };
    let format = declared.or(inferred);
    if format.is_none() && !has_format && path.is_some() {
        fields.fail(
            "format",
            Words::new(
                "This field is required, because the extension of `path` does not tell the format. \
                 Choices are `ndjson`, `json`, `csv`.",
                "`path` の拡張子から形式が分からないため、この項目は必須です。選択肢: `ndjson`, `json`, `csv`。",
            ),
        );
    }
    for (name, only) in
        [("records", Format::Json), ("delimiter", Format::Csv), ("header", Format::Csv), ("types", Format::Csv)]
    {
        if fields.has(name) && format.is_some_and(|format| format != only) {
            let word = if only == Format::Json { "json" } else { "csv" };
            fields.raw(name);
            fields.fail(
                name,
                Words::new(
                    format!("This option is for the format `{word}` only."),
                    format!("このオプションは形式 `{word}` だけのものです。"),
                ),
            );
        }
    }
    let delimiter = if extension == "tsv" { b'\t' } else { b',' };
    // Without a format there is an error already.
    let document = DocumentConfig::parse(&mut fields, format.unwrap_or(Format::Json), delimiter);
    let compression = fields.choice("compression", &Compression::WORDS).unwrap_or(Compression::Auto);
    let member = member(&mut fields, compression);
    fields.finish()?;
    // What is missing here has left an error, so that `finish` has returned already.
    let (Some(path), Some(_)) = (path, format) else { return Err(Vec::new()) };
    Ok(FileConfig { path, document: Arc::new(document), compression, member, common })
}

/// The pattern of `member`, which only an archive has.
fn member(fields: &mut Fields, compression: Compression) -> Option<GlobMatcher> {
    let pattern = fields.string("member")?;
    if !matches!(compression, Compression::Auto | Compression::Always(Codec::Zip)) {
        let words =
            Words::new("This option is for archives (`zip`) only.", "このオプションは書庫 (`zip`) だけのものです。");
        fields.fail("member", words);
        return None;
    }
    match super::roots::matcher(&pattern) {
        Ok(matcher) => Some(matcher),
        Err(error) => {
            fields.fail("member", no_pattern(&error));
            None
        }
    }
}

fn no_pattern(error: &globset::Error) -> Words {
    Words::new(format!("Not a valid pattern: {error}."), format!("パターンが正しくありません: {error}"))
}

/// The extension in lower case, without that of the compression.
fn extension(path: &str) -> String {
    let path = path.to_ascii_lowercase();
    let path = Codec::EXTENSIONS.iter().find_map(|extension| path.strip_suffix(extension)).unwrap_or(&path);
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map(|(_, extension)| extension.to_owned()).unwrap_or_default()
}

fn encoding(fields: &mut Fields) -> &'static Encoding {
    match fields.string("encoding") {
        None => encoding_rs::UTF_8,
        Some(label) => Encoding::for_label_no_replacement(label.as_bytes()).unwrap_or_else(|| {
            fields.fail(
                "encoding",
                Words::new(
                    format!("\"{label}\" is not a known encoding. Known are the labels of the WHATWG Encoding Standard, for example `utf-8`, `shift_jis`, `euc-jp`."),
                    format!("\"{label}\" は知らない文字コードです。WHATWG Encoding Standard の名前が使えます。例: `utf-8`, `shift_jis`, `euc-jp`。"),
                ),
            );
            encoding_rs::UTF_8
        }),
    }
}

fn delimiter(fields: &mut Fields) -> Option<u8> {
    // Not `string`: a tab or a space would count as blank.
    let value = fields.value("delimiter")?;
    match value.as_str().map(str::as_bytes) {
        Some([byte]) if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n' | 0) => Some(*byte),
        _ => {
            fields.fail(
                "delimiter",
                Words::new(
                    "Give one ASCII character that is neither a quote nor a line break, for example \";\" or \"\\t\".",
                    "引用符でも改行でもない ASCII 文字を1つ指定してください。例: \";\" や \"\\t\"。",
                ),
            );
            None
        }
    }
}

fn header(fields: &mut Fields) -> Option<Header> {
    let value = fields.value("header")?;
    match value {
        Value::Bool(true) => return Some(Header::FirstRow),
        Value::Bool(false) => return Some(Header::Numbered),
        Value::Array(names) if names.len() > super::csv::COLUMN_LIMIT => {
            let most = super::csv::COLUMN_LIMIT;
            fields.fail(
                "header",
                Words::new(
                    format!("Ensure this list has at most {most} names."),
                    format!("名前は{most}個以下にしてください。"),
                ),
            );
        }
        Value::Array(names) if !names.is_empty() => {
            let texts: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
            match texts {
                Some(names) => match super::csv::repeated(&names) {
                    None if names.iter().all(|name| !name.is_empty()) => return Some(Header::Named(names)),
                    None => fields
                        .fail("header", Words::new("A name may not be blank.", "名前を空にすることはできません。")),
                    Some(name) => fields.fail(
                        "header",
                        Words::new(
                            format!("The name \"{name}\" is there twice."),
                            format!("名前 \"{name}\" が2回あります。"),
                        ),
                    ),
                },
                None => fields.fail("header", Words::new("The names must be strings.", "名前は文字列にしてください。")),
            }
        }
        _ => fields.fail(
            "header",
            Words::new("Give true, false or a list of names.", "true か false、または名前のリストを指定してください。"),
        ),
    }
    None
}

fn types(fields: &mut Fields) -> Option<ColumnTypes> {
    let value = fields.value("types")?;
    match value {
        Value::String(word) if word == "infer" => Some(ColumnTypes::Infer),
        Value::Object(entries) => {
            let mut types = HashMap::new();
            for (column, word) in entries {
                let known = match word.as_str() {
                    Some("string") => ColumnType::String,
                    Some("integer") => ColumnType::Integer,
                    Some("number") => ColumnType::Number,
                    Some("boolean") => ColumnType::Boolean,
                    Some("json") => ColumnType::Json,
                    _ => {
                        fields.fail(
                            "types",
                            Words::new(
                                format!("The type {word} of \"{column}\" is not a valid choice. Choices are `string`, `integer`, `number`, `boolean`, `json`."),
                                format!("\"{column}\" の型 {word} は有効な選択肢ではありません。選択肢: `string`, `integer`, `number`, `boolean`, `json`。"),
                            ),
                        );
                        continue;
                    }
                };
                types.insert(column, known);
            }
            Some(ColumnTypes::Declared(types))
        }
        _ => {
            fields.fail(
                "types",
                Words::new(
                    "Give an object of columns and types, or \"infer\".",
                    "列と型のオブジェクト、または \"infer\" を指定してください。",
                ),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::errors;
    use crate::{ParsedConfig, validate_config};
    use matome_model::source::SourceType;

    fn config(text: &str) -> FileConfig {
        match validate_config(SourceType::File, text).unwrap() {
            ParsedConfig::File(config) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_format_follows_the_extension() {
        for (path, format) in [
            ("a.ndjson", Format::Ndjson),
            ("a/b.JSONL.gz", Format::Ndjson),
            ("*.json", Format::Json),
            ("a.tsv", Format::Csv),
        ] {
            assert_eq!(config(&format!(r#"{{"path":"{path}"}}"#)).document.format, format, "{path}");
        }
        assert_eq!(config(r#"{"path":"a.tsv"}"#).document.csv.delimiter, b'\t');
        assert_eq!(config(r#"{"path":"a.dat","format":"csv"}"#).document.format, Format::Csv);
        assert_eq!(errors(SourceType::File, r#"{"path":"a.dat"}"#)[0].0, "format");
    }

    #[test]
    fn every_wrong_option_is_told_at_its_path() {
        let errors = errors(
            SourceType::File,
            r#"{"path":"../a.csv","delimiter":";;","header":["a","a"],"types":{"x":"int"},"encoding":"latin-99","compression":"zip","records":"$.a"}"#,
        );
        let paths: Vec<&str> = errors.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["path", "records", "delimiter", "header", "types", "encoding", "compression"]);
    }

    #[test]
    fn a_path_is_required_and_a_string() {
        assert_eq!(
            errors(SourceType::File, r#"{"format":"csv"}"#),
            [("path".into(), "This field is required.".into())]
        );
        assert_eq!(
            errors(SourceType::File, r#"{"path":5,"format":"csv"}"#),
            [("path".into(), "Not a valid string.".into())]
        );
        assert_eq!(
            errors(SourceType::File, r#"{"path":null,"format":"csv"}"#),
            [("path".into(), "This field may not be null.".into())]
        );
    }
}
