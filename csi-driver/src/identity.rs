//! Who the driver is.

use std::collections::BTreeMap;

use farshore_proto::csi;
use farshore_proto::csi::identity_server::Identity;
use farshore_proto::csi::plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};
use tonic::{Request, Response, Status};

use crate::args::Mode;
use crate::names::DRIVER;
use crate::replicator::Replicator;

pub struct Who {
    pub mode: Mode,
    pub replicator: Replicator,
}

#[tonic::async_trait]
impl Identity for Who {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        let vendor_version = env!("CARGO_PKG_VERSION").into();
        Ok(Response::new(csi::GetPluginInfoResponse { name: DRIVER.into(), vendor_version, manifest: BTreeMap::new() }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let mut services = vec![service::Type::VolumeAccessibilityConstraints];
        if self.mode.controller() {
            services.extend([
                service::Type::ControllerService,
                service::Type::GroupControllerService,
                service::Type::SnapshotMetadataService,
            ]);
        }
        let services = services.into_iter().map(|kind| Type::Service(Service { r#type: kind.into() }));
        let online = Type::VolumeExpansion(VolumeExpansion { r#type: volume_expansion::Type::Online.into() });
        let capabilities = services.chain([online]).map(|kind| csi::PluginCapability { r#type: Some(kind) }).collect();
        Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities }))
    }

    /// Not ready while no replicator answers: that may take as long as it takes, and restarting us would not help.
    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        let ready = self.replicator.place().await.is_ok();
        Ok(Response::new(csi::ProbeResponse { ready: Some(ready) }))
    }
}
