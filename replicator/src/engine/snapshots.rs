//! The verbs of snapshots, each on the node that holds what it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use farshore_core::mark::SnapshotId;
use farshore_proto::v1 as api;

use super::clone::holders;
use super::driver::{VolumeHandle, lock};
use super::kept::Origin;
use super::marks::Marker;
use super::node::Node;
use super::operations::verb;
use crate::control::validate_snapshots::{labels_fit, parse_id, split};
use crate::control::{OpError, OpFuture, OpKind, OpStream, SnapshotOperations};
use crate::store::SnapshotRow;

/// Where a snapshot's volume has a copy in this site, or had one.
pub(super) enum Found {
    Here(Origin, SnapshotRow),
    /// With the node that knows it.
    Neighbour(crate::transport::PeerName),
}

/// That there is no such snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sure {
    /// By what this node and the one that leads the volume, if any, have heard.
    AsFarAsKnown,
    /// A mark that nobody has acknowledged may be in other members' logs, and come to be in the order. For whoever would
    /// say that it is deleted: the epoch is won where nobody holds it.
    Certainly,
}

impl Node {
    /// By `volume@name` or id.
    pub(super) async fn find_snapshot(self: &Arc<Self>, snapshot: &str) -> Result<Found, OpError> {
        self.find_within(snapshot, Sure::AsFarAsKnown).await
    }

    async fn find_within(self: &Arc<Self>, snapshot: &str, sure: Sure) -> Result<Found, OpError> {
        let Some((volume, name)) = split(snapshot) else { return self.snapshot_by_id(snapshot).await };
        if let Some(peer) = self.neighbour_with(volume).await {
            return Ok(Found::Neighbour(peer));
        }
        if let Some(handle) = self.catalog.find(volume) {
            let mut row = self.named(&handle, name).await?;
            if row.is_none() {
                match self.settle_as(&handle, sure).await {
                    Err(error) if sure == Sure::Certainly => return Err(error),
                    Err(error) => {
                        tracing::debug!(volume = %handle.name(), %error, "the catalogue may lack what was acknowledged last");
                    }
                    Ok(()) => {}
                }
                row = self.named(&handle, name).await?;
            }
            if let Some(row) = row {
                return Ok(Found::Here(Origin::Live(handle), row));
            }
        }
        // A volume of this name that was deleted: what is left of it is found after what there is.
        for kept in self.shared.kept.find(volume) {
            if let Some(row) = self.kept_rows(&kept).into_iter().find(|row| row.name == name) {
                return Ok(Found::Here(Origin::Deleted(kept), row));
            }
        }
        let of_volume = |found: &api::Snapshot| {
            found.name == name && [&found.volume, &found.volume_id].contains(&&volume.to_string())
        };
        if let Some(peer) = self.neighbour_with_snapshot(of_volume).await {
            return Ok(Found::Neighbour(peer));
        }
        match self.catalog.find(volume) {
            Some(_) => Err(OpError::no_snapshot(snapshot)),
            None => self.find_at_last(volume).and_then(|_| Err(OpError::no_snapshot(snapshot))),
        }
    }

    /// A neighbour that lists such a snapshot.
    async fn neighbour_with_snapshot(
        self: &Arc<Self>,
        wanted: impl Fn(&api::Snapshot) -> bool,
    ) -> Option<crate::transport::PeerName> {
        let request = api::ListSnapshotsRequest::default();
        for peer in self.neighbours() {
            let listed = self.forward::<api::ListSnapshotsResponse>(&peer, "snapshot-list", &request).await;
            match &listed {
                Ok(_) => lock(&self.unheard).remove(&peer),
                Err(_) => lock(&self.unheard).insert(peer.clone()),
            };
            if listed.is_ok_and(|listed| listed.snapshots.iter().any(&wanted)) {
                return Some(peer);
            }
        }
        None
    }

    /// After all were asked: that there is no such snapshot, or that somebody who may know of it did not say so. Else who
    /// wants it gone would take it for done.
    fn no_snapshot_known(&self, snapshot: &str, unsettled: Vec<String>) -> OpError {
        let silent = self.silent_neighbours();
        if let Some(volume) = unsettled.first() {
            return OpError::unavailable(
                format!("snapshot {snapshot:?} is not known here, and volume {volume} may have it in its last records"),
                "try again when the volume's primary, or enough of its members, can be reached",
            );
        }
        if silent.is_empty() {
            return OpError::no_snapshot(snapshot);
        }
        OpError::unavailable(
            format!("snapshot {snapshot:?} is not known here, and {} can't be asked", silent.join(", ")),
            "try again when it answers; take it out of the peers of this node's configuration if it is gone for good",
        )
    }

