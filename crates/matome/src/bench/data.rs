//! Seeded data: the same seed gives the same bytes, streamed, never held whole.
//!
//! Orders are CSV rows of about 115 bytes, events nested JSON records of about 1 KB, part of both Japanese, in the
//! manner of what people acquire; ready rows are what a program without matome would have to have made of them.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use matome_model::canonical::Canonicaliser;

const REGIONS: [&str; 8] = ["北海道", "東北", "関東", "中部", "近畿", "中国", "四国", "九州"];
const STATUS: [&str; 5] = ["paid", "shipped", "returned", "cancelled", "pending"];
const SEGMENTS: [&str; 4] = ["consumer", "corporate", "public", "partner"];
const WORDS: [&str; 25] = [
    "sensor",
    "gateway",
    "invoice",
    "ledger",
    "harvest",
    "signal",
    "pallet",
    "cargo",
    "vendor",
    "retail",
    "ticket",
    "batch",
    "ration",
    "データ",
    "統合",
    "取得",
    "集約",
    "品質",
    "監視",
    "受注",
    "在庫",
    "出荷",
    "返品",
    "検品",
    "請求",
];
/// 2025-01-01, in seconds.
const START: i64 = 1_735_689_600;
/// Customers of the orders.
pub const CUSTOMERS: u64 = 50_000;

/// What is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CSV rows.
    Orders,
    /// NDJSON records of about 1 KB.
    Events,
}

impl Kind {
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Orders => "orders.csv",
            Self::Events => "events.ndjson",
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn of<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let n = u64::try_from(from.len()).unwrap_or(1);
        from[usize::try_from(self.below(n)).unwrap_or(0)]
    }

    fn words(&mut self, out: &mut String, count: usize) {
        for n in 0..count {
            out.push_str(if n == 0 { "" } else { " " });
            out.push_str(self.of(&WORDS));
        }
    }

    fn time(&mut self) -> String {
        let seconds = i64::try_from(self.below(365 * 86_400)).unwrap_or(0);
        let at: DateTime<Utc> = DateTime::UNIX_EPOCH + TimeDelta::seconds(START + seconds);
        at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

/// Makes one record after the other.
pub struct Records {
    kind: Kind,
    rng: Rng,
    n: u64,
}

impl Records {
    /// Records of one kind; another seed gives others.
    pub fn new(kind: Kind, seed: u64) -> Self {
        Self { kind, rng: Rng(seed), n: 0 }
    }

    /// Appends the next record as its file holds it, with its line end.
    fn line(&mut self, out: &mut String) {
        self.n += 1;
        let (n, rng) = (self.n, &mut self.rng);
        match self.kind {
            Kind::Orders => {
                let cents = 100 + rng.below(9_999_900);
                write!(
                    out,
                    "ORD-{n:09},C{:06},{},{},SKU-{:05},{},{}.{:02},{},",
                    rng.below(CUSTOMERS),
                    rng.time(),
                    rng.of(&REGIONS),
                    rng.below(20_000),
                    1 + rng.below(19),
                    cents / 100,
                    cents % 100,
                    rng.of(&STATUS),
                )
                .expect("text grows");
                rng.words(out, 5);
            }
            Kind::Events => event(out, n, rng),
        }
        out.push('\n');
    }

    /// Appends the next record as JSON.
    pub fn json(&mut self, line: &mut String, out: &mut Vec<u8>) {
        line.clear();
        self.line(line);
        let line = line.trim_end();
        if self.kind == Kind::Events {
            out.extend_from_slice(line.as_bytes());
            return;
        }
        for (n, (name, value)) in ORDER_COLUMNS.split(',').zip(line.split(',')).enumerate() {
            write!(out, "{}\"{name}\":\"{value}\"", if n == 0 { '{' } else { ',' }).expect("bytes grow");
        }
        out.push(b'}');
    }
}

const ORDER_COLUMNS: &str = "order_id,customer_id,ordered_at,region,sku,quantity,unit_price,status,note";

fn event(out: &mut String, n: u64, rng: &mut Rng) {
    let mut put = |text: std::fmt::Arguments<'_>| out.write_fmt(text).expect("text grows");
    let (high, low, at) = (rng.next(), rng.next(), rng.time());
    put(format_args!("{{\"event_id\":\"{high:016x}{low:016x}\",\"seq\":{n},\"at\":\"{at}\",\"device\":{{\"id\":"));
    put(format_args!("\"D{:05}\",\"region\":\"{}\",\"firmware\":", rng.below(5_000), rng.of(&REGIONS)));
    put(format_args!("\"{}.{}.{}\",\"position\":", rng.below(9), rng.below(20), rng.below(50)));
    put(format_args!("{{\"lat\":{}.{:06},", 24 + rng.below(21), 1 + rng.below(999_998)));
    put(format_args!("\"lon\":{}.{:06}}}}},\"readings\":[", 123 + rng.below(22), 1 + rng.below(999_998)));
    for t in 0..8 {
        let comma = if t == 0 { "" } else { "," };
        put(format_args!("{comma}{{\"t\":{t},\"temp\":{}.{:02},", 10 + rng.below(25), rng.below(100)));
        put(format_args!("\"hum\":{}.{},\"ok\":{}}}", 20 + rng.below(70), rng.below(10), rng.below(50) > 0));
    }
    put(format_args!("],\"tags\":["));
    for t in 0..4 {
        put(format_args!("{}\"{}\"", if t == 0 { "" } else { "," }, rng.of(&WORDS)));
    }
    out.push_str("],\"message\":\"");
    rng.words(out, 40);
    out.push_str("\",\"parent\":null}");
}

/// Writes `count` records to a file; returns its size in bytes.
pub fn write_file(path: &Path, kind: Kind, seed: u64, count: u64) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut records = Records::new(kind, seed);
    let mut text = String::with_capacity(2 << 10);
    if kind == Kind::Orders {
        writeln!(out, "{ORDER_COLUMNS}")?;
    }
    for _ in 0..count {
        text.clear();
        records.line(&mut text);
        out.write_all(text.as_bytes())?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.metadata().map(|metadata| metadata.len())
}

/// Writes records as one JSON object a line, whatever their kind.
pub fn write_json_file(path: &Path, kind: Kind, seed: u64, count: u64) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let (mut records, mut line, mut json) = (Records::new(kind, seed), String::new(), Vec::new());
    for _ in 0..count {
        json.clear();
        records.json(&mut line, &mut json);
        json.push(b'\n');
        out.write_all(&json)?;
    }
    out.flush()
}

