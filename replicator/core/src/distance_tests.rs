//! The modes on whole volumes: who leaves the sync set by itself and comes back, and who waits for its schedule.

use crate::api::{Change, Command, Event, Io, Request, RequestId};
use crate::ids::{MemberId, Seq, SessionId};
use crate::limits::{REJOIN_LEASES, STAY_LEASES};
use crate::record::Origin;
use crate::register::{MemberKind, Mode};
use crate::volume_tests::{ALONE, Cluster, DATA, LEASE_US, TWO_SITES};

const HOME: MemberId = MemberId(0);
const AWAY: MemberId = MemberId(1);
const ADAPTIVE: Mode = Mode::Adaptive { max_commit_latency_us: 100_000, max_lag_bytes: 0 };

fn pair_with_witness() -> Cluster {
    let mut cluster = Cluster::of(&[DATA, DATA, MemberKind::Witness], TWO_SITES);
    cluster.promote(HOME);
    cluster.command(HOME, Command::Attach { writer: 7, session: SessionId(7) }).expect("it is attached");
    cluster.pass(LEASE_US);
    cluster
}

fn set(cluster: &mut Cluster, change: Change) {
    cluster.command(HOME, Command::Change(change)).expect("it is set");
}

fn mode(mode: Mode) -> Change {
    Change::Mode { mode, rule: TWO_SITES, votes: Vec::new() }
}

fn write(cluster: &mut Cluster, id: u64) {
    let io = Io::Write { offset: 0, data: vec![1; 4096].into(), fua: false };
    cluster.feed(HOME, Event::Io(Request { id: RequestId(id), io, origin: Origin::default() }));
}

fn in_sync(cluster: &Cluster) -> usize {
    cluster.terms(HOME).sync.len()
}

fn told(cluster: &Cluster, rule: &str) -> usize {
    cluster.edges.iter().filter(|(r, _)| *r == rule).count()
}

#[test]
fn a_remote_that_is_slow_for_long_leaves_and_comes_back() {
    let mut cluster = pair_with_witness();
    set(&mut cluster, mode(ADAPTIVE));
    cluster.delays = [(AWAY, 150_000)].into();
    let mut id = 0;
    let mut written_for = |cluster: &mut Cluster, leases: u64| {
        for _ in 0..10 * leases {
            id += 1;
            write(cluster, id);
            cluster.pass(LEASE_US / 10);
        }
    };
    written_for(&mut cluster, 4);
    assert_eq!(in_sync(&cluster), 1, "{:?}", cluster.edges);
    assert_eq!(cluster.terms(HOME).rule, ALONE);
    assert!(cluster.terms(HOME).votes.iter().any(|v| v.member == AWAY), "it keeps its vote");
    let (_, text) = cluster.edges.iter().find(|(rule, _)| *rule == "adaptive-leave").expect("it is told");
    assert!(text.contains("commit latency 1") && text.contains("over 100 ms"), "{text}");
    let left = cluster.volumes[&HOME].status(cluster.now).members[1].left.clone();
    assert!(left.is_some_and(|left| left.contains("over 100 ms")));
    // Within the limit, but not well within it.
    cluster.delays = [(AWAY, 90_000)].into();
    written_for(&mut cluster, 10);
    assert_eq!(in_sync(&cluster), 1);
    cluster.delays.clear();
    written_for(&mut cluster, REJOIN_LEASES + 2);
    assert_eq!((in_sync(&cluster), cluster.terms(HOME).rule), (2, TWO_SITES), "near again, it is waited for");
    assert!(cluster.volumes[&HOME].status(cluster.now).members[1].left.is_none());
}

#[test]
fn a_remote_that_comes_and_goes_is_let_in_less_and_less_often() {
    let mut cluster = pair_with_witness();
    set(&mut cluster, mode(ADAPTIVE));
    for _ in 0..30 {
        cluster.dead.insert(AWAY);
        cluster.pass(2 * LEASE_US);
        cluster.dead.clear();
        cluster.pass((REJOIN_LEASES + 2) * LEASE_US);
    }
    let left = told(&cluster, "adaptive-leave");
    assert!((2..=4).contains(&left), "it left {left} times of 30");
    cluster.pass(2 * STAY_LEASES * LEASE_US);
    assert_eq!(in_sync(&cluster), 2);
}

