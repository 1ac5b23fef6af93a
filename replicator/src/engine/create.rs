//! Making and unmaking replicas: a volume's creation on all its members, and what each of them does for it.

use std::time::Duration;

use farshore_core::durable::Durable;
use farshore_core::ids::{Epoch, Incarnation, LineageId, MemberId, Seq, VolumeId};
use farshore_core::limits::SHARE_BYTES_MIN;
use farshore_core::register::{
    ConfigVersion, Configuration, DataRule, Descriptor, Durability, Member, MemberKind, Mode, OnQuorumLoss, SyncMember,
    Terms, Vote,
};
use farshore_core::replica::Recovered;
use farshore_proto::v1 as api;

use super::clock::random_u128;
use super::clone::{CloneOf, SOURCE_ID_LABEL, Source, clone_in_store, first_of_clone};
use super::cut_short::Namesake;
use super::driver::{VolumeHandle, lock};
use super::io_limits::{IO_LIMITS_LABEL, IoLimits};
use super::modes::{after_of, mode_of, refuse_undecided};
use super::node::Node;
use super::readers::{READ_ONLY_LABEL, is_read_only};
use super::recovery;
use super::rpc::Call;
use crate::control::validate_modes::Asked;
use crate::control::{OpError, OpKind};
use crate::journal::{Entry, LogEnd, budget_for};
use crate::transport::PeerName;

/// Of a register that nobody has written since the volume was created.
pub(super) const FIRST_VERSION: ConfigVersion = ConfigVersion { epoch: Epoch::ZERO, k: 1 };
pub(super) const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// The tail of a journal is applied meanwhile.
const SET_ASIDE_PATIENCE: Duration = Duration::from_secs(60);

impl Node {
    /// Who of this site makes it, if that is another node: one that holds what it begins with, or a member. What is said by
    /// anybody else about a volume no member believes.
    async fn maker_of(
        self: &std::sync::Arc<Self>,
        request: &api::CreateVolumeRequest,
    ) -> Result<Option<PeerName>, OpError> {
        if self.catalog.find(&request.name).is_some() {
            return Ok(None);
        }
        if let Some(peer) = self.neighbour_with(&request.name).await {
            return Ok(Some(peer));
        }
        if let Some(peer) = self.neighbour_with_source(request).await? {
            return Ok(Some(peer));
        }
        if !request.source_snapshot.is_empty() || !request.source_volume.is_empty() {
            return Ok(None);
        }
        let me = &self.shared.me;
        let here: Vec<Member> = self.choose_members(&request.members)?.into_iter().map(|(member, _)| member).collect();
        let own: Vec<&Member> = here.iter().filter(|m| m.site == me.site).collect();
        match own.first() {
            Some(_) if own.iter().any(|m| m.node == me.node) => Ok(None),
            Some(member) => PeerName::new(&member.site, &member.node).map(Some).map_err(name_error),
            None => Err(OpError::invalid(
                format!("{} would have no member in {}, so nobody there makes it", request.name, me.site),
                format!("run it in a site that holds a copy, or name {} too", me.site),
            )),
        }
    }

    /// Creates the volume on every member, or on none.
    pub(super) async fn create(
        self: &std::sync::Arc<Self>,
        request: api::CreateVolumeRequest,
    ) -> Result<VolumeId, OpError> {
        let Some(peer) = self.maker_of(&request).await? else { return self.create_here(request).await };
        let made: api::CreateVolumeResponse = self.forward(&peer, "create", &request).await?;
        let id = made.volume.and_then(|volume| volume.id.parse().ok());
        id.ok_or_else(|| OpError::internal(format!("{peer} made {} and does not say which it is", request.name)))
    }

