//! `matome migrate`: the schema, made or upgraded, or taken over from the original application.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use matome_api::{Settled, settle_adopted};
use matome_model::clock::Clock;
use matome_model::field_error::Words;
use matome_model::task::LaneKind;
use matome_store::adoption::{self, Options, Plan, ids};
use matome_store::db::{DataDir, Db, Dialect};
use matome_store::migrate::{self, HeldBack, OlderMember, SCHEMA_VERSION, Schema};
use serde_json::json;
use serde_json::value::to_raw_value;
use uuid::Uuid;

use crate::app::connect;
use crate::cli::MigrateArgs;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::{Column, Row, print_rows};
use crate::patience::Patience;

const COLUMNS: &[Column] = &[("table", &["table"]), ("action", &["action"]), ("what", &["what"])];

pub async fn run(args: MigrateArgs, console: &Console) -> Result<(), Failure> {
    let mut patience = Patience::default();
    loop {
        match once(&args, console).await {
            // What was not committed is done anew, as after a kill.
            Err(failure) if args.wait && Patience::helps(&failure) => patience.wait(&failure).await,
            ended => return ended,
        }
    }
}

async fn once(args: &MigrateArgs, console: &Console) -> Result<(), Failure> {
    let db = match &args.storage.database_url {
        Some(url) => connect(url, Uuid::now_v7(), 2).await?,
        // Only to look at: no lock is needed, and there may be no directory.
        None if args.plan && !args.storage.data_dir.join("matome.db").exists() => {
            let to = SCHEMA_VERSION.to_string();
            console.notice(Message::WouldMigrate { from: "0".to_owned(), to });
            return Ok(());
        }
        None => Db::open_embedded(DataDir::acquire(&args.storage.data_dir)?).await?,
    };
    let result = migrate_or_adopt(args, &db, console).await;
    db.close().await;
    result
}

async fn migrate_or_adopt(args: &MigrateArgs, db: &Db, console: &Console) -> Result<(), Failure> {
    let (is_foreign, version) = {
        let mut reader = db.read().await?;
        (adoption::is_due(&mut reader.conn()).await?, migrate::version(&mut reader.conn()).await?)
    };
    let mut rows = Vec::new();
    if is_foreign {
        adopt(args, db, console, &mut rows).await?;
    } else if !args.plan {
        upgrade(db, console).await?;
    } else if version < SCHEMA_VERSION {
        let (from, to) = (version.to_string(), SCHEMA_VERSION.to_string());
        rows.push(row(console, "", "migrate", &Message::WouldMigrate { from, to }.into(), None));
    } else {
        console.notice(Message::SchemaCurrent { to: version.to_string() });
    }
    if args.widen_ids && (db.dialect() == Dialect::Postgres) {
        widen(args, db, console, &mut rows).await?;
    }
    if args.plan && !is_foreign {
        print_rows(console, &args.output, &rows, COLUMNS)?;
    }
    if !args.plan && db.dialect() == Dialect::Postgres {
        settle(args, db, console).await?;
    }
    Ok(())
}

async fn upgrade(db: &Db, console: &Console) -> Result<(), Failure> {
    let mut progress = console.progress("migrate", "versions", None);
    progress.at(0, "running");
    let migrated = migrate::migrate(db).await?;
    progress.end(u64::try_from(migrated.to - migrated.from).unwrap_or(0), "succeeded");
    if migrated.from != migrated.to {
        let (from, to) = (migrated.from.to_string(), migrated.to.to_string());
        console.notice(Message::SchemaMigrated { from, to });
    }
    match &migrated.held_back {
        Some(held_back) => {
            let waits = waits(held_back);
            if !Schema::BUILT.suffices(migrated.to) {
                return Err(Failure::new(Exit::Conflict, waits).help(Message::EndOlder));
            }
            // What this binary needs is there: its processes may start, and the rest comes when the older ones have ended.
            console.notice(waits);
            console.notice(Message::EndOlder);
        }
        None if migrated.from == migrated.to => {
            console.notice(Message::SchemaCurrent { to: migrated.to.to_string() });
        }
        None => {}
    }
    Ok(())
}

/// Which migration waits for the end of which processes.
fn waits(held_back: &HeldBack) -> Message {
    let name = |member: &OlderMember| {
        let OlderMember { role, host, pid, version, schema_version, .. } = member;
        format!("\n  {role} {host} (pid {pid}, matome {version}, schema {schema_version})")
    };
    let mut members: String = held_back.members.iter().take(20).map(name).collect();
    if held_back.members.len() > 20 {
        members.push_str("\n  ...");
    }
    Message::MigrationWaits { version: held_back.version.to_string(), members }
}

