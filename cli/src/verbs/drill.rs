//! `drill`: a failover rehearsed. A clone of the newest image that this site has becomes a volume of this site alone, is
//! used, and is removed; the volume and its replication know nothing of it.

use std::collections::BTreeMap;
use std::time::Instant;

use farshore_proto::v1 as api;
use farshore_replicator::control::states::snapshot::READY;

use crate::args::{DrillArgs, Format};
use crate::client::{Replicator, present};
use crate::failure::{Exit, Failure};
use crate::output;
use crate::views::{DrillView, PlaceView, StepView};

use super::volumes::device_kind;

/// Of a drill's volume: what is rehearsed.
const DRILL_LABEL: &str = "drill-of";
const NAME_BYTES_MAX: usize = 63;

/// What has been done so far, and how long each step took.
struct Steps {
    done: Vec<StepView>,
    since: Instant,
}

impl Steps {
    fn ends(&mut self, name: &'static str) {
        self.done.push(StepView { name, seconds: self.since.elapsed().as_secs_f64() });
        self.since = Instant::now();
    }
}

pub async fn drill(format: Format, replicator: &Replicator, args: DrillArgs) -> Result<(), Failure> {
    let rehearsed = args.volume.split('@').next().unwrap_or_default();
    let volume = shown(replicator, rehearsed).await?;
    let clone = name_of(&volume.name);
    if args.end {
        let mut steps = Steps { done: Vec::new(), since: Instant::now() };
        end(replicator, &clone, &mut steps).await?;
        return output::print(format, &view(&volume, clone, steps, true));
    }
    if shown(replicator, &clone).await.is_ok() {
        return Err(Failure::new(
            Exit::Refused,
            format!("a drill of volume {:?} is under way, or was cut short: {clone:?} is there", volume.name),
            format!("end it with: farshore drill {} --end", volume.name),
        ));
    }
    let mut steps = Steps { done: Vec::new(), since: Instant::now() };
    let (made, note) = make(replicator, &volume, &args.volume, &clone).await?;
    steps.ends("clone");
    let used = use_it(replicator, &args, &clone, &mut steps).await;
    let removed = match args.keep && used.is_ok() {
        true => Ok(()),
        // Whatever went wrong: what the drill made goes.
        false => end(replicator, &clone, &mut steps).await,
    };
    let (device, status) = used?;
    removed?;
    let drill = DrillView { image: made.source, device, note, exit: status, ..view(&volume, clone, steps, !args.keep) };
    output::print(format, &drill)?;
    match status {
        None | Some(0) => Ok(()),
        Some(status) => Err(Failure::new(
            Exit::Failed,
            format!("what ran on the drill of volume {:?} ended with {status}", volume.name),
            "its own words stand above; --keep leaves the clone to be looked at",
        )),
    }
}

fn view(volume: &api::VolumeStatus, clone: String, steps: Steps, removed: bool) -> DrillView {
    let seconds = steps.done.iter().map(|step| step.seconds).sum();
    let here = PlaceView { site: volume.reporter_site.clone(), node: volume.reporter_node.clone() };
    DrillView {
        volume: volume.name.clone(),
        clone,
        here,
        image: String::new(),
        device: String::new(),
        note: String::new(),
        steps: steps.done,
        seconds,
        exit: None,
        removed,
    }
}

/// One per volume, so that what an earlier one left behind is found.
fn name_of(volume: &str) -> String {
    let mut name = format!("drill-{volume}");
    name.truncate(NAME_BYTES_MAX);
    name.trim_end_matches(['-', '.']).to_string()
}

async fn shown(replicator: &Replicator, volume: &str) -> Result<api::VolumeStatus, Failure> {
    let request = api::GetVolumeRequest { volume: volume.into() };
    present(replicator.volumes().get(request).await?.into_inner().volume)
}

