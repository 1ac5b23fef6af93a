//! What groups are filled with: the entries that others append, and the kinds that the journal adds of its own.
//!
//! A *moved* record is one copied forward, so that the old segment that held it can go.
//! A *recap* names what the previous group did, volume by volume, so that the loss of one group is exact: which volumes
//! it concerned, and which seqs. A *volume head* is a volume's state at the start of a segment.

use bytes::{BufMut, Bytes};

use crate::codec::{DecodeError, Reader};
use crate::ids::{Epoch, Seq, VolumeId};
use crate::journal::group::{ENTRY_FRAME_BYTES, GROUP_HEADER_BYTES};
use crate::record::{RECORD_HEADER_BYTES, Record, RecordHash};

/// The longest metadata blob of one volume.
pub const META_BYTES_MAX: usize = 256 << 10;

/// The last record of a volume's log: what the next one continues. A zero hash means that it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogEnd {
    pub seq: Seq,
    pub hash: RecordHash,
    pub epoch: Epoch,
}

/// One thing to make durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Continues its volume's log (or refills a damaged place in it).
    Record(Record),
    /// Hides the records after `after` that were appended before this.
    Truncate { volume: VolumeId, after: Seq },
    /// Replaces the volume's metadata, which is opaque here.
    Meta { volume: VolumeId, blob: Bytes },
    /// The volume and all it had are gone.
    Forget { volume: VolumeId },
    /// Hides every record appended before this; the log goes on after `end`. For a replica made whole by a full copy.
    Restart { volume: VolumeId, end: LogEnd },
}

impl Entry {
    pub fn volume(&self) -> VolumeId {
        match self {
            Entry::Record(record) => record.volume,
            Entry::Truncate { volume, .. }
            | Entry::Meta { volume, .. }
            | Entry::Forget { volume }
            | Entry::Restart { volume, .. } => *volume,
        }
    }

    /// Bytes that the entry takes in a group.
    pub fn encoded_len(&self) -> usize {
        ENTRY_FRAME_BYTES
            + match self {
                Entry::Record(record) => record.encoded_len(),
                Entry::Truncate { .. } => 24,
                Entry::Meta { blob, .. } => 16 + blob.len(),
                Entry::Forget { .. } => 16,
                Entry::Restart { .. } => 16 + LOG_END_BYTES,
            }
    }
}

/// What one group did to one volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecapItem {
    pub volume: VolumeId,
    pub forgotten: bool,
    /// The metadata was replaced.
    pub meta: bool,
    /// The first seq that the group wrote or hid; `None` if it left the log alone.
    pub from: Option<Seq>,
    /// The log's end afterwards.
    pub end: LogEnd,
}

/// A volume's state at the start of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeHead {
    pub volume: VolumeId,
    pub meta: Option<Bytes>,
    /// The record before the first retained one, and the last one; `None` before the first record ever.
    pub log: Option<(LogEnd, LogEnd)>,
}

/// Anything a group's body holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Entry(Entry),
    /// A copy of a record that lies in an older segment.
    Moved(Record),
    Recap(Vec<RecapItem>),
    Head(VolumeHead),
}

const KIND_RECORD: u8 = 1;
const KIND_TRUNCATE: u8 = 2;
const KIND_META: u8 = 3;
const KIND_FORGET: u8 = 4;
const KIND_RESTART: u8 = 5;
const KIND_RECAP: u8 = 6;
const KIND_HEAD: u8 = 7;
const KIND_MOVED: u8 = 8;
const LOG_END_BYTES: usize = 8 + 16 + 24;

fn put_end(out: &mut Vec<u8>, end: &LogEnd) {
    out.put_u64_le(end.seq.0);
    out.put_u128_le(end.hash.0);
    out.put_u64_le(end.epoch.n);
    out.put_u128_le(end.epoch.writer);
}

/// Far above every seq that a volume can reach; below it no sum of seqs overflows.
pub const SEQ_MAX: Seq = Seq(1 << 62);

fn get_seq(reader: &mut Reader) -> Result<Seq, DecodeError> {
    limit_seq(reader.seq()?)
}

