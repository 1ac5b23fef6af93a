//! Winning an epoch: probe, promise, choose the donor, adopt its log.
//!
//! ```text
//!  Probing ──enough answers──► Preparing ──control quorum + recovery rule──► Fetching ──own log = donor's──► primary
//!     └── refused by a rule, rejected, or out of time ──► follower, with the reason
//! ```
//! The candidate's own replica is asked like every other, by a message to itself.

use std::collections::BTreeMap;

use crate::api::{CommandId, Effect, Effects, Promotion, Refusal};
use crate::history::History;
use crate::ids::{Epoch, MemberId, Seq, SessionId, Tick};
use crate::limits::{APPEND_BYTES_MAX, LINGER_US, MEMORY_BYTES_MAX, PROMOTE_TIMEOUT_US, RETRY_US};
use crate::message::{Body, Message, Report};
use crate::record::Record;
use crate::register::{Attachment, Configuration, Durability, MemberKind, SyncMember};
use crate::replica::Replica;
use crate::sabotage::{Sabotage, broken};

type Answers = BTreeMap<MemberId, (Report, Tick)>;

#[derive(Debug)]
enum Phase {
    Probing { nonce: u64, answers: Answers },
    Preparing { epoch: Epoch, promises: Answers, enough_at: Option<Tick> },
    Fetching { epoch: Epoch, promises: Answers, donor: MemberId, goal: Seq },
}

#[derive(Debug)]
pub struct Candidate {
    pub command: Option<CommandId>,
    pub why: Promotion,
    pub attach: Option<SessionId>,
    writer: u128,
    deadline: Tick,
    retry_at: Tick,
    phase: Phase,
}

/// What a candidate won: everything its first acts as primary need.
#[derive(Debug)]
pub struct Won {
    pub epoch: Epoch,
    /// The newest configuration found; it counts as pending until it is written anew.
    pub found: Configuration,
    /// Until then the holder of the last epoch may serve reads.
    pub old_lease_until: Tick,
    /// The highest acked seq that any promise knows of.
    pub acked: Seq,
    /// The log holds every write that the session named in the register may have completed.
    pub session_is_whole: bool,
}

/// By this the best log is known: the epoch of its last durable record, then its length.
fn standing(report: &Report) -> (Epoch, Seq) {
    let epoch = if broken(Sabotage::DonorByLength) {
        Epoch::ZERO
    } else if broken(Sabotage::DonorByHeardEpoch) {
        report.config.version.epoch
    } else {
        report.history.last_epoch()
    };
    (epoch, report.durable)
}

/// The highest seq that any of them knows to be acked, of a log that ends at `goal`.
fn acked_by(promises: &Answers, goal: Seq) -> Seq {
    promises.values().map(|(report, _)| report.acked.min(goal)).max().unwrap_or_default()
}

/// Class `flush`: what the device completed are the records that any replica of its site has. One whose records the
/// donor's log does not hold, or which did not say what it has.
fn lost_completions(config: &Configuration, promises: &Answers, donor: MemberId) -> Option<MemberId> {
    if config.volume.durability == Durability::Write {
        return None;
    }
    let kept = &promises.get(&donor)?.0;
    let mut local = config.all_terms().flat_map(|t| t.sync.iter().filter(|m| m.site == t.primary_site));
    let lost = local.find(|m| {
        let report = promises.get(&m.member).map(|(r, _)| r).filter(|r| r.incarnation == m.incarnation && r.whole);
        report.is_none_or(|r| r.history.common_point(r.durable, &kept.history, kept.durable) < r.durable)
    })?;
    Some(lost.member)
}

/// The register names this session of ours.
pub fn is_published(config: &Configuration, me: MemberId, session: SessionId) -> bool {
    config.attached == Some(Attachment { member: me, session })
}

pub fn not_published(config: &Configuration, me: MemberId) -> Refusal {
    let named = match config.attached {
        None => "nobody".to_string(),
        Some(a) if a.member == me => "this node, for another session".to_string(),
        Some(a) => format!("node {}", config.member(a.member).map_or("?", |m| &m.node)),
    };
    Refusal::new(
        "attach-not-published",
        format!("the session was not published here, or is over: the newest configuration names {named}"),
        "publish the volume on this node anew",
    )
}

