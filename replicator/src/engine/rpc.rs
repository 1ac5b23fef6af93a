//! What nodes say to each other beside the volumes' protocol, byte by byte: calls with one answer each.
//!
//! The first byte of every transport message tells what follows: 0 a volume's message, 1 a call, 2 an answer, 3 that
//! a volume's message was refused. What the answers hold is in `answers`; who waits for one, in `calls`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use farshore_core::codec::{DecodeError, Reader, Writer};
use farshore_core::durable::{LogBase, get_history, put_history};
use farshore_core::history::History;
use farshore_core::ids::{LineageId, Seq, VolumeId};
use farshore_core::mark::{Creation, Mark, SnapshotId};
use farshore_core::message::Message;
use farshore_core::record::RecordHash;

use crate::control::{OpError, OpKind};
use crate::store::Cursor;

const VOLUME: u8 = 0;
const CALL: u8 = 1;
const ANSWER: u8 = 2;
const REFUSED: u8 = 3;

/// A stretch of a shipped image: blocks of one extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShippedRun {
    pub offset: u64,
    pub length: u64,
    /// `None`: a hole.
    pub data: Option<Bytes>,
}

/// What of a shipped image is as it says, without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RunKind {
    Data = 0,
    Zeroes = 1,
    /// What the target had there before this shipment.
    Same = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedRun {
    pub offset: u64,
    pub length: u64,
    pub kind: RunKind,
}

/// A page of a shipment; how it is packed is in `packing`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedPage {
    /// Where its listing began, and where it goes on. All between need not be sent again.
    pub span: Option<(Cursor, Cursor)>,
    pub runs: Vec<PackedRun>,
    /// Of the data runs' bytes, one behind the other: how many, and what proves them.
    pub plain_bytes: u32,
    pub digest: u128,
    pub compressed: bool,
    pub body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Hold a member of this volume from now on; the blob is the replica's first durable state.
    Join {
        volume: VolumeId,
        durable: Bytes,
    },
    /// As [`Call::Join`], of a volume that begins as a snapshot of another one, which the receiver holds.
    JoinClone {
        volume: VolumeId,
        durable: Bytes,
        parent: VolumeId,
        snapshot: SnapshotId,
    },
    /// The volume is deleted, or this member was taken out of it.
    Forget {
        volume: VolumeId,
    },
    /// The volume goes on as `winner`: keep what this member has of another history as a copy of its own, and hold
    /// the member no longer.
    SetAside {
        volume: VolumeId,
        winner: LineageId,
    },
    /// A verb for this node's control plane: gRPC method and request, by name.
    Forward {
        method: String,
        request: Bytes,
    },
    /// An image follows: everything changed since `base`, as of `image`.
    ShipBegin {
        volume: VolumeId,
        ship: u128,
        /// Whose image it is.
        lineage: LineageId,
        base: Seq,
        image: LogBase,
        history: History,
        /// The copy that was set aside and that this builds on, by name; `base` is then where the histories part.
        basis: Option<String>,
        /// Its pages will be packed, and it is proven at its end: since version 2 of the protocol.
        packed: bool,
    },
    /// Which copy, set aside after a fork, could a shipment build on?
    ShipBasis {
        volume: VolumeId,
    },
    /// What that copy changed since the histories parted, page by page.
    ShipBasisChanges {
        volume: VolumeId,
        basis: String,
        since: Seq,
        cursor: Cursor,
    },
    ShipPage {
        volume: VolumeId,
        ship: u128,
        runs: Vec<ShippedRun>,
        /// Its number, and where the listing goes on after it: all before that need not be sent again.
        place: Option<(u64, Cursor)>,
    },
    /// Blocks that changed, by offset and digest: which of them does the target have there already?
    ShipOffer {
        volume: VolumeId,
        ship: u128,
        blocks: Vec<(u64, u128)>,
    },
    ShipPacked {
        volume: VolumeId,
        ship: u128,
        page: PackedPage,
    },
    /// What must be in these ranges, offset and length, of the image that was received.
    ShipProof {
        volume: VolumeId,
        ship: u128,
        ranges: Vec<(u64, u64)>,
        digest: u128,
    },
    ShipEnd {
        volume: VolumeId,
        ship: u128,
    },
    /// The snapshots that the shipped image has, or some of them; its images are not shipped.
    ShipSnapshots {
        volume: VolumeId,
        ship: u128,
        snapshots: Vec<ShippedSnapshot>,
    },
    /// Blocks that are damaged here; see [`super::repair`].
    Blocks {
        volume: VolumeId,
        lineage: LineageId,
        wanted: Vec<Wanted>,
    },
    /// Which life of which replica of the volume is held there; see [`super::readmit`].
    Holding {
        volume: VolumeId,
    },
    /// For the holder of the epoch, which has no copy; see [`super::read_there`].
    Read {
        volume: VolumeId,
        lineage: LineageId,
        /// The store must show all up to here.
        applied: Seq,
        offset: u64,
        length: u32,
    },
    /// The volume's snapshots, for the same.
    Catalogue {
        volume: VolumeId,
        lineage: LineageId,
        applied: Seq,
        /// So many are known already.
        skip: u32,
    },
}

