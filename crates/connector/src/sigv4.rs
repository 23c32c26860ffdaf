//! AWS Signature Version 4: how a request says who asks a service of AWS, or one that is compatible.

use std::time::Instant;

use chrono::{DateTime, Utc};
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use matome_egress::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use matome_egress::{Request, Signer};
use matome_model::field_error::Words;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::api::not_for_a_header;
use crate::config::Fields;

/// What is written as `%XX`, in a value of a query and in a part of a path: everything that is not unreserved (RFC 3986).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const RESERVED_IN_PATHS: &AsciiSet = &RESERVED.remove(b'/');

/// Who asks.
#[derive(Clone, Debug)]
pub struct AwsKey {
    /// `access_key_id`: no secret.
    pub id: String,
    /// `secret_access_key`.
    pub secret: SecretString,
    /// `session_token`, of a key that is good for a time.
    pub session_token: Option<SecretString>,
}

impl AwsKey {
    const FIELDS: [&'static str; 3] = ["access_key_id", "secret_access_key", "session_token"];

    /// Whether any of its fields is given.
    pub(crate) fn is_given(own: &Fields) -> bool {
        Self::FIELDS.iter().any(|name| own.has(name))
    }

    /// Names its fields to whoever asks for one that is not known.
    pub(crate) fn know(own: &mut Fields) {
        Self::FIELDS.iter().for_each(|name| drop(own.raw(name)));
    }

    /// Reads its fields out of those of a store or of `auth`; `missing` is told where one of the first two is.
    pub(crate) fn parse(own: &mut Fields, missing: &Words) -> Option<Self> {
        let given = Self::FIELDS.map(|name| own.has(name));
        let [id, secret, session_token] = Self::FIELDS.map(|name| {
            if own.has(name) {
                own.string(name)
            } else {
                drop(own.raw(name));
                None
            }
        });
        for (name, value) in Self::FIELDS.into_iter().zip([&id, &secret, &session_token]) {
            if value.as_deref().is_some_and(|value| HeaderValue::from_str(value).is_err()) {
                own.fail(name, not_for_a_header());
            }
        }
        for (name, _) in Self::FIELDS.into_iter().zip(given).take(2).filter(|(_, is_given)| !is_given) {
            own.fail(name, missing.clone());
        }
        Some(Self { id: id?, secret: secret?.into(), session_token: session_token.map(Into::into) })
    }
}

/// `auth` of type `aws_sigv4`: requests to AWS, and to what is compatible with it.
#[derive(Clone, Debug)]
pub struct AwsSigning {
    /// `region`: for which region a signature is good.
    pub region: String,
    /// `service`: for which service, as AWS names it in signatures: `execute-api`, `es`, `aps`, `sts`, ...
    pub service: String,
    /// `access_key_id`, `secret_access_key` and `session_token`: who asks.
    pub key: AwsKey,
}

impl AwsSigning {
    /// Reads the fields of `auth`.
    pub(crate) fn parse(auth: &mut Fields) -> Option<Self> {
        let mut name = |field| {
            let text = auth.required_string(field)?;
            let is_name = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            if !is_name {
                let words =
                    Words::new("Letters, digits and `-` make such a name.", "名前に使えるのは英数字と `-` です。");
                auth.fail(field, words);
            }
            is_name.then_some(text)
        };
        let (region, service) = (name("region"), name("service"));
        let key = AwsKey::parse(auth, &Words::required());
        Some(Self { region: region?, service: service?, key: key? })
    }

    /// Has a request that is ready be signed for each address that it goes to.
    pub(crate) fn sign(&self, request: &mut Request, now: DateTime<Utc>) {
        // In forms a space is written as a plus, which this signature takes for a plus.
        if let Some(query) = request.url.query().filter(|query| query.contains('+')) {
            let query = query.replace('+', "%20");
            request.url.set_query(Some(&query));
        }
        let (signing, began) = (self.clone(), Instant::now());
        request.signer = Some(Signer::new(move |request, url| {
            let scope = Scope { region: &signing.region, service: &signing.service };
            headers(request, url, &signing.key, scope, now + began.elapsed())
        }));
    }
}

/// What a signature is good for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
}

/// A text as S3 and its like want it in addresses.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// The same of a path, whose slashes stay.
pub(crate) fn encoded_path(path: &str) -> String {
    utf8_percent_encode(path, RESERVED_IN_PATHS).to_string()
}

