//! Life and death of nodes and their disks.

use farshore_core::api::Effects;
use farshore_core::durable::Durable;
use farshore_core::ids::{Epoch, Incarnation, MemberId};
use farshore_core::register::Configuration;
use farshore_core::volume::Volume;

use crate::disk::Disk;
use crate::knobs::Clock;
use crate::schedule::Happening;
use crate::world::{LINEAGE, VOLUME, World};

impl World {
    pub fn crash(&mut self, id: MemberId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.volume.take().is_none() {
            return;
        }
        node.life += 1;
        node.device = None;
        node.dies_after = None;
        node.timer_at = None;
        node.disk.crash(&mut self.dice);
        let verdict = self.oracle.image(id, &node.disk.now);
        self.check(verdict);
        let delay = self.dice.skewed(1_000, 6_000_000);
        self.after(delay, Happening::Restart { node: id });
    }

    /// The disk is lost with all it held: a new incarnation joins empty, knowing what some other member knows.
    pub fn wipe(&mut self, id: MemberId, config: Configuration) {
        self.crash(id);
        let incarnation = Incarnation(self.dice.u128());
        if let Some(node) = self.nodes.get_mut(&id) {
            node.burnt = false;
            node.disk = Disk::fresh(&Durable::first(id, incarnation, LINEAGE, config));
            node.last_session = None;
            node.wiped = true;
        }
        self.after(1_000, Happening::Restart { node: id });
    }

    pub fn boot(&mut self, id: MemberId) {
        if self.nodes.get(&id).is_some_and(|n| n.burnt) {
            return self.replace_disk(id);
        }
        let buried = self.buried.contains(&id);
        let Some(node) = self.nodes.get_mut(&id).filter(|n| n.volume.is_none() && !buried) else { return };
        let mut recovered = node.disk.recovered();
        recovered.lost_upto = node.disk.lost_upto.take();
        let damaged = recovered.lost_upto.is_some();
        let verdict = self.oracle.words.came_back(id, &recovered, damaged);
        self.check(verdict);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if self.dice.chance(500) {
            node.clock = Clock::draw(&mut self.dice);
        }
        let now = node.clock.at(self.now);
        let life = node.life;
        let mut fx = Effects::new();
        node.volume = Some(Volume::recover(VOLUME, recovered, now, &mut fx));
        self.say(|| format!("{id}: up (life {life})"));
        self.carry_out(id, Epoch::ZERO, fx);
        self.flush(id);
        let delay = self.dice.range(1, self.knobs.checkpoint_us);
        self.after(delay, Happening::Checkpoint { node: id, life });
    }
}
