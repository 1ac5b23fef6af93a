//! The simulated world: nodes, one heap of happenings in virtual microseconds, and the carrying out of effects.
//!
//! Not here: who breaks what and who commands what (nemesis), what the clients do (clients), what is right (oracle).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use bytes::{Bytes, BytesMut};
use farshore_core::api::{Command, CommandId, Effect, Effects, Event, Outcome, RequestId};
use farshore_core::durable::Durable;
use farshore_core::history::History;
use farshore_core::ids::{BLOCK_BYTES, Epoch, Incarnation, LineageId, MemberId, Seq, SessionId, Tick, VolumeId};
use farshore_core::message::{Body, Message};
use farshore_core::overlay::{Content, Hit};
use farshore_core::record::Record;
use farshore_core::register::{Configuration, Durability, OnQuorumLoss};
use farshore_core::volume::Volume;

use crate::dice::Dice;
use crate::disk::{Disk, Staged, stamp_in};
use crate::layout::Layout;
use crate::network::{Network, Weather};
use crate::oracle::{Oracle, Violation};

pub const VOLUME: VolumeId = VolumeId(0x5eed);
/// More happenings than this in one microsecond: somebody answers himself for ever.
const INSTANT_HAPPENINGS_MAX: u64 = 100_000;
const LINEAGE: LineageId = LineageId { generation: 1, uuid: 7 };

/// What a seed fixes about speed and habits of the nodes.
pub struct Knobs {
    pub lease_us: u64,
    pub sync_us: u64,
    pub apply_us: u64,
    pub read_us: u64,
    pub checkpoint_us: u64,
    /// Records that one read of the journal brings, at most.
    pub read_records: usize,
    pub ship_us: u64,
    /// Checkpointed records that the journal keeps for catching up.
    pub journal_keep: u64,
    /// How often flushing waits for more events.
    pub lazy_flush_per_mille: u32,
    pub clients: u64,
    /// Requests in flight before only reads are made.
    pub in_flight: usize,
    pub think_us: u64,
    /// Mean times between faults and between orders.
    pub calm_us: u64,
    pub patience_us: u64,
    /// How often an order begins with a blow at the holder.
    pub drama_per_mille: u32,
}

impl Knobs {
    fn draw(dice: &mut Dice) -> Knobs {
        Knobs {
            lease_us: dice.pick(&[400_000, 1_000_000, 4_000_000]).unwrap_or(1_000_000),
            sync_us: dice.skewed(50, 8_000),
            apply_us: dice.skewed(20, 20_000),
            read_us: dice.skewed(20, 10_000),
            checkpoint_us: dice.range(100_000, 2_000_000),
            read_records: if dice.chance(500) { 1024 } else { dice.skewed(1, 64) as usize },
            ship_us: dice.skewed(1_000, 1_000_000),
            journal_keep: dice.skewed(0, 400),
            lazy_flush_per_mille: if dice.chance(500) { 0 } else { 300 },
            clients: dice.range(1, 8),
            in_flight: dice.skewed(2, 32) as usize,
            think_us: dice.skewed(5_000, 150_000),
            calm_us: dice.range(200_000, 4_000_000),
            patience_us: dice.range(200_000, 4_000_000),
            drama_per_mille: dice.range(0, 500) as u32,
        }
    }
}

/// A boot clock: starts anywhere, runs up to half a per cent fast or slow.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    offset: u64,
    drift_ppm: i64,
}

impl Clock {
    fn draw(dice: &mut Dice) -> Clock {
        Clock { offset: dice.range(0, 1 << 40), drift_ppm: dice.range(0, 10_000) as i64 - 5_000 }
    }

    fn at(&self, now: u64) -> Tick {
        Tick(self.offset + (i128::from(now) * (1_000_000 + i128::from(self.drift_ppm)) / 1_000_000) as u64)
    }

    /// When this clock will show `tick`.
    fn until(&self, tick: Tick, now: u64) -> u64 {
        let local = tick.since(self.at(now));
        now + (i128::from(local) * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm))) as u64 + 1
    }
}

pub struct Node {
    pub id: MemberId,
    pub disk: Disk,
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
    /// Dies after carrying out this many more effects.
    pub dies_after: Option<u64>,
    pub wiped: bool,
    /// Its journal failed: the next start is a new incarnation.
    pub burnt: bool,
    timer_at: Option<u64>,
}

