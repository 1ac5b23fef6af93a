//! The store itself: its volumes, its space, and the state that says it has failed.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};

use farshore_core::ids::{BLOCK_BYTES, Seq, VolumeId};

use super::catalogue_row::SnapshotState;
use super::checkpoint::DIRTY_VERSIONS_MAX;
use super::error::{StoreError, is_no_space};
use super::extent::{EXTENT_BYTES, Place, Version, View};
use super::held::Shown;
use super::index::{Index, IndexBatch};
use super::index_rows::{PositionRow, Row, VolumeRow, pin_key, position_key, snapshot_key, stage_key, staged_key};
use super::pin::{CLONE_PIN_PREFIX, is_reserved};
use super::slab::Slab;
use super::space::SpaceMap;
use super::volume::{State, Volume};

/// The largest volume, in bytes: 64 TiB.
pub(super) const VOLUME_BYTES_MAX: u64 = 64 << 40;

/// A node's store. All calls block; any thread may make them.
///
/// Locks, in the order they are taken: a volume's `mutating`, `checkpointing`, `volumes`, a volume's `state`, `space`.
pub struct Store {
    pub(super) index: Index,
    pub(super) slab: Slab,
    pub(super) space: Mutex<SpaceMap>,
    pub(super) volumes: RwLock<BTreeMap<VolumeId, Arc<Volume>>>,
    /// Held for every write to the index: checkpoints and rows must not overtake each other.
    pub(super) checkpointing: Mutex<()>,
    /// Versions changed since the last checkpoint, all volumes.
    pub(super) dirty: AtomicUsize,
    /// [`DIRTY_VERSIONS_MAX`], except in tests.
    pub(super) dirty_max: usize,
    poison: OnceLock<String>,
}

/// One volume as it is stored here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVolume {
    pub volume: VolumeId,
    pub size_bytes: u64,
    /// Survives a crash as it is.
    pub checkpointed_seq: Seq,
    /// What reads see; lost back to `checkpointed_seq` by a crash, and redone from the journal.
    pub applied_seq: Seq,
    /// Space held by the current image, pins and a shipment being received.
    pub used_bytes: u64,
    /// What changed is known for bases from here on.
    pub changed_floor: Seq,
    /// The volume that it is a clone of, while it still has something from there.
    pub cloned_from: Option<VolumeId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    /// Can be taken now.
    pub free_bytes: u64,
    /// Given up; free after the next checkpoint. Contained in `used_bytes`.
    pub pending_bytes: u64,
    pub volumes: Vec<(VolumeId, u64)>,
    /// The slab bypasses the page cache.
    pub direct_io: bool,
}

impl Store {
    pub(super) fn assemble(
        index: Index,
        slab: Slab,
        space: SpaceMap,
        volumes: BTreeMap<VolumeId, Arc<Volume>>,
    ) -> Store {
        Store {
            index,
            slab,
            space: Mutex::new(space),
            volumes: RwLock::new(volumes),
            checkpointing: Mutex::new(()),
            dirty: AtomicUsize::new(0),
            dirty_max: DIRTY_VERSIONS_MAX,
            poison: OnceLock::new(),
        }
    }

    /// Makes an empty volume; durable when it returns. Does nothing if it exists with this size.
    pub fn create(&self, id: VolumeId, size_bytes: u64) -> Result<(), StoreError> {
        self.check_alive()?;
        check_size("create", id, size_bytes)?;
        self.sweep_away(id)?;
        if let Ok(ghost) = self.ghost(id) {
            return self.revive(&ghost, size_bytes);
        }
        let _one = self.checkpointing();
        if self.is_removing(id) {
            return Err(StoreError::NoVolume { volume: id });
        }
        let mut volumes = self.volumes.write().expect(PANICKED);
        if let Some(volume) = volumes.get(&id) {
            let found_bytes = volume.state().size_bytes;
            if found_bytes != size_bytes {
                return Err(StoreError::SizeDiffers { volume: id, found_bytes, asked_bytes: size_bytes });
            }
            return Ok(());
        }
        let mut batch = IndexBatch::default();
        batch.put(&Row::Volume(id, VolumeRow { size_bytes, removing: false }));
        batch.put(&Row::Position(id, PositionRow::default()));
        self.commit(&batch)?;
        volumes.insert(id, Arc::new(Volume::new(id, State::new(size_bytes))));
        Ok(())
    }

