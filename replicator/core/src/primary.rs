//! Holding an epoch: feeding the members, counting acknowledgements, the lease, opening and closing the device.
//!
//! ```text
//!  opening ──EpochStart acked, change in effect, old lease over, own store caught up──► open
//!     └───────────── higher epoch seen, quorum lost too long, journal failed ──────────► fenced (follower)
//!  open ──handover: everything acked and on the target──► released (follower)
//! ```
//! Not here: device requests (pipeline), what one member is sent (peers), register values (change).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::api::{Change, CommandId, Effect, Effects, Event, Refusal, RequestId};
use crate::candidate::Won;
use crate::change::{self, Pending, Stage};
use crate::ids::{Epoch, Incarnation, MemberId, Seq, SessionId, Tick};
use crate::limits::{
    APPEND_BYTES_MAX, COMMANDS_MAX, DRIFT_DIVISOR, HANDOVER_TIMEOUT_US, HEARTBEAT_US, PEER_INFLIGHT_BYTES_MAX,
    RESEND_AFTER_US,
};
use crate::message::{Body, MESSAGE_RECORDS_MAX, Message};
use crate::peers::{Feed, Peer};
use crate::pipeline::{Draft, Pipeline, Reached};
use crate::record::{Kind, Origin, Record};
use crate::register::{Attachment, ConfigVersion, Configuration, Durability, MemberKind, OnQuorumLoss, Terms};
use crate::replica::Replica;

#[derive(Debug)]
struct Device {
    session: SessionId,
    open: bool,
}

/// The epoch is being given up.
#[derive(Debug)]
struct Handover {
    command: CommandId,
    to: Option<MemberId>,
    /// Before the release the move can be cancelled; it is, when the target does not keep up.
    deadline: Tick,
}

/// What the volume must do after an event.
#[derive(Debug)]
pub enum Next {
    Stay,
    /// The epoch is over for this node: why.
    Fenced(String),
    Released,
}

pub struct Primary {
    pub epoch: Epoch,
    /// The seq of our EpochStart.
    start: Seq,
    pub acked: Seq,
    pub peers: BTreeMap<MemberId, Peer>,
    /// Terms under which an acknowledgement must hold: one, or several while a change is joint.
    in_force: Vec<Terms>,
    /// The newest register value that we wrote.
    config: Configuration,
    pending: Option<Pending>,
    /// Change in effect at least once in this epoch: the first write is done with.
    settled: bool,
    old_lease_until: Tick,
    device: Option<Device>,
    handover: Option<Handover>,
    /// Commands answered when the epoch is fully ours.
    on_open: Vec<CommandId>,
    /// Attach commands answered when the device opens.
    on_device: Vec<CommandId>,
    pipeline: Pipeline,
    fresh: Vec<Record>,
    heartbeat_at: Tick,
    opened: bool,
    /// The lease ran out at this time and has not come back.
    lease_lost_at: Option<Tick>,
}

impl Primary {
    pub fn start(
        won: Won,
        attach: Option<SessionId>,
        command: Option<CommandId>,
        replica: &mut Replica,
        now: Tick,
        fx: &mut Effects,
    ) -> Primary {
        let Won { epoch, found, old_lease_until } = won;
        let me = replica.me();
        let site = found.site_of(me).to_string();
        let moves = found.current.primary_site != site;
        let mut config = change::adopt(&found, epoch, &site);
        // A verb that moves the primary's site clears node and session in the same write and opens no device.
        config.attached = match attach {
            Some(session) => Some(Attachment { member: me, session }),
            None if moves => None,
            None => config.attached.filter(|a| a.member != me),
        };
        let seq = replica.end().next();
        let mut primary = Primary {
            epoch,
            start: seq,
            acked: Seq::ZERO,
            peers: BTreeMap::new(),
            in_force: Vec::new(),
            config,
            pending: Some(Pending {
                stage: Stage::Joint,
                commands: Vec::new(),
                under: found.all_terms().cloned().collect(),
                before: None,
                stored: false,
            }),
            settled: false,
            old_lease_until,
            device: attach.map(|session| Device { session, open: false }),
            handover: None,
            on_open: command.into_iter().filter(|_| attach.is_none()).collect(),
            on_device: command.into_iter().filter(|_| attach.is_some()).collect(),
            pipeline: Pipeline::starting_at(seq),
            fresh: Vec::new(),
            heartbeat_at: now,
            opened: false,
            lease_lost_at: None,
        };
        primary.in_force = primary.config.all_terms().cloned().collect();
        primary.append(replica, Kind::EpochStart, (0, 0), Bytes::new(), Origin::default(), now);
        primary.heartbeat(replica, now, fx);
        primary
    }

