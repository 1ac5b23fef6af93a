//! Boot clocks of the sites' own: time namespaces, in which CLOCK_BOOTTIME and CLOCK_MONOTONIC are shifted.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A time namespace, held by a mount until the value goes.
pub struct BootClock {
    at: PathBuf,
}

impl BootClock {
    /// Ahead of the machine's clock by so many seconds, in a namespace held at this path. Needs root and util-linux.
    pub fn ahead_by(seconds: u64, at: &Path) -> Result<BootClock, String> {
        File::create(at).map_err(|e| e.to_string())?;
        let offset = seconds.to_string();
        let mut held = std::ffi::OsString::from("--time=");
        held.push(at);
        let output = Command::new("unshare")
            .arg(held)
            .args(["--boottime", &offset, "--monotonic", &offset, "--", "true"])
            .output()
            .map_err(|e| format!("unshare: {e}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(BootClock { at: at.to_path_buf() }) } else { Err(said.trim().to_string()) }
    }

    /// What a command is started through to live by this clock.
    pub fn through(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--time={}", self.at.display()), "--no-fork".into(), "--".into()]
    }
}

impl Drop for BootClock {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}
