//! The options that say where a server is, and how it is reached.

use matome_model::field_error::Words;
use secrecy::SecretString;
use url::Url;

use super::config::{Engine, no_nul};
use crate::config::Fields;
use crate::error::ConnectorError;
use crate::file::FileRoots;
use crate::record::Position;
use crate::tls::{Pem, TlsOptions, machine_authorities};

/// A server, and who asks it.
#[derive(Clone, Debug)]
pub struct Server {
    /// `host`: a name or an address.
    pub host: String,
    /// `port`: 5432 or 3306 by default.
    pub port: u16,
    /// `database`: its name.
    pub database: String,
    /// `user`: who reads; best a role that may do nothing else.
    pub user: String,
    /// `password`: a secret.
    pub password: Option<SecretString>,
    /// `tls`: how the connection is encrypted.
    pub tls: Tls,
}

/// `tls`: how a connection is encrypted.
#[derive(Clone, Debug)]
pub struct Tls {
    /// `mode`: `verify-full` (default), `require` or `disable`.
    pub mode: TlsMode,
    /// `ca_file` or `ca`, and what is shown to a server that asks who connects.
    pub certificates: TlsOptions,
}

impl Tls {
    /// The certificates of a connection: those that the server's own is checked with, none where it is not, and what is shown to it.
    pub(super) fn read(&self, roots: &FileRoots, position: &Position) -> Result<Pem, ConnectorError> {
        let mut pem = self.certificates.read(roots, position)?;
        if self.mode == TlsMode::VerifyFull {
            pem.authorities = [machine_authorities(), pem.authorities].concat();
        }
        Ok(pem)
    }
}

/// `tls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// TLS, with a certificate of a known authority for `host`.
    VerifyFull,
    /// TLS with any certificate: nobody listens in, but who answers is not known.
    Require,
    /// No TLS.
    Disable,
}

/// `url`, and the engine that its scheme names, also where something else is wrong with it.
pub(super) fn url(fields: &mut Fields) -> Option<(Engine, Url)> {
    let text = fields.string("url")?;
    let url = match Url::parse(&text) {
        Ok(url) => url,
        Err(error) => {
            let words = Words::new(
                format!("Not an address: {error}. Write for example `postgres://host:5432/database`."),
                format!("アドレスではありません: {error}。例: `postgres://host:5432/database`。"),
            );
            fields.fail("url", words);
            return None;
        }
    };
    let engine = Engine::of_scheme(url.scheme()).filter(|_| url.host_str().is_some_and(|host| !host.is_empty()));
    if engine.is_none() {
        let words = Words::new(
            "Give the address of a server, such as `postgres://host:5432/database` or `mysql://host:3306/database`.",
            "サーバーのアドレスを指定してください。例: `postgres://host:5432/database`、`mysql://host:3306/database`。",
        );
        fields.fail("url", words);
    } else if url.password().is_some() {
        let words = Words::new(
            "Leave the password out and give it as `password`: there it is encrypted and never shown.",
            "パスワードは外して `password` に書いてください。そこでは暗号化され、表示されません。",
        );
        fields.fail("url", words);
    } else if url.query().is_some() || url.fragment().is_some() {
        let words = Words::new(
            "Leave out what begins with `?` or `#`; use `tls` and `options`.",
            "`?` や `#` から後は外し、`tls` と `options` を使ってください。",
        );
        fields.fail("url", words);
    }
    engine.map(|engine| (engine, url))
}

/// A server, out of the options beside `url`.
pub(super) fn parse(fields: &mut Fields, engine: Engine, url: Option<Url>) -> Option<Server> {
    let decoded = |text: &str| percent_decoded(text);
    let mut given = |name: &str, inside: Option<String>| -> Option<String> {
        if inside.is_some() && fields.has(name) {
            fields.raw(name);
            let words = Words::new("`url` says it already.", "`url` にもう書かれています。");
            fields.fail(name, words);
            return inside;
        }
        inside.or_else(|| fields.required_string(name))
    };
    let part = |text: &str| (!text.is_empty()).then(|| decoded(text));
    let host = given("host", url.as_ref().and_then(Url::host_str).map(|host| host.trim_matches(['[', ']']).to_owned()));
    let database = given("database", url.as_ref().and_then(|url| part(url.path().trim_start_matches('/'))));
    let user = given("user", url.as_ref().and_then(|url| part(url.username())));
    let port = match url.as_ref().and_then(Url::port) {
        Some(port) => Some(u64::from(port)),
        None => fields.integer("port", 1, u64::from(u16::MAX)),
    };
    let password = match fields.has("password") {
        true => fields.string("password").map(SecretString::from),
        false => None,
    };
    let tls = tls(fields);
    for (name, value) in [("database", &database), ("user", &user)] {
        if value.as_deref().is_some_and(|value| value.contains('\0')) {
            fields.fail(name, no_nul());
        }
    }
    let host = host.and_then(|host| named(fields, &host));
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(engine.default_port());
    Some(Server { host: host?, port, database: database?, user: user?, password, tls })
}

/// The host in the one spelling that is dialled and that certificates are for.
fn named(fields: &mut Fields, host: &str) -> Option<String> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>() {
        return Some(address.to_string());
    }
    let words = match url::Host::parse(host) {
        Ok(host) => return Some(host.to_string()),
        Err(_) if host.starts_with('/') => Words::new(
            "Sockets in the file system are not reached. Give a host name or an address.",
            "ファイルシステムのソケットには接続しません。ホスト名かアドレスを指定してください。",
        ),
        Err(_) => Words::new("It is no host name and no address.", "ホスト名でもアドレスでもありません。"),
    };
    fields.fail("host", words);
    None
}

fn percent_decoded(text: &str) -> String {
    url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

fn tls(fields: &mut Fields) -> Tls {
    let mut tls = Tls { mode: TlsMode::VerifyFull, certificates: TlsOptions::default() };
    let Some(mut own) = fields.nested("tls") else { return tls };
    let words = [("verify-full", TlsMode::VerifyFull), ("require", TlsMode::Require), ("disable", TlsMode::Disable)];
    tls.mode = own.choice("mode", &words).unwrap_or(TlsMode::VerifyFull);
    let authorities = TlsOptions::AUTHORITIES.into_iter().find(|name| own.has(name));
    let client = TlsOptions::CLIENT.into_iter().find(|name| own.has(name));
    tls.certificates = TlsOptions::parse_inside(&mut own);
    if let Some(name) = authorities.filter(|_| tls.mode != TlsMode::VerifyFull) {
        let words = Words::new(
            "Certificates are looked at with the mode `verify-full` only.",
            "証明書を確かめるのはモード `verify-full` だけです。",
        );
        own.fail(name, words);
    }
    if let Some(name) = client.filter(|_| tls.mode == TlsMode::Disable) {
        own.fail(
            name,
            Words::new("Without TLS no certificate is shown.", "TLS を使わないときは、証明書を見せません。"),
        );
    }
    fields.absorb(own);
    tls
}
