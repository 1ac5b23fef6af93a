//! The recovery decision: from what the segments show to what is replayed, what is damage, and where writing resumes.
//!
//! At most one group is ever unsynced: the next is written only when the last one's sync has returned. So the proof that
//! a group was durable is any intact header of a later one, and only the very last group may be a torn one.
//!
//! | rule | what was found | what it means |
//! |---|---|---|
//! | `Fresh` | no group, never in use | an empty journal |
//! | `Gone` | no group, but it was in use | all is lost: refused |
//! | `Clean` | an unbroken chain, nothing after it | all of it counts |
//! | `TornTail` | the last group's header without its body | that group is absent |
//! | `TornHead` | the newest segment's head is not complete | that segment was not begun; its head said nothing new |
//! | `DamagedMiddle` | a group is bad or missing, later ones are not | damage, named; all that is intact counts |
//! | `DamagedStart` | the oldest segment's first group is bad or missing | likewise |
//!
//! A last group that left no intact header at all cannot be told from one that was never begun: `Clean`.

use std::collections::BTreeMap;

use crate::journal::group::{FLAG_HEAD, FLAG_HEAD_END, GroupHeader};
use crate::journal::scan::{Found, SegmentScan};
use crate::sabotage::{Sabotage, broken};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    Fresh,
    Gone,
    Clean,
    TornTail,
    TornHead,
    DamagedMiddle,
    DamagedStart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Segments or groups before the first one found should be there.
    StartLost,
    Replay(GroupHeader),
    /// So many groups are bad or missing here.
    Lost(u64),
}

/// Where the next group goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    pub segment: u32,
    pub generation: u64,
    /// `None`: nothing can be added to this segment.
    pub offset: Option<u64>,
    pub index: u64,
    /// `None`: the group before is lost.
    pub prev_crc: Option<u32>,
    pub oldest: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// The last group that counts: rewritten and synced before anything is reported durable.
    pub tail: Option<GroupHeader>,
    /// Headers of groups that do not count; to be overwritten before their indexes are used again.
    pub erase: Vec<(u32, u64)>,
    /// Segments in use, from the oldest: (generation, number).
    pub live: Vec<(u64, u32)>,
    /// Numbers of segments that may be used.
    pub free: Vec<u32>,
    pub resume: Option<Resume>,
}

impl Plan {
    /// Is the group that an earlier recovery copied, as the last one then, read from that copy now? Where it lies it must
    /// be written anew before the copy gives way to another.
    pub fn rests_on_copy(&self, copy: &GroupHeader, is_whole_in_place: bool) -> bool {
        !is_whole_in_place && self.tail != Some(*copy) && self.steps.contains(&Step::Replay(*copy))
    }
}

/// Decides, from the scans of all segments and whether the superblock says that the journal was in use.
pub fn decide(scans: &[SegmentScan], in_use: bool) -> (Rule, Plan) {
    let mut plan = Plan::default();
    let everything_is_free = |mut plan: Plan| {
        plan.free = scans.iter().map(|scan| scan.number).collect();
        plan
    };
    if scans.iter().all(|scan| scan.groups.is_empty()) {
        return (if in_use { Rule::Gone } else { Rule::Fresh }, everything_is_free(plan));
    }
    let oldest = oldest_needed(scans);
    let mut found = by_index(scans, oldest);
    if broken(Sabotage::DamageAsEnd) {
        end_at_damage(&mut found);
    }
    let newest_header = found.keys().next_back().copied().unwrap_or_default();

    let torn_tail = drop_torn_tail(&mut found, &mut plan);
    let torn_head = drop_torn_head(&mut found, &mut plan);
    let Some((&first, &last)) = found.keys().next().zip(found.keys().next_back()) else {
        return (if in_use { Rule::Gone } else { Rule::Fresh }, everything_is_free(plan));
    };
    // Each dropped group proves that the one before it was synced.
    let last = match torn_head.or(torn_tail) {
        Some(dropped) => dropped.saturating_sub(1).max(last),
        None => last.max(newest_header),
    };
    let damage = lay_out_steps(&found, first, last, oldest, &mut plan);
    lay_out_segments(scans, &found, &mut plan);
    plan.tail = found.values().next_back().filter(|tail| tail.whole).map(|tail| tail.header);
    plan.resume = resume(&found, last, oldest, &plan);
    if broken(Sabotage::TailNotRewritten) {
        plan.tail = None;
    }
    let rule = match (damage, torn_head, torn_tail) {
        (Some(rule), _, _) => rule,
        (None, Some(_), _) => Rule::TornHead,
        (None, None, Some(_)) => Rule::TornTail,
        (None, None, None) => Rule::Clean,
    };
    (rule, plan)
}

/// The suite's mistake, made nowhere else: what lies behind damage never was.
fn end_at_damage(found: &mut BTreeMap<u64, Found>) {
    let mut expected = found.keys().next().copied().unwrap_or_default();
    found.retain(|&index, group| {
        let follows = index == expected && group.whole;
        expected += u64::from(follows);
        follows
    });
}

