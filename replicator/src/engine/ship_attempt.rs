//! One attempt to ship an image: what is said to its target, what came of that, and how far it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use super::node::Shared;
use super::rpc::Call;
use super::ship::PAGE_PATIENCE;
use super::ship_counts::add;
use crate::control::OpError;
use crate::transport::PeerName;

pub(super) struct Attempt {
    shared: Arc<Shared>,
    pub peer: PeerName,
    /// Bytes of blocks in pages that were sent.
    pub sent_bytes: AtomicU64,
    /// Pages that the target has staged.
    pub answered: AtomicU64,
    /// The target could not be asked, or gave no answer: the link is at fault, or its daemon is gone.
    unheard: AtomicBool,
    pub progress: Arc<Progress>,
}

impl Attempt {
    pub fn new(shared: &Arc<Shared>, peer: &PeerName, progress: &Arc<Progress>) -> Arc<Attempt> {
        let (sent_bytes, answered, unheard) = Default::default();
        let (shared, peer, progress) = (shared.clone(), peer.clone(), progress.clone());
        Arc::new(Attempt { shared, peer, sent_bytes, answered, unheard, progress })
    }

    pub async fn call(&self, call: &Call) -> Result<Bytes, OpError> {
        let answer = self.shared.calls.ask(&self.shared.transport, &self.peer, call, PAGE_PATIENCE).await;
        answer.unwrap_or_else(|error| Err(self.unheard(error)))
    }

    pub fn unheard(&self, error: OpError) -> OpError {
        self.unheard.store(true, Ordering::Relaxed);
        error
    }

    /// It brought nothing, and that was not for lack of a link.
    pub fn was_fruitless(&self) -> bool {
        self.brought_nothing() && !self.unheard.load(Ordering::Relaxed)
    }

    pub fn brought_nothing(&self) -> bool {
        self.answered.load(Ordering::Relaxed) == 0
    }
}

/// Of one shipment, all attempts of this daemon together: bytes of blocks that hold data, as they are listed, whether or
/// not they had to be sent.
#[derive(Debug, Default)]
pub struct Progress {
    done_bytes: AtomicU64,
    /// As far as it is counted.
    all_bytes: AtomicU64,
    counted: AtomicBool,
}

impl Progress {
    pub fn done(&self, bytes: u64) {
        add(&self.done_bytes, bytes);
    }

    /// An attempt begins, and counts what it has before it.
    pub fn begin(&self) {
        self.counted.store(false, Ordering::Relaxed);
        self.all_bytes.store(self.done_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub fn to_do(&self, bytes: u64) {
        add(&self.all_bytes, bytes);
    }

    pub fn all_counted(&self) {
        self.counted.store(true, Ordering::Relaxed);
    }

    /// Shipped, and to ship in all; that is 0 as long as it is not known.
    pub fn read(&self) -> (u64, u64) {
        let done = self.done_bytes.load(Ordering::Relaxed);
        match self.counted.load(Ordering::Relaxed) {
            true => (done, self.all_bytes.load(Ordering::Relaxed).max(done)),
            false => (done, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_attempts_shipped_is_shipped() {
        let progress = Progress::default();
        progress.begin();
        for bytes in [30, 70] {
            progress.to_do(bytes);
        }
        progress.done(10);
        assert_eq!(progress.read(), (10, 0), "not counted yet");
        progress.all_counted();
        assert_eq!(progress.read(), (10, 100));
        progress.done(20);
        progress.begin();
        // Its target lost 5 with a restart.
        progress.to_do(75);
        progress.all_counted();
        assert_eq!(progress.read(), (30, 105));
    }
}
