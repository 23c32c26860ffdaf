//! Exchanging a secret for its successor: alone among all processes, and kept before it is relied on.
//!
//! On PostgreSQL the exchange happens in a transaction behind an advisory lock, so that a process that dies gives its
//! turn back. An embedded database has one writer, which must not wait for a server elsewhere: there the lock is a file's.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use matome_model::task::LaneKind;
use secrecy::SecretString;

use super::{Vault, about};
use crate::db::{Conn, Db};
use crate::error::{Result, StoreError};

const TURN: &str = "select pg_advisory_xact_lock(73058089, ($1::bigint % 2147483647)::int)";
const ONE: &str = "select key_id, sealed from secrets where kind = $1 and object_id = $2 and path = $3";
/// Only what was exchanged is replaced: a user may have given another one meanwhile.
const REPLACE: &str = "update secrets set key_id = $4, sealed = $5
where kind = $1 and object_id = $2 and path = $3 and sealed = $6";

/// How often, and how long apart, keeping is tried when the database goes away just then.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
/// How often a turn is looked for where it can not be waited for.
const LOOK: Duration = Duration::from_millis(20);

/// Turns a secret into the one that takes its place; nothing when it stays as it is.
pub type Exchange = Box<dyn FnOnce(SecretString) -> BoxFuture<'static, Option<SecretString>> + Send>;

/// Which secret.
#[derive(Clone, Debug)]
struct Place {
    vault: Vault,
    kind: LaneKind,
    object_id: i64,
    path: String,
}

/// What was got for a secret that was stored as these bytes.
type Got = Arc<Mutex<Option<(Vec<u8>, SecretString)>>>;

/// What was stored, as it was stored.
struct Stored {
    sealed: Vec<u8>,
    plain: SecretString,
}

impl Place {
    async fn read(&self, conn: &mut Conn<'_>) -> Result<Stored> {
        let args = [self.kind.as_str().into(), self.object_id.into(), self.path.as_str().into()];
        let row = conn.fetch_optional(ONE, &args).await?;
        let gone = || StoreError::Secret { path: self.path.clone(), what: "it is not there any more".to_owned() };
        let row = row.ok_or_else(gone)?;
        let sealed = row.bytes("sealed")?;
        let about = about(self.kind, self.object_id, &self.path);
        let plain = self.vault.open_secret(&about, &self.path, &row.text("key_id")?, &sealed)?;
        Ok(Stored { sealed, plain })
    }

    async fn write(&self, conn: &mut Conn<'_>, before: &[u8], next: &SecretString) -> Result<()> {
        let about = about(self.kind, self.object_id, &self.path);
        let sealed = self.vault.seal(&about, secrecy::ExposeSecret::expose_secret(next).as_bytes());
        let args = [
            self.kind.as_str().into(),
            self.object_id.into(),
            self.path.as_str().into(),
            self.vault.0.id.as_str().into(),
            sealed.as_slice().into(),
            before.into(),
        ];
        conn.execute(REPLACE, &args).await.map(drop)
    }

    /// Keeps what an exchange gave, also when the database goes away for a while.
    async fn keep(&self, db: &Db, before: Vec<u8>, next: SecretString) -> Result<()> {
        let mut tries = 0;
        loop {
            let (me, before, next) = (self.clone(), before.clone(), next.clone());
            let kept = db.write(move |conn| Box::pin(async move { me.write(conn, &before, &next).await })).await;
            tries += 1;
            match kept {
                Err(_) if tries < TRIES => tokio::time::sleep(BETWEEN_TRIES).await,
                kept => return kept,
            }
        }
    }
}

/// Has `exchange` turn the secret at `path`, as it is stored now, into its successor, and stores that.
///
/// What was begun runs to its end and is stored, also when the caller has gone.
///
/// # Errors
/// [`StoreError::Secret`] when it can not be read, the database's error when its successor could not be stored, which is
/// then lost.
pub async fn replace(
    db: &Db,
    vault: &Vault,
    kind: LaneKind,
    object_id: i64,
    path: &str,
    exchange: Exchange,
) -> Result<()> {
    let place = Place { vault: vault.clone(), kind, object_id, path: path.to_owned() };
    let db = db.clone();
    let work = async move {
        match db.embedded_file() {
            Some(file) => embedded(&db, file.with_file_name("secrets.lock"), place, exchange).await,
            None => shared(&db, place, exchange).await,
        }
    };
    let ended = tokio::spawn(work).await;
    ended.unwrap_or_else(|_| {
        Err(StoreError::Secret { path: path.to_owned(), what: "its exchange broke off".to_owned() })
    })
}

async fn shared(db: &Db, place: Place, exchange: Exchange) -> Result<()> {
    // What was got outlives a transaction that can not commit.
    let got = Got::default();
    let (me, told) = (place.clone(), got.clone());
    let written = db.write(move |conn| {
        Box::pin(async move {
            conn.fetch_all(TURN, &[me.object_id.into()]).await?;
            let Stored { sealed, plain } = me.read(conn).await?;
            let Some(next) = exchange(plain).await else { return Ok(()) };
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some((sealed.clone(), next.clone()));
            me.write(conn, &sealed, &next).await
        })
    });
    let written = written.await;
    let got = got.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (written, got) {
        (Err(_), Some((before, next))) => place.keep(db, before, next).await,
        (written, _) => written,
    }
}

async fn embedded(db: &Db, lock: PathBuf, place: Place, exchange: Exchange) -> Result<()> {
    let failed = |source| StoreError::DataDir {
        path: lock.clone(),
        what: "taking a turn to change a secret failed".to_owned(),
        source,
    };
    let turn = File::options().create(true).truncate(false).write(true).open(&lock).map_err(failed)?;
    loop {
        match turn.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOOK).await,
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
    let Stored { sealed, plain } = place.read(&mut db.read().await?.conn()).await?;
    match exchange(plain).await {
        Some(next) => place.keep(db, sealed, next).await,
        None => Ok(()),
    }
    // The turn ends with the file.
}
