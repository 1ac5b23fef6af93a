//! A thin device in memory: for tests and demos of the frontends. Keeps nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use farshore_core::ids::BLOCK_BYTES;
use futures_util::future::BoxFuture;

use super::block::{BlockDevice, Extent, Geometry, IoError};

const PAGE_BYTES: usize = BLOCK_BYTES as usize;

pub struct MemoryDevice {
    state: Mutex<State>,
}

struct State {
    geometry: Geometry,
    /// Pages that were written, by number; an absent one reads as zeroes.
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
    fenced: Option<String>,
}

impl MemoryDevice {
    pub fn new(geometry: Geometry) -> Self {
        Self { state: Mutex::new(State { geometry, pages: BTreeMap::new(), fenced: None }) }
    }

    /// From now on every request fails.
    pub fn fence(&self, reason: &str) {
        self.lock().fenced = Some(reason.to_owned());
    }

    /// Enlarges the device; a smaller size is ignored.
    pub fn grow(&self, size_bytes: u64) {
        let geometry = &mut self.lock().geometry;
        geometry.size_bytes = geometry.size_bytes.max(size_bytes);
    }

    /// Memory held for data.
    pub fn allocated_bytes(&self) -> u64 {
        self.lock().pages.len() as u64 * BLOCK_BYTES
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

impl State {
    fn alive(&self) -> Result<(), IoError> {
        match &self.fenced {
            Some(reason) => Err(IoError::Fenced(reason.clone())),
            None => Ok(()),
        }
    }

    fn read(&self, offset: u64, len: u32) -> Result<Bytes, IoError> {
        self.alive()?;
        self.geometry.check(offset, len.into())?;
        let mut out = BytesMut::zeroed(len as usize);
        for (page, within, span) in spans(offset, len as usize) {
            if let Some(bytes) = self.pages.get(&page) {
                out[span.clone()].copy_from_slice(&bytes[within..within + span.len()]);
            }
        }
        Ok(out.freeze())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.alive()?;
        self.geometry.check_change(offset, data.len() as u64)?;
        for (page, within, span) in spans(offset, data.len()) {
            let bytes = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES]));
            bytes[within..within + span.len()].copy_from_slice(&data[span]);
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<(), IoError> {
        self.alive()?;
        let range = self.geometry.check_change(offset, len)?;
        // Pages wholly inside go; the two at the edges keep what lies outside.
        let whole = range.start.div_ceil(BLOCK_BYTES)..range.end / BLOCK_BYTES;
        let touched = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let pages: Vec<u64> = self.pages.range(touched).map(|(page, _)| *page).collect();
        for page in pages {
            if whole.contains(&page) {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                let start = range.start.max(page * BLOCK_BYTES) - page * BLOCK_BYTES;
                let end = range.end.min((page + 1) * BLOCK_BYTES) - page * BLOCK_BYTES;
                bytes[start as usize..end as usize].fill(0);
            }
        }
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, IoError> {
        self.alive()?;
        let range = self.geometry.check(offset, len)?;
        let mut out = Vec::new();
        let mut at = range.start;
        let mut push = |end: u64, allocated: bool| {
            if end > at {
                out.push(Extent { length_bytes: end - at, allocated });
                at = end;
            }
        };
        let mut run: Option<(u64, u64)> = None;
        for (page, _) in self.pages.range(range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)) {
            let (start, end) = (page * BLOCK_BYTES, (page + 1) * BLOCK_BYTES);
            match &mut run {
                Some((_, run_end)) if *run_end == start => *run_end = end,
                _ => {
                    if let Some((_, run_end)) = run {
                        push(run_end.min(range.end), true);
                    }
                    push(start, false);
                    run = Some((start, end));
                }
            }
        }
        if let Some((_, run_end)) = run {
            push(run_end.min(range.end), true);
        }
        push(range.end, false);
        Ok(out)
    }
}

/// The pages of a range: number, offset within the page, and the part of the caller's buffer.
fn spans(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % BLOCK_BYTES) as usize;
        let part = (PAGE_BYTES - within).min(len - done);
        let span = done..done + part;
        done += part;
        Some((at / BLOCK_BYTES, within, span))
    })
}

impl BlockDevice for MemoryDevice {
    fn geometry(&self) -> Geometry {
        self.lock().geometry
    }

    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        Box::pin(async move { self.lock().read(offset, len) })
    }

    fn write(&self, offset: u64, data: Bytes, _fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move { self.lock().write(offset, &data) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move { self.lock().alive() })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move { self.lock().zero(offset, len) })
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool, _fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move { self.lock().zero(offset, len) })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>, IoError>> {
        Box::pin(async move { self.lock().extents(offset, len) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECTOR: u64 = 512;
    const SECTORS: u64 = 128;

    fn device() -> MemoryDevice {
        MemoryDevice::new(Geometry {
            size_bytes: SECTORS * SECTOR,
            logical_block_bytes: SECTOR as u32,
            volatile_cache: false,
            read_only: false,
        })
    }

    proptest! {
        /// Against a plain array: contents, and extents that never call a non-zero byte absent.
        #[test]
        fn behaves_as_an_array(ops in prop::collection::vec((0..SECTORS, 1..40u64, any::<u8>(), any::<bool>()), 1..40)) {
            let device = device();
            let mut model = vec![0u8; (SECTORS * SECTOR) as usize];
            for (start, count, value, zero) in ops {
                let end = (start + count).min(SECTORS);
                let (offset, len) = (start * SECTOR, (end - start) * SECTOR);
                let range = offset as usize..(offset + len) as usize;
                if zero {
                    device.lock().zero(offset, len).unwrap();
                    model[range].fill(0);
                } else {
                    device.lock().write(offset, &vec![value; len as usize]).unwrap();
                    model[range].fill(value);
                }
            }
            prop_assert_eq!(&device.lock().read(0, (SECTORS * SECTOR) as u32).unwrap()[..], &model[..]);
            let mut at = 0usize;
            for extent in device.lock().extents(0, SECTORS * SECTOR).unwrap() {
                let end = at + extent.length_bytes as usize;
                prop_assert!(extent.allocated || model[at..end].iter().all(|byte| *byte == 0));
                at = end;
            }
            prop_assert_eq!(at, model.len());
        }
    }

    #[tokio::test]
    async fn a_fenced_device_refuses_everything() {
        let device = device();
        device.fence("lost the quorum");
        assert!(matches!(device.read(0, 512).await, Err(IoError::Fenced(_))));
        assert!(matches!(device.write(0, Bytes::from_static(&[0; 512]), false).await, Err(IoError::Fenced(_))));
        assert!(matches!(device.flush().await, Err(IoError::Fenced(_))));
        assert!(matches!(device.discard(0, 512).await, Err(IoError::Fenced(_))));
    }
}