fn limit_seq(seq: Seq) -> Result<Seq, DecodeError> {
    if seq > SEQ_MAX {
        return Err(DecodeError::Limit { what: "journal seq", found: seq.0, limit: SEQ_MAX.0 });
    }
    Ok(seq)
}

fn get_end(reader: &mut Reader) -> Result<LogEnd, DecodeError> {
    Ok(LogEnd { seq: get_seq(reader)?, hash: RecordHash(reader.u128()?), epoch: reader.epoch()? })
}

/// Adds an entry to a group. Returns where in the group its bytes begin.
pub fn put_entry(builder: &mut super::group::GroupBuilder, entry: &Entry) -> usize {
    match entry {
        Entry::Record(record) => put_record(builder, KIND_RECORD, record),
        Entry::Truncate { volume, after } => builder.entry(KIND_TRUNCATE, |out| {
            out.put_u128_le(volume.0);
            out.put_u64_le(after.0);
        }),
        Entry::Meta { volume, blob } => builder.entry(KIND_META, |out| {
            out.put_u128_le(volume.0);
            out.extend_from_slice(blob);
        }),
        Entry::Forget { volume } => builder.entry(KIND_FORGET, |out| out.put_u128_le(volume.0)),
        Entry::Restart { volume, end } => builder.entry(KIND_RESTART, |out| {
            out.put_u128_le(volume.0);
            put_end(out, end);
        }),
    }
}

fn put_record(builder: &mut super::group::GroupBuilder, kind: u8, record: &Record) -> usize {
    builder.entry(kind, |out| {
        out.extend_from_slice(&record.header());
        out.extend_from_slice(&record.payload);
    })
}

/// Adds a copy of a record that lies in an older segment. Returns where in the group its bytes begin.
pub fn put_moved(builder: &mut super::group::GroupBuilder, record: &Record) -> usize {
    put_record(builder, KIND_MOVED, record)
}

const RECAP_FORGOTTEN: u8 = 1;
const RECAP_META: u8 = 2;
const RECAP_FROM: u8 = 4;

pub fn put_recap(builder: &mut super::group::GroupBuilder, items: &[RecapItem]) {
    builder.entry(KIND_RECAP, |out| {
        for item in items {
            out.put_u128_le(item.volume.0);
            let flags = u8::from(item.forgotten) * RECAP_FORGOTTEN
                + u8::from(item.meta) * RECAP_META
                + u8::from(item.from.is_some()) * RECAP_FROM;
            out.put_u8(flags);
            out.put_u64_le(item.from.unwrap_or_default().0);
            put_end(out, &item.end);
        }
    });
}

/// Bytes of one recap item in a group.
pub const RECAP_ITEM_BYTES: usize = 16 + 1 + 8 + LOG_END_BYTES;

pub fn put_head(builder: &mut super::group::GroupBuilder, head: &VolumeHead) {
    builder.entry(KIND_HEAD, |out| {
        out.put_u128_le(head.volume.0);
        out.put_u8(u8::from(head.log.is_some()) + 2 * u8::from(head.meta.is_some()));
        let (base, last) = head.log.unwrap_or_default();
        put_end(out, &base);
        put_end(out, &last);
        out.extend_from_slice(head.meta.as_deref().unwrap_or_default());
    });
}

/// Bytes of a volume head in a group.
pub fn head_len(head: &VolumeHead) -> usize {
    ENTRY_FRAME_BYTES + 16 + 1 + 2 * LOG_END_BYTES + head.meta.as_ref().map_or(0, Bytes::len)
}

/// Decodes a group's body. With each item comes the offset of its bytes within the group.
pub fn decode_items(body: Bytes, count: u32) -> Result<Vec<(Item, usize)>, DecodeError> {
    let total = body.len();
    let mut reader = Reader::new("journal entry", body.clone());
    let mut left = total;
    let mut items = Vec::new();
    for _ in 0..count {
        let kind = reader.u8()?;
        reader.take(3)?;
        let len = reader.u32()? as usize;
        let bytes = reader.take(len)?;
        let at = total - left + ENTRY_FRAME_BYTES;
        left -= ENTRY_FRAME_BYTES + len;
        items.push((decode_item(kind, bytes)?, GROUP_HEADER_BYTES + at));
    }
    reader.end()?;
    Ok(items)
}

