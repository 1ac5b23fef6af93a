//! What late, repeated and misleading messages must not do to a replica. Each of these was once wrong, or could be.

use bytes::Bytes;

use crate::api::{Answer, CommandId, Effect, Effects, JournalOp, Token};
use crate::contact::Word;
use crate::durable::{Durable, LogBase};
use crate::history::History;
use crate::ids::{Epoch, Incarnation, LineageId, MemberId, Seq, SessionId, Tick, VolumeId};
use crate::message::{Body, Message};
use crate::record::{Kind, Origin, Record, RecordHash};
use crate::register::{
    Attachment, ConfigVersion, Configuration, DataRule, Descriptor, Durability, Member, MemberKind, Mode, OnQuorumLoss,
    SyncMember, Terms, Vote,
};
use crate::replica::{Recovered, Replica};
use crate::volume::Volume;

const ME: MemberId = MemberId(1);
const LEADER: MemberId = MemberId(0);
const EPOCH: Epoch = Epoch { n: 3, writer: 9 };
const VOLUME: VolumeId = VolumeId(5);
const LINEAGE: LineageId = LineageId { generation: 1, uuid: 2 };

fn configuration() -> Configuration {
    let rule = DataRule { w: 1, min_remote: 0, local: false };
    let member =
        |id: MemberId| Member { id, site: format!("s{}", id.0), node: "n".to_string(), kind: MemberKind::Data };
    Configuration {
        version: ConfigVersion::default(),
        volume: Descriptor {
            name: "v".to_string(),
            size_bytes: 1 << 20,
            logical_block_bytes: 4096,
            durability: Durability::Write,
            lease_us: 1_000_000,
            on_quorum_loss: OnQuorumLoss::Freeze,
            policy: "all".to_string(),
            rule,
            labels: Default::default(),
            mode: Mode::Sync,
            fallback_after_us: None,
            promote_observer_after_us: None,
        },
        members: vec![member(LEADER), member(ME)],
        current: Terms { votes: Vec::new(), sync: Vec::new(), rule, primary_site: "s0".to_string() },
        earlier: Vec::new(),
        attached: None,
        stand_ins: Vec::new(),
    }
}

fn durable(promised: Epoch) -> Durable {
    Durable { promised, ..Durable::first(ME, Incarnation(1), LINEAGE, configuration()) }
}

/// A log of `count` records of `epoch`, chained.
fn log(epoch: Epoch, count: u64) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    for seq in 1..=count {
        let kind = if seq == 1 { Kind::EpochStart } else { Kind::Noop };
        records.push(Record {
            volume: VOLUME,
            lineage: LINEAGE.uuid,
            epoch,
            seq: Seq(seq),
            prev_hash: records.last().map(Record::hash).unwrap_or_default(),
            kind,
            offset: 0,
            length: 0,
            origin: Origin::default(),
            payload: Bytes::new(),
            payload_crc: crc32fast::hash(&[]),
        });
    }
    records
}

/// A restarted replica that holds `records`, all of them durable.
fn restarted(records: &[Record], lost_upto: Option<Seq>, fx: &mut Effects) -> Replica {
    let last = records.last().map_or(LogBase::default(), |r| LogBase { seq: r.seq, hash: r.hash() });
    let epochs = records.first().map(|r| (r.epoch, r.seq)).into_iter().collect();
    let recovered = Recovered { durable: durable(EPOCH), last, epochs, floor: Seq(1), lost_upto, applied: Seq::ZERO };
    Replica::recover(VOLUME, recovered, Tick(0), fx)
}

/// Records below the base may be damaged: of these the journal names an epoch that is not theirs.
#[test]
fn below_the_base_the_state_knows_the_epochs() {
    let (mut fx, newer) = (Effects::new(), Epoch { n: EPOCH.n + 1, writer: 5 });
    let mut durable = durable(newer);
    durable.base = LogBase { seq: Seq(9), hash: RecordHash(9) };
    durable.history = History(vec![(EPOCH, Seq(1)), (newer, Seq(5))]);
    let last = LogBase { seq: Seq(12), hash: RecordHash(12) };
    let epochs = vec![(newer, Seq(5)), (EPOCH, Seq(7)), (newer, Seq(8))];
    let known = durable.history.clone();
    let recovered = Recovered { durable, last, epochs, floor: Seq(1), lost_upto: None, applied: Seq(9) };
    let replica = Replica::recover(VOLUME, recovered, Tick(0), &mut fx);
    assert_eq!(*replica.history(), known);
}

