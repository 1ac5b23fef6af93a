//! What the mode asks of the sync set: who is too far leaves it, who is near again may come back, and who waits for its
//! schedule is left alone until then. Also the fallback, once nobody else is there.
//!
//! Nothing here is trusted: whatever is decided is written as any operator's [`Change::Reduce`] is, and takes effect by
//! the register's rules alone.

use std::collections::BTreeMap;

use super::Primary;
use super::watch::{Over, Sight, Watch};
use crate::api::{Change, Effect, Effects, Refusal};
use crate::change::{self, Stage};
use crate::ids::{Incarnation, MemberId, Seq, Tick};
use crate::limits::RESHIP_AFTER_US;
use crate::peers::Feed;
use crate::register::{Configuration, Member, MemberKind, Mode, SyncMember, Terms, Vote};
use crate::replica::Replica;
use crate::sabotage::{Sabotage, broken};

#[derive(Debug, Default)]
pub(super) struct Distance {
    watched: BTreeMap<MemberId, Watch>,
    /// Since when those that are heard have not been a data quorum.
    frozen_since: Option<Tick>,
    departures: u64,
}

impl Primary {
    /// How often members were put out of the sync set, in this epoch.
    pub fn departures(&self) -> u64 {
        self.distance.departures
    }

    /// Why a member is out of the sync set, and since when.
    pub fn left(&self, member: MemberId, now: Tick) -> Option<String> {
        let (at, why) = self.distance.watched.get(&member)?.left()?;
        let outside = self.config.current.sync.iter().all(|s| s.member != member);
        outside.then(|| format!("left the sync set {} s ago: {why}", now.since(at) / 1_000_000))
    }

    fn is_remote(&self, member: &Member) -> bool {
        self.config.may_count(member) && member.site != self.config.current.primary_site
    }

    /// Takes from an answer how long the member needs. Before the answer is counted.
    pub fn measure(&mut self, from: MemberId, durable: Seq, echo: Tick, replica: &Replica, now: Tick) {
        if !matches!(self.config.volume.mode, Mode::Adaptive { .. }) {
            return;
        }
        let Some(peer) = self.peers.get(&from) else { return };
        let took_us = if durable > peer.durable {
            replica.tail().appended_at(peer.durable.next()).map(|at| now.since(at))
        } else if durable >= replica.end() {
            Some(now.since(echo))
        } else {
            None
        };
        if let (Some(us), Some(watch)) = (took_us, self.distance.watched.get_mut(&from)) {
            watch.sample(us);
        }
    }

    /// Has it answered within the lease, in the life of its disk that is meant?
    pub(super) fn is_heard(&self, member: MemberId, incarnation: Incarnation, now: Tick) -> bool {
        let lease_us = self.config.volume.lease_us;
        let fresh = |echo: Tick| now.since(echo) < lease_us;
        self.counted(member, incarnation).is_some_and(|p| p.echo.is_some_and(fresh))
    }

    pub(super) fn hears_control_quorum(&self, now: Tick) -> bool {
        self.config.all_terms().all(|t| t.control_quorum(|id, inc| self.is_heard(id, inc, now)))
    }

    /// One look at everybody, from time to time.
    pub(super) fn look_at_distance(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        self.follow_schedules(replica, now, fx);
        self.look_at_remotes(replica, now);
        let why = self.too_far(now);
        self.look_at_places(replica, now);
        let frozen_us = self.watch_data_quorum(now);
        let unasked = broken(Sabotage::LeftOutUnasked) || broken(Sabotage::StandInUnasked);
        let asked = self.hears_control_quorum(now) || unasked;
        if !self.may_leave_out() || !asked {
            return;
        }
        let far: Vec<MemberId> = why.iter().map(|(id, _)| *id).collect();
        if let Some((next, text)) = self.without(&far, &describe(&why, |id| self.config.site_of(id)), now) {
            fx.push(Effect::Edge { rule: "adaptive-leave", text });
            for (id, over) in why {
                if let Some(watch) = self.distance.watched.get_mut(&id) {
                    watch.leave(over, now);
                }
            }
            return self.leave_out(next, replica, now, fx);
        }
        if self.promote_observer(replica, now, fx) || self.rest_observer(replica, now, fx) {
            return;
        }
        let fallback = self.config.volume.fallback_after_us;
        if fallback.is_some_and(|after_us| (frozen_us >= after_us || broken(Sabotage::FallbackEarly)) && frozen_us > 0)
        {
            let sync = &self.config.current.sync;
            let silent: Vec<MemberId> =
                sync.iter().filter(|m| !self.is_heard(m.member, m.incarnation, now)).map(|m| m.member).collect();
            let why = format!("no data quorum for {} s", frozen_us / 1_000_000);
            if let Some((next, text)) = self.without(&silent, &why, now) {
                fx.push(Effect::Edge { rule: "fallback", text });
                self.leave_out(next, replica, now, fx);
            }
        }
    }

