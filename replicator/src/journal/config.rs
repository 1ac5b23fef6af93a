//! What the journal is asked for, what it reports, and its bounds.

use std::path::PathBuf;

use bytes::Bytes;
use farshore_core::ids::{Epoch, Seq, VolumeId};
use farshore_core::journal::group::GROUP_BYTES_MAX;
use farshore_core::journal::log::VolumeLog;
use farshore_core::record::{RECORD_HEADER_BYTES, RECORD_PAYLOAD_MAX, RecordHash};
use serde::Serialize;

use super::error::JournalError;
use crate::disk::EngineChoice;

pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
pub const BUDGET_BYTES_DEFAULT: u64 = 1 << 30;
pub const SEGMENT_BYTES_MIN: u64 = 4 << 20;
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// The one being written, the one before it (so that every volume's metadata is there twice), one for data to go on in,
/// one that only metadata may begin.
pub const SEGMENTS_MIN: u64 = 4;
/// Appends beyond this are refused; callers watch `queued_bytes` and stay well below.
pub const QUEUE_BYTES_MAX: u64 = 512 << 20;
/// A group is closed at this size.
pub(super) const GROUP_TARGET_BYTES: usize = 2 << 20;
/// Distinct volumes in one group; the next group's recap names each.
pub(super) const GROUP_VOLUMES_MAX: usize = 1024;
/// Records kept in memory for readers of the tail.
pub(super) const CACHE_BYTES_MAX: usize = 64 << 20;

// A group that just exceeds its target by one record, with a full recap, is still within the format's limit.
const _: () = assert!(GROUP_TARGET_BYTES + RECORD_PAYLOAD_MAX + 512 * GROUP_VOLUMES_MAX < GROUP_BYTES_MAX);
// The largest record and a recap fit into a third of the smallest segment.
const _: () =
    assert!(RECORD_PAYLOAD_MAX + RECORD_HEADER_BYTES + 128 * GROUP_VOLUMES_MAX < SEGMENT_BYTES_MIN as usize / 3);

#[derive(Debug, Clone)]
pub struct JournalConfig {
    pub dir: PathBuf,
    /// Size of each segment file; fixed when the journal is created, later values are ignored.
    pub segment_bytes: u64,
    /// What all segments together may take.
    pub budget_bytes: u64,
    pub engine: EngineChoice,
}

impl JournalConfig {
    pub fn at(dir: impl Into<PathBuf>) -> JournalConfig {
        JournalConfig {
            dir: dir.into(),
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            budget_bytes: BUDGET_BYTES_DEFAULT,
            engine: EngineChoice::Auto,
        }
    }

    pub(super) fn check(&self) -> Result<(), JournalError> {
        let refuse = |reason: String| Err(JournalError::Config { reason });
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(1 << 20)
        {
            return refuse(format!(
                "a segment of {} bytes; it must be whole MiB, from {} to {} MiB",
                self.segment_bytes,
                SEGMENT_BYTES_MIN >> 20,
                SEGMENT_BYTES_MAX >> 20
            ));
        }
        if self.budget_bytes / self.segment_bytes < SEGMENTS_MIN {
            return refuse(format!(
                "a budget of {} bytes holds fewer than {SEGMENTS_MIN} segments of {} bytes",
                self.budget_bytes, self.segment_bytes
            ));
        }
        Ok(())
    }
}

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
}

impl RecoveredVolume {
    pub(super) fn of(volume: VolumeId, log: &VolumeLog) -> RecoveredVolume {
        let end = log.end();
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
            damaged: log.damaged(),
        }
    }
}

/// A snapshot of the journal's state.
#[derive(Debug, Clone, Default, Serialize)]
pub struct JournalStatus {
    pub engine: String,
    /// Writes go past the page cache.
    pub direct: bool,
    pub segment_bytes: u64,
    pub segments_max: u64,
    pub segments_total: u64,
    pub segments_used: u64,
    pub used_bytes: u64,
    pub budget_bytes: u64,
    pub queued_bytes: u64,
    pub queued_submissions: u64,
    /// Submissions that wait for space.
    pub waiting_submissions: u64,
    pub groups: u64,
    pub syncs: u64,
    pub appended_bytes: u64,
    pub last_sync_us: u64,
    pub cached_bytes: u64,
    /// Volumes whose records keep the oldest segment from being recycled, as they write their ids.
    pub floor_held_by: Vec<String>,
    /// Why no further segment could be allocated.
    pub allocation_error: Option<String>,
    pub poisoned: Option<String>,
    /// What recovery found when the journal was opened.
    pub recovery_rule: String,
}
