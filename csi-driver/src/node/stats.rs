//! How full a published volume is, and whether it is well.

use std::path::{Path, PathBuf};

use farshore_proto::csi;
use farshore_proto::csi::volume_usage::Unit;
use tonic::Status;

use super::filesystem;
use super::machine::Machine;
use super::mounts;
use super::stage::numbers;
use crate::refusal::{given, no_volume};
use crate::replicator::is_id;

/// 64-bit counts of the kernel, for fields that have a sign.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn of_filesystem(path: &Path) -> std::io::Result<Vec<csi::VolumeUsage>> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| signed(blocks.saturating_mul(stat.f_frsize));
    Ok(vec![
        csi::VolumeUsage {
            available: bytes(stat.f_bavail),
            total: bytes(stat.f_blocks),
            used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
            unit: Unit::Bytes.into(),
        },
        csi::VolumeUsage {
            available: signed(stat.f_favail),
            total: signed(stat.f_files),
            used: signed(stat.f_files.saturating_sub(stat.f_ffree)),
            unit: Unit::Inodes.into(),
        },
    ])
}

fn of_device(path: &Path) -> std::io::Result<Vec<csi::VolumeUsage>> {
    let total = signed(filesystem::size_bytes(path)?);
    Ok(vec![csi::VolumeUsage { available: 0, total, used: 0, unit: Unit::Bytes.into() }])
}

impl Machine {
    pub(super) async fn stats(
        &self,
        request: csi::NodeGetVolumeStatsRequest,
    ) -> Result<csi::NodeGetVolumeStatsResponse, Status> {
        let id = given("volume_id", &request.volume_id)?;
        let path = given("volume_path", &request.volume_path)?.to_string();
        if !is_id(id) {
            return Err(no_volume(id));
        }
        let volume_condition = match self.replicator.volume(id).await {
            Ok(volume) => crate::controller::condition(&volume),
            Err(status) if status.code() == tonic::Code::NotFound => return Err(status),
            // How full it is can be told without it.
            Err(status) => csi::VolumeCondition { abnormal: true, message: status.message().into() },
        };
        if mounts::at(&path)?.is_none() {
            return Err(Status::not_found(format!("volume {id} is not published at {path}")));
        }
        let place = PathBuf::from(&path);
        // A frozen filesystem answers late; nobody else shall wait for it.
        let usage = tokio::task::spawn_blocking(move || match numbers(&place) {
            Some(_) => of_device(&place),
            None => of_filesystem(&place),
        })
        .await
        .map_err(|error| Status::internal(format!("reading {path} broke off: {error}")))?
        .map_err(|error| Status::internal(format!("{path} does not say how full it is: {error}")))?;
        Ok(csi::NodeGetVolumeStatsResponse { usage, volume_condition: Some(volume_condition) })
    }
}
