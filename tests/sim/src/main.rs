//! `farshore-sim`: replays one seed and tells everything, or runs many and sums up.

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use farshore_sim::layout::{self, LAYOUTS, Layout};
use farshore_sim::sweep::{judged, sweep};

/// Runs the replication core under seeded faults.
#[derive(Parser)]
struct Args {
    /// Replay this seed, telling everything.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run this many seeds from 0 on, or those from A to B, without B: `500`, `500..1000`.
    #[arg(long, value_parser = seeds, default_value = "500")]
    seeds: Range<u64>,
    /// Who the members are and by which rule they acknowledge; drawn by the seed if absent.
    #[arg(long, value_parser = named)]
    layout: Option<&'static Layout>,
    /// Threads; as many as there are processors if absent.
    #[arg(long)]
    jobs: Option<usize>,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").unwrap_or(("0", text));
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) if from < to => Ok(from..to),
        _ => Err("wants a number of seeds, or a range of them: 500, 500..1000".to_string()),
    }
}

fn named(name: &str) -> Result<&'static Layout, String> {
    layout::named(name).ok_or_else(|| {
        let names: Vec<&str> = LAYOUTS.iter().map(|l| l.name).collect();
        format!("there is no such layout; there are {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        let layout = args.layout.unwrap_or_else(|| layout::drawn(seed));
        println!("seed {seed} layout {}", layout.name);
        return match judged(seed, layout, true) {
            Ok(_) => {
                println!("sim: 1 seeds, 0 violations");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("FAILED seed {seed} layout {}: {}", layout.name, failure.text);
                ExitCode::FAILURE
            }
        };
    }
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let began = Instant::now();
    let sum = sweep(args.seeds, args.layout, jobs, args.keep_going);
    sum.print(began.elapsed().as_secs_f64());
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
