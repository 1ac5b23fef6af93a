//! Epoch history: which epoch each stretch of a log belongs to, and where two logs part.
//!
//! A replica's history is always derived from the records it holds, never from what it was told (so "the last
//! epoch" is that of the last durable *record*).

use crate::ids::{Epoch, Seq};

/// Where each epoch begins, oldest first: strictly increasing epochs, strictly increasing first seqs (I14).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History(pub Vec<(Epoch, Seq)>);

impl History {
    /// Notes that the record at `seq` has `epoch`. Records come in seq order.
    pub fn note(&mut self, epoch: Epoch, seq: Seq) {
        match self.0.last() {
            Some((last, _)) if *last == epoch => {}
            _ => self.0.push((epoch, seq)),
        }
    }

    /// Forgets everything above `end`.
    pub fn truncate(&mut self, end: Seq) {
        while self.0.last().is_some_and(|(_, first)| *first > end) {
            self.0.pop();
        }
    }

    pub fn last_epoch(&self) -> Epoch {
        self.0.last().map_or(Epoch::ZERO, |(epoch, _)| *epoch)
    }

    pub fn epoch_of(&self, seq: Seq) -> Option<Epoch> {
        self.0.iter().rev().find(|(_, first)| *first <= seq).map(|(epoch, _)| *epoch)
    }

    /// Is this a well-formed history? Foreign ones are checked before use.
    pub fn is_ordered(&self) -> bool {
        self.0.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1)
    }

    /// The greatest seq up to which a log with this history ending at `end` agrees with one with `other` ending at
    /// `other_end`. Two logs that both hold records of one epoch agree up to the shorter stretch of it (I4), so the
    /// last epoch that both begin at the same seq decides.
    pub fn common_point(&self, end: Seq, other: &History, other_end: Seq) -> Seq {
        let stretch_end = |history: &History, i: usize, end: Seq| match history.0.get(i + 1) {
            Some((_, next)) => next.prev().min(end),
            None => end,
        };
        for (i, (epoch, first)) in self.0.iter().enumerate().rev() {
            if *first > end {
                continue;
            }
            if let Some(j) = other.0.iter().position(|(e, f)| e == epoch && f == first)
                && *first <= other_end
            {
                return stretch_end(self, i, end).min(stretch_end(other, j, other_end));
            }
        }
        Seq::ZERO
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One log's history and end, the other's, and where they part.
    type Case = (&'static [(u64, u64)], u64, &'static [(u64, u64)], u64, u64);

    fn h(entries: &[(u64, u64)]) -> History {
        History(entries.iter().map(|(n, s)| (Epoch { n: *n, writer: 0 }, Seq(*s))).collect())
    }

    #[test]
    fn logs_part_where_their_epochs_do() {
        let cases: &[Case] = &[
            (&[(1, 1)], 10, &[(1, 1)], 7, 7),
            (&[(1, 1), (2, 6)], 9, &[(1, 1)], 8, 5),
            (&[(1, 1), (2, 6)], 9, &[(1, 1), (3, 8)], 12, 5),
            (&[(1, 1), (2, 6), (3, 10)], 12, &[(1, 1), (2, 6)], 20, 9),
            (&[], 0, &[(1, 1)], 5, 0),
            (&[(1, 1)], 5, &[(2, 1)], 5, 0),
        ];
        for (a, a_end, b, b_end, want) in cases {
            assert_eq!(h(a).common_point(Seq(*a_end), &h(b), Seq(*b_end)), Seq(*want), "{a:?} {b:?}");
            assert_eq!(h(b).common_point(Seq(*b_end), &h(a), Seq(*a_end)), Seq(*want), "symmetric: {a:?} {b:?}");
        }
    }

    #[test]
    fn the_last_epoch_is_that_of_the_last_record() {
        let mut history = History::default();
        history.note(Epoch { n: 1, writer: 0 }, Seq(1));
        history.note(Epoch { n: 4, writer: 0 }, Seq(5));
        assert_eq!(history.last_epoch().n, 4);
        history.truncate(Seq(4));
        assert_eq!(history.last_epoch().n, 1, "a truncated EpochStart leaves nothing behind");
    }

    /// A log as naive as can be: the epoch of each record, the first at seq 1.
    type Naive = Vec<u64>;

    fn derived(log: &Naive) -> History {
        let mut history = History::default();
        for (at, n) in log.iter().enumerate() {
            history.note(Epoch { n: *n, writer: 0 }, Seq(at as u64 + 1));
        }
        history
    }

    /// Two replicas' logs, as the protocol makes them: whoever wins an epoch cuts its own log somewhere and writes on;
    /// the other adopts some of that. So a record is known by its epoch and seq (I4).
    fn logs() -> impl Strategy<Value = [Naive; 2]> {
        let step = (0_usize..2, 0_usize..30, 0_usize..5, prop::option::of(0_usize..40));
        prop::collection::vec(step, 0..12).prop_map(|steps| {
            let mut logs: [Naive; 2] = Default::default();
            for (n, (winner, cut, len, adopted)) in steps.into_iter().enumerate() {
                logs[winner].truncate(cut);
                logs[winner].extend(std::iter::repeat_n(n as u64 + 1, len));
                if let Some(adopted) = adopted {
                    logs[1 - winner] = logs[winner][..adopted.min(logs[winner].len())].to_vec();
                }
            }
            logs
        })
    }

    proptest! {
        #[test]
        fn logs_agree_as_far_as_their_records_do([a, b] in logs()) {
            let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count() as u64;
            let (end_a, end_b) = (Seq(a.len() as u64), Seq(b.len() as u64));
            prop_assert_eq!(derived(&a).common_point(end_a, &derived(&b), end_b), Seq(same));
            prop_assert_eq!(derived(&b).common_point(end_b, &derived(&a), end_a), Seq(same));
        }

        #[test]
        fn a_history_is_that_of_the_records([a, _] in logs(), cut in 0_usize..40) {
            let mut history = derived(&a);
            prop_assert!(history.is_ordered());
            let kept = a[..cut.min(a.len())].to_vec();
            history.truncate(Seq(kept.len() as u64));
            prop_assert_eq!(&history, &derived(&kept));
            prop_assert_eq!(history.last_epoch().n, kept.last().copied().unwrap_or_default());
            for (at, n) in kept.iter().enumerate() {
                prop_assert_eq!(history.epoch_of(Seq(at as u64 + 1)).map(|epoch| epoch.n), Some(*n));
            }
            prop_assert_eq!(history.epoch_of(Seq::ZERO), None);
        }
    }
}
