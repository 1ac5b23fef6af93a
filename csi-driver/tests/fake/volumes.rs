//! Volumes, who may write, and the node.

use std::pin::Pin;

use farshore_proto::v1 as api;
use farshore_proto::v1::node_server::Node;
use farshore_proto::v1::replication_server::Replication;
use farshore_proto::v1::volumes_server::Volumes;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::state::{Fake, refusal};

type Reply<T> = Result<Response<T>, Status>;

/// The replicator's own label.
const SOURCE: &str = "farshore.source-id";

fn reply<T>(answer: T) -> Reply<T> {
    Ok(Response::new(answer))
}

fn refused(message: &str) -> Status {
    refusal(Code::FailedPrecondition, "failed-precondition", message)
}

#[tonic::async_trait]
impl Volumes for Fake {
    async fn create(&self, request: Request<api::CreateVolumeRequest>) -> Reply<api::CreateVolumeResponse> {
        let request = request.into_inner();
        self.enter(format!("create {}", request.name)).await?;
        let mut world = self.world();
        if request.labels.keys().any(|key| key.starts_with("farshore.")) {
            return Err(refusal(Code::InvalidArgument, "invalid", "that label is the replicator's own"));
        }
        let source = format!("{}{}", request.source_snapshot, request.source_volume);
        if let Ok(existing) = world.find(&request.name) {
            let began = existing.labels.get(SOURCE).cloned().unwrap_or_default();
            if began != source || existing.read_only != request.read_only {
                let what = "it has another source or right to write";
                return Err(refusal(Code::AlreadyExists, "already-exists", what));
            }
            if !world.half_made.remove(&existing.id) {
                return reply(api::CreateVolumeResponse { volume: Some(existing) });
            }
            // A copy that some members never got is undone, and made anew.
            world.volumes.remove(&existing.id);
        }
        let members: Vec<api::MemberStatus> = (1..)
            .zip(&request.members)
            .map(|(id, spec)| {
                let (site, node, kind, votes) = (spec.site.clone(), spec.node.clone(), spec.kind, spec.votes);
                let (connected, in_sync_set, state) = (true, true, "replicating".into());
                api::MemberStatus { id, site, node, kind, votes, connected, in_sync_set, state, ..Default::default() }
            })
            .collect();
        let volume = api::VolumeStatus {
            id: world.draw(),
            name: request.name,
            size_bytes: request.size_bytes,
            block_size_bytes: 4096,
            state: "unknown".into(),
            config_version: "0.00000000/1".into(),
            primary_site: members[0].site.clone(),
            members,
            policy: request.policy,
            labels: request.labels.into_iter().chain((!source.is_empty()).then(|| (SOURCE.into(), source))).collect(),
            read_only: request.read_only,
            ..Default::default()
        };
        world.volumes.insert(volume.id.clone(), volume.clone());
        reply(api::CreateVolumeResponse { volume: Some(volume) })
    }

    async fn list(&self, _: Request<api::ListVolumesRequest>) -> Reply<api::ListVolumesResponse> {
        reply(api::ListVolumesResponse { volumes: self.world().volumes.values().cloned().collect() })
    }

    async fn get(&self, request: Request<api::GetVolumeRequest>) -> Reply<api::GetVolumeResponse> {
        let volume = self.world().find(&request.into_inner().volume)?;
        reply(api::GetVolumeResponse { volume: Some(volume) })
    }

    async fn delete(&self, request: Request<api::DeleteVolumeRequest>) -> Reply<api::DeleteVolumeResponse> {
        let name = request.into_inner().volume;
        self.enter(format!("delete {name}")).await?;
        let mut world = self.world();
        let volume = world.find(&name)?;
        if volume.attached.is_some() || !volume.readers.is_empty() {
            return Err(refused("it is attached"));
        }
        world.volumes.remove(&volume.id);
        reply(api::DeleteVolumeResponse {})
    }