/// Hands everything to the journal and lets it be durable at once.
fn settle(replica: &mut Replica, fx: &mut Effects) {
    while replica.has_batch() {
        let begin = fx.len();
        replica.flush(Tick(1), fx);
        let tokens: Vec<Token> = fx[begin..]
            .iter()
            .filter_map(|e| match e {
                Effect::Journal { token, .. } => Some(*token),
                _ => None,
            })
            .collect();
        for token in tokens {
            replica.on_journal_done(token, Tick(2), fx);
        }
    }
}

fn elect(replica: &mut Replica, end: u64, fx: &mut Effects) {
    let history = History(vec![(EPOCH, Seq(1))]);
    replica.on_elect(EPOCH, (&history, Seq(end)), LEADER, Tick(1), fx);
    settle(replica, fx);
}

fn word(epoch: Epoch, acked: Seq, sent: Tick) -> Word {
    Word { epoch, acked, end: acked, sent }
}

fn append(replica: &mut Replica, acked: u64, records: Vec<Record>, fx: &mut Effects) {
    replica.on_append(word(EPOCH, Seq(acked), Tick(1)), records, LEADER, Tick(1), fx);
    settle(replica, fx);
}

#[test]
fn a_late_elect_cuts_nothing_of_its_own_epoch() {
    let mut fx = Effects::new();
    let mut replica = restarted(&log(EPOCH, 8), None, &mut fx);
    // Sent when the leader's log ended at 5; it arrives after we took 8, acknowledged them and restarted.
    elect(&mut replica, 5, &mut fx);
    assert_eq!(replica.end(), Seq(8), "acknowledged records were cut");
    let report = replica.report(Tick(2));
    assert_eq!(report.durable, Seq(8));
}

#[test]
fn a_checkpoint_gives_space_back_to_the_records_that_wait_for_it() {
    let mut fx = Effects::new();
    let records = log(EPOCH, 8);
    let mut replica = restarted(&records[..4], None, &mut fx);
    elect(&mut replica, 8, &mut fx);
    append(&mut replica, 4, Vec::new(), &mut fx);
    replica.on_applied(Seq(4), &mut fx);
    // The journal is full: these stay where they are until it has let go of what is checkpointed.
    replica.on_append(word(EPOCH, Seq(4), Tick(1)), records[4..].to_vec(), LEADER, Tick(1), &mut fx);
    replica.on_checkpointed(LogBase { seq: Seq(4), hash: records[3].hash() });
    let begin = fx.len();
    replica.flush(Tick(2), &mut fx);
    let state_alone = fx[begin..].iter().find_map(|e| match e {
        Effect::Journal { token, ops } if ops.iter().all(|op| matches!(op, JournalOp::Meta(_))) => Some(*token),
        _ => None,
    });
    let token = state_alone.expect("state that shares an append with records waits with them");
    replica.on_journal_done(token, Tick(2), &mut fx);
    assert!(fx.iter().any(|e| matches!(e, Effect::Trim { checkpoint: Seq(4) })), "the journal is not told");
    assert_eq!(replica.durable, Seq(4), "records that wait are not durable");
}

#[test]
fn a_shipment_behind_our_log_is_ignored() {
    let mut fx = Effects::new();
    let mut replica = restarted(&log(EPOCH, 8), None, &mut fx);
    elect(&mut replica, 8, &mut fx);
    replica.on_staged(LINEAGE, LogBase { seq: Seq(6), hash: RecordHash(1) }, History::default(), &mut fx);
    settle(&mut replica, &mut fx);
    assert!(replica.whole() && replica.end() == Seq(8), "an image took back what was acknowledged");
    replica.on_staged(LINEAGE, LogBase { seq: Seq(9), hash: RecordHash(1) }, History::default(), &mut fx);
    assert!(!replica.whole(), "one that is ahead is installed");
}

