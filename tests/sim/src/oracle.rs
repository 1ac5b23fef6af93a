//! The checkers. They see what went in and came out at the devices, what reached journals and stores, and what was
//! said on the wire; never the core's own state.
//!
//! | checker | what it holds against the run |
//! |---|---|
//! | register | each block is a linearizable register: acked survives, nothing read flips back (P1, P4, P5) |
//! | holder | no epoch completes a read or a write after a later epoch completed anything (I17) |
//! | order | one record per seq is ever applied, one per (epoch, seq) journalled (I4, I11, I33) |
//! | image | every image is the fold of the applied order up to its seq (P3) |
//! | once | each request completes exactly once, unless its node dies (I36) |
//! | patience | a fallback comes no sooner after a write that completed than was asked for |
//! | copies | what completes is on as many disks as the least that anybody asked for |
//!
//! More of them are in words (what members say), sessions (whose the device is), branches (forced promotions),
//! statement (what they are said to cost) and snapshots.
//!
//! A checker is believed only once it has caught something: `tests/sabotage` shows what they catch.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::ids::{Epoch, Incarnation, LineageId, MemberId, Seq, SessionId};
use farshore_core::record::{Record, RecordHash};

use crate::branches::{Branch, Branches, Claim, Kept, Lineage};
use crate::disk::{Image, blocks_of, stamp_of};
use crate::layout::VOLUME_BLOCKS;
use crate::sessions::Sessions;
use crate::snapshots::Snapshots;
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

/// What is judged as one register.
#[derive(Debug, Clone, Copy)]
enum Scope {
    Lineage(Lineage),
    /// Within a session nothing is forgiven.
    Session(SessionId),
}

impl Scope {
    fn is_session(self) -> bool {
        matches!(self, Scope::Session(_))
    }
}

enum Seen {
    Here,
    /// Written before the session began.
    Foreign,
    Skip,
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
    lineage: Lineage,
    /// Of the record that carries it, once one was journalled.
    seq: Seq,
    bytes: u64,
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

pub struct Oracle {
    operations: BTreeMap<u64, Operation>,
    /// Requests that have not come back, by the node and life that took them.
    open: BTreeMap<(MemberId, u32), BTreeSet<u64>>,
    pub branches: Branches,
    /// With the request that the record carries.
    journalled: BTreeMap<(Epoch, Seq), (RecordHash, Option<u64>)>,
    /// The least number of copies that anybody asked for.
    pub copies_asked: usize,
    pub words: Words,
    pub sessions: Sessions,
    pub snapshots: Snapshots,
    /// Class `flush`: survival across epochs is owed to flushed writes alone.
    pub flush_class: bool,
    pub acked_writes: u64,
    pub reads: u64,
    /// When the newest write was asked for that each node has completed.
    pub served_at: BTreeMap<MemberId, u64>,
}

impl Oracle {
    pub fn new(flush_class: bool, lineage: Lineage, copies_asked: usize) -> Oracle {
        Oracle {
            operations: BTreeMap::new(),
            open: BTreeMap::new(),
            branches: Branches::beginning_with(lineage),
            journalled: BTreeMap::new(),
            copies_asked,
            words: Words::default(),
            sessions: Sessions::default(),
            snapshots: Snapshots::default(),
            flush_class,
            acked_writes: 0,
            reads: 0,
            served_at: BTreeMap::new(),
        }
    }