    async fn create_here(
        self: &std::sync::Arc<Self>,
        mut request: api::CreateVolumeRequest,
    ) -> Result<VolumeId, OpError> {
        // One that was cut short is made anew, which must not happen to one that is being made.
        let clone = !request.source_snapshot.is_empty() || !request.source_volume.is_empty();
        let _alone = if clone { Some(self.cloning.lock().await) } else { None };
        if let Some(existing) = self.catalog.find(&request.name) {
            let same = self.same_as(&existing, &request).await?;
            if !clone || self.is_whole(&existing).await? {
                return Ok(same);
            }
            self.undo_everywhere(&existing).await?;
        }
        if let Some(copy) = self.shared.diverged.find(&request.name) {
            return Err(OpError::already_exists(
                format!("{} is kept here from a history that lost", copy.name),
                format!("choose another name, or run `farshore volume delete {}`", copy.name),
            ));
        }
        let source = self.source_of(&mut request).await?;
        let mut made = self.create_on_all(&request, source.as_ref()).await;
        if let Err(error) = &made
            && error.kind == OpKind::AlreadyExists
        {
            // An earlier attempt, of a node that died or of another one.
            match self.namesake(&request).await {
                Some(Namesake::Whole(volume)) => made = Ok(volume),
                Some(Namesake::Gone) => made = self.create_on_all(&request, source.as_ref()).await,
                None => {}
            }
        }
        if let Some(source) = &source {
            self.drop_source(source).await;
        }
        let volume = made?;
        tracing::info!(volume = %request.name, id = %volume, "volume created");
        Ok(volume)
    }

    async fn create_on_all(
        self: &std::sync::Arc<Self>,
        request: &api::CreateVolumeRequest,
        source: Option<&Source>,
    ) -> Result<VolumeId, OpError> {
        let members = self.choose_members(&request.members)?;
        let config = first_configuration(request, &members)?;
        let volume = VolumeId(random_u128());
        let _making = self.making(volume);
        let lineage = LineageId { generation: 1, uuid: random_u128() };
        let mut joined: Vec<PeerName> = Vec::new();
        for (member, incarnation) in &members {
            let peer = PeerName::new(&member.site, &member.node).map_err(name_error)?;
            let durable = Durable::first(member.id, *incarnation, lineage, config.clone());
            let result = match source {
                None => self.join(&peer, volume, &durable).await,
                // It has no image; its log begins where the others' do.
                Some(_) if !member.kind.holds_copy() => {
                    self.join(&peer, volume, &first_of_clone(volume, durable)).await
                }
                Some(source) => self.join_clone(&peer, volume, &first_of_clone(volume, durable), source).await,
            };
            match result {
                Ok(()) => joined.push(peer),
                Err(error) => {
                    // One that did not answer in time may have begun all the same.
                    joined.push(peer);
                    for peer in joined {
                        let _ = self.ask_forget(&peer, volume).await;
                    }
                    return Err(error);
                }
            }
        }
        Ok(volume)
    }

    async fn same_as(
        self: &std::sync::Arc<Self>,
        existing: &VolumeHandle,
        request: &api::CreateVolumeRequest,
    ) -> Result<VolumeId, OpError> {
        let config = existing.config.borrow().clone();
        let asked: Vec<_> = request.members.iter().map(|m| m.site.as_str()).collect();
        let chosen = config.members.iter().filter(|m| m.kind != MemberKind::Diskless);
        let held: Vec<_> = chosen.map(|m| m.site.as_str()).collect();
        let policy = request.policy.as_ref().map_or("majority", |p| p.quorum.as_str());
        let clone = !request.source_snapshot.is_empty() || !request.source_volume.is_empty();
        let to_be_read = is_read_only(&config.volume) == request.read_only;
        let sized = config.volume.size_bytes == request.size_bytes || (clone && request.size_bytes == 0);
        // Named nowhere: where its source is.
        let laid_out = (clone && asked.is_empty()) || (asked == held && config.volume.policy == policy);
        if sized && to_be_read && laid_out && self.is_clone_of(config.volume.labels.get(SOURCE_ID_LABEL), request) {
            if !clone {
                self.join_again(existing, &config).await?;
            }
            return Ok(existing.id);
        }
        Err(OpError::already_exists(
            format!(
                "volume {} exists on {}, with another size, members, policy, source or right to write",
                request.name, self.shared.me
            ),
            "choose another name, or see `farshore volume show`",
        ))
    }

