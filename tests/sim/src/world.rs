//! The simulated world: nodes, virtual time, and events fed to the core.
//!
//! Not here: who breaks what (nemesis) and who commands what (orders), what the clients do (clients), what the core
//! wants done (effects, store), what is right (oracle).

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::api::{Answer, Command, CommandId, Effects, Event, HoldId};
use farshore_core::durable::Durable;
use farshore_core::ids::{Epoch, Incarnation, LineageId, MemberId, SessionId, Tick, VolumeId};
use farshore_core::mark::SnapshotId;
use farshore_core::message::Message;
use farshore_core::register::{Configuration, Durability, OnQuorumLoss};
use farshore_core::volume::Volume;

use crate::dice::Dice;
use crate::disk::Disk;
use crate::knobs::{Clock, Knobs};
use crate::layout::Layout;
use crate::neighbour::Neighbour;
use crate::network::{Network, Weather};
use crate::oracle::{Oracle, Violation};
use crate::rules;
use crate::schedule::{Happening, Letter, Schedule};
use crate::shipments::Shipment;
use crate::statement::Statements;

pub const VOLUME: VolumeId = VolumeId(0x5eed);
/// More happenings than this in one microsecond: somebody answers himself for ever.
const INSTANT_HAPPENINGS_MAX: u64 = 100_000;
pub const LINEAGE: LineageId = LineageId { generation: 1, uuid: 7 };

pub struct Node {
    pub id: MemberId,
    pub disk: Disk,
    /// What it is in by what it last wrote, or would find on its disk.
    pub lineage: LineageId,
    pub volume: Option<Volume>,
    /// Counts restarts: what an earlier life began does not reach a later one.
    pub life: u32,
    pub clock: Clock,
    pub paused_until: u64,
    /// The disk takes this many times longer.
    pub slowness: u64,
    pub device: Option<SessionId>,
    /// The last session that was open here; a restarted daemon tries to take it back.
    pub last_session: Option<SessionId>,
    /// Dies when this many more writes of its journal are done; before the last lands, or right after.
    pub dies_at_sync: Option<(u64, bool)>,
    /// The next sync of its journal fails.
    pub fails_sync: bool,
    /// So many reads of its store will fail.
    pub reads_fail: u64,
    /// Its store has no room until then.
    pub store_full_until: u64,
    pub neighbour: Neighbour,
    /// Dies after carrying out this many more effects.
    pub dies_after: Option<u64>,
    pub wiped: bool,
    /// Its journal failed: the next start is a new incarnation.
    pub burnt: bool,
    pub timer_at: Option<u64>,
    /// Until when nothing newer of what the journal says is heard.
    pub told_at: u64,
}

/// What a run counted.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Edges that the core told of, refusals that it answered with, what operators asked for and got, by name.
    pub edges: BTreeMap<&'static str, u64>,
    pub refusals: BTreeMap<&'static str, u64>,
    pub asked: BTreeMap<&'static str, u64>,
    pub done: BTreeMap<&'static str, u64>,
    pub faults: BTreeMap<&'static str, u64>,
    pub messages: u64,
    pub events: u64,
}

pub struct World {
    pub now: u64,
    schedule: Schedule,
    /// Happenings since time last moved on.
    instant: u64,
    pub dice: Dice,
    /// A second stream: what is drawn from it leaves the rest of a seed as it was.
    pub side: Dice,
    /// A third one, of what is done with snapshots.
    pub moments: Dice,
    /// Snapshots that were asked for.
    pub taken: Vec<SnapshotId>,
    pub last_hold: Option<HoldId>,
    pub knobs: Knobs,
    pub layout: &'static Layout,
    pub nodes: BTreeMap<MemberId, Node>,
    /// The last that was shipped from one to another and has not arrived.
    pub outgoing: BTreeMap<(MemberId, MemberId), Shipment>,
    pub network: Network,
    pub oracle: Oracle,
    pub statements: Statements,
    pub tally: Tally,
    pub violation: Option<Violation>,
    pub verbose: bool,
    /// Of several volumes, which; before what it says.
    pub name: &'static str,
    /// Faults and operators act; off while the world is asked to converge.
    pub turmoil: bool,
    /// When a disk last lost something: until then fewer copies may be left than completed a write.
    pub lost_at: u64,
    pub next_request: u64,
    next_command: u64,
    /// What each command was.
    pub commands: BTreeMap<u64, &'static str>,
    pub answers: BTreeMap<u64, Result<Answer, &'static str>>,
    /// Gone for good: what converges must converge without them.
    pub buried: BTreeSet<MemberId>,
    /// When a register value was last proposed.
    pub register_written_at: u64,
    pub initial: Configuration,
    /// The core's own word that logs parted below what was acked counts as a violation.
    pub heeds_the_core: bool,
}

