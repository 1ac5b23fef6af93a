//! The words of the store's contents: extents, places, versions, and who sees which version.
//!
//! Pure data and rules; bytes on disk are `index_rows`, files are `slab` and `index`.
//!
//! ```text
//! extent 7 of a volume, newest first          pins          current view
//!   (image 2, seq 95) ── place 12                              ◄── sees it (2, 97)
//!   (image 1, seq 60) ── place  4            ◄── "nightly" at (1, 80)
//!   (image 1, seq 31) ── place  9               seen by nobody: garbage, freed by the sweep
//! ```
//! The *image* counts shipments that were made visible. Within one image versions follow the volume's seqs; a
//! shipment builds the next image beside the visible one, at seqs that need not be above it (after a fork they may be
//! below), so (image, seq) is what orders versions.

use std::collections::BTreeMap;

use farshore_core::ids::{BLOCK_BYTES, Seq};

/// Unit of allocation and of copy-on-write, in bytes.
pub const EXTENT_BYTES: u64 = 64 * 1024;
pub const BLOCKS_PER_EXTENT: usize = (EXTENT_BYTES / BLOCK_BYTES) as usize;
/// [`BLOCK_BYTES`] as a length in memory.
pub(super) const BLOCK_LEN: usize = BLOCK_BYTES as usize;

const _: () = assert!(BLOCKS_PER_EXTENT == 16, "block bitmaps are u16");

/// One extent-sized slot of the slab. Slot 0 holds the slab's header, so 0 says "no place".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Place(pub u64);

impl Place {
    pub const NONE: Place = Place(0);

    pub fn is_some(self) -> bool {
        self != Place::NONE
    }

    /// First byte in the slab.
    pub fn offset(self) -> u64 {
        self.0 * EXTENT_BYTES
    }
}

/// When an extent got its contents. Ordered by image, then seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Version {
    pub image: u32,
    pub seq: Seq,
}

/// Who looks: the newest version at or before `at`, but none of an image below `barrier` (a full copy cuts its image
/// off from everything that was there before it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct View {
    pub barrier: u32,
    pub at: Version,
}

impl View {
    pub fn sees(&self, version: Version) -> bool {
        version <= self.at && version.image >= self.barrier
    }
}

/// One version of one extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// [`Place::NONE`] when every block is a hole.
    pub place: Place,
    /// The place is an ancestor's: never written to and never freed by the clone that has this entry.
    pub borrowed: bool,
    /// Bit i: block i holds data. Otherwise it is a hole and reads zero, whatever the slab has there.
    pub data: u16,
    /// CRC-32 of each data block; 0 for holes.
    pub crc: [u32; BLOCKS_PER_EXTENT],
    /// The seq that last changed each block, to data or to a hole; 0 where nothing ever did.
    pub change: [Seq; BLOCKS_PER_EXTENT],
}

impl Entry {
    pub const EMPTY: Entry = Entry {
        place: Place::NONE,
        borrowed: false,
        data: 0,
        crc: [0; BLOCKS_PER_EXTENT],
        change: [Seq::ZERO; BLOCKS_PER_EXTENT],
    };

    /// The place, if it is this volume's own.
    pub fn own_place(&self) -> Option<Place> {
        (self.place.is_some() && !self.borrowed).then_some(self.place)
    }

    /// No block holds data: no place is needed.
    pub fn give_up_place(&mut self) {
        self.place = Place::NONE;
        self.borrowed = false;
    }

    pub fn has_data(&self, block: usize) -> bool {
        self.data & (1 << block) != 0
    }

    pub fn set_data(&mut self, block: usize, crc: u32, seq: Seq) {
        self.data |= 1 << block;
        self.crc[block] = crc;
        self.change[block] = seq;
    }

    /// A block that already is a hole keeps the seq at which it became one.
    pub fn set_hole(&mut self, block: usize, seq: Seq) {
        if self.has_data(block) {
            self.data &= !(1 << block);
            self.crc[block] = 0;
            self.change[block] = seq;
        }
    }

    /// Blocks changed after `base`, as a bitmap.
    pub fn changed_after(&self, base: Seq) -> u16 {
        (0..BLOCKS_PER_EXTENT).filter(|&block| self.change[block] > base).fold(0, |bits, block| bits | 1 << block)
    }
}

/// All versions of one extent.
pub(super) type Versions = BTreeMap<Version, Entry>;

/// The version that a view sees.
pub(super) fn visible(versions: &Versions, view: &View) -> Option<(Version, Entry)> {
    versions.range(..=view.at).next_back().filter(|(version, _)| view.sees(**version)).map(|(v, e)| (*v, *e))
}

/// Splits `[offset, offset + len)` (whole blocks) into (extent, first block, block count).
pub(super) fn split_range(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len;
    let first = offset / EXTENT_BYTES;
    let last = if len == 0 { first } else { end.div_ceil(EXTENT_BYTES) };
    (first..last).map(move |extent| {
        let from = offset.max(extent * EXTENT_BYTES) - extent * EXTENT_BYTES;
        let upto = (end - extent * EXTENT_BYTES).min(EXTENT_BYTES);
        ((extent), (from / BLOCK_BYTES) as usize, ((upto - from) / BLOCK_BYTES) as usize)
    })
}

/// Extents that `[offset, offset + len)` touches; `len` is not 0.
pub(super) fn extents_of(offset: u64, len: u64) -> std::ops::RangeInclusive<u64> {
    offset / EXTENT_BYTES..=(offset + len - 1) / EXTENT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(image: u32, seq: u64) -> Version {
        Version { image, seq: Seq(seq) }
    }

    #[test]
    fn a_view_sees_the_newest_version_not_after_it() {
        let mut versions = Versions::new();
        for version in [at(1, 31), at(1, 60), at(2, 40)] {
            versions.insert(version, Entry::EMPTY);
        }
        let seen = |barrier, version| visible(&versions, &View { barrier, at: version }).map(|(v, _)| v);
        assert_eq!(seen(0, at(1, 30)), None);
        assert_eq!(seen(0, at(1, 59)), Some(at(1, 31)));
        assert_eq!(seen(0, at(1, 99)), Some(at(1, 60)));
        assert_eq!(seen(0, at(2, 39)), Some(at(1, 60)), "a staged version is not visible before its image is");
        assert_eq!(seen(0, at(2, 40)), Some(at(2, 40)));
        assert_eq!(seen(2, at(2, 39)), None, "a full copy hides what was there before");
    }

    #[test]
    fn a_range_splits_at_extents() {
        let parts: Vec<_> = split_range(EXTENT_BYTES - BLOCK_BYTES, EXTENT_BYTES + 2 * BLOCK_BYTES).collect();
        assert_eq!(parts, vec![(0, 15, 1), (1, 0, 16), (2, 0, 1)]);
        assert_eq!(split_range(0, 0).count(), 0);
    }

    #[test]
    fn a_hole_keeps_the_seq_at_which_it_became_one() {
        let mut entry = Entry::EMPTY;
        entry.set_data(3, 7, Seq(5));
        entry.set_hole(3, Seq(6));
        entry.set_hole(3, Seq(7));
        assert_eq!(entry.change[3], Seq(6));
        assert_eq!(entry.changed_after(Seq(5)), 1 << 3);
        assert_eq!(entry.changed_after(Seq(6)), 0);
    }
}
