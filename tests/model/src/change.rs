//! Changing the register: one change at a time, under the old terms and the new until it has taken effect.

use crate::bug::Bug;
use crate::model::Model;
use crate::state::{Answer, Phase, State, VALUES_MAX};
use crate::step::{Change, Step};
use crate::terms::{TermSet, Terms, Value, Version};

impl Model {
    pub(crate) fn register_steps(&self, state: &State, out: &mut Vec<(Step, State)>) {
        for epoch in self.all_epochs() {
            let a = state.attempt(epoch);
            if !matches!(a.phase, Phase::Holding | Phase::Gone) {
                continue;
            }
            for at in self.all_members() {
                for k in 1..=a.k {
                    self.store(state, epoch, k, at, out);
                }
            }
            if a.phase == Phase::Holding {
                self.take_effect(state, epoch, out);
                self.ask(state, epoch, out);
            }
        }
    }

    fn store(&self, state: &State, epoch: u8, k: u8, at: u8, out: &mut Vec<(Step, State)>) {
        let (a, r) = (state.attempt(epoch), &state.replicas[usize::from(at)]);
        let version = Version::new(epoch, k);
        let reaches = self.reaches(state, epoch, at) || self.is(Bug::ConfigAfterPromise) && r.lineage == a.lineage;
        let unsent = self.is(Bug::FoundTrusted) && epoch > 1 && k == 1;
        let own = at == a.node && a.phase == Phase::Gone;
        if !reaches || unsent || own || state.value(version).is_none() {
            return;
        }
        let mut next = *state;
        if self.newer(version, r.config) {
            next.replicas[usize::from(at)].config = version;
            self.raise(&mut next, at, epoch);
        } else if self.newer(r.config, version) || r.config == version {
            return;
        }
        let r = &mut next.replicas[usize::from(at)];
        if self.bounds.leases && self.is_data(at) && r.owed < epoch {
            r.owed = epoch;
        }
        let life = r.life;
        if a.phase == Phase::Holding {
            next.attempt_mut(epoch).stored[usize::from(at)] = Answer { given: true, life, upto: k };
        }
        if next.replicas[usize::from(at)] != *r_of(state, at) || next.attempt(epoch).stored != a.stored {
            out.push((Step::Store { epoch, k, at }, next));
        }
    }

    /// On the control quorum of every terms in it, and all that was acked on the data quorum of the new ones.
    fn take_effect(&self, state: &State, epoch: u8, out: &mut Vec<(Step, State)>) {
        let a = state.attempt(epoch);
        if !a.pending {
            return;
        }
        let value = a.values[usize::from(a.k) - 1];
        let stored = |m: u8| Some(a.stored[usize::from(m)]).filter(|s| s.given && s.upto >= a.k).map(|s| s.life);
        let asked = if self.is(Bug::NewMajorityOnly) { TermSet::of(value.current) } else { value.all() };
        if !asked.iter().all(|t| self.control_quorum(t, self.voters(t, stored))) {
            return;
        }
        let must = a.acked.max(a.start - 1);
        if !self.is(Bug::ChangeUncopied) && !self.reached(state, epoch, value.current, must) {
            return;
        }
        let mut next = *state;
        let a = next.attempt_mut(epoch);
        let old = a.in_force.without(value.current);
        a.in_force = if self.is(Bug::GrowOldSet) && !old.is_empty() { old } else { TermSet::of(value.current) };
        (a.pending, a.effect, a.under) = (false, a.k, TermSet::default());
        if !value.earlier.is_empty() && usize::from(a.k) < VALUES_MAX {
            a.values[usize::from(a.k)] = Value { current: value.current, earlier: TermSet::default() };
            a.k += 1;
        }
        out.push((Step::TakeEffect { epoch }, next));
    }

    fn ask(&self, state: &State, epoch: u8, out: &mut Vec<(Step, State)>) {
        let a = state.attempt(epoch);
        if state.changes >= self.bounds.changes || usize::from(a.k) >= VALUES_MAX {
            return;
        }
        let current = a.values[usize::from(a.k) - 1].current;
        for i in (0..self.layout.shapes.len()).filter(|i| self.bounds.menu >> i & 1 == 1 && *i != current.shape()) {
            if let Some(terms) = self.reshaped(state, current, i) {
                self.propose(state, epoch, terms, Change::Shape(i as u8), out);
            }
        }
        for m in self.all_members().filter(|m| state.replicas[usize::from(*m)].life == 1) {
            let (votes, sync) = (current.vote_lives() >> m & 1 == 1, current.sync_lives() >> m & 1 == 1);
            let (shape, site) = (current.shape() as u8, current.site());
            if !votes && self.shape(current).votes[usize::from(m)] > 0 {
                let terms = Terms::new(shape, current.vote_lives() | 1 << m, current.sync_lives(), site);
                self.propose(state, epoch, terms, Change::Readmit(m), out);
            }
            if votes && !sync && self.shape(current).sync >> m & 1 == 1 {
                let terms = Terms::new(shape, current.vote_lives(), current.sync_lives() | 1 << m, site);
                self.propose(state, epoch, terms, Change::Renew(m), out);
            }
        }
    }

    /// Another shape, with the lives that are known; a member that joins does so with the disk it has.
    fn reshaped(&self, state: &State, from: Terms, to: usize) -> Option<Terms> {
        let (old, new) = (self.shape(from), &self.layout.shapes[to]);
        let life = |m: u8| state.replicas[usize::from(m)].life;
        let votes = self.mask(|m| {
            let had = old.votes[usize::from(m)] > 0;
            new.votes[usize::from(m)] > 0 && if had { from.vote_lives() >> m & 1 == 1 } else { life(m) == 1 }
        });
        let sync = self.mask(|m| {
            let had = old.sync >> m & 1 == 1;
            new.sync >> m & 1 == 1 && if had { from.sync_lives() >> m & 1 == 1 } else { life(m) == 1 }
        });
        let joins = |m: u8| new.sync >> m & 1 == 1 && old.sync >> m & 1 == 0;
        let voteless = self.all_members().any(|m| joins(m) && life(m) == 1 && votes >> m & 1 == 0);
        let terms = Terms::new(to as u8, votes, sync, from.site());
        (!voteless && self.data_quorum(terms, self.layout.data)).then_some(terms)
    }

    fn propose(&self, state: &State, epoch: u8, terms: Terms, change: Change, out: &mut Vec<(Step, State)>) {
        let mut next = *state;
        next.changes += 1;
        let a = next.attempt_mut(epoch);
        let replaced = a.values[usize::from(a.k) - 1];
        let was = a.in_force;
        if !a.pending {
            a.under = TermSet::of(replaced.current);
        }
        let keep = if self.is(Bug::DropEarlier) && a.pending { replaced.earlier } else { a.under };
        a.in_force = match self.bug {
            Some(Bug::ShrinkEarly) => TermSet::of(terms),
            _ => was.with(terms),
        };
        a.values[usize::from(a.k)] = Value { current: terms, earlier: keep.without(terms) };
        (a.k, a.pending) = (a.k + 1, true);
        out.push((Step::Ask { epoch, change }, next));
    }
}

fn r_of(state: &State, at: u8) -> &crate::state::Replica {
    &state.replicas[usize::from(at)]
}
