//! One node's journal: the core's queue, segments, group format and index over a simulated medium, with the order of
//! writes that the daemon's journal has. Opening it is in opening.
//!
//! A write is begun by [`Journal::begin`] and done by [`Journal::landed`]; in between the power may fail.

use std::collections::{BTreeMap, VecDeque};

use farshore_core::api::{JournalOp, Token};
use farshore_core::ids::{Seq, VolumeId};
use farshore_core::journal::entry::{
    Entry, LogEnd, RecapItem, decode_record_at, put_entry, put_head, put_moved, put_recap,
};
use farshore_core::journal::group::{
    BodySum, FLAG_AFTER_LOSS, FLAG_HEAD, FLAG_HEAD_END, GROUP_ALIGN_BYTES, GROUP_HEADER_BYTES, GroupBuilder,
    GroupHeader,
};
use farshore_core::journal::log::{Log, Place};
use farshore_core::journal::queue::{GROUP_TARGET_BYTES, NotTaken, Queue, Room, Submission};
use farshore_core::journal::segments::{Move, Segment, Segments};
use farshore_core::journal::superblock::Superblock;
use farshore_core::record::{Record, RecordHash};

use crate::medium::{self, Medium};

/// The last block of each segment is left for a group that only says which segments are free by now.
pub const RESERVE_BYTES: u64 = GROUP_ALIGN_BYTES as u64;
/// Header, recap and padding of a group, at most; there are two volumes.
const GROUP_OVERHEAD_BYTES: usize = GROUP_HEADER_BYTES + 128 * 4 + GROUP_ALIGN_BYTES;

/// Whom an append is answered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Core(Token),
    /// The other volume of this node.
    Neighbour(Seq),
}

pub enum Content {
    Entries(Vec<Submission<Asker>>),
    /// The state of every volume, which a segment begins with.
    Heads,
    Moved(Vec<Record>),
    Bare,
    /// Not a group: the superblock with a segment more.
    Super(Superblock),
}

/// What is still to be done before the queue is looked at again.
pub enum Step {
    /// Room for so many bytes of entries, in this segment or the next.
    Room(usize),
    Rotate {
        told: bool,
    },
    Put(Content),
    HasMoved(Move),
}

pub struct Flying {
    header: Option<GroupHeader>,
    content: Content,
    places: Vec<usize>,
}

/// Where the next group goes.
#[derive(Debug)]
pub struct Cursor {
    pub segment: u32,
    pub generation: u64,
    pub offset: u64,
    pub index: u64,
    pub prev_crc: Option<u32>,
    pub recap: Option<Vec<RecapItem>>,
}

pub struct Journal {
    pub medium: Medium,
    pub superblock: Superblock,
    /// What is durable, and where.
    pub log: Log,
    pub segments: Segments<()>,
    pub cursor: Cursor,
    pub needed: BTreeMap<VolumeId, u64>,
    pub queue: Queue<Asker>,
    pub steps: VecDeque<Step>,
    pub flying: Option<Flying>,
    pub buffer: Vec<u8>,
    pub may_move: bool,
    pub poisoned: bool,
    /// Where the last group begins: what lies before it is proven durable by it.
    pub last_group_at: u64,
}

impl Journal {
    /// Queues what the core wants durable. What is refused is in the queue's `refused`.
    pub fn append(&mut self, volume: VolumeId, ops: Vec<JournalOp>, asker: Asker) {
        self.append_watched(volume, ops, asker, |_, _| {});
    }

    /// The same, with `watch` shown each record and its hash.
    pub fn append_watched(
        &mut self,
        volume: VolumeId,
        ops: Vec<JournalOp>,
        asker: Asker,
        mut watch: impl FnMut(&Record, RecordHash),
    ) {
        let entries = ops.into_iter().map(|op| match op {
            JournalOp::Record(record) => {
                let hash = record.hash();
                watch(&record, hash);
                (Entry::Record(record), hash)
            }
            JournalOp::Truncate { after } => (Entry::Truncate { volume, after }, RecordHash::default()),
            JournalOp::Restart { base, epoch } => {
                let end = LogEnd { seq: base.seq, hash: base.hash, epoch };
                (Entry::Restart { volume, end }, RecordHash::default())
            }
            JournalOp::Meta(blob) => (Entry::Meta { volume, blob }, RecordHash::default()),
        });
        let unanswered = self.queue.push(entries.collect(), asker);
        assert!(unanswered.is_none(), "the queue was ended");
    }

