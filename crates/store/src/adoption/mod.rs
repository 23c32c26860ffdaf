//! Taking over a PostgreSQL database that the original Django application made.
//!
//! [`plan`] compares its four tables with ours, by definition and not by name; [`apply`] does what the plan says and runs
//! the migrations, all in one transaction: an adoption that is killed has not happened. Every row and id stays. What
//! needs each record's canonical form (its hash and identity) follows before the first read of its source: [`fill`].

pub mod fill;
mod found;
pub mod ids;
mod plan;
mod wanted;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::db::{Conn, Db, Dialect};
use crate::error::{Result, StoreError};
use crate::listing::fold;
use crate::migrate::{self, Schema};

pub use plan::{Action, Adopted, Plan, Problem, Step};

/// What a user says about a database that is adopted.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// IANA name of the zone in which times without one were written.
    pub timezone: Option<String>,
    /// What a word of `source_type` or `status` becomes.
    pub words: Vec<(String, String)>,
}

/// Whether the database was made by another application: it has tables of the original design and no history of ours.
///
/// # Errors
/// When the database is gone.
pub async fn is_due(conn: &mut Conn<'_>) -> Result<bool> {
    if conn.dialect() == Dialect::Sqlite {
        return Ok(false);
    }
    let sql = "select exists (select 1 from pg_catalog.pg_class c
    where c.relnamespace = current_schema()::regnamespace and c.relname = any($1)) as there";
    let names: Vec<String> = wanted::TABLES.iter().map(|table| table.name.to_owned()).collect();
    let has_tables = conn.fetch_one(sql, &[crate::db::Arg::Texts(&names)]).await?.bool("there")?;
    Ok(has_tables && migrate::version(conn).await? == 0)
}

/// What adopting the database takes. Changes nothing.
///
/// # Errors
/// When the database is gone.
pub async fn plan(conn: &mut Conn<'_>, options: &Options) -> Result<Plan> {
    plan::compare(conn, options).await
}

/// Adopts the database, or finds that it cannot: then nothing was changed, and the plan says why. `done` counts the
/// steps that were taken.
///
/// # Errors
/// [`StoreError::TablesHeld`] when another session uses the tables for ten seconds; when the database is gone.
pub async fn apply(db: &Db, options: Options, done: Arc<AtomicUsize>) -> Result<Plan> {
    let applied = db.write(move |conn| Box::pin(async move { apply_on(conn, &options, &done).await })).await;
    applied.map_err(|err| match err {
        StoreError::Database(cause) if is_lock_timeout(&cause) => StoreError::TablesHeld(cause),
        other => other,
    })
}

fn is_lock_timeout(cause: &sqlx::Error) -> bool {
    cause.as_database_error().is_some_and(|err| err.code().as_deref() == Some("55P03"))
}

// What another session holds is its application, which must not run any more.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '10s'";
const REST: &str = "set local lock_timeout = 0; set local idle_in_transaction_session_timeout = 0";

async fn apply_on(conn: &mut Conn<'_>, options: &Options, done: &AtomicUsize) -> Result<Plan> {
    migrate::lock(conn).await?;
    if !is_due(conn).await? {
        // Somebody else was faster.
        return Ok(Plan::default());
    }
    conn.execute_script(LOCK_TIMEOUT.to_owned()).await?;
    for table in wanted::TABLES {
        if found::table(conn, table.name).await?.is_some() {
            conn.execute_script(format!("lock table {} in access exclusive mode", table.name)).await?;
        }
    }
    conn.execute_script(REST.to_owned()).await?;
    let plan = plan::compare(conn, options).await?;
    if !plan.problems.is_empty() {
        return Ok(plan);
    }
    // Rows of tables that Django guards with deferred constraints must be judged before those tables are altered.
    conn.execute_script("set constraints all immediate".to_owned()).await?;
    for step in &plan.steps {
        conn.execute_script(step.sql.clone()).await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    let adopted: Vec<&str> = plan.tables.iter().map(|table| table.name).collect();
    // A database that is not ours has no older process of ours.
    Schema::BUILT.run(conn, &adopted, &[]).await?;
    settle(conn, &adopted).await?;
    Ok(plan)
}

const COUNT: &str = "insert into counters (table_name, source_id, stream, row_count)
select 'acquired_data', source_id, '', count(*) from acquired_data group by source_id";
const NOTE_SOURCES: &str = "insert into adoptions (kind, object_id, up_to_id)
select 'source', s.id, coalesce((select max(d.id) from acquired_data d where d.source_id = s.id), 0) from data_sources s";
const NOTE_AGGREGATIONS: &str =
    "insert into adoptions (kind, object_id, up_to_id) select 'aggregation', s.id, 0 from aggregation_sources s";

/// What SQL alone cannot say, and what is still to be done.
async fn settle(conn: &mut Conn<'_>, adopted: &[&str]) -> Result<()> {
    for table in ["data_sources", "aggregation_sources"].into_iter().filter(|name| adopted.contains(name)) {
        let sql = sqlx::AssertSqlSafe(format!("select id, name, description from {table} order by id"));
        for row in conn.fetch_all(sql, &[]).await? {
            let (name, description) = (fold(&row.text("name")?), row.opt_text("description")?);
            let description = description.as_deref().map(fold).unwrap_or_default();
            let sql = format!("update {table} set name_folded = $2, description_folded = $3 where id = $1");
            let args = [row.int("id")?.into(), (&name).into(), (&description).into()];
            conn.execute(sqlx::AssertSqlSafe(sql), &args).await?;
        }
    }
    conn.execute(COUNT, &[]).await?;
    conn.execute(NOTE_SOURCES, &[]).await?;
    conn.execute(NOTE_AGGREGATIONS, &[]).await?;
    Ok(())
}

/// A source or an aggregation of the original application that has not been looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// What it is.
    pub kind: matome_model::task::LaneKind,
    /// Its id.
    pub id: i64,
}

/// Those whose config nobody has looked at: its secrets are not encrypted, and nothing runs by itself.
///
/// # Errors
/// When the database is gone.
pub async fn unsettled(conn: &mut Conn<'_>) -> Result<Vec<Unsettled>> {
    let sql = "select kind, object_id from adoptions where settled = {false} order by kind, object_id"
        .replace("{false}", conn.pick("false", "0"));
    let rows = conn.fetch_all(sqlx::AssertSqlSafe(sql), &[]).await?;
    let read = |row: &crate::db::Row| -> Result<Unsettled> {
        Ok(Unsettled {
            kind: crate::tasks::word(row, "kind", matome_model::task::LaneKind::parse)?,
            id: row.int("object_id")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Notes that a config was looked at; what has no records to be filled is done with.
///
/// # Errors
/// When the database is gone.
pub async fn note_settled(conn: &mut Conn<'_>, adopted: &Unsettled) -> Result<()> {
    let args: [crate::db::Arg<'_>; 2] = [adopted.kind.as_str().into(), adopted.id.into()];
    let sql = conn.pick(
        "update adoptions set settled = true where kind = $1 and object_id = $2",
        "update adoptions set settled = 1 where kind = $1 and object_id = $2",
    );
    conn.execute(sql, &args).await?;
    conn.execute("delete from adoptions where kind = $1 and object_id = $2 and done_id >= up_to_id", &args).await?;
    Ok(())
}
