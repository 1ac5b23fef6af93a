//! The recovery rules on small journals in memory: everything that can be tried is tried.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::{Seq, VolumeId};
use crate::journal::entry::{Entry, LogEnd, RecapItem, decode_items, put_entry, put_head, put_moved, put_recap};
use crate::journal::group::{BodySum, FLAG_AFTER_LOSS, FLAG_HEAD, FLAG_HEAD_END, GroupBuilder, GroupHeader};
use crate::journal::log::tests::record_after;
use crate::journal::log::{Log, Place};
use crate::journal::recovery::{Plan, Rule, Step, decide};
use crate::journal::replay::Replay;
use crate::journal::scan::{SegmentScan, scan};
use crate::record::{Record, RecordHash};

const JOURNAL: u128 = 0x77;
const SEGMENT_BYTES: usize = 16 * 4096;
const V: VolumeId = VolumeId(1);
const W: VolumeId = VolumeId(2);

/// A journal's disk and its writer, as simple as can be.
#[derive(Clone)]
struct Sim {
    segments: Vec<Vec<u8>>,
    log: Log,
    segment: u32,
    generation: u64,
    offset: usize,
    index: u64,
    oldest: u64,
    prev_crc: Option<u32>,
    recap: Option<Vec<RecapItem>>,
    /// Headers of all groups written, by index.
    written: BTreeMap<u64, GroupHeader>,
}

impl Sim {
    fn new(segments: usize) -> Sim {
        let mut sim = Sim {
            segments: vec![vec![0; SEGMENT_BYTES]; segments],
            log: Log::default(),
            segment: 0,
            generation: 0,
            offset: 0,
            index: 1,
            oldest: 1,
            prev_crc: Some(0),
            recap: Some(Vec::new()),
            written: BTreeMap::new(),
        };
        sim.rotate(0);
        sim
    }

    /// Encodes the next group without writing it.
    fn encode(&self, flags: u16, fill: impl FnOnce(&mut GroupBuilder)) -> (GroupHeader, Vec<u8>) {
        let mut builder = GroupBuilder::new(Vec::new());
        let mut flags = flags;
        match (&self.recap, self.prev_crc) {
            (Some(recap), Some(_)) => put_recap(&mut builder, recap),
            _ => flags |= FLAG_AFTER_LOSS,
        }
        fill(&mut builder);
        builder.finish(GroupHeader {
            journal: JOURNAL,
            generation: self.generation,
            offset: self.offset as u64,
            segment: self.segment,
            entries: 0,
            body_bytes: 0,
            body_sum: BodySum::NONE,
            index: self.index,
            oldest: self.oldest,
            prev_crc: self.prev_crc.unwrap_or_default(),
            flags,
        })
    }

    fn put(&mut self, header: GroupHeader, bytes: &[u8]) {
        self.segments[self.segment as usize][self.offset..self.offset + bytes.len()].copy_from_slice(bytes);
        self.offset += bytes.len();
        self.index += 1;
        self.prev_crc = Some(header.crc());
        self.written.insert(header.index, header);
    }

    /// Copies records to where the writer is.
    fn move_records(&mut self, volume: VolumeId, records: &[Record]) {
        let (header, bytes) = self.encode(0, |builder| {
            records.iter().for_each(|record| {
                put_moved(builder, record);
            });
        });
        for record in records {
            assert_eq!(record.volume, volume);
            let place = Place { segment: self.segment, offset: header.offset as u32 + 1, len: 1 };
            self.log.apply_moved(record, record.hash(), place);
        }
        self.put(header, &bytes);
        self.recap = Some(self.log.take_recap());
    }

    /// A segment whose head comes in two parts.
    fn rotate_in_two(&mut self, number: u32) {
        (self.segment, self.offset, self.generation) = (number, 0, self.generation + 1);
        let heads = self.log.heads();
        let (some, others) = heads.split_at(1);
        for (part, flags) in [(some, FLAG_HEAD), (others, FLAG_HEAD + FLAG_HEAD_END)] {
            let (header, bytes) = self.encode(flags, |builder| part.iter().for_each(|head| put_head(builder, head)));
            self.put(header, &bytes);
            self.recap = Some(Vec::new());
        }
    }

