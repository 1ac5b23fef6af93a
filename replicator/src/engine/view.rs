//! What the control plane shows: the core's status in the words of the API, and what the loss of each site would cost.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::api::{MemberStatus, Status};
use farshore_core::ids::{MemberId, Seq, VolumeId};
use farshore_core::loss::{self, SiteLoss};
use farshore_core::register::{Configuration, Durability, MemberKind, OnQuorumLoss};
use farshore_proto::v1 as api;

use super::clone::SOURCE_LABEL;
use super::diverged_note::DivergedCopy;
use super::driver::{VolumeHandle, lock};
use super::fenced::{FENCED_LABEL, fenced_condition, fenced_sites};
use super::forward::{DEVICE_LABEL, forwarded_to};
use super::io_limits::{IO_LIMITS_LABEL, IoLimits};
use super::marks::{UNFINISHED_LABEL, kept_count};
use super::modes::show_mode;
use super::moves::{MODE_AFTER_LABEL, move_condition};
use super::node::Node;
use super::policy::{NEXT_CLASS_LABEL, next_class};
use super::readers::{READ_ONLY_LABEL, is_read_only};
use super::receive_packed;
use super::schedule_text::SCHEDULE_LABEL;
use super::schedule_verbs::Led;
use super::snapshot_space::{LIMIT_LABEL, limit_bytes};
use super::words::{Words, testimony};
use crate::control::{OpError, OpKind, states};
use crate::store::SnapshotRow;
use crate::transport::{PeerName, Versions};

/// A status is for people who look now: what the holder does not say at once is left out.
pub(super) const HOLDER_PATIENCE: Duration = Duration::from_millis(700);

impl Node {
    /// As [`Node::view`], with what only the epoch's holder knows: where every member stands, and the cost of losses.
    pub(super) async fn full_view(self: &Arc<Self>, handle: &Arc<VolumeHandle>) -> Result<api::VolumeStatus, OpError> {
        Ok(self.view_and_words(handle).await?.0)
    }

    /// With what it is made of, as to losses.
    pub(super) async fn view_and_words(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
    ) -> Result<(api::VolumeStatus, Words), OpError> {
        let mut view = self.view_with_readers(handle).await?;
        let mut own = testimony(&view);
        if view.role() != api::Role::Primary
            && let Some(holder) = self.holder(handle).await.filter(|holder| *holder != handle.me)
            && let Ok(peer) = self.peer_of(handle, holder)
            && let Some(theirs) = self.view_there(handle, &peer).await
            && theirs.role() == api::Role::Primary
            && theirs.lineage == view.lineage
        {
            merge(&mut view, theirs);
        }
        own.acked = Seq(view.acked_seq);
        let theirs = self.views_elsewhere(handle, &view).await;
        let words = Words::of(&view, own, &theirs);
        words.narrow_losses(&mut view);
        for figure in view.loss.iter_mut().filter(|figure| !figure.promote_sized) {
            let (after, records) = (figure.promote_last_seq, figure.promote_records);
            if let Some((bytes, ms)) = self.span_among(handle, &words, after, records).await {
                (figure.promote_bytes, figure.promote_ms, figure.promote_sized) = (bytes, ms, true);
            }
        }
        // Who is connected and follows nobody may have a history of its own, which only it knows.
        for (member, theirs) in view.members.iter_mut().zip(theirs) {
            if member.state == states::member::UNREACHABLE
                && let Some(theirs) = theirs.filter(|theirs| theirs.state == states::volume::DIVERGED)
            {
                member.state = states::member::DIVERGED.into();
                member.reason = theirs.reason;
            }
        }
        Ok((view, words))
    }

    /// What the members within reach say of the volume, as far as that may be more than is known here; in their order, all
    /// asked at once.
    async fn views_elsewhere(&self, handle: &VolumeHandle, view: &api::VolumeStatus) -> Vec<Option<api::VolumeStatus>> {
        let copies = || view.members.iter().filter(|member| member.holds_copy());
        let inexact =
            view.loss.iter().any(|loss| !loss.exact) || copies().any(|member| member.here && !member.lag_exact);
        let asked = view.members.iter().map(|member| async move {
            let copy = !member.here && member.holds_copy();
            if !member.connected || !(member.state == states::member::UNREACHABLE || (inexact && copy)) {
                return None;
            }
            let peer = PeerName::new(&member.site, &member.node).ok()?;
            self.view_there(handle, &peer).await
        });
        futures_util::future::join_all(asked).await
    }

