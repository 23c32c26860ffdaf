//! What a real server tells those who watch it, after real work.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use support::redis::RedisServer;
use support::{Server, homes, postgres_home, until, upstream, write};

/// Samples by name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(key, value)| (key.to_owned(), value.parse().unwrap()))
        .collect()
}

/// Where `--metrics-bind` listens, as the log says.
async fn metrics_address(server: &Server) -> String {
    let find = || {
        let log = server.log.lock().unwrap();
        log.iter().find_map(|line| line.split_once("metrics at ").map(|(_, url)| url.trim().to_owned()))
    };
    until("the log names the address", async || find().is_some()).await;
    find().unwrap()
}

/// The counters that alerts watch.
fn watched() -> Vec<String> {
    let mut counters = ["matome_leases_stolen_total", "matome_heartbeat_errors_total", "matome_clock_jumps_total"]
        .map(str::to_owned)
        .to_vec();
    for outcome in ["succeeded", "failed", "cancelled", "retry", "released", "yielded", "lease_lost"] {
        for queue in ["acquisition", "aggregation"] {
            counters.push(format!("matome_tasks_finished_total{{queue=\"{queue}\",outcome=\"{outcome}\"}}"));
        }
    }
    for outcome in ["stored", "duplicate", "quarantined"] {
        counters.push(format!("matome_acquisition_records_total{{outcome=\"{outcome}\"}}"));
    }
    for kind in ["leaked_lease", "orphaned_task", "idle_lane"] {
        counters.push(format!("matome_invariant_violation_total{{kind=\"{kind}\"}}"));
    }
    counters
}

