//! The accepting side: what a member does with what the holder of an epoch, or a candidate, asks of it.
//!
//! Every member runs this, the primary's own node too: the local journal and a remote replica are the same kind of
//! acknowledger. Witnesses run it without a log, a node without a copy with one in memory. Not here: who may hold an epoch (candidate), who counts
//! (register, quorum).

mod acceptor;
mod journal;
mod lineage;
mod log;
mod memory;
mod promise;

pub use acceptor::{Recovered, Replica};
