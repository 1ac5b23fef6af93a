//! Resync: shipping everything that changed since a seq to a replica that the journal can no longer serve.
//!
//! Source: pin the applied image, list what changed since the target's applied seq, send it page by page on the bulk
//! connection, each page answered. Target: stage it beside the visible image; only when all of it is there does the
//! core install it. The target's old image stays consistent and visible until then.
//!
//! After a fork the target has set its image aside (see diverged). Then what is sent is what either side changed since
//! the histories parted, and the rest comes from the image that was set aside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::api::Event;
use farshore_core::codec::DecodeError;
use farshore_core::durable::LogBase;
use farshore_core::history::History;
use farshore_core::ids::{LineageId, MemberId, Seq, VolumeId};
use farshore_core::mark::Creation;
use tokio::task::JoinSet;

use super::answers;
use super::applier::Applier;
use super::clock::random_u128;
use super::driver::{VolumeHandle, lock};
use super::inbox::Inbox;
use super::node::Shared;
use super::repair::{self, Copies};
use super::rpc::{Call, ShippedRun, ShippedSnapshot};
use crate::control::{OpError, OpKind};
use crate::store::{ChangedExtent, Cursor, SnapshotRow, SnapshotState, StageData, StoreError};
use crate::transport::PeerName;

/// Extents listed at a time, and so the most that one page carries (4 MiB).
const PAGE_EXTENTS: usize = 64;
/// Pages under way to one target: the link goes on while the target writes and the next page is read.
const PAGES_UNDER_WAY_MAX: usize = 3;
/// Each may have its 32 KiB of labels.
const SNAPSHOTS_PER_CALL: usize = 32;
/// Patience with one page: the target writes it before it answers.
const PAGE_PATIENCE: Duration = Duration::from_secs(30);
/// A shipment whose source is silent this long is given up.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// What the pins of shipments are called; none outlives its daemon.
pub const SHIP_PIN_PREFIX: &str = "ship-";
/// Where the cursor of a shipment stands when all of it is there.
const WHOLE: Cursor = Cursor { seq: Seq(u64::MAX), extent: u64::MAX };

/// An image being received.
pub struct Incoming {
    volume: VolumeId,
    ship: u128,
    image: LogBase,
    lineage: LineageId,
    history: History,
    heard: Instant,
}

/// Ships in the background; tells the core when it ended, well or not (the core asks the target where it stands).
pub fn send(
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    copies: Copies,
    peer: Option<PeerName>,
    to: MemberId,
    base: Seq,
    of: (LineageId, History),
) {
    let volume = copies.volume;
    tokio::spawn(async move {
        let ship = random_u128();
        let pin = format!("{SHIP_PIN_PREFIX}{ship:032x}");
        if let Some(peer) = peer {
            let started = Instant::now();
            match ship_pinned(&shared, &copies, &peer, ship, &pin, base, of).await {
                Ok(bytes) => {
                    let ms = started.elapsed().as_millis() as u64;
                    tracing::info!(%volume, %peer, bytes, ms, "resync: image shipped");
                }
                Err(error) => tracing::warn!(%volume, %peer, %error, "resync: shipment failed, it will be tried again"),
            }
        }
        let unpinned = shared.clone();
        let _ = tokio::task::spawn_blocking(move || unpinned.store.unpin(volume, &pin)).await;
        // A target that refused must not be asked again at once.
        tokio::time::sleep(Duration::from_millis(200)).await;
        inbox.event(Event::Shipped { to });
    });
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, OpError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| OpError::internal("a store task ended").because(e))?.map_err(
        |e| OpError::unavailable("the store could not do its part of a resync", "see the daemon's log").because(e),
    )
}

