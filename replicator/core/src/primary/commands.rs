//! What an operator asks of the holder: attach, detach, hand over.

use super::holder::{Device, Handover};
use super::{Next, Primary};
use crate::api::{Answer, Change, CommandId, Effect, Effects, Refusal};
use crate::candidate::{is_published, not_published, refuse_diskless};
use crate::change;
use crate::ids::{MemberId, SessionId, Tick};
use crate::limits::{COMMANDS_MAX, HANDOVER_TIMEOUT_US};
use crate::register::Attachment;
use crate::replica::Replica;

impl Primary {
    /// A promotion asked for again is answered like the first: when the epoch is fully ours.
    pub fn await_open(&mut self, command: CommandId, fx: &mut Effects) {
        if self.opened {
            fx.push(Effect::Answer { id: command, result: Ok(Answer::Done) });
        } else if self.on_open.len() < COMMANDS_MAX {
            self.on_open.push(command);
        } else {
            let refusal = Refusal::new("promote-running", "many wait for this promotion", "wait for its end");
            fx.push(Effect::Answer { id: command, result: Err(refusal) });
        }
    }

    pub fn attach(
        &mut self,
        command: CommandId,
        session: SessionId,
        replica: &mut Replica,
        now: Tick,
        fx: &mut Effects,
    ) {
        if let Some(device) = &self.device {
            if device.session == session {
                if device.open {
                    fx.push(Effect::Answer { id: command, result: Ok(Answer::Done) });
                } else {
                    self.on_device.push(command);
                }
            } else {
                let refusal =
                    Refusal::new("attach-busy", "the volume is attached on this node already", "detach it first");
                fx.push(Effect::Answer { id: command, result: Err(refusal) });
            }
            return;
        }
        let me = replica.me();
        let attached = Some(Attachment { member: me, session });
        if let Some(other) = self.config.attached.filter(|a| a.member != me) {
            let node = self.config.member(other.member).map_or("?", |m| &m.node);
            let refusal = Refusal::new(
                "attach-elsewhere",
                format!("the volume is attached at node {node}"),
                "detach it there first",
            );
            fx.push(Effect::Answer { id: command, result: Err(refusal) });
            return;
        }
        if self.pending.is_some() || !self.opened {
            let refusal =
                Refusal::new("change-pending", "the volume is still opening or changing", "try again shortly");
            fx.push(Effect::Answer { id: command, result: Err(refusal) });
            return;
        }
        if replica.is_diskless()
            && let Some(refusal) = refuse_diskless(&self.config, me)
        {
            fx.push(Effect::Answer { id: command, result: Err(refusal) });
            return;
        }
        match change::propose(&self.config, &self.under(), &Change::Attached { attached }) {
            Ok(next) => {
                self.device = Some(Device { session, open: false });
                // No change is on its way: the class is the register's again.
                self.strict = false;
                self.on_device.push(command);
                self.write_register(next, Vec::new(), replica, now, fx);
            }
            Err(refusal) => fx.push(Effect::Answer { id: command, result: Err(refusal) }),
        }
    }

    /// Only a session that the register names: one that was detached stays so.
    pub fn attach_published(
        &mut self,
        command: CommandId,
        session: SessionId,
        replica: &mut Replica,
        now: Tick,
        fx: &mut Effects,
    ) {
        if is_published(&self.config, replica.me(), session) {
            self.attach(command, session, replica, now, fx);
        } else {
            let refusal = not_published(&self.config, replica.me());
            fx.push(Effect::Answer { id: command, result: Err(refusal) });
        }
    }

    pub fn detach(
        &mut self,
        command: CommandId,
        session: SessionId,
        replica: &mut Replica,
        now: Tick,
        fx: &mut Effects,
    ) {
        if self.device.as_ref().is_some_and(|d| d.session == session) {
            if self.device.take().is_some_and(|d| d.open) {
                fx.push(Effect::CloseDevice { reason: "detached".to_string() });
            }
            self.pipeline.fence("detached", fx);
        } else if self.config.attached.is_none_or(|a| a.session != session) {
            // Detaching what is not attached is done already.
            fx.push(Effect::Answer { id: command, result: Ok(Answer::Done) });
            return;
        }
        self.change(command, &Change::Attached { attached: None }, replica, now, fx);
    }

    pub fn hand_over(&mut self, command: CommandId, to: Option<MemberId>, now: Tick, fx: &mut Effects) {
        let refusal = if self.handover.is_some() {
            Some(Refusal::new("handover-running", "a handover is running", "wait for it"))
        } else if let Some(to) = to
            && !self.config.current.sync.iter().any(|s| s.member == to)
        {
            Some(Refusal::new(
                "handover-not-in-sync",
                format!("{} is not in the sync set", self.config.site_of(to)),
                "choose a site of the sync set, or wait for its resync",
            ))
        } else if self.pending.is_some() || !self.opened {
            Some(Refusal::new("change-pending", "the volume is still opening or changing", "try again shortly"))
        } else {
            None
        };
        match refusal {
            Some(refusal) => fx.push(Effect::Answer { id: command, result: Err(refusal) }),
            None => {
                self.break_hold("a handover has begun", fx);
                self.handover = Some(Handover { command, to, deadline: now.plus(HANDOVER_TIMEOUT_US) });
            }
        }
    }

    /// Everything appended is acked, and on the target: end the epoch, durably, before the release leaves.
    pub(super) fn try_release(&mut self, replica: &mut Replica, fx: &mut Effects) -> Next {
        let Some(handover) = &self.handover else { return Next::Stay };
        let end = replica.end();
        let on_target = handover.to.is_none_or(|to| self.peers.get(&to).is_some_and(|p| p.durable >= end));
        if self.acked < end || !on_target || !self.pipeline.is_idle() {
            return Next::Stay;
        }
        let command = handover.command;
        self.handover = None;
        if self.device.take().is_some_and(|d| d.open) {
            fx.push(Effect::CloseDevice { reason: "handed over".to_string() });
        }
        self.pipeline.fence("handed over", fx);
        let tell = self.config.members.iter().map(|m| m.id).collect();
        replica.end_epoch(self.epoch, tell, command);
        fx.push(Effect::Edge { rule: "epoch-released", text: format!("epoch {} ended at seq {end}", self.epoch) });
        Next::Released
    }
}
