//! Staging: the device appears on this node, carries a filesystem, and is mounted once for all pods.

use std::path::Path;

use farshore_proto::csi;
use farshore_proto::v1 as api;
use tonic::Status;

use super::filesystem::{self, Judged, Wish};
use super::machine::{Machine, attached_at};
use super::mounts;
use super::program::succeed;
use crate::capability::{self, Access, Usage};
use crate::names::{LABEL_FORMATTING, READ_ONLY, SESSION};
use crate::places::NodeId;
use crate::refusal::{given, missing, no_volume};
use crate::replicator::is_id;

/// The major and minor number of a block device, as the table of mounts writes them; `None` for anything else.
pub(super) fn numbers(device: &Path) -> Option<String> {
    use rustix::fs::{FileType, major, minor, stat};
    let stat = stat(device).ok()?;
    let block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    block.then(|| format!("{}:{}", major(stat.st_rdev), minor(stat.st_rdev)))
}

struct Stage {
    volume: String,
    session: String,
    path: String,
    usage: Usage,
    read_only: bool,
}

/// A call that comes after its volume was unpublished takes nothing back. What changes from here on the replicators see: they
/// are asked to attach what is published, and nothing else.
fn refuse_late(volume: &api::VolumeStatus, here: &NodeId, session: &str) -> Result<(), Status> {
    let named = match attached_at(volume, here) {
        Some(attached) if attached.session == session => return Ok(()),
        Some(_) => "it is published here for another session".into(),
        None => match volume.attached.as_ref() {
            Some(attached) => format!("it is published on {}/{}", attached.site, attached.node),
            None => "it is not published here".into(),
        },
    };
    Err(Status::failed_precondition(format!(
        "volume {} can't be staged on {here} for session {session}, which is over: {named}; publish it on this node first \
         (ControllerPublishVolume), and hand over what that answers",
        volume.name
    )))
}

impl Machine {
    pub(super) async fn stage(
        &self,
        request: csi::NodeStageVolumeRequest,
    ) -> Result<csi::NodeStageVolumeResponse, Status> {
        let volume = given("volume_id", &request.volume_id)?.to_string();
        let path = given("staging_target_path", &request.staging_target_path)?.to_string();
        let usage = capability::one(request.volume_capability.as_ref())?;
        if !is_id(&volume) {
            return Err(no_volume(&volume));
        }
        let session =
            request.publish_context.get(SESSION).cloned().ok_or_else(|| missing("publish_context.session"))?;
        let read_only =
            request.publish_context.get(READ_ONLY).is_some_and(|value| value == "true") || usage.reads_only();
        let stage = Stage { volume: volume.clone(), session, path, usage, read_only };
        let machine = self.clone();
        self.busy.alone(&volume, async move { machine.prepare(stage).await }).await?;
        Ok(csi::NodeStageVolumeResponse {})
    }

    async fn prepare(&self, stage: Stage) -> Result<(), Status> {
        let known = self.replicator.volume(&stage.volume).await?;
        let here = self.place().await?;
        refuse_late(&known, &here, &stage.session)?;
        let request = api::AttachVolumeRequest {
            volume: stage.volume.clone(),
            node: here.node,
            session: stage.session.clone(),
            // A filesystem's journal is replayed also for who only wants to read, but where nobody ever writes.
            read_only: stage.read_only && (known.read_only || stage.usage.access == Access::Block),
            published: true,
            ..Default::default()
        };
        let attached = self.replicator.attach(request).await?;
        let device = attached.device.unwrap_or_default().path;
        if device.is_empty() {
            return Err(Status::failed_precondition(
                "the replicator made no block device: load fuse and loop on this node (modprobe fuse loop)",
            ));
        }
        let about = format!("setting {device} up");
        // As its primary says, now that it is attached here.
        let begun = attached.volume.is_some_and(|volume| volume.labels.contains_key(LABEL_FORMATTING));
        match &stage.usage.access {
            // It takes no writes by itself; the kernel's own mark would stay for whatever device has the number next.
            Access::Block if known.read_only => Ok(()),
            Access::Block => {
                if begun {
                    // From here on it may hold anything.
                    self.replicator.label(&stage.volume, LABEL_FORMATTING, None).await?;
                }
                let hold = if stage.read_only { "--setro" } else { "--setrw" };
                succeed("blockdev", &[hold, &device], &about).await.map(drop)
            }
            Access::Mount { filesystem, named, flags } => {
                if self.is_staged(&stage, &device).await? {
                    return Ok(());
                }
                if !known.read_only {
                    // A journal is replayed also by who only wants to read.
                    succeed("blockdev", &["--setrw", &device], &about).await?;
                }
                let wish = Wish {
                    device: &device,
                    volume: &known.name,
                    filesystem,
                    exactly: *named,
                    read_only: stage.read_only,
                    allocated: known.allocated_bytes > 0,
                    begun,
                };
                let kind = self.filesystem(&stage.volume, &wish).await?;
                let mut options: Vec<&str> = flags.iter().map(String::as_str).collect();
                options.extend(filesystem::options(&kind, stage.read_only));
                let mounted = self.mount(&stage, &device, &kind, &options.join(",")).await;
                mounted.map_err(|why| if known.read_only { filesystem::unreplayed(&kind, &why) } else { why })
            }
        }
    }

