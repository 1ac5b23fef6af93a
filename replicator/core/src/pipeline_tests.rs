//! The pipeline against a volume of cells: which bytes a read may see, and when requests complete.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::api::{Effect, Effects, Io, Outcome, Request, RequestId};
use crate::ids::{BLOCK_BYTES, Seq};
use crate::limits::SHARE_RESERVE_BYTES;
use crate::overlay::{Content, Hit};
use crate::pipeline::{Bounds, Pipeline, Reached};
use crate::record::Origin;
use crate::register::Durability;

const BLOCKS: usize = 8;

#[derive(Debug, Clone, Copy)]
enum Step {
    Write {
        block: usize,
        blocks: usize,
        zeroes: bool,
        fua: bool,
    },
    Read {
        block: usize,
        blocks: usize,
    },
    Flush,
    /// So many more records are durable here, and on the data quorum.
    Advance {
        completed: u64,
        acked: u64,
        lease_valid: bool,
    },
    Apply(u64),
    /// The store answers the reads that it was asked: by what it shows then, or by what it showed when it was asked.
    StoreAnswers {
        late: bool,
    },
    Mark,
    Hold,
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..BLOCKS, 1..4_usize).prop_map(|(block, blocks)| (block, blocks.min(BLOCKS - block)));
    prop_oneof![
        4 => (range.clone(), any::<bool>(), any::<bool>())
            .prop_map(|((block, blocks), zeroes, fua)| Step::Write { block, blocks, zeroes, fua }),
        3 => range.prop_map(|(block, blocks)| Step::Read { block, blocks }),
        1 => Just(Step::Flush),
        3 => (0_u64..4, 0_u64..4, any::<bool>())
            .prop_map(|(completed, acked, lease_valid)| Step::Advance { completed, acked, lease_valid }),
        2 => (0_u64..4).prop_map(Step::Apply),
        2 => any::<bool>().prop_map(|late| Step::StoreAnswers { late }),
        1 => Just(Step::Mark),
        1 => Just(Step::Hold),
        1 => Just(Step::Release),
    ]
}

/// What is in each block.
type Cells = [u8; BLOCKS];

/// A read that the store has been asked.
struct AtStore {
    id: RequestId,
    hits: Vec<Hit>,
    /// What the store showed when it was asked.
    applied: u64,
}

/// A read that was asked for: its blocks, and what had completed when it went to the store.
struct Read {
    block: usize,
    blocks: usize,
    from: u64,
}

#[derive(Default)]
struct World {
    pipeline: Pipeline,
    /// The contents after each record; the first are those before any.
    images: Vec<Cells>,
    acked: u64,
    completed: u64,
    applied: u64,
    lease_valid: bool,
    asked: u64,
    /// What requests wait for: the seq, and whether the data quorum must have it.
    writes: BTreeMap<RequestId, (u64, bool)>,
    flushes: BTreeMap<RequestId, u64>,
    reads: BTreeMap<RequestId, Read>,
    at_store: Vec<AtStore>,
    last_done: u64,
    /// While held: the last record before the hold.
    held_above: Option<u64>,
}

impl World {
    fn reached(&self) -> Reached {
        Reached { acked: Seq(self.acked), completed: Seq(self.completed), lease_valid: self.lease_valid }
    }

    fn appended(&self) -> u64 {
        self.images.len() as u64 - 1
    }

    /// How far completions and reads may have come.
    fn shown(&self) -> u64 {
        self.completed.min(self.held_above.unwrap_or(u64::MAX))
    }

