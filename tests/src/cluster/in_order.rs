//! A load after which a volume can have but one image for each number of writes: blocks in order, round after round, one
//! at a time. What a snapshot holds is held against that.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::image::{BLOCK_BYTES, Image};
use super::nbd::NbdClient;
use super::wait::eventually;

/// Of the volumes that are written so.
pub const IN_ORDER_BLOCKS: u64 = 256;

/// What block holds after so many writes in order.
pub fn image_after(writes: u64, block: u64) -> Image {
    let rounds = writes / IN_ORDER_BLOCKS + u64::from(block < writes % IN_ORDER_BLOCKS);
    if rounds == 0 { Image::Zeroes } else { Image::Stamp((rounds - 1) * IN_ORDER_BLOCKS + block + 1) }
}

/// After how many writes in order the volume was so; panics where it never was.
#[track_caller]
pub fn writes_in(blocks: &[Image], what: &str) -> u64 {
    let writes = blocks.iter().map(|image| image.stamp()).max().unwrap_or(0);
    for (block, found) in (0..).zip(blocks) {
        let expected = image_after(writes, block);
        assert!(*found == expected, "{what}: block {block} holds {found:?}, not {expected:?} as after {writes} writes");
    }
    writes
}

pub struct InOrder {
    begun: Arc<AtomicU64>,
    acked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl InOrder {
    /// Each write goes to every one of these volumes (an NBD socket and a name) in turn, before the next write.
    pub fn start(targets: Vec<(PathBuf, String)>) -> InOrder {
        let (begun, acked, stop) =
            (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (b, a, s) = (begun.clone(), acked.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let connect =
                |(socket, name): &(PathBuf, String)| eventually("to connect", || NbdClient::connect(socket, name));
            let mut clients: Vec<NbdClient> = targets.iter().map(connect).collect();
            for write in 0_u64.. {
                let block = write % IN_ORDER_BLOCKS;
                for (client, target) in clients.iter_mut().zip(&targets) {
                    b.fetch_add(1, Ordering::SeqCst);
                    // A device whose daemon died is tried again: the same write, so the image is the same.
                    while client.write(block * BLOCK_BYTES as u64, &Image::Stamp(write + 1).bytes(block)).is_err() {
                        if s.load(Ordering::SeqCst) {
                            return;
                        }
                        *client = connect(target);
                    }
                    a.fetch_add(1, Ordering::SeqCst);
                }
                if s.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        InOrder { begun, acked, stop, thread: Some(thread) }
    }

    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    #[track_caller]
    pub fn wait_for(&self, more: u64) {
        let goal = self.acked() + more;
        eventually("more writes", || if self.acked() >= goal { Ok(()) } else { Err(self.acked()) });
    }

    #[track_caller]
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("it runs").join().expect("the writer ends");
    }
}

impl Drop for InOrder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(writes: u64) -> Vec<Image> {
        (0..IN_ORDER_BLOCKS).map(|block| image_after(writes, block)).collect()
    }

    #[test]
    fn every_image_is_of_one_number_of_writes() {
        for writes in [0, 1, 255, 256, 257, 900] {
            assert_eq!(writes_in(&after(writes), "a volume"), writes);
        }
    }

    #[test]
    #[should_panic(expected = "block 3 holds")]
    fn a_write_that_is_missing_is_seen() {
        let mut blocks = after(900);
        blocks[3] = image_after(3, 3);
        writes_in(&blocks, "a volume");
    }
}
