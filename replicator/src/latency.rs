//! A histogram for hot paths: fixed buckets, one relaxed addition per observation, no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds: three per decade around what disks (50 µs) and continents (300 ms) take.
pub const BUCKETS_US: [u64; 17] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 35_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    5_000_000, 30_000_000,
];
/// The last one counts what is above every bound.
const COUNTS: usize = BUCKETS_US.len() + 1;

/// Counts durations. Shared by reference; all methods take `&self`.
#[derive(Debug, Default)]
pub struct Latency {
    counts: [AtomicU64; COUNTS],
    sum_us: AtomicU64,
}

/// What a [`Latency`] held at one moment. Buckets are not cumulative.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LatencyReading {
    pub counts: [u64; COUNTS],
    pub sum_us: u64,
}

impl Latency {
    pub fn observe(&self, took: Duration) {
        self.observe_us(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub fn observe_us(&self, us: u64) {
        let bucket = BUCKETS_US.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        // Wraps after half a million years of waiting.
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub fn read(&self) -> LatencyReading {
        let counts = std::array::from_fn(|i| self.counts[i].load(Ordering::Relaxed));
        LatencyReading { counts, sum_us: self.sum_us.load(Ordering::Relaxed) }
    }
}

impl LatencyReading {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// (upper bound in seconds, count) as the encoder wants them: the last bound is +Inf.
    pub(crate) fn buckets_s(&self) -> [(f64, u64); COUNTS] {
        std::array::from_fn(|i| match BUCKETS_US.get(i) {
            Some(us) => (*us as f64 / 1e6, self.counts[i]),
            None => (f64::INFINITY, self.counts[i]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_ascend() {
        assert!(BUCKETS_US.is_sorted());
        let latency = Latency::default();
        for us in [0, 50, 51, 30_000_000, 30_000_001] {
            latency.observe_us(us);
        }
        let read = latency.read();
        assert_eq!((read.counts[0], read.counts[1], read.counts[16], read.counts[17]), (2, 1, 1, 1));
        assert_eq!((read.count(), read.sum_us), (5, 60_000_102));
    }
}
