//! One volume in memory: how far it is, who pins it, and what changed since the last checkpoint.
//!
//! An extent's versions are found in three layers, the upper hiding the lower:
//!
//! ```text
//! dirty      changed since the last checkpoint began; memory only
//! flushing   what the checkpoint in progress writes; dropped when it is durable
//! index      RocksDB, exactly the last checkpoint
//! ```
//! `mutating` is held by whoever changes contents, for as long as its slab I/O takes; `state` only for moments, so that
//! readers pass. A reader copies entries, reads the slab, and asks the stripes whether anyone changed those extents
//! meanwhile.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use farshore_core::ids::{Seq, VolumeId};

use super::error::StoreError;
use super::extent::{Entry, Place, Version, Versions, View};
use super::index::Index;
use super::index_rows::{Row, StageRow};
use super::pin::Pins;
use super::snapshot::Catalogue;
use super::views::Views;

/// Extents share change counters, this many per volume.
const STRIPES: usize = 256;
/// Entries of the current view kept in memory per volume, twice (young and old): 64 Ki extents are 4 GiB of volume.
const RECENT_EXTENTS_MAX: usize = 32 * 1024;

/// A change to one version of one extent that no checkpoint has yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    /// None: the version is deleted.
    pub entry: Option<Entry>,
    /// A lower layer may hold this key too, so a deletion must be written down.
    below: bool,
}

/// Newest version first, as in the index.
pub(super) type Layer = BTreeMap<(u64, Reverse<Version>), Change>;

pub(super) struct State {
    pub size_bytes: u64,
    pub view: View,
    pub floor: Seq,
    pub checkpointed: Seq,
    pub pins: Pins,
    pub snapshots: Catalogue,
    pub stage: Option<StageRow>,
    /// The snapshots that the image being received has at its source.
    pub staged: Catalogue,
    dirty: Layer,
    flushing: Arc<Layer>,
    /// Given up since the last checkpoint began.
    pub freed: Vec<Place>,
    /// Places that this volume holds, freed ones not counted.
    pub used_places: u64,
    /// View or floor differ from the index.
    pub position_dirty: bool,
    /// Rows that differ from the index, as they are to be; None: deleted.
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The next extent that the sweep looks at; None when there is no garbage.
    pub sweep: Option<u64>,
    pub removing: bool,
}

pub(super) struct Volume {
    pub id: VolumeId,
    mutating: Mutex<()>,
    state: RwLock<State>,
    recent: Mutex<Recent>,
    stripes: Vec<AtomicU64>,
}

/// The newest version of recently used extents in the current view; also of those that have none.
#[derive(Default)]
struct Recent {
    young: HashMap<u64, Option<(Version, Entry)>>,
    old: HashMap<u64, Option<(Version, Entry)>>,
}

impl Recent {
    fn get(&mut self, extent: u64) -> Option<Option<(Version, Entry)>> {
        if let Some(found) = self.young.get(&extent) {
            return Some(*found);
        }
        let found = self.old.remove(&extent)?;
        self.put(extent, found);
        Some(found)
    }

    fn put(&mut self, extent: u64, found: Option<(Version, Entry)>) {
        if self.young.len() >= RECENT_EXTENTS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(extent, found);
        self.old.remove(&extent);
    }
}

impl Recent {
    fn forget(&mut self, extent: u64) {
        self.young.remove(&extent);
        self.old.remove(&extent);
    }
}

impl State {
    pub fn new(size_bytes: u64) -> State {
        State {
            size_bytes,
            view: View::default(),
            floor: Seq::ZERO,
            checkpointed: Seq::ZERO,
            pins: Pins::default(),
            snapshots: Catalogue::new(),
            stage: None,
            staged: Catalogue::new(),
            dirty: Layer::new(),
            flushing: Arc::default(),
            freed: Vec::new(),
            used_places: 0,
            position_dirty: false,
            rows: BTreeMap::new(),
            sweep: None,
            removing: false,
        }
    }

    /// Everyone who may still look at this volume. What none of them sees is garbage.
    pub fn views(&self) -> Views {
        self.views_but("")
    }

