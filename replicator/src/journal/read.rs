//! Reading records back: from memory where they are recent, else from their segments, each one verified.
//!
//! The disk is read without any lock held, so a segment may be recycled meanwhile. What was read is believed only if it is
//! the very record asked for; if it is not, the index says whether it moved on or is damaged.

use std::sync::Arc;

use bytes::Bytes;
use farshore_core::ids::{Seq, VolumeId};
use farshore_core::journal::entry::decode_record_at;
use farshore_core::journal::group::GROUP_ALIGN_BYTES;
use farshore_core::journal::log::Place;
use farshore_core::journal::segments::Move;
use farshore_core::record::Record;

use super::error::ReadError;
use super::handle::{Index, Journal, Shared};
use crate::disk::DiskFile;

/// One disk read covers records up to this span, if the gaps between them are short.
const SPAN_BYTES_MAX: u64 = 2 << 20;
const GAP_BYTES_MAX: u64 = 64 << 10;
/// Attempts at a record whose place keeps changing under the reader.
const ATTEMPTS: usize = 3;

enum Source {
    Memory(Record),
    Disk(Seq, Place, Arc<DiskFile>),
}

impl Journal {
    /// Durable records from `from` on, contiguous, as many as fit into `max_bytes` but at least one. Blocks on the disk.
    pub fn read(&self, volume: VolumeId, from: Seq, max_bytes: usize) -> Result<Vec<Record>, ReadError> {
        let mut attempt = 1;
        loop {
            let sources = plan(&self.shared().index(), volume, from, max_bytes)?;
            let mut out = Vec::with_capacity(sources.len());
            match self.fetch(volume, &sources, &mut out) {
                Ok(()) => return Ok(out),
                // What precedes the failure is good and is served; the failure shows up at the next call.
                Err(_) if !out.is_empty() => return Ok(out),
                Err(failed) if attempt == ATTEMPTS || !self.moved_on(volume, failed.seq, failed.place) => {
                    return Err(self.judge(volume, failed));
                }
                Err(_) => attempt += 1,
            }
        }
    }

    fn fetch(&self, volume: VolumeId, sources: &[Source], out: &mut Vec<Record>) -> Result<(), Failed> {
        let mut span: Option<Span> = None;
        for (at, source) in sources.iter().enumerate() {
            let (seq, place, file) = match source {
                Source::Memory(record) => {
                    out.push(record.clone());
                    continue;
                }
                Source::Disk(seq, place, file) => (*seq, *place, file),
            };
            let failed =
                |reason: String, io: bool| Failed { seq, place, path: file.path.display().to_string(), reason, io };
            if !span.as_ref().is_some_and(|span| span.covers(&place)) {
                span =
                    Some(self.read_span(file, &sources[at..], place).map_err(|error| failed(error.to_string(), true))?);
            }
            let bytes = span.as_ref().map(|span| span.slice(&place)).unwrap_or_default();
            let record = decode_record_at(&bytes, volume, seq).map_err(|error| failed(error.to_string(), false))?;
            // Detached from the span, which would stay in memory as long as any of its records.
            out.push(Record { payload: Bytes::copy_from_slice(&record.payload), ..record });
        }
        Ok(())
    }

    /// Reads the place, and with it those of the following records that lie close behind it.
    fn read_span(&self, file: &Arc<DiskFile>, following: &[Source], first: Place) -> std::io::Result<Span> {
        let block = GROUP_ALIGN_BYTES as u64;
        let start = u64::from(first.offset) / block * block;
        let mut end = u64::from(first.offset) + u64::from(first.len);
        for source in following {
            let Source::Disk(_, place, _) = source else { continue };
            let (offset, next_end) = (u64::from(place.offset), u64::from(place.offset) + u64::from(place.len));
            let near = place.segment == first.segment && offset >= start && offset <= end + GAP_BYTES_MAX;
            if !near || next_end - start > SPAN_BYTES_MAX {
                break;
            }
            end = end.max(next_end);
        }
        let len = (end - start).next_multiple_of(block) as usize;
        let bytes = self.shared().engine.read(file, start, len)?.into_bytes();
        Ok(Span { segment: first.segment, start, bytes })
    }