/// Prints the plan, and unless that is all, does what it says.
async fn adopt(args: &MigrateArgs, db: &Db, console: &Console, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let options = Options { timezone: args.assume_timezone.clone(), words: args.word.clone() };
    let plan = {
        let mut reader = db.read().await?;
        adoption::plan(&mut reader.conn(), &options).await?
    };
    rows.extend(shown(console, &plan));
    if args.plan && args.widen_ids {
        widen(args, db, console, rows).await?;
    }
    print_rows(console, &args.output, rows, COLUMNS)?;
    refuse(&plan)?;
    if args.plan {
        return Ok(());
    }
    let total = plan.steps.len() as u64;
    let done = Arc::new(AtomicUsize::new(0));
    let plan = {
        let mut progress = console.progress("migrate", "steps", Some(total));
        let mut applying = Box::pin(adoption::apply(db, options, done.clone()));
        loop {
            tokio::select! {
                applied = &mut applying => {
                    progress.end(total, "succeeded");
                    break applied;
                }
                () = tokio::time::sleep(Duration::from_millis(200)) => {
                    let at = done.load(Ordering::Relaxed);
                    let table = plan.steps.get(at).map_or("", |step| step.table);
                    progress.at(at as u64, table);
                }
            }
        }
    };
    let plan = plan?;
    // It was compared again, under the lock.
    refuse(&plan)?;
    let rows_of = |name: &str| plan.tables.iter().find(|table| table.name == name).map_or(0, |table| table.rows);
    console.notice(Message::TookOver {
        sources: rows_of("data_sources").to_string(),
        aggregations: rows_of("aggregation_sources").to_string(),
        records: rows_of("acquired_data").to_string(),
        results: rows_of("aggregated_data").to_string(),
    });
    Ok(())
}

fn refuse(plan: &Plan) -> Result<(), Failure> {
    if plan.problems.is_empty() {
        return Ok(());
    }
    let line = |text: fn(&Words) -> &str| {
        let each = plan.problems.iter().map(|problem| match problem.table.as_str() {
            "" => text(&problem.what).to_owned(),
            table => format!("{table}: {}", text(&problem.what)),
        });
        each.map(|line| format!("\n  {line}")).collect::<String>()
    };
    let why = Words::new(line(|words| &words.english), line(|words| &words.japanese));
    Err(Failure::new(Exit::Config, Message::CannotAdopt).why(why).help(Message::CorrectAndMigrate))
}

fn shown(console: &Console, plan: &Plan) -> Vec<Row> {
    let tables = plan.tables.iter().map(|table| {
        let (rows, size) = (table.rows.to_string(), mib(table.bytes));
        row(console, table.name, "take_over", &Message::TableTaken { rows, size }.into(), None)
    });
    let steps = plan.steps.iter();
    let steps =
        steps.map(|step| row(console, step.table, step.action.as_str(), &step.what, Some((&step.sql, step.is_long))));
    let problems = plan.problems.iter().map(|problem| row(console, &problem.table, "refuse", &problem.what, None));
    tables.chain(steps).chain(problems).collect()
}

fn row(console: &Console, table: &str, action: &str, what: &Words, sql: Option<(&String, bool)>) -> Row {
    let mut row = json!({ "table": table, "action": action, "what": what.text(console.language) });
    if let Some((sql, is_long)) = sql {
        row["sql"] = json!(sql);
        row["reads_or_writes_every_row"] = json!(is_long);
    }
    to_raw_value(&row).expect("text is JSON")
}

fn mib(bytes: i64) -> String {
    (bytes.max(0) / (1 << 20) + i64::from(bytes % (1 << 20) != 0)).to_string()
}

/// Gives ids 64 bits, or says what that takes.
async fn widen(args: &MigrateArgs, db: &Db, console: &Console, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let ranges = ids::ranges(&mut db.read().await?.conn()).await?;
    let narrow: Vec<_> = ranges.into_iter().filter(|range| !range.is_wide).collect();
    if narrow.is_empty() {
        console.notice(Message::AllWide);
    }
    for range in narrow {
        let table = range.table.to_owned();
        let (size, secs) = (mib(range.bytes), range.widening_secs().to_string());
        let what = Message::WouldWiden { table: table.clone(), size, secs };
        if args.plan {
            rows.push(row(console, range.table, "widen", &what.into(), None));
            continue;
        }
        console.notice(what);
        ids::widen(db, range.table).await?;
        console.notice(Message::Widened { table });
    }
    Ok(())
}

/// Makes what was taken over run, as far as it can.
async fn settle(args: &MigrateArgs, db: &Db, console: &Console) -> Result<(), Failure> {
    if adoption::unsettled(&mut db.read().await?.conn()).await?.is_empty() {
        return Ok(());
    }
    let vault = crate::app::open_vault(&args.storage, db, &crate::app::Parts::command()).await?;
    let settled = settle_adopted(db, &vault, Clock::system().now()).await?;
    let secrets: usize = settled.iter().map(|one| one.secrets).sum();
    if secrets > 0 {
        console.notice(Message::SecretsSealedNow { n: secrets.to_string() });
    }
    for (kind, what) in [(LaneKind::Source, "source"), (LaneKind::Aggregation, "aggregate")] {
        let waits = |one: &&Settled| one.kind == kind && !one.is_valid;
        let mut names: Vec<String> =
            settled.iter().filter(waits).take(21).map(|one| format!("`{}`", one.name)).collect();
        if names.len() > 20 {
            names[20] = "...".to_owned();
        }
        if !names.is_empty() {
            console.notice(Message::NotRunnable { what: what.to_owned(), names: names.join(", ") });
        }
    }
    console.notice(Message::FilledAtFirstRead);
    Ok(())
}
