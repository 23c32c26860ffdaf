//! What both databases promise underneath every entity: units commit whole or not at all, values come back.

use matome_store::db::{Arg, DataDir, Db};
use matome_store::error::StoreError;
use matome_store::migrate;
use matome_testbed::databases;
use uuid::Uuid;

const INSERT: &str = "insert into api_tokens (name, role, prefix, token_hash) values ($1, 'admin', $1, $2)";

#[tokio::test]
async fn a_unit_that_fails_takes_back_its_own_changes_only() {
    for bed in databases().await {
        let write = |name: &'static str, fail: bool| {
            let db = bed.db.clone();
            async move {
                db.write(move |conn| {
                    Box::pin(async move {
                        conn.execute(INSERT, &[name.into(), Arg::Bytes(Some(b"x"))]).await?;
                        if fail { Err(StoreError::Closed) } else { Ok(()) }
                    })
                })
                .await
            }
        };
        let results = futures::future::join_all([write("a", false), write("b", true), write("c", false)]).await;
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true], "{}", bed.name);
        let mut reader = bed.db.read().await.unwrap();
        let rows = reader.conn().fetch_all("select name from api_tokens order by name", &[]).await.unwrap();
        let names: Vec<String> = rows.iter().map(|row| row.text("name").unwrap()).collect();
        assert_eq!(names, ["a", "c"], "{}", bed.name);
    }
}

#[tokio::test]
async fn values_come_back_as_they_went() {
    for bed in databases().await {
        let mut reader = bed.db.read().await.unwrap();
        let mut conn = reader.conn();
        let (id, now) = (Uuid::new_v4(), chrono::DateTime::from_timestamp_micros(1_763_900_000_123_456).unwrap());
        let json = r#"{"キー":[1.10,12345678901234567890123,null]}"#;
        let sql = conn.pick(
            "select $1::bigint as i, $2::text as t, $3::bytea as b, $4::jsonb as j, $5::timestamptz as at, $6::uuid as u, $7::bool as f",
            "select $1 as i, $2 as t, $3 as b, $4 as j, $5 as at, $6 as u, $7 as f",
        );
        let args = [
            Arg::Int(Some(i64::MIN)),
            "日本語".into(),
            Arg::Bytes(Some(&[0, 255])),
            Arg::Json(Some(json)),
            now.into(),
            id.into(),
            true.into(),
        ];
        let row = conn.fetch_one(sql, &args).await.unwrap();
        assert_eq!(row.int("i").unwrap(), i64::MIN);
        assert_eq!(row.text("t").unwrap(), "日本語");
        assert_eq!(row.bytes("b").unwrap(), [0, 255]);
        assert_eq!(row.json("j").unwrap().get().replace(' ', ""), json);
        assert_eq!(row.time("at").unwrap(), now);
        assert_eq!(row.uuid("u").unwrap(), id);
        assert!(row.bool("f").unwrap());
    }
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    for bed in databases().await {
        let before = migrate::instance_id(&mut bed.db.read().await.unwrap().conn()).await.unwrap();
        let migrated = migrate::migrate(&bed.db).await.unwrap();
        assert_eq!(migrated.from, migrated.to);
        migrate::check(&bed.db).await.unwrap();
        assert_eq!(migrate::instance_id(&mut bed.db.read().await.unwrap().conn()).await.unwrap(), before);
    }
}

#[tokio::test]
async fn a_schema_of_a_newer_matome_is_refused() {
    for bed in databases().await {
        bed.db
            .write(|conn| {
                Box::pin(async move {
                    let sql = "insert into schema_history (version, min_binary) values (99, 99)";
                    conn.execute(sql, &[]).await
                })
            })
            .await
            .unwrap();
        for result in [migrate::migrate(&bed.db).await.map(drop), migrate::check(&bed.db).await] {
            assert!(matches!(result, Err(StoreError::SchemaVersion { found: 99, .. })), "{}: {result:?}", bed.name);
        }
    }
}

