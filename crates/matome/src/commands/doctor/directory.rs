//! M010 to M019: the data directory, its permissions, its key and the room on its disk.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{Finding, Severity};
use crate::cli::ServeArgs;
use crate::failure::{Exit, Failure};
use crate::message::Message;

/// Below this much room the disk is about to be full.
const LITTLE: u64 = 64 << 20;
/// Below this much a disk wants attention.
const SOME: u64 = 1 << 30;

pub fn look(args: &ServeArgs) -> Vec<Finding> {
    let dir = &args.storage.data_dir;
    let shown = || dir.display().to_string();
    let Ok(meta) = std::fs::metadata(dir) else {
        let fix = if args.storage.database_url.is_some() { Message::MadeAtStart } else { Message::NameDataDirectory };
        return vec![Finding::new("M010", Severity::Note, Message::NoDataDirectory { dir: shown() }, fix)];
    };
    let mut findings = Vec::new();
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        findings.push(Finding::ok("M010", Message::DirPrivate { dir: shown(), mode: format!("{mode:o}") }));
    } else {
        let (what, fix) = (
            Message::DirOpen { dir: shown(), mode: format!("{mode:o}") },
            Message::MakePrivate { mode: "700".to_owned(), path: shown() },
        );
        findings.push(Finding::new("M010", Severity::Warning, what, fix));
    }
    if rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_err() {
        let what = Message::CannotWrite { file: shown() };
        findings.push(Finding::new("M011", Severity::Error, what, Message::CheckDataDir));
    }
    findings.push(key(args));
    findings.push(room(dir));
    findings
}

fn key(args: &ServeArgs) -> Finding {
    let named = args.storage.master_key_file.clone();
    let file = named.clone().unwrap_or_else(|| args.storage.data_dir.join("master.key"));
    let shown = || file.display().to_string();
    let Ok(meta) = std::fs::metadata(&file) else {
        // Whether secrets need it is what the database says (M022).
        let (severity, fix) = match named {
            Some(_) => (Severity::Error, Message::CheckFile),
            None => (Severity::Note, Message::MadeAtStart),
        };
        return Finding::new("M012", severity, Message::NoKeyFile { file: shown() }, fix);
    };
    if let Err(err) = matome_store::secrets::Vault::from_file(&file) {
        return Finding::of_failure("M012", Failure::from(err));
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Finding::ok("M012", Message::KeyPrivate { file: shown(), mode: format!("{mode:o}") });
    }
    let fix = Message::MakePrivate { mode: "600".to_owned(), path: shown() };
    Finding::new("M012", Severity::Warning, Message::KeyOpen { file: shown(), mode: format!("{mode:o}") }, fix)
}

fn room(dir: &Path) -> Finding {
    match rustix::fs::statvfs(dir) {
        Err(err) => {
            let what = Message::CannotRead { file: dir.display().to_string() };
            Finding::of_failure("M013", Failure::new(Exit::Failed, what).because(&err))
        }
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let all = disk.f_blocks.saturating_mul(disk.f_frsize).max(1);
            let (mib, percent) = ((free >> 20).to_string(), (free.saturating_mul(100) / all).to_string());
            let what = Message::DiskRoom { mib, percent };
            match free {
                free if free < LITTLE => Finding::new("M013", Severity::Error, what, Message::FreeSpace),
                free if free < SOME => Finding::new("M013", Severity::Warning, what, Message::FreeSpaceSoon),
                _ => Finding::ok("M013", what),
            }
        }
    }
}
