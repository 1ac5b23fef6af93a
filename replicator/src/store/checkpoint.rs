//! Checkpoints: slab synced, then index synced, then what was given up before is free.
//!
//! ```text
//! take each volume's changes and position ─► sync the slab ─► one synced batch ─► release freed places
//!        (a moment's lock per volume)           records may be applied all the while
//! ```
//! What is applied while it runs is above the seqs it took, so it is redone after a crash whatever of it reached the
//! slab.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use farshore_core::ids::{Seq, VolumeId};

use super::clone::clone_pin;
use super::error::StoreError;
use super::extent::{Place, Version};
use super::index::IndexBatch;
use super::index_rows::{PositionRow, Row, link_key, pin_key, position_key, volume_key};
use super::link_row::LinkRow;
use super::root::{PANICKED, Store};
use super::volume::{Layer, Volume};

/// Changed versions kept in memory before a checkpoint is made unasked, all volumes: about 16 MiB.
pub(super) const DIRTY_VERSIONS_MAX: usize = 64 * 1024;

/// What a checkpoint took from one volume.
struct Flush {
    volume: Arc<Volume>,
    layer: Arc<Layer>,
    freed: Vec<Place>,
    /// Where pins looked from that the index has not any more, once this is done.
    loosened: Vec<Version>,
    seq: Seq,
    /// A deleted volume of which nothing is left.
    finished: bool,
    /// A clone that needs its parent no more.
    left: Option<LinkRow>,
}

impl Store {
    /// Makes everything that is applied now durable. Returns the seq of each volume up to which the journal is not
    /// needed any more for redo.
    pub fn checkpoint(&self) -> Result<Vec<(VolumeId, Seq)>, StoreError> {
        self.sweep_pages()?;
        self.flatten_step()?;
        self.checkpoint_with(|| {})
    }

    /// For callers that hold a volume's `mutating`: no sweep. `between` runs after the changes were taken and before
    /// anything is written; tests apply more there.
    pub(super) fn checkpoint_with(&self, between: impl FnOnce()) -> Result<Vec<(VolumeId, Seq)>, StoreError> {
        let _one = self.checkpointing();
        self.check_alive()?;
        let mut batch = IndexBatch::default();
        let volumes: Vec<Arc<Volume>> = self.volumes.read().expect(PANICKED).values().cloned().collect();
        let flushes: Vec<Flush> = volumes.iter().filter_map(|volume| self.take(volume, &mut batch)).collect();
        between();
        if !batch.is_empty() {
            self.slab.sync().map_err(|error| self.poisoned_by("sync", error))?;
            self.commit(&batch)?;
        }
        for flush in flushes {
            self.finish(flush);
        }
        let live = volumes.iter().map(|volume| (volume.id, volume.state())).filter(|(_, state)| !state.removing);
        Ok(live.map(|(id, state)| (id, state.checkpointed)).collect())
    }

    /// Makes a checkpoint if too much has changed since the last one.
    pub(super) fn checkpoint_if_crowded(&self) -> Result<(), StoreError> {
        if self.dirty.load(Ordering::Relaxed) > self.dirty_max {
            self.checkpoint_with(|| {})?;
        }
        Ok(())
    }

    fn take(&self, volume: &Arc<Volume>, batch: &mut IndexBatch) -> Option<Flush> {
        let mut state = volume.state_mut();
        let (finished, left) = (state.is_finished(), state.has_left());
        if !state.has_changes() && !finished && left.is_none() {
            return None;
        }
        let id = volume.id;
        let layer = state.begin_flush();
        self.dirty.fetch_sub(layer.len(), Ordering::Relaxed);
        for ((extent, Reverse(version)), change) in layer.iter() {
            batch.extent(id, *extent, *version, change.entry);
        }
        if finished {
            batch.delete(volume_key(id));
            batch.delete(position_key(id));
        }
        if !state.removing {
            batch.put(&Row::Position(id, PositionRow { view: state.view, floor: state.floor }));
        }
        for (key, value) in state.take_rows() {
            batch.row(key, value);
        }
        if let Some(link) = left {
            batch.delete(link_key(id));
            batch.delete(pin_key(link.parent, &clone_pin(id)));
        }
        state.position_dirty = false;
        let freed = std::mem::take(&mut state.freed);
        let loosened = state.pins.take_loosened();
        Some(Flush { volume: volume.clone(), layer, freed, loosened, seq: state.view.at.seq, finished, left })
    }

    fn finish(&self, flush: Flush) {
        let mut state = flush.volume.state_mut();
        assert!(Arc::ptr_eq(&state.end_flush(), &flush.layer), "one checkpoint at a time");
        state.checkpointed = flush.seq;
        for at in flush.loosened {
            state.pins.release(at);
            state.give_up(at);
        }
        if flush.left.is_some() {
            state.link = None;
        }
        drop(state);
        if flush.left.is_some() {
            let parent = flush.volume.parent();
            let mut state = parent.state_mut();
            state.pins.remove(&clone_pin(flush.volume.id));
            state.sweep = Some(0);
        }
        self.space_map().release(&flush.freed);
        if flush.finished {
            self.volumes.write().expect(PANICKED).remove(&flush.volume.id);
        }
    }
}
