//! Repair: a damaged block of our store is asked for at the members that hold the volume's data, verified, put back.
//!
//! ```text
//! read ─► checksum mismatch ─► store: which blocks, vouched for at which seqs
//!                                  │ peers, one after the other
//!                                  ▼
//!   same ──► our checksum matches ──► written back, read again
//!   newer / behind ──► somebody still applies: a little later, again
//!   nobody has it ──► the error that names block and remedy
//! ```
//! A peer answers only from a whole image of the same lineage, and only from blocks that pass their own checksum.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::api::Status;
use farshore_core::ids::{BLOCK_BYTES, LineageId, MemberId, VolumeId};
use farshore_core::register::Configuration;
use tokio::sync::Semaphore;

use super::answers::{self, Given};
use super::driver::{Driver, VolumeHandle, lock};
use super::node::Shared;
use super::rpc::{Call, Wanted};
use crate::control::{OpError, OpKind};
use crate::store::{DAMAGE_MAX, Damage, EXTENT_BYTES, Held, StoreError};
use crate::transport::PeerName;

/// Blocks asked for in one call; its answer goes beside heartbeats and must stay small.
const BLOCKS_PER_CALL_MAX: usize = 16;
/// Repairs under way at a time, of all volumes; others wait.
const REPAIRS_MAX: usize = 4;
/// Calls of peers answered at a time; one more is told to come again.
const SERVED_MAX: usize = 4;
const CALL_PATIENCE: Duration = Duration::from_secs(2);
/// A read waits this long for a repair; then it is an error.
const REPAIR_PATIENCE: Duration = Duration::from_secs(6);
const RETRY: Duration = Duration::from_millis(100);
/// Blocks beyond repair that are remembered by name, per volume.
const LOST_MAX: usize = 4096;

/// What this node knows of the damage in its store, and what bounds its repairs.
pub struct Repairs {
    asking: Semaphore,
    serving: Semaphore,
    /// Reads for holders without a copy.
    pub(super) reading: Semaphore,
    /// And of such a holder, at each member.
    reading_there: Mutex<BTreeMap<PeerName, Arc<Semaphore>>>,
    /// Blocks found damaged, and repaired, since the start.
    pub damaged_total: AtomicU64,
    pub repaired_total: AtomicU64,
    volumes: Mutex<BTreeMap<VolumeId, Found>>,
}

#[derive(Default)]
struct Found {
    repaired: u64,
    /// Offsets of blocks that no member could give.
    lost: BTreeSet<u64>,
}

impl Default for Repairs {
    fn default() -> Repairs {
        Repairs {
            asking: Semaphore::new(REPAIRS_MAX),
            serving: Semaphore::new(SERVED_MAX),
            reading: Semaphore::new(super::read_there::SERVED_MAX),
            reading_there: Mutex::default(),
            damaged_total: AtomicU64::new(0),
            repaired_total: AtomicU64::new(0),
            volumes: Mutex::default(),
        }
    }
}

impl Repairs {
    pub(super) fn place_to_read(&self, peer: &PeerName) -> Arc<Semaphore> {
        let places = || Arc::new(Semaphore::new(super::read_there::ASKED_MAX));
        lock(&self.reading_there).entry(peer.clone()).or_insert_with(places).clone()
    }

    fn repaired(&self, copies: &Copies, damage: &Damage, from: &PeerName) {
        self.repaired_total.fetch_add(1, Ordering::Relaxed);
        let mut volumes = lock(&self.volumes);
        let found = volumes.entry(copies.volume).or_default();
        if !found.lost.remove(&damage.offset) {
            self.damaged_total.fetch_add(1, Ordering::Relaxed);
        }
        found.repaired += 1;
        // The edge; what follows is counted.
        if found.repaired == 1 {
            let (volume, offset) = (copies.name(), damage.offset);
            tracing::warn!(%volume, offset, peer = %from, "blocks of this copy don't match their checksums; they are repaired from peers");
        }
        tracing::debug!(volume = %copies.volume, offset = damage.offset, peer = %from, "a damaged block was repaired");
    }

