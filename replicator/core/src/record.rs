//! The record: one entry in a volume's order of writes. One format for journal, wire and resync.
//!
//! ```text
//!  0 magic "FSR1"  4 version u16  6 kind u8  7 flags u8  8 volume u128  24 lineage uuid u128
//! 40 epoch n u64  48 epoch writer u128  64 seq u64  72 previous hash u128  88 offset u64  96 length u64
//! 104 session u128  120 tag u64  128 payload bytes u32  132 payload crc u32  136 reserved u32  140 header crc u32
//! 144 payload …
//! ```
//! All fields little-endian. Checksums are CRC-32/ISO-HDLC (crate crc32fast). The header's checksum covers
//! bytes 0..140; the payload's covers the plain payload.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::DecodeError;
use crate::ids::{BLOCK_BYTES, Epoch, Seq, SessionId, VolumeId};
use crate::mark::MARK_BYTES_MAX;

pub const RECORD_MAGIC: [u8; 4] = *b"FSR1";
pub const RECORD_VERSION: u16 = 1;
pub const RECORD_HEADER_BYTES: usize = 144;
/// The largest payload of one record. Devices split longer writes.
pub const RECORD_PAYLOAD_MAX: usize = 1 << 20;
/// The longest range that one discard or write-zeroes record covers.
pub const RECORD_RANGE_MAX: u64 = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Write = 1,
    /// The range reads zero afterwards and its space is freed.
    Discard = 2,
    /// The range reads zero afterwards; its space may stay allocated.
    WriteZeroes = 3,
    /// First record of an epoch; once acked, the epoch's log is irrevocable.
    EpochStart = 4,
    /// A place in the order at which a snapshot begins, ends or changes; the payload is a [`crate::mark::Mark`].
    SnapMark = 5,
    Noop = 6,
}

impl Kind {
    fn from_u8(v: u8) -> Option<Kind> {
        Some(match v {
            1 => Kind::Write,
            2 => Kind::Discard,
            3 => Kind::WriteZeroes,
            4 => Kind::EpochStart,
            5 => Kind::SnapMark,
            6 => Kind::Noop,
            _ => return None,
        })
    }
}

/// 128 bits of BLAKE3 over a record's header; each record names its predecessor's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct RecordHash(pub u128);

impl std::fmt::Debug for RecordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", (self.0 >> 96) as u32)
    }
}

/// Who asked for a write, so that a request issued again after a daemon's crash is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    pub session: SessionId,
    /// Queue in the upper 32 bits, tag in the lower.
    pub tag: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub volume: VolumeId,
    pub lineage: u128,
    pub epoch: Epoch,
    pub seq: Seq,
    pub prev_hash: RecordHash,
    pub kind: Kind,
    /// First byte of the range; a multiple of [`BLOCK_BYTES`].
    pub offset: u64,
    /// Length of the range in bytes; equals the payload's length for writes.
    pub length: u64,
    pub origin: Origin,
    pub payload: Bytes,
    /// CRC-32 of the payload, computed once at the primary and carried unchanged.
    pub payload_crc: u32,
}

impl Record {
    pub fn header(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut header = [0; RECORD_HEADER_BYTES];
        let (fields, checksum) = header.split_at_mut(RECORD_HEADER_BYTES - 4);
        let mut out = &mut *fields;
        out.put_slice(&RECORD_MAGIC);
        out.put_u16_le(RECORD_VERSION);
        out.put_u8(self.kind as u8);
        out.put_u8(0);
        out.put_u128_le(self.volume.0);
        out.put_u128_le(self.lineage);
        out.put_u64_le(self.epoch.n);
        out.put_u128_le(self.epoch.writer);
        out.put_u64_le(self.seq.0);
        out.put_u128_le(self.prev_hash.0);
        out.put_u64_le(self.offset);
        out.put_u64_le(self.length);
        out.put_u128_le(self.origin.session.0);
        out.put_u64_le(self.origin.tag);
        out.put_u32_le(self.payload.len() as u32);
        out.put_u32_le(self.payload_crc);
        out.put_u32_le(0);
        checksum.copy_from_slice(&crc32fast::hash(fields).to_le_bytes());
        header
    }

    /// Header and payload in one buffer.
    pub fn encode_into(&self, out: &mut BytesMut) {
        out.put_slice(&self.header());
        out.put_slice(&self.payload);
    }

    pub fn encoded_len(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload.len()
    }

