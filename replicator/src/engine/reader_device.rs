//! This node's copy of a volume that nobody writes, as a block device: reads of the store, and nothing else. A damaged
//! block is repaired from the other members, as for any read.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::driver::VolumeHandle;
use super::node::Shared;
use super::repair::{self, Copies};
use crate::device::{BlockDevice, Geometry, IoError};
use crate::store::{ErrorClass, READ_BYTES_MAX};

pub struct ReaderDevice {
    shared: Arc<Shared>,
    handle: Arc<VolumeHandle>,
}

impl ReaderDevice {
    pub fn new(shared: Arc<Shared>, handle: Arc<VolumeHandle>) -> ReaderDevice {
        ReaderDevice { shared, handle }
    }

    async fn read_stored(&self, offset: u64, len: usize) -> Result<Bytes, IoError> {
        let (shared, volume) = (self.shared.clone(), self.handle.id);
        let read = tokio::task::spawn_blocking(move || shared.store.read(volume, offset, len));
        match read.await.map_err(|error| IoError::Io(error.to_string()))? {
            Err(error) if error.class() == ErrorClass::Repair => {
                let status = self.handle.status().await;
                let status = status.ok_or_else(|| IoError::Fenced("the volume's owner stopped".into()))?;
                let copies = Copies::of(&self.handle, &status);
                repair::read(self.shared.clone(), copies, None, offset, len).await.map_err(IoError::Io)
            }
            // Who is served from here goes on from another copy.
            Err(_) if self.handle.status().await.is_none() => Err(IoError::Fenced("this copy is gone".into())),
            read => read.map_err(|error| IoError::Io(error.to_string())),
        }
    }

    async fn read_all(&self, offset: u64, len: usize) -> Result<Bytes, IoError> {
        if len <= READ_BYTES_MAX {
            return self.read_stored(offset, len).await;
        }
        let mut out = Vec::with_capacity(len);
        for at in (0..len).step_by(READ_BYTES_MAX) {
            out.extend_from_slice(&self.read_stored(offset + at as u64, READ_BYTES_MAX.min(len - at)).await?);
        }
        Ok(out.into())
    }
}

impl BlockDevice for ReaderDevice {
    fn geometry(&self) -> Geometry {
        let size_bytes = self.handle.config.borrow().volume.size_bytes;
        Geometry { size_bytes, logical_block_bytes: 4096, volatile_cache: false, read_only: true }
    }

    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        Box::pin(async move {
            self.geometry().check(offset, u64::from(len))?;
            if len == 0 {
                return Ok(Bytes::new());
            }
            let began = Instant::now();
            let result = self.read_all(offset, len as usize).await;
            self.handle.block.counts().read.answered(began, len.into(), &result);
            result
        })
    }

    fn write(&self, _: u64, _: Bytes, _: bool) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async { Err(IoError::ReadOnly) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async { Ok(()) })
    }

    fn discard(&self, _: u64, _: u64) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async { Err(IoError::ReadOnly) })
    }

    fn write_zeroes(&self, _: u64, _: u64, _: bool, _: bool) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async { Err(IoError::ReadOnly) })
    }
}
