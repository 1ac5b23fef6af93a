//! The segments: which are in use, what they hold that is still needed, which is recycled next.
//!
//! Segments are recycled strictly from the oldest on. So a truncation, which always comes later than what it hides, is
//! kept as long as that without any further care.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::{Seq, VolumeId};
use crate::journal::entry::Entry;
use crate::journal::log::Log;
use crate::journal::recovery::Plan;
use crate::journal::scan::SegmentScan;
use crate::sabotage::{Sabotage, broken};

/// The newest segment and the one before it always stay: every volume's metadata is in two places then.
const LIVE_MIN: usize = 2;

#[derive(Debug, Clone)]
pub struct Segment {
    pub generation: u64,
    pub number: u32,
    pub used_bytes: u64,
    /// The last record of each volume in it that is not hidden.
    pub holds: BTreeMap<VolumeId, Seq>,
}

/// How far a volume's owner has got.
#[derive(Debug, Clone, Copy, Default)]
pub struct Marks {
    pub checkpoint: Seq,
    pub keep: Seq,
}

/// The records to be copied out of the oldest segment.
#[derive(Debug, Clone)]
pub struct Move {
    pub generation: u64,
    pub records: Vec<(VolumeId, Seq)>,
    /// Of the volumes concerned, as they were when the records were listed.
    pub checkpoints: Vec<(VolumeId, Seq)>,
}

/// `F` is whatever the driver reads and writes a segment's file by.
#[derive(Debug, Clone)]
pub struct Segments<F> {
    /// From the oldest to the one being written.
    pub live: VecDeque<Segment>,
    /// With the generation of their last use.
    pub free: Vec<(u32, u64)>,
    /// By number.
    pub files: Vec<F>,
    pub max: u32,
    pub segment_bytes: u64,
    /// What the last durable group names as the oldest needed; segments below may be overwritten.
    pub durable_oldest: u64,
    pub marks: BTreeMap<VolumeId, Marks>,
    pub allocation_error: Option<String>,
}

impl<F> Default for Segments<F> {
    fn default() -> Segments<F> {
        Segments {
            live: VecDeque::new(),
            free: Vec::new(),
            files: Vec::new(),
            max: 0,
            segment_bytes: 0,
            durable_oldest: 0,
            marks: BTreeMap::new(),
            allocation_error: None,
        }
    }
}

/// How large a journal must be for so many volumes to have such a share each.
pub fn budget_for(volumes: usize, share_bytes: u64, segment_bytes: u64) -> u64 {
    (2 * share_bytes * volumes as u64 + 2 * segment_bytes).next_multiple_of(segment_bytes)
}

impl<F> Segments<F> {
    /// As recovery found them. Whatever is free may be overwritten at once: a durable group said so, or nothing of it
    /// counts.
    pub fn recovered(
        plan: &Plan,
        scans: &[SegmentScan],
        log: &Log,
        files: Vec<F>,
        max: u32,
        segment_bytes: u64,
    ) -> Segments<F> {
        let mut by_number: BTreeMap<u32, Segment> = BTreeMap::new();
        for &(generation, number) in &plan.live {
            let groups = scans.iter().find(|scan| scan.number == number).map(|scan| &scan.groups);
            let used_bytes = groups.and_then(|groups| groups.last()).map_or(0, |found| found.header.end());
            by_number.insert(number, Segment { generation, number, used_bytes, holds: BTreeMap::new() });
        }
        for (&volume, log) in &log.volumes {
            for (seq, place) in log.places() {
                if let Some(segment) = by_number.get_mut(&place.segment) {
                    segment.holds.insert(volume, seq);
                }
            }
        }
        Segments {
            live: plan.live.iter().filter_map(|(_, number)| by_number.remove(number)).collect(),
            free: plan.free.iter().map(|&number| (number, 0)).collect(),
            max: max.max(files.len() as u32),
            files,
            segment_bytes,
            durable_oldest: plan.resume.map_or(1, |resume| resume.oldest.max(1)),
            ..Segments::default()
        }
    }

    pub fn oldest(&self) -> u64 {
        self.live.front().map_or(0, |segment| segment.generation)
    }

    pub fn total(&self) -> u32 {
        self.files.len() as u32
    }

    /// Few segments are left: records kept for catch-up only must go.
    pub fn space_is_short(&self) -> bool {
        let left = self.free.len() as u32 + (self.max - self.total().min(self.max));
        left < (self.max / 4).max(3)
    }

    /// Gives up the oldest segments that hold nothing needed. Returns whether any was.
    pub fn recycle(&mut self, log: &mut Log, ahead: &mut Log) -> bool {
        let mut any = false;
        while self.live.len() > LIVE_MIN && self.oldest_is_unneeded(log) {
            let Some(segment) = self.live.pop_front() else { break };
            for (volume, &last) in &segment.holds {
                for log in [&mut *log, &mut *ahead] {
                    if let Some(log) = log.volumes.get_mut(volume) {
                        log.raise_floor(last);
                    }
                }
            }
            self.free.push((segment.number, segment.generation));
            any = true;
        }
        any
    }

