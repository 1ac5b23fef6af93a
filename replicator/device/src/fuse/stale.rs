//! What a daemon that was killed leaves behind, and how the next one ends it.

use std::io;
use std::path::{Path, PathBuf};

use super::attachment::Place;
use crate::DeviceError;

/// The remains of a device whose daemon died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleDevice {
    pub name: String,
    /// The loop device it had, if that still existed.
    pub loop_path: Option<PathBuf>,
    /// Somebody still has the loop device mounted or open: it vanishes when they let go, and until then all its I/O fails.
    pub still_used: bool,
}

/// A place without a living holder is cleared and removed; the runtime directory need not exist.
pub fn cleanup(runtime_dir: &Path) -> Result<Vec<StaleDevice>, DeviceError> {
    let failed = |error| DeviceError::system("(all)", "listing", runtime_dir.display().to_string(), error);
    let entries = match std::fs::read_dir(runtime_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Some(place) = entry.file_name().to_str().and_then(|name| Place::new(name, runtime_dir).ok()) else {
            continue;
        };
        // Only directories that we made: a stranger's is left alone.
        if !place.lock_path().is_file() {
            continue;
        }
        let claim = match place.claim() {
            Ok(claim) => claim,
            Err(DeviceError::AlreadyAttached { .. }) => continue,
            Err(error) => return Err(error),
        };
        let remains = claim.clear_remains(&place)?;
        let name = place.name.clone();
        let (loop_path, still_used) = remains.map_or((None, false), |(path, used)| (Some(path), used));
        tracing::info!(volume = name, ?loop_path, still_used, "the remains of a dead daemon's device were removed");
        claim.discard(&place);
        found.push(StaleDevice { name, loop_path, still_used });
    }
    Ok(found)
}
