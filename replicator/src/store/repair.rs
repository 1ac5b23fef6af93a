//! Repair: which blocks are not as they were written, whether a peer's damaged block is held whole here, and putting
//! back what a peer has.
//!
//! Two replicas hold the same bytes of a block when the seqs at which they vouch for it meet. A block's mark says when
//! it was changed, or later (a shipment marks all that it brings with its own seq); so an image at seq `upto` that has
//! the block under mark `from` holds what was so at every seq `from..=upto`.
//!
//! ```text
//! ours    ......[from=====================upto]      the same: no change lies between
//! peer    ...........[from====================applied]
//!
//! ours    ......[from=======upto]                    not the same: it was written again since
//! peer    .....................[from==========applied]
//! ```
//! Seqs mean this only inside one lineage; that is for the caller to see to.

use bytes::Bytes;
use farshore_core::ids::{BLOCK_BYTES, Seq, VolumeId};

use super::error::StoreError;
use super::extent::{BLOCK_LEN, EXTENT_BYTES, Entry, extents_of, split_range};
use super::image::{Seen, as_inherited};
use super::read::{Image, resolve};
use super::root::{Store, check_range};
use super::slab::Aligned;
use super::volume::{State, Volume};

/// Damaged blocks that one look names at most; what is left is found by the next.
pub const DAMAGE_MAX: usize = 64;

/// A block that is not as it was written, and the seqs at which its right bytes were the volume's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    pub offset: u64,
    /// The block's change mark.
    pub from: Seq,
    pub upto: Seq,
    /// The newest image has it; otherwise only pins or a shipment do.
    pub current: bool,
}

/// What this replica has of a block that another one asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// The bytes asked for, verified here.
    Same(Bytes),
    /// It was written again since.
    Newer,
    /// What was asked for is not applied here yet.
    Behind,
}

impl Store {
    /// The damaged blocks of a range (whole blocks), in the newest image or in a pin's; the first [`DAMAGE_MAX`].
    pub fn damage(&self, id: VolumeId, pin: Option<&str>, offset: u64, len: u64) -> Result<Vec<Damage>, StoreError> {
        let volume = self.held_volume(id)?;
        let image = pin.map_or(Image::Current, Image::Pinned);
        // With nobody writing: what is being overwritten is no damage.
        let _mutating = volume.mutating();
        let (view, seen) = {
            let state = volume.state();
            let (view, size_bytes) = resolve(&volume, &state, image)?;
            check_range(id, offset, len, size_bytes)?;
            if len == 0 {
                return Ok(Vec::new());
            }
            (view, self.seen(&volume, &state, &view, extents_of(offset, len))?)
        };
        let mut out = Vec::new();
        for (extent, first, count) in split_range(offset, len) {
            let Some(Seen { entry, .. }) = seen.get(&extent).copied() else { continue };
            for block in self.damaged_blocks(&entry).into_iter().filter(|b| (first..first + count).contains(b)) {
                let offset = extent * EXTENT_BYTES + block as u64 * BLOCK_BYTES;
                out.push(Damage { offset, from: entry.change[block], upto: view.at.seq, current: pin.is_none() });
                if out.len() == DAMAGE_MAX {
                    return Ok(out);
                }
            }
        }
        Ok(out)
    }

    /// The block that was the volume's at seqs `from..=upto`, for a peer that has lost it.
    pub fn held(&self, id: VolumeId, offset: u64, from: Seq, upto: Seq) -> Result<Held, StoreError> {
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        let (extent, block) = (offset / EXTENT_BYTES, (offset % EXTENT_BYTES / BLOCK_BYTES) as usize);
        let (applied, entry) = {
            let state = volume.state();
            check_range(id, offset, BLOCK_BYTES, state.size_bytes)?;
            let found = self.current(&volume, &state, &[extent])?.remove(&extent);
            (state.view.at.seq, found.map_or(Entry::EMPTY, |seen| seen.entry))
        };
        if entry.change[block] > upto {
            return Ok(Held::Newer);
        }
        if applied < from {
            return Ok(Held::Behind);
        }
        let entries = [(extent, entry)].into();
        let read = self.read_entries(&entries, offset, BLOCK_LEN).map(Aligned::into_bytes);
        read.map(Held::Same).map_err(|offset| StoreError::Corrupt { volume: id, offset })
    }

    /// Every version of an extent that a volume has, and what it has from its ancestors.
    fn all_entries(&self, volume: &Volume, state: &State, extent: u64) -> Result<Vec<Entry>, StoreError> {
        let own = state.versions(&self.index, volume.id, extent..=extent)?.remove(&extent).unwrap_or_default();
        let mut out: Vec<Entry> = own.into_values().collect();
        if let Some(link) = state.link {
            let (theirs, _) = self.inherited(volume, &link, extent..=extent, 1)?;
            out.extend(theirs.into_values().map(|entry| as_inherited(entry, link.start)));
        }
        Ok(out)
    }

    /// Rewrites a damaged block with what a peer has of it, in every version that holds the block of change mark
    /// `from`. The bytes must match the checksum that was kept; durable when it returns. Returns how many copies were
    /// rewritten: 0 if none was damaged.
    pub fn repair_block(&self, id: VolumeId, offset: u64, from: Seq, data: &Bytes) -> Result<usize, StoreError> {
        let volume = self.live(id)?;
        check_range(id, offset, data.len() as u64, volume.state().size_bytes)?;
        if data.len() != BLOCK_LEN {
            let reason = format!("a repair has {BLOCK_LEN} bytes, not {}", data.len());
            return Err(StoreError::Invalid { op: "repair", volume: id, reason });
        }
        let _mutating = volume.mutating();
        let (extent, block) = (offset / EXTENT_BYTES, (offset % EXTENT_BYTES / BLOCK_BYTES) as usize);
        let entries = {
            let state = volume.state();
            self.all_entries(&volume, &state, extent)?
        };
        let is_it = |entry: &Entry| entry.has_data(block) && entry.change[block] == from;
        let damaged: Vec<Entry> =
            entries.into_iter().filter(|entry| is_it(entry) && self.damaged_blocks(entry).contains(&block)).collect();
        let crc = crc32fast::hash(data);
        let mut buffer = Aligned::zeroed(BLOCK_LEN);
        buffer.copy_from_slice(data);
        let _changing = volume.changing([extent]);
        let mut repaired = 0;
        for entry in damaged.iter().filter(|entry| entry.crc[block] == crc) {
            let at = entry.place.offset() + block as u64 * BLOCK_BYTES;
            self.slab.write(at, &buffer).map_err(|error| self.poisoned_by("repair", error))?;
            repaired += 1;
        }
        if repaired > 0 {
            self.slab.sync().map_err(|error| self.poisoned_by("sync", error))?;
        } else if !damaged.is_empty() {
            return Err(StoreError::RepairMismatch { volume: id, offset });
        }
        Ok(repaired)
    }
}
