//! What a shipment consists of, page by page: first what the target's own copy changed since the histories parted, if it
//! builds on one, then what changed here. The same pages each time it is asked, for the image is pinned.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use farshore_core::ids::{BLOCK_BYTES, Seq, VolumeId};

use super::answers::{self, Arrived};
use super::node::Shared;
use super::packing::CHUNK_BYTES;
use super::repair::{self, Copies};
use super::rpc::{Call, ShippedRun};
use super::ship::{PAGE_EXTENTS, PAGE_PATIENCE, blocking, undecodable};
use crate::control::OpError;
use crate::store::{ChangedExtent, Cursor, EXTENT_BYTES, StoreError};
use crate::transport::PeerName;

/// So many carry no more than a chunk, whatever changed in them.
const CHUNK_EXTENTS: usize = (CHUNK_BYTES / EXTENT_BYTES) as usize;
/// Behind all that a listing gives.
const END: Cursor = Cursor { seq: Seq(u64::MAX), extent: u64::MAX - 1 };

/// A part of the difference, with its bytes: at most a chunk.
pub(super) struct Page {
    /// Where its listing began and where it goes on; none: of what the target's copy changed.
    pub span: Option<(Cursor, Cursor)>,
    pub runs: Vec<ShippedRun>,
}

/// A copy that was set aside at the target, and the seq up to which its history is ours.
#[derive(Clone)]
pub(super) struct Basis {
    pub name: String,
    pub since: Seq,
    pub peer: PeerName,
}

pub(super) struct Listing {
    shared: Arc<Shared>,
    copies: Copies,
    pin: String,
    base: Option<Seq>,
    theirs: Option<(Basis, Cursor)>,
    waiting: VecDeque<Vec<ChangedExtent>>,
    /// Where the next page begins: behind the last one that was given.
    from: Cursor,
    at: Option<Cursor>,
    arrived: BTreeMap<Cursor, Cursor>,
}

impl Listing {
    /// Without what has arrived already.
    pub fn new(
        shared: &Arc<Shared>,
        copies: &Copies,
        pin: &str,
        base: Option<Seq>,
        basis: Option<Basis>,
        arrived: Arrived,
    ) -> Listing {
        Listing {
            shared: shared.clone(),
            copies: copies.clone(),
            pin: pin.to_owned(),
            base,
            theirs: basis.map(|basis| (basis, Cursor::default())),
            waiting: VecDeque::new(),
            from: arrived.upto,
            at: (arrived.upto < END).then_some(arrived.upto),
            arrived: arrived.beyond.into_iter().collect(),
        }
    }

    pub async fn next(&mut self) -> Result<Option<Page>, OpError> {
        while self.theirs.is_some() || !self.waiting.is_empty() {
            let Some(extents) = self.waiting.pop_front() else {
                self.ask_theirs().await?;
                continue;
            };
            let runs = self.as_here(extents).await?;
            if !runs.is_empty() {
                return Ok(Some(Page { span: None, runs }));
            }
        }
        while let Some(at) = self.at {
            if let Some(after) = self.arrived.remove(&self.from) {
                (self.from, self.at) = (after, (after < END).then_some(after));
                continue;
            }
            let (runs, next) = self.changed(at).await?;
            self.at = next;
            if !runs.is_empty() {
                let (from, after) = (self.from, next.unwrap_or(END));
                self.from = after;
                return Ok(Some(Page { span: Some((from, after)), runs }));
            }
        }
        Ok(None)
    }

    async fn changed(&self, at: Cursor) -> Result<(Vec<ShippedRun>, Option<Cursor>), OpError> {
        let (volume, pin, base) = (self.copies.volume, self.pin.clone(), self.base);
        on_whole(&self.shared, &self.copies, &self.pin, move |shared| {
            let mut page = shared.store.changed_since(volume, base, &pin, at, PAGE_EXTENTS)?;
            if page.extents.iter().map(data_bytes).sum::<u64>() > CHUNK_BYTES {
                page = shared.store.changed_since(volume, base, &pin, at, CHUNK_EXTENTS)?;
            }
            let mut runs = Vec::new();
            for extent in &page.extents {
                read_runs(shared, &pin, volume, extent, &mut runs)?;
            }
            Ok((runs, page.next))
        })
        .await
    }

    /// The next page of what the target's own copy changed.
    async fn ask_theirs(&mut self) -> Result<(), OpError> {
        let Some((basis, at)) = self.theirs.take() else { return Ok(()) };
        let (volume, name, since) = (self.copies.volume, basis.name.clone(), basis.since);
        let ask = Call::ShipBasisChanges { volume, basis: name, since, cursor: at };
        let answer = self.shared.calls.call(&self.shared.transport, &basis.peer, &ask, PAGE_PATIENCE).await?;
        let page = answers::decode_changes(answer).map_err(undecodable)?;
        self.waiting.extend(page.extents.chunks(CHUNK_EXTENTS).map(<[ChangedExtent]>::to_vec));
        self.theirs = page.next.map(|next| (basis, next));
        Ok(())
    }

    /// What it changed, as it is here.
    async fn as_here(&self, extents: Vec<ChangedExtent>) -> Result<Vec<ShippedRun>, OpError> {
        let (volume, pin) = (self.copies.volume, self.pin.clone());
        on_whole(&self.shared, &self.copies, &self.pin, move |shared| {
            let mut runs = Vec::new();
            for theirs in &extents {
                let here = shared.store.extent_at(volume, &pin, theirs.extent)?;
                read_runs(shared, &pin, volume, &ChangedExtent { changed: theirs.changed, ..here }, &mut runs)?;
            }
            Ok(runs)
        })
        .await
    }
}

fn data_bytes(extent: &ChangedExtent) -> u64 {
    u64::from((extent.changed & !extent.holes).count_ones()) * BLOCK_BYTES
}

fn read_runs(
    shared: &Shared,
    pin: &str,
    volume: VolumeId,
    extent: &ChangedExtent,
    runs: &mut Vec<ShippedRun>,
) -> Result<(), StoreError> {
    for (offset, length, hole) in extent.runs() {
        let data = if hole { None } else { Some(shared.store.read_at(volume, pin, offset, length as usize)?) };
        runs.push(ShippedRun { offset, length, data });
    }
    Ok(())
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
