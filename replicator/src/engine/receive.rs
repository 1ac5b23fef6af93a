//! The target's side of a shipment: what arrives is staged beside the visible image, and shown when all of it is there.
//!
//! Pages may arrive in any order. How far all of them are here is noted with the stage, so that the same shipment, begun
//! again after a restart, goes on there. What is beyond is remembered while the daemon lives: after a broken link nothing
//! is sent again that had come. What packed pages hold is in `receive_packed`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::api::Event;
use farshore_core::durable::LogBase;
use farshore_core::history::History;
use farshore_core::ids::{LineageId, Seq, VolumeId};
use farshore_core::mark::Creation;
use tokio::sync::RwLock;

use super::answers;
use super::applier::Applier;
use super::driver::{VolumeHandle, lock};
use super::inbox::Inbox;
use super::node::{Node, Shared};
use super::receive_packed;
use super::rpc::{Call, ShippedRun, ShippedSnapshot};
use super::ship::{PAGE_EXTENTS, blocking};
use super::spans::Spans;
use crate::control::OpError;
use crate::store::{Cursor, SnapshotRow, SnapshotState, StageData, StoreError};

/// A shipment whose source is silent this long is given up, if the log could go on without it.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The same for one that an earlier life of the daemon has begun.
const LEFT_BEHIND_MAX: Duration = Duration::from_secs(4);
/// One that nothing waits for is kept so long; then, as long as nobody lacks its space.
const KEPT_AT_LEAST: Duration = super::outgoing::KEPT_AT_LEAST;
/// Where the cursor of a shipment stands when all of it is there.
const WHOLE: Cursor = Cursor { seq: Seq(u64::MAX), extent: u64::MAX };

/// An image being received.
pub struct Incoming {
    pub(super) volume: VolumeId,
    pub(super) ship: u128,
    /// Of which image, lineage and history; none, if it was begun in an earlier life and not again in this one.
    of: Option<(LogBase, LineageId, History)>,
    heard: Instant,
    placed: Placed,
    pub(super) spans: Spans,
    /// The last page found no room; with the store's words.
    pub(super) no_room: Option<String>,
    /// It was found to differ from its source, and is dropped.
    pub(super) spoilt: bool,
    /// Held by each page while it is staged.
    pub(super) staging: Arc<RwLock<()>>,
}

/// Which pages of a shipment are here, as version 1 of the protocol numbers them.
#[derive(Debug, Default)]
struct Placed {
    /// All before this one are.
    next: u64,
    /// Beyond that: where the listing goes on after each.
    beyond: BTreeMap<u64, Cursor>,
}

impl Placed {
    /// The page with this number is here; the listing goes on at `after`. How far all of them are, if that is news.
    fn page(&mut self, number: u64, after: Cursor) -> Option<Cursor> {
        if number >= self.next {
            self.beyond.insert(number, after);
        }
        let mut reached = None;
        while let Some(after) = self.beyond.remove(&self.next) {
            self.next += 1;
            reached = Some(after);
        }
        reached
    }
}

impl Incoming {
    fn new(volume: VolumeId, ship: u128, of: Option<(LogBase, LineageId, History)>) -> Incoming {
        let (placed, spans, staging) = (Placed::default(), Spans::default(), Arc::default());
        Incoming { volume, ship, of, heard: Instant::now(), placed, spans, no_room: None, spoilt: false, staging }
    }
}

fn received_snapshot(snapshot: ShippedSnapshot) -> SnapshotRow {
    let ShippedSnapshot { seq, creation, holds } = snapshot;
    let Creation { id, group, created_unix_ms, size_bytes, name, labels } = creation;
    let state = SnapshotState::Missing;
    SnapshotRow { id, group, name, labels, holds, created_unix_ms, seq, size_bytes, state }
}

