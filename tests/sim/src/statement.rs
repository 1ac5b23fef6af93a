//! What a loss would cost, asked of everybody just before a forced promotion, and held against what that has cost.
//!
//! | checker | what it holds against the run |
//! |---|---|
//! | statement | no more was acknowledged that the donor lacks than is told, and what was acknowledged since the moment named; at least so much is missing there as is told |
//!
//! Who is cut off from whom, and for how long, is as the run has it. What a holder says under its lease, and what members
//! in reach of the donor add to its own word, is judged as well.

use std::collections::BTreeMap;

use farshore_core::api::Status;
use farshore_core::ids::{MemberId, Seq};
use farshore_core::loss::{Figure, SiteLoss, Testimony, forced, forced_among, narrowed, site_losses};

use crate::branches::Lineage;
use crate::oracle::{Oracle, Verdict, Violation, wrong};
use crate::world::{VOLUME, World};

/// Clocks of two nodes run apart by one part in a hundred at most.
const DRIFT_DIVISOR: u64 = 100;

/// One answer.
pub struct Said {
    by: String,
    donor: MemberId,
    donor_life: u32,
    lineage: Lineage,
    figure: Figure,
    exact: bool,
    /// Up to when everything that was acknowledged is in the figure. `None`: nothing is promised.
    until: Option<u64>,
    asked_at: u64,
}

#[derive(Default)]
pub struct Statements {
    /// By the lineage that was to begin.
    said: BTreeMap<Lineage, Vec<Said>>,
    /// The highest that was acknowledged in each lineage.
    acked: BTreeMap<Lineage, Seq>,
}

impl Statements {
    /// A holder there says so; until its own first record is acknowledged it says nothing.
    pub fn acked(&mut self, lineage: Lineage, seq: Seq) {
        if seq > Seq::ZERO {
            let known = self.acked.entry(lineage).or_default();
            *known = seq.max(*known);
        }
    }
}

impl World {
    /// A force is about to be asked for at `donor`: what does everybody say that it will cost?
    pub fn ask_the_cost(&mut self, donor: MemberId, named: &[MemberId], forked: Lineage) {
        let Some((lineage, donor_life)) = self.nodes.get(&donor).map(|n| (n.lineage, n.life)) else { return };
        let statuses = self.statuses(lineage.uuid);
        let Some(own) = statuses.iter().find(|s| s.me == donor) else { return };
        let site = own.config.site_of(donor).to_string();
        let (end, acked) = (self.end_of(donor), self.acked_in(lineage.uuid));
        let mut said = Vec::new();
        for status in &statuses {
            // What is told of just this force, whoever else has a copy in the donor's site.
            if let Some(figure) = forced(status, donor) {
                *self.tally.asked.entry("asked-of-force").or_default() += 1;
                said.push((format!("{}, asked of this force,", status.me), figure, true, Some(0)));
            }
            if !is_only_copy(status, donor, &site) {
                continue;
            }
            for loss in site_losses(status) {
                let Some((figure, exact, age)) = applies(&loss, &site, status, named) else { continue };
                said.push((status.me.to_string(), figure, exact, age));
            }
        }
        let alone = is_only_copy(own, donor, &site);
        let reached: Vec<Testimony> =
            statuses.iter().filter(|s| s.me == donor || self.answers(donor, s.me)).filter_map(testimony).collect();
        let promoted = narrowed(&site, &reached).filter(|_| alone);
        let told = testimony(own).map(|own| forced_among(&own, &reached));
        for (records, unknown, _) in [promoted, told].into_iter().flatten() {
            let age = (unknown < u64::MAX).then_some(unknown);
            let figure = Figure { records, ..Figure::default() };
            said.push((format!("{donor}, with {} in reach,", reached.len() - 1), figure, false, age));
        }
        let mut all = Vec::new();
        for (by, figure, exact, age) in said {
            self.say(|| format!("{by} says of {site}: {figure:?}, exact {exact}, unknown for {age:?}"));
            let name = if exact { "asked-exactly" } else { "asked-at-least" };
            *self.tally.asked.entry(name).or_default() += 1;
            if !exact && figure.records > acked.since(end) {
                let text = format!(
                    "{by} says that {site} lacks at least {} records; it has {end} and {acked} is acknowledged",
                    figure.records
                );
                return self.check(Err(Violation { checker: "statement", text }));
            }
            let until = age.and_then(|age| self.now.checked_sub(self.meant_by(age, exact)));
            let asked_at = self.now;
            all.push(Said { by, donor, donor_life, lineage: lineage.uuid, figure, exact, until, asked_at });
        }
        self.statements.said.insert(forked, all);
    }

