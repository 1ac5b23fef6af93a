//! What changed since a seq, up to a pin: what shipping, resync and incremental backup copy.

use farshore_core::ids::{Seq, VolumeId};

use super::changed_page::{ChangedExtent, ChangedPage};
use super::error::StoreError;
use super::extent::Version;
use super::index_rows::{Cursor, PinRow};
use super::root::Store;
use super::volume::{State, Volume};

/// Extents in one page at most; writers wait while a page is made.
pub const PAGE_EXTENTS_MAX: usize = 4096;
/// Extents looked at for one page of a scan, changed or not.
const SCAN_EXTENTS: usize = 4096;
/// A scan is worth it for more changes than one page has, if they are more than one in so many of what is stored: finding
/// one by its key costs as much as passing by this many.
const SCAN_CHANGES_MIN: usize = PAGE_EXTENTS_MAX;
const SCAN_SHARE: u64 = 8;
/// Changes that are counted one by one to decide that; how many more there are is told by the size of their files.
const COUNTED_CHANGES: usize = 128 * 1024;

impl Store {
    /// Blocks changed after `base`, to data or to a hole, as of the pin `upto`; every block that holds data if there
    /// is no base. May name a block too many, never one too few. Extents come in the order of their cursors, each
    /// once. Start with `Cursor::default()`; `max` bounds the page.
    pub fn changed_since(
        &self,
        id: VolumeId,
        base: Option<Seq>,
        upto: &str,
        cursor: Cursor,
        max: usize,
    ) -> Result<ChangedPage, StoreError> {
        self.changed_within(id, base, upto, cursor, max, u64::MAX)
    }

    /// The same, with no more than so many bytes of blocks that hold data, but one extent at least.
    pub fn changed_within(
        &self,
        id: VolumeId,
        base: Option<Seq>,
        upto: &str,
        cursor: Cursor,
        max: usize,
        max_bytes: u64,
    ) -> Result<ChangedPage, StoreError> {
        let volume = self.held_volume(id)?;
        self.settle(&volume, upto)?;
        let state = volume.state();
        let pin = pinned(&state, id, upto)?;
        let max = Most { extents: max.clamp(1, PAGE_EXTENTS_MAX), bytes: max_bytes };
        match comparable(&state, id, base, upto, &pin)? {
            None => self.stored(&volume, &state, &pin, cursor.extent, max),
            Some(base) if self.scans(&volume, base, pin.view.at.seq, cursor)? => {
                self.scan_changed(&volume, &state, &pin, base, cursor.extent, max)
            }
            Some(base) => self.changed(&volume, &state, &pin, base, cursor, max),
        }
    }

    /// The same in the order of the extents, from one on, whatever that costs: every extent that is stored is looked at.
    pub fn changed_by_extent(
        &self,
        id: VolumeId,
        base: Option<Seq>,
        upto: &str,
        from: u64,
        max: usize,
    ) -> Result<ChangedPage, StoreError> {
        let volume = self.held_volume(id)?;
        self.settle(&volume, upto)?;
        let state = volume.state();
        let pin = pinned(&state, id, upto)?;
        let max = Most { extents: max.clamp(1, PAGE_EXTENTS_MAX), bytes: u64::MAX };
        match comparable(&state, id, base, upto, &pin)? {
            None => self.stored(&volume, &state, &pin, from, max),
            Some(base) => self.scan_changed(&volume, &state, &pin, base, from, max),
        }
    }

    /// So much changed since `base` that `changed_by_extent` costs less than looking for each change.
    pub fn changed_is_much(&self, id: VolumeId, base: Seq, upto: &str) -> Result<bool, StoreError> {
        let volume = self.held_volume(id)?;
        self.settle(&volume, upto)?;
        let pin = pinned(&volume.state(), id, upto)?;
        self.is_much(&volume, base, pin.view.at.seq)
    }

    /// Sees to it that all that a pin sees is in the index: a snapshot's mark does not wait for that.
    pub(super) fn settle(&self, volume: &Volume, pin: &str) -> Result<(), StoreError> {
        let settled = {
            let state = volume.state();
            let at = state.pins.get(pin).map(|pin| pin.view.at);
            let written = |at: Version| at.image != state.view.at.image || at.seq <= state.checkpointed;
            at.is_none_or(written) || !state.has_changes()
        };
        if settled { Ok(()) } else { self.checkpoint_with(|| {}).map(drop) }
    }

    /// One extent as a pin sees it: all of it, and which blocks of it are holes.
    pub fn extent_at(&self, id: VolumeId, pin: &str, extent: u64) -> Result<ChangedExtent, StoreError> {
        let volume = self.held_volume(id)?;
        let state = volume.state();
        let pin = pinned(&state, id, pin)?;
        let seen = self.seen(&volume, &state, &pin.view, extent..=extent)?;
        let data = seen.get(&extent).map_or(0, |seen| seen.entry.data);
        Ok(ChangedExtent { extent, changed: u16::MAX, holes: !data })
    }

    /// Decided for the first page; the cursors of a scan have no seq.
    fn scans(&self, volume: &Volume, base: Seq, upto: Seq, cursor: Cursor) -> Result<bool, StoreError> {
        if cursor != Cursor::default() {
            return Ok(cursor.seq == Seq::ZERO);
        }
        self.is_much(volume, base, upto)
    }

