//! What the demo needs of this machine, asked before anything is started.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

use crate::error::{DemoError, Result, io};

/// Three journals, three stores, and the images of the volumes.
const FREE_BYTES_MIN: u64 = 6 << 30;
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
const PROGRAMS: [&str; 7] = ["setpriv", "mount", "umount", "losetup", "mkfs.ext4", "e2fsck", "unshare"];

pub fn check(dir: &Path) -> Result<()> {
    let missing = |what: String, remedy: &str| Err(DemoError::Missing { what, remedy: remedy.into() });
    if !rustix::process::geteuid().is_root() {
        return missing("the demo mounts file systems and needs root".into(), "run it as root: sudo make demo");
    }
    for program in PROGRAMS {
        if Command::new(program).arg("--version").output().is_err() && Command::new(program).arg("-V").output().is_err()
        {
            return missing(format!("{program} is not there"), "make deps");
        }
    }
    if !Path::new("/dev/fuse").exists() {
        let remedy = "load it (modprobe fuse), or give the container the device; without it there is no block device here \
                      to put a file system on. The volumes could still be served over NBD: farshore volume attach --device nbd";
        return missing("/dev/fuse is missing".into(), remedy);
    }
    if !Path::new("/dev/loop-control").exists() {
        return missing(
            "/dev/loop-control is missing".into(),
            "load it (modprobe loop), or give the container the device",
        );
    }
    let found = rustix::fs::statfs(dir).map_err(|e| io("ask for the file system of", dir)(e.into()))?;
    if [TMPFS, RAMFS].contains(&(found.f_type as u64)) {
        let what = format!("{} lies in memory, and the demo is about disks", dir.display());
        return missing(what, "name a folder on a disk with --dir");
    }
    let free_bytes = found.f_bavail as u64 * found.f_bsize as u64;
    if free_bytes < FREE_BYTES_MIN {
        let what = format!("{} has {} MiB free, {} are needed", dir.display(), free_bytes >> 20, FREE_BYTES_MIN >> 20);
        return missing(what, "name a folder with more space with --dir");
    }
    Ok(())
}

/// A port on loopback that is free now.
pub fn free_port() -> Result<u16> {
    let failed = |source| DemoError::Io { operation: "find a free port on", path: "127.0.0.1".into(), source };
    // Free for both protocols, so that no number is given out twice in a row to different uses.
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let port = tcp.local_addr().map_err(failed)?.port();
    match UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(port),
        Err(_) => free_port(),
    }
}

/// Mounts at or below `dir`, the innermost first.
pub fn mounts_below(dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| point.replace("\\040", " "));
    let mut found: Vec<String> = points.filter(|point| Path::new(point).starts_with(dir)).collect();
    found.reverse();
    found
}

/// Loop devices whose file lies below `dir`, as `/dev/loopN`.
pub fn loops_below(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backed = entries.filter(|entry| {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        Path::new(file.trim_end().trim_end_matches(" (deleted)")).starts_with(dir)
    });
    backed.map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy())).collect()
}
