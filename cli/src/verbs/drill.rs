//! `drill`: a failover rehearsed. Clones of the newest images that this site has become volumes of this site alone, are
//! used, and are removed; the volumes and their replication know nothing of it.

use std::time::Instant;

use farshore_proto::v1 as api;

use super::drill_images::{self, Made};
use super::volumes::device_kind;
use crate::args::{DrillArgs, Format};
use crate::client::{Replicator, present};
use crate::drill_views::{DrillView, DrilledView, DrillsView};
use crate::failure::{Exit, Failure};
use crate::output;
use crate::selection::Selection;
use crate::views::{PlaceView, StepView};

/// Of a drill's clone: what is rehearsed. Of a snapshot that was cut for one: where.
pub const DRILL_LABEL: &str = "drill-of";
const NAME_BYTES_MAX: usize = 63;

/// A volume of a drill.
pub struct Rehearsed {
    pub volume: api::VolumeStatus,
    /// The snapshot that was named, as it was.
    pub snapshot: Option<String>,
    pub clone: String,
}

/// What has been done so far, and how long each step took.
struct Steps {
    done: Vec<StepView>,
    since: Instant,
}

impl Steps {
    fn begin() -> Steps {
        Steps { done: Vec::new(), since: Instant::now() }
    }

    fn ends(&mut self, name: &'static str) {
        self.done.push(StepView { name, seconds: self.since.elapsed().as_secs_f64() });
        self.since = Instant::now();
    }
}

/// What came of it.
#[derive(Default)]
struct Outcome {
    volumes: Vec<DrilledView>,
    one_moment: bool,
    note: String,
    exit: Option<i32>,
    removed: bool,
}

pub async fn drill(format: Format, replicator: &Replicator, args: DrillArgs) -> Result<(), Failure> {
    let selection = Selection { volumes: args.volumes.clone(), which: args.which.clone() };
    let mut of = Vec::new();
    for named in selection.names(replicator).await? {
        let volume = shown(replicator, named.split('@').next().unwrap_or_default()).await?;
        let (clone, snapshot) = (name_of(&volume.name), named.contains('@').then_some(named));
        of.push(Rehearsed { volume, snapshot, clone });
    }
    if let Some(at) = (1..of.len()).find(|at| of[..*at].iter().any(|before| before.volume.id == of[*at].volume.id)) {
        return Err(Failure::usage(format!("volume {:?} is named twice", of[at].volume.name), "name it once"));
    }
    let mut steps = Steps::begin();
    if args.end {
        end_all(replicator, &of, &mut steps).await?;
        let ended = |of: &Rehearsed| drilled(of, String::new(), None);
        let outcome = Outcome { volumes: of.iter().map(ended).collect(), removed: true, ..Outcome::default() };
        return print(format, &of, outcome, steps);
    }
    for of in &of {
        refuse_elsewhere(&of.volume)?;
        if shown(replicator, &of.clone).await.is_ok() {
            return Err(Failure::new(
                Exit::Refused,
                format!(
                    "a drill of volume {:?} is under way, or was cut short: {:?} is there",
                    of.volume.name, of.clone
                ),
                format!("end it with: farshore drill {} --end", of.volume.name),
            ));
        }
    }
    let made = match drill_images::make(replicator, &of, args.apart).await {
        Ok(made) => made,
        Err(failure) => {
            // Of several some may have been made.
            let _ = remove(replicator, &of, &mut steps).await;
            return Err(failure);
        }
    };
    steps.ends("clone");
    let used = use_them(replicator, &args, &of, made, &mut steps).await;
    let removed = match args.keep && used.is_ok() {
        true => Ok(0),
        // Whatever went wrong: what the drill made goes.
        false => remove(replicator, &of, &mut steps).await,
    };
    let outcome = used?;
    removed?;
    let status = outcome.exit;
    let names: Vec<String> = of.iter().map(|of| of.volume.name.clone()).collect();
    print(format, &of, Outcome { removed: !args.keep, ..outcome }, steps)?;
    match status {
        None | Some(0) => Ok(()),
        Some(status) => Err(Failure::new(
            Exit::Failed,
            format!("what ran on the drill of {} ended with {status}", names.join(", ")),
            "its own words stand above; --keep leaves the clones to be looked at",
        )),
    }
}

/// Of one volume that volume's report, of several one with a line for each.
fn print(format: Format, of: &[Rehearsed], outcome: Outcome, steps: Steps) -> Result<(), Failure> {
    let seconds = steps.done.iter().map(|step| step.seconds).sum();
    let volume = &of[0].volume;
    let here = PlaceView { site: volume.reporter_site.clone(), node: volume.reporter_node.clone() };
    let Outcome { mut volumes, one_moment, note, exit, removed } = outcome;
    let steps = steps.done;
    match (volumes.len(), volumes.pop()) {
        (1, Some(of)) => output::print(format, &DrillView { of, here, note, steps, seconds, exit, removed }),
        (_, last) => {
            volumes.extend(last);
            output::print(format, &DrillsView { volumes, one_moment, here, note, steps, seconds, exit, removed })
        }
    }
}

fn drilled(of: &Rehearsed, device: String, made: Option<&drill_images::Clone>) -> DrilledView {
    DrilledView {
        volume: of.volume.name.clone(),
        clone: of.clone.clone(),
        image: made.map(|made| made.status.source.clone()).unwrap_or_default(),
        missed: made.and_then(|made| made.missed.clone()),
        device,
    }
}

