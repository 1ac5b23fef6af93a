//! Clones of what a copy shows, without a snapshot: where no mark can be put into the volume's order, or none would arrive,
//! for the copy is shipped on a schedule. The image is pinned until the clone's store holds it by itself; the copy goes on
//! meanwhile, with records and shipments alike.

use std::sync::Arc;

use farshore_core::ids::{Seq, VolumeId};
use farshore_proto::v1 as api;

use super::clock::random_u128;
use super::driver::VolumeHandle;
use super::node::Node;
use super::refill::unfinished_error;
use crate::control::{OpError, OpKind};
use crate::store::{Pin, StoreError};

const PIN_PREFIX: &str = "shown-";

/// Of a clone that was being made, or is.
pub(super) fn is_shown_pin(name: &str) -> bool {
    name.starts_with(PIN_PREFIX)
}

impl Node {
    /// Pins the image that this node's copy shows, for a clone on this node alone: nobody else has the same one.
    pub(super) async fn pin_shown(
        self: &Arc<Self>,
        parent: &Arc<VolumeHandle>,
        request: &api::CreateVolumeRequest,
    ) -> Result<Pin, OpError> {
        let (name, me) = (parent.name(), &self.shared.me);
        if !matches!(request.members.as_slice(), [only] if only.site == me.site && only.node == me.node) {
            return Err(OpError::invalid(
                format!("{} would begin with what {me} shows of volume {name}, and have other members", request.name),
                format!("name {me} alone; others can be added to the clone as members afterwards"),
            ));
        }
        if !parent.applier.has_store() {
            return Err(OpError::failed_precondition(
                format!("{me} holds no copy of volume {name}"),
                "run it on a node that does; `farshore volume show` names the members",
            ));
        }
        if let Some(guard) = self.unfinished(parent).await? {
            return Err(unfinished_error(parent, &guard));
        }
        let status = parent.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        if status.applied == Seq::ZERO {
            return Err(OpError::unavailable(
                format!("the copy of volume {name} on {me} has no image yet"),
                "try again when its first one has come: see `farshore status`",
            ));
        }
        if !parent.applier.is_whole(status.durable) {
            return Err(OpError::unavailable(
                format!("what {me} had applied of volume {name} before its restart is not whole yet"),
                "it is once a primary says what was acknowledged; clone a snapshot until then",
            ));
        }
        let pin = format!("{PIN_PREFIX}{:032x}", random_u128());
        let (shared, volume, pinned) = (self.shared.clone(), parent.id, pin.clone());
        let found = tokio::task::spawn_blocking(move || {
            shared.store.pin(volume, &pinned)?;
            let pins = shared.store.pins(volume)?;
            let found = pins.into_iter().find(|found| found.name == pinned);
            found.ok_or(StoreError::NoPin { volume, name: pinned })
        });
        found.await.map_err(|e| OpError::internal("pinning an image ended").because(e))?.map_err(|error| {
            OpError::new(OpKind::Unavailable, format!("the image of volume {name} can't be pinned"), "see its log")
                .because(error)
        })
    }

    /// The clone holds it by itself, or was not made.
    pub(super) async fn unpin_shown(&self, volume: VolumeId, pin: &str) {
        let (shared, name) = (self.shared.clone(), pin.to_string());
        let unpinned = tokio::task::spawn_blocking(move || shared.store.unpin(volume, &name)).await;
        if let Ok(Err(error)) = unpinned {
            tracing::warn!(%volume, pin, %error, "the image that a clone was made of stays pinned until the next start");
        }
    }
}
