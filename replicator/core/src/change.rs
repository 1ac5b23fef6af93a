//! Changing the register: a new value holds the new terms and every earlier one until the change has taken effect,
//! then a second write drops the earlier ones.

use crate::api::{Change, CommandId, Refusal};
use crate::ids::{Epoch, Incarnation, MemberId};
use crate::register::{
    Configuration, DataRule, Durability, Member, MemberKind, Mode, StandIn, SyncMember, Terms, Vote,
};
use crate::sabotage::{Sabotage, broken};

/// A register write on its way.
#[derive(Debug)]
pub struct Pending {
    pub stage: Stage,
    pub commands: Vec<CommandId>,
    /// The terms under which something may have been acked before this was proposed. A value that replaces this one
    /// keeps exactly these; the terms proposed here were never acked under alone.
    pub under: Vec<Terms>,
    /// The value to return to when this one is withdrawn; none for the first write of an epoch.
    pub before: Option<Box<Configuration>>,
    /// It is on the control quorum and waits for the data of the new terms.
    pub stored: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Not on the control quorum yet, or something acked is not on the new terms' data quorum yet: all terms hold.
    Joint,
    /// In effect; the value without the earlier terms is on its way.
    Dropping,
}

/// The value that a candidate writes first: the terms it found, moved to its own site, with all it found kept as
/// earlier ones. A candidate that is being taken out, and is not out yet, takes that back: a member that leaves, or an
/// observer that is to rest.
pub fn adopt(found: &Configuration, epoch: Epoch, me: MemberId) -> Configuration {
    let mut next = found.clone();
    next.version.epoch = epoch;
    next.version.k = 0;
    let stood_in = found.stand_ins.iter().any(|s| s.member == me);
    let out = |m: &Member| m.kind == MemberKind::Leaving || (stood_in && found.stands_in(me).is_none());
    if let Some(leaving) = next.members.iter_mut().find(|m| m.id == me && out(m))
        && let Some(with_me) = found.earlier.iter().find(|t| t.sync.iter().any(|s| s.member == me))
    {
        leaving.kind = if stood_in { MemberKind::Observer } else { MemberKind::Data };
        next.current = with_me.clone();
    }
    next.current.primary_site = found.site_of(me).to_string();
    next.earlier = found.all_terms().filter(|t| **t != next.current).cloned().collect();
    next.earlier.dedup();
    if broken(Sabotage::OldSiteForgotten) {
        next.earlier.retain(|t| *t != found.current);
    }
    next
}

