//! The write-ahead journal of a node, shared by its volumes: one write and one sync make a group of everyone's entries
//! durable. What the bytes mean and what recovery decides is in the core; here are the files, the thread and the queue.
//!
//! ```text
//! append → queue (order, fairness) → writer thread: group → disk engine: write + sync → index, cache → done
//!                                       │ segment full                                     ↑
//!                                       └ rotate: recycle the oldest, write a head         read
//! ```

mod burnt;
mod burnt_note;
mod cache;
mod config;
mod error;
mod handle;
mod inspect;
mod open;
mod read;
mod super_file;
#[cfg(test)]
mod tests;
mod writer;

pub use config::{JournalConfig, JournalStatus, SEGMENT_BYTES_DEFAULT};
pub use error::{JournalError, ReadError};
pub use farshore_core::journal::entry::{Entry, LogEnd, META_BYTES_MAX};
pub use farshore_core::journal::found::RecoveredVolume;
pub use farshore_core::journal::queue::QUEUE_BYTES_MAX;
pub use farshore_core::journal::recovery::Rule;
pub use farshore_core::journal::segments::budget_for;
pub use handle::{Done, Journal};
pub use inspect::{GroupReport, InspectReport, SegmentReport, VolumeReport, inspect};
