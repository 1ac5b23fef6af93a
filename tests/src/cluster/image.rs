//! What a block may hold: stamps that say which write of which block it was, all the way through.
//!
//! The data directories that are kept as fixtures hold such blocks: what a stamp looks like must stay as it is.

/// The size of the blocks that the ledger writes.
pub const BLOCK_BYTES: usize = 4096;

/// One block's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// Never written, or trimmed.
    Zeroes,
    Stamp(u64),
}

impl Image {
    pub fn of_stamp(stamp: u64) -> Image {
        if stamp == 0 { Image::Zeroes } else { Image::Stamp(stamp) }
    }

    pub fn stamp(self) -> u64 {
        match self {
            Image::Zeroes => 0,
            Image::Stamp(stamp) => stamp,
        }
    }

    pub fn bytes(self, block: u64) -> Vec<u8> {
        match self {
            Image::Zeroes => vec![0; BLOCK_BYTES],
            Image::Stamp(stamp) => {
                let words = (0..BLOCK_BYTES as u64 / 8).map(|i| word(block, stamp, i));
                words.flat_map(u64::to_le_bytes).collect()
            }
        }
    }

    /// What the block holds; an error tells how it is damaged.
    pub fn read(block: u64, bytes: &[u8]) -> Result<Image, String> {
        if bytes.iter().all(|b| *b == 0) {
            return Ok(Image::Zeroes);
        }
        let stamp = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        let expected = Image::Stamp(stamp).bytes(block);
        match (0..bytes.len()).find(|i| bytes[*i] != expected[*i]) {
            None => Ok(Image::Stamp(stamp)),
            Some(at) => Err(format!("block {block} begins as stamp {stamp}, and is another's from byte {at} on")),
        }
    }
}

/// The first word is the stamp, the others depend on block, stamp and place: a mix of two writes is seen.
fn word(block: u64, stamp: u64, index: u64) -> u64 {
    if index == 0 {
        return stamp;
    }
    (stamp ^ block.rotate_left(32) ^ index.rotate_left(48)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_what_it_is_and_what_it_is_not() {
        let bytes = Image::Stamp(7).bytes(3);
        assert_eq!(Image::read(3, &bytes), Ok(Image::Stamp(7)));
        assert!(Image::read(4, &bytes).is_err(), "another block's");
        let mut torn = bytes;
        torn[2048..].copy_from_slice(&Image::Stamp(8).bytes(3)[2048..]);
        assert!(Image::read(3, &torn).is_err(), "a torn one");
        assert_eq!(Image::read(3, &[0; BLOCK_BYTES]), Ok(Image::Zeroes));
    }
}
