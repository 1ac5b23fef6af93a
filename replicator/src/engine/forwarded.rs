//! Verbs that another node sent here, by name. A node may ask only about volumes that it is a member of, or as another
//! node of this site.

use std::sync::Arc;

use bytes::Bytes;
use farshore_core::api::Promotion;
use farshore_proto::v1 as api;
use prost::Message;

use super::node::{Node, is_member};
use crate::control::{OpError, Operations};
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
    AddMemberRequest,
    RemoveMemberRequest,
    ReplaceMemberRequest,
    PromoteRequest,
    SwitchoverRequest,
    ResyncRequest,
    ScrubRequest
);

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

pub(super) async fn serve(node: &Arc<Node>, peer: &PeerName, method: &str, request: Bytes) -> Result<Bytes, OpError> {
    let verbs: &dyn Operations = node.as_ref();
    let neighbour = peer.site == node.shared.me.site;
    let answer = match method {
        "view" => {
            let request: api::GetVolumeRequest = decode(node, peer, request)?;
            let handle = node.find(&request.volume)?;
            api::GetVolumeResponse { volume: Some(node.view(&handle).await?) }.encode_to_vec()
        }
        // For nodes of this site, about what they do not hold themselves.
        "volumes" if neighbour => api::ListVolumesResponse { volumes: node.full_views().await }.encode_to_vec(),
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
        "promote" if neighbour => verbs.promote(decode(node, peer, request)?).await?.encode_to_vec(),
        "demote" if neighbour => {
            let request: api::DemoteRequest = decode(node, peer, request)?;
            api::DemoteResponse { volume: Some(verbs.demote(request.volume).await?) }.encode_to_vec()
        }
        "take-over" => {
            let request: api::PromoteRequest = decode(node, peer, request)?;
            let handle = node.find(&request.volume)?;
            node.promote_here(&handle, Promotion::Takeover).await?;
            api::PromoteResponse { volume: Some(node.view(&handle).await?), plan: None }.encode_to_vec()
        }
        "switchover" => {
            let view = verbs.switchover(decode(node, peer, request)?).await?;
            api::SwitchoverResponse { volume: Some(view) }.encode_to_vec()
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
        "resync" => {
            let view = verbs.resync(decode(node, peer, request)?).await?;
            api::ResyncResponse { volume: Some(view) }.encode_to_vec()
        }
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
