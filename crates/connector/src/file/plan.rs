//! Which documents a read reads, and from where on.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::checkpoint::State;
use super::location::{Entry, Location, Shared, Stamp, Validators};
use super::manifest::{Change, DOCUMENT_LIMIT, Manifest};
use super::rotation;
use crate::error::ConnectorError;
use crate::read::ReadRequest;
use crate::record::{Boundary, Position};

/// A document to read.
pub(super) struct Step {
    pub(super) entry: Entry,
    /// Its bytes, where they are on their way already.
    pub(super) opened: Option<Shared>,
    /// Records that are passed over.
    pub(super) skip: u64,
    /// Where the last of them ends, if it can be read from there on.
    pub(super) from: Option<Boundary>,
    /// Where a read before this one stopped in it.
    pub(super) resume: Option<State>,
}

/// What a read does.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// What is known of documents that are passed over; with those of the steps, all that is known in the end. `None`: every read
    /// reads all.
    pub(super) known: Option<Manifest>,
    /// Whether nothing of what is read was read before, so that equal records are other ones.
    pub(super) adds: bool,
    /// Documents that are passed over.
    pub(super) unchanged: u64,
    /// What to ask the server of the only document by, as long as that is not read.
    pub(super) validators: Option<Validators>,
    /// Where a read stopped in a document that is there no more; then nothing is read.
    pub(super) gone: Option<State>,
    /// Of a read that goes on: what it has read already, where it must not be given that again.
    pub(super) done: Manifest,
    /// Whether a read that was begun begins anew.
    pub(super) begins_anew: bool,
}

impl Plan {
    /// Reads every document from its start, or goes on where `last` stopped.
    pub(super) fn of_all(found: Vec<Entry>, last: Option<State>, request: &ReadRequest) -> Self {
        let stopped = last.and_then(State::under_way);
        let is_begun = stopped.is_some();
        let mut resume = stopped.filter(|state| state.may_go_on(request));
        let begins_anew = is_begun && resume.is_none() && request.compares_reads;
        let first = match &resume {
            None => 0,
            Some(state) => match place_of(&found, state) {
                Some(place) => place,
                None if !state.is_at_its_start() => return Self::of_gone(resume, None),
                // What comes behind it by name is still to be read.
                None => {
                    let behind = resume.take().and_then(|state| state.document).unwrap_or_default();
                    let place = found.iter().position(|entry| Path::new(&*entry.name) > Path::new(&behind));
                    place.unwrap_or(found.len())
                }
            },
        };
        let skip = resume.as_ref().map_or(0, |state| state.records);
        let mut steps: Vec<Step> = found
            .into_iter()
            .skip(first)
            .map(|entry| Step { entry, opened: None, skip: 0, from: None, resume: None })
            .collect();
        if let Some(step) = steps.first_mut() {
            let from = resume.as_ref().and_then(|state| state.boundary);
            (step.skip, step.from, step.resume) = (skip, from, resume);
        }
        Self { steps, begins_anew, ..Self::default() }
    }

    fn of_gone(stopped: Option<State>, known: Option<Manifest>) -> Self {
        Self { known, gone: stopped, ..Self::default() }
    }

