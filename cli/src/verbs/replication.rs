//! `promote`, `demote`, `switchover`, `failover`, `resync`, `scrub`.

use std::io::{self, IsTerminal};

use farshore_proto::v1 as api;

use super::many;
use crate::args::{Format, PromoteArgs, ResyncArgs};
use crate::client::{Replicator, present};
use crate::failure::{Exit, Failure};
use crate::selection::{self, Selection, Which};
use crate::values::Place;
use crate::views::{ForcePlanView, VolumeView};
use crate::{output, wait};

pub async fn promote(format: Format, replicator: &Replicator, args: PromoteArgs) -> Result<(), Failure> {
    if args.all {
        return promote_all(format, replicator).await;
    }
    match (args.selection.only(), args.force) {
        (Some(volume), true) => promote_by_force(format, replicator, volume, &args.members, args.yes).await,
        (None, true) => Err(Failure::usage(
            "a forced promotion is of one volume: what it gives up is said of each",
            "name one volume, and begin with the one that matters most",
        )),
        (Some(volume), false) => {
            let promoted = promoted(replicator.clone(), volume.into()).await?;
            output::print(format, &VolumeView::from(present(promoted)?))
        }
        (None, false) => {
            let names = args.selection.names(replicator).await?;
            many::all(format, names, |volume| promoted(replicator.clone(), volume)).await
        }
    }
}

async fn promoted(replicator: Replicator, volume: String) -> Result<Option<api::VolumeStatus>, Failure> {
    let request = api::PromoteRequest { volume, ..Default::default() };
    Ok(replicator.replication().promote(request).await?.into_inner().volume)
}

/// Says first what it gives up, also with `--yes`, and afterwards what it gave up, as of when it was carried out: that goes to
/// stderr, so that it stands in the terminal and the log even where the answer is read by a program.
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
    let asks = !yes && io::stdin().is_terminal() && io::stderr().is_terminal();
    if !yes && !asks {
        output::print(format, &plan)?;
        return Err(Failure::new(
            Exit::Refused,
            format!("volume {volume:?} is not promoted: a forced promotion gives up what is said above"),
            "if that is meant, add --yes",
        ));
    }
    eprint!("{}", output::View::table(&plan));
    if asks && !named_again(&plan.volume)? {
        return Err(Failure::new(
            Exit::Refused,
            format!("volume {volume:?} is not promoted: that is not its name"),
            "run it again, and type the name; or add --yes",
        ));
    }
    request.confirm = true;
    let done = replicator.replication().promote(request).await?.into_inner();
    eprint!("{}", output::View::table(&ForcePlanView::new(volume, present(done.plan)?, true)));
    output::print(format, &VolumeView::from(present(done.volume)?))
}

/// Who types the name knows which volume it is.
fn named_again(name: &str) -> Result<bool, Failure> {
    eprint!("type the volume's name to go on: ");
    let mut typed = String::new();
    let read = io::stdin().read_line(&mut typed);
    read.map_err(|e| Failure::new(Exit::Failed, "the terminal can't be read", "add --yes").because(e))?;
    Ok(typed.trim() == name)
}

async fn promote_all(format: Format, replicator: &Replicator) -> Result<(), Failure> {
    let volumes = replicator.volumes().list(api::ListVolumesRequest {}).await?.into_inner().volumes;
    // Only where this site has a copy that counts; the others can't be promoted here by any verb but force.
    let candidates = volumes.into_iter().filter(|v| {
        v.role() != api::Role::Primary && v.members.iter().any(|m| m.site == v.reporter_site && m.in_sync_set)
    });
    let names = candidates.map(|v| v.name).collect();
    many::all(format, names, |volume| promoted(replicator.clone(), volume)).await
}

pub async fn demote(format: Format, replicator: &Replicator, selection: Selection) -> Result<(), Failure> {
    let demoted = |volume: String| {
        let replicator = replicator.clone();
        async move { Ok(replicator.replication().demote(api::DemoteRequest { volume }).await?.into_inner().volume) }
    };
    match selection.only() {
        Some(volume) => output::print(format, &VolumeView::from(present(demoted(volume.into()).await?)?)),
        None => many::all(format, selection.names(replicator).await?, demoted).await,
    }
}

