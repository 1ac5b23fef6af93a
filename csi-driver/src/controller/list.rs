//! What there is: volumes, one volume.

use farshore_proto::csi;
use farshore_proto::v1 as api;
use tonic::Status;

use super::cluster::{Cluster, page};
use super::volume::{check_usage, condition, described, published};
use crate::capability::{self, Usage};
use crate::parameters;

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
            .and_then(|()| parameters::read(&request.parameters).map(drop))
            .and_then(|()| parameters::read_mutable(&request.mutable_parameters).map(drop));
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
