//! `FuseDevice`: a volume as `/dev/loopN`, from attach to detach.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::attachment::{Attachment, Place};
use super::loop_device::LoopDevice;
use super::stale::{StaleDevice, cleanup};
use super::users::Users;
use crate::limits::{DETACH_FLUSH_TIMEOUT, DETACH_PATIENCE};
use crate::{BlockDevice, DeviceError, IoError};

const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Tells the kernel that the calling thread serves the block layer, so that its allocations never wait for a write to
/// our own device. For every thread of the daemon that takes part in I/O; without CAP_SYS_RESOURCE it does nothing.
pub fn become_io_flusher() {
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        tracing::debug!(%error, "PR_SET_IO_FLUSHER is not permitted here; under memory pressure a device may stall");
    }
}

/// An attached device. Dropping it is [`detach_by_force`](Self::detach_by_force).
pub struct FuseDevice {
    place: Place,
    device: Arc<dyn BlockDevice>,
    loop_device: LoopDevice,
    /// None once it is detached.
    attachment: Arc<Mutex<Option<Attachment>>>,
}

impl FuseDevice {
    /// Attaches `device` as a loop device. `runtime_dir` holds one directory per attached volume and should be on a file
    /// system that ends with the boot (`/run`). Remains of this volume that a dead daemon left there are removed.
    pub async fn attach(
        name: &str,
        device: Arc<dyn BlockDevice>,
        runtime_dir: &Path,
    ) -> Result<FuseDevice, DeviceError> {
        let place = Place::new(name, runtime_dir)?;
        let runtime = Handle::current();
        let made = {
            let (place, device) = (place.clone(), device.clone());
            off_the_workers(name, move || Attachment::create(place, device, runtime)).await?
        };
        let loop_device = made.loop_device().expect("create returns with a loop device or fails");
        tracing::info!(volume = name, device = %loop_device.path().display(), "device attached");
        Ok(FuseDevice { place, device, loop_device, attachment: Arc::new(Mutex::new(Some(made))) })
    }

    /// `/dev/loopN`.
    pub fn loop_path(&self) -> PathBuf {
        self.loop_device.path()
    }

    /// Takes over a new, larger size of the device.
    pub async fn grow(&self) -> Result<(), DeviceError> {
        let (place, device) = (self.place.clone(), self.loop_device);
        off_the_workers(&self.place.name, move || {
            let failed = |operation, path: PathBuf, error: io::Error| {
                DeviceError::system(&place.name, operation, path.display().to_string(), error)
            };
            // The kernel learns the file's size by asking for it.
            std::fs::metadata(place.file()).map_err(|error| failed("reading", place.file(), error))?;
            device.set_capacity().map_err(|error| failed("growing", device.path(), error))
        })
        .await
    }

    /// Flushes and detaches. Refused while it is mounted, claimed or held open, with
    /// the users' names; a passing opener (udev's probe) is waited for.
    pub async fn detach(&self) -> Result<(), DeviceError> {
        if self.lock().is_none() {
            return Ok(());
        }
        let name = self.place.name.as_str();
        let device = self.loop_device;
        let owned_name = name.to_owned();
        let exclusive = off_the_workers(name, move || claim_exclusively(&owned_name, &device)).await?;
        self.flush().await?;
        let attachment = self.attachment.clone();
        off_the_workers(name, move || {
            let mut slot = lock(&attachment);
            let Some(held) = slot.take() else { return Ok(()) };
            held.close(exclusive).map_err(|back| {
                let (held, error) = *back;
                *slot = Some(held);
                error
            })
        })
        .await?;
        tracing::info!(volume = name, device = %self.loop_path().display(), "device detached");
        Ok(())
    }

    /// Detaches whoever uses it: I/O in flight and all later I/O fails, a file system on it goes read-only, the loop device
    /// vanishes with its last user. For a fenced or frozen volume.
    pub async fn detach_by_force(&self) {
        let attachment = self.attachment.clone();
        let dropped = off_the_workers(&self.place.name, move || {
            let held = lock(&attachment).take();
            drop(held);
            Ok(())
        });
        if let Err(error) = dropped.await {
            tracing::warn!(volume = self.place.name, %error, "forced detach");
        }
    }

    /// Ends what daemons that died left under `runtime_dir`: stale mounts and loop devices. Places held by a living
    /// process are not touched. Blocks; call it at start, before anything is attached.
    pub fn cleanup_stale(runtime_dir: &Path) -> Result<Vec<StaleDevice>, DeviceError> {
        cleanup(runtime_dir)
    }

    /// The page cache has nothing left to write, as its last user's close wrote it; what remains is the device's own
    /// cache. A frozen volume does not answer: then the caller decides whether to use force.
    async fn flush(&self) -> Result<(), DeviceError> {
        if self.device.geometry().read_only {
            return Ok(());
        }
        match tokio::time::timeout(DETACH_FLUSH_TIMEOUT, self.device.flush()).await {
            Ok(Ok(())) => Ok(()),
            // There is nothing to be saved any more, and nothing was promised.
            Ok(Err(IoError::Fenced(reason))) => {
                tracing::warn!(volume = self.place.name, reason, "detached without a flush");
                Ok(())
            }
            Ok(Err(source)) => Err(DeviceError::Flush { name: self.place.name.clone(), source }),
            Err(_) => Err(DeviceError::Stuck {
                name: self.place.name.clone(),
                loop_path: self.loop_path(),
                operation: "flush",
                seconds: DETACH_FLUSH_TIMEOUT.as_secs(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Attachment>> {
        lock(&self.attachment)
    }
}

fn lock(attachment: &Mutex<Option<Attachment>>) -> MutexGuard<'_, Option<Attachment>> {
    attachment.lock().expect("no code panics while it holds this lock")
}

/// Blocking work, and I/O on our own devices above all, must not occupy the workers that answer that I/O.
async fn off_the_workers<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, DeviceError> + Send + 'static,
) -> Result<T, DeviceError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(DeviceError::system(name, "working on", "the device", io::Error::other(error))),
    }
}

/// The loop device with nobody else on it. A mount or another claim is refused at once, an opener after some patience.
fn claim_exclusively(name: &str, device: &LoopDevice) -> Result<File, DeviceError> {
    let deadline = Instant::now() + DETACH_PATIENCE;
    loop {
        let users = Users::of(device);
        if users.claims.is_empty() && users.openers.is_empty() {
            match device.open_exclusive() {
                Ok(exclusive) => return Ok(exclusive),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => {
                    return Err(DeviceError::system(name, "claiming", device.path().display().to_string(), error));
                }
            }
        }
        if !users.claims.is_empty() || Instant::now() >= deadline {
            let (name, loop_path) = (name.to_owned(), device.path());
            return Err(DeviceError::InUse { name, loop_path, users: users.names() });
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}
