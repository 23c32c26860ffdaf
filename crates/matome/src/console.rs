//! The user's side of a command: language, colour, questions and progress. Everything here goes to stderr; data goes to
//! stdout through [`crate::output`].

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use matome_model::field_error::Words;
use matome_model::language::Language;
use serde_json::json;

use crate::failure::{Exit, Failure};
use crate::message::Message;

/// Between two lines of plain progress.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// Between two events of progress for programs.
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// How long work shows that it goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A bar when stderr is a terminal, nothing otherwise.
    #[default]
    Auto,
    /// A line each ten seconds.
    Plain,
    /// A JSON object a line, at most one a second.
    Json,
    /// Nothing.
    None,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColourMode {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    #[default]
    Auto,
    Always,
    Never,
}

impl ColourMode {
    /// Whether a stream gets colours. `NO_COLOR` counts when it is not empty (no-color.org).
    pub fn paints(self, is_terminal: bool) -> bool {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if is_set("NO_COLOR") => false,
            Self::Auto => {
                is_set("CLICOLOR_FORCE") || (is_terminal && std::env::var_os("TERM").is_none_or(|t| t != "dumb"))
            }
        }
    }
}

/// How a command talks to its user. Cheap to clone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Console {
    pub language: Language,
    pub colour: ColourMode,
    pub progress: ProgressMode,
    /// Never asks, even on a terminal.
    pub no_input: bool,
}

impl Console {
    /// A message in the user's language.
    pub fn text(&self, message: impl Into<Words>) -> String {
        message.into().text(self.language).to_owned()
    }

    /// Says something on stderr.
    pub fn notice(&self, message: impl Into<Words>) {
        eprintln!("{}", self.text(message));
    }

    /// Says why a command fails.
    pub fn fail(&self, failure: &Failure) {
        let text = failure.text(self.language);
        let paints = self.colour.paints(io::stderr().is_terminal());
        match text.split_once(':').filter(|_| paints) {
            Some((label, rest)) => eprintln!("\x1b[1;31m{label}\x1b[0m:{rest}"),
            None => eprintln!("{text}"),
        }
    }

    /// Asks before something is destroyed. Where it cannot ask it refuses.
    pub fn confirm(&self, question: Message, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        let question = Words::from(question);
        if self.no_input || !io::stdin().is_terminal() {
            let what = Words::new(
                Words::from(Message::NotConfirmed { question: question.english.clone() }).english,
                Words::from(Message::NotConfirmed { question: question.japanese.clone() }).japanese,
            );
            return Err(Failure::new(Exit::Usage, what).help(Message::SayYes));
        }
        eprint!("{}", self.text(Message::Ask { question: question.text(self.language).to_owned() }));
        let _ = io::stderr().flush();
        let mut answer = String::new();
        match io::stdin().lock().read_line(&mut answer) {
            Ok(_) if ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) => Ok(()),
            _ => Err(Failure::new(Exit::Interrupted, Message::NothingDone)),
        }
    }

    /// Progress of something long. `unit` is what is counted, `total` how many there will be, when that is known.
    pub fn progress(&self, name: &str, unit: &'static str, total: Option<u64>) -> Progress {
        let mode = match self.progress {
            ProgressMode::Auto if !io::stderr().is_terminal() => ProgressMode::None,
            mode => mode,
        };
        let bar = (mode == ProgressMode::Auto).then(|| bar(name, unit, total));
        Progress { mode, bar, name: name.to_owned(), unit, total, started: Instant::now(), told: None }
    }
}

/// Progress of one stage of work; what is shown ends with [`Progress::end`] or when it is dropped.
#[derive(Debug)]
pub struct Progress {
    mode: ProgressMode,
    bar: Option<ProgressBar>,
    name: String,
    unit: &'static str,
    total: Option<u64>,
    started: Instant,
    told: Option<Instant>,
}

impl Progress {
    /// `done` units are behind; `state` says what is going on.
    pub fn at(&mut self, done: u64, state: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(state.to_owned());
            bar.tick();
            return;
        }
        let interval = match self.mode {
            ProgressMode::Plain => PLAIN_INTERVAL,
            ProgressMode::Json => JSON_INTERVAL,
            ProgressMode::Auto | ProgressMode::None => return,
        };
        if self.told.is_none_or(|told| told.elapsed() >= interval) {
            self.told = Some(Instant::now());
            self.tell(done, state);
        }
    }

    /// The work has ended with `done` units behind.
    pub fn end(mut self, done: u64, state: &str) {
        match self.bar.take() {
            Some(bar) => bar.finish_and_clear(),
            None => self.tell(done, state),
        }
    }

    fn tell(&self, done: u64, state: &str) {
        let (name, unit, secs) = (&self.name, self.unit, self.started.elapsed().as_secs_f64());
        match self.mode {
            ProgressMode::Json => eprintln!(
                "{}",
                json!({ "progress": name, "state": state, "done": done, "total": self.total, "unit": unit, "elapsed_secs": (secs * 10.0).round() / 10.0 })
            ),
            ProgressMode::Plain => {
                let total = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
                eprintln!("{name}: {done}{total} {unit}, {secs:.0} s, {state}");
            }
            ProgressMode::Auto | ProgressMode::None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(name: &str, unit: &'static str, total: Option<u64>) -> ProgressBar {
    let known = "{prefix}  {bar:30}  {pos}/{len} UNIT  {per_sec}  {elapsed}  ETA {eta}  {msg}";
    let unknown = "{spinner} {prefix}  {pos} UNIT  {per_sec}  {elapsed}  {msg}";
    let (template, bar) = match total {
        Some(total) => (known, ProgressBar::new(total)),
        None => (unknown, ProgressBar::new_spinner()),
    };
    let style = ProgressStyle::with_template(&template.replace("UNIT", unit))
        .expect("the templates are constants that every run tries");
    bar.with_style(style).with_prefix(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_yes_nothing_is_confirmed_where_nobody_can_be_asked() {
        let console = Console { no_input: true, ..Console::default() };
        let question = || Message::DeleteSource { name: "orders".into() };
        assert!(console.confirm(question(), true).is_ok());
        let refused = console.confirm(question(), false).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        let text = refused.text(Language::Japanese);
        assert!(text.contains("データソース `orders`") && text.contains("--yes"), "{text}");
    }
}
