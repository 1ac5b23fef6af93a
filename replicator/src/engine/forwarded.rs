//! Verbs that another node sent here, by name. A node may ask only about volumes that it is a member of, or as another
//! node of this site.

use std::sync::Arc;

use bytes::Bytes;
use farshore_core::api::Promotion;
use farshore_core::ids::VolumeId;
use farshore_core::mark::SnapshotId;
use farshore_proto::v1 as api;
use prost::Message;

use super::cut::{self, CutStep};
use super::deletion::{FORGET_BUT_SNAPSHOTS, MAKE_DURABLE};
use super::detach::{FenceAnswer, FenceStep};
use super::doubt;
use super::forward::{EndForwarded, ServeStep};
use super::holders::{self, HolderAnswer, HolderStep};
use super::make_room;
use super::node::{Node, is_member};
use super::peer_view::OwnWords;
use super::snapshot_space;
use super::words::{SpanAsked, SpanTold};
use crate::control::validate_snapshots::parse_id;
use crate::control::{OpError, Operations, SnapshotOperations};
use crate::transport::PeerName;

trait AboutVolume {
    fn volume(&self) -> &str;
}

macro_rules! about_volume {
    ($($request:ident),+) => {
        $(impl AboutVolume for api::$request {
            fn volume(&self) -> &str {
                &self.volume
            }
        })+
    };
}

about_volume!(
    GetVolumeRequest,
    DeleteVolumeRequest,
    DemoteRequest,
    AttachVolumeRequest,
    DetachVolumeRequest,
    ResizeVolumeRequest,
    SetVolumeRequest,
    AddMemberRequest,
    RemoveMemberRequest,
    ReplaceMemberRequest,
    PromoteRequest,
    SwitchoverRequest,
    FenceRequest,
    LossesRequest,
    ResyncRequest,
    ScrubRequest,
    CreateScheduleRequest,
    DeleteScheduleRequest,
    LimitSnapshotsRequest
);

impl AboutVolume for CutStep {
    fn volume(&self) -> &str {
        &self.volume
    }
}

impl AboutVolume for SpanAsked {
    fn volume(&self) -> &str {
        &self.volume
    }
}

impl AboutVolume for ServeStep {
    fn volume(&self) -> &str {
        &self.volume
    }
}

impl AboutVolume for HolderStep {
    fn volume(&self) -> &str {
        &self.volume
    }
}

impl AboutVolume for EndForwarded {
    fn volume(&self) -> &str {
        &self.volume
    }
}

impl AboutVolume for FenceStep {
    fn volume(&self) -> &str {
        &self.volume
    }
}

/// Of a snapshot that is named by its volume: between nodes it always is, but for a neighbour that asks with what its
/// caller gave.
macro_rules! about_snapshot {
    ($($request:ident),+) => {
        $(impl AboutVolume for api::$request {
            fn volume(&self) -> &str {
                self.snapshot.split_once('@').map_or("", |(volume, _)| volume)
            }
        })+
    };
}

about_snapshot!(GetSnapshotRequest, DeleteSnapshotRequest, UpdateSnapshotRequest, RestoreSnapshotRequest);

impl AboutVolume for api::CreateSnapshotRequest {
    fn volume(&self) -> &str {
        self.volumes.first().map_or("", String::as_str)
    }
}

fn undecodable(error: prost::DecodeError) -> OpError {
    OpError::invalid("a forwarded verb does not decode", "run one version").because(error)
}

fn decode<M: Message + Default + AboutVolume>(node: &Arc<Node>, peer: &PeerName, request: Bytes) -> Result<M, OpError> {
    let request = M::decode(request).map_err(undecodable)?;
    if peer.site == node.shared.me.site {
        return Ok(request);
    }
    let handle = node.find(request.volume())?;
    if !is_member(&handle, peer, None) {
        return Err(OpError::invalid(format!("{peer} is no member of volume {}", handle.name()), "ask a member"));
    }
    Ok(request)
}

fn volume_id(text: &str) -> Result<VolumeId, OpError> {
    text.parse().map_err(|_| OpError::invalid(format!("{text:?} is no volume's id"), "run one version"))
}

