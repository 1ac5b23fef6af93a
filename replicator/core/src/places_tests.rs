//! An observer in the place of a lost member, on whole volumes.

use crate::api::{Change, Command, Event, Io, Promotion, Request, RequestId};
use crate::ids::{Incarnation, MemberId, SessionId};
use crate::limits::REST_LEASES;
use crate::record::Origin;
use crate::register::{Configuration, MemberKind, Mode};
use crate::volume_tests::{ALONE, Cluster, DATA, LEASE_US, TWO_SITES};

const HOME: MemberId = MemberId(0);
const AWAY: MemberId = MemberId(1);
const WITNESS: MemberId = MemberId(2);
const FAR: MemberId = MemberId(3);
const AFTER_US: u64 = 5 * LEASE_US;

/// Two sites, a witness and so many observers.
fn observed(observers: usize) -> Cluster {
    let mut kinds = vec![DATA, DATA, MemberKind::Witness];
    kinds.extend(vec![MemberKind::Observer; observers]);
    let mut cluster = Cluster::of(&kinds, TWO_SITES);
    cluster.promote(HOME);
    cluster.command(HOME, Command::Attach { writer: 7, session: SessionId(7) }).expect("it is attached");
    set(&mut cluster, Change::PromoteObserver { after_us: Some(AFTER_US) });
    cluster.pass(LEASE_US);
    cluster
}

fn set(cluster: &mut Cluster, change: Change) {
    cluster.command(HOME, Command::Change(change)).expect("it is set");
}

fn write(cluster: &mut Cluster, at: MemberId, id: u64) {
    let io = Io::Write { offset: 0, data: vec![1; 4096].into(), fua: false };
    cluster.feed(at, Event::Io(Request { id: RequestId(id), io, origin: Origin::default() }));
}

fn lose(cluster: &mut Cluster, id: MemberId) {
    cluster.dead.insert(id);
    for other in [HOME, AWAY, WITNESS, FAR].into_iter().filter(|other| *other != id) {
        cluster.feed(other, Event::Link { member: id, up: false });
    }
}

fn find(cluster: &mut Cluster, id: MemberId) {
    cluster.dead.remove(&id);
    for other in [HOME, AWAY, WITNESS, FAR].into_iter().filter(|other| *other != id) {
        cluster.feed(other, Event::Link { member: id, up: true });
    }
}

fn config(cluster: &Cluster, holder: MemberId) -> &Configuration {
    cluster.volumes[&holder].primary().expect("it holds the epoch").config()
}

fn sync(config: &Configuration) -> Vec<MemberId> {
    let mut ids: Vec<MemberId> = config.current.sync.iter().map(|s| s.member).collect();
    ids.sort_unstable();
    ids
}

fn voters(config: &Configuration) -> Vec<MemberId> {
    let mut ids: Vec<MemberId> = config.current.votes.iter().map(|v| v.member).collect();
    ids.sort_unstable();
    ids
}

fn told(cluster: &Cluster, rule: &str) -> usize {
    cluster.edges.iter().filter(|(r, _)| *r == rule).count()
}

