//! Whole volumes against each other, over a wire and disks that do at once what they are asked. For what one replica
//! alone can't show; what schedules do to it is the simulator's business.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::api::{
    Answer, Change, Command, CommandId, Effect, Effects, Event, Io, JournalOp, Outcome, Promotion, Refusal, Request,
    RequestId,
};
use crate::durable::{Durable, LogBase};
use crate::history::History;
use crate::ids::{Epoch, Incarnation, LineageId, MemberId, Seq, SessionId, Tick, VolumeId};
use crate::limits::{CATCH_UP_INFLIGHT_BYTES_MAX, GROW_LAG_BYTES_MAX, GROW_LAG_RECORDS_MAX};
use crate::message::{Body, Message};
use crate::record::{Origin, Record, RecordHash};
use crate::register::{
    ConfigVersion, Configuration, DataRule, Descriptor, Durability, Member, MemberKind, Mode, OnQuorumLoss, SyncMember,
    Terms, Vote,
};
use crate::replica::Recovered;
use crate::volume::Volume;

pub(super) const VOLUME: VolumeId = VolumeId(5);
pub(super) const LEASE_US: u64 = 1_000_000;

pub(super) struct Cluster {
    pub(super) now: Tick,
    pub(super) volumes: BTreeMap<MemberId, Volume>,
    pub(super) logs: BTreeMap<MemberId, BTreeMap<Seq, Record>>,
    pub(super) dead: BTreeSet<MemberId>,
    /// Records of these find no room in the journal; all else does.
    never_lands: BTreeSet<MemberId>,
    /// What is sent behind all else, while that gets nowhere.
    held: Option<Vec<Message>>,
    /// Messages to them take so long, in microseconds.
    pub(super) delays: BTreeMap<MemberId, u64>,
    later: Vec<(Tick, MemberId, Event)>,
    /// Who was told, by rule.
    pub(super) edges: Vec<(&'static str, String)>,
    pub(super) shipments: Vec<(MemberId, Seq)>,
    pub(super) answers: BTreeMap<u64, Result<Answer, Refusal>>,
    /// What devices were told, in that order.
    pub(super) completed: Vec<(MemberId, RequestId, Outcome)>,
    commands: u64,
}

impl Cluster {
    /// Members m0, m1, … in sites of their own, of these kinds.
    pub(super) fn of(kinds: &[MemberKind], rule: DataRule) -> Cluster {
        let sites: Vec<String> = (0..kinds.len()).map(|i| format!("s{i}")).collect();
        Cluster::in_sites(kinds, &sites, rule)
    }

    pub(super) fn in_sites(kinds: &[MemberKind], sites: &[String], rule: DataRule) -> Cluster {
        Cluster::of_class(Durability::Write, kinds, sites, rule)
    }

