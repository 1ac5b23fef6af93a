//! What changed between two snapshots of a thin volume, as the command line tells it, on one replica.
//!
//! A tenth of a terabyte of changes would fill the disk many times over where each is a small piece: the store allocates
//! 64 KiB for it. So the slab is made a sparse file at the beginning, and what was written to it is thrown away meanwhile
//! (holes punched into it). A difference is made of the index alone, and would fail were it to look at a single block.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farshore_tests::cluster::{Cluster, Options, program};
use rustix::fs::{FallocateFlags, fallocate};

use super::figures::Changes;
use super::volumes::{EXTENT_BYTES, attach, bytes_below, create, median, run, until};
use crate::fio::{self, Extent, Target};
use crate::workload::{Pattern, Workload};

const VOLUME: &str = "thin";
/// Fewer would cost nothing to hide.
const ASKED: usize = 3;
/// Writing waits while the file system does that: seldom, and much at once.
const THROWN_AWAY_BYTES: u64 = 3 << 30;
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Of the command line's answer, where its sums are.
const HEAD_BYTES: usize = 4096;

/// One hundredth of a volume of so many bytes, in pieces of so many KiB.
pub fn measure(dir: &Path, volume_bytes: u64, piece_kib: u32) -> Result<Changes, String> {
    let changed_bytes = volume_bytes / 100;
    let pieces = changed_bytes / (u64::from(piece_kib) << 10);
    let options = Options {
        journal_budget: "512MiB",
        journal_segment: "32MiB",
        below: Some(dir.to_path_buf()),
        more: "[store]\nscrub_interval_s = 0\ncapacity_bytes = \"1TiB\"\n",
        ..Options::default()
    };
    let cluster = Cluster::lay_out(&["east"], options);
    let east = &cluster.sites[0];
    let store = east.data_dir().join("store");
    cluster.launch();
    east.stop();
    let slab = Slab::stretch(&store.join("slab"), (pieces + pieces / 8 + 1024) * EXTENT_BYTES)?;
    east.start();
    create(east, VOLUME, volume_bytes, "--members=east")?;
    let target = attach(east, VOLUME)?;
    run(east, &["snapshot", "create", VOLUME, "--name", "before"])?;
    let began = Instant::now();
    slab.empty_while(|| change(&target, changed_bytes, piece_kib))?;
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

/// A slab that was made sparse, and longer than it will ever be, while no replicator ran.
struct Slab {
    path: PathBuf,
    bytes: u64,
}

impl Slab {
    fn stretch(path: &Path, bytes: u64) -> Result<Slab, String> {
        let stretched = OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(bytes));
        stretched.map_err(|e| format!("stretching {}: {e}", path.display()))?;
        Ok(Slab { path: path.to_path_buf(), bytes })
    }

    /// Throws away what is in it, but for the header, whenever it has become much, and once the work is done.
    fn empty_while<T: Send>(&self, work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
        let file = OpenOptions::new().write(true).open(&self.path);
        let file = file.map_err(|e| format!("opening {}: {e}", self.path.display()))?;
        let empty = || {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&file, flags, EXTENT_BYTES, self.bytes - EXTENT_BYTES)
                .map_err(|e| format!("punching holes into {}: {e}", self.path.display()))
        };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let emptying = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::thread::sleep(LOOK_AGAIN);
                    if file.metadata().is_ok_and(|found| found.blocks() * 512 > THROWN_AWAY_BYTES) {
                        empty()?;
                    }
                }
                empty()
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            emptying.join().expect("throwing away does not panic")?;
            result
        })
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

    #[test]
    fn what_is_thrown_away_takes_no_space() {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("slab");
        std::fs::write(&path, [7; 4096]).unwrap();
        let slab = Slab::stretch(&path, 64 * EXTENT_BYTES).unwrap();
        let write = || {
            let file = OpenOptions::new().write(true).open(&slab.path).map_err(|e| e.to_string())?;
            file.write_all_at(&vec![7; 1 << 20], 2 * EXTENT_BYTES).map_err(|e| e.to_string())
        };
        slab.empty_while(write).unwrap();
        let found = std::fs::metadata(&slab.path).unwrap();
        assert!(found.len() == 64 * EXTENT_BYTES && found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
        assert_eq!(std::fs::read(&slab.path).unwrap()[..4096], [7; 4096], "the header stays");
    }
}
