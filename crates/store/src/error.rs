//! What can go wrong in the store.

use std::path::PathBuf;

use matome_model::field_error::Words;

/// An error of the store. Only what a caller decides on has a variant of its own.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The lane was leased again: whatever this worker did is rolled back and must be dropped.
    #[error("the lease of lane {lane_id} (epoch {lease_epoch}) was lost")]
    Fenced {
        /// The lane.
        lane_id: i64,
        /// The epoch that this worker held.
        lease_epoch: i64,
    },
    /// The checkpoint is not where this read left it: it was reset or removed meanwhile.
    #[error("the checkpoint of source {source_id} is no longer at page {page_seq}")]
    CheckpointMoved {
        /// The source.
        source_id: i64,
        /// Pages that the reader had committed.
        page_seq: i64,
    },
    /// A row that must be unique is there already.
    #[error("`{constraint}` refuses a second row")]
    Unique {
        /// Name of the constraint (PostgreSQL) or `table.column` (SQLite).
        constraint: String,
        /// The driver's error.
        #[source]
        source: sqlx::Error,
    },
    /// The disk that holds the database is full.
    #[error("the disk that holds the database is full")]
    DiskFull(#[source] sqlx::Error),
    /// The address of the database cannot be one.
    #[error("`DATABASE_URL` is no address of a PostgreSQL database: {what}")]
    DatabaseUrl {
        /// What is wrong with it, without the address: it may hold a password.
        what: String,
    },
    /// The database could not be reached or ended the session; worth another try.
    #[error("the database is not reachable")]
    Unreachable(#[source] sqlx::Error),
    /// The server refuses the user, its password, the database or a right: it will until somebody changes that.
    #[error("the database server refuses this user or database")]
    Refused(#[source] sqlx::Error),
    /// COMMIT did not answer: the transaction may or may not have happened.
    #[error("the database did not confirm the commit")]
    CommitUnknown(#[source] sqlx::Error),
    /// The schema is not one that this binary works with.
    #[error("the database has schema version {found}, this binary works with {wanted}")]
    SchemaVersion {
        /// Version in the database; 0 when it has no tables of ours.
        found: i64,
        /// What this binary accepts, for people.
        wanted: String,
    },
    /// Another process holds the data directory.
    #[error("`{}` is in use by another matome process", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// The data directory or its database file cannot be used.
    #[error("cannot use `{}`: {what}", path.display())]
    DataDir {
        /// The directory or file.
        path: PathBuf,
        /// What was tried.
        what: String,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// The file of the master key cannot be read, or there is no key in it.
    #[error("the master key `{}` cannot be used", path.display())]
    MasterKey {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a database, or it is damaged.
    #[error("`{}` is not a readable database: {what}", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What the check said.
        what: String,
    },
    /// A stored value does not have the form this binary writes.
    #[error("column `{column}` holds what cannot be read: {what}")]
    Inconsistent {
        /// Column, with its table where known.
        column: String,
        /// What is wrong.
        what: String,
    },
    /// A secret could not be encrypted or decrypted.
    #[error("secret `{path}` cannot be read: {what}")]
    Secret {
        /// Path of the secret in its config.
        path: String,
        /// What is wrong, without the value.
        what: String,
    },
    /// Another session uses tables that are to be altered.
    #[error("another session holds the tables")]
    TablesHeld(#[source] sqlx::Error),
    /// The writer has ended: the process is shutting down.
    #[error("the store is closed")]
    Closed,
    /// Anything else that the database refuses: a defect of ours.
    #[error("the database refused a statement")]
    Database(#[source] sqlx::Error),
}

/// Result of a store function.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    /// What it says, in both languages.
    pub fn words(&self) -> Words {
        let japanese = match self {
            Self::Fenced { lane_id, lease_epoch } => {
                format!("レーン {lane_id} のリース (エポック {lease_epoch}) を失いました")
            }
            Self::CheckpointMoved { source_id, page_seq } => {
                format!("データソース {source_id} のチェックポイントはもうページ {page_seq} にありません")
            }
            Self::Unique { constraint, .. } => format!("`{constraint}` により同じ行を二つ持てません"),
            Self::DiskFull(_) => "データベースのディスクに空きがありません".to_owned(),
            Self::DatabaseUrl { what } => {
                format!("`DATABASE_URL` は PostgreSQL データベースのアドレスではありません: {what}")
            }
            Self::Unreachable(_) => "データベースに接続できません".to_owned(),
            Self::TablesHeld(_) => "別のセッションがテーブルを使っています".to_owned(),
            Self::Refused(_) => "データベースがログインを拒否しました".to_owned(),
            Self::CommitUnknown(_) => "データベースがコミットを確認しませんでした".to_owned(),
            Self::SchemaVersion { found, wanted } => {
                format!("データベースのスキーマは版 {found} で、このプログラムが使えるのは {wanted} です")
            }
            Self::InUse { path } => format!("`{}` は別の matome プロセスが使っています", path.display()),
            Self::DataDir { path, what, .. } => format!("`{}` を使えません: {what}", path.display()),
            Self::MasterKey { path, .. } => format!("マスターキー `{}` を使えません", path.display()),
            Self::Corrupt { path, what } => format!("`{}` はデータベースとして読めません: {what}", path.display()),
            Self::Inconsistent { column, what } => format!("列 `{column}` の内容を読めません: {what}"),
            Self::Secret { path, what } => format!("秘密の値 `{path}` を読めません: {what}"),
            Self::Closed => "データベースは閉じられました".to_owned(),
            Self::Database(_) => "データベースが文を拒否しました".to_owned(),
        };
        Words::new(self.to_string(), japanese)
    }

    /// Whether the same call may succeed a little later without anybody doing anything about it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::CommitUnknown(_) | Self::DiskFull(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(err: sqlx::Error) -> Self {
        match &err {
            sqlx::Error::Database(db) => {
                let code = db.code().unwrap_or_default();
                if db.is_unique_violation() {
                    // SQLite names the columns in its message: `UNIQUE constraint failed: t.a, t.b`.
                    let constraint = db
                        .constraint()
                        .map_or_else(|| db.message().rsplit(": ").next().unwrap_or_default().to_owned(), str::to_owned);
                    return Self::Unique { constraint, source: err };
                }
                match code.as_ref() {
                    // 13 is SQLITE_FULL, 4874 a write-ahead log whose index finds no room.
                    "13" | "4874" | "53100" => Self::DiskFull(err),
                    // Class 08: connection; 57P01..03: the server is going away or starting;
                    // 40001, 40P01: serialisation and deadlock; SQLite 5 and 261: busy.
                    c if c.starts_with("08") || c.starts_with("57P0") => Self::Unreachable(err),
                    // 53300: its connections are all taken.
                    "40001" | "40P01" | "5" | "261" | "25P03" | "53300" => Self::Unreachable(err),
                    // Class 28: authentication; 3D000: no such database; 42501: a right is missing.
                    c if c.starts_with("28") => Self::Refused(err),
                    "3D000" | "42501" => Self::Refused(err),
                    _ => Self::Database(err),
                }
            }
            sqlx::Error::Configuration(what) => Self::DatabaseUrl { what: what.to_string() },
            // The pool gave a session whose last user was dropped within its transaction: another one will do.
            sqlx::Error::BeginFailed
            | sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Tls(_) => Self::Unreachable(err),
            _ => Self::Database(err),
        }
    }
}
