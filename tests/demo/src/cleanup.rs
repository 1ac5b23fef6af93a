//! Leaving nothing behind: processes by the pids recorded, then mounts, loop devices and files below one folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Result, io};
use crate::machine::{Mount, backing_file, loops_below, mounts_below};
use crate::process::{is_alive, kill_pid, run, working_below};
use crate::report::line;

/// What a demo's folder is called.
pub const PREFIX: &str = "farshore-demo.";
/// The file in it that holds the demo's pid.
pub const OWNER: &str = "owner";
/// The one with its loop devices.
const DEVICES: &str = "devices";
const LIMIT: Duration = Duration::from_secs(20);

/// Unmounts everything below `dir` and lets go of every loop device over a file there. For a site that was killed this
/// is what a reboot of its machine would have done.
pub fn release(dir: &Path) {
    // File systems keep loop devices busy, loop devices keep files busy. A loop device is found by its file's path, so
    // it must go while the file's mount is still there.
    let (files, systems): (Vec<_>, Vec<_>) = mounts_below(dir).into_iter().partition(Mount::is_fuse);
    systems.iter().for_each(unmount);
    for device in loops_below(dir) {
        let _ = run(Command::new("losetup").args(["--detach", &device]), LIMIT);
    }
    files.iter().for_each(unmount);
}

fn unmount(mount: &Mount) {
    if run(Command::new("umount").arg(&mount.point), LIMIT).is_err() {
        let _ = run(Command::new("umount").args(["--lazy", "--force"]).arg(&mount.point), LIMIT);
    }
}

/// What is still there of the demo, in words; empty is what we want. `devices` are the loop devices that it used, each
/// with the name of the file under it.
pub fn leftovers(dir: &Path, pids: &[u32], devices: &[(String, String)]) -> Vec<String> {
    let alive = pids.iter().filter(|pid| is_alive(**pid)).map(|pid| format!("process {pid}"));
    let mounts = mounts_below(dir).into_iter().map(|mount| format!("mount {}", mount.point));
    let used = devices.iter().filter(|(device, name)| is_backed_by(device, name)).map(|(device, _)| device.clone());
    let loops: BTreeSet<String> = loops_below(dir).into_iter().chain(used).collect();
    let files = dir.exists().then(|| format!("folder {}", dir.display()));
    alive.chain(mounts).chain(loops).chain(files).collect()
}

/// Clears up after demos that were killed before they could do it themselves: their mounts went with their namespace,
/// most of their processes with them; loop devices and files are left.
pub fn sweep(parent: &Path) {
    let began = Instant::now();
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for dir in entries.map(|entry| entry.path()).filter(|path| is_demo(path)) {
        let owner = fs::read_to_string(dir.join(OWNER)).ok().and_then(|pid| pid.trim().parse().ok());
        if owner.is_some_and(|pid: u32| !is_alive(pid)) {
            // A database's processes outlive their parent when they wait for one that died.
            let orphans = working_below(&dir);
            orphans.iter().copied().for_each(kill_pid);
            while orphans.iter().any(|pid| is_alive(*pid)) && began.elapsed() < LIMIT {
                std::thread::sleep(Duration::from_millis(20));
            }
            release(&dir);
            // The mounts that the devices' files were in are gone, and their paths with them.
            for (device, name) in recorded(&dir).iter().filter(|(device, name)| is_backed_by(device, name)) {
                line(&format!("an earlier demo left {device} ({name})"));
                let _ = run(Command::new("losetup").args(["--detach", device]), LIMIT);
            }
            remove(&dir);
        }
    }
}

/// Notes a loop device that a volume became, for whoever clears up when we can't.
pub fn record(dir: &Path, device: &str, volume: &str) -> Result<()> {
    let path = dir.join(DEVICES);
    let mut file = File::options().create(true).append(true).open(&path).map_err(io("open", &path))?;
    file.write_all(format!("{device} {volume}\n").as_bytes()).map_err(io("append to", &path))
}

fn recorded(dir: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(dir.join(DEVICES)).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(' ')).map(|(d, n)| (d.to_string(), n.to_string())).collect()
}

fn is_backed_by(device: &str, name: &str) -> bool {
    backing_file(device).is_some_and(|file| file.rsplit('/').next() == Some(name))
}

fn is_demo(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
}

/// Removes the folder, but never through a mount.
pub fn remove(dir: &Path) {
    if mounts_below(dir).is_empty() {
        let _ = fs::remove_dir_all(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_folders_of_dead_demos_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str, owner: &str| {
            let dir = parent.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(OWNER), owner).unwrap();
            dir
        };
        let mut dead = Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let gone = folder("farshore-demo.a", &dead.id().to_string());
        let here = folder("farshore-demo.b", &std::process::id().to_string());
        let other = folder("something", &dead.id().to_string());
        sweep(parent.path());
        assert_eq!((gone.exists(), here.exists(), other.exists()), (false, true, true));
    }

    #[test]
    fn what_is_left_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let left = leftovers(dir.path(), &[std::process::id()], &[("/dev/null".into(), "orders".into())]);
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
