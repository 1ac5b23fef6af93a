//! The journal: what lies in groups, whole segments of anything, and recovery from what passes every checksum.

use std::collections::BTreeMap;

use bytes::Bytes;
use farshore_core::ids::{Epoch, Seq, VolumeId};
use farshore_core::journal::entry::{
    Entry, Item, LogEnd, RecapItem, VolumeHead, decode_items, decode_record_at, put_entry, put_head, put_moved,
    put_recap,
};
use farshore_core::journal::group::{
    BodySum, ENTRY_FRAME_BYTES, GROUP_ALIGN_BYTES, GROUP_HEADER_BYTES, GroupBuilder, GroupHeader,
};
use farshore_core::journal::log::{Log, VolumeLog};
use farshore_core::journal::recovery::{Plan, Step, decide};
use farshore_core::journal::replay::Replay;
use farshore_core::journal::scan::scan;
use farshore_core::journal::superblock::{SUPER_FILE_BYTES, SUPER_SLOT_BYTES, Superblock};
use farshore_core::record::{Kind, Origin, RECORD_PAYLOAD_MAX, Record, RecordHash};

use crate::samples;
use crate::seal::{seal_at, seal_record};

const JOURNAL: u128 = 0x77;
const HEADER: GroupHeader = GroupHeader {
    journal: JOURNAL,
    generation: 1,
    offset: 0,
    segment: 0,
    entries: 0,
    body_bytes: 0,
    body_sum: BodySum::NONE,
    index: 1,
    oldest: 1,
    prev_crc: 0,
    flags: 0,
};

fn put(builder: &mut GroupBuilder, item: &Item) {
    match item {
        Item::Entry(entry) => drop(put_entry(builder, entry)),
        Item::Moved(record) => drop(put_moved(builder, record)),
        Item::Recap(items) => put_recap(builder, items),
        Item::Head(head) => put_head(builder, head),
    }
}

fn body_of(items: &[Item]) -> (Bytes, u32) {
    let mut builder = GroupBuilder::new(Vec::new());
    items.iter().for_each(|item| put(&mut builder, item));
    let (header, bytes) = builder.finish(HEADER);
    (header.body(&Bytes::from(bytes)).expect("just made"), header.entries)
}

fn sample_items() -> Vec<Item> {
    let end = LogEnd { seq: Seq(9), hash: RecordHash(5), epoch: samples::EPOCH };
    let recap = RecapItem { volume: samples::VOLUME, forgotten: false, meta: true, from: Some(Seq(3)), end };
    let volume = samples::VOLUME;
    let meta = Some(Bytes::from_static(b"meta"));
    vec![
        Item::Recap(vec![recap, RecapItem { forgotten: true, from: None, ..recap }]),
        Item::Entry(Entry::Record(samples::record(10, Kind::EpochStart))),
        Item::Moved(samples::record(4, Kind::Discard)),
        Item::Entry(Entry::Truncate { volume, after: Seq(4) }),
        Item::Entry(Entry::Meta { volume, blob: Bytes::from_static(b"meta") }),
        Item::Entry(Entry::Forget { volume: VolumeId(3) }),
        Item::Entry(Entry::Restart { volume, end }),
        Item::Head(VolumeHead { volume, meta, log: Some((LogEnd::default(), end)) }),
        Item::Head(VolumeHead { volume: VolumeId(5), meta: None, log: None }),
    ]
}

/// Gives the records among a body's entries good checksums; returns how many entries there are.
fn seal_items(body: &mut [u8]) -> u32 {
    let (mut at, mut count) = (0, 0);
    while at + ENTRY_FRAME_BYTES <= body.len() {
        let kind = body[at];
        let len = u32::from_le_bytes(body[at + 4..at + 8].try_into().expect("four bytes")) as usize;
        at += ENTRY_FRAME_BYTES;
        let end = at.saturating_add(len).min(body.len());
        if kind == 1 || kind == 8 {
            seal_record(&mut body[at..end], RECORD_PAYLOAD_MAX);
        }
        at = end;
        count += 1;
    }
    count
}

fn one_body(body: Bytes, count: u32) {
    let Ok(found) = decode_items(body.clone(), count) else { return };
    for (item, at) in &found {
        if let Item::Entry(Entry::Record(record)) | Item::Moved(record) = item {
            let bytes = body.slice(at - GROUP_HEADER_BYTES..);
            assert_eq!(decode_record_at(&bytes, record.volume, record.seq), Ok(record.clone()));
        }
    }
    let items: Vec<Item> = found.into_iter().map(|(item, _)| item).collect();
    let (again, count) = body_of(&items);
    let again: Vec<Item> = decode_items(again, count).expect("our own").into_iter().map(|(item, _)| item).collect();
    assert_eq!(again.len(), items.len());
}