    async fn view_there(&self, handle: &VolumeHandle, peer: &PeerName) -> Option<api::VolumeStatus> {
        if !self.is_connected(peer) {
            return None;
        }
        self.view_at(handle, peer, HOLDER_PATIENCE).await.ok()?
    }

    /// Another node's view of a volume. None: it holds no such volume.
    pub(super) async fn view_at(
        &self,
        handle: &VolumeHandle,
        peer: &PeerName,
        patience: Duration,
    ) -> Result<Option<api::VolumeStatus>, OpError> {
        let request = api::GetVolumeRequest { volume: handle.id.to_string() };
        match self.forward_within::<api::GetVolumeResponse>(patience, peer, "view", &request).await {
            Ok(answer) => Ok(Some(answer.volume.unwrap_or_default())),
            Err(error) if error.kind == OpKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn view(self: &Arc<Self>, handle: &Arc<VolumeHandle>) -> Result<api::VolumeStatus, OpError> {
        let status = handle
            .status()
            .await
            .ok_or_else(|| OpError::unavailable(format!("volume {} is stopping", handle.name()), "try again"))?;
        let mut view = volume_view(&status, &self.shared.me);
        for member in &mut view.members {
            let Ok(peer) = PeerName::new(&member.site, &member.node) else { continue };
            member.connected = self.is_connected(&peer);
            member.here = peer == self.shared.me;
            self.show_shipment(handle.id, member);
            if let Some(link) = self.shared.transport.status().into_iter().find(|s| s.name == peer) {
                member.rtt_us = link.rtt_us.unwrap_or(0);
            }
            if !member.connected {
                member.state = "unreachable".into();
            }
        }
        view.allocated_bytes =
            self.shared.store.volumes().iter().find(|v| v.volume == handle.id).map_or(0, |v| v.used_bytes);
        for ((_, peer), why) in lock(&self.refusals).iter().filter(|((volume, _), _)| *volume == handle.id) {
            view.conditions.push(api::Condition {
                name: "not-a-member".into(),
                text: format!("{peer} does not talk with this node about the volume: {why}"),
                remedy: format!(
                    "if this member was removed: delete the copy here with `farshore volume delete {}`, or add it again",
                    handle.name()
                ),
            });
        }
        if let Some(reason) = handle.applier.stopped() {
            view.conditions.push(api::Condition {
                name: "apply-stopped".into(),
                text: reason,
                remedy: "free space on this node, upgrade it if others are newer, or replace the member".into(),
            });
        }
        if let Some((text, remedy)) = receive_packed::no_room(&self.shared, handle.id) {
            view.conditions.push(api::Condition { name: "resync-no-room".into(), text, remedy: remedy.into() });
        }
        let rows = self.rows(handle).unwrap_or_default();
        view.snapshots = kept_count(&rows);
        let led = match (status.role, status.leader) {
            ("primary", _) => Led::Here,
            (_, Some(_)) => Led::Elsewhere,
            (_, None) => Led::Nowhere,
        };
        view.schedules = self.schedule_views(handle, &status.config, &rows, led);
        let own = [
            LIMIT_LABEL,
            NEXT_CLASS_LABEL,
            IO_LIMITS_LABEL,
            MODE_AFTER_LABEL,
            FENCED_LABEL,
            DEVICE_LABEL,
            READ_ONLY_LABEL,
        ];
        view.labels.retain(|key, _| !key.starts_with(SCHEDULE_LABEL) && !own.contains(&key.as_str()));
        view.snapshot_held_bytes = self.shared.store.held_bytes(handle.id).unwrap_or(0);
        view.snapshot_limit_bytes = limit_bytes(&status.config).unwrap_or(0);
        if led == Led::Here {
            view.conditions.extend(self.snapshots_refused(handle));
        }
        view.conditions.extend(move_condition(&status.config));
        view.conditions.extend(fenced_condition(&status.config));
        view.fenced_sites = fenced_sites(&status.config);
        view.read_only = is_read_only(&status.config.volume);
        view.readers.extend(self.reader_here(handle.id).await);
        view.source = view.labels.get(SOURCE_LABEL).cloned().unwrap_or_default();
        view.conditions.extend(unfinished_condition(handle, &rows));
        if handle.applier.has_store() {
            view.scrub = Some(self.scrub_view(handle.id, view.size_bytes));
            view.conditions.extend(self.damage_condition(handle));
        }
        if let Some(attached) = &mut view.attached
            && let Some((_, device)) = self.attachments.describe(handle.id).await
        {
            attached.device = Some(device);
        }
        Ok(view)
    }

    /// How far its image is, if one is being shipped from here, also while the link is down.
    fn show_shipment(&self, volume: VolumeId, member: &mut api::MemberStatus) {
        let shipped = [states::member::RESYNCING, states::member::FULL_COPY, states::member::UNREACHABLE];
        let to = u16::try_from(member.id).map(MemberId);
        if let Ok(to) = to
            && shipped.contains(&member.state.as_str())
            && let Some((done, all)) = self.shared.outgoing.progress(volume, to)
        {
            (member.shipped_bytes, member.to_ship_bytes) = (done, all);
            member.progress = if all > 0 { done as f64 / all as f64 } else { 0.0 };
        }
    }

    pub(super) fn describe(&self) -> api::InfoResponse {
        api::InfoResponse {
            site: self.shared.me.site.clone(),
            node: self.shared.me.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            listen: self.shared.transport.listen_address().to_string(),
            http_listen: self.config.http.listen.to_string(),
            data_dir: self.config.node.data_dir.display().to_string(),
            journal_engine: self.shared.journal.status().engine.to_string(),
            volumes: self.catalog.all().len() as u32,
            protocol_min: Versions::SPOKEN.min.into(),
            protocol_max: Versions::SPOKEN.max.into(),
        }
    }

    pub(super) async fn doctor_facts(self: &Arc<Self>) -> api::DoctorResponse {
        let space = self.shared.store.space();
        api::DoctorResponse {
            info: Some(self.describe()),
            journal_reason: self.shared.journal.status().engine.to_string(),
            disk_total_bytes: space.capacity_bytes,
            disk_free_bytes: space.free_bytes,
            certificate_path: self.config.transport.cert.display().to_string(),
            ca_path: self.config.transport.ca.display().to_string(),
            peers: self.peers_in_full().await,
            conditions: self.node_conditions(),
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as u64),
            ..api::DoctorResponse::default()
        }
    }
}

impl Node {
    /// A copy that a fork left behind, in the words of a volume.
    pub(super) fn diverged_view(&self, copy: &DivergedCopy) -> api::VolumeStatus {
        let known = self.catalog.get(copy.volume).map(|handle| handle.name());
        let of = known.unwrap_or_else(|| copy.volume.to_string());
        api::VolumeStatus {
            id: copy.volume.to_string(),
            name: copy.name.clone(),
            size_bytes: copy.size_bytes,
            block_size_bytes: 4096,
            role: api::Role::Secondary.into(),
            state: "diverged".into(),
            reason: format!("what this site had of {of} as lineage {}, up to record {}", copy.lineage, copy.end),
            lineage: copy.lineage.to_string(),
            appended_seq: copy.end.0,
            durable_seq: copy.end.0,
            applied_seq: copy.end.0,
            conditions: vec![api::Condition {
                name: "diverged-copy".into(),
                text: format!("kept since {} (Unix time), when its history lost", copy.set_aside_unix_s),
                remedy: format!(
                    "read it with `nbdcopy 'nbd+unix:///{}?socket={}' FILE`; `farshore volume delete {}` frees its space",
                    copy.name,
                    self.config.nbd.socket.display(),
                    copy.name
                ),
            }],
            reporter_site: self.shared.me.site.clone(),
            reporter_node: self.shared.me.node.clone(),
            ..api::VolumeStatus::default()
        }
    }
}

fn unfinished_condition(handle: &VolumeHandle, rows: &[SnapshotRow]) -> Option<api::Condition> {
    let guard = rows.iter().find(|row| row.labels.contains_key(UNFINISHED_LABEL))?;
    let (name, what) = (handle.name(), guard.labels.get(UNFINISHED_LABEL)?);
    Some(api::Condition {
        name: "unfinished".into(),
        text: format!("{what} is not finished; the volume can't be attached"),
        remedy: format!("run it again; what the volume held before is {name}@{}", guard.name),
    })
}

/// The holder's word on the members; what this node sees of them itself (the links) stays.
fn merge(view: &mut api::VolumeStatus, theirs: api::VolumeStatus) {
    for member in &mut view.members {
        let Some(known) = theirs.members.iter().find(|m| m.id == member.id) else { continue };
        *member = api::MemberStatus {
            connected: member.connected,
            here: member.here,
            rtt_us: member.rtt_us,
            ..known.clone()
        };
    }
    view.acked_seq = view.acked_seq.max(theirs.acked_seq);
    view.loss = theirs.loss;
    view.schedules = theirs.schedules;
}

pub(super) fn role_of(role: &str) -> api::Role {
    match role {
        "primary" => api::Role::Primary,
        "candidate" => api::Role::Candidate,
        "witness" => api::Role::Witness,
        "observer" => api::Role::Observer,
        "diskless" => api::Role::Diskless,
        _ => api::Role::Secondary,
    }
}

fn volume_view(status: &Status, me: &PeerName) -> api::VolumeStatus {
    let config = &status.config;
    let leader = if status.role == "primary" {
        config.members.iter().find(|m| m.site == me.site && m.node == me.node)
    } else {
        status.leader.and_then(|id| config.member(id))
    };
    api::VolumeStatus {
        id: status.volume.to_string(),
        name: config.volume.name.clone(),
        size_bytes: config.volume.size_bytes,
        block_size_bytes: config.volume.logical_block_bytes,
        role: role_of(status.role).into(),
        state: status.state.clone(),
        reason: status.conditions.first().map(|c| c.text.clone()).unwrap_or_default(),
        epoch: status.epoch.to_string(),
        lineage: status.lineage.to_string(),
        config_version: config.version.to_string(),
        policy: Some(policy_view(config)),
        members: config.members.iter().filter_map(|m| member_view(status, m.id)).collect(),
        primary_site: config.current.primary_site.clone(),
        primary_node: leader.map(|m| m.node.clone()).unwrap_or_default(),
        appended_seq: status.appended.0,
        durable_seq: status.durable.0,
        acked_seq: status.acked.0,
        applied_seq: status.applied.0,
        checkpointed_seq: status.checkpointed.0,
        lease: status.lease_left_us.map(|us| api::LeaseStatus { valid: us > 0, remaining_ms: us / 1000 }),
        loss: losses(status),
        conditions: status
            .conditions
            .iter()
            .map(|c| api::Condition { name: c.name.into(), text: c.text.clone(), remedy: c.remedy.clone() })
            .collect(),
        attached: config.attached.map(|a| {
            let member = config.member(a.member);
            let (site, node) = member.map(|m| (m.site.clone(), m.node.clone())).unwrap_or_default();
            let session = format!("{:032x}", a.session.0);
            match forwarded_to(config) {
                Some((_, place)) => api::Attachment {
                    site: place.node.site,
                    node: place.node.node,
                    session,
                    device: None,
                    served_by_node: node,
                },
                None => api::Attachment { site, node, session, ..Default::default() },
            }
        }),
        labels: config.volume.labels.clone().into_iter().collect(),
        reporter_site: me.site.clone(),
        reporter_node: me.node.clone(),
        sync_set_departures: status.departures,
        ..api::VolumeStatus::default()
    }
}

pub(super) fn policy_view(config: &Configuration) -> api::Policy {
    let (rule, limits) = (config.current.rule, IoLimits::of(config));
    let (on_quorum_loss, fence_after_ms) = match config.volume.on_quorum_loss {
        OnQuorumLoss::Freeze => (api::QuorumLoss::Freeze, 0),
        OnQuorumLoss::Fence { after_us } => (api::QuorumLoss::Fence, after_us / 1000),
    };
    let mut policy = api::Policy {
        quorum: config.volume.policy.clone(),
        w: rule.w.into(),
        min_remote: rule.min_remote.into(),
        local_required: rule.local,
        durability: match config.volume.durability {
            Durability::Write => api::Durability::Write,
            Durability::Flush => api::Durability::Flush,
        }
        .into(),
        lease_ms: config.volume.lease_us / 1000,
        on_quorum_loss: on_quorum_loss.into(),
        fence_after_ms,
        next_durability: match next_class(config) {
            Some(Durability::Flush) => api::Durability::Flush.into(),
            _ => api::Durability::Unspecified.into(),
        },
        iops: limits.iops,
        bytes_per_second: limits.bytes_per_second,
        ..api::Policy::default()
    };
    show_mode(config, &mut policy);
    policy
}

fn member_view(status: &Status, id: MemberId) -> Option<api::MemberStatus> {
    let member = status.config.member(id)?;
    let found: &MemberStatus = status.members.iter().find(|m| m.id == id)?;
    let kind = match member.kind {
        _ if status.config.is_async(member) => api::MemberKind::Observer,
        MemberKind::Data | MemberKind::Leaving => api::MemberKind::Data,
        MemberKind::Witness => api::MemberKind::Witness,
        MemberKind::Observer => api::MemberKind::Observer,
        MemberKind::Diskless => api::MemberKind::Diskless,
    };
    let progress = if found.lag_records == 0 { 1.0 } else { found.durable.0 as f64 / status.acked.0.max(1) as f64 };
    Some(api::MemberStatus {
        id: id.0.into(),
        site: member.site.clone(),
        node: member.node.clone(),
        kind: kind.into(),
        votes: status.config.vote_of(id).map_or(0, |v| v.votes.into()),
        in_sync_set: found.in_sync_set,
        state: found.state.into(),
        reason: found.left.clone().unwrap_or_default(),
        durable_seq: found.durable.0,
        applied_seq: found.applied.0,
        lag_records: found.lag_records,
        lag_bytes: found.lag_bytes,
        lag_ms: found.lag_us / 1000,
        lag_exact: loss::forced(status, id).is_some(),
        progress,
        silent_ms: found.heard_us_ago.unwrap_or(0) / 1000,
        stands_in_for: status.config.stands_in(id).map_or("", |s| status.config.site_of(s.lost.member)).into(),
        ..api::MemberStatus::default()
    })
}

/// What the loss of each site would cost, as this node knows it.
pub(super) fn losses(status: &Status) -> Vec<api::SiteLoss> {
    loss::site_losses(status).into_iter().map(show_loss).collect()
}

fn show_loss(loss: SiteLoss) -> api::SiteLoss {
    let (lost, promoted) = (loss.lost, loss.promoted);
    let most = if loss.exact { "" } else { "at most " };
    let gone = match lost.records {
        _ if !loss.exact && !loss.lost_at_most => "nobody here knows what is lost".to_string(),
        0 => "nothing lost".to_string(),
        records => format!("{most}{records} records lost ({} bytes)", lost.bytes),
    };
    let shown = |unknown_us: Option<u64>| unknown_us.map_or(u64::MAX, |us| us.div_ceil(1000));
    let then = if loss.can_continue { "writes continue or one verb away" } else { "no quorum remains" };
    api::SiteLoss {
        text: format!("losing {}: {gone}, {then}", loss.site),
        site: loss.site,
        records: lost.records,
        bytes: lost.bytes,
        ms: lost.us / 1000,
        exact: loss.exact,
        unknown_ms: shown(loss.unknown_us),
        lost_unknown_ms: shown(loss.lost_unknown_us),
        lost_at_most: loss.lost_at_most,
        can_continue: loss.can_continue,
        promote_records: promoted.records,
        promote_bytes: promoted.bytes,
        promote_ms: promoted.us / 1000,
        promote_sized: promoted.sized || promoted.records == 0,
        last_seq: lost.last.0,
        promote_last_seq: promoted.last.0,
    }
}
