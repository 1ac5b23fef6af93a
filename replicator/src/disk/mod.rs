//! Files as the journal needs them: allocated beforehand, written past the page cache, synced in the same step; by
//! io_uring, or by plain calls where the kernel or a seccomp profile has none. What is written is others' business.

pub mod buffer;
pub mod engine;
pub mod faults;
pub mod file;
mod threads;
mod uring;

pub use buffer::AlignedBuf;
pub use engine::{DiskEngine, EngineChoice, start_engine};
pub use file::DiskFile;
