//! Parts of a shipment's listing, in whatever order they came: which are at the target, which are proven.

use std::collections::BTreeMap;

use super::answers::Arrived;
use crate::store::Cursor;

/// Parts beyond gaps that are remembered; what is beyond that would be sent, or compared, again.
const BEYOND_MAX: usize = 1024;

/// Two parts are joined only where one begins exactly where the other ends: a listing that is made in another order has
/// other places, and none of them between these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spans {
    upto: Cursor,
    beyond: BTreeMap<Cursor, Cursor>,
}

impl From<Cursor> for Spans {
    fn from(upto: Cursor) -> Spans {
        Spans { upto, beyond: BTreeMap::new() }
    }
}

impl Spans {
    /// One more part. How far all are here, if that is news.
    pub fn add(&mut self, (from, after): (Cursor, Cursor)) -> Option<Cursor> {
        let known = |until: &Cursor| *until >= after;
        if from >= after || after <= self.upto || self.beyond.get(&from).is_some_and(known) {
            return None;
        }
        if from != self.upto && self.beyond.len() >= BEYOND_MAX {
            return None;
        }
        let after = self.beyond.remove(&after).unwrap_or(after);
        if from != self.upto {
            match self.beyond.range_mut(..from).next_back() {
                Some((_, until)) if *until == from => *until = after,
                _ => drop(self.beyond.insert(from, after)),
            }
            return None;
        }
        self.upto = after;
        Some(after)
    }

    pub fn arrived(&self) -> Arrived {
        let beyond = self.beyond.iter().map(|(from, after)| (*from, *after));
        Arrived { upto: self.upto, beyond: beyond.collect() }
    }

    /// What of them is among those that arrived.
    pub fn within(mut self, arrived: &Arrived) -> Spans {
        let inside = |from: &Cursor, after: &Cursor| arrived.beyond.iter().any(|(f, a)| f <= from && after <= a);
        self.upto = self.upto.min(arrived.upto);
        self.beyond.retain(|from, after| *after <= arrived.upto || inside(from, after));
        self
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::Seq;

    use super::*;

    fn at(extent: u64) -> Cursor {
        Cursor { seq: Seq(1), extent }
    }

    fn span(from: u64, after: u64) -> (Cursor, Cursor) {
        (at(from), at(after))
    }

    #[test]
    fn what_is_beyond_a_gap_is_remembered_and_joined() {
        let mut spans = Spans::from(at(10));
        assert_eq!(spans.add(span(20, 30)), None);
        assert_eq!(spans.add(span(40, 50)), None);
        assert_eq!(spans.add(span(20, 30)), None, "once more");
        assert_eq!(spans.arrived(), Arrived { upto: at(10), beyond: vec![span(20, 30), span(40, 50)] });
        assert_eq!(spans.add(span(10, 20)), Some(at(30)));
        assert_eq!(spans.add(span(5, 10)), None, "late");
        assert_eq!(spans.add(span(30, 40)), Some(at(50)));
        assert_eq!(spans.arrived(), Arrived { upto: at(50), beyond: vec![] });
    }

    #[test]
    fn one_gap_is_one_gap_however_much_comes_behind_it() {
        let mut spans = Spans::default();
        for from in (10..10 + 4 * BEYOND_MAX as u64).rev() {
            assert_eq!(spans.add(span(from, from + 1)), None);
        }
        let end = 10 + 4 * BEYOND_MAX as u64;
        for from in end..end + 10 {
            assert_eq!(spans.add(span(from, from + 1)), None);
        }
        assert_eq!(spans.add(span(15, 16)), None, "once more");
        let beyond: Vec<_> = spans.arrived().beyond;
        assert_eq!(beyond[0], span(10, end + 10), "{beyond:?}");
        assert_eq!(spans.add((Cursor::default(), at(10))), Some(at(end + 10)));
    }

    /// A source that began again may list in the order of extents what it listed in the order of seqs before.
    #[test]
    fn parts_of_another_order_are_not_joined() {
        let mut spans = Spans::default();
        let scan = |extent| Cursor { seq: Seq::ZERO, extent };
        let end = Cursor { seq: Seq(u64::MAX), extent: u64::MAX - 1 };
        assert_eq!(spans.add((scan(900), end)), None);
        assert_eq!(spans.add((Cursor::default(), at(7))), Some(at(7)), "that is beyond 900 of the other order");
        assert_eq!(spans.arrived().upto, at(7));
    }

    #[test]
    fn what_the_target_lost_counts_no_more() {
        let mut proven = Spans::from(at(30));
        for span in [span(40, 50), span(60, 70), span(80, 90)] {
            proven.add(span);
        }
        let arrived = Arrived { upto: at(55), beyond: vec![span(60, 75), span(82, 90)] };
        let left = proven.clone().within(&arrived).arrived();
        assert_eq!(left, Arrived { upto: at(30), beyond: vec![span(40, 50), span(60, 70)] });
        let left = proven.within(&Arrived { upto: at(20), beyond: vec![] }).arrived();
        assert_eq!(left, Arrived { upto: at(20), beyond: vec![] }, "its daemon began again");
    }
}
