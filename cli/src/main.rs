//! `farshore`: the command line of the replicator on this machine.
//!
//! Each verb is one call, or a few, of `farshore.v1` on the unix socket; the answer becomes a view, and the view is
//! printed as a table, JSON or YAML. No decision about a volume is made here.

mod args;
mod cert;
mod client;
mod distance_args;
mod doctor;
mod drill_views;
mod failure;
mod inspect;
mod loss_views;
mod output;
mod report;
mod schedule_args;
mod schedule_views;
mod selection;
mod snapshot_args;
mod snapshot_views;
mod table;
mod values;
mod verbs;
mod views;
mod wait;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::Failure::failed("no runtime could be started").because(error).report(),
    };
    match runtime.block_on(verbs::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
