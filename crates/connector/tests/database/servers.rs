//! What holds of a read whichever server it is from. The tests of each server bring a database there.

use std::time::Duration;

use matome_connector::{Advice, Batch, Connector, ConnectorError, DatabaseFault, ReadRequest};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::errors::check;
use crate::support::{behind, error_of, field, read, read_until, state, told};

/// A database on a server.
pub trait Server {
    fn connector(&self, options: Value) -> Box<dyn Connector>;

    async fn run(&self, script: &str);

    /// The sessions of reads here.
    async fn sessions(&self) -> Vec<String>;

    /// Ends one of them.
    async fn end(&self, session: &str);
}

/// A read of `events` by the time `at`, with options of `incremental`.
pub fn by_time(more: Value) -> Value {
    let mut options = json!({"table": "events", "dedupe": "key", "key": "id", "incremental": {"cursor": "at"}});
    for (name, value) in more.as_object().unwrap() {
        options["incremental"][name] = value.clone();
    }
    options
}

/// Beside a table `events`.
pub async fn a_table_that_is_not_there_is_told_with_those_that_are(server: &impl Server) {
    let error = error_of(&*server.connector(json!({"table": "event"}))).await;
    check(&error, DatabaseFault::Missing, &["event", "there are `events`"]);
}

fn by_id(more: Value) -> Value {
    let mut options = by_time(more);
    options["incremental"]["cursor"] = json!("id");
    options
}

/// Of 50 `events` in groups of seven with the same time, so that page borders fall into them.
pub async fn reads_go_on_behind_any_page(server: &impl Server) {
    for options in [
        by_time(json!({})),
        by_time(json!({"tie_break": ["id", "n"]})),
        json!({"table": "events", "dedupe": "hash"}),
        json!({"table": "events", "dedupe": "none"}),
        json!({"table": "events", "dedupe": "none", "incremental": {"cursor": "at"}}),
        json!({"query": "select * from events", "dedupe": "none", "incremental": {"cursor": "at", "tie_break": "id"}}),
    ] {
        let connector = server.connector(options.clone());
        for size in [3, 7, 60] {
            let whole = read(&*connector, behind(None, size)).await;
            assert_eq!(field(&whole, "id"), (1..=50).collect::<Vec<_>>(), "{options}");
            assert!(whole.iter().all(|batch| batch.is_exact), "{options}");
            for cut in 0..whole.len() - 1 {
                let rest = read(&*connector, behind(Some(&whole[cut]), 9)).await;
                let ids = ids_of(&whole[..=cut], &rest);
                assert_eq!(ids, (1..=50).collect::<Vec<_>>(), "{options}, cut behind page {cut} of {size}");
            }
        }
    }
    // Where nothing tells rows of the same time apart, those of the page border come again: none is lost.
    for options in [
        json!({"query": "select * from events", "dedupe": "hash", "incremental": {"cursor": "at"}}),
        by_time(json!({"tie_break": ["n"]})),
    ] {
        let connector = server.connector(options.clone());
        let whole = read(&*connector, behind(None, 3)).await;
        assert!(whole.iter().all(|batch| !batch.is_exact), "{options}");
        let rest = read(&*connector, behind(Some(&whole[2]), 9)).await;
        let mut ids = ids_of(&whole[..=2], &rest);
        assert!(ids.len() < 60, "{options}: {}", ids.len());
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids, (1..=50).collect::<Vec<_>>(), "{options}");
    }
}

