//! What recovery found of one volume, and what its replica makes of it together with what the store holds.

use bytes::Bytes;

use crate::durable::{Durable, LogBase};
use crate::ids::{Epoch, Seq, VolumeId};
use crate::journal::log::VolumeLog;
use crate::record::RecordHash;
use crate::register::MemberKind;
use crate::replica::Recovered;
use crate::sabotage::{Sabotage, broken};

/// What recovery found of one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredVolume {
    pub volume: VolumeId,
    /// The newest metadata that can be read.
    pub meta: Option<Bytes>,
    /// Newer metadata is lost: a promise or a configuration may be missing from `meta`.
    pub meta_damaged: bool,
    /// First retained record; `last` + 1 if none is.
    pub first: Seq,
    /// Last durable record, retained or not; 0 if there never was one.
    pub last: Seq,
    pub last_hash: RecordHash,
    pub last_epoch: Epoch,
    /// Where each epoch begins among the retained records.
    pub epochs: Vec<(Epoch, Seq)>,
    /// First record that cannot be read although valid data follows it. Damage, never absence.
    pub damaged: Option<Seq>,
    /// Where the log ends before that: its own end if nothing is damaged.
    pub readable: LogBase,
}

impl RecoveredVolume {
    pub fn of(volume: VolumeId, log: &VolumeLog) -> RecoveredVolume {
        let end = log.end();
        let damaged = log.damaged();
        let readable = damaged.map_or(end, |damaged| log.end_at(damaged.prev()));
        RecoveredVolume {
            volume,
            meta: log.meta.clone(),
            meta_damaged: log.meta_damaged,
            first: log.floor(),
            last: end.seq,
            last_hash: end.hash,
            last_epoch: end.epoch,
            // Of lost records the epoch is not known.
            epochs: log.epochs().iter().copied().filter(|&(epoch, _)| epoch != Epoch::ZERO).collect(),
            damaged,
            readable: LogBase { seq: readable.seq, hash: readable.hash },
        }
    }
}

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
    State(#[from] crate::codec::DecodeError),
    #[error("the store does not have it, though its journal does; replace this member")]
    NotStored,
    #[error("the store lost it: the journal begins after {base}, the store holds {applied}; replace this member")]
    StoreLost { base: Seq, applied: Seq },
    #[error("the journal ends at {last}, the store holds {applied}; replace this member")]
    JournalLost { last: Seq, applied: Seq },
}

/// Is it a data member by its register? What one that leaves was, only the terms that end with it tell.
fn holds_data(durable: &Durable) -> bool {
    durable.config.member(durable.me).is_some_and(|m| match m.kind {
        MemberKind::Data | MemberKind::Observer => true,
        MemberKind::Witness | MemberKind::Diskless => false,
        MemberKind::Leaving => durable.config.all_terms().any(|t| t.sync.iter().any(|s| s.member == durable.me)),
    })
}

