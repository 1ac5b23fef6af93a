//! `farshore-model`: tries every history within bounds, and shows that each seeded bug is caught.

use std::process::ExitCode;

use clap::Parser;
use farshore_model::bug::{self, BUGS, Bug};
use farshore_model::explore::explore;
use farshore_model::search::{SEARCHES, Search};
use farshore_model::tell;

/// Searches the protocol's model to the last state.
#[derive(Parser)]
struct Args {
    /// Only this layout.
    #[arg(long)]
    layout: Option<String>,
    /// Also the searches that take long.
    #[arg(long)]
    larger: bool,
    /// Break this rule, and show the history that proves it matters.
    #[arg(long)]
    bug: Option<String>,
    /// Give up a search after this many states.
    #[arg(long, default_value_t = 100_000_000)]
    states_max: u64,
}

#[derive(Default)]
struct Sum {
    layouts: Vec<&'static str>,
    states: u64,
    violations: u64,
    cut_short: u64,
    caught: u64,
    missed: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut sum = Sum::default();
    if let Some(name) = &args.bug {
        let Some(bug) = bug::named(name) else {
            eprintln!("no bug {name}; there are:");
            BUGS.iter().for_each(|b| eprintln!("  {:<22} {}", b.name(), b.what()));
            return ExitCode::from(2);
        };
        sum.hunt(bug, &args, true);
        return if sum.caught == 1 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let asked = |s: &&Search| args.layout.as_deref().is_none_or(|l| l == s.layout) && (args.larger || !s.larger);
    for search in SEARCHES.iter().filter(asked) {
        sum.prove(search, &args);
    }
    if sum.layouts.is_empty() {
        eprintln!("no search has layout {}", args.layout.as_deref().unwrap_or_default());
        return ExitCode::from(2);
    }
    if args.layout.is_none() {
        BUGS.iter().for_each(|bug| sum.hunt(*bug, &args, false));
    }
    if sum.cut_short > 0 {
        println!("{} searches were given up: see --states-max", sum.cut_short);
    }
    println!(
        "model: {} layouts, {} states, {} violations; {} bugs caught, {} missed",
        sum.layouts.len(),
        sum.states,
        sum.violations,
        sum.caught,
        sum.missed
    );
    if sum.violations + sum.missed + sum.cut_short == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Sum {
    fn prove(&mut self, search: &Search, args: &Args) {
        let model = search.model(None);
        let outcome = explore(&model, args.states_max);
        println!("{}", tell::summary(search, &outcome));
        if !self.layouts.contains(&search.layout) {
            self.layouts.push(search.layout);
        }
        self.states += outcome.states;
        self.cut_short += u64::from(outcome.cut_short);
        if let Some(found) = &outcome.found {
            self.violations += 1;
            print!("{}", tell::counterexample(&model, found));
        }
    }

    fn hunt(&mut self, bug: Bug, args: &Args, show: bool) {
        let search = bug.search();
        let model = search.model(Some(bug));
        let outcome = explore(&model, args.states_max);
        let Some(found) = &outcome.found else {
            self.missed += 1;
            println!("bug {:<22} MISSED in {} states of {}: {}", bug.name(), outcome.states, search.layout, bug.what());
            return;
        };
        self.caught += 1;
        println!(
            "bug {:<22} caught in {} states of {}, by {} steps: {}",
            bug.name(),
            outcome.states,
            search.layout,
            found.steps.len(),
            bug.what()
        );
        if show {
            print!("{}", tell::counterexample(&model, found));
        } else {
            println!("    {}", found.violation);
        }
    }
}