#[test]
fn an_image_of_another_lineage_is_dropped() {
    let mut fx = Effects::new();
    let mut replica = restarted(&log(EPOCH, 8), None, &mut fx);
    let left = LineageId { generation: LINEAGE.generation - 1, uuid: 7 };
    let begin = fx.len();
    replica.on_staged(left, LogBase { seq: Seq(9), hash: RecordHash(1) }, History::default(), &mut fx);
    assert!(replica.whole(), "it may show what this lineage never had");
    assert!(fx[begin..].iter().any(|e| matches!(e, Effect::DropImage)), "its space is not given back");
}

#[test]
fn a_fork_below_an_image_that_is_being_installed_is_not_followed() {
    let mut fx = Effects::new();
    let mut replica = restarted(&log(EPOCH, 4), None, &mut fx);
    let image = LogBase { seq: Seq(9), hash: RecordHash(1) };
    replica.on_staged(LINEAGE, image, replica.history().clone(), &mut fx);
    settle(&mut replica, &mut fx);
    let forked = LineageId { generation: LINEAGE.generation + 1, uuid: 3 };
    let epoch = Epoch { n: EPOCH.n + 1, writer: 1 };
    let mut config = replica.d.config.clone();
    config.version = ConfigVersion { epoch, k: 0 };
    let donor = Some((replica.history().clone(), Seq(6)));
    replica.on_fork(forked, epoch, config, donor, LEADER, &mut fx);
    assert_eq!(replica.d.lineage, LINEAGE, "the image will show more than the fork keeps");
}

#[test]
fn a_fenced_copy_follows_no_fork_of_a_lower_generation() {
    let mut fx = Effects::new();
    let mut replica = restarted(&log(EPOCH, 4), None, &mut fx);
    let newer = LineageId { generation: LINEAGE.generation + 1, uuid: 7 };
    replica.on_higher_lineage(newer, &mut fx);
    let forked = LineageId { generation: newer.generation, uuid: 3 };
    let epoch = Epoch { n: EPOCH.n + 1, writer: 1 };
    let mut config = replica.d.config.clone();
    config.version = ConfigVersion { epoch, k: 0 };
    let donor = Some((replica.history().clone(), Seq(4)));
    let begin = fx.len();
    replica.on_fork(forked, epoch, config, donor, LEADER, &mut fx);
    assert_eq!(replica.d.lineage, LINEAGE, "two lineages of one generation refuse each other for ever");
    assert!(
        fx[begin..].iter().any(|e| matches!(e, Effect::Send(m) if m.lineage == newer && m.to == LEADER)),
        "whoever forks must hear of the one that fenced us"
    );
}

#[test]
fn a_hole_is_given_up_by_the_force_that_begins_with_it_and_by_no_other() {
    let mut fx = Effects::new();
    let forked = LineageId { generation: LINEAGE.generation + 1, uuid: 3 };
    let epoch = Epoch { n: EPOCH.n + 1, writer: 1 };
    for (log_of_another, whole) in [(false, true), (true, false)] {
        let mut replica = restarted(&log(EPOCH, 4), Some(Seq(8)), &mut fx);
        settle(&mut replica, &mut fx);
        let mut config = replica.d.config.clone();
        config.version = ConfigVersion { epoch, k: 0 };
        let donor = log_of_another.then(|| (replica.history().clone(), Seq(8)));
        replica.on_fork(forked, epoch, config, donor, ME, &mut fx);
        assert_eq!((replica.d.lineage, replica.whole()), (forked, whole));
    }
}

