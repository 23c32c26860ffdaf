//! `matome db restore`: a backup becomes the database of a data directory that nobody uses, or fills one of PostgreSQL.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chrono::Utc;
use matome_model::clock::Clock;
use matome_store::backup;
use matome_store::check::check;
use matome_store::db::{DataDir, Snapshot};
use serde_json::json;
use serde_json::value::to_raw_value;
use sha2::{Digest as _, Sha256};

use super::backup::{sync_dir, write_private};
use super::manifest::{DATABASE, KEY, Manifest};
use crate::cli::{OutputArgs, StorageArgs};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::print_row;

/// Where the copy is made ready, in the data directory itself: putting it in place is a rename.
const STAGE: &str = "restoring";

pub async fn run(
    storage: &StorageArgs,
    console: &Console,
    from: &Path,
    force: bool,
    output: &OutputArgs,
) -> Result<(), Failure> {
    let manifest = Manifest::read(from)?;
    if let Some(url) = &storage.database_url {
        return into_postgres(storage, console, from, &manifest, url, output).await;
    }
    let file = storage.data_dir.join(DATABASE);
    // Held to the end, so that no server starts meanwhile.
    let dir = DataDir::acquire(&storage.data_dir)?;
    if file.exists() && !force {
        let dir = storage.data_dir.display().to_string();
        return Err(Failure::new(Exit::Conflict, Message::DatabaseThere { dir }).help(Message::ForceRestore));
    }
    let key = Key::of(storage, from, &manifest, force)?;

    let stage = Stage::make(&storage.data_dir)?;
    copy(from, &stage.0, &manifest, console)?;
    let instance_id = backup::adopt(DataDir::acquire(&stage.0)?, Clock::system().now()).await?;
    let ready = stage.0.join(DATABASE);
    let verdicts = check(&mut Snapshot::of_file(&ready).await?, false).await?;
    if let Some(failure) = super::broken(&verdicts) {
        return Err(failure);
    }
    backup::settle(&ready).await?;

    let failed = |err: io::Error| {
        Failure::new(Exit::Failed, Message::CannotWrite { file: file.display().to_string() })
            .because(&err)
            .help(Message::CheckRoom)
    };
    let suffix = Utc::now().format("before-%Y%m%dT%H%M%SZ").to_string();
    let aside = match file.exists() {
        true => Some(put_aside(&file, &suffix).await.map_err(failed)?),
        false => None,
    };
    key.put(&suffix).map_err(failed)?;
    fs::rename(&ready, &file).and_then(|()| sync_dir(dir.path())).map_err(failed)?;

    let row = json!({
        "data_dir": storage.data_dir.display().to_string(),
        "instance_id": instance_id.to_string(),
        "restored_from": manifest.instance_id,
        "made_at": manifest.made_at,
        "kept_aside": aside.as_ref().map(|path| path.display().to_string()),
    });
    print_row(console, output, &to_raw_value(&row).expect("a value is JSON"))?;
    console.notice(Message::Restored { dir: storage.data_dir.display().to_string() });
    if let Some(aside) = aside {
        console.notice(Message::KeptAside { file: aside.display().to_string() });
    }
    if manifest.secrets > 0 && !key.will_be_there {
        let (n, file) = (manifest.secrets.to_string(), key.file.display().to_string());
        console.notice(Message::PutKey { n, file });
    }
    Ok(())
}

/// The same into a PostgreSQL database that is empty, by way of a copy beneath the data directory.
async fn into_postgres(
    storage: &StorageArgs,
    console: &Console,
    from: &Path,
    manifest: &Manifest,
    url: &str,
    output: &OutputArgs,
) -> Result<(), Failure> {
    let key = Key::of(storage, from, manifest, false)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&storage.data_dir).map_err(|err| {
        let dir = storage.data_dir.display().to_string();
        Failure::new(Exit::Config, Message::CannotMake { dir }).because(&err).help(Message::CheckDataDir)
    })?;
    let stage = Stage::make(&storage.data_dir)?;
    copy(from, stage.path(), manifest, console)?;
    backup::adopt(DataDir::acquire(stage.path())?, Clock::system().now()).await?;
    let mut snapshot = Snapshot::of_file(&stage.path().join(DATABASE)).await?;
    super::copy::into_postgres(&mut snapshot, url, console).await?;
    let suffix = Utc::now().format("before-%Y%m%dT%H%M%SZ").to_string();
    key.put(&suffix).map_err(|err| {
        let file = key.file.display().to_string();
        Failure::new(Exit::Failed, Message::CannotWrite { file }).because(&err).help(Message::CheckRoom)
    })?;
    let instance_id = backup::facts(&mut Snapshot::of_postgres(url).await?.conn()).await?.instance_id;
    let row = json!({
        "instance_id": instance_id.to_string(),
        "restored_from": manifest.instance_id,
        "made_at": manifest.made_at,
    });
    print_row(console, output, &to_raw_value(&row).expect("a value is JSON"))?;
    console.notice(Message::RestoredToServer);
    if manifest.secrets > 0 && !key.will_be_there {
        let (n, file) = (manifest.secrets.to_string(), key.file.display().to_string());
        console.notice(Message::PutKey { n, file });
    }
    Ok(())
}