    fn lost(&self, copies: &Copies, damage: &Damage, why: &str) {
        let mut volumes = lock(&self.volumes);
        let found = volumes.entry(copies.volume).or_default();
        let first = found.lost.is_empty();
        if found.lost.len() < LOST_MAX && found.lost.insert(damage.offset) {
            self.damaged_total.fetch_add(1, Ordering::Relaxed);
            if first {
                tracing::error!(volume = %copies.name(), offset = damage.offset, why, "a damaged block can't be repaired");
            }
        }
    }

    /// A block that was lost is not damaged any more: it was written again, or its version is gone.
    pub(super) fn mended(&self, volume: VolumeId, offset: u64) {
        if let Some(found) = lock(&self.volumes).get_mut(&volume) {
            found.lost.remove(&offset);
        }
    }

    pub(super) fn lost_blocks(&self, volume: VolumeId) -> Vec<u64> {
        lock(&self.volumes).get(&volume).map(|found| found.lost.iter().copied().collect()).unwrap_or_default()
    }

    pub(super) fn repaired_blocks(&self, volume: VolumeId) -> u64 {
        lock(&self.volumes).get(&volume).map_or(0, |found| found.repaired)
    }

    pub(super) fn forget(&self, volume: VolumeId) {
        lock(&self.volumes).remove(&volume);
    }
}

/// A replica, as its repair must know it: what it is, and who else has one.
#[derive(Clone)]
pub struct Copies {
    pub volume: VolumeId,
    me: MemberId,
    lineage: LineageId,
    whole: bool,
    config: Arc<Configuration>,
}

impl Driver {
    pub(super) fn copies(&self) -> Copies {
        let replica = self.volume.replica();
        Copies {
            volume: self.volume.id(),
            me: replica.d.me,
            lineage: replica.d.lineage,
            whole: replica.whole(),
            config: self.config.borrow().clone(),
        }
    }
}

impl Copies {
    pub(super) fn of(handle: &VolumeHandle, status: &Status) -> Copies {
        let config = Arc::new(status.config.clone());
        Copies { volume: handle.id, me: handle.me, lineage: status.lineage, whole: status.whole, config }
    }

    fn name(&self) -> &str {
        &self.config.volume.name
    }

    pub(super) fn lineage(&self) -> LineageId {
        self.lineage
    }

    pub(super) fn peer(&self, member: MemberId) -> Option<PeerName> {
        self.config.member(member).and_then(|m| PeerName::new(&m.site, &m.node).ok())
    }

    fn peers(&self) -> Vec<PeerName> {
        let members = self.config.members.iter().filter(|m| m.id != self.me && m.kind.holds_copy());
        members.filter_map(|m| PeerName::new(&m.site, &m.node).ok()).collect()
    }

    /// What an operator does about a copy that is beyond repair.
    fn remedy(&self) -> String {
        format!("renew this copy: `farshore member replace {} {}`", self.name(), self.config.site_of(self.me))
    }
}

/// Why blocks stay damaged.
struct Trouble {
    text: String,
    /// Somebody still has to apply, or could not be reached: later it may work.
    passing: bool,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the store does not panic")
}

