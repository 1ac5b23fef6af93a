//! Forced promotions, and what of the old lineage comes back.

use farshore_core::ids::MemberId;

use crate::stage::PATIENCE_US;
use crate::world::{VOLUME, World};

/// How long a fence must have been there to outlive a crash.
const REMEMBERED_US: u64 = 3_500_000;

impl World {
    /// `donor` and those named with it go on by force; a device opens there.
    fn go_on_by_force(&mut self, donor: MemberId, named: &[MemberId]) -> bool {
        let before = self.nodes.get(&donor).map(|n| n.lineage);
        self.force_at(donor, named.to_vec());
        self.until(PATIENCE_US, |world| world.holders().contains(&donor));
        self.serve_at(donor, PATIENCE_US);
        self.nodes.get(&donor).map(|n| n.lineage) != before
    }

    /// Its disk has records of which it was not told yet.
    fn has_unknown(&self, id: MemberId) -> bool {
        let Some(node) = self.nodes.get(&id) else { return false };
        let known = node.volume.as_ref().map(|v| v.replica().durable);
        let held = node.disk.journal.log.volumes.get(&VOLUME).map(|log| log.last_seq());
        known.is_some() && held > known
    }

    fn only_hears(&mut self, one: MemberId, other: MemberId) {
        self.heal_links();
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        for id in ids.into_iter().filter(|id| *id != one) {
            self.network.cut(one, id);
            if id != other {
                self.network.cut(id, one);
            }
        }
    }
}

/// One site goes on by force; the others do not know, go on too, and change places meanwhile. Then they meet: all at
/// once, or one of the old ones alone, or only in one direction.
pub fn old_site_returns(world: &mut World) {
    let holder = world.begin_work();
    let donor = world.other_than(&[holder]);
    let between = world.other_than(&[holder, donor]);
    world.part(&[donor]);
    world.lapse(1_000, 20_000);
    world.go_on_by_force(donor, &[donor]);
    for _ in 0..world.dice.range(0, 4) {
        let next = world.other_than(&[donor]);
        world.serve_at(next, PATIENCE_US);
        world.lapse(1_000, 30_000);
    }
    match world.dice.range(0, 4) {
        0 => world.heal_links(),
        1 => world.only_hears(donor, between),
        2 => {
            // The new one hears the old holder, whose epoch is above its own by then; nobody hears it.
            world.heal_links();
            world.mute(donor);
        }
        3 => {
            // The new lineage and one of the old meet; the other old one hears of it through that.
            world.heal_links();
            for (a, b) in [(donor, holder), (holder, donor)] {
                world.network.cut(a, b);
            }
        }
        _ => {
            world.heal_links();
            world.lapse(1_000, 20_000);
            world.pause(REMEMBERED_US, REMEMBERED_US + 1_000_000);
            world.part(&[donor]);
            for id in [holder, between] {
                world.fall(id);
                world.boot(id);
            }
        }
    }
    world.lapse(20_000, 200_000);
    for next in [between, holder] {
        world.serve_at(next, 300_000);
        world.lapse(5_000, 50_000);
    }
    world.heal_links();
    world.lapse(10_000, 200_000);
}

