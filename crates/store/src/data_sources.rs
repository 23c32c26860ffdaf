//! Data sources: what is read from the outside, how, and how often.

use matome_model::clock::Timestamp;
use matome_model::source::{SourceStatus, SourceType};
use matome_model::task::LaneKind;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::db::{Conn, Row};
use crate::error::Result;
use crate::listing::{Column, ColumnKind, Listing, Order, fold};
use crate::purge;

/// A data source as it is stored. Secret leaves of `config` are `{"$secret": true}`.
#[derive(Clone, Debug)]
pub struct DataSource {
    /// Its id.
    pub id: i64,
    /// Unique, 1 to 255 characters.
    pub name: String,
    /// Where it reads from.
    pub source_type: SourceType,
    /// Free text of the user.
    pub description: Option<String>,
    /// Whether it is scheduled.
    pub status: SourceStatus,
    /// How it is read; `{}` is a draft.
    pub config: Box<RawValue>,
    /// Seconds between two scheduled reads; 0 means by hand only.
    pub fetch_interval: i64,
    /// End of the last successful read.
    pub last_fetched_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed by a client.
    pub updated_at: Timestamp,
    /// Grows with every change of `config` that a read depends on.
    pub config_rev: i64,
}

/// What a client says about a source.
#[derive(Clone, Debug)]
pub struct SourceFields {
    /// See [`DataSource::name`].
    pub name: String,
    /// See [`DataSource::source_type`].
    pub source_type: SourceType,
    /// See [`DataSource::description`].
    pub description: Option<String>,
    /// See [`DataSource::status`].
    pub status: SourceStatus,
    /// Canonical JSON text, secrets replaced.
    pub config: Box<RawValue>,
    /// See [`DataSource::fetch_interval`].
    pub fetch_interval: i64,
}

const COLUMNS: &str = "t.id, t.name, t.source_type, t.description, t.status, t.config, t.fetch_interval,
    t.last_fetched_at, t.created_at, t.updated_at, t.config_rev";

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);

/// The words of [`SourceType`] as filters take them.
pub const SOURCE_TYPES: &[&str] = &["api", "database", "file", "websocket", "push"];
/// The words of [`SourceStatus`] as filters take them.
pub const STATUSES: &[&str] = &["active", "inactive", "error"];

/// Sources as lists show them.
pub const LISTING: Listing = Listing {
    table: "data_sources",
    select: COLUMNS,
    visible: "t.deleted_at is null",
    gone: None,
    columns: &[
        ID,
        Column::new("name", "t.name", ColumnKind::Folded("t.name_folded")),
        Column::new("source_type", "t.source_type", ColumnKind::Choice(SOURCE_TYPES)),
        Column::new("status", "t.status", ColumnKind::Choice(STATUSES)),
        Column::new("fetch_interval", "t.fetch_interval", ColumnKind::Int),
        Column::new("last_fetched_at", "t.last_fetched_at", ColumnKind::Time).nullable(),
        Column::new("created_at", "t.created_at", ColumnKind::Time),
        Column::new("updated_at", "t.updated_at", ColumnKind::Time),
    ],
    search: &["t.name_folded", "t.description_folded"],
    default_order: &[Order { column: &ID, descending: false }],
};

const INSERT: &str = "insert into data_sources
    (name, source_type, description, status, config, fetch_interval, created_at, updated_at, name_folded, description_folded)
values ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9)
returning id";

const FIND: &str = "select t.id, t.name, t.source_type, t.description, t.status, t.config, t.fetch_interval,
    t.last_fetched_at, t.created_at, t.updated_at, t.config_rev
from data_sources t where t.id = $1 and t.deleted_at is null";
const FIND_FOR_UPDATE: &str = "select t.id, t.name, t.source_type, t.description, t.status, t.config, t.fetch_interval,
    t.last_fetched_at, t.created_at, t.updated_at, t.config_rev
from data_sources t where t.id = $1 and t.deleted_at is null for no key update";
const FIND_BY_NAME: &str = "select t.id, t.name, t.source_type, t.description, t.status, t.config, t.fetch_interval,
    t.last_fetched_at, t.created_at, t.updated_at, t.config_rev
from data_sources t where t.name = $1 and t.deleted_at is null";

const UPDATE: &str = "update data_sources set
    name = $2, source_type = $3, description = $4, status = $5, fetch_interval = $7, updated_at = $8,
    name_folded = $9, description_folded = $10,
    config_rev = config_rev + case when config = $6 and source_type = $3 or $11 then 0 else 1 end,
    config = $6