    async fn attach(&self, request: Request<api::AttachVolumeRequest>) -> Reply<api::AttachVolumeResponse> {
        let request = request.into_inner();
        self.enter(format!("attach {} {}", request.node, if request.publish_only { "published" } else { "opened" }))
            .await?;
        let mut world = self.world();
        let volume = world.find(&request.volume)?;
        if volume.read_only && !request.read_only {
            return Err(refused("it is read-only for good"));
        }
        let there = match volume.read_only {
            true => volume.readers.iter().find(|at| at.node == request.node).cloned(),
            false => volume.attached.clone(),
        };
        let mut attached = match there {
            None if request.published => return Err(refused("it is not published")),
            Some(there) if there.session == request.session && there.node == request.node => there,
            Some(_) => return Err(refused("it is attached for another session")),
            None => {
                let (site, node, session) = (world.nodes[0].0.clone(), request.node.clone(), request.session.clone());
                api::Attachment { site, node, session, ..Default::default() }
            }
        };
        if !request.publish_only && attached.device.is_none() {
            attached.device = Some(world.open_device(&volume.id, volume.size_bytes, request.read_only));
        }
        let device = attached.device.clone();
        let volume = world.change(&volume.id, |v| {
            if v.read_only {
                v.readers.retain(|at| at.node != attached.node);
                v.readers.push(attached);
                return;
            }
            v.attached = Some(attached);
            v.state = "healthy".into();
            v.config_version = "1.0badcafe/1".into();
            v.set_role(api::Role::Primary);
        });
        reply(api::AttachVolumeResponse { session: request.session, device, volume: Some(volume) })
    }

    async fn detach(&self, request: Request<api::DetachVolumeRequest>) -> Reply<api::DetachVolumeResponse> {
        let request = request.into_inner();
        let how = match (request.keep_published, request.force) {
            (true, _) => "kept",
            (false, true) => "ended by force",
            (false, false) => "ended",
        };
        self.enter(format!("detach {how}")).await?;
        let mut world = self.world();
        let volume = world.find(&request.volume)?;
        if world.unheard && request.force {
            return Err(refusal(Code::Unavailable, "unavailable", "too few members answer"));
        }
        let here = world.nodes[0].0.clone();
        let meant = |at: &api::Attachment| request.node.is_empty() || (at.site == here && at.node == request.node);
        let Some(attached) = volume.attached.iter().chain(&volume.readers).find(|at| meant(at)).cloned() else {
            return reply(api::DetachVolumeResponse { volume: Some(world.find(&request.volume)?) });
        };
        if !request.session.is_empty() && request.session != attached.session {
            return Err(refused("it is attached for another session"));
        }
        if let Some(device) = &attached.device {
            world.close_device(device, request.force)?;
        }
        let volume = world.change(&volume.id, |v| {
            let kept = request.keep_published.then_some(api::Attachment { device: None, ..attached.clone() });
            if v.read_only {
                v.readers.retain(|at| at.node != attached.node);
                v.readers.extend(kept);
                return;
            }
            v.attached = kept;
        });
        reply(api::DetachVolumeResponse { volume: Some(volume) })
    }

    async fn losses(&self, _: Request<api::LossesRequest>) -> Reply<api::LossesResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    async fn set(&self, request: Request<api::SetVolumeRequest>) -> Reply<api::SetVolumeResponse> {
        let request = request.into_inner();
        let durability = request.durability().as_str_name();
        self.enter(format!("set quorum {:?} w {} {durability}", request.quorum, request.w)).await?;
        let mut world = self.world();
        let volume = world.find(&request.volume)?;
        if request.quorum == "numbers" && request.w as usize > volume.members.len() {
            return Err(refusal(Code::InvalidArgument, "invalid", "quorum numbers needs more copies than there are"));
        }
        let volume = world.change(&volume.id, |v| {
            let policy = v.policy.get_or_insert_default();
            if !request.quorum.is_empty() {
                policy.quorum = request.quorum.clone();
            }
            if request.durability() != api::Durability::Unspecified {
                policy.durability = request.durability;
            }
            policy.iops = request.iops.unwrap_or(policy.iops);
            policy.bytes_per_second = request.bytes_per_second.unwrap_or(policy.bytes_per_second);
            v.labels.extend(request.labels);
            v.labels.retain(|_, value| !value.is_empty());
        });
        reply(api::SetVolumeResponse { volume: Some(volume) })
    }

    async fn resize(&self, request: Request<api::ResizeVolumeRequest>) -> Reply<api::ResizeVolumeResponse> {
        let request = request.into_inner();
        self.enter(format!("resize {}", request.size_bytes)).await?;
        let mut world = self.world();
        let volume = world.find(&request.volume)?;
        if volume.role() != api::Role::Primary {
            return Err(refused("this node does not hold the epoch"));
        }
        let volume = world.change(&volume.id, |v| v.size_bytes = request.size_bytes);
        world.grow_device(&volume);
        reply(api::ResizeVolumeResponse { volume: Some(volume) })
    }
}

