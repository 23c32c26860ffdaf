//! The JSON cases of bad and odd input: what is stored, in which form, and what is quarantined for which reason.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use matome_model::canonical::QuarantineReason::{self, *};
use matome_model::canonical::{Canonicaliser, Limits, ObjectWriter, Rejected};

fn canonical(raw: &[u8]) -> Result<String, Rejected> {
    let mut canonicaliser = Canonicaliser::default();
    canonicaliser.canonicalise(raw).map(|c| c.text.to_owned())
}

fn reason(raw: impl AsRef<[u8]>) -> Option<QuarantineReason> {
    canonical(raw.as_ref()).err().map(|rejected| rejected.reason)
}

fn nested(depth: usize) -> String {
    format!("{}{}{}{}", r#"{"a":"#, "[".repeat(depth - 1), "]".repeat(depth - 1), "}")
}

#[test]
fn accepted_records_have_one_canonical_text() {
    let cases: &[(&str, &str)] = &[
        ("{}", "{}"),
        (" \t\r\n{ \n}\t ", "{}"),
        (r#"{ "b" : [ 1 , { "d":null , "c":true } ] , "a" : false }"#, r#"{"a":false,"b":[1,{"c":true,"d":null}]}"#),
        (r#"{"a":[],"b":{},"c":[[],{}]}"#, r#"{"a":[],"b":{},"c":[[],{}]}"#),
        // numbers
        (r#"{"n":12345678901234567890123}"#, r#"{"n":12345678901234567890123}"#),
        (r#"{"n":9007199254740993}"#, r#"{"n":9007199254740993}"#),
        (r#"{"n":[9223372036854775808,-9223372036854775809]}"#, r#"{"n":[9223372036854775808,-9223372036854775809]}"#),
        (r#"{"n":0.1000000000000000055511151231257827}"#, r#"{"n":0.1000000000000000055511151231257827}"#),
        (r#"{"n":[1E+2,1.0,-0,-0.0,1e-3,0E5]}"#, r#"{"n":[100,1,0,0,0.001,0]}"#),
        // strings
        (r#"{"s":"\\u0000"}"#, r#"{"s":"\\u0000"}"#),
        (r#"{"s":"\ud83d\ude00"}"#, r#"{"s":"😀"}"#),
        (r#"{"s":"\uFFFE\uFFFF"}"#, "{\"s\":\"\u{fffe}\u{ffff}\"}"),
        (r#"{"s":"\u0041\/\u002f\u0022\u005C\u007f"}"#, "{\"s\":\"A//\\\"\\\\\u{7f}\"}"),
        (r#"{"s":"\u0008\u000C\u000a\u000D\u0009\u001F\u0001"}"#, r#"{"s":"\b\f\n\r\t\u001f\u0001"}"#),
        (r#"{"s":"\b\f\n\r\t"}"#, r#"{"s":"\b\f\n\r\t"}"#),
        // keys
        ("{\"e\u{301}\":1,\"\u{e9}\":2}", "{\"e\u{301}\":1,\"\u{e9}\":2}"),
        (r#"{"a":2,"":1}"#, r#"{"":1,"a":2}"#),
        (r#"{"constructor":2,"__proto__":1}"#, r#"{"__proto__":1,"constructor":2}"#),
        (r#"{"$serde_json::private::Number":"1"}"#, r#"{"$serde_json::private::Number":"1"}"#),
        (r##"{"$ref":"#/a"}"##, r##"{"$ref":"#/a"}"##),
        // Sorted by value, not by escaped text: U+0001, newline, quote, `A`, backslash, `a`.
        (r#"{"a":6,"\\":5,"A":4,"\"":3,"\n":2,"\u0001":1}"#, r#"{"\u0001":1,"\n":2,"\"":3,"A":4,"\\":5,"a":6}"#),
        (r#"{"ab":3,"a\"":2,"a":1}"#, r#"{"a":1,"a\"":2,"ab":3}"#),
        // U+FFFF sorts before U+10000, other than in UTF-16.
        ("{\"\u{10000}\":2,\"\u{ffff}\":1}", "{\"\u{ffff}\":1,\"\u{10000}\":2}"),
        (
            r#"{"longer_than_8_b":2,"longer_than_8_a":1,"longer_than_8":0}"#,
            r#"{"longer_than_8":0,"longer_than_8_a":1,"longer_than_8_b":2}"#,
        ),
        (
            r#"{"z":{"y":1,"x":{"w":2,"v":3}},"a":[{"c":1,"b":2}]}"#,
            r#"{"a":[{"b":2,"c":1}],"z":{"x":{"v":3,"w":2},"y":1}}"#,
        ),
    ];
    for (raw, text) in cases {
        assert_eq!(canonical(raw.as_bytes()).as_deref(), Ok(*text), "{raw}");
        assert_eq!(canonical(text.as_bytes()).as_deref(), Ok(*text));
    }
}

#[test]
fn extreme_exponents_are_written_out_exactly() {
    let big = canonical(br#"{"n":1e400}"#).unwrap();
    assert_eq!(big, format!(r#"{{"n":1{}}}"#, "0".repeat(400)));
    let small = canonical(br#"{"n":1e-400}"#).unwrap();
    assert_eq!(small, format!(r#"{{"n":0.{}1}}"#, "0".repeat(399)));
}

#[test]
fn refused_records_name_their_reason() {
    let cases: &[(&[u8], QuarantineReason)] = &[
        (b"", InvalidJson),
        (b" \n ", InvalidJson),
        (b"{", InvalidJson),
        (b"{}{}", InvalidJson),
        (b"{} x", InvalidJson),
        (b"{}]", InvalidJson),
        (b"\xef\xbb\xbf{}", InvalidJson),
        (br#"{"a":1,}"#, InvalidJson),
        (br#"{,}"#, InvalidJson),
        (br#"{"a":[1,]}"#, InvalidJson),
        (br#"{"a":[,1]}"#, InvalidJson),
        (br#"{"a":[1 2]}"#, InvalidJson),
        (br#"{"a":[1}"#, InvalidJson),
        (br#"{"a":{]}"#, InvalidJson),
        (br#"{"a" 1}"#, InvalidJson),
        (br#"{"a":}"#, InvalidJson),
        (br#"{a:1}"#, InvalidJson),
        (b"{'a':1}", InvalidJson),
        (br#"{1:1}"#, InvalidJson),
        (br#"{"a":1 /* no */}"#, InvalidJson),
        (br#"{"a":"#, InvalidJson),
        (br#"{"a":"x"#, InvalidJson),
        (br#"{"a":"x\"#, InvalidJson),
        (br#"{"a":"\u12"#, InvalidJson),
        (br#"{"a":"\u12g4"}"#, InvalidJson),
        (br#"{"a":"\u+123"}"#, InvalidJson),
        (br#"{"a":"\x41"}"#, InvalidJson),
        (br#"{"a":tru}"#, InvalidJson),
        (br#"{"a":True}"#, InvalidJson),
        (br#"{"a":truex}"#, InvalidJson),
        (br#"{"a":NaN}"#, InvalidJson),
        (br#"{"a":Infinity}"#, InvalidJson),
        (br#"{"a":-Infinity}"#, InvalidJson),
        (br#"{"a":01}"#, InvalidJson),
        (br#"{"a":1.}"#, InvalidJson),
        (br#"{"a":.5}"#, InvalidJson),
        (br#"{"a":+1}"#, InvalidJson),
        (br#"{"a":0x1F}"#, InvalidJson),
        (br#"{"a":1e}"#, InvalidJson),
        (b"{\"a\":1,\x0c\"b\":2}", InvalidJson),
        (b"null", NotObject),
        (b"true", NotObject),
        (br#" "x" "#, NotObject),
        (b"12", NotObject),
        (br#"[{"a":1}]"#, NotObject),
        (b"nul", InvalidJson),
        (br#"{"a":1,"a":2}"#, DuplicateKey),
        (br#"{"a":1,"a":1}"#, DuplicateKey),
        (br#"{"a":1,"\u0061":2}"#, DuplicateKey),
        (br#"{"b":1,"a":1,"b":2}"#, DuplicateKey),
        (br#"{"\n":1,"a":1,"\u000a":2}"#, DuplicateKey),
        (br#"{"x":[{"c":1,"b":1,"c":2}]}"#, DuplicateKey),
        (br#"{"a":"\u0000"}"#, NulCharacter),
        (br#"{"x\u0000":1}"#, NulCharacter),
        (b"{\"a\":\"\x00\"}", ControlCharacter),
        (b"{\"a\":\"\t\"}", ControlCharacter),
        (b"{\"a\":\"\n\"}", ControlCharacter),
        (b"{\"a\nb\":1}", ControlCharacter),
        (br#"{"a":"\ud800"}"#, LoneSurrogate),
        (br#"{"a":"\udc00\ud800"}"#, LoneSurrogate),
        (br#"{"a":"\ud800\ud800"}"#, LoneSurrogate),
        (br#"{"a":"\ud800\n"}"#, LoneSurrogate),
        (br#"{"\udfff":1}"#, LoneSurrogate),
        (b"{\"a\":\"\xc3\x28\"}", InvalidUtf8),
        (b"{\"a\":\"\xc0\x80\"}", InvalidUtf8),
        (b"{\"a\":\"\xed\xa0\x80\"}", InvalidUtf8),
        (b"{\"a\":\"\xe3\x81", InvalidUtf8),
        (b"{\"a\":\"caf\xe9\"}", InvalidUtf8),
        (b"\xff\xfe{\x00}\x00", InvalidUtf8),
    ];
    for (raw, expected) in cases {
        let shown = String::from_utf8_lossy(raw);
        let rejected = canonical(raw).expect_err(&shown);
        assert_eq!(rejected.reason, *expected, "{shown}: {rejected}");
        assert!(rejected.offset <= raw.len(), "{shown}");
        assert!(!rejected.detail.english.chars().any(char::is_control), "{shown}");
    }
}

#[test]
fn number_of_a_thousand_digits_fits_and_one_more_does_not() {
    let fits = ["9".repeat(1000), "1e999".into(), "1e-999".into(), "-1e999".into()];
    for number in fits {
        assert_eq!(reason(format!(r#"{{"n":{number}}}"#)), None, "{number}");
    }
    let too_long = ["9".repeat(1001), "1e1000".into(), "1e-1000".into(), "1e10000".into(), "1e1000000".into()];
    for number in too_long {
        let raw = format!(r#"{{"n":{number}}}"#);
        assert_eq!(reason(raw), Some(NumberLimit), "{number}");
    }
}

#[test]
fn depth_128_fits_and_129_does_not() {
    assert_eq!(reason(nested(128)), None);
    assert_eq!(reason(nested(129)), Some(Depth));
}

#[test]
fn hostile_nesting_stops_at_the_first_level_too_deep() {
    let objects = r#"{"a":"#.repeat(200_000) + "1" + &"}".repeat(200_000);
    for (raw, offset) in [("[".repeat(250_000), 128), (objects, 128 * 5), (r#"[{"":"#.repeat(250_000), 64 * 5)] {
        let rejected = canonical(raw.as_bytes()).unwrap_err();
        assert_eq!((rejected.reason, rejected.offset), (Depth, offset));
    }
}

#[test]
fn record_of_8_mib_fits_and_one_byte_more_does_not() {
    let limit = Limits::default().record_bytes;
    let half = "x".repeat(limit / 2 - 16);
    let mut raw = format!(r#"{{"a":"{half}","b":"{half}"}}"#);
    raw.push_str(&" ".repeat(limit - raw.len()));
    assert_eq!(reason(&raw), None);
    raw.push(' ');
    assert_eq!(reason(&raw), Some(RecordLimit));
}

#[test]
fn numbers_written_out_count_towards_the_record() {
    // 1.6 MB of input that would be 260 MB of text.
    let raw = format!(r#"{{"n":[1e999{}]}}"#, ",1e999".repeat(260_000));
    assert_eq!(reason(raw), Some(RecordLimit));

    let limits = Limits { record_bytes: 17, ..Limits::default() };
    let mut canonicaliser = Canonicaliser::new(limits);
    let fits = canonicaliser.canonicalise(br#"{"n":[1,1e6]}"#).unwrap();
    assert_eq!(fits.text.len(), 17);
    let rejected = canonicaliser.canonicalise(br#"{"n":[1,1e7]}"#).unwrap_err();
    assert_eq!(rejected.reason, RecordLimit);
}

#[test]
fn keys_and_strings_are_measured_unescaped() {
    let key = |len: usize| format!(r#"{{"{}":1}}"#, r"\u0041".repeat(len));
    assert_eq!(reason(key(1024)), None);
    assert_eq!(reason(key(1025)), Some(KeyLimit));
    assert_eq!(reason(format!(r#"{{"{}":1}}"#, r"\n".repeat(1024))), None);
    assert_eq!(reason(format!(r#"{{"{}":1}}"#, "k".repeat(2048))), Some(KeyLimit));

    let string = |len: usize| format!(r#"{{"s":"{}"}}"#, "x".repeat(len));
    assert_eq!(reason(string(4 << 20)), None);
    assert_eq!(reason(string((4 << 20) + 1)), Some(StringLimit));
}

#[test]
fn ten_thousand_keys_fit_and_one_more_does_not() {
    let object = |keys: usize| {
        // Descending, so that all of them must be put in order.
        let members: Vec<_> = (0..keys).rev().map(|i| format!(r#""key_{i:05}":{i}"#)).collect();
        format!("{{{}}}", members.join(","))
    };
    let text = canonical(object(10_000).as_bytes()).unwrap();
    assert!(text.starts_with(r#"{"key_00000":0,"key_00001":1,"#));
    assert_eq!(text.len(), object(10_000).len());
    assert_eq!(reason(object(10_001)), Some(KeysLimit));
}

#[test]
fn rejection_says_what_where_and_what_to_do() {
    let rejected = canonical(br#"{"b":1,"a":2,"b":3}"#).unwrap_err();
    assert_eq!(
        rejected.to_string(),
        "key `b` appears twice in one object, at byte 13; give each key of an object once"
    );
    let rejected = canonical(br#"{"a":1,}"#).unwrap_err();
    assert_eq!(
        rejected.to_string(),
        "found `}` where a key in double quotes was expected, at byte 7; send one JSON object (RFC 8259) per record"
    );
}

#[test]
fn canonicaliser_goes_on_after_a_rejection() {
    let mut canonicaliser = Canonicaliser::default();
    assert!(canonicaliser.canonicalise(br#"{"b":[{"z":1,"#).is_err());
    let next = canonicaliser.canonicalise(br#"{"a":1}"#).unwrap();
    assert_eq!(next.text, r#"{"a":1}"#);
}

#[test]
fn hash_is_sha_256_of_the_text() {
    let mut canonicaliser = Canonicaliser::default();
    let empty = canonicaliser.canonicalise(b"{ }").unwrap();
    assert_eq!(empty.hash_hex(), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
}

#[test]
fn written_rows_come_back_by_value() {
    let mut out = Vec::new();
    let mut row = ObjectWriter::begin(&mut out);
    row.string("名前", "a\"b\\c\u{1}\n\t😀");
    row.raw("n", "1.50");
    row.string("", "");
    row.end();
    let text = canonical(&out).unwrap();
    assert_eq!(text, "{\"\":\"\",\"n\":1.5,\"名前\":\"a\\\"b\\\\c\\u0001\\n\\t😀\"}");
}
