//! SQLite files: values of every type, only beneath a root, only read.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use matome_connector::{Advice, ConnectorError, DatabaseFault, ReadRequest, Reader};
use matome_model::source::SourceType;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use tempfile::TempDir;

use crate::errors::check;
use crate::support::{behind, connector_beneath, error_of, field, read, read_until, registry, state, texts, told};

async fn run(file: &Path, script: &str) {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(script.to_owned())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

async fn made(script: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    run(&dir.path().join("data.db"), script).await;
    dir
}

fn config(options: Value) -> Value {
    let mut config = json!({"engine": "sqlite", "path": "data.db"});
    for (name, value) in options.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

#[tokio::test]
async fn every_value_is_exact_whatever_its_column_says() {
    let dir = made(
        "create table t (v);
        insert into t values (9223372036854775807), (-9223372036854775808), (0.1), (1e300), (5.0), (9e999), (-9e999), ('日本 \"\\'),
            (x'00ff10'), (null), ('12'), (''), (cast(x'61ff62' as text)), (1.7976931348623157e308 / 3)",
    )
    .await;
    let batches = read(&*connector_beneath(dir.path(), &config(json!({"table": "t"}))), ReadRequest::default()).await;
    let all = texts(&batches);
    let big = format!("{{\"v\":1{}}}", "0".repeat(300));
    let wanted = [
        r#"{"v":9223372036854775807}"#,
        r#"{"v":-9223372036854775808}"#,
        r#"{"v":0.1}"#,
        &big,
        r#"{"v":5}"#,
        r#"{"v":"Infinity"}"#,
        r#"{"v":"-Infinity"}"#,
        r#"{"v":"日本 \"\\"}"#,
        r#"{"v":"\\x00ff10"}"#,
        r#"{"v":null}"#,
        r#"{"v":"12"}"#,
        r#"{"v":""}"#,
    ];
    assert_eq!(all[..wanted.len()], wanted);
    assert!(all[12].contains("InvalidUtf8"), "{}", all[12]);
    let digits = all[13].strip_prefix(r#"{"v":"#).and_then(|rest| rest.strip_suffix('}')).unwrap();
    assert_eq!(digits.parse::<f64>().unwrap(), 1.7976931348623157e308 / 3.0);
}

#[tokio::test]
async fn a_read_goes_on_behind_any_page_and_only_what_is_new_is_read() {
    let dir = made(
        "create table t (id integer primary key, mixed, at text);
        with recursive n (n) as (select 1 union all select n + 1 from n where n < 40)
        insert into t select n, case n % 4 when 0 then n when 1 then n / 3.0 when 2 then 't''' || n else cast(x'00ff' || n as blob) end,
            strftime('%Y-%m-%d %H:%M:%f', '2026-01-01', (n / 3) || ' hours') from n",
    )
    .await;
    for (cursor, dedupe) in [("id", "key"), ("mixed", "hash"), ("at", "hash"), ("id", "none"), ("at", "none")] {
        let mut options = json!({"table": "t", "dedupe": dedupe, "incremental": {"cursor": cursor}});
        if dedupe == "key" {
            options["key"] = json!("id");
        }
        let connector = connector_beneath(dir.path(), &config(options));
        let whole = read(&*connector, behind(None, 4)).await;
        let all = field(&whole, "id");
        assert_eq!(all.len(), 40, "{cursor}");
        for cut in 0..whole.len() - 1 {
            let rest = read(&*connector, behind(Some(&whole[cut]), 100)).await;
            let ids: Vec<i64> = field(&whole[..=cut], "id").into_iter().chain(field(&rest, "id")).collect();
            assert_eq!(ids, all, "{cursor}, cut behind page {cut}");
        }
        let next = field(&read(&*connector, behind(whole.last(), 100)).await, "id");
        match (cursor, dedupe) {
            (_, "none") => assert!(next.is_empty(), "{next:?}"),
            // Ids have an overlap by themselves.
            ("id", _) => assert_eq!(next.len(), 40),
            _ => assert!(next.len() < 4 && all.ends_with(&next), "{next:?}"),
        }
    }
    run(
        &dir.path().join("data.db"),
        "insert into t values (41, 1, '2999-01-01'), (42, 1, '2026-06-01'), (43, 1, null)",
    )
    .await;
    let by_time = connector_beneath(
        dir.path(),
        &config(json!({"table": "t", "dedupe": "hash", "incremental": {"cursor": "at"}})),
    );
    let whole = read(&*by_time, behind(None, 100)).await;
    // A time that is not yet is no mark.
    assert_eq!(field(&read(&*by_time, behind(whole.last(), 100)).await, "id"), [42, 41, 43]);
}

#[tokio::test]
async fn files_are_only_read_and_only_beneath_a_root() {
    let dir =
        made("create table t (id integer primary key); insert into t values (1); create view v as select id from t")
            .await;
    let outside = made("create table secret (s); insert into secret values ('s3cret')").await;
    std::os::unix::fs::symlink(outside.path().join("data.db"), dir.path().join("link.db")).unwrap();
    std::fs::write(
        dir.path().join("no.db"),
        "this is a text, and a long one at that; no database begins so ".repeat(40),
    )
    .unwrap();
    let error = |options: Value| {
        let connector = connector_beneath(dir.path(), &config(options));
        async move { error_of(&*connector).await }
    };
    for path in ["link.db", &outside.path().join("data.db").display().to_string()] {
        let error = error(json!({"table": "secret", "path": path})).await;
        assert!(matches!(error, ConnectorError::OutsideRoots { .. }), "{error:?}");
    }
    let gone = error(json!({"table": "t", "path": "gone.db"})).await;
    assert!(matches!(gone, ConnectorError::NoMatch { .. }), "{gone:?}");
    assert!(!dir.path().join("gone.db").exists());
    for (options, fault, part) in [
        (json!({"table": "t", "path": "no.db"}), DatabaseFault::Query, "no SQLite database"),
        (json!({"table": "u"}), DatabaseFault::Missing, "no such table: u; there are `t`"),
        (json!({"query": "select x from t"}), DatabaseFault::Missing, "no such column: x"),
        (json!({"query": "select id frm, from t"}), DatabaseFault::Query, "syntax error"),
        (json!({"query": "delete from t returning *"}), DatabaseFault::Query, "syntax error"),
        (json!({"table": "v", "dedupe": "none"}), DatabaseFault::Query, "`incremental.tie_break`"),
    ] {
        let error = error(options.clone()).await;
        assert!(
            matches!(&error, ConnectorError::Database { fault: found, .. } if *found == fault),
            "{options}: {error:?}"
        );
        assert!(told(&error).contains(part), "{options}: {}", told(&error));
    }
    let fine = connector_beneath(dir.path(), &config(json!({"query": "select id from v -- all"})));
    assert_eq!(field(&read(&*fine, ReadRequest::default()).await, "id"), [1]);
}

#[tokio::test]
async fn a_file_that_is_being_written_is_read_as_it_stands() {
    let dir =
        made("pragma journal_mode = wal; create table t (id integer primary key); insert into t values (1)").await;
    let file = dir.path().join("data.db");
    let mut writer = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&file)).await.unwrap();
    sqlx::raw_sql("insert into t values (2); begin immediate; insert into t values (3)")
        .execute(&mut writer)
        .await
        .unwrap();
    let connector = connector_beneath(dir.path(), &config(json!({"table": "t"})));
    assert_eq!(field(&read(&*connector, ReadRequest::default()).await, "id"), [1, 2]);
    sqlx::raw_sql("commit").execute(&mut writer).await.unwrap();
    assert_eq!(field(&read(&*connector, ReadRequest::default()).await, "id"), [1, 2, 3]);
    writer.close().await.unwrap();
}

#[tokio::test]
async fn tables_are_listed_and_their_key_is_proposed() {
    let dir = made(
        "create table orders (at text, id integer, line integer, updated_at text, primary key (id, line));
        create table customers (id integer primary key, name text); create view totals as select count(*) as n from orders",
    )
    .await;
    let registry = registry(dir.path());
    let listed = registry.tables(&config(json!({})).to_string()).await.unwrap().unwrap();
    let told: Vec<_> = listed.iter().map(|table| (table.written(), table.key.join(","))).collect();
    let wanted = [("customers", "id"), ("orders", "id,line"), ("totals", "")];
    assert_eq!(told, wanted.map(|(name, key)| (name.to_owned(), key.to_owned())));
    assert!(registry.tables(&config(json!({"query": "select 1"})).to_string()).await.unwrap().is_none());

    let proposed = async |options: Value| {
        let time = std::time::Duration::from_secs(10);
        registry.probe(SourceType::Database, &config(options).to_string(), time).await
    };
    let orders = proposed(json!({"table": "orders"})).await.unwrap();
    assert_eq!(Value::Object(orders.options), json!({"key": ["id", "line"]}));
    assert!(orders.findings.iter().any(|found| found.words.english.contains("incremental.cursor=updated_at")));
    let totals = proposed(json!({"table": "totals"})).await.unwrap();
    assert!(totals.options.is_empty() && totals.findings[0].words.english.contains("no primary key"));
    let given = proposed(json!({"table": "customers", "dedupe": "hash"})).await.unwrap();
    assert!(given.options.is_empty(), "{:?}", given.options);
    let missing = proposed(json!({"table": "order"})).await.unwrap_err();
    let missing = crate::support::told(&missing);
    assert!(missing.contains("there are `orders`, `totals`, `customers`"), "{missing}");
}

#[tokio::test]
async fn a_database_without_a_table_says_so() {
    let dir = made("pragma user_version = 1").await;
    let error = registry(dir.path()).tables(&config(json!({})).to_string()).await.unwrap_err();
    assert!(told(&error).contains("no table"), "{}", told(&error));
}

/// Rows of about 600 bytes, so that they take some thousand pages.
const MANY: &str = "create table t (id integer primary key, body text);
    with recursive n (n) as (select 1 union all select n + 1 from n where n < 20000)
    insert into t select n, printf('%0600d', n) from n";

#[tokio::test]
async fn a_file_that_is_cut_off_or_damaged_is_told_behind_what_came_whole() {
    let dir = made(MANY).await;
    let file = dir.path().join("data.db");
    let whole = fs::read(&file).unwrap();
    let connector = connector_beneath(dir.path(), &config(json!({"table": "t", "dedupe": "hash"})));
    for length in [whole.len() / 2, whole.len() - 1, 5000, 100] {
        fs::write(&file, &whole[..length]).unwrap();
        let (batches, error) = read_until(&*connector, behind(None, 100)).await;
        let error = error.unwrap();
        assert!(batches.iter().all(|batch| batch.items.is_empty()), "{length}");
        check(&error, DatabaseFault::Query, &["cut off", ".backup", "`path`"]);
        assert_eq!((error.advice(), error.position().unwrap().record), (Advice::Fail, 0));
    }
    fs::write(&file, b"").unwrap();
    check(&error_of(&*connector).await, DatabaseFault::Missing, &["no such table: t"]);

    // Its pages are there, and one in the middle is something else.
    fs::write(&file, &whole).unwrap();
    let middle = u64::try_from(whole.len()).unwrap() / 2 / 4096 * 4096;
    fs::File::options().write(true).open(&file).unwrap().write_all_at(&[0xff; 4096], middle).unwrap();
    let (batches, error) = read_until(&*connector, behind(None, 100)).await;
    let error = error.unwrap();
    check(&error, DatabaseFault::Query, &["damaged", ".backup"]);
    let came = field(&batches, "id");
    assert!(came.len() > 5000 && came.len() < 15000, "{}", came.len());
    assert_eq!(error.position().unwrap().record, came.len() as u64);
    // Once it is whole again the read goes on where it was.
    fs::write(&file, &whole).unwrap();
    let rest = field(&read(&*connector, behind(batches.last(), 5000)).await, "id");
    assert_eq!([came, rest].concat(), (1..=20000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_file_that_is_written_over_is_told_and_one_whose_name_another_takes_is_read_as_it_was() {
    let (dir, other) = (made(MANY).await, made(&MANY.replace("< 20000", "< 15000").replace("%0600d", "-%0600d")).await);
    let (file, new) = (dir.path().join("data.db"), other.path().join("data.db"));
    let old = fs::read(&file).unwrap();
    for options in [json!({"table": "t"}), json!({"table": "t", "dedupe": "hash", "incremental": {"cursor": "id"}})] {
        fs::write(&file, &old).unwrap();
        let connector = connector_beneath(dir.path(), &config(options.clone()));
        let mut reader = connector.read(behind(None, 100)).await.unwrap();
        let mut batches = vec![reader.next().await.unwrap().unwrap()];
        fs::copy(&new, &file).unwrap();
        let error = loop {
            match reader.next().await {
                Ok(batch) => batches.push(batch.expect("the read does not end well")),
                Err(error) => break error,
            }
        };
        let text = told(&error);
        assert!(matches!(error, ConnectorError::Changed { .. }) && error.advice() == Advice::Fail, "{options}: {text}");
        assert!(text.contains("data.db#t` changed (it was written over while it was read)"), "{text}");
        assert!(text.contains("上書きされました") && text.contains("rename them"), "{text}");
        // The next read takes all of what is there now.
        let last = state(batches.last().unwrap());
        assert!(last["complete"] == false && last.get("at").is_none() && last.get("high").is_none(), "{last}");
        let anew = field(&read(&*connector, behind(batches.last(), 5000)).await, "id");
        assert_eq!(anew, (1..=15000).collect::<Vec<_>>(), "{options}");

        fs::write(&file, &old).unwrap();
        let mut reader = connector.read(behind(None, 100)).await.unwrap();
        let mut batches = vec![reader.next().await.unwrap().unwrap()];
        fs::copy(&new, dir.path().join("new.db")).unwrap();
        fs::rename(dir.path().join("new.db"), &file).unwrap();
        while let Some(batch) = reader.next().await.unwrap() {
            batches.push(batch);
        }
        assert_eq!(field(&batches, "id"), (1..=20000).collect::<Vec<_>>(), "{options}");
        assert!(texts(&batches).iter().all(|text| !text.contains("\"-0")), "{options}");
    }
}

/// Waits until nobody reads the file any more.
async fn is_free(file: &Path) {
    let mut conn = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file)).await.unwrap();
    let writes = async {
        while sqlx::raw_sql("pragma busy_timeout = 10; begin exclusive; rollback").execute(&mut conn).await.is_err() {}
    };
    tokio::time::timeout(Duration::from_secs(30), writes).await.expect("somebody still reads");
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_query_without_an_end_is_given_up_and_its_file_is_free_again() {
    const ENDLESS: &str = "with recursive n (n) as (select 1 union all select n + 1 from n)";
    let dir = made("create table t (id integer primary key); insert into t values (1)").await;
    let file = dir.path().join("data.db");
    let open = |options: Value| connector_beneath(dir.path(), &config(options));
    // One that gives no row, by its time.
    let counted = format!("{ENDLESS} select count(*) as n from n, t");
    let error = error_of(&*open(json!({"query": counted, "statement_timeout_secs": 1}))).await;
    check(&error, DatabaseFault::Timeout, &["more than 1 s (`statement_timeout_secs`)"]);
    assert_eq!(error.advice(), Advice::Retry { after: None });
    is_free(&file).await;
    // Without a limit it ends with who waits for it.
    let connector = open(json!({"query": counted}));
    let request = ReadRequest::default();
    let mut reader = connector.read(request.clone()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), reader.next()).await.is_err(), "it gives no row");
    request.cancel.cancel();
    assert!(matches!(reader.next().await, Err(ConnectorError::Cancelled)));
    drop(reader);
    is_free(&file).await;
    // One that gives rows, page by page.
    let connector = open(json!({"query": format!("{ENDLESS} select n from n, t")}));
    let mut reader = connector.read(behind(None, 100)).await.unwrap();
    for page in 0..50 {
        assert_eq!(field(&[reader.next().await.unwrap().unwrap()], "n")[0], page * 100 + 1);
    }
    drop(reader);
    is_free(&file).await;
}

#[tokio::test]
async fn a_value_that_is_too_long_goes_to_quarantine_and_is_not_fetched() {
    let dir = made(
        "create table t (id integer primary key, body, more text);
        insert into t values (1, 'a', 'b'), (2, zeroblob(40000000), 'b'), (3, 'a', hex(zeroblob(5000000))), (4, x'00', null)",
    )
    .await;
    let batches = read(&*connector_beneath(dir.path(), &config(json!({"table": "t"}))), ReadRequest::default()).await;
    let wanted =
        [r#"{"body":"a","id":1,"more":"b"}"#, "record_limit", "record_limit", r#"{"body":"\\x00","id":4,"more":null}"#];
    assert_eq!(texts(&batches), wanted);
    let items: Vec<_> = batches.iter().flat_map(|batch| &batch.items).collect();
    assert_eq!(items[1].raw(), br#"{"id":2,"body":"40000000 bytes","more":"b"}"#);
    assert!(batches.iter().map(|batch| batch.stats.bytes).sum::<u64>() < 1 << 20);
    // Whatever its columns are called.
    let named = json!({"query": "select count(*), max(id) + 1, 'x', 1 as \"a \"\"b.c\" from t"});
    let batches = read(&*connector_beneath(dir.path(), &config(named)), ReadRequest::default()).await;
    assert_eq!(texts(&batches), [r#"{"'x'":"x","a \"b.c":1,"count(*)":4,"max(id) + 1":5}"#]);
}

/// Locks of this machine on a file.
fn locks(file: &Path) -> usize {
    let inode = format!(":{} ", fs::metadata(file).unwrap().ino());
    fs::read_to_string("/proc/locks").unwrap().lines().filter(|line| line.contains(&inode)).count()
}

#[tokio::test]
async fn who_writes_waits_for_a_read_also_when_another_one_of_this_process_has_ended() {
    let dir = made(MANY).await;
    let file = dir.path().join("data.db");
    let connector = connector_beneath(dir.path(), &config(json!({"table": "t"})));
    let mut reader: Box<dyn Reader> = connector.read(behind(None, 100)).await.unwrap();
    reader.next().await.unwrap().unwrap();
    let held = locks(&file);
    assert!(held > 0, "a read holds a lock");
    let listed = registry(dir.path()).tables(&config(json!({})).to_string()).await.unwrap().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(locks(&file), held, "and does so behind another one");
}
