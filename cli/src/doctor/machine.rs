//! Kernel, device modules, limits and clock of this machine.

use std::fs::{File, OpenOptions, read_to_string};
use std::path::Path;

use farshore_replicator::disk::{EngineChoice, start_engine};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::table::bytes;

use super::run::Check;

/// io_uring with what the journal uses.
const KERNEL_IO_URING: (u32, u32) = (5, 10);
/// FUSE and loop work on older ones too, but nothing below is tested.
const KERNEL_MIN: (u32, u32) = (5, 4);
/// RocksDB's files, segments, connections.
const OPEN_FILES_MIN: u64 = 4_096;
/// io_uring counts its rings against it on kernels before 5.12.
const MEMLOCK_BYTES_MIN: u64 = 8 << 20;

/// What the transport asks for. With less, bursts on a fast link are dropped here and sent again.
const SOCKET_BUFFER_BYTES: u64 = 8 << 20;

pub fn checks() -> Vec<Check> {
    vec![kernel(), io_uring(), fuse(), loop_devices(), nbd(), socket_buffers(), open_files(), memlock(), clock()]
}

fn kernel_version() -> Option<((u32, u32), String)> {
    let release = read_to_string("/proc/sys/kernel/osrelease").ok()?;
    parse_release(release.trim()).map(|version| (version, release.trim().to_string()))
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn kernel() -> Check {
    match kernel_version() {
        Some((version, release)) if version >= KERNEL_MIN => Check::ok("kernel", format!("Linux {release}")),
        Some((_, release)) => {
            let remedy = format!("use Linux {}.{} or later", KERNEL_MIN.0, KERNEL_MIN.1);
            Check::warn("kernel", format!("Linux {release} is older than anything tested"), remedy)
        }
        None => Check::warn("kernel", "its version can't be read", "is this Linux, and /proc mounted?"),
    }
}

/// Tried, not guessed: kernel, sysctl, seccomp profile and limits all have a say. The journal falls back to threads, so
/// nothing here is a failure. Whether the daemon got it as well, it tells itself.
fn io_uring() -> Check {
    const NAME: &str = "io_uring";
    let error = match start_engine(EngineChoice::IoUring) {
        Ok(_) => return Check::ok(NAME, "a ring could be set up"),
        Err(error) => error,
    };
    let disabled = read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|text| text.trim() != "0");
    let remedy = if kernel_version().is_some_and(|(version, _)| version < KERNEL_IO_URING) {
        "use Linux 5.10 or later"
    } else if disabled {
        "sysctl kernel.io_uring_disabled=0"
    } else {
        "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile"
    };
    Check::warn(NAME, format!("no ring could be set up ({error}); the journal uses threads"), remedy)
}

fn opens(path: &str) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn fuse() -> Check {
    match opens("/dev/fuse") {
        Ok(_) => Check::ok("fuse", "/dev/fuse opens"),
        Err(error) => Check::warn(
            "fuse",
            format!("/dev/fuse: {error}; the fuse device can't be used"),
            "modprobe fuse, and give the replicator access to /dev/fuse",
        ),
    }
}

fn loop_devices() -> Check {
    match opens("/dev/loop-control") {
        Ok(_) => Check::ok("loop", "/dev/loop-control opens"),
        Err(error) => Check::warn(
            "loop",
            format!("/dev/loop-control: {error}; the fuse device can't become a block device"),
            "modprobe loop, and give the replicator access to /dev/loop*",
        ),
    }
}

fn nbd() -> Check {
    if Path::new("/dev/nbd0").exists() {
        return Check::ok("nbd", "/dev/nbd0 is there");
    }
    Check::warn("nbd", "no /dev/nbd0; NBD is for userland clients only", "modprobe nbd, where the kernel has it")
}

fn socket_buffers() -> Check {
    const NAME: &str = "UDP buffers";
    let limit = |key: &str| read_to_string(format!("/proc/sys/net/core/{key}")).ok()?.trim().parse::<u64>().ok();
    match (limit("rmem_max"), limit("wmem_max")) {
        (Some(receive), Some(send)) if receive.min(send) < SOCKET_BUFFER_BYTES => Check::warn(
            NAME,
            format!("limited to {} for receiving and {} for sending", bytes(receive), bytes(send)),
            format!("sysctl net.core.rmem_max={SOCKET_BUFFER_BYTES} net.core.wmem_max={SOCKET_BUFFER_BYTES}"),
        ),
        (Some(receive), Some(_)) => Check::ok(NAME, format!("up to {}", bytes(receive))),
        // Not told in containers with a network of their own.
        _ => Check::ok(NAME, "their limit is not known here"),
    }
}

fn open_files() -> Check {
    let limit = getrlimit(Resource::Nofile).current;
    match limit {
        Some(files) if files < OPEN_FILES_MIN => Check::warn(
            "open files",
            format!("{files} may be open in this shell"),
            "the systemd unit sets LimitNOFILE=1048576; where there is none: ulimit -n 65536",
        ),
        Some(files) => Check::ok("open files", format!("{files} may be open")),
        None => Check::ok("open files", "unlimited"),
    }
}

fn memlock() -> Check {
    match getrlimit(Resource::Memlock).current {
        Some(bytes) if bytes < MEMLOCK_BYTES_MIN => Check::warn(
            "locked memory",
            format!("{bytes} bytes may be locked in this shell"),
            "the systemd unit sets LimitMEMLOCK=infinity; where there is none: ulimit -l unlimited",
        ),
        Some(bytes) => Check::ok("locked memory", format!("{bytes} bytes may be locked")),
        None => Check::ok("locked memory", "unlimited"),
    }
}

/// Leases are measured on CLOCK_BOOTTIME; a clock source that the kernel itself distrusts drifts beyond their bound.
fn clock() -> Check {
    const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let uptime = clock_gettime(ClockId::Boottime).tv_sec;
    let source = read_to_string(SOURCE).map(|s| s.trim().to_string()).unwrap_or_else(|_| "unknown".into());
    if ["jiffies", "refined-jiffies", "pit"].contains(&source.as_str()) {
        return Check::warn("clock", format!("clock source {source} is coarse"), "boot without clocksource= and notsc");
    }
    Check::ok("clock", format!("CLOCK_BOOTTIME runs for {uptime} s on {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(parse_release("6.12.0-8-amd64"), Some((6, 12)));
        assert_eq!(parse_release("5.4"), Some((5, 4)));
        assert_eq!(parse_release("4.18.0-553.el8_10.x86_64"), Some((4, 18)));
        assert_eq!(parse_release("next"), None);
        assert_eq!(checks().len(), 9);
    }
}
