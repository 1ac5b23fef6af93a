//! Writing the register: one change at a time, under the old terms and the new until it has taken effect.

use std::collections::BTreeSet;

use super::Primary;
use super::holder::Device;
use crate::api::{Answer, Change, CommandId, Effect, Effects, Refusal};
use crate::change::{self, Pending, Stage};
use crate::ids::{MemberId, Tick};
use crate::limits::{COMMANDS_MAX, GROW_LAG_BYTES_MAX, GROW_LAG_RECORDS_MAX};
use crate::peers::Feed;
use crate::register::{ConfigVersion, Configuration, Durability, Terms};
use crate::replica::Replica;
use crate::sabotage::{Sabotage, broken};

impl Primary {
    pub(super) fn stored_by(&self, version: ConfigVersion) -> BTreeSet<MemberId> {
        self.peers.iter().filter(|(_, p)| p.config_ok >= version).map(|(id, _)| *id).collect()
    }

    pub(super) fn progress_change(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        let Some(pending) = &self.pending else { return };
        let stored = self.stored_by(self.config.version);
        let on_control_quorum =
            self.config.all_terms().take(if broken(Sabotage::NewVotersAlone) { 1 } else { usize::MAX }).all(|t| {
                let counts = |id, inc| stored.contains(&id) && self.counted(id, inc).is_some();
                t.control_quorum(counts) || self.config.quorum_with_observers(t, |id| stored.contains(&id))
            });
        let found_will_do = pending.before.is_none() && broken(Sabotage::FoundNotRewritten);
        if !on_control_quorum && !found_will_do {
            return;
        }
        match pending.stage {
            Stage::Joint => {
                // Everything acked so far, and before the first ack everything adopted, under the new terms too.
                let must = self.acked.max(self.start.prev());
                let early = broken(Sabotage::GrowWhileLagging)
                    || (broken(Sabotage::StandInWhileLagging) && !self.config.stand_ins.is_empty());
                if self.position(&self.config.current) < must && !early {
                    if let Some(pending) = &mut self.pending {
                        pending.stored = true;
                    }
                    return;
                }
                let shrinks = pending.under.iter().any(|t| t.sync.len() > self.config.current.sync.len());
                self.in_force = match broken(Sabotage::LeftStillCounts) && shrinks {
                    true => pending.under.clone(),
                    false => vec![self.config.current.clone()],
                };
                self.settled = true;
                if self.config.earlier.is_empty() {
                    self.finish_change(fx);
                } else {
                    self.config = change::drop_earlier(&self.config);
                    if let Some(pending) = &mut self.pending {
                        pending.stage = Stage::Dropping;
                    }
                    self.heartbeat(replica, now, fx);
                }
            }
            Stage::Dropping => self.finish_change(fx),
        }
    }

    pub(super) fn finish_change(&mut self, fx: &mut Effects) {
        let Some(pending) = self.pending.take() else { return };
        let text = format!("configuration {} is in effect", self.config.version);
        fx.push(Effect::Edge { rule: "config-settled", text });
        for id in pending.commands {
            fx.push(Effect::Answer { id, result: Ok(Answer::Done) });
        }
        fx.push(Effect::Resized { size_bytes: self.config.volume.size_bytes });
    }

    pub(super) fn write_register(
        &mut self,
        next: Configuration,
        commands: Vec<CommandId>,
        replica: &mut Replica,
        now: Tick,
        fx: &mut Effects,
    ) {
        let replaced_value = std::mem::replace(&mut self.config, next);
        // From the moment of proposal both the old and the new terms hold.
        // Terms of a change that this one replaces hold too, until it is on the control quorum.
        let replaced = self.pending.take();
        if replaced.is_none() {
            self.in_force.clear();
        }
        for terms in self.config.all_terms() {
            if !self.in_force.contains(terms) {
                self.in_force.push(terms.clone());
            }
        }
        if broken(Sabotage::ShrinkEarly) {
            self.in_force = vec![self.config.current.clone()];
        }
        let (under, before, carried) = match replaced {
            Some(p) => (p.under, p.before, p.commands),
            None => (vec![replaced_value.current.clone()], Some(Box::new(replaced_value)), Vec::new()),
        };
        let commands = carried.into_iter().chain(commands).collect();
        self.pending = Some(Pending { stage: Stage::Joint, commands, under, before, stored: false });
        self.heartbeat(replica, now, fx);
    }

    pub fn change(&mut self, command: CommandId, change: &Change, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        if matches!(change, Change::Withdraw) {
            return self.withdraw(command, replica, now, fx);
        }
        // Members may be left out before the epoch opens, or in place of a change that can't take effect without them.
        let replaces = matches!(change, Change::Reduce { .. } | Change::Readmit { .. })
            && self.pending.as_ref().is_some_and(|p| p.stage == Stage::Joint && p.commands.len() < COMMANDS_MAX);
        let refusal = if self.handover.is_some() {
            Some(Refusal::new("handover-running", "a handover is running", "wait for it"))
        } else if self.pending.is_some() && !replaces {
            Some(Refusal::new(
                "change-pending",
                "another change of the configuration is on its way",
                "try again shortly",
            ))
        } else {
            let next = self
                .check_completed(change)
                .and_then(|()| change::propose(&self.config, &self.under(), &self.with_votes(change)?));
            match next.and_then(|next| self.check_heard(change, next)) {
                Ok(next) => {
                    self.write_register(next, vec![command], replica, now, fx);
                    None
                }
                Err(refusal) => Some(refusal),
            }
        };
        if let Some(refusal) = refusal {
            fx.push(Effect::Answer { id: command, result: Err(refusal) });
        }
    }

