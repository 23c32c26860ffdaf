//! Files that are elsewhere, on real servers and on some that misbehave.

mod faults;
mod http;
mod peer;
mod s3;
mod same;
mod stands;
mod stores;
