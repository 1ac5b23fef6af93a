//! `farshore status`, once or for as long as somebody looks.

use std::time::Duration;

use farshore_proto::v1 as api;

use crate::args::{Global, StatusArgs};
use crate::client::Replicator;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::views::StatusView;

/// Between two attempts to reach a replicator that stopped while it was watched.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);

pub async fn run(global: &Global, replicator: Replicator, args: StatusArgs) -> Result<(), Failure> {
    if !args.watch {
        let request = api::StatusRequest { volumes: args.volumes };
        let report = replicator.node().status(request).await?.into_inner();
        return output::print(global.output, &StatusView::from(report));
    }
    tokio::select! {
        watched = watch(global, replicator, args) => watched,
        // Interrupting is how one ends a watch; it is no failure.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Goes on through a restart or upgrade of the replicator, which is when somebody watches. Only what would fail at
/// the first attempt is an error.
async fn watch(global: &Global, mut replicator: Replicator, args: StatusArgs) -> Result<(), Failure> {
    let mut seen = 0;
    loop {
        let ended = reports(global, &replicator, &args, &mut seen).await;
        let Err(failure) = ended else { return Ok(()) };
        if seen == 0 || failure.exit != Exit::Unavailable {
            return Err(failure);
        }
        eprintln!("{}; trying again", failure.message);
        replicator = loop {
            tokio::time::sleep(RECONNECT_INTERVAL).await;
            if let Ok(replicator) = Replicator::connect(global).await {
                break replicator;
            }
        };
    }
}

/// Prints reports until enough were `seen`, or the stream ends, which is an error.
async fn reports(global: &Global, replicator: &Replicator, args: &StatusArgs, seen: &mut u64) -> Result<(), Failure> {
    let interval_ms = u64::try_from(args.interval.as_millis()).unwrap_or(u64::MAX);
    let request = api::WatchStatusRequest { volumes: args.volumes.clone(), interval_ms };
    let mut reports = replicator.node().watch_status(request).await?.into_inner();
    while args.count.is_none_or(|count| *seen < count) {
        let Some(report) = reports.message().await? else {
            return Err(Failure::new(Exit::Unavailable, "the replicator stopped", "start it, then watch again"));
        };
        output::print_next(global.output, &StatusView::from(report), *seen == 0)?;
        *seen += 1;
    }
    Ok(())
}
