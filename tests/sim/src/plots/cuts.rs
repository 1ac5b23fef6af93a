//! Snapshots, and cuts over two volumes whose clients go on.

use crate::pairs::Pair;
use crate::world::World;

/// Snapshots are asked of a holder that is cut off, or whose peers' disks are slow; another goes on.
pub fn mark(world: &mut World) {
    let holder = world.begin_work();
    for _ in 0..3 {
        world.take_snapshot_at(holder);
        world.lapse(100, 20_000);
    }
    if world.dice.chance(500) {
        for id in world.copies().into_iter().filter(|id| *id != holder) {
            world.slow_down(id, 500);
        }
    } else {
        world.part(&[holder]);
    }
    world.take_snapshot_at(holder);
    world.lapse(10, 5_000);
    world.take_snapshot_at(holder);
    world.lapse(10, 20_000);
    for id in world.copies() {
        world.slow_down(id, 1);
        if id != holder && world.dice.chance(500) {
            world.fall(id);
            world.boot(id);
        }
    }
    world.fall(holder);
    world.heal_links();
    let next = world.other_than(&[holder]);
    world.serve_at(next, crate::stage::PATIENCE_US);
    world.take_snapshot_at(next);
    world.lapse(10_000, 100_000);
    world.boot(holder);
    world.lapse(10_000, 100_000);
}

/// One cut after another.
pub fn cut(pair: &mut Pair) {
    pair.begin_work();
    pair.every_us = 30_000;
    pair.slow_per_mille = 0;
    pair.begin_cuts();
    pair.lapse(100_000, 800_000);
}

/// What the maker of the cut says comes too late, now and then.
pub fn late(pair: &mut Pair) {
    for world in &mut pair.worlds {
        world.knobs.think_us = 20_000;
    }
    pair.begin_work();
    pair.slow_per_mille = 700;
    let together = pair.dice.chance(500);
    pair.begin_cut(together);
    pair.until(6_000_000, Pair::is_between);
    pair.lapse(1_000, 20_000);
}

/// One volume's holder is cut off once it has its mark, and another serves before the other volume has its own.
pub fn split(pair: &mut Pair) {
    for world in &mut pair.worlds {
        world.knobs.think_us = 12_000;
    }
    let [holder, _] = pair.begin_work();
    pair.slow_per_mille = 0;
    pair.mark_late_us = [0, pair.dice.range(600_000, 1_800_000)];
    pair.begin_cut(false);
    pair.until(100_000, |pair| pair.is_marked(0));
    pair.lapse(2_000, 30_000);
    pair.worlds[0].part(&[holder]);
    let next = pair.worlds[0].other_than(&[holder]);
    pair.serve_at(0, next, 1_200_000);
    pair.until(3_000_000, Pair::is_between);
    pair.lapse(1_000, 20_000);
    pair.worlds[0].heal_links();
    pair.lapse(10_000, 100_000);
}

/// One volume's peers are slow to sync the mark; then all of its nodes fall.
pub fn unsynced(pair: &mut Pair) {
    let [holder, _] = pair.begin_work();
    pair.slow_per_mille = 0;
    let world = &mut pair.worlds[0];
    for id in world.copies().into_iter().filter(|id| *id != holder) {
        world.slow_down(id, 2_000);
    }
    pair.begin_cut(true);
    pair.until(300_000, |pair| pair.is_marked(0) && pair.is_marked(1));
    pair.until(60_000, Pair::is_between);
    let world = &mut pair.worlds[0];
    for id in world.copies() {
        world.fall(id);
        world.slow_down(id, 1);
    }
    world.everyone_rises();
    let next = world.other_than(&[holder]);
    pair.serve_at(0, next, 1_500_000);
    pair.lapse(10_000, 60_000);
}

/// The volume is handed over, given up or detached in the middle of a cut.
pub fn moved(pair: &mut Pair) {
    let [holder, _] = pair.begin_work();
    pair.slow_per_mille = 0;
    pair.mark_late_us = [0, pair.dice.skewed(1_000, 600_000)];
    pair.begin_cut(false);
    pair.until(100_000, |pair| pair.is_marked(0));
    pair.lapse(10, 5_000);
    let next = pair.worlds[0].other_than(&[holder]);
    pair.worlds[0].give_away(holder, next);
    pair.serve_at(0, next, 900_000);
    pair.until(3_000_000, Pair::is_between);
    pair.lapse(10_000, 60_000);
}
