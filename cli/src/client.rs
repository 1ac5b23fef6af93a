//! The connection to the replicator.

use std::path::Path;
use std::time::Duration;

use farshore_proto::v1::members_client::MembersClient;
use farshore_proto::v1::node_client::NodeClient;
use farshore_proto::v1::replication_client::ReplicationClient;
use farshore_proto::v1::snapshots_client::SnapshotsClient;
use farshore_proto::v1::volumes_client::VolumesClient;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::args::Global;
use crate::failure::{Exit, Failure};

/// Room for the status of some ten thousand volumes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Replicator {
    channel: Channel,
    /// For calls that take as long as there is data.
    patient: Channel,
}

impl Replicator {
    pub async fn connect(global: &Global) -> Result<Replicator, Failure> {
        let path = global.socket.clone();
        // tonic hides why a connection failed; asking first gives the reason a name.
        let probe = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::UnixStream::connect(&path)).await;
        match probe {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(unreachable(&path, &error)),
            Err(_) => return Err(unreachable(&path, &std::io::ErrorKind::TimedOut.into())),
        }
        // The address is never looked up: the connector opens the socket whatever it says.
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let patient = Endpoint::from_static("http://replicator").connect_with_connector_lazy(connector.clone());
        let channel = Endpoint::from_static("http://replicator")
            .timeout(global.timeout)
            .connect_with_connector(connector)
            .await
            .map_err(|error| unreachable(&global.socket, &std::io::Error::other(error)))?;
        Ok(Replicator { channel, patient })
    }

    pub fn volumes(&self) -> VolumesClient<Channel> {
        VolumesClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub fn patient_snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.patient.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub fn patient_volumes(&self) -> VolumesClient<Channel> {
        VolumesClient::new(self.patient.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub fn members(&self) -> MembersClient<Channel> {
        MembersClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub fn replication(&self) -> ReplicationClient<Channel> {
        ReplicationClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

fn unreachable(path: &Path, error: &std::io::Error) -> Failure {
    use std::io::ErrorKind;
    let remedy = match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            "start it (systemctl start farshore-replicator), or name its socket with --socket"
        }
        ErrorKind::PermissionDenied => "the socket is root's: use sudo",
        _ => "look at its log (journalctl -u farshore-replicator), and at: farshore doctor",
    };
    Failure::new(Exit::Unavailable, format!("no replicator answers on {}", path.display()), remedy).because(error)
}

/// Every response carries its object in an optional field, as protobuf does; a server that leaves it out is broken.
pub fn present<T>(field: Option<T>) -> Result<T, Failure> {
    field.ok_or_else(|| {
        Failure::failed("the replicator's answer is incomplete").because(
            "a field that every version fills in is missing; do farshore and replicator have the same version?",
        )
    })
}
