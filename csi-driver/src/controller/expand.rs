//! Changing a volume that is there: its size, and what a VolumeAttributesClass names.

use farshore_proto::csi;
use farshore_proto::v1 as api;
use tonic::{Code, Status};

use super::cluster::Cluster;
use super::create::overlaid;
use crate::parameters;
use crate::refusal::{given, missing};
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

    /// Only what is named changes, and what is as it should be needs no change. Replicators can't change a policy yet.
    pub(super) async fn modify(
        &self,
        request: csi::ControllerModifyVolumeRequest,
    ) -> Result<csi::ControllerModifyVolumeResponse, Status> {
        let id = given("volume_id", &request.volume_id)?;
        let wanted = parameters::read_mutable(&request.mutable_parameters)?;
        let volume = self.replicator.volume(id).await?;
        let is = volume.policy.clone().unwrap_or_default();
        let mut now = overlaid(is.clone(), wanted.policy, &request.mutable_parameters);
        if now.quorum == is.quorum && is.quorum != "numbers" {
            // Of a quorum with a name the replicator computes the numbers.
            (now.w, now.min_remote, now.local_required) = (is.w, is.min_remote, is.local_required);
        }
        if now == is {
            return Ok(csi::ControllerModifyVolumeResponse {});
        }
        let keys: Vec<&str> = request.mutable_parameters.keys().map(String::as_str).collect();
        Err(Status::invalid_argument(format!(
            "volume {} can't be given another {} in this version: make a volume with it and copy, or keep the class",
            volume.name,
            keys.join(", ")
        )))
    }
}