#[tonic::async_trait]
impl Replication for Fake {
    async fn promote(&self, request: Request<api::PromoteRequest>) -> Reply<api::PromoteResponse> {
        let request = request.into_inner();
        self.enter(if request.force { "force" } else { "promote" }.into()).await?;
        let mut world = self.world();
        let here = world.nodes[0].0.clone();
        let id = world.find(&request.volume)?.id;
        let volume = world.change(&id, |v| {
            v.primary_site = here;
            v.set_role(api::Role::Primary);
        });
        reply(api::PromoteResponse { volume: Some(volume), plan: None })
    }

    async fn demote(&self, request: Request<api::DemoteRequest>) -> Reply<api::DemoteResponse> {
        self.enter("demote".into()).await?;
        let mut world = self.world();
        let volume = world.find(&request.into_inner().volume)?;
        if volume.role() != api::Role::Primary {
            return Err(refused("this node does not hold the epoch"));
        }
        let volume = world.change(&volume.id, |v| v.set_role(api::Role::Secondary));
        reply(api::DemoteResponse { volume: Some(volume) })
    }

    async fn switchover(&self, request: Request<api::SwitchoverRequest>) -> Reply<api::SwitchoverResponse> {
        let request = request.into_inner();
        let what = if request.prepare { "prepare a move" } else { "move" };
        self.enter(format!("{what} to {}/{}", request.to_site, request.to_node)).await?;
        let mut world = self.world();
        let id = world.find(&request.volume)?.id;
        let volume = world.change(&id, |v| match request.prepare {
            true => {
                v.members.iter_mut().filter(|m| m.site == request.to_site).for_each(|m| m.in_sync_set = true);
                v.conditions.push(api::Condition { name: "mode-while-moving".into(), ..Default::default() });
            }
            false => v.primary_site = request.to_site.clone(),
        });
        reply(api::SwitchoverResponse { volume: Some(volume) })
    }

    async fn fence(&self, _: Request<api::FenceRequest>) -> Reply<api::FenceResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    async fn failover(&self, request: Request<api::FailoverRequest>) -> Reply<api::FailoverResponse> {
        let request = request.into_inner();
        self.enter(format!("failover from {}", request.from_site)).await?;
        let mut world = self.world();
        let (here, fails) = (world.nodes[0].0.clone(), world.takeover_fails);
        let result = |volume: &String| api::VolumeResult { volume: volume.clone(), ok: !fails, ..Default::default() };
        let results = request.volumes.iter().map(result).collect();
        for id in request.volumes.iter().filter(|_| !fails) {
            world.change(id, |v| {
                v.primary_site = here.clone();
                v.attached = None;
            });
        }
        reply(api::FailoverResponse { results })
    }

    async fn resync(&self, request: Request<api::ResyncRequest>) -> Reply<api::ResyncResponse> {
        let request = request.into_inner();
        self.enter(format!("resync {}/{} discard {}", request.site, request.node, request.discard)).await?;
        reply(api::ResyncResponse { volume: Some(self.world().find(&request.volume)?), discarded: None })
    }

    async fn scrub(&self, _: Request<api::ScrubRequest>) -> Reply<api::ScrubResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }
}

#[tonic::async_trait]
impl Node for Fake {
    async fn info(&self, _: Request<api::InfoRequest>) -> Reply<api::InfoResponse> {
        let (site, node, _) = self.world().nodes[0].clone();
        reply(api::InfoResponse { site, node, ..Default::default() })
    }

    async fn status(&self, _: Request<api::StatusRequest>) -> Reply<api::StatusResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    type WatchStatusStream = Pin<Box<dyn Stream<Item = Result<api::StatusResponse, Status>> + Send>>;

    async fn watch_status(&self, _: Request<api::WatchStatusRequest>) -> Reply<Self::WatchStatusStream> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    async fn peers(&self, _: Request<api::PeersRequest>) -> Reply<api::PeersResponse> {
        let nodes = self.world().nodes.clone();
        let peer = |(site, node, connected): &(String, String, bool)| {
            let (site, node, connected) = (site.clone(), node.clone(), *connected);
            let disk_free_bytes = connected.then_some(1 << 41);
            api::Peer { site, node, connected, disk_free_bytes, ..Default::default() }
        };
        let peers = nodes[1..].iter().map(peer).collect();
        let (site, node, disk_free_bytes) = (nodes[0].0.clone(), nodes[0].1.clone(), self.world().free_bytes);
        reply(api::PeersResponse { site, node, peers, disk_free_bytes })
    }

    async fn doctor(&self, _: Request<api::DoctorRequest>) -> Reply<api::DoctorResponse> {
        reply(api::DoctorResponse { disk_free_bytes: self.world().free_bytes, ..Default::default() })
    }
}
