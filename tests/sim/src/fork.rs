//! A forced promotion, after the world has come to rest: some members begin a new lineage while the others are out of
//! sight. These could not have acknowledged anything by themselves, so nothing may be missing; from the moment they
//! meet the new lineage they are fenced, until an operator discards their copies and lets them in again.

use farshore_core::api::{Command, Promotion};
use farshore_core::ids::{MemberId, SessionId};
use farshore_core::register::{Configuration, MemberKind, SyncMember};

use crate::oracle::Violation;
use crate::run::await_answer;
use crate::world::World;

const FORK_THINK_US: u64 = 20_000;

fn wrong(text: String) -> Result<bool, Violation> {
    Err(Violation { checker: "fork", text })
}

/// Who begins the new lineage, its donor first; such that the others can't acknowledge anything. `None` if there is
/// nobody to leave out.
fn choose(world: &mut World, config: &Configuration) -> Option<Vec<MemberId>> {
    let alive: Vec<MemberId> = config
        .members
        .iter()
        .map(|m| m.id)
        .filter(|id| world.life(*id).is_some() && !world.buried.contains(id) && !config.is_diskless(*id))
        .collect();
    let holds = |id: &MemberId| {
        let whole = world.nodes.get(id).and_then(|n| n.volume.as_ref()).is_some_and(|v| v.replica().whole());
        whole && config.current.sync.iter().any(|s| s.member == *id)
    };
    let donors: Vec<MemberId> = alive.iter().copied().filter(holds).collect();
    let donor = world.dice.pick(&donors)?;
    let mut named = vec![donor];
    for id in alive.iter().filter(|id| **id != donor) {
        if world.dice.chance(400) {
            named.push(*id);
        }
    }
    let left_out = |m: &SyncMember| !named.contains(&m.member);
    (!config.current.data_quorum(left_out) && named.len() < config.members.len()).then_some(named)
}

/// True if there is a new lineage now, and the world must come to rest anew.
pub fn fork(world: &mut World, holder: MemberId) -> Result<bool, Violation> {
    let config = world.nodes.get(&holder).and_then(|n| n.volume.as_ref()).and_then(|v| v.primary());
    let Some(config) = config.map(|p| p.config().clone()) else { return Ok(false) };
    let Some(named) = choose(world, &config) else { return Ok(false) };
    let donor = named[0];
    world.say(|| format!("---- {named:?} are forced into a new lineage ----"));
    let ids: Vec<MemberId> = world.nodes.keys().copied().collect();
    let others: Vec<MemberId> = ids.iter().copied().filter(|id| !named.contains(id)).collect();
    for a in &named {
        for b in &others {
            world.network.cut(*a, *b);
            world.network.cut(*b, *a);
        }
    }
    for id in &others {
        if world.dice.chance(300) {
            world.crash(*id, false);
        }
    }
    world.fault("fork", || format!("{named:?}"));
    // Whoever held the epoch goes on for a while: it completes nothing that it has not completed yet.
    world.knobs.clients = 1;
    world.knobs.think_us = FORK_THINK_US;
    let wait = world.dice.skewed(1_000, 2 * world.knobs.lease_us);
    world.run_until(world.now + wait);
    let before = lineage(world, donor);
    let (writer, uuid) = (world.dice.u128(), world.dice.u128());
    let forced = await_answer(world, donor, Command::Force { writer, uuid, members: named.clone() });
    if matches!(forced, Some(Ok(_))) {
        let (writer, session) = (world.dice.u128(), SessionId(world.dice.u128()));
        await_answer(world, donor, Command::Attach { writer, session });
        let work = world.dice.range(100_000, 1_000_000);
        world.run_until(world.now + work);
    }
    let forked = lineage(world, donor) > before;
    world.network.heal();
    ids.iter().for_each(|id| world.boot(*id));
    world.run_until(world.now + 3_000_000);
    if !forked {
        return Ok(true);
    }
    // The lineages have met.
    for id in others {
        if world.buried.contains(&id) {
            continue;
        }
        if world.nodes.get(&id).is_some_and(|n| n.device.is_some()) {
            return wrong(format!("{id} still serves in the lineage that was left"));
        }
        let takes_over = Command::Promote { writer: world.dice.u128(), why: Promotion::Takeover };
        let fenced =
            world.nodes.get(&id).and_then(|n| n.volume.as_ref()).is_some_and(|v| v.replica().d.superseded.is_some());
        if fenced && matches!(await_answer(world, id, takes_over), Some(Ok(_))) {
            return wrong(format!("{id} is promoted in the lineage that was left"));
        }
        let Some(teacher) = world.nodes.get(&donor).map(|n| n.disk.durable_blob()) else { continue };
        let discarded = world.nodes.get(&id).is_some_and(|n| n.lineage == teacher.lineage);
        if !discarded && config.member(id).is_some_and(|m| m.kind != MemberKind::Leaving) {
            world.fault("copy-discarded", || format!("{id}"));
            world.wipe(id, &teacher);
        }
    }
    Ok(true)
}

fn lineage(world: &World, id: MemberId) -> u64 {
    world.nodes.get(&id).map_or(0, |n| world.oracle.branches.depth(n.lineage.uuid))
}
