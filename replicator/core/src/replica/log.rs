//! Records: taking the next one, keeping early ones, refusing what does not follow.

use super::acceptor::Replica;
use crate::api::{Effect, Effects, JournalOp};
use crate::contact::Word;
use crate::ids::{Epoch, MemberId, Seq, Tick};
use crate::limits::{REORDER_BYTES_MAX, UNDURABLE_BYTES_MAX};
use crate::mark::Mark;
use crate::message::Body;
use crate::record::{Kind, Record, RecordHash};
use crate::register::Durability;
use crate::sabotage::{Sabotage, broken};

impl Replica {
    pub fn on_append(&mut self, word: Word, records: Vec<Record>, from: MemberId, now: Tick, fx: &mut Effects) {
        let Word { epoch, acked, sent, .. } = word;
        let followed = broken(Sabotage::AckAfterPromise) && self.following.as_ref().is_some_and(|f| f.epoch == epoch);
        if self.failed.is_some() || (!followed && self.refuse_lower(epoch, from, fx)) {
            return;
        }
        let Some(f) = self.following.as_mut().filter(|f| f.epoch == epoch && f.leader == from) else {
            self.send(from, Body::NeedElect { epoch }, fx);
            return;
        };
        f.leader_acked = f.leader_acked.max(acked);
        f.echo = f.echo.max(sent);
        let early = self.d.config.volume.durability == Durability::Flush;
        self.contact.hears(word, early, self.durable, now);
        if !broken(Sabotage::LeaseNotRenewed) {
            self.owe(epoch, now);
        }
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
    pub(super) fn take(&mut self, record: Record, now: Tick, fx: &mut Effects) -> bool {
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

    pub(super) fn check_next(&self, record: &Record) -> Result<(), &'static str> {
        let ours = |uuid: u128| uuid == self.d.lineage.uuid || self.d.parents.iter().any(|(l, _)| l.uuid == uuid);
        if !ours(record.lineage) {
            return Err("it belongs to another lineage");
        }
        if record.epoch < self.history.last_epoch() || record.epoch > self.d.promised {
            return Err("its epoch is not between the log's last and the promised one");
        }
        if record.kind == Kind::SnapMark && Mark::decode(record.payload.clone()).is_err() {
            return Err("it marks a snapshot in a way that this version does not know");
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
        if let Some(memory) = &mut self.memory {
            return memory.push(record);
        }
        self.undurable_bytes += bytes;
        self.batch.push(JournalOp::Record(record));
    }

    /// The holder's own replica learns what is acked without a message.
    pub fn lead(&mut self, epoch: Epoch, acked: Seq, followed_until: Option<Tick>, now: Tick, fx: &mut Effects) {
        self.contact.leads(acked, followed_until);
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
}
