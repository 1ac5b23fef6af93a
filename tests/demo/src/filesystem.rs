//! ext4 on a device: made, checked, mounted, unmounted, by the tools an administrator would use.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{DemoError, Result, io};
use crate::process::{run, run_any};

const LIMIT: Duration = Duration::from_secs(60);
pub const BLOCK_BYTES: usize = 4096;

pub fn make_ext4(device: &Path) -> Result<()> {
    // Nothing is left to be initialised later: writes that nobody asked for would blur what the demo measures.
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-m", "0", "-N", "16384", "-J", "size=32"]);
    command.args(["-E", "lazy_itable_init=0,lazy_journal_init=1,nodiscard"]).arg(device);
    run(&mut command, LIMIT).map(drop)
}

/// Replays the journal and checks everything. What had to be repaired beyond that is an error.
pub fn check(device: &Path) -> Result<String> {
    // The first run may replay the journal and clear orphans, as after any power cut.
    let (status, output) = run_any(Command::new("e2fsck").arg("-p").arg(device), LIMIT)?;
    if !matches!(status.code(), Some(0 | 1)) {
        let said = format!("e2fsck -p {}: {status}: {}{}", device.display(), output.stdout, output.stderr);
        return Err(DemoError::Broken(said));
    }
    // The second one must find nothing.
    let (status, output) = run_any(Command::new("e2fsck").args(["-f", "-n"]).arg(device), LIMIT)?;
    if status.code() != Some(0) {
        let said = format!("e2fsck -fn {}: {status}: {}", device.display(), output.stdout);
        return Err(DemoError::Broken(said));
    }
    let found = output.stdout.lines().last().unwrap_or_default();
    Ok(found.split_once(": ").map_or(found, |(_, rest)| rest).to_string())
}

pub fn mount(device: &Path, at: &Path) -> Result<()> {
    fs::create_dir_all(at).map_err(io("create", at))?;
    run(Command::new("mount").args(["-t", "ext4", "-o", "noatime"]).arg(device).arg(at), LIMIT).map(drop)
}

pub fn unmount(at: &Path) -> Result<()> {
    run(Command::new("umount").arg(at), LIMIT).map(drop)
}

/// One acknowledged write, past every cache: the first block is read and written back as it was. Nothing else writes to
/// the device at that time.
pub fn touch(device: &Path) -> Result<()> {
    let file = open_direct(device)?;
    let mut memory = vec![0; 2 * BLOCK_BYTES];
    let block = aligned(&mut memory);
    file.read_exact_at(block, 0).map_err(io("read", device))?;
    file.write_all_at(block, 0).map_err(io("write", device))
}

/// For reading and writing past the page cache: what is read comes from the device, what is written has reached it.
pub fn open_direct(device: &Path) -> Result<File> {
    let flags = libc::O_DIRECT | libc::O_CLOEXEC;
    File::options().read(true).write(true).custom_flags(flags).open(device).map_err(io("open", device))
}

/// A block within `memory` (at least two blocks long) that begins where O_DIRECT wants it.
pub fn aligned(memory: &mut [u8]) -> &mut [u8] {
    let skip = memory.as_ptr().align_offset(BLOCK_BYTES);
    &mut memory[skip..skip + BLOCK_BYTES]
}

/// A loop device over a file of its own, without any replication: what the demo's parts are tested with.
pub struct PlainDevice {
    pub path: PathBuf,
}

impl PlainDevice {
    pub fn create(image: &Path, size_bytes: u64) -> Result<Self> {
        let file = File::create(image).map_err(io("create", image))?;
        file.set_len(size_bytes).map_err(io("extend", image))?;
        (&file).flush().map_err(io("flush", image))?;
        let mut command = Command::new("losetup");
        let found = run(command.args(["--find", "--show", "--direct-io=on", "--sector-size=4096"]).arg(image), LIMIT)?;
        Ok(Self { path: PathBuf::from(found.stdout.trim()) })
    }
}

impl Drop for PlainDevice {
    fn drop(&mut self) {
        let _ = run(Command::new("losetup").arg("-d").arg(&self.path), LIMIT);
    }
}
