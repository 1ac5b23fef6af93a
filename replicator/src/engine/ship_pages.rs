//! The pages of one shipment on their way, several at a time: offered, packed, sent, answered.
//!
//! ```text
//! page ─► read ─► zeroes named ─► offered: which does the target have? ─► packed ─► within the limit ─► sent
//!           └─ digest of what was read ─────────────────────► compared ◄─ read back ◄─ answered ◄─ staged
//! ```
//! Each is staged and compared by itself, in whatever order they arrive; what is under way ends with the `Pages`. A page
//! without a place is compared at the end: what follows it may write to its extents. A peer of protocol version 1 is sent
//! pages as they are, and compares nothing.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use farshore_core::ids::{BLOCK_BYTES, VolumeId};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::answers;
use super::driver::lock;
use super::node::Shared;
use super::packing::{self, Block, Content, Digest};
use super::rpc::{Call, ShippedRun};
use super::ship::undecodable;
use super::ship_attempt::Attempt;
use super::ship_counts::add;
use super::ship_listing::{Image, Page};
use super::ship_room::Guest;
use super::spans::Spans;
use crate::control::OpError;
use crate::store::Cursor;
use crate::transport::Lane;

/// Pages to one target that are not answered, and with them those that are compared.
const PAGES_MAX: usize = 16;
const UNDER_WAY_MAX: usize = 2 * PAGES_MAX;
/// What may be in the lane to the peer when a page follows, and how long less is waited for.
const LANE_BYTES_MAX: usize = 256 << 10;
const LANE_PATIENCE: Duration = Duration::from_secs(1);
/// Pages in a row of which the target had next to nothing, or that did not get smaller: after so many only now and then
/// one is tried.
const FRUITLESS_MAX: u32 = 4;
const TRIED_AGAIN_AFTER: u32 = 16;
/// One block in so many makes asking worth it.
const WORTH: usize = 16;

/// Something that is not always worth its while.
#[derive(Default)]
struct Effort {
    in_vain: AtomicU32,
    turn: AtomicU32,
}

impl Effort {
    fn worth_it(&self) -> bool {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.in_vain.load(Ordering::Relaxed) < FRUITLESS_MAX || turn.is_multiple_of(TRIED_AGAIN_AFTER)
    }

