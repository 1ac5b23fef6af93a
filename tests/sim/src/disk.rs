//! One node's disk: a journal of which a prefix is durable, and a store that falls back at a crash.
//!
//! The journal survives a crash up to a random operation at or after its last sync; a torn last one counts as absent.
//! The store survives as of its last checkpoint, or of some record applied since. Not here: latencies (world).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use farshore_core::api::{JournalOp, Token};
use farshore_core::durable::{Durable, LogBase};
use farshore_core::ids::{BLOCK_BYTES, Epoch, Seq};
use farshore_core::record::{Kind, Record};
use farshore_core::replica::Recovered;

use crate::dice::Dice;
use crate::layout::VOLUME_BLOCKS;

/// Who wrote a block last: the request's id (0 = never written), and the record's place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    pub seq: Seq,
    pub stamp: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub base: LogBase,
    pub cells: Vec<Cell>,
}

/// The blocks that a record touches.
pub fn blocks_of(record: &Record) -> std::ops::Range<usize> {
    let first = (record.offset / BLOCK_BYTES) as usize;
    first..first + (record.length / BLOCK_BYTES) as usize
}

/// What every block that the record touches holds afterwards. Writes carry the request's id in their bytes, zeroing
/// records in their tag.
pub fn stamp_of(record: &Record) -> Option<u64> {
    match record.kind {
        Kind::Write => Some(stamp_in(&record.payload)),
        Kind::Discard | Kind::WriteZeroes => Some(record.origin.tag),
        Kind::EpochStart | Kind::SnapMark | Kind::Noop => None,
    }
}

pub fn stamp_in(block: &Bytes) -> u64 {
    u64::from_le_bytes(block[..8].try_into().expect("a block has 8 bytes"))
}

impl Image {
    pub fn empty() -> Image {
        Image { base: LogBase::default(), cells: vec![Cell::default(); VOLUME_BLOCKS as usize] }
    }

    pub fn apply(&mut self, record: &Record) {
        assert_eq!(record.seq, self.base.seq.next(), "records are applied in seq order");
        if let Some(stamp) = stamp_of(record) {
            for block in blocks_of(record) {
                self.cells[block] = Cell { seq: record.seq, stamp };
            }
        }
        self.base = LogBase { seq: record.seq, hash: record.hash() };
    }
}

#[derive(Debug, Default)]
pub struct Journal {
    ops: Vec<JournalOp>,
    durable: usize,
    syncing: Option<usize>,
    tokens: VecDeque<(Token, usize)>,
    /// The log as the ops leave it, from `floor` on.
    log: BTreeMap<Seq, Record>,
    floor: Seq,
    checkpoint: Seq,
}

impl Journal {
    fn starting_with(durable: &Durable) -> Journal {
        Journal {
            ops: vec![JournalOp::Meta(durable.encode())],
            durable: 1,
            floor: durable.base.seq.next(),
            checkpoint: durable.base.seq,
            ..Journal::default()
        }
    }

    pub fn append(&mut self, token: Token, ops: Vec<JournalOp>) {
        for op in ops {
            replay(&mut self.log, &op);
            self.ops.push(op);
        }
        self.tokens.push_back((token, self.ops.len()));
    }

    /// Starts a sync of everything appended. False when one is running or nothing waits.
    pub fn begin_sync(&mut self) -> bool {
        if self.syncing.is_some() || self.durable == self.ops.len() {
            return false;
        }
        self.syncing = Some(self.ops.len());
        true
    }

    /// The running sync is over: the tokens it covers.
    pub fn end_sync(&mut self) -> Vec<Token> {
        let mut done = Vec::new();
        let Some(end) = self.syncing.take() else { return done };
        self.durable = end;
        while self.tokens.front().is_some_and(|(_, end)| *end <= self.durable) {
            done.extend(self.tokens.pop_front().map(|(token, _)| token));
        }
        done
    }

    pub fn record(&self, seq: Seq) -> Option<&Record> {
        self.log.get(&seq)
    }

    fn first(&self) -> Seq {
        self.log.keys().next().copied().unwrap_or_else(|| self.floor.max(self.checkpoint.next()))
    }

    /// Records from `from` on, at least one if there is any, and the first seq that can be read.
    pub fn read(&self, from: Seq, max_bytes: usize) -> (Seq, Vec<Record>) {
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        for record in self.log.range(from..).map(|(_, r)| r) {
            bytes += record.encoded_len();
            if record.seq != next || (bytes > max_bytes && !records.is_empty()) {
                break;
            }
            next = next.next();
            records.push(record.clone());
        }
        (self.first(), records)
    }

    /// Records at or below `checkpoint` may go; all but the newest `keep` of them do.
    pub fn trim(&mut self, checkpoint: Seq, keep: u64) {
        self.checkpoint = self.checkpoint.max(checkpoint);
        let floor = Seq((self.checkpoint.0 + 1).saturating_sub(keep));
        if floor > self.floor {
            self.floor = floor;
            self.log = self.log.split_off(&floor);
        }
    }