    fn append(
        &mut self,
        replica: &mut Replica,
        kind: Kind,
        (offset, length): (u64, u64),
        payload: Bytes,
        origin: Origin,
        now: Tick,
    ) -> Seq {
        let seq = replica.end().next();
        let record = Record {
            volume: replica.volume,
            lineage: replica.d.lineage.uuid,
            epoch: self.epoch,
            seq,
            prev_hash: replica.last_hash().expect("a candidate wins only when it knows its last record"),
            kind,
            offset,
            length,
            origin,
            payload_crc: crc32fast::hash(&payload),
            payload,
        };
        replica.append_own(record.clone(), now);
        self.fresh.push(record);
        seq
    }

    fn send(&self, replica: &Replica, to: MemberId, body: Body, fx: &mut Effects) {
        let (volume, lineage, from) = (replica.volume, replica.d.lineage, replica.me());
        fx.push(Effect::Send(Message { volume, lineage, from, to, body }));
    }

    fn elect(&self, replica: &Replica, to: MemberId, fx: &mut Effects) {
        let body = Body::Elect { epoch: self.epoch, history: replica.history().clone(), end: replica.end() };
        self.send(replica, to, body, fx);
    }

    /// Speaks to every member: asks the silent, repeats what was not stored, renews leases.
    fn heartbeat(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        self.heartbeat_at = now.plus(HEARTBEAT_US.min(self.config.volume.lease_us / 4));
        let members: Vec<MemberId> = self.config.members.iter().map(|m| m.id).collect();
        self.peers.retain(|id, _| members.contains(id));
        for id in members {
            let version = self.config.version;
            let peer = self.peers.entry(id).or_insert_with(|| Peer::silent(now));
            let (silent, behind) = (peer.feed == Feed::Silent, peer.config_ok < version);
            if peer.feed == Feed::Live && peer.is_stalled(now, RESEND_AFTER_US) {
                peer.rewind();
            }
            if silent {
                self.elect(replica, id, fx);
            } else {
                self.append_to(replica, id, Vec::new(), now, fx);
            }
            if behind {
                self.put_config(replica, id, fx);
            }
        }
    }

    fn put_config(&self, replica: &Replica, to: MemberId, fx: &mut Effects) {
        let body = Body::PutConfig { epoch: self.epoch, config: Box::new(self.config.clone()) };
        self.send(replica, to, body, fx);
    }

    fn append_to(&self, replica: &Replica, to: MemberId, records: Vec<Record>, now: Tick, fx: &mut Effects) {
        let body = Body::Append { epoch: self.epoch, acked: self.acked, end: replica.end(), sent: now, records };
        self.send(replica, to, body, fx);
    }

    pub fn on_link(&mut self, member: MemberId, up: bool, replica: &Replica, now: Tick, fx: &mut Effects) {
        if let Some(peer) = self.peers.get_mut(&member) {
            if peer.feed != Feed::Shipping {
                peer.lost();
            }
            if up {
                peer.moved = now;
                self.elect(replica, member, fx);
                self.put_config(replica, member, fx);
            }
        }
    }

    pub fn on_need_elect(&mut self, from: MemberId, epoch: Epoch, replica: &Replica, fx: &mut Effects) {
        if epoch == self.epoch
            && let Some(peer) = self.peers.get_mut(&from)
        {
            if peer.feed != Feed::Shipping {
                peer.lost();
            }
            self.elect(replica, from, fx);
        }
    }

