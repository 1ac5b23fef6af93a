//! Marks in a volume's order: how a snapshot is made, changed and deleted, at the holder of the epoch.
//!
//! The name of a snapshot is what makes a request that is repeated the same request. So names are looked up where
//! nothing can come between the look and the mark: one mark of a volume at a time, with all that is in the order
//! before it applied. What was asked for and is not acknowledged yet is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use farshore_core::api::{Answer, Command, HoldId, Promotion};
use farshore_core::ids::{Seq, VolumeId};
use farshore_core::mark::{Creation, GroupId, Mark, SnapshotId};
use farshore_proto::v1 as api;
use tokio::sync::OwnedMutexGuard;

use super::clock::{random_u128, unix_ms};
use super::clone::MOMENT_LABEL;
use super::driver::{VolumeHandle, lock};
use super::node::Node;
use super::roles::refused;
use crate::control::{OpError, OpKind, states};
use crate::store::{SnapshotRow, SnapshotState};
use crate::transport::PeerName;

/// For a mark to be acknowledged; it goes on when our patience ends.
const MARK_PATIENCE: Duration = Duration::from_secs(15);
/// For another mark of the same volume, and for what the order holds to be applied.
const TURN_PATIENCE: Duration = Duration::from_secs(15);
/// For this node's copy to come to a mark that is acknowledged.
const APPLIED_PATIENCE: Duration = Duration::from_secs(3);
const APPLIED_PAUSE: Duration = Duration::from_millis(5);

/// Of a part of a cut over several volumes, until all of it is known to be one moment.
pub(super) const CUT_LABEL: &str = "farshore.cut";
/// Of what a volume held before a restore or an import, until that is finished.
pub(super) const UNFINISHED_LABEL: &str = "farshore.unfinished";

/// Where a volume's marks are made.
pub(super) enum Marker {
    Here,
    There(PeerName),
}

/// The right to put the next mark into a volume's order, and where the last one was put by this node.
pub(super) type Turn = OwnedMutexGuard<Seq>;

impl Node {
    /// The node that holds the epoch, or would: this one, or the one to ask.
    pub(super) async fn marker(&self, handle: &VolumeHandle) -> Result<Marker, OpError> {
        match self.elsewhere(handle).await? {
            None => Ok(Marker::Here),
            Some(peer) if peer == self.shared.me => Ok(Marker::Here),
            Some(peer) => Ok(Marker::There(peer)),
        }
    }

    /// Nobody else marks this volume while the turn is kept; the epoch is held here, and the catalogue is that of all
    /// that is in the order. Promotes, without a device, where nobody holds the epoch.
    pub(super) async fn turn_to_mark(&self, handle: &Arc<VolumeHandle>) -> Result<Turn, OpError> {
        let turn = self.turn_to_lead(handle).await?;
        self.all_applied(handle).await?;
        Ok(turn)
    }

    /// Nobody else marks this volume while the turn is kept; the epoch is held here.
    async fn turn_to_lead(&self, handle: &Arc<VolumeHandle>) -> Result<Turn, OpError> {
        let turn = self.next_turn(handle).await?;
        let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        if status.role != "primary" {
            self.promote_here(handle, Promotion::Verb).await?;
        }
        Ok(turn)
    }

    /// As [`Node::turn_to_mark`], for whoever does something only as long as the epoch is held here.
    pub(super) async fn turn_of_holder(&self, handle: &Arc<VolumeHandle>) -> Result<Turn, OpError> {
        let turn = self.next_turn(handle).await?;
        if handle.status().await.is_none_or(|status| status.role != "primary") {
            return Err(OpError::conflict(
                format!("volume {} is no longer led by {}", handle.name(), self.shared.me),
                "the node that leads it now goes on",
            ));
        }
        self.all_applied(handle).await?;
        Ok(turn)
    }

    async fn next_turn(&self, handle: &Arc<VolumeHandle>) -> Result<Turn, OpError> {
        let name = handle.name();
        if !handle.applier.has_store() && !handle.is_diskless() {
            return Err(OpError::failed_precondition(
                format!("{} holds no copy of volume {name}, so it can't tell its snapshots", self.shared.me),
                "run it where a copy is; `farshore volume show` names the members",
            ));
        }
        let turns = lock(&self.marking).entry(handle.id).or_default().clone();
        tokio::time::timeout(TURN_PATIENCE, turns.lock_owned()).await.map_err(|_| {
            OpError::unavailable(
                format!("another snapshot of volume {name} is still on its way"),
                "see `farshore status` for what it waits for, then try again",
            )
        })
    }

