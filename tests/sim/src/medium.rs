//! The bytes of a node's journal, in sectors, and what happens to them that should not.
//!
//! A write lands when its sync has returned. Power that fails before leaves each of its sectors as it was, as it should
//! be, or (a sector is not written in no time) half of each. A sync that fails leaves the same on the disk; yet all of the
//! write can be read until the power fails.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use farshore_core::journal::group::GROUP_ALIGN_BYTES;
use farshore_core::journal::superblock::SUPER_FILE_BYTES;

use crate::dice::Dice;

const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Super,
    /// The copy of the last group, which recovery makes before it rewrites that.
    TailCopy,
    Segment(u32),
}

#[derive(Debug)]
struct Write {
    place: Place,
    offset: usize,
    data: Vec<u8>,
}

/// A segment's bytes as far as it was ever written: behind them it is all zeroes, and nobody looks there. Its memory is
/// used again by the next run on this thread, since most of a run's page faults would be for it.
#[derive(Debug, Clone)]
struct Sheet(Vec<u8>);

/// More than the segments of two worlds.
const SPARE_SHEETS_MAX: usize = 256;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl Sheet {
    fn blank(bytes: usize) -> Sheet {
        let mut spare = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        spare.clear();
        spare.reserve_exact(bytes);
        Sheet(spare)
    }
}

impl Drop for Sheet {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // A thread that ends has no use for it any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_SHEETS_MAX {
                spare.push(bytes);
            }
        });
    }
}

/// A sheet that is read, in place.
struct View(Arc<Sheet>);

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

#[derive(Debug, Default)]
pub struct Medium {
    superblock: Vec<u8>,
    tail_copy: Vec<u8>,
    segments: Vec<Arc<Sheet>>,
    unsynced: Option<Write>,
    /// What the disk really has where a failed sync left other bytes in memory: those are read until the power fails,
    /// or until they are written once more.
    beneath: Vec<Write>,
}

impl Medium {
    pub fn blank() -> Medium {
        Medium { superblock: vec![0; SUPER_FILE_BYTES], ..Medium::default() }
    }

    pub fn superblock(&self) -> &[u8] {
        &self.superblock
    }

    pub fn tail_copy(&self) -> Bytes {
        Bytes::copy_from_slice(&self.tail_copy)
    }

    pub fn segments(&self) -> u32 {
        self.segments.len() as u32
    }

    /// A new segment file, whole at once: it gets its name only then.
    pub fn add_segment(&mut self, bytes: usize) {
        self.segments.push(Arc::new(Sheet::blank(bytes)));
    }

    pub fn read(&self, segment: u32, offset: usize, len: usize) -> Option<Bytes> {
        let bytes = self.segments.get(segment as usize)?.0.get(offset..offset.checked_add(len)?)?;
        Some(Bytes::copy_from_slice(bytes))
    }

    /// All segments as they are, not copied. A write while somebody holds on to a part of one copies that.
    pub fn views(&self) -> Vec<Bytes> {
        self.segments.iter().map(|sheet| Bytes::from_owner(View(sheet.clone()))).collect()
    }

    /// Begins a write; nothing of it is sure until [`Medium::sync`].
    pub fn write(&mut self, place: Place, offset: usize, data: Vec<u8>) {
        assert!(self.unsynced.is_none(), "one write at a time");
        self.unsynced = Some(Write { place, offset, data });
    }

    /// The write under way is durable; gives its buffer back.
    pub fn sync(&mut self) -> Vec<u8> {
        let Some(write) = self.unsynced.take() else { return Vec::new() };
        let end = write.offset + write.data.len();
        self.beneath.retain(|b| b.place != write.place || b.offset < write.offset || b.offset >= end);
        let file = self.file(write.place, write.offset);
        let kept = file.len().min(end);
        let (over, behind) = write.data.split_at(kept - write.offset);
        file[write.offset..kept].copy_from_slice(over);
        file.extend_from_slice(behind);
        write.data
    }

