//! How well a volume's other copies follow, in the words of csi-addons.

use std::time::{Duration, SystemTime};

use farshore_proto::csiaddons::replication::GetVolumeReplicationInfoResponse;
use farshore_proto::csiaddons::replication::get_volume_replication_info_response::Status as Health;
use farshore_proto::v1 as api;
use prost_types::Timestamp;

/// Copies in other sites than this one.
pub fn remotes<'a>(volume: &'a api::VolumeStatus, here: &str) -> Vec<&'a api::MemberStatus> {
    volume.members.iter().filter(|m| m.site != here && m.kind() != api::MemberKind::Witness).collect()
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
        false => member.lag_ms.max(member.silent_ms).max(1),
    };
    let worst_ms = remotes.iter().map(behind_ms).max().unwrap_or(0);
    let whole = remotes.iter().filter(|member| is_whole(member)).count();
    let status = match whole {
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
}
