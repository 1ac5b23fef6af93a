//! Publishing: the staged filesystem, or the device itself, appears where a pod looks for it.

use std::path::Path;

use farshore_proto::csi;
use tonic::Status;

use super::machine::Machine;
use super::mounts::{self, Mount};
use super::program::succeed;
use super::stage::numbers;
use crate::capability::{self, Access, Usage};
use crate::names::READ_ONLY;
use crate::refusal::{given, no_volume};
use crate::replicator::is_id;

/// kubelet binds parts of a volume for the pod that has it: no publications of their own.
const SUBPATHS: &str = "/volume-subpaths/";

struct Publish {
    volume: String,
    staged: String,
    target: String,
    usage: Usage,
    read_only: bool,
    /// The session itself may only read.
    session_reads_only: bool,
}

fn failed(path: &str, error: std::io::Error) -> Status {
    Status::internal(format!("{path}: {error}"))
}

impl Machine {
    pub(super) async fn publish(
        &self,
        request: csi::NodePublishVolumeRequest,
    ) -> Result<csi::NodePublishVolumeResponse, Status> {
        let volume = given("volume_id", &request.volume_id)?.to_string();
        let target = given("target_path", &request.target_path)?.to_string();
        let usage = capability::one(request.volume_capability.as_ref())?;
        if !is_id(&volume) {
            return Err(no_volume(&volume));
        }
        if request.staging_target_path.is_empty() {
            return Err(Status::failed_precondition("staging_target_path is missing: stage the volume first"));
        }
        let session_reads_only = request.publish_context.get(READ_ONLY).is_some_and(|value| value == "true");
        let publish = Publish {
            volume: volume.clone(),
            staged: request.staging_target_path,
            target,
            read_only: request.readonly || usage.reads_only() || session_reads_only,
            session_reads_only,
            usage,
        };
        let machine = self.clone();
        self.busy.alone(&volume, async move { machine.show(publish).await }).await?;
        Ok(csi::NodePublishVolumeResponse {})
    }

    async fn show(&self, publish: Publish) -> Result<(), Status> {
        let known = self.replicator.volume(&publish.volume).await?;
        let Some(device) = self.device(&known).await? else {
            return Err(Status::failed_precondition(format!(
                "volume {} has no device on this node: publish and stage it here first",
                known.name
            )));
        };
        match publish.usage.access {
            Access::Mount { .. } => self.show_filesystem(&publish, &device).await,
            Access::Block => self.show_device(&publish, &device, known.read_only).await,
        }
    }

    async fn show_filesystem(&self, publish: &Publish, device: &Path) -> Result<(), Status> {
        let staged = mounts::at(&publish.staged)?.filter(|mount| {
            numbers(device).as_ref() == Some(&mount.device) || mount.source == device.to_string_lossy()
        });
        let Some(staged) = staged else {
            return Err(Status::failed_precondition(format!(
                "volume {} is not staged at {}: stage it first",
                publish.volume, publish.staged
            )));
        };
        if let Some(there) = mounts::at(&publish.target)? {
            if there.device != staged.device {
                // Left behind by an earlier device of the volume.
                mounts::unmount(&publish.target).await?;
            } else {
                return publish.again(there.read_only);
            }
        }
        let places = [mounts::real(&publish.staged), mounts::real(&publish.target)];
        publish.refuse_second(|mount| mount.device == staged.device && !places.contains(&mount.target))?;
        std::fs::create_dir_all(&publish.target).map_err(|error| failed(&publish.target, error))?;
        mounts::bind(&publish.staged, &publish.target, publish.read_only).await
    }

    async fn show_device(&self, publish: &Publish, device: &Path, never_written: bool) -> Result<(), Status> {
        let own = numbers(device);
        if own.is_none() {
            let path = device.display();
            return Err(Status::unavailable(format!("{path} is no block device now: is it being closed? Try again")));
        }
        if mounts::at(&publish.target)?.is_some() {
            if numbers(Path::new(&publish.target)) == own {
                return Ok(());
            }
            mounts::unmount(&publish.target).await?;
        }
        let target = mounts::real(&publish.target);
        let elsewhere =
            |mount: &Mount| mount.target != target && mount.root != "/" && numbers(Path::new(&mount.target)) == own;
        publish.refuse_second(elsewhere)?;
        let shared = mounts::table()?.iter().any(elsewhere);
        if publish.read_only && shared && !publish.session_reads_only {
            return Err(Status::failed_precondition(format!(
                "volume {} is in use as a block device for writing, and can't be read-only for another pod",
                publish.volume
            )));
        }
        if let Some(parent) = Path::new(&publish.target).parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed(&publish.target, error))?;
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&publish.target);
        file.map_err(|error| failed(&publish.target, error))?;
        // A mount that may not be written does not keep anybody from writing to the device behind it.
        let device = device.to_string_lossy();
        if !never_written {
            let hold = if publish.read_only { "--setro" } else { "--setrw" };
            succeed("blockdev", &[hold, &device], &format!("setting {device} up")).await?;
        }
        mounts::bind(&device, &publish.target, false).await
    }

    pub(super) async fn unpublish(
        &self,
        request: csi::NodeUnpublishVolumeRequest,
    ) -> Result<csi::NodeUnpublishVolumeResponse, Status> {
        let volume = given("volume_id", &request.volume_id)?.to_string();
        let target = given("target_path", &request.target_path)?.to_string();
        self.busy
            .alone(&volume, async move {
                mounts::unmount(&target).await?;
                // Never more than an empty directory or a file that stood for a device.
                let removed = match std::fs::symlink_metadata(&target) {
                    Ok(found) if found.is_dir() => std::fs::remove_dir(&target),
                    Ok(_) => std::fs::remove_file(&target),
                    Err(error) => Err(error),
                };
                match removed {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(&target, error)),
                    _ => Ok(()),
                }
            })
            .await?;
        Ok(csi::NodeUnpublishVolumeResponse {})
    }
}

impl Publish {
    /// It is there already: the same once more, or something else.
    fn again(&self, read_only: bool) -> Result<(), Status> {
        if read_only == self.read_only {
            return Ok(());
        }
        Err(Status::already_exists(format!(
            "volume {} is published at {} already, {}: unpublish it before it is published otherwise",
            self.volume,
            self.target,
            if read_only { "read-only" } else { "for writing" }
        )))
    }

    fn refuse_second(&self, is_publication: impl Fn(&Mount) -> bool) -> Result<(), Status> {
        if !self.usage.exclusive() {
            return Ok(());
        }
        let table = mounts::table()?;
        match table.iter().find(|mount| is_publication(mount) && !mount.target.contains(SUBPATHS)) {
            None => Ok(()),
            Some(other) => Err(Status::failed_precondition(format!(
                "volume {} is for one pod (ReadWriteOncePod) and is published at {}: unpublish it there first",
                self.volume, other.target
            ))),
        }
    }
}
