//! Offline inspection: what a store directory holds, without changing it, as far as it can be read at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_core::ids::{BLOCK_BYTES, Seq, VolumeId};

use super::catalogue_row::SnapshotRow;
use super::extent::{BLOCK_LEN, BLOCKS_PER_EXTENT, EXTENT_BYTES, Entry, Version, View};
use super::index::{self, Found, Index};
use super::index_rows::Row;
use super::open::{INDEX_DIR, SLAB_FILE};
use super::superblock::{Superblock, decode_slab_header};

/// Problems listed one by one; more are only counted.
pub const LISTED_MAX: usize = 1000;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InspectReport {
    /// Name and uuid of the node that the directory belongs to.
    pub node: Option<(String, u128)>,
    pub store: Option<u128>,
    pub volumes: Vec<InspectedVolume>,
    pub extents: u64,
    pub used_bytes: u64,
    pub slab_bytes: u64,
    /// (volume, offset) of blocks whose bytes do not match their checksum. Where the store did not end with a
    /// checkpoint, these may be blocks that were overwritten since; applying the journal again heals them.
    pub mismatched_blocks: Vec<(VolumeId, u64)>,
    pub mismatched_count: u64,
    /// What could not be read, in words.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InspectedVolume {
    pub volume: Option<VolumeId>,
    pub size_bytes: u64,
    pub removing: bool,
    pub checkpointed_seq: Seq,
    pub changed_floor: Seq,
    pub used_bytes: u64,
    pub extents: u64,
    pub pins: Vec<(String, Seq)>,
    /// Ship id and target of a shipment being received.
    pub stage: Option<(u128, Seq)>,
    pub snapshots: Vec<SnapshotRow>,
    pub cloned_from: Option<VolumeId>,
}

/// Inspects a store directory. `slab` is needed where the slab lies elsewhere. Never fails: what can't be read is
/// listed among the problems.
pub fn inspect(dir: &Path, slab: Option<PathBuf>) -> InspectReport {
    let mut report = InspectReport::default();
    match Superblock::read(dir) {
        Ok(Some(found)) => {
            report.store = Some(found.store);
            report.node = Some((found.node.name, found.node.uuid));
        }
        Ok(None) => report.problem("there is no store.super: this is not a store, or its superblock was lost"),
        Err(error) => report.problem(&error.to_string()),
    }
    let slab = open_slab(&slab.unwrap_or_else(|| dir.join(SLAB_FILE)), &mut report);
    if !dir.join(INDEX_DIR).exists() {
        report.problem("there is no index");
        return report;
    }
    match Index::open_read_only(&dir.join(INDEX_DIR)) {
        Ok(index) => inspect_index(&index, slab.as_ref(), &mut report),
        Err(error) => report.problem(&error.to_string()),
    }
    report
}

impl InspectReport {
    fn problem(&mut self, text: &str) {
        if self.problems.len() < LISTED_MAX {
            self.problems.push(text.to_owned());
        }
    }

    fn mismatch(&mut self, volume: VolumeId, offset: u64) {
        self.mismatched_count += 1;
        if self.mismatched_blocks.len() < LISTED_MAX {
            self.mismatched_blocks.push((volume, offset));
        }
    }
}

fn open_slab(path: &Path, report: &mut InspectReport) -> Option<File> {
    let open = || -> io::Result<(File, u64)> {
        let mut file = File::open(path)?;
        let len = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        Ok((file, len))
    };
    let (file, len) = match open() {
        Ok(found) => found,
        Err(error) => {
            report.problem(&format!("{}: {error}", path.display()));
            return None;
        }
    };
    report.slab_bytes = len;
    let mut header = [0; BLOCK_LEN];
    match file
        .read_exact_at(&mut header, 0)
        .map_err(|error| error.to_string())
        .and_then(|()| decode_slab_header(&header).map_err(|error| error.to_string()))
    {
        Ok(store) if report.store.is_some_and(|own| own != store) => {
            report.problem(&format!("{} is the slab of another store", path.display()));
        }
        Ok(_) => {}
        Err(error) => report.problem(&format!("{}: {error}", path.display())),
    }
    Some(file)
}

fn inspect_index(index: &Index, slab: Option<&File>, report: &mut InspectReport) {
    let mut volumes: BTreeMap<VolumeId, InspectedVolume> = BTreeMap::new();
    let rows = index.rows(|key, value| {
        match index::row(key, value) {
            Ok(row) => note_row(&mut volumes, row),
            Err(error) => report.problem(&format!("a row can't be read: {error}")),
        }
        Ok(())
    });
    if let Err(error) = rows {
        report.problem(&error.to_string());
    }
    let extents = index.all_extents(|Found { volume, extent, version, entry }| {
        let found = volumes.entry(volume).or_default();
        found.volume = Some(volume);
        found.extents += 1;
        report.extents += 1;
        match entry {
            Ok(entry) => {
                if entry.own_place().is_some() {
                    found.used_bytes += EXTENT_BYTES;
                    report.used_bytes += EXTENT_BYTES;
                }
                if let Some(slab) = slab {
                    check_blocks(slab, volume, extent, &entry, report);
                }
            }
            Err(error) => report.problem(&format!("volume {volume}, extent {extent} at {}: {error}", version.seq)),
        }
        Ok(())
    });
    if let Err(error) = extents {
        report.problem(&error.to_string());
    }
    report.volumes = volumes.into_values().collect();
}

fn note_row(volumes: &mut BTreeMap<VolumeId, InspectedVolume>, row: Row) {
    let id = match &row {
        Row::Volume(id, _) | Row::Position(id, _) | Row::Pin(id, ..) | Row::Stage(id, _) => *id,
        Row::Snapshot(id, _) | Row::Staged(id, _) | Row::Link(id, _) => *id,
    };
    let volume = volumes.entry(id).or_default();
    volume.volume = Some(id);
    match row {
        Row::Volume(_, row) => {
            volume.size_bytes = row.size_bytes;
            volume.removing = row.removing;
        }
        Row::Position(_, row) => {
            let View { at: Version { seq, .. }, .. } = row.view;
            volume.checkpointed_seq = seq;
            volume.changed_floor = row.floor;
        }
        Row::Pin(_, name, row) => volume.pins.push((name, row.view.at.seq)),
        Row::Stage(_, row) => volume.stage = Some((row.ship_id, row.target)),
        Row::Snapshot(_, row) => volume.snapshots.push(row),
        Row::Link(_, row) => volume.cloned_from = Some(row.parent),
        Row::Staged(..) => {}
    }
}

fn check_blocks(slab: &File, volume: VolumeId, extent: u64, entry: &Entry, report: &mut InspectReport) {
    for block in (0..BLOCKS_PER_EXTENT).filter(|block| entry.has_data(*block)) {
        let mut data = [0; BLOCK_LEN];
        let at = entry.place.0.checked_mul(EXTENT_BYTES).map(|start| start + block as u64 * BLOCK_BYTES);
        let read = at.is_some_and(|at| slab.read_exact_at(&mut data, at).is_ok());
        if !read || crc32fast::hash(&data) != entry.crc[block] {
            let offset = extent.saturating_mul(EXTENT_BYTES).saturating_add(block as u64 * BLOCK_BYTES);
            report.mismatch(volume, offset);
        }
    }
}