    pub fn on_elect_ok(&mut self, from: MemberId, incarnation: Incarnation, (durable, applied): (Seq, Seq), now: Tick) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.elected(incarnation, durable, applied, now);
        }
    }

    pub fn on_ack(
        &mut self,
        from: MemberId,
        incarnation: Incarnation,
        (appended, durable, applied): (Seq, Seq, Seq),
        echo: Tick,
        now: Tick,
    ) {
        if let Some(peer) = self.peers.get_mut(&from).filter(|p| p.incarnation == Some(incarnation)) {
            peer.acked(appended, durable, applied, echo.min(now), now);
        }
    }

    pub fn on_config_ok(&mut self, from: MemberId, incarnation: Incarnation, version: ConfigVersion) {
        if version <= self.config.version
            && let Some(peer) = self.peers.get_mut(&from).filter(|p| p.incarnation == Some(incarnation))
        {
            peer.config_ok = peer.config_ok.max(version);
        }
    }

    /// A peer counts under the incarnation that the terms name, once it follows our log.
    fn counted(&self, member: MemberId, incarnation: Incarnation) -> Option<&Peer> {
        self.peers.get(&member).filter(|p| p.incarnation == Some(incarnation))
    }

    fn position(&self, terms: &Terms) -> Seq {
        terms.quorum_value(|m| self.counted(m.member, m.incarnation).map(|p| p.durable)).unwrap_or(Seq::ZERO)
    }

    /// Until when reads may be served: acks younger than the lease form a data quorum under all terms in force.
    pub fn lease_until(&self) -> Option<Tick> {
        let lease_us = self.config.volume.lease_us;
        self.in_force
            .iter()
            .map(|t| t.quorum_value(|m| self.counted(m.member, m.incarnation).and_then(|p| p.echo)))
            .min()
            .flatten()
            .map(|since| since.plus(lease_us - lease_us / DRIFT_DIVISOR))
    }

    fn reached(&self, now: Tick) -> Reached {
        let lease_valid = self.lease_until().is_some_and(|until| now < until);
        let completed = match self.config.volume.durability {
            Durability::Write => self.acked,
            Durability::Flush if lease_valid => self.local_durable().max(self.acked),
            Durability::Flush => self.acked,
        };
        Reached { acked: self.acked, completed, lease_valid }
    }

    fn local_durable(&self) -> Seq {
        let terms = &self.config.current;
        terms
            .sync
            .iter()
            .filter(|m| m.site == terms.primary_site)
            .filter_map(|m| self.counted(m.member, m.incarnation).map(|p| p.durable))
            .max()
            .unwrap_or(Seq::ZERO)
    }

    /// Recounts after anything that may have moved a position, the register or the clock.
    pub fn progress(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) -> Next {
        self.progress_change(replica, now, fx);
        // Nobody holds more of our epoch than we do, whatever he says.
        let position = self.in_force.iter().map(|t| self.position(t)).min().unwrap_or(Seq::ZERO).min(replica.end());
        // Records of earlier epochs count only through our own EpochStart (I9).
        if position >= self.start && position > self.acked {
            self.acked = position;
        }
        replica.lead(self.epoch, self.acked, now, fx);
        self.try_open(replica, now, fx);
        if self.opened {
            let reached = self.reached(now);
            self.pipeline.advance(reached, fx);
            self.start_requests(replica, reached, now, fx);
        }
        self.watch_lease(now)
    }

    fn start_requests(&mut self, replica: &mut Replica, reached: Reached, now: Tick, fx: &mut Effects) {
        if self.handover.is_some() || !self.device.as_ref().is_some_and(|d| d.open) {
            return;
        }
        while let Some(draft) = self.pipeline.next(reached, fx) {
            self.append_draft(replica, &draft, now);
        }
    }

    fn append_draft(&mut self, replica: &mut Replica, draft: &Draft, now: Tick) {
        let range = (draft.offset, draft.length);
        let seq = self.append(replica, draft.kind, range, draft.payload.clone(), draft.origin, now);
        self.pipeline.appended(seq, draft);
    }

    fn try_open(&mut self, replica: &Replica, now: Tick, fx: &mut Effects) {
        if !self.opened
            && self.settled
            && self.acked >= self.start
            && now >= self.old_lease_until
            && replica.applied >= self.start
        {
            self.opened = true;
            let text = format!("epoch {} is ours from seq {} on", self.epoch, self.start);
            fx.push(Effect::Edge { rule: "epoch-open", text });
            for id in self.on_open.drain(..) {
                fx.push(Effect::Answer { id, result: Ok(()) });
            }
        }
        let named = self.config.attached;
        if self.opened
            && self.pending.as_ref().is_none_or(|p| p.stage == Stage::Dropping)
            && let Some(device) = self.device.as_mut().filter(|d| !d.open)
            && named.is_some_and(|a| a.session == device.session)
        {
            device.open = true;
            fx.push(Effect::OpenDevice { session: device.session });
            for id in self.on_device.drain(..) {
                fx.push(Effect::Answer { id, result: Ok(()) });
            }
        }
    }

    fn watch_lease(&mut self, now: Tick) -> Next {
        if self.lease_until().is_some_and(|until| now < until) || !self.opened {
            self.lease_lost_at = None;
            return Next::Stay;
        }
        let since = *self.lease_lost_at.get_or_insert(now);
        match self.config.volume.on_quorum_loss {
            OnQuorumLoss::Fence { after_us } if now.since(since) >= after_us => {
                Next::Fenced(format!("no data quorum for {} s", now.since(since) / 1_000_000))
            }
            _ => Next::Stay,
        }
    }

    // ---- the register ----

    fn stored_by(&self, version: ConfigVersion) -> BTreeSet<MemberId> {
        self.peers.iter().filter(|(_, p)| p.config_ok >= version).map(|(id, _)| *id).collect()
    }

    fn progress_change(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        let Some(pending) = &self.pending else { return };
        let stored = self.stored_by(self.config.version);
        let on_control_quorum = self
            .config
            .all_terms()
            .all(|t| t.control_quorum(|id, inc| stored.contains(&id) && self.counted(id, inc).is_some()));
        if !on_control_quorum {
            return;
        }
        match pending.stage {
            Stage::Joint => {
                // Everything acked so far, and before the first ack everything adopted, under the new terms too.
                let must = self.acked.max(self.start.prev());
                if self.position(&self.config.current) < must {
                    if let Some(pending) = &mut self.pending {
                        pending.stored = true;
                    }
                    return;
                }
                self.in_force = vec![self.config.current.clone()];
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

    fn finish_change(&mut self, fx: &mut Effects) {
        let Some(pending) = self.pending.take() else { return };
        let text = format!("configuration {} is in effect", self.config.version);
        fx.push(Effect::Edge { rule: "config-settled", text });
        for id in pending.commands {
            fx.push(Effect::Answer { id, result: Ok(()) });
        }
        fx.push(Effect::Resized { size_bytes: self.config.volume.size_bytes });
    }

    fn write_register(
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
            match change::propose(&self.config, &self.under(), change) {
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

    /// The terms that the next register value must keep: those in force without what is only proposed.
    fn under(&self) -> Vec<Terms> {
        match &self.pending {
            Some(pending) => pending.under.clone(),
            None => vec![self.config.current.clone()],
        }
    }

    /// Takes a change back that has not taken effect; what waited for it is told so.
    fn withdraw(&mut self, command: CommandId, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        let pending = self.pending.as_mut().filter(|p| p.stage == Stage::Joint);
        let Some((commands, Some(before))) = pending.map(|p| (std::mem::take(&mut p.commands), p.before.clone()))
        else {
            let refusal = Refusal::new("change-none", "no change is on its way", "nothing is left to do");
            fx.push(Effect::Answer { id: command, result: Err(refusal) });
            return;
        };
        for id in commands {
            let refusal = Refusal::new("change-withdrawn", "the change was withdrawn", "nothing is left to do");
            fx.push(Effect::Answer { id, result: Err(refusal) });
        }
        let next = change::withdraw(&self.config, &self.under(), &before);
        self.write_register(next, vec![command], replica, now, fx);
    }

    /// A data member that has caught up under the incarnation of its vote, and is not in the sync set, enters it.
    fn maintain(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        // A change that waits for data may wait for this very member.
        if self.pending.as_ref().is_some_and(|p| !p.stored || p.stage != Stage::Joint) || self.handover.is_some() {
            return;
        }
        let ready = self.config.members.iter().filter(|m| m.kind == MemberKind::Data).find_map(|m| {
            let peer = self.peers.get(&m.id)?;
            let incarnation = peer.incarnation?;
            let whole = peer.feed == Feed::Live && peer.durable >= self.acked;
            let votes = self.config.current.has_vote(m.id, incarnation);
            let outside = !self.config.current.in_sync(m.id, incarnation);
            (whole && votes && outside).then_some((m.id, incarnation))
        });
        if let Some((member, incarnation)) = ready
            && let Some(next) = change::grow(&self.config, &self.under(), member, incarnation)
        {
            fx.push(Effect::Edge { rule: "sync-set-grow", text: format!("{member} is whole and enters the sync set") });
            self.write_register(next, Vec::new(), replica, now, fx);
        }
    }

    // ---- commands ----

    /// A promotion asked for again is answered like the first: when the epoch is fully ours.
    pub fn await_open(&mut self, command: CommandId, fx: &mut Effects) {
        if self.opened {
            fx.push(Effect::Answer { id: command, result: Ok(()) });
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
                    fx.push(Effect::Answer { id: command, result: Ok(()) });
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
        match change::propose(&self.config, &self.under(), &Change::Attached { attached }) {
            Ok(next) => {
                self.device = Some(Device { session, open: false });
                self.on_device.push(command);
                self.write_register(next, Vec::new(), replica, now, fx);
            }
            Err(refusal) => fx.push(Effect::Answer { id: command, result: Err(refusal) }),
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
            fx.push(Effect::Answer { id: command, result: Ok(()) });
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
            None => self.handover = Some(Handover { command, to, deadline: now.plus(HANDOVER_TIMEOUT_US) }),
        }
    }

    /// Everything appended is acked, and on the target: end the epoch, durably, before the release leaves.
    fn try_release(&mut self, replica: &mut Replica, fx: &mut Effects) -> Next {
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

    // ---- driver's events ----

    pub fn submit(&mut self, event: Event, now: Tick, fx: &mut Effects) {
        match event {
            Event::Io(request) => self.pipeline.submit(request, self.config.volume.size_bytes, fx),
            Event::ReadDone { id, result } => self.read_done(id, result, now, fx),
            Event::Applied { seq } => self.pipeline.on_applied(seq),
            _ => {}
        }
    }

    fn read_done(&mut self, id: RequestId, result: Result<Bytes, String>, now: Tick, fx: &mut Effects) {
        let reached = self.reached(now);
        self.pipeline.on_read_done(id, result, reached, fx);
    }

    pub fn on_log_read(
        &mut self,
        to: MemberId,
        (from, floor): (Seq, Seq),
        records: Vec<Record>,
        replica: &Replica,
        now: Tick,
        fx: &mut Effects,
    ) {
        let Some(peer) = self.peers.get_mut(&to).filter(|p| p.feed == Feed::Reading) else { return };
        peer.feed = Feed::Live;
        if peer.next != from {
            return;
        }
        // Read before our log was cut, and for an epoch that we held then: not what is there now.
        if records.iter().any(|r| replica.history().epoch_of(r.seq) != Some(r.epoch)) {
            return;
        }
        if from < floor {
            peer.feed = Feed::Shipping;
            let base = peer.applied;
            let text = format!(
                "{to} needs records from {from}, our journal begins at {floor}: shipping what changed since {base}"
            );
            fx.push(Effect::Edge { rule: "resync-begin", text });
            fx.push(Effect::Ship { to, base, history: replica.history().clone() });
            return;
        }
        let Some(last) = records.last().map(|r| r.seq) else { return };
        let bytes = records.iter().map(Record::encoded_len).sum();
        peer.sending(last, bytes, now);
        self.append_to(replica, to, records, now, fx);
    }

    pub fn on_shipped(&mut self, to: MemberId, replica: &Replica, fx: &mut Effects) {
        if let Some(peer) = self.peers.get_mut(&to).filter(|p| p.feed == Feed::Shipping) {
            peer.lost();
            self.elect(replica, to, fx);
        }
    }

    pub fn on_timer(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        if let Some(handover) = self.handover.take_if(|h| now >= h.deadline) {
            let refusal = Refusal::new(
                "handover-timeout",
                "not everything became acknowledged and durable on the target in time; I/O goes on here",
                "restore contact with the target, or choose another",
            );
            fx.push(Effect::Answer { id: handover.command, result: Err(refusal) });
        }
        if now >= self.heartbeat_at {
            self.heartbeat(replica, now, fx);
            self.maintain(replica, now, fx);
        }
    }

    /// Sends what was appended since the last flush, and sets readers going for those who are behind.
    pub fn flush(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) -> Next {
        let fresh = std::mem::take(&mut self.fresh);
        let first = fresh.first().map_or(replica.end().next(), |r| r.seq);
        let me = replica.me();
        let targets: Vec<MemberId> = self
            .config
            .members
            .iter()
            .filter(|m| m.id != me && matches!(m.kind, MemberKind::Data | MemberKind::Observer))
            .map(|m| m.id)
            .collect();
        for to in targets {
            let Some(peer) = self.peers.get_mut(&to).filter(|p| p.feed == Feed::Live) else { continue };
            if peer.next == first && !fresh.is_empty() {
                for batch in batches(&fresh) {
                    let Some(peer) = self.peers.get_mut(&to) else { break };
                    let bytes: usize = batch.iter().map(Record::encoded_len).sum();
                    if peer.sent_bytes() + bytes > PEER_INFLIGHT_BYTES_MAX {
                        break;
                    }
                    peer.sending(batch[batch.len() - 1].seq, bytes, now);
                    self.append_to(replica, to, batch.to_vec(), now, fx);
                }
            }
            self.feed_from_journal(to, replica, fx);
        }
        self.try_release(replica, fx)
    }

    /// A live peer that is behind gets the next stretch from our journal, one read at a time.
    fn feed_from_journal(&mut self, to: MemberId, replica: &Replica, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        let room = PEER_INFLIGHT_BYTES_MAX.saturating_sub(peer.sent_bytes());
        if peer.next <= replica.durable && room >= APPEND_BYTES_MAX {
            peer.feed = Feed::Reading;
            fx.push(Effect::ReadLog { to, from: peer.next, max_bytes: APPEND_BYTES_MAX });
        }
    }

    pub fn wakeup(&self, now: Tick) -> Tick {
        let mut at = self.heartbeat_at;
        if !self.opened && self.old_lease_until > now {
            at = at.min(self.old_lease_until);
        }
        at
    }

    /// The epoch is lost: the whole device is gone, every command that waits is told why.
    pub fn fence(&mut self, reason: &str, fx: &mut Effects) {
        if self.device.take().is_some_and(|d| d.open) {
            fx.push(Effect::CloseDevice { reason: reason.to_string() });
        }
        self.pipeline.fence(reason, fx);
        let pending = self.pending.take().map(|p| p.commands).unwrap_or_default();
        let handover = self.handover.take().map(|h| h.command);
        for id in self.on_open.drain(..).chain(self.on_device.drain(..)).chain(pending).chain(handover) {
            let refusal =
                Refusal::new("fenced", format!("this node lost the epoch: {reason}"), "see `farshore status`");
            fx.push(Effect::Answer { id, result: Err(refusal) });
        }
    }

    pub fn config(&self) -> &Configuration {
        &self.config
    }

    /// Every member of the sync set follows our log.
    pub fn everyone_counts(&self) -> bool {
        self.config
            .current
            .sync
            .iter()
            .all(|m| self.counted(m.member, m.incarnation).is_some_and(|p| p.feed != Feed::Silent))
            && self.config.current.sync.len()
                >= self.config.members.iter().filter(|m| m.kind == MemberKind::Data).count()
    }

    pub fn is_open(&self) -> bool {
        self.opened
    }

    pub fn device_open(&self) -> bool {
        self.device.as_ref().is_some_and(|d| d.open)
    }

    pub fn lease_lost_at(&self) -> Option<Tick> {
        self.lease_lost_at
    }
}

/// Cuts fresh records into messages of bounded bytes and count.
fn batches(records: &[Record]) -> impl Iterator<Item = &[Record]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let mut count = 0;
        for record in rest.iter().take(MESSAGE_RECORDS_MAX) {
            bytes += record.encoded_len();
            if count > 0 && bytes > APPEND_BYTES_MAX {
                break;
            }
            count += 1;
        }
        let (batch, left) = rest.split_at(count);
        rest = left;
        Some(batch)
    })
}
