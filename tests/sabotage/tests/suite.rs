//! Everything that can be broken is broken, and noticed.

use std::collections::BTreeSet;

use farshore_sabotage::cases::{CASES, Case};
use farshore_sabotage::hunt::{closing_line, hunt_all};
use farshore_sim::stories;

/// Fewer would prove little.
const LEAST: usize = 20;

#[test]
fn whatever_is_broken_is_caught() {
    let cases: Vec<&Case> = CASES.iter().collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (caught, missed) = hunt_all(&cases, threads, u64::MAX, |case, hunt| println!("{}", hunt.line(case)));
    println!("{}", closing_line(caught, missed));
    assert_eq!(missed, 0, "see the lines above that say MISSED");
    assert!(caught >= LEAST, "only {caught}");
}

#[test]
fn every_way_to_break_the_core_is_a_case_and_every_story_exists() {
    let source = include_str!("../../../replicator/core/src/sabotage.rs");
    let (_, list) = source.split_once("pub enum Sabotage {").expect("the core lists what can be broken");
    let (list, _) = list.split_once("\n}").expect("the list ends");
    let comment = |line: &&str| !line.is_empty() && !line.starts_with("//");
    let known: BTreeSet<&str> = list.lines().map(str::trim).filter(comment).map(|l| l.trim_end_matches(',')).collect();
    let cases: BTreeSet<String> = CASES.iter().map(|c| format!("{:?}", c.sabotage)).collect();
    assert_eq!(known, cases.iter().map(String::as_str).collect());
    assert_eq!(CASES.len(), cases.len(), "one is named twice");
    for name in CASES.iter().flat_map(|c| c.stories) {
        assert!(stories::named(name).is_some(), "there is no story {name}");
    }
}
