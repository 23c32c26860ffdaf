//! Stores of objects that nobody reaches, that are not who they should be, or that send what can not be read: the same of each kind.

use matome_connector::{Advice, Connector, ConnectorError, PlaceFault, ReadRequest};
use matome_model::source::SourceType;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::peer::{Asked, Document, End, Peer, Reply, connector_to_all_of_here, reads_until_cancelled, told};
use crate::compressed::gzip;
use crate::reading::read_until;
use crate::support::shown;
use crate::tls;

/// A kind of store, whose objects are those of the bucket `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    S3,
    Gcs,
    Azure,
}

const KINDS: [Kind; 3] = [Kind::S3, Kind::Gcs, Kind::Azure];

impl Kind {
    fn path(self, name: &str) -> String {
        let scheme = match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        };
        format!("{scheme}://b/{name}")
    }

    /// What its endpoint is called.
    fn option(self) -> &'static str {
        match self {
            Self::S3 => "s3.endpoint",
            Self::Gcs => "gcs.endpoint",
            Self::Azure => "azure.endpoint",
        }
    }

    fn config(self, endpoint: &str, name: &str) -> Value {
        let path = self.path(name);
        match self {
            Self::S3 => json!({"path": path, "s3": {"endpoint": endpoint}}),
            Self::Gcs => json!({"path": path, "gcs": {"endpoint": endpoint}}),
            Self::Azure => json!({"path": path, "azure": {"account": "a", "endpoint": endpoint}}),
        }
    }

    /// A page of its list.
    fn page(self, names: &[&str], next: Option<&str>) -> Reply {
        let all = |one: fn(&str) -> String| names.iter().map(|name| one(name)).collect::<String>();
        let body = match self {
            Self::S3 => {
                let next = next.map(|next| {
                    format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>")
                });
                let objects = all(|name| format!("<Contents><Key>{name}</Key><Size>4</Size></Contents>"));
                format!("<ListBucketResult>{objects}{}</ListBucketResult>", next.unwrap_or_default())
            }
            Self::Gcs => {
                let items: Vec<Value> = names.iter().map(|name| json!({"name": name, "size": "4"})).collect();
                json!({"items": items, "nextPageToken": next}).to_string()
            }
            Self::Azure => {
                let next = next.map(|next| format!("<NextMarker>{next}</NextMarker>")).unwrap_or_default();
                let blobs = all(|name| format!("<Blob><Name>{name}</Name></Blob>"));
                format!("<EnumerationResults><Blobs>{blobs}</Blobs>{next}</EnumerationResults>")
            }
        };
        Reply::new("200 OK", &[], body.as_bytes())
    }
}

async fn read(config: &Value) -> (Vec<String>, Option<ConnectorError>) {
    super::peer::read(&*connector_to_all_of_here(&config.to_string())).await
}

/// One object, and a pattern, whose list is asked for first.
const NAMES: [&str; 2] = ["a.ndjson", "*.ndjson"];

