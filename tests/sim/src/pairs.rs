//! Two volumes in one time, and cuts over both: each a world of its own, with its own nodes, faults and clients, and
//! somebody who takes snapshots of both at one moment, as the daemon does.
//!
//! ```text
//!  hold ─► mark     each volume for itself, or all holds before the first mark
//!       ─► release  when both have their marks; the cut is good if both say so, else what was marked is deleted
//! ```

use std::collections::BTreeMap;

use farshore_core::api::{Answer, Command, HoldId};
use farshore_core::ids::MemberId;
use farshore_core::mark::{GroupId, Mark, SnapshotId};

use crate::dice::Dice;
use crate::knobs::Knobs;
use crate::layout::{self, Layout};
use crate::oracle::{Verdict, wrong};
use crate::snapshots::{Place, closed};
use crate::stage::PATIENCE_US;
use crate::world::World;

/// Of a thousand seeds so many have two volumes.
const PAIRS_PER_MILLE: u32 = 40;
const OTHER_SEED: u64 = 0x0b0b_0000_0000_0000;
/// A cut that is not made by then is given up.
const GIVEN_UP_US: u64 = 5_000_000;
/// How often somebody looks.
const STEP_US: u64 = 500;
const NAMES: [&str; 2] = ["A ", "B "];

/// One volume of a cut that is being made.
#[derive(Debug, Clone, Copy)]
struct Part {
    node: MemberId,
    snapshot: SnapshotId,
    /// The command that waits for its answer.
    asked: Option<u64>,
    hold: Option<HoldId>,
    place: Option<Place>,
    released: bool,
}

struct Cut {
    group: GroupId,
    /// No mark before both hold.
    together: bool,
    parts: [Part; 2],
}

/// A cut that was said to be good.
struct Good {
    group: GroupId,
    places: [(Place, SnapshotId); 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    Begin,
    Hold(usize),
    Mark(usize),
    Release(usize),
    GiveUp(GroupId),
}

pub struct Pair {
    pub worlds: [World; 2],
    pub dice: Dice,
    scenes: BTreeMap<(u64, u64), Scene>,
    scene_count: u64,
    cut: Option<Cut>,
    good: Vec<Good>,
    /// Of a thousand words of a cut's maker so many are on their way for so long, and longer by half.
    pub slow_per_mille: u32,
    pub slow_us: u64,
    /// So much longer is each volume's mark.
    pub mark_late_us: [u64; 2],
    /// Between two cuts, at most.
    pub every_us: u64,
}

/// Does this seed have two volumes?
pub fn is_pair(seed: u64) -> bool {
    Dice::seeded(seed ^ 0x9a17_0000_0000).chance(PAIRS_PER_MILLE)
}

impl Pair {
    pub fn new(seed: u64, layout: &'static Layout, verbose: bool) -> Pair {
        let other = layout::drawn(seed ^ OTHER_SEED);
        Pair::with(seed, [layout, other], verbose, |_| {})
    }