/// Writes records until the file has `bytes` bytes; returns how many there are.
pub fn write_file_of(path: &Path, kind: Kind, seed: u64, bytes: u64) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut records = Records::new(kind, seed);
    let mut text = String::with_capacity(2 << 10);
    if kind == Kind::Orders {
        writeln!(out, "{ORDER_COLUMNS}")?;
    }
    let mut written = 0;
    while written < bytes {
        text.clear();
        records.line(&mut text);
        out.write_all(text.as_bytes())?;
        written += u64::try_from(text.len()).unwrap_or(0);
    }
    out.flush()?;
    Ok(records.n)
}

/// Writes the customers whose orders the orders are.
pub fn write_customers(path: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut rng = Rng(2);
    writeln!(out, "customer_id,segment,pref")?;
    for n in 0..CUSTOMERS {
        writeln!(out, "C{n:06},{},{}", rng.of(&SEGMENTS), rng.of(&REGIONS))?;
    }
    out.flush()
}

/// One row of `acquired_data`, ready to be stored.
#[derive(Debug)]
pub struct ReadyRow {
    pub raw_data: String,
    pub metadata: String,
    pub data_hash: String,
    pub key_hash: [u8; 16],
}

/// Ready rows one after the other.
pub struct ReadyRows {
    records: Records,
    canonicaliser: Canonicaliser,
    line: String,
    json: Vec<u8>,
}

impl ReadyRows {
    pub fn new(kind: Kind, seed: u64) -> Self {
        Self {
            records: Records::new(kind, seed),
            canonicaliser: Canonicaliser::default(),
            line: String::new(),
            json: Vec::new(),
        }
    }

    pub fn next(&mut self) -> ReadyRow {
        self.json.clear();
        self.records.json(&mut self.line, &mut self.json);
        let document = self.records.kind.file_name();
        let metadata = format!("{{\"document\":\"{document}\",\"line\":{},\"task\":1}}", self.records.n);
        let canonical = self.canonicaliser.canonicalise(&self.json).expect("generated records are good ones");
        let key_hash = *canonical.hash.first_chunk().expect("16 is less than 32");
        ReadyRow { raw_data: canonical.text.to_owned(), metadata, data_hash: canonical.hash_hex(), key_hash }
    }
}

/// Writes ready rows in PostgreSQL's text format for COPY, in the order of [`COPY_COLUMNS`].
pub fn write_copy_file(path: &Path, kind: Kind, seed: u64, source_id: i64, count: u64) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut rows = ReadyRows::new(kind, seed);
    let mut text = String::with_capacity(2 << 10);
    for _ in 0..count {
        let row = rows.next();
        text.clear();
        write!(text, "{source_id}\t\t").expect("text grows");
        escape(&mut text, &row.raw_data);
        text.push('\t');
        escape(&mut text, &row.metadata);
        write!(text, "\t{}\t2026-11-24 00:00:00+00\t\\\\x", row.data_hash).expect("text grows");
        text.push_str(&row.data_hash[..32]);
        text.push('\n');
        out.write_all(text.as_bytes())?;
    }
    out.flush()
}

/// Columns of [`write_copy_file`].
pub const COPY_COLUMNS: &str = "source_id, stream, raw_data, metadata, data_hash, acquired_at, key_hash";

fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_the_same_for_the_same_seed_and_of_the_size_they_claim() {
        for (kind, size) in [(Kind::Orders, 90..150), (Kind::Events, 900..1200)] {
            let sample = |seed| {
                let (mut records, mut text) = (Records::new(kind, seed), String::new());
                (0..500).for_each(|_| records.line(&mut text));
                text
            };
            assert_eq!(sample(1), sample(1));
            assert_ne!(sample(1), sample(2));
            assert!(size.contains(&(sample(1).len() / 500)), "{kind:?}: {}", sample(1).len() / 500);
        }
    }

    #[test]
    fn ready_rows_are_what_an_acquisition_would_store() {
        let mut rows = ReadyRows::new(Kind::Orders, 1);
        let row = rows.next();
        let value: serde_json::Value = serde_json::from_str(&row.raw_data).unwrap();
        assert_eq!(value["order_id"], "ORD-000000001");
        assert_eq!(value.as_object().unwrap().len(), 9);
        let again = Canonicaliser::default().canonicalise(row.raw_data.as_bytes()).unwrap().hash_hex();
        assert_eq!(again, row.data_hash);
    }
}
