//! The name server of the namespace: it knows its peers, and notes what it is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

pub struct Names(Arc<Mutex<BTreeSet<String>>>);

impl Names {
    pub async fn serve(at: &str, known: BTreeMap<String, Ipv4Addr>) -> Self {
        let socket = UdpSocket::bind(at).await.unwrap();
        let asked = Arc::<Mutex<BTreeSet<String>>>::default();
        let noted = asked.clone();
        tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut query).await.unwrap();
                let (name, answer) = answer(&query[..length], &known);
                noted.lock().unwrap().insert(name);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self(asked)
    }

    /// The names that were asked for since the last time.
    pub fn asked(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// The name of a query and the answer to it (RFC 1035, section 4.1).
fn answer(query: &[u8], known: &BTreeMap<String, Ipv4Addr>) -> (String, Vec<u8>) {
    const HEADER: usize = 12;
    const TYPE_A: [u8; 2] = [0, 1];
    let (mut labels, mut at) = (Vec::new(), HEADER);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]));
        at = end;
    }
    let name = labels.join(".");
    let (kind, question) = (&query[at + 1..at + 3], &query[HEADER..at + 5]);
    // An answer of a server that recurses: as it is, or that there is no such name.
    let flags = if known.contains_key(&name) { [0x81, 0x80] } else { [0x81, 0x83] };
    let address = known.get(&name).filter(|_| kind == TYPE_A);
    let counts = [0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0];
    let mut answer = [&query[..2], &flags, &counts, question].concat();
    if let Some(address) = address {
        // The name of the question, type A, class IN, not to be kept, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    (name, answer)
}
