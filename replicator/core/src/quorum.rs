//! The two quorums and the recovery rule, as pure predicates over [`Terms`].
//!
//! *Control quorum*: a majority of the voters' votes. *Data quorum*: the policy's rule over the sync set. The
//! *recovery rule* joins them: a set of answers suffices if those who did not answer could not have formed a data
//! quorum.

use crate::ids::{Incarnation, MemberId};
use crate::register::{SyncMember, Terms};
use crate::sabotage::{Sabotage, broken};

/// Sync sets are seldom larger.
const SYNC_SET_USUAL: usize = 8;

impl Terms {
    /// Do the voters for whom `answered` holds carry more than half of all votes?
    pub fn control_quorum(&self, mut answered: impl FnMut(MemberId, Incarnation) -> bool) -> bool {
        let total: u32 = self.votes.iter().map(|v| u32::from(v.votes)).sum();
        let yes: u32 =
            self.votes.iter().filter(|v| answered(v.member, v.incarnation)).map(|v| u32::from(v.votes)).sum();
        yes * 2 > total
    }

    /// Do the sync members for whom `has` holds satisfy the data rule?
    pub fn data_quorum(&self, mut has: impl FnMut(&SyncMember) -> bool) -> bool {
        // Asked for every acknowledgement: sets of so many members are kept without a heap.
        let mut small = [false; SYNC_SET_USUAL];
        let mut large = Vec::new();
        let holds = match small.get_mut(..self.sync.len()) {
            Some(small) => small,
            None => {
                large.resize(self.sync.len(), false);
                large.as_mut_slice()
            }
        };
        let (mut count, mut remote_sites, mut local) = (0_u32, 0, false);
        for (at, member) in self.sync.iter().enumerate() {
            holds[at] = has(member);
            if !holds[at] {
                continue;
            }
            count += 1;
            if member.site == self.primary_site {
                local = true;
            } else if !self.sync[..at].iter().zip(&*holds).any(|(m, holds)| *holds && m.site == member.site) {
                remote_sites += 1;
            }
        }
        let in_force = if broken(Sabotage::RuleShrinksWithSet) { self.sync.len() as u8 } else { u8::MAX };
        count >= u32::from(self.rule.w.min(in_force.max(1)))
            && remote_sites >= u32::from(self.rule.min_remote.min(in_force.saturating_sub(1)))
            && (local || !self.rule.local)
    }

    /// Could those who did not answer *not* have formed a data quorum? Then the answers hold everything ever acked
    /// under these terms.
    pub fn recovery(&self, mut answered: impl FnMut(&SyncMember) -> bool) -> bool {
        !self.data_quorum(|m| !answered(m))
    }

    /// The greatest value that a data quorum has reached: the acked position, or the instant a lease counts from.
    pub fn quorum_value<T: Ord + Copy>(&self, mut value: impl FnMut(&SyncMember) -> Option<T>) -> Option<T> {
        let mut reached = None;
        for member in &self.sync {
            let least = value(member);
            if least > reached && self.data_quorum(|m| value(m) >= least) {
                reached = least;
            }
        }
        reached
    }

    pub fn in_sync(&self, member: MemberId, incarnation: Incarnation) -> bool {
        self.sync.iter().any(|s| s.member == member && s.incarnation == incarnation)
    }