    /// Do all members hold a clone? Once it has had a primary they do.
    async fn is_whole(self: &std::sync::Arc<Self>, existing: &VolumeHandle) -> Result<bool, OpError> {
        let config = existing.config.borrow().clone();
        if config.version != FIRST_VERSION {
            return Ok(true);
        }
        for member in config.members.iter().filter(|m| m.id != existing.me) {
            let peer = PeerName::new(&member.site, &member.node).map_err(name_error)?;
            if !self.holds(&peer, existing.id).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A creation that was cut short: the register is still the first one, and members may have never heard of it.
    async fn join_again(
        self: &std::sync::Arc<Self>,
        existing: &VolumeHandle,
        config: &Configuration,
    ) -> Result<(), OpError> {
        if config.version != FIRST_VERSION {
            return Ok(());
        }
        let status = existing.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        for member in config.members.iter().filter(|m| m.id != existing.me) {
            let Some(incarnation) = config.vote_of(member.id).map(|vote| vote.incarnation) else { continue };
            let peer = PeerName::new(&member.site, &member.node).map_err(name_error)?;
            let durable = Durable::first(member.id, incarnation, status.lineage, config.clone());
            match self.join(&peer, existing.id, &durable).await {
                Err(error) if error.kind != OpKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) async fn join(
        self: &std::sync::Arc<Self>,
        peer: &PeerName,
        volume: VolumeId,
        durable: &Durable,
    ) -> Result<(), OpError> {
        if *peer == self.shared.me {
            return self.install(volume, durable.clone()).await;
        }
        let call = Call::Join { volume, durable: durable.encode() };
        self.shared.calls.call(&self.shared.transport, peer, &call, JOIN_PATIENCE).await.map(drop)
    }

    pub(super) async fn ask_forget(
        self: &std::sync::Arc<Self>,
        peer: &PeerName,
        volume: VolumeId,
    ) -> Result<(), OpError> {
        if *peer == self.shared.me {
            return match self.catalog.get(volume) {
                Some(handle) => self.forget(&handle).await,
                None => Ok(()),
            };
        }
        let call = Call::Forget { volume };
        self.shared.calls.call(&self.shared.transport, peer, &call, JOIN_PATIENCE).await.map(drop)
    }

    /// Has a member keep a history that lost, and forget the volume.
    pub(super) async fn ask_set_aside(
        self: &std::sync::Arc<Self>,
        peer: &PeerName,
        volume: VolumeId,
        winner: LineageId,
    ) -> Result<(), OpError> {
        let call = Call::SetAside { volume, winner };
        self.shared.calls.call(&self.shared.transport, peer, &call, SET_ASIDE_PATIENCE).await.map(drop)
    }

    /// Begins to hold a member of a volume: durable before it answers.
    pub(super) async fn install(&self, volume: VolumeId, durable: Durable) -> Result<(), OpError> {
        self.install_as(volume, durable, None).await
    }

    /// With an image of another volume: begins with that.
    pub(super) async fn install_as(
        &self,
        volume: VolumeId,
        durable: Durable,
        origin: Option<CloneOf>,
    ) -> Result<(), OpError> {
        let held = self.holding(volume);
        let _held = held.lock().await;
        let name = durable.config.volume.name.clone();
        if let Some(existing) = self.catalog.get(volume) {
            return Err(OpError::already_exists(
                format!("{} holds a replica of {name} already (as {})", self.shared.me, existing.me),
                "`farshore member replace` renews it after its data directory was wiped",
            ));
        }
        if self.catalog.find(&name).is_some() {
            return Err(OpError::already_exists(
                format!("{} holds another volume named {name}", self.shared.me),
                "choose another name, or delete that volume",
            ));
        }
        if lock(&self.broken).iter().any(|(broken, _)| *broken == volume) {
            // The copy that was given up: its log can't be continued by a new one.
            self.persist(Entry::Forget { volume }).await?;
            lock(&self.broken).retain(|(broken, _)| *broken != volume);
        }
        let me = durable.me;
        let kind = durable.config.member(me).map(|m| m.kind).ok_or_else(|| {
            OpError::invalid(format!("volume {name} does not list member {me}"), "run the same version on all nodes")
        })?;
        if kind.holds_copy() {
            self.refuse_crowding(&name)?;
            // It is a member again: its list of snapshots is the volume's.
            self.shared.kept.revive(volume).map_err(|error| {
                OpError::unavailable(format!("{} could not take {name} up again", self.shared.me), "see its log")
                    .because(error)
            })?;
            let (shared, size_bytes) = (self.shared.clone(), durable.config.volume.size_bytes);
            tokio::task::spawn_blocking(move || {
                if let Some(origin) = origin {
                    shared.store.remove(volume)?;
                    return clone_in_store(&shared, volume, size_bytes, origin);
                }
                if shared.diverged.newest(volume).is_some() {
                    // What forks left behind stays; the new copy is made beside it, or over it.
                    shared.store.empty(volume)?;
                    let held = shared.store.volumes().into_iter().find(|v| v.volume == volume);
                    return match held {
                        Some(held) if held.size_bytes >= size_bytes => Ok(()),
                        _ => shared.store.resize(volume, size_bytes),
                    };
                }
                // What an earlier, half-made creation left behind.
                shared.store.remove(volume)?;
                shared.store.create(volume, size_bytes)
            })
            .await
            .map_err(|e| OpError::internal("making the replica's store").because(e))?
            .map_err(|e| {
                OpError::unavailable(format!("{} could not make room for {name}", self.shared.me), "see its log")
                    .because(e)
            })?;
        }
        let base = durable.base;
        if base.seq > Seq::ZERO {
            let end = LogEnd { seq: base.seq, hash: base.hash, epoch: durable.history.last_epoch() };
            self.persist(Entry::Restart { volume, end }).await?;
        }
        self.persist(Entry::Meta { volume, blob: durable.encode() }).await?;
        // Without a copy there is nothing that anything could be applied to.
        let applied = if kind.holds_copy() { base.seq } else { Seq::ZERO };
        let (epochs, floor) = (Vec::new(), base.seq.next());
        let recovered = Recovered { durable, last: base, epochs, floor, lost_upto: None, applied };
        let handle = recovery::start(&self.shared, volume, recovered).await;
        let handle = handle
            .map_err(|e| OpError::unavailable("the replica could not be started", "see the daemon's log").because(e))?;
        self.catalog.insert(handle);
        Ok(())
    }

    /// Each copy must have a part of the journal that carries it: else it could not begin an epoch with what is un-acked.
    fn refuse_crowding(&self, name: &str) -> Result<(), OpError> {
        let holds_data =
            |handle: &VolumeHandle| handle.config.borrow().member(handle.me).is_some_and(|m| m.kind.holds_copy());
        let copies = self.catalog.all().into_iter().filter(|handle| holds_data(handle)).count();
        if self.shared.journal.share_bytes_of(copies + 1) >= SHARE_BYTES_MIN {
            return Ok(());
        }
        let journal = self.shared.journal.status();
        let needed_mib = budget_for(copies + 1, SHARE_BYTES_MIN, journal.segment_bytes) >> 20;
        Err(OpError::failed_precondition(
            format!(
                "the journal of {} ({} MiB) is full with its {copies} copies: {name} finds no room in it",
                self.shared.me,
                journal.budget_bytes >> 20
            ),
            format!(
                "give it a journal.budget_bytes of at least {needed_mib}MiB and restart it, or choose another node"
            ),
        ))
    }

    /// Stops holding a member of a volume, durably. Its space is freed in the background.
    pub(super) async fn forget(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        let held = self.holding(handle.id);
        let _held = held.lock().await;
        if !self.catalog.get(handle.id).is_some_and(|now| std::ptr::eq(&*now, handle)) {
            // Somebody else was faster, and a new life of it may have begun.
            return Ok(());
        }
        self.attachments.close(handle.id, true).await?;
        self.drop_reader(handle.id).await?;
        self.catalog.remove(handle.id);
        lock(&self.makers).remove(&handle.id);
        lock(&self.marking).remove(&handle.id);
        handle.stop().await;
        self.persist(Entry::Forget { volume: handle.id }).await?;
        let (shared, volume) = (self.shared.clone(), handle.id);
        let removed = tokio::task::spawn_blocking(move || match shared.diverged.newest(volume) {
            Some(_) => shared.store.empty(volume),
            None => shared.store.remove(volume),
        })
        .await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%volume, %error, "the store could not remove the volume");
        }
        Ok(())
    }

    pub(super) fn holding(&self, volume: VolumeId) -> std::sync::Arc<tokio::sync::Mutex<()>> {
        lock(&self.holding).entry(volume).or_default().clone()
    }

    /// What another node asks for must not take a device away from under its users.
    pub(super) async fn refuse_in_use(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        let attached = handle.config.borrow().attached.is_some_and(|a| a.member == handle.me);
        if attached || self.attachments.is_open(handle.id).await || self.attachments.readers.is_there(handle.id) {
            return Err(in_use(&handle.name(), &self.shared.me));
        }
        Ok(())
    }

    pub(super) async fn persist(&self, entry: Entry) -> Result<(), OpError> {
        let (sender, done) = tokio::sync::oneshot::channel();
        self.shared.journal.append(
            vec![entry],
            Box::new(move |result| {
                let _ = sender.send(result);
            }),
        );
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(OpError::unavailable(
                format!("the journal of {} failed", self.shared.me),
                "replace the disk, then restart the daemon",
            )
            .because(error)),
            Err(_) => Err(OpError::internal("the journal stopped before it answered")),
        }
    }

    /// Fills in nodes and ids. The first data member's site is the first primary's.
    pub(super) fn choose_members(&self, specs: &[api::MemberSpec]) -> Result<Vec<(Member, Incarnation)>, OpError> {
        let mut members: Vec<(Member, Incarnation)> = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let node = self.choose_node(&spec.site, &spec.node)?;
            let kind = member_kind(spec);
            if members.iter().any(|(m, _)| m.site == spec.site && m.node == node) {
                return Err(OpError::invalid(format!("{}/{node} is named twice", spec.site), "name each member once"));
            }
            let id = MemberId(index as u16 + 1);
            let member = Member { id, site: spec.site.clone(), node, kind };
            members.push((member, Incarnation(random_u128())));
        }
        Ok(members)
    }

