//! What the journal is asked for, what it reports, and its bounds.

use std::path::PathBuf;

use farshore_core::journal::queue::GROUP_VOLUMES_MAX;
use farshore_core::record::{RECORD_HEADER_BYTES, RECORD_PAYLOAD_MAX};
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
/// Records kept in memory for readers of the tail.
pub(super) const CACHE_BYTES_MAX: usize = 64 << 20;

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
    /// Where else a failed write or sync is noted, for the next start; best on another disk.
    pub burnt_dirs: Vec<PathBuf>,
}

impl JournalConfig {
    pub fn at(dir: impl Into<PathBuf>) -> JournalConfig {
        JournalConfig {
            dir: dir.into(),
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            budget_bytes: BUDGET_BYTES_DEFAULT,
            engine: EngineChoice::Auto,
            burnt_dirs: Vec::new(),
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
    pub records: u64,
    pub cached_bytes: u64,
    /// Volumes whose records keep the oldest segment from being recycled, as they write their ids.
    pub floor_held_by: Vec<String>,
    /// Why no further segment could be allocated.
    pub allocation_error: Option<String>,
    pub poisoned: Option<String>,
    /// What recovery found when the journal was opened.
    pub recovery_rule: String,
}