    pub fn with(seed: u64, layouts: [&'static Layout; 2], verbose: bool, habit: fn(&mut Knobs)) -> Pair {
        let mut worlds = [0, 1].map(|i| World::with(seed ^ (i as u64 * OTHER_SEED), layouts[i], verbose, habit));
        for (world, name) in worlds.iter_mut().zip(NAMES) {
            world.name = name;
        }
        Pair {
            worlds,
            dice: Dice::seeded(seed ^ 0x6c07_0000_0000),
            scenes: BTreeMap::new(),
            scene_count: 0,
            cut: None,
            good: Vec::new(),
            slow_per_mille: 100,
            slow_us: 1_000_000,
            mark_late_us: [0, 0],
            every_us: 600_000,
        }
    }

    pub fn now(&self) -> u64 {
        self.worlds[0].now
    }

    fn failed(&self) -> bool {
        self.worlds.iter().any(|w| w.violation.is_some())
    }

    fn after(&mut self, delay_us: u64, scene: Scene) {
        self.scene_count += 1;
        self.scenes.insert((self.now() + delay_us, self.scene_count), scene);
    }

    pub fn begin_cuts(&mut self) {
        let delay = self.dice.skewed(1_000, self.every_us);
        self.after(delay, Scene::Begin);
    }

    /// Both worlds, whichever is to move first; and the maker of cuts between their steps.
    pub fn run_until(&mut self, until: u64) {
        while !self.failed() {
            let next = [0, 1].map(|i| self.worlds[i].next_at().unwrap_or(u64::MAX));
            let scene = self.scenes.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            let at = next[0].min(next[1]).min(scene);
            if at > until {
                break;
            }
            if scene == at {
                self.worlds.iter_mut().for_each(|world| world.reach(at));
                if let Some((_, scene)) = self.scenes.pop_first() {
                    self.act(scene);
                }
            } else {
                self.worlds[usize::from(next[1] < next[0])].step(at);
            }
            self.listen();
        }
        self.worlds.iter_mut().for_each(|world| world.reach(until));
    }

    /// Lets time pass until `done`. False when patience ran out.
    pub fn until(&mut self, patience_us: u64, done: impl Fn(&Pair) -> bool) -> bool {
        let end = self.now() + patience_us;
        while !done(self) {
            if self.now() >= end || self.failed() {
                return false;
            }
            self.run_until(self.now() + STEP_US);
        }
        true
    }

    /// Takes over at `id` of one volume and opens a device there, as soon as that can be had.
    pub fn serve_at(&mut self, i: usize, id: MemberId, patience_us: u64) -> bool {
        let end = self.now() + patience_us;
        while self.now() < end && !self.failed() && !self.worlds[i].serves(id) {
            let world = &mut self.worlds[i];
            if world.holders().contains(&id) {
                world.attach_at(id);
            } else if !world.leads(id) {
                world.take_over(id);
            }
            self.until(20_000, |pair| pair.worlds[i].serves(id));
        }
        self.worlds[i].serves(id)
    }

    /// Begins with devices that are open and worked with.
    pub fn begin_work(&mut self) -> [MemberId; 2] {
        let holders = [0, 1].map(|i| self.worlds[i].other_than(&[]));
        for (i, holder) in holders.into_iter().enumerate() {
            self.serve_at(i, holder, PATIENCE_US);
        }
        self.lapse(5_000, 40_000);
        holders
    }

    /// Has this volume its mark of the cut that is being made?
    pub fn is_marked(&self, i: usize) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.parts[i].place.is_some())
    }

    /// No cut is being made.
    pub fn is_between(&self) -> bool {
        self.cut.is_none()
    }

    pub fn lapse(&mut self, least_us: u64, most_us: u64) {
        let until = self.now() + self.dice.skewed(least_us, most_us);
        self.run_until(until);
    }

    /// On their way: mostly as long as a message takes, now and then far longer.
    fn delay(&mut self) -> u64 {
        match self.dice.chance(self.slow_per_mille) {
            true => self.dice.range(self.slow_us, self.slow_us * 3 / 2),
            false => self.dice.skewed(10, 20_000),
        }
    }

    fn act(&mut self, scene: Scene) {
        match scene {
            Scene::Begin => {
                let together = self.dice.chance(500);
                self.begin_cut(together);
                let delay = self.dice.skewed(1_000, self.every_us);
                self.after(delay, Scene::Begin);
            }
            Scene::Hold(i) => self.ask(i, |_, _| Command::Hold),
            Scene::Mark(i) => self.ask(i, |part, group| {
                let mark = crate::moments::creation(part.snapshot, Some(group));
                Command::Mark { mark, under: part.hold }
            }),
            Scene::Release(i) => self.ask(i, |part, _| match part.hold {
                Some(hold) => Command::Release { hold },
                None => Command::Hold,
            }),
            Scene::GiveUp(group) => {
                if self.cut.as_ref().is_some_and(|cut| cut.group == group) {
                    self.give_up();
                }
            }
        }
    }

    pub fn begin_cut(&mut self, together: bool) {
        if self.cut.is_some() {
            return;
        }
        let holders = [0, 1].map(|i| self.worlds[i].holders());
        let (Some(a), Some(b)) = (self.dice.pick(&holders[0]), self.dice.pick(&holders[1])) else { return };
        let part = |node, dice: &mut Dice| {
            let snapshot = SnapshotId(dice.u128());
            Part { node, snapshot, asked: None, hold: None, place: None, released: false }
        };
        let parts = [part(a, &mut self.dice), part(b, &mut self.dice)];
        let group = GroupId(self.dice.u128());
        self.cut = Some(Cut { group, together, parts });
        *self.worlds[0].tally.asked.entry("cut").or_default() += 1;
        self.worlds[0].say(|| format!("a cut {group} is begun at {a} and {b}"));
        for i in 0..2 {
            let delay = self.delay();
            self.after(delay, Scene::Hold(i));
        }
        self.after(GIVEN_UP_US, Scene::GiveUp(group));
    }

