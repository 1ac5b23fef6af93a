//! Where a volume stands, derived for `status` and metrics; nothing here is stored or decided upon.

use crate::api::{Condition, MemberStatus, Status};
use crate::ids::{Incarnation, MemberId, Seq, Tick};
use crate::peers::Feed;
use crate::primary::Primary;
use crate::register::MemberKind;
use crate::volume::{RELEASED, Role, Volume};

impl Volume {
    pub fn status(&self, now: Tick) -> Status {
        let replica = self.replica();
        let config = match &self.role {
            Role::Primary(primary) => primary.config(),
            _ => &replica.d.config,
        };
        let (role, state) = self.role_and_state(now);
        let primary = self.primary();
        let acked = primary.map_or(replica.acked, |p| p.acked.max(replica.acked));
        let members = config
            .members
            .iter()
            .map(|m| {
                let voted = config.vote_of(m.id).map(|v| v.incarnation);
                self.member_status(m.id, m.kind, voted, acked, now)
            })
            .collect();
        Status {
            volume: replica.volume,
            role,
            state,
            epoch: self.role_epoch().max(replica.d.promised),
            lineage: replica.d.lineage,
            incarnation: replica.d.incarnation,
            whole: replica.whole(),
            parents: replica.d.parents.clone(),
            history: replica.history().clone(),
            config: config.clone(),
            appended: replica.end(),
            durable: replica.durable,
            acked,
            applied: replica.applied,
            checkpointed: replica.d.base.seq,
            lease_left_us: primary.map(|p| p.lease_until().map_or(0, |until| until.since(now))),
            known_us_ago: match primary {
                Some(primary) => primary.followed_until().map(|at| now.since(at)),
                None => replica.holder_heard_us_ago(now),
            },
            attached_here: primary.is_some_and(Primary::device_open),
            leader: replica.leader().map(|(_, member)| member),
            members,
            conditions: self.conditions(now),
        }
    }

    fn role_and_state(&self, now: Tick) -> (&'static str, String) {
        let replica = self.replica();
        let kind = replica.d.config.member(replica.me()).map(|m| m.kind);
        match &self.role {
            _ if replica.failed.is_some() => ("secondary", "failed".into()),
            Role::Candidate(_) | Role::Force(_) => ("candidate", "promoting".into()),
            Role::Follower if replica.d.superseded.is_some() => ("secondary", "diverged".into()),
            Role::Primary(p) if !p.is_open() => ("primary", "promoting".into()),
            Role::Primary(p) if p.lease_until().is_none_or(|until| until <= now) => ("primary", "frozen".into()),
            Role::Primary(p) if !p.everyone_counts() => ("primary", "degraded".into()),
            Role::Primary(_) => ("primary", "healthy".into()),
            Role::Follower => {
                let role = match kind {
                    Some(MemberKind::Witness) => "witness",
                    Some(MemberKind::Observer) => "observer",
                    _ => "secondary",
                };
                let state = if !replica.whole() {
                    "resyncing"
                } else if replica.leader().is_some() && replica.lease_owed_us(now) > 0 {
                    "healthy"
                } else {
                    "unknown"
                };
                (role, state.into())
            }
        }
    }

    fn member_status(
        &self,
        id: MemberId,
        kind: MemberKind,
        voted: Option<Incarnation>,
        acked: Seq,
        now: Tick,
    ) -> MemberStatus {
        let replica = self.replica();
        let mut status = MemberStatus {
            id,
            in_sync_set: false,
            state: "unknown",
            durable: Seq::ZERO,
            applied: Seq::ZERO,
            heard_us_ago: None,
            lag_records: 0,
            lag_bytes: 0,
            lag_us: 0,
        };
        let config = self.primary().map_or(&replica.d.config, Primary::config);
        status.in_sync_set = voted.is_some_and(|inc| config.current.in_sync(id, inc));
        if id == replica.me() {
            status.in_sync_set &= voted == Some(replica.d.incarnation);
            status.durable = replica.durable;
            status.applied = replica.applied;
            status.heard_us_ago = Some(0);
            status.state = if kind == MemberKind::Witness { "voting" } else { "replicating" };
        } else if let Some(peer) = self.primary().and_then(|p| p.peers.get(&id)) {
            status.durable = peer.durable;
            status.applied = peer.applied;
            status.heard_us_ago = peer.heard.map(|at| now.since(at));
            status.in_sync_set &= peer.incarnation.is_none() || peer.incarnation == voted;
            status.state = match peer.feed {
                Feed::Silent => "unreachable",
                _ if is_unknown(voted, peer.incarnation) => "not-readmitted",
                Feed::Shipping => "resyncing",
                _ if kind == MemberKind::Witness => "voting",
                _ if peer.heard.is_none_or(|at| now.since(at) > config.volume.lease_us) => "unreachable",
                _ if acked.since(peer.durable) > CATCHING_UP_RECORDS => "catching-up",
                Feed::Live | Feed::Reading => "replicating",
            };
        }
        if kind != MemberKind::Witness && status.state != "unknown" && status.durable < acked {
            status.lag_records = acked.since(status.durable);
            status.lag_bytes = replica.tail().bytes_after(status.durable);
            status.lag_us = replica.tail().appended_at(status.durable.next()).map_or(0, |at| now.since(at));
        }
        status
    }

