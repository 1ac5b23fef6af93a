//! Opening a journal after a crash, or for the first time: scan, the core's decision, replay, and the writes that make
//! it good before anything is reported durable. The power may fail in any of them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use farshore_core::ids::{BLOCK_BYTES, VolumeId};
use farshore_core::journal::entry::{RecapItem, decode_items};
use farshore_core::journal::found::RecoveredVolume;
use farshore_core::journal::group::{GROUP_ALIGN_BYTES, GroupHeader};
use farshore_core::journal::log::Log;
use farshore_core::journal::queue::Queue;
use farshore_core::journal::recovery::{Plan, Rule, Step, decide};
use farshore_core::journal::replay::Replay;
use farshore_core::journal::scan::{Blocks, SegmentScan, heal_with_copy, scan};
use farshore_core::journal::segments::Segments;
use farshore_core::journal::superblock::Superblock;
use farshore_core::limits::{JOURNAL_PORTION_BYTES, SHARE_RESERVE_BYTES};

use crate::clients::{REQUEST_BLOCKS_MAX, UNACKED_BYTES_MAX};
use crate::dice::Dice;
use crate::journal::{Content, Cursor, Journal, RESERVE_BYTES, Step as Begin};
use crate::medium::{Medium, Place};

/// Segments made when a journal is created, before it is used; more follow while it works.
const SEGMENTS_AT_START: u32 = 2;

/// How large a seed makes its journals: so small that segments are used anew many times, and that a volume's share holds
/// less than the clients would have on their way: the core must hold them back.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub segment_bytes: u64,
    pub segments_max: u32,
}

/// In KiB, and how many segments at least.
const SHAPES: &[(u64, u32)] = &[(128, 10), (192, 7), (256, 6)];
/// The smallest share of a volume on a node of two: half of all segments but two, halved.
const SHARE_BYTES_LEAST: u64 = {
    let (mut least, mut at) = (u64::MAX, 0);
    while at < SHAPES.len() {
        let share = (SHAPES[at].1 as u64 - 2) * (SHAPES[at].0 << 10) / 2 / 2;
        least = if share < least { share } else { least };
        at += 1;
    }
    least
};
const _: () = assert!(SHARE_BYTES_LEAST < UNACKED_BYTES_MAX + JOURNAL_PORTION_BYTES);
const _: () = assert!(SHARE_BYTES_LEAST > SHARE_RESERVE_BYTES + 2 * REQUEST_BLOCKS_MAX * BLOCK_BYTES);

impl Shape {
    pub fn draw(dice: &mut Dice) -> Shape {
        let (kib, least) = dice.pick(SHAPES).unwrap_or((256, 6));
        Shape { segment_bytes: kib << 10, segments_max: least + dice.range(0, 3) as u32 }
    }
}

/// Why a journal did not open.
#[derive(Debug, PartialEq, Eq)]
pub enum Unopened {
    /// The power failed meanwhile.
    Cut,
    /// What is on the medium can't be used.
    Refused(String),
}

pub struct Opened {
    pub journal: Journal,
    pub rule: Rule,
    pub volumes: Vec<RecoveredVolume>,
}

/// One write after the other, each synced; the power fails in the one that `left` counts down to.
struct Writes<'a> {
    dice: &'a mut Dice,
    left: Option<u64>,
}