/// A row of a catalogue: what made it, where, and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShippedSnapshot {
    pub seq: Seq,
    /// With the labels that it has now.
    pub creation: Creation,
    pub holds: BTreeSet<String>,
}

fn put_run(w: &mut Writer, run: &ShippedRun) {
    w.u64(run.offset);
    w.u64(run.length);
    w.option(run.data.as_ref(), |w, data| {
        w.bytes(data);
        w.u32(crc32fast::hash(data));
    });
}

fn get_run(r: &mut Reader) -> Result<ShippedRun, DecodeError> {
    let (offset, length) = (r.u64()?, r.u64()?);
    let data = r.option(|r| {
        let data = r.bytes()?;
        let (found, computed) = (r.u32()?, crc32fast::hash(&data));
        match found == computed {
            true => Ok(data),
            false => Err(DecodeError::Checksum { what: "shipped blocks", found, computed }),
        }
    })?;
    Ok(ShippedRun { offset, length, data })
}

fn put_page(w: &mut Writer, page: &PackedPage) {
    w.option(page.span.as_ref(), |w, (from, after)| {
        put_cursor(w, from);
        put_cursor(w, after);
    });
    w.list(&page.runs, |w, run| {
        w.u64(run.offset);
        w.u64(run.length);
        w.u8(run.kind as u8);
    });
    w.u32(page.plain_bytes);
    w.u128(page.digest);
    w.bool(page.compressed);
    w.bytes(&page.body);
}

fn get_page(r: &mut Reader) -> Result<PackedPage, DecodeError> {
    let span = r.option(|r| Ok((get_cursor(r)?, get_cursor(r)?)))?;
    let runs = r.list(|r| {
        let (offset, length) = (r.u64()?, r.u64()?);
        let kind = match r.u8()? {
            0 => RunKind::Data,
            1 => RunKind::Zeroes,
            2 => RunKind::Same,
            found => return Err(r.unknown(found.into())),
        };
        Ok(PackedRun { offset, length, kind })
    })?;
    let (plain_bytes, digest, compressed) = (r.u32()?, r.u128()?, r.bool()?);
    Ok(PackedPage { span, runs, plain_bytes, digest, compressed, body: r.bytes()? })
}

fn put_snapshot(w: &mut Writer, snapshot: &ShippedSnapshot) {
    let id = snapshot.creation.id;
    w.seq(snapshot.seq);
    w.bytes(&Mark::Create(snapshot.creation.clone()).encode());
    w.bytes(&Mark::Update { id, labels: BTreeMap::new(), holds: snapshot.holds.clone() }.encode());
}

/// Marks have their bounds, which hold here as well.
fn get_snapshot(r: &mut Reader) -> Result<ShippedSnapshot, DecodeError> {
    let (seq, created, held) = (r.seq()?, Mark::decode(r.bytes()?)?, Mark::decode(r.bytes()?)?);
    match (created, held) {
        (Mark::Create(creation), Mark::Update { id, labels, holds }) if id == creation.id && labels.is_empty() => {
            Ok(ShippedSnapshot { seq, creation, holds })
        }
        _ => Err(DecodeError::Invalid { what: "shipped snapshot", reason: "its marks are of other kinds" }),
    }
}

/// A block as it was at every seq of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub offset: u64,
    pub from: Seq,
    pub upto: Seq,
}

/// What arrived, sorted by its first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    Volume(Message),
    Call {
        nonce: u64,
        call: Call,
    },
    Answer {
        nonce: u64,
        result: Result<Bytes, OpError>,
    },
    /// The sender does not talk with us about this volume.
    Refused {
        volume: VolumeId,
        why: String,
    },
}

pub fn volume_message(message: Message) -> Vec<Bytes> {
    let mut parts = vec![Bytes::from_static(&[VOLUME])];
    parts.extend(message.encode());
    parts
}

