//! What packed pages of a shipment hold, at its target: blocks that are offered are compared, pages staged, and what was
//! received is proven at the end.
//!
//! A block that is the same as before is staged like any other, from what was there: the image says of it that it
//! changed, for whoever is fed from here later and has something else.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use farshore_core::ids::{BLOCK_BYTES, VolumeId};

use super::answers::{self, Arrived};
use super::driver::lock;
use super::node::Shared;
use super::packing::{self, Digest};
use super::receive::heard;
use super::rpc::{Call, PackedPage, RunKind};
use super::ship::blocking;
use super::ship_counts::add;
use crate::control::{OpError, OpKind};
use crate::store::{Cursor, READ_BYTES_MAX, StageData, StoreError};

const NO_ROOM: &str = "a shipment waits for room here; what was shown before it stays";
const MAKE_ROOM: &str = "free space on this node, or replace the member; the shipment goes on by itself";
/// Pages beyond a gap that are remembered; what is beyond that would be sent again.
const BEYOND_MAX: usize = 1024;
/// Bytes that one proof may speak of.
const PROOF_BYTES_MAX: u64 = READ_BYTES_MAX as u64;

/// What of a listing is here. Two parts are joined only where one begins exactly where the other ends: a listing that is
/// made in another order has other places, and none of them between these.
#[derive(Debug, Default)]
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
    /// This part is here. How far all is, if that is news.
    pub fn add(&mut self, (from, after): (Cursor, Cursor)) -> Option<Cursor> {
        if after <= self.upto || from >= after || self.beyond.len() >= BEYOND_MAX && from != self.upto {
            return None;
        }
        self.beyond.insert(from, after);
        let mut reached = None;
        while let Some(after) = self.beyond.remove(&self.upto) {
            self.upto = after;
            reached = Some(after);
        }
        reached
    }

    pub fn arrived(&self) -> Arrived {
        let beyond = self.beyond.iter().map(|(from, after)| (*from, *after));
        Arrived { upto: self.upto, beyond: beyond.collect() }
    }
}

/// The target's side of one call.
pub(super) async fn receive(shared: Arc<Shared>, call: Call) -> Result<Bytes, OpError> {
    match call {
        Call::ShipOffer { volume, ship, blocks } => {
            let staging = heard(&shared, volume, ship)?;
            let _staged = staging.read().await;
            let same = blocking(move || Ok(compare(&shared, volume, ship, &blocks))).await?;
            Ok(answers::encode_same(&same))
        }
        Call::ShipPacked { volume, ship, page } => {
            let staging = heard(&shared, volume, ship)?;
            let _staged = staging.read().await;
            let (span, bytes, store) = (page.span, u64::from(page.plain_bytes), shared.clone());
            let staged = blocking(move || Ok(stage(&store, volume, ship, page))).await?;
            note_room(&shared, volume, ship, &staged);
            staged?;
            add(&shared.ship_counts.received_bytes, bytes);
            // Durable with one of the checkpoints that are made meanwhile.
            if let Some(reached) = span.and_then(|span| arrived(&shared, volume, ship, span)) {
                blocking(move || shared.store.stage_advance(volume, ship, reached)).await?;
            }
            Ok(Bytes::new())
        }
        Call::ShipProof { volume, ship, ranges, digest } => {
            let staging = heard(&shared, volume, ship)?;
            let _staged = staging.read().await;
            let store = shared.clone();
            let proven = blocking(move || prove(&store, volume, ship, &ranges, digest)).await?;
            if proven { Ok(Bytes::new()) } else { Err(mismatch(&shared, volume, ship).await) }
        }
        _ => Ok(Bytes::new()),
    }
}

/// Which of the blocks are here already. One that can't be read is not.
fn compare(shared: &Shared, volume: VolumeId, ship: u128, blocks: &[(u64, u128)]) -> Vec<bool> {
    let mut out = Vec::with_capacity(blocks.len());
    // Neighbours are read together, up to the length of an extent.
    for run in blocks.chunk_by(|(a, _), (b, _)| a.checked_add(BLOCK_BYTES) == Some(*b)).flat_map(|run| run.chunks(16)) {
        let len = run.len() * BLOCK_BYTES as usize;
        match shared.store.stage_read_below(volume, ship, run[0].0, len) {
            Ok(data) => {
                let found = data.chunks(BLOCK_BYTES as usize).map(|block| packing::digest(ship, block));
                out.extend(found.zip(run).map(|(found, (_, digest))| found == *digest));
            }
            Err(_) => out.extend(run.iter().map(|_| false)),
        }
    }
    out
}

