//! A site is lost, moved away from, and comes back: no acknowledged write is missing.

use std::time::Instant;

use farshore_tests::cluster::{Cluster, Ledger, Writers};

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 2048;
const CREATE: [&str; 8] = [
    "volume",
    "create",
    "pg",
    "--size=8MiB",
    "--members=east,west,north",
    "--lease=1s",
    "--quorum=majority",
    "--durability=write",
];

#[test]
fn the_primary_is_killed_another_site_takes_over_and_it_rejoins() {
    let cluster = Cluster::start(&SITES);
    let [east, west, north] = SITES.map(|s| cluster.site(s));
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    writers.wait_for(500);
    east.kill();

    let asked = Instant::now();
    west.run(&["failover", "--from", "east"]);
    west.run(&["volume", "attach", "pg", "--device", "nbd"]);
    println!("failover and attach took {} ms with a lease of 1 s", asked.elapsed().as_millis());
    writers.follow(west.nbd_socket());
    writers.wait_for(500);
    assert!(writers.stop() >= 1000);
    let mut client = west.connect("pg");
    ledger.check_all(&mut client);
    north.wait_volume("pg", "north to follow west", |v| v["primary"]["site"] == "west");

    east.start();
    cluster.wait_in_sync("west", "pg");
    east.refused_at_last(&["volume", "attach", "pg"]).says(4, &["west", "pg"]);
    // What came back must hold everything too: only it and one other are left.
    drop(client);
    west.run(&["volume", "detach", "pg"]);
    west.run(&["switchover", "pg", "--to", "east"]);
    ledger.check_all(&mut east.attach("pg"));
}

#[test]
fn the_primary_moves_back_and_forth_under_load() {
    let cluster = Cluster::start(&SITES);
    let east = cluster.site("east");
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    for (from, to) in [("east", "west"), ("west", "north"), ("north", "east"), ("east", "north")] {
        writers.wait_for(200);
        let asked = Instant::now();
        cluster.site(from).run(&["switchover", "pg", "--to", to]);
        let moved = cluster.site(to);
        moved.run(&["volume", "attach", "pg", "--device", "nbd"]);
        println!("switchover {from} to {to} with attach: {} ms", asked.elapsed().as_millis());
        writers.follow(moved.nbd_socket());
        // Not the lease: the old primary gave it up.
        moved.wait_volume("pg", "the new site to be primary", |v| v["role"] == "primary");
    }
    writers.wait_for(200);
    writers.stop();
    let north = cluster.site("north");
    ledger.check_all(&mut north.connect("pg"));
    cluster.wait_in_sync("north", "pg");
}
