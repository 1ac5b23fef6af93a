//! The tests' replicator in memory, with real loop devices, as a process: `fake_replicator SOCKET FOLDER`. For trying the
//! driver, and conformance suites against it, where no real replicator can serve what is tried.

#[path = "../tests/fake/mod.rs"]
mod fake;

use std::path::PathBuf;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let (Some(socket), Some(folder)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: fake_replicator SOCKET FOLDER");
        std::process::exit(2);
    };
    let replicator = fake::Fake::default();
    replicator.world().devices = Some(folder);
    replicator.serve(&socket).await;
    let _ = tokio::signal::ctrl_c().await;
}
