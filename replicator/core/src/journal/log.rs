//! The index of what the journal retains: per volume the ends of its log, and where each record lies. Applied to by the
//! daemon when a group is durable, and by [`super::replay`] when groups are read back.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::ids::{Epoch, Seq, VolumeId};
use crate::journal::entry::{Entry, LogEnd, RecapItem, VolumeHead};
use crate::record::{Record, RecordHash};

/// Where a record's bytes begin: segment file, offset and length in bytes. All zero: nowhere (lost).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    pub segment: u32,
    pub offset: u32,
    pub len: u32,
}

/// One record in the index: 28 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Slot {
    hash: [u8; 16],
    place: Place,
}

const LOST: Place = Place { segment: 0, offset: 0, len: 0 };
/// The widest gap that is kept open for repair; behind a wider one the log counts as begun anew.
const GAP_RECORDS_MAX: u64 = 1 << 20;

/// An entry that does not continue its volume's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("record {seq} of volume {volume} does not continue its log, which ends at {last}")]
    OutOfOrder { volume: VolumeId, seq: Seq, last: Seq },
    #[error("record {seq} of volume {volume} names another predecessor than the one that is there")]
    ChainBroken { volume: VolumeId, seq: Seq },
    #[error("volume {volume} cannot be truncated after {after}: its log is kept from {floor} to {last}")]
    Truncation { volume: VolumeId, after: Seq, floor: Seq, last: Seq },
}

/// What the journal knows of one volume.
#[derive(Debug, Clone, Default)]
pub struct VolumeLog {
    pub meta: Option<Bytes>,
    /// The newest metadata is lost: what [`VolumeLog::meta`] holds may be older.
    pub meta_damaged: bool,
    /// Groups were lost that may have held anything of this volume.
    pub unproven: bool,
    /// The first record known to be lost although the index cannot show it.
    pub lost_from: Option<Seq>,
    /// The record before the first retained one; `None` until there is a log.
    base: Option<LogEnd>,
    slots: VecDeque<Slot>,
    /// Where each epoch begins among the retained records.
    epochs: Vec<(Epoch, Seq)>,
}

impl VolumeLog {
    /// The first seq that is retained, or the next one to come.
    pub fn floor(&self) -> Seq {
        self.base.map_or(Seq(1), |base| base.seq.next())
    }

    pub fn has_log(&self) -> bool {
        self.base.is_some()
    }

    pub fn base(&self) -> LogEnd {
        self.base.unwrap_or_default()
    }

    pub fn last_seq(&self) -> Seq {
        Seq(self.base().seq.0 + self.slots.len() as u64)
    }

    pub fn end(&self) -> LogEnd {
        self.end_at(self.last_seq())
    }

    pub fn epochs(&self) -> &[(Epoch, Seq)] {
        &self.epochs
    }

    /// The log's end if it ended at `seq`, which is retained or the base.
    pub fn end_at(&self, seq: Seq) -> LogEnd {
        let base = self.base();
        if seq <= base.seq {
            return base;
        }
        let hash = self.slot(seq).map_or(RecordHash::default(), |slot| RecordHash(u128::from_le_bytes(slot.hash)));
        LogEnd { seq, hash, epoch: self.epoch_at(seq) }
    }

    fn epoch_at(&self, seq: Seq) -> Epoch {
        let begun = self.epochs.partition_point(|&(_, first)| first <= seq);
        if begun == 0 { self.base().epoch } else { self.epochs[begun - 1].0 }
    }

    fn slot(&self, seq: Seq) -> Option<&Slot> {
        let at = seq.0.checked_sub(self.floor().0)?;
        self.slots.get(usize::try_from(at).ok()?)
    }

    /// Where a retained record lies; `Some(None)` if it is lost, `None` if it is not retained.
    pub fn place(&self, seq: Seq) -> Option<Option<Place>> {
        self.slot(seq).map(|slot| (slot.place != LOST).then_some(slot.place))
    }

