//! 512-byte logical blocks on top of a device whose blocks are 4096 bytes, by read-modify-write.
//!
//! Records always carry whole checksum blocks, so a write of one sector becomes a write of its block. Two such
//! writes into one block must not undo each other, hence the table of claims:
//!
//! ```text
//!   whole-block write   claims its blocks Shared      two of them never wait for each other: each overwrites all it touches
//!   read-modify-write   claims its blocks Exclusive   waits for every earlier claim that overlaps, and is waited for
//!   read                claims nothing                a block is read as it was before or after a write, never in between
//! ```
//!
//! A claim is entered when the request is called and waits only for earlier ones, so the order of overlapping
//! requests is the order of their calls and no two can wait for each other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use farshore_core::ids::BLOCK_BYTES;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::block::{BlockDevice, Extent, Geometry, IoError};
use super::limits::IO_BYTES_MAX;

const SECTOR_BYTES: u32 = 512;

/// Shows 512-byte sectors where `inner` has 4096-byte blocks. All clients of a volume must share one `SectorDevice`;
/// the size of `inner` must be a multiple of 4096.
pub struct SectorDevice {
    inner: Arc<dyn BlockDevice>,
    claims: Arc<Claims>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Shared,
    Exclusive,
}

/// The blocks that requests in flight are about to change. As many entries as the frontends have requests in flight.
#[derive(Default)]
struct Claims {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    held: BTreeMap<u64, Held>,
}

struct Held {
    blocks: Range<u64>,
    mode: Mode,
    /// Closes when the claim ends.
    ended: watch::Receiver<()>,
}

/// Ends when dropped.
struct Claim {
    number: u64,
    claims: Arc<Claims>,
    earlier: Vec<watch::Receiver<()>>,
    _open: watch::Sender<()>,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no code panics while it holds this lock")
    }

    fn enter(self: &Arc<Self>, blocks: Range<u64>, mode: Mode) -> Claim {
        let (open, ended) = watch::channel(());
        let mut table = self.lock();
        let earlier = table
            .held
            .values()
            .filter(|held| held.blocks.start < blocks.end && blocks.start < held.blocks.end)
            .filter(|held| held.mode == Mode::Exclusive || mode == Mode::Exclusive)
            .map(|held| held.ended.clone())
            .collect();
        let number = table.next;
        table.next += 1;
        table.held.insert(number, Held { blocks, mode, ended });
        Claim { number, claims: self.clone(), earlier, _open: open }
    }
}

impl Claim {
    /// Until every earlier claim that overlaps has ended.
    async fn granted(&mut self) {
        for mut ended in std::mem::take(&mut self.earlier) {
            // Nothing is ever sent: an error is the end that we wait for.
            let _ = ended.changed().await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().held.remove(&self.number);
    }
}

/// The whole blocks that contain the range.
fn around(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)
}

/// The whole blocks inside the range; empty when it has none.
fn inside(range: &Range<u64>) -> Range<u64> {
    let start = range.start.div_ceil(BLOCK_BYTES);
    start..(range.end / BLOCK_BYTES).max(start)
}

fn is_whole(range: &Range<u64>) -> bool {
    around(range) == inside(range)
}

impl SectorDevice {
    pub fn new(inner: Arc<dyn BlockDevice>) -> Self {
        Self { inner, claims: Arc::default() }
    }

    /// Replaces the bytes of `range`, which need not be whole blocks, under a claim on every block that it touches.
    async fn merge(&self, range: Range<u64>, data: Bytes, fua: bool) -> Result<(), IoError> {
        let blocks = around(&range);
        let start = blocks.start * BLOCK_BYTES;
        let mut merged = BytesMut::with_capacity(((blocks.end - blocks.start) * BLOCK_BYTES) as usize);
        let head = (range.start - start) as usize;
        if head > 0 {
            let block = self.read_block(blocks.start).await?;
            merged.extend_from_slice(&block[..head]);
        }
        merged.extend_from_slice(&data);
        let tail = (range.end % BLOCK_BYTES) as usize;
        if tail > 0 {
            let block = self.read_block(blocks.end - 1).await?;
            merged.extend_from_slice(&block[tail..]);
        }
        self.write_blocks(start, merged.freeze(), fua).await
    }

    /// The edges can make a write of the permitted size one block too long for one call.
    async fn write_blocks(&self, start: u64, data: Bytes, fua: bool) -> Result<(), IoError> {
        super::pieces::write(&*self.inner, start, data, fua).await
    }

