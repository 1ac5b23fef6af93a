//! `farshore status`, once or for as long as somebody looks.

use farshore_proto::v1 as api;

use crate::args::{Format, StatusArgs};
use crate::client::Replicator;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::views::StatusView;

pub async fn run(format: Format, replicator: &Replicator, args: StatusArgs) -> Result<(), Failure> {
    if !args.watch {
        let request = api::StatusRequest { volumes: args.volumes };
        let report = replicator.node().status(request).await?.into_inner();
        return output::print(format, &StatusView::from(report));
    }
    let interval_ms = u64::try_from(args.interval.as_millis()).unwrap_or(u64::MAX);
    let request = api::WatchStatusRequest { volumes: args.volumes, interval_ms };
    let mut reports = replicator.node().watch_status(request).await?.into_inner();
    let mut seen = 0;
    while args.count.is_none_or(|count| seen < count) {
        let next = tokio::select! {
            next = reports.message() => next?,
            // Interrupting is how one ends a watch; it is no failure.
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(report) = next else {
            return Err(Failure::new(Exit::Unavailable, "the replicator stopped", "start it again, then watch again"));
        };
        output::print_next(format, &StatusView::from(report), seen == 0)?;
        seen += 1;
    }
    Ok(())
}
