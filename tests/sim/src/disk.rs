//! One node's disk: a journal in sectors, and a store that falls back at a crash.
//!
//! The store is a table of who wrote each block last; it survives as of its last checkpoint, or of some record applied
//! since. Not here: the journal's bytes (medium), latencies (effects, store).

use std::collections::BTreeMap;

use bytes::Bytes;
use farshore_core::api::{JournalOp, Token};
use farshore_core::durable::{Durable, LogBase};
use farshore_core::ids::{BLOCK_BYTES, LineageId, Seq};
use farshore_core::journal::found::{RecoveredVolume, plan};
use farshore_core::journal::recovery::Rule;
use farshore_core::mark::Mark;
use farshore_core::record::{Kind, Record, RecordHash};
use farshore_core::register::MemberKind;
use farshore_core::replica::Recovered;

use crate::catalogue::Catalogue;
use crate::dice::Dice;
use crate::journal::{Asker, Journal};
use crate::layout::VOLUME_BLOCKS;
use crate::neighbour::NEIGHBOUR;
use crate::opening::{self, Shape, Unopened};
use crate::shipments::Partial;
use crate::world::VOLUME;

/// What was written last, to a journal.
const LATELY_BYTES: usize = 6 * 4096;

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
    pub snapshots: Catalogue,
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
        Image {
            base: LogBase::default(),
            cells: vec![Cell::default(); VOLUME_BLOCKS as usize],
            snapshots: Catalogue::default(),
        }
    }

    pub fn apply(&mut self, record: &Record, hash: RecordHash) {
        assert_eq!(record.seq, self.base.seq.next(), "records are applied in seq order");
        if let Some(stamp) = stamp_of(record) {
            for block in blocks_of(record) {
                self.cells[block] = Cell { seq: record.seq, stamp };
            }
        }
        if record.kind == Kind::SnapMark {
            let mark = Mark::decode(record.payload.clone()).expect("the core takes no other");
            self.snapshots.apply(record.seq, mark, &self.cells);
        }
        self.base = LogBase { seq: record.seq, hash };
    }
}

/// A shipment that has arrived completely: the source's image, as changes since `since`.
#[derive(Debug, Clone)]
pub struct Staged {
    pub since: Seq,
    pub image: Image,
    pub lineage: LineageId,
}

/// What a crash did to the disk, for the tally.
pub struct Crashed {
    pub rule: Option<Rule>,
    /// What had rotted by then.
    pub rot: Option<&'static str>,
    /// How often the power failed again while the journal was being opened.
    pub cuts: u64,
}

pub struct Disk {
    pub journal: Journal,
    shape: Shape,
    /// A witness has no store, nor has a node without a copy.
    stores: bool,
    pub now: Image,
    safe: Image,
    staged: BTreeMap<Seq, Staged>,
    /// A shipment that has not arrived completely.
    pub partial: Option<Partial>,
    /// What the last opening found; taken when the daemon starts.
    recovered: Option<Recovered>,
    /// What the other volume's log is by the last opening.
    pub neighbour: Option<RecoveredVolume>,
    /// When it rots, it does so near the end of its journal.
    pub rots_lately: bool,
    /// Why it can't be used any more: it must be replaced.
    pub broken: Option<String>,
    /// Something that was durable has rotted, and the replica has not come back since.
    pub damaged: bool,
    /// The newest state that was read from it.
    known: Durable,
    /// Tags of zeroing records that this life appended: what was asked for is not in their bytes.
    pub zeroes: BTreeMap<Seq, u64>,
}

impl Disk {
    pub fn fresh(durable: &Durable, shape: Shape, dice: &mut Dice) -> Disk {
        let mut journal = opening::create(shape, dice.u128(), dice);
        journal.append(VOLUME, vec![JournalOp::Meta(durable.encode())], Asker::Core(Token(0)));
        while journal.begin() {
            journal.landed();
        }
        let (last, epochs) = (LogBase::default(), Vec::new());
        let recovered =
            Recovered { durable: durable.clone(), last, epochs, floor: Seq(1), lost_upto: None, applied: Seq::ZERO };
        Disk {
            journal,
            shape,
            stores: durable
                .config
                .member(durable.me)
                .is_none_or(|m| !matches!(m.kind, MemberKind::Witness | MemberKind::Diskless)),
            now: Image::empty(),
            safe: Image::empty(),
            staged: BTreeMap::new(),
            partial: None,
            recovered: Some(recovered),
            neighbour: None,
            rots_lately: false,
            broken: None,
            damaged: false,
            known: durable.clone(),
            zeroes: BTreeMap::new(),
        }
    }

    pub fn stores(&self) -> bool {
        self.stores
    }

    /// The state of the replica as far as it is durable.
    pub fn durable_blob(&self) -> Durable {
        let meta = self.journal.log.volumes.get(&VOLUME).and_then(|log| log.meta.clone());
        meta.and_then(|meta| Durable::decode(meta).ok()).unwrap_or_else(|| self.known.clone())
    }

