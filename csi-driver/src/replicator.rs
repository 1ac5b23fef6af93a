//! This node's replicator, asked over its unix socket. The connection comes back by itself.

use std::path::Path;
use std::time::Duration;

use farshore_proto::v1 as api;
use farshore_proto::v1::node_client::NodeClient;
use farshore_proto::v1::replication_client::ReplicationClient;
use farshore_proto::v1::snapshots_client::SnapshotsClient;
use farshore_proto::v1::volumes_client::VolumesClient;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::places::NodeId;
use crate::refusal::{no_volume, of_replicator};

/// Room for the status of some ten thousand volumes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// csi-addons' controller gives a call 150 s; whoever asks must hear from us, not from a broken connection.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct Replicator {
    channel: Channel,
}

/// A volume with the members that were chosen for it.
fn placed(volume: Option<api::VolumeStatus>) -> Result<api::VolumeStatus, Status> {
    let mut volume = present(volume)?;
    leave_out_visitors(&mut volume);
    Ok(volume)
}

/// Members that are there for a device alone come and go with it, and are nothing of the volume's layout.
fn leave_out_visitors(volume: &mut api::VolumeStatus) {
    volume.members.retain(|member| member.kind() != api::MemberKind::Diskless);
}

/// A response whose object is missing was written by another version.
fn present<T>(field: Option<T>) -> Result<T, Status> {
    field.ok_or_else(|| Status::internal("the replicator's answer is incomplete: run one version of both"))
}