    /// Waits until everything that is in the order now is in this node's store.
    pub(super) async fn all_applied(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        self.all_applied_within(handle, TURN_PATIENCE).await
    }

    async fn all_applied_within(&self, handle: &VolumeHandle, patience: Duration) -> Result<(), OpError> {
        let appended = handle.status().await.map(|status| status.appended).unwrap_or_default();
        if reached(handle, patience, |applied| applied >= appended).await {
            return Ok(());
        }
        let name = handle.name();
        Err(match handle.applier.stopped() {
            Some(why) => {
                let (what, then) = ("writes that are not in the store", "mend what stops it, then try again");
                OpError::unavailable(format!("volume {name} has {what} of {} yet", self.shared.me), then).because(why)
            }
            None => OpError::unavailable(
                format!("volume {name} has writes that are not acknowledged yet"),
                "see `farshore status` for what it waits for, then try again",
            ),
        })
    }

    /// Puts a mark into the order; answers when it is acknowledged. The turn is kept until it is known what became of
    /// the mark, also when the caller no longer waits.
    pub(super) async fn mark(&self, handle: &Arc<VolumeHandle>, mark: Mark, mut turn: Turn) -> Result<Seq, OpError> {
        let (marked, name) = (handle.clone(), handle.name());
        let answer = tokio::spawn(async move {
            let answer = marked.ask(Command::Mark { mark, under: None }).await;
            if let Ok(Answer::Marked { seq }) = &answer {
                *turn = *seq;
            }
            answer
        });
        match tokio::time::timeout(MARK_PATIENCE, answer).await {
            Ok(Ok(Ok(Answer::Marked { seq }))) => Ok(seq),
            Ok(Ok(Err(refusal))) => Err(refused(handle)(refusal)),
            Ok(Ok(Ok(_))) => Err(OpError::internal("a mark was answered as something else")),
            Ok(Err(error)) => Err(OpError::internal("the mark's task ended").because(error)),
            Err(_) => Err(OpError::unavailable(
                format!("the mark in volume {name} is not acknowledged yet"),
                "run the same again: it is not done twice",
            )),
        }
    }

    /// A mark under a hold: answered when it has its place.
    pub(super) async fn mark_under(&self, handle: &VolumeHandle, mark: Mark, hold: HoldId) -> Result<Seq, OpError> {
        match handle.ask(Command::Mark { mark, under: Some(hold) }).await {
            Ok(Answer::Marked { seq }) => Ok(seq),
            Ok(_) => Err(OpError::internal("a mark was answered as something else")),
            Err(refusal) => Err(refused(handle)(refusal)),
        }
    }

    pub(super) fn rows(&self, handle: &VolumeHandle) -> Result<Vec<SnapshotRow>, OpError> {
        if !handle.applier.has_store() {
            return Ok(Vec::new());
        }
        self.shared.store.snapshots(handle.id).map_err(|error| {
            OpError::unavailable(format!("the snapshots of volume {} can't be read", handle.name()), "try again")
                .because(error)
        })
    }

    /// As [`Node::rows`]; where this node leads the volume without a copy, as a member has them.
    pub(super) async fn rows_led(&self, handle: &VolumeHandle) -> Result<Vec<SnapshotRow>, OpError> {
        if handle.is_diskless() { self.catalogue_there(handle).await } else { self.rows(handle) }
    }

    pub(super) async fn named(&self, handle: &VolumeHandle, name: &str) -> Result<Option<SnapshotRow>, OpError> {
        Ok(self.rows_led(handle).await?.into_iter().find(|row| row.name == name))
    }

    pub(super) async fn row(&self, handle: &VolumeHandle, id: SnapshotId) -> Result<SnapshotRow, OpError> {
        if !handle.is_diskless() {
            return self.row_here(handle, id);
        }
        let found = self.rows_led(handle).await?.into_iter().find(|row| row.id == id);
        found.ok_or_else(|| OpError::no_snapshot(&id.to_string()))
    }

    pub(super) fn row_here(&self, handle: &VolumeHandle, id: SnapshotId) -> Result<SnapshotRow, OpError> {
        let found = self.shared.store.snapshot(handle.id, id).ok();
        found.ok_or_else(|| OpError::no_snapshot(&id.to_string()))
    }

