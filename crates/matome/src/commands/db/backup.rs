//! `matome db backup`: a copy of the database as it is now, while others work on it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::Utc;
use matome_store::backup::{self, Facts};
use matome_store::backups;
use matome_store::db::{Db, Snapshot};
use serde_json::value::to_raw_value;
use uuid::Uuid;

use super::manifest::{DATABASE, KEY, MANIFEST, Manifest, hash_file};
use crate::app::connect;
use crate::cli::{OutputArgs, StorageArgs};
use crate::console::Console;
use crate::failure::{Exit, Failure, of_postgres};
use crate::message::Message;
use crate::output::print_row;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Where the backup goes.
    pub to: &'a Path,
    /// Whether the key goes with it.
    pub with_key: bool,
    /// Whether it may take the place of another backup.
    pub force: bool,
}

pub async fn run(
    storage: &StorageArgs,
    console: &Console,
    plan: &Plan<'_>,
    output: &OutputArgs,
) -> Result<(), Failure> {
    let file = storage.data_dir.join(DATABASE);
    if storage.database_url.is_none() && !file.exists() {
        let dir = storage.data_dir.display().to_string();
        return Err(Failure::new(Exit::Config, Message::NoDatabase { dir }).help(Message::NameDatabase));
    }
    let to = target(plan.to, plan.force)?;
    let failed = |err: io::Error| cannot_write(&to, &err);
    let part = Part::make(&to).map_err(failed)?;

    let copy = part.0.join(DATABASE);
    let facts = match &storage.database_url {
        // The same form for both: what is in it can be restored to either.
        Some(url) => {
            let mut snapshot = Snapshot::of_postgres(url).await.map_err(|err| of_postgres(err, url))?;
            super::copy::into_file(&mut snapshot, &copy, console).await?;
            backup::facts(&mut snapshot.conn()).await?
        }
        None => copy_file(&file, &copy, console).await?,
    };
    // The directory is closed to others; a copy of it may not be.
    fs::set_permissions(&copy, Permissions::from_mode(0o600)).map_err(failed)?;
    let total = fs::metadata(&copy).map_or(0, |meta| meta.len());
    if plan.with_key {
        copy_key(storage, &part.0.join(KEY))?;
    }
    let mut progress = console.progress("backup", "bytes", Some(total));
    let hashed = copy.clone();
    let (sha256, size_bytes) = tokio::task::block_in_place(|| {
        OpenOptions::new().read(true).open(&hashed)?.sync_all()?;
        hash_file(&hashed, |at| progress.at(at, "hashing"))
    })
    .map_err(failed)?;
    progress.end(size_bytes, "hashed");
    let manifest = Manifest {
        format: Manifest::format(),
        matome_version: env!("CARGO_PKG_VERSION").to_owned(),
        schema_version: facts.schema_version,
        instance_id: facts.instance_id.to_string(),
        made_at: Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        size_bytes,
        sha256,
        secrets: facts.secrets,
        with_key: plan.with_key,
    };
    write_manifest(&part.0, &manifest).map_err(failed)?;
    part.rename_to(&to).map_err(failed)?;

    // The backup is there whether or not this can be written.
    if let Err(failure) = note(storage, Some(size_bytes)).await {
        tracing::warn!(error = failure.what.english, "the time of the backup was not noted in the database");
    }
    let mut row = serde_json::to_value(&manifest).expect("a manifest is JSON");
    row["path"] = to.display().to_string().into();
    print_row(console, output, &to_raw_value(&row).expect("a value is JSON"))?;
    console.notice(Message::BackedUp { dir: to.display().to_string() });
    if plan.with_key {
        console.notice(Message::KeyIncluded);
    } else if manifest.secrets > 0 {
        console.notice(Message::KeyNotIncluded { n: manifest.secrets.to_string() });
    }
    Ok(())
}

