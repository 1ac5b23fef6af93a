//! Seeds over every layout: safety under turmoil, then convergence. A failure prints the command that replays it.

use std::panic::AssertUnwindSafe;

use farshore_sim::layout::LAYOUTS;
use farshore_sim::run::run;

/// Seeds per layout.
const SEEDS: u64 = 80;

#[test]
fn every_seed_is_safe_and_converges() {
    let mut runs = 0;
    let mut acked = 0;
    let mut opened = 0;
    let mut failed = Vec::new();
    for layout in LAYOUTS {
        for seed in 0..SEEDS {
            runs += 1;
            let text = match std::panic::catch_unwind(AssertUnwindSafe(|| run(seed, layout, false))) {
                Ok(outcome) => {
                    acked += outcome.acked_writes;
                    opened += outcome.tally.edges.get("epoch-open").copied().unwrap_or(0);
                    match outcome.violation {
                        None => continue,
                        Some(violation) => format!("{}: {}", violation.checker, violation.text),
                    }
                }
                Err(_) => "panic".to_string(),
            };
            let replay = format!("cargo run --release -p farshore-sim -- --seed {seed} --layout {}", layout.name);
            failed.push(format!("{text}\n  replay: {replay}"));
        }
    }
    assert!(failed.is_empty(), "{} of {runs} runs failed:\n{}", failed.len(), failed.join("\n"));
    assert!(runs >= 500, "too few runs to mean anything");
    // A simulator in which nothing happens proves nothing.
    assert!(acked > runs * 100 && opened > runs * 3 / 2, "{acked} acked writes, {opened} epochs in {runs} runs");
}

#[test]
fn a_seed_replays_exactly() {
    for layout in LAYOUTS {
        let (a, b) = (run(7, layout, false), run(7, layout, false));
        assert_eq!(format!("{:?}", a.tally), format!("{:?}", b.tally), "{}", layout.name);
        assert_eq!((a.acked_writes, a.reads, a.virtual_us), (b.acked_writes, b.reads, b.virtual_us));
    }
}
