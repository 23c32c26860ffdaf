//! How much of the memory that was given back the C library keeps.

/// From this size on a block is mapped by itself, and goes back to the system when it is freed: where glibc begins.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: libc::c_int = 128 << 10;

/// Has glibc keep memory in one arena for four cores, and no large blocks in them. Elsewhere nothing has to be done.
///
/// By itself it makes eight arenas a core for threads that meet, and takes ever larger blocks out of them once it saw such a
/// block freed (mallopt(3)). The pages of a read are made by one thread and freed by another, and the threads change: what lay
/// in one arena is not there for the next, so that a server kept as many times its pages as it had arenas. What fewer of
/// them cost is in docs/benchmarks.md.
///
/// To be called before there is a second thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_little() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let arenas = (cores / 4).clamp(1, 64) as libc::c_int;
    for (parameter, value) in
        [(libc::M_ARENA_MAX, arenas), (libc::M_MMAP_THRESHOLD, MAPPED_FROM), (libc::M_TRIM_THRESHOLD, MAPPED_FROM)]
    {
        // SAFETY: `mallopt` takes two numbers, of which it refuses what it does not know, and touches no memory of ours. It is
        // not safe beside another thread that allocates: there is none yet.
        #[expect(unsafe_code, reason = "glibc has no other way to say this from inside of the process")]
        let is_known = unsafe { libc::mallopt(parameter, value) } == 1;
        debug_assert!(is_known, "mallopt({parameter}, {value})");
    }
}

/// Has the C library keep little memory: here it does so by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_little() {}
