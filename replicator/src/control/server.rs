//! The unix socket and the server on it.
//!
//! The socket belongs to one daemon: a file that nobody answers on is left over from a crash and is removed; one that
//! somebody answers on is another daemon's, and this one refuses to start.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farshore_proto::FILE_DESCRIPTOR_SET;
use farshore_proto::v1::members_server::MembersServer;
use farshore_proto::v1::node_server::NodeServer;
use farshore_proto::v1::replication_server::ReplicationServer;
use farshore_proto::v1::snapshots_server::SnapshotsServer;
use farshore_proto::v1::volumes_server::VolumesServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;

use super::operations::Operations;
use super::services::Services;
use super::validate_snapshots::IMPORT_RANGE_BYTES_MAX;

/// Calls served at once per connection; more wait in the caller.
const CALLS_PER_CONNECTION_MAX: usize = 64;
/// The longest request. Create with every label is far below it.
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// The longest piece of an import, with what stands around it.
const IMPORT_BYTES_MAX: usize = IMPORT_RANGE_BYTES_MAX + (64 << 10);
/// How long calls under way may take to end once the server stops.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The kernel's limit for a socket's path, less the final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("another replicator answers on {}; stop it first, or give this one a socket of its own ([control] socket)", .0.display())]
    Busy(PathBuf),
    #[error("{} is not a socket; remove it, or name another path ([control] socket)", .0.display())]
    NotASocket(PathBuf),
    #[error("the socket path {} is longer than {SOCKET_PATH_BYTES_MAX} bytes; choose a shorter one ([control] socket)", .0.display())]
    PathTooLong(PathBuf),
    #[error("{operation} {}: {source}", .path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("the descriptors of farshore.v1 can't be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("serving {}: {source}", .path.display())]
    Serve { path: PathBuf, source: tonic::transport::Error },
}

/// A running control server. Dropping it without [`ControlServer::stop`] stops it without grace.
pub struct ControlServer {
    path: PathBuf,
    /// Device and inode of the socket as bound, so that a successor's is not removed.
    identity: (u64, u64),
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl ControlServer {
    /// Binds `path` (mode 0600) and serves until stopped. Health reports SERVING for the empty service name and each
    /// of the services at once; a daemon that is not ready yet does not start its control server.
    pub async fn start(path: &Path, operations: Arc<dyn Operations>) -> Result<ControlServer, ServerError> {
        let listener = bind(path).await?;
        let metadata = std::fs::symlink_metadata(path).map_err(io_error("reading", path))?;
        let (stop, stopping) = watch::channel(false);
        let router = router(operations, stopping.clone()).await?;
        let mut until = stopping;
        let stopped = async move {
            let _ = until.wait_for(|stopping| *stopping).await;
        };
        let task = tokio::spawn(router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped));
        tracing::info!(socket = %path.display(), "control plane is served");
        let identity = (metadata.dev(), metadata.ino());
        Ok(ControlServer { path: path.to_path_buf(), identity, stop, task })
    }

    /// Takes no more calls, gives those under way a moment, and removes the socket.
    pub async fn stop(mut self) -> Result<(), ServerError> {
        self.stop.send_replace(true);
        // Gone at once: from here on a client gets "not running" instead of a connection that ends.
        self.remove_socket();
        match tokio::time::timeout(STOP_GRACE, &mut self.task).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(source))) => Err(ServerError::Serve { path: self.path.clone(), source }),
            Ok(Err(_)) | Err(_) => {
                self.task.abort();
                tracing::warn!(socket = %self.path.display(), "calls were still under way and are cut off");
                Ok(())
            }
        }
    }

    /// Waits until the server ends by itself, which only a failure makes it do.
    pub async fn ended(&mut self) -> Result<(), ServerError> {
        match (&mut self.task).await {
            Ok(Err(source)) => Err(ServerError::Serve { path: self.path.clone(), source }),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    fn remove_socket(&self) {
        let same = std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if same {
            // If it can't be removed the next daemon finds that nobody answers, and removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.remove_socket();
    }
}

async fn router(
    operations: Arc<dyn Operations>,
    stopping: watch::Receiver<bool>,
) -> Result<tonic::transport::server::Router, ServerError> {
    let services = Services { operations, stopping };
    let volumes = VolumesServer::new(services.clone()).max_decoding_message_size(REQUEST_BYTES_MAX);
    let members = MembersServer::new(services.clone()).max_decoding_message_size(REQUEST_BYTES_MAX);
    let snapshots = SnapshotsServer::new(services.clone()).max_decoding_message_size(IMPORT_BYTES_MAX);
    let replication = ReplicationServer::new(services.clone()).max_decoding_message_size(REQUEST_BYTES_MAX);
    let node = NodeServer::new(services).max_decoding_message_size(REQUEST_BYTES_MAX);

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<VolumesServer<Services>>().await;
    health.set_serving::<MembersServer<Services>>().await;
    health.set_serving::<SnapshotsServer<Services>>().await;
    health.set_serving::<ReplicationServer<Services>>().await;
    health.set_serving::<NodeServer<Services>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(tonic::transport::Server::builder()
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .add_service(volumes)
        .add_service(members)
        .add_service(snapshots)
        .add_service(replication)
        .add_service(node)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        // grpcurl up to 1.8 asks for this one.
        .add_service(reflection().build_v1alpha()?))
}

async fn bind(path: &Path) -> Result<UnixListener, ServerError> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(ServerError::PathTooLong(path.to_path_buf()));
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(io_error("creating", parent))?;
    }
    clear_stale(path).await?;
    // Bound under another name and moved into place once its mode is right, so that nobody else can connect in between.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!("{name}.{}", std::process::id()));
    let draft = if draft.as_os_str().len() > SOCKET_PATH_BYTES_MAX { path.to_path_buf() } else { draft };
    let _ = std::fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft).map_err(io_error("binding", path))?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).map_err(io_error("protecting", path))?;
    if draft != path {
        std::fs::rename(&draft, path).map_err(io_error("placing", path))?;
    }
    Ok(listener)
}

async fn clear_stale(path: &Path) -> Result<(), ServerError> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("reading", path)(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(ServerError::NotASocket(path.to_path_buf()));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(socket = %path.display(), "a socket that nobody answers on is removed");
            std::fs::remove_file(path).map_err(io_error("removing", path))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Connected, or a full backlog, or no permission: somebody is there.
        Ok(_) | Err(_) => Err(ServerError::Busy(path.to_path_buf())),
    }
}

fn io_error<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ServerError + 'a {
    move |source| ServerError::Io { operation, path: path.to_path_buf(), source }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
