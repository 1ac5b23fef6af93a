//! Where a volume stands, derived for `status` and metrics; nothing here is stored or decided upon.

use crate::api::{Condition, MemberStatus, Status};
use crate::ids::{Incarnation, MemberId, Seq, Tick};
use crate::peers::Feed;
use crate::primary::Primary;
use crate::register::{MemberKind, Mode};
use crate::volume::{RELEASED, Role, Volume};

impl Volume {
    pub fn status(&self, now: Tick) -> Status {
        let replica = self.replica();
        let config = match &self.role {
            Role::Primary(primary) => primary.config(),
            _ => &replica.d.config,
        };
        let (role, state) = self.role_and_state(now);
        let known_until = replica.contact.known_until(replica.durable, replica.end());
        let primary = self.primary();
        let told = replica.acked.max(replica.contact.acked());
        let acked = primary.map_or(told, |p| p.acked.max(told));
        let completed = primary.map_or(acked, |p| p.completed().max(acked));
        let members = config
            .members
            .iter()
            .map(|m| {
                let voted = config.admitted(m.id);
                self.member_status(m.id, m.kind, voted, completed, now)
            })
            .collect();
        Status {
            volume: replica.volume,
            me: replica.me(),
            role,
            state,
            epoch: self.role_epoch().max(replica.d.promised),
            lineage: replica.d.lineage,
            incarnation: replica.d.incarnation,
            whole: replica.whole(),
            parents: replica.d.parents.clone(),
            history: replica.history().clone(),
            config: config.clone(),
            config_stored: replica.config_stored == config.version,
            settled: primary.is_some_and(|p| p.is_open() && p.is_settled()),
            appended: replica.d.installing.as_ref().map_or(replica.end(), |i| i.base.seq.max(replica.end())),
            durable: replica.durable,
            acked,
            completed,
            applied: replica.applied,
            checkpointed: replica.d.base.seq,
            lease_left_us: primary.map(|p| p.lease_until().map_or(0, |until| until.since(now))),
            known_us_ago: match primary {
                Some(primary) => primary.followed_until().map(|at| now.since(at)),
                None => known_until.map(|at| now.since(at)),
            },
            attached_here: primary.is_some_and(Primary::device_open),
            leader: replica.leader().map(|(_, member)| member),
            members,
            departures: primary.map_or(0, Primary::departures),
            conditions: self.conditions(now),
        }
    }

    /// Payload bytes of the records after `after` and up to `upto`, as far as they are in the log here, and how many
    /// microseconds ago the first of them was appended; a little more where that is long ago. `None`: none of them is here, or
    /// they came before this life of the replica.
    pub fn span(&self, after: Seq, upto: Seq, now: Tick) -> Option<(u64, u64)> {
        let tail = self.replica().tail();
        let began = tail.appended_at(after.next()).filter(|_| after < upto)?;
        Some((tail.bytes_after(after) - tail.bytes_after(upto), now.since(began)))
    }

    fn role_and_state(&self, now: Tick) -> (&'static str, String) {
        let replica = self.replica();
        let config = &replica.d.config;
        let kind = config.member(replica.me()).map(|m| if config.is_async(m) { MemberKind::Observer } else { m.kind });
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
                    Some(MemberKind::Diskless) => "diskless",
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
        completed: Seq,
        now: Tick,
    ) -> MemberStatus {
        let replica = self.replica();
        let mut status = MemberStatus {
            id,
            in_sync_set: false,
            left: self.primary().and_then(|p| p.left(id, now)),
            state: "unknown",
            durable: Seq::ZERO,
            applied: Seq::ZERO,
            heard_us_ago: None,
            lag_records: 0,
            lag_bytes: 0,
            lag_us: 0,
            lag_known: false,
        };
        let config = self.primary().map_or(&replica.d.config, Primary::config);
        status.in_sync_set = voted.is_some_and(|inc| config.current.in_sync(id, inc));
        if id == replica.me() {
            status.in_sync_set &= voted == Some(replica.d.incarnation);
            status.durable = replica.durable;
            status.applied = replica.applied;
            status.heard_us_ago = Some(0);
            status.state = match kind {
                MemberKind::Witness => "voting",
                MemberKind::Diskless => "diskless",
                _ => "replicating",
            };
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
                _ if kind == MemberKind::Diskless => "diskless",
                _ if peer.heard.is_none_or(|at| now.since(at) > config.volume.lease_us) => "unreachable",
                _ if peer.feed != Feed::Resting && completed.since(peer.durable) > CATCHING_UP_RECORDS => "catching-up",
                Feed::Resting => "resting",
                Feed::Live | Feed::Reading => "replicating",
            };
        }
        status.lag_known = status.heard_us_ago.is_some();
        if kind.holds_copy() && status.state != "unknown" && status.durable < completed {
            let tail = replica.tail();
            status.lag_records = completed.since(status.durable);
            // What is appended and not completed is no lag.
            status.lag_bytes = tail.bytes_after(status.durable).saturating_sub(tail.bytes_after(completed));
            let behind_since = match tail.appended_at(status.durable.next()) {
                // It is not here either: since it was told of, at least.
                None if status.durable >= replica.end() => replica.contact.known_until(status.durable, replica.end()),
                None => tail.oldest_at(),
                at => at,
            };
            status.lag_known &= tail.appended_at(status.durable.next()).is_some();
            status.lag_us = behind_since.map_or(0, |at| now.since(at));
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
        let voted = replica.d.config.admitted(replica.me());
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
                let voted = config.admitted(*id);
                if is_unknown(voted, peer.incarnation) {
                    let site = config.site_of(*id);
                    let text = format!("the copy in {site} began a new life: it has no vote and counts for nothing");
                    let remedy = format!("`farshore member replace {} {site}`", config.volume.name);
                    add("member-not-readmitted", text, &remedy);
                }
            }
            for place in config.stand_ins.iter().filter(|s| config.stands_in(s.member).is_some()) {
                let (site, lost) = (config.site_of(place.member), config.site_of(place.lost.member));
                let text = format!("the observer in {site} stands in for {lost}, with its vote");
                let remedy = format!(
                    "it rests by itself once {lost} has been back for a while; if {lost} is gone for good: \
                     `farshore member remove {} {lost}` keeps {site} in its place",
                    config.volume.name
                );
                add("observer-promoted", text, &remedy);
            }
            let observes = config.members.iter().any(|m| m.kind == MemberKind::Observer);
            if config.volume.promote_observer_after_us.is_some() && !observes {
                let remedy = format!("`farshore member add {} SITE --kind observer`", config.volume.name);
                add("observer-missing", "there is no observer that could stand in for a lost member".into(), &remedy);
            }
            let distant = config.volume.mode != Mode::Sync
                || config.volume.fallback_after_us.is_some()
                || config.volume.promote_observer_after_us.is_some();
            if let Some(site) = config.site_that_decides().filter(|_| distant) {
                let text = format!("without {site} there is no majority of the votes: nobody could be left out then");
                add("site-decides", text, "add a witness in a third site, or move the primary back");
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
