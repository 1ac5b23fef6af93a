//! An engine without storage: volumes in a map, verbs that follow the rules which callers depend on.
//!
//! For tests of the server, the CLI and the CSI driver. It replicates nothing and must never be served to users.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use farshore_proto::v1 as api;
use futures_util::FutureExt;

use super::error::{OpError, OpKind};
use super::fake_snapshots::FakeSnapshot;
use super::operations::{OpFuture, Operations};
use super::states;

/// One site's one node, with the volumes that it knows.
pub struct FakeOperations {
    site: String,
    node: String,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    volumes: BTreeMap<String, api::VolumeStatus>,
    /// In the order in which they were made.
    pub(super) snapshots: Vec<FakeSnapshot>,
    /// Returned once, by whatever verb comes next.
    fail_next: Option<OpError>,
    /// The next verb is never answered.
    stall_next: bool,
    drawn: u64,
}

impl FakeOperations {
    pub fn new(site: &str, node: &str) -> Self {
        Self { site: site.into(), node: node.into(), state: Mutex::default() }
    }

    /// The next verb fails with this.
    pub fn fail_next(&self, error: OpError) {
        self.lock().fail_next = Some(error);
    }

    /// The next verb is never answered.
    pub fn stall_next(&self) {
        self.lock().stall_next = true;
    }

    /// Changes a volume behind the verbs' back, or adds one.
    pub fn put(&self, volume: api::VolumeStatus) {
        self.lock().volumes.insert(volume.name.clone(), volume);
    }

    pub fn volume(&self, name: &str) -> Option<api::VolumeStatus> {
        self.lock().volumes.get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs a verb at once, under the lock.
    pub(super) fn run<'a, T: Send + 'a>(
        &'a self,
        verb: impl FnOnce(&Self, &mut State) -> Result<T, OpError>,
    ) -> OpFuture<'a, T> {
        let mut state = self.lock();
        if std::mem::take(&mut state.stall_next) {
            return std::future::pending().boxed();
        }
        let result = match state.fail_next.take() {
            Some(error) => Err(error),
            None => verb(self, &mut state),
        };
        std::future::ready(result).boxed()
    }

    /// Runs a verb on one volume and returns its status afterwards.
    fn change<'a>(
        &'a self,
        volume: &str,
        verb: impl FnOnce(&Self, &mut api::VolumeStatus) -> Result<(), OpError>,
    ) -> OpFuture<'a, api::VolumeStatus> {
        self.run(|fake, state| {
            let found = state.find(volume)?;
            verb(fake, found)?;
            Ok(found.clone())
        })
    }

    fn new_volume(&self, id: u64, request: api::CreateVolumeRequest) -> api::VolumeStatus {
        let members: Vec<_> =
            request.members.iter().enumerate().map(|(i, spec)| self.new_member(i as u32 + 1, spec)).collect();
        let loss = members.iter().map(|m| loss_of(&m.site, true)).collect();
        api::VolumeStatus {
            id: format!("{id:032x}"),
            name: request.name,
            size_bytes: request.size_bytes,
            block_size_bytes: request.block_size_bytes,
            role: api::Role::Secondary.into(),
            state: states::volume::HEALTHY.into(),
            epoch: "0.00000000".into(),
            lineage: format!("g1.{id:08x}"),
            config_version: "0.00000000/1".into(),
            policy: request.policy.map(|policy| with_numbers(policy, &members)),
            primary_site: request.members.first().map(|m| m.site.clone()).unwrap_or_default(),
            members,
            lease: Some(api::LeaseStatus::default()),
            loss,
            labels: request.labels,
            read_only: request.read_only,
            reporter_site: self.site.clone(),
            reporter_node: self.node.clone(),
            ..Default::default()
        }
    }

    fn new_member(&self, id: u32, spec: &api::MemberSpec) -> api::MemberStatus {
        let here = spec.site == self.site;
        let node = if !spec.node.is_empty() {
            spec.node.clone()
        } else if here {
            self.node.clone()
        } else {
            format!("{}-1", spec.site)
        };
        let data = spec.kind() == api::MemberKind::Data;
        let state =
            if spec.kind() == api::MemberKind::Witness { states::member::VOTING } else { states::member::REPLICATING };
        api::MemberStatus {
            id,
            site: spec.site.clone(),
            node,
            kind: spec.kind,
            votes: spec.votes,
            in_sync_set: data,
            connected: true,
            state: state.into(),
            progress: 1.0,
            here,
            ..Default::default()
        }
    }

    fn become_primary(&self, volume: &mut api::VolumeStatus) {
        let n: u64 = volume.epoch.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        volume.epoch = format!("{}.{:08x}", n + 1, n + 1);
        volume.role = api::Role::Primary.into();
        volume.primary_site = self.site.clone();
        volume.primary_node = self.node.clone();
        volume.lease = Some(api::LeaseStatus { valid: true, remaining_ms: 4_000 });
    }
}

