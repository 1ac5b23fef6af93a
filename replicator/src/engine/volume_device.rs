//! A volume as a block device: turns requests into inputs of its owner task, in the order of the calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use farshore_core::api::{Io, IoFault, Outcome};
use farshore_core::record::{RECORD_PAYLOAD_MAX, RECORD_RANGE_MAX};
use farshore_core::register::{Descriptor, Durability};
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use super::inbox::{Inbox, Input};
use super::io_counts::{IoCount, IoCounts};
use super::readers::is_read_only;
use crate::device::{BlockDevice, Geometry, IoError};

/// Requests of one device that wait for the core; below what the core accepts, so that it never has to refuse one.
const REQUESTS_MAX: usize = 2048;
const _: () = assert!(REQUESTS_MAX < farshore_core::limits::WAITING_REQUESTS_MAX);

pub struct VolumeDevice {
    inbox: Arc<Inbox>,
    size_bytes: AtomicU64,
    volatile_cache: bool,
    read_only: bool,
    permits: Semaphore,
    counts: IoCounts,
}

impl VolumeDevice {
    pub fn new(inbox: Arc<Inbox>, volume: &Descriptor) -> VolumeDevice {
        VolumeDevice {
            inbox,
            size_bytes: AtomicU64::new(volume.size_bytes),
            volatile_cache: volume.durability == Durability::Flush,
            read_only: is_read_only(volume),
            permits: Semaphore::new(REQUESTS_MAX),
            counts: IoCounts::default(),
        }
    }

    pub fn counts(&self) -> &IoCounts {
        &self.counts
    }

    /// As `submit`, counted as one request for `bytes`.
    async fn request(&self, count: &IoCount, bytes: u64, parts: Vec<Io>) -> Result<Bytes, IoError> {
        let began = Instant::now();
        let result = self.submit(parts).await;
        count.answered(began, bytes, &result);
        result
    }

    pub fn resized(&self, size_bytes: u64) {
        self.size_bytes.fetch_max(size_bytes, Ordering::Relaxed);
    }

    fn push(&self, io: Io) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        self.inbox.push(Input::Io { io, reply });
        outcome
    }

    /// As [`VolumeDevice::request`], of one piece, as most are.
    async fn request_one(&self, count: &IoCount, bytes: u64, io: Io) -> Result<Bytes, IoError> {
        let began = Instant::now();
        let result = self.submit_one(io).await;
        count.answered(began, bytes, &result);
        result
    }

    async fn submit_one(&self, io: Io) -> Result<Bytes, IoError> {
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|_| IoError::Fenced("the device is closed".into()))?;
        data_of(self.push(io).await)
    }

    /// Pushes at the first poll, so that the order of calls is the order of seqs, then waits for the outcomes.
    async fn submit(&self, parts: Vec<Io>) -> Result<Bytes, IoError> {
        // All at once: requests that each held a part of what they need would wait for each other for ever.
        let permits = self.permits.acquire_many(parts.len() as u32).await;
        let _permits = permits.map_err(|_| IoError::Fenced("the device is closed".into()))?;
        let waiting: Vec<_> = parts.into_iter().map(|io| self.push(io)).collect();
        let mut data = Bytes::new();
        for outcome in waiting {
            data = data_of(outcome.await)?;
        }
        Ok(data)
    }
}

fn data_of(outcome: Result<Outcome, oneshot::error::RecvError>) -> Result<Bytes, IoError> {
    match outcome {
        Ok(Outcome::Done) => Ok(Bytes::new()),
        Ok(Outcome::Data(bytes)) => Ok(bytes),
        Ok(Outcome::Fault(fault)) => Err(error(fault)),
        Err(_) => Err(IoError::Fenced("the volume's owner stopped".into())),
    }
}

fn error(fault: IoFault) -> IoError {
    match fault {
        IoFault::Fenced(reason) => IoError::Fenced(reason),
        IoFault::Invalid => IoError::OutOfRange,
        IoFault::Overload => IoError::Io("too many requests wait".into()),
        IoFault::Unreadable(text) => IoError::Io(text),
    }
}

/// Cuts a range into pieces of at most `max` bytes.
fn pieces(offset: u64, len: u64, max: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len.div_ceil(max)).map(move |i| (offset + i * max, max.min(len - i * max)))
}

impl BlockDevice for VolumeDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.size_bytes.load(Ordering::Relaxed),
            // Sectors of 512 bytes are an adapter's business; the core speaks whole blocks.
            logical_block_bytes: 4096,
            volatile_cache: self.volatile_cache,
            read_only: self.read_only,
        }
    }

    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        Box::pin(async move {
            self.geometry().check(offset, u64::from(len))?;
            if len == 0 {
                return Ok(Bytes::new());
            }
            let data = self.request_one(&self.counts.read, len.into(), Io::Read { offset, length: len }).await?;
            if data.len() == len as usize { Ok(data) } else { Err(IoError::Io("short read".into())) }
        })
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            let bytes = data.len() as u64;
            self.geometry().check_change(offset, bytes)?;
            if bytes <= RECORD_PAYLOAD_MAX as u64 && bytes > 0 {
                let write = Io::Write { offset, data, fua };
                return self.request_one(&self.counts.write, bytes, write).await.map(drop);
            }
            let parts = pieces(0, bytes, RECORD_PAYLOAD_MAX as u64)
                .map(|(at, len)| Io::Write {
                    offset: offset + at,
                    data: data.slice(at as usize..(at + len) as usize),
                    fua,
                })
                .collect();
            self.request(&self.counts.write, bytes, parts).await.map(drop)
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move { self.request_one(&self.counts.flush, 0, Io::Flush).await.map(drop) })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.geometry().check_change(offset, len)?;
            let parts =
                pieces(offset, len, RECORD_RANGE_MAX).map(|(offset, length)| Io::Discard { offset, length }).collect();
            self.request(&self.counts.discard, len, parts).await.map(drop)
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        // A hole reads as zeroes and thin space is not reserved either way.
        let _ = unmap;
        Box::pin(async move {
            self.geometry().check_change(offset, len)?;
            let parts = pieces(offset, len, RECORD_RANGE_MAX)
                .map(|(offset, length)| Io::WriteZeroes { offset, length, fua })
                .collect();
            self.request(&self.counts.discard, len, parts).await.map(drop)
        })
    }
}
