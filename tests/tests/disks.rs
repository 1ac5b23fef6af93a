//! Disks that are full, and disks that give back other bytes than they were given.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use farshore_tests::cluster::{Cluster, Ledger, NbdClient, Options, Site, Writers, eventually, farshore, member};

const BLOCKS: usize = 2048;
const CREATE: [&str; 6] = ["volume", "create", "pg", "--size=8MiB", "--members=east,west,north", "--lease=1s"];

fn has_condition(volume: &serde_json::Value, name: &str) -> bool {
    volume["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["name"] == name))
}

/// Adds a section to a site's configuration; for its next start.
fn configure(cluster: &Cluster, index: usize, more: &str) {
    let site = &cluster.sites[index];
    std::fs::write(site.config_path(), cluster.config(index) + more).expect("a configuration can be written");
}

#[test]
fn a_store_without_room_says_so_and_goes_on_when_it_has_some() {
    let cluster = Cluster::lay_out(&["east", "west", "north"], Options::default());
    configure(&cluster, 1, "[store]\ncapacity_bytes = \"4MiB\"\n");
    cluster.sites.iter().for_each(Site::start);
    cluster.wait_connected();
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    let full = west.wait_volume("pg", "west to say that it is full", |v| has_condition(v, "apply-stopped"));
    let text = full["conditions"].to_string();
    assert!(text.contains("full") && text.contains("free"), "the condition names no reason or no remedy: {text}");
    // The others don't notice.
    ledger.fill(&mut client);
    ledger.check_all(&mut client);
    west.kill();
    configure(&cluster, 1, "");
    west.start();
    cluster.wait_in_sync("east", "pg");
    west.wait_volume("pg", "west to have applied everything", |v| {
        !has_condition(v, "apply-stopped") && v["applied_seq"] == v["durable_seq"]
    });
    drop(client);
    east.run(&["volume", "detach", "pg"]);
    east.run(&["switchover", "pg", "--to", "west"]);
    ledger.check_all(&mut west.attach("pg"));
}

/// A file system of its own, unmounted with the value.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn mount(at: &Path, mebibytes: u64) -> Result<SmallDisk, String> {
        let image = at.with_extension("img");
        File::create(&image).and_then(|f| f.set_len(mebibytes << 20)).map_err(|e| e.to_string())?;
        std::fs::create_dir_all(at).map_err(|e| e.to_string())?;
        let run = |program: &str, arguments: &[&str], path: &[&Path]| {
            let output =
                Command::new(program).args(arguments).args(path).output().map_err(|e| format!("{program}: {e}"))?;
            if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
        };
        run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", "-m", "0"], &[&image])?;
        run("mount", &["-o", "loop"], &[&image, at])?;
        Ok(SmallDisk { at: at.to_path_buf() })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[test]
fn a_full_file_system_loses_nothing() {
    let options = Options { journal_budget: "32MiB", journal_segment: "4MiB", ..Options::default() };
    let cluster = Cluster::lay_out(&["east", "west", "north"], options);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let disk = match SmallDisk::mount(&west.data_dir(), 100) {
        Ok(disk) => disk,
        Err(why) => {
            println!("SKIP a_full_file_system_loses_nothing: no file system can be mounted here: {why}");
            return;
        }
    };
    // Somebody else takes what the store would need.
    let ballast = west.data_dir().join("ballast");
    std::fs::write(&ballast, vec![1; 50 << 20]).expect("there is room at first");
    // All of it, the index and the journal fit once the ballast is gone.
    configure(&cluster, 1, "[store]\ncapacity_bytes = \"24MiB\"\n");
    cluster.sites.iter().for_each(Site::start);
    cluster.wait_connected();
    east.run(&["volume", "create", "pg", "--size=16MiB", "--members=east,west,north", "--lease=1s"]);
    let ledger = Ledger::of_new(2 * BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    // Whoever needs room first says so: the journal or the store.
    let said = eventually("west to say that its disk is full", || {
        let status = west.run(&["status"]);
        let all = format!("{} {}", status["conditions"], status["volumes"][0]["conditions"]);
        if all.contains("journal-short") || all.contains("apply-stopped") { Ok(all) } else { Err(all) }
    });
    println!("{said}");
    ledger.fill(&mut client);
    std::fs::remove_file(&ballast).expect("room can be made");
    ledger.check_all(&mut client);
    cluster.wait_in_sync("east", "pg");
    drop(client);
    east.run(&["volume", "detach", "pg"]);
    east.run(&["switchover", "pg", "--to", "west"]);
    ledger.check_all(&mut west.attach("pg"));
    west.end();
    drop(disk);
}

/// Changes one byte in so many.
fn rot(file: &Path, range: std::ops::Range<u64>, every: u64) {
    let file = File::options().read(true).write(true).open(file).expect("a file to damage");
    let mut at = range.start;
    while at < range.end {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a byte to damage");
        file.write_all_at(&[byte[0] ^ 0x20], at).expect("a byte to damage");
        at += every;
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our own paths are text")
}

#[test]
fn rot_in_the_store_is_repaired_and_never_returned() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    cluster.wait_in_sync("east", "pg");
    drop(client);
    east.run(&["volume", "detach", "pg"]);
    assert!(west.stop().success());
    let store = west.data_dir().join("store");
    farshore(&["inspect", "store", text(&store)]).expect("an undamaged store passes");
    let slab = store.join("slab");
    rot(&slab, 65536 + 2000..slab.metadata().expect("its length").len(), 1 << 20);
    let found = farshore(&["inspect", "store", text(&store)]).expect_err("damage is found");
    assert!(found.exit == 1 && found.text.contains("mismatch"), "{found:?}");
    west.start();
    cluster.wait_in_sync("east", "pg");
    east.run(&["switchover", "pg", "--to", "west"]);
    drop(west.attach("pg"));
    // Wrong bytes would end the test here; right ones come from the others.
    ledger.check_all(&mut west.connect("pg"));
    // A copy that is made anew has them all.
    west.run(&["volume", "detach", "pg"]);
    west.run(&["switchover", "pg", "--to", "east"]);
    west.kill();
    std::fs::remove_dir_all(west.data_dir()).expect("a directory can be wiped");
    west.start();
    cluster.wait_connected();
    east.run(&["member", "replace", "pg", "west", "--with", "west", "--wait"]);
    east.run(&["switchover", "pg", "--to", "west"]);
    ledger.check_all(&mut west.attach("pg"));
}

#[test]
fn rot_in_a_journal_is_repaired_from_a_peer_or_the_copy_is_given_up() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    writers.wait_for(600);
    for (round, victim) in [west, east].into_iter().enumerate() {
        writers.wait_for(200);
        let journal = victim.data_dir().join("journal");
        wait_for_a_middle(&journal);
        victim.kill();
        // In the middle of what was written last.
        farshore(&["inspect", "journal", text(&journal)]).expect("a crash alone is no damage");
        let segment = newest_segment(&journal);
        let middle = written_bytes(&segment) * 3 / 4;
        // Long enough to hit more than padding.
        rot(&segment, middle..middle + 8192, 512);
        let found = farshore(&["inspect", "journal", text(&journal)]).expect_err("damage is found");
        assert_eq!(found.exit, 1, "{found:?}");
        victim.start();
        cluster.wait_connected();
        if round == 1 {
            // Its own device is taken back only by a whole log; another site always can.
            west.run(&["failover", "--from", "east"]);
            west.run(&["volume", "attach", "pg", "--device", "nbd"]);
            writers.follow(west.nbd_socket());
        }
        let primary = if round == 0 { "east" } else { "west" };
        writers.wait_for(200);
        // Where state was damaged along with records a promise may be missing: such a copy is given up, by name.
        if victim.run(&["status"])["conditions"].to_string().contains("replica-lost") {
            println!("{} lost its state", victim.name);
            let name = victim.name.as_str();
            cluster.site(primary).run(&["member", "replace", "pg", name, "--with", name, "--wait"]);
        }
        cluster.site(primary).wait_volume("pg", "the damaged copy to follow again", |v| {
            member(v, &victim.name)["state"] == "replicating"
        });
        victim.wait_volume("pg", "the damaged copy to be whole again", |v| {
            v["state"] == "healthy" && !has_condition(v, "journal-hole")
        });
    }
    writers.stop();
    cluster.wait_in_sync("west", "pg");
    west.run(&["volume", "detach", "pg"]);
    west.run(&["switchover", "pg", "--to", "east"]);
    ledger.check_all(&mut east.attach("pg"));
}

#[test]
fn rot_in_the_journal_of_the_last_copy_in_sync_is_never_passed_over() {
    let cluster = Cluster::start(&["east", "west", "arbiter"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=8MiB", "--lease=1s", "--members=east,west", "--witness=arbiter"]);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    west.kill();
    east.wait_volume("pg", "I/O to freeze", |v| v["state"] == "frozen");
    east.run(&["member", "remove", "pg", "west"]);
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    writers.wait_for(400);
    east.kill();
    writers.stop();
    let journal = east.data_dir().join("journal");
    let segment = newest_segment(&journal);
    let middle = written_bytes(&segment) * 3 / 4;
    rot(&segment, middle..middle + 8192, 512);
    farshore(&["inspect", "journal", text(&journal)]).expect_err("damage is found");
    // Nobody else has what was acknowledged since: it is not there, and that is said. Nothing older is shown instead.
    east.start();
    let said = eventually("east to say that its copy is not whole", || {
        let status = east.run(&["status"]).to_string();
        if status.contains("journal-hole") || status.contains("replica-lost") { Ok(status) } else { Err(status) }
    });
    println!("{said}");
    for verb in [&["promote", "pg"][..], &["volume", "attach", "pg", "--device", "nbd"]] {
        let refusal = east.refused_at_last(verb);
        // The copy has a hole, or was given up because its state was damaged, too: then nothing is held here.
        assert!(matches!(refusal.exit, 3 | 4) && refusal.text.contains("pg"), "{refusal:?}");
    }
    assert!(NbdClient::connect(&east.nbd_socket(), "pg").is_err(), "a copy with a hole is no device");
    if said.contains("journal-hole") {
        let force = ["promote", "pg", "--force", "--members", "east,arbiter"];
        let refusal = east.refused(&force);
        refusal.says(4, &["pg", "--yes", "are given up"]);
        east.run(&[&force[..], &["--yes"]].concat());
        let mut client = east.attach("pg");
        let kept = (0..BLOCKS).filter(|block| ledger.holds(&mut client, *block)).count();
        println!("forced from what could be read: {kept} of {BLOCKS} blocks are the newest");
        ledger.fill(&mut client);
        ledger.check_all(&mut client);
    }
}

#[test]
fn an_older_index_below_a_whole_journal_loses_nothing() {
    for (rounds, what) in [(1, "the journal has what it lacks"), (12, "the journal has forgotten some of it")] {
        println!("{what}");
        let options = Options { journal_budget: "16MiB", journal_segment: "4MiB", ..Options::default() };
        let cluster = Cluster::start_with(&["east", "west", "north"], options);
        let [east, west] = ["east", "west"].map(|s| cluster.site(s));
        east.run(&CREATE);
        let ledger = Ledger::of_new(BLOCKS);
        let mut client = east.attach("pg");
        (0..BLOCKS / 2).for_each(|block| ledger.write(&mut client, block).expect("a write"));
        let settled = |v: &serde_json::Value| v["checkpointed_seq"] == v["durable_seq"];
        west.wait_volume("pg", "everything to be in the store", settled);
        assert!(west.stop().success());
        let (index, older) = (west.data_dir().join("store/index"), west.dir.join("older-index"));
        copy_dir(&index, &older);
        west.start();
        for _ in 0..rounds {
            (BLOCKS / 4..BLOCKS * 3 / 4).for_each(|block| ledger.write(&mut client, block).expect("a write"));
            (0..64).for_each(|block| ledger.trim(&mut client, block * 7).expect("a trim"));
        }
        cluster.wait_in_sync("east", "pg");
        west.wait_volume("pg", "everything to be in the store", settled);
        assert!(west.stop().success());
        std::fs::remove_dir_all(&index).expect("an index can be lost");
        copy_dir(&older, &index);
        west.start();
        cluster.wait_connected();
        let lost = west.run(&["status"])["conditions"].to_string().contains("replica-lost");
        println!("the copy was {}", if lost { "given up by name" } else { "brought back" });
        if lost {
            east.run(&["member", "replace", "pg", "west", "--with", "west", "--wait"]);
        }
        cluster.wait_in_sync("east", "pg");
        drop(client);
        east.run(&["volume", "detach", "pg"]);
        east.run(&["switchover", "pg", "--to", "west"]);
        ledger.check_all(&mut west.attach("pg"));
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a file can be copied");
    }
}

/// The segment that was written to last.
fn newest_segment(journal: &Path) -> PathBuf {
    let files = std::fs::read_dir(journal).expect("a journal").map(|f| f.expect("an entry").path());
    let segments = files.filter(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("segment-")));
    segments.max_by_key(|f| f.metadata().and_then(|m| m.modified()).expect("a time")).expect("a journal has segments")
}

/// Where a segment has just begun, what is damaged in it may be all there is, and pass for a torn end. Somebody writes.
fn wait_for_a_middle(journal: &Path) {
    const MIDST: std::ops::Range<u64> = 1 << 20..15 << 20;
    eventually("a segment that is neither just begun nor nearly full", || {
        match written_bytes(&newest_segment(journal)) {
            written if MIDST.contains(&written) => Ok(()),
            written => Err(written),
        }
    });
}

/// Up to the last byte that is not zero.
fn written_bytes(segment: &Path) -> u64 {
    let bytes = std::fs::read(segment).expect("a segment");
    bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at as u64 + 1)
}
