//! The options of a `file` source.

mod csv;
mod fixed;

use std::sync::Arc;
use std::time::Duration;

use encoding_rs::{Encoding, UTF_8};
use globset::GlobMatcher;
use matome_model::field_error::Words;
use matome_model::say;
use matome_model::source::Dedupe;
use serde_json::Value;

pub use csv::{ColumnType, ColumnTypes, CsvConfig, Header};

use super::compression::{Codec, Compression};
use super::excel::{ExcelConfig, Sheet};
use super::fixed::FixedConfig;
use super::location::Place;
use super::text::Charset;
use super::xml::XmlPath;
use crate::config::{CommonConfig, FieldError, Fields, parse_common};
use crate::json::{JsonPath, RecordForm};
use crate::tls::TlsOptions;

/// How the bytes of a file, or of what is sent, are records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Ndjson,
    /// One JSON document; `records` says where the records are.
    Json,
    /// Rows of fields.
    Csv,
    /// Rows of columns that have a width.
    Fixed,
    /// One XML document; `records` says which elements are the records.
    Xml,
    /// A Parquet file.
    Parquet,
    /// An Avro file (object container).
    Avro,
    /// A sheet of a workbook: xlsx, xls or ods.
    Excel,
}

/// How a document is taken apart.
#[derive(Clone, Debug)]
pub struct DocumentConfig {
    /// `format`.
    pub format: Format,
    /// `records`: where the records of a JSON document are; default `$`.
    pub records: JsonPath,
    /// `header` and `name_as`: how records of a JSON document are made of what is there.
    pub form: RecordForm,
    /// `records`: which elements of an XML document are records; default: the children of its root.
    pub xml: XmlPath,
    /// The options of CSV.
    pub csv: CsvConfig,
    /// The options of fixed width.
    pub fixed: FixedConfig,
    /// The options of a workbook; its header is that of CSV.
    pub excel: ExcelConfig,
    /// `encoding`: `auto`, or a label of the WHATWG Encoding Standard (`utf-8`, `shift_jis`, `euc-jp`, `utf-16le`, ...).
    pub encoding: Charset,
}

impl DocumentConfig {
    /// Takes the options besides the format; without one, it is not known yet which of `among` it will be. `delimiter`: of CSV when
    /// it is not given.
    pub(crate) fn parse(fields: &mut Fields, format: Option<Format>, among: &[Format], delimiter: u8) -> Self {
        refuse_those_of_others(fields, among);
        let (mut records, mut xml) = (JsonPath::root(), XmlPath::children());
        if format == Some(Format::Xml) {
            xml = fields.parsed("records").unwrap_or(xml);
        } else {
            records = fields.parsed("records").unwrap_or(records);
        }
        let form = RecordForm::parse(fields, &records, format == Some(Format::Json));
        let csv = CsvConfig::parse(fields, delimiter);
        let fixed = FixedConfig::parse(fields, format == Some(Format::Fixed));
        let excel = excel(fields, csv.header_row);
        // XML says itself how it is encoded.
        let usual = if format == Some(Format::Xml) { Charset::Detected } else { Charset::Declared(UTF_8) };
        let encoding = encoding(fields).unwrap_or(usual);
        for (name, _) in OPTIONS.iter().filter(|(_, formats)| !formats.iter().any(|format| among.contains(format))) {
            fields.unlist(name);
        }
        Self { format: format.unwrap_or(Format::Json), records, form, xml, csv, fixed, excel, encoding }
    }
}

/// Options that only some formats have.
const OPTIONS: &[(&str, &[Format])] = &[
    ("records", &[Format::Json, Format::Xml]),
    ("delimiter", &[Format::Csv]),
    ("quote", &[Format::Csv]),
    ("name_as", &[Format::Json]),
    ("header", &[Format::Json, Format::Csv, Format::Excel]),
    ("types", &[Format::Csv]),
    ("columns", &[Format::Fixed]),
    ("unit", &[Format::Fixed]),
    ("line_breaks", &[Format::Fixed]),
    ("trim", &[Format::Fixed]),
    ("sheet", &[Format::Excel]),
    ("header_row", &[Format::Csv, Format::Excel]),
    ("comment", &[Format::Csv]),
    ("encoding", &[Format::Ndjson, Format::Json, Format::Csv, Format::Fixed, Format::Xml]),
];

