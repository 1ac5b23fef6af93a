//! A counterexample, and what a search reached, for people.

use crate::explore::{Counterexample, Outcome};
use crate::model::Model;
use crate::search::Search;
use crate::state::State;

/// Every step with what stands on the disks after it: `a ≤2 11|1 1/1` has promised epoch 2, has two synced records and
/// one that is not, all of epoch 1, and holds configuration 1/1. Without a copy all is behind the bar. A dash marks each
/// forced lineage.
pub fn counterexample(model: &Model, found: &Counterexample) -> String {
    let first = format!("epoch 1 is open at {}", model.layout.members[usize::from(model.bounds.first)]);
    let mut text = format!("  {:>4}  {first:<58} {}\n", 0, disks(model, &found.start));
    for (number, (step, state)) in found.steps.iter().enumerate() {
        let step = step.told(model.layout).to_string();
        text += &format!("  {:>4}  {step:<58} {}\n", number + 1, disks(model, state));
    }
    text + &format!("  violated: {}\n", found.violation)
}

fn disks(model: &Model, state: &State) -> String {
    let one = |m: u8| {
        let r = &state.replicas[usize::from(m)];
        let synced = r.log.cut(r.durable).to_string();
        let (name, lineage) = (model.layout.members[usize::from(m)], "'".repeat(r.lineage.into()));
        let tail =
            if r.durable < r.log.len() { format!("|{}", &r.log.to_string()[synced.len()..]) } else { String::new() };
        format!("{name}{lineage} ≤{} {synced}{tail} {}", r.promised, r.config)
    };
    model.all_members().map(one).collect::<Vec<_>>().join("  ")
}

pub fn summary(search: &Search, outcome: &Outcome) -> String {
    let b = search.bounds;
    let mut bounds = format!("{} epochs, {} writes", b.epochs, b.writes);
    for (count, what) in [(b.changes, "changes"), (b.wipes, "wiped disks"), (b.forces, "forces")] {
        if count > 0 {
            bounds += &format!(", {count} {what}");
        }
    }
    let r = outcome.reached;
    let reached: Vec<&str> = [
        (r.changed, "a change in effect"),
        (r.readmitted, "a wiped voter admitted"),
        (r.renewed, "a wiped copy in the sync set"),
        (r.forced, "a forced lineage open"),
        (r.in_memory, "one of them without a copy"),
        (r.overtaken, "a holder overtaken alive"),
    ]
    .iter()
    .filter_map(|(was, what)| was.then_some(*what))
    .collect();
    format!(
        "{:<24} {:<32} {bounds}: {} states, {} steps deep, {:.1} s, {} MiB; epoch {} opened{}{}",
        search.layout,
        search.name,
        outcome.states,
        outcome.depth,
        outcome.seconds,
        outcome.bytes >> 20,
        r.opened,
        if reached.is_empty() { "" } else { ", " },
        reached.join(", "),
    )
}
