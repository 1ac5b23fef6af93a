//! Verbs of snapshots where a copy's store, or the disk of a file, is full.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use farshore_tests::cluster::{Cluster, Ledger, Options, Site, eventually};
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
        eventually("only two, and whole", || {
            let listed = site.try_run(&["snapshot", "list", "pg"]).map_err(|refusal| format!("{refusal:?}"))?;
            let all: Vec<_> = listed["snapshots"].as_array().into_iter().flatten().collect();
            let good = all.len() == 1 && all[0]["name"] == "two" && all[0]["state"] == "ready";
            if good { Ok(()) } else { Err(format!("{}: {all:?}", site.name)) }
        });
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
fn one_copy_whose_store_is_full_has_room_again_when_a_snapshot_is_deleted() {
    let (cluster, ledger) = start(&["east", "north"]);
    let [east, west, _] = SITES.map(|site| cluster.site(site));
    fill_up(&cluster, &ledger);
    west.wait_volume("pg", "west's store to be full", is_stuck);
    assert!(!is_stuck(&east.volume("pg")));
    east.run(&["snapshot", "delete", "pg@one", "--yes"]);
    good_again(&cluster, &ledger);
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