#[test]
fn a_fork_keeps_what_is_on_its_way_to_the_journal_unless_that_waits_for_space() {
    let mut fx = Effects::new();
    let records = log(EPOCH, 8);
    let mut replica = restarted(&records[..4], None, &mut fx);
    elect(&mut replica, 8, &mut fx);
    replica.on_append(word(EPOCH, Seq(2), Tick(1)), records[4..].to_vec(), LEADER, Tick(1), &mut fx);
    replica.flush(Tick(1), &mut fx);
    assert_eq!((replica.end(), replica.durable), (Seq(8), Seq(4)));
    let forked = LineageId { generation: LINEAGE.generation + 1, uuid: 3 };
    let epoch = Epoch { n: EPOCH.n + 1, writer: 1 };
    let mut config = replica.d.config.clone();
    config.version = ConfigVersion { epoch, k: 0 };
    let fork = |replica: &mut Replica, fx: &mut Effects| {
        replica.on_fork(forked, epoch, config.clone(), None, ME, fx);
    };
    fork(&mut replica, &mut fx);
    assert_eq!((replica.d.lineage, replica.end()), (forked, Seq(8)), "others may have acknowledged them");
    fork(&mut replica, &mut fx);
    assert_eq!(replica.end(), Seq(8));
    assert!(fx.iter().any(|e| matches!(e, Effect::AskWaiting)), "asked again, they may wait for space: {fx:?}");
    replica.on_waiting(Seq(7), &mut fx);
    assert_eq!(
        replica.end(),
        Seq(6),
        "5 and 6 are being written; a full journal takes the rest only when the fork is over"
    );
    replica.flush(Tick(1), &mut fx);
    for effect in std::mem::take(&mut fx) {
        if let Effect::Journal { token, .. } = effect {
            replica.on_journal_done(token, Tick(2), &mut fx);
        }
    }
    assert_eq!(replica.durable, Seq(6));
    replica.on_waiting(Seq(6), &mut fx);
    assert_eq!(replica.end(), Seq(6), "no fork waits any more");
}

#[test]
fn a_hole_is_not_closed_by_a_stale_position() {
    let mut fx = Effects::new();
    let records = log(EPOCH, 8);
    let mut replica = restarted(&records[..4], Some(Seq(8)), &mut fx);
    settle(&mut replica, &mut fx);
    elect(&mut replica, 8, &mut fx);
    append(&mut replica, 3, Vec::new(), &mut fx);
    assert!(!replica.whole(), "3 was acked once, but up to 8 may have been since");
    append(&mut replica, 8, records[4..].to_vec(), &mut fx);
    assert!(replica.whole() && replica.durable == Seq(8));
}

/// What waits for space behind a hole is what fills it.
#[test]
fn a_log_with_a_hole_is_applied_as_far_as_it_is_acked() {
    let mut fx = Effects::new();
    let records = log(EPOCH, 8);
    let mut replica = restarted(&records[..2], Some(Seq(8)), &mut fx);
    settle(&mut replica, &mut fx);
    elect(&mut replica, 8, &mut fx);
    fx.clear();
    append(&mut replica, 7, records[2..6].to_vec(), &mut fx);
    assert!(!replica.whole());
    assert!(fx.iter().any(|e| matches!(e, Effect::Apply { upto: Seq(2) })), "{fx:?}");
    replica.on_applied(Seq(2), &mut fx);
    assert!(fx.iter().any(|e| matches!(e, Effect::Apply { upto: Seq(6) })), "{fx:?}");
}

#[test]
fn an_epoch_is_released_and_answered_only_when_its_end_is_durable() {
    let mut fx = Effects::new();
    let mut replica = restarted(&log(EPOCH, 2), None, &mut fx);
    settle(&mut replica, &mut fx);
    fx.clear();
    replica.end_epoch(EPOCH, vec![LEADER], CommandId(4));
    replica.flush(Tick(1), &mut fx);
    let Some(Effect::Journal { token, .. }) = fx.first() else { panic!("the end is journalled first: {fx:?}") };
    let token = *token;
    assert_eq!(fx.len(), 1, "nothing is said before it is durable: {fx:?}");
    replica.on_journal_done(token, Tick(2), &mut fx);
    let released = |e: &Effect| matches!(e, Effect::Send(Message { body: Body::Release { epoch: EPOCH }, .. }));
    assert!(fx.iter().any(released));
    assert!(fx.iter().any(|e| matches!(e, Effect::Answer { id: CommandId(4), result: Ok(Answer::Done) })));
}