    /// The write under way is a segment's first.
    pub fn begins_a_segment(&self) -> bool {
        self.flying.as_ref().is_some_and(|flying| matches!(flying.content, Content::Heads))
    }

    /// Those that are answered without being written, and why.
    pub fn refused(&mut self) -> Vec<(Asker, NotTaken)> {
        std::mem::take(&mut self.queue.refused)
    }

    /// Begins the next write, if there is anything to write and none is under way.
    pub fn begin(&mut self) -> bool {
        if self.flying.is_some() || self.poisoned {
            return false;
        }
        loop {
            let Some(step) = self.steps.pop_front() else {
                if !self.plan() {
                    return false;
                }
                continue;
            };
            match step {
                Step::Put(content) => {
                    self.put(content);
                    return true;
                }
                Step::Room(bytes) => {
                    if !self.fits(bytes) {
                        self.steps.push_front(Step::Rotate { told: false });
                    }
                }
                Step::Rotate { told } => self.rotate(told),
                Step::HasMoved(work) => self.segments.has_moved(&work),
            }
        }
    }

    /// Decides what is written next: a segment more, copies out of the oldest one, or what waits.
    fn plan(&mut self) -> bool {
        let can_grow = self.segments.total() < self.segments.max && self.segments.allocation_error.is_none();
        if self.segments.free.len() < 2 && can_grow {
            // One that was made just before a crash is there already.
            if self.medium.segments() == self.superblock.segments {
                self.medium.add_segment(self.segments.segment_bytes as usize);
            }
            let next = Superblock { segments: self.superblock.segments + 1, ..self.superblock };
            self.steps.push_back(Step::Put(Content::Super(next)));
            return true;
        }
        if self.plan_move() {
            return true;
        }
        let taken = self.form();
        if taken.is_empty() {
            return false;
        }
        self.may_move = true;
        self.steps.push_back(Step::Room(taken.iter().map(|submission| submission.bytes).sum()));
        self.steps.push_back(Step::Put(Content::Entries(taken)));
        true
    }

    fn plan_move(&mut self) -> bool {
        if !self.may_move || self.queue.is_empty() {
            return false;
        }
        self.segments.recycle(&mut self.log, &mut self.queue.ahead);
        let needed = self.needed.values().sum();
        let Some(work) = self.segments.plan_move(&self.log, needed, self.room_bytes(), 2 * RESERVE_BYTES) else {
            return false;
        };
        self.may_move = false;
        let mut batches: Vec<(usize, Vec<Record>)> = vec![(0, Vec::new())];
        for (volume, seq) in &work.records {
            // What cannot be read stays until the store has it.
            let Some(record) = self.record(*volume, *seq) else { return false };
            let len = Entry::Record(record.clone()).encoded_len();
            if batches.last().is_some_and(|(bytes, _)| bytes + len > self.target_bytes() && *bytes > 0) {
                batches.push((0, Vec::new()));
            }
            if let Some((bytes, records)) = batches.last_mut() {
                *bytes += len;
                records.push(record);
            }
        }
        let bytes: usize = batches.iter().map(|(bytes, _)| bytes + GROUP_OVERHEAD_BYTES).sum();
        if !self.fits(bytes) && self.segments.free.is_empty() {
            return false;
        }
        for (bytes, records) in batches.into_iter().filter(|(bytes, _)| *bytes > 0) {
            self.steps.push_back(Step::Room(bytes));
            self.steps.push_back(Step::Put(Content::Moved(records)));
        }
        self.steps.push_back(Step::HasMoved(work));
        true
    }

    fn target_bytes(&self) -> usize {
        GROUP_TARGET_BYTES.min(self.segments.segment_bytes as usize / 3)
    }

