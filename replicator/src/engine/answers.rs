//! What calls between nodes are answered with, byte by byte.

use bytes::Bytes;
use farshore_core::codec::{DecodeError, Reader, Writer};
use farshore_core::durable::{get_history, put_history};
use farshore_core::history::History;
use farshore_core::ids::{Incarnation, LineageId, MemberId, Seq};
use farshore_core::mark::SnapshotId;

use super::rpc::{get_cursor, put_cursor};
use crate::store::{ChangedExtent, ChangedPage, Cursor, EXTENT_BYTES, SnapshotRow};

/// Answer to [`Call::ShipBasis`](super::rpc::Call::ShipBasis): the copy's name, its history and its end.
pub type Basis = (String, History, Seq);

pub fn encode_basis(basis: Option<&Basis>) -> Bytes {
    let mut w = Writer::default();
    w.option(basis, |w, (name, history, end)| {
        w.string(name);
        put_history(w, history);
        w.seq(*end);
    });
    w.finish()
}

pub fn decode_basis(bytes: Bytes) -> Result<Option<Basis>, DecodeError> {
    let mut r = Reader::new("answer to a shipment", bytes);
    let basis = r.option(|r| Ok((r.string()?, get_history(r)?, r.seq()?)))?;
    r.end()?;
    Ok(basis)
}

/// Answer to [`Call::ShipBegin`](super::rpc::Call::ShipBegin): all before the cursor is staged already.
pub fn encode_staged(cursor: Cursor) -> Bytes {
    let mut w = Writer::default();
    put_cursor(&mut w, &cursor);
    w.finish()
}

/// `None`: of a version that does not keep track of it.
pub fn decode_staged(bytes: Bytes) -> Result<Option<Cursor>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut r = Reader::new("answer to a shipment", bytes);
    let cursor = get_cursor(&mut r)?;
    r.end()?;
    Ok(Some(cursor))
}

/// What of a shipment is there: all before the cursor, and beyond it what lies between the cursors of each pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrived {
    pub upto: Cursor,
    pub beyond: Vec<(Cursor, Cursor)>,
}

/// Answer to a [`Call::ShipBegin`](super::rpc::Call::ShipBegin) whose pages will be packed.
pub fn encode_arrived(arrived: &Arrived) -> Bytes {
    let mut w = Writer::default();
    put_cursor(&mut w, &arrived.upto);
    w.list(&arrived.beyond, |w, (from, after)| {
        put_cursor(w, from);
        put_cursor(w, after);
    });
    w.finish()
}

pub fn decode_arrived(bytes: Bytes) -> Result<Arrived, DecodeError> {
    let mut r = Reader::new("answer to a shipment", bytes);
    let upto = get_cursor(&mut r)?;
    let beyond = r.list(|r| Ok((get_cursor(r)?, get_cursor(r)?)))?;
    r.end()?;
    Ok(Arrived { upto, beyond })
}

/// Answer to [`Call::ShipOffer`](super::rpc::Call::ShipOffer): for each block, is it there?
pub fn encode_same(same: &[bool]) -> Bytes {
    let mut w = Writer::default();
    w.list(same, |w, same| w.bool(*same));
    w.finish()
}

pub fn decode_same(bytes: Bytes) -> Result<Vec<bool>, DecodeError> {
    let mut r = Reader::new("answer to an offer of blocks", bytes);
    let same = r.list(Reader::bool)?;
    r.end()?;
    Ok(same)
}

/// Answer to [`Call::ShipBasisChanges`](super::rpc::Call::ShipBasisChanges).
pub fn encode_changes(page: &ChangedPage) -> Bytes {
    let mut w = Writer::default();
    w.seq(page.seq);
    w.list(&page.extents, |w, found| {
        w.u64(found.extent);
        w.u16(found.changed);
        w.u16(found.holes);
    });
    w.option(page.next.as_ref(), put_cursor);
    w.finish()
}

