//! From what journal and store hold to running volumes.

use std::sync::Arc;

use farshore_core::api::Effects;
use farshore_core::durable::{Durable, LogBase};
use farshore_core::ids::{Seq, VolumeId};
use farshore_core::register::MemberKind;
use farshore_core::replica::Recovered;
use farshore_core::volume::Volume;

use super::clock;
use super::driver::{Driver, VolumeHandle};
use super::inbox::Inbox;
use super::node::Shared;
use super::ship::SHIP_PIN_PREFIX;
use crate::journal::RecoveredVolume;
use crate::store::StoreError;

/// Why a volume's replica could not be brought back; it stays as it is on disk, and peers treat it as absent.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("the journal holds records but no state of it")]
    NoState,
    #[error(
        "newer state of it was lost with a damaged part of the journal: a promise may be missing; replace this member"
    )]
    StateLost,
    #[error("its state does not decode: {0}")]
    State(#[from] farshore_core::codec::DecodeError),
    #[error("the store lost it: the journal begins after {base}, the store holds {applied}; replace this member")]
    StoreLost { base: Seq, applied: Seq },
    #[error("the journal ends at {last}, the store holds {applied}; replace this member")]
    JournalLost { last: Seq, applied: Seq },
}

/// The core's view of what recovery found; pure.
pub fn plan(found: &RecoveredVolume, applied: Option<Seq>) -> Result<Recovered, RecoveryError> {
    if found.meta_damaged {
        return Err(RecoveryError::StateLost);
    }
    let durable = Durable::decode(found.meta.clone().ok_or(RecoveryError::NoState)?)?;
    let base = durable.base;
    let stores = durable.config.member(durable.me).is_some_and(|m| m.kind != MemberKind::Witness);
    let applied = if stores { applied.unwrap_or(Seq::ZERO) } else { Seq::ZERO };
    let readable_end = found.damaged.map_or(found.last, Seq::prev);
    let last = if readable_end > base.seq && found.damaged.is_none() {
        LogBase { seq: found.last, hash: found.last_hash }
    } else {
        LogBase { seq: readable_end.max(base.seq), hash: base.hash }
    };
    let installing_at = durable.installing.as_ref().map_or(Seq::ZERO, |i| i.base.seq);
    if stores && applied < base.seq {
        return Err(RecoveryError::StoreLost { base: base.seq, applied });
    }
    if stores && applied > last.seq && applied != installing_at {
        return Err(RecoveryError::JournalLost { last: last.seq, applied });
    }
    let floor = found.first.max(Seq(1));
    // Records are given up only once the store has them; if it has not, they were lost with damage.
    let given_up = floor.prev();
    if stores && installing_at == Seq::ZERO && applied < given_up {
        return Err(RecoveryError::StoreLost { base: given_up, applied });
    }
    let epochs = found.epochs.iter().copied().filter(|(_, seq)| *seq <= last.seq).collect();
    let lost_upto = found.damaged.map(|_| found.last);
    // An image that was being installed may be visible already; then the core finishes the installation.
    let applied = if applied == installing_at && installing_at > Seq::ZERO { base.seq } else { applied };
    Ok(Recovered { durable, last, epochs, floor, lost_upto, applied })
}

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