    fn oldest_is_unneeded(&self, log: &Log) -> bool {
        self.holders(log, self.space_is_short()).is_empty() || broken(Sabotage::SegmentReusedEarly)
    }

    /// The volumes that still need the oldest segment.
    pub fn holders(&self, log: &Log, short: bool) -> Vec<VolumeId> {
        let Some(oldest) = self.live.front() else { return Vec::new() };
        let needs = |(volume, last): (&VolumeId, &Seq)| {
            let marks = self.marks.get(volume).copied().unwrap_or_default();
            let needed = *last > marks.checkpoint || (!short && *last > marks.keep);
            (needed && log.volumes.contains_key(volume)).then_some(*volume)
        };
        oldest.holds.iter().filter_map(needs).collect()
    }

    /// Notes what a durable entry does to what segments hold.
    pub fn note(&mut self, entry: &Entry) {
        match entry {
            Entry::Record(record) => self.note_newest(record.volume, record.seq),
            Entry::Truncate { volume, after } => {
                for segment in &mut self.live {
                    if let Some(last) = segment.holds.get_mut(volume) {
                        *last = (*last).min(*after);
                    }
                }
            }
            Entry::Forget { volume } | Entry::Restart { volume, .. } => {
                for segment in &mut self.live {
                    segment.holds.remove(volume);
                }
                self.marks.remove(volume);
            }
            Entry::Meta { .. } => {}
        }
    }

    /// The segment being written holds this record.
    pub fn note_newest(&mut self, volume: VolumeId, seq: Seq) {
        if let Some(newest) = self.live.back_mut() {
            let last = newest.holds.entry(volume).or_default();
            *last = seq.max(*last);
        }
    }

    /// What half of the segments hold: more than that is never needed at once, so that there is always something to
    /// gain from moving records out of the oldest segment.
    pub fn shared_bytes(&self) -> u64 {
        u64::from(self.max.saturating_sub(2)) * self.segment_bytes / 2
    }

    /// What each of so many volumes may hold, whatever the others do.
    pub fn share_bytes(&self, volumes: usize) -> u64 {
        self.shared_bytes() / (volumes as u64).max(1)
    }

    /// Whether the oldest segment should be emptied now, by copying what is needed in it to the newest one.
    pub fn wants_move(&self, log: &Log, needed_bytes: u64) -> bool {
        let can_grow = self.total() < self.max && self.allocation_error.is_none();
        self.free.len() <= 2
            && !can_grow
            && self.live.len() > LIVE_MIN
            // The last group to be let in may have gone beyond it, by a third of a segment.
            && needed_bytes <= self.shared_bytes() + self.segment_bytes / 2
            && !self.holders(log, true).is_empty()
    }

    /// What has to be copied for the oldest segment to go, if that is wanted and there is room for it: `room_bytes` in
    /// the newest, of which `overhead_bytes` are for what is not records.
    pub fn plan_move(&self, log: &Log, needed_bytes: u64, room_bytes: u64, overhead_bytes: u64) -> Option<Move> {
        if !self.wants_move(log, needed_bytes) {
            return None;
        }
        let oldest = self.live.front()?;
        let mut work = Move { generation: oldest.generation, records: Vec::new(), checkpoints: Vec::new() };
        let mut bytes = 0;
        for volume in self.holders(log, true) {
            let checkpoint = self.marks.get(&volume).copied().unwrap_or_default().checkpoint;
            work.checkpoints.push((volume, checkpoint));
            let Some(log) = log.volumes.get(&volume) else { continue };
            let in_oldest = log.places().filter(|(seq, place)| *seq > checkpoint && place.segment == oldest.number);
            for (seq, place) in in_oldest {
                work.records.push((volume, seq));
                bytes += u64::from(place.len);
            }
        }
        // The last free segment is metadata's.
        (self.free.len() >= 2 || bytes + bytes / 8 + overhead_bytes < room_bytes).then_some(work)
    }

    /// The oldest segment's needed records have copies further on.
    pub fn has_moved(&mut self, work: &Move) {
        let Some(oldest) = self.live.front_mut() else { return };
        if oldest.generation != work.generation {
            return;
        }
        for (volume, checkpoint) in &work.checkpoints {
            if let Some(last) = oldest.holds.get_mut(volume) {
                *last = (*last).min(*checkpoint);
            }
        }
    }

    /// A new segment file is whole and named in the superblock.
    pub fn adopt(&mut self, file: F) {
        self.free.push((self.total(), 0));
        self.files.push(file);
    }

    /// A segment that may be overwritten now, if there is one.
    pub fn take_free(&mut self) -> Option<u32> {
        let at = self.free.iter().position(|&(_, generation)| generation < self.durable_oldest)?;
        Some(self.free.swap_remove(at).0)
    }

