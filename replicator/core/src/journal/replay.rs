//! Turns groups that were read back into the index, and what was lost between them into named damage.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Seq, VolumeId};
use crate::journal::entry::{Entry, Item, LogEnd, RecapItem, VolumeHead};
use crate::journal::group::{FLAG_AFTER_LOSS, FLAG_HEAD, FLAG_HEAD_END, GroupHeader};
use crate::journal::log::{Log, LogError, Place};
use crate::record::{Record, RecordHash};
use crate::sabotage::{Sabotage, broken};

/// Feeds the planned groups, in order, into a [`Log`].
#[derive(Default)]
pub struct Replay {
    pub log: Log,
    /// Groups lost just before the one to come.
    lost: u64,
    /// Older segments than the first one replayed should have been there.
    start_lost: bool,
    begun: bool,
    /// Volumes that the head of the segment being replayed names so far; `None` when a part of it is lost.
    named: Option<BTreeSet<VolumeId>>,
    /// Records up to here were given up rightly with the segments before the first, if no copy of them turns up.
    given_up: BTreeMap<VolumeId, Seq>,
}

impl Replay {
    /// The first segments, which should be there, are not.
    pub fn start_is_lost(&mut self) {
        self.start_lost = true;
        self.lost = u64::MAX;
    }

    /// This many groups are lost here.
    pub fn groups_lost(&mut self, count: u64) {
        self.lost = self.lost.saturating_add(count);
    }

    /// One whole group. `items` come with their offsets in it, as the decoder gave them.
    pub fn group(&mut self, header: &GroupHeader, items: &[(Item, usize)]) {
        let recap = items.iter().find_map(|(item, _)| if let Item::Recap(recap) = item { Some(recap) } else { None });
        if self.lost > 0 {
            self.named = None;
        }
        if header.is(FLAG_HEAD) && header.offset == 0 {
            self.named = Some(BTreeSet::new());
        }
        self.account_for_losses(header, recap.map_or(&[], Vec::as_slice));
        for (item, at) in items {
            match item {
                Item::Entry(entry) => self.entry(header, entry, *at),
                Item::Head(head) => self.head(head),
                Item::Moved(record) => self.log.apply_moved(record, record.hash(), place_of(header, record, *at)),
                Item::Recap(_) => {}
            }
        }
        if header.is(FLAG_HEAD_END) {
            self.head_is_complete();
        }
    }

    /// The end: what is still unproven stays so. Returns the index and the recap of the last group.
    pub fn finish(mut self) -> (Log, Option<Vec<RecapItem>>) {
        let recap = self.log.take_recap();
        for (volume, upto) in std::mem::take(&mut self.given_up) {
            if let Some(log) = self.log.volumes.get_mut(&volume) {
                log.skip_placeless(upto);
            }
        }
        if self.lost > 0 {
            self.doubt_everyone();
            return (self.log, None);
        }
        (self.log, Some(recap))
    }

    fn account_for_losses(&mut self, header: &GroupHeader, recap: &[RecapItem]) {
        self.log.take_recap();
        let lost = std::mem::take(&mut self.lost);
        if lost == 0 || broken(Sabotage::LossUnnoticed) {
            return;
        }
        if lost > 1 || header.is(FLAG_AFTER_LOSS) {
            self.doubt_everyone();
        }
        for item in recap {
            self.lose(item);
        }
    }

    /// Several groups are gone, so that no recap tells whom they concerned.
    fn doubt_everyone(&mut self) {
        for log in self.log.volumes.values_mut() {
            log.unproven = true;
            log.meta_damaged = true;
        }
    }

    fn lose(&mut self, item: &RecapItem) {
        if item.forgotten {
            self.log.volumes.remove(&item.volume);
            if item.from.is_none() && !item.meta {
                return;
            }
        }
        self.limit_given_up(item.volume, item.from.map_or(Seq(u64::MAX), Seq::prev));
        let log = self.log.volumes.entry(item.volume).or_default();
        log.meta_damaged |= item.meta || item.forgotten;
        if let Some(from) = item.from {
            log.lose(from, item.end);
        }
    }

