//! A short run of the fuzz targets (folder `fuzz`) on inputs made from a corpus by a seeded loop, on stable Rust.
//!
//! `MATOME_TEST_FUZZ_INPUTS` makes it longer, `MATOME_TEST_FUZZ_SEED` begins elsewhere. An input that fails is printed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../fuzz/src/lib.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Pieces that mean something to one of the readers.
const TOKENS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\"\"",
    b",",
    b":",
    b"\\",
    b"\\u0000",
    b"\\ud83d\\ude00",
    b"\\udc00",
    b"\n",
    b"\r",
    b"\r\n",
    b"\t",
    b" ",
    b"\xef\xbb\xbf",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b"null",
    b"true",
    b"-0",
    b"1e400",
    b"1E-7",
    b"0.10",
    b"12345678901234567890",
    b"{\"a\":1}",
    b"{\"a\":[",
    b"\"a\":{\"b\":[",
    b"\"a\":",
    b"a,b\n",
    b"=1+1",
    b";",
    b"data: ",
    b"id: ",
    b"event:",
    b"\n\n",
    b"<r>",
    b"</r>",
    b"<a b='1'/>",
    b"&amp;",
    b"&x;",
    b"<![CDATA[",
    b"<Contents>",
    b"</Contents>",
    b"<Key>",
    b"%2F",
    b"]]>",
    b"<!--",
    b"-->",
    b"<?x?>",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"Obj\x01",
    b"avro.codec",
    b"deflate",
    b"webhook-id: ",
    b"v1,",
    b"sha256=",
    b"a;b\n1;2\n",
    b"a\tb\n",
    b"\x1b$B",
    b"{page}",
    b"{now}",
    b"{{",
    b"}}",
    b"\"next\":",
    b"<http://i/b>; rel=\"next\"",
    b"../",
    b"?#",
];

/// SplitMix64: the same inputs on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}

/// Changes an input in one place.
fn change(random: &mut Random, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
    let at = random.below(input.len() + 1);
    match random.below(6) {
        0 if at < input.len() => input[at] = u8::try_from(random.below(256)).unwrap(),
        1 if at < input.len() => input[at] ^= 1 << random.below(8),
        2 => {
            let end = (at + random.below(8)).min(input.len());
            input.drain(at..end);
        }
        3 => {
            let end = (at + random.below(32)).min(input.len());
            let part = input[at..end].to_vec();
            input.splice(at..at, part);
        }
        4 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            let part = other[from..(from + random.below(24)).min(other.len())].to_vec();
            input.splice(at..at, part);
        }
        _ => {
            let token = TOKENS[random.below(TOKENS.len())];
            input.splice(at..at, token.iter().copied());
        }
    }
    input.truncate(8192);
}

fn run(name: &str, target: fn(&[u8])) {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (inputs, seed) = (number("MATOME_TEST_FUZZ_INPUTS", 20_000), number("MATOME_TEST_FUZZ_SEED", 1));
    let folder = Path::new("../../fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(!corpus.is_empty(), "there is a corpus for {name}");
    let check = |input: &[u8]| {
        let held = catch_unwind(AssertUnwindSafe(|| target(input)));
        assert!(held.is_ok(), "{name} does not hold for b\"{}\"", input.escape_ascii());
    };
    corpus.iter().for_each(|input| check(input));
    let mut random = Random(seed);
    for n in 0..inputs {
        let mut input = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(4) {
            change(&mut random, &corpus, &mut input);
        }
        check(&input);
        // Some are kept to be changed further: far from the corpus lies what nobody thought of.
        if n % 50 == 0 && corpus.len() < 500 {
            corpus.push(input);
        }
    }
    assert!(peak_memory() < MEMORY_LIMIT_BYTES, "some input of {name} took {} MiB", peak_memory() >> 20);
}

/// No input of a few kilobytes may take so much, whatever it says about itself.
const MEMORY_LIMIT_BYTES: u64 = 1 << 30;

/// The most that this process has had in memory, where the system tells.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

#[test]
fn canonical_text_is_a_fixed_point_and_agrees_with_serde_json() {
    run("canonical", targets::canonical);
}

#[test]
fn every_line_is_a_record_wherever_the_pieces_end() {
    run("ndjson", targets::ndjson);
}

#[test]
fn every_row_is_a_record_or_rejected_whole_wherever_the_pieces_end() {
    run("csv", targets::csv);
}

#[test]
fn the_records_of_a_document_are_what_serde_json_finds_wherever_the_pieces_end() {
    run("documents", targets::documents);
}

#[test]
fn nothing_of_a_message_is_lost_or_made_up() {
    run("messages", targets::messages);
}

#[test]
fn a_page_leads_on_by_what_it_says_and_to_no_other_host() {
    run("pages", targets::pages);
}

#[test]
fn a_template_is_refused_or_filled_in_and_leads_to_no_other_host() {
    run("templates", targets::templates);
}

#[test]
fn a_value_that_a_database_sends_stays_one_value() {
    run("values", targets::values);
}

#[test]
fn every_event_is_what_a_simpler_reader_finds_wherever_the_pieces_end() {
    run("events", targets::events);
}

#[test]
fn every_line_is_cut_into_its_columns_or_rejected_whole_wherever_the_pieces_end() {
    run("fixed", targets::fixed);
}

#[test]
fn every_element_is_an_object_or_rejected_as_it_is() {
    run("xml", targets::xml);
}

#[test]
fn whatever_is_packed_is_read_or_refused() {
    run("packed", targets::packed);
}

#[test]
fn whatever_is_a_table_is_read_or_refused() {
    run("tables", targets::tables);
}

#[test]
fn whatever_answers_is_a_list_or_none() {
    run("listings", targets::listings);
}

#[test]
fn whatever_an_avro_file_says_it_is_read_or_refused() {
    run("avro", targets::avro);
}

#[test]
fn whatever_is_looked_at_what_is_proposed_is_valid() {
    run("probe", targets::probe);
}

#[test]
fn a_body_that_is_accepted_gives_what_was_counted() {
    run("bodies", targets::bodies);
}

#[test]
fn a_signature_is_good_for_one_body_alone() {
    run("signatures", targets::signatures);
}
