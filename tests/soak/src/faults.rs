//! What is done to a stage, one fault at a time; after each everything must work again.

use std::time::Duration;

use farshore_powercut::{Disk, Fault as DiskFault, On};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rustix::io::Errno;

use super::layout::Layout;
use super::stage::Stage;
use super::tally::Tally;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of one, two or all daemons.
    Kill,
    /// The power goes at one, two or all sites.
    Cut,
    /// As [`Fault::Cut`], and again while what was cut recovers.
    CutTwice,
    Stop,
    OneWay,
    Isolate,
    Flap,
    Loss,
    /// A planned move of a primary.
    Switchover,
    /// The primary's site is lost and another takes over.
    Failover,
    /// The primary's site is cut off, another takes over, and the first comes back.
    FailoverFromIsolated,
    SlowDisks,
    /// A secondary's journal can't sync any more; then its power goes, and its new life is readmitted. Of two copies
    /// neither can be missed for that.
    SyncFails,
    /// A secondary is away until the journal does not reach back to it.
    Away,
}

/// By weight: the issue of the day comes up more often.
const DECK: &[(Fault, u32)] = &[
    (Fault::Kill, 12),
    (Fault::Cut, 8),
    (Fault::CutTwice, 2),
    (Fault::Stop, 3),
    (Fault::OneWay, 2),
    (Fault::Isolate, 2),
    (Fault::Flap, 1),
    (Fault::Loss, 1),
    (Fault::Switchover, 3),
    (Fault::Failover, 3),
    (Fault::FailoverFromIsolated, 2),
    (Fault::SlowDisks, 2),
    (Fault::SyncFails, 1),
    (Fault::Away, 1),
];

pub fn draw(dice: &mut StdRng) -> Fault {
    let total: u32 = DECK.iter().map(|(_, weight)| weight).sum();
    let mut left = dice.random_range(0..total);
    for (fault, weight) in DECK {
        if left < *weight {
            return *fault;
        }
        left -= weight;
    }
    Fault::Kill
}

fn millis(dice: &mut StdRng, least: u64, most: u64) -> Duration {
    Duration::from_millis(dice.random_range(least..=most))
}

/// Under load, a moment that nobody chose.
fn a_moment(dice: &mut StdRng) {
    std::thread::sleep(millis(dice, 0, 300));
}

/// One site mostly, sometimes more, sometimes all.
fn victims(stage: &Stage, dice: &mut StdRng) -> Vec<usize> {
    let all = stage.cluster.sites.len();
    let count = [1, 1, 1, 2, all][dice.random_range(0..5)].min(all);
    let mut sites: Vec<usize> = (0..all).collect();
    sites.shuffle(dice);
    sites.truncate(count);
    sites
}

fn names(stage: &Stage, sites: &[usize]) -> String {
    sites.iter().map(|site| stage.site(*site).name.as_str()).collect::<Vec<_>>().join(", ")
}

pub fn apply(fault: Fault, stage: &mut Stage, dice: &mut StdRng) {
    match fault {
        Fault::Kill => kill(stage, dice),
        Fault::Cut => cut(stage, dice, false),
        Fault::CutTwice => cut(stage, dice, true),
        Fault::Stop => stop(stage, dice),
        Fault::OneWay | Fault::Isolate | Fault::Flap | Fault::Loss => partition(fault, stage, dice),
        Fault::Switchover => switchover(stage, dice),
        Fault::Failover | Fault::FailoverFromIsolated => failover(fault, stage, dice),
        Fault::SlowDisks => slow_disks(stage, dice),
        Fault::SyncFails => sync_fails(stage, dice),
        Fault::Away => away(stage, dice),
    }
}

fn kill(stage: &mut Stage, dice: &mut StdRng) {
    let sites = victims(stage, dice);
    stage.say(&format!("kill -9: {}", names(stage, &sites)));
    a_moment(dice);
    sites.iter().for_each(|site| stage.site(*site).end());
    Tally::add(&stage.tally.kills, sites.len());
    a_moment(dice);
    stage.start_all(dice);
}

fn cut(stage: &mut Stage, dice: &mut StdRng, twice: bool) {
    let sites = victims(stage, dice);
    a_moment(dice);
    let lost = stage.cluster.cut_power(sites.iter().map(|site| stage.site(*site)));
    Tally::add(&stage.tally.cuts, sites.len());
    stage.say(&format!("power cut: {}; {lost:?}", names(stage, &sites)));
    if twice {
        sites.iter().for_each(|site| stage.site(*site).launch());
        std::thread::sleep(millis(dice, 5, 400));
        let lost = stage.cluster.cut_power(sites.iter().map(|site| stage.site(*site)));
        Tally::add(&stage.tally.cuts, sites.len());
        stage.say(&format!("power cut during recovery; {lost:?}"));
    }
    stage.start_all(dice);
}

fn stop(stage: &mut Stage, dice: &mut StdRng) {
    let sites = victims(stage, dice);
    stage.say(&format!("SIGSTOP: {}", names(stage, &sites)));
    sites.iter().for_each(|site| stage.site(*site).pause());
    // Shorter and longer than the lease and the transport's patience.
    std::thread::sleep(millis(dice, 50, 3000));
    sites.iter().for_each(|site| stage.site(*site).resume());
    Tally::add(&stage.tally.stops, sites.len());
}

