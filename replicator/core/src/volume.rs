//! One volume on one node: routes events to the accepting side and to whatever role the node plays.
//!
//! ```text
//!              command / restart            won
//!  Follower ─────────────────────► Candidate ───► Primary
//!     ▲               lost │                         │ fenced or released
//!     └────────────────────┴─────────────────────────┘
//! ```
//! Messages to ourselves never leave: they are fed back in before `handle` returns.

use std::collections::BTreeMap;

use crate::api::{
    Answer, Change, Command, CommandId, Effect, Effects, Event, IoFault, Outcome, Promotion, ReadFrom, Refusal,
};
use crate::candidate::{Candidate, Verdict};
use crate::contact::Word;
use crate::force::{Force, Step};
use crate::ids::{Epoch, MemberId, Seq, SessionId, Tick, VolumeId};
use crate::limits::APPEND_BYTES_MAX;
use crate::message::{Body, Message};
use crate::primary::{Next, Primary};
use crate::register::Configuration;
use crate::replica::{Recovered, Replica};
use crate::sabotage::{Sabotage, asserts_off, broken};

/// Why a role ended that was given up on purpose.
pub(crate) const RELEASED: &str = "released";

pub(crate) enum Role {
    Follower,
    Candidate(Box<Candidate>),
    Primary(Box<Primary>),
    /// Writing a new lineage.
    Force(Box<Force>),
}

pub struct Volume {
    pub(crate) replica: Replica,
    pub(crate) role: Role,
    /// Why the last role ended, for status.
    pub(crate) last_end: Option<String>,
    /// To whom this node ships for a holder without a copy: in which epoch, and whose.
    ships: BTreeMap<MemberId, (Epoch, MemberId)>,
}

impl Volume {
    /// Comes back from what is on disk, as a follower that owes a full lease.
    pub fn recover(volume: VolumeId, recovered: Recovered, now: Tick, fx: &mut Effects) -> Volume {
        let replica = Replica::recover(volume, recovered, now, fx);
        Volume { replica, role: Role::Follower, last_end: None, ships: BTreeMap::new() }
    }

    pub fn id(&self) -> VolumeId {
        self.replica.volume
    }

    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    pub fn primary(&self) -> Option<&Primary> {
        match &self.role {
            Role::Primary(primary) => Some(primary),
            _ => None,
        }
    }

    /// The newest configuration that this node has heard of, whether or not it has stored it.
    pub fn newest_config(&self) -> &Configuration {
        match &self.role {
            Role::Primary(primary) => primary.config(),
            Role::Candidate(candidate) => candidate.newest(&self.replica),
            Role::Follower | Role::Force(_) => &self.replica.d.config,
        }
    }

    /// The epoch that this node holds or tries to win.
    pub fn role_epoch(&self) -> Epoch {
        match &self.role {
            Role::Follower | Role::Force(_) => Epoch::ZERO,
            Role::Candidate(c) => c.epoch(),
            Role::Primary(p) => p.epoch,
        }
    }

    /// Until when this node may serve reads as primary.
    pub fn lease_until(&self) -> Option<Tick> {
        self.primary().and_then(Primary::lease_until)
    }

    /// Whose store [`Effect::Read`] is answered from, where this node has none.
    pub fn read_from(&self, now: Tick) -> Option<ReadFrom> {
        self.primary().filter(|_| self.replica.is_diskless()).map(|p| p.read_from(&self.replica, now))
    }

    pub fn handle(&mut self, now: Tick, event: Event, fx: &mut Effects) {
        let begin = fx.len();
        self.step(now, event, fx);
        self.settle(now, begin, fx);
    }

    /// To be called when no more events wait: hands the journal and the peers what was collected.
    pub fn flush(&mut self, now: Tick, fx: &mut Effects) {
        loop {
            let begin = fx.len();
            if let Role::Primary(primary) = &mut self.role {
                let next = primary.flush(&mut self.replica, now, fx);
                self.follow_up(next, fx);
            }
            self.replica.flush(now, fx);
            self.settle(now, begin, fx);
            if !self.replica.has_batch() {
                return;
            }
        }
    }