pub fn decode(mut bytes: Bytes) -> Result<Arrival, DecodeError> {
    const WHAT: &str = "node message";
    if bytes.is_empty() {
        return Err(DecodeError::Short { what: WHAT, needed: 1, left: 0 });
    }
    let tag = bytes.split_to(1)[0];
    if tag == VOLUME {
        return Message::decode(bytes).map(Arrival::Volume);
    }
    let mut r = Reader::new(WHAT, bytes);
    if tag == REFUSED {
        let (volume, why) = (r.volume()?, r.string()?);
        r.end()?;
        return Ok(Arrival::Refused { volume, why });
    }
    let nonce = r.u64()?;
    match tag {
        CALL => Ok(Arrival::Call { nonce, call: decode_call(r)? }),
        ANSWER => {
            let result = if r.bool()? {
                Ok(r.bytes()?)
            } else {
                let kind = OpKind::from_name(&r.string()?).unwrap_or(OpKind::Internal);
                let (message, why, remedy) = (r.string()?, r.string()?, r.string()?);
                Err(OpError { kind, message, why, remedy })
            };
            r.end()?;
            Ok(Arrival::Answer { nonce, result })
        }
        found => Err(DecodeError::Unknown { what: WHAT, found: found.into() }),
    }
}

pub fn encode_refused(volume: VolumeId, why: &str) -> Bytes {
    let mut w = Writer::default();
    w.u8(REFUSED);
    w.u128(volume.0);
    w.string(why);
    w.finish()
}

pub(super) fn encode_call(nonce: u64, call: &Call) -> Bytes {
    let mut w = Writer::default();
    w.u8(CALL);
    w.u64(nonce);
    match call {
        Call::Join { volume, durable } => {
            w.u8(1);
            w.u128(volume.0);
            w.bytes(durable);
        }
        Call::Forget { volume } => {
            w.u8(2);
            w.u128(volume.0);
        }
        Call::Forward { method, request } => {
            w.u8(3);
            w.string(method);
            w.bytes(request);
        }
        Call::SetAside { volume, winner } => {
            w.u8(7);
            w.u128(volume.0);
            w.lineage(*winner);
        }
        Call::ShipBasis { volume } => {
            w.u8(8);
            w.u128(volume.0);
        }
        Call::ShipBasisChanges { volume, basis, since, cursor } => {
            w.u8(9);
            w.u128(volume.0);
            w.string(basis);
            w.seq(*since);
            put_cursor(&mut w, cursor);
        }
        Call::ShipBegin { volume, ship, lineage, base, image, history, basis, packed } => {
            w.u8(if *packed { 23 } else { 4 });
            w.u128(volume.0);
            w.u128(*ship);
            w.lineage(*lineage);
            w.seq(*base);
            w.seq(image.seq);
            w.u128(image.hash.0);
            put_history(&mut w, history);
            w.option(basis.as_ref(), |w, basis| w.string(basis));
        }
        Call::ShipPage { volume, ship, runs, place: None } => {
            w.u8(5);
            w.u128(volume.0);
            w.u128(*ship);
            w.list(runs, put_run);
        }
        Call::ShipPage { volume, ship, runs, place: Some((number, after)) } => {
            w.u8(22);
            w.u128(volume.0);
            w.u128(*ship);
            w.u64(*number);
            put_cursor(&mut w, after);
            w.list(runs, put_run);
        }
        Call::ShipOffer { volume, ship, blocks } => {
            w.u8(24);
            w.u128(volume.0);
            w.u128(*ship);
            w.list(blocks, |w, (offset, digest)| {
                w.u64(*offset);
                w.u128(*digest);
            });
        }
        Call::ShipPacked { volume, ship, page } => {
            w.u8(25);
            w.u128(volume.0);
            w.u128(*ship);
            put_page(&mut w, page);
        }
        Call::ShipProof { volume, ship, ranges, digest } => {
            w.u8(26);
            w.u128(volume.0);
            w.u128(*ship);
            w.list(ranges, |w, (offset, length)| {
                w.u64(*offset);
                w.u64(*length);
            });
            w.u128(*digest);
        }
        Call::ShipEnd { volume, ship } => {
            w.u8(6);
            w.u128(volume.0);
            w.u128(*ship);
        }
        Call::JoinClone { volume, durable, parent, snapshot } => {
            w.u8(11);
            w.u128(volume.0);
            w.bytes(durable);
            w.u128(parent.0);
            w.u128(snapshot.0);
        }
        Call::ShipSnapshots { volume, ship, snapshots } => {
            w.u8(10);
            w.u128(volume.0);
            w.u128(*ship);
            w.list(snapshots, put_snapshot);
        }
        Call::Blocks { volume, lineage, wanted } => {
            w.u8(20);
            w.u128(volume.0);
            w.lineage(*lineage);
            w.list(wanted, |w, block| {
                w.u64(block.offset);
                w.seq(block.from);
                w.seq(block.upto);
            });
        }
        Call::Holding { volume } => {
            w.u8(21);
            w.u128(volume.0);
        }
        Call::Read { volume, lineage, applied, offset, length } => {
            w.u8(27);
            w.u128(volume.0);
            w.lineage(*lineage);
            w.seq(*applied);
            w.u64(*offset);
            w.u32(*length);
        }
        Call::Catalogue { volume, lineage, applied, skip } => {
            w.u8(28);
            w.u128(volume.0);
            w.lineage(*lineage);
            w.seq(*applied);
            w.u32(*skip);
        }
    }
    w.finish()
}

