//! What can go wrong in the store, and what its caller should do about it.

use std::io;
use std::path::{Path, PathBuf};

use farshore_core::codec::DecodeError;
use farshore_core::ids::{Seq, VolumeId};
use farshore_core::mark::SnapshotId;

/// What an error means for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request itself can't be served; asking again changes nothing.
    Reject,
    /// Nothing was changed; the same call succeeds once what it names is over (space, a stage in the way).
    Retry,
    /// Stored bytes are wrong; a peer's copy repairs them.
    Repair,
    /// The store is not to be trusted any more: this incarnation of the replica is over.
    Fatal,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{op} {path}: {source}")]
    Io { op: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{op} the store's index: {reason}; its rows can't be repaired one by one: stop the replicator, remove the \
         store's directory, start it, and run `farshore member replace` for each volume of this node"
    )]
    Index { op: &'static str, reason: String },
    #[error("{object}: {source}")]
    Format { object: String, source: DecodeError },
    #[error("{path} belongs to node {found}, this is node {expected}; mount the right disk, or use an empty directory")]
    OtherNode { path: PathBuf, found: String, expected: String },
    #[error("{path} is not the slab of this store ({reason}); check which disk is mounted there")]
    OtherSlab { path: PathBuf, reason: String },
    #[error("volume {volume} has no replica in this store")]
    NoVolume { volume: VolumeId },
    #[error("volume {volume} exists here with {found_bytes} bytes, not {asked_bytes}; resize it instead")]
    SizeDiffers { volume: VolumeId, found_bytes: u64, asked_bytes: u64 },
    #[error("{op} volume {volume}: {reason}")]
    Invalid { op: &'static str, volume: VolumeId, reason: String },
    #[error("volume {volume}: range {offset}+{len} does not fit its {size_bytes} bytes in whole 4 KiB blocks")]
    Range { volume: VolumeId, offset: u64, len: u64, size_bytes: u64 },
    #[error("volume {volume}: record {found} can't be applied after {applied}; the records between are missing")]
    Gap { volume: VolumeId, applied: Seq, found: Seq },
    #[error("volume {volume}: block at {offset} does not match its checksum; repair it from a peer")]
    Corrupt { volume: VolumeId, offset: u64 },
    #[error("volume {volume}: the block offered for {offset} is not the one that was written there; ask another peer")]
    RepairMismatch { volume: VolumeId, offset: u64 },
    #[error(
        "the store is full: {needed_bytes} more bytes are needed, {free_bytes} of {capacity_bytes} are free; \
         delete snapshots or volumes, or enlarge the disk"
    )]
    Full { needed_bytes: u64, free_bytes: u64, capacity_bytes: u64 },
    #[error("volume {volume}: what changed since {base} is known only from {floor} on; make a full copy")]
    BelowFloor { volume: VolumeId, base: Seq, floor: Seq },
    #[error("volume {volume} has no pin named {name}")]
    NoPin { volume: VolumeId, name: String },
    #[error("volume {volume} has no snapshot {snapshot}")]
    NoSnapshot { volume: VolumeId, snapshot: SnapshotId },
    #[error(
        "volume {volume}: the image of snapshot {snapshot} is not in this store, which received the volume later; use it \
         in another site"
    )]
    SnapshotMissing { volume: VolumeId, snapshot: SnapshotId },
    #[error("volume {volume}: the snapshot mark in record {seq} can't be applied: {source}")]
    Mark { volume: VolumeId, seq: Seq, source: DecodeError },
    #[error("volume {volume} is receiving shipment {ship_id:032x}; commit or abort it first")]
    Staging { volume: VolumeId, ship_id: u128 },
    #[error("volume {volume} is not receiving shipment {ship_id:032x}")]
    NoStage { volume: VolumeId, ship_id: u128 },
    #[error(
        "the store stopped after an earlier failure ({reason}); see its disk, then restart the replicator: what the \
         store lacks is redone from the journal"
    )]
    Poisoned { reason: String },
}

impl StoreError {
    pub fn class(&self) -> ErrorClass {
        match self {
            StoreError::Io { .. }
            | StoreError::Index { .. }
            | StoreError::Format { .. }
            | StoreError::OtherNode { .. }
            | StoreError::OtherSlab { .. }
            | StoreError::Poisoned { .. } => ErrorClass::Fatal,
            StoreError::NoVolume { .. }
            | StoreError::SizeDiffers { .. }
            | StoreError::Invalid { .. }
            | StoreError::Range { .. }
            | StoreError::Gap { .. }
            | StoreError::RepairMismatch { .. }
            | StoreError::BelowFloor { .. }
            | StoreError::NoPin { .. }
            | StoreError::NoSnapshot { .. }
            | StoreError::SnapshotMissing { .. }
            | StoreError::NoStage { .. } => ErrorClass::Reject,
            // Once the node is upgraded.
            StoreError::Mark { source: DecodeError::Newer { .. }, .. } => ErrorClass::Retry,
            StoreError::Mark { .. } => ErrorClass::Reject,
            StoreError::Full { .. } | StoreError::Staging { .. } => ErrorClass::Retry,
            StoreError::Corrupt { .. } => ErrorClass::Repair,
        }
    }

    pub(super) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_path_buf();
        move |source| StoreError::Io { op, path, source }
    }
}

/// "No space" from a file system that could not keep its promise (thin volumes, copy-on-write file systems).
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
