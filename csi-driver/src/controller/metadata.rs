//! Which parts of a snapshot hold data, and which differ between two: streams of ranges, for backup.

use std::pin::Pin;

use farshore_proto::csi;
use farshore_proto::v1 as api;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::cluster::Cluster;
use super::snapshots::no_snapshot;
use crate::refusal::{given, of_replicator};

/// A stream of whatever message carries the ranges.
pub type Ranges<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One message's worth: the size of the volume, and ranges.
pub(super) type Part = (i64, Vec<csi::BlockMetadata>);

impl Cluster {
    async fn snapshot(&self, field: &str, id: &str) -> Result<api::Snapshot, Status> {
        let id = given(field, id)?;
        self.replicator.find_snapshot(id).await?.ok_or_else(|| no_snapshot(id))
    }

    pub(super) async fn allocated(&self, request: csi::GetMetadataAllocatedRequest) -> Result<Ranges<Part>, Status> {
        let target = self.snapshot("snapshot_id", &request.snapshot_id).await?;
        self.ranges(None, &target, request.starting_offset, request.max_results).await
    }

    pub(super) async fn delta(&self, request: csi::GetMetadataDeltaRequest) -> Result<Ranges<Part>, Status> {
        let base = self.snapshot("base_snapshot_id", &request.base_snapshot_id).await?;
        let target = self.snapshot("target_snapshot_id", &request.target_snapshot_id).await?;
        if base.volume_id != target.volume_id {
            return Err(Status::invalid_argument(format!(
                "base_snapshot_id is of volume {}, target_snapshot_id of {}: name two of one volume",
                base.volume, target.volume
            )));
        }
        if base.seq > target.seq {
            return Err(Status::invalid_argument("base_snapshot_id is younger than target_snapshot_id: swap them"));
        }
        self.ranges(Some(&base), &target, request.starting_offset, request.max_results).await
    }

    async fn ranges(
        &self,
        base: Option<&api::Snapshot>,
        target: &api::Snapshot,
        starting_offset: i64,
        max_results: i32,
    ) -> Result<Ranges<Part>, Status> {
        let offset_bytes = u64::try_from(starting_offset).ok().filter(|offset| *offset < target.size_bytes);
        let Some(offset_bytes) = offset_bytes else {
            return Err(Status::out_of_range(format!(
                "starting_offset {starting_offset} is not within the {} bytes of the snapshot",
                target.size_bytes
            )));
        };
        let max_ranges = u32::try_from(max_results)
            .map_err(|_| Status::invalid_argument(format!("max_results can't be {max_results}")))?;
        for snapshot in base.into_iter().chain([target]) {
            if snapshot.state != "ready" {
                return Err(Status::failed_precondition(format!(
                    "snapshot {}@{} is {} in this site: make a full backup, or ask another site",
                    snapshot.volume, snapshot.name, snapshot.state
                )));
            }
        }
        let request = api::DiffRequest {
            since: base.map(|base| base.id.clone()).unwrap_or_default(),
            snapshot: target.id.clone(),
            offset_bytes,
            max_ranges,
        };
        let size_bytes = target.size_bytes as i64;
        let whole_image = base.is_none();
        let answers = self.replicator.snapshots().diff(request).await.map_err(of_replicator)?.into_inner();
        Ok(Box::pin(answers.map(move |answer| {
            let ranges = answer.map_err(of_replicator)?.ranges;
            // A hole is a change since a base, and nothing at all in an image.
            let wanted = ranges.iter().filter(|range| !(whole_image && range.hole));
            let blocks = wanted.map(|range| csi::BlockMetadata {
                byte_offset: range.offset_bytes as i64,
                size_bytes: range.length_bytes as i64,
            });
            Ok((size_bytes, blocks.collect()))
        })))
    }
}
