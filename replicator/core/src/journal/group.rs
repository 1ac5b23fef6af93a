//! The group: what one write and one sync make durable. All fields little-endian.
//!
//! ```text
//!  0 magic "FSJG"  4 version u16  6 flags u16  8 journal uuid u128  24 generation u64  32 own offset u64
//! 40 segment number u32  44 entries u32  48 body bytes u32  52 reserved u32  56 index u64  64 oldest generation u64
//! 72 previous group's crc u32  76 body XXH3-64 u64  84 reserved 40 bytes  124 header crc u32
//! 128 body: entries …, then zeroes up to a whole number of 4 KiB blocks
//! ```
//!
//! *generation* numbers the uses of segment files, over the journal's whole life; *index* numbers the groups likewise.
//! Both checksums cover the journal's uuid, the generation and the group's own address: the body's is seeded with
//! them. So neither a group of the segment's former life nor one that was written to the wrong place can pass for this one.
//!
//! Version 1 had a CRC-32 of the body at 52 instead, and is read, not written. A CRC does not see that bytes which end with
//! their own CRC of the same polynomial (a replica's state does) were exchanged for others of that kind: what is left of a
//! segment's former life, under a torn write, passed for the new state.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use crate::codec::DecodeError;
use crate::sabotage::{Sabotage, broken};

/// Groups begin and end on a multiple of this many bytes: no block ever holds parts of two groups.
pub const GROUP_ALIGN_BYTES: usize = 4096;
pub const GROUP_MAGIC: [u8; 4] = *b"FSJG";
pub const GROUP_VERSION: u16 = 2;
pub const GROUP_HEADER_BYTES: usize = 128;
/// The longest group, header and padding included.
pub const GROUP_BYTES_MAX: usize = 4 << 20;

/// Far above every index and generation that a journal can reach; below it none of them overflows when it is counted on.
const COUNT_MAX: u64 = 1 << 62;

/// Part of a segment's head: the state of every volume, so that older segments are not needed to know it.
pub const FLAG_HEAD: u16 = 1;
/// The last part of a segment's head.
pub const FLAG_HEAD_END: u16 = 2;
/// Written after a group whose contents are unknown: names neither its checksum nor what it did.
pub const FLAG_AFTER_LOSS: u16 = 4;

const _: () = assert!(GROUP_BYTES_MAX.is_multiple_of(GROUP_ALIGN_BYTES));
const _: () = assert!(crate::record::RECORD_PAYLOAD_MAX * 2 < GROUP_BYTES_MAX);

/// What proves that a group's body is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodySum {
    /// Of version 1.
    Crc32(u32),
    Xxh3(u64),
}

impl BodySum {
    /// Of a group that is yet to be filled.
    pub const NONE: BodySum = BodySum::Xxh3(0);

