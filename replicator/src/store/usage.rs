//! What a snapshot holds: space that only it keeps, and space that others keep as well.

use std::ops::Bound;

use farshore_core::ids::{Seq, VolumeId};
use farshore_core::mark::SnapshotId;

use super::catalogue_row::SnapshotState;
use super::error::StoreError;
use super::extent::{EXTENT_BYTES, Version, Versions, visible};
use super::index_rows::{Cursor, PinRow};
use super::root::Store;
use super::snapshot::snapshot_pin;
use super::views::Views;
use super::volume::Volume;

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
    /// before, or to what is stored where much did.
    pub fn snapshot_unique_bytes(&self, id: VolumeId, snapshot: SnapshotId) -> Result<u64, StoreError> {
        if self.snapshot(id, snapshot)?.state == SnapshotState::Missing {
            return Ok(0);
        }
        let volume = self.held_volume(id)?;
        let name = snapshot_pin(snapshot);
        self.settle(&volume, &name)?;
        let pin = self.pinned(id, &name)?;
        let known_since = volume.state().known_since(&pin);
        let extents = match known_since {
            Some(older) if !self.is_much(&volume, older, pin.view.at.seq)? => {
                self.changed_alone(&volume, &name, &pin, older)?
            }
            _ => self.scan_alone(&volume, &name, &pin)?,
        };
        Ok(extents * EXTENT_BYTES)
    }

    /// Extents of which this pin alone sees a version, found by what changed since a seq.
    fn changed_alone(&self, volume: &Volume, name: &str, pin: &PinRow, older: Seq) -> Result<u64, StoreError> {
        let (mut extents, mut next) = (0, Some(Cursor { seq: older, extent: 0 }));
        while let Some(from) = next.take() {
            let (state, mut rows) = (volume.state(), 0);
            let others = state.views_but(name);
            self.index.changes(volume.id, from, pin.view.at.seq, |at, image| {
                if rows == PAGE_ROWS {
                    next = Some(at);
                    return Ok(false);
                }
                rows += 1;
                let versions = state.versions(&self.index, volume.id, at.extent..=at.extent)?;
                let alone = versions.get(&at.extent).and_then(|versions| seen_alone(versions, pin, &others));
                extents += u64::from(alone == Some(Version { image, seq: at.seq }));
                Ok(true)
            })?;
        }
        Ok(extents)
    }

    /// The same, found by looking at every extent that is stored.
    fn scan_alone(&self, volume: &Volume, name: &str, pin: &PinRow) -> Result<u64, StoreError> {
        let (mut extents, mut next) = (0, Some(0));
        while let Some(from) = next {
            let state = volume.state();
            let others = state.views_but(name);
            let (page, after) = state.page(&self.index, volume.id, from, PAGE_ROWS)?;
            extents += page.values().filter(|versions| seen_alone(versions, pin, &others).is_some()).count() as u64;
            next = after;
        }
        Ok(extents)
    }

    /// Both ways to count them.
    #[cfg(test)]
    pub(super) fn alone_both_ways(&self, id: VolumeId, snapshot: SnapshotId) -> (u64, u64) {
        let (volume, name) = (self.held_volume(id).unwrap(), snapshot_pin(snapshot));
        self.settle(&volume, &name).unwrap();
        let pin = self.pinned(id, &name).unwrap();
        let scanned = self.scan_alone(&volume, &name, &pin).unwrap();
        let older = volume.state().known_since(&pin);
        let changed = older.map_or(scanned, |older| self.changed_alone(&volume, &name, &pin, older).unwrap());
        (changed, scanned)
    }

    fn pinned(&self, id: VolumeId, name: &str) -> Result<PinRow, StoreError> {
        let volume = self.held_volume(id)?;
        let state = volume.state();
        state.pins.get(name).copied().ok_or_else(|| StoreError::NoPin { volume: id, name: name.to_owned() })
    }
}

/// The version that a pin sees, if it is in a place of the volume's own and nobody else sees it.
fn seen_alone(versions: &Versions, pin: &PinRow, others: &Views) -> Option<Version> {
    let (version, entry) = visible(versions, &pin.view)?;
    entry.own_place()?;
    // Whoever else looks between two versions of an extent keeps the older one.
    let newer = versions.range((Bound::Excluded(version), Bound::Unbounded)).map(|(version, _)| *version).next();
    (!others.see(version, newer)).then_some(version)
}

impl super::volume::State {
    /// The seq of the newest view before a pin's, from which on something may be the pin's alone, if all that changed
    /// since is known: what a clone took over from its source, or a full shipment brought, is not.
    fn known_since(&self, pin: &PinRow) -> Option<Seq> {
        // Not by the pins' own order: that has those that were just given up, too.
        let older = self.pins.iter().map(|(_, pin)| pin.view.at).filter(|at| *at < pin.view.at).max();
        // Seqs of different images do not follow each other.
        let older = match older {
            Some(at) if at.image == pin.view.at.image => at.seq,
            _ => Seq::ZERO,
        };
        (older >= self.floor).then_some(older)
    }
}
