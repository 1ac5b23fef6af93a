//! Clones of real daemons: at once, independent of what they began with, chained, and with file systems that are clean.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use farshore_tests::cluster::{Cluster, Ledger, NbdClient, Options, Site, eventually, program};
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const MEMBERS: &str = "--members=east,west,north";
const BLOCKS: usize = 512;

fn start() -> Cluster {
    let more = "[store]\nscrub_interval_s = 0\n";
    Cluster::start_with(&SITES, Options { more, ..Options::default() })
}

/// A volume with something in every block, not attached, and its snapshot `s`.
fn filled(cluster: &Cluster, name: &str) -> Arc<Ledger> {
    let east = cluster.site("east");
    east.run(&["volume", "create", name, "--size=2MiB", MEMBERS, "--lease=1s"]);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach(name));
    east.run(&["volume", "detach", name]);
    east.run(&["snapshot", "create", name, "--name", "s"]);
    ledger
}

fn check(site: &Site, volume: &str, ledger: &Ledger) {
    ledger.check_all(&mut site.attach(volume));
    site.run(&["volume", "detach", volume]);
}

fn write_some(client: &mut NbdClient, ledger: &Ledger, every: usize) {
    for block in (0..BLOCKS).step_by(every) {
        ledger.write(client, block).expect("a clone can be written");
    }
}

fn gone(site: &Site, arguments: &[&str]) {
    eventually(&format!("{arguments:?}"), || match site.try_run(arguments) {
        Err(refusal) if refusal.exit != 3 => Err(refusal),
        _ => Ok(()),
    });
}

#[test]
fn clones_of_clones_outlive_what_they_began_with_in_any_order() {
    let cluster = start();
    let (east, west) = (cluster.site("east"), cluster.site("west"));
    let mut ledgers = vec![filled(&cluster, "c0")];
    for at in 1..5 {
        let (parent, clone) = (format!("c{}@s", at - 1), format!("c{at}"));
        let made = east.run(&["snapshot", "clone", &parent, &clone]);
        assert_eq!(made["source"], parent.as_str());
        let ledger = ledgers[at - 1].fork();
        write_some(&mut east.attach(&clone), &ledger, 3 + at);
        east.run(&["volume", "detach", &clone]);
        east.run(&["snapshot", "create", &clone, "--name", "s"]);
        ledgers.push(ledger);
    }
    let clones = east.run(&["snapshot", "show", "c0@s"]);
    assert_eq!(clones["clones"][0], "c1");
    for (at, ledger) in ledgers.iter().enumerate() {
        check(east, &format!("c{at}"), ledger);
    }
    // The first, one between, and a snapshot that a clone began with.
    gone(east, &["snapshot", "delete", "c0@s", "--yes"]);
    gone(east, &["volume", "delete", "c0", "--yes"]);
    gone(east, &["snapshot", "delete", "c2@s", "--yes"]);
    gone(east, &["volume", "delete", "c2", "--yes"]);
    for at in [1, 3, 4] {
        check(east, &format!("c{at}"), &ledgers[at]);
    }
    // In another site, after all daemons were killed.
    cluster.sites.iter().for_each(Site::end);
    cluster.launch();
    eventually("the promotion", || west.try_run(&["promote", "c4"]));
    check(west, "c4", &ledgers[4]);
    // A copy that is made anew, of an image that is three volumes deep.
    west.run(&["member", "remove", "c4", "north"]);
    west.run(&["member", "add", "c4", "north", "--wait"]);
    cluster.wait_in_sync("west", "c4");
    west.run(&["switchover", "c4", "--to", "north"]);
    check(cluster.site("north"), "c4", &ledgers[4]);
    println!(
        "a chain of 4 clones: deleted from the middle and the beginning, killed, moved, copied anew: every block is there"
    );
}