    pub fn submitted(
        &mut self,
        id: u64,
        asked: Asked,
        blocks: std::ops::Range<usize>,
        (node, life, session, lineage): (MemberId, u32, SessionId, Lineage),
        now: u64,
    ) {
        let operation = Operation {
            asked,
            blocks,
            node,
            life,
            session,
            lineage,
            seq: Seq::ZERO,
            bytes: 0,
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
        let lineage = operation.lineage;
        self.branches.may_serve((operation.node, operation.life), lineage, "completes a request")?;
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
        let newest = &mut self.branches.of(lineage).newest_epoch;
        if epoch < *newest {
            // A write that was acked in a lost epoch is in the later log, and is no lie; but its holder was fenced.
            let text = format!("request {id} completes in epoch {epoch} after {newest} completed requests");
            return wrong("holder", text);
        }
        *newest = epoch.max(*newest);
        Ok(())
    }

    /// A write has completed: when it was asked for, its node had a data quorum, or has had one since.
    pub fn note_service(&mut self, id: u64) {
        if let Some((_, invoked)) = self.mutation(id)
            && let Some(operation) = self.operations.get(&id)
        {
            let last = self.served_at.entry(operation.node).or_default();
            *last = invoked.max(*last);
        }
    }

    /// A write that completed, the seq of its record and when it was asked for.
    pub fn mutation(&self, id: u64) -> Option<(Seq, u64)> {
        let operation = self.operations.get(&id).filter(|o| o.asked == Asked::Mutate && o.done.is_some())?;
        Some((operation.seq, operation.invoked))
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
        let mut news = None;
        let (known, _) = *self.journalled.entry((record.epoch, record.seq)).or_insert_with(|| {
            news = stamp_of(record);
            (hash, news)
        });
        if let Some(operation) = news.and_then(|stamp| self.operations.get_mut(&stamp)) {
            (operation.seq, operation.bytes) = (record.seq, record.payload.len() as u64);
        }
        if known != hash {
            return wrong("order", format!("{node} journals other bytes for {}@{}", record.seq, record.epoch));
        }
        Ok(())
    }

    /// The request that a record carries.
    pub fn request_in(&self, epoch: Epoch, seq: Seq) -> Option<u64> {
        self.journalled.get(&(epoch, seq)).and_then(|(_, request)| *request)
    }

    pub fn applied(&mut self, node: MemberId, lineage: Lineage, record: &Record, hash: RecordHash) -> Verdict {
        let branch = self.branches.of(lineage);
        if branch.order.get(&record.seq).is_some_and(|known| *known != hash) {
            let text = format!("{node} applies {}@{}, another was applied there", record.seq, record.epoch);
            return wrong("order", text);
        }
        if branch.order.insert(record.seq, hash).is_some() {
            return Ok(());
        }
        branch.shows(record.seq);
        self.snapshots.applied(record, hash);
        let mut gone = Vec::new();
        if branch.tail.get(&record.seq).is_some_and(|(known, _)| *known != hash) {
            gone = branch.drop_tail(record.seq);
        }
        if let Some(stamp) = stamp_of(record) {
            if self.operations.get(&stamp).is_some_and(|o| o.lineage != lineage) {
                branch.kept.insert(stamp, record.seq);
            }
            for block in blocks_of(record) {
                let history = &mut branch.block_history[block];
                let at = history.partition_point(|(seq, _)| *seq < record.seq);
                history.insert(at, (record.seq, stamp));
            }
        }
        let asked_at = self.branches.claim(lineage).map_or(0, |claim| claim.asked_at);
        match gone.into_iter().find(|id| self.owed_by(*id, asked_at)) {
            Some(id) => wrong("fork", format!("request {id}, acknowledged and forked from, is replaced at {node}")),
            None => Ok(()),
        }
    }

    /// Was this write acknowledged by then? In class `flush` its completion says nothing, a later flush does.
    fn owed_by(&self, id: u64, by: u64) -> bool {
        let Some((write, done)) = self.operations.get(&id).and_then(|o| Some((o, o.done?))) else { return false };
        let flushes = |o: &Operation| o.asked == Asked::Flush && o.epoch == write.epoch && o.invoked > done;
        let mut flushed = self.operations.values().filter(|o| flushes(o)).filter_map(|o| o.done);
        if self.flush_class { flushed.any(|at| at <= by) } else { done <= by }
    }

    /// What had been acknowledged in `from` by then and is not in `to`: since when each was owed, and its bytes.
    pub fn given_up(&self, from: Lineage, to: Lineage, by: u64) -> Vec<(u64, u64)> {
        let (Some(old), Some(new)) = (self.branches.get(from), self.branches.get(to)) else { return Vec::new() };
        let flushes: Vec<&Operation> = self.operations.values().filter(|o| o.asked == Asked::Flush).collect();
        let owed_at = |write: &Operation| {
            let done = write.done?;
            let after = flushes.iter().filter(|o| o.epoch == write.epoch && o.invoked > done);
            if self.flush_class { after.filter_map(|o| o.done).min() } else { Some(done) }
        };
        let there = |id: &u64, o: &Operation| {
            let until = if o.lineage == from { Some(by) } else { self.branches.counts_until(from, o.lineage) };
            until.filter(|_| o.lineage == from || old.kept.contains_key(id))
        };
        let mutations = self.operations.iter().filter(|(id, o)| o.asked == Asked::Mutate && !new.kept.contains_key(id));
        let owed = mutations.filter_map(|(id, o)| {
            let (owed, until) = (owed_at(o)?, there(id, o)?);
            (owed <= until.min(by)).then_some((owed, o.bytes))
        });
        owed.collect()
    }

    /// A lineage begins that was not there before. What those named had must be in it; `proven` are those of them whose
    /// disks are still as they were when it was asked for.
    pub fn forks(
        &mut self,
        donor: (MemberId, u32),
        (from, forked): (Lineage, LineageId),
        kept: Kept,
        named: Vec<(MemberId, Incarnation)>,
        proven: &[MemberId],
        now: u64,
    ) -> Verdict {
        let to = forked.uuid;
        self.branches.fork(donor, (from, forked), kept, named, now)?;
        let Some(claim) = self.branches.claim(to).filter(|claim| claim.lineage == from) else { return Ok(()) };
        let Some(branch) = self.branches.get(to) else { return Ok(()) };
        for (member, _, held) in claim.held.iter().filter(|(member, _, _)| proven.contains(member)) {
            let lost = held.iter().find(|id| !branch.kept.contains_key(id) && self.owed_by(**id, claim.asked_at));
            if let Some(id) = lost {
                let text =
                    format!("request {id} was acknowledged, and is given up although {member} was named and has it");
                return wrong("fork", text);
            }
        }
        Ok(())
    }

    /// A member's log ends at `after` now. What of a lineage's beginning goes with that must not have been on its disk,
    /// acknowledged, when the force was asked for.
    pub fn lets_go(&mut self, (id, incarnation): (MemberId, Incarnation), after: Seq) -> Verdict {
        for (lineage, gone) in self.branches.lets_go(id, after) {
            let Some(claim) = self.branches.claim(lineage) else { continue };
            let held = claim.held.iter().filter(|(member, life, _)| (*member, *life) == (id, incarnation));
            let owed = |request: &&u64| {
                held.clone().any(|(_, _, held)| held.contains(request)) && self.owed_by(**request, claim.asked_at)
            };
            if let Some(request) = gone.iter().find(owed) {
                let text = format!("request {request} was acknowledged, {id} was named and had it, and gives it up");
                return wrong("fork", text);
            }
        }
        Ok(())
    }

    pub fn force_asked(&mut self, uuid: Lineage, claim: Claim) {
        self.copies_asked = 1;
        self.branches.asked(uuid, claim);
    }

    pub fn image(&mut self, node: MemberId, lineage: Lineage, image: &Image) -> Verdict {
        let upto = image.base.seq;
        let Some(branch) = self.branches.get(lineage) else { return Ok(()) };
        if upto > Seq::ZERO && branch.order.get(&upto) != Some(&image.base.hash) {
            return wrong("image", format!("{node} shows an image at {upto} that ends in another record"));
        }
        for (block, cell) in image.cells.iter().enumerate() {
            let want = branch.cell(block, upto);
            if *cell != want {
                let text = format!(
                    "{node} at {upto}: block {block} holds request {} of seq {}, the order says {} of {}",
                    cell.stamp, cell.seq, want.stamp, want.seq
                );
                return wrong("image", text);
            }
        }
        self.snapshots.shown(node, branch, image)
    }

    /// When a change was asked for in this lineage.
    pub fn invoked(&self, id: u64, lineage: Lineage) -> Option<u64> {
        let operation = self.operations.get(&id)?;
        (operation.asked == Asked::Mutate && operation.lineage == lineage).then_some(operation.invoked)
    }

    /// Since when each change made in this lineage is known: it has completed, or a read that saw it has.
    pub fn known(&self, lineage: Lineage) -> BTreeMap<u64, u64> {
        let mut known: BTreeMap<u64, u64> = BTreeMap::new();
        for (id, operation) in self.operations.iter().filter(|(_, o)| o.lineage == lineage) {
            let Some(done) = operation.done else { continue };
            let own = (operation.asked == Asked::Mutate).then_some(id);
            for request in operation.seen.iter().chain(own) {
                let at = known.entry(*request).or_insert(done);
                *at = done.min(*at);
            }
        }
        known
    }

    /// Judges the whole history, block by block.
    pub fn registers(&mut self) -> Verdict {
        self.owe();
        let touching = self.touching();
        for (lineage, _) in self.branches.all() {
            for (block, ids) in touching.iter().enumerate() {
                self.register(block, ids, Scope::Lineage(lineage))?;
            }
        }
        if !self.flush_class {
            return Ok(());
        }
        // Within a session nothing that completed is lost, flushed or not: a device is taken back with all or not at all.
        let sessions: BTreeSet<SessionId> = self.operations.values().map(|o| o.session).collect();
        for session in sessions {
            for (block, ids) in touching.iter().enumerate() {
                self.register(block, ids, Scope::Session(session))?;
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

    /// Until when what a request did counts in this scope; `None` if it is no part of it.
    fn counts_until(&self, scope: Scope, id: u64, operation: &Operation) -> Option<u64> {
        match scope {
            Scope::Session(session) => (operation.session == session).then_some(u64::MAX),
            Scope::Lineage(lineage) if lineage == operation.lineage => Some(u64::MAX),
            Scope::Lineage(lineage) => {
                let kept = |branch: &Branch| operation.asked != Asked::Mutate || branch.kept.contains_key(&id);
                self.branches.get(lineage).filter(|branch| kept(branch))?;
                self.branches.counts_until(lineage, operation.lineage)
            }
        }
    }

    /// Gibbons and Korach, "Testing shared memories" (1997): with unique stamps, a register's history is
    /// linearizable iff no read precedes its write, the zones of two values that must both span time do not
    /// overlap, and none that may be a point lies inside one that spans time.
    fn register(&self, block: usize, touching: &[u64], scope: Scope) -> Verdict {
        // Per stamp: earliest completion and latest invocation of its write and reads.
        let mut zones: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        zones.insert(0, (0, 0));
        let here: Vec<(u64, &Operation, u64)> = touching
            .iter()
            .filter_map(|id| {
                let operation = &self.operations[id];
                Some((*id, operation, self.counts_until(scope, *id, operation)?))
            })
            .collect();
        let seen: BTreeSet<u64> = here
            .iter()
            .filter(|(_, o, until)| o.asked == Asked::Read && o.done.is_some_and(|done| done <= *until))
            .map(|(_, o, _)| o.seen[block - o.blocks.start])
            .collect();
        for (id, operation, until) in here {
            match operation.asked {
                Asked::Flush => {}
                Asked::Mutate => {
                    let owed = if scope.is_session() { operation.done } else { operation.owed_from };
                    let done = owed.filter(|done| *done <= until).unwrap_or(u64::MAX);
                    if done == u64::MAX && !seen.contains(&id) {
                        continue;
                    }
                    let zone = zones.entry(id).or_insert((u64::MAX, 0));
                    *zone = (zone.0.min(done), zone.1.max(operation.invoked));
                }
                Asked::Read => {
                    let Some(done) = operation.done.filter(|done| *done <= until) else { continue };
                    let stamp = operation.seen[block - operation.blocks.start];
                    let of = match self.seen_in(scope, block, (id, operation), stamp)? {
                        Seen::Skip => continue,
                        Seen::Foreign => 0,
                        Seen::Here => u64::MAX,
                    };
                    let zone = zones.entry(stamp).or_insert((of, 0));
                    *zone = (zone.0.min(done), zone.1.max(operation.invoked));
                }
            }
        }
        judge_zones(block, &zones)
    }

    /// What it means that a read saw this stamp.
    fn seen_in(
        &self,
        scope: Scope,
        block: usize,
        (id, read): (u64, &Operation),
        stamp: u64,
    ) -> Result<Seen, Violation> {
        let complain = |text: String| Err(Violation { checker: "register", text });
        let Some(write) = self.operations.get(&stamp) else {
            return match stamp {
                0 => Ok(Seen::Here),
                _ => complain(format!("read {id} of block {block} saw {stamp}, which nobody wrote")),
            };
        };
        if write.asked != Asked::Mutate || !write.blocks.contains(&block) {
            return complain(format!("read {id} of block {block} saw request {stamp}"));
        }
        if read.done.is_some_and(|done| done < write.invoked) {
            return complain(format!("read {id} saw request {stamp} before it was made"));
        }
        match scope {
            Scope::Session(session) if write.session != session => Ok(Seen::Foreign),
            Scope::Session(_) => Ok(Seen::Here),
            Scope::Lineage(lineage) => match self.counts_until(scope, stamp, write) {
                // What was read there is not kept here.
                None if read.lineage != lineage => Ok(Seen::Skip),
                None => complain(format!("read {id} of block {block} saw request {stamp} of another lineage")),
                Some(until) => {
                    let survives = write.owed_from.is_some_and(|owed| owed <= until);
                    Ok(if self.flush_class && !survives { Seen::Skip } else { Seen::Here })
                }
            },
        }
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
        let mut oracle = Oracle::new(false, 1, 1);
        oracle.submitted(1, Asked::Flush, 0..0, (MemberId(0), 0, SessionId(1), 1), 5);
        assert!(oracle.completed(1, None, Epoch::ZERO, 6).is_ok());
        assert!(oracle.completed(1, None, Epoch::ZERO, 7).is_err());
        assert!(oracle.completed(2, None, Epoch::ZERO, 7).is_err());
    }
}
