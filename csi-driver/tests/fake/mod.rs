//! A replicator of `farshore.v1` in memory: volumes, sessions and snapshots as the real one keeps them, with switches for
//! what real ones do seldom. Where it is given a folder, its devices are real: loop devices over sparse files.

#![allow(dead_code)]

mod snapshots;
mod state;
mod volumes;

pub use state::Fake;
