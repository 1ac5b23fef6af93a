//! The verbs of a disaster on more than one volume: those named, a group, those with a label, or a whole site.

use farshore_tests::cluster::{Cluster, Ledger, Site};
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const ORDERS: [&str; 3] = ["orders-0", "orders-1", "orders-2"];

fn create(site: &Site, name: &str, labels: &[&str]) {
    let labels: Vec<String> = labels.iter().map(|label| format!("--label={label}")).collect();
    let mut arguments = vec!["volume", "create", name, "--size=1MiB", "--members=east,west,north", "--lease=1s"];
    arguments.extend(labels.iter().map(String::as_str));
    site.run(&arguments);
}

/// Names and whether it went well, in the answer's order.
fn outcomes<'a>(answer: &'a Value, of: &str) -> Vec<(&'a str, bool)> {
    let results = answer[of].as_array().into_iter().flatten();
    results.map(|r| (r["volume"].as_str().unwrap_or(""), r["ok"] == true)).collect()
}

fn primaries(site: &Site) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or("").to_string();
    let listed = site.run(&["volume", "list"]);
    let mut all: Vec<(String, String)> = listed["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| (text(&v["name"]), text(&v["primary"]["site"])))
        .collect();
    all.sort();
    all
}

fn all_good<'a>(names: &[&'a str]) -> Vec<(&'a str, bool)> {
    names.iter().map(|name| (*name, true)).collect()
}

#[test]
fn a_group_goes_and_comes_back_as_one() {
    let cluster = Cluster::start(&SITES);
    let (east, west, north) = (cluster.site("east"), cluster.site("west"), cluster.site("north"));
    for name in ORDERS {
        create(east, name, &["group=orders", "app=shop"]);
    }
    create(east, "carts", &["app=shop"]);
    let ledger = Ledger::of_new(64);
    for name in ORDERS.into_iter().chain(["carts"]) {
        let mut device = east.attach(name);
        if name == "orders-1" {
            ledger.fill(&mut device);
        }
        cluster.wait_in_sync("east", name);
    }
    // Planned, asked for anywhere, and once more: nothing is left to do then.
    for _ in 0..2 {
        let moved = north.run(&["switchover", "--group", "orders", "--to", "west", "--wait"]);
        assert_eq!(outcomes(&moved, "results"), all_good(&ORDERS), "{moved:#}");
    }
    let there = |site: &str| -> Vec<(String, String)> {
        let of = |name: &str, site: &str| (name.to_string(), site.to_string());
        let orders = ORDERS.iter().map(|name| of(name, site));
        [of("carts", "east")].into_iter().chain(orders).collect()
    };
    assert_eq!(primaries(west), there("west"), "and the other volume stays");
    ledger.check_all(&mut west.attach("orders-1"));
    west.run(&["volume", "detach", "orders-1"]);

    // Not planned.
    west.kill();
    let taken = east.run(&["failover", "--from", "west", "--selector", "app=shop,group=orders"]);
    let mut taken = outcomes(&taken, "results");
    taken.sort_unstable();
    assert_eq!(taken, all_good(&ORDERS));
    assert_eq!(primaries(east), there("east"));
    east.refused(&["failover", "--from", "west", "--group", "orders"]).says(3, &["west"]);

    // Back, although some of it is there already.
    west.start();
    cluster.wait_connected();
    let moved = east.run(&["switchover", "orders-0", "--to", "west", "--wait"]);
    assert_eq!(moved["primary"]["site"], "west", "one volume that is named is answered with itself: {moved:#}");
    let back = east.run(&["failback", "--group", "orders", "--to", "west"]);
    assert_eq!(outcomes(&back, "volumes"), all_good(&ORDERS), "{back:#}");
    assert_eq!(primaries(north), there("west"));
    ledger.check_all(&mut west.attach("orders-1"));
    west.run(&["volume", "detach", "orders-1"]);

    let known = east.run(&["resync", "--selector", "app=shop", "--wait"]);
    assert_eq!(outcomes(&known, "results"), all_good(&["carts", "orders-0", "orders-1", "orders-2"]));
    let demoted = west.run(&["demote", "--site", "west"]);
    assert_eq!(outcomes(&demoted, "results"), all_good(&ORDERS));
    // Each has an outcome of its own.
    let mixed = west.refused(&["promote", "orders-0", "nobody", "orders-2"]);
    mixed.says(1, &["1 of 3 volumes failed"]);
    println!("a group of {} volumes went to west, was taken over, and went back", ORDERS.len());
}

#[test]
fn a_choice_that_means_nothing_is_refused() {
    let cluster = Cluster::start(&SITES);
    let east = cluster.site("east");
    create(east, "orders", &["group=orders"]);
    east.refused(&["switchover", "--to", "west"]).says(2, &["no volume is named", "--group"]);
    east.refused(&["switchover", "--to", "west", "--group", "carts"]).says(3, &["group=carts", "volume list"]);
    east.refused(&["demote", "--site", "south"]).says(3, &["its primary in south"]);
    east.refused(&["promote", "--selector", "app"]).says(2, &["key=value"]);
    east.refused(&["promote", "orders", "--group", "orders"]).says(2, &["cannot be used with"]);
    east.refused(&["resync", "--group", "orders", "--discard"]).says(2, &["--discard is of one volume"]);
    let forced = ["promote", "orders", "other", "--force", "--members", "east", "--yes"];
    east.refused(&forced).says(2, &["of one volume"]);
    println!("seven choices of volumes that mean nothing were refused");
}
