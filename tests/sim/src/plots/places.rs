//! An observer in the place of a lost member: who decides that it is there, and what it has.

use farshore_core::ids::MemberId;
use farshore_core::register::MemberKind;

use super::distances::go_on_without;
use crate::layout::STAND_IN_US;
use crate::stage::PATIENCE_US;
use crate::world::World;

fn observer(world: &World) -> MemberId {
    let observes = world.initial.members.iter().find(|m| m.kind == MemberKind::Observer);
    observes.expect("these layouts have one").id
}

/// One is cut off. Just before an observer is named in its place, that and the holder are cut off from it and from the
/// witness, who go on as they were.
pub fn split(world: &mut World) {
    let holder = world.begin_work();
    let (other, far) = (world.other_than(&[holder]), observer(world));
    world.part(&[other]);
    let (lease_us, named_us) = (world.knobs.lease_us, world.knobs.lease_us + STAND_IN_US);
    world.pause(named_us - lease_us / 2, named_us + lease_us / 4);
    world.mend_but(&[holder, far]);
    world.pause(1_000, lease_us);
    go_on(world, other, holder);
}

/// The holder and an observer are cut off from all others for so long that it would be promoted, if these two decided.
pub fn unasked(world: &mut World) {
    let holder = world.begin_work();
    let (other, far) = (world.other_than(&[holder]), observer(world));
    world.part(&[holder, far]);
    world.pause(STAND_IN_US / 2, 2 * STAND_IN_US);
    go_on(world, other, holder);
}

/// The holder goes on by itself while the observer falls behind, and is lost as soon as that one is promoted.
pub fn behind(world: &mut World) {
    world.knobs.think_us = 2_000;
    let holder = world.begin_work();
    let (other, far) = (world.other_than(&[holder]), observer(world));
    let slowness = world.dice.range(20, 400);
    world.slow_down(far, slowness);
    world.part(&[other]);
    world.until_edge("observer-promoted", PATIENCE_US);
    world.pause(5_000, 100_000);
    world.part(&[holder]);
    world.slow_down(far, 1);
    go_on(world, far, holder);
}

fn go_on(world: &mut World, next: MemberId, holder: MemberId) {
    let end = world.now + PATIENCE_US;
    go_on_without(world, next, holder, end);
    world.lapse(20_000, 150_000);
    world.heal_links();
    world.lapse(10_000, 100_000);
}
