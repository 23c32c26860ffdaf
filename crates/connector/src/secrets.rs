//! Which leaves of a config are secrets: they are encrypted at rest and never shown.

use serde_json::Value;

/// Stands for a secret that is stored already where a config is validated without it.
pub const KEPT_SECRET: &str = "kept";

/// The secret options of places of files elsewhere.
const PLACES: [(&str, &[&str]); 4] = [
    ("s3", &["secret_access_key", "session_token"]),
    ("gcs", &["service_account"]),
    ("azure", &["account_key", "sas"]),
    ("sftp", &["password", "private_key", "passphrase"]),
];

/// JSON pointers (RFC 6901) of the secret leaves that `config` has, in whatever form they are present:
/// `/auth/token`, `/auth/password`, `/auth/value`, `/auth/client_secret`, `/auth/refresh_token`, `/auth/secret`, `/auth/key`,
/// `/auth/service_account`, by the type of `auth`; `/webhook/secret`, `/webhook/previous_secret`; each of `/secrets`; `/password`; `/tls/key`; `/s3/secret_access_key`, `/s3/session_token`, `/gcs/service_account`, `/azure/account_key`, `/azure/sas`,
/// `/sftp/password`, `/sftp/private_key`, `/sftp/passphrase`;
/// `/url` if it
/// has a password in it.
///
/// Of an `auth` whose type is missing or unknown, every one of these leaves counts as a secret.
pub fn secret_paths(config: &str) -> Vec<String> {
    // Nothing else is looked at, so that numbers in free parts of a config can not make this fail.
    #[derive(serde::Deserialize)]
    struct Config {
        auth: Option<Value>,
        webhook: Option<Value>,
        secrets: Option<Value>,
        password: Option<Value>,
        tls: Option<Value>,
        url: Option<Value>,
        s3: Option<Value>,
        gcs: Option<Value>,
        azure: Option<Value>,
        sftp: Option<Value>,
    }
    let Ok(Config { auth, webhook, secrets, password, tls, url, s3, gcs, azure, sftp }) = serde_json::from_str(config)
    else {
        return Vec::new();
    };
    let mut paths = Vec::new();
    if let Some(Value::Object(auth)) = auth {
        let leaves: &[&str] = match auth.get("type").and_then(Value::as_str) {
            Some("bearer") => &["token"],
            Some("basic") => &["password"],
            Some("header" | "query") => &["value"],
            Some("oauth2_client_credentials") => &["client_secret"],
            Some("oauth2_refresh_token") => &["client_secret", "refresh_token"],
            Some("oauth2_jwt_bearer") => &["key", "service_account", "client_secret"],
            Some("hmac") => &["secret"],
            Some("aws_sigv4") => &["secret_access_key", "session_token"],
            Some("session") => &["password"],
            Some("same_as") => &[],
            _ => &[
                "token",
                "password",
                "value",
                "client_secret",
                "refresh_token",
                "secret",
                "secret_access_key",
                "session_token",
                "key",
                "service_account",
            ],
        };
        paths.extend(leaves.iter().filter(|leaf| auth.contains_key(**leaf)).map(|leaf| format!("/auth/{leaf}")));
    }
    if let Some(Value::Object(webhook)) = webhook {
        let leaves = ["secret", "previous_secret"];
        paths.extend(leaves.iter().filter(|leaf| webhook.contains_key(**leaf)).map(|leaf| format!("/webhook/{leaf}")));
    }
    if let Some(Value::Object(secrets)) = secrets {
        // Whatever its name is, refused or not.
        let escaped = |name: &String| format!("/secrets/{}", name.replace('~', "~0").replace('/', "~1"));
        paths.extend(secrets.keys().map(escaped));
    }
    if password.is_some() {
        paths.push("/password".to_owned());
    }
    if let Some(Value::Object(tls)) = tls
        && tls.contains_key("key")
    {
        paths.push("/tls/key".to_owned());
    }
    for ((place, leaves), own) in PLACES.into_iter().zip([s3, gcs, azure, sftp]) {
        if let Some(Value::Object(own)) = own {
            paths.extend(leaves.iter().filter(|leaf| own.contains_key(**leaf)).map(|leaf| format!("/{place}/{leaf}")));
        }
    }
    // Refused in what is written here, but other applications keep such addresses.
    let address = url.as_ref().and_then(Value::as_str).and_then(|url| url::Url::parse(url).ok());
    if address.is_some_and(|url| url.password().is_some()) {
        paths.push("/url".to_owned());
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_secret_is_found_where_it_stands() {
        for (config, paths) in [
            (r#"{"auth":{"type":"bearer","token":"x"},"labels":{"n":1e999}}"#, vec!["/auth/token"]),
            (r#"{"auth":{"type":"basic","username":"u","password":"x"}}"#, vec!["/auth/password"]),
            (r#"{"auth":{"type":"header","name":"n","value":{"$secret":true}}}"#, vec!["/auth/value"]),
            (r#"{"auth":{"type":"query","name":"n","value":"x"}}"#, vec!["/auth/value"]),
            (
                r#"{"auth":{"type":"oauth2_client_credentials","client_id":"i","client_secret":"x"}}"#,
                vec!["/auth/client_secret"],
            ),
            (
                r#"{"auth":{"type":"oauth2_refresh_token","client_secret":"x","refresh_token":"y"}}"#,
                vec!["/auth/client_secret", "/auth/refresh_token"],
            ),
            (
                r#"{"auth":{"type":"oauth2_jwt_bearer","key":"x","key_id":"k","client_secret":"y"}}"#,
                vec!["/auth/key", "/auth/client_secret"],
            ),
            (r#"{"auth":{"type":"oauth2_jwt_bearer","service_account":"{}"}}"#, vec!["/auth/service_account"]),
            (r#"{"auth":{"type":"hmac","secret":"x","key_id":"k"}}"#, vec!["/auth/secret"]),
            (
                r#"{"auth":{"type":"aws_sigv4","access_key_id":"k","secret_access_key":"x","session_token":"y"}}"#,
                vec!["/auth/secret_access_key", "/auth/session_token"],
            ),
            (r#"{"auth":{"type":"session","password":"x","token":"$.token"}}"#, vec!["/auth/password"]),
            (r#"{"auth":{"type":"same_as","source":"orders"}}"#, vec![]),
            (r#"{"auth":{"type":"odd","token":"x","value":"y"}}"#, vec!["/auth/token", "/auth/value"]),
            (r#"{"labels":{"auth":{"token":"mine"},"password":"mine"}}"#, vec![]),
            (r#"{"host":"h","password":{"$secret":true}}"#, vec!["/password"]),
            (r#"{"tls":{"cert":"c","key":"k"}}"#, vec!["/tls/key"]),
            (r#"{"tls":{"ca_file":"c"},"labels":{"tls":{"key":"mine"}}}"#, vec![]),
            (
                r#"{"s3":{"access_key_id":"k","secret_access_key":"x","session_token":{"$secret":true}},"labels":{"s3":{}}}"#,
                vec!["/s3/secret_access_key", "/s3/session_token"],
            ),
            (r#"{"sftp":{"host_key":"k","password":"x"},"password":"y"}"#, vec!["/password", "/sftp/password"]),
            (r#"{"gcs":{"service_account":"{}"}}"#, vec!["/gcs/service_account"]),
            (r#"{"azure":{"account":"a","account_key":"x","sas":"y"}}"#, vec!["/azure/account_key", "/azure/sas"]),
            (r#"{"url":"postgres://u:p@h/d"}"#, vec!["/url"]),
            (r#"{"url":"postgres://u@h/d"}"#, vec![]),
            (
                r#"{"webhook":{"scheme":"github","secret":"x","previous_secret":{"$secret":true}}}"#,
                vec!["/webhook/secret", "/webhook/previous_secret"],
            ),
            (r#"{"secrets":{"key":"x","a/b~":{"$secret":true}}}"#, vec!["/secrets/a~1b~0", "/secrets/key"]),
            (r#"{"auth":"x","webhook":[1],"secrets":"x"}"#, vec![]),
            ("{}", vec![]),
        ] {
            assert_eq!(secret_paths(config), paths, "{config}");
        }
    }
}