fn below_floor(config: &Configuration, donor: MemberId) -> Refusal {
    Refusal::new(
        "promote-donor-floor",
        format!("{} holds a longer log, but its journal begins above our end", config.site_of(donor)),
        format!("promote {} instead", config.site_of(donor)),
    )
}

/// A node without a copy goes on behind the donor's log. What is known to be acknowledged is with a data quorum, whoever of
/// it is needed; what may be with the donor alone is fetched, with the record that the first of ours must name.
fn begin_in_memory(replica: &mut Replica, donor: &Report, acked: Seq) {
    if broken(Sabotage::MemoryDonor) {
        return replica.begin_behind(Seq::ZERO, None, History::default());
    }
    let base = donor.base;
    let begin = if base.seq >= donor.durable { donor.durable } else { acked.max(base.seq).min(donor.durable.prev()) };
    let hash = (begin == base.seq).then_some(base.hash);
    replica.begin_behind(begin, hash, donor.history.clone());
}

/// Of what completes here nothing may depend on a copy here.
pub fn refuse_diskless(config: &Configuration, me: MemberId) -> Option<Refusal> {
    let site = config.site_of(me);
    if config.volume.durability == Durability::Flush {
        return Some(Refusal::new(
            "diskless-flush",
            format!("in class flush a write completes on a copy beside the device, and this node of {site} has none"),
            "attach or promote the volume on a node with a copy, or choose class write",
        ));
    }
    let terms = &config.current;
    let local = (config.volume.rule.local || terms.rule.local) && terms.sync.iter().all(|s| s.site != site);
    local.then(|| {
        Refusal::new(
            "diskless-local",
            format!("the policy wants a copy in the primary's site, and {site} has none in the sync set"),
            format!("attach or promote the volume on a node with a copy, or add one in {site}"),
        )
    })
}

/// What came of a step.
#[derive(Debug)]
pub enum Verdict {
    Waiting,
    Won(Box<Won>),
    Lost(Refusal),
}

impl Candidate {
    pub fn start(
        command: Option<CommandId>,
        why: Promotion,
        attach: Option<SessionId>,
        writer: u128,
        replica: &Replica,
        now: Tick,
        fx: &mut Effects,
    ) -> Candidate {
        let candidate = Candidate {
            command,
            why,
            attach,
            writer,
            deadline: now.plus(PROMOTE_TIMEOUT_US),
            retry_at: now.plus(RETRY_US),
            phase: Phase::Probing { nonce: writer as u64, answers: Answers::new() },
        };
        candidate.ask(&replica.d.config, replica, fx);
        candidate
    }

    pub fn epoch(&self) -> Epoch {
        match &self.phase {
            Phase::Probing { .. } => Epoch::ZERO,
            Phase::Preparing { epoch, .. } | Phase::Fetching { epoch, .. } => *epoch,
        }
    }

    pub fn wakeup(&self) -> Tick {
        match &self.phase {
            Phase::Preparing { enough_at: Some(at), .. } => at.plus(LINGER_US).min(self.retry_at),
            _ => self.retry_at,
        }
    }

    fn answers(&self) -> &Answers {
        match &self.phase {
            Phase::Probing { answers, .. } => answers,
            Phase::Preparing { promises, .. } | Phase::Fetching { promises, .. } => promises,
        }
    }

    /// Asks every member that has not answered yet.
    fn ask(&self, config: &Configuration, replica: &Replica, fx: &mut Effects) {
        let body = match &self.phase {
            Phase::Probing { nonce, .. } => Body::Probe { nonce: *nonce },
            Phase::Preparing { epoch, .. } => Body::Prepare { epoch: *epoch },
            Phase::Fetching { epoch, donor, .. } => {
                let body =
                    Body::Fetch { epoch: *epoch, from: replica.end().next(), max_bytes: APPEND_BYTES_MAX as u32 };
                self.send(replica, *donor, body, fx);
                return;
            }
        };
        for member in config.members.iter().filter(|m| !self.answers().contains_key(&m.id)) {
            self.send(replica, member.id, body.clone(), fx);
        }
    }

    fn send(&self, replica: &Replica, to: MemberId, body: Body, fx: &mut Effects) {
        let (volume, lineage, from) = (replica.volume, replica.d.lineage, replica.me());
        fx.push(Effect::Send(Message { volume, lineage, from, to, body }));
    }

