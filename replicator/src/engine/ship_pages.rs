//! The pages of one shipment on their way, several at a time: offered, packed, sent, answered.
//!
//! ```text
//! page ─► zeroes named ─► offered: which does the target have? ─► packed ─► within the limit ─► sent ─► staged, answered
//! ```
//! Each is staged by itself, in whatever order they arrive; what is under way ends with the `Pages`. A peer of protocol
//! version 1 is sent pages as they are.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use farshore_core::ids::{BLOCK_BYTES, VolumeId};
use tokio::task::JoinSet;

use super::answers;
use super::node::Shared;
use super::packing::{self, Block, Content, Digest};
use super::rpc::Call;
use super::ship::{PAGE_PATIENCE, undecodable};
use super::ship_counts::add;
use super::ship_listing::Page;
use crate::control::OpError;
use crate::store::Cursor;
use crate::transport::{Lane, PeerName};

/// To one target: the link goes on while the target writes and the next page is read.
const UNDER_WAY_BYTES_MAX: u64 = 8 << 20;
const UNDER_WAY_MAX: usize = 16;
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
    pub peer: PeerName,
    pub ship: u128,
    /// Version 2 of the protocol.
    pub packs: bool,
    /// The target has an image that some of the blocks may be in already.
    pub offers: bool,
    /// Version 1: it keeps track of what is there.
    pub places: bool,
    /// Bytes of blocks, and pages that were answered.
    pub sent_bytes: Arc<AtomicU64>,
    pub answered: Arc<AtomicU64>,
    /// One page at a time is put into the lane.
    pub turn: tokio::sync::Mutex<()>,
}

struct Efforts {
    way: Way,
    offering: Effort,
    compressing: Effort,
}

pub(super) struct Pages {
    efforts: Arc<Efforts>,
    /// Version 1: of the next page that has a place.
    number: u64,
    under_way: JoinSet<Result<u64, OpError>>,
    under_way_bytes: u64,
}

impl Pages {
    pub fn new(way: Way) -> Pages {
        let efforts = Efforts { way, offering: Effort::default(), compressing: Effort::default() };
        Pages { efforts: Arc::new(efforts), number: 0, under_way: JoinSet::new(), under_way_bytes: 0 }
    }

    /// Sends a page once there is room for it; fails as soon as any before it has.
    pub async fn send(&mut self, page: Page) -> Result<(), OpError> {
        let bytes = data_bytes(&page);
        self.room_for(bytes).await?;
        let efforts = self.efforts.clone();
        if efforts.way.packs {
            self.under_way.spawn(async move { efforts.send_packed(page).await.map(|()| bytes) });
        } else {
            let place = page.span.filter(|_| efforts.way.places).map(|(_, after)| (self.number, after));
            self.number += u64::from(place.is_some());
            self.under_way.spawn(async move { efforts.way.send_plain(page, place).await.map(|()| bytes) });
        }
        Ok(())
    }

    /// Has the target compare what it has received of a page.
    pub async fn prove(&mut self, page: Page) -> Result<(), OpError> {
        let bytes = data_bytes(&page);
        self.room_for(bytes).await?;
        let efforts = self.efforts.clone();
        self.under_way.spawn(async move { efforts.way.prove(page).await.map(|()| bytes) });
        Ok(())
    }

    async fn room_for(&mut self, bytes: u64) -> Result<(), OpError> {
        self.under_way_bytes += bytes;
        while !self.under_way.is_empty()
            && (self.under_way.len() >= UNDER_WAY_MAX || self.under_way_bytes > UNDER_WAY_BYTES_MAX)
        {
            self.one_answered().await?;
        }
        Ok(())
    }

    async fn one_answered(&mut self) -> Result<(), OpError> {
        match self.under_way.join_next().await {
            None => Ok(()),
            Some(Ok(answer)) => {
                self.under_way_bytes -= answer?;
                Ok(())
            }
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

fn data_bytes(page: &Page) -> u64 {
    page.runs.iter().map(|r| r.data.as_ref().map_or(0, |d| d.len() as u64)).sum()
}

impl Efforts {
    async fn send_packed(&self, page: Page) -> Result<(), OpError> {
        let Page { span, runs } = page;
        let mut blocks = on_a_thread(move || packing::blocks_of(&runs)).await?;
        self.way.count_zeroes(&blocks);
        if self.way.offers && self.offering.worth_it() {
            blocks = self.offer(blocks).await?;
        }
        let (ship, compress) = (self.way.ship, self.compressing.worth_it());
        let page = on_a_thread(move || packing::pack(ship, span, &blocks, compress)).await?;
        if compress && page.plain_bytes > 0 {
            self.compressing.ended(page.compressed);
        }
        let (plain, packed) = (u64::from(page.plain_bytes), page.body.len() as u64);
        let call = Call::ShipPacked { volume: self.way.volume, ship, page };
        self.way.send(&call, plain, packed).await
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
                format!("{} answered for {} blocks, of {count}", self.way.peer, same.len()),
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
        self.shared.calls.call(&self.shared.transport, &self.peer, call, PAGE_PATIENCE).await
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
            add(&self.sent_bytes, plain);
            // Afterwards it is in the lane.
            poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await
        };
        match answer {
            Poll::Ready(answer) => answer?,
            Poll::Pending => call.await?,
        };
        add(&self.answered, 1);
        Ok(())
    }

    /// What is in the lane when the link breaks is lost, and was not sent: so little is put there. Others may keep it full;
    /// and the connection below has buffers of its own.
    async fn lane_drained(&self) -> Result<(), OpError> {
        let drained = self.shared.transport.drained(&self.peer, Lane::Bulk, LANE_BYTES_MAX);
        match tokio::time::timeout(LANE_PATIENCE, drained).await {
            Ok(Err(error)) => {
                let message = format!("a page could not be sent to {}", self.peer);
                Err(OpError::unavailable(message, "see `farshore site list` for the state of the link").because(error))
            }
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    async fn send_plain(&self, page: Page, place: Option<(u64, Cursor)>) -> Result<(), OpError> {
        let bytes = data_bytes(&page);
        let call = Call::ShipPage { volume: self.volume, ship: self.ship, runs: page.runs, place };
        self.send(&call, bytes, bytes).await
    }

    async fn prove(&self, page: Page) -> Result<(), OpError> {
        let ship = self.ship;
        let (ranges, digest) = on_a_thread(move || {
            let (mut ranges, mut digest) = (Vec::new(), Digest::new(ship));
            for run in &page.runs {
                ranges.push((run.offset, run.length));
                match &run.data {
                    Some(data) => digest.data(run.offset, data),
                    None => digest.zeroes(run.offset, run.length),
                }
            }
            (ranges, digest.end())
        })
        .await?;
        self.call(&Call::ShipProof { volume: self.volume, ship, ranges, digest }).await.map(drop)
    }
}

/// For what would keep other tasks waiting.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OpError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| OpError::internal("packing a page ended").because(e))
}
