//! A replicator as it is shipped, but for its journal: that is written and never synced.
//!
//! It exists so that the power cut tests can be seen to fail. The shipped program has no such switch.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use farshore_replicator::config::Config;
use farshore_replicator::control::ControlServer;
use farshore_replicator::disk::{DiskEngine, DiskFile};
use farshore_replicator::engine::Node;
use farshore_replicator::telemetry::{self, HttpServer};
use tokio::signal::unix::{SignalKind, signal};

/// Loses acknowledged writes when the power goes.
#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    config: PathBuf,
}

/// Says that it synced, and did not.
struct Unsynced;

impl DiskEngine for Unsynced {
    fn name(&self) -> &'static str {
        "unsynced"
    }

    fn write_sync(&self, file: &DiskFile, offset: u64, data: &[u8]) -> io::Result<()> {
        file.write_at(offset, data)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::load(&Arguments::parse().config)?;
    telemetry::log::set_up(&config.log)?;
    let (socket, http) = (config.control.socket.clone(), config.http.listen);
    let node = Node::start_on(config, Arc::new(Unsynced)).await?;
    let control = ControlServer::start(&socket, node.clone()).await?;
    let metrics = HttpServer::start(http, node.clone()).await?;
    signal(SignalKind::terminate())?.recv().await;
    control.stop().await?;
    metrics.stop().await;
    node.stop().await;
    Ok(())
}
