//! The engine child as its parent sees it: a process with an empty environment, one request, frames.

#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use arrow_ipc::reader::StreamReader;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use libtest_mimic::{Arguments, Trial};
use matome_model::engine::{
    Ask, Escape, FORMAT, FRAME_HEADER_BYTES, Failure, FailureCode, Frame, Limits, Parameter, ParameterType, Probed,
    Request, Run, RunHeader, RunTrailer, Schema, Table, TableInput, Validated, Wall,
};
use matome_model::inference::ColumnType;
use tempfile::TempDir;

const CHILD: &str = "engine-child";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(CHILD) {
        return matome_engine::run_child();
    }
    macro_rules! trials {
        ($($name:ident),* $(,)?) => {
            vec![$(Trial::test(stringify!($name), || { $name(); Ok(()) })),*]
        };
    }
    let trials = trials![
        validation_tells_the_tables,
        rows_are_joined_and_grouped,
        decimals_are_summed_exactly,
        integers_never_wrap,
        everyday_sums_are_planned,
        own_fields_keep_their_names,
        mixed_and_nested_values_are_queried,
        names_are_exact_and_quoted,
        unqualified_name_finds_source_first,
        preview_stops_early,
        unknown_table_is_refused_with_likely_name,
        unknown_column_is_refused,
        argument_of_wrong_type_is_refused_in_few_words,
        same_name_twice_is_refused,
        data_that_break_the_query_say_so,
        triple_cross_join_meets_a_limit,
        result_past_its_rows_is_refused,
        sort_spills_within_its_memory,
        hash_join_past_its_memory_says_so,
        long_expressions_are_refused_not_fatal,
        longest_accepted_expression_is_planned,
        many_unions_and_joins_are_survived,
        exponential_with_meets_a_limit,
        memory_past_the_address_space_aborts_with_a_word,
        other_format_is_refused,
        child_ends_with_its_parent,
        file_outside_the_directory_is_refused,
        child_cannot_leave_its_walls,
        parameters_are_values_of_their_type,
        column_of_an_empty_table_says_that_it_is_empty,
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

struct Bench {
    scratch: TempDir,
    tables: Vec<TableInput>,
    limits: Limits,
    preview_rows: Option<u64>,
    parameters: BTreeMap<String, Parameter>,
}

#[derive(Debug)]
struct Answer {
    header: RunHeader,
    trailer: RunTrailer,
    batches: Vec<RecordBatch>,
}

impl Answer {
    fn shown(&self) -> Vec<String> {
        let text = pretty_format_batches(&self.batches).unwrap().to_string();
        let rows = text.lines().filter(|line| line.starts_with('|'));
        rows.map(|row| row.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" "))
            .collect()
    }
}

impl Bench {
    fn new() -> Self {
        let limits = Limits { seconds: 60, ..Limits::default() };
        Self {
            scratch: tempfile::tempdir().unwrap(),
            tables: Vec::new(),
            limits,
            preview_rows: None,
            parameters: BTreeMap::new(),
        }
    }

    fn table<R: AsRef<str>>(mut self, schema: Schema, name: &str, records: impl IntoIterator<Item = R>) -> Self {
        let file = format!("t{}", self.tables.len());
        let mut rows = std::io::BufWriter::new(std::fs::File::create(self.scratch.path().join(&file)).unwrap());
        for (position, record) in records.into_iter().enumerate() {
            let id = position + 1;
            writeln!(rows, "{id}\t{}\tabc{id}\t1\tkey{id}\t{}", id * 1_000_000, record.as_ref()).unwrap();
        }
        rows.flush().unwrap();
        self.tables.push(TableInput { table: Table { schema, name: name.to_owned() }, file });
        self
    }

    fn source<R: AsRef<str>>(self, name: &str, records: impl IntoIterator<Item = R>) -> Self {
        self.table(Schema::Sources, name, records)
    }

