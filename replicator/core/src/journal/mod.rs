//! The journal's bytes and rules: group format, superblock, what a scan found, what to make of it, and the index of
//! what is retained, which entries go next, which segments may be used anew. Pure: the files, threads and syncs that carry this out are the daemon's `journal` and `disk`.

pub mod entry;
pub mod found;
pub mod group;
pub mod log;
#[cfg(test)]
mod log_oracle_tests;
pub mod queue;
pub mod recovery;
#[cfg(test)]
mod recovery_tests;
pub mod replay;
pub mod scan;
pub mod segments;
pub mod superblock;
