//! Which addresses are public, after every disguise of an IPv4 address has been taken off.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address that a packet to `address` ends at: IPv4 embedded in IPv6 (mapped, NAT64, 6to4, Teredo, ISATAP) is
/// unwrapped, everything else is itself.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Teredo keeps the client's address with every bit inverted (RFC 4380, section 4).
        [0x2001, 0, .., high, low] => embedded(!high, !low),
        // ISATAP: any prefix, then this interface identifier (RFC 5214, section 6.1). A router of that prefix hands
        // the packet to the IPv4 address; one beneath a prefix that is not public is no public address anyway.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] if v6_is_global(v6) => embedded(high, low),
        _ => address,
    }
}

/// The address to dial: a mapped IPv4 address is dialled as IPv4, so that what was checked is what is reached.
pub(crate) fn dialled(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Whether a canonical address belongs to the public internet (IANA special-purpose registries, 2025).
pub(crate) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4_is_global(v4),
        IpAddr::V6(v6) => v6_is_global(v6),
    }
}

fn v4_is_global(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)            // this network, private, loopback
            | (100, 64..=127, _)        // shared address space (carrier-grade NAT)
            | (169, 254, _)             // link-local, among it the clouds' metadata services
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)           // protocol assignments, documentation
            | (192, 88, 99)             // 6to4 relays, withdrawn
            | (192, 168, _)
            | (198, 18..=19, _)         // benchmarks
            | (198, 51, 100)
            | (203, 0, 113)
            | (224..=255, _, _) // multicast, reserved, broadcast
    )
}

fn v6_is_global(address: Ipv6Addr) -> bool {
    let s = address.segments();
    // Only 2000::/3 is handed out as global unicast.
    (s[0] & 0xe000) == 0x2000
        && !(s[0] == 0x2001 && s[1] < 0x200)    // protocol assignments, Teredo, ORCHID
        && !(s[0] == 0x2001 && s[1] == 0xdb8)   // documentation
        && s[0] != 0x2002                       // 6to4
        && !(s[0] == 0x3fff && s[1] < 0x1000) // documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reachable(text: &str) -> bool {
        is_global(canonical(text.parse().unwrap()))
    }

    #[test]
    fn public_addresses_are_global() {
        for text in ["1.1.1.1", "8.8.8.8", "100.63.0.1", "100.128.0.1", "172.32.0.1", "192.0.1.1", "198.20.0.1"] {
            assert!(reachable(text), "{text}");
        }
        for text in ["2606:4700::1111", "2001:4860:4860::8888", "64:ff9b::8.8.8.8", "::ffff:1.1.1.1", "2002:808:808::1"]
        {
            assert!(reachable(text), "{text}");
        }
    }

    #[test]
    fn special_addresses_are_not_global() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!reachable(text), "{text}");
        }
        for text in [
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "3fff::1",
            "fec0::1",
            "100::1",
            "64:ff9b:1::1",
            "5f00::1",
        ] {
            assert!(!reachable(text), "{text}");
        }
    }

    #[test]
    fn disguised_private_addresses_are_unwrapped() {
        for text in [
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::1",
            "2002:a00:1::",
            "2001:0:4136:e378:8000:63bf:80ff:fffe",
            "::127.0.0.1",
            "::7f00:1",
            "2606:4700::5efe:10.0.0.1",
            "2606:4700::200:5efe:a9fe:a9fe",
            "fe80::5efe:8.8.8.8",
            "2001:db8::5efe:8.8.8.8",
        ] {
            assert!(!reachable(text), "{text}");
        }
        assert_eq!(canonical("2001:0:1:2:3:4:80ff:fffe".parse().unwrap()), IpAddr::from([127, 0, 0, 1]));
    }
}