where id = $1 and deleted_at is null";

const SET_STATUS: &str = "update data_sources set status = $2, updated_at = $3 where id = $1 and deleted_at is null";
// The name is free for a new source at once; its data goes in batches behind.
const MARK_DELETED: &str = "update data_sources set
    deleted_at = $2, name = $3, name_folded = $3, status = 'inactive'
where id = $1 and deleted_at is null";

fn read(row: &Row) -> Result<DataSource> {
    let (source_type, status) = (row.text("source_type")?, row.text("status")?);
    Ok(DataSource {
        id: row.int("id")?,
        name: row.text("name")?,
        source_type: SourceType::parse(&source_type)
            .ok_or_else(|| crate::listing::unknown_word("source_type", &source_type))?,
        description: row.opt_text("description")?,
        status: SourceStatus::parse(&status).ok_or_else(|| crate::listing::unknown_word("status", &status))?,
        config: row.json("config")?,
        fetch_interval: row.int("fetch_interval")?,
        last_fetched_at: row.opt_time("last_fetched_at")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        config_rev: row.int("config_rev")?,
    })
}

impl TryFrom<&Row> for DataSource {
    type Error = crate::error::StoreError;

    fn try_from(row: &Row) -> Result<Self> {
        read(row)
    }
}

/// Makes a source; returns its id.
///
/// # Errors
/// [`crate::error::StoreError::Unique`] when the name is taken.
pub async fn create(conn: &mut Conn<'_>, fields: &SourceFields, now: Timestamp) -> Result<i64> {
    let (name_folded, description_folded) =
        (fold(&fields.name), fields.description.as_deref().map(fold).unwrap_or_default());
    let row = conn
        .fetch_one(
            INSERT,
            &[
                (&fields.name).into(),
                fields.source_type.as_str().into(),
                fields.description.as_deref().into(),
                fields.status.as_str().into(),
                (&*fields.config).into(),
                fields.fetch_interval.into(),
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
pub async fn find(conn: &mut Conn<'_>, id: i64) -> Result<Option<DataSource>> {
    conn.fetch_optional(FIND, &[id.into()]).await?.map(|row| read(&row)).transpose()
}

/// The source with this id, locked until the transaction ends.
///
/// # Errors
/// When the database is gone.
pub async fn find_for_update(conn: &mut Conn<'_>, id: i64) -> Result<Option<DataSource>> {
    let sql = conn.pick(FIND_FOR_UPDATE, FIND);
    conn.fetch_optional(sql, &[id.into()]).await?.map(|row| read(&row)).transpose()
}

/// The source with exactly this name.
///
/// # Errors
/// When the database is gone.
pub async fn find_by_name(conn: &mut Conn<'_>, name: &str) -> Result<Option<DataSource>> {
    conn.fetch_optional(FIND_BY_NAME, &[name.into()]).await?.map(|row| read(&row)).transpose()
}

/// Writes all fields of a source; `config_rev` grows when `config` or its type is another by value, unless
/// `keeps_place`: no read depends on what changed, so the next one goes on where the last one stood.
///
/// # Errors
/// [`crate::error::StoreError::Unique`] when the name is taken.
pub async fn update(
    conn: &mut Conn<'_>,
    id: i64,
    fields: &SourceFields,
    keeps_place: bool,
    now: Timestamp,
) -> Result<bool> {
    let (name_folded, description_folded) =
        (fold(&fields.name), fields.description.as_deref().map(fold).unwrap_or_default());
    let changed = conn
        .execute(
            UPDATE,
            &[
                id.into(),
                (&fields.name).into(),
                fields.source_type.as_str().into(),
                fields.description.as_deref().into(),
                fields.status.as_str().into(),
                (&*fields.config).into(),
                fields.fetch_interval.into(),
                now.into(),
                (&name_folded).into(),
                (&description_folded).into(),
                keeps_place.into(),
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

/// Puts the placeholders of its secrets into an adopted config; what it says stays the same.
///
/// # Errors
/// When the database is gone.
pub async fn seal_config(conn: &mut Conn<'_>, id: i64, config: &RawValue) -> Result<()> {
    conn.execute("update data_sources set config = $2 where id = $1", &[id.into(), config.into()]).await.map(drop)
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
    purge::remove_batch(conn, LaneKind::Source, limit).await
}