/// Notes in the database that a backup was made just now, beside whoever works on it.
pub async fn note(storage: &StorageArgs, size_bytes: Option<u64>) -> Result<(), Failure> {
    let db = match &storage.database_url {
        Some(url) => connect(url, Uuid::now_v7(), 2).await?,
        None if !storage.data_dir.join(DATABASE).exists() => {
            let dir = storage.data_dir.display().to_string();
            return Err(Failure::new(Exit::Config, Message::NoDatabase { dir }).help(Message::NameDatabase));
        }
        None => Db::open_beside(&storage.data_dir).await?,
    };
    let now = Utc::now();
    let noted = db.write(move |conn| Box::pin(async move { backups::note(conn, now, size_bytes).await })).await;
    db.close().await;
    Ok(noted?)
}

async fn copy_file(file: &Path, copy: &Path, console: &Console) -> Result<Facts, Failure> {
    let total = backup::size_bytes(file).await?;
    let mut progress = console.progress("backup", "bytes", Some(total));
    let mut copying = Box::pin(backup::copy(file, copy));
    loop {
        tokio::select! {
            facts = &mut copying => {
                progress.end(total, "copied");
                return Ok(facts?);
            }
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                progress.at(fs::metadata(copy).map_or(0, |meta| meta.len()), "copying");
            }
        }
    }
}

/// The directory to make: the given one, or one in it with the time in its name.
fn target(to: &Path, force: bool) -> Result<PathBuf, Failure> {
    let shown = || to.display().to_string();
    if !to.exists() {
        return Ok(to.to_owned());
    }
    if !to.is_dir() {
        return Err(Failure::new(Exit::Usage, Message::NotDirectory { dir: shown() }).help(Message::ForceBackup));
    }
    if to.join(MANIFEST).exists() {
        return match force {
            true => Ok(to.to_owned()),
            false => {
                Err(Failure::new(Exit::Conflict, Message::BackupThere { dir: shown() }).help(Message::ForceBackup))
            }
        };
    }
    let named = to.join(format!("matome-{}", Utc::now().format("%Y%m%dT%H%M%SZ")));
    match named.exists() {
        true if !force => {
            let dir = named.display().to_string();
            Err(Failure::new(Exit::Conflict, Message::BackupThere { dir }).help(Message::ForceBackup))
        }
        _ => Ok(named),
    }
}

fn copy_key(storage: &StorageArgs, to: &Path) -> Result<(), Failure> {
    let from = storage.master_key_file.clone().unwrap_or_else(|| storage.data_dir.join(KEY));
    let key = fs::read(&from).map_err(|err| {
        let file = from.display().to_string();
        Failure::new(Exit::Config, Message::NoKeyToInclude { file }).because(&err).help(Message::LeaveWithKey)
    })?;
    write_private(to, &key).map_err(|err| cannot_write(to, &err))
}

/// Writes a file that only its owner reads, durably.
pub(super) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn write_manifest(dir: &Path, manifest: &Manifest) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(manifest).expect("a manifest is JSON");
    text.push('\n');
    write_private(&dir.join(MANIFEST), text.as_bytes())?;
    sync_dir(dir)
}

/// Makes names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn cannot_write(path: &Path, err: &io::Error) -> Failure {
    Failure::new(Exit::Failed, Message::CannotWrite { file: path.display().to_string() })
        .because(err)
        .help(Message::CheckRoom)
}

/// The directory that becomes the backup; removed again when that does not happen.
struct Part(PathBuf);

impl Part {
    fn make(to: &Path) -> io::Result<Self> {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(format!(".part-{}", std::process::id()));
        let part = to.with_file_name(name);
        let mut builder = DirBuilder::new();
        builder.mode(0o700).create(&part)?;
        Ok(Self(part))
    }

    /// Puts it in place; a backup that is there is moved away first and removed last.
    fn rename_to(self, to: &Path) -> io::Result<()> {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(format!(".old-{}", std::process::id()));
        let old = to.with_file_name(name);
        let was_there = to.exists();
        if was_there {
            fs::rename(to, &old)?;
        }
        if let Err(err) = fs::rename(&self.0, to) {
            if was_there {
                let _ = fs::rename(&old, to);
            }
            return Err(err);
        }
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_dir(parent)?;
        if was_there { fs::remove_dir_all(&old) } else { Ok(()) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After the renaming there is nothing under this name.
        let _ = fs::remove_dir_all(&self.0);
    }
}
