//! Whole transports on loopback. Waits are for conditions, with one generous limit: the machine may be busy.

mod mesh;
mod refusals;
mod relay;
mod strangers;
mod streams;
mod trouble;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::cert::{Overwrite, create_ca, issue};
use super::*;

/// Nothing in these tests takes longer, however busy the machine.
const LIMIT: Duration = Duration::from_secs(60);

/// One CA and the nodes it issued for.
struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        let ground = Ground { dir: tempfile::tempdir().unwrap() };
        create_ca("test.farshore", &ground.ca(), 100, Overwrite::Refuse).unwrap();
        ground
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    fn node_dir(&self, name: &PeerName) -> PathBuf {
        self.dir.path().join(format!("{}-{}", name.site, name.node))
    }

    /// A node's configuration on a free port of loopback, with a fresh certificate where it has none.
    fn config(&self, name: &PeerName) -> TransportConfig {
        let dir = self.node_dir(name);
        if !dir.exists() {
            issue(&self.ca(), name, &dir, 30, Overwrite::Refuse).unwrap();
        }
        config_in(&dir, name)
    }
}

fn config_in(dir: &Path, name: &PeerName) -> TransportConfig {
    let file = |file: &str| dir.join(file);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = TransportConfig::new(name.clone(), listen, file("ca.pem"), file("node.pem"), file("node.key"));
    config.limits.redial_max_ms = 500;
    // A busy machine may starve a test for seconds; silence has a test of its own.
    config.limits.idle_timeout_ms = 30_000;
    config
}

fn name(text: &str) -> PeerName {
    text.parse().unwrap()
}

fn at(name: &PeerName, address: SocketAddr) -> PeerConfig {
    PeerConfig { name: name.clone(), address: Some(address.to_string()) }
}

fn waits_for(name: &PeerName) -> PeerConfig {
    PeerConfig { name: name.clone(), address: None }
}

/// A transport and what it tells, with the order of its reports checked as they come.
struct Station {
    transport: Transport,
    events: mpsc::Receiver<TransportEvent>,
    nesting: Nesting,
}

/// For each peer: is it up, and is its bulk lane.
#[derive(Default)]
struct Nesting(std::collections::BTreeMap<PeerName, (bool, bool)>);

impl Nesting {
    fn check(&mut self, event: &TransportEvent) {
        let peer = peer_of(event);
        let (up, bulk) = self.0.entry(peer.clone()).or_default();
        match event {
            TransportEvent::PeerUp { .. } => {
                assert!(!*up, "{peer} reported up twice");
                *up = true;
            }
            TransportEvent::PeerDown { .. } => {
                assert!(*up && !*bulk, "{peer} reported down while not up, or before its bulk lane");
                *up = false;
            }
            TransportEvent::BulkUp { .. } => {
                assert!(*up && !*bulk, "bulk of {peer} reported up twice, or before the peer");
                *bulk = true;
            }
            TransportEvent::BulkDown { .. } => {
                assert!(*up && *bulk, "bulk of {peer} reported down while not up");
                *bulk = false;
            }
            TransportEvent::Stream { .. } => assert!(*up, "a stream of {peer}, which is not up"),
            TransportEvent::Message { lane, .. } => {
                assert!(*up, "a message of {peer}, which is not up");
                assert!(*bulk || *lane != Lane::Bulk, "a bulk message of {peer}, whose bulk lane is not up");
            }
        }
    }
}

fn peer_of(event: &TransportEvent) -> &PeerName {
    match event {
        TransportEvent::PeerUp { peer, .. }
        | TransportEvent::PeerDown { peer, .. }
        | TransportEvent::BulkUp { peer }
        | TransportEvent::BulkDown { peer, .. }
        | TransportEvent::Message { peer, .. }
        | TransportEvent::Stream { peer, .. } => peer,
    }
}

impl Station {
    async fn start(config: TransportConfig) -> Station {
        Station::start_with_room(config, 1024).await
    }

    async fn start_with_room(config: TransportConfig, room: usize) -> Station {
        let (sender, events) = mpsc::channel(room);
        let transport = Transport::start(config, sender).await.unwrap();
        Station { transport, events, nesting: Nesting::default() }
    }

    fn address(&self) -> SocketAddr {
        self.transport.listen_address()
    }

    async fn next(&mut self) -> TransportEvent {
        let event = timeout(LIMIT, self.events.recv()).await.expect("an event in time").expect("the transport runs");
        self.nesting.check(&event);
        event
    }

    /// The next event that `wanted` takes; the others are passed over.
    async fn until<T>(&mut self, wanted: impl Fn(&TransportEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(&self.next().await) {
                return found;
            }
        }
    }

    async fn until_up(&mut self, peer: &PeerName) -> u16 {
        self.until(|event| match event {
            TransportEvent::PeerUp { peer: up, protocol_version } if up == peer => Some(*protocol_version),
            _ => None,
        })
        .await
    }

    async fn until_bulk_up(&mut self, peer: &PeerName) {
        self.until(|event| matches!(event, TransportEvent::BulkUp { peer: up } if up == peer).then_some(())).await
    }

    async fn until_down(&mut self, peer: &PeerName) -> String {
        self.until(|event| match event {
            TransportEvent::PeerDown { peer: down, reason } if down == peer => Some(reason.clone()),
            _ => None,
        })
        .await
    }

    async fn message(&mut self) -> (PeerName, Lane, Bytes) {
        self.until(|event| match event {
            TransportEvent::Message { peer, lane, message } => Some((peer.clone(), *lane, message.clone())),
            _ => None,
        })
        .await
    }

    fn status_of(&self, peer: &PeerName) -> PeerStatus {
        self.transport.status().into_iter().find(|status| status.name == *peer).expect("a configured peer")
    }

    fn send(&self, peer: &PeerName, lane: Lane, text: impl AsRef<[u8]>) {
        self.transport.send(peer, lane, vec![Bytes::copy_from_slice(text.as_ref())]).unwrap();
    }

    /// Waits until status shows this error for the peer; returns its text.
    async fn until_error(&self, peer: &PeerName, code: RefusalCode) -> String {
        let mut last = None;
        let wait = async {
            loop {
                last = self.status_of(peer).last_error;
                if let Some((found, text)) = &last
                    && *found == code
                {
                    return text.clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = timeout(Duration::from_secs(20), wait).await;
        found.unwrap_or_else(|_| panic!("no {code:?} for {peer}, but {last:?}; {:?}", self.transport.refusals()))
    }
}

/// Polls until the condition holds.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Two nodes of one ground, of which only `b` dials, both up with bulk.
async fn connected_pair(ground: &Ground) -> (Station, Station) {
    let (a, b) = (name("east/a"), name("west/b"));
    let mut config = ground.config(&a);
    config.peers = vec![waits_for(&b)];
    let mut left = Station::start(config).await;
    let mut config = ground.config(&b);
    config.peers = vec![at(&a, left.address())];
    let mut right = Station::start(config).await;
    left.until_bulk_up(&b).await;
    right.until_bulk_up(&a).await;
    (left, right)
}