    /// The sync of the write under way fails, and the daemon with it; the power stays.
    pub fn fail(&mut self, dice: &mut Dice) {
        let Some(write) = self.unsynced.take() else { return };
        let (place, offset, data) = (write.place, write.offset, write.data.clone());
        self.unsynced = Some(write);
        self.cut(dice);
        let file = self.file(place, offset + data.len());
        let mut beneath = Vec::new();
        for (i, part) in data.chunks(SECTOR_BYTES).enumerate() {
            let at = offset + i * SECTOR_BYTES;
            let there = &mut file[at..at + part.len()];
            if there != part {
                beneath.push(Write { place, offset: at, data: there.to_vec() });
                there.copy_from_slice(part);
            }
        }
        self.beneath = beneath;
    }

    fn file(&mut self, place: Place, end: usize) -> &mut Vec<u8> {
        let file = match place {
            Place::Super => &mut self.superblock,
            Place::TailCopy => &mut self.tail_copy,
            Place::Segment(number) => &mut Arc::make_mut(&mut self.segments[number as usize]).0,
        };
        if file.len() < end {
            file.resize(end, 0);
        }
        file
    }

    /// The power fails, or the disk does: of the write under way some sectors are there.
    pub fn cut(&mut self, dice: &mut Dice) -> &'static str {
        for Write { place, offset, data } in std::mem::take(&mut self.beneath) {
            let end = offset + data.len();
            self.file(place, end)[offset..end].copy_from_slice(&data);
        }
        let Some(write) = self.unsynced.take() else { return "nothing was under way" };
        let sectors = write.data.len().div_ceil(SECTOR_BYTES);
        let (what, kept): (_, Vec<bool>) = match dice.range(0, 3) {
            0 => ("dropped", vec![false; sectors]),
            1 => ("kept", vec![true; sectors]),
            2 => {
                let upto = dice.range(0, sectors as u64) as usize;
                ("kept in front", (0..sectors).map(|i| i < upto).collect())
            }
            _ => ("kept here and there", (0..sectors).map(|_| dice.chance(500)).collect()),
        };
        let torn = dice.chance(100).then(|| dice.range(0, sectors as u64 - 1) as usize);
        let file = self.file(write.place, write.offset + write.data.len());
        for (i, part) in write.data.chunks(SECTOR_BYTES).enumerate() {
            let len = if torn == Some(i) {
                part.len() / 2
            } else if kept[i] {
                part.len()
            } else {
                0
            };
            let at = write.offset + i * SECTOR_BYTES;
            file[at..at + len].copy_from_slice(&part[..len]);
        }
        what
    }

    /// Something that was durable rots: within these bytes of the segment.
    pub fn rot(&mut self, segment: u32, within: std::ops::Range<usize>, dice: &mut Dice) -> &'static str {
        let (first, blocks) = ((within.start / GROUP_ALIGN_BYTES) as u64, (within.end / GROUP_ALIGN_BYTES) as u64);
        let Some(last) = blocks.checked_sub(1).filter(|last| *last >= first) else { return "nothing" };
        let at = dice.range(first, last) as usize * GROUP_ALIGN_BYTES;
        let other = dice.range(first, last) as usize * GROUP_ALIGN_BYTES;
        let file = self.file(Place::Segment(segment), within.end);
        match dice.range(0, 3) {
            0 => {
                let bit = dice.range(0, 8 * GROUP_ALIGN_BYTES as u64 - 1) as usize;
                file[at + bit / 8] ^= 1 << (bit % 8);
                "bit-rot"
            }
            1 => {
                let sector = at + SECTOR_BYTES * dice.range(0, (GROUP_ALIGN_BYTES / SECTOR_BYTES) as u64 - 1) as usize;
                file[sector..sector + SECTOR_BYTES].fill(0);
                "sector-lost"
            }
            2 => {
                file.copy_within(other..other + GROUP_ALIGN_BYTES, at);
                "misdirected-write"
            }
            _ => {
                file[at..at + GROUP_ALIGN_BYTES].fill(0);
                "write-lost"
            }
        }
    }
}
