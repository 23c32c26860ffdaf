//! No spelling, redirect or resolver leads to an address that may not be reached.
//!
//! The addresses are made here, from the edges of each special range and from each way to write an address. Listeners
//! count the connections that arrive; nothing but the controls may be among them.
#![allow(clippy::unwrap_used)]

mod spelling;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use matome_egress::{Dialer, EgressError, HttpClient, Method, Policy, Request, Resolver, Response};
use spelling::{Trap, embedded, spelled};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use url::Url;

/// The special ranges of IPv4 (IANA registry), first and last address.
const RANGES: [(Ipv4Addr, Ipv4Addr); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), Ipv4Addr::new(0, 255, 255, 255)),
    (Ipv4Addr::new(10, 0, 0, 0), Ipv4Addr::new(10, 255, 255, 255)),
    (Ipv4Addr::new(100, 64, 0, 0), Ipv4Addr::new(100, 127, 255, 255)),
    (Ipv4Addr::new(127, 0, 0, 0), Ipv4Addr::new(127, 255, 255, 255)),
    (Ipv4Addr::new(169, 254, 0, 0), Ipv4Addr::new(169, 254, 255, 255)),
    (Ipv4Addr::new(172, 16, 0, 0), Ipv4Addr::new(172, 31, 255, 255)),
    (Ipv4Addr::new(192, 0, 0, 0), Ipv4Addr::new(192, 0, 0, 255)),
    (Ipv4Addr::new(192, 0, 2, 0), Ipv4Addr::new(192, 0, 2, 255)),
    (Ipv4Addr::new(192, 88, 99, 0), Ipv4Addr::new(192, 88, 99, 255)),
    (Ipv4Addr::new(192, 168, 0, 0), Ipv4Addr::new(192, 168, 255, 255)),
    (Ipv4Addr::new(198, 18, 0, 0), Ipv4Addr::new(198, 19, 255, 255)),
    (Ipv4Addr::new(198, 51, 100, 0), Ipv4Addr::new(198, 51, 100, 255)),
    (Ipv4Addr::new(203, 0, 113, 0), Ipv4Addr::new(203, 0, 113, 255)),
    (Ipv4Addr::new(224, 0, 0, 0), Ipv4Addr::new(239, 255, 255, 255)),
    (Ipv4Addr::new(240, 0, 0, 0), Ipv4Addr::new(255, 255, 255, 255)),
];

/// Addresses that somebody would aim at: this machine, and the clouds' metadata services.
const TARGETS: [Ipv4Addr; 6] = [
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::UNSPECIFIED,
    Ipv4Addr::new(127, 255, 255, 254),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(100, 100, 100, 200),
];

/// Special IPv6 addresses: the edges of ranges, and services at fixed places.
const SPECIAL_V6: [&str; 28] = [
    "::",
    "::1",
    "::2",
    "100::",
    "100::ffff:ffff:ffff:ffff",
    "64:ff9b:1::",
    "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
    "1fff:ffff::1",
    "4000::1",
    "2001:2::1",
    "2001:10::1",
    "2001:1ff:ffff::1",
    "2001:db8::",
    "2001:db8:ffff::1",
    "3fff::",
    "3fff:fff:ffff::1",
    "5f00::1",
    "fc00::",
    "fd00:ec2::254",
    "fdff:ffff::1",
    "fe80::",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "feff::1",
    "ff00::",
    "ff02::1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];

/// Answers from a list, one after the other; the last one stays. Counts who asks.
struct Scripted {
    answers: Mutex<Vec<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Scripted {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let answers = answers.iter().rev().map(|found| found.iter().map(|ip| ip.parse().unwrap()).collect()).collect();
        Arc::new(Self { answers: Mutex::new(answers), asked: AtomicUsize::new(0) })
    }
}

impl Resolver for Scripted {
    fn lookup<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let next = if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
        Box::pin(std::future::ready(Ok(next.unwrap_or_default())))
    }
}

