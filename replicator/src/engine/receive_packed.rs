//! What packed pages of a shipment hold, at its target: blocks that are offered are compared, pages staged, and what was
//! received is proven at the end.
//!
//! A block that is the same as before is staged like any other, from what was there: the image says of it that it
//! changed, for whoever is fed from here later and has something else.

use std::sync::Arc;

use bytes::Bytes;
use farshore_core::ids::{BLOCK_BYTES, VolumeId};

use super::answers;
use super::driver::lock;
use super::node::Shared;
use super::packing::{self, Digest};
use super::receive::heard;
use super::rpc::{Call, PackedPage, PackedRun, RunKind};
use super::ship::blocking;
use super::ship_counts::add;
use crate::control::{OpError, OpKind};
use crate::store::{Cursor, READ_BYTES_MAX, StageData, StoreError};

const NO_ROOM: &str = "a shipment waits for room here; what was shown before it stays";
const MAKE_ROOM: &str = "free space on this node, or replace the member; the shipment goes on by itself";
/// Bytes that one proof may speak of.
const PROOF_BYTES_MAX: u64 = READ_BYTES_MAX as u64;

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
    let with_data = |(run, data): (PackedRun, Bytes)| {
        let data = match run.kind {
            RunKind::Data => StageData::Data(data),
            RunKind::Zeroes => StageData::Hole { len: run.length },
            RunKind::Same => {
                StageData::Data(shared.store.stage_read_below(volume, ship, run.offset, run.length as usize)?)
            }
        };
        Ok((run.offset, data))
    };
    let ranges: Result<Vec<_>, StoreError> = runs.into_iter().map(with_data).collect();
    let staged = ranges.and_then(|ranges| shared.store.stage_ranges(volume, ship, &ranges));
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
    let news = {
        let mut incoming = lock(&shared.incoming);
        let found = incoming.iter_mut().find(|i| i.volume == volume && i.ship == ship);
        found.is_some_and(|found| !std::mem::replace(&mut found.spoilt, true))
    };
    // Several of its pages may be found to differ; it is one image.
    if news {
        add(&shared.ship_counts.mismatches, 1);
        tracing::error!(%volume, "an image that was received is not as at its source; it is dropped, and comes anew");
        let store = shared.clone();
        if let Err(error) = blocking(move || store.store.stage_abort(volume, ship)).await {
            tracing::warn!(%volume, %error, "the image could not be dropped yet");
        }
    }
    spoilt()
}

/// What the source of an image hears that was found to differ, whatever it says of it: it begins another one.
pub(super) fn spoilt() -> OpError {
    OpError::conflict("the image that was received is not as at its source", "it is shipped anew")
}
