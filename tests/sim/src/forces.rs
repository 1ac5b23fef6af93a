//! Forced promotions while other things go on and go wrong: who is named, who is cut off from whom, what is discarded
//! afterwards; and what the oracle is told of it.

use std::collections::BTreeSet;

use bytes::Bytes;
use farshore_core::api::{Change, Command};
use farshore_core::durable::Durable;
use farshore_core::ids::{Incarnation, LineageId, MemberId, Seq};
use farshore_core::message::{Body, Message};
use farshore_core::register::{Durability, MemberKind};

use crate::branches::{Claim, Kept};
use crate::oracle::Violation;
use crate::schedule::{Happening, Order};
use crate::world::{Node, VOLUME, World};

/// Forced promotions in one run, at most.
const FORCES_MAX: u64 = 3;
/// Where a replica's state names its lineage: after two numbers of two bytes.
const LINEAGE_AT: std::ops::Range<usize> = 4..28;

fn lineage_in(blob: &Bytes) -> Option<LineageId> {
    let bytes = blob.get(LINEAGE_AT)?;
    let generation = u64::from_le_bytes(bytes[..8].try_into().ok()?);
    Some(LineageId { generation, uuid: u128::from_le_bytes(bytes[8..].try_into().ok()?) })
}

impl World {
    // ---- what happens ----

    /// One more scene: a force, or an operator who discards what one has left out.
    pub fn fork_or_discard(&mut self) {
        if !self.turmoil {
            return;
        }
        let forces = self.tally.faults.get("force").copied().unwrap_or(0);
        if forces == 0 || (forces < FORCES_MAX && self.side.chance(350)) {
            self.force_some();
        } else {
            self.discard_one();
        }
        let delay = self.side.range(100_000, 1_500_000);
        self.after(delay, Happening::Fork);
    }

    /// Some are named and the others are out of sight, mostly; somebody may fall while it happens. Now and then the
    /// others do the same.
    fn force_some(&mut self) {
        // Now and then one without a copy is named, which is refused.
        let slips = self.layout.has_diskless() && self.side.chance(100);
        let held = |n: &&Node| n.volume.is_some() && (slips || !n.is_diskless());
        let alive: Vec<MemberId> = self.nodes.values().filter(held).map(|n| n.id).collect();
        let Some(donor) = self.side.pick(&alive) else { return };
        let mut named = vec![donor];
        for id in alive.iter().filter(|id| **id != donor) {
            if self.side.chance(450) {
                named.push(*id);
            }
        }
        if self.side.chance(700) {
            self.part(&named);
        }
        if self.side.chance(400)
            && let Some(victim) = self.side.pick(&named)
        {
            let left = self.side.skewed(0, 40);
            self.nodes.entry(victim).and_modify(|n| n.dies_after = Some(left));
        }
        self.force_at(donor, named.clone());
        let others: Vec<MemberId> = alive.into_iter().filter(|id| !named.contains(id)).collect();
        if self.side.chance(300)
            && let Some(rival) = self.side.pick(&others)
        {
            self.force_at(rival, others);
        }
        let mut at = self.side.range(50_000, 400_000);
        for _ in 0..3 {
            self.after(at, Happening::Order { node: donor, order: Order::Attach });
            at += self.side.range(50_000, 600_000);
        }
        self.after(at, Happening::Order { node: donor, order: Order::Heal });
    }

    pub fn force_at(&mut self, donor: MemberId, members: Vec<MemberId>) {
        let (writer, uuid) = (self.side.u128(), self.side.u128());
        self.fault("force", || format!("{members:?} at {donor}"));
        self.command(donor, Command::Force { writer, uuid, members });
    }

    /// `resync --discard`: where a newer lineage serves, a copy of an older one is given up and made anew.
    fn discard_one(&mut self) {
        let holders = self.holders();
        let Some(holder) = self.side.pick(&holders) else { return };
        let left = self.left_behind(holder);
        if let Some(id) = self.side.pick(&left) {
            self.discard(id, holder);
        }
    }

