//! The commands that both READMEs tell a newcomer to type work as printed, on the binary that the test run has built.
//!
//! A block marked `sh` is run, line by line, in one shell and an empty folder; a block marked otherwise is not. What is put in
//! place of the printed line: `cargo run --release --` is the built binary, `matome` too; `127.0.0.1:8000` gets a free port;
//! `postgres://matome:secret@localhost/matome` is an empty schema of the test server; `git clone` and `cd matome` are left out.
//! `serve` and `demo` run in the background until the next of them or the end, when Ctrl-C must end them with success.
//! A `curl` that gets an HTTP error fails.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

const PRINTED_ADDRESS: &str = "127.0.0.1:8000";
const PRINTED_DATABASE: &str = "postgres://matome:secret@localhost/matome";

/// What stands before the commands: the shell's part of the replacements above. Job control (`-m`) is there because a
/// background command of a shell without it ignores SIGINT.
const PROLOGUE: &str = r#"
set -euo pipefail -m
server=
matome() { "$MATOME" "$@"; }
cargo() {
    [ "$1 $2 $3" = "run --release --" ] || { echo "not a command of this test: cargo $*" >&2; return 1; }
    "$MATOME" "${@:4}"
}
curl() { command curl --fail-with-body --silent --show-error "$@"; }
stop() {
    [ -n "$server" ] || return 0
    local ended=$server
    server=
    kill -INT "$ended"
    wait "$ended" || { echo "the server ended with status $?" >&2; return 1; }
}
await() {
    command curl --silent --fail --output /dev/null --retry 60 --retry-delay 1 --retry-connrefused "http://$README_ADDRESS/readyz"
}
trap '[ -z "$server" ] || kill -KILL "$server"' EXIT
"#;

fn readme(name: &str) -> String {
    let path = Path::new("../..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("`{}`: {err}", path.display()))
}

/// The lines of the `sh` blocks, a continued line with its continuations; comments and empty lines left out.
fn commands(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fence: Option<bool> = None;
    let mut command = String::new();
    for line in markdown.lines() {
        if let Some(mark) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(mark.trim() == "sh") };
            continue;
        }
        let line = line.trim();
        if fence != Some(true) || (command.is_empty() && (line.is_empty() || line.starts_with('#'))) {
            continue;
        }
        command.push_str(line.split(" # ").next().unwrap_or(line).trim_end());
        if command.ends_with('\\') {
            command.pop();
        } else {
            found.push(std::mem::take(&mut command));
        }
    }
    found
}

/// Whether the command runs until it is told to stop.
fn is_server(command: &str) -> bool {
    let mut words = command.split_whitespace().skip_while(|word| *word != "matome" && *word != "--");
    words.next().is_some() && matches!(words.next(), Some("serve" | "demo"))
}

/// The shell script that does what a reader would.
fn script(commands: &[String], address: &str, database: &str) -> String {
    let mut script = PROLOGUE.to_owned();
    for command in commands {
        if command.starts_with("git clone ") || command == "cd matome" {
            continue;
        }
        let typed = command.replace(PRINTED_ADDRESS, address).replace(PRINTED_DATABASE, database);
        let quoted = typed.replace('\'', r"'\''");
        script.push_str(&format!("printf '$ %s\\n' '{quoted}' >&2\n"));
        if is_server(command) {
            // Assignments before a function call reach its children, so `DATABASE_URL=... matome serve` works as typed; `exec`
            // in a subshell of its own lets Ctrl-C reach the binary and not a shell around it.
            let bind = if typed.contains("--bind") { String::new() } else { format!(" --bind {address}") };
            let direct =
                typed.replace("cargo run --release --", "\"$MATOME\"").replacen("matome serve", "\"$MATOME\" serve", 1);
            let direct = direct.replacen("matome demo", "\"$MATOME\" demo", 1);
            script.push_str(&format!("stop\n{direct}{bind} </dev/null &\nserver=$!\nawait\n"));
        } else {
            script.push_str(&typed);
            script.push('\n');
        }
    }
    script.push_str("stop\n");
    script
}

/// Runs the script in an empty folder; its output, or what it printed before it failed.
fn run(script: &str, matome: &str, address: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let output = Command::new("bash")
        .args(["-c", script])
        .current_dir(folder.path())
        .env("MATOME", matome)
        .env("README_ADDRESS", address)
        .env_remove("DATABASE_URL")
        .output()
        .expect("bash can be started");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(said) }
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound listener has an address").to_string()
}

#[test]
fn commands_of_the_readme_work_as_printed() {
    let database =
        std::env::var("MATOME_TEST_DATABASE_URL").expect("scripts/with-postgres sets MATOME_TEST_DATABASE_URL");
    let commands = commands(&readme("README.md"));
    assert!(commands.iter().any(|command| is_server(command)), "README.md starts no server: {commands:?}");

    let address = free_address();
    let script = script(&commands, &address, &database);
    if let Err(said) = run(&script, env!("CARGO_BIN_EXE_matome"), &address) {
        panic!("a command of README.md fails; what it printed:\n{said}");
    }
}

#[test]
fn both_readmes_give_the_same_commands() {
    assert_eq!(commands(&readme("README.md")), commands(&readme("README.ja.md")));
}

#[test]
fn only_sh_blocks_are_commands_and_continued_lines_are_one() {
    let markdown =
        "# t\n```sh\n# first\nmatome serve --data-dir d # here\n\ncurl \\\n  http://x/\n```\n```text\nno\n```\n";
    assert_eq!(commands(markdown), ["matome serve --data-dir d", "curl http://x/"]);
}

#[test]
fn servers_are_told_from_other_commands() {
    assert!(is_server("cargo run --release -- demo"));
    assert!(is_server("DATABASE_URL=postgres://matome:secret@localhost/matome matome serve"));
    assert!(!is_server("matome source list"));
    assert!(!is_server("curl http://127.0.0.1:8000/livez"));
}

#[test]
fn a_failing_command_fails_the_run_and_is_shown() {
    let commands = ["echo one".to_owned(), "matome nonsense".to_owned(), "echo three".to_owned()];
    let said = run(&script(&commands, "127.0.0.1:9", ""), "false", "127.0.0.1:9").expect_err("`false` fails");
    assert!(said.contains("$ matome nonsense") && !said.contains("three"), "{said}");
}
