//! Blocks that rotted in one site's store: repaired from the others, by reads and by scrubs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use farshore_tests::cluster::{Cluster, Ledger, NbdError, Options, Site, eventually, farshore};
use serde_json::Value;

const BLOCKS: usize = 2048;
const CREATE: [&str; 6] = ["volume", "create", "pg", "--size=8MiB", "--members=east,west,north", "--lease=1s"];

/// Changes one byte in so many of what a stopped site stores; returns how many blocks that damaged.
fn rot(site: &Site, every: u64) -> u64 {
    let slab = site.data_dir().join("store/slab");
    let file = File::options().read(true).write(true).open(&slab).expect("a slab to damage");
    let len = file.metadata().expect("its length").len();
    // The first place is the slab's header.
    for at in (65536 + 2000..len).step_by(every as usize) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a byte to damage");
        file.write_all_at(&[byte[0] ^ 0x20], at).expect("a byte to damage");
    }
    inspect(site).expect_err("damage is found").text.matches("mismatch").count() as u64
}

fn inspect(site: &Site) -> Result<String, farshore_tests::cluster::Refusal> {
    let store = site.data_dir().join("store");
    farshore(&["inspect", "store", text(&store)])
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our own paths are text")
}

fn has_condition(volume: &Value, name: &str) -> bool {
    volume["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["name"] == name))
}

/// Three sites with one filled volume that is attached nowhere; `more` goes into every configuration.
fn filled(more: &'static str) -> (Cluster, std::sync::Arc<Ledger>) {
    let cluster = Cluster::start_with(&["east", "west", "north"], Options { more, ..Options::default() });
    let east = cluster.site("east");
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    drop(client);
    cluster.wait_in_sync("east", "pg");
    east.run(&["volume", "detach", "pg"]);
    for site in &cluster.sites {
        site.wait_volume("pg", "everything to be applied", |v| v["applied_seq"] == v["durable_seq"]);
    }
    (cluster, ledger)
}

#[test]
fn a_read_repairs_what_is_damaged_from_another_site() {
    let (cluster, ledger) = filled("");
    let west = cluster.site("west");
    assert!(west.stop().success());
    rot(west, 64 << 10);
    west.start();
    cluster.wait_in_sync("east", "pg");
    cluster.site("east").run(&["switchover", "pg", "--to", "west"]);
    let mut client = west.attach("pg");
    ledger.check_all(&mut client);
    let repaired = west.metric("farshore_store_repaired_blocks_total");
    assert!(repaired > 100.0, "every 64 KiB had a damaged block, {repaired} were repaired");
    assert_eq!(west.metric("farshore_store_checksum_errors_total"), repaired);
    let said = west.log().matches("they are repaired from peers").count();
    assert_eq!(said, 1, "an edge is logged once");
    drop(client);
    // On the disk, too.
    assert!(west.stop().success());
    inspect(west).expect("nothing is damaged any more");
}

/// A copy that was made anew has other change marks than the one it came from.
#[test]
fn a_copy_that_came_as_a_shipment_repairs_and_is_repaired() {
    let (cluster, ledger) = filled("");
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    west.kill();
    std::fs::remove_dir_all(west.data_dir()).expect("a directory can be wiped");
    west.start();
    cluster.wait_connected();
    east.run(&["member", "replace", "pg", "west", "--wait"]);
    // The only one left to ask, in either direction.
    cluster.site("north").kill();
    for (victim, other) in [(west, east), (east, west)] {
        assert!(victim.stop().success());
        rot(victim, 64 << 10);
        victim.start();
        eventually("the volume to be led by the other", || {
            other.try_run(&["promote", "pg"]).map_err(|refusal| format!("{refusal:?}"))
        });
        other.wait_volume("pg", "the victim to follow", |v| v["state"] == "degraded" && v["lease"]["valid"] == true);
        eventually("the victim to lead", || {
            let target = victim.name.as_str();
            other.try_run(&["switchover", "pg", "--to", target]).map_err(|refusal| format!("{refusal:?}"))
        });
        ledger.check_all(&mut victim.attach("pg"));
        assert!(victim.metric("farshore_store_repaired_blocks_total") > 100.0);
        victim.run(&["volume", "detach", "pg"]);
    }
}

#[test]
fn what_nobody_has_is_an_error_and_never_wrong_bytes() {
    let (cluster, ledger) = filled("");
    for site in &cluster.sites {
        assert!(site.stop().success());
        // Every block of every copy.
        rot(site, 4096);
    }
    cluster.sites.iter().for_each(Site::start);
    cluster.wait_connected();
    let east = cluster.site("east");
    eventually("east to be primary again", || east.try_run(&["promote", "pg"]).map_err(|r| format!("{r:?}")));
    let mut client = east.attach("pg");
    for block in [0, 7, BLOCKS - 1] {
        match ledger.check(&mut client, block) {
            Err(NbdError::Failed(errno)) => assert_eq!(errno, 5, "EIO"),
            other => panic!("block {block} can't be read anywhere: {other:?}"),
        }
    }
    let volume = east.wait_volume("pg", "the damage to be shown", |v| has_condition(v, "store-damaged"));
    let said = volume["conditions"].to_string();
    assert!(said.contains("3 blocks") && said.contains("farshore member replace pg east"), "{said}");
    // Whoever writes a block has it again.
    ledger.fill(&mut client);
    ledger.check_all(&mut client);
    east.wait_volume("pg", "the damage to be gone", |v| !has_condition(v, "store-damaged"));
}

#[test]
fn a_rotten_index_is_refused_by_name_and_the_remedy_works() {
    let (cluster, ledger) = filled("");
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    // A start moves what the index's log holds into a table.
    assert!(west.stop().success());
    west.start();
    assert!(west.stop().success());
    let index = west.data_dir().join("store/index");
    let files = std::fs::read_dir(&index).expect("an index").map(|entry| entry.expect("an entry").path());
    let tables: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
    assert!(!tables.is_empty());
    for table in tables {
        let mut bytes = std::fs::read(&table).expect("a table");
        bytes.iter_mut().step_by(512).for_each(|byte| *byte ^= 0x20);
        std::fs::write(&table, bytes).expect("a table to damage");
    }
    let said = west.start_refused();
    for word in ["index", "remove the store's directory", "farshore member replace"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    std::fs::remove_dir_all(west.data_dir().join("store")).expect("a directory can be removed");
    west.start();
    cluster.wait_connected();
    assert!(west.run(&["status"])["conditions"].to_string().contains("replica-lost"));
    eventually("east to be primary", || east.try_run(&["promote", "pg"]).map_err(|r| format!("{r:?}")));
    east.run(&["member", "replace", "pg", "west", "--wait"]);
    east.run(&["switchover", "pg", "--to", "west"]);
    ledger.check_all(&mut west.attach("pg"));
}

#[test]
fn a_scrub_repairs_what_nobody_reads() {
    let (cluster, _ledger) = filled("[store]\nscrub_interval_s = 0\n");
    let west = cluster.site("west");
    assert!(west.stop().success());
    rot(west, 64 << 10);
    west.start();
    cluster.wait_in_sync("east", "pg");
    let volume = west.run(&["scrub", "pg", "--wait"]);
    let scrub = &volume["scrub"];
    let damaged = scrub["damaged_blocks"].as_u64().expect("a number");
    assert!(damaged > 100, "{scrub}");
    assert_eq!((&scrub["repaired_blocks"], scrub["lost_blocks"].as_u64()), (&scrub["damaged_blocks"], Some(0)));
    assert_eq!(scrub["running"], false);
    assert_eq!(scrub["checked_bytes"].as_u64(), Some(8 << 20));
    let again = west.run(&["scrub", "pg", "--wait"]);
    assert_eq!(again["scrub"]["damaged_blocks"].as_u64(), Some(0), "{again:#}");
    assert!(west.metric("farshore_store_scrubbed_bytes_total") >= (16 << 20) as f64);
    assert!(west.stop().success());
    inspect(west).expect("nothing is damaged any more");
}

#[test]
fn a_scrub_runs_by_itself_and_goes_on_after_a_restart() {
    let (cluster, _ledger) = filled("[store]\nscrub_interval_s = 1\nscrub_bytes_per_second = \"1MiB\"\n");
    let west = cluster.site("west");
    let under_way = |v: &Value| v["scrub"]["running"] == true && v["scrub"]["checked_bytes"].as_u64() >= Some(4 << 20);
    let before = west.wait_volume("pg", "a scrub that is half done", under_way);
    west.kill();
    west.start();
    let after = west.wait_volume("pg", "the scrub to end", |v| {
        v["scrub"]["finished_unix_s"].as_i64() >= before["scrub"]["started_unix_s"].as_i64()
            && (v["scrub"]["running"] == false || v["scrub"]["started_unix_s"] != before["scrub"]["started_unix_s"])
    });
    println!("before: {}\nafter: {}", before["scrub"], after["scrub"]);
    let goes_on = |line: &&str| line.contains("scrub: a pass goes on") && !line.contains("from_extent=0");
    let log = west.log();
    assert!(log.lines().any(|line| goes_on(&line)), "the pass began anew instead of going on");
}

#[test]
fn a_scrub_is_refused_where_there_is_nothing_to_verify() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let east = cluster.site("east");
    east.run(&["volume", "create", "pg", "--size=8MiB", "--members=east,west", "--witness=north", "--lease=1s"]);
    cluster.site("north").refused(&["scrub", "pg"]).says(4, &["north", "no data", "pg"]);
    east.refused(&["scrub", "other"]).says(3, &["other"]);
}
