//! The bus over a real Redis server, in all the states that one may be in.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::{Duration, Instant};

use matome_bus::{Bus, Heard, RedisUrls, TaskEvent};
use matome_model::task::{Queue, TaskStatus};
use support::{RedisServer, until};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);
const QUEUE: Queue = Queue::Acquisition;

/// The bus of another process of the installation.
fn process(server: &RedisServer, instance: Uuid) -> Bus {
    Bus::redis(instance, &RedisUrls { shared: Some(server.url()), ..RedisUrls::default() }).unwrap()
}

async fn woken_within(bus: &Bus, limit: Duration) -> Option<Duration> {
    let begun = Instant::now();
    tokio::time::timeout(limit, bus.woken(QUEUE)).await.ok().map(|()| begun.elapsed())
}

/// A process with a worker that waits; it has looked once, as it does whenever it has connected.
async fn waiting(server: &RedisServer, instance: Uuid) -> Bus {
    let bus = process(server, instance);
    woken_within(&bus, PATIENCE).await.expect("a worker that has just connected looks");
    bus
}

/// Wakes until the other one hears it; returns how long it took from the beginning.
async fn heard_again(sender: &Bus, worker: &Bus) -> Duration {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "never heard again: {:?} {:?}", sender.trouble(), worker.trouble());
        sender.wake(QUEUE);
        if woken_within(worker, Duration::from_millis(100)).await.is_some() && sender.trouble().is_none() {
            return begun.elapsed();
        }
    }
}

