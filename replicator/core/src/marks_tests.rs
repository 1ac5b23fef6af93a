//! Marks and holds on whole volumes: their place in the order, and every way in which a hold can break.

use std::collections::BTreeMap;

use crate::api::{
    Answer, Change, Command, Event, HoldId, Io, IoFault, Outcome, Promotion, Refusal, Request, RequestId,
};
use crate::ids::{MemberId, Seq, SessionId};
use crate::limits::{COMMANDS_MAX, HOLD_US_MAX, SHARE_RESERVE_BYTES};
use crate::mark::{Creation, Mark, SnapshotId};
use crate::record::{Kind, Origin, Record};
use crate::register::Durability;
use crate::volume_tests::{ALONE, Cluster, DATA, LEASE_US, TWO_SITES};

const FIRST: MemberId = MemberId(0);
const SECOND: MemberId = MemberId(1);
const THIRD: MemberId = MemberId(2);

fn create(id: u128) -> Mark {
    let name = format!("s{id}");
    let id = SnapshotId(id);
    Mark::Create(Creation { id, group: None, created_unix_ms: 5, size_bytes: 0, name, labels: BTreeMap::new() })
}

fn mark(id: u128, under: Option<HoldId>) -> Command {
    Command::Mark { mark: create(id), under }
}

/// Three copies, the first of which holds the epoch, with a device.
fn attached() -> Cluster {
    of_class(Durability::Write)
}

fn of_class(class: Durability) -> Cluster {
    let sites = ["s0", "s1", "s2"].map(String::from);
    let mut cluster = Cluster::of_class(class, &[DATA, DATA, DATA], &sites, TWO_SITES);
    cluster.command(FIRST, Command::Attach { writer: 77, session: SessionId(1) }).expect("it is attached");
    cluster.pass(LEASE_US);
    cluster
}

impl Cluster {
    fn write(&mut self, id: u64) {
        let io = Io::Write { offset: 0, data: vec![id as u8; 4096].into(), fua: false };
        self.feed(FIRST, Event::Io(Request { id: RequestId(id), io, origin: Origin::default() }));
    }

    fn flush(&mut self, id: u64) {
        self.feed(FIRST, Event::Io(Request { id: RequestId(id), io: Io::Flush, origin: Origin::default() }));
    }

    fn outcome(&self, id: u64) -> Option<&Outcome> {
        self.completed.iter().find(|(_, request, _)| *request == RequestId(id)).map(|(.., outcome)| outcome)
    }

    fn is_done(&self, id: u64) -> bool {
        self.outcome(id) == Some(&Outcome::Done)
    }

    fn held(&mut self) -> HoldId {
        match self.command(FIRST, Command::Hold) {
            Ok(Answer::Held { hold }) => hold,
            other => panic!("{other:?} to a hold"),
        }
    }

    fn marked(&mut self, id: u128, under: Option<HoldId>) -> Seq {
        match self.command(FIRST, mark(id, under)) {
            Ok(Answer::Marked { seq }) => seq,
            other => panic!("{other:?} to a mark"),
        }
    }

    fn answer(&mut self, asked: u64) -> Option<Result<Answer, Refusal>> {
        self.answers.remove(&asked)
    }

    fn record(&self, member: MemberId, seq: Seq) -> &Record {
        &self.logs[&member][&seq]
    }
}

#[track_caller]
fn refused(answer: Option<Result<Answer, Refusal>>, rule: &str) {
    assert_eq!(answer.expect("it is answered").expect_err("it is refused").rule, rule);
}

