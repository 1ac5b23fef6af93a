//! Receiving a shipment: the next image is built beside the visible one, and becomes visible in one moment.
//!
//! ```text
//! none ──begin──► staging ──write*, advance*──► staging ──commit──► visible at the target seq
//!                    └──abort, or begin of another──► swept away ──► none
//! ```
//! Staged extents are versions of the image after the current one, so nobody sees them until the commit moves the view.
//! An incremental shipment's blocks that were not shipped come from the visible image; a full one cuts its image off
//! from all that was there (`View::barrier`), so that what the source lacks is gone. Records can't be applied
//! meanwhile: the base must not move.
//!
//! After a fork the image that was there is set aside: a pin holds it, and the volume shows nothing any more. A shipment
//! may then name that pin as its basis, so that only what differs needs to be shipped.

use std::collections::BTreeMap;

use bytes::Bytes;
use farshore_core::ids::{Seq, VolumeId};

use super::apply::{Content, Touch, Touches};
use super::catalogue_row::SnapshotRow;
use super::error::StoreError;
use super::extent::{BLOCK_LEN, Version, View, extents_of, split_range};
use super::held::Shown;
use super::index_rows::{Cursor, Row, StageRow, stage_key, staged_key};
use super::read::READ_BYTES_MAX;
use super::root::{Store, check_range};
use super::slab::Aligned;
use super::snapshot::Catalogue;
use super::volume::{State, Volume};

/// The most data that is staged at once, and the longest holes.
pub const STAGE_DATA_BYTES_MAX: usize = 4 << 20;
pub const STAGE_HOLE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Clone)]
pub enum StageData {
    Data(Bytes),
    Hole { len: u64 },
}

/// A shipment being received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageInfo {
    pub ship_id: u128,
    /// None: a full copy.
    pub base: Option<Seq>,
    pub target_seq: Seq,
    /// Everything before it is here. After a crash it is what the last checkpoint had; what follows is sent again.
    pub cursor: Cursor,
}

impl From<StageRow> for StageInfo {
    fn from(row: StageRow) -> StageInfo {
        StageInfo { ship_id: row.ship_id, base: row.base, target_seq: row.target, cursor: row.cursor }
    }
}

impl Store {
    /// Begins to receive a shipment, or goes on with it if it is the one under way: the answer says from where. Any
    /// other is aborted and swept away first. What is not shipped comes from the visible image, or from the pin named
    /// `basis`; that is possible only while the volume shows nothing. The base may be below what is applied there
    /// (after a fork): then the shipment must cover all that was applied since, which only the caller can know.
    pub fn stage_begin(
        &self,
        id: VolumeId,
        ship_id: u128,
        base: Option<Seq>,
        basis: Option<&str>,
        target_seq: Seq,
    ) -> Result<StageInfo, StoreError> {
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        let invalid = |reason: String| Err(StoreError::Invalid { op: "ship to", volume: id, reason });
        let (stage, applied, basis) = {
            let state = volume.state();
            match basis.map(|name| (name, state.pins.get(name))) {
                None => (state.stage, state.view.at.seq, None),
                Some((name, None)) => return Err(StoreError::NoPin { volume: id, name: name.to_owned() }),
                Some((name, Some(_))) if state.view.at.seq > Seq::ZERO || base.is_none() => {
                    return invalid(format!("{name} can be its basis only with a base, and while nothing is applied"));
                }
                Some((_, Some(pin))) => (state.stage, pin.view.at.seq, Some(pin.view)),
            }
        };
        if base.is_some_and(|base| base > applied || base > target_seq) {
            return invalid(format!("its base {base:?} is above {applied} (applied) or {target_seq} (target)"));
        }
        if let Some(stage) = stage.filter(|stage| stage.ship_id == ship_id) {
            if (stage.base, stage.basis, stage.target) != (base, basis, target_seq) {
                return invalid(format!("shipment {ship_id:032x} was begun with another base or target"));
            }
            return Ok(stage.into());
        }
        self.drop_stage(&volume)?;
        let stage = {
            let mut state = volume.state_mut();
            let Some(image) = state.view.at.image.checked_add(1) else {
                return invalid("it has received too many shipments".into());
            };
            let cursor = Cursor::default();
            let stage = StageRow { ship_id, base, target: target_seq, image, cursor, basis, catalogue: false };
            state.stage = Some(stage);
            state.note(&Row::Stage(id, stage));
            stage
        };
        self.checkpoint_with(|| {})?;
        Ok(stage.into())
    }

