//! Who stands in for whom: an observer takes the place of a member that has been lost for as long as the policy says, and
//! rests again when that one has been back for as long.
//!
//! As in `distance`, nothing here is trusted: the register's rules alone decide when such a change takes effect. A place
//! that is taken has the same votes as before, and the rule is never met by fewer copies than before.

use std::collections::BTreeMap;

use super::Primary;
use crate::api::{Effect, Effects};
use crate::change;
use crate::ids::{Incarnation, MemberId, Tick};
use crate::limits::REST_LEASES;
use crate::register::{Configuration, MemberKind, Mode};
use crate::replica::Replica;
use crate::sabotage::{Sabotage, broken};

/// Since when each member that is to be in the sync set has been there, or not. What was before this epoch is not known.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<MemberId, (bool, Tick)>);

impl Places {
    pub(super) fn look(&mut self, seen: BTreeMap<MemberId, bool>, now: Tick) {
        self.0.retain(|id, _| seen.contains_key(id));
        for (id, there) in seen {
            let place = self.0.entry(id).or_insert((there, now));
            if place.0 != there {
                *place = (there, now);
            }
        }
    }

    fn lost_us(&self, id: MemberId, now: Tick) -> u64 {
        self.0.get(&id).filter(|(there, _)| !there).map_or(0, |(_, since)| now.since(*since))
    }

    fn back_us(&self, id: MemberId, now: Tick) -> Option<u64> {
        self.0.get(&id).filter(|(there, _)| *there).map(|(_, since)| now.since(*since))
    }
}

impl Primary {
    /// It does what it is there for, or will as soon as it is let in. Whom the mode has put out is away and not lost.
    fn is_there(&self, id: MemberId, incarnation: Incarnation, replica: &Replica, now: Tick) -> bool {
        let near = matches!(self.config.volume.mode, Mode::Adaptive { .. }) || self.is_whole(id, replica);
        self.is_heard(id, incarnation, now) && (near || self.config.current.in_sync(id, incarnation))
    }

    pub(super) fn look_at_places(&mut self, replica: &Replica, now: Tick) {
        let counting = self.config.members.iter().filter(|m| self.config.may_count(m));
        let admitted = counting.filter_map(|m| Some((m.id, self.config.admitted(m.id)?)));
        let seen = admitted.map(|(id, incarnation)| (id, self.is_there(id, incarnation, replica, now))).collect();
        self.places.look(seen, now);
    }

    /// Names an observer for the place of a member that has been lost for long enough. Where no observer has most of what
    /// is acknowledged, or those that are heard could not go on with it, nobody is.
    pub(super) fn promote_observer(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) -> bool {
        let after_us = self.config.volume.promote_observer_after_us;
        let by_mode = matches!(self.config.volume.mode, Mode::Async { .. });
        let Some(after_us) = after_us.filter(|_| !by_mode) else { return false };
        let voters = self.config.members.iter().filter(|m| self.config.vote_of(m.id).is_some());
        let lost = voters.filter(|m| self.config.may_count(m) && self.places.lost_us(m.id, now) >= after_us);
        let Some((lost, next, observer)) = lost.map(|m| m.id).find_map(|lost| {
            let (observer, next) = self.stand_in_for(lost, replica, now)?;
            Some((lost, next, observer))
        }) else {
            return false;
        };
        let text = format!(
            "the observer in {} stands in for {}, which has been lost for {} s: it enters the sync set, and has its vote",
            self.config.site_of(observer),
            self.config.site_of(lost),
            self.places.lost_us(lost, now) / 1_000_000,
        );
        fx.push(Effect::Edge { rule: "observer-promoted", text });
        self.write_register(next, Vec::new(), replica, now, fx);
        if broken(Sabotage::StandInUnasked) {
            self.in_force = vec![self.config.current.clone()];
        }
        true
    }

    /// Of the observers that are heard and whole one of a site that has no copy in the sync set comes first, and then
    /// whoever has most of the log.
    fn stand_in_for(&self, lost: MemberId, replica: &Replica, now: Tick) -> Option<(MemberId, Configuration)> {
        let mut observers: Vec<(MemberId, Incarnation)> = self
            .config
            .members
            .iter()
            .filter(|m| m.kind == MemberKind::Observer && self.config.follows_behind(m))
            .filter_map(|m| Some((m.id, self.peers.get(&m.id)?.incarnation?)))
            .filter(|(id, incarnation)| self.is_heard(*id, *incarnation, now) && self.is_whole(*id, replica))
            .collect();
        observers.sort_by_key(|(id, _)| {
            let others = self.config.current.sync.iter().filter(|s| s.member != lost);
            let crowded = others.filter(|s| s.site == self.config.site_of(*id)).count();
            let lacks = self.peers.get(id).map_or(u64::MAX, |p| replica.end().since(p.durable));
            (crowded, lacks, *id)
        });
        observers.into_iter().find_map(|(id, incarnation)| {
            let next = change::stand_in(&self.config, &self.under(), (id, incarnation), lost)?;
            let goes_on = next.current.data_quorum(|m| self.is_heard(m.member, m.incarnation, now));
            goes_on.then_some((id, next))
        })
    }

    /// Sends an observer back whose member has been in the sync set for as long as it had to be lost, or at once where the
    /// observer is lost itself. Not one that leads the volume: its site would have no copy that counts.
    pub(super) fn rest_observer(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) -> bool {
        if self.pending.is_some() || !self.opened {
            return false;
        }
        let least_us = REST_LEASES * self.config.volume.lease_us;
        let after_us = self.config.volume.promote_observer_after_us.unwrap_or(0).max(least_us);
        let me = replica.me();
        let placed = self.config.stand_ins.iter().filter(|s| s.member != me);
        let Some((next, observer, lost)) = placed.into_iter().find_map(|place| {
            let (observer, lost) = (place.member, place.lost.member);
            let back_us = self.places.back_us(lost, now)?;
            let waited = back_us >= after_us || self.places.lost_us(observer, now) >= least_us;
            let inside = self.config.current.in_sync(lost, place.lost.incarnation);
            let next = change::rest(&self.config, &self.under(), observer).filter(|_| waited && inside)?;
            let goes_on = next.current.data_quorum(|m| self.is_heard(m.member, m.incarnation, now));
            goes_on.then_some((next, observer, lost))
        }) else {
            return false;
        };
        let (observer, lost) = (self.config.site_of(observer), self.config.site_of(lost));
        let text = format!("{lost} is back in the sync set: the observer in {observer} leaves its place, and observes");
        fx.push(Effect::Edge { rule: "observer-rests", text });
        self.write_register(next, Vec::new(), replica, now, fx);
        true
    }
}
