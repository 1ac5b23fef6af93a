//! Who may read, and whose device it is: leases, attaching, handing over.

use farshore_core::api::{Change, Command, Promotion};
use farshore_core::ids::MemberId;
use farshore_core::register::Durability;

use crate::stage::PATIENCE_US;
use crate::world::World;

/// The holder is cut off and does not know it; another serves as soon as it may. Both read and write.
pub fn split(world: &mut World) {
    let holder = world.begin_work();
    if world.dice.chance(500) {
        world.lapse(100_000, 400_000);
    }
    world.part(&[holder]);
    world.lapse(10, 8_000);
    let next = world.other_than(&[holder]);
    if world.dice.chance(500) {
        // The voters forget, or not, what they owe.
        for id in world.copies().into_iter().filter(|id| *id != holder) {
            world.fall(id);
            world.boot(id);
        }
    }
    world.serve_at(next, PATIENCE_US);
    world.lapse(20_000, 300_000);
    world.heal_links();
    world.lapse(10_000, 200_000);
}

/// The holder, cut off, would be content with itself; nobody has heard of it. It reads more than it writes.
pub fn alone(world: &mut World) {
    let holder = world.begin_work();
    world.knobs.in_flight = 1;
    world.knobs.think_us = 10_000;
    world.lapse(10_000, 50_000);
    world.part(&[holder]);
    world.lapse(10, 5_000);
    let others: Vec<MemberId> = world.copies().into_iter().filter(|id| *id != holder).collect();
    world.reduce(holder, &others);
    let next = world.other_than(&[holder]);
    world.serve_at(next, PATIENCE_US);
    world.lapse(50_000, 300_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// The holder sleeps with answers in its inbox, and wakes when another serves.
pub fn sleep(world: &mut World) {
    let holder = world.begin_work();
    let until = world.now + world.knobs.lease_us + world.dice.range(100_000, 600_000);
    if let Some(node) = world.nodes.get_mut(&holder) {
        node.paused_until = until;
    }
    world.lapse(500, 5_000);
    world.part(&[holder]);
    let next = world.other_than(&[holder]);
    world.serve_at(next, PATIENCE_US);
    let end = world.now.max(until) + 150_000;
    world.run_until(end);
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// Attaching, giving up, taking back: daemons that restart in the middle of it.
pub fn handover(world: &mut World) {
    world.knobs.apply_us = world.dice.skewed(100, 120_000);
    let stranger = world.other_than(&[]);
    world.attach_at(stranger);
    world.lapse(1_000, 100_000);
    let holder = world.begin_work();
    let to = world.other_than(&[holder]);
    let command = if world.dice.chance(300) { Command::Demote } else { Command::Handover { to } };
    world.command(holder, command);
    world.until(500_000, |world| !world.leads(holder));
    if world.dice.chance(500) {
        world.lapse(1, 3_000);
        world.fall(holder);
        world.boot(holder);
        world.take_back(holder);
        world.lapse(1_000, 200_000);
    }
    world.serve_at(to, PATIENCE_US);
    world.lapse(5_000, 60_000);
    world.fall(holder);
    world.boot(holder);
    world.take_back(holder);
    world.lapse(10_000, 600_000);
}

/// A node of the holder's site is to be fenced, and the word of it comes late, or to the wrong place: the volume has gone
/// to another site.
pub fn late_fence(world: &mut World) {
    let holder = world.begin_work();
    let to = world.other_than(&[holder]);
    if world.dice.chance(700) {
        world.serve_at(to, PATIENCE_US);
        world.lapse(5_000, 60_000);
    }
    let asked = world.other_than(&[holder, to]);
    let member = if world.dice.chance(500) { holder } else { world.other_than(&[]) };
    let writer = world.dice.u128();
    world.command(asked, Command::Promote { writer, why: Promotion::Fence { member } });
    world.until(2_000_000, |world| world.holders().contains(&asked));
    world.attach_at(asked);
    world.lapse(20_000, 200_000);
    world.serve_at(to, PATIENCE_US);
    world.lapse(20_000, 100_000);
}

/// Class flush, two copies in the holder's site: what the neighbour alone made durable completes, and the neighbour goes.
pub fn neighbour(world: &mut World) {
    let (holder, beside) = (MemberId(0), MemberId(1));
    world.serve_at(holder, PATIENCE_US);
    world.lapse(5_000, 50_000);
    world.slow_down(holder, 2_000);
    for far in world.copies().into_iter().skip(2) {
        world.network.cut(holder, far);
    }
    world.lapse(20_000, 200_000);
    take_back_without(world, holder, beside);
}

/// As [`neighbour`], and class write is asked for when completions are ahead of what is acknowledged: a witness has heard
/// of it, who has no records.
pub fn class(world: &mut World) {
    let (holder, beside, far) = (MemberId(0), MemberId(1), MemberId(2));
    world.serve_at(holder, PATIENCE_US);
    world.lapse(5_000, 50_000);
    world.slow_down(holder, 2_000);
    world.network.cut(holder, far);
    world.lapse(20_000, 200_000);
    world.command(holder, Command::Change(Change::Durability { durability: Durability::Write }));
    world.lapse(5_000, 100_000);
    take_back_without(world, holder, beside);
}

/// A switchover to where the store is far behind its log.
pub fn slow_store(world: &mut World) {
    world.knobs.apply_us = 200_000;
    world.knobs.think_us = 1_000;
    let holder = world.begin_work();
    let to = world.other_than(&[holder]);
    world.command(holder, Command::Handover { to });
    world.until(500_000, |world| !world.leads(holder));
    world.serve_at(to, PATIENCE_US);
    world.lapse(20_000, 200_000);
}

/// The holder gives up, dies with the words hardly out, and its daemon comes back.
pub fn farewell(world: &mut World) {
    world.knobs.sync_us = 1_500;
    let holder = world.begin_work();
    let to = world.other_than(&[holder]);
    world.slow_down(holder, 20);
    let command = if world.dice.chance(300) { Command::Demote } else { Command::Handover { to } };
    world.command(holder, command);
    world.until(500_000, |world| !world.leads(holder));
    world.lapse(1, 10_000);
    world.fall(holder);
    world.slow_down(holder, 1);
    world.boot(holder);
    world.take_back(holder);
    world.lapse(100_000, 600_000);
}

/// The holder's daemon ends and takes its device back, while the one beside it is away.
fn take_back_without(world: &mut World, holder: MemberId, beside: MemberId) {
    world.fall(holder);
    world.slow_down(holder, 1);
    world.mend_but(&[beside]);
    world.boot(holder);
    world.take_back(holder);
    world.lapse(100_000, 700_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}
