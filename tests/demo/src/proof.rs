//! The proof: the database against the ledger. Pure; what it compares was read elsewhere.

use std::collections::BTreeMap;

use crate::ledger::{Entry, Key};

/// What the database holds.
#[derive(Debug, Default, Clone)]
pub struct Contents {
    pub entries: BTreeMap<Key, Entry>,
    /// By account: its total and how often it was changed.
    pub accounts: BTreeMap<i32, (i64, i64)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Confirmed commits that are there as they were written.
    pub verified: usize,
    /// Confirmed commits that are not there, or differ.
    pub lost: Vec<Key>,
    /// Commits that the database made and had not confirmed when it was killed: at most one for each client.
    pub unconfirmed: usize,
    /// Everything else that can't be: half a transaction, a commit that nobody made.
    pub wrong: Vec<String>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.wrong.is_empty()
    }
}

pub fn judge(ledger: &BTreeMap<Key, Entry>, found: &Contents) -> Verdict {
    let mut verdict = Verdict::default();
    for (key, entry) in ledger {
        if found.entries.get(key) == Some(entry) {
            verdict.verified += 1;
        } else {
            verdict.lost.push(*key);
        }
    }
    for key in found.entries.keys().filter(|key| !ledger.contains_key(key)) {
        // The client began its next commit only after it had written this one down.
        if key.1 == last_confirmed(ledger, key.0) + 1 {
            verdict.unconfirmed += 1;
        } else {
            verdict.wrong.push(format!("client {} never made a commit {}", key.0, key.1));
        }
    }
    verdict.wrong.extend(torn(found));
    verdict
}

fn last_confirmed(ledger: &BTreeMap<Key, Entry>, client: i32) -> i64 {
    ledger.range((client, i64::MIN)..=(client, i64::MAX)).next_back().map_or(0, |(key, _)| key.1)
}

/// Accounts that do not hold exactly what their entries sum up to: half a transaction.
fn torn(found: &Contents) -> Vec<String> {
    let mut sums: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for entry in found.entries.values() {
        let sum = sums.entry(entry.account).or_default();
        *sum = (sum.0 + entry.amount, sum.1 + 1);
    }
    let none = (0, 0);
    let accounts: std::collections::BTreeSet<_> = sums.keys().chain(found.accounts.keys()).collect();
    let pairs = accounts
        .into_iter()
        .map(|account| (account, sums.get(account).unwrap_or(&none), found.accounts.get(account).unwrap_or(&none)));
    let bad = pairs.filter(|(_, sum, held)| sum != held);
    bad.map(|(account, sum, held)| format!("account {account} holds {held:?}, its entries sum up to {sum:?}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(account: i32, amount: i64) -> Entry {
        Entry { account, amount, stamp: format!("{account}-{amount}") }
    }

    /// Two clients, three confirmed commits, all there.
    fn world() -> (BTreeMap<Key, Entry>, Contents) {
        let ledger = BTreeMap::from([((1, 1), entry(7, 10)), ((1, 2), entry(8, 5)), ((2, 1), entry(7, -3))]);
        let accounts = BTreeMap::from([(7, (7, 2)), (8, (5, 1)), (9, (0, 0))]);
        (ledger.clone(), Contents { entries: ledger, accounts })
    }

    #[test]
    fn everything_there_is_clean() {
        let (ledger, found) = world();
        let verdict = judge(&ledger, &found);
        assert!(verdict.is_clean());
        assert_eq!((verdict.verified, verdict.unconfirmed), (3, 0));
    }

    #[test]
    fn a_missing_or_altered_commit_is_lost() {
        let (ledger, mut found) = world();
        found.entries.remove(&(1, 2));
        found.accounts.insert(8, (0, 0));
        assert_eq!(judge(&ledger, &found).lost, [(1, 2)]);
        let (ledger, mut found) = world();
        found.entries.get_mut(&(2, 1)).unwrap().stamp = "other".into();
        assert_eq!(judge(&ledger, &found).lost, [(2, 1)]);
    }

    #[test]
    fn one_commit_more_for_each_client_may_be_there() {
        let (ledger, mut found) = world();
        found.entries.insert((1, 3), entry(9, 4));
        found.accounts.insert(9, (4, 1));
        let verdict = judge(&ledger, &found);
        assert!(verdict.is_clean());
        assert_eq!(verdict.unconfirmed, 1);
        found.entries.insert((1, 4), entry(9, 4));
        found.accounts.insert(9, (8, 2));
        assert!(!judge(&ledger, &found).is_clean(), "two of one client can't be in flight");
    }

    #[test]
    fn half_a_transaction_is_wrong() {
        let (ledger, mut found) = world();
        found.accounts.insert(7, (10, 1));
        assert_eq!(judge(&ledger, &found).wrong.len(), 1);
    }
}
