//! One run: turmoil for a while, safety held throughout; then everything heals (but perhaps one member, which is gone
//! for good), and the volume must come to rest.

use farshore_core::api::{Answer, Command, Promotion};
use farshore_core::ids::{MemberId, SessionId};
use farshore_core::register::{Configuration, Member, MemberKind};

use crate::clients::READ;
use crate::fork::fork;
use crate::layout::{Layout, VOLUME_BLOCKS};
use crate::network::Weather;
use crate::oracle::Violation;
use crate::pairs::{Pair, is_pair};
use crate::world::{Node, Tally, World};

/// Virtual time of the turmoil, at most.
const TURMOIL_US: u64 = 10_000_000;
/// Virtual time that a healed world gets to converge.
const CONVERGE_US: u64 = 240_000_000;
/// Of a thousand worlds that came to rest, so many see a forced promotion then.
const FORKS_PER_MILLE: u32 = 250;
const POLL_US: u64 = 250_000;
const CALM_THINK_US: u64 = 300_000;

/// What a run did, for the summary.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub layout: &'static str,
    pub tally: Tally,
    pub acked_writes: u64,
    pub reads: u64,
    pub virtual_us: u64,
    pub violation: Option<Violation>,
}

impl Outcome {
    /// Of two volumes in one run.
    fn and(mut self, other: Outcome) -> Outcome {
        self.tally.join(&other.tally);
        self.acked_writes += other.acked_writes;
        self.reads += other.reads;
        self.virtual_us = self.virtual_us.max(other.virtual_us);
        self.violation = self.violation.or(other.violation);
        self
    }
}

pub fn run(seed: u64, layout: &'static Layout, verbose: bool) -> Outcome {
    run_heeding(seed, layout, verbose, true)
}

/// A run in which only what can be seen from outside is held against the core. One that is broken on purpose may
/// notice so itself, and its own complaint is no proof that the checkers would.
pub fn run_from_outside(seed: u64, layout: &'static Layout, verbose: bool) -> Outcome {
    run_heeding(seed, layout, verbose, false)
}

fn run_heeding(seed: u64, layout: &'static Layout, verbose: bool, heeds_the_core: bool) -> Outcome {
    if !is_pair(seed) {
        let mut world = World::new(seed, layout, verbose);
        world.heeds_the_core = heeds_the_core;
        world.begin_turmoil();
        let end = world.dice.range(TURMOIL_US / 4, TURMOIL_US);
        world.run_until(end);
        return finish(world);
    }
    let mut pair = Pair::new(seed, layout, verbose);
    for world in &mut pair.worlds {
        world.heeds_the_core = heeds_the_core;
        world.begin_turmoil();
    }
    pair.begin_cuts();
    let end = pair.dice.range(TURMOIL_US / 4, TURMOIL_US);
    pair.run_until(end);
    finish_both(pair)
}

/// Both volumes heal, one after the other; then each is judged, and what was cut over both.
pub fn finish_both(mut pair: Pair) -> Outcome {
    let unfinished = pair.worlds.iter().any(|world| world.violation.is_some());
    for world in pair.worlds.iter_mut().filter(|world| !unfinished || world.violation.is_some()) {
        settle(world);
    }
    let verdict = if unfinished { Ok(()) } else { pair.judge() };
    pair.worlds[0].check(verdict);
    let [one, other] = pair.worlds.map(outcome);
    one.and(other)
}

/// Everything heals; then the whole history is judged.
pub fn finish(mut world: World) -> Outcome {
    settle(&mut world);
    outcome(world)
}

fn settle(world: &mut World) {
    let converged = if world.violation.is_none() { converge(world) } else { Ok(()) };
    // What was lost or flipped is told before what merely stands still.
    let verdict = world.oracle.registers().and_then(|()| world.oracle.moments());
    world.check(verdict);
    world.check(converged);
}

fn outcome(mut world: World) -> Outcome {
    Outcome {
        layout: world.layout.name,
        acked_writes: world.oracle.acked_writes,
        reads: world.oracle.reads,
        virtual_us: world.now,
        violation: world.violation.take(),
        tally: world.tally,
    }
}

