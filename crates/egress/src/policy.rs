//! What may be reached: public addresses, and what the operator allowed besides.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::address;
use crate::error::EgressError;

/// One `--egress-allow CIDR[:PORT]`: a range of addresses that may be reached though it is not public.
///
/// Written `10.0.0.0/8`, `127.0.0.1/32:9000`, `127.0.0.1` (that address alone), `fd00::/8`, `[::1/128]:9000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressRule {
    network: IpNet,
    port: Option<u16>,
}

/// A rule that could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{rule}` is not an address range: {problem}; write for example `10.0.0.0/8`, `127.0.0.1/32:9000` or `[fd00::/8]:443`"
)]
pub struct EgressRuleError {
    rule: String,
    problem: &'static str,
}

impl FromStr for EgressRule {
    type Err = EgressRuleError;

    fn from_str(rule: &str) -> Result<Self, Self::Err> {
        let fail = |problem| EgressRuleError { rule: rule.to_owned(), problem };
        let text = rule.trim();
        let (range, port) = if let Some(rest) = text.strip_prefix('[') {
            let (range, after) = rest.split_once(']').ok_or_else(|| fail("`]` is missing"))?;
            match after {
                "" => (range, None),
                _ => (range, Some(after.strip_prefix(':').ok_or_else(|| fail("after `]` only `:PORT` may follow"))?)),
            }
        } else if text.matches(':').count() == 1 {
            text.split_once(':').map(|(range, port)| (range, Some(port))).expect("one colon was counted")
        } else {
            (text, None)
        };
        let port = match port {
            None => None,
            Some(port) => match port.parse::<u16>() {
                Ok(0) | Err(_) => return Err(fail("the port is not a number from 1 to 65535")),
                Ok(port) => Some(port),
            },
        };
        let network = if let Ok(address) = range.parse::<IpAddr>() {
            IpNet::from(address)
        } else {
            let network = range.parse::<IpNet>();
            network.map_err(|_| fail("the part before the port is neither an address nor a CIDR range"))?
        };
        Ok(Self { network: network.trunc(), port })
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.network, self.port) {
            (network, None) => write!(f, "{network}"),
            (IpNet::V4(network), Some(port)) => write!(f, "{network}:{port}"),
            (IpNet::V6(network), Some(port)) => write!(f, "[{network}]:{port}"),
        }
    }
}

/// The addresses that connections may go to. Cheap to clone.
///
/// The default allows public addresses only.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Arc<[EgressRule]>,
}

impl Policy {
    /// Public addresses and those that a rule names.
    pub fn new(rules: impl IntoIterator<Item = EgressRule>) -> Self {
        Self { rules: rules.into_iter().collect() }
    }

    /// Whether a connection to `address` and `port` may be made.
    pub fn allows(&self, address: IpAddr, port: u16) -> bool {
        let canonical = address::canonical(address);
        address::is_global(canonical)
            || self.rules.iter().any(|rule| {
                rule.port.is_none_or(|only| only == port)
                    && (rule.network.contains(&canonical) || rule.network.contains(&address))
            })
    }

    /// Of the addresses `found` for `host`, those that may be reached; connect to these and to no other.
    ///
    /// # Errors
    /// [`EgressError::Resolve`] when there is no address, [`EgressError::Denied`] when none of them is allowed.
    pub fn reachable(&self, host: &str, found: &[IpAddr], port: u16) -> Result<Vec<SocketAddr>, EgressError> {
        let mut allowed: Vec<SocketAddr> = Vec::with_capacity(found.len());
        for address in found.iter().copied().filter(|address| self.allows(*address, port)) {
            let target = SocketAddr::new(address::dialled(address), port);
            if !allowed.contains(&target) {
                allowed.push(target);
            }
        }
        match (allowed.is_empty(), found.first()) {
            (false, _) => Ok(allowed),
            (true, Some(&address)) => Err(self.denied(host, address, port)),
            (true, None) => Err(EgressError::Resolve {
                host: host.to_owned(),
                source: std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"),
            }),
        }
    }

    pub(crate) fn denied(&self, host: &str, address: IpAddr, port: u16) -> EgressError {
        let address = address::canonical(address);
        let remedy = EgressRule { network: IpNet::from(address), port: Some(port) };
        EgressError::Denied { host: host.to_owned(), address, port, remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[&str]) -> Policy {
        Policy::new(rules.iter().map(|rule| rule.parse().unwrap()))
    }

    #[test]
    fn rules_are_read_in_every_form_and_printed_back() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("127.0.0.1", "127.0.0.1/32"),
            ("127.0.0.1:9000", "127.0.0.1/32:9000"),
            ("127.0.0.1/32:9000", "127.0.0.1/32:9000"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1/128"),
            ("[::1]:9000", "[::1/128]:9000"),
            ("[fd00::/8]:443", "[fd00::/8]:443"),
        ] {
            assert_eq!(text.parse::<EgressRule>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn bad_rules_say_what_is_wrong_and_how_to_write_them() {
        for text in ["", "localhost", "10.0.0.0/33", "10.0.0.0/8:0", "10.0.0.0/8:http", "[::1", "[::1]9000", "*"] {
            let message = text.parse::<EgressRule>().unwrap_err().to_string();
            assert!(message.contains("127.0.0.1/32:9000"), "{message}");
        }
    }

    #[test]
    fn a_rule_with_a_port_allows_that_port_only() {
        let policy = policy(&["127.0.0.1/32:9000"]);
        assert!(policy.allows([127, 0, 0, 1].into(), 9000));
        assert!(policy.allows("::ffff:127.0.0.1".parse().unwrap(), 9000));
        assert!(!policy.allows([127, 0, 0, 1].into(), 9001));
        assert!(!policy.allows([127, 0, 0, 2].into(), 9000));
    }

    #[test]
    fn a_denied_address_is_named_with_its_remedy() {
        let denied = |address: &str, port| {
            let error = Policy::default().reachable("h", &[address.parse().unwrap()], port).unwrap_err();
            assert!(matches!(error, EgressError::Denied { .. }), "{error}");
            error.to_string()
        };
        assert!(denied("127.0.0.1", 9000).contains("--egress-allow 127.0.0.1/32:9000"));
        assert!(denied("::1", 80).contains("--egress-allow [::1/128]:80"));
    }

    #[test]
    fn only_allowed_addresses_of_a_name_are_dialled() {
        let found: Vec<IpAddr> = ["10.0.0.1", "::1", "127.0.0.1", "::ffff:127.0.0.1", "8.8.8.8"]
            .map(|address| address.parse().unwrap())
            .into();
        let reachable = policy(&["127.0.0.1"]).reachable("h", &found, 80).unwrap();
        assert_eq!(reachable, ["127.0.0.1:80".parse().unwrap(), "8.8.8.8:80".parse().unwrap()]);
        assert!(matches!(Policy::default().reachable("h", &[], 80), Err(EgressError::Resolve { .. })));
    }
}
