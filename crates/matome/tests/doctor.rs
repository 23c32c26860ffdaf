//! `matome doctor` on the real binary: nothing to say about a sound installation, and each fault found by hand.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use support::redis::{self, RedisServer};
use support::{Home, homes, postgres_home, sqlite_home};

/// Findings as (id, severity), and the exit code.
fn findings(home: &Home, more: &[&str]) -> (Vec<(String, String)>, Option<i32>) {
    let mut args = vec!["doctor", "-o", "json"];
    args.extend(more);
    let output = home.run(&args);
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|err| panic!("{err}: {output:?}"));
    for row in &rows {
        let is_good = row["severity"] == "ok";
        assert_eq!(row["fix"].is_null(), is_good, "what is not good has a remedy: {row}");
        assert!(row["what"].as_str().is_some_and(|what| !what.is_empty()), "{row}");
    }
    let pair = |row: &Value| (row["id"].as_str().unwrap().to_owned(), row["severity"].as_str().unwrap().to_owned());
    (rows.iter().map(pair).collect(), output.status.code())
}

fn severity(found: &[(String, String)], id: &str) -> String {
    found.iter().filter(|(other, _)| other == id).map(|(_, severity)| severity.as_str()).collect::<Vec<_>>().join(",")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_installation_has_no_warnings_beside_a_server_too() {
    for home in homes().await {
        let mut server = home.serve().await;
        let (found, code) = findings(&home, &[]);
        // Room on the disk and limits are the machine's matter.
        let own: Vec<_> = found.iter().filter(|(id, _)| !["M013", "M030"].contains(&id.as_str())).collect();
        assert!(own.iter().all(|(_, severity)| severity == "ok" || severity == "note"), "{}: {found:?}", home.name);
        assert_eq!(code, Some(0), "{found:?}");
        for id in
            ["M001", "M003", "M005", "M010", "M012", "M013", "M020", "M021", "M030", "M031", "M032", "M033", "M034"]
        {
            assert!(!severity(&found, id).is_empty(), "{}: {id} is not looked at: {found:?}", home.name);
        }
        server.terminate();
    }
}

#[test]
fn each_fault_is_found() {
    let home = sqlite_home();
    let (found, code) = findings(&home, &[]);
    assert_eq!((severity(&found, "M010"), severity(&found, "M020"), code), ("note".into(), "note".into(), Some(0)));
    assert!(!home.data_dir().exists(), "it changes nothing");

    let auth = r#"auth={"type":"bearer","token":"s3cret"}"#;
    home.ok(&["source", "add", "users", "--url", "https://example.com/users", "--set", auth]);
    let key = home.data_dir().join("master.key");
    set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    set_permissions(home.data_dir(), Permissions::from_mode(0o755)).unwrap();
    let (found, code) = findings(&home, &["--strict", "--bind", "0.0.0.0:8000", "--allowed-hosts", "*"]);
    for id in ["M003", "M004", "M010", "M012"] {
        assert_eq!(severity(&found, id), "warning", "{id}: {found:?}");
    }
    assert_eq!(code, Some(9));

    std::fs::write(&key, "no key").unwrap();
    let (found, code) = findings(&home, &["--file-root", "/nowhere/at/all"]);
    for id in ["M005", "M012", "M022"] {
        assert_eq!(severity(&found, id), "error", "{id}: {found:?}");
    }
    assert_eq!(code, Some(1));

    std::fs::write(home.data_dir().join("matome.db"), vec![b'x'; 8192]).unwrap();
    assert_eq!(severity(&findings(&home, &[]).0, "M020"), "error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_database_that_is_away_or_not_migrated_is_an_error() {
    let home = postgres_home().await;
    let away = Home { database_url: Some("postgres://nobody@127.0.0.1:1/none".into()), ..sqlite_home() };
    assert_eq!(severity(&findings(&away, &[]).0, "M020"), "error");
    let told = away.run(&["doctor", "-o", "json"]).stdout;
    assert!(String::from_utf8_lossy(&told).contains("is not reachable: `127.0.0.1:1/none`: "), "it says where");
    let empty = Home { database_url: Some(matome_testbed::postgres_schema().await), ..sqlite_home() };
    assert_eq!(severity(&findings(&empty, &[]).0, "M021"), "error");
    assert_eq!(severity(&findings(&home, &[]).0, "M021"), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_sound_has_no_errors_and_each_of_its_faults_is_found() {
    let mut redis = RedisServer::start(&[]);
    let mut home = postgres_home().await;
    home.redis_url = Some(redis.url());
    let (found, _) = findings(&home, &["--deploy"]);
    assert_eq!(severity(&found, "M044"), "warning,warning,warning,warning", "nothing runs: {found:?}");
    let mut server = home.serve().await;
    let (found, code) = findings(&home, &["--deploy", "--metrics-bind", "127.0.0.1:9100"]);
    for (id, wanted) in [("M040", "ok"), ("M041", "ok"), ("M042", "ok,ok"), ("M043", "ok"), ("M044", "ok,ok,ok,ok")] {
        assert_eq!(severity(&found, id), wanted, "{id}: {found:?}");
    }
    assert_eq!(code, Some(0), "{found:?}");
    server.terminate();

    redis.cli(&["config", "set", "maxmemory", "100mb"]);
    redis.cli(&["config", "set", "maxmemory-policy", "allkeys-lru"]);
    let (found, code) = findings(&home, &["--deploy", "--bind", "0.0.0.0:8000", "--metrics-bind", "0.0.0.0:9100"]);
    for (id, wanted) in [("M040", "error"), ("M041", "warning"), ("M042", "warning,warning")] {
        assert_eq!(severity(&found, id), wanted, "{id}: {found:?}");
    }
    assert_eq!(code, Some(1));

    redis.cli(&["replicaof", "127.0.0.1", "1"]);
    assert_eq!(severity(&findings(&home, &["--deploy"]).0, "M042"), "error,error", "a replica");
    redis.stop();
    let key = home.dir.path().join("key.pem");
    std::fs::write(&key, "no key").unwrap();
    set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let key = key.to_str().unwrap();
    let (found, _) = findings(&home, &["--deploy", "--tls-cert-file", key, "--tls-key-file", key]);
    for (id, wanted) in [("M040", "error"), ("M042", "error,error"), ("M045", "warning")] {
        assert_eq!(severity(&found, id), wanted, "{id}: {found:?}");
    }

    // Redis over TLS is believed by the authority that is named, and by none that is not.
    let redis = RedisServer::start_tls(true);
    home.redis_url = Some(redis.url());
    let file = |name: &str| redis::certificate(name).display().to_string();
    let (authority, ours, key) = (file("one.crt"), file("two.crt"), file("two.key"));
    let tls = ["--deploy", "--redis-tls-cert-file", &ours, "--redis-tls-key-file", &key];
    let named = [&tls[..], &["--redis-tls-ca-file", &authority]].concat();
    assert_eq!(severity(&findings(&home, &named).0, "M042"), "ok,ok");
    assert_eq!(severity(&findings(&home, &tls).0, "M042"), "error,error");

    let home = sqlite_home();
    let (found, code) = findings(&home, &["--deploy"]);
    assert_eq!(
        (severity(&found, "M042"), severity(&found, "M043"), code),
        ("note,note".into(), "note".into(), Some(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_certificate_and_the_age_of_the_last_backup_are_told() {
    let certificate = |home: &Home, name: &str, days: i32| {
        let file = |kind: &str| home.dir.path().join(format!("{name}.{kind}")).display().to_string();
        let (key, crt) = (file("key"), file("crt"));
        let days = days.to_string();
        let made = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                &days,
            ])
            .args(["-subj", "/CN=test", "-keyout", &key, "-out", &crt])
            .output()
            .expect("openssl is there: scripts/install-missing installs it");
        assert!(made.status.success(), "{made:?}");
        [crt, key]
    };
    for mut home in homes().await {
        for (days, wanted) in [(400, "ok"), (10, "warning")] {
            let [crt, key] = certificate(&home, "server", days);
            let args = ["--deploy", "--tls-cert-file", &crt, "--tls-key-file", &key];
            let (found, _) = findings(&home, &args);
            assert_eq!(severity(&found, "M046"), wanted, "{}: {days} days: {found:?}", home.name);
            assert_eq!(severity(&found, "M040"), "ok", "{}: {found:?}", home.name);
        }
        let server = home.serve().await;
        assert_eq!(severity(&findings(&home, &["--deploy"]).0, "M047"), "warning", "{}: none is known", home.name);
        let to = home.dir.path().join("backup");
        home.ok(&["db", "backup", to.to_str().unwrap()]);
        assert_eq!(severity(&findings(&home, &["--deploy"]).0, "M047"), "ok", "{}", home.name);
        // Eight days later, as far as the database knows; then one by other means.
        sql(&home, "update backups set made_at = made_at - {week}").await;
        assert_eq!(severity(&findings(&home, &["--deploy"]).0, "M047"), "warning", "{}: it is old", home.name);
        home.ok(&["db", "note-backup"]);
        assert_eq!(severity(&findings(&home, &["--deploy"]).0, "M047"), "ok", "{}", home.name);
        // A copy of it is an installation that has none.
        drop(server);
        home.extra.clear();
        let other = sqlite_home();
        other.ok(&["db", "restore", to.to_str().unwrap()]);
        assert_eq!(severity(&findings(&other, &["--deploy"]).0, "M047"), "warning", "{}", home.name);
    }
}

/// Runs a statement on the database of a home, where `{week}` is eight days.
async fn sql(home: &Home, statement: &str) {
    let (db, week) = match &home.database_url {
        Some(url) => {
            let boot = uuid::Uuid::new_v4();
            (matome_store::db::Db::connect_postgres(url, boot, 2).await.unwrap(), "interval '8 days'")
        }
        None => (matome_store::db::Db::open_beside(&home.data_dir()).await.unwrap(), "691200000000"),
    };
    let statement = statement.replace("{week}", week);
    db.write(move |conn| Box::pin(async move { conn.execute_script(statement).await })).await.unwrap();
    db.close().await;
}
