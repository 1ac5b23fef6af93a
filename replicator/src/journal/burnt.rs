//! The note that a sync or write of this journal failed. Whoever finds it at the next start must not go on as the same
//! replicas: what the disk holds may be less than what was said (the page cache may call lost pages clean, and show
//! them until the machine restarts).
//!
//! It is written when the disk has just failed, so no place is sure to take it: the journal's own directory, and those
//! that the configuration names (of another file system, if possible). One that is found counts, also one that does not
//! read as it was written; but not that of another journal, which was there before this one. Its text is in `burnt_note`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use super::burnt_note::{self, NOTE_BYTES_MAX, Said};
use super::config::JournalConfig;
use crate::disk::file::sync_dir;

pub(super) const BURNT_NAME: &str = "journal.burnt";

pub(super) struct Marks {
    paths: Vec<PathBuf>,
    journal: u128,
}

impl Marks {
    pub(super) fn new(config: &JournalConfig, journal: u128) -> Marks {
        let dirs = std::iter::once(&config.dir).chain(&config.burnt_dirs);
        Marks { paths: dirs.map(|dir| dir.join(BURNT_NAME)).collect(), journal }
    }

    /// Notes it wherever that works.
    pub(super) fn burn(&self, reason: &str) {
        let text = burnt_note::write(self.journal, reason);
        let mut noted = 0;
        for path in &self.paths {
            let write = || {
                let mut file = File::create(path)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                sync_dir(path)
            };
            match write() {
                Ok(()) => noted += 1,
                Err(error) => tracing::error!(path = %path.display(), %error, "the failure could not be noted there"),
            }
        }
        if noted == 0 {
            tracing::error!(
                "the journal's failure is noted nowhere: after a restart this node would not know of it; replace the \
                 disk, or wipe the data directory before the restart, and renew its members with `farshore member \
                 replace`"
            );
        }
    }

    /// Why this journal's replicas must begin a new life, if they must.
    pub(super) fn found(&self) -> Option<String> {
        self.paths.iter().find_map(|path| {
            let len = match path.metadata() {
                Ok(found) => found.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
                Err(error) => return Some(format!("{}: {error}", path.display())),
            };
            let bytes = std::fs::read(path).ok().filter(|_| len <= NOTE_BYTES_MAX as u64).unwrap_or_default();
            match burnt_note::read(self.journal, &bytes) {
                Said::Ours(reason) => Some(reason),
                Said::Anothers => None,
                Said::Unreadable => Some(format!("{} is there and can't be read", path.display())),
            }
        })
    }

    pub(super) fn clear(&self) -> std::io::Result<()> {
        for path in &self.paths {
            match std::fs::remove_file(path) {
                Ok(()) => sync_dir(path)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
