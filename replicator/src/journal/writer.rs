//! The writer: the one thread that forms groups, writes and syncs them, and moves on through the segments.
//!
//! One group is in flight at a time; while it is, the next one gathers in the queue. So an idle journal writes at once
//! and a busy one syncs for everybody, with no timer. After any failed write or sync nothing is ever written again:
//! what the disk holds is unknown then, and a later sync that succeeds would prove nothing.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use farshore_core::journal::entry::{
    Entry, RecapItem, VolumeHead, head_len, put_entry, put_head, put_moved, put_recap,
};
use farshore_core::journal::group::{
    BodySum, FLAG_AFTER_LOSS, FLAG_HEAD, FLAG_HEAD_END, GROUP_ALIGN_BYTES, GROUP_BYTES_MAX, GROUP_HEADER_BYTES,
    GroupBuilder, GroupHeader,
};
use farshore_core::journal::log::Place;
use farshore_core::journal::queue::{GROUP_TARGET_BYTES, GROUP_VOLUMES_MAX, Room, Submission};
use farshore_core::journal::segments::Segment;
use farshore_core::record::{Record, RecordHash};

use super::error::JournalError;
use super::handle::{Done, Shared};
use super::super_file::{SuperFile, segment_path};
use crate::disk::{AlignedBuf, DiskFile};

/// The last block of each segment is left for a group that only says which segments are free by now.
const RESERVE_BYTES: u64 = GROUP_ALIGN_BYTES as u64;
/// Header, recap and padding of a group, at most.
const GROUP_OVERHEAD_BYTES: usize = GROUP_HEADER_BYTES + 128 * GROUP_VOLUMES_MAX + GROUP_ALIGN_BYTES;

/// Where the next group goes.
pub(super) struct Cursor {
    pub(super) segment: u32,
    pub(super) generation: u64,
    pub(super) offset: u64,
    pub(super) index: u64,
    /// Of the group before; both `None` behind a lost one.
    pub(super) prev_crc: Option<u32>,
    pub(super) recap: Option<Vec<RecapItem>>,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) cursor: Cursor,
    pub(super) super_file: SuperFile,
    buffer: Vec<u8>,
    preparing: Option<JoinHandle<std::io::Result<PathBuf>>>,
    /// Data went in since records were last moved out of the oldest segment: there may be something to gain again.
    may_move: bool,
    /// It was logged that the disk has no room for a further segment.
    told_no_growth: bool,
}

