//! Verbs of snapshots where a store, or the disk of a file, is full: a deletion makes room, and what waited goes on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use farshore_tests::cluster::{Cluster, Ledger, Options, Site, Writers, eventually};
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const MEMBERS: &str = "--members=east,west,north";
const BLOCKS: usize = 1024;
/// Of a volume of 4 MiB, one snapshot and half of another.
const TIGHT: &str = "[store]\nscrub_interval_s = 0\nsnapshots_free_percent = 0\ncapacity_bytes = \"10MiB\"\n";

/// All but `roomy` have stores of 10 MiB.
fn start(roomy: &[&str]) -> (Cluster, Arc<Ledger>) {
    let options = Options { journal_budget: "32MiB", journal_segment: "4MiB", ..Options::default() };
    let cluster = Cluster::lay_out(&SITES, options);
    for (index, site) in cluster.sites.iter().enumerate() {
        if !roomy.contains(&SITES[index]) {
            std::fs::write(site.config_path(), cluster.config(index) + TIGHT).expect("a configuration can be written");
        }
        site.start();
    }
    cluster.wait_connected();
    let east = cluster.site("east");
    east.run(&["volume", "create", "pg", "--size=4MiB", MEMBERS, "--lease=1s"]);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    (cluster, ledger)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our own paths are text")
}

