//! What is logged, as users say it: a level, or a filter such as `matome_tasks=debug`.

use tracing_subscriber::EnvFilter;

use crate::config::nearest;
use crate::message::Message;

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// `text` as a filter of `tracing`, which itself takes a word that is no level for the name of a module: a slip of the pen
/// would silence the log.
///
/// # Errors
/// What to write instead.
pub fn filter(text: &str) -> Result<String, Message> {
    let mut filter = Vec::new();
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        if directive.contains(['=', '[']) {
            filter.push(directive.to_owned());
            continue;
        }
        let word = directive.to_ascii_lowercase();
        filter.push(match word.as_str() {
            // The words of Python's logging, which the original design's `.env` files use.
            "warning" => "warn".to_owned(),
            "critical" | "fatal" => "error".to_owned(),
            level if LEVELS.contains(&level) => word,
            other => {
                return Err(match nearest(other, &LEVELS) {
                    Message::KnownAre { .. } => Message::GiveLogLevel,
                    meant => meant,
                });
            }
        });
    }
    let filter = filter.join(",");
    EnvFilter::try_new(&filter).map(|_| filter).map_err(|_| Message::GiveLogLevel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_filters_and_the_words_of_python_are_taken() {
        for (text, taken) in [
            ("info", "info"),
            ("DEBUG", "debug"),
            ("WARNING", "warn"),
            ("Critical", "error"),
            ("matome_tasks=debug", "matome_tasks=debug"),
            ("warning, matome_bus=trace", "warn,matome_bus=trace"),
        ] {
            assert_eq!(filter(text).ok().as_deref(), Some(taken));
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        assert!(matches!(filter("infoo"), Err(Message::DidYouMean { name }) if name == "info"));
        for text in ["extremely_loud", "warn,matome_tasks", "matome=loudest", "matome=debug=info"] {
            assert!(matches!(filter(text), Err(Message::GiveLogLevel)), "{text}");
        }
    }
}
