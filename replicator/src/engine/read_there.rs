//! Reads of a holder of the epoch that has no copy: from the store of a member that shows enough, the nearest first.
//!
//! What enough is, the core says ([`farshore_core::volume::Volume::read_from`]), and whether a store shows it is for its own
//! node to say, at that moment: it may have fallen back to a checkpoint since it was heard of last. That nothing is told
//! too late, the core sees to when the bytes are there.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use farshore_core::api::ReadFrom;
use farshore_core::ids::{LineageId, Seq};
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::answers;
use super::driver::VolumeHandle;
use super::inbox::{Inbox, Input};
use super::node::{Node, Shared};
use super::repair::{self, Copies};
use super::rpc::{self, Call};
use crate::control::{OpError, OpKind};
use crate::store::{ErrorClass, SnapshotRow};
use crate::transport::{Lane, PeerName, SendError};

/// Asked for in one call: its answer goes where records go.
const READ_BYTES_MAX: usize = 256 << 10;
/// Reads answered at a time; others wait for their turn.
pub(super) const SERVED_MAX: usize = 32;
/// Reads asked for at a time of each member.
pub(super) const ASKED_MAX: usize = 16;
/// For an answer, also on a slow link: so much is asked for at a time that it is there by then at 7 Mbit/s.
const PATIENCE: Duration = Duration::from_secs(5);
/// A store comes to what a data quorum has applied in a moment, unless something is the matter with it.
const APPLY_ATTEMPTS: usize = 25;
const APPLY_PAUSE: Duration = Duration::from_millis(2);
/// Between two rounds in which nobody could answer.
const RETRY: Duration = Duration::from_millis(100);
/// Of snapshots, in one answer.
const CATALOGUE_BYTES_MAX: usize = 1 << 20;
/// More than a row has beside its texts.
const ROW_BYTES: usize = 128;

/// The bytes of a range; an error is for good. `None`: this node holds the epoch no more, and nobody waits for them.
pub(super) async fn read(
    shared: &Arc<Shared>,
    inbox: &Inbox,
    copies: Copies,
    from: ReadFrom,
    offset: u64,
    length: usize,
) -> Option<Result<Bytes, String>> {
    let parts = (0..length).step_by(READ_BYTES_MAX).map(|at| {
        let range = (offset + at as u64, READ_BYTES_MAX.min(length - at));
        read_part(shared, inbox, copies.clone(), from.clone(), range)
    });
    let mut whole = Vec::new();
    for part in join_all(parts).await {
        match part? {
            Ok(data) => whole.push(data),
            Err(error) => return Some(Err(error)),
        }
    }
    if whole.len() == 1 {
        return whole.pop().map(Ok);
    }
    let mut bytes = BytesMut::with_capacity(length);
    whole.iter().for_each(|part| bytes.extend_from_slice(part));
    Some(Ok(bytes.freeze()))
}

async fn read_part(
    shared: &Arc<Shared>,
    inbox: &Inbox,
    mut copies: Copies,
    mut from: ReadFrom,
    range: (u64, usize),
) -> Option<Result<Bytes, String>> {
    loop {
        // Whose own repair asked all others in vain.
        let mut damaged = Vec::new();
        let mut elsewhere = false;
        for peer in from.members.iter().filter_map(|member| copies.peer(*member)) {
            match read_at(shared, &peer, &copies, from.applied, range).await {
                Ok(data) => return Some(Ok(data)),
                Err(error) => {
                    tracing::debug!(volume = %copies.volume, %peer, %error, "a read goes to another member");
                    match error.kind {
                        OpKind::Internal => damaged.push(error.to_string()),
                        _ => elsewhere = true,
                    }
                }
            }
        }
        if let (Some(error), false) = (damaged.pop(), elsewhere) {
            return Some(Err(error));
        }
        tokio::time::sleep(RETRY).await;
        let (reply, answer) = oneshot::channel();
        inbox.push(Input::ReadFrom { reply });
        (from, copies) = answer.await.ok()??;
    }
}

async fn read_at(
    shared: &Arc<Shared>,
    peer: &PeerName,
    copies: &Copies,
    applied: Seq,
    (offset, length): (u64, usize),
) -> Result<Bytes, OpError> {
    let place = shared.repairs.place_to_read(peer);
    let _place = place.acquire().await;
    let (volume, lineage) = (copies.volume, copies.lineage());
    let call = Call::Read { volume, lineage, applied, offset, length: length as u32 };
    let answer = shared.calls.call(&shared.transport, peer, &call, PATIENCE).await?;
    let data = answers::decode_read(answer).map_err(|e| unusable(peer).because(e))?;
    if data.len() == length { Ok(data) } else { Err(unusable(peer)) }
}

fn unusable(peer: &PeerName) -> OpError {
    OpError::unavailable(format!("what {peer} answered to a read is not what was asked for"), "another member is asked")
}

/// Does the store here show all up to `applied`? Waits a moment for it.
async fn until_shown(handle: &VolumeHandle, lineage: LineageId, applied: Seq) -> Result<(), OpError> {
    for _ in 0..APPLY_ATTEMPTS {
        let shows = handle.shows().await;
        let shows = shows.ok_or_else(|| OpError::unavailable("the volume is stopping", "ask another member"))?;
        if shows.lineage != lineage || !shows.whole || !handle.applier.has_store() {
            return Err(OpError::unavailable("this copy is not whole, or of another lineage", "ask another member"));
        }
        if shows.applied >= applied {
            return Ok(());
        }
        tokio::time::sleep(APPLY_PAUSE).await;
    }
    Err(OpError::unavailable(format!("this copy has not come to record {applied} yet"), "ask another member"))
}

