//! What waits to be written, and who goes next.
//!
//! Entries of one volume keep their order, with one exception: metadata passes what waits for space (a promise must be
//! possible on a full journal), and older metadata that waits is dropped for it. A truncation or restart makes moot what
//! waits and would be hidden by it: that is cancelled, else it would wait for space that only it can free.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::{Seq, VolumeId};
use crate::journal::entry::{Entry, META_BYTES_MAX, SEQ_MAX, VolumeHead, head_len};
use crate::journal::log::{Log, LogError, Place, VolumeLog};
use crate::record::{Kind, RECORD_PAYLOAD_MAX, RecordHash};
use bytes::Bytes;

use crate::journal::group::GROUP_BYTES_MAX;

/// Appends beyond this are refused; callers watch how much is queued and stay well below.
pub const QUEUE_BYTES_MAX: u64 = 512 << 20;
/// A group is closed at this size.
pub const GROUP_TARGET_BYTES: usize = 2 << 20;
/// Distinct volumes in one group; the next group's recap names each.
pub const GROUP_VOLUMES_MAX: usize = 1024;

// A group that just exceeds its target by one record, with a full recap, is still within the format's limit.
const _: () = assert!(GROUP_TARGET_BYTES + RECORD_PAYLOAD_MAX + 512 * GROUP_VOLUMES_MAX < GROUP_BYTES_MAX);

/// Why an append was not taken, or will not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    Closed,
    /// So many bytes wait already.
    Full {
        queued_bytes: u64,
    },
    TooLarge {
        what: &'static str,
        volume: VolumeId,
        bytes: u64,
        limit: u64,
    },
    /// It does not continue its volume's log.
    Refused(LogError),
    /// A later truncation hid it while it waited for space.
    Superseded {
        volume: VolumeId,
    },
}

/// What a submission counts in the queue beyond its bytes, so that empty ones are bounded too.
const SUBMISSION_OVERHEAD_BYTES: usize = 256;

/// Entries that go into one group together.
pub struct Submission<D> {
    /// With each entry its record's hash (zero for others).
    pub entries: Vec<(Entry, RecordHash)>,
    pub bytes: usize,
    volumes: BTreeSet<VolumeId>,
    /// Carries user data: it does not touch the reserve.
    data: bool,
    meta_only: bool,
    /// The last piece of an append is answered, and whatever it made moot with it.
    pub dones: Vec<D>,
}

/// What the next group may hold.
pub struct Room<'a> {
    /// Body bytes.
    pub bytes: usize,
    /// User data may go in, except for these volumes.
    pub data: Option<&'a BTreeSet<VolumeId>>,
}

/// `D` is what the driver answers an append by.
pub struct Queue<D> {
    /// The log as it will be once all that is queued is durable: what an append is checked against.
    pub ahead: Log,
    segment_bytes: u64,
    waiting: VecDeque<Submission<D>>,
    bytes: usize,
    /// To be called back without being written.
    pub refused: Vec<(D, NotTaken)>,
    /// Grows with every event that may let waiting submissions go on.
    pub kicks: u64,
    pub closing: bool,
    /// The writer is gone: nobody will look at the queue again.
    pub ended: bool,
    pub blocked: usize,
}

