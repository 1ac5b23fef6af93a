//! How much snapshots may hold. Beyond that new ones are refused, for what they would keep is taken from live writes.
//!
//! Two bounds: the volume's own, which is a label in its register and so goes with the primary, and what this node's store
//! keeps free for writes, of all volumes (`store.snapshots_free_percent`). Both are asked where the mark would be made. What
//! a volume holds grows afterwards as well, with every overwrite: a bound refuses the next snapshot, never a write.

use std::sync::Arc;

use farshore_core::api::Change;
use farshore_core::register::Configuration;
use farshore_proto::v1 as api;

use super::driver::VolumeHandle;
use super::marks::Marker;
use super::node::Node;
use crate::config::ByteSize;
use crate::control::{OpError, OpKind};

/// Of a volume: `bytes=N` or `percent=N`, of its size.
pub(super) const LIMIT_LABEL: &str = "farshore.snapshot-limit";

/// Asks a member with a copy: is there room for a further snapshot?
pub(super) const ROOM: &str = "snapshot-room";

/// What a volume's snapshots may hold; None: as much as there is.
pub(super) fn limit_bytes(config: &Configuration) -> Option<u64> {
    let (unit, number) = config.volume.labels.get(LIMIT_LABEL)?.split_once('=')?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "bytes" => Some(number),
        "percent" => {
            let part = u128::from(config.volume.size_bytes) * u128::from(number) / 100;
            Some(u64::try_from(part).unwrap_or(u64::MAX))
        }
        _ => None,
    }
}

impl Node {
    /// Refuses a further snapshot of a volume that is led from here, where it would find no room; without a copy here, in
    /// the nearest one.
    pub(super) async fn refuse_without_room(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        if !handle.is_diskless() {
            return self.refuse_without_room_here(handle);
        }
        let Some(peer) = self.copies_nearby(handle).into_iter().next() else { return Ok(()) };
        let request = api::GetVolumeRequest { volume: handle.id.to_string() };
        self.forward::<api::GetVolumeResponse>(&peer, ROOM, &request).await.map(drop)
    }

    pub(super) fn refuse_without_room_here(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        let config = handle.config.borrow().clone();
        let name = &config.volume.name;
        // Not counted yet, just after an image was received: then the next one will be.
        let held = self.shared.store.held_bytes(handle.id);
        if let (Some(limit), Some(held)) = (limit_bytes(&config), held)
            && held >= limit
        {
            return Err(OpError::new(
                OpKind::Exhausted,
                format!("the snapshots of volume {name} hold {}, and may hold {}", ByteSize(held), ByteSize(limit)),
                format!(
                    "delete some (farshore snapshot list {name}), or let them hold more: farshore snapshot limit {name}"
                ),
            ));
        }
        let percent = self.config.store.snapshots_free_percent;
        if self.has_less_free_than(percent) {
            let space = self.shared.store.space();
            return Err(OpError::new(
                OpKind::Exhausted,
                format!(
                    "no snapshot of volume {name} can be made: the store of {} has {} of {} free, and keeps {percent} % for writes",
                    self.shared.me,
                    ByteSize(space.free_bytes),
                    ByteSize(space.capacity_bytes)
                ),
                "delete snapshots or volumes, enlarge the disk, or lower store.snapshots_free_percent",
            ));
        }
        Ok(())
    }

    fn has_less_free_than(&self, percent: u8) -> bool {
        let space = self.shared.store.space();
        u128::from(space.free_bytes) * 100 < u128::from(space.capacity_bytes) * u128::from(percent)
    }

    /// Less is free than is kept for writes, or next to nothing.
    pub(super) fn is_short_of_space(&self) -> bool {
        self.has_less_free_than(self.config.store.snapshots_free_percent.max(1))
    }

    pub(super) async fn limit_snapshots(
        self: &Arc<Self>,
        request: api::LimitSnapshotsRequest,
    ) -> Result<api::VolumeStatus, OpError> {
        let unfilled = || OpError::internal("a node answered without a volume");
        if let Some(answer) =
            self.by_neighbour::<api::LimitSnapshotsResponse>(&request.volume, "snapshot-limit", &request).await?
        {
            return answer.volume.ok_or_else(unfilled);
        }
        let handle = self.find(&request.volume)?;
        if let Marker::There(peer) = self.marker(&handle).await? {
            let request = api::LimitSnapshotsRequest { volume: handle.id.to_string(), ..request };
            let answer: api::LimitSnapshotsResponse = self.forward(&peer, "snapshot-limit", &request).await?;
            return answer.volume.ok_or_else(unfilled);
        }
        let turn = self.turn_to_mark(&handle).await?;
        let value = match (request.bytes, request.percent) {
            (0, 0) => None,
            (0, percent) => Some(format!("percent={percent}")),
            (bytes, _) => Some(format!("bytes={bytes}")),
        };
        self.change(&handle, Change::Label { key: LIMIT_LABEL.into(), value }).await?;
        drop(turn);
        self.view(&handle).await
    }

    pub(super) fn snapshots_refused(&self, handle: &VolumeHandle) -> Option<api::Condition> {
        let OpError { message, remedy, .. } = self.refuse_without_room_here(handle).err()?;
        Some(api::Condition { name: "snapshots-refused".into(), text: message, remedy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::durable;

    #[test]
    fn a_limit_is_a_number_of_bytes_or_a_part_of_the_size() {
        let limit = |text: Option<&str>| {
            let mut config = durable().config;
            config.volume.size_bytes = 1 << 30;
            config.volume.labels.extend(text.map(|text| (LIMIT_LABEL.to_string(), text.to_string())));
            limit_bytes(&config)
        };
        assert_eq!(limit(None), None);
        assert_eq!((limit(Some("bytes=4096")), limit(Some("percent=50"))), (Some(4096), Some(1 << 29)));
        assert_eq!(limit(Some("percent=18446744073709551615")), Some(u64::MAX), "no more than can be counted");
        for bad in ["", "bytes", "bytes=", "bytes=-1", "blocks=1"] {
            assert_eq!(limit(Some(bad)), None, "{bad}");
        }
    }
}
