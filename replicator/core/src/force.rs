//! Forcing a new lineage where no control quorum can be had.
//!
//! ```text
//!  Asking ──all named answered, ours is the best log──► Forking ──all named have persisted it──► candidate
//! ```
//! It runs on the donor: the node whose log is the best among the members named. What only others hold is given up;
//! their replicas keep it, fenced by the higher generation, until an operator discards it.
//!
//! The new lineage opens only once *all* named are in it, whoever promotes there and whatever crashed meanwhile: its first
//! configuration wants an answer from each (`each_of`). A quorum of them would not do. Somebody named who is still in the
//! old lineage may complete a quorum there, and may hold acknowledged records that came after it was asked for its log.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{CommandId, Effect, Effects, Refusal};
use crate::ids::{Epoch, LineageId, MemberId, Tick};
use crate::limits::{PROMOTE_TIMEOUT_US, RETRY_US};
use crate::message::{Body, Message, Report};
use crate::register::{ConfigVersion, Configuration, DataRule, Member, MemberKind, SyncMember, Terms, Vote};
use crate::replica::Replica;
use crate::sabotage::{Sabotage, broken};

#[derive(Debug)]
enum Phase {
    Asking { answers: BTreeMap<MemberId, Report> },
    Forking { lineage: LineageId, epoch: Epoch, config: Box<Configuration>, stored: BTreeSet<MemberId> },
}

#[derive(Debug)]
pub struct Force {
    pub command: CommandId,
    pub writer: u128,
    uuid: u128,
    named: Vec<MemberId>,
    deadline: Tick,
    retry_at: Tick,
    phase: Phase,
}

#[derive(Debug)]
pub enum Step {
    Waiting,
    /// All named members are in the new lineage: an ordinary promotion follows.
    Forked,
    Failed(Refusal),
}

impl Force {
    pub fn start(
        command: CommandId,
        (writer, uuid): (u128, u128),
        named: Vec<MemberId>,
        replica: &Replica,
        now: Tick,
        fx: &mut Effects,
    ) -> Result<Force, Refusal> {
        let config = &replica.d.config;
        if let Some(stranger) = named.iter().find(|id| config.member(**id).is_none()) {
            return Err(unknown_member(*stranger));
        }
        if let Some(refusal) = refuse_diskless(config, &named) {
            return Err(refusal);
        }
        let holds = config.member(replica.me()).is_some_and(|m| kind_in_fork(config, m) == MemberKind::Data);
        if !named.contains(&replica.me()) || !holds {
            return Err(Refusal::new(
                "force-elsewhere",
                "a forced promotion runs on a node that holds a copy and is one of the members named",
                "run it there, or name this site's member too",
            ));
        }
        if replica.d.installing.is_some() {
            return Err(Refusal::new(
                "force-installing",
                "an image that was shipped here is about to be shown: the new lineage would begin below it",
                "try again in a moment",
            ));
        }
        let phase = half_done(&named, replica).unwrap_or(Phase::Asking { answers: BTreeMap::new() });
        let (deadline, retry_at) = (now.plus(PROMOTE_TIMEOUT_US), now.plus(RETRY_US));
        let force = Force { command, writer, uuid, named, deadline, retry_at, phase };
        force.ask(replica, fx);
        Ok(force)
    }

    pub fn wakeup(&self) -> Tick {
        self.retry_at
    }

    fn ask(&self, replica: &Replica, fx: &mut Effects) {
        for to in &self.named {
            if let Phase::Forking { stored, .. } = &self.phase
                && *to != replica.me()
                && !stored.contains(&replica.me())
            {
                // Were we to die now, the others would be in a lineage without its best log.
                continue;
            }
            let body = match &self.phase {
                Phase::Asking { answers } if !answers.contains_key(to) => Body::Probe { nonce: self.nonce() },
                Phase::Forking { lineage, epoch, config, stored } if !stored.contains(to) => {
                    let log = Some((replica.history().clone(), replica.end()));
                    Body::Fork { lineage: *lineage, epoch: *epoch, config: config.clone(), log }
                }
                _ => continue,
            };
            let lineage = match &self.phase {
                Phase::Forking { .. } => replica.d.parents.last().map_or(replica.d.lineage, |(l, _)| *l),
                Phase::Asking { .. } => replica.d.lineage,
            };
            let (volume, from) = (replica.volume, replica.me());
            fx.push(Effect::Send(Message { volume, lineage, from, to: *to, body }));
        }
    }