    /// The newest configuration that any answer, or our own disk, knows.
    pub fn newest<'a>(&'a self, replica: &'a Replica) -> &'a Configuration {
        self.answers()
            .values()
            .map(|(report, _)| &report.config)
            .chain(std::iter::once(&replica.d.config))
            .max_by_key(|c| c.version)
            .expect("our own is among them")
    }

    pub fn on_answer(
        &mut self,
        from: MemberId,
        nonce: u64,
        report: Report,
        replica: &Replica,
        now: Tick,
        fx: &mut Effects,
    ) -> Verdict {
        match &mut self.phase {
            Phase::Probing { nonce: asked, answers } if *asked == nonce => {
                answers.insert(from, (report, now));
            }
            _ => return Verdict::Waiting,
        }
        if let Some(refusal) = self.refuse_by_rule(replica) {
            return Verdict::Lost(refusal);
        }
        if self.missing(replica).is_empty() {
            let highest = self.answers().values().map(|(r, _)| r.promised.n.max(r.config.version.epoch.n)).max();
            let n = highest.unwrap_or(0).max(replica.d.promised.n).saturating_add(1);
            let mut epoch = Epoch { n, writer: if broken(Sabotage::EpochByNumber) { 0 } else { self.writer } };
            if broken(Sabotage::MemoryResumed) && replica.is_diskless() && replica.d.promised > Epoch::ZERO {
                epoch = replica.d.promised;
            }
            let config = self.newest(replica).clone();
            self.phase = Phase::Preparing { epoch, promises: Answers::new(), enough_at: None };
            self.retry_at = now.plus(RETRY_US);
            self.ask(&config, replica, fx);
        } else {
            // A newer configuration may name members that were not asked yet.
            self.ask(&self.newest(replica).clone(), replica, fx);
        }
        Verdict::Waiting
    }

    pub fn on_promise(
        &mut self,
        from: MemberId,
        epoch: Epoch,
        report: Report,
        replica: &mut Replica,
        now: Tick,
        fx: &mut Effects,
    ) -> Verdict {
        match &mut self.phase {
            Phase::Preparing { epoch: asked, promises, .. } if *asked == epoch => {
                promises.entry(from).or_insert((report, now));
            }
            _ => return Verdict::Waiting,
        }
        if let Some(refusal) = self.refuse_by_rule(replica) {
            return Verdict::Lost(refusal);
        }
        self.settle(replica, now, fx)
    }

    pub fn on_reject(&mut self, promised: Epoch) -> Verdict {
        if promised <= self.epoch() || matches!(self.phase, Phase::Probing { .. }) {
            return Verdict::Waiting;
        }
        Verdict::Lost(Refusal::new(
            "promote-overtaken",
            format!("a member has promised epoch {promised}, above ours ({}): another site is promoting", self.epoch()),
            "look at `farshore status`, then try again if this site shall still be primary",
        ))
    }

    pub fn on_timer(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) -> Verdict {
        if now >= self.deadline {
            let missing = self.missing(replica);
            return Verdict::Lost(Refusal::new(
                "promote-no-quorum",
                if missing.is_empty() {
                    "the donor's log could not be fetched in time".to_string()
                } else {
                    format!("promotion lacks {}", missing.join("; "))
                },
                "restore contact with the members named, or `farshore promote --force` (which may lose what only they hold)",
            ));
        }
        if now >= self.retry_at {
            self.retry_at = now.plus(RETRY_US);
            let config = self.newest(replica).clone();
            self.ask(&config, replica, fx);
        }
        self.settle(replica, now, fx)
    }

