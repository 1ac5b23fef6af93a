//! The power goes under verified load, at one site, at two, at all of them: what was acknowledged must still be there.
//!
//! The data directories lie on disks of ours, which lose or tear whatever was not synced.

use std::time::{Duration, Instant};

use farshore_powercut::{Disk, Fault, On};
use farshore_tests::cluster::{Cluster, Launch, Ledger, NbdClient, Options, Site, Writers, eventually};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::io::Errno;

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 1024;
const CUTS: usize = 8;
/// While they last, a cut is likely to fall between a write and its sync.
const SYNC_MAX: Duration = Duration::from_millis(8);

/// A seed for this run, told so that it can be looked into. The daemons' timing is not part of it.
fn seed(test: &str) -> u64 {
    let seed = rand::rng().random_range(0..1_000_000);
    println!("{test}: seed {seed}");
    seed
}

fn on_disks(test: &str, options: Options, seed: u64) -> Option<Cluster> {
    let cluster = Cluster::lay_out(&SITES, options);
    match cluster.put_on_disks(seed) {
        Ok(()) => Some(cluster),
        Err(why) => {
            println!("SKIP {test}: no FUSE file system can be mounted here: {why}");
            None
        }
    }
}

fn create(cluster: &Cluster, site: &str, volume: &str) {
    // The first of them is the first primary's.
    let mut members = SITES;
    members.sort_by_key(|member| *member != site);
    let members = members.join(",");
    cluster.site(site).run(&["volume", "create", volume, "--size=4MiB", "--lease=1s", "--members", &members]);
}

/// Each site in turn becomes the primary and shows every block.
fn every_replica_holds_it(cluster: &Cluster, ledger: &Ledger, volume: &str, mut at: &'static str) {
    for next in SITES.into_iter().filter(|site| *site != at).collect::<Vec<_>>() {
        cluster.wait_in_sync(at, volume);
        cluster.site(at).run(&["volume", "detach", volume]);
        cluster.site(at).run(&["switchover", volume, "--to", next]);
        ledger.check_all(&mut cluster.site(next).attach(volume));
        at = next;
    }
}

#[test]
fn every_acknowledged_write_survives_cuts_of_one_two_and_all_sites() {
    let test = "every_acknowledged_write_survives_cuts_of_one_two_and_all_sites";
    let seed = seed(test);
    let Some(cluster) = on_disks(test, Options::default(), seed) else { return };
    let mut dice = StdRng::seed_from_u64(seed);
    cluster.launch();
    // Two volumes over one journal, with their primaries in two sites.
    let volumes = [("pg", "east"), ("mail", "west")];
    let load: Vec<_> = volumes
        .iter()
        .map(|(volume, site)| {
            create(&cluster, site, volume);
            drop(cluster.site(site).attach(volume));
            let ledger = Ledger::of_new(BLOCKS);
            let writers = Writers::start(&ledger, cluster.site(site).nbd_socket(), volume, 3);
            (ledger, writers)
        })
        .collect();
    let mut lost = 0;
    for round in 0..CUTS {
        for site in &cluster.sites {
            site.disk(|disk| disk.delay(SYNC_MAX, Duration::ZERO));
        }
        load.iter().for_each(|(_, writers)| writers.wait_for(60));
        std::thread::sleep(Duration::from_millis(dice.random_range(0..100)));
        let victims: Vec<&Site> = match round % 4 {
            0 => cluster.sites.iter().collect(),
            1 => vec![&cluster.sites[dice.random_range(0..3)]],
            2 => cluster.sites.iter().skip(dice.random_range(0..2)).take(2).collect(),
            _ => vec![cluster.site("east")],
        };
        let began = Instant::now();
        let taken = cluster.cut_power(victims.iter().copied());
        lost += taken.changes;
        victims.iter().for_each(|site| site.launch());
        victims.iter().for_each(|site| site.wait_ready());
        load.iter().for_each(|(_, writers)| writers.wait_for(20));
        let names: Vec<&str> = victims.iter().map(|site| site.name.as_str()).collect();
        println!("cut {}: {taken:?}, back to work after {} ms", names.join(" and "), began.elapsed().as_millis());
    }
    assert!(lost > 0, "cuts that take nothing prove nothing");
    for site in &cluster.sites {
        site.disk(Disk::mend);
    }
    for ((volume, site), (ledger, writers)) in volumes.into_iter().zip(load) {
        writers.stop();
        let mut client = eventually("the device", || NbdClient::connect(&cluster.site(site).nbd_socket(), volume));
        ledger.check_all(&mut client);
        drop(client);
        every_replica_holds_it(&cluster, &ledger, volume, site);
    }
}

/// What a cut of all sites did to acknowledged writes. `None`: nothing.
fn loss_after_a_cut(cluster: &Cluster, ledger: &Ledger, patience: Duration) -> Option<String> {
    cluster.cut_power(&cluster.sites);
    cluster.sites.iter().for_each(Site::launch);
    let until = Instant::now() + patience;
    let east = cluster.site("east");
    let mut client = loop {
        match NbdClient::connect(&east.nbd_socket(), "pg") {
            Ok(client) => break client,
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => return Some(format!("the volume does not come back: {error:?}")),
        }
    };
    let lost = (0..ledger.len()).filter(|block| !ledger.holds(&mut client, *block)).count();
    (lost > 0).then(|| format!("{lost} of {} acknowledged blocks are gone", ledger.len()))
}