#[test]
fn a_mark_has_one_place_on_every_replica_and_knows_the_size() {
    let mut cluster = attached();
    cluster.write(1);
    let seq = cluster.marked(9, None);
    cluster.write(2);
    cluster.pass(LEASE_US);
    for member in [FIRST, SECOND, THIRD] {
        let record = cluster.record(member, seq);
        let Ok(Mark::Create(creation)) = Mark::decode(record.payload.clone()) else { panic!("{record:?}") };
        assert_eq!((record.kind, creation.id, creation.size_bytes), (Kind::SnapMark, SnapshotId(9), 1 << 20));
        assert_eq!(cluster.record(member, seq.prev()).kind, Kind::Write);
        assert_eq!(cluster.record(member, seq.next()).kind, Kind::Write);
    }
    assert!(cluster.is_done(1) && cluster.is_done(2));
}

#[test]
fn a_mark_is_answered_when_it_is_acked_and_needs_no_device() {
    let mut cluster = attached();
    cluster.command(FIRST, Command::Detach { session: SessionId(1) }).expect("it is detached");
    cluster.dead.extend([SECOND, THIRD]);
    let asked = cluster.ask(FIRST, mark(9, None));
    cluster.pass(LEASE_US);
    assert_eq!(cluster.answer(asked), None, "it is on one disk alone");
    cluster.dead.clear();
    cluster.pass(2 * LEASE_US);
    assert!(matches!(cluster.answer(asked), Some(Ok(Answer::Marked { .. }))));
}

#[test]
fn a_mark_that_is_not_acked_when_the_epoch_ends_is_unknown() {
    let mut cluster = attached();
    cluster.dead.extend([SECOND, THIRD]);
    let asked = cluster.ask(FIRST, mark(9, None));
    cluster.dead = [FIRST].into();
    cluster.promote(SECOND);
    cluster.dead.clear();
    cluster.pass(2 * LEASE_US);
    refused(cluster.answer(asked), "mark-unknown");
    for command in [mark(9, None), Command::Hold] {
        let asked = cluster.ask(FIRST, command);
        refused(cluster.answer(asked), "not-primary");
    }
}

#[test]
fn what_can_not_be_a_mark_is_refused_and_so_is_one_too_many() {
    let mut cluster = attached();
    let asked = cluster.ask(FIRST, Command::Mark { mark: create(0), under: None });
    refused(cluster.answer(asked), "mark-invalid");
    cluster.dead.extend([SECOND, THIRD]);
    let asked: Vec<u64> = (0..=COMMANDS_MAX as u128).map(|id| cluster.ask(FIRST, mark(id + 1, None))).collect();
    let refusals = asked.iter().filter_map(|asked| cluster.answer(*asked)).count();
    assert_eq!(refusals, 1);
}

/// What is un-acked must fit the journal, marks as well: one more waits, and goes before the writes that wait.
#[test]
fn a_mark_waits_for_room_like_a_write() {
    let mut cluster = attached();
    cluster.dead.extend([SECOND, THIRD]);
    cluster.feed(FIRST, Event::JournalShare { bytes: SHARE_RESERVE_BYTES + 20_000 });
    let end = cluster.volumes[&FIRST].replica().end();
    for id in 1..4 {
        cluster.write(id);
    }
    let asked = cluster.ask(FIRST, mark(9, None));
    assert_eq!(cluster.volumes[&FIRST].replica().end(), Seq(end.0 + 2), "there is room for two writes");
    cluster.dead.clear();
    cluster.pass(2 * LEASE_US);
    assert_eq!(cluster.answer(asked), Some(Ok(Answer::Marked { seq: Seq(end.0 + 3) })));
    assert!(cluster.is_done(3));
    // Marks that nobody has acked take the room of others, too.
    cluster.dead.extend([SECOND, THIRD]);
    let end = cluster.volumes[&FIRST].replica().end();
    for id in 20..30 {
        cluster.ask(FIRST, mark(id, None));
    }
    let appended = cluster.volumes[&FIRST].replica().end().since(end);
    assert!((2..6).contains(&appended), "{appended} marks are on their way");
}

