//! Copies that are lost, added, removed, or were away for long.

use std::os::unix::fs::MetadataExt;

use farshore_tests::cluster::{Cluster, Ledger, Options, Writers, eventually, member};

const BLOCKS: usize = 2048;

fn create(members: &str) -> [&str; 8] {
    ["volume", "create", "pg", "--size", "8MiB", "--lease=1s", "--members", members]
}

#[test]
fn a_site_that_lost_its_disk_gets_a_new_copy_while_writes_go_on() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let [east, west, north] = ["east", "west", "north"].map(|s| cluster.site(s));
    east.run(&create("east,west,north"));
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    west.kill();
    std::fs::remove_dir_all(west.data_dir()).expect("a disk can be lost");
    west.start();
    cluster.wait_connected();
    writers.wait_for(200);
    assert_ne!(member(&east.volume("pg"), "west")["state"], "in sync", "an empty disk is no copy");
    west.refused(&["volume", "show", "pg"]).says(3, &["pg"]);

    east.run(&["member", "replace", "pg", "west", "--with", "west", "--wait"]);
    writers.wait_for(200);
    assert_eq!(writers.failed(), 0, "the device must not notice");
    writers.stop();
    cluster.wait_in_sync("east", "pg");
    // The new copy carries the volume together with one of the old ones, and alone has to be right.
    north.kill();
    drop(client);
    east.run(&["volume", "detach", "pg"]);
    east.run(&["switchover", "pg", "--to", "west"]);
    let mut client = west.attach("pg");
    ledger.check_all(&mut client);
}

#[test]
fn an_idle_volume_is_copied_too_also_after_all_were_restarted() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let [east, west, north] = ["east", "west", "north"].map(|s| cluster.site(s));
    east.run(&create("east,west,north"));
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    east.run(&["volume", "detach", "pg"]);
    west.kill();
    std::fs::remove_dir_all(west.data_dir()).expect("a disk can be lost");
    // An orderly end writes a checkpoint: the journals have nothing left to say.
    assert!(east.stop().success());
    assert!(north.stop().success());
    for site in [east, west, north] {
        site.start();
    }
    cluster.wait_connected();
    east.run(&["promote", "pg"]);
    east.run(&["member", "replace", "pg", "west", "--with", "west", "--wait"]);
    cluster.wait_in_sync("east", "pg");
    east.run(&["switchover", "pg", "--to", "west"]);
    ledger.check_all(&mut west.attach("pg"));
}

