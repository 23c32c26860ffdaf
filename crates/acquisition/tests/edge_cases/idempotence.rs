//! What reading again adds, 129 to 134. A row that replaces another of its key is shown with its version, as `#2`.

use crate::case::{Case, Input, Outcome, quarantined, stored};

/// Contents of a file, one read after the other, each record by `id`.
fn reads(number: &'static str, contents: Vec<&'static str>, expected: Outcome) -> Case {
    Case { number, input: Input::Reads { contents, options: r#","key":"id""# }, expected }
}

pub fn cases() -> Vec<Case> {
    const PAGE: &str = "{\"id\":1,\"v\":\"a\"}\n{\"id\":2,\"v\":\"b\"}\n";
    let page = || stored([r#"{"id":1,"v":"a"}"#, r#"{"id":2,"v":"b"}"#]);
    let without = "{\"v\":1}\n{\"id\":null}\n{\"id\":{\"a\":1}}\n{\"id\":[1]}\n";
    let forms =
        "{\"id\":1,\"v\":\"a\"}\n{\"id\":1.0,\"v\":\"b\"}\n{\"id\":\"1\",\"v\":\"c\"}\n{\"id\":10e-1,\"v\":\"d\"}\n";
    vec![
        reads("129", vec![PAGE, PAGE, PAGE], page()),
        reads("129, in another order", vec![PAGE, "{\"id\":2,\"v\":\"b\"}\n{\"id\":1,\"v\":\"a\"}\n"], page()),
        reads("129, written in another way", vec![PAGE, "{ \"v\" : \"a\", \"id\" : 1.00 }\n"], page()),
        reads(
            "130",
            vec!["{\"id\":1,\"v\":\"a\"}\n", "{\"id\":1,\"v\":\"b\"}\n", "{\"id\":1,\"v\":\"a\"}\n"],
            stored([r#"{"id":1,"v":"a"}"#, r#"{"id":1,"v":"b"}#2"#, r#"{"id":1,"v":"a"}#3"#]),
        ),
        reads(
            "131",
            vec!["{\"id\":1,\"v\":\"a\"}\n{\"id\":2,\"v\":\"a\"}\n"],
            stored([r#"{"id":1,"v":"a"}"#, r#"{"id":2,"v":"a"}"#]),
        ),
        reads("132", vec![without], quarantined(["key"; 4])),
        reads(
            "133",
            vec!["{\"id\":1,\"v\":\"a\"}\n{\"id\":1,\"v\":\"b\"}\n"],
            stored([r#"{"id":1,"v":"a"}"#, r#"{"id":1,"v":"b"}#2"#]),
        ),
        // The forms of a number are one key, as they are one value; a text is another.
        reads(
            "134",
            vec![forms],
            stored([r#"{"id":1,"v":"a"}"#, r#"{"id":1,"v":"b"}#2"#, r#"{"id":"1","v":"c"}"#, r#"{"id":1,"v":"d"}#3"#]),
        ),
    ]
}
