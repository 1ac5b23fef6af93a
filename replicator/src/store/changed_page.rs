//! A page of the listing of what changed: plain data, for whoever ships it.

use farshore_core::ids::{BLOCK_BYTES, Seq};

use super::extent::{BLOCKS_PER_EXTENT, EXTENT_BYTES};
use super::index_rows::Cursor;

/// Blocks of one extent that differ from the base, as bitmaps: bit i is the block at `extent * EXTENT_BYTES + i * 4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedExtent {
    pub extent: u64,
    pub changed: u16,
    /// Those of `changed` that are holes now.
    pub holes: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedPage {
    pub extents: Vec<ChangedExtent>,
    /// Where to go on; None after the last page.
    pub next: Option<Cursor>,
    /// The seq that the listing leads to: the pin's.
    pub seq: Seq,
}

impl ChangedExtent {
    /// Bytes of those that changed to data.
    pub fn data_bytes(&self) -> u64 {
        u64::from((self.changed & !self.holes).count_ones()) * BLOCK_BYTES
    }

    /// The changed blocks as stretches, data and holes apart, in order: offset in the volume, length, is it a hole.
    pub fn runs(&self) -> Vec<(u64, u64, bool)> {
        let kind = |block: usize| {
            let bit = 1_u16 << block;
            if self.changed & bit == 0 { None } else { Some(self.holes & bit != 0) }
        };
        let mut out = Vec::new();
        let mut block = 0;
        while block < BLOCKS_PER_EXTENT {
            let Some(hole) = kind(block) else {
                block += 1;
                continue;
            };
            let first = block;
            while block < BLOCKS_PER_EXTENT && kind(block) == Some(hole) {
                block += 1;
            }
            let offset = self.extent * EXTENT_BYTES + first as u64 * BLOCK_BYTES;
            out.push((offset, (block - first) as u64 * BLOCK_BYTES, hole));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Block by block, they say what the bitmaps say, and no stretch could be longer.
        #[test]
        fn runs_are_the_blocks_that_changed(extent in 0_u64..1 << 40, changed in any::<u16>(), holes in any::<u16>()) {
            let runs = ChangedExtent { extent, changed, holes }.runs();
            let mut found = [None; BLOCKS_PER_EXTENT];
            for (offset, length, hole) in &runs {
                prop_assert!(*length > 0 && length % BLOCK_BYTES == 0 && offset / EXTENT_BYTES == extent);
                for at in (*offset..offset + length).step_by(BLOCK_BYTES as usize) {
                    let cell = &mut found[(at % EXTENT_BYTES / BLOCK_BYTES) as usize];
                    prop_assert_eq!(cell.replace(*hole), None, "a block twice");
                }
            }
            for (block, cell) in found.iter().enumerate() {
                let bit = |map: u16| map >> block & 1 == 1;
                prop_assert_eq!(*cell, bit(changed).then(|| bit(holes)), "block {}", block);
            }
            for pair in runs.windows(2) {
                let ((at, length, hole), (next, _, next_hole)) = (pair[0], pair[1]);
                prop_assert!(at + length < next || (at + length == next && hole != next_hole));
            }
        }
    }
}