/// A cluster of this program fills a volume, and the power goes everywhere. `None`: it can't be done here.
fn story_of(program: &str, seed: u64, keep_nothing: bool, patience: Duration) -> Option<Option<String>> {
    let cluster = on_disks(FOUND_OUT, Options::default(), seed)?;
    let launch = Launch { program: program.into(), ..Launch::default() };
    cluster.sites.iter().for_each(|site| site.set_launch(launch.clone()));
    cluster.launch();
    create(&cluster, "east", "pg");
    let ledger = Ledger::of_new(BLOCKS / 4);
    ledger.fill(&mut cluster.site("east").attach("pg"));
    if keep_nothing {
        cluster.sites.iter().for_each(|site| site.disk(Disk::keep_nothing));
    }
    let found = loss_after_a_cut(&cluster, &ledger, patience);
    println!("{program}, seed {seed}: {}", found.as_deref().unwrap_or("nothing is lost"));
    Some(found)
}

const FOUND_OUT: &str = "a_replicator_that_leaves_out_its_journals_sync_is_found_out";

#[test]
fn a_replicator_that_leaves_out_its_journals_sync_is_found_out() {
    let seed = seed(FOUND_OUT);
    // The same story with the shipped program, so that what is found is the missing sync and nothing else.
    for keep_nothing in [false, true] {
        let Some(found) = story_of("farshore-replicator", seed, keep_nothing, Duration::from_secs(60)) else { return };
        assert_eq!(found, None, "the shipped program lost what it had acknowledged");
    }
    // As the dice fall, one disk may happen to keep all; the last ones keep nothing.
    for round in 0..4 {
        let keep_nothing = round == 3;
        let Some(found) = story_of("farshore-unsynced", seed + round, keep_nothing, Duration::from_secs(8)) else {
            return;
        };
        if found.is_some() {
            return;
        }
    }
    panic!("a replicator without its journal's sync was not found out");
}

#[test]
fn a_sync_that_fails_stops_that_copy_and_loses_nothing() {
    let test = "a_sync_that_fails_stops_that_copy_and_loses_nothing";
    let Some(cluster) = on_disks(test, Options::default(), seed(test)) else { return };
    cluster.launch();
    create(&cluster, "east", "pg");
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 3);
    writers.wait_for(100);
    let broken = Fault { on: On::Sync, name_contains: "segment-".into(), errno: Errno::IO };
    for victim in [west, east] {
        victim.disk(|disk| disk.fail(broken.clone()));
        eventually("the poisoned journal to be shown", || {
            let status = victim.run(&["status"]);
            let found = status["conditions"].to_string();
            if found.contains("journal-poisoned") { Ok(()) } else { Err(found) }
        });
        if victim.name == "east" {
            // The primary's own journal: another site carries on.
            west.run(&["failover", "--from", "east"]);
            west.run(&["volume", "attach", "pg", "--device", "nbd"]);
            writers.follow(west.nbd_socket());
        }
        writers.wait_for(100);
        // A good disk again does not heal a journal whose state is unknown; only a restart reads what is there.
        victim.disk(Disk::mend);
        assert!(victim.run(&["status"])["conditions"].to_string().contains("journal-poisoned"));
        victim.cut_power();
        victim.start();
        cluster.wait_connected();
        writers.wait_for(50);
        // It began a new life, which counts for nothing until it is readmitted.
        let primary = if victim.name == "east" { west } else { east };
        primary.run(&["member", "replace", "pg", &victim.name, "--wait"]);
        cluster.wait_in_sync(&primary.name, "pg");
    }
    writers.stop();
    ledger.check_all(&mut west.connect("pg"));
    every_replica_holds_it(&cluster, &ledger, "pg", "west");
}

#[test]
fn slow_and_full_disks_hold_nobody_up_for_good() {
    let test = "slow_and_full_disks_hold_nobody_up_for_good";
    let options = Options { journal_budget: "32MiB", journal_segment: "4MiB", ..Options::default() };
    let Some(cluster) = on_disks(test, options, seed(test)) else { return };
    cluster.launch();
    create(&cluster, "east", "pg");
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    // A secondary without room, then every disk slow: nothing fails.
    west.disk(|disk| disk.fill(true));
    writers.wait_for(1500);
    for site in &cluster.sites {
        site.disk(|disk| disk.delay(Duration::from_millis(150), Duration::from_millis(5)));
    }
    writers.wait_for(100);
    assert_eq!(writers.failed(), 0, "requests wait, they do not fail");
    // Without power in that state.
    cluster.cut_power(&cluster.sites);
    cluster.launch();
    writers.wait_for(100);
    writers.stop();
    cluster.wait_in_sync("east", "pg");
    every_replica_holds_it(&cluster, &ledger, "pg", "east");
}
