//! The transport as the daemon uses it: one UDP port, the peers on it, and the verbs.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quinn::{EndpointConfig, TokioRuntime, VarInt};
use rustix::net::sockopt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::admission::{accept_loop, server_config};
use super::config::{CANDIDATES_MAX, PEERS_MAX, PeerConfig, TransportConfig, UDP_PAYLOAD_BYTES_MAX};
use super::frame::Lane;
use super::name::PeerName;
use super::node::{Node, Peer, TransportEvent, random_u128};
use super::peer::{Candidate, PeerTask, Wanted};
use super::queue::SendError;
use super::refusal::{RefusalCode, RefusalEntry};
use super::reset::{RandomConnectionIds, ResetKey};
use super::status::{EndpointStatus, PeerStatus};
use super::stream::{PeerStream, StreamError};
use super::tls::{Credentials, CredentialsError, Verdict};

/// How long a transport that stops waits for its farewells to leave.
const FAREWELL: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("loading the node's certificate: {0}")]
    Credentials(#[from] CredentialsError),
    #[error("transport settings: {0}")]
    Limits(&'static str),
    #[error("peer {peer}: {reason}")]
    Peer { peer: PeerName, reason: &'static str },
    #[error("listening on UDP {address}: {source}; is the port taken, or the address not of this machine?")]
    Listen { address: SocketAddr, source: std::io::Error },
}

/// A running transport. Clones are handles to the same one, which stops when the last is dropped; only
/// [`Transport::shutdown`] waits for it.
#[derive(Clone)]
pub struct Transport {
    node: Arc<Node>,
    registry: Arc<Registry>,
    listen: SocketAddr,
    receive_buffer_bytes: usize,
    send_buffer_bytes: usize,
    running: Arc<RunningTasks>,
}

/// Stops what runs when the last handle goes.
struct RunningTasks {
    node: Arc<Node>,
    accept: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for RunningTasks {
    fn drop(&mut self) {
        self.node.stopping.send_replace(true);
        close_endpoint(&self.node);
    }
}

fn close_endpoint(node: &Node) {
    node.endpoint.close(VarInt::from_u32(RefusalCode::Shutdown.code()), b"shutdown: the node is going down");
}

impl Transport {
    /// Binds the port, loads the certificates and begins to dial. Needs a tokio runtime. What happens is told through
    /// `events`; while that channel is full, peers are held back.
    pub async fn start(
        config: TransportConfig,
        events: mpsc::Sender<TransportEvent>,
    ) -> Result<Transport, TransportError> {
        config.limits.check().map_err(TransportError::Limits)?;
        check_peers(&config.name, &config.peers)?;
        let credentials = Arc::new(Credentials::load(&config.name, &config.ca, &config.cert, &config.key)?);
        let quic = config.limits.quic(&config.congestion);
        let failed = |source| TransportError::Listen { address: config.listen, source };
        let socket = bind(config.listen, config.limits.socket_buffer_bytes).map_err(failed)?;
        // Linux reports twice what it grants: the other half is for its own bookkeeping.
        let receive_buffer_bytes = sockopt::socket_recv_buffer_size(&socket).unwrap_or(0) / 2;
        let send_buffer_bytes = sockopt::socket_send_buffer_size(&socket).unwrap_or(0) / 2;
        let mut quic_endpoint = EndpointConfig::new(Arc::new(ResetKey(credentials.reset_key)));
        quic_endpoint.cid_generator(|| Box::new(RandomConnectionIds));
        quic_endpoint.max_udp_payload_size(UDP_PAYLOAD_BYTES_MAX).expect("within what UDP carries");
        let server = server_config(&credentials, &quic, Verdict::default())?;
        let endpoint = quinn::Endpoint::new(quic_endpoint, Some(server), socket, Arc::new(TokioRuntime));
        let endpoint = endpoint.map_err(failed)?;
        let listen = endpoint.local_addr().map_err(failed)?;

        let peers = config.peers.clone();
        let node = Arc::new(Node {
            config,
            boot: random_u128(),
            endpoint,
            quic,
            credentials: RwLock::new(credentials),
            events,
            refusals: Mutex::default(),
            stopping: watch::Sender::new(false),
        });
        let registry = Arc::new(Registry::default());
        registry.set_peers(&node, peers);
        let accept = tokio::spawn(accept_loop(node.clone(), registry.clone()));
        tracing::info!(node = %node.name(), %listen, receive_buffer_bytes, send_buffer_bytes, "transport listens");
        let running = Arc::new(RunningTasks { node: node.clone(), accept: Mutex::new(Some(accept)) });
        Ok(Transport { node, registry, listen, receive_buffer_bytes, send_buffer_bytes, running })
    }

    /// Queues one message, whose parts follow each other on the wire without having been copied together. Never
    /// waits. `Ok` is no promise that it arrives: a connection may be lost, and then `PeerDown` (`BulkDown`) says so.
    pub fn send(&self, peer: &PeerName, lane: Lane, message: Vec<Bytes>) -> Result<(), SendError> {
        match self.registry.peer(peer) {
            Some(peer) => peer.lane(lane).send(message),
            None => Err(SendError::NotConnected),
        }
    }

    /// A stream of its own with a peer that is connected, and for as long as it is.
    pub async fn open_stream(&self, peer: &PeerName) -> Result<PeerStream, StreamError> {
        let connection = self.registry.peer(peer).and_then(|peer| peer.main_connection());
        let connection = connection.ok_or_else(|| StreamError::NotConnected(peer.clone()))?;
        PeerStream::open(peer.clone(), &connection).await
    }

    /// Waits until the lane has a good deal of room again. `NotConnected` at once where there is no connection. Keep
    /// reading events meanwhile: two nodes that both wait here, and neither reads, wait for each other.
    pub async fn ready(&self, peer: &PeerName, lane: Lane) -> Result<(), SendError> {
        match self.registry.peer(peer) {
            Some(peer) => peer.lane(lane).ready().await,
            None => Err(SendError::NotConnected),
        }
    }

    /// Waits until no more than so many bytes of the lane are before what is sent next.
    pub async fn drained(&self, peer: &PeerName, lane: Lane, upto_bytes: usize) -> Result<(), SendError> {
        match self.registry.peer(peer) {
            Some(peer) => peer.lane(lane).drained(upto_bytes).await,
            None => Err(SendError::NotConnected),
        }
    }

    /// Makes these the peers: new ones are dialled, missing ones are disconnected, a new address is used from the next
    /// attempt on. Connections of the others are not touched.
    pub fn set_peers(&self, peers: Vec<PeerConfig>) -> Result<(), TransportError> {
        check_peers(self.node.name(), &peers)?;
        self.registry.set_peers(&self.node, peers);
        Ok(())
    }

    /// Every configured peer, by name.
    pub fn status(&self) -> Vec<PeerStatus> {
        self.registry.status()
    }

    pub fn endpoint_status(&self) -> EndpointStatus {
        let credentials = self.node.credentials();
        EndpointStatus {
            listen: self.listen,
            certificate_not_after: credentials.info.not_after,
            certificate_fingerprint: credentials.info.fingerprint.clone(),
            receive_buffer_bytes: self.receive_buffer_bytes,
            send_buffer_bytes: self.send_buffer_bytes,
        }
    }

    /// Who was refused lately and why, strangers included.
    pub fn refusals(&self) -> Vec<RefusalEntry> {
        self.node.refusals.lock().unwrap_or_else(PoisonError::into_inner).entries()
    }

    /// The address that the port was bound to.
    pub fn listen_address(&self) -> SocketAddr {
        self.listen
    }

    /// Reads the certificate files again. New connections use what they say now; existing ones go on, beyond their
    /// certificates' end too, until they are lost or [`Transport::reconnect`] is called. On an error everything stays
    /// as it was.
    pub async fn reload_certificates(&self) -> Result<(), TransportError> {
        let config = &self.node.config;
        let credentials = Arc::new(Credentials::load(&config.name, &config.ca, &config.cert, &config.key)?);
        let server = server_config(&credentials, &self.node.quic, Verdict::default())?;
        tracing::info!(not_after = %credentials.info.not_after, "certificates reloaded");
        *self.node.credentials.write().unwrap_or_else(PoisonError::into_inner) = credentials;
        self.node.endpoint.set_server_config(Some(server));
        Ok(())
    }

    /// Makes the connections with one peer anew, so that certificates are proven again: `PeerDown`, then `PeerUp`. For
    /// after a reload, one peer at a time. False: no such peer.
    pub fn reconnect(&self, peer: &PeerName) -> bool {
        self.registry.reconnect(peer)
    }

    /// Says farewell to every peer and frees the port. No event comes afterwards.
    pub async fn shutdown(&self) {
        self.node.stopping.send_replace(true);
        self.registry.stopped().await;
        close_endpoint(&self.node);
        // A peer that is gone does not hear it; its idle timeout tells it.
        let _ = tokio::time::timeout(FAREWELL, self.node.endpoint.wait_idle()).await;
        let accept = self.running.accept.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(accept) = accept {
            let _ = accept.await;
        }
    }
}

fn check_peers(us: &PeerName, peers: &[PeerConfig]) -> Result<(), TransportError> {
    let refused = |peer: &PeerConfig, reason| Err(TransportError::Peer { peer: peer.name.clone(), reason });
    for (at, peer) in peers.iter().enumerate() {
        if peer.name == *us {
            return refused(peer, "is this node itself; leave it out of its own peers");
        }
        if peers[..at].iter().any(|earlier| earlier.name == peer.name) {
            return refused(peer, "is named twice");
        }
        if at >= PEERS_MAX {
            return refused(peer, "is one too many: a node has at most 256 peers");
        }
    }
    Ok(())
}

/// One socket for dialling and being dialled. Large buffers ride out a burst; the kernel may grant less.
fn bind(address: SocketAddr, buffer_bytes: usize) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    // With the capability beyond the system's limit, else up to it.
    if sockopt::set_socket_recv_buffer_size_force(&socket, buffer_bytes).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&socket, buffer_bytes);
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, buffer_bytes).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&socket, buffer_bytes);
    }
    Ok(socket)
}

