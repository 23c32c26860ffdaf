//! Blobs of Azure.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use hmac::{Hmac, KeyInit as _, Mac as _};
use matome_egress::header::{self, AUTHORIZATION, HeaderName, HeaderValue};
use matome_egress::{Request, StatusCode};
use matome_model::field_error::Words;
use matome_model::say;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use url::Url;

use super::Location;
use super::listing::{Object, Page, each_element, size_of};
use super::objects::{Objects, Store, beneath, container_and_key, endpoint_of, list_of};
use super::place::Reach;
use super::web::Server;
use crate::config::Fields;
use crate::error::{ConnectorError, PlaceFault};
use crate::secrets::KEPT_SECRET;

/// The version of the protocol, from before names had two forms.
const PROTOCOL: &str = "2020-10-02";

/// `az://container/name`.
#[derive(Clone, Debug)]
pub struct AzurePlace {
    /// The container.
    pub container: String,
    /// The name of a blob, a pattern of some, or a directory: empty, or with `/` at its end.
    pub key: String,
    /// `azure.account`.
    pub account: String,
    /// What the names of blobs are appended to, of `azure.endpoint`.
    pub base: Url,
    /// Who asks; without one, nobody in particular.
    pub credentials: Option<AzureKey>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum AzureKey {
    /// `azure.account_key`, in Base64.
    Account(SecretString),
    /// `azure.sas`: a shared access signature.
    Sas(SecretString),
}

impl AzurePlace {
    pub(super) fn parse(fields: &mut Fields, path: &str) -> Option<Self> {
        let named = match container_and_key(path, "az://container/orders/*.csv") {
            Ok(named) => Some(named),
            Err(words) => {
                fields.fail("path", words);
                None
            }
        };
        if !fields.has("azure") {
            fields.raw("azure");
            fields.require("azure");
            return None;
        }
        let mut own = fields.nested("azure")?;
        let account = own.required_string("account").filter(|account| {
            let is_name = account.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            if !is_name {
                let words = Words::new(
                    "A name of an account has small letters and digits only.",
                    "アカウント名に使えるのは小文字と数字だけです。",
                );
                own.fail("account", words);
            }
            is_name
        });
        let endpoint = endpoint_of(&mut own);
        let credentials = credentials_of(&mut own);
        fields.absorb(own);
        let (container, key) = named?;
        let account = account?;
        let mut base = endpoint.or_else(|| format!("https://{account}.blob.core.windows.net").parse().ok())?;
        let path = format!("{}/{container}/", base.path().trim_end_matches('/'));
        base.set_path(&path);
        Some(Self { container: container.to_owned(), key: key.to_owned(), account, base, credentials })
    }

