//! Carrying out what the core wants: journal, wire, device. The store's part is in store.

use bytes::{Bytes, BytesMut};
use farshore_core::api::{Effect, Effects, Event, JournalOp, Outcome, RequestId, Token};
use farshore_core::ids::{Epoch, MemberId, Seq};
use farshore_core::journal::queue::NotTaken;
use farshore_core::message::{Body, Message};
use farshore_core::record::{Kind, Record};

use crate::journal::Asker;
use crate::oracle::Violation;
use crate::schedule::{Happening, Letter};
use crate::world::{VOLUME, World};

/// So many of a thousand messages go through the production codec.
const ENCODED_PER_MILLE: u32 = 30;

/// So many of a thousand syncs are heard of late, by so much at most.
const LATE_PER_MILLE: u32 = 250;
const LATE_US: u64 = 4_000;

fn encode(message: &Message) -> Bytes {
    let mut bytes = BytesMut::new();
    for part in message.encode() {
        bytes.extend_from_slice(&part);
    }
    bytes.freeze()
}

impl World {
    pub fn carry_out(&mut self, id: MemberId, epoch: Epoch, fx: Effects) {
        let mut closed = false;
        for effect in fx {
            let Some(life) = self.life(id) else { return };
            if let Some(node) = self.nodes.get_mut(&id)
                && let Some(left) = node.dies_after.as_mut()
            {
                if *left == 0 {
                    self.fault("crash-between-effects", || format!("{id}"));
                    self.crash(id, false);
                    return;
                }
                *left -= 1;
            }
            closed |= matches!(effect, Effect::CloseDevice { .. });
            self.effect(id, life, epoch, effect);
        }
        if closed && let Some(life) = self.life(id) {
            let verdict = self.oracle.all_completed(id, life);
            self.check(verdict);
        }
    }

