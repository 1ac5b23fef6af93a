//! The epoch itself: its first record, counting acknowledgements, the lease, opening and losing it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::distance::Distance;
use super::marks::Marks;
use super::places::Places;
use crate::api::{Answer, CommandId, Effect, Effects, Event, Refusal, RequestId};
use crate::candidate::Won;
use crate::change::{self, Pending, Stage};
use crate::ids::{Epoch, Incarnation, MemberId, Seq, SessionId, Tick};
use crate::limits::DRIFT_DIVISOR;
use crate::message::{Body, Message};
use crate::peers::{Feed, Peer};
use crate::pipeline::{Bounds, Draft, Pipeline, Reached};
use crate::record::{Kind, Origin, Record};
use crate::register::{Attachment, Configuration, Durability, Member, MemberKind, OnQuorumLoss, SyncMember, Terms};
use crate::replica::Replica;
use crate::sabotage::{Sabotage, broken};

#[derive(Debug)]
pub(super) struct Device {
    pub(super) session: SessionId,
    pub(super) open: bool,
}

/// The epoch is being given up.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) command: CommandId,
    pub(super) to: Option<MemberId>,
    /// Before the release the move can be cancelled; it is, when the target does not keep up.
    pub(super) deadline: Tick,
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
    pub(super) start: Seq,
    pub acked: Seq,
    /// What may have completed in this epoch, by whichever class.
    pub(super) completed: Seq,
    /// The register still says `flush`, and is to say `write`: nothing completes by the lesser class any more.
    pub(super) strict: bool,
    /// What members knew to be acked when they promised. It is in every log that follows ours, and may be applied before
    /// our own first record is acked; else a journal full of it could not take that record.
    pub(super) acked_before: Seq,
    pub peers: BTreeMap<MemberId, Peer>,
    /// Terms under which an acknowledgement must hold: one, or several while a change is joint.
    pub(super) in_force: Vec<Terms>,
    /// The newest register value that we wrote.
    pub(super) config: Configuration,
    pub(super) pending: Option<Pending>,
    /// Change in effect at least once in this epoch: the first write is done with.
    pub(super) settled: bool,
    pub(super) old_lease_until: Tick,
    pub(super) device: Option<Device>,
    pub(super) handover: Option<Handover>,
    /// Commands answered when the epoch is fully ours.
    pub(super) on_open: Vec<CommandId>,
    /// Attach commands answered when the device opens.
    pub(super) on_device: Vec<CommandId>,
    pub(super) pipeline: Pipeline,
    pub(super) marks: Marks,
    pub(super) distance: Distance,
    pub(super) places: Places,
    pub(super) fresh: Vec<Record>,
    pub(super) heartbeat_at: Tick,
    pub(super) opened: bool,
    /// The lease ran out at this time and has not come back.
    pub(super) lease_lost_at: Option<Tick>,
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
        let Won { epoch, found, old_lease_until, acked: acked_before, session_is_whole } = won;
        let me = replica.me();
        let site = found.site_of(me).to_string();
        let moves = found.current.primary_site != site;
        let mut config = change::adopt(&found, epoch, me);
        // A verb that moves the primary's site clears node and session in the same write and opens no device.
        config.attached = match attach {
            Some(session) => Some(Attachment { member: me, session }),
            // Nor is a device taken back, here or later, whose completed writes this epoch may not have: another epoch
            // that has cut them would not tell.
            None if moves || !session_is_whole => None,
            None => config.attached.filter(|a| a.member != me),
        };
        let seq = replica.end().next();
        let mut primary = Primary {
            epoch,
            start: seq,
            acked: Seq::ZERO,
            completed: Seq::ZERO,
            strict: false,
            acked_before,
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
            marks: Marks::default(),
            distance: Distance::default(),
            places: Places::default(),
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

    pub(super) fn append(
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

    pub(super) fn send(&self, replica: &Replica, to: MemberId, body: Body, fx: &mut Effects) {
        fx.push(Effect::Send(self.message(replica, to, body)));
    }

    pub(super) fn message(&self, replica: &Replica, to: MemberId, body: Body) -> Message {
        let (volume, lineage, from) = (replica.volume, replica.d.lineage, replica.me());
        Message { volume, lineage, from, to, body }
    }

    /// A peer counts under the incarnation that the terms name, once it follows our log.
    pub(super) fn counted(&self, member: MemberId, incarnation: Incarnation) -> Option<&Peer> {
        self.peers.get(&member).filter(|p| p.incarnation == Some(incarnation) || broken(Sabotage::AmnesiacCounts))
    }

    pub(super) fn position(&self, terms: &Terms) -> Seq {
        let witness = broken(Sabotage::WitnessCounted).then(|| self.position_with_a_witness()).flatten();
        let durable = |m: &SyncMember| self.counted(m.member, m.incarnation).map(|p| p.durable);
        let behind = broken(Sabotage::ObserverCounted).then(|| self.position_behind()).flatten();
        if let Some(memory) = self.in_memory().filter(|_| broken(Sabotage::MemoryCounted)) {
            return self.position_with(memory, terms);
        }
        terms.quorum_value(|m| durable(m).max(witness).max(behind)).unwrap_or(Seq::ZERO)
    }

    /// Who works without a copy, and how much of its memory it has sent: for the suite's mistakes only.
    fn in_memory(&self) -> Option<(&Member, Seq)> {
        let here = self.config.attached.filter(|a| self.config.is_diskless(a.member))?;
        Some((self.config.member(here.member)?, self.peers.values().map(|p| p.next.prev()).max()?))
    }

    /// Where a data quorum would stand that has a memory among it: one of those mistakes.
    fn position_with(&self, (here, sent): (&Member, Seq), terms: &Terms) -> Seq {
        let mut terms = terms.clone();
        let (member, site) = (here.id, here.site.clone());
        terms.sync.push(SyncMember { member, incarnation: Incarnation::default(), site });
        let durable = |m: &SyncMember| self.counted(m.member, m.incarnation).map(|p| p.durable);
        terms.quorum_value(|m| if m.member == member { Some(sent) } else { durable(m) }).unwrap_or(Seq::ZERO)
    }

    /// Where a copy would stand that a witness stood in for: the suite's mistake, made nowhere else.
    fn position_with_a_witness(&self) -> Option<Seq> {
        let hears = |m: &Member| self.peers.get(&m.id).is_some_and(|p| p.incarnation.is_some());
        let mut witnesses = self.config.members.iter().filter(|m| m.kind == MemberKind::Witness);
        witnesses.any(hears).then(|| self.local_durable())
    }

    /// Where those stand that follow behind: another of its mistakes.
    fn position_behind(&self) -> Option<Seq> {
        let behind = self.config.members.iter().filter(|m| self.config.follows_behind(m));
        behind.filter_map(|m| self.peers.get(&m.id).filter(|p| p.incarnation.is_some())).map(|p| p.durable).max()
    }

    /// Until when reads may be served: acks younger than the lease form a data quorum under all terms in force.
    pub fn lease_until(&self) -> Option<Tick> {
        let lease_us = self.config.volume.lease_us;
        self.followed_until().map(|since| since.plus(lease_us - lease_us / DRIFT_DIVISOR))
    }

    /// At this time, by our clock, or later, a data quorum under all terms in force still followed this epoch: so until
    /// then no other had begun.
    pub fn followed_until(&self) -> Option<Tick> {
        self.in_force
            .iter()
            .filter(|t| **t == self.config.current || !broken(Sabotage::LeaseByNewTerms))
            .map(|t| t.quorum_value(|m| self.counted(m.member, m.incarnation).and_then(|p| p.echo)))
            .min()
            .flatten()
    }

    /// What may have completed in this epoch, by whichever class.
    pub fn completed(&self) -> Seq {
        self.completed.max(self.acked)
    }

    pub(super) fn reached(&self, now: Tick) -> Reached {
        let lease_valid = self.lease_until().is_some_and(|until| now < until) || broken(Sabotage::LeaseOutlived);
        let completed = match self.class() {
            Durability::Write if broken(Sabotage::MemoryCompletes) => {
                self.in_memory().map_or(self.acked, |(_, sent)| sent.max(self.acked))
            }
            Durability::Write if broken(Sabotage::CompletedByOne) => self.local_durable().max(self.acked),
            Durability::Write => self.acked,
            Durability::Flush if lease_valid => self.local_durable().max(self.acked),
            Durability::Flush => self.acked,
        };
        Reached { acked: self.acked, completed, lease_valid }
    }

    /// By which class requests complete now.
    pub(super) fn class(&self) -> Durability {
        if self.strict { Durability::Write } else { self.config.volume.durability }
    }

    pub(super) fn local_durable(&self) -> Seq {
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
        let ours = position >= self.start || broken(Sabotage::OldEpochsCounted);
        if ours && position > self.acked {
            self.acked = position;
        }
        let acked = self.acked.max(self.acked_before);
        if replica.is_diskless() {
            self.follow_stores(acked, replica, now);
        }
        replica.lead(self.epoch, acked, self.followed_until(), now, fx);
        self.try_open(replica, now, fx);
        if self.opened {
            self.watch_hold(now, fx);
            let reached = self.reached(now);
            self.completed = self.completed.max(reached.completed);
            self.pipeline.advance(reached, fx);
            self.pipeline.bounds = Bounds::within(replica.journal_share, self.class());
            self.start_marks(replica, now, fx);
            self.start_requests(replica, reached, now, fx);
            self.answer_marks(now, fx);
        }
        self.watch_lease(now)
    }

    pub(super) fn start_requests(&mut self, replica: &mut Replica, reached: Reached, now: Tick, fx: &mut Effects) {
        if self.handover.is_some() || !self.device.as_ref().is_some_and(|d| d.open) {
            return;
        }
        while let Some(draft) = self.pipeline.next(reached, fx) {
            self.append_draft(replica, &draft, now);
        }
    }

    pub(super) fn append_draft(&mut self, replica: &mut Replica, draft: &Draft, now: Tick) {
        let range = (draft.offset, draft.length);
        let seq = self.append(replica, draft.kind, range, draft.payload.clone(), draft.origin, now);
        self.pipeline.appended(seq, draft);
    }

    pub(super) fn try_open(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        let begun = (self.acked >= self.start && replica.applied >= self.start) || broken(Sabotage::ServeBeforeStart);
        let alone = now >= self.old_lease_until || broken(Sabotage::OldLeaseIgnored);
        if !self.opened && self.settled && begun && alone {
            self.opened = true;
            let text = format!("epoch {} is ours from seq {} on", self.epoch, self.start);
            fx.push(Effect::Edge { rule: "epoch-open", text });
            for id in self.on_open.drain(..) {
                fx.push(Effect::Answer { id, result: Ok(Answer::Done) });
            }
        }
        let named = self.config.attached;
        if self.opened
            && self.pending.as_ref().is_none_or(|p| p.stage == Stage::Dropping)
            && let Some(device) = self.device.as_mut().filter(|d| !d.open)
            && named.is_some_and(|a| a.session == device.session)
        {
            device.open = true;
            replica.another_session();
            fx.push(Effect::OpenDevice { session: device.session });
            for id in self.on_device.drain(..) {
                fx.push(Effect::Answer { id, result: Ok(Answer::Done) });
            }
        }
    }

    pub(super) fn watch_lease(&mut self, now: Tick) -> Next {
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

    pub fn submit(&mut self, event: Event, now: Tick, fx: &mut Effects) {
        match event {
            Event::Io(request) => self.pipeline.submit(request, self.config.volume.size_bytes, fx),
            Event::ReadDone { id, result } => self.read_done(id, result, now, fx),
            Event::Applied { .. } if broken(Sabotage::OverlayForgotten) => self.pipeline.on_applied(self.acked),
            Event::Applied { seq } => self.pipeline.on_applied(seq),
            _ => {}
        }
    }

    pub(super) fn read_done(&mut self, id: RequestId, result: Result<Bytes, String>, now: Tick, fx: &mut Effects) {
        let reached = self.reached(now);
        self.pipeline.on_read_done(id, result, reached, fx);
    }

    pub fn wakeup(&self, now: Tick) -> Tick {
        let mut at = self.heartbeat_at;
        if !self.opened && self.old_lease_until > now {
            at = at.min(self.old_lease_until);
        }
        at.min(self.marks.deadline().unwrap_or(at))
    }

    /// The epoch is lost: the whole device is gone, every command that waits is told why.
    pub fn fence(&mut self, reason: &str, fx: &mut Effects) {
        if self.device.take().is_some_and(|d| d.open) {
            fx.push(Effect::CloseDevice { reason: reason.to_string() });
        }
        self.pipeline.fence(reason, fx);
        self.fence_marks(reason, fx);
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

    /// Every member of the sync set follows our log, and it is those who were asked for.
    pub fn everyone_counts(&self) -> bool {
        self.config
            .current
            .sync
            .iter()
            .all(|m| self.counted(m.member, m.incarnation).is_some_and(|p| p.feed != Feed::Silent))
            && self.config.current.sync.iter().filter(|m| self.config.stands_in(m.member).is_none()).count()
                >= self.config.asked_for(self.config.volume.mode).count()
    }

    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// The newest value of the register is in effect.
    pub fn is_settled(&self) -> bool {
        self.settled && self.pending.is_none()
    }

    pub fn device_open(&self) -> bool {
        self.device.as_ref().is_some_and(|d| d.open)
    }

    pub fn lease_lost_at(&self) -> Option<Tick> {
        self.lease_lost_at
    }
}
