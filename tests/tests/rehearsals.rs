//! The verbs around a disaster that has several steps: a drill before it, the way back after it.

use farshore_tests::cluster::{Cluster, Ledger, Site, Writers, member};
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 512;

fn start() -> (Cluster, std::sync::Arc<Ledger>) {
    let cluster = Cluster::start(&SITES);
    let east = cluster.site("east");
    east.run(&["volume", "create", "pg", "--size=2MiB", "--members=east,west,north", "--lease=1s"]);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    (cluster, ledger)
}

fn names(site: &Site) -> Vec<String> {
    let listed = site.run(&["volume", "list"]);
    let names = listed["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str());
    names.map(String::from).collect()
}

fn steps(of: &Value) -> Vec<&str> {
    of["steps"].as_array().into_iter().flatten().filter_map(|step| step["name"].as_str()).collect()
}

#[test]
fn a_drill_uses_a_clone_of_now_and_leaves_no_trace() {
    let (cluster, ledger) = start();
    let (east, west) = (cluster.site("east"), cluster.site("west"));
    let drill = west.run(&["drill", "pg", "--device", "nbd", "--keep"]);
    assert_eq!((drill["clone"].as_str(), drill["removed"].as_bool()), (Some("drill-pg"), Some(false)), "{drill:#}");
    // Both are written to at once, and neither sees the other's.
    let copy = ledger.fork();
    let mut client = west.connect("drill-pg");
    copy.check_all(&mut client);
    copy.fill(&mut client);
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(100);
    copy.check_all(&mut client);
    drop(client);
    west.refused(&["drill", "pg"]).says(4, &["drill-pg", "farshore drill pg --end"]);
    let ended = west.run(&["drill", "pg", "--end"]);
    assert_eq!(steps(&ended), ["detach", "remove"]);
    west.refused(&["drill", "pg", "--end"]).says(3, &["drill-pg"]);
    writers.wait_for(100);
    writers.stop();
    ledger.check_all(&mut east.connect("pg"));
    assert_eq!((names(west), names(east)), (vec!["pg".to_string()], vec!["pg".to_string()]));
    assert_eq!(east.run(&["snapshot", "list", "pg"])["snapshots"], Value::Array(Vec::new()), "none stays behind");
}

#[test]
fn a_drill_runs_a_command_and_fails_with_it() {
    let (cluster, _) = start();
    let west = cluster.site("west");
    let drill = |script: &str| west.try_run(&["drill", "pg", "--device", "nbd", "--", "sh", "-c", script]);
    let good = drill("test -S \"$FARSHORE_DEVICE\" && test \"$FARSHORE_VOLUME\" = drill-pg").expect("it is there");
    assert_eq!(steps(&good), ["clone", "attach", "command", "detach", "remove"]);
    assert_eq!((good["exit"].as_i64(), good["removed"].as_bool()), (Some(0), Some(true)), "{good:#}");
    drill("exit 7").expect_err("it fails").says(1, &["pg", "7"]);
    west.refused(&["drill", "pg", "--device", "nbd", "--", "/no/such/program"]).says(2, &["/no/such/program"]);
    west.refused(&["drill", "none"]).says(3, &["none"]);
    assert_eq!(names(west), ["pg"], "whatever happens, the clone goes");
    // A volume of somebody's own has the name.
    west.run(&["volume", "create", "drill-pg", "--size=1MiB", "--members=west"]);
    west.refused(&["drill", "pg", "--end"]).says(4, &["drill-pg", "not made by a drill"]);
}

#[test]
fn with_the_primary_lost_a_drill_takes_what_its_site_has() {
    let (cluster, ledger) = start();
    let (east, west) = (cluster.site("east"), cluster.site("west"));
    let before = ledger.fork();
    east.run(&["snapshot", "create", "pg", "--name", "nightly"]);
    ledger.fill(&mut east.connect("pg"));
    let whole = cluster.wait_in_sync("east", "pg")["appended_seq"].clone();
    west.wait_volume("pg", "all of it to be shown in west", |v| v["applied_seq"] == whole);
    east.kill();
    cluster.site("north").kill();
    let drill = west.run(&["drill", "pg", "--device", "nbd", "--keep"]);
    assert_eq!(drill["image"], format!("pg at record {whole}"));
    assert!(drill["note"].as_str().is_some_and(|note| note.contains("what the copy here shows")), "{drill:#}");
    assert_eq!(drill["missed"]["exact"], false, "{drill:#}");
    ledger.check_all(&mut west.connect("drill-pg"));
    west.run(&["drill", "pg", "--end"]);
    // Killed itself, it may not know any more what of its log counts. Then the snapshot is what is whole.
    for _ in 0..3 {
        west.kill();
        west.start();
        let drill = west.run(&["drill", "pg", "--device", "nbd", "--keep"]);
        let is = if drill["image"] == "pg@nightly" { &before } else { &ledger };
        is.check_all(&mut west.connect("drill-pg"));
        west.run(&["drill", "pg", "--end"]);
    }
}

#[test]
fn what_failed_over_goes_back_with_one_verb() {
    let (cluster, ledger) = start();
    let [east, west, _] = SITES.map(|s| cluster.site(s));
    east.kill();
    west.run(&["failover", "--from", "east"]);
    ledger.fill(&mut west.attach("pg"));
    west.refused(&["failback", "pg", "--to", "east"]).says(1, &["1 of 1"]);
    east.start();
    cluster.wait_connected();
    west.run(&["volume", "detach", "pg"]);
    let back = west.run(&["failback", "--to", "east"]);
    assert_eq!(steps(&back["volumes"][0]).last(), Some(&"switchover"), "{back:#}");
    let again = west.run(&["failback", "pg", "--to", "east"]);
    assert_eq!((&again["volumes"][0]["ok"], steps(&again["volumes"][0]).len()), (&Value::Bool(true), 0));
    let mut client = east.attach("pg");
    ledger.check_all(&mut client);
    ledger.fill(&mut client);
    west.refused(&["failback", "pg", "--to", "nowhere"]).says(1, &["1 of 1"]);
    west.refused(&["failback", "--to", "nowhere"]).says(3, &["nowhere"]);
}

#[test]
fn a_history_of_its_own_goes_only_by_name_on_the_way_back() {
    let (cluster, ledger) = start();
    let [east, west, north] = SITES.map(|s| cluster.site(s));
    east.kill();
    north.kill();
    west.run(&["promote", "pg", "--force", "--members", "west", "--yes"]);
    ledger.fill(&mut west.attach("pg"));
    west.run(&["volume", "detach", "pg"]);
    east.start();
    west.wait_volume("pg", "east's history to be known", |v| member(v, "east")["state"] == "diverged");
    west.refused(&["failback", "pg", "--to", "east"]).says(1, &["1 of 1"]);
    west.run(&["failback", "pg", "--to", "east", "--discard"]);
    ledger.check_all(&mut east.attach("pg"));
    assert!(names(east).iter().any(|name| name.starts_with("diverged-pg-")), "{:?}", names(east));
}
