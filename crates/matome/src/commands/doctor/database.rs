//! M020 to M029: the database.

use std::time::Instant;

use matome_model::say;
use matome_store::adoption::ids;
use matome_store::db::{Pages, Snapshot};
use matome_store::migrate::{self, SCHEMA_VERSION};
use matome_store::{about, secrets};

use super::{Finding, Severity};
use crate::cli::ServeArgs;
use crate::client::{SOCKET, socket_answers};
use crate::failure::{Failure, of_postgres};
use crate::message::Message;

/// A database that answers a plain question slower than this makes everything slow.
const SLOW_MILLIS: u128 = 200;
/// Clocks of two machines that differ more make times in lists puzzling.
const SKEW_SECS: i64 = 2;

pub async fn look(args: &ServeArgs) -> Vec<Finding> {
    let mut findings = Vec::new();
    let file = args.storage.data_dir.join("matome.db");
    let started = Instant::now();
    let snapshot = match &args.storage.database_url {
        Some(url) => Snapshot::of_postgres(url).await,
        None if !file.exists() => {
            let what = Message::NoDatabase { dir: args.storage.data_dir.display().to_string() };
            return vec![Finding::new("M020", Severity::Note, what, Message::MadeAtStart)];
        }
        None => Snapshot::of_file(&file).await,
    };
    let failure = |err| match &args.storage.database_url {
        Some(url) => of_postgres(err, url),
        None => Failure::from(err),
    };
    let mut snapshot = match snapshot {
        Ok(snapshot) => snapshot,
        Err(err) => return vec![Finding::of_failure("M020", failure(err))],
    };
    let connected = started.elapsed().as_millis();
    let about = match about::about(&mut snapshot.conn()).await {
        Ok(about) => about,
        Err(err) => return vec![Finding::of_failure("M020", Failure::from(err))],
    };
    let what = Message::DatabaseAnswers {
        version: about.server_version,
        connect: connected.to_string(),
        answer: about.answer_millis.to_string(),
    };
    findings.push(match about.answer_millis {
        slow if slow > SLOW_MILLIS => Finding::new("M020", Severity::Warning, what, Message::CheckLoad),
        _ => Finding::ok("M020", what),
    });
    findings.push(match migrate::check_on(&mut snapshot.conn()).await {
        Ok(()) if about.schema_version < SCHEMA_VERSION => {
            let (found, to) = (about.schema_version.to_string(), SCHEMA_VERSION.to_string());
            Finding::new("M021", Severity::Note, Message::MigrationOpen { found, to }, Message::EndOlder)
        }
        Ok(()) => Finding::ok("M021", Message::SchemaCurrent { to: SCHEMA_VERSION.to_string() }),
        Err(err) => {
            let mut finding = Finding::of_failure("M021", Failure::from(err));
            // An older embedded database is no trouble: `serve` migrates it.
            if args.storage.database_url.is_none() && about.schema_version < SCHEMA_VERSION {
                finding.severity = Severity::Note;
                finding.fix = Some(Message::MigratedAtStart.into());
            }
            finding
        }
    });
    findings.extend(sealed(args, &mut snapshot).await);
    findings.extend(scarce_ids(&mut snapshot).await);
    if let Some(skew) = about.clock_skew_secs.filter(|skew| skew.abs() > SKEW_SECS) {
        let what = Message::ClockSkew { secs: skew.to_string() };
        findings.push(Finding::new("M023", Severity::Warning, what, Message::SetClocks));
    }
    if args.storage.database_url.is_none() {
        let is_served = socket_answers(&args.storage.data_dir.join(SOCKET)).await;
        findings.push(Finding::ok("M024", if is_served { Message::ServerRuns } else { Message::ServerRests }));
        findings.extend(stuck_space(&mut snapshot).await);
    }
    findings
}

/// Whether the secrets of the database can be opened.
async fn sealed(args: &ServeArgs, snapshot: &mut Snapshot) -> Option<Finding> {
    let named = args.storage.master_key_file.clone();
    let file = named.unwrap_or_else(|| args.storage.data_dir.join("master.key"));
    let vault = secrets::Vault::from_file(&file).ok();
    let others = secrets::count_of_other_keys(&mut snapshot.conn(), vault.as_ref()).await.ok()?;
    if others == 0 {
        return None;
    }
    let what = Message::SecretsSealed { n: others.to_string() };
    Some(Finding::new("M022", Severity::Error, what, Message::RestoreKey))
}

/// Whether much of an embedded file is free and stays in it.
async fn stuck_space(snapshot: &mut Snapshot) -> Option<Finding> {
    let pages = Pages::of(&mut snapshot.conn()).await.ok()?;
    if pages.can_shrink || pages.excess() == 0 {
        return None;
    }
    let mib = (pages.free * pages.size_bytes) >> 20;
    let what = say!(
        "{mib} MiB of the database file are free and cannot be given back to the disk: an older version made it",
        "データベースファイルの {mib} MiB が空いていますが、古い版が作ったファイルなので、ディスクに返せません"
    );
    let fix = say!(
        "they are used again by new records; to have a file that shrinks, run `matome db backup`, then `matome db restore`",
        "空きは新しいレコードに使われます。縮むファイルにするには、`matome db backup` のあと `matome db restore` を実行してください"
    );
    Some(Finding::new("M026", Severity::Note, what, fix))
}

/// Whether ids of 32 bits come to an end; an adopted database may have such.
async fn scarce_ids(snapshot: &mut Snapshot) -> Vec<Finding> {
    let ranges = ids::ranges(&mut snapshot.conn()).await.unwrap_or_default();
    let finding = |range: &ids::IdRange| {
        if !range.is_scarce() {
            return Finding::ok("M025", Message::IdsPlenty);
        }
        let (table, percent) = (range.table.to_owned(), format!("{:.0}", (range.used() * 100.0).floor()));
        Finding::new("M025", Severity::Warning, Message::IdsScarce { table, percent }, Message::WidenIds)
    };
    ranges.iter().filter(|range| !range.is_wide).map(finding).collect()
}