/// The one form that ids of volumes and snapshots have.
pub fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Replicator {
    pub fn new(socket: &Path) -> Replicator {
        let path = socket.to_path_buf();
        // The address is never looked up: the connector opens the socket whatever it says.
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint =
            Endpoint::from_static("http://replicator").timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
        Replicator { channel: endpoint.connect_with_connector_lazy(connector) }
    }

    fn volumes(&self) -> VolumesClient<Channel> {
        VolumesClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn replication(&self) -> ReplicationClient<Channel> {
        ReplicationClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Where it stands.
    pub async fn place(&self) -> Result<NodeId, Status> {
        let info = self.node().info(api::InfoRequest {}).await.map_err(of_replicator)?.into_inner();
        Ok(NodeId::new(&info.site, &info.node))
    }

    /// Every node of every site that it knows, its own first.
    pub async fn nodes(&self) -> Result<Vec<(NodeId, bool)>, Status> {
        let known = self.node().peers(api::PeersRequest {}).await.map_err(of_replicator)?.into_inner();
        let own = (NodeId::new(&known.site, &known.node), true);
        let others = known.peers.iter().map(|peer| (NodeId::new(&peer.site, &peer.node), peer.connected));
        Ok(std::iter::once(own).chain(others).collect())
    }

    /// Every node that it knows, its own first, and what their disks have left; `None`: it did not say.
    pub async fn disks(&self) -> Result<Vec<(NodeId, Option<u64>)>, Status> {
        let known = self.node().peers(api::PeersRequest {}).await.map_err(of_replicator)?.into_inner();
        let own = (NodeId::new(&known.site, &known.node), Some(known.disk_free_bytes));
        let others = known.peers.iter().map(|peer| (NodeId::new(&peer.site, &peer.node), peer.disk_free_bytes));
        Ok(std::iter::once(own).chain(others).collect())
    }

    /// By name or id; `None` where this site does not know it.
    pub async fn find(&self, volume: &str) -> Result<Option<api::VolumeStatus>, Status> {
        let request = api::GetVolumeRequest { volume: volume.into() };
        match self.volumes().get(request).await {
            Ok(answer) => placed(answer.into_inner().volume).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(of_replicator(status)),
        }
    }

    /// By id, as the orchestrator knows it. What is no id is nobody's volume.
    pub async fn volume(&self, id: &str) -> Result<api::VolumeStatus, Status> {
        if !is_id(id) {
            return Err(no_volume(id));
        }
        self.find(id).await?.ok_or_else(|| no_volume(id))
    }

    /// By id; copies that a fork left behind, which no orchestrator made, are left out.
    pub async fn list(&self) -> Result<Vec<api::VolumeStatus>, Status> {
        let answer = self.volumes().list(api::ListVolumesRequest {}).await.map_err(of_replicator)?;
        let mut volumes = answer.into_inner().volumes;
        volumes.retain(|volume| !volume.members.is_empty());
        volumes.iter_mut().for_each(leave_out_visitors);
        volumes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(volumes)
    }

    pub async fn create(&self, request: api::CreateVolumeRequest) -> Result<api::VolumeStatus, Status> {
        placed(self.volumes().create(request).await.map_err(of_replicator)?.into_inner().volume)
    }

    /// A volume that is not there is deleted already. Its snapshots stay.
    pub async fn delete(&self, id: &str) -> Result<(), Status> {
        match self.volumes().delete(api::DeleteVolumeRequest { volume: id.into() }).await {
            Err(status) if status.code() != Code::NotFound => Err(of_replicator(status)),
            _ => Ok(()),
        }
    }

    pub async fn attach(&self, request: api::AttachVolumeRequest) -> Result<api::AttachVolumeResponse, Status> {
        Ok(self.volumes().attach(request).await.map_err(of_replicator)?.into_inner())
    }

    pub async fn detach(&self, request: api::DetachVolumeRequest) -> Result<(), Status> {
        self.volumes().detach(request).await.map_err(of_replicator).map(drop)
    }

    pub async fn resize(&self, id: &str, size_bytes: u64) -> Result<api::VolumeStatus, Status> {
        let request = api::ResizeVolumeRequest { volume: id.into(), size_bytes };
        placed(self.volumes().resize(request).await.map_err(of_replicator)?.into_inner().volume)
    }

    /// What the request does not name stays.
    pub async fn set(&self, request: api::SetVolumeRequest) -> Result<api::VolumeStatus, Status> {
        placed(self.volumes().set(request).await.map_err(of_replicator)?.into_inner().volume)
    }

    /// Known in every site. `None` takes it away.
    pub async fn label(&self, id: &str, key: &str, value: Option<&str>) -> Result<(), Status> {
        let labels = [(key.to_string(), value.unwrap_or_default().to_string())].into();
        self.set(api::SetVolumeRequest { volume: id.into(), labels, ..Default::default() }).await.map(drop)
    }

    /// This site becomes the volume's primary site, without a device.
    pub async fn promote(&self, id: &str) -> Result<(), Status> {
        let request = api::PromoteRequest { volume: id.into(), ..Default::default() };
        self.replication().promote(request).await.map_err(of_replicator).map(drop)
    }

    pub async fn demote(&self, id: &str) -> Result<(), Status> {
        let request = api::DemoteRequest { volume: id.into() };
        self.replication().demote(request).await.map_err(of_replicator).map(drop)
    }

    pub async fn switch_over(&self, id: &str, to: &NodeId) -> Result<(), Status> {
        let (to_site, to_node) = (to.site.clone(), to.node.clone());
        let request = api::SwitchoverRequest { volume: id.into(), to_site, to_node, prepare: false };
        self.replication().switchover(request).await.map_err(of_replicator).map(drop)
    }

    /// Has the copy there come into the sync set, where the volume's mode keeps it out.
    pub async fn prepare_move(&self, id: &str, to: &NodeId) -> Result<(), Status> {
        let (to_site, to_node) = (to.site.clone(), to.node.clone());
        let request = api::SwitchoverRequest { volume: id.into(), to_site, to_node, prepare: true };
        self.replication().switchover(request).await.map_err(of_replicator).map(drop)
    }

    /// A new lineage from this site's copy alone. What it lacks is lost.
    pub async fn force(&self, id: &str) -> Result<(), Status> {
        let request = api::PromoteRequest { volume: id.into(), force: true, confirm: true, members: Vec::new() };
        self.replication().promote(request).await.map_err(of_replicator).map(drop)
    }

    /// This site takes the volume over from a lost one. What was acknowledged stays acknowledged, or it is refused.
    pub async fn fail_over(&self, id: &str, from_site: &str) -> Result<(), Status> {
        let request = api::FailoverRequest { from_site: from_site.into(), volumes: vec![id.into()], reduce: false };
        let answer = self.replication().failover(request).await.map_err(of_replicator)?.into_inner();
        match answer.results.into_iter().find(|result| !result.ok) {
            None => Ok(()),
            Some(failed) => {
                let error = failed.error.unwrap_or_default();
                Err(Status::aborted(format!("{}: {}; {}", error.message, error.why, error.remedy)))
            }
        }
    }

    /// This site's diverged copy is given up for the primary's.
    pub async fn discard(&self, id: &str, here: &NodeId) -> Result<(), Status> {
        let (site, node) = (here.site.clone(), here.node.clone());
        let request = api::ResyncRequest { volume: id.into(), site, node, discard: true };
        self.replication().resync(request).await.map_err(of_replicator).map(drop)
    }

    /// By id; `None` where there is none.
    pub async fn find_snapshot(&self, id: &str) -> Result<Option<api::Snapshot>, Status> {
        if !is_id(id) {
            return Ok(None);
        }
        match self.snapshots().get(api::GetSnapshotRequest { snapshot: id.into(), with_space: false }).await {
            Ok(answer) => present(answer.into_inner().snapshot).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(of_replicator(status)),
        }
    }

    /// Of the volumes named, or all; one that is not known has none.
    pub async fn list_snapshots(&self, volumes: Vec<String>) -> Result<Vec<api::Snapshot>, Status> {
        match self.snapshots().list(api::ListSnapshotsRequest { volumes, with_space: false }).await {
            Ok(answer) => Ok(answer.into_inner().snapshots),
            Err(status) if status.code() == Code::NotFound => Ok(Vec::new()),
            Err(status) => Err(of_replicator(status)),
        }
    }

    pub async fn create_snapshots(&self, request: api::CreateSnapshotRequest) -> Result<Vec<api::Snapshot>, Status> {
        Ok(self.snapshots().create(request).await.map_err(of_replicator)?.into_inner().snapshots)
    }

    /// One that is not there is deleted already.
    pub async fn delete_snapshot(&self, snapshot: &api::Snapshot) -> Result<(), Status> {
        match self.snapshots().delete(api::DeleteSnapshotRequest { snapshot: snapshot.id.clone() }).await {
            Err(status) if status.code() != Code::NotFound => Err(of_replicator(status)),
            _ => Ok(()),
        }
    }
}