/// The verbs of snapshots; `None` is no such verb.
async fn serve_snapshots(
    node: &Arc<Node>,
    peer: &PeerName,
    method: &str,
    request: Bytes,
) -> Result<Option<Vec<u8>>, OpError> {
    let verbs: &dyn SnapshotOperations = node.as_ref();
    let neighbour = peer.site == node.shared.me.site;
    let answer = match method {
        "snapshot-create" => node.take_one(&decode(node, peer, request)?).await?.encode_to_vec(),
        "snapshot-delete" => {
            let request: api::DeleteSnapshotRequest = decode(node, peer, request)?;
            verbs.delete_snapshot(request.snapshot).await?;
            api::DeleteSnapshotResponse {}.encode_to_vec()
        }
        make_room::METHOD => {
            let request: api::DeleteSnapshotRequest = decode(node, peer, request)?;
            let handle = node.find(request.volume())?;
            let (_, id) = request.snapshot.split_once('@').unwrap_or_default();
            let id = SnapshotId(parse_id(id).ok_or_else(|| OpError::no_snapshot(&request.snapshot))?);
            let gone = node.make_room_for(peer, &handle, id).await;
            let snapshot = gone.then(|| api::Snapshot { id: id.to_string(), ..Default::default() });
            api::GetSnapshotResponse { snapshot }.encode_to_vec()
        }
        snapshot_space::ROOM => {
            let request: api::GetVolumeRequest = decode(node, peer, request)?;
            node.refuse_without_room_here(&*node.find(&request.volume)?)?;
            api::GetVolumeResponse::default().encode_to_vec()
        }
        "snapshot-update" => {
            let snapshot = Some(verbs.update_snapshot(decode(node, peer, request)?).await?);
            api::UpdateSnapshotResponse { snapshot }.encode_to_vec()
        }
        "snapshot-restore" => {
            let request: api::RestoreSnapshotRequest = decode(node, peer, request)?;
            verbs.restore_snapshot(request.snapshot).await?.encode_to_vec()
        }
        "snapshot-get" => {
            let request: api::GetSnapshotRequest = decode(node, peer, request)?;
            let snapshot = Some(verbs.get_snapshot(request).await?);
            api::GetSnapshotResponse { snapshot }.encode_to_vec()
        }
        "snapshot-settle" => {
            let request: api::GetVolumeRequest = decode(node, peer, request)?;
            let handle = node.find(&request.volume)?;
            node.settle_here(&handle).await?;
            api::GetVolumeResponse { volume: Some(node.view(&handle).await?) }.encode_to_vec()
        }
        "snapshot-order" => {
            let request: api::GetVolumeRequest = decode(node, peer, request)?;
            let handle = node.find(&request.volume)?;
            drop(node.turn_to_mark(&handle).await?);
            api::GetVolumeResponse { volume: Some(node.view(&handle).await?) }.encode_to_vec()
        }
        "snapshot-list" if neighbour => {
            let request = api::ListSnapshotsRequest::decode(request).map_err(undecodable)?;
            api::ListSnapshotsResponse { snapshots: node.snapshots_of(&request).await? }.encode_to_vec()
        }
        "kept-drop" => {
            let request = api::DeleteSnapshotRequest::decode(request).map_err(undecodable)?;
            let named = request.snapshot.split_once('@');
            let named = named.and_then(|(volume, id)| Some((volume.parse().ok()?, SnapshotId(parse_id(id)?))));
            let Some((volume, id)) = named else {
                return Err(OpError::invalid(
                    format!("{:?} names no kept snapshot", request.snapshot),
                    "run one version",
                ));
            };
            node.drop_for(peer, volume, id).await?;
            api::DeleteSnapshotResponse {}.encode_to_vec()
        }
        "snapshot-limit" => {
            let volume = Some(verbs.limit_snapshots(decode(node, peer, request)?).await?);
            api::LimitSnapshotsResponse { volume }.encode_to_vec()
        }
        "schedule-create" => {
            let schedule = Some(verbs.create_schedule(decode(node, peer, request)?).await?);
            api::CreateScheduleResponse { schedule }.encode_to_vec()
        }
        "schedule-delete" => {
            verbs.delete_schedule(decode(node, peer, request)?).await?;
            api::DeleteScheduleResponse {}.encode_to_vec()
        }
        step if step.starts_with("cut-") => {
            let request: CutStep = decode(node, peer, request)?;
            cut::serve(node, step, request).await?.encode_to_vec()
        }
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

pub(super) async fn serve(node: &Arc<Node>, peer: &PeerName, method: &str, request: Bytes) -> Result<Bytes, OpError> {
    let about_snapshots = ["snapshot-", "schedule-", "kept-", "cut-"].iter().any(|prefix| method.starts_with(prefix));
    if about_snapshots && let Some(answer) = serve_snapshots(node, peer, method, request.clone()).await? {
        return Ok(answer.into());
    }
    let verbs: &dyn Operations = node.as_ref();
    let neighbour = peer.site == node.shared.me.site;
    let answer = match method {
        "view" => {
            let request: api::GetVolumeRequest = decode(node, peer, request)?;
            let handle = node.find(&request.volume)?;
            api::GetVolumeResponse { volume: Some(node.view(&handle).await?) }.encode_to_vec()
        }
        "log-span" => {
            let asked: SpanAsked = decode(node, peer, request)?;
            let handle = node.find(&asked.volume)?;
            SpanTold::here(&handle, asked.after, asked.upto).await.encode_to_vec()
        }
        "register" => {
            let request: api::GetVolumeRequest = decode(node, peer, request)?;
            let handle = node.find(&request.volume)?;
            node.register_words(&handle).await?.encode_to_vec()
        }
        "end-session" => {
            let step: FenceStep = decode(node, peer, request)?;
            let handle = node.find(&step.volume)?;
            node.end_own(&handle, &step).await?.encode_to_vec()
        }
        "fence" if neighbour => {
            let step: FenceStep = decode(node, peer, request)?;
            let handle = node.find(&step.volume)?;
            node.fence_here(&handle, &step).await?;
            FenceAnswer { ended: true }.encode_to_vec()
        }
        "serve-device" if neighbour => {
            let step: ServeStep = decode(node, peer, request)?;
            let handle = node.find(&step.volume)?;
            node.serve_device(&handle, peer, &step).await?.encode_to_vec()
        }
        "take-device" if neighbour => {
            let step: ServeStep = decode(node, peer, request)?;
            let handle = node.find(&step.volume)?;
            node.take_device(&handle, peer, &step).await?.encode_to_vec()
        }
        holders::PREPARE if neighbour => {
            let step: HolderStep = decode(node, peer, request)?;
            let handle = node.find(&step.volume)?;
            node.prepare_holder(&handle, peer, &step).await?.encode_to_vec()
        }
        holders::LEAVE => {
            let step: HolderStep = decode(node, peer, request)?;
            let handle = node.find(&step.volume)?;
            node.leave_holder(&handle, peer, &step).await?.encode_to_vec()
        }
        doubt::END if neighbour => {
            let step: HolderStep = decode(node, peer, request)?;
            let handle = node.find(&step.volume)?;
            let (_, of) = step.of.split_once('/').unwrap_or_default();
            node.end_in_doubt_here(&handle, of).await?;
            HolderAnswer::default().encode_to_vec()
        }
        doubt::SETTLE if neighbour => {
            let request: api::GetVolumeRequest = decode(node, peer, request)?;
            node.settle_attaches(volume_id(&request.volume)?).await;
            api::GetVolumeResponse::default().encode_to_vec()
        }
        "readers" => {
            let request: api::GetVolumeRequest = decode(node, peer, request)?;
            node.readers_for(peer, volume_id(&request.volume)?).await.encode_to_vec()
        }
        "end-reader" if neighbour => {
            let request: api::DetachVolumeRequest = decode(node, peer, request)?;
            node.end_reader(volume_id(&request.volume)?, &request).await?;
            api::DetachVolumeResponse::default().encode_to_vec()
        }
        "end-device" if neighbour => {
            node.end_device(&decode(node, peer, request)?).await?;
            api::DetachVolumeResponse::default().encode_to_vec()
        }
        // Of itself, for whoever shows it.
        "own-words" => OwnWords::now(node.shared.store.space().free_bytes).encode_to_vec(),
        // For nodes of this site, about what they do not hold themselves.
        "volumes" if neighbour => api::ListVolumesResponse { volumes: node.full_views().await }.encode_to_vec(),
        "create" if neighbour => {
            let request = api::CreateVolumeRequest::decode(request).map_err(undecodable)?;
            api::CreateVolumeResponse { volume: Some(verbs.create_volume(request).await?) }.encode_to_vec()
        }
        "failover" if neighbour => {
            let request = api::FailoverRequest::decode(request).map_err(undecodable)?;
            api::FailoverResponse { results: node.fail_over_for(peer, request).await? }.encode_to_vec()
        }
        "get" if neighbour => {
            let request: api::GetVolumeRequest = decode(node, peer, request)?;
            api::GetVolumeResponse { volume: Some(verbs.get_volume(request.volume).await?) }.encode_to_vec()
        }
        "delete" if neighbour => {
            let request: api::DeleteVolumeRequest = decode(node, peer, request)?;
            verbs.delete_volume(request.volume).await?;
            api::DeleteVolumeResponse {}.encode_to_vec()
        }
        "undo-creation" => {
            let request: api::DeleteVolumeRequest = decode(node, peer, request)?;
            let handle = node.find(&request.volume)?;
            node.undo_here(&handle, peer).await?;
            api::DeleteVolumeResponse {}.encode_to_vec()
        }
        MAKE_DURABLE => {
            let _: api::GetVolumeRequest = decode(node, peer, request)?;
            node.make_durable().await?;
            api::GetVolumeResponse::default().encode_to_vec()
        }
        FORGET_BUT_SNAPSHOTS => {
            let request: api::DeleteVolumeRequest = decode(node, peer, request)?;
            let handle = node.find(&request.volume)?;
            if !is_member(&handle, peer, None) {
                return Err(OpError::invalid(
                    format!("{peer} is no member of volume {}", handle.name()),
                    "ask a member",
                ));
            }
            node.refuse_in_use(&handle).await?;
            node.forget_but_snapshots(&handle).await?;
            api::DeleteVolumeResponse {}.encode_to_vec()
        }
        "promote" if neighbour => verbs.promote(decode(node, peer, request)?).await?.encode_to_vec(),
        "demote" if neighbour => {
            let request: api::DemoteRequest = decode(node, peer, request)?;
            api::DemoteResponse { volume: Some(verbs.demote(request.volume).await?) }.encode_to_vec()
        }
        "take-over" => {
            let request: api::PromoteRequest = decode(node, peer, request)?;
            let handle = node.find(&request.volume)?;
            node.promote_here(&handle, Promotion::Takeover).await?;
            node.give_back_if_fenced(&handle).await?;
            node.settle_after_move(&handle).await?;
            api::PromoteResponse { volume: Some(node.view(&handle).await?), plan: None }.encode_to_vec()
        }
        "switchover" => {
            let view = verbs.switchover(decode(node, peer, request)?).await?;
            api::SwitchoverResponse { volume: Some(view) }.encode_to_vec()
        }
        "losses" if neighbour => {
            let request: api::LossesRequest = decode(node, peer, request)?;
            node.losses_of(&request.volume).await?.encode_to_vec()
        }
        "fence-site" => {
            let volume = Some(verbs.fence(decode(node, peer, request)?).await?);
            api::FenceResponse { volume }.encode_to_vec()
        }
        "attach" => verbs.attach_volume(decode(node, peer, request)?).await?.encode_to_vec(),
        "detach" => {
            let view = verbs.detach_volume(decode(node, peer, request)?).await?;
            api::DetachVolumeResponse { volume: Some(view) }.encode_to_vec()
        }
        "resize" => {
            let view = verbs.resize_volume(decode(node, peer, request)?).await?;
            api::ResizeVolumeResponse { volume: Some(view) }.encode_to_vec()
        }
        "set-volume" => {
            let volume = Some(verbs.set_volume(decode(node, peer, request)?).await?);
            api::SetVolumeResponse { volume }.encode_to_vec()
        }
        "add-member" => {
            let view = verbs.add_member(decode(node, peer, request)?).await?;
            api::AddMemberResponse { volume: Some(view) }.encode_to_vec()
        }
        "remove-member" => {
            let view = verbs.remove_member(decode(node, peer, request)?).await?;
            api::RemoveMemberResponse { volume: Some(view) }.encode_to_vec()
        }
        "replace-member" => {
            let view = verbs.replace_member(decode(node, peer, request)?).await?;
            api::ReplaceMemberResponse { volume: Some(view) }.encode_to_vec()
        }
        "resync" => verbs.resync(decode(node, peer, request)?).await?.encode_to_vec(),
        "scrub" => {
            let request: api::ScrubRequest = decode(node, peer, request)?;
            let view = verbs.scrub(request.volume).await?;
            api::ScrubResponse { volume: Some(view) }.encode_to_vec()
        }
        other => {
            return Err(OpError::unsupported(
                format!("{} does not know the verb {other}", node.shared.me),
                "run the same version on all nodes",
            ));
        }
    };
    Ok(answer.into())
}
