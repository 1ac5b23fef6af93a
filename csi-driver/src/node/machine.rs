//! What every call on the node uses.

use std::path::PathBuf;

use farshore_proto::v1 as api;
use tonic::Status;

use crate::args::Args;
use crate::busy::Busy;
use crate::places::NodeId;
use crate::replicator::Replicator;

#[derive(Clone)]
pub struct Machine {
    pub(super) replicator: Replicator,
    pub(super) busy: Busy,
    pub(super) max_volumes: u32,
    named: Option<NodeId>,
}

impl Machine {
    pub fn new(replicator: Replicator, args: &Args) -> Machine {
        let (named, max_volumes) = (args.node_id.clone(), args.max_volumes_per_node);
        Machine { replicator, busy: Busy::default(), max_volumes, named }
    }

    /// The one name that orchestrator and replicators know this machine by.
    pub(super) async fn place(&self) -> Result<NodeId, Status> {
        let here = self.replicator.place().await?;
        match &self.named {
            Some(named) if *named != here => Err(Status::failed_precondition(format!(
                "this node was started as {named}, and its replicator is {here}: give --node-id the replicator's name"
            ))),
            _ => Ok(here),
        }
    }

    /// The block device of a volume that is attached on this machine.
    pub(super) async fn device(&self, volume: &api::VolumeStatus) -> Result<Option<PathBuf>, Status> {
        let here = self.place().await?;
        let path = attached_at(volume, &here).and_then(|at| at.device.as_ref()).map(|device| device.path.as_str());
        Ok(path.filter(|path| !path.is_empty()).map(PathBuf::from))
    }
}

/// For writing, or as one of many that read.
pub(super) fn attached_at<'a>(volume: &'a api::VolumeStatus, here: &NodeId) -> Option<&'a api::Attachment> {
    volume.attached.iter().chain(&volume.readers).find(|at| at.site == here.site && at.node == here.node)
}
