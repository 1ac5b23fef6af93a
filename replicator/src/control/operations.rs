//! What the engine offers to the control plane, one function per verb.
//!
//! Requests arrive checked ([`super::validate`]): names are well-formed, defaults are filled in, enums are known.
//! Whether the volume exists and its state allows the verb is for the implementation to say. Every future may be
//! dropped at any await point (the caller hung up), so a verb that must finish runs in a task of its own.

use farshore_proto::v1 as api;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::error::OpError;

/// What every verb returns.
pub type OpFuture<'a, T> = BoxFuture<'a, Result<T, OpError>>;

/// What verbs return, or take, bit by bit. It ends after its first error.
pub type OpStream<T> = BoxStream<'static, Result<T, OpError>>;

/// Moments of volumes. `snapshot` is `volume@name` or an id of 32 hex digits.
pub trait SnapshotOperations: Send + Sync + 'static {
    /// The names are known here; a snapshot of the same name that was asked for before is answered with, not made twice.
    fn create_snapshots(&self, request: api::CreateSnapshotRequest) -> OpFuture<'_, api::CreateSnapshotResponse>;
    /// By volume, then by seq. `volumes` are names or ids; empty means all. An unknown one is an error.
    fn list_snapshots(&self, request: api::ListSnapshotsRequest) -> OpFuture<'_, Vec<api::Snapshot>>;
    fn get_snapshot(&self, request: api::GetSnapshotRequest) -> OpFuture<'_, api::Snapshot>;
    fn delete_snapshot(&self, snapshot: String) -> OpFuture<'_, ()>;
    fn update_snapshot(&self, request: api::UpdateSnapshotRequest) -> OpFuture<'_, api::Snapshot>;
    fn restore_snapshot(&self, snapshot: String) -> OpFuture<'_, api::RestoreSnapshotResponse>;
    fn diff(&self, request: api::DiffRequest) -> OpFuture<'_, OpStream<api::DiffResponse>>;
    fn read_snapshot(&self, request: api::ReadSnapshotRequest) -> OpFuture<'_, OpStream<api::ReadSnapshotResponse>>;
    /// `ranges` ends with an error where the caller broke off before the end.
    fn import(&self, begin: api::ImportBegin, ranges: OpStream<api::ImportRange>) -> OpFuture<'_, api::ImportResponse>;
    /// Neither bytes nor percent: no limit.
    fn limit_snapshots(&self, request: api::LimitSnapshotsRequest) -> OpFuture<'_, api::VolumeStatus>;

    // Those that are made at an interval.
    fn create_schedule(&self, request: api::CreateScheduleRequest) -> OpFuture<'_, api::Schedule>;
    /// `volumes` as for [`SnapshotOperations::list_snapshots`].
    fn list_schedules(&self, volumes: Vec<String>) -> OpFuture<'_, Vec<api::Schedule>>;
    fn get_schedule(&self, volume: String, name: String) -> OpFuture<'_, api::Schedule>;
    fn delete_schedule(&self, request: api::DeleteScheduleRequest) -> OpFuture<'_, ()>;
}

/// Implemented by the engine, and by [`super::fake::FakeOperations`].
pub trait Operations: SnapshotOperations {
    // The volumes of this site.
    fn create_volume(&self, request: api::CreateVolumeRequest) -> OpFuture<'_, api::VolumeStatus>;
    /// Every volume that this site holds a member of, on whatever node.
    fn list_volumes(&self) -> OpFuture<'_, Vec<api::VolumeStatus>>;
    /// `volume` is a name or an id, here and everywhere.
    fn get_volume(&self, volume: String) -> OpFuture<'_, api::VolumeStatus>;
    fn delete_volume(&self, volume: String) -> OpFuture<'_, ()>;
    fn attach_volume(&self, request: api::AttachVolumeRequest) -> OpFuture<'_, api::AttachVolumeResponse>;
    fn detach_volume(&self, request: api::DetachVolumeRequest) -> OpFuture<'_, api::VolumeStatus>;
    fn resize_volume(&self, request: api::ResizeVolumeRequest) -> OpFuture<'_, api::VolumeStatus>;
    fn set_volume(&self, request: api::SetVolumeRequest) -> OpFuture<'_, api::VolumeStatus>;
    /// What the loss of each site would have cost, as this node remembers it.
    fn losses(&self, volume: String) -> OpFuture<'_, api::LossesResponse>;

    // Their members.
    fn add_member(&self, request: api::AddMemberRequest) -> OpFuture<'_, api::VolumeStatus>;
    fn remove_member(&self, request: api::RemoveMemberRequest) -> OpFuture<'_, api::VolumeStatus>;
    fn replace_member(&self, request: api::ReplaceMemberRequest) -> OpFuture<'_, api::VolumeStatus>;

    // The right to write.
    /// With `force` and without `confirm` nothing is changed and only the plan is returned.
    fn promote(&self, request: api::PromoteRequest) -> OpFuture<'_, api::PromoteResponse>;
    fn demote(&self, volume: String) -> OpFuture<'_, api::VolumeStatus>;
    fn switchover(&self, request: api::SwitchoverRequest) -> OpFuture<'_, api::VolumeStatus>;
    /// One result per volume; an error of the whole only when not even the list could be made.
    fn failover(&self, request: api::FailoverRequest) -> OpFuture<'_, Vec<api::VolumeResult>>;
    fn resync(&self, request: api::ResyncRequest) -> OpFuture<'_, api::ResyncResponse>;
    /// Keeps a site from being the primary's, or lifts that.
    fn fence(&self, request: api::FenceRequest) -> OpFuture<'_, api::VolumeStatus>;
    /// Begins to verify the copy that is held here.
    fn scrub(&self, volume: String) -> OpFuture<'_, api::VolumeStatus>;

    // The node.
    fn info(&self) -> OpFuture<'_, api::InfoResponse>;
    /// `volumes` are names or ids; empty means all. An unknown one is an error.
    fn status(&self, volumes: Vec<String>) -> OpFuture<'_, api::StatusResponse>;
    fn peers(&self) -> OpFuture<'_, api::PeersResponse>;
    fn doctor(&self) -> OpFuture<'_, api::DoctorResponse>;
}
