//! Traces of real processes, as a collector gets them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use support::{Home, homes, postgres_home, until, write};

/// A span, and the role of the process that sent it.
type Sent = (String, Span);

/// A collector that keeps what it gets; for a moment it is too busy.
struct Collector {
    endpoint: String,
    spans: Arc<Mutex<Vec<Sent>>>,
}

impl Collector {
    async fn start() -> Self {
        let spans: Arc<Mutex<Vec<Sent>>> = Arc::default();
        let (kept, refused) = (Arc::clone(&spans), Arc::new(Mutex::new(0)));
        let take = async move |headers: HeaderMap, body: Bytes| {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            assert_eq!(headers["authorization"], "Bearer a b");
            {
                let mut refused = refused.lock().unwrap();
                *refused += 1;
                if *refused == 1 {
                    return StatusCode::SERVICE_UNAVAILABLE;
                }
            }
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            for resource in request.resource_spans {
                let of = resource.resource.unwrap().attributes;
                assert_eq!(text(&of, "service.name").unwrap(), "matome");
                let role = text(&of, "matome.role").unwrap();
                let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                kept.lock().unwrap().extend(spans.map(|span| (role.clone(), span)));
            }
            StatusCode::OK
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, spans }
    }

    /// The same home, whose processes send their spans here.
    fn told_by(&self, mut home: Home) -> Home {
        home.extra = ["--otel-endpoint", &self.endpoint, "--otel-headers", "authorization=Bearer%20a%20b"]
            .map(str::to_owned)
            .into();
        home
    }