    pub(super) fn is_much(&self, volume: &Volume, base: Seq, upto: Seq) -> Result<bool, StoreError> {
        let from = Cursor { seq: base.next(), extent: 0 };
        let mut counted = 0;
        self.index.changes(volume.id, from, upto, |_, _| {
            counted += 1;
            Ok(counted < COUNTED_CHANGES)
        })?;
        if counted <= SCAN_CHANGES_MIN {
            return Ok(false);
        }
        let (extents, more) = self.index.weigh(volume.id, from);
        let changes = if counted < COUNTED_CHANGES { counted as u64 } else { more.max(counted as u64) };
        Ok(changes.saturating_mul(SCAN_SHARE) > extents)
    }

    /// What changed, in the order of the extents.
    fn scan_changed(
        &self,
        volume: &Volume,
        state: &State,
        pin: &PinRow,
        base: Seq,
        from: u64,
        mut max: Most,
    ) -> Result<ChangedPage, StoreError> {
        let (found, mut next) = state.newest(&self.index, volume.id, from..=u64::MAX, &pin.view, SCAN_EXTENTS)?;
        let mut extents = Vec::new();
        for (extent, (_, entry)) in found {
            let changed = entry.changed_after(base);
            if changed == 0 {
                continue;
            }
            let found = ChangedExtent { extent, changed, holes: changed & !entry.data };
            if !max.takes(&found, extents.len()) {
                next = Some(extent);
                break;
            }
            extents.push(found);
        }
        let next = next.map(|extent| Cursor { seq: Seq::ZERO, extent });
        Ok(ChangedPage { extents, next, seq: pin.view.at.seq })
    }

    fn stored(
        &self,
        volume: &Volume,
        state: &State,
        pin: &PinRow,
        from: u64,
        mut max: Most,
    ) -> Result<ChangedPage, StoreError> {
        let (page, mut next) = self.seen_page(volume, state, &pin.view, from, max.extents)?;
        let mut extents = Vec::new();
        for (extent, seen) in page.into_iter().filter(|(_, seen)| seen.entry.data != 0) {
            let found = ChangedExtent { extent, changed: seen.entry.data, holes: 0 };
            if !max.takes(&found, extents.len()) {
                next = Some(extent);
                break;
            }
            extents.push(found);
        }
        let next = next.map(|extent| Cursor { seq: Seq::ZERO, extent });
        Ok(ChangedPage { extents, next, seq: pin.view.at.seq })
    }

    /// Walks the changes on disk: whatever a pin sees is there (`settle`), and stays there.
    fn changed(
        &self,
        volume: &Volume,
        state: &State,
        pin: &PinRow,
        base: Seq,
        cursor: Cursor,
        mut max: Most,
    ) -> Result<ChangedPage, StoreError> {
        let upto = pin.view.at.seq;
        let mut out = ChangedPage { extents: Vec::new(), next: None, seq: upto };
        let Some(first) = base.0.checked_add(1) else { return Ok(out) };
        let from = cursor.max(Cursor { seq: Seq(first), extent: 0 });
        let mut rows = Vec::new();
        self.index.changes(volume.id, from, upto, |at, image| {
            // Rows that this pin does not see cost a look, too; without this bound a page could take for ever.
            if rows.len() >= max.extents {
                out.next = Some(at);
                return Ok(false);
            }
            rows.push((at, image));
            Ok(true)
        })?;
        let mut extents: Vec<u64> = rows.iter().map(|(at, _)| at.extent).collect();
        extents.sort_unstable();
        extents.dedup();
        let seen = state.newest_of(&self.index, volume.id, &extents, &pin.view)?;
        for (at, image) in rows {
            if let Some((version, entry)) = seen.get(&at.extent)
                && *version == (Version { image, seq: at.seq })
            {
                let changed = entry.changed_after(base);
                let holes = changed & !entry.data;
                let found = ChangedExtent { extent: at.extent, changed, holes };
                if changed != 0 && !max.takes(&found, out.extents.len()) {
                    out.next = Some(at);
                    break;
                }
                if changed != 0 {
                    out.extents.push(found);
                }
            }
        }
        Ok(out)
    }
}

/// What a page may hold.
struct Most {
    extents: usize,
    bytes: u64,
}

impl Most {
    /// May this one follow so many that were taken?
    fn takes(&mut self, found: &ChangedExtent, taken: usize) -> bool {
        let left = self.bytes.checked_sub(found.data_bytes());
        self.bytes = left.unwrap_or(0);
        if left.is_none() {
            // Nothing follows one that is too large by itself, not even holes.
            self.extents = 1;
        }
        taken == 0 || taken < self.extents && left.is_some()
    }
}

fn pinned(state: &State, volume: VolumeId, pin: &str) -> Result<PinRow, StoreError> {
    state.pins.get(pin).copied().ok_or_else(|| StoreError::NoPin { volume, name: pin.to_owned() })
}

/// Is it known what changed between the base and the pin?
fn comparable(
    state: &State,
    volume: VolumeId,
    base: Option<Seq>,
    upto: &str,
    pin: &PinRow,
) -> Result<Option<Seq>, StoreError> {
    let Some(seq) = base else { return Ok(None) };
    if seq < state.floor {
        return Err(StoreError::BelowFloor { volume, base: seq, floor: state.floor });
    }
    if seq > pin.view.at.seq {
        let reason = format!("the base {seq} is newer than {upto} at {}", pin.view.at.seq);
        return Err(StoreError::Invalid { op: "compare", volume, reason });
    }
    Ok(base)
}