    pub(super) fn of_class(durability: Durability, kinds: &[MemberKind], sites: &[String], rule: DataRule) -> Cluster {
        let member = |(i, kind): (usize, &MemberKind)| Member {
            id: MemberId(i as u16),
            site: sites[i].clone(),
            node: "n".to_string(),
            kind: *kind,
        };
        let members: Vec<Member> = kinds.iter().enumerate().map(member).collect();
        let incarnation = |m: &Member| Incarnation(u128::from(m.id.0) + 1);
        let voters = members.iter().filter(|m| !matches!(m.kind, MemberKind::Observer | MemberKind::Diskless));
        let votes = voters.map(|m| Vote { member: m.id, incarnation: incarnation(m), votes: 1 }).collect();
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
                durability,
                lease_us: LEASE_US,
                on_quorum_loss: OnQuorumLoss::Freeze,
                policy: "majority".to_string(),
                rule,
                labels: Default::default(),
                mode: Mode::Sync,
                fallback_after_us: None,
                promote_observer_after_us: None,
            },
            current: Terms { votes, sync: sync.collect(), rule, primary_site: "s0".to_string() },
            members,
            earlier: Vec::new(),
            attached: None,
            stand_ins: Vec::new(),
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
            never_lands: BTreeSet::new(),
            held: None,
            delays: BTreeMap::new(),
            later: Vec::new(),
            edges: Vec::new(),
            shipments: Vec::new(),
            answers: BTreeMap::new(),
            completed: Vec::new(),
            commands: 0,
        }
    }

    pub(super) fn feed(&mut self, id: MemberId, event: Event) {
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
                let records = ops.iter().any(|op| matches!(op, JournalOp::Record(_)));
                if records && self.never_lands.contains(&id) {
                    return None;
                }
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
            Effect::CatchUp(message) if self.held.is_some() => {
                self.held.as_mut().expect("just seen").push(message);
                None
            }
            Effect::Edge { rule, text } => {
                self.edges.push((rule, text));
                None
            }
            Effect::Ship { to, base, .. } => {
                self.shipments.push((to, base));
                None
            }
            Effect::Send(message) if self.delays.contains_key(&message.to) => {
                self.later.push((self.now.plus(self.delays[&message.to]), message.to, Event::Message(message)));
                None
            }
            Effect::Send(message) | Effect::CatchUp(message) => Some((message.to, Event::Message(message))),
            Effect::Apply { upto } => Some((id, Event::Applied { seq: upto })),
            Effect::ReadLog { to, from, max_bytes } => {
                let mut bytes = 0;
                let fits = |r: &&Record| {
                    bytes += r.encoded_len();
                    r.seq == from || bytes <= max_bytes
                };
                let floor = log.keys().next().copied().unwrap_or(Seq(1));
                let reaches = from >= floor;
                let records = log.range(from..).map(|(_, r)| r).filter(|_| reaches).take_while(fits).cloned().collect();
                Some((id, Event::LogRead { to, from, floor, records }))
            }
            Effect::Answer { id: command, result } => {
                self.answers.insert(command.0, result);
                None
            }
            Effect::Complete { id: request, outcome } => {
                self.completed.push((id, request, outcome));
                None
            }
            _ => None,
        }
    }

    pub(super) fn pass(&mut self, us: u64) {
        let until = self.now.plus(us);
        while self.now < until {
            self.now = self.now.plus(10_000);
            let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, ..)| *at <= self.now);
            self.later = later;
            for (_, id, event) in due {
                self.feed(id, event);
            }
            let ids: Vec<MemberId> = self.volumes.keys().copied().collect();
            for id in ids {
                if self.volumes[&id].wakeup(self.now).is_some_and(|at| at <= self.now) {
                    self.feed(id, Event::Timer);
                }
            }
        }
    }

    /// Its answer, once there is one.
    pub(super) fn command(&mut self, id: MemberId, command: Command) -> Result<Answer, Refusal> {
        let number = self.ask(id, command);
        for _ in 0..100 {
            if let Some(answer) = self.answers.remove(&number) {
                return answer;
            }
            self.pass(100_000);
        }
        panic!("command {number} was not answered");
    }

    pub(super) fn ask(&mut self, id: MemberId, command: Command) -> u64 {
        self.commands += 1;
        let number = self.commands;
        self.feed(id, Event::Command { id: CommandId(number), command });
        number
    }

    pub(super) fn promote(&mut self, id: MemberId) {
        let writer = u128::from(self.commands) + 100;
        let command = Command::Promote { writer, why: Promotion::Takeover };
        self.command(id, command).expect("it is promoted");
    }

    /// It restarts with an empty store and its log up to `end`, and has forgotten what is acked.
    fn comes_back_forgetful(&mut self, id: MemberId, end: Seq) {
        let replica = self.volumes[&id].replica();
        let last = LogBase { seq: end, hash: replica.tail().hash_at(end).expect("it knows its records") };
        let durable = Durable { acked: Seq::ZERO, base: LogBase::default(), ..replica.d.clone() };
        let mut history = replica.history().clone();
        history.truncate(end);
        let recovered =
            Recovered { durable, last, epochs: history.0, floor: Seq(1), lost_upto: None, applied: Seq::ZERO };
        self.logs.entry(id).or_default().split_off(&end.next());
        self.volumes.insert(id, Volume::recover(VOLUME, recovered, self.now, &mut Effects::new()));
    }

    pub(super) fn terms(&self, id: MemberId) -> &Terms {
        &self.volumes[&id].primary().expect("it holds the epoch").config().current
    }
}

pub(super) const DATA: MemberKind = MemberKind::Data;
pub(super) const TWO_SITES: DataRule = DataRule { w: 2, min_remote: 1, local: false };
pub(super) const ALONE: DataRule = DataRule { w: 1, min_remote: 0, local: false };

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

