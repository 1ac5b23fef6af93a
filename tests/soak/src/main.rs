//! make soak: clusters of real daemons under verified load, with whatever can happen to a machine, until time is up.
//!
//! Each layout in turn gets a stage of some minutes: faults one after the other, each followed by proof that every
//! volume works again; at the end every copy of every volume is read in full. A write that was acknowledged and is not
//! there, or a volume that does not come back, ends the run with an exit code that is not zero.

mod faults;
mod layout;
mod stage;
mod tally;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use layout::Layout;
use stage::Stage;
use tally::Tally;

/// Kills, stops, cuts off and takes the power from real daemons under verified load.
#[derive(Parser)]
#[command(name = "farshore-soak", version)]
struct Arguments {
    /// For how long; the stage under way is finished.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Which faults come, in which order. The daemons' timing is not part of it. Drawn if left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this layout.
    #[arg(long)]
    layout: Option<Layout>,
    /// How long a stage lasts, in seconds.
    #[arg(long, default_value_t = 90)]
    stage: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    println!("soak: seed {seed}, {} minutes", arguments.minutes);
    let tally = Arc::new(Tally::default());
    let played = catch_unwind(AssertUnwindSafe(|| play(&arguments, seed, &tally)));
    println!("soak: {tally}");
    let good = match played {
        Ok(Ok(())) => tally.lost() == 0,
        Ok(Err(why)) => {
            println!("soak: this machine can't do it: {why}");
            false
        }
        Err(_) => {
            println!("soak: failed, see above; again with: --seed {seed}");
            false
        }
    };
    println!("{}", tally.closing_line());
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn play(arguments: &Arguments, seed: u64, tally: &Arc<Tally>) -> Result<(), String> {
    let mut dice = StdRng::seed_from_u64(seed);
    let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut layouts = layout::ALL.iter().copied().filter(|l| arguments.layout.is_none_or(|only| only == *l)).cycle();
    while Instant::now() < end {
        let layout = layouts.next().expect("a cycle does not end");
        let mut stage = Stage::set(layout, dice.random(), tally)?;
        stage.say(&format!("{layout:?}, in {}", stage.dir().display()));
        let stage_end = end.min(Instant::now() + Duration::from_secs(arguments.stage));
        while Instant::now() < stage_end {
            let fault = faults::draw(&mut dice);
            faults::apply(fault, &mut stage, &mut dice);
            stage.wait_progress();
        }
        stage.close(&mut dice);
    }
    Ok(())
}
