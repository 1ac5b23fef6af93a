//! Snapshots, without any data in them.

use std::pin::Pin;

use farshore_proto::v1 as api;
use farshore_proto::v1::snapshots_server::Snapshots;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::state::{Fake, not_found, refusal};

type Reply<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A day in 2024.
const TAKEN_UNIX_MS: i64 = 1_720_000_000_500;

#[tonic::async_trait]
impl Snapshots for Fake {
    async fn create(&self, request: Request<api::CreateSnapshotRequest>) -> Reply<api::CreateSnapshotResponse> {
        let request = request.into_inner();
        self.enter(format!("snapshot {} of {}", request.name, request.volumes.len())).await?;
        let mut world = self.world();
        let group_id = if request.volumes.len() > 1 { world.draw() } else { String::new() };
        let mut snapshots = Vec::new();
        for volume in &request.volumes {
            let volume = world.find(volume)?;
            // What is left of a cut that broke off is replaced.
            world
                .snapshots
                .retain(|_, s| s.volume_id != volume.id || s.name != request.name || s.state != "unconfirmed");
            let there = world.snapshots.values().find(|s| s.volume_id == volume.id && s.name == request.name);
            if let Some(there) = there.cloned() {
                snapshots.push(there);
                continue;
            }
            let id = world.draw();
            let holders = volume.members.iter().filter(|m| m.kind() == api::MemberKind::Data);
            let snapshot = api::Snapshot {
                holders: holders.map(|m| format!("{}/{}", m.site, m.node)).collect(),
                seq: world.snapshots.len() as u64 + 1,
                id: id.clone(),
                name: request.name.clone(),
                volume: volume.name,
                volume_id: volume.id,
                group_id: group_id.clone(),
                size_bytes: volume.size_bytes,
                created_unix_ms: TAKEN_UNIX_MS,
                labels: request.labels.clone(),
                state: "ready".into(),
                ..Default::default()
            };
            world.snapshots.insert(id, snapshot.clone());
            snapshots.push(snapshot);
        }
        Ok(Response::new(api::CreateSnapshotResponse { snapshots, held_us: 0 }))
    }

    async fn list(&self, request: Request<api::ListSnapshotsRequest>) -> Reply<api::ListSnapshotsResponse> {
        let wanted = request.into_inner().volumes;
        let world = self.world();
        let named =
            |s: &&api::Snapshot| wanted.is_empty() || wanted.contains(&s.volume_id) || wanted.contains(&s.volume);
        let snapshots: Vec<api::Snapshot> = world.snapshots.values().filter(named).cloned().collect();
        let unknown = wanted.iter().find(|v| world.find(v).is_err() && !snapshots.iter().any(|s| s.volume_id == **v));
        match unknown {
            Some(volume) => Err(not_found(volume)),
            None => Ok(Response::new(api::ListSnapshotsResponse { snapshots })),
        }
    }

    async fn get(&self, request: Request<api::GetSnapshotRequest>) -> Reply<api::GetSnapshotResponse> {
        let id = request.into_inner().snapshot;
        let snapshot = self.world().snapshots.get(&id).cloned().ok_or_else(|| not_found(&id))?;
        Ok(Response::new(api::GetSnapshotResponse { snapshot: Some(snapshot) }))
    }

    async fn delete(&self, request: Request<api::DeleteSnapshotRequest>) -> Reply<api::DeleteSnapshotResponse> {
        let id = request.into_inner().snapshot;
        self.enter(format!("delete snapshot {id}")).await?;
        self.world().snapshots.remove(&id).ok_or_else(|| not_found(&id))?;
        Ok(Response::new(api::DeleteSnapshotResponse {}))
    }

    async fn restore(&self, _: Request<api::RestoreSnapshotRequest>) -> Reply<api::RestoreSnapshotResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    async fn update(&self, _: Request<api::UpdateSnapshotRequest>) -> Reply<api::UpdateSnapshotResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    async fn import(&self, _: Request<tonic::Streaming<api::ImportRequest>>) -> Reply<api::ImportResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    type DiffStream = Answers<api::DiffResponse>;

    /// Always the same three ranges, one of them a hole, so many in a message as asked for.
    async fn diff(&self, request: Request<api::DiffRequest>) -> Reply<Self::DiffStream> {
        let request = request.into_inner();
        let size_bytes = self.world().snapshots.get(&request.snapshot).map_or(0, |s| s.size_bytes);
        let ranges = [(0, 4096, false), (8192, 4096, true), (65536, 8192, false)]
            .map(|(offset_bytes, length_bytes, hole)| api::ChangedRange { offset_bytes, length_bytes, hole });
        let wanted: Vec<api::ChangedRange> =
            ranges.into_iter().filter(|r| r.offset_bytes + r.length_bytes > request.offset_bytes).collect();
        let most = if request.max_ranges == 0 { wanted.len().max(1) } else { request.max_ranges as usize };
        let parts = wanted.chunks(most).map(|part| Ok(api::DiffResponse { ranges: part.to_vec(), size_bytes }));
        let parts: Vec<Result<api::DiffResponse, Status>> = parts.collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn limit(&self, _: Request<api::LimitSnapshotsRequest>) -> Reply<api::LimitSnapshotsResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    async fn create_schedule(&self, _: Request<api::CreateScheduleRequest>) -> Reply<api::CreateScheduleResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    async fn list_schedules(&self, _: Request<api::ListSchedulesRequest>) -> Reply<api::ListSchedulesResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    async fn get_schedule(&self, _: Request<api::GetScheduleRequest>) -> Reply<api::GetScheduleResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    async fn delete_schedule(&self, _: Request<api::DeleteScheduleRequest>) -> Reply<api::DeleteScheduleResponse> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }

    type ReadStream = Answers<api::ReadSnapshotResponse>;

    async fn read(&self, _: Request<api::ReadSnapshotRequest>) -> Reply<Self::ReadStream> {
        Err(refusal(Code::Unimplemented, "unsupported", "not in the fake"))
    }
}
