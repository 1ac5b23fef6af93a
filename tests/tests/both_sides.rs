//! The same verb, or two that contradict each other, asked in two sites at the same time: one of them is what happens.

use std::sync::Arc;

use farshore_tests::cluster::{Cluster, Ledger, Site, eventually};

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 256;
const ROUNDS: usize = 5;

fn start() -> (Cluster, Arc<Ledger>) {
    let cluster = Cluster::start(&SITES);
    let east = cluster.site("east");
    east.run(&["volume", "create", "pg", "--size=1MiB", "--members=east,west,north", "--lease=1s"]);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    east.run(&["volume", "detach", "pg"]);
    (cluster, ledger)
}

/// Begins both, then waits for both.
fn at_once(one: (&Site, &[&str]), other: (&Site, &[&str])) -> [bool; 2] {
    let mut verbs = [one, other].map(|(site, verb)| site.begin(verb));
    verbs.each_mut().map(|verb| verb.wait())
}

/// Where the volume is led, once all of these sites say the same.
fn led_in<'a>(cluster: &'a Cluster, sites: &[&str]) -> &'a Site {
    eventually("one primary, by all", || {
        let shown = |site: &&str| cluster.site(site).try_run(&["volume", "show", "pg"]);
        let said: Result<Vec<_>, _> =
            sites.iter().map(|site| shown(site).map(|v| v["primary"]["site"].clone())).collect();
        let said = said.map_err(|refusal| format!("{refusal:?}"))?;
        match said[0].as_str() {
            Some(site) if said.iter().all(|other| *other == said[0]) => Ok(cluster.site(site)),
            _ => Err(format!("{said:?}")),
        }
    })
}

/// Everything is there, and can be written anew.
fn check_and_fill(at: &Site, ledger: &Ledger) {
    eventually("to attach", || at.try_run(&["volume", "attach", "pg", "--device", "nbd"]));
    let mut client = at.connect("pg");
    ledger.check_all(&mut client);
    ledger.fill(&mut client);
    drop(client);
    at.run(&["volume", "detach", "pg"]);
}

#[test]
fn a_volume_that_is_moved_to_two_sites_at_once_is_in_one_of_them() {
    let (cluster, ledger) = start();
    let mut done = 0;
    for round in 0..ROUNDS {
        let [one, other] = [SITES[(round + 1) % 3], SITES[(round + 2) % 3]];
        let asked = [one, other].map(|to| ["switchover", "pg", "--to", to]);
        let ended = at_once((cluster.site(one), &asked[0]), (cluster.site(other), &asked[1]));
        done += ended.iter().filter(|done| **done).count();
        check_and_fill(led_in(&cluster, &SITES), &ledger);
    }
    // From where it is not, so that each has had it.
    for to in SITES {
        cluster.site(to).until_done(&["switchover", "pg", "--to", to]);
        check_and_fill(cluster.site(to), &ledger);
    }
    println!("{done} of {} moves that were begun in two sites at once were done", 2 * ROUNDS);
}

#[test]
fn two_sites_take_over_and_two_ask_for_the_way_back_at_once() {
    let (cluster, ledger) = start();
    let [east, west, north] = SITES.map(|site| cluster.site(site));
    east.kill();
    let failover: &[&str] = &["failover", "--from", "east"];
    at_once((west, failover), (north, failover));
    // Once more: there is nothing left in east.
    west.until_gone(failover);
    north.until_gone(failover);
    check_and_fill(led_in(&cluster, &["west", "north"]), &ledger);
    east.start();
    cluster.wait_connected();
    let failback: &[&str] = &["failback", "pg", "--to", "east"];
    at_once((east, failback), (west, failback));
    east.until_done(failback);
    let home = led_in(&cluster, &SITES);
    assert_eq!(home.name, "east");
    check_and_fill(home, &ledger);
    // One that goes back beside one that takes it away again.
    at_once((east, failback), (north, &["switchover", "pg", "--to", "north"]));
    check_and_fill(led_in(&cluster, &SITES), &ledger);
}
