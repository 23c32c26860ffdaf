//! CSV, 81 to 96.

use crate::case::{Case, failed, file, nothing, stored};

pub fn cases() -> Vec<Case> {
    let csv = |number, text: &str, expected| file(number, "a.csv", text, "", expected);
    let with = |number, text: &str, options, expected| file(number, "a.csv", text, options, expected);
    let one = || stored([r#"{"a":"1","b":"2"}"#]);
    let wide = vec!["c"; 100_000].join(",");
    let mut open = b"a,b\n1,2\n3,\"".to_vec();
    open.resize(open.len() + (17 << 20), b'x');
    vec![
        csv("81", "a,b\n\"1\n\",2\n", stored([r#"{"a":"1\n","b":"2"}"#])),
        csv("82", "a,b\n\"1\"\"\",2\n", stored([r#"{"a":"1\"","b":"2"}"#])),
        csv("83", "a,b\n1,x \"y\" z\n\"1\"x,2\n1,2\n", one().and_quarantined(["csv_quote"; 2])),
        csv("84", "a,b\n1\n1,2\n1,2,3\n", one().and_quarantined(["csv_width"; 2])),
        csv("85", "a,b\n1,2\n3,\"4\n5,6\n", one().and_quarantined(["csv_quote"])),
        file("85, beyond the limit", "a.csv", open, "", one().and_quarantined(["line_limit"])),
        csv("86", "a,b,a\n1,2,3\n", failed("document", "`a` twice")),
        csv("87", "a,b,\n1,2,3\n", stored([r#"{"a":"1","b":"2","column_3":"3"}"#])),
        csv("88", "a,b\n", nothing()),
        csv("88, without its end", "a,b", nothing()),
        csv("89", "\u{feff}\"a\",b\n1,2\n", one()),
        with("90, semicolon", "a;b\n1;2\n", r#","delimiter":";""#, one()),
        with("90, tab", "a\tb\n1\t2\n", r#","delimiter":"\t""#, one()),
        file("90, tab by its name", "a.tsv", "a\tb\n1\t2\n", "", one()),
        with("90, pipe", "a|b\n1|2\n", r#","delimiter":"|""#, one()),
        csv("91", "a,b\r1,2\r", one()),
        csv(
            "92",
            "a,b\n=HYPERLINK(1),+1\n-1,@x\n",
            stored([r#"{"a":"=HYPERLINK(1)","b":"+1"}"#, r#"{"a":"-1","b":"@x"}"#]),
        ),
        csv("93", "a,b\n00123,2\n", stored([r#"{"a":"00123","b":"2"}"#])),
        with("93, inferred", "a,b\n00123,2\n", r#","types":"infer""#, stored([r#"{"a":"00123","b":2}"#])),
        with(
            "94",
            "a;b\n1,234.5;1.234,5\n",
            r#","delimiter":";","types":"infer""#,
            stored([r#"{"a":"1,234.5","b":"1.234,5"}"#]),
        ),
        // A header of so many columns is no header.
        csv("95, header", &format!("{wide}\n1,2\n"), failed("document", "more than 10000 columns")),
        csv("95, row", &format!("a,b\n{wide}\n1,2\n"), one().and_quarantined(["csv_width"])),
        csv("96", "a\n1\n\n2\n", stored([r#"{"a":"1"}"#, r#"{"a":""}"#, r#"{"a":"2"}"#])),
        csv("96, wider", "a,b\n\n1,2\n\n", one()),
    ]
}
