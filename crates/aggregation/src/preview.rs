//! The first rows of an aggregation, computed and not stored.

use std::collections::BTreeMap;

use matome_model::canonical::Canonicaliser;
use matome_model::engine::{Limits, Parameter};
use matome_model::field_error::Words;
use matome_store::db::Db;
use matome_tasks::TaskError;
use serde_json::value::RawValue;

use crate::engine::{Engine, EngineError};
use crate::handler::{StartError, canonical, from_engine, start};
use crate::inputs::InputError;

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

/// Why there are none.
#[derive(Debug)]
pub struct PreviewError {
    /// What happened.
    pub words: Words,
    /// Why, outermost first.
    pub causes: Vec<Words>,
}

impl From<StartError> for PreviewError {
    fn from(err: StartError) -> Self {
        match err {
            StartError::Engine(err) | StartError::Input(InputError::Engine(err)) => err.into(),
            StartError::Input(InputError::Unknown(unknown)) => Self { words: unknown.words(), causes: Vec::new() },
            StartError::Input(err) => TaskError::from(StartError::Input(err)).into(),
        }
    }
}

impl From<EngineError> for PreviewError {
    fn from(err: EngineError) -> Self {
        from_engine(err).into()
    }
}

impl From<TaskError> for PreviewError {
    fn from(err: TaskError) -> Self {
        Self { words: *err.message, causes: err.causes }
    }
}

/// What is previewed.
#[derive(Debug)]
pub struct Previewed<'a> {
    /// The query.
    pub sql: &'a str,
    /// Values of its parameters.
    pub parameters: BTreeMap<String, Parameter>,
}

/// Runs a query for its first `rows` rows.
///
/// # Errors
/// As a task would fail; the message says what to do.
pub async fn preview(
    db: &Db,
    engine: &Engine,
    query: Previewed<'_>,
    limits: Limits,
    rows: usize,
) -> Result<Preview, PreviewError> {
    let wanted = u64::try_from(rows).unwrap_or(u64::MAX);
    let Previewed { sql, parameters } = query;
    let (_, mut stream) = start(db, engine, sql, parameters, limits, Some(wanted)).await?;
    let mut canonicaliser = Canonicaliser::default();
    let (mut texts, mut bytes) = (Vec::new(), 0);
    while bytes < MAX_BYTES {
        let Some(page) = stream.next_page(rows.max(1), MAX_BYTES - bytes).await? else { break };
        bytes += page.iter().map(String::len).sum::<usize>();
        let before = texts.len() as u64;
        texts.extend(canonical(&mut canonicaliser, page, before)?);
    }
    let complete = stream.summary().is_some_and(|summary| !summary.truncated);
    let rows = texts.into_iter().map(|text| RawValue::from_string(text).expect("the canonical form is JSON")).collect();
    Ok(Preview { rows, columns: stream.columns(), complete })
}