/// The target's side of one call.
pub async fn receive(shared: Arc<Shared>, handle: Arc<VolumeHandle>, call: Call) -> Result<Bytes, OpError> {
    match call {
        Call::ShipBasis { volume } => {
            let store = shared.clone();
            let empty =
                move || Ok(store.store.volumes().iter().any(|v| v.volume == volume && v.applied_seq == Seq::ZERO));
            let copy = if blocking(empty).await? { shared.diverged.newest(volume) } else { None };
            let basis = copy.map(|copy| (copy.name.clone(), copy.history.clone(), copy.end));
            return Ok(answers::encode_basis(basis.as_ref()));
        }
        Call::ShipBasisChanges { volume, basis, since, cursor } => {
            let store = shared.clone();
            let page = move || match store.store.changed_since(volume, Some(since), &basis, cursor, PAGE_EXTENTS) {
                Err(StoreError::BelowFloor { .. } | StoreError::NoPin { .. }) => Ok(None),
                other => other.map(Some),
            };
            return match blocking(page).await? {
                Some(page) => Ok(answers::encode_changes(&page)),
                None => {
                    Err(OpError::failed_precondition("what it changed since is not known any more", "copy all of it"))
                }
            };
        }
        Call::ShipBegin { volume, ship, lineage, base, image, history, basis, packed } => {
            // What still comes in of an attempt before is waited for: then it is here, and not asked for again.
            let staging = lock(&shared.incoming).iter().find(|i| i.volume == volume && i.ship == ship).map(staging_of);
            let _quiet = match &staging {
                Some(staging) => Some(staging.write().await),
                None => None,
            };
            let store = shared.clone();
            let base = (base > Seq::ZERO).then_some(base);
            let begin = move || {
                let known = store.store.stage(volume)?.is_some_and(|stage| stage.ship_id == ship);
                let stage = store.store.stage_begin(volume, ship, base, basis.as_deref(), image.seq)?;
                Ok((stage.cursor, known))
            };
            let (cursor, known) = blocking(begin).await?;
            let mut begun = Incoming::new(volume, ship, Some((image, lineage, history)));
            begun.spans = Spans::from(cursor);
            let mut incoming = lock(&shared.incoming);
            if let Some(before) = incoming.iter_mut().find(|i| i.volume == volume && i.ship == ship) {
                (begun.staging, begun.no_room) = (before.staging.clone(), before.no_room.take());
                if known && !before.spoilt {
                    begun.spans = std::mem::take(&mut before.spans);
                }
            }
            incoming.retain(|i| i.volume != volume);
            let arrived = begun.spans.arrived();
            incoming.push(begun);
            return Ok(if packed { answers::encode_arrived(&arrived) } else { answers::encode_staged(cursor) });
        }
        Call::ShipOffer { .. } | Call::ShipPacked { .. } | Call::ShipProof { .. } => {
            return receive_packed::receive(shared, call).await;
        }
        Call::ShipSnapshots { volume, ship, snapshots } => {
            heard(&shared, volume, ship)?;
            let store = shared.clone();
            let rows: Vec<SnapshotRow> = snapshots.into_iter().map(received_snapshot).collect();
            blocking(move || store.store.stage_snapshots(volume, ship, &rows)).await?;
        }
        Call::ShipPage { volume, ship, runs, place } => {
            heard(&shared, volume, ship)?;
            let store = shared.clone();
            blocking(move || stage(&store, volume, ship, runs)).await?;
            // Durable with one of the checkpoints that are made meanwhile.
            if let Some(reached) = place.and_then(|(number, after)| placed(&shared, volume, ship, number, after)) {
                blocking(move || shared.store.stage_advance(volume, ship, reached)).await?;
            }
        }
        Call::ShipEnd { volume, ship } => {
            heard(&shared, volume, ship)?;
            let ended = {
                let mut incoming = lock(&shared.incoming);
                let at = incoming.iter().position(|i| i.volume == volume && i.ship == ship);
                at.map(|at| incoming.remove(at))
            };
            if let Some(ended) = ended
                && let Some((image, lineage, history)) = ended.of
            {
                // A page that is late must not note afterwards how far it has come.
                let _quiet = ended.staging.write().await;
                // Durable as a whole before the core hears of it: from then on a crash may fall anywhere, and what is
                // installed after it must be all of the image.
                let store = shared.clone();
                blocking(move || {
                    store.store.stage_advance(volume, ship, WHOLE)?;
                    store.store.checkpoint().map(drop)
                })
                .await?;
                handle.inbox.event(Event::Staged { lineage, base: image, history });
            }
        }
        _ => {}
    }
    Ok(Bytes::new())
}

fn stage(shared: &Shared, volume: VolumeId, ship: u128, runs: Vec<ShippedRun>) -> Result<(), StoreError> {
    for run in runs {
        let data = match run.data {
            Some(data) => StageData::Data(data),
            None => StageData::Hole { len: run.length },
        };
        shared.store.stage_write(volume, ship, run.offset, data)?;
    }
    Ok(())
}

/// A page is staged: how far all of them are, if that is news.
fn placed(shared: &Shared, volume: VolumeId, ship: u128, number: u64, after: Cursor) -> Option<Cursor> {
    let mut incoming = lock(&shared.incoming);
    incoming.iter_mut().find(|i| i.volume == volume && i.ship == ship)?.placed.page(number, after)
}

/// Something is being received.
pub fn is_under_way(shared: &Shared) -> bool {
    lock(&shared.incoming).iter().any(|i| i.of.is_some() && !i.spoilt && i.heard.elapsed() < IDLE_MAX)
}

fn staging_of(incoming: &Incoming) -> Arc<RwLock<()>> {
    incoming.staging.clone()
}