    /// Stages one range (whole blocks) of the shipment; writing it again replaces it.
    pub fn stage_write(&self, id: VolumeId, ship_id: u128, offset: u64, data: StageData) -> Result<(), StoreError> {
        self.stage_ranges(id, ship_id, &[(offset, data)])
    }

    /// Stages several ranges, each by its offset: as few lookups and writes as there are stretches of neighbours.
    pub fn stage_ranges(&self, id: VolumeId, ship_id: u128, ranges: &[(u64, StageData)]) -> Result<(), StoreError> {
        let volume = self.live(id)?;
        match self.stage_once(&volume, ship_id, ranges) {
            Err(StoreError::Full { .. }) => {
                self.reclaim()?;
                self.stage_once(&volume, ship_id, ranges)
            }
            other => other,
        }?;
        self.checkpoint_if_crowded()
    }

    fn stage_once(&self, volume: &Volume, ship_id: u128, ranges: &[(u64, StageData)]) -> Result<(), StoreError> {
        let _mutating = volume.mutating();
        let (stage, size_bytes) = {
            let state = volume.state();
            (staging(volume, &state, ship_id)?, state.size_bytes)
        };
        let mut touches = Touches::new();
        let (mut data_left, mut holes_left) = (STAGE_DATA_BYTES_MAX as u64, STAGE_HOLE_BYTES_MAX);
        for (offset, data) in ranges {
            let (len, left) = match data {
                StageData::Data(data) => (data.len() as u64, &mut data_left),
                StageData::Hole { len } => (*len, &mut holes_left),
            };
            check_range(volume.id, *offset, len, size_bytes)?;
            let Some(rest) = left.checked_sub(len) else {
                let reason = format!("{len} bytes more at once are more than the {left} that are left");
                return Err(StoreError::Invalid { op: "ship to", volume: volume.id, reason });
            };
            *left = rest;
            let mut left = match data {
                StageData::Data(data) => Some(data.clone()),
                StageData::Hole { .. } => None,
            };
            for (extent, first, count) in split_range(*offset, len) {
                let touch = touches.entry(extent).or_default();
                for block in first..first + count {
                    let content = left.as_mut().map_or(Content::Hole, |left| Content::Data(left.split_to(BLOCK_LEN)));
                    touch.set(block, content, stage.target);
                }
            }
        }
        self.stage_extents(volume, &stage, touches)
    }

    fn stage_extents(&self, volume: &Volume, stage: &StageRow, mut touches: Touches) -> Result<(), StoreError> {
        let version = Version { image: stage.image, seq: stage.target };
        let (mut staged, mut base) = (BTreeMap::new(), BTreeMap::new());
        {
            let state = volume.state();
            let (only, below) = (View { barrier: stage.image, at: version }, stage.below(&state));
            let extents: Vec<u64> = touches.keys().copied().collect();
            for near in extents.chunk_by(|a, b| a + 1 == *b) {
                let span = near[0]..=near[near.len() - 1];
                let (found, _) = state.newest(&self.index, volume.id, span.clone(), &only, usize::MAX)?;
                staged.extend(found.into_iter().map(|(extent, (_, entry))| (extent, entry)));
                if stage.base.is_some() {
                    let found = self.seen(volume, &state, &below, span)?;
                    base.extend(found.into_iter().map(|(extent, seen)| (extent, seen.entry)));
                }
            }
        }
        if stage.base.is_none() {
            // A full copy's untouched extents are holes already.
            touches.retain(|extent, touch| staged.contains_key(extent) || !touch.is_hole());
        }
        let plan = self.place_staged(touches, version, &staged, &base)?;
        let _changing = volume.changing(plan.extents());
        self.write_blocks(&plan)?;
        self.publish(volume, plan, |_| {});
        Ok(())
    }