/// One per volume, so that what an earlier one left behind is found; also where two long names begin alike.
fn name_of(volume: &str) -> String {
    let whole = format!("drill-{volume}");
    if whole.len() <= NAME_BYTES_MAX {
        return whole;
    }
    let hash = format!("-{:08x}", crc32fast::hash(volume.as_bytes()));
    whole[..NAME_BYTES_MAX - hash.len()].trim_end_matches(['-', '.']).to_owned() + &hash
}

/// The node that reports.
pub fn here_of(volume: &api::VolumeStatus) -> String {
    format!("{}/{}", volume.reporter_site, volume.reporter_node)
}

async fn shown(replicator: &Replicator, volume: &str) -> Result<api::VolumeStatus, Failure> {
    let request = api::GetVolumeRequest { volume: volume.into() };
    present(replicator.volumes().get(request).await?.into_inner().volume)
}

fn refuse_elsewhere(volume: &api::VolumeStatus) -> Result<(), Failure> {
    if volume.members.iter().any(|m| m.here && m.holds_copy()) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Refused,
        format!("{} holds no copy of volume {:?}", here_of(volume), volume.name),
        "run the drill on a node that does, see: farshore volume show",
    ))
}

/// Attaches the clones and runs the command on them. Says which devices they were, and how the command ended.
async fn use_them(
    replicator: &Replicator,
    args: &DrillArgs,
    of: &[Rehearsed],
    made: Made,
    steps: &mut Steps,
) -> Result<Outcome, Failure> {
    let (mut volumes, mut devices) = (Vec::new(), Vec::new());
    for (of, made) in of.iter().zip(&made.clones) {
        let request = api::AttachVolumeRequest {
            volume: of.clone.clone(),
            device: device_kind(args.device).into(),
            ..Default::default()
        };
        let attached = present(replicator.volumes().attach(request).await?.into_inner().device)?;
        devices.push(if attached.path.is_empty() { attached.socket } else { attached.path });
        volumes.push(drilled(of, devices.last().cloned().unwrap_or_default(), Some(made)));
    }
    steps.ends("attach");
    let mut outcome = Outcome { volumes, one_moment: made.one_moment, note: made.note, ..Outcome::default() };
    let Some((program, arguments)) = args.command.split_first() else { return Ok(outcome) };
    let mut command = tokio::process::Command::new(program);
    command.args(arguments);
    if let ([of], [device]) = (of, devices.as_slice()) {
        command.env("FARSHORE_DEVICE", device).env("FARSHORE_VOLUME", &of.clone);
    }
    let names: Vec<&str> = of.iter().map(|of| of.volume.name.as_str()).collect();
    command.env("FARSHORE_DEVICES", devices.join(" ")).env("FARSHORE_VOLUMES", names.join(" "));
    let status = command.status().await.map_err(|error| {
        Failure::new(Exit::Usage, format!("{program:?} can't be run"), "name a program after --").because(error)
    })?;
    steps.ends("command");
    outcome.exit = Some(status.code().unwrap_or(-1));
    Ok(outcome)
}

/// What drills have left of these volumes, clones and moments.
async fn end_all(replicator: &Replicator, of: &[Rehearsed], steps: &mut Steps) -> Result<(), Failure> {
    let clones = remove(replicator, of, steps).await?;
    let moments = drill_images::drop_moments(replicator, of).await?;
    if moments > 0 {
        steps.ends("delete snapshots");
    }
    if clones + moments > 0 {
        return Ok(());
    }
    let clones: Vec<&str> = of.iter().map(|of| of.clone.as_str()).collect();
    Err(Failure::new(
        Exit::NotFound,
        format!("no drill has left anything here: there is no {}", clones.join(", ")),
        "run it in the site where the drill was",
    ))
}

/// Takes the devices away and removes the clones that are there; how many were. Nothing but a drill's volume is ever
/// removed by it.
async fn remove(replicator: &Replicator, of: &[Rehearsed], steps: &mut Steps) -> Result<usize, Failure> {
    let mut found = Vec::new();
    for of in of {
        match shown(replicator, &of.clone).await {
            Ok(clone) => found.push(clone),
            Err(failure) if failure.exit == Exit::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    if let Some(other) = found.iter().find(|clone| !clone.labels.contains_key(DRILL_LABEL)) {
        return Err(Failure::new(
            Exit::Refused,
            format!("volume {:?} was not made by a drill", other.name),
            "it has the name that a drill's would have: rename what uses it, or drill under another volume's name",
        ));
    }
    let attached: Vec<_> = found.iter().filter(|clone| clone.attached.is_some()).collect();
    for clone in &attached {
        let request = api::DetachVolumeRequest { volume: clone.id.clone(), force: true, ..Default::default() };
        replicator.volumes().detach(request).await?;
    }
    if !attached.is_empty() {
        steps.ends("detach");
    }
    for clone in &found {
        replicator.volumes().delete(api::DeleteVolumeRequest { volume: clone.id.clone() }).await?;
    }
    if !found.is_empty() {
        steps.ends("remove");
    }
    Ok(found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drills_name_is_one_that_a_volume_may_have() {
        assert_eq!(name_of("orders"), "drill-orders");
        let [one, other] = ["b", "c"].map(|end| name_of(&format!("{}-{}", "a".repeat(53), end.repeat(6))));
        assert!(one != other && one.starts_with(&format!("drill-{}-", "a".repeat(48))), "{one} {other}");
        assert!(one.len() <= NAME_BYTES_MAX && name_of(&format!("{}-b", "a".repeat(48))).len() <= NAME_BYTES_MAX);
    }
}