    /// As the daemon's writer: user data neither begins the last free segment nor goes into it.
    fn form(&mut self) -> Vec<Submission<Asker>> {
        self.segments.recycle(&mut self.log, &mut self.queue.ahead);
        let over_share = self.segments.over_share(&self.log, &self.needed);
        let spares = self.segments.free.len();
        let target = self.target_bytes();
        let here = (self.room_bytes() as usize).saturating_sub(GROUP_OVERHEAD_BYTES);
        let data = (spares >= 1).then_some(&over_share);
        if spares >= 2 {
            return self.queue.form(&Room { bytes: target, data });
        }
        let taken = self.queue.form(&Room { bytes: target.min(here), data });
        if taken.is_empty() && spares >= 1 {
            return self.queue.form(&Room { bytes: target, data: None });
        }
        taken
    }

    pub fn room_bytes(&self) -> u64 {
        (self.segments.segment_bytes - RESERVE_BYTES).saturating_sub(self.cursor.offset)
    }

    fn fits(&self, body_bytes: usize) -> bool {
        (body_bytes + GROUP_OVERHEAD_BYTES) as u64 <= self.room_bytes()
    }

    /// Goes on in a free segment. When all free ones were freed since the last group, a group must say so first.
    fn rotate(&mut self, told: bool) {
        match self.segments.take_free() {
            Some(number) => {
                let generation = self.cursor.generation + 1;
                self.cursor.segment = number;
                self.cursor.generation = generation;
                self.cursor.offset = 0;
                let new = Segment { generation, number, used_bytes: 0, holds: BTreeMap::new() };
                self.segments.live.push_back(new);
                self.steps.push_front(Step::Put(Content::Heads));
            }
            None => {
                assert!(!told, "no segment is free although one was counted");
                self.steps.push_front(Step::Rotate { told: true });
                if self.cursor.offset + RESERVE_BYTES <= self.segments.segment_bytes {
                    self.steps.push_front(Step::Put(Content::Bare));
                }
            }
        }
    }

    /// Begins to write what it says, where the cursor is.
    pub fn put(&mut self, content: Content) {
        if let Content::Super(next) = content {
            let next = Superblock { turn: self.superblock.turn + 1, ..next };
            self.medium.write(medium::Place::Super, next.slot_offset() as usize, next.encode().to_vec());
            self.flying = Some(Flying { header: None, content: Content::Super(next), places: Vec::new() });
            return;
        }
        let mut builder = GroupBuilder::new(std::mem::take(&mut self.buffer));
        let mut flags = if matches!(content, Content::Heads) { FLAG_HEAD + FLAG_HEAD_END } else { 0 };
        match (&self.cursor.recap, self.cursor.prev_crc) {
            (Some(recap), Some(_)) => put_recap(&mut builder, recap),
            _ => flags |= FLAG_AFTER_LOSS,
        }
        let places = match &content {
            Content::Entries(submissions) => {
                let entries = submissions.iter().flat_map(|submission| &submission.entries);
                entries.map(|(entry, _)| put_entry(&mut builder, entry)).collect()
            }
            Content::Moved(records) => records.iter().map(|record| put_moved(&mut builder, record)).collect(),
            Content::Heads => {
                self.log.heads().iter().for_each(|head| put_head(&mut builder, head));
                Vec::new()
            }
            Content::Bare | Content::Super(_) => Vec::new(),
        };
        let header = GroupHeader {
            journal: self.superblock.journal,
            generation: self.cursor.generation,
            offset: self.cursor.offset,
            segment: self.cursor.segment,
            entries: 0,
            body_bytes: 0,
            body_sum: BodySum::NONE,
            index: self.cursor.index,
            oldest: self.segments.oldest(),
            prev_crc: self.cursor.prev_crc.unwrap_or_default(),
            flags,
        };
        let (header, out) = builder.finish(header);
        self.medium.write(medium::Place::Segment(header.segment), header.offset as usize, out);
        self.flying = Some(Flying { header: Some(header), content, places });
    }

