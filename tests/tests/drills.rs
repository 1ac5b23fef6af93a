//! Drills of copies that are shipped on a schedule, of several volumes at one moment, and under daemons that die.

use std::time::Duration;

use farshore_tests::cluster::{
    Cluster, IN_ORDER_BLOCKS, Image, InOrder, Ledger, NbdClient, Site, eventually, farshore, member, writes_in,
};
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];

fn blocks(client: &mut NbdClient) -> Vec<Image> {
    let read = |block| {
        let bytes = client.read(block * 4096, 4096).expect("it can be read");
        Image::read(block, &bytes).expect("what was written")
    };
    (0..IN_ORDER_BLOCKS).map(read).collect()
}

fn names(site: &Site) -> Vec<String> {
    let listed = site.run(&["volume", "list"]);
    let names = listed["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str());
    names.map(String::from).collect()
}

fn create(site: &Site, volume: &str, more: &[&str]) {
    site.run(&[&["volume", "create", volume, "--size=1MiB", "--lease=1s"][..], more].concat());
    drop(site.attach(volume));
}

/// Of "pg at record 17".
fn record(drill: &Value) -> u64 {
    let image = drill["image"].as_str().unwrap_or_default();
    let (_, seq) = image.split_once(" at record ").unwrap_or_else(|| panic!("no record: {drill:#}"));
    seq.parse().expect("a number")
}

fn applied(volume: &Value) -> u64 {
    member(volume, "west")["applied_seq"].as_u64().unwrap_or(0)
}

/// As soon as this site's copy has come to the deletion.
fn no_snapshots(site: &Site, volume: &str) {
    eventually(&format!("no snapshot of {volume}"), || match site.try_run(&["snapshot", "list", volume]) {
        Ok(listed) if listed["snapshots"] == Value::Array(Vec::new()) => Ok(()),
        other => Err(other),
    });
}

/// No image is pinned for a clone any more, and nothing is held beside what is shown.
fn nothing_is_left(site: &Site, volumes: &[&str]) {
    assert_eq!(names(site), volumes);
    for volume in volumes {
        no_snapshots(site, volume);
        site.wait_volume(volume, "nothing to be held beside it", |v| v["snapshot_held_bytes"] == 0);
    }
    site.end();
    let store = site.data_dir().join("store");
    let found = farshore(&["inspect", "store", store.to_str().expect("our own paths are text")]);
    let text = found.unwrap_or_else(|refusal| refusal.text);
    assert!(!text.contains("shown-"), "{text}");
    site.start();
}

#[test]
fn a_copy_on_a_schedule_is_drilled_as_of_its_last_shipment_whoever_lives() {
    let cluster = Cluster::start(&["east", "west"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    create(east, "pg", &["--members=east,west", "--mode=async", "--rpo=1s"]);
    let load = InOrder::start(vec![(east.nbd_socket(), "pg".into())]);
    east.wait_volume("pg", "an image in west", |v| applied(v) > 0);
    load.wait_for(100);
    let drill = west.run(&["drill", "pg", "--device", "nbd", "--keep"]);
    let seq = record(&drill);
    assert!(drill["note"].as_str().is_some_and(|note| note.contains("shipped on a schedule")), "{drill:#}");
    let missed = &drill["missed"];
    assert!(missed["exact"] == true && missed["records"].as_u64().is_some(), "{drill:#}");
    let mut client = west.connect("drill-pg");
    let held = writes_in(&blocks(&mut client), "the drill's image");
    assert!(held > 0 && held <= load.begun());
    // Images come while this one is in use, and neither is seen in the other.
    for _ in 0..2 {
        let last = applied(&east.volume("pg"));
        load.wait_for(50);
        east.wait_volume("pg", "the next image in west", |v| applied(v) > last);
    }
    assert_eq!(writes_in(&blocks(&mut client), "the drill's image, later"), held);
    Ledger::of_new(IN_ORDER_BLOCKS as usize / 2).fill(&mut client);
    drop(client);
    west.run(&["drill", "pg", "--end"]);
    // With the primary dead.
    east.kill();
    let shown = west.volume("pg")["applied_seq"].as_u64().expect("a seq");
    let drill = west.run(&["drill", "pg", "--device", "nbd", "--keep"]);
    assert!(drill["missed"]["exact"] == false && record(&drill) == shown && shown > seq, "{drill:#}");
    let later = writes_in(&blocks(&mut west.connect("drill-pg")), "the drill's image with east dead");
    west.run(&["drill", "pg", "--end"]);
    east.start();
    load.wait_for(50);
    east.wait_volume("pg", "the next image in west", |v| applied(v) > shown);
    load.stop();
    // The image of record N has the writes of the source up to record N: what of the order is no write came before them.
    assert_eq!(later - held, shown - seq, "as many writes as records lie between the two images");
    assert!(seq >= held && seq - held < 8, "{held} writes up to record {seq}");
    nothing_is_left(west, &["pg"]);
}

#[test]
fn several_volumes_are_drilled_as_of_one_moment_or_not_at_all() {
    let cluster = Cluster::start(&SITES);
    let [east, west, north] = SITES.map(|s| cluster.site(s));
    for volume in ["pg", "wal"] {
        create(east, volume, &["--members=east,west,north", "--label=group=shop"]);
    }
    // Each write goes to wal and, once that is acknowledged, to pg.
    let load = InOrder::start(vec![(east.nbd_socket(), "wal".into()), (east.nbd_socket(), "pg".into())]);
    let one_moment = |drill: &Value| {
        assert_eq!(drill["one_moment"], true, "{drill:#}");
        let [pg, wal] = ["pg", "wal"].map(|volume| {
            writes_in(&blocks(&mut west.connect(&format!("drill-{volume}"))), &format!("{volume} in {drill:#}"))
        });
        assert!(wal == pg || wal == pg + 1, "{wal} writes of wal and {pg} of pg are no moment: {drill:#}");
        pg
    };
    for chosen in [&["pg", "wal"][..], &["--group", "shop"]] {
        load.wait_for(50);
        let drill = west.run(&[&["drill"], chosen, &["--device", "nbd", "--keep"]].concat());
        one_moment(&drill);
        west.refused(&[&["drill"], chosen].concat()).says(4, &["drill-pg", "--end"]);
        west.run(&[&["drill"], chosen, &["--end"]].concat());
    }
    // The command is told of both.
    let script = "set -- $FARSHORE_DEVICES; test $# = 2 && test -S $1 && test \"$FARSHORE_VOLUMES\" = 'wal pg'";
    let drill = west.run(&["drill", "wal", "pg", "--device", "nbd", "--", "sh", "-c", script]);
    let steps: Vec<&str> = drill["steps"].as_array().into_iter().flatten().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(steps, ["clone", "attach", "command", "detach", "remove"]);
    assert_eq!((&drill["removed"], drill["volumes"].as_array().map(Vec::len)), (&Value::Bool(true), Some(2)));
    // With the primary and the quorum lost: the newest moment that both have here, or, asked for so, no one moment.
    west.refused(&["drill", "pg", "pg"]).says(2, &["named twice"]);
    east.run(&["snapshot", "create", "pg", "wal", "--name", "nightly"]);
    for volume in ["pg", "wal"] {
        west.wait_volume(volume, "the snapshot to be known in west", |v| v["snapshots"] == 1);
    }
    load.stop();
    east.kill();
    north.kill();
    let drill = west.run(&["drill", "pg", "wal", "--device", "nbd", "--keep"]);
    let nightly = one_moment(&drill);
    assert!(
        drill["note"].as_str().is_some_and(|note| note.contains("the newest moment that all have here")),
        "{drill:#}"
    );
    west.run(&["drill", "pg", "wal", "--end"]);
    let apart = west.run(&["drill", "pg", "wal", "--apart", "--device", "nbd", "--keep"]);
    assert_eq!(apart["one_moment"], false, "{apart:#}");
    assert!(writes_in(&blocks(&mut west.connect("drill-pg")), "pg apart") >= nightly);
    west.run(&["drill", "pg", "wal", "--end"]);
    assert_eq!(names(west), ["pg", "wal"]);
}

#[test]
fn volumes_that_can_not_be_cut_together_are_refused_and_drilled_apart() {
    let cluster = Cluster::start(&["east", "west"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    create(east, "pg", &["--members=east,west"]);
    create(east, "log", &["--members=east,west", "--mode=async", "--rpo=1s"]);
    east.wait_volume("log", "an image in west", |v| applied(v) > 0);
    let both = ["drill", "pg", "log", "--device", "nbd"];
    west.refused(&both).says(4, &["log", "shipped on a schedule", "--apart"]);
    let drill = west.run(&[&both[..], &["--apart"]].concat());
    assert_eq!((&drill["one_moment"], &drill["removed"]), (&Value::Bool(false), &Value::Bool(true)), "{drill:#}");
    nothing_is_left(west, &["log", "pg"]);
}

#[test]
fn a_daemon_that_dies_in_a_drill_leaves_nothing_that_its_end_does_not_take_away() {
    let cluster = Cluster::start(&SITES);
    let [east, west, _] = SITES.map(|s| cluster.site(s));
    create(east, "pg", &["--members=east,west,north"]);
    create(east, "log", &["--members=east,west", "--mode=async", "--rpo=1s"]);
    create(east, "wal", &["--members=east,west,north"]);
    let load = InOrder::start(["wal", "pg", "log"].map(|volume| (east.nbd_socket(), volume.into())).to_vec());
    east.wait_volume("log", "an image in west", |v| applied(v) > 0);
    let drills = [&["drill", "pg", "wal"][..], &["drill", "log"], &["drill", "log", "pg", "--apart"]];
    for round in 0..9 {
        load.wait_for(20);
        let drill = drills[round % drills.len()];
        let verb = west.begin(&[drill, &["--device", "nbd", "--", "sleep", "3"]].concat());
        std::thread::sleep(Duration::from_millis(round as u64 * 25));
        west.kill();
        drop(verb);
        west.start();
        cluster.wait_connected();
        let ended: Vec<&str> = drill.iter().copied().filter(|word| *word != "--apart").chain(["--end"]).collect();
        west.until_gone(&ended);
        assert_eq!(names(west), ["log", "pg", "wal"], "round {round}");
        // What the dead daemon had asked others for may be made after the first end; the next one finds it.
        eventually("no snapshot to be left", || {
            west.until_gone(&ended);
            let listed =
                ["pg", "wal"].map(|volume| west.until_done(&["snapshot", "list", volume])["snapshots"].clone());
            if listed.iter().all(|listed| *listed == Value::Array(Vec::new())) { Ok(()) } else { Err(listed) }
        });
    }
    load.wait_for(20);
    load.stop();
    let last = east.volume("log")["appended_seq"].clone();
    east.wait_volume("log", "the last image in west", |v| member(v, "west")["applied_seq"] == last);
    nothing_is_left(west, &["log", "pg", "wal"]);
}
