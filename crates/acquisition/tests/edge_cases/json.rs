//! JSON values, 1 to 54.

use crate::case::{Case, as_it_is, file, line, nothing, quarantined, stored};

/// Lines are one source together, so each must differ from all others.
pub fn cases() -> Vec<Case> {
    [numbers(), strings(), encodings(), keys_and_nesting(), sizes(), documents()].into_iter().flatten().collect()
}

fn numbers() -> Vec<Case> {
    let limit = |number, value: &str| line(number, format!(r#"{{"n":{value}}}"#), quarantined(["number_limit"]));
    let bad = |number, value: &str| line(number, format!(r#"{{"n":{value}}}"#), quarantined(["invalid_json"]));
    let exact = |number, value: &str, plain: &str| {
        line(number, format!(r#"{{"n":{value}}}"#), stored([format!(r#"{{"n":{plain}}}"#)]))
    };
    vec![
        as_it_is("1", r#"{"n":12345678901234567890123}"#),
        as_it_is("2", r#"{"n":9007199254740993}"#),
        as_it_is("3", r#"{"n":[9223372036854775808,-9223372036854775809]}"#),
        as_it_is("4", r#"{"n":0.1000000000000000055511151231257827}"#),
        // 5 to 9: stored by value in plain decimals, as the design says; the corpus keeps the spelling.
        exact("5", "1e400", &format!("1{}", "0".repeat(400))),
        exact("6", "1e-400", &format!("0.{}1", "0".repeat(399))),
        exact("7", "1E+2", "100"),
        exact("7, plain", "100", "100"),
        exact("8", "1.0", "1"),
        exact("8, plain", "1", "1"),
        exact("9", "-0", "0"),
        limit("10", "1e1000000"),
        exact("11, at the limit", &"7".repeat(1_000), &"7".repeat(1_000)),
        limit("11", &"7".repeat(1_001)),
        bad("12, NaN", "NaN"),
        bad("12, Infinity", "Infinity"),
        bad("12, -Infinity", "-Infinity"),
        bad("13, 01", "01"),
        bad("13, 1.", "1."),
        bad("13, .5", ".5"),
        bad("13, +1", "+1"),
        bad("13, 0x1F", "0x1F"),
    ]
}

fn strings() -> Vec<Case> {
    vec![
        // 14 and 16: JSONB cannot hold it, so neither database does, as the design says; the corpus stores it.
        line("14", br#"{"s":"\u0000"}"#, quarantined(["nul_character"])),
        as_it_is("15", r#"{"s":"\\u0000"}"#),
        line("16", br#"{"a\u0000b":1}"#, quarantined(["nul_character"])),
        line("17", b"{\"s\":\"a\0b\"}", quarantined(["control_character"])),
        line("18, tab", b"{\"s\":\"a\tb\"}", quarantined(["control_character"])),
        // In NDJSON a newline ends the record, wherever it stands.
        line("18, newline in NDJSON", b"{\"s\":\"a\nb\"}", quarantined(["invalid_json", "invalid_json"])),
        file("18, newline in a document", "a.json", "{\"s\":\"a\nb\"}", "", quarantined(["control_character"])),
        line("19", br#"{"s":"\ud800"}"#, quarantined(["lone_surrogate"])),
        line("20", br#"{"s":"\udc00\ud800"}"#, quarantined(["lone_surrogate"])),
        line("21", br#"{"s":"\ud83d\ude00"}"#, stored(["{\"s\":\"\u{1f600}\"}"])),
        line("21, literal", "{\"s\":\"\u{1f600}\"}", stored(["{\"s\":\"\u{1f600}\"}"])),
        line("22", br#"{"s":"\uFFFE\uFFFF"}"#, stored(["{\"s\":\"\u{fffe}\u{ffff}\"}"])),
    ]
}

fn utf_16(text: &str, mark: bool, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let mark = mark.then_some(0xfeff);
    mark.into_iter().chain(text.encode_utf16()).flat_map(order).collect()
}

fn encodings() -> Vec<Case> {
    let records = "{\"s\":\"\u{8868}\"}\n{\"s\":\"b\"}\n";
    let both = || stored(["{\"s\":\"\u{8868}\"}", r#"{"s":"b"}"#]);
    vec![
        line("23", b"{\"s\":\"\xc3\x28\"}", quarantined(["invalid_utf8"])),
        line("24", b"{\"s\":\"\xc0\x80\"}", quarantined(["invalid_utf8"])),
        line("25", b"{\"s\":\"\xed\xa0\x80\"}", quarantined(["invalid_utf8"])),
        file(
            "26",
            "a.ndjson",
            b"{\"a\":1}\n{\"s\":\"\xe3\x81",
            "",
            stored([r#"{"a":1}"#]).and_quarantined(["invalid_utf8"]),
        ),
        file("27", "a.ndjson", "\u{feff}{\"a\":1}\n", "", stored([r#"{"a":1}"#])),
        file("27, a document", "a.json", "\u{feff}[{\"a\":1}]", "", stored([r#"{"a":1}"#])),
        line("28, at the start of a line", "\u{feff}{\"bom\":1}", stored([r#"{"bom":1}"#])),
        line("28, inside", "{\"bom\":\u{feff}1}", quarantined(["invalid_json"])),
        line("28, in a string", "{\"bom\":\"\u{feff}\"}", stored(["{\"bom\":\"\u{feff}\"}"])),
        file("29, LE with mark", "a.ndjson", utf_16(records, true, u16::to_le_bytes), "", both()),
        file("29, BE with mark", "a.ndjson", utf_16(records, true, u16::to_be_bytes), "", both()),
        file(
            "29, LE declared",
            "a.ndjson",
            utf_16(records, false, u16::to_le_bytes),
            r#","encoding":"utf-16le""#,
            both(),
        ),
        file(
            "29, LE undeclared",
            "a.ndjson",
            utf_16("{\"s\":\"b\"}", false, u16::to_le_bytes),
            "",
            quarantined(["invalid_json"]),
        ),
        file(
            "30, Latin-1 declared",
            "a.ndjson",
            b"{\"s\":\"caf\xe9\"}\n",
            r#","encoding":"iso-8859-1""#,
            stored(["{\"s\":\"caf\u{e9}\"}"]),
        ),
        line("30, Latin-1 undeclared", b"{\"s\":\"caf\xe9\"}", quarantined(["invalid_utf8"])),
    ]
}

fn keys_and_nesting() -> Vec<Case> {
    let keys = |count: usize| {
        let members: Vec<String> = (0..count).map(|n| format!(r#""k{n:05}":{n}"#)).collect();
        format!("{{{}}}", members.join(","))
    };
    let nested = |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    let objects = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    let ten_thousand = keys(10_000);
    vec![
        line("31", br#"{"a":1,"a":2}"#, quarantined(["duplicate_key"])),
        line("32", br#"{"a":1,"a":1}"#, quarantined(["duplicate_key"])),
        line("33", br#"{"a":1,"\u0061":2}"#, quarantined(["duplicate_key"])),
        as_it_is("34", "{\"e\u{301}\":1,\"\u{e9}\":2}"),
        as_it_is("35", r#"{"":1}"#),
        as_it_is("36, at the limit", &format!(r#"{{"{}":1}}"#, "k".repeat(1_024))),
        line("36", format!(r#"{{"{}":1}}"#, "k".repeat(2_048)), quarantined(["key_limit"])),
        as_it_is("37, arrays at the limit", &nested(128)),
        as_it_is("37, objects at the limit", &objects(128)),
        line("37", nested(129), quarantined(["depth"])),
        line("38", "[".repeat(100_000), quarantined(["depth"])),
        line("39", objects(200_000), quarantined(["depth"])),
        line("40", r#"[{"":"#.repeat(250_000), quarantined(["depth"])),
        as_it_is("41, at the limit", &ten_thousand),
        line("41", keys(10_001), quarantined(["keys_limit"])),
        as_it_is("51", r#"{"__proto__":{"x":1},"constructor":2}"#),
        as_it_is("52", r#"{"$serde_json::private::Number":"1"}"#),
        as_it_is("53", r#"{"$ref":"file:///etc/passwd"}"#),
        // The members are sorted, not hashed: no choice of keys makes it slower than another.
        line("54", keys(50_000), quarantined(["keys_limit"])),
    ]
}

fn sizes() -> Vec<Case> {
    const LIMIT: usize = 8 << 20;
    // Three strings, because one of this length is too long itself.
    let record = |size: usize| {
        let half = "x".repeat(4_000_000);
        format!(r#"{{"a":"{half}","b":"{half}","c":"{}"}}"#, "y".repeat(size - 2 * half.len() - 22))
    };
    let (at, past) = (record(LIMIT), record(LIMIT + 1));
    assert_eq!((at.len(), past.len()), (LIMIT, LIMIT + 1));
    vec![
        line("42, at the limit", &at, stored([at.as_str()])),
        line("42", past, quarantined(["record_limit"])),
        // A number that is short as it came and long as it is stored.
        line("42, expanded", format!(r#"{{"n":[{}]}}"#, vec!["1e999"; 8_400].join(",")), quarantined(["record_limit"])),
        line("42, one string", format!(r#"{{"s":"{}"}}"#, "z".repeat((4 << 20) + 1)), quarantined(["string_limit"])),
    ]
}

fn documents() -> Vec<Case> {
    let bad = |number, text: &str| line(number, text, quarantined(["invalid_json"]));
    let scalar = |number, text: &str| line(number, text, quarantined(["not_object"]));
    let first = || stored([r#"{"a":1}"#]);
    vec![
        file("44, NDJSON", "a.ndjson", "", "", nothing()),
        // An empty document is no JSON: an export that broke must not look like one without records.
        file("44, document", "a.json", "", "", nothing().and_failed("document", "the document is empty")),
        file("45, NDJSON", "a.ndjson", " \n\t\r\n", "", nothing()),
        file("45, document", "a.json", " \n", "", nothing().and_failed("document", "the document is empty")),
        scalar("46, null", "null"),
        scalar("46, true", "true"),
        scalar("46, string", r#""x""#),
        scalar("46, array", "[{}]"),
        file("46, elements", "a.json", r#"[{"a":1},2,"x"]"#, "", first().and_quarantined(["not_object"; 2])),
        bad("47, trailing comma", r#"{"a":1,}"#),
        bad("47, comment", r#"{"a":1}// no"#),
        bad("47, comment inside", r#"{"a":1/* no */}"#),
        bad("47, single quotes", "{'a':1}"),
        // One object a line: two on one line are one bad record, kept whole.
        bad("48, NDJSON", "{}{}"),
        // What comes before the place is stored, then the task fails and says so; the corpus quarantines the rest.
        file(
            "48, document",
            "a.json",
            r#"{"a":1}{"b":2}"#,
            "",
            first().and_failed("document", "more after the end of the document"),
        ),
        bad("49, NDJSON", r#"{"a":1} x"#),
        file(
            "49, document",
            "a.json",
            r#"[{"a":1}] x"#,
            "",
            first().and_failed("document", "more after the end of the document"),
        ),
        // A line that ends early can not be told from one that was written so.
        bad("50, NDJSON", r#"{"a":1,"b":"#),
        file("50", "a.json", r#"[{"a":1},{"b":"#, "", first().and_failed("document", "the document ends early")),
    ]
}