    /// Reads what is new or changed since `last`. Blocks.
    pub(super) fn of_changes(
        location: &dyn Location,
        mut found: Vec<Entry>,
        last: Option<State>,
        request: &ReadRequest,
    ) -> Result<Self, ConnectorError> {
        if found.len() > DOCUMENT_LIMIT {
            tracing::warn!(
                files = found.len(),
                "more than {DOCUMENT_LIMIT} files match, so all of them are read each time: narrow `path`, or split the source"
            );
            return Ok(Self::of_all(found, last, request));
        }
        let mut last = last.unwrap_or_default();
        let only = last.only().map(|(name, read)| (name.to_owned(), read));
        let mut known = std::mem::take(&mut last.files);
        if let ([entry], Some((name, read))) = (&found[..], only)
            && *entry.name == *name
        {
            known.add(&name, read);
        }
        let mut validators = last.validators.take().filter(|_| last.complete && found.len() == 1);
        let done = std::mem::take(&mut last.done);
        let was_adding = last.adds;
        let stopped = last.under_way();
        // What a read that goes on inside has done is done; any other begins anew.
        let resume = stopped.clone().filter(|state| was_adding || state.may_go_on(request));
        if resume.is_some() {
            known.extend(done.clone());
        }
        // A read that counts equal records and was to see all knows nothing but what it has read itself.
        let goes_on_whole = request.counts_equals && resume.is_some() && !was_adding;
        let is_one = found.len() == 1;
        let current = resume.as_ref().and_then(|state| rotation::stopped_in(location, &mut found, state));
        if current.is_none() && resume.as_ref().is_some_and(|state| !state.is_at_its_start()) {
            return Ok(Self::of_gone(resume, Some(known)));
        }
        let mut changes = Vec::with_capacity(found.len());
        let mut opened = None;
        for (place, entry) in found.iter().enumerate() {
            if Some(place) == current {
                changes.push(Some(Change::New));
                continue;
            }
            changes.push(match compare(location, &known, entry, validators.as_ref()) {
                Err(error) if found.len() > 1 && error.is_missing() => None,
                Err(error) => return Err(error),
                Ok((change, content)) => {
                    opened = content.filter(|_| is_one);
                    Some(change)
                }
            });
        }
        if let Some(content) = &opened {
            validators = content.validators();
        }
        let beside = rotation::follow(location, &found, &mut changes, current, &mut known)?;
        // Whoever counts equal records has to see all of them when some may have gone or come.
        let is_other =
            |change: &Option<Change>| matches!(change, Some(Change::Rewritten | Change::Grown { is_whole: false, .. }));
        let begun_whole = stopped.is_some() && !was_adding;
        let is_to_see_all = !goes_on_whole && (known.is_empty() || begun_whole);
        let whole = request.counts_equals && (is_to_see_all || changes.iter().any(is_other));
        let adds = request.counts_equals && !whole && !goes_on_whole;
        // Versions of a key follow each other in one read: what changed since this read has read it is for the next one.
        let leaves_done = request.compares_reads && !request.counts_equals && resume.is_some();
        let done = if leaves_done { done } else { Manifest::default() };
        let begins_anew = request.compares_reads && stopped.is_some() && (whole || resume.is_none());
        let mut plan = Self { adds, validators, done, begins_anew, ..Self::default() };
        // A file with keys that grew may have changed at any place besides.
        let goes_on_inside = adds || goes_on_whole || request.resume_inside && !request.compares_reads;
        // First, since what they have is older than what is under their names now.
        for (entry, change) in beside {
            let (skip, from) = match change {
                // The rest of the file was counted by the reads that read it.
                Change::Grown { records, is_whole, from } if goes_on_inside || request.counts_equals => {
                    (records.saturating_sub(u64::from(!is_whole)), from)
                }
                _ => (0, None),
            };
            plan.steps.push(Step { entry, opened: None, skip, from, resume: None });
        }
        for ((place, entry), change) in found.into_iter().enumerate().zip(changes) {
            let (skip, from, resume) = match change {
                _ if whole => (0, None, None),
                _ if Some(place) == current => {
                    let (skip, from) = resume.as_ref().map_or((0, None), |state| (state.records, state.boundary));
                    (skip, from, resume.clone())
                }
                None | Some(Change::None) => {
                    plan.unchanged += 1;
                    continue;
                }
                Some(_) if plan.done.has(&entry.name) => continue,
                // The last record may have been half of what it is now.
                Some(Change::Grown { records, is_whole, from }) if goes_on_inside => {
                    (records.saturating_sub(u64::from(!is_whole)), from, None)
                }
                Some(Change::New | Change::Grown { .. } | Change::Rewritten) => (0, None, None),
            };
            let opened = if place == 0 { opened.take() } else { None };
            plan.steps.push(Step { entry, opened, skip, from, resume });
        }
        // Before others, whose pages would take its place in the checkpoint.
        if let Some(place) = plan.steps.iter().position(|step| step.resume.is_some()) {
            plan.steps[..=place].rotate_right(1);
        }
        plan.known = Some(if whole { Manifest::default() } else { known });
        Ok(plan)
    }
}

/// What became of a document, and its bytes where somebody had to be asked for them and none was read.
fn compare(
    location: &dyn Location,
    known: &Manifest,
    entry: &Entry,
    validators: Option<&Validators>,
) -> Result<(Change, Option<Shared>), ConnectorError> {
    if !known.has(&entry.name) {
        return Ok((Change::New, None));
    }
    let mut looked = Looked::new(location, entry);
    if let (Some(validators), None) = (validators, &entry.stamp) {
        match location.open_unless(entry, validators)? {
            Some(content) => looked.content = Some(Shared::new(content)),
            None => return Ok((Change::None, None)),
        }
    }
    let compared = looked.stamp().and_then(|stamp| known.compare(&entry.name, &stamp, &mut looked));
    let change = compared.map_err(|source| ConnectorError::io(beginning(&entry.name), "reading it", source))?;
    Ok((change, looked.content.filter(|_| !looked.is_read)))
}

/// A document that is opened only if somebody looks into it.
pub(super) struct Looked<'a> {
    location: &'a dyn Location,
    entry: &'a Entry,
    stamp: Option<Stamp>,
    content: Option<Shared>,
    /// Whether its content is not at its beginning any more.
    is_read: bool,
}

impl<'a> Looked<'a> {
    pub(super) fn new(location: &'a dyn Location, entry: &'a Entry) -> Self {
        Self { location, entry, stamp: entry.stamp.clone(), content: None, is_read: false }
    }

    fn content(&mut self) -> io::Result<&mut Shared> {
        if self.content.is_none() {
            let opened = self.location.open(self.entry).map_err(io::Error::other)?;
            self.content = Some(Shared::new(opened));
        }
        self.content.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn stamp(&mut self) -> io::Result<Stamp> {
        if self.stamp.is_none() {
            self.stamp = Some(self.content()?.stamp()?);
        }
        Ok(self.stamp.clone().unwrap_or_default())
    }

    /// Closes it; it is opened again when somebody looks into it again.
    pub(super) fn close(&mut self) {
        (self.content, self.is_read) = (None, false);
    }
}

impl io::Read for Looked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.is_read = true;
        self.content()?.read(buffer)
    }
}

impl io::Seek for Looked<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.is_read = true;
        self.content()?.seek(to)
    }
}

/// The place before the first record of a document.
pub(super) fn beginning(document: &Arc<str>) -> Position {
    Position { document: document.clone(), request: None, line: None, record: 0, headers: None }
}

/// Where the document is in which a read stopped.
fn place_of(found: &[Entry], stopped: &State) -> Option<usize> {
    found.iter().position(|entry| Some(&*entry.name) == stopped.document.as_deref())
}
