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

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farshore_core::api::Event;
use farshore_core::codec::DecodeError;
use farshore_core::durable::LogBase;
use farshore_core::history::History;
use farshore_core::ids::{LineageId, MemberId, Seq, VolumeId};
use farshore_core::mark::Creation;
use tokio::task::JoinSet;

use super::answers::{self, Arrived};
use super::driver::lock;
use super::inbox::Inbox;
use super::node::{Node, Shared};
use super::outgoing::Shipment;
use super::repair::Copies;
use super::rpc::{Call, ShippedSnapshot};
use super::ship_attempt::{Attempt, Progress};
use super::ship_counts::add;
use super::ship_listing::{Basis, Image, Listing};
use super::ship_pages::{Pages, Way};
use super::spans::Spans;
use crate::control::{OpError, OpKind, states};
use crate::store::{ChangedExtent, Cursor, SnapshotRow, StoreError};
use crate::transport::PeerName;

/// Extents listed at a time.
pub(super) const PAGE_EXTENTS: usize = 64;
const REFUSED_PAUSE: Duration = Duration::from_millis(200);
/// What the target lacks is room, and that is not made in an instant.
const FULL_PAUSE: Duration = Duration::from_secs(5);
/// The version of the protocol since which pages are packed.
const PACKED_SINCE: u16 = 2;
/// Listed at a time for counting alone.
const COUNTED_EXTENTS: usize = 512;
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
                let attempt = Attempt::new(&shared, &peer, &shipment.progress);
                let under_way = shared.outgoing.under_way(&shipment);
                let shipped = ship_pinned(&shared, &copies, &attempt, &mut shipment, base, of).await;
                drop(under_way);
                let sent_bytes = attempt.sent_bytes.load(Ordering::Relaxed);
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
                            shipment.cut_short(!attempt.brought_nothing(), attempt.was_fruitless());
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

/// Gives up what no target will come back for, since it is a member no more or has come up by other means; and what none
/// came back for in a long time, where space is short.
pub async fn expire(node: &Node) {
    let (shared, catalog) = (&node.shared, &node.catalog);
    let old = shared.outgoing.old();
    let mut unwanted = Vec::new();
    if !old.is_empty() {
        let short = node.is_short_of_space();
        for (volume, to) in old {
            if short || !lacks_an_image(node, volume, to).await {
                unwanted.push((volume, to));
            }
        }
    }
    let over = shared.outgoing.expired(&unwanted, |volume, to| {
        catalog.get(volume).is_none_or(|handle| handle.config.borrow().members.iter().any(|member| member.id == to))
    });
    if !over.is_empty() {
        unpin(shared, over).await;
    }
}

/// As far as is known here: who does not lead the volume ships nothing.
async fn lacks_an_image(node: &Node, volume: VolumeId, to: MemberId) -> bool {
    let Some(handle) = node.catalog.get(volume) else { return false };
    let Some(status) = handle.status().await.filter(|status| status.role == "primary") else { return false };
    let followed = [states::member::REPLICATING, states::member::RESTING];
    status.members.iter().any(|member| member.id == to && !followed.contains(&member.state))
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
    attempt: &Arc<Attempt>,
    shipment: &mut Shipment,
    applied: Seq,
    (lineage, mut history): (LineageId, History),
) -> Result<(), OpError> {
    let (volume, ship, pin, peer) = (copies.volume, shipment.ship, shipment.pin(), &attempt.peer);
    let (store, name) = (shared.clone(), pin.clone());
    // An attempt before has pinned it, and it stays where it is.
    let seq = blocking(move || store.store.pin(volume, &name)).await?;
    if seq < applied {
        return Err(outgrown(
            shipment,
            format!("the image that was begun is at {seq}, the target at {applied} already"),
        ));
    }
    let last = image_at(shared, shipment, seq, &history)?;
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
        basis = basis_of(shared, volume, attempt, &pin, seq, &history).await?;
        base = basis.as_ref().map(|basis| basis.since);
    }
    let packs = version_of(shared, peer) >= PACKED_SINCE;
    let (since, builds_on) = (base.unwrap_or(Seq::ZERO), basis.as_ref().map(|basis| basis.name.clone()));
    let begin =
        Call::ShipBegin { volume, ship, lineage, base: since, image: last, history, basis: builds_on, packed: packs };
    let answer = attempt.call(&begin).await?;
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
    ship_snapshots(shared, attempt, volume, ship, seq).await?;
    let image = Image { shared: shared.clone(), copies: copies.clone(), pin };
    let proven = Arc::new(Mutex::new(std::mem::take(&mut shipment.proven).within(&arrived)));
    let pages = Pages::new(Way {
        shared: shared.clone(),
        volume,
        image: image.clone(),
        attempt: attempt.clone(),
        ship,
        packs,
        offers: shipment.base > Seq::ZERO || basis.is_some(),
        places,
        proven: proven.clone(),
        turn: tokio::sync::Mutex::default(),
    });
    let (known, counting) = (arrived.upto, attempt.progress.clone());
    counting.begin();
    // Ends with this attempt.
    let mut counters = JoinSet::new();
    counters.spawn(count(image.clone(), base, known, counting));
    let listing = |known| Listing::new(attempt, &image, base, basis.clone(), known);
    let done = all_of(pages, listing, arrived, &proven).await;
    drop(counters);
    shipment.proven = std::mem::take(&mut *lock(&proven));
    if done.as_ref().is_err_and(|error| error.kind == OpKind::Conflict) {
        shipment.give_up();
    }
    done?;
    let end = Call::ShipEnd { volume, ship };
    attempt.call(&end).await.map(drop)
}

/// Sends what has not arrived, and then has compared what is not proven yet: what earlier attempts sent, as far as they
/// did not come to that, and what has no place.
async fn all_of(
    mut pages: Pages,
    listing: impl Fn(Arrived) -> Listing,
    arrived: Arrived,
    proven: &Mutex<Spans>,
) -> Result<(), OpError> {
    let mut all = listing(arrived);
    while let Some(page) = all.next().await? {
        pages.send(page).await?;
    }
    pages.all_answered().await?;
    if !pages.are_packed() {
        return Ok(());
    }
    let known = lock(proven).arrived();
    let mut rest = listing(known);
    while let Some(page) = rest.next().await? {
        pages.prove(page).await?;
    }
    pages.all_answered().await
}

/// For who watches: how much there is to ship from here on. What arrived beyond a gap is counted once more.
async fn count(image: Image, base: Option<Seq>, from: Cursor, progress: Arc<Progress>) {
    let mut next = (from.seq < Seq(u64::MAX)).then_some(from);
    while let Some(at) = next {
        let image = image.clone();
        let page = blocking(move || {
            image.shared.store.changed_since(image.copies.volume, base, &image.pin, at, COUNTED_EXTENTS)
        });
        // Then it remains unknown.
        let Ok(page) = page.await else { return };
        progress.to_do(page.extents.iter().map(ChangedExtent::data_bytes).sum());
        next = page.next;
    }
    progress.all_counted();
}

/// One that begins now is shorter than what is left of this one.
fn outgrown(shipment: &mut Shipment, reason: String) -> OpError {
    shipment.give_up();
    OpError::unavailable(reason, "a new one is begun")
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
    attempt: &Attempt,
    pin: &str,
    seq: Seq,
    history: &History,
) -> Result<Option<Basis>, OpError> {
    let answer = attempt.call(&Call::ShipBasis { volume }).await?;
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
    match attempt.call(&probe).await {
        Ok(_) => Ok(Some(Basis { name: basis, since: parted })),
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
    attempt: &Attempt,
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
        attempt.call(&call).await?;
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
