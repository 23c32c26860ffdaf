//! A model of the task engine on READ COMMITTED, every reachable state of it: the protocol of `store` has no
//! counterexample, and each protocol that looks as good and is not has one, which is printed.
//!
//! Together these searches cover what the storm test (`tasks_storm.rs`) finds only by luck or by a deadlock: a finish
//! and a cancel without the lane's lock are found here also where PostgreSQL resolves their deadlocks, and an enqueue
//! without it by the second equal task that it lets wait.
//!
//! `MATOME_TEST_MODEL=deep` searches further (`scripts/faults model`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod explore;
mod protocol;
mod sql;

use std::time::Instant;

use explore::{Found, explore};
use protocol::{Actor, Mutant, Rules, World};
use sql::{Status, Tables};

/// Lanes and tasks as a scenario finds them: task n waits in lane `waiting[n]`.
fn tables(waiting: &[u8]) -> Tables {
    let mut tables = Tables::default();
    for (task, lane) in waiting.iter().enumerate() {
        tables.tasks[task].status = Status::Pending;
        tables.tasks[task].lane = *lane;
        // Tried before, so that a lane may have several.
        tables.tasks[task].started = true;
        tables.lanes[usize::from(*lane)].ready = true;
    }
    tables.workers[0].registered = true;
    tables.workers[1].registered = true;
    tables
}

struct Scenario {
    name: &'static str,
    rules: fn() -> Rules,
    waiting: &'static [u8],
    actors: fn() -> Vec<Actor>,
    crashes: u8,
    preemptions: Option<u8>,
    /// What it must reach, or it shows nothing.
    reaches: &'static [&'static str],
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a lane with two tasks: two workers, one enqueues, one cancels",
        rules: Rules::default,
        waiting: &[0, 0],
        actors: || vec![Actor::worker(0, 2, 0), Actor::worker(1, 2, 0), Actor::enqueuer(0, 2), Actor::canceller(1)],
        crashes: 0,
        preemptions: None,
        reaches: &["claim: nothing is free any more", "cancel: ends or asks the task, commits"],
    },
    Scenario {
        name: "two lanes, ends and claims in one transaction",
        rules: || Rules { joined: true, failures: true, ..Rules::default() },
        waiting: &[0, 1],
        actors: || vec![Actor::worker(0, 2, 1), Actor::worker(1, 1, 0), Actor::enqueuer(1, 2), Actor::canceller(0)],
        crashes: 0,
        preemptions: None,
        reaches: &["finish: ends task and lease", "the attempt fails"],
    },
    Scenario {
        name: "one lane, two who enqueue the same, two workers",
        rules: || Rules { failures: true, ..Rules::default() },
        waiting: &[0],
        actors: || vec![Actor::worker(0, 3, 0), Actor::worker(1, 1, 0), Actor::enqueuer(0, 1), Actor::enqueuer(0, 2)],
        crashes: 0,
        preemptions: None,
        reaches: &["enqueue: inserts what does not wait already, commits"],
    },
    Scenario {
        name: "a worker that is taken for dead and is not, two sweepers, a cancel",
        rules: Rules::default,
        waiting: &[0],
        actors: || {
            vec![
                Actor::worker(0, 1, 1),
                Actor::worker(1, 1, 1),
                Actor::sweeper(1),
                Actor::sweeper(1),
                Actor::canceller(0),
            ]
        },
        crashes: 0,
        preemptions: None,
        reaches: &[
            "page: the fence is lost, seen at the start",
            "page: the fence is lost, all of it rolls back",
            "finish: the lease is lost, nothing is changed",
            "sweep: takes lanes and tasks back, commits",
        ],
    },
    Scenario {
        name: "a task whose workers die",
        rules: Rules::default,
        waiting: &[0],
        actors: || vec![Actor::worker(0, 2, 1), Actor::worker(1, 1, 0), Actor::sweeper(3)],
        crashes: 2,
        preemptions: None,
        reaches: &["dies", "starts again", "sweep: somebody who is gone holds a lane"],
    },
    Scenario {
        name: "two slots of one process that is taken for dead",
        rules: Rules::default,
        waiting: &[0],
        actors: || vec![Actor::worker(0, 1, 1), Actor::worker(0, 1, 1), Actor::sweeper(2)],
        crashes: 0,
        preemptions: None,
        reaches: &["page: the fence is lost, all of it rolls back"],
    },
    Scenario {
        name: "two beats, two fires that are due, a worker, a cancel",
        rules: || Rules { due: 1, ..Rules::default() },
        waiting: &[],
        actors: || vec![Actor::worker(0, 2, 0), Actor::beat(0, 2), Actor::beat(2, 2), Actor::canceller(0)],
        crashes: 0,
        preemptions: None,
        reaches: &["beat: makes the task, commits"],
    },
    Scenario {
        name: "time passes, a wall clock jumps, one worker dies and one beats on",
        rules: || Rules { timed: true, ..Rules::default() },
        waiting: &[0],
        actors: || vec![Actor::worker(0, 1, 0), Actor::worker(1, 0, 0), Actor::sweeper(1)],
        crashes: 1,
        preemptions: None,
        reaches: &["the wall clock jumps ahead", "sweep: declares a worker dead"],
    },
    Scenario {
        name: "one writer (SQLite)",
        rules: || Rules { one_writer: true, joined: true, ..Rules::default() },
        waiting: &[0, 0],
        actors: || {
            vec![
                Actor::worker(0, 2, 1),
                Actor::worker(1, 1, 0),
                Actor::sweeper(1),
                Actor::enqueuer(0, 3),
                Actor::canceller(1),
            ]
        },
        crashes: 1,
        preemptions: None,
        reaches: &["page: the fence is lost, seen at the start"],
    },
    Scenario {
        name: "three lanes of one host that two may read from: three workers",
        rules: || Rules { host: Some(2), ..Rules::default() },
        waiting: &[0, 1, 2],
        actors: || vec![Actor::worker(0, 1, 0), Actor::worker(1, 1, 0), Actor::worker(2, 1, 0)],
        crashes: 0,
        preemptions: None,
        reaches: &["claim: the host is full"],
    },
    Scenario {
        name: "two lanes of one host that one may read from: one of two workers dies, a sweeper",
        rules: || Rules { host: Some(1), ..Rules::default() },
        waiting: &[0, 1],
        actors: || vec![Actor::worker(0, 1, 0), Actor::worker(1, 2, 0), Actor::sweeper(1)],
        crashes: 1,
        preemptions: None,
        reaches: &["claim: the host is full", "sweep: takes lanes and tasks back, commits"],
    },
    Scenario {
        name: "two lanes of one host that one may read from, ends and claims in one transaction",
        rules: || Rules { host: Some(1), joined: true, ..Rules::default() },
        waiting: &[0, 1, 0],
        actors: || vec![Actor::worker(0, 2, 0), Actor::worker(1, 2, 0)],
        crashes: 0,
        preemptions: None,
        reaches: &["claim: the host is full", "finish: ends task and lease"],
    },
    Scenario {
        name: "all of them, two lanes, one preemption",
        rules: Rules::default,
        waiting: &[0],
        actors: || {
            vec![
                Actor::worker(0, 1, 1),
                Actor::worker(1, 1, 0),
                Actor::sweeper(1),
                Actor::sweeper(1),
                Actor::beat(2, 1),
                Actor::beat(3, 1),
                Actor::enqueuer(1, 1),
                Actor::canceller(0),
            ]
        },
        crashes: 0,
        preemptions: Some(1),
        reaches: &["page: the fence is lost, all of it rolls back", "beat: makes the task, commits"],
    },
];