/// The next value of the register with `change` made, or why it can't be. It keeps `under` as earlier terms.
pub fn propose(config: &Configuration, under: &[Terms], change: &Change) -> Result<Configuration, Refusal> {
    let mut next = config.clone();
    next.version.k += 1;
    match change {
        Change::Resize { size_bytes } => {
            if *size_bytes < config.volume.size_bytes {
                return Err(Refusal::new(
                    "resize-shrinks",
                    format!("the volume has {} bytes; it can't shrink to {size_bytes}", config.volume.size_bytes),
                    "create a smaller volume and copy the data",
                ));
            }
            next.volume.size_bytes = *size_bytes;
        }
        Change::Add { member, incarnation, votes } => {
            if config.members.iter().any(|m| m.id == member.id || (m.site == member.site && m.node == member.node)) {
                return Err(Refusal::new(
                    "member-exists",
                    format!("{}/{} is a member already", member.site, member.node),
                    "`farshore member replace` renews a member whose disk is gone",
                ));
            }
            next.members.push(member.clone());
            let behind = next.is_async(member);
            if *votes > 0 && !behind {
                next.current.votes.push(Vote { member: member.id, incarnation: *incarnation, votes: *votes });
            }
        }
        Change::Remove { member } => {
            require(config, *member)?;
            if config.is_diskless(*member) {
                // Nobody needs its answer.
                next.members.retain(|m| m.id != *member);
            }
            for leaving in next.members.iter_mut().filter(|m| m.id == *member) {
                leaving.kind = MemberKind::Leaving;
            }
            next.current.votes.retain(|v| v.member != *member);
            next.current.sync.retain(|s| s.member != *member);
            if let Some(place) = config.stands_in(*member) {
                next.current.votes.push(place.lost.clone());
            }
            if let Some(heir) = config.stood_in_for(*member) {
                bequeath(&mut next, heir.member);
            }
            if next.attached.is_some_and(|a| a.member == *member) {
                return Err(Refusal::new("member-attached", "the volume is attached there", "detach it first"));
            }
        }
        Change::Readmit { member, incarnation } => {
            require(config, *member)?;
            match next.current.votes.iter_mut().find(|v| v.member == *member) {
                Some(vote) => vote.incarnation = *incarnation,
                // Another has its vote, until it is back.
                None if config.stood_in_for(*member).is_some() => {
                    let kept = next.stand_ins.iter_mut().filter(|s| s.lost.member == *member);
                    kept.for_each(|s| s.lost.incarnation = *incarnation);
                }
                // It follows behind, whichever disk it has.
                None if config.member(*member).is_some_and(|m| config.follows_behind(m)) => {}
                // Left out by a forced promotion; the operator takes it in again.
                None => next.current.votes.push(Vote { member: *member, incarnation: *incarnation, votes: 1 }),
            }
        }
        Change::Rule { policy, rule } => {
            next.volume.policy = policy.clone();
            next.volume.rule = *rule;
            next.current.rule = *rule;
        }
        Change::Durability { durability } => {
            if *durability == Durability::Flush && config.attached.is_some() {
                return Err(Refusal::new(
                    "durability-attached",
                    "a device without a cache is attached: what it completes is safe",
                    "detach it first",
                ));
            }
            next.volume.durability = *durability;
        }
        Change::QuorumLoss { on_quorum_loss } => next.volume.on_quorum_loss = *on_quorum_loss,
        Change::Mode { mode, rule, votes } => {
            let stands_in = config.members.iter().find(|m| config.stands_in(m.id).is_some());
            if let Some(member) = stands_in.filter(|_| matches!(mode, Mode::Async { .. })) {
                return Err(Refusal::new(
                    "mode-stand-in",
                    format!("{} stands in for a member that is lost", member.site),
                    "wait until that one is back in the sync set, or remove it for good (`farshore member remove`)",
                ));
            }
            change_mode(&mut next, *mode, *rule, votes);
        }
        Change::Fallback { after_us } => next.volume.fallback_after_us = *after_us,
        Change::PromoteObserver { after_us } => next.volume.promote_observer_after_us = *after_us,
        Change::Label { key, value } => match value {
            Some(value) => drop(next.volume.labels.insert(key.clone(), value.clone())),
            None => drop(next.volume.labels.remove(key)),
        },
        Change::Attached { attached } => {
            if let Some(named) = attached {
                require(config, named.member)?;
            }
            next.attached = *attached;
        }
        Change::Reduce { without, rule } => {
            next.current.sync.retain(|s| !without.contains(&s.member));
            next.current.rule = *rule;
        }
        Change::Withdraw => {
            return Err(Refusal::new("change-none", "no change is on its way", "nothing is left to do"));
        }
    }
    check_diskless(&next)?;
    check_satisfiable(&next.current)?;
    keep_earlier(under, &mut next);
    if next.earlier.is_empty() {
        // Who neither votes nor is in the sync set goes at once: no other value follows that would drop it.
        forget_left(&mut next);
    }
    if matches!(change, Change::Mode { .. }) && broken(Sabotage::ModeVotesForgotten) {
        next.earlier.clear();
    }
    Ok(next)
}

impl Configuration {
    /// As it would be in `mode`, if every copy that follows behind now got a vote for it.
    pub fn in_mode(&self, mode: Mode) -> Configuration {
        let mut next = self.clone();
        let behind = self.members.iter().filter(|m| self.is_async(m));
        let votes: Vec<Vote> =
            behind.map(|m| Vote { member: m.id, incarnation: Incarnation::default(), votes: 1 }).collect();
        change_mode(&mut next, mode, self.volume.rule, &votes);
        next
    }
}

/// Whom it stood in for does not come back. Where the others meet the rule without it, an observer rests; else its place
/// is its own from now on.
fn bequeath(next: &mut Configuration, heir: MemberId) {
    let mut without = Terms { rule: next.volume.rule, ..next.current.clone() };
    without.sync.retain(|s| s.member != heir);
    without.votes.retain(|v| v.member != heir);
    if check_satisfiable(&without).is_ok() {
        next.current = without;
        return;
    }
    next.members.iter_mut().filter(|m| m.id == heir).for_each(|m| m.kind = MemberKind::Data);
    next.stand_ins.retain(|s| s.member != heir);
}

