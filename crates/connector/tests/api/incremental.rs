//! Reading only what is new.

use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use matome_connector::{Advice, Batch, Connector, ConnectorError, ReadRequest};
use matome_model::clock::Clock;
use matome_model::source::SourceType;

use crate::support::{Asked, Server, after, clock, json, raws, read_all, read_until, registry};

/// A table whose rows have a time, as texts; asked for by `since`, in pages of two, in its own order.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<Vec<(u32, &'static str)>>>);

impl Table {
    fn of(rows: &[(u32, &'static str)]) -> Self {
        Self(Arc::new(Mutex::new(rows.to_vec())))
    }

    fn add(&self, id: u32, at: &'static str) {
        self.0.lock().unwrap().push((id, at));
    }

    fn answer(&self, asked: &Asked) -> axum::response::Response {
        let since = asked.parameter("since").unwrap_or_default();
        let until = asked.parameter("until").unwrap_or("~".to_owned());
        let offset: usize = asked.parameter("offset").unwrap().parse().unwrap();
        let rows = self.0.lock().unwrap();
        let new = rows.iter().filter(|(_, at)| *at >= since.as_str() && *at < until.as_str()).skip(offset).take(2);
        let rows: Vec<String> = new.map(|(id, at)| format!(r#"{{"id":{id},"at":"{at}"}}"#)).collect();
        json(format!("[{}]", rows.join(",")))
    }
}

async fn serve(table: &Table) -> Server {
    let table = table.clone();
    Server::answering(move |asked| table.answer(asked)).await
}

fn config(more: &str) -> String {
    format!(
        r#"{{"url":"http://HOST/","pagination":{{"type":"offset","size":2}},"incremental":{{"cursor":"$.at","param":"since"{more}}}}}"#
    )
}

fn ids(batches: &[Batch]) -> Vec<u64> {
    let id = |raw: String| serde_json::from_str::<serde_json::Value>(&raw).unwrap()["id"].as_u64().unwrap();
    raws(batches).into_iter().map(id).collect()
}

async fn read(connector: &dyn Connector, from: ReadRequest) -> Vec<Batch> {
    read_all(connector, from).await.unwrap()
}

#[tokio::test]
async fn the_next_read_asks_from_the_highest_cursor_less_the_overlap() {
    let table = Table::of(&[
        (1, "2025-12-01T00:00:00.123456789Z"),
        (3, "2025-12-03T00:00:00.1234567890123Z"),
        (2, "2025-12-02T00:00:00Z"),
    ]);
    let server = serve(&table).await;
    let connector = server.connector(&config(r#","start":"2025-01-01T00:00:00Z""#));
    let first = read(&*connector, ReadRequest::default()).await;
    assert_eq!(ids(&first), [1, 3, 2]);
    assert_eq!(server.asked()[0].parameter("since").unwrap(), "2025-01-01T00:00:00Z");
    // Exactly at the bound, and late but within the overlap of five minutes.
    table.add(4, "2025-12-02T23:55:00.1234567890123Z");
    table.add(5, "2025-12-04T00:00:00Z");
    let second = read(&*connector, after(&first)).await;
    assert_eq!(server.asked()[0].parameter("since").unwrap(), "2025-12-02T23:55:00.1234567890123Z");
    assert_eq!(ids(&second), [3, 4, 5]);
    let exact = server.connector(&config(r#","overlap":0"#));
    let first = read(&*exact, ReadRequest::default()).await;
    assert_eq!(server.asked()[0].parameter("since"), None, "without a start the first read asks for everything");
    read(&*exact, after(&first)).await;
    assert_eq!(server.asked()[0].parameter("since").unwrap(), "2025-12-04T00:00:00Z", "the source's own text");
}

#[tokio::test]
async fn rows_equal_to_the_bound_that_arrive_late_are_read() {
    let table = Table::of(&[(1, "2025-12-01T00:00:00Z")]);
    let server = serve(&table).await;
    let connector = server.connector(&config(r#","overlap":0"#));
    let first = read(&*connector, ReadRequest::default()).await;
    table.add(2, "2025-12-01T00:00:00Z");
    assert_eq!(ids(&read(&*connector, after(&first)).await), [1, 2], "the first is known by its content");
}

#[tokio::test]
async fn an_unsorted_read_moves_the_mark_only_when_it_is_complete() {
    let table = Table::of(&[
        (9, "2025-12-09T00:00:00Z"),
        (8, "2025-12-08T00:00:00Z"),
        (1, "2025-12-01T00:00:00Z"),
        (2, "2025-12-02T00:00:00Z"),
        (3, "2025-12-03T00:00:00Z"),
    ]);
    let down = Arc::new(Mutex::new(true));
    let (rows, flag) = (table.clone(), down.clone());
    let server = Server::answering(move |asked| match asked.parameter("offset").as_deref() {
        Some("4") if *flag.lock().unwrap() => StatusCode::BAD_GATEWAY.into_response(),
        _ => rows.answer(asked),
    })
    .await;
    let connector = server.connector(&config(r#","overlap":0"#));
    let (part, error) = read_until(&*connector, ReadRequest::default()).await;
    assert_eq!(error.unwrap().advice(), Advice::Retry { after: None });
    assert_eq!(ids(&part), [9, 8, 1, 2]);
    // The next attempt goes on where this one stopped, and asks for the same.
    *down.lock().unwrap() = false;
    server.asked();
    let rest = read(&*connector, after(&part)).await;
    assert_eq!(ids(&rest), [3]);
    let asked = server.asked();
    assert_eq!((asked.len(), asked[0].parameter("since")), (1, None));
    read(&*connector, after(&rest)).await;
    assert_eq!(server.asked()[0].parameter("since").unwrap(), "2025-12-09T00:00:00Z");
}

#[tokio::test]
async fn a_sorted_read_moves_the_mark_with_each_page_and_keeps_it_when_the_place_is_gone() {
    let table = Table::of(&[
        (1, "2025-12-01T00:00:00Z"),
        (2, "2025-12-02T00:00:00Z"),
        (3, "2025-12-03T00:00:00Z"),
        (4, "2025-12-04T00:00:00Z"),
        (5, "2025-12-05T00:00:00Z"),
    ]);
    let rows = table.clone();
    let server = Server::answering(move |asked| match asked.parameter("offset").as_deref() {
        Some("4") => StatusCode::GONE.into_response(),
        _ => rows.answer(asked),
    })
    .await;
    let connector = server.connector(&config(r#","overlap":0,"order":"asc""#));
    let mut reader = connector.read(ReadRequest::default()).await.unwrap();
    let mut two = vec![reader.next().await.unwrap().unwrap(), reader.next().await.unwrap().unwrap()];
    assert_eq!(ids(&two), [1, 2, 3, 4]);
    server.asked();
    let rest = read(&*connector, after(&two)).await;
    let asked = server.asked();
    assert_eq!(asked[1].parameter("since").unwrap(), "2025-12-04T00:00:00Z", "from the mark, not from the start");
    assert_eq!(ids(&rest), [4, 5]);
    two.extend(rest);
    assert_eq!(ids(&two).into_iter().collect::<std::collections::BTreeSet<_>>().len(), 5);
}

#[tokio::test]
async fn a_cursor_that_goes_back_where_it_should_rise_is_an_error_and_loses_nothing() {
    let table = Table::of(&[
        (1, "2025-12-01T00:00:00Z"),
        (2, "2025-12-02T00:00:00Z"),
        (4, "2025-12-04T00:00:00Z"),
        (3, "2025-12-03T23:59:59.999Z"),
    ]);
    let server = serve(&table).await;
    let connector = server.connector(&config(r#","overlap":0,"order":"asc""#));
    let (batches, error) = read_until(&*connector, ReadRequest::default()).await;
    let error = error.unwrap();
    assert!(matches!(error, ConnectorError::Regress { .. }) && error.advice() == Advice::Fail, "{error}");
    assert!(error.to_string().contains("2025-12-03T23:59:59.999Z") && error.position().unwrap().record == 2);
    assert_eq!(ids(&batches), [1, 2, 4, 3]);
    // Across pages, and across attempts too.
    let table = Table::of(&[(1, "2025-12-01T00:00:00Z"), (4, "2025-12-04T00:00:00Z"), (3, "2025-12-03T00:00:00Z")]);
    let server = serve(&table).await;
    let connector = server.connector(&config(r#","order":"asc""#));
    let (batches, error) = read_until(&*connector, ReadRequest::default()).await;
    assert!(matches!(error, Some(ConnectorError::Regress { .. })));
    let first = ReadRequest { checkpoint: Some(batches[0].checkpoint.clone()), ..ReadRequest::default() };
    assert!(matches!(read_until(&*connector, first).await.1, Some(ConnectorError::Regress { .. })));
    // Equal ones do not go back, nor do other spellings of the same time.
    let table = Table::of(&[(1, "2025-12-01T00:00:00Z"), (2, "2025-12-01T09:00:00+09:00")]);
    read(&*serve(&table).await.connector(&config(r#","order":"asc""#)), ReadRequest::default()).await;
}

#[tokio::test]
async fn a_time_after_the_beginning_of_the_read_moves_no_mark() {
    // One row is dated wrongly, one was written while the read went on.
    let table = Table::of(&[(1, "2025-12-31T23:59:59Z"), (2, "2099-01-01T00:00:00Z"), (3, "2026-01-01T00:00:00.5Z")]);
    let server = serve(&table).await;
    let clock = clock();
    let connector = |clock: Clock| {
        let config = server.config(&config(r#","overlap":0"#));
        registry(&[server.address], clock).open(SourceType::Api, &config).unwrap()
    };
    let first = read(&*connector(clock.clone()), ReadRequest::default()).await;
    server.asked();
    clock.advance(chrono::TimeDelta::seconds(60));
    let second = read(&*connector(clock.clone()), after(&first)).await;
    assert_eq!(server.asked()[0].parameter("since").unwrap(), "2025-12-31T23:59:59Z");
    read(&*connector(clock), after(&second)).await;
    assert_eq!(server.asked()[0].parameter("since").unwrap(), "2026-01-01T00:00:00.5Z");
}

#[tokio::test]
async fn integers_are_compared_beyond_what_a_float_can_tell() {
    let server = Server::answering(|asked| match asked.parameter("from").as_deref() {
        None => json(r#"[{"id":9007199254740993},{"id":9007199254740992},{"id":null},{}]"#),
        Some(_) => json("[]"),
    })
    .await;
    let connector =
        server.connector(r#"{"url":"http://HOST/","incremental":{"cursor":"$.id","kind":"integer","param":"from"}}"#);
    let first = read(&*connector, ReadRequest::default()).await;
    assert_eq!(raws(&first).len(), 4);
    let second = read(&*connector, after(&first)).await;
    read(&*connector, after(&second)).await;
    let asked = server.asked();
    assert_eq!(asked[1].parameter("from").unwrap(), "9007199254740993");
    assert_eq!(asked[2].parameter("from").unwrap(), "9007199254740993", "an empty read moves nothing");
}

#[tokio::test]
async fn a_cursor_in_the_body_has_its_type_and_a_first_value() {
    let server = Server::answering(|_| json(r#"[{"id":7}]"#)).await;
    let connector = server.connector(
        r#"{"url":"http://HOST/","body":{"filter":{"id":{"gte":"{cursor}"},"first":"{start}"}},
            "incremental":{"cursor":"$.id","kind":"integer","start":0,"overlap":2}}"#,
    );
    let first = read(&*connector, ReadRequest::default()).await;
    read(&*connector, after(&first)).await;
    let bodies: Vec<String> = server.asked().into_iter().map(|asked| asked.body).collect();
    assert_eq!(bodies, [r#"{"filter":{"first":0,"id":{"gte":0}}}"#, r#"{"filter":{"first":0,"id":{"gte":5}}}"#]);
}

#[tokio::test]
async fn a_path_that_no_record_has_is_an_error_once_all_is_read() {
    let table = Table::of(&[(1, "yesterday"), (2, "today")]);
    let server = serve(&table).await;
    let (batches, error) = read_until(&*server.connector(&config("")), ReadRequest::default()).await;
    assert_eq!(ids(&batches), [1, 2]);
    let error = error.unwrap();
    assert!(matches!(error, ConnectorError::NoCursor { .. }) && error.to_string().contains("`$.at`"), "{error}");
}

#[tokio::test]
async fn a_page_that_was_passed_over_keeps_the_mark_where_it_was() {
    let table = Table::of(&[
        (1, "2025-12-01T00:00:00Z"),
        (2, "2025-12-02T00:00:00Z"),
        (3, "2025-12-03T00:00:00Z"),
        (4, "2025-12-04T00:00:00Z"),
        (5, "2025-12-05T00:00:00Z"),
    ]);
    let rows = table.clone();
    let server = Server::answering(move |asked| match asked.parameter("offset").as_deref() {
        Some("2") => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        _ => rows.answer(asked),
    })
    .await;
    let config = config(r#","start":"2025-01-01T00:00:00Z","order":"asc","overlap":0"#)
        .replace("\"url\"", r#""errors":[{"status":500,"action":"skip"}],"url""#);
    let connector = server.connector(&config);
    let first = read(&*connector, ReadRequest::default()).await;
    assert_eq!(ids(&first), [1, 2, 5]);
    server.asked();
    read(&*connector, after(&first)).await;
    assert_eq!(server.asked()[0].parameter("since").unwrap(), "2025-12-02T00:00:00Z");
}

/// Which ranges were asked for, each once, and how many requests there were.
fn ranges(server: &Server) -> (Vec<String>, usize) {
    let asked = server.asked();
    let range = |asked: &Asked| {
        let short = |name| asked.parameter(name).map_or_else(String::new, |at| at[5..16].to_owned());
        format!("{} to {}", short("since"), short("until"))
    };
    let mut ranges: Vec<String> = asked.iter().map(range).collect();
    ranges.dedup();
    (ranges, asked.len())
}

#[tokio::test]
async fn steps_are_read_one_after_another_and_never_again_once_they_were_read() {
    let table = Table::of(&[
        (1, "2025-12-20T00:00:00Z"),
        (2, "2025-12-24T00:00:00Z"),
        (3, "2025-12-20T01:00:00Z"),
        (4, "2025-12-23T23:59:00Z"),
        (5, "2025-12-20T02:00:00Z"),
    ]);
    let server = serve(&table).await;
    let config =
        config(r#","start":"2025-12-20T00:00:00Z","overlap":60,"end_param":"until","step":345600,"order":"asc""#);
    let connector =
        |clock: Clock| registry(&[server.address], clock).open(SourceType::Api, &server.config(&config)).unwrap();
    let clock = clock();
    // Within a step they rise; behind its end those of the overlap come again.
    table.0.lock().unwrap().sort_by_key(|(_, at)| *at);
    let first = read(&*connector(clock.clone()), ReadRequest::default()).await;
    assert_eq!(ids(&first), [1, 3, 5, 4, 4, 2]);
    let expected =
        ["12-20T00:00 to 12-24T00:00", "12-23T23:59 to 12-28T00:00", "12-27T23:59 to 01-01T00:00"].map(str::to_owned);
    assert_eq!(ranges(&server).0, expected);
    // The last step had no records, and no end yet; the others are over.
    clock.advance(chrono::TimeDelta::hours(12));
    table.add(6, "2026-01-01T11:00:00Z");
    let second = read(&*connector(clock.clone()), after(&first)).await;
    assert_eq!(ids(&second), [6]);
    assert_eq!(ranges(&server).0, ["12-27T23:59 to 12-31T23:59", "12-31T23:58 to 01-01T12:00"].map(str::to_owned));
    clock.advance(chrono::TimeDelta::hours(1));
    read(&*connector(clock), after(&second)).await;
    assert_eq!(ranges(&server).0, ["01-01T10:59 to 01-01T13:00"].map(str::to_owned));
}

#[tokio::test]
async fn a_read_in_steps_that_was_interrupted_goes_on_at_the_step_where_it_stopped() {
    let table = Table::of(&[(1, "2025-12-20T00:00:00Z"), (2, "2025-12-25T00:00:00Z"), (3, "2025-12-30T00:00:00Z")]);
    let (rows, down) = (table.clone(), Arc::new(Mutex::new(true)));
    let flag = down.clone();
    let server = Server::answering(move |asked| match asked.parameter("since") {
        Some(since) if since.starts_with("2025-12-29") && *flag.lock().unwrap() => {
            StatusCode::BAD_GATEWAY.into_response()
        }
        _ => rows.answer(asked),
    })
    .await;
    let config = config(r#","start":"2025-12-20T00:00:00Z","overlap":0,"end_param":"until","step":86400"#);
    let connector = server.connector(&config);
    let (part, error) = read_until(&*connector, ReadRequest::default()).await;
    assert!(error.is_some());
    assert_eq!(ids(&part), [1, 2]);
    let (asked, _) = ranges(&server);
    assert_eq!((asked.len(), asked.last().unwrap().as_str()), (10, "12-29T00:00 to 12-30T00:00"));
    *down.lock().unwrap() = false;
    for batch in &part {
        let from = ReadRequest { checkpoint: Some(batch.checkpoint.clone()), ..ReadRequest::default() };
        let rest = read(&*connector, from).await;
        assert!(ids(&rest).ends_with(&[3]), "{:?}", ids(&rest));
        let (asked, _) = ranges(&server);
        assert_eq!(asked.last().unwrap(), "12-31T00:00 to 01-01T00:00");
    }
    read(&*connector, after(&part)).await;
    let (asked, _) = ranges(&server);
    assert_eq!(asked, ["12-29T00:00 to 12-30T00:00", "12-30T00:00 to 12-31T00:00", "12-31T00:00 to 01-01T00:00"]);
}

#[tokio::test]
async fn the_beginning_of_the_read_is_the_end_where_there_are_no_steps() {
    let server = Server::answering(|_| json(r#"[{"id":1,"at":"2025-12-20T00:00:00Z"}]"#)).await;
    for (options, place) in [
        (r#""incremental":{"cursor":"$.at","param":"since","end_param":"until"}"#, "/?until=2026-01-01T00%3A00%3A00Z"),
        (r#""params":{"to":"{end}"},"incremental":{"cursor":"$.at","param":"since"}"#, "/?to=2026-01-01T00%3A00%3A00Z"),
    ] {
        read(&*server.connector(&format!(r#"{{"url":"http://HOST/",{options}}}"#)), ReadRequest::default()).await;
        assert_eq!(server.paths(), [place]);
    }
}