    /// Members in older lineages than the holder's; once all comes to rest, in any other.
    fn left_behind(&self, holder: MemberId) -> Vec<MemberId> {
        let Some(node) = self.nodes.get(&holder) else { return Vec::new() };
        let Some(config) = node.volume.as_ref().and_then(|v| v.primary()).map(|p| p.config()) else {
            return Vec::new();
        };
        let depth = |n: &Node| self.oracle.branches.depth(n.lineage.uuid);
        let older = |n: &&Node| n.device.is_none() && depth(n) < depth(node);
        let other = |n: &&Node| if self.turmoil { older(n) } else { n.lineage != node.lineage };
        let listed = |n: &&Node| config.member(n.id).is_some_and(|m| m.kind != MemberKind::Leaving);
        self.nodes.values().filter(other).filter(listed).map(|n| n.id).collect()
    }

    fn discard(&mut self, id: MemberId, holder: MemberId) {
        let Some(teacher) = self.nodes.get(&holder).map(|n| n.disk.durable_blob()) else { return };
        self.fault("copy-discarded", || format!("{id}"));
        self.wipe(id, &teacher);
    }

    /// What an operator sees to while a world comes to rest.
    pub fn tend(&mut self) {
        self.reconcile();
        self.readmit_lost();
        self.leave_out_buried();
    }

    /// How many lineages the living are in.
    pub fn lineages(&self) -> usize {
        let living = self.nodes.values().filter(|n| !self.buried.contains(&n.id));
        living.map(|n| n.lineage).collect::<BTreeSet<LineageId>>().len()
    }

    /// The lineage that goes on when all comes to rest: the newest, and of rivals any one.
    fn chosen(&self) -> Option<LineageId> {
        let living = self.nodes.values().filter(|n| !self.buried.contains(&n.id));
        living.map(|n| n.lineage).max_by_key(|l| (self.oracle.branches.depth(l.uuid), *l))
    }

    /// Is this node in another lineage than the one that goes on?
    pub fn is_left_behind(&self, id: MemberId) -> bool {
        self.nodes.get(&id).map(|n| n.lineage) != self.chosen()
    }

    /// Of several lineages the newest goes on: what others hold is discarded. One that was not begun by all who were
    /// named is begun again.
    pub fn reconcile(&mut self) {
        if self.lineages() < 2 {
            return;
        }
        if let Some(holder) = self.holders().into_iter().find(|id| !self.is_left_behind(*id)) {
            for id in self.left_behind(holder) {
                self.discard(id, holder);
            }
            self.bury_strangers(holder);
        }
    }

    /// A lineage in which nothing was ever served may lack somebody who was named: then it takes another force, of the
    /// same members or of those who followed. Says at whom, and naming whom.
    pub fn fork_to_finish(&mut self) -> Option<(MemberId, Command)> {
        let living: Vec<MemberId> = self.nodes.keys().copied().filter(|id| !self.buried.contains(id)).collect();
        let newest: Vec<MemberId> = living.iter().copied().filter(|id| !self.is_left_behind(*id)).collect();
        // The donor is whoever has the best log: it is refused elsewhere.
        let end = |id: &MemberId| {
            let log = self.nodes.get(id).and_then(|n| n.disk.journal.log.volumes.get(&VOLUME));
            log.map(|log| (log.end().epoch, log.last_seq()))
        };
        let stores = |id: &MemberId| self.nodes.get(id).is_some_and(|n| n.disk.stores());
        let donor = newest.iter().copied().filter(stores).max_by_key(end)?;
        let state = self.nodes.get(&donor)?.disk.durable_blob();
        let branch = self.oracle.branches.get(state.lineage.uuid)?;
        if branch.served || branch.parent.is_none() || newest.iter().any(|id| self.leads(*id)) {
            return None;
        }
        let voters: Vec<MemberId> = state.config.current.votes.iter().map(|v| v.member).collect();
        let members: Vec<MemberId> = if voters.iter().all(|id| living.contains(id)) && self.side.chance(400) {
            voters
        } else {
            let here = |id: &MemberId| self.nodes.get(id).is_some_and(|n| n.lineage == state.lineage);
            let follows = |id: &&MemberId| here(id) && !state.config.is_diskless(**id);
            living.iter().filter(follows).copied().collect()
        };
        let (writer, uuid) = (self.side.u128(), self.side.u128());
        Some((donor, Command::Force { writer, uuid, members }))
    }

    /// Who is no member where the volume goes on, and in another lineage, is not heard of again.
    fn bury_strangers(&mut self, holder: MemberId) {
        let Some(node) = self.nodes.get(&holder) else { return };
        let Some(config) = node.volume.as_ref().and_then(|v| v.primary()).map(|p| p.config().clone()) else { return };
        let (lineage, known) =
            (node.lineage, |id: MemberId| config.member(id).is_some_and(|m| m.kind != MemberKind::Leaving));
        let strangers: Vec<MemberId> =
            self.nodes.values().filter(|n| n.lineage != lineage && !known(n.id)).map(|n| n.id).collect();
        for id in strangers.into_iter().filter(|id| !self.buried.contains(id)).collect::<Vec<_>>() {
            self.crash(id, false);
            self.buried.insert(id);
        }
    }

