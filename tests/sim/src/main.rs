//! `farshore-sim`: replays one seed verbosely, or runs many and sums up.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use farshore_sim::layout::{self, LAYOUTS, Layout};
use farshore_sim::run::{Outcome, run};

/// Runs the replication core under seeded faults.
#[derive(Parser)]
struct Args {
    /// Replay this seed, telling everything.
    #[arg(long)]
    seed: Option<u64>,
    /// Run the seeds from A to B, without B: `0..500`.
    #[arg(long)]
    seeds: Option<String>,
    /// Who the members are and by which rule they acknowledge; all layouts if absent.
    #[arg(long)]
    layout: Option<String>,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

#[derive(Default)]
struct Sum {
    runs: u64,
    failed: Vec<(u64, &'static str, String)>,
    acked: u64,
    reads: u64,
    late: u64,
    messages: u64,
    virtual_us: u64,
    edges: BTreeMap<String, u64>,
    faults: BTreeMap<&'static str, u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let layouts: Vec<&'static Layout> = match args.layout.as_deref().map(|name| (name, layout::named(name))) {
        Some((_, Some(layout))) => vec![layout],
        Some((name, None)) => {
            let names: Vec<&str> = LAYOUTS.iter().map(|l| l.name).collect();
            eprintln!("no layout {name}; there are: {}", names.join(", "));
            return ExitCode::from(2);
        }
        None => LAYOUTS.iter().collect(),
    };
    let range = match (args.seed, args.seeds.as_deref().map(|s| s.split_once(".."))) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(Some((a, b)))) => match (a.parse(), b.parse()) {
            (Ok(a), Ok(b)) => a..b,
            _ => {
                eprintln!("--seeds wants two numbers: 0..500");
                return ExitCode::from(2);
            }
        },
        _ => 0..100,
    };
    let began = Instant::now();
    let mut sum = Sum::default();
    'runs: for seed in range {
        for layout in &layouts {
            let verbose = args.seed.is_some();
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| run(seed, layout, verbose)));
            sum.add(seed, layout, outcome);
            if !sum.failed.is_empty() && !args.keep_going {
                break 'runs;
            }
        }
    }
    sum.print(began.elapsed().as_secs_f64());
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Sum {
    fn add(&mut self, seed: u64, layout: &'static Layout, outcome: std::thread::Result<Outcome>) {
        self.runs += 1;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(_) => {
                self.failed.push((seed, layout.name, "panic (see above)".to_string()));
                return;
            }
        };
        self.acked += outcome.acked_writes;
        self.reads += outcome.reads;
        self.late += outcome.late_completions;
        self.messages += outcome.tally.messages;
        self.virtual_us += outcome.virtual_us;
        for (rule, n) in outcome.tally.edges {
            *self.edges.entry(rule).or_default() += n;
        }
        for (fault, n) in outcome.tally.faults {
            *self.faults.entry(fault).or_default() += n;
        }
        if let Some(violation) = outcome.violation {
            self.failed.push((seed, layout.name, format!("{}: {}", violation.checker, violation.text)));
        }
    }

    fn print(&self, seconds: f64) {
        let runs = self.runs.max(1) as f64;
        println!(
            "{} runs in {seconds:.1} s ({:.1}/s), {:.1} virtual s each; per run: {:.0} acked writes, {:.0} reads, {:.0} \
             messages, {:.1} epochs opened, {:.1} faults; {} completions of a lost epoch",
            self.runs,
            runs / seconds,
            self.virtual_us as f64 / 1e6 / runs,
            self.acked as f64 / runs,
            self.reads as f64 / runs,
            self.messages as f64 / runs,
            self.edges.get("epoch-open").copied().unwrap_or(0) as f64 / runs,
            self.faults.values().sum::<u64>() as f64 / runs,
            self.late,
        );
        for (title, counts) in [
            ("faults", self.faults.iter().map(|(k, v)| (k.to_string(), *v)).collect::<Vec<_>>()),
            ("edges and answers", self.edges.clone().into_iter().collect()),
        ] {
            let list: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
            println!("{title}: {}", list.join(", "));
        }
        for (seed, layout, text) in &self.failed {
            println!("FAILED seed {seed} layout {layout}: {text}");
            println!("  replay: cargo run --release -p farshore-sim -- --seed {seed} --layout {layout}");
        }
    }
}
