//! What a device process puts in front of a volume's users: FUSE under a loop device, or the kernel's own NBD.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::message::Wanted;
use crate::kernel::KernelDevice;
use crate::remote::RemoteDevice;
use crate::{BlockDevice, DeviceError, FuseDevice};

/// Which of the two a process makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontKind {
    Fuse,
    Kernel,
}

pub enum Front {
    Fuse { remote: Arc<RemoteDevice>, fuse: FuseDevice },
    Kernel { export: String, path: PathBuf, size_bytes: u64, device: Arc<Mutex<KernelDevice>> },
}

impl Front {
    pub async fn make(kind: FrontKind, wanted: &Wanted, runtime_dir: &Path) -> Result<Front, DeviceError> {
        match kind {
            FrontKind::Fuse => {
                let remote = Arc::new(RemoteDevice::new(&wanted.socket, &wanted.export, wanted.geometry()));
                let fuse = FuseDevice::attach(&wanted.name, remote.clone(), runtime_dir).await?;
                Ok(Front::Fuse { remote, fuse })
            }
            FrontKind::Kernel => {
                let (wanted, runtime) = (wanted.clone(), Handle::current());
                let export = wanted.export.clone();
                let size_bytes = wanted.size_bytes;
                let making = spawn_blocking(move || {
                    KernelDevice::attach(&wanted.socket, &wanted.export, wanted.geometry(), &runtime)
                });
                let device = making.await.unwrap_or_else(|error| Err(failed(&export, "making", error)))?;
                Ok(Front::Kernel { path: device.path(), export, size_bytes, device: Arc::new(Mutex::new(device)) })
            }
        }
    }

    pub fn path(&self) -> PathBuf {
        match self {
            Front::Fuse { fuse, .. } => fuse.loop_path(),
            Front::Kernel { path, .. } => path.clone(),
        }
    }

    pub fn size_bytes(&self) -> u64 {
        match self {
            Front::Fuse { remote, .. } => remote.geometry().size_bytes,
            Front::Kernel { size_bytes, .. } => *size_bytes,
        }
    }

    pub fn is_connected(&self) -> bool {
        match self {
            Front::Fuse { remote, .. } => remote.is_connected(),
            Front::Kernel { device, .. } => device.lock().unwrap_or_else(PoisonError::into_inner).is_connected(),
        }
    }

    /// Requests without an answer, where this process has them.
    pub fn waiting(&self) -> usize {
        match self {
            Front::Fuse { remote, .. } => remote.waiting(),
            Front::Kernel { .. } => 0,
        }
    }

    pub fn server_at(&self, socket: &Path) {
        if let Front::Fuse { remote, .. } = self {
            remote.server_at(socket);
        }
    }

    pub async fn grow(&self, size_bytes: u64) -> Result<(), DeviceError> {
        match self {
            Front::Fuse { remote, fuse } => {
                remote.grow(size_bytes);
                fuse.grow().await
            }
            Front::Kernel { export, device, .. } => on(export, device, "growing", move |d| d.grow(size_bytes)).await,
        }
    }

    pub async fn detach(&self) -> Result<(), DeviceError> {
        match self {
            Front::Fuse { remote, fuse } => {
                fuse.detach().await?;
                remote.end("it was detached");
                Ok(())
            }
            Front::Kernel { export, device, .. } => on(export, device, "ending", KernelDevice::detach).await,
        }
    }

    /// Everything fails from now on, whoever uses the device.
    pub async fn detach_by_force(&self) -> Result<(), DeviceError> {
        match self {
            Front::Fuse { remote, fuse } => {
                // First, so that nothing waits any more for what has to end.
                remote.end("its session has ended");
                fuse.detach_by_force().await;
                Ok(())
            }
            Front::Kernel { export, device, .. } => on(export, device, "ending", KernelDevice::detach_by_force).await,
        }
    }
}

/// Netlink, and the flush before an end, block.
async fn on(
    export: &str,
    device: &Arc<Mutex<KernelDevice>>,
    operation: &'static str,
    work: impl FnOnce(&mut KernelDevice) -> std::io::Result<()> + Send + 'static,
) -> Result<(), DeviceError> {
    let device = device.clone();
    let working = spawn_blocking(move || work(&mut device.lock().unwrap_or_else(PoisonError::into_inner)));
    match working.await {
        Ok(result) => result.map_err(|error| failed(export, operation, error)),
        Err(error) => Err(failed(export, operation, error)),
    }
}

fn failed(
    export: &str,
    operation: &'static str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> DeviceError {
    DeviceError::system(export, operation, "the kernel's nbd device", std::io::Error::other(error))
}
