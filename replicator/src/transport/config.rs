//! What a transport is told at start, and every limit it keeps.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, VarInt};

use super::congestion::Congestion;
use super::hello::Versions;
use super::name::PeerName;
use super::stream::STREAMS_MAX;

/// Messages waiting in one lane, however small: bounds what the queue itself costs.
pub const LANE_MESSAGES_MAX: usize = 65_536;
/// Connections whose peer has not proven itself yet; more are refused.
pub const UNAUTHENTICATED_MAX: usize = 64;
/// Of those, how many one IP address may hold: a stranger can't use up all the places.
pub const UNAUTHENTICATED_PER_ADDRESS_MAX: usize = 16;
/// From this many on, a newcomer has to prove first that it receives at its address (stateless retry).
pub const RETRY_FROM: usize = 16;
/// First packets held by quinn until the accept loop has seen them.
pub const INCOMING_MAX: usize = 256;
/// Bytes buffered for connections not yet accepted, all together.
pub const INCOMING_BYTES_MAX: u64 = 4 << 20;
/// Authenticated connections waiting for a peer's task.
pub const CANDIDATES_MAX: usize = 8;
/// Peers of one node.
pub const PEERS_MAX: usize = 256;
/// quinn closes a connection when a stream holds more than 1024 separate pieces: with loss, a larger window than this
/// gets there.
pub const STREAM_WINDOW_BYTES_MAX: u32 = 1 << 20;
pub const RECORD_STREAMS_MAX: u32 = 64;
/// The largest datagram that path MTU discovery tries for: a record of 4 KiB fits one, where frames are jumbo. quinn
/// hands the kernel ten at a time, and Linux refuses (EMSGSIZE) when they are more than 65507 bytes together. Paths that
/// carry less are found out by probes that were lost, without harm to the rest.
pub const UDP_PAYLOAD_BYTES_MAX: u16 = 6500;
/// A path that swallows what it carried before is given the least that any path must carry, and searched again after so
/// long: until then each packet holds a fifth less than an Ethernet frame would.
const BLACK_HOLE_COOLDOWN: Duration = Duration::from_secs(5);
/// Packets that may arrive before one is acknowledged by QUIC; the replicas' own acks don't wait for it.
const ACK_ELICITING_THRESHOLD: u32 = 8;
/// Later packets acknowledged before one counts as lost (RFC 9002 §6.1.1 has 3). A sender that moves between cores has
/// its bursts overtake each other; what is lost indeed is known an eighth of a round trip later, by time (§6.1.2).
const PACKET_THRESHOLD: u32 = 64;

const _: () = assert!(UDP_PAYLOAD_BYTES_MAX as u32 * 10 <= 65_507);
const _: () = assert!(UNAUTHENTICATED_PER_ADDRESS_MAX <= UNAUTHENTICATED_MAX);
const _: () = assert!(RETRY_FROM <= UNAUTHENTICATED_MAX && UNAUTHENTICATED_MAX <= INCOMING_MAX);

/// A node that this one replicates with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    pub name: PeerName,
    /// `host:port` to dial; `None` when only the peer can dial us.
    pub address: Option<String>,
}

#[derive(Debug, Clone)]
pub struct TransportConfig {
    /// Must be what the certificate says.
    pub name: PeerName,
    /// The one UDP port: dialled to and dialled from.
    pub listen: SocketAddr,
    /// Trust bundle, PEM.
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub peers: Vec<PeerConfig>,
    pub congestion: Congestion,
    /// Protocol versions that this build speaks; tests pretend to be older or newer.
    pub versions: Versions,
    pub limits: Limits,
}

