//! The process that holds a node's block devices while its replicator comes and goes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use farshore_device::become_io_flusher;
use farshore_device::process::{FrontKind, ProcessServer};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Holds block devices for a replicator, and keeps their requests while it is away.
///
/// On SIGTERM it ends as soon as none of its devices is in use, and serves them until then. When it is killed, the I/O
/// of its devices fails.
#[derive(Parser)]
#[command(name = "farshore-device", version)]
struct Arguments {
    /// Where the replicator asks for devices: device.process in its configuration.
    #[arg(long, default_value = "/run/farshore/device.sock")]
    socket: PathBuf,
    /// One folder for each device; on a file system that ends with the boot.
    #[arg(long, default_value = "/run/farshore")]
    runtime_dir: PathBuf,
    /// fuse: a file served by FUSE, under a loop device. nbd: the kernel's own client, which needs nbd.ko.
    #[arg(long, value_enum, default_value = "fuse")]
    front: Front,
    /// `level`, or `level,module=level`.
    #[arg(long, default_value = "info,fuser=error")]
    log: EnvFilter,
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum Front {
    Fuse,
    Nbd,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_env_filter(arguments.log);
    match arguments.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    // As in the replicator: a part that has panicked leaves others waiting for it for ever.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
    let kind = match arguments.front {
        Front::Fuse => FrontKind::Fuse,
        Front::Nbd => FrontKind::Kernel,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .on_thread_start(become_io_flusher)
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(serve(&arguments.socket, &arguments.runtime_dir, kind)),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("farshore-device: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(socket: &Path, runtime_dir: &Path, kind: FrontKind) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(runtime_dir)?;
    let server = ProcessServer::start(socket, runtime_dir, kind).await?;
    tracing::info!(socket = %socket.display(), "ready");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending when no device is in use any more");
    server.drain().await;
    Ok(())
}
