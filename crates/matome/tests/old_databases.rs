//! Databases that earlier versions left behind open in this one: migrated, whole, with every row by value. How a
//! fixture is made stands in `fixtures/make`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use matome_model::task::LaneKind;
use matome_store::db::{DataDir, Db};
use matome_store::migrate::{self, SCHEMA_VERSION};
use matome_store::secrets::{self, Vault};
use serde_json::value::RawValue;
use support::{Home, sqlite_home, write};

/// Schema versions that have a fixture. `development.md` says when another one comes.
const VERSIONS: &[i64] = &[1, 7, 13, 20];

type Object = BTreeMap<String, Box<RawValue>>;
type Answers = BTreeMap<String, Object>;

fn fixture(name: &str) -> PathBuf {
    Path::new("tests/fixtures").join(name)
}

/// A home whose data directory is as the old version left it, and what that version answered about it.
fn old_home(version: i64) -> (Home, Answers) {
    let home = sqlite_home();
    std::fs::create_dir(home.data_dir()).unwrap();
    let packed = std::fs::File::open(fixture(&format!("schema-{version}.db.gz"))).unwrap();
    let mut database = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut database).unwrap();
    write(&home.data_dir().join("matome.db"), database);
    std::fs::copy(fixture(&format!("schema-{version}.key")), home.data_dir().join("master.key")).unwrap();
    let answers = std::fs::read_to_string(fixture(&format!("schema-{version}.json"))).unwrap();
    (home, serde_json::from_str(&answers).unwrap())
}

fn rows(answers: &Answers, path: &str) -> Vec<Box<RawValue>> {
    serde_json::from_str(answers[path]["results"].get()).unwrap()
}

/// Whether `now` says all that `then` said; later versions may say more. Numbers are compared by their digits.
fn includes(now: &RawValue, then: &RawValue) -> bool {
    match then.get().as_bytes()[0] {
        b'{' => {
            let (Ok(now), Ok(then)) =
                (serde_json::from_str::<Object>(now.get()), serde_json::from_str::<Object>(then.get()))
            else {
                return false;
            };
            then.iter().all(|(name, value)| now.get(name).is_some_and(|found| includes(found, value)))
        }
        b'[' => {
            let list = |text: &RawValue| serde_json::from_str::<Vec<Box<RawValue>>>(text.get()).unwrap_or_default();
            let (now, then) = (list(now), list(then));
            now.len() == then.len() && now.iter().zip(&then).all(|(now, then)| includes(now, then))
        }
        b'"' => serde_json::from_str::<String>(now.get()).ok() == serde_json::from_str::<String>(then.get()).ok(),
        _ => now.get() == then.get(),
    }
}

/// Every row of then is there, once, under its id.
fn same_rows(what: &str, now: &str, then: &[Box<RawValue>]) {
    let id = |row: &RawValue| serde_json::from_str::<Object>(row.get()).unwrap()["id"].get().parse::<i64>().unwrap();
    let now: Vec<Box<RawValue>> = serde_json::from_str(now).unwrap();
    let now: BTreeMap<i64, Box<RawValue>> = now.into_iter().map(|row| (id(&row), row)).collect();
    assert_eq!(now.len(), then.len(), "{what}");
    for row in then {
        let found = now.get(&id(row)).unwrap_or_else(|| panic!("{what} {} is gone", id(row)));
        assert!(includes(found, row), "{what}: it was\n{row}\nand is\n{found}");
    }
}