    /// What the answers at hand still lack; empty when control quorum and recovery rule hold under all terms.
    fn missing(&self, replica: &Replica) -> Vec<String> {
        let config = self.newest(replica);
        let answers = self.answers();
        let silent = |voters: &mut dyn Iterator<Item = MemberId>| {
            let names: Vec<String> = voters
                .filter(|id| !answers.contains_key(id))
                .map(|id| config.member(id).map_or_else(|| id.to_string(), |m| format!("{}/{}", m.site, m.node)))
                .collect();
            names.join(", ")
        };
        let mut missing = Vec::new();
        let same = |found, named| found == named || broken(Sabotage::AmnesiacCounts);
        for terms in config.all_terms().take(if broken(Sabotage::PendingIgnored) { 1 } else { usize::MAX }) {
            let voted = |id, inc| answers.get(&id).is_some_and(|(r, _)| same(r.incarnation, inc));
            let enough = terms.control_quorum(voted);
            if !enough && !config.quorum_with_observers(terms, |id| answers.contains_key(&id)) {
                let names = silent(&mut terms.votes.iter().map(|v| v.member));
                missing.push(format!("a majority of votes (no answer from {names})"));
            }
            let whole = |m: &SyncMember| {
                answers.get(&m.member).is_some_and(|(r, _)| same(r.incarnation, m.incarnation) && r.whole)
            };
            if !terms.recovery(whole) && !broken(Sabotage::RecoverySkipped) {
                let names = silent(&mut terms.sync.iter().map(|s| s.member));
                missing.push(format!("replicas that may hold acknowledged writes (no whole answer from {names})"));
            }
        }
        missing.dedup();
        missing
    }

    /// The volume goes on without this copy.
    pub fn refuse_superseded(&self, replica: &Replica) -> Option<Refusal> {
        let lineage = replica.d.superseded?;
        let config = self.newest(replica);
        let site = config.site_of(replica.me());
        Some(Refusal::new(
            "promote-superseded",
            format!("the volume goes on as lineage {lineage}, by force; this copy is of {}", replica.d.lineage),
            format!("at its primary: `farshore resync {} --member {site} --discard`", config.volume.name),
        ))
    }

    /// May this node promote at all, by what the newest register says?
    fn refuse_by_rule(&self, replica: &Replica) -> Option<Refusal> {
        let config = self.newest(replica);
        let me = replica.me();
        let site = config.site_of(me);
        let diskless = config.is_diskless(me);
        if diskless && let Some(refusal) = refuse_diskless(config, me) {
            return Some(refusal);
        }
        // One that is being taken out and is not out yet may be the only one that has everything.
        if !diskless
            && (config.member(me).is_none_or(|m| m.kind == MemberKind::Witness)
                || !config.all_terms().any(|t| t.in_sync(me, replica.d.incarnation))
                || !replica.whole())
        {
            return Some(Refusal::new(
                "promote-not-in-sync",
                format!("the replica in {site} is not in the sync set, so it may lack acknowledged writes"),
                match config.member(me).is_some_and(|m| config.follows_behind(m)) {
                    true => format!(
                        "if the primary's site is lost: `farshore promote {} --force --members {site}` says what that costs; if it is \
                         not: `farshore switchover {} --to {site} --wait`",
                        config.volume.name, config.volume.name
                    ),
                    false => "promote a site that `farshore status` lists in the sync set, or wait for the resync"
                        .to_string(),
                },
            ));
        }
        if let Some(refusal) = self.refuse_superseded(replica) {
            return Some(refusal);
        }
        let home = &config.current.primary_site;
        match (self.why, self.attach) {
            (Promotion::Restart { session }, _) => {
                let named = config.attached.is_some_and(|a| a.member == me && a.session == session);
                let ended = replica.d.ended > Epoch::ZERO;
                if (!named || home != site || ended) && !broken(Sabotage::RestartUnnamed) {
                    return Some(Refusal::new(
                        "restart-not-named",
                        "the newest configuration names another session, or none",
                        "attach the volume anew where it shall run",
                    ));
                }
            }
            // What was answered so far may be older than what names it.
            (Promotion::Published { session }, _)
                if self.missing(replica).is_empty() && !is_published(config, me, session) =>
            {
                return Some(not_published(config, me));
            }
            (_, Some(session)) => {
                if home != site && !broken(Sabotage::AttachAnywhere) {
                    return Some(Refusal::new(
                        "attach-other-site",
                        format!("the volume's primary site is {home}, this is {site}"),
                        format!("promote {site} first (`farshore promote`, `switchover` or `failover`)"),
                    ));
                }
                if let Some(a) = config.attached
                    && a.member != me
                    && a.session != session
                {
                    return Some(Refusal::new(
                        "attach-elsewhere",
                        format!("the volume is attached at node {}", config.member(a.member).map_or("?", |m| &m.node)),
                        "detach it there first",
                    ));
                }
            }
            (Promotion::Verb, None) => {
                let alive = self.answers().iter().find(|(id, (r, _))| {
                    **id != me
                        && r.lease_left_us > 0
                        && r.owed_to > replica.released
                        && r.config.attached.is_some()
                        && home != site
                });
                if let Some((id, (report, _))) = alive {
                    return Some(Refusal::new(
                        "promote-primary-alive",
                        format!(
                            "{} heard the primary in {home} less than {} ms ago",
                            config.site_of(*id),
                            config.volume.lease_us.saturating_sub(report.lease_left_us) / 1000
                        ),
                        format!("use `farshore switchover`, or `farshore failover --from {home}` to take over anyway"),
                    ));
                }
            }
            (Promotion::Fence { member }, _) => {
                let another = config.attached.is_some_and(|a| a.member != member);
                if (another || home != site) && !broken(Sabotage::FenceAnywhere) {
                    return Some(Refusal::new(
                        "fence-not-named",
                        "the newest configuration names another node, or the volume has left this site",
                        "look at `farshore volume show`: whoever was to be fenced has lost the volume already",
                    ));
                }
            }
            (Promotion::Takeover | Promotion::Published { .. }, None) => {}
        }
        None
    }

