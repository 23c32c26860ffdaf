//! `auth` of the type `same_as`: the credentials of another source, which alone has them.

use std::collections::BTreeMap;

use matome_model::field_error::Words;
use matome_model::say;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::{Origin, Url};

/// The options of a config, as they are written.
type Options = BTreeMap<String, Box<RawValue>>;

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "type")]
    of_type: String,
    source: Option<String>,
}

/// The name of the source whose credentials a config asks for, if it does.
pub fn auth_is_of(config: &str) -> Option<String> {
    let options: Options = serde_json::from_str(config).ok()?;
    let named: Named = serde_json::from_str(options.get("auth")?.get()).ok()?;
    named.source.filter(|_| named.of_type == "same_as")
}

/// `config` with the credentials of `owner`, the config of the source `name` with its secrets in place.
///
/// # Errors
/// Why it may not have them: they go to the origin that they were given for and to no other.
pub fn with_auth_of(config: &str, name: &str, owner: &str) -> Result<String, Words> {
    let parsed = |text: &str| serde_json::from_str::<Options>(text).unwrap_or_default();
    let (mut options, owner_options) = (parsed(config), parsed(owner));
    if auth_is_of(owner).is_some() {
        return Err(say!(
            "`auth.source`: `{name}` has the credentials of another source itself; name that one",
            "`auth.source`: `{name}` も別のソースの認証情報を使っています。そのソースを指定してください"
        ));
    }
    let Some(auth) = owner_options.get("auth") else {
        return Err(say!("`auth.source`: `{name}` has no `auth`", "`auth.source`: `{name}` に `auth` がありません"));
    };
    match (origin(&options), origin(&owner_options)) {
        (Some(own), Some(of)) if own == of => {}
        (_, of) => {
            let of = of.map(|of| of.ascii_serialization()).unwrap_or_default();
            return Err(say!(
                "`auth.source`: the credentials of `{name}` go to `{of}` only, and this source is elsewhere",
                "`auth.source`: `{name}` の認証情報は `{of}` にしか送りませんが、このソースは別の場所にあります"
            ));
        }
    }
    options.insert("auth".to_owned(), auth.clone());
    serde_json::to_string(&options).map_err(|error| say!("`auth`: {error}", "`auth`: {error}"))
}

/// Where a source is.
fn origin(options: &Options) -> Option<Origin> {
    let address = options.get("url").or_else(|| options.get("path"))?;
    let address: String = serde_json::from_str(address.get()).ok()?;
    let mut url = Url::parse(address.trim()).ok()?;
    let scheme = match url.scheme() {
        "ws" => "http",
        "wss" => "https",
        "http" | "https" => return Some(url.origin()),
        _ => return None,
    };
    // One special scheme for another always works.
    url.set_scheme(scheme).ok()?;
    Some(url.origin())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_over_for_the_same_origin_and_for_no_other() {
        let own = |url: &str| {
            format!(r#"{{"url":"{url}","auth":{{"type":"same_as","source":"one"}},"labels":{{"n":1e999}}}}"#)
        };
        let owner = r#"{"url":"https://h/a","auth":{"type":"bearer","token":"t"}}"#;
        assert_eq!(auth_is_of(&own("https://h/b")).as_deref(), Some("one"));
        assert_eq!(auth_is_of(owner), None);
        for url in ["https://h/{parent.id}", "wss://h:443/b"] {
            let config = with_auth_of(&own(url), "one", owner).unwrap();
            assert!(config.contains(r#""auth":{"type":"bearer","token":"t"}"#) && config.contains("1e999"), "{config}");
        }
        for (url, owner, part) in [
            ("http://h/", owner, "go to `https://h` only"),
            ("https://h:8443/", owner, "go to `https://h` only"),
            ("https://other/", owner, "go to `https://h` only"),
            ("https://h/", r#"{"url":"https://h/"}"#, "has no `auth`"),
            ("https://h/", r#"{"path":"s3://h/","auth":{}}"#, "only, and this source is elsewhere"),
            ("https://h/", &own("https://h/"), "of another source itself"),
        ] {
            let words = with_auth_of(&own(url), "one", owner).unwrap_err();
            assert!(words.english.contains(part) && words.english != words.japanese, "{url}: {words}");
        }
    }
}
