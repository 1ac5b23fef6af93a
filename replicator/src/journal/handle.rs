//! The journal as others hold it: append, marks, status, close; and the state that its threads share.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use farshore_core::ids::{Seq, VolumeId};
use farshore_core::journal::entry::{Entry, LogEnd};
use farshore_core::journal::found::RecoveredVolume;
use farshore_core::journal::log::{Log, LogError, Place};
use farshore_core::journal::queue::Queue;
use farshore_core::journal::recovery::Rule;
use farshore_core::journal::segments::Segments;
use farshore_core::record::{Record, RecordHash};

use super::burnt::Marks;
use super::cache::Cache;
use super::config::{JournalConfig, JournalStatus};
use super::error::JournalError;
use super::open;
use super::writer::Writer;
use crate::disk::{DiskEngine, DiskFile, start_engine};
use crate::latency::{Latency, LatencyReading};

/// Called once, from the journal's thread, when the append is durable or never will be. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

/// A node's journal. Clones share it; the last one to go closes it.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer, the readers and the owners share. Locks are taken in the order queue, index.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) journal: u128,
    pub(super) segment_bytes: u64,
    pub(super) engine: Arc<dyn DiskEngine>,
    queue: Mutex<Queue<Done>>,
    wake: Condvar,
    index: Mutex<Index>,
    /// What each volume that has a log may hold, whatever the others do.
    share_bytes: AtomicU64,
    pub(super) marks: Marks,
    /// Of each group: its write and its sync.
    pub(super) sync_latency: Latency,
    /// What was noted of an earlier failure, when it was opened.
    burnt: Option<String>,
    /// Held until the last user of the directory is gone.
    _lock: File,
}

/// What is durable, and where.
pub(super) struct Index {
    pub(super) log: Log,
    pub(super) segments: Segments<Arc<DiskFile>>,
    pub(super) cache: Cache,
    /// Bytes of each volume's records after its checkpoint.
    pub(super) needed: BTreeMap<VolumeId, u64>,
    pub(super) poisoned: Option<String>,
    pub(super) rule: Rule,
    /// Counters only; the rest is filled in when asked.
    pub(super) status: JournalStatus,
}

impl Index {
    /// One entry is durable.
    pub(super) fn learn(&mut self, entry: &Entry, hash: RecordHash, place: Place) -> Result<(), LogError> {
        self.log.apply(entry, hash, place)?;
        self.segments.note(entry);
        let volume = entry.volume();
        match entry {
            Entry::Record(record) => {
                *self.needed.entry(volume).or_default() += u64::from(place.len);
                self.cache.insert(record.clone());
            }
            Entry::Truncate { after, .. } => {
                self.cache.truncate(volume, *after);
                self.recount(volume);
            }
            Entry::Forget { .. } | Entry::Restart { .. } => {
                self.cache.truncate(volume, Seq::ZERO);
                self.needed.remove(&volume);
            }
            Entry::Meta { .. } => {}
        }
        Ok(())
    }

    /// A copy of a record is durable.
    pub(super) fn learn_moved(&mut self, record: &Record, place: Place) {
        self.log.apply_moved(record, record.hash(), place);
        self.segments.note_newest(record.volume, record.seq);
    }

    pub(super) fn share_bytes(&self) -> u64 {
        self.segments.share_bytes(self.log.volumes.values().filter(|log| log.has_log()).count())
    }

    pub(super) fn recount(&mut self, volume: VolumeId) {
        let checkpoint = self.segments.marks.get(&volume).copied().unwrap_or_default().checkpoint;
        let bytes = self.log.volumes.get(&volume).map_or(0, |log| log.bytes_after(checkpoint));
        self.needed.insert(volume, bytes);
    }
}

impl Shared {
    pub(super) fn new(
        config: &JournalConfig,
        journal: u128,
        segment_bytes: u64,
        engine: Arc<dyn DiskEngine>,
        lock: File,
        index: Index,
    ) -> Shared {
        let queue = Queue::new(index.log.clone(), segment_bytes);
        let marks = Marks::new(config, journal);
        let share_bytes = AtomicU64::new(index.share_bytes());
        Shared {
            dir: config.dir.clone(),
            journal,
            segment_bytes,
            engine,
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            index: Mutex::new(index),
            share_bytes,
            burnt: marks.found(),
            marks,
            sync_latency: Latency::default(),
            _lock: lock,
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue<Done>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'a>(&self, queue: MutexGuard<'a, Queue<Done>>) -> MutexGuard<'a, Queue<Done>> {
        self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }

    /// Another volume may have got its first record, or have been forgotten.
    pub(super) fn share(&self, index: &Index) {
        self.share_bytes.store(index.share_bytes(), Ordering::Relaxed);
    }

    /// Something changed that may let the writer go on.
    pub(super) fn kick(&self) {
        self.queue().kicks += 1;
        self.wake.notify_all();
    }
}

impl Journal {
    /// Opens or creates the journal in `config.dir`, recovers it, and starts its thread.
    pub fn open(config: JournalConfig) -> Result<(Journal, Vec<RecoveredVolume>), JournalError> {
        let engine = start_engine(config.engine).map_err(JournalError::io("start io_uring for", &config.dir))?;
        Journal::open_on(config, engine)
    }

