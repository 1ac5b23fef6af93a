//! The node: opens journal and store, brings its volumes back, and routes what peers say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::api::{Command, Event, Promotion};
use farshore_core::codec::DecodeError;
use farshore_core::durable::Durable;
use farshore_core::ids::{MemberId, Seq, VolumeId};
use farshore_core::message::Message;
use tokio::sync::mpsc;

use super::attachments::Attachments;
use super::calls::Calls;
use super::catalog::Catalog;
use super::clock;
use super::cut::Cuts;
use super::cut_short::Maker;
use super::diverged::DivergedCopies;
use super::driver::{VolumeHandle, lock};
use super::io_limits::{IoLimits, Meter};
use super::kept::KeptVolumes;
use super::loss_history::{self, LossHistory};
use super::outgoing::Outgoing;
use super::receive::Incoming;
use super::repair::Repairs;
use super::rpc::{self, Arrival, Call};
use super::schedules::Schedules;
use super::scrub::Scrubs;
use super::ship_counts::ShipCounts;
use super::ship_room::ShipRoom;
use super::{checkpointer, holders, kept, read_there, readmit, rebirth, receive, recovery, repair, schedules, scrub};
use crate::config::{Config, JournalEngine};
use crate::control::{OpError, OpKind};
use crate::disk::file::create_dirs;
use crate::disk::{DiskEngine, EngineChoice, start_engine};
use crate::journal::{Journal, JournalConfig};
use crate::store::{NodeIdentity, Store, StoreConfig};
use crate::transport::{
    Congestion, Lane, Limits, PeerConfig, PeerName, Transport, TransportConfig, TransportError, TransportEvent,
};

