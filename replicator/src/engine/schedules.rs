//! Snapshots that a volume's primary makes by itself, and deletes again.
//!
//! A schedule is a label of the volume, in the register (`schedule_text`): every member has it, and whoever leads the
//! volume runs it. What it has made says so in labels of its own, in the volume's order; so the next leader finds in its
//! catalogue how far the last one came, and nothing else needs to move. What is kept here is lost with the epoch.
//!
//! ```text
//! look     in the volume's turn, with all that is in the order applied: is a run due, and was it made already?
//! give up  what has outlived its time, but nothing that is held
//! make     one mark; whether it is in the order or not is known before the next look
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore_core::ids::{Epoch, Tick, VolumeId};
use farshore_core::mark::{Mark, SnapshotId};
use farshore_core::register::Configuration;

use super::clock::{self, unix_ms};
use super::driver::{VolumeHandle, lock};
use super::marks::creation;
use super::node::Node;
use super::schedule_plan::{MADE_AS_LABEL, MADE_BY_LABEL, after, first_due, id_text, next_due, outlived, own};
use super::schedule_text::{SCHEDULE_LABEL, Schedule};
use crate::control::moment_name::moment_name;
use crate::control::validate_schedules::{NAME_PLACE, TIME_PLACE};
use crate::control::{OpError, OpKind};

/// Between two looks at whether something is due.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Before a run that came to nothing is tried again.
const RETRY_MS: u64 = 2_000;

/// How far one schedule is, while its volume is led from here.
#[derive(Debug, Clone)]
pub(super) struct Run {
    epoch: Epoch,
    pub due: Tick,
    retry_at: Tick,
    /// A snapshot that was asked for, and of which it is not known whether it was made.
    asked: Option<SnapshotId>,
    /// Why the last run made nothing.
    pub trouble: Option<String>,
    pub failures: u64,
}

#[derive(Default)]
pub struct Schedules {
    runs: Mutex<BTreeMap<(VolumeId, u64), Run>>,
    /// Volumes that are looked at just now.
    busy: Mutex<BTreeSet<VolumeId>>,
}

impl Schedules {
    pub(super) fn run_of(&self, volume: VolumeId, schedule: u64) -> Option<Run> {
        lock(&self.runs).get(&(volume, schedule)).cloned()
    }

    fn set(&self, volume: VolumeId, schedule: u64, run: Run) {
        lock(&self.runs).insert((volume, schedule), run);
    }

    fn retain(&self, volume: VolumeId, keep: impl Fn(u64) -> bool) {
        lock(&self.runs).retain(|(of, schedule), _| *of != volume || keep(*schedule));
    }

    /// Nothing can be due, as far as is known without asking the volume.
    fn rests(&self, volume: VolumeId, schedules: &[(String, Schedule)], now: Tick) -> bool {
        let runs = lock(&self.runs);
        let rests = |run: &Run| now < run.due.max(run.retry_at);
        schedules.iter().all(|(_, schedule)| runs.get(&(volume, schedule.id)).is_some_and(rests))
    }
}

/// A volume's schedules by name, with those that this version can't read.
pub(super) fn schedules_in(labels: &BTreeMap<String, String>) -> Vec<(String, Result<Schedule, String>)> {
    let named = labels.range(SCHEDULE_LABEL.to_string()..);
    let named = named.map_while(|(key, text)| Some((key.strip_prefix(SCHEDULE_LABEL)?, text)));
    named.map(|(name, text)| (name.to_string(), Schedule::decode(text).map_err(|e| e.to_string()))).collect()
}

fn readable_schedules(config: &Configuration) -> Vec<(String, Schedule)> {
    let all = schedules_in(&config.volume.labels).into_iter();
    all.filter_map(|(name, schedule)| Some((name, schedule.ok()?))).collect()
}

/// As the volume itself says, in its turn: what is published of its register comes a moment later.
async fn still_there(handle: &VolumeHandle, schedule: &Schedule) -> bool {
    let config = handle.status().await.map(|status| status.config);
    config.is_some_and(|config| readable_schedules(&config).iter().any(|(_, current)| current.id == schedule.id))
}

pub async fn run(node: Arc<Node>) {
    loop {
        tokio::time::sleep(LOOK_PAUSE).await;
        for handle in node.catalog.all() {
            let schedules = readable_schedules(&handle.config.borrow());
            let idle = schedules.is_empty() || node.schedules.rests(handle.id, &schedules, clock::now());
            if idle || !lock(&node.schedules.busy).insert(handle.id) {
                continue;
            }
            let node = node.clone();
            // A volume that waits for its quorum does not keep the others waiting.
            tokio::spawn(async move {
                node.keep_schedules(&handle, &schedules).await;
                lock(&node.schedules.busy).remove(&handle.id);
            });
        }
    }
}