    fn entry(&mut self, header: &GroupHeader, entry: &Entry, at: usize) {
        let Entry::Record(record) = entry else {
            match entry {
                Entry::Forget { volume } | Entry::Restart { volume, .. } => self.limit_given_up(*volume, Seq::ZERO),
                Entry::Truncate { volume, after } => self.limit_given_up(*volume, *after),
                Entry::Record(_) | Entry::Meta { .. } => {}
            }
            // Only records can be refused.
            let _ = self.log.apply(entry, RecordHash::default(), Place::default());
            return;
        };
        let place = place_of(header, record, at);
        let proven = self.continues_an_unproven_log(record);
        if self.log.apply(entry, record.hash(), place).is_err() {
            self.make_room(record);
            let refused: Result<(), LogError> = self.log.apply(entry, record.hash(), place);
            assert!(refused.is_ok(), "a record was refused although its log had been cut to fit it");
        }
        if proven && let Some(log) = self.log.volumes.get_mut(&record.volume) {
            log.unproven = false;
        }
    }

    /// Whatever has no place after this seq was not there when the first segment was begun: it is missing for another
    /// reason than having been given up.
    fn limit_given_up(&mut self, volume: VolumeId, upto: Seq) {
        if let Some(given_up) = self.given_up.get_mut(&volume) {
            *given_up = upto.min(*given_up);
        }
    }

    /// The hash chain itself proves that nothing of this volume's log was lost.
    fn continues_an_unproven_log(&self, record: &Record) -> bool {
        self.log.volumes.get(&record.volume).is_some_and(|log| {
            let end = log.end();
            log.unproven
                && record.seq == end.seq.next()
                && end.hash != RecordHash::default()
                && record.prev_hash == end.hash
        })
    }

    /// A record that does not fit: what would have made it fit is lost. Its place in the order is true all the same.
    fn make_room(&mut self, record: &Record) {
        self.limit_given_up(record.volume, record.seq.prev());
        let log = self.log.volumes.entry(record.volume).or_default();
        let last = log.last_seq();
        let before = LogEnd { seq: record.seq.prev(), hash: record.prev_hash, ..LogEnd::default() };
        log.lost_from = Some(log.lost_from.unwrap_or(Seq(u64::MAX)).min(last.next()).min(record.seq));
        if record.seq > last.next() {
            let lost_from = log.lost_from;
            log.lose(last.next(), before);
            log.lost_from = lost_from;
        } else {
            // A truncation is lost, and with it whatever followed up to this record.
            let damaged = log.lost_from;
            let _ = self.log.apply(
                &Entry::Restart { volume: record.volume, end: before },
                RecordHash::default(),
                Place::default(),
            );
            if let Some(log) = self.log.volumes.get_mut(&record.volume) {
                log.lost_from = damaged;
            }
        }
    }

    fn head(&mut self, head: &VolumeHead) {
        if let Some(named) = &mut self.named {
            named.insert(head.volume);
        };
        let (begun, start_lost) = (self.begun, self.start_lost);
        let log = self.log.volumes.entry(head.volume).or_default();
        // A head repeats the newest metadata, so it heals a lost one.
        log.meta.clone_from(&head.meta);
        log.meta_damaged = false;
        let Some((base, last)) = head.log else { return };
        if !log.has_log() && !begun {
            // Earlier records may turn up as copies. Those that do not were given up rightly, unless segments are
            // missing before this first one.
            let restart = Entry::Restart { volume: head.volume, end: base };
            // Only records can be refused.
            let _ = self.log.apply(&restart, RecordHash::default(), Place::default());
            let Some(log) = self.log.volumes.get_mut(&head.volume) else { return };
            log.lose(base.seq.next(), last);
            if !start_lost {
                log.lost_from = None;
                self.given_up.insert(head.volume, last.seq);
            }
            return;
        }
        if !begun && base.seq < log.base().seq {
            // Records before the first ones found were retained then; they may have been in what is missing.
            log.lost_from = Some(base.seq.next());
        }
        if log.has_log() && log.end() == last {
            log.unproven = false;
        } else if !log.has_log() || log.unproven || log.last_seq() != last.seq {
            // The log went on in groups that are lost.
            let from = log.last_seq().next().min(last.seq);
            let from = if log.has_log() { from } else { base.seq.next() };
            let unproven = log.has_log() && log.last_seq() >= last.seq;
            log.lose(from, last);
            log.unproven = unproven;
        }
    }

    /// A volume that a complete head does not name was forgotten in a group that is lost.
    fn head_is_complete(&mut self) {
        self.begun = true;
        if let Some(named) = self.named.take() {
            self.log.volumes.retain(|volume, _| named.contains(volume));
        }
        self.log.take_recap();
    }
}

fn place_of(header: &GroupHeader, record: &Record, at: usize) -> Place {
    Place {
        segment: header.segment,
        offset: u32::try_from(header.offset + at as u64).unwrap_or(u32::MAX),
        len: record.encoded_len() as u32,
    }
}
