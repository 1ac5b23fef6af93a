//! Getting an epoch: promises, donor, the log it begins with.

use crate::bug::Bug;
use crate::log::Log;
use crate::model::Model;
use crate::state::{Answer, Phase, Report, State};
use crate::step::Step;
use crate::terms::{TermSet, Value, Version};

impl Model {
    pub(crate) fn promote_steps(&self, state: &State, out: &mut Vec<(Step, State)>) {
        for epoch in self.all_epochs() {
            let attempt = state.attempt(epoch);
            match attempt.phase {
                Phase::Unused => self.all_members().for_each(|node| self.begin(state, epoch, node, out)),
                Phase::Preparing => {
                    for from in self.all_members() {
                        self.promise(state, epoch, from, out);
                    }
                    let given = self.mask(|m| attempt.promises[usize::from(m)].given);
                    for with in (0..=given).filter(|w| w & !given == 0 && w >> attempt.node & 1 == 1) {
                        self.win(state, epoch, with, out);
                    }
                }
                _ => {}
            }
        }
    }

    /// Any data member may try at any time, and who has no copy, with any epoch above what it promised: two may try at once,
    /// and the one that began later may have the lower epoch. It asks itself first.
    fn begin(&self, state: &State, epoch: u8, node: u8, out: &mut Vec<(Step, State)>) {
        let own = &state.replicas[usize::from(node)];
        let may = self.is_data(node) || self.is_diskless(node);
        let draws = if self.is(Bug::MemoryResumed) && epoch == 2 {
            self.resumes(state, node)
        } else {
            self.above(epoch, own.promised)
        };
        if !may || !draws || own.config == Version::default() {
            return;
        }
        let mut next = *state;
        let report = self.report(state, node);
        self.raise(&mut next, node, epoch);
        let a = next.attempt_mut(epoch);
        (a.phase, a.node, a.life, a.lineage) = (Phase::Preparing, node, own.life, own.lineage);
        a.promises[usize::from(node)] = report;
        self.begin_fenced(&mut next, epoch);
        out.push((Step::Begin { epoch, node }, next));
    }

    /// A broken rule: epoch 2 is epoch 1 once more, of a holder that has lost its memory.
    fn resumes(&self, state: &State, node: u8) -> bool {
        let lost = state.attempt(1);
        let over = matches!(lost.phase, Phase::Gone | Phase::Past);
        self.is_diskless(node) && lost.node == node && over && state.replicas[usize::from(node)].promised == 1
    }

    /// What is synced now, and nothing more: a write in flight may become durable afterwards, but is acked to nobody.
    pub(crate) fn report(&self, state: &State, member: u8) -> Report {
        let r = &state.replicas[usize::from(member)];
        Report { given: true, life: r.life, log: r.log.cut(r.durable), config: r.config, told: r.told }
    }

    fn promise(&self, state: &State, epoch: u8, from: u8, out: &mut Vec<(Step, State)>) {
        let given = state.attempt(epoch).promises[usize::from(from)];
        let life = state.replicas[usize::from(from)].life;
        if given.given && given.life == life || !self.reaches(state, epoch, from) {
            return;
        }
        let mut next = *state;
        next.attempt_mut(epoch).promises[usize::from(from)] = self.report(state, from);
        self.raise(&mut next, from, epoch);
        out.push((Step::Promise { epoch, from }, next));
    }