    async fn read_block(&self, block: u64) -> Result<Bytes, IoError> {
        let bytes = self.inner.read(block * BLOCK_BYTES, BLOCK_BYTES as u32).await?;
        if bytes.len() as u64 == BLOCK_BYTES {
            Ok(bytes)
        } else {
            Err(IoError::Io(format!("the device returned {} bytes of a block", bytes.len())))
        }
    }

    async fn zero(&self, range: Range<u64>, unmap: bool, fua: bool) -> Result<(), IoError> {
        let whole = inside(&range);
        let middle = whole.start * BLOCK_BYTES..whole.end * BLOCK_BYTES;
        if middle.is_empty() {
            let len = (range.end - range.start) as usize;
            return self.merge(range, BytesMut::zeroed(len).freeze(), fua).await;
        }
        for edge in [range.start..middle.start, middle.end..range.end] {
            if !edge.is_empty() {
                let len = (edge.end - edge.start) as usize;
                self.merge(edge, BytesMut::zeroed(len).freeze(), fua).await?;
            }
        }
        self.inner.write_zeroes(middle.start, middle.end - middle.start, unmap, fua).await
    }

    /// Checks a change and claims what it touches; both at the call, before anything is awaited.
    fn admit(&self, offset: u64, len: u64) -> Result<(Range<u64>, Claim), IoError> {
        let range = self.geometry().check_change(offset, len)?;
        let mode = if is_whole(&range) { Mode::Shared } else { Mode::Exclusive };
        let claim = self.claims.enter(around(&range), mode);
        Ok((range, claim))
    }
}

