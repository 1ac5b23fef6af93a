//! A forced lineage opens only when all that were named are in it, also when a crash comes between.

use crate::api::{Command, CommandId, Effect, Effects, Event, JournalOp, Promotion};
use crate::durable::{Durable, LogBase};
use crate::history::History;
use crate::ids::{Epoch, Incarnation, LineageId, MemberId, Seq, Tick, VolumeId};
use crate::message::{Body, Message};
use crate::record::Record;
use crate::register::{
    ConfigVersion, Configuration, DataRule, Descriptor, Durability, Member, MemberKind, Mode, OnQuorumLoss, SyncMember,
    Terms, Vote,
};
use crate::replica::Recovered;
use crate::volume::Volume;

const B: MemberId = MemberId(1);
const WITNESS: MemberId = MemberId(2);
const VOLUME: VolumeId = VolumeId(5);

/// Two copies and a witness, votes 2, 2 and 1: any two are a majority. Of b and the witness alone, b is one by itself.
fn configuration() -> Configuration {
    let rule = DataRule { w: 2, min_remote: 1, local: false };
    let (ids, sites) = ([MemberId(0), B, WITNESS], ["a", "b", "w"]);
    let kind = |id| if id == WITNESS { MemberKind::Witness } else { MemberKind::Data };
    let member = |(id, site): (&MemberId, &&str)| Member {
        id: *id,
        site: (*site).to_string(),
        node: "n".to_string(),
        kind: kind(*id),
    };
    let vote =
        |id: &MemberId| Vote { member: *id, incarnation: Incarnation(1), votes: if *id == WITNESS { 1 } else { 2 } };
    let sync = |i: usize| SyncMember { member: ids[i], incarnation: Incarnation(1), site: sites[i].to_string() };
    Configuration {
        version: ConfigVersion { epoch: Epoch { n: 1, writer: 1 }, k: 0 },
        volume: Descriptor {
            name: "v".to_string(),
            size_bytes: 1 << 20,
            logical_block_bytes: 4096,
            durability: Durability::Write,
            lease_us: 1_000_000,
            on_quorum_loss: OnQuorumLoss::Freeze,
            policy: "majority".to_string(),
            rule,
            labels: Default::default(),
            mode: Mode::Sync,
            fallback_after_us: None,
            promote_observer_after_us: None,
        },
        members: ids.iter().zip(&sites).map(member).collect(),
        current: Terms {
            votes: ids.iter().map(vote).collect(),
            sync: vec![sync(0), sync(1)],
            rule,
            primary_site: "a".to_string(),
        },
        earlier: Vec::new(),
        attached: None,
        stand_ins: Vec::new(),
    }
}

/// A node with its disk: what was journalled is there after a crash.
struct Node {
    volume: Volume,
    durable: Durable,
    records: Vec<Record>,
}

impl Node {
    fn new(me: MemberId) -> Node {
        let lineage = LineageId { generation: 1, uuid: 2 };
        Node::from_disk(Durable::first(me, Incarnation(1), lineage, configuration()), Vec::new())
    }

    fn from_disk(durable: Durable, records: Vec<Record>) -> Node {
        let last = records.last().map_or(LogBase::default(), |r| LogBase { seq: r.seq, hash: r.hash() });
        let epochs = records.iter().map(|r| (r.epoch, r.seq)).collect();
        let (floor, applied) = (Seq(1), Seq::ZERO);
        let recovered = Recovered { durable: durable.clone(), last, epochs, floor, lost_upto: None, applied };
        let volume = Volume::recover(VOLUME, recovered, Tick(0), &mut Effects::new());
        Node { volume, durable, records }
    }

    fn crash(self) -> Node {
        Node::from_disk(self.durable, self.records)
    }

    /// Takes an event and all that the disk has to say about it; what is for others is returned.
    fn handle(&mut self, now: u64, event: Event) -> Vec<Message> {
        let (mut fx, mut sent) = (Effects::new(), Vec::new());
        self.volume.handle(Tick(now), event, &mut fx);
        self.volume.flush(Tick(now), &mut fx);
        while !fx.is_empty() {
            match fx.remove(0) {
                Effect::Send(message) => sent.push(message),
                Effect::Journal { token, ops } => {
                    ops.into_iter().for_each(|op| self.store(op));
                    self.volume.handle(Tick(now), Event::JournalDone { token }, &mut fx);
                }
                Effect::Apply { upto } => self.volume.handle(Tick(now), Event::Applied { seq: upto }, &mut fx),
                _ => {}
            }
            self.volume.flush(Tick(now), &mut fx);
        }
        sent
    }

    fn store(&mut self, op: JournalOp) {
        match op {
            JournalOp::Meta(blob) => self.durable = Durable::decode(blob).expect("our own blob"),
            JournalOp::Record(record) => self.records.push(record),
            JournalOp::Truncate { after } => self.records.retain(|r| r.seq <= after),
            JournalOp::Restart { .. } => self.records.clear(),
        }
    }

