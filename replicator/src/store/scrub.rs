//! Scrub and repair: every stored version is read and verified; a damaged block is rewritten from a peer's copy.

use std::collections::BTreeMap;

use bytes::Bytes;
use farshore_core::ids::{BLOCK_BYTES, Seq, VolumeId};

use super::error::StoreError;
use super::extent::{BLOCK_LEN, BLOCKS_PER_EXTENT, EXTENT_BYTES, Entry, Version, visible};
use super::root::{Store, check_range};
use super::slab::Aligned;
use super::volume::Volume;

/// Where a scrub goes on: the next extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ScrubCursor {
    pub extent: u64,
}

/// A block that is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    pub offset: u64,
    /// When the block was written.
    pub seq: Seq,
    /// The newest image has it; otherwise only pins or a shipment do.
    pub current: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubPage {
    pub checked_bytes: u64,
    pub damaged: Vec<Damage>,
    pub next: Option<ScrubCursor>,
}

impl Store {
    /// Verifies about `max_bytes` of what is stored for a volume, pinned and staged versions included.
    pub fn scrub(&self, id: VolumeId, cursor: ScrubCursor, max_bytes: u64) -> Result<ScrubPage, StoreError> {
        let volume = self.live(id)?;
        let rows = (max_bytes / EXTENT_BYTES).clamp(1, 4096) as usize;
        let (page, next) = volume.state().page(&self.index, id, cursor.extent, rows)?;
        let mut out =
            ScrubPage { checked_bytes: 0, damaged: Vec::new(), next: next.map(|extent| ScrubCursor { extent }) };
        for (extent, versions) in page {
            let entries = || versions.values();
            out.checked_bytes += entries().map(|entry| u64::from(entry.data.count_ones()) * BLOCK_BYTES).sum::<u64>();
            if entries().any(|entry| !self.damaged_blocks(entry).is_empty()) {
                self.confirm(&volume, extent, &mut out.damaged)?;
            }
        }
        Ok(out)
    }

    /// Looks again with nobody writing: an extent that was overwritten under the scrub is no damage.
    fn confirm(&self, volume: &Volume, extent: u64, damaged: &mut Vec<Damage>) -> Result<(), StoreError> {
        let _mutating = volume.mutating();
        let state = volume.state();
        let versions = state.versions(&self.index, volume.id, extent..=extent)?.remove(&extent).unwrap_or_default();
        let current = visible(&versions, &state.view).map(|(version, _)| version);
        drop(state);
        for (version, entry) in &versions {
            damaged.extend(self.damaged_blocks(entry).into_iter().map(|block| Damage {
                offset: extent * EXTENT_BYTES + block as u64 * BLOCK_BYTES,
                seq: entry.change[block],
                current: Some(*version) == current,
            }));
        }
        Ok(())
    }

    fn damaged_blocks(&self, entry: &Entry) -> Vec<usize> {
        if self.read_entries(&BTreeMap::from([(0, *entry)]), 0, EXTENT_BYTES as usize).is_ok() {
            return Vec::new();
        }
        let is_damaged = |block: &usize| {
            let offset = *block as u64 * BLOCK_BYTES;
            self.read_entries(&BTreeMap::from([(0, *entry)]), offset, BLOCK_LEN).is_err()
        };
        (0..BLOCKS_PER_EXTENT).filter(is_damaged).collect()
    }

    /// Rewrites a damaged block with what a peer has at the same seq, in every version that holds the same block. The
    /// bytes must match the checksum that was kept; durable when it returns. Returns how many copies were rewritten:
    /// 0 if nothing was damaged.
    pub fn repair_block(&self, id: VolumeId, offset: u64, data: &Bytes) -> Result<usize, StoreError> {
        let volume = self.live(id)?;
        check_range(id, offset, data.len() as u64, volume.state().size_bytes)?;
        if data.len() != BLOCK_LEN {
            let reason = format!("a repair has {BLOCK_LEN} bytes, not {}", data.len());
            return Err(StoreError::Invalid { op: "repair", volume: id, reason });
        }
        let _mutating = volume.mutating();
        let (extent, block) = (offset / EXTENT_BYTES, (offset % EXTENT_BYTES / BLOCK_BYTES) as usize);
        let versions = {
            let state = volume.state();
            state.versions(&self.index, id, extent..=extent)?.remove(&extent).unwrap_or_default()
        };
        let damaged: Vec<(&Version, &Entry)> = versions
            .iter()
            .filter(|(_, entry)| entry.has_data(block) && self.damaged_blocks(entry).contains(&block))
            .collect();
        let crc = crc32fast::hash(data);
        let mut buffer = Aligned::zeroed(BLOCK_LEN);
        buffer.copy_from_slice(data);
        let _changing = volume.changing([extent]);
        let mut repaired = 0;
        for (_, entry) in damaged.iter().filter(|(_, entry)| entry.crc[block] == crc) {
            let at = entry.place.offset() + block as u64 * BLOCK_BYTES;
            self.slab.write(at, &buffer).map_err(|error| self.poisoned_by("repair", error))?;
            repaired += 1;
        }
        if repaired > 0 {
            self.slab.sync().map_err(|error| self.poisoned_by("sync", error))?;
            tracing::info!(volume = %id, offset, repaired, "a damaged block was repaired");
        } else if !damaged.is_empty() {
            return Err(StoreError::RepairMismatch { volume: id, offset });
        }
        Ok(repaired)
    }
}
