//! What the loss of a site would cost, and what is given up by going on from one: exact beside the primary under its lease,
//! elsewhere an interval, at least so much and whatever was acknowledged since a moment.
//!
//! Derived from a status, and from those of other members that answer. Nothing decides by it but people.

use crate::api::{MemberStatus, Status};
use crate::ids::{MemberId, Seq};
use crate::register::Terms;
use crate::sabotage::{Sabotage, broken};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figure {
    pub records: u64,
    pub bytes: u64,
    pub us: u64,
    /// `bytes` and `us` are of these records; else nothing is known of either.
    pub sized: bool,
    /// What would be left ends with this record. Zero: nothing would be, or that can't be told.
    pub last: Seq,
}

impl Figure {
    fn nothing(last: Seq) -> Figure {
        Figure { sized: true, last, ..Figure::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteLoss {
    pub site: String,
    /// What would be gone with the site.
    pub lost: Figure,
    /// Who held the epoch knows what completed, and not what of it has arrived elsewhere since: `lost` is all that may be gone.
    pub lost_at_most: bool,
    /// Where it is neither that nor exact: of what was acknowledged during so long anything may be gone too. `None`: of all.
    pub lost_unknown_us: Option<u64>,
    /// What would be given up by promoting the site, the members of the sync set that can be asked included where `exact`.
    pub promoted: Figure,
    /// Otherwise the figures are lower bounds; to what promoting it gives up, what was acknowledged during the last
    /// `unknown_us` comes on top.
    pub exact: bool,
    /// `None`: nothing is known of it at all.
    pub unknown_us: Option<u64>,
    /// The others could go on without it, by themselves or by one verb.
    pub can_continue: bool,
}

/// Members in these states don't help when a site is lost.
const NOT_THERE: [&str; 3] = ["unreachable", "unknown", "not-readmitted"];

pub fn site_losses(status: &Status) -> Vec<SiteLoss> {
    let mut sites: Vec<&str> = status.config.members.iter().map(|m| m.site.as_str()).collect();
    sites.sort_unstable();
    sites.dedup();
    sites.into_iter().map(|site| site_loss(status, site, is_exact(status))).collect()
}

fn is_exact(status: &Status) -> bool {
    let leased = status.lease_left_us.is_some_and(|us| us > 0) || broken(Sabotage::ExactWithoutLease);
    status.role == "primary" && leased
}

/// What a force gives up that goes on from this copy's log, as the epoch's holder knows it under its lease. Whom such a
/// force does not name is not asked for what the copy lacks, and who is named has no more. `None`: that can't be told from
/// here.
pub fn forced(status: &Status, donor: MemberId) -> Option<Figure> {
    let member = best(status, |id| id == donor).filter(|_| is_exact(status))?;
    let promoted = broken(Sabotage::ForcedAsPromoted) && member.in_sync_set;
    if donor == status.me || promoted {
        // What completed is in the holder's own log.
        return Some(Figure::nothing(status.completed));
    }
    figure(status, held(status, member), Some(member))
}

/// The member of these that has most of the log. A witness has none of it, nor has a node without a copy.
fn best(status: &Status, of: impl Fn(MemberId) -> bool) -> Option<&MemberStatus> {
    let copy = |id: MemberId| status.config.member(id).is_some_and(|m| m.kind.holds_copy());
    status.members.iter().filter(|m| copy(m.id) && of(m.id)).max_by_key(|m| m.durable)
}

/// Up to here a member has the log for good, by its own word.
fn held(status: &Status, member: &MemberStatus) -> Seq {
    if broken(Sabotage::SentTakenForHeld) { status.appended } else { member.durable }
}

fn site_loss(status: &Status, site: &str, exact: bool) -> SiteLoss {
    let config = &status.config;
    let inside = |id: MemberId| config.site_of(id) == site;
    let lives = |id: MemberId| {
        let there = |m: &&MemberStatus| m.id == id && (!NOT_THERE.contains(&m.state) || !exact);
        !inside(id) && status.members.iter().any(|m| there(&m))
    };
    let control = config.all_terms().all(|t| t.control_quorum(|id, _| lives(id)));
    let recovers = config.all_terms().all(|t| t.recovery(|m| lives(m.member)));
    let writes_on = config.current.sync.iter().any(|candidate| {
        let moved = Terms { primary_site: candidate.site.clone(), ..config.current.clone() };
        candidate.site != site && moved.data_quorum(|m| lives(m.member))
    });
    let rest = best(status, lives);
    let lost_at_most = !exact && inside(status.me) && rest.is_some_and(|m| has_told(status, m));
    let lost = loss(status, rest, recovers, exact || lost_at_most);
    let promoted = promotion(status, site, exact);
    let lost_known = lost.is_some() && (exact || lost_at_most);
    let all_known = exact && lost.is_some() && promoted.is_some();
    SiteLoss {
        site: site.to_string(),
        lost_unknown_us: if lost_known { Some(0) } else { rest_unknown(status, rest, recovers) },
        lost: lost.unwrap_or_default(),
        lost_at_most,
        promoted: promoted.unwrap_or_default(),
        exact: all_known,
        unknown_us: if all_known { Some(0) } else { unknown(status, site) },
        can_continue: control && recovers && writes_on,
    }
}

/// What is gone when only these are left, `best` having most of it. `None`: that can't be told from here.
fn loss(status: &Status, best: Option<&MemberStatus>, recovers: bool, known: bool) -> Option<Figure> {
    let held = best.map_or(Seq::ZERO, |m| held(status, m));
    let kept = if recovers { held.max(status.acked) } else { held };
    figure(status, kept, best.filter(|_| known))
}

/// The holder has its word on where it stands, in this life of its disk.
fn has_told(status: &Status, member: &MemberStatus) -> bool {
    status.role == "primary" && member.lag_known && member.state != "not-readmitted"
}

/// For how long something may have been acknowledged that these have not got, `best` having most of it.
fn rest_unknown(status: &Status, best: Option<&MemberStatus>, recovers: bool) -> Option<u64> {
    let best = best?;
    // What this node knows to be missing here may be there, where the others can prove what was acknowledged.
    let here = best.id == status.me && (recovers || status.acked <= status.appended);
    let known = here || (best.id != status.me && has_told(status, best));
    status.known_us_ago.filter(|_| known).map(|us| if here { us } else { us.max(best.lag_us) })
}

fn figure(status: &Status, last: Seq, lacks: Option<&MemberStatus>) -> Option<Figure> {
    let (records, nothing) = (status.completed.since(last), Figure::nothing(last));
    match lacks {
        _ if records == 0 => Some(nothing),
        _ if broken(Sabotage::SilenceTakenForAll) && lacks.is_none_or(|m| !m.lag_known) => Some(nothing),
        Some(m) if m.lag_known => {
            // What an earlier epoch wrote may have come here late, and be older than it looks.
            let sized = status.history.epoch_of(last.next()) == Some(status.epoch);
            Some(Figure { records, bytes: m.lag_bytes, us: m.lag_us, sized, last })
        }
        _ => None,
    }
}

fn promotion(status: &Status, site: &str, exact: bool) -> Option<Figure> {
    let member = best(status, |id| status.config.site_of(id) == site);
    match member {
        // A site of witnesses is not promoted; a member of the sync set is given what it lacks by the others.
        None => Some(Figure::default()),
        Some(m) if exact && m.in_sync_set => Some(Figure::nothing(status.completed)),
        Some(m) if exact => figure(status, held(status, m), member),
        Some(m) if m.id == status.me => Some(own_promotion(status)),
        Some(_) => None,
    }
}

/// At least. What is on its way to the disk here is kept by a force, as far as it gets there.
fn own_promotion(status: &Status) -> Figure {
    let kept = if broken(Sabotage::UnwrittenForgotten) { status.acked } else { status.appended };
    let records = status.acked.since(kept);
    // How much that is they know who have it.
    Figure { records, last: kept, ..Figure::default() }
}

/// For how long more than is stated may have been acknowledged that the site has not got.
fn unknown(status: &Status, site: &str) -> Option<u64> {
    let member = best(status, |id| status.config.site_of(id) == site)?;
    if member.id == status.me || broken(Sabotage::OthersGuessed) {
        return status.known_us_ago;
    }
    // What it has not confirmed it may lack: since the first of that was appended. Only its primary knows that.
    status.known_us_ago.filter(|_| has_told(status, member)).map(|us| us.max(member.lag_us))
}

/// What a member says of itself when it is asked: how far it knows the volume to be acknowledged and as of when, and
/// where its own log ends. Of the lineage in question, and no witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Testimony {
    pub site: String,
    pub acked: Seq,
    pub durable: Seq,
    pub end: Seq,
    /// The greatest number there is: not at all.
    pub unknown: u64,
}

/// What all these (the asker among them) make of the cost of promoting a site: records, for how long more may have been
/// acknowledged, in whatever unit they speak, and the last record that stays. `None`: nobody of that site is among them.
pub fn narrowed(site: &str, known: &[Testimony]) -> Option<(u64, u64, Seq)> {
    let there = known.iter().filter(|t| t.site == site).max_by_key(|t| t.end)?;
    Some(given_up(there, known))
}

/// The same of a force that goes on from the log of one of them, whatever others hold that it does not name.
pub fn forced_among(donor: &Testimony, known: &[Testimony]) -> (u64, u64, Seq) {
    match narrowed(&donor.site, known) {
        Some(cost) if broken(Sabotage::SitesBestForced) => cost,
        _ => given_up(donor, known),
    }
}

fn given_up(there: &Testimony, known: &[Testimony]) -> (u64, u64, Seq) {
    let acked = known.iter().map(|t| t.acked).max().unwrap_or_default();
    let unknown = known.iter().map(|t| t.unknown).min().unwrap_or(u64::MAX);
    // What is on its way to the disk there may come to nothing: then its own word alone says until when it has all.
    let settled = acked.min(there.end) <= there.durable;
    (acked.since(there.end), if settled { unknown } else { there.unknown }, there.end)
}
