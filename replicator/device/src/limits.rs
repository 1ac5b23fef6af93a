//! Every bound of the frontends, in one place.

use std::time::Duration;

use farshore_core::ids::BLOCK_BYTES;
use farshore_core::record::{RECORD_PAYLOAD_MAX, RECORD_RANGE_MAX};

/// The most data that one `read` or `write` call on a `BlockDevice` carries: what fits into one record.
pub const IO_BYTES_MAX: u32 = RECORD_PAYLOAD_MAX as u32;
/// The longest range of one `discard` or `write_zeroes` call.
pub const RANGE_BYTES_MAX: u64 = RECORD_RANGE_MAX;

/// The largest read or write a client may ask for: what the protocol lets every client assume, and what we advertise.
pub const NBD_PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// What we recommend to clients as the size of an I/O.
pub const NBD_PREFERRED_BYTES: u32 = 64 << 10;
/// The payload of a refused write is read and dropped up to this length, to stay in step; a longer one ends the connection.
pub const NBD_SKIP_BYTES_MAX: u32 = 128 << 20;
/// Requests that one connection may have in flight; more wait in the socket.
pub const NBD_IN_FLIGHT_MAX: usize = 256;
/// Payload bytes (of writes and of reads) that one connection may have in flight.
pub const NBD_IN_FLIGHT_BYTES_MAX: u32 = 64 << 20;
/// The same over all connections of a server.
pub const NBD_SERVER_BYTES_MAX: u32 = 512 << 20;
pub const NBD_CONNECTIONS_MAX: usize = 64;
/// The longest option a client may send while it negotiates; a longer one is refused by name.
pub const NBD_OPTION_BYTES_MAX: u32 = 64 << 10;
/// An option longer than this is not even skipped.
pub const NBD_OPTION_SKIP_BYTES_MAX: u32 = 1 << 20;
/// The protocol's own limit for names.
pub const NBD_NAME_BYTES_MAX: u32 = 4096;
/// Extents in one answer to BLOCK_STATUS; the client asks again for the rest.
pub const NBD_EXTENTS_MAX: usize = 1024;
/// From accept to the end of the negotiation, TLS included.
pub const NBD_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long `stop` waits for requests in flight before it drops the connections.
pub const NBD_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Between a remote device's attempts to reach its server, which is on the same machine.
pub const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(10);
pub const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// The largest request that the kernel sends us over FUSE.
pub const FUSE_IO_BYTES_MAX: u32 = 1 << 20;
/// Requests that the kernel keeps in flight per device.
pub const FUSE_IN_FLIGHT_MAX: u16 = 128;
/// Payload bytes in flight per device; beyond it the daemon stops reading `/dev/fuse`.
pub const FUSE_IN_FLIGHT_BYTES_MAX: u32 = 64 << 20;
/// Threads that read `/dev/fuse`; they only copy and dispatch.
pub const FUSE_THREADS: usize = 2;
/// A volume's name is a directory's name.
pub const VOLUME_NAME_BYTES_MAX: usize = 200;
/// How often another free loop device is tried when others take them at the same time.
pub const LOOP_ATTEMPTS_MAX: usize = 64;
/// How long `detach` waits for a passing user (udev's probe), and for the kernel to let go.
pub const DETACH_PATIENCE: Duration = Duration::from_secs(5);
/// The longest question to a device process, and its longest answer: names and numbers of a node's devices.
pub const PROCESS_LINE_BYTES_MAX: u64 = 1 << 20;
/// How long a replicator waits for a device process: a detach flushes.
pub const PROCESS_PATIENCE: Duration = Duration::from_secs(75);
/// How long `detach` waits for the device's flush.
pub const DETACH_FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

const _: () = assert!(NBD_PAYLOAD_BYTES_MAX <= NBD_IN_FLIGHT_BYTES_MAX);
const _: () = assert!(NBD_IN_FLIGHT_BYTES_MAX <= NBD_SERVER_BYTES_MAX);
const _: () = assert!(NBD_PAYLOAD_BYTES_MAX <= NBD_SKIP_BYTES_MAX);
const _: () = assert!(NBD_NAME_BYTES_MAX < NBD_OPTION_BYTES_MAX && NBD_OPTION_BYTES_MAX < NBD_OPTION_SKIP_BYTES_MAX);
const _: () = assert!(PROCESS_PATIENCE.as_secs() > DETACH_FLUSH_TIMEOUT.as_secs() + 2 * DETACH_PATIENCE.as_secs());
const _: () = assert!(FUSE_IO_BYTES_MAX <= IO_BYTES_MAX && FUSE_IO_BYTES_MAX <= FUSE_IN_FLIGHT_BYTES_MAX);
const _: () = assert!((IO_BYTES_MAX as u64).is_multiple_of(BLOCK_BYTES) && RANGE_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
