//! What is told of other nodes: how their connections are, and what they say of themselves when they are asked.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farshore_proto::v1 as api;
use prost::Message;

use super::node::Node;
use crate::control::OpError;
use crate::transport::{PeerName, PeerStatus};

/// Asked while somebody looks: one that does not answer at once is told of without its own words.
const PATIENCE: Duration = Duration::from_millis(700);

/// A node of itself, for another one.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OwnWords {
    #[prost(string, tag = "1")]
    pub version: String,
    /// Of its wall clock, since 1970.
    #[prost(int64, tag = "2")]
    pub now_unix_ms: i64,
    #[prost(uint64, tag = "3")]
    pub disk_free_bytes: u64,
}

impl OwnWords {
    pub fn now(disk_free_bytes: u64) -> OwnWords {
        OwnWords { version: env!("CARGO_PKG_VERSION").into(), now_unix_ms: unix_ms(SystemTime::now()), disk_free_bytes }
    }
}

fn unix_ms(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

impl Node {
    /// As the transport knows them.
    pub(super) fn peer_views(&self) -> Vec<api::Peer> {
        let now = SystemTime::now();
        self.shared.transport.status().into_iter().map(|status| of_connection(status, now)).collect()
    }

    /// With what those that are connected say of themselves.
    pub(super) async fn peers_in_full(self: &Arc<Self>) -> Vec<api::Peer> {
        let asked = self.peer_views().into_iter().map(|mut view| async move {
            if view.connected
                && let Ok(peer) = PeerName::new(&view.site, &view.node)
                && let Ok((words, skew_ms)) = self.ask_of_itself(&peer).await
            {
                (view.version, view.clock_skew_ms) = (words.version, skew_ms);
                view.disk_free_bytes = Some(words.disk_free_bytes);
            }
            view
        });
        futures_util::future::join_all(asked).await
    }

    /// Its words, and its clock minus ours: it read it half of the round trip ago, as far as anybody can tell.
    async fn ask_of_itself(&self, peer: &PeerName) -> Result<(OwnWords, i64), OpError> {
        let before = unix_ms(SystemTime::now());
        let words: OwnWords = self.forward_within(PATIENCE, peer, "own-words", &OwnWords::default()).await?;
        let skew_ms = words.now_unix_ms - (before + unix_ms(SystemTime::now())) / 2;
        Ok((words, skew_ms))
    }
}

fn of_connection(status: PeerStatus, now: SystemTime) -> api::Peer {
    let silent = if status.connected { Duration::ZERO } else { now.duration_since(status.since).unwrap_or_default() };
    api::Peer {
        site: status.name.site,
        node: status.name.node,
        address: status.address.map(|a| a.to_string()).unwrap_or_default(),
        connected: status.connected,
        reason: status.last_error.map(|(_, text)| text).unwrap_or_default(),
        rtt_us: status.rtt_us.unwrap_or(0),
        silent_ms: silent.as_millis() as u64,
        sent_bytes: status.sent_bytes,
        received_bytes: status.received_bytes,
        lost_packets: status.lost_packets,
        sent_packets: status.sent_packets,
        mtu_bytes: status.mtu_bytes.unwrap_or(0).into(),
        window_bytes: status.window_bytes.unwrap_or(0),
        protocol: status.protocol_version.unwrap_or(0).into(),
        certificate_expires_unix_s: status.certificate_not_after.map_or(0, |at| at.unix_timestamp()),
        ..api::Peer::default()
    }
}
