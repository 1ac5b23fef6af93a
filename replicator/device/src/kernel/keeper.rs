//! One kernel device: made, kept connected by a thread of its own, and ended.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::netlink::{
    ATTR_BACKEND_IDENTIFIER, ATTR_BLOCK_SIZE_BYTES, ATTR_DEAD_CONN_TIMEOUT, ATTR_INDEX, ATTR_SERVER_FLAGS,
    ATTR_SIZE_BYTES, ATTR_TIMEOUT, Attributes, CONNECT, DISCONNECT, NbdFamily, RECONFIGURE, find_u32,
};
use super::{DEAD_CONNECTION_SECONDS, REQUEST_SECONDS};
use crate::limits::{NBD_HANDSHAKE_TIMEOUT, RECONNECT_PAUSE_MAX, RECONNECT_PAUSE_MIN};
use crate::nbd::wire;
use crate::remote::{Export, choose};
use crate::{DeviceError, Geometry};

/// How often the keeper looks whether it shall end.
const LOOK_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

struct Shared {
    index: u32,
    socket: PathBuf,
    export: String,
    ended: AtomicBool,
    connected: AtomicBool,
}

/// `/dev/nbdN`, for as long as it is not ended. Dropping it leaves the device to the kernel, as a crash does.
pub struct KernelDevice {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

impl KernelDevice {
    /// The server must be there. `runtime` is for the handshakes; this blocks, and so runs outside its workers.
    ///
    /// A device that the kernel has for this export, from a keeper that died, is kept from now on.
    pub fn attach(
        socket: &Path,
        export: &str,
        geometry: Geometry,
        runtime: &Handle,
    ) -> Result<KernelDevice, DeviceError> {
        let failed = |operation, error| DeviceError::system(export, operation, "the kernel's nbd device", error);
        if let Some(index) = index_of(export) {
            tracing::info!(export, index, "the kernel has this device from before");
            return KernelDevice::keep(index, socket, export, None, runtime).map_err(|error| failed("keeping", error));
        }
        let (connection, told) =
            runtime.block_on(connect(socket, export)).map_err(|error| failed("connecting", error))?;
        // Without a cache of its own nothing needs to be flushed.
        let cache = if geometry.volatile_cache { 0 } else { wire::EXPORT_SEND_FLUSH | wire::EXPORT_SEND_FUA };
        let wanted = Attributes::default()
            .u64(ATTR_SIZE_BYTES, geometry.size_bytes)
            .u64(ATTR_BLOCK_SIZE_BYTES, geometry.logical_block_bytes.into())
            .u64(ATTR_TIMEOUT, REQUEST_SECONDS)
            .u64(ATTR_DEAD_CONN_TIMEOUT, DEAD_CONNECTION_SECONDS)
            .u64(ATTR_SERVER_FLAGS, (told.flags & !cache).into())
            .text(ATTR_BACKEND_IDENTIFIER, export)
            .socket(connection.as_fd());
        let answer = NbdFamily::open().and_then(|nbd| nbd.ask(CONNECT, &wanted));
        let answer = answer.map_err(|error| failed("making (is nbd.ko loaded?)", error))?;
        let index = find_u32(&answer, ATTR_INDEX)
            .ok_or_else(|| failed("making", io::Error::other("the kernel did not tell its number")))?;
        KernelDevice::keep(index, socket, export, Some(connection), runtime).map_err(|error| failed("keeping", error))
    }

    /// Without a connection of ours the kernel may have one that lives: it is followed by the next, and then ends.
    fn keep(
        index: u32,
        socket: &Path,
        export: &str,
        connection: Option<OwnedFd>,
        runtime: &Handle,
    ) -> io::Result<KernelDevice> {
        let (socket, export, ended) = (socket.to_owned(), export.to_owned(), AtomicBool::new(false));
        let shared =
            Arc::new(Shared { index, socket, export, ended, connected: AtomicBool::new(connection.is_some()) });
        let (kept, runtime) = (shared.clone(), runtime.clone());
        let keeper = std::thread::Builder::new().name(format!("nbd{index}")).spawn(move || {
            crate::become_io_flusher();
            kept.keep(connection, &runtime);
        })?;
        Ok(KernelDevice { shared, keeper: Some(keeper) })
    }

    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/nbd{}", self.shared.index))
    }

