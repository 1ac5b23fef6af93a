//! The filesystem on a device: finding out what is there, making one, checking it, growing it.
//!
//! A filesystem is made only on a device that holds nothing: no signature, no byte in the samples that are read, no
//! extent in the replicator's store. While one is being made a label of the volume says so, in every site: what is half-made is
//! made anew, wherever the volume is staged next. mkfs writes the signature last, or marks it as unfinished: what has a whole
//! one is never made anew.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use tonic::Status;

use super::program::{complaint, run, succeed};

/// Where filesystems and databases have their beginnings.
const HEAD_BYTES: u64 = 4 << 20;
/// Where some keep a copy, or a signature.
const TAIL_BYTES: u64 = 1 << 20;
/// In between, so many samples of so many bytes.
const SAMPLES: u64 = 64;
const SAMPLE_BYTES: u64 = 64 << 10;
/// In an xfs superblock.
const XFS_IN_PROGRESS_AT: u64 = 126;
/// fsck's exit codes are bits: this is "errors corrected".
const FSCK_CORRECTED: i32 = 1;
/// blkid's exit code for "nothing found".
const BLKID_NOTHING: i32 = 2;

/// What blkid knows a device by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Filesystem(String),
    /// A partition table, a member of an array, or the like.
    Other(String),
}

pub async fn probe(device: &str) -> Result<Found, Status> {
    let output = run("blkid", &["-p", "-o", "export", "--", device]).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Ok(found(&said)),
        Some(BLKID_NOTHING) => Ok(Found::Nothing),
        _ => Err(Status::failed_precondition(format!(
            "what is on {device} can't be told ({}): look at it with `blkid -p {device}` before it is used",
            complaint(&output)
        ))),
    }
}

fn found(said: &str) -> Found {
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(String::from);
    match (value("TYPE"), value("USAGE").as_deref(), value("PTTYPE")) {
        (Some(kind), Some("filesystem") | None, _) => Found::Filesystem(kind),
        (Some(kind), _, _) => Found::Other(kind),
        (None, _, Some(table)) => Found::Other(format!("partition table {table}")),
        (None, _, None) => Found::Nothing,
    }
}

/// The device's size; it changes while a volume grows.
pub fn size_bytes(device: &Path) -> std::io::Result<u64> {
    File::open(device)?.seek(SeekFrom::End(0))
}

/// Whether the samples hold nothing but zeroes.
fn is_blank(device: &Path) -> std::io::Result<bool> {
    let mut file = File::open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    let mut parts = vec![(0, HEAD_BYTES.min(size)), (size.saturating_sub(TAIL_BYTES), TAIL_BYTES.min(size))];
    parts.extend((0..SAMPLES).map(|n| (size / SAMPLES * n, SAMPLE_BYTES)).filter(|(at, len)| at + len <= size));
    let mut buffer = vec![0; HEAD_BYTES as usize];
    for (at, len) in parts {
        let part = &mut buffer[..len as usize];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(part)?;
        if part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A device that shall carry a filesystem.
pub struct Wish<'a> {
    pub device: &'a str,
    pub volume: &'a str,
    pub filesystem: &'a str,
    /// Another filesystem than this is refused.
    pub exactly: bool,
    pub read_only: bool,
    /// The replicator's store holds something of it.
    pub allocated: bool,
    /// One was begun on it when it was blank, and nobody else has had it since.
    pub begun: bool,
}

/// What is to be done with a device.
#[derive(Debug, PartialEq, Eq)]
pub enum Judged {
    Carries(String),
    /// Nothing is on it.
    Blank,
    /// What is on it was left by a mkfs that did not end.
    HalfMade,
}

/// Looks at the device, and refuses what no filesystem can be had from.
pub async fn judge(wish: &Wish<'_>) -> Result<Judged, Status> {
    match probe(wish.device).await? {
        Found::Filesystem(kind) if wish.begun && kind == "xfs" && is_unfinished_xfs(wish.device)? => {}
        Found::Filesystem(kind) if wish.exactly && kind != wish.filesystem => {
            return Err(Status::failed_precondition(format!(
                "volume {} holds a filesystem of type {kind}, and {} was asked for: ask for {kind}",
                wish.volume, wish.filesystem
            )));
        }
        Found::Filesystem(kind) => return Ok(Judged::Carries(kind)),
        Found::Other(what) => return Err(occupied(wish, &format!("holds something else ({what})"))),
        Found::Nothing => {}
    }
    if wish.read_only {
        return Err(Status::failed_precondition(format!(
            "volume {} holds no filesystem, and read-only none can be made: publish it for writing first",
            wish.volume
        )));
    }
    if wish.begun {
        return Ok(Judged::HalfMade);
    }
    let path = PathBuf::from(wish.device);
    let blank = tokio::task::spawn_blocking(move || is_blank(&path)).await;
    let blank = blank.map_err(|error| Status::internal(format!("reading {} broke off: {error}", wish.device)))?;
    let blank = blank.map_err(|error| unreadable(wish.device, &error))?;
    match blank && !wish.allocated {
        true => Ok(Judged::Blank),
        false => Err(occupied(wish, "holds data of a kind that is not known")),
    }
}

fn unreadable(device: &str, error: &std::io::Error) -> Status {
    Status::unavailable(format!("{device} can't be read: {error}"))
}

/// mkfs.xfs writes the superblock first, and says in it that it is not done (`sb_inprogress`).
fn is_unfinished_xfs(device: &str) -> Result<bool, Status> {
    use std::os::unix::fs::FileExt as _;
    let mut in_progress = [0];
    let read = File::open(device).and_then(|file| file.read_exact_at(&mut in_progress, XFS_IN_PROGRESS_AT));
    read.map_err(|error| unreadable(device, &error))?;
    Ok(in_progress != [0])
}

/// Before it is mounted for writing: the filesystem is whole, and as large as the device.
pub async fn prepare(kind: &str, device: &str) -> Result<(), Status> {
    if kind.starts_with("ext") {
        check(device).await?;
        grow_unmounted(device).await?;
    }
    Ok(())
}

/// Beside what its class says.
pub fn options(kind: &str, read_only: bool) -> Vec<&'static str> {
    let mut options = vec![if read_only { "ro" } else { "rw" }];
    if kind == "xfs" {
        // A clone has its source's UUID, and both may be on this node.
        options.push("nouuid");
    }
    options
}

