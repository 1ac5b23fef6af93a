//! `failback`: everything back to the site that was lost: its copies made whole, then a switchover. Each step looks first
//! whether it is done, so the verb can be run again wherever it was cut short.

use std::time::{Duration, Instant};

use farshore_proto::v1 as api;
use farshore_replicator::control::states::{self, member};

use super::many;
use crate::args::{FailbackArgs, Format};
use crate::client::{Replicator, present};
use crate::failure::{Exit, Failure};
use crate::values::Place;
use crate::views::{FailbackView, FailbacksView, StepView};
use crate::{output, wait};

/// For a site that has just come back to be heard of.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);

pub async fn failback(format: Format, replicator: &Replicator, args: FailbackArgs) -> Result<(), Failure> {
    let volumes = match args.selection.volumes.is_empty() && !args.selection.which.is_given() {
        true => with_a_copy_in(replicator, &args.to).await?,
        false => args.selection.names(replicator).await?,
    };
    let goes = |volume: String| {
        let (replicator, to, discard) = (replicator.clone(), args.to.clone(), args.discard);
        async move { one(&replicator, &volume, &to, discard).await }
    };
    let results = many::each(volumes, goes).await.into_iter().map(|(volume, result)| match result {
        Ok(steps) => FailbackView { volume, ok: true, steps, error: String::new(), remedy: String::new() },
        Err(failure) => {
            FailbackView { volume, ok: false, steps: Vec::new(), error: failure.message, remedy: failure.remedy }
        }
    });
    let results: Vec<FailbackView> = results.collect();
    let (all, failed) = (results.len(), results.iter().filter(|r| !r.ok).count());
    output::print(format, &FailbacksView { to: args.to.to_string(), volumes: results })?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::new(
            Exit::Failed,
            format!("{failed} of {all} volumes did not go back"),
            "each one's reason stands above; run the verb again when that is mended",
        )),
    }
}

async fn with_a_copy_in(replicator: &Replicator, to: &Place) -> Result<Vec<String>, Failure> {
    let listed = replicator.volumes().list(api::ListVolumesRequest {}).await?.into_inner().volumes;
    let there = |v: &api::VolumeStatus| v.members.iter().any(|m| is_copy_at(m, to));
    let names: Vec<String> = listed.into_iter().filter(there).map(|v| v.name).collect();
    if names.is_empty() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("no volume here has a copy in {to}"),
            "see which sites hold copies with: farshore volume list",
        ));
    }
    Ok(names)
}

fn is_copy_at(m: &api::MemberStatus, to: &Place) -> bool {
    m.site == to.site && (to.node.is_empty() || m.node == to.node) && m.holds_copy()
}

/// The volume, when its copy there has said where it stands; at last also if it has not.
async fn once_heard_of(replicator: &Replicator, name: &str, to: &Place) -> Result<api::VolumeStatus, Failure> {
    let since = Instant::now();
    loop {
        let request = api::GetVolumeRequest { volume: name.into() };
        let volume = present(replicator.volumes().get(request).await?.into_inner().volume)?;
        let silent = |m: &api::MemberStatus| matches!(m.state.as_str(), member::UNREACHABLE | member::UNKNOWN);
        let waits = volume.members.iter().any(|m| is_copy_at(m, to) && silent(m)) && volume.primary_site != to.site;
        if !waits || since.elapsed() >= PATIENCE {
            return Ok(volume);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn one(replicator: &Replicator, name: &str, to: &Place, discard: bool) -> Result<Vec<StepView>, Failure> {
    let volume = once_heard_of(replicator, name, to).await?;
    let copy = volume.members.iter().find(|m| is_copy_at(m, to)).ok_or_else(|| {
        Failure::new(
            Exit::NotFound,
            format!("volume {name:?} has no copy in {to}"),
            format!("add one with: farshore member add {name} {to}"),
        )
    })?;
    if volume.state == states::volume::DIVERGED {
        return Err(Failure::new(
            Exit::Refused,
            format!("the copy of volume {name:?} here has a history of its own: {}", volume.reason),
            "run it where the volume is led now, in a site that went on",
        ));
    }
    if volume.primary_site.is_empty() {
        return Err(Failure::new(
            Exit::Refused,
            format!("volume {name:?} has no primary to go back from"),
            format!("promote it in a site of its sync set: farshore promote {name}"),
        ));
    }
    let mut steps = Vec::new();
    if volume.primary_site == to.site && (to.node.is_empty() || volume.primary_node == to.node) {
        return Ok(steps);
    }
    if copy.state == member::UNREACHABLE {
        return Err(Failure::new(
            Exit::Unavailable,
            format!("{to} can't be reached, so volume {name:?} can't go back there"),
            "see the links with: farshore site list",
        ));
    }
    if copy.state == member::DIVERGED && !discard {
        return Err(Failure::new(
            Exit::Refused,
            format!("the copy of volume {name:?} in {to} has a history of its own: {}", copy.reason),
            "look at it there; --discard makes the copy anew, and keeps that history as a volume diverged-…",
        ));
    }
    let move_it = api::SwitchoverRequest {
        volume: volume.id.clone(),
        to_site: to.site.clone(),
        to_node: copy.node.clone(),
        prepare: false,
    };
    if !copy.in_sync_set || copy.state != member::REPLICATING {
        let since = Instant::now();
        let discard = copy.state == member::DIVERGED;
        let place = Place { site: copy.site.clone(), node: copy.node.clone() };
        let (site, node) = (place.site.clone(), place.node.clone());
        let request = api::ResyncRequest { volume: volume.id.clone(), site, node, discard };
        replicator.replication().resync(request).await?;
        // Where the mode leaves the copy there behind.
        replicator.replication().switchover(api::SwitchoverRequest { prepare: true, ..move_it.clone() }).await?;
        wait::until_in_sync(replicator, &volume.id, Some(&place)).await?;
        steps.push(StepView { name: "resync", seconds: since.elapsed().as_secs_f64() });
    }
    let since = Instant::now();
    replicator.replication().switchover(move_it).await?;
    steps.push(StepView { name: "switchover", seconds: since.elapsed().as_secs_f64() });
    Ok(steps)
}
