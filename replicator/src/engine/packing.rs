//! How a page of a shipment is packed: blocks of zeroes and blocks that the target has are only named, the bytes of all
//! others are compressed where that helps.
//!
//! A digest of 128 bits, of what a page says and holds before compression, goes along. It is seeded with the shipment's
//! number, which is drawn at random, so that nobody who writes to a volume can prepare two blocks of one digest.

use bytes::{Bytes, BytesMut};
use farshore_core::ids::BLOCK_BYTES;
use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

use super::rpc::{PackedPage, PackedRun, RunKind, ShippedRun};
use crate::store::Cursor;

/// Bytes of blocks in a page at most, so what a broken link may cost twice.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// All that a page may speak of, with what is not in it: a listing's extents.
const PAGE_BYTES_MAX: u64 = 4 << 20;
/// The fastest that is worth it: a link is slower than this on one processor.
const LEVEL: i32 = 1;
/// What does not shrink by so much goes as it is: unpacking costs time, too.
const GAIN: usize = 16;
const BLOCK: usize = BLOCK_BYTES as usize;
static ZEROES: [u8; BLOCK] = [0; BLOCK];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Data(Bytes),
    Zeroes,
    /// The target has it.
    Same,
}

impl Content {
    fn kind(&self) -> RunKind {
        match self {
            Content::Data(_) => RunKind::Data,
            Content::Zeroes => RunKind::Zeroes,
            Content::Same => RunKind::Same,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub offset: u64,
    pub content: Content,
}

/// Block by block, with those that hold only zeroes found.
pub fn blocks_of(runs: &[ShippedRun]) -> Vec<Block> {
    let mut out = Vec::new();
    for run in runs {
        for at in (0..run.length).step_by(BLOCK) {
            let data = run.data.as_ref().map(|data| data.slice(at as usize..at as usize + BLOCK));
            let content = data.filter(|data| data[..] != ZEROES).map_or(Content::Zeroes, Content::Data);
            out.push(Block { offset: run.offset + at, content });
        }
    }
    out
}

/// Of one block.
pub fn digest(ship: u128, data: &[u8]) -> u128 {
    xxh3_128_with_seed(data, ship as u64)
}

/// Of ranges of an image, one behind the other.
pub struct Digest(Xxh3);

impl Digest {
    pub fn new(ship: u128) -> Digest {
        Digest(Xxh3::with_seed(ship as u64))
    }

    pub fn data(&mut self, offset: u64, data: &[u8]) {
        self.0.update(&offset.to_le_bytes());
        self.0.update(&(data.len() as u64).to_le_bytes());
        self.0.update(data);
    }

    pub fn zeroes(&mut self, offset: u64, length: u64) {
        self.0.update(&offset.to_le_bytes());
        self.0.update(&length.to_le_bytes());
        (0..length).step_by(BLOCK).for_each(|_| self.0.update(&ZEROES));
    }

    pub fn end(&self) -> u128 {
        self.0.digest128()
    }
}

pub fn pack(ship: u128, span: Option<(Cursor, Cursor)>, blocks: &[Block], compress: bool) -> PackedPage {
    let mut runs: Vec<PackedRun> = Vec::new();
    let mut plain = BytesMut::new();
    for block in blocks {
        let kind = block.content.kind();
        match runs.last_mut() {
            Some(last) if last.kind == kind && last.offset + last.length == block.offset => last.length += BLOCK_BYTES,
            _ => runs.push(PackedRun { offset: block.offset, length: BLOCK_BYTES, kind }),
        }
        if let Content::Data(data) = &block.content {
            plain.extend_from_slice(data);
        }
    }
    let plain = plain.freeze();
    let digest = digest_of_page(ship, &runs, &plain);
    let smaller = if compress { zstd::bulk::compress(&plain, LEVEL).ok() } else { None };
    let smaller = smaller.filter(|packed| packed.len() + plain.len() / GAIN < plain.len());
    let (plain_bytes, compressed) = (plain.len() as u32, smaller.is_some());
    PackedPage { span, runs, plain_bytes, digest, compressed, body: smaller.map_or(plain, Bytes::from) }
}

fn digest_of_page(ship: u128, runs: &[PackedRun], plain: &[u8]) -> u128 {
    let mut hash = Xxh3::with_seed(ship as u64);
    for run in runs {
        hash.update(&run.offset.to_le_bytes());
        hash.update(&run.length.to_le_bytes());
        hash.update(&[run.kind as u8]);
    }
    hash.update(plain);
    hash.digest128()
}

/// The runs of a page from a peer, those of data with their bytes; or what is wrong with it.
pub fn unpack(ship: u128, page: PackedPage) -> Result<Vec<(PackedRun, Bytes)>, &'static str> {
    let (mut all, mut data) = (0_u64, 0_u64);
    for run in &page.runs {
        if run.length == 0 || !run.length.is_multiple_of(BLOCK_BYTES) || run.length > PAGE_BYTES_MAX {
            return Err("a run of it is not of whole blocks, or too long");
        }
        all += run.length;
        data += if run.kind == RunKind::Data { run.length } else { 0 };
        if all > PAGE_BYTES_MAX {
            return Err("it is too long");
        }
    }
    if data != u64::from(page.plain_bytes) {
        return Err("it has more or fewer bytes than its runs");
    }
    let mut plain = match page.compressed {
        false => page.body,
        true => Bytes::from(zstd::bulk::decompress(&page.body, data as usize).map_err(|_| "it does not decompress")?),
    };
    if plain.len() as u64 != data {
        return Err("it has more or fewer bytes than its runs");
    }
    if digest_of_page(ship, &page.runs, &plain) != page.digest {
        return Err("its bytes do not match its digest");
    }
    let bytes_of = |run: PackedRun| match run.kind {
        RunKind::Data => (run, plain.split_to(run.length as usize)),
        RunKind::Zeroes | RunKind::Same => (run, Bytes::new()),
    };
    Ok(page.runs.into_iter().map(bytes_of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIP: u128 = 77;

    fn noise(seed: u64) -> Bytes {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..BLOCK).map(|_| next()).collect::<Vec<u8>>().into()
    }

    fn block(number: u64, content: Content) -> Block {
        Block { offset: number * BLOCK_BYTES, content }
    }

    fn page() -> Vec<Block> {
        vec![
            block(3, Content::Data(noise(1))),
            block(4, Content::Data(noise(2))),
            block(5, Content::Zeroes),
            block(7, Content::Zeroes),
            block(8, Content::Same),
            block(9, Content::Data(vec![9; BLOCK].into())),
        ]
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        for compress in [true, false] {
            let packed = pack(SHIP, None, &page(), compress);
            let kinds: Vec<_> = packed.runs.iter().map(|r| (r.offset / BLOCK_BYTES, r.length / BLOCK_BYTES)).collect();
            assert_eq!(kinds, [(3, 2), (5, 1), (7, 1), (8, 1), (9, 1)]);
            assert_eq!(packed.compressed, compress, "one block of three is worth it");
            let out = unpack(SHIP, packed).unwrap();
            assert_eq!(out[0].1, [noise(1), noise(2)].concat());
            assert_eq!((out[1].1.len(), out[4].1.clone()), (0, Bytes::from(vec![9; BLOCK])));
        }
        let noisy = pack(SHIP, None, &[block(0, Content::Data(noise(5)))], true);
        assert!(!noisy.compressed, "it does not get smaller");
    }

    #[test]
    fn zeroes_are_found_where_they_were_written() {
        let data = [noise(1), Bytes::from_static(&ZEROES), noise(2)].concat();
        let runs = [
            ShippedRun { offset: 0, length: 3 * BLOCK_BYTES, data: Some(data.into()) },
            ShippedRun { offset: 65536, length: BLOCK_BYTES, data: None },
        ];
        let found: Vec<RunKind> = blocks_of(&runs).iter().map(|block| block.content.kind()).collect();
        assert_eq!(found, [RunKind::Data, RunKind::Zeroes, RunKind::Data, RunKind::Zeroes]);
    }

    #[test]
    fn a_page_that_was_changed_is_refused() {
        let good = pack(SHIP, None, &page(), true);
        assert!(unpack(SHIP, good.clone()).is_ok());
        assert!(unpack(SHIP + 1, good.clone()).is_err(), "another shipment's");
        type Change = fn(&mut PackedPage);
        let changes: [Change; 9] = [
            |p| p.runs[0].offset += BLOCK_BYTES,
            |p| p.runs[1].kind = RunKind::Same,
            |p| p.runs[1].kind = RunKind::Data,
            |p| p.runs[1].length = 0,
            |p| p.runs[1].length = 1000,
            |p| p.runs[1].length = u64::MAX - 4095,
            |p| p.plain_bytes += 4096,
            |p| p.compressed = false,
            |p| p.body = p.body.slice(..p.body.len() - 1),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(unpack(SHIP, bad).is_err(), "change {at}");
        }
        let mut flipped = pack(SHIP, None, &page(), false);
        let mut body = flipped.body.to_vec();
        body[5000] ^= 1;
        flipped.body = body.into();
        assert_eq!(unpack(SHIP, flipped), Err("its bytes do not match its digest"));
    }
}