    pub fn has_vote(&self, member: MemberId, incarnation: Incarnation) -> bool {
        self.votes.iter().any(|v| v.member == member && v.incarnation == incarnation)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::register::{DataRule, Vote};

    fn terms(sites: &[&str], rule: DataRule, primary: &str) -> Terms {
        Terms {
            votes: (0..sites.len())
                .map(|i| Vote { member: MemberId(i as u16), incarnation: Incarnation(i as u128), votes: 1 })
                .collect(),
            sync: sites
                .iter()
                .enumerate()
                .map(|(i, s)| SyncMember {
                    member: MemberId(i as u16),
                    incarnation: Incarnation(i as u128),
                    site: (*s).to_string(),
                })
                .collect(),
            rule,
            primary_site: primary.to_string(),
        }
    }

    /// Every recovery quorum intersects every data quorum, for every rule, primary site and subset (I19).
    #[test]
    fn recovery_intersects_every_data_quorum() {
        for sites in [&["a", "b", "c"][..], &["a", "a", "b", "c"], &["a", "a", "b", "b", "c"]] {
            for w in 1..=sites.len() as u8 {
                for min_remote in 0..=2 {
                    for local in [false, true] {
                        for primary in ["a", "b", "c"] {
                            let t = terms(sites, DataRule { w, min_remote, local }, primary);
                            let n = sites.len();
                            for acked in 0..1_u32 << n {
                                if !t.data_quorum(|m| acked >> m.member.0 & 1 == 1) {
                                    continue;
                                }
                                for answers in 0..1_u32 << n {
                                    if t.recovery(|m| answers >> m.member.0 & 1 == 1) {
                                        assert!(acked & answers != 0, "{t:?} {acked:b} {answers:b}");
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn quorum_value_is_the_greatest_position_a_quorum_has() {
        let t = terms(&["a", "b", "c"], DataRule { w: 2, min_remote: 1, local: false }, "a");
        let at = |values: [Option<u64>; 3]| t.quorum_value(|m| values[m.member.0 as usize]);
        assert_eq!(at([Some(9), Some(4), Some(2)]), Some(4));
        assert_eq!(at([Some(9), None, None]), None, "one copy is no quorum");
        assert_eq!(at([None, Some(7), Some(5)]), Some(5));
        let local = terms(&["a", "a", "b"], DataRule { w: 2, min_remote: 1, local: true }, "a");
        assert_eq!(
            local.quorum_value(|m| [Some(9), Some(8), Some(3)][m.member.0 as usize]),
            Some(3),
            "needs the remote"
        );
    }

    #[test]
    fn control_quorum_wants_more_than_half() {
        let mut t = terms(&["a", "b"], DataRule { w: 2, min_remote: 1, local: false }, "a");
        assert!(!t.control_quorum(|m, _| m.0 == 0), "half is not more than half");
        t.votes[0].votes = 2;
        assert!(t.control_quorum(|m, _| m.0 == 0));
        assert!(!t.control_quorum(|m, _| m.0 == 1));
    }

    fn any_terms() -> impl Strategy<Value = Terms> {
        let member = (0_usize..4, 0_u8..4);
        let rule = (0_u8..5, 0_u8..3, any::<bool>());
        (prop::collection::vec(member, 0..6), rule, 0_usize..4).prop_map(
            |(members, (w, min_remote, local), primary)| {
                let site = |site: usize| ["a", "b", "c", "d"][site];
                let sites: Vec<&str> = members.iter().map(|(at, _)| site(*at)).collect();
                let mut terms = terms(&sites, DataRule { w, min_remote, local }, site(primary));
                for (vote, (_, votes)) in terms.votes.iter_mut().zip(&members) {
                    vote.votes = *votes;
                }
                terms
            },
        )
    }

    /// Every set of members, as numbers into the list.
    fn sets(terms: &Terms) -> impl Iterator<Item = BTreeSet<u16>> {
        let n = terms.sync.len() as u16;
        (0..1_u32 << n).map(move |bits| (0..n).filter(|i| bits >> i & 1 == 1).collect())
    }

    /// The policy in the words of the design, over sets.
    fn is_data_quorum(terms: &Terms, set: &BTreeSet<u16>) -> bool {
        let sites: BTreeSet<&str> = set.iter().map(|i| terms.sync[usize::from(*i)].site.as_str()).collect();
        let remote = sites.iter().filter(|site| **site != terms.primary_site).count();
        let local = sites.contains(terms.primary_site.as_str());
        set.len() >= terms.rule.w.into() && remote >= terms.rule.min_remote.into() && (local || !terms.rule.local)
    }

    proptest! {
        /// Against the same words, and every set tried.
        #[test]
        fn quorums_are_what_the_policy_says(
            terms in any_terms(), values in prop::collection::vec(prop::option::of(0_u64..6), 6),
        ) {
            let mut reached = None;
            for set in sets(&terms) {
                let quorum = is_data_quorum(&terms, &set);
                prop_assert_eq!(terms.data_quorum(|m| set.contains(&m.member.0)), quorum);
                let others: BTreeSet<u16> = (0..terms.sync.len() as u16).filter(|i| !set.contains(i)).collect();
                prop_assert_eq!(terms.recovery(|m| set.contains(&m.member.0)), !is_data_quorum(&terms, &others));
                let votes = |set: &BTreeSet<u16>| -> u32 {
                    set.iter().map(|i| u32::from(terms.votes[usize::from(*i)].votes)).sum()
                };
                prop_assert_eq!(terms.control_quorum(|m, _| set.contains(&m.0)), votes(&set) > votes(&others));
                // What the slowest of a quorum has, the quorum has. Without any member there is no value.
                let slowest: Option<Option<u64>> = set.iter().map(|i| values[usize::from(*i)]).min();
                if quorum && let Some(slowest) = slowest {
                    reached = reached.max(slowest);
                }
            }
            // A rule that nobody has to meet is met by whoever is furthest.
            prop_assert_eq!(terms.quorum_value(|m| values[usize::from(m.member.0)]), reached);
        }
    }
}