    fn effect(&mut self, id: MemberId, life: u32, epoch: Epoch, effect: Effect) {
        match effect {
            Effect::Journal { token, ops } => self.journal(id, life, token, ops),
            Effect::Send(message) | Effect::CatchUp(message) => self.send(id, message),
            Effect::ReadLog { to, from, max_bytes } => {
                let delay = self.disk_delay(id, self.knobs.read_us);
                let max = self.knobs.read_records;
                let Some(node) = self.nodes.get_mut(&id) else { return };
                let (floor, records) = node.disk.journal.read(VOLUME, from, max_bytes, max);
                let event = Box::new(Event::LogRead { to, from, floor, records });
                self.after(delay, Happening::Feed { node: id, life, event });
            }
            Effect::Apply { upto } => {
                let delay = self.disk_delay(id, self.knobs.apply_us);
                self.after(delay, Happening::Applied { node: id, life, upto });
            }
            Effect::AskWaiting => {
                let from = self.nodes.get(&id).and_then(|n| n.disk.journal.queue.first_waiting(VOLUME));
                self.after(0, Happening::Feed { node: id, life, event: Box::new(Event::Waiting { from }) });
            }
            Effect::Trim { checkpoint } => {
                let keep = Seq(checkpoint.0.saturating_sub(self.knobs.journal_keep));
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.disk.journal.mark(VOLUME, checkpoint, keep);
                }
                self.start_write(id, life);
            }
            Effect::Read { id: request, offset, length, hits } => {
                self.start_read(id, life, request, offset, length, hits)
            }
            Effect::Complete { id: request, outcome } => self.complete(request, outcome, epoch),
            Effect::OpenDevice { session } => {
                self.say(|| format!("{id}: device open for {session}"));
                self.opens_in_its_lineage(id);
                let lineage = self.nodes.get(&id).map_or(0, |n| n.lineage.uuid);
                let verdict = self.oracle.sessions.opened(id, session, lineage);
                self.check(verdict);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.device = Some(session);
                    node.last_session = Some(session);
                }
                for _ in 0..self.knobs.clients {
                    let delay = self.dice.range(0, self.knobs.think_us);
                    self.after(delay, Happening::Client { node: id, life, session });
                }
            }
            Effect::CloseDevice { reason } => {
                self.say(|| format!("{id}: device closed: {reason}"));
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.device = None;
                }
            }
            Effect::Answer { id: command, result } => {
                self.say(|| format!("{id}: answer to command {}: {result:?}", command.0));
                let name = result.as_ref().map_or_else(|r| r.rule, |_| "ok");
                *self.tally.refusals.entry(name).or_default() += 1;
                self.oracle.sessions.answered(command.0, result.is_ok());
                self.snapshot_answered(id, command.0, result.as_ref().ok().copied());
                if let Some(asked) = self.commands.get(&command.0).filter(|_| result.is_ok()) {
                    *self.tally.done.entry(asked).or_default() += 1;
                }
                if self.answers.insert(command.0, result.map_err(|r| r.rule)).is_some() {
                    let text = format!("command {} answered twice", command.0);
                    self.check(Err(Violation { checker: "once", text }));
                }
            }
            Effect::Ship { to, base, lineage, history } => self.ship((id, life), to, base, (lineage, history)),
            Effect::InstallImage { seq } => {
                let delay = self.disk_delay(id, self.knobs.apply_us);
                self.after(delay, Happening::Installed { node: id, life, seq });
            }
            Effect::Edge { rule, text } => {
                self.say(|| format!("{id}: [{rule}] {text}"));
                *self.tally.edges.entry(rule).or_default() += 1;
                if rule == "fallback" {
                    self.was_patient(id);
                }
                if self.heeds_the_core && (rule == "diverged-below-acked" || rule == "promote-diverged") {
                    self.check(Err(Violation { checker: "order", text: format!("{id}: {rule}: {text}") }));
                }
            }
            Effect::Resized { .. } | Effect::Configured(_) | Effect::DropImage => {}
        }
    }

    pub fn disk_delay(&mut self, id: MemberId, most_us: u64) -> u64 {
        let slowness = self.nodes.get(&id).map_or(1, |n| n.slowness);
        (10 + self.dice.range(0, most_us)) * slowness
    }

    // ---- the journal ----

    fn journal(&mut self, id: MemberId, life: u32, token: Token, ops: Vec<JournalOp>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let state =
            ops.iter().rev().find_map(|op| if let JournalOp::Meta(blob) = op { Some(blob.clone()) } else { None });
        let (oracle, zeroes) = (&mut self.oracle, &mut node.disk.zeroes);
        let mut verdict = Ok(());
        let watch = |record: &Record, hash| {
            if verdict.is_ok() {
                verdict = oracle.journalled(id, record, hash);
            }
            if matches!(record.kind, Kind::Discard | Kind::WriteZeroes) {
                zeroes.insert(record.seq, record.origin.tag);
            }
        };
        let cut = |op: &JournalOp| if let JournalOp::Truncate { after } = op { Some(*after) } else { None };
        let cut = ops.iter().filter_map(cut).min();
        node.disk.journal.append_watched(VOLUME, ops, Asker::Core(token), watch);
        self.check(verdict);
        if let Some(after) = cut {
            self.lets_go(id, after, true);
        }
        if let Some(blob) = state {
            self.looks_at_lineage(id, blob);
        }
        self.start_write(id, life);
    }

    /// The journal's thread: goes on if it can.
    pub fn start_write(&mut self, id: MemberId, life: u32) {
        let delay = self.disk_delay(id, self.knobs.sync_us);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.disk.journal.begin() {
            self.after(delay, Happening::Synced { node: id, life });
        }
        self.tell_refused(id, life);
    }

    fn tell_refused(&mut self, id: MemberId, life: u32) {
        let refused = self.nodes.get_mut(&id).map(|n| n.disk.journal.refused()).unwrap_or_default();
        for (asker, why) in refused {
            let Asker::Core(token) = asker else { continue };
            let event = match why {
                // A record that was truncated while it waited for space is as good as never asked for.
                NotTaken::Superseded { .. } => Event::JournalDone { token },
                other => {
                    let text = format!("{id}: the journal does not take what the core appends: {other:?}");
                    self.check(Err(Violation { checker: "journal", text }));
                    return;
                }
            };
            self.tell_in_order(id, life, 0, event);
        }
    }

    /// What the journal says takes a while to be heard, and is heard in its order.
    fn tell_in_order(&mut self, id: MemberId, life: u32, delay_us: u64, event: Event) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.told_at = node.told_at.max(self.now + delay_us);
        let delay = node.told_at - self.now;
        self.after(delay, Happening::Feed { node: id, life, event: Box::new(event) });
    }

    /// A write's sync has returned: with success, or not.
    pub fn synced(&mut self, id: MemberId, life: u32) {
        if self.life(id) != Some(life) {
            return;
        }
        let Some(node) = self.nodes.get_mut(&id) else { return };
        match &mut node.dies_at_sync {
            Some((0, before)) => {
                if !*before {
                    node.disk.journal.landed();
                }
                self.fault("crash-at-sync", || format!("{id}"));
                return self.crash(id, false);
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        if std::mem::take(&mut node.fails_sync) {
            return self.journal_fails(id);
        }
        let landed = node.disk.journal.landed();
        let delay = if self.side.chance(LATE_PER_MILLE) { self.side.skewed(1, LATE_US) } else { 0 };
        for asker in landed {
            match asker {
                Asker::Core(token) => self.tell_in_order(id, life, delay, Event::JournalDone { token }),
                Asker::Neighbour(seq) => self.neighbour_is_durable(id, seq),
            }
        }
        self.start_write(id, life);
    }

    // ---- the wire ----

    pub fn send(&mut self, id: MemberId, message: Message) {
        self.tally.messages += 1;
        let verdict = self.oracle.words.said(&message);
        self.check(verdict);
        self.speaks_in_its_lineage(id, &message);
        self.made_in_memory(id, &message);
        match &message.body {
            Body::PutConfig { .. } => self.register_written_at = self.now,
            Body::Release { .. } => self.oracle.sessions.released(id),
            _ => {}
        }
        let to = message.to;
        let encoded = self.dice.chance(ENCODED_PER_MILLE);
        let letter = if encoded { Letter::Encoded(encode(&message)) } else { Letter::Said(Box::new(message)) };
        let mut delays = self.network.delays(id, to, &mut self.dice);
        let last = delays.pop();
        for delay in delays {
            self.after(delay, Happening::Deliver { to, letter: letter.clone() });
        }
        if let Some(delay) = last {
            self.after(delay, Happening::Deliver { to, letter });
        }
    }

    /// What a node without a copy makes reaches a journal only with others.
    fn made_in_memory(&mut self, id: MemberId, message: &Message) {
        let Body::Append { epoch, records, .. } = &message.body else { return };
        let Some(node) = self.nodes.get_mut(&id).filter(|n| n.is_diskless()) else { return };
        for record in records.iter().filter(|r| r.epoch == *epoch) {
            if matches!(record.kind, Kind::Discard | Kind::WriteZeroes) {
                node.disk.zeroes.insert(record.seq, record.origin.tag);
            }
        }
        let records = records.iter().filter(|r| r.epoch == *epoch);
        let verdict = records.map(|r| self.oracle.journalled(id, r, r.hash())).find(Result::is_err).unwrap_or(Ok(()));
        self.check(verdict);
    }

    pub fn complete(&mut self, request: RequestId, outcome: Outcome, epoch: Epoch) {
        let seen = match outcome {
            Outcome::Done => Some(Vec::new()),
            Outcome::Data(data) => Some(data.chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("8"))).collect()),
            Outcome::Fault(_) => None,
        };
        let verdict = self.oracle.completed(request.0, seen, epoch, self.now);
        self.check(verdict);
        self.count_copies(request.0);
        self.oracle.note_service(request.0);
    }
}