    fn rotate(&mut self, number: u32) {
        (self.segment, self.offset, self.generation) = (number, 0, self.generation + 1);
        let heads = self.log.heads();
        let (header, bytes) =
            self.encode(FLAG_HEAD + FLAG_HEAD_END, |builder| heads.iter().for_each(|head| put_head(builder, head)));
        self.put(header, &bytes);
        self.recap = Some(Vec::new());
    }

    fn write(&mut self, entries: &[Entry]) {
        let (header, bytes) = self.encode(0, |builder| {
            entries.iter().for_each(|entry| {
                put_entry(builder, entry);
            });
        });
        for entry in entries {
            let hash = if let Entry::Record(record) = entry { record.hash() } else { RecordHash::default() };
            self.log.apply(entry, hash, Place { segment: self.segment, offset: 1, len: 1 }).unwrap();
        }
        self.put(header, &bytes);
        self.recap = Some(self.log.take_recap());
    }

    fn record(&self, volume: VolumeId, epoch: u64, len: usize) -> Entry {
        let end = self.log.volumes.get(&volume).map(|log| log.end()).unwrap_or_default();
        Entry::Record(record_after(volume.0, end, epoch, &vec![epoch as u8; len]))
    }

    fn append(&mut self, volume: VolumeId, epoch: u64, len: usize) {
        let record = self.record(volume, epoch, len);
        self.write(&[record]);
    }

    fn meta(&mut self, volume: VolumeId, blob: &'static str) {
        self.write(&[Entry::Meta { volume, blob: Bytes::from_static(blob.as_bytes()) }]);
    }

    fn scans(&self) -> Vec<SegmentScan> {
        let scan = |(number, bytes): (usize, &Vec<u8>)| {
            scan(JOURNAL, number as u32, &mut Bytes::copy_from_slice(bytes)).unwrap()
        };
        self.segments.iter().enumerate().map(scan).collect()
    }

    fn recover(&self) -> (Rule, Plan, Log, Option<Vec<RecapItem>>) {
        let (rule, plan) = decide(&self.scans(), true);
        let mut replay = Replay::default();
        for step in &plan.steps {
            match step {
                Step::StartLost => replay.start_is_lost(),
                Step::Lost(count) => replay.groups_lost(*count),
                Step::Replay(header) => {
                    let segment = &self.segments[header.segment as usize];
                    let group = Bytes::copy_from_slice(&segment[header.offset as usize..header.end() as usize]);
                    let items = decode_items(header.body(&group).unwrap(), header.entries).unwrap();
                    replay.group(header, &items);
                }
            }
        }
        let (log, recap) = replay.finish();
        (rule, plan, log, recap)
    }

    /// What a start does: settle the tail, go on from there with a bare group.
    fn restart(&mut self) -> (Rule, Log) {
        let (rule, plan, log, recap) = self.recover();
        let resume = plan.resume.unwrap();
        for &(segment, offset) in &plan.erase {
            if Some((segment, offset)) != resume.offset.map(|at| (resume.segment, at)) {
                self.segments[segment as usize][offset as usize..offset as usize + 4096].fill(0);
            }
        }
        (self.segment, self.generation, self.index) = (resume.segment, resume.generation, resume.index);
        (self.oldest, self.prev_crc, self.recap) = (resume.oldest, resume.prev_crc, recap);
        self.log = log.clone();
        match resume.offset {
            Some(offset) => {
                self.offset = offset as usize;
                self.write(&[]);
            }
            None => {
                let free = plan.free[0];
                self.rotate(free);
            }
        }
        (rule, log)
    }
}

/// What matters of a log, to compare.
type Summary = (LogEnd, Seq, Option<Bytes>, Option<Seq>, bool);

fn summary(log: &Log, volume: VolumeId) -> Option<Summary> {
    log.volumes.get(&volume).map(|log| (log.end(), log.floor(), log.meta.clone(), log.damaged(), log.meta_damaged))
}

