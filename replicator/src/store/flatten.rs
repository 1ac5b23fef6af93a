//! Flattening: a clone of a clone takes what it has from its ancestors into its own index, a page at a time, so that a
//! read needs one look however long the chain is. Only references are written; places stay whose they are.

use farshore_core::ids::Seq;

use super::error::StoreError;
use super::extent::Version;
use super::image::as_inherited;
use super::index_rows::Row;
use super::link_row::LinkRow;
use super::root::Store;
use super::volume::Volume;

/// Extents of one step.
const STEP_EXTENTS: usize = 4096;

impl Store {
    /// One page of one clone. True: there is more. The caller holds `mutating`.
    pub(super) fn flatten_page(&self, volume: &Volume) -> Result<bool, StoreError> {
        let (link, page, next) = {
            let state = volume.state();
            let Some(link) = state.flattens() else { return Ok(false) };
            // One ancestor is as fast as any index.
            if volume.parent().state().inherits(&link.view).is_none() {
                return Ok(false);
            }
            let (page, next) = self.inherited(volume, &link, link.flattened..=u64::MAX, STEP_EXTENTS)?;
            (link, page, next)
        };
        let mut state = volume.state_mut();
        let before = state.dirty_len();
        let version = Version { image: 0, seq: link.start };
        assert!(link.start > Seq::ZERO, "a clone's own records come after its start");
        for (extent, entry) in page.into_iter().filter(|(_, entry)| entry.data != 0) {
            state.put(extent, version, as_inherited(entry, link.start), true);
            volume.forget(extent);
        }
        self.count_dirty(before, state.dirty_len());
        let link = LinkRow { flattened: next.unwrap_or(u64::MAX), ..link };
        state.link = Some(link);
        state.note(&Row::Link(volume.id, link));
        if next.is_none() {
            // Rows for extents that all who look have written themselves.
            state.sweep = Some(0);
        }
        Ok(next.is_some())
    }
}