    fn ask(&mut self, i: usize, command: impl FnOnce(&Part, GroupId) -> Command) {
        let Some(cut) = &mut self.cut else { return };
        let part = &mut cut.parts[i];
        let command = command(part, cut.group);
        match self.worlds[i].command(part.node, command) {
            Some(number) => part.asked = Some(number),
            None => self.give_up(),
        }
    }

    /// What has been answered since.
    fn listen(&mut self) {
        for i in 0..2 {
            let Some(cut) = &mut self.cut else { return };
            let part = &mut cut.parts[i];
            let Some(answer) = part.asked.and_then(|number| self.worlds[i].answers.get(&number)).copied() else {
                continue;
            };
            part.asked = None;
            let Ok(answer) = answer else { return self.give_up() };
            match answer {
                Answer::Held { hold } => part.hold = Some(hold),
                Answer::Marked { seq } => {
                    let lineage = self.worlds[i].nodes.get(&part.node).map_or(0, |n| n.lineage.uuid);
                    part.place = Some(Place { lineage, seq });
                }
                Answer::Done => part.released = true,
            }
            self.go_on(i, answer);
        }
    }

    fn go_on(&mut self, i: usize, answer: Answer) {
        let Some(cut) = &self.cut else { return };
        let both = |done: fn(&Part) -> bool| cut.parts.iter().all(done);
        match answer {
            Answer::Held { .. } if !cut.together => {
                let delay = self.delay() + self.mark_late_us[i];
                self.after(delay, Scene::Mark(i));
            }
            Answer::Held { .. } if both(|part| part.hold.is_some()) => self.both(Scene::Mark),
            Answer::Marked { .. } if both(|part| part.place.is_some()) => self.both(Scene::Release),
            Answer::Done if both(|part| part.released) => self.is_good(),
            _ => {}
        }
    }

    fn both(&mut self, scene: fn(usize) -> Scene) {
        for i in 0..2 {
            let delay = self.delay();
            self.after(delay, scene(i));
        }
    }

    fn is_good(&mut self) {
        let Some(Cut { group, parts, .. }) = self.cut.take() else { return };
        *self.worlds[0].tally.done.entry("cut").or_default() += 1;
        self.worlds[0].say(|| format!("the cut {group} is good"));
        if let [Some(a), Some(b)] = [0, 1].map(|i: usize| parts[i].place.map(|place| (place, parts[i].snapshot))) {
            self.good.push(Good { group, places: [a, b] });
        }
    }

    /// What was marked is deleted, by whoever can; and what waits is released.
    fn give_up(&mut self) {
        let Some(Cut { group, parts, .. }) = self.cut.take() else { return };
        self.worlds[0].say(|| format!("the cut {group} is given up"));
        let late = |scene: &Scene| matches!(scene, Scene::Hold(_) | Scene::Mark(_) | Scene::Release(_));
        self.scenes.retain(|_, scene| !late(scene));
        for (world, part) in self.worlds.iter_mut().zip(parts) {
            if let Some(hold) = part.hold.filter(|_| !part.released) {
                world.command(part.node, Command::Release { hold });
            }
            let holders = world.holders();
            if let (Some(_), Some(holder)) = (part.place, holders.first()) {
                let mark = Mark::Delete { id: part.snapshot };
                world.command(*holder, Command::Mark { mark, under: None });
            }
        }
    }

    /// Every good cut is there, and closed.
    pub fn judge(&self) -> Verdict {
        for Good { group, places } in &self.good {
            let mut sides = Vec::new();
            for (world, (place, id)) in self.worlds.iter().zip(places) {
                if world.oracle.has_mark(*place, *id) == Some(false) {
                    let text = format!("the cut {group} is good, and {}lacks it at {}", world.name, place.seq);
                    return wrong("cut", text);
                }
                sides.push(world.oracle.sides(*place));
            }
            closed(&sides).map_err(|mut violation| {
                violation.text = format!("{group}: {}", violation.text);
                violation
            })?;
        }
        Ok(())
    }
}
