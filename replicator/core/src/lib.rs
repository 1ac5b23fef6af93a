//! The replication protocol of one volume on one node, as a sans-IO state machine.
//!
//! No clock, socket, file, thread or random number is in here: time and randomness come in with [`api::Event`]s,
//! everything else goes out as [`api::Effect`]s. The daemon and the simulator drive this same code, by
//! [`volume::Volume`].

pub mod api;
mod candidate;
mod change;
pub mod codec;
mod contact;
#[cfg(test)]
mod diskless_tests;
#[cfg(test)]
mod distance_tests;
pub mod durable;
#[cfg(test)]
mod field_tests;
mod force;
#[cfg(test)]
mod force_tests;
pub mod history;
pub mod ids;
pub mod journal;
pub mod limits;
pub mod loss;
#[cfg(test)]
mod loss_tests;
pub mod mark;
#[cfg(test)]
mod marks_tests;
pub mod message;
pub mod overlay;
mod peers;
mod pipeline;
#[cfg(test)]
mod pipeline_tests;
#[cfg(test)]
mod places_tests;
pub mod primary;
pub mod quorum;
pub mod record;
pub mod register;
pub mod replica;
#[cfg(test)]
mod replica_tests;
pub mod sabotage;
pub mod sealed;
mod status;
pub mod tail;
pub mod volume;
#[cfg(test)]
mod volume_tests;
