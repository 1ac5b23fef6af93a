//! What disks lose: power, records, everything; and images that replace logs.

use farshore_core::ids::MemberId;

use crate::stage::PATIENCE_US;
use crate::world::World;

/// Of the two that have it all, one loses its disk or a part of it and the other is away; the third knows nothing of it.
pub fn amnesia(world: &mut World) {
    let holder = world.begin_work();
    let behind = world.other_than(&[holder]);
    let struck = world.other_than(&[holder, behind]);
    world.part(&[behind]);
    world.lapse(20_000, 150_000);
    if !world.may_lose(struck) {
        return;
    }
    if world.dice.chance(500) {
        world.crash(struck, true);
    } else {
        world.replace_disk(struck);
    }
    world.boot(struck);
    if world.dice.chance(300) {
        // It is made whole again, or not yet, before the other goes.
        world.lapse(100, 50_000);
    }
    world.mend_but(&[holder]);
    for next in [behind, struck] {
        if world.serve_at(next, PATIENCE_US) {
            world.lapse(20_000, 100_000);
        }
    }
    world.heal_links();
    world.lapse(10_000, 100_000);
}

/// A member that was away so long that it must be sent an image.
fn fall_behind(world: &mut World, checkpoint_us: u64) -> (MemberId, MemberId) {
    world.knobs.journal_keep = 0;
    world.knobs.checkpoint_us = checkpoint_us;
    let holder = world.begin_work();
    let away = world.other_than(&[holder]);
    world.part(&[away]);
    world.pause(checkpoint_us / 4, checkpoint_us);
    world.heal_links();
    world.until_edge("resync-begin", 300_000);
    (holder, away)
}

/// The image takes its time; another holder, whose journal has not let go of as much, meanwhile brings the member further.
pub fn late_shipment(world: &mut World) {
    world.knobs.ship_us = 600_000;
    let (holder, away) = fall_behind(world, 150_000);
    let next = world.other_than(&[holder, away]);
    world.serve_at(next, PATIENCE_US);
    world.pause(10_000, 600_000);
    world.fall(away);
    world.boot(away);
    world.lapse(10_000, 100_000);
}

/// The member falls while the image is being shown.
pub fn resync(world: &mut World) {
    world.knobs.sync_us = 1_500;
    let (_, away) = fall_behind(world, 40_000);
    world.slow_down(away, 4);
    for _ in 0..3 {
        if world.until_edge("install-begin", 300_000) {
            world.pause(10, 15_000);
            world.fall(away);
            world.boot(away);
        }
    }
    world.lapse(10_000, 100_000);
}

/// All lose power at once, at work.
pub fn blackout(world: &mut World) {
    world.knobs.journal_keep = 0;
    world.knobs.checkpoint_us = 10_000;
    world.knobs.apply_us = 200;
    world.knobs.think_us = 1_000;
    for _ in 0..3 {
        world.begin_work();
        for id in world.copies() {
            world.fall(id);
        }
        world.everyone_rises();
        world.lapse(1_000, 50_000);
    }
}

/// A sync fails, and what it should have made durable can still be read; the daemon alone is restarted, then the power
/// fails.
pub fn bad_sync(world: &mut World) {
    world.knobs.think_us = 1_000;
    for _ in 0..4 {
        let holder = world.begin_work();
        let struck = world.other_than(&[]);
        if let Some(node) = world.nodes.get_mut(&struck) {
            node.fails_sync = true;
        }
        world.until_edge("journal-poisoned", 100_000);
        world.crash(struck, false);
        world.boot(struck);
        world.lapse(100, 40_000);
        world.crash(struck, false);
        if world.dice.chance(500) {
            world.crash(holder, false);
        }
        world.everyone_rises();
        world.lapse(1_000, 50_000);
    }
}

/// Journals that can't grow; the power fails when one begins a segment anew.
pub fn tight(world: &mut World) {
    world.knobs.journal_keep = 0;
    world.knobs.checkpoint_us = 20_000;
    world.knobs.think_us = 1_000;
    world.knobs.neighbour_us = 20_000;
    let struck = world.other_than(&[]);
    for _ in 0..4 {
        world.begin_work();
        for id in world.copies() {
            world.nodes.entry(id).and_modify(|n| {
                n.disk.journal.segments.allocation_error = Some("No space left on device".to_string());
            });
        }
        world.pause(1_000, 100_000);
        world.until(400_000, |world| world.nodes.get(&struck).is_some_and(|n| n.disk.journal.begins_a_segment()));
        world.fall(struck);
        world.everyone_rises();
        world.lapse(1_000, 50_000);
    }
}

/// What a member promised just now rots, with what else it wrote last; who asked for it has fallen.
pub fn rotten_promise(world: &mut World) {
    world.knobs.neighbour_us = 1_500;
    for _ in 0..6 {
        let holder = world.begin_work();
        let next = world.other_than(&[holder]);
        let struck = world.other_than(&[holder, next]);
        world.take_over(next);
        world.until(PATIENCE_US, |world| world.runs(next));
        world.lapse(300, 5_000);
        world.fall(next);
        world.pause(1_000, 12_000);
        if world.may_lose(struck) {
            world.rot_lately(struck);
        }
        world.everyone_rises();
        world.lapse(1_000, 30_000);
    }
}