/// On a device that takes no writes nothing replays a journal, and the kernel refuses a filesystem that wants it. Mounted as it
/// lies on the disk it lacks what the journal alone holds, which may be anything: that is for its user to ask for.
pub fn unreplayed(kind: &str, why: &Status) -> Status {
    let option = match kind {
        "xfs" => "norecovery",
        "btrfs" => "rescue=nologreplay",
        _ => "noload",
    };
    Status::failed_precondition(format!(
        "{}. Perhaps its journal must be replayed first, and nobody writes this volume: take the snapshot of a filesystem that \
         is frozen (fsfreeze) or that no pod has mounted; or let it be mounted once from a claim with ReadWriteOnce, and make \
         this one of that. With the mount option {option} it is shown as it lay on the disk: whole for a frozen xfs, else \
         without what is in the journal alone",
        why.message()
    ))
}

fn occupied(wish: &Wish<'_>, how: &str) -> Status {
    let volume = wish.volume;
    Status::failed_precondition(format!(
        "volume {volume} {how}, so no filesystem is made on it: if nothing of it is wanted, make the claim anew; or, with no pod \
         using it, clear it on a node: farshore volume attach {volume}, blkdiscard on the device that this answers, farshore \
         volume detach {volume}"
    ))
}

/// On what was judged to be blank or half-made.
pub async fn make(wish: &Wish<'_>, judged: &Judged) -> Result<(), Status> {
    // Nothing is discarded first: what is blank has nothing to give back. The last word of each is its own "by force".
    let arguments: &[&str] = match wish.filesystem {
        "ext4" => &["-q", "-m", "0", "-E", "nodiscard", "-F"],
        "xfs" => &["-q", "-K", "-f"],
        _ => &["-q", "-K", "-f"],
    };
    let kept = if *judged == Judged::HalfMade { arguments.len() } else { arguments.len() - 1 };
    let arguments: Vec<&str> = arguments[..kept].iter().copied().chain([wish.device]).collect();
    let about = format!("making a filesystem on volume {}", wish.volume);
    succeed(&format!("mkfs.{}", wish.filesystem), &arguments, &about).await.map(drop)
}

/// Only ext has to be checked before it is mounted; the others see to it themselves.
async fn check(device: &str) -> Result<(), Status> {
    fsck(&["-p", device], device).await
}

async fn fsck(arguments: &[&str], device: &str) -> Result<(), Status> {
    let output = run("e2fsck", arguments).await?;
    match output.status.code() {
        Some(code) if code & !FSCK_CORRECTED == 0 => Ok(()),
        _ => Err(Status::internal(format!(
            "the filesystem on {device} needs somebody to look at it ({}): run `e2fsck {device}` on this node",
            complaint(&output)
        ))),
    }
}

