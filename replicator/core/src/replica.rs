//! The accepting side: what a member does with what the holder of an epoch, or a candidate, asks of it.
//!
//! Every member runs this, the primary's own node too: the local journal and a remote replica are the same kind of
//! acknowledger. Witnesses run it without a log. Not here: who may hold an epoch (candidate), who counts
//! (register, quorum).

use std::collections::{BTreeMap, VecDeque};

use crate::api::{CommandId, Effect, Effects, JournalOp, Refusal, Token};
use crate::durable::{Durable, Installing, LogBase};
use crate::history::History;
use crate::ids::{Epoch, LineageId, MemberId, Seq, Tick, VolumeId};
use crate::limits::{DRIFT_DIVISOR, REORDER_BYTES_MAX, UNDURABLE_BYTES_MAX};
use crate::message::{Body, Message, Report};
use crate::record::{Record, RecordHash};
use crate::register::{ConfigVersion, Configuration};
use crate::tail::Tail;

/// What recovery found: the durable blob, and where the readable log ends.
#[derive(Debug, Clone)]
pub struct Recovered {
    pub durable: Durable,
    /// Last readable record above the base, or the base itself.
    pub last: LogBase,
    /// Epochs of the retained records, as the journal scan saw them.
    pub epochs: Vec<(Epoch, Seq)>,
    /// First seq that the journal still holds.
    pub floor: Seq,
    /// Where the journal says that a record was lost in the middle: the last seq this replica once had.
    pub lost_upto: Option<Seq>,
    /// What the store shows.
    pub applied: Seq,
}

/// Whom this replica follows in the promised epoch, once it has been told where their logs part.
#[derive(Debug)]
struct Following {
    epoch: Epoch,
    leader: MemberId,
    /// The cut is durable; acks may leave.
    synced: bool,
    leader_acked: Seq,
    /// Newest of the leader's own clock readings that has reached us.
    echo: Tick,
}

/// What a journal effect's completion allows us to do.
#[derive(Debug)]
enum Then {
    Appended { upto: Seq, bytes: u64 },
    Truncated { to: Seq },
    Promised { epoch: Epoch, to: MemberId },
    ConfigStored { epoch: Epoch, version: ConfigVersion, to: MemberId },
    Elected { epoch: Epoch },
    Based { seq: Seq },
    Forked { lineage: LineageId, to: MemberId },
    Installing { seq: Seq },
    Ended { epoch: Epoch, tell: Vec<MemberId>, command: CommandId },
}

#[derive(Debug)]
struct Pending {
    token: Token,
    durable: bool,
    then: Vec<Then>,
}

pub struct Replica {
    pub volume: VolumeId,
    pub d: Durable,
    tail: Tail,
    history: History,
    pub durable: Seq,
    pub applied: Seq,
    applying: Option<Seq>,
    /// Highest acked seq that is known to be so and that we hold.
    pub acked: Seq,
    pub floor: Seq,
    following: Option<Following>,
    reorder: BTreeMap<Seq, Record>,
    reorder_bytes: usize,
    undurable_bytes: u64,
    owed_until: Tick,
    owed_to: Epoch,
    /// The highest epoch whose holder said that it has ended it.
    pub released: Epoch,
    batch: Vec<JournalOp>,
    batch_then: Vec<Then>,
    /// The base moved up to here and the journal does not know yet.
    rebased: Option<Seq>,
    /// Journal effects under way, oldest first. One may be durable before an earlier one (state passes records that wait
    /// for space); what it allows is done only after what came before it.
    pending: VecDeque<Pending>,
    next_token: u64,
    pub failed: Option<String>,
    /// The epoch promised when a hole was found: what was acked up to then may lie in it.
    holed_under: Epoch,
}