/// One whose bytes can be counted: who asked reckons with their offsets.
fn get_extent(r: &mut Reader) -> Result<u64, DecodeError> {
    const LIMIT: u64 = u64::MAX / EXTENT_BYTES - 1;
    match r.u64()? {
        found if found > LIMIT => Err(DecodeError::Limit { what: "extent", found, limit: LIMIT }),
        extent => Ok(extent),
    }
}

pub fn decode_changes(bytes: Bytes) -> Result<ChangedPage, DecodeError> {
    let mut r = Reader::new("answer to a shipment", bytes);
    let page = ChangedPage {
        seq: r.seq()?,
        extents: r.list(|r| Ok(ChangedExtent { extent: get_extent(r)?, changed: r.u16()?, holes: r.u16()? }))?,
        next: r.option(get_cursor)?,
    };
    r.end()?;
    Ok(page)
}

/// A peer's word on one block: part of the answer to [`Call::Blocks`](super::rpc::Call::Blocks).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Given {
    Same(Bytes),
    Newer,
    Behind,
    Damaged,
}

pub(super) fn encode_blocks(blocks: &[Given]) -> Bytes {
    let mut w = Writer::default();
    w.list(blocks, |w, block| match block {
        Given::Same(data) => {
            w.u8(0);
            w.bytes(data);
        }
        Given::Newer => w.u8(1),
        Given::Behind => w.u8(2),
        Given::Damaged => w.u8(3),
    });
    w.finish()
}

pub(super) fn decode_blocks(bytes: Bytes) -> Result<Vec<Given>, DecodeError> {
    let mut r = Reader::new("blocks for a repair", bytes);
    let blocks = r.list(|r| match r.u8()? {
        0 => Ok(Given::Same(r.bytes()?)),
        1 => Ok(Given::Newer),
        2 => Ok(Given::Behind),
        3 => Ok(Given::Damaged),
        found => Err(r.unknown(found.into())),
    })?;
    r.end()?;
    Ok(blocks)
}

/// Which replica a node holds: the answer to [`Call::Holding`](super::rpc::Call::Holding).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holding {
    pub member: MemberId,
    pub lineage: LineageId,
    pub incarnation: Incarnation,
    /// It can't go on in this life of its daemon.
    pub failed: bool,
}

impl Holding {
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u16(self.member.0);
        w.lineage(self.lineage);
        w.u128(self.incarnation.0);
        w.bool(self.failed);
        w.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Holding, DecodeError> {
        let mut r = Reader::new("a replica's identity", bytes);
        let found =
            Holding { member: r.member()?, lineage: r.lineage()?, incarnation: r.incarnation()?, failed: r.bool()? };
        r.end()?;
        Ok(found)
    }
}

/// Answer to [`Call::Read`](super::rpc::Call::Read).
pub(super) fn encode_read(data: &Bytes) -> Bytes {
    let mut w = Writer::default();
    w.bytes(data);
    w.u32(crc32fast::hash(data));
    w.finish()
}

pub(super) fn decode_read(bytes: Bytes) -> Result<Bytes, DecodeError> {
    let mut r = Reader::new("blocks that were read", bytes);
    let (data, found) = (r.bytes()?, r.u32()?);
    r.end()?;
    let computed = crc32fast::hash(&data);
    if found == computed {
        Ok(data)
    } else {
        Err(DecodeError::Checksum { what: "blocks that were read", found, computed })
    }
}

/// Answer to [`Call::Catalogue`](super::rpc::Call::Catalogue): snapshots, and how many there are in all.
pub(super) fn encode_catalogue(rows: &[SnapshotRow], all: u32) -> Bytes {
    let mut w = Writer::default();
    w.u32(all);
    w.list(rows, |w, row| {
        w.u128(row.id.0);
        row.put(w);
    });
    w.finish()
}

pub(super) fn decode_catalogue(bytes: Bytes) -> Result<(Vec<SnapshotRow>, u32), DecodeError> {
    let mut r = Reader::new("a volume's snapshots", bytes);
    let all = r.u32()?;
    let rows = r.list(|r| {
        let id = SnapshotId(r.u128()?);
        SnapshotRow::take(id, r)
    })?;
    r.end()?;
    Ok((rows, all))
}