    fn trace(&self, task: &str) -> Vec<Sent> {
        let id = uuid::Uuid::parse_str(task).unwrap();
        let spans = self.spans.lock().unwrap();
        spans.iter().filter(|(_, span)| span.trace_id == id.as_bytes()).cloned().collect()
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    match value {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_one_trace_from_its_schedule_to_its_last_commit_across_processes() {
    let collector = Collector::start().await;
    let mut home = collector.told_by(postgres_home().await);
    let files = home.files();
    let _beat = home.beat();
    home.extra.extend(["--file-root".into(), files.display().to_string()]);
    let web = home.web().await;
    let _worker = home.worker("acquisition", 2);
    write(&files.join("a.ndjson"), "{\"n\":1}\n{\"n\":2}\n");
    let (status, source) = web
        .send(
            "POST",
            "/api/acquisition/sources/",
            Some(json!({ "name": "a", "source_type": "file", "fetch_interval": 1, "config": { "path": "a.ndjson", "files": "all" } })),
        )
        .await;
    assert_eq!(status, 201, "{source}");
    let scheduled = async || {
        let tasks = web.get("/api/acquisition/tasks/?status=succeeded").await;
        tasks["results"][0]["task_id"].as_str().map(str::to_owned)
    };
    until("a scheduled task has succeeded", async || scheduled().await.is_some()).await;
    let task = scheduled().await.unwrap();
    let names = |sent: &[Sent]| sent.iter().map(|(_, span)| span.name.clone()).collect::<BTreeSet<String>>();
    let wanted = ["acquisition.attempt", "page.commit", "task", "task.accept", "task.end"];
    until("its trace is whole", async || names(&collector.trace(&task)).len() == wanted.len()).await;

    let trace = collector.trace(&task);
    assert_eq!(names(&trace).iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    let by_name: BTreeMap<&str, &Sent> = trace.iter().map(|sent| (sent.1.name.as_str(), sent)).collect();
    let role = |name: &str| by_name[name].0.as_str();
    assert_eq!((role("task.accept"), role("page.commit"), role("task")), ("beat", "worker", "worker"));
    let span = |name: &str| &by_name[name].1;
    let whole = span("task");
    assert!(whole.parent_span_id.is_empty());
    for name in ["task.accept", "acquisition.attempt", "task.end"] {
        assert_eq!(span(name).parent_span_id, whole.span_id, "{name}");
        assert!(span(name).start_time_unix_nano + 1_000_000 >= whole.start_time_unix_nano, "{name}");
    }
    assert_eq!(span("page.commit").parent_span_id, span("acquisition.attempt").span_id);
    let ids: BTreeSet<&[u8]> = trace.iter().map(|(_, span)| span.span_id.as_slice()).collect();
    assert_eq!(ids.len(), trace.len(), "no id comes twice: {trace:#?}");
    assert_eq!(text(&whole.attributes, "cause").as_deref(), Some("schedule"));
    assert_eq!(text(&whole.attributes, "outcome").as_deref(), Some("succeeded"));
    assert_eq!(text(&span("page.commit").attributes, "records").as_deref(), Some("2"));
    assert_eq!(text(&span("acquisition.attempt").attributes, "outcome").as_deref(), Some("succeeded"));

    // What somebody asks for is accepted by the web process: a run, a push, a replay.
    let accepted = async |task: i64| {
        let task = web.ended(&format!("/api/acquisition/tasks/{task}/")).await["task_id"].as_str().unwrap().to_owned();
        let told = || collector.trace(&task).iter().any(|(role, span)| span.name == "task.accept" && role == "web");
        until("the web process tells of it", async || told()).await;
    };
    let by_hand = web.start("acquisition", source["id"].as_i64().unwrap()).await;
    accepted(web.ended(&by_hand).await["id"].as_i64().unwrap()).await;
    let sent_to = web.source("sent to", "push", json!({ "validation": { "schema": { "required": ["n"] } } })).await;
    let records = format!("/api/acquisition/sources/{sent_to}/records/");
    let (status, push) = web.send("POST", &records, Some(json!([{ "m": 1 }]))).await;
    assert_eq!(status, 202, "{push}");
    accepted(push["task"].as_i64().unwrap()).await;
    let kept = web.get(&format!("/api/acquisition/quarantine/?source={sent_to}")).await["results"][0]["id"].clone();
    let replay = json!({ "ids": [kept] });
    let (status, replayed) = web.send("POST", "/api/acquisition/quarantine/replay/", Some(replay)).await;
    assert_eq!(status, 202, "{replayed}");
    accepted(replayed["tasks"][0].as_i64().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_a_task_that_runs_alone_are_in_the_trace_of_its_attempt() {
    let collector = Collector::start().await;
    let mut home = collector.told_by(postgres_home().await);
    let files = home.files();
    home.extra.extend(["--file-root".into(), files.display().to_string()]);
    write(&files.join("a.ndjson"), "{\"n\":1}\n{\"n\":2}\n");
    let web = home.web().await;
    let source = web.source("a", "file", json!({ "path": "a.ndjson" })).await;
    let sums = web.aggregation("sums", "select sum(n) as total from a").await;
    for (queue, id, commits) in
        [("acquisition", source, vec!["page.commit"]), ("aggregation", sums, vec!["page.commit", "run.publish"])]
    {
        let task = web.start(queue, id).await;
        // As after the second death of a worker.
        let url = home.database_url.as_deref().unwrap();
        matome_testbed::execute(url, "update tasks set crash_count = 2 where status = 'pending'").await;
        let worker = home.worker(queue, 1);
        let task = web.ended(&task).await;
        assert_eq!(task["status"], "succeeded", "{task}");
        assert_eq!(worker.says("it runs in a process of its own"), 1);

        let trace = async || collector.trace(task["task_id"].as_str().unwrap());
        until("its trace is whole", async || trace().await.iter().any(|(_, span)| span.name == "task")).await;
        let trace = trace().await;
        let of =
            |name: &str| &trace.iter().find(|(_, span)| span.name == name).unwrap_or_else(|| panic!("{trace:#?}")).1;
        let attempt = of(&format!("{queue}.attempt"));
        for commit in commits {
            let commit = of(commit);
            assert_eq!(commit.parent_span_id, attempt.span_id, "{commit:?}");
            assert!(attempt.start_time_unix_nano <= commit.start_time_unix_nano, "{commit:?} in {attempt:?}");
            assert!(commit.start_time_unix_nano <= commit.end_time_unix_nano, "{commit:?}");
            assert!(commit.end_time_unix_nano <= attempt.end_time_unix_nano, "{commit:?} in {attempt:?}");
        }
        let records = if queue == "acquisition" { "2" } else { "1" };
        assert_eq!(text(&of("page.commit").attributes, "records").as_deref(), Some(records));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_keeps_nothing_from_working() {
    for mut home in homes().await {
        // A port that nobody listens on.
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        home.extra = vec!["--otel-endpoint".into(), format!("http://{nobody}")];
        write(&home.files().join("a.ndjson"), "{\"n\":1}\n");
        let mut server = home.serve().await;
        let source = server.source("a", "file", json!({ "path": "a.ndjson" })).await;
        server.run("acquisition", source).await;
        let lost = async || {
            let text = server.client.get(format!("{}/metrics", server.base)).bearer_auth(&server.token).send().await;
            let text = text.unwrap().text().await.unwrap();
            let lost = text.lines().find_map(|line| line.strip_prefix("matome_trace_spans_dropped_total "));
            lost.is_some_and(|lost| lost.parse::<f64>().unwrap() >= 4.0)
        };
        until("what was lost is counted", lost).await;
        until("it is told", async || server.says("traces cannot be sent") >= 1).await;
        assert_eq!(server.terminate(), Some(0), "{}", home.name);
    }
    let mut home = support::sqlite_home();
    home.extra = vec!["--otel-endpoint".into(), "127.0.0.1:4317".into()];
    let child = home.spawn().wait_with_output().unwrap();
    assert_eq!(child.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&child.stderr).contains("OTLP over HTTP"), "{child:?}");
}
