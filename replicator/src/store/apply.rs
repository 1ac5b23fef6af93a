//! Applying records: many records, one pass over the index, few and long writes to the slab.
//!
//! ```text
//! records ─► touched extents (the last word on each block) ─► new entries ─► slab writes ─► publish
//! ```
//! No pin can lie inside a slice of records, so only the last word on a block is written. A slice ends at a `SnapMark`:
//! what it says is carried out (`snapshot`) in the moment in which the slice is published.

use std::collections::BTreeMap;

use bytes::Bytes;
use farshore_core::ids::{BLOCK_BYTES, Seq, VolumeId};
use farshore_core::record::{Kind, RECORD_PAYLOAD_MAX, RECORD_RANGE_MAX, Record};

use super::error::{StoreError, is_no_space};
use super::extent::{BLOCK_LEN, BLOCKS_PER_EXTENT, EXTENT_BYTES, Entry, Place, Version, extents_of, split_range};
use super::image::Seen;
use super::root::{PANICKED, Store, check_range};
use super::slab::{Aligned, IO_BYTES_MAX};
use super::snapshot::mark_of;
use super::volume::{State, Volume};

/// Bounds of one slice, hence of the memory that applying it takes.
const SLICE_RECORDS_MAX: usize = 4096;
const SLICE_PAYLOAD_BYTES_MAX: usize = 16 << 20;
const SLICE_ZEROED_BYTES_MAX: u64 = 2 * RECORD_RANGE_MAX;

/// Threads that write one slice, if it has at least this many runs.
const WRITERS: usize = 4;
const PARALLEL_RUNS_MIN: usize = 8;

const _: () = assert!(RECORD_PAYLOAD_MAX <= SLICE_PAYLOAD_BYTES_MAX && RECORD_RANGE_MAX <= SLICE_ZEROED_BYTES_MAX);

/// The last word on one block.
#[derive(Clone)]
pub(super) enum Content {
    Data(Bytes),
    Hole,
}

/// What records do to one extent.
#[derive(Default)]
pub(super) struct Touch {
    blocks: [Option<(Content, Seq)>; BLOCKS_PER_EXTENT],
    /// Blocks that held data at some point inside the slice: a hole there is a change, whatever was before.
    pub wrote: u16,
}

impl Touch {
    pub fn set(&mut self, block: usize, content: Content, seq: Seq) {
        if matches!(content, Content::Data(_)) {
            self.wrote |= 1 << block;
        }
        self.blocks[block] = Some((content, seq));
    }

    /// The extent's entry afterwards; its place is not decided yet.
    fn after(&self, before: &Entry) -> Entry {
        let mut after = *before;
        for (block, (content, seq)) in self.blocks.iter().enumerate().filter_map(|(b, w)| Some((b, w.as_ref()?))) {
            match content {
                Content::Data(data) => after.set_data(block, crc32fast::hash(data), *seq),
                Content::Hole => {
                    after.set_hole(block, *seq);
                    if self.wrote & (1 << block) != 0 {
                        after.change[block] = *seq;
                    }
                }
            }
        }
        after
    }

    /// The last seq that had an effect.
    fn newest(&self, after: &Entry) -> Option<Seq> {
        let words = self.blocks.iter().enumerate().filter_map(|(block, word)| Some((block, word.as_ref()?.1)));
        words.filter(|(block, seq)| after.change[*block] == *seq).map(|(_, seq)| seq).max()
    }
}

pub(super) type Touches = BTreeMap<u64, Touch>;

/// Where the bytes of one block to be written come from.
enum Source {
    Given(Bytes),
    /// The version before, as it is: its checksum goes along, so that damage stays recognisable.
    Kept(Place),
}

struct BlockWrite {
    place: Place,
    block: usize,
    source: Source,
}

impl BlockWrite {
    /// In the slab.
    fn offset(&self) -> u64 {
        self.place.offset() + self.block as u64 * BLOCK_BYTES
    }
}

