//! Where settings come from: flag, environment, `.env`, `matome.yaml`, default, in this order of precedence.
//!
//! Environment and files are read before the command line is; what they say becomes the default of the flag
//! ([`Config::defaults`]), so every command sees one value.

mod files;
mod setting;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Command;
use matome_model::field_error::Words;

use crate::failure::{Exit, Failure};
use crate::message::Message;
use files::{Entry, beside, place, read_env, read_secret, read_yaml};
pub use files::{is_near, nearest};
use setting::{FILES, OF_TOOLS, WITHOUT_EFFECT};
pub use setting::{Kind, SETTINGS, Setting, by_key};

/// What was found about the settings, flags apart.
#[derive(Debug, Default)]
pub struct Config {
    found: BTreeMap<&'static str, Found>,
    /// Variables that are set and change nothing, with the reason.
    pub without_effect: Vec<(&'static str, Words)>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub values: Vec<String>,
    /// A variable, or `file:line`.
    pub origin: String,
}

/// The environment, as a value, so that tests can give another.
pub type Environment = BTreeMap<String, String>;

/// The variables of this process whose names and values are text.
pub fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

impl Config {
    /// Reads environment and files. `args` are looked through for `--config-file` and `--env-file` only; other files are
    /// those of `folder`, when they are there.
    ///
    /// # Errors
    /// When a file cannot be read, names what is no setting, or a value has not the form of its setting.
    pub fn read(environment: &Environment, args: &[OsString], folder: &Path) -> Result<Self, Failure> {
        let mut config = Self::default();
        config.refuse_unknown_names(environment)?;
        let [config_file, env_file] = ["--config-file", "--env-file"].map(|flag| flag_value(args, flag));
        let named = |variable: &str| environment.get(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        let file = |given: Option<PathBuf>, variable: &str, usual: &str| {
            let usual = folder.join(usual);
            given.or_else(|| named(variable)).or_else(|| usual.is_file().then_some(usual))
        };
        let yaml = file(config_file, FILES[0], "matome.yaml");
        let dotenv = file(env_file, FILES[1], ".env");
        if let Some(file) = &yaml {
            for Entry { name, mut values, line } in read_yaml(file)? {
                let setting = by_key(&name).expect("the reader knows the keys");
                if matches!(setting.kind, Kind::Path | Kind::Paths) {
                    values.iter_mut().for_each(|value| *value = beside(file, value));
                }
                config.take(setting, Found { values, origin: place(file, line) })?;
            }
        }
        let mut variables: Vec<(String, String, String)> = Vec::new();
        if let Some(file) = &dotenv {
            let entries = read_env(file)?;
            config.refuse_unknown_in(file, &entries)?;
            let value = |entry: Entry| (place(file, entry.line), entry.name, entry.values.concat());
            variables.extend(entries.into_iter().map(value));
            config.take_variables(&variables)?;
        }
        config.files.extend(dotenv.into_iter().chain(yaml));
        let of_process = |(name, value): (&String, &String)| (format!("${name}"), name.clone(), value.clone());
        config.take_variables(&environment.iter().map(of_process).collect::<Vec<_>>())?;
        config.name_directory_of_sqlite()?;
        config.tell_redis_without_processes();
        Ok(config)
    }

    /// Takes variables of one layer: it goes before what was found until now.
    fn take_variables(&mut self, variables: &[(String, String, String)]) -> Result<(), Failure> {
        let find = |name: &str| variables.iter().find(|(_, other, value)| other == name && !value.is_empty());
        if let Some((origin, _, port)) = find("PORT") {
            let found = Found { values: vec![format!("127.0.0.1:{port}")], origin: origin.clone() };
            self.take(by_key("bind").expect("a setting"), found)?;
        }
        if let Some((origin, name, value)) = find("DEBUG") {
            match value.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => {
                    let found = Found { values: vec!["debug".to_owned()], origin: origin.clone() };
                    self.take(by_key("log_level").expect("a setting"), found)?;
                }
                "0" | "false" | "no" | "off" => {}
                _ => {
                    let (place, name, value) = (origin.clone(), name.clone(), value.clone());
                    return Err(Failure::new(Exit::Config, Message::BadSetting { place, name, value })
                        .help(Message::WriteBoolean));
                }
            }
        }
        for setting in SETTINGS {
            for name in setting.variables {
                let file = setting.is_secret.then(|| find(&format!("{name}_FILE"))).flatten();
                let (origin, value) = match (find(name), file) {
                    (Some(_), Some((place, file, _))) => {
                        let (place, name, file) = (place.clone(), (*name).to_owned(), file.clone());
                        return Err(Failure::new(Exit::Config, Message::TwoOfOne { place, name, file })
                            .help(Message::GiveOneOfThem));
                    }
                    (Some((origin, _, value)), None) => (origin, value.clone()),
                    (None, Some((origin, name, file))) => (origin, read_secret(file, name)?),
                    (None, None) => continue,
                };
                let values = match setting.kind.separator() {
                    Some(separator) => value.split(separator).map(str::trim).map(str::to_owned).collect(),
                    None => vec![value],
                };
                self.take(setting, Found { values, origin: origin.clone() })?;
                break;
            }
        }
        for (name, english, japanese) in WITHOUT_EFFECT {
            let is_known = self.without_effect.iter().any(|(other, _)| other == name);
            if find(name).is_some() && !is_known {
                self.without_effect.push((name, Words::new(*english, *japanese)));
            }
        }
        Ok(())
    }