/// The same events, the last of them at 07:00 of the first day, which the server writes as `mark`.
pub async fn the_next_read_begins_a_little_before(server: &impl Server, mark: &str) {
    let last = |batches: &[Batch]| batches.last().unwrap().clone();
    let connector = server.connector(by_time(json!({})));
    let first = read(&*connector, ReadRequest::default()).await;
    assert_eq!(state(&last(&first))["high"], mark);
    // What became visible late, up to five minutes before the mark; not what is older.
    let late = "insert into events values (51, '2026-01-01 06:55:00', 0), (52, '2026-01-01 06:54:59.999999', 0), (53, '2026-01-02', 0)";
    server.run(late).await;
    let second = read(&*connector, behind(Some(&last(&first)), 1000)).await;
    assert_eq!(field(&second, "id"), [51, 49, 50, 53]);
    let third = read(&*connector, behind(Some(&last(&second)), 1000)).await;
    assert_eq!(field(&third, "id"), [53]);
    assert_eq!(state(&last(&third))["high"], state(&last(&second))["high"]);

    // By hand: none, more, and by whole numbers.
    let ids = |options: Value, at: Batch| {
        let connector = server.connector(options);
        async move { field(&read(&*connector, behind(Some(&at), 1000)).await, "id") }
    };
    assert_eq!(ids(by_time(json!({"overlap": 0})), last(&first)).await, [49, 50, 53]);
    assert_eq!(ids(by_time(json!({"overlap": 301})), last(&first)).await, [52, 51, 49, 50, 53]);
    let whole = read(&*server.connector(by_id(json!({}))), ReadRequest::default()).await;
    assert_eq!(state(&last(&whole))["high"], "53");
    assert_eq!(ids(by_id(json!({})), last(&whole)).await.len(), 53);
    assert_eq!(ids(by_id(json!({"overlap": 2})), last(&whole)).await, [51, 52, 53]);
    for (options, from) in [
        (by_id(json!({"start": 52})), vec![52, 53]),
        (by_id(json!({"start": "52"})), vec![52, 53]),
        (by_time(json!({"start": "2026-01-01T07:00"})), vec![49, 50, 53]),
    ] {
        let started = read(&*server.connector(options.clone()), ReadRequest::default()).await;
        assert_eq!(field(&started, "id"), from, "{options}");
    }
    // Nothing may come twice: exactly behind the last row.
    let none = json!({"table": "events", "dedupe": "none", "incremental": {"cursor": "id"}});
    let whole = read(&*server.connector(none.clone()), ReadRequest::default()).await;
    assert_eq!(ids(none.clone(), last(&whole)).await, Vec::<i64>::new());
    server.run("insert into events values (54, null, 0)").await;
    assert_eq!(ids(none, last(&whole)).await, [54]);
}

/// Of four `events`: an old one, one of the day before yesterday, and two that lie ahead.
pub async fn no_mark_is_after_the_beginning(server: &impl Server, of: &str) {
    let connector = server.connector(by_time(json!({})));
    let first = read(&*connector, ReadRequest::default()).await;
    assert_eq!(field(&first, "id"), [1, 2, 3, 4], "{of}");
    server.run("insert into events values (5, now())").await;
    let second = read(&*connector, behind(first.last(), 1000)).await;
    assert_eq!(field(&second, "id"), [2, 5, 3, 4], "{of}");
}

/// Of the 50 events.
pub async fn rows_without_a_cursor_are_told_apart(server: &impl Server) {
    server.run("update events set at = null where id in (3, 30, 31)").await;
    let valued: Vec<i64> = (1..=50).filter(|id| ![3, 30, 31].contains(id)).collect();
    let all: Vec<i64> = valued.iter().copied().chain([3, 30, 31]).collect();
    let connector = server.connector(by_time(json!({})));
    let first = read(&*connector, behind(None, 4)).await;
    assert_eq!(field(&first, "id"), all);
    // They have no place, so each read has them; also one that goes on behind one of them.
    let second = read(&*connector, behind(first.last(), 1000)).await;
    assert_eq!(field(&second, "id"), [49, 50, 3, 30, 31]);
    for cut in 0..first.len() - 1 {
        let rest = read(&*connector, behind(Some(&first[cut]), 1000)).await;
        assert_eq!(ids_of(&first[..=cut], &rest), all, "cut behind page {cut}");
    }
    let skipping = read(&*server.connector(by_time(json!({"nulls": "skip"}))), ReadRequest::default()).await;
    assert_eq!(field(&skipping, "id"), valued);
    let none = json!({"table": "events", "dedupe": "none", "incremental": {"cursor": "at"}});
    for options in [by_time(json!({"nulls": "fail"})), none] {
        let (batches, error) = read_until(&*server.connector(options), behind(None, 20)).await;
        assert_eq!(field(&batches, "id"), valued, "what has a cursor was handed on");
        let error = told(&error.unwrap());
        assert!(error.contains("3 rows have NULL in `at`") && error.contains("3 件"), "{error}");
    }
    // NULL in what orders rows of the same time.
    server.run("create table loose (id int, at int); insert into loose values (1, 1), (null, 1)").await;
    let options = json!({"table": "loose", "dedupe": "hash", "incremental": {"cursor": "at", "tie_break": "id"}});
    let error = told(&error_of(&*server.connector(options)).await);
    assert!(error.contains("NULL in a column of `incremental.tie_break`"), "{error}");
}

