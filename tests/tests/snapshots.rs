//! Snapshots of real daemons: the same image in every site, one moment of several volumes, and what is left of each verb
//! when a daemon dies in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_tests::cluster::{
    Cluster, IN_ORDER_BLOCKS as BLOCKS, Image, InOrder, Ledger, Options, Site, Writers, eventually, farshore, writes_in,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};

const SITES: [&str; 3] = ["east", "west", "north"];
const MEMBERS: &str = "--members=east,west,north";
const BLOCK: u64 = 4096;

fn start() -> Cluster {
    let more = "[store]\nscrub_interval_s = 0\n";
    Cluster::start_with(&SITES, Options { more, ..Options::default() })
}

fn create(site: &Site, name: &str) {
    site.run(&["volume", "create", name, "--size=1MiB", MEMBERS, "--lease=1s"]);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our own paths are text")
}

/// Exports a snapshot from a site; the bytes of the whole stream.
fn exported(cluster: &Cluster, site: &str, snapshot: &str) -> Vec<u8> {
    let path = cluster.dir().join(format!("{site}-{}.fsx", snapshot.replace('@', "-")));
    let _ = std::fs::remove_file(&path);
    cluster.site(site).run(&["snapshot", "export", snapshot, "--to", text(&path)]);
    std::fs::read(&path).expect("it was written")
}

/// The blocks of a snapshot, by way of a volume that it is imported into.
fn blocks_of(cluster: &Cluster, site: &str, snapshot: &str, copy: &str) -> Vec<Image> {
    let path = cluster.dir().join(format!("{copy}.fsx"));
    let at = cluster.site(site);
    at.run(&["snapshot", "export", snapshot, "--to", text(&path)]);
    at.run(&["snapshot", "import", copy, "--from", text(&path), &format!("--members={site}")]);
    let mut client = at.attach(copy);
    let read = |block: u64| {
        let bytes = client.read(block * BLOCK, BLOCK as usize).expect("a copy can be read");
        Image::read(block, &bytes).unwrap_or_else(|damage| panic!("{snapshot}: {damage}"))
    };
    let blocks = (0..BLOCKS).map(read).collect();
    at.run(&["volume", "detach", copy]);
    for name in names(at, copy) {
        at.run(&["snapshot", "delete", &format!("{copy}@{name}"), "--yes"]);
    }
    at.run(&["volume", "delete", copy, "--yes"]);
    blocks
}

fn names(site: &Site, volume: &str) -> Vec<String> {
    let listed = site.run(&["snapshot", "list", volume]);
    let listed = listed["snapshots"].as_array().expect("a list");
    listed.iter().map(|s| s["name"].as_str().expect("a name").to_string()).collect()
}

#[test]
fn a_snapshot_under_load_is_a_prefix_of_the_writes_and_the_same_in_every_site() {
    let cluster = start();
    let east = cluster.site("east");
    create(east, "pg");
    drop(east.attach("pg"));
    let load = InOrder::start(vec![(east.nbd_socket(), "pg".into())]);
    let mut taken = Vec::new();
    for round in 0..4 {
        load.wait_for(BLOCKS / 2 + 17);
        let (name, before) = (format!("s{round}"), load.acked());
        // From each site in turn: the holder of the epoch makes it.
        let made = cluster.site(SITES[round % 3]).run(&["snapshot", "create", "pg", "--name", &name]);
        taken.push((format!("pg@{name}"), before, load.begun()));
        assert_eq!(made["snapshots"][0]["size_bytes"], 1 << 20);
    }
    load.wait_for(BLOCKS);
    let again = east.run(&["snapshot", "create", "pg", "--name", "s0"]);
    assert_eq!(again["snapshots"][0]["seq"], east.run(&["snapshot", "show", "pg@s0"])["seq"], "one name, one moment");
    let mut first = Vec::new();
    for (at, (snapshot, before, after)) in taken.iter().enumerate() {
        let bytes = exported(&cluster, "east", snapshot);
        for site in ["west", "north"] {
            eventually("the copy to come to the snapshot", || {
                cluster.site(site).try_run(&["snapshot", "show", snapshot])
            });
            assert!(exported(&cluster, site, snapshot) == bytes, "{snapshot} is another image in {site}");
        }
        let writes = writes_in(&blocks_of(&cluster, "east", snapshot, &format!("copy{at}")), snapshot);
        assert!((*before..=*after).contains(&writes), "{snapshot}: {writes} writes, not {before} to {after}");
        first.push(bytes);
    }
    load.stop();
    // All that was written since has not changed them; what changed between them is all that is needed to come from one
    // to the other.
    for ((snapshot, ..), before) in taken.iter().zip(&first) {
        assert!(exported(&cluster, "east", snapshot) == *before, "{snapshot} has changed");
    }
    let files: Vec<PathBuf> = (0..2).map(|i| cluster.dir().join(format!("incremental-{i}.fsx"))).collect();
    east.run(&["snapshot", "export", "pg@s0", "--to", text(&files[0])]);
    east.run(&["snapshot", "export", "pg@s3", "--since", "s0", "--to", text(&files[1])]);
    east.run(&["snapshot", "import", "inc", "--from", text(&files[0]), MEMBERS]);
    east.run(&["snapshot", "import", "inc", "--from", text(&files[1])]);
    assert_eq!(blocks_of(&cluster, "east", "inc@s3", "copy-inc"), blocks_of(&cluster, "east", "pg@s3", "copy-s3"));
    println!(
        "4 snapshots under load: each a prefix of the writes, the same bytes in three sites, unchanged by later writes"
    );
}