async fn ship_pinned(
    shared: &Arc<Shared>,
    copies: &Copies,
    peer: &PeerName,
    ship: u128,
    pin: &str,
    base: Seq,
    (lineage, mut history): (LineageId, History),
) -> Result<u64, OpError> {
    let volume = copies.volume;
    let (store, name) = (shared.clone(), pin.to_string());
    let seq = blocking(move || store.store.pin(volume, &name)).await?;
    let image = base_at(shared, volume, seq, &history)?;
    history.truncate(seq);
    let (store, name) = (shared.clone(), pin.to_string());
    let known = (base > Seq::ZERO).then_some(base);
    let probe = blocking(move || match store.store.changed_since(volume, known, &name, Cursor::default(), 1) {
        Err(StoreError::BelowFloor { .. }) => Ok(None),
        Err(error) => Err(error),
        Ok(_) => Ok(known),
    });
    // Below the changed-floor only a full copy helps, which also clears what we lack.
    let mut base = probe.await?;
    let mut basis = None;
    if base.is_none()
        && let Some((parted, name)) = basis_of(shared, volume, peer, pin, seq, &history).await?
    {
        (base, basis) = (Some(parted), Some(name));
    }
    let (since, builds_on) = (base.unwrap_or(Seq::ZERO), basis.clone());
    let begin = Call::ShipBegin { volume, ship, lineage, base: since, image, history, basis: builds_on };
    shared.calls.call(&shared.transport, peer, &begin, PAGE_PATIENCE).await?;
    ship_snapshots(shared, peer, volume, ship, seq).await?;
    let mut pages = Pages::new(shared, copies.volume, peer, ship);
    if let (Some(since), Some(basis)) = (base, basis) {
        ship_what_it_changed(&mut pages, copies, pin, (basis, since)).await?;
    }
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        let pinned = pin.to_string();
        let (runs, next) = on_whole(shared, copies, pin, move |shared| {
            let page = shared.store.changed_since(volume, base, &pinned, at, PAGE_EXTENTS)?;
            let mut runs = Vec::new();
            for extent in &page.extents {
                read_runs(shared, volume, &pinned, extent, &mut runs)?;
            }
            Ok((runs, page.next))
        })
        .await?;
        pages.send(runs).await?;
        cursor = next;
    }
    pages.all_answered().await?;
    let end = Call::ShipEnd { volume, ship };
    shared.calls.call(&shared.transport, peer, &end, PAGE_PATIENCE).await?;
    Ok(pages.sent_bytes)
}

/// The pages of one shipment. Each is staged by itself, in whatever order they arrive; what is under way ends with this.
struct Pages {
    shared: Arc<Shared>,
    volume: VolumeId,
    peer: PeerName,
    ship: u128,
    under_way: JoinSet<Result<Bytes, OpError>>,
    sent_bytes: u64,
}

impl Pages {
    fn new(shared: &Arc<Shared>, volume: VolumeId, peer: &PeerName, ship: u128) -> Pages {
        let (shared, peer) = (shared.clone(), peer.clone());
        Pages { shared, volume, peer, ship, under_way: JoinSet::new(), sent_bytes: 0 }
    }

    /// Sends a page once there is room for it; fails as soon as any before it has.
    async fn send(&mut self, runs: Vec<ShippedRun>) -> Result<(), OpError> {
        if runs.is_empty() {
            return Ok(());
        }
        if self.under_way.len() >= PAGES_UNDER_WAY_MAX {
            self.one_answered().await?;
        }
        self.sent_bytes += runs.iter().map(|r| r.data.as_ref().map_or(0, |d| d.len() as u64)).sum::<u64>();
        let page = Call::ShipPage { volume: self.volume, ship: self.ship, runs };
        let (shared, peer) = (self.shared.clone(), self.peer.clone());
        self.under_way.spawn(async move { shared.calls.call(&shared.transport, &peer, &page, PAGE_PATIENCE).await });
        Ok(())
    }

    async fn one_answered(&mut self) -> Result<(), OpError> {
        match self.under_way.join_next().await {
            None => Ok(()),
            Some(Ok(answer)) => answer.map(drop),
            Some(Err(ended)) => Err(OpError::internal("a page's task ended").because(ended)),
        }
    }

    async fn all_answered(&mut self) -> Result<(), OpError> {
        while !self.under_way.is_empty() {
            self.one_answered().await?;
        }
        Ok(())
    }
}

