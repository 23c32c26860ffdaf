//! NDJSON and files, 55 to 66; and 43, which is about memory.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::case::{
    Case, Input, Outcome, SOME, counted, directory, failed, file, line, nothing, quarantined, refused, stored,
};

pub fn cases() -> Vec<Case> {
    [lines(), changes(), kinds(), names()].into_iter().flatten().collect()
}

fn lines() -> Vec<Case> {
    let mut thousand = String::new();
    for number in 0..1_000 {
        let text = if number == 500 { "{\"bad\"".to_owned() } else { format!("{{\"n\":{number}}}") };
        writeln!(thousand, "{text}").unwrap();
    }
    let good = (0..1_000).filter(|&number| number != 500).map(|number| format!("{{\"n\":{number}}}"));
    let nul_block = [&b"{\"a\":1}\n"[..], &[0; 4096], b"\n{\"b\":2}\n"].concat();
    let glued = [&b"{\"a\":1}\n"[..], &[0; 4096], b"{\"b\":2}\n{\"c\":3}\n"].concat();
    let mut long = b"{\"a\":1}\n{\"s\":\"".to_vec();
    long.resize(long.len() + (17 << 20), b'x');
    long.extend_from_slice(b"\"}\n{\"b\":2}\n");
    let mut blank = b"{\"a\":1}\n".to_vec();
    blank.resize(blank.len() + (17 << 20), b' ');
    blank.extend_from_slice(b"{\"lost\":1}\n{\"b\":2}\n");
    let two = || stored([r#"{"a":1}"#, r#"{"b":2}"#]);
    vec![
        directory("43", one_long_string, "a.ndjson", None, quarantined(["line_limit"])),
        file("55", "a.ndjson", "{\"a\":1}\n{\"b\":2}", "", two()),
        file("56", "a.ndjson", "{\"a\":1}\r\n{\"b\":2}\r\n", "", two()),
        file("57", "a.ndjson", "\n{\"a\":1}\n\n  \n\t\r\n{\"b\":2}\n\n", "", two()),
        file("58", "a.ndjson", thousand, "", stored(good).and_quarantined(["invalid_json"])),
        file("59", "a.ndjson", long, "", two().and_quarantined(["line_limit"])),
        file("59, blank at its beginning", "a.ndjson", blank, "", two().and_quarantined(["line_limit"])),
        file("60", "a.ndjson", nul_block, "", two().and_quarantined(["invalid_json"])),
        // The record behind the block is on the same line; the line is kept whole.
        file(
            "60, glued",
            "a.ndjson",
            glued,
            "",
            stored([r#"{"a":1}"#, r#"{"c":3}"#]).and_quarantined(["invalid_json"]),
        ),
        line("58, with its line", b"{\"line\"", quarantined(["invalid_json"])),
    ]
}

fn one_long_string(dir: &Path) {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let mut file = fs::File::create(dir.join("a.ndjson")).unwrap();
    file.write_all(b"{\"s\":\"").unwrap();
    // A hole: 300 MiB of NUL that take no place on the disk.
    file.seek(SeekFrom::Start(300 << 20)).unwrap();
    file.write_all(b"\"}\n").unwrap();
}

/// More than a reader and the channels behind it take while the first page is committed.
const MANY: usize = 50_000;

fn many(dir: &Path) {
    let mut text = String::new();
    for number in 0..MANY {
        writeln!(text, "{{\"n\":{number}}}").unwrap();
    }
    fs::write(dir.join("a.ndjson"), text).unwrap();
}

fn changes() -> Vec<Case> {
    fn several(dir: &Path) {
        many(dir);
        fs::write(dir.join("b.ndjson"), "{\"b\":1}\n").unwrap();
        fs::write(dir.join("c.ndjson"), "{\"c\":1}\n").unwrap();
    }
    fn truncated(dir: &Path) {
        fs::File::options().write(true).open(dir.join("a.ndjson")).unwrap().set_len(100).unwrap();
    }
    fn grown_replaced_and_gone(dir: &Path) {
        let mut file = fs::File::options().append(true).open(dir.join("a.ndjson")).unwrap();
        std::io::Write::write_all(&mut file, b"{\"b\":1}\n").unwrap();
        fs::write(dir.join("new"), "{\"b\":2}\n").unwrap();
        fs::rename(dir.join("new"), dir.join("a.ndjson")).unwrap();
        fs::remove_file(dir.join("b.ndjson")).unwrap();
    }
    vec![
        directory(
            "61, truncated",
            many,
            "a.ndjson",
            Some(truncated),
            Outcome { stored: vec![SOME.to_owned()], ..nothing() }
                .and_failed("file_changed", "it became shorter while it was read"),
        ),
        // What was opened is read to its end, with what came to it; the next read finds the new file. What is gone
        // before it was opened is passed over with a line in the log.
        directory(
            "61, grown and replaced; 62",
            several,
            "*.ndjson",
            Some(grown_replaced_and_gone),
            Outcome { stored: vec![counted(MANY + 2)], ..nothing() },
        ),
    ]
}

fn kinds() -> Vec<Case> {
    fn fifo(dir: &Path) {
        assert!(std::process::Command::new("mkfifo").arg(dir.join("a.ndjson")).status().unwrap().success());
    }
    fn folder(dir: &Path) {
        fs::create_dir(dir.join("a.ndjson")).unwrap();
    }
    fn link_out(dir: &Path) {
        symlink("/etc/hostname", dir.join("a.ndjson")).unwrap();
    }
    fn terabyte(dir: &Path) {
        fs::File::create(dir.join("a.ndjson")).unwrap().set_len(1 << 40).unwrap();
    }
    vec![
        directory("63, pipe", fifo, "a.ndjson", None, failed("file", "not a regular file")),
        directory(
            "63, directory",
            folder,
            "a.ndjson",
            None,
            failed("no_file", "has no file with the extension .ndjson"),
        ),
        Case {
            number: "63, device",
            input: Input::Directory {
                prepare: |_| {},
                path: "/proc/kcore",
                options: r#","format":"ndjson""#,
                then: None,
            },
            expected: failed("file_roots", "not beneath a file root"),
        },
        directory("64", link_out, "a.ndjson", None, failed("file_roots", "not beneath a file root")),
        directory("66", terabyte, "a.ndjson", None, failed("file", "1099511627776")),
    ]
}

fn names() -> Vec<Case> {
    let one = || stored([r#"{"a":1}"#]);
    let named = |number, name: &[u8]| file(number, name, "{\"a\":1}\n", r#","format":"ndjson""#, one());
    let config = |number, config| Case { number, input: Input::Config(config), expected: refused("path") };
    vec![
        named("65, newline", b"a\nb.ndjson"),
        named("65, encoded slash", b"..%2fa.ndjson"),
        named("65, trailing dot", b"a.ndjson."),
        named("65, 255 bytes", &[b'n'; 255]),
        named("65, invalid UTF-8", b"a\xff.ndjson"),
        named("65, looks like a pattern", b"a[1]*.ndjson"),
        config("65, parent", r#"{"path":"../a.ndjson"}"#),
        config("65, parent inside", r#"{"path":"a/../../a.ndjson"}"#),
        config("65, NUL", r#"{"path":"a\u0000.ndjson"}"#),
        directory("65, no such file", |_| {}, "a.ndjson", None, failed("no_file", "no file matches")),
    ]
}
