//! The packets of the namespace that open a conversation.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::support::PATIENCE;

/// Of all packets of all interfaces (`ETH_P_ALL`, in the order of the network).
const EVERYTHING: u16 = 3_u16.to_be();

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: [u8; 2] = [1, 58];

/// What the kernel hands on: of TCP a SYN without ACK, of others everything. Were it all packets, those of a large answer could
/// push out one that matters.
const OPENING: [SockFilter; 15] = [
    SockFilter::new(0x30, 0, 0, 0),    //  0: a = packet[0]
    SockFilter::new(0x54, 0, 0, 0xf0), //  1: a &= 0xf0
    SockFilter::new(0x15, 0, 5, 0x40), //  2: is it IPv4? else 8
    SockFilter::new(0x30, 0, 0, 9),    //  3: a = packet[9]
    SockFilter::new(0x15, 0, 8, 6),    //  4: is it TCP? else 13
    SockFilter::new(0xb1, 0, 0, 0),    //  5: x = 4 * (packet[0] & 15)
    SockFilter::new(0x50, 0, 0, 13),   //  6: a = packet[x + 13]
    SockFilter::new(0x05, 0, 0, 3),    //  7: go on at 11
    SockFilter::new(0x30, 0, 0, 6),    //  8: a = packet[6], of IPv6
    SockFilter::new(0x15, 0, 3, 6),    //  9: is it TCP? else 13
    SockFilter::new(0x30, 0, 0, 53),   // 10: a = packet[40 + 13]
    SockFilter::new(0x54, 0, 0, 0x12), // 11: a &= SYN | ACK
    SockFilter::new(0x15, 0, 1, 2),    // 12: is it SYN? else 14
    SockFilter::new(0x06, 0, 0, 128),  // 13: take its first bytes
    SockFilter::new(0x06, 0, 0, 0),    // 14: leave it
];

/// Listens to all that is sent in the namespace.
pub struct Wire(Arc<Mutex<BTreeSet<String>>>);

impl Wire {
    pub fn tap() -> Self {
        // Packets without the header of their link.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(EVERYTHING)))).unwrap();
        socket.attach_filter(&OPENING).unwrap();
        let dialled = Arc::<Mutex<BTreeSet<String>>>::default();
        let noted = dialled.clone();
        std::thread::spawn(move || {
            let (mut packet, mut spoken) = ([0; 128], BTreeSet::new());
            loop {
                let length = (&socket).read(&mut packet).unwrap();
                let (protocol, from, to) = head(&packet[..length]);
                let what = match protocol {
                    TCP => format!("tcp {to}"),
                    // An answer goes the other way.
                    UDP if spoken.contains(&(to, from)) => continue,
                    UDP => {
                        spoken.insert((from, to));
                        format!("udp {to}")
                    }
                    // The kernel's own, when a packet finds nobody.
                    _ if ICMP.contains(&protocol) => continue,
                    _ => format!("protocol {protocol} {}", to.ip()),
                };
                noted.lock().unwrap().insert(what);
            }
        });
        Self(dialled)
    }

    /// Who was dialled since the last time.
    pub fn dialled(&self) -> BTreeSet<String> {
        // Packets are seen in their order: once this one was, all before it were.
        const LAST: &str = "192.0.2.1:9";
        let mark = format!("udp {LAST}");
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&[], LAST).unwrap();
        let begun = Instant::now();
        while !self.0.lock().unwrap().contains(&mark) {
            assert!(begun.elapsed() < PATIENCE, "a packet is not seen");
            std::thread::yield_now();
        }
        let mut dialled = std::mem::take(&mut *self.0.lock().unwrap());
        dialled.remove(&mark);
        dialled
    }
}

/// Protocol, sender and receiver of a packet. Ports mean something for TCP and UDP alone.
fn head(packet: &[u8]) -> (u8, SocketAddr, SocketAddr) {
    fn ip<const N: usize>(bytes: &[u8]) -> IpAddr
    where
        IpAddr: From<[u8; N]>,
    {
        <[u8; N]>::try_from(bytes).unwrap().into()
    }
    let (protocol, length, from, to) = match packet[0] >> 4 {
        4 => (packet[9], usize::from(packet[0] & 15) * 4, ip::<4>(&packet[12..16]), ip::<4>(&packet[16..20])),
        _ => (packet[6], 40, ip::<16>(&packet[8..24]), ip::<16>(&packet[24..40])),
    };
    let port = |at: usize| packet.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    (protocol, (from, port(length)).into(), (to, port(length + 2)).into())
}
