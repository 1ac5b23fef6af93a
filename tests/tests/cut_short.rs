//! Daemons killed in the middle of what snapshots are made of: cuts over several volumes, garbage collection, flattening,
//! clones. Afterwards a snapshot is there in all sites with the same bytes or in none, nothing is left that can't be
//! deleted, and the same request again ends well.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farshore_tests::cluster::{
    Cluster, IN_ORDER_BLOCKS, Image, InOrder, Ledger, Options, Site, Writers, eventually, writes_in,
};
use farshore_wan::Conditions;
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const MEMBERS: &str = "--members=east,west,north";
const BLOCK: u64 = 4096;
/// What the store allocates and copies by.
const EXTENT: u64 = 64 << 10;
/// Between two sites: far enough that each step of a verb takes its time.
const RTT: Duration = Duration::from_millis(12);

fn start(between: Option<Conditions>) -> Cluster {
    let more = "[store]\nscrub_interval_s = 0\ncapacity_bytes = \"2GiB\"\n";
    Cluster::start_with(&SITES, Options { more, wan: between, ..Options::default() })
}

fn snapshots(site: &Site, volume: &str) -> Vec<Value> {
    let listed = site.until_done(&["snapshot", "list", volume]);
    listed["snapshots"].as_array().expect("a list").clone()
}

fn named(site: &Site, volume: &str, name: &str) -> Option<Value> {
    snapshots(site, volume).into_iter().find(|snapshot| snapshot["name"] == name)
}

fn exported(cluster: &Cluster, site: &str, snapshot: &str) -> Vec<u8> {
    let path = cluster.dir().join(format!("{site}-{}.fsx", snapshot.replace('@', "-")));
    let _ = std::fs::remove_file(&path);
    cluster.site(site).until_done(&["snapshot", "export", snapshot, "--to", text(&path), "--force"]);
    std::fs::read(&path).expect("it was written")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our own paths are text")
}

/// It is in every site, with the same bytes.
fn same_everywhere(cluster: &Cluster, snapshot: &str) {
    let bytes = exported(cluster, "east", snapshot);
    for site in ["west", "north"] {
        assert!(exported(cluster, site, snapshot) == bytes, "{snapshot} is another image in {site}");
    }
}

/// How many writes in order a snapshot has, read through a clone.
fn writes_of(site: &Site, snapshot: &str) -> u64 {
    site.until_done(&["snapshot", "clone", snapshot, "looked-at", MEMBERS]);
    let mut client = eventually("the attach", || {
        site.try_run(&["volume", "attach", "looked-at", "--device", "nbd"]).map(|_| site.connect("looked-at"))
    });
    let read = |block: u64| {
        let bytes = client.read(block * BLOCK, BLOCK as usize).expect("a clone can be read");
        Image::read(block, &bytes).unwrap_or_else(|damage| panic!("{snapshot}: {damage}"))
    };
    let blocks: Vec<Image> = (0..IN_ORDER_BLOCKS).map(read).collect();
    site.run(&["volume", "detach", "looked-at"]);
    site.until_gone(&["volume", "delete", "looked-at", "--yes"]);
    writes_in(&blocks, snapshot)
}

/// What was found of a cut after its daemon's death.
#[derive(Default)]
struct Tally {
    none: u32,
    unconfirmed: u32,
    whole: u32,
}

