//! The control plane's verbs, each where it belongs: here, or on the node that holds what it needs.

use std::sync::Arc;

use farshore_core::api::{Command, Promotion};
use farshore_core::limits::SHARE_BYTES_MIN;
use farshore_proto::v1 as api;
use prost::Message;

use super::driver::{VolumeHandle, lock};
use super::exports::session_text;
use super::forward::EndForwarded;
use super::node::Node;
use super::readers::refuse_read_only;
use super::roles::refused;
use crate::control::{OpError, OpFuture, Operations};
use crate::transport::PeerName;

impl Node {
    pub(super) async fn by_name(self: &Arc<Self>, volume: &str) -> Result<api::VolumeStatus, OpError> {
        if let Some(copy) = self.shared.diverged.find(volume) {
            return Ok(self.diverged_view(&copy));
        }
        let request = api::GetVolumeRequest { volume: volume.into() };
        if let Some(answer) = self.by_neighbour::<api::GetVolumeResponse>(volume, "get", &request).await? {
            return Ok(self.with_device_here(found(answer.volume)?).await);
        }
        let handle = self.find_at_last(volume)?;
        self.full_view(&handle).await
    }

    /// Every volume of this node, with what the holders say.
    pub(super) async fn full_views(self: &Arc<Self>) -> Vec<api::VolumeStatus> {
        let mut asked = tokio::task::JoinSet::new();
        for handle in self.catalog.all() {
            let node = self.clone();
            asked.spawn(async move { node.full_view(&handle).await });
        }
        let mut out: Vec<_> = asked.join_all().await.into_iter().flatten().collect();
        out.extend(self.shared.diverged.all().iter().map(|copy| self.diverged_view(copy)));
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }

    /// Every volume of this node, as it knows it.
    async fn views(self: &Arc<Self>) -> Vec<api::VolumeStatus> {
        let mut asked = tokio::task::JoinSet::new();
        for handle in self.catalog.all() {
            let node = self.clone();
            asked.spawn(async move { node.view_with_readers(&handle).await });
        }
        let mut out: Vec<_> = asked.join_all().await.into_iter().flatten().collect();
        out.extend(self.shared.diverged.all().iter().map(|copy| self.diverged_view(copy)));
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }

    /// Runs a verb here when the epoch is held here, else sends it to the holder.
    async fn at_holder<Q: Message, R: Message + Default>(
        self: &Arc<Self>,
        volume: &str,
        method: &str,
        request: &Q,
    ) -> Result<(Arc<VolumeHandle>, Option<R>), OpError> {
        let handle = self.find(volume)?;
        match self.elsewhere(&handle).await? {
            None => Ok((handle, None)),
            Some(peer) if peer == self.shared.me => Err(OpError::failed_precondition(
                "no node holds the epoch of the volume",
                "promote a site, or attach it",
            )),
            Some(peer) => {
                let answer = self.forward(&peer, method, request).await?;
                Ok((handle, Some(answer)))
            }
        }
    }
}

/// Wraps an async block that needs the node, as the trait wants it.
macro_rules! verb {
    ($self:ident, $node:ident, $body:expr) => {{
        let $node: Arc<Node> = $self.arc();
        // In a task of its own: a caller that hangs up does not leave a verb half-done.
        let task = tokio::spawn($body);
        Box::pin(
            async move { task.await.unwrap_or_else(|e| Err(OpError::internal("the verb's task ended").because(e))) },
        )
    }};
}

pub(super) use verb;

impl Node {
    pub(super) fn arc(&self) -> Arc<Node> {
        self.myself.upgrade().expect("a node that serves verbs is alive")
    }
}

impl Node {
    /// Whom this node asks for the right to have a device, since it has no copy; `None`: it has one, or that right.
    async fn attached_by_way_of(self: &Arc<Self>, request: &api::AttachVolumeRequest) -> Option<PeerName> {
        let handle = self.catalog.find(&request.volume).filter(|handle| handle.is_diskless());
        match handle {
            Some(handle)
                if request.published || handle.config.borrow().attached.is_some_and(|a| a.member == handle.me) =>
            {
                None
            }
            _ => self.neighbour_with_copy(&request.volume).await,
        }
    }
}

fn found(volume: Option<api::VolumeStatus>) -> Result<api::VolumeStatus, OpError> {
    volume.ok_or_else(|| OpError::internal("a node of this site answered without a volume"))
}

