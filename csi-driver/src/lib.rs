//! CSI and csi-addons in front of the replicator. No storage code: every decision about a volume is the replicator's.

pub mod addons;
pub mod args;
pub mod busy;
pub mod capability;
pub mod claims;
pub mod controller;
pub mod identity;
pub mod names;
pub mod node;
pub mod parameters;
pub mod places;
pub mod refusal;
pub mod replicator;
pub mod server;
pub mod sizes;