impl World {
    pub fn new(seed: u64, layout: &'static Layout, verbose: bool) -> World {
        World::with(seed, layout, verbose, |_| {})
    }

    /// A world in which `habit` has changed what the seed draws.
    pub fn with(seed: u64, layout: &'static Layout, verbose: bool, habit: impl FnOnce(&mut Knobs)) -> World {
        let mut dice = Dice::seeded(seed);
        let mut knobs = Knobs::draw(&mut dice, layout.durability == Durability::Flush);
        habit(&mut knobs);
        let on_quorum_loss = if dice.chance(500) {
            OnQuorumLoss::Freeze
        } else {
            OnQuorumLoss::Fence { after_us: dice.range(500_000, 10_000_000) }
        };
        let initial = layout.configuration(knobs.lease_us, on_quorum_loss);
        let network = Network::new(Weather::draw(&mut dice));
        let mut world = World {
            now: 1,
            schedule: Schedule::default(),
            instant: 0,
            dice,
            side: Dice::seeded(seed ^ 0x51de_0000_0000_0000),
            moments: Dice::seeded(seed ^ 0x3a9d_0000_0000_0000),
            taken: Vec::new(),
            last_hold: None,
            knobs,
            layout,
            nodes: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            network,
            oracle: Oracle::new(layout.durability == Durability::Flush, LINEAGE.uuid, layout.copies()),
            statements: Statements::default(),
            tally: Tally::default(),
            violation: None,
            verbose,
            name: "",
            turmoil: true,
            lost_at: 0,
            next_request: 1,
            next_command: 1,
            commands: BTreeMap::new(),
            answers: BTreeMap::new(),
            buried: BTreeSet::new(),
            register_written_at: 0,
            initial,
            heeds_the_core: true,
        };
        world.oracle.sessions.begin(&world.initial.members, &world.initial.current.primary_site);
        let ids: Vec<MemberId> = world.initial.members.iter().map(|m| m.id).collect();
        for id in ids {
            let config = world.initial.clone();
            world.add_node(id, Incarnation(u128::from(id.0)), LINEAGE, config);
        }
        world
    }

    /// A node with an empty disk that knows `config`.
    pub fn add_node(&mut self, id: MemberId, incarnation: Incarnation, lineage: LineageId, config: Configuration) {
        self.add_disk(Durable::first(id, incarnation, lineage, config));
    }

    /// A node whose disk holds no more than this.
    pub fn add_disk(&mut self, first: Durable) {
        let id = first.me;
        let disk = Disk::fresh(&first, self.knobs.journal, &mut self.dice);
        let clock = Clock::draw(&mut self.dice);
        let node = Node {
            id,
            disk,
            lineage: first.lineage,
            volume: None,
            life: 0,
            clock,
            paused_until: 0,
            slowness: 1,
            device: None,
            last_session: None,
            dies_at_sync: None,
            fails_sync: false,
            reads_fail: 0,
            store_full_until: 0,
            neighbour: Neighbour::default(),
            dies_after: None,
            wiped: false,
            burnt: false,
            timer_at: None,
            told_at: 0,
        };
        self.nodes.insert(id, node);
        self.boot(id);
    }

