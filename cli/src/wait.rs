//! Waiting for a member to be in the sync set, or for a scrub's end, with a bar where somebody watches.

use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use farshore_proto::v1 as api;
use farshore_replicator::control::states::member;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::{Replicator, present};
use crate::failure::{Exit, Failure};
use crate::table::bytes;
use crate::values::Place;

const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Whoever led the volume may come back, or another take over. After that nothing comes of waiting.
const LEADERLESS_MAX: Duration = Duration::from_secs(30);

/// Polls until every member that `place` names (all with data where it is None) replicates in the sync set. Ends
/// early with an error where waiting can't help: it diverged, is damaged, the resync is paused, or nobody leads the volume.
pub async fn until_in_sync(
    replicator: &Replicator,
    volume: &str,
    place: Option<&Place>,
) -> Result<api::VolumeStatus, Failure> {
    let bar = bar(volume);
    let mut led = Instant::now();
    loop {
        let request = api::GetVolumeRequest { volume: volume.into() };
        let status = present(replicator.volumes().get(request).await?.into_inner().volume)?;
        let mut waited_for = status.members.iter().filter(|m| named(m, place)).peekable();
        if waited_for.peek().is_none() {
            let remedy = format!("farshore volume show {volume}");
            return Err(Failure::new(Exit::NotFound, format!("volume {volume:?} has no such member any more"), remedy));
        }
        let behind: Vec<&api::MemberStatus> = waited_for.filter(|m| !in_sync(m)).collect();
        let Some(slowest) = behind.iter().min_by(|a, b| a.progress.total_cmp(&b.progress)) else {
            bar.finish_and_clear();
            return Ok(status);
        };
        if let Some(stuck) = behind.iter().find(|m| member::STUCK.contains(&m.state.as_str())) {
            bar.abandon();
            let message = format!("{}/{} of volume {volume:?} is {}", stuck.site, stuck.node, stuck.state);
            return Err(
                Failure::new(Exit::Refused, message, "see the conditions in: farshore status").because(&stuck.reason)
            );
        }
        if !status.primary_node.is_empty() {
            led = Instant::now();
        }
        if led.elapsed() > LEADERLESS_MAX {
            bar.abandon();
            return Err(Failure::new(
                Exit::Unavailable,
                format!("nobody leads volume {:?}, and so nobody makes its copies whole", status.name),
                format!("promote it in a site of its sync set, then run this again: farshore promote {}", status.name),
            ));
        }
        bar.set_position((slowest.progress.clamp(0.0, 1.0) * 1_000.0) as u64);
        bar.set_message(format!("{}/{} {}{}", slowest.site, slowest.node, slowest.state, shipped(slowest)));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Polls until no scrub of the copy is under way.
pub async fn until_scrubbed(
    replicator: &Replicator,
    mut volume: api::VolumeStatus,
) -> Result<api::VolumeStatus, Failure> {
    let bar = bar(&volume.name);
    while let Some(scrub) = volume.scrub.as_ref().filter(|scrub| scrub.running) {
        bar.set_position((scrub.progress.clamp(0.0, 1.0) * 1_000.0) as u64);
        bar.set_message(format!("{} blocks damaged, {} repaired", scrub.damaged_blocks, scrub.repaired_blocks));
        tokio::time::sleep(POLL_INTERVAL).await;
        let request = api::GetVolumeRequest { volume: volume.id.clone() };
        volume = present(replicator.volumes().get(request).await?.into_inner().volume)?;
    }
    bar.finish_and_clear();
    Ok(volume)
}

fn named(m: &api::MemberStatus, place: Option<&Place>) -> bool {
    match place {
        Some(place) => m.site == place.site && (place.node.is_empty() || m.node == place.node),
        None => m.kind() == api::MemberKind::Data,
    }
}

fn in_sync(m: &api::MemberStatus) -> bool {
    match m.kind() {
        api::MemberKind::Data => m.in_sync_set && m.state == member::REPLICATING,
        api::MemberKind::Observer => [member::REPLICATING, member::RESTING].contains(&m.state.as_str()),
        api::MemberKind::Witness | api::MemberKind::Diskless | api::MemberKind::Unspecified => m.connected,
    }
}

/// How much of an image that is shipped to it is there: to follow its state.
fn shipped(m: &api::MemberStatus) -> String {
    match (m.shipped_bytes, m.to_ship_bytes) {
        (0, 0) => String::new(),
        (done, 0) => format!(", {} shipped", bytes(done)),
        (done, all) => format!(", {} of {} shipped", bytes(done), bytes(all)),
    }
}

/// Of several volumes at a time each has a line.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    let watched = std::io::stderr().is_terminal();
    MultiProgress::with_draw_target(if watched { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() })
});

fn bar(volume: &str) -> ProgressBar {
    let bar = BARS.add(ProgressBar::new(1_000).with_prefix(volume.to_string()));
    if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:32}] {percent:>3} % {msg} ({elapsed})") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_is_told_as_far_as_it_is_known() {
        let member = |shipped_bytes, to_ship_bytes| {
            shipped(&api::MemberStatus { shipped_bytes, to_ship_bytes, ..api::MemberStatus::default() })
        };
        assert_eq!(member(0, 0), "");
        assert_eq!(member(3 << 20, 0), ", 3 MiB shipped");
        assert_eq!(member(3 << 20, 1 << 30), ", 3 MiB of 1 GiB shipped");
    }
}
