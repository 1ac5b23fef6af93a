//! Volumes that are made to be read: many nodes read one restored image at once, with a copy of their own or without, and
//! nobody writes it, whatever dies.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use farshore_tests::cluster::{
    Busy, Cluster, DeviceHolder, Ledger, Mount, NbdClient, Options, Site, eventually, succeed, until,
};
use serde_json::Value;

/// n2 holds no copy of anything: the other node of its site serves it.
const SITES: [&str; 4] = ["east", "east/n2", "west", "north"];
const MEMBERS: &str = "--members=east/n1,west,north";
const BLOCKS: usize = 512;
const READ: [&str; 4] = ["volume", "attach", "ro", "--read-only"];

fn places(volume: &Value) -> Vec<String> {
    let readers = volume["readers"].as_array().expect("a volume says who reads it");
    let place = |at: &Value| format!("{}/{}", at["site"].as_str().unwrap(), at["node"].as_str().unwrap());
    readers.iter().map(place).collect()
}

fn read_at(site: &Site) -> NbdClient {
    site.run(&[&READ[..], &["--device", "nbd"]].concat());
    site.connect("ro")
}

#[test]
fn many_nodes_read_what_nobody_writes() {
    let cluster = Cluster::start(&SITES);
    let [first, second, west, north] = SITES.map(|site| cluster.site(site));
    first.run(&["volume", "create", "pg", "--size=2MiB", MEMBERS, "--lease=1s"]);
    let ledger = Ledger::of_new(BLOCKS);
    let mut source = first.attach("pg");
    ledger.fill(&mut source);
    first.run(&["snapshot", "create", "pg", "--name", "s"]);
    let then = ledger.fork();
    let made = second.run(&["snapshot", "clone", "pg@s", "ro", "--read-only"]);
    assert_eq!((&made["read_only"], &made["source"]), (&true.into(), &"pg@s".into()));
    let again = first.run(&["snapshot", "clone", "pg@s", "ro", "--read-only"]);
    assert_eq!(again["id"], made["id"], "the same again is a no-op");
    first.refused(&["snapshot", "clone", "pg@s", "ro"]).says(6, &["ro", "right to write"]);

    // On three nodes at once, of which one has no copy, beside their source, which is written.
    let mut clients = [first, second, west].map(read_at);
    ledger.fill(&mut source);
    for client in &mut clients {
        then.check_all(client);
        for block in 0..BLOCKS {
            assert!(then.write(client, block).is_err() && then.trim(client, block).is_err(), "it takes no writes");
        }
        then.check_all(client);
    }
    for site in [first, second, west, north] {
        assert_eq!(places(&site.volume("ro")), ["east/n1", "east/n2", "west/n1"], "as {} sees it", site.name);
        assert!(site.volume("ro")["attached"].is_null());
    }
    for site in [first, second, west] {
        site.refused(&["volume", "attach", "ro"]).says(4, &["ro", "read-only", "--read-only", "snapshot clone"]);
        site.refused(&["volume", "resize", "ro", "4MiB"]).says(4, &["ro", "read-only"]);
        site.refused(&["volume", "delete", "ro", "--yes"]).says(4, &["ro", "east/n1"]);
    }
    first.run(&["snapshot", "create", "ro", "--name", "t"]);
    west.refused(&["snapshot", "restore", "ro@t", "--yes"]).says(4, &["ro", "read-only"]);
    // Who leads it is nobody's business who reads it.
    west.run(&["promote", "ro"]);
    first.run(&["switchover", "ro", "--to", "east"]);

    // One ends, and no other.
    second.run(&["volume", "detach", "ro"]);
    assert!(NbdClient::connect(&second.nbd_socket(), "ro").is_err(), "its device is gone");
    second.refused(&["volume", "detach", "ro"]).says(4, &["ro", "east/n1", "west/n1"]);
    assert_eq!(places(&second.volume("ro")), ["east/n1", "west/n1"]);
    first.run(&["volume", "detach", "ro", "--force", "--node=n2"]);
    [0, 2].into_iter().for_each(|other| then.check_all(&mut clients[other]));

    // No quorum is needed: neither to read on nor to begin.
    second.run(&[&READ[..], &["--device", "nbd"]].concat());
    west.end();
    north.end();
    then.check_all(&mut clients[0]);
    then.check_all(&mut second.connect("ro"));
    first.run(&["volume", "detach", "ro"]);
    then.check_all(&mut read_at(first));
    // A node that does not answer keeps its device until it does.
    second.pause();
    first.refused(&["volume", "detach", "ro", "--force", "--node=n2"]).says(5, &["ro", "east/n2"]);
    second.resume();
    eventually("the node to be heard again", || first.try_run(&["volume", "detach", "ro", "--force", "--node=n2"]));
    assert!(NbdClient::connect(&second.nbd_socket(), "ro").is_err(), "its device is gone");

    // Killed, and back: so is what it reads.
    first.kill();
    first.start();
    west.start();
    north.start();
    cluster.wait_connected();
    for site in [first, west] {
        let mut client = eventually("its device to be back", || NbdClient::connect(&site.nbd_socket(), "ro"));
        then.check_all(&mut client);
        site.run(&["volume", "detach", "ro"]);
    }
    // What is made of it is written.
    first.run(&["snapshot", "clone", "ro", "rw"]);
    let mut client = first.attach("rw");
    then.check_all(&mut client);
    then.write(&mut client, 0).expect("a clone of it is written");
    eventually("the volume to be deleted", || first.try_run(&["volume", "delete", "ro", "--yes"]));
}