    /// The node that is meant by a site, or the one that was named.
    pub(super) fn choose_node(&self, site: &str, node: &str) -> Result<String, OpError> {
        let me = &self.shared.me;
        let known = std::iter::once((me.site.clone(), me.node.clone()))
            .chain(self.config.peers.iter().map(|p| (p.site.clone(), p.node.clone())));
        let nodes: Vec<String> = known.filter(|(s, _)| s == site).map(|(_, n)| n).collect();
        let sites = || {
            let mut sites: Vec<&str> =
                self.config.peers.iter().map(|p| p.site.as_str()).chain([me.site.as_str()]).collect();
            sites.sort_unstable();
            sites.dedup();
            sites.join(", ")
        };
        match (nodes.as_slice(), node) {
            ([], _) => {
                Err(OpError::invalid(format!("site {site} is not known here"), format!("known sites: {}", sites())))
            }
            ([only, ..], "") => Ok(only.clone()),
            (nodes, named) if nodes.iter().any(|n| n == named) => Ok(named.to_string()),
            (nodes, named) => Err(OpError::invalid(
                format!("site {site} has no node {named}"),
                format!("its nodes: {}", nodes.join(", ")),
            )),
        }
    }
}

pub(super) fn in_use(volume: &str, node: &PeerName) -> OpError {
    OpError::failed_precondition(
        format!("volume {volume} is attached on {node}"),
        format!("run `farshore volume detach {volume}` there first"),
    )
}