/// Records, metadata, a truncation, over three segments; the first is recycled for the last.
fn sample() -> Sim {
    let mut sim = Sim::new(3);
    sim.meta(V, "v1");
    sim.meta(W, "w1");
    for _ in 0..3 {
        sim.append(V, 1, 5000);
    }
    sim.append(W, 1, 10);
    sim.rotate(1);
    sim.append(V, 1, 100);
    sim.write(&[Entry::Truncate { volume: V, after: Seq(2) }]);
    sim.append(V, 2, 100);
    sim.rotate(2);
    sim.append(W, 1, 9000);
    // Two volumes' worth of segment 0 is given up; its file is used again.
    sim.oldest = 2;
    sim.meta(W, "w2");
    for volume in [V, W] {
        let in_first = Seq(if volume == V { 2 } else { 1 });
        sim.log.volumes.get_mut(&volume).unwrap().raise_floor(in_first);
    }
    sim.rotate(0);
    sim.append(V, 2, 20);
    sim.append(W, 1, 30);
    sim
}

#[test]
fn an_unharmed_journal_recovers_exactly_and_again_after_each_restart() {
    let mut sim = sample();
    for _ in 0..3 {
        let truth = sim.log.clone();
        let (rule, log) = sim.restart();
        assert_eq!(rule, Rule::Clean);
        for volume in [V, W] {
            assert_eq!(summary(&log, volume), summary(&truth, volume));
        }
        assert_eq!(log.volumes[&V].epochs(), truth.volumes[&V].epochs());
        sim.append(V, 3, 10);
    }
}

#[test]
fn nothing_and_nothing_left_are_told_apart() {
    let empty = Sim { segments: vec![vec![0; SEGMENT_BYTES]; 2], ..Sim::new(2) };
    assert_eq!(decide(&empty.scans(), false).0, Rule::Fresh);
    assert_eq!(decide(&empty.scans(), true).0, Rule::Gone);
    assert_eq!(decide(&[], false).0, Rule::Fresh);
}

/// A write that stops after any byte, over zeroes and over what a former life left there, is absent or whole.
#[test]
fn a_group_torn_at_every_byte_is_absent_and_nothing_else_is() {
    for mut before in [sample(), {
        let mut s = sample();
        s.restart();
        s
    }] {
        let noise: Vec<u8> = (0..SEGMENT_BYTES).map(|at| (at * 31 % 251) as u8).collect();
        let at = before.offset;
        if before.index % 2 == 0 {
            before.segments[0][at + 20000..].copy_from_slice(&noise[at + 20000..]);
        }
        let mut after = before.clone();
        let entries = [before.record(W, 1, 5000), Entry::Meta { volume: V, blob: Bytes::from_static(b"v2") }];
        after.write(&entries);
        let body_end = at + 128 + after.written[&before.index].body_bytes as usize;
        for cut in at..=after.offset {
            if cut % 7 != 0 && cut > at + 140 && cut < body_end - 20 {
                continue;
            }
            let mut torn = before.clone();
            torn.segments[0][at..cut].copy_from_slice(&after.segments[0][at..cut]);
            let whole = torn.segments[0][..body_end] == after.segments[0][..body_end];
            let (rule, _, log, _) = torn.recover();
            assert!(matches!(rule, Rule::Clean | Rule::TornTail), "cut at {cut}: {rule:?}");
            let truth = if whole { &after.log } else { &before.log };
            for volume in [V, W] {
                assert_eq!(summary(&log, volume), summary(truth, volume), "cut at {cut}");
            }
        }
    }
}

