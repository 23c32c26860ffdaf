//! One aggregation task: its inputs, its engine child, storing and publishing results. Knows nothing of DataFusion.

pub mod config;
pub mod engine;
mod handler;
mod inputs;
mod key;
mod options;
mod preview;

pub use handler::{AggregationHandler, told};
pub use options::RunOptions;
pub use preview::{Preview, PreviewError, Previewed, preview};