/// The volume may have grown since, or be a larger copy of a smaller one. Unmounted it needs no right of its own.
async fn grow_unmounted(device: &str) -> Result<(), Status> {
    let about = format!("growing the filesystem on {device}");
    let said = succeed("dumpe2fs", &["-h", device], &about).await?;
    let value = |key: &str| -> u64 {
        let line = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    let (blocks, block_bytes) = (value("Block count"), value("Block size"));
    let path = PathBuf::from(device);
    let size = tokio::task::spawn_blocking(move || size_bytes(&path)).await;
    let size = size.map_err(|error| Status::internal(format!("{about} broke off: {error}")))?;
    let size = size.map_err(|error| Status::unavailable(format!("{device} has no size: {error}")))?;
    if block_bytes == 0 || size / block_bytes <= blocks {
        return Ok(());
    }
    // resize2fs wants it to be checked in full.
    fsck(&["-f", "-p", device], device).await?;
    succeed("resize2fs", &[device], &about).await.map(drop)
}

/// Lets a mounted filesystem have the whole device. One that has it already is left as it is.
pub async fn grow(kind: &str, device: &str, mounted_at: &str) -> Result<(), Status> {
    let about = format!("growing the filesystem on {device}");
    match kind {
        "ext2" | "ext3" | "ext4" => match succeed("resize2fs", &[device], &about).await {
            Err(status) if status.message().contains("Permission denied to resize") => {
                // Not FAILED_PRECONDITION: of that the kubelet says nothing to anybody.
                Err(Status::permission_denied(format!(
                    "{about}: a mounted ext4 grows only by who has the capability SYS_RESOURCE: give it to the node \
                     plugin; else it grows when it is mounted anew, once all its pods have ended"
                )))
            }
            other => other.map(drop),
        },
        "xfs" => succeed("xfs_growfs", &["-d", mounted_at], &about).await.map(drop),
        "btrfs" => succeed("btrfs", &["filesystem", "resize", "max", mounted_at], &about).await.map(drop),
        other => {
            Err(Status::failed_precondition(format!("a filesystem of type {other} can't be grown by this driver")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blkid_says_is_read() {
        assert_eq!(found("DEVNAME=/dev/x\nTYPE=ext4\nUSAGE=filesystem\n"), Found::Filesystem("ext4".into()));
        assert_eq!(found("TYPE=LVM2_member\nUSAGE=raid\n"), Found::Other("LVM2_member".into()));
        assert_eq!(found("PTTYPE=gpt\n"), Found::Other("partition table gpt".into()));
        assert_eq!(found("DEVNAME=/dev/x\n"), Found::Nothing);
    }

    #[test]
    fn a_byte_at_either_end_or_in_a_sample_is_something() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        let size: u64 = 256 << 20;
        let file = File::create(&path).unwrap();
        file.set_len(size).unwrap();
        assert!(is_blank(&path).unwrap());
        for at in [0, 1024, HEAD_BYTES - 1, size / SAMPLES * 40 + 7, size - 1] {
            use std::os::unix::fs::FileExt as _;
            file.write_all_at(&[1], at).unwrap();
            assert!(!is_blank(&path).unwrap(), "at {at}");
            file.write_all_at(&[0], at).unwrap();
        }
        assert!(is_blank(&path).unwrap());
        file.set_len(4096).unwrap();
        assert!(is_blank(&path).unwrap());
    }

    /// On a plain file, which mkfs takes as well.
    async fn on_file(filesystem: &str, begun: bool, prepare: impl FnOnce(&Path)) -> Result<Judged, Status> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        File::create(&path).unwrap().set_len(512 << 20).unwrap();
        prepare(&path);
        let wish = Wish {
            device: path.to_str().unwrap(),
            volume: "v",
            filesystem,
            exactly: true,
            read_only: false,
            allocated: false,
            begun,
        };
        let judged = judge(&wish).await?;
        if !matches!(judged, Judged::Carries(_)) {
            make(&wish, &judged).await?;
            assert_eq!(judge(&wish).await?, Judged::Carries(filesystem.into()), "what is whole is not made anew");
        }
        Ok(judged)
    }

    #[tokio::test]
    async fn nothing_is_made_on_what_holds_something() {
        use std::os::unix::fs::FileExt as _;
        let write = |path: &Path, at: u64, bytes: &[u8]| {
            File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
        };
        let data = |path: &Path| write(path, 1 << 20, b"a database of sorts");
        for kind in ["ext4", "xfs", "btrfs"] {
            assert_eq!(on_file(kind, false, |_| {}).await.unwrap(), Judged::Blank);
            let refused = on_file(kind, false, data).await.unwrap_err();
            assert!(refused.message().contains("no filesystem is made"), "{refused}");
            // What a mkfs that was interrupted has left is no data.
            assert_eq!(on_file(kind, true, data).await.unwrap(), Judged::HalfMade);
            let table = |path: &Path| {
                write(path, 450, &[0x83, 0, 0, 0, 1, 0, 0, 0, 0, 16, 0, 0]);
                write(path, 510, &[0x55, 0xaa]);
            };
            assert!(on_file(kind, true, table).await.unwrap_err().message().contains("something else"));
        }
    }

    #[tokio::test]
    async fn an_unfinished_xfs_is_told_from_a_whole_one() {
        let made = |in_progress: u8| {
            move |path: &Path| {
                use std::os::unix::fs::FileExt as _;
                let done = std::process::Command::new("mkfs.xfs").args(["-q", "-K"]).arg(path).status().unwrap();
                assert!(done.success());
                let file = File::options().write(true).open(path).unwrap();
                file.write_all_at(&[in_progress], XFS_IN_PROGRESS_AT).unwrap();
            }
        };
        assert_eq!(on_file("xfs", true, made(0)).await.unwrap(), Judged::Carries("xfs".into()));
        assert_eq!(on_file("xfs", true, made(1)).await.unwrap(), Judged::HalfMade);
        assert_eq!(on_file("xfs", false, made(1)).await.unwrap(), Judged::Carries("xfs".into()));
        assert!(on_file("ext4", true, made(0)).await.unwrap_err().message().contains("ask for xfs"));
    }
}