/// Copies the database and compares it with the manifest on the way.
fn copy(from: &Path, stage: &Path, manifest: &Manifest, console: &Console) -> Result<(), Failure> {
    let (source, target) = (from.join(DATABASE), stage.join(DATABASE));
    let unreadable = |err: io::Error| {
        Failure::new(Exit::Config, Message::CannotRead { file: source.display().to_string() })
            .because(&err)
            .help(Message::UseOtherBackup)
    };
    let failed = |err: io::Error| {
        Failure::new(Exit::Failed, Message::CannotWrite { file: target.display().to_string() })
            .because(&err)
            .help(Message::CheckRoom)
    };
    let mut progress = console.progress("restore", "bytes", Some(manifest.size_bytes));
    let mut reader = File::open(&source).map_err(unreadable)?;
    let mut writer = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target).map_err(failed)?;
    let (mut hash, mut buffer, mut length) = (Sha256::new(), vec![0; 1 << 20], 0u64);
    loop {
        let n = reader.read(&mut buffer).map_err(unreadable)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        writer.write_all(&buffer[..n]).map_err(failed)?;
        length += n as u64;
        progress.at(length, "copying");
    }
    writer.sync_all().map_err(failed)?;
    progress.end(length, "copied");
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != manifest.sha256 {
        let hashes = Message::Hashes { found, wanted: manifest.sha256.clone() };
        return Err(Failure::new(Exit::Config, Message::BackupDamaged { file: source.display().to_string() })
            .why(hashes)
            .help(Message::UseOtherBackup));
    }
    Ok(())
}

/// Gives the database that is there a second name, then takes away what belongs to its first: at no moment is it without
/// one, and no foreign write-ahead log lies beside the new one.
async fn put_aside(file: &Path, suffix: &str) -> io::Result<PathBuf> {
    // A file that cannot be opened is kept as it is, with its log.
    let _ = backup::settle(file).await;
    let aside = named(file, suffix);
    fs::hard_link(file, &aside)?;
    let log = named_wal(file);
    if log.exists() {
        fs::hard_link(&log, named_wal(&aside))?;
        fs::remove_file(&log)?;
    }
    let _ = fs::remove_file(file.with_file_name(format!("{DATABASE}-shm")));
    Ok(aside)
}

fn named(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    file.with_file_name(name)
}

fn named_wal(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push("-wal");
    file.with_file_name(name)
}

/// What happens to the key.
struct Key {
    /// Where the data directory expects it.
    file: PathBuf,
    /// The key of the backup, when it has to be written.
    new: Option<Vec<u8>>,
    /// Whether there is one in the end.
    will_be_there: bool,
}

impl Key {
    fn of(storage: &StorageArgs, from: &Path, manifest: &Manifest, force: bool) -> Result<Self, Failure> {
        let file = storage.master_key_file.clone().unwrap_or_else(|| storage.data_dir.join(KEY));
        let there = fs::read(&file).ok();
        if !manifest.with_key {
            let will_be_there = there.is_some();
            return Ok(Self { file, new: None, will_be_there });
        }
        let new = fs::read(from.join(KEY)).map_err(|err| {
            Failure::new(Exit::Config, Message::CannotRead { file: from.join(KEY).display().to_string() })
                .because(&err)
                .help(Message::UseOtherBackup)
        })?;
        match there {
            Some(there) if there == new => Ok(Self { file, new: None, will_be_there: true }),
            Some(_) if !force => {
                let file = file.display().to_string();
                Err(Failure::new(Exit::Conflict, Message::OtherKeyThere { file }).help(Message::ForceRestore))
            }
            _ => Ok(Self { file, new: Some(new), will_be_there: true }),
        }
    }

    /// Writes the new key; one that is there is kept aside.
    fn put(&self, suffix: &str) -> io::Result<()> {
        let Some(new) = &self.new else { return Ok(()) };
        let beside = named(&self.file, "new");
        let _ = fs::remove_file(&beside);
        write_private(&beside, new)?;
        if self.file.exists() {
            fs::hard_link(&self.file, named(&self.file, suffix))?;
        }
        fs::rename(&beside, &self.file)
    }
}

/// The directory in which the copy is made ready; removed in the end.
pub(super) struct Stage(PathBuf);

impl Stage {
    pub(super) fn make(data_dir: &Path) -> Result<Self, Failure> {
        let stage = data_dir.join(STAGE);
        // Of a restore that was killed; the lock of the data directory is ours.
        let _ = fs::remove_dir_all(&stage);
        fs::create_dir(&stage).map_err(|err| {
            Failure::new(Exit::Config, Message::CannotMake { dir: stage.display().to_string() })
                .because(&err)
                .help(Message::CheckDataDir)
        })?;
        Ok(Self(stage))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