pub enum Happening {
    Deliver { to: MemberId, bytes: Bytes },
    Synced { node: MemberId, life: u32 },
    Applied { node: MemberId, life: u32, upto: Seq },
    Checkpoint { node: MemberId, life: u32 },
    StoreRead { node: MemberId, life: u32, id: RequestId, blocks: std::ops::Range<usize>, over: Vec<(usize, u64)> },
    Feed { node: MemberId, life: u32, event: Box<Event> },
    Flush { node: MemberId, life: u32 },
    Timer { node: MemberId, life: u32, at: u64 },
    Shipment { from: (MemberId, u32), to: MemberId, staged: Box<Staged>, history: History },
    Installed { node: MemberId, life: u32, seq: Seq },
    Restart { node: MemberId },
    Client { node: MemberId, life: u32, session: SessionId },
    Operator,
    Fault,
    Order { node: MemberId, order: Order },
}

/// What a drama's later scenes ask for.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    TakeOver,
    Attach,
    Crash,
    Heal,
    /// A burnt disk is exchanged.
    Replace,
    /// The node falls and the links heal in one moment: who was cut off meets who was left.
    Relieve,
    /// The node alone is cut off.
    Isolate,
}

impl Happening {
    fn name(&self) -> &'static str {
        match self {
            Happening::Deliver { .. } => "deliver",
            Happening::Synced { .. } => "synced",
            Happening::Applied { .. } => "applied",
            Happening::Checkpoint { .. } => "checkpoint",
            Happening::StoreRead { .. } => "store-read",
            Happening::Feed { .. } => "feed",
            Happening::Flush { .. } => "flush",
            Happening::Timer { .. } => "timer",
            Happening::Shipment { .. } => "shipment",
            Happening::Installed { .. } => "installed",
            Happening::Restart { .. } => "restart",
            Happening::Client { .. } => "client",
            Happening::Operator => "operator",
            Happening::Fault => "fault",
            Happening::Order { .. } => "order",
        }
    }
}

struct Entry {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.order == other.order
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What a run counted.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub edges: BTreeMap<String, u64>,
    pub faults: BTreeMap<&'static str, u64>,
    pub messages: u64,
}

pub struct World {
    pub now: u64,
    heap: BinaryHeap<Reverse<Entry>>,
    order: u64,
    /// Happenings since time last moved on.
    instant: u64,
    pub dice: Dice,
    pub knobs: Knobs,
    pub layout: &'static Layout,
    pub nodes: BTreeMap<MemberId, Node>,
    pub network: Network,
    pub oracle: Oracle,
    pub tally: Tally,
    pub violation: Option<Violation>,
    pub verbose: bool,
    /// Faults and operators act; off while the world is asked to converge.
    pub turmoil: bool,
    pub next_request: u64,
    next_command: u64,
    pub answers: BTreeMap<u64, Result<(), &'static str>>,
    /// Gone for good: what converges must converge without them.
    pub buried: BTreeSet<MemberId>,
    /// When a register value was last proposed.
    pub register_written_at: u64,
    pub initial: Configuration,
}

impl World {
    pub fn new(seed: u64, layout: &'static Layout, verbose: bool) -> World {
        let mut dice = Dice::seeded(seed);
        let knobs = Knobs::draw(&mut dice);
        let on_quorum_loss = if dice.chance(500) {
            OnQuorumLoss::Freeze
        } else {
            OnQuorumLoss::Fence { after_us: dice.range(500_000, 10_000_000) }
        };
        let initial = layout.configuration(knobs.lease_us, on_quorum_loss);
        let network = Network::new(Weather::draw(&mut dice));
        let mut world = World {
            now: 1,
            heap: BinaryHeap::new(),
            order: 0,
            instant: 0,
            dice,
            knobs,
            layout,
            nodes: BTreeMap::new(),
            network,
            oracle: Oracle::new(layout.durability == Durability::Flush),
            tally: Tally::default(),
            violation: None,
            verbose,
            turmoil: true,
            next_request: 1,
            next_command: 1,
            answers: BTreeMap::new(),
            buried: BTreeSet::new(),
            register_written_at: 0,
            initial,
        };
        let ids: Vec<MemberId> = world.initial.members.iter().map(|m| m.id).collect();
        for id in ids {
            let config = world.initial.clone();
            world.add_node(id, Incarnation(u128::from(id.0)), config);
        }
        world
    }

