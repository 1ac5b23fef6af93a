//! Who counts: members that are left out, taken in, given votes; sites that take turns.

use farshore_core::api::{Change, Command};
use farshore_core::ids::{Incarnation, MemberId};
use farshore_core::register::{Member, MemberKind};

use crate::stage::PATIENCE_US;
use crate::world::{LINEAGE, World};

/// The holder goes on by itself, or would like to; then the others, without it.
pub fn shrink(world: &mut World) {
    let holder = world.begin_work();
    let others: Vec<MemberId> = world.copies().into_iter().filter(|id| *id != holder).collect();
    match world.dice.range(0, 2) {
        // Nobody hears of it.
        0 => {
            world.part(&[holder]);
            world.lapse(10, 5_000);
            world.reduce(holder, &others);
        }
        // Agreed to, with those left out away.
        1 => {
            world.part(&others[..1]);
            world.reduce(holder, &others);
            world.until_edge("config-settled", 300_000);
        }
        // Agreed to by all, and nobody left out: any one copy is enough.
        _ => {
            world.reduce(holder, &[]);
            world.until_edge("config-settled", 300_000);
            world.part(&others);
        }
    }
    world.lapse(20_000, 150_000);
    world.mend_but(&[holder]);
    let next = world.other_than(&[holder]);
    world.serve_at(next, PATIENCE_US);
    world.lapse(20_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// A change that only its proposer knows of; it comes back, wins, and is cut off again before it can tell.
pub fn stuck(world: &mut World) {
    let holder = world.begin_work();
    let others: Vec<MemberId> = world.copies().into_iter().filter(|id| *id != holder).collect();
    world.part(&[holder]);
    world.reduce(holder, &others);
    world.lapse(3_000, 30_000);
    world.fall(holder);
    world.boot(holder);
    world.heal_links();
    world.attach_at(holder);
    world.until(PATIENCE_US, |world| world.runs(holder));
    world.mute(holder);
    world.until(PATIENCE_US, |world| world.leads(holder));
    world.part(&[holder]);
    world.until(PATIENCE_US, |world| world.serves(holder));
    world.lapse(20_000, 150_000);
    let next = world.other_than(&[holder]);
    world.serve_at(next, PATIENCE_US);
    world.lapse(20_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// One copy worked alone; the other comes back, far behind, and is being taken in when the first is gone.
pub fn grow(world: &mut World) {
    let holder = world.begin_work();
    let joiner = world.other_than(&[holder]);
    world.part(&[joiner]);
    world.reduce(holder, &[joiner]);
    world.until_edge("config-settled", 500_000);
    world.lapse(50_000, 200_000);
    world.slow_down(joiner, 400);
    world.heal_links();
    world.until_edge("sync-set-grow", PATIENCE_US);
    world.pause(1_000, 20_000);
    world.part(&[holder]);
    world.slow_down(joiner, 1);
    if !world.serve_at(joiner, PATIENCE_US) && world.leads(joiner) {
        world.reduce(joiner, &[holder]);
        world.serve_at(joiner, PATIENCE_US);
    }
    world.lapse(20_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// One of two copies is removed, and the rule asks for two.
pub fn taken_out(world: &mut World) {
    let holder = world.begin_work();
    let member = world.other_than(&[holder]);
    world.command(holder, Command::Change(Change::Remove { member }));
    world.until_edge("config-settled", 300_000);
    world.part(&[member]);
    world.lapse(20_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// One copy and the witness, then the other copy and the witness.
pub fn witness(world: &mut World) {
    let holder = world.begin_work();
    let other = world.other_than(&[holder]);
    world.part(&[other]);
    world.lapse(20_000, 150_000);
    world.mend_but(&[holder]);
    world.serve_at(other, PATIENCE_US);
    world.lapse(20_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// A new voter with more votes than the others have together, on the smaller side of a split.
pub fn heavy_joiner(world: &mut World) {
    let holder = world.begin_work();
    let others: Vec<MemberId> = world.copies().into_iter().filter(|id| *id != holder).collect();
    let (joiner, incarnation) = (MemberId(7), Incarnation(world.dice.u128()));
    let config = world.initial.clone();
    world.add_node(joiner, incarnation, LINEAGE, config);
    world.part(&[holder, joiner]);
    let member = Member { id: joiner, site: "x".into(), node: "n7".into(), kind: MemberKind::Data };
    world.command(holder, Command::Change(Change::Add { member, incarnation, votes: 3 }));
    world.lapse(5_000, 60_000);
    world.reduce(holder, &others);
    world.lapse(50_000, 200_000);
    let next = world.other_than(&[holder]);
    world.serve_at(next, PATIENCE_US);
    world.lapse(20_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// Only the primary's own copy must have a write. Another site takes over, falls before it has synced what it was given,
/// and tries again without the first.
pub fn moved(world: &mut World) {
    let holder = world.begin_work();
    let to = world.other_than(&[holder]);
    world.slow_down(to, 400);
    world.lapse(50_000, 150_000);
    world.take_over(to);
    world.until(PATIENCE_US, |world| world.leads(to));
    world.lapse(500, 5_000);
    world.fall(to);
    world.part(&[holder]);
    world.slow_down(to, 1);
    world.boot(to);
    world.serve_at(to, PATIENCE_US);
    world.lapse(20_000, 100_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}