    /// Applies as much of the log up to `upto` as can be read.
    pub fn apply(&mut self, upto: Seq) -> Vec<(Record, RecordHash)> {
        let mut applied = Vec::new();
        while self.now.base.seq < upto {
            let Some(record) = self.journal.record(VOLUME, self.now.base.seq.next()) else { break };
            let hash = record.hash();
            self.now.apply(&record, hash);
            applied.push((record, hash));
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

    /// In which lineage the image was made that is staged at `seq`.
    pub fn staged_at(&self, seq: Seq) -> Option<&Staged> {
        self.staged.get(&seq)
    }

    /// False if the staged image is gone.
    pub fn install(&mut self, seq: Seq) -> bool {
        if self.now.base.seq >= seq {
            return true;
        }
        let Some(staged) = self.staged.get(&seq) else { return false };
        for (mine, theirs) in self.now.cells.iter_mut().zip(&staged.image.cells) {
            if theirs.seq > staged.since {
                *mine = *theirs;
            }
        }
        self.now.base = staged.image.base;
        self.now.snapshots.install(&staged.image.snapshots, seq);
        self.staged.clear();
        self.checkpoint();
        true
    }

    /// Power is lost, or the process dies: what was not synced may be gone. With `rot`, something rots that was durable
    /// and is proven to have been. Then the journal is opened again, which may take several attempts.
    pub fn crash(&mut self, rot: bool, dice: &mut Dice, side: &mut Dice) -> Crashed {
        let reached = std::mem::replace(&mut self.now, self.safe.clone());
        self.zeroes.clear();
        if dice.chance(150) {
            self.staged.clear();
        }
        if let Some(partial) = &mut self.partial {
            partial.cut(side.range(0, VOLUME_BLOCKS));
        }
        let mut crashed = Crashed { rule: None, rot: None, cuts: 0 };
        if self.broken.is_some() {
            return crashed;
        }
        self.known = self.durable_blob();
        // After a failed sync it may be the daemon alone that is restarted.
        if !self.journal.poisoned || side.chance(500) {
            self.journal.medium.cut(dice);
        }
        if rot {
            crashed.rot = self.rot(dice);
            self.damaged |= crashed.rot.is_some();
        }
        let mut medium = std::mem::take(&mut self.journal.medium);
        let opened = loop {
            let cut_in = dice.chance(200).then(|| dice.range(0, 5));
            match opening::open(medium, self.shape, dice, cut_in) {
                Ok(opened) => break opened,
                Err((_, Unopened::Refused(reason))) => {
                    self.broken = Some(reason);
                    return crashed;
                }
                Err((left, Unopened::Cut)) => {
                    crashed.cuts += 1;
                    medium = *left;
                }
            }
        };
        crashed.rule = Some(opened.rule);
        self.journal = opened.journal;
        self.neighbour = opened.volumes.iter().find(|found| found.volume == NEIGHBOUR).cloned();
        if dice.chance(300) && !self.damaged {
            // Not all of the store's cache was lost. The journal still has every record above the checkpoint.
            let upto = dice.range(self.now.base.seq.0, reached.base.seq.0);
            self.apply(Seq(upto));
            assert_eq!(self.now.base.seq.0, upto, "the journal has what the store may forget");
            if upto == reached.base.seq.0 {
                assert_eq!(self.now, reached, "redo from the checkpoint gives the same image");
            }
        }
        let found = opened.volumes.iter().find(|found| found.volume == VOLUME);
        let planned = match found {
            Some(found) => plan(found, self.stores.then_some(self.now.base.seq)).map_err(|error| error.to_string()),
            None => Err("the journal does not know the volume".to_string()),
        };
        match planned {
            Ok(recovered) => {
                let base = recovered.durable.base.seq;
                self.journal.mark(VOLUME, base, Seq::ZERO);
                self.recovered = Some(recovered);
            }
            Err(reason) => self.broken = Some(reason),
        }
        crashed
    }

    /// Anything durable but the last group: that one can't be told from one that was never whole.
    fn rot(&mut self, dice: &mut Dice) -> Option<&'static str> {
        let newest = self.journal.segments.live.back().map(|segment| segment.number)?;
        let live: Vec<(u32, u64)> =
            self.journal.segments.live.iter().map(|segment| (segment.number, segment.used_bytes)).collect();
        if std::mem::take(&mut self.rots_lately) {
            let upto = self.journal.last_group_at as usize;
            let from = upto.saturating_sub(LATELY_BYTES);
            return (upto > from).then(|| self.journal.medium.rot(newest, from..upto, dice));
        }
        let (number, used) = dice.pick(&live)?;
        let bytes = if number == newest { self.journal.last_group_at } else { used };
        (bytes > 0).then(|| self.journal.medium.rot(number, 0..bytes as usize, dice))
    }

    /// What a daemon finds on this disk when it starts.
    pub fn recovered(&mut self) -> Option<Recovered> {
        self.recovered.take()
    }
}
