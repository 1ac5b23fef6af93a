//! A state as few bytes, and back. Two states are the same if their bytes are.

use crate::log::Log;
use crate::state::{Answer, Attempt, Lineage, Phase, Replica, Report, State};
use crate::terms::{TermSet, Terms, Version};

const PHASES: [Phase; 6] = [Phase::Unused, Phase::Preparing, Phase::Forking, Phase::Holding, Phase::Gone, Phase::Past];

pub struct Shape {
    pub members: usize,
    pub epochs: usize,
    /// Without force there is one lineage, and nothing of the others is written down.
    pub lineages: bool,
}

pub fn encode(state: &State, shape: &Shape, out: &mut Vec<u8>) {
    out.clear();
    let counts = state.writes | state.changes << 3 | state.wipes << 6;
    out.push(counts);
    for r in &state.replicas[..shape.members] {
        put_log(r.log, out);
        out.push(r.durable | r.life << 4 | r.lineage << 5 | u8::from(r.told != 0) << 7);
        out.push(r.promised | r.owed << 3);
        out.push(r.config.0);
        if r.told != 0 {
            out.push(r.told);
        }
    }
    for a in &state.attempts[..shape.epochs] {
        out.push(
            PHASES.iter().position(|p| *p == a.phase).unwrap_or(0) as u8 | a.node << 3 | a.life << 5 | a.lineage << 6,
        );
        match a.phase {
            Phase::Unused => out.push(a.fence),
            Phase::Preparing | Phase::Forking => {
                out.push(a.fence);
                put_reports(a, shape, out);
                put_values(a, out);
            }
            Phase::Holding => {
                put_held(a, out);
                out.push(a.acked | u8::from(a.pending) << 7 | u8::from(a.opened) << 6);
                out.push(a.won_with);
                put_terms(&a.in_force, out);
                if a.pending {
                    put_terms(&a.under, out);
                }
                for m in 0..shape.members {
                    put_answer(a.acks[m], out);
                    put_answer(a.stored[m], out);
                }
                put_values(a, out);
            }
            Phase::Gone => {
                put_held(a, out);
                out.push(u8::from(a.opened));
                put_values(a, out);
            }
            Phase::Past => {
                out.extend([a.found.0, a.effect, a.fence]);
                put_values(a, out);
            }
        }
    }
    if shape.lineages {
        out.push(state.forces);
        for l in &state.lineages[1..] {
            out.push(l.generation | l.parent << 2 | u8::from(l.opened) << 4 | l.choice << 5);
            if l.generation > 0 {
                out.push(l.named);
                l.held[..shape.members].iter().for_each(|log| put_log(*log, out));
            }
        }
    }
}

pub fn decode(bytes: &[u8], shape: &Shape) -> State {
    let mut at = Reader { bytes, at: 0 };
    let mut state = State::default();
    let counts = at.u8();
    (state.writes, state.changes, state.wipes) = (counts & 7, counts >> 3 & 7, counts >> 6);
    state.lineages[0].generation = 0;
    for r in &mut state.replicas[..shape.members] {
        *r = get_replica(&mut at);
    }
    for a in &mut state.attempts[..shape.epochs] {
        get_attempt(a, shape, &mut at);
    }
    if shape.lineages {
        state.forces = at.u8();
        for l in &mut state.lineages[1..] {
            get_lineage(l, shape, &mut at);
        }
    }
    debug_assert_eq!(at.at, bytes.len());
    state
}

fn put_log(log: Log, out: &mut Vec<u8>) {
    // Its length first; two records and a bit to a byte.
    let len = log.len();
    out.push(len);
    let bytes = log.0.to_le_bytes();
    out.extend_from_slice(&bytes[..(usize::from(len) * 3).div_ceil(8)]);
}

fn put_held(a: &Attempt, out: &mut Vec<u8>) {
    put_log(a.log, out);
    out.extend([a.start | a.served << 4, a.found.0, a.effect, a.fence]);
}

fn put_terms(terms: &TermSet, out: &mut Vec<u8>) {
    out.push(terms.len() as u8);
    terms.iter().for_each(|t| out.extend(t.0.to_le_bytes()));
}

fn put_values(a: &Attempt, out: &mut Vec<u8>) {
    out.push(a.k);
    for value in &a.values[..usize::from(a.k)] {
        put_terms(&value.earlier, out);
        out.extend(value.current.0.to_le_bytes());
    }
}

