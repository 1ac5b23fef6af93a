//! Persist, then say: what waits for the journal, and what its completion lets out; applying behind it.

use super::acceptor::{Pending, Replica, Then};
use crate::api::{Answer, Effect, Effects, JournalOp, Refusal, Token};
use crate::durable::LogBase;
use crate::ids::{Epoch, Seq, Tick};
use crate::limits::JOURNAL_PORTION_BYTES;
use crate::message::Body;
use crate::sabotage::{Sabotage, broken};

/// Room that a portion begins with: of records of 4 KiB it holds as many.
const PORTION_OPS: usize = 32;

impl Replica {
    pub(super) fn persist_meta(&mut self) {
        if !self.is_diskless() {
            self.d.history = self.history.clone();
            self.d.acked = self.acked;
        }
        let blob = self.d.encode();
        // Only the newest of a batch matters, but its place after the records before it does.
        self.batch.push(JournalOp::Meta(blob));
    }

    /// Hands what was collected to the journal as one effect; a new base as one of its own.
    pub fn flush(&mut self, now: Tick, fx: &mut Effects) {
        if self.failed.is_some() {
            self.batch.clear();
            self.batch_then.clear();
            self.rebased = None;
            return;
        }
        if self.batch.is_empty() {
            if self.pending.is_empty() {
                let then = self.batch_then.drain(..).map(|(_, step)| step).collect();
                self.carry_out(then, now, fx);
            } else if let Some(last) = self.pending.back_mut() {
                last.then.extend(self.batch_then.drain(..).map(|(_, step)| step));
            }
        } else {
            self.submit_batch(fx);
        }
        if let Some(seq) = self.rebased.take() {
            self.persist_meta();
            let ops = std::mem::take(&mut self.batch);
            self.submit(ops, vec![Then::Based { seq }], fx);
        }
    }

    /// To be done once everything in the batch so far is durable.
    pub(super) fn once_durable(&mut self, step: Then) {
        self.batch_then.push((self.batch.len(), step));
    }

    /// Records go apart from state and cuts, which must not wait for the space that records wait for; and in portions, so
    /// that those which found space count, and are applied, while others wait for it.
    pub(super) fn submit_batch(&mut self, fx: &mut Effects) {
        let is_record = |op: &JournalOp| matches!(op, JournalOp::Record(_));
        let mut ops = std::mem::take(&mut self.batch).into_iter().peekable();
        let mut steps = std::mem::take(&mut self.batch_then).into_iter().peekable();
        let (mut portion, mut taken, mut bytes) = (Vec::new(), 0, 0);
        while let Some(op) = ops.next() {
            let mut appended = None;
            if let JournalOp::Record(record) = &op {
                bytes += record.encoded_len() as u64;
                appended = Some(Then::Appended { upto: record.seq, bytes });
            }
            let goes_on = ops.peek().is_some_and(|next| is_record(next) == is_record(&op));
            if portion.is_empty() {
                portion.reserve(1 + ops.len().min(PORTION_OPS));
            }
            portion.push(op);
            taken += 1;
            if goes_on && bytes < JOURNAL_PORTION_BYTES {
                continue;
            }
            let mut then: Vec<Then> = appended.into_iter().collect();
            while let Some((_, step)) = steps.next_if(|(at, _)| *at <= taken) {
                then.push(step);
            }
            bytes = 0;
            self.submit(std::mem::take(&mut portion), then, fx);
        }
    }

    pub(super) fn submit(&mut self, ops: Vec<JournalOp>, then: Vec<Then>, fx: &mut Effects) {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.pending.push_back(Pending { token, durable: false, then });
        fx.push(Effect::Journal { token, ops });
    }

    pub fn has_batch(&self) -> bool {
        !self.batch.is_empty() || !self.batch_then.is_empty() || self.rebased.is_some()
    }

    pub fn on_journal_done(&mut self, token: Token, now: Tick, fx: &mut Effects) {
        let mut at_once = Vec::new();
        for pending in self.pending.iter_mut().filter(|p| p.token == token) {
            pending.durable = true;
            // A full journal: what came before may wait for the very space that a new base gives back.
            at_once.extend(pending.then.extract_if(.., |then| matches!(then, Then::Based { .. })));
        }
        if !at_once.is_empty() {
            self.carry_out(at_once, now, fx);
        }
        while self.pending.front().is_some_and(|p| p.durable) {
            if let Some(pending) = self.pending.pop_front() {
                self.carry_out(pending.then, now, fx);
            }
        }
    }

    /// The incarnation is burnt: nothing is acknowledged any more (I31).
    pub fn on_journal_failed(&mut self, reason: String, fx: &mut Effects) {
        fx.push(Effect::Edge { rule: "journal-poisoned", text: reason.clone() });
        let waiting =
            self.pending.drain(..).flat_map(|p| p.then).chain(self.batch_then.drain(..).map(|(_, step)| step));
        for step in waiting {
            if let Then::Ended { command: id, .. } = step {
                let refusal = Refusal::new("journal-poisoned", reason.clone(), "replace the disk, then promote");
                fx.push(Effect::Answer { id, result: Err(refusal) });
            }
        }
        self.failed = Some(reason);
        self.following = None;
    }

    fn speaks_under(&self, epoch: Epoch) -> bool {
        epoch == self.d.promised && (self.d.superseded.is_none() || broken(Sabotage::FencedStillSpeaks))
    }