fn refuse_those_of_others(fields: &mut Fields, among: &[Format]) {
    for (name, formats) in OPTIONS {
        if fields.has(name) && !formats.iter().any(|format| among.contains(format)) {
            fields.raw(name);
            let words: Vec<String> = formats.iter().map(|format| format!("`{}`", format.as_str())).collect();
            let words = words.join(", ");
            let noun = if formats.len() == 1 { "format" } else { "formats" };
            let message = Words::new(
                format!("This option is for the {noun} {words} only."),
                format!("このオプションは形式 {words} だけのものです。"),
            );
            fields.fail(name, message);
        }
    }
}

fn excel(fields: &mut Fields, header_row: u64) -> ExcelConfig {
    let usual = ExcelConfig::default();
    let sheet = match fields.value("sheet") {
        None => usual.sheet,
        Some(Value::String(name)) if !name.is_empty() => Sheet::Name(name),
        Some(value) => match value.as_u64().and_then(|number| usize::try_from(number).ok()) {
            Some(number) if number > 0 => Sheet::Number(number),
            _ => {
                let words = Words::new(
                    "Give the name of a sheet, or its number from 1 on.",
                    "シートの名前、または 1 からの番号を指定してください。",
                );
                fields.fail("sheet", words);
                usual.sheet
            }
        },
    };
    ExcelConfig { sheet, header_row: u32::try_from(header_row).unwrap_or(usual.header_row) }
}

/// An option that is true or false.
fn flag(fields: &mut Fields, name: &str, usual: bool) -> bool {
    match fields.value(name) {
        None => usual,
        Some(Value::Bool(flag)) => flag,
        Some(_) => {
            fields.fail(name, Words::new("Give true or false.", "true か false を指定してください。"));
            usual
        }
    }
}

impl Format {
    /// The words in a config.
    pub const WORDS: [(&'static str, Self); 8] = [
        ("ndjson", Self::Ndjson),
        ("json", Self::Json),
        ("csv", Self::Csv),
        ("fixed", Self::Fixed),
        ("xml", Self::Xml),
        ("parquet", Self::Parquet),
        ("avro", Self::Avro),
        ("excel", Self::Excel),
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Fixed => "fixed",
            Self::Xml => "xml",
            Self::Parquet => "parquet",
            Self::Avro => "avro",
            Self::Excel => "excel",
        }
    }

    /// Whether it is text in some encoding.
    pub(super) fn is_text(self) -> bool {
        !self.seeks() && self != Self::Avro
    }

    /// Whether its reader goes to and fro in a document.
    pub(super) fn seeks(self) -> bool {
        matches!(self, Self::Parquet | Self::Excel)
    }

    /// The format that an extension says, and the delimiter if it is CSV.
    pub(super) fn of_extension(extension: &str) -> Option<(Self, u8)> {
        let (_, format, delimiter) = EXTENSIONS.iter().find(|(known, ..)| *known == extension)?;
        Some((*format, *delimiter))
    }
}

/// The extensions that say a format, and the delimiter if it is CSV.
const EXTENSIONS: &[(&str, Format, u8)] = &[
    ("ndjson", Format::Ndjson, b','),
    ("jsonl", Format::Ndjson, b','),
    ("ldjson", Format::Ndjson, b','),
    ("json", Format::Json, b','),
    ("csv", Format::Csv, b','),
    ("tsv", Format::Csv, b'\t'),
    ("tab", Format::Csv, b'\t'),
    ("xml", Format::Xml, b','),
    ("parquet", Format::Parquet, b','),
    ("avro", Format::Avro, b','),
    ("xlsx", Format::Excel, b','),
    ("xls", Format::Excel, b','),
    ("ods", Format::Excel, b','),
];

