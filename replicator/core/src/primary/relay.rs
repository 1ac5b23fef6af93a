//! What a holder without a copy can't do by itself: feed a member that lacks what is not in memory any more, ship to one,
//! and read. Whoever of the sync set has it is asked.
//!
//! What is asked for was acknowledged, so a data quorum has it. A member's journal is believed as far as its records are of
//! the epochs that this log has there (I4): it has followed this epoch, and cut what is not of it.

use std::collections::BTreeMap;

use super::Primary;
use crate::api::{Effect, Effects, ReadFrom};
use crate::ids::{MemberId, Seq, Tick};
use crate::limits::{HEARTBEAT_OPENING_US, PEER_INFLIGHT_BYTES_MAX, RESEND_AFTER_US};
use crate::message::Body;
use crate::peers::{Feed, Peer};
use crate::record::Record;
use crate::register::MemberKind;
use crate::replica::Replica;
use crate::sabotage::{Sabotage, broken};

impl Primary {
    /// Members of the sync set that follow this epoch and were heard of late, and what we know of them. Also of the one that a change is to end:
    /// until it has, they may be the only ones.
    fn followers(&self, now: Tick) -> BTreeMap<MemberId, &Peer> {
        let sync = self.config.all_terms().flat_map(|t| &t.sync);
        let sync = sync.filter(|m| self.is_heard(m.member, m.incarnation, now));
        let counted = sync.filter_map(|m| Some((m.member, self.counted(m.member, m.incarnation)?)));
        counted.filter(|(_, p)| matches!(p.feed, Feed::Live | Feed::Reading)).collect()
    }

    /// Who is to be asked for what `to` lacks: one of its own site if there is one, and not the one that has just been
    /// asked in vain.
    fn source_for(&self, to: MemberId, now: Tick, has: impl Fn(&Peer) -> bool) -> Option<MemberId> {
        let last = self.peers.get(&to).and_then(|p| p.asked).map(|(source, _)| source);
        let site = self.config.site_of(to);
        let able = self.followers(now).into_iter().filter(|(id, p)| *id != to && has(p)).map(|(id, _)| id);
        able.min_by_key(|id| (last == Some(*id), self.config.site_of(*id) != site, *id))
    }

    pub(super) fn feed_without_journal(
        &mut self,
        to: MemberId,
        (from, max_bytes): (Seq, usize),
        replica: &Replica,
        now: Tick,
        fx: &mut Effects,
    ) {
        if let Some(records) = replica.memory().and_then(|memory| memory.read(from, max_bytes)) {
            return self.hand_on(to, records, replica, now, fx);
        }
        let Some(source) = self.source_for(to, now, |p| p.durable >= from) else { return };
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.feed = Feed::Reading;
            peer.asked = Some((source, now));
        }
        self.send(replica, source, Body::Fetch { epoch: self.epoch, from, max_bytes: max_bytes as u32 }, fx);
    }

    /// A member has read its journal for another one.
    pub fn on_fetched(
        &mut self,
        source: MemberId,
        (from, floor): (Seq, Seq),
        records: Vec<Record>,
        replica: &Replica,
        now: Tick,
        fx: &mut Effects,
    ) {
        let waits = |p: &Peer| p.feed == Feed::Reading && p.next == from && p.asked.is_some_and(|(id, _)| id == source);
        if let Some(to) = self.peers.iter().find(|(_, p)| waits(p)).map(|(id, _)| *id) {
            self.on_log_read(to, (from, floor), records, replica, now, fx);
        }
    }

    /// Begins to send a member what changed since `base`: from our store, or from that of who has one.
    pub(super) fn ship(&mut self, to: MemberId, base: Seq, replica: &Replica, now: Tick, fx: &mut Effects) {
        if !replica.is_diskless() {
            let (lineage, history) = (replica.d.lineage, replica.history().clone());
            return fx.push(Effect::Ship { to, base, lineage, history });
        }
        let lacks = self.peers.get(&to).map_or(base, |p| p.durable);
        let source = self.source_for(to, now, |p| p.applied > lacks);
        let Some(peer) = self.peers.get_mut(&to) else { return };
        let Some(source) = source else { return peer.lost() };
        peer.asked = Some((source, now));
        self.send(replica, source, Body::Ship { epoch: self.epoch, member: to, base }, fx);
    }

    /// Who was asked on behalf of another and does not answer is asked once more, or somebody else is.
    pub(super) fn ask_again(&mut self, replica: &Replica, now: Tick, fx: &mut Effects) {
        if !replica.is_diskless() {
            return;
        }
        let there: Vec<MemberId> = self.followers(now).into_keys().collect();
        let mut again = Vec::new();
        for (id, peer) in &mut self.peers {
            let Some((source, at)) = peer.asked else { continue };
            match peer.feed {
                Feed::Shipping if !there.contains(&source) => peer.lost(),
                Feed::Shipping if now.since(at) >= RESEND_AFTER_US => {
                    peer.asked = Some((source, now));
                    again.push((*id, source, peer.applied));
                }
                Feed::Reading if now.since(at) >= RESEND_AFTER_US || !there.contains(&source) => peer.feed = Feed::Live,
                _ => {}
            }
        }
        for (member, source, base) in again {
            self.send(replica, source, Body::Ship { epoch: self.epoch, member, base }, fx);
        }
    }

    /// What is in the stores of a data quorum is read there; above it everything is in the overlay. And of the log in memory
    /// goes what nobody lacks who is there.
    pub(super) fn follow_stores(&mut self, acked: Seq, replica: &mut Replica, now: Tick) {
        let applied = self.in_force.iter().map(|t| {
            let applied = t.quorum_value(|m| self.counted(m.member, m.incarnation).map(|p| p.applied));
            applied.unwrap_or(Seq::ZERO)
        });
        let applied = applied.min().unwrap_or(Seq::ZERO).min(acked);
        let copies = self.config.members.iter().filter(|m| matches!(m.kind, MemberKind::Data | MemberKind::Observer));
        let heard = |p: &&Peer| p.heard.is_some_and(|at| now.since(at) < self.config.volume.lease_us);
        let fed = copies.filter_map(|m| self.peers.get(&m.id)).filter(heard);
        let fed = fed.filter(|p| matches!(p.feed, Feed::Live | Feed::Reading));
        let sent = fed.map(|p| p.appended).min().unwrap_or(acked);
        // Until our own first record is acknowledged, what was before it need not be with those who hold that.
        let ours = if self.acked >= self.start { self.acked } else { Seq::ZERO };
        replica.counted(acked, applied, sent.min(ours), ours, PEER_INFLIGHT_BYTES_MAX);
        self.pipeline.on_applied(replica.applied);
        if !self.opened && self.acked >= self.start {
            self.heartbeat_at = self.heartbeat_at.min(now.plus(HEARTBEAT_OPENING_US));
        }
    }

    /// Where reads go that a holder without a copy has to answer: the nearest first.
    pub fn read_from(&self, replica: &Replica, now: Tick) -> ReadFrom {
        let site = &self.config.current.primary_site;
        let mut members: Vec<MemberId> = self.followers(now).into_keys().collect();
        members.sort_by_key(|id| (self.config.site_of(*id) != site, *id));
        let applied = if broken(Sabotage::ReadAnywhere) { Seq::ZERO } else { replica.applied };
        ReadFrom { applied, members }
    }
}
