//! Aggregation sources: what is computed from acquired data, and which of its runs is shown.

use matome_model::clock::Timestamp;
use matome_model::source::SourceStatus;
use matome_model::task::LaneKind;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::data_sources::STATUSES;
use crate::db::{Conn, Row};
use crate::error::Result;
use crate::listing::{Column, ColumnKind, Listing, Order, fold};
use crate::purge;

/// An aggregation source as it is stored. Secret leaves of `config` are `{"$secret": true}`.
#[derive(Clone, Debug)]
pub struct AggregationSource {
    /// Its id.
    pub id: i64,
    /// Unique, 1 to 255 characters.
    pub name: String,
    /// Free text of the user.
    pub description: Option<String>,
    /// Whether it is scheduled.
    pub status: SourceStatus,
    /// What is computed; `{}` is a draft.
    pub config: Box<RawValue>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed by a client.
    pub updated_at: Timestamp,
    /// Grows with every change of `config`.
    pub config_rev: i64,
    /// The run whose rows are shown; none before the first.
    pub current_run_id: Option<i64>,
}

/// What a client says about a source.
#[derive(Clone, Debug)]
pub struct AggregationFields {
    /// See [`AggregationSource::name`].
    pub name: String,
    /// See [`AggregationSource::description`].
    pub description: Option<String>,
    /// See [`AggregationSource::status`].
    pub status: SourceStatus,
    /// Canonical JSON text, secrets replaced.
    pub config: Box<RawValue>,
}

const COLUMNS: &str = "t.id, t.name, t.description, t.status, t.config, t.created_at, t.updated_at,
    t.config_rev, t.current_run_id";

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);

/// Sources as lists show them.
pub const LISTING: Listing = Listing {
    table: "aggregation_sources",
    select: COLUMNS,
    visible: "t.deleted_at is null",
    gone: None,
    columns: &[
        ID,
        Column::new("name", "t.name", ColumnKind::Folded("t.name_folded")),
        Column::new("status", "t.status", ColumnKind::Choice(STATUSES)),
        Column::new("created_at", "t.created_at", ColumnKind::Time),
        Column::new("updated_at", "t.updated_at", ColumnKind::Time),
    ],
    search: &["t.name_folded", "t.description_folded"],
    default_order: &[Order { column: &ID, descending: false }],
};

const INSERT: &str = "insert into aggregation_sources
    (name, description, status, config, created_at, updated_at, name_folded, description_folded)
values ($1, $2, $3, $4, $5, $5, $6, $7)
returning id";

const FIND: &str = "select t.id, t.name, t.description, t.status, t.config, t.created_at, t.updated_at,
    t.config_rev, t.current_run_id
from aggregation_sources t where t.id = $1 and t.deleted_at is null";
const FIND_FOR_UPDATE: &str = "select t.id, t.name, t.description, t.status, t.config, t.created_at, t.updated_at,
    t.config_rev, t.current_run_id
from aggregation_sources t where t.id = $1 and t.deleted_at is null for no key update";
const FIND_BY_NAME: &str = "select t.id, t.name, t.description, t.status, t.config, t.created_at, t.updated_at,
    t.config_rev, t.current_run_id
from aggregation_sources t where t.name = $1 and t.deleted_at is null";

const UPDATE: &str = "update aggregation_sources set
    name = $2, description = $3, status = $4, updated_at = $6, name_folded = $7, description_folded = $8,
    config_rev = config_rev + case when config = $5 then 0 else 1 end,
    config = $5
where id = $1 and deleted_at is null";

const SET_STATUS: &str =
    "update aggregation_sources set status = $2, updated_at = $3 where id = $1 and deleted_at is null";

// The name is free for a new source at once; its data goes in batches behind.
const MARK_DELETED: &str = "update aggregation_sources set
    deleted_at = $2, name = $3, name_folded = $3, status = 'inactive'
where id = $1 and deleted_at is null";

fn read(row: &Row) -> Result<AggregationSource> {
    let status = row.text("status")?;
    Ok(AggregationSource {
        id: row.int("id")?,
        name: row.text("name")?,
        description: row.opt_text("description")?,
        status: SourceStatus::parse(&status).ok_or_else(|| crate::listing::unknown_word("status", &status))?,
        config: row.json("config")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        config_rev: row.int("config_rev")?,
        current_run_id: row.opt_int("current_run_id")?,
    })
}

