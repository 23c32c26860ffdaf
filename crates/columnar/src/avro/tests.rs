//! Containers made by hand, whole and damaged. `crates/connector/tests/file/avro.rs` reads what another program wrote.

use std::io::Cursor as Bytes;

use super::*;

const SYNC: [u8; 16] = *b"0123456789abcdef";

fn long(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(rest & 0x7f).unwrap();
        rest >>= 7;
        if rest == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [long(i64::try_from(bytes.len()).unwrap()), bytes.to_vec()].concat()
}

fn header(schema: &str, codec: &str) -> Vec<u8> {
    let mut bytes = b"Obj\x01".to_vec();
    bytes.extend(long(2));
    for (key, value) in [("avro.schema", schema), ("avro.codec", codec)] {
        bytes.extend(counted(key.as_bytes()));
        bytes.extend(counted(value.as_bytes()));
    }
    bytes.extend([long(0), SYNC.to_vec()].concat());
    bytes
}

fn block(count: i64, data: &[u8]) -> Vec<u8> {
    [long(count), counted(data), SYNC.to_vec()].concat()
}

fn told(error: &FileError) -> String {
    match error {
        FileError::Broken(words) => words.english.clone(),
        FileError::Io(error) => panic!("{error}"),
    }
}

/// The rows before the end or an error, and the error; a fault stands behind its row.
fn read(bytes: Vec<u8>) -> (Vec<String>, Option<String>) {
    let mut rows = Vec::new();
    let mut file = match Avro::open(Bytes::new(bytes)) {
        Ok(file) => file,
        Err(error) => return (rows, Some(told(&error))),
    };
    loop {
        match file.next() {
            Ok(None) => return (rows, None),
            Ok(Some(FileRow { json, fault })) => {
                let fault = fault.map(|fault| format!(" {}: {}", fault.column, fault.reason.english));
                rows.push(String::from_utf8(json).unwrap() + &fault.unwrap_or_default());
            }
            Err(error) => return (rows, Some(told(&error))),
        }
    }
}

const N: &str = r#"{"type":"record","name":"R","fields":[{"name":"n","type":"long"}]}"#;

