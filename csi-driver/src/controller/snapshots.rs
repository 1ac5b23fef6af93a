//! Snapshots of one volume.

use std::collections::BTreeMap;

use farshore_proto::csi;
use farshore_proto::v1 as api;
use prost_types::Timestamp;
use tonic::Status;

use super::cluster::{Cluster, page};
use super::create::farshore_name;
use crate::names::{KUBERNETES_PREFIX, LABEL_NAME};
use crate::refusal::given;
use crate::replicator::is_id;

/// What the snapshotter adds by itself, kept as labels.
const FROM_KUBERNETES: [&str; 3] = ["volumesnapshot/name", "volumesnapshot/namespace", "volumesnapshotcontent/name"];

/// A VolumeSnapshotClass has nothing to say yet; what comes from Kubernetes becomes labels.
pub(super) fn labels(
    parameters: &BTreeMap<String, String>,
    from_kubernetes: &[&str],
) -> Result<BTreeMap<String, String>, Status> {
    for key in parameters.keys() {
        let inner = key.strip_prefix(KUBERNETES_PREFIX);
        if !inner.is_some_and(|inner| from_kubernetes.contains(&inner)) {
            return Err(Status::invalid_argument(format!(
                "parameter {key:?} is not known: a class of snapshots has no parameters; leave it out"
            )));
        }
    }
    Ok(parameters.clone())
}

pub(super) fn described(snapshot: &api::Snapshot) -> csi::Snapshot {
    csi::Snapshot {
        size_bytes: snapshot.size_bytes as i64,
        snapshot_id: snapshot.id.clone(),
        source_volume_id: snapshot.volume_id.clone(),
        creation_time: Some(taken_at(snapshot)),
        ready_to_use: snapshot.state == "ready",
        group_snapshot_id: snapshot.group_id.clone(),
    }
}

pub(super) fn taken_at(snapshot: &api::Snapshot) -> Timestamp {
    let ms = snapshot.created_unix_ms;
    Timestamp { seconds: ms.div_euclid(1000), nanos: (ms.rem_euclid(1000) * 1_000_000) as i32 }
}

impl Cluster {
    pub(super) async fn create_snapshot(
        &self,
        request: csi::CreateSnapshotRequest,
    ) -> Result<csi::CreateSnapshotResponse, Status> {
        let volume = given("source_volume_id", &request.source_volume_id)?.to_string();
        let asked = given("name", &request.name)?.to_string();
        let mut labels = labels(&request.parameters, &FROM_KUBERNETES)?;
        labels.insert(LABEL_NAME.into(), asked.clone());
        // A snapshot's name is the orchestrator's for the whole cluster, not for one volume: so is the claim to it.
        let (cluster, name) = (self.clone(), farshore_name(&asked));
        let snapshot = self
            .busy
            .alone(&format!("snapshot {name}"), async move { cluster.take(volume, name, labels).await })
            .await?;
        Ok(csi::CreateSnapshotResponse { snapshot: Some(described(&snapshot)) })
    }

    async fn take(
        &self,
        volume: String,
        name: String,
        labels: BTreeMap<String, String>,
    ) -> Result<api::Snapshot, Status> {
        let taken = self.replicator.list_snapshots(Vec::new()).await?;
        if let Some(existing) = taken.into_iter().find(|s| s.name == name && s.labels.contains_key(LABEL_NAME)) {
            if existing.volume_id == volume {
                return Ok(existing);
            }
            return Err(Status::already_exists(format!(
                "snapshot {name} exists, of volume {}: choose another name",
                existing.volume
            )));
        }
        // One that was deleted gets no more of them, though it may have some.
        self.replicator.volume(&volume).await?;
        let request = api::CreateSnapshotRequest { volumes: vec![volume], name, labels };
        let made = self.replicator.create_snapshots(request).await?;
        made.into_iter().next().ok_or_else(|| Status::internal("the replicator answered without a snapshot"))
    }

    pub(super) async fn delete_snapshot(
        &self,
        request: csi::DeleteSnapshotRequest,
    ) -> Result<csi::DeleteSnapshotResponse, Status> {
        let id = given("snapshot_id", &request.snapshot_id)?.to_string();
        let (cluster, key) = (self.clone(), id.clone());
        self.busy
            .alone(&key, async move {
                let Some(snapshot) = cluster.replicator.find_snapshot(&id).await? else { return Ok(()) };
                if !snapshot.group_id.is_empty() {
                    return Err(Status::invalid_argument(format!(
                        "snapshot {}@{} belongs to group {}: delete the group",
                        snapshot.volume, snapshot.name, snapshot.group_id
                    )));
                }
                cluster.replicator.delete_snapshot(&snapshot).await
            })
            .await?;
        Ok(csi::DeleteSnapshotResponse {})
    }

    pub(super) async fn list_snapshots(
        &self,
        request: csi::ListSnapshotsRequest,
    ) -> Result<csi::ListSnapshotsResponse, Status> {
        let mut found = if !request.snapshot_id.is_empty() {
            self.replicator.find_snapshot(&request.snapshot_id).await?.into_iter().collect()
        } else if request.source_volume_id.is_empty() {
            self.replicator.list_snapshots(Vec::new()).await?
        } else if is_id(&request.source_volume_id) {
            self.replicator.list_snapshots(vec![request.source_volume_id.clone()]).await?
        } else {
            Vec::new()
        };
        if !request.source_volume_id.is_empty() {
            found.retain(|snapshot| snapshot.volume_id == request.source_volume_id);
        }
        // Clones' own bases and what operators take by hand have no name of the orchestrator's.
        found.sort_by(|a, b| a.id.cmp(&b.id));
        let (found, next_token) = page(found, |s| &s.id, &request.starting_token, request.max_entries)?;
        let entry = |s: &api::Snapshot| csi::list_snapshots_response::Entry { snapshot: Some(described(s)) };
        Ok(csi::ListSnapshotsResponse { entries: found.iter().map(entry).collect(), next_token })
    }

    pub(super) async fn get_snapshot(
        &self,
        request: csi::GetSnapshotRequest,
    ) -> Result<csi::GetSnapshotResponse, Status> {
        let id = given("snapshot_id", &request.snapshot_id)?;
        let found = self.replicator.find_snapshot(id).await?.ok_or_else(|| no_snapshot(id))?;
        Ok(csi::GetSnapshotResponse { snapshot: Some(described(&found)) })
    }
}

pub(super) fn no_snapshot(id: &str) -> Status {
    Status::not_found(format!("snapshot {id:?} is not known in this site; list them: farshore snapshot list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_times() {
        let at = |created_unix_ms| {
            let taken = taken_at(&api::Snapshot { created_unix_ms, ..Default::default() });
            (taken.seconds, taken.nanos)
        };
        assert_eq!(at(1_500), (1, 500_000_000));
        assert_eq!(at(-1), (-1, 999_000_000));
    }

    #[test]
    fn classes_have_no_parameters_but_kubernetes_own() {
        let of = |key: &str| labels(&BTreeMap::from([(key.to_string(), "x".to_string())]), &FROM_KUBERNETES);
        assert!(of("csi.storage.k8s.io/volumesnapshot/name").is_ok());
        assert!(of("retention").unwrap_err().message().contains("retention"));
    }
}