    /// The retained records that can be read, and where they lie.
    pub fn places(&self) -> impl Iterator<Item = (Seq, Place)> + '_ {
        let floor = self.floor().0;
        let slots = self.slots.iter().enumerate().filter(|(_, slot)| slot.place != LOST);
        slots.map(move |(at, slot)| (Seq(floor + at as u64), slot.place))
    }

    /// Bytes of the retained records after `after`.
    pub fn bytes_after(&self, after: Seq) -> u64 {
        let skip = (after.next().0).saturating_sub(self.floor().0) as usize;
        self.slots.iter().skip(skip).map(|slot| u64::from(slot.place.len)).sum()
    }

    /// The first retained record that cannot be read. Everything is suspect if lost groups leave the log unproven.
    pub fn damaged(&self) -> Option<Seq> {
        let gap = self.slots.iter().position(|slot| slot.place == LOST);
        let gap = gap.map(|at| Seq(self.floor().0 + at as u64));
        let unproven = self.unproven.then(|| self.floor());
        [gap, unproven, self.lost_from].into_iter().flatten().min()
    }

    /// Forgets where a record lies, once reading it there has failed.
    pub fn mark_lost(&mut self, seq: Seq) {
        let floor = self.floor().0;
        if let Some(slot) = seq.0.checked_sub(floor).and_then(|at| self.slots.get_mut(at as usize)) {
            slot.place = LOST;
        }
    }

    /// Whether the record may be appended now: it continues the log, or fills a lost place.
    pub fn check(&self, record: &Record) -> Result<(), LogError> {
        let (volume, seq, last) = (record.volume, record.seq, self.last_seq());
        if !self.has_log() {
            return if seq == Seq::ZERO { Err(LogError::OutOfOrder { volume, seq, last }) } else { Ok(()) };
        }
        let fills = self.slot(seq).is_some_and(|slot| slot.place == LOST);
        if !fills && seq != last.next() {
            return Err(LogError::OutOfOrder { volume, seq, last });
        }
        let before = self.end_at(seq.prev()).hash;
        if before != RecordHash::default() && record.prev_hash != before {
            return Err(LogError::ChainBroken { volume, seq });
        }
        Ok(())
    }

    fn append(&mut self, record: &Record, hash: RecordHash, place: Place) -> Result<(), LogError> {
        self.check(record)?;
        let slot = Slot { hash: hash.0.to_le_bytes(), place };
        if !self.has_log() {
            self.base = Some(LogEnd { seq: record.seq.prev(), hash: record.prev_hash, epoch: Epoch::ZERO });
        }
        if record.seq == self.last_seq().next() {
            if self.epochs.is_empty() || self.epoch_at(self.last_seq()) != record.epoch {
                self.epochs.push((record.epoch, record.seq));
            }
            self.slots.push_back(slot);
        } else {
            self.fill(record, slot);
        }
        Ok(())
    }

    /// Puts a record in the place of one that is there or was lost.
    fn fill(&mut self, record: &Record, slot: Slot) {
        let at = (record.seq.0 - self.floor().0) as usize;
        self.slots[at] = slot;
        // What a lost predecessor's hash was is known from its successor.
        if let Some(before) = at.checked_sub(1).map(|at| &mut self.slots[at])
            && before.hash == [0; 16]
        {
            before.hash = record.prev_hash.0.to_le_bytes();
        }
        let after = (record.seq < self.last_seq()).then(|| (self.epoch_at(record.seq.next()), record.seq.next()));
        self.epochs.retain(|&(_, first)| first != record.seq);
        self.begin_epoch(record.epoch, record.seq);
        if let Some((epoch, seq)) = after {
            self.begin_epoch(epoch, seq);
        }
        self.epochs.dedup_by_key(|&mut (epoch, _)| epoch);
    }

    /// Makes `epoch` the one that the record at `seq` has.
    fn begin_epoch(&mut self, epoch: Epoch, seq: Seq) {
        let at = self.epochs.partition_point(|&(_, first)| first < seq);
        if self.epochs.get(at).is_some_and(|&(_, first)| first == seq) {
            self.epochs[at].0 = epoch;
        } else if at == 0 || self.epochs[at - 1].0 != epoch {
            self.epochs.insert(at, (epoch, seq));
        }
    }

    /// The record lies in a new place too. False if it is not retained any more, or another one is.
    fn moved(&mut self, record: &Record, hash: RecordHash, place: Place) -> bool {
        let hash = hash.0.to_le_bytes();
        let known = self.slot(record.seq).is_some_and(|slot| slot.place == LOST || slot.hash == hash);
        if known {
            self.fill(record, Slot { hash, place });
        }
        known
    }

    /// Drops the records up to the last one, at or below `upto`, that is known to have been there and has no place. It
    /// was given up because it was not needed; so nothing before it is, though copies of some may still be there.
    pub(super) fn skip_placeless(&mut self, upto: Seq) {
        let within = usize::try_from(upto.since(self.base().seq)).unwrap_or(usize::MAX).min(self.slots.len());
        if let Some(last) = self.slots.range(..within).rposition(|slot| slot.place == LOST) {
            self.raise_floor(Seq(self.floor().0 + last as u64));
        }
    }

    /// Hides the records after `after`.
    fn truncate(&mut self, after: Seq) {
        if self.lost_from.is_some_and(|lost| lost > after) {
            self.lost_from = None;
        }
        if after >= self.last_seq() {
            return;
        }
        if after < self.base().seq {
            // Below what is retained: the log goes on there, after a record that is not known any more.
            self.base = Some(LogEnd { seq: after, ..LogEnd::default() });
            self.slots.clear();
            self.epochs.clear();
            return;
        }
        self.slots.truncate((after.0 - self.base().seq.0) as usize);
        self.epochs.retain(|&(_, first)| first <= after);
    }

    /// Drops the records up to `upto`: their segment goes.
    pub fn raise_floor(&mut self, upto: Seq) {
        let upto = upto.min(self.last_seq());
        if upto <= self.base().seq {
            return;
        }
        let base = self.end_at(upto);
        let next_epoch = self.epoch_at(upto.next());
        let last = self.last_seq();
        self.slots.drain(..(upto.0 - self.base().seq.0) as usize);
        self.base = Some(base);
        self.epochs.retain(|&(_, first)| first > upto);
        if upto < last && self.epochs.first().is_none_or(|&(_, first)| first > upto.next()) {
            self.epochs.insert(0, (next_epoch, upto.next()));
        }
        if self.lost_from.is_some_and(|lost| lost <= upto) {
            self.lost_from = None;
        }
    }

    fn restart(&mut self, end: LogEnd) {
        self.base = Some(end);
        self.slots.clear();
        self.epochs.clear();
        self.lost_from = None;
        self.unproven = false;
    }

    /// Makes room for records that are known to have been written but not to be readable, up to `end`.
    pub(super) fn lose(&mut self, from: Seq, end: LogEnd) {
        let from = if self.has_log() { from } else { from.max(Seq(1)) };
        if !self.has_log() {
            self.base = Some(LogEnd { seq: from.prev(), ..LogEnd::default() });
        }
        self.truncate(from.prev());
        let last = self.last_seq();
        if end.seq <= last {
            return;
        }
        if end.seq.since(last) > GAP_RECORDS_MAX {
            self.restart(end);
            self.lost_from = Some(from);
            return;
        }
        self.slots.resize((end.seq.0 - self.base().seq.0) as usize, Slot::default());
        if let Some(slot) = self.slots.back_mut() {
            slot.hash = end.hash.0.to_le_bytes();
        }
        // Which epochs the lost records had is not known; the last one's is, where a recap or a head names it.
        if end.epoch != Epoch::ZERO && self.epoch_at(last) != end.epoch {
            self.epochs.push((end.epoch, end.seq));
        }
    }

    pub fn head(&self, volume: VolumeId) -> VolumeHead {
        VolumeHead { volume, meta: self.meta.clone(), log: self.base.map(|base| (base, self.end())) }
    }
}

