//! What the running replicator knows of itself and its peers.

use farshore_proto::v1 as api;

use crate::client::Replicator;
use crate::failure::Failure;
use crate::report::day;
use crate::table::{bytes, time_ms, time_us};

use super::run::Check;

/// Leases do not depend on wall clocks; certificates and whoever compares logs do.
const SKEW_WARN_MS: i64 = 5_000;
/// Connections, segments and tables still to come.
const FILES_USED_PERCENT_WARN: u64 = 80;

pub async fn facts(replicator: &Replicator, checks: &mut Vec<Check>) -> Option<api::DoctorResponse> {
    match replicator.node().doctor(api::DoctorRequest {}).await {
        Ok(facts) => {
            let facts = facts.into_inner();
            let info = facts.info.clone().unwrap_or_default();
            let found =
                format!("{}/{} answers, version {}, {} volumes", info.site, info.node, info.version, info.volumes);
            checks.push(Check::ok("replicator", found));
            if info.version != env!("CARGO_PKG_VERSION") {
                let found = format!("the replicator has {}, farshore {}", info.version, env!("CARGO_PKG_VERSION"));
                checks.push(Check::warn("versions", found, "restart the replicator after an upgrade"));
            }
            Some(facts)
        }
        Err(status) => {
            let failure = Failure::from(status);
            let remedy = "look at its log: journalctl -u farshore-replicator";
            checks.push(Check::fail("replicator", format!("it answers with: {}", failure.message), remedy));
            None
        }
    }
}

pub fn checks(facts: &api::DoctorResponse) -> Vec<Check> {
    let mut checks = vec![journal(facts), files(facts)];
    if facts.disk_total_bytes > 0 {
        let found = format!("{} of {} free", bytes(facts.disk_free_bytes), bytes(facts.disk_total_bytes));
        checks.push(Check::ok("store", found));
    }
    checks.extend(facts.peers.iter().map(peer));
    checks.extend(facts.peers.iter().filter_map(skew));
    checks.extend(facts.conditions.iter().map(|c| Check::fail(&c.name, c.text.clone(), c.remedy.clone())));
    checks
}

fn journal(facts: &api::DoctorResponse) -> Check {
    let engine = facts.info.as_ref().map(|i| i.journal_engine.as_str()).unwrap_or_default();
    if engine == "io_uring" {
        return Check::ok("journal engine", facts.journal_reason.clone());
    }
    let remedy = "it works, with more latency; allow io_uring_setup in the seccomp profile, or see the io_uring check";
    Check::warn("journal engine", facts.journal_reason.clone(), remedy)
}

fn files(facts: &api::DoctorResponse) -> Check {
    let found = format!("{} of {} open", facts.open_files, facts.open_files_limit);
    let used = facts.open_files.saturating_mul(100).checked_div(facts.open_files_limit).unwrap_or(0);
    if used >= FILES_USED_PERCENT_WARN {
        return Check::warn("replicator's files", found, "raise LimitNOFILE in its systemd unit");
    }
    Check::ok("replicator's files", found)
}

fn peer(peer: &api::Peer) -> Check {
    let name = format!("peer {}/{}", peer.site, peer.node);
    if peer.connected {
        let mut found = format!("connected, {} away", time_us(peer.rtt_us));
        if peer.certificate_expires_unix_s > 0 {
            found += &format!(", certificate until {}", day(peer.certificate_expires_unix_s));
        }
        return Check::ok(&name, found);
    }
    let mut found = "not connected".to_string();
    if peer.silent_ms > 0 {
        found += &format!(" for {}", time_ms(peer.silent_ms));
    }
    if !peer.reason.is_empty() {
        found += &format!(": {}", peer.reason);
    }
    let remedy = if peer.address.is_empty() {
        "it must dial us: does it name our address, and does its site let UDP out?".to_string()
    } else {
        format!("is {} the right address, and does UDP pass to it through every firewall?", peer.address)
    };
    Check::fail(&name, found, remedy)
}

fn skew(peer: &api::Peer) -> Option<Check> {
    let skew = peer.clock_skew_ms;
    (skew.abs() > SKEW_WARN_MS).then(|| {
        let direction = if skew > 0 { "ahead of" } else { "behind" };
        let found =
            format!("the clock of {}/{} is {} {direction} ours", peer.site, peer.node, time_ms(skew.unsigned_abs()));
        Check::warn("wall clocks", found, "run chrony or systemd-timesyncd on both nodes")
    })
}

#[cfg(test)]
mod tests {
    use super::super::run::Verdict;
    use super::*;

    #[test]
    fn facts_are_judged() {
        let away = api::Peer { site: "west".into(), reason: "bad certificate".into(), ..Default::default() };
        let ahead = api::Peer { connected: true, clock_skew_ms: -6_000, ..Default::default() };
        let full = api::Condition { name: "disk-full".into(), text: "x".into(), remedy: "y".into() };
        let facts = api::DoctorResponse {
            peers: vec![away, ahead],
            conditions: vec![full],
            open_files: 90,
            open_files_limit: 100,
            ..Default::default()
        };
        let checks = checks(&facts);
        let verdict = |name: &str| checks.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("{name}")).verdict;
        assert_eq!(verdict("journal engine"), Verdict::Warn);
        assert_eq!(verdict("replicator's files"), Verdict::Warn);
        assert_eq!(verdict("peer west/"), Verdict::Fail);
        assert_eq!(verdict("wall clocks"), Verdict::Warn);
        assert_eq!(verdict("disk-full"), Verdict::Fail);
        assert!(checks.iter().all(|c| (c.verdict == Verdict::Ok) == c.remedy.is_empty()));
    }
}
