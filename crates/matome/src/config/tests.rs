//! Precedence, names, forms and errors of the settings.

use matome_model::language::Language;
use tempfile::TempDir;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(dir: &TempDir, pairs: &[(&str, &str)]) -> Result<Config, Failure> {
    Config::read(&environment(pairs), &[], dir.path())
}

fn folder(yaml: &str, dotenv: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in [("matome.yaml", yaml), (".env", dotenv)] {
        if !text.is_empty() {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
    }
    dir
}

fn refused(result: Result<Config, Failure>, says: &[&str]) {
    let failure = result.unwrap_err();
    assert_eq!(failure.exit, Exit::Config);
    let text = failure.text(Language::English);
    assert!(says.iter().all(|part| text.contains(part)) && text.contains("\nhelp: "), "{says:?}: {text}");
    assert!(failure.text(Language::Japanese).chars().any(|c| ('\u{3040}'..='\u{9fff}').contains(&c)));
}

fn value(config: &Config, key: &str) -> String {
    config.get(key).map(|found| found.values.join("|")).unwrap_or_default()
}

#[test]
fn the_environment_goes_before_dotenv_and_that_before_yaml() {
    let dir = folder(
        "bind: 127.0.0.1:1\nlog_level: warn\nacquisition_slots: 3\n",
        "MATOME_BIND=127.0.0.1:2\nLOG_LEVEL=info\n",
    );
    let config = read(&dir, &[("MATOME_BIND", "127.0.0.1:3")]).unwrap();
    assert_eq!(value(&config, "bind"), "127.0.0.1:3");
    assert_eq!(value(&config, "log_level"), "info");
    assert_eq!(value(&config, "acquisition_slots"), "3");
    assert_eq!(config.get("bind").unwrap().origin, "$MATOME_BIND");
    assert!(config.get("log_level").unwrap().origin.ends_with(".env:2"));
    assert!(config.get("acquisition_slots").unwrap().origin.ends_with("matome.yaml:3"));
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let dir = folder("bind: 127.0.0.1:1\n", "");
    let config = read(&dir, &[("MATOME_BIND", ""), ("DATABASE_URL", "")]).unwrap();
    assert_eq!(value(&config, "bind"), "127.0.0.1:1");
    assert!(config.get("database_url").is_none());
}

#[test]
fn lists_come_from_yaml_and_from_variables() {
    let dir = folder("file_roots: [files, /srv/in]\negress_allow:\n  - 10.0.0.0/8\n", "");
    let config = read(&dir, &[("ALLOWED_HOSTS", "a.example, .b.example")]).unwrap();
    let beside = dir.path().join("files").display().to_string();
    assert_eq!(value(&config, "file_roots"), format!("{beside}|/srv/in"));
    assert_eq!(value(&config, "egress_allow"), "10.0.0.0/8");
    assert_eq!(value(&config, "allowed_hosts"), "a.example|.b.example");
}

#[test]
fn what_is_wrong_is_told_with_file_and_line() {
    refused(read(&folder("# hello\nbnd: 1\n", ""), &[]), &["matome.yaml:2", "`bnd`", "`bind`"]);
    refused(
        read(&folder("bind: 127.0.0.1:1\nacquisition_slots: many\n", ""), &[]),
        &["matome.yaml:2", "many", "whole number"],
    );
    refused(read(&folder("bind: [1\n", ""), &[]), &["matome.yaml:"]);
    refused(read(&folder("- a\n", ""), &[]), &["matome.yaml:1"]);
    refused(read(&folder("bind: {a: 1}\n", ""), &[]), &["matome.yaml:1", "one value"]);
    refused(read(&folder("", "A=1\nno line\n"), &[]), &[".env:2"]);
    refused(read(&folder("", "A=1\nMATOME_BINDD=x\n"), &[]), &[".env:2", "MATOME_BINDD", "`MATOME_BIND`"]);
    refused(read(&folder("", ""), &[("MATOME_DATADIR", "x")]), &["MATOME_DATADIR", "`MATOME_DATA_DIR`"]);
    refused(read(&folder("", ""), &[("LOG_FORMAT", "xml")]), &["$LOG_FORMAT", "text, json"]);
    refused(read(&folder("", ""), &[("LOG_LEVEL", "infoo")]), &["$LOG_LEVEL", "infoo", "did you mean `info`?"]);
    refused(read(&folder("log_level: loudly\n", ""), &[]), &["matome.yaml:1", "loudly", "error, warn, info"]);
    let missing = Config::read(&Environment::new(), &["--config-file=none.yaml".into()], Path::new("."));
    refused(missing, &["none.yaml"]);
}

#[test]
fn the_original_names_do_what_they_say() {
    let dir = folder(
        "",
        "DATABASE_URL=sqlite:///data/matome.db\nREDIS_URL=redis://localhost:6379/0\nSECRET_KEY=x\nDEBUG=True\nPORT=9000\n",
    );
    let config = read(&dir, &[]).unwrap();
    assert_eq!(value(&config, "data_dir"), "data");
    assert!(config.get("database_url").is_none());
    assert_eq!(value(&config, "bind"), "127.0.0.1:9000");
    assert_eq!(value(&config, "log_level"), "debug");
    let names: Vec<&str> = config.without_effect.iter().map(|(name, _)| *name).collect();
    // Redis connects processes on PostgreSQL, and here is none.
    assert_eq!(names, ["SECRET_KEY", "REDIS_URL"]);
    // What is set itself goes before what an older name implies.
    let config = read(&dir, &[("MATOME_BIND", "127.0.0.1:1"), ("LOG_LEVEL", "warn")]).unwrap();
    assert_eq!((value(&config, "bind"), value(&config, "log_level")), ("127.0.0.1:1".into(), "warn".into()));
    refused(read(&folder("", "DEBUG=perhaps\n"), &[]), &[".env:1", "perhaps"]);
    refused(read(&folder("", "PORT=http\n"), &[]), &[".env:1", "127.0.0.1:http"]);
    refused(read(&folder("", "DATABASE_URL=sqlite:///db.sqlite3\n"), &[]), &[".env:1", "matome.db"]);
    refused(read(&dir, &[("MATOME_DATA_DIR", "elsewhere")]), &["elsewhere", "data"]);
    assert_eq!(directory_of_sqlite("sqlite:////var/lib/m/matome.db").as_deref(), Some("/var/lib/m"));
    assert_eq!(directory_of_sqlite("sqlite:///matome.db").as_deref(), Some("."));
}

#[test]
fn a_secret_may_stand_in_a_file_and_is_never_shown() {
    let dir = folder("", "");
    let file = dir.path().join("url");
    std::fs::write(&file, "postgres://me:hush@db.example/name?password=hush\n").unwrap();
    let file = file.to_str().unwrap();
    let config = read(&dir, &[("DATABASE_URL_FILE", file), ("MATOME_TOKEN", "mtm_x")]).unwrap();
    assert_eq!(value(&config, "database_url"), "postgres://me:hush@db.example/name?password=hush");
    assert_eq!(config.get("database_url").unwrap().origin, "$DATABASE_URL_FILE");
    let url = by_key("database_url").unwrap();
    let text = shown(url, &config.get("database_url").unwrap().values);
    assert!(!text.contains("hush") && text.contains("me:***@db.example/name"), "{text}");
    assert_eq!(shown(by_key("token").unwrap(), &["mtm_x".to_owned()]), "***");
    refused(read(&dir, &[("DATABASE_URL_FILE", file), ("DATABASE_URL", "postgres://x/y")]), &["DATABASE_URL_FILE"]);
    refused(read(&dir, &[("MATOME_TOKEN_FILE", "none")]), &["none"]);
}

#[test]
fn both_pages_describe_every_key_and_variable() {
    for page in ["docs/configuration.md", "docs/configuration.ja.md"] {
        let file = Path::new("../..").join(page);
        let text = std::fs::read_to_string(file).unwrap();
        let variables = SETTINGS.iter().flat_map(|setting| setting.variables).chain(&FILES);
        let without_effect = WITHOUT_EFFECT.iter().map(|(name, _, _)| name);
        let keys = SETTINGS.iter().map(|setting| &setting.key);
        for name in keys.chain(variables).chain(without_effect).chain(&["PORT", "DEBUG"]) {
            assert!(text.contains(&format!("`{name}`")), "{page} lacks `{name}`");
        }
        // The example is a file that can be used as it stands.
        let example = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let config = read(&folder(example, ""), &[]).unwrap();
        assert!(SETTINGS.iter().all(|setting| config.get(setting.key).is_some()), "{page}: the example lacks a key");
    }
}

#[test]
fn the_example_names_every_setting_and_nothing_else() {
    let example = include_str!("../../../../.env.example");
    let mut named: Vec<&str> = example
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='))
        .map(|(name, _)| name)
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        .collect();
    // What only compose.yaml and compose.prod.yaml read.
    named.retain(|name| !["POSTGRES_PASSWORD", "POSTGRES_PORT", "REDIS_PORT", "IMAGE_TAG"].contains(name));
    let mut known: Vec<&str> = SETTINGS.iter().map(|setting| setting.variables[0]).collect();
    known.extend(["PORT", "DEBUG"]);
    named.sort_unstable();
    known.sort_unstable();
    assert_eq!(named, known);
}
