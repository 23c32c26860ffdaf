//! Files that are elsewhere, on real servers and on some that misbehave.

mod azure;
mod broken_stores;
mod faults;
mod gcs;
mod http;
mod peer;
mod s3;
mod same;
mod sftp;
mod stands;
mod stores;
mod tls;
