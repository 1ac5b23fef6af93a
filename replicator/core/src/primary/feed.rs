//! Speaking to the members: heartbeats, records as they are appended, and from the journal to those behind.

use super::{Next, Primary};
use crate::api::{Effect, Effects, Refusal};
use crate::ids::{Epoch, Incarnation, MemberId, Seq, Tick};
use crate::limits::{
    APPEND_BYTES_MAX, CATCH_UP_APPEND_BYTES_MAX, CATCH_UP_INFLIGHT_BYTES_MAX, CATCH_UP_LAG_BYTES, HEARTBEAT_US,
    PEER_INFLIGHT_BYTES_MAX,
};
use crate::message::{Body, MESSAGE_RECORDS_MAX};
use crate::peers::{Feed, Peer};
use crate::record::Record;
use crate::register::{ConfigVersion, MemberKind};
use crate::replica::Replica;
use crate::sabotage::{Sabotage, broken};

impl Primary {
    pub(super) fn elect(&self, replica: &Replica, to: MemberId, fx: &mut Effects) {
        let body = Body::Elect { epoch: self.epoch, history: replica.history().clone(), end: replica.end() };
        self.send(replica, to, body, fx);
    }

    /// Speaks to every member: asks the silent, repeats what was not stored, renews leases.
    pub(super) fn heartbeat(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        self.ask_again(replica, now, fx);
        self.heartbeat_at = now.plus(HEARTBEAT_US.min(self.config.volume.lease_us / 4));
        let members: Vec<MemberId> = self.config.members.iter().map(|m| m.id).collect();
        self.peers.retain(|id, _| members.contains(id));
        for id in members {
            let version = self.config.version;
            let peer = self.peers.entry(id).or_insert_with(|| Peer::silent(now));
            let (silent, behind) = (peer.feed == Feed::Silent, peer.config_ok < version);
            peer.resend_if_stalled(now);
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

    pub(super) fn put_config(&self, replica: &Replica, to: MemberId, fx: &mut Effects) {
        let body = Body::PutConfig { epoch: self.epoch, config: Box::new(self.config.clone()) };
        self.send(replica, to, body, fx);
    }

    pub(super) fn append_to(&self, replica: &Replica, to: MemberId, records: Vec<Record>, now: Tick, fx: &mut Effects) {
        let body = self.append_of(replica, records, now);
        self.send(replica, to, body, fx);
    }

    fn append_of(&self, replica: &Replica, records: Vec<Record>, now: Tick) -> Body {
        let acked = self.acked.max(self.acked_before);
        Body::Append { epoch: self.epoch, acked, end: replica.end(), sent: now, records }
    }

    /// Payload bytes of what is acked that whoever ends at `seq` lacks; `None`: more than we remember.
    pub(super) fn lacks_bytes(&self, seq: Seq, replica: &Replica) -> Option<u64> {
        replica.tail().bytes_between(seq, self.acked)
    }

    /// Nobody waits for a member that ends there: what it lacks was acknowledged without it.
    fn is_far_behind(&self, seq: Seq, replica: &Replica) -> bool {
        self.lacks_bytes(seq, replica).is_none_or(|bytes| bytes > CATCH_UP_LAG_BYTES)
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

    /// A member's log is a prefix of ours. Whoever claims more is broken or lies, and is not counted at all.
    fn believes(&mut self, from: MemberId, (appended, durable): (Seq, Seq), end: Seq, fx: &mut Effects) -> bool {
        let sound = durable <= appended && appended <= end;
        if let Some(peer) = self.peers.get_mut(&from).filter(|_| !sound)
            && !std::mem::replace(&mut peer.disbelieved, true)
        {
            let text = format!("{from} says that it has records up to {appended}, {durable} durable; there are {end}");
            fx.push(Effect::Edge { rule: "ack-impossible", text });
        }
        sound
    }

    pub fn on_elect_ok(
        &mut self,
        from: MemberId,
        incarnation: Incarnation,
        (durable, applied): (Seq, Seq),
        (end, now): (Seq, Tick),
        fx: &mut Effects,
    ) {
        if !self.believes(from, (durable, durable), end, fx) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.elected(incarnation, durable, applied, now);
            if peer.feed == Feed::Live {
                self.rest(from, now);
            }
        }
    }

    pub fn on_ack(
        &mut self,
        from: MemberId,
        incarnation: Incarnation,
        (appended, durable, applied): (Seq, Seq, Seq),
        echo: Tick,
        (end, now): (Seq, Tick),
        fx: &mut Effects,
    ) {
        if !self.believes(from, (appended, durable), end, fx) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&from).filter(|p| p.incarnation == Some(incarnation)) {
            let echo = if broken(Sabotage::LeaseFromReceipt) { now } else { echo.min(now) };
            peer.acked(appended, durable, applied, echo, now);
        }
    }

    pub fn on_config_ok(&mut self, from: MemberId, incarnation: Incarnation, version: ConfigVersion) {
        if version <= self.config.version
            && let Some(peer) = self.peers.get_mut(&from).filter(|p| p.incarnation == Some(incarnation))
        {
            peer.config_ok = peer.config_ok.max(version);
        }
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
                "{to} needs records from {from}, the journal begins at {floor}: shipping what changed since {base}"
            );
            fx.push(Effect::Edge { rule: "resync-begin", text });
            self.ship(to, base, replica, now, fx);
            return;
        }
        self.hand_on(to, records, replica, now, fx);
    }

    /// What was read for a member that is behind goes to it.
    pub(super) fn hand_on(
        &mut self,
        to: MemberId,
        records: Vec<Record>,
        replica: &Replica,
        now: Tick,
        fx: &mut Effects,
    ) {
        let Some(last) = records.last().map(|r| r.seq) else { return };
        let bytes = records.iter().map(Record::encoded_len).sum();
        let far = self.is_far_behind(last, replica);
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.sending(last, bytes, now);
            peer.catching_up = far;
        }
        let body = self.append_of(replica, records, now);
        let message = self.message(replica, to, body);
        fx.push(if far { Effect::CatchUp(message) } else { Effect::Send(message) });
    }

    /// Shipping has ended: by our own word, or by that of who was asked for it.
    pub fn on_shipped(&mut self, by: MemberId, to: MemberId, replica: &Replica, fx: &mut Effects) {
        let asked = |p: &Peer| !replica.is_diskless() || p.asked.is_some_and(|(source, _)| source == by);
        if let Some(peer) = self.peers.get_mut(&to).filter(|p| p.feed == Feed::Shipping && asked(p)) {
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
            self.look_at_distance(replica, now, fx);
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
                    peer.catching_up = false;
                    self.append_to(replica, to, batch.to_vec(), now, fx);
                }
            }
            self.feed_behind(to, replica, now, fx);
        }
        self.try_release(replica, fx)
    }

    /// A live peer that is behind gets the next stretch from our journal, one read at a time.
    pub(super) fn feed_behind(&mut self, to: MemberId, replica: &Replica, now: Tick, fx: &mut Effects) {
        let Some(peer) = self.peers.get(&to) else { return };
        let from = peer.next;
        let (under_way_max, max_bytes) = if self.is_far_behind(Seq(from.0.saturating_sub(1)), replica) {
            (CATCH_UP_INFLIGHT_BYTES_MAX, CATCH_UP_APPEND_BYTES_MAX)
        } else {
            (PEER_INFLIGHT_BYTES_MAX, APPEND_BYTES_MAX)
        };
        let room = under_way_max.saturating_sub(peer.sent_bytes());
        if replica.is_diskless() {
            if from <= replica.end() && room >= max_bytes {
                self.feed_without_journal(to, (from, max_bytes), replica, now, fx);
            }
        } else if from <= replica.durable
            && room >= max_bytes
            && let Some(peer) = self.peers.get_mut(&to)
        {
            peer.feed = Feed::Reading;
            fx.push(Effect::ReadLog { to, from, max_bytes });
        }
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
