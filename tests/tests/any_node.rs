//! A device on a node that holds no copy of its volume: the node writes to all members itself, or another one serves it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_tests::cluster::{
    Busy, Cluster, DeviceHolder, Ledger, Mount, NbdClient, Network, Options, Site, Writers, eventually, succeed, until,
};

const SITES: [&str; 4] = ["east", "east/n2", "west", "north"];
const BLOCKS: usize = 512;
const WRITERS: usize = 16;
/// As the driver asks for it.
const FROM_N1: [&str; 5] = ["volume", "detach", "pg", "--force", "--node=n1"];
const FROM_N2: [&str; 5] = ["volume", "detach", "pg", "--force", "--node=n2"];

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Direct,
    /// A member with a copy serves the device.
    Served,
}

impl Way {
    fn options(self) -> Options {
        let more = if self == Way::Served { "[device]\nwithout_copy = \"member\"\n" } else { "" };
        Options { more, ..Options::default() }
    }

    /// Where a volume is that is attached on n1, as it is shown.
    fn at_n1(self) -> (String, String) {
        ("n1".into(), if self == Way::Served { "n2" } else { "" }.into())
    }
}

/// The copies of `pg` are on n2 and in the other sites.
fn create(site: &Site) {
    site.run(&["volume", "create", "pg", "--size=8MiB", "--members=east/n2,west,north", "--lease=1s"]);
}

fn apart(test: &str, way: Way) -> Option<Cluster> {
    match Network::lay(SITES.len()) {
        Ok(network) => {
            let cluster = Cluster::lay_out_in(&SITES, way.options(), Some(network));
            cluster.launch();
            create(cluster.site("east/n2"));
            Some(cluster)
        }
        Err(why) => {
            println!("SKIP {test}: no network namespaces here: {why}");
            None
        }
    }
}

fn network(cluster: &Cluster) -> &Network {
    cluster.network.as_ref().expect("these sites are apart")
}

fn possible(test: &str) -> bool {
    let missing = ["/dev/fuse", "/dev/loop-control"].into_iter().find(|path| !Path::new(path).exists());
    if let Some(path) = missing {
        println!("SKIP {test}: no {path} here");
    }
    missing.is_none()
}

fn start(way: Way) -> Cluster {
    let cluster = Cluster::lay_out(&SITES, way.options());
    cluster.launch();
    create(cluster.site("east/n2"));
    cluster
}

fn place(site: &Site) -> (String, String) {
    let attached = &site.volume("pg")["attached"];
    let text = |field: &str| attached[field].as_str().unwrap_or("").to_string();
    (text("node"), text("served_by_node"))
}

#[test]
fn a_volume_is_read_and_written_at_a_node_without_a_copy() {
    read_and_written(Way::Direct);
}

#[test]
fn a_volume_is_read_and_written_at_a_node_without_a_copy_served() {
    read_and_written(Way::Served);
}

fn read_and_written(way: Way) {
    let cluster = start(way);
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = first.attach("pg");
    ledger.fill(&mut client);
    for block in (0..BLOCKS).step_by(7) {
        ledger.trim(&mut client, block).expect("it is served");
    }
    ledger.check_all(&mut client);
    for site in [first, second, cluster.site("west")] {
        assert_eq!(place(site), way.at_n1(), "as {} sees it", site.name);
    }
    assert!(NbdClient::connect(&second.nbd_socket(), "pg").is_err(), "there is no device where it is served");
    second.refused(&["volume", "attach", "pg"]).says(4, &["pg", "n1"]);
    first.run(&["volume", "resize", "pg", "16MiB"]);
    drop(client);

    // To the node with the copy, and back.
    first.run(&["volume", "detach", "pg"]);
    assert!(NbdClient::connect(&first.nbd_socket(), "pg").is_err(), "its device is gone");
    let mut client = second.attach("pg");
    ledger.check_all(&mut client);
    ledger.fill(&mut client);
    assert_eq!(place(first), ("n2".into(), "".into()));
    first.refused(&["volume", "attach", "pg"]).says(4, &["pg", "n2"]);
    drop(client);
    second.run(&["volume", "detach", "pg"]);
    let mut client = first.attach("pg");
    ledger.check_all(&mut client);
    ledger.fill(&mut client);
    drop(client);
    second.run(&["volume", "detach", "pg"]);
    assert_eq!(place(first), ("".into(), "".into()));
}

#[test]
fn a_line_that_is_cut_and_a_member_that_is_killed_fail_nothing() {
    cut_and_killed(Way::Direct);
}

#[test]
fn a_line_that_is_cut_and_a_member_that_is_killed_fail_nothing_served() {
    cut_and_killed(Way::Served);
}