    /// Takes over a larger size.
    pub fn grow(&self, size_bytes: u64) -> io::Result<()> {
        NbdFamily::open()?.ask(RECONFIGURE, &self.shared.named().u64(ATTR_SIZE_BYTES, size_bytes)).map(drop)
    }

    /// Flushes and ends it; fails with ResourceBusy while it is mounted or held.
    pub fn detach(&mut self) -> io::Result<()> {
        let alone = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(self.path())?;
        File::sync_all(&alone)?;
        drop(alone);
        self.detach_by_force()
    }

    /// Whoever uses it: every request fails from now on.
    pub fn detach_by_force(&mut self) -> io::Result<()> {
        self.shared.ended.store(true, Ordering::Release);
        NbdFamily::open()?.ask(DISCONNECT, &Attributes::default().u32(ATTR_INDEX, self.shared.index))?;
        if let Some(keeper) = self.keeper.take() {
            // It has nothing to tell.
            let _ = keeper.join();
        }
        Ok(())
    }
}

impl Drop for KernelDevice {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
    }
}

impl Shared {
    fn named(&self) -> Attributes {
        Attributes::default().u32(ATTR_INDEX, self.index).text(ATTR_BACKEND_IDENTIFIER, &self.export)
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Gives the kernel the next connection whenever one has ended.
    fn keep(&self, mut connection: Option<OwnedFd>, runtime: &Handle) {
        let mut pause = RECONNECT_PAUSE_MIN;
        while !self.ended() {
            if let Some(lives) = &connection {
                if has_ended(lives) {
                    tracing::warn!(export = self.export, index = self.index, "the connection ended; requests wait");
                    self.connected.store(false, Ordering::Relaxed);
                    connection = None;
                    pause = RECONNECT_PAUSE_MIN;
                }
                continue;
            }
            match self.replace(runtime) {
                Ok(next) => {
                    tracing::info!(export = self.export, index = self.index, "connected again");
                    self.connected.store(true, Ordering::Relaxed);
                    connection = Some(next);
                }
                Err(error) => {
                    tracing::debug!(export = self.export, %error, "no connection yet");
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
                }
            }
        }
    }

    fn replace(&self, runtime: &Handle) -> io::Result<OwnedFd> {
        let (connection, _) = runtime.block_on(connect(&self.socket, &self.export))?;
        NbdFamily::open()?.ask(RECONFIGURE, &self.named().socket(connection.as_fd()))?;
        Ok(connection)
    }
}

/// The number of the kernel's device for that export.
fn index_of(export: &str) -> Option<u32> {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries
        .filter(|entry| std::fs::read_to_string(entry.path().join("backend")).is_ok_and(|name| name.trim() == export))
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("nbd")?.parse().ok())
}

/// Whether the other side has gone, after a moment. What it sends is for the kernel, and wakes nobody here.
fn has_ended(connection: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(connection, PollFlags::RDHUP)];
    match poll(&mut watched, Some(&LOOK_INTERVAL)) {
        Ok(0) => false,
        Ok(_) => true,
        Err(_) => {
            std::thread::sleep(Duration::from_millis(200));
            false
        }
    }
}

async fn connect(socket: &Path, export: &str) -> io::Result<(OwnedFd, Export)> {
    let mut stream = UnixStream::connect(socket).await?;
    let told = timeout(NBD_HANDSHAKE_TIMEOUT, choose(&mut stream, export)).await;
    let told = told.unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
    let stream = stream.into_std()?;
    // The kernel reads and writes it as a blocking one.
    stream.set_nonblocking(false)?;
    Ok((stream.into(), told))
}
