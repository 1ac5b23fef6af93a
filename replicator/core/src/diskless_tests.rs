//! A member without a copy: what it may hold, what it must not count for, and who helps it.

use crate::api::{Change, Command, Effects, Event, Io, Outcome, Promotion, Request, RequestId};
use crate::durable::{Durable, LogBase};
use crate::ids::{Incarnation, MemberId, Seq, SessionId};
use crate::record::Origin;
use crate::register::{DataRule, Durability, Member, MemberKind};
use crate::replica::Recovered;
use crate::volume::Volume;
use crate::volume_tests::{Cluster, DATA, LEASE_US, TWO_SITES, VOLUME};

const COPIES: [MemberId; 3] = [MemberId(0), MemberId(1), MemberId(2)];
const HERE: MemberId = MemberId(3);
const SESSION: SessionId = SessionId(7);
const KINDS: [MemberKind; 4] = [DATA, DATA, DATA, MemberKind::Diskless];

fn sites(names: [&str; 4]) -> Vec<String> {
    names.map(String::from).to_vec()
}

/// Three copies in sites of their own, and beside the first a node without one.
fn cluster() -> Cluster {
    Cluster::in_sites(&KINDS, &sites(["s0", "s1", "s2", "s0"]), TWO_SITES)
}

fn attach(cluster: &mut Cluster, writer: u128) -> Result<crate::api::Answer, crate::api::Refusal> {
    cluster.command(HERE, Command::Attach { writer, session: SESSION })
}

fn attached() -> Cluster {
    let mut cluster = cluster();
    attach(&mut cluster, 7).expect("it is attached");
    cluster
}

fn write(cluster: &mut Cluster, ids: std::ops::Range<u64>) {
    for id in ids {
        let io = Io::Write { offset: 0, data: vec![id as u8; 4096].into(), fua: false };
        cluster.feed(HERE, Event::Io(Request { id: RequestId(id), io, origin: Origin::default() }));
    }
    cluster.pass(LEASE_US / 10);
}

fn done(cluster: &Cluster) -> usize {
    cluster.completed.iter().filter(|(id, _, outcome)| *id == HERE && *outcome == Outcome::Done).count()
}

fn end(cluster: &Cluster, id: MemberId) -> Seq {
    cluster.volumes[&id].replica().end()
}

/// The daemon comes back with what its journal keeps of such a member, or on another disk with nothing of it.
fn restarts(cluster: &mut Cluster, incarnation: Option<Incarnation>) {
    let d = cluster.volumes[&HERE].replica().d.clone();
    let durable = match incarnation {
        Some(incarnation) => {
            Durable::first(HERE, incarnation, d.lineage, cluster.volumes[&COPIES[0]].replica().d.config.clone())
        }
        None => d,
    };
    let (last, epochs) = (LogBase::default(), Vec::new());
    let recovered = Recovered { durable, last, epochs, floor: Seq(1), lost_upto: None, applied: Seq::ZERO };
    cluster.volumes.insert(HERE, Volume::recover(VOLUME, recovered, cluster.now, &mut Effects::new()));
}

#[test]
fn it_serves_a_device_and_its_journal_gets_no_record() {
    let mut cluster = attached();
    write(&mut cluster, 0..5);
    cluster.pass(LEASE_US);
    assert_eq!(done(&cluster), 5);
    assert!(cluster.logs.get(&HERE).is_none_or(|log| log.is_empty()));
    for id in COPIES {
        assert_eq!((end(&cluster, id), cluster.logs[&id].len()), (end(&cluster, HERE), 6), "{id}");
    }
    let from = cluster.volumes[&HERE].read_from(cluster.now).expect("it has no store");
    assert_eq!((from.applied, from.members), (Seq(6), COPIES.to_vec()), "the copy of its site is the nearest");
    assert_eq!(cluster.volumes[&COPIES[0]].read_from(cluster.now), None);
    let memory = cluster.volumes[&HERE].replica().memory().expect("its log is there");
    assert_eq!(memory.bytes(), 0, "nobody lacks anything");
}

#[test]
fn what_is_in_memory_counts_for_nothing() {
    let mut cluster = attached();
    cluster.dead.extend([COPIES[1], COPIES[2]]);
    write(&mut cluster, 0..5);
    assert_eq!(done(&cluster), 0, "one copy and a memory are no two copies");
    cluster.dead.clear();
    for member in COPIES {
        cluster.feed(HERE, Event::Link { member, up: true });
    }
    cluster.pass(LEASE_US);
    assert_eq!(done(&cluster), 5);
}

