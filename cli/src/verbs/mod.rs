//! What each verb does.

mod drill;
mod drill_images;
mod exports;
mod failback;
mod fence;
mod many;
mod members;
mod replication;
mod run;
mod schedules;
mod snapshots;
mod status;
mod volumes;

pub use run::run;