/// First byte: how many entries are announced, 0 for as many as there are.
pub fn items(data: &[u8]) {
    let Some((&announced, body)) = data.split_first() else { return };
    one_body(Bytes::copy_from_slice(body), announced.into());
    let mut good = body.to_vec();
    let count = seal_items(&mut good);
    one_body(good.into(), if announced == 0 { count } else { announced.into() });
}

pub fn items_seeds() -> Vec<Vec<u8>> {
    let with_count = |items: &[Item]| [&[0], &body_of(items).0[..]].concat();
    let items = sample_items();
    items.iter().map(|item| with_count(std::slice::from_ref(item))).chain([with_count(&items)]).collect()
}

/// Scans a segment and goes on as the daemon does at start.
fn recover(segments: &[Bytes], in_use: bool) -> Option<(Log, Plan)> {
    let scans = segments.iter().enumerate();
    let scans: Result<Vec<_>, _> = scans.map(|(n, bytes)| scan(JOURNAL, n as u32, &mut bytes.clone())).collect();
    let scans = scans.ok()?;
    let (_, plan) = decide(&scans, in_use);
    assert_eq!(plan.live.len() + plan.free.len(), segments.len(), "a segment is in use or free");
    let mut replay = Replay::default();
    for step in &plan.steps {
        match step {
            Step::StartLost => replay.start_is_lost(),
            Step::Lost(count) => replay.groups_lost(*count),
            Step::Replay(header) => {
                let at = header.offset as usize;
                let group = segments[header.segment as usize].slice(at..at + header.padded_len());
                let items = decode_items(header.body(&group).expect("scanned"), header.entries).expect("scanned");
                replay.group(header, &items);
            }
        }
    }
    let (log, _) = replay.finish();
    log.volumes.values().for_each(check_log);
    Some((log, plan))
}

/// What must hold of a log whatever it was made of; then it goes on.
fn check_log(log: &VolumeLog) {
    let (base, end) = (log.base(), log.end());
    assert!(base.seq <= end.seq && log.floor() <= end.seq.next());
    assert!(log.places().all(|(seq, _)| log.floor() <= seq && seq <= end.seq));
    if log.damaged().is_none() && log.has_log() {
        assert_eq!(log.places().count() as u64, end.seq.since(base.seq), "what is not damaged can be read");
    }
    let begins: Vec<Seq> = log.epochs().iter().map(|(_, first)| *first).collect();
    assert!(begins.windows(2).all(|pair| pair[0] < pair[1]), "epochs begin in order: {begins:?}");
    let _ = log.bytes_after(base.seq);
    let next = Record { seq: end.seq.next(), prev_hash: end.hash, ..samples::record(1, Kind::Noop) };
    assert_eq!(log.check(&next), Ok(()), "a log goes on after its end");
    let mut shorter = log.clone();
    shorter.raise_floor(Seq(base.seq.0 + end.seq.since(base.seq) / 2));
    assert_eq!(shorter.end(), end);
}

/// One segment of any bytes, whose first block is made a group's header with a good checksum.
pub fn segment(data: &[u8]) {
    let mut bytes = data.to_vec();
    bytes.resize(data.len().next_multiple_of(GROUP_ALIGN_BYTES), 0);
    let _ = recover(&[Bytes::from(bytes.clone())], true);
    if bytes.len() < GROUP_ALIGN_BYTES {
        return;
    }
    for at in (0..bytes.len()).step_by(GROUP_ALIGN_BYTES) {
        seal_group(&mut bytes, at);
    }
    let _ = recover(&[Bytes::from(bytes)], data[0].is_multiple_of(2));
}

/// Makes what begins here a group of this place; its index, generations, flags and entries stay as they are.
fn seal_group(bytes: &mut [u8], at: usize) {
    let group = &mut bytes[at..];
    let field = |group: &[u8], at: usize| u32::from_le_bytes(group[at..at + 4].try_into().expect("four bytes"));
    let body_bytes = (field(group, 48) as usize).min(group.len() - GROUP_HEADER_BYTES);
    let entries = seal_items(&mut group[GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + body_bytes]);
    group[..4].copy_from_slice(b"FSJG");
    let version = 1 + u16::from(group[4] % 2);
    group[4..6].copy_from_slice(&version.to_le_bytes());
    group[8..24].copy_from_slice(&JOURNAL.to_le_bytes());
    group[32..40].copy_from_slice(&(at as u64).to_le_bytes());
    group[40..44].copy_from_slice(&0_u32.to_le_bytes());
    group[44..48].copy_from_slice(&entries.to_le_bytes());
    group[48..52].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    seal_at(group, 124);
    let Ok(mut header) = GroupHeader::decode(group) else { return };
    header.body_sum = header.sum_up(&group[GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + body_bytes]);
    group[..GROUP_HEADER_BYTES].copy_from_slice(&header.encode());
}

