//! Rows and keys of the index, superblock and slab header.

use farshore_core::ids::{Seq, VolumeId};
use farshore_core::mark::{GroupId, SnapshotId};

use super::catalogue_row::{SnapshotRow, SnapshotState};
use super::extent::{Entry, Place, Version, View};
use super::index_rows::{
    Cursor, PinRow, PositionRow, Row, StageRow, VALUE_VERSION, VolumeRow, change_key, decode_change_key, decode_entry,
    decode_extent_key, encode_entry, extent_key,
};
use super::link_row::LinkRow;
use super::superblock::{NodeIdentity, Superblock, decode_slab_header, encode_slab_header};
use crate::seal::{seal_at, sealed};

/// First byte: how long the key is.
pub fn index(data: &[u8]) {
    let Some((&key_bytes, rest)) = data.split_first() else { return };
    let (key, value) = rest.split_at(rest.len().min(key_bytes.into()));
    let versioned = |version: u8| sealed(&[&[version], value].concat());
    for value in [value, &sealed(value), &versioned(1), &versioned(VALUE_VERSION)] {
        if let Ok(row) = Row::decode(key, value) {
            assert_eq!(Row::decode(&row.key(), &row.encode()), Ok(row));
        }
        if let Ok(entry) = decode_entry(value) {
            assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry));
        }
    }
    if let Ok((volume, extent, version)) = decode_extent_key(key) {
        assert_eq!(extent_key(volume, extent, version), key);
    }
    if let Ok((volume, at, image)) = decode_change_key(key) {
        assert_eq!(change_key(volume, at, image), key);
    }
}

/// Values without version and checksum: the target adds them.
pub fn index_seeds() -> Vec<Vec<u8>> {
    let volume = VolumeId(7);
    let view = View { barrier: 1, at: Version { image: 2, seq: Seq(3) } };
    let cursor = Cursor { seq: Seq(8), extent: 9 };
    let stage = StageRow {
        ship_id: 5,
        base: Some(Seq(6)),
        target: Seq(7),
        image: 3,
        cursor,
        basis: Some(view),
        catalogue: false,
    };
    let text = |text: &str| text.to_string();
    let snapshot = SnapshotRow {
        id: SnapshotId(0x41),
        group: Some(GroupId(0x42)),
        name: text("nightly"),
        labels: [(text("app"), text("db"))].into(),
        holds: [text("export")].into(),
        created_unix_ms: -2,
        seq: Seq(0x31),
        size_bytes: 1 << 20,
        state: SnapshotState::Ready,
    };
    let rows = [
        Row::Volume(volume, VolumeRow { size_bytes: 1 << 20, removing: false }),
        Row::Position(volume, PositionRow { view, floor: Seq(9) }),
        Row::Pin(volume, "nightly".into(), PinRow { view, size_bytes: 4096 }),
        Row::Stage(volume, stage),
        Row::Snapshot(volume, snapshot.clone()),
        Row::Link(volume, LinkRow { parent: VolumeId(0x51), view, start: Seq(4), flattened: 5 }),
        Row::Staged(volume, SnapshotRow { group: None, state: SnapshotState::Missing, ..snapshot }),
    ];
    let seed = |key: &[u8], value: &[u8]| [&[key.len() as u8], key, &value[1..value.len() - 4]].concat();
    let mut seeds: Vec<Vec<u8>> = rows.iter().map(|row| seed(&row.key(), &row.encode())).collect();
    let mut entry = Entry { place: Place(0x1122), ..Entry::EMPTY };
    entry.set_data(3, 0xaabb_ccdd, Seq(0x77));
    seeds.push(seed(&extent_key(volume, 3, view.at), &encode_entry(&entry)));
    seeds.push(seed(&change_key(volume, cursor, 2), &encode_entry(&entry)));
    seeds
}

pub fn superblocks(data: &[u8]) {
    let _ = Superblock::decode(data);
    let _ = decode_slab_header(data);
    if let Ok(found) = Superblock::decode(&sealed(data)) {
        assert_eq!(Superblock::decode(&found.encode()), Ok(found));
    }
    let mut block = data.to_vec();
    block.resize(4096, 0);
    seal_at(&mut block, 4092);
    if let Ok(store) = decode_slab_header(&block) {
        assert_eq!(decode_slab_header(&encode_slab_header(store)), Ok(store));
    }
}

/// Without checksums, and the slab's header without its zeroes.
pub fn superblock_seeds() -> Vec<Vec<u8>> {
    let bytes = Superblock { store: 0x11, node: NodeIdentity { name: "us-east/n1".into(), uuid: 0x22 } }.encode();
    vec![bytes[..bytes.len() - 4].to_vec(), encode_slab_header(0x33)[..64].to_vec()]
}