    /// Makes a snapshot of one volume, or finds the one that was asked for before. The epoch is held here.
    pub(super) async fn take_snapshot(
        &self,
        handle: &Arc<VolumeHandle>,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<api::Snapshot, OpError> {
        let turn = self.turn_to_mark(handle).await?;
        self.refuse_being_cut(handle)?;
        if let Some(row) = self.named(handle, name).await? {
            return match same_request(&row, labels) && row.group.is_none() {
                true => Ok(self.shown(handle, &row)),
                false => Err(name_taken(handle, &row)),
            };
        }
        if !labels.contains_key(UNFINISHED_LABEL) {
            self.refuse_without_room(handle).await?;
        }
        let creation = creation(name, labels, None);
        let id = creation.id;
        let seq = self.mark(handle, Mark::Create(creation.clone()), turn).await?;
        self.applied_upto(handle, seq).await;
        tracing::info!(volume = %handle.name(), snapshot = name, %id, %seq, "snapshot taken");
        Ok(match self.row(handle, id).await {
            Ok(row) => self.shown(handle, &row),
            Err(_) => self.on_its_way(handle, &creation, seq),
        })
    }

    /// Waits a moment for this node's copy to come to a deletion that another node has marked.
    pub(super) async fn until_gone(&self, handle: &VolumeHandle, id: SnapshotId) {
        reached(handle, APPLIED_PATIENCE, |_| self.row_here(handle, id).is_err()).await;
    }

    /// Waits a moment for this node's copy to come to an acknowledged seq, so that whoever asks next sees it.
    pub(super) async fn applied_upto(&self, handle: &VolumeHandle, seq: Seq) -> bool {
        reached(handle, APPLIED_PATIENCE, |applied| applied >= seq).await
    }

    pub(super) async fn delete_snapshot_here(&self, handle: &Arc<VolumeHandle>, id: SnapshotId) -> Result<(), OpError> {
        self.delete_snapshot_if(handle, id, |_| Ok(())).await
    }

    /// If it is, as of the moment of the deletion, as the caller thinks.
    pub(super) async fn delete_snapshot_if(
        &self,
        handle: &Arc<VolumeHandle>,
        id: SnapshotId,
        check: impl Fn(&SnapshotRow) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let turn = self.turn_to_lead(handle).await?;
        if let Err(refusal) = self.all_applied_within(handle, APPLIED_PATIENCE).await {
            let row = self.row(handle, id).await?;
            check(&row)?;
            self.refuse_needed(handle, &row)?;
            self.make_room(handle, id, *turn).await.map_err(|none| none.unwrap_or(refusal))?;
            self.all_applied(handle).await?;
        }
        check(&self.row(handle, id).await?)?;
        self.delete_in_turn(handle, id, turn).await
    }

    fn refuse_needed(&self, handle: &VolumeHandle, row: &SnapshotRow) -> Result<(), OpError> {
        refuse_held(&format!("{}@{}", handle.name(), row.name), row)
    }

    pub(super) async fn delete_in_turn(
        &self,
        handle: &Arc<VolumeHandle>,
        id: SnapshotId,
        turn: Turn,
    ) -> Result<(), OpError> {
        let row = self.row(handle, id).await?;
        self.refuse_needed(handle, &row)?;
        let seq = self.mark(handle, Mark::Delete { id }, turn).await?;
        self.make_room_behind(handle, id, seq).await;
        self.applied_upto(handle, seq).await;
        tracing::info!(volume = %handle.name(), snapshot = row.name, %id, "snapshot deleted");
        Ok(())
    }

    /// Changes labels and holds of a snapshot, whatever they are now.
    pub(super) async fn rewrite(
        &self,
        handle: &Arc<VolumeHandle>,
        id: SnapshotId,
        change: impl FnOnce(&mut BTreeMap<String, String>, &mut BTreeSet<String>) -> Result<(), OpError>,
    ) -> Result<SnapshotRow, OpError> {
        let turn = self.turn_to_mark(handle).await?;
        let row = self.row(handle, id).await?;
        let (mut labels, mut holds) = (row.labels.clone(), row.holds.clone());
        change(&mut labels, &mut holds)?;
        if labels == row.labels && holds == row.holds {
            return Ok(row);
        }
        let mark = Mark::Update { id, labels: labels.clone(), holds: holds.clone() };
        let seq = self.mark(handle, mark, turn).await?;
        self.applied_upto(handle, seq).await;
        Ok(SnapshotRow { labels, holds, ..row })
    }

    pub(super) fn shown(&self, handle: &VolumeHandle, row: &SnapshotRow) -> api::Snapshot {
        self.shown_of(&handle.name(), handle.id, row)
    }

    pub(super) fn shown_of(&self, volume: &str, id: VolumeId, row: &SnapshotRow) -> api::Snapshot {
        let state = match row.state {
            SnapshotState::Missing => states::snapshot::MISSING,
            SnapshotState::Ready if row.labels.contains_key(CUT_LABEL) => states::snapshot::UNCONFIRMED,
            SnapshotState::Ready => states::snapshot::READY,
        };
        api::Snapshot {
            id: row.id.to_string(),
            name: row.name.clone(),
            volume: volume.into(),
            volume_id: id.to_string(),
            group_id: row.group.map(|group| group.to_string()).unwrap_or_default(),
            seq: row.seq.0,
            size_bytes: row.size_bytes,
            created_unix_ms: row.created_unix_ms,
            labels: row.labels.clone(),
            state: state.into(),
            held_by: row.holds.iter().cloned().collect(),
            clones: self.clones_of(row.id),
            ..api::Snapshot::default()
        }
    }

    fn on_its_way(&self, handle: &VolumeHandle, creation: &Creation, seq: Seq) -> api::Snapshot {
        api::Snapshot {
            id: creation.id.to_string(),
            name: creation.name.clone(),
            volume: handle.name(),
            volume_id: handle.id.to_string(),
            seq: seq.0,
            size_bytes: handle.config.borrow().volume.size_bytes,
            created_unix_ms: creation.created_unix_ms,
            labels: creation.labels.clone(),
            state: states::snapshot::APPLYING.into(),
            ..api::Snapshot::default()
        }
    }
}

async fn reached(handle: &VolumeHandle, patience: Duration, there: impl Fn(Seq) -> bool) -> bool {
    let looked = async {
        while let Some(status) = handle.status().await {
            if there(status.applied) {
                return true;
            }
            tokio::time::sleep(APPLIED_PAUSE).await;
        }
        false
    };
    tokio::time::timeout(patience, looked).await.unwrap_or(false)
}

pub(super) fn creation(name: &str, labels: &BTreeMap<String, String>, group: Option<GroupId>) -> Creation {
    Creation {
        id: SnapshotId(random_u128()),
        group,
        created_unix_ms: unix_ms(),
        // The core fills it in, as of the mark's place.
        size_bytes: 0,
        name: name.into(),
        labels: labels.clone(),
    }
}

/// Those that somebody asked for: parts of a cut that failed, guards of work that is not finished, and what was taken for
/// a clone are not.
pub(super) fn kept_count(rows: &[SnapshotRow]) -> u32 {
    const OWN: [&str; 3] = [CUT_LABEL, UNFINISHED_LABEL, MOMENT_LABEL];
    let own = |row: &&SnapshotRow| OWN.iter().any(|label| row.labels.contains_key(*label));
    rows.iter().filter(|row| !own(row)).count() as u32
}

/// Was this what was asked for? The replicator's own labels come and go.
pub(super) fn same_request(row: &SnapshotRow, labels: &BTreeMap<String, String>) -> bool {
    let users = |labels: &BTreeMap<String, String>| -> Vec<(String, String)> {
        let own = crate::control::validate_snapshots::RESERVED_LABELS;
        labels.iter().filter(|(key, _)| !key.starts_with(own)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    users(&row.labels) == users(labels)
}

pub(super) fn name_taken(handle: &VolumeHandle, row: &SnapshotRow) -> OpError {
    let name = format!("{}@{}", handle.name(), row.name);
    let what = if row.group.is_some() { "one of a cut over other volumes" } else { "with other labels" };
    OpError::already_exists(
        format!("snapshot {name} exists, {what}"),
        format!("choose another name, or delete it first: farshore snapshot delete {name}"),
    )
}

pub(super) fn refuse_held(name: &str, row: &SnapshotRow) -> Result<(), OpError> {
    if let Some(what) = row.labels.get(UNFINISHED_LABEL) {
        return Err(OpError::failed_precondition(
            format!("snapshot {name} is what the volume held before {what}, which is not finished"),
            "finish that first: run it again",
        ));
    }
    let Some(first) = row.holds.first() else { return Ok(()) };
    let holds: Vec<&str> = row.holds.iter().map(String::as_str).collect();
    Err(OpError::new(
        OpKind::FailedPrecondition,
        format!("snapshot {name} is needed"),
        format!("when it is not any more: farshore snapshot update {name} --release {first}"),
    )
    .because(format!("held by {}", holds.join(", "))))
}