impl TransportConfig {
    /// The usual limits, no peers yet.
    pub fn new(name: PeerName, listen: SocketAddr, ca: PathBuf, cert: PathBuf, key: PathBuf) -> TransportConfig {
        TransportConfig {
            name,
            listen,
            ca,
            cert,
            key,
            peers: Vec::new(),
            congestion: Congestion::default(),
            versions: Versions::SPOKEN,
            limits: Limits::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Silence after which a peer is down.
    pub idle_timeout_ms: u64,
    pub keep_alive_ms: u64,
    /// From the first packet until both sides have proven themselves and agreed.
    pub handshake_timeout_ms: u64,
    pub redial_min_ms: u64,
    pub redial_max_ms: u64,
    /// Streams that share the records of one peer, each way.
    pub record_streams: u32,
    pub stream_receive_window_bytes: u32,
    /// What a peer may have under way to us on one connection.
    pub receive_window_bytes: u32,
    /// What we may have under way, unacknowledged, on one connection: twice bandwidth × delay of a long fat link.
    pub send_window_bytes: u64,
    /// Asked of the kernel for the UDP socket; what was granted is in status.
    pub socket_buffer_bytes: usize,
    pub control_queue_bytes: usize,
    pub records_queue_bytes: usize,
    pub bulk_queue_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            idle_timeout_ms: 3000,
            keep_alive_ms: 500,
            handshake_timeout_ms: 5000,
            redial_min_ms: 100,
            redial_max_ms: 5000,
            record_streams: 8,
            stream_receive_window_bytes: 1 << 20,
            receive_window_bytes: 16 << 20,
            send_window_bytes: 8 << 20,
            socket_buffer_bytes: 8 << 20,
            control_queue_bytes: 4 << 20,
            records_queue_bytes: 32 << 20,
            bulk_queue_bytes: 16 << 20,
        }
    }
}

impl Limits {
    /// Says which limit can't be, and why. Called once at start.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.stream_receive_window_bytes == 0 || self.stream_receive_window_bytes > STREAM_WINDOW_BYTES_MAX {
            return Err("stream_receive_window_bytes must be 1 to 1048576: a larger window loses connections");
        }
        if self.record_streams == 0 || self.record_streams > RECORD_STREAMS_MAX {
            return Err("record_streams must be 1 to 64");
        }
        if self.keep_alive_ms == 0 || self.keep_alive_ms.saturating_mul(2) > self.idle_timeout_ms {
            return Err("keep_alive_ms must be at most half of idle_timeout_ms, or idle peers drop out");
        }
        if self.idle_timeout_ms > 3_600_000 || self.handshake_timeout_ms == 0 {
            return Err("idle_timeout_ms must be at most an hour and handshake_timeout_ms at least 1");
        }
        if self.redial_min_ms == 0 || self.redial_min_ms > self.redial_max_ms {
            return Err("redial_min_ms must be at least 1 and at most redial_max_ms");
        }
        Ok(())
    }

    /// quinn's settings for one connection. Public, so that the benchmark's echo has the same ones.
    pub fn quic(&self, congestion: &Congestion) -> Arc<quinn::TransportConfig> {
        let idle = IdleTimeout::try_from(Duration::from_millis(self.idle_timeout_ms))
            .expect("check() bounds the idle timeout below what QUIC can say");
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(UDP_PAYLOAD_BYTES_MAX).black_hole_cooldown(BLACK_HOLE_COOLDOWN);
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(ACK_ELICITING_THRESHOLD));
        let mut quic = quinn::TransportConfig::default();
        quic.max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(Duration::from_millis(self.keep_alive_ms)))
            // Control, and the pool; the handshake has a bidirectional stream of its own, beside those for one user.
            .max_concurrent_uni_streams(VarInt::from_u32(RECORD_STREAMS_MAX + 1))
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX + 1))
            .stream_receive_window(VarInt::from_u32(self.stream_receive_window_bytes))
            .receive_window(VarInt::from_u32(self.receive_window_bytes))
            .send_window(congestion.send_window_bytes(self.send_window_bytes))
            // A packet of each stream in turn. In write order, what is sent again would wait until the streams before it
            // have sent all that they hold: megabytes, where a line loses packets.
            .send_fairness(true)
            .datagram_receive_buffer_size(None)
            .mtu_discovery_config(Some(mtu))
            .ack_frequency_config(Some(acks))
            .packet_threshold(PACKET_THRESHOLD)
            .congestion_controller_factory(congestion.factory());
        Arc::new(quic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_limits_hold_and_dangerous_ones_are_refused() {
        assert_eq!(Limits::default().check(), Ok(()));
        for bad in [
            Limits { stream_receive_window_bytes: (1 << 20) + 1, ..Limits::default() },
            Limits { record_streams: 0, ..Limits::default() },
            Limits { keep_alive_ms: 3000, ..Limits::default() },
            Limits { idle_timeout_ms: u64::MAX, ..Limits::default() },
            Limits { redial_min_ms: 9000, ..Limits::default() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
