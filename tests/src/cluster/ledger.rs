//! Who wrote what, and what was acknowledged: the judge of every story.
//!
//! Each writer has its own blocks and one request under way, so a block may hold its last acknowledged content, or one
//! that was asked for later and not answered. Once read, it is that and no other.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::RngExt;

use super::image::{BLOCK_BYTES, Image};
use super::nbd::{NbdClient, NbdError};
use super::wait::{PATIENCE, until};

/// Before a writer tries to connect again.
const RECONNECT: Duration = Duration::from_millis(25);

/// Stamps of a fork begin this much later.
const FORKED_STAMPS: u64 = 1 << 32;

/// Per block: what it may hold, oldest first. One entry: that for certain.
pub struct Ledger {
    blocks: Vec<Mutex<Vec<Image>>>,
    next_stamp: AtomicU64,
    lost: AtomicU64,
}

impl Ledger {
    /// Of a volume that is new, hence all zeroes.
    pub fn of_new(blocks: usize) -> Arc<Ledger> {
        let blocks = (0..blocks).map(|_| Mutex::new(vec![Image::Zeroes])).collect();
        Arc::new(Ledger { blocks, next_stamp: AtomicU64::new(1), lost: AtomicU64::new(0) })
    }

    /// The books of a history that parts from this one here and now; what is written next differs in both.
    pub fn fork(&self) -> Arc<Ledger> {
        let blocks = (0..self.len()).map(|block| Mutex::new(self.block(block).clone())).collect();
        let next_stamp = AtomicU64::new(self.next_stamp.load(Ordering::Relaxed) + FORKED_STAMPS);
        Arc::new(Ledger { blocks, next_stamp, lost: AtomicU64::new(0) })
    }

    /// How many blocks there are, and what each may hold that is not zeroes for certain: `256 0=17 9=21|0`.
    pub fn text(&self) -> String {
        let mut out = self.len().to_string();
        for block in 0..self.len() {
            let images = self.block(block).clone();
            if images != [Image::Zeroes] {
                let stamps: Vec<String> = images.iter().map(|image| image.stamp().to_string()).collect();
                let _ = write!(out, " {block}={}", stamps.join("|"));
            }
        }
        out
    }

    /// The books that [`Ledger::text`] wrote down.
    pub fn of_text(text: &str) -> Option<Arc<Ledger>> {
        let mut words = text.split_ascii_whitespace();
        let ledger = Ledger::of_new(words.next()?.parse().ok()?);
        for word in words {
            let (block, stamps) = word.split_once('=')?;
            let images: Option<Vec<Image>> = stamps.split('|').map(|s| s.parse().ok().map(Image::of_stamp)).collect();
            let images = images?;
            let newest = images.iter().map(|image| image.stamp() + 1).max()?;
            ledger.next_stamp.fetch_max(newest, Ordering::Relaxed);
            *ledger.blocks.get(block.parse::<usize>().ok()?)?.lock().unwrap_or_else(PoisonError::into_inner) = images;
        }
        Some(ledger)
    }

    fn block(&self, block: usize) -> MutexGuard<'_, Vec<Image>> {
        self.blocks[block].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the block and books it.
    pub fn write(&self, client: &mut NbdClient, block: usize) -> Result<(), NbdError> {
        let image = Image::Stamp(self.next_stamp.fetch_add(1, Ordering::Relaxed));
        self.block(block).push(image);
        client.write((block * BLOCK_BYTES) as u64, &image.bytes(block as u64))?;
        *self.block(block) = vec![image];
        Ok(())
    }

    pub fn trim(&self, client: &mut NbdClient, block: usize) -> Result<(), NbdError> {
        self.block(block).push(Image::Zeroes);
        client.trim((block * BLOCK_BYTES) as u64, BLOCK_BYTES as u32)?;
        *self.block(block) = vec![Image::Zeroes];
        Ok(())
    }