/// A protocol that looks right, and where its counterexample is looked for.
struct Wrong {
    mutant: Mutant,
    rules: fn() -> Rules,
    waiting: &'static [u8],
    actors: fn() -> Vec<Actor>,
    crashes: u8,
    /// What it must come to; never a deadlock, which PostgreSQL would resolve.
    breaks: &'static str,
}

const MUTANTS: &[Wrong] = &[
    Wrong {
        mutant: Mutant::OneStatementClaim,
        rules: Rules::default,
        waiting: &[0, 0],
        actors: || vec![Actor::worker(0, 1, 0), Actor::worker(1, 1, 0)],
        crashes: 0,
        breaks: "a lane is leased to a task that does not run",
    },
    Wrong {
        mutant: Mutant::FinishWithoutLaneLock,
        rules: Rules::default,
        waiting: &[0],
        actors: || vec![Actor::worker(0, 1, 0), Actor::enqueuer(0, 1)],
        crashes: 0,
        breaks: "a lane is idle for ever although a task waits",
    },
    Wrong {
        mutant: Mutant::CancelReadsBeforeLock,
        rules: Rules::default,
        waiting: &[0],
        actors: || vec![Actor::worker(0, 1, 0), Actor::canceller(0)],
        crashes: 0,
        breaks: "a lane is leased to a task that does not run",
    },
    Wrong {
        mutant: Mutant::CancelWithoutLaneLock,
        rules: Rules::default,
        waiting: &[0],
        actors: || vec![Actor::canceller(0), Actor::beat(1, 1)],
        crashes: 0,
        breaks: "a lane is idle for ever although a task waits",
    },
    Wrong {
        mutant: Mutant::EnqueueWithoutLaneLock,
        rules: Rules::default,
        waiting: &[],
        actors: || vec![Actor::enqueuer(0, 0), Actor::enqueuer(0, 1)],
        crashes: 0,
        breaks: "two equal tasks wait in a lane",
    },
    Wrong {
        mutant: Mutant::RescueById,
        rules: Rules::default,
        waiting: &[0],
        actors: || vec![Actor::worker(0, 1, 0), Actor::sweeper(1)],
        crashes: 0,
        breaks: "an ended task changes",
    },
    Wrong {
        mutant: Mutant::WallClockExpiry,
        rules: || Rules { timed: true, ..Rules::default() },
        waiting: &[0],
        actors: || vec![Actor::worker(0, 1, 0), Actor::sweeper(1)],
        crashes: 0,
        breaks: "a worker that beats is declared dead",
    },
    Wrong {
        mutant: Mutant::StealWithoutLimit,
        rules: Rules::default,
        waiting: &[0],
        actors: || vec![Actor::worker(0, 2, 0), Actor::sweeper(2)],
        crashes: 2,
        breaks: "a task outlives the deaths that make it poison",
    },
    Wrong {
        mutant: Mutant::RetryWithoutLimit,
        rules: || Rules { failures: true, ..Rules::default() },
        waiting: &[0],
        actors: || vec![Actor::worker(0, 2, 0)],
        crashes: 0,
        breaks: "a task is tried beyond its last attempt",
    },
    Wrong {
        mutant: Mutant::FenceOnlyAtStart,
        rules: Rules::default,
        waiting: &[0],
        actors: || vec![Actor::worker(0, 1, 1), Actor::sweeper(1)],
        crashes: 0,
        breaks: "a page commits although its lease was lost",
    },
    Wrong {
        mutant: Mutant::LeaseKeepsEpoch,
        rules: Rules::default,
        waiting: &[0],
        actors: || vec![Actor::worker(0, 1, 1), Actor::worker(0, 1, 1), Actor::sweeper(1)],
        crashes: 0,
        breaks: "two attempts pass the same fence",
    },
    Wrong {
        mutant: Mutant::HostCountedWithoutLock,
        rules: || Rules { host: Some(1), ..Rules::default() },
        waiting: &[0, 1],
        actors: || vec![Actor::worker(0, 1, 0), Actor::worker(1, 1, 0)],
        crashes: 0,
        breaks: "more tasks read from a host than may",
    },
    Wrong {
        mutant: Mutant::HostCountedBeforeLock,
        rules: || Rules { host: Some(1), ..Rules::default() },
        waiting: &[0, 1],
        actors: || vec![Actor::worker(0, 1, 0), Actor::worker(1, 1, 0)],
        crashes: 0,
        breaks: "more tasks read from a host than may",
    },
    Wrong {
        mutant: Mutant::FireWithoutLockAndIndex,
        rules: Rules::default,
        waiting: &[],
        actors: || vec![Actor::worker(0, 1, 0), Actor::beat(0, 1), Actor::beat(1, 1)],
        crashes: 0,
        breaks: "one fire makes two tasks",
    },
];

