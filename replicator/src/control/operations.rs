//! What the engine offers to the control plane, one function per verb.
//!
//! Requests arrive checked ([`super::validate`]): names are well-formed, defaults are filled in, enums are known.
//! Whether the volume exists and its state allows the verb is for the implementation to say. Every future may be
//! dropped at any await point (the caller hung up), so a verb that must finish runs in a task of its own.

use farshore_proto::v1 as api;
use futures_util::future::BoxFuture;

use super::error::OpError;

/// What every verb returns.
pub type OpFuture<'a, T> = BoxFuture<'a, Result<T, OpError>>;

/// Implemented by the engine, and by [`super::fake::FakeOperations`].
pub trait Operations: Send + Sync + 'static {
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
    fn resync(&self, request: api::ResyncRequest) -> OpFuture<'_, api::VolumeStatus>;
    /// Begins to verify the copy that is held here.
    fn scrub(&self, volume: String) -> OpFuture<'_, api::VolumeStatus>;

    // The node.
    fn info(&self) -> OpFuture<'_, api::InfoResponse>;
    /// `volumes` are names or ids; empty means all. An unknown one is an error.
    fn status(&self, volumes: Vec<String>) -> OpFuture<'_, api::StatusResponse>;
    fn peers(&self) -> OpFuture<'_, api::PeersResponse>;
    fn doctor(&self) -> OpFuture<'_, api::DoctorResponse>;
}
