//! Why TLS does not come about, and what to do.

use std::error::Error;
use std::io;

use matome_model::clock::{Timestamp, iso8601};
use matome_model::field_error::Words;
use matome_model::say;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::verifier::{SelfSigned, is_of_authority};
use crate::error::chain;

/// So many names of a certificate are told.
const NAMES: usize = 5;

/// Why TLS does not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The server's certificate is no longer valid, since this day where it is known.
    Expired(Option<String>),
    /// It is not valid before this day.
    NotYetValid(Option<String>),
    /// It is for other names.
    WrongName(Vec<String>),
    /// Nobody but its own key has signed it.
    SelfSigned,
    /// Nobody known here has signed it.
    UnknownIssuer,
    /// It is that of an authority, and not one that is named.
    Authority,
    /// It is not accepted for another reason.
    Certificate,
    /// The server wants to see a certificate of the client.
    Wanted,
    /// The server does not go on.
    Refused,
    /// The two sides have no version or method in common.
    Incompatible,
    /// What answers does not speak TLS.
    NoTls,
    /// The connection ended before TLS stood.
    BrokenOff,
}

impl TlsFault {
    /// What an error, or one of its causes, says of TLS.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        chain(error).find_map(|error| error.downcast_ref::<rustls::Error>()).and_then(Self::of_tls)
    }

    /// The same of one that came before TLS stood.
    pub(crate) fn of_opening(error: &(dyn Error + 'static)) -> Option<Self> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let is_end = |error: &io::Error| matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe);
        let has_ended = || chain(error).any(|error| error.downcast_ref().is_some_and(is_end));
        Self::of(error).or_else(|| has_ended().then_some(Self::BrokenOff))
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        use rustls::Error as E;
        Some(match error {
            E::InvalidCertificate(error) => Self::of_certificate(error),
            E::NoCertificatesPresented | E::UnsupportedNameType => Self::Certificate,
            E::AlertReceived(AlertDescription::CertificateRequired) => Self::Wanted,
            E::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity)
            | E::PeerIncompatible(_) => Self::Incompatible,
            E::AlertReceived(AlertDescription::InternalError | AlertDescription::UserCanceled) => Self::BrokenOff,
            E::AlertReceived(_) => Self::Refused,
            E::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
                Self::NoTls
            }
            _ => return None,
        })
    }

    fn of_certificate(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::Expired => Self::Expired(None),
            E::ExpiredContext { not_after, .. } => Self::Expired(day(*not_after)),
            E::NotValidYet => Self::NotYetValid(None),
            E::NotValidYetContext { not_before, .. } => Self::NotYetValid(day(*not_before)),
            E::NotValidForName => Self::WrongName(Vec::new()),
            E::NotValidForNameContext { presented, .. } => {
                Self::WrongName(presented.iter().map(|name| bare(name)).collect())
            }
            E::UnknownIssuer => Self::UnknownIssuer,
            E::Other(other) if other.0.is::<SelfSigned>() => Self::SelfSigned,
            error if is_of_authority(error) => Self::Authority,
            _ => Self::Certificate,
        }
    }

    /// Whether it may come about at another time.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::BrokenOff)
    }

    /// What is wrong, and what to do. The options of `tls` are those of sources.
    pub fn words(&self) -> Words {
        match self {
            Self::Expired(until) => {
                let until = until.as_deref().map(|day| format!(" ({day})")).unwrap_or_default();
                say!(
                    "the server's certificate has expired{until}; have it renewed there",
                    "サーバーの証明書の有効期限が切れています{until}。サーバー側で更新してください"
                )
            }
            Self::NotYetValid(from) => {
                let from = from.as_deref().map(|day| format!(" ({day})")).unwrap_or_default();
                say!(
                    "the server's certificate is not valid yet{from}; look at the clock of this machine, and at that of the server",
                    "サーバーの証明書はまだ有効ではありません{from}。このマシンとサーバーの時計を確かめてください"
                )
            }
            Self::WrongName(names) => {
                let names: Vec<String> = names.iter().take(NAMES).map(|name| format!("`{name}`")).collect();
                let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
                say!(
                    "the server's certificate is for another name{names}; ask for the host by a name that it has",
                    "サーバーの証明書は別の名前のものです{names}。証明書にある名前でホストを指定してください"
                )
            }
            Self::SelfSigned => Words::new(
                "nobody known here has signed the server's certificate, it is signed by itself; if it is the right one, give it as `tls.ca_file`",
                "サーバーの証明書は自己署名で、保証する認証局がありません。正しいものなら、その証明書を `tls.ca_file` に指定してください",
            ),
            Self::UnknownIssuer => Words::new(
                "nobody known here has signed the server's certificate; give the certificate of its authority as `tls.ca_file`",
                "サーバーの証明書の発行者が知られていません。発行した認証局の証明書を `tls.ca_file` に指定してください",
            ),
            Self::Authority => Words::new(
                "the server shows the certificate of an authority (`CA:TRUE`) as its own, as `openssl req -x509` makes them; if it is the right one, give just that certificate as `tls.ca_file`",
                "サーバーが認証局の証明書 (`CA:TRUE`、`openssl req -x509` が作るもの) を自分の証明書として使っています。正しいものなら、その証明書そのものを `tls.ca_file` に指定してください",
            ),
            Self::Certificate => {
                Words::new("the server's certificate is not accepted", "サーバーの証明書を受け入れられません")
            }
            Self::Wanted => Words::new(
                "the server wants to see a certificate of the client; give `tls.cert_file` and `tls.key_file`",
                "サーバーがクライアントの証明書を求めています。`tls.cert_file` と `tls.key_file` を指定してください",
            ),
            Self::Refused => Words::new(
                "the server breaks TLS off; look at `tls.cert_file` and `tls.key_file` if it wants to see a certificate",
                "サーバーが TLS を打ち切りました。証明書を求めるサーバーなら `tls.cert_file` と `tls.key_file` を確かめてください",
            ),
            Self::Incompatible => Words::new(
                "the server speaks no TLS that is safe (1.2 or 1.3 with today's methods); have it brought up to date",
                "サーバーの TLS が古く、安全な方式 (1.2 か 1.3) で接続できません。サーバーを更新してください",
            ),
            Self::NoTls => Words::new(
                "what answers there does not speak TLS; look at the port, or give the address without TLS (`http://`, `ws://`)",
                "応答した相手が TLS を話しません。ポートを確かめるか、TLS のないアドレス (`http://`、`ws://`) を指定してください",
            ),
            Self::BrokenOff => Words::new(
                "the connection ended before TLS stood; if that stays so, what answers there may not speak TLS: look at the port and the scheme",
                "TLS が成立する前に接続が切れました。続くようなら、相手が TLS を話さないのかもしれません。ポートとスキームを確かめてください",
            ),
        }
    }
}

/// A name without its kind, `localhost` of `DnsName("localhost")`.
fn bare(name: &str) -> String {
    let inside = name.split_once('(').map_or(name, |(_, inside)| inside.strip_suffix(')').unwrap_or(inside));
    inside.trim_matches('"').to_owned()
}

fn day(time: UnixTime) -> Option<String> {
    let time = Timestamp::from_timestamp(i64::try_from(time.as_secs()).ok()?, 0)?;
    Some(iso8601(time).chars().take(10).collect())
}
