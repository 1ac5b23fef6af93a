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

/// A mount at or below a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub point: String,
    pub kind: String,
}

impl Mount {
    pub fn is_fuse(&self) -> bool {
        self.kind.starts_with("fuse")
    }
}

/// Mounts at or below `dir`, the innermost first.
pub fn mounts_below(dir: &Path) -> Vec<Mount> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<Mount> =
        table.lines().filter_map(mount).filter(|m| Path::new(&m.point).starts_with(dir)).collect();
    found.reverse();
    found
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/loop1 rw`
fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let point = before.split(' ').nth(4)?.replace("\\040", " ");
    Some(Mount { point, kind: after.split(' ').next()?.into() })
}

/// Loop devices whose file lies below `dir`, as `/dev/loopN`. A file whose mount is gone is not found here.
pub fn loops_below(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let devices = entries.map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()));
    devices.filter(|device| backing_file(device).is_some_and(|file| Path::new(&file).starts_with(dir))).collect()
}

/// The file under `/dev/loopN`, as the kernel tells it; none when the device is free.
pub fn backing_file(device: &str) -> Option<String> {
    let name = device.strip_prefix("/dev/")?;
    let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(file.trim_end().trim_end_matches(" (deleted)").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let found = mount("36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - fuse.farshore farshore rw").unwrap();
        assert_eq!(found, Mount { point: "/mnt/a b".into(), kind: "fuse.farshore".into() });
        assert!(found.is_fuse());
        assert_eq!(mount("nonsense"), None);
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(mounts_below(Path::new("/")).iter().any(|m| m.point == "/"));
    }
}
