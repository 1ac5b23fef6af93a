//! The kernel's table of mounts, and changing it.

use std::path::Path;

use tonic::Status;

use super::program::succeed;

/// Mounts that lie on each other at one place; more would be somebody's mistake.
const STACKED_MAX: usize = 16;

/// A line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Of the filesystem: major:minor.
    pub device: String,
    /// What of the filesystem is mounted: `/`, or the file that was bound.
    pub root: String,
    pub target: String,
    pub read_only: bool,
    pub filesystem: String,
    /// `/dev/loop3`
    pub source: String,
}

/// Every mount that this process sees, in the order in which they were made.
pub fn table() -> Result<Vec<Mount>, Status> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Status::internal(format!("/proc/self/mountinfo can't be read: {error}")))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let after: Vec<&str> = after.split(' ').collect();
    let (filesystem, source, of_superblock) =
        (after.first()?, after.get(1)?, after.get(2).copied().unwrap_or_default());
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    Some(Mount {
        device: before.get(2)?.to_string(),
        root: unescaped(before.get(3)?),
        target: unescaped(before.get(4)?),
        read_only: read_only(before.get(5)?) || read_only(of_superblock),
        filesystem: filesystem.to_string(),
        source: unescaped(source),
    })
}

/// The kernel writes blanks and the like as `\040`.
fn unescaped(text: &str) -> String {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\' && tail.len() >= 3).then(|| std::str::from_utf8(&tail[..3]).ok()).flatten();
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The path as the kernel would name it: links are followed as far as there is something.
pub fn real(path: &str) -> String {
    let path = Path::new(path);
    if let Ok(real) = path.canonicalize() {
        return real.to_string_lossy().into_owned();
    }
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name).to_string_lossy().into_owned(),
        _ => path.to_string_lossy().trim_end_matches('/').to_string(),
    }
}

/// What is mounted at a place: the uppermost, where several are.
pub fn at(path: &str) -> Result<Option<Mount>, Status> {
    let path = real(path);
    Ok(table()?.into_iter().rev().find(|mount| mount.target == path))
}

/// Takes away all that is mounted at a place.
pub async fn unmount(path: &str) -> Result<(), Status> {
    for _ in 0..STACKED_MAX {
        if at(path)?.is_none() {
            return Ok(());
        }
        succeed("umount", &["--", &real(path)], &format!("unmounting {path}")).await?;
    }
    Err(Status::internal(format!("more than {STACKED_MAX} mounts lie on {path}: something goes on mounting there")))
}

/// Makes the same thing appear at another place.
pub async fn bind(from: &str, to: &str, read_only: bool) -> Result<(), Status> {
    let about = format!("binding {to}");
    succeed("mount", &["--bind", "--", from, to], &about).await?;
    if !read_only {
        return Ok(());
    }
    let made = succeed("mount", &["-o", "remount,bind,ro", "--", to], &about).await;
    if made.is_err() {
        // Left writable it would be taken for finished the next time.
        unmount(to).await?;
    }
    made.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let line = r"71 29 7:3 / /var/lib/kubelet/a\040b rw,relatime shared:9 master:1 - ext4 /dev/loop3 ro,discard";
        let mount = parse(line).unwrap();
        assert_eq!((mount.device.as_str(), mount.root.as_str()), ("7:3", "/"));
        assert_eq!(mount.target, "/var/lib/kubelet/a b");
        assert_eq!((mount.filesystem.as_str(), mount.source.as_str()), ("ext4", "/dev/loop3"));
        assert!(mount.read_only);
        let bound = parse("72 29 0:6 /loop3 /pods/x rw,nosuid - devtmpfs udev rw,size=4k").unwrap();
        assert_eq!((bound.root.as_str(), bound.read_only), ("/loop3", false));
        for bad in ["", "a b c", "71 29 7:3 / /x rw", "71 29 - ext4"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn escapes_are_undone_and_nothing_else_is() {
        for (escaped, plain) in [(r"a\040b", "a b"), (r"\134", "\\"), (r"a\x", r"a\x"), (r"\04", r"\04"), ("é", "é")]
        {
            assert_eq!(unescaped(escaped), plain, "{escaped}");
        }
    }

    #[test]
    fn the_own_table_is_readable() {
        assert!(table().unwrap().iter().any(|mount| mount.target == "/"));
        assert_eq!(at("/no/such/place").unwrap(), None);
    }
}