#[test]
fn an_observer_takes_the_place_and_the_vote_and_gives_both_back() {
    let mut cluster = observed(1);
    lose(&mut cluster, AWAY);
    write(&mut cluster, HOME, 1);
    cluster.pass(AFTER_US - LEASE_US);
    assert_eq!((cluster.completed.len(), sync(config(&cluster, HOME))), (0, vec![HOME, AWAY]), "it is too early");
    cluster.pass(3 * LEASE_US);
    assert_eq!(sync(config(&cluster, HOME)), [HOME, FAR], "{:?}", cluster.edges);
    assert_eq!(voters(config(&cluster, HOME)), [HOME, WITNESS, FAR]);
    assert_eq!(config(&cluster, HOME).current.rule, TWO_SITES, "never with fewer copies");
    assert_eq!((cluster.completed.len(), told(&cluster, "observer-promoted")), (1, 1));
    let (_, text) = cluster.edges.iter().find(|(rule, _)| *rule == "observer-promoted").expect("it is told");
    assert!(text.contains("in s3 stands in for s1") && text.contains("lost for 5 s"), "{text}");
    let status = cluster.volumes[&HOME].status(cluster.now);
    assert_eq!(status.state, "degraded", "a member is lost");
    assert!(status.conditions.iter().any(|c| c.name == "observer-promoted"), "{:?}", status.conditions);
    assert!(status.members[3].in_sync_set && !status.members[1].in_sync_set);

    find(&mut cluster, AWAY);
    cluster.pass(REST_LEASES * LEASE_US);
    assert_eq!(sync(config(&cluster, HOME)), [HOME, AWAY, FAR], "it is back, and the observer stays for a while");
    assert_eq!(voters(config(&cluster, HOME)), [HOME, WITNESS, FAR]);
    cluster.pass(AFTER_US);
    assert_eq!(sync(config(&cluster, HOME)), [HOME, AWAY], "{:?}", cluster.edges);
    assert_eq!(voters(config(&cluster, HOME)), [HOME, AWAY, WITNESS]);
    assert_eq!((told(&cluster, "observer-rests"), config(&cluster, HOME).stand_ins.len()), (1, 0));
    let status = cluster.volumes[&HOME].status(cluster.now);
    assert_eq!((status.state.as_str(), status.conditions.len()), ("healthy", 0));
    // Lost again after a while: the same again.
    lose(&mut cluster, AWAY);
    cluster.pass(AFTER_US + 2 * LEASE_US);
    assert_eq!(sync(config(&cluster, HOME)), [HOME, FAR]);
}

#[test]
fn what_was_acknowledged_with_an_observer_survives_the_other_site() {
    let mut cluster = observed(1);
    lose(&mut cluster, AWAY);
    cluster.pass(AFTER_US + 2 * LEASE_US);
    write(&mut cluster, HOME, 1);
    cluster.pass(LEASE_US);
    assert_eq!(cluster.completed.len(), 1);
    let acked = cluster.volumes[&HOME].primary().expect("it leads").acked;
    lose(&mut cluster, HOME);
    cluster.ask(FAR, Command::Promote { writer: 99, why: Promotion::Takeover });
    cluster.pass(LEASE_US);
    let primary = cluster.volumes[&FAR].primary().expect("it won with the witness");
    assert!(cluster.volumes[&FAR].replica().end() > acked && !primary.is_open(), "its rule wants one more");
    // The one that was lost first makes it two; while the observer leads it does not rest.
    find(&mut cluster, AWAY);
    cluster.pass(10 * AFTER_US);
    assert_eq!(sync(config(&cluster, FAR)), [HOME, AWAY, FAR]);
    assert!(cluster.volumes[&FAR].primary().expect("it leads").is_open());
    find(&mut cluster, HOME);
    cluster.pass(LEASE_US);
    cluster.command(FAR, Command::Handover { to: HOME }).expect("it is handed over");
    cluster.promote(HOME);
    cluster.pass(AFTER_US + REST_LEASES * LEASE_US);
    assert_eq!(
        (sync(config(&cluster, HOME)), voters(config(&cluster, HOME))),
        (vec![HOME, AWAY], vec![HOME, AWAY, WITNESS])
    );
}

#[test]
fn a_volume_without_observers_says_that_nobody_could_stand_in() {
    let mut cluster = observed(0);
    let says = |cluster: &Cluster| {
        cluster.volumes[&HOME].status(cluster.now).conditions.iter().any(|c| c.name == "observer-missing")
    };
    assert!(says(&cluster));
    lose(&mut cluster, AWAY);
    cluster.pass(4 * AFTER_US);
    assert_eq!(sync(config(&cluster, HOME)), [HOME, AWAY]);
    set(&mut cluster, Change::PromoteObserver { after_us: None });
    assert!(!says(&cluster));
}