    /// Sees to it that the device carries a filesystem, whole and checked; returns which.
    async fn filesystem(&self, id: &str, wish: &Wish<'_>) -> Result<String, Status> {
        let judged = filesystem::judge(wish).await?;
        if judged == Judged::Blank {
            self.replicator.label(id, LABEL_FORMATTING, Some(wish.filesystem)).await?;
        }
        let kind = match &judged {
            Judged::Carries(kind) => {
                if !wish.read_only {
                    filesystem::prepare(kind, wish.device).await?;
                }
                kind.clone()
            }
            Judged::Blank | Judged::HalfMade => {
                filesystem::make(wish, &judged).await?;
                wish.filesystem.to_string()
            }
        };
        // Before anybody can write to it.
        if wish.begun || judged == Judged::Blank {
            self.replicator.label(id, LABEL_FORMATTING, None).await?;
        }
        Ok(kind)
    }

    /// Whether this very device is mounted there already. What else may be there was left behind by an earlier device.
    async fn is_staged(&self, stage: &Stage, device: &str) -> Result<bool, Status> {
        let Some(there) = mounts::at(&stage.path)? else { return Ok(false) };
        let same = there.source == device || numbers(Path::new(device)).is_some_and(|numbers| numbers == there.device);
        if !same {
            mounts::unmount(&stage.path).await?;
            return Ok(false);
        }
        if there.read_only != stage.read_only {
            return Err(Status::already_exists(format!(
                "volume {} is staged at {} already, {}: unstage it before it is staged otherwise",
                stage.volume,
                stage.path,
                if there.read_only { "read-only" } else { "for writing" }
            )));
        }
        Ok(true)
    }

    async fn mount(&self, stage: &Stage, device: &str, kind: &str, options: &str) -> Result<(), Status> {
        std::fs::create_dir_all(&stage.path)
            .map_err(|error| Status::internal(format!("{} can't be made: {error}", stage.path)))?;
        let about = format!("mounting volume {} at {}", stage.volume, stage.path);
        succeed("mount", &["-t", kind, "-o", options, "--", device, &stage.path], &about).await?;
        if stage.read_only || kind.starts_with("ext") {
            return Ok(());
        }
        // The volume may have grown since, or be a larger copy of a smaller one; these grow only while mounted.
        filesystem::grow(kind, device, &stage.path).await
    }

    pub(super) async fn unstage(
        &self,
        request: csi::NodeUnstageVolumeRequest,
    ) -> Result<csi::NodeUnstageVolumeResponse, Status> {
        let volume = given("volume_id", &request.volume_id)?.to_string();
        let path = given("staging_target_path", &request.staging_target_path)?.to_string();
        let (machine, key) = (self.clone(), volume.clone());
        self.busy.alone(&key, async move { machine.put_away(&volume, &path).await }).await?;
        Ok(csi::NodeUnstageVolumeResponse {})
    }

    async fn put_away(&self, id: &str, path: &str) -> Result<(), Status> {
        mounts::unmount(path).await?;
        if !is_id(id) {
            return Ok(());
        }
        let Some(volume) = self.replicator.find(id).await? else { return Ok(()) };
        let here = self.place().await?;
        let Some(attached) = attached_at(&volume, &here) else { return Ok(()) };
        let session = attached.session.clone();
        let request =
            api::DetachVolumeRequest { volume: id.into(), session, keep_published: true, ..Default::default() };
        self.replicator.detach(request).await
    }
}
