//! Which places of the slab are taken: a bitmap in memory, rebuilt from the index at every open.
//!
//! A place that is given up is not given back at once: the index on disk may still name it. It comes back through
//! [`SpaceMap::release`] when a checkpoint past the free is durable.

use super::extent::{EXTENT_BYTES, Place};

#[derive(Debug)]
pub(super) struct SpaceMap {
    /// Bit set: taken. Place 0 is the slab's header.
    words: Vec<u64>,
    /// Places below this exist.
    places: u64,
    used: u64,
    /// Where the next search begins, so that what is written together lies together.
    hint: u64,
}

impl SpaceMap {
    pub fn new(capacity_bytes: u64) -> SpaceMap {
        let places = (capacity_bytes / EXTENT_BYTES).max(1);
        let mut map = SpaceMap { words: vec![0; places.div_ceil(64) as usize], places, used: 0, hint: 1 };
        map.words[0] = 1;
        map
    }

    fn is_taken(&self, place: Place) -> bool {
        self.words[(place.0 / 64) as usize] & (1 << (place.0 % 64)) != 0
    }

    fn set(&mut self, place: Place) {
        self.words[(place.0 / 64) as usize] |= 1 << (place.0 % 64);
        self.used += 1;
    }

    /// Takes a place that the index names, growing the map if the store had more space once. False: it is taken
    /// already, so the index names it twice.
    #[must_use]
    pub fn claim(&mut self, place: Place) -> bool {
        if place.0 >= self.places {
            self.places = place.0 + 1;
            self.words.resize(self.places.div_ceil(64) as usize, 0);
        }
        if self.is_taken(place) {
            return false;
        }
        self.set(place);
        true
    }

    /// Takes `count` places, adjacent ones as far as possible, or none.
    pub fn allocate(&mut self, count: u64) -> Option<Vec<Place>> {
        if count > self.free() {
            return None;
        }
        let mut out = Vec::with_capacity(count as usize);
        let mut at = self.hint;
        while (out.len() as u64) < count {
            if at >= self.places {
                at = 1;
            }
            let word = self.words[(at / 64) as usize];
            if word == u64::MAX {
                at = (at / 64 + 1) * 64;
                continue;
            }
            if word & (1 << (at % 64)) == 0 {
                self.set(Place(at));
                out.push(Place(at));
            }
            at += 1;
        }
        self.hint = at;
        Some(out)
    }

    pub fn release(&mut self, places: &[Place]) {
        for &place in places {
            assert!(place.is_some() && self.is_taken(place), "place {place:?} is freed twice");
            self.words[(place.0 / 64) as usize] &= !(1 << (place.0 % 64));
            self.used -= 1;
            // Low places first: the slab stays short, and a fresh file's tail is never touched without need.
            self.hint = self.hint.min(place.0);
        }
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    /// Places that can be taken now.
    pub fn free(&self) -> u64 {
        self.places - 1 - self.used
    }

    /// Bytes that volumes can use, the slab's header excluded.
    pub fn capacity_bytes(&self) -> u64 {
        (self.places - 1) * EXTENT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_or_nothing_and_adjacent() {
        let mut map = SpaceMap::new(10 * EXTENT_BYTES);
        assert_eq!(map.free(), 9);
        assert_eq!(map.allocate(3).unwrap(), vec![Place(1), Place(2), Place(3)]);
        assert!(map.allocate(7).is_none());
        assert_eq!(map.free(), 6);
        map.release(&[Place(2)]);
        assert_eq!(map.allocate(1).unwrap(), vec![Place(2)]);
    }

    #[test]
    fn a_place_claimed_twice_is_told() {
        let mut map = SpaceMap::new(4 * EXTENT_BYTES);
        assert!(map.claim(Place(3)));
        assert!(!map.claim(Place(3)));
        assert!(map.claim(Place(200)), "the map grows to what the index names");
        assert_eq!(map.used(), 2);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(steps in prop::collection::vec((any::<bool>(), 0u64..20), 1..200)) {
            let mut map = SpaceMap::new(130 * EXTENT_BYTES);
            let mut taken: BTreeSet<Place> = BTreeSet::new();
            for (take, count) in steps {
                if take {
                    match map.allocate(count) {
                        Some(places) => for place in places {
                            prop_assert!(place.0 > 0 && place.0 < 130 && taken.insert(place));
                        },
                        None => prop_assert!(taken.len() as u64 + count > 129),
                    }
                } else {
                    let some: Vec<Place> = taken.iter().copied().step_by(3).take(count as usize).collect();
                    map.release(&some);
                    taken.retain(|place| !some.contains(place));
                }
                prop_assert_eq!(map.used(), taken.len() as u64);
            }
        }
    }
}
