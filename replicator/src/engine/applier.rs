//! Applies acked records from the journal to the store, one batch after the other.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farshore_core::api::Event;
use farshore_core::ids::{Seq, VolumeId};

use super::driver::lock;
use super::inbox::Inbox;
use super::node::Shared;
use crate::journal::ReadError;
use crate::store::{ErrorClass, StoreError};

/// Record bytes applied in one go.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Records to apply are gathered for so long, unless there are many: a client that waits for each write must not share
/// disk and cores with the applying of the one before. What is not applied yet is read from memory.
const GATHER: Duration = Duration::from_millis(5);
const GATHERED_RECORDS_MAX: u64 = 64;
/// Pause before a batch that failed (disk full) is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Between two looks at whether it is over.
const HALT_PAUSE: Duration = Duration::from_millis(10);

#[derive(Default)]
struct State {
    applied: Seq,
    wanted: Seq,
    /// Where the log ended when this life began. Whatever of it was applied before is the store's again, whole, only
    /// once it is applied anew.
    found_end: Seq,
    running: bool,
    /// The volume is stopped: nothing more is applied in this life.
    halted: bool,
    stopped: Option<String>,
}

pub struct Applier {
    volume: VolumeId,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    state: Mutex<State>,
}

impl Applier {
    pub fn new(volume: VolumeId, shared: Arc<Shared>, inbox: Arc<Inbox>, applied: Seq, found_end: Seq) -> Applier {
        let state = State { applied, wanted: applied, found_end, ..State::default() };
        Applier { volume, shared, inbox, state: Mutex::new(state) }
    }

    /// Is what the store shows an image of one moment? Not while there is something to redo after a restart; `durable`:
    /// where the log ends now.
    pub fn is_whole(&self, durable: Seq) -> bool {
        let state = lock(&self.state);
        state.applied >= state.found_end.min(durable)
    }

    /// Witnesses have no store.
    pub fn has_store(&self) -> bool {
        self.shared.store.volumes().iter().any(|v| v.volume == self.volume)
    }

    /// Why applying stands still, if it does.
    pub fn stopped(&self) -> Option<String> {
        lock(&self.state).stopped.clone()
    }

    pub fn apply(self: &Arc<Self>, upto: Seq) {
        let mut state = lock(&self.state);
        state.wanted = state.wanted.max(upto);
        if !state.running && !state.halted {
            state.running = true;
            let few = state.wanted.since(state.applied) < GATHERED_RECORDS_MAX;
            drop(state);
            let applier = self.clone();
            tokio::spawn(async move {
                if few {
                    tokio::time::sleep(GATHER).await;
                }
                tokio::task::spawn_blocking(move || applier.run());
            });
        }
    }

    /// Applies nothing more; returns when what was under way has ended.
    pub async fn halt(&self) {
        lock(&self.state).halted = true;
        while lock(&self.state).running {
            tokio::time::sleep(HALT_PAUSE).await;
        }
    }

    /// The image was replaced as a whole.
    pub fn jump_to(&self, seq: Seq) {
        let mut state = lock(&self.state);
        state.applied = seq;
        state.wanted = seq;
        state.found_end = Seq::ZERO;
    }

    fn run(&self) {
        loop {
            let (from, upto) = {
                let mut state = lock(&self.state);
                if state.applied >= state.wanted || state.halted {
                    state.running = false;
                    return;
                }
                (state.applied.next(), state.wanted)
            };
            match self.batch(from, upto) {
                Ok(applied) => {
                    lock(&self.state).stopped = None;
                    self.inbox.event(Event::Applied { seq: applied });
                }
                Err(Stop::Retry(reason)) => {
                    let news = lock(&self.state).stopped.replace(reason.clone()).is_none();
                    if news {
                        tracing::warn!(volume = %self.volume, reason, "applying waits");
                    }
                    let until = Instant::now() + RETRY;
                    while Instant::now() < until && !lock(&self.state).halted {
                        std::thread::sleep(HALT_PAUSE);
                    }
                }
                Err(Stop::For(reason)) => {
                    tracing::error!(volume = %self.volume, reason, "applying stopped");
                    let mut state = lock(&self.state);
                    state.stopped = Some(reason.clone());
                    state.running = false;
                    drop(state);
                    self.inbox.event(Event::JournalFailed { reason });
                    return;
                }
            }
        }
    }

    fn batch(&self, from: Seq, upto: Seq) -> Result<Seq, Stop> {
        let mut records =
            self.shared.journal.read(self.volume, from, BATCH_BYTES_MAX).map_err(|error| match error {
                ReadError::BelowFloor { .. } => Stop::For(format!("record {from} is no longer in the journal")),
                other => Stop::Retry(other.to_string()),
            })?;
        records.retain(|r| r.seq <= upto);
        let Some(last) = records.last() else { return Err(Stop::Retry(format!("record {from} is not readable yet"))) };
        let last_seq = last.seq;
        let applied = self.shared.store.apply(self.volume, &records).map_err(stop_of)?;
        let mut state = lock(&self.state);
        state.applied = applied.min(last_seq).max(state.applied);
        Ok(state.applied)
    }
}

#[derive(Debug)]
enum Stop {
    /// The same batch may succeed later.
    Retry(String),
    /// This incarnation is over.
    For(String),
}

/// A mark of a newer version waits for the upgrade of this node: given up for it, the copy would have to be made anew.
fn stop_of(error: StoreError) -> Stop {
    match error.class() {
        ErrorClass::Retry => Stop::Retry(error.to_string()),
        ErrorClass::Reject | ErrorClass::Repair | ErrorClass::Fatal => Stop::For(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::codec::DecodeError;

    use super::*;

    #[test]
    fn what_an_upgrade_mends_is_waited_for_and_what_nothing_mends_is_not() {
        let volume = VolumeId(1);
        let mark = |source| StoreError::Mark { volume, seq: Seq(7), source };
        let newer = stop_of(mark(DecodeError::Newer { what: "snapshot mark", found: 2, known: 1 }));
        assert!(matches!(&newer, Stop::Retry(reason) if reason.contains("record 7")), "{newer:?}");
        let full = StoreError::Full { needed_bytes: 1, free_bytes: 0, capacity_bytes: 1 };
        assert!(matches!(stop_of(full), Stop::Retry(_)));
        assert!(matches!(stop_of(StoreError::Staging { volume, ship_id: 1 }), Stop::Retry(_)));
        let damaged = mark(DecodeError::Invalid { what: "snapshot mark", reason: "its reserved byte is not zero" });
        assert!(matches!(stop_of(damaged), Stop::For(_)));
        assert!(matches!(stop_of(StoreError::NoVolume { volume }), Stop::For(_)));
    }
}
