//! A driver and its replicator, both in this process, each on its socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Parser as _;
use farshore_csi::args::Args;
use farshore_csi::server;
use farshore_proto::csi;
use farshore_proto::csi::controller_client::ControllerClient;
use farshore_proto::csi::group_controller_client::GroupControllerClient;
use farshore_proto::csi::identity_client::IdentityClient;
use farshore_proto::csi::node_client::NodeClient;
use farshore_proto::csi::snapshot_metadata_client::SnapshotMetadataClient;
use farshore_proto::csi::volume_capability::access_mode::Mode;
use farshore_proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use farshore_proto::csiaddons::identity::identity_client::IdentityClient as AddonsIdentityClient;
use farshore_proto::csiaddons::replication::controller_client::ControllerClient as ReplicationClient;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::fake::Fake;

pub const MIB: i64 = 1 << 20;

pub struct Driver {
    pub fake: Fake,
    pub dir: TempDir,
    channel: Channel,
    /// Of its own, so that it can die like a process: everything that it does ends at once.
    process: Option<Runtime>,
}

impl Driver {
    pub async fn start() -> Driver {
        let fake = Fake::default();
        let driver = Driver::before(fake, &[]).await;
        driver.serve_replicator().await;
        driver
    }

    /// In front of a replicator that is not there yet.
    pub async fn before(fake: Fake, more: &[&str]) -> Driver {
        let dir = tempfile::tempdir().expect("a folder");
        let (channel, process) = launch(&dir, more).await;
        Driver { fake, dir, channel, process: Some(process) }
    }

    pub async fn serve_replicator(&self) {
        self.fake.serve(&self.dir.path().join("replicator.sock")).await;
    }

    /// The process ends and another one takes its place; whatever was under way breaks off.
    pub async fn restart(&mut self) {
        self.end();
        let (channel, process) = launch(&self.dir, &[]).await;
        (self.channel, self.process) = (channel, Some(process));
    }

    fn end(&mut self) {
        if let Some(process) = self.process.take() {
            process.shutdown_background();
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("a path").into()
    }

    pub fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone())
    }

    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    pub fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel.clone())
    }

    pub fn groups(&self) -> GroupControllerClient<Channel> {
        GroupControllerClient::new(self.channel.clone())
    }

    pub fn metadata(&self) -> SnapshotMetadataClient<Channel> {
        SnapshotMetadataClient::new(self.channel.clone())
    }

    pub fn replication(&self) -> ReplicationClient<Channel> {
        ReplicationClient::new(self.channel.clone())
    }

    pub fn addons_identity(&self) -> AddonsIdentityClient<Channel> {
        AddonsIdentityClient::new(self.channel.clone())
    }

    pub async fn create(&self, request: csi::CreateVolumeRequest) -> Result<csi::Volume, Status> {
        let answer = self.controller().create_volume(request).await?;
        Ok(answer.into_inner().volume.expect("a volume"))
    }

    /// A volume of 16 MiB in three sites; returns its id.
    pub async fn volume(&self, name: &str) -> String {
        self.create(wish(name)).await.expect("it can be made").volume_id
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.end();
    }
}

async fn launch(dir: &TempDir, more: &[&str]) -> (Channel, Runtime) {
    let path = |name: &str| dir.path().join(name).to_str().expect("a path").to_string();
    let (endpoint, replicator, state) = (path("csi.sock"), path("replicator.sock"), path("state"));
    let _ = std::fs::remove_file(&endpoint);
    let words = ["farshore-csi", "--endpoint", &endpoint, "--replicator", &replicator, "--state-dir", &state];
    let args = Args::parse_from(words.iter().chain(more));
    let process =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    process.spawn(async move { server::serve(args, std::future::pending()).await.expect("it serves") });
    let socket = PathBuf::from(endpoint);
    // The file is there before anybody listens: only a connection tells.
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        tokio::task::yield_now().await;
    }
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    (Endpoint::from_static("http://driver").connect_with_connector_lazy(connector), process)
}

pub fn mounted(fs_type: &str, mode: Mode) -> csi::VolumeCapability {
    let mount = MountVolume { fs_type: fs_type.into(), ..Default::default() };
    csi::VolumeCapability {
        access_type: Some(AccessType::Mount(mount)),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

pub fn raw(mode: Mode) -> csi::VolumeCapability {
    let access_mode = Some(AccessMode { mode: mode.into() });
    csi::VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})), access_mode }
}

pub fn writer() -> csi::VolumeCapability {
    mounted("", Mode::SingleNodeWriter)
}

pub fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// 16 MiB in three sites.
pub fn wish(name: &str) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(csi::CapacityRange { required_bytes: 16 * MIB, limit_bytes: 0 }),
        volume_capabilities: vec![writer()],
        parameters: parameters(&[("sites", "west,east,north")]),
        ..Default::default()
    }
}
