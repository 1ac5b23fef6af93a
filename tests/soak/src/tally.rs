//! What is counted over a whole run, and said in its closing line.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use farshore_tests::cluster::Ledger;

#[derive(Default)]
pub struct Tally {
    pub kills: AtomicU64,
    pub cuts: AtomicU64,
    pub stops: AtomicU64,
    pub partitions: AtomicU64,
    pub moves: AtomicU64,
    pub acked: AtomicU64,
    ledgers: Mutex<Vec<Arc<Ledger>>>,
}

impl Tally {
    pub fn add(counter: &AtomicU64, more: usize) {
        counter.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub fn keep(&self, ledger: &Arc<Ledger>) {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner).push(ledger.clone());
    }

    pub fn lost(&self) -> u64 {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|ledger| ledger.lost()).sum()
    }

    pub fn closing_line(&self) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!("soak: {} kills, {} cuts, lost {}", of(&self.kills), of(&self.cuts), self.lost())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (stops, partitions, moves) = (of(&self.stops), of(&self.partitions), of(&self.moves));
        let acked = of(&self.acked);
        write!(f, "{stops} stops, {partitions} partitions, {moves} moves of a primary, {acked} writes acknowledged")
    }
}
