//! The contract of the command line: what goes to stdout and what to stderr, forms, exit codes, languages, questions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use support::{Home, PATIENCE, sqlite_home, write};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A home with two sources, one of them with records.
fn home() -> Home {
    let home = sqlite_home();
    write(&home.files().join("a.ndjson"), "{\"n\":12345678901234567890.10,\"名\":\"値\"}\n{\"n\":2}\n");
    home.ok(&["source", "add", "受注", "--path", "a.ndjson", "--interval", "0"]);
    home.ok(&["source", "add", "empty", "--path", "none.ndjson", "--interval", "0"]);
    run(&home, &["source", "run", "受注", "--wait"]);
    home
}

fn run(home: &Home, args: &[&str]) -> Output {
    let output = home.command(args).env("FILE_ROOTS", home.files()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    output
}

#[test]
fn each_form_can_be_read_back_and_carries_the_same_rows() {
    let home = home();
    let of = |form: &str| home.ok(&["source", "list", "-o", form]);
    let rows: Vec<Value> = serde_json::from_str(&of("json")).unwrap();
    assert_eq!(rows.len(), 2);
    let lines: Vec<Value> = of("ndjson").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, rows);
    assert_eq!(yaml_serde::from_str::<Vec<Value>>(&of("yaml")).unwrap(), rows);
    let table = of("table");
    let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    assert!(cells.iter().all(|line| line.len() == 6) && cells.iter().any(|line| line[1] == "受注"), "{table}");
    assert!(of("csv").starts_with("id,name,type,"));
    let exported = home.ok(&["data", "export", "--source", "受注", "-o", "yaml"]);
    assert!(exported.contains("\"n\": 12345678901234567890.1\n"), "{exported}");
}

#[test]
fn an_empty_list_is_an_empty_list_in_each_form_and_a_hint_on_stderr() {
    let home = sqlite_home();
    home.ok(&["migrate"]);
    for (form, stdout) in [("json", "[]\n"), ("yaml", "[]\n"), ("ndjson", ""), ("table", "")] {
        let output = run(&home, &["source", "list", "-o", form]);
        assert_eq!(text(&output.stdout), stdout, "{form}");
        assert_eq!(text(&output.stderr).contains("No sources yet"), form == "table", "{output:?}");
    }
    assert_eq!(home.ok(&["source", "list", "-o", "csv"]), "id,name,type,status,interval,last fetched\r\n");
}