    pub fn after(&mut self, delay_us: u64, what: Happening) {
        self.schedule.push(self.now + delay_us, what);
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>10.3} ms  {}{}", self.now as f64 / 1000.0, self.name, text());
        }
    }

    pub fn fault(&mut self, name: &'static str, text: impl FnOnce() -> String) {
        *self.tally.faults.entry(name).or_default() += 1;
        self.say(|| format!("fault: {name} {}", text()));
    }

    pub fn check(&mut self, verdict: Result<(), Violation>) {
        if let Err(violation) = verdict
            && self.violation.is_none()
        {
            self.say(|| format!("VIOLATION {}: {}", violation.checker, violation.text));
            self.violation = Some(violation);
        }
    }

    /// Lets the next thing happen, unless it is later than `until`. False when the run is over or has failed.
    pub fn step(&mut self, until: u64) -> bool {
        let next = if self.violation.is_none() { self.schedule.pop(until) } else { None };
        let Some((at, what)) = next else {
            self.now = self.now.max(until);
            return false;
        };
        self.tally.events += 1;
        if at == self.now {
            self.instant += 1;
            let name = what.name();
            assert!(self.instant < INSTANT_HAPPENINGS_MAX, "the world is stuck at {at} µs, by {name}");
        } else {
            self.instant = 0;
        }
        self.now = at;
        self.happen(what);
        true
    }

    /// When the next thing is to happen.
    pub fn next_at(&self) -> Option<u64> {
        self.schedule.next_at()
    }

    /// Nothing is to happen before `at`, which is now.
    pub fn reach(&mut self, at: u64) {
        self.now = self.now.max(at);
    }

    pub fn run_until(&mut self, until: u64) {
        while self.step(until) {}
    }

    /// The life of a node that runs; `None` while it is down.
    pub fn life(&self, id: MemberId) -> Option<u32> {
        self.nodes.get(&id).filter(|n| n.volume.is_some()).map(|n| n.life)
    }

    fn happen(&mut self, what: Happening) {
        let (id, life) = match &what {
            Happening::Deliver { to, .. } => (*to, None),
            Happening::Shipment { shipment, .. } => (shipment.to, None),
            Happening::Applied { node, life, .. }
            | Happening::Checkpoint { node, life }
            | Happening::StoreRead { node, life, .. }
            | Happening::Feed { node, life, .. }
            | Happening::Flush { node, life }
            | Happening::Timer { node, life, .. }
            | Happening::Installed { node, life, .. }
            | Happening::Neighbour { node, life }
            | Happening::Client { node, life, .. } => (*node, Some(*life)),
            // The disk works on while its node is paused; the node learns of it later.
            Happening::Synced { node, life } => return self.synced(*node, *life),
            Happening::Restart { node } => return self.boot(*node),
            Happening::Operator => return self.operate(),
            Happening::Snapshot => return self.snapshot_or_so(),
            Happening::Fork => return self.fork_or_discard(),
            Happening::Fault => return self.misbehave(),
            Happening::Order { node, order } => return self.obey(*node, *order),
            Happening::Line { between, up } => return self.line(*between, *up),
        };
        let Some(node) = self.nodes.get(&id) else { return };
        if node.volume.is_none() || life.is_some_and(|l| l != node.life) {
            if let Happening::Shipment { shipment, copy: false, .. } = what {
                self.shipped(shipment.from, shipment.to);
            }
            return;
        }
        if node.paused_until > self.now {
            let wait = node.paused_until - self.now;
            return self.after(wait, what);
        }
        match what {
            Happening::Deliver { letter, .. } => match letter {
                Letter::Said(message) => self.hear(id, *message),
                Letter::Encoded(bytes) => match Message::decode(bytes) {
                    Ok(message) => self.hear(id, message),
                    Err(e) => {
                        let text = format!("a message does not decode: {e}");
                        self.check(Err(Violation { checker: "codec", text }));
                    }
                },
            },
            Happening::Applied { upto, .. } => self.apply(id, upto),
            Happening::Checkpoint { .. } => self.checkpoint(id),
            Happening::StoreRead { id: request, blocks, over, .. } => self.store_read(id, request, blocks, over),
            Happening::Feed { event, .. } => self.feed(id, *event),
            Happening::Flush { .. } => self.flush(id),
            Happening::Timer { at, .. } => {
                // Another one was set since, for an earlier time.
                let Some(node) = self.nodes.get_mut(&id).filter(|n| n.timer_at == Some(at)) else { return };
                node.timer_at = None;
                self.feed(id, Event::Timer);
            }
            Happening::Shipment { shipment, blocks, copy } => self.arrive(shipment, blocks, copy),
            Happening::Installed { seq, .. } => self.installed(id, seq),
            Happening::Client { session, .. } => self.client(id, session),
            Happening::Neighbour { life, .. } => self.neighbour_writes(id, life),
            Happening::Synced { .. }
            | Happening::Restart { .. }
            | Happening::Operator
            | Happening::Snapshot
            | Happening::Fork
            | Happening::Fault
            | Happening::Line { .. }
            | Happening::Order { .. } => {}
        }
    }

    // ---- the core ----

    fn hear(&mut self, id: MemberId, message: Message) {
        let lineage = message.lineage;
        self.feed(id, Event::Message(message));
        let Some(node) = self.nodes.get(&id) else { return };
        let well = node.volume.as_ref().is_some_and(|v| v.replica().failed.is_none());
        if well && lineage.uuid != node.lineage.uuid {
            self.oracle.branches.meets((id, node.life), lineage.uuid, self.now);
        }
    }

    pub fn feed(&mut self, id: MemberId, event: Event) {
        let lazy = self.dice.chance(self.knobs.lazy_flush_per_mille);
        self.drive(id, |volume, now, fx| volume.handle(now, event, fx));
        if lazy {
            if let Some(life) = self.life(id) {
                let delay = self.dice.range(0, 1000);
                self.after(delay, Happening::Flush { node: id, life });
            }
        } else {
            self.flush(id);
        }
    }

    pub fn flush(&mut self, id: MemberId) {
        self.drive(id, |volume, now, fx| volume.flush(now, fx));
    }

    fn drive(&mut self, id: MemberId, act: impl FnOnce(&mut Volume, Tick, &mut Effects)) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(volume) = node.volume.as_mut() else { return };
        let now = node.clock.at(self.now);
        let before = volume.role_epoch();
        let mut fx = Effects::new();
        act(volume, now, &mut fx);
        if let Some(primary) = volume.primary() {
            self.statements.acked(volume.replica().d.lineage.uuid, primary.acked);
        }
        let epoch = if before > Epoch::ZERO { before } else { volume.role_epoch() };
        self.carry_out(id, epoch, fx);
        self.set_timer(id);
    }

    pub fn set_timer(&mut self, id: MemberId) {
        let late = if self.dice.chance(50) { self.dice.range(0, 50_000) } else { 0 };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(volume) = &node.volume else { return };
        let Some(wakeup) = volume.wakeup(node.clock.at(self.now)) else { return };
        let at = node.clock.until(wakeup, self.now) + late;
        if node.timer_at.is_none_or(|t| at < t) {
            node.timer_at = Some(at);
            let life = node.life;
            self.after(at - self.now, Happening::Timer { node: id, life, at });
        }
    }
    pub fn command(&mut self, id: MemberId, command: Command) -> Option<u64> {
        self.life(id)?;
        let number = self.next_command;
        self.next_command += 1;
        self.say(|| format!("{id}: command {number}: {command:?}"));
        self.oracle.sessions.asked(id, number, &command);
        self.snapshot_asked(number, &command);
        self.oracle_hears(id, &command);
        let name = rules::name_of(&command);
        *self.tally.asked.entry(name).or_default() += 1;
        self.commands.insert(number, name);
        self.feed(id, Event::Command { id: CommandId(number), command });
        Some(number)
    }
}

impl Node {
    /// Runs without a copy.
    pub fn is_diskless(&self) -> bool {
        self.volume.as_ref().is_some_and(|v| v.replica().is_diskless())
    }

    pub fn clock_at(&self, now: u64) -> Tick {
        self.clock.at(now)
    }
}

impl World {
    /// The clients make no further requests.
    pub fn stop_clients(&mut self) {
        self.knobs.clients = 0;
    }
}