pub(super) fn name_error(error: crate::transport::NameError) -> OpError {
    OpError::invalid(error.to_string(), "use lower-case letters, digits and '-'")
}

pub(super) fn member_kind(spec: &api::MemberSpec) -> MemberKind {
    match spec.kind() {
        api::MemberKind::Witness => MemberKind::Witness,
        api::MemberKind::Observer => MemberKind::Observer,
        api::MemberKind::Data | api::MemberKind::Unspecified => MemberKind::Data,
        // Refused where requests are checked: it comes with a device.
        api::MemberKind::Diskless => MemberKind::Diskless,
    }
}

/// The volume's policy, for copies in these sites.
pub(super) fn rule_for(config: &Configuration, data_sites: &[&str]) -> Result<DataRule, OpError> {
    let rule = config.volume.rule;
    let policy = api::Policy {
        quorum: config.volume.policy.clone(),
        w: rule.w.into(),
        min_remote: rule.min_remote.into(),
        local_required: rule.local,
        ..api::Policy::default()
    };
    rule_of(&policy, data_sites, &config.current.primary_site)
}

/// The rule's numbers, fixed from the policy over the sync members asked for.
pub(super) fn rule_of(policy: &api::Policy, data_sites: &[&str], primary_site: &str) -> Result<DataRule, OpError> {
    let n = data_sites.len() as u8;
    let mut sites: Vec<&str> = data_sites.to_vec();
    sites.sort_unstable();
    sites.dedup();
    let remotes = sites.iter().filter(|s| **s != primary_site).count() as u8;
    let min_remote = remotes.min(1);
    let rule = match policy.quorum.as_str() {
        "" | "majority" => DataRule { w: n / 2 + 1, min_remote, local: false },
        "nearest-remote" => DataRule { w: 2.min(n), min_remote, local: true },
        // Every remote site and nothing else: any one survivor then has everything.
        "all-remotes" => DataRule { w: remotes.max(1), min_remote: remotes, local: false },
        "all" => DataRule { w: n, min_remote: remotes, local: true },
        _ => DataRule { w: policy.w as u8, min_remote: policy.min_remote as u8, local: policy.local_required },
    };
    Ok(rule)
}

