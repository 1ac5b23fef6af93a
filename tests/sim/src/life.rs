//! Life and death of nodes and their disks.

use farshore_core::api::{Effects, Event};
use farshore_core::durable::Durable;
use farshore_core::ids::{Epoch, Incarnation, MemberId, Seq};
use farshore_core::journal::recovery::Rule;
use farshore_core::volume::Volume;

use crate::disk::Disk;
use crate::knobs::Clock;
use crate::neighbour::Neighbour;
use crate::oracle::Violation;
use crate::schedule::{Happening, Order};
use crate::world::{VOLUME, World};

fn name_of(rule: Rule) -> &'static str {
    match rule {
        Rule::Fresh => "journal-fresh",
        Rule::Gone => "journal-gone",
        Rule::Clean => "journal-clean",
        Rule::TornTail => "journal-torn-tail",
        Rule::TornHead => "journal-torn-head",
        Rule::DamagedMiddle => "journal-damaged-middle",
        Rule::DamagedStart => "journal-damaged-start",
    }
}

impl World {
    /// The node dies, and power with it. With `rot`, something on its disk is not what it was afterwards.
    pub fn crash(&mut self, id: MemberId, rot: bool) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.volume.take().is_none() {
            return;
        }
        if node.slowness == 1 && !rot {
            self.oracle.branches.falls((id, node.life), self.now);
        }
        node.life += 1;
        node.device = None;
        node.dies_after = None;
        node.dies_at_sync = None;
        node.fails_sync = false;
        node.timer_at = None;
        let crashed = node.disk.crash(rot, &mut self.dice, &mut self.side);
        node.lineage = node.disk.durable_blob().lineage;
        let verdict = self.oracle.image(id, node.lineage.uuid, &node.disk.now);
        let end = node.disk.journal.log.volumes.get(&VOLUME).map_or(Seq::ZERO, |log| log.last_seq());
        let (end, whole) = (end.max(node.disk.now.base.seq), !node.disk.damaged && crashed.rot.is_none());
        self.check(verdict);
        self.lets_go(id, end, whole);
        if let Some(rot) = crashed.rot {
            self.lost_at = self.now;
            self.fault(rot, || format!("{id}"));
        }
        if crashed.cuts > 0 {
            self.fault("crash-in-recovery", || format!("{id}, {} times", crashed.cuts));
        }
        if let Some(rule) = crashed.rule {
            *self.tally.edges.entry(name_of(rule)).or_default() += 1;
            self.say(|| format!("{id}: {}", name_of(rule)));
        }
        self.neighbour_looks(id);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if let Some(reason) = node.disk.broken.clone() {
            if !node.disk.damaged {
                let text = format!("{id} does not come back from a disk that is well: {reason}");
                self.check(Err(Violation { checker: "journal", text }));
                return;
            }
            node.burnt = true;
            self.fault("disk-broken", || format!("{id}: {reason}"));
        }
        let delay = self.dice.skewed(1_000, 6_000_000);
        self.after(delay, Happening::Restart { node: id });
    }

    /// The node dies, and some of what it wrote last rots.
    pub fn rot_lately(&mut self, id: MemberId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disk.rots_lately = true;
        }
        self.crash(id, true);
    }

    /// The disk is lost with all it held: a new incarnation joins empty, knowing what some other member knows.
    pub fn wipe(&mut self, id: MemberId, teacher: &Durable) {
        self.crash(id, false);
        let incarnation = Incarnation(self.dice.u128());
        if let Some(node) = self.nodes.get_mut(&id) {
            node.burnt = false;
            // Its log will hold records from before the last fork, too.
            let parents = teacher.parents.clone();
            let first = Durable { parents, ..Durable::first(id, incarnation, teacher.lineage, teacher.config.clone()) };
            node.disk = Disk::fresh(&first, self.knobs.journal, &mut self.dice);
            node.lineage = first.lineage;
            self.lost_at = self.now;
            node.neighbour = Neighbour::default();
            node.last_session = None;
            node.wiped = true;
        }
        self.lets_go(id, Seq::ZERO, false);
        self.after(1_000, Happening::Restart { node: id });
    }

    pub fn boot(&mut self, id: MemberId) {
        if self.nodes.get(&id).is_some_and(|n| n.burnt) {
            return self.replace_disk(id);
        }
        let buried = self.buried.contains(&id);
        let Some(node) = self.nodes.get_mut(&id).filter(|n| n.volume.is_none() && !buried) else { return };
        let Some(recovered) = node.disk.recovered() else { return };
        // What has rotted stays rotten, through every later crash of this disk.
        let damaged = node.disk.damaged || recovered.lost_upto.is_some();
        let verdict = self.oracle.words.came_back(id, &recovered, damaged);
        self.check(verdict);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if self.dice.chance(500) {
            node.clock = Clock::draw(&mut self.dice);
        }
        let now = node.clock.at(self.now);
        let life = node.life;
        let mut fx = Effects::new();
        let mut volume = Volume::recover(VOLUME, recovered, now, &mut fx);
        // The other one is the neighbour.
        let bytes = node.disk.journal.segments.share_bytes(2);
        volume.handle(now, Event::JournalShare { bytes }, &mut fx);
        node.volume = Some(volume);
        self.say(|| format!("{id}: up (life {life})"));
        self.carry_out(id, Epoch::ZERO, fx);
        self.flush(id);
        let delay = self.dice.range(1, self.knobs.checkpoint_us);
        self.after(delay, Happening::Checkpoint { node: id, life });
        let delay = self.dice.range(1, self.knobs.neighbour_us);
        self.after(delay, Happening::Neighbour { node: id, life });
    }

    /// A sync failed: nothing is written any more in this life of the daemon, and nobody is told anything by it. It
    /// comes back after a restart, or its disk is exchanged.
    pub fn journal_fails(&mut self, id: MemberId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|n| n.volume.is_some()) else { return };
        node.disk.journal.poisoned = true;
        node.disk.journal.medium.fail(&mut self.side);
        self.fault("journal-failed", || format!("{id}"));
        self.feed(id, Event::JournalFailed { reason: "fsync: I/O error".to_string() });
        let exchanged = self.is_settled() && self.may_lose(id) && self.dice.chance(500);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.burnt |= exchanged;
        }
        let delay = self.dice.skewed(1_000, 3_000_000);
        self.after(delay, Happening::Order { node: id, order: Order::Replace });
    }
}
