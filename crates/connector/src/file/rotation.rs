//! Files that programs write to and rotate: what was read under one name goes on under another, so that neither what came before the
//! rotation is missed nor what was read comes again.
//!
//! A file that was renamed keeps its inode; of one that was copied before it was cut off (`copytruncate`) the copy has the bytes. Either
//! begins with what was read, by its fingerprint.

use std::io;

use super::checkpoint::State;
use super::location::{Entry, Location, Shared};
use super::manifest::{Change, Known, Lost, Manifest};
use super::plan::Looked;
use crate::error::ConnectorError;

/// Where a read stopped: in the file of that name, or in what that is called now. A file beside those that were found is added to
/// them.
pub(super) fn stopped_in(location: &dyn Location, found: &mut Vec<Entry>, stopped: &State) -> Option<usize> {
    let is_named = |entry: &Entry| Some(&*entry.name) == stopped.document.as_deref();
    let named = found.iter().position(is_named);
    if !location.has_files() || !stopped.knows_file() {
        return named;
    }
    let is_it = |entry: &Entry| {
        let Ok(content) = location.open(entry) else { return false };
        let mut content = Shared::new(content);
        let Ok(stamp) = content.stamp() else { return false };
        stopped.same_document(&stamp, true).is_ok()
            && matches!(stopped.same_beginning(&stamp, &mut content), Ok(Ok(())))
    };
    if named.is_some_and(|place| is_it(&found[place])) {
        return named;
    }
    if let Some(place) = (0..found.len()).find(|place| Some(*place) != named && is_it(&found[*place])) {
        return Some(place);
    }
    // What is beside them has a name that begins as that of one of them.
    let beside = found.iter().take(NAMES_LIMIT).flat_map(|entry| location.beside(entry));
    let beside = beside.filter(|other| found.iter().all(|entry| entry.name != other.name)).find(|other| is_it(other));
    match beside {
        Some(entry) => {
            found.push(entry);
            Some(found.len() - 1)
        }
        None => named,
    }
}

/// Names whose directories are looked through for others that begin so.
const NAMES_LIMIT: usize = 16;
/// Files that are looked into for what may have been copied.
const COPIES_LIMIT: usize = 1_000;

/// Finds what was read under names that now mean something else. Of files that were found the changes become those since they were
/// read, and what is known of them has their names. What is beside them comes back, with what was added to it.
pub(super) fn follow(
    location: &dyn Location,
    found: &[Entry],
    changes: &mut [Option<Change>],
    current: Option<usize>,
    known: &mut Manifest,
) -> Result<Vec<(Entry, Change)>, ConnectorError> {
    if !location.has_files() {
        return Ok(Vec::new());
    }
    let gone = known.gone(found.iter().map(|entry| &*entry.name)).into_iter().map(|lost| (lost, None));
    let rewritten = (0..found.len()).filter(|place| changes[*place] == Some(Change::Rewritten));
    let rewritten = rewritten.filter_map(|place| Some((known.lost(&found[place].name)?, Some(place))));
    let mut lost: Vec<(Lost, Option<usize>)> = gone.chain(rewritten).collect();
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let is_new = |place: usize| matches!(changes[place], Some(Change::New | Change::Rewritten));
    let mut open: Vec<(usize, Looked)> = (0..found.len())
        .filter(|place| Some(*place) != current && is_new(*place))
        .map(|place| (place, Looked::new(location, &found[place])))
        .collect();
    let (mut moved, mut tries) = (Vec::new(), 0);
    for way in [Way::Renamed, Way::Copied] {
        let mut rest = Vec::new();
        for (place, mut looked) in open {
            let name = &found[place].name;
            let mut may_be = |of: Option<usize>| match (way, of) {
                (Way::Renamed, _) => true,
                // What is copied stays where it was, and is cut off.
                (Way::Copied, Some(of)) if of != place && may_be_of(name, &found[of].name) => {
                    tries += 1;
                    tries <= COPIES_LIMIT
                }
                (Way::Copied, _) => false,
            };
            let of = taken(&mut lost, |(lost, of)| may_be(*of) && way.leads(&lost.known, &mut looked));
            match of {
                Some((lost, of)) => moved.push((place, lost, of, looked)),
                None => rest.push((place, looked)),
            }
        }
        open = rest;
    }
    let mut news = Vec::new();
    for (place, lost, of, mut looked) in moved {
        let failed = |error| looked_failed(&found[place], error);
        let stamp = looked.stamp().map_err(failed)?;
        let change = lost.known.since(&stamp, &mut looked).map_err(failed)?;
        known.forget(&lost);
        news.push((place, change, lost.known.as_of(&stamp)));
        if let Some(of) = of {
            changes[of] = Some(Change::New);
        }
    }
    for (place, change, of) in news {
        changes[place] = Some(change);
        known.add(&found[place].name, of);
    }
    let mut beside = Vec::new();
    for (lost, place) in lost.iter().filter_map(|(lost, place)| Some((lost, (*place)?))).take(NAMES_LIMIT) {
        beside.extend(
            left_beside(location, &found[place], lost, known)?
                .filter(|(entry, _)| found.iter().all(|other| other.name != entry.name)),
        );
    }
    Ok(beside)
}