/// A joiner that lacks much is fed behind everything else, and is not waited for before it lacks little: a few large
/// records are much.
#[test]
fn a_joiner_that_lacks_much_is_fed_last_and_stays_outside() {
    let (first, second, third) = (MemberId(0), MemberId(1), MemberId(2));
    let mut cluster = Cluster::of(&[DATA, DATA, DATA], TWO_SITES);
    cluster.promote(first);
    cluster.command(first, Command::Attach { writer: 7, session: SessionId(7) }).expect("it is attached");
    cluster.dead.insert(third);
    let reduce = Change::Reduce { without: vec![third], rule: TWO_SITES };
    cluster.command(first, Command::Change(reduce)).expect("the one that is gone is left out");
    let pieces = (2 * GROW_LAG_BYTES_MAX) >> 19;
    for id in 0..pieces {
        let io = Io::Write { offset: 0, data: vec![1; 1 << 19].into(), fua: false };
        cluster.feed(first, Event::Io(Request { id: RequestId(id), io, origin: Origin::default() }));
    }
    assert!(pieces < GROW_LAG_RECORDS_MAX);
    cluster.held = Some(Vec::new());
    cluster.dead.clear();
    cluster.pass(2 * LEASE_US);
    assert_eq!(cluster.terms(first).sync.len(), 2, "it lacks too much");
    let held = cluster.held.take().expect("they were kept");
    let bytes = |m: &Message| match &m.body {
        Body::Append { records, .. } => records.iter().map(Record::encoded_len).sum(),
        _ => 0,
    };
    let under_way: usize = held.iter().filter(|m| m.to == third).map(bytes).sum();
    assert!(under_way > 0 && under_way <= CATCH_UP_INFLIGHT_BYTES_MAX && held.iter().all(|m| m.to != second));
    held.into_iter().for_each(|message| cluster.feed(message.to, Event::Message(message)));
    cluster.pass(2 * LEASE_US);
    assert_eq!(cluster.terms(first).sync.len(), 3, "it lacks nothing any more");
}

/// Nothing that a member says makes the holder count what is not there, or end.
#[test]
fn a_member_that_lies_is_not_believed() {
    let rule = DataRule { w: 2, min_remote: 1, local: false };
    let mut cluster = Cluster::of(&[DATA, DATA, DATA], rule);
    let (holder, liar, honest) = (MemberId(0), MemberId(1), MemberId(2));
    cluster.promote(holder);
    cluster.pass(LEASE_US);
    cluster.command(holder, Command::Attach { writer: 77, session: SessionId(1) }).expect("it is attached");
    cluster.pass(LEASE_US);
    let primary = |cluster: &Cluster| cluster.volumes[&holder].primary().map(|p| (p.epoch, p.acked));
    let (epoch, acked) = primary(&cluster).expect("it holds the epoch");
    cluster.dead.extend([liar, honest]);
    let lineage = cluster.volumes[&holder].replica().d.lineage;
    let incarnation = Incarnation(2);
    let record = cluster.logs[&holder][&acked].clone();
    let most = Seq(u64::MAX);
    let ack =
        |appended, durable| Body::Ack { epoch, incarnation, appended, durable, applied: most, echo: Tick(u64::MAX) };
    let beyond = Record { seq: most, offset: u64::MAX, length: u64::MAX, ..record.clone() };
    let other = Record { prev_hash: RecordHash(99), seq: acked.next(), ..record };
    let lies = [
        ack(most, most),
        ack(acked.next(), acked.next()),
        ack(acked, most),
        Body::ElectOk { epoch, incarnation, durable: most, applied: most },
        Body::ElectOk { epoch, incarnation, durable: acked.next(), applied: acked },
        Body::Append {
            epoch,
            acked: most,
            end: most,
            sent: Tick(u64::MAX),
            records: vec![beyond.clone(), other.clone()],
        },
        Body::Fetched { epoch, from: most, floor: most, records: vec![beyond.clone()] },
        Body::Elect { epoch, history: History(vec![(epoch, most)]), end: most },
        Body::NeedElect { epoch },
        Body::Release { epoch: Epoch { n: u64::MAX, writer: u128::MAX } },
        Body::Fetch { epoch, from: most, max_bytes: u32::MAX },
    ];
    for body in lies {
        // Two of them, so that they are a quorum of liars.
        for from in [liar, honest] {
            let mut body = body.clone();
            if let Body::Ack { incarnation, .. } | Body::ElectOk { incarnation, .. } = &mut body {
                *incarnation = Incarnation(u128::from(from.0) + 1);
            }
            cluster.feed(holder, Event::Message(Message { volume: VOLUME, lineage, from, to: holder, body }));
            cluster.pass(50_000);
            let (_, now) = primary(&cluster).expect("it still holds the epoch");
            assert_eq!(now, acked, "nothing more is acknowledged");
        }
    }
    // What they claimed to have does not count for what comes later either.
    let io = Io::Write { offset: 0, data: vec![1; 4096].into(), fua: false };
    cluster.feed(holder, Event::Io(Request { id: RequestId(1), io, origin: Origin::default() }));
    let end = cluster.volumes[&holder].replica().end();
    let (_, now) = primary(&cluster).expect("it still holds the epoch");
    assert!(end > acked && now == acked, "{end} is acknowledged by lies alone");
    // A follower hears the same from one who claims to hold the epoch.
    cluster.dead.remove(&honest);
    for records in [vec![beyond], vec![other]] {
        let body = Body::Append { epoch, acked: most, end: most, sent: Tick(u64::MAX), records };
        let end = cluster.volumes[&honest].replica().end();
        cluster.feed(honest, Event::Message(Message { volume: VOLUME, lineage, from: holder, to: honest, body }));
        assert_eq!(cluster.volumes[&honest].replica().end(), end, "what does not follow the log is not taken");
    }
    // The highest epoch there can be ends every other; that is a loss of service, not of data, and no panic.
    let promised = Epoch { n: u64::MAX, writer: u128::MAX };
    let body = Body::Reject { asked: epoch, promised };
    cluster.feed(holder, Event::Message(Message { volume: VOLUME, lineage, from: liar, to: holder, body }));
    assert!(primary(&cluster).is_none());
    cluster.dead.clear();
    let body = Body::Prepare { epoch: promised };
    for to in [holder, honest] {
        cluster.feed(to, Event::Message(Message { volume: VOLUME, lineage, from: liar, to, body: body.clone() }));
    }
    let command = Command::Promote { writer: 7, why: Promotion::Takeover };
    assert!(cluster.command(holder, command).is_err());
}

