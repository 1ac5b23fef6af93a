//! Images on their way from one store to another, piece by piece. Either side may fall between any two pieces, and a piece
//! may be lost or come twice. What arrived stays where it is; the same shipment goes on after it, another begins anew.
//!
//! | checker | what it holds against the run |
//! |---|---|
//! | direction | no image replaces what is newer than itself, or what goes on in a newer lineage |
//!
//! That what is shown is one image of its source, the checker *image* says.

use farshore_core::api::Event;
use farshore_core::history::History;
use farshore_core::ids::{LineageId, MemberId, Seq};
use farshore_core::sabotage::{Sabotage, broken};

use crate::disk::{Disk, Image, Staged};
use crate::layout::VOLUME_BLOCKS;
use crate::oracle::Violation;
use crate::schedule::Happening;
use crate::world::{VOLUME, World};

/// So many of a thousand shipments to a member that did not get the last one completely go on with that.
const RESUMED_PER_MILLE: u32 = 600;

/// A line that breaks in the middle of one.
const PIECES_LOST_PER_MILLE: u32 = 30;

/// What is sent: the image of the source when it began, as what changed since a seq.
#[derive(Debug, Clone)]
pub struct Shipment {
    id: u64,
    pub from: (MemberId, u32),
    pub to: MemberId,
    since: Seq,
    image: Image,
    lineage: LineageId,
    history: History,
}

/// What a store has of a shipment that is not complete.
#[derive(Debug, Clone)]
pub struct Partial {
    id: u64,
    /// So many blocks have arrived.
    got: usize,
    image: Image,
}

impl Partial {
    /// The power fails: of what came last some may be gone.
    pub fn cut(&mut self, left: u64) {
        self.got = self.got.min(left as usize);
        self.image.cells[self.got..].fill(Default::default());
    }
}

impl Disk {
    fn cursor(&self, id: u64) -> usize {
        self.partial.as_ref().filter(|p| p.id == id).map_or(0, |p| p.got)
    }

    /// A piece has come. True when nothing is missing any more.
    fn receive(&mut self, shipment: &Shipment, blocks: std::ops::Range<usize>) -> bool {
        let other = self.partial.as_ref().is_none_or(|p| p.id != shipment.id);
        if other && blocks.start == 0 && !(broken(Sabotage::PartsMixed) && self.partial.is_some()) {
            let image = Image { cells: Image::empty().cells, ..shipment.image.clone() };
            self.partial = Some(Partial { id: shipment.id, got: 0, image });
        }
        let Some(partial) = &mut self.partial else { return false };
        if broken(Sabotage::PartsMixed) {
            (partial.id, partial.image.base) = (shipment.id, shipment.image.base);
            partial.image.snapshots = shipment.image.snapshots.clone();
        }
        if partial.id != shipment.id || (partial.got != blocks.start && !broken(Sabotage::PartsMixed)) {
            return false;
        }
        partial.image.cells[blocks.clone()].copy_from_slice(&shipment.image.cells[blocks.clone()]);
        partial.got = partial.got.max(blocks.end);
        partial.got == VOLUME_BLOCKS as usize || broken(Sabotage::ShownInPart)
    }
}

impl World {
    pub fn ship(&mut self, from: (MemberId, u32), to: MemberId, since: Seq, (lineage, history): (LineageId, History)) {
        let resumed = self.side.chance(RESUMED_PER_MILLE);
        let known = self.outgoing.remove(&(from.0, to));
        let same = |s: &Shipment| s.from == from && s.since == since && s.lineage == lineage;
        let known = known.filter(|shipment| resumed && same(shipment));
        let Some(node) = self.nodes.get(&from.0) else { return };
        let fresh = || {
            let (id, image) = (self.now, node.disk.now.clone());
            Shipment { id, from, to, since, image, lineage, history }
        };
        let shipment = known.unwrap_or_else(fresh);
        let at = self.nodes.get(&to).map_or(0, |n| n.disk.cursor(shipment.id));
        let upto = shipment.image.base.seq;
        self.say(|| format!("{} ships its image at {upto} since {since} to {to}, from block {at}", from.0));
        if at > 0 {
            *self.tally.done.entry("shipment-resumed").or_default() += 1;
        }
        self.outgoing.insert((from.0, to), shipment.clone());
        let delay = 1000 + self.dice.range(0, self.knobs.ship_us) / 4;
        self.send_piece(Box::new(shipment), at, delay);
    }

