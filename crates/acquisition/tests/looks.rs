//! Looks at hosts that do not answer: each ends within its limit with what was not answered, where, and whether it was connected to.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use matome_acquisition::{SampleError, probe, sample};
use matome_connector::{FileRoots, HttpClient, Policy, Registry};
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

fn registry() -> Registry {
    let client = HttpClient::new(Policy::new(["127.0.0.1/32".parse().unwrap()]));
    Registry::new(FileRoots::default(), client, Clock::system())
}

fn told(error: &SampleError) -> String {
    let (words, causes) = error.told();
    let all = [words].into_iter().chain(causes);
    all.map(|words| format!("{} | {}", words.english, words.japanese)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_host_that_says_nothing_is_told_to_have_been_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let registry = registry();
    let tried = async |source_type, config: String, limit| {
        sample(&registry, source_type, &config, None, None, 5, Duration::from_secs(limit)).await.unwrap_err()
    };
    for (source_type, config, limit) in [
        (SourceType::Api, format!(r#"{{"url":"http://{address}/"}}"#), 2),
        (SourceType::Api, format!(r#"{{"url":"https://{address}/"}}"#), 2),
        (SourceType::File, format!(r#"{{"path":"http://{address}/a.csv"}}"#), 2),
        (SourceType::Websocket, format!(r#"{{"url":"ws://{address}/"}}"#), 4),
        (
            SourceType::File,
            format!(
                r#"{{"path":"sftp://u@{address}/a.csv","sftp":{{"host_key":"SHA256:{}","password":"p"}}}}"#,
                "A".repeat(43)
            ),
            2,
        ),
        (SourceType::Database, format!(r#"{{"url":"postgres://u@{address}/d","table":"t","password":"p"}}"#), 2),
    ] {
        let error = tried(source_type, config.clone(), limit).await;
        let told = told(&error);
        let is_told =
            told.contains("was connected to, but sent nothing within 1 s") || told.contains("took the connection");
        assert!(is_told && told.contains("接続しましたが"), "{config}: {told}");
        assert!(error.position().unwrap().document.contains("127.0.0.1"), "{config}: {error:?}");
    }
    let config = format!(r#"{{"url":"http://{address}/"}}"#);
    for source_type in [None, Some(SourceType::Api)] {
        let error = probe(&registry, source_type, &config, 5, Duration::from_secs(2)).await.unwrap_err();
        assert!(told(&error).contains("was connected to") && error.position().is_some(), "{}", told(&error));
    }
}

#[tokio::test]
async fn a_host_that_takes_no_connection_is_told_so() {
    // As many wait to be accepted as may, so the next ones are not answered, as behind a firewall.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    let connect = || tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address));
    while let Ok(Ok(stream)) = connect().await {
        waiting.push(stream);
    }
    for (source_type, config) in [
        (SourceType::Api, format!(r#"{{"url":"https://{address}/"}}"#)),
        (SourceType::Database, format!(r#"{{"url":"mysql://u@{address}/d","table":"t","password":"p"}}"#)),
    ] {
        let limit = Duration::from_secs(6);
        let error = sample(&registry(), source_type, &config, None, None, 5, limit).await.unwrap_err();
        let told = told(&error);
        assert!(told.contains(&format!("no connection to `{address}` within 4 s")), "{config}: {told}");
        assert!(told.contains("ファイアウォール") && error.position().is_some(), "{config}: {told}");
    }
}
