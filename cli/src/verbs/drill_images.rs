//! What a drill clones: of each volume the newest consistent image that this site has; of several all as of one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use farshore_proto::v1 as api;
use farshore_replicator::control::states::snapshot::READY;

use super::drill::{DRILL_LABEL, Rehearsed, here_of};
use crate::client::{Replicator, present};
use crate::drill_views::MissedView;
use crate::failure::{Exit, Failure};

/// For this site's copies to come to a moment that was just cut.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);
/// The replicator's, of a snapshot that it took for one clone: that clone's name.
const MOMENT_LABEL: &str = "farshore.for-clone";

/// The clones that were made, in the order of the volumes.
pub struct Made {
    pub clones: Vec<Clone>,
    /// All are of one moment.
    pub one_moment: bool,
    /// Why an image is not of now; empty where all are.
    pub note: String,
}

pub struct Clone {
    pub status: api::VolumeStatus,
    pub missed: Option<MissedView>,
}

/// On this node alone.
fn request(of: &Rehearsed) -> api::CreateVolumeRequest {
    let volume = &of.volume;
    api::CreateVolumeRequest {
        name: of.clone.clone(),
        members: vec![api::MemberSpec {
            site: volume.reporter_site.clone(),
            node: volume.reporter_node.clone(),
            kind: api::MemberKind::Data.into(),
            ..Default::default()
        }],
        policy: Some(api::Policy { quorum: "majority".into(), ..Default::default() }),
        labels: BTreeMap::from([(DRILL_LABEL.to_string(), volume.id.clone())]),
        ..Default::default()
    }
}

async fn create(replicator: &Replicator, request: api::CreateVolumeRequest) -> Result<api::VolumeStatus, Failure> {
    present(replicator.patient_volumes().create(request).await?.into_inner().volume)
}

async fn of_snapshot(replicator: &Replicator, of: &Rehearsed, source_snapshot: String) -> Result<Clone, Failure> {
    let request = api::CreateVolumeRequest { source_snapshot, ..request(of) };
    Ok(Clone { status: create(replicator, request).await?, missed: None })
}

/// What this site's copy shows: needs nobody.
async fn shown(replicator: &Replicator, of: &Rehearsed) -> Result<Clone, Failure> {
    let source_volume = of.volume.id.clone();
    let request = api::CreateVolumeRequest { source_volume, source_shown: true, ..request(of) };
    let missed = Some(MissedView::of(&of.volume));
    Ok(Clone { status: create(replicator, request).await?, missed })
}

/// Why no mark made now would be here soon.
fn scheduled(volume: &api::VolumeStatus) -> Option<String> {
    let policy = volume.policy.as_ref()?;
    let behind = volume.members.iter().any(|m| m.here && !m.in_sync_set) && volume.primary_site != volume.reporter_site;
    let scheduled = behind && policy.mode() == api::Mode::Async && policy.rpo_ms > 0;
    let (name, site) = (&volume.name, &volume.reporter_site);
    scheduled.then(|| format!("the copy of {name} in {site} is shipped on a schedule"))
}

pub async fn make(replicator: &Replicator, of: &[Rehearsed], apart: bool) -> Result<Made, Failure> {
    if of.iter().any(|of| of.snapshot.is_some()) {
        return named(replicator, of).await;
    }
    match of {
        [_] => each(replicator, of).await,
        _ if apart => each(replicator, of).await,
        _ => at_one_moment(replicator, of).await,
    }
}

/// Of the snapshots that were named.
async fn named(replicator: &Replicator, of: &[Rehearsed]) -> Result<Made, Failure> {
    let (mut clones, mut groups) = (Vec::new(), BTreeSet::new());
    for of in of {
        let Some(snapshot) = &of.snapshot else {
            return Err(Failure::usage(
                format!("volume {:?} is named without a snapshot, and others with one", of.volume.name),
                "name a snapshot of each, or of none",
            ));
        };
        let get = api::GetSnapshotRequest { snapshot: snapshot.clone(), with_space: false };
        groups.insert(present(replicator.snapshots().get(get).await?.into_inner().snapshot)?.group_id);
        clones.push(of_snapshot(replicator, of, snapshot.clone()).await?);
    }
    let one_moment = clones.len() == 1 || (groups.len() == 1 && !groups.contains(""));
    Ok(Made { clones, one_moment, note: String::new() })
}

