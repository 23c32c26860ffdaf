//! Each type of MySQL and MariaDB as the JSON that docs/connectors/database.md says, to the last digit.

use std::collections::BTreeMap;

use matome_connector::{Item, ReadRequest};
use serde_json::json;
use serde_json::value::RawValue;

use super::bed::Bed;
use crate::support::{read, texts};

/// A type, a value as SQL, and what the record has for it in canonical form.
const TYPES: &[(&str, &str, &str)] = &[
    ("tinyint", "-128", "-128"),
    ("tinyint(1)", "2", "2"),
    ("boolean", "true", "1"),
    ("tinyint(1) unsigned", "200", "200"),
    ("smallint unsigned", "65535", "65535"),
    ("mediumint", "-8388608", "-8388608"),
    ("int(9) unsigned zerofill", "42", "42"),
    ("bigint", "-9223372036854775808", "-9223372036854775808"),
    ("bigint unsigned", "18446744073709551615", "18446744073709551615"),
    (
        "decimal(65,30)",
        "-12345678901234567890123456789012345.123456789012345678901234567891",
        "-12345678901234567890123456789012345.123456789012345678901234567891",
    ),
    ("decimal(6,2) zerofill", "1.5", "1.5"),
    ("decimal(3,2)", "0", "0"),
    ("float", "0.1", "0.1"),
    ("float", "16777217.5", "16777218"),
    ("double", "0.1", "0.1"),
    ("double", "1.7976931348623157e308", "17976931348623157"),
    ("double", "5e-324", "0.000"),
    ("bit(1)", "1", "1"),
    ("bit(64)", "18446744073709551615", "18446744073709551615"),
    ("year", "2026", "2026"),
    ("year", "'0000'", "0"),
    ("date", "'2026-02-03'", "\"2026-02-03\""),
    // Its year has a low byte of zero, which the driver takes for NULL.
    ("date", "'2048-02-03'", "\"2048-02-03\""),
    ("date", "'0000-00-00'", "\"0000-00-00\""),
    ("date", "'2026-02-31'", "\"2026-02-31\""),
    ("datetime", "'2026-02-03 04:05:06'", "\"2026-02-03T04:05:06\""),
    ("datetime(6)", "'9999-12-31 23:59:59.000001'", "\"9999-12-31T23:59:59.000001\""),
    ("datetime(3)", "'0000-00-00 00:00:00'", "\"0000-00-00T00:00:00.000\""),
    ("datetime", "'2026-00-00 00:00:00'", "\"2026-00-00T00:00:00\""),
    // The session that inserts it is in UTC, the server is in Tokyo.
    ("timestamp(6) null", "'2026-02-03 04:05:06.000001'", "\"2026-02-03T04:05:06.000001+00:00\""),
    ("timestamp null", "'0000-00-00 00:00:00'", "\"0000-00-00T00:00:00+00:00\""),
    ("time(3)", "'-838:59:59.5'", "\"-838:59:59.500\""),
    ("time", "'04:05:06'", "\"04:05:06\""),
    ("char(4)", "'a'", "\"a\""),
    ("varchar(30)", "'\\t\"\\\\ 日本語 \u{1f5fe}'", "\"\\t\\\"\\\\ 日本語 \u{1f5fe}\""),
    ("varchar(30) collate utf8mb4_bin", "'Straße'", "\"Straße\""),
    ("varchar(30) character set latin1", "'é€'", "\"é€\""),
    ("varchar(30) character set sjis", "'表示'", "\"表示\""),
    ("char(4) character set ucs2", "'日本'", "\"日本\""),
    ("text collate utf8mb4_bin", "'x'", "\"x\""),
    ("longtext", "''", "\"\""),
    ("binary(4)", "x'00ff'", "\"\\\\x00ff0000\""),
    ("varbinary(9)", "x'00ff10'", "\"\\\\x00ff10\""),
    ("blob", "x'00ff10'", "\"\\\\x00ff10\""),
    ("longblob", "''", "\"\\\\x\""),
    ("enum('小', '大')", "'大'", "\"大\""),
    ("enum('small', 'large') collate utf8mb4_bin", "'large'", "\"large\""),
    ("set('a', 'b', 'c')", "'c,a'", "\"a,c\""),
    ("json", "'{\"b\": 1.10, \"a\": [1e2, 12345678901234567890.5]}'", "{\"a\":[100,12345678901234567890.5],\"b\":1.1}"),
    ("json", "'null'", "null"),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\""),
    ("inet6", "'2001:db8::1'", "\"2001:db8::1\""),
    ("point", "point(1.5, 2)", "\"\\\\x000000000101000000000000000000f83f0000000000000040\""),
    ("int", "null", "null"),
    ("datetime", "null", "null"),
    ("bit(3)", "null", "null"),
    ("json", "null", "null"),
    ("double", "null", "null"),
    ("blob", "null", "null"),
];