    /// Reads what the volume will show once the shipment is committed, as far as it has come.
    pub fn stage_read(&self, id: VolumeId, ship_id: u128, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let volume = self.live(id)?;
        let read = || {
            let view = {
                let state = volume.state();
                staging(&volume, &state, ship_id)?.view(&state)
            };
            self.read_view(&volume, &view, offset, len)
        };
        check_range(id, offset, len as u64, u64::MAX)?;
        if len == 0 {
            return read();
        }
        // Without a lock first, so that others are staged meanwhile. Only what came out whole while nothing moved counts.
        let span = || extents_of(offset, len as u64);
        let before = volume.stamps(span());
        if before.iter().all(|stamp| stamp % 2 == 0)
            && let Ok(found) = read()
            && volume.stamps(span()) == before
        {
            return Ok(found);
        }
        let _mutating = volume.mutating();
        read()
    }

    /// Reads what was there before the shipment, whether or not it builds on that. Should the shipment end meanwhile,
    /// what comes out says nothing.
    pub fn stage_read_below(&self, id: VolumeId, ship_id: u128, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let volume = self.live(id)?;
        let view = {
            let state = volume.state();
            staging(&volume, &state, ship_id)?.below(&state)
        };
        self.read_view(&volume, &view, offset, len)
    }

    fn read_view(&self, volume: &Volume, view: &View, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        if len == 0 || len > READ_BYTES_MAX {
            let reason = format!("{len} bytes at once are none, or more than {READ_BYTES_MAX}");
            return Err(StoreError::Invalid { op: "read", volume: volume.id, reason });
        }
        let seen = {
            let state = volume.state();
            check_range(volume.id, offset, len as u64, state.size_bytes)?;
            self.seen(volume, &state, view, extents_of(offset, len as u64))?
        };
        let entries = seen.into_iter().map(|(extent, seen)| (extent, seen.entry)).collect();
        let read = self.read_entries(&entries, offset, len).map(Aligned::into_bytes);
        read.map_err(|offset| StoreError::Corrupt { volume: volume.id, offset })
    }

    /// Notes how far the shipment has come: everything before `cursor` was staged. Durable with the next checkpoint.
    pub fn stage_advance(&self, id: VolumeId, ship_id: u128, cursor: Cursor) -> Result<(), StoreError> {
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        let mut state = volume.state_mut();
        let stage = staging(&volume, &state, ship_id)?;
        let stage = StageRow { cursor, ..stage };
        state.stage = Some(stage);
        state.note(&Row::Stage(id, stage));
        Ok(())
    }

    /// Notes snapshots that the image being received has at its source; none, if it has none. With the commit they are
    /// this volume's: held here where they were before, otherwise with their image missing; and what the source has not
    /// is gone. Without this call the catalogue stays as it is. Durable with the next checkpoint.
    pub fn stage_snapshots(&self, id: VolumeId, ship_id: u128, rows: &[SnapshotRow]) -> Result<(), StoreError> {
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        let mut state = volume.state_mut();
        let stage = StageRow { catalogue: true, ..staging(&volume, &state, ship_id)? };
        state.stage = Some(stage);
        state.note(&Row::Stage(id, stage));
        for row in rows {
            state.note(&Row::Staged(id, row.clone()));
            state.staged.insert(row.id, row.clone());
        }
        Ok(())
    }

    /// The shipment being received, if any.
    pub fn stage(&self, id: VolumeId) -> Result<Option<StageInfo>, StoreError> {
        Ok(self.live(id)?.state().stage.map(StageInfo::from))
    }

    /// Makes the shipment the visible image, at its target seq; durable when it returns. The image before stays in
    /// the pins that hold it, and is swept away otherwise.
    pub fn stage_commit(&self, id: VolumeId, ship_id: u128) -> Result<Seq, StoreError> {
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        let target = {
            let _changing = volume.changing_all();
            let mut state = volume.state_mut();
            let stage = staging(&volume, &state, ship_id)?;
            let full = stage.base.is_none();
            state.view = stage.view(&state);
            // A full copy does not say what changed when; one from a base adds to what was known. Never lowered, for
            // pins of the image before rely on it too.
            state.floor = if full { state.floor.max(stage.target) } else { state.floor };
            // The sweep counts what is shown now.
            state.shown = Shown::UNKNOWN;
            let catalogue = state.end_stage(id);
            if stage.catalogue {
                state.take_over(id, catalogue);
            }
            state.position_dirty = true;
            state.gaps.clear();
            state.sweep = Some(0);
            volume.forget_all();
            stage.target
        };
        self.checkpoint_with(|| {})?;
        Ok(target)
    }

