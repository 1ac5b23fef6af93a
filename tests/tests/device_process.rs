//! A mounted, busy file system whose replicator is killed, stopped, replaced, and superseded: the device process holds
//! its device.

use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_tests::cluster::{
    Busy, Cluster, DeviceHolder, Ledger, Mount, NbdClient, Options, Site, eventually, succeed, until,
};

const BLOCK: usize = 4096;
const MEMBERS: &str = "--members=east,west,north";

fn possible(test: &str) -> bool {
    let missing = ["/dev/fuse", "/dev/loop-control"].into_iter().find(|path| !Path::new(path).exists());
    if let Some(path) = missing {
        println!("SKIP {test}: no {path} here");
    }
    missing.is_none()
}

/// Three sites, a device process in east, and a volume there.
fn start() -> (Cluster, DeviceHolder) {
    let cluster = Cluster::lay_out(&["east", "west", "north"], Options::default());
    let holder = DeviceHolder::start(cluster.site("east"));
    cluster.launch();
    cluster.site("east").run(&["volume", "create", "pg", "--size=64MiB", MEMBERS, "--lease=1s"]);
    (cluster, holder)
}

fn attach(site: &Site) -> PathBuf {
    let attached = site.run(&["volume", "attach", "pg", "--device", "fuse"]);
    attached["device"]["path"].as_str().expect("an attached device has a path").into()
}

/// Whoever made a mount namespace of his own while the file system was mounted has a copy of the mount, and is rightly
/// named as a user; this is not about him.
fn detach(site: &Site) {
    until("the last user to let go", Duration::from_secs(120), || {
        site.try_run(&["volume", "detach", "pg"]).map(drop).map_err(|refusal| refusal.text)
    });
}

#[test]
fn a_busy_file_system_lives_through_every_end_of_its_replicator() {
    let test = "a_busy_file_system_lives_through_every_end_of_its_replicator";
    if !possible(test) {
        return;
    }
    let (cluster, mut holder) = start();
    let east = cluster.site("east");
    let device = attach(east);
    succeed("mkfs.ext4", &["-q", "-F"], &device);
    let mount = Mount::of(&device, cluster.dir().join("mnt"));
    let busy = Busy::at(&mount.0);
    busy.wait_for_more(50);
    for round in 0..6 {
        match round % 3 {
            0 | 1 => east.kill(),
            _ => assert!(east.stop().success()),
        }
        if round == 3 {
            // Longer than the kernel takes to write back what is dirty.
            std::thread::sleep(Duration::from_secs(8));
        }
        east.start();
        busy.wait_for_more(20);
    }
    let shown = east.volume("pg");
    assert_eq!(shown["attached"]["device"]["path"], device.display().to_string(), "it is the same device");
    east.refused(&["volume", "detach", "pg"]).says(4, &["in use", "mnt"]);
    let files = busy.check();
    println!("{test}: {files} files synced over 6 ends of the replicator");
    succeed("umount", &[], &mount.0);
    succeed("e2fsck", &["-f", "-n"], &device);
    // It is told to end, and does so when its last device goes.
    holder.terminate();
    detach(east);
    let status = eventually("the device process to end", || holder.ended().ok_or("it runs"));
    assert!(status.success());
    assert!(!east.dir.join("run/pg").exists(), "nothing is left behind");
}