    /// A change that is on its way may be replaced until it has taken effect.
    pub(super) fn may_leave_out(&self) -> bool {
        self.handover.is_none() && self.pending.as_ref().is_none_or(|p| p.stage == Stage::Joint)
    }

    fn look_at_remotes(&mut self, replica: &Replica, now: Tick) {
        let (mode, lease_us) = (self.config.volume.mode, self.config.volume.lease_us);
        if !matches!(mode, Mode::Adaptive { .. }) {
            self.distance.watched.clear();
            return;
        }
        let remotes: Vec<MemberId> = self.config.members.iter().filter(|m| self.is_remote(m)).map(|m| m.id).collect();
        self.distance.watched.retain(|id, _| remotes.contains(id));
        for id in remotes {
            let mut watch = self.distance.watched.remove(&id).unwrap_or_else(|| Watch::new(now));
            let in_sync = self.config.current.sync.iter().any(|s| s.member == id);
            let sight = self.sight(id, watch.take_mean_us(), replica, now);
            watch.see(sight, mode, in_sync, lease_us, now);
            self.distance.watched.insert(id, watch);
        }
    }

    fn sight(&self, id: MemberId, mean_us: Option<u64>, replica: &Replica, now: Tick) -> Sight {
        let peer = self.peers.get(&id);
        let echo_age_us = peer.and_then(|p| p.echo).map_or(u64::MAX, |echo| now.since(echo));
        let durable = peer.map_or(Seq::ZERO, |p| p.durable);
        let waits_us = replica.tail().appended_at(durable.next()).map_or(0, |at| now.since(at));
        Sight {
            latency_us: mean_us.unwrap_or_else(|| waits_us.max(echo_age_us)),
            lag_bytes: replica.tail().bytes_after(durable),
            heard: echo_age_us < self.config.volume.lease_us && peer.is_some_and(|p| p.feed != Feed::Silent),
        }
    }

    fn too_far(&self, now: Tick) -> Vec<(MemberId, Over)> {
        let lease_us = self.config.volume.lease_us;
        let in_sync = |id: &MemberId| self.config.current.sync.iter().any(|s| s.member == *id);
        let watched = self.distance.watched.iter().filter(|(id, _)| in_sync(id));
        watched.filter_map(|(id, watch)| Some((*id, watch.is_far(lease_us, now)?))).collect()
    }

    /// For how long those that are heard have not been a data quorum; 0: they are.
    fn watch_data_quorum(&mut self, now: Tick) -> u64 {
        let heard = |t: &Terms| t.data_quorum(|m| self.is_heard(m.member, m.incarnation, now));
        if self.in_force.iter().all(heard) {
            self.distance.frozen_since = None;
            return 0;
        }
        now.since(*self.distance.frozen_since.get_or_insert(now)).max(1)
    }

    /// The register without these in the sync set, where the others can go on by themselves, and what there is to tell. The
    /// rule is reduced as far as they need.
    fn without(&self, without: &[MemberId], why: &str, now: Tick) -> Option<(Configuration, String)> {
        let terms = &self.config.current;
        let rest: Vec<SyncMember> = terms.sync.iter().filter(|m| !without.contains(&m.member)).cloned().collect();
        let home = |sync: &[SyncMember]| sync.iter().any(|m| m.site == terms.primary_site);
        if rest.is_empty() || rest.len() == terms.sync.len() || (home(&terms.sync) && !home(&rest)) {
            return None;
        }
        let rule = self.config.volume.rule.reduced_to(&rest, &terms.primary_site);
        let reduce = Change::Reduce { without: without.to_vec(), rule };
        let next = change::propose(&self.config, &self.under(), &reduce).ok()?;
        if !next.current.data_quorum(|m| self.is_heard(m.member, m.incarnation, now)) {
            return None;
        }
        let sites: Vec<&str> = without.iter().map(|id| self.config.site_of(*id)).collect();
        let text = format!(
            "{} leaves the sync set ({why}); of the {} copies left in it {} must acknowledge",
            sites.join(", "),
            rest.len(),
            rule.w,
        );
        Some((next, text))
    }

    fn leave_out(&mut self, next: Configuration, replica: &mut Replica, now: Tick, fx: &mut Effects) {
        self.distance.departures += 1;
        self.write_register(next, Vec::new(), replica, now, fx);
        if broken(Sabotage::LeftOutUnasked) {
            self.in_force = vec![self.config.current.clone()];
        }
    }