impl Operations for Node {
    fn create_volume(&self, request: api::CreateVolumeRequest) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move {
            let name = request.name.clone();
            let id = node.create(request).await?;
            match node.by_name(&id.to_string()).await {
                // The node that made it has just gone.
                Err(error) if node.catalog.get(id).is_none() => {
                    tracing::warn!(volume = %name, %error, "what was created can't be shown");
                    Ok(api::VolumeStatus { id: id.to_string(), name, ..api::VolumeStatus::default() })
                }
                shown => shown,
            }
        })
    }

    fn list_volumes(&self) -> OpFuture<'_, Vec<api::VolumeStatus>> {
        verb!(self, node, async move {
            let mut views = node.views().await;
            views.extend(node.neighbours_volumes().await);
            Ok(views)
        })
    }

    fn get_volume(&self, volume: String) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move { node.by_name(&volume).await })
    }

    fn delete_volume(&self, volume: String) -> OpFuture<'_, ()> {
        verb!(self, node, async move {
            if let Some(copy) = node.shared.diverged.find(&volume) {
                return node.delete_diverged(copy).await;
            }
            let request = api::DeleteVolumeRequest { volume: volume.clone() };
            if node.by_neighbour::<api::DeleteVolumeResponse>(&volume, "delete", &request).await?.is_some() {
                return Ok(());
            }
            let handle = node.find_at_last(&volume)?;
            node.delete(&handle).await
        })
    }

    fn attach_volume(&self, request: api::AttachVolumeRequest) -> OpFuture<'_, api::AttachVolumeResponse> {
        verb!(self, node, async move {
            if !request.node.is_empty() && request.node != node.shared.me.node {
                let peer = PeerName::new(&node.shared.me.site, &request.node).map_err(super::create::name_error)?;
                return node.forward(&peer, "attach", &request).await;
            }
            if let Some(peer) = node.attached_by_way_of(&request).await {
                let asked = api::GetVolumeRequest { volume: request.volume.clone() };
                let known = found(node.forward::<api::GetVolumeResponse>(&peer, "get", &asked).await?.volume)?;
                let (session, device) = match known.read_only {
                    true => node.attach_reader_without_copy(known, &request).await?,
                    false => node.attach_without_copy(known, &request).await?,
                };
                let volume = Some(node.by_name(&request.volume).await?);
                return Ok(api::AttachVolumeResponse { session: session_text(session), device: Some(device), volume });
            }
            let handle = node.find_at_last(&request.volume)?;
            let (session, device) = node.attach(&handle, &request).await?;
            let volume = Some(node.view(&handle).await?);
            Ok(api::AttachVolumeResponse { session: format!("{:032x}", session.0), device: Some(device), volume })
        })
    }

    fn detach_volume(&self, request: api::DetachVolumeRequest) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move {
            if request.keep_published && node.catalog.find(&request.volume).is_none() {
                let (volume, session) = (request.volume.clone(), request.session.clone());
                node.end_device(&EndForwarded { volume, session, force: request.force }).await?;
                return node.by_name(&request.volume).await;
            }
            if let Some(peer) = node.neighbour_with(&request.volume).await {
                let asked = api::GetVolumeRequest { volume: request.volume.clone() };
                let known = found(node.forward::<api::GetVolumeResponse>(&peer, "get", &asked).await?.volume)?;
                if !known.read_only {
                    return found(node.forward::<api::DetachVolumeResponse>(&peer, "detach", &request).await?.volume);
                }
                node.detach_reader(&known, &request).await?;
                return node.by_name(&request.volume).await;
            }
            let handle = node.find_at_last(&request.volume)?;
            node.detach(&handle, &request).await?;
            match node.catalog.get(handle.id) {
                Some(handle) => node.view(&handle).await,
                // It was here for the device alone.
                None => node.by_name(&handle.id.to_string()).await,
            }
        })
    }

    fn resize_volume(&self, request: api::ResizeVolumeRequest) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move {
            if let Some(answer) =
                node.by_neighbour::<api::ResizeVolumeResponse>(&request.volume, "resize", &request).await?
            {
                return found(answer.volume);
            }
            refuse_read_only(&*node.find(&request.volume)?, "keeps its size")?;
            let (handle, done) =
                node.at_holder::<_, api::ResizeVolumeResponse>(&request.volume, "resize", &request).await?;
            if done.is_none() {
                let size_bytes = request.size_bytes;
                node.change(&handle, farshore_core::api::Change::Resize { size_bytes }).await?;
            }
            node.view(&handle).await
        })
    }

    fn set_volume(&self, request: api::SetVolumeRequest) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move { Node::set_volume(&node, request).await })
    }

    fn add_member(&self, request: api::AddMemberRequest) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move {
            if let Some(answer) =
                node.by_neighbour::<api::AddMemberResponse>(&request.volume, "add-member", &request).await?
            {
                return found(answer.volume);
            }
            let (handle, done) =
                node.at_holder::<_, api::AddMemberResponse>(&request.volume, "add-member", &request).await?;
            if done.is_none() {
                Node::add_member(&node, &handle, &request.member.unwrap_or_default()).await?;
            }
            node.view(&handle).await
        })
    }

    fn remove_member(&self, request: api::RemoveMemberRequest) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move {
            if let Some(answer) =
                node.by_neighbour::<api::RemoveMemberResponse>(&request.volume, "remove-member", &request).await?
            {
                return found(answer.volume);
            }
            let (handle, done) =
                node.at_holder::<_, api::RemoveMemberResponse>(&request.volume, "remove-member", &request).await?;
            if done.is_none() {
                Node::remove_member(&node, &handle, &request.site, &request.node).await?;
            }
            node.view(&handle).await
        })
    }

    fn replace_member(&self, request: api::ReplaceMemberRequest) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move {
            if let Some(answer) =
                node.by_neighbour::<api::ReplaceMemberResponse>(&request.volume, "replace-member", &request).await?
            {
                return found(answer.volume);
            }
            let (handle, done) =
                node.at_holder::<_, api::ReplaceMemberResponse>(&request.volume, "replace-member", &request).await?;
            if done.is_none() {
                Node::replace_member(&node, &handle, &request).await?;
            }
            node.view(&handle).await
        })
    }

    fn promote(&self, request: api::PromoteRequest) -> OpFuture<'_, api::PromoteResponse> {
        verb!(self, node, async move {
            if let Some(peer) = node.neighbour_with_copy(&request.volume).await {
                return node.forward(&peer, "promote", &request).await;
            }
            if request.force {
                let handle = node.find(&request.volume)?;
                let plan = Some(node.force(&handle, &request).await?);
                let volume = if request.confirm { Some(node.view(&handle).await?) } else { None };
                return Ok(api::PromoteResponse { volume, plan });
            }
            let handle = node.find(&request.volume)?;
            node.refuse_fenced(&handle).await?;
            node.promote_here(&handle, Promotion::Verb).await?;
            node.give_back_if_fenced(&handle).await?;
            node.settle_after_move(&handle).await?;
            Ok(api::PromoteResponse { volume: Some(node.view(&handle).await?), plan: None })
        })
    }

    fn demote(&self, volume: String) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move {
            let request = api::DemoteRequest { volume: volume.clone() };
            if let Some(answer) = node.by_neighbour::<api::DemoteResponse>(&volume, "demote", &request).await? {
                return found(answer.volume);
            }
            let handle = node.find(&volume)?;
            node.end_served(&handle, false).await?;
            node.attachments.close(handle.id, false).await?;
            node.settled(&handle, Command::Demote).await.map_err(refused(&handle))?;
            node.view(&handle).await
        })
    }

    fn switchover(&self, request: api::SwitchoverRequest) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move {
            if let Some(answer) =
                node.by_neighbour::<api::SwitchoverResponse>(&request.volume, "switchover", &request).await?
            {
                return found(answer.volume);
            }
            let handle = node.find(&request.volume)?;
            node.switch_over(&handle, &request).await?;
            node.view(&handle).await
        })
    }

    fn failover(&self, request: api::FailoverRequest) -> OpFuture<'_, Vec<api::VolumeResult>> {
        verb!(self, node, async move {
            // Who has no copy takes nothing over that one beside it could.
            let held = |volume: &String| node.catalog.find(volume).is_some_and(|handle| !handle.is_diskless());
            let (here, there): (Vec<_>, Vec<_>) = request.volumes.iter().cloned().partition(held);
            let all = request.volumes.is_empty();
            let mut results = Vec::new();
            if all || !here.is_empty() {
                results = node.fail_over(api::FailoverRequest { volumes: here, ..request.clone() }).await?;
            }
            if all || !there.is_empty() {
                let asked = api::FailoverRequest { volumes: there.clone(), ..request };
                results.extend(node.neighbours_fail_over(&asked).await);
            }
            match there.iter().find(|volume| !results.iter().any(|r| r.volume == **volume)) {
                Some(unknown) => node.find(unknown).map(|_| results),
                None => Ok(results),
            }
        })
    }

    fn resync(&self, request: api::ResyncRequest) -> OpFuture<'_, api::ResyncResponse> {
        verb!(self, node, async move {
            if let Some(answer) = node.by_neighbour::<api::ResyncResponse>(&request.volume, "resync", &request).await? {
                return Ok(answer);
            }
            if request.discard {
                let (handle, done) =
                    node.at_holder::<_, api::ResyncResponse>(&request.volume, "resync", &request).await?;
                let discarded = match done {
                    Some(done) => done.discarded,
                    None => node.discard_and_resync(&handle, &request).await?,
                };
                return Ok(api::ResyncResponse { volume: Some(node.view(&handle).await?), discarded });
            }
            // Members that are behind are fed without being asked; what is left to do is to say how it goes.
            let volume = Some(node.by_name(&request.volume).await?);
            Ok(api::ResyncResponse { volume, discarded: None })
        })
    }

    fn scrub(&self, volume: String) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move {
            let request = api::ScrubRequest { volume: volume.clone() };
            if let Some(answer) = node.by_neighbour::<api::ScrubResponse>(&volume, "scrub", &request).await? {
                return found(answer.volume);
            }
            let handle = node.find(&volume)?;
            node.scrub_now(&handle)?;
            node.view(&handle).await
        })
    }

    fn losses(&self, volume: String) -> OpFuture<'_, api::LossesResponse> {
        verb!(self, node, async move { node.losses_of(&volume).await })
    }

    fn fence(&self, request: api::FenceRequest) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move {
            if let Some(answer) =
                node.by_neighbour::<api::FenceResponse>(&request.volume, "fence-site", &request).await?
            {
                return found(answer.volume);
            }
            let handle = node.find(&request.volume)?;
            node.fence_site(&handle, &request).await?;
            node.view(&handle).await
        })
    }

    fn info(&self) -> OpFuture<'_, api::InfoResponse> {
        verb!(self, node, async move { Ok(node.describe()) })
    }

    fn status(&self, volumes: Vec<String>) -> OpFuture<'_, api::StatusResponse> {
        verb!(self, node, async move {
            let views = if volumes.is_empty() {
                let mut views = node.full_views().await;
                views.extend(node.neighbours_volumes().await);
                views.sort_by(|a, b| a.name.cmp(&b.name));
                views
            } else {
                let mut views = Vec::new();
                for volume in &volumes {
                    views.push(node.by_name(volume).await?);
                }
                views
            };
            let conditions = node.node_conditions();
            let me = &node.shared.me;
            let (site, node) = (me.site.clone(), me.node.clone());
            Ok(api::StatusResponse { site, node, volumes: views, conditions })
        })
    }

    fn peers(&self) -> OpFuture<'_, api::PeersResponse> {
        verb!(self, node, async move {
            let peers = node.peers_in_full().await;
            let me = &node.shared.me;
            let disk_free_bytes = node.shared.store.space().free_bytes;
            Ok(api::PeersResponse { site: me.site.clone(), node: me.node.clone(), peers, disk_free_bytes })
        })
    }

    fn doctor(&self) -> OpFuture<'_, api::DoctorResponse> {
        verb!(self, node, async move { Ok(node.doctor_facts().await) })
    }
}

