//! The index's keys and values, byte by byte. Keys are big-endian so that their order is the order of what they name;
//! values are little-endian, begin with a format version and end with a CRC-32 of all before it.
//!
//! ```text
//! extents   volume u128 | extent u64 | !image u32 | !seq u64   →  1 | data u16 | place u64 | 16 × (crc u32, change u64)
//!                                                              2 | the same: the place is an ancestor's
//! changes   volume u128 | seq u64 | extent u64 | image u32     →  (empty)
//! rows      'V' volume u128                                    →  1 | size u64 | removing u8
//!           'C' volume u128                                    →  1 | barrier u32 | image u32 | seq u64 | floor u64
//!           'P' volume u128 | name                             →  1 | barrier u32 | image u32 | seq u64 | size u64
//!           'S' volume u128                                    →  1 | ship u128 | base (u8, u64) | target u64 |
//!                                                                 image u32 | cursor seq u64 | cursor extent u64 |
//!                                                                 basis (u8, barrier u32 | image u32 | seq u64)
//!                                                                 in version 2 (the source's snapshots came): the same
//!           'N' volume u128 | snapshot u128                    →  2 | missing u8 | seq u64 | group u128 |
//!                                                                 created i64 | size u64 | name | labels | holds
//!           'T' volume u128 | snapshot u128                    →  the same, of the shipment being received
//!           'L' volume u128                                    →  2 | parent u128 | barrier u32 | image u32 | seq u64 |
//!                                                                 start u64 | flattened u64
//! ```
//! `!` is the complement: the newest version of an extent comes first.

use bytes::Bytes;
use farshore_core::codec::{DecodeError, Reader, Writer};
use farshore_core::ids::{Seq, VolumeId};
use farshore_core::mark::SnapshotId;

use super::catalogue_row::SnapshotRow;
use super::extent::{BLOCKS_PER_EXTENT, Entry, Place, Version, View};
use super::link_row::LinkRow;

/// The newest format of a value. What says no more than it could in the first one is written in that.
pub(super) const VALUE_VERSION: u8 = 2;
const FIRST: u8 = 1;
pub(super) const EXTENT_KEY_BYTES: usize = 36;
pub(super) const CHANGE_KEY_BYTES: usize = 36;
/// Of an entry, without version and checksum.
const ENTRY_HEAD_BYTES: usize = 2 + 8;
const ENTRY_BLOCK_BYTES: usize = 4 + 8;
const ENTRY_BYTES: usize = ENTRY_HEAD_BYTES + BLOCKS_PER_EXTENT * ENTRY_BLOCK_BYTES;

/// Where a page of a listing, or a shipment, goes on. Ordered as the listing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Cursor {
    pub seq: Seq,
    pub extent: u64,
}

/// A volume's lasting properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VolumeRow {
    pub size_bytes: u64,
    /// Deleted, but its extents are not all freed yet.
    pub removing: bool,
}

/// How far a volume's contents have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PositionRow {
    pub view: View,
    /// What changed at or below this seq is not known here.
    pub floor: Seq,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PinRow {
    pub view: View,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StageRow {
    pub ship_id: u128,
    pub base: Option<Seq>,
    pub target: Seq,
    pub image: u32,
    pub cursor: Cursor,
    /// Where blocks that are not shipped come from, if not from the visible image.
    pub basis: Option<View>,
    /// The source's snapshots came along, if there are any.
    pub catalogue: bool,
}

/// One row of the `rows` column, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Row {
    Volume(VolumeId, VolumeRow),
    Position(VolumeId, PositionRow),
    Pin(VolumeId, String, PinRow),
    Stage(VolumeId, StageRow),
    Snapshot(VolumeId, SnapshotRow),
    /// Of the shipment being received.
    Staged(VolumeId, SnapshotRow),
    /// Of a clone, to its parent.
    Link(VolumeId, LinkRow),
}

pub(super) fn extent_key(volume: VolumeId, extent: u64, version: Version) -> [u8; EXTENT_KEY_BYTES] {
    let mut key = [0; EXTENT_KEY_BYTES];
    key[..16].copy_from_slice(&volume.0.to_be_bytes());
    key[16..24].copy_from_slice(&extent.to_be_bytes());
    key[24..28].copy_from_slice(&(!version.image).to_be_bytes());
    key[28..].copy_from_slice(&(!version.seq.0).to_be_bytes());
    key
}

