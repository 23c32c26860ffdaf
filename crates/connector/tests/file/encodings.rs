//! Texts in every encoding; what means nothing in one goes to quarantine as it was, record by record.

use std::fs;

use encoding_rs::{EUC_JP, Encoding, ISO_2022_JP, SHIFT_JIS, UTF_8, WINDOWS_1252};
use matome_connector::{Item, ReadRequest};
use tempfile::TempDir;

use crate::support::{connector, read_all, records, shown};

async fn items(root: &TempDir, config: &str) -> Vec<Item> {
    let batches = read_all(&*connector(Some(root.path()), config), ReadRequest::default()).await.unwrap();
    batches.into_iter().flat_map(|batch| batch.items).collect()
}

fn utf16(text: &str, to: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(to).collect()
}

const TEXT: &str = "名前,備考\nソース表,\"能登の,\n十分\"\nポプラ,東京都千代田区の住所です。\n";
const ROWS: [&str; 2] =
    [r#"{"名前":"ソース表","備考":"能登の,\n十分"}"#, r#"{"名前":"ポプラ","備考":"東京都千代田区の住所です。"}"#];

#[tokio::test]
async fn each_encoding_is_read_declared_and_detected() {
    let root = TempDir::new().unwrap();
    let encoded = |encoding: &'static Encoding| encoding.encode(TEXT).0.into_owned();
    let cases = [
        ("utf-8", encoded(UTF_8)),
        ("shift_jis", encoded(SHIFT_JIS)),
        ("euc-jp", encoded(EUC_JP)),
        ("iso-2022-jp", encoded(ISO_2022_JP)),
        ("utf-16le", utf16(TEXT, u16::to_le_bytes)),
        ("utf-16be", utf16(TEXT, u16::to_be_bytes)),
    ];
    for (label, bytes) in cases {
        fs::write(root.path().join("a.csv"), &bytes).unwrap();
        for encoding in [label, "auto"] {
            let read = records(&root, &format!(r#"{{"path":"a.csv","encoding":"{encoding}"}}"#)).await.unwrap();
            assert_eq!(read, ROWS, "{label} as {encoding}");
        }
    }
    let mut marked = b"\xff\xfe".to_vec();
    marked.extend(utf16(TEXT, u16::to_le_bytes));
    fs::write(root.path().join("a.csv"), &marked).unwrap();
    assert_eq!(records(&root, r#"{"path":"a.csv"}"#).await.unwrap(), ROWS, "by its mark");
    fs::write(root.path().join("a.csv"), WINDOWS_1252.encode("a\n5 € für Élodie Brülé à Orléans\n").0).unwrap();
    for encoding in ["windows-1252", "latin1", "auto"] {
        let read = records(&root, &format!(r#"{{"path":"a.csv","encoding":"{encoding}"}}"#)).await.unwrap();
        assert_eq!(read, [r#"{"a":"5 € für Élodie Brülé à Orléans"}"#], "{encoding}");
    }
}

#[tokio::test]
async fn short_files_are_read_in_what_they_are() {
    let root = TempDir::new().unwrap();
    let sjis = |text: &str| SHIFT_JIS.encode(text).0.into_owned();
    let latin = |text: &str| WINDOWS_1252.encode(text).0.into_owned();
    for (bytes, read) in [
        (sjis("店,額\n東京,1"), r#"{"店":"東京","額":"1"}"#),
        (sjis("ｺｰﾄﾞ,ｶﾅ\n1,ﾔﾏﾀﾞ"), r#"{"ｺｰﾄﾞ":"1","ｶﾅ":"ﾔﾏﾀﾞ"}"#),
        (EUC_JP.encode("店,額\n東京,1").0.into_owned(), r#"{"店":"東京","額":"1"}"#),
        (ISO_2022_JP.encode("店,額\n東京,1").0.into_owned(), r#"{"店":"東京","額":"1"}"#),
        (utf16("店,額\n東京,1", u16::to_le_bytes), r#"{"店":"東京","額":"1"}"#),
        (latin("a\ncafé"), r#"{"a":"café"}"#),
        (latin("a\nnaïve;über"), r#"{"a":"naïve;über"}"#),
    ] {
        fs::write(root.path().join("a.csv"), &bytes).unwrap();
        assert_eq!(records(&root, r#"{"path":"a.csv","encoding":"auto"}"#).await.unwrap(), [read]);
    }
    let zengin = fs::read("../matome/tests/fixtures/files/zengin.txt").unwrap();
    fs::write(root.path().join("zengin.txt"), zengin).unwrap();
    let config = |encoding: &str| {
        format!(
            r#"{{"path":"zengin.txt","format":"fixed","encoding":"{encoding}","line_breaks":false,
                "columns":[{{"width":5}},{{"name":"name","width":15}},{{"width":10}}]}}"#
        )
    };
    let declared = records(&root, &config("shift_jis")).await.unwrap();
    assert_eq!(declared[0], r#"{"name":"ﾐｽﾞﾎ"}"#);
    assert_eq!(records(&root, &config("auto")).await.unwrap(), declared);
}

#[tokio::test]
async fn what_tells_the_encoding_may_come_late() {
    let root = TempDir::new().unwrap();
    let plain = "{\"a\":\"plain\"}\n".repeat(20_000);
    let (japanese, ..) = SHIFT_JIS.encode("{\"a\":\"東京都千代田区のソースは十分です。\"}\n");
    fs::write(root.path().join("a.ndjson"), [plain.as_bytes(), &japanese.repeat(9)].concat()).unwrap();
    let read = items(&root, r#"{"path":"a.ndjson","encoding":"auto"}"#).await;
    assert_eq!(read.len(), 20_009);
    assert_eq!(shown([read.last().unwrap().clone()]), [r#"{"a":"東京都千代田区のソースは十分です。"}"#]);
    // Behind the first MiB nobody looks any more; then what is no UTF-8 is kept aside, not guessed at.
    fs::write(root.path().join("a.csv"), [b"a\n", &b"plain\n".repeat(200_000)[..], b"\x93\x8c\n"].concat()).unwrap();
    let read = items(&root, r#"{"path":"a.csv","encoding":"auto"}"#).await;
    assert_eq!(read.len(), 200_001);
    assert_eq!(shown([read.last().unwrap().clone()]), ["invalid_utf8 at line 200002"]);
}

#[tokio::test]
async fn bytes_that_mean_nothing_are_kept_and_the_records_around_them_read() {
    let root = TempDir::new().unwrap();
    let le = |text: &str| utf16(text, u16::to_le_bytes);
    let lone = b"\x00\xd8";
    let bad = [le("東,"), lone.to_vec(), le("x")].concat();
    let file = [le("a,b\n1,2\n"), bad.clone(), le("\n3,4\n")].concat();
    fs::write(root.path().join("a.csv"), &file).unwrap();
    let read = items(&root, r#"{"path":"a.csv","encoding":"utf-16le"}"#).await;
    assert_eq!(read[1].raw(), bad);
    assert_eq!(shown(read), [r#"{"a":"1","b":"2"}"#, "encoding at line 3", r#"{"a":"3","b":"4"}"#]);

    let bad = [le("{\"a\":\""), lone.to_vec(), le("\"}")].concat();
    let file = [le("{\"a\":1}\n"), bad.clone(), le("\n{\"a\":3}\n")].concat();
    fs::write(root.path().join("a.ndjson"), &file).unwrap();
    let read = items(&root, r#"{"path":"a.ndjson","encoding":"utf-16le"}"#).await;
    assert_eq!(read[1].raw(), bad);
    assert_eq!(shown(read), [r#"{"a":1}"#, "encoding at line 2", r#"{"a":3}"#]);

    // In a document, and in an encoding where a delimiter may be half of a character.
    let (before, ..) = SHIFT_JIS.encode("[{\"a\":\"ポ\"},{\"a\":\"");
    let (behind, ..) = SHIFT_JIS.encode("\"},{\"a\":\"表\"}]");
    fs::write(root.path().join("a.json"), [&before[..], b"\x81\xff", &behind].concat()).unwrap();
    let read = items(&root, r#"{"path":"a.json","encoding":"shift_jis"}"#).await;
    assert_eq!(read[1].raw(), b"{\"a\":\"\x81\xff\"}");
    assert_eq!(shown(read), [r#"{"a":"ポ"}"#, "encoding at line 0", r#"{"a":"表"}"#]);
    let (rows, ..) = SHIFT_JIS.encode("a|b\nポ|1\n");
    fs::write(root.path().join("a.csv"), [&rows[..], b"\x81\xff|2\n", b"x|3\n"].concat()).unwrap();
    let read = items(&root, r#"{"path":"a.csv","encoding":"shift_jis","delimiter":"|"}"#).await;
    assert_eq!(read[1].raw(), b"\x81\xff|2");
    assert_eq!(shown(read), [r#"{"a":"ポ","b":"1"}"#, "encoding at line 3", r#"{"a":"x","b":"3"}"#]);
    let (rows, ..) = ISO_2022_JP.encode("a,b\n東京,1\n");
    fs::write(root.path().join("a.csv"), [&rows[..], b"\x80,2\nx,3\n"].concat()).unwrap();
    let read = items(&root, r#"{"path":"a.csv","encoding":"iso-2022-jp"}"#).await;
    assert_eq!(shown(read), [r#"{"a":"東京","b":"1"}"#, "encoding at line 3", r#"{"a":"x","b":"3"}"#]);
}
