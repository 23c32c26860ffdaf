//! AWS Signature Version 4: how a request says who asks a service of AWS, or one that is compatible.

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use matome_egress::Request;
use matome_egress::header::{AUTHORIZATION, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

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
    let (time, date) = (now.format("%Y%m%dT%H%M%SZ").to_string(), now.format("%Y%m%d").to_string());
    let payload = hex(&Sha256::digest(request.body.as_deref().unwrap_or_default()));
    let mut signed =
        vec![("host", host(request)), ("x-amz-content-sha256", payload.clone()), ("x-amz-date", time.clone())];
    if let Some(token) = &key.session_token {
        signed.push(("x-amz-security-token", token.expose_secret().to_owned()));
    }
    let headers: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let canonical =
        [request.method.as_str(), &path(request, scope.service), &query(request), &headers, &names, &payload]
            .join("\n");
    let scope_text = format!("{date}/{}/{}/aws4_request", scope.region, scope.service);
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope_text}\n{}", hex(&Sha256::digest(canonical)));
    let first = format!("AWS4{}", key.secret.expose_secret()).into_bytes();
    let derived = [date.as_str(), scope.region, scope.service, "aws4_request", &to_sign];
    let signature = hex(&derived.into_iter().fold(first, |key, text| hmac(&key, text)));
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={}/{scope_text},SignedHeaders={names},Signature={signature}", key.id);
    for (name, value) in signed.into_iter().skip(1).chain([(AUTHORIZATION.as_str(), authorization)]) {
        // Key and token parsed as headers when the config was checked.
        if let (Ok(name), Ok(mut value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            value.set_sensitive(name == AUTHORIZATION || name == "x-amz-security-token");
            request.origin_headers.insert(name, value);
        }
    }
}

fn host(request: &Request) -> String {
    let host = request.url.host_str().unwrap_or_default();
    request.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// S3 wants the path as it is sent, every other service encoded once more.
fn path(request: &Request, service: &str) -> String {
    let path = request.url.path();
    if service == "s3" { path.to_owned() } else { encoded_path(path) }
}

fn query(request: &Request) -> String {
    let pairs = request.url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
