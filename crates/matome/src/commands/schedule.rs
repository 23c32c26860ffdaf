//! `matome schedule ...`

use matome_model::clock::{Clock, iso8601};
use matome_model::schedule::{Cron, local_iso8601, parse_zone};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::list;
use crate::cli::{Format, ScheduleCommand};
use crate::client::Client;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::{Column, Row, print_rows, value_at};

const SCHEDULES: &str = "/api/schedules/";

const COLUMNS: &[Column] = &[
    ("id", &["id"]),
    ("kind", &["kind"]),
    ("name", &["name"]),
    ("enabled", &["enabled"]),
    ("cron", &["cron"]),
    ("timezone", &["timezone"]),
    ("interval", &["interval_secs"]),
    ("misfire", &["misfire"]),
    ("overlap", &["overlap"]),
    ("jitter", &["jitter_secs"]),
    ("next", &["next_at"]),
    ("last", &["last_at"]),
];
const TIMES: &[Column] = &[("local", &["local"]), ("utc", &["utc"])];

pub async fn run(command: ScheduleCommand, console: &Console) -> Result<(), Failure> {
    match command {
        ScheduleCommand::List { client, kind } => {
            let output = client.output.clone();
            let client = Client::connect(&client, console, false).await?;
            let query: Vec<_> = kind.as_deref().map(|kind| ("kind", kind)).into_iter().collect();
            let rows = list(&client, SCHEDULES, &query, usize::MAX).await?;
            if rows.is_empty() && output.output == Format::Table {
                console.notice(Message::NoSchedules);
            }
            print_rows(console, &output, &rows, COLUMNS)?;
            client.close().await;
            Ok(())
        }
        ScheduleCommand::Next { client, which, timezone, number } => {
            let output = client.output.clone();
            let rows = match (&which.cron, &which.name) {
                (Some(cron), _) => times_of(cron, timezone.as_deref().unwrap_or(&client.reach.time_zone), number)?,
                (None, name) => {
                    let client = Client::connect(&client, console, false).await?;
                    let id = find(&client, name.as_deref().unwrap_or_default()).await?;
                    let answer = client.get(&format!("{SCHEDULES}{id}/next/?n={number}")).await?.into_json()?;
                    client.close().await;
                    let next: Next =
                        serde_json::from_str(answer.get()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
                    if !next.enabled {
                        console.notice(Message::ScheduleIsOff);
                    }
                    next.results
                }
            };
            print_rows(console, &output, &rows, TIMES)
        }
    }
}

/// Puts the flags --cron and --timezone into a config, beside what it says about its schedule already. What is no object
/// is left for the server to refuse.
pub fn set(config: &mut Value, cron: Option<String>, timezone: Option<String>) {
    if cron.is_none() {
        return;
    }
    let schedule = config.as_object_mut().map(|config| config.entry("schedule").or_insert_with(|| json!({})));
    if let Some(Value::Object(schedule)) = schedule {
        let given = [("cron", cron), ("timezone", timezone)].into_iter();
        schedule.extend(given.filter_map(|(key, value)| Some((key.to_owned(), value?.into()))));
    }
}

/// What `next/` answers, as far as it is printed.
#[derive(serde::Deserialize)]
struct Next {
    enabled: bool,
    results: Vec<Box<RawValue>>,
}

#[derive(serde::Serialize)]
struct Time {
    local: String,
    utc: String,
}

/// The next times of an expression: arithmetic that needs no server.
fn times_of(cron: &str, timezone: &str, number: u16) -> Result<Vec<Row>, Failure> {
    let refuse = |flag: &str, why| Failure::new(Exit::Usage, Message::NoSuchTimes { flag: flag.to_owned() }).why(why);
    let zone = parse_zone(timezone).map_err(|why| refuse("--timezone", why).help(Message::WriteZone))?;
    let cron = Cron::parse(cron, zone).map_err(|why| refuse("--cron", why).help(Message::WriteCron))?;
    let first = cron.after(Clock::system().now());
    let times = std::iter::successors(first, |at| cron.after(*at)).take(usize::from(number));
    let rows = times.map(|at| to_raw_value(&Time { local: local_iso8601(at, zone), utc: iso8601(at) }));
    rows.collect::<Result<_, _>>().map_err(|err| Failure::from_error(Exit::Failed, &err))
}

/// The id of the schedule of the source or aggregation that `name` means, or of the schedule with that id.
async fn find(client: &Client, name: &str) -> Result<String, Failure> {
    let rows = list(client, SCHEDULES, &[("name", name)], 2).await?;
    let id = |row: &Row| value_at(row.get(), &["id"]);
    match rows.as_slice() {
        [row] => id(row).ok_or_else(|| Failure::new(Exit::Failed, Message::AnswerWithout { what: "id".to_owned() })),
        [] if name.parse::<u64>().is_ok() && client.get(&format!("{SCHEDULES}{name}/")).await?.status == 200 => {
            Ok(name.to_owned())
        }
        [] => Err(Failure::new(Exit::NotFound, Message::NoSchedule { name: name.to_owned() })
            .help(Message::SeeList { command: "schedule".to_owned() })),
        several => {
            let ids: Vec<String> = several.iter().filter_map(id).collect();
            Err(Failure::new(Exit::Usage, Message::SameName { name: name.to_owned() })
                .help(Message::NameSchedule { ids: ids.join(", ") }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_beside_what_the_config_says() {
        let mut config = json!({"schedule": {"jitter_secs": 30}});
        set(&mut config, Some("@daily".to_owned()), Some("Asia/Tokyo".to_owned()));
        let schedule = json!({"cron": "@daily", "timezone": "Asia/Tokyo", "jitter_secs": 30});
        assert_eq!(config, json!({ "schedule": schedule }));
        for mut odd in [json!([]), json!({"schedule": 1})] {
            let before = odd.clone();
            set(&mut odd, Some("@daily".to_owned()), None);
            assert_eq!(odd, before);
        }
    }
}