/// A peer that speaks for a volume which does not list it is told so this often at most.
const STRANGER_PAUSE: Duration = Duration::from_secs(1);
const STRANGERS_MAX: usize = 4096;
/// Events of the transport that wait to be routed; while they do, peers are held back.
const TRANSPORT_EVENTS_MAX: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the journal: {0}")]
    Journal(#[from] crate::journal::JournalError),
    #[error("the store: {0}")]
    Store(#[from] crate::store::StoreError),
    #[error("the transport: {0}")]
    Transport(#[from] TransportError),
    #[error("devices: {0}")]
    Device(#[from] crate::device::DeviceError),
    #[error("{what} {}: {source}", .path.display())]
    Io { what: &'static str, path: std::path::PathBuf, source: std::io::Error },
    #[error("volume {volume}: {error}; run the version that wrote it, or a later one")]
    Newer { volume: VolumeId, error: recovery::RecoveryError },
    #[error("the node's name: {0}")]
    Name(#[from] crate::transport::NameError),
}

/// What every part of the engine uses.
pub struct Shared {
    pub me: PeerName,
    pub journal: Journal,
    pub store: Store,
    pub transport: Transport,
    pub calls: Calls,
    /// What forks left behind here.
    pub diverged: DivergedCopies,
    /// Deleted volumes of which snapshots are kept here.
    pub kept: KeptVolumes,
    /// Images being received.
    pub incoming: Mutex<Vec<Incoming>>,
    /// Images that were being sent.
    pub outgoing: Outgoing,
    /// Of both.
    pub ship_counts: ShipCounts,
    /// What shipments from here may send.
    pub ship_meter: Meter,
    pub ship_room: Arc<ShipRoom>,
    pub repairs: Repairs,
}

pub struct Node {
    pub shared: Arc<Shared>,
    pub catalog: Catalog,
    pub config: Config,
    pub(super) attachments: Attachments,
    pub(super) started: Instant,
    /// Replicas that could not be brought back, with the reason, for status.
    pub(super) broken: Mutex<Vec<(VolumeId, String)>>,
    /// Peers that spoke for volumes which do not list them, and when they were last told so.
    strangers: Mutex<BTreeMap<(PeerName, VolumeId), Instant>>,
    /// Peers that don't talk with us about a volume, and why, for status.
    pub(super) refusals: Mutex<BTreeMap<(VolumeId, PeerName), String>>,
    connected: Mutex<BTreeSet<PeerName>>,
    /// The version of the protocol that each peer spoke when it was connected last.
    pub(super) spoken: Mutex<BTreeMap<PeerName, u16>>,
    /// One at a time may begin or end to hold a member of a volume.
    pub(super) holding: Mutex<BTreeMap<VolumeId, Arc<tokio::sync::Mutex<()>>>>,
    pub(super) scrubs: Scrubs,
    /// Neighbours that did not answer when they were last asked what they hold.
    pub(super) unheard: Mutex<BTreeSet<PeerName>>,
    /// One mark of a volume at a time.
    pub(super) marking: Mutex<BTreeMap<VolumeId, Arc<tokio::sync::Mutex<Seq>>>>,
    pub(super) cuts: Mutex<Cuts>,
    pub(super) makers: Mutex<BTreeMap<VolumeId, Maker>>,
    pub(super) schedules: Schedules,
    pub(super) loss_history: LossHistory,
    /// One clone at a time is made from here.
    pub(super) cloning: tokio::sync::Mutex<()>,
    /// For verbs, which run in tasks of their own.
    pub(super) myself: Weak<Node>,
}

impl Node {
    /// Opens everything and starts to serve peers. Volumes that were attached here are taken back in the background.
    pub async fn start(config: Config) -> Result<Arc<Node>, NodeError> {
        let choice = match config.journal.engine {
            JournalEngine::Auto => EngineChoice::Auto,
            JournalEngine::IoUring => EngineChoice::IoUring,
            JournalEngine::Threads => EngineChoice::Threads,
        };
        let started = start_engine(choice);
        let path = config.node.data_dir.clone();
        let engine = started.map_err(|source| NodeError::Io { what: "starting io_uring for", path, source })?;
        Node::start_on(config, engine).await
    }

    /// As [`Node::start`], with a journal on an engine of the caller's: tests bring disks that break their promises.
    pub async fn start_on(config: Config, engine: Arc<dyn DiskEngine>) -> Result<Arc<Node>, NodeError> {
        let me = PeerName::new(&config.node.site, &config.node.node)?;
        for dir in [&config.node.data_dir, &config.node.runtime_dir] {
            create_dirs(dir).map_err(|source| NodeError::Io { what: "creating", path: dir.clone(), source })?;
        }
        let (journal, mut found, store) = open_disks(&config, &me, engine).await?;
        // Before anything is said to anybody.
        rebirth::renew(&journal, &mut found).await?;
        let (sender, events) = mpsc::channel(TRANSPORT_EVENTS_MAX);
        let transport = Transport::start(transport_config(&config, &me)?, sender).await?;
        let dir = config.node.data_dir.join("diverged");
        let diverged = DivergedCopies::open(dir.clone(), &store).map_err(|source| NodeError::Io {
            what: "reading the diverged copies in",
            path: dir,
            source,
        })?;
        let dir = config.node.data_dir.join("kept");
        let noted =
            |source| NodeError::Io { what: "reading the notes of deleted volumes in", path: dir.clone(), source };
        let kept = KeptVolumes::open(dir.clone()).map_err(noted)?;
        kept.finish(&store, &journal, &mut found).await.map_err(noted)?;
        let (calls, incoming, repairs) = (Calls::default(), Mutex::default(), Repairs::default());
        let (outgoing, ship_counts) = (Outgoing::default(), ShipCounts::default());
        let bytes_per_second = config.transport.ship_bytes_per_second.map_or(0, |rate| rate.0);
        let ship_meter = Meter::new(IoLimits { iops: 0, bytes_per_second });
        let shared = Arc::new(Shared {
            me,
            journal,
            store,
            transport,
            calls,
            diverged,
            kept,
            incoming,
            outgoing,
            ship_counts,
            ship_meter,
            ship_room: Arc::default(),
            repairs,
        });
        let attachments = Attachments::start(&config, &shared).await?;
        let scrubs = Scrubs::load(&config.node.data_dir);
        let node = Arc::new_cyclic(|myself| Node {
            myself: myself.clone(),
            shared: shared.clone(),
            catalog: Catalog::default(),
            config,
            attachments,
            started: Instant::now(),
            broken: Mutex::default(),
            strangers: Mutex::default(),
            refusals: Mutex::default(),
            holding: Mutex::default(),
            connected: Mutex::default(),
            spoken: Mutex::default(),
            scrubs,
            unheard: Mutex::default(),
            marking: Mutex::default(),
            cuts: Mutex::default(),
            makers: Mutex::default(),
            schedules: Schedules::default(),
            loss_history: LossHistory::default(),
            cloning: tokio::sync::Mutex::default(),
        });
        let stored = shared.store.volumes();
        recovery::find_cut_shipments(&shared).await?;
        recovery::drop_clones_never_begun(&shared, found.iter().map(|recovered| recovered.volume).collect()).await?;
        for recovered in found {
            let applied = stored.iter().find(|v| v.volume == recovered.volume).map(|v| v.applied_seq);
            match recovery::plan(&recovered, applied) {
                Ok(plan) => node.catalog.insert(recovery::start(&shared, recovered.volume, plan).await?),
                Err(error @ recovery::RecoveryError::State(DecodeError::Newer { .. })) => {
                    return Err(NodeError::Newer { volume: recovered.volume, error });
                }
                Err(error) => {
                    // Its log is of no use any more, and must not keep the others' journal from going on.
                    shared.journal.set_checkpoint(recovered.volume, recovered.last);
                    tracing::error!(volume = %recovered.volume, %error, "this replica is not brought back");
                    lock(&node.broken).push((recovered.volume, error.to_string()));
                }
            }
        }
        tokio::spawn(node.clone().route(events));
        tokio::spawn(checkpointer::run(node.clone()));
        tokio::spawn(scrub::run(node.clone()));
        tokio::spawn(schedules::run(node.clone()));
        tokio::spawn(loss_history::run(node.clone()));
        tokio::spawn(kept::run(node.clone()));
        tokio::spawn(holders::run(node.clone()));
        tokio::spawn(node.clone().take_devices_back());
        Ok(node)
    }

    pub fn volume(&self, id: VolumeId) -> Option<Arc<VolumeHandle>> {
        self.catalog.get(id)
    }

    pub fn is_connected(&self, peer: &PeerName) -> bool {
        *peer == self.shared.me || lock(&self.connected).contains(peer)
    }

    /// A restarted daemon takes its devices back, if the newest register still names their sessions.
    async fn take_devices_back(self: Arc<Self>) {
        let mut named = BTreeMap::new();
        for handle in self.catalog.all() {
            let attached = handle.config.borrow().attached;
            let Some(attached) = attached.filter(|a| a.member == handle.me) else { continue };
            named.insert(handle.name(), attached.session);
            let node = self.clone();
            tokio::spawn(async move {
                let why = Promotion::Restart { session: attached.session };
                loop {
                    let writer = clock::random_u128();
                    match handle.command(Command::Promote { writer, why }).await {
                        Ok(()) => break,
                        Err(refusal) if refusal.rule == "promote-no-quorum" || refusal.rule == "promote-overtaken" => {
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                        Err(refusal) => {
                            tracing::info!(volume = %handle.name(), rule = refusal.rule, "device not taken back: {}", refusal.text);
                            return node.attachments.give_up(&handle, attached.session).await;
                        }
                    }
                }
                // Who has no copy asks another node, which may be on its way up as well.
                let unfinished = loop {
                    match node.refuse_unfinished(&handle).await {
                        Err(error) if error.kind == OpKind::Unavailable && node.is_held_still(&handle) => {
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                        other => break other,
                    }
                };
                if let Err(error) = unfinished {
                    tracing::warn!(volume = %handle.name(), %error, "device not taken back");
                    let _ = node.settled(&handle, Command::Detach { session: attached.session }).await;
                    return node.attachments.give_up(&handle, attached.session).await;
                }
                node.attachments.reopen(&node, &handle, attached.session).await;
            });
        }
        named.extend(self.take_forwarded_back());
        named.extend(self.take_readers_back());
        self.attachments.end_strays(&named).await;
    }

    async fn route(self: Arc<Self>, mut events: mpsc::Receiver<TransportEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                TransportEvent::PeerUp { peer, protocol_version } => {
                    tracing::info!(%peer, "peer is up");
                    lock(&self.spoken).insert(peer.clone(), protocol_version);
                    lock(&self.connected).insert(peer.clone());
                    self.link(&peer, true);
                }
                TransportEvent::PeerDown { peer, reason } => {
                    tracing::info!(%peer, reason, "peer is down");
                    lock(&self.connected).remove(&peer);
                    self.shared.calls.lost(&peer);
                    self.link(&peer, false);
                }
                TransportEvent::Message { peer, lane, message } => self.arrived(peer, lane, message),
                TransportEvent::Stream { peer, stream } => {
                    if let Some(stream) = stream.take() {
                        tokio::spawn(self.clone().serve_stream(peer, stream));
                    }
                }
                _ => {}
            }
        }
    }

    fn link(&self, peer: &PeerName, up: bool) {
        for handle in self.catalog.all() {
            let config = handle.config.borrow().clone();
            for member in config.members.iter().filter(|m| m.site == peer.site && m.node == peer.node) {
                handle.inbox.event(Event::Link { member: member.id, up });
            }
        }
    }

    fn arrived(self: &Arc<Self>, peer: PeerName, lane: Lane, bytes: Bytes) {
        match rpc::decode(bytes) {
            Ok(Arrival::Volume(message)) => self.volume_message(&peer, message),
            Ok(Arrival::Answer { nonce, result }) => self.shared.calls.answered(&peer, nonce, result),
            Ok(Arrival::Refused { volume, why }) => self.refused_by(peer, volume, why),
            Ok(Arrival::Call { nonce, call }) => {
                let node = self.clone();
                tokio::spawn(async move {
                    if let Call::Read { .. } = call {
                        return read_there::answer(&node, &peer, nonce, call).await;
                    }
                    let result = node.on_call(&peer, call).await;
                    let bytes = rpc::encode_answer(nonce, &result);
                    if let Err(error) = node.shared.transport.send(&peer, Lane::Control, vec![bytes]) {
                        tracing::debug!(%peer, %error, "an answer could not be sent");
                    }
                });
            }
            Err(error) => tracing::warn!(%peer, ?lane, %error, "a peer's message does not decode; it is dropped"),
        }
    }

    /// A peer may speak only for volumes that list it, and only as the member that it is.
    fn volume_message(&self, peer: &PeerName, message: Message) {
        let Some(handle) = self.catalog.get(message.volume) else {
            self.stranger(peer, message.volume, "this node holds no member of the volume");
            return;
        };
        let listed = is_member(&handle, peer, Some(message.from));
        if listed {
            let mut refusals = lock(&self.refusals);
            if !refusals.is_empty() {
                refusals.remove(&(message.volume, peer.clone()));
            }
            drop(refusals);
            handle.inbox.event(Event::Message(message));
        } else {
            self.stranger(peer, message.volume, "the volume's configuration does not list it as that member");
        }
    }

    fn stranger(&self, peer: &PeerName, volume: VolumeId, why: &str) {
        let mut strangers = lock(&self.strangers);
        let key = (peer.clone(), volume);
        let told = strangers.get(&key).copied();
        if told.is_some_and(|at| at.elapsed() < STRANGER_PAUSE) || (told.is_none() && strangers.len() >= STRANGERS_MAX)
        {
            return;
        }
        if told.is_none() {
            tracing::warn!(%peer, %volume, why, "refused to talk about a volume");
        }
        strangers.insert(key, Instant::now());
        drop(strangers);
        let refusal = rpc::encode_refused(volume, why);
        if let Err(error) = self.shared.transport.send(peer, Lane::Control, vec![refusal]) {
            tracing::debug!(%peer, %error, "a refusal could not be sent");
        }
    }

    fn refused_by(&self, peer: PeerName, volume: VolumeId, why: String) {
        let Some(handle) = self.catalog.get(volume) else { return };
        if !is_member(&handle, &peer, None) {
            return;
        }
        if lock(&self.refusals).insert((volume, peer.clone()), why.clone()).is_none() {
            tracing::warn!(%peer, volume = %handle.name(), why, "a member does not talk with us about a volume");
        }
    }

    pub(super) async fn on_call(self: &Arc<Self>, peer: &PeerName, call: Call) -> Result<Bytes, OpError> {
        match call {
            Call::Join { volume, durable } => {
                let durable = described(peer, volume, durable)?;
                self.note_maker(peer, volume);
                self.install(volume, durable).await?;
                Ok(Bytes::new())
            }
            Call::JoinClone { volume, durable, parent, snapshot } => {
                let durable = described(peer, volume, durable)?;
                // Nobody gets at a volume by cloning it that may not speak for it.
                let kept = self.shared.kept.get(parent);
                let was_member = kept.is_some_and(|kept| kept.had_member(peer));
                if peer.site != self.shared.me.site && !was_member && self.held_for(peer, parent).is_err() {
                    return Err(no_member(peer, parent));
                }
                self.note_maker(peer, volume);
                self.install_clone(peer, volume, durable, parent, snapshot).await?;
                Ok(Bytes::new())
            }
            Call::Forget { volume } => {
                if let Some(handle) = self.catalog.get(volume) {
                    if !is_member(&handle, peer, None) {
                        return Err(no_member(peer, volume));
                    }
                    self.refuse_in_use(&handle).await?;
                    self.forget(&handle).await?;
                }
                Ok(Bytes::new())
            }
            Call::SetAside { volume, winner } => {
                if let Some(handle) = self.catalog.get(volume) {
                    if !is_member(&handle, peer, None) {
                        return Err(no_member(peer, volume));
                    }
                    self.set_aside(&handle, winner).await?;
                }
                Ok(Bytes::new())
            }
            Call::Forward { method, request } => super::forwarded::serve(self, peer, &method, request).await,
            Call::ShipBegin { volume, .. }
            | Call::ShipBasis { volume }
            | Call::ShipBasisChanges { volume, .. }
            | Call::ShipPage { volume, .. }
            | Call::ShipOffer { volume, .. }
            | Call::ShipPacked { volume, .. }
            | Call::ShipProof { volume, .. }
            | Call::ShipSnapshots { volume, .. }
            | Call::ShipEnd { volume, .. } => {
                receive::receive(self.shared.clone(), self.held_for(peer, volume)?, call).await
            }
            Call::Blocks { volume, lineage, wanted } => {
                repair::serve(&self.shared, &*self.held_for(peer, volume)?, peer, lineage, wanted).await
            }
            Call::Holding { volume } => readmit::describe(&*self.held_for(peer, volume)?).await,
            Call::Read { volume, lineage, applied, offset, length } => {
                let handle = self.held_for(peer, volume)?;
                read_there::serve_read(self, &handle, (lineage, applied), offset, length).await
            }
            Call::Catalogue { volume, lineage, applied, skip } => {
                let handle = self.held_for(peer, volume)?;
                read_there::serve_catalogue(&self.shared, &handle, (lineage, applied), skip).await
            }
        }
    }

    /// The replica here, for a peer that is a member of its volume.
    fn held_for(&self, peer: &PeerName, volume: VolumeId) -> Result<Arc<VolumeHandle>, OpError> {
        self.catalog.get(volume).filter(|h| is_member(h, peer, None)).ok_or_else(|| {
            OpError::not_found(format!("volume {volume} is not held here for {peer}"), "see `farshore volume show`")
        })
    }
}

pub(super) fn is_member(handle: &VolumeHandle, peer: &PeerName, id: Option<MemberId>) -> bool {
    let config = handle.config.borrow();
    config.members.iter().any(|m| m.site == peer.site && m.node == peer.node && id.is_none_or(|id| m.id == id))
}

/// A new replica's first state, from a peer that is a member of the same volume.
fn described(peer: &PeerName, volume: VolumeId, durable: Bytes) -> Result<Durable, OpError> {
    let durable = Durable::decode(durable).map_err(|e| {
        OpError::invalid(
            format!("a peer's description of {volume} does not decode"),
            "run the same version on all nodes",
        )
        .because(e)
    })?;
    let listed = durable.config.members.iter().any(|m| m.site == peer.site && m.node == peer.node);
    if listed { Ok(durable) } else { Err(no_member(peer, volume)) }
}

fn no_member(peer: &PeerName, volume: VolumeId) -> OpError {
    OpError::invalid(format!("{peer} is no member of volume {volume}"), "ask a member")
}

async fn open_disks(
    config: &Config,
    me: &PeerName,
    engine: Arc<dyn DiskEngine>,
) -> Result<(Journal, Vec<crate::journal::RecoveredVolume>, Store), NodeError> {
    let journal_config = JournalConfig {
        segment_bytes: config.journal.segment_bytes.0,
        budget_bytes: config.journal.budget_bytes.0,
        // The last one is often another file system, and survives all but a restart of the machine.
        burnt_dirs: vec![config.node.data_dir.join("store"), config.node.runtime_dir.clone()],
        ..JournalConfig::at(config.node.data_dir.join("journal"))
    };
    let store_config = StoreConfig::new(
        config.node.data_dir.join("store"),
        NodeIdentity { name: me.to_string(), uuid: node_uuid(me) },
    );
    let store_config = StoreConfig {
        capacity_bytes: config.store.capacity_bytes.map(|b| b.0),
        slab: config.store.slab.clone(),
        ..store_config
    };
    let opened = tokio::task::spawn_blocking(move || {
        let (journal, found) = Journal::open_on(journal_config, engine)?;
        let store = Store::open(store_config)?;
        Ok::<_, NodeError>((journal, found, store))
    });
    opened.await.expect("opening does not panic")
}

fn transport_config(config: &Config, me: &PeerName) -> Result<TransportConfig, NodeError> {
    let section = &config.transport;
    let mut transport =
        TransportConfig::new(me.clone(), section.listen, section.ca.clone(), section.cert.clone(), section.key.clone());
    for peer in &config.peers {
        let name = PeerName::new(&peer.site, &peer.node)?;
        transport.peers.push(PeerConfig { name, address: peer.address.clone() });
    }
    transport.congestion = match section.congestion {
        crate::config::Congestion::Delay => Congestion::Delay,
        crate::config::Congestion::Cubic => Congestion::Cubic,
        crate::config::Congestion::Bbr => Congestion::Bbr,
        crate::config::Congestion::Fixed => Congestion::Fixed { bytes: section.window_bytes.0 },
    };
    let idle_timeout_ms = section.idle_timeout_ms;
    transport.limits = Limits { idle_timeout_ms, keep_alive_ms: (idle_timeout_ms / 6).max(50), ..Limits::default() };
    #[cfg(test)]
    if me.node == super::shipment_tests::OLDER_NODE {
        transport.versions.max = 1;
    }
    Ok(transport)
}

/// A node is its name: the same one comes back to its own directory after a reinstallation.
fn node_uuid(me: &PeerName) -> u128 {
    let digest = blake3::hash(me.to_string().as_bytes());
    let mut low = [0; 16];
    low.copy_from_slice(&digest.as_bytes()[..16]);
    u128::from_le_bytes(low)
}

impl Node {
    /// An orderly end: devices closed, volumes stopped, disks synced. The next start takes the devices back.
    pub async fn stop(&self) {
        self.attachments.suspend().await;
        self.suspend_readers().await;
        for handle in self.catalog.all() {
            handle.stop().await;
        }
        self.shared.transport.shutdown().await;
        let shared = self.shared.clone();
        let stopped = tokio::task::spawn_blocking(move || {
            let result = shared.store.checkpoint();
            shared.journal.close();
            result
        });
        if let Ok(Err(error)) = stopped.await {
            tracing::warn!(%error, "the last checkpoint failed; the journal has what it lacks");
        }
    }
}