    fn send_piece(&mut self, shipment: Box<Shipment>, at: usize, delay: u64) {
        let end = (at + self.side.range(1, VOLUME_BLOCKS) as usize).min(VOLUME_BLOCKS as usize);
        if self.side.chance(self.network.weather.copy_per_mille) {
            let later = delay + self.side.range(0, self.knobs.ship_us);
            self.after(later, Happening::Shipment { shipment: shipment.clone(), blocks: at..end, copy: true });
        }
        self.after(delay, Happening::Shipment { shipment, blocks: at..end, copy: false });
    }

    /// A piece arrives, or would.
    pub fn arrive(&mut self, shipment: Box<Shipment>, blocks: std::ops::Range<usize>, copy: bool) {
        let (from, to) = (shipment.from, shipment.to);
        let arrives = self.life(from.0) == Some(from.1) && !self.network.is_cut(from.0, to);
        if !arrives || self.side.chance(PIECES_LOST_PER_MILLE) {
            if !copy {
                self.shipped(from, to);
            }
            return;
        }
        let end = blocks.end;
        let Some(node) = self.nodes.get_mut(&to) else { return };
        if !node.disk.receive(&shipment, blocks) {
            if copy {
                return;
            }
            if end < VOLUME_BLOCKS as usize {
                let delay = 10 + self.side.range(0, self.knobs.ship_us) / 4;
                return self.send_piece(shipment, end, delay);
            }
            return self.shipped(from, to);
        }
        let Some(Partial { image, .. }) = node.disk.partial.take() else { return };
        let (lineage, mut history, base) = (shipment.lineage, shipment.history.clone(), image.base);
        history.truncate(base.seq);
        self.outgoing.remove(&(from.0, to));
        if node.disk.stage(Staged { since: shipment.since, image, lineage }) {
            self.feed(to, Event::Staged { lineage, base, history });
        }
        self.shipped(from, to);
    }

    pub fn shipped(&mut self, (from, life): (MemberId, u32), to: MemberId) {
        let delay = self.dice.range(1_000, 200_000);
        self.after(delay, Happening::Feed { node: from, life, event: Box::new(Event::Shipped { to }) });
    }

    pub fn installed(&mut self, id: MemberId, seq: Seq) {
        let verdict = self.may_be_replaced(id, seq);
        self.check(verdict);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let visible = node.disk.install(seq);
        let verdict = self.oracle.image(id, node.lineage.uuid, &node.disk.now);
        self.check(verdict);
        self.feed(id, if visible { Event::ImageVisible } else { Event::ImageLost });
    }

    /// What this node shows and what it has durable beyond, in the lineage that goes on, is not newer than the image.
    fn may_be_replaced(&self, id: MemberId, seq: Seq) -> Result<(), Violation> {
        let wrong = |text: String| Err(Violation { checker: "direction", text });
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        let Some(staged) = node.disk.staged_at(seq).filter(|_| node.disk.now.base.seq < seq) else {
            return Ok(());
        };
        let (branches, lineage) = (&self.oracle.branches, staged.lineage);
        // The lineage may have forked after the image, while that was being installed.
        let base = staged.image.base;
        let part_of_it = branches.get(node.lineage.uuid).is_some_and(|branch| branch.goes_on_from(base.seq, base.hash));
        if branches.depth(lineage.uuid) < branches.depth(node.lineage.uuid) && !part_of_it {
            return wrong(format!("{id} goes on in {}, and an image of {lineage} is shown there", node.lineage));
        }
        let Some(log) = node.disk.journal.log.volumes.get(&VOLUME) else { return Ok(()) };
        let order = branches.get(node.lineage.uuid).map(|branch| &branch.order);
        let newer = (seq.0 + 1..=log.last_seq().0).map(|seq| log.end_at(Seq(seq)));
        let kept = newer.filter(|end| order.is_some_and(|order| order.get(&end.seq) == Some(&end.hash))).last();
        match kept {
            Some(end) => wrong(format!("{id} has the order up to {}, and shows an image at {seq} over it", end.seq)),
            None => Ok(()),
        }
    }
}
