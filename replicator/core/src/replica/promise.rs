//! Promises, register values, and whose log this one follows.

use super::acceptor::{Following, Replica, Then};
use crate::api::{Effect, Effects, JournalOp};
use crate::history::History;
use crate::ids::{Epoch, MemberId, Seq, Tick};
use crate::message::Body;
use crate::register::{Configuration, Durability};
use crate::sabotage::{Sabotage, asserts_off, broken};

impl Replica {
    /// Renews what is owed to the epoch's holder: every message accepted from it does.
    pub(super) fn owe(&mut self, epoch: Epoch, now: Tick) {
        self.owed_to = epoch;
        self.owed_until = self.owed_until.max(now.plus(self.d.config.volume.lease_us));
    }

    pub(super) fn refuse_lower(&self, epoch: Epoch, from: MemberId, fx: &mut Effects) -> bool {
        if epoch < self.d.promised && !broken(Sabotage::LowerEpochAccepted) {
            self.send(from, Body::Reject { asked: epoch, promised: self.d.promised }, fx);
            return true;
        }
        false
    }

    /// Raises the promise; whoever was followed under a lower epoch is followed no longer.
    pub(super) fn raise(&mut self, epoch: Epoch, fx: &mut Effects) {
        if epoch > self.d.promised && !broken(Sabotage::AckAfterPromise) {
            self.raise_and_keep(epoch);
            self.drop_undurable(fx);
        }
        self.d.promised = self.d.promised.max(epoch);
    }

    /// What is on its way to the journal stays in the log.
    pub(super) fn raise_and_keep(&mut self, epoch: Epoch) {
        if epoch > self.d.promised {
            self.d.promised = epoch;
            self.following = None;
            self.adopted_acked = Seq::ZERO;
            self.reorder.clear();
            self.reorder_bytes = 0;
        }
    }

    /// Records on their way to the journal were not acknowledged, and under the epoch that is being closed they never
    /// will be. A full journal takes them only when it has let go of others, which takes word of what is acked: so a
    /// promise that waited for them might wait for itself.
    pub(super) fn drop_undurable(&mut self, fx: &mut Effects) {
        if self.is_diskless() {
            return self.forget_log();
        }
        let to = self.durable.max(self.applied);
        if to < self.end() {
            // What is in the batch is before the cut.
            self.submit_batch(fx);
            self.truncate(to);
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
            self.raise(epoch, fx);
            if !broken(Sabotage::PromiseUnsynced) {
                self.persist_meta();
            }
        }
        self.once_durable(Then::Promised { epoch, to: from });
    }

    pub fn on_put_config(&mut self, epoch: Epoch, config: Configuration, from: MemberId, now: Tick, fx: &mut Effects) {
        if self.failed.is_some() || self.refuse_lower(epoch, from, fx) || config.version.epoch > epoch {
            return;
        }
        let version = config.version;
        if version > self.d.config.version {
            self.raise(epoch, fx);
            self.d.config = config;
            self.learn_kind();
            self.persist_meta();
            fx.push(Effect::Configured(Box::new(self.d.config.clone())));
        } else if epoch > self.d.promised {
            self.raise(epoch, fx);
            self.persist_meta();
        }
        self.owe(epoch, now);
        if self.d.config.version >= version {
            self.once_durable(Then::ConfigStored { epoch, version, to: from });
        }
    }

    pub fn on_elect(&mut self, epoch: Epoch, leader_log: (&History, Seq), from: MemberId, now: Tick, fx: &mut Effects) {
        if self.failed.is_some() || self.d.installing.is_some() || self.refuse_lower(epoch, from, fx) {
            return;
        }
        self.owe(epoch, now);
        if self.following.as_ref().is_some_and(|f| f.epoch == epoch) {
            // Asked again (the link was down, or a late copy of the first): our log already follows; never cut here.
            self.once_durable(Then::Elected { epoch });
            return;
        }
        let (history, end) = leader_log;
        // Once our log has records of this epoch it is a beginning of its holder's, who only appends. The Elect may be
        // a late copy from before we got them: what it does not know of is not cut.
        let ours = epoch > Epoch::ZERO && self.history.last_epoch() == epoch && !broken(Sabotage::LateElectCuts);
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
            self.raise(epoch, fx);
            self.persist_meta();
        }
        if common < self.end() {
            let text =
                format!("cut {} records above {common} that epoch {epoch} does not have", self.end().since(common));
            fx.push(Effect::Edge { rule: "truncate-divergence", text });
            self.truncate(common);
        }
        self.contact.follows(epoch, now);
        self.following = Some(Following { epoch, leader: from, synced: false, leader_acked: Seq::ZERO, echo: Tick(0) });
        self.once_durable(Then::Elected { epoch });
    }

    /// Cuts the log above `to`. Never at or below what was applied (I13).
    pub fn truncate(&mut self, to: Seq) {
        if self.is_diskless() {
            return self.forget_log();
        }
        assert!(to >= self.applied || asserts_off(), "I13: truncation to {to} below applied {}", self.applied);
        let attached = self.d.config.attached.is_some_and(|a| a.member == self.me());
        if attached && to < self.durable && self.d.config.volume.durability == Durability::Flush {
            // The device may have completed what is cut now. It is not taken back, whoever holds the next epochs.
            self.d.ended = self.d.ended.max(self.history.last_epoch());
            self.persist_meta();
        }
        self.tail.truncate(to);
        if to == self.d.base.seq {
            self.tail.know(to, self.d.base.hash);
        }
        self.history.truncate(to);
        self.reorder.clear();
        self.reorder_bytes = 0;
        self.batch.push(JournalOp::Truncate { after: to });
        self.cuts.push_back(to);
        self.once_durable(Then::Truncated { to });
    }
}