#[test]
fn a_volume_is_cloned_as_it_is_now_and_a_clone_may_be_larger() {
    let cluster = start();
    let east = cluster.site("east");
    let ledger = filled(&cluster, "pg");
    let mut source = east.attach("pg");
    let clone = east.run(&["snapshot", "clone", "pg", "now", "--size=4MiB"]);
    assert_eq!(clone["size_bytes"], 4 << 20);
    let again = east.run(&["snapshot", "clone", "pg", "now", "--size=4MiB"]);
    assert_eq!(again["id"], clone["id"], "the same again is a no-op");
    let listed = east.run(&["snapshot", "list", "pg"]);
    assert_eq!(
        listed["snapshots"].as_array().expect("a list").len(),
        1,
        "what was taken for the clone is gone: {listed:#}"
    );
    let then = ledger.fork();
    write_some(&mut source, &ledger, 2);
    let mut client = east.attach("now");
    then.check_all(&mut client);
    assert!(client.read(2 << 20, 2 << 20).expect("it is larger").iter().all(|byte| *byte == 0));
    write_some(&mut client, &then, 5);
    then.check_all(&mut client);
    ledger.check_all(&mut source);
    east.refused(&["snapshot", "clone", "pg@s", "small", "--size=1MiB"]).says(2, &["small", "larger"]);
    east.refused(&["snapshot", "clone", "pg@none", "x"]).says(3, &["pg@none"]);
    east.refused(&["snapshot", "clone", "pg@s", "now"]).says(6, &["now"]);
}