/// A device that is gone leaves its records behind, and they keep their room until they are acked.
#[test]
fn what_a_closed_device_has_left_un_acked_still_counts() {
    let mut cluster = attached();
    cluster.dead.extend([SECOND, THIRD]);
    cluster.feed(FIRST, Event::JournalShare { bytes: SHARE_RESERVE_BYTES + 20_000 });
    cluster.write(1);
    cluster.write(2);
    let end = cluster.volumes[&FIRST].replica().end();
    cluster.ask(FIRST, Command::Detach { session: SessionId(1) });
    assert!(matches!(cluster.outcome(1), Some(Outcome::Fault(IoFault::Fenced(_)))));
    cluster.ask(FIRST, mark(9, None));
    assert_eq!(cluster.volumes[&FIRST].replica().end(), end, "there is no room");
}

#[test]
fn what_is_appended_under_a_hold_completes_after_it() {
    for class in [Durability::Write, Durability::Flush] {
        let mut cluster = of_class(class);
        let hold = cluster.held();
        cluster.write(1);
        assert!(cluster.is_done(1), "nothing is held before there is a mark");
        let seq = cluster.marked(9, Some(hold));
        let another = cluster.ask(FIRST, Command::Hold);
        refused(cluster.answer(another), "hold-running");
        cluster.write(2);
        cluster.flush(3);
        cluster.pass(LEASE_US / 4);
        assert!(cluster.outcome(2).is_none());
        assert!(cluster.is_done(3), "it covers what completed before the mark");
        let replica = cluster.volumes[&FIRST].replica();
        assert!(replica.acked >= replica.end(), "acked all the same");
        assert_eq!(cluster.command(FIRST, Command::Release { hold }), Ok(Answer::Done));
        assert!(cluster.is_done(2));
        assert_eq!(cluster.record(SECOND, seq).kind, Kind::SnapMark);
        // Once only.
        let again = cluster.ask(FIRST, Command::Release { hold });
        refused(cluster.answer(again), "hold-broken");
        cluster.held();
    }
}

/// A mark under a hold has its place at once; that it is acked is the release's to say.
#[test]
fn a_release_waits_until_the_marks_are_acked_and_the_epoch_is_confirmed() {
    let mut cluster = attached();
    let hold = cluster.held();
    cluster.dead.extend([SECOND, THIRD]);
    let marked = cluster.ask(FIRST, mark(9, Some(hold)));
    assert!(matches!(cluster.answer(marked), Some(Ok(Answer::Marked { .. }))));
    cluster.write(1);
    let released = cluster.ask(FIRST, Command::Release { hold });
    cluster.pass(LEASE_US / 2);
    assert_eq!(cluster.answer(released), None);
    cluster.dead.clear();
    cluster.pass(LEASE_US);
    assert_eq!(cluster.answer(released), Some(Ok(Answer::Done)));
    assert!(cluster.is_done(1));
}

#[test]
fn a_holder_that_may_have_been_deposed_does_not_vouch_for_its_hold() {
    for takes_over in [true, false] {
        let mut cluster = attached();
        let hold = cluster.held();
        cluster.marked(9, Some(hold));
        cluster.dead = [FIRST].into();
        if takes_over {
            cluster.promote(SECOND);
        }
        // Nothing reaches it; it is as sure of its epoch as before.
        cluster.dead = [SECOND, THIRD].into();
        cluster.pass(10_000);
        let released = cluster.ask(FIRST, Command::Release { hold });
        assert_eq!(cluster.answer(released), None);
        cluster.pass(HOLD_US_MAX + LEASE_US);
        refused(cluster.answer(released), "hold-broken");
    }
}

#[test]
fn a_hold_ends_by_itself_and_is_broken_then() {
    let mut cluster = attached();
    let hold = cluster.held();
    let first = cluster.marked(8, Some(hold));
    cluster.write(1);
    cluster.pass(HOLD_US_MAX - 20_000);
    assert!(cluster.outcome(1).is_none());
    cluster.pass(40_000);
    assert!(cluster.is_done(1));
    for command in [mark(9, Some(hold)), Command::Release { hold }] {
        let asked = cluster.ask(FIRST, command);
        refused(cluster.answer(asked), "hold-broken");
    }
    let seq = cluster.marked(10, None);
    let mut between = cluster.logs[&FIRST].range(first.next()..seq);
    assert!(between.all(|(_, r)| r.kind != Kind::SnapMark), "the refused mark is nowhere");
}

