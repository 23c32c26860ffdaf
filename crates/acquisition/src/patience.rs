//! How long a look at a source waits for each answer: less than for all of the look, so that whoever does not answer is told by what
//! waited for it, with a place and a cause.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::{RawValue, to_raw_value};

/// The option that says how long each answer is waited for, and what it is when it is left out.
const OPTION: &str = "timeout_secs";
const USUAL_SECS: u64 = 30;

/// The config with the option lowered to four fifths of `limit`. What is no config, or a draft, stays as it is.
pub(crate) fn within(config: &str, limit: Duration) -> String {
    let most = (limit * 4 / 5).as_secs().max(1);
    let options = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(config).unwrap_or_default();
    let secs = match options.get(OPTION).map(|given| serde_json::from_str::<u64>(given.get())) {
        _ if options.is_empty() => None,
        None => Some(USUAL_SECS),
        // What is wrong is told by whoever reads it.
        Some(given) => given.ok(),
    };
    match (secs.filter(|secs| *secs > most), to_raw_value(&most)) {
        (Some(_), Ok(most)) => {
            let lowered = options.into_iter().filter(|(name, _)| name != OPTION);
            let lowered: BTreeMap<_, _> = lowered.chain([(OPTION.to_owned(), most)]).collect();
            serde_json::to_string(&lowered).unwrap_or_else(|_| config.to_owned())
        }
        _ => config.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_lowered_and_never_raised() {
        for (config, secs, expected) in [
            (r#"{"url":"u"}"#, 30, r#"{"timeout_secs":24,"url":"u"}"#),
            (r#"{"labels":{"n":1e999},"timeout_secs":3600}"#, 10, r#"{"labels":{"n":1e999},"timeout_secs":8}"#),
            (r#"{"timeout_secs":5,"url":"u"}"#, 30, r#"{"timeout_secs":5,"url":"u"}"#),
            (r#"{"timeout_secs":"x"}"#, 30, r#"{"timeout_secs":"x"}"#),
            (r#"{"a":1}"#, 1, r#"{"a":1,"timeout_secs":1}"#),
            ("{}", 30, "{}"),
            ("[1]", 30, "[1]"),
        ] {
            assert_eq!(within(config, Duration::from_secs(secs)), expected);
        }
    }
}
