//! The gRPC services but that of snapshots: check the request, call the engine, wrap the answer. No decision is made here.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use farshore_proto::v1 as api;
use farshore_proto::v1::members_server::Members;
use farshore_proto::v1::node_server::Node;
use farshore_proto::v1::replication_server::Replication;
use farshore_proto::v1::volumes_server::Volumes;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::error::OpError;
use super::operations::Operations;
use super::validate;

/// How often a watcher is told, unless it says otherwise.
const WATCH_INTERVAL_MS_DEFAULT: u64 = 1_000;
/// Reports cost the engine something; nobody gets them more often than this.
const WATCH_INTERVAL_MS_MIN: u64 = 100;
const WATCH_INTERVAL_MS_MAX: u64 = 3_600_000;

pub(super) type Reply<T> = Result<Response<T>, Status>;

/// All services over one engine.
#[derive(Clone)]
pub struct Services {
    pub(super) operations: Arc<dyn Operations>,
    /// Turns true when the server stops; ends the watchers, which would otherwise hold it open.
    pub(super) stopping: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Volumes for Services {
    async fn create(&self, request: Request<api::CreateVolumeRequest>) -> Reply<api::CreateVolumeResponse> {
        let request = validate::create(request.into_inner())?;
        let volume = self.operations.create_volume(request).await?;
        Ok(Response::new(api::CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn list(&self, _: Request<api::ListVolumesRequest>) -> Reply<api::ListVolumesResponse> {
        let mut volumes = self.operations.list_volumes().await?;
        volumes.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
        Ok(Response::new(api::ListVolumesResponse { volumes }))
    }

    async fn get(&self, request: Request<api::GetVolumeRequest>) -> Reply<api::GetVolumeResponse> {
        let volume = request.into_inner().volume;
        validate::volume_ref(&volume)?;
        let volume = self.operations.get_volume(volume).await?;
        Ok(Response::new(api::GetVolumeResponse { volume: Some(volume) }))
    }

    async fn delete(&self, request: Request<api::DeleteVolumeRequest>) -> Reply<api::DeleteVolumeResponse> {
        let volume = request.into_inner().volume;
        validate::volume_ref(&volume)?;
        self.operations.delete_volume(volume).await?;
        Ok(Response::new(api::DeleteVolumeResponse {}))
    }

    async fn attach(&self, request: Request<api::AttachVolumeRequest>) -> Reply<api::AttachVolumeResponse> {
        let request = validate::attach(request.into_inner())?;
        Ok(Response::new(self.operations.attach_volume(request).await?))
    }

    async fn detach(&self, request: Request<api::DetachVolumeRequest>) -> Reply<api::DetachVolumeResponse> {
        let request = validate::detach(request.into_inner())?;
        let volume = self.operations.detach_volume(request).await?;
        Ok(Response::new(api::DetachVolumeResponse { volume: Some(volume) }))
    }

    async fn resize(&self, request: Request<api::ResizeVolumeRequest>) -> Reply<api::ResizeVolumeResponse> {
        let request = validate::resize(request.into_inner())?;
        let volume = self.operations.resize_volume(request).await?;
        Ok(Response::new(api::ResizeVolumeResponse { volume: Some(volume) }))
    }

    async fn set(&self, request: Request<api::SetVolumeRequest>) -> Reply<api::SetVolumeResponse> {
        let request = validate::set(request.into_inner())?;
        let volume = self.operations.set_volume(request).await?;
        Ok(Response::new(api::SetVolumeResponse { volume: Some(volume) }))
    }

    async fn losses(&self, request: Request<api::LossesRequest>) -> Reply<api::LossesResponse> {
        let volume = request.into_inner().volume;
        validate::volume_ref(&volume)?;
        Ok(Response::new(self.operations.losses(volume).await?))
    }
}

#[tonic::async_trait]
impl Members for Services {
    async fn add(&self, request: Request<api::AddMemberRequest>) -> Reply<api::AddMemberResponse> {
        let request = validate::add_member(request.into_inner())?;
        let volume = self.operations.add_member(request).await?;
        Ok(Response::new(api::AddMemberResponse { volume: Some(volume) }))
    }

    async fn remove(&self, request: Request<api::RemoveMemberRequest>) -> Reply<api::RemoveMemberResponse> {
        let request = validate::remove_member(request.into_inner())?;
        let volume = self.operations.remove_member(request).await?;
        Ok(Response::new(api::RemoveMemberResponse { volume: Some(volume) }))
    }

    async fn replace(&self, request: Request<api::ReplaceMemberRequest>) -> Reply<api::ReplaceMemberResponse> {
        let request = validate::replace_member(request.into_inner())?;
        let volume = self.operations.replace_member(request).await?;
        Ok(Response::new(api::ReplaceMemberResponse { volume: Some(volume) }))
    }
}

#[tonic::async_trait]
impl Replication for Services {
    async fn promote(&self, request: Request<api::PromoteRequest>) -> Reply<api::PromoteResponse> {
        let request = validate::promote(request.into_inner())?;
        Ok(Response::new(self.operations.promote(request).await?))
    }

    async fn demote(&self, request: Request<api::DemoteRequest>) -> Reply<api::DemoteResponse> {
        let volume = request.into_inner().volume;
        validate::volume_ref(&volume)?;
        let volume = self.operations.demote(volume).await?;
        Ok(Response::new(api::DemoteResponse { volume: Some(volume) }))
    }

    async fn switchover(&self, request: Request<api::SwitchoverRequest>) -> Reply<api::SwitchoverResponse> {
        let request = validate::switchover(request.into_inner())?;
        let volume = self.operations.switchover(request).await?;
        Ok(Response::new(api::SwitchoverResponse { volume: Some(volume) }))
    }

    async fn failover(&self, request: Request<api::FailoverRequest>) -> Reply<api::FailoverResponse> {
        let request = validate::failover(request.into_inner())?;
        let results = self.operations.failover(request).await?;
        Ok(Response::new(api::FailoverResponse { results }))
    }

    async fn resync(&self, request: Request<api::ResyncRequest>) -> Reply<api::ResyncResponse> {
        let request = validate::resync(request.into_inner())?;
        Ok(Response::new(self.operations.resync(request).await?))
    }

    async fn scrub(&self, request: Request<api::ScrubRequest>) -> Reply<api::ScrubResponse> {
        let volume = request.into_inner().volume;
        validate::volume_ref(&volume)?;
        let volume = self.operations.scrub(volume).await?;
        Ok(Response::new(api::ScrubResponse { volume: Some(volume) }))
    }

    async fn fence(&self, request: Request<api::FenceRequest>) -> Reply<api::FenceResponse> {
        let request = validate::fence(request.into_inner())?;
        let volume = self.operations.fence(request).await?;
        Ok(Response::new(api::FenceResponse { volume: Some(volume) }))
    }
}

#[tonic::async_trait]
impl Node for Services {
    async fn info(&self, _: Request<api::InfoRequest>) -> Reply<api::InfoResponse> {
        Ok(Response::new(self.operations.info().await?))
    }

    async fn status(&self, request: Request<api::StatusRequest>) -> Reply<api::StatusResponse> {
        let volumes = request.into_inner().volumes;
        volumes.iter().try_for_each(|v| validate::volume_ref(v))?;
        Ok(Response::new(self.report(volumes).await?))
    }

    type WatchStatusStream = Pin<Box<dyn Stream<Item = Result<api::StatusResponse, Status>> + Send>>;

    async fn watch_status(&self, request: Request<api::WatchStatusRequest>) -> Reply<Self::WatchStatusStream> {
        let api::WatchStatusRequest { volumes, interval_ms } = request.into_inner();
        volumes.iter().try_for_each(|v| validate::volume_ref(v))?;
        let interval_ms = match interval_ms {
            0 => WATCH_INTERVAL_MS_DEFAULT,
            ms => ms.clamp(WATCH_INTERVAL_MS_MIN, WATCH_INTERVAL_MS_MAX),
        };
        // A report that is late is skipped, never queued: a slow watcher costs one report at a time.
        let mut ticks = tokio::time::interval(Duration::from_millis(interval_ms));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping = self.stopping.clone();
        let stopped = async move {
            // An error means that the server is gone, which is the same news.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        let reports = stream::unfold((self.clone(), ticks, volumes), |(services, mut ticks, volumes)| async move {
            ticks.tick().await;
            let report = services.report(volumes.clone()).await.map_err(Status::from);
            Some((report, (services, ticks, volumes)))
        });
        Ok(Response::new(Box::pin(reports.take_until(stopped))))
    }

    async fn peers(&self, _: Request<api::PeersRequest>) -> Reply<api::PeersResponse> {
        Ok(Response::new(self.operations.peers().await?))
    }

    async fn doctor(&self, _: Request<api::DoctorRequest>) -> Reply<api::DoctorResponse> {
        Ok(Response::new(self.operations.doctor().await?))
    }
}

impl Services {
    async fn report(&self, volumes: Vec<String>) -> Result<api::StatusResponse, OpError> {
        let mut report = self.operations.status(volumes).await?;
        report.volumes.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
        Ok(report)
    }
}