/// Blocks may reach the disk in any order.
#[test]
fn any_subset_of_a_torn_groups_blocks_is_absent_and_the_next_group_takes_its_place() {
    let before = sample();
    let mut after = before.clone();
    let record = before.record(V, 2, 13000);
    after.write(&[record]);
    let blocks = (after.offset - before.offset) / 4096;
    assert_eq!(blocks, 4);
    for subset in 0..(1 << blocks) - 1 {
        let mut torn = before.clone();
        for block in (0..blocks).filter(|block| subset >> block & 1 == 1) {
            let range = before.offset + block * 4096..before.offset + (block + 1) * 4096;
            torn.segments[0][range.clone()].copy_from_slice(&after.segments[0][range]);
        }
        let (rule, log) = torn.restart();
        assert_eq!(rule, if subset & 1 == 1 { Rule::TornTail } else { Rule::Clean });
        assert_eq!(summary(&log, V), summary(&before.log, V));
        torn.append(V, 3, 10);
        let (rule, _, log, _) = torn.recover();
        assert_eq!(rule, Rule::Clean, "subset {subset:b}");
        assert_eq!(summary(&log, V), summary(&torn.log, V));
    }
}

/// Flips bits all over the live groups: what the broken group held is named as damage, the rest is exact.
#[test]
fn a_flipped_bit_in_any_group_but_the_last_is_damage_of_whom_it_concerns() {
    let sim = sample();
    let (_, plan, truth, _) = sim.recover();
    let live: Vec<GroupHeader> = plan
        .steps
        .iter()
        .map(|step| if let Step::Replay(header) = step { *header } else { panic!("{step:?}") })
        .collect();
    let (last, others) = live.split_last().unwrap();
    for header in others {
        let used = 128 + header.body_bytes as usize;
        let bits = (0..128 * 8).chain((128 * 8..used * 8).step_by(97));
        for bit in bits {
            let mut bad = sim.clone();
            bad.segments[header.segment as usize][header.offset as usize + bit / 8] ^= 1 << (bit % 8);
            check_one_lost(&bad, header, &truth, bit);
        }
    }
    let mut bad = sim.clone();
    bad.segments[last.segment as usize][last.offset as usize + 200] ^= 1;
    assert_eq!(bad.recover().0, Rule::TornTail);
}

fn check_one_lost(bad: &Sim, lost: &GroupHeader, truth: &Log, bit: usize) {
    let what = format!("group {} bit {bit}", lost.index);
    let (rule, plan, log, _) = bad.recover();
    assert!(matches!(rule, Rule::DamagedMiddle | Rule::DamagedStart), "{what}: {rule:?}");
    assert!(plan.steps.iter().all(|step| !matches!(step, Step::Replay(header) if header.index == lost.index)));
    for volume in [V, W] {
        let (found, real) = (&log.volumes[&volume], &truth.volumes[&volume]);
        assert_eq!(found.last_seq(), real.last_seq(), "{what}: what comes later proves the log's end");
        for seq in real.floor().0..=real.last_seq().0 {
            let there = found.place(Seq(seq)).flatten().is_some();
            let was_lost = real.place(Seq(seq)).flatten().is_some_and(|place| {
                place.segment == lost.segment
                    && u64::from(place.offset) >= lost.offset
                    && u64::from(place.offset) < lost.end()
            });
            assert!(there || was_lost, "{what}: record {seq} of {volume} is intact and not found");
            assert!(
                there || found.damaged().is_some_and(|damaged| damaged.0 <= seq),
                "{what}: {seq} absent, not damaged"
            );
            assert!(!(was_lost && there), "{what}: {seq} cannot be readable");
        }
        if found.meta != real.meta {
            assert!(found.meta_damaged, "{what}: old metadata passes for new");
        }
    }
}

/// Every combination of intact, broken and missing groups has a rule, and the rule is the right one.
#[test]
fn every_pattern_of_broken_and_missing_groups_is_judged() {
    let mut sim = Sim::new(3);
    for _ in 0..3 {
        sim.append(V, 1, 10);
    }
    sim.rotate(1);
    for _ in 0..2 {
        sim.append(V, 1, 10);
    }
    let headers: Vec<GroupHeader> = sim.written.values().copied().collect();
    assert_eq!(headers.len(), 7);
    for pattern in 0..3_u32.pow(headers.len() as u32) {
        let state = |at: usize| pattern / 3_u32.pow(at as u32) % 3;
        let mut bad = sim.clone();
        for (at, header) in headers.iter().enumerate() {
            let start = header.offset as usize;
            let segment = &mut bad.segments[header.segment as usize];
            match state(at) {
                0 => {}
                1 => segment[start + 130] ^= 0xff,
                _ => segment[start..header.end() as usize].fill(0),
            }
        }
        judge_pattern(&bad, &headers, state, pattern);
    }
}

