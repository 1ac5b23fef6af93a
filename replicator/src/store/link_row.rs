//! What ties a clone to the volume that it was made from: the bytes of its row.

use farshore_core::codec::{DecodeError, Reader, Writer};
use farshore_core::ids::{Seq, VolumeId};

use super::extent::View;

/// What a clone has nothing of its own for, it has from its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkRow {
    pub parent: VolumeId,
    /// What of the parent the clone began as; a pin of the parent holds it.
    pub view: View,
    /// Where the clone's own order begins. All that it has from its parent counts as changed there.
    pub start: Seq,
    /// For extents below this one nobody need ask the parent: what it has of them is in the clone's own index.
    pub flattened: u64,
}

impl LinkRow {
    pub fn put(&self, out: &mut Writer, put_view: impl Fn(&mut Writer, &View)) {
        out.u128(self.parent.0);
        put_view(out, &self.view);
        out.seq(self.start);
        out.u64(self.flattened);
    }

    pub fn take(
        fields: &mut Reader,
        take_view: impl Fn(&mut Reader) -> Result<View, DecodeError>,
    ) -> Result<LinkRow, DecodeError> {
        Ok(LinkRow {
            parent: fields.volume()?,
            view: take_view(fields)?,
            start: fields.seq()?,
            flattened: fields.u64()?,
        })
    }
}