/// Answers a read. Its turn is over when the answer is on its way, so what waits to be sent is bounded too; who has waited
/// for too long asks somebody else by now.
pub(super) async fn answer(node: &Arc<Node>, peer: &PeerName, nonce: u64, call: Call) {
    let turn = tokio::time::timeout(PATIENCE, node.shared.repairs.reading.acquire()).await;
    let Ok(Ok(_turn)) = turn else { return };
    let bytes = rpc::encode_answer(nonce, &node.on_call(peer, call).await);
    let transport = &node.shared.transport;
    // Bytes of a volume don't go before heartbeats.
    while transport.send(peer, Lane::Records, vec![bytes.clone()]) == Err(SendError::Full) {
        if transport.ready(peer, Lane::Records).await.is_err() {
            return;
        }
    }
}

/// For a holder without a copy.
pub(super) async fn serve_read(
    node: &Arc<Node>,
    handle: &Arc<VolumeHandle>,
    (lineage, applied): (LineageId, Seq),
    offset: u64,
    length: u32,
) -> Result<Bytes, OpError> {
    let (shared, len) = (&node.shared, length as usize);
    if len > READ_BYTES_MAX {
        let text = format!("{len} bytes at once are more than {READ_BYTES_MAX}");
        return Err(OpError::invalid(text, "run the same version on all nodes"));
    }
    until_shown(handle, lineage, applied).await?;
    let (store, volume) = (shared.clone(), handle.id);
    let read = tokio::task::spawn_blocking(move || store.store.read(volume, offset, len)).await;
    let data = match read.map_err(|e| OpError::unavailable("a read ended", "ask again").because(e))? {
        Err(error) if error.class() == ErrorClass::Repair => {
            let status = handle.status().await;
            let status = status.ok_or_else(|| OpError::unavailable("the volume is stopping", "ask another member"))?;
            let copies = Copies::of(handle, &status);
            let repaired = repair::read(shared.clone(), copies, None, offset, len).await;
            repaired.map_err(OpError::internal)?
        }
        read => read.map_err(|e| OpError::unavailable("the store can't be read", "ask another member").because(e))?,
    };
    // What was read may be of a later life of this member, which begins with nothing.
    until_shown(handle, lineage, applied).await?;
    if !node.catalog.get(handle.id).is_some_and(|held| Arc::ptr_eq(&held, handle)) {
        return Err(OpError::unavailable("the volume has left this node", "ask another member"));
    }
    Ok(answers::encode_read(&data))
}

/// For a holder without a copy: the volume's snapshots, but for the first few.
pub(super) async fn serve_catalogue(
    shared: &Arc<Shared>,
    handle: &Arc<VolumeHandle>,
    (lineage, applied): (LineageId, Seq),
    skip: u32,
) -> Result<Bytes, OpError> {
    until_shown(handle, lineage, applied).await?;
    let (store, volume) = (shared.clone(), handle.id);
    let rows = tokio::task::spawn_blocking(move || store.store.snapshots(volume)).await;
    let rows = rows.map_err(|e| e.to_string()).and_then(|rows| rows.map_err(|e| e.to_string()));
    let rows =
        rows.map_err(|e| OpError::unavailable("the snapshots can't be read", "ask another member").because(e))?;
    let mut bytes = 0;
    let fits = |row: &&SnapshotRow| {
        let texts = row.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let before = bytes;
        bytes += ROW_BYTES + texts + row.name.len() + row.holds.iter().map(String::len).sum::<usize>();
        before < CATALOGUE_BYTES_MAX
    };
    let page: Vec<SnapshotRow> = rows.iter().skip(skip as usize).take_while(fits).cloned().collect();
    Ok(answers::encode_catalogue(&page, rows.len() as u32))
}

impl Node {
    /// The snapshots of a volume that is led from here without a copy, as of all that a data quorum has applied.
    pub(super) async fn catalogue_there(&self, handle: &VolumeHandle) -> Result<Vec<SnapshotRow>, OpError> {
        let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        let copies = Copies::of(handle, &status);
        let mut refusal = OpError::unavailable(
            format!("no copy of volume {} can be asked for its snapshots", handle.name()),
            "see `farshore status`, then try again",
        );
        for peer in self.copies_nearby(handle) {
            match self.catalogue_at(&peer, &copies, status.applied).await {
                Ok(rows) => return Ok(rows),
                Err(error) => refusal = refusal.because(error),
            }
        }
        Err(refusal)
    }

    async fn catalogue_at(&self, peer: &PeerName, copies: &Copies, applied: Seq) -> Result<Vec<SnapshotRow>, OpError> {
        let mut rows = Vec::new();
        loop {
            let skip = rows.len() as u32;
            let call = Call::Catalogue { volume: copies.volume, lineage: copies.lineage(), applied, skip };
            let answer = self.shared.calls.call(&self.shared.transport, peer, &call, PATIENCE).await?;
            let (page, all) = answers::decode_catalogue(answer).map_err(|e| unusable(peer).because(e))?;
            let last = page.is_empty();
            rows.extend(page);
            if last || rows.len() >= all as usize {
                return Ok(rows);
            }
        }
    }

    /// The members with a copy that are connected, those of this site and of the sync set first.
    pub(super) fn copies_nearby(&self, handle: &VolumeHandle) -> Vec<PeerName> {
        let config = handle.config.borrow().clone();
        let mut copies: Vec<_> = config.members.iter().filter(|m| m.kind.holds_copy() && m.id != handle.me).collect();
        let in_sync = |id| config.current.sync.iter().any(|s| s.member == id);
        copies.sort_by_key(|m| (m.site != self.shared.me.site, !in_sync(m.id), m.id));
        let peers = copies.into_iter().filter_map(|m| PeerName::new(&m.site, &m.node).ok());
        peers.filter(|peer| self.is_connected(peer)).collect()
    }
}
