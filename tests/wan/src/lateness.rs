//! How late datagrams leave, counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A bucket for each microsecond; the last one holds all that is later.
const BUCKETS: usize = 2048;

pub(crate) struct Lateness([AtomicU64; BUCKETS]);

impl Default for Lateness {
    fn default() -> Self {
        Lateness([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Lateness {
    pub fn add(&self, late: Duration) {
        let bucket = (late.as_micros() as usize).min(BUCKETS - 1);
        self.0[bucket].fetch_add(1, Ordering::Relaxed);
    }

    pub fn p50_us(&self) -> Option<u64> {
        let counts: Vec<u64> = self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let (all, mut seen) = (counts.iter().sum::<u64>(), 0);
        let found = counts.iter().position(|count| {
            seen += count;
            seen * 2 >= all && all > 0
        });
        found.map(|us| us as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_told_and_what_is_very_late_counts() {
        let late = Lateness::default();
        assert_eq!(late.p50_us(), None);
        for us in [3, 5, 9] {
            late.add(Duration::from_micros(us));
        }
        assert_eq!(late.p50_us(), Some(5));
        (0..9).for_each(|_| late.add(Duration::from_secs(1)));
        assert_eq!(late.p50_us(), Some(BUCKETS as u64 - 1));
    }
}
