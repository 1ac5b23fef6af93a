//! Snapshots of several volumes, cut at one moment.

use std::collections::BTreeSet;

use farshore_proto::csi;
use farshore_proto::v1 as api;
use tonic::Status;

use super::cluster::Cluster;
use super::create::farshore_name;
use super::snapshots::{described, labels, taken_at};
use crate::names::LABEL_NAME;
use crate::refusal::{given, missing};

/// What the snapshotter adds by itself.
const FROM_KUBERNETES: [&str; 3] =
    ["volumegroupsnapshot/name", "volumegroupsnapshot/namespace", "volumegroupsnapshotcontent/name"];

/// The state of a part whose cut is not known to be good.
const UNCONFIRMED: &str = "unconfirmed";

fn group(snapshots: &[api::Snapshot]) -> csi::VolumeGroupSnapshot {
    csi::VolumeGroupSnapshot {
        group_snapshot_id: snapshots.first().map(|s| s.group_id.clone()).unwrap_or_default(),
        snapshots: snapshots.iter().map(described).collect(),
        creation_time: snapshots.iter().min_by_key(|s| s.created_unix_ms).map(taken_at),
        ready_to_use: snapshots.iter().all(|s| s.state == "ready"),
    }
}

impl Cluster {
    pub(super) async fn create_group(
        &self,
        request: csi::CreateVolumeGroupSnapshotRequest,
    ) -> Result<csi::CreateVolumeGroupSnapshotResponse, Status> {
        let asked = given("name", &request.name)?.to_string();
        if request.source_volume_ids.is_empty() {
            return Err(missing("source_volume_ids"));
        }
        let wanted: BTreeSet<String> = request.source_volume_ids.iter().cloned().collect();
        if wanted.len() != request.source_volume_ids.len() {
            return Err(Status::invalid_argument("source_volume_ids names a volume twice"));
        }
        let mut labels = labels(&request.parameters, &FROM_KUBERNETES)?;
        labels.insert(LABEL_NAME.into(), asked.clone());
        let (cluster, name) = (self.clone(), farshore_name(&asked));
        let made = self
            .busy
            .alone(&format!("group {name}"), async move {
                let taken = cluster.replicator.list_snapshots(Vec::new()).await?;
                let existing: Vec<api::Snapshot> = taken
                    .into_iter()
                    .filter(|s| s.name == name && !s.group_id.is_empty() && s.labels.contains_key(LABEL_NAME))
                    .collect();
                // A cut that broke off: its parts are no snapshots, and the same request finishes or replaces them.
                let broke_off = existing.iter().any(|s| s.state == UNCONFIRMED)
                    && existing.iter().all(|s| wanted.contains(&s.volume_id));
                if !existing.is_empty() && !broke_off {
                    let held: BTreeSet<String> = existing.iter().map(|s| s.volume_id.clone()).collect();
                    return match held == wanted {
                        true => Ok(existing),
                        false => Err(Status::already_exists(format!(
                            "a group snapshot {name} exists, of other volumes: choose another name"
                        ))),
                    };
                }
                for volume in &wanted {
                    cluster.replicator.volume(volume).await?;
                }
                let volumes = wanted.into_iter().collect();
                cluster.replicator.create_snapshots(api::CreateSnapshotRequest { volumes, name, labels }).await
            })
            .await?;
        Ok(csi::CreateVolumeGroupSnapshotResponse { group_snapshot: Some(group(&made)) })
    }

    /// The group's snapshots, which must be those that the caller names, where it names any.
    async fn members(&self, group_id: &str, named: &[String]) -> Result<Vec<api::Snapshot>, Status> {
        let mut found = self.replicator.list_snapshots(Vec::new()).await?;
        found.retain(|snapshot| snapshot.group_id == group_id);
        let foreign = named.iter().find(|id| !found.iter().any(|snapshot| snapshot.id == **id));
        match foreign {
            Some(id) if !found.is_empty() => {
                Err(Status::invalid_argument(format!("snapshot {id:?} is not of group {group_id}")))
            }
            _ => Ok(found),
        }
    }

    pub(super) async fn delete_group(
        &self,
        request: csi::DeleteVolumeGroupSnapshotRequest,
    ) -> Result<csi::DeleteVolumeGroupSnapshotResponse, Status> {
        let id = given("group_snapshot_id", &request.group_snapshot_id)?.to_string();
        let (cluster, key) = (self.clone(), id.clone());
        self.busy
            .alone(&key, async move {
                for snapshot in cluster.members(&id, &request.snapshot_ids).await? {
                    cluster.replicator.delete_snapshot(&snapshot).await?;
                }
                Ok(())
            })
            .await?;
        Ok(csi::DeleteVolumeGroupSnapshotResponse {})
    }

    pub(super) async fn get_group(
        &self,
        request: csi::GetVolumeGroupSnapshotRequest,
    ) -> Result<csi::GetVolumeGroupSnapshotResponse, Status> {
        let id = given("group_snapshot_id", &request.group_snapshot_id)?;
        let members = self.members(id, &request.snapshot_ids).await?;
        if members.is_empty() {
            return Err(Status::not_found(format!("group snapshot {id:?} is not known in this site")));
        }
        Ok(csi::GetVolumeGroupSnapshotResponse { group_snapshot: Some(group(&members)) })
    }
}
