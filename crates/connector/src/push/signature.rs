//! Webhooks that come in: who sent them, that nobody changed them, and what tells one delivery from another.
//!
//! Everything is computed over the bytes as they came, and compared in constant time.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, KeyInit as _, Mac as _};
use matome_egress::header::HeaderName;
use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::Fields;
use crate::json::{JsonPath, Splitter};
use crate::secrets::KEPT_SECRET;

/// How a sender proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Standard Webhooks 1.0, symmetric: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    StandardWebhooks,
    /// GitHub's `X-Hub-Signature-256` with `X-GitHub-Delivery`.
    Github,
    /// Stripe's `Stripe-Signature`.
    Stripe,
    /// The secret itself, in a header.
    SharedSecret,
}

impl Scheme {
    /// The headers that tell of a delivery what its body may not.
    pub(super) fn headers(self) -> &'static [&'static str] {
        match self {
            Self::StandardWebhooks => &["webhook-id", "webhook-timestamp"],
            Self::Github => &["x-github-event", "x-github-delivery", "x-github-hook-id"],
            Self::Stripe | Self::SharedSecret => &[],
        }
    }
}

/// `webhook`: who may send to a source without a token.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// `scheme`: `standard-webhooks`, `github`, `stripe` or `shared-secret`.
    pub scheme: Scheme,
    /// `secret`, and `previous_secret` while senders go over to a new one.
    secrets: Vec<SecretString>,
    /// `header` with the shared secret; default `X-Webhook-Secret`.
    header: String,
    /// `tolerance_secs`: how far a signed time may be from now; 1 to 3600, default 300.
    tolerance: Duration,
}

/// A delivery whose sender is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What is the same when the sender tries again, at most 255 visible ASCII characters.
    pub key: Option<String>,
    /// Whether the key alone tells that it is the same, although bytes may differ: the sender numbers events, and a
    /// second try may say more of one.
    pub key_decides: bool,
}

