//! The loop driver's ioctls and sysfs attributes. The only file of the devices with `unsafe`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::limits::LOOP_ATTEMPTS_MAX;

const LOOP_MAJOR: u32 = 7;

const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4c07;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

impl LoopInfo {
    const EMPTY: LoopInfo = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// How a loop device is to be set up.
pub struct LoopSetup<'a> {
    pub backing: &'a File,
    pub block_bytes: u32,
    pub read_only: bool,
}

/// A configured loop device. Numbers are reused, so it is known by the kernel's sequence number of disks too, which no
/// other disk has until the next boot and which can be read even when the backing file is dead. Dropping it
/// changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopDevice {
    pub number: u32,
    pub diskseq: u64,
}

/// An ioctl that takes or returns a plain number.
fn ioctl_number(file: &File, request: libc::Ioctl, argument: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: the requests used here (GET_FREE, CLR_FD, SET_CAPACITY) take no pointer.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn configure(device: &File, config: &LoopConfig) -> io::Result<()> {
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, whose layout `LoopConfig` has (asserted above), and keeps no pointer.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, std::ptr::from_ref(config)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `/dev/loopN`; made when the node's `/dev` does not have it, as in containers.
fn node(number: u32) -> io::Result<PathBuf> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    match fs::metadata(&path) {
        Ok(found) if found.file_type().is_block_device() => Ok(path),
        Ok(_) => Err(io::Error::other(format!("{} is not a block device", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let kind = rustix::fs::FileType::BlockDevice;
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            let device = rustix::fs::makedev(LOOP_MAJOR, number);
            match rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, device) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(path),
                Err(error) => Err(error.into()),
            }
        }
        Err(error) => Err(error),
    }
}

fn sysfs(number: u32, attribute: &str) -> PathBuf {
    Path::new("/sys/block").join(format!("loop{number}")).join(attribute)
}

fn diskseq(number: u32) -> io::Result<u64> {
    let text = fs::read_to_string(sysfs(number, "diskseq"))?;
    text.trim().parse().map_err(io::Error::other)
}

fn descriptor(fd: RawFd) -> u32 {
    u32::try_from(fd).expect("an open file's descriptor is not negative")
}

impl LoopDevice {
    /// Takes a free loop device and configures it in one step, so that no half-made device is ever seen.
    pub fn create(setup: &LoopSetup<'_>) -> io::Result<LoopDevice> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        let mut info = LoopInfo::EMPTY;
        info.flags = LO_FLAGS_DIRECT_IO | if setup.read_only { LO_FLAGS_READ_ONLY } else { 0 };
        let config = LoopConfig {
            fd: descriptor(setup.backing.as_raw_fd()),
            block_size: setup.block_bytes,
            info,
            reserved: [0; 8],
        };
        let mut last = io::Error::other("no loop device became free");
        for _ in 0..LOOP_ATTEMPTS_MAX {
            let number = ioctl_number(&control, LOOP_CTL_GET_FREE, 0)? as u32;
            let device = OpenOptions::new().read(true).write(!setup.read_only).open(node(number)?)?;
            match configure(&device, &config) {
                // `device` is still open, so the number cannot have passed to another.
                Ok(()) => return Ok(LoopDevice { number, diskseq: diskseq(number)? }),
                // Another process was faster; the next number is asked for.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.number))
    }

    fn sysfs(&self, attribute: &str) -> PathBuf {
        sysfs(self.number, attribute)
    }

    /// Whether it is still configured, and the number has not passed to another.
    pub fn exists(&self) -> bool {
        self.sysfs("loop/backing_file").exists() && diskseq(self.number).is_ok_and(|now| now == self.diskseq)
    }

    /// What the kernel made of our wish for direct I/O.
    pub fn has_direct_io(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.sysfs("loop/dio"))?.trim() == "1")
    }

    /// Whether the block layer sends flushes down (a volatile cache) or takes completions as durable.
    pub fn set_write_cache(&self, volatile: bool) -> io::Result<()> {
        fs::write(self.sysfs("queue/write_cache"), if volatile { "write back" } else { "write through" })
    }

    pub fn has_write_cache(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.sysfs("queue/write_cache"))?.trim() == "write back")
    }

    /// Takes over a new size of the backing file.
    pub fn set_capacity(&self) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(self.path())?;
        ioctl_number(&file, LOOP_SET_CAPACITY, 0).map(drop)
    }

    /// The device for one alone: fails with EBUSY while it is mounted or otherwise claimed, in whatever namespace.
    pub fn open_exclusive(&self) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(self.path())
    }

    /// Lets the backing file go: at once if `device` is its only opener, else when the last one closes it.
    pub fn clear(&self, device: &File) -> io::Result<()> {
        ioctl_number(device, LOOP_CLR_FD, 0).map(drop)
    }

    /// As [`clear`](Self::clear), by whoever wants it gone; a device that is gone already is fine.
    pub fn clear_anyhow(&self) -> io::Result<()> {
        if !self.exists() {
            return Ok(());
        }
        match self.clear(&File::open(self.path())?) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
            other => other,
        }
    }
}