/// The first key of an extent, or of all extents from it on.
pub(super) fn extent_prefix(volume: VolumeId, extent: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&volume.0.to_be_bytes());
    key[16..].copy_from_slice(&extent.to_be_bytes());
    key
}

pub(super) fn decode_extent_key(key: &[u8]) -> Result<(VolumeId, u64, Version), DecodeError> {
    let mut fields = KeyFields::new("extent key", key, EXTENT_KEY_BYTES)?;
    let volume = VolumeId(u128::from_be_bytes(fields.take()));
    let extent = u64::from_be_bytes(fields.take());
    let image = !u32::from_be_bytes(fields.take());
    let seq = Seq(!u64::from_be_bytes(fields.take()));
    Ok((volume, extent, Version { image, seq }))
}

pub(super) fn change_key(volume: VolumeId, at: Cursor, image: u32) -> [u8; CHANGE_KEY_BYTES] {
    let mut key = [0; CHANGE_KEY_BYTES];
    key[..16].copy_from_slice(&volume.0.to_be_bytes());
    key[16..24].copy_from_slice(&at.seq.0.to_be_bytes());
    key[24..32].copy_from_slice(&at.extent.to_be_bytes());
    key[32..].copy_from_slice(&image.to_be_bytes());
    key
}

pub(super) fn decode_change_key(key: &[u8]) -> Result<(VolumeId, Cursor, u32), DecodeError> {
    let mut fields = KeyFields::new("change key", key, CHANGE_KEY_BYTES)?;
    let volume = VolumeId(u128::from_be_bytes(fields.take()));
    let seq = Seq(u64::from_be_bytes(fields.take()));
    let extent = u64::from_be_bytes(fields.take());
    Ok((volume, Cursor { seq, extent }, u32::from_be_bytes(fields.take())))
}

struct KeyFields<'a>(&'a [u8]);

impl<'a> KeyFields<'a> {
    fn new(what: &'static str, key: &'a [u8], needed: usize) -> Result<Self, DecodeError> {
        if key.len() != needed {
            return Err(DecodeError::Short { what, needed, left: key.len() });
        }
        Ok(Self(key))
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk::<N>().expect("the key's length was checked");
        self.0 = rest;
        *head
    }
}

fn value(version: u8, put: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u8(version);
    put(&mut writer);
    let crc = crc32fast::hash(&writer.out);
    writer.u32(crc);
    writer.out.to_vec()
}

/// Checks version and checksum; what is left are the fields.
fn fields(what: &'static str, value: &[u8]) -> Result<(u8, Reader), DecodeError> {
    let (version, body) = checked(what, value)?;
    Ok((version, Reader::new(what, Bytes::copy_from_slice(body))))
}

fn checked<'v>(what: &'static str, value: &'v [u8]) -> Result<(u8, &'v [u8]), DecodeError> {
    let Some((body, crc)) = value.split_last_chunk::<4>() else {
        return Err(DecodeError::Short { what, needed: 5, left: value.len() });
    };
    let Some((&version, fields)) = body.split_first() else {
        return Err(DecodeError::Short { what, needed: 5, left: value.len() });
    };
    if version > VALUE_VERSION {
        return Err(DecodeError::Newer { what, found: version.into(), known: VALUE_VERSION.into() });
    }
    let (found, computed) = (u32::from_le_bytes(*crc), crc32fast::hash(body));
    if found != computed {
        return Err(DecodeError::Checksum { what, found, computed });
    }
    Ok((version, fields))
}

fn check_version(what: &'static str, found: u8, known: u8) -> Result<(), DecodeError> {
    if found > known {
        return Err(DecodeError::Newer { what, found: found.into(), known: known.into() });
    }
    Ok(())
}

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let version = if entry.borrowed { VALUE_VERSION } else { FIRST };
    value(version, |out| {
        out.u16(entry.data);
        out.u64(entry.place.0);
        for block in 0..BLOCKS_PER_EXTENT {
            out.u32(entry.crc[block]);
            out.seq(entry.change[block]);
        }
    })
}

