//! The fake engine's snapshots: names, ids, holds and clones as the real one's, contents from a few bytes.

use std::collections::BTreeMap;

use farshore_proto::v1 as api;
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};

use super::error::OpError;
use super::fake::{FakeOperations, State, refuse_attached};
use super::operations::{OpFuture, OpStream, SnapshotOperations};
use super::validate_snapshots::split;

/// Of each snapshot these blocks hold something: the first one, and as many more as there were snapshots before.
const BLOCK: u64 = 4096;

pub(super) struct FakeSnapshot {
    shown: api::Snapshot,
    /// Blocks by offset; all else is zero.
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl State {
    /// A volume is deleted; its snapshots stay.
    pub(super) fn outlive(&mut self, volume: &str) {
        for snapshot in self.snapshots.iter_mut().filter(|s| s.shown.volume == volume) {
            snapshot.shown.volume_deleted = true;
        }
    }

    fn snapshot(&mut self, snapshot: &str) -> Result<&mut FakeSnapshot, OpError> {
        let named = |s: &api::Snapshot| match split(snapshot) {
            Some((volume, name)) => (s.volume == volume || s.volume_id == volume) && s.name == name,
            None => s.id == snapshot,
        };
        self.snapshots.iter_mut().find(|s| named(&s.shown)).ok_or_else(|| OpError::no_snapshot(snapshot))
    }

    /// A clone's request with what it takes from its source, and the source's name.
    pub(super) fn with_source(
        &mut self,
        mut request: api::CreateVolumeRequest,
    ) -> Result<(api::CreateVolumeRequest, String), OpError> {
        if request.members.is_empty() {
            let member = |site: &str| api::MemberSpec { site: site.into(), kind: 1, votes: 1, ..Default::default() };
            request.members = ["east", "west", "north"].map(member).to_vec();
        }
        let (size_bytes, source) = if !request.source_snapshot.is_empty() {
            let clone = request.name.clone();
            let snapshot = &mut self.snapshot(&request.source_snapshot)?.shown;
            if !snapshot.clones.contains(&clone) {
                snapshot.clones.push(clone);
            }
            (snapshot.size_bytes, format!("{}@{}", snapshot.volume, snapshot.name))
        } else if !request.source_volume.is_empty() {
            let volume = self.find(&request.source_volume)?;
            let title = match request.source_shown {
                true => format!("{} at record {}", volume.name, volume.applied_seq),
                false => format!("{}@clone-{}", volume.name, request.name),
            };
            (volume.size_bytes, title)
        } else {
            return Ok((request, String::new()));
        };
        if request.size_bytes == 0 {
            request.size_bytes = size_bytes;
        }
        if request.size_bytes < size_bytes {
            return Err(OpError::invalid(
                format!("a clone of {source} can't have {} bytes", request.size_bytes),
                format!("give at least {size_bytes}, or leave the size out"),
            ));
        }
        Ok((request, source))
    }

    fn take(
        &mut self,
        volume: &str,
        group_id: &str,
        request: &api::CreateSnapshotRequest,
    ) -> Result<api::Snapshot, OpError> {
        let drawn = self.draw();
        let volume = self.find(volume)?;
        volume.acked_seq += 1;
        volume.snapshots += 1;
        let shown = api::Snapshot {
            id: format!("{drawn:032x}"),
            name: request.name.clone(),
            volume: volume.name.clone(),
            volume_id: volume.id.clone(),
            group_id: group_id.into(),
            seq: volume.acked_seq,
            size_bytes: volume.size_bytes,
            created_unix_ms: 1_700_000_000_000 + drawn as i64 * 60_000,
            labels: request.labels.clone(),
            state: super::states::snapshot::READY.into(),
            unique_bytes: 64 << 10,
            shared_bytes: 1 << 20,
            ..Default::default()
        };
        let earlier = self.snapshots.iter().filter(|s| s.shown.volume_id == shown.volume_id).count() as u64;
        let block = |at: u64| (at * 16 * BLOCK, vec![at as u8 + 1; BLOCK as usize]);
        self.snapshots.push(FakeSnapshot { shown: shown.clone(), blocks: (0..=earlier).map(block).collect() });
        Ok(shown)
    }
}

impl SnapshotOperations for FakeOperations {
    fn create_snapshots(&self, request: api::CreateSnapshotRequest) -> OpFuture<'_, api::CreateSnapshotResponse> {
        self.run(|_, state| {
            let mut there = Vec::new();
            for volume in &request.volumes {
                let id = state.find(volume)?.id.clone();
                there.extend(
                    state
                        .snapshots
                        .iter()
                        .map(|s| &s.shown)
                        .filter(|s| s.volume_id == id && s.name == request.name)
                        .cloned(),
                );
            }
            let same = there.len() == request.volumes.len()
                && there.iter().all(|s| s.labels == request.labels && s.group_id == there[0].group_id);
            if same {
                return Ok(api::CreateSnapshotResponse { snapshots: there, held_us: 0 });
            }
            if let Some(taken) = there.first() {
                return Err(OpError::already_exists(
                    format!("snapshot {}@{} exists, and is another one", taken.volume, taken.name),
                    "choose another name, or delete it first",
                ));
            }
            let group = request.volumes.len() > 1;
            let group_id = if group { format!("{:032x}", state.draw()) } else { String::new() };
            let taken = request.volumes.iter().map(|volume| state.take(volume, &group_id, &request));
            Ok(api::CreateSnapshotResponse {
                snapshots: taken.collect::<Result<_, _>>()?,
                held_us: if group { 1_250 } else { 0 },
            })
        })
    }