    /// Opens it on an engine of the caller's, which tests use to make disks fail.
    pub fn open_on(
        config: JournalConfig,
        engine: Arc<dyn DiskEngine>,
    ) -> Result<(Journal, Vec<RecoveredVolume>), JournalError> {
        let (writer, volumes) = open::open(&config, engine)?;
        let shared = writer.shared.clone();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || Writer::run(writer))
            .map_err(JournalError::io("start a thread for", &config.dir))?;
        Ok((Journal { inner: Arc::new(Inner { shared, writer: Mutex::new(Some(thread)) }) }, volumes))
    }

    /// Queues entries to be made durable. `done` is called exactly once; for entries of one volume in the order of the
    /// appends, except that metadata may pass records that wait for space. An append that fits into one group is whole
    /// or absent after a crash. Never blocks on the disk. Metadata that shares an append with user data waits with it.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        // Hashing is the dearest part; it is done here, on the caller's thread and outside of the lock.
        let hash =
            |entry: &Entry| if let Entry::Record(record) = entry { record.hash() } else { RecordHash::default() };
        let entries =
            entries.into_iter().map(|entry| (hash(&entry), entry)).map(|(hash, entry)| (entry, hash)).collect();
        let unanswered = self.shared().queue().push(entries, done);
        self.shared().wake.notify_all();
        if let Some(done) = unanswered {
            done(Err(JournalError::Closed));
        }
    }

    /// First seq that can be read; last + 1 if none can.
    pub fn floor(&self, volume: VolumeId) -> Seq {
        self.shared().index().log.volumes.get(&volume).map_or(Seq(1), |log| log.floor())
    }

    /// The first of a volume's records that is not being written yet: it waits for its turn, or for space.
    pub fn first_waiting(&self, volume: VolumeId) -> Option<Seq> {
        self.shared().queue().first_waiting(volume)
    }

    /// Records up to `seq` are in the store for good: not needed for redo any more. Never goes back. After opening, and
    /// after a restart of the volume's log, nothing counts as checkpointed until this is called: call it soon.
    pub fn set_checkpoint(&self, volume: VolumeId, seq: Seq) {
        let mut index = self.shared().index();
        let marks = index.segments.marks.entry(volume).or_default();
        marks.checkpoint = marks.checkpoint.max(seq);
        index.recount(volume);
        index.segments.allocation_error = None;
        drop(index);
        self.shared().kick();
    }

    /// Records after `seq` are still wanted for catch-up; they are kept until space is short. Never goes back.
    pub fn set_keep(&self, volume: VolumeId, seq: Seq) {
        let mut index = self.shared().index();
        let marks = index.segments.marks.entry(volume).or_default();
        marks.keep = marks.keep.max(seq);
        drop(index);
        self.shared().kick();
    }

    /// Tries again to grow to the budget after the disk had no room for it.
    pub fn grow_again(&self) {
        let failed = self.shared().index().segments.allocation_error.take();
        if failed.is_some() {
            self.shared().kick();
        }
    }

    /// The log's end if it ended at `seq`: known for what is retained and for the record before it.
    pub fn end_at(&self, volume: VolumeId, seq: Seq) -> Option<LogEnd> {
        let index = self.shared().index();
        let log = index.log.volumes.get(&volume)?;
        let known = seq >= log.base().seq && seq <= log.last_seq();
        Some(log.end_at(seq)).filter(|end| known && end.hash != RecordHash::default())
    }

    pub fn is_poisoned(&self) -> bool {
        self.shared().index().poisoned.is_some()
    }

    /// Bytes that wait to be written; beyond [`super::QUEUE_BYTES_MAX`] appends are refused.
    pub fn queued_bytes(&self) -> u64 {
        self.shared().queue().bytes()
    }

    /// What each volume with a log holds here for sure, whatever the others do. Less, when more volumes come.
    pub fn share_bytes(&self) -> u64 {
        self.shared().share_bytes.load(Ordering::Relaxed)
    }

    /// What that would be for so many volumes.
    pub fn share_bytes_of(&self, volumes: usize) -> u64 {
        self.shared().index().segments.share_bytes(volumes)
    }

    pub fn status(&self) -> JournalStatus {
        let shared = self.shared();
        let queue = shared.queue();
        let index = shared.index();
        let segments = &index.segments;
        let holders = segments.holders(&index.log, segments.space_is_short());
        JournalStatus {
            engine: shared.engine.name().to_owned(),
            direct: segments.files.first().is_some_and(|file| file.direct),
            segment_bytes: shared.segment_bytes,
            segments_max: segments.max.into(),
            segments_total: segments.total().into(),
            segments_used: segments.live.len() as u64,
            used_bytes: segments.live.iter().map(|segment| segment.used_bytes).sum(),
            budget_bytes: u64::from(segments.max) * shared.segment_bytes,
            queued_bytes: queue.bytes(),
            queued_submissions: queue.len() as u64,
            waiting_submissions: queue.blocked as u64,
            cached_bytes: index.cache.bytes() as u64,
            floor_held_by: holders.iter().map(VolumeId::to_string).collect(),
            allocation_error: segments.allocation_error.clone(),
            poisoned: index.poisoned.clone(),
            recovery_rule: format!("{:?}", index.rule),
            ..index.status.clone()
        }
    }

    /// How long writes and syncs of groups took since it was opened.
    pub fn sync_latency(&self) -> LatencyReading {
        self.shared().sync_latency.read()
    }

    /// Why the replicas in this journal must begin a new life before they answer anything: a write or sync failed when
    /// it was last used.
    pub fn burnt(&self) -> Option<&str> {
        self.shared().burnt.as_deref()
    }

    /// They have begun it, durably.
    pub fn reborn(&self) -> std::io::Result<()> {
        self.shared().marks.clear()
    }

    /// Writes what is queued and can be written, fails the rest with [`JournalError::Closed`], and stops the thread.
    pub fn close(&self) {
        self.inner.close();
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.inner.shared
    }
}

impl Inner {
    fn close(&self) {
        self.shared.queue().closing = true;
        self.shared.kick();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A completion may hold the last handle: the thread cannot wait for itself.
            if writer.thread().id() != std::thread::current().id() && writer.join().is_err() {
                tracing::error!("the journal's thread panicked");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}