#[test]
fn a_fourth_site_joins_and_one_of_the_first_leaves() {
    let cluster = Cluster::start(&["east", "west", "north", "south"]);
    let [east, west, north, south] = ["east", "west", "north", "south"].map(|s| cluster.site(s));
    east.run(&create("east,west,north"));
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    drop(client);
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    // Any node knows where to go.
    north.run(&["member", "add", "pg", "south", "--wait"]);
    writers.wait_for(100);
    let volume = east.volume("pg");
    assert_eq!(member(&volume, "south")["in_sync_set"], true, "{volume:#}");
    assert_eq!(volume["policy"]["w"], 3, "a majority of four: {volume:#}");
    east.run(&["member", "remove", "pg", "west"]);
    writers.wait_for(100);
    let volume = east.volume("pg");
    assert_eq!(volume["members"].as_array().map(Vec::len), Some(3), "{volume:#}");
    assert_eq!(volume["policy"]["w"], 2, "a majority of three: {volume:#}");
    eventually("west to have forgotten the volume", || match west.try_run(&["volume", "show", "pg"]) {
        Err(refusal) if refusal.exit == 3 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(writers.failed(), 0, "the device must not notice");
    writers.stop();
    cluster.wait_in_sync("east", "pg");
    east.kill();
    south.run(&["failover", "--from", "east"]);
    ledger.check_all(&mut south.attach("pg"));
    // One that left is a stranger: it can join again, from nothing.
    south.refused(&["member", "replace", "pg", "west", "--with", "west"]).says(3, &["pg", "west"]);
}

#[test]
fn away_for_longer_than_the_journal_holds_costs_what_changed_and_no_more() {
    let options = Options { journal_budget: "16MiB", journal_segment: "4MiB", ..Options::default() };
    let cluster = Cluster::start_with(&["east", "west", "north"], options);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size", "24MiB", "--lease=1s", "--members", "east,west,north"]);
    let ledger = Ledger::of_new(24 << 8);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    cluster.wait_in_sync("east", "pg");
    // What is behind a checkpoint on all sites is not sent again.
    for site in ["west", "north"] {
        cluster.site(site).wait_volume("pg", "all to be applied", |v| v["checkpointed_seq"] == v["durable_seq"]);
    }
    west.kill();
    // 20 MiB through a journal of 16, over the same 2 MiB again and again.
    for round in 0..10 {
        for block in 0..512 {
            ledger.write(&mut client, block).unwrap_or_else(|e| panic!("round {round}, block {block}: {e:?}"));
        }
    }
    west.start();
    cluster.wait_in_sync("east", "pg");
    let log = east.log();
    let shipped = log.lines().rfind(|l| l.contains("resync: image shipped")).expect("a shipment in the primary's log");
    let bytes = shipped.split("bytes=").nth(1).and_then(|b| b.split(' ').next()).and_then(|b| b.parse::<u64>().ok());
    let bytes = bytes.unwrap_or_else(|| panic!("no size in {shipped:?}"));
    println!("shipped {bytes} bytes for 2 MiB that changed, of 24 MiB");
    assert!((2 << 20..8 << 20).contains(&bytes), "{bytes} bytes were shipped for 2 MiB that changed");
    drop(client);
    east.run(&["volume", "detach", "pg"]);
    east.run(&["switchover", "pg", "--to", "west"]);
    ledger.check_all(&mut west.attach("pg"));
}

#[test]
fn two_copies_and_a_witness_survive_the_loss_of_either_copy() {
    let cluster = Cluster::start(&["east", "west", "arbiter"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let create =
        ["volume", "create", "pg", "--size=8MiB", "--lease=1s", "--members", "east,west", "--witness", "arbiter"];
    east.run(&create);
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    let volume = east.volume("pg");
    assert_eq!(member(&volume, "arbiter")["kind"], "witness", "{volume:#}");
    east.kill();
    // A majority of two copies is both: going on with one is the operator's word.
    west.run(&["failover", "--from", "east", "--reduce"]);
    let mut client = west.attach("pg");
    ledger.check_all(&mut client);
    east.start();
    cluster.wait_in_sync("west", "pg");
    ledger.fill(&mut client);
    // Without the witness nothing changes, as long as both copies are there.
    cluster.site("arbiter").kill();
    ledger.fill(&mut client);
    ledger.check_all(&mut client);
}

#[test]
fn the_loss_of_the_secondary_of_a_pair_is_ended_by_removing_it() {
    let cluster = Cluster::start(&["east", "west", "arbiter"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let create =
        ["volume", "create", "pg", "--size=8MiB", "--lease=1s", "--members", "east,west", "--witness", "arbiter"];
    east.run(&create);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(50);
    west.kill();
    east.wait_volume("pg", "I/O to freeze", |v| v["state"] == "frozen");
    east.run(&["member", "remove", "pg", "west"]);
    writers.wait_for(100);
    assert_eq!(writers.failed(), 0, "the device waited, it did not fail");
    writers.stop();
    ledger.check_all(&mut east.connect("pg"));
}

#[test]
fn the_source_of_a_copy_dies_half_way_and_another_makes_it() {
    // So small a journal that a new copy can't be made from it.
    let options = Options { journal_budget: "16MiB", journal_segment: "4MiB", ..Options::default() };
    let cluster = Cluster::start_with(&["east", "west", "north", "south"], options);
    let [east, west, north, south] = ["east", "west", "north", "south"].map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size", "96MiB", "--lease=1s", "--members", "east,west,north"]);
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    let rest = vec![0x5a; 1 << 20];
    for at in 8..96 {
        client.write(at << 20, &rest).expect("the volume is attached");
    }
    ledger.fill(&mut client);
    drop(client);
    cluster.wait_in_sync("east", "pg");
    east.run(&["volume", "detach", "pg"]);
    let mut half_way = 0;
    for (source, next) in [(east, west), (west, north), (north, east)] {
        source.run(&["member", "add", "pg", "south"]);
        // The target stands still as soon as it has something, so that the source dies before it has all.
        eventually("blocks to be shipped", || {
            let slab = south.data_dir().join("store/slab");
            let bytes = slab.metadata().map_or(0, |found| found.blocks() * 512);
            if bytes > 2 << 20 { Ok(()) } else { Err(bytes) }
        });
        south.pause();
        half_way += u32::from(member(&source.volume("pg"), "south")["in_sync_set"] == false);
        source.kill();
        south.resume();
        eventually("another to take over", || next.try_run(&["failover", "--from", &source.name]).map(drop));
        source.start();
        cluster.wait_in_sync(&next.name, "pg");
        // It counts, and shows all that it was given.
        next.run(&["switchover", "pg", "--to", "south"]);
        let mut client = south.attach("pg");
        ledger.check_all(&mut client);
        for at in 8..96 {
            assert!(client.read(at << 20, 1 << 20).expect("it can be read") == rest, "MiB {at}");
        }
        drop(client);
        south.run(&["volume", "detach", "pg"]);
        south.run(&["switchover", "pg", "--to", &next.name]);
        next.run(&["member", "remove", "pg", "south"]);
        south.kill();
        std::fs::remove_dir_all(south.data_dir()).expect("a disk can be lost");
        south.start();
        cluster.wait_connected();
    }
    println!("{half_way} of 3 sources died half-way");
    assert!(half_way > 0, "every shipment was done before its source could be killed");
}