    fn nonce(&self) -> u64 {
        self.writer as u64
    }

    pub fn on_answer(
        &mut self,
        from: MemberId,
        nonce: u64,
        report: Report,
        replica: &mut Replica,
        now: Tick,
        fx: &mut Effects,
    ) -> Step {
        if nonce != self.nonce() || !self.named.contains(&from) {
            return Step::Waiting;
        }
        let Phase::Asking { answers } = &mut self.phase else { return Step::Waiting };
        answers.insert(from, report);
        if answers.len() < self.named.len() {
            return Step::Waiting;
        }
        match plan(answers, &self.named, replica) {
            Err(refusal) => Step::Failed(refusal),
            Ok((n, mut config)) => {
                let epoch = Epoch { n, writer: self.writer };
                config.version = ConfigVersion { epoch, k: 0 };
                let raised = u64::from(!broken(Sabotage::GenerationKept));
                let generation = newest_generation(replica).saturating_add(raised);
                let lineage = LineageId { generation, uuid: self.uuid };
                replica.on_fork(lineage, epoch, config.clone(), None, replica.me(), fx);
                let config = Box::new(config);
                self.phase = Phase::Forking { lineage, epoch, config, stored: BTreeSet::new() };
                // The others are asked once our own part is durable; we ourselves again only if that takes long.
                self.retry_at = now.plus(RETRY_US);
                Step::Waiting
            }
        }
    }

    pub fn on_fork_ok(&mut self, from: MemberId, replica: &Replica, fx: &mut Effects) -> Step {
        let Phase::Forking { stored, .. } = &mut self.phase else { return Step::Waiting };
        let news = stored.insert(from);
        if self.named.iter().all(|id| stored.contains(id)) {
            return Step::Forked;
        }
        if news && from == replica.me() {
            self.ask(replica, fx);
        }
        Step::Waiting
    }

    pub fn on_timer(&mut self, replica: &Replica, now: Tick, fx: &mut Effects) -> Step {
        if now >= self.deadline {
            let silent: Vec<&str> = self
                .named
                .iter()
                .filter(|id| match &self.phase {
                    Phase::Asking { answers } => !answers.contains_key(id),
                    Phase::Forking { stored, .. } => !stored.contains(id),
                })
                .map(|id| replica.d.config.site_of(*id))
                .collect();
            return Step::Failed(Refusal::new(
                "force-silent",
                format!("{} did not answer; every member named must take part", silent.join(", ")),
                "name only members that can be reached",
            ));
        }
        if now >= self.retry_at {
            self.retry_at = now.plus(RETRY_US);
            self.ask(replica, fx);
        }
        Step::Waiting
    }
}

/// The highest generation known here. A fenced copy is forced above the one that fenced it: two lineages of one
/// generation would refuse each other for ever.
fn newest_generation(replica: &Replica) -> u64 {
    let ours = replica.d.lineage.generation;
    let known = replica.d.superseded.map_or(0, |newer| newer.generation);
    if broken(Sabotage::FencedGenerationTaken) { ours } else { ours.max(known) }
}

/// Whoever is named counts from then on, and stays. What one that leaves was, only the terms that end with it tell.
fn kind_in_fork(config: &Configuration, member: &Member) -> MemberKind {
    match member.kind {
        MemberKind::Observer => MemberKind::Data,
        MemberKind::Leaving if config.all_terms().any(|t| t.sync.iter().any(|s| s.member == member.id)) => {
            MemberKind::Data
        }
        MemberKind::Leaving => MemberKind::Witness,
        kind => kind,
    }
}

fn unknown_member(stranger: MemberId) -> Refusal {
    let text = format!("{stranger} is no member of the volume");
    Refusal::new("force-unknown-member", text, "name members that `farshore volume show` lists")
}

/// What a node without a copy held was in its memory: there is nothing to go on from.
fn refuse_diskless(config: &Configuration, named: &[MemberId]) -> Option<Refusal> {
    let member = named.iter().find_map(|id| config.member(*id).filter(|m| m.kind == MemberKind::Diskless))?;
    let text = format!("{}/{} has no copy: nothing of the volume is there to be kept", member.site, member.node);
    Some(Refusal::new("force-no-copy", text, "name members that hold a copy, and witnesses"))
}