    // ---- what the oracle is told ----

    pub fn oracle_hears(&mut self, id: MemberId, command: &Command) {
        let asked = match command {
            Command::Change(Change::Rule { rule, .. } | Change::Reduce { rule, .. }) => usize::from(rule.w),
            // From now on the primary may leave out all but itself.
            Command::Change(Change::Mode { .. } | Change::Fallback { .. }) => 1,
            Command::Force { uuid, members, .. } => {
                let claim = self.claim_of(id, members);
                self.ask_the_cost(id, members, *uuid);
                return self.oracle.force_asked(*uuid, claim);
            }
            _ => return,
        };
        self.oracle.copies_asked = self.oracle.copies_asked.min(asked);
    }

    fn claim_of(&self, donor: MemberId, members: &[MemberId]) -> Claim {
        let lineage = self.nodes.get(&donor).map(|n| n.lineage).unwrap_or_default();
        let held = members.iter().filter_map(|id| {
            let node = self.nodes.get(id)?;
            let state = node.disk.durable_blob();
            let incarnation = state.incarnation;
            let shown = self.oracle.branches.get(lineage.uuid)?.requests(node.disk.now.base.seq);
            let mut held: BTreeSet<u64> = shown.into_keys().collect();
            let requests = |ahead| self.tail_of(node, ahead).into_iter().filter_map(|(_, _, request)| request);
            // What a newer epoch has told it to cut is gone from its log, though a slow disk still has it.
            let stays: BTreeSet<u64> = requests(true).collect();
            held.extend(requests(false).filter(|request| stays.contains(request)));
            self.holds(&state, incarnation, lineage).then_some((*id, incarnation, held))
        });
        Claim { lineage: lineage.uuid, asked_at: self.now, held: held.collect() }
    }

    /// The records after a node's image: those that are durable, or all that are to be.
    fn tail_of(&self, node: &Node, ahead: bool) -> Vec<(Seq, farshore_core::record::RecordHash, Option<u64>)> {
        let journal = &node.disk.journal;
        let log = if ahead { &journal.queue.ahead } else { &journal.log };
        let Some(log) = log.volumes.get(&VOLUME) else { return Vec::new() };
        let seqs = node.disk.now.base.seq.0 + 1..=log.last_seq().0;
        seqs.map(|seq| {
            let end = log.end_at(Seq(seq));
            (end.seq, end.hash, self.oracle.request_in(end.epoch, end.seq))
        })
        .collect()
    }

    /// A node has written its state: in a lineage that it was not in before?
    pub fn looks_at_lineage(&mut self, id: MemberId, blob: Bytes) {
        let Some(node) = self.nodes.get(&id) else { return };
        let (from, to, life) = (node.lineage, lineage_in(&blob).unwrap_or_default(), node.life);
        if to == from {
            return;
        }
        let begins = self.oracle.branches.get(to.uuid).is_none();
        let (image, tail) = (node.disk.now.base.seq, self.tail_of(node, true));
        self.nodes.entry(id).and_modify(|n| n.lineage = to);
        let Ok(state) = Durable::decode(blob) else { return };
        if !begins {
            self.oracle.branches.enters(id, to.uuid, Kept { image, tail });
            return;
        }
        let named: Vec<(MemberId, Incarnation)> =
            state.config.current.votes.iter().map(|v| (v.member, v.incarnation)).collect();
        let held = self.oracle.branches.claim(to.uuid).map(|claim| claim.held.iter());
        let held: Vec<(MemberId, Incarnation)> =
            held.into_iter().flatten().map(|(id, incarnation, _)| (*id, *incarnation)).collect();
        let unharmed = |(member, incarnation): &(MemberId, Incarnation)| {
            let state = self.nodes.get(member)?.disk.durable_blob();
            (*member == id || self.holds(&state, *incarnation, from)).then_some(*member)
        };
        let proven: Vec<MemberId> = held.iter().filter_map(unharmed).collect();
        let kept = Kept { image, tail };
        let verdict = self.oracle.forks((id, life), (from.uuid, to), kept, named, &proven, self.now);
        self.check(verdict);
    }

