//! NBD as a client may speak it: the device's own files, compiled here without their sockets.

#[path = "../../../replicator/device/src/block.rs"]
mod block;
#[path = "../../../replicator/device/src/limits.rs"]
mod limits;
mod nbd;

pub use block::{BlockDevice, Geometry, IoError};
pub use nbd::{negotiation, negotiation_seeds, request_seeds, requests};