#[test]
fn a_cut_over_volumes_of_two_sites_is_closed_under_what_was_acknowledged_before() {
    let cluster = start();
    let (east, west) = (cluster.site("east"), cluster.site("west"));
    create(east, "pg");
    west.run(&["volume", "create", "wal", "--size=1MiB", "--members=west,east,north", "--lease=1s"]);
    drop(east.attach("pg"));
    drop(west.attach("wal"));
    // Each write goes to wal and, once that is acknowledged, to pg.
    let load = InOrder::start(vec![(west.nbd_socket(), "wal".into()), (east.nbd_socket(), "pg".into())]);
    let mut held_us = 0;
    for round in 0..6 {
        load.wait_for(40);
        let name = format!("cut{round}");
        let at = cluster.site(SITES[round % 3]);
        let cut = at.until_done(&["snapshot", "create", "pg", "wal", "--name", &name]);
        held_us = held_us.max(cut["held_us"].as_u64().expect("a number"));
        let group = cut["snapshots"][0]["group_id"].clone();
        assert!(group != "" && group == cut["snapshots"][1]["group_id"], "{cut:#}");
        assert!(cut["snapshots"].as_array().expect("two").iter().all(|s| s["state"] == "ready"), "{cut:#}");
    }
    load.wait_for(40);
    load.stop();
    for round in 0..6 {
        let of = |volume: &str| {
            let snapshot = format!("{volume}@cut{round}");
            writes_in(&blocks_of(&cluster, "east", &snapshot, &format!("{volume}-{round}")), &snapshot)
        };
        let (wal, pg) = (of("wal"), of("pg"));
        assert!(wal == pg || wal == pg + 1, "cut {round} has {wal} writes of wal and {pg} of pg: it is no moment");
    }
    println!("6 cuts over two volumes led from two sites: each one moment; completions held for {held_us} us at most");
}

#[test]
fn snapshots_are_there_after_a_failover_and_go_on() {
    let cluster = start();
    let (east, west) = (cluster.site("east"), cluster.site("west"));
    create(east, "pg");
    let ledger = Ledger::of_new(BLOCKS as usize);
    ledger.fill(&mut east.attach("pg"));
    east.run(&["snapshot", "create", "pg", "--name", "before", "--label", "app=db"]);
    let bytes = exported(&cluster, "east", "pg@before");
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(100);
    east.kill();
    writers.follow(west.nbd_socket());
    eventually("the failover", || {
        let results = west.try_run(&["failover", "--from", "east"]).map_err(|refusal| refusal.text)?;
        if results["results"][0]["ok"] == true { Ok(()) } else { Err(format!("{results:#}")) }
    });
    west.run(&["volume", "attach", "pg", "--device", "nbd"]);
    writers.wait_for(100);
    assert_eq!(names(west, "pg"), ["before"]);
    assert_eq!(west.run(&["snapshot", "show", "pg@before"])["labels"]["app"], "db");
    assert!(exported(&cluster, "west", "pg@before") == bytes, "another image after the failover");
    west.run(&["snapshot", "create", "pg", "--name", "after"]);
    writers.stop();
    let after = exported(&cluster, "west", "pg@after");
    east.start();
    eventually("the old primary to have what was made without it", || {
        let found = east.try_run(&["snapshot", "show", "pg@after"]).map_err(|refusal| refusal.text)?;
        if found["state"] == "ready" { Ok(()) } else { Err(format!("{found:#}")) }
    });
    assert!(exported(&cluster, "east", "pg@after") == after, "another image in the site that came back");
    assert_eq!(names(east, "pg"), ["before", "after"]);
    println!("a failover: snapshots from before it are the same, those after it are in the site that came back, too");
}

