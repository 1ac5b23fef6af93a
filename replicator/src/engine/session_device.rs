//! A volume's device for one session, or for one client of it: when that ends, nothing of it reaches the volume any more.
//! One that was attached read-only takes no writes.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures_util::future::{BoxFuture, poll_fn};

use crate::device::{BlockDevice, Extent, Geometry, IoError};

pub struct SessionDevice {
    inner: Arc<dyn BlockDevice>,
    /// Held to read while a request is handed on: after the end none is on its way there.
    ended: RwLock<bool>,
    read_only: bool,
}

impl SessionDevice {
    pub fn new(inner: Arc<dyn BlockDevice>) -> SessionDevice {
        SessionDevice { inner, ended: RwLock::new(false), read_only: false }
    }

    pub fn read_only(self, read_only: bool) -> SessionDevice {
        SessionDevice { read_only, ..self }
    }

    /// When this returns, whatever was handed on before has its place in the volume's order, and nothing comes after it.
    pub fn end(&self) {
        *self.ended.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// The device, or a refusal once the session is over. A request gets its place in the order at its first poll.
    fn guarded<'a, T: Send + 'a>(
        &'a self,
        request: impl FnOnce(&'a dyn BlockDevice) -> BoxFuture<'a, Result<T, IoError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, IoError>> {
        let mut request = Some(request);
        let mut running = None;
        Box::pin(poll_fn(move |context| {
            let Some(request) = request.take() else {
                let running: &mut BoxFuture<'a, _> = running.as_mut().expect("it runs since it was taken");
                return running.as_mut().poll(context);
            };
            let ended = self.ended.read().unwrap_or_else(PoisonError::into_inner);
            if *ended {
                return std::task::Poll::Ready(Err(IoError::Fenced("its session has ended".into())));
            }
            running.insert(request(self.inner.as_ref())).as_mut().poll(context)
        }))
    }

    /// As [`SessionDevice::guarded`], of what changes something.
    fn changed<'a, T: Send + 'a>(
        &'a self,
        request: impl FnOnce(&'a dyn BlockDevice) -> BoxFuture<'a, Result<T, IoError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, IoError>> {
        if self.read_only {
            return Box::pin(async { Err(IoError::ReadOnly) });
        }
        self.guarded(request)
    }
}

impl BlockDevice for SessionDevice {
    fn geometry(&self) -> Geometry {
        let geometry = self.inner.geometry();
        Geometry { read_only: geometry.read_only || self.read_only, ..geometry }
    }

    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        self.guarded(move |device| device.read(offset, len))
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        self.changed(move |device| device.write(offset, data, fua))
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        self.guarded(|device| device.flush())
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
        self.changed(move |device| device.discard(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        self.changed(move |device| device.write_zeroes(offset, len, unmap, fua))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>, IoError>> {
        self.guarded(move |device| device.extents(offset, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    #[tokio::test]
    async fn a_request_that_was_called_before_the_end_and_polled_after_it_is_refused() {
        let geometry =
            Geometry { size_bytes: 1 << 20, logical_block_bytes: 4096, volatile_cache: false, read_only: false };
        let memory = Arc::new(MemoryDevice::new(geometry));
        let device = SessionDevice::new(memory.clone());
        device.write(0, vec![1; 4096].into(), false).await.unwrap();
        let late = device.write(0, vec![2; 4096].into(), false);
        device.end();
        assert!(matches!(late.await, Err(IoError::Fenced(_))));
        assert_eq!(memory.read(0, 4096).await.unwrap(), vec![1; 4096]);
    }
}
