//! Several beats with clocks of their own, on both databases: what is due fires once, whatever the clocks do.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use matome_bus::Bus;
use matome_model::clock::{Clock, Timestamp};
use matome_model::schedule::{Plan, ScheduleOptions};
use matome_model::task::LaneKind;
use matome_store::db::Db;
use matome_store::schedules;
use matome_tasks::Beat;
use matome_testbed::databases;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

/// A full minute.
fn start() -> Timestamp {
    Timestamp::from_timestamp_secs(1_763_900_040).unwrap()
}

fn plan(options: Value, interval_secs: i64) -> Plan {
    ScheduleOptions::parse(&options).unwrap().plan(Some(interval_secs)).unwrap()
}

async fn schedule(db: &Db, first: i64, last: i64, plan: &Plan, now: Timestamp) {
    let plan = plan.clone();
    let set = db.write(move |conn| {
        Box::pin(async move {
            for object_id in first..=last {
                schedules::upsert(conn, LaneKind::Source, object_id, &plan, true, now).await?;
            }
            Ok(())
        })
    });
    set.await.unwrap();
}

fn beat(db: &Db, clock: &Clock) -> Beat {
    Beat::new(db.clone(), Bus::in_process(), clock.clone(), None)
}

/// Ends every task that waits, as workers would.
async fn run_all(db: &Db, now: Timestamp) {
    let run = db.write(move |conn| {
        Box::pin(async move {
            conn.execute(
                "update tasks set status = 'succeeded', finished_at = $1 where status = 'pending'",
                &[now.into()],
            )
            .await
        })
    });
    run.await.unwrap();
}

/// The nominal times of each object, in seconds after [`start`].
async fn fires(db: &Db) -> BTreeMap<i64, Vec<i64>> {
    let mut reader = db.read().await.unwrap();
    let sql = "select object_id, fire_time from tasks order by object_id, id";
    let mut all: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for row in reader.conn().fetch_all(sql, &[]).await.unwrap() {
        let secs = (row.time("fire_time").unwrap() - start()).num_seconds();
        all.entry(row.int("object_id").unwrap()).or_default().push(secs);
    }
    all
}

#[tokio::test]
async fn a_clock_that_is_set_on_far_is_not_believed_at_once() {
    for bed in databases().await {
        let (db, clock) = (&bed.db, Clock::fixed(start()));
        schedule(db, 1, 1, &plan(json!({"misfire": "catch_up"}), 60), clock.now()).await;
        schedule(db, 2, 2, &plan(json!({"misfire": "coalesce"}), 60), clock.now()).await;
        schedule(db, 3, 3, &plan(json!({"misfire": "skip"}), 60), clock.now()).await;
        let mut beat = beat(db, &clock);
        assert_eq!(beat.fire_due().await.unwrap(), 0);
        clock.jump(TimeDelta::hours(1));
        assert_eq!(beat.fire_due().await.unwrap(), 0, "{}: held for one look", bed.name);
        clock.jump(TimeDelta::hours(-1));
        assert_eq!(beat.fire_due().await.unwrap(), 0, "it was set right again: nothing is due");
        clock.jump(TimeDelta::hours(1));
        assert_eq!(beat.fire_due().await.unwrap(), 0);
        clock.advance(TimeDelta::seconds(20));
        assert_eq!(beat.fire_due().await.unwrap(), 60 + 1, "it stays: sixty are made up for, one stands for all, none");
        let fires = fires(db).await;
        assert_eq!((fires[&1].len(), &fires[&2], fires.get(&3)), (60, &vec![60], None));
        // Ten minutes are no jump: a machine may be as slow.
        run_all(db, clock.now()).await;
        clock.jump(TimeDelta::minutes(10));
        assert_eq!(beat.fire_due().await.unwrap(), 10 + 1);
        // Back by a day: the same times do not come again.
        run_all(db, clock.now()).await;
        clock.jump(TimeDelta::days(-1));
        for _ in 0..5 {
            clock.advance(TimeDelta::minutes(1));
            assert_eq!(beat.fire_due().await.unwrap(), 0);
        }
    }
}

