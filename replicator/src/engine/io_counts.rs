//! What the users of a volume's device ask for, counted where requests come in and where they are answered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::device::IoError;
use crate::latency::Latency;
use crate::telemetry::IoReading;

/// Of one kind of request.
#[derive(Default)]
pub struct IoCount {
    bytes: AtomicU64,
    errors: AtomicU64,
    latency: Latency,
}

/// Since the daemon started, whatever sessions there were.
#[derive(Default)]
pub struct IoCounts {
    pub read: IoCount,
    pub write: IoCount,
    pub flush: IoCount,
    /// Discard and write-zeroes.
    pub discard: IoCount,
}

#[derive(Default)]
pub struct IoCountsReading {
    pub read: IoReading,
    pub write: IoReading,
    pub flush: IoReading,
    pub discard: IoReading,
}

impl IoCount {
    /// A request for `bytes` that came in at `began` was answered.
    pub fn answered<T>(&self, began: Instant, bytes: u64, result: &Result<T, IoError>) {
        self.latency.observe(began.elapsed());
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if result.is_err() {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(&self) -> IoReading {
        IoReading {
            bytes_total: self.bytes.load(Ordering::Relaxed),
            errors_total: self.errors.load(Ordering::Relaxed),
            latency: self.latency.read(),
        }
    }
}

impl IoCounts {
    pub fn read(&self) -> IoCountsReading {
        IoCountsReading {
            read: self.read.read(),
            write: self.write.read(),
            flush: self.flush.read(),
            discard: self.discard.read(),
        }
    }
}
