//! A file system in use: mounted, written to past the cache and through it, and looked at in the end.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::wait::eventually;

const BLOCK: usize = 4096;
/// Blocks of the file that is written in place, past every cache.
const BLOCKS: u64 = 256;

/// A program that must end well; the path is its last argument.
pub fn succeed(program: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(program).args(arguments).arg(path).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let both = said(&output.stdout) + &said(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?} {}: {}\n{both}", path.display(), output.status);
}

/// Unmounted with the value.
pub struct Mount(pub PathBuf);

impl Mount {
    pub fn of(device: &Path, at: PathBuf) -> Mount {
        std::fs::create_dir_all(&at).expect("a directory can be made");
        let mounted = Command::new("mount").arg(device).arg(&at).status().expect("mount (util-linux)");
        assert!(mounted.success(), "mounting {}", device.display());
        Mount(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// Threads that use the file system: blocks written in place and read back, past the cache, and files that are synced.
/// Each says how it ended: at the test's word, or with an error.
pub struct Busy {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    blocks: JoinHandle<std::io::Result<Vec<u8>>>,
    files: JoinHandle<std::io::Result<u32>>,
}

/// O_DIRECT wants its memory aligned.
struct Aligned(Vec<u8>);

impl Aligned {
    fn new(value: u8) -> Aligned {
        Aligned(vec![value; 2 * BLOCK])
    }

    fn block(&mut self) -> &mut [u8] {
        let skip = self.0.as_ptr().align_offset(BLOCK);
        &mut self.0[skip..skip + BLOCK]
    }
}

fn content(number: u32) -> Vec<u8> {
    (0..5000 + number * 7).map(|at| (at * number + at / 9) as u8).collect()
}

fn direct(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(0o40000).open(path)
}

fn write_blocks(path: &Path, stop: &AtomicBool, rounds: &AtomicU64) -> std::io::Result<Vec<u8>> {
    let file = direct(path)?;
    let mut books = vec![0u8; BLOCKS as usize];
    for block in 0..BLOCKS {
        file.write_all_at(Aligned::new(0).block(), block * BLOCK as u64)?;
    }
    for round in 1u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (block, value) = (round * 37 % BLOCKS, (round % 251) as u8);
        file.write_all_at(Aligned::new(value).block(), block * BLOCK as u64)?;
        books[block as usize] = value;
        // The one just written, and an old one.
        for block in [block, round * 11 % BLOCKS] {
            let mut found = Aligned::new(0);
            file.read_exact_at(found.block(), block * BLOCK as u64)?;
            let expected = books[block as usize];
            assert!(found.block().iter().all(|byte| *byte == expected), "block {block} does not hold {expected}");
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    Ok(books)
}

fn write_files(dir: &Path, stop: &AtomicBool) -> std::io::Result<u32> {
    for number in 0u32.. {
        if stop.load(Ordering::Relaxed) {
            return Ok(number);
        }
        let path = dir.join((number % 64).to_string());
        std::fs::write(&path, content(number))?;
        File::open(&path)?.sync_all()?;
    }
    Ok(0)
}

impl Busy {
    pub fn at(dir: &Path) -> Busy {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (path, told, counted) = (dir.join("blocks"), stop.clone(), rounds.clone());
        let blocks = std::thread::spawn(move || write_blocks(&path, &told, &counted));
        let dir = dir.to_path_buf();
        let (below, told) = (dir.clone(), stop.clone());
        let files = std::thread::spawn(move || write_files(&below, &told));
        Busy { dir, stop, rounds, blocks, files }
    }

    #[track_caller]
    pub fn wait_for_more(&self, rounds: u64) {
        let goal = self.rounds.load(Ordering::Relaxed) + rounds;
        eventually("the file system to be written on", || {
            assert!(!self.blocks.is_finished() && !self.files.is_finished(), "a writer met an error");
            let now = self.rounds.load(Ordering::Relaxed);
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal} rounds")) }
        });
    }

    pub fn stop(self) -> (std::io::Result<Vec<u8>>, std::io::Result<u32>) {
        self.stop.store(true, Ordering::Relaxed);
        (self.blocks.join().expect("no lost write"), self.files.join().expect("no lost write"))
    }

    /// Both have met an error.
    pub fn has_failed(&self) -> bool {
        self.blocks.is_finished() && self.files.is_finished()
    }

    pub fn has_begun_to_fail(&self) -> bool {
        self.blocks.is_finished()
    }

    /// Stops; nothing met an error, and all that was written is there. How many files were synced.
    #[track_caller]
    pub fn check(self) -> u32 {
        let dir = self.dir.clone();
        let (books, files) = self.stop();
        let (books, files) = (books.expect("no I/O error"), files.expect("no I/O error"));
        let file = direct(&dir.join("blocks")).expect("it is there");
        for (block, expected) in (0u64..).zip(books) {
            let mut found = Aligned::new(0);
            file.read_exact_at(found.block(), block * BLOCK as u64).expect("it can be read");
            assert!(found.block().iter().all(|byte| *byte == expected), "block {block}");
        }
        for number in files.saturating_sub(64)..files {
            let found = std::fs::read(dir.join((number % 64).to_string())).expect("it was synced");
            assert!(found == content(number), "file {number}");
        }
        files
    }
}