    fn list_snapshots(&self, request: api::ListSnapshotsRequest) -> OpFuture<'_, Vec<api::Snapshot>> {
        self.run(|_, state| {
            let volumes = request.volumes;
            let of = |s: &FakeSnapshot, volume: &String| s.shown.volume == *volume || s.shown.volume_id == *volume;
            for volume in &volumes {
                if !state.snapshots.iter().any(|s| of(s, volume)) {
                    state.find(volume)?;
                }
            }
            let wanted = |s: &&FakeSnapshot| volumes.is_empty() || volumes.iter().any(|volume| of(s, volume));
            Ok(state.snapshots.iter().filter(wanted).map(|s| s.shown.clone()).collect())
        })
    }

    fn get_snapshot(&self, request: api::GetSnapshotRequest) -> OpFuture<'_, api::Snapshot> {
        self.run(|_, state| Ok(state.snapshot(&request.snapshot)?.shown.clone()))
    }

    fn delete_snapshot(&self, snapshot: String) -> OpFuture<'_, ()> {
        self.run(|_, state| {
            let found = &state.snapshot(&snapshot)?.shown;
            if !found.held_by.is_empty() {
                return Err(OpError::failed_precondition(
                    format!("snapshot {}@{} is needed", found.volume, found.name),
                    format!("release it first: farshore snapshot update {snapshot} --release {}", found.held_by[0]),
                )
                .because(format!("held by {}", found.held_by.join(", "))));
            }
            let id = found.id.clone();
            state.snapshots.retain(|s| s.shown.id != id);
            Ok(())
        })
    }

    fn update_snapshot(&self, request: api::UpdateSnapshotRequest) -> OpFuture<'_, api::Snapshot> {
        self.run(|_, state| {
            let shown = &mut state.snapshot(&request.snapshot)?.shown;
            shown.labels.extend(request.labels.clone());
            shown.labels.retain(|_, value| !value.is_empty());
            shown.held_by.retain(|hold| *hold != request.release && *hold != request.hold);
            shown.held_by.extend((!request.hold.is_empty()).then(|| request.hold.clone()));
            Ok(shown.clone())
        })
    }

    fn restore_snapshot(&self, snapshot: String) -> OpFuture<'_, api::RestoreSnapshotResponse> {
        self.run(|_, state| {
            let shown = state.snapshot(&snapshot)?.shown.clone();
            if shown.volume_deleted {
                return Err(OpError::failed_precondition(
                    format!("volume {} was deleted; only its snapshots are kept", shown.volume),
                    format!("make a volume of it: farshore snapshot clone {} NAME", shown.id),
                ));
            }
            let volume = state.find(&shown.volume)?;
            refuse_attached(volume, "restored")?;
            Ok(api::RestoreSnapshotResponse { volume: Some(volume.clone()), changed_bytes: 8 * BLOCK })
        })
    }

    fn diff(&self, request: api::DiffRequest) -> OpFuture<'_, OpStream<api::DiffResponse>> {
        self.run(|_, state| {
            let since = match request.since.as_str() {
                "" => None,
                since => {
                    let since = state.snapshot(since)?;
                    Some((since.shown.volume_id.clone(), since.blocks.clone()))
                }
            };
            let found = state.snapshot(&request.snapshot)?;
            if since.as_ref().is_some_and(|(volume, _)| *volume != found.shown.volume_id) {
                return Err(OpError::invalid(
                    format!("{} and {} are of two volumes", request.since, request.snapshot),
                    "compare snapshots of one volume",
                ));
            }
            let before = since.map(|(_, blocks)| blocks).unwrap_or_default();
            let changed = found.blocks.iter().filter(|(at, data)| before.get(at) != Some(data));
            let ranges = changed
                .map(|(at, _)| api::ChangedRange { offset_bytes: *at, length_bytes: BLOCK, hole: false })
                .filter(|range| range.offset_bytes >= request.offset_bytes)
                .collect();
            let answer = api::DiffResponse { ranges, size_bytes: found.shown.size_bytes };
            Ok(stream::iter([Ok(answer)]).boxed())
        })
    }

    fn read_snapshot(&self, request: api::ReadSnapshotRequest) -> OpFuture<'_, OpStream<api::ReadSnapshotResponse>> {
        self.run(|_, state| {
            let found = state.snapshot(&request.snapshot)?;
            let (from, upto) = (request.offset_bytes, request.offset_bytes + request.length_bytes);
            let zero = vec![0; BLOCK as usize];
            let pieces: Vec<_> = (from..upto)
                .step_by(BLOCK as usize)
                .map(|at| Ok(api::ReadSnapshotResponse { data: found.blocks.get(&at).unwrap_or(&zero).clone() }))
                .collect();
            Ok(stream::iter(pieces).boxed())
        })
    }

    fn import(&self, begin: api::ImportBegin, ranges: OpStream<api::ImportRange>) -> OpFuture<'_, api::ImportResponse> {
        async move {
            let ranges: Vec<_> = ranges.collect().await;
            self.run(move |_, state| {
                refuse_attached(state.find(&begin.volume)?, "imported into")?;
                let ranges = ranges.into_iter().collect::<Result<Vec<_>, _>>()?;
                let request =
                    api::CreateSnapshotRequest { name: begin.snapshot, labels: begin.labels, ..Default::default() };
                let snapshot = state.take(&begin.volume, "", &request)?;
                let mut blocks = BTreeMap::new();
                for range in &ranges {
                    for (i, block) in range.data.chunks(BLOCK as usize).enumerate() {
                        blocks.insert(range.offset_bytes + i as u64 * BLOCK, block.to_vec());
                    }
                }
                if let Some(made) = state.snapshots.last_mut() {
                    made.blocks = blocks;
                }
                let written_bytes = ranges.iter().map(|range| range.data.len() as u64).sum();
                Ok(api::ImportResponse { snapshot: Some(snapshot), written_bytes })
            })
            .await
        }
        .boxed()
    }
    fn limit_snapshots(&self, request: api::LimitSnapshotsRequest) -> OpFuture<'_, api::VolumeStatus> {
        self.run(|_, state| {
            let volume = state.find(&request.volume)?;
            volume.snapshot_held_bytes = 12 << 20;
            volume.snapshot_limit_bytes = request.bytes.max(volume.size_bytes / 100 * u64::from(request.percent));
            Ok(volume.clone())
        })
    }

    fn create_schedule(&self, request: api::CreateScheduleRequest) -> OpFuture<'_, api::Schedule> {
        self.run(|_, state| state.add_schedule(request))
    }

    fn list_schedules(&self, volumes: Vec<String>) -> OpFuture<'_, Vec<api::Schedule>> {
        self.run(|_, state| state.schedules_of(&volumes))
    }

    fn get_schedule(&self, volume: String, name: String) -> OpFuture<'_, api::Schedule> {
        self.run(|_, state| state.schedule(&volume, &name))
    }

    fn delete_schedule(&self, request: api::DeleteScheduleRequest) -> OpFuture<'_, ()> {
        self.run(|_, state| state.drop_schedule(&request.volume, &request.name))
    }
}
