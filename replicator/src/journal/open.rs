//! Opening: lock, superblock, scan, the core's decision, replay; and then the tail is rewritten and synced before any
//! record is reported durable.
//!
//! The rewrite matters after a sync that failed unseen: the page cache may show bytes that no disk has. It goes over
//! blocks that may hold acknowledged records, so a synced copy of them (`journal.tail`) is made first; if the power fails
//! in the middle, the next start takes the group from there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use farshore_core::codec::DecodeError;
use farshore_core::journal::entry::{RecapItem, decode_items};
use farshore_core::journal::found::RecoveredVolume;
use farshore_core::journal::group::{GROUP_ALIGN_BYTES, GROUP_BYTES_MAX, GroupHeader};
use farshore_core::journal::log::Log;
use farshore_core::journal::recovery::{Plan, Rule, Step, decide};
use farshore_core::journal::replay::Replay;
use farshore_core::journal::scan::{Blocks, SegmentScan, heal_with_copy, scan};
use farshore_core::journal::segments::Segments;
use farshore_core::journal::superblock::Superblock;

use super::burnt::Marks;
use super::cache::Cache;
use super::config::{CACHE_BYTES_MAX, JournalConfig, JournalStatus};
use super::error::JournalError;
use super::handle::{Index, Shared};
use super::super_file::{SuperFile, TAIL_NAME, lock, segment_path};
use super::writer::{Cursor, Writer};
use crate::disk::file::{create_dirs, sync_dir};
use crate::disk::{AlignedBuf, DiskEngine, DiskFile};

/// Segments made when a journal is created, before it is used; more follow while it works.
const SEGMENTS_AT_START: u32 = 2;
const SCAN_WINDOW_BYTES: usize = 1 << 20;

/// A segment's bytes, read in windows; what cannot be read in a window is tried by itself.
pub(super) struct FileBlocks<'a> {
    file: &'a DiskFile,
    len_bytes: u64,
    window: Option<(u64, Bytes)>,
}

impl FileBlocks<'_> {
    pub(super) fn new(file: &DiskFile, len_bytes: u64) -> FileBlocks<'_> {
        FileBlocks { file, len_bytes, window: None }
    }
}

impl Blocks for FileBlocks<'_> {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read(&mut self, offset: u64, len: usize) -> Option<Bytes> {
        if offset.checked_add(len as u64)? > self.len_bytes {
            return None;
        }
        if let Some((at, window)) = &self.window
            && offset >= *at
            && offset + len as u64 <= at + window.len() as u64
        {
            let start = (offset - at) as usize;
            return Some(window.slice(start..start + len));
        }
        if len <= SCAN_WINDOW_BYTES {
            let window = SCAN_WINDOW_BYTES.min((self.len_bytes - offset) as usize);
            if let Ok(bytes) = self.file.read_at(offset, window) {
                let bytes = bytes.into_bytes();
                self.window = Some((offset, bytes.clone()));
                return Some(bytes.slice(..len));
            }
        }
        self.file.read_at(offset, len).ok().map(|bytes| bytes.into_bytes().slice(..len))
    }
}

/// What was found in a directory, before anything is changed.
pub(super) struct Findings {
    pub(super) files: Vec<Arc<DiskFile>>,
    pub(super) scans: Vec<SegmentScan>,
    pub(super) rule: Rule,
    pub(super) plan: Plan,
    /// The copy of a rewritten tail, if there is an intact one.
    pub(super) tail_copy: Option<(GroupHeader, Bytes)>,
}

/// Reads all segments and decides what they mean. Changes nothing.
pub(super) fn find(dir: &Path, superblock: &Superblock, writable: bool) -> Result<Findings, JournalError> {
    let mut files = Vec::new();
    let mut scans = Vec::new();
    for number in 0..superblock.segments {
        let path = segment_path(dir, number);
        let file = match DiskFile::open(&path, writable) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(JournalError::SegmentMissing { path });
            }
            Err(error) => return Err(JournalError::io("open segment", &path)(error)),
        };
        let mut blocks = FileBlocks::new(&file, superblock.segment_bytes);
        let found = scan(superblock.journal, number, &mut blocks);
        scans.push(found.map_err(|reason| JournalError::Segment { path, reason })?);
        files.push(Arc::new(file));
    }
    let tail_copy = read_tail_copy(dir, superblock.journal);
    if let Some((header, _)) = &tail_copy {
        heal_with_copy(&mut scans, *header);
    }
    let (rule, plan) = decide(&scans, superblock.in_use);
    Ok(Findings { files, scans, rule, plan, tail_copy })
}