    pub(super) fn carry_out(&mut self, then: Vec<Then>, now: Tick, fx: &mut Effects) {
        let mut ack = false;
        for step in then {
            if let Then::ConfigStored { version, .. } = step {
                self.config_stored = self.config_stored.max(version);
            }
            match step {
                Then::Appended { upto, bytes } => {
                    self.durable = upto;
                    self.undurable_bytes = self.undurable_bytes.saturating_sub(bytes);
                    ack = true;
                }
                Then::Truncated { to } => {
                    self.durable = to;
                    self.cuts.pop_front();
                }
                Then::Promised { epoch, to } if self.speaks_under(epoch) => {
                    let report = Box::new(self.report(now));
                    self.send(to, Body::Promise { epoch, report }, fx);
                }
                Then::ConfigStored { epoch, version, to } if self.speaks_under(epoch) => {
                    let incarnation = self.d.incarnation;
                    self.send(to, Body::ConfigOk { epoch, incarnation, version }, fx);
                }
                Then::Elected { epoch } if self.speaks_under(epoch) || broken(Sabotage::LowerEpochAccepted) => {
                    let (incarnation, durable, applied) = (self.d.incarnation, self.durable, self.applied);
                    if let Some(following) = self.following.as_mut().filter(|f| f.epoch == epoch) {
                        following.synced = true;
                        let leader = following.leader;
                        self.send(leader, Body::ElectOk { epoch, incarnation, durable, applied }, fx);
                    }
                }
                // A higher epoch was promised meanwhile, or the lineage was left: nothing of a lower one leaves.
                Then::Promised { .. } | Then::ConfigStored { .. } | Then::Elected { .. } => {}
                Then::Forked { lineage, to } if lineage == self.d.lineage => self.send(to, Body::ForkOk, fx),
                Then::Forked { .. } => {}
                Then::Based { seq } => fx.push(Effect::Trim { checkpoint: seq }),
                Then::Installing { seq } => fx.push(Effect::InstallImage { seq }),
                Then::Ended { epoch, tell, command } => {
                    for to in tell {
                        self.send(to, Body::Release { epoch }, fx);
                    }
                    fx.push(Effect::Answer { id: command, result: Ok(Answer::Done) });
                }
            }
        }
        self.learn_acked();
        if ack {
            self.ack(fx);
        }
        self.maybe_apply(fx);
    }

    /// A candidate adopts a log of which so much is acked. To take what it lacks, and then the first record of its epoch,
    /// its journal may have to let go of what the store can have already.
    pub fn adopts(&mut self, acked: Seq, fx: &mut Effects) {
        self.adopted_acked = acked;
        self.learn_acked();
        self.maybe_apply(fx);
    }

    pub(super) fn learn_acked(&mut self) {
        if self.adopted_acked > self.acked {
            let uncut = self.cuts.iter().copied().min().unwrap_or(self.durable);
            self.acked = self.acked.max(self.adopted_acked.min(self.durable).min(uncut));
            self.remember_acked();
        }
        if let Some(f) = &self.following
            && f.synced
        {
            self.acked = self.acked.max(f.leader_acked.min(self.durable));
            // What an earlier message of this epoch says was acked may be less than what we acked before the loss; a
            // newer epoch's own records come above all of that.
            let regained = self.d.holed.is_some_and(|lost| self.durable >= lost) || f.epoch > self.holed_under;
            let its_own = self.history.epoch_of(f.leader_acked) == Some(f.epoch);
            if self.d.holed.is_some() && regained && its_own && self.durable >= f.leader_acked {
                self.d.holed = None;
                self.persist_meta();
            }
            self.remember_acked();
        }
    }

    /// A restart that has forgotten what is acked cannot apply it, hence not make room in its journal, until a new epoch
    /// has begun, which takes room. So what the store has not got for good is remembered as acked, but for a little: what
    /// it has applied since its checkpoint is gone with a crash.
    fn remember_acked(&mut self) {
        if self.is_diskless() {
            return;
        }
        let known = self.d.acked.max(self.d.base.seq);
        let forgettable = self.tail.bytes_after(known).saturating_sub(self.tail.bytes_after(self.acked));
        if self.acked > known && forgettable >= JOURNAL_PORTION_BYTES {
            self.persist_meta();
        }
    }

    pub(super) fn ack(&mut self, fx: &mut Effects) {
        let Some(f) = &self.following else { return };
        if !f.synced {
            return;
        }
        let durable = if broken(Sabotage::AckBeforeSync) { self.end() } else { self.durable.min(self.end()) };
        let body = Body::Ack {
            epoch: f.epoch,
            incarnation: self.d.incarnation,
            appended: self.end(),
            durable,
            applied: self.applied,
            echo: f.echo,
        };
        self.send(f.leader, body, fx);
    }

    pub(super) fn maybe_apply(&mut self, fx: &mut Effects) {
        let upto = if broken(Sabotage::UnackedApplied) { self.durable } else { self.acked.min(self.durable) };
        // A log with a hole is right below it: to fill it may take the space that applying gives back.
        if self.applying.is_none() && upto > self.applied && self.d.installing.is_none() {
            self.applying = Some(upto);
            fx.push(Effect::Apply { upto });
        }
    }

    pub fn on_applied(&mut self, seq: Seq, fx: &mut Effects) {
        self.applied = self.applied.max(seq);
        if broken(Sabotage::TrimEarly) {
            fx.push(Effect::Trim { checkpoint: self.applied });
        }
        if self.applying.is_some_and(|upto| upto <= self.applied) {
            self.applying = None;
        }
        self.maybe_apply(fx);
    }

    pub fn on_checkpointed(&mut self, base: LogBase) {
        if base.seq > self.d.base.seq && base.seq <= self.applied {
            self.d.base = base;
            self.rebased = Some(base.seq);
        }
    }
}
