//! Headers that are kept with what was sent: they say what its body does not, of which kind an event is for example.

use std::collections::BTreeMap;

use matome_egress::header::{HeaderMap, HeaderName};
use matome_model::canonical::write_string;
use matome_model::say;

use super::signature::Webhook;
use crate::config::Fields;

/// Names that a config may list.
pub(crate) const MOST_HEADERS: usize = 32;
/// Bytes of a value that is kept; each record of what was sent carries it.
const MOST_BYTES: usize = 1024;
/// What names of headers have in them that prove who somebody is.
const PROOFS: &[&str] = &["signature", "authorization", "cookie", "secret", "token", "password", "api-key", "apikey"];

/// Reads `headers`: those to keep besides what a scheme keeps by itself.
pub(super) fn parse(fields: &mut Fields, webhook: Option<&Webhook>) -> Vec<HeaderName> {
    let Some(raw) = fields.raw("headers") else { return Vec::new() };
    let listed: Vec<String> = match serde_json::from_str(raw.get()) {
        Ok(listed) if (1..=MOST_HEADERS).contains(&Vec::len(&listed)) => listed,
        _ => {
            let words = say!(
                "Give a list of up to {MOST_HEADERS} names of headers, like [\"X-Shop-Domain\"].",
                "ヘッダー名を {MOST_HEADERS} 個までのリストで指定してください。例: [\"X-Shop-Domain\"]"
            );
            fields.fail("headers", words);
            return Vec::new();
        }
    };
    let mut names = Vec::with_capacity(listed.len());
    for name in listed {
        match name.parse::<HeaderName>() {
            Err(_) => fields.fail(
                "headers",
                say!("`{name}` is not the name of a header.", "`{name}` はヘッダーの名前として使えません。"),
            ),
            Ok(known) if is_proof(&known) || webhook.is_some_and(|webhook| webhook.proves_by(&known)) => {
                let words = say!(
                    "`{name}` proves who the sender is: it is never kept, since everybody who may read records would see it.",
                    "`{name}` は送り手を証明するものです。レコードを読める全員に見えてしまうため、保存しません。"
                );
                fields.fail("headers", words);
            }
            Ok(known) => names.push(known),
        }
    }
    names
}

fn is_proof(name: &HeaderName) -> bool {
    PROOFS.iter().any(|proof| name.as_str().contains(proof))
}

/// Those of `sent` that are named, as a JSON object in canonical form: names in lower case, values of a header that came
/// several times joined by commas. `None`: there are none. A value of more than 1 KiB is left out.
pub(super) fn pick<'n>(sent: &HeaderMap, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let mut kept = BTreeMap::new();
    for name in names {
        let values: Vec<_> = sent.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        let value = values.join(", ");
        if !values.is_empty() && value.len() <= MOST_BYTES {
            kept.insert(name.to_ascii_lowercase(), value);
        }
    }
    if kept.is_empty() {
        return None;
    }
    let mut text = Vec::new();
    for (n, (name, value)) in kept.iter().enumerate() {
        text.push(if n == 0 { b'{' } else { b',' });
        write_string(&mut text, name);
        text.push(b':');
        write_string(&mut text, value);
    }
    text.push(b'}');
    Some(String::from_utf8(text).expect("JSON of UTF-8 is UTF-8"))
}

#[cfg(test)]
mod tests {
    use matome_model::source::SourceType;

    use crate::config::tests::errors;
    use crate::push::PushConfig;
    use crate::{ParsedConfig, validate_config};

    fn config(text: &str) -> Box<PushConfig> {
        match validate_config(SourceType::Push, text).unwrap() {
            ParsedConfig::Push(config) => config,
            other => panic!("{other:?}"),
        }
    }

    fn sent(headers: &[(&'static str, &str)]) -> super::HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (name.parse::<super::HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn each_scheme_keeps_what_tells_of_an_event_and_a_config_names_more() {
        let all = sent(&[
            ("X-GitHub-Event", "push"),
            ("X-GitHub-Delivery", "72d3"),
            ("X-GitHub-Hook-ID", "5"),
            ("X-Hub-Signature-256", "sha256=00"),
            ("webhook-id", "msg_1"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", "v1,AAAA"),
            ("Stripe-Signature", "t=1,v1=00"),
            ("X-Team", "a\"b"),
            ("X-Team", "営業"),
            ("Authorization", "Bearer x"),
        ]);
        let github = r#"{"headers":["X-Team","X-Absent"],"webhook":{"scheme":"github","secret":"0123456789abcdef"}}"#;
        let standard =
            r#"{"webhook":{"scheme":"standard-webhooks","secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}"#;
        let stripe = r#"{"webhook":{"scheme":"stripe","secret":"0123456789abcdef"}}"#;
        for (text, of_webhook, of_records) in [
            (
                github,
                Some(
                    r#"{"x-github-delivery":"72d3","x-github-event":"push","x-github-hook-id":"5","x-team":"a\"b, 営業"}"#,
                ),
                Some(r#"{"x-team":"a\"b, 営業"}"#),
            ),
            (standard, Some(r#"{"webhook-id":"msg_1","webhook-timestamp":"1614265330"}"#), None),
            (stripe, None, None),
        ] {
            let config = config(text);
            assert_eq!(config.headers_of_delivery(&all).as_deref(), of_webhook, "{text}");
            assert_eq!(config.headers_of_records(&all).as_deref(), of_records, "{text}");
        }
        let long = "x".repeat(super::MOST_BYTES + 1);
        let named = config(r#"{"headers":["X-Long"]}"#);
        assert_eq!(named.headers_of_records(&sent(&[("X-Long", &long)])), None);
        assert!(named.headers_of_records(&sent(&[("X-Long", &long[1..])])).is_some());
    }

    #[test]
    fn what_proves_who_the_sender_is_is_never_kept() {
        for name in ["X-Hub-Signature", "authorization", "Proxy-Authorization", "Cookie", "X-Gitlab-Token", "X-Api-Key"]
        {
            let told = errors(SourceType::Push, &format!(r#"{{"headers":["{name}"]}}"#));
            assert!(told.len() == 1 && told[0].0 == "headers" && told[0].1.contains(name), "{told:?}");
        }
        let webhook = r#""webhook":{"scheme":"shared-secret","secret":"0123456789abcdef","header":"X-Proof"}"#;
        assert_eq!(errors(SourceType::Push, &format!(r#"{{"headers":["x-proof"],{webhook}}}"#)).len(), 1);
        for wrong in [r#""X-Team""#, "[]", "[1]", r#"["no name"]"#] {
            assert_eq!(errors(SourceType::Push, &format!(r#"{{"headers":{wrong}}}"#)).len(), 1, "{wrong}");
        }
    }
}
