//! Files of OpenSSH and of asyncssh, and of servers that are not what they should be.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use matome_connector::{Advice, ConnectorError, PlaceFault, ReadRequest, validate_config};
use matome_model::source::SourceType;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::peer::{Peer, Reply, connector, connector_to_all_of_here, reads_until_cancelled, told};
use super::stands::{Sftp, Stand, from_script};
use crate::reading::read_until;

async fn read(config: &Value) -> (Vec<String>, Option<ConnectorError>) {
    super::peer::read(&*connector_to_all_of_here(&config.to_string())).await
}

#[tokio::test]
async fn a_server_with_another_key_is_not_talked_to() {
    let stand = Sftp::new();
    stand.put("a.csv", b"n\n1\n");
    let mut config = stand.config("a.csv");
    let known = config["sftp"]["host_key"].as_str().unwrap().to_owned();
    config["sftp"]["host_key"] = format!("SHA256:{}", "A".repeat(43)).into();
    let error = read(&config).await.1.unwrap();
    assert!(matches!(error, ConnectorError::Place { fault: PlaceFault::Identity, .. }), "{error:?}");
    assert!(told(&error).contains(&known), "the one that was seen: {}", told(&error));
    assert_eq!(error.advice(), Advice::Fail);
}

#[tokio::test]
async fn who_may_not_in_is_told() {
    let stand = Sftp::new();
    stand.put("a.csv", b"n\n1\n");
    let right = stand.config("a.csv");
    let (mut other_key, mut other_user, mut password) = (right.clone(), right.clone(), right.clone());
    other_key["sftp"]["private_key"] = from_script("MATOME_TEST_SFTP_OTHER_KEY").into();
    let path = right["path"].as_str().unwrap();
    other_user["path"] = format!("sftp://nobody-else@{}", path.split_once('@').unwrap().1).into();
    password["sftp"] = json!({"host_key": right["sftp"]["host_key"], "password": "s3cret"});
    for config in [other_key, other_user, password] {
        let error = read(&config).await.1.unwrap();
        assert!(matches!(error, ConnectorError::Place { fault: PlaceFault::Auth, .. }), "{error:?}");
        assert!(told(&error).contains("check the user") && !told(&error).contains("s3cret"), "{}", told(&error));
    }
}

/// A key in another form, by `ssh-keygen -p`.
fn formed(key: &str, options: &[&str]) -> String {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, format!("{}\n", key.trim_end())).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut command = std::process::Command::new("ssh-keygen");
    let done = command.args(["-q", "-p", "-P", ""]).args(options).arg("-f").arg(&path).status().unwrap();
    assert!(done.success());
    std::fs::read_to_string(&path).unwrap()
}

