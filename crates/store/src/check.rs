//! Looks at a whole database for anything that breaks what must always hold (ARCHITECTURE.md), and changes
//! nothing. Every transition commits whole, so one snapshot in which a rule is broken proves a defect, also
//! while servers work.

mod content;
mod invariants;

use futures::TryStreamExt as _;
use matome_model::field_error::Words;

use crate::db::{Conn, Dialect, Snapshot};
use crate::error::{Result, StoreError};
use crate::migrate;
use content::Reading;

/// Places that a verdict names; the others are only counted.
const PLACES: usize = 5;

/// What was found out about one invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its name, a word for programs.
    pub invariant: &'static str,
    /// What must hold, for people.
    pub rule: Words,
    /// How often it does not.
    pub violations: u64,
    /// Where, the first few.
    pub places: Vec<String>,
}

impl Verdict {
    fn new(invariant: &'static str, (english, japanese): (&str, &str)) -> Self {
        let rule = Words::new(english, japanese);
        Self { invariant, rule, violations: 0, places: Vec::new() }
    }

    fn add(&mut self, place: String) {
        self.violations += 1;
        if self.places.len() < PLACES {
            self.places.push(place);
        }
    }

    /// Whether the invariant holds.
    pub fn holds(&self) -> bool {
        self.violations == 0
    }
}

/// Checks every invariant that the data can show, in one snapshot. Memory does not depend on the size of the
/// database.
///
/// With `full`, every stored record is hashed again (otherwise a sample of about a thousand, spread over all
/// of them), and SQLite compares its indexes with its tables.
///
/// # Errors
/// [`StoreError::SchemaVersion`] when the schema is not this binary's; when the database is gone.
pub async fn check(snapshot: &mut Snapshot, full: bool) -> Result<Vec<Verdict>> {
    let mut conn = snapshot.conn();
    migrate::check_on(&mut conn).await?;
    let mut verdicts = Vec::new();
    for invariant in invariants::storage(conn.dialect(), full).iter().chain(invariants::RULES) {
        let mut verdict = Verdict::new(invariant.name, invariant.rule);
        let ran = find(&mut conn, invariant.violations, &mut verdict).await;
        verdicts.push(settled(conn.dialect(), verdict, ran)?);
    }
    let reading = if full { Reading::Full } else { Reading::Sample };
    for content in [content::RECORDS, content::QUARANTINE] {
        let mut verdict = Verdict::new(content.name, content.rule);
        let ran = content::read(&mut conn, &content, reading, &mut verdict).await;
        verdicts.push(settled(conn.dialect(), verdict, ran)?);
    }
    Ok(verdicts)
}

async fn find(conn: &mut Conn<'_>, sql: &'static str, verdict: &mut Verdict) -> Result<()> {
    let mut rows = conn.fetch_stream(sql, &[])?;
    while let Some(row) = rows.try_next().await? {
        verdict.add(row.opt_text("place")?.unwrap_or_default());
    }
    Ok(())
}

/// A file that is damaged in one place may be read in others: what cannot be read is a finding. (PostgreSQL
/// ends the transaction with the first error.)
fn settled(dialect: Dialect, mut verdict: Verdict, ran: Result<()>) -> Result<Verdict> {
    match ran {
        Err(StoreError::Database(err)) if dialect == Dialect::Sqlite => verdict.add(format!("cannot be read: {err}")),
        Err(err @ StoreError::Inconsistent { .. }) => verdict.add(err.to_string()),
        other => other?,
    }
    Ok(verdict)
}