#[test]
fn every_row_of_an_old_database_is_there_by_value_after_the_migration() {
    for version in VERSIONS {
        let (home, answers) = old_home(*version);
        home.ok(&["migrate"]);
        let checked = home.ok(&["db", "check", "--full"]);
        assert!(!checked.contains("violated"), "{checked}");

        same_rows("source", &home.ok(&["source", "list", "-o", "json"]), &rows(&answers, "acquisition/sources"));
        same_rows(
            "aggregation",
            &home.ok(&["aggregate", "list", "-o", "json"]),
            &rows(&answers, "aggregation/sources"),
        );
        for queue in ["acquisition", "aggregation"] {
            let tasks = home.ok(&["task", "list", "--queue", queue, "--limit", "1000", "-o", "json"]);
            same_rows("task", &tasks, &rows(&answers, &format!("{queue}/tasks")));
        }
        for (flag, path, owners) in [
            ("--source", "acquisition/data", "acquisition/sources"),
            ("--aggregation", "aggregation/data", "aggregation/sources"),
        ] {
            for owner in rows(&answers, owners) {
                let id = serde_json::from_str::<Object>(owner.get()).unwrap()["id"].get().to_owned();
                let own = |row: &RawValue| serde_json::from_str::<Object>(row.get()).unwrap()["source"].get() == id;
                let then: Vec<_> = rows(&answers, path).into_iter().filter(|row| own(row)).collect();
                let now = home.ok(&["data", "query", flag, &id, "--limit", "1000", "-o", "json"]);
                same_rows(path, &now, &then);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_and_secrets_of_an_old_database_can_be_read() {
    for version in VERSIONS {
        let (home, answers) = old_home(*version);
        let db = Db::open_embedded(DataDir::acquire(&home.data_dir()).unwrap()).await.unwrap();
        let migrated = migrate::migrate(&db).await.unwrap();
        assert_eq!((migrated.from, migrated.to), (*version, SCHEMA_VERSION));
        let mut reader = db.read().await.unwrap();
        let sql = "select id, source_id, reason, raw from quarantine order by id";
        let now = reader.conn().fetch_all(sql, &[]).await.unwrap();
        let then = rows(&answers, "acquisition/quarantine");
        assert_eq!(now.len(), then.len());
        for (now, then) in now.iter().zip(&then) {
            let then: serde_json::Value = serde_json::from_str(then.get()).unwrap();
            assert_eq!(now.int("id").unwrap(), then["id"].as_i64().unwrap());
            assert_eq!(now.int("source_id").unwrap(), then["source"].as_i64().unwrap());
            assert_eq!(now.text("reason").unwrap(), then["reason"].as_str().unwrap());
            assert_eq!(now.bytes("raw").unwrap(), then["raw"].as_str().unwrap().as_bytes());
        }

        let vault = Vault::from_file(&home.data_dir().join("master.key")).unwrap();
        let sql = "select id, config from data_sources where name = 'customers'";
        let row = reader.conn().fetch_one(sql, &[]).await.unwrap();
        let (id, config) = (row.int("id").unwrap(), RawValue::from_string(row.text("config").unwrap()).unwrap());
        let plain = secrets::reveal(&mut reader.conn(), &vault, LaneKind::Source, id, &config).await.unwrap();
        assert!(plain.get().contains("outside-secret") && !config.get().contains("outside-secret"), "{plain}");
        drop(reader);
        db.close().await;
    }
}

#[test]
fn an_old_database_goes_on_working() {
    for version in VERSIONS {
        let (home, answers) = old_home(*version);
        write(
            &home.files().join("orders.csv"),
            "id,status,amount\r\n00123,paid,10.50\r\n00124,open,\r\n00126,void,7\r\n",
        );
        let with_files = |args: &[&str]| {
            let output = home.command(args).env("FILE_ROOTS", home.files()).output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let then = rows(&answers, "acquisition/data").iter().filter(|row| row.get().contains("\"source\":2,")).count();
        // Its schedule may be due by now, so that another task reads the file first; what all of them stored is one row.
        with_files(&["source", "run", "orders", "--wait"]);
        let exported = with_files(&["data", "export", "--source", "orders"]);
        assert_eq!(exported.lines().count(), then + 1, "what the old version stored is known: {exported}");
        with_files(&["aggregate", "run", "by_status", "--wait"]);
        let counts = with_files(&["data", "export", "--aggregation", "by_status", "-o", "csv"]);
        assert!(counts.contains("1,void") && counts.contains("2,paid"), "{counts}");
        home.ok(&["db", "check", "--full"]);
    }
}
