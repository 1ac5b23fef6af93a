//! What is done for the cluster: volumes, publishing, snapshots and groups of them, what changed between them.

mod capacity;
mod cluster;
mod create;
mod expand;
mod group;
mod list;
mod metadata;
mod placement;
mod publish;
mod service;
mod snapshots;
mod volume;

pub use cluster::Cluster;
pub use volume::{accessible, condition};