enum Content<'a> {
    Entries(&'a [Submission<Done>]),
    Heads(&'a [VolumeHead], bool),
    /// Copies of records of the oldest segment.
    Moved(&'a [Record]),
    /// Nothing but the header: which segments are free, and that what came before is over.
    Bare,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, cursor: Cursor, super_file: SuperFile) -> Writer {
        let buffer = AlignedBuf::reserve(GROUP_BYTES_MAX);
        Writer { shared, cursor, super_file, buffer, preparing: None, may_move: true, told_no_growth: false }
    }

    /// Until the journal is closed.
    pub(super) fn run(mut self) {
        loop {
            let seen = self.shared.queue().kicks;
            self.refuse();
            if self.poisoned() {
                self.fail_everything();
            } else if let Err(error) = self.keep_spares() {
                self.poison(error);
                continue;
            } else if let Err(error) = self.empty_the_oldest() {
                self.poison(error);
                continue;
            } else if self.write_next_group() {
                continue;
            }
            let mut queue = self.shared.queue();
            if queue.kicks != seen || !queue.refused.is_empty() {
                continue;
            }
            if queue.closing {
                // Under the same lock as the last look at the queue: no append falls in between.
                queue.ended = true;
                break;
            }
            drop(self.shared.wait(queue));
        }
    }

    fn poisoned(&self) -> bool {
        self.shared.index().poisoned.is_some()
    }

    fn refuse(&self) {
        let refused = std::mem::take(&mut self.shared.queue().refused);
        refused.into_iter().for_each(|(done, why)| done(Err(why.into())));
    }

    fn fail_everything(&self) {
        let reason = self.shared.index().poisoned.clone().unwrap_or_default();
        let left = self.shared.queue().drain();
        left.into_iter().for_each(|done| done(Err(JournalError::Poisoned { reason: reason.clone() })));
    }

    fn poison(&self, error: JournalError) {
        tracing::error!(%error, "the journal takes no more writes");
        let reason = error.to_string();
        let first = self.shared.index().poisoned.replace(reason.clone()).is_none();
        if first {
            self.shared.marks.burn(&reason);
        }
    }

    /// Forms and writes one group. Returns whether there was anything to write.
    fn write_next_group(&mut self) -> bool {
        let mut taken = self.form();
        if taken.is_empty() {
            return false;
        }
        let dones: Vec<Done> = taken.iter_mut().flat_map(|submission| std::mem::take(&mut submission.dones)).collect();
        let bytes: usize = taken.iter().map(|submission| submission.bytes).sum();
        let result = self.make_room(bytes).and_then(|()| self.write(&Content::Entries(&taken)));
        self.may_move = true;
        if let Err(error) = &result {
            self.poison(error.clone());
        }
        let reason = self.shared.index().poisoned.clone().unwrap_or_default();
        for done in dones {
            done(result.clone().map_err(|_| JournalError::Poisoned { reason: reason.clone() }));
        }
        true
    }

    /// Copies records forward that keep the oldest segment from being recycled, when space is short: else one volume whose
    /// records cannot be applied (its quorum is lost, say) would in time stop all others.
    fn empty_the_oldest(&mut self) -> Result<(), JournalError> {
        if !self.may_move || self.shared.queue().is_empty() {
            return Ok(());
        }
        let Some(work) = self.shared.plan_move(self.room_bytes()) else { return Ok(()) };
        self.may_move = false;
        let batch_bytes = GROUP_TARGET_BYTES.min(self.shared.segment_bytes as usize / 3);
        let mut batch: Vec<Record> = Vec::new();
        let mut bytes = 0;
        for (volume, seq) in &work.records {
            let Some(record) = self.shared.read_to_move(*volume, *seq) else {
                // It cannot be read: the segment stays until the store has it.
                return Ok(());
            };
            let len = Entry::Record(record.clone()).encoded_len();
            if bytes + len > batch_bytes && !batch.is_empty() {
                if !self.write_moved(&std::mem::take(&mut batch), bytes)? {
                    return Ok(());
                }
                bytes = 0;
            }
            bytes += len;
            batch.push(record);
        }
        if batch.is_empty() || self.write_moved(&batch, bytes)? {
            self.shared.index().segments.has_moved(&work);
        }
        Ok(())
    }

    /// False if there is no room for it.
    fn write_moved(&mut self, batch: &[Record], bytes: usize) -> Result<bool, JournalError> {
        if !self.fits(bytes) && self.shared.index().segments.free.is_empty() {
            return Ok(false);
        }
        self.make_room(bytes)?;
        self.write(&Content::Moved(batch))?;
        Ok(true)
    }

    /// Takes the next group's submissions, by what space there is: user data neither begins the last free segment nor
    /// goes into it.
    fn form(&mut self) -> Vec<Submission<Done>> {
        let mut queue = self.shared.queue();
        let mut index = self.shared.index();
        let index = &mut *index;
        index.segments.recycle(&mut index.log, &mut queue.ahead);
        let over_share = index.segments.over_share(&index.log, &index.needed);
        let spares = index.segments.free.len();
        let target = GROUP_TARGET_BYTES.min(self.shared.segment_bytes as usize / 3);
        let here = (self.room_bytes() as usize).saturating_sub(GROUP_OVERHEAD_BYTES);
        let data = (spares >= 1).then_some(&over_share);
        if spares >= 2 {
            return queue.form(&Room { bytes: target, data });
        }
        let taken = queue.form(&Room { bytes: target.min(here), data });
        if taken.is_empty() && spares >= 1 {
            return queue.form(&Room { bytes: target, data: None });
        }
        taken
    }

    /// Bytes left in this segment, the reserve apart.
    pub(super) fn room_bytes(&self) -> u64 {
        (self.shared.segment_bytes - RESERVE_BYTES).saturating_sub(self.cursor.offset)
    }

    pub(super) fn make_room(&mut self, body_bytes: usize) -> Result<(), JournalError> {
        if self.fits(body_bytes) { Ok(()) } else { self.rotate() }
    }

    fn fits(&self, body_bytes: usize) -> bool {
        (body_bytes + GROUP_OVERHEAD_BYTES) as u64 <= self.room_bytes()
    }

    /// Goes on in a free segment, which begins with every volume's state.
    pub(super) fn rotate(&mut self) -> Result<(), JournalError> {
        let may_reuse = self.shared.index().segments.take_free();
        let number = match may_reuse {
            Some(number) => number,
            None => {
                // All free segments were freed since the last group: a group must say so before one is overwritten.
                if self.cursor.offset + RESERVE_BYTES <= self.shared.segment_bytes {
                    self.write(&Content::Bare)?;
                }
                self.shared.index().segments.take_free().ok_or_else(|| JournalError::Config {
                    reason: "no segment is free although one was counted".to_owned(),
                })?
            }
        };
        let generation = self.cursor.generation + 1;
        self.cursor = Cursor {
            segment: number,
            generation,
            offset: 0,
            index: self.cursor.index,
            prev_crc: self.cursor.prev_crc,
            recap: self.cursor.recap.take(),
        };
        let new = Segment { generation, number, used_bytes: 0, holds: Default::default() };
        self.shared.index().segments.live.push_back(new);
        self.write_heads()
    }

    fn write_heads(&mut self) -> Result<(), JournalError> {
        let heads: Vec<VolumeHead> = self.shared.index().log.heads();
        let mut parts: VecDeque<&[VolumeHead]> = VecDeque::new();
        let (mut start, mut bytes) = (0, 0);
        for (at, head) in heads.iter().enumerate() {
            let len = head_len(head);
            if bytes + len > GROUP_TARGET_BYTES && at > start {
                parts.push_back(&heads[start..at]);
                (start, bytes) = (at, 0);
            }
            bytes += len;
        }
        parts.push_back(&heads[start..]);
        while let Some(part) = parts.pop_front() {
            self.write(&Content::Heads(part, parts.is_empty()))?;
        }
        Ok(())
    }

    /// Writes and syncs one group where the cursor is, and then makes it known.
    fn write(&mut self, content: &Content) -> Result<(), JournalError> {
        let mut builder = GroupBuilder::new(std::mem::take(&mut self.buffer));
        let mut flags = match content {
            Content::Heads(_, last) => FLAG_HEAD + if *last { FLAG_HEAD_END } else { 0 },
            Content::Entries(_) | Content::Moved(_) | Content::Bare => 0,
        };
        match (&self.cursor.recap, self.cursor.prev_crc) {
            (Some(recap), Some(_)) => put_recap(&mut builder, recap),
            _ => flags |= FLAG_AFTER_LOSS,
        }
        let places = fill(&mut builder, content);
        let header = self.header(flags);
        let (header, out) = builder.finish(header);
        let start = out.len() - header.padded_len();
        let written = self.put_on_disk(header.offset, &out[start..]);
        self.buffer = out;
        self.buffer.truncate(start);
        written?;
        self.publish(&header, content, &places)
    }

    fn header(&self, flags: u16) -> GroupHeader {
        let index = self.shared.index();
        GroupHeader {
            journal: self.shared.journal,
            generation: self.cursor.generation,
            offset: self.cursor.offset,
            segment: self.cursor.segment,
            entries: 0,
            body_bytes: 0,
            body_sum: BodySum::NONE,
            index: self.cursor.index,
            oldest: index.segments.oldest(),
            prev_crc: self.cursor.prev_crc.unwrap_or_default(),
            flags,
        }
    }

    fn put_on_disk(&self, offset: u64, data: &[u8]) -> Result<(), JournalError> {
        let file: Arc<DiskFile> = self.shared.index().segments.files[self.cursor.segment as usize].clone();
        let began = Instant::now();
        let result = self.shared.engine.write_sync(&file, offset, data);
        self.shared.sync_latency.observe(began.elapsed());
        self.shared.index().status.syncs += 1;
        result.map_err(JournalError::io("write to segment", &file.path))
    }

    /// The group is durable: the index, the cache and the segment's account learn of it.
    fn publish(&mut self, header: &GroupHeader, content: &Content, places: &[usize]) -> Result<(), JournalError> {
        let mut index = self.shared.index();
        let index = &mut *index;
        index.log.take_recap();
        if let Content::Entries(submissions) = content {
            let entries = submissions.iter().flat_map(|submission| &submission.entries);
            for ((entry, hash), at) in entries.zip(places) {
                let len = if let Entry::Record(record) = entry { record.encoded_len() } else { 0 };
                index.status.records += u64::from(len > 0);
                index.learn(entry, *hash, place_at(header, *at, len))?;
            }
            self.shared.share(index);
        }
        if let Content::Moved(records) = content {
            for (record, at) in records.iter().zip(places) {
                index.learn_moved(record, place_at(header, *at, record.encoded_len()));
            }
        }
        if let Some(segment) = index.segments.live.back_mut() {
            segment.used_bytes = header.end();
        }
        index.segments.durable_oldest = header.oldest;
        index.status.groups += 1;
        index.status.appended_bytes += header.padded_len() as u64;
        self.cursor.recap = Some(index.log.take_recap());
        self.cursor.prev_crc = Some(header.crc());
        self.cursor.offset = header.end();
        self.cursor.index += 1;
        Ok(())
    }

    /// After recovery: a group that overwrites whatever torn one lies behind the tail. Leaves the reserve alone.
    pub(super) fn write_bare(&mut self) -> Result<(), JournalError> {
        if self.room_bytes() < RESERVE_BYTES { Ok(()) } else { self.write(&Content::Bare) }
    }

    /// Has further segments made, up to the budget, before they are needed. Waits for one only when it is needed now.
    fn keep_spares(&mut self) -> Result<(), JournalError> {
        loop {
            let (spares, total, max, failed) = {
                let index = self.shared.index();
                let segments = &index.segments;
                (segments.free.len(), segments.total(), segments.max, segments.allocation_error.is_some())
            };
            if self.preparing.is_none() {
                if spares >= 2 || total >= max || failed {
                    return Ok(());
                }
                self.prepare(total);
            }
            let needed_now = self.room_bytes() < 2 * GROUP_TARGET_BYTES as u64 && spares < 2;
            let ready = self.preparing.as_ref().is_some_and(JoinHandle::is_finished);
            if !ready && !needed_now {
                return Ok(());
            }
            self.adopt_prepared()?;
        }
    }

    fn prepare(&mut self, number: u32) {
        let shared = self.shared.clone();
        let path = segment_path(&shared.dir, number);
        let made = std::thread::Builder::new().name("journal-prepare".to_owned()).spawn(move || {
            shared.engine.allocate(&path, shared.segment_bytes)?;
            // Wakes the writer, which may wait for it with a full journal.
            shared.kick();
            Ok(path)
        });
        match made {
            Ok(handle) => self.preparing = Some(handle),
            Err(error) => self.shared.index().segments.allocation_error = Some(error.to_string()),
        }
    }

    fn adopt_prepared(&mut self) -> Result<(), JournalError> {
        let Some(preparing) = self.preparing.take() else { return Ok(()) };
        let made = preparing.join().unwrap_or_else(|_| Err(std::io::Error::other("the preparing thread panicked")));
        let file = made.and_then(|path| DiskFile::open(&path, true));
        match file {
            Ok(file) => {
                self.super_file.update(|now| now.segments += 1)?;
                self.shared.index().segments.adopt(Arc::new(file));
                self.told_no_growth = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told_no_growth, true) {
                    tracing::warn!(%error, "the journal cannot grow to its budget; it goes on with the segments it has");
                }
                self.shared.index().segments.allocation_error = Some(error.to_string());
            }
        }
        Ok(())
    }
}

