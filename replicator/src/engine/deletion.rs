//! Deleting a volume on all its members. Its snapshots, if it has any, stay where they are (`kept`).

use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::Seq;
use farshore_core::register::Member;
use farshore_proto::v1 as api;

use super::create::name_error;
use super::driver::VolumeHandle;
use super::marks::kept_count;
use super::node::Node;
use crate::control::{OpError, OpKind};
use crate::transport::PeerName;

/// For a member's copy to come to all marks.
const APPLY_PATIENCE: Duration = Duration::from_secs(10);
const APPLY_PAUSE: Duration = Duration::from_millis(50);
/// For a member to forget the volume.
const FORGET_PATIENCE: Duration = Duration::from_secs(20);
/// What members are asked where snapshots stay, in this order.
pub(super) const MAKE_DURABLE: &str = "make-durable";
pub(super) const FORGET_BUT_SNAPSHOTS: &str = "forget-but-snapshots";

impl Node {
    pub(super) async fn delete(self: &Arc<Self>, handle: &Arc<VolumeHandle>) -> Result<(), OpError> {
        let config = handle.config.borrow().clone();
        let name = config.volume.name.clone();
        if let Some(attached) = config.attached {
            return Err(attached_in(&name, config.site_of(attached.member)));
        }
        if let Some(reader) = self.view_with_readers(handle).await?.readers.first() {
            return Err(read_at(&name, reader));
        }
        let settled = self.settle(handle).await;
        if let Err(error) = &settled {
            // Members that an earlier deletion has reached give no epoch any more.
            tracing::debug!(volume = %name, %error, "its list of snapshots may be behind");
        }
        let keep = kept_count(&self.rows_led(handle).await?) > 0;
        // All that was asked of the snapshots: a member that is behind would keep one that was deleted.
        let all = handle.status().await.map(|status| status.applied).unwrap_or_default();
        let others: Vec<&Member> = config.members.iter().filter(|m| m.id != handle.me).collect();
        // All are asked before anything is deleted: this node may not know yet that it is attached somewhere.
        let mut left = Vec::new();
        for member in others {
            let peer = PeerName::new(&member.site, &member.node).map_err(name_error)?;
            let upto = if keep && member.kind.holds_copy() { all } else { Seq::ZERO };
            // It is gone there already: an earlier deletion was cut short.
            let Some(view) = self.applied_view_at(handle, &peer, upto).await? else { continue };
            if let Some(attached) = view.attached {
                return Err(attached_in(&name, &attached.site));
            }
            if let Some(reader) = view.readers.first() {
                return Err(read_at(&name, reader));
            }
            // Without an epoch, others' lists count as much as this one.
            left.push((peer, keep || (settled.is_err() && view.snapshots > 0)));
        }
        if keep {
            // Who is left alone by a crash has nobody who could tell it what of its log counts.
            for (peer, _) in &left {
                let request = api::GetVolumeRequest { volume: handle.id.to_string() };
                let _: api::GetVolumeResponse = self.forward(peer, MAKE_DURABLE, &request).await?;
            }
            self.make_durable().await?;
        }
        let mut failed = Vec::new();
        for (peer, keep) in left {
            let forgotten = match keep {
                true => self.ask_forget_but_snapshots(handle, &peer).await,
                false => self.ask_forget(&peer, handle.id).await,
            };
            if let Err(error) = forgotten {
                failed.push(format!("{peer} ({error})"));
            }
        }
        if !failed.is_empty() {
            return Err(OpError::unavailable(
                format!("volume {name} was not deleted everywhere: {}", failed.join(", ")),
                "run the deletion again when these nodes are back",
            ));
        }
        match keep || settled.is_err() {
            true => self.forget_but_snapshots(handle).await,
            false => self.forget(handle).await,
        }
    }

    /// What a member says of the volume, once it has applied what was acknowledged up to `upto`. None: it holds none of it.
    async fn applied_view_at(
        &self,
        handle: &VolumeHandle,
        peer: &PeerName,
        upto: Seq,
    ) -> Result<Option<api::VolumeStatus>, OpError> {
        let request = api::GetVolumeRequest { volume: handle.id.to_string() };
        let began = std::time::Instant::now();
        loop {
            let view = match self.forward::<api::GetVolumeResponse>(peer, "view", &request).await {
                Ok(answer) => answer.volume.unwrap_or_default(),
                Err(error) if error.kind == OpKind::NotFound => return Ok(None),
                Err(error) => {
                    return Err(OpError::unavailable(
                        format!("volume {} was not deleted: {peer} could not be asked", handle.name()),
                        "run the deletion when all its members are back, or take that one out with `farshore member remove`",
                    )
                    .because(error));
                }
            };
            if view.applied_seq >= upto.0 {
                return Ok(Some(view));
            }
            if began.elapsed() > APPLY_PATIENCE {
                return Err(OpError::unavailable(
                    format!("volume {} was not deleted: {peer} has not come to what its snapshots are", handle.name()),
                    "run the deletion when that copy has caught up, or take it out with `farshore member remove`",
                ));
            }
            tokio::time::sleep(APPLY_PAUSE).await;
        }
    }

    /// What is applied here survives a crash when this returns, with the catalogues of snapshots.
    pub(super) async fn make_durable(&self) -> Result<(), OpError> {
        let shared = self.shared.clone();
        let done = tokio::task::spawn_blocking(move || shared.store.checkpoint().map(drop)).await;
        done.map_err(|e| e.to_string()).and_then(|done| done.map_err(|e| e.to_string())).map_err(|error| {
            OpError::unavailable(format!("the store of {} failed", self.shared.me), "see its log").because(error)
        })
    }

    async fn ask_forget_but_snapshots(&self, handle: &VolumeHandle, peer: &PeerName) -> Result<(), OpError> {
        let request = api::DeleteVolumeRequest { volume: handle.id.to_string() };
        let asked =
            self.forward_within::<api::DeleteVolumeResponse>(FORGET_PATIENCE, peer, FORGET_BUT_SNAPSHOTS, &request);
        match asked.await {
            Err(error) if error.kind != OpKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn read_at(volume: &str, reader: &api::Attachment) -> OpError {
    OpError::failed_precondition(
        format!("volume {volume} is attached read-only at {}/{}", reader.site, reader.node),
        format!("run `farshore volume detach {volume}` there first"),
    )
}

fn attached_in(volume: &str, site: &str) -> OpError {
    OpError::failed_precondition(
        format!("volume {volume} is attached in {site}"),
        format!("run `farshore volume detach {volume}` first"),
    )
}
