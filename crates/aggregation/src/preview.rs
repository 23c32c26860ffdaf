//! The first rows of an aggregation, computed and not stored.

use matome_model::canonical::Canonicaliser;
use matome_model::engine::Limits;
use matome_store::db::Db;
use matome_tasks::TaskError;
use serde_json::value::RawValue;

use crate::engine::Engine;
use crate::handler::{canonical, from_engine, start};

/// Bytes of a preview at most.
const MAX_BYTES: usize = 4 << 20;

/// The first rows of a result.
#[derive(Debug)]
pub struct Preview {
    /// Rows, canonical JSON objects.
    pub rows: Vec<Box<RawValue>>,
    /// Name and type of each column.
    pub columns: Vec<(String, String)>,
    /// Whether these are all.
    pub complete: bool,
}

/// Runs `sql` for its first `rows` rows.
///
/// # Errors
/// As a task would fail; the message says what to do.
pub async fn preview(db: &Db, engine: &Engine, sql: &str, limits: Limits, rows: usize) -> Result<Preview, TaskError> {
    let wanted = u64::try_from(rows).unwrap_or(u64::MAX);
    let (_, mut stream) = start(db, engine, sql, limits, Some(wanted)).await?;
    let mut canonicaliser = Canonicaliser::default();
    let (mut texts, mut bytes) = (Vec::new(), 0);
    while bytes < MAX_BYTES {
        let Some(page) = stream.next_page(rows.max(1), MAX_BYTES - bytes).await.map_err(from_engine)? else { break };
        bytes += page.iter().map(String::len).sum::<usize>();
        let before = texts.len() as u64;
        texts.extend(canonical(&mut canonicaliser, page, before)?);
    }
    let complete = stream.summary().is_some_and(|summary| !summary.truncated);
    let rows = texts.into_iter().map(|text| RawValue::from_string(text).expect("the canonical form is JSON")).collect();
    Ok(Preview { rows, columns: stream.columns(), complete })
}
