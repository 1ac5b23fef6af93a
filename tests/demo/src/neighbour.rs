//! A second user of the machines: a thread that writes stamped blocks to another volume, past every cache, and reads
//! them back. It stands for everybody who must not notice that a site they do not run in is lost.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::RngExt;

use crate::error::{DemoError, Result, io};
use crate::filesystem::{BLOCK_BYTES, aligned, open_direct};

/// A user that waits for each write, and thinks a little in between.
const THINK: Duration = Duration::from_millis(8);

/// Since the neighbour began, or since [`Neighbour::mark`].
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub writes: u64,
    /// Between two acknowledged writes, the one under way included.
    pub longest_pause: Duration,
}

#[derive(Debug)]
struct State {
    window: Window,
    last: Instant,
    /// What ended it before it was told to.
    failure: Option<String>,
}

#[derive(Debug)]
pub struct Neighbour {
    pub name: String,
    device: PathBuf,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<u64>>>,
}

impl Neighbour {
    /// Begins to write to the first `blocks` blocks of the device.
    pub fn start(name: &str, device: &Path, blocks: usize) -> Result<Self> {
        let file = open_direct(device)?;
        let window = Window { writes: 0, longest_pause: Duration::ZERO };
        let state = Arc::new(Mutex::new(State { window, last: Instant::now(), failure: None }));
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, until) = (state.clone(), stop.clone());
        let thread = std::thread::spawn(move || work(&file, blocks, &theirs, &until));
        Ok(Self { name: name.into(), device: device.into(), state, stop, thread: Some(thread) })
    }

    /// What is counted from now on is a new window.
    pub fn mark(&self) {
        self.lock().window = Window { writes: 0, longest_pause: Duration::ZERO };
    }

    pub fn window(&self) -> Result<Window> {
        let state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(DemoError::Broken(format!("the neighbour {}: {failure}", self.name)));
        }
        let longest_pause = state.window.longest_pause.max(state.last.elapsed());
        Ok(Window { longest_pause, ..state.window })
    }

    /// Ends it and reads every block once more. Answers how many hold what was last written to them.
    pub fn finish(mut self) -> Result<usize> {
        let generations = self.join();
        self.window()?;
        let file = open_direct(&self.device)?;
        let mut memory = vec![0; 2 * BLOCK_BYTES];
        let written = generations.iter().enumerate().filter(|(_, generation)| **generation > 0);
        for (block, generation) in written {
            read_back(&file, &mut memory, block, *generation)
                .map_err(|why| DemoError::Broken(format!("the neighbour {}: {why}", self.name)))?;
        }
        Ok(generations.iter().filter(|generation| **generation > 0).count())
    }

    /// Lets the thread end. It does so at its next answer from the device.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn join(&mut self) -> Vec<u64> {
        self.stop();
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

/// Answers the generation of every block.
fn work(file: &File, blocks: usize, state: &Mutex<State>, stop: &AtomicBool) -> Vec<u64> {
    let mut generations = vec![0; blocks];
    let mut memory = vec![0; 2 * BLOCK_BYTES];
    while !stop.load(Ordering::Relaxed) {
        let (target, probe) = (rand::rng().random_range(0..blocks), rand::rng().random_range(0..blocks));
        let next = generations[target] + 1;
        let done = write_stamp(file, &mut memory, target, next)
            .map_err(io("write", format!("block {target}")))
            .map_err(|e| e.to_string());
        if done.is_ok() {
            generations[target] = next;
            count(&mut state.lock().expect("no holder of this lock panics"));
        }
        let done = done.and_then(|()| read_back(file, &mut memory, probe, generations[probe]));
        if let Err(failure) = done {
            state.lock().expect("no holder of this lock panics").failure = Some(failure);
            break;
        }
        std::thread::sleep(THINK);
    }
    generations
}

fn count(state: &mut State) {
    let now = Instant::now();
    let pause = now - state.last;
    state.window.writes += 1;
    state.window.longest_pause = state.window.longest_pause.max(pause);
    state.last = now;
}

fn write_stamp(file: &File, memory: &mut [u8], block: usize, generation: u64) -> std::io::Result<()> {
    let bytes = aligned(memory);
    stamp(bytes, block, generation);
    file.write_all_at(bytes, (block * BLOCK_BYTES) as u64)
}

fn read_back(file: &File, memory: &mut [u8], block: usize, generation: u64) -> std::result::Result<(), String> {
    let found = aligned(memory);
    file.read_exact_at(found, (block * BLOCK_BYTES) as u64).map_err(|e| format!("read block {block}: {e}"))?;
    let mut wanted = vec![0; BLOCK_BYTES];
    // Nothing was written yet: whatever is there is not ours to judge.
    if generation == 0 {
        return Ok(());
    }
    stamp(&mut wanted, block, generation);
    if *found == wanted {
        return Ok(());
    }
    let word = |at: usize| found[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
    Err(format!("block {block} must hold generation {generation} and holds {} of block {}", word(8), word(0)))
}

/// Every byte depends on the block and the generation, so that a torn or misplaced block shows.
fn stamp(bytes: &mut [u8], block: usize, generation: u64) {
    let mut word = (block as u64).rotate_left(32) ^ generation;
    for chunk in bytes.chunks_exact_mut(8) {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes[..8].copy_from_slice(&(block as u64).to_le_bytes());
    bytes[8..16].copy_from_slice(&generation.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    const BLOCKS: usize = 8;

    fn image(dir: &Path) -> PathBuf {
        let path = dir.join("image");
        File::create(&path).unwrap().set_len((BLOCKS * BLOCK_BYTES) as u64).unwrap();
        path
    }

    fn wait_for_writes(neighbour: &Neighbour, writes: u64) {
        wait::until("the neighbour's writes", Duration::from_secs(60), THINK, || {
            let window = neighbour.window()?;
            Ok(if window.writes >= writes { Ok(()) } else { Err(format!("{window:?}")) })
        })
        .unwrap();
    }

    #[test]
    fn it_writes_and_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let neighbour = Neighbour::start("test", &image(dir.path()), BLOCKS).unwrap();
        wait_for_writes(&neighbour, 20);
        neighbour.mark();
        assert!(neighbour.window().unwrap().writes < 20);
        wait_for_writes(&neighbour, 5);
        assert!(neighbour.finish().unwrap() > 0);
    }

    #[test]
    fn a_changed_block_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = image(dir.path());
        let mut neighbour = Neighbour::start("test", &path, BLOCKS).unwrap();
        wait_for_writes(&neighbour, 30);
        let generations = neighbour.join();
        let block = generations.iter().position(|g| *g > 0).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff], (block * BLOCK_BYTES + BLOCK_BYTES - 1) as u64).unwrap();
        let direct = open_direct(&path).unwrap();
        let mut memory = vec![0; 2 * BLOCK_BYTES];
        assert!(read_back(&direct, &mut memory, block, generations[block]).is_err());
    }
}