    fn take(&mut self, setting: &'static Setting, mut found: Found) -> Result<(), Failure> {
        found.values.retain(|value| !value.is_empty());
        for value in &found.values {
            if let Some(help) = setting.kind.refuse(value) {
                let shown = if setting.is_secret { "***".to_owned() } else { value.clone() };
                let what = Message::BadSetting { place: found.origin, name: setting.key.to_owned(), value: shown };
                return Err(Failure::new(Exit::Config, what).help(help));
            }
        }
        if !found.values.is_empty() {
            self.found.insert(setting.key, found);
        }
        Ok(())
    }

    /// `sqlite:///DIR/matome.db` is another way to name the data directory.
    fn name_directory_of_sqlite(&mut self) -> Result<(), Failure> {
        let Some(url) = self.found.get("database_url").filter(|found| found.values[0].starts_with("sqlite:")) else {
            return Ok(());
        };
        let Found { values, origin } = url.clone();
        let refused = |what: Message| Failure::new(Exit::Config, what).help(Message::WriteSqliteUrl);
        let dir = directory_of_sqlite(&values[0])
            .ok_or_else(|| refused(Message::NoSqliteUrl { place: origin.clone(), url: values[0].clone() }))?;
        if let Some(other) = self.found.get("data_dir").filter(|other| other.values[0] != dir) {
            let (a, b) = (format!("{origin}: {dir}"), format!("{}: {}", other.origin, other.values[0]));
            return Err(Failure::new(Exit::Config, Message::TwoDirectories { a, b }).help(Message::GiveOneOfThem));
        }
        self.found.remove("database_url");
        self.found.insert("data_dir", Found { values: vec![dir], origin });
        Ok(())
    }

    /// Redis connects processes, and an embedded database has one.
    fn tell_redis_without_processes(&mut self) {
        if self.found.contains_key("database_url") {
            return;
        }
        for key in ["redis_url", "celery_broker_url", "acquisition_redis_url", "aggregation_redis_url"] {
            if self.found.contains_key(key) {
                let name = by_key(key).expect("a setting").variables[0];
                let why = Words::new(
                    "Redis connects processes, and an embedded database has one: it is used with DATABASE_URL",
                    "Redis はプロセスどうしをつなぐもので、組み込みのデータベースを使うプロセスは一つです。DATABASE_URL とともに使われます",
                );
                self.without_effect.push((name, why));
            }
        }
    }