fn cut_and_killed(way: Way) {
    let test = "a_line_that_is_cut_and_a_member_that_is_killed_fail_nothing";
    let Some(cluster) = apart(test, way) else { return };
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    let writers = Writers::start(&ledger, first.nbd_socket(), "pg", WRITERS);
    writers.wait_for(200);
    for round in 0..6 {
        match round % 3 {
            // Each direction for itself: requests that arrive and whose answers don't, and the other way round.
            0 => network(&cluster).deafen(0, 1),
            1 => network(&cluster).deafen(1, 0),
            _ => {
                second.kill();
                second.start();
                cluster.wait_connected();
            }
        }
        if round % 3 < 2 {
            eventually("the line to be known as cut", || match second.run(&["site", "list"])["peers"].as_array() {
                Some(peers) if peers.iter().any(|peer| peer["connected"] == false) => Ok(()),
                peers => Err(format!("{peers:?}")),
            });
            network(&cluster).heal();
        }
        writers.wait_for(200);
    }
    assert_eq!(writers.failed(), 0, "nothing of it is an error");
    writers.stop();
    ledger.check_all(&mut first.connect("pg"));
    first.run(&["volume", "detach", "pg"]);
    ledger.check_all(&mut second.attach("pg"));
}

#[test]
fn nothing_is_acknowledged_after_the_answer() {
    ended(Way::Direct);
}

#[test]
fn nothing_is_acknowledged_after_the_answer_served() {
    ended(Way::Served);
}

fn ended(way: Way) {
    let test = "nothing_is_acknowledged_after_the_answer";
    let Some(cluster) = apart(test, way) else { return };
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    for round in 0..3 {
        cluster.wait_in_sync(if way == Way::Served { "east/n2" } else { "east" }, "pg");
        let writers = Writers::start(&ledger, first.nbd_socket(), "pg", WRITERS);
        writers.wait_for(200);
        match round {
            0 => first.pause(),
            1 => {
                // What is answered now reaches the node when it is stopped, and it finds that when it goes on.
                network(&cluster).deafen(0, 1);
                std::thread::sleep(Duration::from_millis(300));
                first.pause();
                network(&cluster).heal();
            }
            _ => network(&cluster).isolate(0),
        }
        second.run(&FROM_N1);
        std::thread::sleep(Duration::from_millis(200));
        let acked = writers.acked();
        let mut client = second.attach("pg");
        if round < 2 {
            first.resume();
        } else {
            network(&cluster).heal();
        }
        eventually("the old session's writers to fail", || {
            if writers.failed() > 0 { Ok(()) } else { Err(writers.acked()) }
        });
        std::thread::sleep(Duration::from_millis(300));
        let late = writers.acked() - acked;
        // One that was stopped at any moment may have looked at its lease and not told yet: of each writer's one request.
        let allowed = if round == 0 { WRITERS as u64 } else { 0 };
        assert!(late <= allowed, "round {round}: {late} writes were acknowledged after the answer");
        writers.stop();
        ledger.check_all(&mut client);
        ledger.fill(&mut client);
        assert!(NbdClient::connect(&first.nbd_socket(), "pg").is_err(), "the device is gone");
        // The same again, with the volume at another node: done, and nobody's session ends.
        eventually("the node to hear of the others", || first.try_run(&FROM_N1).map(drop));
        assert_eq!(place(second), ("n2".into(), "".into()));
        ledger.check_all(&mut client);
        drop(client);
        second.run(&FROM_N2);
        cluster.wait_connected();
        drop(first.attach("pg"));
        // And from a node that serves only: it has no device.
        second.run(&FROM_N2);
        assert_eq!(place(second), way.at_n1());
    }
}

/// The device process of n1, and a volume there.
fn with_device_process(way: Way) -> (Cluster, DeviceHolder) {
    let cluster = Cluster::lay_out(&SITES, way.options());
    let holder = DeviceHolder::start(cluster.site("east"));
    cluster.launch();
    let second = cluster.site("east/n2");
    second.run(&["volume", "create", "pg", "--size=64MiB", "--members=east/n2,west,north", "--lease=1s"]);
    (cluster, holder)
}

fn attach_block_device(site: &Site) -> PathBuf {
    let attached = site.run(&["volume", "attach", "pg", "--device", "fuse"]);
    attached["device"]["path"].as_str().expect("an attached device has a path").into()
}

#[test]
fn a_busy_file_system_lives_through_every_end_of_either_replicator() {
    replicators_end(Way::Direct);
}

#[test]
fn a_busy_file_system_lives_through_every_end_of_either_replicator_served() {
    replicators_end(Way::Served);
}

