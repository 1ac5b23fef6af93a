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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use farshore_core::ids::{Seq, VolumeId};

use super::error::StoreError;
use super::extent::{EXTENT_BYTES, Entry, Place, Version, Versions, View};
use super::held::Shown;
use super::image::Seen;
use super::index::{Index, Walk};
use super::index_rows::{Cursor, Row, StageRow};
use super::link_row::LinkRow;
use super::pin::Pins;
use super::snapshot::Catalogue;
use super::views::Views;

/// Gaps left to sweep; beyond, the whole volume is swept once.
const GAPS_MAX: usize = 1024;
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

/// What a view sees of each extent.
pub(super) type Newest = BTreeMap<u64, (Version, Entry)>;

/// Newest version first, as in the index.
pub(super) type Layer = BTreeMap<(u64, Reverse<Version>), Change>;

/// The seqs between a pin that is gone and the next one: what the pin alone saw was superseded by one of their versions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gap {
    pub from: Cursor,
    pub upto: Seq,
    /// Everything in it is in the index once a checkpoint has come so far.
    pub ready: Seq,
}

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
    /// Those of them that the current view sees.
    pub shown: Shown,
    /// View or floor differ from the index.
    pub position_dirty: bool,
    /// Rows that differ from the index, as they are to be; None: deleted.
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The next extent that the sweep of the whole volume looks at; None when there is no garbage.
    pub sweep: Option<u64>,
    /// What changed right after pins that are gone: whatever only they saw is garbage there.
    pub gaps: Vec<Gap>,
    /// Deleted. Clones and kept snapshots may still look at it through their pins: then it is a ghost.
    pub removing: bool,
    /// Of a clone: whatever its views lack is its parent's.
    pub link: Option<LinkRow>,
}

pub(super) struct Volume {
    pub id: VolumeId,
    mutating: Mutex<()>,
    state: RwLock<State>,
    recent: Mutex<Recent>,
    /// Of a clone.
    parent: OnceLock<Weak<Volume>>,
    stripes: Vec<AtomicU64>,
}

/// The newest version of recently used extents in the current view; also of those that have none.
#[derive(Default)]
pub(super) struct Recent {
    young: HashMap<u64, Option<Seen>>,
    old: HashMap<u64, Option<Seen>>,
}

impl Recent {
    pub fn get(&mut self, extent: u64) -> Option<Option<Seen>> {
        if let Some(found) = self.young.get(&extent) {
            return Some(*found);
        }
        let found = self.old.remove(&extent)?;
        self.put(extent, found);
        Some(found)
    }

