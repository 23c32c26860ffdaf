//! `matome migrate`

use matome_store::db::{DataDir, Db};
use matome_store::migrate;
use uuid::Uuid;

use crate::cli::StorageArgs;
use crate::failure::Failure;

pub async fn run(args: StorageArgs) -> Result<(), Failure> {
    let db = match &args.database_url {
        Some(url) => Db::connect_postgres(url, Uuid::now_v7(), 2).await?,
        None => Db::open_embedded(DataDir::acquire(&args.data_dir)?).await?,
    };
    let migrated = migrate::migrate(&db).await?;
    db.close().await;
    if migrated.from == migrated.to {
        println!("the schema is at version {} already", migrated.to);
    } else {
        println!("migrated the schema from version {} to {}", migrated.from, migrated.to);
    }
    Ok(())
}
