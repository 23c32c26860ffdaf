//! Whether what comes from an address is a file or the answer of an API, by what its server says of it.

use matome_model::field_error::Words;
use matome_model::say;

use super::compression::Codec;
use super::directory;

/// What a server says of the document at an address.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// `Content-Type` without its parameters, in lower case; empty if there is none.
    pub(super) kind: String,
    /// Whether it is to be saved (`Content-Disposition: attachment`).
    pub(super) is_attachment: bool,
}

/// Kinds of documents that are files, whatever their address.
const FILES: &[&str] = &[
    "text/csv",
    "text/tab-separated-values",
    "application/vnd.apache.parquet",
    "application/x-parquet",
    "application/avro",
    "application/vnd.apache.avro",
    "application/vnd.ms-excel",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.oasis.opendocument.spreadsheet",
    "application/zip",
    "application/x-zip-compressed",
    "application/gzip",
    "application/x-gzip",
    "application/zstd",
    "application/x-bzip2",
    "application/x-xz",
];

/// Whether the document at `path` is a file, and why; nothing to say where nothing speaks for a file.
pub(super) fn judge(path: &str, told: &Told) -> (bool, Option<Words>) {
    let Told { kind, is_attachment } = told;
    let is_json = kind == "application/json" || kind == "text/json" || kind.ends_with("+json");
    let lower = path.to_ascii_lowercase();
    let is_named = directory::format_of(path).is_some() || Codec::EXTENSIONS.iter().any(|end| lower.ends_with(end));
    let name = path.rsplit('/').next().unwrap_or_default();
    if is_json {
        let words = say!(
            "an API, because the answer is `{kind}`; `--type file` (`source_type`) reads it as a file",
            "応答が `{kind}` なので API として読みます。ファイルとして読むには `--type file` (`source_type`) を指定してください"
        );
        return (false, (is_named || *is_attachment).then_some(words));
    }
    let Words { english, japanese } = if FILES.contains(&kind.as_str()) {
        say!("because the answer is `{kind}`", "応答が `{kind}` なので")
    } else if *is_attachment {
        Words::new(
            "because the answer is one to be saved (`Content-Disposition: attachment`)",
            "応答が保存用 (`Content-Disposition: attachment`) なので",
        )
    } else if is_named {
        say!("because of the name `{name}`", "名前が `{name}` なので")
    } else {
        return (false, None);
    };
    let words = say!(
        "a file, {english}; `--type api` (`source_type`) reads it as an API",
        "{japanese}ファイルとして読みます。API として読むには `--type api` (`source_type`) を指定してください"
    );
    (true, Some(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_kind_before_its_name() {
        let parquet = "application/vnd.apache.parquet";
        for (path, kind, is_attachment, is_file, is_told) in [
            ("/users", "application/json", false, false, false),
            ("/users", "", false, false, false),
            ("/users.json", "application/json", false, false, true),
            ("/rates.csv", "application/problem+json", false, false, true),
            ("/rates.csv", "text/plain", false, true, true),
            ("/export", "text/csv", false, true, true),
            ("/export", parquet, false, true, true),
            ("/export", "application/octet-stream", true, true, true),
            ("/export", "application/octet-stream", false, false, false),
            ("/lines.ndjson", "application/x-ndjson", false, true, true),
            ("/lines", "application/x-ndjson", false, false, false),
            ("/all.dat.gz", "application/octet-stream", false, true, true),
            ("/feed.xml", "application/xml", false, true, true),
            ("/feed", "application/xml", false, false, false),
        ] {
            let told = Told { kind: kind.to_owned(), is_attachment };
            let (judged, words) = judge(path, &told);
            assert_eq!((judged, words.is_some()), (is_file, is_told), "{path} {kind}");
        }
    }
}
