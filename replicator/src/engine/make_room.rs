//! Room in a store that is full: the image of a snapshot that is being deleted is given up before the deletion has come to
//! that store. In the order it would come behind the very writes that need the room.
//!
//! ```text
//! holder            nobody keeps the snapshot, by all that is applied and by each mark that is not yet
//! each full store   the image goes: the snapshot is "missing" there, and the writes find room
//! holder            now all is applied: the deletion, as ever
//! ```
//! What is given up does not come back, so a deletion that is cut short here is to be asked for again.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::Seq;
use farshore_core::mark::{Mark, SnapshotId};
use farshore_core::record::Kind;
use farshore_proto::v1 as api;

use super::driver::VolumeHandle;
use super::node::Node;
use crate::control::OpError;
use crate::transport::PeerName;

/// For another copy to say whether it gave the image up.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of the records that no store has, at a time.
const READ_BYTES_MAX: usize = 4 << 20;
pub(super) const METHOD: &str = "snapshot-make-room";

impl Node {
    /// Ahead of the deletion's place in the order, at the holder of the epoch. An error without words: no store is full,
    /// or none that can be asked, so it is something else that the volume waits for.
    pub(super) async fn make_room(
        &self,
        handle: &Arc<VolumeHandle>,
        id: SnapshotId,
        last_mark: Seq,
    ) -> Result<(), Option<OpError>> {
        let status = handle.status().await.ok_or(None)?;
        // Somebody else may lead the volume by now, and know who keeps the snapshot. And a mark that only others have on
        // disk, for want of room in the journal here, can't be read.
        if status.lease_left_us.is_none_or(|left| left == 0) || last_mark > status.durable {
            return Err(None);
        }
        // Its log is in memory, and not to be looked through.
        if handle.is_diskless() {
            return Err(None);
        }
        self.refuse_marked_since(handle, id, status.applied, status.durable)?;
        let here = self.make_room_here(handle, id);
        if !self.make_room_at(self.others_with_copies(handle), handle, id).await && !here {
            return Err(None);
        }
        tracing::info!(volume = %handle.name(), snapshot = %id, "given up ahead of its deletion: a store is full");
        Ok(())
    }

    /// At copies that have not come to a deletion that is acknowledged. Does not wait for them.
    pub(super) async fn make_room_behind(&self, handle: &Arc<VolumeHandle>, id: SnapshotId, deleted: Seq) {
        self.make_room_here(handle, id);
        let Some(status) = handle.status().await else { return };
        let late = |peer: &PeerName| {
            let config = handle.config.borrow();
            let member = config.members.iter().find(|m| m.site == peer.site && m.node == peer.node).map(|m| m.id);
            status.members.iter().any(|m| Some(m.id) == member && m.heard_us_ago.is_some() && m.applied < deleted)
        };
        let late: Vec<PeerName> = self.others_with_copies(handle).into_iter().filter(late).collect();
        if let (Some(node), false) = (self.myself.upgrade(), late.is_empty()) {
            let handle = handle.clone();
            tokio::spawn(async move { node.make_room_at(late, &handle, id).await });
        }
    }

    /// For the holder of the epoch. True: the image went.
    pub(super) async fn make_room_for(&self, peer: &PeerName, handle: &VolumeHandle, id: SnapshotId) -> bool {
        let led = handle.status().await.and_then(|status| status.leader);
        let leads = led.is_some_and(|leader| super::node::is_member(handle, peer, Some(leader)));
        leads && self.make_room_here(handle, id)
    }

    fn make_room_here(&self, handle: &VolumeHandle, id: SnapshotId) -> bool {
        if handle.applier.stopped().is_none() {
            return false;
        }
        self.shared.store.give_up_image(handle.id, id).unwrap_or_else(|error| {
            tracing::warn!(volume = %handle.name(), snapshot = %id, %error, "its image could not be given up");
            false
        })
    }

    async fn make_room_at(&self, peers: Vec<PeerName>, handle: &VolumeHandle, id: SnapshotId) -> bool {
        let request = api::DeleteSnapshotRequest { snapshot: format!("{}@{id}", handle.id) };
        let asked = peers.iter().map(|peer| async {
            let answer = self.forward_within::<api::GetSnapshotResponse>(PATIENCE, peer, METHOD, &request).await;
            // What it gave up, or nothing.
            answer.is_ok_and(|answer| answer.snapshot.is_some())
        });
        futures_util::future::join_all(asked).await.contains(&true)
    }

    fn others_with_copies(&self, handle: &VolumeHandle) -> Vec<PeerName> {
        let config = handle.config.borrow();
        let with_copies = config.members.iter().filter(|m| m.kind.holds_copy());
        let named = with_copies.filter_map(|m| PeerName::new(&m.site, &m.node).ok());
        named.filter(|peer| *peer != self.shared.me).collect()
    }

    /// The catalogue is as of what is applied: what comes after that may keep the snapshot.
    fn refuse_marked_since(
        &self,
        handle: &VolumeHandle,
        id: SnapshotId,
        applied: Seq,
        durable: Seq,
    ) -> Result<(), Option<OpError>> {
        let mut from = applied.next();
        while from <= durable {
            let records = self.shared.journal.read(handle.id, from, READ_BYTES_MAX).map_err(|_| None)?;
            for record in records.iter().filter(|record| record.kind == Kind::SnapMark) {
                match Mark::decode(record.payload.clone()) {
                    Ok(Mark::Delete { .. }) => {}
                    Ok(mark) if mark.id() != id => {}
                    _ => {
                        return Err(Some(OpError::unavailable(
                            format!("snapshot {id} of volume {} is being changed", handle.name()),
                            "a store is full, so that what was asked for waits: enlarge it, or delete another snapshot",
                        )));
                    }
                }
            }
            from = records.last().ok_or(None)?.seq.next();
        }
        Ok(())
    }
}
