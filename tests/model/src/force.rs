//! Force: a new lineage of the members named, when no control quorum can be had.

use crate::bug::Bug;
use crate::model::Model;
use crate::state::{Answer, Attempt, Lineage, Phase, State};
use crate::step::Step;
use crate::terms::{TermSet, Terms, Value, Version};

impl Model {
    pub(crate) fn force_steps(&self, state: &State, out: &mut Vec<(Step, State)>) {
        for epoch in self.all_epochs() {
            let a = state.attempt(epoch);
            match a.phase {
                Phase::Unused if state.forces < self.bounds.forces => {
                    for node in self.all_members() {
                        for choice in 0..self.layout.forced.len() as u8 {
                            self.force(state, epoch, node, choice, out);
                        }
                    }
                }
                Phase::Forking => {
                    self.all_members().for_each(|at| self.fork(state, epoch, at, out));
                    self.win_forced(state, epoch, out);
                }
                Phase::Holding if self.is(Bug::ForceUnanswered) && a.lineage > 0 => {
                    self.all_members().for_each(|at| self.fork(state, epoch, at, out));
                }
                _ => {}
            }
        }
    }

    /// The generation is one above the node's own. It runs where a copy is, among the members named.
    fn force(&self, state: &State, epoch: u8, node: u8, choice: u8, out: &mut Vec<(Step, State)>) {
        let (named, shape) = self.layout.forced[usize::from(choice)];
        let own = state.replicas[usize::from(node)];
        let copy = self.layout.shapes[usize::from(shape)].sync >> node & 1 == 1;
        let Some(id) = (1..state.lineages.len()).find(|l| state.lineages[*l].generation == 0) else { return };
        if self.bounds.forced >> choice & 1 == 0 || !copy || !self.above(epoch, own.promised) {
            return;
        }
        let standing = |m: u8| self.report(state, m).log;
        let better =
            |m: u8| (standing(m).last_epoch(), standing(m).len()) > (standing(node).last_epoch(), standing(node).len());
        if self.bounds.force_then_promote && self.all_members().any(|m| named >> m & 1 == 1 && better(m)) {
            return;
        }
        let mut next = *state;
        next.forces += 1;
        let generation = state.lineages[usize::from(own.lineage)].generation + 1;
        next.lineages[id] = Lineage { generation, parent: own.lineage, named, choice, ..Lineage::default() };
        let lives = |mask: u8| self.mask(|m| mask >> m & 1 == 1 && state.replicas[usize::from(m)].life == 1);
        let current = Terms::new(shape, lives(named), lives(self.layout.shapes[usize::from(shape)].sync), 0);
        let a = next.attempt_mut(epoch);
        *a = Attempt { phase: Phase::Forking, node, life: own.life, lineage: id as u8, k: 1, ..Attempt::default() };
        // Whoever promotes in the new lineage, at any time, needs all that were named: else it could open while one of them
        // still answers in the old lineage, or without the log of one of them.
        let by_quorum = self.is(Bug::ForceByQuorum) || self.is(Bug::ForceUnanswered);
        let earlier = if by_quorum { TermSet::default() } else { TermSet::of(current.everybody()) };
        a.values[0] = Value { current, earlier };
        self.enter(&mut next, epoch, node);
        out.push((Step::Force { epoch, node, choice }, next));
    }

    fn fork(&self, state: &State, epoch: u8, at: u8, out: &mut Vec<(Step, State)>) {
        let (a, r) = (state.attempt(epoch), &state.replicas[usize::from(at)]);
        let generation = |lineage: u8| state.lineages[usize::from(lineage)].generation;
        let (ours, theirs) = (generation(a.lineage), generation(r.lineage));
        let higher = ours > theirs || self.is(Bug::GenerationEqual) && ours == theirs && a.lineage != r.lineage;
        if state.lineages[usize::from(a.lineage)].named >> at & 1 == 1 && higher {
            let mut next = *state;
            self.enter(&mut next, epoch, at);
            out.push((Step::Fork { epoch, at }, next));
        }
    }