/// What a slice changes, worked out before anything is written.
#[derive(Default)]
pub(super) struct Plan {
    puts: Vec<(u64, Version, Entry, bool)>,
    /// Extents of the current view: was its place the volume's own, and is it?
    shown: Vec<(u64, bool, bool)>,
    deletes: Vec<(u64, Version)>,
    freed: Vec<Place>,
    allocated: Vec<Place>,
    writes: Vec<BlockWrite>,
}

impl Plan {
    pub fn extents(&self) -> impl Iterator<Item = u64> {
        self.puts.iter().map(|(extent, ..)| *extent)
    }
}

impl Store {
    /// Applies records in their order. Those at or below the applied seq are skipped, so redo may begin anywhere at or
    /// below it. Returns the seq that is applied now: that of the last record, or of the first `SnapMark` in the
    /// slice, which is carried out; call again for the rest.
    ///
    /// The caller applies only what the local journal holds durably. Not durable before [`Store::checkpoint`].
    /// After [`StoreError::Full`] some of the records may have been applied; [`Store::volumes`] tells.
    pub fn apply(&self, id: VolumeId, records: &[Record]) -> Result<Seq, StoreError> {
        let volume = self.live(id)?;
        // When the store is full: free what can be freed, then one by one, for a discard may make room for what
        // follows it. Over once freeing did not help.
        let (mut records_max, mut stuck_at) = (SLICE_RECORDS_MAX, None);
        loop {
            let result = self.apply_slices(&volume, records, records_max);
            let applied = volume.state().view.at.seq;
            if !matches!(result, Err(StoreError::Full { .. })) || stuck_at == Some(applied) {
                return result;
            }
            (records_max, stuck_at) = (1, Some(applied));
            self.reclaim()?;
        }
    }

    fn apply_slices(&self, volume: &Volume, records: &[Record], records_max: usize) -> Result<Seq, StoreError> {
        let _mutating = volume.mutating();
        let mut rest = records;
        loop {
            let (removing, stage, size_bytes, applied) = {
                let state = volume.state();
                (state.removing, state.stage, state.size_bytes, state.view.at.seq)
            };
            if removing {
                return Err(StoreError::NoVolume { volume: volume.id });
            }
            let known = rest.iter().take_while(|record| record.seq <= applied).count();
            rest = &rest[known..];
            let slice = cut(rest, records_max);
            let Some(last) = slice.last() else { return Ok(applied) };
            if let Some(stage) = stage {
                return Err(StoreError::Staging { volume: volume.id, ship_id: stage.ship_id });
            }
            check_slice(volume.id, slice, size_bytes, applied)?;
            self.apply_slice(volume, slice, last.seq)?;
            self.checkpoint_if_crowded()?;
            if last.kind == Kind::SnapMark {
                return Ok(last.seq);
            }
            rest = &rest[slice.len()..];
        }
    }

    fn apply_slice(&self, volume: &Volume, records: &[Record], last: Seq) -> Result<(), StoreError> {
        // Before anything is changed: one that can't be read must not be passed over.
        let mark = records.last().filter(|record| record.kind == Kind::SnapMark);
        let mark = mark.map(|record| mark_of(volume.id, record)).transpose()?;
        let plan = {
            let state = volume.state();
            let touches = self.touch(volume, &state, records)?;
            let extents: Vec<u64> = touches.keys().copied().collect();
            let current = self.current(volume, &state, &extents)?;
            let mut plan = self.place(&state, touches, &current)?;
            plan.writes.sort_unstable_by_key(|write| (write.place, write.block));
            plan
        };
        let _changing = volume.changing(plan.extents());
        self.write_blocks(&plan)?;
        self.publish(volume, plan, |state| {
            state.view.at.seq = last;
            if let Some(mark) = mark {
                state.mark(volume.id, mark);
            }
        });
        Ok(())
    }