#[tokio::test]
async fn a_second_row_where_one_may_be_names_its_constraint() {
    for bed in databases().await {
        let insert = || {
            bed.db.write(|conn| {
                Box::pin(async move { conn.execute(INSERT, &["same".into(), Arg::Bytes(Some(b"x"))]).await })
            })
        };
        insert().await.unwrap();
        let err = insert().await.unwrap_err();
        assert!(matches!(&err, StoreError::Unique { constraint, .. } if constraint.contains("prefix")), "{err:?}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_database_is_its_owners_alone_wherever_it_lies() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let db = Db::open_embedded(DataDir::acquire(dir.path()).unwrap()).await.unwrap();
    migrate::migrate(&db).await.unwrap();
    for file in ["matome.db", "matome.db-wal", "matome.db-shm"] {
        let mode = dir.path().join(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    db.close().await;
}

#[tokio::test]
async fn after_closing_the_database_file_alone_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open_embedded(DataDir::acquire(dir.path()).unwrap()).await.unwrap();
    migrate::migrate(&db).await.unwrap();
    db.write(|conn| Box::pin(async move { conn.execute(INSERT, &["kept".into(), Arg::Bytes(Some(b"x"))]).await }))
        .await
        .unwrap();
    db.read().await.unwrap().conn().fetch_all("select 1", &[]).await.unwrap();
    db.close().await;
    drop(db);
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("matome.db"), copy.path().join("matome.db")).unwrap();
    let db = Db::open_embedded(DataDir::acquire(copy.path()).unwrap()).await.unwrap();
    let row = db.read().await.unwrap().conn().fetch_one("select name from api_tokens", &[]).await.unwrap();
    assert_eq!(row.text("name").unwrap(), "kept");
}

#[tokio::test]
async fn a_unit_whose_caller_has_gone_still_ends_and_leaves_a_sound_session() {
    for bed in databases().await {
        for n in 0..20 {
            let name = format!("token {n}");
            let unit = bed.db.write({
                let name = name.clone();
                move |conn| {
                    Box::pin(async move {
                        conn.execute(INSERT, &[(&name).into(), Arg::Bytes(Some(b"x"))]).await?;
                        conn.fetch_one("select count(*) as n from api_tokens", &[]).await?.int("n")
                    })
                }
            });
            // Polled once: handed over, and given up at once.
            let mut unit = Box::pin(unit);
            assert!(futures::poll!(unit.as_mut()).is_pending());
            drop(unit);
        }
        let count = || async {
            let mut reader = bed.db.read().await.unwrap();
            reader.conn().fetch_one("select count(*) as n from api_tokens", &[]).await.unwrap().int("n").unwrap()
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while count().await < 20 {
            assert!(std::time::Instant::now() < deadline, "{}: {} of 20", bed.name, count().await);
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_large_file_left_by_a_kill_is_checked_beside_the_work_and_stays_owed_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let open = async || Db::open_embedded(DataDir::acquire(dir.path()).unwrap()).await.unwrap();
    let db = open().await;
    migrate::migrate(&db).await.unwrap();
    let fill = "insert into api_tokens (name, role, prefix, token_hash)
        values ('big', 'admin', 'big', cast(hex(zeroblob(40000000)) as blob))";
    db.write(move |conn| Box::pin(async move { conn.execute(fill, &[]).await })).await.unwrap();
    db.close().await;
    drop(db);
    let file = dir.path().join("matome.db");
    assert!(file.metadata().unwrap().len() > 64 << 20);
    let db = open().await;
    assert!(!db.check_after_kill().await.unwrap(), "the process before ended by itself");
    db.close().await;
    drop(db);

    // What a killed process leaves in its lock file.
    std::fs::write(dir.path().join("matome.lock"), "4711\n").unwrap();
    let db = open().await;
    db.close().await;
    drop(db);
    assert!(DataDir::acquire(dir.path()).unwrap().was_unclean(), "it ended without the check");
    let db = open().await;
    assert!(db.check_after_kill().await.unwrap());
    assert!(!db.check_after_kill().await.unwrap(), "once is enough");
    db.close().await;
    drop(db);

    let mut bytes = std::fs::read(&file).unwrap();
    // A type that no page of a tree has, where the first leaf of a table was.
    let page = bytes.chunks_exact_mut(4096).skip(1).find(|page| page[0] == 13).unwrap();
    page[0] = 99;
    std::fs::write(&file, bytes).unwrap();
    std::fs::write(dir.path().join("matome.lock"), "4711\n").unwrap();
    let db = open().await;
    let damaged = db.check_after_kill().await;
    assert!(matches!(damaged, Err(StoreError::Corrupt { .. })), "{damaged:?}");
}
