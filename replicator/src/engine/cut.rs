//! One moment of several volumes, also with primaries on different nodes.
//!
//! ```text
//! prepare   at each holder: the epoch is held, the name is free and reserved
//! hold      at each: from its mark on, nothing above that completes
//! mark      at each, under its hold: the marks get their seqs, labelled as unconfirmed
//! release   at each: was the hold unbroken, and is the mark acknowledged?
//! confirm   all were: the label goes.     delete   one was not: the marks go
//! ```
//! A step is over everywhere before the next one begins. If the node that leads the cut dies on the way, parts stay
//! unconfirmed; they are no snapshots to anybody, and the same request again finishes or replaces them.
//!
//! Only the leader knows that all were good, and anybody may give a cut up that has no leader any more. The *first part*,
//! that of the volume with the least id, decides between them: it is confirmed before any other part, and deleted before
//! any other; one that is confirmed is not deleted as a part. So where it is confirmed all were good and the others are
//! finished, and where it is not, no other is.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::api::{Answer, Command, HoldId};
use farshore_core::codec::{DecodeError, Reader, Writer};
use farshore_core::ids::VolumeId;
use farshore_core::mark::{GroupId, Mark, SnapshotId};
use farshore_proto::v1 as api;
use prost::Message;

use super::clock::random_u128;
use super::driver::{VolumeHandle, lock};
use super::marks::{CUT_LABEL, Marker, creation, name_taken, same_request};
use super::node::Node;
use super::roles::refused;
use crate::control::validate_snapshots::parse_id;
use crate::control::{OpError, OpKind};
use crate::store::SnapshotRow;

/// A cut whose leader is not heard of any more no longer keeps its volumes from others.
const RESERVED_FOR: Duration = Duration::from_secs(10);
/// Longer than a hold lasts.
const STEP_PATIENCE: Duration = Duration::from_secs(5);
/// For marks that confirm or delete, where the epoch may have to be won first.
const FINISH_PATIENCE: Duration = Duration::from_secs(30);
const CUT_UNCONFIRMED: &str = "unconfirmed";

/// One step of a cut, for the holder of one volume's epoch.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CutStep {
    #[prost(string, tag = "1")]
    pub volume: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub labels: BTreeMap<String, String>,
    /// Of the cut, 32 hex digits.
    #[prost(string, tag = "4")]
    pub group: String,
    #[prost(bytes = "bytes", tag = "5")]
    pub hold: Bytes,
    /// Of the snapshot that is finished, 32 hex digits.
    #[prost(string, tag = "6")]
    pub snapshot: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CutAnswer {
    #[prost(bytes = "bytes", tag = "1")]
    pub hold: Bytes,
    /// The one that is there (prepare), or was made or confirmed.
    #[prost(message, optional, tag = "2")]
    pub snapshot: Option<api::Snapshot>,
    #[prost(uint64, tag = "3")]
    pub held_us: u64,
    /// Of the volume (prepare), 32 hex digits.
    #[prost(string, tag = "4")]
    pub volume_id: String,
}

/// What this node keeps for cuts that others lead.
#[derive(Default)]
pub(super) struct Cuts {
    reserved: BTreeMap<VolumeId, (GroupId, Instant)>,
    held_since: BTreeMap<VolumeId, Instant>,
}

fn put_hold(hold: HoldId) -> Bytes {
    let mut w = Writer::default();
    w.epoch(hold.epoch);
    w.u64(hold.n);
    w.finish()
}

fn get_hold(bytes: Bytes) -> Result<HoldId, OpError> {
    let read = |bytes| {
        let mut r = Reader::new("hold of a cut", bytes);
        let hold = HoldId { epoch: r.epoch()?, n: r.u64()? };
        r.end()?;
        Ok::<_, DecodeError>(hold)
    };
    read(bytes).map_err(|e| OpError::invalid("a step of a cut does not decode", "run one version").because(e))
}