impl BlockDevice for SectorDevice {
    fn geometry(&self) -> Geometry {
        Geometry { logical_block_bytes: SECTOR_BYTES, ..self.inner.geometry() }
    }

    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        Box::pin(async move {
            let range = self.geometry().check(offset, len.into())?;
            if is_whole(&range) {
                return self.inner.read(offset, len).await;
            }
            let blocks = around(&range);
            let start = blocks.start * BLOCK_BYTES;
            let covering = (blocks.end - blocks.start) * BLOCK_BYTES;
            let skip = (range.start - start) as usize;
            let mut parts = super::pieces::read(&*self.inner, start, covering as u32).await?;
            let bytes = if parts.len() == 1 { parts.remove(0) } else { Bytes::from(parts.concat()) };
            Ok(bytes.slice(skip..skip + len as usize))
        })
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        let admitted = self.admit(offset, data.len() as u64);
        Box::pin(async move {
            let (range, mut claim) = admitted?;
            claim.granted().await;
            if is_whole(&range) {
                self.inner.write(offset, data, fua).await
            } else if data.len() > IO_BYTES_MAX as usize {
                Err(IoError::Io(format!("a write of {} bytes exceeds the limit of one call", data.len())))
            } else {
                self.merge(range, data, fua).await
            }
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        self.inner.flush()
    }

    /// Only whole blocks are discarded: the sectors at the edges share a block with bytes that stay.
    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
        let admitted = self.geometry().check_change(offset, len).map(|range| {
            let blocks = inside(&range);
            (!blocks.is_empty()).then(|| (blocks.clone(), self.claims.enter(blocks, Mode::Shared)))
        });
        Box::pin(async move {
            let Some((blocks, mut claim)) = admitted? else { return Ok(()) };
            claim.granted().await;
            self.inner.discard(blocks.start * BLOCK_BYTES, (blocks.end - blocks.start) * BLOCK_BYTES).await
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        let admitted = self.admit(offset, len);
        Box::pin(async move {
            let (range, mut claim) = admitted?;
            claim.granted().await;
            self.zero(range, unmap, fua).await
        })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>, IoError>> {
        Box::pin(async move {
            let range = self.geometry().check(offset, len)?;
            let blocks = around(&range);
            let start = blocks.start * BLOCK_BYTES;
            let found = self.inner.extents(start, (blocks.end - blocks.start) * BLOCK_BYTES).await?;
            Ok(clip(start, found, &range))
        })
    }
}

/// The extents that begin at `start`, cut to `range`.
fn clip(start: u64, extents: Vec<Extent>, range: &Range<u64>) -> Vec<Extent> {
    let mut at = start;
    let mut out = Vec::with_capacity(extents.len());
    for extent in extents {
        let end = at.saturating_add(extent.length_bytes);
        let (from, to) = (at.max(range.start), end.min(range.end));
        if from < to {
            out.push(Extent { length_bytes: to - from, ..extent });
        }
        at = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::MemoryDevice;

    /// A 4096-byte device that yields between a call and its effect, so that interleavings can happen at all.
    struct Slow(MemoryDevice);

    const SIZE: u64 = 16 * BLOCK_BYTES;

    impl Slow {
        async fn pause(&self, offset: u64) {
            for _ in 0..(offset / BLOCK_BYTES % 5) + 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    impl BlockDevice for Slow {
        fn geometry(&self) -> Geometry {
            self.0.geometry()
        }
        fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
            Box::pin(async move {
                self.pause(offset).await;
                let bytes = self.0.read(offset, len).await;
                self.pause(offset).await;
                bytes
            })
        }
        fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
            Box::pin(async move {
                self.pause(offset).await;
                self.0.write(offset, data, fua).await
            })
        }
        fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
            self.0.flush()
        }
        fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
            self.0.discard(offset, len)
        }
        fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
            Box::pin(async move {
                self.pause(offset).await;
                self.0.write_zeroes(offset, len, unmap, fua).await
            })
        }
    }

    fn sectors() -> SectorDevice {
        let geometry =
            Geometry { size_bytes: SIZE, logical_block_bytes: 4096, volatile_cache: false, read_only: false };
        SectorDevice::new(Arc::new(Slow(MemoryDevice::new(geometry))))
    }

    proptest! {
        /// All requests are called at once and run concurrently; the result is that of running them in order,
        /// sector by sector: later calls that overlap a read-modify-write win, and nobody loses a neighbour's bytes.
        #[test]
        fn concurrent_requests_never_lose_bytes(
            ops in prop::collection::vec((0..SIZE / 512, 1..24u64, 1..255u8, 0..4u8), 1..48)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let device = sectors();
                let mut model = vec![0u8; SIZE as usize];
                let mut calls = Vec::new();
                for (start, count, value, kind) in ops {
                    let end = (start + count).min(SIZE / 512);
                    let range = start * 512..end * 512;
                    let len = range.end - range.start;
                    let bytes = &mut model[range.start as usize..range.end as usize];
                    // Whole-block writes are not ordered among each other, so the model only has partial ones.
                    if is_whole(&range) {
                        continue;
                    }
                    if kind == 0 {
                        bytes.fill(0);
                        calls.push(device.write_zeroes(range.start, len, true, false));
                    } else {
                        bytes.fill(value);
                        calls.push(device.write(range.start, vec![value; len as usize].into(), kind == 1));
                    }
                }
                for result in futures_util::future::join_all(calls).await {
                    result.unwrap();
                }
                assert!(device.read(0, SIZE as u32).await.unwrap() == model);
                assert!(device.claims.lock().held.is_empty());
            });
        }
    }

    #[tokio::test]
    async fn sixty_four_writers_of_single_sectors_keep_each_others_bytes() {
        let device = Arc::new(sectors());
        let mut writers = tokio::task::JoinSet::new();
        for sector in 0..SIZE / 512 {
            let device = device.clone();
            writers.spawn(async move {
                for round in 0..8u8 {
                    let value = (sector as u8).wrapping_mul(7).wrapping_add(round);
                    device.write(sector * 512, vec![value; 512].into(), false).await.unwrap();
                }
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        for sector in 0..SIZE / 512 {
            let expected = (sector as u8).wrapping_mul(7).wrapping_add(7);
            assert!(device.read(sector * 512, 512).await.unwrap().iter().all(|byte| *byte == expected));
        }
    }

    #[tokio::test]
    async fn a_sector_write_does_not_undo_a_whole_block_write_that_came_later() {
        let device = sectors();
        let sector = device.write(512, vec![1; 512].into(), false);
        let block = device.write(0, vec![2; 4096].into(), false);
        let (first, second) = tokio::join!(sector, block);
        first.and(second).unwrap();
        assert!(device.read(0, 4096).await.unwrap().iter().all(|byte| *byte == 2));
    }

    #[tokio::test]
    async fn discard_keeps_the_edges() {
        let device = sectors();
        device.write(0, vec![9; SIZE as usize].into(), false).await.unwrap();
        device.discard(512, 3 * BLOCK_BYTES).await.unwrap();
        let bytes = device.read(0, 5 * 4096).await.unwrap();
        assert!(bytes[..4096].iter().all(|byte| *byte == 9));
        assert!(bytes[4096..3 * 4096].iter().all(|byte| *byte == 0));
        assert!(bytes[3 * 4096..].iter().all(|byte| *byte == 9));
    }

    #[tokio::test]
    async fn misaligned_and_outlying_requests_are_refused() {
        let device = sectors();
        assert_eq!(device.write(100, vec![0; 512].into(), false).await, Err(IoError::Misaligned));
        assert_eq!(device.read(SIZE - 512, 1024).await, Err(IoError::OutOfRange));
        assert_eq!(device.write_zeroes(SIZE, 512, true, false).await, Err(IoError::OutOfRange));
    }
}
