//! How much of a volume's space is what it shows, and how much is held beside that: by snapshots, clones and shipments.
//!
//! A write knows whether it takes a place or gives one up, so the number of places that the current view sees is kept as
//! records are applied, and counted anew by the sweep of the whole volume after another image has come into view. Extents
//! below `upto` are counted; those beyond are not looked at until the sweep comes to them.

use farshore_core::ids::VolumeId;

use super::extent::{EXTENT_BYTES, Versions, visible};
use super::root::Store;
use super::volume::State;

/// The volume's own places that its current view sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    places: u64,
    upto: u64,
}

impl Shown {
    /// A volume that has nothing.
    pub const NOTHING: Shown = Shown { places: 0, upto: u64::MAX };
    /// Nobody knows yet.
    pub const UNKNOWN: Shown = Shown { places: 0, upto: 0 };

    pub fn add(&mut self, places: u64) {
        self.places += places;
    }

    /// An extent had a place of the volume's own, or has one now.
    pub fn change(&mut self, extent: u64, had: bool, has: bool) {
        if extent < self.upto {
            self.places = self.places + u64::from(has) - u64::from(had);
        }
    }

    /// A page of a sweep: everything from `from` on, below `next` or to the end.
    pub fn swept(&mut self, from: u64, next: Option<u64>, places_from: impl FnOnce(u64) -> u64) {
        let end = next.unwrap_or(u64::MAX);
        if from <= self.upto && self.upto < end {
            self.places += places_from(self.upto);
            self.upto = end;
        }
    }

    pub fn places(&self) -> Option<u64> {
        (self.upto == u64::MAX).then_some(self.places)
    }
}

impl State {
    /// Is what the current view sees of an extent in a place of the volume's own?
    pub fn shows_own(&self, versions: &Versions) -> bool {
        !self.removing && visible(versions, &self.view).is_some_and(|(_, entry)| entry.own_place().is_some())
    }
}

impl Store {
    /// Space that a volume holds beside what it shows: what snapshots, clones and pins keep, and what is not swept yet. None:
    /// not counted yet, for an image has just been received; or no volume.
    pub fn held_bytes(&self, id: VolumeId) -> Option<u64> {
        let volume = self.live(id).ok()?;
        let state = volume.state();
        Some((state.used_places - state.shown.places()?) * EXTENT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Store {
        /// As [`Store::held_bytes`], by looking at every extent.
        pub fn held_bytes_counted(&self, id: VolumeId) -> Option<u64> {
            let volume = self.live(id).ok()?;
            let state = volume.state();
            let (all, _) = state.page(&self.index, id, 0, usize::MAX).unwrap();
            let shown = all.values().filter(|versions| state.shows_own(versions)).count() as u64;
            Some((state.used_places - shown) * EXTENT_BYTES)
        }
    }

    #[test]
    fn what_changes_while_it_is_counted_is_counted_once() {
        let mut shown = Shown::UNKNOWN;
        assert_eq!(shown.places(), None);
        // Not reached yet: the sweep will see it.
        shown.change(9, false, true);
        shown.swept(0, Some(5), |from| 5 - from);
        shown.change(4, true, false);
        shown.change(9, true, false);
        // Another sweep began anew, with other pages.
        shown.swept(0, Some(3), |_| panic!("counted already"));
        shown.swept(3, Some(8), |from| 8 - from);
        assert_eq!(shown.places(), None);
        shown.swept(9, None, |_| panic!("something would be left out"));
        shown.swept(8, None, |_| 1);
        assert_eq!(shown.places(), Some(4 + 3 + 1));
        shown.change(u64::MAX - 1, false, true);
        assert_eq!(shown.places(), Some(9));
    }
}