impl<D> Queue<D> {
    pub fn new(ahead: Log, segment_bytes: u64) -> Queue<D> {
        Queue {
            ahead,
            segment_bytes,
            waiting: VecDeque::new(),
            bytes: 0,
            refused: Vec::new(),
            kicks: 0,
            closing: false,
            ended: false,
            blocked: 0,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes an append, whole or not at all. Hands the completion back if there is no writer any more to call it.
    pub fn push(&mut self, entries: Vec<(Entry, RecordHash)>, done: D) -> Option<D> {
        if self.ended {
            return Some(done);
        }
        self.kicks += 1;
        match self.admit(&entries) {
            Ok(()) => self.enqueue(entries, done),
            Err(error) => self.refused.push((done, error)),
        }
        None
    }

    fn admit(&mut self, entries: &[(Entry, RecordHash)]) -> Result<(), NotTaken> {
        if self.closing {
            return Err(NotTaken::Closed);
        }
        if self.bytes as u64 > QUEUE_BYTES_MAX {
            return Err(NotTaken::Full { queued_bytes: self.bytes() });
        }
        for (entry, _) in entries {
            check_size(entry)?;
            self.check_heads(entry)?;
        }
        // One entry is refused as a whole by itself; and metadata leaves nothing behind that matters here.
        let mut undo: BTreeMap<VolumeId, Undo> = BTreeMap::new();
        for (entry, hash) in entries {
            if entries.len() > 1 && !matches!(entry, Entry::Meta { .. }) {
                undo.entry(entry.volume()).or_insert_with(|| Undo::before(&self.ahead, entry.volume(), entries));
            }
            if let Err(error) = self.admit_one(entry, *hash) {
                undo.into_iter().for_each(|(volume, undo)| undo.carry_out(&mut self.ahead, volume));
                return Err(NotTaken::Refused(error));
            }
        }
        self.ahead.take_recap();
        Ok(())
    }

    /// Every segment begins with the state of all volumes: together they may take a quarter of it.
    fn check_heads(&self, entry: &Entry) -> Result<(), NotTaken> {
        let volume = entry.volume();
        let log = self.ahead.volumes.get(&volume);
        let has = log.and_then(|log| log.meta.as_ref()).map_or(0, Bytes::len);
        let wants = if let Entry::Meta { blob, .. } = entry { blob.len() } else { has };
        if log.is_some() && wants <= has {
            return Ok(());
        }
        let others: usize = self.ahead.volumes.values().map(|log| head_bytes(log.meta.as_ref())).sum();
        let (bytes, limit) = ((others + head_bytes(None) + wants - has) as u64, self.segment_bytes / 4);
        if bytes > limit {
            return Err(NotTaken::TooLarge { what: "with it, the metadata of all volumes", volume, bytes, limit });
        }
        Ok(())
    }

    fn admit_one(&mut self, entry: &Entry, hash: RecordHash) -> Result<(), LogError> {
        if let Entry::Truncate { volume, after } = *entry
            && let Some(log) = self.ahead.volumes.get(&volume)
            && after.next() < log.floor()
        {
            return Err(LogError::Truncation { volume, after, floor: log.floor(), last: log.last_seq() });
        }
        self.ahead.apply(entry, hash, ANYWHERE)
    }

    fn enqueue(&mut self, entries: Vec<(Entry, RecordHash)>, done: D) {
        let mut done = Some(done);
        let limit = PIECE_BYTES_MAX.min(self.segment_bytes as usize / 3);
        let mut pieces = split(entries, limit).into_iter().peekable();
        while let Some(entries) = pieces.next() {
            let done = if pieces.peek().is_none() { done.take() } else { None };
            let submission = Submission::of(entries, done);
            self.bytes += submission.bytes + SUBMISSION_OVERHEAD_BYTES;
            self.waiting.push_back(submission);
        }
    }

    /// The first of a volume's records that nobody has begun to write.
    pub fn first_waiting(&self, volume: VolumeId) -> Option<Seq> {
        let entries = self.waiting.iter().flat_map(|submission| &submission.entries);
        let seqs = entries.filter_map(|(entry, _)| match entry {
            Entry::Record(record) if record.volume == volume => Some(record.seq),
            _ => None,
        });
        seqs.min()
    }

    /// Takes what the next group may hold, in order. Cancelled submissions go to `refused`.
    pub fn form(&mut self, room: &Room) -> Vec<Submission<D>> {
        let mut taken = Vec::new();
        let mut kept: VecDeque<Submission<D>> = VecDeque::new();
        let mut blocked: BTreeSet<VolumeId> = BTreeSet::new();
        let mut volumes: BTreeSet<VolumeId> = BTreeSet::new();
        let mut bytes = 0;
        let mut full = false;
        while let Some(mut submission) = self.waiting.pop_front() {
            if full {
                kept.push_back(submission);
                break;
            }
            let passes = submission.volumes.iter().any(|volume| blocked.contains(volume));
            let mut waits = passes && !submission.meta_only;
            if waits && let Some((volume, after)) = submission.hides() {
                waits = !self.cancel(&mut kept, &mut submission, volume, after);
                if !waits {
                    blocked.remove(&volume);
                }
            }
            let allowed =
                !submission.data || room.data.is_some_and(|over_share| submission.volumes.is_disjoint(over_share));
            if waits || !allowed {
                blocked.extend(&submission.volumes);
                kept.push_back(submission);
                continue;
            }
            volumes.extend(&submission.volumes);
            if bytes + submission.bytes > room.bytes || (volumes.len() > GROUP_VOLUMES_MAX && !taken.is_empty()) {
                full = true;
                kept.push_back(submission);
                continue;
            }
            bytes += submission.bytes;
            if passes {
                self.drop_older_metadata(&mut kept, &submission.volumes);
            }
            taken.push(submission);
        }
        kept.append(&mut self.waiting);
        self.waiting = kept;
        self.blocked = if blocked.is_empty() { 0 } else { self.waiting.len() };
        for submission in &taken {
            self.bytes -= submission.bytes + SUBMISSION_OVERHEAD_BYTES;
        }
        taken
    }

    /// Metadata that passes what waits must not be overwritten by older one that comes to be written after it.
    fn drop_older_metadata(&mut self, kept: &mut VecDeque<Submission<D>>, volumes: &BTreeSet<VolumeId>) {
        for submission in kept {
            submission
                .entries
                .retain(|(entry, _)| !matches!(entry, Entry::Meta { volume, .. } if volumes.contains(volume)));
            let left = submission.entries.iter().map(|(entry, _)| entry.encoded_len()).sum();
            self.bytes -= submission.bytes - left;
            submission.bytes = left;
        }
    }

    /// Cancels the volume's waiting submissions if all of them are moot once `by` is durable.
    fn cancel(
        &mut self,
        kept: &mut VecDeque<Submission<D>>,
        by: &mut Submission<D>,
        volume: VolumeId,
        after: Seq,
    ) -> bool {
        let has = |of: fn(&Entry) -> bool| by.entries.iter().any(|(entry, _)| of(entry));
        let restarts = has(|entry| matches!(entry, Entry::Restart { .. } | Entry::Forget { .. }));
        let renews = has(|entry| matches!(entry, Entry::Meta { .. } | Entry::Forget { .. }));
        let concerns = |submission: &Submission<D>| submission.volumes.contains(&volume);
        let moot = |submission: &Submission<D>| {
            submission.volumes.len() == 1
                && submission.entries.iter().all(|(entry, _)| match entry {
                    Entry::Record(record) => record.seq > after,
                    Entry::Truncate { after: earlier, .. } => *earlier >= after,
                    Entry::Restart { .. } | Entry::Forget { .. } => restarts,
                    Entry::Meta { .. } => renews,
                })
        };
        if kept.iter().any(|submission| concerns(submission) && !moot(submission)) {
            return false;
        }
        let mut answered = Vec::new();
        for mut submission in std::mem::take(kept) {
            if !concerns(&submission) {
                kept.push_back(submission);
                continue;
            }
            self.bytes -= submission.bytes + SUBMISSION_OVERHEAD_BYTES;
            let records = submission.entries.iter().all(|(entry, _)| matches!(entry, Entry::Record(_)));
            if records {
                let dones = submission.dones.drain(..);
                self.refused.extend(dones.map(|done| (done, NotTaken::Superseded { volume })));
            } else {
                // What rests on a state or a cut is true once the one that replaces it is durable.
                answered.append(&mut submission.dones);
            }
        }
        answered.append(&mut by.dones);
        by.dones = answered;
        true
    }

    /// Everything that waits, to be told that it failed.
    pub fn drain(&mut self) -> Vec<D> {
        self.bytes = 0;
        self.blocked = 0;
        self.waiting.drain(..).flat_map(|submission| submission.dones).collect()
    }
}

/// Any place but nowhere: records ahead are not lost.
const ANYWHERE: Place = Place { segment: 0, offset: 0, len: 1 };

/// How to take back what a refused append had done to the log ahead.
enum Undo {
    /// Only records at the end were added: cut them off.
    CutAfter(Seq),
    Whole(Box<Option<VolumeLog>>),
}

impl Undo {
    fn before(ahead: &Log, volume: VolumeId, entries: &[(Entry, RecordHash)]) -> Undo {
        let log = ahead.volumes.get(&volume);
        let grows = |log: &VolumeLog, entry: &Entry| match entry {
            Entry::Record(record) => record.seq > log.last_seq(),
            Entry::Meta { .. } => true,
            _ => false,
        };
        let mut of_volume = entries.iter().map(|(entry, _)| entry).filter(|entry| entry.volume() == volume);
        match log {
            Some(log) if log.has_log() && of_volume.all(|entry| grows(log, entry)) => Undo::CutAfter(log.last_seq()),
            log => Undo::Whole(Box::new(log.cloned())),
        }
    }

    fn carry_out(self, ahead: &mut Log, volume: VolumeId) {
        match self {
            Undo::CutAfter(after) => {
                let cut = Entry::Truncate { volume, after };
                // A truncation is never refused here.
                let _ = ahead.apply(&cut, RecordHash::default(), ANYWHERE);
            }
            Undo::Whole(log) => {
                ahead.volumes.remove(&volume);
                if let Some(log) = *log {
                    ahead.volumes.insert(volume, log);
                }
            }
        }
        ahead.take_recap();
    }
}

fn head_bytes(meta: Option<&Bytes>) -> usize {
    head_len(&VolumeHead { volume: VolumeId(0), meta: meta.cloned(), log: None })
}

fn check_size(entry: &Entry) -> Result<(), NotTaken> {
    let volume = entry.volume();
    let too_large = |what, bytes: u64, limit: u64| Err(NotTaken::TooLarge { what, volume, bytes, limit });
    let seq = match entry {
        Entry::Meta { blob, .. } if blob.len() > META_BYTES_MAX => {
            return too_large("metadata", blob.len() as u64, META_BYTES_MAX as u64);
        }
        Entry::Record(record) if record.payload.len() > RECORD_PAYLOAD_MAX => {
            let limit = RECORD_PAYLOAD_MAX as u64;
            return too_large("a record", record.payload.len() as u64, limit);
        }
        Entry::Record(record) => record.seq,
        Entry::Truncate { after, .. } => *after,
        Entry::Restart { end, .. } => end.seq,
        Entry::Meta { .. } | Entry::Forget { .. } => Seq::ZERO,
    };
    if seq > SEQ_MAX { too_large("a seq", seq.0, SEQ_MAX.0) } else { Ok(()) }
}

/// An append that is too long for one group becomes several.
fn split(entries: Vec<(Entry, RecordHash)>, limit: usize) -> Vec<Vec<(Entry, RecordHash)>> {
    let mut pieces = vec![Vec::new()];
    let mut bytes = 0;
    for entry in entries {
        let len = entry.0.encoded_len();
        if bytes + len > limit && bytes > 0 {
            pieces.push(Vec::new());
            bytes = 0;
        }
        bytes += len;
        pieces.last_mut().expect("there is always a last piece").push(entry);
    }
    pieces
}

/// One record of the largest size fits, and a piece fits into the smallest segment's groups.
const PIECE_BYTES_MAX: usize = GROUP_TARGET_BYTES / 2 + (64 << 10);

impl<D> Submission<D> {
    fn of(entries: Vec<(Entry, RecordHash)>, done: Option<D>) -> Submission<D> {
        let user_data = |entry: &Entry| matches!(entry, Entry::Record(record) if matches!(record.kind, Kind::Write | Kind::Discard | Kind::WriteZeroes));
        Submission {
            bytes: entries.iter().map(|(entry, _)| entry.encoded_len()).sum(),
            volumes: entries.iter().map(|(entry, _)| entry.volume()).collect(),
            data: entries.iter().any(|(entry, _)| user_data(entry)),
            meta_only: entries.iter().all(|(entry, _)| matches!(entry, Entry::Meta { .. })),
            entries,
            dones: done.into_iter().collect(),
        }
    }

    /// If this is about one volume and hides records of it: which.
    fn hides(&self) -> Option<(VolumeId, Seq)> {
        if self.volumes.len() != 1 || self.data {
            return None;
        }
        self.entries.iter().find_map(|(entry, _)| match entry {
            Entry::Truncate { volume, after } => Some((*volume, *after)),
            Entry::Forget { volume } | Entry::Restart { volume, .. } => Some((*volume, Seq::ZERO)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry::LogEnd;
    use crate::journal::log::tests::record_after;
    use crate::record::Record;

    const V: VolumeId = VolumeId(1);

    /// Full: nothing that carries user data goes.
    const FULL: Room = Room { bytes: 1 << 20, data: None };

    fn write_after(end: LogEnd) -> Entry {
        let record = record_after(V.0, end, 1, &[0; 4096]);
        Entry::Record(Record { kind: Kind::Write, length: 4096, ..record })
    }

    fn meta(text: &'static str) -> Entry {
        Entry::Meta { volume: V, blob: Bytes::from_static(text.as_bytes()) }
    }

    fn push(queue: &mut Queue<u32>, entries: Vec<Entry>, done: u32) {
        let hash = |e: &Entry| if let Entry::Record(record) = e { record.hash() } else { RecordHash::default() };
        let entries = entries.into_iter().map(|entry| (entry.clone(), hash(&entry))).collect();
        assert!(queue.push(entries, done).is_none());
        assert!(queue.refused.is_empty(), "{:?}", queue.refused);
    }

    fn queue() -> Queue<u32> {
        Queue::new(Log::default(), 1 << 20)
    }

    fn written(submissions: &[Submission<u32>]) -> Vec<&Entry> {
        submissions.iter().flat_map(|s| &s.entries).map(|(entry, _)| entry).collect()
    }

    #[test]
    fn older_metadata_is_never_written_after_newer_that_passed_it() {
        let mut queue = queue();
        let first = write_after(LogEnd::default());
        push(&mut queue, vec![first.clone(), meta("old")], 1);
        push(&mut queue, vec![Entry::Truncate { volume: V, after: Seq(1) }, meta("older than new")], 2);
        push(&mut queue, vec![meta("new")], 3);
        assert_eq!(written(&queue.form(&FULL)), [&meta("new")]);
        let none = BTreeSet::new();
        let rest = queue.form(&Room { bytes: 1 << 20, data: Some(&none) });
        assert_eq!(written(&rest), [&first, &Entry::Truncate { volume: V, after: Seq(1) }]);
        assert_eq!(rest.into_iter().flat_map(|s| s.dones).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn what_a_restart_makes_moot_does_not_hold_it_up_and_is_answered_with_it() {
        let mut queue = queue();
        let first = write_after(LogEnd::default());
        let Entry::Record(record) = &first else { panic!("it is a record") };
        let second = write_after(LogEnd { seq: record.seq, hash: record.hash(), epoch: record.epoch });
        push(&mut queue, vec![first], 1);
        push(&mut queue, vec![second, meta("promised")], 2);
        push(&mut queue, vec![Entry::Truncate { volume: V, after: Seq(1) }, meta("cut")], 3);
        let restart = Entry::Restart { volume: V, end: LogEnd { seq: Seq(9), ..LogEnd::default() } };
        push(&mut queue, vec![restart.clone(), meta("installed")], 4);
        let taken = queue.form(&FULL);
        assert_eq!(written(&taken), [&restart, &meta("installed")]);
        assert_eq!(taken[0].dones, [2, 3, 4], "what was promised is so only now");
        assert_eq!(queue.refused, [(1, NotTaken::Superseded { volume: V })]);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_truncation_waits_for_records_that_it_keeps() {
        let mut queue = queue();
        push(&mut queue, vec![write_after(LogEnd::default())], 1);
        push(&mut queue, vec![Entry::Truncate { volume: V, after: Seq(1) }], 2);
        assert!(queue.form(&FULL).is_empty());
        assert!(queue.refused.is_empty());
    }
}
