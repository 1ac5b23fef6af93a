//! A far observer stands in for a site that is lost, and rests when that one is back.

use farshore_tests::cluster::{Cluster, Ledger, Writers, member};
use serde_json::Value;

const SITES: [&str; 4] = ["east", "west", "north", "south"];
const BLOCKS: usize = 512;
const CREATE: [&str; 7] =
    ["volume", "create", "pg", "--size=2MiB", "--members=east,west", "--observer=north", "--lease=1s"];
const WITNESS: &str = "--witness=south";
const AFTER_2S: &str = "--promote-observer=after:2s";

fn in_sync(volume: &Value) -> Vec<&str> {
    ["east", "west", "north"].into_iter().filter(|site| member(volume, site)["in_sync_set"] == true).collect()
}

fn has(volume: &Value, condition: &str) -> bool {
    volume["conditions"].as_array().into_iter().flatten().any(|c| c["name"] == condition)
}

#[test]
fn an_observer_stands_in_for_a_lost_site_and_takes_over_when_the_other_is_lost_too() {
    let cluster = Cluster::start(&SITES);
    let [east, west, north, _] = SITES.map(|s| cluster.site(s));
    let created = east.run(&[&CREATE[..], &[WITNESS, AFTER_2S]].concat());
    assert_eq!(created["policy"]["promote_observer_after_ms"], 2000, "{created:#}");
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    east.wait_volume("pg", "both sites in sync", |v| in_sync(v) == ["east", "west"]);
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(50);
    west.kill();
    // Nobody does anything.
    writers.wait_for(200);
    let promoted = east.volume("pg");
    assert_eq!((in_sync(&promoted), &promoted["policy"]["w"]), (vec!["east", "north"], &2.into()), "{promoted:#}");
    let far = member(&promoted, "north");
    assert_eq!((&far["kind"], &far["votes"]), (&"observer".into(), &1.into()), "{promoted:#}");
    assert_eq!(far["stands_in_for"], "west", "{promoted:#}");
    assert!(has(&promoted, "observer-promoted"), "{promoted:#}");
    assert!(east.log().contains("observer-promoted"), "it is told");

    // West comes back and is lost again, and so is east: all that was acknowledged is in north.
    west.start();
    east.wait_volume("pg", "the observer to rest", |v| in_sync(v) == ["east", "west"] && !has(v, "observer-promoted"));
    assert_eq!(member(&east.volume("pg"), "north")["votes"], 0);
    writers.wait_for(50);
    west.kill();
    writers.wait_for(200);
    east.kill();
    north.run(&["failover", "--from", "east", "--reduce"]);
    north.run(&["volume", "attach", "pg", "--device", "nbd"]);
    writers.follow(north.nbd_socket());
    writers.wait_for(50);
    writers.stop();
    ledger.check_all(&mut north.connect("pg"));

    // The way back: while the observer leads it does not rest.
    west.start();
    east.start();
    let leads = north.wait_volume("pg", "all to be in sync", |v| in_sync(v) == SITES[..3]);
    assert_eq!(leads["policy"]["w"], 2, "{leads:#}");
    north.run(&["volume", "detach", "pg"]);
    north.run(&["switchover", "pg", "--to", "east"]);
    east.wait_volume("pg", "the observer to rest", |v| in_sync(v) == ["east", "west"] && !has(v, "observer-promoted"));
    ledger.check_all(&mut east.attach("pg"));
}

#[test]
fn who_is_lost_for_good_leaves_its_place_to_the_observer() {
    let cluster = Cluster::start(&SITES);
    let [east, west, north, _] = SITES.map(|s| cluster.site(s));
    east.run(&[&CREATE[..], &[WITNESS]].concat());
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    east.run(&["volume", "set", "pg", AFTER_2S]);
    west.kill();
    east.wait_volume("pg", "the observer to stand in", |v| in_sync(v) == ["east", "north"]);
    east.run(&["member", "remove", "pg", "west"]);
    let volume = east.wait_volume("pg", "a volume without west", |v| !has(v, "observer-promoted"));
    assert_eq!((&member(&volume, "north")["kind"], &volume["policy"]["w"]), (&"data".into(), &2.into()), "{volume:#}");
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(50);
    writers.stop();
    east.kill();
    north.run(&["failover", "--from", "east", "--reduce"]);
    ledger.check_all(&mut north.attach("pg"));
}

#[test]
fn what_could_not_be_kept_is_refused_with_what_would_do() {
    let cluster = Cluster::start(&SITES);
    let east = cluster.site("east");
    east.refused(&[&CREATE[..], &[AFTER_2S]].concat()).says(2, &["without west", "--votes east=2"]);
    let both = [WITNESS, AFTER_2S, "--mode=async"];
    east.refused(&[&CREATE[..], &both].concat()).says(2, &["mode async", "never"]);
    east.refused(&[&CREATE[..], &[WITNESS, "--promote-observer=after:5ms"]].concat()).says(2, &["1000 ms or more"]);
    east.run(&[&CREATE[..], &[WITNESS]].concat());
    drop(east.attach("pg"));
    east.run(&["volume", "set", "pg", "--promote-observer", "after:30s"]);
    east.refused(&["volume", "set", "pg", "--mode", "async"]).says(2, &["mode async", "never"]);
    let set = east.run(&["volume", "set", "pg", "--promote-observer", "never"]);
    assert_eq!(set["policy"]["promote_observer_after_ms"], 0, "{set:#}");
}
