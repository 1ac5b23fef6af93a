//! Resync: shipping everything that changed since a seq to a replica that the journal can no longer serve.
//!
//! Source: pin the applied image, list what changed since the target's applied seq (`ship_listing`), send it page by page
//! on the bulk connection, each page answered (`ship_pages`). Target (see receive): stage it beside the visible image;
//! only when all of it is there does the core install it. The target's old image stays consistent and visible until
//! then. A shipment that was cut short goes on with what has not arrived (see outgoing): of what has, at most the page
//! that the link was cut in is sent twice, a chunk of 1 MiB (`packing`).
//!
//! After a fork the target has set its image aside (see diverged). Then what is sent is what either side changed since
//! the histories parted, and the rest comes from the image that was set aside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use farshore_core::api::Event;
use farshore_core::codec::DecodeError;
use farshore_core::durable::LogBase;
use farshore_core::history::History;
use farshore_core::ids::{LineageId, MemberId, Seq, VolumeId};
use farshore_core::mark::Creation;

use super::answers::{self, Arrived};
use super::inbox::Inbox;
use super::node::{Node, Shared};
use super::outgoing::Shipment;
use super::repair::Copies;
use super::rpc::{Call, ShippedSnapshot};
use super::ship_counts::add;
use super::ship_listing::{Basis, Listing};
use super::ship_pages::{Pages, Way};
use crate::control::{OpError, OpKind};
use crate::store::{Cursor, SnapshotRow, StoreError};
use crate::transport::PeerName;

/// Extents listed at a time.
pub(super) const PAGE_EXTENTS: usize = 64;
const REFUSED_PAUSE: Duration = Duration::from_millis(200);
/// What the target lacks is room, and that is not made in an instant.
const FULL_PAUSE: Duration = Duration::from_secs(5);
/// The version of the protocol since which pages are packed.
const PACKED_SINCE: u16 = 2;
/// Each may have its 32 KiB of labels.
const SNAPSHOTS_PER_CALL: usize = 32;
/// Patience with one page: others are before it on the link, and the target writes it before it answers.
pub(super) const PAGE_PATIENCE: Duration = Duration::from_secs(60);

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
        let (mut shipment, stale) = shared.outgoing.begin(volume, to, base);
        let mut over = stale;
        // A target that refused must not be asked again at once.
        let mut pause = REFUSED_PAUSE;
        match peer {
            None => over.extend(shared.outgoing.keep(shipment)),
            Some(peer) => {
                let started = Instant::now();
                let (sent, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
                let shipped = ship_pinned(&shared, &copies, &peer, &mut shipment, base, of, (&sent, &answered)).await;
                let sent_bytes = sent.load(Ordering::Relaxed);
                let ms = started.elapsed().as_millis() as u64;
                match shipped {
                    Ok(()) => {
                        tracing::info!(%volume, %peer, bytes = sent_bytes, ms, "resync: image shipped");
                        over.push(shipment);
                    }
                    Err(error) => {
                        tracing::warn!(%volume, %peer, bytes = sent_bytes, %error, "resync: shipment cut short, it will be tried again");
                        if error.kind == OpKind::Exhausted {
                            pause = FULL_PAUSE;
                        } else {
                            shipment.cut_short(answered.load(Ordering::Relaxed) == 0);
                        }
                        over.extend(shared.outgoing.keep(shipment));
                    }
                }
            }
        }
        unpin(&shared, over).await;
        tokio::time::sleep(pause).await;
        inbox.event(Event::Shipped { to });
    });
}

async fn unpin(shared: &Arc<Shared>, over: Vec<Shipment>) {
    let shared = shared.clone();
    let unpinned = tokio::task::spawn_blocking(move || {
        for shipment in over {
            if let Err(error) = shared.store.unpin(shipment.volume, &shipment.pin()) {
                tracing::warn!(volume = %shipment.volume, %error, "the pin of a shipment could not be given up");
            }
        }
    });
    let _ = unpinned.await;
}

/// Gives up what no target came back for, or will: it is a member no more.
pub async fn expire(node: &Node) {
    let (shared, catalog) = (&node.shared, &node.catalog);
    let over = shared.outgoing.expired(|volume, to| {
        catalog.get(volume).is_none_or(|handle| handle.config.borrow().members.iter().any(|member| member.id == to))
    });
    if !over.is_empty() {
        unpin(shared, over).await;
    }
}

