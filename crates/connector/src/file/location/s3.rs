//! S3, and what speaks like it.

use std::sync::Arc;

use futures::future::BoxFuture;
use matome_egress::{Request, StatusCode};
use matome_model::field_error::Words;
use matome_model::say;
use percent_encoding::percent_decode_str;
use url::Url;

use super::Location;
use super::listing::{Object, Page, each_element, size_of};
use super::objects::{Objects, Store, beneath, container_and_key, endpoint_of, list_of};
use super::place::Reach;
use super::web::Server;
use crate::config::Fields;
use crate::error::{ConnectorError, PlaceFault};
use crate::sigv4::{self, AwsKey, Scope};

/// `s3://bucket/key`.
#[derive(Clone, Debug)]
pub struct S3Place {
    /// The bucket.
    pub bucket: String,
    /// The name of an object, a pattern of some, or a directory: empty, or with `/` at its end.
    pub key: String,
    /// `s3.region`: default `us-east-1`.
    pub region: String,
    /// What the names of objects are appended to, of `s3.endpoint` and `s3.style`.
    pub base: Url,
    /// `s3.access_key_id` and what belongs to it; without one, nobody in particular asks.
    pub credentials: Option<AwsKey>,
}

impl S3Place {
    pub(super) fn parse(fields: &mut Fields, path: &str) -> Option<Self> {
        let named = container_and_key(path, "s3://bucket/orders/*.csv");
        let (mut region, mut endpoint, mut by_host, mut credentials) = (None, None, None, None);
        if let Some(mut own) = fields.nested("s3") {
            region = own.string("region");
            if region.as_deref().is_some_and(|region| region.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-'))
            {
                own.fail("region", Words::new("It is no name of a region.", "リージョンの名前ではありません。"));
            }
            endpoint = endpoint_of(&mut own);
            by_host = own.choice("style", &[("path", false), ("host", true)]);
            credentials = credentials_of(&mut own);
            fields.absorb(own);
        }
        let (bucket, key) = match named {
            Ok((bucket, key)) => (bucket.to_owned(), key.to_owned()),
            Err(words) => {
                fields.fail("path", words);
                return None;
            }
        };
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        // A certificate for `*.s3...` is for no bucket with a dot in its name.
        let by_host = by_host.unwrap_or(endpoint.is_none() && !bucket.contains('.'));
        let endpoint = endpoint.or_else(|| format!("https://s3.{region}.amazonaws.com").parse().ok());
        let base = endpoint.and_then(|endpoint| base_of(endpoint, &bucket, by_host));
        let Some(base) = base else {
            let words = say!(
                "The bucket `{bucket}` can not stand before the host; write `\"style\": \"path\"`.",
                "バケット `{bucket}` はホスト名の前に置けません。`\"style\": \"path\"` としてください。"
            );
            fields.fail_inside("s3", "style", words);
            return None;
        };
        Some(Self { bucket, key, region, base, credentials })
    }

    pub(super) fn open(&self, reach: Reach) -> Arc<dyn Location> {
        let reach = Arc::new(reach);
        let store = S3 { place: self.clone(), reach: reach.clone() };
        Arc::new(Objects::new(Arc::new(store), reach, format!("s3://{}/", self.bucket)))
    }
}

/// Who asks, out of the options of a store.
fn credentials_of(own: &mut Fields) -> Option<AwsKey> {
    let missing = Words::new(
        "A key is an `access_key_id` and a `secret_access_key`; give both, or none of them to ask as nobody in particular.",
        "キーは `access_key_id` と `secret_access_key` の組です。両方を指定するか、匿名で読むならどちらも省いてください。",
    );
    if AwsKey::is_given(own) {
        return AwsKey::parse(own, &missing);
    }
    AwsKey::know(own);
    None
}

fn base_of(mut endpoint: Url, bucket: &str, by_host: bool) -> Option<Url> {
    let mut path = endpoint.path().trim_end_matches('/').to_owned();
    if by_host {
        let host = format!("{bucket}.{}", endpoint.host_str()?);
        endpoint.set_host(Some(&host)).ok()?;
    } else {
        path = format!("{path}/{bucket}");
    }
    endpoint.set_path(&format!("{path}/"));
    Some(endpoint)
}

struct S3 {
    place: S3Place,
    reach: Arc<Reach>,
}

impl Server for S3 {
    fn sign<'a>(&'a self, request: &'a mut Request) -> BoxFuture<'a, Result<(), ConnectorError>> {
        if let Some(key) = &self.place.credentials {
            let scope = Scope { region: &self.place.region, service: "s3" };
            sigv4::sign(request, key, scope, self.reach.means.clock.now());
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn explain(&self, status: StatusCode, body: &[u8]) -> Option<(PlaceFault, Words)> {
        let Fault { code, region } = Fault::parse(body);
        let bucket = &self.place.bucket;
        Some(match code.as_str() {
            "RequestTimeTooSkewed" => (
                PlaceFault::Auth,
                Words::new(
                    "the store says that the clock of this machine is wrong (RequestTimeTooSkewed); set it, best by NTP",
                    "このマシンの時計がずれています (RequestTimeTooSkewed)。NTP などで合わせてください",
                ),
            ),
            "NoSuchBucket" => {
                (PlaceFault::Missing, say!("there is no bucket `{bucket}`", "バケット `{bucket}` がありません"))
            }
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired" => (
                PlaceFault::Auth,
                say!(
                    "the store does not take the key ({code}); check `access_key_id`, `secret_access_key` and `session_token` in `s3`",
                    "キーが受け付けられません ({code})。`s3` の `access_key_id`、`secret_access_key`、`session_token` を確かめてください"
                ),
            ),
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => (
                PlaceFault::Auth,
                match self.place.credentials {
                    Some(_) => say!(
                        "the key may not do this ({code}); it needs `s3:GetObject`, and `s3:ListBucket` for a pattern",
                        "このキーには権限がありません ({code})。`s3:GetObject` と、パターンには `s3:ListBucket` が必要です"
                    ),
                    None => say!(
                        "not everybody may do this ({code}); give `access_key_id` and `secret_access_key` in `s3`",
                        "匿名では読めません ({code})。`s3` に `access_key_id` と `secret_access_key` を指定してください"
                    ),
                },
            ),
            "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
                let there = region.unwrap_or_else(|| "?".to_owned());
                let words = say!(
                    "the bucket is in another region ({code}): set `s3.region` to `{there}`",
                    "バケットは別のリージョンにあります ({code})。`s3.region` を `{there}` にしてください"
                );
                (PlaceFault::Answer, words)
            }
            _ if status == StatusCode::MOVED_PERMANENTLY => (
                PlaceFault::Answer,
                Words::new(
                    "the bucket is in another region: set `s3.region`",
                    "バケットは別のリージョンにあります。`s3.region` を指定してください",
                ),
            ),
            _ => return None,
        })
    }
}

impl Store for S3 {
    fn object(&self, key: &str) -> Url {
        beneath(&self.place.base, key)
    }

