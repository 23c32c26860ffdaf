//! `web`, `worker` and `beat` as processes of their own on one PostgreSQL: the main job, health, signals, refusals.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Home, Server, postgres_home, sqlite_home, until, write};
use tokio::net::{TcpListener, TcpStream};

/// A list that answers its first request and none after it, until the test ends.
async fn stuck_upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new()
        .route("/rows", axum::routing::get(async || axum::Json(json!({ "results": [{ "n": 1 }], "next": "/never" }))))
        .route("/never", axum::routing::get(async || std::future::pending::<&str>().await));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn source_config(address: SocketAddr) -> Value {
    json!({
        "url": format!("http://{address}/rows"), "records": "$.results",
        "pagination": { "type": "next_link", "next": "$.next" }
    })
}

async fn is_running(web: &Server, task: &str) -> bool {
    web.get(task).await["status"] == "running"
}

#[tokio::test(flavor = "multi_thread")]
async fn web_workers_and_beat_do_the_main_job_on_one_database_and_stop_one_by_one() {
    let mut home = postgres_home().await;
    let files = home.files();
    write(&files.join("orders.ndjson"), "{\"n\":1}\n{\"n\":2}\n");
    home.extra = vec!["--file-root".to_owned(), files.display().to_string()];
    let mut web = home.web().await;
    let celery = ["worker", "-Q", "acquisition_queue", "-n", "acquisition_worker@%h", "-c", "3", "-l", "info"];
    let mut acquisition = home.ready_member(&celery, "takes tasks: acquisition");
    assert_eq!(acquisition.says("acquisition_worker@%h"), 0, "the sign is filled in");
    assert_eq!(acquisition.says("acquisition_worker@"), 1);
    let mut aggregation = home.ready_member(&["worker", "aggregation"], "takes tasks: aggregation");
    home.extra.clear();
    let mut beat = home.beat();

    // Run by hand, then by the beat alone: the aggregation runs after what has changed.
    let source = web.source("orders", "file", json!({ "path": files.join("orders.ndjson"), "format": "ndjson" })).await;
    let after = json!({ "sources": ["orders"] });
    let config = json!({ "sql": "select count(*) as n from orders", "after": after });
    let body = json!({ "name": "count", "config": config });
    let (status, row) = web.send("POST", "/api/aggregation/sources/", Some(body)).await;
    assert_eq!(status, 201, "{row}");
    web.run("acquisition", source).await;
    until("the beat lets the aggregation follow", async || {
        web.get("/api/aggregation/data/").await["results"][0]["data"] == json!({ "n": 2 })
    })
    .await;

    home.ok(&["healthcheck"]);
    let url = home.run(&["healthcheck", "--url", &web.base]);
    assert!(url.status.success(), "{url:?}");
    for member in [&mut acquisition, &mut aggregation, &mut beat] {
        assert_eq!(member.terminate(), Some(0), "{:#?}", member.log.lock().unwrap());
    }
    assert!(std::fs::read_dir(home.data_dir().join("health")).unwrap().next().is_none(), "the sockets are gone");
    assert_eq!(web.terminate(), Some(0));
    home.ok(&["db", "check", "--full"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_says_nothing_about_a_redis_that_is_away() {
    let mut home = postgres_home().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    home.redis_url = Some(format!("redis://{free}"));
    home.ok(&["migrate"]);
    let source = ["source", "add", "orders", "--path", "orders.ndjson"];
    for args in [source.as_slice(), &["source", "run", "orders"], &["task", "list"]] {
        let output = home.run(args);
        assert!(output.status.success(), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("Redis"), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_waits_leaves_the_work_to_the_workers() {
    let mut home = postgres_home().await;
    let path = home.files().join("orders.ndjson");
    write(&path, "{\"n\":1}\n");
    home.ok(&["token", "create", "--role", "admin"]);
    home.extra = vec!["--file-root".to_owned(), home.files().display().to_string()];
    let worker = home.worker("acquisition", 1);
    // This shell may read no file.
    let path = format!("path={}", path.display());
    home.ok(&["source", "add", "orders", "--type", "file", "--set", &path, "--set", "format=ndjson"]);
    let task: Value = serde_json::from_str(&home.ok(&["source", "run", "orders", "--wait", "-o", "json"])).unwrap();
    assert_eq!((&task["status"], &task["result"]["stored"]), (&json!("succeeded"), &json!(1)), "{task}");
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_of_both_queues_share_a_directory() {
    let home = postgres_home().await;
    // Any command with the API in it makes the key.
    home.ok(&["token", "create", "--role", "admin"]);
    let both = ["worker", "-Q", "acquisition_queue,aggregation_queue", "-c", "2"];
    let first = home.ready_member(&both, "takes tasks: acquisition,aggregation");
    let second = home.ready_member(&both, "takes tasks: acquisition,aggregation");
    let sockets = std::fs::read_dir(home.data_dir().join("health")).unwrap().count();
    assert_eq!(sockets, 2);
    home.ok(&["healthcheck"]);
    // One that hangs is seen, one that was killed is not asked any more.
    second.signal("-STOP");
    let output = home.run(&["healthcheck"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    drop(second);
    home.ok(&["healthcheck"]);
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_says_what_is_wrong_with_its_database_and_exits_with_code_3() {
    let fresh = Home { database_url: Some(matome_testbed::postgres_schema().await), ..sqlite_home() };
    let url = fresh.database_url.clone().unwrap();
    let mut wrong_password = url::Url::parse(&url).unwrap();
    wrong_password.set_password(Some("wrong")).unwrap();
    let mut no_database = url::Url::parse(&url).unwrap();
    no_database.set_path("/nowhere");
    let newer = postgres_home().await;
    matome_testbed::execute(
        newer.database_url.as_deref().unwrap(),
        "insert into schema_history (version, min_binary) values (999, 999)",
    )
    .await;
    let home = |url: &str| Home { database_url: Some(url.to_owned()), ..sqlite_home() };
    let cases = [
        (sqlite_home(), ["needs PostgreSQL", "DATABASE_URL"]),
        (fresh, ["schema version 0", "matome migrate"]),
        (newer, ["schema version 999", "newer matome"]),
        (home(wrong_password.as_str()), ["password authentication failed", "check user, password"]),
        (home(no_database.as_str()), ["/nowhere`: ", "\"nowhere\" does not exist\nhelp: check user, password"]),
        (home("mysql://localhost/x"), ["no address of a database", "postgres://"]),
    ];
    for (home, says) in &cases {
        let roles: [&[&str]; 3] = [&["web", "--bind", "127.0.0.1:0"], &["worker", "aggregation"], &["beat"]];
        for role in roles {
            let output = home.run(role);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "{role:?}: {text}");
            assert!(says.iter().all(|part| text.contains(part)) && text.contains("\nhelp: "), "{role:?}: {text}");
            let japanese = home.command(role).args(["--lang", "ja"]).output().unwrap();
            assert!(String::from_utf8_lossy(&japanese.stderr).contains("対処: "), "{japanese:?}");
        }
    }
    let home = sqlite_home();
    for (args, says) in [
        (&["worker"][..], "QUEUE"),
        (&["worker", "acquisitions"], "there are two queues"),
        (&["worker", "acquisition", "-c", "0"], "-c"),
    ] {
        let output = home.run(args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_waits_for_a_database_that_does_not_answer_and_tells_so_with_few_lines() {
    let there = postgres_home().await;
    let mut url = url::Url::parse(there.database_url.as_deref().unwrap()).unwrap();
    let (host, port) = (url.host_str().unwrap().to_owned(), url.port().unwrap());
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    url.set_port(Some(address.port())).unwrap();
    let home = Home { database_url: Some(url.to_string()), ..sqlite_home() };
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bind = reserved.local_addr().unwrap().to_string();
    drop(reserved);
    let mut web = home.member(&["web", "--bind", &bind]);
    let mut worker = home.member(&["worker", "aggregation"]);
    let client = support::client();
    let ask = async |path: &str| {
        let reply = client.get(format!("http://{bind}{path}")).send().await.ok()?;
        Some((reply.status().as_u16(), reply.text().await.unwrap()))
    };
    // At once, not only when the first try has failed.
    worker.until_says("connecting to the database");
    worker.until_says("waiting: the database is not reachable");
    assert_eq!(worker.says(&format!("`{address}/")), 2, "both say where it is: {:#?}", worker.log.lock().unwrap());
    let mut migrate = home.member(&["migrate", "--wait"]);
    migrate.until_says("waiting: the database is not reachable");
    // So does `serve`: on a server it is one role among others.
    let mut serve = home.member(&["serve", "--bind", "127.0.0.1:0"]);
    serve.until_says("waiting: the database is not reachable");
    let password = url.password().unwrap_or("hush").to_owned();
    for member in [&worker, &migrate, &serve] {
        assert_eq!(member.says(&format!(":{password}@")), 0, "{:#?}", member.log.lock().unwrap());
    }
    let once = home.run(&["migrate"]);
    assert_eq!(once.status.code(), Some(7), "{once:?}");
    let told = String::from_utf8_lossy(&once.stderr).into_owned();
    assert!(told.contains(&format!("\ncause: `{address}/")), "{told}");
    until("it says why it is not ready", async || {
        ask("/readyz").await.is_some_and(|(status, body)| status == 503 && body.contains("not reachable"))
    })
    .await;
    assert_eq!(ask("/livez").await.unwrap().0, 200);
    assert_eq!(ask("/api/acquisition/sources/").await.unwrap().0, 503);
    assert_eq!(home.run(&["healthcheck"]).status.code(), Some(1));

    // It comes up, and both go on by themselves.
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect((host.as_str(), port)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    until("it is ready", async || ask("/readyz").await.is_some_and(|(status, _)| status == 200)).await;
    until("the worker too", async || home.run(&["healthcheck"]).status.success()).await;
    assert!(worker.log.lock().unwrap().len() <= 5, "{:#?}", worker.log.lock().unwrap());
    assert_eq!(migrate.wait(), Some(0), "{:#?}", migrate.log.lock().unwrap());
    serve.until_says("serving on");
    assert_eq!(serve.terminate(), Some(0));
    assert_eq!(worker.terminate(), Some(0));
    assert_eq!(web.terminate(), Some(0));

    // One that still waits stops at once too.
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_port(Some(reserved.local_addr().unwrap().port())).unwrap();
    drop(reserved);
    let home = Home { database_url: Some(url.to_string()), ..sqlite_home() };
    let mut beat = home.member(&["beat"]);
    until("it catches signals", async || home.data_dir().join("health/beat.sock").exists()).await;
    assert_eq!(beat.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_gives_the_leases_away_at_once() {
    let address = stuck_upstream().await;
    let mut home = postgres_home().await;
    home.extra = vec!["--egress-allow".to_owned(), format!("127.0.0.1/32:{}", address.port())];
    let web = home.web().await;
    let mut worker = home.worker("acquisition", 1);
    let source = web.source("stuck", "api", source_config(address)).await;
    let task = web.start("acquisition", source).await;
    until("it runs", async || is_running(&web, &task).await).await;
    let egress = std::mem::take(&mut home.extra);
    let _beat = home.beat();
    home.extra = egress;
    let heir = home.worker("acquisition", 1);
    // Its end cannot be written, so the first signal cannot end it.
    let url = home.database_url.as_deref().unwrap();
    let held = matome_testbed::hold(url, "lock table tasks in share row exclusive mode").await;
    worker.signal("-TERM");
    worker.until_says("a second signal ends at once");
    worker.signal("-TERM");
    assert_eq!(worker.wait(), Some(1), "{:#?}", worker.log.lock().unwrap());
    drop(held);
    let told = Instant::now();
    until("another worker runs it", async || {
        let row = web.get(&task).await;
        assert_ne!(row["status"], "failed");
        row["status"] == "running"
    })
    .await;
    assert!(told.elapsed() < Duration::from_secs(5), "nobody waits until it is taken for dead: {:?}", told.elapsed());
    drop(heir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_elsewhere_asks_for_the_key_instead_of_making_another() {
    let home = postgres_home().await;
    let other = Home { database_url: home.database_url.clone(), ..sqlite_home() };
    let worker = other.member(&["worker", "acquisition"]);
    worker.until_says("waiting for the key");
    // The web process makes one; a copy of it is enough.
    let web = home.web().await;
    assert!(!other.data_dir().join("master.key").exists());
    std::fs::copy(home.data_dir().join("master.key"), other.data_dir().join("master.key")).unwrap();
    worker.until_says("takes tasks");
    // Neither beat nor an aggregation worker needs it.
    let bare = Home { database_url: home.database_url.clone(), ..sqlite_home() };
    bare.beat();
    bare.worker("aggregation", 1);
    assert!(!bare.data_dir().join("master.key").exists());
    drop(web);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_of_celery_starts_a_worker_that_says_what_has_no_effect() {
    let home = postgres_home().await;
    let celery = [
        "worker",
        "-A",
        "config",
        "-Q",
        "aggregation_queue",
        "-n",
        "sums@%n",
        "-c",
        "2",
        "-l",
        "INFO",
        "-P",
        "prefork",
        "-E",
        "-O",
        "fair",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "--prefetch-multiplier=1",
        "--max-tasks-per-child",
        "100",
    ];
    let mut worker = home.ready_member(&celery, "takes tasks: aggregation");
    for flag in ["-A", "-P", "-E", "-O", "--without-gossip", "--prefetch-multiplier", "--max-tasks-per-child"] {
        assert_eq!(
            worker.says(&format!("`{flag}` is set and has no effect: ")),
            1,
            "{:#?}",
            worker.log.lock().unwrap()
        );
    }
    assert_eq!(worker.terminate(), Some(0));
    // What would be missed is refused.
    for flag in ["-B", "--time-limit=60", "--autoscale=10,3", "--pidfile=x"] {
        let output = home.run(&["worker", "aggregation", flag]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_died_is_told_by_its_name() {
    let home = postgres_home().await;
    let beat = home.beat();
    let mut worker = home.ready_member(&["worker", "aggregation", "-n", "sums@here"], "takes tasks");
    let pid = worker.child.id();
    worker.kill();
    beat.until_says(&format!("the worker `aggregation sums@here (pid {pid})` is dead"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_key_opens_no_secret_ends_with_code_3_instead_of_failing_tasks() {
    let home = postgres_home().await;
    let mut web = home.web().await;
    let config = json!({ "url": "http://127.0.0.1:9/rows", "auth": { "type": "bearer", "token": "hush" } });
    let source = web.source("secret", "api", config.clone()).await;
    let file = |name: &str, text: &str| {
        let path = home.dir.path().join(name);
        write(&path, text);
        path.display().to_string()
    };
    let (other, no_key) = (file("other.key", &"5a".repeat(32)), file("no.key", "secret\n"));
    let worker = ["worker", "acquisition", "--master-key-file"];
    let ended = |key: &str, says: &[&str]| {
        let output = home.run(&[&worker[..], &[key]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(says.iter().all(|part| text.contains(part)) && text.contains("\nhelp: "), "{text}");
    };
    ended(&other, &["opens none of the secrets in the database (1)", "the key of `matome web`"]);
    ended(&no_key, &["the master key `", "64 hex digits", "openssl rand -hex 32"]);
    ended("/nowhere.key", &["the master key `/nowhere.key` cannot be used", "openssl rand -hex 32"]);
    // Whoever sees no secrets needs no key, and with an API they can be entered anew.
    home.worker("aggregation", 1);
    assert_eq!(web.terminate(), Some(0));
    let mut home = home;
    home.extra = vec!["--master-key-file".to_owned(), other.clone()];
    let web = home.web().await;
    web.until_says("encrypted with another master key");
    let anew = json!({ "config": config });
    let (status, row) = web.send("PATCH", &format!("/api/acquisition/sources/{source}/"), Some(anew)).await;
    assert_eq!(status, 200, "{row}");
    home.worker("acquisition", 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_answers_on_an_address_of_its_own_when_asked() {
    let home = postgres_home().await;
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bind = reserved.local_addr().unwrap().to_string();
    drop(reserved);
    let beat = home.ready_member(&["beat", "--health-bind", &bind], "beat runs");
    for path in ["livez", "readyz"] {
        let reply = support::client().get(format!("http://{bind}/{path}")).send().await.unwrap();
        assert_eq!(reply.status(), 200);
    }
    let second = home.command(&["beat", "--health-bind", &bind]).stdout(Stdio::null()).output().unwrap();
    assert_eq!(second.status.code(), Some(6), "{second:?}");
    drop(beat);
}