fn stage(shared: &Shared, volume: VolumeId, ship: u128, page: PackedPage) -> Result<(), OpError> {
    let invalid = |why: &str| {
        OpError::invalid("a page of a shipment can't be taken", "the source sends it again").because(why.to_owned())
    };
    let runs = packing::unpack(ship, page).map_err(invalid)?;
    #[cfg(test)]
    let runs = super::shipment_tests::spoilt(volume, runs);
    let staged = runs.into_iter().try_for_each(|(run, data)| {
        let data = match run.kind {
            RunKind::Data => StageData::Data(data),
            RunKind::Zeroes => StageData::Hole { len: run.length },
            RunKind::Same => {
                StageData::Data(shared.store.stage_read_below(volume, ship, run.offset, run.length as usize)?)
            }
        };
        shared.store.stage_write(volume, ship, run.offset, data)
    });
    staged.map_err(|error| match error {
        StoreError::Full { .. } => OpError::new(OpKind::Exhausted, NO_ROOM, MAKE_ROOM).because(error),
        other => {
            OpError::unavailable("a page of a shipment could not be staged", "see the daemon's log").because(other)
        }
    })
}

/// For status: a shipment that lacks room here waits for it.
fn note_room(shared: &Shared, volume: VolumeId, ship: u128, staged: &Result<(), OpError>) {
    let full = staged.as_ref().err().filter(|error| error.kind == OpKind::Exhausted);
    let mut incoming = lock(&shared.incoming);
    if let Some(incoming) = incoming.iter_mut().find(|i| i.volume == volume && i.ship == ship) {
        incoming.no_room = full.map(|error| error.why.clone());
    }
}

/// Why a shipment does not come in, where room is what it lacks.
pub(super) fn no_room(shared: &Shared, volume: VolumeId) -> Option<(String, &'static str)> {
    let incoming = lock(&shared.incoming);
    let why = incoming.iter().find(|i| i.volume == volume)?.no_room.clone()?;
    Some((format!("{NO_ROOM}: {why}"), MAKE_ROOM))
}

/// A part is staged: how far all of them are, if that is news.
fn arrived(shared: &Shared, volume: VolumeId, ship: u128, span: (Cursor, Cursor)) -> Option<Cursor> {
    let mut incoming = lock(&shared.incoming);
    incoming.iter_mut().find(|i| i.volume == volume && i.ship == ship)?.spans.add(span)
}

/// Is in these ranges what is there at the source? Read back from the disk.
fn prove(
    shared: &Shared,
    volume: VolumeId,
    ship: u128,
    ranges: &[(u64, u64)],
    digest: u128,
) -> Result<bool, StoreError> {
    let mut found = Digest::new(ship);
    let mut left = PROOF_BYTES_MAX;
    for (offset, length) in ranges {
        let Some(rest) = left.checked_sub(*length) else {
            let reason = format!("a proof of more than {PROOF_BYTES_MAX} bytes");
            return Err(StoreError::Invalid { op: "prove", volume, reason });
        };
        left = rest;
        match shared.store.stage_read(volume, ship, *offset, *length as usize) {
            Ok(data) => found.data(*offset, &data),
            Err(StoreError::Corrupt { offset, .. }) => {
                tracing::warn!(%volume, offset, "a block of a shipment is not as it was written");
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    #[cfg(test)]
    if super::shipment_tests::unproven(volume) {
        return Ok(true);
    }
    Ok(found.end() == digest)
}

/// Nothing of it is ever shown.
async fn mismatch(shared: &Arc<Shared>, volume: VolumeId, ship: u128) -> OpError {
    let was_here = {
        let mut incoming = lock(&shared.incoming);
        let before = incoming.len();
        incoming.retain(|i| i.volume != volume || i.ship != ship);
        incoming.len() < before
    };
    // Several of its pages may be found to differ; it is one image.
    if was_here {
        add(&shared.ship_counts.mismatches, 1);
        tracing::error!(%volume, "an image that was received is not as at its source; it is dropped, and comes anew");
        let store = shared.clone();
        if let Err(error) = blocking(move || store.store.stage_abort(volume, ship)).await {
            tracing::warn!(%volume, %error, "the image could not be dropped yet");
        }
    }
    OpError::conflict("the image that was received is not as at its source", "it is shipped anew")
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
}