impl Node {
    /// What the node itself holds against its state.
    pub(super) fn node_conditions(&self) -> Vec<api::Condition> {
        let broken = lock(&self.broken).clone();
        let mut out: Vec<api::Condition> = broken
            .into_iter()
            .map(|(volume, reason)| api::Condition {
                name: "replica-lost".into(),
                text: format!("the replica of volume {volume} was not brought back: {reason}"),
                remedy: "run `farshore member replace` at the volume's primary".into(),
            })
            .collect();
        let journal = self.shared.journal.status();
        if let Some(reason) = journal.allocation_error {
            out.push(api::Condition {
                name: "journal-short".into(),
                text: format!("the journal can't grow to its budget of {} bytes: {reason}", journal.budget_bytes),
                remedy: "free space on its disk; it is tried again by itself".into(),
            });
        }
        let share_bytes = self.shared.journal.share_bytes();
        if share_bytes < SHARE_BYTES_MIN {
            out.push(api::Condition {
                name: "journal-crowded".into(),
                text: format!("each volume has only {share_bytes} bytes of the journal: one may not be able to open"),
                remedy: "raise journal.budget_bytes and restart the daemon, or move copies to another node".into(),
            });
        }
        if let Some(reason) = journal.poisoned {
            out.push(api::Condition {
                name: "journal-poisoned".into(),
                text: reason,
                remedy: "replace the disk, restart the daemon, then `farshore member replace`".into(),
            });
        }
        out
    }
}