#[tokio::test]
async fn rsa_keys_of_users_are_used_in_every_form() {
    let stand = Sftp::new();
    stand.put("a.csv", b"n\n1\n");
    let key = from_script("MATOME_TEST_SFTP_RSA_KEY");
    for (key, passphrase) in [
        (key.clone(), None),
        (formed(&key, &["-N", "", "-m", "PEM"]), None),
        (formed(&key, &["-N", "", "-m", "PKCS8"]), None),
        (formed(&key, &["-N", "sesame"]), Some("sesame")),
    ] {
        let first = key.lines().next().unwrap().to_owned();
        let mut config = stand.config("a.csv");
        config["sftp"]["private_key"] = key.into();
        if let Some(passphrase) = passphrase {
            config["sftp"]["passphrase"] = passphrase.into();
        }
        let (rows, error) = read(&config).await;
        assert!(error.is_none() && rows == [r#"{"n":"1"}"#], "{first}: {error:?}");
    }
}

#[tokio::test]
async fn a_key_may_be_encrypted_and_a_password_asked_for() {
    let stand = Sftp::new();
    stand.put("a.csv", b"n\n1\n");
    let mut config = stand.config("a.csv");
    config["sftp"]["private_key"] = from_script("MATOME_TEST_SFTP_ENCRYPTED_KEY").into();
    config["sftp"]["passphrase"] = "sesame".into();
    let (rows, error) = read(&config).await;
    assert!(error.is_none() && rows == [r#"{"n":"1"}"#], "{error:?}");
    let folder = stand.path("").trim_end_matches('/').rsplit('/').next().unwrap().to_owned();
    for (user, password, is_right) in [("told", "s3cret", true), ("asked", "s3cret", true), ("asked", "other", false)] {
        let server = from_script("MATOME_TEST_SFTP_PASSWORD_URL");
        let sftp = json!({"host_key": from_script("MATOME_TEST_SFTP_PASSWORD_HOST_KEY"), "password": password});
        let config = json!({"path": format!("sftp://{user}@{server}/{folder}/*.csv"), "sftp": sftp});
        let (rows, error) = read(&config).await;
        match is_right {
            true => assert!(error.is_none() && rows == [r#"{"n":"1"}"#], "{user}: {error:?}"),
            false => {
                let is_refused = matches!(error, Some(ConnectorError::Place { fault: PlaceFault::Auth, .. }));
                assert!(is_refused, "{error:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_grows_gives_what_was_added() {
    let stand = Sftp::new();
    stand.put("a.ndjson", b"{\"n\":1}\n{\"n\":2}\n");
    let mut config = stand.config("*.ndjson");
    config["dedupe"] = "none".into();
    let connector = connector_to_all_of_here(&config.to_string());
    let (first, error) = read_until(&*connector, ReadRequest { resume_inside: true, ..ReadRequest::default() }).await;
    assert!(error.is_none(), "{error:?}");
    stand.put("a.ndjson", b"{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
    let checkpoint = Some(first.last().unwrap().checkpoint.clone());
    let request = ReadRequest { checkpoint, resume_inside: true, ..ReadRequest::default() };
    let (second, error) = read_until(&*connector, request).await;
    assert!(error.is_none(), "{error:?}");
    let items = crate::support::shown(second.into_iter().flat_map(|batch| batch.items));
    assert_eq!(items, [r#"{"n":3}"#]);
}

#[tokio::test]
async fn a_longer_file_under_the_same_name_is_not_gone_on_with_inside() {
    let text = |word: &str, lines: usize| (0..lines).map(|n| format!("{{\"{word}\":{n}}}\n")).collect::<String>();
    let stand = Sftp::new();
    stand.put("a.ndjson", text("old", 20_000).as_bytes());
    let mut config = stand.config("a.ndjson");
    config["dedupe"] = "none".into();
    let connector = connector_to_all_of_here(&config.to_string());
    let request = |checkpoint| ReadRequest { checkpoint, resume_inside: true, ..ReadRequest::default() };
    let mut reader = connector.read(request(None)).await.unwrap();
    for _ in 0..10 {
        reader.next().await.unwrap().unwrap();
    }
    let stopped = Some(reader.next().await.unwrap().unwrap().checkpoint);
    drop(reader);
    stand.put("a.ndjson", text("old", 20_001).as_bytes());
    let (rest, error) = read_until(&*connector, request(stopped.clone())).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(rest.iter().map(|batch| batch.items.len()).sum::<usize>(), 9001, "it only grew");
    stand.put("a.ndjson", text("new", 20_002).as_bytes());
    let (mut none, error) = read_until(&*connector, request(stopped)).await;
    assert!(matches!(error, Some(ConnectorError::Changed { records: 11_000, .. })), "{error:?}");
    assert!(none.iter().all(|batch| batch.items.is_empty()));
    let (anew, error) = read_until(&*connector, request(none.pop().map(|batch| batch.checkpoint))).await;
    assert!(error.is_none(), "{error:?}");
    let items = crate::support::shown(anew.into_iter().flat_map(|batch| batch.items));
    assert_eq!((items.len(), items[0].as_str()), (20_002, r#"{"new":0}"#));
}

#[tokio::test]
async fn a_directory_needs_no_slash_at_its_end() {
    let stand = Sftp::new();
    stand.put("dir.csv/a.csv", b"n\n1\n");
    let (rows, error) = read(&stand.config("dir.csv")).await;
    assert!(error.is_none() && rows == [r#"{"n":"1"}"#], "{error:?}");
}

#[tokio::test]
async fn what_is_no_file_or_may_not_be_read_is_told() {
    let stand = Sftp::new();
    let made = std::process::Command::new("mkfifo").arg(stand.path("pipe.csv")).status().unwrap();
    assert!(made.success());
    let error = read(&stand.config("pipe.csv")).await.1.unwrap();
    assert!(matches!(error, ConnectorError::NotRegular { .. }), "{error:?}");
    stand.put("secret.csv", b"n\n1\n");
    fs::set_permissions(stand.path("secret.csv"), fs::Permissions::from_mode(0o0)).unwrap();
    let error = read(&stand.config("secret.csv")).await.1.unwrap();
    assert!(matches!(error, ConnectorError::Place { fault: PlaceFault::Auth, .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_of_another_format_is_told_and_a_bad_record_is_kept() {
    let stand = Sftp::new();
    stand.put("lines.ndjson", b"{\"n\":1}\nno record\n{\"n\":3}\n");
    let (rows, error) = read(&stand.config("lines.ndjson")).await;
    assert!(error.is_none() && rows == [r#"{"n":1}"#, "no record", r#"{"n":3}"#], "{rows:?} {error:?}");
    for name in ["page.json", "page.parquet", "page.xlsx"] {
        stand.put(name, b"<!doctype html><p>Sign in");
        let error = read(&stand.config(name)).await.1.unwrap();
        // Neither who asks nor the port is part of a name.
        assert!(told(&error).contains(&format!("`sftp://127.0.0.1{}`", stand.path(name))), "{}", told(&error));
        assert!(error.advice() == Advice::Fail && error.remedy().is_some(), "{name}: {}", told(&error));
    }
}

#[tokio::test]
async fn a_file_over_the_limit_is_not_fetched() {
    let stand = Sftp::new();
    for (name, size) in [("a.parquet", 4_294_967_296), ("a.csv", 274_877_906_944)] {
        stand.put(name, b"");
        // Nothing but a hole.
        fs::File::options().write(true).open(stand.path(name)).unwrap().set_len(size + 1).unwrap();
        let (rows, error) = read(&stand.config(name)).await;
        let error = error.unwrap();
        let is_of_it = matches!(
            error,
            ConnectorError::Place { fault: PlaceFault::TooLong, .. } | ConnectorError::FileTooLarge { .. }
        );
        assert!(rows.is_empty() && is_of_it, "{error:?}");
        assert!(told(&error).contains(&size.to_string()) && told(&error).contains("split it"), "{}", told(&error));
        assert_eq!(error.advice(), Advice::Fail);
    }
}

#[tokio::test]
async fn a_file_without_an_end_is_read_page_by_page_until_nobody_wants_more() {
    let server = from_script("MATOME_TEST_SFTP_PASSWORD_URL");
    let sftp = json!({"host_key": from_script("MATOME_TEST_SFTP_PASSWORD_HOST_KEY"), "password": "s3cret"});
    let config = json!({"path": format!("sftp://told@{server}/endless.ndjson"), "sftp": sftp});
    let connector = connector_to_all_of_here(&config.to_string());
    reads_until_cancelled(&*connector).await;
}

#[tokio::test]
async fn what_answers_is_an_ssh_server_that_may_be_reached() {
    let config = |port: u16| {
        let sftp = json!({"host_key": format!("SHA256:{}", "A".repeat(43)), "password": "p"});
        json!({"path": format!("sftp://u@127.0.0.1:{port}/a.csv"), "timeout_secs": 1, "sftp": sftp})
    };
    let web = Peer::start(|_, _| Reply::new("200 OK", &[], b"")).await;
    let error = read(&config(web.address.port())).await.1.unwrap();
    assert!(matches!(error, ConnectorError::Place { .. }), "{error:?}");
    let (_, error) = super::peer::read(&*connector(&[], &config(web.address.port()).to_string())).await;
    assert!(error.as_ref().unwrap().is_denied(), "{error:?}");
    // One that takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = read(&config(silent.local_addr().unwrap().port())).await.1.unwrap();
    assert!(matches!(error, ConnectorError::Place { fault: PlaceFault::Lost, .. }), "{error:?}");
    assert!(told(&error).contains("was connected to, but sent nothing within 1 s"), "{}", told(&error));
    assert!(error.position().is_some() && error.remedy().is_some());
    assert_eq!(error.advice(), Advice::Retry { after: None });
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = read(&config(closed)).await.1.unwrap();
    assert!(matches!(error, ConnectorError::Unreached { .. }) && !error.is_denied(), "{error:?}");
    assert_eq!(error.advice(), Advice::Retry { after: None });
    let mut unknown = config(22);
    unknown["path"] = "sftp://u@nowhere.invalid/a.csv".into();
    let error = read(&unknown).await.1.unwrap();
    assert!(told(&error).contains("`nowhere.invalid` can not be resolved"), "{}", told(&error));
    assert!(error.remedy().is_some() && error.advice() == Advice::Retry { after: None }, "{error:?}");
}

#[test]
fn every_wrong_option_is_told_before_anything_is_dialled() {
    let host_key = format!("SHA256:{}", "A".repeat(43));
    let good = json!({"host_key": host_key, "password": "p"});
    for (path, sftp, at, part) in [
        ("sftp://h/a.csv", good.clone(), "path", "USER@HOST"),
        ("sftp://u@h", good.clone(), "path", "USER@HOST"),
        ("sftp://@h/dir", good.clone(), "path", "USER@HOST"),
        ("sftp://u:p@h/a.csv", good.clone(), "path", "sftp.password"),
        ("sftp://u@h/../a.csv", good.clone(), "path", "`..`"),
        ("sftp://u@h/[.csv", good.clone(), "path", "pattern"),
        ("sftp://u@h/a.csv", json!({"password": "p"}), "sftp.host_key", "required"),
        ("sftp://u@h/a.csv", json!({"host_key": "md5:00", "password": "p"}), "sftp.host_key", "ssh-keyscan"),
        ("sftp://u@h/a.csv", json!({"host_key": host_key}), "sftp", "`private_key`"),
        ("sftp://u@h/a.csv", json!({"host_key": host_key, "private_key": "x"}), "sftp.private_key", "no private key"),
        ("sftp://u@h/a.csv", json!({"host_key": host_key, "password": "p", "port": 22}), "sftp.port", "Known here"),
    ] {
        let errors = validate_config(SourceType::File, &json!({"path": path, "sftp": sftp}).to_string()).unwrap_err();
        let found = errors.iter().find(|error| error.path.join(".") == at);
        let found = found.unwrap_or_else(|| panic!("{path} {sftp}: {errors:?}"));
        assert!(found.message.english.contains(part), "{path} {sftp}: {}", found.message);
    }
    let errors = validate_config(SourceType::File, r#"{"path":"sftp://u@h/a.csv"}"#).unwrap_err();
    assert_eq!(errors[0].path, ["sftp"]);
}

/// What a way to a server does with a connection.
#[derive(Clone, Copy)]
enum Way {
    /// Ends it once so many bytes came from the server.
    Cuts(usize),
    /// Lets nothing through any more from then on, and does not say so.
    Hangs(usize),
}

/// A way to the server of a stand that treats its first connections as `ways` says and lets all others be: its port, and how many came.
async fn way_to(ways: Vec<Way>) -> (u16, Arc<AtomicUsize>) {
    let server = from_script("MATOME_TEST_SFTP_URL").split_once('@').unwrap().1.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let way = ways.get(counted.fetch_add(1, Ordering::SeqCst)).copied();
            let far = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move {
                let ((mut from_near, mut to_near), (from_far, mut to_far)) = (near.into_split(), far.into_split());
                let forth = tokio::spawn(async move { tokio::io::copy(&mut from_near, &mut to_far).await });
                let (limit, hangs) = match way {
                    None => (u64::MAX, false),
                    Some(Way::Cuts(bytes)) => (bytes as u64, false),
                    Some(Way::Hangs(bytes)) => (bytes as u64, true),
                };
                let mut some = from_far.take(limit);
                let _ = tokio::io::copy(&mut some, &mut to_near).await;
                if hangs {
                    std::future::pending::<()>().await;
                }
                forth.abort();
            });
        }
    });
    (port, count)
}

/// A file of some MiB, and the config that reads it over a way.
fn large(stand: &Sftp, port: u16, options: &Value) -> (Vec<String>, Value) {
    let rows: Vec<String> = (0..60_000).map(|n| format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(40))).collect();
    stand.put("large.ndjson", format!("{}\n", rows.join("\n")).as_bytes());
    let mut config = stand.config("large.ndjson");
    let (before, after) = config["path"].as_str().unwrap().split_once("127.0.0.1:").unwrap();
    config["path"] = format!("{before}127.0.0.1:{port}/{}", after.split_once('/').unwrap().1).into();
    config.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    (rows, config)
}

#[tokio::test]
async fn a_file_whose_connection_breaks_off_goes_on_where_it_was() {
    let stand = Sftp::new();
    for ways in [
        vec![Way::Cuts(1_000_000), Way::Cuts(300_000), Way::Cuts(1_500_001)],
        vec![Way::Hangs(1_000_000), Way::Cuts(700_000)],
    ] {
        let broken = ways.len();
        let (port, connections) = way_to(ways).await;
        let (rows, config) = large(&stand, port, &json!({"timeout_secs": 2}));
        let (read, error) = read(&config).await;
        assert!(error.is_none(), "{}", told(&error.unwrap()));
        assert!(read == rows, "{} of {} rows", read.len(), rows.len());
        assert_eq!(connections.load(Ordering::SeqCst), broken + 1);
    }
}

#[tokio::test]
async fn what_breaks_off_too_often_is_gone_on_with_by_the_next_read() {
    let stand = Sftp::new();
    let (port, connections) = way_to(vec![Way::Cuts(400_000); 6]).await;
    let (rows, config) = large(&stand, port, &json!({"dedupe": "none"}));
    let connector = connector_to_all_of_here(&config.to_string());
    let request = |checkpoint| ReadRequest { checkpoint, resume_inside: true, ..ReadRequest::default() };
    let (first, error) = read_until(&*connector, request(None)).await;
    let error = error.unwrap();
    assert_eq!(error.advice(), Advice::Retry { after: None }, "{}", told(&error));
    assert_eq!(connections.load(Ordering::SeqCst), 6, "the first one and five more");
    let checkpoint = first.last().unwrap().checkpoint.clone();
    let (second, error) = read_until(&*connector, request(Some(checkpoint))).await;
    assert!(error.is_none(), "{}", told(&error.unwrap()));
    let items = first.into_iter().chain(second).flat_map(|batch| batch.items);
    assert!(crate::support::shown(items) == rows);
}
