//! Images outside of a store: the stream that a snapshot is exported to and imported from.
//!
//! Not here: where its bytes come from and go to (engine), files, pipes and progress (the CLI).

pub mod export;

#[cfg(test)]
mod export_tests;
