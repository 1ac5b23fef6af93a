//! Who gives orders: an operator who does not know better, and dramas in several scenes.

use std::collections::BTreeSet;

use farshore_core::api::{Change, Command, Promotion};
use farshore_core::durable::Durable;
use farshore_core::ids::{BLOCK_BYTES, Incarnation, MemberId, SessionId};
use farshore_core::register::{Configuration, DataRule, Durability, Member, MemberKind, Mode, SyncMember};

use crate::layout::{ADAPTIVE, STAND_IN_US, VOLUME_BLOCKS};
use crate::schedule::{Happening, Order};
use crate::world::{Node, World};

/// Members that a volume has at most in a run.
const MEMBERS_MAX: usize = 6;

impl World {
    /// Where the living can't meet the rule, the operator (or `fallback`) leaves the dead out of it.
    pub fn leave_out_buried(&mut self) {
        for id in self.primaries() {
            let Some(config) = self.config_of(id) else { continue };
            let living = |m: &SyncMember| !self.buried.contains(&m.member);
            let stuck = !config.current.data_quorum(living);
            let (alive, dead): (Vec<SyncMember>, Vec<SyncMember>) =
                config.current.sync.iter().cloned().partition(living);
            if !stuck || alive.is_empty() {
                continue;
            }
            let home = &config.current.primary_site;
            let remote: BTreeSet<&str> = alive.iter().map(|s| s.site.as_str()).filter(|s| s != home).collect();
            let asked = config.volume.rule;
            let rule = DataRule {
                w: asked.w.min(alive.len() as u8),
                min_remote: asked.min_remote.min(remote.len() as u8),
                local: asked.local && alive.iter().any(|s| s.site == *home),
            };
            let without = dead.iter().map(|s| s.member).collect();
            self.command(id, Command::Change(Change::Reduce { without, rule }));
        }
    }

    pub fn operate(&mut self) {
        if !self.turmoil {
            return;
        }
        self.readmit_lost();
        if self.dice.chance(self.knobs.drama_per_mille) {
            self.drama();
        }
        self.promote_observer();
        self.change_diskless();
        self.fence_somebody();
        self.change_class();
        self.change_mode();
        let open: Vec<MemberId> = self.holders();
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        let any = self.dice.pick(&ids);
        let served = self.nodes.values().any(|n| n.device.is_some());
        let what = if !served && self.dice.chance(600) { 100 } else { self.dice.range(0, 99) };
        match what {
            100 => self.serve(&open, any),
            // A restarted daemon takes its device back.
            0..20 => {
                let back: Vec<(MemberId, SessionId)> =
                    self.nodes.values().filter_map(|n| n.last_session.map(|s| (n.id, s))).collect();
                if let Some((id, session)) = self.dice.pick(&back) {
                    let writer = self.dice.u128();
                    self.command(id, Command::Promote { writer, why: Promotion::Restart { session } });
                }
            }
            20..45 if open.is_empty() => self.promote(any, Promotion::Verb),
            20..32 => self.promote(any, Promotion::Verb),
            32..50 => self.promote(any, Promotion::Takeover),
            50..72 => {
                let writer = self.dice.u128();
                let session = SessionId(self.dice.u128());
                if let Some(id) = self.dice.pick(&open).or(any) {
                    self.command(id, Command::Attach { writer, session });
                }
            }
            72..75 => {
                let devices: Vec<(MemberId, SessionId)> =
                    self.nodes.values().filter_map(|n| n.device.map(|s| (n.id, s))).collect();
                if let Some((id, session)) = self.dice.pick(&devices) {
                    self.command(id, Command::Detach { session });
                }
            }
            75..77 => {
                if let Some(id) = self.dice.pick(&open) {
                    self.command(id, Command::Demote);
                }
            }
            77..79 => self.slip(any),
            79..82 => {
                if let (Some(id), Some(to)) = (self.dice.pick(&open), any) {
                    self.command(id, Command::Handover { to });
                }
            }
            _ => {
                let primaries = self.primaries();
                if let Some(id) = self.dice.pick(&primaries) {
                    self.change(id);
                }
            }
        }
        // Leave room for work between the orders.
        let delay = self.dice.range(10_000, self.knobs.patience_us * 2);
        self.after(delay, Happening::Operator);
    }

