//! The gRPC service of snapshots: check the request, call the engine, wrap the answer. No decision is made here.

use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use farshore_proto::v1 as api;
use farshore_proto::v1::import_request::Step;
use farshore_proto::v1::snapshots_server::Snapshots;
use futures_util::stream::{self, Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::error::OpError;
use super::moment_name::moment_name;
use super::operations::OpStream;
use super::services::{Reply, Services};
use super::{validate, validate_schedules, validate_snapshots};

type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Snapshots for Services {
    async fn create(&self, request: Request<api::CreateSnapshotRequest>) -> Reply<api::CreateSnapshotResponse> {
        let request = validate_snapshots::create(request.into_inner(), name_of_now)?;
        Ok(Response::new(self.operations.create_snapshots(request).await?))
    }

    async fn list(&self, request: Request<api::ListSnapshotsRequest>) -> Reply<api::ListSnapshotsResponse> {
        let request = request.into_inner();
        request.volumes.iter().try_for_each(|volume| validate::volume_ref(volume))?;
        let mut snapshots = self.operations.list_snapshots(request).await?;
        snapshots.sort_by(|a, b| (&a.volume, &a.volume_id, a.seq).cmp(&(&b.volume, &b.volume_id, b.seq)));
        Ok(Response::new(api::ListSnapshotsResponse { snapshots }))
    }

    async fn get(&self, request: Request<api::GetSnapshotRequest>) -> Reply<api::GetSnapshotResponse> {
        let api::GetSnapshotRequest { snapshot, with_space } = request.into_inner();
        let request = api::GetSnapshotRequest { snapshot: checked(snapshot)?, with_space };
        let snapshot = self.operations.get_snapshot(request).await?;
        Ok(Response::new(api::GetSnapshotResponse { snapshot: Some(snapshot) }))
    }

    async fn delete(&self, request: Request<api::DeleteSnapshotRequest>) -> Reply<api::DeleteSnapshotResponse> {
        self.operations.delete_snapshot(checked(request.into_inner().snapshot)?).await?;
        Ok(Response::new(api::DeleteSnapshotResponse {}))
    }

    async fn restore(&self, request: Request<api::RestoreSnapshotRequest>) -> Reply<api::RestoreSnapshotResponse> {
        let snapshot = checked(request.into_inner().snapshot)?;
        Ok(Response::new(self.operations.restore_snapshot(snapshot).await?))
    }

    async fn update(&self, request: Request<api::UpdateSnapshotRequest>) -> Reply<api::UpdateSnapshotResponse> {
        let request = validate_snapshots::update(request.into_inner())?;
        let snapshot = self.operations.update_snapshot(request).await?;
        Ok(Response::new(api::UpdateSnapshotResponse { snapshot: Some(snapshot) }))
    }

    type DiffStream = Pieces<api::DiffResponse>;

    async fn diff(&self, request: Request<api::DiffRequest>) -> Reply<Self::DiffStream> {
        let request = validate_snapshots::diff(request.into_inner())?;
        Ok(Response::new(self.until_stopped(self.operations.diff(request).await?)))
    }

    type ReadStream = Pieces<api::ReadSnapshotResponse>;

    async fn read(&self, request: Request<api::ReadSnapshotRequest>) -> Reply<Self::ReadStream> {
        let request = validate_snapshots::read(request.into_inner())?;
        Ok(Response::new(self.until_stopped(self.operations.read_snapshot(request).await?)))
    }

    async fn import(&self, request: Request<Streaming<api::ImportRequest>>) -> Reply<api::ImportResponse> {
        let mut steps = request.into_inner();
        let Some(Step::Begin(begin)) = steps.message().await?.and_then(|first| first.step) else {
            return Err(OpError::invalid("an import does not begin with what it is of", "use the same version").into());
        };
        let begin = validate_snapshots::import(begin)?;
        Ok(Response::new(self.operations.import(begin, ranges(steps)).await?))
    }

    async fn limit(&self, request: Request<api::LimitSnapshotsRequest>) -> Reply<api::LimitSnapshotsResponse> {
        let request = validate_snapshots::limit(request.into_inner())?;
        let volume = self.operations.limit_snapshots(request).await?;
        Ok(Response::new(api::LimitSnapshotsResponse { volume: Some(volume) }))
    }

    async fn create_schedule(
        &self,
        request: Request<api::CreateScheduleRequest>,
    ) -> Reply<api::CreateScheduleResponse> {
        let request = validate_schedules::create(request.into_inner())?;
        let schedule = self.operations.create_schedule(request).await?;
        Ok(Response::new(api::CreateScheduleResponse { schedule: Some(schedule) }))
    }

    async fn list_schedules(&self, request: Request<api::ListSchedulesRequest>) -> Reply<api::ListSchedulesResponse> {
        let volumes = request.into_inner().volumes;
        volumes.iter().try_for_each(|volume| validate::volume_ref(volume))?;
        let mut schedules = self.operations.list_schedules(volumes).await?;
        schedules.sort_by(|a, b| (&a.volume, &a.volume_id, &a.name).cmp(&(&b.volume, &b.volume_id, &b.name)));
        Ok(Response::new(api::ListSchedulesResponse { schedules }))
    }

    async fn get_schedule(&self, request: Request<api::GetScheduleRequest>) -> Reply<api::GetScheduleResponse> {
        let api::GetScheduleRequest { volume, name } = request.into_inner();
        validate_schedules::reference(&volume, &name)?;
        let schedule = self.operations.get_schedule(volume, name).await?;
        Ok(Response::new(api::GetScheduleResponse { schedule: Some(schedule) }))
    }

    async fn delete_schedule(
        &self,
        request: Request<api::DeleteScheduleRequest>,
    ) -> Reply<api::DeleteScheduleResponse> {
        let request = request.into_inner();
        validate_schedules::reference(&request.volume, &request.name)?;
        self.operations.delete_schedule(request).await?;
        Ok(Response::new(api::DeleteScheduleResponse {}))
    }
}

impl Services {
    /// A stream that also ends with the server, which it would otherwise hold open.
    fn until_stopped<T: Send + 'static>(&self, pieces: OpStream<T>) -> Pieces<T> {
        let mut stopping = self.stopping.clone();
        let stopped = async move {
            // An error means that the server is gone, which is the same news.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        let ending = || Status::from(OpError::unavailable("the replicator stops", "try again when it is back"));
        let pieces = pieces.map(|piece| piece.map_err(Status::from));
        // An end before the end must not look like one.
        Box::pin(
            stream::select(
                pieces.map(Some).chain(stream::iter([None])),
                stream::once(stopped).map(move |()| Some(Err(ending()))),
            )
            .take_while(|piece| std::future::ready(piece.is_some()))
            .filter_map(std::future::ready),
        )
    }
}

fn checked(snapshot: String) -> Result<String, OpError> {
    validate_snapshots::snapshot_ref(&snapshot)?;
    Ok(snapshot)
}

/// What a snapshot is called that nobody named.
fn name_of_now() -> String {
    moment_name(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The ranges of an import, checked, up to its end; one that breaks off is an error.
fn ranges(steps: Streaming<api::ImportRequest>) -> OpStream<api::ImportRange> {
    let broken = || {
        OpError::invalid("the import broke off before its end", "run it again: the volume is not finished until then")
    };
    let next = move |steps: Option<Streaming<api::ImportRequest>>| async move {
        let mut steps = steps?;
        match steps.message().await {
            Ok(Some(api::ImportRequest { step: Some(Step::Range(range)) })) => {
                let range = validate_snapshots::import_range(range);
                let rest = range.is_ok().then_some(steps);
                Some((range, rest))
            }
            Ok(Some(api::ImportRequest { step: Some(Step::End(_)) })) => None,
            Ok(_) => Some((Err(broken()), None)),
            Err(status) => Some((Err(broken().because(status.message())), None)),
        }
    };
    stream::unfold(Some(steps), next).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_name_is_a_name() {
        validate_snapshots::snapshot_name(&name_of_now()).unwrap();
    }
}