fn decode_item(kind: u8, mut bytes: Bytes) -> Result<Item, DecodeError> {
    const WHAT: &str = "journal entry";
    if kind == KIND_RECORD || kind == KIND_MOVED {
        let record = Record::decode(&mut bytes)?;
        if !bytes.is_empty() {
            return Err(DecodeError::Invalid { what: WHAT, reason: "bytes are left over after a record" });
        }
        if limit_seq(record.seq)? == Seq::ZERO {
            return Err(DecodeError::Invalid { what: WHAT, reason: "a record has no seq" });
        }
        return Ok(if kind == KIND_MOVED { Item::Moved(record) } else { Item::Entry(Entry::Record(record)) });
    }
    let mut reader = Reader::new(WHAT, bytes);
    if kind == KIND_RECAP {
        let mut items = Vec::new();
        while !reader.is_empty() {
            items.push(decode_recap_item(&mut reader)?);
        }
        return Ok(Item::Recap(items));
    }
    let volume = reader.volume()?;
    let entry = match kind {
        KIND_META => return Ok(Item::Entry(Entry::Meta { volume, blob: reader.rest() })),
        KIND_HEAD => return decode_head(volume, reader),
        KIND_TRUNCATE => Entry::Truncate { volume, after: get_seq(&mut reader)? },
        KIND_FORGET => Entry::Forget { volume },
        KIND_RESTART => Entry::Restart { volume, end: get_end(&mut reader)? },
        _ => return Err(reader.unknown(kind.into())),
    };
    reader.end()?;
    Ok(Item::Entry(entry))
}

fn decode_recap_item(reader: &mut Reader) -> Result<RecapItem, DecodeError> {
    let volume = reader.volume()?;
    let flags = reader.u8()?;
    if flags > RECAP_FORGOTTEN + RECAP_META + RECAP_FROM {
        return Err(reader.unknown(flags.into()));
    }
    let from = get_seq(reader)?;
    Ok(RecapItem {
        volume,
        forgotten: flags & RECAP_FORGOTTEN != 0,
        meta: flags & RECAP_META != 0,
        from: (flags & RECAP_FROM != 0).then_some(from),
        end: get_end(reader)?,
    })
}

fn decode_head(volume: VolumeId, mut reader: Reader) -> Result<Item, DecodeError> {
    let flags = reader.u8()?;
    if flags > 3 {
        return Err(reader.unknown(flags.into()));
    }
    let log = (get_end(&mut reader)?, get_end(&mut reader)?);
    let meta = reader.rest();
    Ok(Item::Head(VolumeHead { volume, meta: (flags & 2 != 0).then_some(meta), log: (flags & 1 != 0).then_some(log) }))
}

