//! Which elements of an XML document are its records.

use matome_model::field_error::Words;
use matome_model::say;
use quick_xml::Reader;
use quick_xml::events::Event;

use super::Finding;
use crate::file::XmlPath;

/// How deep records are looked for.
const DEPTH: usize = 5;
/// Different paths that are counted.
const PATHS: usize = 1_000;

/// The shallowest element that comes again.
pub(crate) fn look(text: &str, is_whole: bool) -> Finding {
    let option = "records";
    let counts = counted(text);
    let depth = |path: &str| path.matches('/').count();
    // What is not well-formed may have names that no path can name.
    let again = counts.iter().filter(|(path, count)| *count > 1 && path.parse::<XmlPath>().is_ok());
    let best = again.min_by_key(|(path, count)| (depth(path), usize::MAX - count));
    let Some((path, count)) = best else {
        let words = Words::new(
            "no element comes twice: the children of the root are the records",
            "2回以上現れる要素がありません。ルートの子要素をレコードとします",
        );
        return Finding { option, value: None, words };
    };
    // That is what is read when nothing is said.
    let is_usual = depth(path) == 1 && counts.iter().filter(|(other, _)| depth(other) == 1).count() == 1;
    let value = (!is_usual).then(|| path.as_str().into());
    let words = match is_whole {
        true => say!("{count} elements `{path}`", "要素 `{path}` が {count} 個あります"),
        false => say!(
            "more than {count} elements `{path}`, of which the beginning was looked at",
            "要素 `{path}` が {count} 個を超えてあります。始めの部分だけを調べました"
        ),
    };
    Finding { option, value, words }
}

/// The paths of elements in the order in which they come first, and how often each comes. What is broken ends the text.
fn counted(text: &str) -> Vec<(String, usize)> {
    let mut reader = Reader::from_reader(text.as_bytes());
    let (mut buffer, mut open) = (Vec::new(), Vec::<String>::new());
    let mut counts: Vec<(String, usize)> = Vec::new();
    let mut places = std::collections::HashMap::<String, usize>::new();
    let mut see = |open: &[String]| {
        if open.len() < 2 || open.len() > DEPTH {
            return;
        }
        let path = open.join("/");
        match places.get(&path) {
            Some(place) => counts[*place].1 += 1,
            None if counts.len() < PATHS => {
                places.insert(path.clone(), counts.len());
                counts.push((path, 1));
            }
            None => {}
        }
    };
    loop {
        buffer.clear();
        match reader.read_event_into(&mut buffer) {
            Ok(Event::Start(start)) => {
                open.push(start.name().as_ref().to_owned());
                see(&open);
            }
            Ok(Event::Empty(start)) => {
                open.push(start.name().as_ref().to_owned());
                see(&open);
                open.pop();
            }
            Ok(Event::End(_)) => drop(open.pop()),
            Ok(Event::Eof) | Err(_) => return counts,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_the_shallowest_elements_that_come_again() {
        for (text, wanted) in [
            ("<a><b/><b/></a>", None),
            ("<a><meta/><b><c/><c/></b><b/></a>", Some("a/b")),
            ("<rss><channel><title/><item/><item/><item/></channel></rss>", Some("rss/channel/item")),
            ("<a><x:b/><x:b/><c/></a>", Some("a/x:b")),
            ("<a><b/></a>", None),
            ("<a><h/><b><c/></b><b><c", Some("a/b")),
            ("", None),
        ] {
            let value = look(text, true).value;
            assert_eq!(value.as_ref().and_then(|value| value.as_str()), wanted, "{text}");
        }
    }
}