/// All volumes, and what the group being applied has done to each.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub volumes: BTreeMap<VolumeId, VolumeLog>,
    touched: BTreeMap<VolumeId, RecapItem>,
}

impl Log {
    /// Applies one durable entry. `hash` and `place` matter for records only.
    pub fn apply(&mut self, entry: &Entry, hash: RecordHash, place: Place) -> Result<(), LogError> {
        let volume = entry.volume();
        if matches!(entry, Entry::Forget { .. }) {
            self.volumes.remove(&volume);
            let gone = RecapItem { volume, forgotten: true, meta: false, from: None, end: LogEnd::default() };
            self.touched.insert(volume, gone);
            return Ok(());
        }
        let log = self.volumes.entry(volume).or_default();
        let from = match entry {
            Entry::Record(record) => {
                log.append(record, hash, place)?;
                Some(record.seq)
            }
            Entry::Truncate { after, .. } => {
                log.truncate(*after);
                Some(after.next())
            }
            Entry::Restart { end, .. } => {
                log.restart(*end);
                Some(end.seq.next())
            }
            Entry::Meta { blob, .. } => {
                log.meta = Some(blob.clone());
                log.meta_damaged = false;
                None
            }
            Entry::Forget { .. } => None,
        };
        let end = log.end();
        let fresh = RecapItem { volume, forgotten: false, meta: false, from: None, end };
        let item = self.touched.entry(volume).or_insert(fresh);
        item.meta |= matches!(entry, Entry::Meta { .. });
        item.from = match (item.from, from) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        item.end = end;
        Ok(())
    }