    /// All but a pin's.
    pub fn views_but(&self, name: &str) -> Views {
        if self.removing {
            return Views::default();
        }
        let pins = self.pins.iter().filter(|(other, _)| *other != name).map(|(_, pin)| pin.view);
        let stage = self.stage.map(|stage| stage_view(&stage));
        Views::new(std::iter::once(self.view).chain(pins).chain(stage))
    }

    /// A pin sees this version (or could: barriers are left aside, which errs on the safe side).
    pub fn is_pinned(&self, version: Version) -> bool {
        self.pins.newest().is_some_and(|at| at >= version)
    }

    /// `fresh`: no layer below has this version, so that deleting it again leaves no trace.
    pub fn put(&mut self, extent: u64, version: Version, entry: Entry, fresh: bool) {
        let key = (extent, Reverse(version));
        let below = self.dirty.get(&key).map_or(!fresh, |old| old.below);
        self.dirty.insert(key, Change { entry: Some(entry), below });
    }

    pub fn delete(&mut self, extent: u64, version: Version) {
        let key = (extent, Reverse(version));
        match self.dirty.get(&key) {
            Some(Change { below: false, .. }) => {
                self.dirty.remove(&key);
            }
            _ => {
                self.dirty.insert(key, Change { entry: None, below: true });
            }
        }
    }

    pub fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// The next checkpoint writes this row.
    pub fn note(&mut self, row: &Row) {
        self.rows.insert(row.key(), Some(row.encode()));
    }

    pub fn note_deleted(&mut self, key: Vec<u8>) {
        self.rows.insert(key, None);
    }

    /// The index is already as this row is to be.
    pub fn unnote(&mut self, key: &[u8]) {
        self.rows.remove(key);
    }

    pub fn take_rows(&mut self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        std::mem::take(&mut self.rows)
    }

    pub fn has_changes(&self) -> bool {
        !self.rows.is_empty() || self.position_dirty || !self.dirty.is_empty() || !self.freed.is_empty()
    }

    /// The checkpoint takes what changed; readers keep seeing it.
    pub fn begin_flush(&mut self) -> Arc<Layer> {
        assert!(self.flushing.is_empty(), "one checkpoint at a time");
        // What is put while the flush runs may replace keys that it writes.
        self.flushing = Arc::new(std::mem::take(&mut self.dirty));
        self.flushing.clone()
    }

    pub fn end_flush(&mut self) -> Arc<Layer> {
        std::mem::take(&mut self.flushing)
    }

    /// All versions of a span of extents. Few layers, so the whole span must be of a size that fits in memory.
    pub fn versions(
        &self,
        index: &Index,
        volume: VolumeId,
        span: RangeInclusive<u64>,
    ) -> Result<BTreeMap<u64, Versions>, StoreError> {
        let mut found: BTreeMap<u64, Versions> = BTreeMap::new();
        if span.is_empty() {
            return Ok(found);
        }
        index.extents(volume, span.clone(), |extent, version, entry| {
            found.entry(extent).or_default().insert(version, entry);
            true
        })?;
        self.overlay(span, &mut found);
        Ok(found)
    }

    /// The next extents from `from` on, about `rows_max` versions, and where to go on.
    pub fn page(
        &self,
        index: &Index,
        volume: VolumeId,
        from: u64,
        rows_max: usize,
    ) -> Result<(BTreeMap<u64, Versions>, Option<u64>), StoreError> {
        let mut found: BTreeMap<u64, Versions> = BTreeMap::new();
        let (mut rows, mut next) = (0, None);
        index.extents(volume, from..=u64::MAX, |extent, version, entry| {
            if rows >= rows_max && !found.contains_key(&extent) {
                next = Some(extent);
                return false;
            }
            rows += 1;
            found.entry(extent).or_default().insert(version, entry);
            true
        })?;
        self.overlay(from..=next.map_or(u64::MAX, |next| next - 1), &mut found);
        Ok((found, next))
    }

    fn overlay(&self, span: RangeInclusive<u64>, found: &mut BTreeMap<u64, Versions>) {
        let newest = Reverse(Version { image: u32::MAX, seq: Seq(u64::MAX) });
        let oldest = Reverse(Version::default());
        for layer in [&*self.flushing, &self.dirty] {
            for ((extent, Reverse(version)), change) in layer.range((*span.start(), newest)..=(*span.end(), oldest)) {
                match change.entry {
                    Some(entry) => {
                        found.entry(*extent).or_default().insert(*version, entry);
                    }
                    None => {
                        if let Some(versions) = found.get_mut(extent) {
                            versions.remove(version);
                        }
                    }
                }
            }
        }
        found.retain(|_, versions| !versions.is_empty());
    }
}