    fn win(&self, state: &State, epoch: u8, with: u8, out: &mut Vec<(Step, State)>) {
        let a = state.attempt(epoch);
        let promise = |m: u8| Some(&a.promises[usize::from(m)]).filter(|_| with >> m & 1 == 1);
        let reports = || self.all_members().filter_map(promise);
        let mut version = Version::default();
        for report in reports() {
            if self.newer(report.config, version) {
                version = report.config;
            }
        }
        let found = state.value(version);
        let asked = if self.is(Bug::PendingIgnored) { TermSet::of(found.current) } else { found.all() };
        if !asked.iter().all(|t| self.suffices(epoch, state, t, with)) {
            return;
        }
        let candidates = self.mask(|m| {
            let counts = |p: &Report| {
                found
                    .all()
                    .iter()
                    .any(|t| self.shape(t).sync >> m & 1 == 1 && self.same_life(t.sync_lives(), m, p.life))
            };
            promise(m).is_some_and(counts)
        });
        if candidates >> a.node & 1 == 0 && !self.is_diskless(a.node) {
            return;
        }
        let best = self
            .all_members()
            .filter(|m| candidates >> m & 1 == 1)
            .filter_map(promise)
            .max_by_key(|p| self.standing(p));
        let donor = match (self.bug, self.layout.diskless) {
            (Some(Bug::MemoryDonor), Some((d, _))) if d == a.node => promise(d),
            (Some(Bug::NearestDonor), Some((d, beside))) if d == a.node && candidates >> beside & 1 == 1 => {
                promise(beside)
            }
            _ => best,
        };
        let Some(log) = donor.map(|p| p.log) else { return };
        let mut next = *state;
        self.take_over(&mut next, epoch, log, with);
        let a = next.attempt_mut(epoch);
        let current = self.at_site(found.current, a.node);
        let earlier = if self.is(Bug::SiteForgotten) { found.earlier } else { found.all() };
        (a.found, a.k) = (version, 1);
        a.values[0] = Value { current, earlier: earlier.without(current) };
        if self.is(Bug::FoundTrusted) {
            a.in_force = TermSet::of(current);
        } else {
            (a.pending, a.under, a.in_force) = (true, earlier, earlier.with(current));
        }
        out.push((Step::Win { epoch, with }, next));
    }

    /// Control quorum and recovery rule under these terms.
    fn suffices(&self, epoch: u8, state: &State, terms: crate::terms::Terms, with: u8) -> bool {
        let a = state.attempt(epoch);
        let life = |m: u8| Some(a.promises[usize::from(m)].life).filter(|_| with >> m & 1 == 1);
        let terms_for_data = if self.is(Bug::OwnSite) { self.at_site(terms, a.node) } else { terms };
        let silent = self.shape(terms).sync & !self.copies(terms, life);
        self.control_quorum(terms, self.voters(terms, life))
            && (self.is(Bug::VotesSuffice) || !self.data_quorum(terms_for_data, silent))
    }

    fn standing(&self, report: &Report) -> (u8, u8) {
        let last = report.log.last_epoch();
        match self.bug {
            Some(Bug::LongestLog) => (0, report.log.len()),
            Some(Bug::DonorByHistory) => (last.max(report.told), report.log.len()),
            _ => (self.number(last), report.log.len()),
        }
    }

    /// The candidate's own log becomes the donor's, and gets the first record of its epoch. Without a copy it is in memory:
    /// nothing of it is durable, nothing acked, no lease owed.
    pub(crate) fn take_over(&self, state: &mut State, epoch: u8, donor: Log, with: u8) {
        let node = usize::from(state.attempt(epoch).node);
        let copy = self.is_data(node as u8);
        let own = &mut state.replicas[node];
        own.durable = own.durable.min(own.log.common(donor));
        own.log = donor.push(epoch);
        if !self.bounds.split && copy {
            own.durable = own.log.len();
        }
        if self.bounds.leases && copy {
            own.owed = if own.owed == 0 { epoch } else { own.owed };
        }
        let answer = if copy { Answer { given: true, life: own.life, upto: own.durable } } else { Answer::default() };
        let log = own.log;
        let a = state.attempt_mut(epoch);
        a.promises = Default::default();
        (a.phase, a.log, a.start, a.won_with) = (Phase::Holding, log, log.len(), with);
        a.acks[node] = answer;
        if self.is(Bug::ServeEarly) {
            (a.opened, a.served) = (true, a.start - 1);
        }
    }
}