    fn ask(&mut self, now: u64, command: Command) -> Vec<Message> {
        self.handle(now, Event::Command { id: CommandId(now), command })
    }

    fn opened(&self) -> bool {
        self.volume.primary().is_some_and(crate::primary::Primary::is_open)
    }
}

fn force(writer: u128) -> Command {
    Command::Force { writer, uuid: writer + 1, members: vec![B, WITNESS] }
}

/// Carries messages between the two until they have said all, for a while of ticking clocks.
fn talk(b: &mut Node, witness: &mut Node, mut sent: Vec<Message>, from: u64) {
    for step in 0..40 {
        let now = from + step * 100_000;
        while let Some(message) = sent.pop() {
            let to = match message.to {
                B => &mut *b,
                WITNESS => &mut *witness,
                _ => continue,
            };
            sent.extend(to.handle(now, Event::Message(message)));
        }
        sent.extend(b.handle(now, Event::Timer));
    }
}

#[test]
fn a_fork_that_a_crash_cut_short_does_not_open_and_can_be_finished() {
    let (mut b, mut witness) = (Node::new(B), Node::new(WITNESS));
    let probes = b.ask(10, force(70));
    let answers: Vec<Message> = probes.into_iter().flat_map(|m| witness.handle(20, Event::Message(m))).collect();
    for answer in answers {
        // What b sends now asks the witness to enter the new lineage, and is lost with b's memory.
        b.handle(30, Event::Message(answer));
    }
    let generation = |node: &Node| node.durable.lineage.generation;
    assert_eq!((generation(&b), generation(&witness)), (2, 1));

    let mut b = b.crash();
    let asks = b.ask(10_000_000, Command::Promote { writer: 80, why: Promotion::Takeover });
    talk(&mut b, &mut witness, asks, 10_000_000);
    assert!(
        b.volume.primary().is_none(),
        "b alone carries most votes of the two, but the witness is not in the lineage"
    );
    assert_eq!(generation(&witness), 1, "it still answers in the old lineage");

    let mut b = b.crash();
    let asks = b.ask(50_000_000, force(90));
    talk(&mut b, &mut witness, asks, 50_000_000);
    assert_eq!((generation(&b), generation(&witness)), (2, 2), "the same fork, finished");
    assert!(b.opened(), "all that were named are in it");
    assert!(b.volume.primary().is_some_and(|p| p.config().earlier.is_empty()), "and nobody is waited for any more");
}

/// Whoever holds the epoch may be named: once it is in the new lineage, its epoch is of the old one.
#[test]
fn a_holder_that_enters_a_fork_holds_nothing_any_more() {
    let (mut a, mut b, mut witness) = (Node::new(MemberId(0)), Node::new(B), Node::new(WITNESS));
    let mut sent = a.ask(10, Command::Promote { writer: u128::MAX, why: Promotion::Takeover });
    for step in 0..25 {
        let now = 10 + step * 100_000;
        while !sent.is_empty() {
            let message = sent.remove(0);
            let to = [&mut a, &mut b, &mut witness].into_iter().find(|node| node.durable.me == message.to);
            sent.extend(to.expect("one of them").handle(now, Event::Message(message)));
        }
        sent.extend(a.handle(now, Event::Timer));
    }
    assert!(a.volume.primary().is_some());
    let old = a.durable.lineage;
    let lineage = LineageId { generation: old.generation + 1, uuid: 99 };
    // Lower than the epoch that a holds: nothing else would end that.
    let epoch = Epoch { n: a.durable.promised.n, writer: 1 };
    let (history, end) = (a.volume.replica().history().clone(), a.volume.replica().end());
    let version = ConfigVersion { epoch, k: 0 };
    let config = Box::new(Configuration { version, ..configuration() });
    let body = Body::Fork { lineage, epoch, config, log: Some((history, end)) };
    a.handle(3_000_000, Event::Message(Message { volume: VOLUME, lineage: old, from: B, to: MemberId(0), body }));
    assert_eq!(a.durable.lineage, lineage);
    assert!(a.volume.primary().is_none());
}

/// It would show an image that the new lineage does not begin with.
#[test]
fn a_copy_that_is_about_to_show_an_image_is_not_forced() {
    let mut node = Node::new(B);
    let (lineage, base) = (node.durable.lineage, LogBase { seq: Seq(5), hash: Default::default() });
    let history = History(vec![(Epoch { n: 1, writer: 1 }, Seq(1))]);
    node.handle(1, Event::Staged { lineage, base, history });
    let refused = |node: &mut Node| {
        let (command, mut fx) = (Command::Force { writer: 7, uuid: 8, members: vec![B] }, Effects::new());
        node.volume.handle(Tick(2), Event::Command { id: CommandId(1), command }, &mut fx);
        fx.into_iter().find_map(|e| match e {
            Effect::Answer { result: Err(refusal), .. } => Some(refusal.rule),
            _ => None,
        })
    };
    assert_eq!(refused(&mut node), Some("force-installing"));
    node.handle(3, Event::ImageVisible);
    assert_eq!(refused(&mut node), None);
}
