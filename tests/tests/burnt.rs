//! A journal whose sync failed: the volume goes on without it, and it comes back as somebody new.

use std::path::Path;

use farshore_powercut::{Disk, Fault, Mounted, On};
use farshore_tests::cluster::{Cluster, Ledger, Options, Site, Writers, eventually, member};
use rustix::io::Errno;
use serde_json::Value;

const BLOCKS: usize = 2048;
const CREATE: [&str; 6] = ["volume", "create", "pg", "--size=8MiB", "--members=east,west,north", "--lease=1s"];

fn has_condition(volume: &Value, name: &str) -> bool {
    volume["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["name"] == name))
}

/// Three sites under load at east, with a disk that can fail under one of them. None where none can be mounted.
fn under_load(test: &str, victim: &str) -> Option<(Cluster, Mounted, std::sync::Arc<Ledger>, Writers)> {
    let cluster = Cluster::lay_out(&["east", "west", "north"], Options::default());
    let data = cluster.site(victim).data_dir();
    std::fs::create_dir_all(&data).expect("a directory to mount on");
    let disk = match Mounted::mount(Disk::new(7), &data) {
        Ok(disk) => disk,
        Err(why) => {
            println!("SKIP {test}: no FUSE file system can be mounted here: {why}");
            return None;
        }
    };
    cluster.sites.iter().for_each(Site::start);
    cluster.wait_connected();
    let east = cluster.site("east");
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    writers.wait_for(300);
    cluster.wait_in_sync("east", "pg");
    // What the failure and the cut are about is what is written from now on.
    for dir in ["", "journal", "store", "store/index"] {
        let dir = std::fs::File::open(data.join(dir)).expect("a directory of the victim's");
        dir.sync_all().expect("it is sound yet");
    }
    Some((cluster, disk, ledger, writers))
}

fn fail_syncs(disk: &Mounted, name_contains: &str) {
    disk.disk().fail(Fault { on: On::Sync, name_contains: name_contains.into(), errno: Errno::IO });
}

/// The daemon ends; with it goes whatever no sync covered, and the disk is sound again.
fn replace_disk(site: &Site, disk: &mut Mounted) {
    site.kill();
    let lost = disk.cut().expect("the disk comes back");
    println!("the disk lost {lost:?}");
    disk.disk().mend();
}

#[test]
fn after_a_failed_sync_a_copy_counts_for_nothing_until_it_is_readmitted() {
    let test = "after_a_failed_sync_a_copy_counts_for_nothing_until_it_is_readmitted";
    let Some((cluster, mut disk, ledger, writers)) = under_load(test, "west") else { return };
    let [east, west, north] = ["east", "west", "north"].map(|s| cluster.site(s));
    fail_syncs(&disk, "segment-");
    west.wait_volume("pg", "west to say that its journal failed", |v| has_condition(v, "journal-poisoned"));
    // The others go on, and it is still there to be asked.
    writers.wait_for(300);
    let note = west.data_dir().join("journal/journal.burnt");
    assert!(note.exists(), "the failure is not noted");
    replace_disk(west, &mut disk);
    assert!(note.exists(), "the note was not durable");
    west.start();
    cluster.wait_connected();
    assert!(!note.exists(), "the note outlives its purpose");
    let volume = west.wait_volume("pg", "west to say what it is", |v| has_condition(v, "not-readmitted"));
    assert!(volume["conditions"].to_string().contains("farshore member replace pg west"), "{volume:#}");
    let seen = east.wait_volume("pg", "east to see that west is somebody new", |v| {
        member(v, "west")["state"] == "not-readmitted" && v["state"] == "degraded"
    });
    assert_eq!(member(&seen, "west")["in_sync_set"], false);
    assert!(has_condition(&seen, "member-not-readmitted"), "{seen:#}");
    let loss = seen["loss"].as_array().and_then(|all| all.iter().find(|l| l["site"] == "north"));
    assert_eq!(loss.expect("every site has a cost")["can_continue"], false, "{seen:#}");
    writers.wait_for(200);
    // What it says is counted in nothing: with north gone, east is alone.
    north.kill();
    east.wait_volume("pg", "east to freeze", |v| v["state"] == "frozen" && member(v, "west")["connected"] == true);
    north.start();
    writers.wait_for(200);
    east.run(&["member", "replace", "pg", "west", "--wait"]);
    cluster.wait_in_sync("east", "pg");
    assert!(east.log().contains("readmitted with the data that it has"));
    assert!(!east.log().contains("image shipped"), "what the journal has was copied");
    let whole = west.wait_volume("pg", "west to be whole again", |v| v["state"] == "healthy");
    assert!(!has_condition(&whole, "not-readmitted"), "{whole:#}");
    // Now it counts.
    north.kill();
    writers.wait_for(200);
    north.start();
    writers.stop();
    east.run(&["volume", "detach", "pg"]);
    cluster.wait_in_sync("east", "pg");
    east.run(&["switchover", "pg", "--to", "west"]);
    ledger.check_all(&mut west.attach("pg"));
    west.end();
    drop(disk);
}

/// Nothing can be written to the failed disk any more, not even the note; the one in the runtime directory remains.
#[test]
fn a_primary_whose_whole_disk_fails_hands_over_and_comes_back_as_somebody_new() {
    let test = "a_primary_whose_whole_disk_fails_hands_over_and_comes_back_as_somebody_new";
    let Some((cluster, mut disk, ledger, writers)) = under_load(test, "east") else { return };
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    fail_syncs(&disk, "");
    east.wait_volume("pg", "east to say that its journal failed", |v| has_condition(v, "journal-poisoned"));
    // It stays up and refuses.
    let refused = east.refused(&["promote", "pg"]);
    assert!(refused.text.contains("replace the disk"), "{refused:?}");
    eventually("west to take over", || west.try_run(&["failover", "--from", "east"]).map_err(|r| format!("{r:?}")));
    west.run(&["volume", "attach", "pg", "--device", "nbd"]);
    writers.follow(west.nbd_socket());
    writers.wait_for(300);
    replace_disk(east, &mut disk);
    let note = |dir: &Path| dir.join("journal.burnt").exists();
    assert!(note(&east.dir.join("run")) && !note(&east.data_dir().join("journal")));
    east.start();
    cluster.wait_connected();
    east.wait_volume("pg", "east to say what it is", |v| has_condition(v, "not-readmitted"));
    west.wait_volume("pg", "west to see it", |v| member(v, "east")["state"] == "not-readmitted");
    west.run(&["member", "replace", "pg", "east", "--wait"]);
    cluster.wait_in_sync("west", "pg");
    writers.wait_for(200);
    writers.stop();
    west.run(&["volume", "detach", "pg"]);
    west.run(&["switchover", "pg", "--to", "east"]);
    ledger.check_all(&mut east.attach("pg"));
    east.end();
    drop(disk);
}
