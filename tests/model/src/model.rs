//! The model of one layout within bounds: who can take which step in a state, and what is left of a state that matters.

use crate::bug::Bug;
use crate::encode;
use crate::layout::{Layout, MEMBERS_MAX, Shape};
use crate::log::Log;
use crate::state::{Answer, Attempt, Phase, State};
use crate::step::Step;
use crate::terms::{TermSet, Terms, Value, Version};

/// How far a search goes. Every history within is tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Attempts at an epoch, the open first one included.
    pub epochs: u8,
    /// Writes by users, all epochs together.
    pub writes: u8,
    /// Changes of the register that are asked for, all epochs together.
    pub changes: u8,
    /// Disks lost, at most one per member.
    pub wipes: u8,
    pub forces: u8,
    /// Is a record first written, then synced, with everything possible between? Else both at once.
    pub split: bool,
    pub leases: bool,
    /// Which shapes may be asked for, bit each.
    pub menu: u16,
    /// Which of the layout's forces may be asked for, bit each.
    pub forced: u8,
    /// The member that holds the first epoch.
    pub first: u8,
    /// Force as the core does it: the donor is judged before anybody is asked to enter, and an ordinary promotion in the
    /// new lineage follows.
    pub force_then_promote: bool,
}

pub struct Model {
    pub layout: &'static Layout,
    pub bounds: Bounds,
    pub bug: Option<Bug>,
    pub members: u8,
    pub coding: encode::Shape,
    /// `control[shape]`: bit per set of voters.
    control: Vec<u16>,
    /// `data[shape][site]`: bit per set of replicas.
    data: Vec<[u16; MEMBERS_MAX]>,
    /// The shape that each becomes when the two alike members change places; none if that would leave the bounds.
    swapped: Option<Vec<u8>>,
}

impl Model {
    pub fn new(layout: &'static Layout, bounds: Bounds, bug: Option<Bug>) -> Model {
        let sets = |holds: &dyn Fn(u8) -> bool| (0..16).filter(|s| holds(*s)).fold(0_u16, |all, s| all | 1 << s);
        let table = |s: &Shape| std::array::from_fn(|site| sets(&|set| s.data_quorum(set, site as u8)));
        let mut model = Model {
            layout,
            bounds,
            bug,
            members: layout.members.len() as u8,
            coding: encode::Shape {
                members: layout.members.len(),
                epochs: usize::from(bounds.epochs),
                lineages: bounds.forces > 0,
            },
            control: layout.shapes.iter().map(|s| sets(&|set| s.control_quorum(set))).collect(),
            data: layout.shapes.iter().map(table).collect(),
            swapped: None,
        };
        model.swapped = model.find_swap();
        model
    }

    /// Members may only change places if all that can be asked for stays what it was.
    fn find_swap(&self) -> Option<Vec<u8>> {
        let (a, b) = self.layout.swap?;
        let shapes = self.layout.shapes;
        let map: Vec<Option<u8>> = shapes
            .iter()
            .map(|s| {
                let mut votes = s.votes;
                votes.swap(a.into(), b.into());
                let same = |t: &Shape| {
                    t.votes == votes
                        && t.sync == swap_bits(s.sync, a, b)
                        && (t.w, t.min_remote, t.local) == (s.w, s.min_remote, s.local)
                };
                shapes.iter().position(same).map(|i| i as u8)
            })
            .collect();
        let asked = |i: usize| i == 0 || self.bounds.menu >> i & 1 == 1;
        let closed = (0..shapes.len()).all(|i| !asked(i) || map[i].is_some_and(|j| asked(j.into())));
        (closed && self.bounds.forces == 0).then(|| map.iter().map(|m| m.unwrap_or(0)).collect())
    }