#[test]
fn nobody_is_left_out_without_the_control_quorum() {
    let (mut adaptive, mut fallback) = (pair_with_witness(), pair_with_witness());
    set(&mut adaptive, mode(ADAPTIVE));
    set(&mut fallback, Change::Fallback { after_us: Some(LEASE_US) });
    for cluster in [&mut adaptive, &mut fallback] {
        cluster.dead.extend([AWAY, MemberId(2)]);
        write(cluster, 1);
        cluster.pass(20 * LEASE_US);
        assert_eq!((in_sync(cluster), cluster.completed.len()), (2, 0));
        assert_eq!(told(cluster, "adaptive-leave") + told(cluster, "fallback"), 0);
        // With the witness there is one.
        cluster.dead.remove(&MemberId(2));
        cluster.pass(3 * LEASE_US);
        assert_eq!((in_sync(cluster), cluster.completed.len()), (1, 1), "{:?}", cluster.edges);
        cluster.dead.clear();
        cluster.feed(HOME, Event::Link { member: AWAY, up: true });
        cluster.pass((REJOIN_LEASES + 2) * LEASE_US);
        assert_eq!((in_sync(cluster), cluster.terms(HOME).rule), (2, TWO_SITES));
    }
}

#[test]
fn a_fallback_waits_as_long_as_it_was_told() {
    let mut cluster = pair_with_witness();
    cluster.dead.insert(AWAY);
    cluster.pass(20 * LEASE_US);
    assert_eq!(in_sync(&cluster), 2, "it was told nothing");
    cluster.dead.clear();
    cluster.pass(LEASE_US);
    set(&mut cluster, Change::Fallback { after_us: Some(10 * LEASE_US) });
    cluster.dead.insert(AWAY);
    cluster.pass(9 * LEASE_US);
    assert_eq!(in_sync(&cluster), 2);
    cluster.pass(4 * LEASE_US);
    assert_eq!(in_sync(&cluster), 1);
}

/// To follow behind and to be waited for again, while the volume is written to.
#[test]
fn a_remote_loses_its_vote_to_the_mode_and_gets_it_back() {
    let mut cluster = pair_with_witness();
    let behind = Change::Mode { mode: Mode::Async { rpo_us: 0 }, rule: ALONE, votes: Vec::new() };
    set(&mut cluster, behind);
    assert_eq!(in_sync(&cluster), 1);
    assert!(cluster.terms(HOME).votes.iter().all(|v| v.member != AWAY));
    write(&mut cluster, 1);
    cluster.pass(LEASE_US);
    assert_eq!(cluster.completed.len(), 1);
    let primary = cluster.volumes[&HOME].primary().expect("it holds the epoch");
    assert_eq!(primary.peers[&AWAY].durable, primary.acked, "without a schedule it is fed as it is written");
    cluster.dead.insert(AWAY);
    cluster.feed(HOME, Event::Link { member: AWAY, up: false });
    let refusal = cluster.command(HOME, Command::Change(mode(Mode::Sync))).expect_err("its disk's life is not known");
    assert_eq!(refusal.rule, "mode-unheard");
    cluster.dead.clear();
    cluster.pass(2 * LEASE_US);
    set(&mut cluster, mode(Mode::Sync));
    cluster.pass(2 * LEASE_US);
    assert_eq!((in_sync(&cluster), cluster.terms(HOME).rule), (2, TWO_SITES));
    assert!(cluster.terms(HOME).votes.iter().any(|v| v.member == AWAY));
}

#[test]
fn a_copy_on_a_schedule_is_shipped_at_its_times_and_else_left_alone() {
    let mut cluster = pair_with_witness();
    let rpo_us = 10 * LEASE_US;
    set(&mut cluster, Change::Mode { mode: Mode::Async { rpo_us }, rule: ALONE, votes: Vec::new() });
    cluster.pass(LEASE_US);
    cluster.shipments.clear();
    let durable =
        |cluster: &Cluster| cluster.volumes[&HOME].primary().expect("it holds the epoch").peers[&AWAY].durable;
    let rests_at = durable(&cluster);
    for id in 1..=8 {
        write(&mut cluster, id);
        cluster.pass(LEASE_US);
    }
    assert_eq!(cluster.completed.len(), 8);
    assert_eq!((durable(&cluster), cluster.shipments.len()), (rests_at, 0), "its time has not come");
    cluster.pass(3 * LEASE_US);
    assert_eq!(cluster.shipments, [(AWAY, rests_at)]);
    // That one brought nothing: the next is begun soon, with the same beginning.
    cluster.feed(HOME, Event::Shipped { to: AWAY });
    cluster.pass(3 * LEASE_US);
    assert_eq!(cluster.shipments, [(AWAY, rests_at), (AWAY, rests_at)]);
    let status = cluster.volumes[&HOME].status(cluster.now);
    assert!(status.members[1].lag_records >= 8 && status.members[1].lag_us >= 8 * LEASE_US, "{:?}", status.members[1]);
    // Fed again, once nothing but the journal is asked for.
    cluster.feed(HOME, Event::Shipped { to: AWAY });
    cluster.pass(LEASE_US / 2);
    set(&mut cluster, Change::Mode { mode: Mode::Async { rpo_us: 0 }, rule: ALONE, votes: Vec::new() });
    cluster.pass(LEASE_US);
    assert!(durable(&cluster) >= Seq(rests_at.0 + 8));
}