pub fn segment_seeds() -> Vec<Vec<u8>> {
    let group = |header: GroupHeader, items: &[Item]| {
        let mut builder = GroupBuilder::new(Vec::new());
        items.iter().for_each(|item| put(&mut builder, item));
        builder.finish(header)
    };
    let items = sample_items();
    let (first, one) = group(GroupHeader { flags: 3, ..HEADER }, &items[7..]);
    let second = GroupHeader { offset: first.end(), index: 2, prev_crc: first.crc(), ..HEADER };
    let (_, two) = group(second, &items[..3]);
    vec![one.clone(), [one, two].concat()]
}

/// Bytes taken one after another; zero when there are none left.
struct Dice<'a>(&'a [u8]);

impl Dice<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
}

/// A journal put together by dice: each group passes its checksums, what they say need not fit together.
struct Writer {
    segments: Vec<Vec<u8>>,
    /// The last record of each volume, as a writer would continue it.
    ends: BTreeMap<VolumeId, LogEnd>,
    last: GroupHeader,
}

const SEGMENTS: usize = 3;
const SEGMENT_BLOCKS: usize = 8;

impl Writer {
    fn end(&mut self, dice: &mut Dice) -> LogEnd {
        let volume = VolumeId(u128::from(dice.byte() % 3));
        let known = self.ends.get(&volume).copied().unwrap_or_default();
        match dice.byte() {
            odd @ 200.. => LogEnd {
                seq: Seq(u64::from(odd % 40)),
                hash: RecordHash(dice.byte().into()),
                epoch: Epoch { n: (odd % 5).into(), writer: 0 },
            },
            _ => known,
        }
    }

    fn record(&mut self, volume: VolumeId, dice: &mut Dice) -> Record {
        let end = self.ends.get(&volume).copied().unwrap_or_default();
        let epoch = Epoch { n: end.epoch.n.max(1) + u64::from(dice.byte() / 200), writer: 0 };
        let seq = match dice.byte() {
            odd @ 220.. => Seq(u64::from(odd - 219)),
            _ => end.seq.next(),
        };
        let prev_hash = if dice.byte() > 230 { RecordHash(1) } else { end.hash };
        let origin = Origin::default();
        let record = Record { volume, epoch, seq, prev_hash, origin, ..samples::record(seq.0, Kind::Noop) };
        self.ends.insert(volume, LogEnd { seq, hash: record.hash(), epoch });
        record
    }

    fn item(&mut self, dice: &mut Dice) -> Item {
        let volume = VolumeId(u128::from(dice.byte() % 3));
        match dice.byte() % 12 {
            0 => Item::Moved(self.record(volume, dice)),
            1 => {
                let after = Seq(u64::from(dice.byte() % 20));
                self.ends.entry(volume).or_default().seq = after;
                Item::Entry(Entry::Truncate { volume, after })
            }
            2 => Item::Entry(Entry::Forget { volume }),
            3 => {
                let end = self.end(dice);
                self.ends.insert(volume, end);
                Item::Entry(Entry::Restart { volume, end })
            }
            4 => Item::Entry(Entry::Meta { volume, blob: Bytes::from_static(b"m") }),
            5 | 6 => {
                let items = (0..dice.byte() % 4).map(|_| {
                    let flags = dice.byte();
                    let from = (flags & 1 != 0).then(|| Seq(u64::from(dice.byte() % 24)));
                    let volume = VolumeId(u128::from(flags / 8 % 3));
                    RecapItem { volume, forgotten: flags & 2 != 0, meta: flags & 4 != 0, from, end: self.end(dice) }
                });
                Item::Recap(items.collect())
            }
            7 | 8 => {
                let flags = dice.byte();
                let meta = (flags & 1 != 0).then(|| Bytes::from_static(b"h"));
                let log = (flags & 2 != 0).then(|| {
                    let (a, b) = (self.end(dice), self.end(dice));
                    if flags & 4 != 0 || a.seq <= b.seq { (a, b) } else { (b, a) }
                });
                Item::Head(VolumeHead { volume, meta, log })
            }
            _ => Item::Entry(Entry::Record(self.record(volume, dice))),
        }
    }