#[test]
fn a_handover_breaks_a_hold() {
    let mut cluster = attached();
    let hold = cluster.held();
    cluster.marked(9, Some(hold));
    cluster.write(1);
    assert!(cluster.outcome(1).is_none());
    cluster.command(FIRST, Command::Handover { to: SECOND }).expect("it is handed over");
    assert!(cluster.is_done(1));
    let asked = cluster.ask(FIRST, Command::Release { hold });
    refused(cluster.answer(asked), "not-primary");
    // While one runs nothing new begins.
    let mut cluster = attached();
    cluster.dead.insert(SECOND);
    cluster.write(1);
    cluster.ask(FIRST, Command::Handover { to: SECOND });
    for command in [mark(9, None), Command::Hold] {
        let asked = cluster.ask(FIRST, command);
        refused(cluster.answer(asked), "handover-running");
    }
}

/// The same node holds an epoch again; the hold was of the one before.
#[test]
fn a_hold_does_not_outlive_its_epoch() {
    let mut cluster = attached();
    let hold = cluster.held();
    cluster.marked(8, Some(hold));
    cluster.write(1);
    cluster.promote(SECOND);
    cluster.pass(LEASE_US);
    assert!(matches!(cluster.outcome(1), Some(Outcome::Fault(_))));
    cluster.command(FIRST, Command::Promote { writer: 1000, why: Promotion::Takeover }).expect("it is promoted");
    let again = cluster.held();
    assert!(again.n == hold.n && again != hold);
    for command in [mark(9, Some(hold)), Command::Release { hold }] {
        let asked = cluster.ask(FIRST, command);
        refused(cluster.answer(asked), "hold-broken");
    }
    assert_eq!(cluster.command(FIRST, Command::Release { hold: again }), Ok(Answer::Done));
}

/// Without its device the volume stays held: another device in the same epoch must not complete either.
#[test]
fn a_hold_outlives_its_device() {
    let mut cluster = attached();
    let hold = cluster.held();
    cluster.marked(9, Some(hold));
    cluster.command(FIRST, Command::Detach { session: SessionId(1) }).expect("it is detached");
    cluster.command(FIRST, Command::Attach { writer: 78, session: SessionId(2) }).expect("it is attached");
    cluster.write(1);
    cluster.pass(LEASE_US / 4);
    assert!(cluster.outcome(1).is_none());
    assert_eq!(cluster.command(FIRST, Command::Release { hold }), Ok(Answer::Done));
    assert!(cluster.is_done(1));
}

/// With one copy there is nobody else to ask.
#[test]
fn a_single_copy_is_cut_like_any_other() {
    let mut cluster = Cluster::of(&[DATA], ALONE);
    cluster.command(FIRST, Command::Attach { writer: 77, session: SessionId(1) }).expect("it is attached");
    let hold = cluster.held();
    cluster.marked(9, Some(hold));
    cluster.write(1);
    assert!(cluster.outcome(1).is_none());
    assert_eq!(cluster.command(FIRST, Command::Release { hold }), Ok(Answer::Done));
    assert!(cluster.is_done(1));
}

/// A size that changes between the question and the mark's place is the newer one.
#[test]
fn a_mark_has_the_size_of_its_place() {
    let mut cluster = attached();
    cluster.command(FIRST, Command::Change(Change::Resize { size_bytes: 2 << 20 })).expect("it grows");
    let seq = cluster.marked(9, None);
    let payload = cluster.record(THIRD, seq).payload.clone();
    assert!(matches!(Mark::decode(payload), Ok(Mark::Create(Creation { size_bytes, .. })) if size_bytes == 2 << 20));
}
