//! A volume that has grown: its device and its filesystem follow.

use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_proto::csi;
use tonic::Status;

use super::filesystem;
use super::machine::Machine;
use super::mounts;
use super::stage::numbers;
use crate::refusal::{given, no_volume};
use crate::replicator::is_id;
use crate::sizes;

/// The replicator grows the device as soon as it hears of the new size.
const POLLS: u32 = 100;
const POLL_PAUSE: Duration = Duration::from_millis(100);

impl Machine {
    pub(super) async fn expand(
        &self,
        request: csi::NodeExpandVolumeRequest,
    ) -> Result<csi::NodeExpandVolumeResponse, Status> {
        let id = given("volume_id", &request.volume_id)?.to_string();
        let path = given("volume_path", &request.volume_path)?.to_string();
        let range = sizes::range(request.capacity_range.as_ref())?;
        if !is_id(&id) {
            return Err(no_volume(&id));
        }
        let (machine, key) = (self.clone(), id.clone());
        let size = self
            .busy
            .alone(&key, async move {
                let volume = machine.replicator.volume(&id).await?;
                let mount = mounts::at(&path)?
                    .ok_or_else(|| Status::not_found(format!("volume {} is not published at {path}", volume.name)))?;
                let device = machine.device(&volume).await?.ok_or_else(|| {
                    Status::failed_precondition(format!("volume {} has no device on this node", volume.name))
                })?;
                if volume.size_bytes < range.required {
                    return Err(Status::failed_precondition(format!(
                        "volume {} has {} bytes, and {} were asked for: the controller expands it first",
                        volume.name, volume.size_bytes, range.required
                    )));
                }
                wait_grown(&device, volume.size_bytes).await?;
                let is_device = numbers(Path::new(&path)).is_some();
                if !is_device && !mount.read_only {
                    filesystem::grow(&mount.filesystem, &device.to_string_lossy(), &mount.target).await?;
                }
                Ok(volume.size_bytes)
            })
            .await?;
        Ok(csi::NodeExpandVolumeResponse { capacity_bytes: size as i64 })
    }
}

async fn wait_grown(device: &Path, size_bytes: u64) -> Result<(), Status> {
    for _ in 0..POLLS {
        let path = PathBuf::from(device);
        let now = tokio::task::spawn_blocking(move || filesystem::size_bytes(&path)).await;
        let now = now.map_err(|error| Status::internal(format!("asking for the size broke off: {error}")))?;
        match now {
            Ok(now) if now >= size_bytes => return Ok(()),
            Ok(_) => tokio::time::sleep(POLL_PAUSE).await,
            Err(error) => return Err(Status::unavailable(format!("{} has no size: {error}", device.display()))),
        }
    }
    Err(Status::unavailable(format!("{} has not grown to {size_bytes} bytes yet; try again", device.display())))
}