#[test]
fn blocks_are_read_one_after_the_other_and_what_is_damaged_says_where() {
    let start = header(N, "null");
    let (one, two) = (block(2, &[long(1), long(-2)].concat()), block(1, &long(i64::MIN)));
    let rows = [r#"{"n":1}"#, r#"{"n":-2}"#, r#"{"n":-9223372036854775808}"#];
    let whole = [start.clone(), one.clone(), two.clone()].concat();
    assert_eq!(read(whole.clone()), (rows.map(str::to_owned).to_vec(), None));

    let second = start.len() + one.len();
    let place = format!("block 2 (at byte {second}) is broken: ");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        read(bytes)
    };
    for (what, (rows, error), wanted) in [
        ("cut off", with(&|bytes| bytes.truncate(second + 5)), "the file ends early"),
        ("no marker", with(&|bytes| bytes.truncate(bytes.len() - 1)), "the file ends early"),
        (
            "wrong marker",
            with(&|bytes| *bytes.last_mut().unwrap() ^= 1),
            "the marker behind it is not that of the file",
        ),
        ("negative count", with(&|bytes| bytes[second] = 1), "its number of records is negative"),
        ("too many records", with(&|bytes| bytes[second] = 4), "record 2 of it can not be read: it ends early"),
        ("too few", with(&|bytes| bytes[second] = 0), "10 bytes are left behind its last record"),
        (
            "too large",
            read([start.clone(), one.clone(), long(1), long(1 << 40)].concat()),
            "its size is negative or more than the limit of 67108864 bytes",
        ),
    ] {
        assert_eq!(error, Some(format!("{place}{wanted}")), "{what}");
        assert_eq!(rows[..2], [r#"{"n":1}"#, r#"{"n":-2}"#], "{what}");
    }
    // Every cut is told or, between blocks, is the end of a shorter file.
    for length in 0..whole.len() {
        let (_, error) = read(whole[..length].to_vec());
        assert_eq!(error.is_none(), length == start.len() || length == second, "cut at {length}");
    }
}

#[test]
fn headers_that_are_none_are_refused() {
    for (bytes, wanted) in [
        (b"PAR1".to_vec(), "no Avro file"),
        (b"Ob".to_vec(), "no Avro file"),
        (header(N, "lzo"), "codec `lzo` is not known; write it with one of `null`, `deflate`, `snappy`"),
        (header("{", "null"), "its schema can not be read: it is no JSON"),
        (header(r#""long""#, "null"), "no records"),
        (header(r#"{"type":"record","name":"R","fields":[{"name":"a","type":"X"}]}"#, "null"), "`X` is no type"),
        (header(r#"{"type":"record","name":"R"}"#, "null"), "no valid `fields`"),
        ([b"Obj\x01".to_vec(), long(0), SYNC.to_vec()].concat(), "no schema"),
        ([b"Obj\x01".to_vec(), long(1), long(1 << 40)].concat(), "too long"),
    ] {
        let (_, error) = read(bytes);
        assert!(error.as_ref().is_some_and(|error| error.contains(wanted)), "{error:?} says {wanted}");
    }
    let deep = format!("{}{}{}", r#"{"type":"array","items":"#.repeat(70), r#""int""#, "}".repeat(70));
    let (_, error) = read(header(&deep, "null"));
    assert!(error.unwrap().contains("more than 64 deep"));
}

#[test]
fn names_are_found_in_their_namespaces_and_types_may_contain_themselves() {
    let schema = r#"{"type":"record","name":"a.List","fields":[
        {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["X","Y"]}},
        {"name":"same","type":"Kind"},{"name":"full","type":"a.Kind"},
        {"name":"next","type":["null","List"]}]}"#;
    let data = [long(1), long(0), long(1), long(1), long(0), long(0), long(0), long(0)].concat();
    let (rows, error) = read([header(schema, "null"), block(1, &data)].concat());
    assert_eq!(error, None);
    assert_eq!(rows, [r#"{"kind":"Y","same":"X","full":"Y","next":{"kind":"X","same":"X","full":"X","next":null}}"#]);
    // A list without an end.
    let endless = [long(0), long(0), long(0), long(1)].concat().repeat(1000);
    let (_, error) = read([header(schema, "null"), block(1, &endless)].concat());
    assert!(error.unwrap().ends_with("its values lie too deep in each other"));
}

#[test]
fn what_has_no_form_in_json_is_a_fault_of_its_record_alone() {
    let schema = r#"{"type":"record","name":"R","fields":[
        {"name":"f","type":"float"},{"name":"s","type":"string"},{"name":"d","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#;
    let row = |float: f32, text: &[u8], time: i64| [float.to_le_bytes().to_vec(), counted(text), long(time)].concat();
    let data = [row(f32::NAN, b"x", 0), row(0.1, b"\xff", 0), row(0.1, b"x", i64::MAX), row(0.1, b"x", 1)].concat();
    let (rows, error) = read([header(schema, "null"), block(4, &data)].concat());
    assert_eq!(error, None);
    assert_eq!(
        rows,
        [
            r#"{"f":"NaN","s":"x","d":"1970-01-01T00:00:00Z"} f: NaN is not a number in JSON"#,
            r#"{"f":0.1,"s":"ff","d":"1970-01-01T00:00:00Z"} s: a text is not valid UTF-8"#,
            r#"{"f":0.1,"s":"x","d":"9223372036854775807"} d: a date is out of range"#,
            r#"{"f":0.1,"s":"x","d":"1970-01-01T00:00:00.001Z"}"#,
        ]
    );
}

#[test]
fn counts_that_cost_no_bytes_are_no_bomb() {
    let schema = r#"{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"array","items":"null"}}]}"#;
    let data = [long(1 << 60), long(0)].concat();
    let (_, error) = read([header(schema, "null"), block(1, &data)].concat());
    assert!(error.unwrap().contains("too many values without bytes"));
    let empty = r#"{"type":"record","name":"R","fields":[]}"#;
    let (rows, error) = read([header(empty, "null"), block(3, b"")].concat());
    assert_eq!((rows, error), (vec!["{}".to_owned(); 3], None));
    // Zeros inflate a thousand times.
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 65 << 20), &mut packed).unwrap();
    let (_, error) = read([header(N, "deflate"), block(1, &packed.finish().unwrap())].concat());
    assert!(error.unwrap().contains("inflates to more than the limit"));
}

#[test]
fn a_record_over_the_limit_is_a_fault_and_the_next_one_is_read() {
    let schema = r#"{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"array","items":"string"}}]}"#;
    let long_text = counted(&vec![b'x'; 1 << 20]);
    let many = [long(20), long_text.repeat(20), long(0)].concat();
    let one = [long(-1), long(2), counted(b"y"), long(0)].concat();
    let (rows, error) = read([header(schema, "null"), block(2, &[many, one].concat())].concat());
    assert_eq!(error, None);
    assert!(rows[0].ends_with("longer than the limit of 16777216 bytes") && rows[0].len() < 17 << 20);
    assert_eq!(rows[1], r#"{"a":["y"]}"#);
}