/// Cuts pg, led from east, and wal, led from west, while both are written to; kills `victim` a little later each time.
fn cuts_under_which_one_dies(coordinator: &str, victim: &str, rounds: u32) -> Tally {
    let cluster = start(Some(Conditions::of_rtt(RTT)));
    let (east, west, asked) = (cluster.site("east"), cluster.site("west"), cluster.site(coordinator));
    let victim = cluster.site(victim);
    east.run(&["volume", "create", "pg", "--size=1MiB", MEMBERS, "--lease=1s"]);
    west.run(&["volume", "create", "wal", "--size=1MiB", "--members=west,east,north", "--lease=1s"]);
    drop((east.attach("pg"), west.attach("wal")));
    // Each write goes to wal and, once that is acknowledged, to pg.
    let load = InOrder::start(vec![(west.nbd_socket(), "wal".into()), (east.nbd_socket(), "pg".into())]);
    let (mut tally, mut kept) = (Tally::default(), Vec::new());
    for round in 0..rounds {
        load.wait_for(20);
        let name = format!("cut{round}");
        let mut cutting = asked.begin(&["snapshot", "create", "pg", "wal", "--name", &name]);
        std::thread::sleep(Duration::from_millis(10) + RTT * round * 3 / 2);
        victim.kill();
        let said_so = cutting.wait();
        victim.start();
        cluster.wait_connected();
        let found = [(east, "pg"), (west, "wal")].map(|(site, volume)| named(site, volume, &name));
        let ready = found.iter().flatten().filter(|part| part["state"] == "ready").count();
        match (found.iter().flatten().count(), ready) {
            (0, _) => tally.none += 1,
            (2, 2) => tally.whole += 1,
            _ => tally.unconfirmed += 1,
        }
        assert!(ready == 2 || !said_so, "{name} was said to be made, and is not: {found:#?}");
        if round % 3 == 2 && ready < 2 {
            give_up(&cluster, &name, &found);
            continue;
        }
        let again = cluster.site(SITES[round as usize % 3]);
        let cut = again.until_done(&["snapshot", "create", "pg", "wal", "--name", &name]);
        let parts = cut["snapshots"].as_array().expect("two");
        assert!(parts.iter().all(|part| part["state"] != "unconfirmed"), "{cut:#}");
        assert!(parts.len() == 2 && parts[0]["group_id"] == parts[1]["group_id"], "{cut:#}");
        if ready > 0 {
            // One part was confirmed, so the cut was good: it is finished, not made again.
            let before = found.iter().flatten().find(|part| part["state"] == "ready").expect("there is one");
            assert!(parts.iter().any(|part| part["id"] == before["id"]), "{name} was made twice: {found:#?}, {cut:#}");
        }
        kept.push(name);
    }
    load.wait_for(20);
    load.stop();
    for volume in ["pg", "wal"] {
        for site in SITES {
            eventually("the names that were kept", || {
                let names: Vec<Value> =
                    snapshots(cluster.site(site), volume).into_iter().map(|s| s["name"].clone()).collect();
                if names == kept { Ok(()) } else { Err(format!("{site} has {names:?} of {volume}, not {kept:?}")) }
            });
        }
    }
    for name in &kept {
        same_everywhere(&cluster, &format!("pg@{name}"));
        same_everywhere(&cluster, &format!("wal@{name}"));
        let (wal, pg) = (writes_of(east, &format!("wal@{name}")), writes_of(east, &format!("pg@{name}")));
        assert!(wal == pg || wal == pg + 1, "{name} has {wal} writes of wal and {pg} of pg: it is no moment");
    }
    tally
}

/// What is left of a cut is no snapshot: it can't be used, and can be deleted. Then its name is free.
fn give_up(cluster: &Cluster, name: &str, found: &[Option<Value>; 2]) {
    let (east, volumes) = (cluster.site("east"), ["pg", "wal"]);
    for part in found.iter().flatten().filter(|part| part["state"] == "unconfirmed") {
        let snapshot = format!("{}@{name}", part["volume"].as_str().expect("a name"));
        let refusal = east.refused(&["snapshot", "clone", &snapshot, "never"]);
        refusal.says(4, &[&snapshot, "did not come to its end"]);
        let shown = east.until_done(&["snapshot", "show", &snapshot]);
        assert!(shown["note"].as_str().expect("a note").contains("delete it"), "{shown:#}");
    }
    for volume in volumes {
        east.until_gone(&["snapshot", "delete", &format!("{volume}@{name}"), "--yes"]);
    }
    for volume in volumes {
        east.until_done(&["snapshot", "create", volume, "--name", name]);
        east.until_gone(&["snapshot", "delete", &format!("{volume}@{name}"), "--yes"]);
    }
}

fn tell(who: &str, tally: &Tally) {
    let Tally { none, unconfirmed, whole } = tally;
    println!(
        "kill -9 of {who} during {} cuts: nothing of {none}, parts of {unconfirmed}, all of {whole}; then each was made or given up",
        none + unconfirmed + whole
    );
}

#[test]
fn a_cut_whose_leader_dies_is_finished_or_given_up() {
    tell("who leads a cut", &cuts_under_which_one_dies("north", "north", 10));
}

#[test]
fn a_cut_whose_leader_dies_with_a_volume_it_led_is_finished_or_given_up() {
    tell("who leads a cut and a volume of it", &cuts_under_which_one_dies("east", "east", 7));
}