    /// When the core wants to see [`Event::Timer`] next, if nothing else happens.
    pub fn wakeup(&self, now: Tick) -> Option<Tick> {
        match &self.role {
            Role::Follower => None,
            Role::Force(f) => Some(f.wakeup()),
            Role::Candidate(c) => Some(c.wakeup()),
            Role::Primary(p) => Some(p.wakeup(now)),
        }
    }

    /// Feeds messages to ourselves back in, then lets the role look at where things stand.
    fn settle(&mut self, now: Tick, begin: usize, fx: &mut Effects) {
        loop {
            let me = self.replica.me();
            let own = fx[begin..].iter().position(|e| matches!(e, Effect::Send(m) if m.to == me));
            match own {
                Some(at) => {
                    if let Effect::Send(message) = fx.remove(begin + at) {
                        self.on_message(now, message, fx);
                    }
                }
                None => {
                    let len = fx.len();
                    self.look(now, fx);
                    if !fx[len..].iter().any(|e| matches!(e, Effect::Send(m) if m.to == me)) {
                        break;
                    }
                }
            }
        }
        self.check_invariants();
    }

    fn look(&mut self, now: Tick, fx: &mut Effects) {
        let promised = self.replica.d.promised;
        let failed = self.replica.failed.clone();
        match &mut self.role {
            Role::Follower => {}
            Role::Force(_) => {
                if let Some(reason) = failed {
                    let refusal = Refusal::new("journal-poisoned", reason, "replace the disk, then restart the daemon");
                    self.force_step(Step::Failed(refusal), now, fx);
                }
            }
            Role::Candidate(candidate) => {
                if let Some(reason) = failed {
                    let refusal = Refusal::new("journal-poisoned", reason, "replace the disk, then restart the daemon");
                    self.lose(refusal, fx);
                } else if let Some(refusal) = candidate.refuse_superseded(&self.replica) {
                    self.lose(refusal, fx);
                } else if candidate.epoch() > Epoch::ZERO && promised > candidate.epoch() {
                    let verdict = candidate.on_reject(promised);
                    self.judge(verdict, now, fx);
                }
            }
            Role::Primary(primary) => {
                let next = if let Some(reason) = failed {
                    Next::Fenced(format!("the journal failed: {reason}"))
                } else if let Some(lineage) = self.replica.d.superseded {
                    Next::Fenced(format!("the volume goes on as lineage {lineage}, by force"))
                } else if promised > primary.epoch {
                    Next::Fenced(format!("epoch {promised} was promised to another"))
                } else {
                    primary.progress(&mut self.replica, now, fx)
                };
                self.follow_up(next, fx);
            }
        }
    }

    fn follow_up(&mut self, next: Next, fx: &mut Effects) {
        let reason = match next {
            Next::Stay => return,
            Next::Fenced(reason) => {
                fx.push(Effect::Edge { rule: "primary-fenced", text: reason.clone() });
                reason
            }
            Next::Released => RELEASED.to_string(),
        };
        if let Role::Primary(primary) = &mut self.role {
            primary.fence(&reason, fx);
        }
        self.last_end = Some(reason);
        self.role = Role::Follower;
        self.replica.forget_log();
    }

    fn judge(&mut self, verdict: Verdict, now: Tick, fx: &mut Effects) {
        match verdict {
            Verdict::Waiting => {}
            Verdict::Lost(refusal) => self.lose(refusal, fx),
            Verdict::Won(won) => {
                let Role::Candidate(candidate) = &mut self.role else { return };
                let text = format!("epoch {} won", won.epoch);
                fx.push(Effect::Edge { rule: "epoch-won", text });
                let (attach, command) = (candidate.attach, candidate.command);
                let primary = Primary::start(*won, attach, command, &mut self.replica, now, fx);
                self.role = Role::Primary(Box::new(primary));
            }
        }
    }