#[test]
fn the_hash_of_the_last_record_is_learnt_again_after_a_cut() {
    let mut fx = Effects::new();
    let records = log(EPOCH, 8);
    let mut replica = restarted(&records, None, &mut fx);
    replica.truncate(Seq(5));
    assert_eq!(replica.last_hash(), None, "a restart remembers only the end");
    replica.on_own_record(&records[4]);
    assert_eq!(replica.last_hash(), Some(records[4].hash()));
}

#[test]
fn foreign_numbers_do_not_panic() {
    let mut fx = Effects::new();
    let mut replica = restarted(&log(EPOCH, 2), None, &mut fx);
    let top = Epoch { n: u64::MAX, writer: u128::MAX };
    replica.on_elect(top, (&History(vec![(top, Seq(u64::MAX))]), Seq(u64::MAX)), LEADER, Tick(u64::MAX), &mut fx);
    settle(&mut replica, &mut fx);
    replica.on_append(word(top, Seq(u64::MAX), Tick(u64::MAX)), Vec::new(), LEADER, Tick(u64::MAX), &mut fx);
    settle(&mut replica, &mut fx);
    assert_eq!(Replica::with_drift(u64::MAX), u64::MAX);
}

fn journal_effects(fx: &Effects) -> Vec<(Token, &[JournalOp])> {
    fx.iter()
        .filter_map(|e| match e {
            Effect::Journal { token, ops } => Some((*token, ops.as_slice())),
            _ => None,
        })
        .collect()
}

/// A full journal lets records wait until others go, for which the replica must learn what is acked: from the holder of
/// the next epoch, who must be promised it first.
#[test]
fn a_promise_does_not_wait_for_records_that_wait_for_space() {
    let mut fx = Effects::new();
    let mut replica = restarted(&[], None, &mut fx);
    elect(&mut replica, 0, &mut fx);
    fx.clear();
    replica.on_append(word(EPOCH, Seq::ZERO, Tick(1)), log(EPOCH, 3), LEADER, Tick(1), &mut fx);
    replica.flush(Tick(1), &mut fx);
    let waiting = journal_effects(&fx)[0].0;
    fx.clear();
    replica.on_prepare(Epoch { n: 4, writer: 1 }, LEADER, &mut fx);
    replica.flush(Tick(2), &mut fx);
    let written = journal_effects(&fx);
    assert_eq!(written.len(), 1);
    assert!(matches!(written[0].1, [JournalOp::Truncate { after: Seq::ZERO }, JournalOp::Meta(_)]), "{written:?}");
    let token = written[0].0;
    fx.clear();
    // The journal gives up what the cut hides.
    replica.on_journal_done(waiting, Tick(3), &mut fx);
    assert!(fx.is_empty(), "nothing of the lower epoch leaves: {fx:?}");
    replica.on_journal_done(token, Tick(3), &mut fx);
    let promised = fx.iter().find_map(|e| match e {
        Effect::Send(Message { body: Body::Promise { report, .. }, .. }) => Some(report.durable),
        _ => None,
    });
    assert_eq!(promised, Some(Seq::ZERO));
    assert_eq!(replica.end(), Seq::ZERO);
}

