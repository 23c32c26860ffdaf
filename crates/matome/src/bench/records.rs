//! What one core does with a record between its bytes and the store, without any database: canonical form with its hash,
//! and the look at its schema.

use matome_model::canonical::{Canonicaliser, Limits};
use matome_model::drift::{DriftPolicy, Shape, Watch};

use super::data::{Kind, Records};
use super::figure::Figure;
use super::target::failed;
use super::usage::thread_cpu_seconds;
use super::{Bench, say};
use crate::failure::Failure;

const GROUP: &str = "ingest";
const SEED: u64 = 1;
/// Records that are held at once, so that making them is not measured; many, as the kernel counts hundredths of a second.
const BATCH: u64 = 20_000;
/// Such a hundredth.
const TICK: f64 = 0.01;

/// Both kinds of data.
pub fn run(bench: &mut Bench) -> Result<(), Failure> {
    for kind in [Kind::Orders, Kind::Events] {
        let count = bench.sizes.count(kind);
        say(format_args!("{count} records of {} in memory", kind.file_name()));
        let mut canonicaliser = Canonicaliser::new(Limits::default());
        let mut watch = Watch::new(DriftPolicy::AcceptNew, Shape::default(), false);
        let mut records = Records::new(kind, SEED);
        let mut line = String::new();
        let (mut canonical_cpu, mut drift_cpu, mut done, mut bytes) = (0.0, 0.0, 0, 0);
        while done < count {
            let size = BATCH.min(count - done);
            let mut record = || {
                let mut json = Vec::new();
                records.json(&mut line, &mut json);
                json
            };
            let batch: Vec<Vec<u8>> = (0..size).map(|_| record()).collect();
            bytes += batch.iter().map(Vec::len).sum::<usize>();
            let mut texts = Vec::with_capacity(batch.len());
            canonical_cpu += measured(|| {
                for record in &batch {
                    let canonical = canonicaliser.canonicalise(record).map_err(failed)?;
                    texts.push(canonical.text.to_owned());
                }
                Ok(())
            })?;
            drift_cpu += measured(|| {
                for text in &texts {
                    std::hint::black_box(watch.look(text));
                }
                Ok(())
            })?;
            done += size;
        }
        // The clock of a thread has ticks, and tiny sizes may take less than one.
        (canonical_cpu, drift_cpu) = (f64::max(canonical_cpu, TICK), f64::max(drift_cpu, TICK));
        #[allow(clippy::cast_precision_loss, reason = "a count of records and bytes")]
        let (count_f, mib) = (count as f64, bytes as f64 / f64::from(1 << 20));
        bench.add(
            Figure::new(
                GROUP,
                format!("{} canonical form and SHA-256, one core", what(kind)),
                mib / canonical_cpu,
                "MiB/s",
            )
            .note(format!("{:.2} us of CPU a record", canonical_cpu / count_f * 1e6)),
        );
        bench.add(
            Figure::new(GROUP, format!("{} schema drift, one core", what(kind)), mib / drift_cpu, "MiB/s")
                .note(format!("{:.2} us of CPU a record", drift_cpu / count_f * 1e6)),
        );
    }
    Ok(())
}

fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::Orders => "orders:",
        Kind::Events => "events:",
    }
}

/// CPU seconds of this thread while `work` is done.
fn measured(work: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    let before = thread_cpu_seconds();
    work()?;
    let after = thread_cpu_seconds();
    before.zip(after).map(|(before, after)| after - before).ok_or_else(|| failed("this system does not tell CPU times"))
}