    /// In a layout with members that are only fed: one is given a vote, by which it enters the sync set once it is whole,
    /// or is taken out again.
    fn promote_observer(&mut self) {
        if !self.layout.feeds_observers() || !self.side.chance(150) {
            return;
        }
        let primaries = self.primaries();
        let Some((id, config)) = self.side.pick(&primaries).and_then(|id| Some((id, self.config_of(id)?))) else {
            return;
        };
        let fed: Vec<MemberId> = config.members.iter().filter(|m| m.kind == MemberKind::Data).map(|m| m.id).collect();
        let Some(member) = self.side.pick(&fed) else { return };
        let lineage = self.nodes.get(&id).map(|n| n.lineage);
        let Some(node) = self.nodes.get(&member).filter(|n| Some(n.lineage) == lineage) else { return };
        let incarnation = node.disk.durable_blob().incarnation;
        match config.admitted(member) {
            None => self.command(id, Command::Change(Change::Readmit { member, incarnation })),
            Some(_) if self.layout.is_fed_only(member) => self.command(id, Command::Change(Change::Remove { member })),
            Some(_) => None,
        };
    }

    /// Nodes without a copy come and go; now and then one is to have a vote. And one of them works.
    fn change_diskless(&mut self) {
        if !self.layout.has_diskless() {
            return;
        }
        if self.side.chance(250) {
            let diskless: Vec<MemberId> = self.nodes.values().filter(|n| n.is_diskless()).map(|n| n.id).collect();
            if let Some(id) = self.side.pick(&diskless) {
                let (writer, session) = (self.side.u128(), SessionId(self.side.u128()));
                self.command(id, Command::Attach { writer, session });
            }
        }
        if !self.side.chance(80) {
            return;
        }
        let primaries = self.primaries();
        let Some((id, config)) = self.side.pick(&primaries).and_then(|id| Some((id, self.config_of(id)?))) else {
            return;
        };
        let next = self.nodes.keys().map(|m| m.0 + 1).max().unwrap_or(0);
        let known = config.members.iter().find(|m| m.kind == MemberKind::Diskless).map(|m| m.id);
        let change = match (self.side.range(0, 2), known) {
            (0, Some(member)) => Change::Remove { member },
            (1, Some(member)) => Change::Readmit { member, incarnation: Incarnation(self.side.u128()) },
            _ if config.members.len() < MEMBERS_MAX && next <= 9 => {
                let incarnation = Incarnation(self.side.u128());
                let Some(teacher) = self.nodes.get(&id).map(|n| n.disk.durable_blob()) else { return };
                let first = Durable::first(MemberId(next), incarnation, teacher.lineage, config.clone());
                self.add_disk(Durable { parents: teacher.parents, ..first });
                let site = self.side.pick(&["a", "b", "x"]).unwrap_or("a").to_string();
                let member = Member { id: MemberId(next), site, node: format!("n{next}"), kind: MemberKind::Diskless };
                Change::Add { member, incarnation, votes: u8::from(self.side.chance(100)) }
            }
            _ => return,
        };
        self.command(id, Command::Change(change));
    }

    /// The class, where the device has a cache anyway: it is held to no more than that. And what becomes of it without a
    /// quorum.
    fn change_class(&mut self) {
        if !self.side.chance(60) {
            return;
        }
        let primaries = self.primaries();
        let Some((id, config)) = self.side.pick(&primaries).and_then(|id| Some((id, self.config_of(id)?))) else {
            return;
        };
        let change = match (self.layout.durability, config.volume.durability) {
            (Durability::Flush, Durability::Flush) => Change::Durability { durability: Durability::Write },
            (Durability::Flush, Durability::Write) => Change::Durability { durability: Durability::Flush },
            (Durability::Write, _) => Change::QuorumLoss { on_quorum_loss: config.volume.on_quorum_loss },
        };
        self.command(id, Command::Change(change));
    }

    /// Who is to be waited for, and for how long.
    fn change_mode(&mut self) {
        if !self.layout.is_distant() || !self.side.chance(100) {
            return;
        }
        let primaries = self.primaries();
        let Some((id, config)) = self.side.pick(&primaries).and_then(|id| Some((id, self.config_of(id)?))) else {
            return;
        };
        let fallback = Change::Fallback { after_us: self.side.pick(&[None, Some(100_000), Some(800_000)]).flatten() };
        if self.layout.promotes_observers() && self.side.chance(700) {
            let after_us = self.side.pick(&[None, Some(50_000), Some(STAND_IN_US)]).flatten();
            self.command(id, Command::Change(Change::PromoteObserver { after_us }));
            return;
        }
        let modes =
            [self.layout.mode, Mode::Sync, Mode::Async { rpo_us: 0 }, Mode::Async { rpo_us: 200_000 }, ADAPTIVE];
        let mode = self.side.pick(&modes).filter(|_| self.side.chance(600));
        let change = match mode {
            Some(mode) => Change::Mode { mode, rule: self.rule_under(mode, &config), votes: Vec::new() },
            None => fallback,
        };
        self.command(id, Command::Change(change));
    }