/// The highest generation that any intact group names as the oldest needed.
fn oldest_needed(scans: &[SegmentScan]) -> u64 {
    let whole = scans.iter().flat_map(|scan| &scan.groups).filter(|found| found.whole);
    whole.map(|found| found.header.oldest).max().unwrap_or_default()
}

/// All groups of needed segments by their index. Should two claim one index, the intact and newer one has it.
fn by_index(scans: &[SegmentScan], oldest: u64) -> BTreeMap<u64, Found> {
    let mut out: BTreeMap<u64, Found> = BTreeMap::new();
    for found in scans.iter().filter(|scan| scan.generation() >= Some(oldest)).flat_map(|scan| &scan.groups) {
        let rank = |f: &Found| (f.whole, f.header.generation);
        let there = out.entry(found.header.index).or_insert(*found);
        if rank(found) > rank(there) {
            *there = *found;
        }
    }
    out
}

fn drop_torn_tail(found: &mut BTreeMap<u64, Found>, plan: &mut Plan) -> Option<u64> {
    let tail = *found.last_entry()?.get();
    if tail.whole {
        return None;
    }
    found.pop_last();
    plan.erase.push((tail.header.segment, tail.header.offset));
    Some(tail.header.index)
}

/// Drops what there is of a newest segment without a complete head: nothing but copies was written to it. Returns the
/// lowest index dropped.
fn drop_torn_head(found: &mut BTreeMap<u64, Found>, plan: &mut Plan) -> Option<u64> {
    let newest = found.values().map(|f| f.header.generation).max()?;
    let of_newest = || found.values().filter(move |f| f.header.generation == newest);
    if of_newest().any(|f| !f.header.is(FLAG_HEAD) || f.header.is(FLAG_HEAD_END)) {
        return None;
    }
    let lowest = of_newest().map(|f| f.header.index).min();
    plan.erase.extend(of_newest().map(|f| (f.header.segment, f.header.offset)));
    found.retain(|_, f| f.header.generation != newest);
    lowest
}

/// Fills `plan.steps`; returns the rule that names the worst damage.
fn lay_out_steps(found: &BTreeMap<u64, Found>, first: u64, last: u64, oldest: u64, plan: &mut Plan) -> Option<Rule> {
    let mut damage = None;
    let begins = found[&first].header;
    if begins.generation != oldest || begins.offset != 0 || !found[&first].whole {
        damage = Some(Rule::DamagedStart);
        plan.steps.push(Step::StartLost);
    }
    let mut lost = |steps: &mut Vec<Step>, count: u64| {
        damage = damage.or(Some(Rule::DamagedMiddle));
        match steps.last_mut() {
            Some(Step::Lost(before)) => *before += count,
            _ => steps.push(Step::Lost(count)),
        }
    };
    let mut expected = first;
    let mut prev_crc = None;
    for (&index, group) in found {
        if index > expected {
            lost(&mut plan.steps, index - expected);
            prev_crc = None;
        }
        // The later group knows what came before it: a chain that does not fit convicts the earlier one.
        let names = (!group.header.is(super::group::FLAG_AFTER_LOSS)).then_some(group.header.prev_crc);
        if let (Some(is), Some(named)) = (prev_crc, names)
            && is != named
            && matches!(plan.steps.last(), Some(Step::Replay(_)))
        {
            plan.steps.pop();
            lost(&mut plan.steps, 1);
        }
        if group.whole {
            plan.steps.push(Step::Replay(group.header));
        } else {
            lost(&mut plan.steps, 1);
        }
        prev_crc = Some(group.header.crc());
        expected = index + 1;
    }
    if expected <= last {
        lost(&mut plan.steps, last + 1 - expected);
    }
    damage
}

fn lay_out_segments(scans: &[SegmentScan], found: &BTreeMap<u64, Found>, plan: &mut Plan) {
    for scan in scans {
        let lives =
            found.values().any(|f| f.header.segment == scan.number && Some(f.header.generation) == scan.generation());
        match scan.generation() {
            Some(generation) if lives => plan.live.push((generation, scan.number)),
            _ => plan.free.push(scan.number),
        }
    }
    plan.live.sort_unstable();
}

fn resume(found: &BTreeMap<u64, Found>, last: u64, oldest: u64, plan: &Plan) -> Option<Resume> {
    let tail = found.values().next_back()?.header;
    let known = tail.index == last;
    // Behind a lost tail only the place of the group that came after it is known, if that lies in the same segment.
    let after_lost = plan.erase.iter().find(|&&(segment, at)| segment == tail.segment && at > tail.offset);
    Some(Resume {
        segment: tail.segment,
        generation: tail.generation,
        offset: if known { Some(tail.end()) } else { after_lost.map(|&(_, at)| at) },
        index: last + 1,
        prev_crc: known.then(|| tail.crc()),
        oldest,
    })
}
