//! `matome db ...`

use std::path::PathBuf;

use clap::Subcommand;

use super::{OutputArgs, StorageArgs};

#[derive(Debug, Subcommand)]
pub enum DbCommand {
    /// Checks everything that must always hold in the stored data. Changes nothing.
    #[command(after_help = "Reads one consistent snapshot, also while a server works on the database.\n\
        Exit codes: 0 all holds, 1 something does not: that is a defect of matome or of the disk; please report it.")]
    Check {
        #[command(flatten)]
        storage: StorageArgs,
        /// Hashes every record again instead of about a thousand, and compares the indexes of SQLite with its tables.
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Makes a backup while servers work on the database.
    #[command(
        after_help = "The copy is one consistent snapshot: a directory with matome.db and manifest.json (version, \
        schema, instance, time,\nSHA-256). It appears under its name only when it is whole. A backup of PostgreSQL has the same \
        form, and can be\nrestored to either.\n\n\
        Examples:\n  matome db backup /backup/monday --data-dir data\n  \
        matome db backup /backup --data-dir data        makes /backup/matome-20261124T120000Z"
    )]
    Backup {
        #[command(flatten)]
        storage: StorageArgs,
        /// Directory to make; when it is there and is no backup, a directory with the time in its name is made in it.
        #[arg(value_name = "DIR")]
        to: PathBuf,
        /// Puts master.key in too (mode 0600). Whoever has both can read the secrets.
        #[arg(long)]
        with_key: bool,
        /// Replaces a backup that is there.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Notes that a backup was made just now by other means, for `doctor --deploy`, which tells how old the last one is.
    #[command(after_help = "Example:\n  pg_dump --format=custom --file=/backup/matome.dump && matome db note-backup")]
    NoteBackup {
        #[command(flatten)]
        storage: StorageArgs,
    },
    /// Puts a backup into a data directory that no process uses, or into an empty PostgreSQL database.
    #[command(
        after_help = "The copy is compared with its SHA-256, migrated, checked as by `db check`, and only then put \
        in place. It becomes an\ninstallation of its own: new instance id, no leases. A database that is there is kept \
        aside with --force.\n\nExample:\n  matome db restore /backup/monday --data-dir data"
    )]
    Restore {
        #[command(flatten)]
        storage: StorageArgs,
        /// Directory that `db backup` made.
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// Takes the place of a database that is there; the old files get the time in their names.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Copies all of a database into one of the other kind, every row under its id.
    #[command(
        after_help = "The source is read in one snapshot, also beside a server. Before anything is written, every row is looked at: \
        one that\nthe target cannot hold is named. The target is empty, and has nothing until it has all: when a copy is killed, run \
        it again.\nIn the end every row is read back and compared. It is an installation of its own: new instance id, no leases. \
        master.key is\nnot copied.\n\nExamples:\n  matome db copy --from sqlite:data --to postgres://matome:secret@localhost/matome\n  \
        matome db copy --from postgres://matome:secret@localhost/matome --to sqlite:data2"
    )]
    Copy {
        /// sqlite:DIR, or the URL of a PostgreSQL database.
        #[arg(long, value_name = "DATABASE")]
        from: String,
        /// sqlite:DIR, or the URL of an empty PostgreSQL database.
        #[arg(long, value_name = "DATABASE")]
        to: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}
