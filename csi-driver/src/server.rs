//! The unix socket, and which services stand behind it.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_proto::csi::controller_server::ControllerServer;
use farshore_proto::csi::group_controller_server::GroupControllerServer;
use farshore_proto::csi::identity_server::IdentityServer;
use farshore_proto::csi::node_server::NodeServer;
use farshore_proto::csi::snapshot_metadata_server::SnapshotMetadataServer;
use farshore_proto::csiaddons::identity::identity_server::IdentityServer as AddonsIdentityServer;
use farshore_proto::csiaddons::replication::controller_server::ControllerServer as AddonsReplicationServer;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::addons::{Addons, AddonsIdentity};
use crate::args::Args;
use crate::claims::{self, Kubernetes, KubernetesError};
use crate::controller::Cluster;
use crate::identity::Who;
use crate::node::Machine;
use crate::replicator::Replicator;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{what} {}: {source}", .path.display())]
    Socket { what: &'static str, path: PathBuf, source: io::Error },
    #[error("another process answers on {}: end it, or name another socket with --endpoint", .0.display())]
    Taken(PathBuf),
    #[error("serving gRPC: {0}")]
    Serving(#[from] tonic::transport::Error),
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    #[error(transparent)]
    Process(#[from] io::Error),
}

/// Serves until `end` comes, then lets the calls that are under way finish.
pub async fn serve(args: Args, end: impl Future<Output = ()>) -> Result<(), ServeError> {
    let path = args.endpoint.clone();
    let listener = bind(&path).await?;
    tracing::info!(endpoint = %path.display(), replicator = %args.replicator.display(), mode = ?args.mode, "serving");
    let kubernetes = match args.kubernetes && args.mode.controller() {
        true => Some(Kubernetes::from_pod()?),
        false => None,
    };
    if let Some(kubernetes) = kubernetes.clone() {
        tokio::spawn(claims::follow(Replicator::new(&args.replicator), kubernetes, args.claims_in.clone()));
    }
    let served = router(&args, kubernetes).serve_with_incoming_shutdown(UnixListenerStream::new(listener), end).await;
    let _ = std::fs::remove_file(&path);
    Ok(served?)
}

fn router(args: &Args, kubernetes: Option<Kubernetes>) -> Router {
    let replicator = Replicator::new(&args.replicator);
    let mut router = Server::builder()
        .add_service(IdentityServer::new(Who { mode: args.mode, replicator: replicator.clone() }))
        .add_service(AddonsIdentityServer::new(AddonsIdentity { mode: args.mode, replicator: replicator.clone() }));
    if args.mode.controller() {
        let cluster = Arc::new(Cluster::new(replicator.clone(), args.max_volumes_per_node).under(kubernetes));
        router = router
            .add_service(ControllerServer::from_arc(cluster.clone()))
            .add_service(GroupControllerServer::from_arc(cluster.clone()))
            .add_service(SnapshotMetadataServer::from_arc(cluster.clone()))
            .add_service(AddonsReplicationServer::new(Addons::new(replicator.clone())));
    }
    if args.mode.node() {
        router = router.add_service(NodeServer::new(Machine::new(replicator, args)));
    }
    router
}

/// What an earlier life left behind is removed; what answers is left alone.
async fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    let wrong = |what: &'static str| move |source| ServeError::Socket { what, path: path.into(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(wrong("creating the folder of"))?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(ServeError::Taken(path.into()));
        }
        std::fs::remove_file(path).map_err(wrong("removing the stale socket"))?;
    }
    let listener = UnixListener::bind(path).map_err(wrong("binding"))?;
    // Whoever can speak to it can attach and delete volumes.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(wrong("closing off"))?;
    Ok(listener)
}