fn possible(test: &str) -> bool {
    let missing = ["/dev/fuse", "/dev/loop-control"].into_iter().find(|path| !Path::new(path).exists());
    if let Some(path) = missing {
        println!("SKIP {test}: no {path} here");
    }
    missing.is_none()
}

/// Whoever made a mount namespace of his own while the file system was mounted is rightly named as a user; this is not about him.
fn detach(site: &Site, volume: &str) {
    until("the last user to let go", Duration::from_secs(120), || {
        site.try_run(&["volume", "detach", volume]).map(drop).map_err(|refusal| refusal.text)
    });
}

fn device_at(site: &Site) -> PathBuf {
    let attached = site.run(&[&READ[..], &["--device", "fuse"]].concat());
    attached["device"]["path"].as_str().expect("an attached device has a path").into()
}

fn said(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Of all its bytes, past every cache.
fn digest(device: &Path) -> String {
    let read = format!("dd if={} iflag=direct bs=1M status=none | sha256sum", device.display());
    said("bash", &["-o", "pipefail", "-c", &read]).expect("the device is read")
}

fn files(at: &Path) -> String {
    let each = format!("cd {} && find . -type f -print0 | sort -z | xargs -0 sha256sum", at.display());
    said("bash", &["-o", "pipefail", "-c", &each]).expect("the files are read")
}

#[test]
fn a_file_system_that_was_frozen_under_load_is_mounted_on_three_nodes_while_daemons_die() {
    let test = "a_file_system_that_was_frozen_under_load_is_mounted_on_three_nodes_while_daemons_die";
    if !possible(test) {
        return;
    }
    let cluster = Cluster::lay_out(&SITES, Options::default());
    let [first, second, west, _] = SITES.map(|site| cluster.site(site));
    let _holders = [first, second, west].map(DeviceHolder::start);
    cluster.launch();
    first.run(&["volume", "create", "pg", "--size=64MiB", MEMBERS, "--lease=1s"]);
    let attached = first.run(&["volume", "attach", "pg", "--device", "fuse"]);
    let source = PathBuf::from(attached["device"]["path"].as_str().expect("a path"));
    succeed("mkfs.ext4", &["-q", "-F"], &source);
    let mount = Mount::of(&source, cluster.dir().join("source"));
    let busy = Busy::at(&mount.0);
    busy.wait_for_more(50);
    // Nobody can replay a journal there: what was not frozen would lack what the journal alone holds.
    succeed("fsfreeze", &["--freeze"], &mount.0);
    first.run(&["snapshot", "create", "pg", "--name", "s"]);
    succeed("fsfreeze", &["--unfreeze"], &mount.0);
    first.run(&["snapshot", "clone", "pg@s", "ro", "--read-only"]);
    busy.wait_for_more(20);
    println!("{test}: {} files synced in the source", busy.check());
    succeed("umount", &[], &mount.0);
    detach(first, "pg");

    let devices = [first, second, west].map(device_at);
    let whole = digest(&devices[0]);
    let mut mounts = Vec::new();
    for (number, device) in devices.iter().enumerate() {
        let path = device.display().to_string();
        assert_eq!(digest(device), whole, "{path}");
        assert_eq!(said("blockdev", &["--getro", &path]).as_deref(), Ok("1"));
        let write = said("dd", &["if=/dev/zero", &format!("of={path}"), "bs=4096", "count=1", "oflag=direct"]);
        assert!(write.is_err(), "{path} was written");
        let at = cluster.dir().join(format!("reader-{number}"));
        std::fs::create_dir_all(&at).expect("a directory");
        said("mount", &["-o", "ro", &path, &at.display().to_string()]).expect("it is mounted");
        let touched = std::fs::write(at.join("new"), b"x").expect_err("it is read-only");
        assert_eq!(touched.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        mounts.push(Mount(at));
    }
    let content = files(&mounts[0].0);
    assert!(content.lines().count() > 1, "files were synced before the snapshot: {content}");
    for mount in &mounts {
        assert_eq!(files(&mount.0), content);
    }

    // The node that serves another one, too; the third reads on meanwhile.
    for round in 0..3 {
        let victims = [vec![first], vec![second], vec![first, second]][round].clone();
        victims.iter().for_each(|site| site.kill());
        assert_eq!(digest(&devices[2]), whole, "round {round}: the others' daemons are dead");
        victims.iter().for_each(|site| site.start());
        for device in &devices {
            assert_eq!(digest(device), whole, "round {round}: {}", device.display());
        }
    }
    let shown = west.volume("ro");
    assert_eq!(places(&shown), ["east/n1", "east/n2", "west/n1"]);
    for (reader, device) in shown["readers"].as_array().expect("readers").iter().zip(&devices) {
        assert_eq!(reader["device"]["path"], device.display().to_string(), "it is the same device");
    }
    second.refused(&["volume", "detach", "ro"]).says(4, &["in use", "reader-1"]);
    for (site, mount) in [first, second, west].into_iter().zip(mounts) {
        succeed("umount", &[], &mount.0);
        detach(site, "ro");
        assert!(!site.dir.join("run/ro").exists(), "nothing is left behind");
    }
    assert!(places(&first.volume("ro")).is_empty());
}