/// Records go in portions, apart from state, and each portion counts as soon as it is durable.
#[test]
fn portions_of_a_batch_count_one_by_one() {
    let mut fx = Effects::new();
    let mut replica = restarted(&[], None, &mut fx);
    elect(&mut replica, 0, &mut fx);
    fx.clear();
    let mut records = log(EPOCH, 3);
    for (at, record) in records.iter_mut().enumerate().skip(1) {
        record.payload = Bytes::from(vec![at as u8; 100 << 10]);
        record.payload_crc = crc32fast::hash(&record.payload);
    }
    records[2].prev_hash = records[1].hash();
    replica.on_append(word(EPOCH, Seq::ZERO, Tick(1)), records, LEADER, Tick(1), &mut fx);
    let config = Configuration { version: ConfigVersion { epoch: EPOCH, k: 1 }, ..configuration() };
    replica.on_put_config(EPOCH, config, LEADER, Tick(1), &mut fx);
    replica.flush(Tick(1), &mut fx);
    let written = journal_effects(&fx);
    let shapes: Vec<(usize, bool)> =
        written.iter().map(|(_, ops)| (ops.len(), matches!(ops[0], JournalOp::Record(_)))).collect();
    assert_eq!(shapes, [(3, true), (1, false)]);
    let first = written[0].0;
    replica.on_journal_done(first, Tick(2), &mut fx);
    assert_eq!(replica.durable, Seq(3));
}

/// What is acked and not in the store for good is remembered, but for a little: else a restart could not apply it.
#[test]
fn what_the_store_lacks_is_remembered_as_acked() {
    let mut fx = Effects::new();
    let mut replica = restarted(&[], None, &mut fx);
    elect(&mut replica, 0, &mut fx);
    let mut records = log(EPOCH, 5);
    for at in 1..5 {
        records[at].payload = Bytes::from(vec![at as u8; 64 << 10]);
        records[at].payload_crc = crc32fast::hash(&records[at].payload);
        records[at].prev_hash = records[at - 1].hash();
    }
    append(&mut replica, 0, records, &mut fx);
    fx.clear();
    append(&mut replica, 2, Vec::new(), &mut fx);
    assert_eq!(remembered(&fx), None, "that little may be forgotten");
    // A crash takes the store back to its checkpoint: what it has merely applied counts as lacking.
    replica.on_applied(Seq(2), &mut fx);
    append(&mut replica, 3, Vec::new(), &mut fx);
    assert_eq!(remembered(&fx), Some(Seq(3)));
}

fn remembered(fx: &Effects) -> Option<Seq> {
    journal_effects(fx).iter().flat_map(|(_, ops)| ops.iter()).find_map(|op| match op {
        JournalOp::Meta(blob) => Durable::decode(blob.clone()).ok().map(|d| d.acked),
        _ => None,
    })
}

#[test]
fn a_copy_in_a_new_life_says_so_and_how_to_readmit_it() {
    for life in [1, 2] {
        let mut durable = durable(EPOCH);
        let member = ME;
        durable.config.current.votes = vec![Vote { member, incarnation: Incarnation(1), votes: 1 }];
        durable.config.current.sync = vec![SyncMember { member, incarnation: Incarnation(1), site: "s1".into() }];
        durable.incarnation = Incarnation(life);
        let recovered = Recovered {
            durable,
            last: LogBase::default(),
            epochs: Vec::new(),
            floor: Seq(1),
            lost_upto: None,
            applied: Seq::ZERO,
        };
        let status = Volume::recover(VOLUME, recovered, Tick(0), &mut Effects::new()).status(Tick(0));
        let own = status.members.iter().find(|m| m.id == ME).unwrap();
        assert_eq!(own.in_sync_set, life == 1);
        let said = status.conditions.iter().find(|c| c.name == "not-readmitted");
        assert_eq!(said.is_some(), life == 2);
        assert!(said.is_none_or(|c| c.remedy.contains("farshore member replace v s1")), "{said:?}");
    }
}

/// Class `flush`: a device may have completed what is durable here alone.
#[test]
fn a_device_whose_records_were_cut_is_not_taken_back() {
    for (class, cut, ended) in
        [(Durability::Flush, 5, EPOCH), (Durability::Flush, 8, Epoch::ZERO), (Durability::Write, 5, Epoch::ZERO)]
    {
        let mut fx = Effects::new();
        let mut replica = restarted(&log(EPOCH, 8), None, &mut fx);
        replica.d.config.volume.durability = class;
        replica.d.config.attached = Some(Attachment { member: ME, session: SessionId(1) });
        replica.truncate(Seq(cut));
        settle(&mut replica, &mut fx);
        assert_eq!(replica.d.ended, ended, "{class:?} cut at {cut}");
    }
}
