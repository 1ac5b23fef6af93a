//! What an attached device holds in the kernel and on disk, taken in order and given back in reverse.
//!
//! ```text
//!   <runtime dir>/<volume>/lock    flock held for life; names the loop device, for those who come after a crash
//!   <runtime dir>/<volume>/mnt     the FUSE mount, with one file `<volume>`
//!   /dev/loopN                     its backing file is that one
//! ```
//! Whoever gets the lock of a place that still has a mount or a loop device has found the remains of a dead daemon.
//!
//! All functions here block; they run outside the runtime's workers, which meanwhile serve the device's I/O. None of them
//! waits in the kernel for that I/O: a daemon that did could not be killed while its volume is frozen.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use rustix::fs::FlockOperation;
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::runtime::Handle;

use super::device::become_io_flusher;
use super::loop_device::{LoopDevice, LoopSetup};
use super::volume_file::VolumeFile;
use crate::limits::{DETACH_PATIENCE, FUSE_IO_BYTES_MAX, FUSE_THREADS, VOLUME_NAME_BYTES_MAX};
use crate::{BlockDevice, DeviceError, Geometry};

/// Mounts stacked on one place by daemons that died one after the other.
const STACKED_MOUNTS_MAX: usize = 16;
/// How long an aborted session's threads may take to notice; they are not waited for beyond that.
const SESSION_END_PATIENCE: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
const RECORD_BYTES_MAX: u64 = 128;

/// Where a volume's device lives on disk.
#[derive(Debug, Clone)]
pub struct Place {
    pub name: String,
    dir: PathBuf,
}

impl Place {
    pub fn new(name: &str, runtime_dir: &Path) -> Result<Place, DeviceError> {
        let bad = name.is_empty()
            || name.len() > VOLUME_NAME_BYTES_MAX
            || name.contains(['/', '\0'])
            || name == "."
            || name == "..";
        if bad {
            return Err(DeviceError::BadName { name: name.to_owned() });
        }
        Ok(Place { name: name.to_owned(), dir: runtime_dir.join(name) })
    }

    pub fn lock_path(&self) -> PathBuf {
        self.dir.join("lock")
    }

