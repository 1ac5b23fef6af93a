//! An unpublish in doubt. Where the register names nobody, a copy may be about to name the very node that the volume is
//! unpublished from, for a device that it is to have without a copy.
//!
//! So the node is asked first, then each copy of its site, to end what it has begun. Where one can't be asked, the epoch is
//! taken, and a label with a number of its own is written: who began to attach there before does not know it, and is refused.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::api::Change;
use farshore_core::ids::VolumeId;
use farshore_core::register::Configuration;
use farshore_proto::v1 as api;

use super::clock::random_u128;
use super::driver::VolumeHandle;
use super::holders::{HolderAnswer, HolderStep};
use super::node::Node;
use crate::control::OpError;
use crate::transport::PeerName;

/// For a node to end what is being attached there. Longer is in doubt.
const SETTLE_PATIENCE: Duration = Duration::from_secs(5);

pub(super) const SETTLE: &str = "settle-attaches";
pub(super) const END: &str = "end-in-doubt";

/// Of a volume: a node that it was unpublished from, while it was in doubt whether that was being named. With a number of its
/// own: who began to attach before it was written does not know it.
pub(super) const ENDED_LABEL: &str = "farshore.unpublished";

/// What a request to be named must know, or it is too late.
pub(super) fn refuse_ended(config: &Configuration, peer: &PeerName, known: &str) -> Result<(), OpError> {
    let ended = config.volume.labels.get(ENDED_LABEL).filter(|ended| ended.contains(&format!(" node={peer} ")));
    match ended.filter(|ended| *ended != known) {
        None => Ok(()),
        Some(_) => Err(OpError::unavailable(
            format!("volume {} was unpublished from {peer} while it was being attached there", config.volume.name),
            "publish it there anew",
        )),
    }
}

impl Node {
    /// Waits until nobody is about to be named for a device at that node of this site, if that can be known.
    pub(super) async fn is_settled(self: &Arc<Self>, handle: &Arc<VolumeHandle>, node: &str) -> bool {
        let config = handle.config.borrow().clone();
        let copies = config.members.iter().filter(|m| m.site == self.shared.me.site && m.kind.holds_copy());
        // The node first: what it asks for ends after it has begun.
        let nodes = std::iter::once(node).chain(copies.map(|m| m.node.as_str()).filter(|copy| *copy != node));
        for node in nodes {
            let Ok(peer) = PeerName::new(&self.shared.me.site, node) else { return false };
            let settled = async {
                if peer == self.shared.me {
                    self.settle_attaches(handle.id).await;
                    return true;
                }
                let request = api::GetVolumeRequest { volume: handle.id.to_string() };
                self.forward_within::<api::GetVolumeResponse>(SETTLE_PATIENCE, &peer, SETTLE, &request).await.is_ok()
            };
            if !tokio::time::timeout(SETTLE_PATIENCE, settled).await.unwrap_or(false) {
                return false;
            }
        }
        true
    }

    /// Whoever is about to name that node can't any more: a copy of this site takes the epoch, and the register says what was
    /// ended.
    pub(super) async fn end_in_doubt(self: &Arc<Self>, handle: &Arc<VolumeHandle>, node: &str) -> Result<(), OpError> {
        let mut why = match handle.applier.has_store() {
            true => match self.end_in_doubt_here(handle, node).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
            false => OpError::unavailable("no copy of this site can be asked", "try again when one answers"),
        };
        let of = format!("{}/{node}", self.shared.me.site);
        let step = HolderStep { volume: handle.id.to_string(), of, ..HolderStep::default() };
        for peer in self.copies_nearby(handle).iter().filter(|peer| peer.site == self.shared.me.site) {
            match self.forward::<HolderAnswer>(peer, END, &step).await {
                Ok(_) => return Ok(()),
                Err(error) => why = error,
            }
        }
        Err(OpError::unavailable(
            format!("whether volume {} is just being attached at {node} is not known", handle.name()),
            "try again when that node, or a copy of this site, answers",
        )
        .because(why))
    }

    pub(super) async fn end_in_doubt_here(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        node: &str,
    ) -> Result<(), OpError> {
        self.take_unattached(handle).await?;
        let value = Some(format!("1 node={}/{node} id={:016x}", self.shared.me.site, random_u128() as u64));
        self.change(handle, Change::Label { key: ENDED_LABEL.into(), value }).await?;
        tracing::info!(volume = %handle.name(), node, "it was in doubt whether it was being attached there: not any more");
        Ok(())
    }

    /// Waits until what names sessions here has ended.
    pub(super) async fn settle_attaches(&self, volume: VolumeId) {
        drop(self.attachments.forwarding.alone(volume).await);
    }
}
