//! The ways to write an address, and a trap that counts who comes. Shared with the tests of the connector.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// The ways to write an IPv4 address as IPv6 that some machine would lead back to it.
pub fn embedded(address: Ipv4Addr) -> Vec<Ipv6Addr> {
    let bits = u32::from(address);
    let (high, low) = ((bits >> 16) as u16, bits as u16);
    vec![
        address.to_ipv6_mapped(),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x2001, 0, 0x4136, 0xe378, 0x8000, 0x63bf, !high, !low),
        Ipv6Addr::new(0x2606, 0x4700, 0, 1, 0, 0x5efe, high, low),
        Ipv6Addr::new(0x2606, 0x4700, 0, 1, 0x200, 0x5efe, high, low),
    ]
}

/// The ways to write a host that browsers, C libraries or people take for this IPv4 address.
pub fn spelled(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let bits = u32::from(address);
    let (last_24, last_16) = (bits & 0xff_ffff, bits & 0xffff);
    let fullwidth = |text: &str| -> String {
        text.chars().map(|c| if c == '.' { '。' } else { char::from_u32(c as u32 + 0xfee0).unwrap() }).collect()
    };
    let encoded = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let dotted = address.to_string();
    let mut forms = vec![
        dotted.clone(),
        bits.to_string(),
        format!("{bits:#x}"),
        format!("{bits:#X}").replace("0X", "0x"),
        format!("0{bits:o}"),
        format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("000{a:o}.{b}.0x{c:x}.{d}"),
        format!("0x{a:02X}.{b}.{last_16}"),
        format!("{a}.{last_24}"),
        format!("{a}.{b}.{last_16:#x}"),
        format!("{dotted}."),
        format!("user:pw@{dotted}"),
        format!("example.com@{dotted}"),
        format!("example.com%23@{dotted}"),
        encoded(&dotted),
        fullwidth(&dotted),
        dotted.replace('.', "。"),
        dotted.replace('.', "｡"),
        dotted.replace('.', "．"),
        dotted.replace('.', "\t.\n"),
        format!("[::{dotted}]"),
    ];
    forms.extend(embedded(address).iter().map(|address| format!("[{address}]")));
    forms.push(format!("[::ffff:{dotted}]"));
    forms.push(format!("[0:0:0:0:0:FFFF:{:x}:{:x}]", bits >> 16, bits & 0xffff));
    forms.push(format!("[64:ff9b::{dotted}]"));
    forms
}

/// A server on every address of this machine that counts who comes.
pub struct Trap {
    pub port: u16,
    visits: Arc<AtomicUsize>,
}

impl Trap {
    pub async fn set() -> Self {
        let visits = Arc::new(AtomicUsize::new(0));
        // One port on both families, so that any form of "this machine" would arrive.
        let (v4, v6) = loop {
            let v4 = TcpListener::bind("0.0.0.0:0").await.unwrap();
            let port = v4.local_addr().unwrap().port();
            if let Ok(v6) = TcpListener::bind(("::1", port)).await {
                break (v4, v6);
            }
        };
        let port = v4.local_addr().unwrap().port();
        for listener in [v4, v6] {
            let visits = visits.clone();
            tokio::spawn(async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    visits.fetch_add(1, Ordering::SeqCst);
                    let mut head = [0; 4096];
                    let _ = client.read(&mut head).await;
                    let _ =
                        client.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]").await;
                }
            });
        }
        Self { port, visits }
    }

    pub fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}
