//! What stories are told with: one thing after another, at moments that the teller chooses.

use farshore_core::api::{Change, Command, Promotion};
use farshore_core::ids::{Epoch, MemberId, SessionId};
use farshore_core::register::{DataRule, MemberKind};

use crate::world::World;

/// How long a story waits for what it wants.
pub const PATIENCE_US: u64 = 1_500_000;

impl World {
    /// Lets time pass: seldom much, often little.
    pub fn lapse(&mut self, least_us: u64, most_us: u64) {
        let end = self.now + self.dice.skewed(least_us, most_us);
        self.run_until(end);
    }

    /// Lets time pass: as likely much as little.
    pub fn pause(&mut self, least_us: u64, most_us: u64) {
        let end = self.now + self.dice.range(least_us, most_us);
        self.run_until(end);
    }

    /// Lets time pass until `done`, looking after each event. False when patience ran out.
    pub fn until(&mut self, patience_us: u64, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now + patience_us;
        while !done(self) {
            if !self.step(end) {
                return false;
            }
        }
        true
    }

    /// Until the core has told of `edge` once more.
    pub fn until_edge(&mut self, edge: &str, patience_us: u64) -> bool {
        let count = |world: &World| world.tally.edges.get(edge).copied().unwrap_or(0);
        let before = count(self);
        self.until(patience_us, |world| count(world) > before)
    }

    /// The first members that hold a copy.
    pub fn copies(&self) -> Vec<MemberId> {
        self.initial.members.iter().filter(|m| m.kind == MemberKind::Data).map(|m| m.id).collect()
    }

    /// The first member without a copy.
    pub fn without_copy(&self) -> MemberId {
        let members = &self.initial.members;
        members.iter().find(|m| m.kind == MemberKind::Diskless).map_or(members[0].id, |m| m.id)
    }

    pub fn other_than(&mut self, not: &[MemberId]) -> MemberId {
        let rest: Vec<MemberId> = self.copies().into_iter().filter(|id| !not.contains(id)).collect();
        self.dice.pick(&rest).unwrap_or_else(|| not[0])
    }

    pub fn leads(&self, id: MemberId) -> bool {
        self.nodes.get(&id).and_then(|n| n.volume.as_ref()).is_some_and(|v| v.primary().is_some())
    }

    /// Has asked for promises, or holds the epoch.
    pub fn runs(&self, id: MemberId) -> bool {
        self.nodes.get(&id).and_then(|n| n.volume.as_ref()).is_some_and(|v| v.role_epoch() > Epoch::ZERO)
    }

    pub fn serves(&self, id: MemberId) -> bool {
        self.nodes.get(&id).is_some_and(|n| n.device.is_some())
    }

    pub fn take_over(&mut self, id: MemberId) {
        let writer = self.dice.u128();
        self.command(id, Command::Promote { writer, why: Promotion::Takeover });
    }

    pub fn attach_at(&mut self, id: MemberId) {
        let (writer, session) = (self.dice.u128(), SessionId(self.dice.u128()));
        self.command(id, Command::Attach { writer, session });
    }

    pub fn take_snapshot_at(&mut self, id: MemberId) {
        let mark = self.new_snapshot(None);
        self.command(id, Command::Mark { mark, under: None });
    }

    /// The device is handed over, given up, or taken away and attached anew.
    pub fn give_away(&mut self, holder: MemberId, to: MemberId) {
        let session = self.nodes.get(&holder).and_then(|n| n.device);
        let command = match (self.dice.range(0, 2), session) {
            (0, Some(session)) => Command::Detach { session },
            (1, _) => Command::Demote,
            _ => Command::Handover { to },
        };
        self.command(holder, command);
    }

    /// The daemon at `id` tries to take back the device that was open there last.
    pub fn take_back(&mut self, id: MemberId) {
        if let Some(session) = self.nodes.get(&id).and_then(|n| n.last_session) {
            let writer = self.dice.u128();
            self.command(id, Command::Promote { writer, why: Promotion::Restart { session } });
        }
    }

    /// Takes over at `id` and opens a device there, as soon as that can be had.
    pub fn serve_at(&mut self, id: MemberId, patience_us: u64) -> bool {
        let end = self.now + patience_us;
        while self.now < end && self.violation.is_none() && !self.serves(id) {
            if self.holders().contains(&id) {
                self.attach_at(id);
            } else if !self.leads(id) {
                self.take_over(id);
            }
            self.until(20_000, |world| world.serves(id));
        }
        self.serves(id)
    }

    /// What `id` says reaches nobody; it still hears.
    pub fn mute(&mut self, id: MemberId) {
        self.fault("mute", || format!("{id}"));
        for other in self.nodes.keys().filter(|other| **other != id) {
            self.network.cut(id, *other);
        }
    }

    /// Begins with a device that is open somewhere and worked with.
    pub fn begin_work(&mut self) -> MemberId {
        let holder = self.other_than(&[]);
        self.serve_at(holder, PATIENCE_US);
        self.lapse(5_000, 80_000);
        holder
    }

    /// The same, on a node without a copy.
    pub fn begin_without_copy(&mut self) -> MemberId {
        let holder = self.without_copy();
        self.serve_at(holder, PATIENCE_US);
        self.lapse(5_000, 80_000);
        holder
    }

    pub fn everyone_rises(&mut self) {
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.boot(id);
        }
    }

    /// Nothing passes between those named and the rest, in either direction.
    pub fn part(&mut self, inside: &[MemberId]) {
        self.fault("partition", || format!("{inside:?}"));
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        for a in &ids {
            for b in &ids {
                if inside.contains(a) != inside.contains(b) {
                    self.network.cut(*a, *b);
                }
            }
        }
    }

    /// The links heal, but those between the ones named and the rest.
    pub fn mend_but(&mut self, outside: &[MemberId]) {
        self.heal_links();
        if !outside.is_empty() {
            self.part(outside);
        }
    }

    pub fn fall(&mut self, id: MemberId) {
        self.fault("crash", || format!("{id}"));
        self.crash(id, false);
    }

    pub fn slow_down(&mut self, id: MemberId, slowness: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.slowness = slowness;
        }
    }

    /// The holder leaves these out of the sync set, and is content with itself.
    pub fn reduce(&mut self, holder: MemberId, without: &[MemberId]) {
        let rule = DataRule { w: 1, min_remote: 0, local: false };
        self.command(holder, Command::Change(Change::Reduce { without: without.to_vec(), rule }));
    }
}
