//! A volume's device for one session: when that ends, everything that is still connected to it fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::device::{BlockDevice, Extent, Geometry, IoError};

pub struct SessionDevice {
    inner: Arc<dyn BlockDevice>,
    ended: AtomicBool,
}

impl SessionDevice {
    pub fn new(inner: Arc<dyn BlockDevice>) -> SessionDevice {
        SessionDevice { inner, ended: AtomicBool::new(false) }
    }

    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// The device, or a refusal once the session is over.
    fn guarded<'a, T: Send + 'a>(
        &'a self,
        request: impl FnOnce(&'a dyn BlockDevice) -> BoxFuture<'a, Result<T, IoError>>,
    ) -> BoxFuture<'a, Result<T, IoError>> {
        if self.ended.load(Ordering::Acquire) {
            return Box::pin(async { Err(IoError::Fenced("its session has ended".into())) });
        }
        request(self.inner.as_ref())
    }
}

impl BlockDevice for SessionDevice {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        self.guarded(|device| device.read(offset, len))
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        self.guarded(|device| device.write(offset, data, fua))
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        self.guarded(|device| device.flush())
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
        self.guarded(|device| device.discard(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        self.guarded(|device| device.write_zeroes(offset, len, unmap, fua))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>, IoError>> {
        self.guarded(|device| device.extents(offset, len))
    }
}
