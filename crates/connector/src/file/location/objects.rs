//! Stores of objects, which have names and no directories: what a pattern matches is found in the list of what begins like it.

use std::path::PathBuf;
use std::sync::Arc;

use globset::GlobMatcher;
use matome_egress::Response;
use matome_egress::header::HeaderMap;
use matome_model::field_error::Words;
use matome_model::say;
use url::Url;

use super::listing::Page;
use super::place::Reach;
use super::transfer::Transfer;
use super::web::{Download, Server, Web, at, number_of};
use super::{Content, Entry, Location, Stamp, Validators};
use crate::api::url_of;
use crate::config::Fields;
use crate::error::{ConnectorError, PlaceFault};
use crate::file::roots::{self, FILE_LIMIT};
use crate::sigv4::{encoded, encoded_path};

/// Objects that are looked at for one pattern.
const LOOKED_LIMIT: usize = 1_000_000;
/// A page of a list is held in memory; it has 5,000 names of 1 KiB at most.
const PAGE_LIMIT_BYTES: usize = 16 << 20;

/// A kind of store.
pub(super) trait Store: Server {
    /// The address of an object.
    fn object(&self, key: &str) -> Url;

    /// The address of a page of the list of what begins with `prefix`. `is_flat`: without what has a further `/` behind it.
    fn page(&self, prefix: &str, is_flat: bool, next: Option<&str>) -> Url;

    /// What a page says.
    fn read(&self, page: &[u8]) -> Result<Page, Words>;

    /// How an object may be compressed on its way.
    fn accepted(&self) -> &'static str {
        "identity"
    }
}

/// The objects of one read.
pub(super) struct Objects {
    store: Arc<dyn Store>,
    web: Web,
    reach: Arc<Reach>,
    /// What stands before the names of objects: `s3://bucket/`.
    base: String,
}

impl Objects {
    pub(super) fn new(store: Arc<dyn Store>, reach: Arc<Reach>, base: String) -> Self {
        Self { web: Web::new(reach.clone(), store.clone()), store, reach, base }
    }

    fn entry(&self, key: &str, stamp: Option<Stamp>) -> Entry {
        Entry { name: format!("{}{key}", self.base).into(), place: 0, path: PathBuf::from(key), stamp }
    }

    fn wrong(&self, key: &str, fault: PlaceFault, problem: Words) -> ConnectorError {
        ConnectorError::Place { position: at(&self.shown(key)), fault, problem }
    }

    fn shown(&self, key: &str) -> Arc<str> {
        format!("{}{key}", self.base).into()
    }

    fn download(&self, entry: &Entry) -> Result<Download, ConnectorError> {
        let key = entry.path.to_string_lossy();
        let url = self.store.object(&key);
        // What an address makes of `.` and `..` would be another object.
        if key.split('/').any(|part| part == "." || part == "..") {
            let problem = Words::new(
                "an object with `.` or `..` as a part of its name can not be asked for; rename it",
                "名前の一部が `.` や `..` のオブジェクトは取得できません。名前を変えてください",
            );
            return Err(ConnectorError::Place { position: at(&entry.name), fault: PlaceFault::Answer, problem });
        }
        Ok(Download {
            web: self.web.clone(),
            name: entry.name.clone(),
            url,
            accepted: self.store.accepted(),
            // An object is put as a whole.
            is_written_in_place: false,
            is_no_page: false,
        })
    }

    async fn matching(&self, pattern: &str, matcher: &GlobMatcher) -> Result<Vec<Entry>, ConnectorError> {
        let prefix = fixed(pattern);
        // Names that begin with a dot are hidden, as in directories.
        let folder = prefix.rfind('/').map_or(0, |slash| slash + 1);
        let shows_hidden = pattern.rsplit('/').next().is_some_and(|last| last.starts_with('.'));
        let is_wanted = |key: &str| {
            let is_hidden = key.get(folder..).is_some_and(|rest| rest.split('/').any(|part| part.starts_with('.')));
            !key.ends_with('/') && (shows_hidden || !is_hidden) && matcher.is_match(key)
        };
        // What braces hold goes into a directory only where it says so.
        let is_flat = !pattern[prefix.len()..].contains(['/', '\\']) && !pattern.contains("**");
        let (mut found, mut looked, mut next) = (Vec::new(), 0, None);
        loop {
            let page = self.page(pattern, &prefix, is_flat, next.as_deref()).await?;
            looked += page.objects.len();
            for object in page.objects.iter().filter(|object| is_wanted(&object.key)) {
                let stamp = Stamp { size: object.size, inode: number_of(&object.version), ..Stamp::default() };
                found.push(self.entry(&object.key, Some(stamp)));
            }
            if found.len() > FILE_LIMIT {
                return Err(ConnectorError::TooManyFiles { path: self.shown(pattern).to_string(), limit: FILE_LIMIT });
            }
            match page.next {
                None => break,
                Some(_) if looked > LOOKED_LIMIT => {
                    let problem = say!(
                        "more than {LOOKED_LIMIT} objects begin with `{prefix}`; make the part of `path` before the first `*` longer",
                        "`{prefix}` で始まるオブジェクトが {LOOKED_LIMIT} を超えています。`path` の最初の `*` より前を長くしてください"
                    );
                    return Err(self.wrong(pattern, PlaceFault::TooLong, problem));
                }
                following if following == next => {
                    let problem = Words::new("the list leads in a circle", "一覧が循環しています");
                    return Err(self.wrong(pattern, PlaceFault::Answer, problem));
                }
                following => next = following,
            }
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        found.dedup_by(|one, other| one.path == other.path);
        Ok(found)
    }

    /// A page of the list of what begins with `prefix`, for `pattern`.
    async fn page(
        &self,
        pattern: &str,
        prefix: &str,
        is_flat: bool,
        next: Option<&str>,
    ) -> Result<Page, ConnectorError> {
        let url = self.store.page(prefix, is_flat, next);
        let response = self.web.get(&self.shown(pattern), &url, HeaderMap::new()).await?;
        let body = self.whole(pattern, response).await?;
        self.store.read(&body).map_err(|problem| self.wrong(pattern, PlaceFault::Answer, problem))
    }

    async fn whole(&self, pattern: &str, mut response: Response) -> Result<Vec<u8>, ConnectorError> {
        let mut body = Vec::new();
        let failed = |source| ConnectorError::Egress { position: at(&self.shown(pattern)), source };
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&piece);
            if body.len() > PAGE_LIMIT_BYTES {
                let problem = say!(
                    "a page of the list has more than {PAGE_LIMIT_BYTES} bytes",
                    "一覧の1ページが {PAGE_LIMIT_BYTES} バイトを超えています"
                );
                return Err(self.wrong(pattern, PlaceFault::TooLong, problem));
            }
        }
        Ok(body)
    }
}