    /// The layout's rule, as far as those can meet it that the mode wants in the sync set.
    fn rule_under(&self, mode: Mode, config: &Configuration) -> DataRule {
        let asked: Vec<&Member> = config.asked_for(mode).collect();
        let home = &config.current.primary_site;
        let remote: BTreeSet<&str> = asked.iter().map(|m| m.site.as_str()).filter(|s| s != home).collect();
        let rule = self.layout.rule;
        let (w, min_remote) = (rule.w.min(asked.len() as u8), rule.min_remote.min(remote.len() as u8));
        DataRule { w, min_remote, local: rule.local }
    }

    /// A volume is taken from a node, by one that may not have heard where the volume is now.
    fn fence_somebody(&mut self) {
        if !self.side.chance(60) {
            return;
        }
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        if let (Some(id), Some(member)) = (self.side.pick(&ids), self.side.pick(&ids)) {
            let writer = self.side.u128();
            self.command(id, Command::Promote { writer, why: Promotion::Fence { member } });
        }
    }

    /// What an operator asks for by mistake, and a device that grows.
    fn slip(&mut self, any: Option<MemberId>) {
        let primaries = self.primaries();
        let Some(anybody) = any else { return };
        let id = self.dice.pick(&primaries).unwrap_or(anybody);
        let stranger = MemberId(99);
        let members = self.nodes.keys().copied().filter(|m| *m != anybody).collect();
        let config = self.config_of(id);
        let (writer, uuid) = (self.dice.u128(), self.dice.u128());
        match self.dice.range(0, 5) {
            0 => self.command(anybody, Command::Force { writer, uuid, members: vec![stranger] }),
            1 => self.command(anybody, Command::Force { writer, uuid, members }),
            2 => self.command(id, Command::Change(Change::Remove { member: stranger })),
            3 => config.and_then(|c| c.members.first().cloned()).and_then(|member| {
                let incarnation = Incarnation(writer);
                self.command(id, Command::Change(Change::Add { member, incarnation, votes: 1 }))
            }),
            4 => self.command(anybody, Command::Change(Change::Remove { member: anybody })),
            _ => config.and_then(|c| {
                let blocks = self.dice.range(VOLUME_BLOCKS - 1, 2 * VOLUME_BLOCKS);
                let size_bytes = (blocks * BLOCK_BYTES).max(c.volume.size_bytes - BLOCK_BYTES);
                self.command(id, Command::Change(Change::Resize { size_bytes }))
            }),
        };
    }

    /// Somebody wants to work: attaches where the epoch is held, or takes it.
    fn serve(&mut self, open: &[MemberId], any: Option<MemberId>) {
        let writer = self.dice.u128();
        match self.dice.pick(open) {
            Some(id) => {
                let session = SessionId(self.dice.u128());
                self.command(id, Command::Attach { writer, session });
            }
            None => {
                self.promote(any, Promotion::Takeover);
                if let Some(node) = any {
                    let delay = self.dice.range(1_000, self.knobs.lease_us * 2);
                    self.after(delay, Happening::Order { node, order: Order::Attach });
                }
            }
        }
    }

    /// The holder is struck while it works, and somebody else takes over at the worst moment: sometimes two at once,
    /// sometimes one who falls himself.
    fn drama(&mut self) {
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        let holders = self.holders();
        let Some(holder) = self.dice.pick(&holders) else { return };
        match self.dice.range(0, 9) {
            0..3 => return self.relay(holder, &ids),
            3..6 => return self.split(holder, &ids),
            _ => {}
        }
        match self.dice.range(0, 9) {
            0..3 => {
                self.fault("crash-holder", || format!("{holder}"));
                self.crash(holder, false);
            }
            3..6 => self.isolate(holder, &ids),
            6..8 => {
                // Some of what it sends still arrives, or some of what it is sent.
                for other in &ids {
                    match self.dice.range(0, 2) {
                        0 => self.network.cut(holder, *other),
                        1 => self.network.cut(*other, holder),
                        _ => {}
                    }
                }
                self.fault("half-cut-holder", || format!("{holder}"));
            }
            _ => {
                let until = self.now + self.dice.skewed(10_000, self.knobs.lease_us * 3);
                self.fault("pause-holder", || format!("{holder} until {until}"));
                if let Some(node) = self.nodes.get_mut(&holder) {
                    node.paused_until = until;
                }
            }
        }
        let others: Vec<MemberId> = ids.into_iter().filter(|id| *id != holder).collect();
        let mut at = self.dice.skewed(100, self.knobs.lease_us * 2);
        for _ in 0..self.dice.range(1, 3) {
            let Some(node) = self.dice.pick(&others) else { return };
            self.after(at, Happening::Order { node, order: Order::TakeOver });
            let scenes = [Order::Attach, Order::Attach, Order::Crash, Order::Heal];
            let order = self.dice.pick(&scenes).unwrap_or(Order::Heal);
            let later = at + self.dice.skewed(10, self.knobs.lease_us * 2);
            self.after(later, Happening::Order { node, order });
            at += self.dice.skewed(1, self.knobs.lease_us * 3);
        }
        self.after(at, Happening::Order { node: holder, order: Order::Heal });
    }