    fn version(self) -> u16 {
        match self {
            BodySum::Crc32(_) => 1,
            BodySum::Xxh3(_) => GROUP_VERSION,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeader {
    pub journal: u128,
    pub generation: u64,
    /// Where in its segment the group begins, in bytes.
    pub offset: u64,
    /// Number of the segment's file.
    pub segment: u32,
    pub entries: u32,
    pub body_bytes: u32,
    pub body_sum: BodySum,
    pub index: u64,
    /// Segments of lower generations may be in use anew: what they held is no longer needed.
    pub oldest: u64,
    /// [`GroupHeader::crc`] of the group with the index before.
    pub prev_crc: u32,
    pub flags: u16,
}

/// Length of a group with such a body, in whole blocks.
pub fn padded_len(body_bytes: usize) -> usize {
    (GROUP_HEADER_BYTES + body_bytes).next_multiple_of(GROUP_ALIGN_BYTES)
}

impl GroupHeader {
    pub fn padded_len(&self) -> usize {
        padded_len(self.body_bytes as usize)
    }

    pub fn end(&self) -> u64 {
        let end = self.offset + self.padded_len() as u64;
        if broken(Sabotage::BlockRewritten) && self.padded_len() > GROUP_ALIGN_BYTES {
            return end - GROUP_ALIGN_BYTES as u64;
        }
        end
    }

    pub fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub fn encode(&self) -> [u8; GROUP_HEADER_BYTES] {
        let mut out = [0; GROUP_HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &GROUP_MAGIC);
        put(4, &self.body_sum.version().to_le_bytes());
        put(6, &self.flags.to_le_bytes());
        put(8, &self.journal.to_le_bytes());
        put(24, &self.generation.to_le_bytes());
        put(32, &self.offset.to_le_bytes());
        put(40, &self.segment.to_le_bytes());
        put(44, &self.entries.to_le_bytes());
        put(48, &self.body_bytes.to_le_bytes());
        match self.body_sum {
            BodySum::Crc32(sum) => put(52, &sum.to_le_bytes()),
            BodySum::Xxh3(sum) => put(76, &sum.to_le_bytes()),
        }
        put(56, &self.index.to_le_bytes());
        put(64, &self.oldest.to_le_bytes());
        put(72, &self.prev_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..124]);
        out[124..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header's checksum; through the body's it covers the whole group, so it stands for it in the next one.
    pub fn crc(&self) -> u32 {
        let bytes = self.encode();
        u32::from_le_bytes(bytes[124..].try_into().expect("4 bytes"))
    }

    /// Reads the header at the start of `bytes`. Whether it is *this* place's header is [`GroupHeader::is_at`]'s question.
    pub fn decode(bytes: &[u8]) -> Result<GroupHeader, DecodeError> {
        const WHAT: &str = "journal group";
        if bytes.len() < GROUP_HEADER_BYTES {
            return Err(DecodeError::Short { what: WHAT, needed: GROUP_HEADER_BYTES, left: bytes.len() });
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if bytes[..4] != GROUP_MAGIC {
            return Err(DecodeError::Invalid { what: WHAT, reason: "no group magic" });
        }
        let computed = crc32fast::hash(&bytes[..124]);
        if computed != u32_at(124) {
            return Err(DecodeError::Checksum { what: WHAT, found: u32_at(124), computed });
        }
        if u16_at(4) > GROUP_VERSION {
            return Err(DecodeError::Newer { what: WHAT, found: u16_at(4).into(), known: GROUP_VERSION.into() });
        }
        let header = GroupHeader {
            journal: u128::from_le_bytes(bytes[8..24].try_into().expect("16 bytes")),
            generation: u64_at(24),
            offset: u64_at(32),
            segment: u32_at(40),
            entries: u32_at(44),
            body_bytes: u32_at(48),
            body_sum: if u16_at(4) < 2 { BodySum::Crc32(u32_at(52)) } else { BodySum::Xxh3(u64_at(76)) },
            index: u64_at(56),
            oldest: u64_at(64),
            prev_crc: u32_at(72),
            flags: u16_at(6),
        };
        if header.body_bytes as usize > GROUP_BYTES_MAX - GROUP_HEADER_BYTES {
            let (found, limit) = (header.body_bytes.into(), GROUP_BYTES_MAX as u64);
            return Err(DecodeError::Limit { what: "journal group body", found, limit });
        }
        let counted = header.index.max(header.generation).max(header.oldest);
        if counted > COUNT_MAX {
            return Err(DecodeError::Limit { what: "journal group's counters", found: counted, limit: COUNT_MAX });
        }
        Ok(header)
    }

    /// The group says that it belongs to this journal and lies exactly here.
    pub fn is_at(&self, journal: u128, segment: u32, offset: u64) -> bool {
        self.journal == journal && self.segment == segment && self.offset == offset
    }

    /// The body's checksum, of the kind that this group has, seeded with the group's identity and address.
    pub fn sum_up(&self, body: &[u8]) -> BodySum {
        let mut seed = [0; 36];
        seed[..16].copy_from_slice(&self.journal.to_le_bytes());
        seed[16..24].copy_from_slice(&self.generation.to_le_bytes());
        seed[24..28].copy_from_slice(&self.segment.to_le_bytes());
        seed[28..].copy_from_slice(&self.offset.to_le_bytes());
        match self.body_sum {
            BodySum::Crc32(_) => {
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(&seed);
                hasher.update(body);
                BodySum::Crc32(hasher.finalize())
            }
            BodySum::Xxh3(_) => {
                let mut hasher = Xxh3::new();
                hasher.update(&seed);
                hasher.update(body);
                BodySum::Xxh3(hasher.digest())
            }
        }
    }

    /// The body within a whole group's bytes, if it is intact.
    pub fn body(&self, group: &Bytes) -> Result<Bytes, DecodeError> {
        const WHAT: &str = "journal group body";
        let end = GROUP_HEADER_BYTES + self.body_bytes as usize;
        if group.len() < end {
            return Err(DecodeError::Short { what: WHAT, needed: end, left: group.len() });
        }
        let body = group.slice(GROUP_HEADER_BYTES..end);
        if self.sum_up(&body) != self.body_sum && !broken(Sabotage::BodyUnchecked) {
            return Err(DecodeError::Invalid { what: WHAT, reason: "its checksum is another" });
        }
        Ok(body)
    }
}

/// Fills one group into a caller's buffer, which may begin with bytes of the caller's own (to align the rest).
pub struct GroupBuilder {
    out: Vec<u8>,
    start: usize,
    entries: u32,
}

impl GroupBuilder {
    pub fn new(mut out: Vec<u8>) -> GroupBuilder {
        let start = out.len();
        out.resize(start + GROUP_HEADER_BYTES, 0);
        GroupBuilder { out, start, entries: 0 }
    }

    /// Appends one entry; `put` writes its bytes. Returns where in the group they begin.
    pub fn entry(&mut self, kind: u8, put: impl FnOnce(&mut Vec<u8>)) -> usize {
        let frame = self.out.len();
        self.out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
        put(&mut self.out);
        let len = (self.out.len() - frame - ENTRY_FRAME_BYTES) as u32;
        self.out[frame + 4..frame + 8].copy_from_slice(&len.to_le_bytes());
        self.entries += 1;
        frame + ENTRY_FRAME_BYTES - self.start
    }

    pub fn body_bytes(&self) -> usize {
        self.out.len() - self.start - GROUP_HEADER_BYTES
    }

    /// Completes the group: `header` names its place in the journal; lengths, counts and checksums are filled in here.
    pub fn finish(mut self, mut header: GroupHeader) -> (GroupHeader, Vec<u8>) {
        header.body_bytes = self.body_bytes() as u32;
        header.entries = self.entries;
        assert!(header.padded_len() <= GROUP_BYTES_MAX, "a journal group outgrew its limit");
        header.body_sum = header.sum_up(&self.out[self.start + GROUP_HEADER_BYTES..]);
        self.out.resize(self.start + header.padded_len(), 0);
        self.out[self.start..self.start + GROUP_HEADER_BYTES].copy_from_slice(&header.encode());
        (header, self.out)
    }
}

/// Before each entry: kind u8, three zero bytes, length u32.
pub const ENTRY_FRAME_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> GroupHeader {
        GroupHeader {
            journal: 7,
            generation: 3,
            offset: 8192,
            segment: 2,
            entries: 0,
            body_bytes: 0,
            body_sum: BodySum::NONE,
            index: 99,
            oldest: 1,
            prev_crc: 0xabcd,
            flags: FLAG_HEAD,
        }
    }

    #[test]
    fn round_trip_keeps_every_field() {
        let mut builder = GroupBuilder::new(vec![0xee; 24]);
        let at = builder.entry(4, |out| out.extend_from_slice(b"hello"));
        assert_eq!(at, GROUP_HEADER_BYTES + ENTRY_FRAME_BYTES);
        let (written, out) = builder.finish(header());
        let group = Bytes::from(out).slice(24..);
        assert_eq!(group.len(), GROUP_ALIGN_BYTES);
        let read = GroupHeader::decode(&group).unwrap();
        assert_eq!(read, written);
        assert_eq!(&read.body(&group).unwrap()[8..], b"hello");
        assert!(
            read.is_at(7, 2, 8192) && !read.is_at(7, 2, 4096) && !read.is_at(7, 1, 8192) && !read.is_at(8, 2, 8192)
        );
    }

    #[test]
    fn every_flipped_bit_of_the_header_is_noticed() {
        let (_, out) = GroupBuilder::new(Vec::new()).finish(header());
        for bit in 0..GROUP_HEADER_BYTES * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(GroupHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_body_of_another_life_or_place_does_not_pass() {
        let mut builder = GroupBuilder::new(Vec::new());
        builder.entry(4, |out| out.extend_from_slice(b"hello"));
        let (written, out) = builder.finish(header());
        let group = Bytes::from(out);
        for other in [
            GroupHeader { generation: 4, ..written },
            GroupHeader { offset: 4096, ..written },
            GroupHeader { segment: 1, ..written },
            GroupHeader { journal: 1, ..written },
        ] {
            assert!(other.body(&group).is_err());
        }
    }

    /// As the sectors of a former life may, under a torn write. The CRC-32 of version 1 did not see it.
    #[test]
    fn bytes_with_their_own_crc_are_not_exchanged_unseen() {
        let own = |bytes: &[u8]| [bytes, &crc32fast::hash(bytes).to_le_bytes()].concat();
        for (sum, seen) in [(BodySum::NONE, true), (BodySum::Crc32(0), false)] {
            let mut builder = GroupBuilder::new(Vec::new());
            let at = builder.entry(4, |out| out.extend(own(b"promised 9")));
            let (written, mut group) = builder.finish(GroupHeader { body_sum: sum, ..header() });
            let old = own(b"promised 3");
            group[at..at + old.len()].copy_from_slice(&old);
            assert_eq!(written.body(&group.into()).is_err(), seen, "{sum:?}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let (_, mut out) = GroupBuilder::new(Vec::new()).finish(header());
        out[4] = 3;
        let crc = crc32fast::hash(&out[..124]);
        out[124..128].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(GroupHeader::decode(&out), Err(DecodeError::Newer { found: 3, known: 2, .. })));
    }

    /// As recovery counts on from what it finds.
    #[test]
    fn counters_that_could_overflow_are_refused() {
        let max = u64::MAX;
        for bad in [
            GroupHeader { index: max, ..header() },
            GroupHeader { generation: max, ..header() },
            GroupHeader { oldest: max, ..header() },
        ] {
            let (_, out) = GroupBuilder::new(Vec::new()).finish(bad);
            assert!(matches!(GroupHeader::decode(&out), Err(DecodeError::Limit { found, .. }) if found == max));
            let scanned = crate::journal::scan::scan(7, 2, &mut Bytes::from([vec![0; 8192], out].concat()));
            let (rule, _) = crate::journal::recovery::decide(&[scanned.unwrap()], false);
            assert_eq!(rule, crate::journal::recovery::Rule::Fresh);
        }
    }
}