    /// Folds records into the last word on each block. Holes are noted only where something is stored.
    fn touch(&self, volume: &Volume, state: &State, records: &[Record]) -> Result<Touches, StoreError> {
        let mut touches = Touches::new();
        for record in records {
            match record.kind {
                Kind::Write => {
                    let mut payload = record.payload.clone();
                    for (extent, first, count) in split_range(record.offset, record.length) {
                        let touch = touches.entry(extent).or_default();
                        for block in first..first + count {
                            touch.set(block, Content::Data(payload.split_to(BLOCK_LEN)), record.seq);
                        }
                    }
                }
                Kind::Discard | Kind::WriteZeroes => {
                    let span = extents_of(record.offset, record.length);
                    for extent in self.seen(volume, state, &state.view, span.clone())?.into_keys() {
                        touches.entry(extent).or_default();
                    }
                    for (&extent, touch) in touches.range_mut(span) {
                        let start = record.offset.max(extent * EXTENT_BYTES);
                        let end = (record.offset + record.length).min((extent + 1) * EXTENT_BYTES);
                        let (_, first, count) = split_range(start, end - start).next().expect("not empty");
                        (first..first + count).for_each(|block| touch.set(block, Content::Hole, record.seq));
                    }
                }
                Kind::EpochStart | Kind::SnapMark | Kind::Noop => {}
            }
        }
        Ok(touches)
    }

    /// Decides for each extent: in place, redirected, or a hole only. Takes the places needed, or changes nothing.
    fn place(&self, state: &State, touches: Touches, current: &BTreeMap<u64, Seen>) -> Result<Plan, StoreError> {
        let mut plan = Plan::default();
        let mut moves = Vec::new();
        for (extent, touch) in touches {
            let old = current.get(&extent).copied();
            let before = old.map_or(Entry::EMPTY, |old| old.entry);
            let mut after = touch.after(&before);
            if after == before {
                continue;
            }
            let seq = touch.newest(&after).expect("what differs was changed by some record");
            let version = Version { image: state.view.at.image, seq };
            let keep_old = old.is_some_and(|old| !old.own || state.is_pinned(old.version));
            let in_place = before.own_place().is_some() && !keep_old;
            let writes = writes_of(touch, &before, &after, in_place);
            if after.data == 0 {
                after.give_up_place();
            } else if !in_place {
                moves.push((plan.puts.len(), plan.writes.len()..plan.writes.len() + writes.len()));
            }
            let had = old.is_some_and(|old| old.own && old.entry.own_place().is_some());
            plan.shown.push((extent, had, after.data != 0));
            if let (Some(old), false) = (old, keep_old) {
                plan.deletes.push((extent, old.version));
                plan.freed.extend(before.own_place().filter(|place| *place != after.place));
            }
            plan.puts.push((extent, version, after, true));
            plan.writes.extend(writes);
        }
        self.give_places(&mut plan, moves)?;
        Ok(plan)
    }

    fn give_places(&self, plan: &mut Plan, moves: Vec<(usize, std::ops::Range<usize>)>) -> Result<(), StoreError> {
        if moves.is_empty() {
            return Ok(());
        }
        plan.allocated = self.allocate(moves.len() as u64)?;
        for ((put, writes), place) in moves.into_iter().zip(plan.allocated.clone()) {
            plan.puts[put].2.place = place;
            plan.puts[put].2.borrowed = false;
            plan.writes[writes].iter_mut().for_each(|write| write.place = place);
        }
        Ok(())
    }

    /// Plans extents of a shipment: as they are after their touches, at `version`, whether or not that exists already.
    pub(super) fn place_staged(
        &self,
        touches: Touches,
        version: Version,
        staged: &BTreeMap<u64, Entry>,
        base: &BTreeMap<u64, Entry>,
    ) -> Result<Plan, StoreError> {
        let (mut plan, mut moves) = (Plan::default(), Vec::new());
        for (extent, touch) in touches {
            let staged = staged.get(&extent).copied();
            let before = staged.or(base.get(&extent).copied()).unwrap_or(Entry::EMPTY);
            let mut after = touch.after(&before);
            // The source says that these blocks changed, also where they were holes before and are holes now.
            for (block, word) in touch.blocks.iter().enumerate() {
                if let Some((_, seq)) = word {
                    after.change[block] = *seq;
                }
            }
            let in_place = staged.is_some_and(|staged| staged.place.is_some());
            let writes = writes_of(touch, &before, &after, in_place);
            if after.data == 0 {
                after.give_up_place();
                plan.freed.extend(staged.map(|staged| staged.place).filter(|place| place.is_some()));
            } else if !in_place {
                moves.push((plan.puts.len(), plan.writes.len()..plan.writes.len() + writes.len()));
            }
            plan.puts.push((extent, version, after, staged.is_none()));
            plan.writes.extend(writes);
        }
        self.give_places(&mut plan, moves)?;
        plan.writes.sort_unstable_by_key(|write| (write.place, write.block));
        Ok(plan)
    }

