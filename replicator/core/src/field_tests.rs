//! What has gone wrong with replicated disks in the field, on whole volumes. The whole list, each with its test, is in
//! docs/coverage.md.

use crate::api::{Change, Command, Event, Io, Promotion, Request, RequestId};
use crate::ids::{MemberId, Seq, SessionId};
use crate::record::Origin;
use crate::register::MemberKind;
use crate::volume_tests::{ALONE, Cluster, DATA, LEASE_US, TWO_SITES};

const HOME: MemberId = MemberId(0);
const AWAY: MemberId = MemberId(1);
const WITNESS: MemberId = MemberId(2);

fn pair_with_witness() -> Cluster {
    let mut cluster = Cluster::of(&[DATA, DATA, MemberKind::Witness], TWO_SITES);
    cluster.promote(HOME);
    cluster.command(HOME, Command::Attach { writer: 7, session: SessionId(7) }).expect("it is attached");
    cluster.pass(LEASE_US);
    cluster
}

fn write(cluster: &mut Cluster, ids: std::ops::Range<u64>) {
    for id in ids {
        let io = Io::Write { offset: 0, data: vec![1; 4096].into(), fua: false };
        cluster.feed(HOME, Event::Io(Request { id: RequestId(id), io, origin: Origin::default() }));
    }
    cluster.pass(LEASE_US / 10);
}

/// The other copy is gone and was left out; home goes on with the witness.
fn alone() -> Cluster {
    let mut cluster = pair_with_witness();
    cluster.dead.insert(AWAY);
    cluster.feed(HOME, Event::Link { member: AWAY, up: false });
    let reduce = Change::Reduce { without: vec![AWAY], rule: ALONE };
    cluster.command(HOME, Command::Change(reduce)).expect("it is left out");
    write(&mut cluster, 0..20);
    assert_eq!(cluster.completed.len(), 20);
    cluster
}

fn comes_back(cluster: &mut Cluster) {
    cluster.dead.remove(&AWAY);
    cluster.feed(HOME, Event::Link { member: AWAY, up: true });
}

#[test]
fn a_witness_that_is_gone_keeps_no_copy_out() {
    let mut cluster = alone();
    cluster.dead.insert(WITNESS);
    comes_back(&mut cluster);
    cluster.pass(4 * LEASE_US);
    assert_eq!(cluster.terms(HOME).sync.len(), 2, "{:?}", cluster.edges);
    assert_eq!(cluster.terms(HOME).rule, TWO_SITES, "and is waited for again");
}

#[test]
fn a_copy_that_is_shipped_and_gets_nowhere_is_never_called_healthy() {
    let mut cluster = alone();
    // The journal of home has let go of what it lacks.
    if let Some(log) = cluster.logs.get_mut(&HOME) {
        *log = log.split_off(&Seq(10));
    }
    comes_back(&mut cluster);
    cluster.pass(100 * LEASE_US);
    assert_eq!(cluster.shipments.len(), 1, "{:?}", cluster.shipments);
    let status = cluster.volumes[&HOME].status(cluster.now);
    let away = &status.members[1];
    assert_eq!((status.state.as_str(), away.state, away.in_sync_set), ("degraded", "resyncing", false));
    assert!(away.lag_records >= 20 && away.lag_us >= 100 * LEASE_US, "it is as far behind as it is: {away:?}");
}

#[test]
fn taking_turns_in_a_hundred_milliseconds_copies_nothing() {
    let mut cluster = pair_with_witness();
    write(&mut cluster, 0..20);
    let before = cluster.now;
    cluster.command(HOME, Command::Detach { session: SessionId(7) }).expect("it is detached");
    for turn in 0..3 {
        let why = Promotion::Verb;
        for id in [AWAY, HOME] {
            let writer = 100 + turn * 10 + u128::from(id.0);
            let _ = cluster.command(id, Command::Promote { writer, why });
            let _ = cluster.command(id, Command::Demote);
        }
    }
    let writer = 999;
    cluster.command(HOME, Command::Promote { writer, why: Promotion::Takeover }).expect("it is promoted");
    assert!(cluster.now.since(before) <= 10 * LEASE_US);
    cluster.pass(3 * LEASE_US);
    assert_eq!(cluster.shipments, [], "nobody lacked anything");
    assert!(cluster.edges.iter().all(|(rule, _)| *rule != "resync-begin"), "{:?}", cluster.edges);
    assert_eq!(cluster.terms(HOME).sync.len(), 2);
    let primary = cluster.volumes[&HOME].primary().expect("it holds the epoch");
    assert_eq!(primary.peers[&AWAY].durable, primary.acked);
}

/// Two copies of the same length, and of other histories: neither is called in sync with the other.
#[test]
fn copies_that_parted_are_called_so() {
    let mut cluster = pair_with_witness();
    cluster.dead.extend([HOME, WITNESS]);
    cluster.pass(2 * LEASE_US);
    let force = Command::Force { writer: 50, uuid: 51, members: vec![AWAY] };
    cluster.command(AWAY, force).expect("it goes on by force");
    cluster.dead.clear();
    cluster.pass(3 * LEASE_US);
    let old = cluster.volumes[&HOME].status(cluster.now);
    assert_eq!(old.state, "diverged", "{old:?}");
    assert!(old.conditions.iter().any(|c| c.name == "diverged" && c.remedy.contains("--discard")));
    let new = cluster.volumes[&AWAY].status(cluster.now);
    let home = new.members.iter().find(|m| m.id == HOME);
    assert!(home.is_none_or(|m| !m.in_sync_set && m.state != "replicating"), "{home:?}");
}
