//! What goes wrong and who gives orders: faults of network, nodes and disks, and an operator who does not know better.
//!
//! Faults stay within what may happen to a volume that must not lose anything: a disk is wiped only while the other
//! members, under every register value known anywhere, still hold all that was acknowledged.

use std::collections::BTreeMap;

use farshore_core::api::Event;
use farshore_core::durable::Durable;
use farshore_core::ids::{Incarnation, LineageId, MemberId};
use farshore_core::register::{Configuration, MemberKind, SyncMember, Terms};

use crate::network::Weather;
use crate::schedule::Happening;
use crate::world::{Node, World};

/// Of a thousand seeds so many see promotions forced while other things go wrong.
const FORKED_PER_MILLE: u32 = 200;

impl World {
    pub fn begin_turmoil(&mut self) {
        self.after(1_000, Happening::Operator);
        self.after(200_000, Happening::Fault);
        self.begin_snapshots();
        if self.side.chance(FORKED_PER_MILLE) {
            let delay = self.side.range(300_000, 3_000_000);
            self.after(delay, Happening::Fork);
        }
    }

    // ---- faults ----

    pub fn misbehave(&mut self) {
        if !self.turmoil {
            return;
        }
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        let Some(id) = self.dice.pick(&ids) else { return };
        match self.dice.range(0, 99) {
            0..20 => {
                self.fault("crash", || format!("{id}"));
                self.crash(id, false);
            }
            20..27 => {
                let left = self.dice.skewed(0, 60);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.dies_after = Some(left);
                }
            }
            27..31 => {
                let at = (self.dice.skewed(0, 60), self.dice.chance(500));
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.dies_at_sync = Some(at);
                }
            }
            31..34 => {
                self.fault("crash-all", String::new);
                for id in ids {
                    self.crash(id, false);
                }
            }
            34..44 => self.isolate(id, &ids),
            44..54 => self.cut_one_way(id, &ids),
            54..68 => self.heal_links(),
            68..71 => self.flap(id, &ids),
            71..74 => self.lack_room(id),
            74..76 => self.fail_io(id),
            76..78 => self.jump_clock(),
            78..82 => {
                let until = self.now + self.dice.skewed(10_000, self.knobs.lease_us * 3);
                self.fault("pause", || format!("{id} until {until}"));
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.paused_until = until;
                }
            }
            82..86 => {
                let slowness = self.dice.skewed(1, 200);
                self.fault("slow-disk", || format!("{id} × {slowness}"));
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.slowness = slowness;
                }
            }
            86..90 => {
                self.network.weather = Weather::draw(&mut self.dice);
                self.fault("weather", String::new);
            }
            _ => self.lose_disk(id),
        }
        let delay = self.dice.range(1_000, self.knobs.calm_us * 2);
        self.after(delay, Happening::Fault);
    }

    /// Cuts a node (sometimes with some companions) from the rest, in both directions.
    pub fn isolate(&mut self, id: MemberId, ids: &[MemberId]) {
        let mut inside = vec![id];
        for other in ids {
            if *other != id && self.dice.chance(250) {
                inside.push(*other);
            }
        }
        self.fault("partition", || format!("{inside:?}"));
        for a in ids {
            for b in ids {
                if inside.contains(a) != inside.contains(b) {
                    self.network.cut(*a, *b);
                }
            }
        }
        self.tell_links(ids, false);
    }

    fn cut_one_way(&mut self, id: MemberId, ids: &[MemberId]) {
        let Some(other) = self.dice.pick(ids).filter(|o| *o != id) else { return };
        self.fault("one-way", || format!("{id} to {other}"));
        self.network.cut(id, other);
        self.tell_links(ids, false);
    }

    pub fn heal_links(&mut self) {
        if self.network.cuts() == 0 {
            return;
        }
        self.say(|| "links heal".to_string());
        self.network.heal();
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        self.tell_links(&ids, true);
    }

    /// The transport notices some changes of its links, and not always soon.
    fn tell_links(&mut self, ids: &[MemberId], up: bool) {
        for a in ids {
            for b in ids {
                let cut = self.network.is_cut(*a, *b) || self.network.is_cut(*b, *a);
                if a == b || cut == up || self.dice.chance(400) {
                    continue;
                }
                let delay = self.dice.skewed(100, 1_000_000);
                if let Some(life) = self.life(*a) {
                    let event = Box::new(Event::Link { member: *b, up });
                    self.after(delay, Happening::Feed { node: *a, life, event });
                }
            }
        }
    }

    fn lose_disk(&mut self, id: MemberId) {
        if !self.is_settled() || !self.may_lose(id) {
            return;
        }
        if self.dice.chance(700) {
            return self.crash(id, true);
        }
        self.replace_disk(id);
    }

    /// A register value that is still on its way may make a disk indispensable.
    pub fn is_settled(&self) -> bool {
        self.now > self.register_written_at + self.network.weather.late_us + 1_000_000
    }

    pub fn replace_disk(&mut self, id: MemberId) {
        let lineage = self.nodes.get(&id).map(|n| n.lineage);
        let knows = |n: &&Node| n.id != id && Some(n.lineage) == lineage;
        let others: Vec<MemberId> = self.nodes.values().filter(knows).map(|n| n.id).collect();
        let Some(teacher) = self.dice.pick(&others).and_then(|t| self.nodes.get(&t)) else { return };
        let teacher = teacher.disk.durable_blob();
        self.fault("disk-lost", || format!("{id}"));
        self.wipe(id, &teacher);
    }

    /// Every register value that anyone may still act on.
    fn known_configurations<'a>(
        &'a self,
        blobs: &'a BTreeMap<MemberId, Durable>,
    ) -> Vec<(LineageId, &'a Configuration)> {
        let mut known = Vec::new();
        for node in self.nodes.values() {
            known.extend(blobs.get(&node.id).map(|blob| (blob.lineage, &blob.config)));
            if let Some(volume) = &node.volume {
                let d = &volume.replica().d;
                known.push((d.lineage, &d.config));
                known.extend(volume.primary().map(|p| (d.lineage, p.config())));
            }
        }
        known
    }

    /// Is what this member holds under this incarnation and in this lineage there, and complete?
    pub fn holds(&self, blob: &Durable, incarnation: Incarnation, lineage: LineageId) -> bool {
        self.nodes.get(&blob.me).is_some_and(|n| {
            let installing = n.volume.as_ref().is_some_and(|v| v.replica().d.installing.is_some());
            let lost = n.burnt || n.disk.damaged || n.volume.as_ref().is_some_and(|v| !v.replica().whole());
            let same = blob.incarnation == incarnation && blob.lineage == lineage;
            !lost && same && blob.installing.is_none() && !installing && blob.holed.is_none()
        })
    }

    pub fn may_lose(&self, id: MemberId) -> bool {
        let blobs: BTreeMap<MemberId, Durable> =
            self.nodes.iter().map(|(id, node)| (*id, node.disk.durable_blob())).collect();
        let holds = |member: MemberId, incarnation: Incarnation, lineage: LineageId| {
            blobs.get(&member).is_some_and(|blob| self.holds(blob, incarnation, lineage))
        };
        let enough = |lineage: LineageId, terms: &Terms| {
            terms.control_quorum(|m, inc| m != id && holds(m, inc, lineage))
                && terms.recovery(|m| m.member != id && holds(m.member, m.incarnation, lineage))
        };
        // It may be about to enter the sync set, and then be one whose answer is wanted.
        let grown = |c: &Configuration, terms: &Terms| {
            let incarnation = blobs.get(&id)?.incarnation;
            let joiner = SyncMember { member: id, incarnation, site: c.site_of(id).to_string() };
            let sync = terms.sync.iter().filter(|m| m.member != id).cloned().chain([joiner]).collect();
            (c.admitted(id) == Some(incarnation)).then_some(Terms { sync, ..terms.clone() })
        };
        // Or an observer may be about to have somebody's place, or to leave it.
        let moved = |c: &Configuration, terms: &Terms| {
            let observers = c.members.iter().filter(|m| m.kind == MemberKind::Observer);
            let moves = observers.flat_map(|o| match c.stands_in(o.id) {
                Some(place) => vec![(o.id, place.lost.member)],
                None => terms.sync.iter().map(|s| (s.member, o.id)).collect(),
            });
            let moved =
                moves.filter_map(|(from, to)| Some(in_place_of(c, terms, from, (to, blobs.get(&to)?.incarnation))));
            if self.layout.promotes_observers() { moved.collect() } else { Vec::new() }
        };
        let known = self.known_configurations(&blobs);
        known.iter().all(|(lineage, c)| {
            let grown = c.all_terms().filter_map(|terms| grown(c, terms));
            let moved = c.all_terms().flat_map(|terms| moved(c, terms));
            c.all_terms().cloned().chain(grown).chain(moved).all(|terms| enough(*lineage, &terms))
        })
    }

    /// Sometimes a member does not come back, where the others can do without it.
    pub fn bury_one(&mut self) {
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        let settled = self.now > self.register_written_at + self.network.weather.late_us;
        let Some(id) = self.dice.pick(&ids).filter(|id| settled && self.may_lose(*id)) else { return };
        if self.dice.chance(500) {
            self.fault("gone-for-good", || format!("{id}"));
            self.crash(id, false);
            self.buried.insert(id);
        }
    }

    /// A link that goes down and comes up again, many times.
    fn flap(&mut self, id: MemberId, ids: &[MemberId]) {
        let Some(other) = self.dice.pick(ids).filter(|o| *o != id) else { return };
        self.fault("flapping", || format!("{id} and {other}"));
        let mut at = 0;
        for turn in 0..self.dice.range(4, 16) {
            self.after(at, Happening::Line { between: (id, other), up: turn % 2 == 1 });
            at += self.dice.skewed(1_000, 400_000);
        }
        self.after(at, Happening::Line { between: (id, other), up: true });
    }

    pub fn line(&mut self, (a, b): (MemberId, MemberId), up: bool) {
        if !self.turmoil {
            return;
        }
        for (from, to) in [(a, b), (b, a)] {
            if up {
                self.network.mend(from, to);
            } else {
                self.network.cut(from, to);
            }
        }
        self.tell_links(&[a, b], up);
    }

    /// The store has no room for a while, or the journal can't grow and must make do with what it has.
    fn lack_room(&mut self, id: MemberId) {
        let until = self.now + self.dice.skewed(100_000, 6_000_000);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if self.dice.chance(700) {
            node.store_full_until = until;
            self.fault("store-full", || format!("{id} until {until}"));
        } else {
            node.disk.journal.segments.allocation_error = Some("No space left on device".to_string());
            self.fault("journal-full", || format!("{id}"));
        }
    }

    /// The next sync of the journal fails, or reads of the store do.
    fn fail_io(&mut self, id: MemberId) {
        let reads = self.dice.range(1, 20);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if self.dice.chance(500) {
            node.fails_sync = true;
        } else {
            node.reads_fail = reads;
            self.fault("read-error", || format!("{id}: the next {reads} reads"));
        }
    }

    /// The clock of who holds the epoch jumps ahead. Its own lease ends early then; that of a member which owes one
    /// must not, by the assumption that leases rest on.
    fn jump_clock(&mut self) {
        let holders = self.holders();
        let Some(id) = self.dice.pick(&holders) else { return };
        let by = self.dice.skewed(1_000, 3_600_000_000);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.clock.jump(by);
        node.timer_at = None;
        self.fault("clock-jump", || format!("{id} by {by} µs"));
        self.set_timer(id);
    }
}

/// These terms with one member in the place of another.
fn in_place_of(c: &Configuration, terms: &Terms, from: MemberId, (to, incarnation): (MemberId, Incarnation)) -> Terms {
    let mut next = terms.clone();
    for vote in next.votes.iter_mut().filter(|v| v.member == from) {
        (vote.member, vote.incarnation) = (to, incarnation);
    }
    next.sync.retain(|s| s.member != from && s.member != to);
    next.sync.push(SyncMember { member: to, incarnation, site: c.site_of(to).to_string() });
    next
}
