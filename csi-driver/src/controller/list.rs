//! What there is: volumes, one volume.

use std::collections::{BTreeMap, BTreeSet};

use farshore_proto::csi;
use farshore_proto::v1 as api;
use tonic::Status;

use super::cluster::{Cluster, page};
use super::volume::{check_usage, condition, described, published, runs_anywhere};
use crate::capability::{self, Usage};
use crate::parameters::{self, Parameters, Place};

/// Whether the volume is as the parameters that are named would have it.
fn has(volume: &api::VolumeStatus, named: &BTreeMap<String, String>, wanted: Parameters) -> Result<(), Status> {
    let mut otherwise = parameters::differing(&volume.policy.clone().unwrap_or_default(), &wanted.policy);
    let held = |place: &Place, witness: bool| {
        let kind = |m: &api::MemberStatus| (m.kind() == api::MemberKind::Witness) == witness;
        let there = |m: &api::MemberStatus| m.site == place.site && (place.node.is_empty() || m.node == place.node);
        volume.members.iter().any(|m| kind(m) && there(m))
    };
    let count = |witness: bool| -> BTreeSet<&str> {
        let kind = |m: &&api::MemberStatus| (m.kind() == api::MemberKind::Witness) == witness;
        volume.members.iter().filter(kind).map(|m| m.site.as_str()).collect()
    };
    for (key, places, witness) in [("sites", &wanted.sites, false), ("witness", &wanted.witnesses, true)] {
        let sites: BTreeSet<&str> = places.iter().map(|place| place.site.as_str()).collect();
        if sites != count(witness) || !places.iter().all(|place| held(place, witness)) {
            otherwise.push(key);
        }
    }
    if wanted.any_node != runs_anywhere(volume) {
        otherwise.push("placement");
    }
    match otherwise.into_iter().find(|key| named.contains_key(*key)) {
        None => Ok(()),
        Some(key) => Err(Status::failed_precondition(format!(
            "volume {} was not made with {key} {:?}, or has another by now: farshore volume show {}",
            volume.name, named[key], volume.name
        ))),
    }
}

impl Cluster {
    pub(super) async fn list_volumes(
        &self,
        request: csi::ListVolumesRequest,
    ) -> Result<csi::ListVolumesResponse, Status> {
        let volumes = self.replicator.list().await?;
        let (volumes, next_token) = page(volumes, |v| &v.id, &request.starting_token, request.max_entries)?;
        let here = self.replicator.place().await?.site;
        let entry = |volume: &api::VolumeStatus| csi::list_volumes_response::Entry {
            volume: Some(described(volume, &here)),
            status: Some(csi::list_volumes_response::VolumeStatus {
                published_node_ids: published(volume, &here),
                volume_condition: Some(condition(volume)),
            }),
        };
        Ok(csi::ListVolumesResponse { entries: volumes.iter().map(entry).collect(), next_token })
    }

    pub(super) async fn get_volume(
        &self,
        request: csi::ControllerGetVolumeRequest,
    ) -> Result<csi::ControllerGetVolumeResponse, Status> {
        let volume = self.named(&request.volume_id).await?;
        let here = self.replicator.place().await?.site;
        let status = csi::controller_get_volume_response::VolumeStatus {
            published_node_ids: published(&volume, &here),
            volume_condition: Some(condition(&volume)),
        };
        Ok(csi::ControllerGetVolumeResponse { volume: Some(described(&volume, &here)), status: Some(status) })
    }

    pub(super) async fn validate(
        &self,
        request: csi::ValidateVolumeCapabilitiesRequest,
    ) -> Result<csi::ValidateVolumeCapabilitiesResponse, Status> {
        if request.volume_capabilities.is_empty() {
            return Err(crate::refusal::missing("volume_capabilities"));
        }
        let volume = self.named(&request.volume_id).await?;
        let check = |usage: &Usage| {
            check_usage(&volume, usage, false)?;
            usage.check_size(volume.size_bytes)
        };
        let judged = capability::all(&request.volume_capabilities)
            .and_then(|usages| usages.iter().try_for_each(check))
            .and_then(|()| has(&volume, &request.parameters, parameters::read(&request.parameters)?))
            .and_then(|()| {
                let wanted = parameters::read_mutable(&request.mutable_parameters)?;
                has(&volume, &request.mutable_parameters, wanted)
            });
        if let Err(status) = judged {
            return Ok(csi::ValidateVolumeCapabilitiesResponse { confirmed: None, message: status.message().into() });
        }
        let confirmed = csi::validate_volume_capabilities_response::Confirmed {
            volume_context: request.volume_context,
            volume_capabilities: request.volume_capabilities,
            parameters: request.parameters,
            mutable_parameters: request.mutable_parameters,
        };
        Ok(csi::ValidateVolumeCapabilitiesResponse { confirmed: Some(confirmed), message: String::new() })
    }
}
