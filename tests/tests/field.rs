//! What has gone wrong in the field with others, on real daemons (DESIGN §10; the rest of that list is in docs/coverage.md).

use farshore_tests::cluster::{Cluster, Ledger, Options, Site, eventually, member, until};
use farshore_wan::Conditions;
use serde_json::Value;
use std::time::Duration;

const SITES: [&str; 3] = ["east", "west", "north"];
const PATIENCE: Duration = Duration::from_secs(120);

fn conditions(volume: &Value) -> Vec<&str> {
    volume["conditions"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
}

/// A site that was away meanwhile has a copy of the old one: that is not the new one's, diverged or otherwise.
#[test]
fn a_volume_made_anew_under_its_old_name_has_nothing_to_do_with_the_old_one() {
    let cluster = Cluster::start(&SITES);
    let [east, west, _] = SITES.map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=1MiB", "--members=east,west,north", "--lease=1s"]);
    Ledger::of_new(256).fill(&mut east.attach("pg"));
    let old = cluster.wait_in_sync("east", "pg")["id"].clone();
    east.run(&["volume", "detach", "pg"]);
    west.kill();
    east.wait_volume("pg", "west to be gone", |v| member(v, "west")["connected"] == false);
    east.until_done(&["member", "remove", "pg", "west"]);
    east.until_gone(&["volume", "delete", "pg", "--yes"]);
    east.run(&["volume", "create", "pg", "--size=1MiB", "--members=east,north", "--lease=1s"]);
    let ledger = Ledger::of_new(256);
    ledger.fill(&mut east.attach("pg"));
    west.start();
    cluster.wait_connected();
    // What west holds is another volume, and is not touched for its name.
    east.refused(&["member", "add", "pg", "west"]).says(6, &["west/n1 holds another volume named pg", "delete"]);
    assert_eq!(west.volume("pg")["id"], old);
    west.until_gone(&["volume", "delete", "pg", "--yes"]);
    let added = east.until_done(&["member", "add", "pg", "west", "--wait"]);
    assert!(added["id"] != old && member(&added, "west")["state"] == "replicating", "{added:#}");
    assert!(!conditions(&added).contains(&"diverged"), "{added:#}");
    east.run(&["volume", "detach", "pg"]);
    east.run(&["switchover", "pg", "--to", "west"]);
    ledger.check_all(&mut west.attach("pg"));
}

fn sent(site: &Site) -> u64 {
    site.metric("farshore_resync_sent_bytes_total") as u64
}

/// Retention gives up snapshots while one is being shipped, and the link is cut: neither is the base lost, nor does a
/// snapshot stay that nobody can delete.
#[test]
fn retention_takes_no_base_away_from_a_shipment_that_is_cut() {
    const BLOCKS: usize = 2048;
    const CHANGED: usize = 512;
    let options = Options { wan: Some(Conditions::default()), ..Options::default() };
    let cluster = Cluster::start_with(&["east", "west"], options);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let create = ["volume", "create", "pg", "--size=8MiB", "--members=east,west", "--mode=async", "--rpo=1s"];
    east.run(&create);
    let ledger = Ledger::of_new(BLOCKS);
    let mut device = east.attach("pg");
    ledger.fill(&mut device);
    let applied = |v: &Value| member(v, "west")["applied_seq"].as_u64();
    east.wait_volume("pg", "the first images in west", |v| applied(v) >= Some(BLOCKS as u64));
    east.run(&["snapshot", "schedule", "create", "pg", "often", "--every=1s", "--keep=1"]);
    let made = || {
        let shown = east.run(&["snapshot", "schedule", "show", "pg", "often"]);
        shown["last"].as_str().unwrap_or("").to_string()
    };
    eventually("a snapshot", || if made().is_empty() { Err("none") } else { Ok(()) });
    let line = cluster.wan.as_ref().expect("it was asked for").link(0, 1);
    line.set(Conditions { bandwidth: Some(2_000_000), ..Conditions::default() });
    let before = sent(east);
    for block in 0..CHANGED {
        ledger.write(&mut device, block).expect("nobody is waited for");
    }
    let whole = east.volume("pg")["acked_seq"].as_u64();
    until("the shipment to be under way", PATIENCE, || {
        if sent(east) >= before + 64 * 1024 { Ok(()) } else { Err(sent(east)) }
    });
    line.cut(true);
    // Several runs of the schedule, each of which gives up the one before.
    for _ in 0..3 {
        let last = made();
        eventually("another run", || if made() == last { Err(last.clone()) } else { Ok(()) });
    }
    line.cut(false);
    line.set(Conditions::default());
    east.wait_volume("pg", "the image in west", |v| applied(v) >= whole);
    let all = (BLOCKS * 4096) as u64;
    assert!(sent(east) - before < all, "{} bytes for {CHANGED} blocks: a full copy", sent(east) - before);
    // Nothing stays of it.
    east.run(&["snapshot", "schedule", "delete", "pg", "often", "--yes"]);
    let listed = east.run(&["snapshot", "list", "pg"]);
    let names: Vec<&str> =
        listed["snapshots"].as_array().into_iter().flatten().filter_map(|s| s["name"].as_str()).collect();
    for name in &names {
        east.run(&["snapshot", "delete", &format!("pg@{name}"), "--yes"]);
    }
    drop(device);
    east.run(&["volume", "detach", "pg"]);
    east.run(&["switchover", "pg", "--to", "west", "--wait"]);
    ledger.check_all(&mut west.attach("pg"));
}
