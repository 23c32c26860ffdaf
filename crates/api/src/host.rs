//! Which names this server answers to, against DNS rebinding and forged links.

use std::net::IpAddr;

use http::header;
use http::request::Parts;
use http::uri::Authority;

use crate::error::{ApiError, Result};
use crate::state::ApiSettings;

/// Where absolute links of an answer start: `http://127.0.0.1:8000`.
///
/// # Errors
/// 400 when the Host header is missing, malformed, or none of ours.
pub(crate) fn origin(settings: &ApiSettings, request: &Parts, is_local: bool) -> Result<String> {
    let given = match request.uri.authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => {
            let header = request.headers.get(header::HOST);
            header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
        }
    };
    if is_local {
        // The socket has no name; nothing but the owner reads the links.
        let host = if given.parse::<Authority>().is_ok() { given.as_str() } else { "localhost" };
        return Ok(format!("http://{host}"));
    }
    match given.parse::<Authority>() {
        Ok(authority) if !given.contains('@') && is_allowed(settings, authority.host()) => {
            Ok(format!("{}://{}", settings.scheme, authority))
        }
        _ => Err(ApiError::BadHost(given.chars().take(255).collect())),
    }
}

fn is_allowed(settings: &ApiSettings, host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if settings.allowed_hosts.is_empty() {
        let Ok(address) = bare.parse::<IpAddr>() else { return bare == "localhost" || bare.ends_with(".localhost") };
        return address.is_loopback() || settings.bind.is_some_and(|bind| bind == address);
    }
    settings.allowed_hosts.iter().any(|allowed| {
        let allowed = allowed.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        match allowed.strip_prefix('.') {
            _ if allowed == "*" => true,
            Some(domain) => bare == domain || bare.ends_with(&allowed),
            None => bare == allowed,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(hosts: &[&str], bind: Option<&str>, host: &str) -> bool {
        let settings = ApiSettings {
            allowed_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            bind: bind.map(|bind| bind.parse().unwrap()),
            ..ApiSettings::default()
        };
        let request = http::Request::builder().uri("/").header(header::HOST, host).body(()).unwrap();
        origin(&settings, &request.into_parts().0, false).is_ok()
    }

    #[test]
    fn without_a_list_loopback_and_the_bind_address_are_allowed() {
        for host in ["127.0.0.1:8000", "localhost", "[::1]:80", "LOCALHOST:1", "192.0.2.7"] {
            assert!(allowed(&[], Some("192.0.2.7"), host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "192.0.2.8", "", "user@localhost", "a b"] {
            assert!(!allowed(&[], Some("192.0.2.7"), host), "{host}");
        }
    }

    #[test]
    fn a_list_names_hosts_domains_or_everything() {
        assert!(allowed(&["data.example"], None, "data.example:443"));
        assert!(!allowed(&["data.example"], None, "localhost"));
        assert!(allowed(&[".example"], None, "a.b.example") && allowed(&[".example"], None, "example"));
        assert!(!allowed(&[".example"], None, "notexample"));
        assert!(allowed(&["*"], None, "anything.at.all"));
    }
}