    fn step(&mut self, step: Step) {
        let range = |block: usize, blocks: usize| (block as u64 * BLOCK_BYTES, blocks as u64 * BLOCK_BYTES);
        match step {
            Step::Write { block, blocks, zeroes, fua } => {
                let (offset, length) = range(block, blocks);
                let fill = if zeroes { 0 } else { self.images.len() as u8 };
                let io = match zeroes {
                    true => Io::WriteZeroes { offset, length, fua },
                    false => Io::Write { offset, data: vec![fill; length as usize].into(), fua },
                };
                let mut image = *self.images.last().expect("there is a first");
                image[block..block + blocks].fill(fill);
                let id = self.ask(io);
                self.images.push(image);
                self.writes.insert(id, (self.appended(), fua));
            }
            Step::Read { block, blocks } => {
                let (offset, length) = range(block, blocks);
                let id = self.ask(Io::Read { offset, length: length as u32 });
                self.reads.insert(id, Read { block, blocks, from: 0 });
            }
            Step::Flush => {
                let id = self.ask(Io::Flush);
                self.flushes.insert(id, self.last_done);
            }
            Step::Advance { completed, acked, lease_valid } => {
                self.completed = (self.completed + completed).min(self.appended());
                self.acked = (self.acked + acked).min(self.completed);
                self.lease_valid = lease_valid;
            }
            Step::Apply(more) => {
                self.applied = (self.applied + more).min(self.acked);
                self.pipeline.on_applied(Seq(self.applied));
            }
            Step::Mark => {
                let image = *self.images.last().expect("there is a first");
                self.images.push(image);
                self.pipeline.marked(Seq(self.appended()), &Bytes::from_static(b"mark"));
            }
            Step::Hold if self.held_above.is_none() => {
                self.held_above = Some(self.appended());
                self.pipeline.hold(Seq(self.appended()));
            }
            Step::Hold => {}
            Step::Release => {
                self.held_above = None;
                self.pipeline.release();
            }
            Step::StoreAnswers { late } => {
                for AtStore { id, hits, applied } in std::mem::take(&mut self.at_store) {
                    let applied = if late { self.applied } else { applied };
                    let data = self.at_store(id, applied, &hits);
                    let (reached, mut fx) = (self.reached(), Effects::new());
                    self.pipeline.on_read_done(id, Ok(data), reached, &mut fx);
                    self.take(fx);
                }
            }
        }
        self.go_on();
    }

    fn ask(&mut self, io: Io) -> RequestId {
        self.asked += 1;
        let (id, mut fx) = (RequestId(self.asked), Effects::new());
        self.pipeline.submit(Request { id, io, origin: Origin::default() }, BLOCKS as u64 * BLOCK_BYTES, &mut fx);
        assert!(fx.is_empty(), "a good request is taken");
        id
    }

    fn go_on(&mut self) {
        let (reached, mut fx) = (self.reached(), Effects::new());
        while let Some(draft) = self.pipeline.next(reached, &mut fx) {
            let (seq, _) = self.writes[&draft.id];
            self.pipeline.appended(Seq(seq), &draft);
        }
        self.pipeline.advance(reached, &mut fx);
        self.take(fx);
    }

    fn take(&mut self, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Read { id, offset, length, hits } => self.read(id, offset, length, hits),
                Effect::Complete { id, outcome } => self.complete(id, outcome),
                other => panic!("{other:?} is not the pipeline's to ask for"),
            }
        }
    }

    /// A read goes to the store: with the newest bytes laid over the store's, it sees all that has completed, and
    /// nothing that has not (P5, I11).
    fn read(&mut self, id: RequestId, offset: u64, length: u32, hits: Vec<Hit>) {
        let shown = self.shown();
        let read = self.reads.get_mut(&id).expect("it was asked for");
        read.from = shown;
        let (block, blocks) = (read.block, read.blocks);
        assert_eq!((offset, u64::from(length)), (block as u64 * BLOCK_BYTES, blocks as u64 * BLOCK_BYTES));
        assert!(hits.iter().all(|hit| hit.seq.0 <= shown), "a read sees what has not completed");
        let seen = self.at_store(id, self.applied, &hits);
        let completed = &self.images[shown as usize][block..block + blocks];
        assert!(seen.iter().eq(completed.iter()), "what a read sees");
        self.at_store.push(AtStore { id, hits, applied: self.applied });
    }

    /// What the store answers where so much is applied, a byte for each block.
    fn at_store(&self, id: RequestId, applied: u64, hits: &[Hit]) -> Bytes {
        let Read { block, blocks, .. } = self.reads[&id];
        let mut seen = self.images[applied as usize];
        for hit in hits {
            for at in (hit.offset..hit.offset + hit.length).step_by(BLOCK_BYTES as usize) {
                seen[(at / BLOCK_BYTES) as usize] = match &hit.content {
                    Content::Data(bytes) => bytes[(at - hit.offset) as usize],
                    Content::Zeroes => 0,
                };
            }
        }
        Bytes::from(seen[block..block + blocks].to_vec())
    }

    fn complete(&mut self, id: RequestId, outcome: Outcome) {
        assert!(self.lease_valid, "an answer without a lease");
        if let Some((seq, quorum)) = self.writes.remove(&id) {
            assert!(seq > self.last_done, "writes complete in the order of their seqs");
            assert!(self.writes.values().all(|(left, _)| *left > seq), "an earlier write is left behind");
            assert!(seq <= if quorum { self.acked } else { self.completed }, "{seq} completes too early");
            assert!(seq <= self.shown(), "{seq} completes under a hold");
            assert_eq!(outcome, Outcome::Done);
            self.last_done = seq;
        } else if let Some(upto) = self.flushes.remove(&id) {
            assert!(upto <= self.acked, "a flush completes before what it covers is acked");
        } else {
            let Read { block, blocks: _, from } = self.reads.remove(&id).expect("completes once, if it was asked");
            let Outcome::Data(data) = outcome else { panic!("{outcome:?} to a read") };
            // Each block as it was at some moment since the read went to the store, and never as what is held back.
            let since = &self.images[from as usize..=self.shown() as usize];
            for (at, byte) in data.iter().enumerate() {
                assert!(since.iter().any(|image| image[block + at] == *byte), "block {at} of a read");
            }
        }
    }
}