/// A copy that the target set aside after a fork, and the seq up to which its history is ours: what lies below that
/// needs no shipping. `None`: there is none, or one of us can't tell any more what changed since.
async fn basis_of(
    shared: &Arc<Shared>,
    volume: VolumeId,
    peer: &PeerName,
    pin: &str,
    seq: Seq,
    history: &History,
) -> Result<Option<(Seq, String)>, OpError> {
    let answer = shared.calls.call(&shared.transport, peer, &Call::ShipBasis { volume }, PAGE_PATIENCE).await?;
    let Some((basis, theirs, end)) = answers::decode_basis(answer).map_err(undecodable)? else { return Ok(None) };
    let parted = history.common_point(seq, &theirs, end);
    if parted == Seq::ZERO {
        return Ok(None);
    }
    let (store, name) = (shared.clone(), pin.to_string());
    let ours = blocking(move || match store.store.changed_since(volume, Some(parted), &name, Cursor::default(), 1) {
        Err(StoreError::BelowFloor { .. }) => Ok(false),
        other => other.map(|_| true),
    });
    if !ours.await? {
        return Ok(None);
    }
    let probe = Call::ShipBasisChanges { volume, basis: basis.clone(), since: parted, cursor: Cursor::default() };
    match shared.calls.call(&shared.transport, peer, &probe, PAGE_PATIENCE).await {
        Ok(_) => Ok(Some((parted, basis))),
        Err(error) if error.kind == OpKind::FailedPrecondition => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ships what the target's own copy changed since the histories parted, as it is here.
async fn ship_what_it_changed(
    pages: &mut Pages,
    copies: &Copies,
    pin: &str,
    (basis, since): (String, Seq),
) -> Result<(), OpError> {
    let (shared, peer, volume) = (pages.shared.clone(), pages.peer.clone(), copies.volume);
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        let ask = Call::ShipBasisChanges { volume, basis: basis.clone(), since, cursor: at };
        let answer = shared.calls.call(&shared.transport, &peer, &ask, PAGE_PATIENCE).await?;
        let page = answers::decode_changes(answer).map_err(undecodable)?;
        let (pinned, extents) = (pin.to_string(), page.extents);
        let runs = on_whole(&shared, copies, pin, move |shared| {
            let mut runs = Vec::new();
            for theirs in &extents {
                let here = shared.store.extent_at(volume, &pinned, theirs.extent)?;
                read_runs(shared, volume, &pinned, &ChangedExtent { changed: theirs.changed, ..here }, &mut runs)?;
            }
            Ok(runs)
        });
        pages.send(runs.await?).await?;
        cursor = page.next;
    }
    Ok(())
}

fn undecodable(error: DecodeError) -> OpError {
    OpError::unavailable("the target's answer does not decode", "run the same version on all nodes").because(error)
}

/// Work on a pinned image. What it finds damaged is repaired from other members, and then it is done again.
async fn on_whole<T: Send + 'static>(
    shared: &Arc<Shared>,
    copies: &Copies,
    pin: &str,
    work: impl Fn(&Shared) -> Result<T, StoreError> + Send + Sync + 'static,
) -> Result<T, OpError> {
    let work = Arc::new(work);
    loop {
        let (shared, work) = (shared.clone(), work.clone());
        let done = blocking({
            let shared = shared.clone();
            move || match work(&shared) {
                Err(StoreError::Corrupt { offset, .. }) => Ok(Err(offset)),
                other => other.map(Ok),
            }
        });
        match done.await? {
            Ok(done) => return Ok(done),
            Err(offset) => repair::pinned_extent(shared, copies.clone(), pin.to_string(), offset)
                .await
                .map_err(|text| OpError::unavailable(text, "renew the damaged copy"))?,
        }
    }
}

/// The record at the pinned seq, from our own journal: the log goes on after it. The history was taken when the
/// shipment was asked for; an image of a later epoch than it knows is not shipped under it.
fn base_at(shared: &Arc<Shared>, volume: VolumeId, seq: Seq, history: &History) -> Result<LogBase, OpError> {
    // The journal remembers where it begins, too: neighbours may have taken the space of an idle volume's last record.
    let Some(end) = shared.journal.end_at(volume, seq) else {
        return Err(OpError::unavailable(
            format!("record {seq} is not in the journal, so an image at it can't be continued"),
            "it is tried again after the next write",
        ));
    };
    if history.epoch_of(seq) != Some(end.epoch) {
        return Err(OpError::conflict(
            format!("the epoch moved while an image at {seq} was prepared"),
            "the new primary ships what is missing",
        ));
    }
    Ok(LogBase { seq, hash: end.hash })
}