/// An attach waits for its session to be in the register. When that write is withdrawn, so is the attach; else the node
/// would pass for attached for ever, and nothing could be attached there.
#[test]
fn a_withdrawn_attach_is_over() {
    let (first, others) = (MemberId(0), [MemberId(1), MemberId(2)]);
    let mut cluster = Cluster::of(&[DATA, DATA, DATA], TWO_SITES);
    cluster.promote(first);
    cluster.dead.extend(others);
    let attach = |session| Command::Attach { writer: session, session: SessionId(session) };
    let waiting = cluster.ask(first, attach(7));
    let withdraw = cluster.ask(first, Command::Change(Change::Withdraw));
    let answer = cluster.answers.remove(&waiting).expect("the attach is answered");
    assert_eq!(answer.expect_err("it is refused").rule, "change-withdrawn");
    cluster.dead.clear();
    cluster.pass(2 * LEASE_US);
    assert_eq!(cluster.answers.remove(&withdraw), Some(Ok(Answer::Done)));
    cluster.command(first, attach(8)).expect("another may attach");
    assert!(cluster.volumes[&first].primary().is_some_and(|p| p.device_open()));
}

/// What is known to be acked may be applied before the new epoch's first record is acked: it makes room for that.
#[test]
fn a_new_holder_says_what_was_acked_before() {
    let (first, second, third) = (MemberId(0), MemberId(1), MemberId(2));
    let mut cluster = Cluster::of(&[DATA, DATA, DATA], TWO_SITES);
    cluster.promote(first);
    cluster.pass(LEASE_US);
    let acked = cluster.volumes[&first].replica().acked;
    assert!(acked > Seq::ZERO);
    cluster.comes_back_forgetful(third, acked);
    cluster.never_lands.insert(second);
    cluster.never_lands.insert(third);
    let writer = 77;
    cluster.ask(second, Command::Promote { writer, why: Promotion::Takeover });
    cluster.pass(2 * LEASE_US);
    assert!(cluster.volumes[&second].primary().is_some_and(|p| p.acked == Seq::ZERO), "its first record is not acked");
    assert_eq!(cluster.volumes[&third].replica().applied, acked);
}

