//! Ends and new beginnings: releases, forks, and images that replace the log.

use super::acceptor::{Replica, Then};
use crate::api::{CommandId, Effect, Effects, JournalOp};
use crate::contact::Contact;
use crate::durable::{Installing, LogBase};
use crate::history::History;
use crate::ids::{Epoch, LineageId, MemberId, Seq, Tick};
use crate::message::{Body, Message};
use crate::register::Configuration;
use crate::sabotage::{Sabotage, broken};
use crate::tail::Tail;

impl Replica {
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
        if !broken(Sabotage::ReleaseUnsynced) {
            self.persist_meta();
        }
        self.once_durable(Then::Ended { epoch, tell, command });
    }

    /// A device is open here under a session that the register names: the one that was released is named no more.
    pub fn another_session(&mut self) {
        if self.d.ended > Epoch::ZERO {
            self.d.ended = Epoch::ZERO;
            self.persist_meta();
        }
    }

    /// The volume goes on in a new lineage, by an operator's force, from the donor's log (ours, if none is given). Durable
    /// before it is answered.
    pub fn on_fork(
        &mut self,
        lineage: LineageId,
        epoch: Epoch,
        config: Configuration,
        donor_log: Option<(History, Seq)>,
        from: MemberId,
        fx: &mut Effects,
    ) {
        if self.failed.is_some() || config.version.epoch != epoch {
            return;
        }
        let renewed = broken(Sabotage::GenerationKept) && lineage != self.d.lineage;
        let rival = |newer: &LineageId| newer.generation >= lineage.generation && *newer != lineage;
        if let Some(newer) = self.d.superseded.filter(rival)
            && lineage != self.d.lineage
            && !broken(Sabotage::FencedGenerationTaken)
        {
            // Whoever forks does not know of that one yet, and would be its rival, or be fenced by it.
            self.tell_of(newer, from, fx);
            return;
        }
        if lineage.generation > self.d.lineage.generation || renewed {
            if let Some((history, end)) = &donor_log
                && !self.may_follow_fork(history, *end, fx)
            {
                return;
            }
            // Others may have acknowledged what is on its way to our journal: a fork keeps what its members have.
            if broken(Sabotage::ForkDropsWritten) {
                self.raise(epoch, fx);
            }
            self.raise_and_keep(epoch);
            let end = self.end();
            fx.push(Effect::Edge {
                rule: "lineage-fork",
                text: format!("lineage {lineage} forks from {} at seq {end}, by force", self.d.lineage),
            });
            if donor_log.is_none()
                && let Some(lost) = self.d.holed.take()
            {
                // The last copy, by an operator's word: what can be read of it is all that the new lineage begins with.
                let text = format!("records above {end} up to {lost} can't be read; they are given up");
                fx.push(Effect::Edge { rule: "journal-hole-given-up", text });
            }
            self.d.parents.push((self.d.lineage, end));
            self.d.lineage = lineage;
            self.d.superseded = None;
            self.rival = None;
            // What was acknowledged in the lineage that is left need not be so in this one.
            if !broken(Sabotage::OldLineageTold) {
                self.contact = Contact::default();
            }
            self.d.config = config;
            self.persist_meta();
            fx.push(Effect::Configured(Box::new(self.d.config.clone())));
        } else if lineage == self.d.lineage && self.durable < self.end() {
            // Asked again. A full journal may take records only when others are let go of, which waits for this fork.
            self.submit_batch(fx);
            fx.push(Effect::AskWaiting);
        }
        if lineage == self.d.lineage {
            self.once_durable(Then::Forked { lineage, to: from });
        }
    }

    /// The journal has not begun to write the records from `from` on. If a fork waits for them they are given up: none was
    /// on this disk when it was asked for, while one that is being written may have been.
    pub fn on_waiting(&mut self, from: Seq, fx: &mut Effects) {
        let steps = self.pending.iter().flat_map(|pending| &pending.then);
        let mut steps = steps.chain(self.batch_then.iter().map(|(_, step)| step));
        let forks = steps.any(|step| matches!(step, Then::Forked { lineage, .. } if *lineage == self.d.lineage));
        let to = from.prev().max(self.durable).max(self.applied);
        if forks && self.following.is_none() && to < self.end() && self.failed.is_none() {
            let text = format!("records above {to} wait for space, and the fork for them; they are given up");
            fx.push(Effect::Edge { rule: "fork-gives-up-waiting", text });
            self.submit_batch(fx);
            self.truncate(to);
        }
    }

    /// What is said in a lineage that was left is answered by the name of the newer one.
    pub fn tell_of(&self, newer: LineageId, to: MemberId, fx: &mut Effects) {
        if to != self.me() {
            let body = Body::Reject { asked: Epoch::ZERO, promised: Epoch::ZERO };
            fx.push(Effect::Send(Message { volume: self.volume, lineage: newer, from: self.me(), to, body }));
        }
    }

    /// Since it answered the donor this replica may have gone on in the old lineage: then what it holds is not what the
    /// new one goes on from. It stays where it is, and an operator decides.
    fn may_follow_fork(&self, history: &History, end: Seq, fx: &mut Effects) -> bool {
        let common = self.history.common_point(self.end(), history, end);
        let known = self.applied.max(self.acked);
        // The image that is being installed is ours already: it will be shown, whatever happens meanwhile.
        let shown = self.d.installing.as_ref().map(|i| (i.base.seq, i.history.common_point(i.base.seq, history, end)));
        let image_kept = shown.is_none_or(|(seq, common)| common >= seq);
        if (common >= known && image_kept) || broken(Sabotage::ForkFollowedBlindly) {
            return true;
        }
        let (common, known) = shown.filter(|_| !image_kept).map_or((common, known), |(seq, common)| (common, seq));
        let text = format!("the log that is forked from parts from ours at {common}, below what was acked ({known})");
        fx.push(Effect::Edge { rule: "fork-refused", text });
        false
    }

    /// A member speaks in a higher generation of the volume: what is here is history.
    pub fn on_higher_lineage(&mut self, lineage: LineageId, fx: &mut Effects) {
        if broken(Sabotage::LoserNotFenced) {
            return;
        }
        if self.d.superseded.is_none_or(|known| known.generation < lineage.generation) && self.failed.is_none() {
            let text = format!("the volume goes on as lineage {lineage}; this copy ({}) is fenced", self.d.lineage);
            fx.push(Effect::Edge { rule: "lineage-superseded", text });
            self.d.superseded = Some(lineage);
            self.following = None;
            if !broken(Sabotage::FenceForgotten) {
                self.persist_meta();
            }
        }
    }

    /// A member speaks in another fork of our generation. Nothing tells which one is right: an operator must.
    pub fn on_rival_lineage(&mut self, lineage: LineageId, fx: &mut Effects) {
        if self.rival != Some(lineage) {
            let text = format!("lineage {lineage} and ours, {}, are forks of one generation", self.d.lineage);
            fx.push(Effect::Edge { rule: "lineage-rival", text });
            self.rival = Some(lineage);
        }
    }

    /// A resync's image is staged. From here until it is visible this replica counts in nothing but its vote.
    pub fn on_staged(&mut self, lineage: LineageId, base: LogBase, history: History, fx: &mut Effects) {
        // A shipment may arrive late, when another holder has brought our log further, and we have said so: the
        // image would take back what we acknowledged.
        if self.d.installing.is_some() {
            return;
        }
        if self.is_diskless() {
            return fx.push(Effect::DropImage);
        }
        let late = base.seq <= self.end().max(self.applied) && !broken(Sabotage::LateShipmentInstalled);
        // Or when we have gone on in another lineage, which may not have all that the image shows.
        let foreign = lineage != self.d.lineage && !broken(Sabotage::ForeignShipmentInstalled);
        if late || foreign || self.failed.is_some() {
            fx.push(Effect::DropImage);
            return;
        }
        fx.push(Effect::Edge {
            rule: "install-begin",
            text: format!("image at {} is staged, installing it", base.seq),
        });
        self.following = None;
        // A full journal takes what is on its way only when others are applied, and nothing is until the image is there.
        self.drop_undurable(fx);
        let seq = base.seq;
        self.d.installing = Some(Installing { base, history });
        if !broken(Sabotage::InstallUnmarked) {
            self.persist_meta();
        }
        self.once_durable(Then::Installing { seq });
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
        self.cuts.push_back(base.seq);
        self.once_durable(Then::Truncated { to: base.seq });
        self.persist_meta();
        self.once_durable(Then::Based { seq: base.seq });
    }

    /// The staged image did not survive; log and old image are as they were.
    pub fn on_image_lost(&mut self, fx: &mut Effects) {
        if self.d.installing.take().is_some() {
            let text = "the staged image was lost in a crash; the old one stands".to_string();
            fx.push(Effect::Edge { rule: "install-lost", text });
            self.persist_meta();
        }
    }
}
