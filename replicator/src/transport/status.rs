//! What an operator sees of each peer.

use std::net::SocketAddr;
use std::time::SystemTime;

use time::OffsetDateTime;

use super::name::PeerName;
use super::refusal::RefusalCode;

/// Which side dialled the connection in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialled {
    Ours,
    Theirs,
}

#[derive(Debug, Clone)]
pub struct PeerStatus {
    pub name: PeerName,
    pub connected: bool,
    pub bulk_connected: bool,
    /// Where packets of the main connection come from.
    pub address: Option<SocketAddr>,
    /// What we dial, if anything.
    pub configured_address: Option<String>,
    pub dialled: Option<Dialled>,
    pub protocol_version: Option<u16>,
    /// Smoothed round-trip time of the main connection, and the least one seen.
    pub rtt_us: Option<u64>,
    pub rtt_min_us: Option<u64>,
    /// Bytes that congestion control lets the main connection have under way.
    pub window_bytes: Option<u64>,
    /// Largest UDP payload that its path was found to carry.
    pub mtu_bytes: Option<u16>,
    /// UDP payload of all connections with this peer since the start.
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub sent_packets: u64,
    pub lost_packets: u64,
    /// Bytes waiting in the lanes: control, records, bulk.
    pub queued_bytes: [usize; 3],
    /// How often the peer has come up since the start.
    pub sessions: u64,
    /// What went wrong last, with what to do about it; stays after a recovery.
    pub last_error: Option<(RefusalCode, String)>,
    /// Since when it has been connected, or not.
    pub since: SystemTime,
    /// When the certificate that the peer presented expires.
    pub certificate_not_after: Option<OffsetDateTime>,
}

/// This node's own side.
#[derive(Debug, Clone)]
pub struct EndpointStatus {
    pub listen: SocketAddr,
    pub certificate_not_after: OffsetDateTime,
    pub certificate_fingerprint: String,
    /// What the kernel granted, in bytes, of the socket buffers that were asked for.
    pub receive_buffer_bytes: usize,
    pub send_buffer_bytes: usize,
}
