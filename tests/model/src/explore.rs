//! The search: every state that can be reached, breadth first, each once.

use std::time::Instant;

use crate::encode;
use crate::model::Model;
use crate::state::{Phase, State};
use crate::step::Step;

/// What a search found.
pub struct Outcome {
    pub states: u64,
    pub depth: u32,
    pub seconds: f64,
    pub bytes: u64,
    pub reached: Reached,
    pub found: Option<Counterexample>,
    /// The limit on states ended the search.
    pub cut_short: bool,
}

pub struct Counterexample {
    pub violation: String,
    pub start: State,
    pub steps: Vec<(Step, State)>,
}

/// What happened in some state: a search in which nothing happens would prove nothing.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The highest epoch that opened.
    pub opened: u8,
    /// Register values of a change asked for that took effect.
    pub changed: bool,
    /// A voter was admitted again with a new disk, and so was a member of the sync set.
    pub readmitted: bool,
    pub renewed: bool,
    pub forced: bool,
    /// A member without a copy opened an epoch that it had to win.
    pub in_memory: bool,
    /// An epoch opened while an older holder lived on.
    pub overtaken: bool,
}

/// The states seen, by fingerprint. The number of one is its place in the order of discovery.
struct Seen {
    slots: Vec<u64>,
    order: Vec<u64>,
    parents: Vec<u32>,
}

impl Seen {
    fn new() -> Seen {
        Seen { slots: vec![0; 1 << 16], order: Vec::new(), parents: Vec::new() }
    }

    fn insert(&mut self, fingerprint: u64, parent: u32) -> bool {
        if (self.order.len() + 1) * 4 > self.slots.len() * 3 {
            let size = self.slots.len() * 2;
            self.slots = Vec::new();
            self.slots = vec![0; size];
            for seen in &self.order {
                let at = Self::slot(&self.slots, *seen);
                self.slots[at] = *seen;
            }
        }
        let at = Self::slot(&self.slots, fingerprint);
        if self.slots[at] == fingerprint {
            return false;
        }
        self.slots[at] = fingerprint;
        self.order.push(fingerprint);
        self.parents.push(parent);
        true
    }

    fn slot(slots: &[u64], fingerprint: u64) -> usize {
        let mut at = fingerprint as usize & (slots.len() - 1);
        while slots[at] != 0 && slots[at] != fingerprint {
            at = (at + 1) & (slots.len() - 1);
        }
        at
    }

    fn bytes(&self) -> u64 {
        (self.slots.capacity() * 8 + self.order.capacity() * 8 + self.parents.capacity() * 4) as u64
    }
}

/// 64 bits of the state's bytes, never zero: two products, folded, for every eight bytes.
fn fingerprint(bytes: &[u8]) -> u64 {
    let fold = |a: u64, b: u64| {
        let wide = u128::from(a) * u128::from(b);
        (wide as u64) ^ (wide >> 64) as u64
    };
    let mut hash = 0x9E37_79B9_7F4A_7C15 ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash =
            fold(hash ^ u64::from_le_bytes(word) ^ 0xA076_1D64_78BD_642F, 0xE703_7ED1_A0B4_28DB ^ hash.rotate_left(29));
    }
    fold(hash, 0x8EBC_6AF0_9C88_C6E3).max(1)
}

/// States of one distance from the beginning, as bytes, each with its number.
#[derive(Default)]
struct Level {
    bytes: Vec<u8>,
    items: Vec<(u32, u16)>,
}

impl Level {
    fn push(&mut self, number: u32, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.items.push((number, bytes.len() as u16));
    }
}

pub fn explore(model: &Model, states_max: u64) -> Outcome {
    let began = Instant::now();
    let mut seen = Seen::new();
    let (mut bytes, mut other, mut nexts) = (Vec::new(), Vec::new(), Vec::new());
    let mut outcome = Outcome {
        states: 0,
        depth: 0,
        seconds: 0.0,
        bytes: 0,
        reached: Reached::default(),
        found: None,
        cut_short: false,
    };
    let mut level = Level::default();
    model.canonical(&model.initial(), &mut bytes, &mut other);
    seen.insert(fingerprint(&bytes), u32::MAX);
    level.push(0, &bytes);
    let mut bad = None;
    'search: while !level.items.is_empty() {
        let mut next_level = Level::default();
        let mut at = 0;
        for (number, len) in &level.items {
            let state = encode::decode(&level.bytes[at..at + usize::from(*len)], &model.coding);
            at += usize::from(*len);
            model.successors(&state, &mut nexts);
            for (_, next) in &nexts {
                model.canonical(next, &mut bytes, &mut other);
                if !seen.insert(fingerprint(&bytes), *number) {
                    continue;
                }
                outcome.reached.note(model, next);
                if model.violation(next).is_some() {
                    bad = Some(seen.order.len() - 1);
                    break 'search;
                }
                next_level.push((seen.order.len() - 1) as u32, &bytes);
            }
            if seen.order.len() as u64 >= states_max {
                outcome.cut_short = true;
                break 'search;
            }
        }
        outcome.bytes = outcome.bytes.max(seen.bytes() + (level.bytes.len() + next_level.bytes.len()) as u64);
        level = next_level;
        outcome.depth += 1;
    }
    outcome.states = seen.order.len() as u64;
    outcome.bytes = outcome.bytes.max(seen.bytes());
    outcome.found = bad.map(|number| trace(model, &seen, number));
    outcome.seconds = began.elapsed().as_secs_f64();
    outcome
}

