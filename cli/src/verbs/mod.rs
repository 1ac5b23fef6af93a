//! What each verb does.

mod exports;
mod members;
mod replication;
mod run;
mod snapshots;
mod status;
mod volumes;

pub use run::run;