/// Who is to follow behind loses vote and place; who is to be waited for gets its vote, and its place once it is whole.
fn change_mode(next: &mut Configuration, mode: Mode, rule: DataRule, votes: &[Vote]) {
    next.volume.mode = mode;
    next.volume.rule = rule;
    if matches!(mode, Mode::Async { .. }) {
        let home = next.current.primary_site.clone();
        next.current.sync.retain(|s| s.site == home);
        let away = |m: &&Member| m.kind == MemberKind::Data && m.site != home;
        let behind: Vec<MemberId> = next.members.iter().filter(away).map(|m| m.id).collect();
        next.current.votes.retain(|v| !behind.contains(&v.member));
        next.current.rule = rule;
        return;
    }
    for vote in votes.iter().filter(|v| next.members.iter().any(|m| m.id == v.member)) {
        next.current.votes.retain(|v| v.member != vote.member);
        next.current.votes.push(vote.clone());
    }
    next.current.rule = rule.reduced_to(&next.current.sync, &next.current.primary_site);
}

/// The value that takes a pending one back.
pub fn withdraw(pending: &Configuration, under: &[Terms], before: &Configuration) -> Configuration {
    let mut next = before.clone();
    next.version.k = pending.version.k + 1;
    keep_earlier(under, &mut next);
    next
}

/// The value in which `member` counts for acknowledgements with the disk it has now.
pub fn grow(
    config: &Configuration,
    under: &[Terms],
    member: MemberId,
    incarnation: Incarnation,
) -> Option<Configuration> {
    let site = config.member(member).filter(|m| config.may_count(m))?.site.clone();
    let mut next = config.clone();
    next.version.k += 1;
    next.current.sync.retain(|s| s.member != member);
    next.current.sync.push(SyncMember { member, incarnation, site });
    restore_rule(&mut next);
    keep_earlier(under, &mut next);
    Some(next)
}

/// A reduced rule is restored as soon as the sync set can meet what the user asked for.
fn restore_rule(next: &mut Configuration) {
    let asked = Terms { rule: next.volume.rule, ..next.current.clone() };
    if check_satisfiable(&asked).is_ok() {
        next.current.rule = next.volume.rule;
    }
}

/// The value in which an observer has the place of a member that is lost, with its vote: the volume is then as safe
/// from the next loss as it was from this one. Terms that are met by fewer copies than before are none.
pub fn stand_in(
    config: &Configuration,
    under: &[Terms],
    (observer, incarnation): (MemberId, Incarnation),
    lost: MemberId,
) -> Option<Configuration> {
    let site = config.member(observer)?.site.clone();
    let vote = config.vote_of(lost)?;
    let kept = config.stands_in(lost).map_or(vote, |s| &s.lost).clone();
    let mut next = config.clone();
    next.version.k += 1;
    next.stand_ins.retain(|s| s.member != observer);
    next.stand_ins.push(StandIn { member: observer, lost: kept });
    next.current.votes.retain(|v| v.member != lost && v.member != observer);
    next.current.votes.push(Vote { member: observer, incarnation, votes: vote.votes });
    next.current.sync.retain(|s| s.member != lost && s.member != observer);
    next.current.sync.push(SyncMember { member: observer, incarnation, site });
    restore_rule(&mut next);
    check_satisfiable(&next.current).ok()?;
    keep_earlier(under, &mut next);
    if broken(Sabotage::StandInVotesForgotten) {
        next.earlier.clear();
    }
    Some(next)
}

/// The value in which whoever it stood in for has its vote back, and the observer counts for nothing.
pub fn rest(config: &Configuration, under: &[Terms], observer: MemberId) -> Option<Configuration> {
    let lost = config.stands_in(observer)?.lost.clone();
    let mut next = config.clone();
    next.version.k += 1;
    next.current.votes.retain(|v| v.member != observer);
    next.current.votes.push(lost);
    next.current.sync.retain(|s| s.member != observer);
    restore_rule(&mut next);
    check_satisfiable(&next.current).ok()?;
    keep_earlier(under, &mut next);
    Some(next)
}

/// The same value without the earlier terms.
pub fn drop_earlier(config: &Configuration) -> Configuration {
    let mut next = config.clone();
    next.version.k += 1;
    next.earlier.clear();
    forget_left(&mut next);
    next
}

