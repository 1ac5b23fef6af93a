//! The moment itself: a site killed, another promoted, each part of the way timed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{DemoError, Result};
use crate::farshore::Results;
use crate::filesystem;
use crate::process::kill_pid;
use crate::report::Report;
use crate::sites::Site;
use crate::wait;

const DETECTION_LIMIT: Duration = Duration::from_secs(30);
const DETECTION_POLL: Duration = Duration::from_millis(20);

/// SIGKILL to all of them, with nothing in between. Answers when it began.
pub fn kill_all(pids: &[u32]) -> Instant {
    let began = Instant::now();
    for pid in pids {
        kill_pid(*pid);
    }
    began
}

/// From the kill to the first acknowledged write at the new primary.
pub struct Failover {
    pub device: PathBuf,
    pub detection: Duration,
    /// The rest of the old primary's lease, in which nobody may write.
    pub lease: Duration,
    pub promotion: Duration,
    pub attach: Duration,
    pub first_write: Duration,
    /// All of them, as one watch measured it.
    pub total: Duration,
}

/// What an operator does at `site`, who waits for nothing but the site's own report that `lost` is gone.
pub fn take_over(site: &mut Site, lost: &str, volume: &str, killed: Instant, lease: Duration) -> Result<Failover> {
    wait::until(&format!("{} noticing that {lost} is gone", site.name), DETECTION_LIMIT, DETECTION_POLL, || {
        site.check()?;
        let seen = site.volume(volume)?;
        let member = seen.member(lost).ok_or_else(|| DemoError::Broken(format!("{volume} has no member in {lost}")))?;
        Ok(if member.connected { Err(format!("{lost} is {}", member.state)) } else { Ok(()) })
    })?;
    let detected = killed.elapsed();
    let Results { results } = site.ask(&["failover", "--from", lost])?;
    if !results.iter().any(|moved| moved.volume == volume && moved.ok) {
        return Err(DemoError::Broken(format!("failover did not move {volume}: {results:?}")));
    }
    let promoted = killed.elapsed();
    let device = site.attach(volume)?;
    let attached = killed.elapsed();
    filesystem::touch(&device)?;
    let total = killed.elapsed();
    // The lease runs from the last acknowledgement before the kill; what is left of it when the promotion begins is
    // waited for inside the promotion.
    let lease = lease.saturating_sub(detected).min(promoted - detected);
    Ok(Failover {
        device,
        detection: detected,
        lease,
        promotion: promoted - detected - lease,
        attach: attached - promoted,
        first_write: total - attached,
        total,
    })
}

impl Failover {
    pub fn tell(&self, report: &Report) {
        report.part("detection", self.detection, "until west said that east is gone");
        report.part("lease", self.lease, "what was left of the old primary's at that moment");
        report.part("promotion", self.promotion, "a new epoch from the quorum, the log adopted");
        report.part("attach", self.attach, "a block device at west");
        report.part("first write", self.first_write, "acknowledged by the quorum");
        report.part("kill to first write", self.total, "");
    }
}

/// Checks and mounts what the volume holds, each with its time.
pub fn mount(device: &Path, at: &Path, report: &Report) -> Result<()> {
    let began = Instant::now();
    let found = filesystem::check(device)?;
    report.part("file system check", began.elapsed(), found);
    let began = Instant::now();
    filesystem::mount(device, at)?;
    report.part("mount", began.elapsed(), "");
    Ok(())
}
