use chrono::DateTime;
use matome_model::source::SourceType;

use super::*;
use crate::config::tests::errors;
use crate::{ParsedConfig, validate_config};

/// A delivery as a specification prints it.
struct Vector {
    options: &'static str,
    at: i64,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    key: Option<&'static str>,
    /// Whether a time is signed.
    has_time: bool,
}

const VECTORS: &[Vector] = &[
    // The reference test vector of Standard Webhooks.
    Vector {
        options: r#""scheme":"standard-webhooks","secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw""#,
        at: 1_614_265_330,
        headers: &[
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", "v1a,AAAA v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ],
        body: r#"{"test": 2432232314}"#,
        key: Some("webhook:msg_p5jXN8AQM9LWM0D4loKWxJek"),
        has_time: true,
    },
    // GitHub's documentation, "Validating webhook deliveries".
    Vector {
        options: r#""scheme":"github","secret":"It's a Secret to Everybody""#,
        at: 0,
        headers: &[
            ("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
            ("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
        ],
        body: "Hello, World!",
        key: Some("webhook:72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        has_time: false,
    },
    // Stripe prints no secret beside a signature: its scheme over the event of its libraries' tests, computed with
    // Python's hmac.
    Vector {
        options: r#""scheme":"stripe","secret":"whsec_test_secret""#,
        at: 1_492_774_577,
        headers: &[(
            "Stripe-Signature",
            "t=1492774577,v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39,\
             v1=c2f890decbc5ede7c5060bb9a6d31e0626a4342bacb9aeae2adb1bcea72f9812",
        )],
        body: "{\n  \"id\": \"evt_test_webhook\",\n  \"object\": \"event\"\n}",
        key: Some("webhook:evt_test_webhook"),
        has_time: true,
    },
    Vector {
        options: r#""scheme":"shared-secret","secret":"0123456789abcdef","header":"X-Token""#,
        at: 0,
        headers: &[("X-Token", "0123456789abcdef"), ("Idempotency-Key", "7")],
        body: "anything",
        key: Some("webhook:7"),
        has_time: false,
    },
];

fn webhook(options: &str) -> Webhook {
    match validate_config(SourceType::Push, &format!(r#"{{"webhook":{{{options}}}}}"#)).unwrap() {
        ParsedConfig::Push(config) => config.webhook.unwrap(),
        other => panic!("{other:?}"),
    }
}

fn verify(options: &str, at: i64, headers: &[(&str, &str)], body: &str) -> Result<Delivery, Refusal> {
    let header =
        |name: &str| headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
    webhook(options).verify(header, body.as_bytes(), DateTime::from_timestamp(at, 0).unwrap())
}

#[test]
fn published_deliveries_are_known_and_named() {
    for vector in VECTORS {
        let delivery = verify(vector.options, vector.at, vector.headers, vector.body).unwrap();
        assert_eq!(delivery.key.as_deref(), vector.key, "{}", vector.options);
    }
}

#[test]
fn another_body_secret_time_or_header_is_refused() {
    for Vector { options, at, headers, body, has_time, .. } in VECTORS {
        let is_shared = options.contains("shared-secret");
        if !is_shared {
            assert_eq!(verify(options, *at, headers, &format!("{body} ")), Err(Refusal::Wrong), "{options}");
            assert_eq!(verify(options, *at, headers, ""), Err(Refusal::Wrong), "{options}");
        }
        let other = options
            .replace("whsec_MfKQ", "whsec_NfKQ")
            .replace("It's", "Its ")
            .replace("whsec_test", "whsec_Test")
            .replace("0123456789abcdef", "0123456789abcdeg");
        assert_ne!(other, *options);
        assert_eq!(verify(&other, *at, headers, body), Err(Refusal::Wrong), "{options}");
        for left_out in 0..headers.len() - usize::from(is_shared) {
            let rest: Vec<_> =
                headers.iter().enumerate().filter(|(n, _)| *n != left_out).map(|(_, pair)| *pair).collect();
            assert!(matches!(verify(options, *at, &rest, body), Err(Refusal::Missing(_))), "{options} {left_out}");
        }
        if *has_time {
            for off in [-300, 300] {
                assert!(verify(options, at + off, headers, body).is_ok(), "{options} {off}");
            }
            for off in [-301, 301, 86_400] {
                let refused = verify(options, at + off, headers, body);
                assert_eq!(refused, Err(Refusal::Stale(off.unsigned_abs())), "{options} {off}");
            }
            assert!(verify(&format!(r#"{options},"tolerance_secs":3600"#), at + 3600, headers, body).is_ok());
        }
    }
}

#[test]
fn a_signed_time_or_id_cannot_be_exchanged() {
    let standard = &VECTORS[0];
    for (name, value) in [("webhook-id", "msg_other"), ("webhook-timestamp", "1614265331")] {
        let mut headers = standard.headers.to_vec();
        for header in &mut headers {
            if header.0 == name {
                header.1 = value;
            }
        }
        assert_eq!(verify(standard.options, standard.at, &headers, standard.body), Err(Refusal::Wrong), "{name}");
    }
    let stripe = &VECTORS[2];
    let moved = stripe.headers[0].1.replace("t=1492774577", "t=1492774578");
    let refused = verify(stripe.options, stripe.at, &[("Stripe-Signature", &moved)], stripe.body);
    assert_eq!(refused, Err(Refusal::Wrong));
}

#[test]
fn headers_that_say_nothing_are_malformed() {
    for (vector, name, value) in [
        (&VECTORS[0], "webhook-timestamp", "+1614265330"),
        (&VECTORS[0], "webhook-timestamp", "soon"),
        (&VECTORS[0], "webhook-id", "a b"),
        (&VECTORS[0], "webhook-signature", "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        (&VECTORS[1], "X-Hub-Signature-256", "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
        (&VECTORS[1], "X-Hub-Signature-256", "sha256=75710"),
        (&VECTORS[1], "X-Hub-Signature-256", "sha256="),
        (&VECTORS[1], "X-GitHub-Delivery", ""),
        (&VECTORS[2], "Stripe-Signature", "v1=c2f890de"),
        (&VECTORS[2], "Stripe-Signature", "t=1492774577"),
    ] {
        let headers: Vec<_> =
            vector.headers.iter().map(|(known, old)| (*known, if *known == name { value } else { *old })).collect();
        let refused = verify(vector.options, vector.at, &headers, vector.body).unwrap_err();
        // An empty signature is one that matches nothing.
        assert!(matches!(refused, Refusal::Malformed(_) | Refusal::Wrong), "{name} {value}: {refused:?}");
        assert!(value == "sha256=" || matches!(refused, Refusal::Malformed(_)), "{name} {value}: {refused:?}");
    }
}

#[test]
fn either_of_two_secrets_is_good_while_they_are_exchanged() {
    for vector in VECTORS {
        let current = vector.options.replace(r#""secret""#, r#""previous_secret""#);
        let new = match vector.options.contains("standard") {
            true => "whsec_c2VjcmV0LW9mLWEtcm90YXRlZC1lbmRwb2ludA==",
            false => "quite another secret",
        };
        let both = format!(r#"{current},"secret":"{new}""#);
        assert!(verify(&both, vector.at, vector.headers, vector.body).is_ok(), "{both}");
    }
}

#[test]
fn a_secret_that_is_stored_elsewhere_opens_nothing() {
    let options = r#""scheme":"shared-secret","secret":"kept""#;
    assert_eq!(verify(options, 0, &[(HEADER, "kept")], ""), Err(Refusal::Wrong));
    let standard = r#""scheme":"standard-webhooks","secret":"kept""#;
    let vector = &VECTORS[0];
    assert_eq!(verify(standard, vector.at, vector.headers, vector.body), Err(Refusal::Wrong));
}

#[test]
fn a_second_try_of_an_event_has_the_key_of_the_first() {
    let vector = &VECTORS[2];
    let delivery = verify(vector.options, vector.at, vector.headers, vector.body).unwrap();
    assert!(delivery.key_decides);
    let long = "x".repeat(300);
    assert!(key_of(&long).len() <= 255 && key_of(&long) != key_of(&"x".repeat(301)));
}

#[test]
fn wrong_options_are_told_at_their_path() {
    for (options, path) in [
        (r#""secret":"0123456789abcdef""#, "webhook.scheme"),
        (r#""scheme":"github""#, "webhook.secret"),
        (r#""scheme":"github","secret":"short""#, "webhook.secret"),
        (r#""scheme":"standard-webhooks","secret":"whsec_AAAA""#, "webhook.secret"),
        (r#""scheme":"stripe","secret":"0123456789abcdef","header":"X-A""#, "webhook.header"),
        (r#""scheme":"shared-secret","secret":"0123456789abcdef","header":"a b""#, "webhook.header"),
        (r#""scheme":"github","secret":"0123456789abcdef","tolerance_secs":0"#, "webhook.tolerance_secs"),
    ] {
        let errors = errors(SourceType::Push, &format!(r#"{{"webhook":{{{options}}}}}"#));
        assert_eq!(errors.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), [path], "{errors:?}");
    }
    let shown = format!("{:?}", webhook(VECTORS[1].options));
    assert!(!shown.contains("Everybody"), "{shown}");
}