fn decode_call(mut r: Reader) -> Result<Call, DecodeError> {
    let call = match r.u8()? {
        1 => Call::Join { volume: r.volume()?, durable: r.bytes()? },
        2 => Call::Forget { volume: r.volume()? },
        3 => Call::Forward { method: r.string()?, request: r.bytes()? },
        tag @ (4 | 23) => Call::ShipBegin {
            volume: r.volume()?,
            ship: r.u128()?,
            lineage: r.lineage()?,
            base: r.seq()?,
            image: LogBase { seq: r.seq()?, hash: RecordHash(r.u128()?) },
            history: get_history(&mut r)?,
            basis: r.option(Reader::string)?,
            packed: tag == 23,
        },
        24 => Call::ShipOffer { volume: r.volume()?, ship: r.u128()?, blocks: r.list(|r| Ok((r.u64()?, r.u128()?)))? },
        25 => Call::ShipPacked { volume: r.volume()?, ship: r.u128()?, page: get_page(&mut r)? },
        26 => Call::ShipProof {
            volume: r.volume()?,
            ship: r.u128()?,
            ranges: r.list(|r| Ok((r.u64()?, r.u64()?)))?,
            digest: r.u128()?,
        },
        5 => Call::ShipPage { volume: r.volume()?, ship: r.u128()?, runs: r.list(get_run)?, place: None },
        22 => {
            let (volume, ship, place) = (r.volume()?, r.u128()?, (r.u64()?, get_cursor(&mut r)?));
            Call::ShipPage { volume, ship, runs: r.list(get_run)?, place: Some(place) }
        }
        6 => Call::ShipEnd { volume: r.volume()?, ship: r.u128()? },
        7 => Call::SetAside { volume: r.volume()?, winner: r.lineage()? },
        8 => Call::ShipBasis { volume: r.volume()? },
        9 => Call::ShipBasisChanges {
            volume: r.volume()?,
            basis: r.string()?,
            since: r.seq()?,
            cursor: get_cursor(&mut r)?,
        },
        10 => Call::ShipSnapshots { volume: r.volume()?, ship: r.u128()?, snapshots: r.list(get_snapshot)? },
        11 => Call::JoinClone {
            volume: r.volume()?,
            durable: r.bytes()?,
            parent: r.volume()?,
            snapshot: SnapshotId(r.u128()?),
        },
        20 => Call::Blocks {
            volume: r.volume()?,
            lineage: r.lineage()?,
            wanted: r.list(|r| Ok(Wanted { offset: r.u64()?, from: r.seq()?, upto: r.seq()? }))?,
        },
        21 => Call::Holding { volume: r.volume()? },
        27 => Call::Read {
            volume: r.volume()?,
            lineage: r.lineage()?,
            applied: r.seq()?,
            offset: r.u64()?,
            length: r.u32()?,
        },
        28 => Call::Catalogue { volume: r.volume()?, lineage: r.lineage()?, applied: r.seq()?, skip: r.u32()? },
        found => return Err(r.unknown(found.into())),
    };
    r.end()?;
    Ok(call)
}

pub(super) fn put_cursor(w: &mut Writer, cursor: &Cursor) {
    w.seq(cursor.seq);
    w.u64(cursor.extent);
}

pub(super) fn get_cursor(r: &mut Reader) -> Result<Cursor, DecodeError> {
    Ok(Cursor { seq: r.seq()?, extent: r.u64()? })
}

pub fn encode_answer(nonce: u64, result: &Result<Bytes, OpError>) -> Bytes {
    let mut w = Writer::default();
    w.u8(ANSWER);
    w.u64(nonce);
    match result {
        Ok(bytes) => {
            w.bool(true);
            w.bytes(bytes);
        }
        Err(error) => {
            w.bool(false);
            for text in [error.kind.as_str(), &error.message, &error.why, &error.remedy] {
                w.string(text);
            }
        }
    }
    w.finish()
}
