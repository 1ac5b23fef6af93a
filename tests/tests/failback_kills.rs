//! kill -9 of either side, again and again, while a volume goes back to the site that was lost. The verb, repeated, ends
//! well; what was acknowledged in the site that took over is there, and what the lost one had never comes over it.

use std::sync::Arc;
use std::time::Duration;

use farshore_tests::cluster::{Cluster, Ledger, Options, Site, member};
use farshore_wan::Conditions;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const BLOCKS: usize = 1024;
const SIZE: &str = "--size=4MiB";
/// So slow that a way back takes some seconds.
const BITS_PER_SECOND: u64 = 8_000_000;
/// After the verb's begin: when the last daemon dies.
const LATEST_MS: u64 = 1500;
const ROUNDS: usize = 6;
/// Decides when who dies.
const SEED: u64 = 11;

fn start(sites: &[&str]) -> Cluster {
    let wan = Some(Conditions::default());
    Cluster::start_with(sites, Options { wan, ..Options::default() })
}

/// The link between east and west.
fn slow(cluster: &Cluster, bandwidth: Option<u64>) {
    cluster.wan.as_ref().expect("it was asked for").link(0, 1).set(Conditions { bandwidth, ..Conditions::default() });
}

fn names(site: &Site) -> Vec<String> {
    let listed = site.run(&["volume", "list"]);
    let names = listed["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str());
    names.map(String::from).collect()
}

/// Each time one of the two daemons dies, then the verb is done. How often it was cut short.
fn goes_back(cluster: &Cluster, asked: &[&str], discard: &[&str]) -> usize {
    let verb = [&["failback", "pg", "--to", "east"], discard].concat();
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let mut dice = StdRng::seed_from_u64(SEED);
    let mut cut = 0;
    slow(cluster, Some(BITS_PER_SECOND));
    for round in 0..ROUNDS {
        let asking = cluster.site(asked[round % asked.len()]);
        let running = asking.begin(&verb);
        std::thread::sleep(Duration::from_millis(dice.random_range(0..LATEST_MS)));
        let victim = if dice.random_bool(0.5) { east } else { west };
        victim.kill();
        drop(running);
        victim.start();
        cluster.wait_connected();
        if west.volume("pg")["primary"]["site"] == "west" {
            cut += 1;
        }
    }
    slow(cluster, None);
    let back = west.until_done(&verb);
    assert_eq!(back["volumes"][0]["ok"], true, "{back:#}");
    // Nothing is left to do.
    let again = east.run(&verb);
    assert_eq!(again["volumes"][0]["steps"].as_array().map(Vec::len), Some(0), "{again:#}");
    println!("cut short {cut} times of {ROUNDS}");
    cut
}

/// Both copies hold what the books say, and take writes.
fn both_hold(cluster: &Cluster, ledger: &Arc<Ledger>) {
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    for (at, next) in [(east, west), (west, east)] {
        let mut client = at.attach("pg");
        ledger.check_all(&mut client);
        ledger.fill(&mut client);
        drop(client);
        at.run(&["volume", "detach", "pg"]);
        at.run(&["switchover", "pg", "--to", &next.name, "--wait"]);
    }
    ledger.check_all(&mut east.attach("pg"));
}

fn lineage(volume: &Value) -> String {
    volume["lineage"].as_str().unwrap_or_default().to_string()
}

#[test]
fn a_volume_goes_back_though_either_side_dies_again_and_again() {
    let cluster = start(&["east", "west", "north"]);
    let [east, west, _] = ["east", "west", "north"].map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", SIZE, "--members=east,west,north", "--lease=1s"]);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    east.kill();
    west.run(&["failover", "--from", "east"]);
    ledger.fill(&mut west.attach("pg"));
    west.run(&["volume", "detach", "pg"]);
    slow(&cluster, Some(BITS_PER_SECOND));
    east.start();
    cluster.wait_connected();
    goes_back(&cluster, &["west", "north", "east"], &[]);
    both_hold(&cluster, &ledger);
    for site in ["east", "west", "north"] {
        assert_eq!(names(cluster.site(site)), ["pg"], "no history parted");
    }
}

/// A fork: east has writes of its own that were acknowledged there, and west took over without them.
fn forked(cluster: &Cluster, others: &[&str]) -> [Arc<Ledger>; 2] {
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let of_east = Ledger::of_new(BLOCKS);
    of_east.fill(&mut east.attach("pg"));
    let of_west = match others {
        [] => {
            // It is shipped, and lacks what follows.
            let whole = east.volume("pg")["appended_seq"].clone();
            east.run(&["volume", "set", "pg", "--mode", "async", "--rpo", "1s"]);
            east.wait_volume("pg", "all of it in west", |v| {
                member(v, "west")["applied_seq"].as_u64() >= whole.as_u64()
            });
            east.run(&["volume", "set", "pg", "--mode", "async", "--rpo", "1h"]);
            let of_west = of_east.fork();
            of_east.fill(&mut east.connect("pg"));
            of_west
        }
        _ => {
            cluster.wait_in_sync("east", "pg");
            west.kill();
            let of_west = of_east.fork();
            of_east.fill(&mut east.connect("pg"));
            of_west
        }
    };
    for site in ["east"].iter().chain(others) {
        if cluster.site(site).runs() {
            cluster.site(site).kill();
        }
    }
    if !west.runs() {
        west.start();
    }
    west.run(&["promote", "pg", "--force", "--members", "west", "--yes"]);
    let mut client = west.attach("pg");
    of_west.check_all(&mut client);
    of_west.fill(&mut client);
    drop(client);
    west.run(&["volume", "detach", "pg"]);
    for site in ["east"].iter().chain(others) {
        cluster.site(site).start();
    }
    cluster.wait_connected();
    let parted = west.wait_volume("pg", "east's history to be known", |v| member(v, "east")["state"] == "diverged");
    assert_eq!(parted["primary"]["site"], "west", "{parted:#}");
    // Who had it there is told so; nothing of its session can be acknowledged any more.
    east.run(&["volume", "detach", "pg", "--force", "--node", "n1"]);
    [of_east, of_west]
}

/// The way back takes west's history to east, and east's is kept beside it, whole.
fn the_right_way(cluster: &Cluster, asked: &[&str], [of_east, of_west]: [Arc<Ledger>; 2]) {
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let winner = lineage(&west.volume("pg"));
    // What east says of itself is of the history that lost.
    east.refused(&["failback", "pg", "--to", "east", "--discard"]).says(1, &["1 of 1"]);
    goes_back(cluster, asked, &["--discard"]);
    assert_eq!(lineage(&east.volume("pg")), winner);
    let kept: Vec<String> = names(east).into_iter().filter(|name| name.starts_with("diverged-pg-")).collect();
    let [kept] = kept.as_slice() else { panic!("one copy of east's history: {kept:?}") };
    of_east.check_all(&mut east.connect(kept));
    assert_eq!(names(west), ["pg"], "nothing of west's was set aside");
    both_hold(cluster, &of_west);
}

#[test]
fn a_fork_is_healed_in_the_right_direction_though_either_side_dies_again_and_again() {
    let cluster = start(&["east", "west", "north"]);
    cluster.site("east").run(&["volume", "create", "pg", SIZE, "--members=east,west,north", "--lease=1s"]);
    let books = forked(&cluster, &["north"]);
    the_right_way(&cluster, &["west"], books);
}

#[test]
fn a_volume_that_is_shipped_is_healed_in_the_right_direction_though_either_side_dies() {
    let cluster = start(&["east", "west"]);
    let create = ["volume", "create", "pg", SIZE, "--members=east,west", "--mode=async", "--rpo=1h", "--lease=1s"];
    cluster.site("east").run(&create);
    let books = forked(&cluster, &[]);
    the_right_way(&cluster, &["west"], books);
    let moved = cluster.site("east").volume("pg");
    assert_eq!(
        (&moved["policy"]["mode"], &moved["policy"]["rpo_ms"]),
        (&"async".into(), &3_600_000.into()),
        "{moved:#}"
    );
}
