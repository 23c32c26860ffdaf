//! Transfers that break, stall, lie about their length, or change under the reader.

use matome_connector::{Advice, ConnectorError, PlaceFault, ReadRequest};
use matome_egress::EgressError;

use super::peer::{Document, End, Peer, Reply, told};
use crate::compressed::gzip;

/// Long enough for several pieces.
const ROWS: usize = 40_000;
const CONFIG: &str = r#"{"path":"http://HOST/a.ndjson","timeout_secs":1}"#;

fn body(count: usize) -> Vec<u8> {
    (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>().into_bytes()
}

fn document(etag: &'static str) -> Document {
    Document { body: body(ROWS), etag }
}

#[tokio::test]
async fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    for end in [End::Close, End::Hang] {
        let of = document("\"1\"");
        let peer = Peer::start(move |number, asked| {
            let reply = of.answer(asked);
            if number < 3 { reply.cut(100_000, end) } else { reply }
        })
        .await;
        let (rows, error) = peer.read(CONFIG).await;
        assert!(error.is_none(), "{}", told(&error.unwrap()));
        assert!(rows.len() == ROWS && rows[ROWS - 1] == format!("{{\"n\":{}}}", ROWS - 1));
        let asked = peer.asked();
        let ranges: Vec<_> = asked.iter().map(|asked| asked.header("range").unwrap_or_default()).collect();
        assert_eq!(ranges, ["", "bytes=100000-", "bytes=200000-", "bytes=300000-", "bytes=0-0"]);
        assert!(asked[1..4].iter().all(|asked| asked.header("if-match") == Some("\"1\"")));
    }
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_sends_it_again_from_the_start() {
    let of = document("W/\"1\"");
    let peer = Peer::start(move |number, _| {
        let size = of.body.len().to_string();
        let headers =
            [("etag", of.etag), ("content-length", &size), ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")];
        let reply = Reply::new("200 OK", &headers, &of.body);
        if number == 0 { reply.cut(100_001, End::Close) } else { reply }
    })
    .await;
    let (rows, error) = peer.read(CONFIG).await;
    assert!(error.is_none() && rows.len() == ROWS, "{error:?}");
    // A weak version is no condition of a range.
    let again = &peer.asked()[1];
    assert_eq!(again.header("if-match"), None);
    assert_eq!(again.header("if-unmodified-since"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
}

#[tokio::test]
async fn another_version_never_goes_on_for_the_one_that_broke_off() {
    let (old, new) = (document("\"1\""), document("\"2\""));
    // One server compares versions itself, the other knows no conditions and just sends what it has.
    for knows_conditions in [true, false] {
        let peer = Peer::replaced(old.clone(), new.clone(), knows_conditions).await;
        let (rows, error) = peer.read(CONFIG).await;
        assert!(matches!(error, Some(ConnectorError::Changed { .. })), "{error:?}");
        assert!(rows.len() < ROWS, "nothing of the other version came");
    }
}

#[tokio::test]
async fn a_document_that_was_written_over_while_it_came_is_an_error() {
    let (old, new) = (document("\"1\""), document("\"2\""));
    let peer = Peer::start(move |number, asked| if number == 0 { old.answer(asked) } else { new.answer(asked) }).await;
    let (rows, error) = peer.read(CONFIG).await;
    assert!(rows.len() == ROWS && matches!(error, Some(ConnectorError::Changed { .. })), "{error:?}");
}

#[tokio::test]
async fn what_breaks_off_all_the_time_ends_after_some_tries_and_may_be_tried_later() {
    let of = document("\"1\"");
    let peer = Peer::start(move |_, asked| of.answer(asked).cut(1000, End::Close)).await;
    let (rows, error) = peer.read(CONFIG).await;
    let error = error.unwrap();
    assert!(
        matches!(error, ConnectorError::Egress { .. }) && error.advice() == Advice::Retry { after: None },
        "{error:?}"
    );
    assert_eq!(peer.asked().len(), 6, "the first one and five more");
    assert!(rows.len() < 700, "each brought 1,000 bytes");
}

#[tokio::test]
async fn what_nothing_tells_the_version_of_is_not_taken_up_in_its_middle() {
    let whole = body(ROWS);
    let size = whole.len().to_string();
    let peer =
        Peer::start(move |_, _| Reply::new("200 OK", &[("content-length", &size)], &whole).cut(100_000, End::Close));
    let peer = peer.await;
    let (rows, error) = peer.read(CONFIG).await;
    assert!(matches!(error, Some(ConnectorError::Egress { .. })), "{error:?}");
    assert!(rows.len() < ROWS && peer.asked().len() == 1);
}

#[tokio::test]
async fn a_server_that_sends_another_part_than_asked_is_not_believed() {
    let of = document("\"1\"");
    let peer = Peer::start(move |number, asked| match number {
        0 => of.answer(asked).cut(100_000, End::Close),
        _ => Reply::new("206 Partial Content", &[("etag", of.etag), ("content-range", "bytes 5-9/10")], b"xxxxx"),
    })
    .await;
    let (_, error) = peer.read(CONFIG).await;
    let error = error.unwrap();
    assert!(matches!(error, ConnectorError::Place { fault: PlaceFault::Answer, .. }), "{error:?}");
    assert!(told(&error).contains("from 100000 on"), "{}", told(&error));
}

#[tokio::test]
async fn an_endless_body_ends_where_the_reader_ends() {
    let line = vec![b'x'; 64 * 1024];
    let peer = Peer::start(move |_, _| Reply::new("200 OK", &[], &line).cut(64 * 1024, End::Endless)).await;
    // What is no JSON ends it by itself.
    let (rows, error) = peer.read(r#"{"path":"http://HOST/a.json"}"#).await;
    assert!(rows.is_empty() && matches!(error, Some(ConnectorError::Document { .. })), "{error:?}");
    peer.gone.notified().await;
    // A line without an end is never whole; whoever has waited long enough drops the reader, or cancels it.
    let connector = peer.connector(r#"{"path":"http://HOST/a.ndjson"}"#);
    let reader = connector.read(ReadRequest::default()).await.unwrap();
    peer.was_asked(2).await;
    drop(reader);
    peer.gone.notified().await;
    let request = ReadRequest::default();
    let mut reader = connector.read(request.clone()).await.unwrap();
    peer.was_asked(3).await;
    request.cancel.cancel();
    assert!(matches!(reader.next().await, Err(ConnectorError::Cancelled)));
    peer.gone.notified().await;
}

#[tokio::test]
async fn a_format_that_is_read_here_and_there_is_fetched_within_a_limit() {
    let peer =
        Peer::start(|_, _| Reply::new("200 OK", &[("content-length", "4294967297"), ("etag", "\"1\"")], &[b'P'; 64]));
    let peer = peer.await;
    let (_, error) = peer.read(r#"{"path":"http://HOST/a.parquet"}"#).await;
    let error = error.unwrap();
    assert!(matches!(error, ConnectorError::Place { fault: PlaceFault::TooLong, .. }), "{error:?}");
    assert!(told(&error).contains("4294967296"), "{}", told(&error));
    let (_, error) = {
        let header = ("content-length", "274877906945");
        let peer = Peer::start(move |_, _| Reply::new("200 OK", &[header], b"n\n1\n")).await;
        peer.read(r#"{"path":"http://HOST/a.csv"}"#).await
    };
    assert!(matches!(error, Some(ConnectorError::FileTooLarge { .. })), "{error:?}");
}

#[tokio::test]
async fn a_silent_and_a_slow_server_are_given_up() {
    let peer = Peer::start(|_, _| Reply { bytes: Vec::new(), end: End::Hang }).await;
    let (_, error) = peer.read(CONFIG).await;
    let error = error.unwrap();
    assert!(matches!(&error, ConnectorError::Egress { source: EgressError::Timeout { .. }, .. }), "{error:?}");
    assert_eq!(error.advice(), Advice::Retry { after: None });
}

#[tokio::test]
async fn a_host_that_is_unknown_or_closed_is_told_and_asked_again() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = format!(r#"{{"path":"http://{closed}/a.csv"}}"#);
    let error = super::peer::read(&*super::peer::connector(&[closed], &config)).await.1.unwrap();
    let text = told(&error);
    assert!(text.to_lowercase().contains("refused") && text.contains("要求に失敗しました"), "{text}");
    assert_eq!(&*error.position().unwrap().document, format!("http://{closed}/a.csv"));
    assert_eq!(error.advice(), Advice::Retry { after: None });
    let unknown = super::peer::connector(&[], r#"{"path":"http://nowhere.invalid/a.csv"}"#);
    let error = super::peer::read(&*unknown).await.1.unwrap();
    assert!(told(&error).contains("`nowhere.invalid` can not be resolved"), "{}", told(&error));
    assert!(error.remedy().is_some() && error.advice() == Advice::Retry { after: None }, "{error:?}");
}

#[tokio::test]
async fn what_is_compressed_on_its_way_is_read_as_it_was() {
    let packed = gzip(&body(1000));
    let peer = Peer::start(move |_, _| {
        let size = packed.len().to_string();
        Reply::new("200 OK", &[("content-length", &size), ("content-encoding", "gzip"), ("etag", "\"1\"")], &packed)
    })
    .await;
    // The name says that it is compressed, and the server has taken that off.
    for name in ["a.ndjson", "a.ndjson.gz"] {
        let (rows, error) = peer.read(&format!(r#"{{"path":"http://HOST/{name}"}}"#)).await;
        assert!(error.is_none() && rows.len() == 1000, "{error:?}");
    }
}
