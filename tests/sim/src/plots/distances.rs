//! The modes: who is left out by itself, and what the others know of it.

use farshore_core::api::{Change, Command};
use farshore_core::ids::MemberId;
use farshore_core::register::{DataRule, Mode};

use crate::stage::PATIENCE_US;
use crate::world::World;

/// The holder is cut off from everybody, for longer than it would wait for one that is gone; the others go on.
pub fn left_alone(world: &mut World) {
    let holder = world.begin_work();
    world.part(&[holder]);
    let lease_us = world.knobs.lease_us;
    world.pause(lease_us, 3 * lease_us);
    world.mend_but(&[holder]);
    let next = world.other_than(&[holder]);
    world.serve_at(next, PATIENCE_US);
    world.lapse(20_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// One is slow until it is left out; then it is quick, and the one that is still waited for is not. The holder falls.
pub fn left_behind(world: &mut World) {
    let holder = world.begin_work();
    let far = world.other_than(&[holder]);
    let near = world.other_than(&[holder, far]);
    world.slow_down(far, 200);
    world.until_edge("adaptive-leave", 2 * PATIENCE_US);
    world.until_edge("config-settled", 300_000);
    world.slow_down(far, 1);
    world.pause(20_000, 100_000);
    world.slow_down(near, 300);
    world.pause(20_000, 150_000);
    world.part(&[holder]);
    world.slow_down(near, 1);
    world.serve_at(near, PATIENCE_US);
    world.lapse(20_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// Words are late, or lost with a line that breaks; then one site goes on by force, whichever it is.
pub fn cost(world: &mut World) {
    world.network.weather.late_per_mille = 60;
    world.network.weather.late_us = 3_000_000;
    world.knobs.think_us = 2_000;
    let holder = world.begin_work();
    let ids: Vec<MemberId> = world.nodes.keys().copied().filter(|id| *id != holder).collect();
    let stores = |world: &World, id: &MemberId| world.nodes.get(id).is_some_and(|n| n.disk.stores());
    let copies: Vec<MemberId> = ids.iter().copied().filter(|id| stores(world, id)).collect();
    let Some(donor) = world.dice.pick(&copies) else { return };
    match world.dice.range(0, 3) {
        0 => world.part(&[donor]),
        1 => world.part(&[holder]),
        2 => world.slow_down(donor, 100),
        _ => world.slow_down(donor, 1_000),
    }
    world.pause(20_000, 400_000);
    let lease_us = world.knobs.lease_us;
    match world.dice.range(0, 3) {
        0 => {
            world.fall(holder);
            let next = world.other_than(&[holder, donor]);
            world.serve_at(next, PATIENCE_US);
        }
        1 => world.mend_but(&[holder]),
        2 => {
            // Nobody follows the holder any more; another takes its place, where that can be had.
            let next = world.other_than(&[holder, donor]);
            world.part(&[holder]);
            world.pause(lease_us, 2 * lease_us);
            world.serve_at(next, PATIENCE_US);
        }
        _ => {}
    }
    world.pause(1_000, 500_000);
    // What is on its way to a disk that takes its time is given up.
    if world.dice.chance(500) {
        world.slow_down(donor, 1);
    }
    world.force_at(donor, vec![donor]);
    world.pause(1_000, 500_000);
    world.slow_down(donor, 1);
    world.until(PATIENCE_US, |world| world.holders().contains(&donor));
    world.serve_at(donor, PATIENCE_US);
    world.part(&[donor]);
    world.pause(1_000, 200_000);
    if world.dice.chance(500) {
        world.command(donor, Command::Demote);
        world.pause(1_000, 20_000);
        world.force_at(donor, vec![donor]);
        world.serve_at(donor, PATIENCE_US);
    }
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// A site is cut off, and what was said to it before arrives one by one, late; then it goes on by force.
pub fn late_words(world: &mut World) {
    let weather = &mut world.network.weather;
    (weather.delay_us, weather.jitter_us, weather.loss_per_mille) = (300, 200, 0);
    world.knobs.think_us = 1_500;
    let holder = world.begin_work();
    let donor = world.other_than(&[holder]);
    (world.network.weather.late_per_mille, world.network.weather.late_us) = (500, 900_000);
    world.pause(20_000, 100_000);
    world.network.weather.late_per_mille = 0;
    world.part(&[donor]);
    world.pause(100_000, 600_000);
    world.force_at(donor, vec![donor]);
    world.until(PATIENCE_US, |world| world.holders().contains(&donor));
    world.serve_at(donor, 4 * PATIENCE_US);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// The holder goes on by itself with the witness; one that is not waited for stands by the other copy.
pub fn bystander(world: &mut World) {
    let holder = world.begin_work();
    let other = world.other_than(&[holder]);
    let stores = |world: &World, id: MemberId| world.nodes.get(&id).is_some_and(|n| n.disk.stores());
    let ids: Vec<MemberId> = world.nodes.keys().copied().collect();
    let counts = world.copies();
    let mut away = vec![other];
    let with_holder = world.dice.chance(400);
    away.extend(ids.iter().filter(|id| stores(world, **id) && !counts.contains(id) && !with_holder));
    world.part(&away);
    if !with_holder {
        world.reduce(holder, &[other]);
        world.until_edge("config-settled", 300_000);
    }
    world.lapse(20_000, 150_000);
    let end = world.now + PATIENCE_US;
    if with_holder {
        world.mend_but(&[holder]);
    }
    go_on_without(world, other, holder, end);
    world.lapse(20_000, 150_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// One takes over, and leaves the holder before it out of the sync set.
pub fn go_on_without(world: &mut World, next: MemberId, holder: MemberId, end: u64) {
    while world.now < end && world.violation.is_none() && !world.serves(next) {
        if !world.leads(next) {
            world.take_over(next);
        } else if world.holders().contains(&next) {
            world.attach_at(next);
        } else {
            world.reduce(next, &[holder]);
        }
        world.until(50_000, |world| world.serves(next));
    }
}

/// Shipments to one that was away for long break off again and again, and whoever sends or gets them falls.
pub fn cut_shipments(world: &mut World) {
    world.knobs.journal_keep = 0;
    world.knobs.checkpoint_us = world.dice.pick(&[30_000, 400_000]).unwrap_or(30_000);
    world.knobs.ship_us = 60_000;
    world.knobs.think_us = 2_000;
    let holder = world.begin_work();
    let away = world.other_than(&[holder]);
    for _ in 0..4 {
        world.part(&[away]);
        world.pause(20_000, 200_000);
        world.heal_links();
        world.until_edge("resync-begin", 500_000);
        world.pause(2_000, 80_000);
        match world.dice.range(0, 3) {
            0 => {
                world.fall(away);
                world.boot(away);
            }
            1 => {
                world.fall(holder);
                world.boot(holder);
                world.serve_at(holder, PATIENCE_US);
            }
            _ => {}
        }
    }
    world.pause(100_000, 600_000);
}

/// The holder is told to wait for nobody, where nobody hears of it.
pub fn mode_unheard(world: &mut World) {
    let holder = world.begin_work();
    world.part(&[holder]);
    let rule = DataRule { w: 1, min_remote: 0, local: false };
    let change = Change::Mode { mode: Mode::Async { rpo_us: 0 }, rule, votes: Vec::new() };
    world.command(holder, Command::Change(change));
    world.lapse(20_000, 150_000);
    world.mend_but(&[holder]);
    let next = world.other_than(&[holder]);
    world.serve_at(next, PATIENCE_US);
    world.lapse(20_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}
