//! Schedules of snapshots as the control plane sees them: made, shown, taken away.

use std::sync::Arc;

use farshore_core::api::Change;
use farshore_core::register::Configuration;
use farshore_proto::v1 as api;

use super::clock::{self, random_u128, unix_ms};
use super::driver::VolumeHandle;
use super::marks::Marker;
use super::node::Node;
use super::schedule_plan::{outlived, own};
use super::schedule_text::{SCHEDULE_LABEL, SCHEDULE_TEXT_MAX, Schedule};
use super::schedules::schedules_in;
use crate::control::{OpError, states};
use crate::store::SnapshotRow;

/// Of one volume.
const SCHEDULES_MAX: usize = 16;

impl Node {
    pub(super) async fn add_schedule(
        self: &Arc<Self>,
        request: api::CreateScheduleRequest,
    ) -> Result<api::Schedule, OpError> {
        if let Some(answer) =
            self.by_neighbour::<api::CreateScheduleResponse>(&request.volume, "schedule-create", &request).await?
        {
            return given(answer.schedule);
        }
        let handle = self.find(&request.volume)?;
        if let Marker::There(peer) = self.marker(&handle).await? {
            let request = api::CreateScheduleRequest { volume: handle.id.to_string(), ..request };
            let answer: api::CreateScheduleResponse = self.forward(&peer, "schedule-create", &request).await?;
            return given(answer.schedule);
        }
        let schedule = Schedule {
            id: random_u128() as u64,
            interval_ms: request.interval_ms,
            keep: request.keep,
            keep_for_ms: request.keep_for_ms,
            since_unix_ms: unix_ms(),
            pattern: request.pattern,
            labels: request.labels,
        };
        let text = schedule.encode();
        if text.len() > SCHEDULE_TEXT_MAX {
            return Err(OpError::invalid(
                format!("schedule {} takes {} bytes, with its labels", request.name, text.len()),
                format!("give it fewer or shorter labels; {SCHEDULE_TEXT_MAX} bytes are what it can have"),
            ));
        }
        // Nobody else adds one meanwhile.
        let turn = self.turn_to_mark(&handle).await?;
        let known = schedules_in(&self.labels_now(&handle).await?.volume.labels);
        match known.iter().find(|(name, _)| *name == request.name) {
            Some((_, Ok(there))) if there.is_like(&schedule) => {}
            Some(_) => {
                let (volume, name) = (handle.name(), &request.name);
                return Err(OpError::already_exists(
                    format!("volume {volume} has a schedule {name}, which is another one"),
                    format!(
                        "choose another name, or delete it first: farshore snapshot schedule delete {volume} {name}"
                    ),
                ));
            }
            None if known.len() >= SCHEDULES_MAX => {
                return Err(OpError::failed_precondition(
                    format!("volume {} has {SCHEDULES_MAX} schedules, which is all that it can have", handle.name()),
                    "delete one first",
                ));
            }
            None => {
                let key = format!("{SCHEDULE_LABEL}{}", request.name);
                self.change(&handle, Change::Label { key, value: Some(text) }).await?;
                tracing::info!(volume = %handle.name(), schedule = request.name, "schedule created");
            }
        }
        drop(turn);
        self.schedule_named(&handle, &request.name).await
    }

    pub(super) async fn remove_schedule(self: &Arc<Self>, request: api::DeleteScheduleRequest) -> Result<(), OpError> {
        if self
            .by_neighbour::<api::DeleteScheduleResponse>(&request.volume, "schedule-delete", &request)
            .await?
            .is_some()
        {
            return Ok(());
        }
        let handle = self.find(&request.volume)?;
        if let Marker::There(peer) = self.marker(&handle).await? {
            let request = api::DeleteScheduleRequest { volume: handle.id.to_string(), ..request };
            return self.forward::<api::DeleteScheduleResponse>(&peer, "schedule-delete", &request).await.map(drop);
        }
        // A run that has begun ends first.
        let _turn = self.turn_to_mark(&handle).await?;
        let key = format!("{SCHEDULE_LABEL}{}", request.name);
        if !self.labels_now(&handle).await?.volume.labels.contains_key(&key) {
            return Err(OpError::no_schedule(&handle.name(), &request.name));
        }
        self.change(&handle, Change::Label { key, value: None }).await?;
        tracing::info!(volume = %handle.name(), schedule = request.name, "schedule deleted");
        Ok(())
    }

