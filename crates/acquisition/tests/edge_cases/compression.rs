//! gzip, 67 to 73. Other codecs, and archives (75 to 80), are with the connector: `crates/connector/tests/file`.

use std::io::Write as _;

use flate2::write::GzEncoder;

use crate::case::{Case, failed, file, quarantined, stored};

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn cases() -> Vec<Case> {
    let two = || stored([r#"{"a":1}"#, r#"{"b":2}"#]);
    let whole = gzip(b"{\"a\":1}\n{\"b\":2}\n");
    let members = [gzip(b"{\"a\":1}\n{\"b\""), gzip(b":2}\n")].concat();
    // 10 GiB in 10 MiB: members of 16 MiB each.
    let bomb = gzip(&vec![b' '; 16 << 20]).repeat(640);
    assert!((9 << 20..11 << 20).contains(&bomb.len()), "{}", bomb.len());
    let truncated = &whole[..whole.len() - 9];
    let mut wrong = whole.clone();
    let checksum = wrong.len() - 8;
    wrong[checksum] ^= 1;
    let plain = "{\"a\":1}\n{\"b\":2}\n";
    vec![
        file("67", "a.ndjson.gz", &whole, "", two()),
        file("68", "a.ndjson.gz", members, "", two()),
        file("69", "a.ndjson.gz", bomb, "", failed("file", "more than 200 times its size")),
        file("70", "a.ndjson.gz", truncated, "", failed("file", "decompressing it failed")),
        file("71", "a.ndjson.gz", wrong, "", failed("file", "decompressing it failed")),
        file("72, found by its first bytes", "a.ndjson", &whole, "", two()),
        file("72, declared", "a.ndjson", &whole, r#","compression":"gzip""#, two()),
        file(
            "72, declared and not so",
            "a.ndjson",
            plain,
            r#","compression":"gzip""#,
            failed("file", "decompressing it failed"),
        ),
        file("72, switched off", "a.ndjson", &whole, r#","compression":"none""#, quarantined(["invalid_utf8"])),
        // One layer is taken off, what is inside is no JSON.
        file("73", "a.ndjson.gz", gzip(&whole), "", quarantined(["invalid_utf8"])),
    ]
}