fn partition(fault: Fault, stage: &mut Stage, dice: &mut StdRng) {
    let network = stage.cluster.network.as_ref().expect("a stage has a network");
    let all = stage.cluster.sites.len();
    let site = dice.random_range(0..all);
    let other = (site + dice.random_range(1..all)) % all;
    let (name, peer) = (&stage.site(site).name, &stage.site(other).name);
    match fault {
        Fault::OneWay => {
            stage.say(&format!("{name} hears nothing of {peer}"));
            network.deafen(site, other);
        }
        Fault::Isolate => {
            stage.say(&format!("{name} is cut off"));
            network.isolate(site);
        }
        Fault::Flap => {
            stage.say(&format!("the line of {name} flaps"));
            for _ in 0..6 {
                network.isolate(site);
                std::thread::sleep(millis(dice, 50, 900));
                network.heal();
                std::thread::sleep(millis(dice, 50, 900));
            }
        }
        _ => {
            let percent = dice.random_range(5..30);
            stage.say(&format!("{name} loses {percent} of 100 packets, {peer} too"));
            network.lose(site, percent);
            network.lose(other, percent);
        }
    }
    std::thread::sleep(millis(dice, 300, 4000));
    network.heal();
    Tally::add(&stage.tally.partitions, 1);
}

fn switchover(stage: &mut Stage, dice: &mut StdRng) {
    let volume = dice.random_range(0..stage.volumes.len());
    let data = stage.layout.data_sites();
    let from = stage.volumes[volume].primary;
    let to = (from + dice.random_range(1..data)) % data;
    let (name, target) = (stage.volumes[volume].name, stage.site(to).name.clone());
    stage.say(&format!("switchover of {name} to {target}"));
    stage.insist(from, &["switchover", name, "--to", &target]);
    stage.follow(volume, to);
}

fn failover(fault: Fault, stage: &mut Stage, dice: &mut StdRng) {
    let from = stage.volumes[dice.random_range(0..stage.volumes.len())].primary;
    let lost = stage.site(from).name.clone();
    let Some(more) = stage.layout.failover(&lost) else { return };
    // Who is reduced must have all that was acknowledged.
    if stage.layout != Layout::ThreeSites {
        (0..stage.volumes.len()).for_each(|volume| stage.wait_in_sync(volume));
    }
    let data = stage.layout.data_sites();
    let to = (from + dice.random_range(1..data)) % data;
    // A site that is so far behind that the best log's journal does not reach back to it is refused, rightly.
    stage.wait_close(to);
    let moved: Vec<usize> = (0..stage.volumes.len()).filter(|v| stage.volumes[*v].primary == from).collect();
    stage.say(&format!("{fault:?} from {lost} to {}", stage.site(to).name));
    if fault == Fault::FailoverFromIsolated {
        stage.cluster.network.as_ref().expect("a stage has a network").isolate(from);
        Tally::add(&stage.tally.partitions, 1);
    } else if dice.random_bool(0.5) {
        stage.cluster.cut_power([stage.site(from)]);
        Tally::add(&stage.tally.cuts, 1);
    } else {
        stage.site(from).end();
        Tally::add(&stage.tally.kills, 1);
    }
    stage.fail_over(&lost, to, more, &moved);
    moved.iter().for_each(|volume| stage.follow(*volume, to));
    if fault == Fault::Failover {
        // Without the lost one.
        moved.iter().for_each(|volume| stage.volumes[*volume].writers().wait_for_within(10, Duration::from_secs(60)));
    }
    // Writers that still wait at a site that was cut off are told when it learns that it was fenced.
    stage.cluster.network.as_ref().expect("a stage has a network").heal();
    stage.start_all(dice);
}

fn slow_disks(stage: &mut Stage, dice: &mut StdRng) {
    let most = millis(dice, 2, 40);
    stage.say(&format!("every sync takes up to {} ms", most.as_millis()));
    for site in &stage.cluster.sites {
        site.disk(|disk| disk.delay(most, most / 8));
    }
}

fn a_secondary(stage: &Stage, dice: &mut StdRng) -> Option<usize> {
    let data = stage.layout.data_sites();
    let idle: Vec<usize> = (0..data).filter(|site| stage.volumes.iter().all(|v| v.primary != *site)).collect();
    if idle.is_empty() { None } else { Some(idle[dice.random_range(0..idle.len())]) }
}

fn sync_fails(stage: &mut Stage, dice: &mut StdRng) {
    if stage.layout.data_sites() < 3 {
        return;
    }
    let Some(site) = a_secondary(stage, dice) else { return };
    stage.say(&format!("the journal of {} can't sync; then its power goes", stage.site(site).name));
    let fault = DiskFault { on: On::Sync, name_contains: "segment-".into(), errno: Errno::IO };
    stage.site(site).disk(|disk| disk.fail(fault));
    std::thread::sleep(millis(dice, 100, 2000));
    stage.site(site).disk(Disk::mend);
    stage.cluster.cut_power([stage.site(site)]);
    Tally::add(&stage.tally.cuts, 1);
    stage.start_all(dice);
    stage.readmit(site);
}

fn away(stage: &mut Stage, dice: &mut StdRng) {
    let Some(site) = a_secondary(stage, dice) else { return };
    stage.say(&format!("{} is away for a while", stage.site(site).name));
    stage.site(site).end();
    Tally::add(&stage.tally.kills, 1);
    // Of two copies both are needed: then this is only a pause.
    std::thread::sleep(millis(dice, 2000, 8000));
    stage.start_all(dice);
}
