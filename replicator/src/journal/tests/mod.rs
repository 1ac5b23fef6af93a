//! The journal against real files: both engines, faults, crashes.

mod basics;
mod crash;
mod faults;
mod model;
mod space;
mod speed;

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use farshore_core::ids::{Epoch, Seq, SessionId, VolumeId};
use farshore_core::record::{Kind, Origin, Record};

use super::*;
use crate::disk::EngineChoice;

pub(super) const MIB: u64 = 1 << 20;
/// Long enough that only a hang exceeds it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The next record of a chain: a write of `payload`.
pub(super) fn record_after(volume: VolumeId, end: LogEnd, epoch: u64, payload: Bytes) -> Record {
    Record {
        volume,
        lineage: 1,
        epoch: Epoch { n: epoch, writer: 9 },
        seq: end.seq.next(),
        prev_hash: end.hash,
        kind: Kind::Write,
        offset: 0,
        length: payload.len() as u64,
        origin: Origin { session: SessionId(1), tag: end.seq.0 },
        payload_crc: crc32fast::hash(&payload),
        payload,
    }
}

/// A volume's writer: keeps the end of its chain.
pub(super) struct Chain {
    pub(super) volume: VolumeId,
    pub(super) end: LogEnd,
    pub(super) epoch: u64,
}

impl Chain {
    pub(super) fn new(volume: u128) -> Chain {
        Chain { volume: VolumeId(volume), end: LogEnd::default(), epoch: 1 }
    }

    pub(super) fn next(&mut self, blocks: usize) -> Record {
        let byte = (self.end.seq.0 as u8) ^ (self.volume.0 as u8) ^ (self.epoch as u8) << 5;
        let record = record_after(self.volume, self.end, self.epoch, Bytes::from(vec![byte; blocks * 4096]));
        self.end = LogEnd { seq: record.seq, hash: record.hash(), epoch: record.epoch };
        record
    }

    pub(super) fn entry(&mut self, blocks: usize) -> Entry {
        Entry::Record(self.next(blocks))
    }
}

pub(super) fn small(dir: &tempfile::TempDir, segments: u64) -> JournalConfig {
    JournalConfig {
        dir: dir.path().join("journal"),
        segment_bytes: 4 * MIB,
        budget_bytes: segments * 4 * MIB,
        engine: EngineChoice::Threads,
        burnt_dirs: Vec::new(),
    }
}

/// Appends and waits.
pub(super) fn append(journal: &Journal, entries: Vec<Entry>) -> Result<(), JournalError> {
    start(journal, entries).recv_timeout(PATIENCE).expect("the journal never answered")
}

/// Appends; the answer comes on the channel.
pub(super) fn start(journal: &Journal, entries: Vec<Entry>) -> mpsc::Receiver<Result<(), JournalError>> {
    let (tx, rx) = mpsc::channel();
    journal.append(entries, Box::new(move |result| drop(tx.send(result))));
    rx
}

pub(super) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(super) fn read_all(journal: &Journal, volume: VolumeId, from: Seq) -> Vec<Record> {
    let mut out: Vec<Record> = Vec::new();
    loop {
        let next = out.last().map_or(from, |record| record.seq.next());
        match journal.read(volume, next, 1 << 20) {
            Ok(records) => out.extend(records),
            Err(ReadError::Beyond { .. }) => return out,
            Err(error) => panic!("{error}"),
        }
    }
}
