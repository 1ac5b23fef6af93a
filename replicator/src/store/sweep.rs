//! The sweep: deletes versions that nobody sees any more, in bounded steps.
//!
//! Garbage comes from removed pins, committed and aborted shipments, deleted volumes, and a floor that was raised.
//! A step looks at one page of extents; what it gives up is free after the next checkpoint. What only a removed pin saw
//! was superseded between it and the next pin, so its sweep costs what changed there, not the whole volume:
//!
//! ```text
//! v ──── pin p (gone) ──── w ──── next pin        v is garbage; the change at w leads to its extent
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use farshore_core::ids::Seq;

use super::error::StoreError;
use super::extent::{Entry, Version, Versions};
use super::root::{PANICKED, Store};
use super::views::Views;
use super::volume::{State, Volume};

/// Versions that one step looks at.
const STEP_VERSIONS: usize = 4096;
/// Extents that one step looks at when it follows what changed; each may have a version for every snapshot.
const GAP_EXTENTS: usize = 512;

impl Store {
    /// Sweeps until there is no garbage, with checkpoints where too much has changed.
    pub fn sweep(&self) -> Result<(), StoreError> {
        loop {
            while self.sweep_pages()? {
                self.checkpoint_if_crowded()?;
            }
            // What was given up is garbage only once that is durable.
            if !self.awaits_checkpoint(|state| !state.gaps.is_empty()) {
                return Ok(());
            }
            self.checkpoint_with(|| {})?;
        }
    }

    /// Goes on with what is done in the background, by a page of each volume: sweeping, then flattening, then the
    /// checkpoint that makes space free. True: there is more. For stores where nothing is applied, so that no checkpoint
    /// is due.
    pub fn sweep_step(&self) -> Result<bool, StoreError> {
        let more = self.sweep_pages()? | self.flatten_step()?;
        if !more && self.awaits_checkpoint(|state| !state.gaps.is_empty() || !state.freed.is_empty()) {
            self.checkpoint_with(|| {})?;
            return Ok(true);
        }
        Ok(more)
    }

    fn awaits_checkpoint(&self, also: impl Fn(&State) -> bool) -> bool {
        let waits = |state: &State| state.pins.any_loosened() || state.is_finished() || state.has_left().is_some();
        self.all_volumes().iter().any(|volume| waits(&volume.state()) || also(&volume.state()))
    }

    /// One page of each volume that has garbage. True: there is more.
    pub(super) fn sweep_pages(&self) -> Result<bool, StoreError> {
        self.check_alive()?;
        let mut more = false;
        for volume in self.all_volumes() {
            if volume.state().has_garbage() {
                let _mutating = volume.mutating();
                more |= self.sweep_page(&volume)?;
            }
        }
        Ok(more)
    }

    /// One page of each clone that can be flattened. True: there is more.
    pub fn flatten_step(&self) -> Result<bool, StoreError> {
        self.check_alive()?;
        let mut more = false;
        for volume in self.all_volumes() {
            if volume.state().flattens().is_some() {
                let mutating = volume.mutating();
                more |= self.flatten_page(&volume)?;
                drop(mutating);
                // A page of each of a thousand clones is more than memory is for.
                self.checkpoint_if_crowded()?;
            }
        }
        Ok(more)
    }

    fn all_volumes(&self) -> Vec<Arc<Volume>> {
        self.volumes.read().expect(PANICKED).values().cloned().collect()
    }

    /// The caller holds `mutating`.
    pub(super) fn sweep_page(&self, volume: &Volume) -> Result<bool, StoreError> {
        let (found, next, shown) = {
            let state = volume.state();
            let Some(from) = state.sweep else {
                drop(state);
                return self.sweep_gap(volume);
            };
            let (page, next) = state.page(&self.index, volume.id, from, STEP_VERSIONS)?;
            let mut shown = state.shown;
            shown.swept(from, next, |from| page.range(from..).filter(|(_, v)| state.shows_own(v)).count() as u64);
            (garbage(&state, &page), next, shown)
        };
        self.sweep_out(volume, &found, |state| (state.sweep, state.shown) = (next, shown));
        Ok(volume.state().has_garbage())
    }

    /// One page of what changed right after a pin that is gone.
    fn sweep_gap(&self, volume: &Volume) -> Result<bool, StoreError> {
        let (found, at, next) = {
            let state = volume.state();
            let Some(at) = state.ready_gap() else { return Ok(false) };
            let gap = state.gaps[at];
            let (mut extents, mut next) = (BTreeSet::new(), None);
            self.index.changes(volume.id, gap.from, gap.upto, |at, _| {
                if extents.len() >= GAP_EXTENTS {
                    next = Some(at);
                    return Ok(false);
                }
                extents.insert(at.extent);
                Ok(true)
            })?;
            let mut page = BTreeMap::new();
            for extent in extents {
                page.append(&mut state.versions(&self.index, volume.id, extent..=extent)?);
            }
            (garbage(&state, &page), at, next)
        };
        self.sweep_out(volume, &found, |state| match next {
            // They are only ever all cleared meanwhile, and then the whole volume is swept.
            Some(from) => state.gaps.get_mut(at).into_iter().for_each(|gap| gap.from = from),
            None if at < state.gaps.len() => drop(state.gaps.remove(at)),
            None => {}
        });
        Ok(volume.state().has_garbage())
    }

    fn sweep_out(&self, volume: &Volume, garbage: &[(u64, Version, Entry)], also: impl FnOnce(&mut State)) {
        let _changing = volume.changing(garbage.iter().map(|(extent, _, _)| *extent));
        let mut state = volume.state_mut();
        let before = state.dirty_len();
        for (extent, version, entry) in garbage {
            state.delete(*extent, *version);
            if let Some(place) = entry.own_place() {
                state.freed.push(place);
                state.used_places -= 1;
            }
        }
        self.count_dirty(before, state.dirty_len());
        // A forgotten hole may have been the newest version; what is remembered of it reads the same, but names a
        // version that is gone.
        garbage.iter().for_each(|(extent, _, _)| volume.forget(*extent));
        also(&mut state);
    }

    pub(super) fn count_dirty(&self, before: usize, after: usize) {
        if after >= before {
            self.dirty.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.dirty.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Frees all that can be freed, for someone who found the store full.
    pub(super) fn reclaim(&self) -> Result<(), StoreError> {
        self.sweep()?;
        self.checkpoint_with(|| {}).map(|_| ())
    }
}

fn garbage(state: &State, page: &BTreeMap<u64, Versions>) -> Vec<(u64, Version, Entry)> {
    let views = state.views();
    let mut out = Vec::new();
    for (extent, versions) in page {
        let floor = if state.hides(*extent) { Seq::ZERO } else { state.floor };
        out.extend(unseen(versions, &views, floor).map(|(version, entry)| (*extent, version, entry)));
    }
    out
}

/// Versions of one extent that no view sees, and a lone hole older than the floor, which reads as nothing would.
pub(super) fn unseen(versions: &Versions, views: &Views, floor: Seq) -> impl Iterator<Item = (Version, Entry)> {
    let newer = versions.keys().skip(1).map(|version| Some(*version)).chain(std::iter::once(None));
    let lone = versions.len() == 1;
    versions.iter().zip(newer).filter_map(move |((version, entry), newer)| {
        let says_nothing = lone && entry.data == 0 && version.seq <= floor;
        (says_nothing || !views.see(*version, newer)).then_some((*version, *entry))
    })
}
