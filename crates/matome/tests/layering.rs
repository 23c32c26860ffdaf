//! The crates import each other only in the direction that ARCHITECTURE.md draws, and heavy or guarded dependencies stay
//! in the one crate that is there for them. Compares `cargo metadata` with the two tables below.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

/// Each crate and the crates of ours that it may import, lowest first. A crate appears in the workspace when it has work;
/// a new edge is a change of this table and of ARCHITECTURE.md, with its reason.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("columnar", &["model"]),
    ("egress", &["model"]),
    ("connector", &["model", "columnar", "egress"]),
    ("store", &["model"]),
    ("bus", &["model"]),
    ("tasks", &["store", "bus", "model"]),
    ("acquisition", &["connector", "tasks", "store", "bus", "model"]),
    ("aggregation", &["tasks", "store", "bus", "columnar", "model"]),
    ("engine", &["model"]),
    ("notify", &["egress", "tasks", "store", "bus", "model"]),
    (
        "api",
        &["model", "columnar", "egress", "connector", "store", "bus", "tasks", "acquisition", "aggregation", "notify"],
    ),
    (
        "ui",
        &[
            "api",
            "model",
            "columnar",
            "egress",
            "connector",
            "store",
            "bus",
            "tasks",
            "acquisition",
            "aggregation",
            "notify",
        ],
    ),
    (
        "matome",
        &[
            "model",
            "columnar",
            "egress",
            "connector",
            "store",
            "bus",
            "tasks",
            "acquisition",
            "aggregation",
            "engine",
            "notify",
            "api",
            "ui",
        ],
    ),
];

/// Crates that exist for tests only: what each may import. Others name it as a dev-dependency, and only where the crates that
/// it imports are allowed (or are the crate under test).
const TEST_ONLY: &[(&str, &[&str])] = &[("testbed", &["store", "model"])];

