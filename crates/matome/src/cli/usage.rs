//! What is wrong with a command line, in the user's language.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::is_near;
use crate::failure::{Exit, Failure, said};
use crate::message::Message;

/// The failure that clap's error is; `None` when it is no error (`--help`, `--version`).
pub fn failure(err: &clap::Error) -> Option<Failure> {
    let text = |kind| err.get(kind).map(context);
    let arg = || text(ContextKind::InvalidArg).unwrap_or_default();
    let what = match err.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return None,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => return None,
        ErrorKind::UnknownArgument => Message::UnknownArgument { arg: arg() },
        ErrorKind::InvalidSubcommand => {
            Message::UnknownCommand { command: text(ContextKind::InvalidSubcommand).unwrap_or_default() }
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => match text(ContextKind::InvalidValue) {
            Some(value) if !value.is_empty() => Message::BadValue { value, arg: arg() },
            _ => Message::ValueMissing { arg: arg() },
        },
        ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues | ErrorKind::NoEquals => {
            Message::ValueMissing { arg: arg() }
        }
        ErrorKind::MissingRequiredArgument => Message::ArgumentsMissing { args: arg() },
        ErrorKind::MissingSubcommand => Message::SubcommandMissing,
        ErrorKind::ArgumentConflict => {
            Message::Conflicting { arg: arg(), other: text(ContextKind::PriorArg).unwrap_or_default() }
        }
        _ => Message::BadUsage,
    };
    let mut failure = Failure::new(Exit::Usage, what);
    // What a parser of ours says about the value.
    if let Some(cause) = std::error::Error::source(err) {
        failure = failure.why(said(cause.to_string()));
    }
    let suggested =
        [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand].into_iter().find_map(|kind| err.get(kind));
    let given = text(ContextKind::InvalidSubcommand).or_else(|| text(ContextKind::InvalidArg)).unwrap_or_default();
    let help = match (suggested.and_then(|names| best(&given, names)), text(ContextKind::ValidValue)) {
        (Some(name), _) => Message::DidYouMean { name },
        (None, Some(names)) if !names.is_empty() => Message::KnownAre { names },
        _ => Message::SeeHelp { command: command(err) },
    };
    Some(failure.help(help))
}

fn context(value: &ContextValue) -> String {
    match value {
        ContextValue::String(text) => text.clone(),
        ContextValue::Strings(texts) => texts.join(", "),
        other => other.to_string(),
    }
}

/// The best suggestion; clap puts it last, and makes some that nobody can have meant.
fn best(given: &str, suggested: &ContextValue) -> Option<String> {
    let name = match suggested {
        ContextValue::Strings(names) => names.last().cloned()?,
        other => context(other),
    };
    let [given, meant] = [given, &name].map(|text| text.trim_start_matches('-'));
    let is_part = meant.starts_with(given) || given.starts_with(meant);
    (is_part || is_near(given, meant)).then_some(name)
}

/// The command that was meant: the words of its usage line before the first argument.
fn command(err: &clap::Error) -> String {
    let usage = err.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    let words = usage.split_whitespace().skip_while(|word| *word != "matome");
    let words: Vec<&str> = words.take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    if words.is_empty() { "matome".to_owned() } else { words.join(" ") }
}
