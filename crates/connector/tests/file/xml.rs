//! XML by the path of its records; nothing in it is expanded or loaded.

use std::fs;

use encoding_rs::{EUC_JP, SHIFT_JIS};
use matome_connector::{Advice, ConnectorError, Item, ReadRequest};
use tempfile::TempDir;

use crate::support::{connector, failure, read_all, records, shown};

async fn read(text: impl AsRef<[u8]>, options: &str) -> Vec<String> {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a.xml"), text).unwrap();
    records(&root, &format!(r#"{{"path":"a.xml"{options}}}"#)).await.unwrap()
}

async fn refused(text: impl AsRef<[u8]>) -> ConnectorError {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a.xml"), text).unwrap();
    let error = failure(&root, r#"{"path":"a.xml"}"#).await;
    assert_eq!(error.advice(), Advice::Fail, "{error}");
    error
}

#[tokio::test]
async fn elements_become_objects_with_attributes_text_and_children() {
    let text = r#"<?xml version="1.0"?>
<!-- a list -->
<catalog xmlns:dc="http://purl.org/dc/elements/1.1/">
  <book id="1" lang='ja'><dc:title>源氏物語</dc:title><price>1200</price><tag>a</tag><tag>b &amp; c</tag></book>
  <book id="2"><dc:title><![CDATA[<x> & y]]></dc:title><empty/><note kind="n">see&#x3042;</note></book>
  <shop>matome</shop>
</catalog>
"#;
    let book = r#"{"@id":"1","@lang":"ja","dc:title":"源氏物語","price":"1200","tag":["a","b & c"]}"#;
    let other =
        "{\"@id\":\"2\",\"dc:title\":\"<x> & y\",\"empty\":\"\",\"note\":{\"@kind\":\"n\",\"#text\":\"see\u{3042}\"}}";
    assert_eq!(read(text, "").await, [book, other, r##"{"#text":"matome"}"##]);
    assert_eq!(read(text, r#","records":"catalog/book""#).await, [book, other]);
    assert_eq!(
        read(text, r#","records":"/*/book/title""#).await,
        [r##"{"#text":"源氏物語"}"##, r##"{"#text":"<x> & y"}"##]
    );
    assert_eq!(read(text, r#","records":"*/book/dc:title""#).await.len(), 2);
    assert!(read(text, r#","records":"catalog/none""#).await.is_empty());
}

#[tokio::test]
async fn text_stays_as_it_is_and_in_pieces_between_children() {
    assert_eq!(
        read("<r><a> x\n </a><p>one <b>two</b> three</p><q>\n  <c>1</c>\n</q></r>", r#","records":"r""#).await,
        [r##"{"a":" x\n ","p":{"b":"two","#text":["one "," three"]},"q":{"c":"1"}}"##]
    );
}

#[tokio::test]
async fn positions_are_lines_and_bad_records_are_kept_alone() {
    let root = TempDir::new().unwrap();
    let deep = format!("{}{}", "<a>".repeat(200), "</a>".repeat(200));
    let text = format!("<r>\n<x>1</x>\n<x>&unknown;</x>\n<x a='1' a='2'/>\n<x>{deep}</x>\n<x>\u{e9}");
    let bytes = [text.as_bytes(), b"\xff</x>\n<x>last</x></r>"].concat();
    fs::write(root.path().join("a.xml"), bytes).unwrap();
    let batches =
        read_all(&*connector(Some(root.path()), r#"{"path":"a.xml"}"#), ReadRequest::default()).await.unwrap();
    let items: Vec<Item> = batches.into_iter().flat_map(|batch| batch.items).collect();
    assert_eq!(items[1].raw(), b"<x>&unknown;</x>");
    assert_eq!(items[4].raw(), "<x>\u{e9}".bytes().chain(*b"\xff</x>").collect::<Vec<u8>>());
    let lines: Vec<_> = items.iter().map(|item| item.position().line.unwrap()).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6, 7]);
    assert_eq!(
        shown(items),
        [
            r##"{"#text":"1"}"##,
            "invalid_xml at line 3",
            "invalid_xml at line 4",
            "depth at line 5",
            "encoding at line 6",
            r##"{"#text":"last"}"##
        ]
    );
}

#[tokio::test]
async fn entities_are_not_expanded_and_nothing_is_loaded() {
    let laughs = r#"<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;"><!ENTITY x SYSTEM "file:///etc/passwd">]>
<r><i>&b;</i><i>&x;</i><i>fine</i></r>"#;
    assert_eq!(read(laughs, "").await, ["invalid_xml at line 2", "invalid_xml at line 2", r##"{"#text":"fine"}"##]);
}

#[tokio::test]
async fn the_declaration_says_the_encoding_unless_the_config_does() {
    let text = |name: &str| format!("<?xml version=\"1.0\" encoding=\"{name}\"?><r><i>能登ソース</i></r>");
    let expected = [r##"{"#text":"能登ソース"}"##];
    assert_eq!(read(SHIFT_JIS.encode(&text("Shift_JIS")).0, "").await, expected);
    assert_eq!(read(EUC_JP.encode(&text("EUC-JP")).0, "").await, expected);
    assert_eq!(read(EUC_JP.encode(&text("UTF-8")).0, r#","encoding":"euc-jp""#).await, expected);
    for mark in ["\u{feff}", ""] {
        let utf16: Vec<u8> = format!("{mark}{}", text("UTF-16")).encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(utf16, "").await, expected, "{mark:?}");
    }
}

#[tokio::test]
async fn what_is_not_well_formed_ends_the_read_behind_what_came_before() {
    for (text, line) in
        [("<r>\n<i>1</i>\n<i>2</j>\n</r>", 3), ("<r>\n<i>1</i>\n<i>2", 3), ("", 1), ("{\"a\":1}", 1), ("<r><i", 1)]
    {
        let error = refused(text).await;
        assert_eq!(error.position().unwrap().line, Some(line), "{text}: {error}");
    }
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a.xml"), "<r><i>1</i><i>2</i><i>3</j></r>").unwrap();
    let connector = connector(Some(root.path()), r#"{"path":"a.xml"}"#);
    let mut reader = connector.read(ReadRequest::default()).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().items.len(), 2);
    assert!(reader.next().await.is_err());
}

#[tokio::test]
async fn long_records_are_rejected_alone_and_a_long_token_ends_the_read() {
    let piece = "<p>0123456789</p>";
    let long = piece.repeat((17 << 20) / piece.len());
    assert_eq!(
        read(format!("<r><i>{long}</i><i>2</i></r>"), "").await,
        ["record_limit at line 1", r##"{"#text":"2"}"##]
    );
    let error = refused(format!("<r><i>{}</i></r>", "x".repeat(17 << 20))).await;
    assert!(error.to_string().contains("16777216"), "{error}");
}

#[tokio::test]
async fn a_read_of_elements_resumes_behind_each_checkpoint() {
    let root = TempDir::new().unwrap();
    let elements: String = (0..37).map(|n| format!("<i>{n}</i>\n")).collect();
    fs::write(root.path().join("a.xml"), format!("<r>{elements}</r>")).unwrap();
    let connector = connector(Some(root.path()), r#"{"path":"a.xml","dedupe":"none"}"#);
    let request = ReadRequest { resume_inside: true, max_items: 10, ..ReadRequest::default() };
    let batches = read_all(&*connector, request.clone()).await.unwrap();
    let all = shown(batches.iter().flat_map(|batch| batch.items.clone()));
    assert_eq!(all.len(), 37);
    let request = ReadRequest { checkpoint: Some(batches[1].checkpoint.clone()), ..request };
    let rest = read_all(&*connector, request).await.unwrap();
    assert_eq!(shown(rest.into_iter().flat_map(|batch| batch.items)), all[20..]);
}
