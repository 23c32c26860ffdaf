//! The languages that matome speaks to people.

/// A language of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// English; the default.
    #[default]
    English,
    /// Japanese.
    Japanese,
}

impl Language {
    /// Its tag (BCP 47), as in `Content-Language`.
    pub fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Japanese => "ja",
        }
    }

    /// From the name of a locale (`ja_JP.UTF-8`, `en`, `C`); none when it names another language.
    pub fn of_locale(name: &str) -> Option<Self> {
        let language = name.split(['_', '-', '.', '@']).next().unwrap_or_default();
        match language.to_ascii_lowercase().as_str() {
            "ja" => Some(Self::Japanese),
            "en" | "c" | "posix" => Some(Self::English),
            _ => None,
        }
    }

    /// The best of ours that an `Accept-Language` value asks for (RFC 9110, 12.5.4).
    pub fn of_accept_language(wanted: &str) -> Self {
        let mut best = (Self::default(), 0.0);
        for range in wanted.split(',') {
            let mut parts = range.split(';');
            let tag = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
            let quality = parts
                .find_map(|part| part.trim().strip_prefix("q="))
                .map_or(1.0, |text| text.trim().parse::<f32>().unwrap_or(0.0));
            let language = match tag.split('-').next() {
                Some("ja") => Self::Japanese,
                Some("en") => Self::English,
                _ => continue,
            };
            if quality > best.1 {
                best = (language, quality);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_with_the_highest_quality_wins() {
        for (wanted, language) in [
            ("", Language::English),
            ("ja", Language::Japanese),
            ("ja-JP,ja;q=0.9,en;q=0.8", Language::Japanese),
            ("en-US,ja;q=0.5", Language::English),
            ("fr, ja;q=0.3, en;q=0.2", Language::Japanese),
            ("ja;q=0, *", Language::English),
        ] {
            assert_eq!(Language::of_accept_language(wanted), language, "{wanted}");
        }
    }

    #[test]
    fn a_locale_names_its_language_first() {
        for (name, language) in [
            ("ja_JP.UTF-8", Some(Language::Japanese)),
            ("ja", Some(Language::Japanese)),
            ("en-GB", Some(Language::English)),
            ("C.UTF-8", Some(Language::English)),
            ("de_DE", None),
            ("", None),
        ] {
            assert_eq!(Language::of_locale(name), language, "{name}");
        }
    }
}
