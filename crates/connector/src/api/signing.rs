//! Requests that are signed: an HMAC over what the API wants signed, put where the API looks for it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, KeyInit as _, Mac as _};
use matome_egress::Request;
use matome_egress::header::{AUTHORIZATION, HeaderName, HeaderValue};
use matome_model::clock::iso8601;
use matome_model::field_error::Words;
use matome_model::say;
use rand::Rng as _;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::config::{is_set_by_matome, not_a_header_name, set_by_matome};
use crate::config::Fields;
use crate::secrets::KEPT_SECRET;

/// `auth` of type `hmac`.
#[derive(Clone, Debug)]
pub struct Signing {
    /// `secret`: what requests are signed with.
    pub secret: SecretString,
    /// `secret_encoding`: how the bytes of the key are written in `secret`; default `text`.
    pub secret_encoding: Encoding,
    /// `key_id`: who signs; no secret.
    pub key_id: Option<String>,
    /// `algorithm`: default `sha256`.
    pub algorithm: Algorithm,
    /// `encoding`: how the signature is written; default `hex`.
    pub encoding: Encoding,
    /// `timestamp`: how times are written; default `unix`.
    pub timestamp: Stamp,
    /// `sign`: what is signed.
    sign: Pattern,
    /// `headers` that carry it.
    headers: Vec<(HeaderName, Pattern)>,
    /// `params` that carry it; those without the signature are there when it is made.
    params: Vec<(String, Pattern)>,
}

/// `algorithm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA-256.
    Sha256,
    /// HMAC-SHA-512.
    Sha512,
    /// HMAC-SHA-1, for APIs that know no better.
    Sha1,
}

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Text,
    /// Lower-case hexadecimal.
    Hex,
    /// Base64 with its padding.
    Base64,
}

/// How a time is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Seconds since 1970.
    Unix,
    /// Milliseconds since 1970.
    UnixMillis,
    /// `2026-01-31T09:00:00Z`.
    Iso8601,
    /// `Sat, 31 Jan 2026 09:00:00 GMT`.
    Http,
}

/// What a request has that can be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Method,
    Host,
    Path,
    Query,
    Url,
    Body,
    BodySha256,
    Timestamp,
    Nonce,
    KeyId,
    Signature,
}

impl Piece {
    const ALL: [(&str, Self); 11] = [
        ("method", Self::Method),
        ("host", Self::Host),
        ("path", Self::Path),
        ("query", Self::Query),
        ("url", Self::Url),
        ("body", Self::Body),
        ("body_sha256", Self::BodySha256),
        ("timestamp", Self::Timestamp),
        ("nonce", Self::Nonce),
        ("key_id", Self::KeyId),
        ("signature", Self::Signature),
    ];
}

/// A text with pieces of a request in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Piece(Piece),
}

impl Pattern {
    fn parse(text: &str, is_signed: bool) -> Result<Self, Words> {
        let known = Piece::ALL.iter().filter(|(_, piece)| !is_signed || *piece != Piece::Signature);
        let names = || known.clone().map(|(name, _)| format!("`{{{name}}}`")).collect::<Vec<_>>().join(", ");
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..];
            if let Some((doubled, after)) = ["{{", "}}"].iter().find_map(|two| Some((two, brace.strip_prefix(two)?))) {
                plain.push_str(&doubled[1..]);
                rest = after;
                continue;
            }
            let named = brace.strip_prefix('{').and_then(|inside| inside.split_once('}'));
            let Some((name, after)) = named else {
                return Err(Words::new(
                    "A brace stands alone: write `{{` and `}}` for braces.",
                    "対になっていない波括弧があります。波括弧そのものは `{{` と `}}` と書いてください。",
                ));
            };
            let Some((_, piece)) = known.clone().find(|(word, _)| *word == name.trim()) else {
                let (name, names) = (name.trim(), names());
                return Err(say!(
                    "`{{{name}}}` is not known here. Known are {names}.",
                    "`{{{name}}}` はここでは使えません。使えるもの: {names}。"
                ));
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Piece(*piece));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    fn has(&self, piece: Piece) -> bool {
        self.0.contains(&Part::Piece(piece))
    }

    fn fill(&self, value: impl Fn(Piece, &mut Vec<u8>)) -> Vec<u8> {
        let mut filled = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.extend_from_slice(text.as_bytes()),
                Part::Piece(piece) => value(*piece, &mut filled),
            }
        }
        filled
    }
}