async fn get(client: &HttpClient, url: Url) -> Result<Response, EgressError> {
    let request = Request { timeout: Duration::from_secs(5), ..Request::new(url) };
    client.send(request).await
}

/// `Denied`, or no address at all: nothing was dialled. A connection that was tried and failed is not enough.
fn refused(url: &str, answer: Result<Response, EgressError>) -> Result<(), String> {
    match answer {
        Err(EgressError::Denied { .. } | EgressError::Url { .. } | EgressError::Resolve { .. }) => Ok(()),
        Err(error) => Err(format!("{url:?}: tried, and {error}")),
        Ok(answer) => Err(format!("{url:?}: reached {:?}", answer.peer)),
    }
}

#[tokio::test]
async fn no_spelling_of_a_special_address_is_dialled() {
    let trap = Trap::set().await;
    // Names do not lead anywhere here but to what is asked for with `localhost`.
    let client = HttpClient::with_resolver(Policy::default(), Scripted::new(&[&["127.0.0.1", "::1"]]));
    let mut hosts = Vec::new();
    for (first, last) in RANGES {
        let between = Ipv4Addr::from(u32::from(first) / 2 + u32::from(last) / 2);
        for address in [first, between, last] {
            hosts.extend(spelled(address));
        }
    }
    for address in TARGETS {
        hosts.extend(spelled(address));
    }
    for address in SPECIAL_V6 {
        hosts.push(format!("[{address}]"));
        hosts.push(format!("[{}]", address.to_uppercase()));
        hosts.extend(["%25eth0", "%eth0", "%251"].map(|zone| format!("[{address}{zone}]")));
    }
    hosts.extend(
        ["localhost", "LOCALHOST", "localhost.", "ｌｏｃａｌｈｏｓｔ", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "loc%61lhost", "x.localhost"]
            .map(str::to_owned),
    );
    hosts.sort();
    hosts.dedup();
    let (mut asked, mut unwritable, mut wrong) = (0, 0, Vec::new());
    for host in &hosts {
        for text in [format!("http://{host}:{}/", trap.port), format!("http:\\\\{host}:{}\\", trap.port)] {
            // What is no address for the parser of configs and links never becomes a request.
            let Ok(url) = Url::parse(&text) else {
                unwritable += 1;
                continue;
            };
            asked += 1;
            wrong.extend(refused(&text, get(&client, url).await).err());
        }
    }
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{asked} addresses asked for, {unwritable} could not be written");
    assert!(asked >= 400, "{asked}");
    assert_eq!(trap.visits(), 0);

    // The trap works: with a rule for it, it is reached at the address that was checked.
    let rules = ["127.0.0.1", "::1"].map(|rule| rule.parse().unwrap());
    let open = HttpClient::with_resolver(Policy::new(rules), Scripted::new(&[&["127.0.0.1"]]));
    for host in ["127.1", "[::1]", "[::ffff:7f00:1]", "localhost"] {
        let url = Url::parse(&format!("http://{host}:{}/", trap.port)).unwrap();
        let peer = get(&open, url).await.unwrap().peer.unwrap();
        assert!(peer.port() == trap.port && peer.ip().to_canonical().is_loopback(), "{host}: {peer}");
    }
    assert_eq!(trap.visits(), 4);
}

#[test]
fn the_neighbours_of_special_ranges_are_public() {
    let public = |address: IpAddr| Policy::default().allows(address, 80);
    let mut neighbours = 0;
    for (first, last) in RANGES {
        for edge in [u32::from(first).checked_sub(1), u32::from(last).checked_add(1)].into_iter().flatten() {
            let edge = Ipv4Addr::from(edge);
            if RANGES.iter().any(|(first, last)| (*first..=*last).contains(&edge)) {
                continue;
            }
            neighbours += 1;
            assert!(public(edge.into()), "{edge}");
            // The deprecated form without a prefix has no way to a public host.
            for (at, form) in embedded(edge).into_iter().enumerate().filter(|(at, _)| *at != 1) {
                assert!(public(form.into()), "{edge} as {form} ({at})");
            }
        }
        assert!(!public(first.into()) && !public(last.into()), "{first} {last}");
    }
    assert!(neighbours > 20, "{neighbours}");
}