/// As much is on its way as the journal holds for the volume, less what a restart needs of it; a single record always.
#[test]
fn the_device_waits_for_a_small_share_of_the_journal() {
    let write = BLOCK_BYTES * 2;
    for (share, durability, together) in [
        (SHARE_RESERVE_BYTES + 3 * write, Durability::Write, 3),
        (SHARE_RESERVE_BYTES + 3 * write, Durability::Flush, 3),
        (0, Durability::Write, 1),
        (u64::MAX, Durability::Flush, 5),
    ] {
        let mut pipeline = Pipeline::starting_at(Seq::ZERO);
        pipeline.bounds = Bounds::within(share, durability);
        let mut fx = Effects::new();
        for id in 1..=5 {
            let io = Io::Write { offset: 0, data: Bytes::from(vec![7; BLOCK_BYTES as usize]), fua: false };
            pipeline.submit(Request { id: RequestId(id), io, origin: Origin::default() }, BLOCK_BYTES, &mut fx);
        }
        // In class flush everything completes at once, and nothing is acked or applied.
        let completed = if durability == Durability::Flush { Seq(9) } else { Seq::ZERO };
        let reached = Reached { acked: Seq::ZERO, completed, lease_valid: true };
        let mut seq = Seq::ZERO;
        while let Some(draft) = pipeline.next(reached, &mut fx) {
            seq = seq.next();
            pipeline.appended(seq, &draft);
            pipeline.advance(reached, &mut fx);
        }
        assert_eq!(seq, Seq(together), "{share} {durability:?}");
    }
}

/// A read that was at the store when the hold began comes back with bytes that are held: it waits for their release.
#[test]
fn a_read_on_its_way_does_not_show_what_is_held() {
    let mut world = World { images: vec![[0; BLOCKS]], ..World::default() };
    let reached = |seq| Step::Advance { completed: seq, acked: seq, lease_valid: true };
    world.step(reached(0));
    world.step(Step::Read { block: 0, blocks: 1 });
    world.step(Step::Read { block: 1, blocks: 1 });
    world.step(Step::Mark);
    world.step(Step::Hold);
    world.step(Step::Write { block: 0, blocks: 1, zeroes: false, fua: false });
    world.step(reached(2));
    world.step(Step::Apply(2));
    assert_eq!(world.at_store.len(), 2);
    world.step(Step::StoreAnswers { late: true });
    assert_eq!((world.reads.len(), world.writes.len()), (1, 1), "the other read is answered");
    world.step(Step::Release);
    assert!(world.reads.is_empty() && world.writes.is_empty());
    assert!(world.pipeline.is_idle() && world.pipeline.is_empty());
}

proptest! {
    #[test]
    fn requests_see_and_complete_as_on_a_plain_disk(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World { images: vec![[0; BLOCKS]], ..World::default() };
        for step in steps {
            world.step(step);
        }
        // With everything reached, everything that was asked is answered, and the memory is given back.
        let all = world.appended();
        world.step(Step::Release);
        world.step(Step::Advance { completed: all, acked: all, lease_valid: true });
        world.step(Step::StoreAnswers { late: true });
        world.step(Step::StoreAnswers { late: false });
        world.step(Step::Apply(all));
        prop_assert!(world.writes.is_empty() && world.reads.is_empty() && world.flushes.is_empty());
        prop_assert!(world.pipeline.is_idle() && world.pipeline.is_empty());
    }
}