pub async fn switchover(
    format: Format,
    replicator: &Replicator,
    selection: Selection,
    to: Place,
    wait: bool,
) -> Result<(), Failure> {
    let moved = |volume: String| {
        let (replicator, to) = (replicator.clone(), to.clone());
        async move {
            let to_there = Some(to.clone());
            let request =
                api::SwitchoverRequest { volume: volume.clone(), to_site: to.site, to_node: to.node, prepare: wait };
            if wait {
                // Its mode may be what keeps the copy there out of the sync set.
                replicator.replication().switchover(request.clone()).await?;
                wait::until_in_sync(&replicator, &volume, to_there.as_ref()).await?;
            }
            let request = api::SwitchoverRequest { prepare: false, ..request };
            Ok(replicator.replication().switchover(request).await?.into_inner().volume)
        }
    };
    match selection.only() {
        Some(volume) => output::print(format, &VolumeView::from(present(moved(volume.into()).await?)?)),
        None => many::all(format, selection.names(replicator).await?, moved).await,
    }
}

pub async fn failover(
    format: Format,
    replicator: &Replicator,
    from: Place,
    (mut volumes, which): (Vec<String>, Which),
    reduce: bool,
) -> Result<(), Failure> {
    if !from.node.is_empty() {
        return Err(Failure::usage(format!("{from} is a node"), format!("name the site alone: --from {}", from.site)));
    }
    if which.is_given() {
        let chosen = selection::chosen(replicator, &which).await?;
        // Not those that have another site's primary. Who has none may have lost it with the site.
        let lost = |v: &api::VolumeStatus| v.primary_site.is_empty() || v.primary_site == from.site;
        volumes = chosen.into_iter().filter(lost).map(|v| v.name).collect();
        if volumes.is_empty() {
            return Err(none_there(&from));
        }
    }
    let request = api::FailoverRequest { from_site: from.site.clone(), volumes, reduce };
    let results = replicator.replication().failover(request).await?.into_inner().results;
    if results.is_empty() {
        return Err(none_there(&from));
    }
    many::print(format, results.into_iter().map(Into::into).collect())
}

fn none_there(from: &Place) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!("no such volume has its primary in site {:?}", from.site),
        "see where the primaries are with: farshore volume list",
    )
}

pub async fn resync(format: Format, replicator: &Replicator, args: ResyncArgs) -> Result<(), Failure> {
    let ResyncArgs { selection, member, discard, wait } = args;
    if discard && selection.only().is_none() {
        return Err(Failure::usage(
            "--discard is of one volume: the history that goes is looked at first",
            "name one volume; the others' copies follow by `farshore resync` without --discard",
        ));
    }
    let resynced = |volume: String| {
        let (replicator, member) = (replicator.clone(), member.clone());
        async move {
            let (site, node) = member.clone().map(|p| (p.site, p.node)).unwrap_or_default();
            let request = api::ResyncRequest { volume: volume.clone(), site, node, discard };
            let answer = replicator.replication().resync(request).await?.into_inner();
            if let (Some(gone), Some(place)) = (answer.discarded, &member) {
                eprintln!("{}", discarded(&volume, place, &gone));
            }
            let status = answer.volume;
            match wait {
                true => Ok(Some(wait::until_in_sync(&replicator, &volume, member.as_ref()).await?)),
                false => Ok(status),
            }
        }
    };
    match selection.only() {
        Some(volume) => output::print(format, &VolumeView::from(present(resynced(volume.into()).await?)?)),
        None => many::all(format, selection.names(replicator).await?, resynced).await,
    }
}

/// Which history goes, and what is left of it.
fn discarded(volume: &str, place: &Place, gone: &api::Discarded) -> String {
    let kept = match gone.kept_as.as_str() {
        "" => String::new(),
        name => format!("; what it had is kept there as volume {name}"),
    };
    format!("{volume}: lineage {} of {place} is given up{kept}", gone.lineage)
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