    /// What the next record names as its predecessor. Covers the payload through its checksum.
    pub fn hash(&self) -> RecordHash {
        let digest = blake3::hash(&self.header());
        let mut low = [0; 16];
        low.copy_from_slice(&digest.as_bytes()[..16]);
        RecordHash(u128::from_le_bytes(low))
    }

    /// Takes one record off the front of `bytes`. Verifies both checksums and the shape of the range; the payload
    /// is a slice of `bytes`, not a copy.
    pub fn decode(bytes: &mut Bytes) -> Result<Record, DecodeError> {
        const WHAT: &str = "record";
        if bytes.len() < RECORD_HEADER_BYTES {
            return Err(DecodeError::Short { what: WHAT, needed: RECORD_HEADER_BYTES, left: bytes.len() });
        }
        let header = &bytes[..RECORD_HEADER_BYTES];
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let u128_at = |at: usize| u128::from_le_bytes(header[at..at + 16].try_into().expect("16 bytes"));
        if header[..4] != RECORD_MAGIC {
            return Err(DecodeError::Invalid { what: WHAT, reason: "no record magic" });
        }
        let computed = crc32fast::hash(&header[..140]);
        if computed != u32_at(140) {
            return Err(DecodeError::Checksum { what: "record header", found: u32_at(140), computed });
        }
        if u16_at(4) > RECORD_VERSION {
            return Err(DecodeError::Newer { what: WHAT, found: u16_at(4).into(), known: RECORD_VERSION.into() });
        }
        let kind =
            Kind::from_u8(header[6]).ok_or(DecodeError::Unknown { what: "record kind", found: header[6].into() })?;
        let payload_len = u32_at(128) as usize;
        if payload_len > RECORD_PAYLOAD_MAX {
            return Err(DecodeError::Limit {
                what: "record payload",
                found: payload_len as u64,
                limit: RECORD_PAYLOAD_MAX as u64,
            });
        }
        if bytes.len() < RECORD_HEADER_BYTES + payload_len {
            let needed = RECORD_HEADER_BYTES + payload_len;
            return Err(DecodeError::Short { what: "record payload", needed, left: bytes.len() });
        }
        let mut record = Record {
            volume: VolumeId(u128_at(8)),
            lineage: u128_at(24),
            epoch: Epoch { n: u64_at(40), writer: u128_at(48) },
            seq: Seq(u64_at(64)),
            prev_hash: RecordHash(u128_at(72)),
            kind,
            offset: u64_at(88),
            length: u64_at(96),
            origin: Origin { session: SessionId(u128_at(104)), tag: u64_at(120) },
            payload: Bytes::new(),
            payload_crc: u32_at(132),
        };
        record.payload = bytes.slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload_len);
        let computed = crc32fast::hash(&record.payload);
        if computed != record.payload_crc {
            return Err(DecodeError::Checksum { what: "record payload", found: record.payload_crc, computed });
        }
        record.check_shape()?;
        let _ = bytes.split_to(RECORD_HEADER_BYTES + payload_len);
        Ok(record)
    }

    fn check_shape(&self) -> Result<(), DecodeError> {
        const WHAT: &str = "record range";
        if self.kind == Kind::SnapMark {
            if self.payload.len() > MARK_BYTES_MAX {
                let (found, limit) = (self.payload.len() as u64, MARK_BYTES_MAX as u64);
                return Err(DecodeError::Limit { what: "snapshot mark", found, limit });
            }
            if (self.offset, self.length) != (0, 0) {
                return Err(DecodeError::Invalid { what: WHAT, reason: "a snapshot's mark has none" });
            }
        }
        let ranged = matches!(self.kind, Kind::Write | Kind::Discard | Kind::WriteZeroes);
        if !ranged {
            return Ok(());
        }
        if self.length == 0 || !self.offset.is_multiple_of(BLOCK_BYTES) || !self.length.is_multiple_of(BLOCK_BYTES) {
            return Err(DecodeError::Invalid { what: WHAT, reason: "not a whole number of 4 KiB blocks" });
        }
        if self.offset.checked_add(self.length).is_none() {
            return Err(DecodeError::Invalid { what: WHAT, reason: "wraps around" });
        }
        if self.kind == Kind::Write && self.length != self.payload.len() as u64 {
            return Err(DecodeError::Invalid { what: WHAT, reason: "a write's length differs from its payload's" });
        }
        if self.kind != Kind::Write && (self.length > RECORD_RANGE_MAX || !self.payload.is_empty()) {
            return Err(DecodeError::Invalid {
                what: WHAT,
                reason: "a zeroing record is too long or carries a payload",
            });
        }
        Ok(())
    }
}
