//! The storage daemon: what carries out the core's effects, and what the outside world talks to.

pub mod config;
pub mod control;
pub mod disk;
pub mod engine;
pub mod journal;
pub mod latency;
pub mod snapshot;
pub mod store;
pub mod telemetry;
pub mod transport;

pub use farshore_device as device;

#[cfg(test)]
#[path = "../core/tests/golden/bytes_file.rs"]
mod bytes_file;
#[cfg(test)]
#[path = "../core/tests/golden/samples.rs"]
#[expect(dead_code, reason = "marks are the core's and the fuzzer's")]
mod samples;