impl Replica {
    pub fn recover(volume: VolumeId, recovered: Recovered, now: Tick, fx: &mut Effects) -> Replica {
        let Recovered { durable: d, last, epochs, floor, lost_upto, applied } = recovered;
        let mut history = d.history.clone();
        if let Some((_, first)) = epochs.first() {
            history.truncate(first.prev());
        }
        for (epoch, seq) in epochs {
            history.note(epoch, seq);
        }
        history.truncate(last.seq);
        let acked = d.acked.min(last.seq).max(applied);
        let lease_us = d.config.volume.lease_us;
        let ever_led = d.promised > Epoch::ZERO;
        let mut replica = Replica {
            volume,
            tail: Tail::starting_at(last.seq, Some(last.hash)),
            history,
            durable: last.seq,
            applied,
            applying: None,
            acked,
            floor,
            following: None,
            reorder: BTreeMap::new(),
            reorder_bytes: 0,
            undurable_bytes: 0,
            // A restart has forgotten what was owed: owe a full lease.
            owed_until: if ever_led { now.plus(lease_us) } else { now },
            owed_to: d.promised,
            released: d.ended,
            batch: Vec::new(),
            batch_then: Vec::new(),
            rebased: None,
            pending: VecDeque::new(),
            next_token: 0,
            failed: None,
            holed_under: d.promised,
            d,
        };
        if let Some(lost) = lost_upto {
            replica.d.holed = replica.d.holed.max(Some(lost));
            replica.batch.push(JournalOp::Truncate { after: last.seq });
            replica.persist_meta();
            fx.push(Effect::Edge {
                rule: "journal-hole",
                text: format!(
                    "records above {} up to {lost} are unreadable; waiting to be repaired by a peer",
                    last.seq
                ),
            });
        }
        if let Some(installing) = &replica.d.installing {
            // The crash fell between "about to show the staged image" and "shown".
            fx.push(Effect::InstallImage { seq: installing.base.seq });
        }
        replica.maybe_apply(fx);
        replica
    }

    pub fn me(&self) -> MemberId {
        self.d.me
    }