    async fn snapshot_by_id(self: &Arc<Self>, snapshot: &str) -> Result<Found, OpError> {
        let id = parse_id(snapshot).map(SnapshotId).ok_or_else(|| OpError::no_snapshot(snapshot))?;
        let mut unsettled = Vec::new();
        for settled in [false, true] {
            for handle in self.catalog.all() {
                if settled && !self.settle_if_nobody_leads(&handle).await {
                    unsettled.push(handle.name());
                }
                if let Ok(row) = self.row_here(&handle, id) {
                    return Ok(Found::Here(Origin::Live(handle), row));
                }
            }
            for kept in self.shared.kept.all() {
                if let Ok(row) = self.shared.store.snapshot(kept.volume, id) {
                    return Ok(Found::Here(Origin::Deleted(kept), row));
                }
            }
        }
        let found = self.neighbour_with_snapshot(|found| found.id == snapshot).await;
        found.map(Found::Neighbour).ok_or_else(|| self.no_snapshot_known(snapshot, unsettled))
    }

    /// Brings this node's catalogue to what was acknowledged before now. Without a primary a copy does not know what that
    /// is: then the node that would be one wins the epoch, without a device.
    pub(super) async fn settle(self: &Arc<Self>, handle: &Arc<VolumeHandle>) -> Result<(), OpError> {
        self.settle_as(handle, Sure::AsFarAsKnown).await
    }

    async fn settle_as(self: &Arc<Self>, handle: &Arc<VolumeHandle>, sure: Sure) -> Result<(), OpError> {
        match self.marker(handle).await? {
            Marker::Here if sure == Sure::Certainly => self.turn_to_mark(handle).await.map(drop),
            Marker::Here => self.settle_here(handle).await,
            Marker::There(peer) => {
                let request = api::GetVolumeRequest { volume: handle.id.to_string() };
                let method = if sure == Sure::Certainly { "snapshot-order" } else { "snapshot-settle" };
                let answer: api::GetVolumeResponse = self.forward(&peer, method, &request).await?;
                let there = |volume: api::VolumeStatus| volume.acked_seq.min(volume.appended_seq);
                let acked = answer.volume.map(there).unwrap_or_default();
                self.applied_upto(handle, farshore_core::ids::Seq(acked)).await;
                Ok(())
            }
        }
    }