impl Location for Objects {
    fn find(&self, path: &str) -> Result<Vec<Entry>, ConnectorError> {
        // A store has no directories, only names that begin alike.
        if path.is_empty() || path.ends_with('/') {
            return Err(ConnectorError::Directory { path: self.shown(path).to_string() });
        }
        let Ok(Some(matcher)) = roots::pattern(path) else { return Ok(vec![self.entry(path, None)]) };
        self.reach.wait(self.matching(path, &matcher))
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn Content>, ConnectorError> {
        let opened = Transfer::open(entry.name.clone(), self.reach.clone(), self.download(entry)?);
        Ok(Box::new(opened.map_err(|error| no_object(error, entry))?))
    }

    fn open_unless(&self, entry: &Entry, validators: &Validators) -> Result<Option<Box<dyn Content>>, ConnectorError> {
        let opened = self.download(entry)?.open_unless(self.reach.clone(), validators);
        opened.map_err(|error| no_object(error, entry))
    }

    fn requests(&self) -> u64 {
        self.web.answered()
    }
}

/// The address of an object whose store has its name as a path beneath `base`.
pub(super) fn beneath(base: &Url, key: &str) -> Url {
    let mut url = base.clone();
    let path = format!("{}{}", url.path(), encoded_path(key));
    url.set_path(&path);
    url
}

/// Asks `url` for a page of a list: by `own` parameters of the store and those that all of them have. `next` is what this one
/// calls the place to go on at, and where that is.
pub(super) fn list_of(mut url: Url, own: &[(&str, &str)], is_flat: bool, next: (&str, Option<&str>)) -> Url {
    let flat = is_flat.then_some(("delimiter", "/"));
    let next = next.1.map(|place| (next.0, place));
    let pairs = own.iter().copied().chain(flat).chain(next);
    let query: Vec<String> = pairs.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    url.set_query(Some(&query.join("&")));
    url
}

/// Nothing tells the name of an object from that of a directory without its `/`.
fn no_object(error: ConnectorError, entry: &Entry) -> ConnectorError {
    if !error.is_missing() || entry.stamp.is_some() {
        return error;
    }
    let ConnectorError::Place { position, fault, problem } = error else { return error };
    let Words { english, japanese } = problem;
    let problem = Words::new(
        format!("{english}; of a directory it ends with `/`"),
        format!("{japanese}。ディレクトリなら最後に `/` を付けてください"),
    );
    ConnectorError::Place { position, fault, problem }
}

/// What a pattern begins with, as it is.
fn fixed(pattern: &str) -> String {
    let end = pattern.find(['*', '?', '[', '{', '\\']).unwrap_or(pattern.len());
    pattern[..end].to_owned()
}

/// Takes `path` apart: what the store calls the collection, and the name, pattern or directory behind it.
pub(super) fn container_and_key<'p>(path: &'p str, example: &str) -> Result<(&'p str, &'p str), Words> {
    let rest = path.split_once("://").map_or(path, |(_, rest)| rest);
    let (container, key) = rest.split_once('/').unwrap_or((rest, ""));
    if container.is_empty() {
        return Err(say!(
            "Write the name of a bucket and that of an object, a pattern, or a directory with `/` at its end: `{example}`.",
            "バケットの名前と、オブジェクトの名前、パターン、または `/` で終わるディレクトリを書いてください: `{example}`。"
        ));
    }
    if container.contains(|c: char| !(c.is_ascii_alphanumeric() || "-._$".contains(c))) {
        return Err(say!("`{container}` is no name of a bucket.", "`{container}` はバケットの名前ではありません。"));
    }
    if key.contains('\0') {
        return Err(Words::new("The path may not contain the NUL character.", "パスに NUL 文字は使えません。"));
    }
    roots::pattern(key).map_err(|error| roots::no_pattern(&error))?;
    Ok((container, key))
}

/// `endpoint`: where a store is that is not at its usual place.
pub(super) fn endpoint_of(own: &mut Fields) -> Option<Url> {
    let text = own.string("endpoint")?;
    let words = match url_of(&text) {
        Ok(url) if url.query().is_none() => return Some(url),
        Ok(_) => Words::new("Leave out what begins with `?`.", "`?` から後は外してください。"),
        Err(words) => words,
    };
    own.fail("endpoint", words);
    None
}
