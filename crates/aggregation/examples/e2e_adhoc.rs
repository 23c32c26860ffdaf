//! ad hoc: the real child (ENGINE_CHILD) through the supervisor.
use matome_aggregation::engine::*;
use matome_model::engine::*;
#[tokio::main]
async fn main() {
    let root = tempfile::tempdir().unwrap();
    let engine = Engine::new(EngineSettings {
        program: std::env::var_os("ENGINE_CHILD").unwrap().into(),
        arguments: vec!["engine-child".into()],
        scratch_root: root.path().to_owned(),
        slots: 2,
    });
    let t = std::time::Instant::now();
    println!("{:?} {:?}", engine.validate("select * from orders").await, t.elapsed());
    let t = std::time::Instant::now();
    println!(
        "{:?} {:?}",
        engine.validate("select * from orders; select 2").await.map_err(|e| e.to_string()),
        t.elapsed()
    );
    let n: i64 = std::env::var("ROWS").ok().and_then(|r| r.parse().ok()).unwrap_or(20000);
    for sql in [
        "selec 1",
        "select * from",
        "select 'abc",
        "select Amount from orders",
        "select amount from orders group by status",
        "select nosuch(1) as x",
        "select cast(status as int) as n from orders",
        "select $1 as x",
        "select @@version as v",
        "select a.id from orders a, orders b where id = 1",
        "select sum(status) as s from orders",
        "select cast(id as int) * cast(2147483647 as int) as x from orders",
        "select id, * from orders",
        "select 9223372036854775807 + id as x from orders where id > 5",
        "select cast(1e30 as decimal(38,10)) * cast(1e30 as decimal(38,10)) as x",
        "select amount * amount * amount as x from orders limit 1",
        "select map(['a'],[1]) as m",
        "select current_date = current_date as d",
        "select to_timestamp(at) as t, date_part('year', to_timestamp(at)) as y from orders limit 1",
        "select status, row_number() over (partition by status order by id) as r, lag(amount) over (order by id) as p from orders limit 2",
        "select nested.a[1] as x from orders limit 1",
        "select orders.nested['a'][1] as x from sources.orders limit 1",
        "select at::date as d, extract(hour from at::timestamp) as h, at::timestamp + interval '1 day' as n from orders limit 1",
        "select * from generate_series(1,3)",
        "select regexp_replace(status, 's', 't') as x, lower(status) as l, concat(status, id) as c, coalesce(null, 1) as o, arrow_typeof(amount) as ty, date_bin(interval '1 hour', at::timestamp) as b from orders limit 1",
        "select status, array_agg(id order by id) as ids from orders where id < 12 group by status order by 1 limit 2",
        "select sum(amount) filter (where id > 3) as s, stddev(amount) as sd, corr(id, amount) as c, percentile_cont(0.5) within group (order by amount) as p from orders",
        "with recursive r as (select 1 as n union all select n + 1 from r where n < 5) select * from r",
        "select * from orders o where exists (select 1 from orders p where p.id = o.id + 1) limit 1",
    ] {
        let t = std::time::Instant::now();
        let mut p = engine.prepare().await.unwrap();
        let mut s = p.table(Table { schema: Schema::Sources, name: "orders".into() }).await.unwrap();
        for i in 0..n {
            s.row(i, chrono::DateTime::from_timestamp_micros(1_700_000_000_000_000 + i*1000_000).unwrap(), Some("ab"), Some(1), &format!(r#"{{"amount":{}.{:02},"at":"2026-01-{:02}T10:00:00Z","id":{i},"nested":{{"a":[{i}]}},"status":"s{}","tags":["x","y"]}}"#, i%1000, i%100, i%28+1, i%5)).await.unwrap();
        }
        s.finish().await.unwrap();
        let spooled = t.elapsed();
        match p.run(sql, Limits { seconds: 5, ..Limits::default() }, None).await {
            Err(e) => println!("ERR {e} | {:?}", t.elapsed()),
            Ok(mut rows) => {
                let mut count = 0;
                let mut shown = 0;
                loop {
                    match rows.next_page(1000, 1 << 20).await {
                        Err(e) => {
                            println!("ERR {e}");
                            break;
                        }
                        Ok(None) => break,
                        Ok(Some(page)) => {
                            count += page.len();
                            for r in &page {
                                if shown < 6 {
                                    println!("  {r}");
                                    shown += 1;
                                }
                            }
                        }
                    }
                }
                println!(
                    "{count} rows, spool {spooled:?} total {:?}, {:?}",
                    t.elapsed(),
                    rows.summary().map(|s| s.elapsed_ms)
                );
            }
        }
    }
    drop(engine);
    println!("left: {}", std::fs::read_dir(root.path()).unwrap().count());
}
