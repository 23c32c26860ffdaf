//! What the operating system holds this process to.
//!
//! These are the outer walls: the memory pool, the spill limit and the deadline should be met first, and give better reasons.

use matome_model::engine::Limits;
use rlimit::Resource;

/// Address space beyond the pool: code, stacks, arenas of the allocator, batches in flight.
const ADDRESS_SPACE_BYTES: u64 = 4 << 30;

/// Open files: standard streams, inputs, spill files.
const OPEN_FILES: u64 = 512;

/// Before the request is read: no core dumps (they would hold records), few files, first in line when memory is short.
pub(crate) fn at_start() {
    lower(Resource::CORE, 0, 0);
    lower(Resource::NOFILE, OPEN_FILES, OPEN_FILES);
    // Only a hint to the system: better this process than the one that started it. Not every system has it.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

/// Once the request's limits are known.
pub(crate) fn for_run(limits: &Limits) {
    let address_space = limits.memory_bytes.saturating_mul(2).saturating_add(ADDRESS_SPACE_BYTES);
    lower(Resource::AS, address_space, address_space);
    let processor = limits.seconds.saturating_mul(crate::PARTITIONS as u64 + 1).saturating_add(10);
    // The soft limit's signal tells the parent the reason, the hard one's does not.
    lower(Resource::CPU, processor, processor.saturating_add(10));
    let file = limits.spill_bytes.max(1 << 20);
    lower(Resource::FSIZE, file, file);
}

fn lower(resource: Resource, soft: u64, hard: u64) {
    let lowered = resource.get_hard().and_then(|now| resource.set(soft.min(now), hard.min(now)));
    if let Err(err) = lowered {
        eprintln!("engine child: cannot limit {}: {err}", resource.as_name());
    }
}