/// A `file` source.
#[derive(Clone, Debug)]
pub struct FileConfig {
    /// `path`: beneath a file root, relative to it or absolute, or an address. `*`, `?`, `[...]`, `{a,b}` and `**` match several
    /// where they can be listed. Of a directory the files directly in it are read whose extension says the format.
    pub path: String,
    /// Where that is.
    pub place: Place,
    /// `tls`: certificates beside those of the machine, where TLS is spoken.
    pub tls: TlsOptions,
    /// The extensions of files that are read if `path` is a directory; of a format that none says, all are.
    pub extensions: Vec<&'static str>,
    /// How its files are taken apart; `format` by the extension of `path` if absent.
    pub document: Arc<DocumentConfig>,
    /// `compression`: `auto` (default), `gzip`, `zstd`, `bzip2`, `xz`, `zip` or `none`.
    pub compression: Compression,
    /// `files`: whether only what is new or changed is read (`changed`, default) or everything each time (`all`).
    pub only_changed: bool,
    /// `member`: which members of an archive are read; default: all but hidden ones.
    pub member: Option<GlobMatcher>,
    /// Options of every source.
    pub common: CommonConfig,
}

/// Checks the options of a `file` source.
pub(crate) fn parse(mut fields: Fields) -> Result<FileConfig, Vec<FieldError>> {
    let common = parse_common(&mut fields, Dedupe::Rows);
    let path = fields.required_string("path");
    let place = path.as_deref().and_then(|path| Place::parse(&mut fields, path));
    let tls = tls(&mut fields, place.as_ref());
    let name = place.as_ref().zip(path.as_deref()).map(|(place, path)| place.named(path).to_owned());
    let extension = name.as_deref().map(extension).unwrap_or_default();
    let has_format = fields.has("format");
    // CSV with a tab has a word of its own.
    let words = Format::WORDS.map(|(word, format)| (word, (format, b','))).into_iter();
    let words: Vec<_> = words.chain([("tsv", (Format::Csv, b'\t'))]).collect();
    let inferred = Format::of_extension(&extension);
    let declared = fields.choice("format", &words).map(|(format, delimiter)| match inferred {
        Some((Format::Csv, implied)) if format == Format::Csv && delimiter == b',' => (format, implied),
        _ => (format, delimiter),
    });
    let (format, delimiter) = declared.or(inferred).unzip();
    if format.is_none() && !has_format && place.is_some() {
        let choices: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let choices = choices.join(", ");
        fields.fail(
            "format",
            say!(
                "This field is required, because the extension of `path` does not tell the format. Choices are {choices}.",
                "`path` の拡張子から形式が分からないため、この項目は必須です。選択肢: {choices}。"
            ),
        );
    }
    let all = Format::WORDS.map(|(_, format)| format);
    let among = format.as_ref().map_or(&all[..], std::slice::from_ref);
    let document = DocumentConfig::parse(&mut fields, format, among, delimiter.unwrap_or(b','));
    let compression = fields.choice("compression", &Compression::WORDS).unwrap_or(Compression::Auto);
    let member = member(&mut fields, compression);
    let only_changed = fields.choice("files", &[("changed", true), ("all", false)]).unwrap_or(true);
    let said = (format, delimiter.unwrap_or(b','));
    let extensions = EXTENSIONS.iter().filter(|(_, format, delimiter)| (Some(*format), *delimiter) == said);
    let extensions = extensions.map(|(extension, ..)| *extension).collect();
    // A workbook is a zip archive, and none of those whose members are read.
    let is_archive =
        member.is_some() || name.as_deref().is_some_and(|name| name.to_ascii_lowercase().ends_with(".zip"));
    let compression = match compression {
        Compression::Auto if format == Some(Format::Excel) && is_archive => Compression::Always(Codec::Zip),
        Compression::Auto if format == Some(Format::Excel) => Compression::AutoBesideArchives,
        compression => compression,
    };
    fields.finish()?;
    // What is missing here has left an error, so that `finish` has returned already.
    let (Some(path), Some(place), Some(_)) = (path, place, format) else { return Err(Vec::new()) };
    Ok(FileConfig {
        path,
        place,
        tls,
        extensions,
        document: Arc::new(document),
        compression,
        only_changed,
        member,
        common,
    })
}

