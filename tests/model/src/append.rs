//! Holding an epoch: sending the log, syncing, acking, acknowledging; and the lease on reads.

use crate::bug::Bug;
use crate::model::Model;
use crate::state::{Answer, Phase, State};
use crate::step::Step;
use crate::terms::Terms;

impl Model {
    pub(crate) fn append_steps(&self, state: &State, out: &mut Vec<(Step, State)>) {
        for epoch in self.all_epochs() {
            let phase = state.attempt(epoch).phase;
            if matches!(phase, Phase::Holding | Phase::Gone) {
                for to in self.all_members() {
                    self.elect(state, epoch, to, out);
                    self.append(state, epoch, to, out);
                }
            }
            if phase == Phase::Holding {
                self.write(state, epoch, out);
                self.acknowledge(state, epoch, out);
                if self.bounds.leases {
                    self.all_members().for_each(|at| self.renew(state, epoch, at, out));
                }
            }
        }
        for at in self.all_members() {
            self.sync(state, at, out);
            if state.replicas[usize::from(at)].owed != 0 {
                let mut next = *state;
                (next.replicas[usize::from(at)].owed, next.replicas[usize::from(at)].told) = (0, 0);
                out.push((Step::Expire { at }, next));
            }
        }
    }

    fn is_peer(&self, state: &State, epoch: u8, to: u8) -> bool {
        self.is_data(to) && to != state.attempt(epoch).node && self.reaches(state, epoch, to)
    }

    /// A member cuts its log where it parts from the holder's and says how much of it is durable. A late copy of the
    /// message never cuts records of its own epoch.
    fn elect(&self, state: &State, epoch: u8, to: u8, out: &mut Vec<(Step, State)>) {
        if !self.is_peer(state, epoch, to) {
            return;
        }
        let (a, i) = (state.attempt(epoch), usize::from(to));
        let mut next = *state;
        self.raise(&mut next, to, epoch);
        let r = &mut next.replicas[i];
        r.log = r.log.cut(self.seen(r.log).common(self.seen(a.log)));
        r.durable = r.durable.min(r.log.len());
        if self.is(Bug::DonorByHistory) {
            r.told = epoch;
        }
        if self.bounds.leases && r.owed < epoch {
            r.owed = epoch;
        }
        let r = *r;
        if a.phase == Phase::Holding {
            next.attempt_mut(epoch).acks[i] = Answer { given: true, life: r.life, upto: r.durable };
        }
        if next.replicas[i] != state.replicas[i] || next.attempt(epoch).acks != a.acks {
            out.push((Step::Elect { epoch, to }, next));
        }
        if self.is(Bug::LateElectCuts) && r.log.last_epoch() == epoch && r.log.len() >= a.start {
            let mut next = *state;
            let r = &mut next.replicas[i];
            r.log = r.log.cut(a.start - 1);
            r.durable = r.durable.min(r.log.len());
            out.push((Step::Elect { epoch, to }, next));
        }
    }

    fn append(&self, state: &State, epoch: u8, to: u8, out: &mut Vec<(Step, State)>) {
        let (a, r) = (state.attempt(epoch), &state.replicas[usize::from(to)]);
        if !self.is_peer(state, epoch, to) || !self.promised_to(epoch, r.promised) {
            return;
        }
        if self.is(Bug::RelayUnchecked) && self.is_diskless(a.node) {
            self.relay(state, epoch, to, out);
        }
        if r.log.len() >= a.log.len() || !self.seen(r.log).is_prefix_of(self.seen(a.log)) {
            return;
        }
        let mut next = *state;
        self.push(&mut next, to, a.log.epoch_at(r.log.len() + 1));
        if self.is(Bug::AckBeforeSync) {
            let (life, upto) = (r.life, r.log.len() + 1);
            let a = next.attempt_mut(epoch);
            if a.phase == Phase::Holding {
                a.acks[usize::from(to)] = Answer { given: true, life, upto };
            }
        }
        if self.bounds.leases && r.owed < epoch {
            next.replicas[usize::from(to)].owed = epoch;
        }
        out.push((Step::Append { epoch, to }, next));
    }

    /// A broken rule: what a holder without a copy lacks itself it has read by whoever has promised it the epoch, and passes
    /// it on whatever it is.
    fn relay(&self, state: &State, epoch: u8, to: u8, out: &mut Vec<(Step, State)>) {
        let r = &state.replicas[usize::from(to)];
        for source in self.all_members().filter(|m| *m != to && self.is_data(*m)) {
            let s = &state.replicas[usize::from(source)];
            let read = s.log.cut(s.durable);
            if s.promised != epoch || read.len() <= r.log.len() || !r.log.is_prefix_of(read) {
                continue;
            }
            let mut next = *state;
            self.push(&mut next, to, read.epoch_at(r.log.len() + 1));
            let a = next.attempt_mut(epoch);
            if a.phase == Phase::Holding {
                a.acks[usize::from(to)] = Answer { given: true, life: r.life, upto: r.log.len() + 1 };
            }
            out.push((Step::Relay { epoch, source, to }, next));
        }
    }

    /// A record is at the end of a member's log; if nothing shall come between, it is synced and acked at once. Memory is
    /// never synced.
    fn push(&self, state: &mut State, at: u8, epoch: u8) {
        let r = &mut state.replicas[usize::from(at)];
        r.log = r.log.push(epoch);
        if !self.bounds.split && self.is_data(at) {
            r.durable = r.log.len();
            self.ack(state, at);
        }
    }

