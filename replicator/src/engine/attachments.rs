//! The devices of this node: NBD exports and FUSE files under loop devices, and what to bring back after a restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::{SessionId, VolumeId};
use farshore_proto::v1 as api;

use super::driver::{DeviceState, VolumeHandle};
use super::exports::{ExportTable, session_text};
use super::forward::{ForwardedDevice, Forwarding, Served, forwarded_to};
use super::frontend::{DeviceMaker, Frontend, clear_remains};
use super::io_limits::{IoLimits, Meter, MeteredDevice};
use super::node::{Node, NodeError, Shared};
use super::readers::Readers;
use super::session_device::SessionDevice;
use crate::config::Config;
use crate::control::OpError;
use crate::device::process::{DeviceProcess, ProcessError};
use crate::device::{BlockDevice, NbdListen, NbdServer, NbdTls, SectorDevice};
use crate::disk::file::{create_dirs, replace};

/// A device that is taken back after a restart is tried so often.
const REOPEN_ATTEMPTS: u32 = 10;
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Behind the kind of a device, in its note.
const READ_ONLY: &str = " read-only";

pub(super) struct Attached {
    pub session: SessionId,
    pub name: String,
    pub status: api::DeviceStatus,
    pub frontend: Frontend,
    /// What its clients hold; ended with the session.
    pub device: Arc<SessionDevice>,
    pub meter: Arc<Meter>,
    pub side: Side,
}

/// Where the device is, and where its volume is served.
pub(super) enum Side {
    Both,
    /// The device is at another node.
    Served(Served),
    /// A member elsewhere serves the volume.
    Device(Arc<ForwardedDevice>),
}

impl Attached {
    /// Nothing of it reaches the volume any more.
    fn end(&self) {
        self.device.end();
        self.meter.lift();
        match &self.side {
            Side::Both => {}
            Side::Served(served) => served.lending.end(),
            Side::Device(device) => device.end("its session has ended"),
        }
    }
}

