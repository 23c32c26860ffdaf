//! One acquisition task: fetch, bring into canonical form, store.
//!
//! ```text
//! connector.read(checkpoint) -> Batch -> canonical form + hash -> page transaction -> next page
//! ```
//!
//! The next page is fetched and prepared while the one before commits. Whatever goes wrong, the store holds
//! whole pages, each with its checkpoint; a read that starts again finds what is there already.

mod adopt;
mod commit;
mod counts;
mod credentials;
mod drain;
mod failure;
mod fetch;
mod handler;
mod keeper;
mod listen;
mod patience;
mod prepare;
mod probe;
mod pushed;
mod read;
mod report;
mod reread;
mod retention;
mod revalidate;
mod sample;
mod settle;
mod sweep;

pub use credentials::{RevealError, Revealed, reveal};
pub use handler::AcquisitionHandler;
pub use keeper::Keeper;
pub use probe::{Column, Found, Probe, TableFound, probe};
pub use retention::apply_retention;
pub use sample::{Sample, SampleDuplicate, SampleError, SampleRejected, SampleStats, SampleWarning, sample};
