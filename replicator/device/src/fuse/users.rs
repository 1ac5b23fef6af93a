//! Who uses a block device: for the error that tells an operator what to stop.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::loop_device::LoopDevice;

/// The most users that an error names.
const USERS_NAMED_MAX: usize = 8;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Mounts, swap and stacked devices: they stay until someone acts.
    pub claims: BTreeSet<String>,
    /// Processes that merely have it open, as far as we may look.
    pub openers: BTreeSet<String>,
}

impl Users {
    pub fn of(device: &LoopDevice) -> Users {
        let mut users = Users::default();
        let path = device.path();
        users.claims.extend(holders(device.number));
        if fs::read_to_string("/proc/swaps").is_ok_and(|swaps| lists(&swaps, &path)) {
            users.claims.insert("swap".to_owned());
        }
        let mut namespaces = BTreeSet::new();
        for process in processes() {
            let namespace = fs::read_link(process.join("ns/mnt")).ok();
            if namespaces.insert(namespace) {
                let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
                users.claims.extend(mount_points(&mounts, device.number).map(|point| format!("a mount at {point}")));
            }
            if has_open(&process, &path) {
                users.openers.insert(describe(&process));
            }
        }
        users
    }

    pub fn names(&self) -> String {
        let all: Vec<&str> = self.claims.iter().chain(&self.openers).map(String::as_str).collect();
        match all.len() {
            0 => "a user that cannot be seen from here (another namespace, or the kernel)".to_owned(),
            count if count > USERS_NAMED_MAX => {
                format!("{} and {} more", all[..USERS_NAMED_MAX].join(", "), count - USERS_NAMED_MAX)
            }
            _ => all.join(", "),
        }
    }
}

fn processes() -> impl Iterator<Item = std::path::PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit()).map(|entry| entry.path())
}

fn holders(number: u32) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(format!("/sys/block/loop{number}/holders")).into_iter().flatten().flatten();
    entries.map(|entry| format!("the device {}", entry.file_name().to_string_lossy()))
}

/// `/proc/swaps` has the path first on each line.
fn lists(swaps: &str, path: &Path) -> bool {
    swaps.lines().any(|line| line.split_whitespace().next() == path.to_str())
}

/// The mount points of the loop device in a `mountinfo`: its third field is `major:minor`, the fifth the point.
fn mount_points(mountinfo: &str, number: u32) -> impl Iterator<Item = &str> {
    let device = format!("7:{number}");
    mountinfo.lines().filter_map(move |line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next()? == device).then(|| fields.nth(1))?
    })
}

fn has_open(process: &Path, device: &Path) -> bool {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    descriptors.into_iter().any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target == device))
}

fn describe(process: &Path) -> String {
    let pid = process.file_name().unwrap_or_default().to_string_lossy();
    match fs::read_to_string(process.join("comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_those_of_the_device() {
        let mountinfo = "23 28 0:21 / /proc rw - proc proc rw\n\
            40 28 7:1 / /mnt/a rw,relatime shared:1 - ext4 /dev/loop1 rw\n\
            41 28 7:11 / /mnt/b rw,relatime - ext4 /dev/loop11 rw\n\
            42 28 7:1 /sub /mnt/with\\040space rw - ext4 /dev/loop1 rw\nshort line\n";
        assert_eq!(mount_points(mountinfo, 1).collect::<Vec<_>>(), ["/mnt/a", "/mnt/with\\040space"]);
        assert_eq!(mount_points(mountinfo, 2).count(), 0);
    }

    #[test]
    fn swap_is_matched_by_the_whole_path() {
        let swaps = "Filename Type Size Used Priority\n/dev/loop12 partition 1 0 -2\n";
        assert!(lists(swaps, Path::new("/dev/loop12")));
        assert!(!lists(swaps, Path::new("/dev/loop1")));
    }

    #[test]
    fn unseen_users_are_admitted() {
        assert!(Users::default().names().contains("cannot be seen"));
    }
}
