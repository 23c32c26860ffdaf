//! A thousand generated queries that mean no good: each is refused, fails with advice, or gives rows. None takes this process with
//! it, leaves a file, or opens anything.
//!
//! The children are those of the real binary; this process stands where the server would.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use matome_aggregation::engine::{Engine, EngineError, EngineSettings, Identity};
use matome_model::engine::{Limits, Schema, Table};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

const QUERIES: usize = 1_000;
const SEED: u64 = 20_261_124;
/// Queries between two looks at what they left behind.
const BATCH: usize = 100;
/// Children at the same time.
const SLOTS: usize = 8;

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    Failed,
    Limited,
    Crashed,
    Rows,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hostile_queries_kill_nothing_and_leave_nothing() {
    let root = TempDir::new().unwrap();
    let engine = engine(root.path());
    let bait = root.path().join("bait");
    std::fs::write(&bait, "secret words").unwrap();
    let mut random = StdRng::seed_from_u64(SEED);
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    let mut slowest = (Duration::ZERO, String::new());
    let queries: Vec<String> = (0..QUERIES).map(|_| query(&mut random, &bait)).collect();
    for batch in queries.chunks(BATCH) {
        let mut running = tokio::task::JoinSet::new();
        for sql in batch {
            let (engine, sql) = (engine.clone(), sql.clone());
            running.spawn(async move {
                let started = Instant::now();
                let outcome = run(&engine, &sql).await;
                (outcome, started.elapsed(), sql)
            });
        }
        while let Some(ended) = running.join_next().await {
            let (outcome, took, sql) = ended.unwrap();
            *outcomes.entry(outcome).or_default() += 1;
            if took > slowest.0 {
                slowest = (took, sql);
            }
        }
        // One child may wait for its request; its folder is empty.
        let left = left_behind(&root.path().join("scratch"));
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(std::fs::read_to_string(&bait).unwrap(), "secret words");
    }
    println!("{outcomes:?}, slowest {:?}: {}", slowest.0, slowest.1.chars().take(200).collect::<String>());
    assert!(outcomes[&Outcome::Refused] > QUERIES / 4, "the generator lost its teeth: {outcomes:?}");
    assert!(outcomes[&Outcome::Rows] > 10, "everything is refused: {outcomes:?}");
    // Still as good as new.
    assert!(matches!(run(&engine, "select count(*) as n from t").await, Outcome::Rows));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_no_pool_counts_ends_the_child_with_advice() {
    let root = TempDir::new().unwrap();
    let engine = engine(root.path());
    let big: Vec<String> = (0..2).map(|n| format!("length(repeat('{n}', 90000000 + value)) as c{n}")).collect();
    let sql = format!("select {} from generate_series(1, 8)", big.join(", "));
    let limits = Limits { memory_bytes: 1 << 20, seconds: 60, ..Limits::default() };
    let mut child = engine.prepare().await.unwrap();
    let started = child.table(table()).await.unwrap();
    started.finish().await.unwrap();
    let ended = match child.run(&sql, BTreeMap::new(), limits, None).await {
        Err(err) => err,
        Ok(mut rows) => rows.next_page(10, 1 << 20).await.unwrap_err(),
    };
    assert!(matches!(ended, EngineError::Limit { .. }), "{ended:?}");
    assert!(ended.hint().is_some(), "{ended:?}");
}

/// Sorting, grouping and joining more than fits in memory: it spills, or says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn hungry_queries_spill_or_fail_with_advice() {
    let root = TempDir::new().unwrap();
    let engine = engine(root.path());
    let limits = Limits { memory_bytes: 24 << 20, seconds: 60, ..Limits::default() };
    let wide = "select value as n, repeat(cast(value as text), 20) as text from generate_series(1, 200000)";
    for (sql, must_work) in [
        ("select value as n from generate_series(1, 500000) order by value desc".to_owned(), true),
        (format!("with t as ({wide}) select * from t order by text desc"), false),
        (format!("with t as ({wide}) select text, count(*) as c from t group by text"), false),
        (format!("with t as ({wide}) select distinct text from t"), false),
        (format!("with t as ({wide}) select array_agg(text) as texts from t"), false),
        (format!("with t as ({wide}) select a.text from t a join t b on a.text = b.text"), false),
        (format!("with t as ({wide}) select n, row_number() over (order by text) as r from t"), false),
        (format!("with t as ({wide}) select string_agg(text, ',') as all_of_them from t"), false),
    ] {
        let child = engine.prepare().await.unwrap();
        let outcome = async {
            let mut rows = child.run(&sql, BTreeMap::new(), limits, None).await?;
            let mut count = 0;
            while let Some(page) = rows.next_page(1_000, 1 << 20).await? {
                count += page.len();
            }
            Ok::<_, EngineError>(count)
        };
        match outcome.await {
            Ok(count) => assert!(count > 0, "{sql}"),
            Err(err) => {
                assert!(!must_work, "{sql}: {err}");
                assert!(matches!(err, EngineError::Limit { .. }) && err.hint().is_some(), "{sql}: {err:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_tells_which_walls_stand_around_it() {
    let root = TempDir::new().unwrap();
    let probed = engine(root.path()).probe().await.unwrap();
    println!("{probed:?}");
    use matome_model::engine::Wall;
    if probed.sandbox.landlock == Wall::Stands && probed.sandbox.seccomp == Wall::Stands {
        assert_eq!(probed.escapes, []);
    }
}

fn engine(root: &Path) -> Engine {
    Engine::new(EngineSettings {
        program: env!("CARGO_BIN_EXE_matome").into(),
        arguments: vec!["engine-child".into()],
        scratch_root: root.join("scratch"),
        slots: SLOTS,
    })
}

fn table() -> Table {
    Table { schema: Schema::Sources, name: "t".to_owned() }
}

/// As a task would: check first, then hand over the rows and run. Whatever comes back must be an answer.
async fn run(engine: &Engine, sql: &str) -> Outcome {
    let limits = Limits { memory_bytes: 32 << 20, spill_bytes: 64 << 20, rows: 2_000, bytes: 4 << 20, seconds: 1 };
    let answered = async {
        engine.validate(sql).await?;
        let mut child = engine.prepare().await?;
        let mut rows = child.table(table()).await?;
        for n in 0..200 {
            let identity = Identity { hash: "00", key: None, version: 1 };
            let record = format!("{{\"n\":{n},\"s\":\"text {n}\",\"x\":{n}.5}}");
            rows.row(n, chrono::DateTime::UNIX_EPOCH, Some(identity), &record).await?;
        }
        rows.finish().await?;
        let mut rows = child.run(sql, BTreeMap::new(), limits, None).await?;
        while rows.next_page(500, 1 << 20).await?.is_some() {}
        Ok::<_, EngineError>(())
    };
    let short = || sql.chars().take(300).collect::<String>();
    match answered.await {
        Ok(()) => Outcome::Rows,
        Err(err) => {
            assert!(!err.to_string().is_empty());
            match &err {
                EngineError::Refused { .. } => Outcome::Refused,
                EngineError::Query { .. } | EngineError::Engine { .. } => Outcome::Failed,
                EngineError::Limit { hint, .. } => {
                    assert!(!hint.english.is_empty() && !hint.japanese.is_empty(), "{}: {err}", short());
                    Outcome::Limited
                }
                EngineError::Crashed { hint, .. } => {
                    // The child may die, but its parent must know what to say.
                    assert!(!hint.english.is_empty() && !hint.japanese.is_empty(), "{}: {err}", short());
                    Outcome::Crashed
                }
                EngineError::Start { .. } | EngineError::Spool { .. } => panic!("{}: {err}", short()),
            }
        }
    }
}

/// Files in the folders of children.
fn left_behind(scratch: &Path) -> Vec<std::path::PathBuf> {
    let folders: Vec<_> = std::fs::read_dir(scratch).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(folders.len() <= 1, "{folders:?}");
    folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect()
}

/// One query of some kind of ill will.
fn query(random: &mut StdRng, bait: &Path) -> String {
    let n = |random: &mut StdRng, low: usize, high: usize| random.random_range(low..=high);
    // Just below, at and just above what the guard lets pass, and far beyond.
    let near = |random: &mut StdRng, limit: usize| {
        *[limit - 2, limit - 1, limit, limit + 1, limit * 3].choose(random).unwrap()
    };
    let huge = |random: &mut StdRng| *[1_000_000, 100_000_000, 2_000_000_000, i64::MAX].choose(random).unwrap();
    let bait = bait.display().to_string();
    match n(random, 0, 21) {
        0 => {
            let depth = near(random, 62);
            format!("select {}1{} as x", "(".repeat(depth), ")".repeat(depth))
        }
        1 => {
            let sign = *["+", "*", "||", "-", "/", "and 1 =", "or 1 =", "<", "::int +"].choose(random).unwrap();
            format!("select {} as x", vec!["1"; near(random, 500)].join(&format!(" {sign} ")))
        }
        2 => {
            let prefix =
                *["- ", "not ", "~", "+ ", "cast(", "case when true then ", "(select "].choose(random).unwrap();
            format!("select {}1", prefix.repeat(n(random, 40, 4_000)))
        }
        3 => {
            let tables = (0..n(random, 2, 7)).map(|i| format!("t t{i}")).collect::<Vec<_>>().join(" cross join ");
            format!("select count(*) as c from {tables} where t0.n * t1.n > {}", n(random, 0, 1_000_000))
        }
        4 => {
            let function = *[
                "length(repeat('x', {}))",
                "length(lpad('x', {}, 'yz'))",
                "length(rpad('x', {}))",
                "repeat('ab', {})",
                "array_length(array_repeat('x', {}))",
                "array_repeat(array_repeat(1, 1000), {})",
                "length(space({}))",
                "array_length(range(0, {}))",
                "concat(repeat('x', {}), repeat('y', 1000))",
                "length(replace(repeat('x', 99999), 'x', repeat('y', {})))",
            ]
            .choose(random)
            .unwrap();
            format!("select {} as x from t", function.replace("{}", &huge(random).to_string()))
        }
        5 => {
            let step = *["n + 1", "n", "n * 2"].choose(random).unwrap();
            let end = *["", " where n < 10", " where n < 1000000000"].choose(random).unwrap();
            format!(
                "with recursive r as (select 1 as n union all select {step} as n from r{end}) select count(*) as c from r"
            )
        }
        6 => {
            let kind = *["union", "union all", "intersect", "except"].choose(random).unwrap();
            vec!["select n from t"; near(random, 100)].join(&format!(" {kind} "))
        }
        7 => {
            let name = *[
                "'/etc/passwd'",
                "\"/etc/passwd\"",
                "'BAIT'",
                "\"BAIT\"",
                "'https://127.0.0.1/x.csv'",
                "\"s3://bucket/key\"",
                "read_csv('BAIT')",
                "read_parquet('BAIT')",
                "read_json('BAIT')",
                "'file:///etc/passwd'",
                "glob('/etc/*')",
                "'/proc/self/environ'",
                "arrow_cast('BAIT')",
                "sources.\"../bait\"",
                "\"table-0\"",
                "\"./table-0\"",
            ]
            .choose(random)
            .unwrap();
            format!("select * from {}", name.replace("BAIT", &bait))
        }
        8 => {
            let table = *["tables", "columns", "df_settings", "routines", "schemata", "views", "parameters"]
                .choose(random)
                .unwrap();
            let schema = *[
                "information_schema",
                "INFORMATION_SCHEMA",
                "pg_catalog",
                "matome",
                "unqualified",
                "datafusion.public",
            ]
            .choose(random)
            .unwrap();
            format!("select * from {schema}.{table}")
        }
        9 => {
            let statement = *[
                "create external table x stored as csv location 'BAIT'",
                "create table x as select * from t",
                "drop table t",
                "insert into t values (1)",
                "update t set n = 1",
                "delete from t",
                "truncate table t",
                "alter table t add column y int",
                "copy t to 'BAIT'",
                "copy (select 1) to 'BAIT' stored as parquet",
                "set datafusion.execution.batch_size = 1",
                "show all",
                "show tables",
                "explain analyze select * from t",
                "explain select 1",
                "describe t",
                "create function f(x int) returns int language rust as 'x'",
                "create schema s",
                "create view v as select 1",
                "load data local infile 'BAIT' into table t",
                "attach 'BAIT' as db",
                "install httpfs",
                "pragma table_info(t)",
                "call system('id')",
                "begin",
                "commit",
                "grant all on t to public",
                "lock table t",
                "vacuum",
                "kill 1",
                "select 1 into outfile 'BAIT'",
                "declare x cursor for select 1",
                "merge into t using t b on true when matched then delete",
            ]
            .choose(random)
            .unwrap();
            let statement = statement.replace("BAIT", &bait);
            match n(random, 0, 3) {
                0 => format!("select 1; {statement}"),
                1 => format!("/* select */ {statement} -- select"),
                2 => format!("with x as ({statement}) select * from x"),
                _ => statement,
            }
        }
        10 => {
            let trick = *[
                "sel\u{0435}ct 1",
                "select 1 \u{200b} as x",
                "select\u{a0}1",
                "/* /* */ drop table t */ select 1",
                "select 1 -- \u{2028} ; drop table t",
                "\u{feff}select 1",
                "select \"\u{202e}\" from t",
                "select '\u{0}' as x",
                "select 1 /*",
                "select 'open",
                "select \"open",
                "select $$x$$ as x",
                "select U&'\\0041' as x",
                "select E'\\x00' as x",
                "select x'zz' as x",
                "select 1 as \"a\"\"b\"",
                "SELECT/**/n/**/FROM/**/t",
                "select * from t where s = 'x' or 1=1 --",
                "select \u{1F600} from t",
                "select 1 as 表",
                "\\d t",
                "select @@version",
                "select n from t;;;;",
            ]
            .choose(random)
            .unwrap();
            (*trick).to_owned()
        }
        11 => {
            let statement = *[
                "prepare p as select 1",
                "prepare p(int) as select $1",
                "execute p(1)",
                "deallocate p",
                "select $1 as x",
                "select ? as x",
                "select :x as x",
                "select @x as x",
                "select $x as x",
                "select $undeclared from t",
            ]
            .choose(random)
            .unwrap();
            (*statement).to_owned()
        }
        12 => {
            let pattern = *[
                "(a+)+$",
                "(a|aa)+$",
                "(.*)*x",
                "((((((a*)*)*)*)*)*)*b",
                "a{1000}{1000}",
                "(x{100}){100}{100}",
                "[",
                "(?P<n",
                "\\\\p{Greek}{9999}",
                "^(([a-z])+.)+[A-Z]([a-z])+$",
                "(?:a?){200}a{200}",
            ]
            .choose(random)
            .unwrap();
            let function = *["regexp_like", "regexp_match", "regexp_count", "regexp_replace"].choose(random).unwrap();
            let rest = if function == "regexp_replace" { ", '')" } else { ")" };
            format!("select {function}(repeat('a', {}), '{pattern}'{rest} as x from t", n(random, 10, 50_000))
        }
        13 => {
            let step = *["1", "0", "-1", "9223372036854775807"].choose(random).unwrap();
            let what = *["count(*)", "sum(value)", "max(value)", "value"].choose(random).unwrap();
            format!("select {what} as x from generate_series({}, {}, {step})", n(random, 0, 5), huge(random))
        }
        14 => {
            let value = *[
                "'x'",
                "1e400",
                "-1",
                "null",
                "'2026-13-45'",
                "9223372036854775807",
                "x'ff'",
                "array[1]",
                "'NaN'",
                "1.5",
            ]
            .choose(random)
            .unwrap();
            let kind = *[
                "int",
                "tinyint",
                "decimal(76, 0)",
                "decimal(77, 1)",
                "decimal(1, 5)",
                "date",
                "timestamp",
                "interval",
                "boolean",
                "bytea",
                "int[]",
                "struct<a int>",
                "double",
                "varchar(3)",
                "uuid",
                "json",
            ]
            .choose(random)
            .unwrap();
            format!(
                "select {value}::{kind}::{} as x from t",
                *["text", "int", "double", "date"].choose(random).unwrap()
            )
        }
        15 => {
            let mut sql = "with a0 as (select n from t)".to_owned();
            let last = near(random, 48).min(120);
            for i in 1..last {
                sql.push_str(&format!(", a{i} as (select x.n from a{} x join a{} y on x.n = y.n)", i - 1, i - 1));
            }
            format!("{sql} select count(*) as c from a{}", last - 1)
        }
        16 => {
            let joins: String = (0..near(random, 98)).map(|i| format!(" join t j{i} on t.n = j{i}.n")).collect();
            format!("select count(*) as c from t{joins}")
        }
        17 => {
            let columns: Vec<String> = (0..n(random, 100, 6_000)).map(|i| format!("n+{i} as c{i}")).collect();
            format!("select {} from t", columns.join(","))
        }
        18 => {
            let cases = "when n > 1 then 'a' ".repeat(n(random, 1, 3_000));
            format!("select case {cases} else 'b' end as x from t")
        }
        19 => {
            let window = *[
                "sum(n) over (order by n range between 9223372036854775807 preceding and current row)",
                "ntile(0) over (order by n)",
                "lag(n, 9223372036854775807) over (order by n)",
                "nth_value(n, -1) over (order by n)",
                "row_number() over (order by (select max(n) from t))",
                "sum(n) over (partition by s order by n rows between unbounded preceding and 1 following)",
            ]
            .choose(random)
            .unwrap();
            format!("select {window} as x from t")
        }
        20 => {
            let hungry = *[
                "select array_agg(repeat(a.s, 100)) as x from t a cross join t b cross join t c",
                "select a.s || b.s || c.s as x from t a cross join t b cross join t c order by 1 desc",
                "select distinct a.n * b.n * c.n as x from t a, t b, t c",
                "select string_agg(repeat(a.s, 1000), ',') as x from t a, t b",
                "select count(distinct a.s || b.s || c.s) as x from t a, t b, t c",
                "select approx_percentile_cont(0.5) within group (order by a.n * b.n) as x from t a, t b, t c",
                "select unnest(range(0, 1000000000)) as x",
                "select a.*, b.* from t a full join t b on a.n < b.n",
            ]
            .choose(random)
            .unwrap();
            (*hungry).to_owned()
        }
        _ => {
            // Tokens thrown together.
            let tokens = [
                "select",
                "from",
                "t",
                "where",
                "(",
                ")",
                "*",
                ",",
                "n",
                "'x'",
                "1",
                "and",
                "group by",
                "order by",
                "limit",
                "with",
                "as",
                "join",
                "on",
                "case",
                "when",
                "then",
                "end",
                "in",
                "exists",
                "over",
                "partition by",
                "values",
                "lateral",
                "unnest",
                "[1]",
                "{",
                "}",
                "::",
                ";",
                "$x",
                "-",
                "interval",
                "'1 day'",
                "union",
                "pivot",
                "qualify",
                "|>",
                "table",
                "cube",
                "rollup",
                "grouping sets",
                "within group",
                "filter",
                "escape",
                "similar to",
                "at time zone",
            ];
            let length = n(random, 3, 60);
            let words: Vec<&str> = (0..length).map(|_| *tokens.choose(random).unwrap()).collect();
            format!("select {}", words.join(" "))
        }
    }
}