    pub fn mount_point(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    pub fn file(&self) -> PathBuf {
        self.mount_point().join(&self.name)
    }

    fn failed(&self, operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DeviceError {
        let (name, object) = (self.name.clone(), path.display().to_string());
        move |source| DeviceError::System { name, operation, object, source }
    }

    /// Takes the place for this process, or finds that a living one has it.
    pub fn claim(&self) -> Result<Claim, DeviceError> {
        let path = self.lock_path();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(self.failed("creating", &self.dir))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(&path).map_err(self.failed("opening", &path))?;
        if let Err(error) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            return Err(match error {
                rustix::io::Errno::WOULDBLOCK => DeviceError::AlreadyAttached { name: self.name.clone() },
                error => self.failed("locking", &path)(error.into()),
            });
        }
        // The holder before us may have removed the file between our open and our lock.
        let same = fs::metadata(&path).ok().zip(lock.metadata().ok()).is_some_and(|(a, b)| a.ino() == b.ino());
        if !same {
            return Err(DeviceError::AlreadyAttached { name: self.name.clone() });
        }
        let mut record = String::new();
        // A record that is not text is none of ours.
        let _ = (&mut lock).take(RECORD_BYTES_MAX).read_to_string(&mut record);
        Ok(Claim { lock, left: parse_record(&record, &boot_id()) })
    }

    /// Gives the place back to the file system; what is in use stays, and is found again by `cleanup_stale`.
    fn remove(&self) {
        let _ = fs::remove_dir(self.mount_point());
        let _ = fs::remove_file(self.lock_path());
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The lock of a place, and the loop device that an earlier life recorded in it.
pub struct Claim {
    lock: File,
    left: Option<LoopDevice>,
}

/// `<boot id> <number> <disk sequence>`: disk sequences start anew with every boot.
fn parse_record(record: &str, boot_id: &str) -> Option<LoopDevice> {
    let mut fields = record.split_whitespace();
    if fields.next()? != boot_id {
        return None;
    }
    Some(LoopDevice { number: fields.next()?.parse().ok()?, diskseq: fields.next()?.parse().ok()? })
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Claim {
    fn record(&mut self, device: &LoopDevice) -> io::Result<()> {
        self.lock.set_len(0)?;
        self.lock.rewind()?;
        writeln!(self.lock, "{} {} {}", boot_id(), device.number, device.diskseq)
    }

    /// Ends what an earlier life left in the kernel: its I/O fails from now on. Returns its loop device, if any, and
    /// whether somebody still uses it.
    pub fn clear_remains(&self, place: &Place) -> Result<Option<(PathBuf, bool)>, DeviceError> {
        for _ in 0..STACKED_MOUNTS_MAX {
            if !abort_mount(&place.mount_point()) {
                break;
            }
        }
        // Known by its recorded sequence number alone, never by its file's path: another node on this kernel (nodes can be
        // containers) may have a living device whose path in its own mount namespace reads the same. A daemon that dies
        // between making its device and recording it leaves one that nobody was ever told of.
        let Some(device) = self.left.filter(LoopDevice::exists) else { return Ok(None) };
        device.clear_anyhow().map_err(place.failed("clearing", &device.path()))?;
        let still_used = !wait_for(DETACH_PATIENCE / 10, || !device.exists());
        Ok(Some((device.path(), still_used)))
    }

    pub fn discard(self, place: &Place) {
        place.remove();
    }
}

impl Drop for Claim {
    /// By name, not by closing: a child that was forked a moment ago holds the file open until it executes its program.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Cuts a FUSE mount off, whatever is in flight, and takes it out of the tree. False when there was none.
fn abort_mount(mount_point: &Path) -> bool {
    // FORCE aborts the connection even where it then finds the mount busy; DETACH removes it regardless.
    let forced = rustix::mount::unmount(mount_point, UnmountFlags::FORCE);
    match forced {
        Ok(()) => true,
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => false,
        Err(_) => rustix::mount::unmount(mount_point, UnmountFlags::DETACH).is_ok(),
    }
}

pub fn wait_for(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    true
}

/// An attached device. Dropping it is a forced detach: I/O in flight fails, nothing is left behind.
pub struct Attachment {
    place: Place,
    claim: Option<Claim>,
    session: Option<JoinHandle<io::Result<()>>>,
    /// The minor of the mount's device number: the connection's name in sysfs.
    connection: Option<u32>,
    loop_device: Option<LoopDevice>,
}

impl Attachment {
    pub fn create(place: Place, device: Arc<dyn BlockDevice>, runtime: Handle) -> Result<Attachment, DeviceError> {
        let geometry = device.geometry();
        if !matches!(geometry.logical_block_bytes, 512 | 4096) {
            return Err(DeviceError::BadBlock { name: place.name, bytes: geometry.logical_block_bytes });
        }
        for what in ["/dev/fuse", "/dev/loop-control"] {
            if !Path::new(what).exists() {
                return Err(DeviceError::Missing { name: place.name, what });
            }
        }
        let claim = place.claim()?;
        claim.clear_remains(&place)?;
        // From here on a failure is undone by the drop.
        let mut made = Attachment { place, claim: Some(claim), session: None, connection: None, loop_device: None };
        let used = Arc::new(AtomicBool::new(false));
        made.mount(VolumeFile::new(&made.place.name, device, runtime, used.clone()))?;
        made.attach_loop(&geometry)?;
        used.store(true, Ordering::Release);
        Ok(made)
    }

    fn mount(&mut self, filesystem: VolumeFile) -> Result<(), DeviceError> {
        let point = self.place.mount_point();
        match fs::create_dir(&point) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(self.place.failed("creating", &point)(error));
            }
            _ => {}
        }
        let dev_fuse = Path::new("/dev/fuse");
        let channel =
            OpenOptions::new().read(true).write(true).open(dev_fuse).map_err(self.place.failed("opening", dev_fuse))?;
        let options = format!(
            "fd={},rootmode=40700,user_id={},group_id={},max_read={FUSE_IO_BYTES_MAX}\0",
            channel.as_raw_fd(),
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).expect("one NUL, at the end");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
        rustix::mount::mount("farshore", &point, "fuse.farshore", flags, options)
            .map_err(|error| self.place.failed("mounting FUSE on", &point)(error.into()))?;

        let mut config = Config::default();
        config.n_threads = Some(FUSE_THREADS);
        config.clone_fd = true;
        let failed = |error| self.place.failed("starting the FUSE session of", &point)(error);
        let session =
            Session::from_fd(filesystem, OwnedFd::from(channel), SessionACL::Owner, config).map_err(failed)?;
        let thread = std::thread::Builder::new().name("fuse-session".to_owned()).spawn(move || {
            // Before the session's own threads start, as they inherit it.
            become_io_flusher();
            session.run()
        });
        self.session = Some(thread.map_err(failed)?);
        let stat = fs::metadata(&point).map_err(self.place.failed("reading", &point))?;
        self.connection = Some(rustix::fs::minor(stat.dev()));
        Ok(())
    }

    fn attach_loop(&mut self, geometry: &Geometry) -> Result<(), DeviceError> {
        let path = self.place.file();
        let backing = OpenOptions::new()
            .read(true)
            .write(!geometry.read_only)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .map_err(self.place.failed("opening", &path))?;
        let setup =
            LoopSetup { backing: &backing, block_bytes: geometry.logical_block_bytes, read_only: geometry.read_only };
        let device = LoopDevice::create(&setup).map_err(self.place.failed("attaching a loop device to", &path))?;
        let loop_path = device.path();
        self.loop_device = Some(device);
        if let Some(claim) = &mut self.claim {
            claim.record(&device).map_err(self.place.failed("writing", &self.place.lock_path()))?;
        }
        if !device.has_direct_io().map_err(self.place.failed("reading the state of", &loop_path))? {
            return Err(DeviceError::NoDirectIo { name: self.place.name.clone(), loop_path });
        }
        self.choose_write_cache(&device, geometry.volatile_cache)
    }

    /// A cache announced where there is none costs flushes; one that is kept quiet costs data.
    fn choose_write_cache(&self, device: &LoopDevice, volatile: bool) -> Result<(), DeviceError> {
        let path = device.path();
        let set = device.set_write_cache(volatile);
        let shown = device.has_write_cache().map_err(self.place.failed("reading the write cache of", &path))?;
        match (volatile, shown) {
            (true, false) => {
                let error = set.err().unwrap_or_else(|| io::Error::other("the kernel kept \"write through\""));
                Err(self.place.failed("announcing the write cache of", &path)(error))
            }
            (false, true) => {
                tracing::warn!(device = %path.display(), volume = self.place.name, "flushes that are not needed will be sent");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub fn loop_device(&self) -> Option<LoopDevice> {
        self.loop_device
    }

    /// Gives everything back in order. `exclusive` is the loop device, claimed by nobody else; the attachment comes
    /// back if the kernel does not let the device go.
    pub fn close(mut self, exclusive: File) -> Result<(), Box<(Attachment, DeviceError)>> {
        if let Some(device) = self.loop_device {
            let loop_path = device.path();
            let cleared = device.clear(&exclusive);
            drop(exclusive);
            let error = match cleared {
                Err(error) => self.place.failed("clearing", &loop_path)(error),
                Ok(()) if wait_for(DETACH_PATIENCE, || !device.exists()) => {
                    self.loop_device = None;
                    drop(self);
                    return Ok(());
                }
                Ok(()) => DeviceError::Stuck {
                    name: self.place.name.clone(),
                    loop_path,
                    operation: "let its backing file go",
                    seconds: DETACH_PATIENCE.as_secs(),
                },
            };
            return Err(Box::new((self, error)));
        }
        Ok(())
    }

    fn abort(&self) {
        if !abort_mount(&self.place.mount_point())
            && let Some(connection) = self.connection
        {
            // Somebody unmounted it meanwhile; where fusectl is mounted, the connection still has a name.
            let _ = fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), "1");
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // The abort comes first: clearing a loop device waits for its I/O, which a frozen volume never answers.
        self.abort();
        if let Some(device) = self.loop_device.take()
            && let Err(error) = device.clear_anyhow()
        {
            tracing::warn!(device = %device.path().display(), volume = self.place.name, %error, "the loop device stays");
        }
        if let Some(session) = self.session.take()
            && !wait_for(SESSION_END_PATIENCE, || session.is_finished())
        {
            tracing::warn!(volume = self.place.name, "the FUSE session ends when its last request is answered");
        }
        if let Some(claim) = self.claim.take() {
            claim.discard(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_runtime_dir_are_refused() {
        let dir = Path::new("/run/farshore");
        for name in ["", ".", "..", "a/b", "/etc", "a\0b", &"x".repeat(201)] {
            assert!(matches!(Place::new(name, dir), Err(DeviceError::BadName { .. })), "{name:?}");
        }
        assert_eq!(Place::new("pvc-1", dir).unwrap().file(), Path::new("/run/farshore/pvc-1/mnt/pvc-1"));
    }

    #[test]
    fn records_of_another_boot_and_garbage_name_nothing() {
        let device = Some(LoopDevice { number: 3, diskseq: 77 });
        assert_eq!(parse_record("boot-a 3 77\n", "boot-a"), device);
        for record in ["", "boot-b 3 77", "boot-a", "boot-a 3", "boot-a x 77", "boot-a 3 -1"] {
            assert_eq!(parse_record(record, "boot-a"), None, "{record:?}");
        }
    }

    #[test]
    fn a_place_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new("vol", dir.path()).unwrap();
        let mut claim = place.claim().unwrap();
        let device = LoopDevice { number: 4_000_000, diskseq: u64::MAX };
        claim.record(&device).unwrap();
        assert!(matches!(place.claim(), Err(DeviceError::AlreadyAttached { .. })));
        drop(claim);
        let again = place.claim().unwrap();
        assert_eq!(again.left, Some(device));
        again.discard(&place);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