fn judge_pattern(bad: &Sim, headers: &[GroupHeader], state: impl Fn(usize) -> u32, pattern: u32) {
    let (rule, plan, log, _) = bad.recover();
    let newest_header = (0..headers.len()).rev().find(|&at| state(at) != 2);
    let replayed = plan.steps.iter().filter(|step| matches!(step, Step::Replay(_))).count();
    let whole = (0..headers.len()).filter(|&at| state(at) == 0).count();
    let Some(newest) = newest_header else { return assert_eq!(rule, Rule::Gone) };
    if whole == 0 {
        // Nothing is intact; whether headers remain or not, nothing can be said.
        return assert!(matches!(rule, Rule::Gone | Rule::DamagedStart), "{pattern}: {rule:?}");
    }
    assert_eq!(replayed, whole, "{pattern}: every intact group counts");
    let hurt_below = (0..newest).any(|at| state(at) != 0);
    let damaged = matches!(rule, Rule::DamagedMiddle | Rule::DamagedStart);
    assert_eq!(damaged, hurt_below, "{pattern}: {rule:?}");
    if !damaged && state(newest) == 1 {
        assert_eq!(rule, Rule::TornTail, "{pattern}");
    }
    // Records 1 to 3 lie in groups 1 to 3, records 4 and 5 in groups 5 and 6; groups 0 and 4 are heads.
    for (seq, at) in [(1, 1), (2, 2), (3, 3), (4, 5), (5, 6)] {
        let Some(found) = log.volumes.get(&V) else {
            assert!(damaged || newest <= at, "{pattern}: the volume is absent without damage");
            continue;
        };
        let there = found.place(Seq(seq)).flatten().is_some();
        assert!(!there || state(at) == 0, "{pattern}: record {seq} came from nowhere");
        let proven_written = at < newest && state(at) != 0;
        if proven_written && !there {
            let named = found.damaged().is_some_and(|damaged| damaged.0 <= seq);
            assert!(named || found.floor().0 > seq, "{pattern}: record {seq} is passed off as absent");
        }
    }
}

#[test]
fn damage_is_still_known_after_a_restart_and_more_groups() {
    let sim = sample();
    for index in sim.written.keys().copied().filter(|&index| index >= 9) {
        let header = sim.written[&index];
        let mut bad = sim.clone();
        bad.segments[header.segment as usize][header.offset as usize + 3] ^= 4;
        let (first_rule, first) = bad.restart();
        bad.append(V, 4, 10);
        let (second_rule, _, second, _) = bad.recover();
        for volume in [V, W] {
            assert_eq!(first.volumes[&volume].damaged(), second.volumes[&volume].damaged(), "group {index}");
        }
        let last = index + 1 == sim.index;
        assert_eq!(first_rule, if last { Rule::Clean } else { first_rule });
        assert_eq!(second_rule, first_rule, "group {index}");
    }
}

/// Two groups are gone, so that no recap tells what they did; a truncation may have been among them.
#[test]
fn several_lost_groups_leave_a_silent_volume_in_doubt_and_clear_one_that_goes_on() {
    let mut sim = Sim::new(2);
    sim.append(V, 1, 10);
    sim.append(W, 1, 10);
    let from = sim.index;
    sim.write(&[Entry::Truncate { volume: V, after: Seq(0) }]);
    sim.write(&[]);
    sim.append(W, 1, 10);
    for index in [from, from + 1] {
        let header = sim.written[&index];
        sim.segments[0][header.offset as usize] ^= 1;
    }
    let (rule, _, log, _) = sim.recover();
    assert_eq!(rule, Rule::DamagedMiddle);
    assert_eq!(log.volumes[&V].damaged(), Some(Seq(1)), "its record may have been hidden");
    assert_eq!(log.volumes[&W].damaged(), None, "its chain goes on unbroken");
    assert!(log.volumes[&V].meta_damaged && log.volumes[&W].meta_damaged);
}

