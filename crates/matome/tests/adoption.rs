//! Databases that the original Django application made are taken over: every row under its id, and matome goes on from
//! there. How the fixtures are made stands in `fixtures/django/make`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::{Output, Stdio};

use matome_testbed::{postgres_schema, run_script, texts};
use serde_json::Value;
use support::{Home, postgres_home, sqlite_home, until, write};

/// A fixture, the zone that its times were written in, and whether its ids have 64 bits.
struct Fixture {
    name: &'static str,
    zone: Option<&'static str>,
    is_wide: bool,
}

const FIXTURES: &[Fixture] = &[
    Fixture { name: "django-4.2-autofield", zone: None, is_wide: false },
    Fixture { name: "django-4.2-bigautofield", zone: None, is_wide: true },
    Fixture { name: "django-5.2-autofield", zone: None, is_wide: false },
    Fixture { name: "django-5.2-bigautofield", zone: None, is_wide: true },
    Fixture { name: "original-design", zone: Some("Asia/Tokyo"), is_wide: false },
];

impl Fixture {
    /// A home on a schema with what the application left.
    async fn home(&self) -> Home {
        let url = postgres_schema().await;
        let file = Path::new("tests/fixtures/django").join(format!("{}.sql", self.name));
        run_script(&url, &std::fs::read_to_string(file).unwrap()).await;
        Home { database_url: Some(url), name: self.name, ..sqlite_home() }
    }

    fn migrate<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        let zone = self.zone.map(|zone| ["--assume-timezone", zone]);
        [&["migrate"][..], zone.as_ref().map_or(&[][..], |zone| &zone[..]), more].concat()
    }
}

fn url(home: &Home) -> &str {
    home.database_url.as_deref().unwrap()
}

fn refused(output: &Output, code: i32, why: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(why), "{why} is not in: {stderr}");
    stderr
}

/// Every row of every table of the original design, its columns by name, its times as the application meant them.
async fn rows(home: &Home, zone: Option<&str>) -> Vec<String> {
    let time = |column: &str| match zone {
        // What has no zone yet is shown as it is.
        Some(zone) => format!(
            "case pg_typeof({column})::text when 'timestamp without time zone' then {column}::text
             else ({column}::timestamptz at time zone '{zone}')::text end"
        ),
        None => format!("({column} at time zone 'UTC')::text"),
    };
    let mut all = Vec::new();
    for (table, columns, times) in [
        (
            "data_sources",
            "name, source_type, coalesce(description, ''), status, config, fetch_interval",
            &["last_fetched_at", "created_at", "updated_at"][..],
        ),
        ("acquired_data", "source_id, raw_data, coalesce(metadata, '{}')", &["acquired_at", "created_at"]),
        ("aggregation_sources", "name, coalesce(description, ''), status, config", &["created_at", "updated_at"]),
        ("aggregated_data", "source_id, data, coalesce(metadata, '{}')", &["aggregated_at", "created_at"]),
    ] {
        let times = times.iter().map(|column| time(column)).collect::<Vec<_>>().join(", ");
        let sql =
            format!("select '{table} ' || jsonb_build_array(id, {columns}, {times})::text from {table} order by id");
        all.extend(texts(url(home), &sql).await);
    }
    all
}

