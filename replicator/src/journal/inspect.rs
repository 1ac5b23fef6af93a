//! Looks into a journal's directory without changing it, also a damaged one, and says what is there.

use std::path::Path;

use farshore_core::journal::found::RecoveredVolume;
use farshore_core::journal::recovery::{Rule, Step};
use serde::Serialize;

use super::error::JournalError;
use super::open::find;
use super::super_file::{LOCK_NAME, SUPER_NAME, SuperFile};

#[derive(Debug, Clone, Default, Serialize)]
pub struct InspectReport {
    pub dir: String,
    /// A process has the journal open: what follows may be changing.
    pub in_use_now: bool,
    pub journal: Option<String>,
    pub segment_bytes: u64,
    /// The recovery rule that a start would follow.
    pub rule: Option<String>,
    pub segments: Vec<SegmentReport>,
    pub volumes: Vec<VolumeReport>,
    /// Groups that should be there and cannot be read.
    pub groups_lost: u64,
    /// What stands in the way of opening it, in words.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct SegmentReport {
    pub number: u32,
    pub generation: Option<u64>,
    /// Holds groups that a start would replay.
    pub live: bool,
    pub used_bytes: u64,
    pub stale_groups: usize,
    pub unreadable_blocks: usize,
    pub groups: Vec<GroupReport>,
}

#[derive(Debug, Clone, Serialize)]
pub struct GroupReport {
    pub index: u64,
    pub offset: u64,
    pub bytes: u64,
    pub entries: u32,
    pub whole: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct VolumeReport {
    pub volume: String,
    pub first_seq: u64,
    pub last_seq: u64,
    pub last_epoch: String,
    pub meta_bytes: Option<usize>,
    pub meta_damaged: bool,
    pub damaged_seq: Option<u64>,
}

/// Never fails: what cannot be read is among the report's problems.
pub fn inspect(dir: &Path) -> InspectReport {
    let mut report = InspectReport { dir: dir.display().to_string(), in_use_now: is_locked(dir), ..Default::default() };
    if let Err(error) = fill(dir, &mut report) {
        report.problems.push(error.to_string());
    }
    report
}

fn is_locked(dir: &Path) -> bool {
    let Ok(file) = std::fs::File::open(dir.join(LOCK_NAME)) else { return false };
    matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
}

fn fill(dir: &Path, report: &mut InspectReport) -> Result<(), JournalError> {
    let Some(superblock) = SuperFile::read(dir)? else {
        report.problems.push(format!("there is no {SUPER_NAME} in {}: no journal, or not all of one", dir.display()));
        return Ok(());
    };
    report.journal = Some(format!("{:032x}", superblock.journal));
    report.segment_bytes = superblock.segment_bytes;
    let findings = find(dir, &superblock, false)?;
    report.rule = Some(format!("{:?}", findings.rule));
    for scan in &findings.scans {
        report.segments.push(SegmentReport {
            number: scan.number,
            generation: scan.generation(),
            live: findings.plan.live.iter().any(|&(_, number)| number == scan.number),
            used_bytes: scan.groups.last().map_or(0, |found| found.header.end()),
            stale_groups: scan.stale,
            unreadable_blocks: scan.unreadable,
            groups: scan
                .groups
                .iter()
                .map(|found| GroupReport {
                    index: found.header.index,
                    offset: found.header.offset,
                    bytes: found.header.padded_len() as u64,
                    entries: found.header.entries,
                    whole: found.whole,
                })
                .collect(),
        });
    }
    for step in &findings.plan.steps {
        match step {
            Step::Lost(count) => report.groups_lost += count,
            Step::StartLost => {
                report.problems.push("the oldest segments are not readable from their beginning".to_owned())
            }
            Step::Replay(_) => {}
        }
    }
    if report.groups_lost > 0 {
        report.problems.push(format!(
            "{} groups in the middle cannot be read; a start leaves their records out, and peers repair them",
            report.groups_lost
        ));
    }
    if findings.rule == Rule::Gone {
        return Err(JournalError::Gone { dir: dir.to_owned() });
    }
    let (log, _) = findings.replay()?;
    report.volumes = log.volumes.iter().map(|(&id, log)| volume_report(&RecoveredVolume::of(id, log))).collect();
    Ok(())
}

fn volume_report(found: &RecoveredVolume) -> VolumeReport {
    VolumeReport {
        volume: found.volume.to_string(),
        first_seq: found.first.0,
        last_seq: found.last.0,
        last_epoch: found.last_epoch.to_string(),
        meta_bytes: found.meta.as_ref().map(|meta| meta.len()),
        meta_damaged: found.meta_damaged,
        damaged_seq: found.damaged.map(|seq| seq.0),
    }
}
