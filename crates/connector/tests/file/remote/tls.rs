//! A document over TLS, with certificates that the source names.

use matome_connector::{Advice, validate_config};
use matome_model::source::SourceType;
use serde_json::json;

use super::peer::read;
use crate::tls::{answer, connector, serve, told};

#[tokio::test]
async fn a_server_of_files_is_believed_and_shown_a_certificate_as_the_source_says() {
    let port = serve("signed", Some("two"), answer("200 OK\r\netag: \"1\"", "n\n1\n")).await;
    let config = |tls| json!({"path": format!("https://localhost:{port}/a.csv"), "tls": tls}).to_string();
    let right = config(json!({"ca_file": "ca.crt", "cert_file": "two.crt", "key_file": "two.key"}));
    let (rows, error) = read(&*connector(SourceType::File, &right).unwrap()).await;
    assert!(error.is_none() && rows == [r#"{"n":"1"}"#], "{}", told(&error.unwrap()));
    for (tls, part) in
        [(json!({}), "nobody known here has signed"), (json!({"ca_file": "ca.crt"}), "wants to see a certificate")]
    {
        let error = read(&*connector(SourceType::File, &config(tls)).unwrap()).await.1.unwrap();
        assert!(told(&error).contains(part), "{}", told(&error));
        assert_eq!(error.advice(), Advice::Fail);
    }
}

#[test]
fn where_no_tls_is_spoken_there_is_no_such_option() {
    let host_key = format!("SHA256:{}", "A".repeat(43));
    for config in [
        json!({"path": "a.csv", "tls": {"ca_file": "ca.crt"}}),
        json!({"path": "sftp://u@h/a.csv", "sftp": {"host_key": host_key, "password": "p"}, "tls": {}}),
    ] {
        let errors = validate_config(SourceType::File, &config.to_string()).map(|_| ()).unwrap_err();
        assert_eq!(errors[0].path, ["tls"], "{errors:?}");
    }
    let config = json!({"path": "s3://bucket/a.csv", "tls": {"ca": "x", "cert": "y"}});
    let errors = validate_config(SourceType::File, &config.to_string()).map(|_| ()).unwrap_err();
    assert_eq!(errors[0].path, ["tls", "cert"], "{errors:?}");
}
