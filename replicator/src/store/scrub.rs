//! Scrub: every stored version is read and verified. What is done about damage is in `repair`.

use std::collections::BTreeMap;

use farshore_core::ids::{BLOCK_BYTES, VolumeId};

use super::error::StoreError;
use super::extent::{BLOCK_LEN, BLOCKS_PER_EXTENT, EXTENT_BYTES, Entry, Version, visible};
use super::image::{as_inherited, earlier};
use super::repair::Damage;
use super::root::Store;
use super::volume::Volume;

/// Where a scrub goes on: the next extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ScrubCursor {
    pub extent: u64,
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
        let (page, inherited, next) = {
            let state = volume.state();
            let (page, next) = state.page(&self.index, id, cursor.extent, rows)?;
            let upto = next.map_or(u64::MAX, |next| next - 1);
            match state.link {
                None => (page, BTreeMap::new(), next),
                Some(link) => {
                    let (inherited, theirs) = self.inherited(&volume, &link, cursor.extent..=upto, rows)?;
                    (page, inherited, earlier(next, theirs))
                }
            }
        };
        let mut out =
            ScrubPage { checked_bytes: 0, damaged: Vec::new(), next: next.map(|extent| ScrubCursor { extent }) };
        let mut entries: BTreeMap<u64, Vec<Entry>> = BTreeMap::new();
        for (extent, versions) in page {
            entries.entry(extent).or_default().extend(versions.into_values());
        }
        for (extent, entry) in inherited {
            entries.entry(extent).or_default().push(entry);
        }
        for (extent, entries) in entries.range(..next.unwrap_or(u64::MAX)) {
            let stored = entries.iter().map(|entry| u64::from(entry.data.count_ones()) * BLOCK_BYTES);
            out.checked_bytes += stored.sum::<u64>();
            if entries.iter().any(|entry| !self.damaged_blocks(entry).is_empty()) {
                self.confirm(&volume, *extent, &mut out.damaged)?;
            }
        }
        Ok(out)
    }

    /// Looks again with nobody writing: an extent that was overwritten under the scrub is no damage.
    fn confirm(&self, volume: &Volume, extent: u64, damaged: &mut Vec<Damage>) -> Result<(), StoreError> {
        let _mutating = volume.mutating();
        let state = volume.state();
        let mut versions = state.versions(&self.index, volume.id, extent..=extent)?.remove(&extent).unwrap_or_default();
        if let Some(link) = state.link {
            let (theirs, _) = self.inherited(volume, &link, extent..=extent, 1)?;
            let start = Version { image: 0, seq: link.start };
            versions.extend(theirs.into_values().map(|entry| (start, as_inherited(entry, link.start))));
        }
        let current = visible(&versions, &state.view).map(|(version, _)| version);
        let applied = state.view.at.seq;
        drop(state);
        for (version, entry) in &versions {
            damaged.extend(self.damaged_blocks(entry).into_iter().map(|block| Damage {
                offset: extent * EXTENT_BYTES + block as u64 * BLOCK_BYTES,
                from: entry.change[block],
                // An older version holds what was so when it was made; the newest, what is so now.
                upto: if Some(*version) == current { applied } else { version.seq },
                current: Some(*version) == current,
            }));
        }
        Ok(())
    }

    pub(super) fn damaged_blocks(&self, entry: &Entry) -> Vec<usize> {
        if self.read_entries(&BTreeMap::from([(0, *entry)]), 0, EXTENT_BYTES as usize).is_ok() {
            return Vec::new();
        }
        let is_damaged = |block: &usize| {
            let offset = *block as u64 * BLOCK_BYTES;
            self.read_entries(&BTreeMap::from([(0, *entry)]), offset, BLOCK_LEN).is_err()
        };
        (0..BLOCKS_PER_EXTENT).filter(is_damaged).collect()
    }
}
