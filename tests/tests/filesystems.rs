//! Real users of a block device above sites that die: fio's own verification, ext4 and xfs with what they synced.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use farshore_tests::cluster::{Cluster, Options, Site, until};

const SITES: [&str; 3] = ["east", "west", "north"];
/// A device that a site comes back with: recovery, an election, a loop device.
const PATIENCE: Duration = Duration::from_secs(90);
const MEMBERS: &str = "--members=east,west,north";

/// Sites on disks whose power can be cut, if this machine has those and loop devices.
fn on_disks(test: &str, size: &str) -> Option<(Cluster, PathBuf)> {
    if !Path::new("/dev/loop-control").exists() {
        println!("SKIP {test}: no /dev/loop-control here (modprobe loop)");
        return None;
    }
    let cluster = Cluster::lay_out(&SITES, Options::default());
    if let Err(why) = cluster.put_on_disks(rand::random_range(0..1_000_000)) {
        println!("SKIP {test}: no FUSE file system can be mounted here: {why}");
        return None;
    }
    cluster.launch();
    let east = cluster.site("east");
    east.run(&["volume", "create", "pg", size, MEMBERS, "--lease=1s"]);
    let attached = east.run(&["volume", "attach", "pg", "--device", "fuse"]);
    let device = attached["device"]["path"].as_str().expect("an attached device has a path").into();
    Some((cluster, device))
}

fn run(program: &str, arguments: &[&str], paths: &[&Path]) {
    let output =
        Command::new(program).args(arguments).args(paths).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?} {paths:?}: {}\n{}{}",
        output.status,
        said(&output.stdout),
        said(&output.stderr)
    );
}

/// A child that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn fio_finds_every_block_as_it_wrote_it_while_sites_die_and_sleep() {
    let test = "fio_finds_every_block_as_it_wrote_it_while_sites_die_and_sleep";
    let Some((cluster, device)) = on_disks(test, "--size=32MiB") else { return };
    let fio = Command::new("fio")
        .args(["--name=verified", "--rw=randwrite", "--bs=4k", "--ioengine=libaio", "--iodepth=8", "--direct=1"])
        .args(["--size=32m", "--loops=2", "--verify=crc32c", "--verify_fatal=1", "--rate=4m"])
        .arg(format!("--filename={}", device.display()))
        // It notes there how far it has verified.
        .current_dir(cluster.dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut fio = match fio {
        Ok(child) => Running(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIP {test}: no fio here");
            return;
        }
        Err(error) => panic!("fio: {error}"),
    };
    let mut faults = 0;
    while fio.0.try_wait().expect("a child can be waited for").is_none() {
        let victim = cluster.site(["west", "north"][faults % 2]);
        match faults % 3 {
            0 => {
                victim.kill();
                victim.start();
            }
            1 => {
                cluster.cut_power([victim]);
                victim.start();
            }
            // Longer than its own lease: it takes it up again, for nobody else has.
            _ => {
                cluster.site("east").pause();
                std::thread::sleep(Duration::from_millis(1300));
                cluster.site("east").resume();
            }
        }
        faults += 1;
        std::thread::sleep(Duration::from_millis(300));
    }
    let status = fio.0.wait().expect("it has ended");
    let mut said = String::new();
    let _ = std::io::Read::read_to_string(&mut fio.0.stderr.take().expect("it is piped"), &mut said);
    assert!(status.success(), "fio: {status}: {said}");
    assert!(faults > 2, "fio was done before anything happened");
    println!("fio verified 32 MiB twice during {faults} faults");
    cluster.wait_in_sync("east", "pg");
    cluster.site("east").run(&["volume", "detach", "pg"]);
}

/// Unmounted with the value.
struct Mount {
    at: PathBuf,
}

impl Mount {
    fn of(device: &Path, at: &Path) -> Mount {
        std::fs::create_dir_all(at).expect("a directory can be made");
        run("mount", &[], &[device, at]);
        Mount { at: at.to_path_buf() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}

fn content(number: u32) -> Vec<u8> {
    (0..3000 + number * 7).map(|at| (at * number) as u8).collect()
}

fn write_synced(dir: &Path, number: u32) -> std::io::Result<()> {
    let mut file = File::create(dir.join(number.to_string()))?;
    file.write_all(&content(number))?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Writes files until the file system breaks or somebody says stop; returns how many were synced.
fn write_until(dir: &Path, from: u32, stop: &AtomicBool) -> u32 {
    (from..).find(|number| stop.load(Ordering::Relaxed) || write_synced(dir, *number).is_err()).expect("it ends")
}

fn device_again(east: &Site) -> PathBuf {
    until("the device to be taken back", PATIENCE, || {
        let shown = east.try_run(&["volume", "show", "pg"]).map_err(|refusal| refusal.text)?;
        match shown["attached"]["device"]["path"].as_str() {
            Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
            _ => Err(format!("{shown:#}")),
        }
    })
}

/// Rounds of: files are written and synced, the power goes everywhere, what was synced is there and the check is clean.
fn survives_cuts(test: &str, size: &str, make: &[&str], check: &[&str]) {
    let Some((cluster, mut device)) = on_disks(test, size) else { return };
    let east = cluster.site("east");
    run(make[0], &make[1..], &[&device]);
    let at = cluster.dir().join("mnt");
    let mut synced = 0;
    for round in 0..2 {
        let mount = Mount::of(&device, &at);
        let stop = AtomicBool::new(false);
        let before = synced;
        synced = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_until(&at, before, &stop));
            std::thread::sleep(Duration::from_millis(1500));
            // The second time only the daemons die, and all at once.
            if round == 0 {
                cluster.cut_power(&cluster.sites);
            } else {
                cluster.sites.iter().for_each(Site::end);
            }
            stop.store(true, Ordering::Relaxed);
            writer.join().expect("the writer ends")
        });
        assert!(synced > before, "no file was synced before the power went");
        drop(mount);
        cluster.launch();
        device = device_again(east);
        // The file system's own journal is replayed by mounting it; then nothing may be wrong.
        drop(Mount::of(&device, &at));
        run(check[0], &check[1..], &[&device]);
        let mount = Mount::of(&device, &at);
        for number in 0..synced {
            let found = std::fs::read(at.join(number.to_string())).unwrap_or_else(|e| panic!("file {number}: {e}"));
            assert!(found == content(number), "file {number} was synced and has changed");
        }
        run("umount", &[], &[&mount.at]);
        println!("{test}: {synced} synced files are there, and the check is clean");
    }
    east.run(&["volume", "detach", "pg"]);
}

#[test]
fn ext4_keeps_what_was_synced_and_is_clean_after_power_cuts() {
    let test = "ext4_keeps_what_was_synced_and_is_clean_after_power_cuts";
    survives_cuts(test, "--size=64MiB", &["mkfs.ext4", "-q", "-F"], &["e2fsck", "-f", "-n"]);
}

#[test]
fn xfs_keeps_what_was_synced_and_is_clean_after_power_cuts() {
    let test = "xfs_keeps_what_was_synced_and_is_clean_after_power_cuts";
    survives_cuts(test, "--size=320MiB", &["mkfs.xfs", "-q", "-f"], &["xfs_repair", "-n"]);
}