async fn until_trouble(bus: &Bus, says: &str) {
    until(&format!("trouble with `{says}`"), async || {
        bus.wake(QUEUE);
        bus.trouble().is_some_and(|what| what.contains(says))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_up_reaches_one_worker_of_another_process_of_the_same_installation() {
    let server = RedisServer::start(&[]);
    let (instance, other) = (Uuid::new_v4(), Uuid::new_v4());
    let (web, worker, second) =
        (process(&server, instance), waiting(&server, instance).await, waiting(&server, instance).await);
    let stranger = waiting(&server, other).await;
    let mut took = Vec::new();
    for _ in 0..20 {
        web.wake(QUEUE);
        let begun = Instant::now();
        tokio::select! {
            () = worker.woken(QUEUE) => {}
            () = second.woken(QUEUE) => {}
        }
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    println!("woken after p50 {:?}, max {:?}", took[10], took[19]);
    assert!(took[10] < Duration::from_millis(100), "{took:?}");
    assert!(woken_within(&stranger, Duration::from_millis(200)).await.is_none(), "another installation hears nothing");
    // The databases of the original design.
    assert_eq!(server.cli(&["-n", "0", "dbsize"]), "0");
    web.wake(QUEUE);
    worker.close().await;
    second.close().await;
    web.wake(QUEUE);
    until("the token is there", async || server.cli(&["-n", "1", "dbsize"]) == "1").await;
    assert_eq!(server.cli(&["-n", "1", "keys", "*"]), format!("{instance}:acquisition:work"));
    web.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_nobody_takes_do_not_pile_up() {
    let server = RedisServer::start(&[]);
    let instance = Uuid::new_v4();
    let web = process(&server, instance);
    let key = format!("{instance}:acquisition:work");
    let length = || server.cli(&["-n", "1", "llen", &key]).parse::<usize>().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        web.wake(QUEUE);
        tokio::task::yield_now().await;
    }
    let tokens = length();
    assert!((10..=128).contains(&tokens), "{tokens}");
    assert!(tokens <= 220, "at most one in 5 ms");
    server.cli(&["-n", "1", "eval", "for i=1,500 do redis.call('rpush', KEYS[1], 'x') end", "1", &key]);
    web.wake(QUEUE);
    until("the list is cut", async || length() <= 128).await;
    // A worker that is full takes none, though it is connected.
    let full = process(&server, instance);
    let look = |_: Option<&[u8]>, _: Duration| (None, ());
    until("it is connected", async || full.update(QUEUE, "n", look).await.is_some()).await;
    assert_eq!(length(), 128);
    drop(full);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_under_our_name_is_removed() {
    let server = RedisServer::start(&[]);
    let instance = Uuid::new_v4();
    let key = format!("{instance}:acquisition:work");
    server.cli(&["-n", "1", "set", &key, "theirs"]);
    let (web, worker) = (process(&server, instance), waiting(&server, instance).await);
    heard_again(&web, &worker).await;
    // Also while a worker waits for it, and when it is found by who sends.
    for value in ["theirs", "again"] {
        server.cli(&["-n", "1", "del", &key]);
        server.cli(&["-n", "1", "set", &key, value]);
        let took = heard_again(&web, &worker).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    for bus in [web, worker] {
        assert_eq!(bus.trouble(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_database_zero_alone_is_enough() {
    let server = RedisServer::start(&["--databases", "1"]);
    let instance = Uuid::new_v4();
    let (web, worker) = (process(&server, instance), waiting(&server, instance).await);
    let mut events = worker.events();
    heard_again(&web, &worker).await;
    assert_eq!(web.trouble(), None);
    let event = TaskEvent { queue: QUEUE, task_id: 7, status: TaskStatus::Succeeded };
    tell_until_heard(&web, &mut events, event).await;
}

/// A subscription takes a moment; events before it are not for it.
async fn tell_until_heard(teller: &Bus, events: &mut matome_bus::Events, event: TaskEvent) {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "never heard");
        teller.tell(event);
        let heard = tokio::time::timeout(Duration::from_millis(100), events.next()).await;
        if heard == Ok(Heard::Task(event)) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_requests_to_stop_reach_the_other_processes() {
    let server = RedisServer::start(&[]);
    let instance = Uuid::new_v4();
    let (web, worker) = (process(&server, instance), process(&server, instance));
    let mut events = web.events();
    let event = |status| TaskEvent { queue: Queue::Aggregation, task_id: 3, status };
    tell_until_heard(&worker, &mut events, event(TaskStatus::Running)).await;
    while tokio::time::timeout(Duration::from_millis(200), events.next()).await.is_ok() {}
    worker.tell(event(TaskStatus::Failed));
    assert_eq!(events.next().await, Heard::Task(event(TaskStatus::Failed)));
    // One hears its own events once, not again from Redis.
    web.tell(event(TaskStatus::Cancelled));
    assert_eq!(events.next().await, Heard::Task(event(TaskStatus::Cancelled)));
    assert!(tokio::time::timeout(Duration::from_millis(200), events.next()).await.is_err());
    // A listener may have to look once after it has connected.
    let stopped = async |limit| tokio::time::timeout(limit, worker.stopped(QUEUE)).await.is_ok();
    assert!(stopped(PATIENCE).await);
    web.stop(QUEUE);
    assert!(stopped(PATIENCE).await);
    assert!(!stopped(Duration::from_millis(100)).await);
    // What is no message of ours is no event.
    server.cli(&["publish", &format!("{instance}:aggregation:events"), "{\"v\":2,\"from\":1,\"events\":[1]}"]);
    server.cli(&["publish", &format!("{instance}:aggregation:events"), "hello"]);
    assert!(tokio::time::timeout(Duration::from_millis(200), events.next()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_and_comes_back_is_used_again_at_once() {
    let mut server = RedisServer::start(&[]);
    let instance = Uuid::new_v4();
    let (web, worker) = (process(&server, instance), waiting(&server, instance).await);
    let mut events = web.events();
    heard_again(&web, &worker).await;
    server.stop();
    // Also a process that has nothing to send notices.
    let idle = process(&server, instance);
    until("it notices", async || idle.trouble().is_some()).await;
    assert_eq!(idle.trouble().unwrap(), "nothing listens there");
    until_trouble(&web, "").await;
    server.again();
    let took = heard_again(&web, &worker).await;
    println!("used again {took:?} after its restart");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let begun = Instant::now();
    while tokio::time::timeout(PATIENCE, events.next()).await != Ok(Heard::Missed) {
        assert!(begun.elapsed() < PATIENCE, "the listener is told that it missed something");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_costs_a_wake_up_and_nobody_waits_for_it() {
    let server = RedisServer::start(&[]);
    let instance = Uuid::new_v4();
    let (web, worker) = (process(&server, instance), waiting(&server, instance).await);
    heard_again(&web, &worker).await;
    server.signal("-STOP");
    let begun = Instant::now();
    (0..1000).for_each(|_| web.wake(QUEUE));
    assert!(begun.elapsed() < Duration::from_millis(500), "nobody waits: {:?}", begun.elapsed());
    until_trouble(&web, "does not answer").await;
    server.signal("-CONT");
    let took = heard_again(&web, &worker).await;
    println!("used again {took:?} after it hung");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // Slow, but alive.
    let slow = std::thread::spawn({
        let port = server.port.to_string();
        move || std::process::Command::new("redis-cli").args(["-p", &port, "debug", "sleep", "0.5"]).output()
    });
    heard_again(&web, &worker).await;
    slow.join().unwrap().unwrap();
    assert!(heard_again(&web, &worker).await < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_read_only_server_still_passes_events_on_and_heals() {
    let server = RedisServer::start(&["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]);
    let instance = Uuid::new_v4();
    let (web, worker) = (process(&server, instance), waiting(&server, instance).await);
    let mut events = web.events();
    let event = TaskEvent { queue: QUEUE, task_id: 1, status: TaskStatus::Running };
    tell_until_heard(&worker, &mut events, event).await;

    server.cli(&["config", "set", "maxmemory", "1"]);
    until_trouble(&web, "OOM").await;
    tell_until_heard(&worker, &mut events, event).await;
    server.cli(&["config", "set", "maxmemory", "0"]);
    let took = heard_again(&web, &worker).await;
    assert!(took < Duration::from_secs(3), "{took:?}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    assert_eq!(server.cli(&["replicaof", "127.0.0.1", &nobody]), "OK");
    until_trouble(&web, "READONLY").await;
    assert_eq!(server.cli(&["replicaof", "no", "one"]), "OK");
    let took = heard_again(&web, &worker).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_emptied_all_the_time_loses_wake_ups_and_nothing_else() {
    let server = RedisServer::start(&[]);
    let instance = Uuid::new_v4();
    let (web, worker) = (process(&server, instance), waiting(&server, instance).await);
    for _ in 0..10 {
        server.cli(&["flushall"]);
        heard_again(&web, &worker).await;
    }
    assert_eq!((web.trouble(), worker.trouble()), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_processes_change_together_loses_no_change() {
    let server = RedisServer::start(&[]);
    let instance = Uuid::new_v4();
    let count = |value: Option<&[u8]>| value.and_then(|value| std::str::from_utf8(value).ok()?.parse::<u64>().ok());
    let add = move |value: Option<&[u8]>, now: Duration| {
        assert!(now > Duration::from_secs(1_500_000_000), "the server's time");
        let next = count(value).unwrap_or(0) + 1;
        (Some((next.to_string().into_bytes(), Duration::from_secs(60))), next)
    };
    server.cli(&["-n", "1", "rpush", &format!("{instance}:acquisition:n"), "not ours"]);
    let processes: Vec<Bus> = (0..4).map(|_| process(&server, instance)).collect();
    let adding: Vec<_> = processes
        .iter()
        .cloned()
        .map(|bus| {
            tokio::spawn(async move {
                let mut added = 0;
                while added < 25 {
                    added += usize::from(bus.update(QUEUE, "n", add).await.is_some());
                }
            })
        })
        .collect();
    for adding in adding {
        adding.await.unwrap();
    }
    let look = move |value: Option<&[u8]>, _: Duration| (None, count(value));
    assert_eq!(processes[0].update(QUEUE, "n", look).await, Some(Some(100)));
    // Without Redis nobody waits for it.
    server.signal("-STOP");
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(processes[1].update(QUEUE, "n", add).await, None);
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    server.signal("-CONT");
    assert_eq!(Bus::in_process().update(QUEUE, "n", add).await, None);
}
