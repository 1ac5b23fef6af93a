//! How shipments end: several at a time from one source, over links that are cut in one direction or both, into a store
//! without room, to a member that is taken out, within a limit. Whatever happens, no pin and no copy of it stays.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_tests::cluster::{Cluster, Ledger, Options, Refusal, Site, eventually, farshore, member, until};
use farshore_wan::{Conditions, Direction, Link};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCK: u64 = 4096;
/// One in each extent of the store: a copy of the volume takes 64 KiB for each.
const STRIDE: usize = 16;
const PIECES: usize = 1024;
const EXTENT: u64 = 64 << 10;
const IMAGE: u64 = PIECES as u64 * BLOCK;
const PATIENCE: Duration = Duration::from_secs(120);
/// When somebody is killed.
const SEED: u64 = 11;
const KILLS_MAX: usize = 24;

/// As much as the tests need, whatever the machine's disk has left.
const STORE: &str = "[store]\nscrub_interval_s = 0\ncapacity_bytes = \"2GiB\"\n";

fn lay_out() -> Cluster {
    let more = STORE;
    let (wan, journal_budget, journal_segment) = (Some(Conditions::default()), "16MiB", "4MiB");
    Cluster::lay_out(&SITES, Options { journal_budget, journal_segment, wan, more, ..Options::default() })
}

/// A volume that east alone acknowledges; these others lack so much of it that only an image helps.
fn far_behind(cluster: &Cluster, away: &[&str]) -> Arc<Ledger> {
    cluster.launch();
    let east = cluster.site("east");
    let create = ["volume", "create", "pg", "--size=64MiB", "--members=east,west,north", "--mode=async", "--lease=1s"];
    east.run(&create);
    let ledger = Ledger::of_new(PIECES * STRIDE);
    let mut client = east.attach("pg");
    up_to_date(east, &["west", "north"]);
    away.iter().for_each(|site| cluster.site(site).kill());
    while !beyond_the_journal(east, away) {
        (0..PIECES).for_each(|piece| ledger.write(&mut client, piece * STRIDE).expect("east is enough"));
    }
    ledger
}

fn beyond_the_journal(east: &Site, away: &[&str]) -> bool {
    let volume = east.volume("pg");
    away.iter().all(|site| member(&volume, site)["lag_records"].as_u64() >= Some(4 * PIECES as u64))
}

fn up_to_date(east: &Site, sites: &[&str]) {
    east.wait_volume("pg", "the copies to have everything", |v| {
        let near = |site: &&str| member(v, site)["lag_records"] == 0 && member(v, site)["connected"] == true;
        sites.iter().all(near)
    });
}

fn slow(link: &Link, bits_per_second: u64) {
    link.set(Conditions { bandwidth: Some(bits_per_second), ..Conditions::default() });
}

fn metric(site: &Site, name: &str) -> u64 {
    site.metric(&format!("farshore_resync_{name}_total")) as u64
}

fn receives(site: &Site, goal: u64) {
    until("the shipment", PATIENCE, || match metric(site, "received_bytes") {
        found if found >= goal => Ok(()),
        found => Err(format!("{found} of {goal} bytes")),
    });
}

fn notices(site: &Site, other: &str) {
    site.wait_volume("pg", "the cut to be noticed", |v| member(v, other)["connected"] == false);
}

/// The same bytes in all these sites, and no pin of a shipment in any.
fn same_and_nothing_left(cluster: &Cluster, sites: &[&str]) {
    let east = cluster.site("east");
    up_to_date(east, &sites[1..]);
    east.until_done(&["snapshot", "create", "pg", "--name", "end"]);
    up_to_date(east, &sites[1..]);
    let images: Vec<Vec<u8>> = sites.iter().map(|site| exported(cluster, site)).collect();
    assert!(images.iter().all(|image| *image == images[0]), "the copies differ");
    sites.iter().for_each(|site| nothing_left(cluster.site(site)));
}

fn exported(cluster: &Cluster, site: &str) -> Vec<u8> {
    eventually("the snapshot to be there", || exported_of(cluster, site, "pg@end"))
}

fn exported_of(cluster: &Cluster, site: &str, snapshot: &str) -> Result<Vec<u8>, Refusal> {
    let path = cluster.dir().join(format!("{site}.fsx"));
    let text = path.to_str().expect("our own paths are text");
    cluster.site(site).try_run(&["snapshot", "export", snapshot, "--to", text, "--force"])?;
    Ok(std::fs::read(&path).expect("it was written"))
}

