//! Links between nodes: delay, jitter, loss, duplication, late copies, cuts in one direction or both.

use std::collections::BTreeMap;

use farshore_core::ids::MemberId;

use crate::dice::Dice;

#[derive(Debug, Clone)]
pub struct Weather {
    pub delay_us: u64,
    pub jitter_us: u64,
    pub loss_per_mille: u32,
    pub copy_per_mille: u32,
    /// Messages (or second copies) that arrive up to this much later.
    pub late_per_mille: u32,
    pub late_us: u64,
}

impl Weather {
    pub fn draw(dice: &mut Dice) -> Weather {
        let delay_us = dice.skewed(100, 40_000);
        Weather {
            delay_us,
            jitter_us: dice.skewed(10, delay_us * 4),
            loss_per_mille: if dice.chance(500) { 0 } else { dice.skewed(1, 100) as u32 },
            copy_per_mille: if dice.chance(500) { 0 } else { dice.skewed(1, 100) as u32 },
            late_per_mille: if dice.chance(300) { 0 } else { dice.skewed(1, 30) as u32 },
            late_us: dice.range(100_000, 12_000_000),
        }
    }

    pub fn fair() -> Weather {
        Weather { delay_us: 1000, jitter_us: 200, loss_per_mille: 0, copy_per_mille: 0, late_per_mille: 0, late_us: 0 }
    }
}

pub struct Network {
    pub weather: Weather,
    /// Directions that carry nothing.
    cuts: BTreeMap<(MemberId, MemberId), ()>,
}

impl Network {
    pub fn new(weather: Weather) -> Network {
        Network { weather, cuts: BTreeMap::new() }
    }

    pub fn cut(&mut self, from: MemberId, to: MemberId) {
        self.cuts.insert((from, to), ());
    }

    pub fn mend(&mut self, from: MemberId, to: MemberId) {
        self.cuts.remove(&(from, to));
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    pub fn is_cut(&self, from: MemberId, to: MemberId) -> bool {
        self.cuts.contains_key(&(from, to))
    }

    pub fn cuts(&self) -> usize {
        self.cuts.len()
    }

    /// After which times a message arrives: never, once or twice.
    pub fn delays(&self, from: MemberId, to: MemberId, dice: &mut Dice) -> Vec<u64> {
        let mut delays = Vec::new();
        let w = &self.weather;
        if self.is_cut(from, to) || dice.chance(w.loss_per_mille) {
            return delays;
        }
        let copies = if dice.chance(w.copy_per_mille) { 2 } else { 1 };
        for copy in 0..copies {
            let mut delay = w.delay_us + dice.range(0, w.jitter_us);
            if dice.chance(if copy == 0 { w.late_per_mille } else { 500 }) {
                delay += dice.range(0, w.late_us);
            }
            delays.push(delay);
        }
        delays
    }
}
