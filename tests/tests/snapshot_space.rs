//! What snapshots hold is bounded on real daemons: new ones are refused, by whoever asks for them, and writes go on.

use farshore_tests::cluster::{Cluster, Ledger, NbdClient, Options, Site, eventually};
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 1024;
/// All of the volume, once more.
const WHOLE_BYTES: u64 = 4 << 20;

fn start(more: &'static str) -> Cluster {
    let cluster = Cluster::start_with(&SITES, Options { more, ..Options::default() });
    let members = "--members=east,west,north";
    cluster.site("east").run(&["volume", "create", "pg", "--size=4MiB", members, "--lease=1s"]);
    cluster
}

fn held(volume: &Value) -> u64 {
    volume["snapshot_held_bytes"].as_u64().expect("a number")
}

/// Overwrites all of the volume; what was written can be read.
fn overwrite(client: &mut NbdClient) {
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(client);
    ledger.check_all(client);
}

fn wait_held(site: &Site, bytes: u64) -> Value {
    site.wait_volume("pg", &format!("{bytes} bytes to be held"), |v| held(v) == bytes)
}

#[test]
fn a_volumes_snapshots_hold_so_much_and_then_only_writes_go_on() {
    let cluster = start("[store]\nscrub_interval_s = 0\n");
    let (east, west) = (cluster.site("east"), cluster.site("west"));
    let mut client = east.attach("pg");
    overwrite(&mut client);
    // From another site than the primary's, as a part of the size.
    let limited = west.run(&["snapshot", "limit", "pg", "--percent", "150"]);
    assert_eq!(limited["snapshot_limit_bytes"].as_u64(), Some(WHOLE_BYTES * 3 / 2));
    east.run(&["snapshot", "schedule", "create", "pg", "often", "--every=1s", "--keep=1000"]);
    eventually("a first run", || match east.run(&["snapshot", "list", "pg"])["snapshots"].as_array() {
        Some(listed) if !listed.is_empty() => Ok(()),
        listed => Err(format!("{listed:?}")),
    });
    // Live writes win: what the snapshots keep grows above the bound.
    let failing = eventually("the schedule to be refused", || {
        overwrite(&mut client);
        let shown = east.run(&["snapshot", "schedule", "show", "pg", "often"]);
        if shown["state"] == "failing" { Ok(shown) } else { Err(shown) }
    });
    assert!(failing["reason"].as_str().is_some_and(|reason| reason.contains("may hold 6MiB")), "{failing:#}");
    assert!(failing["failures"].as_u64() >= Some(1));
    overwrite(&mut client);
    west.refused(&["snapshot", "create", "pg", "--name", "mine"]).says(4, &["may hold 6MiB", "snapshot limit pg"]);
    east.refused(&["snapshot", "clone", "pg", "now"]).says(4, &["may hold 6MiB"]);
    east.wait_volume("pg", "the condition", |v| v["conditions"].to_string().contains("snapshots-refused"));
    assert_eq!(east.metric("farshore_volume_condition{volume=\"pg\",condition=\"snapshots-refused\"}"), 1.0);
    assert!(east.metric("farshore_volume_snapshot_held_bytes{volume=\"pg\"}") >= (WHOLE_BYTES * 3 / 2) as f64);
    assert_eq!(east.metric("farshore_schedule_failing{volume=\"pg\",schedule=\"often\"}"), 1.0);

    // The bound moves with the primary.
    drop(client);
    east.run(&["volume", "detach", "pg"]);
    east.run(&["switchover", "pg", "--to", "west"]);
    west.refused(&["snapshot", "create", "pg", "--name", "mine"]).says(4, &["may hold 6MiB"]);
    west.run(&["snapshot", "schedule", "delete", "pg", "often", "--yes"]);
    let listed = west.run(&["snapshot", "list", "pg"])["snapshots"].as_array().expect("a list").clone();
    for snapshot in &listed {
        west.run(&["snapshot", "delete", snapshot["id"].as_str().expect("an id"), "--yes"]);
    }
    for site in SITES.map(|site| cluster.site(site)) {
        wait_held(site, 0);
    }
    eventually("a snapshot to find room", || west.try_run(&["snapshot", "create", "pg", "--name", "mine"]));
    overwrite(&mut west.attach("pg"));
    // Counted right by each, also after a restart, and by one whose copy was made anew.
    for site in SITES {
        wait_held(cluster.site(site), WHOLE_BYTES);
    }
    let north = cluster.site("north");
    north.end();
    std::fs::remove_dir_all(north.data_dir()).expect("a directory can be wiped");
    north.start();
    cluster.wait_connected();
    west.run(&["member", "replace", "pg", "north", "--wait"]);
    cluster.wait_in_sync("west", "pg");
    wait_held(north, 0);
    cluster.site("east").kill();
    cluster.site("east").start();
    wait_held(cluster.site("east"), WHOLE_BYTES);
    west.run(&["snapshot", "limit", "pg", "--none"]);
    west.run(&["snapshot", "create", "pg", "--name", "another"]);
    overwrite(&mut west.connect("pg"));
    wait_held(north, WHOLE_BYTES);
    println!("snapshots were refused beyond their bound, by hand, by schedule and for clones; writes went on");
}

#[test]
fn each_disk_keeps_some_space_for_writes() {
    let cluster = start("[store]\nscrub_interval_s = 0\ncapacity_bytes = \"16MiB\"\nsnapshots_free_percent = 60\n");
    let east = cluster.site("east");
    let mut client = east.attach("pg");
    overwrite(&mut client);
    east.run(&["snapshot", "create", "pg", "--name", "one"]);
    overwrite(&mut client);
    // Half of it is used.
    let refused = east.refused(&["snapshot", "create", "pg", "--name", "two"]);
    refused.says(4, &["KiB free", "60 %", "snapshots_free_percent"]);
    overwrite(&mut client);
    east.run(&["snapshot", "delete", "pg@one", "--yes"]);
    wait_held(east, 0);
    eventually("a snapshot to find room", || east.try_run(&["snapshot", "create", "pg", "--name", "two"]));
}