fn group_of(step: &CutStep) -> Result<GroupId, OpError> {
    parse_id(&step.group)
        .filter(|id| *id != 0)
        .map(GroupId)
        .ok_or_else(|| OpError::invalid("a step of a cut names no group", "run one version"))
}

/// Which volume a step was about goes into what went wrong.
async fn each<'a, T, F>(volumes: &'a [String], step: impl Fn(usize, &'a String) -> F) -> Vec<Result<T, OpError>>
where
    F: Future<Output = Result<T, OpError>>,
{
    futures_util::future::join_all(volumes.iter().enumerate().map(|(at, volume)| step(at, volume))).await
}

fn all<T>(results: Vec<Result<T, OpError>>) -> Result<Vec<T>, OpError> {
    results.into_iter().collect()
}

impl Node {
    /// Cuts several volumes at one moment, or at none.
    pub(super) async fn cut(
        self: &Arc<Self>,
        request: api::CreateSnapshotRequest,
    ) -> Result<api::CreateSnapshotResponse, OpError> {
        let volumes = &request.volumes;
        let group = GroupId(random_u128());
        let step = |volume: &String| CutStep {
            volume: volume.clone(),
            name: request.name.clone(),
            labels: request.labels.clone(),
            group: group.to_string(),
            ..CutStep::default()
        };
        let result = async {
            let ready = |_, volume| self.cut_step("cut-prepare", step(volume), FINISH_PATIENCE);
            let ready = all(each(volumes, ready).await)?;
            let first = first_part(&ready);
            let there: Vec<Option<api::Snapshot>> = ready.into_iter().map(|answer| answer.snapshot).collect();
            if let Some(done) = self.repeated(&request, &there, first).await? {
                return Ok(api::CreateSnapshotResponse { snapshots: done, held_us: 0 });
            }
            self.cut_now(&request, &step, first).await
        }
        .await;
        // Whatever came of it: the name is free again, or taken by what was made.
        each(volumes, |_, volume| self.cut_step("cut-forget", step(volume), STEP_PATIENCE)).await;
        result
    }

    async fn cut_now(
        self: &Arc<Self>,
        request: &api::CreateSnapshotRequest,
        step: &impl Fn(&String) -> CutStep,
        first: usize,
    ) -> Result<api::CreateSnapshotResponse, OpError> {
        let volumes = &request.volumes;
        let held = each(volumes, |_, volume| self.cut_step("cut-hold", step(volume), STEP_PATIENCE)).await;
        let holds: Vec<Bytes> = held.iter().map(|h| h.as_ref().map(|a| a.hold.clone()).unwrap_or_default()).collect();
        let with_hold = |at: usize, volume: &String| CutStep { hold: holds[at].clone(), ..step(volume) };
        let held = all(held);
        let marked = match &held {
            Ok(_) => each(volumes, |at, v| self.cut_step("cut-mark", with_hold(at, v), STEP_PATIENCE)).await,
            Err(_) => Vec::new(),
        };
        let released = each(volumes, |at, volume| async move {
            if with_hold(at, volume).hold.is_empty() {
                return Ok(CutAnswer::default());
            }
            self.cut_step("cut-release", with_hold(at, volume), STEP_PATIENCE).await
        })
        .await;
        let held_us = released.iter().flatten().map(|answer| answer.held_us).max().unwrap_or(0);
        let made: Vec<String> = (0..volumes.len())
            .map(|at| {
                marked
                    .get(at)
                    .and_then(|m| m.as_ref().ok()?.snapshot.as_ref())
                    .map(|s| s.id.clone())
                    .unwrap_or_default()
            })
            .collect();
        let finish = |at: usize| CutStep { snapshot: made[at].clone(), ..step(&volumes[at]) };
        let good = held.map(drop).and_then(|()| all(marked).map(drop)).and_then(|()| all(released).map(drop));
        if let Err(error) = good {
            // Also those whose answer was lost: they are found by the group.
            let gone = self.on_first_then_others("cut-delete", volumes, first, finish).await;
            let left = gone.iter().filter(|result| result.is_err()).count();
            let left = match left {
                0 => "nothing was made".into(),
                n => format!("{n} of its parts could not be deleted, and stay unconfirmed until it is run again"),
            };
            let kind = if error.kind == OpKind::Internal { OpKind::Unavailable } else { error.kind };
            return Err(OpError::new(
                kind,
                format!("no moment of {} was cut: {}; {left}", volumes.join(", "), error.message),
                if error.remedy.is_empty() { "try again".into() } else { error.remedy.clone() },
            )
            .because(error.why));
        }
        let decided = self.cut_step("cut-confirm", finish(first), FINISH_PATIENCE).await;
        let confirmed = match decided {
            Ok(_) => all(each(volumes, |at, _| self.cut_step("cut-confirm", finish(at), FINISH_PATIENCE)).await),
            Err(error) => Err(error),
        };
        let snapshots = confirmed.map_err(|error| {
            OpError::unavailable(
                format!("the cut of {} is good, and not confirmed in all of them", volumes.join(", ")),
                "run it again, with the same name",
            )
            .because(error)
        })?;
        tracing::info!(name = request.name, volumes = volumes.join(","), held_us, "snapshots of one moment taken");
        Ok(api::CreateSnapshotResponse {
            snapshots: snapshots.into_iter().filter_map(|a| a.snapshot).collect(),
            held_us,
        })
    }

    /// Each answer in its place.
    async fn on_first_then_others(
        self: &Arc<Self>,
        method: &'static str,
        volumes: &[String],
        first: usize,
        step: impl Fn(usize) -> CutStep,
    ) -> Vec<Result<CutAnswer, OpError>> {
        let decided = self.cut_step(method, step(first), FINISH_PATIENCE).await;
        let others = each(volumes, |at, _| {
            let other = (at != first).then(|| self.cut_step(method, step(at), FINISH_PATIENCE));
            async move {
                match other {
                    Some(other) => other.await,
                    None => Ok(CutAnswer::default()),
                }
            }
        });
        let mut all = others.await;
        all[first] = decided;
        all
    }

    /// The request was made before: what came of it, finished where it was not. None: nothing of it is there any more.
    async fn repeated(
        self: &Arc<Self>,
        request: &api::CreateSnapshotRequest,
        there: &[Option<api::Snapshot>],
        first: usize,
    ) -> Result<Option<Vec<api::Snapshot>>, OpError> {
        let found: Vec<&api::Snapshot> = there.iter().flatten().collect();
        let Some(any) = found.first() else { return Ok(None) };
        let unconfirmed = |s: &api::Snapshot| s.labels.contains_key(CUT_LABEL);
        let other = |s: &&&api::Snapshot| s.group_id != any.group_id || s.group_id.is_empty();
        let step = |s: &api::Snapshot| CutStep {
            volume: s.volume_id.clone(),
            name: s.name.clone(),
            group: s.group_id.clone(),
            snapshot: s.id.clone(),
            ..CutStep::default()
        };
        let decided = there[first].as_ref();
        if found.iter().all(|s| unconfirmed(s)) {
            // The first part first: who finds it confirmed meanwhile leaves the others.
            let others = found.iter().copied().filter(|s| decided.is_none_or(|first| first.id != s.id));
            for snapshot in decided.into_iter().chain(others) {
                self.cut_step("cut-delete", step(snapshot), FINISH_PATIENCE).await?;
            }
            return Ok(None);
        }
        if found.len() < there.len() || found.iter().find(other).is_some() || decided.is_some_and(unconfirmed) {
            return Err(OpError::already_exists(
                format!("snapshot {}@{} exists, and is not of this cut", any.volume, any.name),
                "choose another name, or delete it first",
            ));
        }
        let mut done = Vec::new();
        for snapshot in found.iter().copied() {
            done.push(match unconfirmed(snapshot) {
                true => {
                    self.cut_step("cut-confirm", step(snapshot), FINISH_PATIENCE).await?.snapshot.unwrap_or_default()
                }
                false => snapshot.clone(),
            });
        }
        if done.iter().any(|s| s.labels != request.labels) {
            return Err(OpError::already_exists(
                format!("snapshot {}@{} exists, with other labels", any.volume, any.name),
                "choose another name, or delete it first",
            ));
        }
        Ok(Some(done))
    }

    /// Has a step carried out where the volume's epoch is held. `cut_step` and the steps call each other across nodes.
    pub(super) fn cut_step(
        self: &Arc<Self>,
        method: &'static str,
        step: CutStep,
        patience: Duration,
    ) -> futures_util::future::BoxFuture<'static, Result<CutAnswer, OpError>> {
        let node = self.clone();
        Box::pin(async move {
            if let Some(peer) = node.neighbour_with(&step.volume).await {
                return node.forward_within(patience, &peer, method, &step).await;
            }
            let handle = node.find(&step.volume)?;
            match node.marker(&handle).await? {
                Marker::There(peer) => {
                    let step = CutStep { volume: handle.id.to_string(), ..step };
                    node.forward_within(patience, &peer, method, &step).await
                }
                Marker::Here => node.cut_here(&handle, method, step).await,
            }
        })
    }

    async fn cut_here(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        method: &str,
        step: CutStep,
    ) -> Result<CutAnswer, OpError> {
        let group = group_of(&step)?;
        match method {
            "cut-prepare" => {
                let _turn = self.turn_to_mark(handle).await?;
                let row = self.named(handle, &step.name).await?;
                if let Some(row) = &row
                    && !row.labels.contains_key(CUT_LABEL)
                    && (row.group.is_none() || !same_request(row, &step.labels))
                {
                    return Err(name_taken(handle, row));
                }
                if row.is_none() {
                    self.refuse_without_room(handle).await?;
                }
                self.reserve(handle, group)?;
                let snapshot = row.map(|row| self.shown(handle, &row));
                Ok(CutAnswer { snapshot, volume_id: handle.id.to_string(), ..CutAnswer::default() })
            }
            "cut-hold" => {
                self.still_reserved(handle, group)?;
                match handle.ask(Command::Hold).await.map_err(refused(handle))? {
                    Answer::Held { hold } => {
                        lock(&self.cuts).held_since.insert(handle.id, Instant::now());
                        Ok(CutAnswer { hold: put_hold(hold), ..CutAnswer::default() })
                    }
                    _ => Err(OpError::internal("a hold was answered as something else")),
                }
            }
            "cut-mark" => {
                self.still_reserved(handle, group)?;
                let mut creation = creation(&step.name, &step.labels, Some(group));
                creation.labels.insert(CUT_LABEL.into(), CUT_UNCONFIRMED.into());
                let id = creation.id.to_string();
                let seq = self.mark_under(handle, Mark::Create(creation), get_hold(step.hold)?).await?;
                let snapshot = api::Snapshot { id, seq: seq.0, ..api::Snapshot::default() };
                Ok(CutAnswer { snapshot: Some(snapshot), ..CutAnswer::default() })
            }
            "cut-release" => {
                let released = handle.ask(Command::Release { hold: get_hold(step.hold)? });
                let since = lock(&self.cuts).held_since.remove(&handle.id);
                let held_us = since.map_or(0, |since| since.elapsed().as_micros() as u64);
                released.await.map_err(refused(handle))?;
                Ok(CutAnswer { held_us, ..CutAnswer::default() })
            }
            "cut-confirm" => {
                let id = self.part(handle, &step, group).await?.ok_or_else(|| OpError::no_snapshot(&step.snapshot))?;
                let confirmed = self.rewrite(handle, id, |labels, _| {
                    labels.remove(CUT_LABEL);
                    Ok(())
                });
                let row = confirmed.await?;
                Ok(CutAnswer { snapshot: Some(self.shown(handle, &row)), ..CutAnswer::default() })
            }
            "cut-delete" => {
                if let Some(id) = self.part(handle, &step, group).await? {
                    self.delete_snapshot_if(handle, id, |row| unconfirmed_part(handle, row)).await?;
                }
                Ok(CutAnswer::default())
            }
            "cut-forget" => {
                let mut cuts = lock(&self.cuts);
                if cuts.reserved.get(&handle.id).is_some_and(|(by, _)| *by == group) {
                    cuts.reserved.remove(&handle.id);
                }
                Ok(CutAnswer::default())
            }
            other => Err(OpError::unsupported(
                format!("{} does not know the step {other} of a cut", self.shared.me),
                "run the same version on all nodes",
            )),
        }
    }

    /// This volume's part of a cut, once all that is in the order is applied.
    async fn part(
        &self,
        handle: &Arc<VolumeHandle>,
        step: &CutStep,
        group: GroupId,
    ) -> Result<Option<SnapshotId>, OpError> {
        drop(self.turn_to_mark(handle).await?);
        let named = parse_id(&step.snapshot).map(SnapshotId);
        let rows = self.rows_led(handle).await?;
        let row = rows.into_iter().find(|row| row.group == Some(group) && named.is_none_or(|id| id == row.id));
        Ok(row.map(|row| row.id))
    }

    /// One cut of a volume at a time, and no other snapshot of its name meanwhile.
    fn reserve(&self, handle: &VolumeHandle, group: GroupId) -> Result<(), OpError> {
        let mut cuts = lock(&self.cuts);
        let taken =
            cuts.reserved.get(&handle.id).is_some_and(|(by, since)| *by != group && since.elapsed() < RESERVED_FOR);
        if taken {
            return Err(being_cut(handle));
        }
        cuts.reserved.insert(handle.id, (group, Instant::now()));
        Ok(())
    }

    /// Since it was prepared: the name is still free, and whoever holds the epoch now knows of it.
    fn still_reserved(&self, handle: &VolumeHandle, group: GroupId) -> Result<(), OpError> {
        let mut cuts = lock(&self.cuts);
        match cuts.reserved.get_mut(&handle.id) {
            Some((by, since)) if *by == group && since.elapsed() < RESERVED_FOR => {
                *since = Instant::now();
                Ok(())
            }
            _ => Err(OpError::unavailable(
                format!("volume {} was prepared for the cut too long ago, or at another node", handle.name()),
                "try again",
            )),
        }
    }

    /// Refuses while a cut has the volume.
    pub(super) fn refuse_being_cut(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        let cuts = lock(&self.cuts);
        match cuts.reserved.get(&handle.id) {
            Some((_, since)) if since.elapsed() < RESERVED_FOR => Err(being_cut(handle)),
            _ => Ok(()),
        }
    }
}

