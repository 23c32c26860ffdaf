//! The command line: beside a running server, on its own, and through a URL; output forms and exit codes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::{Command, Output};

use serde_json::{Value, json};
use support::{Home, homes, sqlite_home, write};

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|err| panic!("{err}: {text}"))
}

fn failed(output: &Output, code: i32, says: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(says), "`{says}` is not in: {text}");
    assert!(output.stdout.is_empty(), "stdout carries data only");
}

/// What a user does with one source and one aggregation, by commands only.
fn story(home: &Home) {
    write(&home.files().join("orders.csv"), "id,status\r\n1,paid\r\n2,open\r\n3,paid\r\n");
    let files = home.files();
    let with_root = |args: &[&str]| {
        let mut command = home.command(args);
        command.env("FILE_ROOTS", &files);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let row =
        json_of(&with_root(&["source", "add", "orders", "--path", "orders.csv", "--interval", "0", "-o", "json"]));
    assert_eq!((&row["name"], &row["config"]["path"]), (&json!("orders"), &json!("orders.csv")));
    let tested = json_of(&with_root(&["source", "test", "orders", "-o", "json"]));
    assert_eq!(tested["records"].as_array().map(Vec::len), Some(3), "{tested}");
    let task = json_of(&with_root(&["source", "run", "orders", "--wait", "-o", "json"]));
    assert_eq!((&task["status"], &task["result"]["stored"]), (&json!("succeeded"), &json!(3)), "{task}");
    with_root(&[
        "aggregate",
        "add",
        "daily",
        "--sql",
        "select status, count(*) as n from orders group by status order by status",
    ]);
    let preview = with_root(&["aggregate", "preview", "daily", "-o", "csv"]);
    assert_eq!(preview, "status,n\r\nopen,1\r\npaid,2\r\n");
    let tried = with_root(&["aggregate", "preview", "daily", "--sql", "select 1 as one", "-o", "csv"]);
    assert_eq!(tried, "one\r\n1\r\n");
    with_root(&["aggregate", "run", "daily", "--wait"]);
    assert_eq!(
        with_root(&["data", "export", "--aggregation", "daily", "-o", "csv"]),
        "n,status\r\n1,open\r\n2,paid\r\n"
    );
    let change = ["--set", "mode=upsert", "--set", r#"key=["status"]"#, "--description", "by status", "-o", "json"];
    let row = json_of(&with_root(&[&["aggregate", "set", "daily"][..], &change].concat()));
    let config = json!({ "sql": row["config"]["sql"], "mode": "upsert", "key": ["status"] });
    assert_eq!((&row["config"], &row["description"]), (&config, &json!("by status")));
    let sql = "select count(*) as n from orders";
    let back = ["aggregate", "set", "daily", "--sql", sql, "--unset", "mode", "--unset", "key", "-o", "json"];
    assert_eq!(json_of(&with_root(&back))["config"], json!({ "sql": sql }));
    failed(&home.run(&["aggregate", "set", "daily", "--sql", "delete from orders"]), 2, "config.sql");
    let table = with_root(&["source", "list"]);
    assert_eq!(table.lines().next(), Some("id\tname\ttype\tstatus\tinterval\tlast fetched"));
    assert_eq!(with_root(&["data", "query", "--source", "orders", "-o", "ndjson"]).lines().count(), 3);
    assert_eq!(json_of(&with_root(&["task", "list", "-o", "json"])).as_array().map(Vec::len), Some(1));
    let id = task["id"].to_string();
    assert_eq!(json_of(&with_root(&["task", "show", &id, "-o", "json"]))["id"], task["id"]);
    failed(&home.run(&["task", "retry", &id]), 6, "succeeded");
    failed(&home.run(&["source", "show", "none"]), 5, "source list");
    failed(&home.run(&["source", "add", "orders", "--path", "x.csv"]), 2, "already exists");
    failed(&home.run(&["source", "add", "bad", "--path", "x.csv", "--set", "nope=1"]), 2, "config.nope");
    failed(&home.run(&["source", "delete", "orders"]), 2, "--yes");
    home.ok(&["aggregate", "delete", "daily", "--yes"]);
    home.ok(&["source", "delete", "orders", "--yes"]);
    failed(&home.run(&["source", "show", "orders"]), 5, "orders");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_waits_runs_its_own_task_and_no_other() {
    for home in homes().await {
        write(&home.files().join("orders.csv"), "id\r\n1\r\n");
        for name in ["orders", "others"] {
            home.ok(&["source", "add", name, "--type", "file", "--set", "path=orders.csv", "--set", "format=csv"]);
        }
        let others = json_of(&home.ok(&["source", "run", "others", "-o", "json"]));
        let mut command = home.command(&["source", "run", "orders", "--wait", "-o", "json"]);
        let output = command.env("FILE_ROOTS", home.files()).output().unwrap();
        let task = json_of(&String::from_utf8(output.stdout).unwrap());
        assert_eq!((&task["status"], &task["result"]["stored"]), (&json!("succeeded"), &json!(1)), "{task}");
        // A shell that may read nothing would have failed it.
        home.ok(&["aggregate", "add", "one", "--sql", "select 1 as one"]);
        home.ok(&["aggregate", "run", "one", "--wait"]);
        let others = json_of(&home.ok(&["task", "show", &others["id"].to_string(), "-o", "json"]));
        assert_eq!((&others["status"], &others["attempt"]), (&json!("pending"), &json!(0)), "{}: {others}", home.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_beside_a_server_that_holds_the_data_directory() {
    let home = sqlite_home();
    let _server = home.serve().await;
    story(&home);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_without_a_server_on_both_databases() {
    for home in homes().await {
        story(&home);
    }
}

#[test]
fn help_shows_what_is_special_to_a_command_first() {
    let home = sqlite_home();
    for (lang, sql, place, everywhere) in
        [("en", "--sql", "Where the data is", "Everywhere"), ("ja", "--sql", "データの場所", "共通")]
    {
        let help = home.ok(&["aggregate", "add", "--help", "--lang", lang]);
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text}: {help}"));
        assert!(at(sql) < at(place) && at(place) < at("--data-dir") && at("--data-dir") < at(everywhere), "{help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_options_of_a_type_are_listed_and_are_a_schema() {
    let home = sqlite_home();
    home.ok(&["source", "add", "orders", "--path", "orders.csv"]);
    let listed = home.ok(&["source", "options", "file"]);
    let path = listed.lines().find(|line| line.starts_with("path\t")).unwrap_or_else(|| panic!("{listed}"));
    assert!(path.contains("required") && path.contains("file root"), "{path}");
    let schema = json_of(&home.ok(&["source", "options", "api", "-o", "json"]));
    assert_eq!((&schema["title"], &schema["additionalProperties"]), (&json!("api"), &json!(false)));
    failed(&home.run(&["source", "options", "ftp"]), 5, "websocket");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_looked_at_and_added_by_its_path() {
    for home in homes().await {
        std::fs::create_dir_all(home.dir.path().join("exports")).unwrap();
        std::fs::write(home.dir.path().join("exports/orders.txt"), "id;total\n1;5\n22;7.5\n").unwrap();
        let add = |name: &str, path: &str| {
            let mut command = home.command(&["source", "add", name, path, "--yes", "--interval", "0", "-o", "json"]);
            command.env("FILE_ROOTS", home.dir.path()).output().unwrap()
        };
        let added = add("orders", "exports/orders.txt");
        let shown = String::from_utf8_lossy(&added.stderr);
        assert!(added.status.success() && shown.contains("id integer"), "{shown}");
        let row = json_of(&String::from_utf8(added.stdout).unwrap());
        let types = json!({"id": "number", "total": "number"});
        let config = json!({"path": "exports/orders.txt", "format": "csv", "delimiter": ";", "types": types});
        assert_eq!((&row["source_type"], &row["config"]), (&json!("file"), &config), "{row}");
        let refused = add("none", "exports");
        let shown = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && shown.contains("exports/*.txt"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_read_says_what_helps_and_its_test_fails() {
    use axum::http::StatusCode;
    use axum::routing::get;
    let router = axum::Router::new()
        .route("/down", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .route("/closed", get(async || StatusCode::UNAUTHORIZED))
        .route("/cut", get(async || ([("content-type", "application/json")], r#"[{"n":1},{"n":"#)))
        .route("/numbers", get(async || axum::Json(json!([1, 2, 3]))))
        .route("/refused", get(async || axum::Json(json!({"error": "no such key", "code": 7}))))
        .route("/none.csv", get(async || ([("content-type", "text/csv")], "id,total\n")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let home = sqlite_home().reaching(upstream);
    let server = home.serve().await;
    let remote = ["--server", &server.base, "--token", &server.token];
    let run = |args: &[&str]| home.run(&[args, &remote].concat());
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let add = |name: &str, path: &str| run(&["source", "add", name, &format!("http://{upstream}{path}"), "--yes"]);
    for (name, path, says) in [
        ("down", "/down", "later"),
        ("closed", "/closed", "auth.token"),
        ("cut", "/cut", "cut off"),
        ("numbers", "/numbers", "all 3 of the sample would go to quarantine"),
        ("refused", "/refused", "the only record has `error`"),
        ("none", "/none.csv", "no record is in it"),
    ] {
        let refused = add(name, path);
        let told = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{name}: {told}");
        assert!(told.contains(says) && told.contains("to add it without a look"), "{name}: {told}");
        assert!(name == "closed" || !told.contains("auth.token"), "{name}: {told}");
    }
    assert_eq!(server.get("/api/acquisition/sources/").await["count"], 0);

    home.ok(&["source", "add", "down", "--url", &format!("http://{upstream}/down")]);
    let tested = run(&["source", "test", "down"]);
    failed(&tested, 1, "the server itself has trouble");
    let tested = run(&["source", "test", "down", "-o", "json"]);
    assert_eq!(tested.status.code(), Some(1), "{}", said(&tested));
    let answer = json_of(&String::from_utf8_lossy(&tested.stdout));
    assert_eq!(answer["ok"], false, "{answer}");
    assert!(answer["error"]["help"].as_str().unwrap().contains("later"), "{answer}");
}

#[test]
fn a_change_of_how_values_are_read_says_that_stored_ones_stay() {
    let home = sqlite_home();
    home.ok(&["source", "add", "orders", "--path", "orders.csv"]);
    let said = |args: &[&str]| String::from_utf8_lossy(&home.run(args).stderr).into_owned();
    let told = said(&["source", "set", "orders", "--set", r#"types={"n":"integer"}"#, "--unset", "encoding"]);
    assert!(told.contains("`encoding` reaches only") && told.contains("run orders --full"), "{told}");
    assert!(told.contains("revalidate orders --apply"), "{told}");
    assert!(!said(&["source", "set", "orders", "--set", "timeout_secs=5"]).contains("--full"));
    assert!(said(&["source", "revalidate", "orders"]).contains("run orders --full"));
}

#[test]
fn a_source_is_paused_and_resumed() {
    let home = sqlite_home();
    home.ok(&["source", "add", "orders", "--path", "orders.csv"]);
    assert_eq!(json_of(&home.ok(&["source", "pause", "orders", "-o", "json"]))["status"], "inactive");
    failed(&home.run(&["source", "run", "orders"]), 2, "paused");
    assert_eq!(json_of(&home.ok(&["source", "resume", "orders", "-o", "json"]))["status"], "active");
    failed(&home.run(&["source", "pause", "nothing"]), 5, "nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_added_by_the_address_of_its_database() {
    let rows =
        "create table orders (id int primary key, note varchar(9)); insert into orders values (1, 'a'), (2, 'b')";
    let postgres = matome_testbed::postgres_schema().await;
    matome_testbed::run_script(&postgres, rows).await;
    let (address, schema) = (postgres.split('?').next().unwrap(), postgres.rsplit_once("%3D").unwrap().1);
    let mysql = matome_testbed::mysql_database(rows).await;
    let of_schema = format!("{schema}.orders");
    let (unencrypted, encrypted) = (format!("{address}?sslmode=disable"), format!("{mysql}?ssl-mode=REQUIRED"));
    for home in homes().await {
        let run = |args: &[&str]| {
            let mut command = home.command(args);
            let output =
                command.env("EGRESS_ALLOW", "127.0.0.1/32").env("FILE_ROOTS", home.dir.path()).output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        for (name, url, what, value) in [
            ("postgres", unencrypted.as_str(), "--table", of_schema.as_str()),
            ("mysql", encrypted.as_str(), "--table", "orders"),
            ("query", encrypted.as_str(), "--query", "select id from orders"),
        ] {
            let added = run(&["source", "add", name, "--url", url, what, value, "--interval", "0", "-o", "json"]);
            let row = json_of(&added);
            assert_eq!(row["source_type"], "database", "{row}");
            assert_eq!(row["config"]["password"], json!({"$secret": true}), "{row}");
            assert!(!added.contains(url::Url::parse(url).unwrap().password().unwrap()), "{row}");
            let task = json_of(&run(&["source", "run", name, "--wait", "-o", "json"]));
            assert_eq!((&task["status"], &task["result"]["stored"]), (&json!("succeeded"), &json!(2)), "{task}");
        }
        // Looked at first: the only table there is, with its key. Without one that is meant, nothing is added.
        let added = run(&["source", "add", "looked", &encrypted, "--yes", "--interval", "0", "-o", "json"]);
        let row = json_of(&added);
        assert_eq!((&row["config"]["table"], &row["config"]["key"]), (&json!("orders"), &json!("id")), "{row}");
        std::fs::create_dir_all(home.files()).unwrap();
        let shop = home.files().join("shop.db");
        if !shop.exists() {
            let script = "create table orders (id integer primary key, n int); create table customers (id integer primary key); \
                          insert into orders values (1, 5)";
            matome_testbed::run_sqlite_script(&shop, script).await;
        }
        let add = |more: &[&str]| {
            let address = format!("sqlite:{}", shop.display());
            let mut command =
                home.command(&[&["source", "add", "shop", &address, "--yes", "-o", "json"], more].concat());
            command.env("FILE_ROOTS", home.dir.path()).output().unwrap()
        };
        let listed = add(&[]);
        failed(&listed, 2, "say which table is to be read");
        let told = String::from_utf8_lossy(&listed.stderr).into_owned();
        assert!(told.contains("customers") && told.contains("--table"), "{told}");
        failed(&add(&["--table", "order"]), 1, "there are `orders`, `customers`");
        let added = add(&["--table", "orders"]);
        assert_eq!(json_of(&String::from_utf8_lossy(&added.stdout))["config"]["key"], "id", "{added:?}");
        // An SQLite file, here matome's own.
        let file = home.data_dir().join("matome.db");
        if home.name == "sqlite" {
            let added =
                run(&["source", "add", "own", "--path", "data/matome.db", "--table", "data_sources", "-o", "json"]);
            assert_eq!(json_of(&added)["source_type"], "database", "{added}");
            let added = run(&[
                "source",
                "add",
                "same",
                "--url",
                &format!("sqlite:{}", file.display()),
                "--table",
                "data_sources",
                "-o",
                "json",
            ]);
            assert_eq!(json_of(&added)["config"]["path"], json!(file), "{added}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_ends_with_1_and_says_why() {
    let home = sqlite_home();
    let _server = home.serve().await;
    home.ok(&["source", "add", "gone", "--path", "gone.ndjson"]);
    let output = home.run(&["source", "run", "gone", "--wait"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("gone.ndjson"), "{output:?}");

    home.ok(&["source", "add", "denied", "--url", "http://10.0.0.1/x"]);
    let output = home.run(&["source", "run", "denied", "--wait", "-o", "json"]);
    assert_eq!(json_of(&String::from_utf8_lossy(&output.stdout))["error"]["reason"], "denied");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--egress-allow 10.0.0.1/32:80"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_at_an_address_says_whether_it_is_an_api_or_a_file() {
    use axum::routing::get;
    const ROWS: &str = "id,total\n1,5\n22,7.5\n";
    let router = axum::Router::new()
        .route("/export", get(async || ([("content-type", "text/csv")], ROWS)))
        .route("/orders.csv", get(async || ([("content-type", "text/plain")], ROWS)))
        .route("/users.json", get(async || axum::Json(json!([{"n": 1}, {"n": 2}]))));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    for home in homes().await {
        let home = home.reaching(upstream);
        let server = home.serve().await;
        let remote = ["--server", &server.base, "--token", &server.token];
        let run = |args: &[&str]| home.run(&[args, &remote].concat());
        for (name, path, source_type, place, told) in [
            ("export", "/export", "file", "path", "a file, because the answer is `text/csv`"),
            ("orders", "/orders.csv", "file", "path", "a file, because of the name `orders.csv`"),
            ("users", "/users.json", "api", "url", "an API, because the answer is `application/json`"),
        ] {
            let url = format!("http://{upstream}{path}");
            let output = run(&["source", "add", name, &url, "--yes", "-o", "json"]);
            let shown = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && shown.contains(told), "{name}: {shown}");
            let row = json_of(&String::from_utf8_lossy(&output.stdout));
            assert_eq!((&row["source_type"], &row["config"][place]), (&json!(source_type), &json!(url)), "{row}");
            let other = if place == "path" { "url" } else { "path" };
            assert!(row["config"][other].is_null(), "{row}");
            let tested = json_of(&String::from_utf8_lossy(&run(&["source", "test", name, "-o", "json"]).stdout));
            assert_eq!(tested["records"].as_array().map(Vec::len), Some(2), "{tested}");
        }
        let url = format!("http://{upstream}/export");
        let output = run(&["source", "add", "pages", &url, "--type", "api", "--yes", "-o", "json"]);
        assert_eq!(json_of(&String::from_utf8_lossy(&output.stdout))["source_type"], "api", "{output:?}");
        // Addresses of stores are those of files.
        let endpoint = format!("s3.endpoint=http://{upstream}");
        let output = run(&["source", "add", "sales", "s3://sales/2026/", "--yes", "--set", &endpoint]);
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(shown.contains("`s3://sales/2026/") && shown.contains("--path 's3://sales/2026/'"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_is_looked_at_before_it_is_added() {
    let upstream = support::upstream(45).await;
    let url = format!("http://{upstream}/rows");
    for home in homes().await {
        let home = home.reaching(upstream);
        let server = home.serve().await;
        let remote = ["--server", &server.base, "--token", &server.token];
        let run = |args: &[&str]| home.run(&[args, &remote].concat());
        // It is shown and not made before somebody agrees, and nobody can be asked here.
        let output = run(&["source", "add", "rows", &url, "--lang", "ja"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("20 件のオブジェクト") && told.contains("--yes"), "{told}");
        assert_eq!(server.get("/api/acquisition/sources/").await["count"], 0);

        let output = run(&["source", "add", "rows", &url, "--yes", "--set", "key=n", "-o", "json"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("`$.next` has the address") && told.contains("columns, with ?"), "{told}");
        let row = json_of(&String::from_utf8_lossy(&output.stdout));
        let pages = json!({"type": "next_link", "next": "$.next"});
        assert_eq!(
            row["config"],
            json!({"url": url, "key": "n", "records": "$.results", "pagination": pages}),
            "{}: {told}",
            home.name
        );
        assert!(run(&["source", "run", "rows", "--wait"]).status.success());
        assert_eq!(server.get("/api/acquisition/data/").await["count"], 45, "{}", home.name);

        let output = run(&["source", "add", "denied", "http://10.0.0.1/x", "--yes"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("--egress-allow 10.0.0.1/32:80") && told.contains("--url 'http://10.0.0.1/x'"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_may_read_and_not_write_and_no_token_is_not_enough() {
    let home = sqlite_home();
    let server = home.serve().await;
    let viewer = home.ok(&["token", "create", "--role", "viewer"]).trim().to_owned();
    let remote = |token: &str, args: &[&str]| {
        let mut command = home.command(args);
        command.args(["--server", &server.base]);
        if !token.is_empty() {
            command.args(["--token", token]);
        }
        command.output().unwrap()
    };
    assert!(remote(&viewer, &["source", "list"]).status.success());
    failed(&remote(&viewer, &["source", "add", "x", "--path", "x.csv"]), 4, "admin");
    failed(&remote("", &["source", "list"]), 4, "--token");
    let nowhere = home.command(&["source", "list", "--server", "http://127.0.0.1:1"]).output().unwrap();
    failed(&nowhere, 7, "does not answer");
}

#[test]
fn slips_of_the_pen_are_told_and_leave_nothing_behind() {
    let home = sqlite_home();
    let elsewhere = home.dir.path().join("elsewhere");
    let at = elsewhere.to_str().unwrap();
    let list = |args: [&str; 2]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matome"));
        command.args(["source", "list"]).args(args).env_remove("DATABASE_URL").env("LC_ALL", "C").output().unwrap()
    };
    failed(&list(["--data-dir", at]), 3, "no data directory");
    assert!(!elsewhere.exists());
    failed(&list(["--server", "localhost:8000"]), 2, "http://localhost:8000");
    home.ok(&["token", "create", "--role", "admin"]);
    failed(&home.run(&["task", "show", "7"]), 5, "no task 7");
}

#[test]
fn token_create_prints_only_the_token() {
    let home = sqlite_home();
    let text = home.ok(&["token", "create", "--role", "admin"]);
    assert!(text.starts_with("mtm_") && text.trim_end().lines().count() == 1, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_run_with_quarantined_records_ends_with_8() {
    let home = sqlite_home();
    write(&home.files().join("some.ndjson"), "{\"n\":1}\nnot a record\n");
    let _server = home.serve().await;
    home.ok(&["source", "add", "some", "--path", "some.ndjson"]);
    let output = home.run(&["source", "run", "some", "--wait", "--strict"]);
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("quarantine"), "{output:?}");
    home.ok(&["source", "run", "some", "--wait"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_every_record_and_a_file_appears_whole() {
    for home in homes().await {
        let lines: Vec<String> = (0..2500).map(|n| format!("{{\"n\":{n},\"x\":\"{}\"}}", "あ".repeat(40))).collect();
        write(&home.files().join("many.ndjson"), lines.join("\n"));
        let server = home.serve().await;
        let id = server.source("many", "file", json!({ "path": "many.ndjson" })).await;
        server.run("acquisition", id).await;
        let file = home.dir.path().join("out.ndjson");
        let to = file.to_str().unwrap();
        home.ok(&["data", "export", "--source", "many", "--to", to]);
        let mut exported: Vec<Value> = std::fs::read_to_string(&file).unwrap().lines().map(json_of).collect();
        exported.sort_by_key(|record| record["n"].as_u64());
        let read: Vec<Value> = lines.iter().map(|line| json_of(line)).collect();
        assert!(exported == read, "{}: {} records", home.name, exported.len());
        let parts = std::fs::read_dir(home.dir.path()).unwrap().filter_map(Result::ok);
        assert!(parts.map(|entry| entry.file_name()).all(|name| name != "out.ndjson.part"));
        failed(&home.run(&["data", "export", "--source", "none"]), 5, "none");
    }
}