/// What its store holds, once it has ended in order.
fn stored(site: &Site) -> Value {
    if site.runs() {
        assert!(site.stop().success());
    }
    let store = site.data_dir().join("store");
    let text = farshore(&["-o", "json", "inspect", "store", store.to_str().expect("our own paths are text")]);
    serde_json::from_str(&text.expect("an undamaged store passes")).expect("it is JSON")
}

fn nothing_left(site: &Site) {
    let found = stored(site);
    for volume in found["volumes"].as_array().expect("a list") {
        assert!(volume["staged_seq"].is_null(), "{}: a shipment stays: {found:#}", site.name);
        let pins = volume["pins"].as_array().expect("a list").iter();
        let left: Vec<&Value> = pins.filter(|p| p["name"].as_str().is_some_and(|n| n.starts_with("ship-"))).collect();
        assert!(left.is_empty(), "{}: {left:?}", site.name);
    }
}

#[test]
fn two_targets_of_one_source_get_theirs_over_links_that_are_cut_in_one_direction_and_both() {
    let cluster = lay_out();
    let ledger = far_behind(&cluster, &["west", "north"]);
    let [east, west, north] = SITES.map(|site| cluster.site(site));
    let wan = cluster.wan.as_ref().expect("it was asked for");
    let (to_west, to_north) = (wan.link(0, 1), wan.link(0, 2));
    slow(to_west, 3_000_000);
    slow(to_north, 3_000_000);
    west.start();
    north.start();
    for part in 1..=3 {
        receives(west, IMAGE / 8 * part);
        receives(north, IMAGE / 8 * part);
        // Nothing reaches west, or nothing comes back from it; north hears nothing, and is not heard.
        let direction = if part % 2 == 0 { Direction::Back } else { Direction::There };
        let conditions = Conditions { bandwidth: Some(3_000_000), ..Conditions::default() };
        to_west.set_one(direction, Conditions { cut: true, ..conditions });
        to_north.cut(true);
        notices(east, "west");
        notices(east, "north");
        to_west.set(conditions);
        to_north.cut(false);
    }
    drop(ledger);
    same_and_nothing_left(&cluster, &SITES);
    println!("two shipments of one source, each cut three times, in one direction and both");
}

#[test]
fn a_target_without_room_says_so_keeps_what_it_showed_and_goes_on_when_there_is_some() {
    let cluster = lay_out();
    far_behind(&cluster, &["west"]);
    let [east, west, _] = SITES.map(|site| cluster.site(site));
    let config = |room: &str| {
        let text = cluster.config(1).replace("2GiB", room);
        std::fs::write(west.config_path(), text).expect("a configuration can be written");
    };
    config(&format!("{}B", PIECES as u64 * EXTENT / 2));
    west.start();
    let full = west.wait_volume("pg", "west to say that it has no room", |v| condition(v, "resync-no-room").is_some());
    let said = condition(&full, "resync-no-room").expect("it was just there").to_string();
    assert!(said.contains("free space") && said.contains("stays"), "{said}");
    let sent = metric(east, "sent_bytes");
    std::thread::sleep(Duration::from_secs(12));
    let again = metric(east, "sent_bytes") - sent;
    assert!(again <= 2 * IMAGE, "it is sent again and again: {again} bytes");
    west.stop();
    config("2GiB");
    west.start();
    same_and_nothing_left(&cluster, &SITES);
    println!("a store half as large as the image: {said}");
}

fn condition<'a>(volume: &'a Value, name: &str) -> Option<&'a Value> {
    volume["conditions"].as_array()?.iter().find(|condition| condition["name"] == name)
}

