//! What the verbs of snapshots print.

use std::collections::BTreeMap;
use std::fmt::Write;

use farshore_proto::v1 as api;
use serde::Serialize;

use crate::output::View;
use crate::table::{NONE, Table, bytes, or_none, time_us};
use crate::views::VolumeView;

#[derive(Debug, Clone, Serialize)]
pub struct SnapshotView {
    pub name: String,
    pub id: String,
    pub volume: String,
    pub volume_id: String,
    /// Empty: of one volume alone.
    pub group_id: String,
    pub seq: u64,
    pub size_bytes: u64,
    pub created_unix_ms: i64,
    pub labels: BTreeMap<String, String>,
    pub state: String,
    /// What to make of a state that is not `ready`, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    pub unique_bytes: u64,
    pub shared_bytes: u64,
    pub held_by: Vec<String>,
    pub clones: Vec<String>,
    /// A new volume may have its name.
    pub volume_deleted: bool,
}

impl From<api::Snapshot> for SnapshotView {
    fn from(s: api::Snapshot) -> Self {
        SnapshotView {
            note: note(&s),
            name: s.name,
            id: s.id,
            volume: s.volume,
            volume_id: s.volume_id,
            group_id: s.group_id,
            seq: s.seq,
            size_bytes: s.size_bytes,
            created_unix_ms: s.created_unix_ms,
            labels: s.labels,
            state: s.state,
            unique_bytes: s.unique_bytes,
            shared_bytes: s.shared_bytes,
            held_by: s.held_by,
            clones: s.clones,
            volume_deleted: s.volume_deleted,
        }
    }
}

fn note(snapshot: &api::Snapshot) -> String {
    match (snapshot.state.as_str(), snapshot.labels.get("farshore.unfinished")) {
        ("unconfirmed", _) => {
            "one of a cut over several volumes that did not come to its end, and no snapshot: cut them \
                               again under this name, or delete it"
                .into()
        }
        ("missing", _) => "the copy in this site was made after it; other sites of the volume have it".into(),
        ("applying", _) => "the copy in this site has not come to it yet".into(),
        (_, Some(what)) => format!("what the volume held before {what}, which is not finished: run that again"),
        _ => String::new(),
    }
}

#[derive(Debug, Serialize)]
pub struct SnapshotListView {
    pub snapshots: Vec<SnapshotView>,
}

/// What `create` made, or found.
#[derive(Debug, Serialize)]
pub struct TakenView {
    pub snapshots: Vec<SnapshotView>,
    pub held_us: u64,
}

#[derive(Debug, Serialize)]
pub struct SnapshotsDeletedView {
    pub deleted: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct RestoredView {
    pub snapshot: String,
    pub changed_bytes: u64,
    pub volume: VolumeView,
}

#[derive(Debug, Serialize)]
pub struct DiffView {
    pub snapshot: String,
    /// Empty: since nothing.
    pub since: String,
    pub size_bytes: u64,
    /// Of the ranges that hold data.
    pub data_bytes: u64,
    /// Of those that hold nothing any more.
    pub hole_bytes: u64,
    pub ranges: Vec<RangeView>,
}

#[derive(Debug, Serialize)]
pub struct RangeView {
    pub offset_bytes: u64,
    pub length_bytes: u64,
    pub hole: bool,
}

#[derive(Debug, Serialize)]
pub struct ExportedView {
    pub snapshot: String,
    pub since: String,
    pub file: String,
    pub data_bytes: u64,
    /// Of `data_bytes`, what an earlier, cut run had written.
    pub resumed_bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct ImportedView {
    pub snapshot: SnapshotView,
    pub written_bytes: u64,
    /// What the export was made of.
    pub source: String,
}

impl SnapshotView {
    pub fn title(&self) -> String {
        format!("{}@{}", self.volume, self.name)
    }