/// Without a copy: whoever lists a volume decodes one for each extent.
pub(super) fn decode_entry(value: &[u8]) -> Result<Entry, DecodeError> {
    const WHAT: &str = "extent entry";
    let (version, fields) = checked(WHAT, value)?;
    let borrowed = version > FIRST;
    let fields: &[u8; ENTRY_BYTES] = fields.try_into().map_err(|_| match fields.len() < ENTRY_BYTES {
        true => DecodeError::Short { what: WHAT, needed: ENTRY_BYTES, left: fields.len() },
        false => DecodeError::Invalid { what: WHAT, reason: "bytes are left over at the end" },
    })?;
    let [d0, d1, p0, p1, p2, p3, p4, p5, p6, p7, blocks @ ..] = fields;
    let place = [p0, p1, p2, p3, p4, p5, p6, p7].map(|byte| *byte);
    let mut entry = Entry {
        data: u16::from_le_bytes([*d0, *d1]),
        place: Place(u64::from_le_bytes(place)),
        borrowed,
        ..Entry::EMPTY
    };
    for (at, block) in blocks.as_chunks::<ENTRY_BLOCK_BYTES>().0.iter().enumerate() {
        let [c0, c1, c2, c3, change @ ..] = *block;
        entry.crc[at] = u32::from_le_bytes([c0, c1, c2, c3]);
        entry.change[at] = Seq(u64::from_le_bytes(change));
    }
    if entry.place.is_some() != (entry.data != 0) || (borrowed && entry.data == 0) {
        return Err(DecodeError::Invalid { what: WHAT, reason: "has data without a place, or a place without data" });
    }
    Ok(entry)
}

fn put_view(out: &mut Writer, view: &View) {
    out.u32(view.barrier);
    out.u32(view.at.image);
    out.seq(view.at.seq);
}

fn take_view(fields: &mut Reader) -> Result<View, DecodeError> {
    Ok(View { barrier: fields.u32()?, at: Version { image: fields.u32()?, seq: fields.seq()? } })
}

fn row_key(tag: u8, volume: VolumeId, name: &str) -> Vec<u8> {
    let mut key = vec![tag];
    key.extend_from_slice(&volume.0.to_be_bytes());
    key.extend_from_slice(name.as_bytes());
    key
}

pub(super) fn volume_key(volume: VolumeId) -> Vec<u8> {
    row_key(b'V', volume, "")
}

pub(super) fn position_key(volume: VolumeId) -> Vec<u8> {
    row_key(b'C', volume, "")
}

pub(super) fn pin_key(volume: VolumeId, name: &str) -> Vec<u8> {
    row_key(b'P', volume, name)
}

pub(super) fn stage_key(volume: VolumeId) -> Vec<u8> {
    row_key(b'S', volume, "")
}

pub(super) fn link_key(volume: VolumeId) -> Vec<u8> {
    row_key(b'L', volume, "")
}

pub(super) fn snapshot_key(volume: VolumeId, snapshot: SnapshotId) -> Vec<u8> {
    [&row_key(b'N', volume, "")[..], &snapshot.0.to_be_bytes()].concat()
}

pub(super) fn staged_key(volume: VolumeId, snapshot: SnapshotId) -> Vec<u8> {
    [&row_key(b'T', volume, "")[..], &snapshot.0.to_be_bytes()].concat()
}

impl Row {
    pub fn key(&self) -> Vec<u8> {
        match self {
            Row::Volume(volume, _) => volume_key(*volume),
            Row::Position(volume, _) => position_key(*volume),
            Row::Pin(volume, name, _) => pin_key(*volume, name),
            Row::Stage(volume, _) => stage_key(*volume),
            Row::Snapshot(volume, row) => snapshot_key(*volume, row.id),
            Row::Staged(volume, row) => staged_key(*volume, row.id),
            Row::Link(volume, _) => link_key(*volume),
        }
    }