#[test]
fn a_daemon_that_dies_while_snapshots_come_and_go_makes_none_twice_and_keeps_none_that_was_deleted() {
    let cluster = start();
    let east = cluster.site("east");
    create(east, "pg");
    drop(east.attach("pg"));
    let load = InOrder::start(vec![(east.nbd_socket(), "pg".into())]);
    let mut kept = Vec::new();
    for round in 0..6 {
        load.wait_for(60);
        let name = format!("s{round}");
        let mut creating = east.begin(&["snapshot", "create", "pg", "--name", &name]);
        wait_a_moment(round);
        east.kill();
        let _ = creating.wait();
        east.start();
        east.until_done(&["snapshot", "create", "pg", "--name", &name]);
        kept.push(name);
        assert_eq!(names(east, "pg"), kept, "each name once");
        if round % 2 == 1 {
            let gone = kept.remove(0);
            let mut deleting = east.begin(&["snapshot", "delete", &format!("pg@{gone}"), "--yes"]);
            wait_a_moment(round);
            east.kill();
            let _ = deleting.wait();
            east.start();
            eventually("the deletion", || {
                match east.try_run(&["snapshot", "delete", &format!("pg@{gone}"), "--yes"]) {
                    Err(refusal) if refusal.exit != 3 => Err(refusal),
                    _ => Ok(()),
                }
            });
            assert_eq!(names(east, "pg"), kept);
        }
    }
    load.wait_for(60);
    load.stop();
    for (at, name) in kept.iter().enumerate() {
        let snapshot = format!("pg@{name}");
        let bytes = exported(&cluster, "east", &snapshot);
        for site in ["west", "north"] {
            eventually("the same names", || if names(cluster.site(site), "pg") == kept { Ok(()) } else { Err(site) });
            assert!(exported(&cluster, site, &snapshot) == bytes, "{snapshot} is another image in {site}");
        }
        writes_in(&blocks_of(&cluster, "east", &snapshot, &format!("copy{at}")), &snapshot);
    }
    println!(
        "kill -9 during 6 creations and 3 deletions: each name once, each image a prefix, the same in three sites"
    );
}

/// Nobody attaches what is half; said so once the daemon has given up the session that it wrote for.
fn refused_as_unfinished(site: &Site, volume: &str, words: &[&str]) {
    let refusal = eventually("the attach to be refused for what is half", || {
        let refusal = site.refused(&["volume", "attach", volume, "--device", "nbd"]);
        if refusal.text.contains("not finished") { Ok(refusal) } else { Err(refusal) }
    });
    refusal.says(4, words);
}

/// Another one each time: where the verb is by then is left to chance.
fn wait_a_moment(round: usize) {
    std::thread::sleep(std::time::Duration::from_millis(7 * round as u64));
}

/// One with blocks that differ, larger than what goes through in a moment.
fn filled(cluster: &Cluster, name: &str) -> Arc<Ledger> {
    let east = cluster.site("east");
    east.run(&["volume", "create", name, "--size=16MiB", MEMBERS, "--lease=1s"]);
    let ledger = Ledger::of_new(4096);
    ledger.fill(&mut east.attach(name));
    east.run(&["volume", "detach", name]);
    ledger
}