#[test]
fn an_unfinished_head_does_not_count_and_what_came_before_does() {
    let sim = sample();
    let mut torn = sim.clone();
    torn.segments.push(vec![0; SEGMENT_BYTES]);
    (torn.segment, torn.offset, torn.generation) = (3, 0, torn.generation + 1);
    let heads = torn.log.heads();
    let (header, bytes) = torn.encode(FLAG_HEAD, |builder| put_head(builder, &heads[0]));
    torn.put(header, &bytes);
    let (rule, plan, log, _) = torn.recover();
    assert_eq!(rule, Rule::TornHead);
    assert_eq!(plan.erase, [(3, 0)]);
    assert_eq!(plan.resume.map(|resume| resume.segment), Some(0));
    assert_eq!(summary(&log, W), summary(&sim.log, W));
}

#[test]
fn a_group_written_to_the_wrong_place_is_damage_where_it_should_be() {
    let mut sim = sample();
    let header = sim.written[&(sim.index - 2)];
    let (from, to) = (header.offset as usize, sim.offset + 4096);
    let len = header.padded_len();
    let group = sim.segments[0][from..from + len].to_vec();
    sim.segments[0][to..to + len].copy_from_slice(&group);
    sim.segments[0][from..from + len].fill(0);
    let (rule, _, log, _) = sim.recover();
    assert_eq!(rule, Rule::DamagedMiddle);
    assert!(log.volumes[&V].damaged().is_some());
}

/// A write that the disk acknowledged and lost leaves an older group in its place.
#[test]
fn a_lost_write_is_convicted_by_the_chain() {
    let mut sim = sample();
    let (segment, at) = (sim.segment as usize, sim.offset);
    sim.append(V, 2, 50);
    let stale = sim.segments[segment][at..sim.offset].to_vec();
    // The torn-off history: the same place and index once held another group.
    let mut other = sample();
    other.append(V, 7, 50);
    other.append(V, 7, 50);
    assert_eq!(other.written[&(sim.index - 1)].offset as usize, at);
    other.segments[segment][at..at + stale.len()].copy_from_slice(&stale);
    let (rule, _, log, _) = other.recover();
    assert_eq!(rule, Rule::DamagedMiddle);
    assert_eq!(log.volumes[&V].damaged(), Some(other.log.volumes[&V].last_seq().prev()));
}

/// The oldest segment's records that are still needed have been copied, and its file is in use again.
fn sample_with_copies() -> Sim {
    let mut sim = Sim::new(3);
    let mut records = Vec::new();
    for epoch in [1, 1, 2, 2] {
        let entry = sim.record(V, epoch, 700);
        if let Entry::Record(record) = &entry {
            records.push(record.clone());
        }
        sim.write(&[entry]);
    }
    sim.append(W, 1, 10);
    sim.rotate(1);
    sim.append(V, 2, 10);
    sim.append(W, 1, 10);
    sim.rotate(2);
    sim.oldest = 2;
    // The store has the first record of V and of W.
    sim.move_records(V, &records[1..3]);
    sim.move_records(V, &records[3..]);
    for volume in [V, W] {
        sim.log.volumes.get_mut(&volume).unwrap().raise_floor(Seq(1));
    }
    sim.rotate(0);
    sim.append(V, 3, 10);
    sim.append(W, 1, 10);
    sim
}

#[test]
fn copied_records_are_found_after_their_first_segment_is_gone() {
    let mut sim = sample_with_copies();
    for _ in 0..2 {
        let truth = sim.log.clone();
        let (rule, log) = sim.restart();
        assert_eq!(rule, Rule::Clean);
        for volume in [V, W] {
            assert_eq!(summary(&log, volume), summary(&truth, volume));
            assert_eq!(log.volumes[&volume].epochs(), truth.volumes[&volume].epochs());
        }
        assert!((2..=6).all(|seq| log.volumes[&V].place(Seq(seq)).flatten().is_some()));
    }
}

