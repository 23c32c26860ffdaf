//! Settings of the real binary: from where they come, and what is said about wrong ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// The binary in a folder of its own, without the settings of whoever runs the tests.
fn matome(dir: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_matome"));
    command.args(args).current_dir(dir.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn shown(output: &Output) -> Vec<(String, String, String)> {
    assert!(output.status.success(), "{output:?}");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |row: &Value, member: &str| row[member].as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(row, "key"), text(row, "value"), text(row, "origin"))).collect()
}

#[test]
fn a_flag_goes_before_the_environment_before_dotenv_before_yaml_before_the_default() {
    let yaml = "log_level: error\nlog_format: json\ncolor: never\nbind: 127.0.0.1:1\n";
    let dir =
        folder(&[("matome.yaml", yaml), (".env", "LOG_FORMAT=text\nMATOME_COLOR=always\nMATOME_BIND=127.0.0.1:2\n")]);
    let output = matome(&dir, &["config", "show", "--origin", "-o", "json", "--log-level", "debug"])
        .env("MATOME_COLOR", "auto")
        .env("DATABASE_URL", "postgres://me:hush@db.example/name")
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("hush"));
    let rows = shown(&output);
    let of = |key: &str| {
        let (_, value, origin) = rows.iter().find(|(name, _, _)| name == key).unwrap();
        (value.as_str(), origin.rsplit('/').next().unwrap())
    };
    assert_eq!(of("log_level"), ("debug", "--log-level"));
    assert_eq!(of("color"), ("auto", "$MATOME_COLOR"));
    assert_eq!(of("log_format"), ("text", ".env:1"));
    assert_eq!(of("bind"), ("127.0.0.1:2", ".env:3"));
    assert_eq!(of("acquisition_slots"), ("8", "default"));
    assert_eq!(of("celery_acquisition_task"), ("apps.data_acquisition.tasks.fetch_data", "default"));
    assert_eq!(of("celery_aggregation_task"), ("apps.data_aggregation.tasks.combine_data", "default"));
    assert_eq!(of("allowed_hosts"), (".localhost,127.0.0.1,::1", "default"));
    assert_eq!(of("database_url").0, "postgres://me:***@db.example/name");
    let yaml_only =
        matome(&dir, &["config", "show", "--origin", "-o", "json", "--env-file", "/dev/null"]).output().unwrap();
    assert!(
        shown(&yaml_only).iter().any(|(key, value, origin)| {
            key == "log_format" && value == "json" && origin.ends_with("matome.yaml:2")
        })
    );
}

#[test]
fn the_hosts_that_a_server_answers_to_by_itself_are_shown_with_its_own_address() {
    let dir = folder(&[(".env", "MATOME_BIND=192.0.2.7:8000\n")]);
    let rows = shown(&matome(&dir, &["config", "show", "--origin", "-o", "json"]).output().unwrap());
    let (_, hosts, origin) = rows.iter().find(|(key, _, _)| key == "allowed_hosts").unwrap();
    assert_eq!((hosts.as_str(), origin.as_str()), (".localhost,127.0.0.1,::1,192.0.2.7", "default"));
}

#[test]
fn what_the_files_say_reaches_the_commands() {
    let dir = folder(&[(".env", "DATABASE_URL=sqlite:///here/matome.db\nREDIS_URL=redis://localhost\n")]);
    let migrated = matome(&dir, &["migrate"]).output().unwrap();
    assert!(migrated.status.success() && migrated.stdout.is_empty(), "{migrated:?}");
    assert!(dir.path().join("here/matome.db").exists());
    let checked = matome(&dir, &["config", "check"]).output().unwrap();
    assert!(checked.status.success());
    assert!(
        String::from_utf8_lossy(&checked.stderr).contains("`REDIS_URL` is set and has no effect: Redis"),
        "{checked:?}"
    );
    let help = matome(&dir, &["serve", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("[env: MATOME_DATA_DIR]"), "{help:?}");
    // The flag names a directory, and the demo has its own.
    let flag = matome(&dir, &["migrate", "--database-url", "sqlite:///x/matome.db"]).output().unwrap();
    assert_eq!(flag.status.code(), Some(2), "{flag:?}");
    assert!(String::from_utf8_lossy(&flag.stderr).contains("--data-dir"), "{flag:?}");
}

#[test]
fn a_level_of_the_log_that_there_is_not_is_refused_instead_of_silencing_it() {
    let dir = folder(&[]);
    for args in [&["migrate", "--log-level", "infoo"][..], &["worker", "acquisition", "-l", "infoo"]] {
        let output = matome(&dir, args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("`infoo` is no log level\nhelp: did you mean `info`?"), "{stderr}");
    }
    for level in ["INFO", "Warning", "matome_tasks=debug,warn"] {
        let output = matome(&dir, &["migrate", "--log-level", level]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn a_wrong_setting_ends_every_command_with_3_and_its_place() {
    for (name, text, says) in [
        (
            "matome.yaml",
            "bind: 127.0.0.1:1\ndata_dri: x\n",
            "matome.yaml:2: there is no setting `data_dri`\nhelp: did you mean `data_dir`?",
        ),
        (
            ".env",
            "# x\nMATOME_TOKN=x\n",
            ".env:2: there is no variable `MATOME_TOKN`\nhelp: did you mean `MATOME_TOKEN`?",
        ),
        (
            "matome.yaml",
            "aggregation_memory: 0\n",
            "matome.yaml:1: `aggregation_memory` cannot be `0`\nhelp: write a whole number",
        ),
        (".env", "LOG_LEVEL=infoo\n", ".env:1: `log_level` cannot be `infoo`\nhelp: did you mean `info`?"),
    ] {
        let dir = folder(&[(name, text)]);
        for command in [&["config", "check"][..], &["source", "list"]] {
            let output = matome(&dir, command).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(3), "{stderr}");
            assert!(stderr.contains(says), "`{says}` is not in: {stderr}");
        }
    }
    let dir = folder(&[]);
    let output = matome(&dir, &["config", "check"]).env("MATOME_BNID", "x").env("MATOME_LANG", "ja").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`MATOME_BIND` のことですか"), "{output:?}");
}