    /// The holder is cut off and does not know it; somebody else serves as soon as he may. Reads tell.
    fn split(&mut self, holder: MemberId, ids: &[MemberId]) {
        self.after(0, Happening::Order { node: holder, order: Order::Isolate });
        let Some(next) = self.dice.pick(ids).filter(|id| *id != holder) else { return };
        let mut at = self.dice.skewed(10, 100_000);
        self.after(at, Happening::Order { node: next, order: Order::TakeOver });
        at += 60_000;
        for _ in 0..4 {
            at += self.dice.range(10_000, 200_000);
            self.after(at, Happening::Order { node: next, order: Order::Attach });
        }
        at += self.dice.skewed(10_000, self.knobs.lease_us * 2);
        self.after(at, Happening::Order { node: next, order: Order::Attach });
        self.after(at + self.knobs.lease_us, Happening::Order { node: holder, order: Order::Heal });
    }

    /// The holder is cut off at work; one after another takes the epoch and falls at once, just when those who were
    /// cut off come back. Logs of three epochs then compete (Raft, figure 8).
    fn relay(&mut self, holder: MemberId, ids: &[MemberId]) {
        let mut at = 0;
        let mut struck = holder;
        for _ in 0..self.dice.range(1, 4) {
            let order = if self.dice.chance(300) { Order::Relieve } else { Order::Isolate };
            self.after(at, Happening::Order { node: struck, order });
            at += self.dice.skewed(100, 400_000);
            let Some(next) = self.dice.pick(ids).filter(|id| *id != struck) else { return };
            self.after(at, Happening::Order { node: next, order: Order::TakeOver });
            // The lingering of a candidate alone takes 50 ms.
            at += self.dice.range(0, 60_000) + self.dice.skewed(100, 300_000);
            self.after(at, Happening::Order { node: next, order: Order::Relieve });
            struck = next;
            at += self.dice.skewed(100, 300_000);
        }
        let Some(last) = self.dice.pick(ids) else { return };
        self.after(at, Happening::Order { node: last, order: Order::TakeOver });
        self.after(at + self.knobs.lease_us, Happening::Order { node: last, order: Order::Attach });
    }

    pub fn obey(&mut self, id: MemberId, order: Order) {
        if !self.turmoil && !matches!(order, Order::Replace) {
            return;
        }
        match order {
            Order::TakeOver => self.promote(Some(id), Promotion::Takeover),
            Order::Attach => {
                let (writer, session) = (self.dice.u128(), SessionId(self.dice.u128()));
                self.command(id, Command::Attach { writer, session });
            }
            Order::Crash => {
                self.fault("crash-candidate", || format!("{id}"));
                self.crash(id, false);
            }
            Order::Heal => self.heal_links(),
            Order::Replace => {
                // Either way it dies first; a burnt disk is exchanged when it comes back.
                if self.nodes.get(&id).is_some_and(|n| n.burnt || n.disk.journal.poisoned) {
                    self.crash(id, false);
                }
            }
            Order::Relieve => {
                self.fault("relieve", || format!("{id}"));
                self.crash(id, false);
                self.heal_links();
            }
            Order::Isolate => {
                let others: Vec<MemberId> = self.nodes.keys().copied().filter(|o| *o != id).collect();
                self.fault("isolate", || format!("{id}"));
                for other in others {
                    self.network.cut(id, other);
                    self.network.cut(other, id);
                }
            }
        }
    }

    /// Nodes whose epoch is fully open.
    pub fn holders(&self) -> Vec<MemberId> {
        let open = |n: &&Node| n.volume.as_ref().and_then(|v| v.primary()).is_some_and(|p| p.is_open());
        self.nodes.values().filter(open).map(|n| n.id).collect()
    }

    /// Nodes that hold an epoch, open or not.
    pub fn primaries(&self) -> Vec<MemberId> {
        let holds = |n: &&Node| n.volume.as_ref().and_then(|v| v.primary()).is_some();
        self.nodes.values().filter(holds).map(|n| n.id).collect()
    }