async fn each(replicator: &Replicator, of: &[Rehearsed]) -> Result<Made, Failure> {
    let (mut clones, mut notes) = (Vec::new(), Vec::new());
    for of in of {
        let (clone, note) = newest(replicator, of).await?;
        clones.push(clone);
        notes.extend(note);
    }
    Ok(Made { one_moment: clones.len() == 1, clones, note: notes.join("; ") })
}

/// As it is now; else as this site's copy has it; else its newest snapshot here. And why it is not of now.
async fn newest(replicator: &Replicator, of: &Rehearsed) -> Result<(Clone, Option<String>), Failure> {
    if let Some(reason) = scheduled(&of.volume) {
        return Ok((shown(replicator, of).await?, Some(format!("{reason}: this is what came with the last shipment"))));
    }
    let now = api::CreateVolumeRequest { source_volume: of.volume.id.clone(), ..request(of) };
    let refused = match create(replicator, now).await {
        Ok(status) => return Ok((Clone { status, missed: None }, None)),
        Err(failure) => failure,
    };
    // The primary may be what is lost.
    let because = |what: &str| Some(format!("{what}, since no moment could be cut now: {}", refused.message));
    let not_shown = match shown(replicator, of).await {
        Ok(clone) => return Ok((clone, because("what the copy here shows"))),
        Err(failure) => failure,
    };
    // A restarted copy may not be whole without its primary; its snapshots are.
    let listed = list(replicator, std::slice::from_ref(&of.volume.id)).await?;
    let Some(newest) = listed.into_iter().filter(|s| s.state == READY).max_by_key(|s| s.seq) else {
        let why = format!("{}; and there is no snapshot of it here that could be used instead", not_shown.message);
        return Err(refused.because(why));
    };
    let clone = of_snapshot(replicator, of, newest.id.clone()).await?;
    Ok((clone, because("the newest snapshot here")))
}

async fn list(replicator: &Replicator, volumes: &[String]) -> Result<Vec<api::Snapshot>, Failure> {
    let request = api::ListSnapshotsRequest { volumes: volumes.to_vec(), with_space: false };
    Ok(replicator.snapshots().list(request).await?.into_inner().snapshots)
}

async fn at_one_moment(replicator: &Replicator, of: &[Rehearsed]) -> Result<Made, Failure> {
    let reason = match of.iter().find_map(|of| scheduled(&of.volume)) {
        Some(reason) => reason,
        None => match cut(replicator, of).await {
            Ok(moment) => {
                let clones = clones_of(replicator, of, &moment).await;
                let left = drop_moments(replicator, of).await.err();
                let stays = |f: Failure| format!("what was cut for it stays until --end: {}", f.message);
                return Ok(Made { clones: clones?, one_moment: true, note: left.map(stays).unwrap_or_default() });
            }
            Err(failure) => failure.message,
        },
    };
    let ids: Vec<String> = of.iter().map(|of| of.volume.id.clone()).collect();
    let Some(moment) = newest_moment(list(replicator, &ids).await?, &ids) else {
        return Err(Failure::new(
            Exit::Refused,
            format!("no moment that all {} volumes have here: {reason}", of.len()),
            "--apart takes each one's newest image, of different moments; or drill them one by one",
        ));
    };
    let clones = clones_of(replicator, of, &moment).await?;
    let note = format!("the newest moment that all have here, since none could be cut now: {reason}");
    Ok(Made { clones, one_moment: true, note })
}

/// Cuts all of them now. The snapshots' ids, in the order of the volumes.
async fn cut(replicator: &Replicator, of: &[Rehearsed]) -> Result<Vec<String>, Failure> {
    let request = api::CreateSnapshotRequest {
        volumes: of.iter().map(|of| of.volume.id.clone()).collect(),
        name: String::new(),
        labels: BTreeMap::from([(DRILL_LABEL.to_string(), here_of(&of[0].volume))]),
    };
    let made = replicator.snapshots().create(request).await?.into_inner().snapshots;
    let ids: Vec<String> = made.into_iter().map(|snapshot| snapshot.id).collect();
    let since = Instant::now();
    for id in &ids {
        loop {
            let get = api::GetSnapshotRequest { snapshot: id.clone(), with_space: false };
            let found = replicator.snapshots().get(get).await.map(|got| got.into_inner().snapshot);
            match found {
                Ok(Some(snapshot)) if snapshot.state == READY => break,
                _ if since.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
                _ => {
                    drop_moments(replicator, of).await?;
                    let here = here_of(&of[0].volume);
                    return Err(Failure::failed(format!("a moment was cut, and {here} has not come to it in time")));
                }
            }
        }
    }
    Ok(ids)
}

