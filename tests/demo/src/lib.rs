//! The demo: three sites on this machine, PostgreSQL on a volume, one site killed under load, nothing lost.
//!
//! It drives the real binaries as an operator would, and believes only what it has checked itself: its ledger of
//! confirmed commits is kept off the volume. It is written as one thread that waits, because that is how a story reads;
//! what must go on meanwhile (the load, the neighbours) runs in processes and threads of its own.

pub mod cleanup;
pub mod error;
pub mod failover;
pub mod farshore;
pub mod filesystem;
pub mod ledger;
pub mod load;
pub mod machine;
pub mod neighbour;
pub mod postgres;
pub mod process;
pub mod proof;
pub mod rehearsal;
pub mod report;
pub mod sites;
pub mod story;
pub mod wait;