/// A candidate whose journal is full of what it does not know to be acked learns it from those who promise: else it could
/// not take what it lacks, nor the first record of its epoch.
#[test]
fn a_candidate_applies_what_its_promises_know_to_be_acked() {
    let (first, second, third) = (MemberId(0), MemberId(1), MemberId(2));
    let mut cluster = Cluster::of(&[DATA, DATA, DATA], TWO_SITES);
    cluster.promote(first);
    cluster.promote(second);
    cluster.pass(LEASE_US);
    let acked = cluster.volumes[&second].replica().acked;
    assert!(acked > Seq(1));
    cluster.comes_back_forgetful(third, Seq(1));
    cluster.never_lands.insert(third);
    cluster.ask(third, Command::Promote { writer: 77, why: Promotion::Takeover });
    cluster.pass(2 * LEASE_US);
    let replica = cluster.volumes[&third].replica();
    assert_eq!((replica.durable, replica.applied), (Seq(1), Seq(1)));
}

/// A follower does not know how far back its journal still reaches. A candidate that is too far behind for it says so as
/// soon as it is told, and not that time was over.
#[test]
fn a_candidate_below_its_donors_journal_says_which_site_to_promote() {
    let (first, second, third) = (MemberId(0), MemberId(1), MemberId(2));
    let mut cluster = Cluster::of(&[DATA, DATA, DATA], TWO_SITES);
    cluster.promote(first);
    cluster.promote(second);
    cluster.promote(first);
    cluster.pass(LEASE_US);
    let acked = cluster.volumes[&first].replica().acked;
    assert!(acked > Seq(2));
    cluster.comes_back_forgetful(third, Seq(1));
    cluster.dead.insert(first);
    cluster.logs.get_mut(&second).expect("it has one").retain(|seq, _| *seq > Seq(2));
    assert_eq!(cluster.volumes[&second].replica().floor, Seq(1), "what its report says");
    let began = cluster.now;
    let refusal = cluster.command(third, Command::Promote { writer: 77, why: Promotion::Takeover }).unwrap_err();
    assert_eq!((refusal.rule, refusal.remedy.as_str()), ("promote-donor-floor", "promote s1 instead"));
    assert!(cluster.now.0 - began.0 < crate::limits::PROMOTE_TIMEOUT_US / 2);
}

/// A member that is being removed when the primary dies may be the only one that has everything: it may take over, and
/// stays.
#[test]
fn a_member_that_is_being_removed_may_take_over() {
    let [first, leaving, third, fourth] = [0, 1, 2, 3].map(MemberId);
    let mut cluster = Cluster::of(&[DATA, DATA, DATA, DATA], TWO_SITES);
    cluster.promote(first);
    cluster.pass(LEASE_US);
    cluster.dead.extend([third, fourth]);
    cluster.ask(first, Command::Change(Change::Remove { member: leaving }));
    cluster.pass(2 * LEASE_US);
    let found = cluster.volumes[&leaving].replica().d.config.clone();
    assert!(found.member(leaving).is_some_and(|m| m.kind == MemberKind::Leaving) && !found.earlier.is_empty());
    cluster.dead = BTreeSet::from([first]);
    cluster.promote(leaving);
    cluster.pass(LEASE_US);
    let config = cluster.volumes[&leaving].primary().expect("it holds the epoch").config();
    assert!(config.member(leaving).is_some_and(|m| m.kind == DATA) && config.earlier.is_empty(), "{config:?}");
    assert_eq!(config.current.votes.len(), 4);
}

/// A device that was handed over to another node of the site is not taken back by a restarted daemon, whatever the other
/// node has written since; one that was attached anew is.
#[test]
fn a_released_session_stays_released() {
    let (first, second) = (MemberId(0), MemberId(1));
    let sites = ["s0", "s0", "s1"].map(String::from);
    let mut cluster = Cluster::in_sites(&[DATA, DATA, DATA], &sites, TWO_SITES);
    let attach = |session| Command::Attach { writer: session + 900, session: SessionId(session) };
    let take_back = |session| {
        let why = Promotion::Restart { session: SessionId(session) };
        Command::Promote { writer: session + 950, why }
    };
    cluster.command(first, attach(7)).expect("the device opens");
    cluster.command(first, Command::Handover { to: second }).expect("it is handed over");
    cluster.promote(second);
    let refusal = cluster.command(first, take_back(7)).expect_err("that session is over");
    assert_eq!(refusal.rule, "restart-not-named");
    cluster.command(first, attach(8)).expect("another session may come");
    cluster.promote(second);
    cluster.command(first, take_back(8)).expect("nobody released this one");
}