impl TryFrom<&Row> for AggregationSource {
    type Error = crate::error::StoreError;

    fn try_from(row: &Row) -> Result<Self> {
        read(row)
    }
}

/// Makes a source; returns its id.
///
/// # Errors
/// [`crate::error::StoreError::Unique`] when the name is taken.
pub async fn create(conn: &mut Conn<'_>, fields: &AggregationFields, now: Timestamp) -> Result<i64> {
    let (name_folded, description_folded) =
        (fold(&fields.name), fields.description.as_deref().map(fold).unwrap_or_default());
    let row = conn
        .fetch_one(
            INSERT,
            &[
                (&fields.name).into(),
                fields.description.as_deref().into(),
                fields.status.as_str().into(),
                (&*fields.config).into(),
                now.into(),
                (&name_folded).into(),
                (&description_folded).into(),
            ],
        )
        .await?;
    row.int("id")
}

/// The source with this id.
///
/// # Errors
/// When the database is gone.
pub async fn find(conn: &mut Conn<'_>, id: i64) -> Result<Option<AggregationSource>> {
    conn.fetch_optional(FIND, &[id.into()]).await?.map(|row| read(&row)).transpose()
}

/// The source with this id, locked until the transaction ends.
///
/// # Errors
/// When the database is gone.
pub async fn find_for_update(conn: &mut Conn<'_>, id: i64) -> Result<Option<AggregationSource>> {
    let sql = conn.pick(FIND_FOR_UPDATE, FIND);
    conn.fetch_optional(sql, &[id.into()]).await?.map(|row| read(&row)).transpose()
}

/// The source with exactly this name.
///
/// # Errors
/// When the database is gone.
pub async fn find_by_name(conn: &mut Conn<'_>, name: &str) -> Result<Option<AggregationSource>> {
    conn.fetch_optional(FIND_BY_NAME, &[name.into()]).await?.map(|row| read(&row)).transpose()
}

/// Writes all fields of a source; `config_rev` grows when `config` is another by value.
///
/// # Errors
/// [`crate::error::StoreError::Unique`] when the name is taken.
pub async fn update(conn: &mut Conn<'_>, id: i64, fields: &AggregationFields, now: Timestamp) -> Result<bool> {
    let (name_folded, description_folded) =
        (fold(&fields.name), fields.description.as_deref().map(fold).unwrap_or_default());
    let changed = conn
        .execute(
            UPDATE,
            &[
                id.into(),
                (&fields.name).into(),
                fields.description.as_deref().into(),
                fields.status.as_str().into(),
                (&*fields.config).into(),
                now.into(),
                (&name_folded).into(),
                (&description_folded).into(),
            ],
        )
        .await?;
    Ok(changed == 1)
}

/// Sets the status alone; returns whether the source is there.
///
/// # Errors
/// When the database is gone.
pub async fn set_status(conn: &mut Conn<'_>, id: i64, status: SourceStatus, now: Timestamp) -> Result<bool> {
    Ok(conn.execute(SET_STATUS, &[id.into(), status.as_str().into(), now.into()]).await? == 1)
}

/// Hides the source and frees its name; returns whether it was there. Tasks and schedules are the caller's
/// to end in the same transaction; rows go with [`remove_deleted_batch`].
///
/// # Errors
/// When the database is gone.
pub async fn mark_deleted(conn: &mut Conn<'_>, id: i64, now: Timestamp) -> Result<bool> {
    let name = format!("deleted-{}", Uuid::new_v4());
    Ok(conn.execute(MARK_DELETED, &[id.into(), now.into(), (&name).into()]).await? == 1)
}

/// Removes up to `limit` rows of some deleted source; the source itself last. Returns whether there is more.
///
/// A source whose lane is still leased waits: its worker may be writing.
///
/// # Errors
/// When the database is gone.
pub async fn remove_deleted_batch(conn: &mut Conn<'_>, limit: i64) -> Result<bool> {
    purge::remove_batch(conn, LaneKind::Aggregation, limit).await
}
