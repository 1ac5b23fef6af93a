//! The workload: clients on the node whose device is open, with several overlapping requests in flight.

use bytes::Bytes;
use farshore_core::api::{Event, Io, Request, RequestId};
use farshore_core::ids::{BLOCK_BYTES, MemberId, SessionId};
use farshore_core::record::Origin;

use crate::layout::VOLUME_BLOCKS;
use crate::oracle::Asked;
use crate::schedule::Happening;
use crate::world::World;

/// The longest request, in blocks.
pub const REQUEST_BLOCKS_MAX: u64 = 3;
/// Requests in flight before only reads are made, at most.
pub const IN_FLIGHT_MAX: u64 = 12;
/// What the clients would have un-acked at a time, with headers.
pub const UNACKED_BYTES_MAX: u64 = IN_FLIGHT_MAX * (REQUEST_BLOCKS_MAX * BLOCK_BYTES + 1024);
/// Reads that may wait beside what else is in flight.
const READS_MAX: usize = 16;
/// Chooses a read.
pub const READ: u64 = 99;

impl World {
    pub fn client(&mut self, id: MemberId, session: SessionId) {
        let Some(life) = self.life(id) else { return };
        if self.nodes.get(&id).is_none_or(|n| n.device != Some(session)) {
            return;
        }
        if self.knobs.clients == 0 {
            return;
        }
        // A device that waits for its writes still reads.
        let outstanding = self.oracle.outstanding(id, life);
        if outstanding < self.knobs.in_flight + READS_MAX {
            self.request(id, session, outstanding >= self.knobs.in_flight);
        }
        let delay = self.dice.range(1, self.knobs.think_us * 2);
        self.after(delay, Happening::Client { node: id, life, session });
    }

    fn request(&mut self, id: MemberId, session: SessionId, reads_only: bool) {
        let first = self.dice.range(0, VOLUME_BLOCKS - 1);
        let blocks = self.dice.skewed(1, REQUEST_BLOCKS_MAX).min(VOLUME_BLOCKS - first);
        let what = if reads_only { READ } else { self.dice.range(0, 99) };
        self.submit(id, session, (first, blocks), what);
    }

    /// Submits a request over `blocks` blocks from `first`; `what` in 0..100 chooses its kind.
    pub fn submit(&mut self, id: MemberId, session: SessionId, (first, blocks): (u64, u64), what: u64) -> u64 {
        let number = self.next_request;
        self.next_request += 1;
        let (offset, length) = (first * BLOCK_BYTES, blocks * BLOCK_BYTES);
        let fua = self.dice.chance(100);
        let (asked, io) = match what {
            0..50 => (Asked::Mutate, Io::Write { offset, data: stamped(number, blocks), fua }),
            50..55 => (Asked::Mutate, Io::Discard { offset, length }),
            55..60 => (Asked::Mutate, Io::WriteZeroes { offset, length, fua }),
            60..65 => (Asked::Flush, Io::Flush),
            _ => (Asked::Read, Io::Read { offset, length: length as u32 }),
        };
        let life = self.life(id).unwrap_or_default();
        let range = if asked == Asked::Flush { 0..0 } else { first as usize..(first + blocks) as usize };
        let lineage = self.nodes.get(&id).map_or(0, |n| n.lineage.uuid);
        self.oracle.submitted(number, asked, range, (id, life, session, lineage), self.now);
        let origin = Origin { session, tag: number };
        self.feed(id, Event::Io(Request { id: RequestId(number), io, origin }));
        number
    }
}

/// Blocks that carry the request's number where checkers look for it.
fn stamped(number: u64, blocks: u64) -> Bytes {
    let mut data = vec![0; (blocks * BLOCK_BYTES) as usize];
    for block in data.chunks_mut(BLOCK_BYTES as usize) {
        block[..8].copy_from_slice(&number.to_le_bytes());
    }
    Bytes::from(data)
}