impl Node {
    async fn keep_schedules(&self, handle: &Arc<VolumeHandle>, schedules: &[(String, Schedule)]) {
        let status = handle.status().await.filter(|status| status.role == "primary");
        let Some(status) = status.filter(|_| handle.applier.has_store() || handle.is_diskless()) else {
            self.schedules.retain(handle.id, |_| false);
            return;
        };
        self.schedules.retain(handle.id, |id| schedules.iter().any(|(_, schedule)| schedule.id == id));
        for (name, schedule) in schedules {
            let Err(error) = self.keep_schedule(handle, name, schedule, status.epoch).await else { continue };
            let Some(mut run) = self.schedules.run_of(handle.id, schedule.id) else { continue };
            let trouble = error.to_string();
            if run.trouble.as_ref() != Some(&trouble) {
                tracing::warn!(volume = %handle.name(), schedule = name, trouble, "a scheduled snapshot was not made");
            }
            run.retry_at = after(clock::now(), RETRY_MS);
            run.failures += u64::from(error.kind != OpKind::Conflict);
            run.trouble = Some(trouble);
            self.schedules.set(handle.id, schedule.id, run);
        }
    }

    /// One look at one schedule, and a run if one is due.
    async fn keep_schedule(
        &self,
        handle: &Arc<VolumeHandle>,
        name: &str,
        schedule: &Schedule,
        epoch: Epoch,
    ) -> Result<(), OpError> {
        let known = self.schedules.run_of(handle.id, schedule.id).filter(|run| run.epoch == epoch);
        let now = clock::now();
        if known.as_ref().is_some_and(|run| now < run.due.max(run.retry_at)) {
            return Ok(());
        }
        let turn = self.turn_of_holder(handle).await?;
        let rows = self.rows_led(handle).await?;
        let made = own(schedule, &rows);
        let mut run = known.unwrap_or_else(|| {
            let newest = made.last().map(|row| row.created_unix_ms);
            let due = first_due(schedule, newest, unix_ms(), now);
            Run { epoch, due, retry_at: Tick::default(), asked: None, trouble: None, failures: 0 }
        });
        if let Some(asked) = run.asked.take()
            && made.iter().any(|row| row.id == asked)
        {
            self.made(handle, schedule, run);
            return Ok(());
        }
        self.schedules.set(handle.id, schedule.id, run.clone());
        if clock::now() < run.due {
            return Ok(());
        }
        drop(turn);
        // First: it makes room.
        self.give_up_outlived(handle, schedule).await?;
        let turn = self.turn_of_holder(handle).await?;
        if !still_there(handle, schedule).await {
            return Ok(());
        }
        self.refuse_being_cut(handle)?;
        self.refuse_unfinished(handle).await?;
        self.refuse_without_room(handle).await?;
        let snapshot = snapshot_name(schedule, name);
        if let Some(taken) = self.named(handle, &snapshot).await? {
            return Err(super::marks::name_taken(handle, &taken));
        }
        let mut labels = schedule.labels.clone();
        labels.insert(MADE_BY_LABEL.into(), id_text(schedule));
        labels.insert(MADE_AS_LABEL.into(), name.into());
        let creation = creation(&snapshot, &labels, None);
        run.asked = Some(creation.id);
        self.schedules.set(handle.id, schedule.id, run.clone());
        let seq = self.mark(handle, Mark::Create(creation), turn).await?;
        self.applied_upto(handle, seq).await;
        tracing::info!(volume = %handle.name(), schedule = name, snapshot, %seq, "snapshot taken");
        self.made(handle, schedule, run);
        self.give_up_outlived(handle, schedule).await
    }

    fn made(&self, handle: &VolumeHandle, schedule: &Schedule, run: Run) {
        let (due, retry_at) = (next_due(schedule, run.due, clock::now()), Tick::default());
        self.schedules.set(handle.id, schedule.id, Run { due, retry_at, asked: None, trouble: None, ..run });
    }

    /// Deletes what the schedule made and what is over, oldest first.
    async fn give_up_outlived(&self, handle: &Arc<VolumeHandle>, schedule: &Schedule) -> Result<(), OpError> {
        let rows = self.rows_led(handle).await?;
        let over = outlived(schedule, &own(schedule, &rows), unix_ms());
        for row in over.to_delete {
            let turn = self.turn_of_holder(handle).await?;
            // What deletes a schedule has the turn too: once it has answered, the schedule gives up nothing.
            if !still_there(handle, schedule).await {
                return Ok(());
            }
            // It may be what a restore that has just begun reads.
            self.refuse_unfinished(handle).await?;
            match self.delete_in_turn(handle, row.id, turn).await {
                // Somebody deleted it, or holds it since.
                Err(error) if matches!(error.kind, OpKind::NotFound | OpKind::FailedPrecondition) => {
                    tracing::debug!(volume = %handle.name(), snapshot = row.name, %error, "not deleted");
                }
                other => other?,
            }
        }
        Ok(())
    }
}

fn snapshot_name(schedule: &Schedule, name: &str) -> String {
    let moment = moment_name(Duration::from_millis(unix_ms().max(0) as u64));
    schedule.pattern.replace(NAME_PLACE, name).replace(TIME_PLACE, &moment)
}
