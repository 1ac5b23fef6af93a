//! The note that a sync or write of this journal failed. Whoever finds it at the next start must not go on as the same
//! replicas: what the disk holds may be less than what was said (the page cache may call lost pages clean, and show
//! them until the machine restarts).
//!
//! It is written when the disk has just failed, so no place is sure to take it: the journal's own directory, and those
//! that the configuration names (of another file system, if possible). One that is found counts, also one that does not
//! read as it was written; but not that of another journal, which was there before this one.
//!
//! ```text
//! farshore burnt 1
//! journal 0123456789abcdef0123456789abcdef
//! reason  write to segment /var/lib/farshore/journal/segment-0001: Input/output error
//! ```

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use super::config::JournalConfig;
use crate::disk::file::sync_dir;

pub(super) const BURNT_NAME: &str = "journal.burnt";
const FIRST_LINE: &str = "farshore burnt 1";
/// A longer file is not one of ours; it counts all the same.
const BYTES_MAX: u64 = 4096;

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
        let mut text = format!("{FIRST_LINE}\njournal {:032x}\nreason  {}\n", self.journal, reason.replace('\n', " "));
        let mut end = text.len().min(BYTES_MAX as usize);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
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
        let journal = format!("journal {:032x}", self.journal);
        self.paths.iter().find_map(|path| {
            let len = match path.metadata() {
                Ok(found) => found.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
                Err(error) => return Some(format!("{}: {error}", path.display())),
            };
            let text = std::fs::read(path).ok().filter(|_| len <= BYTES_MAX);
            let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let mut lines = text.lines();
            match (lines.next(), lines.next()) {
                (Some(FIRST_LINE), Some(named)) if named.starts_with("journal ") && named.len() == journal.len() => {
                    let reason = lines.next().and_then(|line| line.strip_prefix("reason  ")).unwrap_or("unknown");
                    (named == journal).then(|| reason.to_string())
                }
                _ => Some(format!("{} is there and can't be read", path.display())),
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