    fn promote(&mut self, id: Option<MemberId>, why: Promotion) {
        let writer = self.dice.u128();
        if let Some(id) = id {
            self.command(id, Command::Promote { writer, why });
        }
    }

    /// A member that came back with a new disk is let in again, by whoever holds the epoch.
    pub fn readmit_lost(&mut self) {
        let lost: Vec<MemberId> =
            self.nodes.values().filter(|n| n.wiped && !self.buried.contains(&n.id)).map(|n| n.id).collect();
        for member in lost {
            for id in self.primaries() {
                let Some(config) = self.config_of(id) else { continue };
                let lineage = self.nodes.get(&id).map(|n| n.lineage);
                let Some(node) = self.nodes.get_mut(&member).filter(|n| Some(n.lineage) == lineage) else { continue };
                let incarnation = node.disk.durable_blob().incarnation;
                let voted = config.admitted(member) == Some(incarnation);
                // While the value is joint it may still be taken back.
                let votes =
                    config.member(member).is_some_and(|m| !config.follows_behind(m) && m.kind != MemberKind::Diskless);
                if !votes || (voted && config.earlier.is_empty()) {
                    node.wiped = false;
                } else if !voted {
                    self.command(id, Command::Change(Change::Readmit { member, incarnation }));
                }
            }
        }
    }

    fn config_of(&self, id: MemberId) -> Option<Configuration> {
        let volume = self.nodes.get(&id)?.volume.as_ref()?;
        volume.primary().map(|p| p.config().clone())
    }

    /// The session that the register names, if it is one of a node that is gone.
    pub fn named_at_buried(&self, holder: MemberId) -> Option<SessionId> {
        let named = self.config_of(holder)?.attached?;
        self.buried.contains(&named.member).then_some(named.session)
    }

    fn change(&mut self, id: MemberId) {
        let Some(config) = self.config_of(id) else { return };
        let members: Vec<MemberId> = config.members.iter().map(|m| m.id).collect();
        let change = match self.dice.range(0, 99) {
            0..20 => {
                let next = self.nodes.keys().map(|m| m.0 + 1).max().unwrap_or(0);
                if config.members.len() >= MEMBERS_MAX || next > 9 {
                    return;
                }
                let member = MemberId(next);
                let incarnation = Incarnation(self.dice.u128());
                let sites = ["a", "b", "c", "x"];
                let site = self.dice.pick(&sites).unwrap_or("x").to_string();
                let Some(teacher) = self.nodes.get(&id).map(|n| n.disk.durable_blob()) else { return };
                // Its log will hold records from before the last fork, too.
                let parents = teacher.parents.clone();
                let first = Durable::first(member, incarnation, teacher.lineage, config.clone());
                self.add_disk(Durable { parents, ..first });
                let votes = if self.dice.chance(800) { 1 } else { 0 };
                let member = Member { id: member, site, node: format!("n{next}"), kind: MemberKind::Data };
                Change::Add { member, incarnation, votes }
            }
            20..40 => {
                let Some(member) = self.dice.pick(&members) else { return };
                Change::Remove { member }
            }
            40..50 => Change::Withdraw,
            50..75 => {
                // Shrink to some of the sync set, with the rule reduced to them.
                let sync: Vec<MemberId> = config.current.sync.iter().map(|s| s.member).collect();
                let without: Vec<MemberId> = sync.iter().copied().filter(|_| self.dice.chance(400)).collect();
                let left = (sync.len() - without.len()) as u8;
                let w = config.volume.rule.w.min(left).max(1);
                let sites: BTreeSet<&str> = config
                    .current
                    .sync
                    .iter()
                    .filter(|s| !without.contains(&s.member) && s.site != config.current.primary_site)
                    .map(|s| s.site.as_str())
                    .collect();
                let min_remote = config.volume.rule.min_remote.min(sites.len() as u8);
                Change::Reduce { without, rule: DataRule { w, min_remote, local: config.volume.rule.local } }
            }
            _ => {
                let rules = [
                    DataRule { w: 2, min_remote: 1, local: false },
                    DataRule { w: 2, min_remote: 2, local: false },
                    DataRule { w: 2, min_remote: 1, local: true },
                    DataRule { w: 3, min_remote: 1, local: false },
                    self.layout.rule,
                ];
                let Some(rule) = self.dice.pick(&rules) else { return };
                Change::Rule { policy: "drawn".to_string(), rule }
            }
        };
        self.command(id, Command::Change(change));
    }
}
