//! Lines that are cut in one direction, flap or lose packets, and clocks that don't agree: each site in its own network
//! and time namespace.

use std::time::Duration;

use farshore_tests::cluster::{
    BootClock, Cluster, Launch, Ledger, Network, Options, Site, Writers, eventually, member, until,
};

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 1024;
const CREATE: [&str; 6] = ["volume", "create", "pg", "--size=4MiB", "--members=east,west,north", "--lease=1s"];

fn apart(test: &str) -> Option<Cluster> {
    match Network::lay(SITES.len()) {
        Ok(network) => Some(Cluster::lay_out_in(&SITES, Options::default(), Some(network))),
        Err(why) => {
            println!("SKIP {test}: no network namespaces here: {why}");
            None
        }
    }
}

fn network(cluster: &Cluster) -> &Network {
    cluster.network.as_ref().expect("these sites are apart")
}

/// Ready for writers at east.
fn begin(cluster: &Cluster) -> (std::sync::Arc<Ledger>, Writers) {
    cluster.launch();
    let east = cluster.site("east");
    east.run(&CREATE);
    drop(east.attach("pg"));
    let ledger = Ledger::of_new(BLOCKS);
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 3);
    writers.wait_for(100);
    (ledger, writers)
}

fn finish(cluster: &Cluster, ledger: &Ledger, writers: Writers, at: &str) {
    writers.stop();
    cluster.wait_in_sync(at, "pg");
    ledger.check_all(&mut cluster.site(at).connect("pg"));
}

#[test]
fn a_secondary_that_is_heard_or_hears_in_one_direction_only_holds_nobody_up() {
    let test = "a_secondary_that_is_heard_or_hears_in_one_direction_only_holds_nobody_up";
    let Some(cluster) = apart(test) else { return };
    let (ledger, writers) = begin(&cluster);
    let east = cluster.site("east");
    // From east to west nothing passes, then from west to east.
    for (to, from) in [(1, 0), (0, 1)] {
        network(&cluster).deafen(to, from);
        east.wait_volume("pg", "west to be shown as gone", |v| member(v, "west")["connected"] == false);
        writers.wait_for(150);
        network(&cluster).heal();
        east.wait_volume("pg", "west to be back", |v| member(v, "west")["connected"] == true);
        writers.wait_for(50);
    }
    assert_eq!(writers.failed(), 0, "the device must not notice");
    finish(&cluster, &ledger, writers, "east");
}

#[test]
fn a_primary_that_is_heard_and_hears_nobody_acknowledges_nothing_and_is_followed_by_another() {
    let test = "a_primary_that_is_heard_and_hears_nobody_acknowledges_nothing_and_is_followed_by_another";
    let Some(cluster) = apart(test) else { return };
    let (ledger, writers) = begin(&cluster);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    for peer in [1, 2] {
        network(&cluster).deafen(0, peer);
    }
    eventually("writes to stand still", || {
        let before = writers.acked();
        std::thread::sleep(Duration::from_millis(300));
        if writers.acked() == before { Ok(()) } else { Err("they go on") }
    });
    west.run(&["failover", "--from", "east"]);
    west.run(&["volume", "attach", "pg", "--device", "nbd"]);
    let frozen = writers.acked();
    writers.follow(west.nbd_socket());
    // Whoever still waits at east is told when east learns that it was fenced.
    network(&cluster).heal();
    writers.wait_for(150);
    assert!(writers.acked() > frozen);
    east.wait_volume("pg", "east to follow west", |v| v["role"] == "secondary" && v["primary"]["site"] == "west");
    finish(&cluster, &ledger, writers, "west");
}

#[test]
fn lines_that_flap_and_lose_packets_lose_no_write() {
    let test = "lines_that_flap_and_lose_packets_lose_no_write";
    let Some(cluster) = apart(test) else { return };
    let (ledger, writers) = begin(&cluster);
    for site in [1, 2, 0] {
        for _ in 0..3 {
            network(&cluster).isolate(site);
            std::thread::sleep(Duration::from_millis(150));
            network(&cluster).heal();
            std::thread::sleep(Duration::from_millis(150));
        }
    }
    writers.wait_for(100);
    for site in 0..3 {
        network(&cluster).lose(site, 15);
    }
    writers.wait_for(100);
    network(&cluster).heal();
    writers.wait_for(50);
    assert_eq!(writers.failed(), 0, "requests wait, they do not fail");
    finish(&cluster, &ledger, writers, "east");
}

/// CLOCK_BOOTTIME begins anew with every boot: what is kept on disk or sent to others must not mean a point of it.
#[test]
fn boot_clocks_differ_between_sites_and_begin_anew_after_a_restart() {
    let test = "boot_clocks_differ_between_sites_and_begin_anew_after_a_restart";
    let cluster = Cluster::lay_out(&SITES, Options::default());
    let clock = |days: u64| BootClock::ahead_by(days * 86_400, &cluster.dir().join(format!("clock-{days}")));
    let clocks = match [400, 30].map(clock) {
        [Ok(a), Ok(b)] => [a, b],
        [Err(why), _] | [_, Err(why)] => {
            println!("SKIP {test}: no time namespaces here: {why}");
            return;
        }
    };
    let boot = |site: &Site, clock: Option<&BootClock>| {
        let through = clock.map(BootClock::through).unwrap_or_default();
        site.set_launch(Launch { through, ..Launch::default() });
    };
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    boot(east, Some(&clocks[0]));
    boot(west, Some(&clocks[1]));
    let (ledger, writers) = begin(&cluster);
    // Its clock falls back by more than a year; the device is taken back all the same.
    east.kill();
    boot(east, None);
    east.start();
    writers.wait_for(100);
    // A voter's clock leaps ahead: what it owes to the holder of the lease it owes anew.
    west.kill();
    boot(west, Some(&clocks[0]));
    west.start();
    cluster.wait_connected();
    writers.wait_for(100);
    east.kill();
    until("west to take over", Duration::from_secs(60), || {
        west.try_run(&["failover", "--from", "east"]).map_err(|refusal| refusal.text)
    });
    west.run(&["volume", "attach", "pg", "--device", "nbd"]);
    writers.follow(west.nbd_socket());
    writers.wait_for(100);
    boot(east, Some(&clocks[1]));
    east.start();
    cluster.wait_connected();
    finish(&cluster, &ledger, writers, "west");
    cluster.sites.iter().for_each(Site::end);
}
