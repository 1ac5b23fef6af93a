//! `farshore-bench`: see `--help`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use farshore_benches::limits::Limits;
use farshore_benches::plan::{Options, Plan};
use farshore_benches::stage::Stage;
use farshore_benches::{machine, matrix};
use farshore_tests::cluster::take_programs_from;

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("bench: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    let began = Instant::now();
    let plan = Plan::of(&options);
    machine::check(&options.dir, 6 * plan.volume_bytes)?;
    if let Some(folder) = &options.bin_dir {
        take_programs_from(folder.clone());
    }
    let mut limits = Limits::default();
    let short = Duration::from_secs(if plan.quick { 1 } else { 3 });
    limits.measure_appends(&options.dir, short)?;
    limits.measure_relay(&[0.0, 2.5], short)?;
    println!("{limits:?}");
    let mut stage = Stage::set_up(&options.dir, &options.transport.join("\n"));
    matrix::prepare(&plan, &mut stage)?;
    let matrix = matrix::run(&plan, &mut stage, &mut limits, short, |line| println!("{line}"))?;
    println!("{limits:?}\n{:?}\n{:?}", matrix.written, began.elapsed());
    Ok(())
}
