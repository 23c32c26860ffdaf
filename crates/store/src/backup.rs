//! Copies of an embedded database: made while others work on it, put in place of another one.

use std::path::Path;
use std::time::Duration;

use matome_model::clock::Timestamp;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use uuid::Uuid;

use crate::db::{Conn, DataDir, Db, Pages};
use crate::error::{Result, StoreError};
use crate::{migrate, secrets, tasks};

/// What a copy holds, read from the copy itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Version of its schema.
    pub schema_version: i64,
    /// The installation that it was copied from.
    pub instance_id: Uuid,
    /// How many secrets need the master key.
    pub secrets: i64,
}

/// Copies the database `file` as it is now to `to`, which must not exist: one consistent snapshot without free space,
/// not yet durable. It works beside a server: writers do not wait, only the write-ahead log grows meanwhile.
///
/// # Errors
/// When `file` is no database of matome, or `to` cannot be written.
pub async fn copy(file: &Path, to: &Path) -> Result<Facts> {
    let failed = |what: &'static str| {
        let to = to.to_owned();
        move |err: sqlx::Error| match StoreError::from(err) {
            StoreError::Database(source) => StoreError::DataDir {
                path: to,
                what: what.to_owned(),
                source: std::io::Error::other(source.to_string()),
            },
            other => other,
        }
    };
    // A reader: its snapshot is the copy, whatever is written meanwhile.
    let mut conn = read_only(file).connect().await.map_err(|err| crate::db::corrupt(file, &err))?;
    if !Pages::of(&mut Conn::Sqlite(&mut conn)).await?.can_shrink {
        // Says what the copy is to be; the file itself stays as it is. One that can already would be written to by this.
        sqlx::query("pragma auto_vacuum = incremental")
            .execute(&mut conn)
            .await
            .map_err(failed("copying the database failed"))?;
    }
    let target = to.to_str().ok_or_else(|| StoreError::DataDir {
        path: to.to_owned(),
        what: "copying the database failed".to_owned(),
        source: std::io::Error::other("the path is not UTF-8"),
    })?;
    sqlx::query("vacuum into $1")
        .bind(target)
        .execute(&mut conn)
        .await
        .map_err(failed("copying the database failed"))?;
    let _ = conn.close().await;
    let mut copy = read_only(to).connect().await.map_err(failed("reading the copy failed"))?;
    let facts = facts(&mut Conn::Sqlite(&mut copy)).await?;
    let _ = copy.close().await;
    Ok(facts)
}

/// Bytes that a copy of `file` will have, at most about: pages in use, as of now.
///
/// # Errors
/// When it is no database.
pub async fn size_bytes(file: &Path) -> Result<u64> {
    let mut conn = read_only(file).connect().await.map_err(|err| crate::db::corrupt(file, &err))?;
    let sql =
        "select (select page_count from pragma_page_count()) - (select freelist_count from pragma_freelist_count())
as pages, (select page_size from pragma_page_size()) as bytes";
    let row = Conn::Sqlite(&mut conn).fetch_one(sql, &[]).await?;
    let _ = conn.close().await;
    Ok(u64::try_from(row.int("pages")? * row.int("bytes")?).unwrap_or(0))
}

/// What a database says about itself.
///
/// # Errors
/// When it is not migrated or is gone.
pub async fn facts(conn: &mut Conn<'_>) -> Result<Facts> {
    let row = conn.fetch_one("select max(version) as version from schema_history", &[]).await?;
    Ok(Facts {
        schema_version: row.int("version")?,
        instance_id: migrate::instance_id(conn).await?,
        secrets: secrets::count_of_other_keys(conn, None).await?,
    })
}

/// Makes a restored copy in `dir` an installation of its own: migrated, with a new instance id, and without the leases of
/// the one it was copied from. Returns the new id.
///
/// # Errors
/// When it is no database of matome, or one of a newer version.
pub async fn adopt(dir: DataDir, now: Timestamp) -> Result<Uuid> {
    let db = Db::open_embedded(dir).await?;
    migrate::migrate(&db).await?;
    let id = Uuid::new_v4();
    let adopted = db
        .write(move |conn| {
            Box::pin(async move {
                conn.execute("update instance set instance_id = $1", &[id.into()]).await?;
                conn.execute("delete from backups", &[]).await?;
                tasks::void_leases(conn, now).await
            })
        })
        .await;
    db.close().await;
    adopted.map(|_| id)
}

/// Moves what the write-ahead log of `file` holds into `file` itself, so that the file alone is whole. Nobody else may use
/// the database.
///
/// # Errors
/// When it is no database.
pub async fn settle(file: &Path) -> Result<()> {
    let options = SqliteConnectOptions::new().filename(file).busy_timeout(Duration::from_secs(10));
    let mut conn = options.connect().await.map_err(|err| crate::db::corrupt(file, &err))?;
    let settled = Conn::Sqlite(&mut conn).execute("pragma wal_checkpoint(truncate)", &[]).await;
    let _ = conn.close().await;
    settled.map(drop)
}

fn read_only(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .read_only(true)
        .busy_timeout(Duration::from_secs(10))
        .pragma("cache_size", "-16000")
        .pragma("temp_store", "file")
}
