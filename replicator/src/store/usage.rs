//! What a snapshot holds: space that only it keeps, and space that others keep as well.

use farshore_core::ids::{Seq, VolumeId};
use farshore_core::mark::SnapshotId;

use super::catalogue_row::SnapshotState;
use super::error::StoreError;
use super::extent::{EXTENT_BYTES, Version, visible};
use super::index_rows::{Cursor, PinRow};
use super::root::Store;
use super::snapshot::snapshot_pin;

/// Index rows that are looked at under one lock.
const PAGE_ROWS: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotUsage {
    /// Given back if this snapshot alone is deleted.
    pub unique_bytes: u64,
    /// Held by other snapshots, clones or the volume itself, too.
    pub shared_bytes: u64,
}

impl Store {
    /// What a snapshot holds; exact if the volume stands still meanwhile. One pass over the volume's index, a page at a
    /// time: for lists of many snapshots [`Store::snapshot_unique_bytes`] is cheaper.
    pub fn snapshot_usage(&self, id: VolumeId, snapshot: SnapshotId) -> Result<SnapshotUsage, StoreError> {
        if self.snapshot(id, snapshot)?.state == SnapshotState::Missing {
            return Ok(SnapshotUsage::default());
        }
        let unique_bytes = self.snapshot_unique_bytes(id, snapshot)?;
        let volume = self.held_volume(id)?;
        let pin = self.pinned(id, &snapshot_pin(snapshot))?;
        let (mut extents, mut next) = (0_u64, Some(0));
        while let Some(from) = next {
            let state = volume.state();
            let (page, after) = self.seen_page(&volume, &state, &pin.view, from, PAGE_ROWS)?;
            extents += page.values().filter(|seen| seen.entry.place.is_some()).count() as u64;
            next = after;
        }
        let held_bytes = extents * EXTENT_BYTES;
        Ok(SnapshotUsage { unique_bytes, shared_bytes: held_bytes.saturating_sub(unique_bytes) })
    }

    /// What comes back if this snapshot alone is deleted, in time proportional to what changed between it and the one
    /// before.
    pub fn snapshot_unique_bytes(&self, id: VolumeId, snapshot: SnapshotId) -> Result<u64, StoreError> {
        if self.snapshot(id, snapshot)?.state == SnapshotState::Missing {
            return Ok(0);
        }
        let volume = self.held_volume(id)?;
        let name = snapshot_pin(snapshot);
        self.settle(&volume, &name)?;
        let pin = self.pinned(id, &name)?;
        let (mut extents, mut from) = (0_u64, Cursor { seq: volume.state().older_view(&pin), extent: 0 });
        loop {
            let (state, mut rows) = (volume.state(), 0);
            let mut next = None;
            // Whoever else looks between two versions of an extent keeps the older one.
            let others = state.views_but(&name);
            self.index.changes(id, from, pin.view.at.seq, |at, image| {
                if rows == PAGE_ROWS {
                    next = Some(at);
                    return Ok(false);
                }
                rows += 1;
                let version = Version { image, seq: at.seq };
                let versions = state.versions(&self.index, id, at.extent..=at.extent)?;
                let seen = versions.get(&at.extent).and_then(|versions| visible(versions, &pin.view));
                if let Some((found, entry)) = seen
                    && found == version
                    && entry.own_place().is_some()
                {
                    let newer =
                        versions[&at.extent].range((std::ops::Bound::Excluded(version), std::ops::Bound::Unbounded));
                    let newer = newer.map(|(version, _)| *version).next();
                    extents += u64::from(!others.see(version, newer));
                }
                Ok(true)
            })?;
            match next {
                Some(next) => from = next,
                None => return Ok(extents * EXTENT_BYTES),
            }
        }
    }

    fn pinned(&self, id: VolumeId, name: &str) -> Result<PinRow, StoreError> {
        let volume = self.held_volume(id)?;
        let state = volume.state();
        state.pins.get(name).copied().ok_or_else(|| StoreError::NoPin { volume: id, name: name.to_owned() })
    }
}

impl super::volume::State {
    /// The seq of the newest view before a pin's, from which on something may be the pin's alone.
    fn older_view(&self, pin: &PinRow) -> Seq {
        // Seqs of different images do not follow each other.
        match self.pins.before(pin.view.at) {
            Some(at) if at.image == pin.view.at.image => at.seq,
            _ => Seq::ZERO,
        }
    }
}
