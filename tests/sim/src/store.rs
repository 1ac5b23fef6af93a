//! The stores: applying, checkpoints, reads. Images on their way from one to another are in shipments.

use bytes::BytesMut;
use farshore_core::api::{Event, RequestId};
use farshore_core::ids::{BLOCK_BYTES, MemberId, Seq};
use farshore_core::overlay::{Content, Hit};
use farshore_core::record::Kind;

use crate::disk::stamp_in;
use crate::schedule::Happening;
use crate::world::World;

/// Pause before a batch that failed is tried again.
const APPLY_RETRY_US: u64 = 100_000;

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
        let Some(node) = self.nodes.get_mut(&id) else { return };
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
        self.feed(id, Event::ReadDone { id: request, result });
    }
}
