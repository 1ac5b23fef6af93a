//! What can go wrong with a device as a whole; a failed request is an `IoError` and goes to its client.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::block::IoError;

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(
        "nbd server on {address}: TCP beyond loopback needs TLS with client certificates; configure it or listen on a unix socket"
    )]
    TlsRequired { address: SocketAddr },
    #[error("nbd server: TLS configuration: {reason}")]
    Tls { reason: String },
    #[error("nbd server: listening on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error("nbd server: {path} is in use by a living server; stop it or choose another path")]
    SocketInUse { path: PathBuf },

    #[error("device {name:?}: a volume's name must be 1 to 200 bytes, without '/', NUL, and not '.' or '..'")]
    BadName { name: String },
    #[error("device {name}: already attached on this node")]
    AlreadyAttached { name: String },
    #[error("device {name}: a logical block of {bytes} bytes is not supported; use 512 or 4096")]
    BadBlock { name: String, bytes: u32 },
    #[error("device {name}: this node has no {what}; load the kernel module or use the nbd frontend")]
    Missing { name: String, what: &'static str },
    #[error("device {name}: {operation} {object}: {source}")]
    System { name: String, operation: &'static str, object: String, source: io::Error },
    #[error("device {name}: flushing before the detach: {source}; detach again (or force)")]
    Flush { name: String, source: IoError },
    #[error(
        "device {name}: the kernel did not turn direct I/O on for {loop_path}; refused, as its page cache would lose acknowledged writes"
    )]
    NoDirectIo { name: String, loop_path: PathBuf },
    #[error("device {name}: {loop_path} is in use by {users}; stop them or unmount, then detach again (or force)")]
    InUse { name: String, loop_path: PathBuf, users: String },
    #[error(
        "device {name}: {loop_path} did not {operation} within {seconds} s; the volume may be frozen, see its status (or force)"
    )]
    Stuck { name: String, loop_path: PathBuf, operation: &'static str, seconds: u64 },
}

impl DeviceError {
    pub(super) fn system(
        name: &str,
        operation: &'static str,
        object: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::System { name: name.to_owned(), operation, object: object.into(), source: source.into() }
    }
}