    /// Applies a durable copy of a record.
    pub fn apply_moved(&mut self, record: &Record, hash: RecordHash, place: Place) {
        let volume = record.volume;
        let Some(log) = self.volumes.get_mut(&volume) else { return };
        if !log.moved(record, hash, place) {
            return;
        }
        let end = log.end();
        let fresh = RecapItem { volume, forgotten: false, meta: false, from: Some(record.seq), end };
        let item = self.touched.entry(volume).or_insert(fresh);
        item.from = Some(item.from.map_or(record.seq, |from| from.min(record.seq)));
    }

    /// What the entries since the last call did: the recap that the next group carries.
    pub fn take_recap(&mut self) -> Vec<RecapItem> {
        std::mem::take(&mut self.touched).into_values().collect()
    }

    pub fn heads(&self) -> Vec<VolumeHead> {
        self.volumes.iter().map(|(&volume, log)| log.head(volume)).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::{Kind, Origin};

    /// The next record of a volume's chain.
    pub(crate) fn record_after(volume: u128, end: LogEnd, epoch: u64, payload: &[u8]) -> Record {
        let payload = Bytes::copy_from_slice(payload);
        Record {
            volume: VolumeId(volume),
            lineage: 1,
            epoch: Epoch { n: epoch, writer: 9 },
            seq: end.seq.next(),
            prev_hash: end.hash,
            kind: Kind::Noop,
            offset: 0,
            length: 0,
            origin: Origin::default(),
            payload_crc: crc32fast::hash(&payload),
            payload,
        }
    }

    const PLACE: Place = Place { segment: 1, offset: 4096, len: 144 };

    fn filled(epochs: &[u64]) -> (Log, VolumeId) {
        let (mut log, volume) = (Log::default(), VolumeId(1));
        for &epoch in epochs {
            let end = log.volumes.get(&volume).map(VolumeLog::end).unwrap_or_default();
            let record = record_after(1, end, epoch, b"");
            log.apply(&Entry::Record(record.clone()), record.hash(), PLACE).unwrap();
        }
        (log, volume)
    }

    fn epochs_of(log: &Log) -> Vec<(u64, u64)> {
        log.volumes[&VolumeId(1)].epochs().iter().map(|(epoch, seq)| (epoch.n, seq.0)).collect()
    }

    #[test]
    fn epochs_follow_appends_truncations_and_the_floor() {
        let (mut log, volume) = filled(&[1, 1, 2, 2, 2, 4]);
        assert_eq!(epochs_of(&log), [(1, 1), (2, 3), (4, 6)]);
        log.apply(&Entry::Truncate { volume, after: Seq(4) }, RecordHash::default(), LOST).unwrap();
        assert_eq!(epochs_of(&log), [(1, 1), (2, 3)]);
        assert_eq!(log.volumes[&volume].end().epoch.n, 2);
        log.volumes.get_mut(&volume).unwrap().raise_floor(Seq(3));
        assert_eq!(epochs_of(&log), [(2, 4)]);
        assert_eq!(log.volumes[&volume].floor(), Seq(4));
        log.volumes.get_mut(&volume).unwrap().raise_floor(Seq(9));
        assert_eq!(epochs_of(&log), []);
        let end = log.volumes[&volume].end();
        assert_eq!((end.seq, end.epoch.n), (Seq(4), 2));
        let next = record_after(1, end, 5, b"");
        log.apply(&Entry::Record(next.clone()), next.hash(), PLACE).unwrap();
        assert_eq!(epochs_of(&log), [(5, 5)]);
    }

    #[test]
    fn only_what_continues_the_chain_is_taken() {
        let (mut log, volume) = filled(&[1, 1]);
        let end = log.volumes[&volume].end();
        let good = record_after(1, end, 1, b"");
        let skipping = Record { seq: Seq(4), ..good.clone() };
        let other = Record { prev_hash: RecordHash(3), ..good.clone() };
        let again = Record { seq: Seq(2), ..good.clone() };
        let mut apply = |record: &Record| log.apply(&Entry::Record(record.clone()), record.hash(), PLACE);
        assert!(matches!(apply(&skipping), Err(LogError::OutOfOrder { .. })));
        assert!(matches!(apply(&again), Err(LogError::OutOfOrder { .. })));
        assert!(matches!(apply(&other), Err(LogError::ChainBroken { .. })));
        apply(&good).unwrap();
    }

    #[test]
    fn a_lost_record_is_damage_until_it_is_filled_again() {
        let (mut log, volume) = filled(&[1, 1, 1]);
        let end = log.volumes[&volume].end_at(Seq(1));
        log.volumes.get_mut(&volume).unwrap().mark_lost(Seq(2));
        assert_eq!(log.volumes[&volume].damaged(), Some(Seq(2)));
        assert_eq!(log.volumes[&volume].place(Seq(2)), Some(None));
        let repair = record_after(1, end, 1, b"");
        log.apply(&Entry::Record(repair.clone()), repair.hash(), PLACE).unwrap();
        assert_eq!(log.volumes[&volume].damaged(), None);
        assert_eq!(log.volumes[&volume].last_seq(), Seq(3));
    }

    #[test]
    fn filled_places_get_their_epochs_back_in_any_order() {
        let (whole, volume) = filled(&[1, 1, 2, 3, 3]);
        let mut records = Vec::new();
        let mut end = LogEnd::default();
        for epoch in [1, 1, 2, 3, 3] {
            let record = record_after(1, end, epoch, b"");
            end = LogEnd { seq: record.seq, hash: record.hash(), epoch: record.epoch };
            records.push(record);
        }
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]] {
            let mut log = Log::default();
            log.apply(&Entry::Restart { volume, end: LogEnd::default() }, RecordHash::default(), LOST).unwrap();
            log.volumes.get_mut(&volume).unwrap().lose(Seq(1), end);
            for at in order {
                log.apply_moved(&records[at], records[at].hash(), PLACE);
            }
            assert_eq!(epochs_of(&log), epochs_of(&whole), "{order:?}");
            assert_eq!(log.volumes[&volume].damaged(), None);
        }
    }

    #[test]
    fn the_recap_names_the_first_seq_touched_and_the_end() {
        let (mut log, volume) = filled(&[1, 1, 1]);
        log.take_recap();
        log.apply(&Entry::Truncate { volume, after: Seq(1) }, RecordHash::default(), LOST).unwrap();
        let end = log.volumes[&volume].end();
        let record = record_after(1, end, 2, b"");
        log.apply(&Entry::Record(record.clone()), record.hash(), PLACE).unwrap();
        let recap = log.take_recap();
        assert_eq!(recap.len(), 1);
        assert_eq!((recap[0].from, recap[0].end.seq, recap[0].meta), (Some(Seq(2)), Seq(2), false));
        assert!(log.take_recap().is_empty());
    }

    #[test]
    fn a_slot_stays_compact() {
        assert_eq!(std::mem::size_of::<Slot>(), 28);
    }
}