fn stuck(world: &World, what: &str) -> Result<(), Violation> {
    let mut text = format!("{what}, {} s after everything healed", CONVERGE_US / 1_000_000);
    for node in world.nodes.values() {
        if let Some(volume) = &node.volume {
            let r = volume.replica();
            text += &format!(
                "\n    {}: promised {} end {} durable {} acked {} applied {} base {} whole {} config {} {:?}",
                node.id,
                r.d.promised,
                r.end(),
                r.durable,
                r.acked,
                r.applied,
                r.d.base.seq,
                r.whole(),
                r.d.config.version,
                volume.status(node.clock_at(world.now)).state,
            );
            let journal = &node.disk.journal;
            let segments = &journal.segments;
            text += &format!(
                "; journal: {} of {} segments live, {} free, {} bytes needed, {} appends wait{}",
                segments.live.len(),
                segments.max,
                segments.free.len(),
                journal.needed.values().sum::<u64>(),
                journal.queue.len(),
                if segments.allocation_error.is_some() { ", it can't grow" } else { "" },
            );
        }
    }
    if let Some(config) =
        world.nodes.values().filter_map(|n| n.volume.as_ref()).map(|v| &v.replica().d.config).max_by_key(|c| c.version)
    {
        text += &format!("\n    newest register value: {config:?}");
    }
    Err(Violation { checker: "liveness", text })
}

/// Heals everything and requires a promotion, every write, and every live member whole and equal (I37).
fn converge(world: &mut World) -> Result<(), Violation> {
    world.say(|| "---- everything heals ----".to_string());
    world.turmoil = false;
    world.network.heal();
    world.network.weather = Weather::fair();
    if world.lineages() == 1 {
        world.bury_one();
    }
    let ids: Vec<MemberId> = world.nodes.keys().copied().filter(|id| !world.buried.contains(id)).collect();
    for id in &ids {
        if let Some(node) = world.nodes.get_mut(id) {
            node.paused_until = 0;
            node.slowness = 1;
            node.dies_after = None;
            node.dies_at_sync = None;
            node.fails_sync = false;
            node.reads_fail = 0;
            node.store_full_until = 0;
            node.disk.journal.segments.allocation_error = None;
        }
        let failed = |n: &Node| n.volume.as_ref().is_some_and(|v| v.replica().failed.is_some());
        if world.nodes.get(id).is_some_and(failed) {
            world.crash(*id, false);
        }
        world.boot(*id);
    }
    let mut holder = come_to_rest(world)?;
    if world.dice.chance(FORKS_PER_MILLE)
        && let Some(id) = holder
        && fork(world, id)?
    {
        holder = come_to_rest(world)?;
    }
    if holder.is_none() {
        return Ok(());
    }
    for id in ids {
        let Some(node) = world.nodes.get(&id) else { continue };
        world.oracle.image(id, node.lineage.uuid, &node.disk.now)?;
        world.oracle.all_completed(id, node.life)?;
    }
    Ok(())
}

/// Waits until a device is open, everybody is whole, every request came back, and all images are equal. Names the
/// holder; nobody if a checker spoke.
fn come_to_rest(world: &mut World) -> Result<Option<MemberId>, Violation> {
    let deadline = world.now + CONVERGE_US;
    let mut waits_for = "no device could be opened";
    // A device may be lost once more, to what was still on its way; then somebody opens it anew.
    loop {
        // A world that heals is watched, not worked in.
        world.knobs.clients = 1;
        world.knobs.think_us = CALM_THINK_US;
        let Some((holder, session)) = open_somewhere(world, deadline) else { break };
        waits_for = "the members did not converge";
        if !wait(world, deadline, holder, |world| converged(world, holder)) {
            continue;
        }
        world.say(|| "---- the clients stop ----".to_string());
        waits_for = "requests did not complete";
        world.stop_clients();
        if !wait(world, deadline, holder, |world| idle(world, holder)) {
            continue;
        }
        for first in 0..VOLUME_BLOCKS {
            world.submit(holder, session, (first, 1), READ);
        }
        waits_for = "the images did not become equal";
        if wait(world, deadline, holder, |world| idle(world, holder) && equal(world, holder)) {
            return Ok(Some(holder));
        }
    }
    if world.violation.is_some() {
        return Ok(None);
    }
    stuck(world, waits_for).map(|()| None)
}

fn open_device(world: &World) -> Option<(MemberId, SessionId)> {
    world.nodes.values().find_map(|n| {
        let left_behind = world.is_left_behind(n.id);
        let serving = !left_behind
            && n.volume.as_ref().is_some_and(|v| v.lease_until().is_some_and(|t| t > n.clock_at(world.now)));
        n.device.filter(|_| serving).map(|s| (n.id, s))
    })
}

