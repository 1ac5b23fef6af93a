//! One of everything that the engine lays out, for golden bytes here and for the seeds in `fuzz`.

use bytes::Bytes;
use farshore_core::durable::LogBase;
use farshore_core::ids::{Incarnation, LineageId, MemberId, Seq, VolumeId};
use farshore_core::mark::{Creation, GroupId, SnapshotId};
use farshore_core::record::RecordHash;

use super::answers::{Arrived, Basis, Given, Holding};
use super::diverged_note::{DivergedCopy, name_of};
use super::kept_note::KeptVolume;
use super::rpc::{
    Arrival, Call, PackedPage, PackedRun, RunKind, ShippedRun, ShippedSnapshot, Wanted, encode_answer, encode_call,
    encode_refused, volume_message,
};
use super::scrub_record::ScrubRecord;
use crate::control::{OpError, OpKind};
use crate::samples::{LINEAGE, VOLUME, durable, history, messages};
use crate::store::{ChangedExtent, ChangedPage, Cursor};

const SHIP: u128 = 0x5151_5252;
const CURSOR: Cursor = Cursor { seq: Seq(8), extent: 9 };

pub fn calls() -> Vec<(&'static str, Call)> {
    let volume = VOLUME;
    let basis = name_of("pg", LINEAGE);
    let image = LogBase { seq: Seq(12), hash: RecordHash(6) };
    let begin = |basis, packed| {
        let (lineage, base) = (LINEAGE, Seq(4));
        Call::ShipBegin { volume, ship: SHIP, lineage, base, image, history: history(), basis, packed }
    };
    let runs = vec![
        ShippedRun { offset: 8192, length: 4096, data: Some(Bytes::from(vec![0x5a; 4096])) },
        ShippedRun { offset: 65536, length: 8192, data: None },
    ];
    let wanted = vec![Wanted { offset: 4096, from: Seq(3), upto: Seq(8) }];
    vec![
        ("join", Call::Join { volume, durable: durable().encode() }),
        ("join-clone", join_clone()),
        ("forget", Call::Forget { volume }),
        ("set-aside", Call::SetAside { volume, winner: LineageId { generation: 2, uuid: 0xef } }),
        ("forward", Call::Forward { method: "switchover".into(), request: Bytes::from_static(b"\x0a\x02pg") }),
        ("ship-begin", begin(None, false)),
        ("ship-begin-packed", begin(None, true)),
        ("ship-begin-on-a-basis", begin(Some(basis.clone()), false)),
        ("ship-basis", Call::ShipBasis { volume }),
        ("ship-basis-changes", Call::ShipBasisChanges { volume, basis, since: Seq(4), cursor: CURSOR }),
        ("ship-page", Call::ShipPage { volume, ship: SHIP, runs: runs.clone(), place: None }),
        ("ship-page-placed", Call::ShipPage { volume, ship: SHIP, runs, place: Some((3, CURSOR)) }),
        ("ship-offer", Call::ShipOffer { volume, ship: SHIP, blocks: vec![(8192, 0x77), (12288, 0x78)] }),
        ("ship-packed", Call::ShipPacked { volume, ship: SHIP, page: packed_page() }),
        ("ship-proof", Call::ShipProof { volume, ship: SHIP, ranges: vec![(8192, 4096)], digest: 0x79 }),
        ("ship-end", Call::ShipEnd { volume, ship: SHIP }),
        ("ship-snapshots", Call::ShipSnapshots { volume, ship: SHIP, snapshots: vec![snapshot()] }),
        ("blocks", Call::Blocks { volume, lineage: LINEAGE, wanted }),
        ("holding", Call::Holding { volume }),
        ("read", Call::Read { volume, lineage: LINEAGE, applied: Seq(9), offset: 8192, length: 4096 }),
        ("catalogue", Call::Catalogue { volume, lineage: LINEAGE, applied: Seq(9), skip: 2 }),
    ]
}

fn packed_page() -> PackedPage {
    let run = |offset, length, kind| PackedRun { offset, length, kind };
    let runs = vec![run(8192, 4096, RunKind::Data), run(12288, 4096, RunKind::Same), run(65536, 8192, RunKind::Zeroes)];
    let body = Bytes::from_static(b"a frame of zstd");
    PackedPage {
        span: Some((Cursor::default(), CURSOR)),
        runs,
        plain_bytes: 4096,
        digest: 0x7a,
        compressed: true,
        body,
    }
}