fn read_tail_copy(dir: &Path, journal: u128) -> Option<(GroupHeader, Bytes)> {
    let path = dir.join(TAIL_NAME);
    if std::fs::metadata(&path).ok()?.len() > GROUP_BYTES_MAX as u64 {
        return None;
    }
    let bytes = Bytes::from(std::fs::read(&path).ok()?);
    let header = GroupHeader::decode(&bytes).ok()?;
    let body = header.body(&bytes).ok()?;
    decode_items(body, header.entries).ok()?;
    (header.journal == journal && bytes.len() >= header.padded_len())
        .then(|| (header, bytes.slice(..header.padded_len())))
}

impl Findings {
    fn in_place(&self, header: &GroupHeader) -> Option<Bytes> {
        let file = &self.files[header.segment as usize];
        let read = file.read_at(header.offset, header.padded_len()).map(AlignedBuf::into_bytes);
        let in_place = read.ok().filter(|bytes| GroupHeader::decode(bytes).as_ref() == Ok(header));
        in_place.filter(|bytes| header.body(bytes).is_ok())
    }

    /// A whole group's bytes, from its place or from the copy.
    fn group(&self, header: &GroupHeader) -> Result<Bytes, JournalError> {
        match (self.in_place(header), &self.tail_copy) {
            (Some(bytes), _) => Ok(bytes),
            (None, Some((copy, bytes))) if copy == header => Ok(bytes.clone()),
            (None, _) => Err(JournalError::Segment {
                path: self.files[header.segment as usize].path.clone(),
                reason: DecodeError::Invalid { what: "journal group", reason: "it changed while it was being read" },
            }),
        }
    }

    /// Replays what counts. The recap is the last group's; `None` if that one is lost.
    pub(super) fn replay(&self) -> Result<(Log, Option<Vec<RecapItem>>), JournalError> {
        let mut replay = Replay::default();
        for step in &self.plan.steps {
            match step {
                Step::StartLost => replay.start_is_lost(),
                Step::Lost(count) => replay.groups_lost(*count),
                Step::Replay(header) => {
                    let group = self.group(header)?;
                    let path = || self.files[header.segment as usize].path.clone();
                    let items = header.body(&group).and_then(|body| decode_items(body, header.entries));
                    let items = items.map_err(|reason| JournalError::Segment { path: path(), reason })?;
                    replay.group(header, &items);
                }
            }
        }
        Ok(replay.finish())
    }
}

pub(super) fn open(
    config: &JournalConfig,
    engine: Arc<dyn DiskEngine>,
) -> Result<(Writer, Vec<RecoveredVolume>), JournalError> {
    config.check()?;
    let dir = &config.dir;
    create_dirs(dir).map_err(JournalError::io("create directory", dir))?;
    let lock = lock(dir)?;
    let mut super_file = match SuperFile::read(dir)? {
        Some(now) => {
            let found = SuperFile::open(dir, now)?;
            found.rewrite()?;
            found
        }
        None => create_superblock(config)?,
    };
    let segment_bytes = super_file.now.segment_bytes;
    let mut findings = find(dir, &super_file.now, true)?;
    if findings.rule == Rule::Gone {
        return Err(JournalError::Gone { dir: dir.clone() });
    }
    let (log, recap) = findings.replay()?;
    let marks = Marks::new(config, super_file.now.journal);
    settle_tail(dir, &findings, engine.as_ref(), &marks)?;
    add_segments(dir, &mut findings, &mut super_file, engine.as_ref())?;

    let volumes: Vec<RecoveredVolume> = log.volumes.iter().map(|(&id, log)| RecoveredVolume::of(id, log)).collect();
    report(findings.rule, &volumes);
    let max = (config.budget_bytes / segment_bytes) as u32;
    let segments = {
        let (plan, scans, files) = (&findings.plan, &findings.scans, findings.files.clone());
        Segments::recovered(plan, scans, &log, files, max, segment_bytes)
    };
    let cursor = cursor_of(&findings.plan, recap, segment_bytes);
    let fresh = findings.plan.resume.is_none();
    let mut index = Index {
        log,
        segments,
        cache: Cache::new(CACHE_BYTES_MAX),
        needed: BTreeMap::new(),
        poisoned: None,
        rule: findings.rule,
        status: JournalStatus::default(),
    };
    volumes.iter().for_each(|found| index.recount(found.volume));
    let shared = Arc::new(Shared::new(config, super_file.now.journal, segment_bytes, engine, lock, index));
    let mut writer = Writer::new(shared, cursor, super_file);
    if fresh {
        writer.rotate()?;
        writer.super_file.update(|now| now.in_use = true)?;
    } else {
        let burn = |error: &JournalError| marks.burn(&error.to_string());
        writer.write_bare().inspect_err(burn)?;
    }
    Ok((writer, volumes))
}

fn report(rule: Rule, volumes: &[RecoveredVolume]) {
    for found in volumes.iter().filter(|found| found.damaged.is_some() || found.meta_damaged) {
        let (volume, damaged, meta_damaged) = (found.volume, found.damaged, found.meta_damaged);
        tracing::warn!(%volume, ?damaged, meta_damaged, "the journal is damaged for this volume, its records must be repaired from a peer");
    }
    tracing::info!(?rule, volumes = volumes.len(), "journal recovered");
}