#[test]
fn a_cut_that_loses_a_member_is_made_when_it_is_back() {
    tell("who leads a volume of a cut", &cuts_under_which_one_dies("east", "west", 7));
}

fn used_bytes(site: &Site) -> u64 {
    site.metric("farshore_store_used_bytes") as u64
}

fn gives_back(cluster: &Cluster, at_most: u64) {
    for site in &cluster.sites {
        eventually("the space to be given back", || match used_bytes(site) {
            used if used <= at_most => Ok(()),
            used => Err(format!("{} has {used} bytes in use, and needs {at_most}", site.name)),
        });
    }
}

/// With something in every block.
fn filled(cluster: &Cluster, name: &str, extents: u64) -> Arc<Ledger> {
    let east = cluster.site("east");
    let size = format!("--size={}", extents * EXTENT);
    east.run(&["volume", "create", name, &size, MEMBERS, "--lease=1s"]);
    let ledger = Ledger::of_new((extents * EXTENT / BLOCK) as usize);
    ledger.fill(&mut east.attach(name));
    ledger
}

/// Writes a block of each extent.
fn touch(site: &Site, volume: &str, ledger: &Ledger) {
    let mut client = site.attach(volume);
    for block in (0..ledger.len()).step_by((EXTENT / BLOCK) as usize) {
        ledger.write(&mut client, block).expect("a volume can be written");
    }
}

#[test]
fn garbage_is_collected_whoever_dies_meanwhile() {
    const EXTENTS: u64 = 64;
    const GONE: usize = 6;
    let cluster = start(None);
    let east = cluster.site("east");
    let ledger = filled(&cluster, "pg", EXTENTS);
    for round in 0..GONE + 2 {
        east.run(&["snapshot", "create", "pg", "--name", &format!("s{round}")]);
        touch(east, "pg", &ledger);
    }
    let (first, last) = ("pg@s0".to_string(), format!("pg@s{}", GONE + 1));
    let before = [&first, &last].map(|snapshot| exported(&cluster, "east", snapshot));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    for round in 1..=GONE {
        let (snapshot, victim) = (format!("pg@s{round}"), cluster.site(SITES[round % 3]));
        let mut deleting = cluster.site(SITES[(round / 2) % 3]).begin(&["snapshot", "delete", &snapshot, "--yes"]);
        // The deletion, and then the checkpoints that its garbage waits for, two seconds apart.
        std::thread::sleep(Duration::from_millis(4) + Duration::from_millis(470) * (round as u32 - 1));
        victim.kill();
        let _ = deleting.wait();
        victim.start();
        cluster.wait_connected();
        east.until_gone(&["snapshot", "delete", &snapshot, "--yes"]);
        writers.wait_for(50);
    }
    writers.stop();
    // Two snapshots and the volume itself, each with a version of every extent.
    gives_back(&cluster, 3 * EXTENTS * EXTENT);
    for (snapshot, before) in [&first, &last].into_iter().zip(&before) {
        same_everywhere(&cluster, snapshot);
        assert!(exported(&cluster, "east", snapshot) == *before, "{snapshot} has changed");
    }
    let mut client = eventually("the attach", || {
        east.try_run(&["volume", "attach", "pg", "--device", "nbd"]).map(|_| east.connect("pg"))
    });
    ledger.check_all(&mut client);
    println!(
        "kill -9 during the collection of {GONE} deleted snapshots: the space is given back in three sites, the others are as they were"
    );
}

