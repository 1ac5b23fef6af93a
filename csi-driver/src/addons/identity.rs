//! Which of the additional operations there are.

use std::collections::BTreeMap;

use farshore_proto::csiaddons::identity as api;
use farshore_proto::csiaddons::identity::capability::{Service, Type, VolumeReplication, service, volume_replication};
use farshore_proto::csiaddons::identity::identity_server::Identity;
use tonic::{Request, Response, Status};

use crate::args::Mode;
use crate::names::DRIVER;
use crate::replicator::Replicator;

pub struct AddonsIdentity {
    pub mode: Mode,
    pub replicator: Replicator,
}

#[tonic::async_trait]
impl Identity for AddonsIdentity {
    async fn get_identity(
        &self,
        _: Request<api::GetIdentityRequest>,
    ) -> Result<Response<api::GetIdentityResponse>, Status> {
        let vendor_version = env!("CARGO_PKG_VERSION").into();
        Ok(Response::new(api::GetIdentityResponse { name: DRIVER.into(), vendor_version, manifest: BTreeMap::new() }))
    }

    async fn get_capabilities(
        &self,
        _: Request<api::GetCapabilitiesRequest>,
    ) -> Result<Response<api::GetCapabilitiesResponse>, Status> {
        use volume_replication::Type as Can;
        let mut can = Vec::new();
        if self.mode.controller() {
            can.push(Type::Service(Service { r#type: service::Type::ControllerService.into() }));
            let replication = [Can::VolumeReplication, Can::GetReplicationDestinationInfo];
            can.extend(replication.map(|can| Type::VolumeReplication(VolumeReplication { r#type: can.into() })));
        }
        if self.mode.node() {
            can.push(Type::Service(Service { r#type: service::Type::NodeService.into() }));
        }
        let capabilities = can.into_iter().map(|can| api::Capability { r#type: Some(can) }).collect();
        Ok(Response::new(api::GetCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<api::ProbeRequest>) -> Result<Response<api::ProbeResponse>, Status> {
        let ready = self.replicator.place().await.is_ok();
        Ok(Response::new(api::ProbeResponse { ready: Some(ready) }))
    }
}