/// A configured peer and its task.
struct Entry {
    peer: Arc<Peer>,
    offers: mpsc::Sender<Candidate>,
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

/// The peers by name.
#[derive(Default)]
pub(super) struct Registry {
    entries: RwLock<BTreeMap<PeerName, Entry>>,
    /// Tasks of removed peers that have not ended yet. One that is added again waits for its predecessor, so that its
    /// reports pair.
    leaving: Mutex<BTreeMap<PeerName, JoinHandle<()>>>,
}

impl Registry {
    pub fn peer(&self, name: &PeerName) -> Option<Arc<Peer>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(name).map(|entry| entry.peer.clone())
    }

    /// Hands a connection to the peer's task; fails where the task has too many already.
    pub fn offer(&self, name: &PeerName, candidate: Candidate) -> Result<(), ()> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(name).ok_or(())?.offers.try_send(candidate).map_err(|_| ())
    }

    fn status(&self) -> Vec<PeerStatus> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().map(|entry| entry.peer.status(entry.wanted.borrow().address().cloned())).collect()
    }

    fn set_peers(&self, node: &Arc<Node>, peers: Vec<PeerConfig>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|_, task| !task.is_finished());
        let mut wanted: BTreeMap<PeerName, Wanted> =
            peers.into_iter().map(|peer| (peer.name, Wanted::Peer { address: peer.address, round: 0 })).collect();
        let gone: Vec<PeerName> = entries.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for (name, entry) in gone.into_iter().filter_map(|name| entries.remove_entry(&name)) {
            entry.wanted.send_replace(Wanted::Removed);
            leaving.insert(name, entry.task);
        }
        for (name, entry) in entries.iter() {
            if let Some(wanted) = wanted.remove(name) {
                entry.wanted.send_if_modified(|current| {
                    let modified = current.address() != wanted.address();
                    if let (true, Wanted::Peer { address, .. }) = (modified, &mut *current) {
                        *address = wanted.address().cloned();
                    }
                    modified
                });
            }
        }
        for (name, wanted) in wanted {
            let entry = begin_peer(node, name.clone(), wanted, leaving.remove(&name));
            entries.insert(name, entry);
        }
    }

    fn reconnect(&self, name: &PeerName) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get(name) else { return false };
        entry.wanted.send_modify(|wanted| {
            if let Wanted::Peer { round, .. } = wanted {
                *round += 1;
            }
        });
        true
    }

    /// Waits for every task; they have been told.
    async fn stopped(&self) {
        let entries = std::mem::take(&mut *self.entries.write().unwrap_or_else(PoisonError::into_inner));
        let leaving = std::mem::take(&mut *self.leaving.lock().unwrap_or_else(PoisonError::into_inner));
        for task in entries.into_values().map(|entry| entry.task).chain(leaving.into_values()) {
            let _ = task.await;
        }
    }
}

fn begin_peer(node: &Arc<Node>, name: PeerName, wanted: Wanted, predecessor: Option<JoinHandle<()>>) -> Entry {
    let peer = Arc::new(Peer::new(name, &node.config));
    let (offers, candidates) = mpsc::channel(CANDIDATES_MAX);
    let (wanted, wanted_now) = watch::channel(wanted);
    let task = PeerTask::new(node.clone(), peer.clone(), candidates, offers.downgrade(), wanted_now);
    let task = tokio::spawn(async move {
        if let Some(predecessor) = predecessor {
            let _ = predecessor.await;
        }
        task.run().await;
    });
    Entry { peer, offers, wanted, task }
}