/// Beats race for an hour of simulated time while their clocks are set on and back at random. However that goes, no
/// nominal time fires twice, each schedule goes forwards, and one that makes up for what it missed has no hole.
#[tokio::test]
async fn beats_with_jumping_clocks_fire_each_nominal_time_once() {
    for (seed, count) in [(1, 2), (2, 3), (3, 5)] {
        for bed in databases().await {
            let db = &bed.db;
            schedule(db, 1, 10, &plan(json!({"misfire": "catch_up"}), 30), start()).await;
            schedule(
                db,
                11,
                20,
                &plan(json!({"misfire": "catch_up", "cron": "* * * * *", "jitter_secs": 20}), 0),
                start(),
            )
            .await;
            schedule(db, 21, 30, &plan(json!({"misfire": "coalesce"}), 30), start()).await;
            schedule(db, 31, 40, &plan(json!({"misfire": "skip", "cron": "*/2 * * * *"}), 0), start()).await;
            let mut random = SmallRng::seed_from_u64(seed);
            let clocks: Vec<Clock> = (0..count).map(|_| Clock::fixed(start())).collect();
            let mut beats: Vec<Beat> = clocks.iter().map(|clock| beat(db, clock)).collect();
            for _ in 0..180 {
                for clock in &clocks {
                    clock.advance(TimeDelta::milliseconds(random.random_range(15_000..25_000)));
                    if random.random_ratio(1, 10) {
                        clock.jump(TimeDelta::seconds(random.random_range(-900..900)));
                    }
                }
                let looks = futures::future::join_all(beats.iter_mut().map(Beat::fire_due)).await;
                assert!(looks.iter().all(Result::is_ok), "{looks:?}");
                run_all(db, start()).await;
            }
            let what = format!("{}, seed {seed}, {count} beats", bed.name);
            let fires = fires(db).await;
            assert_eq!(fires.len(), 40, "{what}");
            for (object_id, times) in fires {
                let every = if object_id <= 10 { 30 } else { 60 };
                let is_ordered = times.windows(2).all(|pair| pair[0] < pair[1]);
                assert!(is_ordered, "{what}: {object_id}: {times:?}");
                if object_id <= 20 {
                    let whole: Vec<i64> = (1..=times.len() as i64).map(|n| n * every).collect();
                    assert_eq!(times, whole, "{what}: {object_id} has a hole");
                    assert!(times.len() >= 30, "{what}: {object_id}: {times:?}");
                }
            }
        }
    }
}

/// 10,000 schedules, each minute, two beats that look each second: none missed, none doubled.
///
/// `MATOME_TEST_SCHEDULE_MINUTES` says how many minutes are simulated; `scripts/faults schedule` does hours.
#[tokio::test]
async fn ten_thousand_schedules_each_minute_fire_once_each() {
    let minutes: i64 = std::env::var("MATOME_TEST_SCHEDULE_MINUTES").map_or(2, |text| text.parse().unwrap());
    for bed in databases().await {
        let db = &bed.db;
        let clock = Clock::fixed(start());
        // A third is spread over the minute, a third by jitter, and a third comes all at once.
        for n in 0..60 {
            let (first, now) = (n * 55 + 1, start() - TimeDelta::seconds(60 - n));
            schedule(db, first, first + 54, &Plan::every(60), now).await;
        }
        let cron = |jitter| json!({"cron": "* * * * *", "timezone": "Asia/Tokyo", "jitter_secs": jitter});
        schedule(db, 3_301, 6_600, &plan(cron(59), 0), start()).await;
        schedule(db, 6_601, 10_000, &plan(cron(0), 0), start()).await;
        let mut beats = [beat(db, &clock), beat(db, &clock)];
        let (mut made, mut slowest) = (0, Duration::ZERO);
        // One minute more, so that the jitter of the last runs out.
        for second in 1..=60 * (minutes + 1) {
            clock.advance(TimeDelta::seconds(1));
            let begun = Instant::now();
            let looks = futures::future::join_all(beats.iter_mut().map(Beat::fire_due)).await;
            slowest = slowest.max(begun.elapsed());
            made += looks.into_iter().map(Result::unwrap).sum::<usize>();
            if second % 20 == 19 {
                run_all(db, clock.now()).await;
            }
        }
        let mut reader = db.read().await.unwrap();
        // Per schedule and minute: exactly one.
        let end = start() + TimeDelta::minutes(minutes);
        let sql = "select count(*) as n, count(distinct object_id) as objects from (
            select object_id, count(*) as fires from tasks
            where fire_time > $1 and fire_time <= $2 group by object_id having count(*) = $3
        ) whole";
        let args = [start().into(), end.into(), minutes.into()];
        let row = reader.conn().fetch_one(sql, &args).await.unwrap();
        assert_eq!(row.int("objects").unwrap(), 10_000, "{}: schedules that fired each minute", bed.name);
        let twice = "select count(*) as n from (
            select 1 as one from tasks group by schedule_id, fire_time having count(*) > 1
        ) twice";
        assert_eq!(reader.conn().fetch_one(twice, &[]).await.unwrap().int("n").unwrap(), 0, "{}", bed.name);
        println!("{}: {made} tasks in {minutes} minutes, the slowest look took {slowest:?}", bed.name);
        // For `scripts/faults`: fault, database, tasks, records, lost, doubled, milliseconds.
        println!("row schedule_sim {} {made} - 0 0 -", bed.name);
    }
}