    pub fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// The first epoch is open, everybody has its first record, nothing else has happened.
    pub fn initial(&self) -> State {
        let mut state = State::default();
        let node = self.bounds.first;
        let terms = self.at_site(Terms::new(0, 0, 0, 0), node);
        let log = Log::default().push(1);
        let holder = &mut state.attempts[0];
        *holder = Attempt {
            phase: Phase::Holding,
            node,
            log,
            start: 1,
            acked: 1,
            served: 1,
            opened: true,
            k: 1,
            effect: 1,
            in_force: TermSet::of(terms),
            ..Attempt::default()
        };
        holder.values[0] = Value { current: terms, earlier: TermSet::default() };
        for m in 0..usize::from(self.members) {
            let copy = self.is_data(m as u8);
            state.replicas[m].promised = 1;
            state.replicas[m].config = Version::new(1, 1);
            state.replicas[m].owed = u8::from(self.bounds.leases && copy);
            holder.stored[m] = Answer { given: true, life: 0, upto: 1 };
            if copy {
                (state.replicas[m].log, state.replicas[m].durable) = (log, 1);
                holder.acks[m] = Answer { given: true, life: 0, upto: 1 };
            }
        }
        if self.is_diskless(node) {
            state.replicas[usize::from(node)].log = log;
        }
        state
    }

    pub fn is_data(&self, member: u8) -> bool {
        self.layout.data >> member & 1 == 1
    }

    /// Neither vote nor copy: what it has of a log is in memory, `log` with nothing durable, while it holds an epoch.
    pub fn is_diskless(&self, member: u8) -> bool {
        self.layout.diskless.is_some_and(|(m, _)| m == member)
    }

    fn site_of(&self, member: u8) -> u8 {
        self.layout.diskless.filter(|(m, _)| *m == member).map_or(member, |(_, beside)| beside)
    }

    pub fn all_members(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.members
    }

    pub fn all_epochs(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.bounds.epochs
    }