/// The way to a state: walked again from the beginning without exchanging members, so that names stay.
fn trace(model: &Model, seen: &Seen, number: usize) -> Counterexample {
    let mut way = Vec::new();
    let mut at = number as u32;
    while at != u32::MAX {
        way.push(seen.order[at as usize]);
        at = seen.parents[at as usize];
    }
    let start = model.initial();
    let (mut steps, mut nexts) = (Vec::new(), Vec::new());
    let (mut bytes, mut other) = (Vec::new(), Vec::new());
    let mut state = start;
    for wanted in way.iter().rev().skip(1) {
        model.successors(&state, &mut nexts);
        let step = nexts.iter().find(|(_, next)| {
            model.canonical(next, &mut bytes, &mut other);
            fingerprint(&bytes) == *wanted
        });
        let (step, next) = step.expect("a state that was found has a way to it");
        steps.push((*step, *next));
        state = *next;
    }
    let violation = model.violation(&state).unwrap_or_default();
    Counterexample { violation, start, steps }
}

impl Reached {
    fn note(&mut self, model: &Model, state: &State) {
        let attempts = || model.all_epochs().map(|e| state.attempt(e));
        let newest = model.all_epochs().filter(|e| state.attempt(*e).opened).max().unwrap_or(0);
        self.opened = self.opened.max(newest);
        for a in attempts().filter(|a| a.phase == Phase::Holding && !a.pending) {
            let in_force = a.in_force.0[0];
            self.changed |= in_force.shape() != 0;
            self.readmitted |= in_force.vote_lives() != 0;
            self.renewed |= in_force.sync_lives() != 0;
        }
        self.forced |= state.lineages.iter().any(|l| l.generation > 0 && l.opened);
        self.in_memory |= (2..=newest).any(|e| state.attempt(e).opened && model.is_diskless(state.attempt(e).node));
        let outlived = |e: u8| state.attempt(e).opened && state.attempt(e).phase == Phase::Holding;
        self.overtaken |= (1..newest).any(outlived);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::SEARCHES;

    /// What is not written down is lost to the search: in the first states of every search, nothing is.
    #[test]
    fn a_state_comes_back_from_its_bytes() {
        for search in SEARCHES {
            let model = search.model(None);
            let (mut bytes, mut nexts) = (Vec::new(), Vec::new());
            let mut states = vec![model.initial()];
            for at in 0..2000 {
                let Some(state) = states.get(at).copied() else { break };
                encode::encode(&state, &model.coding, &mut bytes);
                assert_eq!(encode::decode(&bytes, &model.coding), state, "{} {}", search.layout, search.name);
                model.successors(&state, &mut nexts);
                // Not the first ones only: these would all be of one kind.
                states.extend(nexts.iter().map(|(_, next)| *next).skip(at % 3).step_by(2));
            }
        }
    }

    /// Without a copy a member has its epoch's log or nothing, and nothing of it is durable, reported or acked.
    #[test]
    fn memory_is_the_log_of_an_epoch_that_is_held() {
        for search in SEARCHES.iter().filter(|s| s.layout().diskless.is_some()) {
            let model = search.model(None);
            let (d, _) = model.layout.diskless.expect("it was asked for");
            let (mut states, mut nexts, mut held, mut lost) = (vec![model.initial()], Vec::new(), 0, 0);
            for at in 0..4000 {
                let Some(state) = states.get(at).copied() else { break };
                let r = &state.replicas[usize::from(d)];
                let live = |e: &u8| state.attempt(*e).node == d && state.attempt(*e).phase == Phase::Holding;
                let log = model.all_epochs().find(live).map(|e| state.attempt(e).log).unwrap_or_default();
                assert_eq!((r.log, r.durable, r.owed), (log, 0, 0), "{} {}", search.layout, search.name);
                for e in model.all_epochs() {
                    let (a, d) = (state.attempt(e), usize::from(d));
                    assert!(a.promises[d].log.is_empty() && !a.acks[d].given);
                }
                model.successors(&state, &mut nexts);
                let of = |s: &State| !s.replicas[usize::from(d)].log.is_empty();
                held += usize::from(of(&state));
                lost += nexts.iter().filter(|(_, next)| of(&state) && !of(next)).count();
                states.extend(nexts.iter().map(|(_, next)| *next).skip(at % 3).step_by(2));
            }
            assert!(held > 0 && lost > 0, "{} {}", search.layout, search.name);
        }
    }

    #[test]
    fn different_bytes_have_different_fingerprints() {
        let mut seen = Seen::new();
        let texts = (0..100_000_u32).map(|i| i.to_le_bytes()[..1 + (i % 4) as usize].to_vec());
        let distinct: std::collections::BTreeSet<Vec<u8>> = texts.collect();
        let new = distinct.iter().filter(|text| seen.insert(fingerprint(text), 0)).count();
        assert_eq!(new, distinct.len());
        assert!(distinct.iter().all(|text| !seen.insert(fingerprint(text), 0)), "all of them are known now");
    }
}
