//! The data directory: there, writable, with room, and on a file system that does direct and durable writes.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags, fstatfs, open, statvfs, unlink};
use rustix::io::pwrite;

use crate::table::{bytes, time_us};

use super::run::Check;

const TMPFS_MAGIC: i64 = 0x0102_1994;
const FREE_PERCENT_WARN: u64 = 15;
const FREE_PERCENT_FAIL: u64 = 3;
const SYNCS: u32 = 8;
/// Above it, every write of every volume waits noticeably for the local disk.
const SYNC_WARN: Duration = Duration::from_millis(20);

/// O_DIRECT wants buffers that begin where a block of the device may.
#[repr(align(4096))]
struct Block([u8; 4096]);

pub fn checks(data_dir: &Path) -> Vec<Check> {
    if let Err(error) = std::fs::metadata(data_dir) {
        let found = format!("{}: {error}", data_dir.display());
        let remedy = format!("mkdir -p {}, on the disk that shall hold the replicas", data_dir.display());
        return vec![Check::fail("data directory", found, remedy)];
    }
    vec![space(data_dir), direct_writes(data_dir)]
}

fn space(dir: &Path) -> Check {
    const NAME: &str = "disk space";
    let stat = match statvfs(dir) {
        Ok(stat) => stat,
        Err(error) => return Check::fail(NAME, format!("{}: {error}", dir.display()), "is the disk well? See dmesg"),
    };
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let remedy = "see dmesg for the reason, then remount it for writing";
        return Check::fail(NAME, format!("{} is mounted read-only", dir.display()), remedy);
    }
    let (total, free) = (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize);
    let percent = free.saturating_mul(100).checked_div(total).unwrap_or(0);
    let found = format!("{} of {} free ({percent} %) in {}", bytes(free), bytes(total), dir.display());
    let remedy = "free or add space, or move volumes away; a full disk suspends its volumes";
    match percent {
        0..FREE_PERCENT_FAIL => Check::fail(NAME, found, remedy),
        FREE_PERCENT_FAIL..FREE_PERCENT_WARN => Check::warn(NAME, found, remedy),
        _ => Check::ok(NAME, found),
    }
}

/// Writes and syncs a block a few times, as the journal does.
fn direct_writes(dir: &Path) -> Check {
    const NAME: &str = "direct I/O";
    let path = dir.join(format!(".doctor-{}", std::process::id()));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let opened = open(&path, flags | OFlags::DIRECT, Mode::RUSR | Mode::WUSR);
    let result = match opened {
        Ok(file) => {
            let file = File::from(file);
            if fstatfs(&file).is_ok_and(|stat| stat.f_type == TMPFS_MAGIC) {
                let _ = unlink(&path);
                let remedy = "name a directory on a disk: [node] data_dir";
                return Check::fail(NAME, format!("{} is a tmpfs: nothing on it is durable", dir.display()), remedy);
            }
            measure(&file)
        }
        Err(error) => Err(error),
    };
    // EINVAL may leave the file behind: some file systems create it and refuse the flag afterwards.
    let _ = unlink(&path);
    match result {
        Ok(mean) if mean <= SYNC_WARN => Check::ok(NAME, format!("a synced 4 KiB write takes {}", micros(mean))),
        Ok(mean) => Check::warn(
            NAME,
            format!("a synced 4 KiB write takes {}", micros(mean)),
            "use a disk with power-loss protection for data_dir; every write waits this long",
        ),
        Err(error) if error == rustix::io::Errno::INVAL => Check::fail(
            NAME,
            format!("the file system of {} refuses O_DIRECT", dir.display()),
            "use ext4 or xfs for data_dir",
        ),
        Err(error) if error == rustix::io::Errno::ACCESS => {
            Check::warn(NAME, format!("{}: {error}", dir.display()), "run doctor as root to have it tried")
        }
        Err(error) => Check::fail(NAME, format!("{}: {error}", dir.display()), "is the disk well? See dmesg"),
    }
}

fn measure(file: &File) -> rustix::io::Result<Duration> {
    let block = Block([0x5a; 4096]);
    let started = Instant::now();
    for n in 0..SYNCS {
        pwrite(file, &block.0, u64::from(n) * 4096)?;
        rustix::fs::fdatasync(file)?;
    }
    Ok(started.elapsed() / SYNCS)
}

fn micros(took: Duration) -> String {
    time_us(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::run::Verdict;
    use super::*;

    #[test]
    fn a_missing_directory_and_a_tmpfs_fail() {
        let missing = checks(Path::new("/nonexistent/farshore"));
        assert!(missing.len() == 1 && missing[0].verdict == Verdict::Fail);
        if Path::new("/dev/shm").is_dir() {
            let check = direct_writes(Path::new("/dev/shm"));
            assert_eq!(check.verdict, Verdict::Fail, "{check:?}");
        }
    }

    #[test]
    fn nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(checks(dir.path()).len(), 2);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