    fn start(&self) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .arg(CHILD)
            .env_clear()
            .current_dir(self.scratch.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn run(&self, sql: &str) -> Result<Answer, Failure> {
        let run = Run {
            sql: sql.to_owned(),
            tables: self.tables.clone(),
            limits: self.limits,
            preview_rows: self.preview_rows,
            parameters: self.parameters.clone(),
        };
        let mut header = None;
        let mut trailer = None;
        let mut arrow = Vec::new();
        for (frame, payload) in ask(self.start(), &Request::new(Ask::Run(run))) {
            match frame {
                Frame::Header => header = Some(serde_json::from_slice(&payload).unwrap()),
                Frame::Arrow => arrow.extend(payload),
                Frame::Trailer => trailer = Some(serde_json::from_slice(&payload).unwrap()),
                Frame::Failure => return Err(serde_json::from_slice(&payload).unwrap()),
                other => panic!("unexpected {other:?}"),
            }
        }
        let batches = StreamReader::try_new(Cursor::new(arrow), None).unwrap().map(Result::unwrap).collect();
        Ok(Answer { header: header.unwrap(), trailer: trailer.unwrap(), batches })
    }

    fn rows(&self, sql: &str) -> Vec<String> {
        let answer = self.run(sql).unwrap_or_else(|failure| panic!("{sql}: {failure:?}"));
        answer.shown()
    }

    fn fails(&self, sql: &str) -> Failure {
        self.run(sql).expect_err("the query should fail")
    }
}

/// The frames that the child answers with. stdin stays open until it has ended.
fn ask(child: Child, request: &Request) -> Vec<(Frame, Vec<u8>)> {
    let (frames, status, errors) = talk(child, request);
    assert!(status.success(), "{status}: {errors}");
    frames
}

/// The frames, how the child ended, and what it wrote to stderr.
fn talk(mut child: Child, request: &Request) -> (Vec<(Frame, Vec<u8>)>, ExitStatus, String) {
    let payload = serde_json::to_vec(request).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&Frame::Request.head(u32::try_from(payload.len()).unwrap())).unwrap();
    stdin.write_all(&payload).unwrap();
    stdin.flush().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    let mut output = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    let status = child.wait().unwrap();
    drop(stdin);
    let errors = errors.join().unwrap();
    (frames(&output), status, errors)
}

fn frames(output: &[u8]) -> Vec<(Frame, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut rest = output;
    while !rest.is_empty() {
        let (frame, len) = Frame::parse_head(rest[..FRAME_HEADER_BYTES].try_into().unwrap()).unwrap();
        let (payload, after) = rest[FRAME_HEADER_BYTES..].split_at(len as usize);
        frames.push((frame, payload.to_vec()));
        rest = after;
    }
    frames
}

fn orders() -> Bench {
    let orders = [
        r#"{"id":1,"user":10,"amount":1.10,"status":"open"}"#,
        r#"{"id":2,"user":10,"amount":2.20,"status":"paid"}"#,
        r#"{"id":3,"user":11,"amount":3,"status":"paid"}"#,
        r#"{"amount":null,"id":4,"status":"paid"}"#,
    ];
    Bench::new().source("orders", orders).source("users", [r#"{"id":10,"name":"Aiko"}"#, r#"{"id":11,"name":"Ben"}"#])
}

fn numbers(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(100)))
}

fn validation_tells_the_tables() {
    let bench = Bench::new();
    let sql = "select * from orders join aggregations.daily using (day)".to_owned();
    let frames = ask(bench.start(), &Request::new(Ask::Validate { sql }));
    let [(Frame::Reply, payload)] = frames.as_slice() else { panic!("{frames:?}") };
    let validated: Validated = serde_json::from_slice(payload).unwrap();
    let names: Vec<String> = validated.tables.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["orders", "aggregations.daily"]);
}

fn rows_are_joined_and_grouped() {
    let answer = orders()
        .run("select u.name, count(*) as n, sum(o.amount) as total from orders o join users u on o.user = u.id group by u.name order by 1")
        .unwrap();
    assert_eq!(answer.shown(), ["name n total", "Aiko 2 3.3", "Ben 1 3.0"]);
    assert_eq!((answer.trailer.rows, answer.trailer.truncated), (2, false));
    assert!(answer.trailer.plan.contains("HashJoin"), "{}", answer.trailer.plan);
    let orders = &answer.header.inputs[0];
    assert_eq!((orders.table.to_string(), orders.rows), ("sources.orders".to_owned(), 4));
    assert_eq!(orders.columns[0], ("amount".to_owned(), ColumnType::Decimal { precision: 2, scale: 1 }));
}

