//! Addresses of databases as people have them at hand: with the password inside, and with what other programs write around it.

use serde_json::{Map, Value, json};
use url::Url;

/// The options of a `database` source that its address stands for; nothing when `text` is no address of a database.
///
/// The password goes into an option of its own, which is kept as a secret. `sslmode` and its like become `tls`; what else
/// stands behind `?` stays, so that the server says what to do with it.
pub fn options(text: &str) -> Option<Map<String, Value>> {
    let text = text.trim();
    let (scheme, rest) = text.split_once(':')?;
    let mut options = Map::new();
    if scheme.eq_ignore_ascii_case("sqlite") {
        options.insert("engine".to_owned(), "sqlite".into());
        options.insert("path".to_owned(), rest.strip_prefix("//").unwrap_or(rest).into());
        return Some(options);
    }
    // As SQLAlchemy has it: `mysql+pymysql://`.
    let engine = scheme.split('+').next().unwrap_or_default().to_ascii_lowercase();
    if !["postgres", "postgresql", "mysql", "mariadb"].contains(&engine.as_str()) {
        return None;
    }
    let Ok(mut url) = Url::parse(&format!("{engine}:{rest}")) else {
        options.insert("url".to_owned(), text.into());
        return Some(options);
    };
    if let Some(password) = take_password(&mut url) {
        options.insert("password".to_owned(), password.into());
    }
    let mut tls = Map::new();
    let mut left = Vec::new();
    for (name, value) in url.query_pairs() {
        match (name.as_ref(), tls_mode(&value)) {
            ("sslmode" | "ssl-mode" | "ssl_mode", Some(mode)) => drop(tls.insert("mode".to_owned(), mode.into())),
            ("sslrootcert" | "ssl-ca" | "ssl_ca", _) => drop(tls.insert("ca_file".to_owned(), json!(value))),
            _ => left.push((name.into_owned(), value.into_owned())),
        }
    }
    url.set_query(None);
    if !left.is_empty() {
        url.query_pairs_mut().extend_pairs(left);
    }
    options.insert("url".to_owned(), url.as_str().into());
    if !tls.is_empty() {
        options.insert("tls".to_owned(), tls.into());
    }
    Some(options)
}

/// What libpq and MySQL's clients call the modes that matome has too.
fn tls_mode(word: &str) -> Option<&'static str> {
    match word.to_ascii_lowercase().replace('_', "-").as_str() {
        "disable" | "disabled" => Some("disable"),
        "require" | "required" => Some("require"),
        "verify-full" | "verify-identity" => Some("verify-full"),
        _ => None,
    }
}

/// Takes the password out of an address; `None` where there is none or no place for one.
pub fn take_password(url: &mut Url) -> Option<String> {
    let password = url.password().map(percent_decoded)?;
    url.set_password(None).ok()?;
    Some(password)
}

fn percent_decoded(text: &str) -> String {
    // A query decodes the same escapes, apart from `+`, which is itself in a password.
    let text = format!("p={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(text.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_options_with_the_password_apart() {
        for (text, wanted) in [
            (
                "postgres://reader:s3%40c%2Fr+t@db.example.com:5433/shop",
                json!({"url": "postgres://reader@db.example.com:5433/shop", "password": "s3@c/r+t"}),
            ),
            ("postgresql+psycopg2://u@h/d", json!({"url": "postgresql://u@h/d"})),
            (" MySQL+pymysql://u:p@h/d ", json!({"url": "mysql://u@h/d", "password": "p"})),
            (
                "mariadb://u@h/d?ssl-mode=VERIFY_IDENTITY&ssl-ca=ca.pem",
                json!({"url": "mariadb://u@h/d", "tls": {"mode": "verify-full", "ca_file": "ca.pem"}}),
            ),
            ("postgres://u@h/d?sslmode=disable", json!({"url": "postgres://u@h/d", "tls": {"mode": "disable"}})),
            // There is no such mode; the server of matome tells.
            (
                "postgres://u@h/d?sslmode=prefer&connect_timeout=3",
                json!({"url": "postgres://u@h/d?sslmode=prefer&connect_timeout=3"}),
            ),
            ("postgres://u:p@[::1/d", json!({"url": "postgres://u:p@[::1/d"})),
            ("sqlite:exports/shop.db", json!({"engine": "sqlite", "path": "exports/shop.db"})),
            ("sqlite:///srv/shop.db", json!({"engine": "sqlite", "path": "/srv/shop.db"})),
            ("sqlite://shop.db", json!({"engine": "sqlite", "path": "shop.db"})),
        ] {
            assert_eq!(options(text).map(Value::Object), Some(wanted), "{text}");
        }
        for text in ["https://example.com/x", "ws://example.com", "example.com", ""] {
            assert_eq!(options(text), None, "{text}");
        }
    }
}