/// Dependencies from outside that only some crates may name, by the start of the package name. Tests may use them anywhere.
const GUARDED: &[(&str, &[&str], &str)] = &[
    ("datafusion", &["engine"], "planning SQL can abort the process, so it happens in the engine child only"),
    ("ballista", &["engine"], "planning SQL can abort the process, so it happens in the engine child only"),
    (
        "sqlx",
        &["store", "connector", "testbed"],
        "SQL of ours is in store, that of databases that are read in connector",
    ),
    ("parquet", &["columnar"], "formats of columns are read in one place"),
    ("rusqlite", &["store"], "all SQL is in store"),
    ("redis", &["bus"], "what may be lost goes through bus"),
    ("reqwest", &["egress", "matome"], "egress is the only way out; the command line is a client of the API"),
    ("hyper", &["egress"], "what errors of reqwest mean is known where it is"),
    ("axum", &["api", "ui", "matome"], "only api knows status codes"),
    ("utoipa", &["api", "matome"], "only api knows status codes"),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` is a normal dependency, otherwise `build` or `dev`.
    kind: Option<String>,
}

/// The crate's name in the tables: `matome-store` is `store`, the binary stays `matome`.
fn short(package: &str) -> &str {
    package.strip_prefix("matome-").unwrap_or(package)
}

/// One sentence for each edge that the tables do not allow.
fn violations(packages: &[Package]) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().chain(TEST_ONLY).copied().collect();
    let test_only: BTreeMap<&str, &[&str]> = TEST_ONLY.iter().copied().collect();
    let mut found = Vec::new();
    for package in packages {
        let name = short(&package.name);
        let Some(allowed) = table.get(name) else {
            found.push(format!("crate `{name}` is not in the table of the house"));
            continue;
        };
        for dependency in &package.dependencies {
            let imported = short(&dependency.name);
            let dev = dependency.kind.as_deref() == Some("dev");
            let ours = dependency.name == "matome" || dependency.name.starts_with("matome-");
            let within = |crates: &[&str]| crates.iter().all(|lower| *lower == name || allowed.contains(lower));
            // A test that imports upwards is a test in the wrong crate, so the direction holds for dev-dependencies too.
            let fits = match test_only.get(imported) {
                Some(imports) => dev && within(imports),
                None => imported == name || allowed.contains(&imported),
            };
            if ours && !fits {
                let how = if dev { "for tests" } else { "outside tests" };
                found.push(format!("`{name}` must not import `{imported}` {how}"));
            }
            if dev {
                continue;
            }
            for (guarded, owners, reason) in GUARDED {
                if dependency.name.starts_with(guarded) && !owners.contains(&name) {
                    found.push(format!("`{name}` must not depend on `{}`: {reason}", dependency.name));
                }
            }
        }
    }
    found
}

fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
    let dependencies = dependencies
        .iter()
        .map(|(name, kind)| Dependency { name: (*name).to_owned(), kind: kind.map(str::to_owned) })
        .collect();
    Package { name: name.to_owned(), dependencies }
}

#[test]
fn crates_import_only_what_the_table_allows() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline", "--manifest-path", "../../Cargo.toml"])
        .output()
        .expect("cargo, which runs this test, can be started");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    assert!(metadata.packages.iter().any(|package| package.name == "matome"), "the workspace holds the binary");

    let found = violations(&metadata.packages);
    assert!(found.is_empty(), "\n  {}", found.join("\n  "));
}

#[test]
fn table_points_downwards_only() {
    for (row, (name, imports)) in MAY_IMPORT.iter().enumerate() {
        for import in *imports {
            let below = MAY_IMPORT[..row].iter().any(|(lower, _)| lower == import);
            assert!(below, "`{name}` may import `{import}`, which is not below it");
        }
    }
}

#[test]
fn an_upward_import_is_named() {
    let packages = [
        package("matome-store", &[("matome-tasks", None), ("matome-model", None)]),
        package("matome-connector", &[("matome-store", Some("dev"))]),
    ];
    assert_eq!(
        violations(&packages),
        ["`store` must not import `tasks` outside tests", "`connector` must not import `store` for tests"]
    );
}

#[test]
fn a_test_only_crate_stays_out_of_the_binary_and_out_of_lower_crates() {
    let packages = [
        package("matome-store", &[("matome-testbed", Some("dev"))]),
        package("matome-tasks", &[("matome-testbed", None)]),
        package("matome-egress", &[("matome-testbed", Some("dev"))]),
    ];
    assert_eq!(
        violations(&packages),
        ["`tasks` must not import `testbed` outside tests", "`egress` must not import `testbed` for tests"]
    );
}

#[test]
fn a_guarded_dependency_is_named_outside_its_crate() {
    let packages = [
        package("matome-api", &[("datafusion-expr", None), ("axum", None)]),
        package("matome-tasks", &[("axum", Some("dev")), ("sqlx", None)]),
    ];
    let found = violations(&packages);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("`api` must not depend on `datafusion-expr`"));
    assert!(found[1].starts_with("`tasks` must not depend on `sqlx`"));
}

#[test]
fn a_crate_outside_the_table_is_named() {
    let packages = [package("matome-util", &[])];
    assert_eq!(violations(&packages), ["crate `util` is not in the table of the house"]);
}

/// Clones may share a target folder, and what was compiled in one of them is not compiled again for the next: the folder that the
/// compiler saw may be gone. A test starts in the folder of its crate.
#[test]
fn no_test_reads_files_where_it_was_compiled() {
    const COMPILED_IN: &str = concat!("env!(\"CARGO_MANIFEST", "_DIR\")");
    let mut folders = vec![PathBuf::from("..")];
    let mut looked_at = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                looked_at += 1;
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(!text.contains(COMPILED_IN), "`{}` says `{COMPILED_IN}`", path.display());
            }
        }
    }
    assert!(looked_at > 100, "{looked_at} files are not all");
}
