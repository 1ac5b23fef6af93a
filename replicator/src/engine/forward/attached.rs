//! The devices of a node that another node has a part in: those it serves for others, and those that others serve.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore_core::ids::{SessionId, VolumeId};
use farshore_proto::v1 as api;

use super::device::ForwardedDevice;
use super::link;
use super::note::ForwardedNote;
use super::place::Place;
use super::serve::{Lending, Served};
use crate::control::OpError;
use crate::device::BlockDevice;
use crate::disk::file::{create_dirs, replace};
use crate::engine::attachments::{Attached, Attachments, Side, of_session};
use crate::engine::driver::{VolumeHandle, lock};
use crate::engine::exports::session_text;
use crate::engine::frontend::Frontend;
use crate::engine::io_limits::{IoLimits, Meter};
use crate::engine::node::{Node, NodeError};
use crate::engine::session_device::SessionDevice;

/// A device is made once it is served; its first reader would hold up whoever makes it.
const SERVED_PATIENCE: Duration = Duration::from_secs(10);
/// A device that is taken up again after a restart is tried so often.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Devices of this node that others serve, and the notes of them.
pub struct Forwarding {
    dir: PathBuf,
    devices: Mutex<BTreeMap<VolumeId, (String, Arc<ForwardedDevice>)>>,
    /// One at a time may begin or end a device here, or begin to serve one elsewhere.
    turns: Mutex<BTreeMap<VolumeId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Forwarding {
    pub fn open(dir: PathBuf) -> Result<Forwarding, NodeError> {
        create_dirs(&dir).map_err(|source| NodeError::Io { what: "creating", path: dir.clone(), source })?;
        Ok(Forwarding { dir, devices: Mutex::default(), turns: Mutex::default() })
    }

    pub(in crate::engine) async fn alone(&self, volume: VolumeId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = lock(&self.turns).entry(volume).or_default().clone();
        turn.lock_owned().await
    }

    /// By the volume's name or id.
    pub(super) fn find(&self, volume: &str) -> Option<Arc<ForwardedDevice>> {
        let devices = lock(&self.devices);
        let found = devices.iter().find(|(id, (name, _))| name == volume || id.to_string() == volume);
        found.map(|(_, (_, device))| device.clone())
    }

    fn file(&self, volume: VolumeId) -> PathBuf {
        self.dir.join(volume.to_string())
    }

    /// Those of an earlier life.
    fn notes(&self) -> Vec<ForwardedNote> {
        let files = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut notes = Vec::new();
        for file in files.filter(|file| file.file_name().to_string_lossy().parse::<VolumeId>().is_ok()) {
            let path = file.path();
            match std::fs::read(&path).map(|bytes| ForwardedNote::decode(bytes.into())) {
                Ok(Ok(note)) => notes.push(note),
                Ok(Err(error)) => tracing::error!(path = %path.display(), %error, "its device is not taken up again"),
                Err(error) => tracing::error!(path = %path.display(), %error, "its device is not taken up again"),
            }
        }
        notes
    }

    /// The device of that session is gone.
    pub fn forget(&self, volume: VolumeId, session: SessionId) {
        let mut devices = lock(&self.devices);
        if devices.get(&volume).is_some_and(|(_, device)| device.session == session) {
            devices.remove(&volume);
            let _ = std::fs::remove_file(self.file(volume));
        }
    }
}

impl Attachments {
    /// What is served here for a device elsewhere.
    pub async fn served(&self, volume: VolumeId) -> Option<Served> {
        match &self.attached.lock().await.get(&volume)?.side {
            Side::Served(served) => Some(served.clone()),
            Side::Both | Side::Device(_) => None,
        }
    }

    /// Begins to serve a device elsewhere. The core has granted the session.
    pub async fn serve_for(&self, node: &Arc<Node>, handle: &Arc<VolumeHandle>, place: Place) {
        let mut attached = self.attached.lock().await;
        if attached.contains_key(&handle.id) {
            return;
        }
        let (name, device, meter) = of_session(handle, handle.block.clone(), false);
        self.exports.insert_for(&place.node, &name, place.session, device.clone(), meter.clone());
        let lending = Lending::new(handle.config.borrow().volume.lease_us);
        let (session, frontend, status) = (place.session, Frontend::None, api::DeviceStatus::default());
        let side = Side::Served(Served { place, lending });
        attached.insert(handle.id, Attached { session, name, status, frontend, device, meter, side });
        drop(attached);
        Self::watch(node.clone(), handle.clone());
    }

    /// Begins to ask for what a device here needs; it may be made when somebody serves it.
    pub(in crate::engine) fn begin(&self, node: &Arc<Node>, note: &ForwardedNote) -> Arc<ForwardedDevice> {
        let device = ForwardedDevice::new(note.volume, note.session, note.geometry, note.servers.clone());
        lock(&self.forwarding.devices).insert(note.volume, (note.name.clone(), device.clone()));
        tokio::spawn(link::run(Arc::downgrade(node), device.clone()));
        device
    }

