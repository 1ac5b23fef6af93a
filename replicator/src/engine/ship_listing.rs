//! What a shipment consists of, page by page: first what the target's own copy changed since the histories parted, if it
//! builds on one, then what changed here. The same pages each time it is asked, for the image is pinned.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use farshore_core::ids::Seq;

use super::answers::{self, Arrived};
use super::node::Shared;
use super::packing::CHUNK_BYTES;
use super::repair::{self, Copies};
use super::rpc::{Call, ShippedRun};
use super::ship::{PAGE_EXTENTS, blocking, undecodable};
use super::ship_attempt::Attempt;
use crate::control::OpError;
use crate::store::{ChangedExtent, Cursor, EXTENT_BYTES, StoreError};

/// So many carry no more than a chunk, whatever changed in them.
const CHUNK_EXTENTS: usize = (CHUNK_BYTES / EXTENT_BYTES) as usize;
/// Behind all that a listing gives.
const END: Cursor = Cursor { seq: Seq(u64::MAX), extent: u64::MAX - 1 };

/// A part of the difference: at most a chunk.
pub(super) struct Page {
    /// Where its listing began and where it goes on; none: of what the target's copy changed.
    pub span: Option<(Cursor, Cursor)>,
    extents: Vec<ChangedExtent>,
}

impl Page {
    /// Of blocks that hold data, at most.
    pub fn data_bytes(&self) -> u64 {
        self.extents.iter().map(ChangedExtent::data_bytes).sum()
    }
}

/// The image that is shipped.
#[derive(Clone)]
pub(super) struct Image {
    pub shared: Arc<Shared>,
    pub copies: Copies,
    pub pin: String,
}

/// A copy that was set aside at the target, and the seq up to which its history is ours.
#[derive(Clone)]
pub(super) struct Basis {
    pub name: String,
    pub since: Seq,
}

pub(super) struct Listing {
    attempt: Arc<Attempt>,
    image: Image,
    base: Option<Seq>,
    theirs: Option<(Basis, Cursor)>,
    waiting: VecDeque<Vec<ChangedExtent>>,
    /// Where the next page begins: behind the last one that was given.
    from: Cursor,
    at: Option<Cursor>,
    known: BTreeMap<Cursor, Cursor>,
}

impl Listing {
    /// Without what is known already: to have arrived, or to be as it should.
    pub fn new(
        attempt: &Arc<Attempt>,
        image: &Image,
        base: Option<Seq>,
        basis: Option<Basis>,
        known: Arrived,
    ) -> Listing {
        Listing {
            attempt: attempt.clone(),
            image: image.clone(),
            base,
            theirs: basis.map(|basis| (basis, Cursor::default())),
            waiting: VecDeque::new(),
            from: known.upto,
            at: (known.upto < END).then_some(known.upto),
            known: known.beyond.into_iter().collect(),
        }
    }

    pub async fn next(&mut self) -> Result<Option<Page>, OpError> {
        while self.theirs.is_some() || !self.waiting.is_empty() {
            match self.waiting.pop_front() {
                Some(extents) if extents.iter().any(|extent| extent.changed != 0) => {
                    return Ok(Some(Page { span: None, extents }));
                }
                Some(_) => {}
                None => self.ask_theirs().await?,
            }
        }
        while let Some(at) = self.at {
            if let Some(after) = self.known.remove(&self.from) {
                (self.from, self.at) = (after, (after < END).then_some(after));
                continue;
            }
            let (extents, next) = self.changed(at).await?;
            self.at = next;
            if !extents.is_empty() {
                let (from, after) = (self.from, next.unwrap_or(END));
                self.from = after;
                return Ok(Some(Page { span: Some((from, after)), extents }));
            }
        }
        Ok(None)
    }

    async fn changed(&self, at: Cursor) -> Result<(Vec<ChangedExtent>, Option<Cursor>), OpError> {
        let (image, base) = (self.image.clone(), self.base);
        blocking(move || {
            let (volume, store) = (image.copies.volume, &image.shared.store);
            let page = store.changed_within(volume, base, &image.pin, at, PAGE_EXTENTS, CHUNK_BYTES)?;
            Ok((page.extents, page.next))
        })
        .await
    }

    /// The next page of what the target's own copy changed.
    async fn ask_theirs(&mut self) -> Result<(), OpError> {
        let Some((basis, at)) = self.theirs.take() else { return Ok(()) };
        let (volume, name, since) = (self.image.copies.volume, basis.name.clone(), basis.since);
        let ask = Call::ShipBasisChanges { volume, basis: name, since, cursor: at };
        let answer = self.attempt.call(&ask).await?;
        let mut page = answers::decode_changes(answer).map_err(undecodable)?;
        // Holes there may be data here.
        page.extents.iter_mut().for_each(|extent| extent.holes = 0);
        self.waiting.extend(page.extents.chunks(CHUNK_EXTENTS).map(<[ChangedExtent]>::to_vec));
        self.theirs = page.next.map(|next| (basis, next));
        Ok(())
    }
}

impl Image {
    /// The bytes of a page, neighbours together.
    pub async fn read(&self, page: Page) -> Result<Vec<ShippedRun>, OpError> {
        let (volume, pin, theirs) = (self.copies.volume, self.pin.clone(), page.span.is_none());
        let mut extents = page.extents;
        extents.sort_unstable_by_key(|extent| extent.extent);
        on_whole(&self.shared, &self.copies, &self.pin, move |shared| {
            let mut stretches: Vec<(u64, u64, bool)> = Vec::new();
            for extent in &extents {
                let here = match theirs {
                    true => shared.store.extent_at(volume, &pin, extent.extent)?,
                    false => *extent,
                };
                for (offset, length, hole) in (ChangedExtent { changed: extent.changed, ..here }).runs() {
                    match stretches.last_mut() {
                        Some((at, len, kind)) if *at + *len == offset && *kind == hole => *len += length,
                        _ => stretches.push((offset, length, hole)),
                    }
                }
            }
            let read = |(offset, length, hole): (u64, u64, bool)| {
                let data = match hole {
                    true => None,
                    false => Some(shared.store.read_at(volume, &pin, offset, length as usize)?),
                };
                Ok(ShippedRun { offset, length, data })
            };
            stretches.into_iter().map(read).collect()
        })
        .await
    }
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
