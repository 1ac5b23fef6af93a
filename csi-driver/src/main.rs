//! `farshore-csi`: the CSI driver's process, in front of this node's replicator.

use std::process::ExitCode;

use clap::Parser;
use farshore_csi::args::Args;
use farshore_csi::server;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Orchestrators ask a few things at a time; the memory of more threads is better spent elsewhere.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_new(&args.log).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build();
    let served = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let mut end = signal(SignalKind::terminate())?;
            server::serve(args, async move {
                tokio::select! {
                    _ = end.recv() => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
            })
            .await
        }),
        Err(error) => Err(error.into()),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
