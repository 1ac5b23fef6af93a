//! A device on a node without a copy, which holds the epoch itself: what it has of the log is in its memory.

use farshore_core::ids::MemberId;

use crate::stage::PATIENCE_US;
use crate::world::World;

/// The memory goes, again and again, with a member out of sight or not; the daemon comes back and takes its device back, or
/// another node serves. With the first writes hardly acknowledged nobody else may know that they are.
pub fn forgets(world: &mut World) {
    let holder = world.without_copy();
    world.serve_at(holder, PATIENCE_US);
    for _ in 0..4 {
        world.lapse(500, 20_000);
        if world.dice.chance(400) {
            let away = world.other_than(&[]);
            world.part(&[away]);
            world.lapse(500, 20_000);
        }
        if world.dice.chance(300) && world.is_settled() {
            world.replace_disk(holder);
        } else {
            world.fall(holder);
        }
        world.lapse(10, 3_000);
        if world.dice.chance(600) {
            world.heal_links();
        }
        world.boot(holder);
        if world.dice.chance(700) {
            world.take_back(holder);
            world.until(400_000, |world| world.serves(holder));
        } else {
            let next = world.other_than(&[]);
            world.serve_at(next, PATIENCE_US);
            world.lapse(2_000, 20_000);
        }
        world.serve_at(holder, PATIENCE_US);
    }
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// Of the copies one alone has what the holder makes; then neither of them is there, and the others go on.
pub fn one_copy(world: &mut World) {
    let holder = world.begin_without_copy();
    let beside = world.other_than(&[]);
    world.part(&[holder, beside]);
    world.lapse(5_000, 100_000);
    world.fall(holder);
    world.mend_but(&[beside]);
    let next = world.other_than(&[beside]);
    world.serve_at(next, PATIENCE_US);
    world.lapse(10_000, 60_000);
    world.boot(holder);
    world.heal_links();
    world.serve_at(holder, PATIENCE_US);
    world.lapse(10_000, 100_000);
}

/// A member is away until the holder has forgotten what it lacks, and journals what it lacked, or not: then another member
/// reads its journal for it, or ships. Either may fall meanwhile.
pub fn left_behind(world: &mut World) {
    world.knobs.journal_keep = if world.dice.chance(500) { 0 } else { 400 };
    world.knobs.checkpoint_us = 60_000;
    world.knobs.read_records = 8;
    let holder = world.begin_without_copy();
    let away = world.other_than(&[]);
    world.part(&[away]);
    world.pause(450_000, 900_000);
    world.heal_links();
    world.lapse(1_000, 200_000);
    if world.dice.chance(500) {
        let victim = world.other_than(&[]);
        world.fall(victim);
        world.lapse(1_000, 50_000);
        world.boot(victim);
    }
    if world.dice.chance(300) {
        world.fall(holder);
        world.boot(holder);
        world.take_back(holder);
    }
    world.lapse(100_000, 1_500_000);
}

/// Stores that are far behind their logs, and not all alike: a read goes where enough is shown.
pub fn slow_stores(world: &mut World) {
    world.knobs.apply_us = 120_000;
    world.knobs.think_us = 1_500;
    let holder = world.begin_without_copy();
    for _ in 0..4 {
        let slow = world.other_than(&[]);
        world.slow_down(slow, 6);
        world.lapse(20_000, 120_000);
        if world.dice.chance(400) {
            world.fall(slow);
            world.lapse(100, 10_000);
            world.boot(slow);
        }
        world.slow_down(slow, 1);
    }
    world.serve_at(holder, PATIENCE_US);
    world.lapse(20_000, 200_000);
}

/// The holder is cut off, from all or from most, and does not know it; a copy serves as soon as it may. Both read and write.
pub fn split(world: &mut World) {
    let holder = world.begin_without_copy();
    let mut inside = vec![holder];
    if world.dice.chance(300) {
        inside.push(world.other_than(&[]));
    }
    world.part(&inside);
    world.lapse(10, 8_000);
    let next = world.other_than(&inside);
    if world.dice.chance(500) {
        for id in world.copies().into_iter().filter(|id| !inside.contains(id)) {
            world.fall(id);
            world.boot(id);
        }
    }
    world.serve_at(next, PATIENCE_US);
    world.lapse(20_000, 300_000);
    world.heal_links();
    world.lapse(10_000, 200_000);
    world.serve_at(holder, PATIENCE_US);
    world.lapse(10_000, 60_000);
}

/// Epochs of nodes with a copy and without one, each struck at work or hardly begun: their logs compete.
pub fn relay(world: &mut World) {
    world.knobs.read_records = if world.dice.chance(500) { 1 } else { 64 };
    let diskless = world.begin_without_copy();
    let mut holder = diskless;
    for turn in 0..world.dice.range(3, 6) {
        let struck = world.dice.chance(600);
        if struck {
            world.part(&[holder]);
        } else {
            world.fall(holder);
        }
        world.lapse(10, 20_000);
        let next: MemberId = if turn % 2 == 0 { world.other_than(&[holder]) } else { diskless };
        world.boot(next);
        if world.dice.chance(500) {
            world.take_over(next);
            world.until(PATIENCE_US, |world| world.leads(next));
            world.lapse(10, 10_000);
        } else {
            world.serve_at(next, PATIENCE_US);
            world.lapse(2_000, 60_000);
        }
        world.everyone_rises();
        if !struck {
            world.mend_but(&[next]);
        }
        world.lapse(10, 10_000);
        world.heal_links();
        holder = next;
    }
    world.serve_at(diskless, PATIENCE_US);
    world.lapse(10_000, 100_000);
}