    /// The write under way is durable. Says whose appends are.
    pub fn landed(&mut self) -> Vec<Asker> {
        let Some(Flying { header, content, places }) = self.flying.take() else { return Vec::new() };
        self.buffer = self.medium.sync();
        self.buffer.clear();
        let Some(header) = header else {
            if let Content::Super(now) = content {
                if now.segments > self.superblock.segments {
                    self.segments.adopt(());
                }
                self.superblock = now;
            }
            return Vec::new();
        };
        self.log.take_recap();
        let mut done = Vec::new();
        match content {
            Content::Entries(submissions) => {
                let entries = submissions.iter().flat_map(|submission| &submission.entries);
                for ((entry, hash), at) in entries.zip(places) {
                    let len = if let Entry::Record(record) = entry { record.encoded_len() } else { 0 };
                    self.learn(entry, *hash, place_at(&header, at, len));
                }
                done.extend(submissions.into_iter().flat_map(|submission| submission.dones));
            }
            Content::Moved(records) => {
                for (record, at) in records.iter().zip(places) {
                    self.log.apply_moved(record, record.hash(), place_at(&header, at, record.encoded_len()));
                    self.segments.note_newest(record.volume, record.seq);
                }
            }
            Content::Heads | Content::Bare | Content::Super(_) => {}
        }
        if let Some(segment) = self.segments.live.back_mut() {
            segment.used_bytes = header.end();
        }
        self.segments.durable_oldest = header.oldest;
        self.last_group_at = header.offset;
        self.cursor.recap = Some(self.log.take_recap());
        self.cursor.prev_crc = Some(header.crc());
        self.cursor.offset = header.end();
        self.cursor.index += 1;
        done
    }

    fn learn(&mut self, entry: &Entry, hash: RecordHash, place: Place) {
        self.log.apply(entry, hash, place).expect("the queue admitted it");
        self.segments.note(entry);
        let volume = entry.volume();
        match entry {
            Entry::Record(_) => *self.needed.entry(volume).or_default() += u64::from(place.len),
            Entry::Truncate { .. } => self.recount(volume),
            Entry::Forget { .. } | Entry::Restart { .. } => drop(self.needed.remove(&volume)),
            Entry::Meta { .. } => {}
        }
    }

    pub fn recount(&mut self, volume: VolumeId) {
        let checkpoint = self.segments.marks.get(&volume).copied().unwrap_or_default().checkpoint;
        let bytes = self.log.volumes.get(&volume).map_or(0, |log| log.bytes_after(checkpoint));
        self.needed.insert(volume, bytes);
    }

    /// Records up to `checkpoint` are in the store for good; those after `keep` are wanted for catching up.
    pub fn mark(&mut self, volume: VolumeId, checkpoint: Seq, keep: Seq) {
        let marks = self.segments.marks.entry(volume).or_default();
        marks.checkpoint = marks.checkpoint.max(checkpoint);
        marks.keep = marks.keep.max(keep);
        self.segments.allocation_error = None;
        self.queue.kicks += 1;
        self.recount(volume);
    }

    /// The first seq that can be read.
    pub fn floor(&self, volume: VolumeId) -> Seq {
        self.log.volumes.get(&volume).map_or(Seq(1), |log| log.floor())
    }

    /// A durable record, read from the medium; `None` if it is not retained or damaged.
    pub fn record(&self, volume: VolumeId, seq: Seq) -> Option<Record> {
        let place = self.log.volumes.get(&volume)?.place(seq)??;
        let bytes = self.medium.read(place.segment, place.offset as usize, place.len as usize)?;
        decode_record_at(&bytes, volume, seq).ok()
    }

    /// As the daemon reads for a peer: the floor, and records from `from` on, at least one if there is any.
    pub fn read(&mut self, volume: VolumeId, from: Seq, max_bytes: usize, max: usize) -> (Seq, Vec<Record>) {
        let floor = self.floor(volume);
        if from < floor {
            return (floor, Vec::new());
        }
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        let mut seq = from;
        while let Some(Some(place)) = self.log.volumes.get(&volume).and_then(|log| log.place(seq)) {
            bytes += place.len as usize;
            if records.len() == max || (bytes > max_bytes && !records.is_empty()) {
                break;
            }
            let Some(record) = self.record(volume, seq) else {
                for log in [&mut self.queue.ahead, &mut self.log] {
                    if let Some(log) = log.volumes.get_mut(&volume) {
                        log.mark_lost(seq);
                    }
                }
                break;
            };
            records.push(record);
            seq = seq.next();
        }
        // Beyond the end, or damaged: whoever asks must have it from elsewhere.
        if records.is_empty() { (from.next(), records) } else { (floor.min(from), records) }
    }
}

/// Segments are at most 1 GiB long, so that offsets in them fit.
fn place_at(header: &GroupHeader, at: usize, len: usize) -> Place {
    Place { segment: header.segment, offset: header.offset as u32 + at as u32, len: len as u32 }
}
