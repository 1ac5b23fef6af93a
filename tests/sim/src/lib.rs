//! The simulator: the core of the replication protocol over simulated journals, stores, links and clocks.
//!
//! One seed fixes a whole run: who is slow, what breaks when, what the clients write, what the operator orders. The
//! code under test is [`farshore_core::volume::Volume`], the very one that the daemon drives. No thread, no clock, no
//! I/O: a run takes milliseconds and replays exactly.

mod branches;
mod catalogue;
mod clients;
pub mod dice;
pub mod disk;
mod effects;
mod forces;
mod fork;
pub mod journal;
mod knobs;
pub mod layout;
mod life;
pub mod medium;
mod moments;
pub mod neighbour;
mod nemesis;
pub mod network;
pub mod opening;
pub mod oracle;
mod orders;
mod pairs;
mod plots;
pub mod rules;
pub mod run;
pub mod schedule;
mod sessions;
mod shipments;
mod snapshots;
mod stage;
mod statement;
mod store;
pub mod stories;
pub mod sweep;
mod words;
pub mod world;
