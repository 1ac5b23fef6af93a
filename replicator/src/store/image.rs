//! Whole images: what a view sees, through as many ancestors as there are.
//!
//! ```text
//! clone     [ own ][ hole ][      ][ borrowed ]     what it has itself, also a hole, hides what is below
//! parent    [ own ][ own  ][      ][          ]     as of the view that the clone began as
//! …         [     ][      ][ own  ][ own      ]
//! ```
//! A *borrowed* entry is the clone's own row for an ancestor's place (`flatten`), so that one look is enough. Nobody but
//! the ancestor ever writes to such a place or frees it, and it does neither while the pin of its clone is there.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use farshore_core::ids::Seq;

use super::error::StoreError;
use super::extent::{BLOCKS_PER_EXTENT, Entry, Version, View};
use super::link_row::LinkRow;
use super::root::Store;
use super::volume::{State, Volume};

/// Extents of a clone that are looked up together: asking many ancestors for one costs as much as for its neighbours.
const NEIGHBOURS: u64 = 16;

/// Extents, and where to go on.
pub(super) type Page<T> = (BTreeMap<u64, T>, Option<u64>);

/// What a view sees of an extent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub version: Version,
    pub entry: Entry,
    /// The version is in the volume's own index; otherwise an ancestor's.
    pub own: bool,
}

/// An ancestor's entry, as its clone has it: in a place that is not the clone's, and changed where the clone began.
pub(super) fn as_inherited(mut entry: Entry, start: Seq) -> Entry {
    entry.borrowed = entry.place.is_some();
    for block in 0..BLOCKS_PER_EXTENT {
        entry.change[block] = if entry.has_data(block) { start } else { Seq::ZERO };
    }
    entry
}

impl Store {
    /// What a view sees of a span of extents that fits in memory. Absent ones are holes; a hole may be there as well.
    pub(super) fn seen(
        &self,
        volume: &Volume,
        state: &State,
        view: &View,
        span: RangeInclusive<u64>,
    ) -> Result<BTreeMap<u64, Seen>, StoreError> {
        let wanted = span.end() - span.start() + 1;
        let (own, _) = state.newest(&self.index, volume.id, span.clone(), view, usize::MAX)?;
        let mut out = own_of(own);
        if (out.len() as u64) < wanted
            && let Some(link) = state.inherits(view)
        {
            let (theirs, _) = self.inherited(volume, &link, span, usize::MAX)?;
            out = join(out, theirs, link.start);
        }
        Ok(out)
    }

    /// The next extents that a view sees from `from` on, about `max` of them, and where to go on.
    pub(super) fn seen_page(
        &self,
        volume: &Volume,
        state: &State,
        view: &View,
        from: u64,
        max: usize,
    ) -> Result<Page<Seen>, StoreError> {
        let (own, mut next) = state.newest(&self.index, volume.id, from..=u64::MAX, view, max)?;
        let mut out = own_of(own);
        if let Some(link) = state.inherits(view) {
            let (theirs, theirs_next) = self.inherited(volume, &link, from..=u64::MAX, max)?;
            out = join(out, theirs, link.start);
            next = earlier(next, theirs_next);
        }
        if let Some(next) = next {
            out.split_off(&next);
        }
        Ok((out, next))
    }

    /// What a clone has from its ancestors in a span, however many there are: the nearest that says anything decides.
    /// Of each about `max` extents; what is complete ends before the answer's second part.
    pub(super) fn inherited(
        &self,
        volume: &Volume,
        link: &LinkRow,
        span: RangeInclusive<u64>,
        max: usize,
    ) -> Result<Page<Entry>, StoreError> {
        let (mut from, mut end, mut next) = (*span.start(), *span.end(), None);
        let mut out: BTreeMap<u64, Entry> = BTreeMap::new();
        let mut below: Option<(LinkRow, Arc<Volume>)> = Some((*link, volume.parent()));
        while let Some((link, parent)) = below {
            from = from.max(link.flattened);
            if from > end {
                break;
            }
            let state = parent.state();
            let (found, after) = state.newest(&self.index, parent.id, from..=end, &link.view, max)?;
            for (extent, (_, entry)) in found {
                out.entry(extent).or_insert(entry);
            }
            if let Some(after) = after {
                (next, end) = (Some(after), after - 1);
            }
            below = state.inherits(&link.view).map(|link| (link, parent.parent()));
        }
        if let Some(next) = next {
            out.split_off(&next);
        }
        Ok((out, next))
    }

    /// What the current view sees of these extents; absent ones are not in the answer.
    pub(super) fn current(
        &self,
        volume: &Volume,
        state: &State,
        extents: &[u64],
    ) -> Result<BTreeMap<u64, Seen>, StoreError> {
        let (mut out, mut missing) = (BTreeMap::new(), Vec::new());
        {
            let mut recent = volume.recent();
            for &extent in extents {
                match recent.get(extent) {
                    Some(Some(found)) => drop(out.insert(extent, found)),
                    Some(None) => {}
                    None => missing.push(extent),
                }
            }
        }
        let inherits = state.inherits(&state.view).is_some();
        // Nobody can publish between the look-up and `put`: the caller has the state locked.
        for run in missing.chunk_by(|a, b| a + 1 == *b) {
            let (first, last) = (run[0], run[run.len() - 1]);
            let span = if inherits { first - first % NEIGHBOURS..=last | (NEIGHBOURS - 1) } else { first..=last };
            let found = self.seen(volume, state, &state.view, span.clone())?;
            let mut recent = volume.recent();
            span.for_each(|extent| recent.put(extent, found.get(&extent).copied()));
            out.extend(found.into_iter().filter(|(extent, _)| run.binary_search(extent).is_ok()));
        }
        Ok(out)
    }
}

fn own_of(found: BTreeMap<u64, (Version, Entry)>) -> BTreeMap<u64, Seen> {
    found.into_iter().map(|(extent, (version, entry))| (extent, Seen { version, entry, own: true })).collect()
}

fn join(mut own: BTreeMap<u64, Seen>, theirs: BTreeMap<u64, Entry>, start: Seq) -> BTreeMap<u64, Seen> {
    for (extent, entry) in theirs.into_iter().filter(|(_, entry)| entry.data != 0) {
        let version = Version { image: 0, seq: start };
        own.entry(extent).or_insert(Seen { version, entry: as_inherited(entry, start), own: false });
    }
    own
}

pub(super) fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
