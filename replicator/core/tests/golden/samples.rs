//! One of everything that the core lays out, for golden bytes here and for the seeds in `fuzz`.

use std::collections::BTreeMap;

use bytes::Bytes;
use farshore_core::durable::{Durable, Installing, LogBase};
use farshore_core::history::History;
use farshore_core::ids::{Epoch, Incarnation, LineageId, MemberId, Seq, SessionId, Tick, VolumeId};
use farshore_core::mark::{Creation, GroupId, Mark, SnapshotId};
use farshore_core::message::{Body, Message, Report};
use farshore_core::record::{Kind, Origin, Record, RecordHash};
use farshore_core::register::{
    Attachment, ConfigVersion, Configuration, DataRule, Descriptor, Durability, Member, MemberKind, Mode, OnQuorumLoss,
    SyncMember, Terms, Vote,
};

pub const VOLUME: VolumeId = VolumeId(7);
pub const LINEAGE: LineageId = LineageId { generation: 1, uuid: 0xabcd };
pub const EPOCH: Epoch = Epoch { n: 2, writer: 0x77 };

pub fn record(seq: u64, kind: Kind) -> Record {
    let payload = if kind == Kind::Write { Bytes::from(vec![seq as u8; 4096]) } else { Bytes::new() };
    let ranged = matches!(kind, Kind::Write | Kind::Discard | Kind::WriteZeroes);
    Record {
        volume: VOLUME,
        lineage: LINEAGE.uuid,
        epoch: EPOCH,
        seq: Seq(seq),
        prev_hash: RecordHash(5),
        kind,
        offset: if ranged { 8192 } else { 0 },
        length: if ranged { 4096 } else { 0 },
        origin: Origin { session: SessionId(9), tag: 3 },
        payload_crc: crc32fast::hash(&payload),
        payload,
    }
}

/// A snapshot's mark as it is in the log.
pub fn marking(seq: u64) -> Record {
    let payload = marks()[0].1.encode();
    Record { payload_crc: crc32fast::hash(&payload), payload, ..record(seq, Kind::SnapMark) }
}

pub fn marks() -> Vec<(&'static str, Mark)> {
    let labels: BTreeMap<String, String> =
        [("owner".to_string(), "backup".to_string()), ("tier".to_string(), String::new())].into();
    let (id, holds) = (SnapshotId(0x0102_0304), ["clone-7".to_string(), "export".to_string()].into());
    let alone = Creation {
        id,
        group: None,
        created_unix_ms: 1_790_000_000_123,
        size_bytes: 1 << 30,
        name: "nightly-7".into(),
        labels: BTreeMap::new(),
    };
    let member = Creation { group: Some(GroupId(0x0506)), labels: labels.clone(), ..alone.clone() };
    vec![
        ("create", Mark::Create(member)),
        ("create-alone", Mark::Create(alone)),
        ("delete", Mark::Delete { id }),
        ("update", Mark::Update { id, labels, holds }),
        ("update-bare", Mark::Update { id, labels: BTreeMap::new(), holds: Default::default() }),
    ]
}

pub fn configuration() -> Configuration {
    let rule = DataRule { w: 2, min_remote: 1, local: false };
    let place = |id: u16, site: &str, kind| Member { id: MemberId(id), site: site.into(), node: "n1".into(), kind };
    let votes = (1..=3).map(|id| Vote { member: MemberId(id), incarnation: Incarnation(id.into()), votes: 1 });
    let sync = [(1, "east"), (2, "west")].map(|(id, site)| SyncMember {
        member: MemberId(id),
        incarnation: Incarnation(id.into()),
        site: site.into(),
    });
    let terms = Terms { votes: votes.collect(), sync: sync.into(), rule, primary_site: "east".into() };
    Configuration {
        version: ConfigVersion { epoch: EPOCH, k: 4 },
        volume: Descriptor {
            name: "pg".into(),
            size_bytes: 1 << 30,
            logical_block_bytes: 4096,
            durability: Durability::Write,
            lease_us: 4_000_000,
            on_quorum_loss: OnQuorumLoss::Fence { after_us: 5 },
            policy: "majority".into(),
            rule,
            labels: [("pvc".to_string(), "default/pg".to_string())].into(),
            mode: Mode::Sync,
            fallback_after_us: None,
            promote_observer_after_us: None,
        },
        members: vec![
            place(1, "east", MemberKind::Data),
            place(2, "west", MemberKind::Data),
            place(3, "north", MemberKind::Witness),
        ],
        current: terms.clone(),
        earlier: vec![terms],
        attached: Some(Attachment { member: MemberId(1), session: SessionId(8) }),
        stand_ins: Vec::new(),
    }
}

pub fn history() -> History {
    History(vec![(Epoch { n: 1, writer: 1 }, Seq(1)), (EPOCH, Seq(9))])
}

pub fn durable() -> Durable {
    let base = LogBase { seq: Seq(4), hash: RecordHash(6) };
    Durable {
        base,
        history: history(),
        acked: Seq(8),
        installing: Some(Installing { base, history: history() }),
        holed: Some(Seq(3)),
        parents: vec![(LineageId { generation: 0, uuid: 1 }, Seq(2))],
        superseded: Some(LINEAGE),
        ..Durable::first(MemberId(1), Incarnation(1), LINEAGE, configuration())
    }
}

pub fn messages() -> Vec<Message> {
    let (incarnation, config) = (Incarnation(2), Box::new(configuration()));
    let report = Box::new(Report {
        incarnation,
        promised: EPOCH,
        config: configuration(),
        history: history(),
        durable: Seq(9),
        applied: Seq(7),
        base: LogBase::default(),
        floor: Seq(1),
        acked: Seq(8),
        whole: true,
        lease_left_us: 6,
        owed_to: EPOCH,
    });
    let records = vec![record(10, Kind::EpochStart), record(11, Kind::Write), record(12, Kind::Discard)];
    let (epoch, version) = (EPOCH, config.version);
    let bodies = vec![
        Body::Probe { nonce: 1 },
        Body::Answer { nonce: 1, report: report.clone() },
        Body::Prepare { epoch },
        Body::Promise { epoch, report },
        Body::Reject { asked: Epoch::ZERO, promised: epoch },
        Body::PutConfig { epoch, config: config.clone() },
        Body::ConfigOk { epoch, incarnation, version },
        Body::Elect { epoch, history: history(), end: Seq(12) },
        Body::ElectOk { epoch, incarnation, durable: Seq(9), applied: Seq(8) },
        Body::Append { epoch, acked: Seq(8), end: Seq(12), sent: Tick(5), records: records.clone() },
        Body::Ack { epoch, incarnation, appended: Seq(12), durable: Seq(11), applied: Seq(8), echo: Tick(5) },
        Body::NeedElect { epoch },
        Body::Release { epoch },
        Body::Fork { lineage: LINEAGE, epoch, config: config.clone(), log: None },
        Body::ForkOk,
        Body::Fetch { epoch, from: Seq(1), max_bytes: 4096 },
        Body::Fetched { epoch, from: Seq(10), floor: Seq(1), records },
        Body::Ship { epoch, member: MemberId(3), base: Seq(7) },
        Body::Shipped { epoch, member: MemberId(3) },
        Body::Fork { lineage: LINEAGE, epoch, config, log: Some((history(), Seq(11))) },
    ];
    let message = |body| Message { volume: VOLUME, lineage: LINEAGE, from: MemberId(1), to: MemberId(2), body };
    bodies.into_iter().map(message).collect()
}
