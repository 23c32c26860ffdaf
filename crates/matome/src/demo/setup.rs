//! What the demo defines, all through the public API.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::client::Client;
use crate::commands::aggregate::AGGREGATIONS;
use crate::commands::list;
use crate::commands::source::SOURCES;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::value_at;

const FILES: &[(&str, &[u8])] = &[
    ("orders.csv", include_bytes!("../../demo-files/orders.csv")),
    ("products.csv", include_bytes!("../../demo-files/products.csv")),
    ("readings.ndjson", include_bytes!("../../demo-files/readings.ndjson")),
];

const SALES_BY_REGION: &str = "\
select c.region, p.category, count(*) as orders, sum(cast(o.数量 as bigint) * cast(p.price as bigint)) as yen
from orders o
join customers c on c.id = cast(o.顧客番号 as bigint)
join products p on p.product_id = o.商品番号
group by c.region, p.category
order by yen desc";

const DAILY_TEMPERATURE: &str = "\
select substr(at, 1, 10) as day, device, count(*) as readings, min(celsius) as low, max(celsius) as high
from readings
group by substr(at, 1, 10), device
order by day, device";

/// What was defined: (name, id) in the order of running.
#[derive(Debug)]
pub struct Plan {
    pub sources: Vec<(String, String)>,
    pub aggregations: Vec<(String, String)>,
}

/// Writes the sample files, unless they are there: a user may have changed them.
pub fn write_files(dir: &Path) -> Result<(), Failure> {
    let failed = |err: std::io::Error| {
        Failure::new(Exit::Config, Message::DemoFiles { dir: dir.display().to_string() })
            .because(&err)
            .help(Message::GiveDemoDir)
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    for (name, content) in FILES {
        let file = dir.join(name);
        if !file.exists() {
            std::fs::write(&file, content).map_err(failed)?;
        }
    }
    Ok(())
}

/// The token of the demo: made at the first run, kept in its directory for the next.
pub async fn token(client: &Client, data_dir: &Path) -> Result<String, Failure> {
    let file = data_dir.join("token");
    if let Ok(token) = std::fs::read_to_string(&file) {
        return Ok(token.trim().to_owned());
    }
    let body = json!({ "name": "demo", "role": "admin" }).to_string();
    let row = client.post("/api/tokens/", body).await?.into_json()?;
    let token = value_at(row.get(), &["token"])
        .ok_or_else(|| Failure::new(Exit::Failed, Message::AnswerWithout { what: "`token`".to_owned() }))?;
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let write = |mut file: std::fs::File| std::io::Write::write_all(&mut file, token.as_bytes());
    options.open(&file).and_then(write).map_err(|err| {
        Failure::new(Exit::Config, Message::CannotWrite { file: file.display().to_string() })
            .because(&err)
            .help(Message::CheckRoom)
    })?;
    Ok(token)
}

/// Defines the sources and aggregations that are not there yet.
pub async fn define(client: &Client, service: SocketAddr) -> Result<Plan, Failure> {
    let customers = json!({ "url": format!("http://{service}/customers"), "records": "$.results",
                            "pagination": { "type": "next_link", "next": "$.next" } });
    let sources = [
        ("customers", "api", customers),
        ("rates", "api", json!({ "url": format!("http://{service}/rates") })),
        ("orders", "file", json!({ "path": "orders.csv", "format": "csv", "encoding": "shift_jis" })),
        ("products", "file", json!({ "path": "products.csv", "format": "csv" })),
        ("readings", "file", json!({ "path": "readings.ndjson", "format": "ndjson" })),
    ];
    let aggregations = [("sales_by_region", SALES_BY_REGION), ("daily_temperature", DAILY_TEMPERATURE)];
    let mut plan = Plan { sources: Vec::new(), aggregations: Vec::new() };
    for (name, source_type, config) in sources {
        let body = json!({ "name": name, "source_type": source_type, "config": config, "fetch_interval": 60 });
        plan.sources.push((name.to_owned(), ensure(client, SOURCES, name, body).await?));
    }
    for (name, sql) in aggregations {
        let body = json!({ "name": name, "config": { "sql": sql, "refresh_interval_secs": 60 } });
        plan.aggregations.push((name.to_owned(), ensure(client, AGGREGATIONS, name, body).await?));
    }
    Ok(plan)
}

/// Creates a definition, or gives the one that is there the config of this run (the service's port may differ).
async fn ensure(client: &Client, path: &str, name: &str, body: Value) -> Result<String, Failure> {
    let found = list(client, path, &[("name", name)], 1).await?;
    let row = match found.into_iter().next() {
        None => client.post(path, body.to_string()).await?.into_json()?,
        Some(row) => {
            let stored: Value =
                value_at(row.get(), &["config"]).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            if stored == body["config"] {
                row
            } else {
                let id = value_at(row.get(), &["id"]).unwrap_or_default();
                let patch = json!({ "config": body["config"] }).to_string();
                client.send("PATCH", &format!("{path}{id}/"), Some(patch)).await?.into_json()?
            }
        }
    };
    value_at(row.get(), &["id"])
        .ok_or_else(|| Failure::new(Exit::Failed, Message::AnswerWithout { what: "`id`".to_owned() }))
}
