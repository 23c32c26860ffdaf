//! Only what is new is read, and nothing is passed over: at page borders, for odd values, in the order of the server.

use matome_connector::ReadRequest;
use serde_json::json;

use super::bed::Bed;
use crate::servers::{self, by_time};
use crate::support::{behind, error_of, field, read, texts, told};

/// Rows in groups with the same time, so that page borders fall into them.
const EVENTS: &str = "create table events (id int primary key, at datetime(6), n decimal(20, 10));
    insert into events select seq, timestamp'2026-01-01 00:00:00' + interval (seq div 7) hour, seq / 3.0 from seq_1_to_50";

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
    servers::the_next_read_begins_a_little_before(&Bed::new(EVENTS).await, "2026-01-01 07:00:00.000000").await;
}

#[tokio::test]
async fn no_mark_is_after_the_beginning_of_the_read() {
    for of in ["timestamp(6) null", "datetime(3)", "date"] {
        // The session that inserts is in UTC, as those that read are; the server is nine hours ahead.
        let bed = Bed::new(&format!(
            "create table events (id int primary key, at {of});
            insert into events values (1, '2026-01-01'), (2, now() - interval 2 day), (3, now() + interval 9 day), (4, '2037-12-31')"
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
async fn dates_that_are_none_come_first_and_once() {
    // For a column that may not be NULL, `at is null` finds 0000-00-00.
    for of in ["date not null", "datetime not null", "datetime(6)", "timestamp(6) not null default now(6)"] {
        let bed = Bed::new(&format!(
            "create table events (id int primary key, at {of}, key (at, id));
            insert into events values (1, '0000-00-00'), (2, '0000-00-00'), (3, '2026-01-01'), (4, '2026-01-01'), (5, '2026-01-02')"
        ))
        .await;
        let connector = bed.connector(by_time(json!({})));
        let whole = read(&*connector, behind(None, 1)).await;
        assert_eq!(field(&whole, "id"), [1, 2, 3, 4, 5], "{of}");
        for cut in 0..whole.len() - 1 {
            let rest = read(&*connector, behind(Some(&whole[cut]), 2)).await;
            let ids: Vec<i64> = field(&whole[..=cut], "id").into_iter().chain(field(&rest, "id")).collect();
            assert_eq!(ids, [1, 2, 3, 4, 5], "{of}, cut behind page {cut}");
        }
        // A mark before which there is no time: everything is read.
        bed.run("delete from events where id > 2").await;
        let whole = read(&*connector, ReadRequest::default()).await;
        bed.run("insert into events values (6, '2026-01-05')").await;
        assert_eq!(field(&read(&*connector, behind(whole.last(), 9)).await, "id"), [1, 2, 6], "{of}");
    }
}

#[tokio::test]
async fn cursors_of_any_type_are_ordered_as_the_server_does() {
    let sets: Vec<String> = (0..64).map(|at| format!("'m{at}'")).collect();
    let bed = Bed::new(&format!(
        "create table t (id binary(4) primary key, general varchar(40), bin varchar(40) collate utf8mb4_bin,
            german varchar(40) character set latin1 collate latin1_german1_ci, old varchar(40) character set utf8mb3,
            japanese varchar(40) collate utf8mb4_unicode_520_ci, padded char(20), size enum('small', 'large', 'big'),
            flags set({}), bits bit(64), year year, duration time(6), amount decimal(65, 30), small float, big double,
            counter bigint unsigned, raw varbinary(200), whole_day date, who uuid, address inet6);
        insert into t select unhex(lpad(hex(seq * 1000003 % 65537), 8, '0')), concat(elt(1 + seq % 6, 'é', 'Z', 'a', 'A', 'B', '''\\\\\"'), seq div 6),
            concat(elt(1 + seq % 6, 'é', 'Z', 'a', 'ä', 'B', '''\\\\\"'), seq), concat(elt(1 + seq % 6, 'é', 'Z', 'a', 'ä', 'B', 'ß'), seq div 6),
            concat(elt(1 + seq % 6, 'é', 'Z', 'a', 'ä', '日', 'ß'), seq div 6), concat(elt(1 + seq % 6, 'は', 'ハ', 'ば', 'パ', 'ひ', '\u{1f5fe}'), seq div 12),
            concat(elt(1 + seq % 3, 'a', 'A', 'b'), repeat(' ', seq % 4), elt(1 + seq % 2, '', 'x')), elt(1 + seq % 3, 'small', 'large', 'big'),
            1 << (seq * 5 % 64), 18446744073709551615 - seq * 7919 % 97, if(seq % 9 = 0, 0, 1960 + seq), sec_to_time((cast(seq * 7919 % 97 as signed) - 40) * 30000.000001),
            if(seq % 2, 1, -1) * 12345678901234567890123456789012345.123456789012345678901234567891 + seq, seq / 7, pow(-10, seq) / 3,
            18446744073709551615 - seq * 7919 % 97, unhex(concat(repeat('ff', 60 + seq % 5), hex(seq))), if(seq % 8 = 0, '0000-00-00', '2026-01-01' + interval seq day),
            uuid_v(seq), concat('2001:db8::', hex(seq * 7919 % 97))
        from seq_1_to_40",
        sets.join(", ")
    ).replace("uuid_v(seq)", "md5(seq)"))
    .await;
    for cursor in [
        "id",
        "general",
        "bin",
        "german",
        "old",
        "japanese",
        "padded",
        "size",
        "flags",
        "bits",
        "year",
        "duration",
        "amount",
        "small",
        "big",
        "counter",
        "raw",
        "whole_day",
        "who",
        "address",
    ] {
        // With the primary key, with columns that are said to tell rows apart, and with neither.
        for (mut options, is_exact) in [
            (json!({"table": "t", "dedupe": "hash"}), true),
            (json!({"query": "select * from t", "dedupe": "none"}), true),
            (json!({"query": "select * from t", "dedupe": "hash"}), false),
        ] {
            let is_none = options["dedupe"] == "none";
            options["incremental"] = json!({"cursor": cursor, "nulls": "skip"});
            if is_none {
                options["incremental"]["tie_break"] = json!("id");
            } else if cursor == "counter" {
                options["incremental"]["overlap"] = json!(0);
            }
            let connector = bed.connector(options.clone());
            let whole = read(&*connector, behind(None, 7)).await;
            let all = texts(&whole);
            assert!(all.len() == 40 || cursor == "who" && all.len() > 20, "{options}: {}", all.len());
            for cut in 0..whole.len() - 1 {
                let rest = texts(&read(&*connector, behind(Some(&whole[cut]), 100)).await);
                let before = texts(&whole[..=cut]);
                if is_exact {
                    let joined: Vec<String> = before.into_iter().chain(rest).collect();
                    assert!(joined == all, "{options}, cut behind page {cut}");
                } else {
                    // Those that are equal by the rules of the server come again.
                    let missing = all.iter().filter(|text| !before.contains(text) && !rest.contains(text)).count();
                    assert!(
                        missing == 0 && (rest.len() < 40 || cut == 0),
                        "{options}, cut behind page {cut}: {missing}"
                    );
                }
            }
            let next = texts(&read(&*connector, behind(whole.last(), 100)).await);
            match is_none {
                true => assert!(next.is_empty(), "{options}: {}", next.len()),
                false => assert!(!next.is_empty() && next.len() < 40, "{options}: {}", next.len()),
            }
        }
    }
}

#[tokio::test]
async fn long_texts_are_ordered_by_all_that_they_have() {
    // The server of the tests looks at 64 bytes by itself.
    let bed = Bed::new(
        "create table t (id int primary key, name varchar(2000));
        insert into t select seq, concat(repeat('x', 1500), char(65 + seq * 7 % 20)) from seq_1_to_20",
    )
    .await;
    let connector = bed.connector(json!({"table": "t", "dedupe": "hash", "incremental": {"cursor": "name"}}));
    let whole = read(&*connector, behind(None, 3)).await;
    let wanted: Vec<i64> = (0..20).map(|rank| (1..=20).find(|id| id * 7 % 20 == rank).unwrap()).collect();
    assert_eq!(field(&whole, "id"), wanted);
    // What may be longer than the server looks at is refused as an order; as a primary key it gives none.
    bed.run("create table u (id int, body text, primary key (body(10))); insert into u values (1, 'a')").await;
    let error =
        error_of(&*bed.connector(json!({"table": "u", "dedupe": "hash", "incremental": {"cursor": "body"}}))).await;
    assert!(told(&error).contains("`body` is of the type `text`"), "{}", told(&error));
    assert_eq!(
        texts(&read(&*bed.connector(json!({"table": "u", "dedupe": "hash"})), ReadRequest::default()).await).len(),
        1
    );
}

#[tokio::test]
async fn a_whole_read_sees_one_moment() {
    let bed = Bed::new(
        "create table moments (id int primary key, n int, body varchar(1000));
        insert into moments select seq, 0, repeat('x', 1000) from seq_1_to_20000",
    )
    .await;
    let insert = "insert into moments values (100000 + rand() * 100000, 1, '')";
    servers::a_whole_read_sees_one_moment(&bed, insert).await;
}