#[test]
fn a_restart_begins_anew_with_what_the_members_have() {
    for incarnation in [None, Some(Incarnation(99))] {
        let mut cluster = attached();
        write(&mut cluster, 0..5);
        cluster.pass(LEASE_US);
        let before = cluster.volumes[&HERE].role_epoch();
        // One copy alone has what came last, and it has completed nowhere.
        cluster.dead.extend([COPIES[1], COPIES[2]]);
        write(&mut cluster, 5..8);
        restarts(&mut cluster, incarnation);
        assert_eq!(end(&cluster, HERE), Seq::ZERO);
        cluster.dead.clear();
        cluster.pass(2 * LEASE_US);
        let why = Promotion::Restart { session: SESSION };
        cluster.command(HERE, Command::Promote { writer: 8, why }).expect("the register names it");
        assert!(cluster.volumes[&HERE].role_epoch() > before);
        write(&mut cluster, 8..10);
        cluster.pass(LEASE_US);
        assert_eq!(done(&cluster), 7, "five before, and two now: the rest was told to nobody");
        for id in COPIES {
            assert_eq!(cluster.logs[&id], cluster.logs[&COPIES[0]], "{id}");
            assert_eq!(end(&cluster, id), Seq(12), "all of the donor's log is kept");
        }
    }
}

#[test]
fn whoever_takes_over_has_all_that_it_acknowledged() {
    let mut cluster = attached();
    write(&mut cluster, 0..5);
    cluster.dead.insert(HERE);
    cluster.pass(2 * LEASE_US);
    cluster.promote(COPIES[1]);
    assert!(cluster.logs[&COPIES[1]].len() >= 7);
    cluster.dead.clear();
    cluster.feed(COPIES[1], Event::Link { member: HERE, up: true });
    cluster.pass(LEASE_US);
    assert!(cluster.volumes[&HERE].primary().is_none(), "it has heard of the new epoch");
    assert_eq!(end(&cluster, HERE), Seq::ZERO, "and has forgotten what it had");
}

/// It is fed from a journal that has what it lacks, and shipped to from a store where none has it any more.
#[test]
fn a_member_that_lacks_what_is_forgotten_is_served_by_another() {
    for kept in [true, false] {
        let mut cluster = attached();
        let away = COPIES[2];
        cluster.dead.insert(away);
        write(&mut cluster, 0..20);
        cluster.pass(2 * LEASE_US);
        assert_eq!(cluster.volumes[&HERE].replica().memory().map(|m| m.bytes()), Some(0));
        if !kept {
            for id in [COPIES[0], COPIES[1]] {
                cluster.logs.get_mut(&id).expect("it has one").retain(|seq, _| *seq > Seq(10));
            }
        }
        cluster.dead.clear();
        cluster.feed(HERE, Event::Link { member: away, up: true });
        cluster.pass(LEASE_US);
        if kept {
            assert_eq!(end(&cluster, away), Seq(21));
            continue;
        }
        let to: Vec<MemberId> = cluster.shipments.iter().map(|(to, _)| *to).collect();
        assert_eq!(to, [away], "asked again, it does not begin anew");
        let source = [COPIES[0], COPIES[1]].into_iter().find(|id| {
            cluster.feed(*id, Event::Shipped { to: away });
            cluster.pass(LEASE_US);
            cluster.shipments.len() > 1
        });
        assert!(source.is_some(), "that came to nothing: it is shipped to once more");
    }
}

fn refused(cluster: &mut Cluster, id: MemberId, command: Command) -> &'static str {
    cluster.command(id, command).expect_err("it is refused").rule
}

