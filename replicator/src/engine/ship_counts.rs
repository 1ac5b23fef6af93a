//! What shipments have cost and spared on this node, since its daemon began.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::ResyncReading;

#[derive(Default)]
pub struct ShipCounts {
    /// Bytes of blocks in pages that were sent, before they were compressed.
    pub sent_bytes: AtomicU64,
    /// The same as they went onto the link.
    pub packed_bytes: AtomicU64,
    pub zero_bytes: AtomicU64,
    pub same_bytes: AtomicU64,
    /// Bytes of blocks in pages that came and were staged.
    pub received_bytes: AtomicU64,
    pub resumed: AtomicU64,
    /// Images received here that were not as at their source.
    pub mismatches: AtomicU64,
}

impl ShipCounts {
    pub fn read(&self) -> ResyncReading {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ResyncReading {
            sent_bytes_total: of(&self.sent_bytes),
            packed_bytes_total: of(&self.packed_bytes),
            zero_bytes_total: of(&self.zero_bytes),
            same_bytes_total: of(&self.same_bytes),
            received_bytes_total: of(&self.received_bytes),
            resumed_total: of(&self.resumed),
            mismatches_total: of(&self.mismatches),
        }
    }
}

pub fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
