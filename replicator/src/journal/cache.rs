//! The most recent records, kept in memory so that whoever reads the tail needs no disk. Bounded in bytes, over all
//! volumes; the oldest go first.

use std::collections::{BTreeMap, VecDeque};

use farshore_core::ids::{Seq, VolumeId};
use farshore_core::record::Record;

/// What an entry takes besides its payload, roughly.
const OVERHEAD_BYTES: usize = 400;

pub(super) struct Cache {
    records: BTreeMap<(VolumeId, Seq), (u64, Record)>,
    /// Arrivals in order; one whose stamp no longer matches was replaced or dropped meanwhile.
    order: VecDeque<(VolumeId, Seq, u64)>,
    stamp: u64,
    bytes: usize,
    limit_bytes: usize,
}

impl Cache {
    pub(super) fn new(limit_bytes: usize) -> Cache {
        Cache { records: BTreeMap::new(), order: VecDeque::new(), stamp: 0, bytes: 0, limit_bytes }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, volume: VolumeId, seq: Seq) -> Option<&Record> {
        self.records.get(&(volume, seq)).map(|(_, record)| record)
    }

    pub(super) fn insert(&mut self, record: Record) {
        let key = (record.volume, record.seq);
        self.stamp += 1;
        self.bytes += record.payload.len() + OVERHEAD_BYTES;
        self.order.push_back((key.0, key.1, self.stamp));
        if let Some((_, old)) = self.records.insert(key, (self.stamp, record)) {
            self.bytes -= old.payload.len() + OVERHEAD_BYTES;
        }
        // The order's own length is bounded too: dropped records leave entries behind in it.
        while self.bytes > self.limit_bytes || self.order.len() * OVERHEAD_BYTES > 2 * self.limit_bytes {
            let Some((volume, seq, stamp)) = self.order.pop_front() else { break };
            if self.records.get(&(volume, seq)).is_some_and(|(newest, _)| *newest == stamp) {
                self.remove(volume, seq);
            }
        }
    }

    fn remove(&mut self, volume: VolumeId, seq: Seq) {
        if let Some((_, old)) = self.records.remove(&(volume, seq)) {
            self.bytes -= old.payload.len() + OVERHEAD_BYTES;
        }
    }

    /// Drops a volume's records after `after`.
    pub(super) fn truncate(&mut self, volume: VolumeId, after: Seq) {
        let range = (volume, after.next())..=(volume, Seq(u64::MAX));
        let hidden: Vec<Seq> = self.records.range(range).map(|(&(_, seq), _)| seq).collect();
        for seq in hidden {
            self.remove(volume, seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use farshore_core::journal::entry::LogEnd;

    use super::super::tests::record_after;
    use super::*;

    fn record(volume: u128, seq: u64) -> Record {
        let end = LogEnd { seq: Seq(seq - 1), ..LogEnd::default() };
        record_after(VolumeId(volume), end, 1, Bytes::from(vec![0; 4096]))
    }

    #[test]
    fn the_oldest_go_first_and_the_bound_holds() {
        let mut cache = Cache::new(10 * (4096 + OVERHEAD_BYTES));
        for seq in 1..=100 {
            cache.insert(record(seq as u128 % 3, seq));
            assert!(cache.bytes() <= 10 * (4096 + OVERHEAD_BYTES));
        }
        assert!(cache.get(VolumeId(0), Seq(90)).is_none());
        assert!((91..=100).all(|seq| cache.get(VolumeId(seq as u128 % 3), Seq(seq)).is_some()));
    }

    #[test]
    fn truncated_records_are_gone_and_accounted_for() {
        let mut cache = Cache::new(1 << 20);
        for seq in 1..=5 {
            cache.insert(record(1, seq));
            cache.insert(record(2, seq));
        }
        cache.truncate(VolumeId(1), Seq(2));
        assert!(cache.get(VolumeId(1), Seq(2)).is_some() && cache.get(VolumeId(1), Seq(3)).is_none());
        assert!(cache.get(VolumeId(2), Seq(5)).is_some());
        cache.truncate(VolumeId(1), Seq(0));
        cache.truncate(VolumeId(2), Seq(0));
        assert_eq!(cache.bytes(), 0);
    }
}