#[test]
fn an_export_goes_on_after_its_daemon_died_and_an_import_is_whole_or_refused() {
    let cluster = start();
    let east = cluster.site("east");
    let ledger = filled(&cluster, "pg");
    east.run(&["snapshot", "create", "pg", "--name", "s"]);
    let whole = exported(&cluster, "east", "pg@s");
    let path = cluster.dir().join("cut.fsx");
    let mut cuts = 0;
    for round in 0..4 {
        let mut exporting = east.begin(&["snapshot", "export", "pg@s", "--to", text(&path), "--resume"]);
        wait_a_moment(round * 3);
        east.kill();
        cuts += usize::from(!exporting.wait());
        east.start();
        let held = east.until_done(&["snapshot", "show", "pg@s"]);
        assert!(held["held_by"].as_array().expect("a list").len() <= 1, "one hold for one file: {held:#}");
        if std::fs::read(&path).is_ok_and(|found| found.len() == whole.len()) {
            break;
        }
    }
    eventually("the export to be whole", || {
        match east.try_run(&["snapshot", "export", "pg@s", "--to", text(&path), "--resume"]) {
            Err(refusal) if !refusal.text.contains("whole already") => Err(refusal),
            _ => Ok(()),
        }
    });
    assert!(std::fs::read(&path).expect("it is there") == whole, "gone on with, it is another one");
    println!("kill -9 during an export, {cuts} times: gone on with, the file is the same");

    let mut deaths = 0;
    for round in 0..3 {
        let mut importing = east.begin(&["snapshot", "import", "copy", "--from", text(&path), MEMBERS]);
        wait_a_moment(8 + round * 20);
        east.kill();
        let done = importing.wait();
        east.start();
        if done {
            break;
        }
        deaths += 1;
        // Nothing was begun, or nobody can take it for whole.
        if let Ok(shown) = east.try_run(&["snapshot", "list", "copy"])
            && shown["snapshots"].as_array().is_some_and(|listed| !listed.is_empty())
        {
            refused_as_unfinished(east, "copy", &["copy", "the import of"]);
        }
    }
    eventually("the import", || match east.try_run(&["snapshot", "import", "copy", "--from", text(&path), MEMBERS]) {
        Err(refusal) if refusal.exit == 6 => Ok(()),
        Err(refusal) => Err(refusal),
        Ok(_) => Ok(()),
    });
    assert_eq!(names(east, "copy"), ["s"]);
    ledger.check_all(&mut east.attach("copy"));
    println!("kill -9 during an import, {deaths} times: no attach until it was run again, then every block is there");
}

/// What retention gave up between two attempts, nobody could go on with.
#[test]
fn an_incremental_export_that_died_holds_what_it_is_held_against() {
    let cluster = start();
    let east = cluster.site("east");
    let ledger = filled(&cluster, "pg");
    east.run(&["snapshot", "create", "pg", "--name", "base"]);
    ledger.fill(&mut east.attach("pg"));
    east.run(&["snapshot", "create", "pg", "--name", "s"]);
    let (path, whole) = (cluster.dir().join("cut.fsx"), cluster.dir().join("whole.fsx"));
    let held = |snapshot: &str| east.run(&["snapshot", "show", snapshot])["held_by"].as_array().map(Vec::len);
    // Into a pipe that nobody reads: it waits, and dies there.
    let pipe = cluster.dir().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe can be made");
    let exporting = east.begin(&["snapshot", "export", "pg@s", "--since", "base", "--to", text(&pipe), "--force"]);
    eventually("both to be held", || match (held("pg@base"), held("pg@s")) {
        (Some(1), Some(1)) => Ok(()),
        other => Err(other),
    });
    drop(exporting);
    east.refused(&["snapshot", "delete", "pg@base", "--yes"]).says(4, &["pg@base is needed", "export-", "--release"]);
    east.run(&["snapshot", "export", "pg@s", "--since", "base", "--to", text(&path)]);
    east.run(&["snapshot", "export", "pg@s", "--since", "base", "--to", text(&whole)]);
    assert!(std::fs::read(&path).expect("a file") == std::fs::read(&whole).expect("a file"));
    let left = east.run(&["snapshot", "show", "pg@base"])["held_by"][0].as_str().expect("the one that died").to_owned();
    for snapshot in ["pg@base", "pg@s"] {
        east.run(&["snapshot", "update", snapshot, "--release", &left]);
        east.run(&["snapshot", "delete", snapshot, "--yes"]);
    }
}