    pub(super) fn open(&self, reach: Reach) -> Arc<dyn Location> {
        let reach = Arc::new(reach);
        let store = Azure { place: self.clone(), reach: reach.clone() };
        Arc::new(Objects::new(Arc::new(store), reach, format!("az://{}/", self.container)))
    }
}

fn credentials_of(own: &mut Fields) -> Option<AzureKey> {
    let (has_key, has_sas) = (own.has("account_key"), own.has("sas"));
    let [key, sas] = ["account_key", "sas"].map(|name| own.string(name));
    if has_key && has_sas {
        let words =
            Words::new("Give `account_key` or `sas`, not both.", "`account_key` か `sas` の一方だけにしてください。");
        own.fail("sas", words);
    }
    if key.as_deref().is_some_and(|key| key != KEPT_SECRET && STANDARD.decode(key).is_err()) {
        own.fail("account_key", Words::new("It is no Base64.", "Base64 ではありません。"));
    }
    let sas = sas.map(|sas| sas.trim().trim_start_matches('?').to_owned());
    if sas.as_deref().is_some_and(|sas| sas != KEPT_SECRET && !(sas.contains("sig=") && sas.is_ascii())) {
        let words = Words::new(
            "Give the part of a signed address behind the `?`: `sv=...&sig=...`.",
            "署名付きアドレスの `?` より後を指定してください: `sv=...&sig=...`。",
        );
        own.fail("sas", words);
    }
    key.map(|key| AzureKey::Account(key.into())).or(sas.map(|sas| AzureKey::Sas(sas.into())))
}

struct Azure {
    place: AzurePlace,
    reach: Arc<Reach>,
}

/// Signs a request that is ready to be sent (Shared Key).
fn sign(request: &mut Request, account: &str, key: &SecretString, now: DateTime<Utc>) {
    let date = now.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    for (name, value) in [("x-ms-date", date.as_str()), ("x-ms-version", PROTOCOL)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            request.origin_headers.insert(HeaderName::from_static(name), value);
        }
    }
    let standard = [
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_LENGTH,
        HeaderName::from_static("content-md5"),
        header::CONTENT_TYPE,
        // The time is in a header of its own.
        header::DATE,
        header::IF_MODIFIED_SINCE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_UNMODIFIED_SINCE,
        header::RANGE,
    ];
    let value = |name: HeaderName| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let standard = standard.map(value).join("\n");
    let pairs = request.url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let mut pairs: Vec<String> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| format!("\n{}:{}", decoded(name).to_ascii_lowercase(), decoded(value)))
        .collect();
    pairs.sort();
    let to_sign = format!(
        "{}\n{standard}\nx-ms-date:{date}\nx-ms-version:{PROTOCOL}\n/{account}{}{}",
        request.method,
        request.url.path(),
        pairs.concat()
    );
    // It was looked at when the config was checked.
    let key = STANDARD.decode(key.expose_secret()).unwrap_or_default();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes a key of any length");
    mac.update(to_sign.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    if let Ok(mut value) = HeaderValue::from_str(&format!("SharedKey {account}:{signature}")) {
        value.set_sensitive(true);
        request.origin_headers.insert(AUTHORIZATION, value);
    }
}

impl Server for Azure {
    fn sign<'a>(&'a self, request: &'a mut Request) -> BoxFuture<'a, Result<(), ConnectorError>> {
        match &self.place.credentials {
            Some(AzureKey::Account(key)) => sign(request, &self.place.account, key, self.reach.means.clock.now()),
            Some(AzureKey::Sas(sas)) => {
                let own = request.url.query().map(|query| format!("{query}&")).unwrap_or_default();
                request.url.set_query(Some(&format!("{own}{}", sas.expose_secret())));
            }
            None => {}
        }
        request.origin_headers.insert("x-ms-version", HeaderValue::from_static(PROTOCOL));
        Box::pin(std::future::ready(Ok(())))
    }

    fn explain(&self, status: StatusCode, body: &[u8]) -> Option<(PlaceFault, Words)> {
        let (mut code, mut detail) = (String::new(), String::new());
        // What can not be read says nothing.
        let _ = each_element(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body), |path, text| {
            match path {
                "Error/Code" => text.clone_into(&mut code),
                "Error/AuthenticationErrorDetail" => text.clone_into(&mut detail),
                _ => {}
            }
            Ok(())
        });
        let container = &self.place.container;
        Some(match code.as_str() {
            "ContainerNotFound" => (
                PlaceFault::Missing,
                say!("there is no container `{container}`", "コンテナー `{container}` がありません"),
            ),
            "AuthenticationFailed" if detail.contains("date header") => (
                PlaceFault::Auth,
                Words::new(
                    "the store says that the clock of this machine is wrong; set it, best by NTP",
                    "このマシンの時計がずれています。NTP などで合わせてください",
                ),
            ),
            "AuthenticationFailed" | "InvalidAuthenticationInfo" => (
                PlaceFault::Auth,
                say!(
                    "the store does not take the credentials ({code}); check `account`, and `account_key` or `sas` (and how long it is good for) in `azure`",
                    "認証情報が受け付けられません ({code})。`azure` の `account` と、`account_key` か `sas` (有効期限も) を確かめてください"
                ),
            ),
            _ if code.starts_with("Authorization") || code == "InsufficientAccountPermissions" => (
                PlaceFault::Auth,
                say!(
                    "the credentials may not do this ({code}); they need to read, and to list for a pattern",
                    "この認証情報には権限がありません ({code})。読み取りと、パターンには一覧の権限が必要です"
                ),
            ),
            "PublicAccessNotPermitted" | "NoAuthenticationInformation" | "ResourceNotFound"
                if self.place.credentials.is_none() && status != StatusCode::BAD_REQUEST =>
            {
                (
                    PlaceFault::Auth,
                    say!(
                        "not everybody may read `{container}` ({code}); give `account_key` or `sas` in `azure`",
                        "`{container}` は匿名では読めません ({code})。`azure` に `account_key` か `sas` を指定してください"
                    ),
                )
            }
            _ => return None,
        })
    }
}