#[test]
fn an_observer_can_be_stood_in_for_as_well() {
    let mut cluster = observed(2);
    let next = MemberId(4);
    lose(&mut cluster, AWAY);
    cluster.pass(AFTER_US + 2 * LEASE_US);
    assert_eq!(sync(config(&cluster, HOME)), [HOME, FAR]);
    lose(&mut cluster, FAR);
    cluster.pass(AFTER_US + 2 * LEASE_US);
    assert_eq!(
        (sync(config(&cluster, HOME)), config(&cluster, HOME).stand_ins[0].lost.member),
        (vec![HOME, next], AWAY)
    );
    find(&mut cluster, AWAY);
    cluster.pass(AFTER_US + REST_LEASES * LEASE_US);
    assert_eq!(voters(config(&cluster, HOME)), [HOME, AWAY, WITNESS]);
}

#[test]
fn one_that_comes_and_goes_does_not_move_the_place_each_time() {
    let mut cluster = observed(1);
    for _ in 0..30 {
        lose(&mut cluster, AWAY);
        cluster.pass(2 * LEASE_US);
        find(&mut cluster, AWAY);
        cluster.pass(2 * LEASE_US);
    }
    assert_eq!(told(&cluster, "observer-promoted"), 0, "never lost for long enough");
    lose(&mut cluster, AWAY);
    cluster.pass(AFTER_US + 2 * LEASE_US);
    for _ in 0..30 {
        find(&mut cluster, AWAY);
        cluster.pass(2 * LEASE_US);
        lose(&mut cluster, AWAY);
        cluster.pass(2 * LEASE_US);
    }
    assert_eq!((told(&cluster, "observer-promoted"), told(&cluster, "observer-rests")), (1, 0));
}

#[test]
fn nobody_is_promoted_without_the_control_quorum_or_a_whole_observer() {
    let mut cluster = observed(1);
    lose(&mut cluster, AWAY);
    lose(&mut cluster, WITNESS);
    cluster.pass(4 * AFTER_US);
    assert_eq!(told(&cluster, "observer-promoted"), 0);
    lose(&mut cluster, FAR);
    find(&mut cluster, WITNESS);
    cluster.pass(4 * AFTER_US);
    assert_eq!(told(&cluster, "observer-promoted"), 0);
    find(&mut cluster, FAR);
    cluster.pass(2 * LEASE_US);
    assert_eq!(sync(config(&cluster, HOME)), [HOME, FAR]);
}

#[test]
fn who_is_removed_for_good_leaves_its_place_to_the_observer() {
    let mut cluster = observed(1);
    lose(&mut cluster, AWAY);
    cluster.pass(AFTER_US + 2 * LEASE_US);
    let behind = Change::Mode { mode: Mode::Async { rpo_us: 0 }, rule: ALONE, votes: Vec::new() };
    let refusal = cluster.command(HOME, Command::Change(behind)).expect_err("it counts");
    assert_eq!(refusal.rule, "mode-stand-in");
    set(&mut cluster, Change::Remove { member: AWAY });
    cluster.pass(LEASE_US);
    let config = config(&cluster, HOME);
    assert_eq!((sync(config), voters(config)), (vec![HOME, FAR], vec![HOME, WITNESS, FAR]));
    assert!(config.stand_ins.is_empty() && config.member(AWAY).is_none());
    assert_eq!(config.member(FAR).map(|m| m.kind), Some(DATA));
}

#[test]
fn another_disk_of_the_lost_member_waits_to_be_readmitted() {
    let mut cluster = observed(1);
    lose(&mut cluster, AWAY);
    cluster.pass(AFTER_US + 2 * LEASE_US);
    set(&mut cluster, Change::Readmit { member: AWAY, incarnation: Incarnation(77) });
    assert_eq!(voters(config(&cluster, HOME)), [HOME, WITNESS, FAR], "the vote is the observer's");
    find(&mut cluster, AWAY);
    cluster.pass(4 * AFTER_US);
    assert_eq!(sync(config(&cluster, HOME)), [HOME, FAR], "its old disk is not the one that is meant");
    let status = cluster.volumes[&HOME].status(cluster.now);
    assert!(status.conditions.iter().any(|c| c.name == "member-not-readmitted"), "{:?}", status.conditions);
    set(&mut cluster, Change::Readmit { member: AWAY, incarnation: Incarnation(u128::from(AWAY.0) + 1) });
    cluster.pass(4 * AFTER_US);
    assert_eq!(voters(config(&cluster, HOME)), [HOME, AWAY, WITNESS]);
}
