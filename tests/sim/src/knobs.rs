//! What a seed fixes for a whole run: speeds, habits, clocks.

use farshore_core::ids::Tick;

use crate::clients::IN_FLIGHT_MAX;
use crate::dice::Dice;
use crate::opening::Shape;

/// What a seed fixes about speed and habits of the nodes.
pub struct Knobs {
    pub lease_us: u64,
    pub sync_us: u64,
    pub apply_us: u64,
    pub read_us: u64,
    pub checkpoint_us: u64,
    /// Records that one read of the journal brings, at most.
    pub read_records: usize,
    pub ship_us: u64,
    /// Checkpointed records that the journal keeps for catching up.
    pub journal_keep: u64,
    /// How often flushing waits for more events.
    pub lazy_flush_per_mille: u32,
    pub clients: u64,
    /// Requests in flight before only reads are made.
    pub in_flight: usize,
    pub think_us: u64,
    /// Mean time between records of the other volume in the journal.
    pub neighbour_us: u64,
    pub journal: Shape,
    /// Mean times between faults and between orders.
    pub calm_us: u64,
    pub patience_us: u64,
    /// How often an order begins with a blow at the holder.
    pub drama_per_mille: u32,
}

impl Knobs {
    pub fn draw(dice: &mut Dice, flush_class: bool) -> Knobs {
        Knobs {
            lease_us: dice
                .pick(if flush_class { &[400_000, 1_000_000] } else { &[400_000, 1_000_000, 4_000_000] })
                .unwrap_or(400_000),
            sync_us: dice.skewed(50, 8_000),
            apply_us: dice.skewed(20, 20_000),
            read_us: dice.skewed(20, 10_000),
            checkpoint_us: dice.range(100_000, 2_000_000),
            read_records: if dice.chance(500) { 1024 } else { dice.skewed(1, 64) as usize },
            ship_us: dice.skewed(1_000, 1_000_000),
            journal_keep: dice.skewed(0, 400),
            lazy_flush_per_mille: if dice.chance(500) { 0 } else { 300 },
            clients: dice.range(1, if flush_class { 3 } else { 6 }),
            in_flight: dice.skewed(2, IN_FLIGHT_MAX) as usize,
            think_us: dice.skewed(8_000, 100_000),
            neighbour_us: dice.skewed(20_000, 2_000_000),
            journal: Shape::draw(dice),
            calm_us: dice.range(100_000, 1_200_000),
            patience_us: dice.range(60_000, 800_000),
            drama_per_mille: dice.range(0, 500) as u32,
        }
    }
}

/// A boot clock: starts anywhere, runs up to half a per cent fast or slow.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    offset: u64,
    drift_ppm: i64,
}

impl Clock {
    pub fn draw(dice: &mut Dice) -> Clock {
        Clock { offset: dice.range(0, 1 << 40), drift_ppm: dice.range(0, 10_000) as i64 - 5_000 }
    }

    pub fn at(&self, now: u64) -> Tick {
        Tick(self.offset + (i128::from(now) * (1_000_000 + i128::from(self.drift_ppm)) / 1_000_000) as u64)
    }

    pub fn jump(&mut self, by_us: u64) {
        self.offset += by_us;
    }

    /// When this clock will show `tick`.
    pub fn until(&self, tick: Tick, now: u64) -> u64 {
        let local = tick.since(self.at(now));
        now + (i128::from(local) * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm))) as u64 + 1
    }
}
