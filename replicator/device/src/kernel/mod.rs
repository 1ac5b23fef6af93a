//! A volume as the kernel's own NBD device, `/dev/nbdN`: the data goes from the kernel to the replicator without a process
//! between them. What is here makes the connections and hands them to the kernel.
//!
//! ```text
//!   ext4 ── /dev/nbdN ── nbd.ko ═ unix socket ═► replicator: export <volume>@<session>
//!                          ▲ CONNECT, RECONFIGURE (netlink)
//!                        keeper: when a connection has ended, the next one
//! ```
//! The kernel keeps the requests of a connection that ended and sends them again over the next one, for as long as
//! [`DEAD_CONNECTION_SECONDS`] says. It may answer requests that overlap in any order, as it may at all times; `remote` promises
//! more. The device is known to the kernel by the name of its export, so that no other session's connection is ever put
//! under it.

mod keeper;
mod netlink;

pub use keeper::KernelDevice;

/// How long the kernel keeps requests without a connection. Until then the replicator is back, or has ended the device.
pub const DEAD_CONNECTION_SECONDS: u64 = 30 * 24 * 3600;
/// A request that has no answer for so long is sent again when its connection has ended, and ends the connection
/// otherwise: it must be short, as nothing else has the requests of a dead connection sent again.
pub const REQUEST_SECONDS: u64 = 10;