    fn ended(&self, well: bool) {
        if well {
            self.in_vain.store(0, Ordering::Relaxed);
        } else {
            self.in_vain.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where the pages of a shipment go.
pub(super) struct Way {
    pub shared: Arc<Shared>,
    pub volume: VolumeId,
    pub image: Image,
    pub attempt: Arc<Attempt>,
    pub ship: u128,
    /// Version 2 of the protocol.
    pub packs: bool,
    /// The target has an image that some of the blocks may be in already.
    pub offers: bool,
    /// Version 1: it keeps track of what is there.
    pub places: bool,
    /// What the target has compared.
    pub proven: Arc<Mutex<Spans>>,
    /// One page at a time is put into the lane.
    pub turn: tokio::sync::Mutex<()>,
}

struct Efforts {
    way: Way,
    offering: Effort,
    compressing: Effort,
}

/// What a page must be at the target.
struct Proof {
    span: Option<(Cursor, Cursor)>,
    ranges: Vec<(u64, u64)>,
    digest: u128,
}

enum Answer {
    /// So many bytes are under way no more; to be compared now.
    Page(u64, Option<Proof>),
    Proven,
}

pub(super) struct Pages {
    efforts: Arc<Efforts>,
    guest: Guest,
    /// Version 1: of the next page that has a place.
    number: u64,
    under_way: JoinSet<Result<Answer, OpError>>,
    pages: usize,
    bytes: u64,
    /// The last page had no place.
    placeless: bool,
}

impl Pages {
    pub fn new(way: Way) -> Pages {
        let guest = way.shared.ship_room.enter();
        let efforts = Arc::new(Efforts { way, offering: Effort::default(), compressing: Effort::default() });
        let under_way = JoinSet::new();
        Pages { efforts, guest, number: 0, under_way, pages: 0, bytes: 0, placeless: false }
    }

    /// The target compares them.
    pub fn are_packed(&self) -> bool {
        self.efforts.way.packs
    }

    /// Sends a page once there is room for it; fails as soon as any before it has.
    pub async fn send(&mut self, page: Page) -> Result<(), OpError> {
        // What has a place is compared right away: nobody may write to its extents any more.
        if std::mem::replace(&mut self.placeless, page.span.is_none()) && page.span.is_some() {
            self.all_answered().await?;
        }
        let bytes = page.data_bytes();
        let room = self.room_for(bytes).await?;
        let efforts = self.efforts.clone();
        // Others are counted beforehand.
        if page.span.is_none() {
            efforts.way.attempt.progress.to_do(bytes);
        }
        let place = page.span.filter(|_| efforts.way.places).map(|(_, after)| (self.number, after));
        self.number += u64::from(place.is_some());
        self.under_way.spawn(async move {
            let _room = room;
            let proof = match efforts.way.packs {
                true => efforts.send_packed(page).await?,
                false => efforts.way.send_plain(page, place).await.map(|()| None)?,
            };
            efforts.way.attempt.progress.done(bytes);
            Ok(Answer::Page(bytes, proof))
        });
        Ok(())
    }

    /// Has the target compare what it has received of a page.
    pub async fn prove(&mut self, page: Page) -> Result<(), OpError> {
        let bytes = page.data_bytes();
        let room = self.room_for(bytes).await?;
        let efforts = self.efforts.clone();
        self.under_way.spawn(async move {
            let _room = room;
            let (span, way) = (page.span, &efforts.way);
            let runs = way.image.read(page).await?;
            let ship = way.ship;
            let proof = on_a_thread(move || Proof::of(ship, span, &runs)).await?;
            way.prove(proof).await?;
            Ok(Answer::Page(bytes, None))
        });
        Ok(())
    }

    /// Waits until this shipment may have so much more under way, and until the node has room for it.
    async fn room_for(&mut self, bytes: u64) -> Result<OwnedSemaphorePermit, OpError> {
        let too_much = |pages: &Pages| {
            pages.pages >= PAGES_MAX
                || pages.under_way.len() >= UNDER_WAY_MAX
                || pages.pages > 0 && pages.bytes + bytes > pages.guest.share_bytes()
        };
        while too_much(self) {
            self.one_answered().await?;
        }
        self.pages += 1;
        self.bytes += bytes;
        let mut room = std::pin::pin!(self.guest.page(bytes));
        loop {
            tokio::select! {
                biased;
                room = &mut room => return Ok(room),
                answer = self.one_answered(), if !self.under_way.is_empty() => answer?,
            }
        }
    }

    async fn one_answered(&mut self) -> Result<(), OpError> {
        match self.under_way.join_next().await {
            None | Some(Ok(Ok(Answer::Proven))) => Ok(()),
            Some(Ok(Ok(Answer::Page(bytes, proof)))) => {
                self.pages -= 1;
                self.bytes -= bytes;
                if let Some(proof) = proof {
                    let efforts = self.efforts.clone();
                    self.under_way.spawn(async move { efforts.way.prove(proof).await.map(|()| Answer::Proven) });
                }
                Ok(())
            }
            Some(Ok(Err(error))) => Err(error),
            Some(Err(ended)) => Err(OpError::internal("a page's task ended").because(ended)),
        }
    }

    pub async fn all_answered(&mut self) -> Result<(), OpError> {
        while !self.under_way.is_empty() {
            self.one_answered().await?;
        }
        Ok(())
    }
}

impl Proof {
    fn of(ship: u128, span: Option<(Cursor, Cursor)>, runs: &[ShippedRun]) -> Proof {
        let (mut ranges, mut digest) = (Vec::new(), Digest::new(ship));
        for run in runs {
            ranges.push((run.offset, run.length));
            match &run.data {
                Some(data) => digest.data(run.offset, data),
                None => digest.zeroes(run.offset, run.length),
            }
        }
        Proof { span, ranges, digest: digest.end() }
    }
}

impl Efforts {
    async fn send_packed(&self, page: Page) -> Result<Option<Proof>, OpError> {
        let (ship, span) = (self.way.ship, page.span);
        let runs = self.way.image.read(page).await?;
        let work = move || {
            // Of the bytes as they were read: whatever is done to them from here on, the target must have these.
            let proof = span.map(|_| Proof::of(ship, span, &runs));
            (packing::blocks_of(&runs), proof)
        };
        let (mut blocks, proof) = on_a_thread(work).await?;
        self.way.count_zeroes(&blocks);
        if self.way.offers && self.offering.worth_it() {
            blocks = self.offer(blocks).await?;
        }
        let compress = self.compressing.worth_it();
        let page = on_a_thread(move || packing::pack(ship, span, &blocks, compress)).await?;
        if compress && page.plain_bytes > 0 {
            self.compressing.ended(page.compressed);
        }
        let (plain, packed) = (u64::from(page.plain_bytes), page.body.len() as u64);
        let call = Call::ShipPacked { volume: self.way.volume, ship, page };
        self.way.send(&call, plain, packed).await?;
        Ok(proof)
    }

    /// Asks which of the blocks the target has where they belong.
    async fn offer(&self, mut blocks: Vec<Block>) -> Result<Vec<Block>, OpError> {
        let ship = self.way.ship;
        let (blocks_back, offered) = on_a_thread(move || {
            let mut offered = Vec::new();
            for block in &blocks {
                if let Content::Data(data) = &block.content {
                    offered.push((block.offset, packing::digest(ship, data)));
                }
            }
            (std::mem::take(&mut blocks), offered)
        })
        .await?;
        blocks = blocks_back;
        if offered.is_empty() {
            return Ok(blocks);
        }
        let count = offered.len();
        let call = Call::ShipOffer { volume: self.way.volume, ship, blocks: offered };
        let same = answers::decode_same(self.way.call(&call).await?).map_err(undecodable)?;
        if same.len() != count {
            return Err(OpError::unavailable(
                format!("{} answered for {} blocks, of {count}", self.way.attempt.peer, same.len()),
                "run the same version on all nodes",
            ));
        }
        let found = same.iter().filter(|same| **same).count();
        self.offering.ended(found * WORTH >= count);
        add(&self.way.shared.ship_counts.same_bytes, found as u64 * BLOCK_BYTES);
        let data = blocks.iter_mut().filter(|block| matches!(block.content, Content::Data(_)));
        data.zip(same).filter(|(_, same)| *same).for_each(|(block, _)| block.content = Content::Same);
        Ok(blocks)
    }
}

impl Way {
    async fn call(&self, call: &Call) -> Result<Bytes, OpError> {
        self.attempt.call(call).await
    }

    fn count_zeroes(&self, blocks: &[Block]) {
        let zeroes = blocks.iter().filter(|block| block.content == Content::Zeroes).count();
        add(&self.shared.ship_counts.zero_bytes, zeroes as u64 * BLOCK_BYTES);
    }

    async fn send(&self, page: &Call, plain: u64, packed: u64) -> Result<(), OpError> {
        let mut call = Box::pin(self.call(page));
        let answer = {
            let _turn = self.turn.lock().await;
            self.shared.ship_meter.pass(packed).await;
            self.lane_drained().await?;
            let counts = &self.shared.ship_counts;
            add(&counts.sent_bytes, plain);
            add(&counts.packed_bytes, packed);
            add(&self.attempt.sent_bytes, plain);
            // Afterwards it is in the lane.
            poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await
        };
        match answer {
            Poll::Ready(answer) => answer?,
            Poll::Pending => call.await?,
        };
        add(&self.attempt.answered, 1);
        Ok(())
    }

    /// What is in the lane when the link breaks is lost, and was not sent: so little is put there. Others may keep it full;
    /// and the connection below has buffers of its own.
    async fn lane_drained(&self) -> Result<(), OpError> {
        let drained = self.shared.transport.drained(&self.attempt.peer, Lane::Bulk, LANE_BYTES_MAX);
        match tokio::time::timeout(LANE_PATIENCE, drained).await {
            Ok(Err(error)) => {
                let message = format!("a page could not be sent to {}", self.attempt.peer);
                let remedy = "see `farshore site list` for the state of the link";
                Err(self.attempt.unheard(OpError::unavailable(message, remedy).because(error)))
            }
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    async fn send_plain(&self, page: Page, place: Option<(u64, Cursor)>) -> Result<(), OpError> {
        let runs = self.image.read(page).await?;
        let bytes = runs.iter().filter_map(|run| run.data.as_ref()).map(|data| data.len() as u64).sum();
        let call = Call::ShipPage { volume: self.volume, ship: self.ship, runs, place };
        self.send(&call, bytes, bytes).await
    }

    async fn prove(&self, proof: Proof) -> Result<(), OpError> {
        let Proof { span, ranges, digest } = proof;
        self.call(&Call::ShipProof { volume: self.volume, ship: self.ship, ranges, digest }).await?;
        if let Some(span) = span {
            lock(&self.proven).add(span);
        }
        Ok(())
    }
}

/// For what would keep other tasks waiting.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OpError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| OpError::internal("packing a page ended").because(e))
}