    /// Is it to be let into the sync set, as far as the mode is concerned?
    pub(super) fn is_near(&self, member: &Member, now: Tick) -> bool {
        if !matches!(self.config.volume.mode, Mode::Adaptive { .. }) || !self.is_remote(member) {
            return true;
        }
        self.distance.watched.get(&member.id).is_some_and(|w| w.is_near(self.config.volume.lease_us, now))
    }

    /// How often it is shipped what changed, if that is all it gets: no value of the register in force may need it.
    fn schedule_of(&self, member: &Member) -> Option<u64> {
        let Mode::Async { rpo_us } = self.config.volume.mode else { return None };
        let behind = matches!(member.kind, MemberKind::Data | MemberKind::Observer)
            && member.site != self.config.current.primary_site;
        let needed = self
            .in_force
            .iter()
            .chain(self.config.all_terms())
            .any(|t| t.sync.iter().any(|s| s.member == member.id) || t.votes.iter().any(|v| v.member == member.id));
        (rpo_us > 0 && behind && !needed).then_some(rpo_us)
    }

    /// It says where its log stands. What a shipment brought nothing of is shipped again before the next is due.
    pub(super) fn rest(&mut self, member: MemberId, now: Tick) {
        let rpo_us = self.config.member(member).and_then(|m| self.schedule_of(m));
        let Some((rpo_us, peer)) = rpo_us.zip(self.peers.get_mut(&member)) else { return };
        peer.feed = Feed::Resting;
        if peer.ship_base.take().is_some_and(|base| peer.applied <= base) {
            let soon = now.plus(RESHIP_AFTER_US.min(rpo_us)).minus(rpo_us);
            peer.served = peer.served.map(|at| at.min(soon));
        }
    }

    /// Who is on a schedule rests, and is shipped what changed when its time has come; nobody else rests.
    fn follow_schedules(&mut self, replica: &Replica, now: Tick, fx: &mut Effects) {
        let schedules: Vec<(MemberId, Option<u64>)> =
            self.config.members.iter().map(|m| (m.id, self.schedule_of(m))).collect();
        for (id, rpo_us) in schedules {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            match (rpo_us, peer.feed) {
                (None, Feed::Resting) => {
                    peer.feed = Feed::Live;
                    peer.rewind();
                }
                (Some(_), Feed::Live | Feed::Reading) => {
                    peer.feed = Feed::Resting;
                    peer.rewind();
                }
                _ => {}
            }
            let Some(rpo_us) = rpo_us.filter(|_| peer.feed == Feed::Resting) else { continue };
            let due = peer.served.is_none_or(|at| now.since(at) >= rpo_us);
            // What it is shipped is what the store here shows, and must be beyond its log.
            let lacks = replica.applied.min(self.acked) > peer.durable;
            if due && peer.applied >= self.acked {
                peer.served = Some(now);
            } else if due && lacks && self.opened {
                peer.served = Some(now);
                peer.feed = Feed::Shipping;
                let base = peer.applied;
                peer.ship_base = Some(base);
                let text = format!("{id} is shipped what changed since {base}, by its schedule");
                fx.push(Effect::Edge { rule: "schedule-ship", text });
                self.ship(id, base, replica, now, fx);
            }
        }
    }

    /// The change of the mode with the votes that it needs. Of a copy that has followed behind only its own word tells
    /// which life of its disk is to have the vote.
    pub(super) fn with_votes(&self, change: &Change) -> Result<Change, Refusal> {
        let Change::Mode { mode, rule, .. } = *change else { return Ok(change.clone()) };
        let mut votes = Vec::new();
        if !matches!(mode, Mode::Async { .. }) {
            for member in self.config.members.iter().filter(|m| self.config.is_async(m)) {
                let peer = self.peers.get(&member.id).filter(|p| p.feed != Feed::Silent);
                let Some(incarnation) = peer.and_then(|p| p.incarnation) else {
                    return Err(Refusal::new(
                        "mode-unheard",
                        format!("{} is to get a vote, and is not heard", member.site),
                        "try again when it is connected, or remove it first",
                    ));
                };
                votes.push(Vote { member: member.id, incarnation, votes: 1 });
            }
        }
        Ok(Change::Mode { mode, rule, votes })
    }
}

fn describe<'a>(why: &[(MemberId, Over)], site_of: impl Fn(MemberId) -> &'a str) -> String {
    let each: Vec<String> = why.iter().map(|(id, over)| format!("{}: {over}", site_of(*id))).collect();
    each.join("; ")
}
