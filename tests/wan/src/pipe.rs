//! One direction of a link as a rule, without a clock: what becomes of each datagram, and when it comes out.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::conditions::{Conditions, HEADER_BYTES};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Comes out then.
    Due(Instant),
    /// Lost on the way, at random or because the link is cut.
    Lost,
    /// The bottleneck's queue is full.
    Dropped,
}

pub(crate) struct Pipe {
    dice: StdRng,
    /// The bottleneck is at work until then.
    busy_until: Option<Instant>,
    /// Of the newest datagram that was not held back: jitter does not reorder.
    last_due: Option<Instant>,
}

impl Pipe {
    pub fn new(seed: u64) -> Pipe {
        Pipe { dice: StdRng::seed_from_u64(seed), busy_until: None, last_due: None }
    }

    pub fn take(&mut self, now: Instant, bytes: usize, conditions: &Conditions) -> Fate {
        if conditions.cut {
            return Fate::Lost;
        }
        let Some(leaves) = self.pass_bottleneck(now, bytes as u64 + HEADER_BYTES, conditions) else {
            return Fate::Dropped;
        };
        if self.happens(conditions.loss) {
            return Fate::Lost;
        }
        let jitter = conditions.jitter.mul_f64(if conditions.jitter.is_zero() { 0.0 } else { self.dice.random() });
        let due = leaves + conditions.delay + jitter;
        if self.happens(conditions.reorder) {
            return Fate::Due(due + conditions.reorder_by);
        }
        // A delay that was shortened a moment ago does not reorder either.
        let due = self.last_due.map_or(due, |last| due.max(last));
        self.last_due = Some(due);
        Fate::Due(due)
    }

    /// When its last bit has left; `None` where the queue has no room.
    fn pass_bottleneck(&mut self, now: Instant, bytes: u64, conditions: &Conditions) -> Option<Instant> {
        let Some(bits_per_second) = conditions.bandwidth else { return Some(now) };
        let rate = bits_per_second.max(1) as f64 / 8.0;
        let begins = self.busy_until.map_or(now, |until| until.max(now));
        let waiting = (begins - now).as_secs_f64() * rate;
        if waiting + bytes as f64 > conditions.queue_bytes as f64 {
            return None;
        }
        let leaves = begins + Duration::from_secs_f64(bytes as f64 / rate);
        self.busy_until = Some(leaves);
        Some(leaves)
    }

    fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.dice.random::<f64>() < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(fate: Fate) -> Instant {
        match fate {
            Fate::Due(due) => due,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wire_passes_everything_at_once_and_a_cut_one_nothing() {
        let (mut pipe, now) = (Pipe::new(1), Instant::now());
        assert_eq!(pipe.take(now, 1200, &Conditions::default()), Fate::Due(now));
        assert_eq!(pipe.take(now, 1200, &Conditions { cut: true, ..Conditions::default() }), Fate::Lost);
    }

    #[test]
    fn delay_is_added_and_jitter_keeps_the_order() {
        let (mut pipe, now) = (Pipe::new(2), Instant::now());
        let conditions =
            Conditions { jitter: Duration::from_millis(7), ..Conditions::of_rtt(Duration::from_millis(20)) };
        let (least, most) = (now + Duration::from_millis(10), now + Duration::from_millis(17));
        let mut last = now;
        for _ in 0..1000 {
            let due = at(pipe.take(now, 100, &conditions));
            assert!(due >= least && due <= most && due >= last);
            last = due;
        }
        assert!(last > least + Duration::from_millis(5), "jitter is used");
    }

    #[test]
    fn the_part_that_is_lost_is_what_was_asked_for() {
        let (mut pipe, now) = (Pipe::new(3), Instant::now());
        for (loss, least, most) in [(0.01, 800, 1200), (0.001, 60, 140), (0.0, 0, 0)] {
            let conditions = Conditions { loss, ..Conditions::default() };
            let lost = (0..100_000).filter(|_| pipe.take(now, 1000, &conditions) == Fate::Lost).count();
            assert!(lost >= least && lost <= most, "{lost} of 100000 at {loss}");
        }
    }

    #[test]
    fn a_bottleneck_spaces_datagrams_and_drops_what_its_queue_does_not_hold() {
        let (mut pipe, now) = (Pipe::new(4), Instant::now());
        // 1000 bytes on the wire at 8 Mbit/s: a millisecond each; ten of them fit.
        let conditions = Conditions { bandwidth: Some(8_000_000), queue_bytes: 10_000, ..Conditions::default() };
        let bytes = 1000 - HEADER_BYTES as usize;
        for n in 1..=10u64 {
            let due = at(pipe.take(now, bytes, &conditions));
            assert_eq!((due - now).as_millis() as u64, n);
        }
        assert_eq!(pipe.take(now, bytes, &conditions), Fate::Dropped);
        // Five milliseconds later there is room for five.
        let later = now + Duration::from_millis(5);
        let passed = (0..20).filter(|_| pipe.take(later, bytes, &conditions) != Fate::Dropped).count();
        assert_eq!(passed, 5);
        // After a pause the bottleneck is idle.
        let idle = now + Duration::from_secs(1);
        assert_eq!((at(pipe.take(idle, bytes, &conditions)) - idle).as_millis(), 1);
    }

    #[test]
    fn those_held_back_are_overtaken() {
        let (mut pipe, now) = (Pipe::new(5), Instant::now());
        let conditions = Conditions { reorder: 0.1, ..Conditions::default() };
        let dues: Vec<Instant> = (0..1000).map(|_| at(pipe.take(now, 100, &conditions))).collect();
        let overtaken = dues.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((50..150).contains(&overtaken), "{overtaken}");
    }

    #[test]
    fn the_same_seed_gives_the_same_losses() {
        let run = |seed| {
            let (mut pipe, now) = (Pipe::new(seed), Instant::now());
            let conditions = Conditions { loss: 0.5, ..Conditions::default() };
            (0..64).map(|_| pipe.take(now, 100, &conditions) == Fate::Lost).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
