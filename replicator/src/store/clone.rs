//! Clones: volumes that begin as a snapshot of another one, at once, and write for themselves.
//!
//! ```text
//! parent ◄─ pin `clone-<id>` ── clone: a row that names the parent and what of it the clone began as
//! ```
//! What a clone has nothing of its own for is read from its parent (`image`); the first write to an extent copies it. The
//! pin keeps all that the clone can see, whatever happens to the snapshot and to the parent: a volume that is removed
//! stays as a *ghost*, without a current image, for as long as a clone or a snapshot of it is there. When the last view
//! that inherits is gone, a checkpoint drops row and pin together, and the parent's sweep does the rest.

use std::sync::Arc;

use farshore_core::ids::{Seq, VolumeId};
use farshore_core::mark::SnapshotId;

use super::catalogue_row::{SnapshotRow, SnapshotState};
use super::error::StoreError;
use super::extent::{Version, View};
use super::index::IndexBatch;
use super::index_rows::{PinRow, PositionRow, Row, VolumeRow, pin_key, snapshot_key};
use super::link_row::LinkRow;
use super::pin::CLONE_PIN_PREFIX;
use super::root::{PANICKED, Store, check_size};
use super::snapshot::snapshot_pin;
use super::volume::{State, Volume};

/// The pin by which a clone holds what it has from its parent.
pub(super) fn clone_pin(clone: VolumeId) -> String {
    format!("{CLONE_PIN_PREFIX}{:032x}", clone.0)
}

impl Store {
    /// Makes a volume that begins as a snapshot of another one, at once; durable when it returns. Its own records follow
    /// `start`, which is at least 1. Does nothing if it exists as this very clone. The parent may be a removed volume
    /// whose snapshots were kept.
    pub fn create_clone(
        &self,
        id: VolumeId,
        size_bytes: u64,
        parent: VolumeId,
        snapshot: SnapshotId,
        start: Seq,
    ) -> Result<(), StoreError> {
        let name = snapshot_pin(snapshot);
        self.clone_image(id, size_bytes, parent, &name, start, |origin| snapshot_image(origin, snapshot))
    }

    /// The same of the image that a pin holds. The clone has its own hold on it when this returns.
    pub fn create_clone_of_pin(
        &self,
        id: VolumeId,
        size_bytes: u64,
        parent: VolumeId,
        pin: &str,
        start: Seq,
    ) -> Result<(), StoreError> {
        self.clone_image(id, size_bytes, parent, pin, start, |origin| {
            let found = origin.state().pins.get(pin).copied();
            found.ok_or_else(|| StoreError::NoPin { volume: origin.id, name: pin.to_owned() })
        })
    }

    fn clone_image(
        &self,
        id: VolumeId,
        size_bytes: u64,
        parent: VolumeId,
        name: &str,
        start: Seq,
        image: impl FnOnce(&Volume) -> Result<PinRow, StoreError>,
    ) -> Result<(), StoreError> {
        check_size("clone", id, size_bytes)?;
        let invalid = |reason: String| Err(StoreError::Invalid { op: "clone", volume: id, reason });
        if start == Seq::ZERO || id == parent {
            return invalid("it needs an id of its own, and a log that begins at 1 or later".into());
        }
        self.sweep_away(id)?;
        let origin = self.held_volume(parent)?;
        self.settle(&origin, name)?;
        // So that the image stays.
        let _mutating = origin.mutating();
        let _one = self.checkpointing();
        let pin = image(&origin)?;
        if size_bytes < pin.size_bytes {
            return invalid(format!("{size_bytes} bytes are less than the image's {}", pin.size_bytes));
        }
        let link = LinkRow { parent, view: pin.view, start, flattened: 0 };
        let mut volumes = self.volumes.write().expect(PANICKED);
        if let Some(found) = volumes.get(&id) {
            let state = found.state();
            let same = |found: LinkRow| LinkRow { flattened: 0, ..found } == link;
            return match state.link {
                Some(found) if same(found) && !state.removing && state.size_bytes == size_bytes => Ok(()),
                _ => invalid("a volume of this id exists, or is needed by its clones".into()),
            };
        }
        let mut state = State::new(size_bytes);
        state.view = View { barrier: 0, at: Version { image: 0, seq: start } };
        (state.floor, state.checkpointed, state.link) = (start, start, Some(link));
        let mut batch = IndexBatch::default();
        batch.put(&Row::Volume(id, VolumeRow { size_bytes, removing: false }));
        batch.put(&Row::Position(id, PositionRow { view: state.view, floor: start }));
        batch.put(&Row::Link(id, link));
        batch.put(&Row::Pin(parent, clone_pin(id), pin));
        self.commit(&batch)?;
        origin.state_mut().pins.insert(clone_pin(id), pin);
        let volume = Arc::new(Volume::new(id, state));
        volume.set_parent(&origin);
        volumes.insert(id, volume);
        Ok(())
    }