pub(super) async fn blocking<T: Send + 'static>(
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
    shipment: &mut Shipment,
    applied: Seq,
    (lineage, mut history): (LineageId, History),
    (sent_bytes, answered): (&Arc<AtomicU64>, &Arc<AtomicU64>),
) -> Result<(), OpError> {
    let (volume, ship, pin) = (copies.volume, shipment.ship, shipment.pin());
    let (store, name) = (shared.clone(), pin.clone());
    // An attempt before has pinned it, and it stays where it is.
    let seq = blocking(move || store.store.pin(volume, &name)).await?;
    if seq < applied {
        return Err(outgrown(
            shipment,
            format!("the image that was begun is at {seq}, the target at {applied} already"),
        ));
    }
    let image = image_at(shared, shipment, seq, &history)?;
    history.truncate(seq);
    let (store, name) = (shared.clone(), pin.clone());
    let known = (shipment.base > Seq::ZERO).then_some(shipment.base);
    let probe = blocking(move || match store.store.changed_since(volume, known, &name, Cursor::default(), 1) {
        Err(StoreError::BelowFloor { .. }) => Ok(None),
        Err(error) => Err(error),
        Ok(_) => Ok(known),
    });
    // Below the changed-floor only a full copy helps, which also clears what we lack.
    let mut base = probe.await?;
    let mut basis = None;
    if base.is_none() {
        basis = basis_of(shared, volume, peer, &pin, seq, &history).await?;
        base = basis.as_ref().map(|basis| basis.since);
    }
    let packs = version_of(shared, peer) >= PACKED_SINCE;
    let (since, builds_on) = (base.unwrap_or(Seq::ZERO), basis.as_ref().map(|basis| basis.name.clone()));
    let begin = Call::ShipBegin { volume, ship, lineage, base: since, image, history, basis: builds_on, packed: packs };
    let answer = shared.calls.call(&shared.transport, peer, &begin, PAGE_PATIENCE).await?;
    let places = !packs && !answer.is_empty();
    let arrived = match packs {
        true => answers::decode_arrived(answer).map_err(undecodable)?,
        false => {
            let upto = answers::decode_staged(answer).map_err(undecodable)?.unwrap_or_default();
            Arrived { upto, beyond: Vec::new() }
        }
    };
    if arrived == Arrived::default() && shipment.base < applied {
        return Err(outgrown(
            shipment,
            format!("nothing since {} has come, and the target has {applied}", shipment.base),
        ));
    }
    if arrived != Arrived::default() {
        add(&shared.ship_counts.resumed, 1);
        let (at, beyond) = (arrived.upto, arrived.beyond.len());
        tracing::info!(%volume, %peer, extent = at.extent, after = %at.seq, beyond, "resync: the shipment goes on");
    }
    ship_snapshots(shared, peer, volume, ship, seq).await?;
    let offers = shipment.base > Seq::ZERO || basis.is_some();
    let mut pages = Pages::new(Way {
        shared: shared.clone(),
        volume,
        peer: peer.clone(),
        ship,
        packs,
        offers,
        places,
        sent_bytes: sent_bytes.clone(),
        answered: answered.clone(),
        turn: tokio::sync::Mutex::default(),
    });
    let mut listing = Listing::new(shared, copies, &pin, base, basis.clone(), arrived);
    while let Some(page) = listing.next().await? {
        pages.send(page).await?;
    }
    pages.all_answered().await?;
    if packs {
        let proven = prove(pages, Listing::new(shared, copies, &pin, base, basis, Arrived::default())).await;
        if proven.as_ref().is_err_and(|error| error.kind == OpKind::Conflict) {
            shipment.give_up();
        }
        proven?;
    }
    let end = Call::ShipEnd { volume, ship };
    shared.calls.call(&shared.transport, peer, &end, PAGE_PATIENCE).await.map(drop)
}

/// One that begins now is shorter than what is left of this one.
fn outgrown(shipment: &mut Shipment, reason: String) -> OpError {
    shipment.give_up();
    OpError::unavailable(reason, "a new one is begun")
}

/// Has the target compare all of the difference, what came in earlier attempts too, with what is here.
async fn prove(mut pages: Pages, mut listing: Listing) -> Result<(), OpError> {
    while let Some(page) = listing.next().await? {
        pages.prove(page).await?;
    }
    pages.all_answered().await
}

/// The protocol version agreed with a peer; 0 while it is not connected.
fn version_of(shared: &Shared, peer: &PeerName) -> u16 {
    let found = shared.transport.status().into_iter().find(|status| status.name == *peer);
    found.and_then(|status| status.protocol_version).unwrap_or(0)
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
) -> Result<Option<Basis>, OpError> {
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
        Ok(_) => Ok(Some(Basis { name: basis, since: parted, peer: peer.clone() })),
        Err(error) if error.kind == OpKind::FailedPrecondition => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn undecodable(error: DecodeError) -> OpError {
    OpError::unavailable("the target's answer does not decode", "run the same version on all nodes").because(error)
}

/// The last record of the pinned image. The journal may have let go of it since an attempt before.
fn image_at(shared: &Arc<Shared>, shipment: &mut Shipment, seq: Seq, history: &History) -> Result<LogBase, OpError> {
    let image = match (base_at(shared, shipment.volume, seq, history), shipment.image) {
        (Ok(image), _) => image,
        (Err(_), Some((image, epoch))) if image.seq == seq && history.epoch_of(seq) == Some(epoch) => image,
        (Err(error), _) => return Err(error),
    };
    shipment.image = history.epoch_of(seq).map(|epoch| (image, epoch));
    Ok(image)
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