/// The clone, on this node alone; and a word about its image where that is not of now.
async fn make(
    replicator: &Replicator,
    volume: &api::VolumeStatus,
    what: &str,
    clone: &str,
) -> Result<(api::VolumeStatus, String), Failure> {
    let holds = |m: &api::MemberStatus| m.here && m.kind() != api::MemberKind::Witness;
    if !volume.members.iter().any(holds) {
        return Err(Failure::new(
            Exit::Refused,
            format!("{}/{} holds no copy of volume {:?}", volume.reporter_site, volume.reporter_node, volume.name),
            "run the drill on a node that does, see: farshore volume show",
        ));
    }
    let request = |source_volume: String, source_snapshot: String| api::CreateVolumeRequest {
        name: clone.into(),
        members: vec![api::MemberSpec {
            site: volume.reporter_site.clone(),
            node: volume.reporter_node.clone(),
            kind: api::MemberKind::Data.into(),
            ..Default::default()
        }],
        policy: Some(api::Policy { quorum: "majority".into(), ..Default::default() }),
        labels: BTreeMap::from([(DRILL_LABEL.to_string(), volume.id.clone())]),
        source_volume,
        source_snapshot,
        ..Default::default()
    };
    if what.contains('@') {
        let made = replicator.patient_volumes().create(request(String::new(), what.into())).await?.into_inner();
        return Ok((present(made.volume)?, String::new()));
    }
    let refused = match replicator.patient_volumes().create(request(volume.id.clone(), String::new())).await {
        Ok(made) => return Ok((present(made.into_inner().volume)?, String::new())),
        Err(status) => Failure::from(status),
    };
    // The primary may be what is lost: then the newest moment that this site has.
    let wanted = api::ListSnapshotsRequest { volumes: vec![volume.id.clone()], with_space: false };
    let listed = replicator.snapshots().list(wanted).await?;
    let ready = listed.into_inner().snapshots.into_iter().filter(|s| s.state == READY);
    let Some(newest) = ready.max_by_key(|s| s.seq) else {
        return Err(refused.because("and there is no snapshot of it here that could be used instead"));
    };
    let made = replicator.patient_volumes().create(request(String::new(), newest.id.clone())).await?.into_inner();
    let note = format!("the newest snapshot here, since none could be taken now: {}", refused.message);
    Ok((present(made.volume)?, note))
}

/// Attaches the clone and runs the command on it. Says which device it was, and how the command ended.
async fn use_it(
    replicator: &Replicator,
    args: &DrillArgs,
    clone: &str,
    steps: &mut Steps,
) -> Result<(String, Option<i32>), Failure> {
    let request = api::AttachVolumeRequest {
        volume: clone.into(),
        device: device_kind(args.device).into(),
        ..Default::default()
    };
    let attached = present(replicator.volumes().attach(request).await?.into_inner().device)?;
    let device = if attached.path.is_empty() { attached.socket } else { attached.path };
    steps.ends("attach");
    let Some((program, arguments)) = args.command.split_first() else { return Ok((device, None)) };
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env("FARSHORE_DEVICE", &device).env("FARSHORE_VOLUME", clone);
    let status = command.status().await.map_err(|error| {
        Failure::new(Exit::Usage, format!("{program:?} can't be run"), "name a program after --").because(error)
    })?;
    steps.ends("command");
    Ok((device, Some(status.code().unwrap_or(-1))))
}

/// Takes the device away and removes the clone. Nothing but a drill's volume is ever removed by it.
async fn end(replicator: &Replicator, clone: &str, steps: &mut Steps) -> Result<(), Failure> {
    let found = shown(replicator, clone).await?;
    if !found.labels.contains_key(DRILL_LABEL) {
        return Err(Failure::new(
            Exit::Refused,
            format!("volume {clone:?} was not made by a drill"),
            "it has the name that a drill's would have: rename what uses it, or drill under another volume's name",
        ));
    }
    if found.attached.is_some() {
        let request = api::DetachVolumeRequest { volume: found.id.clone(), force: true, ..Default::default() };
        replicator.volumes().detach(request).await?;
        steps.ends("detach");
    }
    replicator.volumes().delete(api::DeleteVolumeRequest { volume: found.id }).await?;
    steps.ends("remove");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drills_name_is_one_that_a_volume_may_have() {
        assert_eq!(name_of("orders"), "drill-orders");
        let long = name_of(&format!("{}-{}", "a".repeat(56), "b".repeat(6)));
        assert_eq!(long, format!("drill-{}", "a".repeat(56)));
    }
}
