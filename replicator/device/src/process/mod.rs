//! The device process: small, and it outlives the replicator. It holds the FUSE files and loop devices, so that a replicator
//! can be replaced, or killed, under a mounted file system.
//!
//! ```text
//!   ext4 ── /dev/loopN ── FUSE file ─┐ farshore-device                        replicator (any of its lives)
//!                                    └─ RemoteDevice ── NBD, unix socket ───► export <volume>@<session>
//!                                       server ◄── open, grow, close, list ── client
//! ```
//!
//! The replicator is the one who knows: which session may write, and when it is over. The process does what it is told and
//! decides nothing. It never ends a device by itself, however long its replicator is away; the way out of that is
//! the end of the process, which is the end of its devices: their I/O fails, and what is left of them is removed by the
//! next process when it starts.
//!
//! *Versions.* A process may be older than its replicator, by more than one version: it is replaced only where a node has
//! no volume in use. So a question is one line of JSON, and so is the answer; what is not known in it is ignored, and a
//! verb that is not known is refused.

mod client;
mod front;
mod message;
mod server;

#[cfg(test)]
mod tests;

pub use client::{DeviceProcess, ProcessError};
pub use front::FrontKind;
pub use message::{HeldDevice, Wanted};
pub use server::ProcessServer;