/// Signs a request that is ready to be sent: its method, host, path, query and body, and the time. What is added goes to the origin
/// of its address only.
pub(crate) fn sign(request: &mut Request, key: &AwsKey, scope: Scope<'_>, now: DateTime<Utc>) {
    let headers = headers(request, &request.url, key, scope, now);
    request.origin_headers.extend(headers);
}

/// What signs a request that goes to `url`.
fn headers(request: &Request, url: &Url, key: &AwsKey, scope: Scope<'_>, now: DateTime<Utc>) -> HeaderMap {
    let (time, date) = (now.format("%Y%m%dT%H%M%SZ").to_string(), now.format("%Y%m%d").to_string());
    let payload = HEXLOWER.encode(&Sha256::digest(request.body.as_deref().unwrap_or_default()));
    let mut signed = vec![("host", host(url)), ("x-amz-content-sha256", payload.clone()), ("x-amz-date", time.clone())];
    if let Some(token) = &key.session_token {
        signed.push(("x-amz-security-token", token.expose_secret().to_owned()));
    }
    let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let canonical =
        [request.method.as_str(), &path(url, scope.service), &query(url), &lines, &names, &payload].join("\n");
    let scope_text = format!("{date}/{}/{}/aws4_request", scope.region, scope.service);
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope_text}\n{}", HEXLOWER.encode(&Sha256::digest(canonical)));
    let first = format!("AWS4{}", key.secret.expose_secret()).into_bytes();
    let derived = [date.as_str(), scope.region, scope.service, "aws4_request", &to_sign];
    let signature = HEXLOWER.encode(&derived.into_iter().fold(first, |key, text| hmac(&key, text)));
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={}/{scope_text},SignedHeaders={names},Signature={signature}", key.id);
    let mut headers = HeaderMap::new();
    for (name, value) in signed.into_iter().skip(1).chain([(AUTHORIZATION.as_str(), authorization)]) {
        // Key and token parsed as headers when the config was checked.
        if let (Ok(name), Ok(mut value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            value.set_sensitive(name == AUTHORIZATION || name == "x-amz-security-token");
            headers.insert(name, value);
        }
    }
    headers
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// S3 wants the path as it is sent, every other service encoded once more.
fn path(url: &Url, service: &str) -> String {
    let path = url.path();
    if service == "s3" { path.to_owned() } else { encoded_path(path) }
}

fn query(url: &Url) -> String {
    let pairs = url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let canonical =
        |text: &str| utf8_percent_encode(&percent_decode_str(text).decode_utf8_lossy(), RESERVED).to_string();
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (canonical(name), canonical(value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of AWS's documentation of the Authorization header.
    #[test]
    fn the_examples_of_aws_have_their_signatures() {
        let key = AwsKey {
            id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned().into(),
            session_token: None,
        };
        for (url, signature) in [
            ("?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            ("?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
            ("?prefix=J&max-keys=2", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ] {
            let url = format!("https://examplebucket.s3.amazonaws.com/{url}").parse().unwrap();
            let mut request = Request::new(url);
            let scope = Scope { region: "us-east-1", service: "s3" };
            sign(&mut request, &key, scope, "2013-05-24T00:00:00Z".parse().unwrap());
            let sent = request.origin_headers[AUTHORIZATION].to_str().unwrap();
            assert!(sent.ends_with(&format!("Signature={signature}")), "{sent}");
            assert!(sent.contains("Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"), "{sent}");
            assert_eq!(request.origin_headers["x-amz-date"], "20130524T000000Z");
        }
    }

    #[test]
    fn a_session_token_is_signed_and_hidden() {
        let key = AwsKey { id: "k".into(), secret: "s".to_owned().into(), session_token: Some("t".to_owned().into()) };
        let mut request = Request::new("http://127.0.0.1:9000/b/a%20b".parse().unwrap());
        sign(&mut request, &key, Scope { region: "r", service: "s3" }, DateTime::UNIX_EPOCH);
        let sent = request.origin_headers[AUTHORIZATION].to_str().unwrap();
        assert!(sent.contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token"), "{sent}");
        assert!(request.origin_headers["x-amz-security-token"].is_sensitive());
        assert!(!format!("{:?}", request.origin_headers).contains(sent));
    }

    #[test]
    fn what_is_reserved_is_encoded() {
        assert_eq!(encoded("a b/c+d=é~"), "a%20b%2Fc%2Bd%3D%C3%A9~");
        assert_eq!(encoded_path("a b/(c)*!'"), "a%20b/%28c%29%2A%21%27");
    }
}
