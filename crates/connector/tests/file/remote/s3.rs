//! S3: signatures that moto checks, lists of many pages, and what a store says is wrong.

use matome_connector::{Advice, ConnectorError, PlaceFault, validate_config};
use matome_model::source::SourceType;
use serde_json::{Value, json};

use super::peer::{Asked, Peer, Reply, connector_to_all_of_here, told};
use super::stands::{S3, Stand, from_script};

async fn read(config: &Value) -> (Vec<String>, Option<ConnectorError>) {
    super::peer::read(&*connector_to_all_of_here(&config.to_string())).await
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let stand = S3::new();
    stand.put("a.csv", b"n\n1\n");
    let (id, secret) =
        from_script("MATOME_TEST_S3_POWERLESS_KEY").split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for (change, part) in [
        (json!({"secret_access_key": "wrong"}), "SignatureDoesNotMatch"),
        (json!({"access_key_id": "nobody"}), "InvalidAccessKeyId"),
        (json!({"access_key_id": id, "secret_access_key": secret}), "s3:GetObject"),
    ] {
        for name in ["a.csv", "*.csv"] {
            let mut config = stand.config(name);
            for (key, value) in change.as_object().unwrap() {
                config["s3"][key] = value.clone();
            }
            let (rows, error) = read(&config).await;
            let error = error.unwrap();
            assert!(
                rows.is_empty() && matches!(error, ConnectorError::Place { fault: PlaceFault::Auth, .. }),
                "{error:?}"
            );
            assert!(told(&error).contains(part) && error.advice() == Advice::Fail, "{}", told(&error));
        }
    }
    let mut config = stand.config("a.csv");
    config["path"] = "s3://nowhere/a.csv".into();
    let (_, error) = read(&config).await;
    assert!(told(&error.unwrap()).contains("there is no bucket `nowhere`"));
}

/// A store that answers by a function of what is asked.
async fn store(answer: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> (Peer, Value) {
    let peer = Peer::start(answer).await;
    let config = json!({"path": "s3://b/in/*.csv", "s3": {"endpoint": format!("http://{}", peer.address)}});
    (peer, config)
}

fn page(keys: &[&str], next: Option<&str>) -> Reply {
    let contents: String = keys
        .iter()
        .map(|key| format!("<Contents><Key>{key}</Key><Size>4</Size><ETag>&quot;{key}&quot;</ETag></Contents>"))
        .collect();
    let next = next
        .map(|next| format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>"));
    let body = format!("<ListBucketResult>{contents}{}</ListBucketResult>", next.unwrap_or_default());
    Reply::new("200 OK", &[], body.as_bytes())
}

#[tokio::test]
async fn a_list_is_followed_to_its_end() {
    let (peer, config) = store(|_, asked| match asked.target.as_str() {
        list if list.contains("continuation-token=t%2B1") => page(&["in/b.csv", "in/c.txt"], None),
        list if list.contains("list-type=2") => page(&["in/a.csv"], Some("t+1")),
        _ => Reply::new("200 OK", &[("etag", "\"x\""), ("content-length", "4")], b"n\n1\n"),
    })
    .await;
    let (rows, error) = read(&config).await;
    assert!(error.is_none() && rows.len() == 2, "{error:?}");
    let asked = peer.asked();
    let targets: Vec<&str> = asked.iter().map(|asked| asked.target.as_str()).collect();
    assert_eq!(targets[0], "/b/?list-type=2&encoding-type=url&prefix=in%2F&delimiter=%2F");
    assert_eq!(targets[2..], ["/b/in/a.csv", "/b/in/b.csv"]);
    // Nobody in particular asks.
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()));
}

#[tokio::test]
async fn what_a_store_says_is_wrong_has_a_remedy() {
    for (status, code, more, fault, part) in [
        ("403 Forbidden", "RequestTimeTooSkewed", "", PlaceFault::Auth, "clock"),
        ("403 Forbidden", "AccessDenied", "", PlaceFault::Auth, "not everybody"),
        (
            "400 Bad Request",
            "AuthorizationHeaderMalformed",
            "<Region>eu-west-1</Region>",
            PlaceFault::Answer,
            "to `eu-west-1`",
        ),
        ("301 Moved Permanently", "PermanentRedirect", "", PlaceFault::Answer, "`s3.region`"),
        ("404 Not Found", "NoSuchKey", "", PlaceFault::Missing, "`path`"),
    ] {
        let body = format!("<Error><Code>{code}</Code>{more}</Error>");
        let (_, mut config) = store(move |_, _| Reply::new(status, &[], body.as_bytes())).await;
        config["path"] = "s3://b/a.csv".into();
        let (_, error) = read(&config).await;
        let error = error.unwrap();
        assert!(matches!(&error, ConnectorError::Place { fault: of, .. } if *of == fault), "{code}: {error:?}");
        assert!(told(&error).contains(part), "{}", told(&error));
    }
    let (_, config) = store(|_, _| Reply::new("503 Slow Down", &[], b"<Error><Code>SlowDown</Code></Error>")).await;
    let (_, error) = read(&config).await;
    assert!(matches!(error.unwrap().advice(), Advice::Retry { .. }));
}

#[tokio::test]
async fn an_object_whose_name_an_address_can_not_have_is_not_another_one() {
    let (peer, mut config) = store(|_, _| Reply::new("200 OK", &[], b"n\n1\n")).await;
    for name in ["in/../b.csv", "./b.csv", "in/%2e%2e/b.csv"] {
        config["path"] = format!("s3://b/{name}").into();
        let (_, error) = read(&config).await;
        let is_refused = matches!(error, Some(ConnectorError::Place { fault: PlaceFault::Answer, .. }));
        assert_eq!(is_refused, !name.contains('%'), "{name}: {error:?}");
    }
    let asked: Vec<String> = peer.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(asked, ["/b/in/%252e%252e/b.csv"]);
}

#[test]
fn every_wrong_option_is_told_before_anything_is_asked() {
    for (path, s3, at, part) in [
        ("s3://", json!({}), "path", "s3://bucket/"),
        ("s3:///dir/", json!({}), "path", "s3://bucket/"),
        ("s3://b@d/a.csv", json!({}), "path", "no name of a bucket"),
        ("s3://b/[.csv", json!({}), "path", "pattern"),
        ("s3://b/a.csv", json!({"endpoint": "minio:9000"}), "s3.endpoint", "http"),
        ("s3://b/a.csv", json!({"access_key_id": "k"}), "s3.secret_access_key", "both"),
        ("s3://b/a.csv", json!({"secret_access_key": "s"}), "s3.access_key_id", "both"),
        ("s3://b/a.csv", json!({"access_key_id": "k\n", "secret_access_key": "s"}), "s3.access_key_id", "header"),
        ("s3://b/a.csv", json!({"region": "eu/west"}), "s3.region", "region"),
        ("s3://b/a.csv", json!({"style": "dns"}), "s3.style", "`path`, `host`"),
        (
            "s3://b/a.csv",
            json!({"bucket": "b"}),
            "s3.bucket",
            "Known here: `region`, `endpoint`, `style`, `access_key_id`",
        ),
    ] {
        let errors = validate_config(SourceType::File, &json!({"path": path, "s3": s3}).to_string()).unwrap_err();
        let found = errors.iter().find(|error| error.path.join(".") == at);
        let found = found.unwrap_or_else(|| panic!("{path} {s3}: {errors:?}"));
        assert!(found.message.english.contains(part), "{path} {s3}: {}", found.message);
    }
}
