//! From what journal and store hold to running volumes.

use std::sync::Arc;

use farshore_core::api::Effects;
use farshore_core::ids::VolumeId;
pub use farshore_core::journal::found::{RecoveryError, plan};
use farshore_core::replica::Recovered;
use farshore_core::volume::Volume;

use super::clock;
use super::clone::BASE_SEQ;
use super::driver::{Driver, VolumeHandle};
use super::inbox::Inbox;
use super::node::Shared;
use super::outgoing;
use super::receive;
use super::shown::is_shown_pin;
use crate::store::StoreError;

/// Pins of what was under way when the daemon ended: shipments go on, or are given up; so are images that clones were being
/// made of.
pub async fn find_cut_shipments(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let shared = shared.clone();
    let dropped = tokio::task::spawn_blocking(move || {
        for volume in shared.store.volumes() {
            for pin in shared.store.pins(volume.volume)? {
                let cut = outgoing::is_pin(&pin.name) && !shared.outgoing.found(volume.volume, &pin.name);
                if cut || is_shown_pin(&pin.name) {
                    shared.store.unpin(volume.volume, &pin.name)?;
                }
            }
        }
        Ok(())
    });
    dropped.await.unwrap_or_else(|e| Err(StoreError::Poisoned { reason: e.to_string() }))
}

/// Clones that a crash left in the store before the journal knew of them, in `known`. Nothing of their own is in them, and
/// they would hold for ever what their parent has.
pub async fn drop_clones_never_begun(shared: &Arc<Shared>, known: Vec<VolumeId>) -> Result<(), StoreError> {
    let shared = shared.clone();
    let dropped = tokio::task::spawn_blocking(move || {
        for stored in shared.store.volumes() {
            let empty = stored.cloned_from.is_some() && stored.used_bytes == 0 && stored.applied_seq <= BASE_SEQ;
            let kept = known.contains(&stored.volume) || shared.diverged.newest(stored.volume).is_some();
            if empty && !kept {
                tracing::info!(volume = %stored.volume, "a clone whose creation was cut short is removed");
                shared.store.remove(stored.volume)?;
            }
        }
        Ok(())
    });
    dropped.await.unwrap_or_else(|e| Err(StoreError::Poisoned { reason: e.to_string() }))
}

pub async fn start(
    shared: &Arc<Shared>,
    volume: VolumeId,
    recovered: Recovered,
) -> Result<Arc<VolumeHandle>, StoreError> {
    receive::take_up(shared, volume, recovered.durable.installing.is_some()).await?;
    // Until the journal knows this, nothing of the volume counts as applied.
    shared.journal.set_checkpoint(volume, recovered.durable.base.seq);
    let mut fx = Effects::new();
    let core = Volume::recover(volume, recovered, clock::now(), &mut fx);
    Ok(Driver::spawn(core, fx, shared, Arc::new(Inbox::default())))
}