fn is_stuck(volume: &Value) -> bool {
    volume["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["name"] == "apply-stopped"))
}

/// Two snapshots of other contents each; what comes then has room no more.
fn fill_up(cluster: &Cluster, ledger: &Ledger) {
    let east = cluster.site("east");
    for name in ["one", "two"] {
        east.run(&["snapshot", "create", "pg", "--name", name]);
        ledger.fill(&mut east.connect("pg"));
    }
}

fn exported(cluster: &Cluster, site: &str, snapshot: &str) -> Vec<u8> {
    let path = cluster.dir().join(format!("{site}.fsx"));
    cluster.site(site).until_done(&["snapshot", "export", snapshot, "--to", text(&path), "--force"]);
    std::fs::read(&path).expect("it was written")
}

/// `one` is gone and `two` is whole, in every site; each has every block.
fn good_again(cluster: &Cluster, ledger: &Ledger) {
    let east = cluster.site("east");
    for site in SITES.map(|site| cluster.site(site)) {
        site.wait_volume("pg", "the store to have room again", |v| {
            !is_stuck(v) && v["applied_seq"] == v["durable_seq"]
        });
        let listed = eventually("the catalogue", || site.try_run(&["snapshot", "list", "pg"]));
        let states: Vec<_> =
            listed["snapshots"].as_array().into_iter().flatten().map(|s| (&s["name"], &s["state"])).collect();
        assert_eq!(format!("{states:?}"), r#"[(String("two"), String("ready"))]"#, "{}", site.name);
    }
    cluster.wait_in_sync("east", "pg");
    let two = exported(cluster, "east", "pg@two");
    for site in ["west", "north"] {
        assert!(exported(cluster, site, "pg@two") == two, "two is another image in {site}");
    }
    east.run(&["volume", "detach", "pg"]);
    for site in SITES.map(|site| cluster.site(site)) {
        site.until_done(&["switchover", "pg", "--to", &site.name]);
        ledger.check_all(&mut site.attach("pg"));
        site.run(&["volume", "detach", "pg"]);
    }
}

#[test]
fn with_every_store_full_and_the_journals_too_a_deletion_lets_writes_go_on() {
    let (cluster, ledger) = start(&[]);
    let east = cluster.site("east");
    fill_up(&cluster, &ledger);
    for site in SITES.map(|site| cluster.site(site)) {
        let stuck = site.wait_volume("pg", "its store to be full", is_stuck);
        let said = stuck["conditions"].to_string();
        assert!(said.contains("the store is full") && said.contains("delete snapshots"), "{said}");
    }
    // Until nothing goes on: the journals hold what no store has.
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    eventually("writes to stand still", || {
        let before = writers.acked();
        std::thread::sleep(std::time::Duration::from_secs(1));
        if writers.acked() == before { Ok(()) } else { Err(before) }
    });
    // Not what somebody needs.
    cluster.site("west").refused(&["snapshot", "delete", "pg@none", "--yes"]);
    cluster.site("west").until_done(&["snapshot", "delete", "pg@one", "--yes"]);
    writers.wait_for(500);
    assert_eq!(writers.failed(), 0, "the device does not notice");
    writers.stop();
    good_again(&cluster, &ledger);
    println!("three stores and journals full: one snapshot deleted, and every write went on");
}

#[test]
fn a_snapshot_that_is_held_is_kept_though_the_store_is_full() {
    let (cluster, ledger) = start(&[]);
    let east = cluster.site("east");
    east.run(&["snapshot", "create", "pg", "--name", "one"]);
    east.run(&["snapshot", "update", "pg@one", "--hold", "backup"]);
    ledger.fill(&mut east.connect("pg"));
    east.run(&["snapshot", "create", "pg", "--name", "two"]);
    ledger.fill(&mut east.connect("pg"));
    east.wait_volume("pg", "its store to be full", is_stuck);
    east.refused(&["snapshot", "delete", "pg@one", "--yes"]).says(4, &["pg@one is needed", "held by backup"]);
    assert_eq!(east.run(&["snapshot", "show", "pg@one"])["state"], "ready");
    east.until_done(&["snapshot", "delete", "pg@two", "--yes"]);
    east.wait_volume("pg", "the store to have room again", |v| !is_stuck(v) && v["applied_seq"] == v["durable_seq"]);
    ledger.check_all(&mut east.connect("pg"));
}

#[test]
fn one_copy_whose_store_is_full_has_room_again_when_a_snapshot_is_deleted() {
    let (cluster, ledger) = start(&["east", "north"]);
    let [east, west, _] = SITES.map(|site| cluster.site(site));
    fill_up(&cluster, &ledger);
    west.wait_volume("pg", "west's store to be full", is_stuck);
    assert!(!is_stuck(&east.volume("pg")));
    east.run(&["snapshot", "delete", "pg@one", "--yes"]);
    good_again(&cluster, &ledger);
}

#[test]
fn a_restore_and_an_import_that_find_no_room_go_on_when_there_is_some() {
    let (cluster, ledger) = start(&[]);
    let east = cluster.site("east");
    let then = ledger.fork();
    let file = cluster.dir().join("one.fsx");
    east.run(&["snapshot", "create", "pg", "--name", "one"]);
    east.run(&["snapshot", "export", "pg@one", "--to", text(&file)]);
    fill_up(&cluster, &ledger);
    east.wait_volume("pg", "its store to be full", is_stuck);
    let now = ledger.fork();
    let mut importing = east.begin(&["snapshot", "import", "copy", "--from", text(&file), "--members=east"]);
    east.wait_volume("copy", "the import to find no room", is_stuck);
    east.until_done(&["snapshot", "delete", "pg@two", "--yes"]);
    east.until_done(&["snapshot", "delete", "pg@one", "--yes"]);
    if !importing.wait() {
        east.until_done(&["snapshot", "import", "copy", "--from", text(&file)]);
    }
    then.check_all(&mut east.attach("copy"));
    east.run(&["volume", "detach", "copy"]);
    now.check_all(&mut east.connect("pg"));
    // With the copy's 4 MiB there is room for the volume and one extent more.
    east.run(&["volume", "detach", "pg"]);
    east.run(&["snapshot", "create", "pg", "--name", "good"]);
    ledger.fill(&mut east.attach("pg"));
    east.run(&["volume", "detach", "pg"]);
    let mut restoring = east.begin(&["snapshot", "restore", "pg@good", "--yes"]);
    east.wait_volume("pg", "the restore to find no room", is_stuck);
    east.until_gone(&["snapshot", "delete", "copy@one", "--yes"]);
    east.until_gone(&["volume", "delete", "copy", "--yes"]);
    // It waits for some time; then it is to be run again.
    if !restoring.wait() {
        east.until_done(&["snapshot", "restore", "pg@good", "--yes"]);
    }
    now.check_all(&mut east.attach("pg"));
}

/// Unmounted with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, options: &str) -> Option<SmallDisk> {
        std::fs::create_dir_all(&at).expect("a directory can be made");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallDisk(at))
    }

    fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()), "it was mounted before");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn an_export_onto_a_full_disk_says_so_and_goes_on_there() {
    let cluster = Cluster::start(&SITES);
    let east = cluster.site("east");
    let Some(disk) = SmallDisk::mount(cluster.dir().join("small"), "size=1m") else {
        println!("SKIP an_export_onto_a_full_disk_says_so_and_goes_on_there: no tmpfs can be mounted here");
        return;
    };
    east.run(&["volume", "create", "pg", "--size=4MiB", MEMBERS, "--lease=1s"]);
    Ledger::of_new(BLOCKS).fill(&mut east.attach("pg"));
    east.run(&["snapshot", "create", "pg", "--name", "s"]);
    let (small, roomy) = (disk.0.join("s.fsx"), cluster.dir().join("s.fsx"));
    let export = |site: &Site, to: &Path, more: &str| {
        let verb = ["snapshot", "export", "pg@s", "--to", text(to), more];
        site.try_run(&verb[..verb.len() - usize::from(more.is_empty())])
    };
    let refused = export(east, &small, "").expect_err("there is no room");
    refused.says(1, &["s.fsx", "can't be written", "No space left", "--resume"]);
    let held = |site: &Site| site.run(&["snapshot", "show", "pg@s"])["held_by"].as_array().map(Vec::len);
    assert_eq!(held(east), Some(0), "what failed in order holds nothing");
    disk.remount("size=16m");
    export(east, &small, "--resume").expect("there is room now");
    export(east, &roomy, "").expect("there is room");
    assert!(std::fs::read(&small).expect("a file") == std::fs::read(&roomy).expect("a file"));
}