    pub fn put(&mut self, extent: u64, found: Option<Seen>) {
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
            shown: Shown::NOTHING,
            position_dirty: false,
            rows: BTreeMap::new(),
            sweep: None,
            gaps: Vec::new(),
            removing: false,
            link: None,
        }
    }

    /// What a view has from the parent, if anything. A full copy, or an image that was emptied, inherits nothing.
    pub fn inherits(&self, view: &View) -> Option<LinkRow> {
        self.link.filter(|link| view.barrier == 0 && link.flattened < u64::MAX)
    }

    /// There is something to flatten, and somebody to gain by it.
    pub fn flattens(&self) -> Option<LinkRow> {
        self.inherits(&self.view).filter(|_| !self.removing)
    }

    /// Nobody looks at what came from the parent any more, and what was borrowed of it is swept away.
    pub fn has_left(&self) -> Option<LinkRow> {
        let inherits = |view: &View| view.barrier == 0;
        let pins = self.pins.iter().any(|(_, pin)| inherits(&pin.view));
        let own = !self.removing && (inherits(&self.view) || self.stage.is_some());
        self.link.filter(|_| self.sweep.is_none() && self.gaps.is_empty() && !pins && !own)
    }

    /// A pin that looked from here is gone, here and in the index. What it alone saw is looked for among what came right
    /// after it, not in the whole volume.
    pub fn give_up(&mut self, at: Version) {
        let Some(first) = at.seq.0.checked_add(1).filter(|_| !self.removing && at.image == self.view.at.image) else {
            // Seqs of different images do not follow each other.
            self.sweep = Some(0);
            return;
        };
        if self.gaps.len() >= GAPS_MAX {
            self.gaps.clear();
            self.sweep = Some(0);
            return;
        }
        let upto = self.pins.after(at).map_or(Seq(u64::MAX), |next| next.seq);
        let from = Cursor { seq: Seq(first), extent: 0 };
        self.gaps.push(Gap { from, upto, ready: self.view.at.seq });
    }

    /// The next gap that can be swept.
    pub fn ready_gap(&self) -> Option<usize> {
        self.gaps.iter().position(|gap| gap.ready <= self.checkpointed)
    }

    /// There is garbage that can be swept now.
    pub fn has_garbage(&self) -> bool {
        self.sweep.is_some() || self.ready_gap().is_some()
    }

    /// Extents beyond are nobody's. A ghost that came back may be smaller than what its clones see.
    pub fn extents_max(&self) -> u64 {
        let pinned = self.pins.iter().map(|(_, pin)| pin.size_bytes).max();
        pinned.unwrap_or_default().max(self.size_bytes).div_ceil(EXTENT_BYTES)
    }

    /// A ghost of which nobody sees anything any more.
    pub fn is_finished(&self) -> bool {
        self.removing && self.sweep.is_none() && self.pins.is_empty()
    }

    /// A hole here hides what the parent has, so it is not the same as nothing.
    pub fn hides(&self, extent: u64) -> bool {
        self.link.is_some_and(|link| extent >= link.flattened)
    }

    /// Everyone who may still look at this volume. What none of them sees is garbage.
    pub fn views(&self) -> Views {
        self.views_but("")
    }

    /// All but a pin's.
    pub fn views_but(&self, name: &str) -> Views {
        let pins = self.pins.iter().filter(|(other, _)| *other != name).map(|(_, pin)| pin.view);
        let stage = self.stage.map(|stage| stage_view(&stage));
        let current = (!self.removing).then_some(self.view);
        Views::new(current.into_iter().chain(pins).chain(stage))
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

    /// What a view sees of some extents of this volume's own, which are in their order.
    pub fn newest_of(
        &self,
        index: &Index,
        volume: VolumeId,
        extents: &[u64],
        view: &View,
    ) -> Result<BTreeMap<u64, (Version, Entry)>, StoreError> {
        let mut found = BTreeMap::new();
        index.newest_of(volume, extents, view.at, |extent, version, entry| {
            let key = (extent, Reverse(version));
            match self.dirty.get(&key).or_else(|| self.flushing.get(&key)) {
                Some(Change { entry: None, .. }) => Walk::Older,
                changed => {
                    found.insert(extent, (version, changed.and_then(|change| change.entry).unwrap_or(entry)));
                    Walk::On
                }
            }
        })?;
        for &extent in extents {
            self.newer_in_memory(extent..=extent, view, &mut found);
        }
        found.retain(|_, (version, _)| view.sees(*version));
        Ok(found)
    }

    /// What a view sees of this volume's own versions: the first `max` extents of a span, and where to go on.
    pub fn newest(
        &self,
        index: &Index,
        volume: VolumeId,
        span: RangeInclusive<u64>,
        view: &View,
        max: usize,
    ) -> Result<(Newest, Option<u64>), StoreError> {
        let (mut found, mut next) = (BTreeMap::new(), None);
        if span.is_empty() {
            return Ok((found, next));
        }
        index.newest(volume, span.clone(), view.at, |extent, version, entry| {
            if found.len() >= max {
                next = Some(extent);
                return Walk::Stop;
            }
            let key = (extent, Reverse(version));
            match self.dirty.get(&key).or_else(|| self.flushing.get(&key)) {
                Some(Change { entry: None, .. }) => Walk::Older,
                changed => {
                    found.insert(extent, (version, changed.and_then(|change| change.entry).unwrap_or(entry)));
                    Walk::On
                }
            }
        })?;
        let upto = next.map_or(*span.end(), |next| next - 1);
        self.newer_in_memory(*span.start()..=upto, view, &mut found);
        found.retain(|_, (version, _)| view.sees(*version));
        Ok((found, next))
    }

    /// Puts what no checkpoint has yet above what was found in the index.
    fn newer_in_memory(&self, span: RangeInclusive<u64>, view: &View, found: &mut BTreeMap<u64, (Version, Entry)>) {
        let newest = Reverse(Version { image: u32::MAX, seq: Seq(u64::MAX) });
        let keys = (*span.start(), newest)..=(*span.end(), Reverse(Version::default()));
        let flushing = self.flushing.range(keys.clone()).filter(|(key, _)| !self.dirty.contains_key(*key));
        for ((extent, Reverse(version)), change) in flushing.chain(self.dirty.range(keys)) {
            if let Some(entry) = change.entry
                && *version <= view.at
                && found.get(extent).is_none_or(|(seen, _)| seen <= version)
            {
                found.insert(*extent, (*version, entry));
            }
        }
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
            parent: OnceLock::new(),
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

    pub fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().expect("a panic in the store ends the daemon")
    }

    /// The volume that a clone was made from; it is there for as long as the clone has a link.
    pub fn parent(&self) -> Arc<Volume> {
        let parent = self.parent.get().and_then(Weak::upgrade);
        parent.expect("a volume stays for as long as its clones have a link to it")
    }

    pub fn set_parent(&self, parent: &Arc<Volume>) {
        self.parent.set(Arc::downgrade(parent)).expect("a clone has one parent");
    }

    /// To be called, with the state locked for writing, for every extent whose newest version changed.
    pub fn remember(&self, extent: u64, found: Option<Seen>) {
        self.recent().put(extent, found);
    }

    pub fn forget(&self, extent: u64) {
        self.recent().forget(extent);
    }

    /// To be called, with the state locked for writing, when the view moved to another image.
    pub fn forget_all(&self) {
        *self.recent() = Recent::default();
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