impl Signing {
    /// Reads the fields of `auth`.
    pub(super) fn parse(auth: &mut Fields) -> Option<Self> {
        let secret = auth.required_string("secret");
        let encodings = [("text", Encoding::Text), ("hex", Encoding::Hex), ("base64", Encoding::Base64)];
        let secret_encoding = auth.choice("secret_encoding", &encodings).unwrap_or(Encoding::Text);
        if let Some(secret) = secret.as_deref().filter(|secret| *secret != KEPT_SECRET)
            && decoded(secret, secret_encoding).is_none()
        {
            auth.fail(
                "secret",
                Words::new(
                    "It is not written in its `secret_encoding`.",
                    "`secret_encoding` の形式で書かれていません。",
                ),
            );
        }
        let key_id = auth.string("key_id");
        let algorithms = [("sha256", Algorithm::Sha256), ("sha512", Algorithm::Sha512), ("sha1", Algorithm::Sha1)];
        let algorithm = auth.choice("algorithm", &algorithms).unwrap_or(Algorithm::Sha256);
        let encoding = auth.choice("encoding", &encodings[1..]).unwrap_or(Encoding::Hex);
        let stamps =
            [("unix", Stamp::Unix), ("unix_ms", Stamp::UnixMillis), ("iso8601", Stamp::Iso8601), ("http", Stamp::Http)];
        let timestamp = auth.choice("timestamp", &stamps).unwrap_or(Stamp::Unix);
        let sign = auth.required_string("sign").and_then(|text| match Pattern::parse(&text, true) {
            Ok(sign) => Some(sign),
            Err(words) => {
                auth.fail("sign", words);
                None
            }
        });
        let has_headers = auth.has("headers");
        let headers = headers(auth);
        let params = patterns(auth, "params");
        let carries = headers.iter().map(|(_, pattern)| pattern).chain(params.iter().map(|(_, pattern)| pattern));
        let all: Vec<&Pattern> = carries.chain(&sign).collect();
        if key_id.is_none() && all.iter().any(|pattern| pattern.has(Piece::KeyId)) {
            auth.fail(
                "key_id",
                Words::new("This field is required with `{key_id}`.", "`{key_id}` を使うときは必須です。"),
            );
        }
        if !all.iter().any(|pattern| pattern.has(Piece::Signature)) {
            auth.fail(
                if has_headers { "headers" } else { "params" },
                Words::new(
                    "Put `{signature}` into a value of `headers` or `params`.",
                    "`headers` か `params` の値に `{signature}` を入れてください。",
                ),
            );
        }
        let (secret, sign) = (SecretString::from(secret?), sign?);
        Some(Self { secret, secret_encoding, key_id, algorithm, encoding, timestamp, sign, headers, params })
    }

    /// Signs a request that is ready to be sent.
    pub(super) fn sign(&self, request: &mut Request, now: DateTime<Utc>) {
        let mut nonce = [0; 16];
        rand::rng().fill_bytes(&mut nonce);
        self.sign_with(request, now, &HEXLOWER.encode(&nonce));
    }

    fn sign_with(&self, request: &mut Request, now: DateTime<Utc>, nonce: &str) {
        let stamp = self.timestamp.write(now);
        let add = |request: &mut Request, signature: Option<&str>| {
            for (name, pattern) in self.params.iter().filter(|(_, p)| p.has(Piece::Signature) == signature.is_some()) {
                let value = pattern.fill(|piece, into| self.write(piece, request, &stamp, nonce, signature, into));
                request.url.query_pairs_mut().append_pair(name, &String::from_utf8_lossy(&value));
            }
        };
        add(request, None);
        let signed = self.sign.fill(|piece, into| self.write(piece, request, &stamp, nonce, None, into));
        let key = decoded(self.secret.expose_secret(), self.secret_encoding).unwrap_or_default();
        let signature = self.algorithm.sign(&key, &signed);
        let signature = match self.encoding {
            Encoding::Base64 => STANDARD.encode(signature),
            Encoding::Hex | Encoding::Text => HEXLOWER.encode(&signature),
        };
        for (name, pattern) in &self.headers {
            let value = pattern.fill(|piece, into| self.write(piece, request, &stamp, nonce, Some(&signature), into));
            // Texts of a config that fit into a header, times, hexadecimal and base64.
            if let Ok(mut value) = HeaderValue::from_bytes(&value) {
                value.set_sensitive(true);
                request.origin_headers.insert(name.clone(), value);
            }
        }
        add(request, Some(&signature));
    }

