//! What one direction of a link does to datagrams.

use std::time::Duration;

/// What IP and UDP add to each datagram on the wire.
pub(crate) const HEADER_BYTES: u64 = 28;

/// One direction. The default is a wire: nothing but the relay's own cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    pub delay: Duration,
    /// Up to this much more, at random. Datagrams keep their order.
    pub jitter: Duration,
    /// The part that is lost at random, 0 to 1; behind the bottleneck, so that the lost use bandwidth too.
    pub loss: f64,
    /// The part that is held back by [`Conditions::reorder_by`], so that later ones overtake.
    pub reorder: f64,
    pub reorder_by: Duration,
    /// Bits per second, headers of IP and UDP included.
    pub bandwidth: Option<u64>,
    /// What waits for the bottleneck; what comes on top is dropped.
    pub queue_bytes: u64,
    /// The largest packet that passes, headers of IP and UDP included; larger ones vanish without a word, as where routers
    /// may not fragment and firewalls eat what they say about it.
    pub mtu_bytes: Option<u64>,
    /// Nothing passes.
    pub cut: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Conditions {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(1),
            bandwidth: None,
            queue_bytes: 1 << 20,
            mtu_bytes: None,
            cut: false,
        }
    }
}

/// What a path between sites carries where nobody has arranged for more: an Ethernet frame's contents.
const INTERNET_MTU_BYTES: u64 = 1500;

impl Conditions {
    /// Half of a round trip, nothing else.
    pub fn of_rtt(rtt: Duration) -> Conditions {
        Conditions { delay: rtt / 2, ..Conditions::default() }
    }

    /// With a bottleneck whose queue holds one bandwidth-delay product of this round trip, as routers are sized.
    pub fn behind_bottleneck(self, bits_per_second: u64, rtt: Duration) -> Conditions {
        let queue_bytes = (bits_per_second as f64 / 8.0 * rtt.as_secs_f64()) as u64;
        Conditions { bandwidth: Some(bits_per_second), queue_bytes: queue_bytes.max(64 << 10), ..self }
    }

    /// Sites that are apart: half of a round trip, and packets no larger than the internet's. Without a distance, a wire.
    pub fn between_sites(rtt: Duration) -> Conditions {
        let mtu_bytes = (!rtt.is_zero()).then_some(INTERNET_MTU_BYTES);
        Conditions { mtu_bytes, ..Conditions::of_rtt(rtt) }
    }

    pub(crate) fn carries(&self, datagram_bytes: usize) -> bool {
        self.mtu_bytes.is_none_or(|mtu| datagram_bytes as u64 + HEADER_BYTES <= mtu)
    }

    /// No datagram is treated otherwise than its neighbour: trains may stay together.
    pub(crate) fn is_even(&self) -> bool {
        self.loss <= 0.0 && self.reorder <= 0.0 && self.bandwidth.is_none() && self.jitter.is_zero()
    }
}
