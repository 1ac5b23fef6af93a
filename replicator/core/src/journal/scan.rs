//! What a segment's bytes show: the groups of its newest life, whole or not. No judgement is made here.

use bytes::Bytes;

use crate::codec::DecodeError;
use crate::journal::entry::decode_items;
use crate::journal::group::{GROUP_ALIGN_BYTES, GroupHeader};
use crate::sabotage::{Sabotage, broken};

/// Where a segment's bytes come from. `None` is a range that the disk cannot read.
pub trait Blocks {
    fn len_bytes(&self) -> u64;
    fn read(&mut self, offset: u64, len: usize) -> Option<Bytes>;
}

impl Blocks for Bytes {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }
    fn read(&mut self, offset: u64, len: usize) -> Option<Bytes> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.len()).then(|| self.slice(start..end))
    }
}

/// A group whose header is intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub header: GroupHeader,
    /// The body is intact too.
    pub whole: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentScan {
    pub number: u32,
    /// Groups of the highest generation found, by offset. Those of former lives are left out.
    pub groups: Vec<Found>,
    /// Groups of former lives that still lie in the file.
    pub stale: usize,
    /// Blocks that the disk could not read.
    pub unreadable: usize,
}

impl SegmentScan {
    pub fn generation(&self) -> Option<u64> {
        self.groups.first().map(|found| found.header.generation)
    }
}

/// Reads a whole segment. Fails only for a format that is newer than this code.
pub fn scan(journal: u128, number: u32, blocks: &mut dyn Blocks) -> Result<SegmentScan, DecodeError> {
    let mut out = SegmentScan { number, groups: Vec::new(), stale: 0, unreadable: 0 };
    let mut generation = 0;
    let mut offset = 0;
    while offset + GROUP_ALIGN_BYTES as u64 <= blocks.len_bytes() {
        let found = look(journal, number, offset, blocks, &mut out.unreadable)?;
        let Some(found) = found else {
            offset += GROUP_ALIGN_BYTES as u64;
            continue;
        };
        if found.header.generation > generation && !broken(Sabotage::FormerLifeCounts) {
            generation = found.header.generation;
            out.stale += out.groups.len();
            out.groups.clear();
        }
        if found.header.generation == generation || broken(Sabotage::FormerLifeCounts) {
            out.groups.push(found);
        } else {
            out.stale += 1;
        }
        // Behind a broken body anything may lie, also a group that its length merely claims to cover.
        offset = if found.whole { found.header.end() } else { offset + GROUP_ALIGN_BYTES as u64 };
    }
    Ok(out)
}

fn look(
    journal: u128,
    number: u32,
    offset: u64,
    blocks: &mut dyn Blocks,
    unreadable: &mut usize,
) -> Result<Option<Found>, DecodeError> {
    let Some(first) = blocks.read(offset, GROUP_ALIGN_BYTES) else {
        *unreadable += 1;
        return Ok(None);
    };
    let header = match GroupHeader::decode(&first) {
        Ok(header) => header,
        Err(newer @ DecodeError::Newer { .. }) => return Err(newer),
        Err(_) => return Ok(None),
    };
    if !header.is_at(journal, number, offset) || header.generation == 0 {
        return Ok(None);
    }
    let group = blocks.read(offset, header.padded_len());
    let items = group.map(|group| header.body(&group).and_then(|body| decode_items(body, header.entries)));
    match items {
        Some(Err(newer @ DecodeError::Newer { .. })) => Err(newer),
        Some(Ok(_)) => Ok(Some(Found { header, whole: true })),
        Some(Err(_)) | None => Ok(Some(Found { header, whole: false })),
    }
}

/// A group that is bad in its place but intact in the copy counts as found in its place.
pub fn heal_with_copy(scans: &mut [SegmentScan], copy: GroupHeader) {
    let Some(scan) = scans.iter_mut().find(|scan| scan.number == copy.segment) else { return };
    if scan.generation() > Some(copy.generation) {
        return;
    }
    if scan.generation() < Some(copy.generation) {
        scan.stale += scan.groups.len();
        scan.groups.clear();
    }
    if scan.groups.iter().any(|found| found.whole && found.header.offset == copy.offset) {
        return;
    }
    scan.groups.retain(|found| found.header.offset != copy.offset);
    scan.groups.push(Found { header: copy, whole: true });
    scan.groups.sort_unstable_by_key(|found| found.header.offset);
}