    /// Makes the device that users open, of a volume that another node serves.
    pub(in crate::engine) async fn open_forwarded(
        &self,
        node: &Arc<Node>,
        note: &ForwardedNote,
        forwarded: &Arc<ForwardedDevice>,
    ) -> Result<api::DeviceStatus, OpError> {
        match tokio::time::timeout(SERVED_PATIENCE, forwarded.until_served()).await {
            Ok(true) => {}
            Ok(false) => {
                let why = forwarded.until_ended().await;
                let text = format!("the session of volume {} has ended: {why}", note.name);
                return Err(OpError::failed_precondition(text, "attach it anew"));
            }
            Err(_) => {
                let text = format!("no member of volume {} serves its device here", note.name);
                return Err(OpError::unavailable(
                    text,
                    "see `farshore status` on the nodes that hold it, then try again",
                ));
            }
        }
        let (name, session) = (note.name.clone(), note.session);
        let device = Arc::new(SessionDevice::new(forwarded.clone()).read_only(note.geometry.read_only));
        // What is bounded is bounded where it is served.
        let meter = Arc::new(Meter::new(IoLimits::default()));
        let mut status = api::DeviceStatus {
            kind: note.kind.into(),
            read_only: note.geometry.read_only,
            socket: self.maker.socket.display().to_string(),
            export: name.clone(),
            ..api::DeviceStatus::default()
        };
        self.exports.insert(&name, session, device.clone(), meter.clone());
        // Before the device is there, as for any other.
        if let Err(error) = replace(&self.forwarding.file(note.volume), &note.encode()) {
            tracing::warn!(volume = name, %error, "its device could not be noted: it does not come back after a restart");
        }
        let mut frontend = Frontend::None;
        if note.kind == api::DeviceKind::Fuse {
            let of_device: Arc<dyn BlockDevice> = device.clone();
            match self.maker.make(&name, session, of_device).await {
                Ok(made) => frontend = made,
                Err(error) => {
                    self.exports.remove(&name);
                    return Err(error);
                }
            }
        }
        status.path = frontend.path().map(|path| path.display().to_string()).unwrap_or_default();
        let side = Side::Device(forwarded.clone());
        let made = Attached { session, name, status: status.clone(), frontend, device, meter, side };
        self.attached.lock().await.insert(note.volume, made);
        watch(node.clone(), forwarded.clone());
        Ok(status)
    }

    /// Gives up a device that could not be made, or whose session is over.
    pub(in crate::engine) async fn drop_forwarded(&self, note: &ForwardedNote, device: &ForwardedDevice, why: &str) {
        device.end(why);
        self.maker.end(&note.name, &session_text(note.session)).await;
        self.forwarding.forget(note.volume, note.session);
    }
}

/// Removes the device when its session ends, and lets it grow with its volume.
fn watch(node: Arc<Node>, device: Arc<ForwardedDevice>) {
    tokio::spawn(async move {
        let mut sizes = device.sizes();
        sizes.mark_unchanged();
        loop {
            tokio::select! {
                why = device.until_ended() => {
                    let open = node.attachments.describe(device.volume).await;
                    if open.is_some_and(|(session, _)| session == device.session) {
                        tracing::warn!(volume = %device.volume, why, "the device is closed");
                        let _ = node.attachments.close(device.volume, true).await;
                    }
                    return;
                }
                changed = sizes.changed() => {
                    let of_volume = |attached: &Attached| attached.frontend.clone();
                    let frontend = node.attachments.attached.lock().await.get(&device.volume).map(of_volume);
                    let Some(frontend) = frontend.filter(|_| changed.is_ok()) else { return };
                    if let Err(error) = frontend.grow().await {
                        tracing::error!(volume = %device.volume, %error, "the device keeps its old size; attach it anew");
                    }
                }
            }
        }
    });
}

impl Node {
    /// A restarted daemon: devices that others serve go on. Their names and sessions.
    pub(in crate::engine) fn take_forwarded_back(self: &Arc<Self>) -> Vec<(String, SessionId)> {
        let notes = self.attachments.forwarding.notes();
        let named = notes.iter().map(|note| (note.name.clone(), note.session)).collect();
        for note in notes {
            let device = self.attachments.begin(self, &note);
            let node = self.clone();
            tokio::spawn(async move { node.take_back(&note, &device).await });
        }
        named
    }

    async fn take_back(self: &Arc<Self>, note: &ForwardedNote, device: &Arc<ForwardedDevice>) {
        // For as long as nobody serves it, its users wait.
        if !device.until_served().await {
            let why = device.until_ended().await;
            tracing::info!(volume = note.name, why, "device not taken back");
            return self.attachments.drop_forwarded(note, device, &why).await;
        }
        for attempt in 1..=ATTEMPTS {
            let _alone = self.attachments.forwarding.alone(note.volume).await;
            if device.is_ended() || self.attachments.is_open(note.volume).await {
                return;
            }
            match self.attachments.open_forwarded(self, note, device).await {
                Ok(status) => return tracing::info!(volume = note.name, path = status.path, "device taken back"),
                Err(error) if attempt == ATTEMPTS => {
                    tracing::error!(volume = note.name, %error, "device not taken back");
                }
                Err(error) => {
                    tracing::warn!(volume = note.name, %error, "device not taken back yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        self.attachments.drop_forwarded(note, device, "the device could not be made again").await;
    }
}
