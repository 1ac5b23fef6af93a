//! Going on by force where no quorum is left, and taking in again what was left out.

use farshore_tests::cluster::{Cluster, Ledger, NbdClient, NbdError, Options, member};
use serde_json::Value;

const BLOCKS: usize = 1024;

#[test]
fn a_forced_site_goes_on_alone_and_those_left_out_are_fenced_until_they_are_discarded() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let [east, west, north] = ["east", "west", "north"].map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=8MiB", "--members=east,west,north", "--lease=1s"]);
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    cluster.wait_in_sync("east", "pg");
    east.kill();
    north.kill();
    drop(client);

    // What it would do is told first, and nothing is done.
    west.refused(&["promote", "pg", "--force", "--members", "west"]).says(4, &["pg", "--yes"]);
    assert_eq!(west.volume("pg")["role"], "secondary", "a plan changes nothing");
    west.run(&["promote", "pg", "--force", "--members", "west", "--yes"]);
    let mut client = west.attach("pg");
    ledger.check_all(&mut client);
    ledger.fill(&mut client);

    east.start();
    north.start();
    cluster.wait_connected();
    east.wait_volume("pg", "east to learn of the new lineage", |v| v["state"] == "diverged");
    east.refused(&["promote", "pg"]).says(4, &["lineage", "--discard"]);
    // The fence holds across a restart, when nobody tells it again.
    west.pause();
    north.kill();
    east.kill();
    east.start();
    assert_eq!(east.volume("pg")["state"], "diverged", "a restart does not forget the higher lineage");
    west.resume();
    north.start();
    cluster.wait_connected();

    for site in ["east", "north"] {
        west.run(&["resync", "pg", "--member", site, "--discard"]);
        // Once more, while the new copy is made or when it is there: nothing of it is thrown away.
        west.refused(&["resync", "pg", "--member", site, "--discard"]).says(4, &[site, "do:"]);
    }
    assert_eq!(west.log().matches("history discarded").count(), 2);
    let volume = cluster.wait_in_sync("west", "pg");
    assert_eq!(volume["policy"]["w"], 2, "the rule that was asked for is back once it can be met: {volume}");
    drop(client);
    west.run(&["volume", "detach", "pg"]);
    west.run(&["switchover", "pg", "--to", "east"]);
    ledger.check_all(&mut east.attach("pg"));
}

