//! csi-addons: moving the right to write between clusters, driven by their VolumeReplication resources.

mod identity;
mod info;
mod replication;

pub use identity::AddonsIdentity;
pub use replication::Addons;
