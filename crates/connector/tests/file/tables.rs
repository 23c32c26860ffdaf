//! Parquet and workbooks as pyarrow, openpyxl, odfpy and xlwt write them (the fixtures of the end-to-end test): every
//! value exactly as it was put in.

use std::fs;
use std::io::Write;
use std::path::Path;

use matome_connector::{Advice, ConnectorError, Item, ReadRequest};
use tempfile::TempDir;

use crate::compressed::gzip;
use crate::support::{connector, failure, read_all, records, shown};

fn put(root: &TempDir, name: &str) -> Vec<u8> {
    let fixtures = Path::new("../matome/tests/fixtures/files");
    let bytes = fs::read(fixtures.join(name)).unwrap();
    fs::write(root.path().join(name), &bytes).unwrap();
    bytes
}

async fn items(root: &TempDir, config: &str) -> Vec<Item> {
    let batches = read_all(&*connector(Some(root.path()), config), ReadRequest::default()).await.unwrap();
    batches.into_iter().flat_map(|batch| batch.items).collect()
}

const PARQUET: &str = concat!(
    r#"{"id":9007199254740993,"big":18446744073709551615,"price":12345678901234567890123456.789012345678,"#,
    r#""wide":1000000000000000000000000000000000000000000000000000000000000.5,"at":"2026-01-01T00:00:00.123456789Z","#,
    r#""local":"2026-01-31T09:30:00.000005","day":"2026-02-28","clock":"09:30:00.000001","ratio":0.1,"name":"東京","blob":"00ff","#,
    r#""tags":["a","b"],"where":{"lat":35.68,"deep":{"n":1}},"kv":{"k":1}}"#,
);

