//! Time zones by their names in the IANA database, which is compiled in.

use chrono_tz::{TZ_VARIANTS, Tz};

use crate::field_error::Words;

/// A name that is farther from every zone than this has no "did you mean".
const NEAR: usize = 2;

/// Reads the name of a zone, such as `Asia/Tokyo`; upper and lower case are the same.
///
/// # Errors
/// When no zone has this name: the nearest is suggested, if one is near.
pub fn parse_zone(name: &str) -> Result<Tz, Words> {
    let name = name.trim();
    if let Ok(zone) = name.parse() {
        return Ok(zone);
    }
    let zones = || TZ_VARIANTS.iter().copied();
    if let Some(zone) = zones().find(|zone| zone.name().eq_ignore_ascii_case(name)) {
        return Ok(zone);
    }
    let (hint, hint_in_japanese) = nearest(name)
        .map_or_else(Default::default, |near| (format!(" Did you mean `{near}`?"), format!("`{near}` のことですか。")));
    Err(Words::new(
        format!(
            "`{name}` is no time zone.{hint} Zones have names of the IANA database, such as `Asia/Tokyo`, \
             `Europe/Paris` or `UTC`."
        ),
        format!(
            "`{name}` というタイムゾーンはありません。{hint_in_japanese}IANAの名前を使ってください (例: `Asia/Tokyo`、\
             `Europe/Paris`、`UTC`)。"
        ),
    ))
}

/// The zone whose name, or whose last part, is most like `name`.
fn nearest(name: &str) -> Option<&'static str> {
    let folded = name.to_lowercase().replace(' ', "_");
    // Abbreviations such as JST are near to many and mean none of them.
    if folded.len() < 4 {
        return None;
    }
    let distance = |zone: &str| {
        let zone = zone.to_lowercase();
        let whole = strsim::damerau_levenshtein(&zone, &folded);
        zone.rsplit('/').next().map_or(whole, |city| whole.min(strsim::damerau_levenshtein(city, &folded)))
    };
    let near = TZ_VARIANTS.iter().map(|zone| (distance(zone.name()), zone.name())).min()?;
    (near.0 <= NEAR).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whatever_their_case() {
        for (text, name) in [("Asia/Tokyo", "Asia/Tokyo"), ("europe/paris", "Europe/Paris"), (" UTC ", "UTC")] {
            assert_eq!(parse_zone(text).unwrap().name(), name);
        }
    }

    #[test]
    fn the_nearest_zone_is_suggested_in_both_languages() {
        for (text, near) in
            [("Asia/Tokio", "`Asia/Tokyo`"), ("Tokyo", "`Asia/Tokyo`"), ("America/New York", "`America/New_York`")]
        {
            let words = parse_zone(text).unwrap_err();
            assert!(words.english.contains(&format!("Did you mean {near}?")), "{words}");
            assert!(words.japanese.contains(&format!("{near} のことですか")), "{}", words.japanese);
        }
    }

    #[test]
    fn what_is_near_to_nothing_gets_no_suggestion() {
        for text in ["JST", "+09:00", "", "Moon/Tranquility"] {
            assert!(!parse_zone(text).unwrap_err().english.contains("Did you mean"), "{text}");
        }
    }
}
