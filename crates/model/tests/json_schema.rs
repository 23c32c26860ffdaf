//! What each keyword of JSON Schema 2020-12 means here: records that are valid under a schema, and records that
//! are not, with the place and the keyword that are told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use matome_model::canonical::Canonicaliser;
use matome_model::validation::{Judge, Policy, Rules, Validation};

/// A schema for `x` of a record, valid values of it, invalid ones with `pointer keyword` beneath it.
type Case = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    // Types and fixed values.
    (r#"{"type":"integer"}"#, &["1", "1.0", "1e3", "-0"], &[("1.5", " type"), ("\"1\"", " type"), ("null", " type")]),
    (r#"{"type":"number"}"#, &["1", "1.5"], &[("true", " type")]),
    (r#"{"type":["string","null"]}"#, &["\"\"", "null"], &[("0", " type"), ("[]", " type")]),
    (r#"{"type":["object","array","boolean"]}"#, &["{}", "[]", "false"], &[("null", " type")]),
    (
        r#"{"enum":[1,"a",{"b":[null]}]}"#,
        &["1.0", "\"a\"", r#"{"b":[null]}"#],
        &[("\"1\"", " enum"), (r#"{"b":[]}"#, " enum")],
    ),
    (r#"{"const":0}"#, &["0", "0.0", "-0"], &[("false", " const"), ("\"0\"", " const")]),
    (r#"{"const":{"a":1,"b":2}}"#, &[r#"{"b":2,"a":1.0}"#], &[(r#"{"a":1}"#, " const")]),
    // Numbers.
    (r#"{"minimum":2}"#, &["2", "2.5", "\"1\""], &[("1.999999999999999999999", " minimum")]),
    (r#"{"exclusiveMinimum":2}"#, &["2.000000000000000000001"], &[("2", " exclusiveMinimum")]),
    (r#"{"maximum":18446744073709551616}"#, &["18446744073709551616"], &[("18446744073709551617", " maximum")]),
    (r#"{"exclusiveMaximum":-0.1}"#, &["-0.2"], &[("-0.1", " exclusiveMaximum"), ("0", " exclusiveMaximum")]),
    (r#"{"multipleOf":0.01}"#, &["19.99", "0", "-7", "1e300"], &[("0.001", " multipleOf")]),
    // Strings: characters, not bytes.
    (
        r#"{"minLength":2,"maxLength":3}"#,
        &["\"日本\"", "\"abc\"", "1"],
        &[("\"語\"", " minLength"), ("\"🗾🗾🗾🗾\"", " maxLength")],
    ),
    (r#"{"pattern":"^a+$"}"#, &["\"aa\"", "7"], &[("\"ab\"", " pattern"), ("\"\"", " pattern")]),
    (r#"{"format":"date","contentEncoding":"base64"}"#, &["\"no date\""], &[]),
    // Arrays.
    (r#"{"minItems":1,"maxItems":2}"#, &["[1]", "[1,2]", "{}"], &[("[]", " minItems"), ("[1,2,3]", " maxItems")]),
    (
        r#"{"uniqueItems":true}"#,
        &["[1,\"1\",[1],{\"a\":1}]", "[]"],
        &[("[1,1.0]", " uniqueItems"), (r#"[{"a":1,"b":2},{"b":2,"a":1}]"#, " uniqueItems")],
    ),
    (r#"{"uniqueItems":false}"#, &["[1,1]"], &[]),
    (
        r#"{"prefixItems":[{"type":"string"},{"type":"integer"}],"items":false}"#,
        &["[]", "[\"a\"]", "[\"a\",1]"],
        &[("[1]", "/0 type"), ("[\"a\",1,2]", "/2 items")],
    ),
    (r#"{"items":{"minimum":0}}"#, &["[0,1]"], &[("[0,-1]", "/1 minimum")]),
    (r#"{"contains":{"const":1}}"#, &["[0,1]"], &[("[]", " contains"), ("[2]", " contains")]),
    (r#"{"contains":{"const":1},"minContains":0,"maxContains":1}"#, &["[]", "[1]"], &[("[1,1]", " contains")]),
    (r#"{"minContains":2}"#, &["[]"], &[]),
    // Objects.
    (
        r#"{"minProperties":1,"maxProperties":1}"#,
        &[r#"{"a":1}"#],
        &[("{}", " minProperties"), (r#"{"a":1,"b":2}"#, " maxProperties")],
    ),
    (r#"{"required":["a"]}"#, &[r#"{"a":null}"#, "[]"], &[("{}", " required")]),
    (
        r#"{"dependentRequired":{"a":["b"]}}"#,
        &["{}", r#"{"b":1}"#, r#"{"a":1,"b":1}"#],
        &[(r#"{"a":1}"#, " dependentRequired")],
    ),
    (
        r#"{"dependentSchemas":{"a":{"maxProperties":1}}}"#,
        &[r#"{"a":1}"#, r#"{"b":1,"c":1}"#],
        &[(r#"{"a":1,"b":1}"#, " maxProperties")],
    ),
    (r#"{"properties":{"a/b":{"type":"integer"}}}"#, &["{}", r#"{"a/b":1}"#], &[(r#"{"a/b":"x"}"#, "/a~1b type")]),
    (
        r#"{"properties":{"a":true},"patternProperties":{"^x":{"type":"string"}},"additionalProperties":{"type":"integer"}}"#,
        &[r#"{"a":[],"xy":"s","b":1}"#],
        &[(r#"{"xy":1}"#, "/xy type"), (r#"{"b":"s"}"#, "/b type")],
    ),
    (
        r#"{"properties":{"a":true},"additionalProperties":false}"#,
        &[r#"{"a":1}"#],
        &[(r#"{"b":1}"#, "/b additionalProperties")],
    ),
    (r#"{"propertyNames":{"maxLength":2}}"#, &[r#"{"ab":1}"#], &[(r#"{"abc":1}"#, " propertyNames")]),
    (r#"{"properties":{"a":false}}"#, &["{}"], &[(r#"{"a":1}"#, "/a properties")]),
    // Combinations.
    (r#"{"allOf":[{"minimum":1},{"maximum":2}]}"#, &["1", "2"], &[("0", " minimum"), ("3", " maximum")]),
    (r#"{"anyOf":[{"type":"string"},{"minimum":2}]}"#, &["\"a\"", "2"], &[("1", " anyOf")]),
    (r#"{"oneOf":[{"multipleOf":2},{"multipleOf":3}]}"#, &["2", "3"], &[("6", " oneOf"), ("5", " oneOf")]),
    (r#"{"not":{"type":"string"}}"#, &["1"], &[("\"\"", " not")]),
    (r#"{"if":{"const":1},"then":false,"else":{"type":"string"}}"#, &["\"a\""], &[("1", " then"), ("2", " type")]),
    (r#"{"if":{"const":1}}"#, &["1", "2"], &[]),
    (r#"{"then":false,"else":false}"#, &["1"], &[]),
    // What other keywords have not looked at.
    (
        r#"{"allOf":[{"properties":{"a":true}}],"unevaluatedProperties":false}"#,
        &[r#"{"a":1}"#],
        &[(r#"{"a":1,"b":1}"#, "/b unevaluatedProperties")],
    ),
    (
        r#"{"anyOf":[{"properties":{"a":{"const":1}},"required":["a"]},{"properties":{"b":true}}],"unevaluatedProperties":false}"#,
        &[r#"{"a":1,"b":1}"#, r#"{"b":1}"#],
        &[(r#"{"a":2}"#, "/a unevaluatedProperties")],
    ),
    (
        r#"{"if":{"required":["a"]},"then":{"properties":{"a":true,"b":true}},"unevaluatedProperties":{"type":"null"}}"#,
        &[r#"{"a":1,"b":1}"#, r#"{"b":null}"#],
        &[(r#"{"b":1}"#, "/b type")],
    ),
    (
        r#"{"not":{"not":{"properties":{"a":true}}},"unevaluatedProperties":false}"#,
        &["{}"],
        &[(r#"{"a":1}"#, "/a unevaluatedProperties")],
    ),
    (
        r#"{"prefixItems":[true],"contains":{"type":"string"},"unevaluatedItems":false}"#,
        &["[1,\"a\"]"],
        &[("[1,\"a\",2]", "/2 unevaluatedItems")],
    ),
    (r#"{"items":true,"unevaluatedItems":false}"#, &["[1,2]"], &[]),
    // References.
    (
        r##"{"$ref":"#/$defs/positive","maximum":9,"$defs":{"never":true}}"##,
        &["1"],
        &[("0", " exclusiveMinimum"), ("10", " maximum")],
    ),
    (r##"{"$ref":"#positive"}"##, &["1"], &[("0", " exclusiveMinimum")]),
    (r##"{"$ref":"#/$defs/a~1b%25"}"##, &["null"], &[("0", " type")]),
    (r##"{"$ref":"#/$defs/tree"}"##, &["[]", "[[],[[]]]"], &[("[[1]]", "/0/0 type")]),
    ("true", &["1"], &[]),
    ("false", &[], &[("1", " properties")]),
    (
        r#"{"title":"t","description":"d","default":1,"examples":[1],"deprecated":true,"readOnly":true,"$comment":"c","x-ours":1}"#,
        &["null"],
        &[],
    ),
];

const DEFINITIONS: &str = r##""$defs":{"positive":{"$anchor":"positive","exclusiveMinimum":0},"a/b%":{"type":"null"},
    "tree":{"type":"array","items":{"$ref":"#/$defs/tree"}}}"##;

#[test]
fn keywords_mean_what_the_standard_says() {
    for (schema, valid, invalid) in CASES {
        let schema = format!(
            r#"{{"$schema":"https://json-schema.org/draft/2020-12/schema","properties":{{"x":{schema}}},{DEFINITIONS}}}"#
        );
        let validation = match Validation::new(Some(&schema), Rules::default(), Policy::Quarantine) {
            Ok(validation) => Arc::new(validation),
            Err(errors) => panic!("{schema}: {errors:?}"),
        };
        let judge = |value: &str| {
            let mut canonicaliser = Canonicaliser::default();
            let record = format!("{{\"x\":{value}}}");
            let canonical = canonicaliser.canonicalise(record.as_bytes()).unwrap();
            Judge::new(Arc::clone(&validation), true).judge(canonical.text, &canonical.hash).unwrap()
        };
        for value in *valid {
            assert_eq!(judge(value), [], "{schema} {value}");
        }
        for (value, expected) in *invalid {
            let found = judge(value);
            let told: Vec<String> = found
                .iter()
                .map(|found| format!("{} {}", &found.pointer["/x".len().min(found.pointer.len())..], found.keyword))
                .collect();
            assert_eq!(told, [*expected], "{schema} {value}: {found:?}");
        }
    }
}

#[test]
fn a_record_with_much_wrong_is_told_of_the_first_few() {
    let schema = r#"{"properties":{"x":{"items":{"type":"string"}}}}"#;
    let validation = Arc::new(Validation::new(Some(schema), Rules::default(), Policy::Warn).unwrap());
    let record = format!("{{\"x\":[{}1]}}", "1,".repeat(10_000));
    let mut canonicaliser = Canonicaliser::default();
    let canonical = canonicaliser.canonicalise(record.as_bytes()).unwrap();
    assert_eq!(Judge::new(validation, true).judge(canonical.text, &canonical.hash).unwrap().len(), 8);
}