/// Of those who are out for good, once no earlier terms need them.
fn forget_left(next: &mut Configuration) {
    next.members.retain(|m| m.kind != MemberKind::Leaving);
    let stand_ins = std::mem::take(&mut next.stand_ins);
    next.stand_ins = stand_ins.into_iter().filter(|s| next.vote_of(s.member).is_some()).collect();
}

fn keep_earlier(under: &[Terms], next: &mut Configuration) {
    let kept = |t: &&Terms| **t != next.current && !broken(Sabotage::EarlierNotKept);
    next.earlier = under.iter().filter(kept).cloned().collect();
}

/// A node without a copy has nothing that could count.
fn check_diskless(next: &Configuration) -> Result<(), Refusal> {
    let terms = &next.current;
    let counted = terms.votes.iter().map(|v| v.member).chain(terms.sync.iter().map(|s| s.member));
    let Some(member) = counted.into_iter().find(|id| next.is_diskless(*id)).and_then(|id| next.member(id)) else {
        return Ok(());
    };
    Err(Refusal::new(
        "diskless-counts",
        format!("{}/{} has no copy: it can have no vote and no place in the sync set", member.site, member.node),
        "give it no votes, or remove it and add it anew with a copy",
    ))
}

fn require(config: &Configuration, member: MemberId) -> Result<(), Refusal> {
    if config.member(member).is_some() {
        return Ok(());
    }
    Err(Refusal::new("member-unknown", format!("{member} is no member of this volume"), "see `farshore volume show`"))
}