/// The part that decides: of the volume with the least id, wherever it stands in the request.
fn first_part(ready: &[CutAnswer]) -> usize {
    (0..ready.len()).min_by_key(|at| ready[*at].volume_id.as_str()).unwrap_or_default()
}

/// Whoever gives a cut up finds out here that it was good after all.
fn unconfirmed_part(handle: &VolumeHandle, row: &SnapshotRow) -> Result<(), OpError> {
    if row.labels.contains_key(CUT_LABEL) {
        return Ok(());
    }
    Err(OpError::unavailable(
        format!("snapshot {}@{} was confirmed meanwhile", handle.name(), row.name),
        "run the same again: it finishes the others",
    ))
}

fn being_cut(handle: &VolumeHandle) -> OpError {
    OpError::unavailable(format!("volume {} is being cut together with others", handle.name()), "try again shortly")
}

/// For the calls between nodes.
pub(super) const CUT_STEPS: [&str; 7] =
    ["cut-prepare", "cut-hold", "cut-mark", "cut-release", "cut-confirm", "cut-delete", "cut-forget"];

/// A step that another node asks for.
pub(super) async fn serve(node: &Arc<Node>, method: &str, step: CutStep) -> Result<CutAnswer, OpError> {
    let method = CUT_STEPS.into_iter().find(|known| *known == method).unwrap_or("unknown");
    node.cut_step(method, step, STEP_PATIENCE).await
}
