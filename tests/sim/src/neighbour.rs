//! The other volume of a node: it shares the journal and nothing else. It writes records of its own, and whatever was
//! told to be durable must be there after every crash; so it is a check of the journal alone.

use bytes::Bytes;
use farshore_core::api::JournalOp;
use farshore_core::ids::{Epoch, MemberId, Seq, VolumeId};
use farshore_core::journal::entry::LogEnd;
use farshore_core::record::{Kind, Origin, Record};

use crate::journal::{Asker, Journal};
use crate::oracle::Violation;
use crate::schedule::Happening;
use crate::world::World;

pub const NEIGHBOUR: VolumeId = VolumeId(0xbe51de);
/// Records that it holds un-checkpointed, at most: beyond, it waits.
const BEHIND_MAX: u64 = 12;

/// What it remembers of itself, whatever becomes of the node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Neighbour {
    /// The journal said so.
    durable: Seq,
    checkpoint: Seq,
}

/// The record of this seq carries its number.
fn payload(seq: Seq) -> Bytes {
    let mut bytes = vec![0; 512 * (seq.0 as usize % 12)];
    if let Some(front) = bytes.get_mut(..8) {
        front.copy_from_slice(&seq.0.to_le_bytes());
    }
    Bytes::from(bytes)
}

fn record(after: LogEnd) -> Record {
    let payload = payload(after.seq.next());
    Record {
        volume: NEIGHBOUR,
        lineage: 1,
        epoch: Epoch { n: 1, writer: 1 },
        seq: after.seq.next(),
        prev_hash: after.hash,
        kind: Kind::Noop,
        offset: 0,
        length: 0,
        origin: Origin::default(),
        payload_crc: crc32fast::hash(&payload),
        payload,
    }
}

impl World {
    pub fn neighbour_writes(&mut self, id: MemberId, life: u32) {
        let room_again = self.dice.chance(100);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let journal = &mut node.disk.journal;
        if room_again {
            // As the daemon's checkpointer: now and then it tries again to grow.
            journal.segments.allocation_error = None;
        }
        let end = journal.queue.ahead.volumes.get(&NEIGHBOUR).map(|log| log.end()).unwrap_or_default();
        if end.seq.since(node.neighbour.checkpoint) < BEHIND_MAX {
            let record = record(end);
            let seq = record.seq;
            journal.append(NEIGHBOUR, vec![JournalOp::Record(record)], Asker::Neighbour(seq));
        }
        self.start_write(id, life);
        let delay = self.dice.range(1_000, self.knobs.neighbour_us * 2);
        self.after(delay, Happening::Neighbour { node: id, life });
    }

    pub fn neighbour_is_durable(&mut self, id: MemberId, seq: Seq) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.neighbour.durable = node.neighbour.durable.max(seq);
        if self.dice.chance(200) {
            node.neighbour.checkpoint = node.neighbour.durable;
            node.disk.journal.mark(NEIGHBOUR, node.neighbour.durable, node.neighbour.durable);
        }
    }

    /// After a crash: what it was told is durable is there, unless the disk has rotted.
    pub fn neighbour_looks(&mut self, id: MemberId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.disk.broken.is_some() || node.disk.damaged {
            node.neighbour = Neighbour::default();
            if node.disk.broken.is_none() {
                forget(&mut node.disk.journal);
            }
            return;
        }
        let Neighbour { durable, checkpoint } = node.neighbour;
        let found = node.disk.neighbour.as_ref();
        let last = found.map_or(Seq::ZERO, |found| found.last);
        let mut wrong = (last < durable).then(|| format!("its log ends at {last}, {durable} was durable"));
        if let Some(damaged) = found.and_then(|found| found.damaged) {
            wrong = Some(format!("record {damaged} is damaged on a disk that is well"));
        }
        for seq in checkpoint.0 + 1..=last.0 {
            let read = node.disk.journal.record(NEIGHBOUR, Seq(seq));
            if read.is_none_or(|record| record.payload != payload(Seq(seq))) {
                wrong = wrong.or(Some(format!("record {seq}, after checkpoint {checkpoint}, is not there")));
            }
        }
        node.disk.journal.mark(NEIGHBOUR, checkpoint, checkpoint);
        node.neighbour.durable = last;
        if let Some(wrong) = wrong {
            self.check(Err(Violation { checker: "journal", text: format!("{id}: the other volume: {wrong}") }));
        }
    }
}

fn forget(journal: &mut Journal) {
    let entry = farshore_core::journal::entry::Entry::Forget { volume: NEIGHBOUR };
    let unanswered = journal.queue.push(vec![(entry, Default::default())], Asker::Neighbour(Seq::ZERO));
    assert!(unanswered.is_none(), "the queue was ended");
}
