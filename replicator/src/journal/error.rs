//! What can go wrong, said so that a user knows what to do. All errors can be copied: one may concern a whole group.

use std::path::{Path, PathBuf};

use farshore_core::codec::DecodeError;
use farshore_core::ids::{Seq, VolumeId};
use farshore_core::journal::log::LogError;
use farshore_core::journal::queue::NotTaken;

#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    #[error(
        "the journal stopped taking writes after a disk error: {reason}; this replica's disk life is over, see the disk, then restart the node to rejoin"
    )]
    Poisoned { reason: String },
    #[error("the journal is closed")]
    Closed,
    #[error(
        "an entry of volume {volume} was hidden by a later truncation while it waited for space, and never written"
    )]
    Superseded { volume: VolumeId },
    #[error("the journal's queue is full ({queued_bytes} bytes wait); wait for completions before appending more")]
    QueueFull { queued_bytes: u64 },
    #[error("{what} of volume {volume} has {bytes} bytes, the journal takes at most {limit}")]
    TooLarge { what: &'static str, volume: VolumeId, bytes: u64, limit: u64 },
    #[error("journal append refused: {0}")]
    Refused(#[from] LogError),
    #[error("journal directory {} is in use by another process; stop that one first", dir.display())]
    Locked { dir: PathBuf },
    #[error("journal superblock {}: {reason}; if the disk was replaced, remove the directory and let the node rejoin", path.display())]
    Superblock { path: PathBuf, reason: DecodeError },
    #[error("journal segment {}: {reason}", path.display())]
    Segment { path: PathBuf, reason: DecodeError },
    #[error("journal directory {} was in use and no group of it can be read: all records are lost; remove the directory and let the node rejoin", dir.display())]
    Gone { dir: PathBuf },
    #[error("journal segment {} is missing; restore it, or remove the directory and let the node rejoin", path.display())]
    SegmentMissing { path: PathBuf },
    #[error("journal configuration: {reason}")]
    Config { reason: String },
    #[error("journal {operation} {}: {reason}", path.display())]
    Io { operation: &'static str, path: PathBuf, reason: String },
}

impl JournalError {
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> JournalError {
        move |error| JournalError::Io { operation, path: path.to_owned(), reason: error.to_string() }
    }
}

impl From<NotTaken> for JournalError {
    fn from(why: NotTaken) -> JournalError {
        match why {
            NotTaken::Closed => JournalError::Closed,
            NotTaken::Full { queued_bytes } => JournalError::QueueFull { queued_bytes },
            NotTaken::TooLarge { what, volume, bytes, limit } => JournalError::TooLarge { what, volume, bytes, limit },
            NotTaken::Refused(reason) => JournalError::Refused(reason),
            NotTaken::Superseded { volume } => JournalError::Superseded { volume },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the journal keeps this volume's records from {floor} on; earlier ones need a resync")]
    BelowFloor { floor: Seq },
    #[error("the volume's log ends at {last}")]
    Beyond { last: Seq },
    #[error("record {seq} is damaged in the journal ({reason}); fetch it from a peer")]
    Corrupt { seq: Seq, reason: String },
    #[error("journal read {path}: {reason}")]
    Io { path: String, reason: String },
}