    /// The member persists the new lineage with its configuration, and tells what it has: nothing of the old lineage is
    /// answered from now on, whatever its epochs.
    fn enter(&self, state: &mut State, epoch: u8, at: u8) {
        let report = self.report(state, at);
        let (lineage, i) = (state.attempt(epoch).lineage, usize::from(at));
        let r = &mut state.replicas[i];
        (r.lineage, r.promised, r.config) = (lineage, epoch, Version::new(epoch, 1));
        state.lineages[usize::from(lineage)].held[i] = report.log;
        let a = state.attempt_mut(epoch);
        match a.phase {
            Phase::Forking => a.promises[i] = report,
            _ => a.stored[i] = Answer { given: true, life: report.life, upto: 1 },
        }
    }

    /// Once all named are in, the best log among them is the new lineage's.
    fn win_forced(&self, state: &State, epoch: u8, out: &mut Vec<(Step, State)>) {
        let a = state.attempt(epoch);
        let named = state.lineages[usize::from(a.lineage)].named;
        let given = self.mask(|m| a.promises[usize::from(m)].given);
        let enough = if self.is(Bug::ForceUnanswered) { 1 << a.node } else { named };
        if given & enough != enough {
            return;
        }
        if self.bounds.force_then_promote {
            let mut next = *state;
            next.retire(epoch);
            out.push((Step::WinForced { epoch }, next));
            return;
        }
        let reports = self.all_members().filter(|m| given >> m & 1 == 1 && self.is_data(*m));
        let best = reports.map(|m| a.promises[usize::from(m)]).max_by_key(|p| (p.log.last_epoch(), p.log.len()));
        let Some(log) = best.map(|p| p.log) else { return };
        let stored = a.promises.map(|p| Answer { given: p.given, life: p.life, upto: u8::from(p.given) });
        let mut next = *state;
        self.take_over(&mut next, epoch, log, given);
        let a = next.attempt_mut(epoch);
        a.stored = stored;
        (a.pending, a.under, a.in_force) = (true, a.values[0].all(), a.values[0].all());
        out.push((Step::WinForced { epoch }, next));
    }

    /// An epoch has opened. If its lineage was forced, and those named keep every quorum of the lineages below from
    /// being had without them, then nothing that those begin from now on may be acknowledged.
    pub(crate) fn opened(&self, state: &mut State, epoch: u8) {
        let id = state.attempt(epoch).lineage;
        let lineage = state.lineages[usize::from(id)];
        if lineage.generation == 0 || lineage.opened {
            return;
        }
        state.lineages[usize::from(id)].opened = true;
        let others = !lineage.named & 0xF;
        let below = |l: u8| state.lineages[usize::from(l)].generation < lineage.generation;
        let blocked = self.all_epochs().filter(|e| below(state.attempt(*e).lineage)).all(|e| {
            let a = state.attempt(e);
            let values = a.values.iter().filter(|v| !v.is_none()).flat_map(|v| v.all().0);
            let mut terms = values.chain(a.in_force.0).filter(|t| t.0 != 0);
            terms.all(|t| !self.data_quorum(t, others) && !self.control_quorum(t, others))
        });
        if !blocked {
            return;
        }
        let generation = lineage.generation;
        for e in self.all_epochs() {
            let below = state.lineages[usize::from(state.attempt(e).lineage)].generation < generation;
            let a = state.attempt_mut(e);
            match a.phase {
                Phase::Holding | Phase::Gone if below && a.fence == 0 => a.fence = 1 + a.log.len(),
                Phase::Preparing if below => a.fence = 1,
                // Whose it will be is not known yet; see begin_fenced.
                Phase::Unused => a.fence = a.fence.max(1 + generation),
                _ => {}
            }
        }
    }

    /// An attempt that begins where a fence was set: it is meant for lower generations only.
    pub(crate) fn begin_fenced(&self, state: &mut State, epoch: u8) {
        let generation = state.lineages[usize::from(state.attempt(epoch).lineage)].generation;
        let a = state.attempt_mut(epoch);
        a.fence = u8::from(a.fence > 1 + generation);
    }
}