    /// The highest that was acknowledged in a lineage, or in the one that it goes on from while nobody holds an epoch there.
    fn acked_in(&self, lineage: Lineage) -> Seq {
        let mut lineages = std::iter::successors(Some(lineage), |l| self.oracle.branches.get(*l)?.parent);
        lineages.find_map(|l| self.statements.acked.get(&l).copied()).unwrap_or_default()
    }

    /// How long ago that is at most: clocks drift, and a word takes its time on the line.
    fn meant_by(&self, age: u64, exact: bool) -> u64 {
        let weather = &self.network.weather;
        if exact { 0 } else { age + age / DRIFT_DIVISOR + weather.delay_us + weather.jitter_us }
    }

    fn statuses(&self, lineage: Lineage) -> Vec<Status> {
        let asked = self.nodes.values().filter(|n| n.lineage.uuid == lineage && n.paused_until <= self.now);
        let status = asked.filter_map(|n| n.volume.as_ref().map(|v| v.status(n.clock_at(self.now))));
        status.filter(|s| s.lineage.uuid == lineage).collect()
    }

    fn answers(&self, asker: MemberId, other: MemberId) -> bool {
        !self.network.is_cut(asker, other) && !self.network.is_cut(other, asker)
    }

    /// Where its log ends, what is being written included.
    fn end_of(&self, id: MemberId) -> Seq {
        let Some(node) = self.nodes.get(&id) else { return Seq::ZERO };
        let logged = node.disk.journal.queue.ahead.volumes.get(&VOLUME).map_or(Seq::ZERO, |log| log.last_seq());
        logged.max(node.disk.now.base.seq)
    }

    /// A device opens for the first time in a forced lineage: what was said of its cost was so.
    pub fn judge_the_cost(&mut self, forked: Lineage) {
        let mut verdict = Ok(());
        for said in self.statements.said.remove(&forked).unwrap_or_default() {
            // A donor that fell meanwhile may have lost what was being written.
            if verdict.is_ok() && self.life(said.donor) == Some(said.donor_life) {
                *self.tally.done.entry("cost-measured").or_default() += 1;
                verdict = judge(&said, &self.oracle, forked);
            }
        }
        self.check(verdict);
    }
}

/// Which of its figures speaks of this force.
fn applies(loss: &SiteLoss, site: &str, status: &Status, named: &[MemberId]) -> Option<(Figure, bool, Option<u64>)> {
    let config = &status.config;
    let recovered = config.all_terms().all(|t| t.recovery(|m| named.contains(&m.member)));
    if loss.site == site {
        let in_sync = config.current.sync.iter().any(|s| config.site_of(s.member) == site);
        // By that figure those of the sync set are asked that must be.
        return (!loss.exact || !in_sync || recovered).then_some((loss.promoted, loss.exact, loss.unknown_us));
    }
    let left = |id: MemberId| config.site_of(id) == loss.site;
    let rest_named = config.members.iter().all(|m| left(m.id) != named.contains(&m.id));
    rest_named.then_some((loss.lost, loss.exact || loss.lost_at_most, loss.lost_unknown_us))
}

/// The figure of a site is that of its best copy, not of one of several.
fn is_only_copy(status: &Status, id: MemberId, site: &str) -> bool {
    let copies = status.config.members.iter().filter(|m| m.site == site && m.kind.holds_copy());
    copies.map(|m| m.id).eq([id])
}

fn testimony(status: &Status) -> Option<Testimony> {
    let copy = status.config.member(status.me).is_some_and(|m| m.kind.holds_copy());
    let site = status.config.site_of(status.me).to_string();
    let own = site_losses(status).into_iter().find(|loss| loss.site == site)?;
    let unknown = own.unknown_us.unwrap_or(u64::MAX);
    copy.then_some(Testimony { site, acked: status.acked, durable: status.durable, end: status.appended, unknown })
}

fn judge(said: &Said, oracle: &Oracle, forked: Lineage) -> Verdict {
    let given_up = oracle.given_up(said.lineage, forked, said.asked_at);
    let Some(until) = said.until else { return Ok(()) };
    let named: Vec<&(u64, u64)> = given_up.iter().filter(|(owed, _)| *owed <= until).collect();
    let (writes, bytes) = (named.len() as u64, named.iter().map(|(_, bytes)| bytes).sum::<u64>());
    let first = named.iter().map(|(owed, _)| *owed).min().unwrap_or(said.asked_at);
    let (figure, us) = (said.figure, said.asked_at.saturating_sub(first));
    if writes > figure.records {
        let text = format!(
            "{} said that {} records would be given up; {writes} writes were that had been acknowledged by then",
            said.by, figure.records
        );
        return wrong("statement", text);
    }
    if said.exact && figure.sized && (bytes > figure.bytes || us > figure.us + figure.us / DRIFT_DIVISOR) {
        let text = format!("{} said {figure:?} would be given up; {bytes} bytes of {us} µs were", said.by);
        return wrong("statement", text);
    }
    Ok(())
}