#[tokio::test]
async fn parquet_keeps_every_value() {
    let root = TempDir::new().unwrap();
    let bytes = put(&root, "types.parquet");
    fs::write(root.path().join("b.parquet.gz"), gzip(&bytes)).unwrap();
    for path in ["types.parquet", "b.parquet.gz"] {
        let read = items(&root, &format!(r#"{{"path":"{path}"}}"#)).await;
        assert_eq!(String::from_utf8_lossy(read[0].raw()), PARQUET, "{path}");
        let Item::Rejected { raw, detail, position, .. } = &read[1] else { panic!("NaN has no form in JSON") };
        assert!(String::from_utf8_lossy(raw).contains(r#""ratio":"NaN","name":"ソース","blob":null"#), "{detail}");
        assert_eq!((detail.english.as_str(), position.record), ("column `ratio`: NaN is not a number in JSON", 2));
    }
    put(&root, "int96.parquet");
    assert_eq!(
        records(&root, r#"{"path":"int96.parquet"}"#).await.unwrap(),
        [
            r#"{"at":"2026-01-31T09:30:00.123456"}"#,
            r#"{"at":"1969-12-31T23:59:59"}"#,
            r#"{"at":"9999-12-31T23:59:59.999999"}"#
        ]
    );
}

#[tokio::test]
async fn sheets_become_rows_with_dates_numbers_and_blanks_as_they_are() {
    let root = TempDir::new().unwrap();
    put(&root, "book.xlsx");
    let read = items(&root, r#"{"path":"book.xlsx"}"#).await;
    let lines: Vec<_> = read.iter().map(|item| item.position().line.unwrap()).collect();
    assert_eq!(lines, [2, 3, 5, 6], "a blank row is none");
    assert_eq!(
        shown(read),
        [
            r#"{"店":"東京","金額":1200.5,"日付":"2026-01-31","時刻":"2026-01-31T09:30:15","済":true,"備考":null}"#,
            r#"{"店":"大阪","金額":-3,"日付":"1900-03-01","時刻":"09:30:00","済":false,"備考":null}"#,
            r#"{"店":"ソース表","金額":0.1,"日付":null,"時刻":null,"済":null,"備考":"あ\nい"}"#,
            "schema at line 6",
        ]
    );
    for sheet in ["2", r#""二枚目""#] {
        let read = records(&root, &format!(r#"{{"path":"book.xlsx","sheet":{sheet}}}"#)).await.unwrap();
        assert_eq!(
            read,
            [r#"{"x":1}"#, r#"{"x":12345678901234570}"#],
            "a number is a double there, and so written by its program"
        );
    }
    let read = records(&root, r#"{"path":"book.xlsx","sheet":2,"header":["a"],"header_row":2}"#).await.unwrap();
    assert_eq!(read[0], r#"{"a":1}"#);
    let wrong = failure(&root, r#"{"path":"book.xlsx","sheet":"none"}"#).await;
    assert!(wrong.to_string().contains("`売上`, `二枚目`") && wrong.advice() == Advice::Fail, "{wrong}");
    for name in ["book.ods", "book.xls"] {
        put(&root, name);
        let read = records(&root, &format!(r#"{{"path":"{name}"}}"#)).await.unwrap();
        assert_eq!(read, [r#"{"店":"東京","金額":1200.5,"日付":"2026-01-31"}"#], "{name}");
    }
}

#[tokio::test]
async fn what_is_cut_off_or_something_else_fails_clearly() {
    let root = TempDir::new().unwrap();
    for name in ["types.parquet", "book.xlsx", "book.ods", "book.xls"] {
        let whole = put(&root, name);
        let format = name.rsplit_once('.').map(|(_, extension)| extension).unwrap();
        let path = format!("bad.{format}");
        let middle = whole.len() / 2;
        // What an xls ends with only fills its last sector.
        let end = if format == "xls" { middle } else { whole.len() - 9 };
        for bytes in [&whole[..middle], &whole[..end], b"{\"a\":1}\n", b""] {
            fs::write(root.path().join(&path), bytes).unwrap();
            let error = failure(&root, &format!(r#"{{"path":"{path}"}}"#)).await;
            assert_eq!(error.advice(), Advice::Fail, "{name}, {} bytes: {error}", bytes.len());
            assert!(matches!(error, ConnectorError::Document { .. } | ConnectorError::Io { .. }), "{name}: {error}");
        }
    }
}

/// An xlsx whose `sharedStrings.xml` is one long text of spaces, or an ods with a cell that is said to come very often.
fn bomb(name: &str, content: &[u8]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for (member, bytes) in [("mimetype", &b"x"[..]), (name, content)] {
        writer.start_file(member, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[tokio::test]
async fn workbooks_that_would_fill_the_memory_are_refused() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a.xlsx"), bomb("xl/sharedStrings.xml", &vec![b' '; 128 << 20])).unwrap();
    let error = failure(&root, r#"{"path":"a.xlsx"}"#).await;
    let cause = crate::support::cause(&error);
    assert!(cause.contains("200 times") || cause.contains("held in memory"), "{cause}");
    let text = "x".repeat(1000);
    let rows = format!(
        r#"<r><table:table-row table:number-rows-repeated="1000"><table:table-cell table:number-columns-repeated="1000"><p>{text}</p></table:table-cell></table:table-row></r>"#
    );
    fs::write(root.path().join("a.ods"), bomb("content.xml", rows.as_bytes())).unwrap();
    let error = failure(&root, r#"{"path":"a.ods"}"#).await;
    assert!(error.to_string().contains("held in memory"), "{error}");
}

#[tokio::test]
async fn a_read_of_rows_resumes_behind_each_checkpoint() {
    let root = TempDir::new().unwrap();
    put(&root, "book.xlsx");
    let connector = connector(Some(root.path()), r#"{"path":"book.xlsx","dedupe":"none"}"#);
    let request = ReadRequest { resume_inside: true, max_items: 1, ..ReadRequest::default() };
    let batches = read_all(&*connector, request.clone()).await.unwrap();
    let all = shown(batches.iter().flat_map(|batch| batch.items.clone()));
    let request = ReadRequest { checkpoint: Some(batches[1].checkpoint.clone()), ..request };
    let rest = read_all(&*connector, request).await.unwrap();
    assert_eq!(shown(rest.into_iter().flat_map(|batch| batch.items)), all[2..]);
}