fn decimals_are_summed_exactly() {
    let bench = Bench::new().source("t", (0..1_000).map(|_| r#"{"x":0.1,"big":9007199254740993}"#));
    let rows = bench
        .rows("select sum(x) as s, sum(x) * 1.1 as p, avg(x) as a, max(big) as m, round(sum(x) / 3, 2) as r from t");
    assert_eq!(rows, ["s p a m r", "100.0 110.00 0.10000 9007199254740993 33.33"]);
}

fn integers_never_wrap() {
    let most = i64::MAX;
    let bench = Bench::new().source("t", [format!(r#"{{"n":{most},"m":1}}"#), format!(r#"{{"n":{most},"m":2}}"#)]);
    assert_eq!(bench.rows("select sum(n) as s from t"), ["s", "18446744073709551614"]);
    assert_eq!(bench.rows("select sum(n) as s, sum(distinct m) as d from t"), ["s d", "18446744073709551614 3"]);
    assert_eq!(bench.rows("select sum(n) + 1 as s, sum(m) / 2 as h from t"), ["s h", "18446744073709551615 1.5000"]);
    let running = "select m, sum(n) over (order by m) as s from t order by m";
    assert_eq!(bench.rows(running), ["m s", &format!("1 {most}"), "2 18446744073709551614"]);
    assert_eq!(bench.rows("select n - m + 1 as x from t where m * 3 = 6"), ["x", &(most - 1).to_string()]);
    let outer = "select m from t o where exists (select 1 from t i where i.m = o.m + 1)";
    assert_eq!(bench.rows(outer), ["m", "1"]);
    for sql in [
        "select n + m as x from t",
        "select -2 - n as x from t",
        "select max(n) * 2 as x from t",
        "select count(*) as c from t where n * m > 5",
    ] {
        let failure = bench.fails(sql);
        assert_eq!(failure.code, FailureCode::Query, "{sql}: {failure:?}");
        assert!(failure.message.english.contains("verflow") && !failure.hint.english.is_empty(), "{sql}: {failure:?}");
    }
}

fn everyday_sums_are_planned() {
    let bench = orders();
    for (sql, rows) in [
        (
            "select status, sum(id) as s from orders group by status having sum(id) > 1 order by sum(id) desc",
            &["status s", "paid 9"][..],
        ),
        (
            "select sum(case when status = 'paid' then 1 else 0 end) as paid, count(*) - 1 as c from orders",
            &["paid c", "3 3"],
        ),
        ("select coalesce(sum(id), 0) + 1 as s from orders where id > 99", &["s", "1"]),
        (
            "with t as (select user, sum(id) as s from orders group by user) select name, s * 2 as d from t join users on id = user order by s",
            &["name d", "Aiko 6", "Ben 6"],
        ),
        (
            "select sum(s) as s from (select sum(id) as s from orders union all select max(id) from orders)",
            &["s", "14"],
        ),
        (
            "with recursive r as (select 1 as n union all select n + 1 from r where n < 5) select sum(n) as s from r",
            &["s", "15"],
        ),
        (
            "select sum(id) filter (where user = 10) as a, max(id - 1) as m, id % 2 as odd from orders group by id % 2 order by odd",
            &["a m odd", "2 3 0", "1 2 1"],
        ),
        (
            "select round(sum(id) / count(*), 1) as mean, sum(id * 2) as d from orders where id in (select max(id) from orders)",
            &["mean d", "4.0 8"],
        ),
        (
            "select tags[cast(sum(n) as int) + 1] as t from (select make_array('a', 'b') as tags, 1 as n) group by tags",
            &["t", "b"],
        ),
        ("select substr(status, count(*) + 1, 2) as x from orders where id = 1 group by status", &["x", "pe"]),
    ] {
        assert_eq!(bench.rows(sql), rows, "{sql}");
    }
}

fn own_fields_keep_their_names() {
    let bench = Bench::new().source("t", [r#"{"_id":"mine","__hash":1,"_hash":2}"#]);
    let rows = bench
        .rows(r#"select "_id", __id, _hash, __hash, ___hash, _version, _key, cast(_acquired_at as text) as at from t"#);
    assert_eq!(rows, ["_id __id _hash __hash ___hash _version _key at", "mine 1 2 1 abc1 1 key1 1970-01-01T00:00:01Z"]);
    assert_eq!(bench.rows("select count(*) as n from t"), ["n", "1"]);
}

fn mixed_and_nested_values_are_queried() {
    let records = [r#"{"a":{"b":[1,2.5]},"m":1}"#, r#"{"a":{"b":[]},"m":"x"}"#, r#"{"a":null,"m":{"k": 1}}"#];
    let bench = Bench::new().source("t", records);
    let rows = bench.rows("select a['b'][2] as second, m from t order by _id");
    assert_eq!(rows, ["second m", "2.5 1", "x", r#"{"k":1}"#]);
    assert_eq!(bench.rows("select sum(v) as s from (select unnest(a['b']) as v from t)"), ["s", "3.5"]);
}

fn names_are_exact_and_quoted() {
    let bench = Bench::new().source("Web log", [r#"{"Status Code":200,"path":"/"}"#]);
    assert_eq!(
        bench.rows(r#"select "Status Code" as c, Path from (select *, path as Path from "Web log")"#),
        ["c Path", "200 /"]
    );
    assert_eq!(bench.fails(r#"select * from "web log""#).message.english, "no table is called `\"web log\"`");
}

fn unqualified_name_finds_source_first() {
    let bench = Bench::new()
        .table(Schema::Aggregations, "daily", [r#"{"from":"aggregation"}"#])
        .table(Schema::Sources, "daily", [r#"{"from":"source"}"#])
        .table(Schema::Aggregations, "sums", [r#"{"x":1}"#]);
    assert_eq!(bench.rows(r#"select "from" from daily"#), ["from", "source"]);
    assert_eq!(bench.rows(r#"select "from" from aggregations.daily"#), ["from", "aggregation"]);
    assert_eq!(
        bench.rows("select x, _id, cast(_aggregated_at as text) as at from sums"),
        ["x _id at", "1 1 1970-01-01T00:00:01Z"]
    );
}

fn preview_stops_early() {
    let mut bench = Bench::new().source("t", numbers(30_000));
    bench.preview_rows = Some(2_000);
    let answer = bench.run("select n from t").unwrap();
    assert_eq!((answer.trailer.rows, answer.trailer.truncated), (2_000, true));
    bench.preview_rows = Some(30_000);
    let answer = bench.run("select n from t").unwrap();
    assert_eq!((answer.trailer.rows, answer.trailer.truncated), (30_000, false));
}

fn unknown_table_is_refused_with_likely_name() {
    let failure = orders().fails("select * from oders");
    assert_eq!(failure.code, FailureCode::Refused);
    assert_eq!(failure.message.english, "no table is called `oders`");
    assert!(failure.hint.english.starts_with("did you mean `sources.orders`?"), "{}", failure.hint.english);
}

fn unknown_column_is_refused() {
    let failure = orders().fails("select Amount from orders");
    assert_eq!(failure.code, FailureCode::Refused);
    assert!(
        failure.message.english.contains("Amount") && failure.message.english.contains("amount"),
        "{}",
        failure.message.english
    );
}

fn argument_of_wrong_type_is_refused_in_few_words() {
    let failure = orders().fails("select sum(status) as s from orders");
    assert_eq!(failure.code, FailureCode::Refused, "{failure:?}");
    assert!(failure.message.english.starts_with("No function matches"), "{failure:?}");
    assert!(failure.hint.english.contains("cast"), "{failure:?}");
    let failure = orders().fails("select status * 2 as s from orders");
    assert!(failure.hint.english.contains("cast(x as decimal"), "{failure:?}");
}

fn same_name_twice_is_refused() {
    let failure = orders().fails("select o.id, u.id from orders o join users u on o.user = u.id");
    assert_eq!(
        (failure.code, failure.message.english.as_str()),
        (FailureCode::Refused, "two columns of the result are called `id`")
    );
}

fn data_that_break_the_query_say_so() {
    let failure = orders().fails("select cast(status as int) as n from orders");
    assert_eq!(failure.code, FailureCode::Query, "{failure:?}");
    assert!(failure.hint.english.contains("try_cast"), "{failure:?}");
    let failure = orders().fails("select id / (id - id) as n from orders");
    assert_eq!(failure.code, FailureCode::Query, "{failure:?}");
}

fn triple_cross_join_meets_a_limit() {
    let mut bench = Bench::new().source("t", numbers(3_000));
    bench.limits.seconds = 2;
    let failure = bench.fails("select count(*) as n from t a cross join t b cross join t c where a.n + b.n + c.n > 5");
    assert!(matches!(failure.code, FailureCode::TimeLimit | FailureCode::MemoryLimit), "{failure:?}");
    assert!(!failure.hint.english.is_empty());
}

fn result_past_its_rows_is_refused() {
    let mut bench = Bench::new().source("t", numbers(3_000));
    bench.limits.rows = 3_000;
    assert_eq!(bench.run("select n from t").unwrap().trailer.rows, 3_000);
    bench.limits.rows = 2_999;
    assert_eq!(bench.fails("select n from t").code, FailureCode::RowLimit);
    bench.limits.rows = 10_000_000;
    bench.limits.bytes = 1 << 20;
    assert_eq!(
        bench.fails("select a.n as x, a.text, b.text as y from t a cross join t b").code,
        FailureCode::ByteLimit
    );
    bench.limits.bytes = 1 << 30;
    assert_eq!(bench.fails("select repeat('x', 9000000) as x").code, FailureCode::ByteLimit);
}

fn sort_spills_within_its_memory() {
    let mut bench = Bench::new().source("t", numbers(150_000));
    bench.limits.memory_bytes = 24 << 20;
    let answer = bench.run("select n, text from t order by n desc").unwrap();
    assert_eq!(answer.trailer.rows, 150_000);
    bench.limits.spill_bytes = 1 << 20;
    let failure = bench.fails("select n, text from t order by n desc");
    assert_eq!(failure.code, FailureCode::SpillLimit, "{failure:?}");
}

fn hash_join_past_its_memory_says_so() {
    let mut bench = Bench::new().source("t", numbers(100_000));
    bench.limits.memory_bytes = 4 << 20;
    let failure = bench.fails("select a.text as x, b.text as y from t a join t b on a.n = b.n");
    assert_eq!(failure.code, FailureCode::MemoryLimit, "{failure:?}");
}

fn long_expressions_are_refused_not_fatal() {
    let bench = Bench::new();
    assert_eq!(bench.fails(&format!("select {} as x", vec!["1"; 5_000].join("+"))).code, FailureCode::Refused);
    assert_eq!(bench.fails(&format!("select {} as x", vec!["true"; 20_000].join(" or "))).code, FailureCode::Refused);
    assert_eq!(
        bench.fails(&format!("select {}1{} as x", "(".repeat(10_000), ")".repeat(10_000))).code,
        FailureCode::Refused
    );
}

fn longest_accepted_expression_is_planned() {
    let bench = Bench::new().source("t", [r#"{"n":1,"x":0.5}"#]);
    assert_eq!(bench.rows(&format!("select {} as s from t", vec!["n"; 501].join("+"))), ["s", "501"]);
    let ors: Vec<String> = (0..249).map(|i| format!("n = {i}")).collect();
    assert_eq!(bench.rows(&format!("select count(*) as c from t where {}", ors.join(" or "))), ["c", "1"]);
    let nested = format!("select {}n{} as s from t", "(1+".repeat(60), ")".repeat(60));
    assert_eq!(bench.rows(&nested), ["s", "61"]);
    let calls = format!("select {}n{} as s from t", "abs(".repeat(60), ")".repeat(60));
    assert_eq!(bench.rows(&calls), ["s", "1"]);
}

fn many_unions_and_joins_are_survived() {
    let mut bench = Bench::new().source("t", [r#"{"n":1}"#]);
    bench.limits.seconds = 120;
    let unions = vec!["select n from t"; 99].join(" union all ");
    assert_eq!(bench.rows(&format!("select sum(n) as s from ({unions})")), ["s", "99"]);
    let joins: String = (0..30).map(|i| format!(" join t t{i} on t.n = t{i}.n")).collect();
    assert_eq!(bench.rows(&format!("select count(*) as c from t{joins}")), ["c", "1"]);
}

fn exponential_with_meets_a_limit() {
    let mut bench = Bench::new().source("t", [r#"{"n":1}"#]);
    bench.limits.seconds = 3;
    let mut sql = "with a0 as (select n from t)".to_owned();
    for i in 1..50 {
        sql.push_str(&format!(", a{i} as (select x.n from a{} x join a{} y on x.n = y.n)", i - 1, i - 1));
    }
    sql.push_str(" select count(*) as c from a49");
    let failure = bench.fails(&sql);
    assert!(
        matches!(failure.code, FailureCode::TimeLimit | FailureCode::MemoryLimit | FailureCode::Refused),
        "{failure:?}"
    );
}

fn memory_past_the_address_space_aborts_with_a_word() {
    let bench = Bench::new();
    let sql = "select length(repeat('x', 2000000000)) + length(repeat('y', 1999999999)) + length(repeat('z', 1999999998)) as n".to_owned();
    let run = Run { sql, tables: Vec::new(), limits: bench.limits, preview_rows: None, parameters: BTreeMap::new() };
    let (frames, status, errors) = talk(bench.start(), &Request::new(Ask::Run(run)));
    assert!(!frames.iter().any(|(frame, _)| *frame == Frame::Trailer), "{status}: {errors}");
    assert!(
        errors.contains("memory allocation of") || frames.iter().any(|(frame, _)| *frame == Frame::Failure),
        "{status}: {errors}"
    );
}

fn other_format_is_refused() {
    let bench = Bench::new();
    let request = Request { format: FORMAT + 1, ask: Ask::Validate { sql: "select 1".to_owned() } };
    let frames = ask(bench.start(), &request);
    let [(Frame::Failure, payload)] = frames.as_slice() else { panic!("{frames:?}") };
    let failure: Failure = serde_json::from_slice(payload).unwrap();
    assert_eq!(failure.code, FailureCode::Protocol);
}

fn child_ends_with_its_parent() {
    let bench = Bench::new().source("t", numbers(3_000));
    // Before the request,
    let mut waiting = bench.start();
    drop(waiting.stdin.take());
    assert!(waiting.wait().unwrap().success());
    // and in the middle of a query.
    let mut running = bench.start();
    let sql = "select count(*) as n from t a cross join t b cross join t c where a.n + b.n + c.n > 5".to_owned();
    let request = Request::new(Ask::Run(Run {
        sql,
        tables: bench.tables.clone(),
        limits: bench.limits,
        preview_rows: None,
        parameters: BTreeMap::new(),
    }));
    let payload = serde_json::to_vec(&request).unwrap();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(&Frame::Request.head(u32::try_from(payload.len()).unwrap())).unwrap();
    stdin.write_all(&payload).unwrap();
    drop(stdin);
    // At once, and not with the words that it has when its time is over.
    let mut output = Vec::new();
    running.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    assert!(running.wait().unwrap().success());
    let said: Vec<Frame> = frames(&output).into_iter().map(|(frame, _)| frame).collect();
    assert!(!said.contains(&Frame::Failure), "it went on to its limit: {said:?}");
}

fn file_outside_the_directory_is_refused() {
    let mut bench = Bench::new();
    bench.tables.push(TableInput {
        table: Table { schema: Schema::Sources, name: "t".to_owned() },
        file: "/etc/passwd".to_owned(),
    });
    assert_eq!(bench.fails("select * from t").code, FailureCode::Protocol);
}

/// The child itself tries; what the kernel does not have it must say.
fn child_cannot_leave_its_walls() {
    let bench = Bench::new();
    let frames = ask(bench.start(), &Request::new(Ask::Probe));
    let [(Frame::Reply, payload)] = frames.as_slice() else { panic!("{frames:?}") };
    let Probed { sandbox, escapes } = serde_json::from_slice(payload).unwrap();
    for (wall, holds) in [
        (&sandbox.landlock, [Escape::ReadsFiles, Escape::WritesFiles].as_slice()),
        (&sandbox.seccomp, [Escape::OpensSockets, Escape::RunsPrograms].as_slice()),
    ] {
        match wall {
            Wall::Stands => assert!(!holds.iter().any(|escape| escapes.contains(escape)), "{sandbox:?}: {escapes:?}"),
            Wall::Partial { why } | Wall::Missing { why } => assert!(!why.is_empty(), "{sandbox:?}"),
        }
    }
    // The kernel says itself which modules it has and whether it filters calls.
    let has = |file: &str, word: &str| std::fs::read_to_string(file).is_ok_and(|text| text.contains(word));
    if has("/sys/kernel/security/lsm", "landlock") {
        assert_ne!(std::mem::discriminant(&sandbox.landlock), std::mem::discriminant(&missing()), "{sandbox:?}");
    }
    if has("/proc/self/status", "Seccomp:") && cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        assert_eq!(sandbox.seccomp, Wall::Stands);
    }
    assert_eq!(std::fs::read_dir(bench.scratch.path()).unwrap().count(), 0);
}

fn missing() -> Wall {
    Wall::Missing { why: String::new() }
}

fn parameters_are_values_of_their_type() {
    let mut bench =
        Bench::new().source("t", [r#"{"n":1,"at":"2026-01-01T00:00:00Z"}"#, r#"{"n":2,"at":"2026-03-01T00:00:00Z"}"#]);
    for (name, kind, value) in [
        ("since", ParameterType::Timestamp, Some("2026-02-01T00:00:00.5Z")),
        ("least", ParameterType::Integer, Some("-5")),
        ("share", ParameterType::Decimal, Some("0.10")),
        ("word", ParameterType::Text, Some("it's; drop table t --")),
        ("yes", ParameterType::Boolean, Some("true")),
        ("day", ParameterType::Date, Some("2026-01-31")),
        ("few", ParameterType::Integer, Some("1")),
        ("nothing", ParameterType::Text, None),
        ("no_number", ParameterType::Integer, None),
    ] {
        bench.parameters.insert(name.to_owned(), Parameter { kind, value: value.map(str::to_owned) });
    }
    assert_eq!(bench.rows("select n from t where to_timestamp(at) >= $since"), ["n", "2"]);
    assert_eq!(bench.rows("select count(*) as c from t where _acquired_at < $since and n > $least"), ["c", "2"]);
    assert_eq!(bench.rows("select sum(n * $share) as s from t where $yes"), ["s", "0.30"]);
    assert_eq!(bench.rows("select $word as w, $day as d"), ["w d", "it's; drop table t -- 2026-01-31"]);
    assert_eq!(bench.rows("select n from t order by n limit $few"), ["n", "1"]);
    assert_eq!(bench.rows("select count(*) as c from t where $nothing is null and $no_number is null"), ["c", "2"]);
    assert_eq!(bench.rows("select date_trunc('month', $since) as m"), ["m", "2026-02-01T00:00:00Z"]);
    assert_eq!(bench.rows("select value from generate_series($few, 2)"), ["value", "1", "2"]);
    let failure = bench.fails("select $other");
    assert_eq!(failure.code, FailureCode::Refused, "{failure:?}");
    assert!(failure.message.english.contains("`$other` has no value"), "{failure:?}");
}

fn column_of_an_empty_table_says_that_it_is_empty() {
    let bench = Bench::new().source("orders", [""; 0]);
    assert_eq!(bench.rows("select count(*) as c, max(_id) as m from orders"), ["c m", "0"]);
    let failure = bench.fails("select amount from orders");
    assert_eq!(failure.code, FailureCode::Refused, "{failure:?}");
    assert!(failure.message.english.contains("`amount`: `sources.orders` has no rows yet"), "{failure:?}");
    assert!(failure.hint.english.contains("read the source"), "{failure:?}");
    let full = Bench::new().source("t", [r#"{"n":1}"#]).fails("select m from t");
    assert!(full.message.english.contains("No field named m"), "{full:?}");
}
