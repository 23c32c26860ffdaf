//! Room of removed rows goes back to the disk while others write; files of older versions learn it by a copy.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use matome_store::backup;
use matome_store::db::{DataDir, Db, Pages, Snapshot};
use matome_store::migrate;
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions as _, Connection as _};

async fn execute(db: &Db, sql: &'static str) {
    db.write_page(move |conn| Box::pin(async move { conn.execute_script(sql.to_owned()).await })).await.unwrap();
}

async fn pages(dir: &Path) -> Pages {
    Pages::of(&mut Snapshot::of_file(&dir.join("matome.db")).await.unwrap().conn()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_shrinks_step_by_step_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("matome.db");
    let db = Db::open_embedded(DataDir::acquire(dir.path()).unwrap()).await.unwrap();
    migrate::migrate(&db).await.unwrap();
    execute(&db, "create table kept (id integer primary key, body blob); create table filled (id integer primary key, body blob)").await;
    execute(
        &db,
        "insert into filled with recursive n (i) as (select 1 union all select i + 1 from n where i < 8000)
select i, zeroblob(3000) from n; insert into kept select * from filled where id % 8 = 0; delete from filled",
    )
    .await;
    let before = pages(dir.path()).await;
    assert!(before.can_shrink && before.excess() > 4_000, "{before:?}");
    let mut steps = 0;
    while db.give_back(500).await.unwrap().is_some() {
        steps += 1;
        execute(&db, "insert into kept (body) values (null)").await;
    }
    assert!((8..20).contains(&steps), "{steps}");
    let after = pages(dir.path()).await;
    assert!(after.excess() == 0 && after.free < after.all / 4 + 1_024, "{after:?}");
    assert_eq!(file.metadata().unwrap().len(), u64::try_from(after.all * after.size_bytes).unwrap());
    let mut reader = db.read().await.unwrap();
    let row =
        reader.conn().fetch_one("select count(body) as bodies, count(*) - count(body) as others from kept", &[]).await;
    let row = row.unwrap();
    assert_eq!((row.int("bodies").unwrap(), row.int("others").unwrap()), (1_000, steps));
    let check =
        reader.conn().fetch_one("select integrity_check as said from pragma_integrity_check", &[]).await.unwrap();
    assert_eq!(check.text("said").unwrap(), "ok");
}

#[tokio::test]
async fn a_file_of_an_older_version_stays_as_it_is_and_its_copy_can_shrink() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("matome.db");
    let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let options = options.auto_vacuum(SqliteAutoVacuum::None).journal_mode(SqliteJournalMode::Wal);
    let mut older = options.connect().await.unwrap();
    sqlx::query("create table of_older (id integer)").execute(&mut older).await.unwrap();
    older.close().await.unwrap();
    let db = Db::open_embedded(DataDir::acquire(dir.path()).unwrap()).await.unwrap();
    migrate::migrate(&db).await.unwrap();
    execute(&db, "create table filled (id integer primary key, body blob)").await;
    execute(
        &db,
        "insert into filled with recursive n (i) as (select 1 union all select i + 1 from n where i < 8000)
select i, zeroblob(3000) from n; delete from filled",
    )
    .await;
    let found = pages(dir.path()).await;
    assert!(!found.can_shrink && found.excess() > 4_000, "{found:?}");
    assert!(db.give_back(500).await.unwrap().is_none());

    for to in ["first", "second"] {
        let to = dir.path().join(to);
        std::fs::create_dir(&to).unwrap();
        let from = if to.ends_with("first") { file.clone() } else { dir.path().join("first/matome.db") };
        backup::copy(&from, &to.join("matome.db")).await.unwrap();
        let copied = pages(&to).await;
        assert!(copied.can_shrink && copied.free == 0, "{copied:?}");
    }
}
