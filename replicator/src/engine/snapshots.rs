//! The verbs of snapshots, each on the node that holds what it needs.

use farshore_proto::v1 as api;

use super::node::Node;
use crate::control::{OpError, OpFuture, OpStream, SnapshotOperations};

fn later<T: Send + 'static>(what: &str) -> OpFuture<'static, T> {
    let error = OpError::unsupported(format!("{what} is not supported by this version"), "update the replicator");
    Box::pin(std::future::ready(Err(error)))
}

impl SnapshotOperations for Node {
    fn create_snapshots(&self, _: api::CreateSnapshotRequest) -> OpFuture<'_, api::CreateSnapshotResponse> {
        later("making snapshots")
    }

    fn list_snapshots(&self, _: Vec<String>) -> OpFuture<'_, Vec<api::Snapshot>> {
        later("listing snapshots")
    }

    fn get_snapshot(&self, _: String) -> OpFuture<'_, api::Snapshot> {
        later("showing a snapshot")
    }

    fn delete_snapshot(&self, _: String) -> OpFuture<'_, ()> {
        later("deleting a snapshot")
    }

    fn update_snapshot(&self, _: api::UpdateSnapshotRequest) -> OpFuture<'_, api::Snapshot> {
        later("changing a snapshot")
    }

    fn restore_snapshot(&self, _: String) -> OpFuture<'_, api::RestoreSnapshotResponse> {
        later("restoring a snapshot")
    }

    fn diff(&self, _: api::DiffRequest) -> OpFuture<'_, OpStream<api::DiffResponse>> {
        later("comparing snapshots")
    }

    fn read_snapshot(&self, _: api::ReadSnapshotRequest) -> OpFuture<'_, OpStream<api::ReadSnapshotResponse>> {
        later("reading a snapshot")
    }

    fn import(&self, _: api::ImportBegin, _: OpStream<api::ImportRange>) -> OpFuture<'_, api::ImportResponse> {
        later("importing")
    }
}