    /// Volumes that hold more un-checkpointed bytes than their share, when space is short or as much is needed as may be;
    /// they wait.
    pub fn over_share(&self, log: &Log, needed: &BTreeMap<VolumeId, u64>) -> BTreeSet<VolumeId> {
        if !self.space_is_short() && needed.values().sum::<u64>() <= self.shared_bytes() {
            return BTreeSet::new();
        }
        let needy = needed.iter().filter(|&(volume, &bytes)| bytes > 0 && log.volumes.contains_key(volume));
        let share = self.share_bytes(needy.clone().count());
        needy.filter(|&(_, &bytes)| bytes > share).map(|(&volume, _)| volume).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::log::VolumeLog;

    const V: VolumeId = VolumeId(1);
    const W: VolumeId = VolumeId(2);

    fn segments(holds: &[&[(VolumeId, u64)]]) -> (Segments<()>, Log) {
        let mut out = Segments { max: 20, segment_bytes: 100, ..Segments::default() };
        for (at, holds) in holds.iter().enumerate() {
            out.live.push_back(Segment {
                generation: at as u64 + 1,
                number: at as u32,
                used_bytes: 0,
                holds: holds.iter().map(|&(volume, last)| (volume, Seq(last))).collect(),
            });
        }
        let mut log = Log::default();
        log.volumes.insert(V, VolumeLog::default());
        log.volumes.insert(W, VolumeLog::default());
        (out, log)
    }

    fn mark(segments: &mut Segments<()>, volume: VolumeId, checkpoint: u64, keep: u64) {
        segments.marks.insert(volume, Marks { checkpoint: Seq(checkpoint), keep: Seq(keep) });
    }

    #[test]
    fn the_oldest_goes_when_nobody_needs_it_and_two_always_stay() {
        let (mut segments, mut log) = segments(&[&[(V, 5), (W, 3)], &[(V, 9)], &[(W, 4)], &[]]);
        let mut ahead = log.clone();
        assert_eq!(segments.holders(&log, false), [V, W]);
        mark(&mut segments, V, 9, 9);
        mark(&mut segments, W, 2, 2);
        assert!(!segments.recycle(&mut log, &mut ahead));
        assert_eq!(segments.holders(&log, false), [W]);
        mark(&mut segments, W, 4, 4);
        assert!(segments.recycle(&mut log, &mut ahead));
        assert_eq!(segments.live.len(), 2);
        assert_eq!(segments.oldest(), 3);
    }

    #[test]
    fn what_is_kept_for_catch_up_goes_only_when_space_is_short() {
        let (mut segments, mut log) = segments(&[&[(V, 5)], &[], &[]]);
        let mut ahead = log.clone();
        mark(&mut segments, V, 9, 0);
        assert!(!segments.recycle(&mut log, &mut ahead));
        segments.max = 2;
        assert!(segments.recycle(&mut log, &mut ahead));
    }

    #[test]
    fn forgotten_and_truncated_records_hold_nothing() {
        let (mut segments, log) = segments(&[&[(V, 5), (W, 7)], &[], &[]]);
        mark(&mut segments, W, 3, 3);
        segments.note(&Entry::Forget { volume: V });
        segments.note(&Entry::Truncate { volume: W, after: Seq(3) });
        assert!(segments.holders(&log, false).is_empty());
    }

    #[test]
    fn a_freed_segment_waits_until_a_durable_group_says_so() {
        let (mut segments, _) = segments(&[]);
        segments.free = vec![(4, 7)];
        segments.durable_oldest = 7;
        assert_eq!(segments.take_free(), None);
        segments.durable_oldest = 8;
        assert_eq!(segments.take_free(), Some(4));
    }

    #[test]
    fn a_budget_for_some_volumes_gives_each_its_share() {
        for volumes in [1, 2, 7, 40] {
            let (mut segments, _) = segments(&[]);
            let budget = budget_for(volumes, 230, segments.segment_bytes);
            segments.max = (budget / segments.segment_bytes) as u32;
            assert!(segments.share_bytes(volumes) >= 230, "{volumes}");
            segments.max -= 1;
            assert!(segments.share_bytes(volumes) < 230, "{volumes}: less would do");
        }
    }

    #[test]
    fn only_who_holds_more_than_its_share_waits_and_only_when_space_is_short() {
        let (mut segments, log) = segments(&[]);
        let needed = BTreeMap::from([(V, 1000), (W, 10)]);
        segments.max = 2;
        assert_eq!(segments.over_share(&log, &needed), BTreeSet::from([V, W]));
        segments.max = 32;
        assert!(segments.over_share(&log, &needed).is_empty(), "files can still be made");
        // As long as half of the segments is enough for what is needed, the others can be emptied into them.
        segments.max = 12;
        assert_eq!(segments.over_share(&log, &needed), BTreeSet::from([V]));
    }
}