    /// A member's log ends at `after` now. With `whole`, its disk is as it should be: what was on it must not be given up.
    pub fn lets_go(&mut self, id: MemberId, after: Seq, whole: bool) {
        let Some(incarnation) = self.nodes.get(&id).map(|n| n.disk.durable_blob().incarnation) else { return };
        let verdict = self.oracle.lets_go((id, incarnation), after);
        if whole {
            self.check(verdict);
        }
    }

    /// A device opens: all who were named are in this lineage, by what is on their disks.
    pub fn opens_in_its_lineage(&mut self, id: MemberId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let (lineage, life) = (node.lineage, node.life);
        let branches = &self.oracle.branches;
        let mut verdict = branches.may_serve((id, life), lineage.uuid, "opens a device");
        if let Some(branch) = branches.get(lineage.uuid).filter(|branch| !branch.served) {
            let missing = branch.named.iter().find(|(member, incarnation)| {
                self.nodes.get(member).is_some_and(|n| {
                    let state = n.disk.durable_blob();
                    state.incarnation == *incarnation && branches.depth(state.lineage.uuid) < branch.depth
                })
            });
            if let Some((member, _)) = missing {
                let text = format!("{id} opens a device in a lineage that {member}, which was named, is not in");
                verdict = verdict.and(Err(Violation { checker: "fork", text }));
            }
        }
        let first = !std::mem::replace(&mut self.oracle.branches.of(lineage.uuid).served, true);
        self.check(verdict);
        if first {
            self.judge_the_cost(lineage.uuid);
        }
    }

    /// Whoever has met a newer lineage neither promises nor acknowledges, nor speaks as a holder, in its own.
    pub fn speaks_in_its_lineage(&mut self, id: MemberId, message: &Message) {
        let matters = matches!(
            message.body,
            Body::Promise { .. }
                | Body::ConfigOk { .. }
                | Body::ElectOk { .. }
                | Body::Ack { .. }
                | Body::Prepare { .. }
                | Body::PutConfig { .. }
                | Body::Elect { .. }
                | Body::Append { .. }
        );
        let Some(life) = self.life(id).filter(|_| matters) else { return };
        let what = format!("says {}", message.body.name());
        let verdict = self.oracle.branches.may_serve((id, life), message.lineage.uuid, &what);
        self.check(verdict);
    }

    /// A fallback leaves members out: for as long as was asked for no data quorum was there.
    pub fn was_patient(&mut self, id: MemberId) {
        let config = self.nodes.get(&id).and_then(|n| n.volume.as_ref()).and_then(|v| v.primary()).map(|p| p.config());
        let Some(after_us) = config.and_then(|c| c.volume.fallback_after_us) else { return };
        let served = self.oracle.served_at.get(&id).copied().unwrap_or(0);
        // Its clock may be fast by as much.
        if self.layout.durability == Durability::Write && self.now < served + after_us - after_us / 50 {
            let text =
                format!("{id} falls back {} µs after it was asked for a write that completed", self.now - served);
            self.check(Err(Violation { checker: "patience", text }));
        }
    }

    /// A write has completed: as many disks hold it as somebody asked for. In class `flush` one may be enough.
    pub fn count_copies(&mut self, request: u64) {
        let Some((seq, invoked)) =
            self.oracle.mutation(request).filter(|_| self.layout.durability == Durability::Write)
        else {
            return;
        };
        if invoked <= self.lost_at {
            return;
        }
        // An observer that was named in a force, or has stood in for a lost member, counts from then on.
        let promoted = self.tally.edges.contains_key("observer-promoted");
        let counts = |node: &Node| {
            let kind = self.initial.member(node.id).map(|m| m.kind);
            kind != Some(MemberKind::Observer) || promoted || self.oracle.branches.depth(node.lineage.uuid) > 1
        };
        let has = |node: &&Node| {
            let end = node.disk.journal.log.volumes.get(&VOLUME).map_or(Seq::ZERO, |log| log.last_seq());
            node.disk.stores() && counts(node) && end.max(node.disk.now.base.seq) >= seq
        };
        let copies = self.nodes.values().filter(has).count();
        if copies < self.oracle.copies_asked {
            let text = format!(
                "request {request} completes with {copies} copies of {seq}, {} are asked for",
                self.oracle.copies_asked
            );
            self.check(Err(Violation { checker: "copies", text }));
        }
    }
}