/// The force is asked of a site that is behind; another that is named has what it lacks.
pub fn behind(world: &mut World) {
    let holder = world.begin_work();
    let donor = world.other_than(&[holder]);
    let ahead = world.other_than(&[holder, donor]);
    world.part(&[donor]);
    world.lapse(5_000, 100_000);
    world.mend_but(&[holder]);
    world.go_on_by_force(donor, &[donor, ahead]);
    world.lapse(5_000, 50_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// The donor takes its time; those named have answered, and go on in the old lineage until they are asked to follow.
pub fn late(world: &mut World) {
    world.knobs.apply_us = 300;
    let holder = world.begin_work();
    let donor = world.other_than(&[holder]);
    let follows = world.other_than(&[holder, donor]);
    let named = if world.dice.chance(500) { holder } else { follows };
    world.slow_down(donor, 200);
    if world.dice.chance(500) {
        world.network.cut(holder, donor);
    }
    world.force_at(donor, vec![donor, named]);
    world.lapse(100, 20_000);
    if world.dice.chance(600) {
        // It is on its way to the epoch when it is asked to follow.
        world.stop_clients();
        let near = world.dice.range(0, 60_000);
        world.until(1_000_000, |world| {
            world.nodes.get(&donor).is_some_and(|n| n.disk.durable_blob().parents.len() == 1)
        });
        world.take_over(named);
        let end = world.now + near;
        world.run_until(end);
    } else {
        world.pause(1_000, 300_000);
    }
    world.slow_down(donor, 1);
    world.until(PATIENCE_US, |world| world.holders().contains(&donor));
    world.serve_at(donor, PATIENCE_US);
    world.lapse(10_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// The donor's disk has what others have acknowledged, and the word of its sync is on its way when the force is asked for.
pub fn written(world: &mut World) {
    let holder = world.begin_work();
    let donor = world.other_than(&[holder]);
    let slowness = world.dice.range(2, 12);
    world.slow_down(donor, slowness);
    world.lapse(2_000, 20_000);
    world.until(PATIENCE_US, |world| world.has_unknown(donor));
    world.part(&[donor]);
    world.go_on_by_force(donor, &[donor]);
    world.slow_down(donor, 1);
    world.lapse(10_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// The donor falls when it alone is in the new lineage; it comes back, and is promoted as if nothing were missing.
pub fn cut_short(world: &mut World) {
    let holder = world.begin_work();
    let donor = world.other_than(&[holder]);
    world.part(&[holder]);
    world.lapse(1_000, 20_000);
    let before = world.nodes.get(&donor).map(|n| n.lineage.generation);
    let mut named = vec![donor];
    let witnesses = world.initial.members.iter().map(|m| m.id).filter(|id| !world.copies().contains(id));
    named.extend(witnesses);
    let inside = named.clone();
    world.force_at(donor, named);
    world
        .until(PATIENCE_US, |world| world.nodes.get(&donor).map(|n| n.disk.durable_blob().lineage.generation) > before);
    world.fall(donor);
    for id in inside.iter().filter(|id| **id != donor) {
        world.network.cut(donor, *id);
        world.network.cut(*id, donor);
    }
    world.boot(donor);
    world.serve_at(donor, PATIENCE_US);
    world.lapse(10_000, 100_000);
    world.mend_but(&[donor]);
    world.serve_at(holder, PATIENCE_US);
    world.lapse(10_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// An image is under way to a member when that member is named in a force, by a donor that has not got all that the image
/// shows. It arrives in the new lineage.
pub fn shipment(world: &mut World) {
    world.knobs.journal_keep = 0;
    world.knobs.checkpoint_us = 40_000;
    world.knobs.ship_us = 600_000;
    let holder = world.begin_work();
    let away = world.other_than(&[holder]);
    let donor = world.other_than(&[holder, away]);
    world.part(&[away]);
    world.pause(20_000, 100_000);
    world.part(&[donor]);
    world.lapse(5_000, 50_000);
    world.heal_links();
    let others: Vec<MemberId> = world.nodes.keys().copied().filter(|id| ![donor, away].contains(id)).collect();
    for id in &others {
        world.network.cut(*id, donor);
        world.network.cut(donor, *id);
    }
    world.until_edge("resync-begin", 300_000);
    world.go_on_by_force(donor, &[donor, away]);
    world.pause(100_000, 700_000);
    world.lapse(5_000, 50_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// One site goes on by force and meets the others; then it is lost, and one of these goes on by force. It comes back.
pub fn fenced(world: &mut World) {
    let holder = world.begin_work();
    let first = world.other_than(&[holder]);
    world.part(&[first]);
    world.lapse(1_000, 20_000);
    world.go_on_by_force(first, &[first]);
    world.lapse(5_000, 50_000);
    world.heal_links();
    world.pause(100_000, 500_000);
    world.part(&[first]);
    world.go_on_by_force(holder, &[holder]);
    world.lapse(5_000, 50_000);
    world.heal_links();
    world.lapse(20_000, 200_000);
}