/// One that accepts and says nothing, and one that hangs up.
pub async fn a_server_that_is_silent_is_tried_again(server: &impl Server) {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let error = error_of(&*server.connector(json!({"table": "orders", "port": port, "timeout_secs": 1}))).await;
    check(&error, DatabaseFault::Lost, &["did not answer within 1 s"]);
    assert!(error.remedy().is_some());
    tokio::spawn(async move { while silent.accept().await.is_ok() {} });
    let error = error_of(&*server.connector(json!({"table": "orders", "port": port}))).await;
    check(&error, DatabaseFault::Lost, &["connection was lost"]);
}

pub async fn a_host_that_nobody_knows_is_told(server: &impl Server) {
    let error = error_of(&*server.connector(json!({"table": "orders", "host": "nowhere.invalid"}))).await;
    let text = told(&error);
    assert!(matches!(error, ConnectorError::Unreached { .. }) && error.remedy().is_some(), "{error:?}");
    assert!(text.contains("`nowhere.invalid` can not be resolved") && text.contains("接続できません"), "{text}");
    assert!(error.position().unwrap().document.ends_with("#orders"));
    assert_eq!(error.advice(), Advice::Retry { after: None });
}

/// Of the 20,000 rows of `moments`, each `n` is 0.
pub async fn a_whole_read_sees_one_moment(server: &impl Server, insert: &'static str) {
    for options in
        [json!({"table": "moments"}), json!({"table": "moments", "dedupe": "hash", "incremental": {"cursor": "id"}})]
    {
        server.run("update moments set n = 0").await;
        let connector = server.connector(options);
        let mut reader = connector.read(behind(None, 100)).await.unwrap();
        let mut batches = vec![reader.next().await.unwrap().unwrap()];
        // More than fits into what is under way stays to be read.
        server.run("update moments set n = 1").await;
        server.run(insert).await;
        while let Some(batch) = reader.next().await.unwrap() {
            batches.push(batch);
        }
        let seen = field(&batches, "n");
        assert!(seen.len() % 1000 < 3 && seen.iter().filter(|n| **n == 1).count() < 3, "{}", seen.len());
        assert_eq!(field(&batches, "id").len(), seen.len());
    }
}

/// While the 20,000 rows of `orders` are read.
pub async fn a_lost_connection_goes_on_where_it_was(server: &impl Server) {
    let connector = server.connector(json!({"table": "orders", "dedupe": "hash", "incremental": {"cursor": "id"}}));
    let mut reader = connector.read(behind(None, 100)).await.unwrap();
    let mut batches = vec![reader.next().await.unwrap().unwrap()];
    let [session] = &server.sessions().await[..] else { panic!("one session reads") };
    server.end(session).await;
    let error = loop {
        match reader.next().await {
            Ok(batch) => batches.push(batch.expect("20,000 rows do not fit into what was under way")),
            Err(error) => break error,
        }
    };
    check(&error, DatabaseFault::Lost, &[]);
    assert!(matches!(error.advice(), Advice::Retry { .. }));
    assert!(batches.len() < 190, "{}", batches.len());
    let rest = read(&*connector, behind(batches.last(), 5000)).await;
    assert_eq!(ids_of(&batches, &rest), (1..=20000).collect::<Vec<_>>());
}

/// The same rows, as `options` ask for them.
pub async fn a_read_that_nobody_wants_ends(server: &impl Server, options: Value) {
    let connector = server.connector(options);
    let mut reader = connector.read(behind(None, 100)).await.unwrap();
    reader.next().await.unwrap().unwrap();
    assert_eq!(server.sessions().await.len(), 1);
    drop(reader);
    let ended = async {
        while !server.sessions().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the session is still there");
    // And one that is cancelled says so.
    let request = ReadRequest::default();
    request.cancel.cancel();
    let error = read_until(&*connector, request).await.1.unwrap();
    assert!(matches!(error, ConnectorError::Cancelled), "{error:?}");
}

/// Of a server with the certificate `one`, which is for 127.0.0.1, that listens on all addresses.
pub async fn a_certificate_of_another_is_not_believed(
    tried: impl AsyncFn(&str, Value) -> (Vec<Batch>, Option<ConnectorError>),
) {
    for (host, tls, part) in [
        ("127.0.0.2", json!({"ca_file": "one.crt"}), "for another name"),
        ("127.0.0.1", json!({}), "nobody known here has signed"),
        ("127.0.0.1", json!({"ca_file": "two.crt"}), "nobody known here has signed"),
    ] {
        let error = tried(host, tls.clone()).await.1.unwrap();
        check(&error, DatabaseFault::Tls, &[part]);
    }
}

fn ids_of(first: &[Batch], rest: &[Batch]) -> Vec<i64> {
    field(first, "id").into_iter().chain(field(rest, "id")).collect()
}
