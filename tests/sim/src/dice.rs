//! The one source of randomness of a run: everything is drawn from the seed, so a seed replays.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub struct Dice(StdRng);

impl Dice {
    pub fn seeded(seed: u64) -> Dice {
        Dice(StdRng::seed_from_u64(seed))
    }

    /// True in `per_mille` of 1000 throws.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.0.random_range(0..1000) < per_mille
    }

    /// A number in `[least, most]`.
    pub fn range(&mut self, least: u64, most: u64) -> u64 {
        self.0.random_range(least..=most.max(least))
    }

    /// Like `range`, but small numbers are far likelier: the order of magnitude is drawn first.
    pub fn skewed(&mut self, least: u64, most: u64) -> u64 {
        let bits = u64::BITS - (most.max(least) - least).leading_zeros();
        let drawn = self.range(0, u64::from(bits));
        let top = if drawn >= 63 { u64::MAX } else { (1 << drawn) - 1 };
        least + self.range(0, top.min(most.max(least) - least))
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.range(0, from.len() as u64 - 1) as usize]) }
    }

    pub fn u128(&mut self) -> u128 {
        self.0.random()
    }
}
