//! What the verbs of schedules print.

use std::collections::BTreeMap;
use std::fmt::Write;

use farshore_proto::v1 as api;
use serde::Serialize;

use crate::output::View;
use crate::snapshot_views::moment;
use crate::table::{Table, or_none, time_ms};

#[derive(Debug, Clone, Serialize)]
pub struct ScheduleView {
    pub volume: String,
    pub volume_id: String,
    pub name: String,
    pub id: String,
    pub interval_ms: u64,
    /// 0: however many.
    pub keep: u32,
    /// 0: for ever.
    pub keep_for_ms: u64,
    pub pattern: String,
    pub labels: BTreeMap<String, String>,
    pub created_unix_ms: i64,
    pub state: String,
    pub reason: String,
    pub snapshots: u32,
    pub last: String,
    pub last_unix_ms: i64,
    pub due_in_ms: u64,
    /// Their time is over, and somebody holds them.
    pub kept: Vec<String>,
    pub failures: u64,
}

impl From<api::Schedule> for ScheduleView {
    fn from(s: api::Schedule) -> Self {
        ScheduleView {
            volume: s.volume,
            volume_id: s.volume_id,
            name: s.name,
            id: s.id,
            interval_ms: s.interval_ms,
            keep: s.keep,
            keep_for_ms: s.keep_for_ms,
            pattern: s.pattern,
            labels: s.labels,
            created_unix_ms: s.created_unix_ms,
            state: s.state,
            reason: s.reason,
            snapshots: s.snapshots,
            last: s.last,
            last_unix_ms: s.last_unix_ms,
            due_in_ms: s.due_in_ms,
            kept: s.kept,
            failures: s.failures,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct ScheduleListView {
    pub schedules: Vec<ScheduleView>,
}

#[derive(Debug, Serialize)]
pub struct ScheduleDeletedView {
    pub volume: String,
    pub deleted: String,
}

impl ScheduleView {
    fn keeps(&self) -> String {
        let count = (self.keep > 0).then(|| format!("newest {}", self.keep));
        let age = (self.keep_for_ms > 0).then(|| time_ms(self.keep_for_ms));
        or_none(&count.into_iter().chain(age).collect::<Vec<_>>().join(", "))
    }
}

impl View for ScheduleListView {
    fn table(&self) -> String {
        if self.schedules.is_empty() {
            return "no schedules; make one with: farshore snapshot schedule create\n".into();
        }
        let mut table = Table::new(&["VOLUME", "SCHEDULE", "EVERY", "KEEPS", ">MADE", "LAST", "STATE"]);
        for s in &self.schedules {
            table.row([
                s.volume.clone(),
                s.name.clone(),
                time_ms(s.interval_ms),
                s.keeps(),
                s.snapshots.to_string(),
                moment(s.last_unix_ms),
                s.state.clone(),
            ]);
        }
        table.render()
    }
}

impl View for ScheduleView {
    fn table(&self) -> String {
        let mut out = format!("{} of {}  {}\n", self.name, self.volume, self.state);
        let mut line = |what: &str, text: String| {
            let _ = writeln!(out, "  {what:<9} {text}");
        };
        if !self.reason.is_empty() {
            line("reason", self.reason.clone());
        }
        line("every", time_ms(self.interval_ms));
        line("keeps", self.keeps());
        line("names", self.pattern.clone());
        for (key, value) in &self.labels {
            line("label", format!("{key}={value}"));
        }
        line("since", moment(self.created_unix_ms));
        line("made", format!("{} that are there", self.snapshots));
        line("last", or_none(&self.last));
        if self.due_in_ms > 0 {
            line("next in", time_ms(self.due_in_ms));
        }
        for kept in &self.kept {
            line("kept", kept.clone());
        }
        out
    }
}

impl View for ScheduleDeletedView {
    fn table(&self) -> String {
        format!("schedule {} of {} is deleted; its snapshots stay\n", self.deleted, self.volume)
    }
}
