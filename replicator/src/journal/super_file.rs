//! The data directory: its lock, its superblock file, the names of its files.

use std::fs::{File, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_core::journal::superblock::{SUPER_FILE_BYTES, Superblock};

use super::error::JournalError;
use crate::disk::file::{UNFINISHED_SUFFIX, sync_dir};

pub(super) const SUPER_NAME: &str = "journal.super";
pub(super) const LOCK_NAME: &str = "journal.lock";
/// A copy of the last group, made before that group is rewritten at start.
pub(super) const TAIL_NAME: &str = "journal.tail";

pub(super) fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("segment-{number:04}"))
}

/// Held as long as the journal is open.
pub(super) fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join(LOCK_NAME);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(JournalError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(JournalError::io("lock", &path)(error)),
    }
}

pub(super) struct SuperFile {
    file: File,
    path: PathBuf,
    pub(super) now: Superblock,
}

impl SuperFile {
    /// Reads the superblock; `None` if there is no file yet.
    pub(super) fn read(dir: &Path) -> Result<Option<Superblock>, JournalError> {
        let path = dir.join(SUPER_NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(JournalError::io("read", &path)(error)),
        };
        Superblock::choose(&bytes).map(Some).map_err(|reason| JournalError::Superblock { path, reason })
    }

    pub(super) fn open(dir: &Path, now: Superblock) -> Result<SuperFile, JournalError> {
        let path = dir.join(SUPER_NAME);
        let file = File::options().read(true).write(true).open(&path).map_err(JournalError::io("open", &path))?;
        Ok(SuperFile { file, path, now })
    }

    /// Writes it where it is once more, and syncs it: after a failed sync it can be read and not be there.
    pub(super) fn rewrite(&self) -> Result<(), JournalError> {
        let write = || {
            self.file.write_all_at(&self.now.encode(), self.now.slot_offset())?;
            self.file.sync_data()
        };
        write().map_err(JournalError::io("write", &self.path))
    }

    /// Writes a first superblock. The file has its name only once it is whole.
    pub(super) fn create(dir: &Path, first: Superblock) -> Result<SuperFile, JournalError> {
        let path = dir.join(SUPER_NAME);
        let unfinished = dir.join(format!("{SUPER_NAME}{UNFINISHED_SUFFIX}"));
        let create = || {
            let mut bytes = vec![0; SUPER_FILE_BYTES];
            let at = first.slot_offset() as usize;
            let slot = first.encode();
            bytes[at..at + slot.len()].copy_from_slice(&slot);
            let file = File::create(&unfinished)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
            std::fs::rename(&unfinished, &path)?;
            sync_dir(&path)
        };
        create().map_err(JournalError::io("create", &path))?;
        SuperFile::open(dir, first)
    }

    /// Writes the next superblock to the slot of the older one, and syncs it.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut Superblock)) -> Result<(), JournalError> {
        let mut next = self.now;
        change(&mut next);
        next.turn += 1;
        let write = || {
            self.file.write_all_at(&next.encode(), next.slot_offset())?;
            self.file.sync_data()
        };
        write().map_err(JournalError::io("write", &self.path))?;
        self.now = next;
        Ok(())
    }
}