    /// Moves on once the promises suffice: choose the donor, fetch what we lack, win.
    fn settle(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) -> Verdict {
        if matches!(self.phase, Phase::Preparing { .. }) && self.missing(replica).is_empty() {
            let everyone = self.newest(replica).members.iter().all(|m| self.answers().contains_key(&m.id));
            if let Phase::Preparing { enough_at, .. } = &mut self.phase {
                let since = *enough_at.get_or_insert(now);
                if !everyone && now < since.plus(LINGER_US) {
                    return Verdict::Waiting;
                }
            }
            if let Err(refusal) = self.choose_donor(replica, fx) {
                return Verdict::Lost(refusal);
            }
            if matches!(&self.phase, Phase::Fetching { goal, .. } if replica.end() < *goal) {
                self.retry_at = now.plus(RETRY_US);
                self.ask(&replica.d.config.clone(), replica, fx);
            }
        }
        match &self.phase {
            Phase::Fetching { goal, .. } if replica.end() >= *goal && replica.last_hash().is_none() => {
                fx.push(Effect::ReadLog { to: replica.me(), from: replica.end(), max_bytes: APPEND_BYTES_MAX });
                Verdict::Waiting
            }
            Phase::Fetching { epoch, promises, donor, goal } if replica.end() >= *goal => {
                let old_lease_until = promises
                    .values()
                    // The holder said that nothing is read under this epoch any more, nor under an earlier one.
                    .filter(|(report, _)| report.owed_to > replica.released)
                    .map(|(report, at)| at.plus(Replica::with_drift(report.lease_left_us)))
                    .max()
                    .unwrap_or(now);
                let (epoch, mut found) = (*epoch, self.newest(replica).clone());
                if broken(Sabotage::PendingIgnored) {
                    found.earlier.clear();
                }
                let acked = acked_by(promises, *goal);
                let session_is_whole = lost_completions(&found, promises, *donor).is_none();
                Verdict::Won(Box::new(Won { epoch, found, old_lease_until, acked, session_is_whole }))
            }
            _ => Verdict::Waiting,
        }
    }

