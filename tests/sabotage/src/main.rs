//! `farshore-sabotage`: breaks the protocol in every way it knows and says which checker noticed, and when.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use farshore_sabotage::cases::{CASES, Case, name};
use farshore_sabotage::hunt::{Trial, broken_run, closing_line, hunt_all, rate};
use farshore_sim::stories::{self, STORIES, STORY_SEEDS};

/// Breaks the replication core on purpose, one decision at a time, and demands that the simulator notices.
#[derive(Parser)]
struct Args {
    /// Only these, by name.
    only: Vec<String>,
    /// Replay this run of the one named, telling everything.
    #[arg(long)]
    seed: Option<u64>,
    /// The story that the seed tells; the simulator's turmoil if absent.
    #[arg(long)]
    story: Option<String>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Breaks nothing: tells every story, and how long it took.
    #[arg(long)]
    unbroken: bool,
    /// Does not stop at the first catch: how many of so many runs catch it?
    #[arg(long)]
    rate: Option<u64>,
    /// Give up after so many runs.
    #[arg(long, default_value_t = u64::MAX)]
    limit: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let cases: Vec<&Case> =
        CASES.iter().filter(|c| args.only.is_empty() || args.only.contains(&name(c.sabotage))).collect();
    if cases.is_empty() {
        let names: Vec<String> = CASES.iter().map(|c| name(c.sabotage)).collect();
        eprintln!("nothing is called {}; there are: {}", args.only.join(", "), names.join(", "));
        return ExitCode::from(2);
    }
    if let Some(runs) = args.rate {
        for case in cases {
            println!("{}: {} of {runs} runs", name(case.sabotage), rate(case, runs));
        }
        return ExitCode::SUCCESS;
    }
    if args.unbroken {
        return unbroken(args.story.as_deref(), args.seed);
    }
    if let Some(seed) = args.seed {
        let trial = match args.story.as_deref().map(|name| (name, stories::named(name))) {
            None => Trial::Turmoil(seed),
            Some((_, Some(story))) => Trial::Story(story, seed),
            Some((name, None)) => {
                let names: Vec<&str> = STORIES.iter().map(|s| s.name).collect();
                eprintln!("no story is called {name}; there are: {}", names.join(", "));
                return ExitCode::from(2);
            }
        };
        let outcome = broken_run(Some(cases[0].sabotage), trial, true);
        println!("{:?}", outcome.map(|o| o.violation));
        return ExitCode::SUCCESS;
    }
    let (caught, missed) = hunt_all(&cases, args.threads, args.limit, |case, hunt| println!("{}", hunt.line(case)));
    println!("{}", closing_line(caught, missed));
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn unbroken(only: Option<&str>, seed: Option<u64>) -> ExitCode {
    let (mut ended_badly, verbose) = (0, seed.is_some());
    for story in STORIES.iter().filter(|s| only.is_none_or(|name| s.name == name)) {
        let (began, mut acked) = (Instant::now(), 0);
        for seed in (0..STORY_SEEDS).filter(|s| seed.is_none_or(|only| only == *s)) {
            let outcome = broken_run(None, Trial::Story(story, seed), verbose);
            acked += outcome.as_ref().map_or(0, |o| o.acked_writes);
            if let Some(v) = outcome.and_then(|o| o.violation) {
                ended_badly += 1;
                println!("{}: seed {seed}: {}: {}", story.name, v.checker, v.text);
            }
        }
        let each = acked / STORY_SEEDS;
        println!("{}: {each} acknowledged writes each, {:.1} s", story.name, began.elapsed().as_secs_f64());
    }
    if ended_badly == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