    /// Deletes a volume and keeps its snapshots: they are listed, read, compared and cloned as before, until each is
    /// dropped by [`Store::drop_kept_snapshot`]. Durable when it returns.
    pub fn remove_but_snapshots(&self, id: VolumeId) -> Result<(), StoreError> {
        self.remove_with(id, true)
    }

    /// Volumes that were removed and of which snapshots are kept.
    pub fn kept(&self) -> Vec<VolumeId> {
        let volumes = self.volumes.read().expect(PANICKED);
        let kept = volumes.values().filter(|volume| {
            let state = volume.state();
            state.removing && !state.snapshots.is_empty()
        });
        kept.map(|volume| volume.id).collect()
    }

    /// Deletes a snapshot of a removed volume; durable when it returns. A living volume's are deleted by a mark.
    pub fn drop_kept_snapshot(&self, id: VolumeId, snapshot: SnapshotId) -> Result<(), StoreError> {
        let volume = self.held_volume(id)?;
        let _mutating = volume.mutating();
        let _one = self.checkpointing();
        if !volume.state().removing {
            let reason = "it is not removed; its snapshots are deleted by marks in its log".into();
            return Err(StoreError::Invalid { op: "drop a snapshot of", volume: id, reason });
        }
        let name = snapshot_pin(snapshot);
        let mut batch = IndexBatch::default();
        batch.delete(snapshot_key(id, snapshot));
        batch.delete(pin_key(id, &name));
        self.commit(&batch)?;
        let mut state = volume.state_mut();
        state.snapshots.remove(&snapshot);
        state.pins.remove(&name);
        state.sweep = Some(0);
        Ok(())
    }

    /// Gives a snapshot of a removed volume other labels and holds; durable when it returns. A living volume's are changed
    /// by a mark.
    pub fn rewrite_kept_snapshot(&self, id: VolumeId, row: SnapshotRow) -> Result<(), StoreError> {
        let volume = self.held_volume(id)?;
        let _mutating = volume.mutating();
        let _one = self.checkpointing();
        let (removing, known) = {
            let state = volume.state();
            (state.removing, state.snapshots.get(&row.id).cloned())
        };
        if !removing {
            let reason = "it is not removed; its snapshots are changed by marks in its log".into();
            return Err(StoreError::Invalid { op: "change a snapshot of", volume: id, reason });
        }
        let known = known.ok_or(StoreError::NoSnapshot { volume: id, snapshot: row.id })?;
        let row = SnapshotRow { labels: row.labels, holds: row.holds, ..known };
        let mut batch = IndexBatch::default();
        batch.put(&Row::Snapshot(id, row.clone()));
        self.commit(&batch)?;
        volume.state_mut().snapshots.insert(row.id, row);
        Ok(())
    }

    /// A volume that is here, if only with the snapshots that were kept of it.
    pub(super) fn held_volume(&self, id: VolumeId) -> Result<Arc<Volume>, StoreError> {
        self.check_alive()?;
        let volumes = self.volumes.read().expect(PANICKED);
        let volume = volumes.get(&id).ok_or(StoreError::NoVolume { volume: id })?;
        let state = volume.state();
        if state.removing && state.snapshots.is_empty() {
            return Err(StoreError::NoVolume { volume: id });
        }
        Ok(volume.clone())
    }
}

fn snapshot_image(volume: &Volume, snapshot: SnapshotId) -> Result<PinRow, StoreError> {
    let state = volume.state();
    let pin = state.pins.get(&snapshot_pin(snapshot)).copied();
    match (state.snapshots.get(&snapshot), pin) {
        (None, _) => Err(StoreError::NoSnapshot { volume: volume.id, snapshot }),
        (Some(row), Some(pin)) if row.state == SnapshotState::Ready => Ok(pin),
        _ => Err(StoreError::SnapshotMissing { volume: volume.id, snapshot }),
    }
}