fn create_superblock(config: &JournalConfig) -> Result<SuperFile, JournalError> {
    let dir = &config.dir;
    if segment_path(dir, 0).exists() {
        let reason =
            DecodeError::Invalid { what: "journal superblock", reason: "it is missing although segments exist" };
        return Err(JournalError::Superblock { path: dir.join(super::super_file::SUPER_NAME), reason });
    }
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid)
        .map_err(|error| JournalError::io("draw an identity for", dir)(std::io::Error::other(error.to_string())))?;
    let first = Superblock {
        journal: u128::from_le_bytes(uuid),
        segment_bytes: config.segment_bytes,
        segments: 0,
        in_use: false,
        turn: 1,
    };
    SuperFile::create(dir, first)
}

/// Rewrites and syncs the last group that counts, before it one of which there is only the copy, and wipes the headers of
/// those that do not count.
fn settle_tail(dir: &Path, findings: &Findings, engine: &dyn DiskEngine, marks: &Marks) -> Result<(), JournalError> {
    let write = |segment: u32, offset: u64, data: &[u8]| {
        let file = &findings.files[segment as usize];
        let written = engine.write_sync(file, offset, data);
        let written = written.map_err(JournalError::io("settle the end of segment", &file.path));
        written.inspect_err(|error| marks.burn(&error.to_string()))
    };
    let write_group = |header: &GroupHeader, group: &Bytes| {
        let mut aligned = AlignedBuf::zeroed(group.len());
        aligned.as_mut_slice().copy_from_slice(group);
        write(header.segment, header.offset, aligned.as_slice())
    };
    if let Some((copy, group)) = &findings.tail_copy
        && findings.plan.rests_on_copy(copy, findings.in_place(copy).is_some())
    {
        write_group(copy, group)?;
    }
    if let Some(tail) = &findings.plan.tail {
        let group = findings.group(tail)?;
        // An intact copy may be all there is of the group: it is not touched.
        if findings.tail_copy.as_ref().is_none_or(|(copy, _)| copy != tail) {
            write_tail_copy(dir, &group)?;
        }
        write_group(tail, &group)?;
    }
    let resume_at = findings.plan.resume.and_then(|resume| Some((resume.segment, resume.offset?)));
    let zeroes = AlignedBuf::zeroed(GROUP_ALIGN_BYTES);
    for &(segment, offset) in &findings.plan.erase {
        // Where writing resumes, the next group overwrites it; until then it proves that the one before was synced.
        if resume_at != Some((segment, offset)) {
            write(segment, offset, zeroes.as_slice())?;
        }
    }
    Ok(())
}

fn write_tail_copy(dir: &Path, group: &[u8]) -> Result<(), JournalError> {
    let path = dir.join(TAIL_NAME);
    let write = || {
        let is_new = !path.exists();
        std::fs::write(&path, group)?;
        std::fs::File::open(&path)?.sync_all()?;
        if is_new { sync_dir(&path) } else { Ok(()) }
    };
    write().map_err(JournalError::io("copy the tail to", &path))
}

/// Sees to it that there are enough segments to begin with; takes in one that was finished just before a crash.
fn add_segments(
    dir: &Path,
    findings: &mut Findings,
    super_file: &mut SuperFile,
    engine: &dyn DiskEngine,
) -> Result<(), JournalError> {
    let segment_bytes = super_file.now.segment_bytes;
    loop {
        let number = super_file.now.segments;
        let path = segment_path(dir, number);
        let is_there = std::fs::metadata(&path).is_ok_and(|found| found.len() == segment_bytes);
        if !is_there && number >= SEGMENTS_AT_START {
            return Ok(());
        }
        if !is_there {
            engine.allocate(&path, segment_bytes).map_err(JournalError::io("allocate segment", &path))?;
        }
        let file = DiskFile::open(&path, true).map_err(JournalError::io("open segment", &path))?;
        super_file.update(|now| now.segments += 1)?;
        findings.files.push(Arc::new(file));
        findings.plan.free.push(number);
    }
}

fn cursor_of(plan: &Plan, recap: Option<Vec<RecapItem>>, segment_bytes: u64) -> Cursor {
    match plan.resume {
        Some(resume) => Cursor {
            segment: resume.segment,
            generation: resume.generation,
            offset: resume.offset.unwrap_or(segment_bytes),
            index: resume.index,
            prev_crc: resume.prev_crc,
            recap,
        },
        // The first rotation takes it to the first segment, generation 1.
        None => Cursor {
            segment: 0,
            generation: 0,
            offset: segment_bytes,
            index: 1,
            prev_crc: Some(0),
            recap: Some(Vec::new()),
        },
    }
}