/// Why a delivery is refused; for the log, never for the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A header is not there, or there twice.
    #[error("the header `{0}` is missing")]
    Missing(&'static str),
    /// A header says nothing that could be a signature, an id or a time.
    #[error("the header `{0}` is malformed")]
    Malformed(&'static str),
    /// It was signed too long ago, or in the future.
    #[error("it was signed {0} s from now, more than `tolerance_secs`")]
    Stale(u64),
    /// Another secret, or another body.
    #[error("no signature matches")]
    Wrong,
}

const HEADER: &str = "X-Webhook-Secret";
/// Signatures that one delivery may bring.
const MOST_SIGNATURES: usize = 16;

/// Reads `webhook`.
pub(super) fn parse(fields: &mut Fields) -> Option<Webhook> {
    let mut webhook = fields.nested("webhook")?;
    if !webhook.has("scheme") {
        webhook.require("scheme");
        webhook.forget_rest();
    }
    let words = [
        ("standard-webhooks", Scheme::StandardWebhooks),
        ("github", Scheme::Github),
        ("stripe", Scheme::Stripe),
        ("shared-secret", Scheme::SharedSecret),
    ];
    let scheme = webhook.choice("scheme", &words);
    let mut secrets = Vec::new();
    if let Some(scheme) = scheme {
        let current = webhook.required_string("secret");
        let previous = webhook.string("previous_secret");
        for (name, secret) in [("secret", current), ("previous_secret", previous)] {
            let Some(secret) = secret else { continue };
            if let Some(words) = refuse(scheme, &secret) {
                webhook.fail(name, words);
            }
            secrets.push(SecretString::from(secret));
        }
    } else {
        webhook.forget_rest();
    }
    let is_shared = scheme == Some(Scheme::SharedSecret);
    if webhook.has("header") && scheme.is_some() && !is_shared {
        webhook.raw("header");
        let words = Words::new(
            "Only the scheme `shared-secret` has a header of its own.",
            "ヘッダーを選べるのは方式 `shared-secret` だけです。",
        );
        webhook.fail("header", words);
    }
    let header = webhook.string("header").unwrap_or_else(|| HEADER.to_owned());
    if header.parse::<HeaderName>().is_err() {
        webhook.fail("header", Words::new("Not the name of a header.", "ヘッダーの名前として使えません。"));
    }
    let tolerance = Duration::from_secs(webhook.integer("tolerance_secs", 1, 3600).unwrap_or(300));
    fields.absorb(webhook);
    Some(Webhook { scheme: scheme?, secrets, header, tolerance })
}

/// What is wrong with a secret.
fn refuse(scheme: Scheme, secret: &str) -> Option<Words> {
    if secret == KEPT_SECRET {
        return None;
    }
    match scheme {
        Scheme::StandardWebhooks => match standard_key(secret) {
            Some(key) if (24..=64).contains(&key.len()) => None,
            _ => Some(Words::new(
                "Give `whsec_` and 24 to 64 bytes in base64, as the sender shows it.",
                "送り手が示すとおり、`whsec_` に続けて 24〜64 バイトの base64 を指定してください。",
            )),
        },
        Scheme::Github | Scheme::Stripe | Scheme::SharedSecret if secret.chars().count() < 16 => Some(Words::new(
            "A secret of fewer than 16 characters can be guessed. Make one with `openssl rand -hex 32`.",
            "16 文字より短い秘密は推測されるおそれがあります。`openssl rand -hex 32` などで作ってください。",
        )),
        Scheme::Github | Scheme::Stripe | Scheme::SharedSecret => None,
    }
}

fn standard_key(secret: &str) -> Option<Vec<u8>> {
    STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok()
}

impl Webhook {
    /// Whether a header has the secret itself.
    pub(super) fn proves_by(&self, name: &HeaderName) -> bool {
        self.scheme == Scheme::SharedSecret && self.header.eq_ignore_ascii_case(name.as_str())
    }

    /// Whether the headers could be those of a delivery; what is cheap to know before a body is read.
    ///
    /// # Errors
    /// When a header that every delivery has is not there.
    pub fn expects<'h>(&self, header: impl Fn(&str) -> Option<&'h str>) -> Result<(), Refusal> {
        let needed: &[&'static str] = match self.scheme {
            Scheme::StandardWebhooks => &["webhook-id", "webhook-timestamp", "webhook-signature"],
            Scheme::Github => &["X-Hub-Signature-256", "X-GitHub-Delivery"],
            Scheme::Stripe => &["Stripe-Signature"],
            Scheme::SharedSecret => {
                return header(&self.header).map(drop).ok_or(Refusal::Missing("header of the shared secret"));
            }
        };
        needed.iter().find(|name| header(name).is_none()).map_or(Ok(()), |name| Err(Refusal::Missing(name)))
    }

    /// Checks the sender of a body. `header` gives the one value of a header.
    ///
    /// # Errors
    /// Why the delivery is refused.
    pub fn verify<'h>(
        &self,
        header: impl Fn(&str) -> Option<&'h str>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Delivery, Refusal> {
        self.expects(&header)?;
        let get = |name: &'static str| header(name).ok_or(Refusal::Missing(name));
        match self.scheme {
            Scheme::StandardWebhooks => {
                let (id, time) = (get("webhook-id")?, get("webhook-timestamp")?);
                if !is_visible(id) {
                    return Err(Refusal::Malformed("webhook-id"));
                }
                self.is_fresh("webhook-timestamp", time, now)?;
                let given = get("webhook-signature")?.split(' ').filter_map(|one| one.strip_prefix("v1,"));
                let given: Vec<Vec<u8>> = given.filter_map(|one| STANDARD.decode(one).ok()).collect();
                let keys = self.secrets.iter().filter_map(|secret| standard_key(secret.expose_secret()));
                self.matches("webhook-signature", keys, &given, &[id.as_bytes(), b".", time.as_bytes(), b".", body])?;
                Ok(Delivery { key: Some(key_of(id)), key_decides: true })
            }
            Scheme::Github => {
                let id = get("X-GitHub-Delivery")?;
                if !is_visible(id) {
                    return Err(Refusal::Malformed("X-GitHub-Delivery"));
                }
                let given = get("X-Hub-Signature-256")?.strip_prefix("sha256=").and_then(from_hex);
                let given: Vec<Vec<u8>> = given.into_iter().collect();
                self.matches("X-Hub-Signature-256", self.raw_keys(), &given, &[body])?;
                Ok(Delivery { key: Some(key_of(id)), key_decides: false })
            }
            Scheme::Stripe => {
                let signature = get("Stripe-Signature")?;
                let parts = || signature.split(',').filter_map(|part| part.trim().split_once('='));
                let time = parts().find(|(name, _)| *name == "t").map(|(_, time)| time);
                let time = time.ok_or(Refusal::Malformed("Stripe-Signature"))?;
                self.is_fresh("Stripe-Signature", time, now)?;
                let given = parts().filter(|(name, _)| *name == "v1").filter_map(|(_, hex)| from_hex(hex));
                let given: Vec<Vec<u8>> = given.collect();
                self.matches("Stripe-Signature", self.raw_keys(), &given, &[time.as_bytes(), b".", body])?;
                // A second try is signed anew, and the count of pending webhooks in it may have changed; the id of the
                // event stays, and is signed.
                let id = event_id(body);
                let key_decides = id.is_some();
                let key = id.unwrap_or_else(|| HEXLOWER.encode(&Sha256::digest(signature.as_bytes())));
                Ok(Delivery { key: Some(key_of(&key)), key_decides })
            }
            Scheme::SharedSecret => {
                let given = Sha256::digest(header(&self.header).unwrap_or_default().as_bytes());
                let is_it = |secret: &SecretString| {
                    Sha256::digest(secret.expose_secret().as_bytes()).as_slice().ct_eq(given.as_slice())
                };
                // All of them, so that the time tells nothing of which one.
                let known = self.usable().fold(subtle::Choice::from(0), |known, secret| known | is_it(secret));
                if !bool::from(known) {
                    return Err(Refusal::Wrong);
                }
                match header("Idempotency-Key") {
                    Some(key) if !is_visible(key) => Err(Refusal::Malformed("Idempotency-Key")),
                    key => Ok(Delivery { key: key.map(key_of), key_decides: false }),
                }
            }
        }
    }

    fn usable(&self) -> impl Iterator<Item = &SecretString> {
        self.secrets.iter().filter(|secret| secret.expose_secret() != KEPT_SECRET)
    }

    fn raw_keys(&self) -> impl Iterator<Item = Vec<u8>> {
        self.usable().map(|secret| secret.expose_secret().as_bytes().to_vec())
    }

    fn is_fresh(&self, name: &'static str, time: &str, now: Timestamp) -> Result<(), Refusal> {
        let is_number = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit());
        let signed_at: i64 = time.parse().ok().filter(|_| is_number).ok_or(Refusal::Malformed(name))?;
        let distance = now.timestamp().abs_diff(signed_at);
        if distance > self.tolerance.as_secs() { Err(Refusal::Stale(distance)) } else { Ok(()) }
    }

    /// Whether one of the signatures is that of `signed` under one of the keys.
    fn matches(
        &self,
        name: &'static str,
        keys: impl Iterator<Item = Vec<u8>>,
        given: &[Vec<u8>],
        signed: &[&[u8]],
    ) -> Result<(), Refusal> {
        if given.is_empty() || given.len() > MOST_SIGNATURES {
            return Err(Refusal::Malformed(name));
        }
        let mut known = subtle::Choice::from(0);
        for key in keys {
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else { continue };
            for part in signed {
                mac.update(part);
            }
            let wanted = mac.finalize().into_bytes();
            for one in given {
                known |= wanted.as_slice().ct_eq(one.as_slice());
            }
        }
        if bool::from(known) { Ok(()) } else { Err(Refusal::Wrong) }
    }
}

/// Apart from what clients with a token choose.
fn key_of(id: &str) -> String {
    let key = format!("webhook:{id}");
    if key.len() <= 255 { key } else { format!("webhook:sha256:{}", HEXLOWER.encode(&Sha256::digest(id.as_bytes()))) }
}

fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The `id` of an event, if the body has one.
fn event_id(body: &[u8]) -> Option<String> {
    let path: JsonPath = "$.id".parse().ok()?;
    let value = Splitter::pick(body, &[&path]).pop().flatten()?;
    serde_json::from_slice::<String>(&value).ok().filter(|id| is_visible(id))
}

/// Digits in either case.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests;