/// Could the members of these terms, all present, acknowledge a write and change the register?
pub fn check_satisfiable(terms: &Terms) -> Result<(), Refusal> {
    if terms.sync.is_empty() || !terms.data_quorum(|_| true) {
        return Err(Refusal::new(
            "quorum-impossible",
            format!(
                "the rule needs {} replicas, {} of them remote sites{}; the sync set would have {} replicas",
                terms.rule.w,
                terms.rule.min_remote,
                if terms.rule.local { ", one local" } else { "" },
                terms.sync.len()
            ),
            "add a member first, or choose a policy that the remaining members can meet",
        ));
    }
    if terms.votes.iter().all(|v| v.votes == 0) {
        return Err(Refusal::new("votes-none", "no member would have a vote", "keep at least one voter"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::{ConfigVersion, Descriptor, OnQuorumLoss};

    fn configuration() -> Configuration {
        let rule = DataRule { w: 2, min_remote: 1, local: false };
        let ids = || (0..3_u16).map(|i| (MemberId(i), format!("s{i}")));
        Configuration {
            version: ConfigVersion { epoch: Epoch { n: 1, writer: 1 }, k: 4 },
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
            members: ids()
                .map(|(id, site)| Member { id, site, node: "n".to_string(), kind: MemberKind::Data })
                .collect(),
            current: Terms {
                votes: ids().map(|(member, _)| Vote { member, incarnation: Incarnation(1), votes: 1 }).collect(),
                sync: ids().map(|(member, site)| SyncMember { member, incarnation: Incarnation(1), site }).collect(),
                rule,
                primary_site: "s0".to_string(),
            },
            earlier: Vec::new(),
            attached: None,
            stand_ins: Vec::new(),
        }
    }

    #[test]
    fn who_counts_for_nothing_leaves_with_the_change_itself() {
        let mut before = configuration();
        let out = MemberId(2);
        let gone = |config: &Configuration| config.member(out).is_none();
        let under = vec![before.current.clone()];
        let remove = Change::Remove { member: out };
        assert!(!gone(&propose(&before, &under, &remove).expect("two are left")), "its vote counts until that is over");
        before.current.votes.retain(|v| v.member != out);
        before.current.sync.retain(|s| s.member != out);
        let under = vec![before.current.clone()];
        assert!(gone(&propose(&before, &under, &remove).expect("two are left")));
    }

    #[test]
    fn a_replacement_keeps_what_was_acked_under_and_not_what_was_only_proposed() {
        let before = configuration();
        let under = vec![before.current.clone()];
        let readmit = Change::Readmit { member: MemberId(2), incarnation: Incarnation(7) };
        let proposed = propose(&before, &under, &readmit).expect("satisfiable");
        assert_eq!(proposed.earlier, under);
        let rule = DataRule { w: 1, min_remote: 0, local: false };
        let reduce = Change::Reduce { without: vec![MemberId(1), MemberId(2)], rule };
        let replaced = propose(&proposed, &under, &reduce).expect("satisfiable");
        assert_eq!(replaced.earlier, under, "the proposed terms were never in force alone");
        assert!(replaced.version > proposed.version);
        assert!(replaced.current.has_vote(MemberId(2), Incarnation(7)), "the replaced change is kept");
        let withdrawn = withdraw(&proposed, &under, &before);
        assert_eq!(withdrawn.current, before.current);
        assert!(withdrawn.earlier.is_empty() && withdrawn.version > proposed.version);
    }

    #[test]
    fn the_first_value_of_an_epoch_keeps_all_that_it_found() {
        let mut found = configuration();
        found.earlier.push(Terms { primary_site: "s1".to_string(), ..found.current.clone() });
        let next = adopt(&found, Epoch { n: 2, writer: 3 }, MemberId(2));
        for terms in found.all_terms() {
            assert!(next.all_terms().any(|t| t == terms), "{terms:?} was dropped");
        }
        assert_eq!(next.current.primary_site, "s2");
    }

    #[test]
    fn an_observer_with_another_disk_gets_no_vote() {
        let mut before = configuration();
        before.members[2].kind = MemberKind::Observer;
        before.current.votes.retain(|v| v.member != MemberId(2));
        before.current.sync.retain(|s| s.member != MemberId(2));
        let readmit = Change::Readmit { member: MemberId(2), incarnation: Incarnation(7) };
        let next = propose(&before, &[before.current.clone()], &readmit).expect("satisfiable");
        assert_eq!(next.current, before.current);
    }

    #[test]
    fn an_observer_that_is_to_rest_and_takes_over_stays_in_its_place() {
        let (lost, far) = (MemberId(1), MemberId(2));
        let mut before = configuration();
        before.members[2].kind = MemberKind::Observer;
        before.current.votes.retain(|v| v.member != far);
        before.current.sync.retain(|s| s.member != far);
        let joint = stand_in(&before, &[before.current.clone()], (far, Incarnation(1)), lost).expect("satisfiable");
        assert_eq!(joint.earlier, [before.current.clone()], "the lost member's vote counts until that is over");
        let placed = drop_earlier(&joint);
        assert!(placed.stands_in(far).is_some() && !placed.follows_behind(&placed.members[2]));
        assert_eq!((placed.vote_of(lost), placed.admitted(lost)), (None, Some(Incarnation(1))));
        assert_eq!(
            rest(&placed, std::slice::from_ref(&placed.current), far),
            None,
            "one copy is left, two are asked for"
        );
        let grown = grow(&placed, std::slice::from_ref(&placed.current), lost, Incarnation(1)).expect("it may count");
        let grown = drop_earlier(&grown);
        let resting = rest(&grown, std::slice::from_ref(&grown.current), far).expect("two are left");
        assert!(resting.stands_in(far).is_none() && resting.vote_of(lost).is_some());
        let taken_back = adopt(&resting, Epoch { n: 2, writer: 3 }, far);
        assert!(taken_back.stands_in(far).is_some() && taken_back.vote_of(lost).is_none());
        assert!(resting.all_terms().all(|t| taken_back.all_terms().any(|kept| kept.votes == t.votes)));
        assert!(drop_earlier(&resting).stand_ins.is_empty());
    }

    #[test]
    fn a_label_changes_nothing_that_decides() {
        let before = configuration();
        let under = vec![before.current.clone()];
        let label = |value: Option<&str>| Change::Label { key: "k".into(), value: value.map(String::from) };
        let set = propose(&before, &under, &label(Some("v"))).expect("satisfiable");
        assert_eq!((set.volume.labels["k"].as_str(), &set.current), ("v", &before.current));
        assert!(set.earlier.is_empty() && set.version > before.version);
        let gone = propose(&set, &under, &label(None)).expect("satisfiable");
        assert_eq!(gone.volume, before.volume);
    }

    #[test]
    fn a_rule_that_the_members_left_can_not_meet_is_refused() {
        let config = configuration();
        let under = vec![config.current.clone()];
        let keep_rule = Change::Reduce { without: vec![MemberId(1), MemberId(2)], rule: config.current.rule };
        assert_eq!(
            propose(&config, &under, &keep_rule).expect_err("one replica, two wanted").rule,
            "quorum-impossible"
        );
    }
}