/// The certificates of a place elsewhere; the others have no such option.
fn tls(fields: &mut Fields, place: Option<&Place>) -> TlsOptions {
    match place {
        Some(place) if place.has_tls() => TlsOptions::parse(fields),
        _ => TlsOptions::default(),
    }
}

/// Where the files of a config are that may lack its format, its certificates, and how long each answer of that is waited for;
/// nothing if it does not say.
pub(super) fn place_of(config: &str) -> Option<(Place, TlsOptions, Duration)> {
    let mut fields = Fields::parse(config).ok()?;
    let common = parse_common(&mut fields, Dedupe::Rows);
    let path = fields.required_string("path")?;
    let place = Place::parse(&mut fields, &path)?;
    let tls = tls(&mut fields, Some(&place));
    Some((place, tls, common.timeout))
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
            fields.fail("member", super::roots::no_pattern(&error));
            None
        }
    }
}

/// The extension in lower case, without that of the compression.
pub(super) fn extension(path: &str) -> String {
    let path = path.to_ascii_lowercase();
    let path = Codec::EXTENSIONS.iter().find_map(|extension| path.strip_suffix(extension)).unwrap_or(&path);
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map(|(_, extension)| extension.to_owned()).unwrap_or_default()
}

fn encoding(fields: &mut Fields) -> Option<Charset> {
    let label = fields.string("encoding")?;
    if label == "auto" {
        return Some(Charset::Detected);
    }
    let known = Encoding::for_label_no_replacement(label.as_bytes()).unwrap_or_else(|| {
        fields.fail(
            "encoding",
            Words::new(
                format!("\"{label}\" is not a known encoding. Known are the labels of the WHATWG Encoding Standard, for example `utf-8`, `shift_jis`, `euc-jp`; `auto` looks at each file."),
                format!("\"{label}\" は知らない文字コードです。WHATWG Encoding Standard の名前が使えます。例: `utf-8`, `shift_jis`, `euc-jp`。`auto` はファイルごとに見分けます。"),
            ),
        );
        UTF_8
    });
    Some(Charset::Declared(known))
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
    fn a_workbook_is_no_archive_unless_the_config_says_so() {
        let compression = |text: &str| config(text).compression;
        assert_eq!(compression(r#"{"path":"a.xlsx"}"#), Compression::AutoBesideArchives);
        assert_eq!(compression(r#"{"path":"a.xlsx.zip"}"#), Compression::Always(Codec::Zip));
        assert_eq!(compression(r#"{"path":"a","format":"excel","member":"*.xlsx"}"#), Compression::Always(Codec::Zip));
        assert_eq!(compression(r#"{"path":"a.parquet"}"#), Compression::Auto);
        let sheet = config(r#"{"path":"a.ods","sheet":"2","header_row":3}"#).document.excel.clone();
        assert_eq!(sheet, ExcelConfig { sheet: Sheet::Name("2".into()), header_row: 3 });
        assert_eq!(errors(SourceType::File, r#"{"path":"a.ods","sheet":0}"#)[0].0, "sheet");
        assert_eq!(errors(SourceType::File, r#"{"path":"a.csv","sheet":1}"#)[0].0, "sheet");
        assert_eq!(errors(SourceType::File, r#"{"path":"a.parquet","encoding":"utf-8"}"#)[0].0, "encoding");
    }

    #[test]
    fn every_wrong_option_is_told_at_its_path() {
        let errors = errors(
            SourceType::File,
            r#"{"path":"../a.csv","delimiter":";;","header":["a","a"],"types":{"x":"int"},"encoding":"latin-99","compression":"rar","records":"$.a"}"#,
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