impl Writes<'_> {
    fn sync(&mut self, medium: &mut Medium) -> Result<(), Unopened> {
        match &mut self.left {
            Some(0) => {
                medium.cut(self.dice);
                return Err(Unopened::Cut);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        medium.sync();
        Ok(())
    }

    fn put(&mut self, medium: &mut Medium, place: Place, offset: u64, data: &[u8]) -> Result<(), Unopened> {
        medium.write(place, offset as usize, data.to_vec());
        self.sync(medium)
    }
}

/// A journal on a blank medium.
pub fn create(shape: Shape, journal: u128, dice: &mut Dice) -> Journal {
    let mut medium = Medium::blank();
    let first = Superblock { journal, segment_bytes: shape.segment_bytes, segments: 0, in_use: false, turn: 1 };
    medium.write(Place::Super, first.slot_offset() as usize, first.encode().to_vec());
    medium.sync();
    match open(medium, shape, dice, None) {
        Ok(opened) => opened.journal,
        Err((_, why)) => panic!("a blank medium did not open: {why:?}"),
    }
}

/// What was found, before anything is changed.
struct Findings {
    scans: Vec<SegmentScan>,
    rule: Rule,
    plan: Plan,
    tail_copy: Option<(GroupHeader, Bytes)>,
}

/// Opens what is on the medium. With `cut_in`, the power fails in the write of that number. The medium is handed back
/// when it does not open.
pub fn open(
    mut medium: Medium,
    shape: Shape,
    dice: &mut Dice,
    cut_in: Option<u64>,
) -> Result<Opened, (Box<Medium>, Unopened)> {
    let mut writes = Writes { dice, left: cut_in };
    match try_open(&mut medium, shape, &mut writes) {
        Ok(mut opened) => {
            opened.journal.medium = medium;
            match finish(&mut opened, &mut writes) {
                Ok(()) => Ok(opened),
                Err(why) => Err((Box::new(opened.journal.medium), why)),
            }
        }
        Err(why) => Err((Box::new(medium), why)),
    }
}

fn refused(error: impl std::fmt::Display) -> Unopened {
    Unopened::Refused(error.to_string())
}

fn try_open(medium: &mut Medium, shape: Shape, writes: &mut Writes) -> Result<Opened, Unopened> {
    let mut superblock = Superblock::choose(medium.superblock()).map_err(refused)?;
    if superblock.in_use {
        // As the tail: what a failed sync left can be read, and be gone after the next power cut.
        writes.put(medium, Place::Super, superblock.slot_offset(), &superblock.encode())?;
    }
    let (mut findings, log, recap, bodies) = read(&medium.views(), medium.tail_copy(), &superblock)?;
    settle_tail(medium, &findings, bodies, writes)?;
    while medium.segments() > superblock.segments || superblock.segments < SEGMENTS_AT_START {
        if medium.segments() == superblock.segments {
            medium.add_segment(superblock.segment_bytes as usize);
        }
        findings.plan.free.push(superblock.segments);
        superblock.segments += 1;
        superblock.turn += 1;
        writes.put(medium, Place::Super, superblock.slot_offset(), &superblock.encode())?;
    }
    let volumes: Vec<RecoveredVolume> = log.volumes.iter().map(|(&id, log)| RecoveredVolume::of(id, log)).collect();
    let files = vec![(); superblock.segments as usize];
    let (max, bytes) = (shape.segments_max, superblock.segment_bytes);
    let segments = Segments::recovered(&findings.plan, &findings.scans, &log, files, max, bytes);
    let journal = Journal {
        medium: Medium::default(),
        superblock,
        queue: Queue::new(log.clone(), bytes),
        log,
        segments,
        cursor: cursor_of(&findings.plan, recap, bytes),
        needed: BTreeMap::new(),
        steps: VecDeque::new(),
        flying: None,
        buffer: Vec::new(),
        may_move: true,
        poisoned: false,
        last_group_at: findings.plan.tail.map_or(0, |tail| tail.offset),
    };
    Ok(Opened { journal, rule: findings.rule, volumes })
}

/// The first group of this life: it begins the first segment, or overwrites whatever torn one lies behind the tail.
fn finish(opened: &mut Opened, writes: &mut Writes) -> Result<(), Unopened> {
    let journal = &mut opened.journal;
    let ids: Vec<VolumeId> = opened.volumes.iter().map(|found| found.volume).collect();
    ids.into_iter().for_each(|id| journal.recount(id));
    let fresh = journal.cursor.generation == 0;
    if fresh {
        journal.steps.push_back(Begin::Rotate { told: false });
        journal.steps.push_back(Begin::Put(Content::Super(Superblock { in_use: true, ..journal.superblock })));
    } else if journal.room_bytes() >= RESERVE_BYTES {
        journal.steps.push_back(Begin::Put(Content::Bare));
    }
    while !journal.steps.is_empty() && journal.begin() {
        match &mut writes.left {
            Some(0) => {
                journal.medium.cut(writes.dice);
                return Err(Unopened::Cut);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        journal.landed();
    }
    Ok(())
}

/// Of the last group that counts, and of the one that was copied where there is only the copy.
struct Bodies {
    tail: Option<Vec<u8>>,
    copied: Option<(GroupHeader, Vec<u8>)>,
}

type Read = (Findings, Log, Option<Vec<RecapItem>>, Bodies);

/// Everything that is read before anything is changed; with the bytes of the groups that are written anew.
fn read(segments: &[Bytes], tail_copy: Bytes, superblock: &Superblock) -> Result<Read, Unopened> {
    let findings = find(segments, tail_copy, superblock)?;
    if findings.rule == Rule::Gone {
        return Err(refused("it was in use and no group of it can be read"));
    }
    let (mut log, recap) = replay(segments, &findings)?;
    for log in log.volumes.values_mut() {
        log.meta = log.meta.as_ref().map(|meta| Bytes::copy_from_slice(meta));
    }
    let tail = match &findings.plan.tail {
        Some(tail) => Some(group(segments, &findings, tail)?.to_vec()),
        None => None,
    };
    let rests = |copy: &GroupHeader| findings.plan.rests_on_copy(copy, in_place(segments, copy).is_some());
    let copied = findings.tail_copy.as_ref().filter(|(copy, _)| rests(copy));
    let copied = copied.map(|(copy, bytes)| (*copy, bytes.to_vec()));
    Ok((findings, log, recap, Bodies { tail, copied }))
}

fn find(segments: &[Bytes], tail_copy: Bytes, superblock: &Superblock) -> Result<Findings, Unopened> {
    let mut scans = Vec::new();
    for (number, bytes) in segments.iter().enumerate().take(superblock.segments as usize) {
        scans.push(scan(superblock.journal, number as u32, &mut bytes.clone()).map_err(refused)?);
    }
    let tail_copy = read_tail_copy(tail_copy, superblock.journal);
    if let Some((header, _)) = &tail_copy {
        heal_with_copy(&mut scans, *header);
    }
    let (rule, plan) = decide(&scans, superblock.in_use);
    Ok(Findings { scans, rule, plan, tail_copy })
}

fn read_tail_copy(bytes: Bytes, journal: u128) -> Option<(GroupHeader, Bytes)> {
    let header = GroupHeader::decode(&bytes).ok()?;
    let body = header.body(&bytes).ok()?;
    decode_items(body, header.entries).ok()?;
    (header.journal == journal && bytes.len() >= header.padded_len())
        .then(|| (header, bytes.slice(..header.padded_len())))
}

fn in_place(segments: &[Bytes], header: &GroupHeader) -> Option<Bytes> {
    let read = segments.get(header.segment as usize);
    let read = read.and_then(|segment| Blocks::read(&mut segment.clone(), header.offset, header.padded_len()));
    read.filter(|bytes| GroupHeader::decode(bytes).as_ref() == Ok(header) && header.body(bytes).is_ok())
}

/// A whole group's bytes, from its place or from the copy.
fn group(segments: &[Bytes], findings: &Findings, header: &GroupHeader) -> Result<Bytes, Unopened> {
    if let Some((copy, bytes)) = &findings.tail_copy
        && copy == header
    {
        return Ok(in_place(segments, header).unwrap_or_else(|| bytes.clone()));
    }
    // The scan has seen it whole, and nothing was written since.
    let read = segments.get(header.segment as usize);
    let read = read.and_then(|segment| Blocks::read(&mut segment.clone(), header.offset, header.padded_len()));
    read.ok_or_else(|| refused("a group that was scanned can't be read"))
}

fn replay(segments: &[Bytes], findings: &Findings) -> Result<(Log, Option<Vec<RecapItem>>), Unopened> {
    let mut replay = Replay::default();
    for step in &findings.plan.steps {
        match step {
            Step::StartLost => replay.start_is_lost(),
            Step::Lost(count) => replay.groups_lost(*count),
            Step::Replay(header) => {
                let bytes = group(segments, findings, header)?;
                let items = header.body(&bytes).and_then(|body| decode_items(body, header.entries));
                replay.group(header, &items.map_err(refused)?);
            }
        }
    }
    Ok(replay.finish())
}

/// Rewrites and syncs the last group that counts, before it one of which there is only the copy, and wipes the headers of
/// those that do not count.
fn settle_tail(medium: &mut Medium, findings: &Findings, bodies: Bodies, writes: &mut Writes) -> Result<(), Unopened> {
    if let Some((copy, bytes)) = bodies.copied {
        writes.put(medium, Place::Segment(copy.segment), copy.offset, &bytes)?;
    }
    if let (Some(tail), Some(bytes)) = (&findings.plan.tail, bodies.tail) {
        if findings.tail_copy.as_ref().is_none_or(|(copy, _)| copy != tail) {
            writes.put(medium, Place::TailCopy, 0, &bytes)?;
        }
        writes.put(medium, Place::Segment(tail.segment), tail.offset, &bytes)?;
    }
    let resume_at = findings.plan.resume.and_then(|resume| Some((resume.segment, resume.offset?)));
    for &(segment, offset) in &findings.plan.erase {
        // Where writing resumes, the next group overwrites it; until then it proves that the one before was synced.
        if resume_at != Some((segment, offset)) {
            writes.put(medium, Place::Segment(segment), offset, &[0; GROUP_ALIGN_BYTES])?;
        }
    }
    Ok(())
}

fn cursor_of(plan: &Plan, recap: Option<Vec<RecapItem>>, segment_bytes: u64) -> Cursor {
    match plan.resume {
        Some(resume) => Cursor {
            segment: resume.segment,
            generation: resume.generation,
            offset: resume.offset.unwrap_or(segment_bytes),
            index: resume.index,
            prev_crc: resume.prev_crc,
            recap,
        },
        None => Cursor {
            segment: 0,
            generation: 0,
            offset: segment_bytes,
            index: 1,
            prev_crc: Some(0),
            recap: Some(Vec::new()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Asker;
    use crate::world::VOLUME;
    use farshore_core::api::{JournalOp, Token};

    /// The journal grew, the sync failed, and the daemon alone was restarted: what it writes into the new segment is there
    /// after a power cut, too.
    #[test]
    fn a_superblock_whose_sync_failed_is_written_once_more() {
        // Three segments: another would bring a superblock of its own. What is appended ends in the third.
        let shape = Shape { segment_bytes: 128 << 10, segments_max: 3 };
        for seed in 0..40 {
            let mut dice = Dice::seeded(seed);
            let mut journal = create(shape, 7, &mut dice);
            journal.append(VOLUME, vec![JournalOp::Meta(Bytes::from(vec![0; 2000]))], Asker::Core(Token(0)));
            let before = journal.superblock.segments;
            assert!(journal.begin(), "it has something to write");
            journal.medium.fail(&mut dice);
            let medium = std::mem::take(&mut journal.medium);
            let mut journal = open(medium, shape, &mut dice, None).unwrap_or_else(|(_, why)| panic!("{why:?}")).journal;
            assert!(journal.superblock.segments > before, "what was begun was a segment more");
            let mut last = Bytes::new();
            for turn in 0..80_u64 {
                last = Bytes::from([&turn.to_le_bytes()[..], &[7; 3000]].concat());
                journal.append(VOLUME, vec![JournalOp::Meta(last.clone())], Asker::Core(Token(turn)));
                while journal.begin() {
                    journal.landed();
                }
            }
            journal.medium.cut(&mut dice);
            let medium = std::mem::take(&mut journal.medium);
            let opened = open(medium, shape, &mut dice, None).unwrap_or_else(|(_, why)| panic!("seed {seed}: {why:?}"));
            assert_eq!(opened.volumes[0].meta.as_ref(), Some(&last), "seed {seed}");
        }
    }
}
