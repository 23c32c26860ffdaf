//! A page of the list of a store: XML that says which objects there are, and how to ask for the next page.

use matome_model::field_error::Words;
use matome_model::say;
use quick_xml::Reader;
use quick_xml::events::Event;

/// Elements within each other, of which such a list has four.
const DEPTH_LIMIT: usize = 16;

/// Some of the objects of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order of the store.
    pub objects: Vec<Object>,
    /// What the next page is asked for with.
    pub next: Option<String>,
}

/// What a list says of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub key: String,
    /// Bytes that it has.
    pub size: u64,
    /// What names its version, as it came.
    pub version: String,
}

/// Hands the text of each element to `take` where the element ends, with the names of those that it is in and its own, joined by `/`.
pub(super) fn each_element(xml: &[u8], mut take: impl FnMut(&str, &str) -> Result<(), Words>) -> Result<(), Words> {
    let no_xml = |why: &dyn std::fmt::Display| {
        say!("the answer is not the XML that was asked for: {why}", "応答が求めた XML ではありません: {why}")
    };
    let xml = std::str::from_utf8(xml).map_err(|error| no_xml(&error))?;
    let mut reader = Reader::from_str(xml);
    reader.config_mut().expand_empty_elements = true;
    let (mut path, mut starts, mut text) = (String::new(), Vec::new(), String::new());
    let mut has_root = false;
    loop {
        match reader.read_event().map_err(|error| no_xml(&error))? {
            Event::Start(start) => {
                if starts.len() >= DEPTH_LIMIT {
                    return Err(no_xml(&"too many elements within each other"));
                }
                has_root = true;
                starts.push(path.len());
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(start.local_name().as_ref());
                text.clear();
            }
            Event::End(_) => {
                take(&path, &text)?;
                path.truncate(starts.pop().unwrap_or_default());
                text.clear();
            }
            Event::Text(part) => text.push_str(&part.xml10_content()),
            Event::CData(part) => text.push_str(&part.xml10_content()),
            Event::GeneralRef(reference) => {
                let name = reference.xml10_content();
                let character = match reference.resolve_char_ref().map_err(|error| no_xml(&error))? {
                    Some(character) => character,
                    None => match name.as_ref() {
                        "lt" => '<',
                        "gt" => '>',
                        "amp" => '&',
                        "apos" => '\'',
                        "quot" => '"',
                        _ => return Err(no_xml(&format!("`&{name};` is no entity"))),
                    },
                };
                text.push(character);
            }
            Event::Eof if has_root && starts.is_empty() => return Ok(()),
            Event::Eof => return Err(no_xml(&"it ends too early")),
            _ => {}
        }
    }
}

/// The size of an object, as a list says it.
pub(super) fn size_of(text: &str) -> Result<u64, Words> {
    text.trim().parse().map_err(|_| {
        say!("the list has an object whose size is `{text}`", "一覧に、大きさが `{text}` のオブジェクトがあります")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(xml: &[u8]) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        let read = each_element(xml, |path, text| {
            found.push(format!("{path}={text}"));
            Ok(())
        });
        read.map(|()| found).map_err(|words| words.english)
    }

    #[test]
    fn each_element_is_told_with_its_path_and_text() {
        let xml = "<?xml version=\"1.0\"?><l xmlns=\"u\"><c><k>a &amp; &#x6771;</k><e/></c><k><![CDATA[<b>]]></k></l>";
        assert_eq!(elements(xml.as_bytes()).unwrap(), ["l/c/k=a & 東", "l/c/e=", "l/c=", "l/k=<b>", "l="]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let deep = "<a>".repeat(20);
        let cases = ["", "<a>", "<a></b>", "<a>&x;</a>", "<a>&#0;</a>", deep.as_str()];
        for xml in cases.iter().map(|xml| xml.as_bytes()).chain([b"<a>\xff</a>".as_slice()]) {
            let error = elements(xml).unwrap_err();
            assert!(error.contains("not the XML"), "{error}");
        }
    }
}
