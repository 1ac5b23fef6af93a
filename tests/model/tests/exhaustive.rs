//! Every history within the bounds keeps the protocol's promises, and none of the seeded bugs does.

use farshore_model::bug::BUGS;
use farshore_model::explore::{Reached, explore};
use farshore_model::search::{SEARCHES, Search};
use farshore_model::tell;

/// More than any of these searches has; a slip in the model must not eat the machine.
const STATES_MAX: u64 = 4_000_000;

fn prove(layouts: &[&str]) {
    let asked = |s: &&Search| layouts.contains(&s.layout) && !s.larger;
    let searches: Vec<&Search> = SEARCHES.iter().filter(asked).collect();
    assert!(!searches.is_empty());
    for search in searches {
        let model = search.model(None);
        let outcome = explore(&model, STATES_MAX);
        println!("{}", tell::summary(search, &outcome));
        if let Some(found) = &outcome.found {
            panic!("{}", tell::counterexample(&model, found));
        }
        assert!(!outcome.cut_short, "more than {STATES_MAX} states");
        happened(search, outcome.reached);
    }
}

/// What the bounds allow has happened in some history: else the search would prove nothing.
fn happened(search: &Search, reached: Reached) {
    let (b, name) = (search.bounds, search.name);
    assert!(reached.opened == b.epochs, "{name}: epoch {} opened, not {}", reached.opened, b.epochs);
    assert!(reached.changed || b.menu == 0, "{name}: no change took effect");
    assert!(reached.readmitted || b.wipes == 0, "{name}: no wiped voter came back");
    assert!(reached.renewed || b.wipes == 0 || b.changes < 2, "{name}: no wiped copy came back into the sync set");
    assert!(reached.forced || b.forces == 0, "{name}: no forced lineage opened");
    assert!(reached.in_memory == search.layout().diskless.is_some(), "{name}: nobody without a copy won an epoch");
}

#[test]
fn three_copies_of_which_two_suffice() {
    prove(&["majority-3"]);
}

#[test]
fn three_copies_of_which_both_remotes_or_the_local_one_are_needed() {
    prove(&["all-remotes-3", "nearest-remote-3", "nearest-remote-weighted"]);
}

#[test]
fn two_copies_with_witnesses() {
    prove(&["pair-witness", "pair-two-witnesses"]);
}

#[test]
fn votes_of_different_weight() {
    prove(&["weighted-pair", "weighted-3"]);
}

#[test]
fn a_member_without_a_copy_that_holds_epochs() {
    prove(&["diskless-majority-3", "diskless-pair-witness", "diskless-nearest-3"]);
}

#[test]
fn every_seeded_bug_is_caught() {
    let mut missed = Vec::new();
    for bug in BUGS {
        let search = bug.search();
        let model = search.model(Some(*bug));
        let outcome = explore(&model, STATES_MAX);
        match &outcome.found {
            Some(found) => {
                println!("{}: caught in {} states by {} steps", bug.name(), outcome.states, found.steps.len());
                assert!(!found.steps.is_empty() && !found.violation.is_empty());
            }
            None => missed.push(format!("{} ({}), {} states", bug.name(), bug.what(), outcome.states)),
        }
    }
    assert!(missed.is_empty(), "not caught: {}", missed.join("; "));
}

/// The very searches that catch the bugs find nothing when nothing is broken: it is the bug that they catch. The smaller
/// ones are made here; the others are among those above.
#[test]
fn without_its_bug_a_search_finds_nothing() {
    for bug in BUGS {
        let search = bug.search();
        let outcome = explore(&search.model(None), 200_000);
        assert!(outcome.found.is_none(), "{}: a violation without a bug", search.name);
    }
}
