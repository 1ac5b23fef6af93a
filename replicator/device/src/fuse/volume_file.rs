//! The file system that the kernel sees: a directory with one file, whose bytes are the device.
//!
//! Requests are taken off `/dev/fuse` in the session's threads, submitted to the device there and then, and answered
//! from the runtime: many are in flight at once. A thread only ever waits for the byte budget.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{FUSE_IN_FLIGHT_BYTES_MAX, FUSE_IN_FLIGHT_MAX, FUSE_IO_BYTES_MAX};
use crate::submit::submit;
use crate::{BlockDevice, IoError, pieces};

const DIRECTORY: INodeNo = INodeNo(1);
const FILE: INodeNo = INodeNo(2);

/// Names never change, sizes may: the kernel asks for attributes anew each time, which I/O does not need.
const NAME_TTL: Duration = Duration::from_secs(3600);
const ATTRIBUTE_TTL: Duration = Duration::ZERO;

/// Told as the block size of the file system: the loop device makes it its discard granularity.
const GRANULARITY_BYTES: u32 = 4096;

pub struct VolumeFile {
    name: OsString,
    device: Arc<dyn BlockDevice>,
    runtime: Handle,
    bytes: Arc<Semaphore>,
    used: Arc<AtomicBool>,
}

impl VolumeFile {
    /// Until `used` turns true, by the first write or by the caller, there is nothing that a flush could mean. The kernel
    /// sends one while it configures the loop device, for which the daemon waits in the kernel: were it to wait for a frozen
    /// volume there, it could not even be killed.
    pub fn new(name: &str, device: Arc<dyn BlockDevice>, runtime: Handle, used: Arc<AtomicBool>) -> Self {
        let bytes = Arc::new(Semaphore::new(FUSE_IN_FLIGHT_BYTES_MAX as usize));
        Self { name: name.into(), device, runtime, bytes, used }
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let geometry = self.device.geometry();
        let (kind, perm, size) = match inode {
            DIRECTORY => (FileType::Directory, 0o700, 0),
            FILE => (FileType::RegularFile, if geometry.read_only { 0o400 } else { 0o600 }, geometry.size_bytes),
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: GRANULARITY_BYTES,
            flags: 0,
        })
    }

    /// Waits, in the session's thread, until so many bytes more may be in flight.
    fn budget(&self, bytes: u32) -> OwnedSemaphorePermit {
        self.runtime
            .block_on(self.bytes.clone().acquire_many_owned(bytes.min(FUSE_IN_FLIGHT_BYTES_MAX)))
            .expect("this semaphore is never closed")
    }

    fn start(&self, operation: impl Future<Output = ()> + Send + 'static) {
        let _entered = self.runtime.enter();
        submit(&self.runtime, Box::pin(operation));
    }
}

fn errno(error: &IoError) -> Errno {
    Errno::from_i32(error.errno())
}

fn answer(reply: ReplyEmpty, result: Result<(), IoError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

/// What a `fallocate` asks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fallocate {
    /// A punched hole must read as zeroes: the loop device uses it for discard and for write-zeroes alike.
    Zero {
        unmap: bool,
    },
    Unsupported,
}

fn fallocate_kind(mode: i32) -> Fallocate {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    match mode {
        PUNCH => Fallocate::Zero { unmap: true },
        ZERO | ZERO_KEEP => Fallocate::Zero { unmap: false },
        _ => Fallocate::Unsupported,
    }
}

impl Filesystem for VolumeFile {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A kernel that cannot do these does less at once, and nothing wrong.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(FUSE_IO_BYTES_MAX);
        let _ = config.set_max_background(FUSE_IN_FLIGHT_MAX);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(FILE) {
            Some(attributes) if parent == DIRECTORY && name == self.name => {
                reply.entry_with_ttls(&ATTRIBUTE_TTL, &NAME_TTL, &attributes, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&ATTRIBUTE_TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Nothing about the file can be changed; a new time or mode is taken and forgotten.
    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match size {
            Some(_) => reply.error(Errno::EPERM),
            None => self.getattr(request, inode, handle, reply),
        }
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if inode != FILE {
            return reply.error(Errno::EISDIR);
        }
        if self.device.geometry().read_only && flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // A read at the end of a file is short, not wrong.
        let left = self.device.geometry().size_bytes.saturating_sub(offset);
        let len = u32::try_from(left).unwrap_or(u32::MAX).min(size);
        if len == 0 {
            return reply.data(&[]);
        }
        let budget = self.budget(len);
        let device = self.device.clone();
        self.start(async move {
            match pieces::read(&*device, offset, len).await {
                Ok(mut parts) if parts.len() == 1 => reply.data(&parts.remove(0)),
                Ok(parts) => reply.data(&parts.concat()),
                Err(error) => reply.error(errno(&error)),
            }
            drop(budget);
        });
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.used.store(true, Ordering::Release);
        let len = data.len() as u32;
        let budget = self.budget(len);
        let data = Bytes::copy_from_slice(data);
        let device = self.device.clone();
        self.start(async move {
            // FUA does not reach a loop device's file; the block layer sends a flush after such a write instead.
            match pieces::write(&*device, offset, data, false).await {
                Ok(()) => reply.written(len),
                Err(error) => reply.error(errno(&error)),
            }
            drop(budget);
        });
    }

    /// Comes at every close and says nothing about durability.
    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        if !self.used.load(Ordering::Acquire) {
            return reply.ok();
        }
        let device = self.device.clone();
        self.start(async move { answer(reply, device.flush().await) });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Fallocate::Zero { unmap } = fallocate_kind(mode) else {
            return reply.error(Errno::EOPNOTSUPP);
        };
        if let Err(error) = self.device.geometry().check_change(offset, length) {
            return reply.error(errno(&error));
        }
        self.used.store(true, Ordering::Release);
        let device = self.device.clone();
        self.start(async move { answer(reply, pieces::write_zeroes(&*device, offset, length, unmap, false).await) });
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let blocks = self.device.geometry().size_bytes / u64::from(GRANULARITY_BYTES);
        reply.statfs(blocks, 0, 0, 1, 0, GRANULARITY_BYTES, 255, GRANULARITY_BYTES);
    }

    fn readdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if inode != DIRECTORY {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (DIRECTORY, FileType::Directory, OsStr::new(".")),
            (DIRECTORY, FileType::Directory, OsStr::new("..")),
            (FILE, FileType::RegularFile, self.name.as_os_str()),
        ];
        for (index, (inode, kind, name)) in (0u64..).zip(entries) {
            if index >= offset && reply.add(inode, index + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_zeroes_a_range_in_place_is_taken() {
        use libc::{FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
        let cases = [
            (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, Fallocate::Zero { unmap: true }),
            (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, Fallocate::Zero { unmap: false }),
            (FALLOC_FL_ZERO_RANGE, Fallocate::Zero { unmap: false }),
            (0, Fallocate::Unsupported),
            (FALLOC_FL_KEEP_SIZE, Fallocate::Unsupported),
            (FALLOC_FL_COLLAPSE_RANGE, Fallocate::Unsupported),
            (-1, Fallocate::Unsupported),
        ];
        for (mode, kind) in cases {
            assert_eq!(fallocate_kind(mode), kind, "mode {mode:#x}");
        }
    }
}