    fn write(
        &self,
        piece: Piece,
        request: &Request,
        stamp: &str,
        nonce: &str,
        signature: Option<&str>,
        into: &mut Vec<u8>,
    ) {
        let body = || request.body.as_deref().unwrap_or_default();
        let host = || {
            let host = request.url.host_str().unwrap_or_default();
            // As the header `Host` has it.
            request.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
        };
        match piece {
            Piece::Method => into.extend_from_slice(request.method.as_str().as_bytes()),
            Piece::Host => into.extend_from_slice(host().as_bytes()),
            Piece::Path => into.extend_from_slice(request.url.path().as_bytes()),
            Piece::Query => into.extend_from_slice(request.url.query().unwrap_or_default().as_bytes()),
            Piece::Url => into.extend_from_slice(request.url.as_str().as_bytes()),
            Piece::Body => into.extend_from_slice(body()),
            Piece::BodySha256 => into.extend_from_slice(HEXLOWER.encode(&Sha256::digest(body())).as_bytes()),
            Piece::Timestamp => into.extend_from_slice(stamp.as_bytes()),
            Piece::Nonce => into.extend_from_slice(nonce.as_bytes()),
            Piece::KeyId => into.extend_from_slice(self.key_id.as_deref().unwrap_or_default().as_bytes()),
            Piece::Signature => into.extend_from_slice(signature.unwrap_or_default().as_bytes()),
        }
    }
}

impl Algorithm {
    fn sign(self, key: &[u8], text: &[u8]) -> Vec<u8> {
        const ANY: &str = "HMAC takes keys of any length";
        match self {
            Self::Sha256 => {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).expect(ANY);
                mac.update(text);
                mac.finalize().into_bytes().to_vec()
            }
            Self::Sha512 => {
                let mut mac = Hmac::<sha2::Sha512>::new_from_slice(key).expect(ANY);
                mac.update(text);
                mac.finalize().into_bytes().to_vec()
            }
            Self::Sha1 => {
                let mut mac = Hmac::<sha1::Sha1>::new_from_slice(key).expect(ANY);
                mac.update(text);
                mac.finalize().into_bytes().to_vec()
            }
        }
    }
}

impl Stamp {
    fn write(self, now: DateTime<Utc>) -> String {
        match self {
            Self::Unix => now.timestamp().to_string(),
            Self::UnixMillis => now.timestamp_millis().to_string(),
            Self::Iso8601 => iso8601(DateTime::from_timestamp(now.timestamp(), 0).unwrap_or(now)),
            Self::Http => now.format("%a, %d %b %Y %H:%M:%S GMT").to_string(),
        }
    }
}

fn patterns(auth: &mut Fields, name: &str) -> Vec<(String, Pattern)> {
    let mut patterns = Vec::new();
    for (key, value) in auth.texts(name) {
        match Pattern::parse(&value, false) {
            Ok(pattern) => patterns.push((key, pattern)),
            Err(words) => auth.fail_inside(name, &key, words),
        }
    }
    patterns
}

fn headers(auth: &mut Fields) -> Vec<(HeaderName, Pattern)> {
    let mut headers = Vec::new();
    for (name, pattern) in patterns(auth, "headers") {
        let fits = pattern.0.iter().all(|part| match part {
            Part::Text(text) => HeaderValue::from_str(text).is_ok(),
            // These may have what a header can not carry.
            Part::Piece(piece) => *piece != Piece::Body,
        });
        match name.parse::<HeaderName>() {
            Ok(header) if header == AUTHORIZATION || !is_set_by_matome(&header) => match fits {
                true => headers.push((header, pattern)),
                false => auth.fail_inside("headers", &name, super::config::not_for_a_header()),
            },
            Ok(_) => auth.fail_inside("headers", &name, set_by_matome()),
            Err(_) => auth.fail_inside("headers", &name, not_a_header_name()),
        }
    }
    headers
}

