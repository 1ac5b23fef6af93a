//! Images that are shipped to a member that the journal can't serve any more, cut short again and again.

use std::sync::Arc;
use std::time::Duration;

use farshore_tests::cluster::{Cluster, Ledger, Options, Site, member, until};
use farshore_wan::Conditions;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCK: u64 = 4096;
/// One in each extent of the store, so that a chunk, which speaks of 64 extents, carries 64 of them and a quarter of a MiB.
const STRIDE: usize = 16;
const PIECES: usize = 4096;
const CHUNK: u64 = 64 * BLOCK;
/// When the cuts come.
const SEED: u64 = 7;
const PATIENCE: Duration = Duration::from_secs(120);

/// West lacks so much that only an image helps, and east reaches it over a link that carries so many bits a second.
fn far_behind(bits_per_second: u64) -> (Cluster, Arc<Ledger>) {
    let options = Options {
        journal_budget: "16MiB",
        journal_segment: "4MiB",
        wan: Some(Conditions::default()),
        // As much as they need, whatever the machine's disk has left.
        more: "[store]\ncapacity_bytes = \"2GiB\"\n",
        ..Options::default()
    };
    let cluster = Cluster::start_with(&SITES, options);
    let [east, west, north] = SITES.map(|site| cluster.site(site));
    east.run(&["volume", "create", "pg", "--size", "256MiB", "--lease=1s", "--members", "east,west,north"]);
    let ledger = Ledger::of_new(PIECES * STRIDE);
    let mut client = east.attach("pg");
    cluster.wait_in_sync("east", "pg");
    west.kill();
    for _ in 0..2 {
        for piece in 0..PIECES {
            ledger.write(&mut client, piece * STRIDE).expect("two sites of three are enough");
        }
    }
    north.wait_volume("pg", "all to be applied", |v| v["checkpointed_seq"] == v["durable_seq"]);
    let slow = Conditions { bandwidth: Some(bits_per_second), ..Conditions::default() };
    cluster.wan.as_ref().expect("it was asked for").link(0, 1).set(slow);
    (cluster, ledger)
}

fn sent(east: &Site) -> u64 {
    east.metric("farshore_resync_sent_bytes_total") as u64
}

fn received(west: &Site) -> u64 {
    west.metric("farshore_resync_received_bytes_total") as u64
}

/// Waits until so much more has come, or until it is over.
fn receives(cluster: &Cluster, more: u64) -> bool {
    let [east, west] = ["east", "west"].map(|site| cluster.site(site));
    let goal = received(west) + more;
    until("the shipment", PATIENCE, || match (received(west) >= goal, east.log().contains("image shipped")) {
        (_, true) => Ok(false),
        (true, false) => Ok(true),
        (false, false) => Err(format!("{} of {goal} bytes", received(west))),
    })
}

/// Waits until nothing is sent and nothing comes any more; how much did, in all.
fn quiet(cluster: &Cluster) -> (u64, u64) {
    let [east, west] = ["east", "west"].map(|site| cluster.site(site));
    let mut last = (sent(east), received(west));
    until("the link to be quiet", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(150));
        let before = std::mem::replace(&mut last, (sent(east), received(west)));
        if before == last { Ok(last) } else { Err(format!("{before:?}, {last:?}")) }
    })
}

fn all_is_in_west(cluster: &Cluster, ledger: &Ledger) {
    let [east, west] = ["east", "west"].map(|site| cluster.site(site));
    cluster.wait_in_sync("east", "pg");
    east.run(&["volume", "detach", "pg"]);
    east.run(&["switchover", "pg", "--to", "west"]);
    ledger.check_all(&mut west.attach("pg"));
    assert!(!east.log().contains("could not be given up"), "pins of shipments that are over");
}

#[test]
fn after_a_cut_no_more_is_sent_than_what_remained_and_one_chunk() {
    const CUTS: usize = 20;
    let (cluster, ledger) = far_behind(8_000_000);
    let [east, west] = ["east", "west"].map(|site| cluster.site(site));
    let link = cluster.wan.as_ref().expect("it was asked for").link(0, 1);
    west.start();
    let mut random = StdRng::seed_from_u64(SEED);
    let mut cuts: Vec<(u64, u64)> = Vec::new();
    while cuts.len() < CUTS && receives(&cluster, random.random_range(1..CHUNK * 3 / 2)) {
        link.cut(true);
        for (site, other) in [(east, "west"), (west, "east")] {
            site.wait_volume("pg", "the cut to be noticed", |v| member(v, other)["connected"] == false);
        }
        cuts.push(quiet(&cluster));
        link.cut(false);
    }
    cluster.wait_in_sync("east", "pg");
    let (image, end) = (PIECES as u64 * BLOCK, quiet(&cluster));
    println!("{} cuts: {end:?} bytes sent and received of an image of {image}", cuts.len());
    assert!(cuts.len() >= CUTS, "it was over after {}", cuts.len());
    let mut lost_later = 0;
    for (at, (sent, received)) in cuts.iter().enumerate().rev() {
        // What a later cut lost on its way is no fault of this one.
        let (sent_later, remained) = (end.0 - sent - lost_later, image.saturating_sub(*received));
        assert!(sent_later <= remained + CHUNK, "after cut {at} {sent_later} bytes were sent, and {remained} remained");
        let before = if at > 0 { cuts[at - 1] } else { (0, 0) };
        lost_later += (sent - before.0) - (received - before.1);
    }
    all_is_in_west(&cluster, &ledger);
}

#[test]
fn a_shipment_outlives_the_daemons_at_both_ends() {
    let (cluster, ledger) = far_behind(2_000_000);
    let [east, west] = ["east", "west"].map(|site| cluster.site(site));
    west.start();
    let resumed = || east.metric("farshore_resync_resumed_total") as u64;
    // Its target is killed, long after the first checkpoint that has what was received: one is made every two seconds.
    assert!(receives(&cluster, 24 * CHUNK), "the link is slow");
    let image = PIECES as u64 * BLOCK;
    let shipped = |volume: &Value| {
        let west = member(volume, "west");
        (west["shipped_bytes"].as_u64().unwrap_or(0), west["to_ship_bytes"].as_u64().unwrap_or(0))
    };
    let told = east.wait_volume("pg", "how much is to be shipped to be known", |v| shipped(v).1 > 0);
    let (done, all) = shipped(&told);
    assert!(all == image && (1..image).contains(&done), "{done} of {all} bytes, of {image}");
    let progress = member(&told, "west")["progress"].as_f64().expect("a number");
    assert!((progress - done as f64 / all as f64).abs() < 1e-6, "{progress}: {done} of {all}");
    west.kill();
    west.start();
    until("the target to go on", PATIENCE, || if resumed() > 0 { Ok(()) } else { Err("it began anew") });
    // Its source is.
    assert!(receives(&cluster, 4 * CHUNK), "the link is slow");
    east.kill();
    east.start();
    until("the source to go on", PATIENCE, || if resumed() > 0 { Ok(()) } else { Err("it began anew") });
    all_is_in_west(&cluster, &ledger);
}