pub fn arrived() -> Arrived {
    let after = |extent| Cursor { extent, ..CURSOR };
    Arrived { upto: CURSOR, beyond: vec![(after(20), after(30)), (after(40), after(41))] }
}

fn join_clone() -> Call {
    let parent = VolumeId(VOLUME.0 + 1);
    Call::JoinClone { volume: VOLUME, durable: durable().encode(), parent, snapshot: SnapshotId(0x61) }
}

fn snapshot() -> ShippedSnapshot {
    let creation = Creation {
        id: SnapshotId(0x61),
        group: Some(GroupId(0x62)),
        created_unix_ms: 1_700_000_000_000,
        size_bytes: 1 << 20,
        name: "nightly".into(),
        labels: [("app".to_string(), "db".to_string())].into(),
    };
    ShippedSnapshot { seq: Seq(9), creation, holds: ["backup".to_string()].into() }
}

/// Whatever may be the first byte of a message.
pub fn arrivals() -> Vec<(&'static str, Arrival)> {
    let nonce = 0x0102_0304_0506_0708;
    let error = OpError::new(OpKind::FailedPrecondition, "it can't", "do otherwise").because("it is so");
    let mut out: Vec<(&str, Arrival)> =
        calls().into_iter().map(|(name, call)| (name, Arrival::Call { nonce, call })).collect();
    out.extend(messages().into_iter().take(1).map(|message| ("volume", Arrival::Volume(message))));
    out.push(("answer", Arrival::Answer { nonce, result: Ok(Bytes::from_static(b"bytes")) }));
    out.push(("answer-error", Arrival::Answer { nonce, result: Err(error) }));
    out.push(("refused", Arrival::Refused { volume: VOLUME, why: "not listed".into() }));
    out
}

pub fn encoded(arrival: &Arrival) -> Bytes {
    match arrival {
        Arrival::Volume(message) => volume_message(message.clone()).concat().into(),
        Arrival::Call { nonce, call } => encode_call(*nonce, call),
        Arrival::Answer { nonce, result } => encode_answer(*nonce, result),
        Arrival::Refused { volume, why } => encode_refused(*volume, why),
    }
}

pub fn bases() -> Vec<(&'static str, Option<Basis>)> {
    vec![("none", None), ("one", Some((name_of("pg", LINEAGE), history(), Seq(12))))]
}

pub fn pages() -> Vec<(&'static str, ChangedPage)> {
    let extents = vec![ChangedExtent { extent: 3, changed: 0xf00f, holes: 0x000f }];
    let last = ChangedPage { extents: Vec::new(), next: None, seq: Seq(12) };
    vec![("more", ChangedPage { extents, next: Some(CURSOR), ..last.clone() }), ("last", last)]
}

pub fn given() -> Vec<Given> {
    vec![Given::Same(Bytes::from(vec![0xa5; 4096])), Given::Newer, Given::Behind, Given::Damaged]
}

pub fn holding() -> Holding {
    Holding { member: MemberId(2), lineage: LINEAGE, incarnation: Incarnation(0x33), failed: true }
}

pub fn diverged() -> DivergedCopy {
    DivergedCopy {
        volume: VOLUME,
        name: name_of("pg", LINEAGE),
        lineage: LINEAGE,
        history: history(),
        end: Seq(12),
        size_bytes: 1 << 20,
        set_aside_unix_s: 1_700_000_000,
    }
}

pub fn kept() -> KeptVolume {
    let owed = vec![(SnapshotId(0x61), MemberId(2))];
    KeptVolume { volume: VOLUME, config: durable().config, deleted_unix_ms: 1_700_000_000_000, owed }
}

pub fn scrubs() -> Vec<(&'static str, ScrubRecord)> {
    let under_way = ScrubRecord {
        next_extent: Some(7),
        checked_bytes: 1,
        damaged_blocks: 2,
        repaired_blocks: 3,
        started_unix_s: 4,
        finished_unix_s: 5,
        since_unix_s: 6,
    };
    vec![("under-way", under_way), ("never", ScrubRecord::default())]
}
