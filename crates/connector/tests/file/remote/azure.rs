//! Azure: keys and signed addresses that azurite checks, and what a store says is wrong.

use matome_connector::{Advice, ConnectorError, PlaceFault, validate_config};
use matome_model::source::SourceType;
use serde_json::{Value, json};

use super::peer::{Peer, Reply, connector_to_all_of_here, told};
use super::stands::{Azure, Stand, from_script};

async fn read(config: &Value) -> (Vec<String>, Option<ConnectorError>) {
    super::peer::read(&*connector_to_all_of_here(&config.to_string())).await
}

#[tokio::test]
async fn a_signed_address_does_as_well_as_a_key_as_long_as_it_is_good() {
    let stand = Azure::new();
    stand.put("a 1.csv", b"n\n1\n");
    for name in ["a 1.csv", "*.csv"] {
        let mut config = stand.config(name);
        config["azure"].as_object_mut().unwrap().remove("account_key");
        config["azure"]["sas"] = format!("?{}", from_script("MATOME_TEST_AZURE_SAS")).into();
        let (rows, error) = read(&config).await;
        assert!(error.is_none() && rows == [r#"{"n":"1"}"#], "{}", told(&error.unwrap()));
        config["azure"]["sas"] = from_script("MATOME_TEST_AZURE_OLD_SAS").into();
        let (_, error) = read(&config).await;
        let error = error.unwrap();
        assert!(matches!(error, ConnectorError::Place { fault: PlaceFault::Auth, .. }), "{error:?}");
        assert!(!told(&error).contains("sig="), "{}", told(&error));
    }
}

#[tokio::test]
async fn who_is_not_let_in_is_told() {
    let stand = Azure::new();
    stand.put("a.csv", b"n\n1\n");
    for name in ["a.csv", "*.csv"] {
        let mut config = stand.config(name);
        config["azure"]["account_key"] = "c2VjcmV0".into();
        let (_, error) = read(&config).await;
        let error = error.unwrap();
        assert!(matches!(error, ConnectorError::Place { fault: PlaceFault::Auth, .. }), "{error:?}");
        assert_eq!(error.advice(), Advice::Fail);
    }
    let mut config = stand.config("a.csv");
    config["path"] = "az://nowhere/a.csv".into();
    let (_, error) = read(&config).await;
    assert!(told(&error.unwrap()).contains("there is no container `nowhere`"));
}

#[tokio::test]
async fn what_a_store_says_is_wrong_has_a_remedy() {
    for (status, code, more, fault, part) in [
        (
            "403 Forbidden",
            "AuthenticationFailed",
            "<AuthenticationErrorDetail>Request date header too old: 'x'</AuthenticationErrorDetail>",
            PlaceFault::Auth,
            "clock",
        ),
        ("403 Forbidden", "AuthenticationFailed", "", PlaceFault::Auth, "`account_key`"),
        ("403 Forbidden", "AuthorizationPermissionMismatch", "", PlaceFault::Auth, "may not do this"),
        ("409 Conflict", "PublicAccessNotPermitted", "", PlaceFault::Auth, "not everybody"),
        ("404 Not Found", "BlobNotFound", "", PlaceFault::Missing, "`path`"),
    ] {
        let body = format!("\u{feff}<?xml version=\"1.0\"?><Error><Code>{code}</Code>{more}</Error>");
        let peer = Peer::start(move |_, _| Reply::new(status, &[], body.as_bytes())).await;
        let azure = json!({"account": "a", "endpoint": format!("http://{}", peer.address)});
        let (_, error) = read(&json!({"path": "az://c/a.csv", "azure": azure})).await;
        let error = error.unwrap();
        assert!(matches!(&error, ConnectorError::Place { fault: of, .. } if *of == fault), "{code}: {error:?}");
        assert!(told(&error).contains(part), "{}", told(&error));
    }
}

#[test]
fn every_wrong_option_is_told_before_anything_is_asked() {
    for (path, azure, at, part) in [
        ("az:///a.csv", json!({"account": "a"}), "path", "az://container/"),
        ("az://c/a.csv", json!({}), "azure.account", "required"),
        ("az://c/a.csv", json!({"account": "A.b"}), "azure.account", "small letters"),
        ("az://c/a.csv", json!({"account": "a", "account_key": "%"}), "azure.account_key", "Base64"),
        ("az://c/a.csv", json!({"account": "a", "sas": "x"}), "azure.sas", "sig="),
        ("az://c/a.csv", json!({"account": "a", "account_key": "eA==", "sas": "sig=x"}), "azure.sas", "not both"),
        ("az://c/a.csv", json!({"account": "a", "key": "x"}), "azure.key", "Known here: `account`, `endpoint`"),
    ] {
        let errors = validate_config(SourceType::File, &json!({"path": path, "azure": azure}).to_string()).unwrap_err();
        let found = errors.iter().find(|error| error.path.join(".") == at);
        let found = found.unwrap_or_else(|| panic!("{path} {azure}: {errors:?}"));
        assert!(found.message.english.contains(part), "{path} {azure}: {}", found.message);
    }
    let errors = validate_config(SourceType::File, r#"{"path":"az://c/a.csv"}"#).unwrap_err();
    assert_eq!(errors[0].path, ["azure"]);
}
