//! Only what is new is read, and nothing is passed over: at page borders, after crashes, for odd values.

use serde_json::json;

use crate::servers;
use crate::support::{Bed, behind, read, texts};

/// Rows in groups with the same time, so that page borders fall into them.
const EVENTS: &str = "create table events (id int primary key, at timestamptz, n numeric);
    insert into events select n, timestamptz '2026-01-01' + interval '1 hour' * (n / 7), n / 3.0 from generate_series(1, 50) n";

#[tokio::test]
async fn a_table_that_is_not_there_is_told_with_those_that_are() {
    servers::a_table_that_is_not_there_is_told_with_those_that_are(&Bed::new(EVENTS).await).await;
}

#[tokio::test]
async fn a_read_goes_on_behind_any_page_and_gives_each_row_once() {
    servers::reads_go_on_behind_any_page(&Bed::new(EVENTS).await).await;
}

#[tokio::test]
async fn the_next_read_begins_a_little_before_the_mark() {
    servers::the_next_read_begins_a_little_before(&Bed::new(EVENTS).await, "2026-01-01 07:00:00+00").await;
}

#[tokio::test]
async fn no_mark_is_after_the_beginning_of_the_read() {
    for of in ["timestamptz", "timestamp", "date"] {
        let bed = Bed::new(&format!(
            "create table events (id int primary key, at {of});
            insert into events values (1, '2026-01-01'), (2, now() - interval '2 days'), (3, now() + interval '9 days'), (4, 'infinity')"
        ))
        .await;
        servers::no_mark_is_after_the_beginning(&bed, of).await;
    }
}

#[tokio::test]
async fn rows_without_a_cursor_are_read_left_out_or_told() {
    servers::rows_without_a_cursor_are_told_apart(&Bed::new(EVENTS).await).await;
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

#[tokio::test]
async fn a_whole_read_sees_one_moment() {
    let bed = Bed::new(
        "create table moments (id int primary key, n int, body text);
        insert into moments select n, 0, repeat('x', 1000) from generate_series(1, 20000) n",
    )
    .await;
    let insert = "insert into moments values (100000 + (random() * 100000)::int, 1, '')";
    servers::a_whole_read_sees_one_moment(&bed, insert).await;
}
