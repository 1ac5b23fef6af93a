//! An engine that fails on demand, around a real one: for tests of what the journal does when a disk does its worst.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::buffer::{ALIGN_BYTES, AlignedBuf};
use super::engine::DiskEngine;
use super::file::DiskFile;

/// What goes wrong with one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is written, EIO.
    WriteFails,
    /// Everything is written, the sync says EIO.
    SyncFails,
    /// ENOSPC, nothing is written.
    NoSpace,
    /// Only so many blocks of it are written, then EIO.
    Torn(usize),
    /// Success is reported, nothing is written.
    Lost,
    /// Written elsewhere, so many bytes further on; success is reported.
    Misdirected(u64),
}

#[derive(Default)]
struct Orders {
    writes: u64,
    /// (number of the write, counted from 0 since the start; what happens to it)
    planned: Vec<(u64, Fault)>,
    delay: Duration,
    allocation_fails: bool,
    held: bool,
}

/// The wrapping engine; clones obey the same orders.
#[derive(Clone)]
pub struct FaultyEngine {
    inner: Arc<dyn DiskEngine>,
    orders: Arc<(Mutex<Orders>, std::sync::Condvar)>,
}

impl FaultyEngine {
    pub fn around(inner: Arc<dyn DiskEngine>) -> FaultyEngine {
        FaultyEngine { inner, orders: Arc::default() }
    }

    fn orders(&self) -> std::sync::MutexGuard<'_, Orders> {
        self.orders.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The write that comes after `skip` more goes wrong.
    pub fn plan(&self, skip: u64, fault: Fault) {
        let mut orders = self.orders();
        let at = orders.writes + skip;
        orders.planned.push((at, fault));
    }

    /// Every write takes at least this long.
    pub fn delay(&self, delay: Duration) {
        self.orders().delay = delay;
    }

    /// New files cannot be allocated: ENOSPC.
    pub fn fail_allocations(&self, fails: bool) {
        self.orders().allocation_fails = fails;
    }

    /// While held, writes wait before they begin.
    pub fn hold(&self, held: bool) {
        self.orders().held = held;
        self.orders.1.notify_all();
    }

    pub fn writes(&self) -> u64 {
        self.orders().writes
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl DiskEngine for FaultyEngine {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn write_sync(&self, file: &DiskFile, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut orders = self.orders();
        while orders.held {
            orders = self.orders.1.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
        let number = orders.writes;
        orders.writes += 1;
        let fault = orders.planned.iter().find(|&&(at, _)| at == number).map(|&(_, fault)| fault);
        let delay = orders.delay;
        drop(orders);
        std::thread::sleep(delay);
        match fault {
            None => self.inner.write_sync(file, offset, data),
            Some(Fault::WriteFails) => Err(errno(libc::EIO)),
            Some(Fault::NoSpace) => Err(errno(libc::ENOSPC)),
            Some(Fault::SyncFails) => self.inner.write_sync(file, offset, data).and(Err(errno(libc::EIO))),
            Some(Fault::Torn(blocks)) => {
                let len = (blocks * ALIGN_BYTES).min(data.len());
                self.inner.write_sync(file, offset, &data[..len]).and(Err(errno(libc::EIO)))
            }
            Some(Fault::Lost) => Ok(()),
            Some(Fault::Misdirected(by)) => self.inner.write_sync(file, offset + by, data),
        }
    }

    fn read(&self, file: &DiskFile, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        self.inner.read(file, offset, len)
    }

    fn allocate(&self, path: &Path, len_bytes: u64) -> io::Result<()> {
        if self.orders().allocation_fails {
            return Err(errno(libc::ENOSPC));
        }
        self.inner.allocate(path, len_bytes)
    }
}