/// Who was told to open a published session, and was stopped meanwhile, opens it no more once the session is over.
#[test]
fn a_published_session_is_attached_only_while_the_register_names_it() {
    let (first, second) = (MemberId(0), MemberId(1));
    let sites = ["s0", "s0", "s1"].map(String::from);
    let mut cluster = Cluster::in_sites(&[DATA, DATA, DATA], &sites, TWO_SITES);
    let mut writer = 900;
    let mut stage = |cluster: &mut Cluster, node, session| {
        writer += 1;
        let why = Promotion::Published { session: SessionId(session) };
        cluster.command(node, Command::Promote { writer, why }).map_err(|refusal| refusal.rule)
    };
    assert_eq!(stage(&mut cluster, first, 7), Err("attach-not-published"), "nobody is named yet");
    cluster.command(first, Command::Attach { writer: 800, session: SessionId(7) }).expect("it is published");
    assert_eq!(stage(&mut cluster, first, 7), Ok(Answer::Done));
    assert_eq!(stage(&mut cluster, first, 8), Err("attach-not-published"));
    cluster.command(first, Command::Detach { session: SessionId(7) }).expect("it is over");
    assert_eq!(stage(&mut cluster, first, 7), Err("attach-not-published"), "its holder knows");
    // Fenced by its neighbour: this node's own register still names it.
    cluster.command(first, Command::Attach { writer: 801, session: SessionId(9) }).expect("it is published");
    cluster.dead.insert(first);
    cluster.promote(second);
    let nobody = Change::Attached { attached: None };
    cluster.command(second, Command::Change(nobody)).expect("it is fenced");
    cluster.dead.clear();
    cluster.pass(LEASE_US);
    assert_eq!(stage(&mut cluster, first, 9), Err("attach-not-published"), "the quorum knows");
    cluster.command(second, Command::Attach { writer: 802, session: SessionId(10) }).expect("the next one");
    assert_eq!(stage(&mut cluster, second, 10), Ok(Answer::Done));
}

/// Class `flush`: what a device completed may be on its own site's disks alone. An epoch that was won without their word
/// frees the session, since it may cut there what tells of the loss.
#[test]
fn a_session_does_not_outlive_an_epoch_that_may_lack_its_writes() {
    let (first, second) = (MemberId(0), MemberId(1));
    let sites = ["s0", "s0", "s1"].map(String::from);
    for class in [Durability::Flush, Durability::Write] {
        let mut cluster = Cluster::of_class(class, &[DATA, DATA, DATA], &sites, TWO_SITES);
        cluster.command(first, Command::Attach { writer: 900, session: SessionId(7) }).expect("the device opens");
        cluster.dead.insert(first);
        cluster.promote(second);
        cluster.dead.clear();
        cluster.pass(LEASE_US);
        let why = Promotion::Restart { session: SessionId(7) };
        let taken_back = cluster.command(first, Command::Promote { writer: 901, why });
        assert_eq!(taken_back.is_ok(), class == Durability::Write, "{class:?}: {taken_back:?}");
    }
}

/// That a session was released is forgotten when another is open, not when one is asked for: the register names the old one
/// until then.
#[test]
fn a_released_session_is_remembered_until_another_is_open() {
    let (first, second) = (MemberId(0), MemberId(1));
    let sites = ["s0", "s0", "s1"].map(String::from);
    let mut cluster = Cluster::in_sites(&[DATA, DATA, DATA], &sites, TWO_SITES);
    let attach = |session| Command::Attach { writer: session + 900, session: SessionId(session) };
    cluster.command(first, attach(7)).expect("the device opens");
    cluster.command(first, Command::Handover { to: second }).expect("it is handed over");
    assert!(cluster.volumes[&first].replica().d.ended > Epoch::ZERO);
    cluster.never_lands = BTreeSet::from([0, 1, 2].map(MemberId));
    cluster.ask(first, attach(9));
    cluster.pass(LEASE_US);
    let volume = &cluster.volumes[&first];
    assert!(volume.primary().is_some_and(|p| !p.device_open()), "it has won, and its first record is nowhere");
    assert!(volume.replica().d.ended > Epoch::ZERO);
}
