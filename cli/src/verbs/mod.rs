//! What each verb does.

mod members;
mod replication;
mod run;
mod status;
mod volumes;

pub use run::run;