    /// A deletion that is not finished keeps the id; its extents must not show up in a new volume. A ghost stays.
    pub(super) fn sweep_away(&self, id: VolumeId) -> Result<(), StoreError> {
        while self.is_removing(id) && self.ghost(id).is_err() {
            self.sweep()?;
            self.checkpoint()?;
        }
        Ok(())
    }

    /// A removed volume that clones or kept snapshots look at, with nothing in it that they don't see.
    fn ghost(&self, id: VolumeId) -> Result<Arc<Volume>, StoreError> {
        let volumes = self.volumes.read().expect(PANICKED);
        let ghost = volumes.get(&id).filter(|volume| {
            let state = volume.state();
            state.removing && !state.pins.is_empty() && state.sweep.is_none()
        });
        ghost.cloned().ok_or(StoreError::NoVolume { volume: id })
    }

    /// Shows an empty image of a removed volume, beside those that clones and snapshots of it look at.
    fn revive(&self, ghost: &Volume, size_bytes: u64) -> Result<(), StoreError> {
        let _mutating = ghost.mutating();
        let _one = self.checkpointing();
        let images = ghost.state().pins.iter().map(|(_, pin)| pin.view.at.image).max().unwrap_or_default();
        let Some(image) = images.checked_add(1) else {
            let reason = "it has received too many shipments".into();
            return Err(StoreError::Invalid { op: "create", volume: ghost.id, reason });
        };
        let view = View { barrier: image, at: Version { image, seq: Seq::ZERO } };
        let mut batch = IndexBatch::default();
        batch.put(&Row::Volume(ghost.id, VolumeRow { size_bytes, removing: false }));
        // Never lowered: the images before rely on it.
        batch.put(&Row::Position(ghost.id, PositionRow { view, floor: ghost.state().floor }));
        self.commit(&batch)?;
        let _changing = ghost.changing_all();
        let mut state = ghost.state_mut();
        (state.view, state.size_bytes, state.checkpointed) = (view, size_bytes, Seq::ZERO);
        state.shown = Shown::NOTHING;
        state.removing = false;
        ghost.forget_all();
        Ok(())
    }

    /// Makes a volume larger; durable when it returns. Shrinking is refused.
    pub fn resize(&self, id: VolumeId, size_bytes: u64) -> Result<(), StoreError> {
        check_size("resize", id, size_bytes)?;
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        let _one = self.checkpointing();
        let found_bytes = volume.state().size_bytes;
        if size_bytes < found_bytes {
            let reason = format!("it has {found_bytes} bytes and can't shrink to {size_bytes}");
            return Err(StoreError::Invalid { op: "resize", volume: id, reason });
        }
        let mut batch = IndexBatch::default();
        batch.put(&Row::Volume(id, VolumeRow { size_bytes, removing: volume.state().removing }));
        self.commit(&batch)?;
        volume.state_mut().size_bytes = size_bytes;
        Ok(())
    }

    /// Deletes a volume with its pins and snapshots; durable when it returns. Its space comes back as sweeps and
    /// checkpoints go on; what clones of it need stays until they are gone.
    /// Does nothing if it is not there.
    pub fn remove(&self, id: VolumeId) -> Result<(), StoreError> {
        self.remove_with(id, false)
    }