    /// At the node that holds the epoch, or would.
    pub(super) async fn settle_here(self: &Arc<Self>, handle: &Arc<VolumeHandle>) -> Result<(), OpError> {
        let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        match status.role {
            "primary" => self.all_applied(handle).await,
            _ if status.durable > status.applied && handle.applier.has_store() => {
                self.turn_to_mark(handle).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// False: this copy's catalogue may lack what was acknowledged last.
    async fn settle_if_nobody_leads(self: &Arc<Self>, handle: &Arc<VolumeHandle>) -> bool {
        let Some(status) = handle.status().await else { return false };
        let led = status.role == "primary" || status.leader.is_some();
        if !led
            && status.durable > status.applied
            && handle.applier.has_store()
            && let Err(error) = self.settle(handle).await
        {
            tracing::debug!(volume = %handle.name(), %error, "the catalogue may lack what was acknowledged last");
            return false;
        }
        true
    }

    /// A snapshot that is held on this very node.
    pub(super) async fn snapshot_here(self: &Arc<Self>, snapshot: &str) -> Result<(Origin, SnapshotRow), OpError> {
        match self.find_snapshot(snapshot).await? {
            Found::Here(Origin::Live(handle), row) if handle.is_diskless() => {
                Err(match self.neighbour_with_copy(&handle.id.to_string()).await {
                    Some(peer) => no_image_here(self, &row.name, &peer),
                    None => OpError::unavailable("no copy of this site can be asked", "try again"),
                })
            }
            Found::Here(origin, row) => Ok((origin, row)),
            Found::Neighbour(peer) => Err(no_image_here(self, snapshot, &peer)),
        }
    }

    /// Of the volumes that this node holds, or held until they were deleted.
    pub(super) async fn snapshots_of(
        self: &Arc<Self>,
        request: &api::ListSnapshotsRequest,
    ) -> Result<Vec<api::Snapshot>, OpError> {
        let volumes = &request.volumes;
        let mut origins = Vec::new();
        if volumes.is_empty() {
            // What is here without a copy, the neighbours list.
            origins.extend(self.catalog.all().into_iter().filter(|handle| !handle.is_diskless()).map(Origin::Live));
            origins.extend(self.shared.kept.all().into_iter().map(Origin::Deleted));
        }
        for volume in volumes {
            let kept = self.shared.kept.find(volume);
            match self.catalog.find(volume) {
                None if kept.is_empty() => return self.find(volume).map(|_| Vec::new()),
                live => origins.extend(live.map(Origin::Live)),
            }
            origins.extend(kept.into_iter().map(Origin::Deleted));
        }
        let mut out = Vec::new();
        for origin in origins {
            let rows = match &origin {
                Origin::Live(handle) => {
                    self.settle_if_nobody_leads(handle).await;
                    self.rows(handle)?
                }
                Origin::Deleted(kept) => self.kept_rows(kept),
            };
            if !request.with_space {
                out.extend(rows.iter().map(|row| self.shown_from(&origin, row)));
                continue;
            }
            let (shared, volume) = (self.shared.clone(), origin.id());
            let (rows, unique) = tokio::task::spawn_blocking(move || {
                let of = |row: &SnapshotRow| shared.store.snapshot_unique_bytes(volume, row.id).unwrap_or(0);
                let unique: Vec<u64> = rows.iter().map(of).collect();
                (rows, unique)
            })
            .await
            .map_err(|e| OpError::internal("listing snapshots ended").because(e))?;
            let shown = rows.iter().zip(unique);
            out.extend(
                shown.map(|(row, unique_bytes)| api::Snapshot { unique_bytes, ..self.shown_from(&origin, row) }),
            );
        }
        Ok(out)
    }

    /// One snapshot with all that can be said of it.
    async fn shown_in_full(self: &Arc<Self>, origin: &Origin, row: &SnapshotRow) -> Result<api::Snapshot, OpError> {
        let (shared, volume, id) = (self.shared.clone(), origin.id(), row.id);
        let usage = tokio::task::spawn_blocking(move || shared.store.snapshot_usage(volume, id)).await;
        let usage = usage.map_err(|e| OpError::internal("measuring a snapshot ended").because(e))?.unwrap_or_default();
        let (unique_bytes, shared_bytes) = (usage.unique_bytes, usage.shared_bytes);
        Ok(api::Snapshot { unique_bytes, shared_bytes, ..self.shown_from(origin, row) })
    }

    fn shown_from(&self, origin: &Origin, row: &SnapshotRow) -> api::Snapshot {
        let shown = match origin {
            Origin::Live(handle) => self.shown(handle, row),
            Origin::Deleted(kept) => self.shown_kept(kept, row),
        };
        api::Snapshot { holders: origin.config(holders), ..shown }
    }

    async fn list(self: &Arc<Self>, request: api::ListSnapshotsRequest) -> Result<Vec<api::Snapshot>, OpError> {
        let api::ListSnapshotsRequest { volumes, with_space } = request.clone();
        if volumes.is_empty() {
            let mut out = self.snapshots_of(&request).await?;
            for peer in self.neighbours() {
                let listed = self.forward::<api::ListSnapshotsResponse>(&peer, "snapshot-list", &request).await;
                let more = listed.map(|listed| listed.snapshots).unwrap_or_default();
                let new: Vec<_> = more.into_iter().filter(|s| !out.iter().any(|known| known.id == s.id)).collect();
                out.extend(new);
            }
            return Ok(out);
        }
        let mut out = Vec::new();
        for volume in volumes {
            let request = api::ListSnapshotsRequest { volumes: vec![volume.clone()], with_space };
            match self.neighbour_with_copy(&volume).await {
                Some(peer) => {
                    let listed: api::ListSnapshotsResponse = self.forward(&peer, "snapshot-list", &request).await?;
                    out.extend(listed.snapshots);
                }
                None => match self.snapshots_of(&request).await {
                    // Perhaps deleted, and kept for its snapshots on another node.
                    Err(error) if error.kind == OpKind::NotFound => {
                        out.extend(self.neighbours_kept(&request, error).await?)
                    }
                    listed => out.extend(listed?),
                },
            }
        }
        Ok(out)
    }

    async fn neighbours_kept(
        self: &Arc<Self>,
        request: &api::ListSnapshotsRequest,
        unknown: OpError,
    ) -> Result<Vec<api::Snapshot>, OpError> {
        let (mut out, mut known): (Vec<api::Snapshot>, bool) = (Vec::new(), false);
        for peer in self.neighbours() {
            let listed = self.forward::<api::ListSnapshotsResponse>(&peer, "snapshot-list", request).await;
            known |= listed.is_ok();
            let more = listed.map(|listed| listed.snapshots).unwrap_or_default();
            let new: Vec<_> = more.into_iter().filter(|s| !out.iter().any(|known| known.id == s.id)).collect();
            out.extend(new);
        }
        if known { Ok(out) } else { Err(unknown) }
    }

    pub(super) async fn take_one(
        self: &Arc<Self>,
        request: &api::CreateSnapshotRequest,
    ) -> Result<api::CreateSnapshotResponse, OpError> {
        let [volume] = request.volumes.as_slice() else {
            return Err(OpError::invalid("a forwarded snapshot is of one volume", "run one version"));
        };
        if let Some(answer) = self.by_neighbour(volume, "snapshot-create", request).await? {
            return Ok(answer);
        }
        let handle = self.find(volume)?;
        let snapshot = match self.marker(&handle).await? {
            Marker::Here => self.take_snapshot(&handle, &request.name, &request.labels).await?,
            Marker::There(peer) => {
                let request = api::CreateSnapshotRequest { volumes: vec![handle.id.to_string()], ..request.clone() };
                let answer: api::CreateSnapshotResponse = self.forward(&peer, "snapshot-create", &request).await?;
                let made = answer.snapshots.into_iter().next();
                let made = made.ok_or_else(|| OpError::internal(format!("{peer} answered without a snapshot")))?;
                self.seen_here(&handle, made).await
            }
        };
        Ok(api::CreateSnapshotResponse { snapshots: vec![snapshot], held_us: 0 })
    }

    /// What another node has made, as this node's copy has it, once it has come to it.
    pub(super) async fn seen_here(self: &Arc<Self>, handle: &Arc<VolumeHandle>, made: api::Snapshot) -> api::Snapshot {
        if !handle.applier.has_store() {
            return made;
        }
        self.applied_upto(handle, farshore_core::ids::Seq(made.seq)).await;
        let row = parse_id(&made.id).and_then(|id| self.row_here(handle, SnapshotId(id)).ok());
        match row {
            Some(row) => self.shown(handle, &row),
            None => api::Snapshot { state: crate::control::states::snapshot::APPLYING.into(), ..made },
        }
    }

    async fn delete_one(self: &Arc<Self>, snapshot: String) -> Result<(), OpError> {
        let request = api::DeleteSnapshotRequest { snapshot: snapshot.clone() };
        let (handle, row) = match self.find_within(&snapshot, Sure::Certainly).await? {
            Found::Here(Origin::Live(handle), row) => (handle, row),
            Found::Here(Origin::Deleted(kept), row) => return self.delete_kept(&kept, &row).await,
            Found::Neighbour(peer) => {
                return self.forward::<api::DeleteSnapshotResponse>(&peer, "snapshot-delete", &request).await.map(drop);
            }
        };
        match self.marker(&handle).await? {
            Marker::Here => self.delete_snapshot_here(&handle, row.id).await,
            Marker::There(peer) => {
                let request = api::DeleteSnapshotRequest { snapshot: format!("{}@{}", handle.id, row.name) };
                let answer: Result<api::DeleteSnapshotResponse, _> =
                    self.forward(&peer, "snapshot-delete", &request).await;
                match answer {
                    Err(error) if error.kind != OpKind::NotFound => return Err(error),
                    // Deleted before, and this copy has not come to that.
                    _ => {}
                }
                self.until_gone(&handle, row.id).await;
                Ok(())
            }
        }
    }

    async fn update_one(self: &Arc<Self>, request: api::UpdateSnapshotRequest) -> Result<api::Snapshot, OpError> {
        let (handle, row) = match self.find_snapshot(&request.snapshot).await? {
            Found::Here(Origin::Live(handle), row) => (handle, row),
            Found::Here(Origin::Deleted(kept), mut row) => {
                rewritten(&request, &mut row.labels, &mut row.holds)?;
                self.rewrite_kept(&kept, row.clone()).await?;
                return Ok(self.shown_kept(&kept, &row));
            }
            Found::Neighbour(peer) => {
                let answer: api::UpdateSnapshotResponse = self.forward(&peer, "snapshot-update", &request).await?;
                return answer.snapshot.ok_or_else(|| OpError::internal(format!("{peer} answered without a snapshot")));
            }
        };
        match self.marker(&handle).await? {
            Marker::Here => {
                let row = self.rewrite(&handle, row.id, |labels, holds| rewritten(&request, labels, holds)).await?;
                Ok(self.shown(&handle, &row))
            }
            Marker::There(peer) => {
                let snapshot = format!("{}@{}", handle.id, row.name);
                let request = api::UpdateSnapshotRequest { snapshot, ..request };
                let answer: api::UpdateSnapshotResponse = self.forward(&peer, "snapshot-update", &request).await?;
                answer.snapshot.ok_or_else(|| OpError::internal(format!("{peer} answered without a snapshot")))
            }
        }
    }
}

fn no_image_here(node: &Node, snapshot: &str, peer: &crate::transport::PeerName) -> OpError {
    OpError::failed_precondition(format!("no copy of {snapshot} is on {}", node.shared.me), format!("run it on {peer}"))
}

/// Labels and holds as a request wants them.
fn rewritten(
    request: &api::UpdateSnapshotRequest,
    labels: &mut BTreeMap<String, String>,
    holds: &mut BTreeSet<String>,
) -> Result<(), OpError> {
    labels.extend(request.labels.clone());
    labels.retain(|_, value| !value.is_empty());
    labels_fit(labels)?;
    if !request.release.is_empty() {
        holds.remove(&request.release);
    }
    if !request.hold.is_empty() {
        holds.insert(request.hold.clone());
    }
    Ok(())
}

impl SnapshotOperations for Node {
    fn create_snapshots(&self, request: api::CreateSnapshotRequest) -> OpFuture<'_, api::CreateSnapshotResponse> {
        verb!(self, node, async move {
            match request.volumes.len() {
                1 => node.take_one(&request).await,
                _ => node.cut(request).await,
            }
        })
    }

    fn list_snapshots(&self, request: api::ListSnapshotsRequest) -> OpFuture<'_, Vec<api::Snapshot>> {
        verb!(self, node, async move { node.list(request).await })
    }

    fn get_snapshot(&self, request: api::GetSnapshotRequest) -> OpFuture<'_, api::Snapshot> {
        verb!(self, node, async move {
            match node.find_snapshot(&request.snapshot).await? {
                Found::Here(origin, row) if request.with_space => node.shown_in_full(&origin, &row).await,
                Found::Here(origin, row) => Ok(node.shown_from(&origin, &row)),
                Found::Neighbour(peer) => {
                    let answer: api::GetSnapshotResponse = node.forward(&peer, "snapshot-get", &request).await?;
                    answer.snapshot.ok_or_else(|| OpError::internal(format!("{peer} answered without a snapshot")))
                }
            }
        })
    }

