//! What a loss would cost, as told by whole volumes: beside the primary, away from it, and after it.

use crate::api::{Change, Command, Event, Io, Request, RequestId};
use crate::ids::{MemberId, Seq, SessionId};
use crate::loss::{Figure, SiteLoss, Testimony, forced, forced_among, narrowed, site_losses};
use crate::record::Origin;
use crate::register::{Durability, MemberKind, Mode};
use crate::volume_tests::{ALONE, Cluster, DATA, LEASE_US, TWO_SITES};

const HOME: MemberId = MemberId(0);
const AWAY: MemberId = MemberId(1);
const BLOCK: u64 = 4096;

/// The second copy follows behind, on a schedule that is far off, and lacks eight writes of the last eight leases.
fn behind_by_eight() -> Cluster {
    let mut cluster = Cluster::of(&[DATA, DATA, MemberKind::Witness], TWO_SITES);
    cluster.promote(HOME);
    cluster.command(HOME, Command::Attach { writer: 7, session: SessionId(7) }).expect("it is attached");
    cluster.pass(LEASE_US);
    let mode = Mode::Async { rpo_us: 1000 * LEASE_US };
    cluster.command(HOME, Command::Change(Change::Mode { mode, rule: ALONE, votes: Vec::new() })).expect("it is set");
    cluster.pass(2 * LEASE_US);
    for id in 1..=8 {
        let io = Io::Write { offset: 0, data: vec![1; BLOCK as usize].into(), fua: false };
        cluster.feed(HOME, Event::Io(Request { id: RequestId(id), io, origin: Origin::default() }));
        cluster.pass(LEASE_US);
    }
    assert_eq!(cluster.completed.len(), 8);
    cluster
}

/// What `by` says of the site of `of`.
fn of(cluster: &Cluster, by: MemberId, of: MemberId) -> SiteLoss {
    let status = cluster.volumes[&by].status(cluster.now);
    let site = status.config.site_of(of).to_string();
    site_losses(&status).into_iter().find(|loss| loss.site == site).expect("a figure of each site")
}

#[test]
fn beside_the_primary_both_figures_are_exact() {
    let cluster = behind_by_eight();
    let (home, away) = (of(&cluster, HOME, HOME), of(&cluster, HOME, AWAY));
    let Figure { records, bytes, us, sized, last } = away.promoted;
    let [all, there] = [HOME, AWAY].map(|id| cluster.volumes[&id].status(cluster.now).durable);
    assert!(away.exact && away.unknown_us == Some(0), "{away:?}");
    assert_eq!((records, bytes, sized, last, all.since(last)), (8, 8 * BLOCK, true, there, 8));
    assert!((8 * LEASE_US..9 * LEASE_US).contains(&us), "{us}");
    let nothing = Figure { sized: true, last: all, ..Figure::default() };
    assert_eq!(away.lost, nothing, "what follows behind has nothing of its own");
    assert_eq!((home.lost, home.promoted), (away.promoted, nothing), "with home only its copy would be left");
}

/// It has been told of what it has not got.
#[test]
fn a_copy_that_follows_behind_says_how_far_and_until_when_it_knows() {
    let mut cluster = behind_by_eight();
    let told = of(&cluster, AWAY, AWAY);
    assert!(!told.exact && told.promoted.records == 8, "{told:?}");
    assert!(!told.promoted.sized, "how much that is it was not told: {told:?}");
    let (from, upto) = (told.promoted.last, Seq(told.promoted.last.0 + 8));
    let span = |id: MemberId| cluster.volumes[&id].span(from, upto, cluster.now);
    let (bytes, us) = span(HOME).expect("who has it knows");
    assert!(bytes == 8 * BLOCK && (8 * LEASE_US..10 * LEASE_US).contains(&us), "{bytes} of {us} µs");
    assert_eq!(span(AWAY), None);
    assert!(told.unknown_us.is_some_and(|us| us <= LEASE_US), "{told:?}");
    assert_eq!(of(&cluster, AWAY, HOME).unknown_us, None, "of others it knows nothing");
    cluster.dead.insert(HOME);
    cluster.pass(5 * LEASE_US);
    let later = of(&cluster, AWAY, AWAY);
    assert_eq!(later.promoted.records, 8);
    assert!(later.unknown_us.is_some_and(|us| us >= 5 * LEASE_US), "{later:?}");
}

#[test]
fn a_holder_that_nobody_follows_calls_nothing_exact() {
    let mut cluster = behind_by_eight();
    cluster
        .command(HOME, Command::Change(Change::Mode { mode: Mode::Sync, rule: TWO_SITES, votes: Vec::new() }))
        .expect("it is set");
    cluster.pass(4 * LEASE_US);
    assert!(of(&cluster, HOME, AWAY).exact);
    cluster.dead.insert(AWAY);
    cluster.pass(5 * LEASE_US);
    let alone = of(&cluster, HOME, AWAY);
    assert!(!alone.exact && alone.unknown_us.is_some_and(|us| us >= 4 * LEASE_US), "{alone:?}");
}