impl Store for Azure {
    fn object(&self, key: &str) -> Url {
        beneath(&self.place.base, key)
    }

    fn page(&self, prefix: &str, is_flat: bool, next: Option<&str>) -> Url {
        let mut url = self.place.base.clone();
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        list_of(url, &[("restype", "container"), ("comp", "list"), ("prefix", prefix)], is_flat, ("marker", next))
    }

    fn read(&self, page: &[u8]) -> Result<Page, Words> {
        page_of_azure(page)
    }
}

/// A page of a list of Azure (`List Blobs`).
pub(in crate::file) fn page_of_azure(page: &[u8]) -> Result<Page, Words> {
    const BLOB: &str = "EnumerationResults/Blobs/Blob";
    let (mut read, mut object) = (Page::default(), Object::default());
    let (mut is_folder, mut is_list) = (false, false);
    each_element(page.strip_prefix(b"\xef\xbb\xbf").unwrap_or(page), |path, text| {
        match path.strip_prefix(BLOB) {
            Some("/Name") => text.clone_into(&mut object.key),
            Some("/Properties/Content-Length") => object.size = size_of(text)?,
            Some("/Properties/Etag") => text.clone_into(&mut object.version),
            Some("/Properties/ResourceType") => is_folder = text == "directory",
            Some("") => {
                let object = std::mem::take(&mut object);
                if !std::mem::take(&mut is_folder) {
                    read.objects.push(object);
                }
            }
            _ => {}
        }
        match path {
            "EnumerationResults/NextMarker" => read.next = Some(text.to_owned()).filter(|marker| !marker.is_empty()),
            "EnumerationResults" => is_list = true,
            _ => {}
        }
        Ok(())
    })?;
    if is_list {
        return Ok(read);
    }
    Err(Words::new(
        "the answer is no list of blobs; check `azure.endpoint`",
        "応答が BLOB の一覧ではありません。`azure.endpoint` を確かめてください",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_there_is_and_how_to_go_on() {
        let page = |rest: &str| {
            let blob = |name: &str, more: &str| {
                format!(
                    "<Blob><Name>{name}</Name><Properties><Etag>0x8D</Etag><Content-Length>12</Content-Length>{more}</Properties></Blob>"
                )
            };
            let blobs = blob("a&amp;b", "") + &blob("folder", "<ResourceType>directory</ResourceType>");
            let xml = format!(
                "\u{feff}<?xml version=\"1.0\"?><EnumerationResults><Blobs>{blobs}</Blobs>{rest}</EnumerationResults>"
            );
            page_of_azure(xml.as_bytes())
        };
        let object = Object { key: "a&b".into(), size: 12, version: "0x8D".into() };
        assert_eq!(page("<NextMarker/>").unwrap(), Page { objects: vec![object.clone()], next: None });
        assert_eq!(page("<NextMarker>m</NextMarker>").unwrap(), Page { objects: vec![object], next: Some("m".into()) });
        assert!(page_of_azure(b"<html></html>").unwrap_err().english.contains("azure.endpoint"));
    }
}