    pub fn end(&self) -> Seq {
        self.tail.end()
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The holder whose log this one follows, if any.
    pub fn leader(&self) -> Option<(Epoch, MemberId)> {
        self.following.as_ref().map(|f| (f.epoch, f.leader))
    }

    pub fn whole(&self) -> bool {
        self.d.installing.is_none() && self.d.holed.is_none()
    }

    pub fn lease_owed_us(&self, now: Tick) -> u64 {
        self.owed_until.since(now)
    }

    pub fn report(&self, now: Tick) -> Report {
        // Records on their way to the journal are not reported; a promise waits for them first.
        let durable = self.durable.min(self.end());
        let mut history = self.history.clone();
        history.truncate(durable);
        Report {
            incarnation: self.d.incarnation,
            promised: self.d.promised,
            config: self.d.config.clone(),
            history,
            durable,
            applied: self.applied,
            base: self.d.base,
            floor: self.floor,
            acked: self.acked,
            whole: self.whole(),
            lease_left_us: self.lease_owed_us(now),
            owed_to: self.owed_to,
        }
    }

    fn send(&self, to: MemberId, body: Body, fx: &mut Effects) {
        fx.push(Effect::Send(Message { volume: self.volume, lineage: self.d.lineage, from: self.me(), to, body }));
    }

    fn persist_meta(&mut self) {
        self.d.history = self.history.clone();
        self.d.acked = self.acked;
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
                let then = std::mem::take(&mut self.batch_then);
                self.carry_out(then, now, fx);
            } else if let Some(last) = self.pending.back_mut() {
                last.then.append(&mut self.batch_then);
            }
        } else {
            let (ops, then) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.batch_then));
            self.submit(ops, then, fx);
        }
        if let Some(seq) = self.rebased.take() {
            self.persist_meta();
            let ops = std::mem::take(&mut self.batch);
            self.submit(ops, vec![Then::Based { seq }], fx);
        }
    }

    fn submit(&mut self, ops: Vec<JournalOp>, then: Vec<Then>, fx: &mut Effects) {
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
        let waiting = self.pending.drain(..).flat_map(|p| p.then).chain(self.batch_then.drain(..));
        for step in waiting {
            if let Then::Ended { command: id, .. } = step {
                let refusal = Refusal::new("journal-poisoned", reason.clone(), "replace the disk, then promote");
                fx.push(Effect::Answer { id, result: Err(refusal) });
            }
        }
        self.failed = Some(reason);
        self.following = None;
    }

    fn carry_out(&mut self, then: Vec<Then>, now: Tick, fx: &mut Effects) {
        let mut ack = false;
        for step in then {
            match step {
                Then::Appended { upto, bytes } => {
                    self.durable = upto;
                    self.undurable_bytes = self.undurable_bytes.saturating_sub(bytes);
                    ack = true;
                }
                Then::Truncated { to } => self.durable = to,
                Then::Promised { epoch, to } if epoch == self.d.promised => {
                    let report = Box::new(self.report(now));
                    self.send(to, Body::Promise { epoch, report }, fx);
                }
                Then::ConfigStored { epoch, version, to } if epoch == self.d.promised => {
                    let incarnation = self.d.incarnation;
                    self.send(to, Body::ConfigOk { epoch, incarnation, version }, fx);
                }
                Then::Elected { epoch } if epoch == self.d.promised => {
                    let (incarnation, durable, applied) = (self.d.incarnation, self.durable, self.applied);
                    if let Some(following) = self.following.as_mut().filter(|f| f.epoch == epoch) {
                        following.synced = true;
                        let leader = following.leader;
                        self.send(leader, Body::ElectOk { epoch, incarnation, durable, applied }, fx);
                    }
                }
                // A higher epoch was promised meanwhile: nothing of a lower one leaves.
                Then::Promised { .. } | Then::ConfigStored { .. } | Then::Elected { .. } => {}
                Then::Forked { lineage, to } if lineage == self.d.lineage => self.send(to, Body::ForkOk, fx),
                Then::Forked { .. } => {}
                Then::Based { seq } => fx.push(Effect::Trim { checkpoint: seq }),
                Then::Installing { seq } => fx.push(Effect::InstallImage { seq }),
                Then::Ended { epoch, tell, command } => {
                    for to in tell {
                        self.send(to, Body::Release { epoch }, fx);
                    }
                    fx.push(Effect::Answer { id: command, result: Ok(()) });
                }
            }
        }
        self.learn_acked();
        if ack {
            self.ack(fx);
        }
        self.maybe_apply(fx);
    }

    fn learn_acked(&mut self) {
        if let Some(f) = &self.following
            && f.synced
        {
            self.acked = self.acked.max(f.leader_acked.min(self.durable));
            // What an earlier message of this epoch says was acked may be less than what we acked before the loss; a
            // newer epoch begins above all of that.
            let regained = self.d.holed.is_some_and(|lost| self.durable >= lost) || f.epoch > self.holed_under;
            if self.d.holed.is_some() && regained && f.leader_acked > Seq::ZERO && self.durable >= f.leader_acked {
                self.d.holed = None;
                self.persist_meta();
            }
        }
    }

    fn ack(&mut self, fx: &mut Effects) {
        let Some(f) = &self.following else { return };
        if !f.synced {
            return;
        }
        let body = Body::Ack {
            epoch: f.epoch,
            incarnation: self.d.incarnation,
            appended: self.end(),
            durable: self.durable.min(self.end()),
            applied: self.applied,
            echo: f.echo,
        };
        self.send(f.leader, body, fx);
    }

    fn maybe_apply(&mut self, fx: &mut Effects) {
        let upto = self.acked.min(self.durable);
        if self.applying.is_none() && upto > self.applied && self.whole() {
            self.applying = Some(upto);
            fx.push(Effect::Apply { upto });
        }
    }

    pub fn on_applied(&mut self, seq: Seq, fx: &mut Effects) {
        self.applied = self.applied.max(seq);
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

    /// Renews what is owed to the epoch's holder: every message accepted from it does.
    fn owe(&mut self, epoch: Epoch, now: Tick) {
        self.owed_to = epoch;
        self.owed_until = self.owed_until.max(now.plus(self.d.config.volume.lease_us));
    }

    fn refuse_lower(&self, epoch: Epoch, from: MemberId, fx: &mut Effects) -> bool {
        if epoch < self.d.promised {
            self.send(from, Body::Reject { asked: epoch, promised: self.d.promised }, fx);
            return true;
        }
        false
    }

    /// Raises the promise; whoever was followed under a lower epoch is followed no longer.
    fn raise(&mut self, epoch: Epoch) {
        if epoch > self.d.promised {
            self.d.promised = epoch;
            self.following = None;
            self.reorder.clear();
            self.reorder_bytes = 0;
        }
    }

    pub fn on_probe(&self, nonce: u64, from: MemberId, now: Tick, fx: &mut Effects) {
        if self.failed.is_none() {
            let report = Box::new(self.report(now));
            self.send(from, Body::Answer { nonce, report }, fx);
        }
    }

    pub fn on_prepare(&mut self, epoch: Epoch, from: MemberId, fx: &mut Effects) {
        if self.failed.is_some() || self.refuse_lower(epoch, from, fx) {
            return;
        }
        if epoch > self.d.promised {
            self.raise(epoch);
            self.persist_meta();
        }
        self.batch_then.push(Then::Promised { epoch, to: from });
    }

    pub fn on_put_config(&mut self, epoch: Epoch, config: Configuration, from: MemberId, now: Tick, fx: &mut Effects) {
        if self.failed.is_some() || self.refuse_lower(epoch, from, fx) || config.version.epoch > epoch {
            return;
        }
        let version = config.version;
        if version > self.d.config.version {
            self.raise(epoch);
            self.d.config = config;
            self.persist_meta();
            fx.push(Effect::Configured(Box::new(self.d.config.clone())));
        } else if epoch > self.d.promised {
            self.raise(epoch);
            self.persist_meta();
        }
        self.owe(epoch, now);
        if self.d.config.version >= version {
            self.batch_then.push(Then::ConfigStored { epoch, version, to: from });
        }
    }

    pub fn on_elect(&mut self, epoch: Epoch, leader_log: (&History, Seq), from: MemberId, now: Tick, fx: &mut Effects) {
        if self.failed.is_some() || self.d.installing.is_some() || self.refuse_lower(epoch, from, fx) {
            return;
        }
        self.owe(epoch, now);
        if self.following.as_ref().is_some_and(|f| f.epoch == epoch) {
            // Asked again (the link was down, or a late copy of the first): our log already follows; never cut here.
            self.batch_then.push(Then::Elected { epoch });
            return;
        }
        let (history, end) = leader_log;
        // Once our log has records of this epoch it is a beginning of its holder's, who only appends. The Elect may be
        // a late copy from before we got them: what it does not know of is not cut.
        let ours = epoch > Epoch::ZERO && self.history.last_epoch() == epoch;
        let common = if ours { self.end() } else { self.history.common_point(self.end(), history, end) };
        if common < self.applied || common < self.acked {
            let text = format!(
                "the log of {from} under epoch {epoch} parts from ours at {common}, below what was acked ({}); not following it",
                self.acked
            );
            fx.push(Effect::Edge { rule: "diverged-below-acked", text });
            return;
        }
        if epoch > self.d.promised {
            self.raise(epoch);
            self.persist_meta();
        }
        if common < self.end() {
            let text =
                format!("cut {} records above {common} that epoch {epoch} does not have", self.end().since(common));
            fx.push(Effect::Edge { rule: "truncate-divergence", text });
            self.truncate(common);
        }
        self.following = Some(Following { epoch, leader: from, synced: false, leader_acked: Seq::ZERO, echo: Tick(0) });
        self.batch_then.push(Then::Elected { epoch });
    }

    /// Cuts the log above `to`. Never at or below what was applied (I13).
    pub fn truncate(&mut self, to: Seq) {
        assert!(to >= self.applied, "I13: truncation to {to} below applied {}", self.applied);
        self.tail.truncate(to);
        if to == self.d.base.seq {
            self.tail.know(to, self.d.base.hash);
        }
        self.history.truncate(to);
        self.reorder.clear();
        self.reorder_bytes = 0;
        self.batch.push(JournalOp::Truncate { after: to });
        self.batch_then.push(Then::Truncated { to });
    }

    pub fn on_append(
        &mut self,
        (epoch, acked, sent): (Epoch, Seq, Tick),
        records: Vec<Record>,
        from: MemberId,
        now: Tick,
        fx: &mut Effects,
    ) {
        if self.failed.is_some() || self.refuse_lower(epoch, from, fx) {
            return;
        }
        let Some(f) = self.following.as_mut().filter(|f| f.epoch == epoch && f.leader == from) else {
            self.send(from, Body::NeedElect { epoch }, fx);
            return;
        };
        f.leader_acked = f.leader_acked.max(acked);
        f.echo = f.echo.max(sent);
        self.owe(epoch, now);
        self.learn_acked();
        self.maybe_apply(fx);
        let heartbeat = records.is_empty();
        let mut grew = false;
        for record in records {
            grew |= self.take(record, now, fx);
        }
        while self.reorder.first_key_value().is_some_and(|(seq, _)| *seq <= self.end().next()) {
            let Some((_, record)) = self.reorder.pop_first() else { break };
            self.reorder_bytes -= record.encoded_len();
            grew |= self.take(record, now, fx);
        }
        if heartbeat || !grew {
            self.ack(fx);
        }
    }

    /// Appends the record if it is the next one, keeps it if it is early. True if the log grew.
    fn take(&mut self, record: Record, now: Tick, fx: &mut Effects) -> bool {
        if record.seq <= self.end() {
            return false;
        }
        if record.seq > self.end().next() {
            let bytes = record.encoded_len();
            if self.reorder_bytes + bytes <= REORDER_BYTES_MAX && !self.reorder.contains_key(&record.seq) {
                self.reorder_bytes += bytes;
                self.reorder.insert(record.seq, record);
            }
            return false;
        }
        if self.undurable_bytes > UNDURABLE_BYTES_MAX {
            return false;
        }
        if let Err(reason) = self.check_next(&record) {
            fx.push(Effect::Edge { rule: "record-refused", text: format!("record {}: {reason}", record.seq) });
            return false;
        }
        self.append_own(record, now);
        true
    }

    fn check_next(&self, record: &Record) -> Result<(), &'static str> {
        let ours = |uuid: u128| uuid == self.d.lineage.uuid || self.d.parents.iter().any(|(l, _)| l.uuid == uuid);
        if !ours(record.lineage) {
            return Err("it belongs to another lineage");
        }
        if record.epoch < self.history.last_epoch() || record.epoch > self.d.promised {
            return Err("its epoch is not between the log's last and the promised one");
        }
        if self.tail.hash_at(self.end()).is_some_and(|hash| hash != record.prev_hash) {
            return Err("it does not follow our last record (hash chain)");
        }
        let volume_bytes = self.d.config.volume.size_bytes;
        if record.offset.saturating_add(record.length) > volume_bytes {
            return Err("it lies outside the volume");
        }
        Ok(())
    }

    /// Appends a record that is known to be the next one: the primary's own, or one that was checked.
    pub fn append_own(&mut self, record: Record, now: Tick) {
        debug_assert_eq!(record.seq, self.end().next());
        let bytes = record.encoded_len() as u64;
        self.tail.push(record.hash(), record.payload.len() as u64, now);
        self.history.note(record.epoch, record.seq);
        self.undurable_bytes += bytes;
        let upto = record.seq;
        self.batch.push(JournalOp::Record(record));
        match self.batch_then.last_mut() {
            Some(Then::Appended { upto: last, bytes: sum }) => {
                *last = upto;
                *sum += bytes;
            }
            _ => self.batch_then.push(Then::Appended { upto, bytes }),
        }
    }

    /// The holder's own replica learns what is acked without a message.
    pub fn lead(&mut self, epoch: Epoch, acked: Seq, now: Tick, fx: &mut Effects) {
        if let Some(f) = self.following.as_mut().filter(|f| f.epoch == epoch) {
            f.leader_acked = f.leader_acked.max(acked);
            f.echo = f.echo.max(now);
            self.owe(epoch, now);
            self.learn_acked();
            self.maybe_apply(fx);
        }
    }

    /// The hash of our last record, which the next one must name. A restart followed by a cut has forgotten it; then it
    /// is read from the journal.
    pub fn last_hash(&self) -> Option<RecordHash> {
        self.tail.hash_at(self.end())
    }

    /// A record of our own journal, read because its hash was forgotten.
    pub fn on_own_record(&mut self, record: &Record) {
        if self.history.epoch_of(record.seq) == Some(record.epoch) {
            self.tail.know(record.seq, record.hash());
        }
    }

    /// Takes records that a candidate fetched from its donor. Stops at the first that does not fit.
    pub fn adopt(&mut self, records: Vec<Record>, goal: Seq, now: Tick) -> Result<(), &'static str> {
        for record in records {
            if record.seq <= self.end() || record.seq > goal {
                continue;
            }
            if record.seq != self.end().next() {
                return Err("it leaves a gap");
            }
            self.check_next(&record)?;
            self.append_own(record, now);
        }
        Ok(())
    }

    pub fn on_release(&mut self, epoch: Epoch, now: Tick) {
        self.released = self.released.max(epoch);
        if epoch == self.d.promised {
            self.owed_until = now;
            self.following = None;
        }
    }

    /// Durably ends an epoch that this node held; only then is the release sent to `tell`, and `command` answered.
    pub fn end_epoch(&mut self, epoch: Epoch, tell: Vec<MemberId>, command: CommandId) {
        self.d.ended = self.d.ended.max(epoch);
        self.persist_meta();
        self.batch_then.push(Then::Ended { epoch, tell, command });
    }

    /// The volume goes on in a new lineage, by an operator's force. Durable before it is answered.
    pub fn on_fork(
        &mut self,
        lineage: LineageId,
        epoch: Epoch,
        config: Configuration,
        from: MemberId,
        fx: &mut Effects,
    ) {
        if self.failed.is_some() || config.version.epoch != epoch {
            return;
        }
        if lineage.generation > self.d.lineage.generation {
            let end = self.end();
            fx.push(Effect::Edge {
                rule: "lineage-fork",
                text: format!("lineage {lineage} forks from {} at seq {end}, by force", self.d.lineage),
            });
            self.d.parents.push((self.d.lineage, end));
            self.d.lineage = lineage;
            self.d.superseded = None;
            self.d.config = config;
            self.raise(epoch);
            self.persist_meta();
            fx.push(Effect::Configured(Box::new(self.d.config.clone())));
        }
        if lineage == self.d.lineage {
            self.batch_then.push(Then::Forked { lineage, to: from });
        }
    }

    /// A member speaks in a higher generation of the volume: what is here is history.
    pub fn on_higher_lineage(&mut self, lineage: LineageId, fx: &mut Effects) {
        if self.d.superseded.is_none_or(|known| known.generation < lineage.generation) && self.failed.is_none() {
            let text = format!("the volume goes on as lineage {lineage}; this copy ({}) is fenced", self.d.lineage);
            fx.push(Effect::Edge { rule: "lineage-superseded", text });
            self.d.superseded = Some(lineage);
            self.following = None;
            self.persist_meta();
        }
    }

    /// A resync's image is staged. From here until it is visible this replica counts in nothing but its vote.
    pub fn on_staged(&mut self, base: LogBase, history: History, fx: &mut Effects) {
        // A shipment may arrive late, when another holder has brought our log further, and we have said so: the
        // image would take back what we acknowledged.
        if base.seq <= self.end().max(self.applied) || self.failed.is_some() || self.d.installing.is_some() {
            return;
        }
        fx.push(Effect::Edge {
            rule: "install-begin",
            text: format!("image at {} is staged, installing it", base.seq),
        });
        self.following = None;
        let seq = base.seq;
        self.d.installing = Some(Installing { base, history });
        self.persist_meta();
        self.batch_then.push(Then::Installing { seq });
    }

    pub fn on_image_visible(&mut self, fx: &mut Effects) {
        let Some(Installing { base, history }) = self.d.installing.take() else { return };
        fx.push(Effect::Edge { rule: "install-end", text: format!("the image at {} is visible", base.seq) });
        self.applied = base.seq;
        self.applying = None;
        self.acked = self.acked.max(base.seq);
        self.d.base = base;
        // The old log is superseded as a whole: everything in it is at or below the image, or diverged.
        self.tail = Tail::starting_at(base.seq, Some(base.hash));
        self.history = history;
        self.history.truncate(base.seq);
        self.batch.push(JournalOp::Restart { base, epoch: self.history.last_epoch() });
        self.reorder.clear();
        self.reorder_bytes = 0;
        self.floor = base.seq.next();
        self.batch_then.push(Then::Truncated { to: base.seq });
        self.persist_meta();
        self.batch_then.push(Then::Based { seq: base.seq });
    }

    /// The staged image did not survive; log and old image are as they were.
    pub fn on_image_lost(&mut self, fx: &mut Effects) {
        if self.d.installing.take().is_some() {
            let text = "the staged image was lost in a crash; the old one stands".to_string();
            fx.push(Effect::Edge { rule: "install-lost", text });
            self.persist_meta();
        }
    }

    /// How much longer than its nominal length a lease must be waited for, since clocks drift.
    pub fn with_drift(us: u64) -> u64 {
        us.saturating_add(us / DRIFT_DIVISOR)
    }
}
