//! From what journal and store hold to running volumes.

use std::sync::Arc;

use farshore_core::api::Effects;
use farshore_core::ids::VolumeId;
pub use farshore_core::journal::found::{RecoveryError, plan};
use farshore_core::replica::Recovered;
use farshore_core::volume::Volume;

use super::clock;
use super::driver::{Driver, VolumeHandle};
use super::inbox::Inbox;
use super::node::Shared;
use super::ship::SHIP_PIN_PREFIX;
use crate::store::StoreError;

/// Pins of shipments that were under way when the daemon ended. Their sources begin anew.
pub async fn drop_what_shipments_left(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let shared = shared.clone();
    let dropped = tokio::task::spawn_blocking(move || {
        for volume in shared.store.volumes() {
            for pin in shared.store.pins(volume.volume)?.iter().filter(|pin| pin.name.starts_with(SHIP_PIN_PREFIX)) {
                shared.store.unpin(volume.volume, &pin.name)?;
            }
        }
        Ok(())
    });
    dropped.await.unwrap_or_else(|e| Err(StoreError::Poisoned { reason: e.to_string() }))
}

/// What had been received of a shipment goes, unless all of it is there and was about to be shown: nothing can be
/// applied beside it.
async fn drop_stage(shared: &Arc<Shared>, volume: VolumeId, installing: bool) -> Result<(), StoreError> {
    if installing || !shared.store.volumes().iter().any(|v| v.volume == volume) {
        return Ok(());
    }
    let shared = shared.clone();
    let dropped = tokio::task::spawn_blocking(move || match shared.store.stage(volume)? {
        Some(stage) => shared.store.stage_abort(volume, stage.ship_id),
        None => Ok(()),
    });
    dropped.await.unwrap_or_else(|e| Err(StoreError::Poisoned { reason: e.to_string() }))
}

pub async fn start(
    shared: &Arc<Shared>,
    volume: VolumeId,
    recovered: Recovered,
) -> Result<Arc<VolumeHandle>, StoreError> {
    drop_stage(shared, volume, recovered.durable.installing.is_some()).await?;
    // Until the journal knows this, nothing of the volume counts as applied.
    shared.journal.set_checkpoint(volume, recovered.durable.base.seq);
    let mut fx = Effects::new();
    let core = Volume::recover(volume, recovered, clock::now(), &mut fx);
    Ok(Driver::spawn(core, fx, shared, Arc::new(Inbox::default())))
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::{Epoch, Incarnation, LineageId, MemberId, VolumeId};
    use farshore_core::record::RecordHash;
    use farshore_core::register::{
        ConfigVersion, Configuration, DataRule, Descriptor, Durability, Member, OnQuorumLoss, Terms,
    };

    use super::*;

    fn found(first: u64, last: u64) -> RecoveredVolume {
        let member = Member { id: MemberId(1), site: "east".into(), node: "n1".into(), kind: MemberKind::Data };
        let rule = DataRule { w: 1, min_remote: 0, local: false };
        let config = Configuration {
            version: ConfigVersion::default(),
            volume: Descriptor {
                name: "pg".into(),
                size_bytes: 1 << 20,
                logical_block_bytes: 4096,
                durability: Durability::Write,
                lease_us: 1,
                on_quorum_loss: OnQuorumLoss::Freeze,
                policy: "majority".into(),
                rule,
            },
            members: vec![member],
            current: Terms { votes: Vec::new(), sync: Vec::new(), rule, primary_site: "east".into() },
            earlier: Vec::new(),
            attached: None,
        };
        let durable = Durable::first(MemberId(1), Incarnation(7), LineageId::default(), config);
        RecoveredVolume {
            volume: VolumeId(1),
            meta: Some(durable.encode()),
            meta_damaged: false,
            first: Seq(first),
            last: Seq(last),
            last_hash: RecordHash(9),
            last_epoch: Epoch::ZERO,
            epochs: Vec::new(),
            damaged: None,
        }
    }

    #[test]
    fn a_log_that_begins_beyond_what_the_store_holds_is_not_taken_for_whole() {
        assert!(plan(&found(5, 9), Some(Seq(4))).is_ok());
        assert!(plan(&found(5, 9), Some(Seq(9))).is_ok());
        let refused = plan(&found(5, 9), Some(Seq(3)));
        assert!(matches!(refused, Err(RecoveryError::StoreLost { base: Seq(4), applied: Seq(3) })), "{refused:?}");
        let refused = plan(&found(5, 9), Some(Seq(10)));
        assert!(matches!(refused, Err(RecoveryError::JournalLost { .. })), "{refused:?}");
    }
}
