//! Each type of PostgreSQL as the JSON that docs/connectors/database.md says, to the last digit.

use matome_connector::{DatabaseFault, Item, ReadRequest};
use serde_json::json;
use url::Url;

use crate::errors::check;
use crate::support::{Bed, read, read_until, texts};

/// A type, a value as SQL, and what the record has for it in canonical form.
const TYPES: &[(&str, &str, &str)] = &[
    ("smallint", "-32768", "-32768"),
    ("integer", "2147483647", "2147483647"),
    ("bigint", "-9223372036854775808", "-9223372036854775808"),
    ("bigint", "9007199254740993", "9007199254740993"),
    (
        "numeric",
        "12345678901234567890.123456789012345678901234567890",
        "12345678901234567890.12345678901234567890123456789",
    ),
    ("numeric", "'NaN'", "\"NaN\""),
    ("numeric", "'-Infinity'", "\"-Infinity\""),
    ("numeric(30,10)", "0.0000000001", "0.0000000001"),
    ("money", "'-1234.5'", "\"-$1,234.50\""),
    ("real", "0.1", "0.1"),
    ("double precision", "0.1", "0.1"),
    ("double precision", "1.7976931348623157e308", "17976931348623157"),
    ("double precision", "5e-324", "0.000"),
    ("double precision", "'Infinity'", "\"Infinity\""),
    ("double precision", "'NaN'", "\"NaN\""),
    ("boolean", "true", "true"),
    ("text", "E'\\t\"\\\\ 日本語 \u{1f5fe}'", "\"\\t\\\"\\\\ 日本語 \u{1f5fe}\""),
    ("char(4)", "'a'", "\"a   \""),
    ("varchar(3)", "''", "\"\""),
    ("bytea", "'\\x00ff10'", "\"\\\\x00ff10\""),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\""),
    ("date", "'2026-02-03'", "\"2026-02-03\""),
    ("date", "'0044-03-15 BC'", "\"0044-03-15 BC\""),
    ("timestamp", "'2026-02-03 04:05:06.123456'", "\"2026-02-03T04:05:06.123456\""),
    ("timestamptz", "'2026-02-03 04:05:06.000001+09'", "\"2026-02-02T19:05:06.000001+00:00\""),
    ("timestamptz", "'infinity'", "\"infinity\""),
    ("time", "'04:05:06.7'", "\"04:05:06.7\""),
    ("timetz", "'04:05:06+09'", "\"04:05:06+09\""),
    ("interval", "'1 year 2 mons 3 days 04:05:06.789'", "\"P1Y2M3DT4H5M6.789S\""),
    ("json", "'{\"b\": 1.10, \"a\": [1e2]}'", "{\"a\":[100],\"b\":1.1}"),
    ("jsonb", "'{\"n\": 12345678901234567890.5}'", "{\"n\":12345678901234567890.5}"),
    ("int[]", "'{{1,2},{3,null}}'", "[[1,2],[3,null]]"),
    ("text[]", "array['a,b', null, '\"']", "[\"a,b\",null,\"\\\"\"]"),
    ("mood", "'うれしい'", "\"うれしい\""),
    ("pair", "row(1, 'x')", "{\"left\":1,\"right\":\"x\"}"),
    ("positive", "7", "7"),
    ("int4range", "'[1,5)'", "\"[1,5)\""),
    ("inet", "'192.168.0.1/24'", "\"192.168.0.1/24\""),
    ("macaddr", "'08:00:2b:01:02:03'", "\"08:00:2b:01:02:03\""),
    ("bit(4)", "b'1010'", "\"1010\""),
    ("point", "'(1.5,2)'", "\"(1.5,2)\""),
    ("tsvector", "'a b'", "\"'a' 'b'\""),
    ("text", "null", "null"),
];