/// The epoch's number and the configuration of the new lineage, or why it can't be.
fn plan(
    answers: &BTreeMap<MemberId, Report>,
    named: &[MemberId],
    replica: &Replica,
) -> Result<(u64, Configuration), Refusal> {
    let me = replica.me();
    let newest = answers.values().map(|r| &r.config).max_by_key(|c| c.version).unwrap_or(&replica.d.config);
    if let Some(stranger) = named.iter().find(|id| newest.member(**id).is_none()) {
        return Err(unknown_member(*stranger));
    }
    if let Some(refusal) = refuse_diskless(newest, named) {
        return Err(refusal);
    }
    let mut config = newest.clone();
    for member in config.members.iter_mut().filter(|m| named.contains(&m.id)) {
        member.kind = kind_in_fork(newest, member);
    }
    let members = config.members.clone();
    let data = |id: &MemberId| members.iter().any(|m| m.id == *id && m.kind == MemberKind::Data);
    let ours = replica.report(Tick(0));
    let standing = |r: &Report| (r.history.last_epoch(), r.durable);
    for (id, report) in answers.iter().filter(|(id, _)| data(id)) {
        let site = newest.site_of(*id);
        if standing(report) > standing(&ours) && !broken(Sabotage::ForkFromAnyLog) {
            return Err(Refusal::new(
                "force-donor",
                format!("{site} holds a longer log ({}, ours {})", report.durable, ours.durable),
                format!("run the forced promotion in {site}"),
            ));
        }
        let common = ours.history.common_point(ours.durable, &report.history, report.durable);
        if common < report.applied || (*id != me && !report.whole) {
            return Err(Refusal::new(
                "force-diverged",
                format!(
                    "the copy in {site} does not continue ours: it applied up to {}, we agree up to {common}",
                    report.applied
                ),
                format!("leave {site} out, and resync it afterwards"),
            ));
        }
    }
    let site = newest.site_of(me).to_string();
    let votes = named.iter().filter_map(|id| {
        Some(Vote {
            member: *id,
            incarnation: answers.get(id)?.incarnation,
            votes: newest.vote_of(*id).map_or(1, |v| v.votes),
        })
    });
    let sync = named.iter().filter(|id| data(id)).filter_map(|id| {
        let site = newest.site_of(*id).to_string();
        Some(SyncMember { member: *id, incarnation: answers.get(id)?.incarnation, site })
    });
    let (votes, sync): (Vec<Vote>, Vec<SyncMember>) = (votes.collect(), sync.collect());
    let mut remotes: Vec<&str> = sync.iter().map(|s| s.site.as_str()).filter(|s| *s != site).collect();
    remotes.sort_unstable();
    remotes.dedup();
    let asked = newest.volume.rule;
    let rule = DataRule {
        w: asked.w.min(sync.len() as u8),
        min_remote: asked.min_remote.min(remotes.len() as u8),
        local: asked.local,
    };
    config.current = Terms { votes, sync, rule, primary_site: site };
    config.earlier = each_of(&config.current);
    config.attached = None;
    config.stand_ins.clear();
    let n = answers.values().map(|r| r.promised.n.max(r.config.version.epoch.n)).max().unwrap_or(0).saturating_add(1);
    Ok((n, config))
}

/// Terms that want the answer of every voter of `terms`, and under which nothing is acknowledged: there is one for each,
/// with no sync set. As earlier terms of a value they hold until the first epoch's configuration is stored by all of them
/// and what it adopted is on its data quorum.
fn each_of(terms: &Terms) -> Vec<Terms> {
    if broken(Sabotage::ForkByQuorum) {
        return Vec::new();
    }
    let only =
        |vote: &Vote| Terms { votes: vec![Vote { votes: 1, ..vote.clone() }], sync: Vec::new(), ..terms.clone() };
    terms.votes.iter().map(only).collect()
}

/// A fork to these members that a crash cut short: it goes on where it was. Those not yet asked to enter are in the old
/// lineage and answer to nothing else.
fn half_done(named: &[MemberId], replica: &Replica) -> Option<Phase> {
    let config = &replica.d.config;
    let epoch = config.version.epoch;
    let voters: BTreeSet<MemberId> = config.current.votes.iter().map(|v| v.member).collect();
    let untouched = config.earlier == each_of(&config.current) && replica.history().last_epoch() < epoch;
    let ours = untouched && !replica.d.parents.is_empty() && named.iter().copied().collect::<BTreeSet<_>>() == voters;
    ours.then(|| {
        let (lineage, config) = (replica.d.lineage, Box::new(config.clone()));
        Phase::Forking { lineage, epoch, config, stored: BTreeSet::new() }
    })
}