/// In class `flush` far more has completed than is acknowledged, and none of it has arrived elsewhere.
#[test]
fn a_holder_that_nobody_follows_knows_how_much_may_be_gone_with_it() {
    let sites = ["s0", "s1", "s2"].map(String::from);
    let mut cluster = Cluster::of_class(Durability::Flush, &[DATA, DATA, MemberKind::Witness], &sites, TWO_SITES);
    cluster.promote(HOME);
    cluster.command(HOME, Command::Attach { writer: 7, session: SessionId(7) }).expect("it is attached");
    cluster.pass(LEASE_US);
    cluster.dead.insert(AWAY);
    for id in 1..=8 {
        let io = Io::Write { offset: 0, data: vec![1; BLOCK as usize].into(), fua: false };
        cluster.feed(HOME, Event::Io(Request { id: RequestId(id), io, origin: Origin::default() }));
    }
    assert_eq!(cluster.completed.len(), 8, "its lease is valid still");
    cluster.pass(5 * LEASE_US);
    let status = cluster.volumes[&HOME].status(cluster.now);
    assert_eq!((status.state.as_str(), status.completed.since(status.acked)), ("frozen", 8));
    let home = of(&cluster, HOME, HOME);
    assert!(!home.exact && home.lost_at_most, "some may have arrived, unconfirmed: {home:?}");
    assert_eq!((home.lost.records, home.lost.bytes, home.lost_unknown_us), (8, 8 * BLOCK, Some(0)), "{home:?}");
    assert!(home.lost.us >= 5 * LEASE_US, "{home:?}");
    // Who has followed another holder since, and with what, it can't know.
    let away = of(&cluster, HOME, AWAY);
    assert!(!away.lost_at_most && away.lost_unknown_us.is_some_and(|us| us >= 4 * LEASE_US), "{away:?}");
    assert_eq!(of(&cluster, MemberId(2), HOME).lost_unknown_us, None, "a witness has nothing of it");
}

#[test]
fn members_in_reach_narrow_it() {
    let said = |site: &str, acked, end, unknown| {
        let (acked, end) = (Seq(acked), Seq(end));
        Testimony { site: site.into(), acked, durable: end, end, unknown }
    };
    let (west, north) = (said("west", 10, 10, 9_000), said("north", 25, 30, 40));
    assert_eq!(narrowed("west", &[west.clone(), north.clone()]), Some((15, 40, Seq(10))));
    assert_eq!(narrowed("north", &[west.clone(), north]), Some((0, 40, Seq(30))));
    assert_eq!(narrowed("east", std::slice::from_ref(&west)), None);
    // Of what is on its way to the disk nobody else knows whether it gets there.
    let writing = Testimony { durable: Seq(4), ..west };
    assert_eq!(narrowed("west", &[writing, said("north", 25, 30, 40)]), Some((15, 9_000, Seq(10))));
    // A force that names one copy of a site gets nothing of the other.
    let (first, second) = (said("west", 25, 25, 40), said("west", 10, 10, 9_000));
    let both = [first, second.clone()];
    assert_eq!(narrowed("west", &both), Some((0, 40, Seq(25))));
    assert_eq!(forced_among(&second, &both), (15, 40, Seq(10)));
}

/// Promoted, it is given by the others what it lacks; forced, it is not.
#[test]
fn a_force_from_a_copy_of_the_sync_set_is_told_what_that_lacks() {
    let mut cluster = Cluster::of(&[DATA, DATA, DATA], TWO_SITES);
    cluster.promote(HOME);
    cluster.command(HOME, Command::Attach { writer: 7, session: SessionId(7) }).expect("it is attached");
    cluster.pass(LEASE_US);
    cluster.dead.insert(AWAY);
    for id in 1..=8 {
        let io = Io::Write { offset: 0, data: vec![1; BLOCK as usize].into(), fua: false };
        cluster.feed(HOME, Event::Io(Request { id: RequestId(id), io, origin: Origin::default() }));
    }
    cluster.pass(LEASE_US);
    assert_eq!(cluster.completed.len(), 8);
    let status = cluster.volumes[&HOME].status(cluster.now);
    assert!(of(&cluster, HOME, AWAY).exact && of(&cluster, HOME, AWAY).promoted.records == 0);
    let away = forced(&status, AWAY).expect("its lease is valid");
    assert_eq!((away.records, away.bytes), (8, 8 * BLOCK), "{away:?}");
    let [held, all] = [status.members[1].durable, status.completed];
    assert_eq!((away.last, all.since(held)), (held, 8));
    assert_eq!(forced(&status, HOME).map(|figure| (figure.records, figure.last)), Some((0, all)));
    let elsewhere = cluster.volumes[&MemberId(2)].status(cluster.now);
    assert_eq!(forced(&elsewhere, AWAY), None, "only the holder knows where others stand");
}
