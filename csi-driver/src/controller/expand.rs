//! Changing a volume that is there: its size, and what a VolumeAttributesClass names.

use std::collections::BTreeMap;

use farshore_proto::csi;
use farshore_proto::v1 as api;
use tonic::{Code, Status};

use super::cluster::Cluster;
use crate::parameters;
use crate::refusal::{given, missing, no_volume};
use crate::replicator::is_id;
use crate::sizes;

impl Cluster {
    pub(super) async fn expand(
        &self,
        request: csi::ControllerExpandVolumeRequest,
    ) -> Result<csi::ControllerExpandVolumeResponse, Status> {
        let id = given("volume_id", &request.volume_id)?.to_string();
        let range = sizes::range(Some(request.capacity_range.as_ref().ok_or_else(|| missing("capacity_range"))?))?;
        if range.required == 0 && range.limit == u64::MAX {
            return Err(missing("capacity_range.required_bytes"));
        }
        let (cluster, key) = (self.clone(), id.clone());
        let size = self.busy.alone(&key, async move { cluster.grow(&id, range).await }).await?;
        // For a filesystem to grow, and for a block device to show its size.
        Ok(csi::ControllerExpandVolumeResponse { capacity_bytes: size as i64, node_expansion_required: true })
    }

    async fn grow(&self, id: &str, range: sizes::Range) -> Result<u64, Status> {
        let volume = self.replicator.volume(id).await?;
        if range.fits(volume.size_bytes) {
            return Ok(volume.size_bytes);
        }
        if volume.size_bytes > range.limit {
            return Err(Status::out_of_range(format!(
                "volume {} has {} bytes, more than the limit of {}, and volumes never shrink",
                volume.name, volume.size_bytes, range.limit
            )));
        }
        if volume.read_only {
            return Err(Status::invalid_argument(format!(
                "volume {} was made to be read on many nodes, and keeps its size: make a larger one of it",
                volume.name
            )));
        }
        let size = range.choose(0)?;
        match self.replicator.resize(id, size).await {
            // Nobody has the right to write, so nobody could change the register: this site takes it, if it is its.
            Err(status) if status.code() == Code::FailedPrecondition && self.is_idle_here(&volume).await? => {
                self.replicator.promote(id).await?;
                self.replicator.resize(id, size).await?;
            }
            other => drop(other?),
        }
        Ok(size)
    }

    async fn is_idle_here(&self, volume: &api::VolumeStatus) -> Result<bool, Status> {
        let here = self.replicator.place().await?.site;
        Ok(volume.attached.is_none() && (volume.primary_site.is_empty() || volume.primary_site == here))
    }

    /// Only what is named changes; what is as it should be needs no change.
    pub(super) async fn modify(
        &self,
        request: csi::ControllerModifyVolumeRequest,
    ) -> Result<csi::ControllerModifyVolumeResponse, Status> {
        let id = given("volume_id", &request.volume_id)?.to_string();
        let named = request.mutable_parameters;
        let wanted = parameters::read_mutable(&named)?.policy;
        if !is_id(&id) {
            return Err(no_volume(&id));
        }
        let (cluster, key) = (self.clone(), id.clone());
        self.busy.alone(&key, async move { cluster.set(id, &named, wanted).await }).await?;
        Ok(csi::ControllerModifyVolumeResponse {})
    }

    async fn set(&self, id: String, named: &BTreeMap<String, String>, wanted: api::Policy) -> Result<(), Status> {
        let volume = self.replicator.volume(&id).await?;
        if named.is_empty() {
            return Ok(());
        }
        let mut request = api::SetVolumeRequest { volume: id, ..Default::default() };
        if named.contains_key("quorum") {
            request.quorum = wanted.quorum.clone();
            (request.w, request.min_remote) = (wanted.w, wanted.min_remote);
            request.local_required = wanted.local_required;
        }
        if named.contains_key("durability") {
            request.durability = wanted.durability;
        }
        if named.contains_key("onQuorumLoss") {
            (request.on_quorum_loss, request.fence_after_ms) = (wanted.on_quorum_loss, wanted.fence_after_ms);
        }
        request.iops = named.contains_key("iops").then_some(wanted.iops);
        request.bytes_per_second = named.contains_key("bandwidth").then_some(wanted.bytes_per_second);
        if named.contains_key("mode") {
            (request.mode, request.rpo_ms) = (wanted.mode, wanted.rpo_ms);
            request.max_commit_latency_ms = wanted.max_commit_latency_ms;
            request.max_lag_bytes = wanted.max_lag_bytes;
        }
        if named.contains_key("fallback") {
            request.fallback_after_ms = Some(wanted.fallback_after_ms);
        }
        if named.contains_key("promoteObserver") {
            request.promote_observer_after_ms = Some(wanted.promote_observer_after_ms);
        }
        let keys: Vec<&str> = named.keys().map(String::as_str).collect();
        self.replicator.set(request).await?;
        tracing::info!(volume = %volume.name, changed = keys.join(", "), "the class is in effect");
        Ok(())
    }
}