    /// Reads the block and holds it against the books; from now on it may hold nothing else.
    pub fn check(&self, client: &mut NbdClient, block: usize) -> Result<(), NbdError> {
        let bytes = client.read((block * BLOCK_BYTES) as u64, BLOCK_BYTES)?;
        let found = Image::read(block as u64, &bytes).unwrap_or_else(|damage| {
            self.lost.fetch_add(1, Ordering::Relaxed);
            panic!("{damage}")
        });
        let mut allowed = self.block(block);
        if !allowed.contains(&found) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            panic!("block {block} holds {found:?}, and may hold {allowed:?}: a write was lost");
        }
        *allowed = vec![found];
        Ok(())
    }

    /// Whether the block holds what it may; for those who expect a loss.
    pub fn holds(&self, client: &mut NbdClient, block: usize) -> bool {
        let bytes = client.read((block * BLOCK_BYTES) as u64, BLOCK_BYTES);
        let found = bytes.ok().and_then(|bytes| Image::read(block as u64, &bytes).ok());
        found.is_some_and(|found| self.block(block).contains(&found))
    }

    /// Every block, in order.
    #[track_caller]
    pub fn check_all(&self, client: &mut NbdClient) {
        for block in 0..self.blocks.len() {
            self.check(client, block).unwrap_or_else(|error| panic!("reading block {block}: {error:?}"));
        }
    }

    /// Writes every block once.
    #[track_caller]
    pub fn fill(&self, client: &mut NbdClient) {
        for block in 0..self.blocks.len() {
            self.write(client, block).unwrap_or_else(|error| panic!("writing block {block}: {error:?}"));
        }
    }

    /// Blocks that held what they may not, so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

struct Shared {
    ledger: Arc<Ledger>,
    /// Where the volume is now; writers follow.
    target: Mutex<PathBuf>,
    volume: String,
    stopping: AtomicBool,
    acked: AtomicU64,
    failed: AtomicU64,
}

/// Threads that write, trim and read back until they are stopped, reconnecting whatever happens to the device.
pub struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    pub fn start(ledger: &Arc<Ledger>, socket: PathBuf, volume: &str, count: usize) -> Writers {
        let shared = Arc::new(Shared {
            ledger: ledger.clone(),
            target: Mutex::new(socket),
            volume: volume.into(),
            stopping: AtomicBool::new(false),
            acked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let threads = (0..count)
            .map(|index| {
                let shared = shared.clone();
                std::thread::spawn(move || shared.work(index, count))
            })
            .collect();
        Writers { shared, threads }
    }

    /// The volume moved: connect there from now on.
    pub fn follow(&self, socket: PathBuf) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = socket;
    }

    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// Requests that got no answer, or an error.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Waits until this many more were acknowledged.
    #[track_caller]
    pub fn wait_for(&self, more: u64) {
        self.wait_for_within(more, PATIENCE);
    }

    #[track_caller]
    pub fn wait_for_within(&self, more: u64, patience: Duration) {
        let goal = self.acked() + more;
        until(&format!("{more} more acknowledged writes of {}", self.shared.volume), patience, || {
            self.panicked();
            let acked = self.acked();
            if acked >= goal { Ok(()) } else { Err(format!("{acked} of {goal}")) }
        });
    }

    fn panicked(&self) {
        assert!(
            self.shared.stopping.load(Ordering::Relaxed) || self.threads.iter().all(|t| !t.is_finished()),
            "a writer found a lost write, see above"
        );
    }

    /// Ends the writers after their requests under way; returns how many were acknowledged.
    #[track_caller]
    pub fn stop(mut self) -> u64 {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok(), "a writer found a lost write, see above");
        }
        self.acked()
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn work(&self, index: usize, count: usize) {
        while !self.stopping.load(Ordering::Relaxed) {
            let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Ok(mut client) = NbdClient::connect(&target, &self.volume) else {
                std::thread::sleep(RECONNECT);
                continue;
            };
            while !self.stopping.load(Ordering::Relaxed) {
                if let Err(_broken) = self.step(&mut client, index, count) {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(RECONNECT);
                    break;
                }
            }
        }
    }

    /// Mostly writes; some trims, reads and flushes between them.
    fn step(&self, client: &mut NbdClient, index: usize, count: usize) -> Result<(), NbdError> {
        let mut dice = rand::rng();
        let block = dice.random_range(0..self.ledger.len() / count) * count + index;
        match dice.random_range(0..16) {
            0 => self.ledger.trim(client, block)?,
            1..4 => return self.ledger.check(client, block),
            4 => return client.flush(),
            _ => self.ledger.write(client, block)?,
        }
        self.acked.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_read_as_they_were_written() {
        for text in ["3", "4 1=7 3=0|8"] {
            assert_eq!(Ledger::of_text(text).expect("good books").text(), text);
        }
        for bad in ["", "x", "4 9=1", "4 1", "4 1=", "4 1=x"] {
            assert!(Ledger::of_text(bad).is_none(), "{bad:?}");
        }
    }
}
