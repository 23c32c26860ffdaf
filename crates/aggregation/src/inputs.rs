//! The inputs of a run: which tables the SQL names, and their rows in files that the child reads.
//!
//! A source is read up to its watermark, an aggregation as its current run; both are fixed before the first
//! row is read, so that the lineage of a run says exactly what went into it.

use futures::TryStreamExt as _;
use matome_model::engine::{Schema, Table, TableReference, UnknownTable, resolve};
use matome_model::task::LaneKind;
use matome_store::acquired_data::{self, Versions};
use matome_store::aggregated_data::{self, QueryTable};
use matome_store::db::Db;
use matome_store::error::StoreError;
use serde::Serialize;

use crate::engine::{EngineError, Identity, Preparation, TableSpool};

/// One input of a run, for its lineage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Input {
    /// The table as SQL knows it, such as `sources.orders`.
    pub table: String,
    /// Id of the source or aggregation.
    pub id: i64,
    /// Highest record id that was read (sources), or the run whose version was read (aggregations).
    pub up_to: i64,
    /// Rows read; known after the spooling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// Why inputs are not there.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The SQL names a table that does not exist.
    #[error(transparent)]
    Unknown(#[from] UnknownTable),
    /// The database.
    #[error("the input rows could not be read")]
    Store(#[from] StoreError),
    /// The child that they are for.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A resolved table with what is to be read of it.
#[derive(Clone, Debug)]
pub struct Planned {
    table: Table,
    stored: QueryTable,
    versions: Versions,
    /// What the lineage says of it.
    pub input: Input,
}

/// Finds the tables that a query names and fixes how far each is read.
///
/// # Errors
/// [`InputError::Unknown`] with the names that there are.
pub async fn plan(db: &Db, references: &[TableReference]) -> Result<Vec<Planned>, InputError> {
    let mut reader = db.read().await?;
    let mut conn = reader.conn();
    let stored = aggregated_data::query_tables(&mut conn).await?;
    let table_of = |stored: &QueryTable| {
        let schema = match stored.kind {
            LaneKind::Source => Schema::Sources,
            LaneKind::Aggregation => Schema::Aggregations,
        };
        Table { schema, name: stored.name.clone() }
    };
    let mut known: Vec<Table> = stored.iter().map(table_of).collect();
    let histories = histories(&stored, &known);
    known.extend(histories.iter().map(|(table, _)| table.clone()));
    let mut wanted = resolve(references, &known)?;
    wanted.sort();
    wanted.dedup();
    let mut planned = Vec::with_capacity(wanted.len());
    for table in wanted {
        let at = known.iter().position(|other| *other == table).expect("resolve returns tables that are known");
        let (at, versions) = match at.checked_sub(stored.len()) {
            Some(history) => (histories[history].1, Versions::All),
            None if stored[at].keyed => (at, Versions::Newest),
            None => (at, Versions::All),
        };
        let stored = stored[at].clone();
        let up_to = match stored.kind {
            LaneKind::Source => acquired_data::watermark(&mut conn, stored.id).await?,
            LaneKind::Aggregation => stored.run_id,
        };
        let input = Input { table: table.to_string(), id: stored.id, up_to, rows: None };
        planned.push(Planned { table, stored, versions, input });
    }
    Ok(planned)
}

/// The tables with all versions of the sources that have a key, each with the place of its source. A source that
/// bears such a name itself goes first.
fn histories(stored: &[QueryTable], known: &[Table]) -> Vec<(Table, usize)> {
    let keyed = stored.iter().enumerate().filter(|(_, stored)| stored.keyed);
    let named =
        keyed.map(|(at, stored)| (Table { schema: Schema::Sources, name: format!("{}__history", stored.name) }, at));
    named.filter(|(table, _)| !known.contains(table)).collect()
}

/// Hands the rows of each table to the child, row by row as they come from the database.
///
/// # Errors
/// When the database is gone or the disk is full.
pub async fn spool(db: &Db, planned: &mut [Planned], child: &mut Preparation) -> Result<(), InputError> {
    for planned in planned {
        let mut out = child.table(planned.table.clone()).await?;
        write_rows(db, planned, &mut out).await?;
        planned.input.rows = Some(out.finish().await?);
    }
    Ok(())
}

async fn write_rows(db: &Db, planned: &mut Planned, out: &mut TableSpool) -> Result<(), InputError> {
    let mut reader = db.read().await?;
    let mut conn = reader.conn();
    let id = planned.stored.id;
    match planned.stored.kind {
        LaneKind::Source => {
            let up_to = planned.input.up_to;
            let mut records = acquired_data::stream_versions(&mut conn, id, up_to, planned.versions);
            let keyed = planned.stored.keyed;
            let is_history = keyed && planned.versions == Versions::All;
            while let Some(record) = records.try_next().await? {
                // Only where all versions are: there it is told by its missing hash.
                if record.is_deleted && !is_history {
                    continue;
                }
                let identity = Identity {
                    hash: &record.data_hash,
                    key: record.key.as_deref().filter(|_| keyed),
                    version: record.version,
                };
                out.row(record.id, record.acquired_at, Some(identity), &record.raw_data).await?;
            }
        }
        LaneKind::Aggregation => loop {
            let mut results = aggregated_data::stream_version(&mut conn, id, planned.input.up_to)?;
            let mut is_empty = true;
            while let Some(row) = results.try_next().await? {
                is_empty = false;
                out.row(row.id, row.aggregated_at, None, row.data.get()).await?;
            }
            drop(results);
            if !is_empty {
                break;
            }
            // Runs went by since this one was planned, and its version is not kept: the newest is read then.
            match aggregated_data::is_kept(&mut conn, id, planned.input.up_to).await? {
                (_, true) => break,
                (newest, false) => planned.input.up_to = newest,
            }
        },
    }
    Ok(())
}
