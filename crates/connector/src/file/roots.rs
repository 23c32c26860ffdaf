//! The directories that files may be read from, and finding files beneath them.
//!
//! A root is opened once; every name is resolved beneath its handle, so neither `..` nor a symbolic link leads out,
//! also when somebody changes the tree meanwhile.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use globset::{GlobBuilder, GlobMatcher};
use matome_model::field_error::Words;

use super::location::{Content, Entry, Location};
use super::rotation;
use crate::error::ConnectorError;
use crate::record::Position;

/// Files that one pattern may match.
pub(super) const FILE_LIMIT: usize = 100_000;
/// Files beside another one that are looked at.
const BESIDE_LIMIT: usize = 1_000;
/// Directories inside of each other that `**` descends into.
pub(super) const DEPTH_LIMIT: usize = 64;

struct Root {
    /// As the operator wrote it.
    given: PathBuf,
    /// Without symbolic links.
    real: PathBuf,
    dir: Dir,
}

/// The directories that files may be read from.
#[derive(Default)]
pub struct FileRoots {
    roots: Vec<Root>,
}

/// The matcher of a path with `*`, `?`, `[...]`, `{a,b}` or `**`; `None` for a plain path.
pub(super) fn pattern(path: &str) -> Result<Option<GlobMatcher>, globset::Error> {
    if !path.contains(['*', '?', '[', '{']) {
        return Ok(None);
    }
    matcher(path).map(Some)
}

/// Whether a part of a pattern was cut out of braces, which may hold parts of several lengths.
pub(super) fn has_half_braces(part: &str) -> bool {
    part.matches('{').count() != part.matches('}').count()
}

/// The matcher of a pattern, within one directory unless it says `**`.
pub(super) fn matcher(pattern: &str) -> Result<GlobMatcher, globset::Error> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build()?;
    Ok(glob.compile_matcher())
}

/// What is wrong with a pattern.
pub(super) fn no_pattern(error: &globset::Error) -> Words {
    Words::new(format!("Not a valid pattern: {error}."), format!("パターンが正しくありません: {error}"))
}