    fn state_shown(&self) -> String {
        let deleted = if self.volume_deleted { ", volume deleted" } else { "" };
        format!("{}{deleted}", self.state)
    }
}

/// UTC, to the second.
pub fn moment(unix_ms: i64) -> String {
    match time::OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1000)) {
        Ok(at) if unix_ms > 0 => {
            format!("{} {:02}:{:02}:{:02}Z", at.date(), at.hour(), at.minute(), at.second())
        }
        _ => NONE.into(),
    }
}

fn table_of(snapshots: &[SnapshotView]) -> String {
    let mut table = Table::new(&["SNAPSHOT", "CREATED", ">SEQ", ">SIZE", ">UNIQUE", "STATE", "CLONES", "HELD BY"]);
    for s in snapshots {
        table.row([
            s.title(),
            moment(s.created_unix_ms),
            s.seq.to_string(),
            bytes(s.size_bytes),
            bytes(s.unique_bytes),
            s.state_shown(),
            or_none(&s.clones.join(",")),
            or_none(&s.held_by.join(",")),
        ]);
    }
    table.render()
}

impl View for SnapshotListView {
    fn table(&self) -> String {
        if self.snapshots.is_empty() {
            return "no snapshots; make one with: farshore snapshot create\n".into();
        }
        table_of(&self.snapshots)
    }
}

impl View for TakenView {
    fn table(&self) -> String {
        let mut out = table_of(&self.snapshots);
        if self.snapshots.len() > 1 {
            let _ = writeln!(out, "one moment of {} volumes, held for {}", self.snapshots.len(), time_us(self.held_us));
        }
        out
    }
}

impl View for SnapshotView {
    fn table(&self) -> String {
        let mut out = format!("{}  {}\n", self.title(), self.state_shown());
        if !self.note.is_empty() {
            let _ = writeln!(out, "  {}", self.note);
        }
        let mut line = |what: &str, text: String| {
            let _ = writeln!(out, "  {what:<9} {text}");
        };
        line("id", self.id.clone());
        line("volume", format!("{} ({})", self.volume, self.volume_id));
        line("created", moment(self.created_unix_ms));
        line("seq", self.seq.to_string());
        line("size", bytes(self.size_bytes));
        line("space", format!("{} of its own, {} shared", bytes(self.unique_bytes), bytes(self.shared_bytes)));
        if !self.group_id.is_empty() {
            line("group", self.group_id.clone());
        }
        for (key, value) in &self.labels {
            line("label", format!("{key}={value}"));
        }
        line("clones", or_none(&self.clones.join(", ")));
        line("held by", or_none(&self.held_by.join(", ")));
        out
    }
}

impl View for SnapshotsDeletedView {
    fn table(&self) -> String {
        self.deleted.iter().map(|name| format!("{name} is deleted\n")).collect()
    }
}

impl View for RestoredView {
    fn table(&self) -> String {
        format!("{} holds what {} held; {} were put back\n", self.volume.name, self.snapshot, bytes(self.changed_bytes))
    }
}

impl View for DiffView {
    fn table(&self) -> String {
        let mut table = Table::new(&[">OFFSET", ">LENGTH", "NOW"]);
        for range in &self.ranges {
            let now = if range.hole { "hole" } else { "data" };
            table.row([range.offset_bytes.to_string(), range.length_bytes.to_string(), now.into()]);
        }
        let since = if self.since.is_empty() { "nothing" } else { &self.since };
        let holes = if self.hole_bytes > 0 { format!(", {} of holes", bytes(self.hole_bytes)) } else { String::new() };
        format!(
            "{}{} since {since}: {} of data{holes}, in {} ranges\n",
            table.render(),
            self.snapshot,
            bytes(self.data_bytes),
            self.ranges.len()
        )
    }
}

impl View for ExportedView {
    fn table(&self) -> String {
        let resumed = match self.resumed_bytes {
            0 => String::new(),
            already => format!(", {} of it written before", bytes(already)),
        };
        format!("{} is exported to {}: {} of data{resumed}\n", self.snapshot, self.file, bytes(self.data_bytes))
    }
}

impl View for ImportedView {
    fn table(&self) -> String {
        format!("{} holds what {} held: {} written\n", self.snapshot.title(), self.source, bytes(self.written_bytes))
    }
}