fn put_reports(a: &Attempt, shape: &Shape, out: &mut Vec<u8>) {
    for p in &a.promises[..shape.members] {
        out.push(u8::from(p.given) | p.life << 1 | p.told << 2);
        if p.given {
            put_log(p.log, out);
            out.push(p.config.0);
        }
    }
}

fn put_answer(answer: Answer, out: &mut Vec<u8>) {
    out.push(u8::from(answer.given) | answer.life << 1 | answer.upto << 2);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u8(&mut self) -> u8 {
        self.at += 1;
        self.bytes[self.at - 1]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn log(&mut self) -> Log {
        let len = usize::from(self.u8());
        let mut bytes = [0; 4];
        bytes[..(len * 3).div_ceil(8)].iter_mut().for_each(|b| *b = self.u8());
        Log(u32::from_le_bytes(bytes))
    }

    fn terms(&mut self) -> TermSet {
        let mut terms = TermSet::default();
        let len = usize::from(self.u8());
        terms.0[..len].iter_mut().for_each(|t| *t = Terms(self.u16()));
        terms
    }
}

fn get_replica(at: &mut Reader) -> Replica {
    let log = at.log();
    let (a, b, config) = (at.u8(), at.u8(), Version(at.u8()));
    let told = if a >> 7 == 1 { at.u8() } else { 0 };
    Replica { log, durable: a & 15, life: a >> 4 & 1, lineage: a >> 5 & 3, promised: b & 7, owed: b >> 3, config, told }
}

fn get_attempt(a: &mut Attempt, shape: &Shape, at: &mut Reader) {
    let head = at.u8();
    a.phase = PHASES[usize::from(head & 7)];
    (a.node, a.life, a.lineage) = (head >> 3 & 3, head >> 5 & 1, head >> 6);
    match a.phase {
        Phase::Unused => a.fence = at.u8(),
        Phase::Preparing | Phase::Forking => {
            a.fence = at.u8();
            for p in &mut a.promises[..shape.members] {
                let head = at.u8();
                *p = Report { given: head & 1 == 1, life: head >> 1 & 1, told: head >> 2, ..Report::default() };
                if p.given {
                    p.log = at.log();
                    p.config = Version(at.u8());
                }
            }
            get_values(a, at);
        }
        Phase::Holding => {
            get_held(a, at);
            let head = at.u8();
            (a.acked, a.opened, a.pending) = (head & 63, head >> 6 & 1 == 1, head >> 7 == 1);
            a.won_with = at.u8();
            a.in_force = at.terms();
            if a.pending {
                a.under = at.terms();
            }
            for m in 0..shape.members {
                a.acks[m] = get_answer(at);
                a.stored[m] = get_answer(at);
            }
            get_values(a, at);
        }
        Phase::Gone => {
            get_held(a, at);
            a.opened = at.u8() == 1;
            get_values(a, at);
        }
        Phase::Past => {
            (a.found, a.effect, a.fence) = (Version(at.u8()), at.u8(), at.u8());
            get_values(a, at);
        }
    }
}

fn get_held(a: &mut Attempt, at: &mut Reader) {
    a.log = at.log();
    let both = at.u8();
    (a.start, a.served) = (both & 15, both >> 4);
    (a.found, a.effect, a.fence) = (Version(at.u8()), at.u8(), at.u8());
}

fn get_values(a: &mut Attempt, at: &mut Reader) {
    a.k = at.u8();
    for value in &mut a.values[..usize::from(a.k)] {
        value.earlier = at.terms();
        value.current = Terms(at.u16());
    }
}

fn get_answer(at: &mut Reader) -> Answer {
    let byte = at.u8();
    Answer { given: byte & 1 == 1, life: byte >> 1 & 1, upto: byte >> 2 }
}

fn get_lineage(l: &mut Lineage, shape: &Shape, at: &mut Reader) {
    let head = at.u8();
    (l.generation, l.parent, l.opened, l.choice) = (head & 3, head >> 2 & 3, head >> 4 & 1 == 1, head >> 5);
    if l.generation > 0 {
        l.named = at.u8();
        l.held[..shape.members].iter_mut().for_each(|log| *log = at.log());
    }
}