/// Reads a range whose bytes were found damaged: repairs and reads again, until it is whole or nobody can help.
pub(super) async fn read(
    shared: Arc<Shared>,
    copies: Copies,
    pin: Option<String>,
    offset: u64,
    len: usize,
) -> Result<Bytes, String> {
    let until = Instant::now() + REPAIR_PATIENCE;
    loop {
        let (store, name, volume) = (shared.clone(), pin.clone(), copies.volume);
        let found = blocking(move || match &name {
            None => store.store.read(volume, offset, len),
            Some(pin) => store.store.read_at(volume, pin, offset, len),
        });
        match found.await {
            Ok(data) => return Ok(data),
            Err(StoreError::Corrupt { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
        let (store, name) = (shared.clone(), pin.clone());
        let listed = blocking(move || store.store.damage(volume, name.as_deref(), offset, len as u64)).await;
        let damaged = listed.map_err(|error| error.to_string())?;
        if Instant::now() >= until {
            let why = "the disk gives back other bytes again and again".to_string();
            return Err(Left { blocks: damaged, why }.error(&copies));
        }
        mend(&shared, &copies, damaged, until).await.map_err(|left| left.error(&copies))?;
    }
}

/// Makes the extent of a damaged block whole in a pinned image.
pub(super) async fn pinned_extent(shared: Arc<Shared>, copies: Copies, pin: String, offset: u64) -> Result<(), String> {
    let start = offset / EXTENT_BYTES * EXTENT_BYTES;
    let len = EXTENT_BYTES.min(copies.config.volume.size_bytes.saturating_sub(start));
    read(shared, copies, Some(pin), start, len as usize).await.map(drop)
}

/// Blocks that stayed damaged.
pub(super) struct Left {
    pub blocks: Vec<Damage>,
    why: String,
}

impl Left {
    fn error(&self, copies: &Copies) -> String {
        let offset = self.blocks.first().map_or(0, |damage| damage.offset);
        format!(
            "volume {}: the block at {offset} does not match its checksum and could not be repaired ({}); {}",
            copies.name(),
            self.why,
            copies.remedy()
        )
    }
}

/// Repairs blocks, or says which stay damaged and why. What turns out to have been overwritten meanwhile is no damage.
pub(super) async fn mend(
    shared: &Arc<Shared>,
    copies: &Copies,
    mut damaged: Vec<Damage>,
    until: Instant,
) -> Result<(), Left> {
    let Ok(_permit) = tokio::time::timeout_at(until.into(), shared.repairs.asking.acquire()).await else {
        return Err(Left { blocks: damaged, why: "too many repairs are under way".into() });
    };
    loop {
        if damaged.is_empty() {
            return Ok(());
        }
        let Err(trouble) = round(shared, copies, &mut damaged).await else { continue };
        if !trouble.passing || Instant::now() >= until {
            damaged.iter().for_each(|damage| shared.repairs.lost(copies, damage, &trouble.text));
            return Err(Left { blocks: damaged, why: trouble.text });
        }
        tokio::time::sleep(RETRY).await;
        damaged = still_damaged(shared, copies.volume, damaged).await;
    }
}

/// One look at every peer; takes off the list what was repaired. Ok when anything was.
async fn round(shared: &Arc<Shared>, copies: &Copies, damaged: &mut Vec<Damage>) -> Result<(), Trouble> {
    if !copies.whole {
        return Err(Trouble { text: "this copy is being resynced".into(), passing: true });
    }
    let (mut said, mut passing) = (BTreeMap::new(), false);
    let mut left = Vec::new();
    for asked in damaged.chunks(BLOCKS_PER_CALL_MAX) {
        let mut asked = asked.to_vec();
        for peer in copies.peers() {
            if let Err((why, later)) = ask(shared, copies, &mut asked, &peer).await? {
                passing |= later;
                said.insert(peer, why);
            }
            if asked.is_empty() {
                break;
            }
        }
        left.extend(asked);
    }
    let repaired = left.len() < damaged.len();
    *damaged = left;
    if repaired {
        return Ok(());
    }
    let said: Vec<String> = said.iter().map(|(peer, why)| format!("{peer}: {why}")).collect();
    let text = if said.is_empty() { "no other member holds data".into() } else { said.join("; ") };
    Err(Trouble { text, passing })
}

/// Asks one peer, and takes off the list what is repaired by that. Err inside: why some are left, and whether that may
/// pass.
async fn ask(
    shared: &Arc<Shared>,
    copies: &Copies,
    asked: &mut Vec<Damage>,
    peer: &PeerName,
) -> Result<Result<(), (String, bool)>, Trouble> {
    let wanted = asked.iter().map(|d| Wanted { offset: d.offset, from: d.from, upto: d.upto }).collect();
    let call = Call::Blocks { volume: copies.volume, lineage: copies.lineage, wanted };
    let answer = shared.calls.call(&shared.transport, peer, &call, CALL_PATIENCE).await;
    let answer = answer.and_then(|bytes| {
        answers::decode_blocks(bytes).map_err(|e| OpError::internal("its answer does not decode").because(e))
    });
    let blocks = match answer {
        Ok(blocks) => blocks,
        Err(error) => return Ok(Err((error.to_string(), error.kind == OpKind::Unavailable))),
    };
    let mut outcome = Ok(());
    for (damage, given) in asked.clone().iter().zip(blocks) {
        match take(shared, copies, damage, given, peer).await? {
            None => asked.retain(|d| d != damage),
            Some((why, passing)) => outcome = Err((why.to_string(), passing)),
        }
    }
    Ok(outcome)
}

/// Puts back what a peer gave. None: the block is whole again. Else why not, and whether that may pass.
async fn take(
    shared: &Arc<Shared>,
    copies: &Copies,
    damage: &Damage,
    given: Given,
    peer: &PeerName,
) -> Result<Option<(&'static str, bool)>, Trouble> {
    let data = match given {
        Given::Same(data) => data,
        Given::Newer => return Ok(Some(("it was written again since, and not applied here yet", true))),
        Given::Behind => return Ok(Some(("it has not applied that far", true))),
        Given::Damaged => return Ok(Some(("its own block is damaged", false))),
    };
    let (store, volume, damage) = (shared.clone(), copies.volume, *damage);
    match blocking(move || store.store.repair_block(volume, damage.offset, damage.from, &data)).await {
        Ok(0) => Ok(None),
        Ok(_) => {
            shared.repairs.repaired(copies, &damage, peer);
            Ok(None)
        }
        Err(StoreError::RepairMismatch { .. }) => Ok(Some(("its block is another one", false))),
        Err(error) => Err(Trouble { text: error.to_string(), passing: false }),
    }
}

/// Leaves out what is not damaged any more: the applier may have written it again.
async fn still_damaged(shared: &Arc<Shared>, volume: VolumeId, damaged: Vec<Damage>) -> Vec<Damage> {
    let store = shared.clone();
    blocking(move || {
        let again = |damage: Damage| {
            if !damage.current {
                return Some(damage);
            }
            match store.store.damage(volume, None, damage.offset, BLOCK_BYTES) {
                Ok(found) => found.first().copied(),
                Err(_) => Some(damage),
            }
        };
        damaged.into_iter().filter_map(again).collect()
    })
    .await
}

/// Answers a member that lost blocks.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    handle: &VolumeHandle,
    peer: &PeerName,
    lineage: LineageId,
    wanted: Vec<Wanted>,
) -> Result<Bytes, OpError> {
    let stores = |config: &Configuration| {
        let mut members = config.members.iter().filter(|m| m.kind.holds_copy());
        members.any(|m| m.site == peer.site && m.node == peer.node)
    };
    if !stores(&handle.config.borrow()) {
        return Err(OpError::invalid(
            format!("{peer} holds no data of volume {}", handle.name()),
            "ask as a data member",
        ));
    }
    let Ok(_permit) = shared.repairs.serving.try_acquire() else {
        return Err(OpError::unavailable("too many repairs are served here", "try again shortly"));
    };
    if wanted.len() > BLOCKS_PER_CALL_MAX {
        let text = format!("{} blocks at once are more than {BLOCKS_PER_CALL_MAX}", wanted.len());
        return Err(OpError::invalid(text, "run the same version on all nodes"));
    }
    let status = handle.status().await.ok_or_else(|| OpError::unavailable("the volume is stopping", "try again"))?;
    if status.lineage != lineage {
        let text = format!("this copy is of lineage {}, not {lineage}", status.lineage);
        return Err(OpError::failed_precondition(text, "ask a member of your own lineage"));
    }
    if !status.whole || !handle.applier.has_store() {
        return Err(OpError::unavailable("this copy is not whole", "ask another member"));
    }
    let (store, volume) = (shared.clone(), handle.id);
    let given = blocking(move || {
        let held = |block: &Wanted| match store.store.held(volume, block.offset, block.from, block.upto) {
            Ok(Held::Same(data)) => Ok(Given::Same(data)),
            Ok(Held::Newer) => Ok(Given::Newer),
            Ok(Held::Behind) => Ok(Given::Behind),
            Err(StoreError::Corrupt { .. }) => Ok(Given::Damaged),
            Err(error) => Err(error),
        };
        wanted.iter().map(held).collect::<Result<Vec<Given>, StoreError>>()
    })
    .await;
    let given =
        given.map_err(|e| OpError::failed_precondition("the blocks can't be read here", "ask another").because(e))?;
    Ok(answers::encode_blocks(&given))
}

const _: () = assert!(BLOCKS_PER_CALL_MAX <= DAMAGE_MAX);
