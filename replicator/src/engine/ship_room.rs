//! The memory that all shipments of this node may take: one bound, shared in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use farshore_core::ids::BLOCK_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::packing::CHUNK_BYTES;

/// Of blocks on their way, of all shipments. With what is packed of them it is up to three times that.
const ROOM_BYTES: u64 = 32 << 20;
/// To one target: the link goes on while the target writes and the next page is read.
const SHARE_BYTES_MAX: u64 = 8 << 20;
/// One page is always let through.
const SHARE_BYTES_MIN: u64 = CHUNK_BYTES;

const _: () = assert!(CHUNK_BYTES <= SHARE_BYTES_MAX && SHARE_BYTES_MAX <= ROOM_BYTES);

pub struct ShipRoom {
    /// In blocks. Who waits is served in turn, and each shipment waits with one page at a time.
    blocks: Arc<Semaphore>,
    shipments: AtomicU64,
}

impl Default for ShipRoom {
    fn default() -> ShipRoom {
        let blocks = Arc::new(Semaphore::new((ROOM_BYTES / BLOCK_BYTES) as usize));
        ShipRoom { blocks, shipments: AtomicU64::new(0) }
    }
}

impl ShipRoom {
    pub fn enter(self: &Arc<Self>) -> Guest {
        self.shipments.fetch_add(1, Ordering::Relaxed);
        Guest { room: self.clone() }
    }
}

/// One shipment.
pub struct Guest {
    room: Arc<ShipRoom>,
}

impl Guest {
    /// What it may have under way now: less, the more there are, so that none that its link holds up takes all.
    pub fn share_bytes(&self) -> u64 {
        let shipments = self.room.shipments.load(Ordering::Relaxed).max(1);
        (ROOM_BYTES / shipments).clamp(SHARE_BYTES_MIN, SHARE_BYTES_MAX)
    }

    /// Room for a page, until what is returned is dropped.
    pub fn page(&self, bytes: u64) -> impl Future<Output = OwnedSemaphorePermit> + Send + use<> {
        let count = bytes.clamp(BLOCK_BYTES, ROOM_BYTES).div_ceil(BLOCK_BYTES) as u32;
        let blocks = self.room.blocks.clone();
        async move { blocks.acquire_many_owned(count).await.expect("it is never closed") }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.room.shipments.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_hundred_shipments_take_no_more_than_the_room_and_each_gets_its_turn() {
        let room = Arc::new(ShipRoom::default());
        let alone = room.enter();
        assert_eq!(alone.share_bytes(), SHARE_BYTES_MAX);
        let guests: Vec<Guest> = (1..100).map(|_| room.enter()).collect();
        assert_eq!(alone.share_bytes(), SHARE_BYTES_MIN);
        let mut waiting: Vec<_> = guests.iter().map(|guest| Box::pin(guest.page(CHUNK_BYTES))).collect();
        let mut let_in = Vec::new();
        for page in &mut waiting {
            let_in.extend(page.now_or_never());
        }
        assert_eq!(let_in.len() as u64, ROOM_BYTES / CHUNK_BYTES);
        // Whoever was let in comes again only behind all that wait.
        let again = Box::pin(guests[0].page(CHUNK_BYTES));
        waiting.drain(..let_in.len());
        waiting.push(again);
        for (turn, page) in waiting.iter_mut().enumerate() {
            assert!(page.as_mut().now_or_never().is_none(), "no room yet");
            drop(let_in.pop());
            let_in.push(page.as_mut().now_or_never().unwrap_or_else(|| panic!("turn {turn}")));
        }
        drop((let_in, waiting, guests));
        assert_eq!((alone.share_bytes(), room.blocks.available_permits()), (SHARE_BYTES_MAX, 8192));
    }
}