/// The replicator is away for so long that another node takes the volume.
#[test]
fn a_device_whose_session_ended_meanwhile_fails_and_leaves_nobody_waiting() {
    let test = "a_device_whose_session_ended_meanwhile_fails_and_leaves_nobody_waiting";
    if !possible(test) {
        return;
    }
    let cluster = Cluster::lay_out(&["east", "east/n2", "west", "north"], Options::default());
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    let _holder = DeviceHolder::start(first);
    cluster.launch();
    first.run(&["volume", "create", "pg", "--size=64MiB", "--members=east/n1,east/n2,west,north", "--lease=1s"]);
    let device = attach(first);
    succeed("mkfs.ext4", &["-q", "-F"], &device);
    let mount = Mount::of(&device, cluster.dir().join("mnt"));
    let busy = Busy::at(&mount.0);
    busy.wait_for_more(20);
    first.kill();
    second.run(&["volume", "detach", "pg", "--force"]);
    let mut client = second.attach("pg");
    let ledger = Ledger::of_new(1024);
    ledger.fill(&mut client);
    assert!(!busy.has_begun_to_fail(), "it waits for its replicator");
    first.start();
    eventually("the old session's writers to fail", || match busy.has_failed() {
        true => Ok(()),
        false => Err("they wait"),
    });
    let (blocks, files) = busy.stop();
    assert!(blocks.is_err() && files.is_err(), "who writes into a session that is over must hear of it");
    succeed("umount", &[], &mount.0);
    let loops = format!("/sys/block/{}/loop", device.file_name().expect("a name").to_string_lossy());
    eventually("the loop device to go", || if Path::new(&loops).exists() { Err("it is there") } else { Ok(()) });
    // Nothing of the old session came through.
    ledger.check_all(&mut client);
}

/// As a device process does, whose connection broke: what lies in the old one's socket must not come after the new one's.
#[test]
fn a_sessions_export_is_served_to_whoever_asked_last_and_to_no_other_session() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let east = cluster.site("east");
    east.run(&["volume", "create", "pg", "--size=8MiB", MEMBERS, "--lease=1s"]);
    let attached = east.run(&["volume", "attach", "pg", "--device", "nbd"]);
    let session = attached["session"].as_str().expect("an attach names its session");
    let connect = |session: &str| NbdClient::connect(&east.nbd_socket(), &format!("pg@{session}"));
    let mut first = connect(session).expect("the session's export");
    first.write(0, &[1; BLOCK]).expect("it is served");
    let mut second = connect(session).expect("the session's export");
    assert!(first.write(0, &[2; BLOCK]).is_err(), "a connection that was followed by another");
    assert_eq!(second.read(0, BLOCK).expect("it is served"), [1; BLOCK]);
    second.write(0, &[3; BLOCK]).expect("it is served");
    // A client of the volume's own export has nothing to do with either.
    assert_eq!(east.connect("pg").read(0, BLOCK).expect("it is served"), [3; BLOCK]);
    assert!(connect("00000000000000000000000000c0ffee").is_err(), "another session's");
    east.run(&["volume", "detach", "pg"]);
    assert!(second.write(0, &[4; BLOCK]).is_err(), "its session is over");
    east.run(&["volume", "attach", "pg", "--device", "nbd"]);
    assert!(connect(session).is_err(), "a session that is over");
}

#[test]
fn a_device_process_that_died_is_named_and_its_device_is_made_anew() {
    let test = "a_device_process_that_died_is_named_and_its_device_is_made_anew";
    if !possible(test) {
        return;
    }
    let (cluster, holder) = start();
    let east = cluster.site("east");
    let device = attach(east);
    succeed("mkfs.ext4", &["-q", "-F"], &device);
    let mount = Mount::of(&device, cluster.dir().join("mnt"));
    let busy = Busy::at(&mount.0);
    busy.wait_for_more(20);
    holder.kill();
    let (blocks, files) = busy.stop();
    assert!(blocks.is_err() && files.is_err(), "its devices die with it");
    drop(mount);
    east.refused(&["volume", "attach", "pg", "--device", "fuse"]).says(5, &["pg", "farshore-device"]);
    let _holder = DeviceHolder::start(east);
    let device = attach(east);
    // What was synced before is there; ext4 replays its journal.
    succeed("umount", &[], &Mount::of(&device, cluster.dir().join("mnt")).0);
    succeed("e2fsck", &["-f", "-n"], &device);
    detach(east);
}