/// A server that redirects each path of its list to somewhere else.
async fn redirecting(targets: Vec<String>, status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let targets = targets.clone();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let read = client.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or("/");
                let location = match path.trim_start_matches('/').split_once('/') {
                    // /hop/N leads to /hop/N-1, and at last to the first target.
                    Some(("hop", left)) => match left.parse::<usize>() {
                        Ok(left) if left > 0 => format!("/hop/{}", left - 1),
                        _ => targets[0].clone(),
                    },
                    _ => targets[path[1..].parse::<usize>().unwrap()].clone(),
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nLocation: {location}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                );
                let _ = client.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn no_redirect_leads_to_a_denied_address_or_another_protocol() {
    let trap = Trap::set().await;
    let port = trap.port;
    let mut targets: Vec<String> = spelled(Ipv4Addr::LOCALHOST)
        .into_iter()
        .chain(spelled(Ipv4Addr::new(169, 254, 169, 254)))
        .filter(|host| host.is_ascii() && !host.contains(['\t', '\n']))
        .map(|host| format!("http://{host}:{port}/"))
        .collect();
    targets.extend(
        ["file:///etc/passwd", "gopher://127.0.0.1/1", "unix:/var/run/docker.sock", "ftp://127.0.0.1/", "data:,x"]
            .map(str::to_owned),
    );
    targets.extend(
        ["//127.0.0.1", "\\\\127.0.0.1", "https://127.0.0.1", "http://localhost"].map(|t| format!("{t}:{port}/")),
    );
    for status in ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let server = redirecting(targets.clone(), status).await;
        let rule = server.to_string().parse().unwrap();
        let client = HttpClient::new(Policy::new([rule]));
        for (at, target) in targets.iter().enumerate() {
            for path in [format!("{at}"), format!("hop/{at}")] {
                if path.starts_with("hop") && at > 4 {
                    continue;
                }
                let url = Url::parse(&format!("http://{server}/{path}")).unwrap();
                let outcome = refused(target, get(&client, url).await);
                assert!(outcome.is_ok(), "{path} with {status}: {outcome:?}");
            }
        }
        let url = Url::parse(&format!("http://{server}/hop/30")).unwrap();
        let error = get(&client, url.clone()).await.err().unwrap();
        assert!(matches!(error, EgressError::Redirects { .. }), "{error}");
        // A POST stays where it was sent, whatever the answer asks for.
        let url = Url::parse(&format!("http://{server}/0")).unwrap();
        let post = Request { method: Method::POST, body: Some(b"secret".to_vec()), ..Request::new(url) };
        assert!(client.send(post).await.unwrap().status.is_redirection());
    }
    assert_eq!(trap.visits(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_not_followed_inside() {
    let trap = Trap::set().await;
    let url = |host: &str| Url::parse(&format!("http://{host}:{}/", trap.port)).unwrap();
    // Nothing answers at the public address, which is a documentation one that a rule allows; what matters is that
    // the second answer of the resolver is never dialled.
    let rule = "203.0.113.7".parse().unwrap();
    let rebinding = Scripted::new(&[&["203.0.113.7"], &["127.0.0.1"]]);
    let client = HttpClient::with_resolver(Policy::new([rule]), rebinding.clone());
    for _ in 0..3 {
        let hasty = Request { timeout: Duration::from_millis(100), ..Request::new(url("rebind.example")) };
        let error = client.send(hasty).await.err().unwrap();
        assert!(!matches!(error, EgressError::Denied { .. }), "{error}");
    }
    assert_eq!(rebinding.asked.load(Ordering::SeqCst), 1, "what was checked is what is dialled, and nothing else");
    // A host that is asked for anew, as after a minute, is checked anew.
    let error = get(&client, url("other.example")).await.err().unwrap();
    assert!(matches!(error, EgressError::Denied { .. }), "{error}");

    // Several answers: the denied ones are left out, wherever they stand.
    for found in
        [&["127.0.0.1", "203.0.113.7"][..], &["203.0.113.7", "::1", "10.0.0.1"], &["::ffff:127.0.0.1", "203.0.113.7"]]
    {
        let client = HttpClient::with_resolver(Policy::new([rule]), Scripted::new(&[found]));
        let hasty = Request { timeout: Duration::from_millis(100), ..Request::new(url("mixed.example")) };
        assert!(client.send(hasty).await.is_err());
    }
    assert_eq!(trap.visits(), 0);
}

/// As [`refused`], for a connection of another protocol.
fn not_dialled(host: &str, answer: Result<tokio::net::TcpStream, EgressError>) -> Result<(), String> {
    match answer {
        Err(EgressError::Denied { .. } | EgressError::Url { .. } | EgressError::Resolve { .. }) => Ok(()),
        Err(error) => Err(format!("{host:?}: tried, and {error}")),
        Ok(stream) => Err(format!("{host:?}: reached {:?}", stream.peer_addr())),
    }
}

#[tokio::test]
async fn no_spelling_of_a_special_address_is_dialled_by_another_protocol() {
    let trap = Trap::set().await;
    let patience = Duration::from_secs(5);
    let dialer =
        |policy, answers: &[&[&str]]| -> Dialer { HttpClient::with_resolver(policy, Scripted::new(answers)).dialer() };
    let closed = dialer(Policy::default(), &[&["127.0.0.1", "::1"]]);
    let mut hosts: Vec<String> = TARGETS.into_iter().flat_map(spelled).collect();
    for address in SPECIAL_V6 {
        hosts.extend([address.to_owned(), format!("[{address}]"), format!("[{address}%eth0]"), format!("{address}%1")]);
    }
    hosts.extend(
        ["localhost", "LOCALHOST.", "ｌｏｃａｌｈｏｓｔ", "loc%61lhost", "", "a b", "/var/run", "a/b", "@"]
            .map(str::to_owned),
    );
    let mut wrong = Vec::new();
    for host in &hosts {
        wrong.extend(not_dialled(host, closed.connect(host, trap.port, patience).await).err());
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), hosts.len(), wrong.join("\n"));
    assert!(hosts.len() > 200, "{}", hosts.len());
    assert_eq!(trap.visits(), 0);

    // With a rule it is reached, at the one address that was checked, whatever else the name has.
    let rules = ["127.0.0.1", "::1"].map(|rule| rule.parse().unwrap());
    let open = dialer(Policy::new(rules), &[&["10.0.0.1", "127.0.0.1"], &["10.0.0.1"]]);
    for host in ["db.example", "127.1", "::1", "[::1]", "::ffff:127.0.0.1"] {
        let mut stream = open.connect(host, trap.port, patience).await.unwrap();
        let peer = stream.peer_addr().unwrap();
        assert!(peer.port() == trap.port && peer.ip().is_loopback(), "{host}: {peer}");
        // Its answer says that the visit was counted.
        stream.write_all(b"hello").await.unwrap();
        assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
    }
    // What a name has later is checked then.
    let error = open.connect("db.example", trap.port, patience).await.unwrap_err();
    assert!(matches!(error, EgressError::Denied { .. }), "{error}");
    assert_eq!(trap.visits(), 5);
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_told_with_its_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let dialer = HttpClient::new(Policy::new(["127.0.0.1".parse().unwrap()])).dialer();
    let error = dialer.connect("127.0.0.1", port, Duration::from_secs(5)).await.unwrap_err();
    assert!(
        matches!(&error, EgressError::Dial { peer, source }
        if *peer == format!("127.0.0.1:{port}") && source.kind() == io::ErrorKind::ConnectionRefused),
        "{error:?}"
    );
}