impl State {
    pub(super) fn find(&mut self, volume: &str) -> Result<&mut api::VolumeStatus, OpError> {
        self.volumes.values_mut().find(|v| v.name == volume || v.id == volume).ok_or_else(|| OpError::no_volume(volume))
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.volumes.keys().cloned().collect()
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }
}

fn with_numbers(mut policy: api::Policy, members: &[api::MemberStatus]) -> api::Policy {
    let data = members.iter().filter(|m| m.in_sync_set).count() as u32;
    (policy.w, policy.min_remote, policy.local_required) = match policy.quorum.as_str() {
        "nearest-remote" => (2.min(data), 1.min(data - 1), true),
        "all-remotes" => (data, data - 1, false),
        "all" => (data, data - 1, true),
        "numbers" => (policy.w, policy.min_remote, policy.local_required),
        _ => (data / 2 + 1, 1.min(data - 1), false),
    };
    policy
}

fn loss_of(site: &str, can_continue: bool) -> api::SiteLoss {
    let then = if can_continue { "writes continue" } else { "writes stop until it is back" };
    api::SiteLoss {
        site: site.into(),
        exact: true,
        can_continue,
        text: format!("losing {site}: nothing lost, {then}"),
        ..Default::default()
    }
}

fn member_at<'a>(
    volume: &'a mut api::VolumeStatus,
    site: &str,
    node: &str,
) -> Result<&'a mut api::MemberStatus, OpError> {
    let name = volume.name.clone();
    let sites: Vec<_> = volume.members.iter().map(|m| m.site.clone()).collect();
    volume.members.iter_mut().find(|m| m.site == site && (node.is_empty() || m.node == node)).ok_or_else(|| {
        OpError::not_found(
            format!("volume {name:?} has no member in site {site}"),
            format!("name one of its sites: {}", sites.join(", ")),
        )
    })
}

pub(super) fn refuse_attached(volume: &api::VolumeStatus, verb: &str) -> Result<(), OpError> {
    match &volume.attached {
        None => Ok(()),
        Some(at) => Err(OpError::failed_precondition(
            format!("volume {:?} can't be {verb}", volume.name),
            format!("detach it first: farshore volume detach {}", volume.name),
        )
        .because(format!("it is attached on {}/{}", at.site, at.node))),
    }
}

