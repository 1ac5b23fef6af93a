//! What the fake knows, and how it is started.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_proto::v1 as api;
use farshore_proto::v1::node_server::NodeServer;
use farshore_proto::v1::replication_server::ReplicationServer;
use farshore_proto::v1::snapshots_server::SnapshotsServer;
use farshore_proto::v1::volumes_server::VolumesServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Code, Status};

/// Everything; a test changes it at will.
pub struct World {
    pub volumes: BTreeMap<String, api::VolumeStatus>,
    pub snapshots: BTreeMap<String, api::Snapshot>,
    /// What was asked for, in order: `create pvc-1`, `detach pvc-1`.
    pub asked: Vec<String>,
    /// Site, node, connected. The first is the own one.
    pub nodes: Vec<(String, String, bool)>,
    pub free_bytes: u64,
    /// The next call that changes something fails so.
    pub fail: Option<(Code, &'static str)>,
    /// Calls that change something wait until this is let go of.
    pub gate: Option<Arc<tokio::sync::Semaphore>>,
    /// Copies whose creation was cut short: some members never heard of them.
    pub half_made: BTreeSet<String>,
    /// No control quorum can be asked where a volume is attached, whatever this replicator knows.
    pub unheard: bool,
    /// The answer of a forced promotion, a switchover and the like.
    pub takeover_fails: bool,
    /// Where real devices have their files.
    pub devices: Option<PathBuf>,
    next: u128,
}

#[derive(Clone)]
pub struct Fake {
    pub world: Arc<Mutex<World>>,
}

pub fn id_of(number: u128) -> String {
    format!("{number:032x}")
}

/// An error as a replicator writes it.
pub fn refusal(code: Code, kind: &str, message: &str) -> Status {
    let detail = api::ErrorDetail { kind: kind.into(), message: message.into(), ..Default::default() };
    let bytes = farshore_proto::encode_error_detail(code, &detail);
    Status::with_details(code, message, bytes.into())
}

pub fn not_found(what: &str) -> Status {
    refusal(Code::NotFound, "not-found", &format!("{what} is not known"))
}

impl Default for Fake {
    fn default() -> Fake {
        let nodes = [("east", "n1"), ("east", "n2"), ("west", "w1"), ("north", "x1")];
        let world = World {
            volumes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            asked: Vec::new(),
            nodes: nodes.map(|(site, node)| (site.into(), node.into(), true)).into(),
            free_bytes: 1 << 40,
            fail: None,
            gate: None,
            half_made: BTreeSet::new(),
            unheard: false,
            takeover_fails: false,
            devices: None,
            next: 0xfa << 96,
        };
        Fake { world: Arc::new(Mutex::new(world)) }
    }
}

impl World {
    pub fn draw(&mut self) -> String {
        self.next += 1;
        id_of(self.next)
    }

    /// By name or id.
    pub fn find(&self, volume: &str) -> Result<api::VolumeStatus, Status> {
        let found = self.volumes.values().find(|v| v.id == volume || v.name == volume);
        found.cloned().ok_or_else(|| not_found(volume))
    }

    pub fn change(&mut self, id: &str, change: impl FnOnce(&mut api::VolumeStatus)) -> api::VolumeStatus {
        let volume = self.volumes.get_mut(id).expect("it was found");
        change(volume);
        volume.clone()
    }

    /// A block device of that size, or the name of one that there is not.
    pub fn open_device(&self, id: &str, size_bytes: u64, read_only: bool) -> api::DeviceStatus {
        let mut device = api::DeviceStatus { export: id.into(), ..Default::default() };
        device.set_kind(api::DeviceKind::Fuse);
        device.path = match &self.devices {
            None => format!("/dev/no-such-device-{id}"),
            Some(folder) => {
                let file = folder.join(id);
                let made = std::fs::OpenOptions::new().create(true).append(true).open(&file).expect("a file");
                made.set_len(size_bytes).expect("a sparse file");
                let how: &[&str] = if read_only { &["--read-only"] } else { &[] };
                said("losetup", &[how, &["--find", "--show", file.to_str().expect("a path")]].concat())
            }
        };
        device
    }

    pub fn close_device(&self, device: &api::DeviceStatus, force: bool) -> Result<(), Status> {
        if self.devices.is_none() {
            return Ok(());
        }
        // losetup would only mark a device that is in use, for later.
        if !force && said("lsblk", &["--noheadings", "--output", "MOUNTPOINTS", &device.path]).trim() != "" {
            return Err(refusal(Code::FailedPrecondition, "failed-precondition", "the device is in use"));
        }
        said("losetup", &["--detach", &device.path]);
        Ok(())
    }

    pub fn grow_device(&self, volume: &api::VolumeStatus) {
        let device = volume.attached.as_ref().and_then(|attached| attached.device.as_ref());
        let (Some(folder), Some(device)) = (&self.devices, device) else { return };
        let file = std::fs::OpenOptions::new().write(true).open(folder.join(&volume.id)).expect("its file");
        file.set_len(volume.size_bytes).expect("a sparse file");
        said("losetup", &["--set-capacity", &device.path]);
    }
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("util-linux is installed");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

impl Fake {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call that changes something; it may have to wait, or to fail.
    pub async fn enter(&self, what: String) -> Result<(), Status> {
        let gate = {
            let mut world = self.world();
            world.asked.push(what);
            world.gate.clone()
        };
        if let Some(gate) = gate {
            gate.acquire().await.expect("nobody closes it").forget();
        }
        match self.world().fail.take() {
            Some((code, message)) => Err(refusal(code, "x", message)),
            None => Ok(()),
        }
    }

    /// Serves on a socket until the process ends.
    pub async fn serve(&self, socket: &Path) {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).expect("a socket can be bound");
        let router = Server::builder()
            .add_service(VolumesServer::new(self.clone()))
            .add_service(NodeServer::new(self.clone()))
            .add_service(ReplicationServer::new(self.clone()))
            .add_service(SnapshotsServer::new(self.clone()));
        let served = router.serve_with_incoming(UnixListenerStream::new(listener));
        tokio::spawn(async move { served.await.expect("the fake serves") });
    }
}

impl Drop for World {
    /// Devices that a test left behind go with it.
    fn drop(&mut self) {
        if self.devices.is_none() {
            return;
        }
        let attached = self.volumes.values().flat_map(|v| v.attached.iter().chain(&v.readers));
        for device in attached.filter_map(|at| at.device.as_ref()) {
            let _ = Command::new("losetup").args(["--detach", &device.path]).output();
        }
    }
}