fn search(world: World, preemptions: Option<u8>) -> Found {
    let names = world.clone();
    explore(world, preemptions, 5_000_000, |n| names.name(n))
}

fn is_deep() -> bool {
    std::env::var("MATOME_TEST_MODEL").is_ok_and(|word| word == "deep")
}

#[test]
fn the_protocol_has_no_counterexample() {
    for scenario in SCENARIOS {
        let begun = Instant::now();
        let world = World::new((scenario.rules)(), tables(scenario.waiting), (scenario.actors)(), scenario.crashes);
        let found = search(world, scenario.preemptions.map(|most| most + u8::from(is_deep())));
        println!("{}: {} states in {:.1?}", scenario.name, found.states, begun.elapsed());
        if let Some((wrong, trace)) = found.counterexample {
            panic!("{}: {wrong}\n  {}", scenario.name, trace.join("\n  "));
        }
        let missing: Vec<_> = scenario.reaches.iter().filter(|what| !found.covered.contains(**what)).collect();
        assert!(missing.is_empty(), "{}: never happens: {missing:?}\n{:#?}", scenario.name, found.covered);
    }
}

#[test]
fn each_protocol_that_only_looks_right_has_a_counterexample() {
    for Wrong { mutant, rules, waiting, actors, crashes, breaks } in MUTANTS {
        // The same scenario without the mutant holds, so it is the mutant that breaks it.
        let right = search(World::new(rules(), tables(waiting), actors(), *crashes), None);
        assert!(right.counterexample.is_none(), "{mutant:?}: {:#?}", right.counterexample);
        let rules = Rules { mutant: Some(*mutant), deadlock_is_wrong: false, ..rules() };
        let found = search(World::new(rules, tables(waiting), actors(), *crashes), None);
        let Some((wrong, trace)) = found.counterexample else {
            panic!("{mutant:?}: no counterexample in {} states", found.states);
        };
        println!("{mutant:?}: {wrong}\n  {}", trace.join("\n  "));
        assert_eq!(wrong, *breaks, "{mutant:?}");
    }
}

/// What the lane's lock is for: SQLite's one writer holds every lock from its first statement on.
#[test]
fn a_writer_alone_needs_no_lock_of_the_lane() {
    let safe_alone = [Mutant::OneStatementClaim, Mutant::FinishWithoutLaneLock, Mutant::CancelWithoutLaneLock];
    for Wrong { mutant, rules, waiting, actors, crashes, .. } in MUTANTS {
        if safe_alone.contains(mutant) {
            let rules = Rules { mutant: Some(*mutant), one_writer: true, ..rules() };
            let found = search(World::new(rules, tables(waiting), actors(), *crashes), None);
            assert!(found.counterexample.is_none(), "{mutant:?}: {:#?}", found.counterexample);
        }
    }
}
