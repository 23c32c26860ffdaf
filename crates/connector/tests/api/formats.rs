//! Pages that are lines or rows instead of a JSON document.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use matome_connector::{Item, ReadRequest};
use matome_model::canonical::QuarantineReason;

use crate::support::{Server, after, failure, json, raws, read_all, records};

fn text(kind: &str, body: impl Into<Vec<u8>>) -> Response {
    ([(CONTENT_TYPE, kind.to_owned())], body.into()).into_response()
}

#[tokio::test]
async fn lines_are_records_page_by_page_and_a_bad_one_is_kept_with_its_place() {
    let server = Server::answering(|asked| {
        let page: u64 = asked.parameter("page").unwrap().parse().unwrap();
        let body = match page {
            1 => "{\"n\":1.10}\n\n{\"n\":\n{\"n\":3}",
            2 => "{\"n\":4}\r\n{\"n\":5}\r\n",
            _ => "",
        };
        text("application/x-ndjson", body)
    })
    .await;
    let connector = server.connector(r#"{"url":"http://HOST/","format":"ndjson","pagination":{"type":"page_number"}}"#);
    let batches = read_all(&*connector, ReadRequest::default()).await.unwrap();
    assert_eq!(raws(&batches), [r#"{"n":1.10}"#, r#"{"n":"#, r#"{"n":3}"#, r#"{"n":4}"#, r#"{"n":5}"#]);
    let rejected: Vec<_> = batches.iter().flat_map(|batch| &batch.items).map(Item::position).collect();
    assert_eq!((rejected[1].line, rejected[1].request), (Some(3), Some(1)));
    let asked = server.asked();
    assert_eq!(asked.len(), 3, "an empty page ends the list");
    assert!(asked[0].header("accept").unwrap().starts_with("application/x-ndjson"));
    // It is read again from its first page on, with the same rows.
    assert_eq!(raws(&read_all(&*connector, after(&batches)).await.unwrap()).len(), 5);
}

#[tokio::test]
async fn rows_of_csv_follow_their_own_header_on_each_page() {
    let server = Server::answering(|asked| {
        let (shift_jis, _, _) = encoding_rs::SHIFT_JIS.encode("番号;名前;金額\n1;\"山;田\";10.50\n2;佐藤\n");
        let mut response = match asked.uri.path() {
            "/1" => text("text/csv; charset=shift_jis", shift_jis.into_owned()),
            _ => text("text/csv", encoding_rs::SHIFT_JIS.encode("名前;番号;金額\n鈴木;3;7\n").0.into_owned()),
        };
        if asked.uri.path() == "/1" {
            response.headers_mut().insert("link", r#"</2>; rel="next""#.parse().unwrap());
        }
        response
    })
    .await;
    let config = r#"{"url":"http://HOST/1","format":"csv","delimiter":";","encoding":"shift_jis",
        "types":{"番号":"integer","金額":"number"},"pagination":{"type":"link_header"}}"#;
    let batches = read_all(&*server.connector(config), ReadRequest::default()).await.unwrap();
    let items: Vec<&Item> = batches.iter().flat_map(|batch| &batch.items).collect();
    let raw = |at: usize| String::from_utf8_lossy(items[at].raw()).into_owned();
    assert_eq!(raw(0), r#"{"番号":1,"名前":"山;田","金額":10.50}"#);
    assert!(matches!(items[1], Item::Rejected { reason: QuarantineReason::CsvWidth, .. }), "{:?}", items[1]);
    assert_eq!(items[1].position().line, Some(3));
    assert_eq!(raw(2), r#"{"名前":"鈴木","番号":3,"金額":7}"#);
    assert_eq!(server.paths(), ["/1", "/2"]);
}

#[tokio::test]
async fn a_mark_moves_by_rows_as_it_does_by_objects() {
    let server = Server::answering(|asked| {
        let since: u64 = asked.parameter("since").map_or(0, |since| since.parse().unwrap());
        let rows: String = (since..3).map(|n| format!("{n},x\n")).collect();
        text("text/csv", format!("id,name\n{rows}"))
    })
    .await;
    let config = r#"{"url":"http://HOST/","format":"csv","types":{"id":"integer"},
        "incremental":{"cursor":"$.id","kind":"integer","param":"since"}}"#;
    let connector = server.connector(config);
    let batches = read_all(&*connector, ReadRequest::default()).await.unwrap();
    assert_eq!(raws(&batches).len(), 3);
    assert_eq!(raws(&read_all(&*connector, after(&batches)).await.unwrap()), [r#"{"id":2,"name":"x"}"#]);
    assert_eq!(server.paths(), ["/", "/?since=2"]);
}

#[tokio::test]
async fn an_answer_of_another_format_says_so() {
    let server = Server::answering(|asked| match asked.uri.path() {
        "/page" => text("text/html", "<html>"),
        _ => json(r#"{"error":"no such export"}"#),
    })
    .await;
    let error = failure(&*server.connector(r#"{"url":"http://HOST/page","format":"csv"}"#)).await;
    assert!(error.to_string().contains("a page for people"), "{error}");
    // What looks like JSON is no CSV that anybody meant.
    let error = failure(&*server.connector(r#"{"url":"http://HOST/json","format":"csv"}"#)).await;
    assert!(error.to_string().contains("application/json") && error.to_string().contains("`format`"), "{error}");
    let lines = server.connector(r#"{"url":"http://HOST/json","format":"ndjson"}"#);
    assert_eq!(records(&*lines).await, [r#"{"error":"no such export"}"#], "JSON in one line is a line of NDJSON");
}

#[tokio::test]
async fn elements_are_records_page_by_page_whatever_the_pieces_that_they_come_in() {
    let server = Server::answering(|asked| {
        let page: u64 = asked.parameter("page").unwrap().parse().unwrap();
        let rows: String = (0..if page < 3 { 2000 } else { 0 })
            .map(|n| {
                format!("<row id='{page}.{n}'><name>a &amp; b &gt; c</name><!-- > --><at><![CDATA[<x>]]></at></row>\n")
            })
            .collect();
        text("application/xml", format!("<?xml version='1.0'?>\n<feed><title>t</title><rows>{rows}</rows></feed>"))
    })
    .await;
    let config =
        r#"{"url":"http://HOST/","format":"xml","records":"feed/rows/row","pagination":{"type":"page_number"}}"#;
    let batches = read_all(&*server.connector(config), ReadRequest::default()).await.unwrap();
    let raws = raws(&batches);
    assert_eq!((raws.len(), &*raws[2001]), (4000, r#"{"@id":"2.1","name":"a & b > c","at":"<x>"}"#));
    let last = batches.iter().flat_map(|batch| &batch.items).last().unwrap().position();
    assert_eq!((last.request, last.line, last.record), (Some(2), Some(2001), 2000));
    assert!(server.asked()[0].header("accept").unwrap().starts_with("application/xml"));
}

#[tokio::test]
async fn bad_elements_are_kept_and_a_document_that_ends_early_fails_behind_what_came() {
    let server = Server::answering(|asked| match asked.uri.path() {
        "/bad" => text("text/xml", "<r>\n<i>1</i>\n<i>&none;</i>\n<i>3</i></r>"),
        "/cut" => text("text/xml", "<r>\n<i>1</i>\n<i>2"),
        _ => json(r#"{"error":"x"}"#),
    })
    .await;
    let connector = server.connector(r#"{"url":"http://HOST/bad","format":"xml"}"#);
    let batches = read_all(&*connector, ReadRequest::default()).await.unwrap();
    let items: Vec<&Item> = batches.iter().flat_map(|batch| &batch.items).collect();
    assert!(matches!(items[1], Item::Rejected { reason: QuarantineReason::InvalidXml, .. }), "{items:?}");
    assert_eq!((items.len(), items[1].raw(), items[1].position().line), (3, &b"<i>&none;</i>"[..], Some(3)));
    let error = failure(&*server.connector(r#"{"url":"http://HOST/cut","format":"xml"}"#)).await;
    assert_eq!(error.position().unwrap().line, Some(3), "{error}");
    let error = failure(&*server.connector(r#"{"url":"http://HOST/json","format":"xml"}"#)).await;
    assert!(error.to_string().contains("not with XML"), "{error}");
}

#[tokio::test]
async fn rows_with_tabs_have_a_word_of_their_own() {
    let server = Server::answering(|_| text("text/tab-separated-values", "a\tb\n1\tx, y\n")).await;
    assert_eq!(
        records(&*server.connector(r#"{"url":"http://HOST/","format":"tsv"}"#)).await,
        [r#"{"a":"1","b":"x, y"}"#]
    );
}
