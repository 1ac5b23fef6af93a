//! Who may write: promises, donors, the first record of an epoch.

use farshore_core::ids::MemberId;

use crate::network::Weather;
use crate::stage::PATIENCE_US;
use crate::world::World;

/// One after another takes the epoch and is struck, at once or at work, just when those who were cut off come back: logs
/// of three epochs compete.
pub fn relay(world: &mut World) {
    world.knobs.read_records = if world.dice.chance(500) { 1 } else { 64 };
    let mut holder = world.begin_work();
    let mut struck = true;
    for _ in 0..world.dice.range(2, 4) {
        if struck {
            world.part(&[holder]);
        } else {
            world.fall(holder);
        }
        world.lapse(10, 20_000);
        let next = world.other_than(&[holder]);
        world.boot(next);
        world.take_over(next);
        world.until(PATIENCE_US, |world| world.leads(next));
        match world.dice.range(0, 3) {
            0 => world.part(&[next]),
            1 => world.lapse(10, 30_000),
            2 => world.lapse(10, 4_000),
            _ => {
                world.serve_at(next, PATIENCE_US);
                world.lapse(2_000, 60_000);
            }
        }
        struck = world.dice.chance(700);
        world.everyone_rises();
        let alone: &[MemberId] = if struck { &[next] } else { &[] };
        world.mend_but(alone);
        holder = next;
    }
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// Two want the epoch at once, and those who vote die with the answer hardly out.
pub fn duel(world: &mut World) {
    world.knobs.lazy_flush_per_mille = 600;
    world.knobs.think_us = 1_000;
    let holder = world.begin_work();
    match world.dice.range(0, 2) {
        0 => world.fall(holder),
        1 => world.part(&[holder]),
        _ => {}
    }
    for _ in 0..3 {
        let one = world.other_than(&[holder]);
        let other = world.other_than(&[one]);
        world.take_over(one);
        world.lapse(1, 2_000);
        world.take_over(other);
        for _ in 0..world.dice.range(0, 3) {
            world.lapse(10, 30_000);
            let victim = world.other_than(&[]);
            if !world.leads(victim) {
                world.fall(victim);
                world.boot(victim);
            }
        }
        world.attach_at(one);
        world.attach_at(other);
        world.lapse(1_000, 500_000);
        world.attach_at(one);
        world.attach_at(other);
        world.lapse(1_000, 50_000);
        world.heal_links();
        world.everyone_rises();
    }
}

/// Much arrives twice, or late, or both, while members come and go.
pub fn late(world: &mut World) {
    let (delay_us, late_us) = (200, world.dice.skewed(20_000, 800_000));
    world.network.weather =
        Weather { delay_us, jitter_us: 300, loss_per_mille: 20, copy_per_mille: 500, late_per_mille: 60, late_us };
    world.knobs.read_us = 8_000;
    world.begin_work();
    for _ in 0..6 {
        match world.dice.range(0, 2) {
            0 => {
                let victim = world.other_than(&[]);
                world.fall(victim);
                world.lapse(10, 20_000);
                world.boot(victim);
            }
            1 => {
                let next = world.other_than(&[]);
                world.serve_at(next, PATIENCE_US);
            }
            _ => {
                let away = world.other_than(&[]);
                world.part(&[away]);
                world.lapse(1_000, 100_000);
                world.heal_links();
            }
        }
        world.lapse(5_000, 150_000);
    }
}

/// A member comes and goes at a quiet holder's; what the holder said to it long ago arrives now.
pub fn echo(world: &mut World) {
    let late_us = world.dice.range(50_000, 300_000);
    world.network.weather =
        Weather { delay_us: 200, jitter_us: 300, loss_per_mille: 0, copy_per_mille: 900, late_per_mille: 0, late_us };
    world.knobs.think_us = 20_000;
    world.knobs.checkpoint_us = 5_000_000;
    let holder = world.begin_work();
    let member = world.other_than(&[holder]);
    for _ in 0..12 {
        world.fall(member);
        world.boot(member);
        world.lapse(5_000, 40_000);
    }
}

/// Three attempts over different quorums (Raft, figure 8): the first holder has a tail that nobody acknowledged, the
/// second a first record that nobody saw; the first comes back, hands its tail on, and is gone before its own first
/// record has followed.
pub fn figure_eight(world: &mut World) {
    world.knobs.read_records = 1;
    world.knobs.read_us = 3_000;
    let first = world.begin_work();
    world.part(&[first]);
    world.lapse(5_000, 20_000);
    let second = world.other_than(&[first]);
    world.take_over(second);
    world.until(PATIENCE_US, |world| world.leads(second));
    world.mute(second);
    world.lapse(3_000, 10_000);
    world.fall(first);
    world.boot(first);
    world.mend_but(&[second]);
    world.take_over(first);
    world.until(PATIENCE_US, |world| world.leads(first));
    world.pause(2_000, 20_000);
    world.mend_but(&[first]);
    world.serve_at(second, PATIENCE_US);
    world.lapse(20_000, 60_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// The first holder has a long tail that nobody acknowledged, the second a few records that the third has too.
pub fn long_tail(world: &mut World) {
    world.knobs.in_flight = 24;
    world.knobs.think_us = 2_000;
    let first = world.begin_work();
    world.part(&[first]);
    world.pause(10_000, 40_000);
    let second = world.other_than(&[first]);
    world.serve_at(second, PATIENCE_US);
    world.lapse(500, 5_000);
    world.mend_but(&[second]);
    let third = world.other_than(&[first, second]);
    for id in [first, third] {
        world.fall(id);
        world.boot(id);
    }
    world.serve_at(first, PATIENCE_US);
    world.lapse(20_000, 60_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// A voter between two that do not hear each other: it promises the one, restarts, and is spoken to by the other.
pub fn between(world: &mut World) {
    let holder = world.begin_work();
    let next = world.other_than(&[holder]);
    let voter = world.other_than(&[holder, next]);
    world.network.cut(holder, next);
    world.network.cut(next, holder);
    world.take_over(next);
    world.until(PATIENCE_US, |world| world.runs(next));
    world.lapse(500, 5_000);
    world.fall(voter);
    world.boot(voter);
    world.lapse(5_000, 200_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// A member hears of an epoch and gets none of its records; who won it falls and has forgotten that it did.
pub fn hearsay(world: &mut World) {
    world.knobs.journal_keep = 400;
    let holder = world.begin_work();
    let behind = world.other_than(&[holder]);
    let next = world.other_than(&[holder, behind]);
    world.part(&[behind]);
    world.pause(500, 6_000);
    world.mend_but(&[holder]);
    world.take_over(next);
    world.until(PATIENCE_US, |world| world.runs(next));
    world.lapse(2_000, 10_000);
    world.slow_down(next, 100);
    world.until(PATIENCE_US, |world| world.leads(next));
    world.mute(next);
    world.lapse(2_000, 8_000);
    world.fall(next);
    world.slow_down(next, 1);
    world.boot(next);
    world.mend_but(&[holder]);
    world.serve_at(behind, PATIENCE_US);
    world.lapse(20_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}