impl FileRoots {
    /// Opens each directory.
    ///
    /// # Errors
    /// The path that is no directory that can be opened, and why.
    pub fn open(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<Self, (PathBuf, io::Error)> {
        let mut roots = Vec::new();
        for path in paths {
            let given = path.as_ref().to_path_buf();
            let open = || -> io::Result<Root> {
                let real = std::fs::canonicalize(&given)?;
                let dir = Dir::open_ambient_dir(&real, ambient_authority())?;
                Ok(Root { given: given.clone(), real, dir })
            };
            roots.push(open().map_err(|error| (given.clone(), error))?);
        }
        Ok(Self { roots })
    }

    fn names(&self) -> String {
        let names: Vec<String> = self.roots.iter().map(|root| root.given.display().to_string()).collect();
        names.join(", ")
    }

    /// The files that `path` names, sorted by their paths. Blocks.
    ///
    /// Names that begin with a dot are matched only by a pattern whose last part begins with one.
    fn find_files(&self, path: &str) -> Result<Vec<Entry>, ConnectorError> {
        if self.roots.is_empty() {
            return Err(ConnectorError::NoFileRoot { path: path.to_owned() });
        }
        let absolute = Path::new(path).is_absolute();
        let mut tried = false;
        for (index, root) in self.roots.iter().enumerate() {
            let relative = if absolute {
                let inside =
                    Path::new(path).strip_prefix(&root.given).or_else(|_| Path::new(path).strip_prefix(&root.real));
                let Ok(inside) = inside else { continue };
                inside.to_path_buf()
            } else {
                PathBuf::from(path)
            };
            tried = true;
            let found = self.find_beneath(index, &relative, path)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        match tried {
            true => Err(ConnectorError::NoMatch { path: path.to_owned(), roots: self.names() }),
            false => Err(ConnectorError::OutsideRoots { path: path.to_owned(), roots: self.names() }),
        }
    }

    fn find_beneath(&self, index: usize, relative: &Path, path: &str) -> Result<Vec<Entry>, ConnectorError> {
        let root = &self.roots[index];
        // A name may contain what looks like a pattern: a file of exactly this name wins. The root itself has no name in itself.
        let named = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        match root.dir.metadata(named) {
            Ok(metadata) if metadata.is_dir() => return Err(ConnectorError::Directory { path: path.to_owned() }),
            Ok(_) => return Ok(vec![self.listed(index, relative.to_path_buf())]),
            // A pattern may be longer than any name.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {}
            Err(error) => {
                return Err(self.io_error(&self.listed(index, relative.to_path_buf()).name, "opening it", error));
            }
        }
        let text = relative.to_string_lossy();
        let Ok(Some(matcher)) = pattern(&text) else { return Ok(Vec::new()) };
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        let fixed = parts.iter().take_while(|part| !part.contains(['*', '?', '[', '{', '\\'])).count();
        let mut walk = Walk {
            dir: &root.dir,
            matcher,
            depth: if text.contains("**") || parts.iter().any(|part| has_half_braces(part)) {
                DEPTH_LIMIT
            } else {
                parts.len() - fixed
            },
            hidden: parts.last().is_some_and(|part| part.starts_with('.')),
            found: Vec::new(),
        };
        let start: PathBuf = parts[..fixed].iter().collect();
        if let Err(error) = walk.descend(&start, 1)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(self.io_error(&self.listed(index, start).name, "listing it", error));
        }
        if walk.found.len() > FILE_LIMIT {
            return Err(ConnectorError::TooManyFiles { path: path.to_owned(), limit: FILE_LIMIT });
        }
        walk.found.sort();
        Ok(walk.found.into_iter().map(|relative| self.listed(index, relative)).collect())
    }

    fn listed(&self, root: usize, relative: PathBuf) -> Entry {
        let name = self.roots[root].given.join(&relative).to_string_lossy().into();
        Entry { name, place: root, path: relative, stamp: None }
    }

    /// Opens a regular file. Blocks.
    fn open_file(&self, listed: &Entry) -> Result<File, ConnectorError> {
        let dir = &self.roots[listed.place].dir;
        let fail = |error| self.io_error(&listed.name, "opening it", error);
        let regular = |is_file: bool| match is_file {
            true => Ok(()),
            false => Err(ConnectorError::NotRegular { path: listed.name.to_string() }),
        };
        // Looked at before it is opened, because opening a pipe would wait for its writer; and again behind.
        regular(dir.metadata(&listed.path).map_err(fail)?.is_file())?;
        let file = dir.open(&listed.path).map_err(fail)?.into_std();
        regular(file.metadata().map_err(fail)?.is_file())?;
        Ok(file)
    }

    /// Opens the one regular file that `path` names, and says how an error of reading it is told. Blocks.
    pub(crate) fn named(&self, path: &str) -> Result<(File, impl Fn(io::Error) -> ConnectorError), ConnectorError> {
        let listed = self.one(path)?;
        let file = self.open_file(&listed)?;
        let failed = move |error| self.io_error(&listed.name, "reading it", error);
        Ok((file, failed))
    }

    /// Where the one database file that `path` names really is: SQLite opens it, and what stands beside it, by name. Blocks.
    pub(crate) fn database(&self, path: &str) -> Result<PathBuf, ConnectorError> {
        let listed = self.one(path)?;
        let root = &self.roots[listed.place];
        let fail = |error| self.io_error(&listed.name, "opening it", error);
        // It exists, is a regular file, and no symbolic link leads out on the way to it. Not by opening it: to close it again
        // would take the locks of all reads of this process off it, and let somebody write beneath them.
        if !root.dir.metadata(&listed.path).map_err(fail)?.is_file() {
            return Err(ConnectorError::NotRegular { path: listed.name.to_string() });
        }
        Ok(root.real.join(root.dir.canonicalize(&listed.path).map_err(fail)?))
    }

    fn one(&self, path: &str) -> Result<Entry, ConnectorError> {
        let mut found = self.find_files(path)?;
        match (found.pop(), found.is_empty()) {
            (Some(listed), true) => Ok(listed),
            _ => Err(ConnectorError::TooManyFiles { path: path.to_owned(), limit: 1 }),
        }
    }

    fn io_error(&self, shown: &Arc<str>, action: &'static str, source: io::Error) -> ConnectorError {
        // The sandbox's own refusal comes without a number of the system's.
        if source.kind() == io::ErrorKind::PermissionDenied && source.raw_os_error().is_none() {
            return ConnectorError::OutsideRoots { path: shown.to_string(), roots: self.names() };
        }
        let position = Position { document: shown.clone(), request: None, line: None, record: 0, headers: None };
        ConnectorError::Io { position: Box::new(position), action, source }
    }
}

impl Location for FileRoots {
    fn find(&self, path: &str) -> Result<Vec<Entry>, ConnectorError> {
        self.find_files(path)
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn Content>, ConnectorError> {
        Ok(Box::new(self.open_file(entry)?))
    }

    fn has_files(&self) -> bool {
        true
    }

    fn beside(&self, entry: &Entry) -> Vec<Entry> {
        let (dir, folder) = (&self.roots[entry.place].dir, entry.path.parent().unwrap_or(Path::new("")));
        let Some(own) = entry.path.file_name() else { return Vec::new() };
        let listed = if folder.as_os_str().is_empty() { dir.entries() } else { dir.read_dir(folder) };
        let Some(own) = own.to_str() else { return Vec::new() };
        let mut found: Vec<PathBuf> = listed
            .into_iter()
            .flatten()
            .flatten()
            // A link may lead to what is no file of this directory.
            .filter(|other| other.file_type().is_ok_and(|kind| kind.is_file()))
            .filter(|other| other.file_name().to_str().is_some_and(|name| rotation::is_rotated_name(name, own)))
            .map(|other| folder.join(other.file_name()))
            .take(BESIDE_LIMIT)
            .collect();
        found.sort();
        found.into_iter().map(|path| self.listed(entry.place, path)).collect()
    }
}

struct Walk<'a> {
    dir: &'a Dir,
    matcher: GlobMatcher,
    depth: usize,
    hidden: bool,
    found: Vec<PathBuf>,
}

impl Walk<'_> {
    fn descend(&mut self, at: &Path, depth: usize) -> io::Result<()> {
        let entries = if at.as_os_str().is_empty() { self.dir.entries()? } else { self.dir.read_dir(at)? };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if !self.hidden && name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = at.join(&name);
            let kind = entry.file_type()?;
            // Linked directories are not entered, so that a link to a parent is no endless tree.
            if kind.is_dir() {
                if depth < self.depth {
                    self.descend(&path, depth + 1)?;
                }
            } else if self.matcher.is_match(&path) && self.found.len() <= FILE_LIMIT {
                self.found.push(path);
            }
        }
        Ok(())
    }
}