    /// Terms that those who would remain, and are heard, can't meet would never take effect; and with their primary lost no
    /// epoch could be won under them any more, since the silent might have acknowledged something by themselves.
    fn check_heard(&self, change: &Change, next: Configuration) -> Result<Configuration, Refusal> {
        let leaves_out = matches!(change, Change::Reduce { .. } | Change::Remove { .. } | Change::Mode { .. });
        if !leaves_out || next.current.data_quorum(|m| self.counted(m.member, m.incarnation).is_some()) {
            return Ok(next);
        }
        Err(Refusal::new(
            "quorum-unheard",
            "those who would remain, and are heard, could not acknowledge a write by themselves",
            "wait until one more is in sync, or leave others out",
        ))
    }

    /// Whoever finds class `write` in the register believes that all that completed was acknowledged. So from now on
    /// nothing else completes, and the register says so once what did complete before is acknowledged.
    fn check_completed(&mut self, change: &Change) -> Result<(), Refusal> {
        let to_write = matches!(change, Change::Durability { durability: Durability::Write });
        if !to_write || self.config.volume.durability == Durability::Write {
            return Ok(());
        }
        self.strict = true;
        if self.acked >= self.completed || broken(Sabotage::ClassBeforeAcked) {
            return Ok(());
        }
        Err(Refusal::new(
            "change-pending",
            "what completed in class flush is not acknowledged yet",
            "try again shortly; see `farshore status` for who is missing",
        ))
    }

    /// The terms that the next register value must keep: those in force without what is only proposed.
    pub(super) fn under(&self) -> Vec<Terms> {
        match &self.pending {
            Some(pending) => pending.under.clone(),
            None => vec![self.config.current.clone()],
        }
    }

    /// Takes a change back that has not taken effect; what waited for it is told so.
    pub(super) fn withdraw(&mut self, command: CommandId, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        let pending = self.pending.as_mut().filter(|p| p.stage == Stage::Joint);
        let Some((commands, Some(before))) = pending.map(|p| (std::mem::take(&mut p.commands), p.before.clone()))
        else {
            let refusal = Refusal::new("change-none", "no change is on its way", "nothing is left to do");
            fx.push(Effect::Answer { id: command, result: Err(refusal) });
            return;
        };
        let next = change::withdraw(&self.config, &self.under(), &before);
        let mut withdrawn = commands;
        // An attach that waits for this very write.
        let unnamed = |d: &Device| !d.open && next.attached.is_none_or(|a| a.session != d.session);
        if self.device.as_ref().is_some_and(unnamed) {
            self.device = None;
            withdrawn.append(&mut self.on_device);
        }
        for id in withdrawn {
            let refusal = Refusal::new("change-withdrawn", "the change was withdrawn", "nothing is left to do");
            fx.push(Effect::Answer { id, result: Err(refusal) });
        }
        self.write_register(next, vec![command], replica, now, fx);
    }

    /// It follows, and lacks little of what is acknowledged.
    pub(super) fn is_whole(&self, member: MemberId, replica: &Replica) -> bool {
        self.peers.get(&member).is_some_and(|peer| {
            peer.feed == Feed::Live
                && self.acked.since(peer.durable) <= GROW_LAG_RECORDS_MAX
                && self.lacks_bytes(peer.durable, replica).is_some_and(|bytes| bytes <= GROW_LAG_BYTES_MAX)
        })
    }

    /// A data member that has caught up under the incarnation of its vote, and is not in the sync set, enters it.
    pub(super) fn maintain(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        // A change that waits for data may wait for this very member.
        if self.pending.as_ref().is_some_and(|p| !p.stored || p.stage != Stage::Joint) || self.handover.is_some() {
            return;
        }
        let ready = self.config.members.iter().filter(|m| self.config.may_count(m)).find_map(|m| {
            let incarnation = self.config.admitted(m.id)?;
            let outside = !self.config.current.in_sync(m.id, incarnation);
            // What it said before it fell silent is no reason: once in, the lease would have to count on it.
            let heard = self.is_heard(m.id, incarnation, now);
            let whole = self.is_whole(m.id, replica);
            (whole && heard && outside && self.is_near(m, now)).then_some((m.id, incarnation))
        });
        if let Some((member, incarnation)) = ready
            && let Some(next) = change::grow(&self.config, &self.under(), member, incarnation)
        {
            fx.push(Effect::Edge { rule: "sync-set-grow", text: format!("{member} is whole and enters the sync set") });
            self.write_register(next, Vec::new(), replica, now, fx);
        }
    }
}