impl Operations for FakeOperations {
    fn create_volume(&self, request: api::CreateVolumeRequest) -> OpFuture<'_, api::VolumeStatus> {
        self.run(|fake, state| {
            let id = state.draw();
            let (request, source) = state.with_source(request)?;
            let made = api::VolumeStatus { source, ..fake.new_volume(id, request) };
            if let Some(old) = state.volumes.get(&made.name) {
                let same = old.size_bytes == made.size_bytes && old.policy == made.policy;
                if same && old.members.len() == made.members.len() {
                    return Ok(old.clone());
                }
                return Err(OpError::already_exists(
                    format!("volume {:?} exists with another size, policy or other members", made.name),
                    "choose another name, or delete it first",
                ));
            }
            state.volumes.insert(made.name.clone(), made.clone());
            Ok(made)
        })
    }

    fn list_volumes(&self) -> OpFuture<'_, Vec<api::VolumeStatus>> {
        self.run(|_, state| Ok(state.volumes.values().cloned().collect()))
    }

    fn get_volume(&self, volume: String) -> OpFuture<'_, api::VolumeStatus> {
        self.change(&volume, |_, _| Ok(()))
    }

    fn delete_volume(&self, volume: String) -> OpFuture<'_, ()> {
        self.run(|_, state| {
            let found = state.find(&volume)?;
            refuse_attached(found, "deleted")?;
            let name = found.name.clone();
            state.volumes.remove(&name);
            state.outlive(&name);
            Ok(())
        })
    }

    fn attach_volume(&self, request: api::AttachVolumeRequest) -> OpFuture<'_, api::AttachVolumeResponse> {
        self.run(|fake, state| {
            let drawn = format!("{:032x}", state.draw());
            let volume = state.find(&request.volume)?;
            let node = if request.node.is_empty() { fake.node.clone() } else { request.node.clone() };
            if let Some(at) = &volume.attached {
                let again = at.node == node && (request.session.is_empty() || request.session == at.session);
                if !again {
                    return Err(OpError::failed_precondition(
                        format!("volume {:?} can't be attached on {node}", volume.name),
                        format!("detach it first: farshore volume detach {}", volume.name),
                    )
                    .because(format!("it is attached on {}/{}", at.site, at.node)));
                }
            } else if !request.read_only && volume.primary_site != fake.site {
                return Err(OpError::failed_precondition(
                    format!("volume {:?} can't be attached in site {}", volume.name, fake.site),
                    format!("move it first: farshore switchover {} --to {}", volume.name, fake.site),
                )
                .because(format!("its primary's site is {}", volume.primary_site)));
            } else {
                let session = if request.session.is_empty() { drawn } else { request.session };
                let kind = match api::DeviceKind::try_from(request.device) {
                    Ok(api::DeviceKind::Unspecified) | Err(_) => api::DeviceKind::Nbd,
                    Ok(kind) => kind,
                };
                let path = if kind == api::DeviceKind::Fuse { "/dev/loop0" } else { "/dev/nbd0" };
                let device = api::DeviceStatus {
                    kind: kind.into(),
                    path: path.into(),
                    read_only: request.read_only,
                    ..Default::default()
                };
                let site = fake.site.clone();
                volume.attached =
                    Some(api::Attachment { site, node, session, device: Some(device), ..Default::default() });
                if !request.read_only {
                    fake.become_primary(volume);
                }
            }
            let at = volume.attached.clone().unwrap_or_default();
            Ok(api::AttachVolumeResponse { session: at.session, device: at.device, volume: Some(volume.clone()) })
        })
    }

    fn detach_volume(&self, request: api::DetachVolumeRequest) -> OpFuture<'_, api::VolumeStatus> {
        self.change(&request.volume, |_, volume| {
            if let Some(at) = volume.attached.as_ref()
                && !request.session.is_empty()
                && request.session != at.session
            {
                return Err(OpError::conflict(
                    format!("volume {:?} is attached by another session", volume.name),
                    "leave the session out to detach whichever it is",
                ));
            }
            volume.attached = None;
            volume.role = api::Role::Secondary.into();
            volume.primary_node.clear();
            volume.lease = Some(api::LeaseStatus::default());
            Ok(())
        })
    }

    fn set_volume(&self, request: api::SetVolumeRequest) -> OpFuture<'_, api::VolumeStatus> {
        self.change(&request.volume, |_, volume| {
            let policy = volume.policy.get_or_insert_default();
            if !request.quorum.is_empty() {
                policy.quorum = request.quorum.clone();
                (policy.w, policy.min_remote) = (request.w, request.min_remote);
                policy.local_required = request.local_required;
            }
            match (request.durability(), volume.attached.is_some()) {
                (api::Durability::Unspecified, _) => {}
                (api::Durability::Flush, true) if policy.durability() == api::Durability::Write => {
                    policy.set_next_durability(api::Durability::Flush);
                }
                (durability, _) => {
                    policy.set_durability(durability);
                    policy.set_next_durability(api::Durability::Unspecified);
                }
            }
            if request.on_quorum_loss() != api::QuorumLoss::Unspecified {
                policy.set_on_quorum_loss(request.on_quorum_loss());
                policy.fence_after_ms = request.fence_after_ms;
            }
            if request.mode() != api::Mode::Unspecified {
                (policy.mode, policy.rpo_ms) = (request.mode, request.rpo_ms);
                policy.max_commit_latency_ms = request.max_commit_latency_ms;
                policy.max_lag_bytes = request.max_lag_bytes;
            }
            policy.fallback_after_ms = request.fallback_after_ms.unwrap_or(policy.fallback_after_ms);
            let promotes = request.promote_observer_after_ms;
            policy.promote_observer_after_ms = promotes.unwrap_or(policy.promote_observer_after_ms);
            Ok(())
        })
    }

    fn resize_volume(&self, request: api::ResizeVolumeRequest) -> OpFuture<'_, api::VolumeStatus> {
        self.change(&request.volume, |_, volume| {
            if request.size_bytes < volume.size_bytes {
                return Err(OpError::unsupported(
                    format!("volume {:?} can't shrink", volume.name),
                    format!("give at least its size of {} bytes", volume.size_bytes),
                ));
            }
            volume.size_bytes = request.size_bytes;
            Ok(())
        })
    }

    fn add_member(&self, request: api::AddMemberRequest) -> OpFuture<'_, api::VolumeStatus> {
        let spec = request.member.unwrap_or_default();
        self.change(&request.volume, |fake, volume| {
            if member_at(volume, &spec.site, &spec.node).is_ok() {
                return Err(OpError::already_exists(
                    format!("volume {:?} has a member in site {}", volume.name, spec.site),
                    "replace it, or name another site",
                ));
            }
            let id = volume.members.iter().map(|m| m.id).max().unwrap_or(0) + 1;
            let mut member = fake.new_member(id, &spec);
            if spec.kind() == api::MemberKind::Data {
                (member.state, member.progress, member.in_sync_set) = (states::member::FULL_COPY.into(), 0.0, false);
            }
            volume.members.push(member);
            volume.loss.push(loss_of(&spec.site, true));
            Ok(())
        })
    }

    fn remove_member(&self, request: api::RemoveMemberRequest) -> OpFuture<'_, api::VolumeStatus> {
        self.change(&request.volume, |_, volume| {
            let id = member_at(volume, &request.site, &request.node)?.id;
            let data_left = volume.members.iter().any(|m| m.id != id && m.in_sync_set);
            if !data_left {
                return Err(OpError::failed_precondition(
                    format!("site {} holds the last copy of volume {:?}", request.site, volume.name),
                    "add another member first, or delete the volume",
                ));
            }
            volume.members.retain(|m| m.id != id);
            volume.loss.retain(|l| l.site != request.site);
            Ok(())
        })
    }

    fn replace_member(&self, request: api::ReplaceMemberRequest) -> OpFuture<'_, api::VolumeStatus> {
        let with = request.with.unwrap_or_default();
        self.change(&request.volume, |fake, volume| {
            let id = volume.members.iter().map(|m| m.id).max().unwrap_or(0) + 1;
            let old = member_at(volume, &request.site, &request.node)?;
            let kind = if with.kind == 0 { old.kind } else { with.kind };
            let votes = if with.votes == 0 { old.votes } else { with.votes };
            *old = fake.new_member(id, &api::MemberSpec { kind, votes, ..with });
            (old.state, old.progress, old.in_sync_set) = (states::member::FULL_COPY.into(), 0.0, false);
            Ok(())
        })
    }

    fn promote(&self, request: api::PromoteRequest) -> OpFuture<'_, api::PromoteResponse> {
        self.run(|fake, state| {
            let volume = state.find(&request.volume)?;
            if !request.force {
                let reachable = volume.members.iter().filter(|m| m.connected).map(|m| m.votes).sum::<u32>();
                if reachable * 2 <= volume.members.iter().map(|m| m.votes).sum() {
                    return Err(OpError::unavailable(
                        format!("volume {:?} can't be promoted in site {}", volume.name, fake.site),
                        "bring a member back, or give up what can't be proven: --force --members SITE,..",
                    )
                    .because("no majority of its voters answers"));
                }
                fake.become_primary(volume);
                return Ok(api::PromoteResponse { volume: Some(volume.clone()), plan: None });
            }
            let plan = api::ForcePlan {
                donor_site: fake.site.clone(),
                donor_node: fake.node.clone(),
                new_generation: 2,
                fork_seq: volume.acked_seq,
                exact: false,
                unknown_ms: 41_000,
                warnings: vec!["what was acknowledged since the last contact is unknown".into()],
                ..Default::default()
            };
            if !request.confirm {
                return Ok(api::PromoteResponse { volume: None, plan: Some(plan) });
            }
            volume.members.retain(|m| request.members.iter().any(|r| r.split('/').next() == Some(m.site.as_str())));
            volume.lineage = format!("g2.{}", &volume.id[24..]);
            fake.become_primary(volume);
            Ok(api::PromoteResponse { volume: Some(volume.clone()), plan: Some(plan) })
        })
    }

    fn demote(&self, volume: String) -> OpFuture<'_, api::VolumeStatus> {
        self.change(&volume, |_, volume| {
            refuse_attached(volume, "demoted")?;
            volume.role = api::Role::Secondary.into();
            volume.primary_node.clear();
            Ok(())
        })
    }

    fn switchover(&self, request: api::SwitchoverRequest) -> OpFuture<'_, api::VolumeStatus> {
        self.change(&request.volume, |_, volume| {
            let name = volume.name.clone();
            let target = member_at(volume, &request.to_site, &request.to_node)?;
            if !target.in_sync_set {
                return Err(OpError::failed_precondition(
                    format!("volume {name:?} can't move to site {}", request.to_site),
                    "wait until it is in the sync set: farshore status --watch",
                )
                .because(format!("its replica there is {}", target.state)));
            }
            volume.primary_node = target.node.clone();
            volume.primary_site = request.to_site;
            volume.role = api::Role::Secondary.into();
            volume.attached = None;
            Ok(())
        })
    }

    fn failover(&self, request: api::FailoverRequest) -> OpFuture<'_, Vec<api::VolumeResult>> {
        self.run(|fake, state| {
            let mut results = Vec::new();
            for volume in state.volumes.values_mut() {
                let named =
                    request.volumes.is_empty() || request.volumes.iter().any(|v| *v == volume.name || *v == volume.id);
                if !named || volume.primary_site != request.from_site {
                    continue;
                }
                let here = volume.members.iter().any(|m| m.here && m.in_sync_set);
                let error = (!here).then(|| {
                    OpError::new(
                        OpKind::FailedPrecondition,
                        "this site holds no replica in the sync set",
                        "try another site",
                    )
                });
                if error.is_none() {
                    fake.become_primary(volume);
                }
                results.push(api::VolumeResult {
                    volume: volume.name.clone(),
                    ok: error.is_none(),
                    status: error.is_none().then(|| volume.clone()),
                    error: error.map(|e| e.detail()),
                });
            }
            Ok(results)
        })
    }

    fn losses(&self, volume: String) -> OpFuture<'_, api::LossesResponse> {
        self.run(|fake, state| {
            let volume = state.find(&volume)?.clone();
            let (began_unix_ms, ended_unix_ms) = (1_700_000_000_000, 1_700_000_060_000);
            let span = api::LossSpan {
                began_unix_ms,
                ended_unix_ms,
                role: volume.role,
                epoch: volume.epoch,
                losses: volume.loss,
            };
            let (reporter_site, reporter_node) = (fake.site.clone(), fake.node.clone());
            let (volume, spans, looked_every_ms) = (volume.name, vec![span], 2_000);
            Ok(api::LossesResponse { volume, reporter_site, reporter_node, spans, looked_every_ms })
        })
    }

    fn fence(&self, request: api::FenceRequest) -> OpFuture<'_, api::VolumeStatus> {
        self.change(&request.volume, |_, volume| {
            member_at(volume, &request.site, "")?;
            volume.fenced_sites.retain(|site| *site != request.site);
            if !request.lift {
                volume.fenced_sites.push(request.site.clone());
            }
            Ok(())
        })
    }

    fn scrub(&self, volume: String) -> OpFuture<'_, api::VolumeStatus> {
        self.change(&volume, |_, volume| {
            let checked_bytes = volume.size_bytes;
            let finished_unix_s = 1_700_000_000;
            volume.scrub =
                Some(api::ScrubStatus { progress: 1.0, checked_bytes, finished_unix_s, ..Default::default() });
            Ok(())
        })
    }

    fn resync(&self, request: api::ResyncRequest) -> OpFuture<'_, api::ResyncResponse> {
        self.run(|_, state| {
            let volume = state.find(&request.volume)?;
            if !request.site.is_empty() {
                member_at(volume, &request.site, &request.node)?;
            }
            let (mut discarded, lineage) = (None, volume.lineage.clone());
            let wanted = |m: &&mut api::MemberStatus| request.site.is_empty() || m.site == request.site;
            for member in volume.members.iter_mut().filter(wanted) {
                if member.state == states::member::DIVERGED && !request.discard {
                    return Err(OpError::failed_precondition(
                        format!("the replica in site {} has a history of its own", member.site),
                        "to give up what it holds past the fork, add --discard",
                    ));
                }
                if member.state == states::member::DIVERGED {
                    let kept_as = format!("diverged-{}", volume.name);
                    discarded = Some(api::Discarded { lineage: lineage.clone(), kept_as });
                }
                if member.state != states::member::REPLICATING && member.kind() != api::MemberKind::Witness {
                    (member.state, member.progress) = (states::member::RESYNCING.into(), 0.0);
                }
            }
            Ok(api::ResyncResponse { volume: Some(volume.clone()), discarded })
        })
    }

    fn info(&self) -> OpFuture<'_, api::InfoResponse> {
        self.run(|fake, state| {
            Ok(api::InfoResponse {
                site: fake.site.clone(),
                node: fake.node.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
                listen: "[::]:7441".into(),
                http_listen: "127.0.0.1:7442".into(),
                data_dir: "/var/lib/farshore".into(),
                journal_engine: "threads".into(),
                volumes: state.volumes.len() as u32,
                protocol_min: 1,
                protocol_max: 2,
                ..Default::default()
            })
        })
    }

    fn status(&self, volumes: Vec<String>) -> OpFuture<'_, api::StatusResponse> {
        self.run(|fake, state| {
            let found = match volumes.as_slice() {
                [] => state.volumes.values().cloned().collect(),
                some => some.iter().map(|v| state.find(v).cloned()).collect::<Result<_, _>>()?,
            };
            let (site, node) = (fake.site.clone(), fake.node.clone());
            Ok(api::StatusResponse { site, node, volumes: found, conditions: Vec::new() })
        })
    }

    fn peers(&self) -> OpFuture<'_, api::PeersResponse> {
        self.run(|fake, _| {
            let peer = |site: &str, connected| api::Peer {
                site: site.into(),
                node: format!("{site}-1"),
                address: format!("{site}.example:7441"),
                connected,
                reason: if connected { String::new() } else { "no answer to the handshake".into() },
                rtt_us: if connected { 11_200 } else { 0 },
                silent_ms: if connected { 0 } else { 41_000 },
                protocol: 1,
                ..Default::default()
            };
            let peers = vec![peer("north", false), peer("west", true)];
            Ok(api::PeersResponse { site: fake.site.clone(), node: fake.node.clone(), peers, disk_free_bytes: 1 << 38 })
        })
    }

    fn doctor(&self) -> OpFuture<'_, api::DoctorResponse> {
        let info = self.info().now_or_never();
        let peers = self.peers().now_or_never();
        self.run(|_, _| {
            Ok(api::DoctorResponse {
                info: info.transpose()?,
                journal_reason: "threads: this engine stores nothing".into(),
                disk_total_bytes: 100 << 30,
                disk_free_bytes: 60 << 30,
                peers: peers.transpose()?.map(|p| p.peers).unwrap_or_default(),
                open_files: 30,
                open_files_limit: 65_536,
                ..Default::default()
            })
        })
    }
}
