//! Which files are meant by the name of a directory: those directly in it whose extension says what is read.

use matome_model::field_error::Words;

use super::compression::Codec;
use super::config::Format;
use super::location::{Entry, Location, Place};
use super::plan::beginning;
use crate::error::{ConnectorError, PlaceFault};

/// What a path names.
pub(super) struct Named {
    /// The documents, in the order in which they are read.
    pub(super) entries: Vec<Entry>,
    /// Whether the path is that of a directory.
    pub(super) is_directory: bool,
}

/// What `path` names in the `location` of `place`; of a directory, its files with one of the `extensions`, or all when there are none.
pub(super) fn find(
    location: &dyn Location,
    place: &Place,
    path: &str,
    extensions: &[&str],
) -> Result<Named, ConnectorError> {
    let named = place.named(path);
    match location.find(named) {
        Err(ConnectorError::Directory { .. }) => {}
        Ok(entries) if entries.is_empty() => {
            let problem = Words::new("nothing there matches `path`", "`path` に合うものがありません");
            let position = Box::new(beginning(&path.into()));
            return Err(ConnectorError::Place { position, fault: PlaceFault::Missing, problem });
        }
        found => return Ok(Named { entries: found?, is_directory: false }),
    }
    let entries = match location.find(&inside(named, extensions)) {
        Err(ConnectorError::NoMatch { .. }) => Vec::new(),
        found => found?,
    };
    if entries.is_empty() {
        let extensions = extensions.iter().map(|extension| format!(".{extension}")).collect::<Vec<_>>().join(", ");
        return Err(ConnectorError::EmptyDirectory { path: path.to_owned(), extensions });
    }
    Ok(Named { entries, is_directory: true })
}

/// The pattern of the files in a directory, whatever the case of their extensions and however they are compressed.
fn inside(directory: &str, extensions: &[&str]) -> String {
    let start = match directory {
        // A file root, a bucket, or the home of a user; `/` is the root of a machine.
        "." | "" => String::new(),
        directory => format!("{}/", globset::escape(directory.trim_end_matches('/'))),
    };
    if extensions.is_empty() {
        return format!("{start}*");
    }
    let either = |extension: &str| {
        let letter = |c: char| match c.is_ascii_alphabetic() {
            true => format!("[{}{}]", c.to_ascii_lowercase(), c.to_ascii_uppercase()),
            false => c.to_string(),
        };
        extension.chars().map(letter).collect::<String>()
    };
    let names = extensions.iter().flat_map(|extension| {
        let packed = Codec::EXTENSIONS.iter().map(move |packed| either(&format!("{extension}{packed}")));
        std::iter::once(either(extension)).chain(packed)
    });
    format!("{start}*.{{{}}}", names.collect::<Vec<_>>().join(","))
}

/// The format that the extension of a name says, behind that of a compression.
pub(super) fn format_of(name: &str) -> Option<(Format, u8)> {
    Format::of_extension(&super::config::extension(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::roots::pattern;

    #[test]
    fn files_directly_in_a_directory_are_meant_by_their_extension() {
        for (directory, extensions, names, others) in [
            (
                "exports/",
                &["csv"][..],
                &["exports/a.csv", "exports/A.CSV", "exports/a.csv.gz", "exports/a.Csv.ZST"][..],
                &["exports/a.tsv", "exports/deep/a.csv", "exports/csv", "a.csv"][..],
            ),
            (".", &["tsv", "tab"], &["a.tsv", "a.tab.bz2"], &["a.csv"]),
            ("a[1]", &[], &["a[1]/x", "a[1]/y.txt"], &["a1/x"]),
            ("/", &["json"], &["/a.json"], &["a.json"]),
            ("", &["json"], &["a.json"], &["/a.json", "b/a.json"]),
        ] {
            let matcher = pattern(&inside(directory, extensions)).unwrap().unwrap();
            assert!(names.iter().all(|name| matcher.is_match(name)), "{directory} {names:?}");
            assert!(!others.iter().any(|name| matcher.is_match(name)), "{directory} {others:?}");
        }
    }
}