    pub(super) async fn schedules_of(self: &Arc<Self>, volumes: Vec<String>) -> Result<Vec<api::Schedule>, OpError> {
        let mut views = Vec::new();
        if volumes.is_empty() {
            views = self.full_views().await;
            views.extend(self.neighbours_volumes().await);
        }
        for volume in volumes {
            views.push(self.by_name(&volume).await?);
        }
        Ok(views.into_iter().flat_map(|view| view.schedules).collect())
    }

    pub(super) async fn schedule(self: &Arc<Self>, volume: String, name: String) -> Result<api::Schedule, OpError> {
        let view = self.by_name(&volume).await?;
        let found = view.schedules.into_iter().find(|schedule| schedule.name == name);
        found.ok_or_else(|| OpError::no_schedule(&view.name, &name))
    }

    async fn schedule_named(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        name: &str,
    ) -> Result<api::Schedule, OpError> {
        let view = self.view(handle).await?;
        let found = view.schedules.into_iter().find(|schedule| schedule.name == name);
        found.ok_or_else(|| OpError::no_schedule(&view.name, name))
    }

    async fn labels_now(&self, handle: &VolumeHandle) -> Result<Configuration, OpError> {
        let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        Ok(status.config)
    }

    /// Of a volume that is held here. `led`: who leads it, as far as is known: this node, another one, or nobody.
    pub(super) fn schedule_views(
        &self,
        handle: &VolumeHandle,
        config: &Configuration,
        rows: &[SnapshotRow],
        led: Led,
    ) -> Vec<api::Schedule> {
        let shown = |(name, schedule): (String, Result<Schedule, String>)| {
            let known = api::Schedule {
                volume: config.volume.name.clone(),
                volume_id: handle.id.to_string(),
                name,
                ..api::Schedule::default()
            };
            match schedule {
                Ok(schedule) => self.schedule_view(handle, known, &schedule, rows, led),
                Err(reason) => api::Schedule { state: states::schedule::UNREADABLE.into(), reason, ..known },
            }
        };
        schedules_in(&config.volume.labels).into_iter().map(shown).collect()
    }

    fn schedule_view(
        &self,
        handle: &VolumeHandle,
        known: api::Schedule,
        schedule: &Schedule,
        rows: &[SnapshotRow],
        led: Led,
    ) -> api::Schedule {
        let own = own(schedule, rows);
        let last = own.last();
        let over = outlived(schedule, &own, unix_ms());
        let held = over.held.iter().map(|row| {
            let by: Vec<&str> = row.holds.iter().map(String::as_str).collect();
            format!("{} (held by {})", row.name, by.join(", "))
        });
        let run = self.schedules.run_of(handle.id, schedule.id).filter(|_| led == Led::Here);
        let trouble = run.as_ref().and_then(|run| run.trouble.clone());
        let (state, reason) = match (led, trouble) {
            (Led::Here, None) => (states::schedule::WAITING, String::new()),
            (Led::Here, Some(trouble)) => (states::schedule::FAILING, trouble),
            (Led::Elsewhere, _) => (states::schedule::UNKNOWN, "the node that leads the volume is not reached".into()),
            (Led::Nowhere, _) => (
                states::schedule::IDLE,
                "no node leads the volume; it goes on with the next attach or promotion".into(),
            ),
        };
        let due_in_ms = run.as_ref().map_or(0, |run| run.due.since(clock::now()) / 1000);
        api::Schedule {
            id: super::schedule_plan::id_text(schedule),
            interval_ms: schedule.interval_ms,
            keep: schedule.keep,
            keep_for_ms: schedule.keep_for_ms,
            pattern: schedule.pattern.clone(),
            labels: schedule.labels.clone(),
            created_unix_ms: schedule.since_unix_ms,
            state: state.into(),
            reason,
            snapshots: own.len() as u32,
            last: last.map(|row| row.name.clone()).unwrap_or_default(),
            last_unix_ms: last.map_or(0, |row| row.created_unix_ms),
            due_in_ms,
            kept: held.collect(),
            failures: run.map_or(0, |run| run.failures),
            ..known
        }
    }
}

/// Where a volume is led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Led {
    Here,
    Elsewhere,
    Nowhere,
}

fn given(schedule: Option<api::Schedule>) -> Result<api::Schedule, OpError> {
    schedule.ok_or_else(|| OpError::internal("a node answered without a schedule"))
}