    /// Carries out a plan's writes, adjacent blocks together, several at a time. Running out of space changes nothing
    /// that is visible: blocks written in place are rewritten by the retry.
    pub(super) fn write_blocks(&self, plan: &Plan) -> Result<(), StoreError> {
        let runs = runs_of(&plan.writes);
        let write_all = |runs: &[&[BlockWrite]]| runs.iter().try_for_each(|run| self.write_run(run));
        let done = if runs.len() < PARALLEL_RUNS_MIN {
            write_all(&runs)
        } else {
            // One write at a time would leave the disk waiting for us most of the time.
            std::thread::scope(|threads| {
                let parts = runs.chunks(runs.len().div_ceil(WRITERS));
                let writers: Vec<_> = parts.map(|part| threads.spawn(move || write_all(part))).collect();
                // Every writer is waited for, also after an error: nothing may be written later.
                let results: Vec<_> = writers.into_iter().map(|writer| writer.join().expect(PANICKED)).collect();
                results.into_iter().collect()
            })
        };
        done.map_err(|error| {
            self.space_map().release(&plan.allocated);
            let needed = plan.allocated.len() as u64;
            if is_no_space(&error) { self.disk_full(needed) } else { self.poisoned_by("write", error) }
        })
    }

    fn write_run(&self, run: &[BlockWrite]) -> std::io::Result<()> {
        let mut buffer = Aligned::zeroed(run.len() * BLOCK_LEN);
        self.fill(run, &mut buffer);
        self.slab.write(run[0].offset(), &buffer)
    }

    /// Gathers the bytes of a run; what is kept from the version before is read in runs of its own.
    fn fill(&self, run: &[BlockWrite], buffer: &mut [u8]) {
        let mut at = 0;
        while at < run.len() {
            match &run[at].source {
                Source::Given(data) => {
                    buffer[at * BLOCK_LEN..(at + 1) * BLOCK_LEN].copy_from_slice(data);
                    at += 1;
                }
                Source::Kept(place) => {
                    let same = |write: &&BlockWrite| matches!(&write.source, Source::Kept(other) if other == place);
                    let blocks = run[at..].iter().zip(run[at].block..);
                    let count = blocks.take_while(|(write, block)| same(write) && write.block == *block).count();
                    let offset = place.offset() + run[at].block as u64 * BLOCK_BYTES;
                    self.read_kept(offset, &mut buffer[at * BLOCK_LEN..(at + count) * BLOCK_LEN]);
                    at += count;
                }
            }
        }
    }

    /// Blocks that the medium does not give back become zeroes, whose checksum is not theirs: they stay damaged in the
    /// new place until a peer repairs them.
    fn read_kept(&self, offset: u64, buffer: &mut [u8]) {
        if self.slab.read(offset, buffer).is_ok() {
            return;
        }
        for (at, block) in buffer.chunks_mut(BLOCK_LEN).enumerate() {
            if self.slab.read(offset + (at * BLOCK_LEN) as u64, block).is_err() {
                block.fill(0);
            }
        }
    }

