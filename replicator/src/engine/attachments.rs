//! The devices of this node: NBD exports and FUSE files under loop devices, and what to bring back after a restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use farshore_core::ids::{SessionId, VolumeId};
use farshore_proto::v1 as api;

use super::diverged::DivergedDevice;
use super::driver::{DeviceState, VolumeHandle, lock};
use super::node::{Node, NodeError, Shared};
use super::session_device::SessionDevice;
use crate::config::Config;
use crate::control::OpError;
use crate::device::{BlockDevice, DeviceError, Exports, FuseDevice, NbdListen, NbdServer, NbdTls, SectorDevice};
use crate::disk::file::{create_dirs, replace};

/// The NBD exports, by volume name: what is attached, and the copies that forks left behind.
struct ExportTable {
    devices: Mutex<BTreeMap<String, Arc<dyn BlockDevice>>>,
    shared: Arc<Shared>,
}

impl Exports for ExportTable {
    fn open(&self, name: &str) -> Option<Arc<dyn BlockDevice>> {
        let attached = lock(&self.devices).get(name).cloned();
        attached.or_else(|| {
            let shared = self.shared.clone();
            self.shared.diverged.find(name).map(|copy| Arc::new(DivergedDevice { shared, copy }) as _)
        })
    }

    fn list(&self) -> Vec<String> {
        let copies = self.shared.diverged.all().into_iter().map(|copy| copy.name.clone());
        lock(&self.devices).keys().cloned().chain(copies).collect()
    }
}

struct Attached {
    session: SessionId,
    name: String,
    status: api::DeviceStatus,
    fuse: Option<Arc<FuseDevice>>,
    /// What its clients hold; ended with the session.
    device: Arc<SessionDevice>,
}

pub struct Attachments {
    exports: Arc<ExportTable>,
    /// Kept for their sockets.
    _servers: Vec<NbdServer>,
    socket: PathBuf,
    runtime_dir: PathBuf,
    /// One file per volume with the kind of its device.
    state_dir: PathBuf,
    attached: tokio::sync::Mutex<BTreeMap<VolumeId, Attached>>,
}

impl Attachments {
    pub async fn start(config: &Config, shared: &Arc<Shared>) -> Result<Attachments, NodeError> {
        let runtime_dir = config.node.runtime_dir.clone();
        let state_dir = config.node.data_dir.join("attachments");
        create_dirs(&state_dir).map_err(|source| NodeError::Io {
            what: "creating",
            path: state_dir.clone(),
            source,
        })?;
        for stale in FuseDevice::cleanup_stale(&runtime_dir)? {
            tracing::info!(?stale, "removed what an earlier life of the daemon left");
        }
        let exports = Arc::new(ExportTable { devices: Mutex::default(), shared: shared.clone() });
        let socket = config.nbd.socket.clone();
        let mut servers = vec![NbdServer::start(NbdListen::Unix(socket.clone()), exports.clone()).await?];
        if let Some(address) = config.nbd.tcp {
            let tls = match (&config.nbd.ca, &config.nbd.cert, &config.nbd.key) {
                (Some(ca), Some(cert), Some(key)) => Some(NbdTls::load(ca, cert, key)?),
                _ => None,
            };
            servers.push(NbdServer::start(NbdListen::Tcp { address, tls }, exports.clone()).await?);
        }
        let attached = tokio::sync::Mutex::default();
        Ok(Attachments { exports, _servers: servers, socket, runtime_dir, state_dir, attached })
    }

    /// Removes a volume's device when the core closes it: fenced, handed over, or detached.
    fn watch(node: Arc<Node>, handle: Arc<VolumeHandle>) {
        Self::watch_size(node.clone(), handle.clone());
        let mut device = handle.device.clone();
        tokio::spawn(async move {
            let closed = device.wait_for(|state| matches!(state, DeviceState::Closed { .. })).await;
            let reason = match closed.map(|s| s.clone()) {
                Ok(DeviceState::Closed { reason }) => reason,
                _ => "the volume is gone".into(),
            };
            if node.attachments.is_open(handle.id).await {
                tracing::warn!(volume = %handle.name(), reason, "the device is closed");
                if let Err(error) = node.attachments.close(handle.id, true).await {
                    tracing::error!(volume = %handle.name(), %error, "the device could not be removed");
                }
            }
        });
    }

    /// Lets a loop device grow with its volume.
    fn watch_size(node: Arc<Node>, handle: Arc<VolumeHandle>) {
        let mut config = handle.config.clone();
        let mut size_bytes = config.borrow_and_update().volume.size_bytes;
        tokio::spawn(async move {
            while config.changed().await.is_ok() {
                let now_bytes = config.borrow_and_update().volume.size_bytes;
                if now_bytes == size_bytes {
                    continue;
                }
                size_bytes = now_bytes;
                let fuse = match node.attachments.attached.lock().await.get(&handle.id) {
                    Some(attached) => attached.fuse.clone(),
                    None => return,
                };
                if let Some(fuse) = fuse
                    && let Err(error) = fuse.grow().await
                {
                    tracing::error!(volume = %handle.name(), %error, "the device keeps its old size; attach it anew");
                }
            }
        });
    }

    pub async fn is_open(&self, volume: VolumeId) -> bool {
        self.attached.lock().await.contains_key(&volume)
    }

    pub async fn describe(&self, volume: VolumeId) -> Option<(SessionId, api::DeviceStatus)> {
        self.attached.lock().await.get(&volume).map(|a| (a.session, a.status.clone()))
    }