async fn scrape(server: &Server, url: &str) -> String {
    let reply = server.client.get(url).send().await.unwrap();
    assert_eq!(reply.status(), 200);
    assert!(reply.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    reply.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_was_done_what_waits_and_who_works() {
    for mut home in homes().await {
        home.extra = vec!["--metrics-bind".into(), "127.0.0.1:0".into()];
        write(&home.files().join("a.ndjson"), "{\"n\":1}\n{\"n\":2}\nno record\n");
        let server = home.serve().await;
        let url = metrics_address(&server).await;
        let at_first = samples(&scrape(&server, &url).await);
        for counter in watched() {
            assert_eq!(at_first.get(&counter), Some(&0.0), "{}: `{counter}` does not begin at 0", home.name);
        }
        let source = server.source("a", "file", json!({"path": "a.ndjson"})).await;
        server.run("acquisition", source).await;
        let sum = server.aggregation("sum", "select sum(n) as n from a").await;
        server.run("aggregation", sum).await;
        let gone = server.source("gone", "file", json!({"path": "gone.ndjson"})).await;
        let task = server.start("acquisition", gone).await;
        assert_eq!(server.ended(&task).await["status"], "failed");
        server.get(&format!("/api/acquisition/sources/{source}/")).await;

        let text = scrape(&server, &url).await;
        let found = samples(&text);
        let value = |key: &str| *found.get(key).unwrap_or_else(|| panic!("{}: no `{key}` in:\n{text}", home.name));
        let queue = |name: &str, queue: &str, more: &str| value(&format!("{name}{{queue=\"{queue}\"{more}}}"));
        assert_eq!(queue("matome_tasks_finished_total", "acquisition", ",outcome=\"succeeded\""), 1.0);
        assert_eq!(queue("matome_tasks_finished_total", "acquisition", ",outcome=\"failed\""), 1.0);
        assert_eq!(queue("matome_tasks_finished_total", "aggregation", ",outcome=\"succeeded\""), 1.0);
        assert_eq!(queue("matome_task_wait_seconds_count", "acquisition", ""), 2.0);
        assert_eq!(queue("matome_task_duration_seconds_count", "aggregation", ",outcome=\"succeeded\""), 1.0);
        assert!(queue("matome_task_duration_seconds_bucket", "acquisition", ",outcome=\"succeeded\",le=\"60\"") >= 1.0);
        for state in ["waiting", "due"] {
            assert_eq!(queue("matome_queue_tasks", "acquisition", &format!(",state=\"{state}\"")), 0.0);
        }
        assert_eq!(queue("matome_queue_oldest_due_seconds", "acquisition", ""), 0.0);
        assert_eq!(value("matome_workers{role=\"serve\"}"), 1.0);
        assert!(value("matome_worker_heartbeat_age_seconds{role=\"serve\"}") < 30.0);
        assert_eq!(value("matome_beat_lag_seconds"), 0.0);
        assert_eq!((value("matome_db_up"), value("matome_db_full")), (1.0, 0.0));
        assert!(value("matome_db_connections_limit") >= 1.0);
        for work in ["read", "write"] {
            assert!(value(&format!("matome_db_wait_seconds_count{{work=\"{work}\"}}")) >= 1.0);
        }
        assert!(value("matome_process_resident_memory_bytes") > 1e6 && value("matome_process_open_files") > 3.0);
        assert_eq!(value("matome_acquisition_records_total{outcome=\"stored\"}"), 2.0);
        assert_eq!(value("matome_acquisition_records_total{outcome=\"quarantined\"}"), 1.0);
        let route = "method=\"GET\",route=\"/api/acquisition/sources/{id}/\",status=\"200\"";
        assert_eq!(value(&format!("matome_http_request_duration_seconds_count{{{route}}}")), 1.0);

        // Labels come from small sets: no id, no name of a source, no address.
        for key in found.keys() {
            assert!(!key.contains("127.0.0.1") && !key.contains("gone") && !key.contains("/sources/1"), "{key}");
        }
        // The same behind a token at the API, and nothing else at the other address.
        let (status, _) = server.send("GET", "/metrics", None).await;
        assert_eq!(status, 200);
        assert_eq!(server.client.get(format!("{}/metrics", server.base)).send().await.unwrap().status(), 401);
        let api = url.replace("/metrics", "/api/acquisition/sources/");
        assert_eq!(server.client.get(api).send().await.unwrap().status(), 404);

        // Both pages describe every metric.
        let names: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        for page in ["docs/operations.md", "docs/operations.ja.md"] {
            let file = Path::new("../..").join(page);
            let described = std::fs::read_to_string(file).unwrap();
            for name in names.iter().map(|line| line.split(' ').next().unwrap()) {
                assert!(described.contains(&format!("`{name}`")), "{page} lacks `{name}`");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_whether_redis_can_be_used_how_soon_it_answers_and_how_often_it_was_left() {
    let mut redis = RedisServer::start(&[]);
    let mut home = postgres_home().await;
    home.redis_url = Some(redis.url());
    home.extra = vec!["--metrics-bind".into(), "127.0.0.1:0".into()];
    let server = home.serve().await;
    let url = metrics_address(&server).await;
    for queue in ["acquisition", "aggregation"] {
        let key = |name: &str| format!("matome_redis_{name}{{queue=\"{queue}\"}}");
        let value = async |name: &str| samples(&scrape(&server, &url).await)[&key(name)];
        until("Redis is used", async || value("up").await == 1.0).await;
        assert!(value("ping_seconds_count").await >= 1.0, "{queue}");
        assert!(value("ping_seconds_sum").await > 0.0, "{queue}");
        let before = value("reconnects_total").await;
        redis.stop();
        until("it is missed", async || value("up").await == 0.0).await;
        redis.again();
        until("it is used again", async || value("up").await == 1.0).await;
        assert!(value("reconnects_total").await > before, "{queue}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_tasks_have_the_names_of_celery_exporter_when_they_are_asked_for() {
    for mut home in homes().await {
        home.extra = ["--metrics-bind", "127.0.0.1:0", "--celery-metrics", "on"].map(str::to_owned).into();
        write(&home.files().join("a.ndjson"), "{\"n\":1}\n");
        let server = home.serve().await;
        let url = metrics_address(&server).await;
        let source = server.source("a", "file", json!({"path": "a.ndjson"})).await;
        server.run("acquisition", source).await;
        let gone = server.source("gone", "file", json!({"path": "gone.ndjson"})).await;
        let task = server.start("acquisition", gone).await;
        let reason = server.ended(&task).await["error"]["reason"].as_str().unwrap().to_owned();
        let text = scrape(&server, &url).await;
        let found = samples(&text);
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
        let labels = format!(
            "name=\"apps.data_acquisition.tasks.fetch_data\",hostname=\"{host}\",queue_name=\"acquisition_queue\""
        );
        for (key, wanted) in [
            (format!("celery_task_sent_total{{{labels}}}"), 2.0),
            (format!("celery_task_received_total{{{labels}}}"), 2.0),
            (format!("celery_task_started_total{{{labels}}}"), 2.0),
            (format!("celery_task_succeeded_total{{{labels}}}"), 1.0),
            (format!("celery_task_failed_total{{{labels},exception=\"{reason}\"}}"), 1.0),
            (format!("celery_task_retried_total{{{labels}}}"), 0.0),
            (format!("celery_task_revoked_total{{{labels}}}"), 0.0),
            (format!("celery_task_runtime_count{{{labels}}}"), 1.0),
            (format!("celery_task_runtime_bucket{{{labels},le=\"+Inf\"}}"), 1.0),
            (format!("celery_worker_up{{hostname=\"{host}\"}}"), 1.0),
            (format!("celery_worker_tasks_active{{hostname=\"{host}\"}}"), 0.0),
            ("celery_queue_length{queue_name=\"acquisition_queue\"}".to_owned(), 0.0),
            ("celery_active_worker_count{queue_name=\"aggregation_queue\"}".to_owned(), 1.0),
            ("celery_active_process_count{queue_name=\"acquisition_queue\"}".to_owned(), 8.0),
        ] {
            assert_eq!(found.get(&key), Some(&wanted), "{}: `{key}` in:\n{text}", home.name);
        }
        // Each name is announced once, as the format wants it.
        let announced: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE celery_")).collect();
        let once: BTreeSet<&str> = announced.iter().copied().collect();
        assert_eq!(announced.len(), once.len(), "{announced:?}");
    }
}

/// What a name in a query can stand for: the labels of its series.
type Series = BTreeMap<String, Vec<BTreeMap<String, String>>>;

/// The labels in braces, `a="b",c="d"`.
fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.strip_suffix('"').unwrap_or(text).split("\",").filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once("=\"").unwrap_or_else(|| panic!("`{pair}` is no label")))
        .map(|(name, value)| (name.trim().to_owned(), value.to_owned()))
        .collect()
}

fn series(text: &str) -> Series {
    let mut series = Series::new();
    for key in samples(text).into_keys() {
        let (name, rest) = key.split_once('{').unwrap_or((key.as_str(), "}"));
        series.entry(name.to_owned()).or_default().push(labels(rest.strip_suffix('}').unwrap()));
    }
    series
}

/// The metrics of ours that a query names, each with what stands in its braces.
fn selectors(query: &str) -> Vec<(&str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in query.match_indices("matome_").filter(|(at, _)| !query[..*at].ends_with(is_word)) {
        let rest = &query[at..];
        let (name, rest) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        let braces = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        found.push((name, braces.map_or("", |(inside, _)| inside)));
    }
    found
}

/// The words between `start` and `end`, wherever these stand.
fn between<'t>(text: &'t str, start: &str, end: &str) -> Vec<&'t str> {
    text.split(start).skip(1).filter_map(|rest| rest.split_once(end)).map(|(inside, _)| inside).collect()
}

/// What a query, or the text beside it, asks for that no series has.
fn unanswered(series: &Series, query: &str, text: &str) -> Vec<String> {
    // Prometheus itself adds these.
    let is_added = |label: &str| label == "instance" || label == "job";
    let grouped: BTreeSet<&str> =
        between(query, " by (", ")").into_iter().flat_map(|list| list.split(',').map(str::trim)).collect();
    let mut missing = Vec::new();
    let mut all_labels = BTreeSet::new();
    for (name, braces) in selectors(query) {
        let Some(known) = series.get(name) else {
            missing.push(format!("no `{name}`"));
            continue;
        };
        let has = |label: &str| known.iter().any(|labels| labels.contains_key(label));
        all_labels.extend(known.iter().flat_map(BTreeMap::keys).map(String::as_str));
        for matcher in braces.split(',').filter(|matcher| !matcher.is_empty()) {
            let (label, value) = matcher.split_once('=').unwrap();
            // Of a pattern, such as `5..`, there may be nothing yet.
            let is_there = match value.strip_prefix('"').filter(|_| !label.ends_with('!')) {
                Some(value) => known
                    .iter()
                    .any(|labels| labels.get(label.trim()).is_some_and(|has| has == value.trim_end_matches('"'))),
                None => has(label.trim_end_matches('!').trim()),
            };
            if !is_there {
                missing.push(format!("no `{name}{{{matcher}}}`"));
            }
        }
        missing.extend(
            grouped
                .iter()
                .filter(|label| !is_added(label) && !has(label))
                .map(|label| format!("`{name}` has no `{label}`")),
        );
    }
    let named = between(text, "{{", "}}").into_iter().map(|label| label.trim().trim_start_matches("$labels."));
    let is_plain = !["sum", "max", "histogram_quantile"].iter().any(|function| query.starts_with(function));
    let is_shown =
        |label: &str| grouped.contains(label) || (is_plain && (is_added(label) || all_labels.contains(label)));
    missing.extend(
        named
            .filter(|label| !is_shown(label) && !label.starts_with("$value"))
            .map(|label| format!("`{label}` is not in the answer")),
    );
    missing
}

/// Every query in a file, with its texts.
fn queries(value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            if let Some(query) = members.get("expr").and_then(Value::as_str) {
                let texts = ["annotations", "legendFormat"].map(|name| members.get(name).map(Value::to_string));
                found.push((query.to_owned(), texts.into_iter().flatten().collect()));
            }
            members.values().for_each(|member| queries(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboard_ask_for_series_that_a_live_server_has() {
    let redis = RedisServer::start(&[]);
    let mut home = postgres_home().await.reaching(upstream(20).await);
    home.redis_url = Some(redis.url());
    home.extra.extend(["--metrics-bind".to_owned(), "127.0.0.1:0".to_owned()]);
    let rows = home.extra[1].rsplit_once(':').unwrap().1.to_owned();
    let server = home.serve().await;
    let url = metrics_address(&server).await;
    let config = json!({ "url": format!("http://127.0.0.1:{rows}/rows"), "records": "$.results" });
    let source = server.source("rows", "api", config).await;
    server.run("acquisition", source).await;
    let sum = server.aggregation("sum", "select sum(n) as n from rows").await;
    server.run("aggregation", sum).await;
    let redis_is_used = async || scrape(&server, &url).await.contains("matome_redis_ping_seconds_count");
    until("Redis is used", redis_is_used).await;
    let found = series(&scrape(&server, &url).await);

    let text = |path: &str| std::fs::read_to_string(Path::new("../..").join(path)).unwrap();
    let rules: Value = yaml_serde::from_str(&text("deploy/prometheus/matome.rules.yaml")).unwrap();
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/matome.json")).unwrap();
    for (file, value) in [("rules", rules), ("dashboard", dashboard)] {
        let mut asked = Vec::new();
        queries(&value, &mut asked);
        assert!(asked.len() > 10, "{file}: {asked:?}");
        for (query, text) in asked {
            let missing = unanswered(&found, &query, &text);
            assert!(missing.is_empty(), "{file}: `{query}` ({text}): {missing:?}");
        }
    }
    // What this finds.
    for (query, text) in [
        ("sum(rate(matome_tasks_finished_total{outcome=\"fail\"}[5m]))", ""),
        ("sum by (lane) (matome_tasks_running)", ""),
        ("matome_db_connections{kind=~\"u.*\"}", ""),
        ("matome_tasks_finished", ""),
        ("sum by (queue) (matome_tasks_running)", "{{ $labels.role }}"),
        ("max(matome_db_full)", "{{instance}}"),
    ] {
        assert_eq!(unanswered(&found, query, text).len(), 1, "{query}");
    }
}