pub struct Attachments {
    pub(super) exports: Arc<ExportTable>,
    /// Kept for their sockets.
    _servers: Vec<NbdServer>,
    pub(super) maker: DeviceMaker,
    /// One file per volume with the kind of its device.
    state_dir: PathBuf,
    pub(super) attached: tokio::sync::Mutex<BTreeMap<VolumeId, Attached>>,
    /// Devices here that other nodes serve, also those that are not made yet.
    pub(super) forwarding: Forwarding,
    /// Devices here of volumes that nobody writes.
    pub(super) readers: Readers,
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
        clear_remains(&runtime_dir)?;
        let exports = Arc::new(ExportTable::new(shared.clone()));
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
        let process = config.device.process.as_deref().map(DeviceProcess::at);
        let maker = DeviceMaker { runtime_dir, socket, process };
        let forwarding = Forwarding::open(config.node.data_dir.join("forwarded"))?;
        let readers = Readers::open(config.node.data_dir.join("readers"))?;
        Ok(Attachments { exports, _servers: servers, maker, state_dir, attached, forwarding, readers })
    }

    /// Removes a volume's device when the core closes it: fenced, handed over, or detached.
    pub(super) fn watch(node: Arc<Node>, handle: Arc<VolumeHandle>) {
        Self::watch_config(node.clone(), handle.clone());
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

    /// Lets a loop device grow with its volume, and what is bounded change.
    fn watch_config(node: Arc<Node>, handle: Arc<VolumeHandle>) {
        let mut config = handle.config.clone();
        let mut size_bytes = config.borrow().volume.size_bytes;
        // What changed since the device was made.
        config.mark_changed();
        tokio::spawn(async move {
            while config.changed().await.is_ok() {
                let (now_bytes, limits) = {
                    let config = config.borrow_and_update();
                    (config.volume.size_bytes, IoLimits::of(&config))
                };
                let frontend = match node.attachments.attached.lock().await.get(&handle.id) {
                    Some(attached) => {
                        attached.meter.set(limits);
                        attached.frontend.clone()
                    }
                    None => return,
                };
                if now_bytes == size_bytes {
                    continue;
                }
                size_bytes = now_bytes;
                if let Err(error) = frontend.grow().await {
                    tracing::error!(volume = %handle.name(), %error, "the device keeps its old size; attach it anew");
                }
            }
        });
    }

    pub async fn is_open(&self, volume: VolumeId) -> bool {
        self.attached.lock().await.contains_key(&volume)
    }

    /// The device that is here.
    pub async fn describe(&self, volume: VolumeId) -> Option<(SessionId, api::DeviceStatus)> {
        let attached = self.attached.lock().await;
        let here = attached.get(&volume).filter(|a| !matches!(a.side, Side::Served(_)));
        here.map(|a| (a.session, a.status.clone()))
    }

    /// Makes the device that users open. The core has granted the session.
    pub async fn open(
        &self,
        node: &Arc<Node>,
        handle: &Arc<VolumeHandle>,
        session: SessionId,
        (kind, read_only): (api::DeviceKind, bool),
    ) -> Result<api::DeviceStatus, OpError> {
        let mut attached = self.attached.lock().await;
        if let Some(existing) = attached.get(&handle.id) {
            return Ok(existing.status.clone());
        }
        let (name, of_session, meter) = of_session(handle, handle.block.clone(), read_only);
        let device: Arc<dyn BlockDevice> = Arc::new(MeteredDevice::new(of_session.clone(), meter.clone()));
        let kind = choose(kind)?;
        let mut status = api::DeviceStatus { kind: kind.into(), read_only, ..api::DeviceStatus::default() };
        // Userland clients reach every attached volume over NBD too.
        self.exports.insert(&name, session, of_session.clone(), meter.clone());
        status.socket = self.maker.socket.display().to_string();
        status.export = name.clone();
        // Before the device is there: one that the device process holds, and of which nothing is known here, would never
        // be ended.
        self.remember(handle.id, kind, read_only);
        let mut frontend = Frontend::None;
        if kind == api::DeviceKind::Fuse {
            match self.maker.make(&name, session, device).await {
                Ok(made) => frontend = made,
                Err(error) => {
                    self.exports.remove(&name);
                    let _ = std::fs::remove_file(self.file(handle.id));
                    return Err(error);
                }
            }
        }
        status.path = frontend.path().map(|path| path.display().to_string()).unwrap_or_default();
        let side = Side::Both;
        let found = Attached { session, name, status: status.clone(), frontend, device: of_session, meter, side };
        attached.insert(handle.id, found);
        drop(attached);
        Self::watch(node.clone(), handle.clone());
        Ok(status)
    }

    /// Removes the device. Refuses while somebody has it open, unless `force`.
    pub async fn close(&self, volume: VolumeId, force: bool) -> Result<(), OpError> {
        // Not under the lock: the device of a frozen volume takes its time, and others have nothing to do with it.
        let found =
            self.attached.lock().await.get(&volume).map(|f| (f.name.clone(), f.frontend.clone(), f.meter.clone()));
        let Some((name, frontend, meter)) = found else { return Ok(()) };
        match force {
            true => {
                // What waits for its turn would hold the device up.
                meter.lift();
                frontend.detach_by_force(&self.maker).await
            }
            false => frontend.detach(&name).await?,
        }
        let Some(found) = self.attached.lock().await.remove(&volume) else { return Ok(()) };
        // A client that stays connected must not write into a later session.
        found.end();
        self.exports.remove(&found.name);
        let _ = std::fs::remove_file(self.file(volume));
        self.forwarding.forget(volume, found.session);
        Ok(())
    }

    /// After a restart: the core has taken the epoch back, so the device comes back too.
    pub async fn reopen(&self, node: &Arc<Node>, handle: &Arc<VolumeHandle>, session: SessionId) {
        let forwarded = forwarded_to(&handle.config.borrow()).filter(|(_, place)| place.session == session);
        if let Some((_, place)) = forwarded {
            self.serve_for(node, handle, place).await;
            return;
        }
        for attempt in 1..=REOPEN_ATTEMPTS {
            let DeviceState::Open { session } = handle.device.borrow().clone() else { break };
            // One that was published only had none.
            let Some(remembered) = self.remembered(handle.id) else { break };
            match self.open(node, handle, session, remembered).await {
                Ok(status) => {
                    tracing::info!(volume = %handle.name(), path = status.path, "device taken back");
                    return;
                }
                Err(error) if attempt == REOPEN_ATTEMPTS => {
                    tracing::error!(volume = %handle.name(), %error, "device not taken back");
                }
                // Its users still wait, where the device process holds it.
                Err(error) => {
                    tracing::warn!(volume = %handle.name(), %error, "device not taken back yet");
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
            }
        }
        self.give_up(handle, session).await;
    }

    /// After a restart: the session is over, or can't be taken up again. What the device process holds for it ends.
    pub async fn give_up(&self, handle: &VolumeHandle, session: SessionId) {
        self.maker.end(&handle.name(), &session_text(session)).await;
    }

    /// After a restart: ends what the device process holds and the register does not name. (What it names is taken back.)
    pub async fn end_strays(&self, named: &BTreeMap<String, SessionId>) {
        let held = loop {
            match self.maker.held().await {
                Ok(held) => break held,
                // It has none.
                Err(ProcessError::Away { .. }) => return,
                Err(error) => {
                    tracing::warn!(%error, "what the device process holds is not known yet");
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
            }
        };
        for device in held {
            let ours = named.get(&device.name).is_some_and(|session| session_text(*session) == device.session);
            if !ours {
                self.maker.end(&device.name, &device.session).await;
            }
        }
    }

    /// Forgets a device that died with its process, so that it can be made anew; its session, which goes on.
    pub async fn forget_if_dead(&self, volume: VolumeId) -> Option<SessionId> {
        let frontend = self.attached.lock().await.get(&volume)?.frontend.clone();
        if frontend.is_there().await {
            return None;
        }
        let found = self.attached.lock().await.remove(&volume)?;
        tracing::warn!(volume = found.name, "its device died with the device process");
        found.end();
        self.exports.remove(&found.name);
        Some(found.session)
    }

    /// The daemon stops: its devices end with it, unless the device process holds them, and are remembered.
    pub async fn suspend(&self) {
        let mut attached = self.attached.lock().await;
        for found in std::mem::take(&mut *attached).into_values() {
            found.end();
            found.frontend.suspend().await;
        }
    }

    fn file(&self, volume: VolumeId) -> PathBuf {
        self.state_dir.join(volume.to_string())
    }

    fn remember(&self, volume: VolumeId, kind: api::DeviceKind, read_only: bool) {
        let text = format!("{}{}", kind.as_str_name(), if read_only { READ_ONLY } else { "" });
        if let Err(error) = replace(&self.file(volume), text.as_bytes()) {
            tracing::warn!(%volume, %error, "the kind of its device could not be noted; after a restart it is chosen anew");
        }
    }

    fn remembered(&self, volume: VolumeId) -> Option<(api::DeviceKind, bool)> {
        match std::fs::read_to_string(self.file(volume)) {
            Ok(text) => Some(kind_of(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(_) => Some((api::DeviceKind::Unspecified, false)),
        }
    }
}

/// The volume's name, its device for one session, and what bounds that.
pub(super) fn of_session(
    handle: &VolumeHandle,
    device: Arc<dyn BlockDevice>,
    read_only: bool,
) -> (String, Arc<SessionDevice>, Arc<Meter>) {
    let (name, sectors, limits) = {
        let config = handle.config.borrow();
        (config.volume.name.clone(), config.volume.logical_block_bytes == 512, IoLimits::of(&config))
    };
    let device = if sectors { Arc::new(SectorDevice::new(device)) as Arc<dyn BlockDevice> } else { device };
    (name, Arc::new(SessionDevice::new(device).read_only(read_only)), Arc::new(Meter::new(limits)))
}

/// What was noted of a device: its kind, and whether it takes no writes.
fn kind_of(text: &str) -> (api::DeviceKind, bool) {
    let text = text.trim();
    let (kind, read_only) = match text.strip_suffix(READ_ONLY) {
        Some(kind) => (kind, true),
        None => (text, false),
    };
    (api::DeviceKind::from_str_name(kind).unwrap_or(api::DeviceKind::Unspecified), read_only)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_what_device_comes_back() {
        assert_eq!(kind_of("DEVICE_KIND_NBD"), (api::DeviceKind::Nbd, false));
        assert_eq!(kind_of("DEVICE_KIND_FUSE read-only\n"), (api::DeviceKind::Fuse, true));
        assert_eq!(kind_of("what"), (api::DeviceKind::Unspecified, false));
    }
}
