//! `matome config ...`

use std::net::SocketAddr;

use clap::ArgMatches;
use clap::parser::ValueSource;
use matome_model::field_error::Words;
use serde_json::json;
use serde_json::value::to_raw_value;

use crate::cli::{ConfigCommand, OutputArgs};
use crate::config::{Config, SETTINGS, Setting, by_key, shown};
use crate::console::Console;
use crate::failure::Failure;
use crate::message::Message;
use crate::output::{Column, Row, print_rows};

const COLUMNS: &[Column] = &[("key", &["key"]), ("value", &["value"])];
const WITH_ORIGIN: &[Column] = &[("key", &["key"]), ("value", &["value"]), ("origin", &["origin"])];

pub fn run(command: &ConfigCommand, config: &Config, flags: &ArgMatches, console: &Console) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show { origin, output, .. } => show(*origin, output, config, flags, console)?,
        ConfigCommand::Check => {
            let set = SETTINGS.iter().filter(|setting| config.get(setting.key).is_some()).count();
            console.notice(Message::SettingsGood { n: set.to_string() });
        }
    }
    tell_what_has_no_effect(config, console);
    Ok(())
}

fn show(
    with_origin: bool,
    output: &OutputArgs,
    config: &Config,
    flags: &ArgMatches,
    console: &Console,
) -> Result<(), Failure> {
    let rows: Vec<Row> = SETTINGS.iter().map(|setting| row(setting, config, flags)).collect();
    print_rows(console, output, &rows, if with_origin { WITH_ORIGIN } else { COLUMNS })
}

fn row(setting: &Setting, config: &Config, flags: &ArgMatches) -> Row {
    let given = flag(setting, flags);
    let (values, origin) = match (given, config.get(setting.key)) {
        (Some(values), _) => (values, format!("--{}", setting.key.replace('_', "-"))),
        (None, Some(found)) => (found.values.clone(), found.origin.clone()),
        (None, None) => (default(setting, config, flags), "default".to_owned()),
    };
    let row = json!({ "key": setting.key, "value": shown(setting, &values), "origin": origin });
    to_raw_value(&row).expect("text is JSON")
}

/// What holds when nobody says anything.
fn default(setting: &Setting, config: &Config, flags: &ArgMatches) -> Vec<String> {
    let mut values = vec![setting.default.to_owned()];
    if setting.key == "allowed_hosts" {
        // A server answers to the address that it listens on, too.
        let bind = by_key("bind").expect("a setting");
        let given = flag(bind, flags).or_else(|| config.get(bind.key).map(|found| found.values.clone()));
        let address = given.and_then(|values| values.first()?.parse::<SocketAddr>().ok());
        values.extend(address.filter(|address| !address.ip().is_loopback()).map(|address| address.ip().to_string()));
    }
    values
}

/// The value of the flag, when it was given on the command line.
fn flag(setting: &Setting, flags: &ArgMatches) -> Option<Vec<String>> {
    let is_given = matches!(flags.try_contains_id(setting.key), Ok(true))
        && flags.value_source(setting.key) == Some(ValueSource::CommandLine);
    let values = is_given.then(|| flags.get_raw(setting.key)).flatten()?;
    Some(values.map(|value| value.to_string_lossy().into_owned()).collect())
}

/// Names the variables of the original design that this version does not use.
pub fn tell_what_has_no_effect(config: &Config, console: &Console) {
    tell(&config.without_effect, console);
}

/// Names what is set and changes nothing, with the reason.
pub fn tell(without_effect: &[(&str, Words)], console: &Console) {
    for (name, why) in without_effect {
        let note = console.text(Message::HasNoEffect { name: (*name).to_owned() });
        console.notice(Message::NoteOf { note, why: console.text(why.clone()) });
    }
}