#[test]
fn a_copy_that_has_not_diverged_is_not_discarded() {
    let cluster = Cluster::start(&["east", "west"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let create = ["volume", "create", "pg", "--size=8MiB", "--members=east,west", "--mode=async"];
    east.run(&[&create[..], &["--rpo=2s", "--lease=1s"]].concat());
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    let shown = |volume: &Value| member(volume, "west")["applied_seq"].as_u64().unwrap_or(0);
    let before = east.wait_volume("pg", "all of it in west", |v| shown(v) >= BLOCKS as u64);
    let refused = east.refused(&["resync", "pg", "--member", "west", "--discard"]);
    refused.says(4, &["west", "has not diverged", "lineage", "member replace"]);
    let after = west.volume("pg");
    assert!(after["applied_seq"].as_u64() >= Some(shown(&before)), "its copy is as it was: {after:#}");
}

#[test]
fn what_a_fork_left_behind_is_kept_and_only_what_differs_is_shipped() {
    // So small a journal that the copies can't be made anew from it.
    let options = Options { journal_budget: "16MiB", journal_segment: "4MiB", ..Options::default() };
    let cluster = Cluster::start_with(&["east", "west", "north"], options);
    let [east, west, north] = ["east", "west", "north"].map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=64MiB", "--members=east,west,north", "--lease=1s"]);
    let lost = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    let rest = vec![0x5a; 1 << 20];
    for at in 8..40 {
        client.write(at << 20, &rest).expect("the volume is attached");
    }
    lost.fill(&mut client);
    cluster.wait_in_sync("east", "pg");
    // From here on west misses what the others acknowledge.
    west.kill();
    let won = lost.fork();
    lost.fill(&mut client);
    north.kill();
    std::thread::scope(|scope| {
        // Never acknowledged, and part of that history all the same.
        let unanswered = scope.spawn(|| lost.write(&mut client, 5));
        east.wait_volume("pg", "the write to be in the journal", |v| {
            v["durable_seq"].as_u64() > v["acked_seq"].as_u64()
        });
        east.kill();
        assert!(unanswered.join().expect("it does not panic").is_err(), "it had no quorum");
    });
    drop(client);

    west.start();
    west.run(&["promote", "pg", "--force", "--members", "west", "--yes"]);
    let mut client = west.attach("pg");
    won.check_all(&mut client);
    won.fill(&mut client);
    for _ in 0..24 {
        client.write(48 << 20, &rest).expect("the volume is attached");
    }
    east.start();
    north.start();
    cluster.wait_connected();
    for site in [east, north] {
        site.wait_volume("pg", "the lost history to be known as such", |v| v["state"] == "diverged");
        west.run(&["resync", "pg", "--member", &site.name, "--discard"]);
    }
    cluster.wait_in_sync("west", "pg");
    let shipped = west.log_numbers("image shipped", "bytes=");
    assert!(shipped.iter().all(|bytes| *bytes < 16 << 20), "36 MiB hold data, 4 MiB differ, shipped: {shipped:?}");
    assert_eq!(shipped.len(), 2, "one shipment each");

    let mut tails = Vec::new();
    for site in [east, north] {
        let volumes = site.run(&["volume", "list"]);
        let names: Vec<&str> =
            volumes["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str()).collect();
        let [copy, "pg"] = names[..] else { panic!("at {}: {names:?}", site.name) };
        assert!(copy.starts_with("diverged-pg-1-"), "{copy}");
        site.kill();
        site.start();
        let mut old = site.connect(copy);
        lost.fork().check_all(&mut old);
        tails.push(old.read(5 << 12, 4096).expect("it can be read"));
        assert_eq!(old.read(8 << 20, 1 << 20).expect("it can be read"), rest);
        assert!(matches!(old.write(0, &rest), Err(NbdError::Failed(_))), "a copy can't be written");
        site.refused(&["volume", "attach", copy]).says(4, &[copy, "nbdcopy"]);
        drop(old);
        site.run(&["volume", "delete", copy, "--yes"]);
        assert!(NbdClient::connect(&site.nbd_socket(), copy).is_err(), "it is gone");
    }
    assert_ne!(tails[0], tails[1], "what only east had is in its copy, acknowledged or not");
    cluster.wait_connected();
    cluster.wait_in_sync("west", "pg");
    won.check_all(&mut client);
    drop(client);
    west.run(&["volume", "detach", "pg"]);
    for site in [east, north] {
        west.run(&["switchover", "pg", "--to", &site.name]);
        let mut client = site.attach("pg");
        won.check_all(&mut client);
        assert_eq!(client.read(8 << 20, 1 << 20).expect("it can be read"), rest);
        drop(client);
        site.run(&["volume", "detach", "pg"]);
        if site.name == "east" {
            east.run(&["switchover", "pg", "--to", "west"]);
        }
    }
}

#[test]
fn a_lost_history_that_had_grown_is_set_aside_and_made_anew() {
    // So small a journal that the copies can't be made anew from it.
    let options = Options { journal_budget: "16MiB", journal_segment: "4MiB", ..Options::default() };
    let cluster = Cluster::start_with(&["east", "west", "north"], options);
    let [east, west, north] = ["east", "west", "north"].map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=4MiB", "--members=east,west,north", "--lease=1s"]);
    let lost = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    lost.fill(&mut client);
    cluster.wait_in_sync("east", "pg");
    west.kill();
    let won = lost.fork();
    // One block more than a whole number of extents.
    east.run(&["volume", "resize", "pg", "8261632"]);
    for block in (0..2017).step_by(9).chain([2016]) {
        client.write(block << 12, &[0x5a; 4096]).expect("the volume has grown");
    }
    drop(client);
    [east, north].iter().for_each(|site| site.kill());

    west.start();
    west.run(&["promote", "pg", "--force", "--members", "west", "--yes"]);
    let mut client = west.attach("pg");
    assert_eq!(client.size_bytes, 4 << 20, "west never heard of the rest");
    won.fill(&mut client);
    let rest = vec![0x33; 1 << 20];
    for _ in 0..24 {
        client.write(3 << 20, &rest).expect("the volume is attached");
    }
    (768..BLOCKS).for_each(|block| won.write(&mut client, block).expect("the volume is attached"));
    [east, north].iter().for_each(|site| site.start());
    cluster.wait_connected();
    for site in [east, north] {
        site.wait_volume("pg", "the lost history to be known as such", |v| v["state"] == "diverged");
        west.run(&["resync", "pg", "--member", &site.name, "--discard"]);
    }
    cluster.wait_in_sync("west", "pg");
    assert_eq!(west.log_numbers("image shipped", "bytes=").len(), 2, "one shipment each");
    drop(client);
    west.run(&["volume", "detach", "pg"]);
    west.run(&["switchover", "pg", "--to", "east"]);
    let mut client = east.attach("pg");
    assert_eq!(client.size_bytes, 4 << 20);
    won.check_all(&mut client);
    let volumes = east.run(&["volume", "list"]);
    let mut names = volumes["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str());
    let copy = names.find(|name| name.starts_with("diverged-pg")).expect("what was lost is kept");
    let mut old = east.connect(copy);
    assert_eq!(old.size_bytes, 8_261_632);
    assert_eq!(old.read(2016 << 12, 4096).expect("it can be read"), [0x5a; 4096]);
    // Where the volume grows again, nothing of that shows.
    east.run(&["volume", "resize", "pg", "8261632"]);
    let mut client = east.connect("pg");
    for block in (1024..2017).step_by(9).chain([2016]) {
        assert!(client.read(block << 12, 4096).expect("it can be read").iter().all(|b| *b == 0), "block {block}");
    }
}