/// However the writer ends, also by a completion that panics: nobody waits for it in vain.
impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.index().poisoned.get_or_insert("the journal's thread panicked".to_owned());
            self.shared.marks.burn("the journal's thread panicked");
        }
        self.shared.queue().ended = true;
        self.refuse();
        let left = self.shared.queue().drain();
        left.into_iter().for_each(|done| done(Err(JournalError::Closed)));
        if let Some(preparing) = self.preparing.take() {
            // The file it made is found and used at the next start.
            let _ = preparing.join();
        }
    }
}

/// Segments are at most 1 GiB long, so that offsets in them fit.
fn place_at(header: &GroupHeader, at: usize, len: usize) -> Place {
    Place { segment: header.segment, offset: header.offset as u32 + at as u32, len: len as u32 }
}

/// Fills a group; returns where each entry's bytes begin in it.
fn fill(builder: &mut GroupBuilder, content: &Content) -> Vec<usize> {
    match content {
        Content::Entries(submissions) => {
            let entries = submissions.iter().flat_map(|submission| &submission.entries);
            entries.map(|(entry, _): &(Entry, RecordHash)| put_entry(builder, entry)).collect()
        }
        Content::Heads(heads, _) => {
            heads.iter().for_each(|head| put_head(builder, head));
            Vec::new()
        }
        Content::Moved(records) => records.iter().map(|record| put_moved(builder, record)).collect(),
        Content::Bare => Vec::new(),
    }
}
