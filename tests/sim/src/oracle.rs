//! The checkers. They see what went in and came out at the devices, what reached journals and stores, and what was
//! said on the wire; never the core's own state.
//!
//! | checker | what it holds against the run |
//! |---|---|
//! | register | each block is a linearizable register: acked survives, nothing read flips back (P1, P4, P5) |
//! | reader | no epoch serves a read after a later epoch completed anything (I17) |
//! | order | one record per seq is ever applied, one per (epoch, seq) journalled (I4, I11, I33) |
//! | image | every image is the fold of the applied order up to its seq (P3) |
//! | once | each request completes exactly once, unless its node dies (I36) |
//!
//! More of them are in words (what members say) and sessions (whose the device is).
//!
//! A checker is believed only once it has caught something: `tests/sabotage` shows what they catch.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::ids::{Epoch, MemberId, Seq, SessionId};
use farshore_core::record::{Record, RecordHash};

use crate::disk::{Image, blocks_of, stamp_of};
use crate::layout::VOLUME_BLOCKS;
use crate::sessions::Sessions;
use crate::words::Words;

/// What a run did wrong: which checker says so, and what it saw.
#[derive(Debug, Clone)]
pub struct Violation {
    pub checker: &'static str,
    pub text: String,
}

pub type Verdict = Result<(), Violation>;

pub fn wrong(checker: &'static str, text: String) -> Verdict {
    Err(Violation { checker, text })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Read,
    Mutate,
    Flush,
}

#[derive(Debug, Clone)]
struct Operation {
    asked: Asked,
    blocks: std::ops::Range<usize>,
    node: MemberId,
    life: u32,
    session: SessionId,
    invoked: u64,
    /// When it succeeded, if it did. A failed or lost request may have taken effect or not.
    done: Option<u64>,
    completed: bool,
    /// For mutations: from when on it must be there.
    owed_from: Option<u64>,
    /// For reads: the stamp of each block.
    seen: Vec<u64>,
    epoch: Epoch,
}

#[derive(Default)]
pub struct Oracle {
    operations: BTreeMap<u64, Operation>,
    /// Requests that have not come back, by the node and life that took them.
    open: BTreeMap<(MemberId, u32), BTreeSet<u64>>,
    /// The one order, as it is applied anywhere first.
    order: BTreeMap<Seq, RecordHash>,
    block_history: Vec<Vec<(Seq, u64)>>,
    journalled: BTreeMap<(Epoch, Seq), RecordHash>,
    newest_epoch: Epoch,
    pub words: Words,
    pub sessions: Sessions,
    /// Class `flush`: survival across epochs is owed to flushed writes alone.
    pub flush_class: bool,
    pub acked_writes: u64,
    pub reads: u64,
    pub late_completions: u64,
}

impl Oracle {
    pub fn new(flush_class: bool) -> Oracle {
        Oracle { flush_class, block_history: vec![Vec::new(); VOLUME_BLOCKS as usize], ..Oracle::default() }
    }

    pub fn submitted(
        &mut self,
        id: u64,
        asked: Asked,
        blocks: std::ops::Range<usize>,
        (node, life, session): (MemberId, u32, SessionId),
        now: u64,
    ) {
        let operation = Operation {
            asked,
            blocks,
            node,
            life,
            session,
            invoked: now,
            done: None,
            completed: false,
            owed_from: None,
            seen: Vec::new(),
            epoch: Epoch::ZERO,
        };
        self.operations.insert(id, operation);
        self.open.entry((node, life)).or_default().insert(id);
    }

    /// A request came back. `seen` holds the stamps that a successful read returned; `None` for a failed request.
    pub fn completed(&mut self, id: u64, ok: Option<Vec<u64>>, epoch: Epoch, now: u64) -> Verdict {
        let Some(operation) = self.operations.get_mut(&id) else {
            return wrong("once", format!("request {id} completed and was never submitted"));
        };
        if std::mem::replace(&mut operation.completed, true) {
            return wrong("once", format!("request {id} completed twice"));
        }
        if let Some(open) = self.open.get_mut(&(operation.node, operation.life)) {
            open.remove(&id);
        }
        let Some(seen) = ok else { return Ok(()) };
        operation.done = Some(now);
        operation.epoch = epoch;
        let read = operation.asked == Asked::Read;
        if read && seen.len() != operation.blocks.len() {
            return wrong(
                "register",
                format!("read {id} asked for {:?} and got {} blocks", operation.blocks, seen.len()),
            );
        }
        operation.seen = seen;
        match operation.asked {
            Asked::Read => self.reads += 1,
            Asked::Mutate => self.acked_writes += 1,
            Asked::Flush => {}
        }
        if epoch < self.newest_epoch {
            if read {
                let text = format!("read {id} served in epoch {epoch} after {} completed requests", self.newest_epoch);
                return wrong("reader", text);
            }
            // The acks of a lost epoch may arrive late: its records are in the later log, so this is no lie.
            self.late_completions += 1;
        }
        self.newest_epoch = self.newest_epoch.max(epoch);
        Ok(())
    }