/// Promotes one node after another until a device is open and stays so.
fn open_somewhere(world: &mut World, deadline: u64) -> Option<(MemberId, SessionId)> {
    // Whatever was under way gets its chance first.
    world.run_until(world.now + 2_000_000);
    let ids: Vec<MemberId> = world.nodes.keys().copied().collect();
    let mut turn = world.dice.range(0, 7) as usize;
    while world.now < deadline && world.violation.is_none() {
        if let Some(found) = open_device(world) {
            return Some(found);
        }
        world.tend();
        world.run_until(world.now + POLL_US);
        let id = ids[turn % ids.len()];
        turn += 1;
        if turn.is_multiple_of(3)
            && let Some((donor, command)) = world.fork_to_finish()
        {
            await_answer(world, donor, command);
            continue;
        }
        if world.is_left_behind(id) {
            continue;
        }
        if !await_ok(world, id, |world| Command::Promote { writer: world.dice.u128(), why: Promotion::Takeover }) {
            continue;
        }
        // Where the node that is named is gone for good, an operator takes the volume from it.
        if let Some(session) = world.named_at_buried(id) {
            await_ok(world, id, |_| Command::Detach { session });
        }
        await_ok(world, id, |world| Command::Attach {
            writer: world.dice.u128(),
            session: SessionId(world.dice.u128()),
        });
    }
    None
}

fn await_ok(world: &mut World, id: MemberId, command: impl FnOnce(&mut World) -> Command) -> bool {
    let command = command(world);
    matches!(await_answer(world, id, command), Some(Ok(_)))
}

/// The answer to a command, or the rule by which it was refused; `None` if the node is down or takes too long.
pub fn await_answer(world: &mut World, id: MemberId, command: Command) -> Option<Result<Answer, &'static str>> {
    let number = world.command(id, command)?;
    let patience = world.now + 40_000_000;
    while world.now < patience && world.violation.is_none() {
        if let Some(answer) = world.answers.get(&number) {
            return Some(*answer);
        }
        world.tend();
        world.run_until(world.now + 200_000);
    }
    None
}

fn living_data<'a>(world: &'a World, config: &'a Configuration) -> impl Iterator<Item = &'a Member> {
    config.members.iter().filter(|m| m.kind == MemberKind::Data && !world.buried.contains(&m.id))
}

/// Every living data member of the newest register value is in the sync set, has everything and shows it.
fn converged(world: &World, holder: MemberId) -> bool {
    let Some(primary) = world.nodes.get(&holder).and_then(|n| n.volume.as_ref()).and_then(|v| v.primary()) else {
        return false;
    };
    let config = primary.config();
    config.earlier.is_empty()
        && living_data(world, config).all(|m| {
            let Some(replica) = world.nodes.get(&m.id).and_then(|n| n.volume.as_ref()).map(|v| v.replica()) else {
                return false;
            };
            let votes = config.admitted(m.id).is_some();
            // The clients go on writing: close behind is as good as equal.
            let close = primary.acked.since(replica.applied) <= 2_000 && replica.whole();
            close && (!votes || config.current.in_sync(m.id, replica.d.incarnation))
        })
}

/// Lets time pass until `done`; false when the device was lost, time ran out or a checker spoke.
fn wait(world: &mut World, deadline: u64, holder: MemberId, done: impl Fn(&World) -> bool) -> bool {
    while !done(world) {
        let served = world.nodes.get(&holder).is_some_and(|n| n.device.is_some());
        if world.now >= deadline || world.violation.is_some() || !served {
            return false;
        }
        world.tend();
        world.run_until(world.now + POLL_US);
    }
    true
}

fn idle(world: &World, holder: MemberId) -> bool {
    world.life(holder).is_some_and(|life| world.oracle.outstanding(holder, life) == 0)
}

/// Every living data member shows the holder's image, and it is the whole log's.
fn equal(world: &World, holder: MemberId) -> bool {
    let Some(node) = world.nodes.get(&holder) else { return false };
    let Some(volume) = &node.volume else { return false };
    let Some(primary) = volume.primary() else { return false };
    let living: Vec<&Node> = living_data(world, primary.config()).filter_map(|m| world.nodes.get(&m.id)).collect();
    // A holder without a copy shows what the others do.
    let Some(shown) = living.first().map(|first| if volume.replica().is_diskless() { first } else { &node }) else {
        return false;
    };
    let equal = |other: &&Node| {
        other.disk.now.base.seq == volume.replica().end() && other.disk.now.cells == shown.disk.now.cells
    };
    living.iter().all(equal)
}
