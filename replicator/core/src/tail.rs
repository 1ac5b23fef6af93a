//! The end of the log as the replica remembers it in memory: hashes, sizes and times of recent records.
//!
//! Only a memory: what it has forgotten is answered with `None`, and the caller does without.

use std::collections::VecDeque;

use crate::ids::{Seq, Tick};
use crate::limits::TAIL_ENTRIES_MAX;
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
}

impl Tail {
    /// A log that ends at `end`, with nothing else known of it.
    pub fn starting_at(end: Seq, hash: Option<RecordHash>) -> Tail {
        Tail { before: end, before_hash: hash, before_bytes: 0, entries: VecDeque::new() }
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
            }
        }
    }

    /// Cuts everything above `end`.
    pub fn truncate(&mut self, end: Seq) {
        if end < self.before {
            *self = Tail { before: end, before_hash: None, before_bytes: self.before_bytes, entries: VecDeque::new() };
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

    /// Payload bytes in `(seq, end]`; a lower bound when `seq` is older than what is remembered.
    pub fn bytes_after(&self, seq: Seq) -> u64 {
        let then = self.entry(seq).map_or(self.before_bytes, |e| e.bytes_total);
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

    /// When the record after `seq` was appended: how long its holder has been behind. `None` when forgotten or none.
    pub fn appended_at(&self, seq: Seq) -> Option<Tick> {
        self.entry(seq).map(|e| e.at)
    }
}
