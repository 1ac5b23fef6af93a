//! The driver as its callers see it, over gRPC, in front of a replicator in memory.

mod addons;
mod apiserver;
mod claims;
mod driver;
#[path = "../fake/mod.rs"]
mod fake;
mod faults;
mod node;
mod publishing;
mod readers;
mod snapshots;
mod volumes;
