//! What the tasks of one transport share: credentials, the UDP socket's endpoint, the event channel, one peer's lanes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quinn::{Connection, VarInt};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

use super::config::TransportConfig;
use super::frame::Lane;
use super::name::PeerName;
use super::queue::LaneQueue;
use super::refusal::{Refusal, RefusalLog};
use super::status::{Dialled, PeerStatus};
use super::stream::Opened;
use super::tls::Credentials;

/// What the transport tells its owner. For one peer, in this order and well nested: `PeerUp`, then messages and
/// `BulkUp`/`BulkDown` pairs, then `PeerDown`. Messages of one stream keep their order; bulk messages come between
/// `BulkUp` and `BulkDown` only.
#[derive(Debug, Clone)]
pub enum TransportEvent {
    PeerUp {
        peer: PeerName,
        protocol_version: u16,
    },
    /// Whatever was sent and not answered may be lost.
    PeerDown {
        peer: PeerName,
        reason: String,
    },
    /// The bulk lane has its connection.
    BulkUp {
        peer: PeerName,
    },
    /// What was sent on the bulk lane and not answered may be lost; control and records go on.
    BulkDown {
        peer: PeerName,
        reason: String,
    },
    Message {
        peer: PeerName,
        lane: Lane,
        message: Bytes,
    },
    /// The peer opened a stream for one user of it. It ends with the connection, whatever is reported when.
    Stream {
        peer: PeerName,
        stream: Opened,
    },
}

/// One connection in use.
#[derive(Clone)]
pub(super) struct Link {
    pub connection: Connection,
    pub dialled: Dialled,
    pub version: u16,
    pub certificate_not_after: OffsetDateTime,
}

/// Counters of connections that are gone.
#[derive(Default)]
struct Totals {
    sent_bytes: u64,
    received_bytes: u64,
    sent_packets: u64,
    lost_packets: u64,
}

impl Totals {
    fn add(&mut self, connection: &Connection) {
        let stats = connection.stats();
        self.sent_bytes += stats.udp_tx.bytes;
        self.received_bytes += stats.udp_rx.bytes;
        self.sent_packets += stats.path.sent_packets;
        self.lost_packets += stats.path.lost_packets;
    }
}

struct Live {
    main: Option<Link>,
    bulk: Option<Link>,
    past: Totals,
    sessions: u64,
    last_error: Option<Refusal>,
    since: SystemTime,
}

/// One peer, as its task, the accept loop and the API see it.
pub(super) struct Peer {
    pub name: PeerName,
    pub control: LaneQueue,
    pub records: LaneQueue,
    pub bulk: LaneQueue,
    records_passed: AtomicU64,
    live: Mutex<Live>,
}

impl Peer {
    pub fn new(name: PeerName, config: &TransportConfig) -> Peer {
        let limits = &config.limits;
        let live = Live {
            main: None,
            bulk: None,
            past: Totals::default(),
            sessions: 0,
            last_error: None,
            since: SystemTime::now(),
        };
        Peer {
            name,
            control: LaneQueue::new(limits.control_queue_bytes),
            records: LaneQueue::new(limits.records_queue_bytes),
            bulk: LaneQueue::new(limits.bulk_queue_bytes),
            records_passed: AtomicU64::new(0),
            live: Mutex::new(live),
        }
    }

