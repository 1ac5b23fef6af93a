//! `promote`, `demote`, `switchover`, `failover`, `resync`, `scrub`.

use farshore_proto::v1 as api;
use farshore_replicator::control::OpError;

use crate::args::{Format, PromoteArgs, ResyncArgs};
use crate::client::{Replicator, present};
use crate::failure::{Exit, Failure};
use crate::values::Place;
use crate::views::{ForcePlanView, ResultView, ResultsView, VolumeView};
use crate::{output, wait};

pub async fn promote(format: Format, replicator: &Replicator, args: PromoteArgs) -> Result<(), Failure> {
    let Some(volume) = args.volume else { return promote_all(format, replicator).await };
    if args.force {
        return promote_by_force(format, replicator, &volume, &args.members, args.yes).await;
    }
    let request = api::PromoteRequest { volume, ..Default::default() };
    let promoted = replicator.replication().promote(request).await?.into_inner();
    output::print(format, &VolumeView::from(present(promoted.volume)?))
}

/// Says first what it gives up, also with `--yes`: the plan goes to stderr then, so that it stands in the terminal
/// and the log even where the answer is read by a program.
async fn promote_by_force(
    format: Format,
    replicator: &Replicator,
    volume: &str,
    members: &[Place],
    yes: bool,
) -> Result<(), Failure> {
    let mut request = api::PromoteRequest {
        volume: volume.into(),
        force: true,
        members: members.iter().map(Place::to_string).collect(),
        confirm: false,
    };
    let planned = replicator.replication().promote(request.clone()).await?.into_inner();
    let plan = ForcePlanView::new(volume, present(planned.plan)?, false);
    if !yes {
        output::print(format, &plan)?;
        return Err(Failure::new(
            Exit::Refused,
            format!("volume {volume:?} is not promoted: a forced promotion gives up what is said above"),
            "if that is meant, add --yes",
        ));
    }
    eprint!("{}", output::View::table(&plan));
    request.confirm = true;
    let done = replicator.replication().promote(request).await?.into_inner();
    output::print(format, &VolumeView::from(present(done.volume)?))
}

async fn promote_all(format: Format, replicator: &Replicator) -> Result<(), Failure> {
    let volumes = replicator.volumes().list(api::ListVolumesRequest {}).await?.into_inner().volumes;
    let mut results = Vec::new();
    // Only where this site has a copy that counts; the others can't be promoted here by any verb but force.
    let candidates = volumes.into_iter().filter(|v| {
        v.role() != api::Role::Primary && v.members.iter().any(|m| m.site == v.reporter_site && m.in_sync_set)
    });
    for volume in candidates {
        let request = api::PromoteRequest { volume: volume.id, ..Default::default() };
        results.push(match replicator.replication().promote(request).await {
            Ok(promoted) => {
                let status = Some(present(promoted.into_inner().volume)?.into());
                ResultView { volume: volume.name, ok: true, error: None, status }
            }
            Err(status) => {
                let error = Some(OpError::from_status(&status).detail().into());
                ResultView { volume: volume.name, ok: false, error, status: None }
            }
        });
    }
    print_results(format, results)
}

pub async fn demote(format: Format, replicator: &Replicator, volume: String) -> Result<(), Failure> {
    let demoted = replicator.replication().demote(api::DemoteRequest { volume }).await?.into_inner();
    output::print(format, &VolumeView::from(present(demoted.volume)?))
}

pub async fn switchover(format: Format, replicator: &Replicator, volume: String, to: Place) -> Result<(), Failure> {
    let request = api::SwitchoverRequest { volume, to_site: to.site, to_node: to.node };
    let moved = replicator.replication().switchover(request).await?.into_inner();
    output::print(format, &VolumeView::from(present(moved.volume)?))
}

pub async fn failover(
    format: Format,
    replicator: &Replicator,
    from: Place,
    volumes: Vec<String>,
    reduce: bool,
) -> Result<(), Failure> {
    if !from.node.is_empty() {
        return Err(Failure::usage(format!("{from} is a node"), format!("name the site alone: --from {}", from.site)));
    }
    let request = api::FailoverRequest { from_site: from.site.clone(), volumes, reduce };
    let results = replicator.replication().failover(request).await?.into_inner().results;
    if results.is_empty() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("no such volume has its primary in site {:?}", from.site),
            "see where the primaries are with: farshore volume list",
        ));
    }
    print_results(format, results.into_iter().map(Into::into).collect())
}

fn print_results(format: Format, results: Vec<ResultView>) -> Result<(), Failure> {
    let (all, failed) = (results.len(), results.iter().filter(|r| !r.ok).count());
    output::print(format, &ResultsView { results })?;
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{failed} of {all} volumes failed"), "each one's reason stands above"))
}

pub async fn resync(format: Format, replicator: &Replicator, args: ResyncArgs) -> Result<(), Failure> {
    let ResyncArgs { volume, member, discard, wait } = args;
    let (site, node) = member.clone().map(|p| (p.site, p.node)).unwrap_or_default();
    let request = api::ResyncRequest { volume, site, node, discard };
    let mut volume = present(replicator.replication().resync(request).await?.into_inner().volume)?;
    if wait {
        volume = wait::until_in_sync(replicator, &volume.id, member.as_ref()).await?;
    }
    output::print(format, &VolumeView::from(volume))
}

pub async fn scrub(format: Format, replicator: &Replicator, volume: String, wait: bool) -> Result<(), Failure> {
    let begun = replicator.replication().scrub(api::ScrubRequest { volume }).await?.into_inner();
    let mut volume = present(begun.volume)?;
    if wait {
        volume = wait::until_scrubbed(replicator, volume).await?;
    }
    let lost = volume.scrub.as_ref().map_or(0, |scrub| scrub.lost_blocks);
    let name = volume.name.clone();
    output::print(format, &VolumeView::from(volume))?;
    if wait && lost > 0 {
        let message = format!("{lost} damaged blocks of volume {name:?} could not be repaired");
        return Err(Failure::new(Exit::Failed, message, "see the conditions above"));
    }
    Ok(())
}