#[test]
fn fields_are_printed_in_the_order_asked_for() {
    let home = home();
    let of = |form: &str| home.ok(&["source", "list", "--fields", "name,config.path", "-o", form]);
    assert_eq!(of("csv").lines().next(), Some("name,config.path"));
    assert!(of("ndjson").lines().any(|line| line == r#"{"name":"受注","config.path":"a.ndjson"}"#), "{}", of("ndjson"));
    assert_eq!(
        home.ok(&["source", "show", "受注", "--fields", "config.path", "-o", "table"]),
        "config.path  a.ndjson\n"
    );
    let output = home.run(&["source", "list", "--fields", "nme"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`nme`\nhelp: the fields are `id`, `name`"), "{output:?}");
}

/// What a command that fails says, after its exit code was looked at.
fn says(output: &Output, code: i32) -> String {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "stdout carries data only: {output:?}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn each_exit_code_means_what_the_help_says() {
    let home = home();
    assert_eq!(run(&home, &["source", "list"]).status.code(), Some(0));
    // 1: it ran and failed, 8: it ran and is partly done; both print the task.
    let failed = home.run(&["source", "run", "empty", "--wait", "-o", "json"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let task: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(task["status"], "failed");
    let stderr = text(&failed.stderr);
    let parts = ["error: task ", "\ncause: ", "\nhelp: `matome task show"];
    assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
    write(&home.files().join("bad.ndjson"), "{\"n\":1}\nno record\n");
    home.ok(&["source", "add", "bad", "--path", "bad.ndjson", "--interval", "0"]);
    let partly = home.command(&["source", "run", "bad", "--wait", "--strict"]).env("FILE_ROOTS", home.files()).output();
    assert_eq!(partly.unwrap().status.code(), Some(8));

    assert!(says(&home.run(&["source", "lst"]), 2).contains("help: did you mean `list`?"));
    // Nobody can have meant `bench`.
    assert!(says(&home.run(&["nosuch"]), 2).contains("no command `nosuch`\nhelp: `matome --help` describes it"));
    assert!(
        says(&home.run(&["source", "list", "--serch", "x"]), 2)
            .contains("`--serch` here\nhelp: did you mean `--search`?")
    );
    assert!(
        says(&home.run(&["source", "list", "-o", "xml"]), 2)
            .contains("`xml` is no value of `--output <FORMAT>`\nhelp: known are table, json")
    );
    assert!(says(&home.run(&["source", "show"]), 2).contains("missing: <NAME>\nhelp: `matome source show --help`"));
    says(&home.run(&["serve", "--file-root", "/nowhere/at/all", "--bind", "127.0.0.1:0"]), 3);
    says(&home.run(&["source", "show", "none"]), 5);
    says(&home.run(&["source", "list", "--server", "http://127.0.0.1:1"]), 7);
    let warned = home.run(&["doctor", "--strict", "--bind", "0.0.0.0:8000"]);
    assert_eq!(warned.status.code(), Some(9), "{warned:?}");
    assert!(text(&warned.stderr).starts_with("error: 1 warning\n"), "{warned:?}");

    let server = home.serve().await;
    let base = server.base.as_str();
    says(&home.run(&["source", "list", "--server", base]), 4);
    let viewer = home.ok(&["token", "create", "--role", "viewer"]);
    let refused = home.run(&["source", "delete", "bad", "--yes", "--server", base, "--token", viewer.trim()]);
    assert!(says(&refused, 4).contains("help: use a token of role admin"));
    says(&home.run(&["serve", "--bind", "127.0.0.1:0"]), 6);
}

/// Starts a command that waits for a source which never answers.
async fn waiting(home: &Home) -> Child {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let url = format!("http://{address}/never");
    home.ok(&["source", "add", "never", "--url", &url, "--interval", "0"]);
    let mut command =
        home.command(&["source", "run", "never", "--wait", "--egress-allow", &format!("{}/32", address.ip())]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The source's connection shows that the command is at work.
    tokio::task::spawn_blocking(move || silent.accept().map(|(stream, _)| std::mem::forget(stream)).unwrap())
        .await
        .unwrap();
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_command_with_130_or_143() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let home = sqlite_home();
        let child = waiting(&home).await;
        let started = Instant::now();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert!(started.elapsed() < PATIENCE);
        says(&output, code);
    }
}

#[test]
fn messages_are_in_the_language_of_the_flag_the_variable_or_the_locale() {
    let home = home();
    let japanese = |args: &[&str], variable: Option<(&str, &str)>| {
        let mut command = home.command(args);
        command.env_remove("LC_ALL").env_remove("LC_MESSAGES").env_remove("LANG").envs(variable);
        text(&command.output().unwrap().stderr)
    };
    let missing = ["source", "show", "なし"];
    for found in [
        japanese(&["--lang", "ja", "source", "show", "なし"], None),
        japanese(&missing, Some(("MATOME_LANG", "ja"))),
        japanese(&missing, Some(("LC_ALL", "ja_JP.UTF-8"))),
        japanese(&missing, Some(("LANG", "ja_JP.eucJP"))),
    ] {
        assert_eq!(found, "エラー: データソース `なし` がありません\n対処: `matome source list` で一覧を見られます\n");
    }
    assert!(japanese(&missing, Some(("LANG", "de_DE.UTF-8"))).starts_with("error: "));
    assert!(
        japanese(&["source", "lst"], Some(("LANG", "ja_JP.UTF-8")))
            .contains("`lst` というコマンドはありません\n対処: `list` のことですか")
    );
    // What the API says comes in the same language.
    let taken = japanese(&["source", "add", "受注", "--path", "x.csv", "--lang", "ja"], None);
    assert!(taken.contains("既に存在します"), "{taken}");
    let unknown = japanese(&["source", "add", "x", "--path", "x.csv", "--set", "nope=1", "--lang", "ja"], None);
    assert!(unknown.contains("config.nope: 知らないオプションです"), "{unknown}");
}

#[test]
fn what_destroys_asks_on_a_terminal_and_needs_yes_elsewhere() {
    let home = home();
    for args in [&["source", "delete", "empty"][..], &["source", "delete", "empty", "--no-input"]] {
        assert!(says(&home.run(args), 2).contains("not confirmed\nhelp: say so with --yes"));
    }
    let on_terminal = |answer: &str, more: &str| {
        let matome = env!("CARGO_BIN_EXE_matome");
        let dir = home.data_dir().display().to_string();
        let typed = format!("'{matome}' source delete empty --data-dir '{dir}' {more}");
        let mut script = Command::new("script");
        script.args(["-qec", &typed, "/dev/null"]).env_remove("DATABASE_URL").env("LC_ALL", "C");
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), text(&output.stdout))
    };
    let (code, shown) = on_terminal("n\n", "");
    assert!(
        code == Some(130) && shown.contains("delete source `empty` with all its records? [y/N]"),
        "{code:?} {shown}"
    );
    let (code, shown) = on_terminal("y\n", "--no-input");
    assert!(code == Some(2) && shown.contains("--yes"), "{code:?} {shown}");
    home.ok(&["source", "show", "empty"]);
    let (code, shown) = on_terminal("y\n", "");
    assert!(code == Some(0) && shown.contains("deleted source `empty`"), "{code:?} {shown}");
    assert_eq!(home.run(&["source", "show", "empty"]).status.code(), Some(5));
}

#[test]
fn progress_is_told_as_asked() {
    let home = home();
    let of = |mode: &str| text(&run(&home, &["source", "run", "受注", "--full", "--wait", "--progress", mode]).stderr);
    let events = of("json");
    let last: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["progress"], &last["state"], &last["done"]),
        (&json!("受注"), &json!("succeeded"), &json!(2)),
        "{events}"
    );
    assert!(of("plain").lines().last().unwrap().starts_with("受注: 2 records, "));
    for quiet in ["none", "auto"] {
        assert_eq!(of(quiet), "");
    }
    let export = run(&home, &["data", "export", "--source", "受注", "--progress", "json"]);
    assert!(text(&export.stderr).contains("\"progress\":\"受注\"") && text(&export.stdout).lines().count() == 2);
    let migrate = run(&home, &["migrate", "--progress", "json"]);
    assert!(text(&migrate.stderr).contains("\"progress\":\"migrate\""), "{migrate:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_when_asked_for_and_colours_only_where_wanted() {
    let home = Home { extra: vec!["--log-format".into(), "json".into()], ..sqlite_home() };
    let mut server = home.serve().await;
    server.terminate();
    let log = server.log.lock().unwrap().clone();
    assert!(log.len() > 1, "{log:?}");
    for line in &log {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"));
        assert!(event["level"].is_string() && event["message"].is_string() && event["timestamp"].is_string(), "{line}");
    }
    let colours = |args: &[&str], no_color: bool| {
        let mut command = home.command(args);
        command.envs(no_color.then_some(("NO_COLOR", "1")));
        text(&command.output().unwrap().stderr).contains('\x1b')
    };
    assert!(!colours(&["source", "show", "x"], false));
    assert!(colours(&["source", "show", "x", "--color", "always"], false));
    assert!(!colours(&["source", "show", "x", "--color", "auto"], true));
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_says_by_its_exit_code_whether_a_server_is_ready() {
    let home = sqlite_home();
    let ask = |base: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matome"));
        command.args(["healthcheck", "--url", base]).output().unwrap()
    };
    let server = home.serve().await;
    let base = server.base.clone();
    let ready = ask(&base);
    assert!(ready.status.success() && ready.stdout.is_empty() && ready.stderr.is_empty(), "{ready:?}");
    drop(server);
    assert!(says(&ask(&base), 1).contains("/readyz"));
}

#[test]
fn completions_are_scripts_that_the_shell_takes() {
    for (shell, part) in [("bash", "complete -F _matome"), ("zsh", "#compdef matome"), ("fish", "complete -c matome")] {
        let output = Command::new(env!("CARGO_BIN_EXE_matome")).args(["completions", shell]).output().unwrap();
        assert!(output.status.success() && text(&output.stdout).contains(part), "{shell}: {output:?}");
        if shell == "bash" {
            let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(&output.stdout).unwrap();
            assert!(bash.wait().unwrap().success());
        }
    }
}