    /// The donor is the greatest (epoch of the last durable record, durable seq) among whole replicas in a sync set.
    fn choose_donor(&mut self, replica: &mut Replica, fx: &mut Effects) -> Result<(), Refusal> {
        let config = self.newest(replica).clone();
        let me = replica.me();
        let Phase::Preparing { epoch, promises, .. } = &mut self.phase else { return Ok(()) };
        let epoch = *epoch;
        let promises = std::mem::take(promises);
        let donor = promises
            .iter()
            .filter(|(id, (r, _))| r.whole && config.all_terms().any(|t| t.in_sync(**id, r.incarnation)))
            .max_by_key(|(id, (r, _))| (standing(r), **id == me))
            .map(|(id, _)| *id);
        let Some(donor) = donor else {
            return Err(Refusal::new("promote-no-donor", "no whole replica of the sync set answered", "wait for one"));
        };
        let report = &promises[&donor].0;
        let goal = report.durable;
        // By the newest register: our own disk may not have heard of it.
        if config.is_diskless(me) {
            let acked = acked_by(&promises, goal);
            let goal = if broken(Sabotage::MemoryDonor) { Seq::ZERO } else { goal };
            begin_in_memory(replica, report, acked.min(goal));
            fx.push(Effect::Edge {
                rule: "promote-donor",
                text: format!("epoch {epoch}: donor {} with a log up to {goal}", config.site_of(donor)),
            });
            self.phase = Phase::Fetching { epoch, promises, donor, goal };
            return Ok(());
        }
        let common = replica.history().common_point(replica.end(), &report.history, goal);
        if common < replica.applied.max(replica.acked) {
            return Err(Refusal::new(
                "promote-diverged",
                format!("our log parts from the donor's ({}) at {common}, below what was acked", config.site_of(donor)),
                "promote that site instead, and resync this one",
            ));
        }
        if donor != me && goal > common && report.floor > common.next() {
            return Err(below_floor(&config, donor));
        }
        if let Some(refusal) = self.refuse_lost_completions(&config, &promises, donor) {
            return Err(refusal);
        }
        if common < replica.end() {
            replica.truncate(common);
        }
        fx.push(Effect::Edge {
            rule: "promote-donor",
            text: format!(
                "epoch {epoch}: donor {} with a log up to {goal}; ours agrees up to {common}",
                config.site_of(donor)
            ),
        });
        replica.adopts(acked_by(&promises, goal), fx);
        self.phase = Phase::Fetching { epoch, promises, donor, goal };
        Ok(())
    }

    /// A device is taken back only if the log holds every write that it completed. Attached anew, the filesystem knows
    /// that its cache was lost.
    fn refuse_lost_completions(&self, config: &Configuration, promises: &Answers, donor: MemberId) -> Option<Refusal> {
        let taken_back = matches!(self.why, Promotion::Restart { .. });
        if !taken_back || broken(Sabotage::RestartWithLoss) {
            return None;
        }
        let lost = lost_completions(config, promises, donor)?;
        Some(Refusal::new(
            "restart-lost-writes",
            format!("{} may have completed writes that the recovered log does not hold", config.site_of(lost)),
            "attach the volume anew: what was not flushed may be gone",
        ))
    }

    /// Our own journal has told the hash that we had forgotten.
    pub fn on_own_record(&mut self, replica: &mut Replica, now: Tick, fx: &mut Effects) -> Verdict {
        if replica.last_hash().is_none() { Verdict::Waiting } else { self.settle(replica, now, fx) }
    }

    pub fn on_fetched(
        &mut self,
        from: MemberId,
        epoch: Epoch,
        (floor, records): (Seq, Vec<Record>),
        replica: &mut Replica,
        now: Tick,
        fx: &mut Effects,
    ) -> Verdict {
        let Phase::Fetching { epoch: ours, donor, goal, promises } = &self.phase else { return Verdict::Waiting };
        if *ours != epoch || *donor != from {
            return Verdict::Waiting;
        }
        // Only who reads its journal knows how far back it reaches; a report may be older than that.
        if records.is_empty() && floor > replica.end().next() && replica.end() < *goal {
            return Verdict::Lost(below_floor(self.newest(replica), from));
        }
        // A late answer may have been read from the donor's log before it was cut; its report says what it holds.
        let held = promises.get(donor).map(|(report, _)| &report.history);
        let records: Vec<Record> =
            records.into_iter().take_while(|r| held.and_then(|h| h.epoch_of(r.seq)) == Some(r.epoch)).collect();
        let before = replica.end();
        if let Err(reason) = replica.adopt(records, *goal, now) {
            fx.push(Effect::Edge { rule: "record-refused", text: format!("from donor {from}: {reason}") });
            return Verdict::Waiting;
        }
        if replica.memory().is_some_and(|m| m.bytes() > MEMORY_BYTES_MAX) {
            return Verdict::Lost(Refusal::new(
                "diskless-tail",
                format!("more than {} MiB of the log may be with one copy only", MEMORY_BYTES_MAX >> 20),
                "attach the volume on a node with a copy",
            ));
        }
        if replica.end() > before && replica.end() < *goal {
            self.retry_at = now.plus(RETRY_US);
            self.ask(&replica.d.config.clone(), replica, fx);
        }
        self.settle(replica, now, fx)
    }
}
