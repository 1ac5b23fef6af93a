//! Devices: how a volume looks to those who use it. One trait, [`BlockDevice`], and the frontends that put
//! it in front of a client: NBD (a socket) and FUSE under a loop device (`/dev/loopN`). `process` and `remote` are the
//! device process: FUSE and loop device in a process of their own, in front of a replicator that comes and goes.
//!
//! Not here: what a write means for the volume. Whoever implements the trait assigns the order, waits for the quorum
//! and freezes or fences the device; a frontend only carries requests, in the order in which they came, and answers.

mod block;
mod error;
pub mod fuse;
pub mod kernel;
mod limits;
mod memory;
pub mod nbd;
mod pieces;
pub mod process;
pub mod remote;
mod sector;
mod submit;
#[cfg(test)]
mod tools;

pub use block::{BlockDevice, Extent, Geometry, IoError};
pub use error::DeviceError;
pub use fuse::{FuseDevice, StaleDevice, become_io_flusher};
pub use limits::{IO_BYTES_MAX, RANGE_BYTES_MAX};
pub use memory::MemoryDevice;
pub use nbd::{Exports, NbdListen, NbdServer, NbdTls, SingleExport};
pub use remote::RemoteDevice;
pub use sector::SectorDevice;
pub use submit::submit;
