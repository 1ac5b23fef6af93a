//! The io_uring engine: the write and the sync that follows it go to the kernel as one linked pair, in one call.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

use io_uring::{IoUring, Probe, opcode, squeue, types};

use super::engine::DiskEngine;
use super::file::DiskFile;

const RING_ENTRIES: u32 = 8;
const WRITE_TAG: u64 = 1;
const SYNC_TAG: u64 = 2;

pub(super) struct UringEngine {
    ring: Mutex<IoUring>,
}

impl UringEngine {
    /// Fails where the kernel, a seccomp profile or a sysctl denies io_uring.
    pub(super) fn start() -> io::Result<UringEngine> {
        let ring = IoUring::new(RING_ENTRIES)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Write::CODE) || !probe.is_supported(opcode::Fsync::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring has no write and fsync"));
        }
        Ok(UringEngine { ring: Mutex::new(ring) })
    }
}

impl DiskEngine for UringEngine {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn write_sync(&self, file: &DiskFile, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        loop {
            let (written, synced) = write_then_sync(&mut ring, file, offset + done as u64, &data[done..])?;
            done += written;
            if done == data.len() {
                return synced;
            }
            // A short write cancels the sync behind it; the rest goes the same way.
            if written == 0 {
                return Err(io::Error::new(io::ErrorKind::WriteZero, "the disk took none of the bytes"));
            }
        }
    }
}

/// One linked pair. Returns how much was written and, where all of it was, how the sync ended.
fn write_then_sync(
    ring: &mut IoUring,
    file: &DiskFile,
    offset: u64,
    data: &[u8],
) -> io::Result<(usize, io::Result<()>)> {
    let fd = types::Fd(file.file.as_raw_fd());
    let len = u32::try_from(data.len()).map_err(|_| io::Error::other("a group longer than 4 GiB"))?;
    let write = opcode::Write::new(fd, data.as_ptr(), len)
        .offset(offset)
        .build()
        .flags(squeue::Flags::IO_LINK)
        .user_data(WRITE_TAG);
    let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build().user_data(SYNC_TAG);
    // SAFETY: `data` and the file outlive both operations: this function returns only after both have completed (or
    // stops the process), and the ring is empty on entry, so no completion of an earlier call can be taken for theirs.
    unsafe { ring.submission().push_multiple(&[write, sync]) }
        .map_err(|_| io::Error::other("the ring is full although nothing is in flight"))?;
    let (mut written, mut synced) = (None, None);
    while written.is_none() || synced.is_none() {
        // One sleep for both: a cancelled sync is told of as well.
        let outstanding = usize::from(written.is_none()) + usize::from(synced.is_none());
        match ring.submit_and_wait(outstanding) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
            Err(error) => {
                // The kernel may still read the buffer. Nothing that gives it back is sound.
                tracing::error!(%error, "io_uring broke with a write in flight, stopping at once");
                std::process::abort();
            }
        }
        for event in ring.completion() {
            match event.user_data() {
                WRITE_TAG => written = Some(event.result()),
                _ => synced = Some(event.result()),
            }
        }
    }
    let outcome = |result: Option<i32>| match result.unwrap_or_default() {
        error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
        count => Ok(count as usize),
    };
    Ok((outcome(written)?, outcome(synced).map(|_| ())))
}