    fn page(&self, prefix: &str, is_flat: bool, next: Option<&str>) -> Url {
        let own = [("list-type", "2"), ("encoding-type", "url"), ("prefix", prefix)];
        list_of(self.place.base.clone(), &own, is_flat, ("continuation-token", next))
    }

    fn read(&self, page: &[u8]) -> Result<Page, Words> {
        page_of_s3(page)
    }
}

/// What a store says is wrong.
#[derive(Default)]
struct Fault {
    code: String,
    region: Option<String>,
}

impl Fault {
    fn parse(body: &[u8]) -> Self {
        let mut fault = Self::default();
        // What can not be read says nothing.
        let _ = each_element(body, |path, text| {
            match path {
                "Error/Code" => text.clone_into(&mut fault.code),
                "Error/Region" => fault.region = Some(text.to_owned()),
                _ => {}
            }
            Ok(())
        });
        fault
    }
}

/// A page of a list of S3 (`ListObjectsV2`, its names URL-encoded).
pub(in crate::file) fn page_of_s3(page: &[u8]) -> Result<Page, Words> {
    let (mut read, mut object) = (Page::default(), Object::default());
    let (mut is_cut, mut is_list) = (false, false);
    each_element(page, |path, text| {
        match path {
            "ListBucketResult/Contents/Key" => object.key = decoded(text)?,
            "ListBucketResult/Contents/Size" => object.size = size_of(text)?,
            "ListBucketResult/Contents/ETag" => text.clone_into(&mut object.version),
            "ListBucketResult/Contents" => read.objects.push(std::mem::take(&mut object)),
            "ListBucketResult/IsTruncated" => is_cut = text.trim() == "true",
            "ListBucketResult/NextContinuationToken" => read.next = Some(text.to_owned()),
            "ListBucketResult" => is_list = true,
            _ => {}
        }
        Ok(())
    })?;
    if !is_list {
        return Err(Words::new(
            "the answer is no list of objects; check `s3.endpoint`",
            "応答がオブジェクトの一覧ではありません。`s3.endpoint` を確かめてください",
        ));
    }
    if is_cut && read.next.is_none() {
        return Err(Words::new(
            "the list goes on and does not say how",
            "一覧の続きがありますが、その求め方が示されていません",
        ));
    }
    if !is_cut {
        read.next = None;
    }
    Ok(read)
}

/// A name as `encoding-type=url` writes it: blanks as `+`.
fn decoded(text: &str) -> Result<String, Words> {
    let spaced = text.replace('+', " ");
    let name = percent_decode_str(&spaced).decode_utf8();
    name.map(Into::into).map_err(|_| {
        say!("the list has a name that is no UTF-8: `{text}`", "一覧に UTF-8 でない名前があります: `{text}`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_there_is_and_how_to_go_on() {
        let page = |rest: &str| {
            let xml = format!(
                "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Contents><Key>a%2Bb+%E6%9D%B1</Key><ETag>&quot;x&quot;</ETag>\
                 <Size>12</Size></Contents>{rest}</ListBucketResult>"
            );
            page_of_s3(xml.as_bytes())
        };
        let object = Object { key: "a+b 東".into(), size: 12, version: "\"x\"".into() };
        assert_eq!(page("").unwrap(), Page { objects: vec![object.clone()], next: None });
        let next = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>";
        assert_eq!(page(next).unwrap(), Page { objects: vec![object], next: Some("t".into()) });
        assert!(page("<IsTruncated>true</IsTruncated>").unwrap_err().english.contains("does not say how"));
        assert!(page("<Contents><Size>x</Size></Contents>").unwrap_err().english.contains("size"));
        assert!(page_of_s3(b"<html></html>").unwrap_err().english.contains("s3.endpoint"));
    }

    #[test]
    fn a_bucket_stands_before_the_host_or_in_the_path() {
        let base = |endpoint: &str, bucket: &str, by_host| {
            base_of(endpoint.parse().unwrap(), bucket, by_host).map(|url| url.to_string())
        };
        assert_eq!(
            base("https://s3.eu-west-1.amazonaws.com", "b", true).unwrap(),
            "https://b.s3.eu-west-1.amazonaws.com/"
        );
        assert_eq!(base("http://127.0.0.1:9000", "b", false).unwrap(), "http://127.0.0.1:9000/b/");
        assert_eq!(base("https://h/minio/", "a.b", false).unwrap(), "https://h/minio/a.b/");
    }
}