#[tokio::test]
async fn every_type_is_exact_in_tables_and_queries() {
    let columns: Vec<String> = TYPES.iter().enumerate().map(|(at, (of, ..))| format!("c{at:02} {of}")).collect();
    let values: Vec<&str> = TYPES.iter().map(|(_, value, _)| *value).collect();
    let bed = Bed::new(&format!(
        "create table t ({}) character set utf8mb4; insert into t values ({})",
        columns.join(", "),
        values.join(", ")
    ))
    .await;
    for options in [json!({"table": "t"}), json!({"query": "select * from t"})] {
        let batches = read(&*bed.connector(options.clone()), ReadRequest::default()).await;
        let text = texts(&batches).pop().unwrap();
        let record: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text}"));
        let mut wrong = Vec::new();
        for (at, (of, value, wanted)) in TYPES.iter().enumerate() {
            // MariaDB's JSON is a text, and only a table says that it is meant.
            if *of == "json" && options.get("query").is_some() {
                continue;
            }
            let found = record[&format!("c{at:02}")].get();
            // Numbers are written out in full; of the longest ones the beginning tells.
            let is_fine = if value.contains("e3") || value.contains("e-3") {
                found.starts_with(wanted)
            } else {
                found == *wanted
            };
            if !is_fine {
                wrong.push(format!("{of} {value}: {found}, not {wanted}"));
            }
        }
        assert!(wrong.is_empty(), "{options}:\n{}", wrong.join("\n"));
    }
}

#[tokio::test]
async fn names_of_any_kind_are_read() {
    let bed = Bed::new(
        "create table `we``ird \"t\"` (`a``b` int, `日本` int, `select` int, `matome_row` int, `q?` int);
        insert into `we``ird \"t\"` values (1, 2, 3, 4, 5)",
    )
    .await;
    let wanted = r#"{"a`b":1,"matome_row":4,"q?":5,"select":3,"日本":2}"#;
    for options in [
        json!({"table": "we`ird \"t\""}),
        json!({"table": "we`ird \"t\"", "schema": bed.name}),
        json!({"table": format!("{}.we`ird \"t\"", bed.name)}),
        json!({"query": "select * from `we``ird \"t\"` # all of it"}),
        json!({"query": "select * from `we``ird \"t\"` -- all of it;\n;"}),
        json!({"table": "we`ird \"t\"", "dedupe": "hash", "incremental": {"cursor": "a`b", "tie_break": ["q?", "select"]}}),
    ] {
        let batches = read(&*bed.connector(options.clone()), ReadRequest::default()).await;
        assert_eq!(texts(&batches), [wanted], "{options}");
    }
}

#[tokio::test]
async fn a_json_column_can_not_reach_beyond_its_place() {
    // A copy of a table may hold anything under the same condition.
    let bed = Bed::new(
        "set check_constraint_checks = 0; create table t (id int, doc json);
        insert into t values (1, '1,\"id\":7'), (2, '{\"a\":1,\"a\":2}'), (3, 'no'), (4, ' {} ')",
    )
    .await;
    let batches = read(&*bed.connector(json!({"table": "t"})), ReadRequest::default()).await;
    let all = texts(&batches);
    assert_eq!(all[0], r#"{"doc":"1,\"id\":7","id":1}"#);
    assert!(all[1].contains("DuplicateKey"), "{}", all[1]);
    assert_eq!(all[2..], [r#"{"doc":"no","id":3}"#, r#"{"doc":{},"id":4}"#]);
}

#[tokio::test]
async fn a_row_that_is_too_long_goes_to_quarantine_and_is_not_fetched_whole() {
    let bed = Bed::new(
        "create table t (id int primary key, body longtext, raw longblob, place geometry);
        insert into t values (1, 'a', 'b', null), (2, repeat('日', 4000000), null, point(1, 2)), (3, 'c', repeat('d', 5000000), null),
            (4, repeat('e', 8000000), 'f', null)",
    )
    .await;
    for options in [json!({"table": "t", "dedupe": "hash"}), json!({"query": "select * from t"})] {
        let batches = read(&*bed.connector(options), ReadRequest::default()).await;
        let all = texts(&batches);
        assert_eq!(all[0], r#"{"body":"a","id":1,"place":null,"raw":"\\x62"}"#);
        assert_eq!(all[1..3], ["record_limit", "record_limit"]);
        assert!(all[3].contains("eeee") && all[3].len() > 8_000_000);
        let items: Vec<&Item> = batches.iter().flat_map(|batch| &batch.items).collect();
        assert!(items[1].raw().len() <= 64 << 10 && items[1].raw().starts_with(br#"{"id":2,"body":"#));
        assert!(batches.iter().map(|batch| batch.stats.bytes).sum::<u64>() < 9 << 20);
    }
}

#[tokio::test]
async fn a_long_list_of_a_query_is_not_cut() {
    let bed = Bed::new("").await;
    // MySQL itself would cut it after 1,024 bytes, and say so in a warning only.
    let query = "select group_concat(seq separator '') as list from seq_1_to_400000";
    let batches = read(&*bed.connector(json!({"query": query})), ReadRequest::default()).await;
    let text = texts(&batches).pop().unwrap();
    assert!(text.len() > 2_000_000 && text.ends_with("399999400000\"}"), "{}", text.len());
}