    /// Gives the shipment up; gone for good when it returns. Does nothing if it is not under way.
    pub fn stage_abort(&self, id: VolumeId, ship_id: u128) -> Result<(), StoreError> {
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        if volume.state().stage.is_some_and(|stage| stage.ship_id == ship_id) {
            self.drop_stage(&volume)?;
        }
        Ok(())
    }

    /// Shows an empty image at seq 0 from here on, whatever pins hold; durable when it returns.
    pub fn empty(&self, id: VolumeId) -> Result<(), StoreError> {
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        self.show_nothing(&volume)
    }

    /// Keeps the image as the pin `name`, and shows an empty one at seq 0 from here on; durable when it returns. What
    /// was being received is given up.
    pub fn set_aside(&self, id: VolumeId, name: &str) -> Result<Seq, StoreError> {
        let volume = self.live(id)?;
        let pinned = self.pin(id, name)?;
        let _mutating = volume.mutating();
        match volume.state().view.at.seq {
            Seq::ZERO => return Ok(pinned),
            shown if shown == pinned => {}
            shown => {
                let reason = format!("{name} holds it at {pinned}, and it shows {shown}");
                return Err(StoreError::Invalid { op: "set aside", volume: id, reason });
            }
        }
        self.show_nothing(&volume)?;
        Ok(pinned)
    }

    /// The caller holds `mutating`.
    fn show_nothing(&self, volume: &Volume) -> Result<(), StoreError> {
        self.drop_stage(volume)?;
        {
            let _changing = volume.changing_all();
            let mut state = volume.state_mut();
            let Some(image) = state.view.at.image.checked_add(1) else {
                let reason = "it has received too many shipments".into();
                return Err(StoreError::Invalid { op: "empty", volume: volume.id, reason });
            };
            state.view = View { barrier: image, at: Version { image, seq: Seq::ZERO } };
            state.shown = Shown::NOTHING;
            state.position_dirty = true;
            state.gaps.clear();
            state.sweep = Some(0);
            volume.forget_all();
        }
        self.checkpoint_with(|| {}).map(|_| ())
    }

    /// Leaves no stage and no garbage behind: the next image's number is used again. The caller holds `mutating`.
    fn drop_stage(&self, volume: &Volume) -> Result<(), StoreError> {
        {
            let mut state = volume.state_mut();
            if state.stage.is_some() {
                state.end_stage(volume.id);
                state.sweep = Some(0);
            }
        }
        while self.sweep_page(volume)? {
            self.checkpoint_if_crowded()?;
        }
        self.checkpoint_with(|| {}).map(|_| ())
    }
}

impl State {
    /// Forgets the shipment; returns the snapshots that came with it.
    fn end_stage(&mut self, volume: VolumeId) -> Catalogue {
        self.stage = None;
        self.note_deleted(stage_key(volume));
        let staged = std::mem::take(&mut self.staged);
        staged.keys().for_each(|id| self.note_deleted(staged_key(volume, *id)));
        staged
    }
}

impl StageRow {
    /// The image that is there before it.
    fn below(&self, state: &State) -> View {
        self.basis.unwrap_or(state.view)
    }

    /// What is visible once it is committed.
    fn view(&self, state: &State) -> View {
        let barrier = if self.base.is_none() { self.image } else { self.below(state).barrier };
        View { barrier, at: Version { image: self.image, seq: self.target } }
    }
}

impl Touch {
    fn is_hole(&self) -> bool {
        self.wrote == 0
    }
}

fn staging(volume: &Volume, state: &State, ship_id: u128) -> Result<StageRow, StoreError> {
    if state.removing {
        return Err(StoreError::NoVolume { volume: volume.id });
    }
    state.stage.filter(|stage| stage.ship_id == ship_id).ok_or(StoreError::NoStage { volume: volume.id, ship_id })
}