/// Its source says something. Who stages a page holds what is returned meanwhile.
pub(super) fn heard(shared: &Shared, volume: VolumeId, ship: u128) -> Result<Arc<RwLock<()>>, OpError> {
    let mut incoming = lock(&shared.incoming);
    match incoming.iter_mut().find(|i| i.volume == volume && i.ship == ship && i.of.is_some()) {
        Some(found) if found.spoilt => Err(receive_packed::spoilt()),
        Some(found) => {
            found.heard = Instant::now();
            Ok(staging_of(found))
        }
        None => Err(OpError::failed_precondition("this shipment is not under way here", "begin it anew")),
    }
}

/// After a restart: what had been received of a shipment stays for its source to go on with. All of it, of which the
/// core was not told, goes.
pub async fn take_up(shared: &Arc<Shared>, volume: VolumeId, installing: bool) -> Result<(), StoreError> {
    if installing || !shared.store.volumes().iter().any(|v| v.volume == volume) {
        return Ok(());
    }
    let shared = shared.clone();
    let taken = tokio::task::spawn_blocking(move || match shared.store.stage(volume)? {
        Some(stage) if stage.cursor != WHOLE => {
            let spans = Spans::from(stage.cursor);
            lock(&shared.incoming).push(Incoming { spans, ..Incoming::new(volume, stage.ship_id, None) });
            Ok(())
        }
        Some(stage) => shared.store.stage_abort(volume, stage.ship_id),
        None => Ok(()),
    });
    taken.await.unwrap_or_else(|e| Err(StoreError::Poisoned { reason: e.to_string() }))
}

/// Gives up what sources have abandoned, so that applying goes on.
pub fn expire(node: &Node) {
    let shared = &node.shared;
    let silent: Vec<(VolumeId, u128, Duration, bool)> =
        lock(&shared.incoming).iter().map(|i| (i.volume, i.ship, i.heard.elapsed(), i.of.is_some())).collect();
    let short = node.is_short_of_space();
    for (volume, ship, silent, begun) in silent {
        let waited_for = node.volume(volume).is_none_or(|handle| handle.applier.stopped().is_some());
        let patience = match waited_for {
            false if short => KEPT_AT_LEAST,
            false => Duration::MAX,
            true if begun => IDLE_MAX,
            true => LEFT_BEHIND_MAX,
        };
        if silent <= patience {
            continue;
        }
        lock(&shared.incoming).retain(|i| i.volume != volume || i.ship != ship || i.heard.elapsed() <= patience);
        if let Err(error) = shared.store.stage_abort(volume, ship) {
            tracing::warn!(%volume, %error, "an abandoned shipment could not be dropped");
        }
    }
}

/// The core has no use for the image that was staged.
pub fn drop_image(shared: Arc<Shared>, volume: VolumeId) {
    tokio::task::spawn_blocking(move || {
        let dropped = match shared.store.stage(volume) {
            Ok(Some(stage)) if stage.cursor == WHOLE => shared.store.stage_abort(volume, stage.ship_id),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = dropped {
            tracing::warn!(%volume, %error, "a shipment that came too late could not be dropped");
        }
    });
}

/// Makes the staged image visible. After a crash it may be so already.
pub fn install(shared: Arc<Shared>, inbox: Arc<Inbox>, applier: Arc<Applier>, volume: VolumeId, seq: Seq) {
    tokio::task::spawn_blocking(move || {
        let result = match shared.store.stage(volume) {
            Ok(Some(stage)) if stage.target_seq == seq && stage.cursor == WHOLE => {
                shared.store.stage_commit(volume, stage.ship_id).map(|_| true)
            }
            Ok(_) => Ok(shared.store.volumes().iter().any(|v| v.volume == volume && v.applied_seq == seq)),
            Err(error) => Err(error),
        };
        match result {
            Ok(true) => {
                applier.jump_to(seq);
                inbox.event(Event::ImageVisible);
            }
            Ok(false) => inbox.event(Event::ImageLost),
            Err(error) => {
                tracing::error!(%volume, %error, "the staged image could not be made visible");
                inbox.event(Event::JournalFailed { reason: format!("installing a resync's image: {error}") });
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(extent: u64) -> Cursor {
        Cursor { seq: Seq(1), extent }
    }

    #[test]
    fn all_before_a_gap_is_here_and_nothing_beyond_it() {
        let mut placed = Placed::default();
        assert_eq!(placed.page(1, at(20)), None, "the first is missing");
        assert_eq!(placed.page(2, at(30)), None);
        assert_eq!(placed.page(0, at(10)), Some(at(30)));
        assert_eq!(placed.page(4, at(50)), None);
        assert_eq!(placed.page(1, at(20)), None, "once more");
        assert_eq!(placed.page(3, at(40)), Some(at(50)));
    }
}