    /// Every request to this life of a node has come back; to be called when the device is gone or the run ends.
    pub fn all_completed(&self, node: MemberId, life: u32) -> Verdict {
        match self.open.get(&(node, life)).and_then(|open| open.first()) {
            Some(id) => wrong("once", format!("request {id} at {node} (life {life}) never completed")),
            None => Ok(()),
        }
    }

    pub fn outstanding(&self, node: MemberId, life: u32) -> usize {
        self.open.get(&(node, life)).map_or(0, BTreeSet::len)
    }

    pub fn journalled(&mut self, node: MemberId, record: &Record, hash: RecordHash) -> Verdict {
        let known = *self.journalled.entry((record.epoch, record.seq)).or_insert(hash);
        if known != hash {
            return wrong("order", format!("{node} journals other bytes for {}@{}", record.seq, record.epoch));
        }
        Ok(())
    }

    pub fn applied(&mut self, node: MemberId, record: &Record, hash: RecordHash) -> Verdict {
        match self.order.get(&record.seq) {
            Some(known) if *known == hash => return Ok(()),
            Some(_) => {
                let text = format!("{node} applies {}@{}, another was applied there", record.seq, record.epoch);
                return wrong("order", text);
            }
            None => {}
        }
        self.order.insert(record.seq, hash);
        if let Some(stamp) = stamp_of(record) {
            for block in blocks_of(record) {
                let history = &mut self.block_history[block];
                let at = history.partition_point(|(seq, _)| *seq < record.seq);
                history.insert(at, (record.seq, stamp));
            }
        }
        Ok(())
    }

    pub fn image(&self, node: MemberId, image: &Image) -> Verdict {
        let upto = image.base.seq;
        if upto > Seq::ZERO && self.order.get(&upto) != Some(&image.base.hash) {
            return wrong("image", format!("{node} shows an image at {upto} that ends in another record"));
        }
        for (block, cell) in image.cells.iter().enumerate() {
            let history = &self.block_history[block];
            let want = match history.partition_point(|(seq, _)| *seq <= upto) {
                0 => (Seq::ZERO, 0),
                n => history[n - 1],
            };
            if (cell.seq, cell.stamp) != want {
                let text = format!(
                    "{node} at {upto}: block {block} holds request {} of seq {}, the order says {} of {}",
                    cell.stamp, cell.seq, want.1, want.0
                );
                return wrong("image", text);
            }
        }
        Ok(())
    }

    /// Judges the whole history, block by block.
    pub fn registers(&mut self) -> Verdict {
        self.owe();
        let touching = self.touching();
        for (block, ids) in touching.iter().enumerate() {
            self.register(block, ids, None)?;
        }
        if !self.flush_class {
            return Ok(());
        }
        // Within a session nothing that completed is lost, flushed or not: a device is taken back with all or not at all.
        let sessions: BTreeSet<SessionId> = self.operations.values().map(|o| o.session).collect();
        for session in sessions {
            for (block, ids) in touching.iter().enumerate() {
                self.register(block, ids, Some(session))?;
            }
        }
        Ok(())
    }

    /// For each block the requests that touch it.
    fn touching(&self) -> Vec<Vec<u64>> {
        let mut touching = vec![Vec::new(); VOLUME_BLOCKS as usize];
        for (id, operation) in &self.operations {
            for block in operation.blocks.clone() {
                touching[block].push(*id);
            }
        }
        touching
    }

