//! `matome migrate`

use matome_store::db::{DataDir, Db};
use matome_store::migrate;
use uuid::Uuid;

use crate::cli::StorageArgs;
use crate::console::Console;
use crate::failure::Failure;
use crate::message::Message;

pub async fn run(args: StorageArgs, console: &Console) -> Result<(), Failure> {
    let db = match &args.database_url {
        Some(url) => Db::connect_postgres(url, Uuid::now_v7(), 2).await?,
        None => Db::open_embedded(DataDir::acquire(&args.data_dir)?).await?,
    };
    let mut progress = console.progress("migrate", "versions", None);
    progress.at(0, "running");
    let migrated = migrate::migrate(&db).await?;
    progress.end(u64::try_from(migrated.to - migrated.from).unwrap_or(0), "succeeded");
    db.close().await;
    if migrated.from == migrated.to {
        console.notice(Message::SchemaCurrent { to: migrated.to.to_string() });
    } else {
        let (from, to) = (migrated.from.to_string(), migrated.to.to_string());
        console.notice(Message::SchemaMigrated { from, to });
    }
    Ok(())
}