    /// The record is not at its place any more: truncated, recycled, or written anew elsewhere.
    fn moved_on(&self, volume: VolumeId, seq: Seq, place: Place) -> bool {
        let index = self.shared().index();
        index.log.volumes.get(&volume).is_none_or(|log| log.place(seq) != Some(Some(place)))
    }

    /// Names a failed read. A corrupt record counts as lost from now on, so that a repair of it is taken.
    fn judge(&self, volume: VolumeId, failed: Failed) -> ReadError {
        if failed.io {
            return ReadError::Io { path: failed.path, reason: failed.reason };
        }
        let shared = self.shared();
        let mut queue = shared.queue();
        let mut index = shared.index();
        for log in [&mut queue.ahead, &mut index.log] {
            if let Some(log) = log.volumes.get_mut(&volume) {
                log.mark_lost(failed.seq);
            }
        }
        tracing::warn!(%volume, seq = %failed.seq, segment = failed.path, "a journal record is corrupt");
        ReadError::Corrupt { seq: failed.seq, reason: failed.reason }
    }
}

impl Shared {
    /// What has to be copied for the oldest segment to go, if that is wanted and there is room for it.
    pub(super) fn plan_move(&self, room_bytes: u64) -> Option<Move> {
        let mut queue = self.queue();
        let mut index = self.index();
        let index = &mut *index;
        index.segments.recycle(&mut index.log, &mut queue.ahead);
        index.segments.plan_move(&index.log, index.needed.values().sum(), room_bytes, 1 << 20)
    }

    /// One record, for the writer; `None` if it cannot be read.
    pub(super) fn read_to_move(&self, volume: VolumeId, seq: Seq) -> Option<Record> {
        let source = plan(&self.index(), volume, seq, 0).ok()?.pop()?;
        match source {
            Source::Memory(record) => Some(record),
            Source::Disk(seq, place, file) => {
                let block = GROUP_ALIGN_BYTES as u64;
                let start = u64::from(place.offset) / block * block;
                let skip = (u64::from(place.offset) - start) as usize;
                let bytes = self.engine.read(&file, start, skip + place.len as usize).ok()?.into_bytes();
                decode_record_at(&bytes.slice(skip..skip + place.len as usize), volume, seq).ok()
            }
        }
    }
}

struct Failed {
    seq: Seq,
    place: Place,
    path: String,
    reason: String,
    io: bool,
}

struct Span {
    segment: u32,
    start: u64,
    bytes: Bytes,
}

impl Span {
    fn covers(&self, place: &Place) -> bool {
        let start = u64::from(place.offset);
        let end = start + u64::from(place.len);
        place.segment == self.segment && start >= self.start && end <= self.start + self.bytes.len() as u64
    }

    fn slice(&self, place: &Place) -> Bytes {
        let start = (u64::from(place.offset) - self.start) as usize;
        self.bytes.slice(start..start + place.len as usize)
    }
}

/// Which records to serve, and from where.
fn plan(index: &Index, volume: VolumeId, from: Seq, max_bytes: usize) -> Result<Vec<Source>, ReadError> {
    let Some(log) = index.log.volumes.get(&volume) else { return Err(ReadError::Beyond { last: Seq::ZERO }) };
    if from < log.floor() {
        return Err(ReadError::BelowFloor { floor: log.floor() });
    }
    if from > log.last_seq() {
        return Err(ReadError::Beyond { last: log.last_seq() });
    }
    let mut out = Vec::new();
    let mut bytes = 0;
    let mut seq = from;
    while let Some(place) = log.place(seq) {
        let Some(place) = place else { break };
        bytes += place.len as usize;
        if bytes > max_bytes && !out.is_empty() {
            break;
        }
        out.push(match index.cache.get(volume, seq) {
            Some(record) => Source::Memory(record.clone()),
            None => Source::Disk(seq, place, index.segments.files[place.segment as usize].clone()),
        });
        seq = seq.next();
    }
    if out.is_empty() {
        return Err(ReadError::Corrupt { seq: from, reason: "it was lost with its group".to_owned() });
    }
    Ok(out)
}