    fn conditions(&self, now: Tick) -> Vec<Condition> {
        let replica = self.replica();
        let mut out = Vec::new();
        let mut add = |name, text: String, remedy: &str| {
            out.push(Condition { name, text, remedy: remedy.to_string() });
        };
        if let Some(reason) = &replica.failed {
            add("journal-poisoned", reason.clone(), "replace the disk, restart the daemon, `farshore member replace`");
        }
        if let Some(lineage) = replica.d.superseded {
            let text =
                format!("the volume goes on as lineage {lineage}; this copy of {} is kept, fenced", replica.d.lineage);
            add(
                "diverged",
                text,
                "at the primary: `farshore resync VOLUME --member SITE --discard`; what is here is kept as diverged-…",
            );
        }
        if let Some(lineage) = replica.rival {
            let text = format!(
                "another fork, lineage {lineage}, was forced from the same history as ours ({}): both go on apart",
                replica.d.lineage
            );
            add(
                "rival-fork",
                text,
                "choose one; at its primary: `farshore resync VOLUME --member SITE --discard` for the others",
            );
        }
        if let Some(lost) = replica.d.holed {
            add(
                "journal-hole",
                format!("records up to {lost} are unreadable here"),
                "a peer repairs it once connected; where there is none, `farshore promote VOLUME --force` goes on \
                 without them",
            );
        }
        let voted = replica.d.config.vote_of(replica.me()).map(|v| v.incarnation);
        if is_unknown(voted, Some(replica.d.incarnation)) && replica.failed.is_none() {
            let (volume, config) = (&replica.d.config.volume.name, &replica.d.config);
            let text = format!(
                "this copy began a new life ({}) after a failed sync or the loss of its disk: it has no vote and \
                 counts for nothing until it is readmitted",
                replica.d.incarnation
            );
            let site = config.site_of(replica.me());
            let remedy = format!(
                "at the primary: `farshore member replace {volume} {site}`; if no site can be promoted: \
                 `farshore promote {volume} --force --members ...`"
            );
            add("not-readmitted", text, &remedy);
        }
        if let Some(primary) = self.primary() {
            let config = primary.config();
            for (id, peer) in &primary.peers {
                let voted = config.vote_of(*id).map(|v| v.incarnation);
                if is_unknown(voted, peer.incarnation) {
                    let site = config.site_of(*id);
                    let text = format!("the copy in {site} began a new life: it has no vote and counts for nothing");
                    let remedy = format!("`farshore member replace {} {site}`", config.volume.name);
                    add("member-not-readmitted", text, &remedy);
                }
            }
            if let Some(since) = primary.lease_lost_at() {
                let text = format!("no data quorum since {} ms; I/O waits", now.since(since) / 1000);
                add("quorum-lost", text, "restore contact with the unreachable members");
            }
        } else if let Some(reason) = self.last_end.as_ref().filter(|reason| *reason != RELEASED) {
            add("last-role-ended", reason.clone(), "see which site is primary with `farshore status` there");
        }
        out
    }
}

/// It is there, under another incarnation than the one that the configuration counts.
fn is_unknown(voted: Option<Incarnation>, found: Option<Incarnation>) -> bool {
    voted.is_some() && found.is_some() && voted != found
}

/// A member this far behind is called catching up, not replicating.
const CATCHING_UP_RECORDS: u64 = 4096;
