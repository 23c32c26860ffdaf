//! How far an incremental read has come: the highest cursor, and whether cursors rise as declared.

use super::incremental::Incremental;
use super::state::State;
use crate::error::ConnectorError;
use crate::record::Item;

/// What the records of the page that is open say; it counts once the page is whole.
#[derive(Debug, Default)]
pub(super) struct PageMarks {
    top: Option<String>,
    last: Option<String>,
    has_cursor: bool,
    has_records: bool,
}

impl PageMarks {
    /// For a page that follows what `state` has.
    pub(super) fn behind(state: &State) -> Self {
        Self { last: state.last.clone(), ..Self::default() }
    }

    /// Looks at records; an error says that they do not rise, though the source said so.
    pub(super) fn look_at(
        &mut self,
        items: &[Item],
        incremental: &Incremental,
        began: &str,
    ) -> Result<(), ConnectorError> {
        for item in items {
            let Item::Record { raw, position } = item else { continue };
            self.has_records = true;
            let Some(cursor) = incremental.of(raw) else { continue };
            self.has_cursor = true;
            if incremental.is_sorted
                && let Some(before) = &self.last
                && incremental.kind.compare(&cursor, before).is_lt()
            {
                let (position, before) = (Box::new(position.clone()), before.clone());
                return Err(ConnectorError::Regress { position, before, now: cursor });
            }
            if incremental.may_be_mark(&cursor, began) {
                self.top = incremental.higher(self.top.take(), Some(cursor.clone()));
            }
            self.last = Some(cursor);
        }
        Ok(())
    }

    /// The page is whole.
    pub(super) fn commit(self, state: &mut State, incremental: &Incremental) {
        state.has_records |= self.has_records;
        state.has_cursor |= self.has_cursor;
        state.top = incremental.higher(state.top.take(), self.top);
        if incremental.is_sorted {
            state.last = self.last;
            raise(state, incremental);
        }
    }
}

/// A step has come to its end; `until`: its upper bound.
pub(super) fn pass(state: &mut State, incremental: &Incremental, until: &str) {
    raise(state, incremental);
    if !state.skipped {
        state.passed = incremental.higher(state.passed.take(), Some(until.to_owned()));
    }
    // The next one may begin before the last record.
    state.last = None;
}

/// The read has come to its end.
pub(super) fn finish(state: &mut State, incremental: &Incremental) -> Result<(), ConnectorError> {
    raise(state, incremental);
    if state.has_records && !state.has_cursor && state.high.is_none() {
        let path = incremental.cursor.to_string();
        return Err(ConnectorError::NoCursor { path, kind: incremental.kind.describe() });
    }
    Ok(())
}

/// Moves the mark up to what was read. Where a page was passed over, it stays: that page must come again.
fn raise(state: &mut State, incremental: &Incremental) {
    if !state.skipped {
        state.high = incremental.higher(state.high.take(), state.top.clone());
    }
}