    fn sync(&self, state: &State, at: u8, out: &mut Vec<(Step, State)>) {
        let r = &state.replicas[usize::from(at)];
        if r.durable < r.log.len() && self.is_data(at) {
            let mut next = *state;
            next.replicas[usize::from(at)].durable += 1;
            self.ack(&mut next, at);
            out.push((Step::Sync { at }, next));
        }
    }

    /// Tells the holder of the promised epoch, and nobody else, what is durable of its log.
    fn ack(&self, state: &mut State, at: u8) {
        let r = state.replicas[usize::from(at)];
        for epoch in self.all_epochs() {
            let a = state.attempt_mut(epoch);
            let promised = self.promised_to(epoch, r.promised) || self.is(Bug::AckAfterPromise) && epoch < r.promised;
            let lineage = a.lineage == r.lineage || self.is(Bug::GenerationIgnored);
            if a.phase == Phase::Holding && promised && lineage && self.seen(r.log).is_prefix_of(self.seen(a.log)) {
                a.acks[usize::from(at)] = Answer { given: true, life: r.life, upto: r.durable };
            }
        }
    }

    fn write(&self, state: &State, epoch: u8, out: &mut Vec<(Step, State)>) {
        let a = state.attempt(epoch);
        if !a.opened || state.writes >= self.bounds.writes {
            return;
        }
        let mut next = *state;
        next.writes += 1;
        let a = next.attempt_mut(epoch);
        a.log = a.log.push(epoch);
        let node = a.node;
        self.push(&mut next, node, epoch);
        out.push((Step::Write { epoch }, next));
    }

    /// The members that have the holder's log up to `upto`, as far as these terms know them.
    pub(crate) fn holding(&self, state: &State, epoch: u8, terms: Terms, upto: u8) -> u8 {
        let acks = &state.attempt(epoch).acks;
        self.copies(terms, |m| Some(acks[usize::from(m)]).filter(|a| a.given && a.upto >= upto).map(|a| a.life))
    }

    /// Is `upto` on a data quorum of these terms?
    pub(crate) fn reached(&self, state: &State, epoch: u8, terms: Terms, upto: u8) -> bool {
        let copies = self.holding(state, epoch, terms, upto);
        let shape = self.shape(terms);
        let have = (copies & shape.sync).count_ones() as u8;
        match self.bug {
            Some(Bug::WitnessCounts) => {
                let promised = |m: u8| self.promised_to(epoch, state.replicas[usize::from(m)].promised);
                let witnesses = self.mask(|m| !self.is_data(m) && promised(m)).count_ones() as u8;
                have + witnesses >= shape.w
            }
            Some(Bug::RuleInForce) => {
                let left_out = (self.layout.data.count_ones() - shape.sync.count_ones()) as u8;
                have >= shape.w.saturating_sub(left_out).max(1)
            }
            Some(Bug::MemoryCounted) if self.is_diskless(state.attempt(epoch).node) => {
                self.with_one_more(copies, |copies| self.data_quorum(terms, copies))
            }
            _ => self.data_quorum(terms, copies),
        }
    }

    /// Nothing counts before the epoch's own first record does; with that it is open.
    fn acknowledge(&self, state: &State, epoch: u8, out: &mut Vec<(Step, State)>) {
        let a = state.attempt(epoch);
        for upto in a.start.max(a.acked + 1)..=a.log.len() {
            if !a.in_force.iter().all(|t| self.reached(state, epoch, t, upto)) {
                return;
            }
            if a.acked < a.start && !self.old_lease_over(state, epoch) {
                return;
            }
            let mut next = *state;
            let a = next.attempt_mut(epoch);
            (a.acked, a.served, a.opened) = (upto, a.served.max(upto), true);
            self.opened(&mut next, epoch);
            out.push((Step::Acknowledge { epoch, upto }, next));
        }
    }

    /// Those who promised owe nothing to an earlier holder any more.
    fn old_lease_over(&self, state: &State, epoch: u8) -> bool {
        let owes = |m: u8| {
            let r = &state.replicas[usize::from(m)];
            r.owed != 0 && r.owed < epoch && !(self.is(Bug::LeaseForgotten) && r.told != 0)
        };
        let with = state.attempt(epoch).won_with;
        self.is(Bug::LeaseNotAwaited) || !self.all_members().any(|m| with >> m & 1 == 1 && owes(m))
    }

    /// A heartbeat.
    fn renew(&self, state: &State, epoch: u8, at: u8, out: &mut Vec<(Step, State)>) {
        let r = &state.replicas[usize::from(at)];
        if self.is_data(at) && self.reaches(state, epoch, at) && r.promised == epoch && r.owed < epoch {
            let mut next = *state;
            next.replicas[usize::from(at)].owed = epoch;
            out.push((Step::Renew { epoch, at }, next));
        }
    }

    /// May this holder serve a read? Those who owe it a lease form a data quorum under all terms in force; without a copy it
    /// owes itself nothing.
    pub fn lease_valid(&self, state: &State, epoch: u8) -> bool {
        let a = state.attempt(epoch);
        let owes = |m: u8| {
            let r = &state.replicas[usize::from(m)];
            (r.owed == epoch).then_some(r.life)
        };
        let itself = self.is(Bug::MemoryLeases) && self.is_diskless(a.node);
        let enough = |t| {
            let lent = self.copies(t, owes);
            self.data_quorum(t, lent) || itself && self.with_one_more(lent, |lent| self.data_quorum(t, lent))
        };
        a.phase == Phase::Holding && a.opened && a.in_force.iter().all(enough)
    }
}
