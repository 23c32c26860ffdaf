//! What the files for deployment start, started here as they say: the commands, variables and health checks of
//! compose.prod.yaml, Dockerfile and the systemd units. What a container runtime or systemd would do itself is not tested.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use support::{client, until, write};
use tempfile::TempDir;

fn repository() -> PathBuf {
    Path::new("../..").canonicalize().unwrap()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// `${NAME:-default}` with the default, which is what holds without an `.env`.
fn interpolated(value: &str) -> String {
    let Some((before, rest)) = value.split_once("${") else { return value.to_owned() };
    let (expression, after) = rest.split_once('}').unwrap();
    let default = expression.split_once(":-").unwrap_or_else(|| panic!("`{expression}` has no default")).1;
    format!("{before}{default}{}", interpolated(after))
}

/// The host that the proxy in front passes on.
const PUBLIC_NAME: &str = "matome.example.org";

/// The services of compose.prod.yaml on this machine: each in a directory of its own instead of a container.
struct Stack {
    dir: TempDir,
    compose: Value,
    port: u16,
    running: Vec<Child>,
}

impl Drop for Stack {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Stack {
    fn new(database_url: &str) -> Self {
        let mut compose: yaml_serde::Value = yaml_serde::from_str(&text("compose.prod.yaml")).unwrap();
        compose.apply_merge().unwrap();
        let dir = TempDir::new().unwrap();
        for name in ["secrets", "files"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        // The database of this test has another password than the one that would be made.
        write(&dir.path().join("secrets/database_url"), database_url);
        let made = Command::new(repository().join("deploy/make-secrets")).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { dir, compose: serde_json::to_value(compose).unwrap(), port, running: Vec::new() }
    }

    /// What the container of a service would see, with its paths beneath this test's directory.
    fn local(&self, service: &str, value: &str) -> String {
        let beneath = |name: &str| self.dir.path().join(name).display().to_string();
        interpolated(value)
            .replace("/run/secrets", &beneath("secrets"))
            .replace("0.0.0.0:8000", &format!("127.0.0.1:{}", self.port))
            .replacen("/data", &beneath(&format!("data-{service}")), usize::from(value == "/data"))
            .replacen("/files", &beneath("files"), usize::from(value == "/files"))
    }

    fn command(&self, service: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matome"));
        command.args(args.iter().map(|arg| self.local(service, arg))).env_clear().env("LC_ALL", "C");
        for (name, value) in self.compose["services"][service]["environment"].as_object().unwrap() {
            command.env(name, self.local(service, value.as_str().unwrap()));
        }
        if service == "web" {
            // As the page says for a proxy in front; health checks ask by address nevertheless.
            command.env("ALLOWED_HOSTS", PUBLIC_NAME);
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn args(&self, service: &str) -> Vec<String> {
        let args = self.compose["services"][service]["command"].as_array().unwrap();
        args.iter().map(|arg| arg.as_str().unwrap().to_owned()).collect()
    }

    fn run(&self, service: &str, args: &[&str]) -> Output {
        self.command(service, args).output().unwrap()
    }

    /// Starts a service and waits until the health check of the image says that it is ready.
    async fn start(&mut self, service: &str) {
        let args = self.args(service);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let log = std::fs::File::create(self.dir.path().join(format!("{service}.log"))).unwrap();
        self.running.push(self.command(service, &args).stderr(log).stdout(Stdio::null()).spawn().unwrap());
        let mut check = healthcheck();
        if service == "web" {
            check.extend(["--bind".to_owned(), format!("127.0.0.1:{}", self.port)]);
        }
        let check: Vec<&str> = check.iter().map(String::as_str).collect();
        until(service, async || self.run(service, &check).status.success()).await;
    }
}

/// The arguments of the image's health check.
fn healthcheck() -> Vec<String> {
    instruction("CMD [\"/usr/local/bin/matome\", ")
}

/// The strings that follow `start` in the Dockerfile up to the end of their list.
fn instruction(start: &str) -> Vec<String> {
    let dockerfile = text("Dockerfile");
    let rest = dockerfile.split_once(start).unwrap_or_else(|| panic!("no `{start}` in the Dockerfile")).1;
    serde_json::from_str(&format!("[{}]", rest.split_once(']').unwrap().0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_of_compose_prod_do_the_main_job_on_a_fresh_database() {
    let mut stack = Stack::new(&matome_testbed::postgres_schema().await);
    write(&stack.dir.path().join("files/orders.ndjson"), "{\"n\":1}\n{\"n\":2}\n");
    // As `depends_on` says: the schema first.
    assert_eq!(stack.args("migrate"), ["migrate", "--wait"]);
    let migrated = stack.run("migrate", &["migrate", "--wait"]);
    assert!(migrated.status.success(), "{migrated:?}");
    for service in ["web", "worker_acquisition", "worker_aggregation", "beat"] {
        stack.start(service).await;
    }
    let named =
        stack.compose["services"].as_object().unwrap().keys().filter(|name| *name != "postgres" && *name != "redis");
    assert_eq!(named.count(), 5, "a service that this test does not start");

    let token = stack.run("web", &["token", "create", "--role", "admin"]);
    let token = String::from_utf8(token.stdout).unwrap();
    let (base, client) = (format!("http://127.0.0.1:{}", stack.port), client());
    let send = async |method: &str, path: &str, body: Value| {
        let request = client.request(method.parse().unwrap(), format!("{base}{path}")).bearer_auth(token.trim());
        let request = request.header("host", PUBLIC_NAME).header("content-type", "application/json");
        let request = request.body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let orders = json!({ "name": "orders", "source_type": "file", "config": { "path": "orders.ndjson" } });
    let id = send("POST", "/api/acquisition/sources/", orders).await["id"].clone();
    // `web` reads what the worker reads.
    let tested = send("POST", &format!("/api/acquisition/sources/{id}/test/"), json!({})).await;
    assert_eq!(tested["ok"], true, "{tested}");
    let sum = json!({ "name": "sum", "config": { "sql": "select sum(n) as n from orders", "after": { "sources": ["orders"] } } });
    send("POST", "/api/aggregation/sources/", sum).await;
    send("POST", &format!("/api/acquisition/sources/{id}/run/"), json!({})).await;
    until("the aggregation followed", async || {
        send("GET", "/api/aggregation/data/", Value::Null).await["results"][0]["data"] == json!({ "n": 3 })
    })
    .await;
    for child in &mut stack.running {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }
    for child in &mut stack.running {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn secrets_are_made_once_and_only_their_readers_read_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let make = || Command::new(repository().join("deploy/make-secrets")).current_dir(dir.path()).output().unwrap();
    assert!(make().status.success());
    let read = |name: &str| std::fs::read_to_string(dir.path().join("secrets").join(name)).unwrap();
    let first = ["postgres_password", "database_url", "master_key"].map(read);
    assert_eq!((first[0].len(), first[2].len()), (48, 64));
    assert_eq!(first[1], format!("postgres://matome:{}@postgres:5432/matome", first[0]));
    assert!(make().status.success());
    assert_eq!(["postgres_password", "database_url", "master_key"].map(read), first, "made once");
    let mode = std::fs::metadata(dir.path().join("secrets")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// `matome ... --help` takes any arguments that the command itself would take.
fn is_known(args: &[String]) {
    let output = Command::new(env!("CARGO_BIN_EXE_matome")).args(args).arg("--help").env_clear().output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    let asked = String::from_utf8(output.stdout).unwrap();
    for flag in args.iter().filter(|arg| arg.starts_with("--")) {
        assert!(asked.contains(flag.as_str()), "{args:?} has no {flag}");
    }
}

#[test]
fn the_image_and_the_units_start_commands_that_there_are() {
    is_known(&healthcheck());
    is_known(&instruction("\nCMD ["));
    let mut commands = 0;
    for entry in std::fs::read_dir(repository().join("deploy/systemd")).unwrap() {
        let path = entry.unwrap().path();
        let unit = std::fs::read_to_string(&path).unwrap();
        for line in unit.lines().filter_map(|line| line.strip_prefix("ExecStart=/usr/bin/matome ")) {
            commands += 1;
            for instance in ["acquisition", "aggregation"] {
                let args: Vec<String> = line.replace("%i", instance).split(' ').map(str::to_owned).collect();
                is_known(&args);
            }
        }
        // Roles need the migration, which has to come through a start of the whole machine.
        if unit.contains("ExecStart=/usr/bin/matome migrate") {
            assert!(unit.contains("ExecStart=/usr/bin/matome migrate --wait\n"), "{}", path.display());
            assert!(unit.contains(" postgresql.service "), "{}", path.display());
        }
        // What the unit does not restart is what a restart cannot heal.
        if unit.contains("Restart=on-failure") {
            assert!(unit.contains("RestartPreventExitStatus=2 3 4\n"), "{}", path.display());
        }
    }
    assert_eq!(commands, 5);
}

#[test]
fn every_line_of_the_example_of_settings_can_be_used() {
    let lines =
        text(".env.example").lines().map(|line| line.strip_prefix('#').unwrap_or(line).to_owned()).collect::<Vec<_>>();
    let is_setting = |line: &String| {
        line.split_once('=').is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
    };
    let settings: Vec<String> = lines.into_iter().filter(is_setting).collect();
    assert!(settings.len() > 30, "{settings:?}");
    let dir = TempDir::new().unwrap();
    write(&dir.path().join(".env"), settings.join("\n"));
    let check = Command::new(env!("CARGO_BIN_EXE_matome"))
        .args(["config", "check"])
        .env_clear()
        .current_dir(dir.path())
        .output();
    let check = check.unwrap();
    assert!(check.status.success(), "{check:?}");
}

/// Words of `text` that name a metric, without what Prometheus adds to the name of a histogram.
fn metrics_in(text: &str) -> std::collections::BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named = words.filter(|word| word.starts_with("matome_"));
    let plain = |word: &str| {
        let suffix = ["_bucket", "_count", "_sum"].into_iter().find_map(|suffix| word.strip_suffix(suffix));
        suffix.unwrap_or(word).to_owned()
    };
    named.map(plain).collect()
}

fn sources(dir: &Path, found: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn alerts_and_dashboards_ask_for_metrics_that_there_are() {
    let mut code = String::new();
    for entry in std::fs::read_dir(repository().join("crates")).unwrap() {
        sources(&entry.unwrap().path().join("src"), &mut code);
    }
    let known: String = code
        .split(['(', ','])
        .filter_map(|part| part.trim().strip_prefix('"')?.split('"').next())
        .filter(|name| {
            name.starts_with("matome_") && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        })
        .fold(String::new(), |all, name| all + name + " ");
    let known = metrics_in(&known);
    for file in ["deploy/prometheus/matome.rules.yaml", "deploy/grafana/matome.json"] {
        let asked = metrics_in(&text(file));
        assert!(asked.len() > 5, "{file}: {asked:?}");
        let unknown: Vec<&String> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}, known are {known:?}");
    }
    let described = metrics_in(&text("docs/operations.md"));
    let undescribed: Vec<&String> = known.difference(&described).collect();
    assert!(undescribed.is_empty(), "docs/operations.md does not describe {undescribed:?}");
}