#[test]
fn a_restore_that_is_cut_short_is_finished_before_anybody_can_attach() {
    let cluster = start();
    let (east, west) = (cluster.site("east"), cluster.site("west"));
    let ledger = filled(&cluster, "pg");
    east.run(&["snapshot", "create", "pg", "--name", "good"]);
    let then = ledger.fork();
    ledger.fill(&mut east.attach("pg"));
    east.refused(&["snapshot", "restore", "pg@good", "--yes"]).says(4, &["attached", "volume detach pg"]);
    east.run(&["volume", "detach", "pg"]);
    let now = ledger.fork();
    let mut deaths = 0;
    for round in 0..4 {
        let mut restoring = east.begin(&["snapshot", "restore", "pg@good", "--yes"]);
        wait_a_moment(4 + round * 12);
        east.kill();
        let done = restoring.wait();
        east.start();
        if done {
            break;
        }
        deaths += 1;
        let begun = east.until_done(&["snapshot", "list", "pg"]);
        if begun["snapshots"].as_array().expect("a list").len() > 1 {
            refused_as_unfinished(east, "pg", &["pg", "the restore of good", "before-restore-"]);
            east.refused(&["snapshot", "delete", "pg@good", "--yes"]).says(4, &["pg@good", "restore", "--release"]);
        }
    }
    east.until_done(&["snapshot", "restore", "pg@good", "--yes"]);
    then.check_all(&mut east.attach("pg"));
    east.run(&["volume", "detach", "pg"]);
    assert_eq!(east.run(&["snapshot", "show", "pg@good"])["held_by"].as_array().map(Vec::len), Some(0));
    // What was before is a snapshot, and can be had back; led from another site this time.
    east.run(&["switchover", "pg", "--to", "west"]);
    let before = names(west, "pg").into_iter().find(|name| name.starts_with("before-restore")).expect("it is kept");
    east.until_done(&["snapshot", "restore", &format!("pg@{before}"), "--yes"]);
    now.check_all(&mut west.attach("pg"));
    println!(
        "kill -9 during a restore, {deaths} times: no attach until it was run again; then back to what was before"
    );
}

#[test]
fn what_can_not_be_is_refused_by_name() {
    let cluster = start();
    let east = cluster.site("east");
    create(east, "pg");
    create(east, "wal");
    east.run(&["snapshot", "create", "pg", "--name", "a"]);
    east.run(&["snapshot", "create", "pg", "--name", "b"]);
    east.run(&["snapshot", "create", "wal", "--name", "a"]);
    east.refused(&["snapshot", "show", "pg@none"]).says(3, &["pg@none", "snapshot list"]);
    east.refused(&["snapshot", "create", "none"]).says(3, &["none"]);
    east.refused(&["snapshot", "create", "pg", "--name", "a", "--label", "x=y"]).says(6, &["pg@a", "other labels"]);
    east.refused(&["snapshot", "create", "pg", "wal", "--name", "a"]).says(6, &["@a", "exists"]);
    east.refused(&["snapshot", "diff", "pg@b", "--since", "wal@a"]).says(2, &["wal", "pg", "one volume"]);
    east.refused(&["snapshot", "diff", "pg@a", "--since", "b"]).says(2, &["younger", "change places"]);
    let west = cluster.site("west");
    west.run(&["snapshot", "update", "pg@a", "--hold", "backup"]);
    let refusal = east.refused(&["snapshot", "delete", "pg@a", "--yes"]);
    refusal.says(4, &["pg@a is needed", "held by backup", "--release backup"]);
    west.run(&["snapshot", "update", "pg@a", "--release", "backup"]);
    west.run(&["snapshot", "delete", "pg@a", "--yes"]);
    east.refused(&["snapshot", "show", "pg@a"]).says(3, &["pg@a"]);
    assert_eq!((names(east, "pg"), names(west, "pg")), (vec!["b".to_string()], vec!["b".to_string()]));
    // Where the quorum is gone nothing is made, and what was asked for is not made twice when it is back.
    cluster.site("west").kill();
    cluster.site("north").kill();
    let refusal = east.refused(&["snapshot", "create", "pg", "--name", "late", "--timeout", "30s"]);
    assert_eq!(refusal.exit, 5, "{refusal:?}");
    cluster.site("west").start();
    east.until_done(&["snapshot", "create", "pg", "--name", "late"]);
    assert_eq!(names(east, "pg"), ["b", "late"]);
    farshore(&["snapshot", "import", "x", "--from", "/nonexistent"]).expect_err("there is no daemon and no file");
}