    /// A node with an empty disk that knows `config`.
    pub fn add_node(&mut self, id: MemberId, incarnation: Incarnation, config: Configuration) {
        let disk = Disk::fresh(&Durable::first(id, incarnation, LINEAGE, config));
        let clock = Clock::draw(&mut self.dice);
        let node = Node {
            id,
            disk,
            volume: None,
            life: 0,
            clock,
            paused_until: 0,
            slowness: 1,
            device: None,
            last_session: None,
            dies_after: None,
            wiped: false,
            burnt: false,
            timer_at: None,
        };
        self.nodes.insert(id, node);
        self.boot(id);
    }

    pub fn after(&mut self, delay_us: u64, what: Happening) {
        self.order += 1;
        self.heap.push(Reverse(Entry { at: self.now + delay_us, order: self.order, what }));
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>10.3} ms  {}", self.now as f64 / 1000.0, text());
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
        if self.violation.is_some() || self.heap.peek().is_none_or(|Reverse(e)| e.at > until) {
            self.now = self.now.max(until);
            return false;
        }
        let Some(Reverse(Entry { at, what, .. })) = self.heap.pop() else { return false };
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
            Happening::Shipment { to, .. } => (*to, None),
            Happening::Applied { node, life, .. }
            | Happening::Checkpoint { node, life }
            | Happening::StoreRead { node, life, .. }
            | Happening::Feed { node, life, .. }
            | Happening::Flush { node, life }
            | Happening::Timer { node, life, .. }
            | Happening::Installed { node, life, .. }
            | Happening::Client { node, life, .. } => (*node, Some(*life)),
            // The disk works on while its node is paused; the node learns of it later.
            Happening::Synced { node, life } => return self.synced(*node, *life),
            Happening::Restart { node } => return self.boot(*node),
            Happening::Operator => return self.operate(),
            Happening::Fault => return self.misbehave(),
            Happening::Order { node, order } => return self.obey(*node, *order),
        };
        let Some(node) = self.nodes.get(&id) else { return };
        if node.volume.is_none() || life.is_some_and(|l| l != node.life) {
            if let Happening::Shipment { from, to, .. } = what {
                self.shipped(from, to);
            }
            return;
        }
        if node.paused_until > self.now {
            let wait = node.paused_until - self.now;
            return self.after(wait, what);
        }
        match what {
            Happening::Deliver { bytes, .. } => match Message::decode(bytes) {
                Ok(message) => self.feed(id, Event::Message(message)),
                Err(e) => {
                    let text = format!("a message does not decode: {e}");
                    self.check(Err(Violation { checker: "codec", text }));
                }
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
            Happening::Shipment { from, staged, history, .. } => self.arrive(from, id, *staged, history),
            Happening::Installed { seq, .. } => self.installed(id, seq),
            Happening::Client { session, .. } => self.client(id, session),
            Happening::Synced { .. }
            | Happening::Restart { .. }
            | Happening::Operator
            | Happening::Fault
            | Happening::Order { .. } => {}
        }
    }

    // ---- the core ----

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

    fn flush(&mut self, id: MemberId) {
        self.drive(id, |volume, now, fx| volume.flush(now, fx));
    }

    fn drive(&mut self, id: MemberId, act: impl FnOnce(&mut Volume, Tick, &mut Effects)) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(volume) = node.volume.as_mut() else { return };
        let now = node.clock.at(self.now);
        let before = volume.role_epoch();
        let mut fx = Effects::new();
        act(volume, now, &mut fx);
        let epoch = if before > Epoch::ZERO { before } else { volume.role_epoch() };
        self.carry_out(id, epoch, fx);
        self.set_timer(id);
    }

    fn set_timer(&mut self, id: MemberId) {
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

    fn carry_out(&mut self, id: MemberId, epoch: Epoch, fx: Effects) {
        let mut closed = false;
        for effect in fx {
            let Some(life) = self.life(id) else { return };
            if let Some(node) = self.nodes.get_mut(&id)
                && let Some(left) = node.dies_after.as_mut()
            {
                if *left == 0 {
                    self.fault("crash-between-effects", || format!("{id}"));
                    self.crash(id);
                    return;
                }
                *left -= 1;
            }
            closed |= matches!(effect, Effect::CloseDevice { .. });
            self.effect(id, life, epoch, effect);
        }
        if closed && let Some(life) = self.life(id) {
            let verdict = self.oracle.all_completed(id, life);
            self.check(verdict);
        }
    }

    fn effect(&mut self, id: MemberId, life: u32, epoch: Epoch, effect: Effect) {
        match effect {
            Effect::Journal { token, ops } => {
                for op in &ops {
                    if let farshore_core::api::JournalOp::Record(record) = op {
                        let verdict = self.oracle.journalled(id, record);
                        self.check(verdict);
                    }
                }
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.disk.journal.append(token, ops);
                }
                self.start_sync(id, life);
            }
            Effect::Send(message) => self.send(id, &message),
            Effect::ReadLog { to, from, max_bytes } => {
                let delay = self.disk_delay(id, self.knobs.read_us);
                let Some(node) = self.nodes.get(&id) else { return };
                let (floor, mut records) = node.disk.journal.read(from, max_bytes);
                records.truncate(self.knobs.read_records);
                let event = Box::new(Event::LogRead { to, from, floor, records });
                self.after(delay, Happening::Feed { node: id, life, event });
            }
            Effect::Apply { upto } => {
                let delay = self.disk_delay(id, self.knobs.apply_us);
                self.after(delay, Happening::Applied { node: id, life, upto });
            }
            Effect::Trim { checkpoint } => {
                let keep = self.knobs.journal_keep;
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.disk.journal.trim(checkpoint, keep);
                }
            }
            Effect::Read { id: request, offset, length, hits } => {
                self.start_read(id, life, request, offset, length, hits)
            }
            Effect::Complete { id: request, outcome } => self.complete(request, outcome, epoch),
            Effect::OpenDevice { session } => {
                self.say(|| format!("{id}: device open for {session}"));
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.device = Some(session);
                    node.last_session = Some(session);
                }
                for _ in 0..self.knobs.clients {
                    let delay = self.dice.range(0, self.knobs.think_us);
                    self.after(delay, Happening::Client { node: id, life, session });
                }
            }
            Effect::CloseDevice { reason } => {
                self.say(|| format!("{id}: device closed: {reason}"));
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.device = None;
                }
            }
            Effect::Answer { id: command, result } => {
                self.say(|| format!("{id}: answer to command {}: {result:?}", command.0));
                let name = result.as_ref().map_or_else(|r| format!("refused: {}", r.rule), |()| "ok".to_string());
                *self.tally.edges.entry(name).or_default() += 1;
                if self.answers.insert(command.0, result.map_err(|r| r.rule)).is_some() {
                    let text = format!("command {} answered twice", command.0);
                    self.check(Err(Violation { checker: "once", text }));
                }
            }
            Effect::Ship { to, base, history } => self.ship((id, life), to, base, history),
            Effect::InstallImage { seq } => {
                let delay = self.disk_delay(id, self.knobs.apply_us);
                self.after(delay, Happening::Installed { node: id, life, seq });
            }
            Effect::Edge { rule, text } => {
                self.say(|| format!("{id}: [{rule}] {text}"));
                *self.tally.edges.entry(rule.to_string()).or_default() += 1;
                if rule == "diverged-below-acked" || rule == "promote-diverged" {
                    self.check(Err(Violation { checker: "order", text: format!("{id}: {rule}: {text}") }));
                }
            }
            Effect::Resized { .. } | Effect::Configured(_) | Effect::DropImage => {}
        }
    }

    fn disk_delay(&mut self, id: MemberId, most_us: u64) -> u64 {
        let slowness = self.nodes.get(&id).map_or(1, |n| n.slowness);
        (10 + self.dice.range(0, most_us)) * slowness
    }

    // ---- the journal ----

    fn start_sync(&mut self, id: MemberId, life: u32) {
        let delay = self.disk_delay(id, self.knobs.sync_us);
        if self.nodes.get_mut(&id).is_some_and(|n| n.disk.journal.begin_sync()) {
            self.after(delay, Happening::Synced { node: id, life });
        }
    }

    fn synced(&mut self, id: MemberId, life: u32) {
        if self.life(id) != Some(life) {
            return;
        }
        let tokens = self.nodes.get_mut(&id).map(|n| n.disk.journal.end_sync()).unwrap_or_default();
        for token in tokens {
            let event = Box::new(Event::JournalDone { token });
            self.after(0, Happening::Feed { node: id, life, event });
        }
        self.start_sync(id, life);
    }

    // ---- the wire ----

    fn send(&mut self, id: MemberId, message: &Message) {
        self.tally.messages += 1;
        let epoch = match &message.body {
            Body::Promise { epoch, .. }
            | Body::ConfigOk { epoch, .. }
            | Body::ElectOk { epoch, .. }
            | Body::Ack { epoch, .. } => Some(*epoch),
            _ => None,
        };
        if let (Some(epoch), Some(node)) = (epoch, self.nodes.get(&id))
            && let Some(volume) = &node.volume
        {
            self.oracle.said(id, volume.replica().d.incarnation, epoch);
        }
        if matches!(message.body, Body::PutConfig { .. }) {
            self.register_written_at = self.now;
        }
        let mut bytes = BytesMut::new();
        for part in message.encode() {
            bytes.extend_from_slice(&part);
        }
        let bytes = bytes.freeze();
        for delay in self.network.delays(id, message.to, &mut self.dice) {
            self.after(delay, Happening::Deliver { to: message.to, bytes: bytes.clone() });
        }
    }

    // ---- the store ----

    fn apply(&mut self, id: MemberId, upto: Seq) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let applied = node.disk.apply(upto);
        for record in &applied {
            let verdict = self.oracle.applied(id, record);
            self.check(verdict);
        }
        self.feed(id, Event::Applied { seq: upto });
    }

    fn checkpoint(&mut self, id: MemberId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let base = node.disk.checkpoint();
        let verdict = self.oracle.image(id, &node.disk.now);
        let life = node.life;
        self.check(verdict);
        self.feed(id, Event::Checkpointed { base });
        let delay = self.dice.range(1, self.knobs.checkpoint_us);
        self.after(delay, Happening::Checkpoint { node: id, life });
    }

    fn start_read(&mut self, id: MemberId, life: u32, request: RequestId, offset: u64, length: u32, hits: Vec<Hit>) {
        let delay = self.disk_delay(id, self.knobs.read_us);
        let Some(node) = self.nodes.get(&id) else { return };
        let mut over = Vec::new();
        for hit in hits {
            let first = (hit.offset / BLOCK_BYTES) as usize;
            for i in 0..(hit.length / BLOCK_BYTES) as usize {
                let stamp = match &hit.content {
                    Content::Data(bytes) => stamp_in(&bytes.slice(i * BLOCK_BYTES as usize..)),
                    Content::Zeroes => node.disk.journal.record(hit.seq).map_or(u64::MAX, |r: &Record| r.origin.tag),
                };
                over.push((first + i, stamp));
            }
        }
        let first = (offset / BLOCK_BYTES) as usize;
        let blocks = first..first + (u64::from(length) / BLOCK_BYTES) as usize;
        self.after(delay, Happening::StoreRead { node: id, life, id: request, blocks, over });
    }

    /// What a read returns here is each block's stamp, in its first eight bytes.
    fn store_read(
        &mut self,
        id: MemberId,
        request: RequestId,
        blocks: std::ops::Range<usize>,
        over: Vec<(usize, u64)>,
    ) {
        let Some(node) = self.nodes.get(&id) else { return };
        let mut data = BytesMut::zeroed(blocks.len() * 8);
        for block in blocks.clone() {
            let laid = over.iter().find(|(b, _)| *b == block).map(|(_, stamp)| *stamp);
            let stamp = laid.unwrap_or(node.disk.now.cells[block].stamp);
            let at = (block - blocks.start) * 8;
            data[at..at + 8].copy_from_slice(&stamp.to_le_bytes());
        }
        self.feed(id, Event::ReadDone { id: request, result: Ok(data.freeze()) });
    }

    fn complete(&mut self, request: RequestId, outcome: Outcome, epoch: Epoch) {
        let seen = match outcome {
            Outcome::Done => Some(Vec::new()),
            Outcome::Data(data) => Some(data.chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("8"))).collect()),
            Outcome::Fault(_) => None,
        };
        let verdict = self.oracle.completed(request.0, seen, epoch, self.now);
        self.check(verdict);
    }

    // ---- shipping an image ----

    fn ship(&mut self, from: (MemberId, u32), to: MemberId, since: Seq, history: History) {
        let delay = 1000 + self.dice.range(0, self.knobs.ship_us);
        let Some(node) = self.nodes.get(&from.0) else { return };
        let staged = Box::new(Staged { since, image: node.disk.now.clone() });
        self.say(|| format!("{} ships its image at {} since {since} to {to}", from.0, staged.image.base.seq));
        self.after(delay, Happening::Shipment { from, to, staged, history });
    }

    fn arrive(&mut self, from: (MemberId, u32), to: MemberId, staged: Staged, mut history: History) {
        if self.life(from.0) == Some(from.1) && !self.network.is_cut(from.0, to) {
            let base = staged.image.base;
            history.truncate(base.seq);
            if self.nodes.get_mut(&to).is_some_and(|n| n.disk.stage(staged)) {
                self.feed(to, Event::Staged { base, history });
            }
        }
        self.shipped(from, to);
    }

    fn shipped(&mut self, (from, life): (MemberId, u32), to: MemberId) {
        let delay = self.dice.range(1_000, 200_000);
        self.after(delay, Happening::Feed { node: from, life, event: Box::new(Event::Shipped { to }) });
    }

    fn installed(&mut self, id: MemberId, seq: Seq) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.disk.install(seq);
        let verdict = self.oracle.image(id, &node.disk.now);
        self.check(verdict);
        self.feed(id, Event::ImageVisible);
    }

    // ---- life and death ----

    pub fn crash(&mut self, id: MemberId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.volume.take().is_none() {
            return;
        }
        node.life += 1;
        node.device = None;
        node.dies_after = None;
        node.timer_at = None;
        node.disk.crash(&mut self.dice);
        let verdict = self.oracle.image(id, &node.disk.now);
        self.check(verdict);
        let delay = self.dice.skewed(1_000, 6_000_000);
        self.after(delay, Happening::Restart { node: id });
    }

    /// The disk is lost with all it held: a new incarnation joins empty, knowing what some other member knows.
    pub fn wipe(&mut self, id: MemberId, config: Configuration) {
        self.crash(id);
        let incarnation = Incarnation(self.dice.u128());
        if let Some(node) = self.nodes.get_mut(&id) {
            node.burnt = false;
            node.disk = Disk::fresh(&Durable::first(id, incarnation, LINEAGE, config));
            node.last_session = None;
            node.wiped = true;
        }
        self.after(1_000, Happening::Restart { node: id });
    }

    pub fn boot(&mut self, id: MemberId) {
        if self.nodes.get(&id).is_some_and(|n| n.burnt) {
            return self.replace_disk(id);
        }
        let buried = self.buried.contains(&id);
        let Some(node) = self.nodes.get_mut(&id).filter(|n| n.volume.is_none() && !buried) else { return };
        let mut recovered = node.disk.recovered();
        recovered.lost_upto = node.disk.lost_upto.take();
        let (incarnation, promised) = (recovered.durable.incarnation, recovered.durable.promised);
        if self.dice.chance(500) {
            node.clock = Clock::draw(&mut self.dice);
        }
        let now = node.clock.at(self.now);
        let life = node.life;
        let mut fx = Effects::new();
        node.volume = Some(Volume::recover(VOLUME, recovered, now, &mut fx));
        let verdict = self.oracle.recovered(id, incarnation, promised);
        self.check(verdict);
        self.say(|| format!("{id}: up (life {life})"));
        self.carry_out(id, Epoch::ZERO, fx);
        self.flush(id);
        let delay = self.dice.range(1, self.knobs.checkpoint_us);
        self.after(delay, Happening::Checkpoint { node: id, life });
    }

    pub fn command(&mut self, id: MemberId, command: Command) -> Option<u64> {
        self.life(id)?;
        let number = self.next_command;
        self.next_command += 1;
        self.say(|| format!("{id}: command {number}: {command:?}"));
        self.feed(id, Event::Command { id: CommandId(number), command });
        Some(number)
    }
}

impl Node {
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
