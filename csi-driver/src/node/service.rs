//! The node's service: nothing but the way from a call to what carries it out.

use farshore_proto::csi;
use farshore_proto::csi::node_server::Node;
use farshore_proto::csi::node_service_capability::{Rpc, Type, rpc::Type as Can};
use tonic::{Request, Response, Status};

use super::machine::Machine;

type Reply<T> = Result<Response<T>, Status>;

const CAN: [Can; 5] =
    [Can::StageUnstageVolume, Can::GetVolumeStats, Can::ExpandVolume, Can::VolumeCondition, Can::SingleNodeMultiWriter];

#[tonic::async_trait]
impl Node for Machine {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Reply<csi::NodeStageVolumeResponse> {
        self.stage(request.into_inner()).await.map(Response::new)
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Reply<csi::NodeUnstageVolumeResponse> {
        self.unstage(request.into_inner()).await.map(Response::new)
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Reply<csi::NodePublishVolumeResponse> {
        self.publish(request.into_inner()).await.map(Response::new)
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Reply<csi::NodeUnpublishVolumeResponse> {
        self.unpublish(request.into_inner()).await.map(Response::new)
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Reply<csi::NodeGetVolumeStatsResponse> {
        self.stats(request.into_inner()).await.map(Response::new)
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Reply<csi::NodeExpandVolumeResponse> {
        self.expand(request.into_inner()).await.map(Response::new)
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Reply<csi::NodeGetCapabilitiesResponse> {
        let capability =
            |can: &Can| csi::NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: (*can).into() })) };
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities: CAN.iter().map(capability).collect() }))
    }

    async fn node_get_info(&self, _: Request<csi::NodeGetInfoRequest>) -> Reply<csi::NodeGetInfoResponse> {
        let here = self.place().await?;
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: here.to_string(),
            max_volumes_per_node: self.max_volumes.into(),
            accessible_topology: Some(here.topology()),
        }))
    }
}
