//! The sweep: deletes versions that nobody sees any more, in bounded steps.
//!
//! Garbage comes from removed pins, committed and aborted shipments, deleted volumes, and a floor that was raised.
//! A step looks at one page of extents; what it gives up is free after the next checkpoint.

use std::collections::BTreeMap;
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

impl Store {
    /// Sweeps until there is no garbage, with checkpoints where too much has changed.
    pub fn sweep(&self) -> Result<(), StoreError> {
        loop {
            while self.sweep_step()? {
                self.checkpoint_if_crowded()?;
            }
            let waits = |state: &State| state.pins.any_loosened() || state.is_finished() || state.has_left().is_some();
            if !self.all_volumes().iter().any(|volume| waits(&volume.state())) {
                return Ok(());
            }
            // What was given up is garbage only once that is durable.
            self.checkpoint_with(|| {})?;
        }
    }

    /// One page of each volume that has garbage. True: there is more.
    pub fn sweep_step(&self) -> Result<bool, StoreError> {
        self.check_alive()?;
        let mut more = false;
        for volume in self.all_volumes() {
            if volume.state().sweep.is_some() {
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
                let _mutating = volume.mutating();
                more |= self.flatten_page(&volume)?;
            }
        }
        Ok(more)
    }

    fn all_volumes(&self) -> Vec<Arc<Volume>> {
        self.volumes.read().expect(PANICKED).values().cloned().collect()
    }

    /// The caller holds `mutating`.
    pub(super) fn sweep_page(&self, volume: &Volume) -> Result<bool, StoreError> {
        let (garbage, next) = {
            let state = volume.state();
            let Some(from) = state.sweep else { return Ok(false) };
            let (page, next) = state.page(&self.index, volume.id, from, STEP_VERSIONS)?;
            (garbage(&state, &page), next)
        };
        let _changing = volume.changing(garbage.iter().map(|(extent, _, _)| *extent));
        let mut state = volume.state_mut();
        let before = state.dirty_len();
        for (extent, version, entry) in &garbage {
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
        state.sweep = next;
        Ok(next.is_some())
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
