//! Whole volumes against each other, over a wire and disks that do at once what they are asked. For what one replica
//! alone can't show; what schedules do to it is the simulator's business.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::api::{Change, Command, CommandId, Effect, Effects, Event, JournalOp, Promotion, Refusal};
use crate::durable::{Durable, LogBase};
use crate::ids::{Epoch, Incarnation, LineageId, MemberId, Seq, Tick, VolumeId};
use crate::record::Record;
use crate::register::{
    ConfigVersion, Configuration, DataRule, Descriptor, Durability, Member, MemberKind, OnQuorumLoss, SyncMember,
    Terms, Vote,
};
use crate::replica::Recovered;
use crate::volume::Volume;

const VOLUME: VolumeId = VolumeId(5);
const LEASE_US: u64 = 1_000_000;

struct Cluster {
    now: Tick,
    volumes: BTreeMap<MemberId, Volume>,
    logs: BTreeMap<MemberId, BTreeMap<Seq, Record>>,
    dead: BTreeSet<MemberId>,
    answers: BTreeMap<u64, Result<(), Refusal>>,
    commands: u64,
}

impl Cluster {
    /// Members m0, m1, … in sites of their own, of these kinds.
    fn of(kinds: &[MemberKind], rule: DataRule) -> Cluster {
        let member = |(i, kind): (usize, &MemberKind)| Member {
            id: MemberId(i as u16),
            site: format!("s{i}"),
            node: "n".to_string(),
            kind: *kind,
        };
        let members: Vec<Member> = kinds.iter().enumerate().map(member).collect();
        let incarnation = |m: &Member| Incarnation(u128::from(m.id.0) + 1);
        let votes = members.iter().map(|m| Vote { member: m.id, incarnation: incarnation(m), votes: 1 }).collect();
        let sync = members.iter().filter(|m| m.kind == MemberKind::Data).map(|m| SyncMember {
            member: m.id,
            incarnation: incarnation(m),
            site: m.site.clone(),
        });
        let config = Configuration {
            version: ConfigVersion { epoch: Epoch::ZERO, k: 1 },
            volume: Descriptor {
                name: "v".to_string(),
                size_bytes: 1 << 20,
                logical_block_bytes: 4096,
                durability: Durability::Write,
                lease_us: LEASE_US,
                on_quorum_loss: OnQuorumLoss::Freeze,
                policy: "majority".to_string(),
                rule,
                labels: Default::default(),
            },
            current: Terms { votes, sync: sync.collect(), rule, primary_site: "s0".to_string() },
            members,
            earlier: Vec::new(),
            attached: None,
        };
        let lineage = LineageId { generation: 1, uuid: 2 };
        let now = Tick(1_000_000_000);
        let volume = |m: &Member| {
            let durable = Durable::first(m.id, incarnation(m), lineage, config.clone());
            let (last, epochs) = (LogBase::default(), Vec::new());
            let recovered = Recovered { durable, last, epochs, floor: Seq(1), lost_upto: None, applied: Seq::ZERO };
            (m.id, Volume::recover(VOLUME, recovered, now, &mut Effects::new()))
        };
        Cluster {
            now,
            volumes: config.members.iter().map(volume).collect(),
            logs: BTreeMap::new(),
            dead: BTreeSet::new(),
            answers: BTreeMap::new(),
            commands: 0,
        }
    }

    fn feed(&mut self, id: MemberId, event: Event) {
        let mut events = VecDeque::from([(id, event)]);
        while let Some((id, event)) = events.pop_front() {
            if self.dead.contains(&id) {
                continue;
            }
            let Some(volume) = self.volumes.get_mut(&id) else { continue };
            let mut fx = Effects::new();
            volume.handle(self.now, event, &mut fx);
            volume.flush(self.now, &mut fx);
            for effect in fx {
                events.extend(self.carry_out(id, effect));
            }
        }
    }

    fn carry_out(&mut self, id: MemberId, effect: Effect) -> Option<(MemberId, Event)> {
        let log = self.logs.entry(id).or_default();
        match effect {
            Effect::Journal { token, ops } => {
                for op in ops {
                    match op {
                        JournalOp::Record(record) => drop(log.insert(record.seq, record)),
                        JournalOp::Truncate { after } => drop(log.split_off(&after.next())),
                        JournalOp::Restart { .. } => log.clear(),
                        JournalOp::Meta(_) => {}
                    }
                }
                Some((id, Event::JournalDone { token }))
            }
            Effect::Send(message) => Some((message.to, Event::Message(message))),
            Effect::Apply { upto } => Some((id, Event::Applied { seq: upto })),
            Effect::ReadLog { to, from, .. } => {
                let records = log.range(from..).map(|(_, r)| r.clone()).collect();
                Some((id, Event::LogRead { to, from, floor: Seq(1), records }))
            }
            Effect::Answer { id: command, result } => {
                self.answers.insert(command.0, result);
                None
            }
            _ => None,
        }
    }

    fn pass(&mut self, us: u64) {
        let until = self.now.plus(us);
        while self.now < until {
            self.now = self.now.plus(10_000);
            let ids: Vec<MemberId> = self.volumes.keys().copied().collect();
            for id in ids {
                if self.volumes[&id].wakeup(self.now).is_some_and(|at| at <= self.now) {
                    self.feed(id, Event::Timer);
                }
            }
        }
    }

    /// Its answer, once there is one.
    fn command(&mut self, id: MemberId, command: Command) -> Result<(), Refusal> {
        self.commands += 1;
        let number = self.commands;
        self.feed(id, Event::Command { id: CommandId(number), command });
        for _ in 0..100 {
            if let Some(answer) = self.answers.remove(&number) {
                return answer;
            }
            self.pass(100_000);
        }
        panic!("command {number} was not answered");
    }

    fn promote(&mut self, id: MemberId) {
        let writer = u128::from(self.commands) + 100;
        let command = Command::Promote { writer, why: Promotion::Takeover };
        self.command(id, command).expect("it is promoted");
    }

    fn terms(&self, id: MemberId) -> &Terms {
        &self.volumes[&id].primary().expect("it holds the epoch").config().current
    }
}

const DATA: MemberKind = MemberKind::Data;
const TWO_SITES: DataRule = DataRule { w: 2, min_remote: 1, local: false };
const ALONE: DataRule = DataRule { w: 1, min_remote: 0, local: false };

/// Two copies and a witness go on without the copy that fell silent: it had everything when it was last heard, and
/// would freeze the volume again at once if that let it in.
#[test]
fn a_silent_member_does_not_enter_the_sync_set() {
    let (first, second) = (MemberId(0), MemberId(1));
    let mut cluster = Cluster::of(&[DATA, DATA, MemberKind::Witness], TWO_SITES);
    cluster.promote(first);
    cluster.pass(LEASE_US);
    assert_eq!(cluster.terms(first).sync.len(), 2);
    cluster.dead.insert(second);
    cluster.pass(2 * LEASE_US);
    let reduce = Change::Reduce { without: vec![second], rule: ALONE };
    cluster.command(first, Command::Change(reduce)).expect("the silent one is left out");
    cluster.pass(10 * LEASE_US);
    assert_eq!(cluster.terms(first).sync.len(), 1);
    assert!(cluster.volumes[&first].lease_until().is_some_and(|until| until > cluster.now), "it serves");
    cluster.dead.clear();
    cluster.pass(2 * LEASE_US);
    assert_eq!(cluster.terms(first).sync.len(), 2, "back, it enters");
    assert_eq!(cluster.terms(first).rule, TWO_SITES);
}
