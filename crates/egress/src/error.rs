//! What can go wrong on the way to the outside.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use matome_model::field_error::Words;
use url::Url;

use crate::policy::EgressRule;
use crate::tls::TlsFault;

/// A request that could not be made or whose answer could not be read.
///
/// Addresses in messages carry neither query nor user information, because both may hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The address is not public and no rule allows it.
    #[error(
        "connections to `{host}` are denied: its address `{address}` is not public; \
         if it is meant to be reached, start matome with `--egress-allow {remedy}`"
    )]
    Denied {
        /// The host as configured.
        host: String,
        /// The address it has, unwrapped.
        address: IpAddr,
        /// The port that was asked for.
        port: u16,
        /// The narrowest rule that would allow it.
        remedy: EgressRule,
    },
    /// Not something that the client can ask for.
    #[error("`{url}` can not be requested: {reason}")]
    Url {
        /// The address without its query.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The name has no address, or the resolver did not answer.
    #[error("`{host}` can not be resolved")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's error.
        #[source]
        source: std::io::Error,
    },
    /// The host said that it takes no requests for longer than is waited for.
    #[error("`{url}` is not asked: its host takes no requests for {} s", wait.as_secs())]
    Closed {
        /// The address without its query.
        url: String,
        /// How long.
        wait: Duration,
    },
    /// No connection, or it broke.
    #[error("`{url}`: {action} failed")]
    Connection {
        /// The address without its query.
        url: String,
        /// What was being done.
        action: &'static str,
        /// The transport's error.
        #[source]
        source: reqwest::Error,
    },
    /// TLS did not come about.
    #[error("`{url}`: {}", fault.words().english)]
    Handshake {
        /// The address without its query.
        url: String,
        /// Why.
        fault: TlsFault,
        /// The transport's error.
        #[source]
        source: reqwest::Error,
    },
    /// No connection of a protocol other than HTTP.
    #[error("no connection to `{peer}`")]
    Dial {
        /// Host and port.
        peer: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// Nobody takes the connection.
    #[error(
        "no connection to `{peer}` within {} s: nothing answers there; look at the address and the port, and whether a \
         firewall is on the way",
        timeout.as_secs_f64()
    )]
    Unanswered {
        /// Host and port.
        peer: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// Nothing came for too long on a connection that stands.
    #[error("`{url}` was connected to, but sent nothing within {} s", timeout.as_secs_f64())]
    Timeout {
        /// The address without its query.
        url: String,
        /// How long was waited for the head of the answer, or for its next bytes.
        timeout: Duration,
    },
    /// A body that comes by drops.
    #[error("the answer of `{url}` comes too slowly: {bytes} bytes within {} s", timeout.as_secs_f64())]
    Slow {
        /// The address without its query.
        url: String,
        /// What came.
        bytes: u64,
        /// How long was waited for it.
        timeout: Duration,
    },
    /// More redirects than are followed.
    #[error("`{url}` redirects more than {limit} times")]
    Redirects {
        /// Where the request started.
        url: String,
        /// How many are followed.
        limit: usize,
    },
    /// A limit on the size of an answer was hit.
    #[error("the answer of `{url}` has {what} beyond the limit of {limit}")]
    TooLarge {
        /// The address without its query.
        url: String,
        /// What is too large.
        what: &'static str,
        /// The limit, in bytes or as a ratio.
        limit: u64,
    },
    /// The answer's compression is unknown or broken.
    #[error("the answer of `{url}` can not be decompressed ({encoding})")]
    Encoding {
        /// The address without its query.
        url: String,
        /// The `content-encoding` it declares.
        encoding: String,
        /// What the decompressor said; none for an unknown encoding.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The HTTP client could not be set up.
    #[error("the http client can not be set up")]
    Client(#[source] reqwest::Error),
    /// A certificate or a key that was given for connections.
    #[error("`tls.{option}` or `tls.{option}_file` can not be used")]
    Certificates {
        /// `ca`, `cert` or `key`.
        option: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// TLS could not be set up.
    #[error("tls can not be set up")]
    Tls(#[source] rustls::Error),
}

impl EgressError {
    /// What it says, in both languages.
    pub fn words(&self) -> Words {
        Words::new(self.to_string(), self.japanese())
    }

    fn japanese(&self) -> String {
        match self {
            Self::Denied { host, address, remedy, .. } => format!(
                "`{host}` への接続は拒否されました。アドレス `{address}` が公開のものではありません。接続してよいものなら、\
                 matome を `--egress-allow {remedy}` を付けて起動してください"
            ),
            Self::Url { url, reason } => {
                let reason = match *reason {
                    "only http and https are spoken" => "使えるのは http と https だけです",
                    "it redirects to something that is no address" => "リダイレクト先がアドレスではありません",
                    "it is no host name" => "ホスト名ではありません",
                    other => other,
                };
                format!("`{url}` には要求を送れません: {reason}")
            }
            Self::Closed { url, wait } => {
                format!("`{url}` には問い合わせません。ホストがあと {} 秒のあいだ要求を受け付けません", wait.as_secs())
            }
            Self::Resolve { host, .. } => format!("`{host}` のアドレスを調べられません"),
            Self::Connection { url, action, .. } => {
                let action = match *action {
                    "the connection" => "接続",
                    "reading the answer" => "応答の読み取り",
                    _ => "要求",
                };
                format!("`{url}`: {action}に失敗しました")
            }
            Self::Handshake { url, fault, .. } => format!("`{url}`: {}", fault.words().japanese),
            Self::Dial { peer, .. } => format!("`{peer}` に接続できません"),
            Self::Unanswered { peer, timeout } => format!(
                "`{peer}` に {} 秒以内に接続できませんでした。応答がありません。アドレスとポート、途中のファイアウォールを確かめて\
                 ください",
                timeout.as_secs_f64()
            ),
            Self::Timeout { url, timeout } => {
                format!("`{url}` に接続しましたが、{} 秒以内に何も届きませんでした", timeout.as_secs_f64())
            }
            Self::Slow { url, bytes, timeout } => {
                format!("`{url}` の応答が遅すぎます: {} 秒で {bytes} バイト", timeout.as_secs_f64())
            }
            Self::Redirects { url, limit } => format!("`{url}` のリダイレクトが {limit} 回を超えました"),
            Self::TooLarge { url, what, limit } => {
                let what = match *what {
                    "header bytes" => "ヘッダーのバイト数",
                    "a compression ratio" => "圧縮率",
                    _ => "本文のバイト数",
                };
                format!("`{url}` の応答の{what}が上限の {limit} を超えています")
            }
            Self::Encoding { url, encoding, .. } => format!("`{url}` の応答を展開できません ({encoding})"),
            Self::Client(_) => "HTTP クライアントを用意できません".to_owned(),
            Self::Certificates { option, .. } => {
                format!("`tls.{option}` か `tls.{option}_file` を使えません")
            }
            Self::Tls(_) => "TLS を用意できません".to_owned(),
        }
    }
}

/// The part of an address that may be shown: no query, no fragment, no user information.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // These two only fail for addresses that can not have user information.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// An error and what it was made of, outermost first.
pub(crate) fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'e (dyn Error + 'static)| {
        // What an error of the system carries is not among its sources.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(carried) => Some(carried as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}