/// A shipment's own view: the next image, all of it.
pub(super) fn stage_view(stage: &StageRow) -> View {
    let barrier = if stage.base.is_none() { stage.image } else { 0 };
    View { barrier, at: Version { image: stage.image, seq: stage.target } }
}

impl Volume {
    pub fn new(id: VolumeId, state: State) -> Volume {
        Volume {
            id,
            mutating: Mutex::new(()),
            state: RwLock::new(state),
            recent: Mutex::default(),
            stripes: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// For whoever changes contents. Taken before `state`, and before the store's checkpoint lock is asked for.
    pub fn mutating(&self) -> MutexGuard<'_, ()> {
        self.mutating.lock().expect("a panic in the store ends the daemon")
    }

    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("a panic in the store ends the daemon")
    }

    pub fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("a panic in the store ends the daemon")
    }

    /// What the current view sees of these extents; absent ones are not in the answer.
    pub fn current(
        &self,
        state: &State,
        index: &Index,
        extents: &[u64],
    ) -> Result<BTreeMap<u64, (Version, Entry)>, StoreError> {
        let mut out = BTreeMap::new();
        let mut missing = Vec::new();
        let mut recent = self.recent.lock().expect("a panic in the store ends the daemon");
        for &extent in extents {
            match recent.get(extent) {
                Some(Some(found)) => {
                    out.insert(extent, found);
                }
                Some(None) => {}
                None => missing.push(extent),
            }
        }
        drop(recent);
        // Nobody can publish between the look-up and `put`: the caller has the state locked.
        for run in missing.chunk_by(|a, b| a + 1 == *b) {
            let versions = state.versions(index, self.id, run[0]..=run[run.len() - 1])?;
            let mut recent = self.recent.lock().expect("a panic in the store ends the daemon");
            for &extent in run {
                let found = versions.get(&extent).and_then(|versions| super::extent::visible(versions, &state.view));
                recent.put(extent, found);
                if let Some(found) = found {
                    out.insert(extent, found);
                }
            }
        }
        Ok(out)
    }

    /// To be called, with the state locked for writing, for every extent whose newest version changed.
    pub fn remember(&self, extent: u64, found: Option<(Version, Entry)>) {
        self.recent.lock().expect("a panic in the store ends the daemon").put(extent, found);
    }

    pub fn forget(&self, extent: u64) {
        self.recent.lock().expect("a panic in the store ends the daemon").forget(extent);
    }

    /// To be called, with the state locked for writing, when the view moved to another image.
    pub fn forget_all(&self) {
        *self.recent.lock().expect("a panic in the store ends the daemon") = Recent::default();
    }

    /// Tells readers that these extents are about to change, until the guard is dropped. The caller holds `mutating`.
    pub fn changing(&self, extents: impl IntoIterator<Item = u64>) -> Changing<'_> {
        let mut stripes: Vec<usize> = extents.into_iter().map(|extent| extent as usize % STRIPES).collect();
        stripes.sort_unstable();
        stripes.dedup();
        for &stripe in &stripes {
            self.stripes[stripe].fetch_add(1, Ordering::AcqRel);
        }
        Changing { volume: self, stripes }
    }

    pub fn changing_all(&self) -> Changing<'_> {
        self.changing(0..STRIPES as u64)
    }

    /// The change counters of a span of extents. Equal and even before and after a read: nothing moved under it.
    pub fn stamps(&self, span: RangeInclusive<u64>) -> Vec<u64> {
        fence(Ordering::SeqCst);
        let count = (span.end() - span.start() + 1).min(STRIPES as u64);
        (0..count).map(|at| self.stripes[(span.start() + at) as usize % STRIPES].load(Ordering::Acquire)).collect()
    }
}

pub(super) struct Changing<'a> {
    volume: &'a Volume,
    stripes: Vec<usize>,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        for &stripe in &self.stripes {
            self.volume.stripes[stripe].fetch_add(1, Ordering::AcqRel);
        }
    }
}