#[tokio::test]
async fn every_type_is_exact() {
    let columns: Vec<String> = TYPES.iter().enumerate().map(|(at, (of, ..))| format!("c{at:02} {of}")).collect();
    let values: Vec<&str> = TYPES.iter().map(|(_, value, _)| *value).collect();
    let bed = Bed::new(&format!(
        "create type mood as enum ('うれしい', 'かなしい'); create type pair as (\"left\" int, \"right\" text);
        create domain positive as int check (value > 0);
        create table t ({}); insert into t values ({})",
        columns.join(", "),
        values.join(", ")
    ))
    .await;
    // What the role has by default changes nothing.
    let odd = "options";
    let options = json!({odd: {"search_path": bed.schema}, "table": "t"});
    let batches = read(&*bed.connector(options), ReadRequest::default()).await;
    let text = texts(&batches).pop().unwrap();
    let record: std::collections::BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_str(&text).unwrap();
    let mut wrong = Vec::new();
    for (at, (of, value, wanted)) in TYPES.iter().enumerate() {
        let found = record[&format!("c{at:02}")].get();
        // Numbers are written out in full; of the longest ones the beginning tells.
        let is_fine =
            if of == &"double precision" && value.contains('e') { found.starts_with(wanted) } else { found == *wanted };
        if !is_fine {
            wrong.push(format!("{of} {value}: {found}, not {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let Item::Record { position, .. } = &batches[0].items[0] else { panic!() };
    let document = &*position.document;
    assert!(document.starts_with("postgres://127.0.0.1:") && document.ends_with("/matome_test#t"), "{document}");
}

#[tokio::test]
async fn a_number_of_a_thousand_digits_is_exact() {
    let number = format!("{}.{}", "9".repeat(500), "7".repeat(500));
    let bed =
        Bed::new(&format!("create table t (n numeric(1000,500)); insert into t values ({number}), (-{number})")).await;
    let batches = read(&*bed.connector(json!({"table": "t"})), ReadRequest::default()).await;
    assert_eq!(texts(&batches), [format!("{{\"n\":{number}}}"), format!("{{\"n\":-{number}}}")]);
}

#[tokio::test]
async fn text_that_is_in_no_encoding_is_told_with_the_remedy() {
    let bed = Bed::new("select 1").await;
    let name = format!("{}_ascii", bed.schema);
    bed.run(&format!("create database {name} encoding 'SQL_ASCII' locale_provider libc locale 'C' template template0"))
        .await;
    let mut other = Url::parse(&bed.url).unwrap();
    other.set_path(&name);
    other.set_query(None);
    let other = Bed { url: other.into(), schema: "public".to_owned() };
    other.run(r"create table t (id int, body text); insert into t values (1, 'a'), (2, E'caf\xe9'), (3, 'c')").await;
    let (batches, error) = read_until(&*other.connector(json!({"table": "t"})), ReadRequest::default()).await;
    // What came before it is kept; said otherwise, it is read.
    assert_eq!(texts(&batches), [r#"{"body":"a","id":1}"#]);
    check(&error.unwrap(), DatabaseFault::Query, &["0xe9", "convert(name::bytea, 'LATIN1', 'UTF8')"]);
    let query = "select id, convert_from(convert(body::bytea, 'LATIN1', 'UTF8'), 'UTF8') as body from t";
    let batches = read(&*other.connector(json!({"query": query})), ReadRequest::default()).await;
    assert_eq!(texts(&batches)[1], r#"{"body":"café","id":2}"#);
    bed.run(&format!("drop database {name} with (force)")).await;
}

#[tokio::test]
async fn names_of_every_kind_are_taken_exactly() {
    let bed = Bed::new(
        r#"create table "Odd ""Name" ("matome_row" int, "matome_json" int, "select" int, "日本 語" int, "a.b" int, t int);
        insert into "Odd ""Name" values (1, 2, 3, 4, 5, 6);
        create view v as select * from "Odd ""Name""#,
    )
    .await;
    let wanted = r#"{"a.b":5,"matome_json":2,"matome_row":1,"select":3,"t":6,"日本 語":4}"#;
    for options in [
        json!({"table": "Odd \"Name"}),
        json!({"table": format!("{}.Odd \"Name", bed.schema)}),
        json!({"table": "Odd \"Name", "schema": bed.schema}),
        json!({"table": "v"}),
        json!({"query": "select * from \"Odd \"\"Name\" -- all of it"}),
        json!({"query": "with x as (select * from v) select * from x;\n ; "}),
        json!({"table": "Odd \"Name", "dedupe": "hash", "incremental": {"cursor": "日本 語", "tie_break": ["a.b", "matome_row"]}}),
    ] {
        let batches = read(&*bed.connector(options.clone()), ReadRequest::default()).await;
        assert_eq!(texts(&batches), [wanted], "{options}");
    }
}

#[tokio::test]
async fn a_row_that_is_too_long_goes_to_quarantine_and_is_not_fetched_whole() {
    let bed = Bed::new(
        "create table t (id int primary key, body text);
        insert into t values (1, 'a'), (2, repeat('日', 4000000)), (3, 'c')",
    )
    .await;
    let batches = read(&*bed.connector(json!({"table": "t", "dedupe": "hash"})), ReadRequest::default()).await;
    let all = texts(&batches);
    assert_eq!(
        (all[0].as_str(), all[1].as_str(), all[2].as_str()),
        (r#"{"body":"a","id":1}"#, "record_limit", r#"{"body":"c","id":3}"#)
    );
    let items: Vec<&Item> = batches.iter().flat_map(|batch| &batch.items).collect();
    assert!(items[1].raw().len() <= 64 << 10 && items[1].raw().starts_with(br#"{"id":2,"body":"#));
    assert!(batches.iter().map(|batch| batch.stats.bytes).sum::<u64>() < 1 << 20);
}
