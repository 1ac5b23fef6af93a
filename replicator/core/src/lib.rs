//! The replication protocol of one volume on one node, as a sans-IO state machine.
//!
//! No clock, socket, file, thread or random number is in here: time and randomness come in with events, everything
//! else goes out as effects. The daemon and the simulator drive this same code.

pub mod codec;
pub mod ids;
pub mod journal;
pub mod record;
