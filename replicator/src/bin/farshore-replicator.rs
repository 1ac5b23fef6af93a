//! The storage daemon of a node.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use farshore_replicator::config::{CONFIG_PATH, Config};
use farshore_replicator::control::ControlServer;
use farshore_replicator::device::become_io_flusher;
use farshore_replicator::engine::Node;
use farshore_replicator::telemetry::{self, HttpServer};
use tokio::signal::unix::{SignalKind, signal};

/// Holds replicas, runs the primaries of volumes attached on this node, and speaks to its peers.
#[derive(Parser)]
#[command(name = "farshore-replicator", version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, default_value = CONFIG_PATH)]
    config: PathBuf,
    /// Only check the configuration, then exit.
    #[arg(long)]
    check_config: bool,
}

/// For work that can't be cancelled, after everything was closed in order.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    if arguments.check_config {
        return match telemetry::log::parse_filter(&config.log.filter) {
            Ok(_) => {
                println!("{}", config.summary());
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        };
    }
    if let Err(error) = telemetry::log::set_up(&config.log) {
        return fail(&error);
    }
    // A part that has panicked leaves others waiting for it for ever. A restart recovers; a daemon that hangs does not.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.node.workers())
        .enable_all()
        .on_thread_start(become_io_flusher)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let ended = runtime.block_on(serve(config));
    // What still blocks has nothing to lose: all that was said is on disk.
    runtime.shutdown_timeout(SHUTDOWN_PATIENCE);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

fn fail(error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    eprintln!("farshore-replicator: {error}");
    ExitCode::FAILURE
}

async fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let socket = config.control.socket.clone();
    let http = config.http.listen;
    // First of all: until they are taken, signals end the process without a word, and it answers before `serve` gets here.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reload = signal(SignalKind::hangup())?;
    let node = tokio::select! {
        node = Node::start(config) => node?,
        _ = terminate.recv() => leave_unstarted(),
        _ = interrupt.recv() => leave_unstarted(),
    };
    let mut control = ControlServer::start(&socket, node.clone()).await?;
    let metrics = HttpServer::start(http, node.clone()).await?;
    tracing::info!(socket = %socket.display(), %http, "ready");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = reload.recv() => reload_certificates(&node).await,
            ended = control.ended() => {
                ended?;
                break;
            }
        }
    }
    tracing::info!("stopping");
    control.stop().await?;
    metrics.stop().await;
    node.stop().await;
    Ok(())
}

/// Told to stop while it starts, which may take long. Nothing was said to anybody yet, so this is as safe as a crash, and
/// the next start recovers.
fn leave_unstarted() -> ! {
    tracing::info!("stopping before the start was over");
    std::process::exit(0)
}

async fn reload_certificates(node: &Arc<Node>) {
    if let Err(error) = node.shared.transport.reload_certificates().await {
        tracing::error!(%error, "certificates not reloaded; the old ones stay in use");
    }
}