    fn crash(&mut self, dice: &mut Dice) {
        let keep = dice.range(self.durable as u64, self.ops.len() as u64) as usize;
        let lost = self.ops.split_off(keep);
        // State may have passed records that waited for space.
        let restarts = lost.iter().any(|op| matches!(op, JournalOp::Restart { .. }));
        if !restarts && dice.chance(300) {
            let blobs: Vec<&JournalOp> = lost.iter().filter(|op| matches!(op, JournalOp::Meta(_))).collect();
            self.ops.extend(dice.pick(&blobs).cloned());
        }
        let keep = self.ops.len();
        // Recovery rewrites and syncs the tail before it reports a durable seq.
        self.durable = keep;
        self.syncing = None;
        self.tokens.clear();
        self.log.clear();
        for op in &self.ops {
            replay(&mut self.log, op);
        }
        self.log = self.log.split_off(&self.floor);
    }

    pub fn durable_blob(&self) -> Durable {
        let blob = self.ops.iter().rev().find_map(|op| match op {
            JournalOp::Meta(blob) => Some(blob.clone()),
            _ => None,
        });
        Durable::decode(blob.expect("a journal begins with a blob")).expect("our own blob decodes")
    }
}

fn replay(log: &mut BTreeMap<Seq, Record>, op: &JournalOp) {
    match op {
        JournalOp::Record(record) => {
            log.insert(record.seq, record.clone());
        }
        JournalOp::Truncate { after } => {
            log.split_off(&after.next());
        }
        JournalOp::Restart { .. } => log.clear(),
        JournalOp::Meta(_) => {}
    }
}

/// A shipment that has arrived completely: the source's image, as changes since `since`.
#[derive(Debug, Clone)]
pub struct Staged {
    pub since: Seq,
    pub image: Image,
}

pub struct Disk {
    pub journal: Journal,
    pub now: Image,
    safe: Image,
    staged: BTreeMap<Seq, Staged>,
    /// Durable records above the log's end can't be read any more: the last of them.
    pub lost_upto: Option<Seq>,
}

impl Disk {
    pub fn fresh(durable: &Durable) -> Disk {
        Disk {
            journal: Journal::starting_with(durable),
            now: Image::empty(),
            safe: Image::empty(),
            staged: BTreeMap::new(),
            lost_upto: None,
        }
    }

    pub fn apply(&mut self, upto: Seq) -> Vec<Record> {
        let mut applied = Vec::new();
        while self.now.base.seq < upto {
            let seq = self.now.base.seq.next();
            let record = self.journal.record(seq).cloned();
            let record = record.unwrap_or_else(|| panic!("the journal dropped record {seq} before it was applied"));
            self.now.apply(&record);
            applied.push(record);
        }
        applied
    }

    pub fn checkpoint(&mut self) -> LogBase {
        self.safe = self.now.clone();
        self.safe.base
    }

    /// Keeps an arrived shipment until it is installed. False when it is no superset of what this store lacks. What
    /// the store shows is checkpointed first: a crash must not fall back below the shipment's base.
    pub fn stage(&mut self, staged: Staged) -> bool {
        if self.now.base.seq < staged.since {
            return false;
        }
        self.checkpoint();
        self.staged.insert(staged.image.base.seq, staged);
        true
    }

    pub fn install(&mut self, seq: Seq) {
        if self.now.base.seq >= seq {
            return;
        }
        let staged = self.staged.get(&seq).expect("an image is staged before it is installed");
        for (mine, theirs) in self.now.cells.iter_mut().zip(&staged.image.cells) {
            if theirs.seq > staged.since {
                *mine = *theirs;
            }
        }
        self.now.base = staged.image.base;
        self.staged.clear();
        self.checkpoint();
        self.journal.checkpoint = self.journal.checkpoint.max(seq);
    }

    /// Power is lost, or the process dies: what was not synced may be gone.
    pub fn crash(&mut self, dice: &mut Dice) {
        let reached = self.now.base.seq;
        let before = std::mem::replace(&mut self.now, self.safe.clone());
        self.now = self.safe.clone();
        if dice.chance(300) {
            // Not all of the store's cache was lost. The journal still has every record above the checkpoint.
            let upto = dice.range(self.now.base.seq.0, reached.0);
            self.apply(Seq(upto));
            if upto == reached.0 {
                assert_eq!(self.now, before, "redo from the checkpoint gives the same image");
            }
        }
        self.journal.crash(dice);
    }

    /// A durable record above what the store shows has rotted: it and all after it can't be read. False when there
    /// is none.
    pub fn rot(&mut self, dice: &mut Dice) -> bool {
        let Some((last, _)) = self.journal.log.last_key_value().map(|(s, r)| (*s, r.epoch)) else { return false };
        if last <= self.now.base.seq {
            return false;
        }
        let after = Seq(dice.range(self.now.base.seq.0, last.0 - 1));
        let op = JournalOp::Truncate { after };
        replay(&mut self.journal.log, &op);
        self.journal.ops.push(op);
        self.journal.durable = self.journal.ops.len();
        self.lost_upto = Some(last);
        true
    }

    /// What a daemon finds on this disk when it starts.
    pub fn recovered(&self) -> Recovered {
        let durable = self.journal.durable_blob();
        let mut last = durable.base;
        let mut epochs: Vec<(Epoch, Seq)> = Vec::new();
        for record in self.journal.log.values() {
            if epochs.last().is_none_or(|(epoch, _)| *epoch != record.epoch) {
                epochs.push((record.epoch, record.seq));
            }
            if record.seq == last.seq.next() {
                last = LogBase { seq: record.seq, hash: record.hash() };
            }
        }
        let floor = self.journal.log.keys().next().copied().unwrap_or(last.seq.next());
        Recovered { durable, last, epochs, floor, lost_upto: None, applied: self.now.base.seq }
    }
}