/// Two segments went one after the other: the copies out of the first still lie there, with nothing behind them.
#[test]
fn copies_are_dropped_with_what_followed_them() {
    let mut sim = sample_with_copies();
    sim.oldest = 3;
    sim.append(V, 3, 10);
    for (volume, given_up) in [(V, 5), (W, 2)] {
        sim.log.volumes.get_mut(&volume).unwrap().raise_floor(Seq(given_up));
    }
    sim.append(W, 1, 10);
    for _ in 0..2 {
        let truth = sim.log.clone();
        let (rule, log) = sim.restart();
        assert_eq!(rule, Rule::Clean);
        for volume in [V, W] {
            assert_eq!(summary(&log, volume), summary(&truth, volume), "{volume}");
        }
    }
}

#[test]
fn lost_copies_are_damage() {
    let sim = sample_with_copies();
    let truth = sim.recover().2;
    let moved: Vec<GroupHeader> = sim.written.values().filter(|h| h.segment == 2 && h.offset > 0).copied().collect();
    assert_eq!(moved.len(), 2);
    for header in moved {
        let mut bad = sim.clone();
        bad.segments[2][header.offset as usize + 99] ^= 1;
        let (rule, _, log, _) = bad.recover();
        assert_eq!(rule, Rule::DamagedMiddle);
        let found = &log.volumes[&V];
        assert_eq!(found.last_seq(), truth.volumes[&V].last_seq());
        let absent = (2..=6).find(|&seq| found.place(Seq(seq)).flatten().is_none());
        assert!(absent.is_some());
        assert!(found.damaged().is_some_and(|damaged| Some(damaged.0) <= absent), "{:?} {absent:?}", found.damaged());
        assert_eq!(log.volumes[&W].damaged(), None);
    }
}

/// A volume named only in a lost part of a head must not pass for a forgotten one.
#[test]
fn half_a_head_forgets_nobody() {
    let mut sim = sample();
    sim.segments.push(vec![0; SEGMENT_BYTES]);
    sim.rotate_in_two(3);
    sim.append(W, 1, 10);
    assert_eq!(summary(&sim.recover().2, V), summary(&sim.log, V));
    for at in [0, 4096] {
        let mut bad = sim.clone();
        bad.segments[3][at] ^= 1;
        let (rule, _, log, _) = bad.recover();
        assert_eq!(rule, Rule::DamagedMiddle);
        for volume in [V, W] {
            assert_eq!(summary(&log, volume), summary(&sim.log, volume), "head part at {at}");
        }
    }
}

#[test]
fn a_forgotten_volume_does_not_come_back_when_the_group_that_forgot_it_is_lost() {
    let mut sim = sample();
    let index = sim.index;
    sim.write(&[Entry::Forget { volume: W }]);
    sim.append(V, 2, 10);
    let header = sim.written[&index];
    sim.segments[header.segment as usize][header.offset as usize + 9] ^= 1;
    let (rule, _, log, _) = sim.recover();
    assert_eq!(rule, Rule::DamagedMiddle);
    assert!(!log.volumes.contains_key(&W));
    assert_eq!(log.volumes[&V].damaged(), None);
}

#[test]
fn no_bytes_panic_the_scan_or_the_replay() {
    let sim = sample();
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..400 {
        let mut bad = sim.clone();
        for _ in 0..random() % 12 + 1 {
            let segment = &mut bad.segments[(random() % 3) as usize];
            let at = (random() % SEGMENT_BYTES as u64) as usize;
            let len = (random() % 6000) as usize;
            let end = (at + len).min(SEGMENT_BYTES);
            match random() % 3 {
                0 => segment[at..end].fill(0),
                1 => segment[at] ^= 1 << (random() % 8),
                _ => segment.copy_within(at..end, (random() % (SEGMENT_BYTES - (end - at)) as u64) as usize),
            }
        }
        let (rule, ..) = bad.recover();
        if rule != Rule::Gone {
            bad.restart();
        }
    }
}