    pub(super) fn remove_with(&self, id: VolumeId, keep_snapshots: bool) -> Result<(), StoreError> {
        let volume = match self.live(id) {
            Ok(volume) => volume,
            Err(StoreError::NoVolume { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let _mutating = volume.mutating();
        if keep_snapshots {
            // There is no redo for a volume that is removed.
            self.checkpoint_with(|| {})?;
        }
        let keep = |name: &str| name.starts_with(CLONE_PIN_PREFIX) || (keep_snapshots && is_reserved(name));
        let _one = self.checkpointing();
        let mut batch = IndexBatch::default();
        {
            let mut state = volume.state_mut();
            // What a mark deleted a moment ago may still be in the index.
            let gone = state.take_rows().into_iter().filter(|(_, value)| value.is_none());
            gone.for_each(|(key, _)| batch.delete(key));
            if let Some(link) = state.link {
                // With the rows that it says are there, not before.
                state.note(&Row::Link(id, link));
            }
            batch.put(&Row::Volume(id, VolumeRow { size_bytes: state.size_bytes, removing: true }));
            if !keep_snapshots {
                // With them it says since when it is known what changed between them.
                batch.delete(position_key(id));
            }
            batch.delete(stage_key(id));
            let given_up = state.pins.iter().filter(|(name, _)| !keep(name));
            given_up.for_each(|(name, _)| batch.delete(pin_key(id, name)));
            let rows = state.snapshots.values().filter(|row| !keep_snapshots || row.state != SnapshotState::Ready);
            rows.for_each(|row| batch.delete(snapshot_key(id, row.id)));
            state.staged.keys().for_each(|snapshot| batch.delete(staged_key(id, *snapshot)));
        }
        self.commit(&batch)?;
        let _changing = volume.changing_all();
        let mut state = volume.state_mut();
        state.removing = true;
        state.shown = Shown::NOTHING;
        state.pins.retain(keep);
        state.snapshots.retain(|_, row| keep_snapshots && row.state == SnapshotState::Ready);
        state.stage = None;
        state.staged.clear();
        state.gaps.clear();
        state.sweep = Some(0);
        Ok(())
    }

    pub fn volumes(&self) -> Vec<StoredVolume> {
        let volumes = self.volumes.read().expect(PANICKED);
        let live = volumes.values().map(|volume| (volume.id, volume.state())).filter(|(_, state)| !state.removing);
        live.map(|(id, state)| StoredVolume {
            volume: id,
            size_bytes: state.size_bytes,
            checkpointed_seq: state.checkpointed,
            applied_seq: state.view.at.seq,
            used_bytes: state.used_places * EXTENT_BYTES,
            changed_floor: state.floor,
            cloned_from: state.link.map(|link| link.parent),
        })
        .collect()
    }

    pub fn space(&self) -> Space {
        let volumes = self.volumes.read().expect(PANICKED);
        let per_volume: Vec<_> =
            volumes.values().map(|volume| (volume.id, volume.state().used_places * EXTENT_BYTES)).collect();
        let pending: usize = volumes.values().map(|volume| volume.state().freed.len()).sum();
        let space = self.space_map();
        Space {
            capacity_bytes: space.capacity_bytes(),
            used_bytes: space.used() * EXTENT_BYTES,
            free_bytes: space.free() * EXTENT_BYTES,
            pending_bytes: pending as u64 * EXTENT_BYTES,
            volumes: per_volume,
            direct_io: self.slab.is_direct(),
        }
    }

    /// What changed at or below `floor` is not asked for any more: every member and pin is past it. Holes that are
    /// remembered only for that are forgotten by the next sweep. Never lowers the floor.
    pub fn raise_floor(&self, id: VolumeId, floor: Seq) -> Result<(), StoreError> {
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        let mut state = volume.state_mut();
        if floor > state.view.at.seq {
            let reason = format!("its floor can't be {floor}, above what is applied ({})", state.view.at.seq);
            return Err(StoreError::Invalid { op: "raise the floor of", volume: id, reason });
        }
        if floor > state.floor {
            state.floor = floor;
            state.position_dirty = true;
            state.sweep = Some(0);
        }
        Ok(())
    }

    fn is_removing(&self, id: VolumeId) -> bool {
        self.volumes.read().expect(PANICKED).get(&id).is_some_and(|volume| volume.state().removing)
    }

    pub(super) fn live(&self, id: VolumeId) -> Result<Arc<Volume>, StoreError> {
        self.check_alive()?;
        let volumes = self.volumes.read().expect(PANICKED);
        let volume = volumes.get(&id).ok_or(StoreError::NoVolume { volume: id })?;
        if volume.state().removing {
            return Err(StoreError::NoVolume { volume: id });
        }
        Ok(volume.clone())
    }

    pub(super) fn space_map(&self) -> MutexGuard<'_, SpaceMap> {
        self.space.lock().expect(PANICKED)
    }

    pub(super) fn checkpointing(&self) -> MutexGuard<'_, ()> {
        self.checkpointing.lock().expect(PANICKED)
    }

    /// Takes places and makes sure that the slab has them.
    pub(super) fn allocate(&self, count: u64) -> Result<Vec<Place>, StoreError> {
        let taken = self.space_map().allocate(count);
        let places = taken.ok_or_else(|| self.full(count))?;
        let end = places.iter().map(|place| place.offset() + EXTENT_BYTES).max().unwrap_or(0);
        if let Err(error) = self.slab.ensure(end) {
            self.space_map().release(&places);
            let full = self.full(count);
            return Err(if is_no_space(&error) { full } else { self.poisoned_by("grow", error) });
        }
        Ok(places)
    }

    /// The file system has less than the capacity promises: others take it.
    pub(super) fn disk_full(&self, needed_places: u64) -> StoreError {
        match self.full(needed_places) {
            StoreError::Full { needed_bytes, capacity_bytes, .. } => {
                StoreError::Full { needed_bytes, free_bytes: 0, capacity_bytes }
            }
            other => other,
        }
    }

    pub(super) fn full(&self, needed_places: u64) -> StoreError {
        let space = self.space_map();
        StoreError::Full {
            needed_bytes: needed_places * EXTENT_BYTES,
            free_bytes: space.free() * EXTENT_BYTES,
            capacity_bytes: space.capacity_bytes(),
        }
    }

    /// Writes to the index, with `checkpointing` held. A failure ends the store: what is on disk is unknown.
    pub(super) fn commit(&self, batch: &IndexBatch) -> Result<(), StoreError> {
        self.check_alive()?;
        self.index.commit(batch).inspect_err(|error| self.poison(error.to_string()))
    }

    /// After a failed write or sync nothing this store says can be relied on (the page cache may call lost pages
    /// clean), so it says nothing more.
    pub(super) fn poison(&self, reason: String) {
        if self.poison.set(reason.clone()).is_ok() {
            tracing::error!(reason, index = %self.index.path().display(), "the store stops");
        }
    }

    pub(super) fn poisoned_by(&self, op: &'static str, error: std::io::Error) -> StoreError {
        let error = StoreError::io(op, self.slab.path())(error);
        self.poison(error.to_string());
        error
    }

    /// Why the store says nothing more, if it does not.
    pub fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    pub(super) fn check_alive(&self) -> Result<(), StoreError> {
        match self.poison.get() {
            None => Ok(()),
            Some(reason) => Err(StoreError::Poisoned { reason: reason.clone() }),
        }
    }
}

pub(super) const PANICKED: &str = "a panic in the store ends the daemon";

pub(super) fn check_size(op: &'static str, volume: VolumeId, size_bytes: u64) -> Result<(), StoreError> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(BLOCK_BYTES) || size_bytes > VOLUME_BYTES_MAX {
        let reason = format!("{size_bytes} bytes are not 1 to {VOLUME_BYTES_MAX} in whole 4 KiB blocks");
        return Err(StoreError::Invalid { op, volume, reason });
    }
    Ok(())
}

/// Whole blocks, inside the volume.
pub(super) fn check_range(volume: VolumeId, offset: u64, len: u64, size_bytes: u64) -> Result<(), StoreError> {
    let inside = offset.checked_add(len).is_some_and(|end| end <= size_bytes);
    if !inside || !offset.is_multiple_of(BLOCK_BYTES) || !len.is_multiple_of(BLOCK_BYTES) {
        return Err(StoreError::Range { volume, offset, len, size_bytes });
    }
    Ok(())
}