    fn group(&mut self, dice: &mut Dice) {
        let mut header = self.next_header(dice);
        let mut builder = GroupBuilder::new(Vec::new());
        for _ in 0..dice.byte() % 6 {
            put(&mut builder, &self.item(dice));
        }
        header.flags = dice.byte().into();
        let (header, bytes) = builder.finish(header);
        let segment = &mut self.segments[header.segment as usize];
        let at = header.offset as usize;
        let Some(place) = segment.get_mut(at..at + bytes.len()) else { return };
        place.copy_from_slice(&bytes);
        self.last = header;
        // Rot, of a header or of a body.
        if dice.byte() > 240 {
            segment[at + usize::from(dice.byte())] ^= 1;
        }
    }

    fn next_header(&mut self, dice: &mut Dice) -> GroupHeader {
        let mut header =
            GroupHeader { offset: self.last.end(), index: self.last.index + 1, prev_crc: self.last.crc(), ..self.last };
        let segment_bytes = (SEGMENT_BLOCKS * GROUP_ALIGN_BYTES) as u64;
        match dice.byte() {
            0..150 if header.offset < segment_bytes => {}
            odd @ 250.. => {
                header.index = u64::from(odd);
                header.generation = u64::from(dice.byte());
                header.oldest = u64::from(dice.byte());
                header.offset = u64::from(dice.byte()) % SEGMENT_BLOCKS as u64 * GROUP_ALIGN_BYTES as u64;
            }
            odd => {
                header.segment = u32::from(odd) % SEGMENTS as u32;
                header.offset = 0;
                header.generation += 1;
                header.oldest += u64::from(dice.byte() / 128);
            }
        }
        header
    }
}

pub fn recovery(data: &[u8]) {
    let mut dice = Dice(data);
    let mut writer = Writer {
        segments: vec![vec![0; SEGMENT_BLOCKS * GROUP_ALIGN_BYTES]; SEGMENTS],
        ends: BTreeMap::new(),
        last: GroupHeader { index: 0, offset: (SEGMENT_BLOCKS * GROUP_ALIGN_BYTES) as u64, ..HEADER },
    };
    let in_use = dice.byte() % 8 != 0;
    while !dice.0.is_empty() {
        writer.group(&mut dice);
    }
    let segments: Vec<Bytes> = writer.segments.into_iter().map(Bytes::from).collect();
    let _ = recover(&segments, in_use);
}

/// Dice, not encodings: a few runs of groups.
pub fn recovery_seeds() -> Vec<Vec<u8>> {
    let group = |items: &[&[u8]], flags: u8| {
        let mut out = vec![10, items.len() as u8];
        items.iter().for_each(|item| out.extend_from_slice(item));
        out.extend([flags, 0]);
        out
    };
    let head = group(&[&[1, 7, 0]], 3);
    let write = group(&[&[1, 5, 1, 9, 2, 1, 0], &[1, 9, 0, 0, 0], &[1, 9, 0, 0, 0]], 0);
    let rotate = [&[151][..], &[0], &group(&[&[1, 7, 3, 1, 0, 1, 0]], 3)[1..]].concat();
    vec![
        [&[1][..], &head, &write].concat(),
        [&[1][..], &head, &write, &write, &rotate, &write].concat(),
        [&[1][..], &head, &write, &group(&[&[1, 1, 1]], 0), &write, &rotate, &write].concat(),
    ]
}

pub fn superblock(data: &[u8]) {
    let mut file = data.to_vec();
    let _ = Superblock::choose(&file);
    file.resize(SUPER_FILE_BYTES, 0);
    for slot in file.chunks_mut(SUPER_SLOT_BYTES) {
        seal_at(slot, SUPER_SLOT_BYTES - 4);
    }
    if let Ok(chosen) = Superblock::choose(&file) {
        let mut again = vec![0; SUPER_FILE_BYTES];
        let at = chosen.slot_offset() as usize;
        again[at..at + SUPER_SLOT_BYTES].copy_from_slice(&chosen.encode());
        assert_eq!(Superblock::choose(&again), Ok(chosen));
    }
}

pub fn superblock_seeds() -> Vec<Vec<u8>> {
    let first = Superblock { journal: JOURNAL, segment_bytes: 1 << 20, segments: 3, in_use: true, turn: 4 };
    let second = Superblock { turn: 5, segments: 4, ..first };
    // The second slot begins where the first ends; what is left out is zero.
    vec![first.encode()[..64].to_vec(), [&first.encode()[..], &second.encode()[..64]].concat()]
}