fn replicators_end(way: Way) {
    let test = "a_busy_file_system_lives_through_every_end_of_either_replicator";
    if !possible(test) {
        return;
    }
    let (cluster, _holder) = with_device_process(way);
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    let device = attach_block_device(first);
    succeed("mkfs.ext4", &["-q", "-F"], &device);
    let mount = Mount::of(&device, cluster.dir().join("mnt"));
    let busy = Busy::at(&mount.0);
    busy.wait_for_more(50);
    for round in 0..6 {
        match round % 4 {
            0 => first.kill(),
            1 => second.kill(),
            2 => assert!(first.stop().success()),
            _ => {
                // Both: the device is taken up while nobody serves it.
                second.kill();
                first.kill();
                first.start();
                std::thread::sleep(Duration::from_secs(2));
            }
        }
        for site in [first, second].into_iter().filter(|site| !site.runs()) {
            site.start();
        }
        busy.wait_for_more(20);
    }
    let shown = first.volume("pg");
    assert_eq!(shown["attached"]["device"]["path"], device.display().to_string(), "it is the same device: {shown:#}");
    second.refused(&["volume", "detach", "pg"]).says(4, &["in use", "mnt"]);
    let files = busy.check();
    println!("{test}: {files} files synced over 6 ends of replicators");
    succeed("umount", &[], &mount.0);
    succeed("e2fsck", &["-f", "-n"], &device);
    // Whoever made a mount namespace of his own meanwhile is rightly named as a user; this is not about him.
    until("the last user to let go", Duration::from_secs(120), || {
        second.try_run(&["volume", "detach", "pg"]).map(drop).map_err(|refusal| refusal.text)
    });
    assert!(!first.dir.join("run/pg").exists(), "nothing is left behind");
    assert_eq!(place(first), ("".into(), "".into()));
}

/// Its replicator is away for so long that another node takes the volume.
#[test]
fn a_device_whose_session_ended_meanwhile_fails_and_leaves_nobody_waiting() {
    ended_meanwhile(Way::Direct);
}

#[test]
fn a_device_whose_session_ended_meanwhile_fails_and_leaves_nobody_waiting_served() {
    ended_meanwhile(Way::Served);
}

fn ended_meanwhile(way: Way) {
    let test = "a_device_whose_session_ended_meanwhile_fails_and_leaves_nobody_waiting";
    if !possible(test) {
        return;
    }
    let (cluster, _holder) = with_device_process(way);
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    let device = attach_block_device(first);
    succeed("mkfs.ext4", &["-q", "-F"], &device);
    let mount = Mount::of(&device, cluster.dir().join("mnt"));
    let busy = Busy::at(&mount.0);
    busy.wait_for_more(20);
    first.kill();
    second.run(&FROM_N1);
    let mut client = second.attach("pg");
    let ledger = Ledger::of_new(1024);
    ledger.fill(&mut client);
    assert!(!busy.has_begun_to_fail(), "it waits for its replicator");
    first.start();
    eventually("the old session's writers to fail", || if busy.has_failed() { Ok(()) } else { Err("they wait") });
    let (blocks, files) = busy.stop();
    assert!(blocks.is_err() && files.is_err(), "who writes into a session that is over must hear of it");
    succeed("umount", &[], &mount.0);
    let loops = format!("/sys/block/{}/loop", device.file_name().expect("a name").to_string_lossy());
    eventually("the loop device to go", || if Path::new(&loops).exists() { Err("it is there") } else { Ok(()) });
    ledger.check_all(&mut client);
}

/// Another copy of the site goes on with the session, and whoever ends it meets it there.
#[test]
fn when_the_member_is_gone_another_copy_of_the_site_serves() {
    let cluster = Cluster::start_with(&["east", "east/n2", "east/n3", "west"], Way::Served.options());
    let [first, second, third] = ["east", "east/n2", "east/n3"].map(|s| cluster.site(s));
    let create = ["volume", "create", "pg", "--size=8MiB", "--members=east/n2,east/n3,west", "--lease=1s"];
    second.run(&create);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    let served_by = place(first).1;
    let (server, other) = if served_by == "n2" { (second, third) } else { (third, second) };
    cluster.wait_in_sync(&server.name, "pg");
    let writers = Writers::start(&ledger, first.nbd_socket(), "pg", WRITERS);
    writers.wait_for(200);
    server.kill();
    writers.wait_for(200);
    let (node, now_by) = place(other);
    assert!(node == "n1" && now_by != served_by, "served by {now_by} at {node}");
    assert_eq!(writers.failed(), 0, "nothing of it is an error");
    // Whoever served before does not come back to it.
    server.start();
    cluster.wait_connected();
    writers.wait_for(200);
    assert_eq!(place(server), ("n1".into(), now_by));
    assert_eq!(writers.failed(), 0);
    server.run(&FROM_N1);
    let acked = writers.acked();
    std::thread::sleep(Duration::from_millis(300));
    assert!(writers.acked() <= acked, "a write was acknowledged after the answer");
    writers.stop();
    ledger.check_all(&mut server.attach("pg"));
}