#[test]
fn a_chain_of_clones_is_flattened_whoever_dies_meanwhile() {
    const EXTENTS: u64 = 64;
    let cluster = start(None);
    let east = cluster.site("east");
    let mut ledgers = vec![filled(&cluster, "c0", EXTENTS)];
    east.run(&["volume", "detach", "c0"]);
    east.run(&["snapshot", "create", "c0", "--name", "s"]);
    for link in 1..=4_usize {
        let clone = format!("c{link}");
        east.until_done(&["snapshot", "clone", &format!("c{}@s", link - 1), &clone]);
        let ledger = ledgers[link - 1].fork();
        let mut client = eventually("the attach", || {
            east.try_run(&["volume", "attach", &clone, "--device", "nbd"]).map(|_| east.connect(&clone))
        });
        for block in (0..ledger.len()).step_by(40 + link) {
            ledger.write(&mut client, block).expect("a clone can be written");
        }
        drop(client);
        east.run(&["volume", "detach", &clone]);
        east.until_done(&["snapshot", "create", &clone, "--name", "s"]);
        ledgers.push(ledger);
        // With the next checkpoint, within two seconds, its index takes what it has of its ancestors.
        std::thread::sleep(Duration::from_millis(530) * (link as u32 - 1));
        let victim = cluster.site(SITES[link % 3]);
        victim.kill();
        victim.start();
        cluster.wait_connected();
    }
    for link in 0..ledgers.len() {
        same_everywhere(&cluster, &format!("c{link}@s"));
    }
    // What they began with goes first: what was flattened must not lean on it more than before.
    for link in 0..ledgers.len() {
        for (at, ledger) in ledgers.iter().enumerate().skip(link) {
            let volume = format!("c{at}");
            let mut client = eventually("the attach", || {
                east.try_run(&["volume", "attach", &volume, "--device", "nbd"]).map(|_| east.connect(&volume))
            });
            ledger.check_all(&mut client);
            drop(client);
            east.run(&["volume", "detach", &volume]);
        }
        east.until_gone(&["snapshot", "delete", &format!("c{link}@s"), "--yes"]);
        east.until_gone(&["volume", "delete", &format!("c{link}"), "--yes"]);
        let victim = cluster.site(SITES[link % 3]);
        victim.kill();
        victim.start();
        cluster.wait_connected();
    }
    gives_back(&cluster, 0);
    println!(
        "kill -9 while 4 clones of clones are flattened, and while they are collected: every block is there, then all space is given back"
    );
}

#[test]
fn a_clone_that_is_cut_short_leaves_nothing_that_stays() {
    const EXTENTS: u64 = 16;
    let cluster = start(Some(Conditions::of_rtt(RTT)));
    let east = cluster.site("east");
    let ledger = filled(&cluster, "pg", EXTENTS);
    east.run(&["snapshot", "create", "pg", "--name", "s"]);
    let (mut half, mut whole) = (0, 0);
    for round in 0..8_u32 {
        let victim = cluster.site(SITES[round as usize % 3]);
        // Of a snapshot, or of the volume as it is now.
        let source = if round % 2 == 0 { "pg@s" } else { "pg" };
        let mut cloning = victim.begin(&["snapshot", "clone", source, "copy"]);
        std::thread::sleep(Duration::from_millis(12) + RTT * round);
        victim.kill();
        let done = cloning.wait();
        victim.start();
        cluster.wait_connected();
        let holders = cluster.sites.iter().filter(|site| site.try_run(&["volume", "show", "copy"]).is_ok()).count();
        half += u32::from(holders > 0 && !done);
        whole += u32::from(done);
        if round % 4 < 2 {
            // Made again where it was begun: whole, and what was taken for the first attempt is gone.
            victim.until_done(&["snapshot", "clone", source, "copy"]);
            let at = cluster.site("east");
            let mut client = eventually("the attach", || {
                at.try_run(&["volume", "attach", "copy", "--device", "nbd"]).map(|_| at.connect("copy"))
            });
            ledger.fork().check_all(&mut client);
            drop(client);
            at.run(&["volume", "detach", "copy"]);
        }
        for site in &cluster.sites {
            site.until_gone(&["volume", "delete", "copy", "--yes"]);
        }
        for site in &cluster.sites {
            let listed = site.run(&["volume", "list"]);
            assert!(!listed.to_string().contains("copy"), "{} still has the clone: {listed:#}", site.name);
        }
        for left in snapshots(east, "pg").into_iter().filter(|snapshot| snapshot["name"] != "s") {
            let name = left["name"].as_str().expect("a name");
            assert!(round % 4 >= 2, "{name} was taken for a clone that was made, and stays: {left:#}");
            east.until_gone(&["snapshot", "delete", &format!("pg@{name}"), "--yes"]);
        }
    }
    east.run(&["volume", "detach", "pg"]);
    ledger.check_all(&mut east.attach("pg"));
    east.run(&["volume", "detach", "pg"]);
    east.until_gone(&["snapshot", "delete", "pg@s", "--yes"]);
    east.until_gone(&["volume", "delete", "pg", "--yes"]);
    gives_back(&cluster, 0);
    println!(
        "kill -9 of who clones, 8 times, {half} left half and {whole} made: made again or deleted, no copy and no space stays"
    );
}