    /// Makes a plan whose blocks are written visible, in one moment.
    pub(super) fn publish(&self, volume: &Volume, plan: Plan, also: impl FnOnce(&mut State)) {
        let mut state = volume.state_mut();
        let before = state.dirty_len();
        for (extent, version) in plan.deletes {
            state.delete(extent, version);
        }
        for (extent, version, entry, fresh) in plan.puts {
            state.put(extent, version, entry, fresh);
            if state.view.at.image == version.image {
                volume.remember(extent, Some(Seen { version, entry, own: true }));
            }
        }
        for (extent, had, has) in plan.shown {
            state.shown.change(extent, had, has);
        }
        state.used_places += plan.allocated.len() as u64;
        state.used_places -= plan.freed.len() as u64;
        state.freed.extend(plan.freed);
        also(&mut state);
        self.count_dirty(before, state.dirty_len());
        state.position_dirty = true;
    }
}

/// Cuts sorted writes into runs that lie together in the slab.
fn runs_of(writes: &[BlockWrite]) -> Vec<&[BlockWrite]> {
    let together = |a: &BlockWrite, b: &BlockWrite| a.offset() + BLOCK_BYTES == b.offset();
    writes.chunk_by(together).flat_map(|run| run.chunks(IO_BYTES_MAX / BLOCK_LEN)).collect()
}

/// The blocks to write so that `after` holds: those touched, and in a new place also those kept.
fn writes_of(touch: Touch, before: &Entry, after: &Entry, in_place: bool) -> Vec<BlockWrite> {
    let target = if in_place { before.place } else { Place::NONE };
    let blocks = touch.blocks.iter().filter(|word| word.is_some() || !in_place).count();
    let mut out = Vec::with_capacity(blocks);
    for (block, word) in touch.blocks.into_iter().enumerate() {
        let source = match word {
            Some((Content::Data(data), _)) => Source::Given(data),
            Some((Content::Hole, _)) => continue,
            None if !in_place && after.has_data(block) => Source::Kept(before.place),
            None => continue,
        };
        out.push(BlockWrite { place: target, block, source });
    }
    out
}

/// The longest head of `records` within the bounds of a slice; a `SnapMark` ends it.
fn cut(records: &[Record], records_max: usize) -> &[Record] {
    let (mut payload_bytes, mut zeroed_bytes) = (0, 0);
    for (at, record) in records.iter().enumerate() {
        payload_bytes += record.payload.len();
        zeroed_bytes += if record.kind == Kind::Write { 0 } else { record.length.min(RECORD_RANGE_MAX) };
        let over = payload_bytes > SLICE_PAYLOAD_BYTES_MAX || zeroed_bytes > SLICE_ZEROED_BYTES_MAX;
        if at > 0 && (over || at >= records_max) {
            return &records[..at];
        }
        if record.kind == Kind::SnapMark {
            return &records[..=at];
        }
    }
    records
}

/// Everything that could make applying fail half-way, checked first. Records come from disks and peers.
fn check_slice(volume: VolumeId, records: &[Record], size_bytes: u64, applied: Seq) -> Result<(), StoreError> {
    let mut expected = applied;
    for record in records {
        let invalid = |reason: &str| {
            let reason = format!("record {}: {reason}", record.seq);
            Err(StoreError::Invalid { op: "apply to", volume, reason })
        };
        match expected.0.checked_add(1) {
            Some(next) if record.seq == Seq(next) => expected = record.seq,
            Some(_) => return Err(StoreError::Gap { volume, applied: expected, found: record.seq }),
            None => return invalid("the seqs have run out"),
        }
        if record.volume != volume {
            return invalid("belongs to another volume");
        }
        match record.kind {
            Kind::Write => {
                if record.payload.len() as u64 != record.length || record.payload.len() > RECORD_PAYLOAD_MAX {
                    return invalid("its payload is not as long as its range");
                }
                if crc32fast::hash(&record.payload) != record.payload_crc {
                    return invalid("its payload does not match its checksum");
                }
            }
            Kind::Discard | Kind::WriteZeroes if record.length > RECORD_RANGE_MAX => return invalid("is too long"),
            Kind::Discard | Kind::WriteZeroes => {}
            Kind::EpochStart | Kind::SnapMark | Kind::Noop => continue,
        }
        if record.length == 0 {
            return invalid("covers nothing");
        }
        check_range(volume, record.offset, record.length, size_bytes)?;
    }
    Ok(())
}