/// Whether a record's bytes begin at this place and it is the one that is expected there.
pub fn decode_record_at(bytes: &Bytes, volume: VolumeId, seq: Seq) -> Result<Record, DecodeError> {
    const WHAT: &str = "journal record";
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err(DecodeError::Short { what: WHAT, needed: RECORD_HEADER_BYTES, left: bytes.len() });
    }
    let record = Record::decode(&mut bytes.clone())?;
    if record.volume != volume || record.seq != seq {
        return Err(DecodeError::Invalid { what: WHAT, reason: "another record lies at its place" });
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::group::{BodySum, GroupBuilder, GroupHeader};
    use crate::record::{Kind, Origin};

    fn samples() -> Vec<Item> {
        let end = LogEnd { seq: Seq(9), hash: RecordHash(5), epoch: Epoch { n: 2, writer: 3 } };
        let payload = Bytes::from(vec![7; 4096]);
        let record = Record {
            volume: VolumeId(1),
            lineage: 2,
            epoch: Epoch { n: 2, writer: 3 },
            seq: Seq(10),
            prev_hash: RecordHash(5),
            kind: Kind::Write,
            offset: 8192,
            length: 4096,
            origin: Origin::default(),
            payload_crc: crc32fast::hash(&payload),
            payload,
        };
        let item = RecapItem { volume: VolumeId(1), forgotten: false, meta: true, from: Some(Seq(3)), end };
        vec![
            Item::Recap(vec![item, RecapItem { forgotten: true, from: None, ..item }]),
            Item::Entry(Entry::Record(record.clone())),
            Item::Moved(record),
            Item::Entry(Entry::Truncate { volume: VolumeId(1), after: Seq(4) }),
            Item::Entry(Entry::Meta { volume: VolumeId(2), blob: Bytes::from_static(b"meta") }),
            Item::Entry(Entry::Forget { volume: VolumeId(3) }),
            Item::Entry(Entry::Restart { volume: VolumeId(3), end }),
            Item::Head(VolumeHead { volume: VolumeId(4), meta: Some(Bytes::from_static(b"m")), log: Some((end, end)) }),
            Item::Head(VolumeHead { volume: VolumeId(5), meta: None, log: None }),
        ]
    }

    fn encode(items: &[Item]) -> (Bytes, u32) {
        let mut builder = GroupBuilder::new(Vec::new());
        for item in items {
            let before = builder.body_bytes();
            match item {
                Item::Entry(entry) => {
                    put_entry(&mut builder, entry);
                    assert_eq!(builder.body_bytes() - before, entry.encoded_len());
                }
                Item::Moved(record) => {
                    put_moved(&mut builder, record);
                }
                Item::Recap(items) => put_recap(&mut builder, items),
                Item::Head(head) => {
                    put_head(&mut builder, head);
                    assert_eq!(builder.body_bytes() - before, head_len(head));
                }
            }
        }
        let header = GroupHeader {
            journal: 1,
            generation: 1,
            offset: 0,
            segment: 0,
            entries: 0,
            body_bytes: 0,
            body_sum: BodySum::NONE,
            index: 1,
            oldest: 1,
            prev_crc: 0,
            flags: 0,
        };
        let (header, out) = builder.finish(header);
        (header.body(&Bytes::from(out)).unwrap(), header.entries)
    }

    #[test]
    fn every_kind_of_item_survives_the_trip() {
        let items = samples();
        let (body, count) = encode(&items);
        let read = decode_items(body.clone(), count).unwrap();
        assert_eq!(read.iter().map(|(item, _)| item.clone()).collect::<Vec<_>>(), items);
        let (Item::Entry(Entry::Record(record)), at) = &read[1] else { panic!("a record is second") };
        let bytes = body.slice(at - GROUP_HEADER_BYTES..);
        assert_eq!(&decode_record_at(&bytes, record.volume, record.seq).unwrap(), record);
        assert!(decode_record_at(&bytes, record.volume, record.seq.next()).is_err());
    }

    /// The bytes of format version 1. A change that this test notices needs a new version.
    #[test]
    fn version_1_stays_as_it_is() {
        let (body, count) = encode(&samples());
        assert_eq!((body.len(), count), (9049, 9));
        let header = GroupHeader {
            journal: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
            generation: 0x1112,
            offset: 0x2000,
            segment: 0x13,
            entries: count,
            body_bytes: body.len() as u32,
            body_sum: BodySum::Crc32(crc32fast::hash(&body)),
            index: 0x1415,
            oldest: 0x1110,
            prev_crc: 0x1617_1819,
            flags: 1,
        };
        let hex: String = header.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN_HEADER);
    }

    const GOLDEN_HEADER: &str = concat!(
        "46534a4701000100100f0e0d0c0b0a090807060504030201121100000000000000200000000000001300000009000000",
        "592300006b1d466c1514000000000000101100000000000019181716000000000000000000000000000000000000000000000000",
        "000000000000000000000000000000000000000000000000a75341dc"
    );

    #[test]
    fn no_bytes_panic_the_decoder() {
        let (body, count) = encode(&samples());
        for len in 0..body.len() {
            assert!(decode_items(body.slice(..len), count).is_err(), "cut at {len}");
        }
        for at in 0..body.len().min(1200) {
            for bit in 0..8 {
                let mut bad = body.to_vec();
                bad[at] ^= 1 << bit;
                let _ = decode_items(Bytes::from(bad), count);
            }
        }
    }
}
