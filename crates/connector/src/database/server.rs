//! The options that say where a server is, and how it is reached.

use matome_model::field_error::Words;
use secrecy::SecretString;
use url::Url;

use super::config::{Engine, no_nul};
use crate::config::Fields;

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
    /// `ca_file`: certificates (PEM) of authorities to trust besides, beneath a file root.
    pub ca_file: Option<String>,
    /// What is shown to a server that asks who connects.
    pub client: Option<ClientCertificate>,
}

/// A certificate (PEM) of the client, with its key.
#[derive(Clone, Debug)]
pub enum ClientCertificate {
    /// `cert_file` and `key_file`, beneath a file root.
    Files {
        /// `cert_file`: the certificate, and those between it and its authority.
        cert: String,
        /// `key_file`.
        key: String,
    },
    /// `cert` and `key` themselves.
    Texts {
        /// `cert`.
        cert: String,
        /// `key`: a secret.
        key: SecretString,
    },
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

/// `url`, and the engine that its scheme names.
pub(super) fn url(fields: &mut Fields) -> Option<(Engine, Url)> {
    let text = fields.string("url")?;
    let url = Url::parse(&text);
    let engine = url.as_ref().ok().and_then(|url| Engine::of_scheme(url.scheme()));
    let wrong = match url {
        Ok(url) if engine.is_none() || url.host_str().is_none_or(str::is_empty) => Words::new(
            "Give the address of a server, such as `postgres://host:5432/database` or `mysql://host:3306/database`.",
            "サーバーのアドレスを指定してください。例: `postgres://host:5432/database`、`mysql://host:3306/database`。",
        ),
        Ok(url) if url.password().is_some() => Words::new(
            "Leave the password out and give it as `password`: there it is encrypted and never shown.",
            "パスワードは外して `password` に書いてください。そこでは暗号化され、表示されません。",
        ),
        Ok(url) if url.query().is_some() || url.fragment().is_some() => Words::new(
            "Leave out what begins with `?` or `#`; use `tls` and `options`.",
            "`?` や `#` から後は外し、`tls` と `options` を使ってください。",
        ),
        Ok(url) => return engine.map(|engine| (engine, url)),
        Err(error) => Words::new(
            format!("Not an address: {error}. Write for example `postgres://host:5432/database`."),
            format!("アドレスではありません: {error}。例: `postgres://host:5432/database`。"),
        ),
    };
    fields.fail("url", wrong);
    None
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
    let mut tls = Tls { mode: TlsMode::VerifyFull, ca_file: None, client: None };
    let Some(mut own) = fields.nested("tls") else { return tls };
    let words = [("verify-full", TlsMode::VerifyFull), ("require", TlsMode::Require), ("disable", TlsMode::Disable)];
    tls.mode = own.choice("mode", &words).unwrap_or(TlsMode::VerifyFull);
    tls.ca_file = own.string("ca_file");
    if tls.ca_file.is_some() && tls.mode != TlsMode::VerifyFull {
        let words = Words::new(
            "Certificates are looked at with the mode `verify-full` only.",
            "証明書を確かめるのはモード `verify-full` だけです。",
        );
        own.fail("ca_file", words);
    }
    tls.client = client(&mut own, tls.mode);
    fields.absorb(own);
    tls
}

fn client(own: &mut Fields, mode: TlsMode) -> Option<ClientCertificate> {
    const NAMES: [&str; 4] = ["cert", "key", "cert_file", "key_file"];
    let given: Vec<&str> = NAMES.into_iter().filter(|name| own.has(name)).collect();
    let [cert, key, cert_file, key_file] = NAMES.map(|name| if own.has(name) { own.string(name) } else { None });
    let first = *given.first()?;
    if mode == TlsMode::Disable {
        own.fail(
            first,
            Words::new("Without TLS no certificate is shown.", "TLS を使わないときは、証明書を見せません。"),
        );
        return None;
    }
    match given.as_slice() {
        ["cert", "key"] => Some(ClientCertificate::Texts { cert: cert?, key: key?.into() }),
        ["cert_file", "key_file"] => Some(ClientCertificate::Files { cert: cert_file?, key: key_file? }),
        _ => {
            let words = Words::new(
                "A certificate goes with its key: `cert` and `key`, or `cert_file` and `key_file`.",
                "証明書と鍵は一緒に指定してください: `cert` と `key`、または `cert_file` と `key_file`。",
            );
            own.fail(first, words);
            None
        }
    }
}