    fn delete_snapshot(&self, snapshot: String) -> OpFuture<'_, ()> {
        verb!(self, node, async move { node.delete_one(snapshot).await })
    }

    fn update_snapshot(&self, request: api::UpdateSnapshotRequest) -> OpFuture<'_, api::Snapshot> {
        verb!(self, node, async move { node.update_one(request).await })
    }

    fn restore_snapshot(&self, snapshot: String) -> OpFuture<'_, api::RestoreSnapshotResponse> {
        verb!(self, node, async move { node.restore(snapshot).await })
    }

    fn diff(&self, request: api::DiffRequest) -> OpFuture<'_, OpStream<api::DiffResponse>> {
        verb!(self, node, async move { node.difference(request).await })
    }

    fn read_snapshot(&self, request: api::ReadSnapshotRequest) -> OpFuture<'_, OpStream<api::ReadSnapshotResponse>> {
        verb!(self, node, async move { node.read_image(request).await })
    }

    fn import(&self, begin: api::ImportBegin, ranges: OpStream<api::ImportRange>) -> OpFuture<'_, api::ImportResponse> {
        verb!(self, node, async move { node.import_into(begin, ranges).await })
    }

    fn limit_snapshots(&self, request: api::LimitSnapshotsRequest) -> OpFuture<'_, api::VolumeStatus> {
        verb!(self, node, async move { Node::limit_snapshots(&node, request).await })
    }

    fn create_schedule(&self, request: api::CreateScheduleRequest) -> OpFuture<'_, api::Schedule> {
        verb!(self, node, async move { node.add_schedule(request).await })
    }

    fn list_schedules(&self, volumes: Vec<String>) -> OpFuture<'_, Vec<api::Schedule>> {
        verb!(self, node, async move { node.schedules_of(volumes).await })
    }

    fn get_schedule(&self, volume: String, name: String) -> OpFuture<'_, api::Schedule> {
        verb!(self, node, async move { node.schedule(volume, name).await })
    }

    fn delete_schedule(&self, request: api::DeleteScheduleRequest) -> OpFuture<'_, ()> {
        verb!(self, node, async move { node.remove_schedule(request).await })
    }
}