    pub fn lane(&self, lane: Lane) -> &LaneQueue {
        match lane {
            Lane::Control => &self.control,
            Lane::Records => &self.records,
            Lane::Bulk => &self.bulk,
        }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_connected(&self) -> bool {
        self.live().main.is_some()
    }

    pub fn main_up(&self, link: Link) {
        let mut live = self.live();
        live.main = Some(link);
        live.sessions += 1;
        live.since = SystemTime::now();
    }

    pub fn main_down(&self) {
        let mut live = self.live();
        if let Some(link) = live.main.take() {
            live.past.add(&link.connection);
        }
        live.since = SystemTime::now();
    }

    pub fn bulk_up(&self, link: Link) {
        self.live().bulk = Some(link);
    }

    pub fn bulk_down(&self) {
        let mut live = self.live();
        if let Some(link) = live.bulk.take() {
            live.past.add(&link.connection);
        }
    }

    pub fn main_connection(&self) -> Option<Connection> {
        Some(self.live().main.as_ref()?.connection.clone())
    }

    pub fn main_rtt(&self) -> Option<Duration> {
        Some(self.live().main.as_ref()?.connection.rtt())
    }

    /// Messages of the foreground that went by, there or back.
    pub fn pass_records(&self, messages: usize) {
        self.records_passed.fetch_add(messages as u64, Ordering::Relaxed);
    }

    pub fn records_passed(&self) -> u64 {
        self.records_passed.load(Ordering::Relaxed)
    }

    pub fn set_last_error(&self, refusal: &Refusal) {
        self.live().last_error = Some(refusal.clone());
    }

    pub fn status(&self, configured_address: Option<String>) -> PeerStatus {
        let live = self.live();
        let mut totals = Totals { ..live.past };
        for link in [&live.main, &live.bulk].into_iter().flatten() {
            totals.add(&link.connection);
        }
        let main = live.main.as_ref();
        let path = main.map(|link| link.connection.stats().path);
        PeerStatus {
            name: self.name.clone(),
            connected: main.is_some(),
            bulk_connected: live.bulk.is_some(),
            address: main.map(|link| link.connection.remote_address()),
            configured_address,
            dialled: main.map(|link| link.dialled),
            protocol_version: main.map(|link| link.version),
            rtt_us: path.map(|path| micros(path.rtt)),
            rtt_min_us: path.map(|path| micros(path.min_rtt)),
            window_bytes: path.map(|path| path.cwnd),
            mtu_bytes: path.map(|path| path.current_mtu),
            sent_bytes: totals.sent_bytes,
            received_bytes: totals.received_bytes,
            sent_packets: totals.sent_packets,
            lost_packets: totals.lost_packets,
            queued_bytes: Lane::ALL.map(|lane| self.lane(lane).held_bytes()),
            sessions: live.sessions,
            last_error: live.last_error.as_ref().map(|refusal| (refusal.code, refusal.text.clone())),
            since: live.since,
            certificate_not_after: main.map(|link| link.certificate_not_after),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// One running transport.
pub(super) struct Node {
    pub config: TransportConfig,
    /// New for every start: a peer that sees another one knows that we restarted.
    pub boot: u128,
    pub endpoint: quinn::Endpoint,
    pub quic: Arc<quinn::TransportConfig>,
    pub credentials: RwLock<Arc<Credentials>>,
    pub events: mpsc::Sender<TransportEvent>,
    pub refusals: Mutex<RefusalLog>,
    pub stopping: watch::Sender<bool>,
}

impl Node {
    pub fn name(&self) -> &PeerName {
        &self.config.name
    }

    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.config.limits.handshake_timeout_ms)
    }

    /// Notes why a connection with a proven or configured peer was refused.
    pub fn refused(&self, peer: &Peer, refusal: &Refusal) {
        if !refusal.code.is_routine() {
            peer.set_last_error(refusal);
        }
        self.refused_as(&peer.name.to_string(), refusal);
    }

    pub fn refused_as(&self, who: &str, refusal: &Refusal) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).note(who, refusal);
    }

    pub fn accepted(&self, peer: &Peer) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clear(&peer.name.to_string());
    }

    /// Hands an event to the owner, waiting while it has no room; gives up when the transport stops.
    pub async fn emit(&self, event: TransportEvent) {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            _ = self.events.send(event) => {}
            _ = stopping.wait_for(|&stopping| stopping) => {}
        }
    }
}

/// Closes with a code and a text that the other side shows its operator.
pub(super) fn close(connection: &Connection, refusal: &Refusal) {
    connection.close(VarInt::from_u32(refusal.code.code()), &refusal.on_wire());
}

/// 128 bits from the kernel.
pub(super) fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel's random source works once the system is up");
    u128::from_le_bytes(bytes)
}
