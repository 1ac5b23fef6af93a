//! `farshore-bench`: see `--help`.

use std::process::ExitCode;

use clap::Parser;
use farshore_benches::counting::Counting;
use farshore_benches::plan::Options;
use farshore_benches::run::run;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("bench: {reason}");
            ExitCode::FAILURE
        }
    }
}