    pub fn shape(&self, terms: Terms) -> &'static Shape {
        &self.layout.shapes[terms.shape()]
    }

    pub fn control_quorum(&self, terms: Terms, voters: u8) -> bool {
        if terms.wants_everybody() {
            let votes = self.shape(terms).votes;
            return self.all_members().all(|m| votes[usize::from(m)] == 0 || voters >> m & 1 == 1);
        }
        let enough = |voters: u8| self.control[terms.shape()] >> voters & 1 == 1;
        match self.layout.diskless {
            Some((d, _)) if self.is(Bug::MemoryVotes) && voters >> d & 1 == 1 => self.with_one_more(voters, enough),
            _ => enough(voters),
        }
    }

    /// Would it be so with one more of them? Only a broken rule asks.
    pub fn with_one_more(&self, members: u8, holds: impl Fn(u8) -> bool) -> bool {
        self.all_members().any(|m| holds(members | 1 << m))
    }

    pub fn data_quorum(&self, terms: Terms, replicas: u8) -> bool {
        !terms.wants_everybody() && self.data[terms.shape()][usize::from(terms.site())] >> replicas & 1 == 1
    }

    /// The part of a register value that names the primary's site, where it matters.
    pub fn at_site(&self, terms: Terms, node: u8) -> Terms {
        let site = if self.layout.by_site { self.site_of(node) } else { 0 };
        Terms::new(terms.shape() as u8, terms.vote_lives(), terms.sync_lives(), site)
    }

    /// Does an answer given in `life` count where `lives` says which life is meant?
    pub fn same_life(&self, lives: u8, member: u8, life: u8) -> bool {
        self.is(Bug::LifeIgnored) || lives >> member & 1 == life
    }

    /// The members for whom `answered` gives a life that the voters' lives name.
    pub fn voters(&self, terms: Terms, answered: impl Fn(u8) -> Option<u8>) -> u8 {
        self.mask(|m| answered(m).is_some_and(|life| self.same_life(terms.vote_lives(), m, life)))
    }

    pub fn copies(&self, terms: Terms, answered: impl Fn(u8) -> Option<u8>) -> u8 {
        self.mask(|m| answered(m).is_some_and(|life| self.same_life(terms.sync_lives(), m, life)))
    }

    pub fn mask(&self, holds: impl Fn(u8) -> bool) -> u8 {
        self.all_members().filter(|m| holds(*m)).fold(0, |mask, m| mask | 1 << m)
    }

    /// All that a broken rule sees of an epoch. Of the pair (number, writer) the number: two and three have one, as four and
    /// five have. Of one that is resumed: the second is the first once more.
    pub fn number(&self, epoch: u8) -> u8 {
        match self.bug {
            Some(Bug::EpochByNumber) => epoch / 2,
            Some(Bug::MemoryResumed) if epoch == 2 => 1,
            _ => epoch,
        }
    }

    /// Are these two epochs one, or taken for one?
    fn alike(&self, a: u8, b: u8) -> bool {
        self.number(a) == self.number(b)
    }

    /// A log as members compare it.
    pub fn seen(&self, log: Log) -> Log {
        if !self.is(Bug::MemoryResumed) {
            return log;
        }
        (1..=log.len()).fold(Log::default(), |seen, seq| seen.push(self.number(log.epoch_at(seq))))
    }

    /// May a message of `epoch` be taken by who promised `promised`?
    pub fn accepts(&self, epoch: u8, promised: u8) -> bool {
        epoch >= promised || self.alike(epoch, promised)
    }

    /// Is `promised` a promise to `epoch`?
    pub fn promised_to(&self, epoch: u8, promised: u8) -> bool {
        epoch == promised || self.alike(epoch, promised)
    }

    /// May a candidate that promised `promised` draw this epoch?
    pub fn above(&self, epoch: u8, promised: u8) -> bool {
        epoch > promised && !self.alike(epoch, promised)
    }

    pub fn newer(&self, a: Version, b: Version) -> bool {
        if self.alike(a.epoch(), b.epoch()) { a.k() > b.k() } else { a > b }
    }

    /// A promise. What a node without a copy has in memory is of a lower epoch, and forgotten.
    pub fn raise(&self, state: &mut State, at: u8, epoch: u8) {
        let r = &mut state.replicas[usize::from(at)];
        if epoch > r.promised {
            r.promised = epoch;
            if self.is_diskless(at) {
                r.log = Log::default();
            }
        }
    }

    /// Is the process that drew this epoch still at it? It gives up when its own replica promises a higher one.
    pub fn alive(&self, state: &State, epoch: u8) -> bool {
        let a = state.attempt(epoch);
        let own = &state.replicas[usize::from(a.node)];
        matches!(a.phase, Phase::Preparing | Phase::Forking | Phase::Holding)
            && own.lineage == a.lineage
            && own.life == a.life
            && self.promised_to(epoch, own.promised)
    }

    /// May a message of this attempt still be taken by this member?
    pub fn reaches(&self, state: &State, epoch: u8, member: u8) -> bool {
        let (a, r) = (state.attempt(epoch), &state.replicas[usize::from(member)]);
        let lineage = r.lineage == a.lineage || self.is(Bug::GenerationIgnored);
        lineage && self.accepts(epoch, r.promised)
    }

    pub fn successors(&self, state: &State, out: &mut Vec<(Step, State)>) {
        out.clear();
        self.promote_steps(state, out);
        self.append_steps(state, out);
        self.register_steps(state, out);
        self.damage_steps(state, out);
        if self.bounds.forces > 0 {
            self.force_steps(state, out);
        }
        for (_, next) in out.iter_mut() {
            self.forget(next);
        }
    }

    /// Clears what no later step can look at, so that states that differ in nothing else are one.
    fn forget(&self, state: &mut State) {
        for epoch in self.all_epochs() {
            let phase = state.attempt(epoch).phase;
            if matches!(phase, Phase::Unused | Phase::Past) {
                continue;
            }
            if phase != Phase::Gone && !self.alive(state, epoch) {
                state.retire(epoch);
            }
            if state.attempt(epoch).phase == Phase::Gone {
                self.forget_gone(state, epoch);
            }
            // Only whose lease is waited for matters, until the epoch is open.
            let a = state.attempt(epoch);
            let waits = a.phase == Phase::Holding && a.acked < a.start;
            let owes = |m: u8| (1..epoch).contains(&state.replicas[usize::from(m)].owed);
            state.attempt_mut(epoch).won_with = if waits { a.won_with & self.mask(owes) } else { 0 };
        }
        // Without a copy the end of the role is the end of the log.
        if let Some((d, _)) = self.layout.diskless {
            let holds = |e: u8| state.attempt(e).node == d && state.attempt(e).phase == Phase::Holding;
            if !self.all_epochs().any(holds) {
                state.replicas[usize::from(d)].log = Log::default();
            }
        }
        for epoch in self.all_epochs() {
            self.forget_values(state, epoch);
            if self.bounds.changes == 0 {
                // Only the order of changes asks for these.
                (state.attempt_mut(epoch).found, state.attempt_mut(epoch).effect) = Default::default();
            }
        }
    }

    fn forget_gone(&self, state: &mut State, epoch: u8) {
        if self.all_members().any(|m| self.reaches(state, epoch, m)) {
            return;
        }
        // A later epoch that has opened vouches for all that this one served, if none between can open any more.
        let lineage = state.attempt(epoch).lineage;
        let between = |e: &u8| matches!(state.attempt(*e).phase, Phase::Past | Phase::Gone);
        let opened = |e: u8| state.attempt(e).opened && state.attempt(e).lineage == lineage;
        let served = state.attempt(epoch).log.cut(state.attempt(epoch).served);
        let vouched = (epoch + 1..=self.bounds.epochs)
            .find(|e| !between(e) || opened(*e))
            .is_some_and(|e| opened(e) && served.is_prefix_of(state.attempt(e).log));
        let a = state.attempt_mut(epoch);
        a.log = if vouched { Log::default() } else { a.log.cut(a.served) };
        if a.log.is_empty() {
            a.phase = Phase::Past;
            (a.start, a.served, a.opened) = Default::default();
        }
    }

    /// A register value matters while somebody has it or may still be sent it.
    fn forget_values(&self, state: &mut State, epoch: u8) {
        let a = state.attempt(epoch);
        let (k, alive) = (a.k, self.alive(state, epoch));
        let mut last = 0;
        for k in 1..=k {
            let version = Version::new(epoch, k);
            let had = self.all_members().any(|m| state.replicas[usize::from(m)].config == version)
                || self.all_epochs().any(|e| state.attempt(e).promises.iter().any(|p| p.given && p.config == version));
            let wanted = self
                .all_members()
                .any(|m| self.reaches(state, epoch, m) && self.newer(version, state.replicas[usize::from(m)].config));
            if had || wanted || alive {
                last = k;
            } else {
                state.attempt_mut(epoch).values[usize::from(k) - 1] = Value::default();
            }
        }
        state.attempt_mut(epoch).k = last;
    }

    /// The bytes that stand for this state: its own, or those with the two alike members in each other's place.
    pub fn canonical(&self, state: &State, bytes: &mut Vec<u8>, other: &mut Vec<u8>) {
        encode::encode(state, &self.coding, bytes);
        if let Some(map) = &self.swapped {
            encode::encode(&self.swap(state, map), &self.coding, other);
            if other < bytes {
                std::mem::swap(bytes, other);
            }
        }
    }

    fn swap(&self, state: &State, shapes: &[u8]) -> State {
        let Some((a, b)) = self.layout.swap else { return *state };
        let (i, j) = (usize::from(a), usize::from(b));
        let member = |m: u8| {
            if m == a {
                b
            } else if m == b {
                a
            } else {
                m
            }
        };
        let terms = |t: Terms| {
            let bits = |mask| swap_bits(mask, a, b);
            Terms::new(shapes[t.shape()], bits(t.vote_lives()), bits(t.sync_lives()), member(t.site()))
        };
        let set = |s: TermSet| s.iter().map(terms).fold(TermSet::default(), TermSet::with);
        let mut next = *state;
        next.replicas.swap(i, j);
        for attempt in &mut next.attempts[..usize::from(self.bounds.epochs)] {
            attempt.node = member(attempt.node);
            attempt.won_with = swap_bits(attempt.won_with, a, b);
            attempt.promises.swap(i, j);
            attempt.acks.swap(i, j);
            attempt.stored.swap(i, j);
            attempt.in_force = set(attempt.in_force);
            attempt.under = set(attempt.under);
            for value in attempt.values.iter_mut().filter(|v| !v.is_none()) {
                *value = Value { current: terms(value.current), earlier: set(value.earlier) };
            }
        }
        next
    }
}

fn swap_bits(mask: u8, a: u8, b: u8) -> u8 {
    let (x, y) = (mask >> a & 1, mask >> b & 1);
    mask & !(1 << a | 1 << b) | x << b | y << a
}
