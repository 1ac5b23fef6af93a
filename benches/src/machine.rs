//! Where a run took place, and whether it can.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
/// Beside the volumes, each in three copies: journals, the raw file, what the stores keep while they redirect.
const SPARE_BYTES: u64 = 5 << 30;

#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    pub file_system: String,
    pub fio: String,
    pub commit: String,
    /// Of the sources, when the run began.
    pub modified: bool,
    /// Runnable tasks before anything was started: noise that is not ours.
    pub load_before: f64,
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_string()
}

fn value_of<'t>(text: &'t str, key: &str) -> &'t str {
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_once(':').map_or("unknown", |(_, value)| value.trim())
}

impl Machine {
    pub fn here(dir: &Path) -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory_kib = value_of(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0_u64);
        let source = env!("CARGO_MANIFEST_DIR");
        let git = |arguments: &[&str]| {
            let all: Vec<&str> = ["-c", "safe.directory=*", "-C", source].iter().chain(arguments).copied().collect();
            first_line("git", &all)
        };
        Machine {
            cpu: value_of(&read("/proc/cpuinfo"), "model name").to_string(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_kib << 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            file_system: first_line("stat", &["-f", "-c", "%T", &dir.display().to_string()]),
            fio: first_line("fio", &["--version"]),
            commit: git(&["rev-parse", "--short=12", "HEAD"]),
            modified: git(&["status", "--porcelain", "--untracked-files=no"]) != "unknown",
            load_before: read("/proc/loadavg").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// Says what is missing for a run below `dir` that needs so much space for volumes.
pub fn check(dir: &Path, volume_bytes: u64) -> Result<(), String> {
    for program in ["fio", "setpriv"] {
        if Command::new(program).arg("--version").output().is_err() {
            return Err(format!("{program} is not there; do: tests/deps bench"));
        }
    }
    let engines = Command::new("fio").arg("--enghelp").output().map(|o| o.stdout).unwrap_or_default();
    if !String::from_utf8_lossy(&engines).lines().any(|line| line.trim() == "nbd") {
        return Err("this fio has no engine for NBD; do: install one that was built with libnbd (Debian's is)".into());
    }
    let found = rustix::fs::statfs(dir).map_err(|e| format!("asking for the file system of {}: {e}", dir.display()))?;
    if [TMPFS, RAMFS].contains(&(found.f_type as u64)) {
        return Err(format!(
            "{} lies in memory, and the benchmark is about disks; do: name a folder on a disk with --dir",
            dir.display()
        ));
    }
    let (free, needed) = (found.f_bavail * found.f_bsize as u64, volume_bytes + SPARE_BYTES);
    if free < needed {
        let mib = |bytes: u64| bytes >> 20;
        return Err(format!(
            "{} has {} MiB free, {} are needed; do: name another folder with --dir, or smaller volumes with --size",
            dir.display(),
            mib(free),
            mib(needed)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_behind_their_keys() {
        assert_eq!(value_of("a: 1\nmodel name\t: X  Y\n", "model name"), "X  Y");
        assert_eq!(value_of("a: 1\n", "b"), "unknown");
    }

    #[test]
    fn memory_is_no_disk() {
        if let Err(said) = check(Path::new("/dev/shm"), 0) {
            assert!(said.contains("do:"), "{said}");
        }
    }
}
