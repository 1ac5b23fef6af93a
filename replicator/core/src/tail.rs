//! The end of the log as the replica remembers it in memory: hashes, sizes and times of recent records.
//!
//! Only a memory: what it has forgotten is answered with `None`, and the caller does without.

use std::collections::VecDeque;

use crate::ids::{Seq, Tick};
use crate::limits::{TAIL_ENTRIES_MAX, TAIL_SAMPLE_RECORDS, TAIL_SAMPLES_MAX};
use crate::record::RecordHash;

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: RecordHash,
    /// Payload bytes of all records appended in this life, this one included.
    bytes_total: u64,
    at: Tick,
}

#[derive(Debug)]
pub struct Tail {
    /// The record before the first entry.
    before: Seq,
    before_hash: Option<RecordHash>,
    before_bytes: u64,
    entries: VecDeque<Entry>,
    /// Of the forgotten ones every so many: enough to say how far somebody is behind, and never too little.
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    seq: Seq,
    bytes_total: u64,
    at: Tick,
}

impl Tail {
    /// A log that ends at `end`, with nothing else known of it.
    pub fn starting_at(end: Seq, hash: Option<RecordHash>) -> Tail {
        Tail { before: end, before_hash: hash, before_bytes: 0, entries: VecDeque::new(), samples: VecDeque::new() }
    }

    pub fn end(&self) -> Seq {
        Seq(self.before.0 + self.entries.len() as u64)
    }

    pub fn push(&mut self, hash: RecordHash, bytes: u64, now: Tick) {
        let bytes_total = self.bytes_total() + bytes;
        self.entries.push_back(Entry { hash, bytes_total, at: now });
        while self.entries.len() > TAIL_ENTRIES_MAX {
            if let Some(first) = self.entries.pop_front() {
                self.before = self.before.next();
                self.before_hash = Some(first.hash);
                self.before_bytes = first.bytes_total;
                if self.before.0.is_multiple_of(TAIL_SAMPLE_RECORDS) {
                    self.samples.push_back(Sample { seq: self.before, bytes_total: first.bytes_total, at: first.at });
                }
                if self.samples.len() > TAIL_SAMPLES_MAX {
                    let mut keeps = false;
                    self.samples.retain(|_| {
                        keeps = !keeps;
                        keeps
                    });
                }
            }
        }
    }

    /// Cuts everything above `end`.
    pub fn truncate(&mut self, end: Seq) {
        if end < self.before {
            self.entries.clear();
            self.samples.retain(|sample| sample.seq <= end);
            (self.before, self.before_hash) = (end, None);
            return;
        }
        self.entries.truncate(end.since(self.before) as usize);
    }

    /// Tells what was forgotten: the hash of the record before the first remembered one.
    pub fn know(&mut self, seq: Seq, hash: RecordHash) {
        if seq == self.before && self.before_hash.is_none() {
            self.before_hash = Some(hash);
        }
    }

    fn entry(&self, seq: Seq) -> Option<&Entry> {
        if seq <= self.before {
            return None;
        }
        self.entries.get((seq.since(self.before) - 1) as usize)
    }

    pub fn hash_at(&self, seq: Seq) -> Option<RecordHash> {
        if seq == Seq::ZERO {
            return Some(RecordHash::default());
        }
        if seq == self.before {
            return self.before_hash;
        }
        self.entry(seq).map(|e| e.hash)
    }

    fn bytes_total(&self) -> u64 {
        self.entries.back().map_or(self.before_bytes, |e| e.bytes_total)
    }

    /// The newest sample at or before a forgotten record.
    fn sample(&self, seq: Seq) -> Option<&Sample> {
        let at = self.samples.partition_point(|sample| sample.seq <= seq);
        self.samples.get(at.checked_sub(1)?).filter(|_| seq <= self.before)
    }

    /// Payload bytes in `(seq, end]`. Where `seq` is older than what is remembered, a little more; a lower bound only
    /// where it is older than this life of the replica.
    pub fn bytes_after(&self, seq: Seq) -> u64 {
        let then = match (self.entry(seq), self.sample(seq)) {
            (Some(entry), _) => entry.bytes_total,
            (None, _) if seq >= self.before => self.before_bytes,
            (None, Some(sample)) => sample.bytes_total,
            (None, None) => 0,
        };
        if seq >= self.end() { 0 } else { self.bytes_total() - then }
    }

    /// Payload bytes in `(from, to]`; `None` where that goes back further than what is remembered.
    pub fn bytes_between(&self, from: Seq, to: Seq) -> Option<u64> {
        match from {
            _ if from >= to => Some(0),
            _ if from < self.before => None,
            _ => Some(self.bytes_after(from) - self.bytes_after(to)),
        }
    }

    /// When the oldest record was appended that anything is known of.
    pub fn oldest_at(&self) -> Option<Tick> {
        self.samples.front().map(|sample| sample.at).or_else(|| self.entries.front().map(|e| e.at))
    }

    /// When the record `seq` was appended: how long whoever lacks it has been behind. Where it is forgotten, a little
    /// earlier. `None`: before this life of the replica, or not yet.
    pub fn appended_at(&self, seq: Seq) -> Option<Tick> {
        self.entry(seq).map(|e| e.at).or_else(|| self.sample(seq).map(|sample| sample.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever is far behind is told to be as far behind as it is, or a little further.
    #[test]
    fn what_is_forgotten_is_not_made_small() {
        let mut tail = Tail::starting_at(Seq::ZERO, None);
        let records = 3 * TAIL_ENTRIES_MAX as u64;
        for n in 1..=records {
            tail.push(RecordHash::default(), 4096, Tick(n * 10));
        }
        for lacks in [1, TAIL_SAMPLE_RECORDS + 7, 70_000, records - TAIL_ENTRIES_MAX as u64, records - 5] {
            let (bytes, true_bytes) = (tail.bytes_after(Seq(lacks)), (records - lacks) * 4096);
            assert!(bytes >= true_bytes && bytes - true_bytes <= TAIL_SAMPLE_RECORDS * 4096, "{lacks}: {bytes}");
            match tail.appended_at(Seq(lacks)) {
                Some(at) => assert!(at <= Tick(lacks * 10) && at.0 + TAIL_SAMPLE_RECORDS * 10 >= lacks * 10, "{lacks}"),
                None => assert!(lacks < TAIL_SAMPLE_RECORDS, "{lacks}"),
            }
        }
        assert_eq!(tail.bytes_between(Seq(7), Seq(records)), None, "who needs it exactly is told that it is forgotten");
        for n in 0..(3 * TAIL_SAMPLES_MAX as u64) * TAIL_SAMPLE_RECORDS {
            tail.push(RecordHash::default(), 0, Tick(records * 10 + n));
        }
        assert!(tail.samples.len() <= TAIL_SAMPLES_MAX);
        assert!(tail.bytes_after(Seq(70_000)) >= (records - 70_000) * 4096, "samples grow sparse, and nothing is lost");
    }
}
