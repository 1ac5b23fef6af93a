//! `farshore inspect …`: what is on disk, read by the code that wrote it. Offline and read-only.

use std::path::Path;

use farshore_replicator::{journal, store};
use serde::Serialize;

use crate::args::{Format, InspectVerb};
use crate::failure::{Exit, Failure};
use crate::output::{self, View};

/// Fails, after the report is printed, when there is damage.
pub fn run(format: Format, verb: InspectVerb) -> Result<(), Failure> {
    match verb {
        InspectVerb::Journal { dir } => {
            refuse_absent(&dir)?;
            let report = journal::inspect(&dir);
            print(format, &report, report.problems.len())
        }
        InspectVerb::Store { dir, slab } => {
            refuse_absent(&dir)?;
            let report = StoreView::from(store::inspect(&dir, slab));
            let printed = print(format, &report, report.problems.len() + report.mismatched_blocks.len());
            // After a crash some blocks are to be expected, and only a start can tell which.
            const HEALED: &str = "start the replicator: its journal heals what was written since the last checkpoint, \
                                  and a scrub repairs the rest";
            match report.mismatched_blocks.is_empty() {
                true => printed,
                false => printed.map_err(|failure| failure.remedied(HEALED)),
            }
        }
    }
}

/// What the store says of itself, with ids as text.
#[derive(Serialize)]
struct StoreView {
    node: Option<String>,
    node_id: Option<String>,
    store: Option<String>,
    extents: u64,
    used_bytes: u64,
    slab_bytes: u64,
    volumes: Vec<StoredVolumeView>,
    /// More of them are counted than listed.
    mismatched_count: u64,
    mismatched_blocks: Vec<BlockView>,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct StoredVolumeView {
    volume: Option<String>,
    size_bytes: u64,
    used_bytes: u64,
    extents: u64,
    removing: bool,
    checkpointed_seq: u64,
    changed_floor_seq: u64,
    pins: Vec<PinView>,
    /// Up to which seq a shipment that is being received will reach.
    staged_seq: Option<u64>,
}

#[derive(Serialize)]
struct PinView {
    name: String,
    seq: u64,
}

#[derive(Serialize)]
struct BlockView {
    volume: String,
    offset_bytes: u64,
}

impl From<store::InspectReport> for StoreView {
    fn from(report: store::InspectReport) -> Self {
        let (node, node_id) = report.node.map(|(name, id)| (name, format!("{id:032x}"))).unzip();
        StoreView {
            node,
            node_id,
            store: report.store.map(|id| format!("{id:032x}")),
            extents: report.extents,
            used_bytes: report.used_bytes,
            slab_bytes: report.slab_bytes,
            volumes: report.volumes.into_iter().map(Into::into).collect(),
            mismatched_count: report.mismatched_count,
            mismatched_blocks: report
                .mismatched_blocks
                .into_iter()
                .map(|(volume, offset_bytes)| BlockView { volume: volume.to_string(), offset_bytes })
                .collect(),
            problems: report.problems,
        }
    }
}

impl From<store::InspectedVolume> for StoredVolumeView {
    fn from(v: store::InspectedVolume) -> Self {
        StoredVolumeView {
            volume: v.volume.map(|id| id.to_string()),
            size_bytes: v.size_bytes,
            used_bytes: v.used_bytes,
            extents: v.extents,
            removing: v.removing,
            checkpointed_seq: v.checkpointed_seq.0,
            changed_floor_seq: v.changed_floor.0,
            pins: v.pins.into_iter().map(|(name, seq)| PinView { name, seq: seq.0 }).collect(),
            staged_seq: v.stage.map(|(_, seq)| seq.0),
        }
    }
}

fn refuse_absent(dir: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(dir) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Failure::failed(format!("{} can't be read", dir.display())).because(error))
        }
        Err(error) => Err(Failure::new(
            Exit::NotFound,
            format!("{} is not a directory that can be read", dir.display()),
            "name the journal's or the store's directory under the replicator's data_dir",
        )
        .because(error)),
    }
}

fn print<R: Serialize>(format: Format, report: &R, problems: usize) -> Result<(), Failure> {
    output::print(format, &Report(report))?;
    match problems {
        0 => Ok(()),
        n => Err(Failure::failed(format!("{n} problems were found; they stand in the report"))),
    }
}

/// Any report; its table is its YAML, which people read well enough.
#[derive(Serialize)]
#[serde(transparent)]
struct Report<'a, R>(&'a R);

impl<R: Serialize> View for Report<'_, R> {
    fn table(&self) -> String {
        serde_norway::to_string(&self.0).unwrap_or_else(|error| format!("the report can't be written: {error}\n"))
    }
}
