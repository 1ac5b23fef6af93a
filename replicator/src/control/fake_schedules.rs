//! The fake engine's schedules: kept with their volumes, and never run.

use farshore_proto::v1 as api;

use super::error::OpError;
use super::fake::State;
use super::states;

impl State {
    pub(super) fn add_schedule(&mut self, request: api::CreateScheduleRequest) -> Result<api::Schedule, OpError> {
        let drawn = self.draw();
        let volume = self.find(&request.volume)?;
        let made = api::Schedule {
            volume: volume.name.clone(),
            volume_id: volume.id.clone(),
            name: request.name.clone(),
            id: format!("{drawn:016x}"),
            interval_ms: request.interval_ms,
            keep: request.keep,
            keep_for_ms: request.keep_for_ms,
            pattern: request.pattern,
            labels: request.labels,
            created_unix_ms: 1_700_000_000_000,
            state: states::schedule::WAITING.into(),
            snapshots: 2,
            last: format!("{}-2023-11-14t23-00-00.000", request.name),
            last_unix_ms: 1_700_002_800_000,
            due_in_ms: request.interval_ms / 2,
            kept: vec![format!("{}-2023-11-14t22-00-00.000 (held by backup)", request.name)],
            ..Default::default()
        };
        if let Some(there) = volume.schedules.iter().find(|schedule| schedule.name == made.name) {
            let same = api::Schedule { id: there.id.clone(), ..made.clone() } == *there;
            return match same {
                true => Ok(there.clone()),
                false => Err(OpError::already_exists(
                    format!("volume {} has a schedule {}, which is another one", made.volume, made.name),
                    format!("delete it first: farshore snapshot schedule delete {} {}", made.volume, made.name),
                )),
            };
        }
        volume.schedules.push(made.clone());
        volume.schedules.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(made)
    }

    pub(super) fn schedules_of(&mut self, volumes: &[String]) -> Result<Vec<api::Schedule>, OpError> {
        let named: Vec<String> = match volumes {
            [] => self.names(),
            named => named.to_vec(),
        };
        let mut out = Vec::new();
        for volume in named {
            out.extend(self.find(&volume)?.schedules.clone());
        }
        Ok(out)
    }

    pub(super) fn schedule(&mut self, volume: &str, name: &str) -> Result<api::Schedule, OpError> {
        let found = self.find(volume)?.schedules.iter().find(|schedule| schedule.name == name).cloned();
        found.ok_or_else(|| OpError::no_schedule(volume, name))
    }

    pub(super) fn drop_schedule(&mut self, volume: &str, name: &str) -> Result<(), OpError> {
        self.schedule(volume, name)?;
        self.find(volume)?.schedules.retain(|schedule| schedule.name != name);
        Ok(())
    }
}
