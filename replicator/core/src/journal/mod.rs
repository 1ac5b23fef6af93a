//! The journal's bytes and rules: group format, superblock, what a scan found, what to make of it, and the index of
//! what is retained. Pure: the files, threads and syncs that carry this out are the daemon's `journal` and `disk`.

pub mod entry;
pub mod group;
pub mod log;
pub mod recovery;
#[cfg(test)]
mod recovery_tests;
pub mod replay;
pub mod scan;
pub mod superblock;
