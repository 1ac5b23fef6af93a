//! How well a volume's other copies follow, in the words of csi-addons.

use std::time::{Duration, SystemTime};

use farshore_proto::csiaddons::replication::GetVolumeReplicationInfoResponse;
use farshore_proto::csiaddons::replication::get_volume_replication_info_response::Status as Health;
use farshore_proto::v1 as api;
use prost_types::Timestamp;

/// Copies in other sites than this one.
pub fn remotes<'a>(volume: &'a api::VolumeStatus, here: &str) -> Vec<&'a api::MemberStatus> {
    volume.members.iter().filter(|m| m.site != here && m.holds_copy()).collect()
}

/// Copies in this site.
pub fn copies<'a>(volume: &'a api::VolumeStatus, here: &str) -> Vec<&'a api::MemberStatus> {
    volume.members.iter().filter(|m| m.site == here && m.holds_copy()).collect()
}

/// Polls and shipments take their time too: so many intervals late is late.
const LATE_INTERVALS: u64 = 2;
/// The replicator's condition of a copy whose shipments find no place on its disk.
const NO_ROOM: &str = "resync-no-room";
/// For a copy that is fed all the time, and is not waited for.
const FED_MS: u64 = 10_000;

/// Whether a copy is as near as the volume's mode has it.
pub fn follows(volume: &api::VolumeStatus, member: &api::MemberStatus) -> bool {
    let policy = volume.policy.clone().unwrap_or_default();
    if policy.mode() != api::Mode::Async || member.in_sync_set {
        return is_whole(member);
    }
    let late_ms = policy.rpo_ms.saturating_mul(LATE_INTERVALS).max(FED_MS);
    let fed = ["replicating", "resting", "catching-up", "resyncing"].contains(&member.state.as_str());
    member.connected && fed && member.lag_ms <= late_ms
}

/// Why nothing comes to a copy of this site that lacks something; `None`: it is on its way.
pub fn stands_still(volume: &api::VolumeStatus, member: &api::MemberStatus) -> Option<String> {
    if volume.state == "failed" {
        return Some(if volume.reason.is_empty() { "it has failed".into() } else { volume.reason.clone() });
    }
    if let Some(full) = volume.conditions.iter().find(|condition| condition.name == NO_ROOM) {
        return Some(full.text.clone());
    }
    let comes = ["replicating", "resting", "catching-up", "resyncing", "full-copy"].contains(&member.state.as_str());
    match (comes, member.reason.as_str()) {
        (true, _) => None,
        (false, "") => Some(format!("it is {}", member.state)),
        (false, reason) => Some(format!("it is {}: {reason}", member.state)),
    }
}

/// Whether a copy has all that was acknowledged.
pub fn is_whole(member: &api::MemberStatus) -> bool {
    member.connected && member.in_sync_set && member.state == "replicating"
}

/// As the primary's site sees it. The time is that of the copy that is furthest behind: never too young.
pub fn described(volume: &api::VolumeStatus, here: &str, now: SystemTime) -> GetVolumeReplicationInfoResponse {
    let remotes = remotes(volume, here);
    let behind_ms = |member: &&api::MemberStatus| match is_whole(member) {
        // What is under way to a member of the sync set is not acknowledged yet.
        true => 0,
        // A copy that rests has what there is.
        false if member.connected && follows(volume, member) => member.lag_ms,
        false => member.lag_ms.max(member.silent_ms).max(1),
    };
    let worst_ms = remotes.iter().map(behind_ms).max().unwrap_or(0);
    let near = remotes.iter().filter(|member| follows(volume, member)).count();
    let status = match near {
        0 => Health::Error,
        all if all == remotes.len() => Health::Healthy,
        _ => Health::Degraded,
    };
    let each = remotes.iter().map(|m| match m.reason.is_empty() {
        true => format!("{}/{} {}", m.site, m.node, m.state),
        false => format!("{}/{} {} ({})", m.site, m.node, m.state, m.reason),
    });
    let text: Vec<String> = each.collect();
    GetVolumeReplicationInfoResponse {
        last_sync_time: Some(timestamp(now - Duration::from_millis(worst_ms))),
        last_sync_duration: None,
        last_sync_bytes: 0,
        status: status.into(),
        status_message: text.join(", "),
    }
}

fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(site: &str, state: &str, in_sync_set: bool, lag_ms: u64) -> api::MemberStatus {
        let connected = state != "unreachable";
        let silent_ms = if connected { 0 } else { lag_ms };
        let (site, state) = (site.into(), state.into());
        api::MemberStatus { site, state, in_sync_set, connected, lag_ms, silent_ms, ..Default::default() }
    }

    fn of(members: Vec<api::MemberStatus>) -> (Health, i64) {
        let volume = api::VolumeStatus { members, ..Default::default() };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let said = described(&volume, "east", now);
        (said.status(), said.last_sync_time.unwrap().seconds)
    }

    #[test]
    fn the_copy_that_is_furthest_behind_decides() {
        let east = || member("east", "replicating", true, 0);
        let good = |site: &str| member(site, "replicating", true, 3);
        assert_eq!(of(vec![east(), good("west"), good("north")]), (Health::Healthy, 1000));
        assert_eq!(
            of(vec![east(), good("west"), member("north", "catching-up", false, 60_000)]),
            (Health::Degraded, 940)
        );
        assert_eq!(of(vec![east(), member("west", "unreachable", true, 9_000)]), (Health::Error, 991));
        assert_eq!(of(vec![east()]), (Health::Error, 1000));
    }

    #[test]
    fn a_copy_on_a_schedule_is_healthy_while_it_keeps_it() {
        let said = |rpo_ms: u64, west: api::MemberStatus| {
            let mut policy = api::Policy { rpo_ms, ..Default::default() };
            policy.set_mode(api::Mode::Async);
            let members = vec![member("east", "replicating", true, 0), west];
            let volume = api::VolumeStatus { members, policy: Some(policy), ..Default::default() };
            let said = described(&volume, "east", SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
            (said.status(), said.last_sync_time.unwrap().seconds)
        };
        let west = |state: &str, lag_ms: u64| member("west", state, false, lag_ms);
        assert_eq!(said(60_000, west("resting", 0)), (Health::Healthy, 1000));
        assert_eq!(said(60_000, west("resting", 50_000)), (Health::Healthy, 950));
        assert_eq!(said(60_000, west("resting", 130_000)), (Health::Error, 870));
        assert_eq!(said(0, west("replicating", 20)), (Health::Healthy, 999));
        assert_eq!(said(60_000, west("unreachable", 9_000)), (Health::Error, 991));
        assert_eq!(said(60_000, west("diverged", 1_000)), (Health::Error, 999));
    }
}