/// The core's view of what recovery found; `applied` is what the store holds, if it has the volume; pure.
pub fn plan(found: &RecoveredVolume, applied: Option<Seq>) -> Result<Recovered, RecoveryError> {
    if found.meta_damaged && !broken(Sabotage::OlderStateTaken) {
        return Err(RecoveryError::StateLost);
    }
    let durable = Durable::decode(found.meta.clone().ok_or(RecoveryError::NoState)?)?;
    let base = durable.base;
    // A joiner may hold an image before its copy of the register lists it.
    if holds_data(&durable) && applied.is_none() {
        // A replica's store is made before its journal speaks of it.
        return Err(RecoveryError::NotStored);
    }
    let stores = applied.is_some();
    let applied = applied.unwrap_or(Seq::ZERO);
    // The next record is taken only if it names the hash of the last one.
    let last = if found.readable.seq > base.seq { found.readable } else { base };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, LineageId, MemberId};
    use crate::register::{
        ConfigVersion, Configuration, DataRule, Descriptor, Durability, Member, Mode, OnQuorumLoss, Terms,
    };

    const ME: MemberId = MemberId(1);

    fn found(members: Vec<Member>, base: u64, (first, last): (u64, u64)) -> RecoveredVolume {
        let rule = DataRule { w: 1, min_remote: 0, local: false };
        let config = Configuration {
            version: ConfigVersion::default(),
            volume: Descriptor {
                name: "pg".into(),
                size_bytes: 1 << 20,
                logical_block_bytes: 4096,
                durability: Durability::Write,
                lease_us: 1_000_000,
                on_quorum_loss: OnQuorumLoss::Freeze,
                policy: "majority".into(),
                rule,
                labels: Default::default(),
                mode: Mode::Sync,
                fallback_after_us: None,
                promote_observer_after_us: None,
            },
            members,
            current: Terms { votes: Vec::new(), sync: Vec::new(), rule, primary_site: "east".into() },
            earlier: Vec::new(),
            attached: None,
            stand_ins: Vec::new(),
        };
        let durable = Durable {
            base: LogBase { seq: Seq(base), hash: RecordHash(1) },
            ..Durable::first(ME, Incarnation(7), LineageId::default(), config)
        };
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
            readable: LogBase { seq: Seq(last), hash: RecordHash(9) },
        }
    }

    /// Else a peer that sends the damaged record again is refused for ever.
    #[test]
    fn what_is_read_before_damage_ends_with_its_own_hash() {
        let member = Member { id: ME, site: "east".into(), node: "n1".into(), kind: MemberKind::Data };
        let mut found = found(vec![member], 3, (1, 9));
        found.damaged = Some(Seq(7));
        found.readable = LogBase { seq: Seq(6), hash: RecordHash(6) };
        let recovered = plan(&found, Some(Seq(3))).unwrap();
        assert_eq!((recovered.last, recovered.lost_upto), (found.readable, Some(Seq(9))));
        found.damaged = Some(Seq(4));
        found.readable = LogBase { seq: Seq(3), hash: RecordHash(1) };
        assert_eq!(plan(&found, Some(Seq(3))).unwrap().last, found.readable);
    }

    #[test]
    fn a_log_that_begins_beyond_what_the_store_holds_is_not_taken_for_whole() {
        let member = Member { id: ME, site: "east".into(), node: "n1".into(), kind: MemberKind::Data };
        let found = found(vec![member], 0, (5, 9));
        assert!(plan(&found, Some(Seq(4))).is_ok());
        assert!(plan(&found, Some(Seq(9))).is_ok());
        let refused = plan(&found, Some(Seq(3)));
        assert!(matches!(refused, Err(RecoveryError::StoreLost { base: Seq(4), applied: Seq(3) })), "{refused:?}");
        let refused = plan(&found, Some(Seq(10)));
        assert!(matches!(refused, Err(RecoveryError::JournalLost { .. })), "{refused:?}");
    }

    #[test]
    fn a_store_that_is_gone_is_not_taken_for_an_empty_one() {
        let member = Member { id: ME, site: "east".into(), node: "n1".into(), kind: MemberKind::Data };
        let found = found(vec![member], 0, (1, 9));
        assert!(plan(&found, Some(Seq::ZERO)).is_ok(), "nothing was applied yet");
        assert!(matches!(plan(&found, None), Err(RecoveryError::NotStored)), "applying could not go on");
    }

    #[test]
    fn a_witness_that_leaves_has_no_store_to_lose() {
        let member = Member { id: ME, site: "east".into(), node: "n1".into(), kind: MemberKind::Leaving };
        assert!(plan(&found(vec![member], 0, (1, 0)), None).is_ok());
    }

    #[test]
    fn a_joiner_that_its_register_does_not_list_yet_has_what_its_store_has() {
        let found = found(Vec::new(), 62, (63, 70));
        assert_eq!(plan(&found, Some(Seq(65))).unwrap().applied, Seq(65));
        assert!(matches!(plan(&found, Some(Seq(61))), Err(RecoveryError::StoreLost { .. })));
        assert_eq!(plan(&found, None).unwrap().applied, Seq::ZERO, "a witness");
    }
}