    fn lose(&mut self, refusal: Refusal, fx: &mut Effects) {
        if let Role::Candidate(candidate) = &self.role {
            fx.push(Effect::Edge { rule: refusal.rule, text: refusal.text.clone() });
            self.last_end = Some(refusal.to_string());
            if let Some(id) = candidate.command {
                fx.push(Effect::Answer { id, result: Err(refusal) });
            }
            self.role = Role::Follower;
            self.replica.forget_log();
        }
    }

    fn step(&mut self, now: Tick, event: Event, fx: &mut Effects) {
        match event {
            Event::Message(message) => self.on_message(now, message, fx),
            Event::Link { member, up } => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.on_link(member, up, &self.replica, now, fx);
                }
            }
            Event::JournalDone { token } => self.replica.on_journal_done(token, now, fx),
            Event::JournalFailed { reason } => self.replica.on_journal_failed(reason, fx),
            Event::LogRead { to, from, floor, records } => {
                self.replica.floor = floor.max(self.replica.floor);
                if to == self.replica.me() {
                    records.iter().take(1).for_each(|r| self.replica.on_own_record(r));
                    if let Role::Candidate(candidate) = &mut self.role {
                        let verdict = candidate.on_own_record(&mut self.replica, now, fx);
                        self.judge(verdict, now, fx);
                    }
                    return;
                }
                if let Role::Primary(primary) = &mut self.role {
                    primary.on_log_read(to, (from, floor), records, &self.replica, now, fx);
                } else {
                    let epoch = self.replica.d.promised;
                    self.send(to, Body::Fetched { epoch, from, floor, records }, fx);
                }
            }
            Event::Applied { seq } => {
                self.replica.on_applied(seq, fx);
                if let Role::Primary(primary) = &mut self.role {
                    primary.submit(Event::Applied { seq }, now, fx);
                }
            }
            Event::Checkpointed { base } => self.replica.on_checkpointed(base),
            // A candidate or holder stands by the log that it promised with.
            Event::Staged { lineage, base, history } if matches!(self.role, Role::Follower) => {
                self.replica.on_staged(lineage, base, history, fx);
            }
            Event::Staged { .. } => fx.push(Effect::DropImage),
            Event::ImageVisible => self.replica.on_image_visible(fx),
            Event::ImageLost => self.replica.on_image_lost(fx),
            Event::Waiting { from: Some(from) } => self.replica.on_waiting(from, fx),
            Event::Waiting { from: None } => {}
            Event::JournalShare { bytes } => self.replica.journal_share = bytes,
            Event::Shipped { to } => {
                if let Some((epoch, holder)) = self.ships.remove(&to) {
                    self.send(holder, Body::Shipped { epoch, member: to }, fx);
                }
                if let Role::Primary(primary) = &mut self.role {
                    primary.on_shipped(self.replica.me(), to, &self.replica, fx);
                }
            }
            Event::Io(request) => match &mut self.role {
                Role::Primary(primary) if primary.device_open() => primary.submit(Event::Io(request), now, fx),
                _ => {
                    let reason = self.last_end.clone().unwrap_or_else(|| "not attached here".to_string());
                    let outcome = Outcome::Fault(IoFault::Fenced(reason));
                    fx.push(Effect::Complete { id: request.id, outcome });
                }
            },
            Event::ReadDone { id, result } => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.submit(Event::ReadDone { id, result }, now, fx);
                }
            }
            Event::Command { id, command } => self.on_command(now, id, command, fx),
            Event::Timer => match &mut self.role {
                Role::Follower => {}
                Role::Force(force) => {
                    let step = force.on_timer(&self.replica, now, fx);
                    self.force_step(step, now, fx);
                }
                Role::Candidate(candidate) => {
                    let verdict = candidate.on_timer(&mut self.replica, now, fx);
                    self.judge(verdict, now, fx);
                }
                Role::Primary(primary) => primary.on_timer(&mut self.replica, now, fx),
            },
        }
    }

    /// What this node held or tried to win was of the lineage that it has just left.
    fn leave_role(&mut self, now: Tick, fx: &mut Effects) {
        let reason = format!("the volume goes on as lineage {}, by force", self.replica.d.lineage);
        let refusal = || Refusal::new("force-overtaken", reason.clone(), "see `farshore status`");
        match &self.role {
            Role::Follower => {}
            Role::Primary(_) => self.follow_up(Next::Fenced(reason), fx),
            Role::Candidate(_) => self.lose(refusal(), fx),
            Role::Force(_) => self.force_step(Step::Failed(refusal()), now, fx),
        }
    }

    fn send(&self, to: MemberId, body: Body, fx: &mut Effects) {
        let (volume, lineage, from) = (self.replica.volume, self.replica.d.lineage, self.replica.me());
        fx.push(Effect::Send(Message { volume, lineage, from, to, body }));
    }

    fn on_message(&mut self, now: Tick, message: Message, fx: &mut Effects) {
        // Nothing is promised, acknowledged, counted or truncated across lineages.
        let ours = self.replica.d.lineage;
        if message.volume != self.replica.volume || message.to != self.replica.me() {
            return;
        }
        let from = message.from;
        if let Body::Fork { lineage, epoch, config, log } = message.body {
            // Written in the lineage that it ends; a repeated one finds us in the new one already.
            if message.lineage == ours || lineage == ours {
                self.replica.on_fork(lineage, epoch, *config, log, from, fx);
            }
            if self.replica.d.lineage != ours {
                self.leave_role(now, fx);
            }
            return;
        }
        if message.lineage != ours && !broken(Sabotage::LineageNotCompared) {
            if message.lineage.generation > ours.generation {
                self.replica.on_higher_lineage(message.lineage, fx);
            } else if message.lineage.generation == ours.generation {
                self.replica.on_rival_lineage(message.lineage, fx);
            }
            return;
        }
        if let Some(newer) = self.replica.d.superseded
            && !matches!(message.body, Body::Probe { .. } | Body::Answer { .. } | Body::ForkOk)
            && !broken(Sabotage::FencedStillSpeaks)
        {
            // What is still said in the lineage that was left has not heard of the newer one. Only a force may go on here.
            self.replica.tell_of(newer, from, fx);
            return;
        }
        let held = self.role_epoch();
        match message.body {
            Body::Probe { nonce } => self.replica.on_probe(nonce, from, now, fx),
            Body::Prepare { epoch } => self.replica.on_prepare(epoch, from, fx),
            Body::PutConfig { epoch, config } => self.replica.on_put_config(epoch, *config, from, now, fx),
            Body::Elect { epoch, history, end } => self.replica.on_elect(epoch, (&history, end), from, now, fx),
            Body::Append { epoch, acked, end, sent, records } => {
                self.replica.on_append(Word { epoch, acked, end, sent }, records, from, now, fx);
            }
            Body::Release { epoch } => self.replica.on_release(epoch, now),
            Body::Fetch { epoch, from: seq, max_bytes } => {
                let reads = !self.replica.is_diskless() && self.replica.failed.is_none();
                if epoch == self.replica.d.promised && reads {
                    let max_bytes = (max_bytes as usize).min(APPEND_BYTES_MAX);
                    fx.push(Effect::ReadLog { to: from, from: seq, max_bytes });
                }
            }
            Body::Ship { epoch, member, base } => self.ship_for(from, epoch, member, base, fx),
            Body::Shipped { epoch, member } if epoch == held => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.on_shipped(from, member, &self.replica, fx);
                }
            }
            Body::Shipped { .. } | Body::Fork { .. } => {}
            Body::ForkOk => {
                if let Role::Force(force) = &mut self.role {
                    let step = force.on_fork_ok(from, &self.replica, fx);
                    self.force_step(step, now, fx);
                }
            }
            Body::Answer { nonce, report } => {
                if let Role::Force(force) = &mut self.role {
                    let step = force.on_answer(from, nonce, *report, &mut self.replica, now, fx);
                    self.force_step(step, now, fx);
                } else if let Role::Candidate(candidate) = &mut self.role {
                    let verdict = candidate.on_answer(from, nonce, *report, &self.replica, now, fx);
                    self.judge(verdict, now, fx);
                }
            }
            Body::Promise { epoch, report } => {
                if let Role::Candidate(candidate) = &mut self.role {
                    let verdict = candidate.on_promise(from, epoch, *report, &mut self.replica, now, fx);
                    self.judge(verdict, now, fx);
                }
            }
            Body::Fetched { epoch, from: seq, floor, records } => match &mut self.role {
                Role::Candidate(candidate) => {
                    let verdict = candidate.on_fetched(from, epoch, (floor, records), &mut self.replica, now, fx);
                    self.judge(verdict, now, fx);
                }
                Role::Primary(primary) if epoch == held => {
                    primary.on_fetched(from, (seq, floor), records, &self.replica, now, fx);
                }
                _ => {}
            },
            Body::Reject { asked, promised } if asked == held => match &mut self.role {
                Role::Follower | Role::Force(_) => {}
                Role::Candidate(candidate) => {
                    let verdict = candidate.on_reject(promised);
                    self.judge(verdict, now, fx);
                }
                Role::Primary(_) => {
                    let text = format!("{from} has promised epoch {promised}, above ours");
                    self.follow_up(Next::Fenced(text), fx);
                }
            },
            Body::Reject { .. } => {}
            Body::ConfigOk { epoch, incarnation, version } if epoch == held => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.on_config_ok(from, incarnation, version);
                }
            }
            Body::ElectOk { epoch, incarnation, durable, applied } if epoch == held => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.on_elect_ok(from, incarnation, (durable, applied), (self.replica.end(), now), fx);
                }
            }
            Body::Ack { epoch, incarnation, appended, durable, applied, echo } if epoch == held => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.measure(from, durable, echo, &self.replica, now);
                    primary.on_ack(
                        from,
                        incarnation,
                        (appended, durable, applied),
                        echo,
                        (self.replica.end(), now),
                        fx,
                    );
                }
            }
            Body::NeedElect { epoch } => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.on_need_elect(from, epoch, &self.replica, fx);
                }
            }
            // Answers to an epoch that we do not hold any more.
            Body::ConfigOk { .. } | Body::ElectOk { .. } | Body::Ack { .. } => {}
        }
    }

    /// The holder of the epoch that we follow has no copy to ship from. Asked again while that goes on, it is not begun anew.
    fn ship_for(&mut self, holder: MemberId, epoch: Epoch, to: MemberId, base: Seq, fx: &mut Effects) {
        let replica = &self.replica;
        let follows = replica.leader() == Some((epoch, holder)) && epoch == replica.d.promised;
        if !follows || !replica.whole() || replica.failed.is_some() || replica.applied <= base {
            return;
        }
        if self.ships.insert(to, (epoch, holder)).is_none() {
            let (lineage, history) = (replica.d.lineage, replica.history().clone());
            fx.push(Effect::Ship { to, base, lineage, history });
        }
    }

    fn on_command(&mut self, now: Tick, id: CommandId, command: Command, fx: &mut Effects) {
        if let Some(reason) = &self.replica.failed {
            let refusal = Refusal::new("journal-poisoned", reason.clone(), "replace the disk, then restart the daemon");
            fx.push(Effect::Answer { id, result: Err(refusal) });
            return;
        }
        match (&mut self.role, command) {
            (Role::Candidate(_) | Role::Force(_), _) => {
                let refusal =
                    Refusal::new("promote-running", "a promotion is running on this node", "wait for its end");
                fx.push(Effect::Answer { id, result: Err(refusal) });
            }
            (Role::Primary(primary), Command::Promote { why: Promotion::Published { session }, .. }) => {
                primary.attach_published(id, session, &mut self.replica, now, fx);
            }
            (Role::Primary(primary), Command::Promote { .. }) => primary.await_open(id, fx),
            (Role::Primary(primary), Command::Attach { session, .. }) => {
                primary.attach(id, session, &mut self.replica, now, fx);
            }
            (Role::Primary(primary), Command::Detach { session }) => {
                primary.detach(id, session, &mut self.replica, now, fx);
            }
            (Role::Primary(primary), Command::Demote) => primary.hand_over(id, None, now, fx),
            (Role::Primary(primary), Command::Handover { to }) => primary.hand_over(id, Some(to), now, fx),
            (Role::Primary(primary), Command::Change(change)) => {
                if matches!(&change, Change::Remove { member } if *member == self.replica.me()) {
                    let refusal = Refusal::new(
                        "member-primary",
                        "this node holds the epoch",
                        "switch over to another site first",
                    );
                    fx.push(Effect::Answer { id, result: Err(refusal) });
                } else {
                    primary.change(id, &change, &mut self.replica, now, fx);
                }
            }
            (Role::Primary(primary), Command::Mark { mark, under }) => primary.mark(id, mark, under, fx),
            (Role::Primary(primary), Command::Hold) => primary.hold(id, now, fx),
            (Role::Primary(primary), Command::Release { hold }) => {
                primary.release(id, hold, &mut self.replica, now, fx);
            }
            (Role::Follower, Command::Promote { writer, why }) => {
                let attach = match why {
                    Promotion::Restart { session } | Promotion::Published { session } => Some(session),
                    Promotion::Verb | Promotion::Takeover | Promotion::Fence { .. } => None,
                };
                self.run_for(Some(id), why, attach, writer, now, fx);
            }
            (Role::Follower, Command::Attach { writer, session }) => {
                self.run_for(Some(id), Promotion::Verb, Some(session), writer, now, fx);
            }
            (Role::Primary(_), Command::Force { .. }) => {
                let refusal = Refusal::new(
                    "force-primary",
                    "this node holds the epoch; nothing needs to be forced",
                    "see `farshore status` for what the volume waits for",
                );
                fx.push(Effect::Answer { id, result: Err(refusal) });
            }
            (Role::Follower, Command::Force { writer, uuid, members }) => {
                match Force::start(id, (writer, uuid), members, &self.replica, now, fx) {
                    Ok(force) => self.role = Role::Force(Box::new(force)),
                    Err(refusal) => fx.push(Effect::Answer { id, result: Err(refusal) }),
                }
            }
            // Nothing is held here: there is nothing to give up.
            (Role::Follower, Command::Detach { .. } | Command::Demote) => {
                fx.push(Effect::Answer { id, result: Ok(Answer::Done) });
            }
            (
                Role::Follower,
                Command::Handover { .. }
                | Command::Change(_)
                | Command::Mark { .. }
                | Command::Hold
                | Command::Release { .. },
            ) => {
                let refusal =
                    Refusal::new("not-primary", "this node does not hold the epoch", "ask the primary's node");
                fx.push(Effect::Answer { id, result: Err(refusal) });
            }
        }
    }

    fn force_step(&mut self, step: Step, now: Tick, fx: &mut Effects) {
        let Role::Force(force) = &self.role else { return };
        let (id, writer) = (force.command, force.writer);
        match step {
            Step::Waiting => {}
            Step::Failed(refusal) => {
                fx.push(Effect::Edge { rule: refusal.rule, text: refusal.text.clone() });
                fx.push(Effect::Answer { id, result: Err(refusal) });
                self.role = Role::Follower;
            }
            // The fork's own epoch has no holder; the promotion's writer id is another, as fresh as the first.
            Step::Forked => self.run_for(Some(id), Promotion::Takeover, None, !writer, now, fx),
        }
    }

    fn run_for(
        &mut self,
        id: Option<CommandId>,
        why: Promotion,
        attach: Option<SessionId>,
        writer: u128,
        now: Tick,
        fx: &mut Effects,
    ) {
        let candidate = Candidate::start(id, why, attach, writer, &self.replica, now, fx);
        self.role = Role::Candidate(Box::new(candidate));
    }

    fn check_invariants(&self) {
        if asserts_off() {
            return;
        }
        let r = &self.replica;
        assert!(r.applied <= r.acked || r.applied <= r.d.base.seq, "I12: applied {} > acked {}", r.applied, r.acked);
        if let Role::Primary(primary) = &self.role {
            assert!(primary.acked <= r.end(), "acked {} beyond our own log {}", primary.acked, r.end());
        }
    }
}