fn read_runs(
    shared: &Shared,
    volume: VolumeId,
    pin: &str,
    extent: &ChangedExtent,
    runs: &mut Vec<ShippedRun>,
) -> Result<(), StoreError> {
    for (offset, length, hole) in extent.runs() {
        let data = if hole { None } else { Some(shared.store.read_at(volume, pin, offset, length as usize)?) };
        runs.push(ShippedRun { offset, length, data });
    }
    Ok(())
}

/// Tells the target which snapshots the image has; it must give up those that it has not. Those that were deleted since
/// it was pinned may be missing: the log, which goes on after the image, deletes them anyway.
async fn ship_snapshots(
    shared: &Arc<Shared>,
    peer: &PeerName,
    volume: VolumeId,
    ship: u128,
    image: Seq,
) -> Result<(), OpError> {
    let store = shared.clone();
    let mut rows = blocking(move || store.store.snapshots(volume)).await?;
    rows.retain(|row| row.seq <= image);
    // Also where there are none.
    let none: &[SnapshotRow] = &[];
    let portions = if rows.is_empty() { vec![none] } else { rows.chunks(SNAPSHOTS_PER_CALL).collect() };
    for rows in portions {
        let snapshots = rows.iter().map(shipped_snapshot).collect();
        let call = Call::ShipSnapshots { volume, ship, snapshots };
        shared.calls.call(&shared.transport, peer, &call, PAGE_PATIENCE).await?;
    }
    Ok(())
}

fn shipped_snapshot(row: &SnapshotRow) -> ShippedSnapshot {
    let creation = Creation {
        id: row.id,
        group: row.group,
        created_unix_ms: row.created_unix_ms,
        size_bytes: row.size_bytes,
        name: row.name.clone(),
        labels: row.labels.clone(),
    };
    ShippedSnapshot { seq: row.seq, creation, holds: row.holds.clone() }
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
        Call::ShipBegin { volume, ship, lineage, base, image, history, basis } => {
            let store = shared.clone();
            let base = (base > Seq::ZERO).then_some(base);
            blocking(move || store.store.stage_begin(volume, ship, base, basis.as_deref(), image.seq)).await?;
            let mut incoming = lock(&shared.incoming);
            incoming.retain(|i| i.volume != volume);
            incoming.push(Incoming { volume, ship, image, lineage, history, heard: Instant::now() });
        }
        Call::ShipSnapshots { volume, ship, snapshots } => {
            heard(&shared, volume, ship)?;
            let store = shared.clone();
            let rows: Vec<SnapshotRow> = snapshots.into_iter().map(received_snapshot).collect();
            blocking(move || store.store.stage_snapshots(volume, ship, &rows)).await?;
        }
        Call::ShipPage { volume, ship, runs } => {
            heard(&shared, volume, ship)?;
            let store = shared.clone();
            blocking(move || {
                for run in runs {
                    let data = match run.data {
                        Some(data) => StageData::Data(data),
                        None => StageData::Hole { len: run.length },
                    };
                    store.store.stage_write(volume, ship, run.offset, data)?;
                }
                Ok(())
            })
            .await?;
        }
        Call::ShipEnd { volume, ship } => {
            heard(&shared, volume, ship)?;
            let ended = {
                let mut incoming = lock(&shared.incoming);
                let at = incoming.iter().position(|i| i.volume == volume && i.ship == ship);
                at.map(|at| incoming.remove(at))
            };
            if let Some(Incoming { image, lineage, history, .. }) = ended {
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

fn heard(shared: &Shared, volume: VolumeId, ship: u128) -> Result<(), OpError> {
    let mut incoming = lock(&shared.incoming);
    match incoming.iter_mut().find(|i| i.volume == volume && i.ship == ship) {
        Some(found) => {
            found.heard = Instant::now();
            Ok(())
        }
        None => Err(OpError::failed_precondition("this shipment is not under way here", "begin it anew")),
    }
}

/// Gives up what sources have abandoned, so that applying goes on.
pub fn expire(shared: &Shared) {
    let stale: Vec<(VolumeId, u128)> = {
        let mut incoming = lock(&shared.incoming);
        let stale = incoming.iter().filter(|i| i.heard.elapsed() > IDLE_MAX).map(|i| (i.volume, i.ship)).collect();
        incoming.retain(|i| i.heard.elapsed() <= IDLE_MAX);
        stale
    };
    for (volume, ship) in stale {
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