    /// Makes the device that users open. The core has granted the session.
    pub async fn open(
        &self,
        node: &Arc<Node>,
        handle: &Arc<VolumeHandle>,
        session: SessionId,
        kind: api::DeviceKind,
    ) -> Result<api::DeviceStatus, OpError> {
        let mut attached = self.attached.lock().await;
        if let Some(existing) = attached.get(&handle.id) {
            return Ok(existing.status.clone());
        }
        let (name, sectors) = {
            let config = handle.config.borrow();
            (config.volume.name.clone(), config.volume.logical_block_bytes == 512)
        };
        let device: Arc<dyn BlockDevice> = handle.block.clone();
        let device = if sectors { Arc::new(SectorDevice::new(device)) as Arc<dyn BlockDevice> } else { device };
        let of_session = Arc::new(SessionDevice::new(device));
        let device: Arc<dyn BlockDevice> = of_session.clone();
        let kind = choose(kind)?;
        let mut status = api::DeviceStatus { kind: kind.into(), ..api::DeviceStatus::default() };
        // Userland clients reach every attached volume over NBD too.
        lock(&self.exports.devices).insert(name.clone(), device.clone());
        status.socket = self.socket.display().to_string();
        status.export = name.clone();
        let mut fuse = None;
        if kind == api::DeviceKind::Fuse {
            match FuseDevice::attach(&name, device, &self.runtime_dir).await {
                Ok(opened) => {
                    status.path = opened.loop_path().display().to_string();
                    fuse = Some(Arc::new(opened));
                }
                Err(error) => {
                    lock(&self.exports.devices).remove(&name);
                    return Err(device_error(&name, error));
                }
            }
        }
        self.remember(handle.id, kind);
        attached.insert(handle.id, Attached { session, name, status: status.clone(), fuse, device: of_session });
        drop(attached);
        Self::watch(node.clone(), handle.clone());
        Ok(status)
    }

    /// Removes the device. Refuses while somebody has it open, unless `force`.
    pub async fn close(&self, volume: VolumeId, force: bool) -> Result<(), OpError> {
        // Not under the lock: the device of a frozen volume takes its time, and others have nothing to do with it.
        let found = self.attached.lock().await.get(&volume).map(|found| (found.name.clone(), found.fuse.clone()));
        let Some((name, fuse)) = found else { return Ok(()) };
        match fuse {
            Some(fuse) if force => fuse.detach_by_force().await,
            Some(fuse) => fuse.detach().await.map_err(|error| device_error(&name, error))?,
            None => {}
        }
        let Some(found) = self.attached.lock().await.remove(&volume) else { return Ok(()) };
        // A client that stays connected must not write into a later session.
        found.device.end();
        lock(&self.exports.devices).remove(&found.name);
        let _ = std::fs::remove_file(self.file(volume));
        Ok(())
    }

    /// After a restart: the core has taken the epoch back, so the device comes back too.
    pub async fn reopen(&self, node: &Arc<Node>, handle: &Arc<VolumeHandle>) {
        let DeviceState::Open { session } = handle.device.borrow().clone() else { return };
        // One that was published only had none.
        let Some(kind) = self.remembered(handle.id) else { return };
        match self.open(node, handle, session, kind).await {
            Ok(status) => tracing::info!(volume = %handle.name(), path = status.path, "device taken back"),
            Err(error) => tracing::error!(volume = %handle.name(), %error, "device not taken back"),
        }
    }

    /// The daemon stops: its devices end with it, and are remembered.
    pub async fn suspend(&self) {
        let mut attached = self.attached.lock().await;
        for found in std::mem::take(&mut *attached).into_values() {
            found.device.end();
            if let Some(fuse) = found.fuse {
                fuse.detach_by_force().await;
            }
        }
    }

    fn file(&self, volume: VolumeId) -> PathBuf {
        self.state_dir.join(volume.to_string())
    }

    fn remember(&self, volume: VolumeId, kind: api::DeviceKind) {
        if let Err(error) = replace(&self.file(volume), kind.as_str_name().as_bytes()) {
            tracing::warn!(%volume, %error, "the kind of its device could not be noted; after a restart it is chosen anew");
        }
    }

    fn remembered(&self, volume: VolumeId) -> Option<api::DeviceKind> {
        match std::fs::read_to_string(self.file(volume)) {
            Ok(name) => api::DeviceKind::from_str_name(name.trim()).or(Some(api::DeviceKind::Unspecified)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(_) => Some(api::DeviceKind::Unspecified),
        }
    }
}

/// The best device this machine can do, or the one that was named.
pub(super) fn choose(kind: api::DeviceKind) -> Result<api::DeviceKind, OpError> {
    let real = Path::new("/dev/fuse").exists() && Path::new("/dev/loop-control").exists();
    match kind {
        api::DeviceKind::Unspecified if real => Ok(api::DeviceKind::Fuse),
        api::DeviceKind::Unspecified => Ok(api::DeviceKind::Nbd),
        api::DeviceKind::Ublk => Err(OpError::unsupported(
            "ublk devices are not supported by this version",
            "use --device auto, nbd or fuse",
        )),
        other => Ok(other),
    }
}

fn device_error(name: &str, error: DeviceError) -> OpError {
    OpError::failed_precondition(
        format!("the device of {name} could not be changed"),
        "stop what uses the device (umount it), or see `farshore doctor`",
    )
    .because(error)
}