#[tokio::test]
async fn a_store_that_is_unknown_closed_or_silent_is_told_and_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (host, english, japanese) in [
        ("nowhere.invalid".to_owned(), "`nowhere.invalid` can not be resolved", "アドレスを調べられません"),
        (closed.to_string(), "refused", "要求に失敗しました"),
        (silent.to_string(), "was connected to, but sent nothing within 1 s", "に接続しましたが"),
    ] {
        for (kind, name) in KINDS.into_iter().flat_map(|kind| NAMES.map(|name| (kind, name))) {
            let mut config = kind.config(&format!("http://{host}"), name);
            config["timeout_secs"] = 1.into();
            let (rows, error) = read(&config).await;
            let error = error.unwrap();
            let told = told(&error);
            assert!(rows.is_empty() && told.contains(english) && told.contains(japanese), "{kind:?}, {name}: {told}");
            assert_eq!(&*error.position().unwrap().document, kind.path(name));
            assert!(error.advice() == Advice::Retry { after: None } && error.remedy().is_some(), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_store_is_believed_only_with_a_certificate_for_its_name() {
    let answer = || tls::answer("200 OK\r\netag: \"1\"", "{\"n\":1}\n");
    let itself = tls::serve("one", None, answer()).await;
    let expired = tls::serve("expired", None, answer()).await;
    let open = |config: &Value| tls::connector(SourceType::File, &config.to_string()).unwrap();
    for (kind, name) in KINDS.into_iter().flat_map(|kind| NAMES.map(|name| (kind, name))) {
        for (host, port, tls, part) in [
            (
                "127.0.0.1",
                itself,
                json!({}),
                "it is signed by itself; if it is the right one, give it as `tls.ca_file`",
            ),
            ("127.0.0.2", itself, json!({"ca_file": "one.crt"}), "for another name"),
            ("127.0.0.1", expired, json!({"ca_file": "ca.crt"}), "has expired (2001-01-01); have it renewed"),
        ] {
            let mut config = kind.config(&format!("https://{host}:{port}"), name);
            config["tls"] = tls;
            let (rows, error) = super::peer::read(&*open(&config)).await;
            let error = error.unwrap();
            assert!(rows.is_empty() && told(&error).contains(part), "{kind:?}, {name}: {}", told(&error));
            assert!(error.is_of_tls() && error.advice() == Advice::Fail, "{error:?}");
            assert_eq!(&*error.position().unwrap().document, kind.path(name));
        }
    }
    for kind in KINDS {
        let mut config = kind.config(&format!("https://localhost:{itself}"), "a.ndjson");
        config["tls"] = json!({"ca_file": "one.crt"});
        let (rows, error) = super::peer::read(&*open(&config)).await;
        assert!(error.is_none() && rows == [r#"{"n":1}"#], "{kind:?}: {error:?}");
    }
}

/// A page of S3 with many objects, and always another one behind it.
fn many(number: usize) -> Reply {
    let contents = "<Contents/>".repeat(100_000);
    let next = format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{number}</NextContinuationToken>");
    Reply::new("200 OK", &[], format!("<ListBucketResult>{contents}{next}</ListBucketResult>").as_bytes())
}

/// What is answered to the request of this number for a page of a list.
type Page = fn(Kind, usize) -> Reply;

#[tokio::test]
async fn a_list_that_makes_no_sense_ends_the_read() {
    let cases: [(Page, PlaceFault, &str); 6] = [
        (|kind, _| kind.page(&["a.ndjson"], Some("same")), PlaceFault::Answer, "in a circle"),
        (|_, _| Reply::new("200 OK", &[], b"<html></html>"), PlaceFault::Answer, "endpoint"),
        (
            |kind, _| match kind {
                Kind::S3 => Reply::new("200 OK", &[], b"<ListBucketResult>"),
                Kind::Gcs => Reply::new("200 OK", &[], b"{\"items\":[{\"name\":\"a.ndjson\""),
                Kind::Azure => Reply::new("200 OK", &[], b"<EnumerationResults><Blobs>"),
            },
            PlaceFault::Answer,
            "",
        ),
        (|_, _| Reply::new("200 OK", &[], &vec![b' '; 17 << 20]), PlaceFault::TooLong, "16777216"),
        (|kind, _| kind.page(&["b.txt"], None), PlaceFault::Missing, "matches `path`"),
        // Many objects that nobody asked for, and always more behind them.
        (|_, number| many(number), PlaceFault::TooLong, "1000000"),
    ];
    for (kind, (page, fault, part)) in KINDS.into_iter().flat_map(|kind| cases.map(|case| (kind, case))) {
        // A million of them takes its time, and is counted in one place for all kinds.
        if part == "1000000" && kind != Kind::S3 {
            continue;
        }
        let peer = Peer::start(move |number, _| page(kind, number)).await;
        let (rows, error) = read(&kind.config(&format!("http://{}", peer.address), "*.ndjson")).await;
        let error = error.unwrap();
        assert!(rows.is_empty(), "{kind:?}: {rows:?}");
        assert!(
            matches!(&error, ConnectorError::Place { fault: of, .. } if *of == fault),
            "{kind:?}, {part}: {error:?}"
        );
        let part = if part == "endpoint" { kind.option() } else { part };
        assert!(told(&error).contains(part) && told(&error).contains(&kind.path("*.ndjson")), "{}", told(&error));
        assert_eq!(error.advice(), Advice::Fail);
    }
}

#[tokio::test]
async fn an_object_of_another_format_is_told_and_a_bad_record_is_kept() {
    let packed = gzip(b"{\"n\":1}\n{\"n\":2}\n");
    let cut = packed[..packed.len() - 9].to_vec();
    for kind in KINDS {
        let cut = cut.clone();
        let peer = Peer::start(move |_, asked| {
            let body = match asked.target.split('?').next().unwrap() {
                name if name.ends_with("lines.ndjson") => b"{\"n\":1}\nno record\n{\"n\":3}\n".to_vec(),
                name if name.ends_with("packed.ndjson.gz") => cut.clone(),
                _ => b"<!doctype html><p>Sign in".to_vec(),
            };
            Document { body, etag: "\"1\"" }.answer(asked)
        })
        .await;
        let config = |name: &str| kind.config(&format!("http://{}", peer.address), name);
        let (rows, error) = read(&config("lines.ndjson")).await;
        assert!(error.is_none() && rows == [r#"{"n":1}"#, "no record", r#"{"n":3}"#], "{rows:?} {error:?}");
        for name in ["page.json", "page.parquet", "page.xlsx", "page.csv.gz", "packed.ndjson.gz"] {
            let mut config = config(name);
            if name == "page.csv.gz" {
                config["compression"] = "gzip".into();
            }
            let error = read(&config).await.1.unwrap();
            let text = told(&error);
            assert!(text.contains(&kind.path(name)), "{kind:?}: {text}");
            assert!(error.advice() == Advice::Fail && error.remedy().is_some(), "{kind:?}, {name}: {text}");
        }
    }
}

/// Long enough for several pieces.
const ROWS: usize = 40_000;

fn body(word: &str) -> Vec<u8> {
    (0..ROWS).map(|n| format!("{{\"{word}\":{n}}}\n")).collect::<String>().into_bytes()
}

/// A read that goes on inside of an object.
fn request(checkpoint: Option<Box<serde_json::value::RawValue>>) -> ReadRequest {
    ReadRequest { checkpoint, resume_inside: true, ..ReadRequest::default() }
}

fn open(kind: Kind, peer: &Peer) -> Box<dyn Connector> {
    let mut config = kind.config(&format!("http://{}", peer.address), "a.ndjson");
    config["dedupe"] = "none".into();
    connector_to_all_of_here(&config.to_string())
}

#[tokio::test]
async fn an_object_that_is_cut_off_is_gone_on_with_and_one_that_is_written_anew_is_told() {
    let (old, new) = (Document { body: body("old"), etag: "\"1\"" }, Document { body: body("new"), etag: "\"2\"" });
    for kind in KINDS {
        // Cut off in this read as often as it may be, and whole in the next.
        let of = old.clone();
        let cut = move |number: usize, asked: &Asked| match number {
            0..6 => of.answer(asked).cut(50_000, End::Close),
            _ => of.answer(asked),
        };
        let peer = Peer::start(cut).await;
        let connector = open(kind, &peer);
        let (first, error) = read_until(&*connector, request(None)).await;
        let error = error.unwrap();
        assert!(error.advice() == Advice::Retry { after: None } && error.remedy().is_some(), "{}", told(&error));
        assert!(told(&error).contains(&kind.path("a.ndjson")), "{}", told(&error));
        let checkpoint = first.last().map(|batch| batch.checkpoint.clone());
        let (second, error) = read_until(&*connector, request(checkpoint)).await;
        assert!(error.is_none(), "{kind:?}: {}", told(&error.unwrap()));
        let both = shown(first.into_iter().chain(second).flat_map(|batch| batch.items));
        assert!(
            both.len() == ROWS && both[ROWS - 1] == format!("{{\"old\":{}}}", ROWS - 1),
            "{kind:?}: {}",
            both.len()
        );

        // Another one takes its place, in a store that compares versions and in one that does not.
        for knows_conditions in [true, false] {
            let peer = Peer::replaced(old.clone(), new.clone(), knows_conditions).await;
            let connector = open(kind, &peer);
            let (first, error) = read_until(&*connector, request(None)).await;
            let error = error.unwrap();
            assert!(matches!(error, ConnectorError::Changed { .. }), "{kind:?}: {error:?}");
            assert!(told(&error).contains(&kind.path("a.ndjson")) && told(&error).contains("rename them"));
            let checkpoint = first.last().map(|batch| batch.checkpoint.clone());
            let came = shown(first.into_iter().flat_map(|batch| batch.items));
            assert!(came.len() < ROWS && came.iter().all(|row| row.starts_with("{\"old\"")), "{kind:?}");
            let (anew, error) = read_until(&*connector, request(checkpoint)).await;
            assert!(error.is_none(), "{kind:?}: {}", told(&error.unwrap()));
            let anew = shown(anew.into_iter().flat_map(|batch| batch.items));
            assert!(anew.len() == ROWS && anew.iter().all(|row| row.starts_with("{\"new\"")), "{kind:?}");
        }
    }
}

#[tokio::test]
async fn an_object_without_end_or_over_the_limit_is_not_held() {
    for kind in KINDS {
        let lines = b"{\"n\":1}\n".repeat(8192);
        let peer = Peer::start(move |_, _| Reply::new("200 OK", &[], &lines).cut(64 * 1024, End::Endless)).await;
        let connector = open(kind, &peer);
        reads_until_cancelled(&*connector).await;
        peer.gone.notified().await;
        for (name, length, part) in
            [("a.parquet", "4294967297", "4294967296"), ("a.csv", "274877906945", "274877906944")]
        {
            let peer = Peer::start(move |_, _| {
                Reply::new("200 OK", &[("content-length", length), ("etag", "\"1\"")], &[b'P'; 64])
            })
            .await;
            let (rows, error) = read(&kind.config(&format!("http://{}", peer.address), name)).await;
            let error = error.unwrap();
            let is_of_it = matches!(
                error,
                ConnectorError::Place { fault: PlaceFault::TooLong, .. } | ConnectorError::FileTooLarge { .. }
            );
            assert!(rows.is_empty() && is_of_it, "{kind:?}: {error:?}");
            assert!(told(&error).contains(part) && told(&error).contains("split it"), "{}", told(&error));
            assert_eq!(error.advice(), Advice::Fail);
        }
    }
}
