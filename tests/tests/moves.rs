//! Planned moves of volumes whose mode leaves the copy that they go to behind: nothing is lost, and the mode comes back.

use farshore_tests::cluster::{Cluster, Ledger, Options, Site, Writers, eventually, member};
use farshore_wan::Conditions;
use serde_json::Value;

const SITES: [&str; 2] = ["east", "west"];
const BLOCKS: usize = 256;

/// Far longer than any test here: whatever is in the other site was brought by the move.
const RPO: &str = "--rpo=1h";

fn start_with(options: Options, size: &str) -> Cluster {
    let cluster = Cluster::start_with(&SITES, options);
    let create = ["volume", "create", "pg", "--members=east,west", "--mode=async", RPO, "--lease=1s", "--size", size];
    cluster.site("east").run(&create);
    cluster
}

fn start() -> Cluster {
    start_with(Options::default(), "1MiB")
}

fn conditions(volume: &Value) -> Vec<&str> {
    volume["conditions"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
}

fn is_behind(site: &Site, of: &str) -> Value {
    site.wait_volume("pg", "the mode to be async again", |v| {
        v["policy"]["mode"] == "async" && member(v, of)["votes"] == 0 && !conditions(v).contains(&"mode-while-moving")
    })
}

#[test]
fn a_volume_that_is_shipped_moves_and_moves_back_and_loses_nothing() {
    let cluster = start();
    let [east, west] = SITES.map(|s| cluster.site(s));
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(100);
    writers.stop();
    east.run(&["volume", "detach", "pg"]);
    // Not by itself: what west lacks would be lost.
    east.refused(&["switchover", "pg", "--to", "west"]).says(4, &["not in the sync set", "--wait"]);
    for (from, to) in [(east, west), (west, east)] {
        // Asked where the copy is behind, or where the volume is led.
        west.run(&["switchover", "pg", "--to", &to.name, "--wait"]);
        let moved = is_behind(to, &from.name);
        assert_eq!(moved["primary"]["site"], to.name.as_str(), "{moved:#}");
        ledger.check_all(&mut to.attach("pg"));
        ledger.fill(&mut to.connect("pg"));
        to.run(&["volume", "detach", "pg"]);
        // Once more: nothing is left to do.
        to.run(&["switchover", "pg", "--to", &to.name, "--wait"]);
        is_behind(to, &from.name);
    }
    ledger.check_all(&mut east.attach("pg"));
}

#[test]
fn a_move_that_is_cut_short_is_shown_and_is_finished_or_given_up() {
    let cluster = start_with(Options { wan: Some(Conditions::default()), ..Options::default() }, "16MiB");
    let [east, west] = SITES.map(|s| cluster.site(s));
    let line = cluster.wan.as_ref().expect("it was asked for").link(0, 1);
    let slow = || line.set(Conditions { bandwidth: Some(8_000_000), ..Conditions::default() });
    let ledger = Ledger::of_new(4096);
    ledger.fill(&mut east.attach("pg"));
    east.run(&["volume", "detach", "pg"]);
    let moving = ["switchover", "pg", "--to", "west", "--wait"];
    let is_moving = |v: &Value| conditions(v).contains(&"mode-while-moving");
    // To a site that is not there: nothing is begun.
    west.end();
    east.wait_volume("pg", "west to be gone", |v| member(v, "west")["connected"] == false);
    east.refused(&moving).says(5, &["west/n1 is not connected"]);
    assert!(!is_moving(&east.volume("pg")));
    west.start();
    cluster.wait_connected();
    // Given up: the verb waits for the copy in west, and is killed meanwhile.
    slow();
    let verb = east.begin(&moving);
    let shown = east.wait_volume("pg", "the move to be shown", is_moving);
    assert_eq!(shown["policy"]["mode"], "sync", "{shown:#}");
    drop(verb);
    let given_up = east.run(&["volume", "set", "pg", "--mode", "async", "--rpo", "2h"]);
    assert_eq!((&given_up["policy"]["mode"], is_moving(&given_up)), (&"async".into(), false), "{given_up:#}");
    // Begun again; all daemons are killed before it moves. Whoever runs the verb again finishes it.
    let verb = east.begin(&moving);
    east.wait_volume("pg", "the move to be shown", |v| is_moving(v) || v["primary"]["site"] == "west");
    east.kill();
    west.kill();
    drop(verb);
    line.set(Conditions::default());
    east.start();
    west.start();
    cluster.wait_connected();
    eventually("the move to be finished", || {
        let primary = east.volume("pg")["primary"]["site"].clone();
        let at = if primary == "west" { west } else { east };
        at.try_run(&["promote", "pg"]).and_then(|_| at.try_run(&moving))
    });
    let moved = is_behind(west, "east");
    assert_eq!(moved["policy"]["rpo_ms"], 7_200_000, "{moved:#}");
    ledger.check_all(&mut west.attach("pg"));
}

#[test]
fn what_was_lost_with_a_site_is_kept_and_the_volume_fails_back_in_its_mode() {
    let cluster = start();
    let [east, west] = SITES.map(|s| cluster.site(s));
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    // West has an image of its own by now, and nothing of what follows.
    east.run(&["volume", "set", "pg", "--mode", "async", "--rpo", "1s"]);
    let whole = east.volume("pg")["head_seq"].clone();
    east.wait_volume("pg", "an image in west", |v| {
        member(v, "west")["applied_seq"].as_u64() >= whole.as_u64().or(Some(u64::MAX))
            || member(v, "west")["applied_seq"].as_u64() >= Some(BLOCKS as u64)
    });
    east.run(&["volume", "set", "pg", "--mode", "async", "--rpo", "1h"]);
    east.kill();
    let taken = west.run(&["promote", "pg", "--force", "--members", "west", "--yes"]);
    assert_eq!(taken["primary"]["site"], "west", "{taken:#}");
    ledger.check_all(&mut west.attach("pg"));
    ledger.fill(&mut west.connect("pg"));
    east.start();
    cluster.wait_connected();
    west.wait_volume("pg", "east to have a history of its own", |v| member(v, "east")["state"] == "diverged");
    // Who had it in east is not kept from going away: nothing of its session can be acknowledged any more.
    east.run(&["volume", "detach", "pg", "--force", "--node", "n1"]);
    west.refused(&["failback", "pg", "--to", "east"]).says(1, &["did not go back"]);
    west.run(&["volume", "detach", "pg"]);
    let back = west.run(&["failback", "pg", "--to", "east", "--discard"]);
    assert_eq!(back["volumes"][0]["ok"], true, "{back:#}");
    let healed = is_behind(east, "west");
    assert_eq!(healed["primary"]["site"], "east", "{healed:#}");
    ledger.check_all(&mut east.attach("pg"));
}