#[test]
fn it_is_refused_what_needs_a_copy() {
    let mut flush = Cluster::of_class(Durability::Flush, &KINDS, &sites(["s0", "s1", "s2", "s0"]), TWO_SITES);
    assert_eq!(attach(&mut flush, 7).expect_err("a write completes beside the device").rule, "diskless-flush");
    let local = DataRule { w: 2, min_remote: 1, local: true };
    let mut beside = Cluster::in_sites(&KINDS, &sites(["s0", "s1", "s2", "s0"]), local);
    attach(&mut beside, 7).expect("its site has a copy");
    let mut alone = Cluster::in_sites(&KINDS, &sites(["s4", "s1", "s2", "s0"]), local);
    assert_eq!(attach(&mut alone, 7).expect_err("its site has none").rule, "diskless-local");

    let mut cluster = attached();
    cluster.pass(LEASE_US);
    let change = |change| Command::Change(change);
    let member = Member { id: MemberId(4), site: "s1".into(), node: "d".into(), kind: MemberKind::Diskless };
    let incarnation = Incarnation(9);
    let add = |votes| change(Change::Add { member: member.clone(), incarnation, votes });
    assert_eq!(refused(&mut cluster, HERE, add(1)), "diskless-counts");
    assert_eq!(refused(&mut cluster, HERE, change(Change::Readmit { member: HERE, incarnation })), "diskless-counts");
    assert_eq!(refused(&mut cluster, HERE, change(Change::Remove { member: HERE })), "member-primary");
    cluster.command(HERE, add(0)).expect("it counts for nothing");
    cluster.pass(LEASE_US);
    let config = cluster.volumes[&HERE].newest_config();
    assert!(config.is_diskless(MemberId(4)) && config.current.sync.len() == 3 && config.current.votes.len() == 3);
    assert_eq!(refused(&mut cluster, HERE, Command::Handover { to: MemberId(4) }), "handover-not-in-sync");
    cluster.command(HERE, change(Change::Remove { member: MemberId(4) })).expect("nobody needs it");
    assert!(cluster.volumes[&HERE].newest_config().member(MemberId(4)).is_none());

    cluster.command(HERE, Command::Detach { session: SESSION }).expect("it is detached");
    cluster.command(HERE, change(Change::Durability { durability: Durability::Flush })).expect("nobody is attached");
    cluster.pass(LEASE_US);
    assert_eq!(attach(&mut cluster, 9).expect_err("the class has changed").rule, "diskless-flush");
    let force = |id, members| (id, Command::Force { writer: 1, uuid: 2, members });
    for (id, command) in [force(COPIES[0], vec![COPIES[0], HERE]), force(HERE, vec![HERE])] {
        cluster.command(HERE, Command::Demote).expect("it is given up");
        assert_eq!(refused(&mut cluster, id, command), "force-no-copy");
    }
}

/// As the engine makes one: a copy names its session, gives the epoch up, and the node wins one for a session that is named.
#[test]
fn it_begins_with_a_session_that_a_copy_has_named() {
    let mut cluster = cluster();
    let published = Command::Promote { writer: 8, why: Promotion::Published { session: SESSION } };
    cluster.promote(COPIES[0]);
    assert_eq!(refused(&mut cluster, HERE, published.clone()), "attach-not-published", "nobody is named");
    cluster.promote(COPIES[0]);
    let attached = Some(crate::register::Attachment { member: HERE, session: SESSION });
    cluster.command(COPIES[0], Command::Change(Change::Attached { attached })).expect("it is written down");
    assert_eq!(
        refused(&mut cluster, COPIES[0], Command::Change(Change::Remove { member: HERE })),
        "member-attached",
        "who is named is not taken out"
    );
    cluster.command(COPIES[0], Command::Demote).expect("it is given up");
    let other = Command::Promote { writer: 9, why: Promotion::Published { session: SessionId(8) } };
    assert_eq!(refused(&mut cluster, HERE, other), "attach-not-published");
    cluster.command(HERE, published.clone()).expect("it is named");
    write(&mut cluster, 0..3);
    assert_eq!(done(&cluster), 3);

    // The session ends elsewhere, while it knows nothing of it.
    cluster.dead.insert(HERE);
    cluster.pass(2 * LEASE_US);
    let why = Promotion::Fence { member: HERE };
    cluster.command(COPIES[0], Command::Promote { writer: 10, why }).expect("it is silent");
    cluster.command(COPIES[0], Command::Change(Change::Attached { attached: None })).expect("nobody is named");
    cluster.dead.clear();
    cluster.feed(COPIES[0], Event::Link { member: HERE, up: true });
    cluster.pass(LEASE_US);
    assert_eq!(refused(&mut cluster, HERE, published), "attach-not-published", "too late");
    write(&mut cluster, 3..5);
    assert_eq!(done(&cluster), 3, "nothing more");
}