/// What was read under the name of `entry` before it was another file, if that is beside it and was added to.
fn left_beside(
    location: &dyn Location,
    entry: &Entry,
    lost: &Lost,
    known: &Manifest,
) -> Result<Option<(Entry, Change)>, ConnectorError> {
    let others = location.beside(entry);
    for way in [Way::Renamed, Way::Copied] {
        for other in &others {
            let mut looked = Looked::new(location, other);
            if !way.leads(&lost.known, &mut looked) {
                continue;
            }
            let failed = |error| looked_failed(other, error);
            let stamp = looked.stamp().map_err(failed)?;
            // A read that was cut off may have read what was added.
            let change = match known.has(&other.name) {
                true => known.compare(&other.name, &stamp, &mut looked),
                false => lost.known.since(&stamp, &mut looked),
            };
            let change = change.map_err(failed)?;
            let is_more = matches!(change, Change::Grown { .. });
            return Ok(is_more.then(|| (other.clone(), change)));
        }
    }
    Ok(None)
}

fn looked_failed(entry: &Entry, error: io::Error) -> ConnectorError {
    ConnectorError::io(super::plan::beginning(&entry.name), "reading it", error)
}

/// How what was read came to another name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Renamed,
    Copied,
}

impl Way {
    /// Whether a file is what was read, as far as it was, or a copy of it. One that can not be read is not.
    fn leads(self, known: &Known, looked: &mut Looked) -> bool {
        let Ok(stamp) = looked.stamp() else { return false };
        let may_be = match self {
            // An inode is used again for another file; one that only begins alike was written later.
            Self::Renamed => known.has_inode_of(&stamp) && known.has_time_of(&stamp),
            // A backup from before the last read is none.
            Self::Copied => known.is_not_later_than(&stamp),
        };
        let leads = may_be && matches!(known.is_beginning_of(&stamp, looked), Ok(true));
        // There may be more of them than can be open at once.
        looked.close();
        leads
    }
}

/// Whether a file is in the directory of `other`, with a name that may be what that one is called once it is rotated.
fn may_be_of(name: &str, other: &str) -> bool {
    let (folder, file) = other.rsplit_once('/').unwrap_or(("", other));
    let (own_folder, own) = name.rsplit_once('/').unwrap_or(("", name));
    own_folder == folder && is_rotated_name(own, file)
}

/// Whether a file may be called so once it is rotated: `app.log.1`, `app-20260131.log`, `app.1.log` of `app.log`.
pub(super) fn is_rotated_name(name: &str, file: &str) -> bool {
    let stem = match file.split_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => file,
    };
    name != file && name.strip_prefix(stem).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// Takes the first that `is_it`.
fn taken<T>(from: &mut Vec<T>, is_it: impl FnMut(&T) -> bool) -> Option<T> {
    from.iter().position(is_it).map(|place| from.swap_remove(place))
}