fn decoded(text: &str, encoding: Encoding) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Text => Some(text.as_bytes().to_vec()),
        Encoding::Base64 => STANDARD.decode(text).ok(),
        Encoding::Hex => HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    fn signing(text: &str) -> Signing {
        let mut fields = Fields::parse(text).unwrap();
        let signing = Signing::parse(&mut fields);
        fields.finish().unwrap();
        signing.unwrap()
    }

    fn signed(signing: &Signing, url: &str, body: Option<&str>) -> Request {
        let mut request = Request::new(Url::parse(url).unwrap());
        request.body = body.map(|body| body.as_bytes().to_vec());
        let now = "2026-01-31T09:00:00.5Z".parse().unwrap();
        signing.sign_with(&mut request, now, "n0nce");
        request
    }

    /// The example in the documentation of Binance's API for signed endpoints.
    #[test]
    fn a_signature_in_the_query_is_the_one_that_its_documentation_prints() {
        let signing = signing(
            r#"{"secret":"NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j","sign":"{query}",
                "params":{"signature":"{signature}"}}"#,
        );
        let query = "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559";
        let request = signed(&signing, &format!("https://h/api/v3/order?{query}"), None);
        let wanted = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71";
        assert_eq!(request.url.query().unwrap(), format!("{query}&signature={wanted}"));
    }

    #[test]
    fn every_piece_of_a_request_can_be_signed_and_sent() {
        let mut signing = signing(
            r#"{"secret":"6b6579","secret_encoding":"hex","key_id":"me","algorithm":"sha1","encoding":"base64","timestamp":"http",
                "sign":"{method}|{host}|{path}|{query}|{url}|{body}|{body_sha256}|{timestamp}|{nonce}|{key_id}|{{}}",
                "headers":{"Authorization":"HMAC {key_id}:{signature}","X-Date":"{timestamp}","X-Nonce":"{nonce}"},
                "params":{"t":"{timestamp}"}}"#,
        );
        let request = signed(&signing, "https://h:8443/a%20b?x=1", Some("body"));
        let empty = "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5";
        let date = "Sat, 31 Jan 2026 09:00:00 GMT";
        let query = "x=1&t=Sat%2C+31+Jan+2026+09%3A00%3A00+GMT";
        let text = format!("GET|h:8443|/a%20b|{query}|https://h:8443/a%20b?{query}|body|{empty}|{date}|n0nce|me|{{}}");
        let wanted = STANDARD.encode(Algorithm::Sha1.sign(b"key", text.as_bytes()));
        let header = |name: &str| request.origin_headers[name].to_str().unwrap().to_owned();
        assert_eq!(header("authorization"), format!("HMAC me:{wanted}"));
        assert_eq!((header("x-date"), header("x-nonce")), (date.to_owned(), "n0nce".to_owned()));
        assert!(request.origin_headers["authorization"].is_sensitive());
        for (stamp, wanted) in [
            (Stamp::Unix, "1769850000"),
            (Stamp::UnixMillis, "1769850000500"),
            (Stamp::Iso8601, "2026-01-31T09:00:00Z"),
        ] {
            signing.timestamp = stamp;
            assert_eq!(signed(&signing, "https://h/", None).origin_headers["x-date"], wanted);
        }
    }

    /// RFC 2202, case 2, and RFC 4231, case 2.
    #[test]
    fn algorithms_agree_with_their_test_vectors() {
        let sign = |algorithm: Algorithm| HEXLOWER.encode(&algorithm.sign(b"Jefe", b"what do ya want for nothing?"));
        assert_eq!(sign(Algorithm::Sha1), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        assert_eq!(sign(Algorithm::Sha256), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(
            sign(Algorithm::Sha512).starts_with("164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554")
        );
    }

    #[test]
    fn what_can_not_be_signed_is_refused_at_its_field() {
        for (config, path) in [
            (r#"{"sign":"{path}","headers":{"X-S":"{signature}"}}"#, "secret"),
            (r#"{"secret":"s","headers":{"X-S":"{signature}"}}"#, "sign"),
            (r#"{"secret":"s","sign":"{signature}","headers":{"X-S":"{signature}"}}"#, "sign"),
            (r#"{"secret":"s","sign":"{paths}","headers":{"X-S":"{signature}"}}"#, "sign"),
            (r#"{"secret":"s","sign":"{path","headers":{"X-S":"{signature}"}}"#, "sign"),
            (r#"{"secret":"s","sign":"{path}","headers":{"X-S":"{timestamp}"}}"#, "headers"),
            (r#"{"secret":"s","sign":"{path}"}"#, "params"),
            (r#"{"secret":"s","sign":"{path}","headers":{"Host":"{signature}"}}"#, "headers.Host"),
            (r#"{"secret":"s","sign":"{path}","headers":{"X-S":"{signature}{body}"}}"#, "headers.X-S"),
            (r#"{"secret":"s","sign":"{key_id}","headers":{"X-S":"{signature}"}}"#, "key_id"),
            (r#"{"secret":"xyz","secret_encoding":"hex","sign":"x","headers":{"X-S":"{signature}"}}"#, "secret"),
            (r#"{"secret":"s","algorithm":"md5","sign":"x","headers":{"X-S":"{signature}"}}"#, "algorithm"),
        ] {
            let mut fields = Fields::parse(config).unwrap();
            Signing::parse(&mut fields);
            let errors = fields.finish().unwrap_err();
            assert!(errors.iter().any(|error| error.path.join(".") == path), "{config}: {errors:?}");
        }
    }
}