#[test]
fn a_member_that_is_taken_out_while_it_is_shipped_leaves_nothing() {
    let cluster = lay_out();
    far_behind(&cluster, &["west"]);
    let [east, west, _] = SITES.map(|site| cluster.site(site));
    let link = cluster.wan.as_ref().expect("it was asked for").link(0, 1);
    slow(link, 2_000_000);
    west.start();
    receives(west, IMAGE / 8);
    east.run(&["member", "remove", "pg", "west"]);
    eventually("west to have forgotten the volume", || match west.try_run(&["volume", "show", "pg"]) {
        Err(refusal) if refusal.exit == 3 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually("its space to be given back", || match west.metric("farshore_store_used_bytes") as u64 {
        0 => Ok(()),
        used => Err(used),
    });
    // Now while the shipment waits for the link.
    let before = metric(west, "received_bytes");
    east.run(&["member", "add", "pg", "west"]);
    receives(west, before + IMAGE / 8);
    link.cut(true);
    notices(east, "west");
    east.run(&["member", "remove", "pg", "west"]);
    // What was cut short is looked at every other second.
    std::thread::sleep(Duration::from_secs(5));
    same_and_nothing_left(&cluster, &["east", "north"]);
}

/// Kills who sends and who receives in turns, until the shipment is over; how often.
fn killed_in_turns(cluster: &Cluster, volume: &str, shipments: usize) -> usize {
    let [east, west, _] = SITES.map(|site| cluster.site(site));
    let mut random = StdRng::seed_from_u64(SEED);
    let over = || east.log().matches("image shipped").count() >= shipments;
    let mut kills = 0;
    while !over() && kills < KILLS_MAX {
        let before = metric(west, "received_bytes");
        let more = random.random_range(1..IMAGE / 16);
        until("the shipment to go on", PATIENCE, || match metric(west, "received_bytes") {
            found if found >= before + more || over() => Ok(()),
            found => Err(format!("{before}, {found}")),
        });
        std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
        let victim = if kills % 2 == 0 { west } else { east };
        victim.kill();
        victim.start();
        cluster.wait_connected();
        // Whose holder died is led again once it is back.
        eventually("the volume to be led", || east.try_run(&["promote", volume]));
        kills += 1;
    }
    until("the shipment's end", PATIENCE, || if over() { Ok(()) } else { Err("it is under way") });
    kills
}

#[test]
fn source_and_target_die_in_turns_while_an_image_is_shipped_and_while_a_clones_is() {
    let cluster = lay_out();
    far_behind(&cluster, &["west"]);
    let [east, west, _] = SITES.map(|site| cluster.site(site));
    let link = cluster.wan.as_ref().expect("it was asked for").link(0, 1);
    slow(link, 4_000_000);
    west.start();
    let resync = killed_in_turns(&cluster, "pg", 1);
    up_to_date(east, &["west", "north"]);
    east.until_done(&["snapshot", "create", "pg", "--name", "s"]);
    up_to_date(east, &["west", "north"]);
    // A clone without a copy in west gets one there, by shipment: it has no records to be told.
    east.until_done(&["snapshot", "clone", "pg@s", "copy", "--members=east,north"]);
    eventually("the clone to be led", || east.try_run(&["promote", "copy"]));
    let shipped = east.log().matches("image shipped").count();
    east.until_done(&["member", "add", "copy", "west"]);
    let clone = killed_in_turns(&cluster, "copy", shipped + 1);
    eventually("the clone in west to have everything", || match east.try_run(&["volume", "show", "copy"]) {
        Ok(v) if member(&v, "west")["lag_records"] == 0 && member(&v, "west")["connected"] == true => Ok(()),
        other => Err(format!("{other:?}")),
    });
    east.until_done(&["snapshot", "create", "copy", "--name", "end"]);
    let digest =
        |site: &str, snapshot: &str| eventually("the snapshot to be there", || exported_of(&cluster, site, snapshot));
    assert!(digest("east", "copy@end") == digest("west", "copy@end"), "the clone is another image in west");
    assert!(digest("east", "copy@end") == digest("north", "copy@end"), "the clone is another image in north");
    same_and_nothing_left(&cluster, &SITES);
    assert!(resync >= 4 && clone >= 1, "{resync} and {clone} kills");
    println!(
        "kill -9 of source and target in turns, {resync} times during a resync and {clone} while a clone was copied"
    );
}

/// An upper bound alone: a machine that is slower sends less.
#[test]
fn no_more_is_shipped_in_a_second_than_the_node_may() {
    const RATE: u64 = 512 << 10;
    let cluster = lay_out();
    let limited = cluster.config(0).replace("[http]", "ship_bytes_per_second = \"512KiB\"\n[http]");
    std::fs::write(cluster.site("east").config_path(), limited).expect("a configuration can be written");
    far_behind(&cluster, &["west", "north"]);
    let [east, west, north] = SITES.map(|site| cluster.site(site));
    let packed = || metric(east, "packed_bytes");
    assert_eq!(packed(), 0);
    let began = Instant::now();
    west.start();
    north.start();
    let mut looks = 0;
    until("both to be shipped", PATIENCE, || {
        let sent = packed();
        let allowed = (began.elapsed().as_secs_f64() * RATE as f64) as u64 + (2 << 20);
        assert!(sent <= allowed, "{sent} bytes after {:?}, {allowed} at most", began.elapsed());
        looks += 1;
        let done = east.log().matches("image shipped").count();
        if done >= 2 { Ok(()) } else { Err(format!("{sent} bytes sent")) }
    });
    println!("{} bytes packed of {}, in {:?}, {looks} looks", packed(), 2 * IMAGE, began.elapsed());
    same_and_nothing_left(&cluster, &SITES);
}