async fn clones_of(replicator: &Replicator, of: &[Rehearsed], moment: &[String]) -> Result<Vec<Clone>, Failure> {
    let mut clones = Vec::new();
    for (of, snapshot) in of.iter().zip(moment) {
        clones.push(of_snapshot(replicator, of, snapshot.clone()).await?);
    }
    Ok(clones)
}

/// The newest cut of which all these volumes have their part here; the parts' ids, in the order of the volumes.
fn newest_moment(snapshots: Vec<api::Snapshot>, volumes: &[String]) -> Option<Vec<String>> {
    let mut groups: BTreeMap<String, Vec<api::Snapshot>> = BTreeMap::new();
    for snapshot in snapshots.into_iter().filter(|s| s.state == READY && !s.group_id.is_empty()) {
        groups.entry(snapshot.group_id.clone()).or_default().push(snapshot);
    }
    let parts = |group: &Vec<api::Snapshot>| -> Option<(i64, Vec<String>)> {
        let part = |volume: &String| group.iter().find(|s| s.volume_id == *volume);
        let parts: Option<Vec<&api::Snapshot>> = volumes.iter().map(part).collect();
        let parts = parts?;
        Some((parts[0].created_unix_ms, parts.into_iter().map(|s| s.id.clone()).collect()))
    };
    groups.values().filter_map(parts).max().map(|(_, ids)| ids)
}

/// Deletes what drills here have cut of these volumes, and what was taken for a clone that was never made. How many were
/// there.
pub async fn drop_moments(replicator: &Replicator, of: &[Rehearsed]) -> Result<usize, Failure> {
    let mut dropped = 0;
    for of in of {
        until_caught_up(replicator, &of.volume).await?;
        let own = here_of(&of.volume);
        for snapshot in list(replicator, std::slice::from_ref(&of.volume.id)).await? {
            let labels = &snapshot.labels;
            if labels.get(DRILL_LABEL) == Some(&own) || labels.get(MOMENT_LABEL) == Some(&of.clone) {
                replicator.snapshots().delete(api::DeleteSnapshotRequest { snapshot: snapshot.id }).await?;
                dropped += 1;
            }
        }
    }
    Ok(dropped)
}

/// Waits a while for this site's copy to come to what was acknowledged when the drill looked: its list is as old as it is.
async fn until_caught_up(replicator: &Replicator, volume: &api::VolumeStatus) -> Result<(), Failure> {
    let since = Instant::now();
    while scheduled(volume).is_none() && since.elapsed() < PATIENCE {
        let get = api::GetVolumeRequest { volume: volume.id.clone() };
        let now = present(replicator.volumes().get(get).await?.into_inner().volume)?;
        if now.applied_seq >= volume.acked_seq {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(id: &str, volume: &str, group: &str, created_unix_ms: i64, state: &str) -> api::Snapshot {
        api::Snapshot {
            id: id.into(),
            volume_id: volume.into(),
            group_id: group.into(),
            created_unix_ms,
            state: state.into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_newest_moment_is_one_that_every_volume_has_here() {
        let snapshots = vec![
            part("a1", "a", "g1", 1, READY),
            part("b1", "b", "g1", 1, READY),
            part("a2", "a", "g2", 2, READY),
            part("b2", "b", "g2", 2, READY),
            part("a3", "a", "g3", 3, READY),
            part("b3", "b", "g3", 3, "missing"),
            part("a4", "a", "", 4, READY),
            part("b4", "b", "", 4, READY),
            part("a5", "a", "g5", 5, READY),
        ];
        let newest = |volumes: &[&str]| {
            newest_moment(snapshots.clone(), &volumes.iter().map(|v| v.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(newest(&["b", "a"]), Some(vec!["b2".into(), "a2".into()]));
        assert_eq!(newest(&["a"]), Some(vec!["a5".into()]));
        assert_eq!(newest(&["a", "b", "c"]), None);
    }
}
