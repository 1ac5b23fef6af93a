//! What changed between two snapshots of a thin volume, as the command line tells it, on one replica.
//!
//! The store gives each small piece 64 KiB, and reserves them on disk: of a hundredth of a terabyte in pieces of 4 KiB that
//! would be 171 GiB. So the slab is made a sparse file, longer than it will ever be, while no replicator runs.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use farshore_tests::cluster::{Cluster, Options, program};
use rustix::fs::{FallocateFlags, fallocate};

use super::figures::Changes;
use super::volumes::{EXTENT_BYTES, attach, bytes_below, create, median, run, until};
use crate::fio::{self, Extent, Target};
use crate::workload::{Pattern, Workload};

const VOLUME: &str = "thin";
/// Fewer would cost nothing to hide.
const ASKED: usize = 3;
/// Of the disk besides the changes themselves: journal, index, what the file system keeps for itself.
const BESIDE_BYTES: u64 = 3 << 30;
/// Of the command line's answer, where its sums are.
const HEAD_BYTES: usize = 4096;

/// One hundredth of a volume of so many bytes, in pieces of so many KiB.
pub fn measure(dir: &Path, volume_bytes: u64, piece_kib: u32) -> Result<Changes, String> {
    let changed_bytes = volume_bytes / 100;
    let pieces = changed_bytes / (u64::from(piece_kib) << 10);
    let disk = Disk::make(dir, changed_bytes + changed_bytes / 4 + BESIDE_BYTES)?;
    let options = Options {
        journal_budget: "512MiB",
        journal_segment: "32MiB",
        below: Some(disk.at.clone()),
        more: "[store]\nscrub_interval_s = 0\ncapacity_bytes = \"1TiB\"\n",
        ..Options::default()
    };
    let cluster = Cluster::lay_out(&["east"], options);
    let east = &cluster.sites[0];
    let store = east.data_dir().join("store");
    cluster.launch();
    east.stop();
    stretch(&store.join("slab"), (pieces + pieces / 8 + 1024) * EXTENT_BYTES)?;
    east.start();
    create(east, VOLUME, volume_bytes, "--members=east")?;
    let target = attach(east, VOLUME)?;
    run(east, &["snapshot", "create", VOLUME, "--name", "before"])?;
    let began = Instant::now();
    change(&target, changed_bytes, piece_kib)?;
    let written_s = began.elapsed().as_secs_f64();
    run(east, &["snapshot", "create", VOLUME, "--name", "after"])?;
    // What was written shall not be paid for by who asks for it.
    let acked = east.volume(VOLUME)["acked_seq"].as_u64();
    until("a checkpoint", || match run(east, &["volume", "show", VOLUME])?["checkpointed_seq"].as_u64() {
        checkpointed if checkpointed >= acked => Ok(()),
        checkpointed => Err(format!("{checkpointed:?} of {acked:?}")),
    })?;
    let asked: Vec<Answer> = (0..ASKED).map(|_| ask(&east.control_socket())).collect::<Result<_, _>>()?;
    Ok(Changes {
        volume_bytes,
        piece_kib,
        written_s,
        seconds: median(asked.iter().map(|answer| answer.seconds).collect()),
        bytes: asked[0].changed_bytes,
        answer_bytes: asked[0].bytes,
        index_bytes: bytes_below(&store.join("index")),
    })
}

fn stretch(slab: &Path, bytes: u64) -> Result<(), String> {
    let stretched = OpenOptions::new().write(true).open(slab).and_then(|file| file.set_len(bytes));
    stretched.map_err(|e| format!("stretching {}: {e}", slab.display()))
}

/// Each piece somewhere else, in no order.
fn change(target: &Target, bytes: u64, piece_kib: u32) -> Result<(), String> {
    let depth = if piece_kib < 64 { 256 } else { 32 };
    let workload = Workload { pattern: Pattern::RandWrite, block_kib: piece_kib, depth };
    fio::run(target, workload, Extent::Once, &["--norandommap=0", &format!("--io_size={bytes}")]).map(drop)
}

struct Answer {
    seconds: f64,
    bytes: u64,
    changed_bytes: u64,
}

fn ask(socket: &Path) -> Result<Answer, String> {
    let failed = |e: std::io::Error| format!("farshore snapshot diff: {e}");
    let began = Instant::now();
    let mut child = Command::new(program("farshore"))
        .arg("--socket")
        .arg(socket)
        .args(["-o", "json", "snapshot", "diff", &format!("{VOLUME}@after"), "--since", "before"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut output = child.stdout.take().expect("it was asked for");
    let (mut head, mut bytes, mut buffer) = (Vec::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = output.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        let missing = HEAD_BYTES.saturating_sub(head.len()).min(read);
        head.extend_from_slice(&buffer[..missing]);
    }
    let status = child.wait().map_err(failed)?;
    let seconds = began.elapsed().as_secs_f64();
    let changed = number_after(&String::from_utf8_lossy(&head), "\"data_bytes\":");
    match changed {
        Some(changed_bytes) if status.success() => Ok(Answer { seconds, bytes, changed_bytes }),
        _ => Err(format!("farshore snapshot diff ended with {status}")),
    }
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let (_, rest) = text.split_once(key)?;
    rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A file system of its own in one file: a million pieces of a slab are given back with it at once, for which the file
/// system below would take minutes.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn make(dir: &Path, bytes: u64) -> Result<Disk, String> {
        let (image, at) = (dir.join("difference.img"), dir.join("difference"));
        let failed = |e: std::io::Error| format!("making {} of {bytes} bytes: {e}", image.display());
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&image).map_err(failed)?;
        fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(|e| failed(e.into()))?;
        std::fs::create_dir_all(&at).map_err(failed)?;
        let disk = Disk { image, at };
        call("mkfs.xfs", &["-q".as_ref(), "-f".as_ref(), disk.image.as_os_str()])?;
        call("mount", &["-o".as_ref(), "loop".as_ref(), disk.image.as_os_str(), disk.at.as_os_str()])?;
        Ok(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing is mounted where making it failed before.
        let _ = call("umount", &[self.at.as_os_str()]);
        let _ = std::fs::remove_file(&self.image);
    }
}

fn call(program: &str, args: &[&OsStr]) -> Result<(), String> {
    let output =
        Command::new(program).args(args).stdin(Stdio::null()).output().map_err(|e| format!("{program}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_an_answer_is_found_in_its_head() {
        let head = "{\n  \"snapshot\": \"thin@after\",\n  \"data_bytes\": 10995113984,\n  \"ranges\": [";
        assert_eq!(number_after(head, "\"data_bytes\":"), Some(10_995_113_984));
        assert_eq!(number_after(head, "\"hole_bytes\":"), None);
    }
}
