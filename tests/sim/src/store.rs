//! The stores: applying, checkpoints, reads, images on their way from one to another.

use bytes::BytesMut;
use farshore_core::api::{Event, RequestId};
use farshore_core::history::History;
use farshore_core::ids::{BLOCK_BYTES, LineageId, MemberId, Seq};
use farshore_core::overlay::{Content, Hit};
use farshore_core::record::Kind;

use crate::disk::{Staged, stamp_in};
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
    pub fn ship(&mut self, from: (MemberId, u32), to: MemberId, since: Seq, of: (LineageId, History)) {
        let (lineage, history) = of;
        let delay = 1000 + self.dice.range(0, self.knobs.ship_us);
        let Some(node) = self.nodes.get(&from.0) else { return };
        let staged = Box::new(Staged { since, image: node.disk.now.clone() });
        self.say(|| format!("{} ships its image at {} since {since} to {to}", from.0, staged.image.base.seq));
        self.after(delay, Happening::Shipment { from, to, staged, lineage, history });
    }

    pub fn arrive(&mut self, from: (MemberId, u32), to: MemberId, staged: Staged, of: (LineageId, History)) {
        let (lineage, mut history) = of;
        if self.life(from.0) == Some(from.1) && !self.network.is_cut(from.0, to) {
            let base = staged.image.base;
            history.truncate(base.seq);
            if self.nodes.get_mut(&to).is_some_and(|n| n.disk.stage(staged)) {
                self.feed(to, Event::Staged { lineage, base, history });
            }
        }
        self.shipped(from, to);
    }

    pub fn shipped(&mut self, (from, life): (MemberId, u32), to: MemberId) {
        let delay = self.dice.range(1_000, 200_000);
        self.after(delay, Happening::Feed { node: from, life, event: Box::new(Event::Shipped { to }) });
    }

    pub fn installed(&mut self, id: MemberId, seq: Seq) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let visible = node.disk.install(seq);
        let verdict = self.oracle.image(id, node.lineage.uuid, &node.disk.now);
        self.check(verdict);
        self.feed(id, if visible { Event::ImageVisible } else { Event::ImageLost });
    }
}