    fn refuse_unknown_names(&self, environment: &Environment) -> Result<(), Failure> {
        match environment.keys().find(|name| !is_known(name)) {
            None => Ok(()),
            Some(name) => Err(unknown_variable(format!("${name}"), name)),
        }
    }

    fn refuse_unknown_in(&self, file: &Path, entries: &[Entry]) -> Result<(), Failure> {
        match entries.iter().find(|entry| !is_known(&entry.name)) {
            None => Ok(()),
            Some(entry) => Err(unknown_variable(place(file, entry.line), &entry.name)),
        }
    }

    /// What environment and files say about a setting.
    pub fn get(&self, key: &str) -> Option<&Found> {
        self.found.get(key)
    }

    /// The command line with what was found as the defaults of its flags. The demo has a directory and an address of
    /// its own.
    pub fn defaults(&self, command: Command) -> Command {
        let command = command.mut_args(|arg| {
            let Some(setting) = by_key(arg.get_id().as_str()) else { return arg };
            let arg = with_variable(arg, setting);
            match self.found.get(setting.key) {
                None => arg,
                Some(found) => arg.default_values(&found.values).hide_default_value(setting.is_secret),
            }
        });
        command.mut_subcommands(|command| match command.get_name() {
            "demo" => command,
            _ => self.defaults(command),
        })
    }
}

/// Names the variable of a setting in the help of its flag.
fn with_variable(arg: clap::Arg, setting: &Setting) -> clap::Arg {
    let Some(help) = arg.get_help().map(ToString::to_string) else { return arg };
    let variable = setting.variables[0];
    arg.help(format!("{help} [env: {variable}]"))
}

/// Whether a name is none of ours, or one that we know.
fn is_known(name: &str) -> bool {
    !name.starts_with("MATOME_")
        || OF_TOOLS.iter().any(|prefix| name.starts_with(prefix))
        || FILES.contains(&name)
        || SETTINGS.iter().any(|setting| {
            setting.variables.iter().any(|variable| {
                *variable == name || (setting.is_secret && name.strip_suffix("_FILE") == Some(variable))
            })
        })
}

fn unknown_variable(place: String, name: &str) -> Failure {
    let mut known: Vec<&str> = SETTINGS.iter().flat_map(|setting| setting.variables).copied().collect();
    known.retain(|name| name.starts_with("MATOME_"));
    known.extend(FILES);
    Failure::new(Exit::Config, Message::UnknownVariable { place, name: name.to_owned() }).help(nearest(name, &known))
}

/// The directory that an address of SQLite names. As elsewhere, three slashes are relative and four absolute.
fn directory_of_sqlite(url: &str) -> Option<String> {
    let path = url.strip_prefix("sqlite://")?;
    let path = Path::new(path.strip_prefix('/').unwrap_or(path));
    if path.file_name()? != "matome.db" {
        return None;
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(dir.display().to_string())
}

/// The value of a flag, before the command line is parsed.
pub fn flag_value(args: &[OsString], flag: &str) -> Option<PathBuf> {
    let mut args = args.iter().take_while(|arg| *arg != "--");
    while let Some(arg) = args.next() {
        if arg == flag {
            return args.next().map(PathBuf::from);
        }
        if let Some(value) = arg.to_str().and_then(|arg| arg.strip_prefix(flag)?.strip_prefix('=')) {
            return Some(PathBuf::from(value));
        }
    }
    None
}

/// A value as it may be shown.
pub fn shown(setting: &Setting, values: &[String]) -> String {
    let text = values.join(&setting.kind.separator().unwrap_or(',').to_string());
    if !setting.is_secret || text.is_empty() {
        return text;
    }
    match url::Url::parse(&text) {
        Ok(mut url) if url.has_host() => {
            if url.password().is_some() {
                let _ = url.set_password(Some("***"));
            }
            url.set_query(url.query().map(|_| "***"));
            url.to_string()
        }
        _ => "***".to_owned(),
    }
}

#[cfg(test)]
mod tests;
