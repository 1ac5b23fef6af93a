//! The three services of the controller: nothing but the way from a call to what carries it out.

use farshore_proto::csi;
use farshore_proto::csi::controller_server::Controller;
use farshore_proto::csi::controller_service_capability::{self as capability, rpc::Type as Can};
use farshore_proto::csi::group_controller_server::GroupController;
use farshore_proto::csi::group_controller_service_capability as group_capability;
use farshore_proto::csi::snapshot_metadata_server::SnapshotMetadata;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status};

use super::cluster::Cluster;
use super::metadata::Ranges;

type Reply<T> = Result<Response<T>, Status>;

const CAPABILITIES: [Can; 15] = [
    Can::CreateDeleteVolume,
    Can::PublishUnpublishVolume,
    Can::PublishReadonly,
    Can::ListVolumes,
    Can::ListVolumesPublishedNodes,
    Can::GetCapacity,
    Can::ExpandVolume,
    Can::SingleNodeMultiWriter,
    Can::GetVolume,
    Can::VolumeCondition,
    Can::CreateDeleteSnapshot,
    Can::ListSnapshots,
    Can::GetSnapshot,
    Can::CloneVolume,
    Can::ModifyVolume,
];

#[tonic::async_trait]
impl Controller for Cluster {
    async fn create_volume(&self, request: Request<csi::CreateVolumeRequest>) -> Reply<csi::CreateVolumeResponse> {
        self.create_volume(request.into_inner()).await.map(Response::new)
    }

    async fn delete_volume(&self, request: Request<csi::DeleteVolumeRequest>) -> Reply<csi::DeleteVolumeResponse> {
        self.delete_volume(request.into_inner()).await.map(Response::new)
    }

    async fn controller_publish_volume(
        &self,
        request: Request<csi::ControllerPublishVolumeRequest>,
    ) -> Reply<csi::ControllerPublishVolumeResponse> {
        self.publish(request.into_inner()).await.map(Response::new)
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<csi::ControllerUnpublishVolumeRequest>,
    ) -> Reply<csi::ControllerUnpublishVolumeResponse> {
        self.unpublish(request.into_inner()).await.map(Response::new)
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Reply<csi::ValidateVolumeCapabilitiesResponse> {
        self.validate(request.into_inner()).await.map(Response::new)
    }

    async fn list_volumes(&self, request: Request<csi::ListVolumesRequest>) -> Reply<csi::ListVolumesResponse> {
        self.list_volumes(request.into_inner()).await.map(Response::new)
    }

    async fn get_capacity(&self, request: Request<csi::GetCapacityRequest>) -> Reply<csi::GetCapacityResponse> {
        self.capacity(request.into_inner()).await.map(Response::new)
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Reply<csi::ControllerGetCapabilitiesResponse> {
        let capability = |can: &Can| csi::ControllerServiceCapability {
            r#type: Some(capability::Type::Rpc(capability::Rpc { r#type: (*can).into() })),
        };
        let capabilities = CAPABILITIES.iter().map(capability).collect();
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn create_snapshot(
        &self,
        request: Request<csi::CreateSnapshotRequest>,
    ) -> Reply<csi::CreateSnapshotResponse> {
        self.create_snapshot(request.into_inner()).await.map(Response::new)
    }

    async fn delete_snapshot(
        &self,
        request: Request<csi::DeleteSnapshotRequest>,
    ) -> Reply<csi::DeleteSnapshotResponse> {
        self.delete_snapshot(request.into_inner()).await.map(Response::new)
    }

    async fn list_snapshots(&self, request: Request<csi::ListSnapshotsRequest>) -> Reply<csi::ListSnapshotsResponse> {
        self.list_snapshots(request.into_inner()).await.map(Response::new)
    }

    async fn get_snapshot(&self, request: Request<csi::GetSnapshotRequest>) -> Reply<csi::GetSnapshotResponse> {
        self.get_snapshot(request.into_inner()).await.map(Response::new)
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Reply<csi::ControllerExpandVolumeResponse> {
        self.expand(request.into_inner()).await.map(Response::new)
    }

    async fn controller_get_volume(
        &self,
        request: Request<csi::ControllerGetVolumeRequest>,
    ) -> Reply<csi::ControllerGetVolumeResponse> {
        self.get_volume(request.into_inner()).await.map(Response::new)
    }

    async fn controller_modify_volume(
        &self,
        request: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Reply<csi::ControllerModifyVolumeResponse> {
        self.modify(request.into_inner()).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl GroupController for Cluster {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<csi::GroupControllerGetCapabilitiesRequest>,
    ) -> Reply<csi::GroupControllerGetCapabilitiesResponse> {
        use group_capability::{Rpc, Type, rpc};
        let can = rpc::Type::CreateDeleteGetVolumeGroupSnapshot.into();
        let can = csi::GroupControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: can })) };
        Ok(Response::new(csi::GroupControllerGetCapabilitiesResponse { capabilities: vec![can] }))
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<csi::CreateVolumeGroupSnapshotRequest>,
    ) -> Reply<csi::CreateVolumeGroupSnapshotResponse> {
        self.create_group(request.into_inner()).await.map(Response::new)
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<csi::DeleteVolumeGroupSnapshotRequest>,
    ) -> Reply<csi::DeleteVolumeGroupSnapshotResponse> {
        self.delete_group(request.into_inner()).await.map(Response::new)
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<csi::GetVolumeGroupSnapshotRequest>,
    ) -> Reply<csi::GetVolumeGroupSnapshotResponse> {
        self.get_group(request.into_inner()).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl SnapshotMetadata for Cluster {
    type GetMetadataAllocatedStream = Ranges<csi::GetMetadataAllocatedResponse>;
    type GetMetadataDeltaStream = Ranges<csi::GetMetadataDeltaResponse>;

    async fn get_metadata_allocated(
        &self,
        request: Request<csi::GetMetadataAllocatedRequest>,
    ) -> Reply<Self::GetMetadataAllocatedStream> {
        let parts = self.allocated(request.into_inner()).await?;
        let block_metadata_type = csi::BlockMetadataType::VariableLength.into();
        Ok(Response::new(Box::pin(parts.map(move |part| {
            let (volume_capacity_bytes, block_metadata) = part?;
            Ok(csi::GetMetadataAllocatedResponse { block_metadata_type, volume_capacity_bytes, block_metadata })
        }))))
    }

    async fn get_metadata_delta(
        &self,
        request: Request<csi::GetMetadataDeltaRequest>,
    ) -> Reply<Self::GetMetadataDeltaStream> {
        let parts = self.delta(request.into_inner()).await?;
        let block_metadata_type = csi::BlockMetadataType::VariableLength.into();
        Ok(Response::new(Box::pin(parts.map(move |part| {
            let (volume_capacity_bytes, block_metadata) = part?;
            Ok(csi::GetMetadataDeltaResponse { block_metadata_type, volume_capacity_bytes, block_metadata })
        }))))
    }
}
