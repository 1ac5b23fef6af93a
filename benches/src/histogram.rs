//! Latencies as counts, and their percentiles.

use std::collections::BTreeMap;

/// How often each latency was seen, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram(BTreeMap<u64, u64>);

impl Histogram {
    pub fn add(&mut self, ns: u64, count: u64) {
        if count > 0 {
            *self.0.entry(ns).or_default() += count;
        }
    }

    pub fn merge(&mut self, other: &Histogram) {
        other.0.iter().for_each(|(ns, count)| self.add(*ns, *count));
    }

    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The least latency that this part of all (0 to 1) did not exceed, in microseconds; by nearest rank. None of none.
    pub fn percentile_us(&self, part: f64) -> Option<f64> {
        let rank = ((part * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.0.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        });
        found.map(|(ns, _)| *ns as f64 / 1e3)
    }

    pub fn p50_us(&self) -> f64 {
        self.percentile_us(0.5).unwrap_or(0.0)
    }

    pub fn p99_us(&self) -> f64 {
        self.percentile_us(0.99).unwrap_or(0.0)
    }
}

impl FromIterator<u64> for Histogram {
    fn from_iter<T: IntoIterator<Item = u64>>(all: T) -> Self {
        let mut histogram = Histogram::default();
        all.into_iter().for_each(|ns| histogram.add(ns, 1));
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let histogram: Histogram = (1..=100).map(|n| n * 1000).collect();
        assert_eq!((histogram.p50_us(), histogram.p99_us()), (50.0, 99.0));
        assert_eq!((histogram.percentile_us(0.0), histogram.percentile_us(1.0)), (Some(1.0), Some(100.0)));
        let one: Histogram = [7000].into_iter().collect();
        assert_eq!((one.p50_us(), one.p99_us()), (7.0, 7.0));
        assert_eq!(Histogram::default().percentile_us(0.5), None);
    }

    #[test]
    fn two_that_are_merged_are_as_one() {
        let (mut low, high): (Histogram, Histogram) = ((0..10).collect(), (5..30).collect());
        low.merge(&high);
        assert_eq!(low, (0..10).chain(5..30).collect());
        assert_eq!(low.count(), 35);
    }
}
