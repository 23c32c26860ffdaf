//! Only what is new is read, and nothing is passed over: at page borders, after crashes, for odd values.

use matome_connector::{Batch, ReadRequest};
use serde_json::{Value, json};

use crate::support::{Bed, behind, error_of, field, read, read_until, state, texts, told};

/// Rows in groups with the same time, so that page borders fall into them.
const EVENTS: &str = "create table events (id int primary key, at timestamptz, n numeric);
    insert into events select n, timestamptz '2026-01-01' + interval '1 hour' * (n / 7), n / 3.0 from generate_series(1, 50) n";

fn by_time(more: Value) -> Value {
    let mut options = json!({"table": "events", "dedupe": "key", "key": "id", "incremental": {"cursor": "at"}});
    for (name, value) in more.as_object().unwrap() {
        options["incremental"][name] = value.clone();
    }
    options
}

#[tokio::test]
async fn a_read_goes_on_behind_any_page_and_gives_each_row_once() {
    let bed = Bed::new(EVENTS).await;
    for options in [
        by_time(json!({})),
        by_time(json!({"tie_break": ["id", "n"]})),
        json!({"table": "events", "dedupe": "hash"}),
        json!({"table": "events", "dedupe": "none"}),
        json!({"table": "events", "dedupe": "none", "incremental": {"cursor": "at"}}),
        json!({"query": "select * from events", "dedupe": "none", "incremental": {"cursor": "at", "tie_break": "id"}}),
    ] {
        let connector = bed.connector(options.clone());
        for size in [3, 7, 60] {
            let whole = read(&*connector, behind(None, size)).await;
            assert_eq!(field(&whole, "id"), (1..=50).collect::<Vec<_>>(), "{options}");
            assert!(whole.iter().all(|batch| batch.is_exact), "{options}");
            for cut in 0..whole.len() - 1 {
                let rest = read(&*connector, behind(Some(&whole[cut]), 9)).await;
                let ids: Vec<i64> = field(&whole[..=cut], "id").into_iter().chain(field(&rest, "id")).collect();
                assert_eq!(ids, (1..=50).collect::<Vec<_>>(), "{options}, cut behind page {cut} of {size}");
            }
        }
    }
    // Where nothing tells rows of the same time apart, those of the page border come again: none is lost.
    for options in [
        json!({"query": "select * from events", "dedupe": "hash", "incremental": {"cursor": "at"}}),
        by_time(json!({"tie_break": ["n"]})),
    ] {
        let connector = bed.connector(options);
        let whole = read(&*connector, behind(None, 3)).await;
        assert!(whole.iter().all(|batch| !batch.is_exact));
        let rest = read(&*connector, behind(Some(&whole[2]), 9)).await;
        let mut ids: Vec<i64> = field(&whole[..=2], "id").into_iter().chain(field(&rest, "id")).collect();
        assert!(ids.len() < 60, "{}", ids.len());
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids, (1..=50).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_next_read_begins_a_little_before_the_mark() {
    let bed = Bed::new(EVENTS).await;
    let last = |batches: &[Batch]| batches.last().unwrap().clone();
    let connector = bed.connector(by_time(json!({})));
    let first = read(&*connector, ReadRequest::default()).await;
    assert_eq!(state(&last(&first))["high"], "2026-01-01 07:00:00+00");
    // What became visible late, up to five minutes before the mark; not what is older.
    bed.run("insert into events values (51, '2026-01-01 06:55:00', 0), (52, '2026-01-01 06:54:59', 0), (53, '2026-01-02', 0)").await;
    let second = read(&*connector, behind(Some(&last(&first)), 1000)).await;
    assert_eq!(field(&second, "id"), [51, 49, 50, 53]);
    let third = read(&*connector, behind(Some(&last(&second)), 1000)).await;
    assert_eq!(field(&third, "id"), [53]);
    assert_eq!(state(&last(&third))["high"], state(&last(&second))["high"]);

    // By hand: none, more, and by whole numbers.
    let ids = |options: Value, at: Batch| {
        let connector = bed.connector(options);
        async move { field(&read(&*connector, behind(Some(&at), 1000)).await, "id") }
    };
    assert_eq!(ids(by_time(json!({"overlap": 0})), last(&first)).await, [49, 50, 53]);
    assert_eq!(ids(by_time(json!({"overlap": 301})), last(&first)).await, [52, 51, 49, 50, 53]);
    let by_id = |more: Value| {
        let mut options = by_time(more);
        options["incremental"]["cursor"] = json!("id");
        options
    };
    let whole = read(&*bed.connector(by_id(json!({}))), ReadRequest::default()).await;
    assert_eq!(state(&last(&whole))["high"], "53");
    assert_eq!(ids(by_id(json!({})), last(&whole)).await.len(), 53);
    assert_eq!(ids(by_id(json!({"overlap": 2})), last(&whole)).await, [51, 52, 53]);
    assert_eq!(
        field(&read(&*bed.connector(by_id(json!({"start": 52}))), ReadRequest::default()).await, "id"),
        [52, 53]
    );
    // Nothing may come twice: exactly behind the last row.
    let none = json!({"table": "events", "dedupe": "none", "incremental": {"cursor": "id"}});
    let whole = read(&*bed.connector(none.clone()), ReadRequest::default()).await;
    assert_eq!(ids(none.clone(), last(&whole)).await, Vec::<i64>::new());
    bed.run("insert into events values (54, null, 0)").await;
    assert_eq!(ids(none, last(&whole)).await, [54]);
}

#[tokio::test]
async fn no_mark_is_after_the_beginning_of_the_read() {
    for of in ["timestamptz", "timestamp", "date"] {
        let bed = Bed::new(&format!(
            "create table events (id int primary key, at {of});
            insert into events values (1, '2026-01-01'), (2, now() - interval '2 days'), (3, now() + interval '9 days'), (4, 'infinity')"
        ))
        .await;
        let connector = bed.connector(by_time(json!({})));
        let first = read(&*connector, ReadRequest::default()).await;
        assert_eq!(field(&first, "id"), [1, 2, 3, 4]);
        bed.run("insert into events values (5, now())").await;
        let second = read(&*connector, behind(first.last(), 1000)).await;
        assert_eq!(field(&second, "id"), [2, 5, 3, 4], "{of}");
    }
}

#[tokio::test]
async fn rows_without_a_cursor_are_read_left_out_or_told() {
    let bed = Bed::new(EVENTS).await;
    bed.run("update events set at = null where id in (3, 30, 31)").await;
    let valued: Vec<i64> = (1..=50).filter(|id| ![3, 30, 31].contains(id)).collect();
    let all: Vec<i64> = valued.iter().copied().chain([3, 30, 31]).collect();
    let connector = bed.connector(by_time(json!({})));
    let first = read(&*connector, behind(None, 4)).await;
    assert_eq!(field(&first, "id"), all);
    // They have no place, so each read has them; also one that goes on behind one of them.
    let second = read(&*connector, behind(first.last(), 1000)).await;
    assert_eq!(field(&second, "id"), [49, 50, 3, 30, 31]);
    for cut in 0..first.len() - 1 {
        let rest = read(&*connector, behind(Some(&first[cut]), 1000)).await;
        let ids: Vec<i64> = field(&first[..=cut], "id").into_iter().chain(field(&rest, "id")).collect();
        assert_eq!(ids, all, "cut behind page {cut}");
    }
    let skipping = read(&*bed.connector(by_time(json!({"nulls": "skip"}))), ReadRequest::default()).await;
    assert_eq!(field(&skipping, "id"), valued);
    let none = json!({"table": "events", "dedupe": "none", "incremental": {"cursor": "at"}});
    for options in [by_time(json!({"nulls": "fail"})), none] {
        let (batches, error) = read_until(&*bed.connector(options), behind(None, 20)).await;
        assert_eq!(field(&batches, "id"), valued, "what has a cursor was handed on");
        let error = told(&error.unwrap());
        assert!(error.contains("3 rows have NULL in `at`") && error.contains("3 件"), "{error}");
    }
    // NULL in what orders rows of the same time.
    bed.run("create table loose (id int, at int); insert into loose values (1, 1), (null, 1)").await;
    let options = json!({"table": "loose", "dedupe": "hash", "incremental": {"cursor": "at", "tie_break": "id"}});
    let error = told(&error_of(&*bed.connector(options)).await);
    assert!(error.contains("NULL in a column of `incremental.tie_break`"), "{error}");
}

#[tokio::test]
async fn cursors_of_other_types_are_compared_as_the_database_does() {
    let bed = Bed::new(
        "create type size as enum ('small', 'large', 'big');
        create table t (id uuid primary key, name text, size size, amount numeric, raw bytea, f float8);
        insert into t select md5(n::text)::uuid, (array['é', 'Z', 'a', 'ä', 'B', ''' \\ \"'])[1 + n % 6] || n, (array['small', 'large', 'big'])[1 + n % 3]::size,
            n / 7.0, decode(lpad(to_hex(n), 4, '0'), 'hex'), n / 3.0 from generate_series(1, 40) n",
    )
    .await;
    for cursor in ["id", "name", "size", "amount", "raw", "f"] {
        let connector = bed.connector(json!({"table": "t", "dedupe": "hash", "incremental": {"cursor": cursor}}));
        let whole = read(&*connector, behind(None, 7)).await;
        let all = texts(&whole);
        assert_eq!(all.len(), 40);
        for cut in 0..whole.len() - 1 {
            let rest = read(&*connector, behind(Some(&whole[cut]), 100)).await;
            let joined: Vec<String> = texts(&whole[..=cut]).into_iter().chain(texts(&rest)).collect();
            assert_eq!(joined, all, "{cursor}, cut behind page {cut}");
        }
        let next = texts(&read(&*connector, behind(whole.last(), 100)).await);
        assert!(!next.is_empty() && all.ends_with(&next), "{cursor}: {next:?}");
    }
}