fn checked(home: &Home) {
    let checked = home.ok(&["db", "check", "--full"]);
    assert!(!checked.contains("violated"), "{}: {checked}", home.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_and_id_of_a_django_database_is_there_after_the_migration() {
    for fixture in FIXTURES {
        let home = fixture.home().await;
        let before = rows(&home, fixture.zone).await;
        assert_eq!(before.len(), 4 + 11 + 2 + 2);
        let others = "select relname::text from pg_class where relnamespace = current_schema()::regnamespace
            and relkind = 'r' and (relname like 'django%' or relname like '%tasks') and relname <> 'tasks' order by 1";
        let of_django = texts(url(&home), others).await;
        let plan = home.ok(&fixture.migrate(&["--plan", "-o", "json"]));
        assert_eq!(rows(&home, fixture.zone).await, before, "a plan changes nothing");
        let steps: Vec<Value> = serde_json::from_str(&plan).unwrap();
        assert!(steps.iter().any(|step| step["action"] == "add" && step["sql"].is_string()), "{plan}");

        home.ok(&fixture.migrate(&[]));
        assert_eq!(rows(&home, fixture.zone).await, before, "{}", fixture.name);
        assert_eq!(texts(url(&home), others).await, of_django, "tables of Django stay");
        checked(&home);

        let listed = |args: &[&str]| serde_json::from_str::<Vec<Value>>(&home.ok(args)).unwrap();
        let sources = listed(&["source", "list", "-o", "json"]);
        let names: Vec<&str> = sources.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["受注データ", "users_api", "センサー", "draft"]);
        assert_eq!(sources[1]["config"]["備考"], "要確認", "keys that matome does not know are kept");
        let records = listed(&["data", "query", "--source", "users_api", "--limit", "100", "-o", "json"]);
        assert_eq!(records.len(), 5);
        assert!(records.iter().any(|row| row["raw_data"]["tags"][1] == "😀"), "{records:?}");
        let results = listed(&["data", "query", "--aggregation", "日次集計", "-o", "json"]);
        assert_eq!(results.len(), 2);

        // Again it is a plain migration, with nothing to do.
        let again = home.run(&["migrate"]);
        assert!(again.status.success() && String::from_utf8_lossy(&again.stderr).contains("already"), "{again:?}");
    }
}

/// What a schema is made of, one line each: columns, constraints and indexes by definition.
async fn schema(url: &str) -> Vec<String> {
    let in_schema = "relnamespace = current_schema()::regnamespace";
    let columns = format!(
        "select c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' '
            || coalesce(l.collname, '') || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum left join pg_collation l on l.oid = a.attcollation
        where c.relkind = 'r' and c.{in_schema} order by 1"
    );
    let constraints = format!(
        "select c.relname || ': ' || replace(pg_get_constraintdef(k.oid), ' DEFERRABLE INITIALLY DEFERRED', '')
        from pg_constraint k join pg_class c on c.oid = k.conrelid where c.{in_schema} order by 1"
    );
    let indexes = format!(
        "select c.relname || ': ' || substring(pg_get_indexdef(i.indexrelid) from ' USING (.*)$') || ' ' || i.indisunique
            || case when i.indisprimary then '' else ' ' || n.relname end
        from pg_index i join pg_class c on c.oid = i.indrelid join pg_class n on n.oid = i.indexrelid
        where c.{in_schema} order by 1"
    );
    let mut all = texts(url, &columns).await;
    all.extend(texts(url, &constraints).await);
    all.extend(texts(url, &indexes).await);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_database_has_the_schema_of_a_new_one() {
    let new = postgres_home().await;
    let wanted = schema(url(&new)).await;
    assert!(wanted.len() > 200);
    for fixture in FIXTURES {
        let home = fixture.home().await;
        home.ok(&fixture.migrate(&[]));
        let found = schema(url(&home)).await;
        // Ids keep their width and their way of counting.
        let is_id = |line: &str| {
            ["data_sources", "acquired_data", "aggregation_sources", "aggregated_data"]
                .iter()
                .any(|table| [".id ", ".source_id "].iter().any(|column| line.starts_with(&format!("{table}{column}"))))
        };
        let missing: Vec<_> = wanted.iter().filter(|line| !found.contains(line) && !is_id(line)).collect();
        assert!(missing.is_empty(), "{}: {missing:#?}", fixture.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_source_goes_on_from_its_records() {
    for fixture in [&FIXTURES[0], &FIXTURES[3], &FIXTURES[4]] {
        let home = fixture.home().await;
        home.ok(&fixture.migrate(&[]));
        let csv = "id,status,amount\r\n00123,支払済,10.50\r\n00124,未払い,\r\n00125,キャンセル,7\r\n00126,新規,1\r\n";
        write(&home.files().join("orders.csv"), csv);
        let with_files = |args: &[&str]| {
            let output = home.command(args).env("FILE_ROOTS", home.files()).output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let task: Value =
            serde_json::from_str(&with_files(&["source", "run", "受注データ", "--wait", "-o", "json"])).unwrap();
        assert_eq!((&task["result"]["stored"], &task["result"]["duplicate"]), (&1.into(), &3.into()), "{task}");
        let highest = texts(url(&home), "select max(id)::text from acquired_data where id <= 12").await;
        assert_eq!(highest, ["12"]);
        let kept = "select count(*)::text from acquired_data where source_id = 1 and adopted_hash <> data_hash";
        assert_eq!(texts(url(&home), kept).await, ["6"], "the hashes of the application are kept beside");
        checked(&home);

        // A config of its own is edited without a question, and then runs; before that it says what is wrong.
        let wrong = home.run(&["source", "run", "users_api", "--wait"]);
        assert!(!wrong.status.success(), "{wrong:?}");
        write(
            &home.files().join("users.ndjson"),
            "{\"id\":1,\"name\":\"顧客一\",\"tags\":[],\"nested\":{},\"balance\":1e-1}\n{\"id\":9}\n",
        );
        let body = r#"{"source_type":"file","config":{"path":"users.ndjson","key":"id"}}"#;
        let server = home.serve().await;
        let path = "/api/acquisition/sources/2/";
        let (status, answer) = server.send("PATCH", path, Some(serde_json::from_str(body).unwrap())).await;
        assert_eq!(status, 200, "{answer}");
        let task = server.run("acquisition", 2).await;
        // The newest adopted version of key 1 says the same; key 9 is new.
        assert_eq!((&task["result"]["stored"], &task["result"]["duplicate"]), (&1.into(), &1.into()), "{task}");
        let versions = "select string_agg(id || ':' || version || ':' || (key_hash is not null), ' ' order by id)
            from acquired_data where source_id = 2 and id <= 12";
        assert_eq!(texts(url(&home), versions).await, ["8:1:true 9:1:true 10:1:true 11:2:true 12:1:false"]);
        let list = server.get("/api/acquisition/data/?source=2").await;
        assert_eq!(list["count"], 6, "the counters know the adopted records");
        let result = server.run("aggregation", 2).await;
        assert_eq!(result["result"]["rows"], 4, "{result}");
        // What a deleted source had goes, though tables of Django point to it.
        let (status, _) = server.send("DELETE", path, None).await;
        assert_eq!(status, 204);
        until("the source is gone", async || {
            texts(url(&home), "select count(*)::text from data_sources where id = 2").await == ["0"]
        })
        .await;
        drop(server);
        checked(&home);
        let waiting = texts(url(&home), "select count(*)::text from adoptions").await;
        assert_eq!(waiting, ["0"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_without_a_zone_are_taken_over_only_when_the_zone_is_given() {
    let fixture = &FIXTURES[4];
    let home = fixture.home().await;
    let before = schema(url(&home)).await;
    let said = refused(&home.run(&["migrate"]), 3, "--assume-timezone");
    assert!(said.contains("acquired_data.acquired_at"), "{said}");
    refused(&home.run(&["migrate", "--assume-timezone", "Tokyo"]), 3, "no time zone `Tokyo`");
    let japanese = home.command(&["migrate", "--lang", "ja"]).output().unwrap();
    refused(&japanese, 3, "タイムゾーンのない時刻");
    assert_eq!(schema(url(&home)).await, before, "nothing was changed");
    refused(&home.run(&["serve", "--bind", "127.0.0.1:0"]), 3, "matome migrate");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_over_is_named_with_its_rows_and_the_remedy() {
    let fixture = &FIXTURES[4];
    let home = fixture.home().await;
    let script = "insert into data_sources (name, source_type, fetch_interval) values ('csv one', 'csv', -1);
        alter table acquired_data drop constraint new_acquired_data_source_id_fkey;
        update acquired_data set source_id = 77 where id = 3; update acquired_data set source_id = null where id = 4;
        create table lanes (id integer); alter table acquired_data add column version integer;";
    run_script(url(&home), script).await;
    let said = refused(&home.run(&fixture.migrate(&[])), 3, "--word csv=");
    for part in [
        "break a rule of matome (fetch_interval < 0; id 1001)",
        "belong to no row of `data_sources` (id 3)",
        "have no `source_id` (id 4)",
        "`lanes` is the name of a table",
        "column `version` has a name",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let repair = "update data_sources set fetch_interval = 60 where name = 'csv one'; drop table lanes;
        update acquired_data set source_id = 1 where id in (3, 4); alter table acquired_data rename version to their_version";
    run_script(url(&home), repair).await;
    home.ok(&fixture.migrate(&["--word", "csv=file"]));
    assert!(home.ok(&["source", "list"]).contains("csv one\tfile"));
    checked(&home);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adoption_that_is_killed_has_not_happened_and_runs_again() {
    let fixture = &FIXTURES[0];
    let home = fixture.home().await;
    let before = schema(url(&home)).await;
    // Its last table is held by the application, so that it stands in mid-way.
    let holder = url(&home).to_owned();
    let held = "begin; lock table aggregated_data in row exclusive mode; select pg_sleep(60)";
    let holding = tokio::spawn(async move { run_script(&holder, held).await });
    let sessions = |what: &str| {
        format!(
            "select pid::text from pg_stat_activity where pid <> pg_backend_pid()
        and query like '{what}%' and wait_event_type = 'Lock' and datname = current_database()
        and exists (select 1 from pg_locks l where l.pid = pg_stat_activity.pid and not l.granted
            and l.relation = 'aggregated_data'::regclass)"
        )
    };
    let granted = "select pid::text from pg_locks where granted and relation = 'aggregated_data'::regclass
        and mode = 'RowExclusiveLock'";
    until("the lock is held", async || !texts(url(&home), granted).await.is_empty()).await;
    let mut child = home.command(&["migrate"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the adoption waits", async || !texts(url(&home), &sessions("lock table")).await.is_empty()).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let holders = texts(url(&home), granted).await;
    for pid in &holders {
        texts(url(&home), &format!("select pg_terminate_backend({pid})::text")).await;
    }
    assert!(holding.await.is_err(), "the holder was ended");
    until("its session is gone", async || texts(url(&home), &sessions("lock table")).await.is_empty()).await;
    assert_eq!(schema(url(&home)).await, before);
    home.ok(&["migrate"]);
    checked(&home);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_widened_only_when_asked_and_doctor_tells_when_it_is_time() {
    for fixture in FIXTURES {
        let home = fixture.home().await;
        home.ok(&fixture.migrate(&[]));
        let width = "select format_type(atttypid, null) from pg_attribute
            where attrelid = 'acquired_data'::regclass and attname = 'id'";
        assert_eq!(texts(url(&home), width).await, [if fixture.is_wide { "bigint" } else { "integer" }]);
        let plan = home.ok(&["migrate", "--plan", "--widen-ids", "-o", "json"]);
        assert_eq!(plan.contains("free space"), !fixture.is_wide, "{plan}");
        if !fixture.is_wide {
            let half = "select setval(pg_get_serial_sequence('acquired_data', 'id'), 1073741824)::text";
            texts(url(&home), half).await;
            let doctor = home.run(&["doctor"]);
            let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
            assert!(told.contains("50 % of the ids that `acquired_data` can have"), "{told}");
        }
        home.ok(&["migrate", "--widen-ids"]);
        assert_eq!(texts(url(&home), width).await, ["bigint"]);
        run_script(url(&home), "select setval(pg_get_serial_sequence('acquired_data', 'id'), 5000000000)").await;
        write(&home.files().join("orders.csv"), "id\r\n1\r\n");
        let run =
            home.command(&["source", "run", "受注データ", "--wait"]).env("FILE_ROOTS", home.files()).output().unwrap();
        assert!(run.status.success(), "{run:?}");
        assert_eq!(texts(url(&home), "select max(id)::text from acquired_data").await, ["5000000001"]);
        assert!(
            !String::from_utf8_lossy(&home.run(&["doctor"]).stdout).contains("of the ids that"),
            "there are enough"
        );
        checked(&home);
    }
}