/// A verb that runs beside the test.
fn verb(site: &Site, arguments: &[&str]) -> std::process::Child {
    let mut command = Command::new(program("farshore"));
    command.arg("--socket").arg(site.control_socket()).args(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command line starts")
}

#[test]
fn a_daemon_that_dies_while_it_clones_leaves_nothing_or_a_whole_clone() {
    let cluster = start();
    let east = cluster.site("east");
    let ledger = filled(&cluster, "pg");
    for round in 0..5_u64 {
        let (clone, victim) = (format!("c{round}"), cluster.site(SITES[round as usize % 3]));
        let mut cloning = verb(east, &["snapshot", "clone", "pg@s", &clone]);
        std::thread::sleep(std::time::Duration::from_millis(11 * round));
        victim.kill();
        let _ = cloning.wait();
        victim.start();
        cluster.wait_connected();
        let made = eventually("the clone", || east.try_run(&["snapshot", "clone", "pg@s", &clone]));
        assert_eq!(made["members"].as_array().expect("members").len(), 3);
        let own = ledger.fork();
        let mut client = eventually("the attach", || {
            east.try_run(&["volume", "attach", &clone, "--device", "nbd"]).map(|_| east.connect(&clone))
        });
        own.check_all(&mut client);
        write_some(&mut client, &own, 7);
        own.check_all(&mut client);
        cluster.wait_in_sync("east", &clone);
        east.run(&["volume", "detach", &clone]);
        gone(east, &["volume", "delete", &clone, "--yes"]);
    }
    check(east, "pg", &ledger);
    println!("kill -9 during 5 clonings, at the source and at the others: each clone is whole, its source untouched");
}

fn run(program: &str, arguments: &[&str], paths: &[&Path]) {
    let output = Command::new(program).args(arguments).args(paths).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = said(&output.stdout) + &said(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?} {paths:?}: {}\n{all}", output.status);
}

/// Unmounted with the value.
struct Mount {
    at: PathBuf,
}

impl Mount {
    fn of(device: &Path, at: PathBuf, options: &[&str]) -> Mount {
        std::fs::create_dir_all(&at).expect("a directory can be made");
        run("mount", options, &[device, &at]);
        Mount { at }
    }

    /// Its own name, again and again, on the disk when this returns.
    fn write(&self, name: &str) {
        let file = self.at.join(name);
        std::fs::write(&file, name.repeat(5000)).expect("a file can be written");
        std::fs::File::open(&file).and_then(|file| file.sync_all()).expect("and synced");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}

fn device(attached: &Value) -> PathBuf {
    attached["device"]["path"].as_str().expect("an attached device has a path").into()
}

/// A file system in use is snapshotted; its clone is mounted beside it, and clean.
fn beside_its_source(test: &str, size: &str, make: &[&str], check: &[&str], beside: &[&str]) {
    if !Path::new("/dev/loop-control").exists() {
        println!("SKIP {test}: no /dev/loop-control here (modprobe loop)");
        return;
    }
    let cluster = start();
    let east = cluster.site("east");
    let on_loop = |volume: &str| device(&east.run(&["volume", "attach", volume, "--device", "fuse"]));
    east.run(&["volume", "create", "pg", size, MEMBERS, "--lease=1s"]);
    let source = on_loop("pg");
    run(make[0], &make[1..], &[&source]);
    let mounted = Mount::of(&source, cluster.dir().join("source"), &[]);
    mounted.write("before");
    east.run(&["snapshot", "create", "pg", "--name", "s"]);
    mounted.write("after");
    east.run(&["snapshot", "clone", "pg@s", "copy"]);
    let copy = on_loop("copy");
    // Its journal is replayed by mounting it, with what lets it be mounted beside a file system of the same id.
    let clone = Mount::of(&copy, cluster.dir().join("copy"), beside);
    assert_eq!(
        std::fs::read(clone.at.join("before")).expect("it was synced before"),
        "before".repeat(5000).into_bytes()
    );
    assert!(!clone.at.join("after").exists(), "it was written after the snapshot");
    std::fs::write(clone.at.join("own"), "own").expect("a clone can be written");
    run("umount", &[], &[&clone.at]);
    run(check[0], &check[1..], &[&copy]);
    assert!(mounted.at.join("after").exists() && !mounted.at.join("own").exists());
    run("umount", &[], &[&mounted.at]);
    run(check[0], &check[1..], &[&source]);
    for volume in ["pg", "copy"] {
        east.run(&["volume", "detach", volume]);
    }
    println!("{test}: both are clean");
}

#[test]
fn ext4_on_a_clone_is_clean_beside_its_source() {
    let test = "ext4_on_a_clone_is_clean_beside_its_source";
    beside_its_source(test, "--size=64MiB", &["mkfs.ext4", "-q", "-F"], &["e2fsck", "-f", "-n"], &[]);
}

/// xfs refuses to mount a second file system of one id, unless told `nouuid`.
#[test]
fn xfs_on_a_clone_is_clean_beside_its_source() {
    let test = "xfs_on_a_clone_is_clean_beside_its_source";
    beside_its_source(test, "--size=320MiB", &["mkfs.xfs", "-q", "-f"], &["xfs_repair", "-n"], &["-o", "nouuid"]);
}

/// Mounting replays the journal; then nothing may be found.
fn is_clean(cluster: &Cluster, at: &Path, file: &str) {
    let mounted = Mount::of(at, cluster.dir().join("looked-into"), &[]);
    assert_eq!(std::fs::read(mounted.at.join(file)).expect("it was synced before"), file.repeat(5000).into_bytes());
    assert!(!mounted.at.join("after").exists(), "it was written after the snapshot");
    run("umount", &[], &[&mounted.at]);
    run("e2fsck", &["-f", "-n"], &[at]);
}

#[test]
fn a_groups_members_are_clean_cloned_and_restored() {
    let test = "a_groups_members_are_clean_cloned_and_restored";
    if !Path::new("/dev/loop-control").exists() {
        println!("SKIP {test}: no /dev/loop-control here (modprobe loop)");
        return;
    }
    let cluster = start();
    let east = cluster.site("east");
    let on_loop = |volume: &str| device(&east.run(&["volume", "attach", volume, "--device", "fuse"]));
    let volumes = ["data", "wal"];
    let mounts = volumes.map(|volume| {
        east.run(&["volume", "create", volume, "--size=64MiB", MEMBERS, "--lease=1s"]);
        let at = on_loop(volume);
        run("mkfs.ext4", &["-q", "-F"], &[&at]);
        Mount::of(&at, cluster.dir().join(volume), &[])
    });
    for (mount, volume) in mounts.iter().zip(volumes) {
        mount.write(volume);
    }
    // Both are written to while the cut is made.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mount in &mounts {
            let stop = &stop;
            scope.spawn(move || {
                for round in 0.. {
                    if stop.load(std::sync::atomic::Ordering::SeqCst) {
                        return;
                    }
                    mount.write(&format!("busy-{}", round % 20));
                }
            });
        }
        east.until_done(&["snapshot", "create", "data", "wal", "--name", "g"]);
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    for mount in &mounts {
        mount.write("after");
    }
    for volume in volumes {
        let (snapshot, copy) = (format!("{volume}@g"), format!("copy-of-{volume}"));
        east.run(&["snapshot", "clone", &snapshot, &copy]);
        is_clean(&cluster, &on_loop(&copy), volume);
        east.run(&["volume", "detach", &copy]);
    }
    drop(mounts);
    for volume in volumes {
        eventually("the device to be free", || east.try_run(&["volume", "detach", volume]));
        east.run(&["snapshot", "restore", &format!("{volume}@g"), "--yes"]);
        is_clean(&cluster, &on_loop(volume), volume);
        east.run(&["volume", "detach", volume]);
    }
    println!("{test}: two clones of one cut, and both volumes taken back to it, are clean");
}
