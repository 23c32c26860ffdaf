//! What is kept of failures is told in the language of whoever asks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{homes, write};

fn in_japanese(text: &Value) -> bool {
    text.as_str().is_some_and(|text| text.chars().any(|c| ('\u{3040}'..='\u{30ff}').contains(&c)))
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_failures_are_told_in_the_language_of_the_reader() {
    for home in homes().await {
        write(&home.files().join("bad.ndjson"), "{\"n\":1}\n{\"n\":1,\"n\":2}\nno record\n");
        let server = home.serve().await;
        let gone = server.source("gone", "file", json!({"path": "gone.ndjson"})).await;
        let api = server.source("api", "api", json!({"url": "http://127.0.0.1:9/x"})).await;
        let sql = server.aggregation("sql", "select * from nothing_of_that_name").await;
        let bad = server.source("bad", "file", json!({"path": "bad.ndjson"})).await;
        server.run("acquisition", bad).await;

        for (queue, id, reason, english, japanese) in [
            (
                "acquisition",
                gone,
                "no_file",
                "no file matches `gone.ndjson`",
                "`gone.ndjson` に合うファイルがありません",
            ),
            ("acquisition", api, "denied", "the request failed", "要求が失敗しました"),
            ("aggregation", sql, "unknown_table", "no table is called", "というテーブルはありません"),
        ] {
            let task = server.start(queue, id).await;
            let row = server.ended(&task).await;
            assert_eq!(row["error"]["reason"], reason, "{}: {row}", home.name);
            assert!(row["error"]["message"].as_str().unwrap().contains(english), "{}: {row}", home.name);
            assert!(row["error"].get("ja").is_none(), "{row}");
            // By API and by command line, alone and in a list.
            let told = server.client.get(format!("{}{task}", server.base)).bearer_auth(&server.token);
            let told = told.header("accept-language", "ja").send().await.unwrap().text().await.unwrap();
            let told: Value = serde_json::from_str(&told).unwrap();
            assert!(told["error"]["message"].as_str().unwrap().contains(japanese), "{}: {told}", home.name);
            assert_eq!(told["error"]["position"], row["error"]["position"]);
            assert!(told["error"]["causes"].as_array().unwrap().iter().all(in_japanese), "{}: {told}", home.name);
            let number = row["id"].to_string();
            let remote = ["--server", &server.base, "--token", &server.token, "--lang", "ja"];
            let shown = home.ok(&[&["task", "show", &number, "-o", "json"][..], &remote].concat());
            assert!(shown.contains(japanese), "{}: {shown}", home.name);
            let listed = home.ok(&[&["task", "list", "--queue", queue, "-o", "table"][..], &remote].concat());
            assert!(listed.contains(japanese), "{}: {listed}", home.name);
        }

        let remote = ["--server", &server.base, "--token", &server.token];
        for (language, wanted) in
            [("en", ["key `n` appears twice", "give each key"]), ("ja", ["キー `n` が二度あります", "一度だけ"])]
        {
            let list = home.ok(&[&["quarantine", "list", "-o", "json", "--lang", language][..], &remote].concat());
            let rows: Vec<Value> = serde_json::from_str(&list).unwrap();
            let twice = rows.iter().find(|row| row["reason"] == "duplicate_key").unwrap();
            assert!(wanted.iter().all(|part| twice["detail"].as_str().unwrap().contains(part)), "{language}: {twice}");
            let tried = home.ok(&[&["source", "test", "bad", "-o", "json", "--lang", language][..], &remote].concat());
            assert!(tried.contains(wanted[0]), "{language}: {tried}");
            let tried =
                home.run(&[&["source", "test", "gone", "-o", "json", "--lang", language][..], &remote].concat());
            assert_eq!(tried.status.code(), Some(1), "{language}: {tried:?}");
            let tried: Value = serde_json::from_slice(&tried.stdout).unwrap();
            assert_eq!(in_japanese(&tried["error"]["message"]), language == "ja", "{tried}");
        }
    }
}

#[test]
fn help_speaks_the_language_of_the_flag_the_environment_or_the_settings() {
    let home = support::sqlite_home();
    let help = |args: &[&str], language: Option<&str>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_matome"));
        command.args(args).env_remove("MATOME_LANG").env("LC_ALL", "C").current_dir(home.dir.path());
        language.map(|language| command.env("MATOME_LANG", language));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        // What the environment and the settings say is the default of the flag itself, too.
        String::from_utf8(output.stdout).unwrap().replace(" [既定: ja]", "")
    };
    let english = help(&["source", "add", "--help"], None);
    assert!(english.contains("Usage: matome source add") && english.contains("Its name; the table name in SQL"));
    let japanese = help(&["source", "add", "--help"], Some("ja"));
    assert!(
        japanese.contains("使い方: matome source add") && japanese.contains("SQL での表の名前になる"),
        "{japanese}"
    );
    assert_eq!(help(&["source", "add", "--help", "--lang", "ja"], None), japanese);
    let flagged = help(&["--lang", "en", "source", "add", "--help"], Some("ja"));
    assert!(flagged.contains("Usage: matome source add") && !flagged.contains("使い方"), "{flagged}");
    let short = help(&["-h"], Some("ja"));
    assert!(short.contains("データソースを管理します") && short.contains("終了コード: 0 成功"), "{short}");
    write(&home.dir.path().join("matome.yaml"), "lang: ja\n");
    assert_eq!(help(&["source", "add", "--help"], None), japanese);
}