    fn version(&self) -> u8 {
        match self {
            Row::Volume(..) | Row::Position(..) | Row::Pin(..) => FIRST,
            Row::Stage(_, stage) if !stage.catalogue => FIRST,
            Row::Stage(..) | Row::Snapshot(..) | Row::Staged(..) | Row::Link(..) => VALUE_VERSION,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        value(self.version(), |out| match self {
            Row::Volume(_, row) => {
                out.u64(row.size_bytes);
                out.bool(row.removing);
            }
            Row::Position(_, row) => {
                put_view(out, &row.view);
                out.seq(row.floor);
            }
            Row::Pin(_, _, row) => {
                put_view(out, &row.view);
                out.u64(row.size_bytes);
            }
            Row::Stage(_, row) => {
                out.u128(row.ship_id);
                out.bool(row.base.is_some());
                out.seq(row.base.unwrap_or_default());
                out.seq(row.target);
                out.u32(row.image);
                out.seq(row.cursor.seq);
                out.u64(row.cursor.extent);
                out.option(row.basis, |out, basis| put_view(out, &basis));
            }
            Row::Snapshot(_, row) | Row::Staged(_, row) => row.put(out),
            Row::Link(_, row) => row.put(out, put_view),
        })
    }

    pub fn decode(key: &[u8], value: &[u8]) -> Result<Row, DecodeError> {
        const WHAT: &str = "index row";
        let Some((head, name)) = key.split_first_chunk::<17>() else {
            return Err(DecodeError::Short { what: WHAT, needed: 17, left: key.len() });
        };
        let (tag, volume) = head.split_first().expect("17 bytes");
        let volume = VolumeId(u128::from_be_bytes(volume.try_into().expect("16 bytes")));
        let (version, mut fields) = fields(WHAT, value)?;
        if let b'V' | b'C' | b'P' = tag {
            check_version(WHAT, version, FIRST)?;
        }
        let row = match tag {
            b'V' => Row::Volume(volume, VolumeRow { size_bytes: fields.u64()?, removing: fields.bool()? }),
            b'C' => Row::Position(volume, PositionRow { view: take_view(&mut fields)?, floor: fields.seq()? }),
            b'P' => {
                let name = String::from_utf8(name.to_vec())
                    .map_err(|_| DecodeError::Invalid { what: WHAT, reason: "a pin's name is not UTF-8" })?;
                Row::Pin(volume, name, PinRow { view: take_view(&mut fields)?, size_bytes: fields.u64()? })
            }
            b'S' => Row::Stage(volume, Self::decode_stage(&mut fields, version > FIRST)?),
            b'L' => Row::Link(volume, LinkRow::take(&mut fields, take_view)?),
            b'N' | b'T' => {
                let id = name.try_into().map_err(|_| DecodeError::Short { what: WHAT, needed: 33, left: key.len() })?;
                let row = SnapshotRow::take(SnapshotId(u128::from_be_bytes(id)), &mut fields)?;
                if *tag == b'N' { Row::Snapshot(volume, row) } else { Row::Staged(volume, row) }
            }
            found => return Err(DecodeError::Unknown { what: WHAT, found: (*found).into() }),
        };
        fields.end()?;
        Ok(row)
    }

    fn decode_stage(fields: &mut Reader, catalogue: bool) -> Result<StageRow, DecodeError> {
        let ship_id = fields.u128()?;
        let (has_base, base) = (fields.bool()?, fields.seq()?);
        Ok(StageRow {
            ship_id,
            base: has_base.then_some(base),
            target: fields.seq()?,
            image: fields.u32()?,
            cursor: Cursor { seq: fields.seq()?, extent: fields.u64()? },
            basis: fields.option(take_view)?,
            catalogue,
        })
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::mark::GroupId;

    use super::super::catalogue_row::SnapshotState;
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn samples() -> Vec<Row> {
        let volume = VolumeId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        let view = View { barrier: 1, at: Version { image: 2, seq: Seq(3) } };
        vec![
            Row::Volume(volume, VolumeRow { size_bytes: 1 << 20, removing: false }),
            Row::Position(volume, PositionRow { view, floor: Seq(9) }),
            Row::Pin(volume, "nightly".into(), PinRow { view, size_bytes: 4096 }),
            Row::Stage(
                volume,
                StageRow {
                    ship_id: 5,
                    base: Some(Seq(6)),
                    target: Seq(7),
                    image: 3,
                    cursor: Cursor { seq: Seq(8), extent: 9 },
                    basis: Some(view),
                    catalogue: false,
                },
            ),
        ]
    }

    fn samples_v2() -> Vec<Row> {
        let volume = VolumeId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        let Some(Row::Stage(_, stage)) = samples().pop() else { unreachable!() };
        let ready = SnapshotRow {
            id: SnapshotId(0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20),
            group: Some(GroupId(0x21)),
            name: "nightly".into(),
            labels: [("app".to_string(), "db".to_string()), ("tier".to_string(), String::new())].into(),
            holds: ["export".to_string()].into(),
            created_unix_ms: -2,
            seq: Seq(0x31),
            size_bytes: 1 << 20,
            state: SnapshotState::Ready,
        };
        let missing = SnapshotRow { state: SnapshotState::Missing, group: None, ..ready.clone() };
        vec![
            Row::Stage(volume, StageRow { catalogue: true, ..stage }),
            Row::Snapshot(volume, ready),
            Row::Staged(volume, missing),
            Row::Link(
                volume,
                LinkRow {
                    parent: VolumeId(0x51),
                    view: View { barrier: 1, at: Version { image: 2, seq: Seq(3) } },
                    start: Seq(4),
                    flattened: 5,
                },
            ),
        ]
    }

    #[test]
    fn rows_come_back_as_they_were() {
        for row in samples().into_iter().chain(samples_v2()) {
            assert_eq!(Row::decode(&row.key(), &row.encode()), Ok(row));
        }
    }

    /// Golden bytes: if this fails, the format changed and needs a new version and an upgrade.
    #[test]
    fn golden_rows() {
        let lines = |rows: Vec<Row>| -> Vec<String> {
            rows.iter().map(|row| hex(&row.key()) + ":" + &hex(&row.encode())).collect()
        };
        let golden = include_str!("golden/index_rows_v1.txt");
        assert_eq!(lines(samples()), golden.lines().collect::<Vec<_>>());
        let golden = include_str!("golden/index_rows_v2.txt");
        assert_eq!(lines(samples_v2()), golden.lines().collect::<Vec<_>>());
    }

    #[test]
    fn golden_entry() {
        let mut entry = Entry { place: Place(0x1122), ..Entry::EMPTY };
        entry.set_data(0, 0xaabb_ccdd, Seq(0x77));
        entry.set_data(15, 1, Seq(2));
        let bytes = encode_entry(&entry);
        assert_eq!(decode_entry(&bytes), Ok(entry));
        assert_eq!(hex(&bytes), include_str!("golden/extent_entry_v1.txt").trim());
        let borrowed = Entry { borrowed: true, ..entry };
        let bytes = encode_entry(&borrowed);
        assert_eq!(decode_entry(&bytes), Ok(borrowed));
        assert_eq!(hex(&bytes), include_str!("golden/extent_entry_v2.txt").trim());
    }

    #[test]
    fn keys_sort_newest_first_and_come_back() {
        let volume = VolumeId(7);
        let key = |extent, image, seq| extent_key(volume, extent, Version { image, seq: Seq(seq) });
        assert!(key(1, 2, 5) < key(1, 2, 4));
        assert!(key(1, 2, 5) < key(1, 1, 9));
        assert!(key(1, 0, 0) < key(2, u32::MAX, u64::MAX));
        assert_eq!(decode_extent_key(&key(3, 2, 5)), Ok((volume, 3, Version { image: 2, seq: Seq(5) })));
        let at = Cursor { seq: Seq(4), extent: 8 };
        assert_eq!(decode_change_key(&change_key(volume, at, 6)), Ok((volume, at, 6)));
    }

    #[test]
    fn golden_keys() {
        let volume = VolumeId(7);
        let extent = extent_key(volume, 3, Version { image: 2, seq: Seq(5) });
        assert_eq!(hex(&extent), "000000000000000000000000000000070000000000000003fffffffdfffffffffffffffa");
        let change = change_key(volume, Cursor { seq: Seq(4), extent: 8 }, 6);
        assert_eq!(hex(&change), "000000000000000000000000000000070000000000000004000000000000000800000006");
    }

    #[test]
    fn damaged_and_newer_values_are_refused() {
        for row in samples().iter().chain(&samples_v2()) {
            damaged_and_newer_are_refused(row);
        }
        assert!(Row::decode(b"V", &samples()[0].encode()).is_err());
        assert!(Row::decode(&[b'N'; 20], &samples_v2()[1].encode()).is_err());
        assert!(decode_extent_key(&[0; 35]).is_err());
    }

    fn damaged_and_newer_are_refused(row: &Row) {
        let good = row.encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(Row::decode(&row.key(), &bad).is_err(), "byte {at}");
        }
        for len in 0..good.len() {
            assert!(Row::decode(&row.key(), &good[..len]).is_err(), "length {len}");
        }
        let mut newer = good.clone();
        newer[0] = VALUE_VERSION + 1;
        assert!(matches!(Row::decode(&row.key(), &newer), Err(DecodeError::Newer { .. })));
    }
}