fn first_configuration(
    request: &api::CreateVolumeRequest,
    members: &[(Member, Incarnation)],
) -> Result<Configuration, OpError> {
    let policy = request.policy.clone().unwrap_or_default();
    let data: Vec<&(Member, Incarnation)> = members.iter().filter(|(m, _)| m.kind == MemberKind::Data).collect();
    let Some((first, _)) = data.first() else {
        return Err(OpError::invalid("no member would hold data", "name at least one site that is not a witness"));
    };
    let mode = mode_of(Asked::from(&policy)).unwrap_or(Mode::Sync);
    // By the mode the copies in other sites may be none to wait for.
    let behind = |m: &Member| {
        let by_mode = matches!(mode, Mode::Async { .. }) && m.kind == MemberKind::Data && m.site != first.site;
        m.kind == MemberKind::Observer || by_mode
    };
    let data: Vec<&(Member, Incarnation)> = data.iter().copied().filter(|(m, _)| !behind(m)).collect();
    let sites: Vec<&str> = data.iter().map(|(m, _)| m.site.as_str()).collect();
    let rule = rule_of(&policy, &sites, &first.site)?;
    let votes = members
        .iter()
        .zip(&request.members)
        .filter(|((m, _), _)| !behind(m))
        .map(|((m, inc), spec)| Vote { member: m.id, incarnation: *inc, votes: spec.votes.clamp(1, 255) as u8 })
        .collect();
    let sync =
        data.iter().map(|(m, inc)| SyncMember { member: m.id, incarnation: *inc, site: m.site.clone() }).collect();
    let current = Terms { votes, sync, rule, primary_site: first.site.clone() };
    if !current.data_quorum(|_| true) {
        return Err(OpError::invalid(
            format!(
                "policy {} needs {} copies and {} remote sites; {} data members in {} sites were named",
                policy.quorum,
                rule.w,
                rule.min_remote,
                data.len(),
                sites.len()
            ),
            "name more members, or choose a policy that these can meet",
        ));
    }
    let lease_ms = if policy.lease_ms == 0 { crate::control::validate::LEASE_MS_DEFAULT } else { policy.lease_ms };
    let volume = Descriptor {
        name: request.name.clone(),
        size_bytes: request.size_bytes,
        logical_block_bytes: if request.block_size_bytes == 0 { 4096 } else { request.block_size_bytes },
        durability: match policy.durability() {
            api::Durability::Flush => Durability::Flush,
            _ => Durability::Write,
        },
        lease_us: lease_ms * 1000,
        on_quorum_loss: match policy.on_quorum_loss() {
            api::QuorumLoss::Fence => OnQuorumLoss::Fence { after_us: policy.fence_after_ms * 1000 },
            _ => OnQuorumLoss::Freeze,
        },
        policy: if policy.quorum.is_empty() { "majority".into() } else { policy.quorum.clone() },
        rule,
        labels: {
            let limits = IoLimits { iops: policy.iops, bytes_per_second: policy.bytes_per_second };
            let bound = limits.label().map(|label| (IO_LIMITS_LABEL.to_string(), label));
            let read_only = request.read_only.then(|| (READ_ONLY_LABEL.to_string(), "true".to_string()));
            request.labels.clone().into_iter().chain(bound).chain(read_only).collect()
        },
        mode,
        fallback_after_us: after_of(policy.fallback_after_ms),
        promote_observer_after_us: after_of(policy.promote_observer_after_ms),
    };
    let config = Configuration {
        version: FIRST_VERSION,
        volume,
        members: members.iter().map(|(m, _)| m.clone()).collect(),
        current,
        earlier: Vec::new(),
        attached: None,
        stand_ins: Vec::new(),
    };
    refuse_undecided(&config)?;
    Ok(config)
}
