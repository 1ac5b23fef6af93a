//! The stores: applying, checkpoints, reads. Images on their way from one to another are in shipments.

use bytes::BytesMut;
use farshore_core::api::{Event, ReadFrom, RequestId};
use farshore_core::ids::{BLOCK_BYTES, MemberId, Seq};
use farshore_core::overlay::{Content, Hit};
use farshore_core::record::Kind;

use crate::disk::stamp_in;
use crate::schedule::Happening;
use crate::world::World;

/// Pause before a batch that failed is tried again.
const APPLY_RETRY_US: u64 = 100_000;
/// Pause before a read is tried again that no store in reach could answer.
const READ_RETRY_US: u64 = 5_000;

impl World {
    pub fn apply(&mut self, id: MemberId, upto: Seq) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let full = node.store_full_until > self.now;
        let (upto_now, life) = (if full { node.disk.now.base.seq } else { upto }, node.life);
        let applied = node.disk.apply(upto_now);
        let (reached, lineage) = (node.disk.now.base.seq, node.lineage.uuid);
        for (record, hash) in &applied {
            let verdict = self.oracle.applied(id, lineage, record, *hash);
            self.check(verdict);
        }
        if applied.iter().any(|(record, _)| record.kind == Kind::SnapMark)
            && let Some(node) = self.nodes.get(&id)
        {
            let verdict = self.oracle.image(id, lineage, &node.disk.now);
            self.check(verdict);
        }
        if !applied.is_empty() {
            self.feed(id, Event::Applied { seq: reached });
        }
        if reached < upto {
            // The store is full, or a record can't be read yet: tried again, as the daemon does.
            self.after(APPLY_RETRY_US, Happening::Applied { node: id, life, upto });
        }
    }

    pub fn checkpoint(&mut self, id: MemberId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let base = node.disk.checkpoint();
        let verdict = self.oracle.image(id, node.lineage.uuid, &node.disk.now);
        let life = node.life;
        self.check(verdict);
        self.feed(id, Event::Checkpointed { base });
        let delay = self.dice.range(1, self.knobs.checkpoint_us);
        self.after(delay, Happening::Checkpoint { node: id, life });
    }

    pub fn start_read(
        &mut self,
        id: MemberId,
        life: u32,
        request: RequestId,
        offset: u64,
        length: u32,
        hits: Vec<Hit>,
    ) {
        let delay = self.disk_delay(id, self.knobs.read_us);
        let Some(node) = self.nodes.get(&id) else { return };
        let mut over = Vec::new();
        for hit in hits {
            let first = (hit.offset / BLOCK_BYTES) as usize;
            for i in 0..(hit.length / BLOCK_BYTES) as usize {
                let stamp = match &hit.content {
                    Content::Data(bytes) => stamp_in(&bytes.slice(i * BLOCK_BYTES as usize..)),
                    Content::Zeroes => node.disk.zeroes.get(&hit.seq).copied().unwrap_or(u64::MAX),
                };
                over.push((first + i, stamp));
            }
        }
        let first = (offset / BLOCK_BYTES) as usize;
        let blocks = first..first + (u64::from(length) / BLOCK_BYTES) as usize;
        self.after(delay, Happening::StoreRead { node: id, life, id: request, blocks, over });
    }

    /// What a read returns here is each block's stamp, in its first eight bytes.
    pub fn store_read(
        &mut self,
        id: MemberId,
        request: RequestId,
        blocks: std::ops::Range<usize>,
        over: Vec<(usize, u64)>,
    ) {
        let from = self.nodes.get(&id).and_then(|n| n.volume.as_ref()?.read_from(n.clock_at(self.now)));
        let reader = match from {
            None => id,
            Some(from) => match self.reader_of(id, &from) {
                Some(reader) => reader,
                None => {
                    let Some(life) = self.life(id) else { return };
                    let what = Happening::StoreRead { node: id, life, id: request, blocks, over };
                    return self.after(READ_RETRY_US, what);
                }
            },
        };
        let Some(node) = self.nodes.get_mut(&reader) else { return };
        let mut data = BytesMut::zeroed(blocks.len() * 8);
        for block in blocks.clone() {
            let laid = over.iter().find(|(b, _)| *b == block).map(|(_, stamp)| *stamp);
            let stamp = laid.unwrap_or(node.disk.now.cells[block].stamp);
            let at = (block - blocks.start) * 8;
            data[at..at + 8].copy_from_slice(&stamp.to_le_bytes());
        }
        let result = match &mut node.reads_fail {
            0 => Ok(data.freeze()),
            left => {
                *left -= 1;
                Err("I/O error".to_string())
            }
        };
        let done = Event::ReadDone { id: request, result };
        if reader == id {
            return self.feed(id, done);
        }
        let delay = self.side.skewed(50, 20_000);
        if let Some(life) = self.life(id) {
            self.after(delay, Happening::Feed { node: id, life, event: Box::new(done) });
        }
    }

    /// Whose store answers a node without one: it is in reach, and shows enough.
    fn reader_of(&self, id: MemberId, from: &ReadFrom) -> Option<MemberId> {
        let lineage = self.nodes.get(&id)?.lineage;
        let shows = |other: &&MemberId| {
            let reached = !self.network.is_cut(id, **other) && !self.network.is_cut(**other, id);
            let node = self.nodes.get(other).filter(|n| reached && n.lineage == lineage && n.paused_until <= self.now);
            let whole = node.and_then(|n| n.volume.as_ref()).is_some_and(|v| v.replica().whole());
            whole && node.is_some_and(|n| n.disk.now.base.seq >= from.applied)
        };
        from.members.iter().find(shows).copied()
    }
}
