//! The journal's superblock: two slots in one small file, written in turn, so that a torn write leaves the other.
//!
//! ```text
//!  0 magic "FSJS"  4 version u16  6 flags u16 (1: in use)  8 journal uuid u128  24 segment bytes u64
//! 32 segments u32  36 reserved u32  40 turn u64  48 reserved … 4092 crc u32
//! ```

use crate::codec::DecodeError;

pub const SUPER_MAGIC: [u8; 4] = *b"FSJS";
pub const SUPER_VERSION: u16 = 1;
pub const SUPER_SLOT_BYTES: usize = 4096;
pub const SUPER_FILE_BYTES: usize = 2 * SUPER_SLOT_BYTES;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    pub journal: u128,
    pub segment_bytes: u64,
    /// Segment files that exist under their names: numbers 0 up to this.
    pub segments: u32,
    /// The first group was made durable. From then on a journal without any valid group is a lost one.
    pub in_use: bool,
    /// Counts the writes; the slot is its parity, the greater one wins.
    pub turn: u64,
}

impl Superblock {
    pub fn encode(&self) -> [u8; SUPER_SLOT_BYTES] {
        let mut out = [0; SUPER_SLOT_BYTES];
        out[..4].copy_from_slice(&SUPER_MAGIC);
        out[4..6].copy_from_slice(&SUPER_VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&u16::from(self.in_use).to_le_bytes());
        out[8..24].copy_from_slice(&self.journal.to_le_bytes());
        out[24..32].copy_from_slice(&self.segment_bytes.to_le_bytes());
        out[32..36].copy_from_slice(&self.segments.to_le_bytes());
        out[40..48].copy_from_slice(&self.turn.to_le_bytes());
        let crc = crc32fast::hash(&out[..SUPER_SLOT_BYTES - 4]);
        out[SUPER_SLOT_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(slot: &[u8]) -> Result<Superblock, DecodeError> {
        const WHAT: &str = "journal superblock";
        if slot.len() < SUPER_SLOT_BYTES {
            return Err(DecodeError::Short { what: WHAT, needed: SUPER_SLOT_BYTES, left: slot.len() });
        }
        let u32_at = |at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("8 bytes"));
        if slot[..4] != SUPER_MAGIC {
            return Err(DecodeError::Invalid { what: WHAT, reason: "no superblock magic" });
        }
        let (found, computed) = (u32_at(SUPER_SLOT_BYTES - 4), crc32fast::hash(&slot[..SUPER_SLOT_BYTES - 4]));
        if found != computed {
            return Err(DecodeError::Checksum { what: WHAT, found, computed });
        }
        let version = u16::from_le_bytes([slot[4], slot[5]]);
        if version > SUPER_VERSION {
            return Err(DecodeError::Newer { what: WHAT, found: version.into(), known: SUPER_VERSION.into() });
        }
        Ok(Superblock {
            journal: u128::from_le_bytes(slot[8..24].try_into().expect("16 bytes")),
            segment_bytes: u64_at(24),
            segments: u32_at(32),
            in_use: slot[6] & 1 != 0,
            turn: u64_at(40),
        })
    }

    /// Where in the file this one goes.
    pub fn slot_offset(&self) -> u64 {
        (self.turn % 2) * SUPER_SLOT_BYTES as u64
    }

    /// Picks the newer intact slot. A slot of a newer version is never passed over for an older one: whoever wrote it
    /// may have changed what the other one means.
    pub fn choose(file: &[u8]) -> Result<Superblock, DecodeError> {
        let slot = |n: usize| file.get(n * SUPER_SLOT_BYTES..(n + 1) * SUPER_SLOT_BYTES).unwrap_or_default();
        match (Superblock::decode(slot(0)), Superblock::decode(slot(1))) {
            (Err(newer @ DecodeError::Newer { .. }), _) | (_, Err(newer @ DecodeError::Newer { .. })) => Err(newer),
            (Ok(a), Ok(b)) => Ok(if a.turn > b.turn { a } else { b }),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (Err(first), Err(_)) => Err(first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(turns: [u64; 2]) -> Vec<u8> {
        let sample = Superblock { journal: 5, segment_bytes: 1 << 20, segments: 3, in_use: true, turn: 0 };
        turns.iter().flat_map(|&turn| Superblock { turn, ..sample }.encode()).collect()
    }

    #[test]
    fn the_newer_slot_wins_and_a_damaged_one_falls_to_the_other() {
        let whole = file([4, 3]);
        assert_eq!(Superblock::choose(&whole).unwrap().turn, 4);
        for at in [0, 9, 40, 3000, 4095] {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            assert_eq!(Superblock::choose(&bad).unwrap().turn, 3, "byte {at}");
            bad[SUPER_SLOT_BYTES + at] ^= 1;
            assert!(Superblock::choose(&bad).is_err());
        }
        assert!(Superblock::choose(&whole[..4000]).is_err());
    }

    #[test]
    fn a_newer_version_is_refused_even_beside_an_intact_slot() {
        let mut bytes = file([4, 5]);
        bytes[4] = 2;
        let crc = crc32fast::hash(&bytes[..4092]);
        bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(Superblock::choose(&bytes), Err(DecodeError::Newer { found: 2, .. })));
    }
}
