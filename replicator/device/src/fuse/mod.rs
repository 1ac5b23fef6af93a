//! A block device on nearly every kernel: a file served by FUSE, under a loop device.
//!
//! ```text
//!   ext4 ── /dev/loopN ── loop (direct I/O) ── <runtime dir>/<volume>/mnt/<volume> ── /dev/fuse ── volume_file ─► device
//! ```
//! The kernel caches nothing: the loop device does direct I/O on the file, and the file is opened with
//! `FOPEN_DIRECT_IO`. Every completion that a user of `/dev/loopN` sees is one of the `BlockDevice`.
//!
//! What it cannot do: survive the daemon. When the daemon dies, I/O on the loop device fails; `cleanup_stale` removes the
//! remains. Attaching needs root, `/dev/fuse` and `/dev/loop-control`.

mod attachment;
mod device;
mod loop_device;
mod stale;
mod users;
mod volume_file;

#[cfg(test)]
mod tests;

pub use device::{FuseDevice, become_io_flusher};
pub use stale::StaleDevice;
