//! Leaving nothing behind: processes by the pids recorded, then mounts, loop devices and files below one folder.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::machine::{loops_below, mounts_below};
use crate::process::{is_alive, run};

const LIMIT: Duration = Duration::from_secs(20);

/// Unmounts everything below `dir` and lets go of every loop device over a file there. For a site that was killed this
/// is what a reboot of its machine would have done.
pub fn release(dir: &Path) {
    // File systems first: the loop devices under them are busy until then, and so are the files under those.
    for _ in 0..2 {
        for point in mounts_below(dir) {
            let plain = run(Command::new("umount").arg(&point), LIMIT);
            if plain.is_err() {
                let _ = run(Command::new("umount").args(["--lazy", "--force"]).arg(&point), LIMIT);
            }
        }
        for device in loops_below(dir) {
            let _ = run(Command::new("losetup").args(["--detach", &device]), LIMIT);
        }
    }
}

/// What is still there of the demo, in words; empty is what we want.
pub fn leftovers(dir: &Path, pids: &[u32]) -> Vec<String> {
    let alive = pids.iter().filter(|pid| is_alive(**pid)).map(|pid| format!("process {pid}"));
    let mounts = mounts_below(dir).into_iter().map(|point| format!("mount {point}"));
    let loops = loops_below(dir);
    let files = dir.exists().then(|| format!("folder {}", dir.display()));
    alive.chain(mounts).chain(loops).chain(files).collect()
}

/// Removes the folder, but never through a mount.
pub fn remove(dir: &Path) {
    if mounts_below(dir).is_empty() {
        let _ = fs::remove_dir_all(dir);
    }
}
