//! How much of the memory that was given back the C library keeps.
//!
//! glibc makes an arena for each of the threads that meet, eight a core (mallopt(3)). The pages of a read are made by one thread,
//! freed by another, and the threads change: what lay in one arena was not there for the next, so that a server kept several
//! times its pages, and ever more. Fewer arenas are no answer: threads wait for them, and lists took twice the CPU. What each
//! setting does to memory and speed is in docs/benchmarks.md.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub use glibc::{give_back, keep_little};

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    #![expect(unsafe_code, reason = "glibc has no other way to say this from inside of the process")]

    use std::time::Duration;

    use matome_aggregation::engine::resident_bytes;
    use tokio_util::sync::CancellationToken;

    /// Blocks of this size and more are mapped by themselves and go back to the system when they are freed. Buffers of pages
    /// are; what an answer of the API takes is not, which the kernel would have to clear anew for each. Of the free memory at
    /// the end of an arena so much stays, too.
    const LARGE: libc::c_int = 1 << 20;

    /// Between two looks.
    const EVERY: Duration = Duration::from_millis(500);
    /// From this change on there may be something to give back. A trim takes one to three milliseconds.
    const CHANGE: u64 = 1 << 20;

    /// Has glibc keep no large blocks. It begins so, and then keeps ever larger ones once it saw such a block freed.
    ///
    /// To be called before there is a second thread.
    pub fn keep_little() {
        for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
            // SAFETY: `mallopt` takes two numbers, of which it refuses what it does not know, and touches no memory of ours. It
            // is not safe beside another thread that allocates: there is none yet.
            let is_known = unsafe { libc::mallopt(parameter, LARGE) } == 1;
            debug_assert!(is_known, "mallopt({parameter}, {LARGE})");
        }
    }

    /// Gives back to the system what is free, twice a second while this process's memory changes, until `shutdown`.
    pub async fn give_back(shutdown: CancellationToken) {
        let (pid, mut last) = (std::process::id(), 0);
        while shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let Some(now) = resident_bytes(pid) else { return };
            if now.abs_diff(last) < CHANGE {
                continue;
            }
            // SAFETY: `malloc_trim` takes a number, is made to be called beside other threads, and touches only what is free.
            let trim = || unsafe { libc::malloc_trim(0) };
            if tokio::task::spawn_blocking(trim).await.is_err() {
                return;
            }
            last = resident_bytes(pid).unwrap_or(now);
        }
    }
}

/// Has the C library keep little memory: here it does so by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_little() {}

/// Gives memory back to the system: here the C library does so by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub async fn give_back(_: tokio_util::sync::CancellationToken) {}
