//! Scrub: every block of this node's copies is read and verified from time to time, slowly, and what is damaged is
//! repaired from peers before somebody needs it.
//!
//! One pass at a time on a node, so that the rate holds for its disks. A pass goes over the volume's extents in order
//! and goes on where it was after a restart. Not here: comparing what peers have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use farshore_core::ids::{BLOCK_BYTES, Seq, VolumeId};
use farshore_proto::v1 as api;
use tokio::sync::Notify;

use super::driver::{VolumeHandle, lock};
use super::node::Node;
use super::repair::{self, Copies};
use super::scrub_record::ScrubRecord;
use crate::control::OpError;
use crate::store::{Damage, EXTENT_BYTES, ScrubCursor, ScrubPage};

/// Between two looks at which copy is due, and at the blocks that could not be repaired.
const TICK: Duration = Duration::from_secs(10);
/// Verified in one go.
const PAGE_BYTES: u64 = 1 << 20;
/// Progress is written down this often.
const RECORD_INTERVAL: Duration = Duration::from_secs(2);
/// Patience with the repair of a page's blocks; a peer may have to apply first.
const REPAIR_PATIENCE: Duration = Duration::from_secs(6);
/// Blocks given up on that are tried again in one look.
const RETRIED_MAX: usize = 16;

/// What is known of this node's scrubs.
pub struct Scrubs {
    dir: PathBuf,
    passes: Mutex<BTreeMap<VolumeId, Pass>>,
    wake: Notify,
    pub checked_total: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Pass {
    record: ScrubRecord,
    /// By a verb; begins whatever the interval says.
    asked: bool,
    /// What redo writes again is no damage: no pass before the copy is as far as it was when this process found it.
    redo_upto: Option<Seq>,
}

impl Scrubs {
    pub fn load(data_dir: &Path) -> Scrubs {
        let dir = data_dir.join("scrub");
        if let Err(error) = std::fs::create_dir_all(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "scrubs will begin anew after a restart");
        }
        let mut passes = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let named = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let (Some(volume), Some(record)) = (named, ScrubRecord::read(&entry.path())) {
                passes.insert(volume, Pass { record, ..Pass::default() });
            }
        }
        Scrubs { dir, passes: Mutex::new(passes), wake: Notify::new(), checked_total: AtomicU64::new(0) }
    }

    fn get(&self, volume: VolumeId) -> Pass {
        lock(&self.passes).get(&volume).copied().unwrap_or_default()
    }

    fn change(&self, volume: VolumeId, change: impl FnOnce(&mut Pass)) -> ScrubRecord {
        let mut passes = lock(&self.passes);
        let pass = passes.entry(volume).or_default();
        change(pass);
        pass.record
    }

    fn write_down(&self, volume: VolumeId, record: ScrubRecord) {
        if let Err(error) = record.write(&self.dir.join(volume.to_string())) {
            tracing::debug!(%volume, %error, "a scrub's progress can't be written down");
        }
    }

    /// Volumes that are not held here any more.
    fn retain(&self, is_held: impl Fn(VolumeId) -> bool) -> Vec<VolumeId> {
        let mut passes = lock(&self.passes);
        let gone: Vec<VolumeId> = passes.keys().copied().filter(|id| !is_held(*id)).collect();
        for volume in &gone {
            passes.remove(volume);
            let _ = std::fs::remove_file(self.dir.join(volume.to_string()));
        }
        gone
    }

    /// Whether a pass is under way, asked for, or due; notes when a volume is seen for the first time.
    fn is_due(&self, volume: VolumeId, interval_s: u64) -> bool {
        let now = unix_s();
        let mut first = None;
        let mut due = false;
        self.change(volume, |pass| {
            let since = &mut pass.record.since_unix_s;
            if *since == 0 || *since > now {
                *since = now;
                first = Some(pass.record);
            }
            due = pass.asked
                || pass.record.next_extent.is_some()
                || (interval_s > 0 && now - pass.record.since_unix_s >= interval_s);
        });
        if let Some(record) = first {
            self.write_down(volume, record);
        }
        due
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

pub async fn run(node: Arc<Node>) {
    // Beside the passes, one of which may take hours.
    tokio::spawn(retry(node.clone()));
    loop {
        let _ = tokio::time::timeout(TICK, node.scrubs.wake.notified()).await;
        for gone in node.scrubs.retain(|id| node.volume(id).is_some()) {
            node.shared.repairs.forget(gone);
        }
        let interval_s = node.config.store.scrub_interval_s;
        for handle in node.catalog.all() {
            if !handle.applier.has_store() {
                continue;
            }
            if node.scrubs.is_due(handle.id, interval_s) {
                pass(&node, &handle).await;
            }
        }
    }
}

async fn retry(node: Arc<Node>) {
    loop {
        tokio::time::sleep(TICK).await;
        for handle in node.catalog.all() {
            retry_lost(&node, &handle).await;
        }
    }
}

/// Blocks that nobody could give when they were found: a peer may be back, or they were written again.
async fn retry_lost(node: &Arc<Node>, handle: &VolumeHandle) {
    let lost = node.shared.repairs.lost_blocks(handle.id);
    if lost.is_empty() {
        return;
    }
    let Some(status) = handle.status().await else { return };
    let copies = Copies::of(handle, &status);
    for offset in lost.into_iter().take(RETRIED_MAX) {
        let (shared, volume) = (node.shared.clone(), handle.id);
        let found = tokio::task::spawn_blocking(move || shared.store.damage(volume, None, offset, BLOCK_BYTES)).await;
        match found {
            Ok(Ok(damaged)) if damaged.is_empty() => node.shared.repairs.mended(handle.id, offset),
            Ok(Ok(damaged)) => drop(repair::mend(&node.shared, &copies, damaged, Instant::now()).await),
            _ => return,
        }
    }
}

/// Goes on with a volume's pass, or begins one. Returns when it is over, or can't go on now.
async fn pass(node: &Arc<Node>, handle: &Arc<VolumeHandle>) {
    let scrubs = &node.scrubs;
    let Some(mut copies) = ready(node, handle).await else { return };
    let began = scrubs.change(handle.id, |pass| {
        pass.asked = false;
        if pass.record.next_extent.is_none() {
            let ScrubRecord { finished_unix_s, since_unix_s, .. } = pass.record;
            let started_unix_s = unix_s();
            pass.record = ScrubRecord { started_unix_s, finished_unix_s, since_unix_s, ..ScrubRecord::default() };
        }
        pass.record.next_extent.get_or_insert(0);
    });
    scrubs.write_down(handle.id, began);
    tracing::info!(volume = %handle.name(), from_extent = began.next_extent, "scrub: a pass goes on");
    let mut written = Instant::now();
    while let Some(extent) = scrubs.get(handle.id).record.next_extent {
        let (shared, volume, from) = (node.shared.clone(), handle.id, Instant::now());
        let cursor = ScrubCursor { extent };
        let page = match tokio::task::spawn_blocking(move || shared.store.scrub(volume, cursor, PAGE_BYTES)).await {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => {
                tracing::warn!(volume = %handle.name(), %error, "scrub: the pass waits");
                return;
            }
            Err(_) => return,
        };
        let (damaged, repaired) = mend(node, &copies, &page).await;
        scrubs.checked_total.fetch_add(page.checked_bytes, Ordering::Relaxed);
        let record = scrubs.change(handle.id, |pass| {
            pass.record.checked_bytes += page.checked_bytes;
            pass.record.damaged_blocks += damaged;
            pass.record.repaired_blocks += repaired;
            pass.record.next_extent = page.next.map(|next| next.extent);
        });
        if page.next.is_none() {
            break;
        }
        if written.elapsed() >= RECORD_INTERVAL {
            written = Instant::now();
            scrubs.write_down(handle.id, record);
        }
        let rate = node.config.store.scrub_bytes_per_second.0;
        let share = Duration::from_secs_f64(page.checked_bytes as f64 / rate as f64);
        tokio::time::sleep(share.saturating_sub(from.elapsed())).await;
        match ready(node, handle).await {
            Some(now) => copies = now,
            None => return,
        }
    }
    let record = scrubs.change(handle.id, |pass| {
        pass.record.finished_unix_s = unix_s();
        pass.record.since_unix_s = pass.record.finished_unix_s;
    });
    scrubs.write_down(handle.id, record);
    let ScrubRecord { checked_bytes, damaged_blocks, repaired_blocks, .. } = record;
    tracing::info!(volume = %handle.name(), checked_bytes, damaged_blocks, repaired_blocks, "scrub: the pass is over");
}

/// The copy, if it can be verified now: it is whole, hears from a primary, and redo is behind it.
async fn ready(node: &Arc<Node>, handle: &Arc<VolumeHandle>) -> Option<Copies> {
    node.volume(handle.id)?;
    let status = handle.status().await?;
    let led = status.role == "primary" || status.leader.is_some();
    if !status.whole || !led || status.state == "failed" {
        return None;
    }
    let mut redone = false;
    // What it was told of and has not got is not redone.
    let upto = status.acked.min(status.appended);
    node.scrubs.change(handle.id, |pass| redone = status.applied >= *pass.redo_upto.get_or_insert(upto));
    redone.then(|| Copies::of(handle, &status))
}

/// Repairs a page's damage. Returns how many blocks were damaged, and how many of them are whole again. What only pins
/// hold may be of another lineage, where no seq of ours means anything: it is counted and left.
async fn mend(node: &Arc<Node>, copies: &Copies, page: &ScrubPage) -> (u64, u64) {
    if page.damaged.is_empty() {
        return (0, 0);
    }
    let repairs = &node.shared.repairs;
    let before = repairs.repaired_blocks(copies.volume);
    let until = Instant::now() + REPAIR_PATIENCE;
    let (current, pinned): (Vec<Damage>, Vec<Damage>) = page.damaged.iter().copied().partition(|d| d.current);
    // One that the newest image shares with a pin is repaired for both.
    let is_shared = |damage: &&Damage| current.iter().any(|c| (c.offset, c.from) == (damage.offset, damage.from));
    let left_alone = pinned.iter().filter(|damage| !is_shared(damage)).count();
    let left = left_alone
        + match repair::mend(&node.shared, copies, current, until).await {
            Ok(()) => 0,
            Err(left) => left.blocks.len(),
        };
    // A block that was overwritten meanwhile counts in neither.
    let repaired = repairs.repaired_blocks(copies.volume) - before;
    (repaired + left as u64, repaired)
}

impl Node {
    /// Begins a pass now, unless one is under way.
    pub(super) fn scrub_now(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        if !handle.applier.has_store() {
            return Err(OpError::failed_precondition(
                format!("{} holds no data of volume {}", self.shared.me, handle.name()),
                "run it in a site that has a copy",
            ));
        }
        self.scrubs.change(handle.id, |pass| pass.asked |= pass.record.next_extent.is_none());
        self.scrubs.wake.notify_one();
        Ok(())
    }

    pub(super) fn scrub_view(&self, volume: VolumeId, size_bytes: u64) -> api::ScrubStatus {
        let Pass { record, asked, .. } = self.scrubs.get(volume);
        let progress = match record.next_extent {
            Some(extent) => (extent * EXTENT_BYTES) as f64 / size_bytes.max(1) as f64,
            None if asked || record.finished_unix_s == 0 => 0.0,
            None => 1.0,
        };
        api::ScrubStatus {
            running: asked || record.next_extent.is_some(),
            progress,
            checked_bytes: record.checked_bytes,
            damaged_blocks: record.damaged_blocks,
            repaired_blocks: record.repaired_blocks,
            lost_blocks: self.shared.repairs.lost_blocks(volume).len() as u64,
            started_unix_s: record.started_unix_s as i64,
            finished_unix_s: record.finished_unix_s as i64,
        }
    }

    /// Blocks of the copy here that nobody could give.
    pub(super) fn damage_condition(&self, handle: &VolumeHandle) -> Option<api::Condition> {
        let lost = self.shared.repairs.lost_blocks(handle.id);
        let first = lost.first()?;
        Some(api::Condition {
            name: "store-damaged".into(),
            text: format!(
                "{} blocks here can't be read, the first at {first}: no member could repair them",
                lost.len()
            ),
            remedy: format!(
                "bring the unreachable members back; if that does not help, renew this copy: `farshore member replace \
                 {} {}`",
                handle.name(),
                self.shared.me.site
            ),
        })
    }
}