    /// Gibbons and Korach, "Testing shared memories" (1997): with unique stamps, a register's history is
    /// linearizable iff no read precedes its write, the zones of two values that must both span time do not
    /// overlap, and none that may be a point lies inside one that spans time.
    fn register(&self, block: usize, touching: &[u64], session: Option<SessionId>) -> Verdict {
        // Per stamp: earliest completion and latest invocation of its write and reads.
        let mut zones: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        zones.insert(0, (0, 0));
        let here = || {
            let of = |o: &Operation| session.is_none_or(|s| o.session == s);
            touching.iter().map(|id| (id, &self.operations[id])).filter(move |(_, o)| of(o))
        };
        let done_reads = here().filter(|(_, o)| o.asked == Asked::Read && o.done.is_some());
        let seen: BTreeSet<u64> = done_reads.map(|(_, o)| o.seen[block - o.blocks.start]).collect();
        for (id, operation) in here() {
            match operation.asked {
                Asked::Flush => {}
                Asked::Mutate => {
                    let owed = if session.is_some() { operation.done } else { operation.owed_from };
                    let done = owed.unwrap_or(u64::MAX);
                    if done == u64::MAX && !seen.contains(id) {
                        continue;
                    }
                    let zone = zones.entry(*id).or_insert((u64::MAX, 0));
                    *zone = (zone.0.min(done), zone.1.max(operation.invoked));
                }
                Asked::Read => {
                    let Some(done) = operation.done else { continue };
                    let stamp = operation.seen[block - operation.blocks.start];
                    if session.is_none() && self.flush_class && !self.survives(stamp) {
                        continue;
                    }
                    if let Some(write) = self.operations.get(&stamp) {
                        if write.asked != Asked::Mutate || !write.blocks.contains(&block) {
                            return wrong("register", format!("read {id} of block {block} saw request {stamp}"));
                        }
                        if done < write.invoked {
                            return wrong("register", format!("read {id} saw request {stamp} before it was made"));
                        }
                    } else if stamp != 0 {
                        return wrong(
                            "register",
                            format!("read {id} of block {block} saw {stamp}, which nobody wrote"),
                        );
                    }
                    let foreign = session.is_some_and(|s| self.operations.get(&stamp).is_some_and(|w| w.session != s));
                    let zone = zones.entry(stamp).or_insert((if foreign { 0 } else { u64::MAX }, 0));
                    *zone = (zone.0.min(done), zone.1.max(operation.invoked));
                }
            }
        }
        judge_zones(block, &zones)
    }

    /// From when on a mutation must be there: its completion; in class `flush`, that of the first flush after it in
    /// the same epoch.
    fn owe(&mut self) {
        let flushes: Vec<(Epoch, u64, u64)> = self
            .operations
            .values()
            .filter(|o| o.asked == Asked::Flush)
            .filter_map(|o| Some((o.epoch, o.invoked, o.done?)))
            .collect();
        for write in self.operations.values_mut().filter(|o| o.asked == Asked::Mutate) {
            let flushed = |done| {
                let after = flushes.iter().filter(|(epoch, invoked, _)| *epoch == write.epoch && *invoked > done);
                after.map(|(_, _, flushed)| *flushed).min()
            };
            write.owed_from = if self.flush_class { write.done.and_then(flushed) } else { write.done };
        }
    }

    fn survives(&self, stamp: u64) -> bool {
        self.operations.get(&stamp).is_none_or(|w| w.owed_from.is_some())
    }
}

fn judge_zones(block: usize, zones: &BTreeMap<u64, (u64, u64)>) -> Verdict {
    let mut spans: Vec<(u64, u64, u64)> = Vec::new();
    for (stamp, (first_done, last_invoked)) in zones {
        if first_done < last_invoked {
            spans.push((*first_done, *last_invoked, *stamp));
        }
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        if pair[1].0 < pair[0].1 {
            let text = format!(
                "block {block}: request {} was seen from {} to {} µs, request {} from {} to {} µs",
                pair[0].2, pair[0].0, pair[0].1, pair[1].2, pair[1].0, pair[1].1
            );
            return wrong("register", text);
        }
    }
    for (stamp, (first_done, last_invoked)) in zones {
        if first_done < last_invoked {
            continue;
        }
        let inside = spans.iter().find(|(from, to, _)| from < last_invoked && first_done < to);
        if let Some((from, to, over)) = inside {
            let text = format!(
                "block {block}: request {stamp} took effect between {last_invoked} and {first_done} µs, yet request \
                 {over} was there before ({from}) and after ({to})"
            );
            return wrong("register", text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(of: &[(u64, u64, u64)]) -> BTreeMap<u64, (u64, u64)> {
        of.iter().map(|(stamp, done, invoked)| (*stamp, (*done, *invoked))).collect()
    }

    #[test]
    fn a_lost_write_a_flip_and_a_stale_read_are_seen() {
        // 1 completed at 10 and is still read by a request made at 50; 2 came and went in between.
        assert!(judge_zones(0, &zones(&[(1, 10, 50), (2, 30, 20)])).is_err(), "an acked write was lost");
        assert!(judge_zones(0, &zones(&[(1, 10, 50), (2, 20, 60)])).is_err(), "both seem to be the newest");
        assert!(judge_zones(0, &zones(&[(1, 10, 50), (2, 60, 40)])).is_ok(), "the write of 2 overlaps the last read");
        assert!(judge_zones(0, &zones(&[(1, 10, 20), (2, 30, 40)])).is_ok());
    }

    #[test]
    fn a_second_completion_is_seen() {
        let mut oracle = Oracle::new(false);
        oracle.submitted(1, Asked::Flush, 0..0, (MemberId(0), 0, SessionId(1)), 5);
        assert!(oracle.completed(1, None, Epoch::ZERO, 6).is_ok());
        assert!(oracle.completed(1, None, Epoch::ZERO, 7).is_err());
        assert!(oracle.completed(2, None, Epoch::ZERO, 7).is_err());
    }
}
